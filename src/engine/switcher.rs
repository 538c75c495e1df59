//! The switcher: changes the strategy of a mapping for all proxies at once, while clients go on.
//!
//! It is a barrier. The entry of the mapping (`respgres.control`, and a copy in Redis) says that its strategy is
//! being changed; each proxy lets nobody in any more and acknowledges when nobody is inside; then Postgres is
//! given what the journal still has; then the entry says the new strategy, and all go on by it. What cannot
//! be brought about in time is called off, and all go on as before.
//!
//! Invariants
//! - One switcher at a time: it holds an advisory lock, and makes the entry's changes over the session that
//!   holds it. If it dies, the next proxy that beats gets the lock and calls its work off.
//! - The barrier stands in both stores before anybody is taken for dead: who beats later hears of it first.
//! - Proxies are taken for dead when their leases in both stores have ended, by the stores' clocks. Their sessions
//!   are ended before the change is settled.
//! - What was written past Redis has left it before the strategy is another.
//! - A mapping that leaves `redis_only` begins with no rows, and imports. With the barrier in place no request that
//!   passed through is under way: each event loop has had the replies to what it had appended.
//! - While a mapping is `postgres_only` nobody makes copies, and no job runs while it becomes so or leaves that (`Work::Move`);
//!   they are gone before it leaves that strategy. What only
//!   Redis has stays, and a mapping that imports neither becomes `postgres_only` nor leaves that; but one that leaves
//!   `redis_only` may become so, as it has no copies.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use bytes::Bytes;
use serde_json::json;
use thiserror::Error;
use tokio::time::{Instant, sleep};

use super::fleet::Standing;
use super::switchboard::Entry;
use crate::command::Needs;
use crate::config::Strategy;
use crate::mapping::{MappedKey, Mapping, Phase, Registry};
use crate::store::sole::Work;
use crate::store::{RowLock, Session, StoreError, Want};
use crate::upstream::UpstreamError;
use crate::upstream::control::{Control, Frame, scan_page};
use crate::upstream::scripts::{Call, Script, aside_of, mark_of, owner_of};

/// How long a change may take with clients waiting, where nobody says another time.
pub const USUAL_LIMIT: Duration = Duration::from_secs(10);

pub(super) const PAUSE: Duration = Duration::from_millis(10);

/// How long the right to change strategies is waited for. A proxy that has met with a change takes it for moments, to see
/// whether nobody carries that on.
const RIGHT: Duration = Duration::from_millis(500);

/// Keys that Redis is asked for at once.
const SCAN_COUNT: &str = "1000";

/// Changes the strategy of one mapping, over connections that are used for nothing else meanwhile.
pub struct Switcher<'a> {
    pub session: &'a mut Session,
    pub control: &'a mut Control,
    pub registry: &'a Registry,
    pub limit: Duration,
    /// Whether a table may be emptied that has rows from before its mapping was `redis_only`.
    pub discards_rows: bool,
}

/// Why a strategy was not changed.
#[derive(Debug, Error)]
pub enum NotSwitched {
    #[error("another strategy is just being changed; try again when that is done")]
    Busy,
    #[error(
        "a mapping becomes redis_only by the command line, which puts all of its keys into Redis first: \
         `respgres rollback --mapping …`"
    )]
    IntoRedisOnly,
    #[error(
        "its table does not fit it; `respgres schema --apply` makes what is missing, and a restart of all \
         proxies finds it"
    )]
    NoTable,
    #[error(
        "it passes through since this proxy has started: its table does not fit it (`respgres schema --apply` makes what is \
         missing), or it was in phase preparation (`respgres phase set dual_write`); a restart of all proxies finds \
         what has changed"
    )]
    PassesThrough,
    #[error(
        "it is in phase preparation; `respgres phase set dual_write` and a restart of all proxies end that"
    )]
    Preparation,
    #[error(
        "all mappings of the configuration file are redis_only, so that proxies do not even ask Postgres; \
         change their strategies there, and start all proxies anew"
    )]
    WithoutPostgres,
    #[error(
        "its table has rows from before, of which Redis may have newer values; empty it, or have it emptied: \
         `respgres strategy set … --discard-rows`"
    )]
    Rows,
    #[error(
        "the mapping has not migrated, and in postgres_only what Redis alone has would not be kept; bring its \
         keys over first (`respgres backfill`, `respgres phase set migrated`)"
    )]
    Imports,
    #[error(
        "the upstream Redis evicts any key when its memory is full (maxmemory-policy {0}), also \
        what `cache_first` has written and Postgres does not have yet; use noeviction or volatile-lru"
    )]
    Eviction(String),
    #[error(
        "{0} did not let go of the mapping in time; `respgres proxies list` tells who is there"
    )]
    Proxies(String),
    #[error(
        "Postgres did not get in time what the journal has; try again when `respgres journal status` \
        says that it is short, or give it more time"
    )]
    Journal,
    #[error(
        "what was written past Redis was not dropped from it in time; try again when all proxies \
        have Redis"
    )]
    Outbox,
    #[error(
        "in postgres_only nobody keeps copies in Redis; give it another strategy first (`respgres strategy set \
         dual_write`)"
    )]
    NoCopies,
    #[error(
        "the upstream Redis evicts any key when its memory is full (maxmemory-policy {0}), also values that nobody else \
         has then; use noeviction"
    )]
    Evicts(String),
    #[error(
        "Redis has evicted keys meanwhile; give it more memory (maxmemory), or have it evict none, and try again"
    )]
    Evicted,
    #[error("Redis has no room for all values (maxmemory); give it more memory, and try again")]
    NoRoom,
    #[error("keys are just being moved (backfill, verify or sync); try again when that is done")]
    Moving,
    #[error(
        "no respgres has gone through this Redis yet, or it has started anew or was emptied meanwhile; try again when a \
         respgres runs over it"
    )]
    NotSwept,
    #[error(
        "it stood still for so long, or Redis was emptied, that it is not known what clients have changed meanwhile; try \
         again"
    )]
    Stalled,
    #[error(
        "clients had changed more in the last moment than could be put into Redis in time; try again, when there is less \
         going on"
    )]
    TooMuch,
    #[error(
        "the journal has changes that Postgres lacks; start a proxy until `respgres journal status` says that there \
         are none"
    )]
    Unflushed,
    #[error("Redis does not have what Postgres has of the key {0}: somebody has changed either")]
    Different(String),
    #[error("Postgres: {0}")]
    Store(#[from] StoreError),
    #[error("Postgres, in the last step: {0}; `respgres strategy get` tells what holds")]
    InDoubt(StoreError),
    #[error("the upstream Redis: {0}")]
    Upstream(#[from] UpstreamError),
    #[error("somebody else has changed the entry of the mapping meanwhile")]
    Raced,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Switched {
    /// It has been so already.
    Already,
    /// How long clients had to wait.
    Done { waited: Duration },
}

/// What the stores say of one proxy.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) is_alive: bool,
    acknowledged: u64,
}

// === impl NotSwitched ===

impl NotSwitched {
    /// What a client is told: without causes.
    pub fn told(&self) -> String {
        let why = match self {
            Self::InDoubt(_) => {
                return "the connection to Postgres was lost; RESPGRES STRATEGY tells what holds"
                    .into();
            }
            Self::Store(_) => "Postgres does not answer as it should".to_owned(),
            Self::Upstream(_) => "the upstream Redis does not answer as it should".to_owned(),
            Self::Proxies(_) => "not all proxies let go of the mapping in time".to_owned(),
            other => other.to_string(),
        };
        format!("{why}; the strategy is as it was")
    }
}

// === impl Switcher ===

impl Switcher<'_> {
    /// What holds for a mapping.
    ///
    /// # Errors
    /// When Postgres does not tell.
    pub async fn entry(&mut self, mapping: &Mapping) -> Result<Entry, StoreError> {
        let entries = self.session.mapping_entries().await?;
        let entry = entries.iter().find(|(name, _)| *name == mapping.name);
        Ok(entry.and_then(|(_, text)| Entry::parse(text)).unwrap_or_default())
    }

    /// Changes the strategy of a mapping. `initial` is what the file says.
    ///
    /// # Errors
    /// Why it was not changed: all goes on as before.
    pub async fn switch(
        &mut self,
        mapping: &Mapping,
        initial: Strategy,
        target: Strategy,
    ) -> Result<Switched, NotSwitched> {
        self.take_right().await?;
        let done = self.switch_alone(mapping, initial, target).await;
        for work in [Work::Move, Work::Switch] {
            if let Err(error) = self.session.lay_down(work).await {
                tracing::debug!(%error, "the right to change strategies goes with its session");
            }
        }
        done
    }

    /// Takes the right to change strategies.
    pub(super) async fn take_right(&mut self) -> Result<(), NotSwitched> {
        let until = Instant::now() + RIGHT;
        while !self.session.take_on(Work::Switch).await? {
            if Instant::now() >= until {
                return Err(NotSwitched::Busy);
            }
            sleep(PAUSE).await;
        }
        Ok(())
    }

    async fn switch_alone(
        &mut self,
        mapping: &Mapping,
        initial: Strategy,
        target: Strategy,
    ) -> Result<Switched, NotSwitched> {
        let entry = self.clean_entry(mapping, initial).await?;
        if entry.strategy == target.name() {
            return Ok(Switched::Already);
        }
        if target == Strategy::RedisOnly {
            return Err(NotSwitched::IntoRedisOnly);
        }
        let (redis_only, postgres_only) =
            (Strategy::RedisOnly.name(), Strategy::PostgresOnly.name());
        if mapping.imports()
            && entry.strategy != redis_only
            && [&entry.strategy[..], target.name()].contains(&postgres_only)
        {
            return Err(NotSwitched::Imports);
        }
        // Jobs go by what held when they began, and would make copies.
        if [&entry.strategy[..], target.name()].contains(&postgres_only)
            && !self.session.take_on(Work::Move).await?
        {
            return Err(NotSwitched::Moving);
        }
        // Both stores are there.
        self.control.clock_ms().await?;
        if target == Strategy::CacheFirst
            && let Some(policy) = self.eviction().await?
        {
            return Err(NotSwitched::Eviction(policy));
        }
        if entry.strategy == postgres_only {
            // Nobody makes copies now.
            self.drop_copies(mapping).await?;
        }
        let leaves_redis = entry.strategy == redis_only;
        if leaves_redis && !self.discards_rows && self.session.has_rows(mapping).await? {
            return Err(NotSwitched::Rows);
        }
        let began = Instant::now();
        let barrier = self.change(mapping, &entry, Some(target)).await?;
        let mut ready = self.get_ready(mapping, &barrier, began + self.limit).await;
        if leaves_redis && ready.is_ok() {
            ready = self.forget_rows(mapping).await;
        }
        if let Err(why) = ready {
            self.change(mapping, &barrier, None).await?;
            return Err(why);
        }
        let phase = leaves_redis.then_some(Phase::DualWrite);
        let settled = self.settle(mapping, barrier, target, phase).await?;
        if let Err(error) = self.until_acknowledged(mapping, settled.version, self.limit).await {
            tracing::warn!(%error, "a strategy is changed, but not all proxies are known to go by it");
        }
        let waited = began.elapsed();
        // Of one that has left Redis just now there are originals alone.
        if target == Strategy::PostgresOnly
            && !leaves_redis
            && let Err(error) = self.drop_copies(mapping).await
        {
            tracing::warn!(%error, "copies of a mapping that has none any more were not dropped");
        }
        tracing::info!(mapping = %mapping.name, to = target.name(), ?waited, "the strategy is changed for all proxies");
        Ok(Switched::Done { waited })
    }

    /// What holds for a mapping; if somebody has died over changing it, nobody changes it any more.
    pub(super) async fn clean_entry(
        &mut self,
        mapping: &Mapping,
        initial: Strategy,
    ) -> Result<Entry, NotSwitched> {
        let mut entry = self.entry(mapping).await?;
        if entry.is_unset() || entry.strategy.is_empty() {
            entry.strategy = initial.name().to_owned();
        }
        if entry.target.is_some() {
            entry = self.change(mapping, &entry, None).await?;
        }
        Ok(entry)
    }

    /// The last version: all go by the target from now on.
    pub(super) async fn settle(
        &mut self,
        mapping: &Mapping,
        barrier: Entry,
        target: Strategy,
        phase: Option<Phase>,
    ) -> Result<Entry, NotSwitched> {
        let settled = Entry { strategy: target.name().to_owned(), ..barrier };
        match self.change_with(mapping, &settled, None, phase).await {
            Err(NotSwitched::Store(error)) => Err(NotSwitched::InDoubt(error)),
            settled => settled,
        }
    }

    /// With the barrier in place: until the strategy may be changed.
    async fn get_ready(
        &mut self,
        mapping: &Mapping,
        barrier: &Entry,
        deadline: Instant,
    ) -> Result<(), NotSwitched> {
        self.let_go(mapping, barrier, deadline).await?;
        self.until_flushed(deadline).await?;
        self.until_copies_are_true(mapping, deadline).await
    }

    /// With the barrier in place: until nobody is at the mapping's keys.
    pub(super) async fn let_go(
        &mut self,
        mapping: &Mapping,
        barrier: &Entry,
        deadline: Instant,
    ) -> Result<(), NotSwitched> {
        self.announce(mapping, barrier).await?;
        let left = deadline.saturating_duration_since(Instant::now());
        let dead = self.until_acknowledged(mapping, barrier.version, left).await?;
        for proxy in dead {
            let ended = self.session.end_sessions_of(&proxy).await?;
            tracing::info!(proxy, ended, "a strategy is changed without a proxy that is dead");
        }
        Ok(())
    }

    /// Makes the entry's next version, in Postgres and then in Redis, of which it is not certain that it
    /// hears: the proxies tell it what it lacks.
    pub(super) async fn change(
        &mut self,
        mapping: &Mapping,
        entry: &Entry,
        target: Option<Strategy>,
    ) -> Result<Entry, NotSwitched> {
        self.change_with(mapping, entry, target, None).await
    }

    /// The same; from the new version on the mapping is in this phase.
    async fn change_with(
        &mut self,
        mapping: &Mapping,
        entry: &Entry,
        target: Option<Strategy>,
        phase: Option<Phase>,
    ) -> Result<Entry, NotSwitched> {
        let next = Entry {
            version: entry.version + 1,
            strategy: entry.strategy.clone(),
            target: target.map(|target| target.name().to_owned()),
        };
        put(self.session, &mapping.name, &next, phase).await?;
        if let Err(error) = self.announce(mapping, &next).await {
            tracing::debug!(%error, "Redis was not told of a strategy");
        }
        Ok(next)
    }

    pub(super) async fn announce(
        &mut self,
        mapping: &Mapping,
        entry: &Entry,
    ) -> Result<(), UpstreamError> {
        let told = (mapping.name.clone(), entry.version, entry.text());
        self.control.announce(&[told]).await
    }

    /// Waits until each proxy that is alive goes by a version of the entry; tells who is dead.
    pub(super) async fn until_acknowledged(
        &mut self,
        mapping: &Mapping,
        version: u64,
        limit: Duration,
    ) -> Result<Vec<String>, NotSwitched> {
        let deadline = Instant::now() + limit;
        loop {
            let seen = self.look(&mapping.name).await?;
            let waits = |seen: &Seen| seen.is_alive && seen.acknowledged < version;
            let late = seen.iter().find(|(_, seen)| waits(seen));
            let Some((id, _)) = late else {
                let dead = seen.into_iter().filter(|(_, seen)| !seen.is_alive);
                return Ok(dead.map(|(id, _)| id).collect());
            };
            if Instant::now() >= deadline {
                return Err(NotSwitched::Proxies(id.clone()));
            }
            sleep(PAUSE).await;
        }
    }

    pub(super) async fn look(
        &mut self,
        mapping: &str,
    ) -> Result<BTreeMap<String, Seen>, NotSwitched> {
        let mut all: BTreeMap<String, Seen> = BTreeMap::new();
        let mut see = |id: String, left_ms: i64, standing: &str| {
            let seen = all.entry(id).or_default();
            let standing: Standing = serde_json::from_str(standing).unwrap_or_default();
            let version = standing.acknowledged.get(mapping).copied().unwrap_or(0);
            seen.is_alive |= left_ms >= 0;
            seen.acknowledged = seen.acknowledged.max(version);
        };
        let roll = self.session.proxies().await?;
        for proxy in roll.proxies {
            see(proxy.id, proxy.lease_until_ms - roll.now_ms, &proxy.standing);
        }
        let roll = self.control.proxies().await?;
        for proxy in roll.proxies {
            see(proxy.id, proxy.lease_until_ms - roll.now_ms, &proxy.standing);
        }
        Ok(all)
    }

    /// Waits until Postgres has what the journal has now.
    pub(super) async fn until_flushed(&mut self, deadline: Instant) -> Result<(), NotSwitched> {
        let mut until = None;
        while let Some((first, last)) = self.control.ends_of_journal().await?
            && first <= *until.get_or_insert(last)
        {
            if Instant::now() >= deadline {
                return Err(NotSwitched::Journal);
            }
            sleep(PAUSE).await;
        }
        Ok(())
    }

    /// Waits until the copies of what was written past Redis are gone: a strategy that writes to Redis first would
    /// go on from what is old.
    async fn until_copies_are_true(
        &mut self,
        mapping: &Mapping,
        deadline: Instant,
    ) -> Result<(), NotSwitched> {
        let mut until = self.session.newest_in_outbox(Some(&mapping.name), None).await?;
        while until.is_some() {
            if Instant::now() >= deadline {
                return Err(NotSwitched::Outbox);
            }
            sleep(PAUSE).await;
            until = self.session.newest_in_outbox(Some(&mapping.name), until).await?;
        }
        Ok(())
    }

    /// Of a mapping that leaves `redis_only`, with the barrier in place: from now on what Redis has is imported,
    /// so nothing may say of its keys that Postgres has had them.
    async fn forget_rows(&mut self, mapping: &Mapping) -> Result<(), NotSwitched> {
        Ok(self.session.forget_rows(mapping, self.discards_rows).await?)
    }

    /// By which policy Redis may evict any key, if it may.
    pub(super) async fn eviction(&mut self) -> Result<Option<String>, NotSwitched> {
        let words =
            ["CONFIG", "GET", "maxmemory-policy"].map(|word| Bytes::from_static(word.as_bytes()));
        // Where respgres' user may not ask, the operator has to know.
        let Frame::Array(told) = self.control.command(&words).await? else { return Ok(None) };
        Ok(match told.into_iter().nth(1) {
            Some(Frame::BulkString(policy)) if policy.starts_with(b"allkeys") => {
                Some(String::from_utf8_lossy(&policy).into_owned())
            }
            _ => None,
        })
    }

    /// Which of a mapping's keys have nothing in Redis that may be nowhere else: copies, and marks alone. A copy has an
    /// end, but for one that was made complete; it has a row. While a mapping imports, an original may have an end, too.
    async fn copies_of(
        &mut self,
        mapping: &Mapping,
        keys: Vec<Bytes>,
    ) -> Result<Vec<Bytes>, NotSwitched> {
        let mut copies = Vec::new();
        let mut in_doubt = keys;
        if !mapping.imports() {
            let asked: Vec<[Bytes; 2]> =
                in_doubt.iter().map(|key| [Bytes::from_static(b"PTTL"), key.clone()]).collect();
            let asked: Vec<&[Bytes]> = asked.iter().map(|words| &words[..]).collect();
            let told = self.control.commands(&asked).await?;
            for (key, told) in std::mem::take(&mut in_doubt).into_iter().zip(told) {
                match told {
                    Frame::Integer(-1) => in_doubt.push(key),
                    Frame::Integer(_) => copies.push(key),
                    Frame::Error(text) => {
                        return Err(UpstreamError::Refused(text.to_string()).into());
                    }
                    _ => return Err(UpstreamError::Protocol("an odd answer to PTTL".into()).into()),
                }
            }
        }
        if in_doubt.is_empty() {
            return Ok(copies);
        }
        let keys: Vec<MappedKey> =
            in_doubt.iter().filter_map(|key| self.registry.mapped_key(key)).collect();
        let needs = Needs { existence: true, ..Needs::default() };
        let wants: Vec<Want<'_>> =
            keys.iter().map(|key| Want { key, needs: &needs, whole_up_to: 0 }).collect();
        let read = self.session.read_parts(mapping, &wants, RowLock::None).await?;
        let names: Vec<&[u8]> = keys.iter().map(|key| &key.key[..]).collect();
        let had = match mapping.imports() {
            true => self.session.has_had(mapping, &names).await?,
            false => vec![false; names.len()],
        };
        let known = keys.iter().zip(read.rows.iter().zip(had));
        let known = known.filter(|(_, (row, had))| row.present || *had);
        copies.extend(known.map(|(key, _)| key.key.clone()));
        Ok(copies)
    }

    /// Drops the copies of a mapping's keys, and what stands beside them; not what only Redis has. Twice: what was set
    /// aside may have come back behind the walk.
    pub(super) async fn drop_copies(&mut self, mapping: &Mapping) -> Result<(), NotSwitched> {
        for _ in 0..2 {
            let mut cursor = Bytes::from_static(b"0");
            loop {
                let count = Bytes::from_static(SCAN_COUNT.as_bytes());
                let [scan, count_word] =
                    [Bytes::from_static(b"SCAN"), Bytes::from_static(b"COUNT")];
                let reply = self.control.command(&[scan, cursor, count_word, count]).await?;
                let (next, names) = scan_page(reply)?;
                let owners = names.into_iter().map(|name| owner_of(&name).unwrap_or(name));
                let of_mapping = |key: &Bytes| {
                    self.registry.find(key).is_some_and(|found| found.index == mapping.index)
                };
                let keys: HashSet<Bytes, ahash::RandomState> = owners.filter(of_mapping).collect();
                let keys = self.copies_of(mapping, keys.into_iter().collect()).await?;
                if !keys.is_empty() {
                    let keys =
                        keys.iter().flat_map(|key| [key.clone(), mark_of(key), aside_of(key)]);
                    let keys = keys.collect();
                    let call = Call { script: Script::Inval, keys, arguments: Vec::new() };
                    if let Some(Frame::Error(text)) = self.control.call(&[call]).await?.pop() {
                        return Err(UpstreamError::Refused(text.to_string()).into());
                    }
                }
                if &next[..] == b"0" {
                    break;
                }
                cursor = next;
            }
        }
        Ok(())
    }
}

/// Calls off what a switcher has left behind that has died; to be called where it may have.
pub(super) async fn call_off(
    session: &mut Session,
    entries: &[(String, Entry)],
) -> Result<(), NotSwitched> {
    if entries.iter().all(|(_, entry)| entry.target.is_none()) {
        return Ok(());
    }
    if !session.take_on(Work::Switch).await? {
        return Ok(());
    }
    // Now nobody else changes them.
    let mut done = Ok(());
    for (mapping, text) in session.mapping_entries().await? {
        let Some(entry) = Entry::parse(&text).filter(|entry| entry.target.is_some()) else {
            continue;
        };
        tracing::info!(mapping, "a change of its strategy that nobody carries on is called off");
        let next = Entry { version: entry.version + 1, target: None, ..entry };
        done = done.and(put(session, &mapping, &next, None).await);
    }
    session.lay_down(Work::Switch).await?;
    done
}

/// Makes an entry's next version.
async fn put(
    session: &mut Session,
    mapping: &str,
    entry: &Entry,
    phase: Option<Phase>,
) -> Result<(), NotSwitched> {
    let mut members = json!({
        "version": entry.version, "strategy": entry.strategy, "target": entry.target
    });
    if let Some(phase) = phase {
        members["phase"] = phase.name().into();
    }
    let before = entry.version - 1;
    match session.change_mapping_entry(mapping, before, &members.to_string()).await? {
        true => Ok(()),
        false => Err(NotSwitched::Raced),
    }
}
