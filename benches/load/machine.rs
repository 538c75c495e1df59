//! Where the figures come from: versions, kernel, cores. No dates, no names of machines.

use std::path::Path;
use std::process::Command;

use serde::{Deserialize, Serialize};

use crate::rig::process::find_program;
use crate::target::Kind;

#[derive(Serialize, Deserialize)]
pub(crate) struct Machine {
    kernel: String,
    processor: String,
    cores: usize,
    /// One line a program.
    versions: Vec<String>,
}

impl Machine {
    pub(crate) fn ask(kinds: &[Kind], respgres: &Path) -> Self {
        let read = |file: &str| std::fs::read_to_string(file).unwrap_or_default();
        let mut versions = vec![first_line(respgres, "--version")];
        for program in ["redis-server", "redis-benchmark"]
            .into_iter()
            .chain(kinds.iter().filter_map(|kind| kind.program()))
        {
            let Ok(path) = find_program(program) else { continue };
            let option = if program == "haproxy" { "-v" } else { "--version" };
            versions.push(first_line(&path, option));
        }
        let processor = read("/proc/cpuinfo")
            .lines()
            .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
            .map_or_else(|| std::env::consts::ARCH.to_owned(), |(_, name)| name.to_owned());
        Self {
            kernel: format!("Linux {}", read("/proc/sys/kernel/osrelease").trim()),
            processor,
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            versions,
        }
    }

    /// As a Markdown list.
    pub(crate) fn list(&self) -> String {
        let mut text = format!(
            "- {} cores, shared by Redis, the proxy and the clients: {}\n- {}\n",
            self.cores, self.processor, self.kernel
        );
        for version in &self.versions {
            text.push_str(&format!("- {version}\n"));
        }
        text
    }
}

/// Some print their version as an error.
fn first_line(program: &Path, option: &str) -> String {
    let Ok(output) = Command::new(program).arg(option).output() else {
        return format!("{} of unknown version", program.display());
    };
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    let line = text.lines().next().unwrap_or_default().trim();
    // Debian's haproxy adds when it was built and where it lives.
    let line = line.split(" - http").next().unwrap_or_default();
    let line = line.split(" 20").next().unwrap_or_default();
    line.split(" sha=").next().unwrap_or_default().trim_start_matches("This is ").to_owned()
}
