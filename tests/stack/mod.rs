//! What every test stands on: a real respgres, a real Redis, a real Postgres.
//!
//! Each test has its own Redis and its own database; one Postgres cluster serves all tests of a
//! test binary. Nothing is left behind: guards stop what a test started when it passes and when it
//! panics, the reaper does when the test process itself is killed.
//!
//! ```ignore
//! let stack = Stack::with_mappings(MAPPINGS).await;
//! talk(&stack, r#"
//!     > HSET apikey:6f… name demo
//!     :1
//! "#).await;
//! assert_eq!(stack.sql_text("select name from api_keys").await, "demo");
//! stack.stop_expecting(&[]).await;
//! ```

// Every test binary compiles this module and uses a part of it.
#![allow(dead_code, unreachable_pub, unused_imports)]

pub mod client;
pub mod conversation;
pub mod disk;
pub mod postgres;
pub mod process;
pub mod proxy;
pub mod random;
pub mod reaper;
pub mod redis;
pub mod resp;

use std::path::PathBuf;
use std::sync::Arc;

use sqlx::{AssertSqlSafe, Decode, Executor, PgConnection, Postgres, Row, Type};
use tempfile::TempDir;
use tokio::sync::Mutex;

pub use client::{Client, Server};
pub use conversation::talk;
pub use disk::Disk;
pub use postgres::Cluster;
pub use process::wait_until;
pub use proxy::{Environment, Proxy, respgres};
pub use random::Random;
pub use redis::Redis;
pub use resp::Value;

/// One Redis, one database, and the proxies over them.
pub struct Stack {
    pub redis: Redis,
    pub proxy: Proxy,
    pub database: Option<Database>,
    config: PathBuf,
    environment: Environment,
    directory: TempDir,
}

/// A database of a test's own.
pub struct Database {
    pub cluster: Arc<Cluster>,
    pub name: String,
    connection: Mutex<PgConnection>,
}

/// How a stack is to be; `start` makes it so.
#[derive(Default)]
pub struct Builder {
    config: String,
    environment: Environment,
    redis_arguments: Vec<&'static str>,
    cluster: Option<Arc<Cluster>>,
    before: Vec<String>,
}

// === impl Builder ===

impl Builder {
    /// A setting as its environment variable, such as `("RESPGRES__DEFAULTS__STRATEGY", …)`.
    pub fn set(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// More arguments for redis-server.
    pub fn redis_arguments(mut self, arguments: &[&'static str]) -> Self {
        self.redis_arguments.extend(arguments);
        self
    }

    /// A cluster of the test's own instead of the shared one: for tests that stop it.
    pub fn cluster(mut self, cluster: Arc<Cluster>) -> Self {
        self.cluster = Some(cluster);
        self
    }

    /// SQL that runs in the database before `respgres schema --apply` and the proxy: tables of the
    /// test's own.
    pub fn sql(mut self, statements: &str) -> Self {
        self.before.push(statements.to_owned());
        self
    }

    pub async fn start(self) -> Stack {
        let directory = directory("respgres");
        let config = directory.path().join("respgres.toml");
        std::fs::write(&config, &self.config).expect("the directory is ours");
        let redis = Redis::start_with(&self.redis_arguments).await;
        // Connections are waited for on a machine that is busy with other tests, too. The test's own settings
        // come last: they win.
        let mut environment: Environment = vec![
            ("RESPGRES__SERVER__LISTEN".to_owned(), "127.0.0.1:0".to_owned()),
            ("RESPGRES__UPSTREAM__CONNECT_TIMEOUT".to_owned(), "10s".to_owned()),
            ("RESPGRES__POSTGRES__CONNECT_TIMEOUT".to_owned(), "20s".to_owned()),
            ("RESPGRES__UPSTREAM__URL".to_owned(), redis.url()),
        ];
        let mut database = None;
        if self.config.contains("[[mapping]]") {
            let cluster = match &self.cluster {
                Some(cluster) => Arc::clone(cluster),
                None => Cluster::shared().await,
            };
            let source = format!("{}\n{}", self.before.join("\n"), self.config);
            let name = cluster
                .clone_database(&source, async |template| {
                    if !self.before.is_empty() {
                        let mut connection = cluster.connect(template).await;
                        let result =
                            connection.execute(AssertSqlSafe(self.before.join(";\n"))).await;
                        result.unwrap_or_else(|error| panic!("{:?}: {error}", self.before));
                    }
                    let url = ("RESPGRES__POSTGRES__URL".to_owned(), cluster.url(template));
                    apply_schema(&config, vec![url]).await;
                })
                .await;
            environment.push(("RESPGRES__POSTGRES__URL".to_owned(), cluster.url(&name)));
            let connection = Mutex::new(cluster.connect(&name).await);
            database = Some(Database { cluster, name, connection });
        }
        environment.extend(self.environment);
        let proxy = Proxy::start(&config, environment.clone()).await;
        Stack { redis, proxy, database, config, environment, directory }
    }
}

// === impl Stack ===

impl Stack {
    /// With this configuration; addresses in it do not matter, the stack has its own.
    pub fn builder(config: &str) -> Builder {
        Builder { config: config.to_owned(), ..Builder::default() }
    }

    /// A proxy with these mappings (`[[mapping]]` …), their tables made by `respgres schema`.
    pub async fn with_mappings(mappings: &str) -> Stack {
        Self::builder(mappings).start().await
    }

    /// A proxy that knows no mapping and has no Postgres.
    pub async fn pass_through() -> Stack {
        Self::builder("").start().await
    }

    /// One more proxy over the same Redis and the same database.
    pub async fn start_second_proxy(&self) -> Proxy {
        Proxy::start(&self.config, self.environment.clone()).await
    }

    /// One more proxy over the same database, with settings of its own.
    pub async fn start_proxy_with(&self, settings: &[(&str, String)]) -> Proxy {
        let own = settings.iter().map(|(name, value)| ((*name).to_owned(), value.clone()));
        let environment = self.environment.iter().cloned().chain(own).collect();
        Proxy::start(&self.config, environment).await
    }

    /// A new connection to the first proxy.
    pub async fn client(&self) -> Client {
        Client::connect(self).await
    }

    pub fn database(&self) -> &Database {
        self.database.as_ref().expect("a stack with mappings has a database")
    }

    /// The one value of a query, which must not be NULL.
    pub async fn sql_i64(&self, query: &str) -> i64 {
        self.database().one(&format!("select ({query})::bigint")).await
    }

    /// The one value of a query as Postgres writes it; it must not be NULL.
    pub async fn sql_text(&self, query: &str) -> String {
        self.database().one(&format!("select ({query})::text")).await
    }

    /// As `sql_text`; `None` for NULL and for no row.
    pub async fn sql_optional_text(&self, query: &str) -> Option<String> {
        self.database().one(&format!("select ({query})::text")).await
    }

    /// Statements without a result.
    pub async fn sql_execute(&self, statements: &str) {
        let mut connection = self.database().connection.lock().await;
        let result = connection.execute(AssertSqlSafe(statements.to_owned())).await;
        result.unwrap_or_else(|error| panic!("{statements}: {error}"));
    }

    /// Another command of the program with this stack's configuration.
    pub fn command(&self, arguments: &[&str]) -> std::process::Command {
        respgres(arguments, &self.config, &self.environment)
    }

    /// Runs another command of the program with this stack's configuration; gives exit success,
    /// standard output and standard error.
    pub fn run(&self, arguments: &[&str]) -> (bool, String, String) {
        run(respgres(arguments, &self.config, &self.environment))
    }

    /// As `run`, without waiting for its end.
    pub fn begin(&self, arguments: &[&str]) -> process::Process {
        let mut command = respgres(arguments, &self.config, &self.environment);
        process::Process::start(&format!("respgres {}", arguments.join(" ")), &mut command)
    }

    /// Waits until Postgres has all that Redis was told first.
    pub async fn flushed(&self) {
        wait_until("the journal is flushed", async || {
            self.redis.say("XLEN respgres:journal").await == Value::Integer(0)
        })
        .await;
    }

    /// Stops the proxy; fails on WARN and ERROR lines that are not announced. See
    /// [`Proxy::stop_expecting`].
    pub async fn stop_expecting(mut self, announced: &[&str]) {
        self.proxy.stop_expecting(announced).await;
    }
}

impl Stack {
    /// As [`Proxy::stop_allowing`].
    pub async fn stop_allowing(mut self, announced: &[&str], allowed: &[&str]) {
        self.proxy.stop_allowing(announced, allowed).await;
    }
}

impl Server for Stack {
    fn address(&self) -> String {
        self.proxy.address()
    }
}

// === impl Database ===

impl Database {
    async fn one<T>(&self, query: &str) -> T
    where
        T: for<'r> Decode<'r, Postgres> + Type<Postgres>,
    {
        let mut connection = self.connection.lock().await;
        let row = connection.fetch_one(AssertSqlSafe(query.to_owned())).await;
        let row = row.unwrap_or_else(|error| panic!("{query}: {error}"));
        row.try_get(0).unwrap_or_else(|error| panic!("{query}: {error}"))
    }
}

/// `respgres schema --apply`. A Postgres that has just been started may be slow.
pub async fn apply_schema(config: &std::path::Path, mut environment: Environment) {
    environment.push(("RESPGRES__POSTGRES__CONNECT_TIMEOUT".to_owned(), "30s".to_owned()));
    let mut command = respgres(&["schema", "--apply"], config, &environment);
    let output = tokio::task::spawn_blocking(move || command.output());
    let output = output.await.expect("no panic").expect("respgres starts");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "respgres schema --apply: {error}");
}

fn run(mut command: std::process::Command) -> (bool, String, String) {
    let output = command.output().expect("respgres starts");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.success(), text(&output.stdout), text(&output.stderr))
}

/// A directory that is removed when dropped. In /tmp, as the paths of Unix sockets are short.
pub fn directory(what: &str) -> TempDir {
    let prefix = format!("respgres-test-{what}-");
    let directory = tempfile::Builder::new().prefix(&prefix).tempdir_in("/tmp");
    let directory = directory.expect("/tmp is writable");
    reaper::reaper().remove(directory.path());
    directory
}
