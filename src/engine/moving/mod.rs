//! Moving data: jobs that go through all keys of mappings and bring them from one store to the other, or compare
//! both sides, while clients go on through any number of proxies.
//!
//! A job runs over connections of its own and does nothing to a key that a proxy could not do for a client: it
//! holds the key's lock, and asks what an import, a write or a fill asks. So it may run anywhere, be killed at any
//! line, and be begun again: it goes over all keys, and what is done is quickly seen to be done.
//!
//! `start` gives a handle, by which the job can be watched and cancelled.

mod backfill;
mod compare;
mod crew;
mod hits;
mod pace;
mod part;
mod progress;
mod together;
mod verify;
mod walk;
mod warm;

use std::sync::Arc;

use tokio::sync::{Mutex, oneshot};

use super::EngineSettings;
use super::import::Importer;
use super::tables::Tables;
use super::through::connected;
use super::transaction::Failure;
use super::trust::Trust;
use crate::mapping::{Mapping, Registry};
use crate::store::{Session, StoreError};
use crate::tasks::Tasks;
use crate::upstream::UpstreamError;
use crate::upstream::control::Control;

pub use backfill::Backfill;
use crew::Patience;
pub use hits::Draw;
pub(super) use hits::{Checker, Checks};
pub use part::Part;
use progress::Counters;
pub use progress::{Finding, Progress};
pub use verify::{Repair, Verify};
pub use warm::Warm;
use warm::Warming;

/// What is to be done.
#[derive(Clone, Debug)]
pub enum Job {
    Backfill(Backfill),
    Verify(Verify),
    Warm(Warm),
}

/// How fast, and over how many connections to each store.
#[derive(Clone, Copy, Debug)]
pub struct Speed {
    /// Most keys a second; 0: as fast as it goes.
    pub keys_per_second: u32,
    pub parallel: usize,
}

/// What jobs run on.
#[derive(Debug)]
pub struct Ground {
    settings: EngineSettings,
    registry: Arc<Registry>,
    tables: Arc<Tables>,
    trust: Arc<Trust>,
    /// Keeps mappings where they are meanwhile; the settings have it too.
    part: Arc<Part>,
    /// For walks that need no Postgres otherwise.
    session: Mutex<Option<Session>>,
}

/// Why a job ended before its end.
#[derive(Debug, thiserror::Error)]
pub enum MovingError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
    #[error(
        "no respgres has gone through this Redis yet: let one run over it first (`respgres run`)"
    )]
    NotSwept,
    #[error("Redis has started anew: begin again when a respgres has gone through it")]
    StartedAnew,
    #[error(
        "a mapping is just going back to Redis alone, or into or out of postgres_only, or has done so meanwhile: begin again \
         when that is done"
    )]
    GoingBack,
    #[error("a key cannot be looked at: somebody has been at it for too long")]
    Stuck,
    #[error("it was cancelled")]
    Cancelled,
    #[error("it has ended by itself, which is a defect of respgres; please report it")]
    Died,
}

/// A job that runs.
#[derive(Debug)]
pub struct Running {
    handle: Handle,
    ended: oneshot::Receiver<Result<(), MovingError>>,
}

/// By which a job is watched and cancelled.
#[derive(Clone, Debug, Default)]
pub struct Handle {
    counters: Arc<Counters>,
    tasks: Tasks,
}

/// One that works on keys: a connection to either store.
struct Hand {
    ground: Arc<Ground>,
    session: Option<Session>,
    control: Control,
    /// For jobs that fill.
    warming: Option<Warming>,
    /// Whether the last keys had a row, some of them.
    meets_rows: bool,
}

/// Begins a job on the current runtime.
pub fn start(job: Job, ground: Arc<Ground>) -> Running {
    let (tell, ended) = oneshot::channel();
    let handle = Handle::default();
    let Handle { counters, tasks } = handle.clone();
    handle.tasks.spawn(async move {
        let done = match job {
            Job::Backfill(backfill) => backfill.run(ground, &counters, &tasks).await,
            Job::Verify(verify) => verify.run(ground, &counters, &tasks).await,
            Job::Warm(warm) => warm.run(ground, &counters, &tasks).await,
        };
        // Whoever started it may have gone.
        let _ = tell.send(done);
    });
    Running { handle, ended }
}

// === impl Running ===

impl Running {
    /// How far it is.
    pub fn progress(&self) -> Progress {
        self.handle.progress()
    }

    /// Has it end when what is under way is done.
    pub fn cancel(&self) {
        self.handle.cancel();
    }

    /// What it has found so far, most frequent first.
    pub fn findings(&self) -> Vec<Finding> {
        self.handle.findings()
    }

    /// For others who watch it.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// What there is to say of keys that are as they may be, most frequent first.
    pub fn remarks(&self) -> Vec<Finding> {
        self.handle.counters.remarks()
    }

    /// Completes when the job has ended.
    ///
    /// # Errors
    /// Why it ended before its end.
    pub async fn ended(&mut self) -> Result<(), MovingError> {
        (&mut self.ended).await.unwrap_or(Err(MovingError::Died))
    }
}

// === impl Handle ===

impl Handle {
    /// As those of `Running`.
    pub fn progress(&self) -> Progress {
        self.counters.progress()
    }

    pub fn findings(&self) -> Vec<Finding> {
        self.counters.findings()
    }

    pub fn cancel(&self) {
        self.tasks.stop();
    }

    #[cfg(test)]
    pub(super) fn is_cancelled(&self) -> bool {
        self.tasks.is_stopping()
    }
}

// === impl Ground ===

impl Ground {
    /// Over a Redis that a proxy has gone through, so that it is known what its keys are.
    ///
    /// # Errors
    /// When it has not, or a store is out of reach.
    pub async fn open(
        settings: &EngineSettings,
        registry: impl Into<Arc<Registry>>,
    ) -> Result<Self, MovingError> {
        let registry = registry.into();
        let part = Arc::new(Part::new(&registry));
        let settings = EngineSettings { part: Some(Arc::clone(&part)), ..settings.clone() };
        let mut session = None;
        let swept = match connected(&mut session, &settings).await {
            Ok(session) => session.swept().await?.ok_or(MovingError::NotSwept)?,
            Err(_) if part.is_lost() => return Err(MovingError::GoingBack),
            Err(error) => return Err(error.into()),
        };
        let ground = Self {
            tables: Arc::new(Tables::new(&settings.plans)),
            settings,
            registry,
            trust: Arc::default(),
            part,
            session: Mutex::new(session),
        };
        let mut control = Control::new(ground.settings.control.clone());
        let run = control.run_id().await?.ok_or(MovingError::NotSwept)?;
        let epoch = control.journal_state().await?.epoch;
        if swept.run != run.to_string() || epoch != Some(swept.epoch) {
            return Err(MovingError::NotSwept);
        }
        let attempt = ground.trust.begin_again(run);
        ground.trust.believe(run, attempt);
        Ok(ground)
    }

    /// The mappings that have a side in Postgres.
    pub fn mappings(&self) -> impl Iterator<Item = &Arc<Mapping>> {
        self.registry.mappings()
    }

    /// Sees that the job still has its part. What ends is begun anew, for as long as a hand would try to.
    async fn hold_on(&self, tasks: &Tasks) -> Result<(), MovingError> {
        let mut session = self.session.lock().await;
        let mut patience = Patience::default();
        loop {
            let lives = match session.as_mut() {
                Some(session) => session.ping().await.is_ok(),
                None => false,
            };
            if lives {
                return Ok(());
            }
            *session = None;
            if let Err(error) = connected(&mut session, &self.settings).await {
                if self.part.is_lost() {
                    return Err(MovingError::GoingBack);
                }
                patience.wait(error.into(), self, tasks).await?;
            }
        }
    }
}

// === impl Hand ===

impl Hand {
    fn new(ground: &Arc<Ground>) -> Self {
        let control = Control::new(ground.settings.control.clone());
        Self { ground: Arc::clone(ground), session: None, control, warming: None, meets_rows: true }
    }

    async fn session(&mut self) -> Result<&mut Session, StoreError> {
        connected(&mut self.session, &self.ground.settings).await
    }

    fn importer(&mut self) -> Importer<'_> {
        let Self { ground, session, control, .. } = self;
        let Ground { settings, tables, trust, .. } = &**ground;
        Importer { settings, trust, tables, session, control }
    }

    /// The mapping as its table is now.
    fn current(&self, mapping: &Arc<Mapping>) -> Result<Arc<Mapping>, MovingError> {
        let current = self.ground.tables.current(mapping);
        current.ok_or_else(|| MovingError::Store(super::through::set_aside()))
    }

    async fn close(self) {
        if let Some(session) = self.session {
            session.close().await;
        }
    }
}

// === impl MovingError ===

impl MovingError {
    /// Whether trying again soon may help.
    fn may_pass(&self) -> bool {
        match self {
            Self::Store(error) => matches!(
                error,
                StoreError::Unreachable(_)
                    | StoreError::InDoubt(_)
                    | StoreError::Timeout(_)
                    | StoreError::Raced
                    | StoreError::Retryable { .. }
            ),
            Self::Upstream(error) => {
                matches!(error, UpstreamError::Lost(_) | UpstreamError::Timeout(_))
            }
            Self::Stuck => true,
            Self::NotSwept | Self::StartedAnew | Self::GoingBack | Self::Cancelled | Self::Died => {
                false
            }
        }
    }
}

impl From<Failure> for MovingError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Store(error) => Self::Store(error),
            Failure::Upstream(UpstreamError::Elsewhere) => Self::StartedAnew,
            Failure::Upstream(error) => Self::Upstream(error),
            Failure::Dirty
            | Failure::Ahead
            | Failure::Originals(_)
            | Failure::Unseen
            | Failure::Refused { .. }
            | Failure::Apart
            | Failure::NotDropped => Self::Stuck,
        }
    }
}
