//! Deletes rows past their expiry, for all proxies, a few hundred at a time.
//!
//! For clients an expired key is absent whether its row is there or not, and no copy of it outlives its
//! expiry: so nothing has to be said to Redis. A key's lock is held from before its row is read again
//! until the deletion is committed, so that a key which was given more time, or written anew, stays.
//!
//! It takes its time: of what it spends in Postgres, it rests several times as much.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::sleep;

use super::EngineSettings;
use super::tables::Tables;
use super::through::connected;
use crate::command::Needs;
use crate::config::OnExpire;
use crate::mapping::{MappedKey, Mapping, Registry};
use crate::store::sole::Work;
use crate::store::{Change, Reading, Session, StoreError, StoredRow, Want};
use crate::tasks::Tasks;
use crate::value::Draft;

/// The shortest time between two looks.
const PAUSE: Duration = Duration::from_secs(1);

/// How long a proxy waits that finds another one at it, or Postgres out of reach.
const ABSENCE: Duration = Duration::from_secs(5);

/// Keys of one transaction.
const KEYS: usize = 200;

/// How many times as long as it has worked it rests: between two transactions, and between two looks,
/// which may read a whole table that has no index on its expiry.
const REST: u32 = 3;
const LONG_REST: u32 = 20;

#[derive(Debug)]
pub(super) struct Expirer {
    settings: EngineSettings,
    registry: Arc<Registry>,
    tables: Arc<Tables>,
    session: Option<Session>,
    /// Mappings of which a row cannot be deleted, and a warning has said so.
    warned: Vec<usize>,
}

// === impl Expirer ===

impl Expirer {
    pub(super) fn new(
        settings: &EngineSettings,
        registry: Arc<Registry>,
        tables: Arc<Tables>,
    ) -> Self {
        Self { settings: settings.clone(), registry, tables, session: None, warned: Vec::new() }
    }

    /// Deletes until it is asked to stop.
    pub(super) async fn run(mut self, tasks: &Tasks) {
        tokio::select! {
            () = self.keep_deleting() => {}
            () = tasks.stopping() => {}
        }
        if let Some(session) = self.session.take() {
            session.close().await;
        }
    }

    async fn keep_deleting(&mut self) {
        let mut is_mine = false;
        loop {
            if self.session.as_ref().is_none_or(Session::is_broken) {
                is_mine = false;
            }
            let start = Instant::now();
            let done = async {
                if !is_mine {
                    let session = connected(&mut self.session, &self.settings).await?;
                    is_mine = session.take_on(Work::Expire).await?;
                }
                if is_mine { self.look().await } else { Ok(Duration::ZERO) }
            };
            match done.await {
                Ok(_) if !is_mine => sleep(ABSENCE).await,
                Ok(rested) => {
                    let worked = start.elapsed().saturating_sub(rested);
                    sleep(PAUSE.max(worked.saturating_mul(LONG_REST))).await;
                }
                Err(error) => {
                    tracing::debug!(%error, "expired rows cannot be deleted now");
                    sleep(ABSENCE).await;
                }
            }
        }
    }

    /// Deletes all that is expired; how long it rested in between.
    async fn look(&mut self) -> Result<Duration, StoreError> {
        let registry = Arc::clone(&self.registry);
        let mut rested = Duration::ZERO;
        let mut elsewhere: Vec<&str> = Vec::new();
        for known in registry.mappings() {
            if known.on_expire == OnExpire::Keep {
                continue;
            }
            let Some(mapping) = self.tables.current(known) else { continue };
            if mapping.layout.expires_at().is_none() {
                elsewhere.push(&known.name);
                continue;
            }
            let mut after = None;
            loop {
                let start = Instant::now();
                let session = connected(&mut self.session, &self.settings).await?;
                let page = session.expired_rows(&mapping, after.as_ref(), KEYS).await;
                let Some(page) = unless_changed(page)? else { break };
                let keys = page.keys.iter().filter_map(|row| registry.key_of_row(&mapping, row));
                self.delete(&mapping, &keys.collect::<Vec<_>>()).await?;
                after = page.next;
                if after.is_none() {
                    break;
                }
                rested += rest(start).await;
            }
        }
        let mut after = None;
        while !elsewhere.is_empty() {
            let start = Instant::now();
            let session = connected(&mut self.session, &self.settings).await?;
            let page = session.expired_keys(&elsewhere, after.as_ref(), KEYS).await?;
            let mut keys: Vec<MappedKey> = Vec::with_capacity(page.keys.len());
            for expired in page.keys {
                let key = registry.mapped_key(&expired.key.into());
                keys.extend(key.filter(|key| key.mapping.name == expired.mapping));
            }
            keys.sort_by_key(|key| key.mapping.index);
            for keys in keys.chunk_by(|one, other| one.mapping.index == other.mapping.index) {
                if let Some(mapping) = self.tables.current(&keys[0].mapping) {
                    self.delete(&mapping, keys).await?;
                }
            }
            after = page.next;
            if after.is_none() {
                break;
            }
            rested += rest(start).await;
        }
        Ok(rested)
    }

    /// Deletes those of the keys that are still expired. What Postgres refuses to delete stays, alone.
    async fn delete(&mut self, mapping: &Mapping, keys: &[MappedKey]) -> Result<(), StoreError> {
        if keys.is_empty() {
            return Ok(());
        }
        match self.delete_together(mapping, keys).await {
            Err(StoreError::Refused { .. }) if keys.len() > 1 => {
                for key in keys {
                    let deleted = self.delete_together(mapping, std::slice::from_ref(key)).await;
                    self.settle(mapping, deleted)?;
                }
                Ok(())
            }
            deleted => self.settle(mapping, deleted),
        }
    }

    fn settle(
        &mut self,
        mapping: &Mapping,
        deleted: Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        match deleted {
            Err(StoreError::Refused { code, message, .. }) => {
                if !self.warned.contains(&mapping.index) {
                    self.warned.push(mapping.index);
                    tracing::warn!(
                        mapping = %mapping.name, %code, %message,
                        "Postgres refuses to delete an expired row: it stays; on_expire = \"keep\" keeps all"
                    );
                }
                Ok(())
            }
            // Somebody is at these keys, or at the table: the next look finds them again.
            Err(
                StoreError::Raced
                | StoreError::Retryable { .. }
                | StoreError::Timeout(_)
                | StoreError::LayoutChanged { .. },
            ) => Ok(()),
            deleted => deleted,
        }
    }

    async fn delete_together(
        &mut self,
        mapping: &Mapping,
        keys: &[MappedKey],
    ) -> Result<(), StoreError> {
        let session = connected(&mut self.session, &self.settings).await?;
        let mut locks: Vec<i64> = keys.iter().map(MappedKey::lock).collect();
        locks.sort_unstable();
        locks.dedup();
        let needs = Needs { existence: true, ..Needs::default() };
        let wants = keys.iter().map(|key| Want { key, needs: &needs, whole_up_to: 0 }).collect();
        let mut read = session.begin_reading(&locks, &[Reading { mapping, wants }]).await?;
        let written = delete_absent(session, mapping, keys, read.remove(0).rows).await;
        match written {
            Ok(()) => session.commit().await,
            Err(error) => {
                session.rollback().await?;
                Err(error)
            }
        }
    }
}

/// A table that is not as it was is left to those who serve clients: they see to it.
fn unless_changed<T>(result: Result<T, StoreError>) -> Result<Option<T>, StoreError> {
    match result {
        Ok(result) => Ok(Some(result)),
        Err(StoreError::LayoutChanged { .. } | StoreError::Timeout(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Deletes the rows of keys whose locks are held and that are absent for clients.
async fn delete_absent(
    session: &mut Session,
    mapping: &Mapping,
    keys: &[MappedKey],
    rows: Vec<StoredRow>,
) -> Result<(), StoreError> {
    let absent = Draft::new(mapping.holds(), None);
    let expired: Vec<(&MappedKey, bool)> = keys
        .iter()
        .zip(rows)
        .filter(|(_, row)| row.record.is_none())
        .map(|(key, row)| (key, row.present))
        .collect();
    let changes: Vec<Change<'_>> = expired
        .iter()
        .filter(|(_, present)| *present)
        .map(|&(key, present)| Change { key, present, draft: &absent })
        .collect();
    session.write(mapping, &changes).await?;
    let names: Vec<&[u8]> = expired.iter().map(|(key, _)| &key.key[..]).collect();
    session.forget_expired(mapping, &names).await
}

/// Rests after a piece of work that began then; how long.
async fn rest(start: Instant) -> Duration {
    let pause = start.elapsed().saturating_mul(REST);
    sleep(pause).await;
    pause
}
