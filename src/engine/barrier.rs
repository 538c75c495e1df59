//! Waiting until Postgres has what Redis was told first, for those who are going to ask Postgres.
//!
//! What was journaled before the wait began is in Postgres after it. What comes meanwhile was written at the
//! same time as whoever waits reads, so he may see it or not.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, sleep};

use super::health::Health;
use super::refusal::{GATE_PATIENCE, upstream_not_read};
use super::transaction::Copies;
use super::trust::Trust;
use crate::protocol::Reply;
use crate::upstream::UpstreamError;
use crate::upstream::control::{Control, Frame};
use crate::upstream::journal::EntryId;
use crate::upstream::scripts::mark_of;

/// The longest wait, that for a gate. The flusher needs some milliseconds for a batch, but where Postgres is busy, or
/// changes are of many tables, some hundred; and there may be one under way whose successor is waited for. A client with a
/// late answer is better off than one with an error. Who waits for nothing as Postgres is lost is told so at once.
const LIMIT: Duration = GATE_PATIENCE;

/// The first pause between two looks, and the longest.
const FIRST: Duration = Duration::from_millis(1);
const LONGEST: Duration = Duration::from_millis(20);

/// Why Postgres cannot be asked.
#[derive(Debug)]
pub(super) enum NotFlushed {
    /// Nobody knows what Postgres lacks.
    Upstream(UpstreamError),
    /// It has not got it in time, or is lost.
    Late,
}

// === impl NotFlushed ===

impl NotFlushed {
    /// What who wants to read is told.
    pub(super) fn reply(&self) -> Reply {
        match self {
            Self::Upstream(error) => {
                tracing::debug!(%error, "what Postgres lacks is not known");
                upstream_not_read()
            }
            Self::Late => Reply::Error(
                "TRYAGAIN Redis has changes that Postgres does not know yet".to_owned(),
            ),
        }
    }
}

/// Waits until Postgres has the changes of these keys that are in the journal now. One that is written all the time is
/// never clean: what has come since is not waited for.
pub(super) async fn until_clean(
    (trust, health): (&Trust, &Health),
    control: &mut Control,
    keys: &[&Bytes],
) -> Result<(), NotFlushed> {
    if keys.is_empty() {
        return Ok(());
    }
    let marks: Vec<Bytes> = keys.iter().map(|key| mark_of(key)).collect();
    let mut wait = Wait::new();
    let mut until = None;
    loop {
        Copies::in_redis(trust, control).await.map_err(NotFlushed::Upstream)?;
        let marks = marks_in(control, &marks).await.map_err(NotFlushed::Upstream)?;
        let dirty = || marks.iter().filter(|mark| is_dirty(mark));
        if dirty().next().is_none() {
            return Ok(());
        }
        match until {
            // Each of them has an entry, the newest of its key.
            None => until = dirty().map(entry_of).collect::<Option<Vec<_>>>(),
            Some(ref entries) => {
                let ends = ends(trust, control).await.map_err(NotFlushed::Upstream)?;
                if ends.is_none_or(|(first, _)| entries.iter().all(|entry| *entry < first)) {
                    return Ok(());
                }
            }
        }
        wait.pause(trust, health).await?;
    }
}

/// Waits until Postgres has all that is in the journal now.
pub(super) async fn until_flushed(
    (trust, health): (&Trust, &Health),
    control: &mut Control,
) -> Result<(), NotFlushed> {
    let mut wait = Wait::new();
    let mut until = None;
    while let Some((first, last)) = ends(trust, control).await.map_err(NotFlushed::Upstream)?
        && first <= *until.get_or_insert(last)
    {
        wait.pause(trust, health).await?;
    }
    Ok(())
}

/// One who waits, and looks less and less often.
struct Wait {
    deadline: Instant,
    pause: Duration,
}

// === impl Wait ===

impl Wait {
    fn new() -> Self {
        Self { deadline: Instant::now() + LIMIT, pause: FIRST }
    }

    async fn pause(&mut self, trust: &Trust, health: &Health) -> Result<(), NotFlushed> {
        if Instant::now() >= self.deadline || health.is_lost() {
            return Err(NotFlushed::Late);
        }
        trust.journal.want();
        sleep(self.pause).await;
        self.pause = LONGEST.min(2 * self.pause);
        Ok(())
    }
}

// === what Redis says ===

/// Whether any of these marks says that Postgres lacks something.
pub(super) async fn is_any_dirty(
    control: &mut Control,
    marks: &[Bytes],
) -> Result<bool, UpstreamError> {
    Ok(marks_in(control, marks).await?.iter().any(is_dirty))
}

async fn marks_in(control: &mut Control, marks: &[Bytes]) -> Result<Vec<Frame>, UpstreamError> {
    let ask = [&[Bytes::from_static(b"MGET")], marks].concat();
    match asked_twice(control, &ask).await? {
        Frame::Array(marks) => Ok(marks),
        Frame::Error(text) => Err(UpstreamError::Refused(text.to_string())),
        _ => Err(UpstreamError::Protocol("an odd answer to MGET".into())),
    }
}

/// The newest entry of a dirty key, which its mark names: `d:1-2`, or `gone:1-2:p`.
fn entry_of(mark: &Frame) -> Option<EntryId> {
    let Frame::BulkString(mark) = mark else { return None };
    EntryId::parse(mark.split(|byte| *byte == b':').nth(1)?)
}

async fn ends(
    trust: &Trust,
    control: &mut Control,
) -> Result<Option<(EntryId, EntryId)>, UpstreamError> {
    Copies::in_redis(trust, control).await?;
    match control.ends_of_journal().await {
        Err(UpstreamError::Lost(_)) => control.ends_of_journal().await,
        ends => ends,
    }
}

/// What changes nothing may be asked again where the connection had died unnoticed.
async fn asked_twice(control: &mut Control, words: &[Bytes]) -> Result<Frame, UpstreamError> {
    match control.command(words).await {
        Err(UpstreamError::Lost(_)) => control.command(words).await,
        told => told,
    }
}

pub(super) fn is_dirty(mark: &Frame) -> bool {
    matches!(mark, Frame::BulkString(mark) if mark.starts_with(b"d:") || mark.starts_with(b"gone:"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_tells_what_is_dirty() {
        for (mark, expected) in
            [("d:1-1", true), ("gone:1-1", true), ("gone", false), ("r:1", false), ("w:1", false)]
        {
            assert_eq!(is_dirty(&Frame::BulkString(Bytes::from(mark))), expected, "{mark}");
        }
        assert!(!is_dirty(&Frame::Null));
    }

    #[test]
    fn a_dirty_mark_names_the_newest_entry() {
        let entry = Some(EntryId { epoch: 7, number: 12 });
        for mark in ["d:7-12", "gone:7-12", "d:7-12:p", "gone:7-12:p"] {
            assert_eq!(entry_of(&Frame::BulkString(Bytes::from(mark))), entry, "{mark}");
        }
        assert_eq!(entry_of(&Frame::BulkString(Bytes::from("d:"))), None);
    }
}
