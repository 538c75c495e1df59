//! Commands that see many keys: KEYS, SCAN, DBSIZE, RANDOMKEY and the flushes, over both stores.
//!
//! Of mapped keys Postgres is the truth: their copies in Redis, and respgres' own keys, are never
//! listed from Redis. All other keys are listed from Redis alone. So each key has one side that can
//! list it, and none is listed twice.
//!
//! Two workers of this kind, on a thread and with connections of their own, so that nobody who waits for
//! one key waits for them: one for what looks at all keys in one go (KEYS, DBSIZE), one for the rest.
//!
//! Invariants
//! - What is held in memory is bounded: by a page, or by the most that a client may be sent.
//! - A survey whose client has left, and any when respgres stops, ends at its next page.

mod flush;
mod original;
mod scan;
mod strategy;
mod whole;

use std::any::Any;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::barrier;
use super::explain::Explainer;
use super::mailbox::ReplyTo;
use super::queue::Queue;
use super::refusal::{GATE_PATIENCE, read_failed, read_too_busy, upstream_not_read};
use super::rescue::rescue;
use super::tables::Tables;
use super::through::set_aside;
use super::trust::Trust;
use super::{EngineSettings, patience};
use crate::config::Strategy;
use crate::mapping::{Layout, Mapping, Registry};
use crate::protocol::Reply;
use crate::store::{KeyValues, Session, StoreError};
use crate::tasks::Tasks;
use crate::upstream::UpstreamError;
use crate::upstream::control::{Control, Frame};
use crate::upstream::scripts::RESERVED_PREFIX;

/// What a client asks of many keys.
#[derive(Debug)]
pub enum Ask {
    /// KEYS: its glob.
    Keys(Bytes),
    /// SCAN: the request's arguments.
    Scan(Vec<Bytes>),
    /// DBSIZE.
    Count,
    /// RANDOMKEY.
    Random,
    /// FLUSHALL, FLUSHDB of both stores: the request's arguments.
    Flush(Vec<Bytes>),
    /// The same of Redis alone, which may have what Postgres lacks.
    Empty(Vec<Bytes>),
    /// RESPGRES EXPLAIN: the key.
    Explain(Bytes),
    /// RESPGRES STRATEGY: of which mapping; and what it is to be.
    Strategy { mapping: Option<String>, target: Option<String> },
}

/// One client's question.
#[derive(Debug)]
pub struct Survey {
    ask: Ask,
    reply_to: ReplyTo,
    /// Gone when the client is.
    client: Weak<dyn Any + Send + Sync>,
    arrived: Instant,
}

/// A worker that looks at many keys.
pub struct Surveyor {
    settings: EngineSettings,
    trust: Arc<Trust>,
    registry: Arc<Registry>,
    tables: Arc<Tables>,
    session: Option<Session>,
    /// The session was there when it was last asked for.
    was_connected: bool,
    control: Control,
    queue: Arc<Queue<Survey>>,
    tasks: Tasks,
    /// How long a survey may wait for its turn.
    patience: Option<Duration>,
}

/// How far a walk through a mapping's table has come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Place {
    /// The key columns in the order in which they are compared.
    order: Vec<String>,
    after: KeyValues,
}

/// A part of a mapping's keys.
struct Page {
    keys: Vec<Bytes>,
    /// How many were looked at.
    looked_at: usize,
    /// Where it goes on.
    next: Option<Place>,
}

// === impl Ask ===

impl Ask {
    /// Whether all keys are looked at in one go, which may take long.
    pub(super) fn is_long(&self) -> bool {
        matches!(self, Self::Keys(_) | Self::Count | Self::Strategy { target: Some(_), .. })
    }

    /// Whether it asks for keys, and changes nothing.
    fn only_looks(&self) -> bool {
        matches!(self, Self::Keys(_) | Self::Scan(_) | Self::Count | Self::Random)
    }

    /// Whether it begins to list keys. A SCAN that goes on need not wait again: what was there when it began
    /// is in the tables.
    fn lists(&self) -> bool {
        match self {
            Self::Keys(_) | Self::Count | Self::Random => true,
            Self::Scan(arguments) => arguments.get(1).is_some_and(|cursor| &cursor[..] == b"0"),
            Self::Flush(_) | Self::Empty(_) | Self::Explain(_) | Self::Strategy { .. } => false,
        }
    }
}

// === impl Survey ===

impl Survey {
    /// `client`: something that is dropped when the client has left.
    pub fn new(ask: Ask, reply_to: ReplyTo, client: Weak<dyn Any + Send + Sync>) -> Self {
        Self { ask, reply_to, client, arrived: Instant::now() }
    }

    pub(super) fn is_long(&self) -> bool {
        self.ask.is_long()
    }

    fn is_abandoned(&self) -> bool {
        self.client.strong_count() == 0
    }
}

// === impl Surveyor ===

impl Surveyor {
    pub(super) fn new(
        settings: &EngineSettings,
        trust: Arc<Trust>,
        registry: Arc<Registry>,
        tables: Arc<Tables>,
        queue: Arc<Queue<Survey>>,
        tasks: Tasks,
        long: bool,
    ) -> Self {
        Self {
            control: Control::new(settings.control.clone()),
            settings: settings.clone(),
            trust,
            registry,
            tables,
            session: None,
            was_connected: false,
            queue,
            tasks,
            patience: (!long).then(|| patience(&settings.postgres)),
        }
    }

    /// Works until it is asked to stop and nothing is left in its queue.
    pub async fn run(mut self) {
        loop {
            let surveys = tokio::select! {
                biased;
                surveys = self.queue.take() => surveys,
                () = self.tasks.stopping() => break,
            };
            for survey in surveys {
                let reply = match rescue(self.serve_at_once(&survey)).await {
                    Ok(Ok(reply) | Err(reply)) => reply,
                    Err(_) => {
                        tracing::error!("a worker panicked; it starts again with new connections");
                        self.session = None;
                        self.control = Control::new(self.settings.control.clone());
                        Reply::err("internal error")
                    }
                };
                survey.reply_to.answer(&reply);
            }
        }
        if let Some(session) = self.session.take() {
            session.close().await;
        }
    }

    /// As `serve`. Each key is listed by one side, and a mapping whose keys change sides meanwhile may have been asked for
    /// by neither: then all is asked again.
    async fn serve_at_once(&mut self, survey: &Survey) -> Result<Reply, Reply> {
        let began = Instant::now();
        loop {
            let before = self.sides();
            let told = self.serve(survey).await;
            if !survey.ask.only_looks() || self.sides() == before {
                return told;
            }
            if began.elapsed() >= GATE_PATIENCE {
                return Err(Reply::Error(
                    "TRYAGAIN the strategies of mappings are just being changed".to_owned(),
                ));
            }
        }
    }

    /// By which the mappings go, and which versions of their entries say so.
    fn sides(&self) -> Vec<(Strategy, u64)> {
        let gates = self.registry.all().iter().map(|mapping| mapping.gate);
        gates.map(|gate| (gate.strategy(), gate.version())).collect()
    }

    /// The reply, or the one that says why there is none.
    async fn serve(&mut self, survey: &Survey) -> Result<Reply, Reply> {
        self.go_on(survey)?;
        if self.patience.is_some_and(|patience| survey.arrived.elapsed() >= patience) {
            return Err(read_too_busy());
        }
        if !matches!(survey.ask, Ask::Explain(_))
            && let Err(error) = self.settings.health.cut()
        {
            return Err(read_failed(&error, ""));
        }
        if survey.ask.lists() {
            self.until_flushed().await?;
        }
        match &survey.ask {
            Ask::Keys(glob) => self.keys(survey, glob).await,
            Ask::Scan(arguments) => self.scan(arguments).await,
            Ask::Count => self.count(survey).await,
            Ask::Random => self.random(survey).await,
            Ask::Flush(arguments) => self.flush(arguments).await,
            Ask::Empty(arguments) => self.empty(arguments).await,
            Ask::Strategy { mapping, target: None } => self.strategies(mapping.as_deref()),
            Ask::Strategy { mapping, target: Some(target) } => {
                self.set_strategy(mapping.as_deref().unwrap_or_default(), target).await
            }
            Ask::Explain(key) => {
                let explainer = Explainer {
                    settings: &self.settings,
                    registry: &self.registry,
                    tables: &self.tables,
                };
                let session = &mut self.session;
                let told = explainer.explain(key, session, &mut self.control).await;
                let entries = told.into_iter().map(|(name, text)| {
                    (Reply::Bulk(Bytes::from_static(name.as_bytes())), Reply::bulk(text))
                });
                Ok(Reply::Map(entries.collect()))
            }
        }
    }

    /// Waits until the tables have what clients were told, where any may lack it.
    async fn until_flushed(&mut self) -> Result<(), Reply> {
        let mut mappings = self.registry.mappings();
        if !mappings.any(|mapping| mapping.may_be_behind()) {
            return Ok(());
        }
        let flushed =
            barrier::until_flushed((&self.trust, &self.settings.health), &mut self.control).await;
        flushed.map_err(|error| error.reply())
    }

    /// Ends a survey that nobody waits for.
    fn go_on(&self, survey: &Survey) -> Result<(), Reply> {
        if self.tasks.is_stopping() {
            return Err(Reply::err("respgres is stopping"));
        }
        if survey.is_abandoned() {
            tracing::debug!("a listing is given up: its client has left");
            return Err(Reply::err("nobody waits for this"));
        }
        Ok(())
    }

    /// Whether Redis may hold this key and yet it is not for Redis to list.
    fn is_ours(&self, key: &[u8]) -> bool {
        key.starts_with(RESERVED_PREFIX) || self.registry.find(key).is_some()
    }

    // --- Redis ---

    /// Asks Redis; its errors are the client's.
    async fn ask_redis(&mut self, words: &[Bytes]) -> Result<Frame, Reply> {
        let told = match self.control.command(words).await {
            // The connection had died unnoticed; what is asked here changes nothing.
            Err(UpstreamError::Lost(_)) => self.control.command(words).await,
            told => told,
        };
        answer_of(told)
    }

    // --- Postgres ---

    /// A page of the keys of a mapping, the next one after `from`.
    async fn page(
        &mut self,
        mapping: &Arc<Mapping>,
        from: Option<&Place>,
        limit: usize,
    ) -> Result<Page, Reply> {
        let after = from.map(|from| &from.after);
        let mut tries = 0;
        let (page, mapping) = loop {
            let told = match self.table(mapping).await {
                Ok((session, current)) => {
                    session.key_page(&current, after, limit).await.map(|page| (page, current))
                }
                Err(error) => Err(error),
            };
            match told {
                Ok(told) => break told,
                Err(error) => self.settle(error, mapping, &mut tries).await?,
            }
        };
        let order = order_of(&mapping.layout);
        if from.is_some_and(|from| from.order != order) {
            return Err(Reply::err(format!(
                "mapping \"{}\": its table has changed since its keys began to be listed; start again",
                mapping.name
            )));
        }
        Ok(Page {
            keys: page
                .keys
                .iter()
                .filter_map(|values| Some(self.registry.key_of_row(&mapping, values)?.key))
                .collect(),
            looked_at: page.looked_at,
            next: page.last.map(|after| Place { order, after }),
        })
    }

    /// A session to ask about a mapping's table with, and the mapping as it is now.
    async fn table(
        &mut self,
        mapping: &Arc<Mapping>,
    ) -> Result<(&mut Session, Arc<Mapping>), StoreError> {
        if self.tables.any_aside() && self.tables.is_due(mapping) {
            self.look_again(mapping).await?;
        }
        let mapping = self.tables.current(mapping).ok_or_else(set_aside)?;
        self.was_connected = self.session.as_ref().is_some_and(|session| !session.is_broken());
        Ok((connected(&mut self.session, &self.settings).await?, mapping))
    }

    /// After a failure: whether to ask once more, since the connection had died unnoticed or the table
    /// has changed; else what the client is told.
    async fn settle(
        &mut self,
        error: StoreError,
        mapping: &Arc<Mapping>,
        tries: &mut u32,
    ) -> Result<(), Reply> {
        *tries += 1;
        let again = *tries == 1
            && match &error {
                StoreError::Unreachable(_) => self.was_connected,
                StoreError::Retryable { .. } => true,
                StoreError::LayoutChanged { .. } => self.look_again(mapping).await.is_ok(),
                _ => false,
            };
        if again {
            return Ok(());
        }
        tracing::warn!(%error, mapping = %mapping.name, "keys could not be listed");
        Err(read_failed(&error, &mapping.name))
    }

    async fn look_again(&mut self, mapping: &Mapping) -> Result<(), StoreError> {
        let session = connected(&mut self.session, &self.settings).await?;
        self.tables.look_again(session, mapping).await
    }
}

/// Runs the workers on a thread of their own: a page of keys is a piece of work for which nobody else
/// shall wait.
///
/// # Errors
/// When the system gives no thread.
pub(super) fn start(workers: [Surveyor; 2], tasks: &Tasks) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (ended, has_ended) = tokio::sync::oneshot::channel();
    std::thread::Builder::new().name("surveys".to_owned()).spawn(move || {
        let [one, other] = workers.map(Surveyor::run);
        runtime.block_on(async { tokio::join!(one, other) });
        // Nobody waits for it when the wait at shutdown has been given up.
        let _ = ended.send(());
    })?;
    tasks.spawn(async move {
        // It has also ended when the sender is gone.
        let _ = has_ended.await;
    });
    Ok(())
}

/// The worker's session, which walks along indexes; a new one when there is none.
async fn connected<'s>(
    session: &'s mut Option<Session>,
    settings: &EngineSettings,
) -> Result<&'s mut Session, StoreError> {
    if session.as_ref().is_none_or(Session::is_broken) {
        *session = None;
        let mut new = Session::connect(&settings.postgres).await?;
        new.walk_along_indexes().await?;
        *session = Some(new);
    }
    Ok(session.as_mut().expect("it was connected just now"))
}

fn answer_of(told: Result<Frame, UpstreamError>) -> Result<Frame, Reply> {
    match told {
        Ok(Frame::Error(text)) => Err(Reply::Error(text.to_string())),
        Ok(frame) => Ok(frame),
        Err(error) => {
            tracing::warn!(%error, "the upstream could not be asked for its keys");
            Err(upstream_not_read())
        }
    }
}

fn order_of(layout: &Layout) -> Vec<String> {
    layout.key_order().iter().map(|&place| layout.keys()[place].column.clone()).collect()
}

fn words<const N: usize>(words: [&'static str; N]) -> [Bytes; N] {
    words.map(|word| Bytes::from_static(word.as_bytes()))
}

/// A number below `bound` by chance; 0 below 0.
fn random_below(bound: u64) -> u64 {
    random_bits().checked_rem(bound).unwrap_or(0)
}

/// 60 random bits.
fn random_bits() -> u64 {
    // The lower half of such a number has two fixed bits, at its top.
    let (_, lower) = uuid::Uuid::new_v4().as_u64_pair();
    lower & ((1 << 60) - 1)
}
