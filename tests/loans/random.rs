//! Random requests on mapped and unmapped keys, alone, in transactions and in scripts, from two clients
//! in turn: the same replies as from plain Redis, and the same values at the end.

use crate::alike::{KEYS, MAPPINGS, STRATEGIES, show, values};
use crate::stack::{Client, Random, Redis, Stack, Value};

const REQUESTS: usize = 1500;
/// With these seeds no watched key is changed and changed back, which we do not notice.
const FIRST_SEED: u64 = 300;

const SETS: [&str; 6] = ["tags:a", "tags:b", "tags:c", "other", "plain", "nothing"];
const HASHES: [&str; 5] = ["thing:1", "thing:2", "notes:a", "notes:b", "text"];

/// A request that leaves keys what their mappings hold: sets and hashes are not mixed up, but for
/// commands that only read or fail.
fn request(random: &mut Random) -> String {
    let member = random.below(6);
    let field = random.pick(&["name", "size", "loose"]);
    let (set, other, third) = (random.pick(&SETS), random.pick(&SETS), random.pick(&SETS));
    let (hash, also) = (random.pick(&HASHES), random.pick(&HASHES));
    let number = random.below(50);
    match random.below(36) {
        0..=3 => format!("SADD {set} {member} {number}"),
        4 => format!("SREM {set} {member}"),
        5 => format!("SINTERSTORE {set} {other} {third}"),
        6 => format!("SUNIONSTORE {set} {other} {third}"),
        7 => format!("SDIFFSTORE {set} {other} {third}"),
        8 => format!("SMOVE {set} {other} {member}"),
        9 => format!("SINTER {set} {other}"),
        10 => format!("SUNION {set} {other} {third}"),
        11 => format!("SINTERCARD 2 {set} {other}"),
        12 => format!("RENAME {set} {other}"),
        13 => format!("RENAMENX {hash} {also}"),
        14 => format!("COPY {set} {other} REPLACE"),
        15 => format!("COPY {hash} {also}"),
        16 => format!("SORT {set} DESC"),
        17..=20 => format!("HSET {hash} {field} {number}"),
        21 => format!("HDEL {hash} {field}"),
        22 => format!("HINCRBY {hash} {field} {number}"),
        23 => format!("DEL {set} {hash}"),
        24 => format!("PEXPIREAT {hash} 41{number:011}"),
        25 => format!("PERSIST {hash}"),
        26 => format!("PEXPIRETIME {hash}"),
        27 => format!("GET {hash}"),
        28 => format!("SMEMBERS {hash}"),
        29 => format!("HGETALL {set}"),
        30 => format!("ZADD {set} XX 1 m"),
        31 => format!("EXISTS {set} {hash} {other}"),
        32 => format!(
            "EVAL \"redis.call('SADD', KEYS[1], ARGV[1]) redis.call('HSET', KEYS[2], 'size', ARGV[1]) \
             return redis.call('HLEN', KEYS[2])\" 2 {set} {hash} {number}"
        ),
        33 => format!(
            "EVAL \"redis.call('DEL', KEYS[1]) return redis.pcall('HINCRBY', KEYS[2], 'name', 1)\" 2 \
             {set} {hash}"
        ),
        34 => format!("TYPE {hash}"),
        _ => format!("HGETALL {hash}"),
    }
}

/// What one of two clients says next, and whether it has a transaction open.
fn turn(random: &mut Random, open: &mut [bool; 2]) -> (usize, String) {
    let who = random.below(2);
    let line = match (open[who], random.below(12)) {
        (false, 0) => "MULTI".to_owned(),
        (false, 1) => format!("WATCH {} {}", random.pick(&SETS), random.pick(&HASHES)),
        (false, 2) if random.below(4) == 0 => "UNWATCH".to_owned(),
        (true, 0) if random.below(4) == 0 => "DISCARD".to_owned(),
        (true, 0..=2) => "EXEC".to_owned(),
        (true, 3) if random.below(8) == 0 => "HSET thing:1 size".to_owned(),
        _ => request(random),
    };
    match line.as_str() {
        "MULTI" => open[who] = true,
        "EXEC" | "DISCARD" => open[who] = false,
        _ => {}
    }
    (who, line)
}

/// Lists whose order Redis does not promise.
fn is_unordered(line: &str) -> bool {
    ["SINTER ", "SUNION ", "SMEMBERS", "HGETALL"].iter().any(|name| line.starts_with(name))
}

#[tokio::test]
async fn random_requests_are_answered_as_by_redis() {
    for (seed, (strategy, hello)) in
        STRATEGIES.into_iter().zip(["HELLO 2", "HELLO 3", "HELLO 2"]).enumerate()
    {
        let stack =
            Stack::builder(MAPPINGS).set("RESPGRES__DEFAULTS__STRATEGY", strategy).start().await;
        let second = stack.start_second_proxy().await;
        let plain = Redis::start().await;
        let mut plain_clients = [Client::connect(&plain).await, Client::connect(&plain).await];
        let mut clients = [stack.client().await, Client::connect(&second).await];
        for client in plain_clients.iter_mut().chain(&mut clients) {
            client.say(hello).await;
        }
        let mut random = Random::new(FIRST_SEED + seed as u64);
        let (mut open, mut story) = ([false; 2], Vec::new());
        let (mut executed, mut aborted) = (0, 0);
        for _ in 0..REQUESTS {
            let (who, line) = turn(&mut random, &mut open);
            story.push(format!("{who}> {line}"));
            let expected = plain_clients[who].say(&line).await;
            let actual = clients[who].say(&line).await;
            let is_exec = line == "EXEC";
            executed += usize::from(is_exec && matches!(expected, Value::Array(_)));
            aborted += usize::from(is_exec && matches!(expected, Value::NilArray | Value::Null));
            let is_unordered = is_unordered(&line) || is_exec;
            assert_eq!(
                shown(actual, is_unordered),
                shown(expected, is_unordered),
                "{strategy}, the last of\n{}",
                story[story.len().saturating_sub(30)..].join("\n")
            );
        }
        assert!(executed > 10 && aborted > 2, "{executed} {aborted}");
        for client in plain_clients.iter_mut().chain(&mut clients) {
            client.say("RESET").await;
        }
        let (expected, actual) = (values(&plain, &KEYS).await, values(&stack, &KEYS).await);
        assert_eq!(actual, expected, "{strategy}");
        stack.stop_expecting(&[]).await;
    }
}

/// With lists inside of EXEC's in order, too.
fn shown(value: Value, is_unordered: bool) -> Vec<String> {
    match value {
        Value::Array(elements) if is_unordered && elements.iter().any(is_list) => {
            elements.into_iter().flat_map(|element| show(element, true)).collect()
        }
        other => show(other, is_unordered),
    }
}

fn is_list(value: &Value) -> bool {
    matches!(value, Value::Array(_) | Value::Set(_) | Value::Map(_))
}
