//! A server of the benchmark's own: started on a free port, killed by its pid.
//!
//! Invariants
//! - A process lives no longer than its `Process`: leaving by an error or by Ctrl-C drops it.
//! - Only 127.0.0.1 is used.

use std::ffi::OsStr;
use std::fs::File;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::Failure;

/// Open files that a server of ours may have, where the system allows it: ten thousand clients need
/// twice as many in a proxy.
const OPEN_FILES: u32 = 20_480;

/// How a process is asked to end when its `Process` is dropped.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stop {
    Kill,
    /// SIGQUIT: Postgres' immediate shutdown, which takes its children along.
    Quit,
}

/// A running program.
pub(crate) struct Process {
    name: String,
    child: Child,
    log: PathBuf,
    stop: Stop,
}

/// What to start, and as whom.
pub(crate) struct Program<'a> {
    pub(crate) name: &'a str,
    pub(crate) path: &'a Path,
    pub(crate) arguments: Vec<String>,
    /// Where `<name>.log` gets what the program prints.
    pub(crate) log_directory: &'a Path,
    /// User and group to run as, when it is not ours.
    pub(crate) identity: Option<(u32, u32)>,
    pub(crate) stop: Stop,
}

impl Process {
    pub(crate) fn start(program: Program<'_>) -> Result<Self, Failure> {
        let log = program.log_directory.join(format!("{}.log", program.name));
        let output = File::create(&log)?;
        let mut command = Command::new("sh");
        let limit = format!("ulimit -S -n {}; exec \"$@\"", open_files());
        command.args(["-c", &limit, "sh"]).arg(program.path).args(&program.arguments);
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        if let Some((user, group)) = program.identity {
            command.uid(user).gid(group);
        }
        let child = command
            .spawn()
            .map_err(|error| format!("cannot start {}: {error}", program.path.display()))?;
        Ok(Self { name: program.name.to_owned(), child, log, stop: program.stop })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until the process accepts connections on `port`.
    ///
    /// # Errors
    /// When it ends before, or does not listen within ten seconds; the text holds its log's tail.
    pub(crate) async fn wait_for_port(&mut self, port: u16) -> Result<(), Failure> {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Err(format!("{} ended at once ({status}){}", self.name, self.tail()).into());
            }
            if tokio::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.is_ok() {
                return Ok(());
            }
            if start.elapsed() > Duration::from_secs(10) {
                return Err(
                    format!("{} does not listen on port {port}{}", self.name, self.tail()).into()
                );
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until the process ends by itself.
    ///
    /// # Errors
    /// When it fails, or takes longer than `limit`.
    pub(crate) async fn finish(&mut self, limit: Duration) -> Result<(), Failure> {
        let start = Instant::now();
        loop {
            match self.child.try_wait()? {
                Some(status) if status.success() => return Ok(()),
                Some(status) => {
                    return Err(format!("{} failed ({status}){}", self.name, self.tail()).into());
                }
                None if start.elapsed() > limit => {
                    return Err(format!("{} took longer than {limit:?}", self.name).into());
                }
                None => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    }

    /// User and system time that the process has used so far, seconds (all its threads).
    pub(crate) fn cpu_seconds(&self) -> Result<f64, Failure> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid()))?;
        let ticks = cpu_ticks(&stat).ok_or("cannot read utime and stime of /proc/PID/stat")?;
        // The kernel reports in USER_HZ, which is 100 on every architecture Linux runs on today.
        Ok(ticks as f64 / 100.0)
    }

    /// The same with all that its children, living and ended, have used: a server that forks.
    pub(crate) fn family_cpu_seconds(&self) -> Result<f64, Failure> {
        let pid = self.pid().to_string();
        let own = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let mut ticks = cpu_ticks(&own).unwrap_or(0) + ended_children_ticks(&own).unwrap_or(0);
        for entry in std::fs::read_dir("/proc")? {
            // A process may end while its directory is read.
            let Ok(stat) = std::fs::read_to_string(entry?.path().join("stat")) else { continue };
            if parent(&stat) == Some(&pid) {
                ticks += cpu_ticks(&stat).unwrap_or(0);
            }
        }
        Ok(ticks as f64 / 100.0)
    }

    /// Resident memory, MB of 1024 * 1024 bytes.
    pub(crate) fn resident_mb(&self) -> Result<f64, Failure> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid()))?;
        let kilobytes: f64 = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB"))
            .ok_or("no VmRSS in /proc/PID/status")?
            .parse()?;
        Ok(kilobytes / 1024.0)
    }

    /// How many files the process has open, sockets included.
    pub(crate) fn files(&self) -> Result<usize, Failure> {
        Ok(std::fs::read_dir(format!("/proc/{}/fd", self.pid()))?.count())
    }

    pub(crate) fn is_running(&mut self) -> Result<bool, Failure> {
        Ok(self.child.try_wait()?.is_none())
    }

    /// Ends it now, and not only when it is dropped.
    pub(crate) fn end(&mut self) {
        // Both can only fail when the process is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    pub(crate) fn log(&self) -> std::io::Result<String> {
        std::fs::read_to_string(&self.log)
    }

    fn tail(&self) -> String {
        let text = self.log().unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let from = lines.len().saturating_sub(15);
        if lines.is_empty() {
            String::from(", and printed nothing")
        } else {
            format!(":\n{}", lines[from..].join("\n"))
        }
    }
}

impl Drop for Process {
    #[allow(
        clippy::disallowed_methods,
        reason = "nothing else runs any more when servers are stopped"
    )]
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(Some(_))) {
            return;
        }
        if self.stop == Stop::Quit {
            let asked =
                Command::new("kill").args(["-QUIT", &self.child.id().to_string()]).status().is_ok();
            let start = Instant::now();
            while asked && start.elapsed() < Duration::from_secs(5) {
                if matches!(self.child.try_wait(), Ok(Some(_))) {
                    return;
                }
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        self.end();
    }
}

/// Open files that a server of ours, and the benchmark itself, may have.
pub(crate) fn open_files() -> u32 {
    let hard = getrlimit(Resource::Nofile).maximum.unwrap_or(u64::from(OPEN_FILES));
    u32::try_from(hard).map_or(OPEN_FILES, |hard| hard.min(OPEN_FILES))
}

/// Lets the benchmark itself have as many.
pub(crate) fn raise_file_limit() -> Result<(), Failure> {
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: Some(u64::from(open_files())), maximum })?;
    Ok(())
}

/// A port of 127.0.0.1 that nobody listens on.
pub(crate) fn free_port() -> Result<u16, Failure> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

/// The full path of a program: searched in PATH and where administrators' programs live.
///
/// # Errors
/// When there is no such program.
pub(crate) fn find_program(name: &str) -> Result<PathBuf, Failure> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/usr/local/sbin"].map(PathBuf::from))
        .map(|directory| directory.join(name))
        .find(|candidate| candidate.is_file())
        .ok_or_else(|| format!("{name} is needed and not installed").into())
}

/// Runs a program to its end.
///
/// # Errors
/// When it fails; the text is what it printed.
pub(crate) fn run<A: AsRef<OsStr>>(
    path: &Path,
    arguments: &[A],
    identity: Option<(u32, u32)>,
) -> Result<String, Failure> {
    let mut command = Command::new(path);
    command.args(arguments).stdin(Stdio::null());
    if let Some((user, group)) = identity {
        command.uid(user).gid(group).current_dir("/");
    }
    let output = command.output().map_err(|error| format!("{}: {error}", path.display()))?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        return Err(format!("{} failed ({}): {text}", path.display(), output.status).into());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Starts a Redis without persistence.
pub(crate) async fn start_redis(log_directory: &Path) -> Result<(Process, u16), Failure> {
    let port = free_port()?;
    let arguments = format!("--port {port} --bind 127.0.0.1 --appendonly no --tcp-backlog 4096");
    let mut arguments: Vec<String> = arguments.split(' ').map(String::from).collect();
    arguments.extend([
        String::from("--save"),
        String::new(),
        String::from("--dir"),
        log_directory.display().to_string(),
    ]);
    let mut process = Process::start(Program {
        name: "redis",
        path: &find_program("redis-server")?,
        arguments,
        log_directory,
        identity: None,
        stop: Stop::Kill,
    })?;
    process.wait_for_port(port).await?;
    Ok((process, port))
}

/// Starts respgres with this configuration, which must name `port`.
pub(crate) async fn start_respgres(
    binary: &Path,
    configuration: &str,
    port: u16,
    directory: &Path,
) -> Result<Process, Failure> {
    let file = directory.join("respgres.toml");
    std::fs::write(&file, configuration)?;
    let mut process = Process::start(Program {
        name: "respgres",
        path: binary,
        arguments: vec!["run".into(), "--config".into(), file.display().to_string()],
        log_directory: directory,
        identity: None,
        stop: Stop::Kill,
    })?;
    process.wait_for_port(port).await?;
    Ok(process)
}

/// What processes that the benchmark has started and waited for have used.
pub(crate) fn ended_children_seconds() -> Result<f64, Failure> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let ticks = ended_children_ticks(&stat).ok_or("cannot read /proc/self/stat")?;
    Ok(ticks as f64 / 100.0)
}

/// ppid (proc(5): field 4).
fn parent(stat: &str) -> Option<&str> {
    stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(1)
}

/// cutime + cstime (proc(5): fields 16 and 17).
fn ended_children_ticks(stat: &str) -> Option<u64> {
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(13);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

/// utime + stime (proc(5): fields 14 and 15; the name before them may hold blanks and brackets).
fn cpu_ticks(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}
