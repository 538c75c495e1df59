//! Who answers a command, and which side goes first: the one place that knows that there are two
//! stores.
//!
//! Event loops hand operations on mapped keys to workers that own connections to both stores; the
//! answers come back through the loops' mailboxes.

pub mod mailbox;
pub mod miss;
pub mod operation;
pub mod queue;
pub mod refusal;
pub mod route;
pub mod through;

use std::sync::Arc;

use crate::config;
use crate::mapping::{MappedKey, Registry};
use crate::tasks::Tasks;
use crate::upstream::control::{Control, ControlSettings};

pub use mailbox::{Answer, Mailbox, ReplyTo};
pub use operation::Operation;
pub use queue::Queue;

/// What the engine runs on.
#[derive(Clone, Debug)]
pub struct EngineSettings {
    pub postgres: config::Postgres,
    pub control: ControlSettings,
    pub lease_ms: u64,
}

/// The mapped side of respgres: which keys are mapped, and the workers that serve them.
#[derive(Debug)]
pub struct Engine {
    registry: Registry,
    /// The database whose keys are mapped.
    database: u16,
    writers: Vec<Arc<Queue>>,
    readers: Vec<Arc<Queue>>,
}

// === impl Engine ===

impl Engine {
    /// An engine whose queues nobody serves yet; see `start`. `registry` holds the mappings that
    /// have a side in Postgres (all but `redis_only` ones).
    pub fn new(registry: Registry, settings: &EngineSettings) -> Self {
        let queues = |count: usize| (0..count.max(1)).map(|_| Arc::default()).collect();
        Self {
            registry,
            database: settings.control.database,
            writers: queues(settings.postgres.writers),
            readers: queues(settings.postgres.readers),
        }
    }

    /// Spawns the workers on the current runtime.
    pub fn start(&self, settings: &EngineSettings, tasks: &Tasks) {
        for queue in &self.writers {
            let control = Control::new(settings.control.clone());
            let worker = through::Writer::new(settings, control, Arc::clone(queue));
            let tasks_of_worker = tasks.clone();
            tasks.spawn(async move { worker.run(&tasks_of_worker).await });
        }
        for queue in &self.readers {
            let control = Control::new(settings.control.clone());
            let worker = miss::MissReader::new(settings, control, Arc::clone(queue));
            let tasks_of_worker = tasks.clone();
            tasks.spawn(async move { worker.run(&tasks_of_worker).await });
        }
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
    pub fn read(&self, operation: Operation) {
        let worker = worker_of(&operation.keys[0], self.readers.len());
        self.readers[worker].push(operation);
    }

    /// Hands over a write. Operations of one worker are done in the order in which they came.
    pub fn write(&self, operation: Operation) {
        let worker = self.writer_of(&operation);
        self.writers[worker].push(operation);
    }

    /// Which writer an operation goes to: all operations on one key go to the same one.
    pub fn writer_of(&self, operation: &Operation) -> usize {
        worker_of(&operation.keys[0], self.writers.len())
    }
}

fn worker_of(key: &MappedKey, workers: usize) -> usize {
    if workers == 1 {
        return 0;
    }
    #[allow(clippy::cast_possible_truncation, reason = "the remainder is below `workers`")]
    let worker = (key.lock().cast_unsigned() % workers as u64) as usize;
    worker
}
