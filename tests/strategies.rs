//! The commands in scope under each strategy and in both protocol versions against plain Redis: the
//! same random requests, the same replies, the same state at the end; while the cache is emptied
//! behind the proxy's back, copies vanish, and rows are changed by SQL.
#![allow(clippy::unwrap_used, reason = "a test ends where something fails")]

mod stack;

use stack::{Client, Random, Redis, Server, Stack, Value, talk};

const REQUESTS: usize = 1500;

/// The kind of `size` and `ready` is what SQL needs to change them; every value comes back as it is
/// because of `extra`.
const MAPPING: &str = r#"
[[mapping]]
name = "things"
key = "thing:{id:int}"
table = "things"
extra = "extra"
expires_at = "expires_at"
[mapping.columns]
name = "name"
size = { column = "size", type = "bigint" }
price = { column = "price", type = "numeric" }
ready = { column = "ready", type = "boolean" }
seen = { column = "seen", type = "timestamptz" }

[[mapping]]
name = "plain"
key = "plain:{id:text}"
table = "plain"
extra = "extra"

[[mapping]]
name = "counts"
key = "count:{id:text}"
kind = "hash_entries"
table = "counts"
field = { column = "what", type = "bytea" }
value = { column = "amount", type = "numeric" }
extra = "extra"

[[mapping]]
name = "groups"
key = "group:{id:text}"
kind = "set"
table = "groups"
member = { column = "member", type = "bytea" }
"#;

/// Hashes; the last two are not mapped.
const KEYS: [&str; 8] =
    ["thing:1", "thing:2", "plain:a", "plain:b", "count:a", "count:b", "other:1", "other:2"];
const MAPPED: usize = 6;
/// Sets; the last one is not mapped.
const SETS: [&str; 3] = ["group:a", "group:b", "other:set"];
const MEMBERS: [&[u8]; 10] =
    [b"a", b"b", b"c", b"d", b"1", b"007", b"", b"nul\0", b"\xff\xfe", b"odd \xc3\xa9"];
const FIELDS: [&str; 8] = ["name", "size", "price", "ready", "seen", "loose", "", "odd \u{e9}"];
const VALUES: [&[u8]; 16] = [
    b"5",
    b"-7",
    b"1.50",
    b"1e-7",
    b"",
    b"true",
    b"TRUE",
    b"0",
    b"2026-11-20T22:20:30.783Z",
    b"2030-01-01",
    b"text",
    b"nul\0",
    b"\xff\xfe",
    b"9223372036854775807",
    b" 1",
    b"{\"a\": 1}",
];

type Request = Vec<Vec<u8>>;

fn words(parts: &[&str]) -> Request {
    parts.iter().map(|part| part.as_bytes().to_vec()).collect()
}

/// A request about sets.
fn set_request(random: &mut Random) -> Request {
    let key = |random: &mut Random| {
        if random.below(8) == 0 { SETS[2] } else { SETS[random.below(2)] }
    };
    let first = key(random);
    match random.below(22) {
        0..=7 => with_members(random, "SADD", first, 3),
        8 | 9 => with_members(random, "SREM", first, 2),
        10 | 11 => with_members(random, "SISMEMBER", first, 1),
        12 => with_members(random, "SMISMEMBER", first, 3),
        13 => words(&["SCARD", first]),
        14 | 15 => words(&["SMEMBERS", first]),
        // Drawing all leaves nothing to chance.
        16 => words(&["SPOP", first, random.pick(&["0", "100", "-1", "x"])]),
        17 => words(&["SRANDMEMBER", first, random.pick(&["0", "100", "x"])]),
        18 => words(&["SSCAN", first, "0", "COUNT", "1000"]),
        19 => words(&["TYPE", first]),
        20 => words(&["EXISTS", first, KEYS[0], KEYS[4], key(random)]),
        _ => words(&[random.pick(&["DEL", "PERSIST", "TTL", "TOUCH"]), first]),
    }
}

fn with_members(random: &mut Random, name: &str, key: &str, most: usize) -> Request {
    let mut request = words(&[name, key]);
    for _ in 0..=random.below(most) {
        request.push(random.pick(&MEMBERS).to_vec());
    }
    request
}

fn request(random: &mut Random) -> Request {
    if random.below(4) == 0 {
        return set_request(random);
    }
    // Mapped keys mostly.
    let key = |random: &mut Random| {
        if random.below(8) == 0 { KEYS[MAPPED] } else { KEYS[random.below(MAPPED)] }
    };
    let field = |random: &mut Random| random.pick(&FIELDS);
    let first = key(random);
    match random.below(40) {
        0..=8 => {
            let name = if random.below(4) == 0 { "HMSET" } else { "HSET" };
            let mut request = words(&[name, first]);
            for _ in 0..=random.below(3) {
                request.push(field(random).as_bytes().to_vec());
                request.push(random.pick(&VALUES).to_vec());
            }
            request
        }
        9 => {
            let mut request = words(&["HSETNX", first, field(random)]);
            request.push(random.pick(&VALUES).to_vec());
            request
        }
        10 | 11 => words(&["HDEL", first, field(random), field(random)]),
        12 | 13 => words(&["HINCRBY", first, field(random), random.pick(&["1", "-3", "x", "40"])]),
        14 => words(&["HINCRBYFLOAT", first, field(random), random.pick(&["0.5", "-2", "1e3"])]),
        15..=18 => words(&["HGET", first, field(random)]),
        19 | 20 => words(&["HMGET", first, field(random), field(random), field(random)]),
        21..=23 => words(&["HGETALL", first]),
        24 => words(&[random.pick(&["HEXISTS", "HSTRLEN"]), first, field(random)]),
        25 | 26 => words(&[random.pick(&["HLEN", "HKEYS", "HVALS"]), first]),
        27 => words(&["HSCAN", first, "0", "COUNT", "1000"]),
        28 if random.below(2) == 0 => words(&["HRANDFIELD", first, "100"]),
        28 => words(&["EXISTS", first, key(random), key(random), KEYS[7]]),
        29 => words(&["TYPE", first]),
        30 | 31 => match random.below(3) {
            0 => words(&["UNLINK", first, key(random)]),
            1 => words(&["DEL", first, key(random), KEYS[7]]),
            _ => words(&["DEL", first]),
        },
        // So far away that no test takes as long.
        32 => words(&["EXPIRE", first, random.pick(&["100000", "-1", "200000"])]),
        33 => words(&["PEXPIRE", first, "150000000", random.pick(&["NX", "XX", "GT", "LT"])]),
        34 => words(&["EXPIREAT", first, random.pick(&["4102444800", "4102444900", "1"])]),
        35 => words(&["PEXPIREAT", first, random.pick(&["4102444800123", "4102444900000"])]),
        36 => words(&["PERSIST", first]),
        37 => words(&[random.pick(&["EXPIRETIME", "PEXPIRETIME"]), first]),
        38 => words(&[random.pick(&["TTL", "PTTL"]), first]),
        // Wrong number of arguments, and a command that is no hash's.
        _ => words(&["HSET", first, "name"]),
    }
}

/// A reply without what is not promised: orders, and the moment at which a clock was read.
fn promised(request: &Request, reply: Value) -> Value {
    let name = String::from_utf8_lossy(&request[0]).into_owned();
    match (name.as_str(), reply) {
        ("HGETALL", reply) => reply.into_map(),
        ("HKEYS" | "HVALS" | "SMEMBERS" | "SPOP" | "SRANDMEMBER" | "HRANDFIELD", reply) => {
            reply.into_set()
        }
        ("HSCAN", Value::Array(mut parts)) if parts.len() == 2 => {
            let found = parts.pop().map(Value::into_map);
            parts.extend(found);
            Value::Array(parts)
        }
        ("SSCAN", Value::Array(mut parts)) if parts.len() == 2 => {
            let found = parts.pop().map(Value::into_set);
            parts.extend(found);
            Value::Array(parts)
        }
        (_, reply) => reply,
    }
}

/// Our reply, or that of plain Redis where ours is as promised: clocks were read a moment apart.
fn within_a_minute(request: &Request, given: Value, expected: &Value) -> Value {
    let minute = match request[0].as_slice() {
        b"TTL" | b"EXPIRETIME" => 60,
        b"PTTL" | b"PEXPIRETIME" => 60_000,
        _ => return given,
    };
    match (&given, expected) {
        (Value::Integer(1..), Value::Integer(1..))
            if given.integer().abs_diff(expected.integer()) <= minute =>
        {
            expected.clone()
        }
        _ => given,
    }
}

fn show(request: &Request) -> String {
    let words = request.iter().map(|word| format!("\"{}\"", stack::resp::escape(word)));
    words.collect::<Vec<_>>().join(" ")
}

/// What SQL of somebody else does to a row, and what that is for Redis. The copy is dropped
/// afterwards, as the one who does such a thing has to see to.
async fn change_by_sql(stack: &Stack, plain: &mut Client, random: &mut Random) {
    let id = 1 + random.below(2);
    let key = format!("thing:{id}");
    let exists = plain.say(&format!("EXISTS {key}")).await == Value::Integer(1);
    match random.below(4) {
        0 => {
            stack.sql_execute(&format!("delete from things where id = {id}")).await;
            plain.say(&format!("DEL {key}")).await;
        }
        1 => {
            stack.sql_execute(&format!("update things set size = 77 where id = {id}")).await;
            if exists {
                plain.say(&format!("HSET {key} size 77")).await;
            }
        }
        2 => {
            stack
                .sql_execute(&format!(
                    "update things set name = 'sql', ready = false where id = {id}"
                ))
                .await;
            if exists {
                plain.say(&format!("HSET {key} name sql ready false")).await;
            }
        }
        _ => {
            let insert = format!(
                "insert into things (id, name, price) values ({id}, 'new', 2.50) on conflict do nothing"
            );
            let before = stack.sql_i64("select count(*) from things").await;
            stack.sql_execute(&insert).await;
            if stack.sql_i64("select count(*) from things").await > before {
                plain.say(&format!("HSET {key} name new price 2.50")).await;
            }
        }
    }
    // Its copy, and what is known of its absence.
    stack.redis.say(&format!("DEL {key} respgres:m:{key} respgres:a:{key}")).await;
}

async fn disturb(stack: &Stack, plain: &mut Client, random: &mut Random, strategy: &str) {
    match random.below(4) {
        // Behind the proxy's back; unmapped keys are no cache.
        0 => {
            for key in KEYS[..MAPPED].iter().chain(&SETS[..2]) {
                let names = format!("DEL {key} respgres:m:{key} respgres:a:{key}");
                stack.redis.say(&names).await;
            }
        }
        1 | 2 => {
            let key = if random.below(4) == 0 {
                SETS[random.below(2)]
            } else {
                KEYS[random.below(MAPPED)]
            };
            let victim = match random.below(3) {
                0 => key.to_owned(),
                1 => format!("respgres:m:{key}"),
                _ => format!("respgres:a:{key}"),
            };
            stack.redis.say(&format!("DEL {victim}")).await;
        }
        // An expired row that is still there looks otherwise to SQL than to Redis: not compared.
        _ if strategy != "redis_only" => change_by_sql(stack, plain, random).await,
        _ => {}
    }
}

async fn differs_nowhere(strategy: &str, seed: u64) {
    let stack = Stack::builder(MAPPING).set("RESPGRES__DEFAULTS__STRATEGY", strategy).start().await;
    let redis = Redis::start().await;
    for version in ["2", "3"] {
        let mut random = Random::new(seed + u64::from(version == "3"));
        let (mut ours, mut plain) = (stack.client().await, Client::connect(&redis).await);
        ours.say(&format!("HELLO {version}")).await;
        plain.say(&format!("HELLO {version}")).await;
        let mut observer = Client::connect(&redis).await;
        let (mut errors, mut nothing) = (0, 0);
        let mut told = Vec::new();
        let mut turn = 0;
        while turn < REQUESTS {
            // Alone, or several at once.
            let count = 1 + random.below(6);
            let requests: Vec<Request> = (0..count).map(|_| request(&mut random)).collect();
            turn += requests.len();
            let given = ours.pipeline(&requests).await;
            let expected = plain.pipeline(&requests).await;
            for ((request, given), expected) in requests.iter().zip(given).zip(expected) {
                told.push(show(request));
                let from = told.len().saturating_sub(25);
                let (given, expected) = (promised(request, given), promised(request, expected));
                let given = within_a_minute(request, given, &expected);
                errors += usize::from(expected.is_error());
                nothing += usize::from(matches!(
                    expected,
                    Value::NilBulk | Value::Null | Value::Integer(0)
                ));
                assert_eq!(
                    given.lines(),
                    expected.lines(),
                    "{strategy}, RESP{version}, seed {seed}, the last of\n{}",
                    told[from..].join("\n")
                );
            }
            if strategy != "redis_only" && random.below(8) == 0 {
                // What Redis alone has is not its to lose.
                stack.flushed().await;
                disturb(&stack, &mut observer, &mut random, strategy).await;
                told.push("(a disturbance)".into());
            }
        }
        assert!(errors > REQUESTS / 50 && nothing > REQUESTS / 20, "{errors} {nothing}");
        same_state(&stack, &redis).await;
    }
    stack.stop_expecting(&[]).await;
}

/// First as it is, then from Postgres alone.
async fn same_state(stack: &Stack, redis: &Redis) {
    let (mut ours, mut plain) = (stack.client().await, Client::connect(redis).await);
    for emptied in [false, true] {
        stack.flushed().await;
        if emptied && stack.sql_i64("select count(*) from things").await > 0 {
            for key in KEYS[..MAPPED].iter().chain(&SETS[..2]) {
                stack.redis.say(&format!("DEL {key} respgres:m:{key}")).await;
            }
        }
        let hashes = KEYS.map(|key| (key, "HGETALL"));
        for (key, whole) in hashes.into_iter().chain(SETS.map(|key| (key, "SMEMBERS"))) {
            for command in [whole, "PEXPIRETIME", "TYPE"] {
                let request = words(&[command, key]);
                let given = promised(&request, ours.command(&request).await);
                let expected = promised(&request, plain.command(&request).await);
                let given = within_a_minute(&request, given, &expected);
                assert_eq!(given.lines(), expected.lines(), "{command} {key}, emptied: {emptied}");
            }
        }
    }
}

#[tokio::test]
async fn dual_write_differs_nowhere_from_redis() {
    differs_nowhere("dual_write", 1).await;
}

#[tokio::test]
async fn cache_first_differs_nowhere_from_redis() {
    differs_nowhere("cache_first", 2).await;
}

#[tokio::test]
async fn database_first_differs_nowhere_from_redis() {
    differs_nowhere("database_first", 3).await;
}

#[tokio::test]
async fn postgres_only_differs_nowhere_from_redis() {
    differs_nowhere("postgres_only", 5).await;
}

#[tokio::test]
async fn redis_only_differs_nowhere_from_redis() {
    differs_nowhere("redis_only", 7).await;
}

#[tokio::test]
async fn each_strategy_keeps_values_where_it_says() {
    let places = [
        ("dual_write", 1, true),
        ("cache_first", 1, true),
        ("database_first", 1, true),
        ("postgres_only", 1, false),
        ("redis_only", 0, true),
    ];
    for (strategy, rows, is_copied) in places {
        let stack =
            Stack::builder(MAPPING).set("RESPGRES__DEFAULTS__STRATEGY", strategy).start().await;
        let mut client = stack.client().await;
        assert_eq!(client.say("HSET thing:1 size 5").await, Value::Integer(1));
        assert_eq!(client.say("HGET thing:1 size").await, Value::Bulk(b"5".to_vec()));
        // The reader's fill is behind its answer.
        client.say("EXISTS thing:1 thing:2").await;
        stack.flushed().await;
        assert_eq!(stack.sql_i64("select count(*) from things").await, rows, "{strategy}");
        let mut redis = Client::connect(&stack.redis).await;
        let wanted = Value::Integer(i64::from(is_copied));
        stack::wait_until("the copy is where it belongs", async || {
            redis.say("EXISTS thing:1").await == wanted
        })
        .await;
        if strategy == "database_first" || strategy == "postgres_only" {
            // Who reads Postgres first sees what SQL does at once.
            stack.sql_execute("update things set size = 6").await;
            assert_eq!(client.say("HGET thing:1 size").await, Value::Bulk(b"6".to_vec()));
        }
        if strategy == "dual_write" {
            redis.say("HSET thing:1 size 7").await;
            assert_eq!(client.say("HGET thing:1 size").await, Value::Bulk(b"7".to_vec()));
        }
        assert!(!stack.address().is_empty());
        stack.stop_expecting(&[]).await;
    }
}

#[tokio::test]
async fn keys_of_a_redis_only_mapping_stay_out_of_a_less_specific_one() {
    let mappings = r#"
        [[mapping]]
        name = "things"
        key = "thing:{name:text}"
        table = "things"
        extra = "extra"
        [[mapping]]
        name = "drafts"
        key = "thing:draft:{name:text}"
        exclude = ["thing:draft:final"]
        table = "drafts"
        extra = "extra"
        strategy = "redis_only"
        [[mapping]]
        name = "total"
        key = "thing:total"
        kind = "set"
        table = "totals"
        member = "member"
        strategy = "redis_only"
    "#;
    let stack = Stack::with_mappings(mappings).await;
    talk(
        &stack,
        "
        > HSET thing:a f 1
        :1
        > HSET thing:draft:a f 1
        :1
        > HSET thing:draft:final f 1
        :1
        > HSET thing:total:a f 1
        :1
        > SET thing:total 5
        +OK
        > INCR thing:total
        :6
        > EVAL \"return redis.call('hset', KEYS[1], 'f', 2)\" 1 thing:draft:b
        :1
        ",
    )
    .await;
    let names = "select string_agg(name, ' ' order by name) from things";
    assert_eq!(stack.sql_text(names).await, "a draft:final total:a");
    assert_eq!(stack.sql_i64("select count(*) from drafts").await, 0);
    stack.stop_expecting(&[]).await;
}
