//! Copies that another proxy drops before a write goes past Redis: `proxies.redis_loss = "strict"` (COHERENCE,
//! "Outbox").
//!
//! The keys are locked, and put into the outbox alone; a proxy that reaches Redis drops their copies and takes
//! them out. Whoever asks Postgres then may not fill, as its probe meets the lock, until the write is
//! committed. So nobody sees the old value once the write was acknowledged.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::import::{Known, may_be_any_original};
use super::operation::Operation;
use super::through::{Writer, connected};
use super::transaction::{Failure, Prepared};
use crate::config::{RedisLoss, Strategy};
use crate::mapping::MappedKey;
use crate::store::{Session, StoreError};

/// How often it is looked whether they are dropped.
const LOOK: Duration = Duration::from_millis(5);

// === impl Writer ===

impl Writer {
    /// One try at one transaction; past Redis, once those who reach it are safe from old copies, where that is
    /// wanted.
    pub(super) async fn transact_in_sight<'a>(
        &mut self,
        operations: &[&'a Operation],
        spared: &Known,
        hurried: bool,
    ) -> Result<Prepared<'a>, Failure> {
        let is_strict = self.settings.redis_loss == RedisLoss::Strict
            && self.settings.health.fleet().has_others();
        if !is_strict {
            return self.transact(operations, spared, hurried, true).await;
        }
        if !self.trust.is_out() {
            match self.transact(operations, spared, hurried, false).await {
                // Redis was lost meanwhile.
                Err(Failure::NotDropped) => {}
                done => return done,
            }
        }
        let keys = operations.iter().flat_map(|operation| &operation.keys);
        let leaves_copies = |key: &&MappedKey| key.mapping.strategy() != Strategy::PostgresOnly;
        let keys: Vec<&MappedKey> = keys.filter(leaves_copies).collect();
        if keys.is_empty() {
            return self.transact(operations, spared, hurried, true).await;
        }
        let session = connected(&mut self.session, &self.settings).await.map_err(Failure::Store)?;
        // What only Redis has is not to be dropped.
        if may_be_any_original(session, &self.tables, &keys).await.map_err(Failure::Store)? {
            return Err(Failure::Unseen);
        }
        let limit = Duration::from_millis(self.settings.postgres.statement_timeout_ms / 2);
        let transacted = match lock_and_have_dropped(session, &keys, limit).await {
            Ok(true) => self.transact(operations, spared, hurried, true).await,
            Ok(false) => Err(Failure::NotDropped),
            Err(error) => Err(Failure::Store(error)),
        };
        // With a session that is lost its locks are, too.
        if let Some(session) = self.session.as_mut().filter(|session| !session.is_broken())
            && let Err(error) = session.unlock_keys().await
        {
            tracing::debug!(%error, "locks were not given back");
            self.session = None;
        }
        transacted
    }
}

/// Locks keys for the session, and waits until somebody has dropped their copies; false when nobody has within
/// `limit`. The session has the locks either way.
async fn lock_and_have_dropped(
    session: &mut Session,
    keys: &[&MappedKey],
    limit: Duration,
) -> Result<bool, StoreError> {
    let mut locks: Vec<i64> = keys.iter().map(|key| key.lock()).collect();
    locks.sort_unstable();
    locks.dedup();
    session.lock_keys(&locks).await?;
    let rows = session.put_into_outbox(keys).await?;
    let since = Instant::now();
    while session.is_any_in_outbox(&rows).await? {
        if since.elapsed() >= limit {
            return Ok(false);
        }
        sleep(LOOK).await;
    }
    Ok(true)
}
