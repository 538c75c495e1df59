//! The same conversation with plain Redis and with respgres, under each strategy and in both protocol
//! versions; and what is in the keys at its end.
//!
//! ```text
//! > SADD ids:1 5          a command on the first connection; the replies are compared
//! b> GET other            on another one
//! ~> SMEMBERS ids:1       the order of the reply's elements is not compared
//! ```

use std::collections::BTreeMap;

use crate::stack::{Client, Redis, Server, Stack, Value};

pub const MAPPINGS: &str = r#"
[[mapping]]
name = "things"
key = "thing:{id:int}"
table = "things"
expires_at = "expires_at"
extra = "extra"
[mapping.columns]
name = "name"
size = { column = "size", type = "bigint" }

[[mapping]]
name = "notes"
key = "notes:{id:text}"
kind = "hash_entries"
table = "notes"
field = "field"
value = { column = "value", type = "bytea" }
extra = "extra"

[[mapping]]
name = "tags"
key = "tags:{id:text}"
kind = "set"
table = "tags"
member = { column = "member", type = "bytea" }

[[mapping]]
name = "ids"
key = "ids:{id:int}"
kind = "set"
table = "ids"
member = { column = "member", type = "bigint" }
"#;

pub const STRATEGIES: [&str; 3] = ["dual_write", "database_first", "postgres_only"];

/// Keys whose values are compared at the end.
pub const KEYS: [&str; 16] = [
    "thing:1", "thing:2", "thing:3", "notes:a", "notes:b", "tags:a", "tags:b", "tags:c", "ids:1",
    "ids:2", "ids:3", "other", "plain", "list", "zset", "text",
];

pub async fn same(script: &str) {
    for (strategy, hello) in STRATEGIES.into_iter().zip(["HELLO 3", "HELLO 2", "HELLO 3"]) {
        same_under(strategy, hello, script).await;
    }
    same_under("dual_write", "HELLO 2", script).await;
}

async fn same_under(strategy: &str, hello: &str, script: &str) {
    let stack =
        Stack::builder(MAPPINGS).set("RESPGRES__DEFAULTS__STRATEGY", strategy).start().await;
    let plain = Redis::start().await;
    let expected = hold(&plain, hello, script).await;
    let actual = hold(&stack, hello, script).await;
    if expected != actual {
        let place = expected.iter().zip(&actual).position(|(one, other)| one != other);
        let from = place.unwrap_or(expected.len().min(actual.len())).saturating_sub(8);
        let part = |lines: &[String]| {
            lines.iter().skip(from).take(24).cloned().collect::<Vec<_>>().join("\n")
        };
        panic!(
            "{strategy}, {hello}\n--- Redis\n{}\n--- respgres\n{}\n---",
            part(&expected),
            part(&actual)
        );
    }
    // Nothing of a loan stays in Redis but marks and copies, which are right.
    let names = stack.redis.say("KEYS respgres:l:*").await;
    assert_eq!(names, Value::Array(Vec::new()), "{strategy}");
    stack.stop_expecting(&[]).await;
}

/// All that is said and heard, and what the keys hold then.
async fn hold(server: &impl Server, hello: &str, script: &str) -> Vec<String> {
    let mut connections: BTreeMap<String, Client> = BTreeMap::new();
    let mut lines = Vec::new();
    for line in script.lines().map(str::trim) {
        let Some((name, said)) = line.split_once("> ") else { continue };
        let (sorts, name) = match name.strip_prefix('~') {
            Some(name) => (true, name),
            None => (false, name),
        };
        if !connections.contains_key(name) {
            let mut client = Client::connect(server).await;
            client.say(hello).await;
            connections.insert(name.to_owned(), client);
        }
        let reply = connections.get_mut(name).unwrap().say(said).await;
        lines.push(line.to_owned());
        lines.extend(show(reply, sorts));
    }
    lines.extend(values(server, &KEYS).await);
    lines
}

/// What the keys hold.
pub async fn values(server: &impl Server, keys: &[&str]) -> Vec<String> {
    let mut lines = Vec::new();
    let mut client = Client::connect(server).await;
    client.say("HELLO 3").await;
    for key in keys {
        let kind = client.say(&format!("TYPE {key}")).await.lines().join("");
        lines.push(format!("{key} {kind}"));
        let value = match kind.as_str() {
            "+hash" => client.say(&format!("HGETALL {key}")).await,
            "+set" => client.say(&format!("SMEMBERS {key}")).await,
            "+string" => client.say(&format!("GET {key}")).await,
            "+list" => client.say(&format!("LRANGE {key} 0 -1")).await,
            "+zset" => client.say(&format!("ZRANGE {key} 0 -1 WITHSCORES")).await,
            _ => continue,
        };
        lines.extend(show(value, kind != "+list"));
        let expires = client.say(&format!("PEXPIRETIME {key}")).await.integer();
        // Relative times differ by what the two conversations lie apart.
        let relative = (1..4_000_000_000_000).contains(&expires);
        lines.push(if relative { "expires".to_owned() } else { expires.to_string() });
    }
    lines
}

pub fn show(value: Value, sorts: bool) -> Vec<String> {
    if !sorts {
        return value.lines();
    }
    match value {
        Value::Array(mut elements) => {
            elements.sort();
            Value::Array(elements).lines()
        }
        Value::Set(mut elements) => {
            elements.sort();
            Value::Set(elements).lines()
        }
        Value::Map(mut pairs) => {
            pairs.sort();
            Value::Map(pairs).lines()
        }
        other => other.lines(),
    }
}
