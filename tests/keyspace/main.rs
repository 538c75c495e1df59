//! Commands that look at many keys, over both stores: KEYS, SCAN, DBSIZE, RANDOMKEY, the flushes; and
//! what respgres tells of one key.
#![allow(clippy::unwrap_used, reason = "a test ends where something fails")]
// A test's own modules have nobody else to be private from.
#![allow(unreachable_pub)]
#![allow(clippy::disallowed_methods, reason = "a test spawns what it waits for")]

mod explain;
mod flush;
mod guarantee;
mod listing;
mod pages;
#[path = "../stack/mod.rs"]
mod stack;

use std::collections::BTreeSet;

use stack::{Client, Value};

/// The keys of a reply; none stands there twice.
pub fn keys_of(reply: &Value) -> BTreeSet<String> {
    let names: Vec<String> = reply.elements().iter().map(name_of).collect();
    let set: BTreeSet<String> = names.iter().cloned().collect();
    assert_eq!(set.len(), names.len(), "a key is listed twice: {names:?}");
    set
}

fn name_of(value: &Value) -> String {
    String::from_utf8_lossy(value.bytes().unwrap_or_else(|| panic!("no key: {value:?}")))
        .into_owned()
}

/// One call of SCAN: its cursor and keys.
pub async fn scan_step(client: &mut Client, cursor: &str, options: &str) -> (String, Vec<String>) {
    let reply = client.say(&format!("SCAN {cursor} {options}")).await;
    let [cursor, keys] = reply.elements() else { panic!("SCAN {cursor} {options}: {reply:?}") };
    (name_of(cursor), keys.elements().iter().map(name_of).collect())
}

/// All that SCAN gives, and in how many calls.
pub async fn scan(client: &mut Client, options: &str) -> (Vec<String>, usize) {
    let (mut cursor, mut all, mut calls) = ("0".to_owned(), Vec::new(), 0);
    loop {
        let (next, keys) = scan_step(client, &cursor, options).await;
        all.extend(keys);
        calls += 1;
        if next == "0" {
            return (all, calls);
        }
        assert!(next.parse::<i64>().is_ok_and(|number| number > 0), "an odd cursor: {next}");
        cursor = next;
    }
}

pub fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}
