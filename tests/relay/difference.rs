//! Two replays compared reply by reply, by the rules of `difference.toml`.

use std::time::Duration;

use crate::replay::{Answer, Replay};
use crate::stack::Value;
use crate::traffic::Recorded;

/// By how much times may differ beside the lag between two replays.
pub const SLACK: Duration = Duration::from_secs(2);

/// The file.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Difference {
    compared: Vec<Compared>,
    different: Vec<Different>,
    unmapped_hashes: UnmappedHashes,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Compared {
    commands: Vec<String>,
    #[serde(default = "any")]
    keys: Vec<String>,
    r#as: Way,
    reason: String,
}

#[derive(Clone, Copy, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
enum Way {
    Map,
    Set,
    Seconds,
    Milliseconds,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Different {
    commands: Vec<String>,
    #[serde(default = "any")]
    keys: Vec<String>,
    reason: String,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct UnmappedHashes {
    keys: Vec<String>,
}

/// How many commands were compared, and how.
#[derive(Debug, Default)]
pub struct Report {
    pub compared: usize,
    /// Of these, not byte for byte.
    pub by_rule: usize,
    /// Of these, errors (the same on both sides).
    pub errors: usize,
    pub different: usize,
    pub scan_steps: usize,
    /// Of the errors, how often a command met a key of another type.
    pub wrong_types: usize,
    pub faults: Vec<String>,
    /// Rules that no command has met.
    pub unused: Vec<String>,
}

impl Difference {
    pub fn load() -> Self {
        toml::from_str(include_str!("difference.toml")).expect("difference.toml fits its types")
    }

    /// Compares all replies of `actual` with those of `plain`, which is Redis'.
    pub fn compare(&self, traffic: &[Recorded], plain: &Replay, actual: &Replay) -> Report {
        let (mut report, mut lags) = (Report::default(), Lags::default());
        let mut used_compared = vec![0; self.compared.len()];
        let mut used_different = vec![0; self.different.len()];
        assert_eq!((traffic.len(), traffic.len()), (plain.answers.len(), actual.answers.len()));
        for (number, recorded) in traffic.iter().enumerate() {
            let answers = (&plain.answers[number], &actual.answers[number]);
            let (Some(expected), Some(got)) = answers else {
                report.scan_steps += 1;
                continue;
            };
            lags.at(expected, got);
            let mut fault = |what: &str| {
                let lines = |value: &Value| value.lines().join("\n      ");
                report.faults.push(format!(
                    "command {number}, {}: {what}\n  plain: {}\n  here:  {}",
                    recorded.text(),
                    lines(&expected.reply),
                    lines(&got.reply),
                ));
            };
            if let Some(at) = self.different.iter().position(|entry| entry.covers(recorded)) {
                if got.reply.is_error() {
                    fault("an error");
                }
                used_different[at] += usize::from(expected.reply != got.reply);
                report.different += 1;
            } else {
                let rule = self.compared.iter().position(|entry| entry.covers(recorded));
                if let Some(at) = rule {
                    used_compared[at] += 1;
                }
                let way = rule.map(|at| self.compared[at].r#as);
                if !is_same(way, expected, got, &lags) {
                    fault("another reply");
                }
                report.errors += usize::from(expected.reply.is_error());
                let is_wrong_type = matches!(
                    &got.reply, Value::Error(text) if text.starts_with("WRONGTYPE "));
                report.wrong_types += usize::from(is_wrong_type);
                report.by_rule += usize::from(rule.is_some());
                report.compared += 1;
            }
        }
        let reasons = |used: &[usize], reasons: Vec<&String>| -> Vec<String> {
            let unused = used.iter().zip(reasons).filter(|(used, _)| **used == 0);
            unused.map(|(_, reason)| format!("no longer true of any command: {reason}")).collect()
        };
        let compared = self.compared.iter().map(|entry| &entry.reason).collect();
        let different = self.different.iter().map(|entry| &entry.reason).collect();
        report.unused.extend(reasons(&used_compared, compared));
        report.unused.extend(reasons(&used_different, different));
        report
    }

    /// Whether this hash of the record is one that the example maps.
    pub fn is_mapped(&self, key: &[u8]) -> bool {
        !is_any(&self.unmapped_hashes.keys, key)
    }
}

impl Compared {
    fn covers(&self, recorded: &Recorded) -> bool {
        self.commands.contains(&recorded.name()) && is_any(&self.keys, first_key(recorded))
    }
}

impl Different {
    fn covers(&self, recorded: &Recorded) -> bool {
        self.commands.contains(&recorded.name()) && is_any(&self.keys, first_key(recorded))
    }
}

fn first_key(recorded: &Recorded) -> &[u8] {
    match recorded.name().as_str() {
        "eval" | "evalsha" => recorded.argument(3),
        _ => recorded.argument(1),
    }
}

fn is_same(way: Option<Way>, plain: &Answer, actual: &Answer, lags: &Lags) -> bool {
    let (expected, got) = (&plain.reply, &actual.reply);
    match way {
        None => expected == got,
        Some(Way::Map) => expected.clone().into_map() == got.clone().into_map(),
        Some(Way::Set) => expected.clone().into_set() == got.clone().into_set(),
        Some(Way::Seconds) => is_same_time(1, lags, expected, got),
        Some(Way::Milliseconds) => is_same_time(1000, lags, expected, got),
    }
}

/// Compares numbers of units of time that is left; `per_second` units are a second. It began to run at some command
/// before.
fn is_same_time(per_second: u64, lags: &Lags, want: &Value, got: &Value) -> bool {
    match (want, got) {
        (Value::Integer(want), Value::Integer(got)) if *want >= 0 && *got >= 0 => {
            let slack = SLACK.as_secs_f64();
            let units = |seconds: f64| (seconds * per_second as f64).ceil() as i64;
            let (less, more) = (lags.now - lags.least + slack, lags.most - lags.now + slack);
            (want - units(less)..=want + units(more)).contains(got)
        }
        (Value::Array(want), Value::Array(got)) => {
            want.len() == got.len()
                && want.iter().zip(got).all(|(w, g)| is_same_time(per_second, lags, w, g))
        }
        _ => want == got,
    }
}

/// By how many seconds our replay was behind that of plain Redis: now, and the least and most until now.
#[derive(Clone, Copy, Default)]
pub struct Lags {
    pub now: f64,
    pub least: f64,
    pub most: f64,
}

impl Lags {
    pub fn at(&mut self, plain: &Answer, here: &Answer) {
        self.now = here.after.as_secs_f64() - plain.after.as_secs_f64();
        self.least = self.least.min(self.now);
        self.most = self.most.max(self.now);
    }

    /// Over all of two replays.
    pub fn of(plain: &Replay, here: &Replay) -> Self {
        let mut lags = Self::default();
        for both in plain.answers.iter().zip(&here.answers) {
            if let (Some(plain), Some(here)) = both {
                lags.at(plain, here);
            }
        }
        lags
    }
}

fn any() -> Vec<String> {
    vec!["*".to_owned()]
}

/// Whether one of the patterns matches; `*` at a pattern's end stands for anything.
fn is_any(patterns: &[String], text: &[u8]) -> bool {
    patterns.iter().any(|pattern| match pattern.strip_suffix('*') {
        Some(beginning) => text.starts_with(beginning.as_bytes()),
        None => text == pattern.as_bytes(),
    })
}
