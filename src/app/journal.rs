//! What the command line tells of the journal, and does about dead letters.

use super::stores::connected;
use super::{AppError, Setup, bind, engine_settings, registry, worker_runtime};
use crate::engine::dead_letters;
use crate::upstream::control::Control;

/// Dead letters that are read at once.
const PAGE: i64 = 1000;

/// How far Postgres is behind, line by line.
///
/// # Errors
/// When a store is out of reach.
pub fn status(setup: &Setup) -> Result<Vec<String>, AppError> {
    worker_runtime()?.block_on(async {
        let settings = engine_settings(setup)?;
        let mut session = connected(setup).await?;
        let applied = session.applied().await?;
        let count = session.count_dead_letters().await?;
        session.close().await;
        let state = Control::new(settings.control).journal_state().await?;
        let epoch = state.epoch.map_or("none: not open".to_owned(), |epoch| epoch.to_string());
        Ok(vec![
            format!("epoch: {epoch}"),
            format!("entries: {}", state.entries),
            format!("changes: {}", state.changes),
            format!("lag_ms: {}", state.lag_ms),
            format!("applied: {}-{}", applied.epoch, applied.number),
            format!("dead_letters: {count}"),
        ])
    })
}

/// All dead letters, one a line.
///
/// # Errors
/// When Postgres is out of reach.
pub fn list(setup: &Setup) -> Result<Vec<String>, AppError> {
    worker_runtime()?.block_on(async {
        let mut session = connected(setup).await?;
        let (mut lines, mut after) = (Vec::new(), 0);
        loop {
            let page = session.dead_letters(after, PAGE).await?;
            let Some(last) = page.last() else { break };
            after = last.id;
            lines.extend(page.iter().map(|kept| {
                let letter = &kept.letter;
                let key = letter.key.escape_ascii();
                format!(
                    "{} {} {} {key}: {}",
                    kept.id, kept.created_at, letter.mapping, letter.reason
                )
            }));
        }
        session.close().await;
        Ok(lines)
    })
}

/// What a dead letter says.
///
/// # Errors
/// When there is none of this number, or Postgres is out of reach.
pub fn show(setup: &Setup, id: i64) -> Result<Vec<String>, AppError> {
    worker_runtime()?.block_on(async {
        let mut session = connected(setup).await?;
        let kept = session.dead_letter(id).await?.ok_or(AppError::NoDeadLetter(id))?;
        session.close().await;
        let letter = &kept.letter;
        let mut lines = vec![
            format!("key: {}", letter.key.escape_ascii()),
            format!("mapping: {}", letter.mapping),
            format!("entry: {}-{}", letter.entry.epoch, letter.entry.number),
            format!("time: {}", kept.created_at),
            format!("reason: {}", letter.reason),
        ];
        lines.extend(dead_letters::lines(&kept));
        Ok(lines)
    })
}

/// Makes the change of a dead letter.
///
/// # Errors
/// When Postgres does not take it, or there is none of this number.
pub fn retry(setup: &Setup, id: i64) -> Result<Vec<String>, AppError> {
    worker_runtime()?.block_on(async {
        let mut session = connected(setup).await?;
        let entries = session.mapping_entries().await?;
        let phases = session.phases().await?;
        let mappings = bind(&mut session, &setup.plans, &phases, &entries).await?;
        let registry = registry(mappings.clone(), &setup.plans);
        dead_letters::retry(id, &mappings, &registry, &mut session).await?;
        session.close().await;
        Ok(vec![format!("{id} is written")])
    })
}

/// Forgets a dead letter.
///
/// # Errors
/// When there is none of this number, or Postgres is out of reach.
pub fn forget(setup: &Setup, id: i64) -> Result<Vec<String>, AppError> {
    worker_runtime()?.block_on(async {
        let mut session = connected(setup).await?;
        let was_there = session.drop_dead_letter(id).await?;
        session.close().await;
        if !was_there {
            return Err(AppError::NoDeadLetter(id));
        }
        Ok(vec![format!("{id} is forgotten")])
    })
}
