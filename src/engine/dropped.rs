//! Copies that another proxy drops before a write goes past Redis: `proxies.redis_loss = "strict"` (COHERENCE,
//! "Outbox").
//!
//! The keys are locked, and put into the outbox alone; a proxy that reaches Redis drops their copies and takes
//! them out. Whoever asks Postgres then may not fill, as its probe meets the lock, until the write is
//! committed. So nobody sees the old value once the write was acknowledged.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::mapping::MappedKey;
use crate::store::{Session, StoreError};

/// How often it is looked whether they are dropped.
const LOOK: Duration = Duration::from_millis(5);

/// Locks keys for the session, and waits until somebody has dropped their copies; false when nobody has within
/// `limit`. The session has the locks either way.
pub(super) async fn lock_and_have_dropped(
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
