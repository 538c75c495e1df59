//! The part of a job in the work of moving keys (`Work::Move`): as long as any session has one, no mapping gets another
//! side.
//!
//! A session can end at any time, and its part with it. So each session of a job takes one of its own, where it connects
//! (`through::connected`): nothing is done over a session without a part. Between two sessions a mapping may have gone
//! to another side and the part be free again; a job's mappings are those of its beginning, so it must not go on then.
//!
//! Once it is lost it stays so: the job ends.

use std::sync::atomic::{AtomicBool, Ordering};

use super::super::switchboard::Entry;
use crate::config::Strategy;
use crate::mapping::Registry;
use crate::store::sole::Work;
use crate::store::{Session, StoreError};

#[derive(Debug)]
pub struct Part {
    /// By which strategy each mapping went when the job began.
    strategies: Vec<(String, Strategy)>,
    is_lost: AtomicBool,
}

// === impl Part ===

impl Part {
    pub(super) fn new(registry: &Registry) -> Self {
        let mappings = registry.mappings();
        let strategies = mappings.map(|mapping| (mapping.name.clone(), mapping.strategy()));
        Self { strategies: strategies.collect(), is_lost: AtomicBool::new(false) }
    }

    /// Takes a part for a session that has just connected.
    ///
    /// # Errors
    /// When there is none to be had any more, which `is_lost` tells from other reasons.
    pub(in crate::engine) async fn take(&self, session: &mut Session) -> Result<(), StoreError> {
        let is_mine = !self.is_lost() && session.take_part(Work::Move).await?;
        if is_mine && self.is_as_it_was(&session.mapping_entries().await?) {
            return Ok(());
        }
        self.is_lost.store(true, Ordering::Release);
        Err(StoreError::Unreachable("a mapping is going to another side, or has gone there".into()))
    }

    pub(super) fn is_lost(&self) -> bool {
        self.is_lost.load(Ordering::Acquire)
    }

    /// Whether all mappings have their sides where they had them. Other changes of strategies are as good as none.
    fn is_as_it_was(&self, entries: &[(String, String)]) -> bool {
        entries.iter().all(|(name, text)| {
            let now = Entry::parse(text).and_then(|entry| Strategy::parse(&entry.strategy).ok());
            let before = self.strategies.iter().find(|(known, _)| known == name);
            match (now, before) {
                (Some(now), Some((_, before))) => sides(now) == sides(*before),
                _ => true,
            }
        })
    }
}

/// Whether keys are in Redis, and in Postgres.
fn sides(strategy: Strategy) -> (bool, bool) {
    (strategy != Strategy::PostgresOnly, strategy != Strategy::RedisOnly)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_goes_on_as_long_as_its_mappings_have_the_sides_that_they_had() {
        let strategies = vec![("a".to_owned(), Strategy::DualWrite)];
        let part = Part { strategies, is_lost: AtomicBool::new(false) };
        let check = |name: &str, text: &str, expected: bool| {
            let entries = [(name.to_owned(), text.to_owned())];
            assert_eq!(part.is_as_it_was(&entries), expected, "{text}");
        };
        assert!(part.is_as_it_was(&[]));
        check("a", r#"{"version": 2, "strategy": "cache_first"}"#, true);
        check("a", r#"{"version": 2, "strategy": "redis_only"}"#, false);
        check("a", r#"{"version": 2, "strategy": "postgres_only"}"#, false);
        check("b", r#"{"version": 2, "strategy": "redis_only"}"#, true);
        check("a", r#"{"phase": "dual_write"}"#, true);
    }
}
