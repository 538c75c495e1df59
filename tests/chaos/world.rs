//! Two proxies, a Redis and a Postgres, with a relay on every way between them; and the faults that befall
//! them.

use std::collections::HashMap;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use sqlx::{AssertSqlSafe, Executor, PgConnection, Row};
use tempfile::TempDir;
use tokio::sync::Mutex;
use tokio::time::sleep;

use crate::relay::{Direction, Relay};
use crate::schedule::{Event, Fault, Link, Memory, Policy, Side};
use crate::stack::{
    Client, Cluster, Environment, Proxy, Redis, Server, Value, apply_schema, directory, wait_until,
};
use crate::strategy;

/// Shorter than what users get, so that what is held up is given up before it goes on again.
const SETTINGS: &[(&str, &str)] = &[
    ("RESPGRES__SERVER__LISTEN", "127.0.0.1:0"),
    ("RESPGRES__SERVER__THREADS", "1"),
    ("RESPGRES__UPSTREAM__ADMIN_COMMANDS", "true"),
    ("RESPGRES__UPSTREAM__CONNECT_TIMEOUT", "1s"),
    ("RESPGRES__UPSTREAM__REQUEST_TIMEOUT", "2s"),
    ("RESPGRES__UPSTREAM__SILENCE_TIMEOUT", "2s"),
    ("RESPGRES__POSTGRES__CONNECT_TIMEOUT", "2s"),
    ("RESPGRES__POSTGRES__STATEMENT_TIMEOUT", "3s"),
    ("RESPGRES__DEFAULTS__LEASE", "2s"),
    ("RESPGRES__DEFAULTS__NEGATIVE_TTL", "1s"),
    ("RESPGRES__LOG__LEVEL", "info,respgres::engine=debug"),
];

/// How long a proxy may take until it stays.
const PATIENCE: Duration = Duration::from_secs(40);

/// A change of strategies that has not come about by then is given up.
const SWITCHING: Duration = Duration::from_secs(15);

/// Beside the tables of the mappings: which key was in the outbox when; and a disk that is full because we
/// say so, where there is none that can be filled.
const TABLES: &str = "
    create schema chaos;
    create table chaos.waited (id bigint, key bytea, at timestamptz, is_over boolean);
    create function chaos.wait() returns trigger language plpgsql as $$
    begin
        if tg_op = 'INSERT' then
            insert into chaos.waited values (new.id, new.key, clock_timestamp(), false);
        else
            insert into chaos.waited values (old.id, old.key, clock_timestamp(), true);
        end if;
        return null;
    end $$;
    create trigger waited after insert or delete on respgres.outbox
        for each row execute function chaos.wait();
    create table chaos.is_full (since timestamptz);
    create function chaos.refuse() returns trigger language plpgsql as $$
    begin
        if exists (select from chaos.is_full) then
            raise exception 'there is no room' using errcode = '53100';
        end if;
        return null;
    end $$;";

pub(crate) struct World {
    pub(crate) redis: Mutex<Redis>,
    redis_address: String,
    pub(crate) cluster: Cluster,
    /// Held by who does something to Postgres.
    postgres: Mutex<()>,
    database: String,
    pub(crate) proxies: [Mutex<Proxy>; 2],
    links: HashMap<Link, Relay>,
    start: Instant,
    /// Of processes that are gone.
    logs: std::sync::Mutex<Vec<Log>>,
    _directory: TempDir,
}

/// What a process has logged in one life.
#[derive(Clone, Debug)]
pub(crate) struct Log {
    pub(crate) name: String,
    pub(crate) lines: Vec<String>,
}

/// A process that is stopped until this is dropped.
struct Frozen(Pid);

// === impl World ===

impl World {
    pub(crate) async fn start() -> Self {
        Self::start_in("migrated").await
    }

    /// With the mappings in this phase.
    pub(crate) async fn start_in(phase: &str) -> Self {
        let start = Instant::now();
        let directory = directory("chaos");
        let config = directory.path().join("respgres.toml");
        std::fs::write(&config, strategy::mappings()).expect("the directory is ours");
        let redis = Redis::start().await;
        let cluster = Cluster::start_on_small_disk().await;
        if cluster.disk().is_none() {
            println!("Postgres has no small disk here (that takes root): a trigger stands for it");
        }
        let tables = tables(cluster.disk().is_some());
        let database = cluster.create_database().await;
        let url = ("RESPGRES__POSTGRES__URL".to_owned(), cluster.url(&database));
        apply_schema(&config, vec![url]).await;
        let mut connection = cluster.connect(&database).await;
        connection.execute(AssertSqlSafe(tables)).await.expect("these tables are ours");

        let phases = format!(
            "insert into respgres.control (name, value)
             select 'mapping:' || name, jsonb_build_object('phase', '{phase}')
             from unnest('{{{}}}'::text[]) as names(name)",
            strategy::mapping_names().join(",")
        );
        connection.execute(AssertSqlSafe(phases)).await.expect("these rows are ours");

        for statement in DISK_PACE {
            connection.execute(statement).await.expect("we are its superuser");
        }

        let mut links = HashMap::new();
        let mut proxies = Vec::new();
        for side in 0..2 {
            let to_redis = Relay::to(&redis.address()).await;
            let to_postgres = Relay::to(&cluster.socket().display().to_string()).await;
            let mut environment: Environment = SETTINGS
                .iter()
                .map(|(name, value)| (name.to_string(), value.to_string()))
                .collect();
            let url = format!("redis://{}", to_redis.address());
            environment.push(("RESPGRES__UPSTREAM__URL".to_owned(), url));
            let url =
                format!("postgres://postgres@{}/{database}?sslmode=disable", to_postgres.address());
            environment.push(("RESPGRES__POSTGRES__URL".to_owned(), url));
            let proxy = start_patiently(&config, environment).await;
            links.insert(Link::Redis(side), to_redis);
            links.insert(Link::Postgres(side), to_postgres);
            links.insert(Link::Clients(side), Relay::to(&proxy.address()).await);
            proxies.push(Mutex::new(proxy));
        }
        Self {
            redis_address: redis.address(),
            redis: Mutex::new(redis),
            cluster,
            postgres: Mutex::new(()),
            database,
            proxies: proxies.try_into().unwrap_or_else(|_| unreachable!("there are two")),
            links,
            start,
            logs: std::sync::Mutex::default(),
            _directory: directory,
        }
    }

    /// Where clients connect to, a place for each proxy.
    pub(crate) fn addresses(&self) -> Vec<String> {
        [0, 1].map(|side| self.links[&Link::Clients(side)].address()).into()
    }

    /// A connection of our own.
    pub(crate) async fn sql(&self) -> Result<PgConnection, sqlx::Error> {
        self.cluster.try_connect(&self.database).await
    }

    /// Changes strategies; whether a proxy says that all of them are so now.
    pub(crate) async fn switch(&self, side: Side, target: &str) -> bool {
        let address = self.links[&Link::Clients(side)].address();
        let switching = async {
            let mut client = Client::try_connect_to(&address).await?;
            for mapping in strategy::SWITCHED {
                let told = client.try_command(&["RESPGRES", "STRATEGY", mapping, target]).await?;
                if told.is_error() {
                    return Ok(false);
                }
            }
            Ok::<bool, std::io::Error>(true)
        };
        matches!(tokio::time::timeout(SWITCHING, switching).await, Ok(Ok(true)))
    }

    /// Brings a fault, waits as long as it lasts, and mends it.
    pub(crate) async fn suffer(&self, event: &Event) {
        let lasts = event.lasts;
        match event.fault {
            Fault::ProxyKilled(side) => {
                let mut proxy = self.proxies[side].lock().await;
                proxy.kill();
                self.keep(&format!("proxy-{side}"), proxy.process().log());
                sleep(lasts).await;
                self.revive(side, &mut proxy).await;
            }
            Fault::ProxyStopped(side) => {
                let proxy = self.proxies[side].lock().await;
                freeze(proxy.process().id(), lasts).await;
            }
            Fault::RedisKilled(memory) => {
                let mut redis = self.redis.lock().await;
                if memory == Memory::Snapshot {
                    self.tell_redis("SAVE").await;
                    sleep(lasts / 2).await;
                }
                redis.kill();
                self.keep("redis", redis.process().log());
                if memory == Memory::Empty {
                    redis.forget_snapshot();
                    sleep(lasts / 2).await;
                }
                sleep(lasts / 2).await;
                redis.restart().await;
            }
            Fault::RedisStopped => {
                let redis = self.redis.lock().await;
                freeze(redis.process().id(), lasts).await;
            }
            Fault::RedisFull(policy) => {
                let _redis = self.redis.lock().await;
                self.fill_redis(policy).await;
                sleep(lasts).await;
                self.tell_redis("CONFIG SET maxmemory 0 maxmemory-policy noeviction").await;
            }
            Fault::Cut(link) => {
                self.links[&link].cut();
                sleep(lasts).await;
                self.links[&link].heal();
            }
            Fault::HalfClosed(link, direction) => {
                self.links[&link].half_close(direction);
                sleep(lasts).await;
                self.links[&link].cut_once();
            }
            Fault::Held(link, direction, goes_on) => {
                self.hold(link, &[direction], lasts, goes_on).await;
            }
            Fault::HeldBothWays(link, goes_on) => {
                self.hold(link, &[Direction::Up, Direction::Down], lasts, goes_on).await;
            }
            Fault::Slow(link, delay) => {
                self.links[&link].slow_down(delay);
                sleep(lasts).await;
                self.links[&link].heal();
            }
            Fault::Switched(side, target) => {
                // Where something else is broken it may not be possible, or nobody may know whether it was.
                self.switch(side, target).await;
                sleep(lasts).await;
                self.switch(side, strategy::INITIAL).await;
            }
            fault => {
                let _turn = self.postgres.lock().await;
                self.suffer_in_postgres(fault, lasts).await;
            }
        }
    }

    async fn suffer_in_postgres(&self, fault: Fault, lasts: Duration) {
        match fault {
            Fault::PostgresStopped => {
                freeze(self.cluster.postmaster().expect("it runs between faults"), lasts).await;
                return;
            }
            Fault::PostgresKilled => {
                self.keep("postgres", self.cluster.log());
                self.cluster.kill();
                sleep(lasts).await;
            }
            Fault::SessionKilled => {
                self.kill_a_session().await;
                sleep(lasts).await;
            }
            Fault::PostgresRestarted => {
                self.administer(&SLOW_COMMITS).await;
                sleep(SOME_COMMITS).await;
                self.keep("postgres", self.cluster.log());
                self.cluster.shut_down().await;
                sleep(lasts).await;
                self.cluster.restart().await;
                self.administer(&DISK_PACE).await;
            }
            Fault::CutInCommit(side) => {
                self.administer(&SLOW_COMMITS).await;
                sleep(SOME_COMMITS).await;
                self.links[&Link::Postgres(side)].cut_once();
                sleep(lasts).await;
                self.administer(&DISK_PACE).await;
            }
            Fault::DiskFull(spare) => match self.cluster.disk() {
                Some(disk) => {
                    disk.fill(spare);
                    sleep(lasts).await;
                    disk.free();
                }
                None => {
                    self.administer(&["insert into chaos.is_full values (now())"]).await;
                    sleep(lasts).await;
                    self.administer(&["truncate chaos.is_full"]).await;
                }
            },
            fault => unreachable!("{fault:?} is not one of Postgres"),
        }
        self.mend_postgres().await;
    }

    /// Waits until Postgres answers; starts it where it has given up.
    async fn mend_postgres(&self) {
        wait_until("Postgres answers", async || {
            if self.cluster.has_ended() {
                self.keep("postgres", self.cluster.log());
                self.cluster.restart().await;
            }
            self.sql().await.is_ok()
        })
        .await;
    }

    async fn hold(&self, link: Link, ways: &[Direction], lasts: Duration, goes_on: bool) {
        let relay = &self.links[&link];
        for direction in ways {
            relay.hold(*direction);
        }
        sleep(lasts).await;
        if !goes_on {
            relay.cut_once();
        }
        relay.heal();
    }

    /// Starts a proxy again until it stays: without Postgres it gives up.
    async fn revive(&self, side: Side, proxy: &mut Proxy) {
        let start = Instant::now();
        while let Err(log) = proxy.try_restart().await {
            let is_late = start.elapsed() > PATIENCE;
            assert!(!is_late, "proxy {side} does not start:\n{}", log.join("\n"));
            self.keep(&format!("proxy-{side}"), log);
            sleep(Duration::from_millis(100)).await;
        }
    }

    async fn tell_redis(&self, line: &str) -> Value {
        let reply = Client::connect_to(&self.redis_address).await.say(line).await;
        assert!(!reply.is_error(), "{line}: {reply:?}");
        reply
    }

    /// There is no room for anything new, and for a part of what is there neither.
    async fn fill_redis(&self, policy: Policy) {
        let Value::Bulk(info) = self.tell_redis("INFO memory").await else { panic!("no INFO") };
        let info = String::from_utf8_lossy(&info).into_owned();
        let used = info.lines().find_map(|line| line.strip_prefix("used_memory:"));
        let used: u64 = used.and_then(|used| used.trim().parse().ok()).expect("a number");
        let most = used.saturating_sub(30_000).max(1);
        let name = policy.name();
        self.tell_redis(&format!("CONFIG SET maxmemory-policy {name} maxmemory {most}")).await;
    }

    /// Statements that Postgres may be too broken for.
    async fn administer(&self, statements: &[&str]) {
        for statement in statements {
            if let Ok(mut connection) = self.sql().await {
                let _ = connection.execute(AssertSqlSafe(statement.to_string())).await;
            }
        }
    }

    async fn kill_a_session(&self) {
        let Ok(mut connection) = self.sql().await else { return };
        let query = "select pid from pg_stat_activity
            where backend_type = 'client backend' and pid <> pg_backend_pid()
            order by state = 'active' desc, query_start desc limit 1";
        if let Ok(row) = connection.fetch_one(query).await
            && let Some(pid) = Pid::from_raw(row.get(0))
        {
            // It may have ended by itself.
            let _ = kill_process(pid, Signal::KILL);
        }
    }

    // --- logs ---

    fn keep(&self, name: &str, lines: Vec<String>) {
        let name = format!("{name}-{:.3}s", self.start.elapsed().as_secs_f64());
        self.logs.lock().expect("no panic while held").push(Log { name, lines });
    }

    /// All logs so far, of those that live too.
    pub(crate) async fn logs(&self) -> Vec<Log> {
        for (side, proxy) in self.proxies.iter().enumerate() {
            self.keep(&format!("proxy-{side}"), proxy.lock().await.process().log());
        }
        self.keep("redis", self.redis.lock().await.process().log());
        self.keep("postgres", self.cluster.log());
        self.logs.lock().expect("no panic while held").clone()
    }
}

const RELOAD: &str = "select pg_reload_conf()";

/// A COMMIT takes a tenth of a second.
const SLOW_COMMITS: [&str; 2] = ["alter system set commit_delay = 100000", RELOAD];

/// After this long, and not at its end, some are under way.
const SOME_COMMITS: Duration = Duration::from_millis(150);

/// A COMMIT takes as long as on a disk, so that one is under way at almost any time.
const DISK_PACE: [&str; 3] =
    ["alter system set commit_siblings = 0", "alter system set commit_delay = 5000", RELOAD];

fn tables(has_disk: bool) -> String {
    let mut text = TABLES.to_owned();
    if !has_disk {
        for name in strategy::STRATEGIES.iter().filter(|it| it.has_rows).map(|it| it.name) {
            for table in ["rows", "entries", "members"] {
                text += &format!(
                    "create trigger is_full after insert or update or delete on {name}_{table}
                     for each statement execute function chaos.refuse();"
                );
            }
        }
    }
    text
}

/// Starts a proxy until it stays: its patience with Postgres is short, and Postgres may be slow at first.
async fn start_patiently(config: &Path, environment: Environment) -> Proxy {
    let start = Instant::now();
    loop {
        match Proxy::try_start(config, environment.clone()).await {
            Ok(proxy) => return proxy,
            Err(log) => {
                assert!(start.elapsed() < PATIENCE, "no proxy starts:\n{}", log.join("\n"));
            }
        }
    }
}

async fn freeze(id: u32, lasts: Duration) {
    let frozen = Frozen::new(id);
    sleep(lasts).await;
    drop(frozen);
}

// === impl Frozen ===

impl Frozen {
    fn new(id: u32) -> Self {
        let id = i32::try_from(id).ok().and_then(Pid::from_raw).expect("a process has a number");
        kill_process(id, Signal::STOP).expect("it runs");
        Self(id)
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        // Fails when it is gone.
        let _ = kill_process(self.0, Signal::CONT);
    }
}
