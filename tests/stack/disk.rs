//! A small disk for Postgres, to be full: a tmpfs in a mount namespace of its own.
//!
//! Nobody else sees the mount, and it is gone with the last process in the namespace, however that ends: there
//! is nothing to unmount. It takes root; without, there is no such disk.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::process::Process;

/// A mounted disk; unmounted when dropped, once nobody uses it.
pub struct Disk {
    /// Does nothing but hold the namespace.
    holder: Process,
    at: PathBuf,
    owner: Owner,
}

/// Who may write on it.
#[derive(Clone, Copy)]
pub struct Owner {
    pub user: u32,
    pub group: u32,
}

impl Disk {
    /// `None` where this machine does not let us.
    pub async fn mount(at: &Path, mebibytes: u32, owner: Owner) -> Option<Self> {
        std::fs::create_dir(at).expect("the directory is ours");
        let disk = Self::mount_on(at, mebibytes, owner).await;
        if disk.is_none() {
            std::fs::remove_dir(at).expect("it is empty");
        }
        disk
    }

    async fn mount_on(at: &Path, mebibytes: u32, owner: Owner) -> Option<Self> {
        let options = format!("size={mebibytes}m,mode=0700,uid={},gid={}", owner.user, owner.group);
        let order = "mount -t tmpfs -o \"$0\" tmpfs \"$1\" && echo mounted && exec sleep infinity";
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", order]).arg(options).arg(at);
        let mut holder = Process::try_start("unshare", &mut command).ok()?;
        holder.try_wait_for_line(|line| line == "mounted").await.ok()?;
        Some(Self { holder, at: at.to_owned(), owner })
    }

    /// A program of the owner's that sees the disk.
    pub fn command(&self, program: &Path) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--mount", "--target", &self.holder.id().to_string()]);
        command.args(["--setuid", &self.owner.user.to_string()]);
        command.args(["--setgid", &self.owner.group.to_string()]).arg("--").arg(program);
        command
    }

    /// Takes all the room that there is, but for `spare` bytes.
    pub fn fill(&self, spare: u64) {
        let mut ballast = std::fs::File::create(self.ballast()).expect("root may write");
        for size in [1 << 16, 1 << 12] {
            while ballast.write(&vec![0; size]).is_ok_and(|written| written > 0) {}
        }
        let size = ballast.metadata().expect("it is open").len();
        ballast.set_len(size.saturating_sub(spare)).expect("it may become smaller");
    }

    /// Gives back what `fill` took.
    pub fn free(&self) {
        // There is none where nothing was filled.
        let _ = std::fs::remove_file(self.ballast());
    }

    /// Seen from outside of the namespace.
    fn ballast(&self) -> PathBuf {
        let inside = self.at.strip_prefix("/").expect("an absolute path");
        Path::new(&format!("/proc/{}/root", self.holder.id())).join(inside).join("ballast")
    }
}
