//! A conversation with a server, written down as it should go.
//!
//! ```text
//! # a comment
//! > HSET key field "a value"       a command, quoted as in redis-cli
//! :1                               its reply, in the form of `resp`
//! b> GET other                     the same on a second connection, named b
//! $-1
//! b< *3                            a reply that comes by itself (a message, a push) on b
//!   "message"
//!   "channel"
//!   "text"
//! > TTL key
//! :…                               `…` at the end of a line: begins with
//! ```
//!
//! Lines are compared without the script's indentation. Whole conversations are compared at once,
//! so that a failure shows where the two part.

use std::collections::btree_map::{BTreeMap, Entry};

use super::client::{Client, Server};

/// Holds the conversation; fails with expected and actual text when it goes otherwise.
pub async fn talk(server: &impl Server, script: &str) {
    let mut connections: BTreeMap<String, Client> = BTreeMap::new();
    let mut expected = Vec::new();
    let mut actual = Vec::new();
    for line in unindented(script) {
        let spoken = ["> ", "< "].iter().find_map(|sign| {
            let (name, said) = line.split_once(sign)?;
            name.bytes().all(|byte| byte.is_ascii_alphanumeric()).then_some((*sign, name, said))
        });
        expected.push(line.clone());
        let Some((sign, name, said)) = spoken else { continue };
        let client = match connections.entry(name.to_owned()) {
            Entry::Occupied(open) => open.into_mut(),
            Entry::Vacant(new) => new.insert(Client::connect(server).await),
        };
        if sign == "> " {
            actual.push(line.clone());
            actual.extend(client.say(said).await.lines());
        } else {
            let reply = client.reply().await.lines();
            actual.push(format!("{name}< {}", reply[0]));
            actual.extend(reply.into_iter().skip(1));
        }
    }
    let agree = expected.len() == actual.len()
        && expected.iter().zip(&actual).all(|(expected, actual)| fits(expected, actual));
    if !agree {
        let differ = |expected: Option<&String>, actual: Option<&String>| match (expected, actual) {
            (Some(expected), Some(actual)) => !fits(expected, actual),
            _ => true,
        };
        let place = (0..).find(|&at| differ(expected.get(at), actual.get(at)));
        panic!(
            "the conversation went another way at line {}\n--- expected\n{}\n--- actual\n{}\n---",
            place.map_or(0, |at| at + 1),
            expected.join("\n"),
            actual.join("\n"),
        );
    }
}

fn fits(expected: &str, actual: &str) -> bool {
    match expected.strip_suffix('…') {
        Some(beginning) => actual.starts_with(beginning),
        None => expected == actual,
    }
}

/// The script's lines without comments, blank lines and the indentation that they share.
fn unindented(script: &str) -> Vec<String> {
    let lines = || {
        script
            .lines()
            .map(str::trim_end)
            .filter(|line| !line.trim().is_empty() && !line.trim_start().starts_with("# "))
    };
    let indentation = |line: &str| line.len() - line.trim_start().len();
    let shared = lines().map(indentation).min().unwrap_or(0);
    lines().map(|line| line[shared..].to_owned()).collect()
}
