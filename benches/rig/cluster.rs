//! A Postgres cluster of the benchmark's own, with the server's defaults: fsync on.

use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};

use super::Failure;
use super::process::{self, Process, Program, Stop};

/// A running cluster with the empty database `bench`; dropped, it is stopped and its files go.
pub(crate) struct Cluster {
    // Before the directory, so that the server is gone when its files are removed.
    process: Process,
    directory: tempfile::TempDir,
    port: u16,
    url: String,
}

impl Cluster {
    /// Needs Debian's `/usr/lib/postgresql/*/bin` or the programs in PATH. As root it runs as the user
    /// `postgres`, because Postgres refuses to run as root.
    pub(crate) async fn start() -> Result<Self, Failure> {
        let programs = programs()?;
        let identity = identity()?;
        let directory = tempfile::Builder::new().prefix("respgres-bench-").tempdir()?;
        if let Some((user, group)) = identity {
            chown(directory.path(), Some(user), Some(group))?;
        }
        let data = directory.path().join("data").display().to_string();
        process::run(
            &programs.join("initdb"),
            &["-D", &data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync"],
            identity,
        )?;
        let port = process::free_port()?;
        let socket = directory.path().display().to_string();
        let port_text = port.to_string();
        let mut process = Process::start(Program {
            name: "postgres",
            path: &programs.join("postgres"),
            arguments: ["-D", &data, "-h", "127.0.0.1", "-p", &port_text, "-k", &socket]
                .map(String::from)
                .to_vec(),
            log_directory: directory.path(),
            identity,
            stop: Stop::Quit,
        })?;
        process.wait_for_port(port).await?;
        let arguments = ["-h", &socket, "-p", &port_text, "-U", "postgres", "bench"];
        create_database(&programs.join("createdb"), &arguments).await?;
        let url = url(port, &socket, "bench");
        Ok(Self { process, directory, port, url })
    }

    /// Of the server and all its sessions.
    pub(crate) fn cpu_seconds(&self) -> Result<f64, Failure> {
        self.process.family_cpu_seconds()
    }

    /// Over the Unix socket.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// The same for another database.
    pub(crate) fn url_of(&self, database: &str) -> String {
        url(self.port, &self.directory.path().display().to_string(), database)
    }
}

fn url(port: u16, socket: &str, database: &str) -> String {
    format!("postgres://postgres@localhost:{port}/{database}?host={socket}")
}

/// The server listens a moment before it lets anybody in ("the database system is starting up").
async fn create_database(program: &Path, arguments: &[&str]) -> Result<(), Failure> {
    for _ in 0..50 {
        if process::run(program, arguments, None).is_ok() {
            return Ok(());
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    process::run(program, arguments, None).map(|_| ())
}

/// The newest server's programs.
fn programs() -> Result<PathBuf, Failure> {
    let mut versions: Vec<(u32, PathBuf)> = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let version = entry.file_name().to_str()?.parse().ok()?;
            Some((version, entry.path().join("bin")))
        })
        .filter(|(_, programs)| programs.join("initdb").is_file())
        .collect();
    versions.sort();
    if let Some((_, programs)) = versions.pop() {
        return Ok(programs);
    }
    let initdb = process::find_program("initdb")?;
    Ok(initdb.parent().map(Path::to_path_buf).unwrap_or_default())
}

/// User and group of `postgres` when we are root.
fn identity() -> Result<Option<(u32, u32)>, Failure> {
    let id = process::find_program("id")?;
    let number = |arguments: &[&str]| -> Result<u32, Failure> {
        Ok(process::run(&id, arguments, None)?.trim().parse()?)
    };
    if number(&["-u"])? != 0 {
        return Ok(None);
    }
    Ok(Some((number(&["-u", "postgres"])?, number(&["-g", "postgres"])?)))
}
