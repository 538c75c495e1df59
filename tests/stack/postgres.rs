//! A PostgreSQL cluster in a directory of its own: one for all tests of a test binary, with a
//! database per test, or one for a test that stops and starts it.
//!
//! Postgres refuses to run as root: then it runs as the system's user `postgres`.

use std::collections::HashMap;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};
use tempfile::TempDir;
use tokio::sync::{Mutex, OnceCell};

use super::directory;
use super::process::{End, Process};

/// A running cluster, reached over a Unix socket as user `postgres` without a password.
pub struct Cluster {
    process: std::sync::Mutex<Option<Process>>,
    directory: TempDir,
    account: Account,
    durable: bool,
    databases: AtomicU32,
    /// What a template was made from, to its name.
    templates: Mutex<HashMap<String, String>>,
}

/// Who runs Postgres.
#[derive(Clone, Copy)]
enum Account {
    Ourselves,
    Other { user: u32, group: u32 },
}

impl Cluster {
    /// The cluster that the tests of this binary share; started by the first that asks. A static is
    /// never dropped, so it ends by the reaper.
    pub async fn shared() -> Arc<Cluster> {
        static SHARED: OnceCell<Arc<Cluster>> = OnceCell::const_new();
        Arc::clone(SHARED.get_or_init(async || Arc::new(Cluster::start(false).await)).await)
    }

    /// A cluster of a test's own. `durable`: with fsync, as in production.
    pub async fn start(durable: bool) -> Self {
        let directory = directory("postgres");
        let account = Account::find();
        account.own(directory.path());
        let mut initdb = Command::new(program("initdb"));
        initdb.args(["--auth=trust", "--username=postgres", "--encoding=UTF8", "--locale=C.UTF-8"]);
        initdb.args(["--no-sync", "--no-instructions", "-D"]).arg(directory.path().join("data"));
        let initdb = account.runs(&mut initdb, directory.path());
        let (status, log) = Process::start_ending("initdb", initdb, End::Quit).finish().await;
        assert!(status.success(), "initdb: {}", log.join("\n"));
        let cluster = Self {
            process: std::sync::Mutex::new(None),
            directory,
            account,
            durable,
            databases: AtomicU32::new(0),
            templates: Mutex::new(HashMap::new()),
        };
        cluster.restart().await;
        cluster
    }

    /// Starts Postgres (again), with the data that it had.
    pub async fn restart(&self) {
        self.kill();
        let directory = self.directory.path();
        let mut postgres = Command::new(program("postgres"));
        postgres.arg("-D").arg(directory.join("data")).arg("-k").arg(directory);
        postgres.args(["-c", "listen_addresses=", "-c", "max_connections=300"]);
        postgres.args(["-c", "log_min_messages=warning", "-c", "shared_buffers=64MB"]);
        if !self.durable {
            postgres.args(["-c", "fsync=off", "-c", "full_page_writes=off"]);
        }
        let postgres = self.account.runs(&mut postgres, directory);
        let mut process = Process::start_ending("postgres", postgres, End::Quit);
        process.wait_for_line(|line| line.contains("ready to accept connections")).await;
        *self.process.lock().expect("no panic while held") = Some(process);
    }

    /// SIGKILL to the postmaster; its children follow by themselves.
    pub fn kill(&self) {
        if let Some(mut process) = self.process.lock().expect("no panic while held").take() {
            process.kill();
        }
    }

    /// What Postgres has logged since it was started.
    pub fn log(&self) -> Vec<String> {
        let process = self.process.lock().expect("no panic while held");
        process.as_ref().map(Process::log).unwrap_or_default()
    }

    /// What psql takes for its host: the directory of the socket.
    pub fn host(&self) -> String {
        self.directory.path().display().to_string()
    }

    /// For `[postgres] url`.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://postgres@localhost/{database}?host={}", self.directory.path().display())
    }

    pub async fn connect(&self, database: &str) -> PgConnection {
        let url = self.url(database);
        PgConnection::connect(&url).await.unwrap_or_else(|error| panic!("{url}: {error}"))
    }

    /// A new, empty database.
    pub async fn create_database(&self) -> String {
        let name = self.next_name("test");
        self.administer(format!("CREATE DATABASE {name}")).await;
        name
    }

    /// A new database that is a copy of the template made from `source`. `prepare` fills the
    /// template's database, once.
    pub async fn clone_database(&self, source: &str, prepare: impl AsyncFnOnce(&str)) -> String {
        // Held while cloning: a template must not have two users at a time.
        let mut templates = self.templates.lock().await;
        if !templates.contains_key(source) {
            let template = self.next_name("template");
            self.administer(format!("CREATE DATABASE {template}")).await;
            prepare(&template).await;
            templates.insert(source.to_owned(), template);
        }
        let template = &templates[source];
        let name = self.next_name("test");
        self.administer(format!("CREATE DATABASE {name} TEMPLATE {template}")).await;
        name
    }

    fn next_name(&self, kind: &str) -> String {
        format!("{kind}_{}", self.databases.fetch_add(1, Ordering::Relaxed))
    }

    async fn administer(&self, statement: String) {
        let mut connection = self.connect("postgres").await;
        let result = connection.execute(AssertSqlSafe(statement.clone())).await;
        result.unwrap_or_else(|error| panic!("{statement}: {error}"));
    }
}

// === impl Account ===

impl Account {
    fn find() -> Self {
        if number("id", &["-u"]) != Some(0) {
            return Account::Ourselves;
        }
        let user = number("id", &["-u", "postgres"]);
        let group = number("id", &["-g", "postgres"]);
        match (user, group) {
            (Some(user), Some(group)) => Account::Other { user, group },
            _ => panic!("as root the tests need a user `postgres`: install PostgreSQL"),
        }
    }

    fn own(self, path: &Path) {
        if let Account::Other { user, group } = self {
            std::os::unix::fs::chown(path, Some(user), Some(group)).expect("root may chown");
        }
    }

    fn runs<'a>(self, command: &'a mut Command, directory: &Path) -> &'a mut Command {
        command.current_dir(directory).env("HOME", directory);
        if let Account::Other { user, group } = self {
            command.uid(user).gid(group);
        }
        command
    }
}

fn number(program: &str, arguments: &[&str]) -> Option<u32> {
    let output = Command::new(program).args(arguments).output().ok()?;
    String::from_utf8(output.stdout).ok()?.trim().parse().ok()
}

/// Where Debian and others put Postgres' programs, newest version first; else the search path.
fn program(name: &str) -> PathBuf {
    let mut found: Vec<(u32, PathBuf)> = Vec::new();
    for parent in ["/usr/lib/postgresql", "/usr/local/lib/postgresql"] {
        for entry in std::fs::read_dir(parent).into_iter().flatten().flatten() {
            let path = entry.path().join("bin").join(name);
            let version = entry.file_name().to_string_lossy().parse().unwrap_or(0);
            if path.exists() {
                found.push((version, path));
            }
        }
    }
    found.into_iter().max().map_or_else(|| PathBuf::from(name), |(_, path)| path)
}
