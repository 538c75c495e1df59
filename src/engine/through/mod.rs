//! Through-writes: Postgres first, then the cached copies (COHERENCE, "Through").
//!
//! A writer takes whatever operations have queued up while its last transaction was under way and
//! brings them to Postgres in one transaction. Operations on one key are applied one after the
//! other to one draft; each client gets its own reply, after the commit.
//!
//! Invariants
//! - Every operation is answered once, also when the writer panics.
//! - Nothing of a failed operation is written; its neighbours are tried again without it, in the
//!   order in which they came.
//! - Only what certainly was not written is tried again: after a COMMIT in doubt the clients are told
//!   so, and nothing is done in Redis: the marks of the writer lapse by themselves, and until then
//!   every reader asks Postgres.
//! - What certainly was not written because Postgres is lost goes to the worker that tells Redis first, where
//!   the mapping allows.
//! - One table or row that somebody holds does not stop the others for good: see `slow`.

mod blame;
mod part;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use self::blame::log;
use super::barrier::{NotFlushed, until_clean};
use super::import::{Importer, Known, Outcome};
use super::operation::{Operation, batches, total};
use super::queue::Queue;
use super::refusal::{Happened, fenced, too_slow, upstream_failed};
use super::rescue::{answer_the_rest, rescue};
use super::slow::{Slow, hurry_ms};
use super::tables::Tables;
use super::transaction::{Copies, Failure, Prepared, prepare};
use super::trust::Trust;
use super::{BATCH_BYTES, EngineSettings, patience};
use crate::config::Strategy;
use crate::protocol::Reply;
use crate::store::{Session, StoreError};
use crate::tasks::Tasks;
use crate::upstream::UpstreamError;
use crate::upstream::control::{Control, Frame};
use crate::upstream::scripts::Call;

/// How often a batch is tried again when other sessions were faster.
pub(super) const RACES: u32 = 5;

/// How often, and how long apart, a batch is tried again while a key of it is dirty.
const DIRTY_TRIES: u32 = 50;
const DIRTY_PAUSE_MS: u64 = 20;

/// How often writing past Redis is tried where it comes and goes.
const BYPASSES: u32 = 3;

/// How much longer than one statement a whole transaction may take before its COMMIT.
const GRACE: Duration = Duration::from_secs(1);

/// A worker that brings writes to Postgres.
#[derive(Debug)]
pub struct Writer {
    pub(super) settings: EngineSettings,
    pub(super) trust: Arc<Trust>,
    pub(super) tables: Arc<Tables>,
    slow: Slow,
    pub(super) session: Option<Session>,
    /// How often it has taken new connections because an operator wanted it.
    renewals: u64,
    pub(super) control: Control,
    pub(super) queue: Arc<Queue>,
    /// Redis may know what Postgres does not: nothing is written while it is out of reach.
    needs_redis: bool,
    /// Where operations go that can be done without Postgres, while that is lost.
    behind: Option<Arc<Queue>>,
    /// Postgres was lost: the rest of what was taken from the queue goes there too.
    is_handing_over: bool,
}

// === impl Writer ===

impl Writer {
    pub(super) fn new(
        settings: &EngineSettings,
        trust: Arc<Trust>,
        tables: Arc<Tables>,
        queue: Arc<Queue>,
    ) -> Self {
        Self {
            control: Control::new(settings.control.clone()),
            settings: settings.clone(),
            trust,
            tables,
            slow: Slow::default(),
            session: None,
            renewals: settings.health.renewals(),
            queue,
            needs_redis: false,
            behind: None,
            is_handing_over: false,
        }
    }

    /// For keys that others may write behind.
    pub(super) fn never_past_redis(self) -> Self {
        Self { needs_redis: true, ..self }
    }

    pub(super) fn handing_over_to(self, behind: Arc<Queue>) -> Self {
        Self { behind: Some(behind), ..self }
    }

    /// Writes until it is asked to stop and nothing is left in its queue.
    pub async fn run(mut self, tasks: &Tasks) {
        loop {
            let operations = tokio::select! {
                biased;
                operations = self.queue.take() => operations,
                () = tasks.stopping() => break,
            };
            self.renew().await;
            let most = self.settings.postgres.batch_operations.max(1);
            self.is_handing_over = false;
            for batch in batches(&operations, most, BATCH_BYTES) {
                if rescue(self.write_in_turn(batch)).await.is_err() {
                    self.session = None;
                    self.control = Control::new(self.settings.control.clone());
                    answer_the_rest(batch);
                }
            }
            if let Some(behind) = &self.behind {
                operations
                    .into_iter()
                    .filter(Operation::take_over)
                    .for_each(|operation| behind.push(operation));
            }
        }
        if let Some(session) = self.session.take() {
            session.close().await;
        }
    }

    /// Takes new connections where an operator has wanted that since the last batch.
    async fn renew(&mut self) {
        let renewals = self.settings.health.renewals();
        if self.renewals != renewals {
            self.renewals = renewals;
            self.control = Control::new(self.settings.control.clone());
            if let Some(session) = self.session.take() {
                session.close().await;
            }
        }
    }

    /// Brings a batch to Postgres, and answers or hands over every operation of it.
    pub(super) async fn write(&mut self, batch: &[Operation]) {
        if self.settings.fleet.is_fenced() {
            batch.iter().for_each(|operation| operation.answer(&fenced()));
            return;
        }
        self.is_handing_over = false;
        self.write_in_turn(batch).await;
    }

    /// As `write`, after other batches: what comes after an operation that was handed over does not take effect
    /// before it.
    async fn write_in_turn(&mut self, batch: &[Operation]) {
        let deadline = Instant::now() + patience(&self.settings.postgres);
        // The first one last.
        let mut parts = self.sort_out(batch).await;
        while let Some(mut part) = parts.pop() {
            if self.is_handing_over {
                part.places.iter().for_each(|&at| self.hand_over(&batch[at]));
                continue;
            }
            if part.hurried && !part.trial {
                let late = Instant::now() >= deadline;
                // Answered below.
                part.places.retain(|&at| !late && !self.is_refused(&batch[at]));
            }
            if part.places.is_empty() {
                continue;
            }
            let operations: Vec<&Operation> = part.places.iter().map(|&at| &batch[at]).collect();
            if let Err(failure) = self.write_part(&operations, part.hurried).await {
                self.settle(failure, batch, part, &mut parts).await;
            }
        }
        // Nothing was done about these: there was no time left.
        let is_left =
            |operation: &&Operation| !operation.is_answered() && !operation.is_handed_over();
        for operation in batch.iter().filter(is_left) {
            operation.answer(&too_slow(mapping_name(operation)));
        }
    }

    /// Brings operations to Postgres, all or none, and answers them if all.
    async fn write_part(
        &mut self,
        operations: &[&Operation],
        hurried: bool,
    ) -> Result<(), Failure> {
        let (mut races, mut dirty, mut lost, mut bypasses, mut imports) = (0, 0, 0, 0, 0);
        let mut spared = Known::default();
        // At once, where Postgres is known to be lost.
        self.settings.health.cut().map_err(Failure::Store)?;
        if self.needs_redis {
            // Also of a row that it leaves as it is, an operation has to know what clients were told.
            let keys = operations.iter().flat_map(|operation| &operation.keys);
            let keys: Vec<&Bytes> = keys.map(|key| &key.key).collect();
            until_clean((&self.trust, &self.settings.health), &mut self.control, &keys)
                .await
                .map_err(|error| match error {
                    NotFlushed::Upstream(error) => Failure::Upstream(error),
                    NotFlushed::Late => Failure::Dirty,
                })?;
        }
        loop {
            let was_connected = self.session.is_some();
            let failure = match self.transact_in_sight(operations, &spared, hurried).await {
                Ok(written) => {
                    self.settings.metrics.batches.observe(operations.len() as u64);
                    self.answer(operations, written).await;
                    self.clear_slow(operations);
                    return Ok(());
                }
                // Each import leaves fewer: unless a table takes rows and does not show them.
                Err(Failure::Originals(_)) if imports > operations.len() => {
                    Failure::Store(StoreError::Raced)
                }
                Err(Failure::Originals(keys)) => {
                    imports += 1;
                    match self.import(&keys, operations, &mut spared).await {
                        Ok(()) => continue,
                        Err(failure) => failure,
                    }
                }
                Err(failure) => failure,
            };
            if self.session.as_ref().is_some_and(Session::is_broken) {
                self.session = None;
            }
            match &failure {
                Failure::Store(error @ (StoreError::Raced | StoreError::Retryable { .. }))
                    if races < RACES =>
                {
                    tracing::debug!(%error, "writing again");
                    races += 1;
                }
                Failure::Store(StoreError::Unreachable(_)) if self.settings.health.is_lost() => {
                    return Err(failure);
                }
                // A connection had died unnoticed; COMMIT was not sent.
                Failure::Store(StoreError::Unreachable(_)) if was_connected && lost < 1 => {
                    lost += 1;
                }
                Failure::Upstream(UpstreamError::Lost(_)) if lost < 1 => lost += 1,
                // Nothing was written. Postgres has every mapped key.
                Failure::Upstream(error) if bypasses < BYPASSES => {
                    tracing::debug!(%error, "writing past Redis");
                    self.trust.lose();
                    bypasses += 1;
                }
                // Perhaps it was there only for moments that it could not be reached.
                Failure::Store(StoreError::Unreachable(_)) if lost < 2 => {
                    lost += 1;
                    if self.settings.health.is_lost_now().await {
                        return Err(failure);
                    }
                }
                Failure::Dirty if dirty < DIRTY_TRIES => {
                    dirty += 1;
                    self.trust.journal.want();
                    tokio::time::sleep(Duration::from_millis(DIRTY_PAUSE_MS)).await;
                }
                _ => {
                    log(&failure);
                    return Err(failure);
                }
            }
        }
    }

    /// Brings keys over that only Redis has; `spared` are those of which it has none but copies.
    async fn import(
        &mut self,
        keys: &[Bytes],
        operations: &[&Operation],
        spared: &mut Known,
    ) -> Result<(), Failure> {
        for name in keys {
            let mut all = operations.iter().flat_map(|operation| &operation.keys);
            let Some(key) = all.find(|key| key.key == *name) else { continue };
            let Self { settings, trust, tables, session, control, .. } = self;
            let mut importer = Importer { settings, trust, tables, session, control };
            match importer.import(key).await? {
                Outcome::Imported => {}
                Outcome::NoOriginal => spared.add(key),
                Outcome::Refused { reply, .. } => {
                    return Err(Failure::Refused { key: name.clone(), reply });
                }
            }
        }
        Ok(())
    }

    /// One try at one transaction; past Redis only if it is `in_sight` of those who reach it.
    pub(super) async fn transact<'a>(
        &mut self,
        operations: &[&'a Operation],
        spared: &Known,
        hurried: bool,
        in_sight: bool,
    ) -> Result<Prepared<'a>, Failure> {
        let timeout_ms = self.settings.postgres.statement_timeout_ms;
        let session = connected(&mut self.session, &self.settings).await.map_err(Failure::Store)?;
        session.hurry(hurried.then(|| hurry_ms(timeout_ms)));
        let limit = Duration::from_millis(timeout_ms) + GRACE;
        let copies = if operations.iter().any(|operation| needs_upstream(operation)) {
            if self.needs_redis {
                Copies::known(&self.trust, &mut self.control).await?
            } else {
                let (trust, health) = (&self.trust, &self.settings.health);
                let may_be = operations.iter().any(|operation| may_be_behind(operation));
                let is_ahead = || may_be && trust.journal.may_be_loose(health.losses());
                Copies::now(trust, health.fleet(), &mut self.control, may_be, is_ahead).await?
            }
        } else {
            Copies::Kept
        };
        let lease_ms = self.settings.lease_ms;
        if !in_sight && matches!(copies, Copies::Bypassed { .. }) {
            return Err(Failure::NotDropped);
        }
        let preparing = prepare(
            session,
            &mut self.control,
            &self.tables,
            &copies,
            lease_ms,
            (operations, spared),
        );
        let prepared = match tokio::time::timeout(limit, preparing).await {
            Ok(prepared) => prepared?,
            Err(_) => {
                // It is within its transaction, which ends with it.
                self.session = None;
                let text = format!("no transaction within {limit:?}");
                return Err(Failure::Store(StoreError::Timeout(text)));
            }
        };
        if !prepared.is_open() {
            return Ok(prepared);
        }
        let session = self.session.as_mut().expect("it has just prepared a transaction");
        match prepared.commit(session).await {
            Ok(()) => Ok(prepared),
            Err(error @ StoreError::InDoubt(_)) => Err(Failure::Store(error)),
            Err(error) => {
                if let Some(end) = prepared.end_of_aborted() {
                    give_back(&mut self.control, end).await;
                }
                Err(Failure::Store(error))
            }
        }
    }

    /// Tells the clients, then the cache.
    async fn answer(&mut self, operations: &[&Operation], written: Prepared<'_>) {
        let end = written.end();
        for (operation, reply) in operations.iter().zip(written.replies) {
            if operation.others.is_empty() {
                operation.answer(&reply);
                continue;
            }
            let others = self.control.command(&operation.for_others()).await;
            let others = match others {
                Ok(Frame::Integer(count)) => Reply::Integer(count),
                Ok(Frame::Error(text)) => Reply::Error(text.to_string()),
                Ok(_) | Err(_) => upstream_failed(Happened::Maybe),
            };
            operation.answer(&total([reply, others].into_iter()));
        }
        if let Some(end) = end {
            self.control.post(&[end]).await;
        }
    }

    fn clear_slow(&mut self, operations: &[&Operation]) {
        if self.slow.is_empty() {
            return;
        }
        for key in operations.iter().flat_map(|operation| &operation.keys) {
            self.slow.clear(key.mapping.index);
        }
    }
}

/// The worker's session; a new one when there is none.
pub(super) async fn connected<'s>(
    session: &'s mut Option<Session>,
    settings: &EngineSettings,
) -> Result<&'s mut Session, StoreError> {
    if settings.fleet.is_fenced() {
        return Err(StoreError::Unreachable(
            "the others may have gone on without this proxy".into(),
        ));
    }
    if session.as_ref().is_none_or(Session::is_broken) {
        *session = None;
        let cut = settings.health.cut()?;
        let mut new = tokio::select! {
            connected = Session::connect(&settings.postgres) => connected?,
            () = cut.cancelled() => {
                return Err(StoreError::Unreachable("it was lost meanwhile".into()));
            }
        };
        new.give_up_with(cut);
        new.count_as(settings.metrics.sessions.open(settings.role));
        if let Some(part) = &settings.part {
            part.take(&mut new).await?;
        }
        *session = Some(new);
    }
    Ok(session.as_mut().expect("it was connected just now"))
}

/// Gives copies back before anybody goes on with their keys.
pub(super) async fn give_back(control: &mut Control, end: Call) {
    if let Err(error) = control.call(&[end]).await {
        tracing::debug!(%error, "copies set aside were not given back: their marks lapse");
    }
}

pub(super) fn set_aside() -> StoreError {
    StoreError::LayoutChanged { code: String::new(), message: "the mapping is set aside".into() }
}

/// Whether Redis may have copies of an operation's keys, or the keys themselves.
fn needs_upstream(operation: &Operation) -> bool {
    let mut mappings = operation.keys.iter().map(|key| &key.mapping);
    mappings.any(|mapping| mapping.strategy() != Strategy::PostgresOnly || mapping.imports())
}

/// Whether Redis may be told first of any of its keys.
fn may_be_behind(operation: &Operation) -> bool {
    operation.keys.iter().any(|key| key.mapping.may_be_behind())
}

fn mapping_name(operation: &Operation) -> &str {
    operation.keys.first().map_or("", |key| key.mapping.name.as_str())
}
