//! A Redis of a test's own, on a Unix socket in a directory of its own.

use std::path::PathBuf;
use std::process::{Command, ExitStatus};

use tempfile::TempDir;

use super::client::{Client, Server};
use super::process::Process;
use super::{directory, resp::Value};

/// A running redis-server; killed when dropped.
pub struct Redis {
    process: Process,
    directory: TempDir,
    arguments: Vec<String>,
}

impl Redis {
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// With more arguments for redis-server, such as `["--requirepass", "secret"]`.
    pub async fn start_with(arguments: &[&str]) -> Self {
        let directory = directory("redis");
        let arguments: Vec<String> =
            arguments.iter().map(|argument| argument.to_string()).collect();
        let process = launch(&directory, &arguments).await;
        Self { process, directory, arguments }
    }

    /// For `[upstream] url`.
    pub fn url(&self) -> String {
        format!("unix:{}", self.socket().display())
    }

    pub fn socket(&self) -> PathBuf {
        self.directory.path().join("redis.sock")
    }

    /// Sends one command line over a new connection.
    pub async fn say(&self, line: &str) -> Value {
        Client::connect(self).await.say(line).await
    }

    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Waits until the server ends by itself; gives its whole log.
    pub async fn finish(&mut self) -> (ExitStatus, Vec<String>) {
        self.process.finish().await
    }

    /// What a snapshot (SAVE) has left for the next start goes.
    pub fn forget_snapshot(&self) {
        // There is none where nothing was saved.
        let _ = std::fs::remove_file(self.directory.path().join("dump.rdb"));
    }

    /// SIGKILL: what was in memory is lost.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts again, empty or with the last snapshot, at the same address.
    pub async fn restart(&mut self) {
        self.process.kill();
        self.process = launch(&self.directory, &self.arguments).await;
    }

    /// As after a failover: who connects to this address meets the other from now on, while connections
    /// that are open stay.
    pub fn give_place_to(&self, other: &Redis) {
        std::fs::remove_file(self.socket()).expect("the socket is there");
        std::os::unix::fs::symlink(other.socket(), self.socket()).expect("the name is free");
    }
}

impl Server for Redis {
    fn address(&self) -> String {
        self.socket().display().to_string()
    }
}

async fn launch(directory: &TempDir, arguments: &[String]) -> Process {
    let mut command = Command::new("redis-server");
    command
        .current_dir(directory)
        .args(["--port", "0", "--unixsocket", "redis.sock"])
        .args(["--save", "", "--appendonly", "no"])
        .args(arguments);
    let mut process = Process::start("redis-server", &mut command);
    process.wait_for_line(|line| line.contains("ready to accept connections")).await;
    process
}
