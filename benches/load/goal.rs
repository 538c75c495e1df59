//! The goals: one table, and the judgement of a measured row by it.
//!
//! The figures of issue 3 lie between the best peer that was measured when it was written and a
//! bare multiplexer in C; HGETALL and MGET shall reach that best peer itself.

use std::fmt::Write as _;

use crate::figures::{Figures, Memory};
use crate::target::Kind;

/// What respgres has to reach in the rows of a goal.
#[derive(Clone, Copy)]
enum Bar {
    /// Throughput, as a share of this target's.
    Throughput(Kind, f64),
    /// CPU seconds per request, as a share of twemproxy's.
    Cpu(f64),
    /// Median latency above direct Redis', µs.
    Median(f64),
}

struct Goal {
    issue: u32,
    bar: Bar,
    /// Names of workloads.
    rows: &'static [&'static str],
}

use Bar::{Cpu, Median, Throughput};
use Kind::{Direct, Twemproxy};

#[rustfmt::skip]
static GOALS: &[Goal] = &[
    goal(2, Throughput(Twemproxy, 1.0),  &["get c50 P1", "set c50 P1", "hset c50 P1", "get c1000 P1", "set c1000 P1", "hset c1000 P1"]),
    goal(2, Throughput(Twemproxy, 1.15), &["get c50 P16", "set c50 P16", "hset c50 P16", "get c1000 P16", "set c1000 P16", "hset c1000 P16"]),
    goal(2, Cpu(1.0),                    &["get c50 P1", "set c50 P1", "hset c50 P1", "get c1000 P1", "set c1000 P1", "hset c1000 P1",
                                           "get c50 P16", "set c50 P16", "hset c50 P16", "get c1000 P16", "set c1000 P16", "hset c1000 P16"]),
    goal(3, Throughput(Direct, 1.0),     &["get c50 P1", "set c50 P1", "get c1000 P1", "set c1000 P1"]),
    goal(3, Throughput(Direct, 0.93),    &["hgetall c50 P1"]),
    goal(3, Throughput(Direct, 0.64),    &["mget c50 P1"]),
    goal(3, Throughput(Direct, 0.72),    &["get c50 P16", "set c50 P16"]),
    goal(3, Throughput(Twemproxy, 1.3),  &["get c50 P16", "set c50 P16"]),
    goal(3, Throughput(Direct, 0.61),    &["hgetall c50 P16"]),
    goal(3, Throughput(Direct, 0.79),    &["mget c50 P16"]),
    goal(3, Throughput(Direct, 0.95),    &["get c50 P64"]),
    goal(3, Throughput(Direct, 0.9),     &["get 10KB c50 P1", "set 10KB c50 P1", "get 1MB c50 P1"]),
    goal(3, Cpu(0.75),                   &["get c50 P1", "set c50 P1", "hset c50 P1", "hgetall c50 P1", "mget c50 P1", "get c500 P1",
                                           "get c1000 P1", "set c1000 P1", "hset c1000 P1", "get 10KB c50 P1", "set 10KB c50 P1", "get 1MB c50 P1"]),
    goal(3, Cpu(0.4),                    &["get c50 P16", "set c50 P16", "hset c50 P16", "hgetall c50 P16", "mget c50 P16",
                                           "get c1000 P16", "set c1000 P16", "hset c1000 P16"]),
    goal(3, Median(20.0),                &["get c1 P1"]),
];

/// Memory of respgres when idle, MB (issue 3).
const IDLE_MB: f64 = 12.0;

/// The same with 10,000 idle connections; judged only by figures with nearly as many.
const CONNECTED_MB: f64 = 48.0;
const CONNECTIONS: u32 = 9_900;

const fn goal(issue: u32, bar: Bar, rows: &'static [&'static str]) -> Goal {
    Goal { issue, bar, rows }
}

impl Bar {
    fn figure(self, figures: &Figures, row: &str) -> f64 {
        match self {
            Self::Throughput(to, _) => figures.throughput_ratio(row, Kind::Respgres, to),
            Self::Cpu(_) => figures.cpu_ratio(row, Kind::Respgres, Kind::Twemproxy),
            Self::Median(_) => figures.above_direct(row, Kind::Respgres, |one| one.p50_us),
        }
    }

    fn holds(self, figure: f64) -> bool {
        match self {
            Self::Throughput(_, least) => figure >= least,
            Self::Cpu(most) | Self::Median(most) => figure <= most,
        }
    }

    fn wanted(self) -> String {
        match self {
            Self::Throughput(to, least) => format!("at least {least} of {}", to.name()),
            Self::Cpu(most) => format!("CPU at most {most} of twemproxy"),
            Self::Median(most) => format!("p50 at most {most} µs above direct"),
        }
    }
}

/// Whether the goals of `issue` for this row hold: "yes"; or "NO" with what was missed; or a dash
/// when there is none, or none that could be measured.
pub(crate) fn judge(figures: &Figures, row: &str, issue: u32) -> String {
    let mut missed = Vec::new();
    let mut judged = false;
    for goal in GOALS.iter().filter(|goal| goal.issue == issue && goal.rows.contains(&row)) {
        let figure = goal.bar.figure(figures, row);
        if !figure.is_finite() {
            continue;
        }
        judged = true;
        if !goal.bar.holds(figure) {
            missed.push(format!("{figure:.3}, wanted {}", goal.bar.wanted()));
        }
    }
    match (judged, missed.is_empty()) {
        (false, _) => String::from("-"),
        (true, true) => String::from("yes"),
        (true, false) => format!("**NO**: {}", missed.join("; ")),
    }
}

/// Whether the goals for memory hold; `None` when these figures cannot tell.
pub(crate) fn judge_memory(memory: &Memory) -> Option<bool> {
    (memory.target == Kind::Respgres && memory.connections >= CONNECTIONS)
        .then_some(memory.idle_mb <= IDLE_MB && memory.connected_mb <= CONNECTED_MB)
}

/// The share of direct Redis' throughput that the row shall reach, if one is wanted.
pub(crate) fn share_of_direct(row: &str) -> Option<f64> {
    GOALS.iter().find_map(|goal| match goal.bar {
        Throughput(Direct, least) if goal.rows.contains(&row) => Some(least),
        _ => None,
    })
}

/// The table as a Markdown list.
pub(crate) fn list() -> String {
    let mut text = String::new();
    for goal in GOALS {
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "- issue {}: {}: {}",
            goal.issue,
            goal.bar.wanted(),
            goal.rows.join(", ")
        );
    }
    let _ = writeln!(
        text,
        "- issue 3: memory at most {IDLE_MB} MB idle, {CONNECTED_MB} MB with 10,000 connections"
    );
    text
}
