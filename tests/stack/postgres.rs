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
use std::time::{Duration, Instant};

use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};
use tempfile::TempDir;
use tokio::sync::{Mutex, OnceCell};

use super::directory;
use super::disk::{Disk, Owner};
use super::process::{DEADLINE, End, Process};

/// A running cluster, reached over a Unix socket as user `postgres` without a password.
pub struct Cluster {
    process: std::sync::Mutex<Option<Process>>,
    directory: TempDir,
    /// Where its data are, if that is a disk of their own.
    disk: Option<Disk>,
    account: Account,
    durable: bool,
    databases: AtomicU32,
    /// What a template was made from, to its name.
    templates: Mutex<HashMap<String, String>>,
}

/// A cluster with a few databases, and as much again.
const SMALL_DISK_MIB: u32 = 160;

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
        Self::start_in(directory("postgres"), durable, None).await
    }

    /// A durable cluster with its data on a small disk, so that this can be full; on any disk where the
    /// machine has no such one.
    pub async fn start_on_small_disk() -> Self {
        let directory = directory("postgres");
        let disk = match Account::find() {
            Account::Ourselves => None,
            Account::Other { user, group } => {
                let owner = Owner { user, group };
                Disk::mount(&directory.path().join("data"), SMALL_DISK_MIB, owner).await
            }
        };
        Self::start_in(directory, true, disk).await
    }

    async fn start_in(directory: TempDir, durable: bool, disk: Option<Disk>) -> Self {
        let account = Account::find();
        account.own(directory.path());
        let cluster = Self {
            process: std::sync::Mutex::new(None),
            directory,
            disk,
            account,
            durable,
            databases: AtomicU32::new(0),
            templates: Mutex::new(HashMap::new()),
        };
        let mut initdb = cluster.command("initdb");
        initdb.args(["--auth=trust", "--username=postgres", "--encoding=UTF8", "--locale=C.UTF-8"]);
        initdb.args(["--no-sync", "--no-instructions"]);
        if cluster.disk.is_some() {
            initdb.arg("--wal-segsize=1");
        }
        let (status, log) = Process::start_ending("initdb", &mut initdb, End::Quit).finish().await;
        assert!(status.success(), "initdb: {}", log.join("\n"));
        cluster.restart().await;
        cluster
    }

    /// A program of Postgres' on the data of this cluster.
    fn command(&self, name: &str) -> Command {
        let directory = self.directory.path();
        let mut command = match &self.disk {
            Some(disk) => disk.command(&program(name)),
            None => {
                let mut command = Command::new(program(name));
                self.account.runs(&mut command);
                command
            }
        };
        command.current_dir(directory).env("HOME", directory);
        command.arg("-D").arg(directory.join("data"));
        command
    }

    /// Starts Postgres (again), with the data that it had.
    pub async fn restart(&self) {
        self.kill();
        let start = Instant::now();
        while let Err(log) = self.try_start().await {
            // Processes of the one that was killed may be about to end.
            let log = log.join("\n");
            let is_early = log.contains("is still in use") || log.contains("lock file");
            assert!(is_early && start.elapsed() < DEADLINE, "postgres ended early:\n{log}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn try_start(&self) -> Result<(), Vec<String>> {
        let mut postgres = self.command("postgres");
        postgres.arg("-k").arg(self.directory.path());
        postgres.args(["-c", "listen_addresses=", "-c", "max_connections=300"]);
        postgres.args(["-c", "log_min_messages=warning", "-c", "shared_buffers=64MB"]);
        if self.disk.is_some() {
            postgres.args(["-c", "min_wal_size=4MB", "-c", "max_wal_size=16MB"]);
        }
        if !self.durable {
            postgres.args(["-c", "fsync=off", "-c", "full_page_writes=off"]);
        }
        let mut process = Process::start_ending("postgres", &mut postgres, End::Quit);
        process.try_wait_for_line(|line| line.contains("ready to accept connections")).await?;
        *self.process.lock().expect("no panic while held") = Some(process);
        Ok(())
    }

    /// The postmaster, unless it was killed.
    pub fn postmaster(&self) -> Option<u32> {
        self.process.lock().expect("no panic while held").as_ref().map(Process::id)
    }

    /// Whether the postmaster is gone, by itself or because it was killed.
    pub fn has_ended(&self) -> bool {
        let mut process = self.process.lock().expect("no panic while held");
        process.as_mut().is_none_or(Process::has_ended)
    }

    /// What Postgres calls a fast shutdown: it ends all sessions, whatever they do.
    pub async fn shut_down(&self) {
        let process = self.process.lock().expect("no panic while held").take();
        if let Some(mut process) = process {
            process.stop("INT").await;
        }
    }

    /// The disk of its data, if that is one of their own.
    pub fn disk(&self) -> Option<&Disk> {
        self.disk.as_ref()
    }

    /// The Unix socket.
    pub fn socket(&self) -> PathBuf {
        self.directory.path().join(".s.PGSQL.5432")
    }

    pub async fn try_connect(&self, database: &str) -> Result<PgConnection, sqlx::Error> {
        PgConnection::connect(&self.url(database)).await
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

    fn runs(self, command: &mut Command) {
        if let Account::Other { user, group } = self {
            command.uid(user).gid(group);
        }
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
