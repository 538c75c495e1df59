//! What operators ask of a running proxy, and have it do: over connections of its own, one thing at a time.
//!
//! Who asks may go away at any moment: what is half done then is rolled back, with its connection.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::Mutex;
use tokio::time::timeout;

use super::dead_letters::{self, NotRetried};
use super::jobs::{JobReport, Jobs, Kind, NotBegun, Order};
use super::moving::{Backfill, Job, MovingError, Verify, Warm};
use super::switcher::{NotSwitched, Switched, Switcher, USUAL_LIMIT};
use super::through::connected;
use super::{Engine, EngineSettings};
use crate::command::Needs;
use crate::config::Strategy;
use crate::mapping::{MappedKey, Mapping, Phase};
use crate::store::outbox::OutboxState;
use crate::store::{DeadLetter, Phases, RowLock, Session, StoreError, Want};
use crate::upstream::UpstreamError;
use crate::upstream::control::{Control, Frame, scan_page};

/// How long the word of Redis, that it is there, is taken for true.
const FRESH: Duration = Duration::from_millis(250);

/// How long Redis may take to say so, and Postgres to tell of the outbox.
const LOOK: Duration = Duration::from_secs(1);

/// How long one who asks waits for another one.
const PATIENCE: Duration = Duration::from_secs(5);

/// Keys of Redis that are looked at at once.
const SCAN_COUNT: &str = "1000";

/// How long it is waited until the copies of one page of keys are gone, and between two looks.
const DROPPED: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(5);

#[derive(Debug)]
pub struct Operator {
    engine: Arc<Engine>,
    settings: EngineSettings,
    session: Mutex<Option<Session>>,
    /// When Redis was asked last whether it is there, and what came.
    asked: Mutex<(Control, Option<(Instant, bool)>)>,
    clearing: Mutex<()>,
    jobs: Arc<Jobs>,
}

/// What came of dropping copies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cleared {
    pub keys: u64,
    /// Of these are still to be dropped, such as those that Postgres does not have yet.
    pub pending: bool,
}

/// Why something could not be told or done.
#[derive(Debug, thiserror::Error)]
pub enum NotDone {
    #[error("there is no mapping with a side in Postgres")]
    NoMappings,
    #[error("there is no mapping {0:?} with a side in Postgres")]
    NoMapping(String),
    #[error("there is no dead letter {0}")]
    NoDeadLetter(i64),
    #[error("it is done for somebody else just now")]
    Busy,
    #[error("the job {id} runs: {kind}", id = .0.id, kind = .0.order.kind.name())]
    JobRuns(Box<JobReport>),
    #[error("there is no job {0}")]
    NoJob(u64),
    #[error("{0:?} lives in Redis alone")]
    NotMoving(String),
    #[error("{0:?} has migrated: Redis has nothing but copies of it")]
    HasMigrated(String),
    #[error("Redis has not been gone through yet")]
    NotSwept,
    #[error("the system gives no thread for it: {0}")]
    NoThread(std::io::Error),
    #[error("its change was not written: {0}")]
    NotRetried(NotRetried),
    #[error("{0}: {told}", told = .1.told())]
    NotSwitched(String, Box<NotSwitched>),
    #[error("Postgres does not do it now")]
    Store(#[from] StoreError),
    #[error("Redis does not do it now")]
    Upstream(#[from] UpstreamError),
}

// === impl Operator ===

impl Operator {
    pub fn new(engine: Arc<Engine>, settings: EngineSettings, jobs: Arc<Jobs>) -> Self {
        let control = Control::new(settings.control.clone());
        Self {
            engine,
            settings,
            session: Mutex::default(),
            asked: Mutex::new((control, None)),
            clearing: Mutex::default(),
            jobs,
        }
    }

    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Whether Redis answers: as of a moment ago, so that many who ask are one for Redis.
    pub async fn redis_answers(&self) -> bool {
        let mut asked = self.asked.lock().await;
        let (control, last) = &mut *asked;
        if let Some((at, answers)) = last
            && at.elapsed() < FRESH
        {
            return *answers;
        }
        let ping = [Bytes::from_static(b"PING")];
        let mut told = timeout(LOOK, control.command(&ping)).await;
        if matches!(told, Ok(Err(UpstreamError::Lost(_)))) {
            // The connection had died unnoticed.
            told = timeout(LOOK, control.command(&ping)).await;
        }
        // One that refuses, such as while it loads its data, is of no use either.
        let answers = matches!(told, Ok(Ok(frame)) if !matches!(frame, Frame::Error(_)));
        *last = Some((Instant::now(), answers));
        answers
    }

    /// Whether a mapping's table does not fit any more, so that its keys are refused.
    pub fn is_set_aside(&self, name: &str) -> bool {
        let mut mappings = self.engine.registry().mappings();
        let mapping = mappings.find(|mapping| mapping.name == name);
        mapping.is_some_and(|mapping| self.engine.current(mapping).is_none())
    }

    /// What is in the outbox; `None`: Postgres does not tell in time.
    pub async fn outbox(&self) -> Option<OutboxState> {
        let told = self.with_session(async |session| Ok(session.outbox_state().await?));
        timeout(LOOK, told).await.ok()?.ok()
    }

    /// Dead letters, oldest first, from behind this number on.
    ///
    /// # Errors
    /// When Postgres does not tell.
    pub async fn dead_letters(&self, after: i64, most: i64) -> Result<Vec<DeadLetter>, NotDone> {
        self.with_session(async |session| Ok(session.dead_letters(after, most).await?)).await
    }

    /// Makes the change of a dead letter, which is none any more then.
    ///
    /// # Errors
    /// When there is none of this number, or Postgres does not take it.
    pub async fn retry_dead_letter(&self, id: i64) -> Result<(), NotDone> {
        let registry = self.engine.registry();
        let mappings = registry.mappings();
        let mappings: Vec<Arc<Mapping>> =
            mappings.filter_map(|mapping| self.engine.current(mapping)).collect();
        let retry = async |session: &mut Session| {
            let done = dead_letters::retry(id, &mappings, registry, session).await;
            done.map_err(|error| match error {
                NotRetried::Unknown(id) => NotDone::NoDeadLetter(id),
                NotRetried::Store(
                    error @ (StoreError::Unreachable(_) | StoreError::Timeout(_)),
                ) => NotDone::Store(error),
                error => NotDone::NotRetried(error),
            })
        };
        self.with_session(retry).await
    }

    /// Forgets a dead letter.
    ///
    /// # Errors
    /// When there is none of this number, or Postgres does not answer.
    pub async fn drop_dead_letter(&self, id: i64) -> Result<(), NotDone> {
        let was_there =
            self.with_session(async |session| Ok(session.drop_dead_letter(id).await?)).await?;
        if was_there { Ok(()) } else { Err(NotDone::NoDeadLetter(id)) }
    }

    /// Has a mapping, or all that have a side in Postgres, go by another strategy, for all proxies; by mapping what came
    /// of it. If this future is dropped, the change that is under way is called off.
    ///
    /// # Errors
    /// Why one was not changed; those before it, in the order of the configuration, are.
    pub async fn switch(
        &self,
        name: Option<&str>,
        target: Strategy,
    ) -> Result<Vec<(String, Switched)>, NotDone> {
        let plans = &self.settings.plans;
        if let Some(name) = name
            && !plans.iter().any(|plan| plan.config.name == name)
        {
            return Err(NotDone::NoMapping(name.to_owned()));
        }
        let registry = self.engine.registry();
        if registry.is_empty() {
            return Err(NotDone::NoMappings);
        }
        // Of its own: it holds a lock for as long as it takes.
        let mut session = None;
        connected(&mut session, &self.settings).await?;
        let mut session = session.ok_or(StoreError::Unreachable(String::new()))?;
        let mut control = Control::new(self.settings.control.clone());
        let mut done = Vec::new();
        for plan in plans.iter().filter(|plan| name.is_none_or(|name| plan.config.name == name)) {
            let own = &plan.config.name;
            let mut mappings = registry.all().iter();
            let Some(mapping) = mappings.find(|mapping| mapping.index == plan.index) else {
                if name.is_some() {
                    return Err(NotDone::NotSwitched(
                        own.clone(),
                        NotSwitched::PassesThrough.into(),
                    ));
                }
                continue;
            };
            if name.is_none() && !mapping.gate.has_rows() {
                continue;
            }
            let (session, control) = (&mut session, &mut control);
            let limit = USUAL_LIMIT;
            let mut switcher = Switcher { session, control, registry, limit, discards_rows: false };
            let switched = switcher.switch(mapping, plan.config.strategy, target).await;
            let switched =
                switched.map_err(|error| NotDone::NotSwitched(own.clone(), error.into()))?;
            done.push((own.clone(), switched));
        }
        session.close().await;
        Ok(done)
    }

    /// Looks at both stores anew, over new connections, and has the workers that serve clients take new ones for
    /// their next batches; whether Redis and Postgres are there.
    pub async fn reconnect(&self) -> (bool, Option<bool>) {
        *self.asked.lock().await = (Control::new(self.settings.control.clone()), None);
        let redis = self.redis_answers().await;
        if !self.engine.has_mappings() {
            return (redis, None);
        }
        let health = &self.engine.health;
        health.renew();
        if let Ok(mut place) = timeout(PATIENCE, self.session.lock()).await {
            *place = None;
        }
        let is_lost = health.is_lost_now().await;
        self.engine.trust.poke();
        (redis, Some(!is_lost))
    }

    /// Drops the cached copies of a mapping's keys, or of all. By way of the outbox, as after a change by SQL: what
    /// Postgres does not have yet stays until it has.
    ///
    /// # Errors
    /// When there is no such mapping, when somebody is at it already, or a store does not answer.
    pub async fn clear_cache(&self, name: Option<&str>) -> Result<Cleared, NotDone> {
        let mut mappings = self.engine.registry().mappings();
        match name {
            None if mappings.next().is_none() => return Err(NotDone::NoMappings),
            Some(name) if !mappings.any(|mapping| mapping.name == name) => {
                return Err(NotDone::NoMapping(name.to_owned()));
            }
            _ => {}
        }
        let Ok(_alone) = self.clearing.try_lock() else { return Err(NotDone::Busy) };
        let mut control = Control::new(self.settings.control.clone());
        let (mut cleared, mut cursor) = (Cleared::default(), Bytes::from_static(b"0"));
        loop {
            let words = [
                Bytes::from_static(b"SCAN"),
                cursor,
                Bytes::from_static(b"COUNT"),
                Bytes::from_static(SCAN_COUNT.as_bytes()),
            ];
            let (next, names) = scan_page(control.command(&words).await?)?;
            let keys = names.iter().filter_map(|name| self.engine.registry().mapped_key(name));
            let keys: Vec<MappedKey> = keys
                .filter(|key| name.is_none_or(|name| name == key.mapping.name))
                .filter(|key| key.mapping.strategy() != Strategy::PostgresOnly)
                .collect();
            if !keys.is_empty() {
                let dropped =
                    self.with_session(async |session| self.drop_copies(session, &keys).await);
                let page = dropped.await?;
                cleared.keys += page.keys;
                cleared.pending |= page.pending;
            }
            if &next[..] == b"0" {
                return Ok(cleared);
            }
            cursor = next;
        }
    }

    async fn drop_copies(
        &self,
        session: &mut Session,
        keys: &[MappedKey],
    ) -> Result<Cleared, NotDone> {
        let mut copies: Vec<&MappedKey> = Vec::new();
        for mapping in self.engine.registry().mappings() {
            let of_mapping = keys.iter().filter(|key| key.mapping.index == mapping.index);
            let of_mapping: Vec<&MappedKey> = of_mapping.collect();
            if of_mapping.is_empty() || !mapping.imports() {
                copies.extend(of_mapping);
                continue;
            }
            // What has no row may be in Redis alone.
            let Some(mapping) = self.engine.current(mapping) else { continue };
            let needs = Needs { existence: true, ..Needs::default() };
            let want = |&key| Want { key, needs: &needs, whole_up_to: 0 };
            let wants: Vec<Want<'_>> = of_mapping.iter().map(want).collect();
            let read = session.read_parts(&mapping, &wants, RowLock::None).await?;
            let there = of_mapping.iter().zip(read.rows).filter(|(_, row)| row.present);
            copies.extend(there.map(|(key, _)| *key));
        }
        let ids = session.put_into_outbox(&copies).await?;
        let since = Instant::now();
        let mut pending = session.is_any_in_outbox(&ids).await?;
        while pending && since.elapsed() < DROPPED {
            tokio::time::sleep(PAUSE).await;
            pending = session.is_any_in_outbox(&ids).await?;
        }
        Ok(Cleared { keys: copies.len() as u64, pending })
    }

    /// The jobs that were started here.
    pub fn jobs(&self) -> &Jobs {
        &self.jobs
    }

    /// How far the mappings have moved; `None`: Postgres does not tell in time.
    pub async fn phases(&self) -> Option<Phases> {
        let told = self.with_session(async |session| Ok(session.phases().await?));
        timeout(LOOK, told).await.ok()?.ok()
    }

    /// Starts a job, which goes on when this one who has asked goes away.
    ///
    /// # Errors
    /// When another one runs, when it is for no mapping of which both stores may have keys, or a store does not answer.
    pub async fn start_job(&self, order: Order) -> Result<JobReport, NotDone> {
        let mappings = self.moving(order.mapping.as_deref())?;
        let place = self.jobs.take_place();
        let place = place.map_err(|runs| runs.map_or(NotDone::Busy, NotDone::JobRuns))?;
        let phases = self.with_session(async |session| Ok(session.phases().await?)).await?;
        // One that is to live in Redis alone from the next start on is not moved any more.
        let moves = |mapping: &&Arc<Mapping>| {
            phases.get(&mapping.name).is_some_and(|phase| !phase.passes_through())
        };
        if let Some(mapping) = mappings.iter().find(|mapping| !moves(mapping)) {
            return Err(NotDone::NotMoving(mapping.name.clone()));
        }
        let job = job_of(&order, mappings, &phases)?;
        // What jobs read and fill is no client's.
        let metrics = Arc::new(self.settings.metrics.aside());
        let settings = EngineSettings { metrics, ..self.settings.clone() };
        let registry = Arc::clone(&self.engine.registry);
        let begun = place.start(order, job, settings, registry).await;
        begun.map_err(|error| match error {
            NotBegun::NoThread(error) => NotDone::NoThread(error),
            NotBegun::NoGround(MovingError::Store(error)) => NotDone::Store(error),
            NotBegun::NoGround(MovingError::Upstream(error)) => NotDone::Upstream(error),
            // A mapping is just going to another side.
            NotBegun::NoGround(MovingError::GoingBack) => NotDone::Busy,
            NotBegun::NoGround(_) => NotDone::NotSwept,
        })
    }

    /// The mapping of this name, or all, of those that have a side in Postgres now.
    fn moving(&self, wanted: Option<&str>) -> Result<Vec<Arc<Mapping>>, NotDone> {
        let mappings = self.engine.registry.mappings();
        let is_wanted = |mapping: &&Arc<Mapping>| wanted.is_none_or(|name| mapping.name == name);
        let mappings: Vec<Arc<Mapping>> = mappings.filter(is_wanted).cloned().collect();
        if !mappings.is_empty() {
            return Ok(mappings);
        }
        let mut plans = self.settings.plans.iter();
        Err(match wanted {
            None => NotDone::NoMappings,
            Some(name) if plans.any(|plan| plan.config.name == name) => {
                NotDone::NotMoving(name.to_owned())
            }
            Some(name) => NotDone::NoMapping(name.to_owned()),
        })
    }

    /// Does something over the one session. It is taken out meanwhile: a future that is dropped half-way takes it,
    /// and its transaction, with it.
    async fn with_session<T>(
        &self,
        work: impl AsyncFnOnce(&mut Session) -> Result<T, NotDone>,
    ) -> Result<T, NotDone> {
        if !self.engine.has_mappings() {
            return Err(NotDone::NoMappings);
        }
        let Ok(mut place) = timeout(PATIENCE, self.session.lock()).await else {
            return Err(NotDone::Busy);
        };
        let mut taken = place.take();
        let was_connected = taken.is_some();
        let mut session = match connected(&mut taken, &self.settings).await {
            Ok(_) => taken.ok_or(StoreError::Unreachable(String::new()))?,
            Err(error) => return Err(error.into()),
        };
        if was_connected && session.ping().await.is_err() {
            // It had died unnoticed.
            let mut none = None;
            connected(&mut none, &self.settings).await?;
            session = none.ok_or(StoreError::Unreachable(String::new()))?;
        }
        let done = work(&mut session).await;
        if !session.is_broken() {
            *place = Some(session);
        }
        done
    }
}

/// What there is to do for these mappings.
fn job_of(order: &Order, mut mappings: Vec<Arc<Mapping>>, phases: &Phases) -> Result<Job, NotDone> {
    let Order { speed, sample, is_complete, .. } = *order;
    let repair = match order.kind {
        Kind::ToPostgres => {
            let first = mappings.first().map(|mapping| mapping.name.clone());
            mappings.retain(|mapping| phases.get(&mapping.name) != Some(&Phase::Migrated));
            if mappings.is_empty() {
                return Err(NotDone::HasMigrated(first.unwrap_or_default()));
            }
            return Ok(Job::Backfill(Backfill { mappings, speed }));
        }
        Kind::ToRedis => {
            mappings.retain(|mapping| mapping.strategy() != Strategy::PostgresOnly);
            return Ok(Job::Warm(Warm { mappings, speed }));
        }
        Kind::Check => None,
        Kind::Fix(repair) => Some(repair),
    };
    Ok(Job::Verify(Verify { mappings, speed, sample, is_complete, repair }))
}
