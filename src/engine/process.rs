//! Which process of which machine a proxy is, so that one that is started anew there can see that its predecessor
//! has ended, and need not wait until a lease has.
//!
//! Nothing is said of processes of other machines, or of other containers: their numbers mean nothing here.

use rustix::io::Errno;
use rustix::process::{Pid, test_kill_process};
use serde::{Deserialize, Serialize};

/// What tells one process from all others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Of the machine's start, and of the list of processes in which `number` is to be looked up.
    pub machine: String,
    pub list: String,
    pub number: i32,
    /// When it was started, in ticks of the kernel's: numbers are used again.
    pub started: u64,
}

impl Process {
    /// This one; `None` where the system does not say (it is not Linux, or hides `/proc`).
    pub fn own() -> Option<Self> {
        let machine = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
        let list = std::fs::read_link("/proc/self/ns/pid").ok()?;
        let number = i32::try_from(std::process::id()).ok()?;
        Some(Self {
            machine: machine.trim().to_owned(),
            list: list.to_str()?.to_owned(),
            number,
            started: started(number)?,
        })
    }

    /// Whether it has ended for sure, as `own` sees it.
    pub fn has_ended(&self, own: &Self) -> bool {
        if self.machine != own.machine || self.list != own.list {
            return false;
        }
        let Some(pid) = Pid::from_raw(self.number) else { return false };
        match test_kill_process(pid) {
            Err(Errno::SRCH) => true,
            // It is there, though it may be another user's.
            Ok(()) | Err(_) => started(self.number).is_some_and(|started| started != self.started),
        }
    }
}

/// The 22nd word of `/proc/N/stat` (proc(5)); the second, the name, may hold spaces and parentheses.
fn started(number: i32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{number}/stat")).ok()?;
    let after_name = stat.rsplit_once(')')?.1;
    after_name.split_ascii_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_has_ended_when_its_number_is_free_or_another_ones() {
        let own = Process::own().unwrap();
        assert!(!own.has_ended(&own));
        let earlier = Process { started: own.started - 1, ..own.clone() };
        assert!(earlier.has_ended(&own), "the number is used again");

        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let number = i32::try_from(child.id()).unwrap();
        let of_child = Process { number, started: started(number).unwrap(), ..own.clone() };
        assert!(!of_child.has_ended(&own));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(of_child.has_ended(&own));

        let elsewhere = Process { machine: "another".to_owned(), ..of_child.clone() };
        assert!(!elsewhere.has_ended(&own));
        let contained = Process { list: "pid:[1]".to_owned(), ..of_child };
        assert!(!contained.has_ended(&own));
    }
}
