//! A respgres process.

use std::path::Path;
use std::process::Command;

use super::client::Server;
use super::process::Process;

/// Settings for a proxy as environment variables: they win over the file's.
pub type Environment = Vec<(String, String)>;

/// A running respgres; killed when dropped.
pub struct Proxy {
    process: Process,
    command: (std::path::PathBuf, Environment),
    address: String,
}

impl Proxy {
    /// Starts `respgres run` and waits until it listens.
    pub async fn start(config: &Path, environment: Environment) -> Self {
        let started = Self::try_start(config, environment).await;
        started.unwrap_or_else(|log| panic!("respgres ended early:\n{}", log.join("\n")))
    }

    /// As `start`; its log when it gives up, as without Postgres it does.
    pub async fn try_start(config: &Path, environment: Environment) -> Result<Self, Vec<String>> {
        let mut command = respgres(&["run"], config, &environment);
        let (process, address) = listening(Process::start("respgres", &mut command)).await?;
        Ok(Self { process, command: (config.to_owned(), environment), address })
    }

    /// SIGKILL: as when the machine dies.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts again at the same address (after `kill`, or after killing it now).
    pub async fn restart(&mut self) {
        if let Err(log) = self.try_restart().await {
            panic!("respgres ended early:\n{}", log.join("\n"));
        }
    }

    /// As `restart`; its log when it gives up, as without Postgres it does.
    pub async fn try_restart(&mut self) -> Result<(), Vec<String>> {
        self.process.kill();
        let (config, mut environment) = self.command.clone();
        environment.push(("RESPGRES__SERVER__LISTEN".to_owned(), self.address.clone()));
        let mut command = respgres(&["run"], &config, &environment);
        let mut process = Process::start("respgres", &mut command);
        process.try_wait_for_line(|line| line.contains("listening")).await?;
        self.process = process;
        Ok(())
    }

    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Whether it is gone.
    pub fn has_ended(&mut self) -> bool {
        self.process.has_ended()
    }

    /// Waits for a line of the log.
    pub async fn wait_for_line(&mut self, wanted: impl Fn(&str) -> bool) -> String {
        self.process.wait_for_line(wanted).await
    }

    /// Stops the proxy by SIGTERM. Fails unless it ends well, on any line of level WARN or ERROR
    /// (or a panic) that contains none of `announced`, and on an announced text that never came.
    pub async fn stop_expecting(&mut self, announced: &[&str]) {
        self.stop_allowing(announced, &[]).await;
    }

    /// As `stop_expecting`; lines that contain one of `allowed` may come or not, as time will have it.
    pub async fn stop_allowing(&mut self, announced: &[&str], allowed: &[&str]) {
        let (status, log) = self.process.stop("TERM").await;
        let all = log.join("\n");
        assert!(status.success(), "respgres ended with {status}:\n{all}");
        let troubles: Vec<&String> = log.iter().filter(|line| is_trouble(line)).collect();
        for line in &troubles {
            let expected = announced.iter().chain(allowed).any(|text| line.contains(text));
            assert!(expected, "not announced: {line}\n--- the whole log\n{all}");
        }
        for text in announced {
            let came = troubles.iter().any(|line| line.contains(text));
            assert!(came, "announced, but never logged: {text}\n--- the whole log\n{all}");
        }
    }
}

impl Server for Proxy {
    fn address(&self) -> String {
        self.address.clone()
    }
}

/// The built program with `arguments`, a configuration file and settings from the environment.
pub fn respgres(arguments: &[&str], config: &Path, environment: &Environment) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_respgres"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("RESPGRES__")) {
        command.env_remove(name);
    }
    // Its usual port is one for all.
    command.env("RESPGRES__ADMIN__LISTEN", "");
    command.args(arguments).arg("--config").arg(config).envs(environment.iter().cloned());
    command
}

fn is_trouble(line: &str) -> bool {
    let mut words = line.split(|c: char| !c.is_ascii_alphabetic());
    words.any(|word| word == "WARN" || word == "ERROR") || line.contains("panicked at")
}

/// Waits for the line that names the address; the port may have been chosen by the system.
async fn listening(mut process: Process) -> Result<(Process, String), Vec<String>> {
    let line = process.try_wait_for_line(|line| line.contains("listening")).await?;
    let address = line
        .split(|c: char| c.is_whitespace() || matches!(c, '=' | '"' | ','))
        .find(|word| word.parse::<std::net::SocketAddr>().is_ok())
        .unwrap_or_else(|| panic!("no address in: {line}"));
    let address = address.to_owned();
    Ok((process, address))
}
