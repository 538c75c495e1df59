//! A child process with its log, killed when dropped.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::reaper::reaper;

/// How long a test waits for anything before it fails: far longer than anything takes on a machine that is slow
/// and busy with other tests.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// How a process is ended when its guard is dropped.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// SIGKILL.
    Kill,
    /// SIGQUIT, for Postgres: see [`Reaper::quit`](super::reaper::Reaper::quit).
    Quit,
}

/// A running program whose standard error and output are collected line by line.
pub struct Process {
    name: String,
    child: Child,
    ended: bool,
    end: End,
    log: Arc<Mutex<Vec<String>>>,
    readers: Vec<JoinHandle<()>>,
}

impl Process {
    pub fn start(name: &str, command: &mut Command) -> Self {
        Self::start_ending(name, command, End::Kill)
    }

    /// An error where there is no such program.
    pub fn try_start(name: &str, command: &mut Command) -> std::io::Result<Self> {
        Self::spawn(name, command, End::Kill)
    }

    pub fn start_ending(name: &str, command: &mut Command, end: End) -> Self {
        Self::spawn(name, command, end)
            .unwrap_or_else(|error| panic!("{name} does not start: {error}"))
    }

    fn spawn(name: &str, command: &mut Command, end: End) -> std::io::Result<Self> {
        let mut child =
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        match end {
            End::Kill => reaper().kill(child.id()),
            End::Quit => reaper().quit(child.id()),
        }
        let log = Arc::new(Mutex::new(Vec::new()));
        let outputs: [Box<dyn std::io::Read + Send>; 2] = [
            Box::new(child.stdout.take().expect("piped above")),
            Box::new(child.stderr.take().expect("piped above")),
        ];
        let readers = outputs.map(|output| {
            let log = Arc::clone(&log);
            std::thread::spawn(move || {
                for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
                    let line = without_colours(&String::from_utf8_lossy(&line));
                    lines(&log).push(line);
                }
            })
        });
        Ok(Self { name: name.to_owned(), child, ended: false, end, log, readers: readers.into() })
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// All lines so far.
    pub fn log(&self) -> Vec<String> {
        lines(&self.log).clone()
    }

    /// Waits for a log line that `wanted` likes; fails when the process ends or takes too long.
    pub async fn wait_for_line(&mut self, wanted: impl Fn(&str) -> bool) -> String {
        match self.try_wait_for_line(wanted).await {
            Ok(line) => line,
            Err(log) => panic!("{} ended early:\n{}", self.name, log.join("\n")),
        }
    }

    /// As `wait_for_line`; the whole log when the process ends instead.
    pub async fn try_wait_for_line(
        &mut self,
        wanted: impl Fn(&str) -> bool,
    ) -> Result<String, Vec<String>> {
        let start = Instant::now();
        loop {
            if let Some(line) = lines(&self.log).iter().find(|line| wanted(line)) {
                return Ok(line.clone());
            }
            if let Some(status) = self.child.try_wait().expect("the child is ours") {
                let mut log = self.end();
                log.push(status.to_string());
                return Err(log);
            }
            if start.elapsed() > DEADLINE {
                panic!("{} never said what was waited for:\n{}", self.name, self.log().join("\n"));
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Sends a signal by its name (`TERM`, `STOP`, …). What is to stop has stopped when this returns, with all of its
    /// threads: on a busy machine one that waits for its turn might still take what comes next.
    pub fn signal(&self, signal: &str) {
        let order = format!("kill -{signal} {}", self.id());
        let status = Command::new("sh").args(["-c", &order]).status().expect("sh starts");
        assert!(status.success(), "{order} failed");
        let start = Instant::now();
        while signal == "STOP" && !self.has_stopped() {
            assert!(start.elapsed() < DEADLINE, "{} does not stop", self.name);
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Whether none of its threads runs.
    fn has_stopped(&self) -> bool {
        let threads = std::fs::read_dir(format!("/proc/{}/task", self.id())).expect("it is there");
        threads.flatten().all(|thread| {
            let stat = std::fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
            // The name before the state may have any character.
            stat.rsplit_once(") ").is_none_or(|(_, state)| state.starts_with(['T', 't']))
        })
    }

    /// Whether the process is gone, by itself or because it was killed.
    pub fn has_ended(&mut self) -> bool {
        self.ended || self.child.try_wait().expect("the child is ours").is_some()
    }

    /// SIGKILL, at once; returns when the process is gone.
    pub fn kill(&mut self) {
        if !self.ended {
            // Fails only when the process is gone already, which is what is wanted.
            let _ = self.child.kill();
            self.end();
        }
    }

    /// Asks the process to end with `signal` and waits for it.
    pub async fn stop(&mut self, signal: &str) -> (ExitStatus, Vec<String>) {
        self.signal(signal);
        self.finish().await
    }

    /// Waits until the process ends by itself; gives its whole log.
    pub async fn finish(&mut self) -> (ExitStatus, Vec<String>) {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("the child is ours") {
                return (status, self.end());
            }
            if start.elapsed() > DEADLINE {
                panic!("{} does not end:\n{}", self.name, self.log().join("\n"));
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Waits for a process that has ended or has been killed; returns its whole log.
    fn end(&mut self) -> Vec<String> {
        self.child.wait().expect("the child is ours");
        self.ended = true;
        reaper().spare(self.child.id());
        for reader in self.readers.drain(..) {
            reader.join().expect("reading a log does not panic");
        }
        self.log()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.end == End::Quit && !self.ended {
            self.signal("QUIT");
            self.end();
        }
        self.kill();
    }
}

/// Waits until `condition` holds; fails after [`DEADLINE`], saying `what` was waited for.
pub async fn wait_until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let start = Instant::now();
    while !condition().await {
        assert!(start.elapsed() < DEADLINE, "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

fn lines(log: &Mutex<Vec<String>>) -> std::sync::MutexGuard<'_, Vec<String>> {
    log.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Drops escape sequences such as `ESC [ 32 m`.
fn without_colours(line: &str) -> String {
    let mut plain = String::with_capacity(line.len());
    let mut rest = line.chars();
    while let Some(c) = rest.next() {
        if c == '\x1b' {
            rest.by_ref().find(|c| c.is_ascii_alphabetic());
        } else {
            plain.push(c);
        }
    }
    plain
}
