//! What a test run must not leave behind, even when the test process is killed outright.
//!
//! Guards that run on drop clean up after a passing or a panicking test. They do not run for
//! statics, nor when the test process itself dies by SIGKILL or Ctrl-C. The reaper is a shell that
//! reads, from a pipe that only the test process holds, what there is to kill and to remove; when
//! the pipe ends, for whatever reason, it does so.

use std::io::Write;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Mutex, OnceLock};

/// Ignores signals of the terminal: it has to outlive the test process.
const SCRIPT: &str = r#"
trap '' INT TERM HUP QUIT
pids=' '
quits=' '
dirs=''
while read -r verb what; do
    case $verb in
        kill) pids="$pids$what " ;;
        quit) quits="$quits$what " ;;
        spare)
            case $pids in *" $what "*) pids="${pids%% "$what" *} ${pids#* "$what" }" ;; esac
            case $quits in *" $what "*) quits="${quits%% "$what" *} ${quits#* "$what" }" ;; esac
            ;;
        remove) dirs="$dirs $what" ;;
    esac
done
for pid in $quits; do
    kill -QUIT "$pid" 2>/dev/null || continue
    for attempt in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
        kill -0 "$pid" 2>/dev/null || break
        sleep 0.1
    done
    kill -9 "$pid" 2>/dev/null
done
for pid in $pids; do kill -9 "$pid" 2>/dev/null; done
for dir in $dirs; do
    for attempt in 1 2 3 4 5 6 7 8 9 10; do
        rm -rf "$dir" 2>/dev/null
        [ -e "$dir" ] || break
        sleep 0.1
    done
done
"#;

/// The shell; it reaps as soon as this is dropped or the process is gone.
pub struct Reaper {
    shell: Child,
    orders: Option<ChildStdin>,
}

impl Reaper {
    pub fn start() -> Self {
        let mut shell = Command::new("sh")
            .args(["-c", SCRIPT])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("sh starts");
        let orders = shell.stdin.take();
        Self { shell, orders }
    }

    /// Kill this process (SIGKILL) at the end.
    pub fn kill(&mut self, pid: u32) {
        self.order(&format!("kill {pid}"));
    }

    /// End this process by SIGQUIT, by SIGKILL if it is still there two seconds later. For Postgres,
    /// which calls SIGQUIT an immediate shutdown: by SIGKILL it would leave shared memory behind.
    pub fn quit(&mut self, pid: u32) {
        self.order(&format!("quit {pid}"));
    }

    /// This process has been waited for: its number may belong to somebody else by now.
    pub fn spare(&mut self, pid: u32) {
        self.order(&format!("spare {pid}"));
    }

    /// Remove this directory at the end, after the killing. Its path holds no white space.
    pub fn remove(&mut self, dir: &Path) {
        self.order(&format!("remove {}", dir.display()));
    }

    fn order(&mut self, line: &str) {
        let orders = self.orders.as_mut().expect("the pipe is open until the reaper is dropped");
        writeln!(orders, "{line}").expect("the reaper's shell reads until the pipe ends");
    }
}

impl Drop for Reaper {
    fn drop(&mut self) {
        self.orders = None;
        self.shell.wait().expect("the reaper's shell ends when its pipe does");
    }
}

/// The one reaper of this test process. A static is never dropped: the end of the process ends it.
pub fn reaper() -> std::sync::MutexGuard<'static, Reaper> {
    static REAPER: OnceLock<Mutex<Reaper>> = OnceLock::new();
    let reaper = REAPER.get_or_init(|| Mutex::new(Reaper::start()));
    reaper.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
