//! What is measured: a way to the one Redis.

use std::path::Path;

use crate::rig::Failure;
use crate::rig::process::{self, Process, Program, Stop};

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Kind {
    Direct,
    Twemproxy,
    Respgres,
}

/// A running target.
pub(crate) struct Target {
    pub(crate) kind: Kind,
    pub(crate) port: u16,
    /// `None` for direct Redis.
    pub(crate) proxy: Option<Process>,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Twemproxy => "twemproxy",
            Self::Respgres => "respgres",
        }
    }
}

impl Target {
    pub(crate) async fn start(
        kind: Kind,
        redis_port: u16,
        respgres: &Path,
        threads: usize,
        directory: &Path,
    ) -> Result<Self, Failure> {
        let (port, proxy) = match kind {
            Kind::Direct => (redis_port, None),
            Kind::Twemproxy => {
                let (process, port) = start_twemproxy(redis_port, directory).await?;
                (port, Some(process))
            }
            Kind::Respgres => {
                let port = process::free_port()?;
                let text = format!(
                    "[server]\nlisten = \"127.0.0.1:{port}\"\nthreads = {threads}\n\n\
                     [upstream]\nurl = \"redis://127.0.0.1:{redis_port}\"\n"
                );
                let process = process::start_respgres(respgres, &text, port, directory).await?;
                (port, Some(process))
            }
        };
        Ok(Self { kind, port, proxy })
    }
}

/// As its own documentation advises: one upstream connection; a backlog for many clients at once.
async fn start_twemproxy(redis_port: u16, directory: &Path) -> Result<(Process, u16), Failure> {
    let port = process::free_port()?;
    let statistics_port = process::free_port()?;
    let configuration = format!(
        "bench:\n  listen: 127.0.0.1:{port}\n  hash: fnv1a_64\n  distribution: ketama\n  \
         auto_eject_hosts: false\n  redis: true\n  backlog: 4096\n  server_connections: 1\n  \
         servers:\n   - 127.0.0.1:{redis_port}:1\n"
    );
    let file = directory.join("nutcracker.yml");
    std::fs::write(&file, configuration)?;
    let arguments = format!(
        "--conf-file={} --stats-addr=127.0.0.1 --stats-port={statistics_port} --pid-file={} \
         --verbose=4",
        file.display(),
        directory.join("nutcracker.pid").display()
    );
    let mut process = Process::start(Program {
        name: "twemproxy",
        path: &process::find_program("nutcracker")?,
        arguments: arguments.split(' ').map(String::from).collect(),
        log_directory: directory,
        identity: None,
        stop: Stop::Kill,
    })?;
    process.wait_for_port(port).await?;
    Ok((process, port))
}
