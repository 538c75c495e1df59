//! The goals, in one table, and the judgement of a way by them.

use crate::workload::{Operation, Way, Workload};

/// What the mapping has to reach beside another way.
#[derive(Clone, Copy)]
pub(crate) enum Bar {
    /// Throughput, as a share of the other's.
    Throughput(f64),
    /// Median latency, as a share of the other's.
    Median(f64),
}

pub(crate) struct Goal {
    issue: u32,
    operation: Operation,
    clients: &'static [u32],
    way: Way,
    bar: Bar,
}

const fn goal(
    issue: u32,
    operation: Operation,
    clients: &'static [u32],
    way: Way,
    bar: Bar,
) -> Goal {
    Goal { issue, operation, clients, way, bar }
}

use Bar::{Median, Throughput};
use Operation::{AddMember, Get, GetAll, HotIncrement, IsMember, Set, SetBehind};
use Way::{Connection, Direct, PassThrough, Statement};

#[rustfmt::skip]
static GOALS: &[Goal] = &[
    goal(2, Set,          &[200],        Statement,   Throughput(3.0)),
    goal(4, Set,          &[200],        Statement,   Throughput(4.0)),
    goal(4, HotIncrement, &[200],        Statement,   Throughput(10.0)),
    goal(4, Set,          &[1],          Connection,  Median(1.4)),
    goal(4, HotIncrement, &[1],          Connection,  Median(1.4)),
    goal(4, AddMember,    &[1],          Connection,  Median(1.4)),
    goal(5, SetBehind,    &[50],         Direct,      Throughput(0.6)),
    goal(4, GetAll,       &[1, 50, 200], PassThrough, Throughput(0.95)),
    goal(4, Get,          &[1, 50, 200], PassThrough, Throughput(0.95)),
    goal(4, IsMember,     &[1, 50, 200], PassThrough, Throughput(0.95)),
];

/// "yes" or "NO" for each goal beside this way, with its issue; a dash when there is none.
/// `throughput` and `median` are the mapping's as shares of the way's.
pub(crate) fn judge(workload: &Workload, way: Way, throughput: f64, median: f64) -> String {
    let verdicts: Vec<String> = GOALS
        .iter()
        .filter(|goal| {
            goal.operation == workload.operation
                && goal.clients.contains(&workload.clients)
                && goal.way == way
        })
        .map(|goal| {
            let (holds, figure, wanted) = match goal.bar {
                Throughput(least) => {
                    (throughput >= least, throughput, format!("at least {least:.2}"))
                }
                Median(most) => (median <= most, median, format!("p50 at most {most:.2}")),
            };
            let verdict = if holds { "yes" } else { "**NO**" };
            format!("issue {}, {wanted}: {verdict} ({figure:.3})", goal.issue)
        })
        .collect();
    if verdicts.is_empty() { String::from("-") } else { verdicts.join("; ") }
}
