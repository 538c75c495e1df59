//! Who answers a command, and which side goes first: the one place that knows that there are two
//! stores.
//!
//! Event loops hand operations on mapped keys to workers that own connections to both stores; the
//! answers come back through the loops' mailboxes.

mod asked;
mod barrier;
mod beat;
pub mod behind;
mod completion;
mod copy;
pub mod dead_letters;
mod dropped;
pub mod errand;
mod expirer;
pub mod explain;
mod fill;
mod fits;
pub mod fleet;
mod flusher;
mod fold;
pub mod health;
mod import;
pub mod jobs;
pub mod journal;
mod keeper;
pub mod keyspace;
mod listener;
mod load;
pub mod loan;
pub mod mailbox;
pub mod miss;
pub mod moving;
pub mod operation;
pub mod operator;
mod process;
pub mod queue;
pub mod refusal;
pub mod rescue;
pub mod rollback;
pub mod route;
pub mod slow;
mod split;
pub mod step;
pub mod stream;
pub mod switchboard;
pub mod switcher;
pub mod tables;
pub mod through;
mod transaction;
mod trust;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use crate::config::{self, Strategy};
use crate::mapping::registry::Plan;
use crate::mapping::{MappedKey, Mapping, Pass, Registry};
use crate::metrics::Metrics;
use crate::tasks::Tasks;
use crate::upstream::RunId;
use crate::upstream::control::ControlSettings;

use beat::Heart;
pub use errand::{Errand, ErrandFailed, Over, Runner};
use expirer::Expirer;
pub use fleet::{Fleet, FleetReport};
use flusher::Flusher;
use health::Watcher;
pub use health::{Health, HealthReport};
pub use journal::JournalReport;
use keeper::Keeper;
use keyspace::Surveyor;
pub use keyspace::{Ask, Survey};
pub use loan::watch::Watched;
pub use loan::{Admission, Lent, Loan, Told, enter_all};
use loan::{Job, LENDERS, Lender};
pub use mailbox::{Answer, Mail, Mailbox, ReplyTo};
pub use moving::Draw;
use moving::{Checker, Checks};
pub use operation::Operation;
pub use queue::Queue;
use step::Stepping;
pub use stream::{Large, Piece};
use stream::{Streamer, Streaming};
use switchboard::Switchboard;
use tables::Tables;
use trust::Trust;

/// Bytes of arguments that one worker takes on at once.
const BATCH_BYTES: usize = 32 << 20;

/// Shorter than the usual limit of a call to a store.
const TICK: Duration = Duration::from_millis(500);

/// What the engine runs on.
#[derive(Clone, Debug)]
pub struct EngineSettings {
    pub postgres: config::Postgres,
    pub journal: config::Journal,
    pub control: ControlSettings,
    /// Whether Postgres is there.
    pub health: Arc<Health>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// What a write that goes past Redis owes to those who reach it.
    pub redis_loss: config::RedisLoss,
    /// Who else is there.
    pub fleet: Arc<Fleet>,
    pub lease_ms: u64,
    /// A value with more elements, a row for each, is not cached.
    pub cache_max_elements: usize,
    /// The share of hits that are compared with Postgres.
    pub verify_hits: f64,
    /// What the mappings are to be bound to again when a table changes.
    pub plans: Vec<Plan>,
    /// The longest reply that a client can be sent.
    pub reply_most_bytes: usize,
    /// Of a job that moves keys: what every session has to have.
    pub part: Option<Arc<moving::Part>>,
}

/// The mapped side of respgres: which keys are mapped, and the workers that serve them.
#[derive(Debug)]
pub struct Engine {
    registry: Arc<Registry>,
    /// The database whose keys are mapped.
    database: u16,
    writers: Vec<Arc<Queue>>,
    /// What Redis is told first.
    behind: Arc<Queue>,
    /// What Postgres is told first of keys of which Redis may be ahead.
    beside_behind: Arc<Queue>,
    /// What event loops tell Redis first themselves.
    stepping: Arc<Stepping>,
    /// The most changes that the journal may hold.
    journal_changes: u64,
    readers: Vec<Arc<Queue>>,
    streams: Arc<Queue<Streaming>>,
    loans: Arc<Queue<Job>>,
    trust: Arc<Trust>,
    health: Arc<Health>,
    fleet: Arc<Fleet>,
    metrics: Arc<Metrics>,
    board: Arc<Switchboard>,
    /// What looks at all keys, and what looks at some of them.
    surveys: [Arc<Queue<Survey>>; 2],
    /// Where some hits are compared with Postgres.
    checks: Option<Checks>,
}

// === impl Engine ===

impl Engine {
    /// An engine whose queues nobody serves yet; see `start`. The mappings of `registry` are those
    /// that have a side in Postgres, or may get one.
    pub fn new(registry: Registry, settings: &EngineSettings) -> Self {
        let queues = |count: usize| (0..count.max(1)).map(|_| Arc::default()).collect();
        let board = Arc::new(Switchboard::new(&registry));
        Self {
            registry: Arc::new(registry),
            database: settings.control.database,
            writers: queues(settings.postgres.writers),
            behind: Arc::default(),
            beside_behind: Arc::default(),
            stepping: Arc::default(),
            journal_changes: settings.journal.max_changes,
            readers: queues(settings.postgres.readers),
            streams: Arc::default(),
            loans: Arc::default(),
            trust: Arc::default(),
            health: Arc::clone(&settings.health),
            fleet: Arc::clone(&settings.fleet),
            metrics: Arc::clone(&settings.metrics),
            board,
            surveys: Default::default(),
            checks: Checks::of(settings),
        }
    }

    /// Spawns the workers on the current runtime, and those that look at many keys on a thread of their
    /// own.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(&self, settings: &EngineSettings, tasks: &Tasks) -> std::io::Result<()> {
        let tables = Arc::new(Tables::new(&settings.plans));
        self.stepping.learn_tables(&tables);
        let tasks_of_clock = tasks.clone();
        tasks.spawn(async move { keep_ticking(&tasks_of_clock).await });
        for queue in &self.writers {
            let worker = through::Writer::new(
                settings,
                self.trust(),
                Arc::clone(&tables),
                Arc::clone(queue),
            );
            let worker = worker.handing_over_to(Arc::clone(&self.behind));
            let tasks_of_worker = tasks.clone();
            tasks.spawn(async move { worker.run(&tasks_of_worker).await });
        }
        if self.has_mappings() {
            let settled = |queue: &Arc<Queue>| {
                let (tables, queue) = (Arc::clone(&tables), Arc::clone(queue));
                through::Writer::new(settings, self.trust(), tables, queue).never_past_redis()
            };
            let worker =
                behind::BehindWriter::new(settled(&self.behind), Arc::clone(&self.stepping));
            let tasks_of_worker = tasks.clone();
            tasks.spawn(async move { Box::pin(worker.run(&tasks_of_worker)).await });
            let worker = settled(&self.beside_behind);
            let tasks_of_worker = tasks.clone();
            tasks.spawn(async move { worker.run(&tasks_of_worker).await });
        }
        for queue in &self.readers {
            let worker = miss::MissReader::new(
                settings,
                self.trust(),
                Arc::clone(&tables),
                Arc::clone(queue),
            );
            let tasks_of_worker = tasks.clone();
            tasks.spawn(async move { worker.run(&tasks_of_worker).await });
        }
        let streamer = Streamer::new(settings, Arc::clone(&tables), Arc::clone(&self.streams));
        let tasks_of_streamer = tasks.clone();
        tasks.spawn(async move { Arc::new(streamer).run(&tasks_of_streamer).await });
        let digester = loan::watch::Digester::default();
        for _ in 0..LENDERS {
            let (tables, queue) = (Arc::clone(&tables), Arc::clone(&self.loans));
            let registry = Arc::clone(&self.registry);
            let digester = digester.clone();
            let worker = Lender::new(settings, self.trust(), tables, registry, digester, queue);
            let tasks_of_worker = tasks.clone();
            tasks.spawn(async move { Box::pin(worker.run(&tasks_of_worker)).await });
        }
        if self.has_mappings() {
            let watcher = Watcher::new(Arc::clone(&self.health), &settings.postgres);
            let tasks_of_watcher = tasks.clone();
            tasks.spawn(async move { watcher.run(&tasks_of_watcher).await });
            let registry = Arc::clone(&self.registry);
            let keeper = Keeper::new(settings, self.trust(), registry, Arc::clone(&tables));
            let tasks_of_keeper = tasks.clone();
            tasks.spawn(async move { keeper.run(&tasks_of_keeper).await });
            let registry = Arc::clone(&self.registry);
            let expirer = Expirer::new(settings, registry, Arc::clone(&tables));
            let tasks_of_expirer = tasks.clone();
            tasks.spawn(async move { expirer.run(&tasks_of_expirer).await });
            // Also when nothing is written behind any more: there may be something left.
            let registry = Arc::clone(&self.registry);
            let flusher = Flusher::new(settings, self.trust(), registry, Arc::clone(&tables));
            let tasks_of_flusher = tasks.clone();
            tasks.spawn(async move { flusher.run(&tasks_of_flusher).await });
            if let Some(keys) = self.checks.as_ref().and_then(Checks::take_keys) {
                let (registry, tables) = (Arc::clone(&self.registry), Arc::clone(&tables));
                let checker = Checker::new(settings, registry, tables, self.trust(), keys);
                let tasks_of_checker = tasks.clone();
                tasks.spawn(async move { checker.run(&tasks_of_checker).await });
            }
            tasks.spawn(listener::listen(settings.clone(), self.trust(), tasks.clone()));
        }
        let surveyor = |queue: &Arc<Queue<Survey>>, long| {
            let (registry, tables) = (Arc::clone(&self.registry), Arc::clone(&tables));
            let (trust, queue) = (self.trust(), Arc::clone(queue));
            Surveyor::new(settings, trust, registry, tables, queue, tasks.clone(), long)
        };
        let [all, some] = &self.surveys;
        keyspace::start([surveyor(all, true), surveyor(some, false)], tasks)
    }

    /// Has the other proxies know that this one is alive, until `tasks` are asked to stop: when all else has
    /// ended.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start_beating(&self, settings: &EngineSettings, tasks: &Tasks) -> std::io::Result<()> {
        if !self.has_mappings() {
            return Ok(());
        }
        self.fleet.begin();
        let (fleet, health) = (Arc::clone(&self.fleet), Arc::clone(&self.health));
        let heart = Heart::new(fleet, self.trust(), health, Arc::clone(&self.board));
        beat::start(&heart, settings, tasks)
    }

    fn trust(&self) -> Arc<Trust> {
        Arc::clone(&self.trust)
    }

    /// Has an event loop told of mappings that leave `redis_only`; to be called before it serves clients.
    pub fn attach(&self, mailbox: &Arc<Mailbox>) {
        self.board.attach(Arc::clone(mailbox));
    }

    /// Goes by what operators have settled before this proxy began: mapping, and value as JSON.
    pub fn adopt(&self, entries: &[(String, String)]) {
        self.board.adopt(entries);
    }

    /// Completes once this proxy has a lease; at once where no key is mapped.
    pub async fn registered(&self) {
        if self.has_mappings() {
            self.fleet.registered().await;
        }
    }

    /// Completes once what Redis says of mapped keys is believed; at once where none is mapped. May take for
    /// ever, where Redis or Postgres is out of reach.
    pub async fn settled(&self) {
        if self.has_mappings() {
            self.trust.settled().await;
        }
    }

    /// Whether what this run of Redis says of mapped keys is believed.
    pub fn believes(&self, run: Option<RunId>) -> bool {
        self.trust.covers(run) && !self.health.is_lost_apart()
    }

    /// Whether the other proxies may have gone on without this one: it must not touch mapped keys then.
    pub fn is_fenced(&self) -> bool {
        self.fleet.is_fenced()
    }

    /// The proxies on the database.
    pub fn fleet(&self) -> FleetReport {
        self.fleet.report()
    }

    /// Whether keys of this database may be mapped.
    pub fn maps_database(&self, database: u16) -> bool {
        database == self.database && !self.registry.is_empty()
    }

    /// Whether any key is mapped at all.
    pub fn has_mappings(&self) -> bool {
        !self.registry.is_empty()
    }

    pub fn database(&self) -> u16 {
        self.database
    }

    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Hands over a read that Redis could not answer for good, or that is not for Redis to answer.
    pub fn read(&self, mut operation: Operation) {
        operation.count_in(&self.metrics);
        let worker = worker_of(&operation.keys[0], self.readers.len());
        self.readers[worker].push(operation);
    }

    /// Has a large value streamed; its reply comes in pieces.
    pub fn stream(&self, large: Large) -> mpsc::Receiver<Piece> {
        let (streaming, pieces) = Streaming::new(large);
        self.streams.push(streaming);
        pieces
    }

    /// Hands over a write to the worker that `writer_of` has named. Operations of one worker are done in the
    /// order in which they came.
    pub fn write(&self, mut operation: Operation, worker: usize) {
        operation.count_in(&self.metrics);
        let behind = [&self.behind, &self.beside_behind];
        let mut queues = self.writers.iter().chain(behind);
        queues.nth(worker).expect("`writer_of` knows how many there are").push(operation);
    }

    /// Hands over requests that Redis is to run on mapped keys.
    pub fn lend(&self, loan: Loan) {
        self.loans.push(Job::Loan(Box::new(loan)));
    }

    /// Hands over mapped keys to watch, with the passes of `enter_all`.
    pub fn watch(
        &self,
        keys: Vec<MappedKey>,
        watched: Arc<Watched>,
        passes: Vec<Pass>,
        told: Told,
    ) {
        self.loans.push(Job::Watch { keys, watched, _passes: passes, told });
    }

    /// Hands over a question about many keys, or about how one is kept.
    pub fn survey(&self, survey: Survey) {
        let [all, some] = &self.surveys;
        if survey.is_long() { all.push(survey) } else { some.push(survey) }
    }

    /// Which writer an operation goes to now: all operations on one key go to the same one, as long as the
    /// same strategy holds.
    pub fn writer_of(&self, operation: &Operation) -> usize {
        if behind::may_be_behind(operation, &self.health) {
            return self.writers.len();
        }
        if operation.keys.iter().any(|key| key.mapping.strategy() == Strategy::CacheFirst) {
            return self.writers.len() + 1;
        }
        worker_of(&operation.keys[0], self.writers.len())
    }

    /// Whether Redis is told first of any key, as a rule.
    pub fn is_cache_first(&self) -> bool {
        let mut mappings = self.registry.mappings();
        mappings.any(|mapping| mapping.strategy() == Strategy::CacheFirst)
    }

    /// Whether Redis may be told first of any key.
    pub fn writes_behind(&self) -> bool {
        self.registry.mappings().any(|mapping| mapping.may_be_behind())
    }

    /// Whether that may become so by a change of strategies.
    pub fn may_ever_write_behind(&self) -> bool {
        self.registry.all().iter().any(|mapping| mapping.may_ever_be_behind())
    }

    /// Whether Redis may have what Postgres lacks: changes, of this proxy or of another one that has just lost
    /// Postgres, or keys of a mapping that has not migrated.
    pub fn needs_what_redis_has(&self) -> bool {
        self.writes_behind() || self.registry.mappings().any(|mapping| mapping.imports())
    }

    /// Has Redis never be told first of what is written through as a rule.
    pub fn never_degrade(&self) {
        self.health.never_degrade();
    }

    /// Whether Postgres is there.
    pub fn health(&self) -> HealthReport {
        self.health.report()
    }

    /// Mappings whose writes Redis is told first, though that is not their strategy.
    pub fn degraded_mappings(&self) -> Vec<String> {
        let is_degraded =
            |mapping: &&Arc<Mapping>| self.health.strategy_of(mapping) != mapping.strategy();
        let degraded = self.registry.mappings().filter(is_degraded);
        degraded.map(|mapping| mapping.name.clone()).collect()
    }

    /// A mapping with its table's present layout; `None` while it is set aside.
    fn current(&self, mapping: &Arc<Mapping>) -> Option<Arc<Mapping>> {
        match self.stepping.tables() {
            Some(tables) => tables.current(mapping),
            None => Some(Arc::clone(mapping)),
        }
    }

    /// Which hits of one more event loop are compared with Postgres; `None`: none is.
    pub fn draw(&self) -> Option<Draw> {
        self.checks.as_ref().map(Checks::draw)
    }

    /// What is counted.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// Whether what Redis says of mapped keys is believed, in whichever run.
    pub fn believes_redis(&self) -> bool {
        self.trust.believes_any() && !self.health.is_lost_apart()
    }

    /// How far Postgres is behind.
    pub fn journal(&self) -> JournalReport {
        self.trust.journal.report()
    }
}

/// A timer that is set is dearer when it is the next to be due: it wakes the runtime, which costs three
/// system calls. Calls to the stores set theirs in vain nearly always, so there is one that is due before
/// them.
async fn keep_ticking(tasks: &Tasks) {
    let ticking = async {
        loop {
            tokio::time::sleep(TICK).await;
        }
    };
    tokio::select! {
        () = ticking => {}
        () = tasks.stopping() => {}
    }
}

/// How long an operation may wait for a worker before it is refused. Once a worker has begun with it,
/// a batch is given up after the same time, and a transaction under way takes one statement timeout
/// and a second.
fn patience(postgres: &config::Postgres) -> Duration {
    Duration::from_millis(2 * postgres.statement_timeout_ms)
}

fn worker_of(key: &MappedKey, workers: usize) -> usize {
    if workers == 1 {
        return 0;
    }
    #[allow(clippy::cast_possible_truncation, reason = "the remainder is below `workers`")]
    let worker = (key.lock().cast_unsigned() % workers as u64) as usize;
    worker
}
