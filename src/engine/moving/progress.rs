//! How far a job is, and what it has found; to be read while it runs.

use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::mapping::MappedKey;

/// Reasons that are told apart, and keys that are named for each.
const REASONS: usize = 50;
const NAMED: usize = 5;

/// Keys with findings that are remembered, so that none counts twice.
const REMEMBERED: usize = 1_000_000;

/// A job's state at one moment.
#[derive(Clone, Debug)]
pub struct Progress {
    /// Keys that the walk has met, of any mapping or none, of about how many.
    pub walked: u64,
    pub expected: u64,
    /// Keys of the mappings that are dealt with, whatever came of it.
    pub done: u64,
    /// Of these: keys for which something was written.
    pub written: u64,
    /// Keys that could not be dealt with as they should.
    pub findings: u64,
    pub elapsed: Duration,
}

/// What was found of some keys, with examples.
#[derive(Clone, Debug)]
pub struct Finding {
    pub mapping: String,
    /// Why, or what is different.
    pub what: String,
    pub keys: u64,
    /// Some of the keys, as text.
    pub examples: Vec<String>,
}

/// Where a job counts.
#[derive(Debug)]
pub(super) struct Counters {
    pub(super) walked: AtomicU64,
    pub(super) expected: AtomicU64,
    pub(super) done: AtomicU64,
    pub(super) written: AtomicU64,
    began: Instant,
    findings: Mutex<Findings>,
}

#[derive(Debug, Default)]
struct Findings {
    count: u64,
    /// Hashes of the keys.
    known: HashSet<i64>,
    by_reason: Reasons,
    /// What is as it may be.
    remarks: Reasons,
}

/// By mapping and what there is to say: keys, and some of them.
type Reasons = BTreeMap<(String, String), (u64, Vec<String>)>;

// === impl Progress ===

impl Progress {
    /// Keys a second that are dealt with, since the beginning.
    #[allow(clippy::cast_precision_loss, reason = "for people")]
    pub fn rate(&self) -> f64 {
        self.done as f64 / self.elapsed.as_secs_f64().max(0.001)
    }

    /// How long it is going to take still, about.
    #[allow(clippy::cast_precision_loss, reason = "for people")]
    pub fn left(&self) -> Option<Duration> {
        let (walked, expected) = (self.walked as f64, self.expected as f64);
        if walked < 1.0 {
            return None;
        }
        let left = self.elapsed.as_secs_f64() * (expected - walked).max(0.0) / walked;
        Duration::try_from_secs_f64(left).ok()
    }
}

// === impl Counters ===

impl Default for Counters {
    fn default() -> Self {
        Self {
            walked: AtomicU64::new(0),
            expected: AtomicU64::new(0),
            done: AtomicU64::new(0),
            written: AtomicU64::new(0),
            began: Instant::now(),
            findings: Mutex::default(),
        }
    }
}

impl Counters {
    pub(super) fn add(&self, counter: &AtomicU64, count: usize) {
        counter.fetch_add(count as u64, Ordering::Relaxed);
    }

    /// Notes what is wrong with a key, and what there is to say of this one; a key counts once.
    pub(super) fn note(&self, key: &MappedKey, what: String, detail: &str) {
        let mut findings = self.findings.lock().unwrap_or_else(PoisonError::into_inner);
        if findings.known.len() < REMEMBERED && !findings.known.insert(key.lock()) {
            return;
        }
        findings.count += 1;
        tell(&mut findings.by_reason, key, what, detail);
    }

    /// Notes what there is to say of a key that is as it may be.
    pub(super) fn remark(&self, key: &MappedKey, what: &str) {
        let mut findings = self.findings.lock().unwrap_or_else(PoisonError::into_inner);
        tell(&mut findings.remarks, key, what.to_owned(), "");
    }

    /// Notes one more thing of a key that counts already.
    pub(super) fn note_more(&self, key: &MappedKey, what: String, detail: &str) {
        let mut findings = self.findings.lock().unwrap_or_else(PoisonError::into_inner);
        tell(&mut findings.by_reason, key, what, detail);
    }

    pub(super) fn progress(&self) -> Progress {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let findings = self.findings.lock().unwrap_or_else(PoisonError::into_inner);
        Progress {
            walked: count(&self.walked),
            expected: count(&self.expected),
            done: count(&self.done),
            written: count(&self.written),
            findings: findings.count,
            elapsed: self.began.elapsed(),
        }
    }

    /// What was found, most frequent first. Where the reasons are very many not all of them are told.
    pub(super) fn findings(&self) -> Vec<Finding> {
        let findings = self.findings.lock().unwrap_or_else(PoisonError::into_inner);
        most_frequent_first(&findings.by_reason)
    }

    /// What there is to say of keys that are as they may be, in the same order.
    pub(super) fn remarks(&self) -> Vec<Finding> {
        let findings = self.findings.lock().unwrap_or_else(PoisonError::into_inner);
        most_frequent_first(&findings.remarks)
    }
}

fn most_frequent_first(reasons: &Reasons) -> Vec<Finding> {
    let finding = |((mapping, what), (keys, examples)): (&(String, String), &(u64, _))| Finding {
        mapping: mapping.clone(),
        what: what.clone(),
        keys: *keys,
        examples: Vec::clone(examples),
    };
    let mut all: Vec<Finding> = reasons.iter().map(finding).collect();
    all.sort_by_key(|finding| std::cmp::Reverse(finding.keys));
    all
}

fn tell(reasons: &mut Reasons, key: &MappedKey, what: String, detail: &str) {
    let reason = (key.mapping.name.clone(), what);
    if reasons.len() >= REASONS && !reasons.contains_key(&reason) {
        return;
    }
    let (count, examples) = reasons.entry(reason).or_default();
    *count += 1;
    if examples.len() < NAMED {
        let key = key.key.escape_ascii();
        examples.push(if detail.is_empty() { key.to_string() } else { format!("{key}: {detail}") });
    }
}
