//! What is measured: a way to the one Redis.

use std::path::Path;

use crate::rig::Failure;
use crate::rig::process::{self, Process, Program, Stop};

/// The ways, in the order in which tables show them.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    Direct,
    Twemproxy,
    Haproxy,
    Respgres,
}

/// A running target.
pub(crate) struct Target {
    pub(crate) kind: Kind,
    pub(crate) port: u16,
    /// `None` for direct Redis.
    pub(crate) proxy: Option<Process>,
}

/// What every target is started with.
pub(crate) struct Surroundings<'a> {
    pub(crate) redis_port: u16,
    pub(crate) respgres: &'a Path,
    /// Event loops of respgres; the others have one.
    pub(crate) threads: usize,
    /// For configuration files and logs.
    pub(crate) directory: &'a Path,
}

impl Kind {
    pub(crate) const ALL: [Self; 4] =
        [Self::Direct, Self::Twemproxy, Self::Haproxy, Self::Respgres];

    /// All but direct Redis.
    pub(crate) const PROXIES: [Self; 3] = [Self::Twemproxy, Self::Haproxy, Self::Respgres];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Twemproxy => "twemproxy",
            Self::Haproxy => "haproxy",
            Self::Respgres => "respgres",
        }
    }

    /// The peer's program; `None` where there is nothing to be installed.
    pub(crate) fn program(self) -> Option<&'static str> {
        match self {
            Self::Direct | Self::Respgres => None,
            Self::Twemproxy => Some("nutcracker"),
            Self::Haproxy => Some("haproxy"),
        }
    }
}

impl Target {
    pub(crate) async fn start(
        kind: Kind,
        surroundings: &Surroundings<'_>,
    ) -> Result<Self, Failure> {
        let (port, proxy) = match kind {
            Kind::Direct => return Ok(Self::direct(surroundings.redis_port)),
            Kind::Twemproxy => start_twemproxy(surroundings).await?,
            Kind::Haproxy => start_haproxy(surroundings).await?,
            Kind::Respgres => start_respgres(surroundings).await?,
        };
        Ok(Self { kind, port, proxy: Some(proxy) })
    }

    pub(crate) fn direct(port: u16) -> Self {
        Self { kind: Kind::Direct, port, proxy: None }
    }
}

async fn start_respgres(surroundings: &Surroundings<'_>) -> Result<(u16, Process), Failure> {
    let port = process::free_port()?;
    let text = format!(
        "[admin]\nlisten = \"\"\n\n[server]\nlisten = \"127.0.0.1:{port}\"\nthreads = {}\n\n\
         [upstream]\nurl = \"redis://127.0.0.1:{}\"\n",
        surroundings.threads, surroundings.redis_port
    );
    let directory = surroundings.directory;
    let process = process::start_respgres(surroundings.respgres, &text, port, directory).await?;
    Ok((port, process))
}

/// As its own documentation advises: one upstream connection; a backlog for many clients at once.
async fn start_twemproxy(surroundings: &Surroundings<'_>) -> Result<(u16, Process), Failure> {
    let port = process::free_port()?;
    let statistics_port = process::free_port()?;
    let configuration = format!(
        "bench:\n  listen: 127.0.0.1:{port}\n  hash: fnv1a_64\n  distribution: ketama\n  \
         auto_eject_hosts: false\n  redis: true\n  backlog: 4096\n  server_connections: 1\n  \
         servers:\n   - 127.0.0.1:{}:1\n",
        surroundings.redis_port
    );
    let directory = surroundings.directory;
    let file = directory.join("nutcracker.yml");
    std::fs::write(&file, configuration)?;
    let arguments = format!(
        "--conf-file={} --stats-addr=127.0.0.1 --stats-port={statistics_port} --pid-file={} \
         --verbose=4",
        file.display(),
        directory.join("nutcracker.pid").display()
    );
    start_peer("nutcracker", &arguments, port, directory).await
}

/// TCP mode: one upstream connection a client, bytes copied both ways, one thread.
async fn start_haproxy(surroundings: &Surroundings<'_>) -> Result<(u16, Process), Failure> {
    let port = process::free_port()?;
    // Two files a connection; some are haproxy's own.
    let connections = process::open_files().saturating_sub(100) / 2;
    let configuration = format!(
        "global\n  nbthread 1\n  maxconn {connections}\n\
         defaults\n  mode tcp\n  maxconn {connections}\n  timeout connect 5s\n  \
         timeout client 1h\n  timeout server 1h\n\
         frontend clients\n  bind 127.0.0.1:{port}\n  backlog 4096\n  default_backend redis\n\
         backend redis\n  server redis 127.0.0.1:{}\n",
        surroundings.redis_port
    );
    let directory = surroundings.directory;
    let file = directory.join("haproxy.cfg");
    std::fs::write(&file, configuration)?;
    // -db: in the foreground.
    start_peer("haproxy", &format!("-db -f {}", file.display()), port, directory).await
}

async fn start_peer(
    program: &str,
    arguments: &str,
    port: u16,
    directory: &Path,
) -> Result<(u16, Process), Failure> {
    let mut process = Process::start(Program {
        name: program,
        path: &process::find_program(program)?,
        arguments: arguments.split(' ').map(String::from).collect(),
        log_directory: directory,
        identity: None,
        stop: Stop::Kill,
    })?;
    process.wait_for_port(port).await?;
    Ok((port, process))
}
