//! What operators do about changes that Postgres refused: try them again.
//!
//! A change is tried again as SQL of somebody else would be: under the key's lock, with the key in the outbox,
//! so that whatever Redis has of it goes. What clients have written to the key since is newer, and wins where
//! it was journaled after; a key that has such changes gets them afterwards.

use std::sync::Arc;

use bytes::Bytes;

use super::fold::{Folded, NoSum};
use super::transaction::{Touched, begin_reading, by_mapping, write_rows};
use crate::mapping::{MappedKey, Mapping, Registry};
use crate::store::{DeadLetter, Session, StoreError};
use crate::upstream::journal::{EntryId, KeyChange, Step};
use crate::value::Draft;

/// Why a change was not made.
#[derive(Debug, thiserror::Error)]
pub enum NotRetried {
    #[error("there is no dead letter {0}")]
    Unknown(i64),
    #[error("no mapping has its key any more")]
    NotMapped,
    #[error("it is in a form that this version cannot read")]
    Unreadable,
    #[error(transparent)]
    NoSum(#[from] NoSum),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What a dead letter says, for people: one line a field or member.
pub fn lines(letter: &DeadLetter) -> Vec<String> {
    let Some(change) = KeyChange::read(&Bytes::copy_from_slice(&letter.letter.change)) else {
        return vec![NotRetried::Unreadable.to_string()];
    };
    let text = |bytes: &[u8]| bytes.escape_ascii().to_string();
    let mut lines = Vec::new();
    if change.cleared {
        lines.push("the key was deleted".to_owned());
    }
    lines.extend(change.names.iter().map(|(name, value)| match value {
        Some(value) => format!("set \"{}\" \"{}\"", text(name), text(value)),
        None => format!("remove \"{}\"", text(name)),
    }));
    lines.extend(change.steps.iter().map(|(name, step)| match step {
        Step::Integer(step) | Step::Float(step) => {
            format!("add to \"{}\" {}", text(name), text(step))
        }
    }));
    lines
}

/// Tries a change again; when Postgres takes it the dead letter is gone.
///
/// # Errors
/// When it does not; nothing is written then, and the letter stays.
pub async fn retry(
    id: i64,
    mappings: &[Arc<Mapping>],
    registry: &Registry,
    session: &mut Session,
) -> Result<(), NotRetried> {
    let done = retry_in(id, mappings, registry, session).await;
    if done.is_err() {
        session.rollback().await?;
    }
    done
}

async fn retry_in(
    id: i64,
    mappings: &[Arc<Mapping>],
    registry: &Registry,
    session: &mut Session,
) -> Result<(), NotRetried> {
    let kept = session.dead_letter(id).await?.ok_or(NotRetried::Unknown(id))?;
    let change = KeyChange::read(&Bytes::from(kept.letter.change)).ok_or(NotRetried::Unreadable)?;
    let key: MappedKey = registry.mapped_key(&change.key).ok_or(NotRetried::NotMapped)?;
    let mapping = mappings.iter().find(|mapping| mapping.index == key.mapping.index);
    let mapping = Arc::clone(mapping.ok_or(NotRetried::NotMapped)?);
    let folded = Folded::of(change, EntryId::default());
    let draft = Draft::new(mapping.holds(), None);
    let needs = folded.needs();
    let mut touched = vec![Touched { key: &key, needs, mapping, present: false, draft }];
    let groups = by_mapping(&touched);
    begin_reading(session, &[key.lock()], &groups, &mut touched).await?;
    // Within the transaction: two who try the same letter do it once.
    if !session.drop_dead_letter(id).await? {
        return Err(NotRetried::Unknown(id));
    }
    folded.apply(&mut touched[0].draft)?;
    write_rows(session, &groups, &touched).await?;
    session.add_to_outbox(&[&key]).await?;
    session.commit().await?;
    Ok(())
}
