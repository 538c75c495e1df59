//! Data on the move between real stores, while clients go on: `respgres backfill`, `verify` and `sync`.
#![allow(clippy::unwrap_used, reason = "a test ends where something fails")]
// A test's own modules have nobody else to be private from.
#![allow(unreachable_pub)]

mod backfill;
mod part;
#[path = "../stack/mod.rs"]
mod stack;
mod verify;

use stack::{Client, Stack, Value};

const MAPPINGS: &str = r#"
[[mapping]]
name = "hashes"
key = "h:{id:text}"
table = "hashes"
extra = "extra"
[mapping.columns]
n = "n"
name = "name"

[[mapping]]
name = "entries"
key = "e:{id:text}"
kind = "hash_entries"
table = "entries"
field = "field"
value = "value"

[[mapping]]
name = "members"
key = "s:{id:text}"
kind = "set"
table = "members"
member = "member"
"#;

/// The tables: the first one refuses some values.
const TABLES: &str =
    "create table hashes (id text primary key, n bigint check (n < 1000000), name text,
    extra jsonb not null default '{}');";

fn bulk(text: &str) -> Value {
    Value::Bulk(text.as_bytes().to_vec())
}

/// With mappings that may have keys in Redis alone.
async fn stack(settings: &[(&str, &str)]) -> Stack {
    let mut builder = Stack::builder(MAPPINGS).sql(TABLES);
    for (name, value) in settings {
        builder = builder.set(name, value);
    }
    let mut stack = builder.start().await;
    let (done, _, error) = stack.run(&["phase", "set", "dual_write"]);
    assert!(done, "{error}");
    stack.proxy.restart().await;
    // It has gone through Redis by then.
    stack.client().await.say("HGET h:first n").await;
    stack
}

/// Puts hashes into Redis: `n` is the key's number.
async fn fill_redis(stack: &Stack, from: u32, to: u32) {
    for first in (from..=to).step_by(10_000) {
        let last = to.min(first + 9_999);
        let script = "for i = ARGV[1], ARGV[2] do \
                      redis.call('HSET', 'h:' .. i, 'n', i, 'name', 'key ' .. i, 'other', 'x') end";
        let first = first.to_string();
        let last = last.to_string();
        let mut redis = Client::connect(&stack.redis).await;
        redis.command(&["EVAL", script, "0", &first, &last]).await;
    }
}

/// All of a key, in no order, and its end.
async fn held(client: &mut Client, key: &str) -> (Value, Value) {
    let all = if key.starts_with("s:") { "SMEMBERS" } else { "HGETALL" };
    let mut value = client.say(&format!("{all} {key}")).await;
    if let Value::Array(parts) = &mut value {
        let width = if key.starts_with("s:") { 1 } else { 2 };
        let mut pairs: Vec<Vec<Value>> = parts.chunks(width).map(<[Value]>::to_vec).collect();
        pairs.sort_by_key(|pair| format!("{pair:?}"));
        value = Value::Array(pairs.concat());
    }
    (value, client.say(&format!("PEXPIRETIME {key}")).await)
}
