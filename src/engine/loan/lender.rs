//! A lender: the worker that brings loans about, one transaction each; and remembers for WATCH what mapped
//! keys hold.
//!
//! What fails before the step has happened nowhere, and is tried again where that may help.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::answer::{Answer, Keys};
use super::watch::{Digest, Digester, Watched};
use super::{Job, Loan};
use crate::command::Needs;
use crate::engine::barrier::until_clean;
use crate::engine::import::{self, Importer, Known};
use crate::engine::queue::Queue;
use crate::engine::refusal::{
    Happened, not_flushed, read_failed, read_too_slow, too_busy, too_slow, upstream_failed,
    upstream_not_read, write_failed,
};
use crate::engine::rescue::rescue;
use crate::engine::slow::{Slow, Verdict, hurry_ms};
use crate::engine::tables::Tables;
use crate::engine::through::{connected, set_aside};
use crate::engine::transaction::{Failure, Touched};
use crate::engine::trust::Trust;
use crate::engine::{EngineSettings, patience};
use crate::mapping::{MappedKey, Registry};
use crate::protocol::Reply;
use crate::store::{RowLock, Session, StoreError};
use crate::tasks::Tasks;
use crate::upstream::UpstreamError;
use crate::upstream::control::{Control, Frame};
use crate::value::Draft;

/// How often a loan is tried again while other sessions are faster or a key is dirty.
const TRIES: u32 = 50;
const PAUSE: Duration = Duration::from_millis(20);

#[derive(Debug)]
pub(in crate::engine) struct Lender {
    pub(super) settings: EngineSettings,
    pub(super) trust: Arc<Trust>,
    pub(super) tables: Arc<Tables>,
    pub(super) registry: Arc<Registry>,
    pub(super) digester: Digester,
    pub(super) session: Option<Session>,
    pub(super) control: Control,
    known: Known,
    /// Redis has let us begin a transaction.
    transacts: bool,
    slow: Slow,
    queue: Arc<Queue<Job>>,
}

// === impl Lender ===

impl Lender {
    pub(in crate::engine) fn new(
        settings: &EngineSettings,
        trust: Arc<Trust>,
        tables: Arc<Tables>,
        registry: Arc<Registry>,
        digester: Digester,
        queue: Arc<Queue<Job>>,
    ) -> Self {
        Self {
            control: Control::new(settings.control.clone()),
            settings: settings.clone(),
            trust,
            tables,
            registry,
            digester,
            session: None,
            known: Known::default(),
            transacts: false,
            slow: Slow::default(),
            queue,
        }
    }

    /// Lends until it is asked to stop and nothing is left in its queue.
    pub(in crate::engine) async fn run(mut self, tasks: &Tasks) {
        loop {
            let job = tokio::select! {
                biased;
                job = self.queue.take_one() => job,
                () = tasks.stopping() => break,
            };
            if rescue(self.serve(&job)).await.is_err() {
                tracing::error!("a lender panicked; it starts again with new connections");
                self.session = None;
                self.control = Control::new(self.settings.control.clone());
                job.told().answer(&Reply::err("internal error; a write may have happened"));
            }
        }
        if let Some(session) = self.session.take() {
            session.close().await;
        }
    }

    async fn serve(&mut self, job: &Job) {
        if job.told().age() >= patience(&self.settings.postgres) {
            job.told().answer(&too_busy());
            return;
        }
        match job {
            Job::Loan(loan) => {
                let answer = match self.persist(loan).await {
                    Ok(answer) => answer,
                    Err(failure) => Answer::Reply(self.reply_to(&failure, loan)),
                };
                loan.told.tell(&answer);
            }
            Job::Watch { keys, watched, told, .. } => {
                if let Err(reply) = self.until_clean(keys.iter()).await {
                    told.answer(&reply);
                    return;
                }
                match self.import(keys.iter()).await {
                    Ok(None) => {}
                    Ok(Some(reply)) => return told.answer(&reply),
                    Err(failure) => {
                        return told.answer(&reply_to_failed_import(&failure, keys));
                    }
                }
                let mut known = self.remember(keys, watched).await;
                if matches!(known, Err(StoreError::LayoutChanged { .. })) {
                    self.look_at_tables(&keys.iter().collect::<Vec<_>>()).await;
                }
                // Or the session had died unnoticed.
                if let Err(StoreError::LayoutChanged { .. } | StoreError::Unreachable(_)) = known {
                    known = self.remember(keys, watched).await;
                }
                told.answer(&match known {
                    Ok(()) => Reply::OK,
                    Err(error) => {
                        tracing::warn!(%error, "a mapped key cannot be watched");
                        let mapping = keys.first().map_or("", |key| key.mapping.name.as_str());
                        read_failed(&error, mapping)
                    }
                });
            }
        }
    }

    // --- tries ---

    /// Tries until it is done, or is not worth trying any more.
    async fn persist(&mut self, loan: &Loan) -> Result<Answer, Failure> {
        let (mut tries, mut lost, mut looked) = (0, false, false);
        let (mut hurried, mut judged) = (false, HashSet::new());
        for key in loan.requests.iter().flat_map(|request| &request.keys) {
            if !judged.insert(key.mapping.index) {
                continue;
            }
            match self.slow.judge(key.mapping.index, Instant::now()) {
                Verdict::Usual => {}
                Verdict::Hurry | Verdict::Trial => hurried = true,
                Verdict::Refuse => {
                    let name = &key.mapping.name;
                    let reply = if loan.writes() { too_slow(name) } else { read_too_slow(name) };
                    return Ok(Answer::Reply(reply));
                }
            }
        }
        self.settings.health.cut().map_err(Failure::Store)?;
        loop {
            let was_connected = self.session.is_some();
            if let Ok(session) = connected(&mut self.session, &self.settings).await {
                let limit_ms = hurry_ms(self.settings.postgres.statement_timeout_ms);
                session.hurry(hurried.then_some(limit_ms));
            }
            let done = match self.may_transact().await {
                Err(error) => Err(Failure::Upstream(error)),
                Ok(()) if loan.writes() || loan.watched.is_some() => self.lend(loan).await,
                Ok(()) => self.lend_to_read(loan).await,
            };
            let failure = match done {
                Ok(answer) => {
                    for key in loan.requests.iter().flat_map(|request| &request.keys) {
                        self.slow.clear(key.mapping.index);
                    }
                    return Ok(answer);
                }
                Err(failure) => failure,
            };
            if self.session.as_ref().is_some_and(Session::is_broken) {
                self.session = None;
            }
            match &failure {
                Failure::Store(StoreError::Raced | StoreError::Retryable { .. })
                | Failure::Dirty
                    if tries < TRIES =>
                {
                    tries += 1;
                    self.trust.journal.want();
                    tokio::time::sleep(PAUSE).await;
                }
                Failure::Store(StoreError::Unreachable(_)) if was_connected && !lost => lost = true,
                Failure::Upstream(UpstreamError::Lost(_)) if !lost => lost = true,
                Failure::Store(StoreError::LayoutChanged { .. }) if !looked => {
                    looked = true;
                    let keys = loan.requests.iter().flat_map(|request| &request.keys);
                    self.look_at_tables(&keys.collect::<Vec<_>>()).await;
                }
                Failure::Store(error) if self.settings.health.is_lost() => {
                    tracing::debug!(%error, "a loan failed");
                    return Err(failure);
                }
                Failure::Store(error) => {
                    tracing::warn!(%error, "a loan failed");
                    if matches!(error, StoreError::Timeout(_)) {
                        for key in loan.requests.iter().flat_map(|request| &request.keys) {
                            self.settings.metrics.slow_queries.add(1);
                            self.slow.strike(key.mapping.index, Instant::now());
                        }
                    }
                    return Err(failure);
                }
                Failure::Upstream(error) => {
                    tracing::warn!(%error, "a loan failed");
                    return Err(failure);
                }
                Failure::Dirty
                | Failure::Ahead
                | Failure::Apart
                | Failure::NotDropped
                | Failure::Originals(_) => {
                    tracing::warn!("a loan failed: a key stayed dirty");
                    return Err(failure);
                }
                Failure::Unseen | Failure::Refused { .. } => return Err(failure),
            }
        }
    }

    /// After a MULTI that Redis does not allow, a step would be run request by request, for all to see.
    async fn may_transact(&mut self) -> Result<(), UpstreamError> {
        if self.transacts {
            return Ok(());
        }
        let [multi, discard] = [[Bytes::from_static(b"MULTI")], [Bytes::from_static(b"DISCARD")]];
        for reply in self.control.commands(&[&multi, &discard]).await? {
            if let Frame::Error(text) = reply {
                return Err(UpstreamError::Refused(text.to_string()));
            }
        }
        self.transacts = true;
        Ok(())
    }

    async fn look_at_tables(&mut self, keys: &[&MappedKey]) {
        for key in keys {
            let Ok(session) = connected(&mut self.session, &self.settings).await else { return };
            if !self.tables.looked_lately(&key.mapping)
                && let Err(error) = self.tables.look_again(session, &key.mapping).await
            {
                tracing::warn!(%error, "the shape of a table could not be read again");
            }
        }
    }

    fn reply_to(&self, failure: &Failure, loan: &Loan) -> Reply {
        let name = loan.mapping_name();
        match failure {
            Failure::Store(error) if loan.writes() => write_failed(error, name),
            Failure::Store(error) => read_failed(error, name),
            // What Redis says to everybody just now.
            Failure::Upstream(UpstreamError::Refused(text)) if is_for_later(text) => {
                Reply::Error(text.clone())
            }
            Failure::Upstream(_) if loan.writes() => upstream_failed(Happened::No),
            Failure::Upstream(_) => upstream_not_read(),
            Failure::Dirty | Failure::Ahead | Failure::Apart | Failure::NotDropped => not_flushed(),
            Failure::Unseen | Failure::Refused { .. } | Failure::Originals(_) => {
                import::reply_to(failure, name)
            }
        }
    }

    /// Brings over what Redis has alone of these keys; why that cannot be done.
    pub(super) async fn import<'k>(
        &mut self,
        keys: impl Iterator<Item = &'k MappedKey>,
    ) -> Result<Option<Reply>, Failure> {
        let Self { settings, trust, tables, session, control, known, .. } = self;
        let mut importer = Importer { settings, trust, tables, session, control };
        importer.import_all(keys, known).await
    }

    /// Waits until Postgres has what clients were told of these keys.
    pub(super) async fn until_clean<'k>(
        &mut self,
        keys: impl Iterator<Item = &'k MappedKey>,
    ) -> Result<(), Reply> {
        if let Err(error) = self.settings.health.cut() {
            return Err(read_failed(&error, ""));
        }
        let ahead: Vec<&Bytes> =
            keys.filter(|key| key.mapping.may_be_behind()).map(|key| &key.key).collect();
        let clean =
            until_clean((&self.trust, &self.settings.health), &mut self.control, &ahead).await;
        clean.map_err(|error| error.reply())
    }

    // --- WATCH ---

    async fn remember(&mut self, keys: &[MappedKey], watched: &Watched) -> Result<(), StoreError> {
        let mut held = Vec::with_capacity(keys.len());
        for key in keys {
            let mapping = self.tables.current(&key.mapping).ok_or_else(set_aside)?;
            let session = connected(&mut self.session, &self.settings).await?;
            let read = session.read(&mapping, &[key], RowLock::None).await?;
            let record = read.rows.first().and_then(|row| row.record.as_ref());
            held.push((key.clone(), self.digester.digest(record)));
        }
        // All or none, as the client is told.
        watched.add(held);
        Ok(())
    }

    // --- the keys ---

    /// Each key once, with its table's present layout.
    pub(super) fn keys_of<'a>(
        &self,
        loan: &'a Loan,
        looked_up: &'a [MappedKey],
        watched: &'a [(MappedKey, Digest)],
    ) -> Result<Keys<'a>, StoreError> {
        let mut known: HashSet<&[u8], ahash::RandomState> = HashSet::default();
        let mut touched: Vec<Touched<'a>> = Vec::new();
        let mut lent = 0;
        let named = loan.requests.iter().flat_map(|request| &request.keys).chain(looked_up);
        let watched = watched.iter().map(|(key, _)| key);
        for (key, is_lent) in named.map(|key| (key, true)).chain(watched.map(|key| (key, false))) {
            if known.insert(&key.key) {
                lent += usize::from(is_lent);
                touched.push(Touched {
                    key,
                    needs: Needs { whole: true, ..Needs::default() },
                    mapping: self.tables.current(&key.mapping).ok_or_else(set_aside)?,
                    present: false,
                    draft: Draft::new(key.mapping.holds(), None),
                });
            }
        }
        let mut others: Vec<Bytes> = Vec::new();
        if lent > 0 {
            // Without mapped keys nothing can be refused afterwards.
            let writing = loan.requests.iter().filter(|request| !request.only_reads);
            others.extend(writing.flat_map(|request| &request.others).cloned());
            others.sort_unstable();
            others.dedup();
        }
        Ok(Keys { touched, lent, others })
    }
}

fn reply_to_failed_import(failure: &Failure, keys: &[MappedKey]) -> Reply {
    import::reply_to(failure, keys.first().map_or("", |key| key.mapping.name.as_str()))
}

fn is_for_later(error: &str) -> bool {
    let first = error.split(' ').next().unwrap_or_default();
    matches!(first, "BUSY" | "LOADING" | "MASTERDOWN")
}
