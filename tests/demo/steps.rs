//! The steps, with their times; and what they are done with: configurations and the program.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::app::App;
use crate::stack::{Cluster, Environment, Redis, directory, respgres};

/// Tells each step.
pub struct Steps {
    app: Arc<App>,
    pause: Duration,
    began: Instant,
}

/// Where the files of the demonstration are, and what it runs on.
pub struct House {
    pub config: PathBuf,
    redis: String,
    database: String,
    directory: TempDir,
}

// === impl Steps ===

impl Steps {
    pub fn new(app: Arc<App>, pause: Duration) -> Self {
        Self { app, pause, began: Instant::now() }
    }

    /// Does a step and has the app work for a while then.
    pub async fn step(&mut self, name: &str, work: impl AsyncFnOnce()) {
        let (start, before) = (Instant::now(), self.app.replies.load(Ordering::Relaxed));
        *self.app.slowest.lock().unwrap() = Duration::ZERO;
        work().await;
        let took = start.elapsed();
        tokio::time::sleep(self.pause).await;
        let replies = self.app.replies.load(Ordering::Relaxed) - before;
        let slowest = *self.app.slowest.lock().unwrap();
        eprintln!(
            "{:7.1} s  {name}: {:.1} s; {replies} replies checked, the slowest after {} ms",
            self.began.elapsed().as_secs_f64(),
            took.as_secs_f64(),
            slowest.as_millis()
        );
    }

    pub fn tell_end(&self, text: &str) {
        eprintln!("{:7.1} s  {text}", self.began.elapsed().as_secs_f64());
    }
}

// === impl House ===

impl House {
    pub async fn new(redis: &Redis, cluster: &Cluster) -> Self {
        let directory = directory("demo");
        Self {
            config: directory.path().join("new").join("respgres.toml"),
            redis: redis.url(),
            database: cluster.url(&cluster.create_database().await),
            directory,
        }
    }

    /// A configuration that has no mapping.
    pub fn empty_config(&self) -> PathBuf {
        let config = self.directory.path().join("empty.toml");
        std::fs::write(&config, "").expect("the directory is ours");
        config
    }

    pub fn environment(&self) -> Environment {
        let setting = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        vec![
            setting("RESPGRES__SERVER__LISTEN", "127.0.0.1:0"),
            setting("RESPGRES__UPSTREAM__URL", &self.redis),
            setting("RESPGRES__POSTGRES__URL", &self.database),
            setting("RESPGRES__UPSTREAM__ADMIN_COMMANDS", "true"),
        ]
    }

    /// Has a configuration proposed for what the app has in Redis by now.
    pub async fn infer(&self) {
        let files = self.config.parent().expect("it is in a directory").display().to_string();
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_respgres"));
        command.args(["infer", "--redis", &self.redis, "--rate", "1000000", "--output", &files]);
        finish(command).await;
    }

    /// Runs a command of the program, which must go well.
    pub async fn run(&self, arguments: &[&str]) {
        finish(respgres(arguments, &self.config, &self.environment())).await;
    }

    /// As `run`, and tells what it says first.
    pub async fn run_and_tell(&self, arguments: &[&str]) {
        let told = finish(respgres(arguments, &self.config, &self.environment())).await;
        eprintln!("           {}", told.lines().next().unwrap_or_default());
    }

    /// Their names.
    pub fn mappings(&self) -> Vec<String> {
        let text = std::fs::read_to_string(&self.config).expect("it was proposed");
        let config: toml::Table = text.parse().expect("it is TOML");
        let mappings = config["mapping"].as_array().expect("there are mappings");
        mappings.iter().map(|mapping| mapping["name"].as_str().unwrap().to_owned()).collect()
    }
}

/// What it prints.
async fn finish(mut command: std::process::Command) -> String {
    let words = format!("{:?}", command.get_args().collect::<Vec<_>>());
    let output = tokio::task::spawn_blocking(move || command.output());
    let output = output.await.expect("no panic").expect("respgres starts");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (told, error) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{words}: {told}{error}");
    told
}
