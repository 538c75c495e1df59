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

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::barrier::{NotFlushed, until_clean};
use super::behind;
use super::dropped::lock_and_have_dropped;
use super::import::{self, Importer, Known, Outcome, may_be_any_original};
use super::operation::{Operation, batches, total};
use super::queue::Queue;
use super::refusal::{
    Happened, fenced, may_be_ahead, not_dropped, not_flushed, too_busy, too_slow, upstream_failed,
    write_apart, write_failed,
};
use super::rescue::{answer_the_rest, rescue};
use super::slow::{Slow, Verdict, hurry_ms};
use super::tables::Tables;
use super::transaction::{Copies, Failure, Prepared, prepare};
use super::trust::Trust;
use super::{BATCH_BYTES, EngineSettings, patience};
use crate::config::{RedisLoss, Strategy};
use crate::mapping::{MappedKey, Mapping};
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

/// Operations of a batch, by their places, that go into one transaction.
#[derive(Clone, Debug, Default)]
struct Part {
    places: Vec<usize>,
    /// The like of it has run out of time before: it gets less.
    hurried: bool,
    /// It is to find out whether a slow table is back.
    trial: bool,
    /// The shapes of its tables have been read again.
    looked: bool,
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

    // --- what goes together ---

    /// Refuses what has waited too long and what cannot be done now; makes parts of the rest.
    async fn sort_out(&mut self, batch: &[Operation]) -> Vec<Part> {
        let patience = patience(&self.settings.postgres);
        // The first operation has waited longest.
        let in_time = batch.first().is_none_or(|operation| operation.age() < patience);
        let whole = Part { places: (0..batch.len()).collect(), ..Part::default() };
        if in_time && self.slow.is_empty() && !self.tables.any_aside() {
            return vec![whole];
        }
        let (mut parts, mut run) = (Vec::new(), Part::default());
        for (at, operation) in batch.iter().enumerate() {
            if operation.age() >= patience {
                operation.answer(&too_busy());
                continue;
            }
            if let Some(error) = self.aside(operation).await {
                operation.answer(&write_failed(&error, mapping_name(operation)));
                continue;
            }
            match self.judge(operation) {
                Verdict::Usual => run.places.push(at),
                Verdict::Hurry => {
                    run.hurried = true;
                    run.places.push(at);
                }
                Verdict::Trial => {
                    parts.push(std::mem::take(&mut run));
                    let places = vec![at];
                    parts.push(Part { places, hurried: true, trial: true, looked: false });
                }
                Verdict::Refuse => operation.answer(&too_slow(mapping_name(operation))),
            }
        }
        parts.push(run);
        parts.reverse();
        parts
    }

    /// Why an operation cannot be done whose mapping is set aside; looks now and then whether it
    /// still has to be.
    async fn aside(&mut self, operation: &Operation) -> Option<StoreError> {
        if !self.tables.any_aside() {
            return None;
        }
        for key in &operation.keys {
            if self.tables.is_due(&key.mapping)
                && let Err(error) = self.look_again(&key.mapping).await
            {
                return Some(error);
            }
            if self.tables.current(&key.mapping).is_none() {
                return Some(set_aside());
            }
        }
        None
    }

    async fn look_again(&mut self, mapping: &Mapping) -> Result<(), StoreError> {
        let session = connected(&mut self.session, &self.settings).await?;
        self.tables.look_again(session, mapping).await
    }

    /// The worst verdict on the mappings of an operation.
    fn judge(&mut self, operation: &Operation) -> Verdict {
        let now = Instant::now();
        let mut worst = Verdict::Usual;
        for key in &operation.keys {
            match self.slow.judge(key.mapping.index, now) {
                Verdict::Refuse if worst != Verdict::Trial => return Verdict::Refuse,
                // The same mapping again, of which this is the trial.
                Verdict::Refuse | Verdict::Usual => {}
                Verdict::Hurry if worst == Verdict::Trial => {}
                verdict => worst = verdict,
            }
        }
        worst
    }

    fn is_refused(&self, operation: &Operation) -> bool {
        let now = Instant::now();
        operation.keys.iter().any(|key| self.slow.refuses(key.mapping.index, now))
    }

    // --- one part ---

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

    /// One try at one transaction; past Redis, once those who reach it are safe from old copies, where that is
    /// wanted.
    async fn transact_in_sight<'a>(
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

    /// One try at one transaction; past Redis only if it is `in_sight` of those who reach it.
    async fn transact<'a>(
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

    // --- failures ---

    /// Answers those who are to blame, and makes new parts of the others.
    async fn settle(
        &mut self,
        failure: Failure,
        batch: &[Operation],
        mut part: Part,
        parts: &mut Vec<Part>,
    ) {
        match &failure {
            Failure::Store(StoreError::LayoutChanged { .. }) if !part.looked => {
                for &at in &part.places {
                    self.look_at_tables(&batch[at]).await;
                }
                part.looked = true;
                parts.push(part);
                return;
            }
            Failure::Store(StoreError::LayoutChanged { .. }) if self.tables.any_aside() => {
                let is_aside = |operation: &Operation| {
                    operation.keys.iter().any(|key| self.tables.current(&key.mapping).is_none())
                };
                let (aside, others): (Vec<usize>, Vec<usize>) =
                    part.places.iter().partition(|&&at| is_aside(&batch[at]));
                if !aside.is_empty() {
                    answer_all(&failure, batch, &aside);
                    parts.push(Part { places: others, ..part });
                    return;
                }
            }
            // Those that leave no copy in Redis do not need it.
            Failure::Upstream(_) => {
                let (cached, others): (Vec<usize>, Vec<usize>) =
                    part.places.iter().partition(|&&at| needs_upstream(&batch[at]));
                answer_all(&failure, batch, &cached);
                parts.push(Part { places: others, ..part });
                return;
            }
            Failure::Refused { key, .. } => {
                let has_key = |operation: &Operation| {
                    operation.keys.iter().any(|of_operation| of_operation.key == *key)
                };
                let (refused, others): (Vec<usize>, Vec<usize>) =
                    part.places.iter().partition(|&&at| has_key(&batch[at]));
                answer_all(&failure, batch, &refused);
                parts.push(Part { places: others, ..part });
                return;
            }
            Failure::Ahead | Failure::Apart => {
                let (ahead, others): (Vec<usize>, Vec<usize>) =
                    part.places.iter().partition(|&&at| may_be_behind(&batch[at]));
                if ahead.is_empty() {
                    answer_all(&failure, batch, &others);
                    return;
                }
                answer_all(&failure, batch, &ahead);
                parts.push(Part { places: others, ..part });
                return;
            }
            Failure::Store(StoreError::Unreachable(_))
                if self.behind.is_some() && self.settings.health.is_degraded() =>
            {
                self.is_handing_over = true;
                part.places.iter().for_each(|&at| self.hand_over(&batch[at]));
                return;
            }
            _ => {}
        }
        let blames_one = match &failure {
            Failure::Store(error) => {
                !matches!(error, StoreError::Unreachable(_) | StoreError::InDoubt(_))
            }
            Failure::Dirty | Failure::Unseen | Failure::Originals(_) => true,
            Failure::Upstream(_)
            | Failure::Ahead
            | Failure::Apart
            | Failure::NotDropped
            | Failure::Refused { .. } => false,
        };
        let timed_out = matches!(failure, Failure::Store(StoreError::Timeout(_)));
        if blames_one && part.places.len() > 1 {
            part.hurried |= timed_out;
            let second = part.places.split_off(part.places.len() / 2);
            parts.push(Part { places: second, ..part.clone() });
            parts.push(part);
            return;
        }
        if let (true, [at]) = (timed_out, &part.places[..]) {
            self.settings.metrics.slow_queries.add(1);
            for key in &batch[*at].keys {
                self.slow.strike(key.mapping.index, Instant::now());
            }
        }
        let failure = match part.places[..] {
            [at] => self.name_columns(failure, &batch[at]).await,
            _ => failure,
        };
        answer_all(&failure, batch, &part.places);
    }

    /// Leaves an operation to who tells Redis first, where it can be done without Postgres.
    fn hand_over(&self, operation: &Operation) {
        if operation.is_answered() {
            return;
        }
        if behind::may_be_behind(operation, &self.settings.health) {
            operation.hand_over();
        } else {
            let error = StoreError::Unreachable(String::new());
            operation.answer(&write_failed(&error, mapping_name(operation)));
        }
    }

    async fn look_at_tables(&mut self, operation: &Operation) {
        for key in &operation.keys {
            if self.tables.looked_lately(&key.mapping) {
                continue;
            }
            if let Err(error) = self.look_again(&key.mapping).await {
                tracing::warn!(%error, "the shape of a table could not be read again");
            }
        }
    }

    /// Postgres names the columns only of NOT NULL constraints; the catalog knows those of the others.
    async fn name_columns(&mut self, mut failure: Failure, operation: &Operation) -> Failure {
        if let Failure::Store(StoreError::Refused { constraint: Some(name), column, .. }) =
            &mut failure
            && column.is_none()
            && let (Some(session), Some(key)) = (&mut self.session, operation.keys.first())
            && let Ok(columns) = session.constraint_columns(key.mapping.layout.table(), name).await
            && !columns.is_empty()
        {
            *column = Some(columns.join(", "));
        }
        failure
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

fn answer_all(failure: &Failure, batch: &[Operation], places: &[usize]) {
    for &at in places {
        batch[at].answer(&reply_to_failure(failure, &batch[at]));
    }
}

fn reply_to_failure(failure: &Failure, operation: &Operation) -> Reply {
    match failure {
        Failure::Store(error) => write_failed(error, mapping_name(operation)),
        Failure::Upstream(_) => upstream_failed(Happened::No),
        Failure::Dirty => not_flushed(),
        Failure::Ahead => may_be_ahead(),
        Failure::Unseen | Failure::Refused { .. } | Failure::Originals(_) => {
            import::reply_to(failure, mapping_name(operation))
        }
        Failure::Apart => write_apart(),
        Failure::NotDropped => not_dropped(),
    }
}

fn log(failure: &Failure) {
    match failure {
        Failure::Store(error @ (StoreError::Refused { .. } | StoreError::Unencodable(_))) => {
            tracing::info!(%error, "a write was refused");
        }
        Failure::Store(error) => tracing::warn!(%error, "a write failed"),
        Failure::Upstream(error) => tracing::warn!(%error, "a write failed"),
        Failure::Dirty => tracing::warn!("a write failed: a key stayed dirty"),
        Failure::Unseen => {
            tracing::debug!("not written: Redis is out of reach, and may alone have a key")
        }
        // The importer has told of it.
        Failure::Refused { .. } => {}
        Failure::Originals(_) => tracing::warn!("a write failed: a key was not imported"),
        Failure::Ahead => tracing::debug!("not written: Redis is out of reach, and may be ahead"),
        Failure::NotDropped => {
            tracing::warn!("not written: Redis is out of reach, and nobody has dropped its copies");
        }
        Failure::Apart => {
            tracing::warn!(
                "not written: Redis is out of reach, and others may be without Postgres; see `respgres proxies list`"
            );
        }
    }
}
