//! Clients that count and collect, each on its own connection, and what they were told.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use crate::stack::{Client, Random, Stack, Value};

const KEYS: usize = 40;

/// Between two requests of a client.
const PAUSE: Duration = Duration::from_millis(2);

/// What is going on now; `None`: it is over.
pub(crate) struct Phase(Mutex<Option<&'static str>>);

/// What clients were told.
#[derive(Default)]
pub(crate) struct Report {
    pub(crate) spans: Spans,
    /// By key: acknowledged, and in doubt.
    pub(crate) increments: HashMap<String, [u64; 2]>,
    /// `id member`, acknowledged.
    pub(crate) members: Vec<String>,
}

/// How long requests took, and which errors came, by phase in its order.
#[derive(Default)]
pub(crate) struct Spans(Vec<(&'static str, Vec<Duration>, Vec<String>)>);

pub(crate) struct Load(JoinSet<Report>);

// === impl Phase ===

impl Default for Phase {
    fn default() -> Self {
        Self(Mutex::new(Some("starting")))
    }
}

impl Phase {
    pub(crate) fn enter(&self, name: &'static str) {
        *self.0.lock().unwrap() = Some(name);
    }

    pub(crate) fn end(&self) {
        *self.0.lock().unwrap() = None;
    }

    fn now(&self) -> Option<&'static str> {
        *self.0.lock().unwrap()
    }
}

// === impl Load ===

impl Load {
    pub(crate) async fn start(stack: &Stack, phase: &Arc<Phase>, clients: u64) -> Self {
        let mut running = JoinSet::new();
        for number in 0..clients {
            let client = stack.client().await;
            running.spawn(work(client, number, Arc::clone(phase)));
        }
        Self(running)
    }

    pub(crate) async fn end(self) -> Report {
        let mut whole = Report::default();
        for report in self.0.join_all().await {
            whole.spans.extend(report.spans);
            whole.members.extend(report.members);
            for (key, [sure, perhaps]) in report.increments {
                let sum = whole.increments.entry(key).or_default();
                *sum = [sum[0] + sure, sum[1] + perhaps];
            }
        }
        whole
    }
}

async fn work(mut client: Client, number: u64, phase: Arc<Phase>) -> Report {
    let mut random = Random::new(number + 1);
    let mut report = Report::default();
    for turn in 0_u64.. {
        let Some(begun) = phase.now() else { break };
        let id = random.below(KEYS);
        let kind = random.pick(&["dual", "first"]);
        let since = Instant::now();
        let told = match random.below(4) {
            0 | 1 => {
                let key = format!("{kind}:{id}");
                let told = client.say(&format!("HINCRBY {key} n 1")).await;
                let count = report.increments.entry(key).or_default();
                match &told {
                    Value::Error(text) => {
                        count[1] += u64::from(text.contains("may have happened"));
                    }
                    _ => count[0] += 1,
                }
                told
            }
            2 => {
                let told = client.say(&format!("SADD group:{id} {number}-{turn}")).await;
                if !told.is_error() {
                    report.members.push(format!("{id} {number}-{turn}"));
                }
                told
            }
            _ => client.say(&format!("HGET {kind}:{id} n")).await,
        };
        // It belongs to the phase in which it was answered, unless a store went while it was under way.
        let now = if begun.ends_with(" goes") { begun } else { phase.now().unwrap_or("ending") };
        report.spans.add(now, since.elapsed(), told);
        tokio::time::sleep(PAUSE).await;
    }
    report
}

// === impl Spans ===

impl Spans {
    fn of(&mut self, phase: &'static str) -> &mut (&'static str, Vec<Duration>, Vec<String>) {
        if !self.0.iter().any(|(name, ..)| *name == phase) {
            self.0.push((phase, Vec::new(), Vec::new()));
        }
        self.0.iter_mut().find(|(name, ..)| *name == phase).unwrap()
    }

    fn add(&mut self, phase: &'static str, took: Duration, told: Value) {
        let (_, spans, errors) = self.of(phase);
        spans.push(took);
        if let Value::Error(text) = told {
            errors.push(text);
        }
    }

    fn extend(&mut self, other: Self) {
        for (phase, spans, errors) in other.0 {
            let of_phase = self.of(phase);
            of_phase.1.extend(spans);
            of_phase.2.extend(errors);
        }
    }

    pub(crate) fn errors(&self, phase: &str) -> Vec<String> {
        let of_phase = self.0.iter().find(|(name, ..)| *name == phase);
        of_phase.map_or_else(Vec::new, |(_, _, errors)| errors.clone())
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        let line = |(phase, spans, errors): &(&str, Vec<Duration>, Vec<String>)| {
            let mut spans = spans.clone();
            spans.sort_unstable();
            let ms = |place: usize| spans[place.min(spans.len() - 1)].as_secs_f64() * 1000.0;
            let mut kinds: Vec<&String> = errors.iter().collect();
            kinds.sort();
            kinds.dedup();
            format!(
                "{phase:>20}: {:>6} requests, p50 {:>7.2} ms, p99 {:>7.2} ms, most {:>8.2} ms, {} errors {kinds:?}",
                spans.len(),
                ms(spans.len() / 2),
                ms(spans.len() * 99 / 100),
                ms(spans.len() - 1),
                errors.len(),
            )
        };
        self.0.iter().map(line).collect()
    }
}
