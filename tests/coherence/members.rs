//! Clients at work on sets: unlike a hash's field a member has no value, so each one is added once.
//!
//! Members come and go in pairs, so that a torn set is found as well. To the checker a pair is a register
//! of its own, which SADD writes and SREM or DEL takes away.

use std::collections::HashSet;

use crate::history::{Action, Operation, Span, Version, Violation};
use crate::keys::is_counted;
use crate::stack::Value;
use crate::workload::{Outcome, Worker};

/// Pairs of a key that a client asks for and removes; older ones it leaves to others.
const MOST_KNOWN: usize = 12;

/// The two members that one SADD adds.
fn members(version: Version) -> [String; 2] {
    ["first", "second"].map(|part| format!("{part}.{}", version.text()))
}

impl Worker {
    pub(crate) async fn work_on_set(&mut self, key: u32) {
        match self.below(100) {
            0..25 => self.add(key).await,
            25..50 => self.remove(key).await,
            50..65 => self.read_member(key).await,
            65..80 => self.read_pair(key).await,
            80..93 => self.read_members(key).await,
            93..96 => self.read_cardinality(key).await,
            _ if is_counted(key) => self.add(key).await,
            _ => self.delete_set(key).await,
        }
    }

    async fn add(&mut self, key: u32) {
        let version = self.next_version();
        let [first, second] = members(version);
        let (span, outcome) = self.ask(&["SADD", &self.name(key), &first, &second]).await;
        match outcome {
            Outcome::Reply(Value::Integer(2)) | Outcome::Unknown => {
                self.note_pair(key, version, span, Action::Write(version));
                self.learn(key, version);
            }
            Outcome::Reply(other) => self.odd("SADD", key, &other),
            Outcome::Refused => {}
        }
    }

    async fn remove(&mut self, key: u32) {
        let Some(version) = self.known_pair(key) else { return self.add(key).await };
        let [first, second] = members(version);
        let (span, outcome) = self.ask(&["SREM", &self.name(key), &first, &second]).await;
        match outcome {
            Outcome::Reply(Value::Integer(0 | 2)) | Outcome::Unknown => {
                self.note_pair(key, version, span, Action::Delete);
            }
            Outcome::Reply(other) => self.odd("SREM", key, &other),
            Outcome::Refused => {}
        }
    }

    async fn delete_set(&mut self, key: u32) {
        let (span, outcome) = self.ask(&["DEL", &self.name(key)]).await;
        match outcome {
            Outcome::Reply(Value::Integer(0 | 1)) | Outcome::Unknown => {
                let operation = Operation { span, action: Action::Delete };
                self.record.cleared.entry(key).or_default().push(operation);
            }
            Outcome::Reply(other) => self.odd("DEL", key, &other),
            Outcome::Refused => {}
        }
    }

    async fn read_member(&mut self, key: u32) {
        let Some(version) = self.known_pair(key) else { return };
        let [first, _] = members(version);
        let (span, outcome) = self.ask(&["SISMEMBER", &self.name(key), &first]).await;
        match outcome {
            Outcome::Reply(Value::Integer(is_there @ (0 | 1))) => {
                self.note_presence(key, version, span, is_there == 1);
            }
            Outcome::Reply(other) => self.odd("SISMEMBER", key, &other),
            Outcome::Unknown | Outcome::Refused => {}
        }
    }

    async fn read_pair(&mut self, key: u32) {
        let Some(version) = self.known_pair(key) else { return };
        let [first, second] = members(version);
        let (span, outcome) = self.ask(&["SMISMEMBER", &self.name(key), &first, &second]).await;
        let Outcome::Reply(reply) = outcome else { return };
        match &reply {
            Value::Array(both) if both.len() == 2 && both[0] == both[1] => {
                self.note_presence(key, version, span, both[0] == Value::Integer(1));
            }
            _ => self.odd("SMISMEMBER", key, &reply),
        }
    }

    async fn read_cardinality(&mut self, key: u32) {
        let (_, outcome) = self.ask(&["SCARD", &self.name(key)]).await;
        match outcome {
            Outcome::Reply(Value::Integer(count)) if count % 2 == 0 => {}
            Outcome::Reply(other) => self.odd("SCARD", key, &other),
            Outcome::Unknown | Outcome::Refused => {}
        }
    }

    pub(crate) async fn read_members(&mut self, key: u32) {
        let (span, outcome) = self.ask(&["SMEMBERS", &self.name(key)]).await;
        let Outcome::Reply(reply) = outcome else { return };
        let Value::Array(found) = &reply else { return self.odd("SMEMBERS", key, &reply) };
        let texts: HashSet<String> = found
            .iter()
            .filter_map(|member| Some(String::from_utf8_lossy(member.bytes()?).into_owned()))
            .collect();
        let mut versions = Vec::new();
        for text in texts.iter().filter_map(|text| text.strip_prefix("first.")) {
            match Version::parse(text) {
                Ok(version) => versions.push(version),
                Err(violation) => self.record.violations.push(violation),
            }
        }
        let is_torn = texts.len() != found.len()
            || texts.len() != 2 * versions.len()
            || versions.iter().any(|version| !texts.contains(&members(*version)[1]));
        if is_torn {
            return self.odd("SMEMBERS", key, &reply);
        }
        for version in self.known(key) {
            if !versions.contains(&version) {
                self.note_presence(key, version, span, false);
            }
        }
        for version in versions {
            self.note_presence(key, version, span, true);
            self.learn(key, version);
        }
    }

    // --- what this client knows ---

    fn known(&mut self, key: u32) -> Vec<Version> {
        self.pairs.entry(key).or_default().iter().copied().collect()
    }

    fn known_pair(&mut self, key: u32) -> Option<Version> {
        let known = self.known(key);
        let at = self.below(u32::try_from(known.len().max(1)).expect("a few"));
        known.get(at as usize).copied()
    }

    fn learn(&mut self, key: u32, version: Version) {
        let known = self.pairs.entry(key).or_default();
        if !known.contains(&version) {
            known.push_back(version);
        }
        while known.len() > MOST_KNOWN {
            known.pop_front();
        }
    }

    fn note_presence(&mut self, key: u32, version: Version, span: Span, is_there: bool) {
        self.note_pair(key, version, span, Action::Read(is_there.then_some(version)));
    }

    fn note_pair(&mut self, key: u32, version: Version, span: Span, action: Action) {
        let history = self.record.pairs.entry((key, version)).or_default();
        history.push(Operation { span, action });
    }
}

/// What no single Redis would have done to a pair of a key that was deleted at these times.
pub(crate) fn check(history: &[Operation], cleared: &[Operation]) -> Vec<Violation> {
    let start_ns = history.iter().map(|operation| operation.span.start_ns).min();
    let end_ns = history.iter().filter(|it| it.is_answered()).map(|it| it.span.end_ns).max();
    let (Some(start_ns), Some(end_ns)) = (start_ns, end_ns) else { return Vec::new() };
    let meanwhile =
        |delete: &&Operation| delete.span.end_ns >= start_ns && delete.span.start_ns <= end_ns;
    let all: Vec<Operation> =
        history.iter().chain(cleared.iter().filter(meanwhile)).copied().collect();
    crate::register::check(&all)
}
