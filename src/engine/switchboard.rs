//! The switchboard: what holds for each mapping by order of an operator, and this proxy's part in a change of
//! it (see `switcher`).
//!
//! An entry has a version, which grows. While a strategy is being changed it names the target, and each
//! proxy closes the mapping's gate, waits until nobody is inside, and acknowledges the version with its next
//! beat. With the next version, which names none, all go by the entry's strategy and open their gates.
//!
//! Invariants
//! - A strategy is adopted only while the gate is closed and nobody is inside.
//! - A proxy that has come back after others went on without it has no lease before it goes by what holds.
//!   So nobody settles a change behind the back of one who is alive.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use super::mailbox::{Mail, Mailbox};
use crate::config::Strategy;
use crate::mapping::{Gate, Mapping, Registry};

/// What holds for a mapping: the members of a row of `respgres.control` that are about its strategy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Entry {
    /// 0: what the configuration file says.
    pub version: u64,
    pub strategy: String,
    /// It is being changed to this.
    pub target: Option<String>,
}

#[derive(Debug, Default)]
pub(super) struct Switchboard {
    mappings: Vec<Arc<Mapping>>,
    known: Mutex<HashMap<String, Entry>>,
    /// Of the event loops.
    loops: Mutex<Vec<Arc<Mailbox>>>,
}

/// How far this proxy is with what it knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Settled {
    /// By mapping: the version that it goes by.
    pub(super) acknowledged: BTreeMap<String, u64>,
    /// Somebody is inside of a gate that was closed.
    pub(super) is_waiting: bool,
    /// What holds is another strategy than this proxy goes by.
    pub(super) is_behind: bool,
}

// === impl Entry ===

impl Entry {
    pub fn parse(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }

    pub fn text(&self) -> String {
        serde_json::to_string(self).expect("it has texts and a number alone")
    }

    /// An entry that nobody has made: the file holds.
    pub fn is_unset(&self) -> bool {
        self.version == 0
    }
}

// === impl Switchboard ===

impl Switchboard {
    pub(super) fn new(registry: &Registry) -> Self {
        Self { mappings: registry.all().to_vec(), ..Self::default() }
    }

    fn known(&self) -> std::sync::MutexGuard<'_, HashMap<String, Entry>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hears of an entry; an older one than is known changes nothing.
    pub(super) fn hear(&self, mapping: &str, entry: Entry) {
        let mut known = self.known();
        let before = known.get(mapping).map_or(0, |entry| entry.version);
        if entry.version > before {
            known.insert(mapping.to_owned(), entry);
        }
    }

    /// Hears of entries, and goes by them.
    pub(super) fn adopt(&self, entries: &[(String, String)]) {
        for (mapping, text) in entries {
            if let Some(entry) = Entry::parse(text) {
                self.hear(mapping, entry);
            }
        }
        self.settle();
    }

    /// Entries that are newer than those in a list of mapping, version and text.
    pub(super) fn newer_than(&self, list: &[(String, u64, String)]) -> Vec<(String, u64, String)> {
        let version_of = |mapping: &String| {
            list.iter().find(|(name, ..)| name == mapping).map_or(0, |(_, version, _)| *version)
        };
        let known = self.known();
        let newer = known.iter().filter(|(mapping, entry)| entry.version > version_of(mapping));
        newer.map(|(mapping, entry)| (mapping.clone(), entry.version, entry.text())).collect()
    }

    /// Has an event loop told of what it has to wait for.
    pub(super) fn attach(&self, mailbox: Arc<Mailbox>) {
        self.loops.lock().unwrap_or_else(PoisonError::into_inner).push(mailbox);
    }

    /// Closes a gate. Nobody has counted the requests that passed through it: each event loop gets a pass, and holds
    /// it until those that it has under way are answered.
    fn close(&self, gate: &'static Gate) {
        let passed_through = gate.passes_through();
        gate.close();
        if passed_through {
            let loops = self.loops.lock().unwrap_or_else(PoisonError::into_inner);
            loops.iter().for_each(|mailbox| mailbox.put(Mail::Fence(gate.hold())));
        }
    }

    /// Goes by what is known, as far as that is possible now.
    pub(super) fn settle(&self) -> Settled {
        let mut settled = Settled::default();
        let known = self.known();
        for mapping in &self.mappings {
            let Some(entry) = known.get(&mapping.name) else { continue };
            let gate = mapping.gate;
            if entry.version <= gate.version() {
                settled.acknowledged.insert(mapping.name.clone(), gate.version());
                continue;
            }
            let strategy = match &entry.target {
                // What comes of it is not known yet.
                Some(_) => None,
                None => match Strategy::parse(&entry.strategy) {
                    Ok(strategy) if strategy != Strategy::RedisOnly || !gate.has_rows() => {
                        Some(strategy)
                    }
                    _ => None,
                },
            };
            if strategy == Some(gate.strategy()) {
                gate.confirm(entry.version);
                gate.open();
                settled.acknowledged.insert(mapping.name.clone(), entry.version);
                continue;
            }
            self.close(gate);
            if !gate.is_empty() {
                settled.is_waiting = true;
                settled.is_behind |= entry.target.is_none();
                continue;
            }
            if let Some(strategy) = strategy {
                tracing::info!(
                    mapping = %mapping.name,
                    from = gate.strategy().name(),
                    to = strategy.name(),
                    "the strategy is changed"
                );
                gate.adopt(strategy, entry.version);
                gate.open();
            }
            settled.acknowledged.insert(mapping.name.clone(), entry.version);
        }
        settled
    }
}

/// Has mappings that nobody uses yet go by what operators have settled: mapping, and value as JSON.
pub fn adopt(registry: &Registry, entries: &[(String, String)]) {
    Switchboard::new(registry).adopt(entries);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_of_others_is_read_as_far_as_it_is_about_strategies() {
        let check = |text: &str, version, strategy: &str, target: Option<&str>| {
            let entry = Entry::parse(text).unwrap();
            assert_eq!((entry.version, &*entry.strategy), (version, strategy), "{text}");
            assert_eq!(entry.target.as_deref(), target, "{text}");
        };
        check(r#"{"phase": "dual_write"}"#, 0, "", None);
        let text = r#"{"version": 3, "strategy": "cache_first", "target": null, "phase": "x"}"#;
        check(text, 3, "cache_first", None);
        check(r#"{"version":4,"strategy":"a","target":"b"}"#, 4, "a", Some("b"));
        assert_eq!(Entry::parse("nothing"), None);
    }

    #[test]
    fn what_is_older_changes_nothing() {
        let board = Switchboard::default();
        let entry = |version| Entry { version, strategy: "dual_write".into(), target: None };
        board.hear("a", entry(5));
        board.hear("a", entry(4));
        assert_eq!(board.newer_than(&[]), [("a".to_owned(), 5, entry(5).text())]);
        assert!(board.newer_than(&[("a".to_owned(), 5, String::new())]).is_empty());
    }
}
