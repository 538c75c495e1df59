//! The jobs that operators start on a running proxy: what runs, how far it is, and what became of the last ones.
//!
//! Invariants
//! - One runs at a time, in a thread of its own: who asks how far it is waits for none of its work.
//! - It goes on when the one who has started it goes away, and ends with the proxy. What it has done holds; begun
//!   again, it goes on (see `moving`).
//! - What is kept of jobs that have ended is bounded.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use tokio::runtime::Builder;
use tokio::sync::{oneshot, watch};

use super::EngineSettings;
use super::moving::{
    Finding, Ground, Handle, Job, MovingError, Progress, Repair, Running, Speed, start,
};
use crate::mapping::Registry;

/// Jobs that have ended and are still told of.
const KEPT: usize = 20;

/// The longest example that is kept of a job that has ended.
const EXAMPLE_BYTES: usize = 300;

/// All jobs of one proxy.
#[derive(Debug, Default)]
pub struct Jobs {
    table: Mutex<Table>,
    runs: watch::Sender<bool>,
}

#[derive(Debug, Default)]
struct Table {
    last_id: u64,
    /// Somebody is about to enter one.
    is_taken: bool,
    /// The proxy ends.
    is_stopped: bool,
    running: Option<Entry>,
    /// The last one first.
    ended: VecDeque<JobReport>,
}

#[derive(Debug)]
struct Entry {
    id: u64,
    order: Order,
    started_at: SystemTime,
    handle: Handle,
    is_cancelled: bool,
}

/// What is to be done, in the words of who wants it.
#[derive(Clone, Debug)]
pub struct Order {
    pub kind: Kind,
    /// `None`: all that it can be done for.
    pub mapping: Option<String>,
    pub speed: Speed,
    /// Only so many keys, of a check or a fix.
    pub sample: Option<u64>,
    /// Redis is to have every key, after a check or a fix.
    pub is_complete: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    ToPostgres,
    ToRedis,
    Check,
    Fix(Repair),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Running,
    /// It ends when what is under way is done.
    Cancelling,
    Done,
    Cancelled,
    Failed,
}

/// A job at one moment.
#[derive(Clone, Debug)]
pub struct JobReport {
    pub id: u64,
    pub order: Order,
    pub state: State,
    pub started_at: SystemTime,
    pub progress: Progress,
    /// What it has found so far, most frequent first.
    pub findings: Vec<Finding>,
    /// Why it has failed.
    pub error: Option<String>,
}

/// Why a job did not begin.
#[derive(Debug)]
pub(super) enum NotBegun {
    NoThread(std::io::Error),
    NoGround(MovingError),
}

/// Whom to tell that a job has begun.
type Told = oneshot::Sender<Result<JobReport, NotBegun>>;

/// The right to start the next job; given back when dropped.
#[derive(Debug)]
pub(super) struct Place {
    jobs: Arc<Jobs>,
    /// The job has it now.
    is_used: bool,
}

// === impl Kind ===

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Self::ToPostgres => "sync_redis_to_postgres",
            Self::ToRedis => "sync_postgres_to_redis",
            Self::Check => "consistency_check",
            Self::Fix(_) => "consistency_fix",
        }
    }
}

// === impl State ===

impl State {
    pub fn name(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Cancelling => "cancelling",
            Self::Done => "done",
            Self::Cancelled => "cancelled",
            Self::Failed => "failed",
        }
    }
}

// === impl Jobs ===

impl Jobs {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The one that runs, and those that have ended last, newest first.
    pub fn list(&self) -> Vec<JobReport> {
        let table = self.table();
        table.running.iter().map(Entry::report).chain(table.ended.iter().cloned()).collect()
    }

    /// Of those in the list the one with this number.
    pub fn get(&self, id: u64) -> Option<JobReport> {
        self.list().into_iter().find(|job| job.id == id)
    }

    /// Has a job end when what is under way is done; one that has ended stays as it is. `None`: there is none with
    /// this number.
    pub fn cancel(&self, id: u64) -> Option<JobReport> {
        let mut table = self.table();
        if let Some(entry) = table.running.as_mut().filter(|entry| entry.id == id) {
            entry.cancel();
        }
        drop(table);
        self.get(id)
    }

    /// Has the one that runs end, and no other one begin.
    pub fn stop(&self) {
        let mut table = self.table();
        table.is_stopped = true;
        if let Some(entry) = &mut table.running {
            entry.cancel();
        }
    }

    /// Completes when none runs.
    pub async fn ended(&self) {
        // The sender is this one's own.
        drop(self.runs.subscribe().wait_for(|runs| !runs).await);
    }

    /// The right to start one. `Err`: who runs, if it does already.
    pub(super) fn take_place(self: &Arc<Self>) -> Result<Place, Option<Box<JobReport>>> {
        let mut table = self.table();
        if let Some(entry) = &table.running {
            return Err(Some(Box::new(entry.report())));
        }
        if table.is_taken || table.is_stopped {
            return Err(None);
        }
        table.is_taken = true;
        Ok(Place { jobs: Arc::clone(self), is_used: false })
    }

    fn enter(&self, order: Order, handle: Handle) -> JobReport {
        let mut table = self.table();
        table.last_id += 1;
        let mut entry = Entry {
            id: table.last_id,
            order,
            started_at: SystemTime::now(),
            handle,
            is_cancelled: false,
        };
        if table.is_stopped {
            entry.cancel();
        }
        let report = entry.report();
        table.is_taken = false;
        table.running = Some(entry);
        self.runs.send_replace(true);
        report
    }

    fn leave(&self, ended: Result<(), MovingError>) {
        let mut table = self.table();
        let Some(entry) = table.running.take() else { return };
        let mut report = entry.report();
        drop(entry);
        shorten(&mut report.findings);
        let (id, kind) = (report.id, report.order.kind.name());
        report.state = match ended {
            Ok(()) => State::Done,
            Err(MovingError::Cancelled) => State::Cancelled,
            Err(error) => {
                tracing::warn!(job = id, kind, %error, "a job has ended before its end");
                report.error = Some(told(&error));
                State::Failed
            }
        };
        let Progress { done, written, findings, .. } = report.progress;
        let state = report.state.name();
        tracing::info!(job = id, kind, state, done, written, findings, "a job has ended");
        table.ended.push_front(report);
        table.ended.truncate(KEPT);
        self.runs.send_replace(false);
    }
}

/// What is told of a failure: causes are for the log.
fn told(error: &MovingError) -> String {
    match error {
        MovingError::Store(_) => "Postgres does not do it now; the log has more".to_owned(),
        MovingError::Upstream(_) => "Redis does not do it now; the log has more".to_owned(),
        other => other.to_string(),
    }
}

fn shorten(findings: &mut [Finding]) {
    for example in findings.iter_mut().flat_map(|finding| &mut finding.examples) {
        if example.len() > EXAMPLE_BYTES {
            example.truncate(example.floor_char_boundary(EXAMPLE_BYTES));
            example.push('…');
            example.shrink_to_fit();
        }
    }
}

// === impl Place ===

impl Place {
    /// Starts the job in a thread of its own, with connections that are that thread's as well: those of another
    /// one would end with it.
    ///
    /// # Errors
    /// When the system gives no thread, or there is no ground for it.
    pub(super) async fn start(
        self,
        order: Order,
        job: Job,
        settings: EngineSettings,
        registry: Arc<Registry>,
    ) -> Result<JobReport, NotBegun> {
        let (tell, told) = oneshot::channel();
        let work = move || match Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime.block_on(async {
                match Ground::open(&settings, registry).await {
                    Ok(ground) => self.run(order, job, Arc::new(ground), tell).await,
                    Err(error) => self.give_back(tell, NotBegun::NoGround(error)),
                }
            }),
            Err(error) => self.give_back(tell, NotBegun::NoThread(error)),
        };
        let thread = std::thread::Builder::new().name("job".to_owned());
        thread.spawn(work).map_err(NotBegun::NoThread)?;
        let died = || NotBegun::NoThread(std::io::Error::other("the thread has died"));
        told.await.unwrap_or_else(|_| Err(died()))
    }

    /// Tells that there will be no job when another one may already be started.
    fn give_back(self, tell: Told, error: NotBegun) {
        drop(self);
        // Who has asked may have gone.
        let _ = tell.send(Err(error));
    }

    async fn run(mut self, order: Order, job: Job, ground: Arc<Ground>, tell: Told) {
        let mut running: Running = start(job, ground);
        let report = self.jobs.enter(order, running.handle());
        self.is_used = true;
        let (id, kind) = (report.id, report.order.kind.name());
        tracing::info!(job = id, kind, mapping = report.order.mapping, "a job has begun");
        // Who has asked may have gone.
        let _ = tell.send(Ok(report));
        let ended = running.ended().await;
        self.jobs.leave(ended);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if !self.is_used {
            self.jobs.table().is_taken = false;
        }
    }
}

// === impl Entry ===

impl Entry {
    fn report(&self) -> JobReport {
        JobReport {
            id: self.id,
            order: self.order.clone(),
            state: if self.is_cancelled { State::Cancelling } else { State::Running },
            started_at: self.started_at,
            progress: self.handle.progress(),
            findings: self.handle.findings(),
            error: None,
        }
    }

    fn cancel(&mut self) {
        self.is_cancelled = true;
        self.handle.cancel();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order() -> Order {
        let speed = Speed { keys_per_second: 0, parallel: 1 };
        Order { kind: Kind::Check, mapping: None, speed, sample: None, is_complete: false }
    }

    #[test]
    fn one_runs_at_a_time_and_the_last_ones_are_remembered() {
        let jobs = Arc::new(Jobs::default());
        drop(jobs.take_place().unwrap());
        for id in 1..=30 {
            let mut place = jobs.take_place().unwrap();
            assert!(jobs.take_place().unwrap_err().is_none(), "somebody is about to start one");
            place.is_used = true;
            assert_eq!(jobs.enter(order(), Handle::default()).id, id);
            assert_eq!(jobs.take_place().unwrap_err().unwrap().id, id);
            jobs.leave(Ok(()));
            drop(place);
        }
        let ids: Vec<u64> = jobs.list().iter().map(|job| job.id).collect();
        assert_eq!(ids, (11..=30).rev().collect::<Vec<_>>());
        assert!(jobs.get(10).is_none() && jobs.cancel(10).is_none());
        assert_eq!(jobs.cancel(30).unwrap().state, State::Done);
    }

    #[test]
    fn a_proxy_that_ends_takes_its_job_with_it() {
        let jobs = Arc::new(Jobs::default());
        let place = jobs.take_place().unwrap();
        let handle = Handle::default();
        jobs.enter(order(), handle.clone());
        jobs.stop();
        assert!(handle.is_cancelled());
        assert_eq!(jobs.get(1).unwrap().state, State::Cancelling);
        jobs.leave(Err(MovingError::Cancelled));
        drop(place);
        assert_eq!(jobs.get(1).unwrap().state, State::Cancelled);
        assert!(jobs.take_place().unwrap_err().is_none());
    }

    #[test]
    fn a_failure_is_told_without_its_cause() {
        let jobs = Arc::new(Jobs::default());
        let unreachable = crate::store::StoreError::Unreachable("postgres://secret".into());
        for (error, expected) in [
            (MovingError::Store(unreachable), "Postgres does not do it now; the log has more"),
            (MovingError::StartedAnew, &*MovingError::StartedAnew.to_string()),
        ] {
            let id = jobs.enter(order(), Handle::default()).id;
            jobs.leave(Err(error));
            let job = jobs.get(id).unwrap();
            assert_eq!((job.state, job.error.as_deref()), (State::Failed, Some(expected)));
        }
    }

    #[test]
    fn long_examples_are_cut() {
        let examples = vec!["é".repeat(1000), "short".to_owned()];
        let (mapping, what) = ("m".to_owned(), "w".to_owned());
        let mut findings = [Finding { mapping, what, keys: 2, examples }];
        shorten(&mut findings);
        assert_eq!(findings[0].examples[0], "é".repeat(150) + "…");
        assert_eq!(findings[0].examples[1], "short");
    }
}
