//! Start and stop: the configuration becomes stores, engine and server, and they end in the
//! opposite order.

pub mod admin;
mod eviction;
pub mod infer;
pub mod journal;
pub mod moving;
pub mod phase;
pub mod proxies;
pub mod rollback;
mod stores;
pub mod strategy;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use thiserror::Error;
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

use self::stores::connected;
use crate::admin::{Admin, AdminError, Clients, View};
use crate::command::COMMANDS;
use crate::config::{self, Config, LogFormat, Problem, Problems, RedisUrl, Strategy};
use crate::engine::dead_letters::NotRetried;
use crate::engine::explain::{Explainer, Explanation};
use crate::engine::fleet::Fleet;
use crate::engine::jobs::Jobs;
use crate::engine::operator::Operator;
use crate::engine::switchboard::{self, Entry};
use crate::engine::switcher::NotSwitched;
use crate::engine::tables::Tables;
use crate::engine::{Engine, EngineSettings, Health};
use crate::mapping::registry::{Plan, plan};
use crate::mapping::shape::TableName;
use crate::mapping::{Gate, KeyPattern, Layout, Mapping, Phase, Registry};
use crate::metrics::{Metrics, Recorder, Role, Troubles};
use crate::server::{Alarm, Roster, Server, ServerError, Shared, Users};
use crate::store::{Phases, Session, StoreError, application_name};
use crate::tasks::Tasks;
use crate::upstream::UpstreamError;
use crate::upstream::control::{Control, ControlSettings, Frame};

/// What HELLO says of the upstream while nobody has been able to ask it.
const ASSUMED_REDIS_VERSION: &str = "7.0.0";

/// How long the workers may take at shutdown to bring to Postgres what is under way.
const FAREWELL: Duration = Duration::from_secs(10);

/// A configuration and what is made of it without asking anybody.
#[derive(Debug)]
pub struct Setup {
    pub config: Config,
    pub plans: Vec<Plan>,
}

/// Why respgres does not run. The text is for the operator.
#[derive(Debug, Error)]
pub enum AppError {
    #[error("{0}")]
    Io(#[from] std::io::Error),
    #[error(transparent)]
    Server(#[from] ServerError),
    #[error(transparent)]
    Admin(#[from] AdminError),
    #[error("the admin API of a running respgres: {0}")]
    NotTold(String),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the upstream's url: {0}")]
    Upstream(String),
    #[error(transparent)]
    Redis(#[from] UpstreamError),
    #[error(
        "the upstream Redis evicts any key when its memory is full (maxmemory-policy {0}), also what \
         `cache_first` mappings have written and Postgres does not have yet; use noeviction or volatile-lru"
    )]
    Eviction(String),
    #[error("there is no mapping \"{0}\" that has a side in Postgres")]
    NoSuchRows(String),
    #[error("there is no dead letter {0}")]
    NoDeadLetter(i64),
    #[error("there is no mapping {0:?}; there are: {1}")]
    NoMapping(String, String),
    #[error("{0}")]
    NoStrategy(String),
    #[error("mapping \"{0}\": {1}")]
    InDoubt(String, Box<NotSwitched>),
    #[error("mapping \"{0}\" is as it was: {1}")]
    NotSwitched(String, Box<NotSwitched>),
    #[error("there is no proxy {0}")]
    NoProxy(String),
    #[error("the proxy {0} is alive; stop it instead")]
    IsAlive(String),
    #[error("it was not written: {0}")]
    NotRetried(#[from] NotRetried),
    #[error(
        "\"{0}\" lives in Redis alone: record its phase first (respgres phase set dual_write) and start all respgres anew; or, \
         where that was an order, give it another strategy (respgres strategy set)"
    )]
    NotMoving(String),
    #[error(transparent)]
    Moving(#[from] crate::engine::moving::MovingError),
    #[error("the log filter: {0}")]
    Log(String),
    #[error("the mappings do not fit the database:{}", list(.0))]
    Mappings(Vec<Problem>),
}

fn list(problems: &[Problem]) -> String {
    problems.iter().map(|problem| format!("\n  {problem}")).collect()
}

// === impl Setup ===

impl Setup {
    /// Reads a configuration file, and the key patterns in it.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn load(path: &Path) -> Result<Self, Problems> {
        let (config, plans) = Config::load_with(path, plan)?;
        Ok(Self { config, plans })
    }

    /// Whether any mapping has a side in Postgres.
    pub fn needs_postgres(&self) -> bool {
        self.plans.iter().any(|plan| plan.config.strategy != Strategy::RedisOnly)
    }

    fn upstream_url(&self) -> Result<RedisUrl, AppError> {
        RedisUrl::parse(&self.config.upstream.url).map_err(AppError::Upstream)
    }
}

/// Runs the proxy until it is told to stop.
///
/// # Errors
/// When something that it cannot do without is missing.
pub fn run(setup: Setup) -> Result<(), AppError> {
    let troubles = Arc::new(Troubles::default());
    start_log(&setup.config.log, &troubles)?;
    raise_file_limit();
    let runtime = worker_runtime()?;
    runtime.block_on(async {
        // Wanted from the first moment, so that none is missed.
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;

        let settings = engine_settings(&setup)?;
        let (mappings, entries) = mappings(&setup, &settings.control).await?;
        let registry = registry(mappings, &setup.plans);
        let mapped = registry.mappings().count();
        let engine = Arc::new(Engine::new(registry, &settings));
        engine.adopt(&entries);
        if engine.may_ever_write_behind() {
            let may_evict = eviction::check(&settings.control, engine.is_cache_first()).await?;
            if may_evict {
                engine.never_degrade();
            }
        }
        let redis_version = ask_redis_version(&settings.control).await;
        let config = setup.config;
        let shared = Arc::new(Shared {
            engine: Arc::clone(&engine),
            roster: Roster::default(),
            users: Users::new(&config.auth),
            limits: config.limits,
            upstream_address: settings.control.address.clone(),
            upstream: config.upstream,
            max_clients: config.server.max_clients,
            started: Instant::now(),
            writes_paused_until_ms: AtomicU64::new(0),
            http_requests: Alarm::default(),
            redis_version,
        });
        let (beats, workers, loops) = (Tasks::new(), Tasks::new(), Tasks::new());
        let patience = Duration::from_millis(settings.control.connect_timeout_ms);
        engine.start_beating(&settings, &beats)?;
        let _ = tokio::time::timeout(patience, engine.registered()).await;
        engine.start(&settings, &workers)?;
        // Without Redis mapped keys are read from Postgres: that is no reason not to begin.
        let _ = tokio::time::timeout(patience, engine.settled()).await;
        let threads = event_loops(config.server.threads);
        let (operators, jobs) = (Tasks::new(), Arc::new(Jobs::default()));
        let operator = Operator::new(Arc::clone(&engine), settings, Arc::clone(&jobs));
        let admin =
            start_admin(&config.admin, setup.plans, operator, troubles, &shared, &operators)?;
        let server = Server::start(&shared, &config.server.listen, threads, &loops)?;
        tracing::info!(address = %server.address, threads, mapped, "listening");

        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        tracing::info!("stopping");
        operators.stop();
        jobs.stop();
        loops.stop();
        // The workers go on meanwhile: clients still get their answers.
        if tokio::task::spawn_blocking(move || server.join()).await.is_err() {
            tracing::error!("the event loops could not be waited for");
        }
        if let Some(admin) = admin {
            drop(tokio::task::spawn_blocking(move || admin.join()).await);
        }
        if tokio::time::timeout(FAREWELL, jobs.ended()).await.is_err() {
            tracing::warn!("a job is ended half-way; begun again, it goes on");
        }
        workers.stop();
        if tokio::time::timeout(FAREWELL, workers.ended()).await.is_err() {
            tracing::warn!("writes that were under way may or may not have happened");
        }
        beats.stop();
        beats.ended().await;
        Ok(())
    })
}

/// The admin API, where the configuration has one.
fn start_admin(
    config: &config::Admin,
    plans: Vec<Plan>,
    operator: Operator,
    troubles: Arc<Troubles>,
    shared: &Arc<Shared>,
    tasks: &Tasks,
) -> Result<Option<Admin>, AdminError> {
    if config.listen.is_empty() {
        return Ok(None);
    }
    let of_server = Arc::clone(shared);
    let view = View {
        operator,
        plans,
        troubles,
        started: shared.started,
        clients: Box::new(move || Clients {
            connected: of_server.roster.len(),
            output_bytes: of_server.roster.output_bytes(),
        }),
        token: config.token.clone(),
    };
    let admin = Admin::start(&config.listen, view, tasks)?;
    tracing::info!(address = %admin.address, token = config.token.is_some(), "the admin API is there");
    Ok(Some(admin))
}

/// Checks that the mappings fit the database.
///
/// # Errors
/// Everything that does not fit, or that the database is out of reach.
pub fn check(setup: &Setup) -> Result<(), AppError> {
    worker_runtime()?.block_on(async {
        let mut session = Session::connect(&setup.config.postgres).await?;
        bind(&mut session, &setup.plans, &Phases::new(), &[]).await.map(drop)
    })
}

/// Tells what respgres makes of one key.
///
/// # Errors
/// When the mappings do not fit the database, or it is out of reach.
pub fn explain(setup: &Setup, key: String) -> Result<Explanation, AppError> {
    worker_runtime()?.block_on(async {
        let settings = engine_settings(setup)?;
        let mut session = None;
        let (mut mappings, mut entries) = (Vec::new(), Entries::new());
        if setup.needs_postgres() {
            let session = session.insert(Session::connect(&settings.postgres).await?);
            // Where no proxy has ever been there is none of these.
            entries = session.mapping_entries().await.unwrap_or_default();
            let phases = session.phases().await.unwrap_or_default();
            mappings = bind(session, &setup.plans, &phases, &entries).await?;
        }
        let (registry, tables) = (registry(mappings, &setup.plans), Tables::new(&settings.plans));
        switchboard::adopt(&registry, &entries);
        let explainer = Explainer { settings: &settings, registry: &registry, tables: &tables };
        let mut control = Control::new(settings.control.clone());
        let told = explainer.explain(&Bytes::from(key), &mut session, &mut control).await;
        if let Some(session) = session {
            session.close().await;
        }
        Ok(told)
    })
}

/// Makes the tables of the mappings and respgres' own.
///
/// # Errors
/// When the database is out of reach or refuses.
pub fn apply_schema(setup: &Setup, statements: &str) -> Result<(), AppError> {
    worker_runtime()?.block_on(async {
        let mut session = connected(setup).await?;
        session.apply(statements).await?;
        Ok(())
    })
}

fn worker_runtime() -> Result<Runtime, AppError> {
    Ok(Builder::new_current_thread().enable_all().build()?)
}

fn engine_settings(setup: &Setup) -> Result<EngineSettings, AppError> {
    let Config { upstream, postgres, journal, proxies, defaults, .. } = &setup.config;
    let control = ControlSettings {
        address: setup.upstream_url()?,
        database: upstream.database,
        connect_timeout_ms: upstream.connect_timeout_ms,
        request_timeout_ms: upstream.request_timeout_ms,
    };
    let fleet = Arc::new(Fleet::new(proxies.split));
    // So that Postgres can tell the sessions of one proxy from those of others.
    let joint = if postgres.url.contains('?') { '&' } else { '?' };
    let name = application_name(fleet.id());
    let url = format!("{}{joint}application_name={name}", postgres.url);
    Ok(EngineSettings {
        postgres: config::Postgres { url, ..postgres.clone() },
        journal: journal.clone(),
        control,
        health: Arc::new(Health::new(Arc::clone(&fleet))),
        metrics: Arc::new(Metrics::new(COMMANDS.len(), setup.plans.len())),
        role: Role::Operate,
        fleet,
        redis_loss: proxies.redis_loss,
        lease_ms: defaults.lease_ms,
        cache_max_elements: defaults.cache_max_elements,
        verify_hits: defaults.verify_hits,
        plans: setup.plans.clone(),
        reply_most_bytes: setup.config.limits.client_backlog_max_bytes,
        part: None,
    })
}

/// What operators have settled: mapping, and value as JSON.
type Entries = Vec<(String, String)>;

/// The mappings that have a side in Postgres, or may get one, bound to their tables, and what operators have
/// settled.
async fn mappings(
    setup: &Setup,
    control: &ControlSettings,
) -> Result<(Vec<Arc<Mapping>>, Entries), AppError> {
    if !setup.needs_postgres() {
        return Ok((Vec::new(), Entries::new()));
    }
    let mut session = connected(setup).await?;
    // What does not fit is not begun with.
    bind(&mut session, &setup.plans, &Phases::new(), &[]).await?;
    // Before the phases: a mapping that leaves `redis_only` in between imports, whatever its phase was.
    let entries = session.mapping_entries().await?;
    let phases = phase::begin(&mut session, setup, control).await?;
    let mappings = bind(&mut session, &setup.plans, &phases, &entries).await?;
    session.close().await;
    Ok((mappings, entries))
}

/// Of these mappings, and the patterns of the others: those pass through, whatever is said of their strategy.
fn registry(mappings: Vec<Arc<Mapping>>, plans: &[Plan]) -> Registry {
    let is_here = |plan: &&Plan| mappings.iter().any(|mapping| mapping.index == plan.index);
    let elsewhere = plans.iter().filter(|plan| !is_here(plan)).map(|plan| plan.pattern.clone());
    let elsewhere: Vec<KeyPattern> = elsewhere.collect();
    Registry::new(mappings, elsewhere)
}

/// Where nothing is recorded, one in which nothing is lost.
fn phase_of(plan: &Plan, phases: &Phases) -> Phase {
    phases.get(&plan.config.name).copied().unwrap_or(Phase::DualWrite)
}

/// What operators have settled, or else what the file says.
fn strategy_of(plan: &Plan, entries: &[(String, String)]) -> Strategy {
    let entry = entries.iter().find(|(name, _)| *name == plan.config.name);
    let entry = entry.and_then(|(_, text)| Entry::parse(text)).filter(|entry| !entry.is_unset());
    let strategy = entry.and_then(|entry| Strategy::parse(&entry.strategy).ok());
    strategy.unwrap_or(plan.config.strategy)
}

/// Checks all mappings that have a side in Postgres. Those that pass through for now are not among the result;
/// `redis_only` ones are, if their tables fit.
async fn bind(
    session: &mut Session,
    plans: &[Plan],
    phases: &Phases,
    entries: &[(String, String)],
) -> Result<Vec<Arc<Mapping>>, AppError> {
    let (mut mappings, mut problems) = (Vec::new(), Vec::new());
    for plan in plans {
        let strategy = strategy_of(plan, entries);
        let may_be_without = [plan.config.strategy, strategy] == [Strategy::RedisOnly; 2];
        if may_be_without && plan.config.table.is_empty() {
            continue;
        }
        let shape = session.table_shape(&TableName::parse(&plan.config.table)).await?;
        let phase = phase_of(plan, phases);
        match Layout::bind(plan, shape.as_ref()) {
            Ok(_) if phase.passes_through() => {}
            Ok(layout) => mappings.push(Arc::new(Mapping {
                index: plan.index,
                name: plan.config.name.clone(),
                pattern: plan.pattern.clone(),
                gate: Gate::new(strategy, phase.imports()),
                cache_ttl_ms: milliseconds(plan.config.cache_ttl_ms),
                negative_ttl_ms: milliseconds(plan.config.negative_ttl_ms),
                on_expire: plan.config.on_expire,
                on_postgres_down: plan.config.on_postgres_down,
                layout,
            })),
            Err(_) if may_be_without => {}
            Err(mut more) => problems.append(&mut more),
        }
    }
    if problems.is_empty() { Ok(mappings) } else { Err(AppError::Mappings(problems)) }
}

fn milliseconds(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// Event loops: as configured, or all cores but one, which Redis needs.
fn event_loops(configured: usize) -> usize {
    if configured > 0 {
        return configured;
    }
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    cores.saturating_sub(1).max(1)
}

async fn ask_redis_version(settings: &ControlSettings) -> String {
    let mut control = Control::new(settings.clone());
    let words = [Bytes::from_static(b"INFO"), Bytes::from_static(b"server")];
    match control.command(&words).await {
        Ok(Frame::BulkString(text)) => {
            let text = String::from_utf8_lossy(&text);
            let version = text.lines().find_map(|line| line.strip_prefix("redis_version:"));
            return version.unwrap_or(ASSUMED_REDIS_VERSION).to_owned();
        }
        Ok(_) => tracing::warn!("the upstream does not tell its version"),
        Err(error) => tracing::warn!(%error, "the upstream is not there yet"),
    }
    ASSUMED_REDIS_VERSION.to_owned()
}

fn start_log(log: &config::Log, troubles: &Arc<Troubles>) -> Result<(), AppError> {
    let filter =
        EnvFilter::try_new(&log.level).map_err(|error| AppError::Log(error.to_string()))?;
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let lines = match log.format {
        LogFormat::Text => lines.with_ansi(false).boxed(),
        LogFormat::Json => lines.json().boxed(),
    };
    // Of these everybody who looks in wants to know, whatever the log is to have.
    let recorder = Recorder(Arc::clone(troubles)).with_filter(LevelFilter::WARN);
    tracing_subscriber::registry().with(lines.with_filter(filter)).with(recorder).init();
    Ok(())
}

/// Each client is an open file: takes as many as the system allows, as Redis does.
fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    let wanted = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, wanted) {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
}
