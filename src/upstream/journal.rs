//! The journal: the stream in Redis of changes that Postgres still has to get.
//!
//! An entry says what keys hold since a batch of operations, not what the operations were: of several entries
//! about one field the last one counts. Only of values of which Redis has a part, as Postgres could not be
//! asked, it says what was added to fields: that counts once (see `engine::flusher`).
//!
//! Invariants
//! - An entry's id is the epoch of the data that it was made in, and a number; ids grow. Each epoch is
//!   begun by a sweep (see `engine::keeper`), so entries of data that Redis has lost since, and those that
//!   took their place, have different ids.
//! - Entries are made by `lua/behind.lua` and leave by `lua/clean.lua`, or with the data.

use std::fmt;

use bytes::Bytes;

use super::control::{Control, Frame};
use super::link::UpstreamError;
use super::scripts::{JOURNAL, JOURNAL_STATE};

/// Which entry: they are in the order of these.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryId {
    pub epoch: u64,
    pub number: u64,
}

/// What a batch of operations has made of some keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub id: EntryId,
    /// When, by the clock of Redis; milliseconds since the Unix epoch.
    pub at_ms: i64,
    /// As they are counted in the journal's state.
    pub changes: u64,
    /// How long it is; in bytes.
    pub bytes: usize,
    pub keys: Vec<KeyChange>,
}

/// What has become of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyChange {
    pub key: Bytes,
    /// It was deleted by name first.
    pub cleared: bool,
    /// Fields (members: with empty values) that were set or removed, and what they hold now.
    pub names: Vec<(Bytes, Option<Bytes>)>,
    /// What was added, after that, to fields whose value Redis did not know.
    pub steps: Vec<(Bytes, Step)>,
}

/// What was added to a field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// By HINCRBY.
    Integer(Bytes),
    /// By HINCRBYFLOAT.
    Float(Bytes),
}

/// What is known of the journal as a whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct JournalState {
    /// `None`: nothing can be journaled before the next sweep.
    pub epoch: Option<u64>,
    pub changes: u64,
    pub entries: u64,
    /// How old its oldest entry is, by the clock of Redis.
    pub lag_ms: u64,
    /// There are changes in it of keys that are written through as a rule.
    pub is_loose: bool,
}

// === impl EntryId ===

impl EntryId {
    /// The one that may come next.
    #[must_use]
    pub fn next(self) -> Self {
        Self { epoch: self.epoch, number: self.number + 1 }
    }

    /// As it stands in the stream.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let (epoch, number) = std::str::from_utf8(text).ok()?.split_once('-')?;
        Some(Self { epoch: epoch.parse().ok()?, number: number.parse().ok()? })
    }

    pub fn text(self) -> Bytes {
        Bytes::from(self.to_string())
    }
}

impl fmt::Display for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.epoch, self.number)
    }
}

// === impl Entry ===

impl Entry {
    /// About how many rows or columns it changes.
    pub fn size(&self) -> usize {
        self.keys.iter().map(KeyChange::size).sum()
    }

    fn read(frame: Frame) -> Option<Self> {
        let Frame::Array(parts) = frame else { return None };
        let mut parts = parts.into_iter();
        let (Some(Frame::BulkString(id)), Some(Frame::Array(fields))) =
            (parts.next(), parts.next())
        else {
            return None;
        };
        let mut texts = fields.into_iter().filter_map(|frame| match frame {
            Frame::BulkString(text) => Some(text),
            _ => None,
        });
        // 'at', time, 'changes', count, 'keys', what has become of them.
        let at_ms = std::str::from_utf8(&texts.nth(1)?).ok()?.parse().ok()?;
        let changes = std::str::from_utf8(&texts.nth(1)?).ok()?.parse().ok()?;
        let keys = texts.nth(1)?;
        let (id, bytes) = (EntryId::parse(&id)?, keys.len());
        Some(Self { id, at_ms, changes, bytes, keys: read_keys(&keys)? })
    }
}

// === impl KeyChange ===

impl KeyChange {
    /// About how many rows or columns it changes.
    fn size(&self) -> usize {
        (self.names.len() + self.steps.len()).max(1)
    }

    /// As `lua/behind.lua` writes it.
    pub fn write(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let mut tell = |text: &[u8]| {
            out.extend_from_slice(text.len().to_string().as_bytes());
            out.push(b':');
            out.extend_from_slice(text);
        };
        tell(&self.key);
        tell(if self.cleared { b"cleared" } else { b"kept" });
        tell((self.names.len() + self.steps.len()).to_string().as_bytes());
        for (name, value) in &self.names {
            tell(name);
            match value {
                Some(value) => tell(&[b"+", &value[..]].concat()),
                None => tell(b"-"),
            }
        }
        for (name, step) in &self.steps {
            tell(name);
            match step {
                Step::Integer(step) => tell(&[b"i", &step[..]].concat()),
                Step::Float(step) => tell(&[b"f", &step[..]].concat()),
            }
        }
        out
    }

    /// What `write` has written.
    pub fn read(written: &Bytes) -> Option<Self> {
        read_keys(written)?.pop()
    }

    /// What has become of several keys, one behind the other.
    pub fn read_all(written: &Bytes) -> Option<Vec<Self>> {
        read_keys(written)
    }
}

fn read_keys(written: &Bytes) -> Option<Vec<KeyChange>> {
    let mut at = 0;
    // What is counted or compared is only looked at.
    let mut next = || {
        let colon = at + memchr::memchr(b':', &written[at..])?;
        let length = number(&written[at..colon])?;
        let end = (colon + 1).checked_add(length).filter(|&end| end <= written.len())?;
        at = end;
        Some((colon + 1..end, end == written.len()))
    };
    let mut keys = Vec::new();
    let mut ended = written.is_empty();
    while !ended {
        let (key, _) = next()?;
        let (how, _) = next()?;
        let (count, at_end) = next()?;
        ended = at_end;
        let count = number(&written[count])?;
        let (mut names, mut steps) = (Vec::with_capacity(count.min(1000)), Vec::new());
        for _ in 0..count {
            let (name, _) = next()?;
            let (value, at_end) = next()?;
            ended = at_end;
            let name = written.slice(name);
            let what = written[value.clone()].first()?;
            let value = || written.slice(value.start + 1..value.end);
            match what {
                b'+' => names.push((name, Some(value()))),
                b'i' => steps.push((name, Step::Integer(value()))),
                b'f' => steps.push((name, Step::Float(value()))),
                _ => names.push((name, None)),
            }
        }
        let (key, cleared) = (written.slice(key), &written[how] == b"cleared");
        keys.push(KeyChange { key, cleared, names, steps });
    }
    Some(keys)
}

fn number(digits: &[u8]) -> Option<usize> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

// === impl Control ===

impl Control {
    /// Waits until there is an entry; `false` when none has come in time.
    ///
    /// # Errors
    /// When the upstream is out of reach.
    pub async fn wait_for_entry(&mut self, limit_ms: u64) -> Result<bool, UpstreamError> {
        let limit = limit_ms.to_string();
        let ask = words(&["XREAD", "COUNT", "1", "BLOCK", &limit, "STREAMS"]);
        let ask: Vec<Bytes> = ask.into_iter().chain([journal(), word("0")]).collect();
        match self.command(&ask).await? {
            Frame::Array(found) => Ok(!found.is_empty()),
            Frame::Null => Ok(false),
            other => Err(refused_or_odd(other)),
        }
    }

    /// The oldest entries, or those that come after one; what this version cannot read is an error.
    ///
    /// # Errors
    /// When the upstream is out of reach.
    pub async fn entries(
        &mut self,
        after: Option<EntryId>,
        most: usize,
    ) -> Result<Vec<Entry>, UpstreamError> {
        let from = after.map_or_else(|| "-".to_owned(), |id| format!("({id}"));
        let count = most.to_string();
        let mut ask = vec![word("XRANGE"), journal()];
        ask.extend(words(&[&from, "+", "COUNT", &count]));
        let Frame::Array(entries) = told(self.command(&ask).await?)? else { return Err(odd()) };
        entries.into_iter().map(|entry| Entry::read(entry).ok_or_else(odd)).collect()
    }

    /// Whether an entry is still there.
    ///
    /// # Errors
    /// When the upstream is out of reach.
    pub async fn has_entry(&mut self, id: EntryId) -> Result<bool, UpstreamError> {
        let ask = [word("XRANGE"), journal(), id.text(), id.text()];
        match told(self.command(&ask).await?)? {
            Frame::Array(found) => Ok(!found.is_empty()),
            _ => Err(odd()),
        }
    }

    /// The first and the last entry that are there.
    ///
    /// # Errors
    /// When the upstream is out of reach.
    pub async fn ends_of_journal(&mut self) -> Result<Option<(EntryId, EntryId)>, UpstreamError> {
        let [count, one] = [word("COUNT"), word("1")];
        let first = [word("XRANGE"), journal(), word("-"), word("+"), count.clone(), one.clone()];
        let last = [word("XREVRANGE"), journal(), word("+"), word("-"), count, one];
        let mut ids = Vec::with_capacity(2);
        for reply in self.commands(&[&first, &last]).await? {
            let Frame::Array(found) = told(reply)? else { return Err(odd()) };
            let Some(entry) = found.into_iter().next() else { return Ok(None) };
            ids.push(Entry::read(entry).ok_or_else(odd)?.id);
        }
        let [first, last] = ids[..] else { return Err(odd()) };
        Ok(Some((first, last)))
    }

    /// The epoch of the data, and how much Postgres lacks.
    ///
    /// # Errors
    /// When the upstream is out of reach.
    pub async fn journal_state(&mut self) -> Result<JournalState, UpstreamError> {
        let state = Bytes::from_static(JOURNAL_STATE);
        let known = [word("HMGET"), state, word("epoch"), word("changes"), word("loose")];
        let length = [word("XLEN"), journal()];
        let oldest = [word("XRANGE"), journal(), word("-"), word("+"), word("COUNT"), word("1")];
        let time = [word("TIME")];
        let replies = self.commands(&[&known, &length, &oldest, &time]).await?;
        let replies: Vec<Frame> = replies.into_iter().map(told).collect::<Result<_, _>>()?;
        let [
            Frame::Array(known),
            Frame::Integer(entries),
            Frame::Array(oldest),
            Frame::Array(time),
        ] = &replies[..]
        else {
            return Err(odd());
        };
        let number = |frame: Option<&Frame>| match frame {
            Some(Frame::BulkString(digits)) => {
                std::str::from_utf8(digits).ok()?.parse::<u64>().ok()
            }
            _ => None,
        };
        let loose = match known.get(2) {
            Some(Frame::BulkString(id)) => EntryId::parse(id),
            _ => None,
        };
        let oldest = oldest.first().cloned().and_then(Entry::read);
        let is_loose = oldest.as_ref().is_some_and(|oldest| loose >= Some(oldest.id));
        let now_ms =
            number(time.first()).unwrap_or(0) * 1000 + number(time.get(1)).unwrap_or(0) / 1000;
        let age_ms = |entry: Entry| now_ms.saturating_sub(entry.at_ms.unsigned_abs());
        Ok(JournalState {
            epoch: number(known.first()),
            changes: number(known.get(1)).unwrap_or(0),
            entries: entries.unsigned_abs(),
            lag_ms: oldest.map_or(0, age_ms),
            is_loose,
        })
    }

    /// Opens the journal for entries of a new epoch.
    ///
    /// # Errors
    /// When the upstream is out of reach, or refuses.
    pub async fn begin_epoch(&mut self, epoch: u64) -> Result<(), UpstreamError> {
        let state = Bytes::from_static(JOURNAL_STATE);
        let ask = [word("HSET"), state, word("epoch"), Bytes::from(epoch.to_string())];
        told(self.command(&ask).await?).map(drop)
    }

    /// Drops what nobody may bring to Postgres.
    ///
    /// # Errors
    /// When the upstream is out of reach, or refuses.
    pub async fn drop_journal(&mut self) -> Result<(), UpstreamError> {
        let ask = [word("UNLINK"), journal(), Bytes::from_static(JOURNAL_STATE)];
        told(self.command(&ask).await?).map(drop)
    }
}

fn journal() -> Bytes {
    Bytes::from_static(JOURNAL)
}

fn word(word: &'static str) -> Bytes {
    Bytes::from_static(word.as_bytes())
}

fn words(words: &[&str]) -> Vec<Bytes> {
    words.iter().map(|word| Bytes::copy_from_slice(word.as_bytes())).collect()
}

fn told(reply: Frame) -> Result<Frame, UpstreamError> {
    match reply {
        Frame::Error(text) => Err(UpstreamError::Refused(text.to_string())),
        reply => Ok(reply),
    }
}

fn refused_or_odd(reply: Frame) -> UpstreamError {
    told(reply).err().unwrap_or_else(odd)
}

fn odd() -> UpstreamError {
    UpstreamError::Protocol("the journal holds what this version cannot read".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_of_a_key_is_read_again() {
        let change = KeyChange {
            key: "a:1".into(),
            cleared: true,
            names: vec![
                (":".into(), Some(Bytes::new())),
                ("".into(), None),
                (Bytes::from_static(b"\0\xff"), Some("1:2".into())),
            ],
            steps: vec![
                ("n".into(), Step::Integer("-4".into())),
                ("n".into(), Step::Float("0.5".into())),
            ],
        };
        assert_eq!(KeyChange::read(&change.write().into()), Some(change.clone()));
        let other = KeyChange { key: "".into(), cleared: false, names: vec![], steps: vec![] };
        let both = [other.write(), change.write(), other.write()].concat();
        assert_eq!(KeyChange::read_all(&both.into()), Some(vec![other.clone(), change, other]));
    }

    #[test]
    fn what_is_cut_off_is_not_read() {
        let change = KeyChange {
            key: "a:1".into(),
            cleared: false,
            names: vec![("b".into(), Some("c".into()))],
            steps: Vec::new(),
        };
        let written = Bytes::from(change.write());
        for length in 1..written.len() {
            assert_eq!(read_keys(&written.slice(..length)), None, "{length}");
        }
        assert_eq!(read_keys(&Bytes::new()), Some(Vec::new()));
    }

    #[test]
    fn ids_are_in_the_order_of_epochs() {
        let id = |text: &str| EntryId::parse(text.as_bytes()).unwrap();
        assert!(id("1-9") < id("1-10") && id("1-10") < id("2-1"));
        assert_eq!(id("3-4").to_string(), "3-4");
        assert_eq!(EntryId::parse(b"3"), None);
        assert_eq!(EntryId::parse(b"-3"), None);
    }
}
