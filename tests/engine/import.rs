//! An app that was on plain Redis turns mappings on: its keys are in Redis, the tables are empty. Nothing of a
//! key is lost, whatever is done with it first.

use std::time::Instant;

use crate::stack::{Client, Redis, Stack, Value, wait_until};

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
    "create table hashes (id text primary key, n bigint check (n < 1000), name text,
    extra jsonb not null default '{}');";

const STRATEGIES: [&str; 4] = ["dual_write", "database_first", "postgres_only", "cache_first"];

fn bulk(text: &str) -> Value {
    Value::Bulk(text.as_bytes().to_vec())
}

/// With a mapping that may have keys in Redis alone.
async fn stack(strategy: &str) -> Stack {
    let builder = Stack::builder(MAPPINGS).sql(TABLES);
    let mut stack = builder.set("RESPGRES__DEFAULTS__STRATEGY", strategy).start().await;
    let (done, told, error) = stack.run(&["phase", "set", "dual_write"]);
    assert!(done, "{error}");
    assert_eq!(told, "hashes: dual_write\nentries: dual_write\nmembers: dual_write\n");
    stack.proxy.restart().await;
    stack
}

/// What a plain Redis gets before anybody knows of mappings.
const BEFORE: [&str; 9] = [
    "HSET h:{} n 5 name old other x",
    "HSET h:timed{} n 5 name old other x",
    "PEXPIREAT h:timed{} 4000000000000",
    "HSET e:{} a 1 b 2 c 3",
    "HSET e:timed{} a 1 b 2 c 3",
    "PEXPIREAT e:timed{} 4000000000001",
    "SADD s:{} a b c",
    "SADD s:timed{} a b c",
    "PEXPIREAT s:timed{} 4000000000000",
];

/// The first that is done to a key; each with keys of its own.
const FIRST: &[&str] = &[
    "HSET h:{} name new",
    "HSET h:timed{} name new",
    "HMSET h:{} n 6 another 1",
    "HSETNX h:{} name new",
    "HSETNX h:{} fresh new",
    "HDEL h:{} name absent",
    "HDEL h:{} absent",
    "HDEL h:{} n name other",
    "HINCRBY h:{} n 7",
    "HINCRBY h:timed{} n 7",
    "HINCRBY h:{} name 7",
    "HINCRBYFLOAT h:{} n 0.5",
    "HINCRBYFLOAT h:{} other 0.5",
    "HGET h:{} absent",
    "HMGET h:{} absent n",
    "HMGET h:{} absent",
    "HEXISTS h:{} absent",
    "HLEN h:{}",
    "HSTRLEN h:{} name",
    "TTL h:{}",
    "PEXPIRETIME h:timed{}",
    "EXPIRETIME e:timed{}",
    "PEXPIREAT h:{} 4000000000000",
    "PERSIST h:timed{}",
    "PERSIST h:{}",
    "TYPE h:{}",
    "EXISTS h:{} e:{} s:{} s:absent",
    "TOUCH h:{} h:absent",
    "DEL h:{}",
    "DEL h:{} e:{} s:timed{} absent",
    "UNLINK h:timed{}",
    "RENAME h:{} h:renamed{}",
    "RENAME h:timed{} unmapped{}",
    "RENAMENX h:{} h:timed{}",
    "COPY h:{} h:timed{} REPLACE",
    "COPY h:timed{} unmapped{}",
    "SADD h:{} x",
    "GET h:{}",
    "EVAL \"return redis.call('HGET', KEYS[1], 'name')\" 1 h:{}",
    "EVAL \"return redis.call('HINCRBY', KEYS[1], 'n', 3)\" 1 h:timed{}",
    "HSET e:{} b new d 4",
    "HSET e:timed{} b new d 4",
    "HINCRBY e:{} b 3",
    "HDEL e:{} a",
    "HDEL e:timed{} a b c",
    "HGET e:{} absent",
    "HLEN e:{}",
    "DEL e:timed{}",
    "SADD s:{} c d",
    "SADD s:timed{} c d",
    "SREM s:{} a absent",
    "SREM s:timed{} a b c",
    "SISMEMBER s:{} absent",
    "SMISMEMBER s:{} a absent",
    "SCARD s:{}",
    "SPOP s:{} 3",
    "SMOVE s:{} s:timed{} a",
    "SUNIONSTORE s:{} s:timed{} s:absent",
    "SDIFFSTORE s:timed{} s:{} s:timed{}",
    "SINTERCARD 2 s:{} s:timed{}",
    "SORT s:{} ALPHA",
    "SORT s:{} ALPHA STORE list{}",
];

const KEYS: [&str; 6] = ["h:{}", "h:timed{}", "e:{}", "e:timed{}", "s:{}", "s:timed{}"];

fn numbered(line: &str, number: usize) -> String {
    line.replace("{}", &number.to_string())
}

/// Elements in no order.
fn unordered(value: Value) -> Value {
    let Value::Array(mut values) = value else { return value };
    values.sort_by_key(|value| format!("{value:?}"));
    Value::Array(values)
}

/// All of a key, and its end.
async fn held(client: &mut Client, key: &str) -> (Value, Value) {
    let all = if key.starts_with("s:") { "SMEMBERS" } else { "HGETALL" };
    let value = unordered(client.say(&format!("{all} {key}")).await);
    (value, client.say(&format!("PEXPIRETIME {key}")).await)
}

/// As plain Redis, but that an end may be later by what the import took since then: clocks are not compared.
fn assert_same(actual: &(Value, Value), expected: &(Value, Value), since: Instant, what: &str) {
    let near = is_near(&actual.1, &expected.1, since);
    assert!(near && actual.0 == expected.0, "{what}: {actual:?}, not {expected:?}");
}

fn is_near(told: &Value, wanted: &Value, since: Instant) -> bool {
    match (told, wanted) {
        (Value::Integer(told), Value::Integer(wanted)) if *wanted > 0 => {
            let took_ms = i64::try_from(since.elapsed().as_millis()).unwrap();
            (-10..=took_ms + 10).contains(&(told - wanted))
        }
        (told, wanted) => told == wanted,
    }
}

async fn first_commands_are_answered_as_by_redis(strategy: &str) {
    let stack = stack(strategy).await;
    let plain = Redis::start().await;
    let (mut client, mut expected) = (stack.client().await, Client::connect(&plain).await);
    let mut redis = Client::connect(&stack.redis).await;
    for (number, first) in FIRST.iter().enumerate() {
        for line in BEFORE {
            let line = numbered(line, number);
            assert_eq!(redis.say(&line).await, expected.say(&line).await);
        }
        let first = numbered(first, number);
        let what = format!("{strategy}: {first}");
        let since = Instant::now();
        let (told, wanted) = (client.say(&first).await, expected.say(&first).await);
        if first.contains("EXPIRETIME") {
            assert!(is_near(&told, &wanted, since), "{what}: {told:?}, not {wanted:?}");
        } else {
            assert_eq!(unordered(told), unordered(wanted), "{what}");
        }
        for key in KEYS {
            let key = numbered(key, number);
            let wanted = held(&mut expected, &key).await;
            let told = held(&mut client, &key).await;
            assert_same(&told, &wanted, since, &format!("{what}, then {key}"));
        }
        stack.flushed().await;
        // To ask for the end of a key has brought it over: the table has all of it.
        for key in KEYS {
            let key = numbered(key, number);
            let names = [key.clone(), format!("respgres:m:{key}"), format!("respgres:a:{key}")];
            redis.say(&format!("DEL {}", names.join(" "))).await;
            let wanted = held(&mut expected, &key).await;
            let told = held(&mut client, &key).await;
            assert_same(&told, &wanted, since, &format!("{what}, {key} from Postgres"));
        }
    }
    stack.stop_expecting(&[]).await;
}

#[tokio::test]
async fn the_first_command_on_a_key_of_redis_is_answered_as_by_redis() {
    for strategy in STRATEGIES {
        first_commands_are_answered_as_by_redis(strategy).await;
    }
}

#[tokio::test]
async fn a_transaction_and_a_watch_see_what_only_redis_has() {
    let stack = stack("dual_write").await;
    let mut client = stack.client().await;
    stack.redis.say("HSET h:1 n 5 name old").await;
    stack.redis.say("SADD s:1 a").await;
    client.say("WATCH h:1 s:2").await;
    client.say("MULTI").await;
    client.say("HINCRBY h:1 n 1").await;
    client.say("SADD s:1 b").await;
    let done = client.say("EXEC").await;
    assert_eq!(done, Value::Array(vec![Value::Integer(6), Value::Integer(1)]));
    assert_eq!(client.say("HGET h:1 name").await, bulk("old"));
    assert_eq!(stack.sql_text("select n || name from hashes").await, "6old");
    assert_eq!(stack.sql_i64("select count(*) from members").await, 2);
    stack.stop_expecting(&[]).await;
}

#[tokio::test]
async fn what_the_table_refuses_is_left_alone_in_redis() {
    for strategy in STRATEGIES {
        let stack = stack(strategy).await;
        let mut client = stack.client().await;
        stack.redis.say("HSET h:1 n 5000 name old").await;
        stack.redis.say("PEXPIRE h:1 1000000").await;
        stack.redis.say("HSET h:2 n 5 name old").await;
        for write in [
            "HSET h:1 name new",
            "HINCRBY h:1 n 1",
            "DEL h:1",
            "PERSIST h:1",
            "EVAL \"return 1\" 1 h:1",
        ] {
            let Value::Error(text) = client.say(write).await else { panic!("{strategy}: {write}") };
            assert!(
                text.starts_with(
                    "ERR mapping \"hashes\", column \"n\", constraint \"hashes_n_check\""
                ),
                "{strategy}: {write}: {text}"
            );
            assert!(text.ends_with("; nothing was written"), "{text}");
        }
        // Who reads it is told all the same.
        assert_eq!(client.say("HGET h:1 name").await, bulk("old"), "{strategy}");
        let Value::Integer(left_ms) = client.say("PTTL h:1").await else { panic!("{strategy}") };
        assert!((900_000..=1_000_100).contains(&left_ms), "{strategy}: {left_ms}");
        // Others go on beside it.
        let both = [vec!["HSET", "h:1", "name", "new"], vec!["HSET", "h:2", "name", "new"]];
        let together = client.pipeline(&both).await;
        assert!(matches!(together[0], Value::Error(_)), "{strategy}: {together:?}");
        assert_eq!(together[1], Value::Integer(0), "{strategy}");
        stack.flushed().await;
        assert_eq!(stack.sql_text("select string_agg(id || name, '') from hashes").await, "2new");
        assert_eq!(stack.redis.say("HGET h:1 n").await, bulk("5000"), "{strategy}");
        stack.stop_expecting(&[]).await;
    }
}

#[tokio::test]
async fn odd_bytes_and_large_values_are_brought_over_as_they_are() {
    let stack = stack("dual_write").await;
    let (mut client, mut redis) = (stack.client().await, Client::connect(&stack.redis).await);
    let odd: Vec<Vec<u8>> =
        [b"\0\xff".to_vec(), b"".to_vec(), b"1.50".to_vec(), b"caf\xc3\xa9".to_vec()].into();
    let mut words: Vec<Vec<u8>> = vec![b"HSET".to_vec(), b"h:1".to_vec()];
    for (at, value) in odd.iter().enumerate() {
        words.extend([format!("field{at}").into_bytes(), value.clone()]);
    }
    words.extend([b"n".to_vec(), b"007".to_vec(), b"name".to_vec(), b"a\0b".to_vec()]);
    redis.command(&words).await;
    for part in 0..12 {
        let mut words = vec!["SADD".to_owned(), "s:1".to_owned()];
        words.extend((0..1000).map(|at| format!("member{}", part * 1000 + at)));
        redis.command(&words).await;
    }
    assert_eq!(client.say("HSET h:1 new 1").await, Value::Integer(1));
    assert_eq!(client.say("SADD s:1 new").await, Value::Integer(1));
    stack.redis.say("DEL h:1 s:1").await;
    for (at, value) in odd.iter().enumerate() {
        let told = client.say(&format!("HGET h:1 field{at}")).await;
        assert_eq!(told, Value::Bulk(value.clone()));
    }
    assert_eq!(client.say("HGET h:1 n").await, bulk("007"));
    assert_eq!(client.say("HGET h:1 name").await, bulk("a\0b"));
    assert_eq!(client.say("SCARD s:1").await, Value::Integer(12_001));
    stack.stop_expecting(&[]).await;
}

#[tokio::test]
async fn what_is_explained_is_left_where_it_is() {
    let stack = stack("dual_write").await;
    let mut client = stack.client().await;
    stack.redis.say("HSET h:1 n 5").await;
    let told = client.say("RESPGRES EXPLAIN h:1").await;
    let told = told.lines().join("\n");
    assert!(told.contains("absent: what Redis has is brought over when it is needed"), "{told}");
    assert!(told.contains("yes: 1 fields, without end"), "{told}");
    assert_eq!(stack.sql_i64("select count(*) from hashes").await, 0);
    stack.stop_expecting(&[]).await;
}

#[tokio::test]
async fn a_key_of_another_type_stays_what_it_is() {
    let stack = stack("dual_write").await;
    let mut client = stack.client().await;
    stack.redis.say("SET h:1 text").await;
    stack.redis.say("SADD e:1 member").await;
    let wrong = Value::Error(
        "WRONGTYPE Operation against a key holding the wrong kind of value".to_owned(),
    );
    for line in
        ["HSET h:1 n 1", "HGET h:1 n", "HSET e:1 n 1", "DEL h:1", "TTL h:1", "RENAME e:1 e:2"]
    {
        assert_eq!(client.say(line).await, wrong, "{line}");
    }
    assert_eq!(stack.redis.say("GET h:1").await, bulk("text"));
    assert_eq!(stack.redis.say("SCARD e:1").await, Value::Integer(1));
    stack.stop_expecting(&[]).await;
}

#[tokio::test]
async fn two_proxies_bring_a_key_over_once() {
    for strategy in ["dual_write", "cache_first"] {
        let stack = stack(strategy).await;
        let second = stack.start_second_proxy().await;
        let (mut one, mut other) = (stack.client().await, Client::connect(&second).await);
        for number in 0..50 {
            let set = format!("HSET h:{number} n 100 name old");
            stack.redis.say(&set).await;
            if number % 2 == 0 {
                stack.redis.say(&format!("PEXPIRE h:{number} 1000000")).await;
            }
            let line = format!("HINCRBY h:{number} n 1");
            let (first, second) = tokio::join!(one.say(&line), other.say(&line));
            let mut told = [first, second].map(|value| format!("{value:?}"));
            told.sort();
            assert_eq!(told, ["Integer(101)", "Integer(102)"], "{strategy} {number}");
            assert_eq!(other.say(&format!("HGET h:{number} name")).await, bulk("old"));
        }
        stack.flushed().await;
        assert_eq!(
            stack.sql_i64("select count(*) from hashes where n = 102 and name = 'old'").await,
            50
        );
        stack.stop_expecting(&[]).await;
    }
}

#[tokio::test]
async fn a_proxy_that_dies_after_the_import_has_lost_nothing() {
    let mut stack = stack("dual_write").await;
    stack.redis.say("HSET h:1 n 5 name old").await;
    // The write itself waits for this, when the key has been brought over.
    stack
        .sql_execute(
            "create function hold() returns trigger language plpgsql as $$ begin
             perform pg_advisory_xact_lock(4711); return new; end $$;
         create trigger hold before update on hashes for each row execute function hold();
         select pg_advisory_lock(4711)",
        )
        .await;
    let mut client = stack.client().await;
    client.send(b"*4\r\n$7\r\nHINCRBY\r\n$3\r\nh:1\r\n$1\r\nn\r\n$1\r\n1\r\n").await;
    wait_until("the key was brought over", async || {
        stack.sql_i64("select count(*) from hashes").await == 1
    })
    .await;
    stack.proxy.kill();
    stack.sql_execute("select pg_advisory_unlock(4711)").await;
    stack.proxy.restart().await;
    let mut client = stack.client().await;
    assert_eq!(client.say("HGET h:1 name").await, bulk("old"));
    let Value::Integer(n) = client.say("HINCRBY h:1 n 1").await else { panic!("no number") };
    assert!((6..=7).contains(&n), "{n}");
    assert_eq!(stack.sql_text("select n || name from hashes").await, format!("{n}old"));
}

#[tokio::test]
async fn what_was_deleted_does_not_come_back_as_an_original() {
    let mut stack = stack("dual_write").await;
    let mut client = stack.client().await;
    for (key, end) in [("h:1", ""), ("h:2", "1000000")] {
        stack.redis.say(&format!("HSET {key} n 5 name old")).await;
        if !end.is_empty() {
            stack.redis.say(&format!("PEXPIRE {key} {end}")).await;
        }
    }
    stack.redis.say("HSET h:alone n 5 name old").await;
    stack.redis.say("PEXPIRE h:alone 1000000").await;
    stack.redis.say("SAVE").await;
    assert_eq!(client.say("DEL h:1").await, Value::Integer(1));
    assert_eq!(client.say("DEL h:2").await, Value::Integer(1));
    stack.redis.restart().await;
    assert_eq!(stack.redis.say("EXISTS h:1 h:2 h:alone").await, Value::Integer(3), "the snapshot");
    wait_until("what had a row is gone", async || {
        stack.redis.say("EXISTS h:1 h:2").await == Value::Integer(0)
    })
    .await;
    wait_until("Redis is believed", async || client.say("HGET h:alone name").await == bulk("old"))
        .await;
    assert_eq!(client.say("HSET h:1 n 1").await, Value::Integer(1));
    assert_eq!(client.say("HGETALL h:1").await, Value::Array(vec![bulk("n"), bulk("1")]));
    assert_eq!(client.say("HINCRBY h:alone n 1").await, Value::Integer(6));
    stack.stop_allowing(&[], &["mapped keys are read", "upstream"]).await;
}

#[tokio::test]
async fn a_row_that_others_delete_is_not_brought_back_by_its_copy() {
    let stack = stack("dual_write").await;
    let (done, _, error) = stack.run(&["schema", "--triggers", "--apply"]);
    assert!(done, "{error}");
    let mut client = stack.client().await;
    for number in 0..30 {
        client.say(&format!("HSET h:{number} n 5 name old")).await;
        client.say(&format!("HGETALL h:{number}")).await;
        stack.sql_execute(&format!("delete from hashes where id = '{number}'")).await;
        assert_eq!(client.say(&format!("HINCRBY h:{number} n 1")).await, Value::Integer(1));
        assert_eq!(client.say(&format!("HGET h:{number} name")).await, Value::NilBulk);
    }
    stack.stop_expecting(&[]).await;
}

#[tokio::test]
async fn a_key_is_not_made_anew_while_redis_is_away() {
    for strategy in ["dual_write", "postgres_only", "cache_first"] {
        let mut stack = stack(strategy).await;
        let mut client = stack.client().await;
        stack.redis.say("HSET h:1 n 5 name old").await;
        client.say("HSET h:2 n 5").await;
        stack.flushed().await;
        stack.redis.say("SAVE").await;
        stack.redis.kill();
        for line in ["HSET h:1 n 1", "HGET h:1 n", "DEL h:1"] {
            let Value::Error(text) = client.say(line).await else { panic!("{strategy}: {line}") };
            assert!(text.contains("Redis is out of reach"), "{strategy}: {line}: {text}");
        }
        if strategy != "cache_first" {
            assert_eq!(client.say("HINCRBY h:2 n 1").await, Value::Integer(6), "{strategy}");
        }
        stack.redis.restart().await;
        wait_until("Redis is believed", async || {
            client.say("HINCRBY h:1 n 1").await == Value::Integer(6)
        })
        .await;
        assert_eq!(client.say("HGET h:1 name").await, bulk("old"), "{strategy}");
        stack
            .stop_allowing(
                &[],
                &["upstream", "out of reach", "a write failed", "read", "may or may not"],
            )
            .await;
    }
}

#[tokio::test]
async fn each_key_is_listed_once_wherever_it_is() {
    let stack = stack("dual_write").await;
    let mut client = stack.client().await;
    for number in 0..40 {
        stack.redis.say(&format!("HSET h:{number} n 5")).await;
        stack.redis.say(&format!("SET unmapped:{number} 5")).await;
    }
    for number in 0..20 {
        client.say(&format!("HSET h:{number} name new")).await;
        client.say(&format!("HSET h:new{number} name new")).await;
    }
    client.say("DEL h:0").await;
    let names = |value: Value| {
        let Value::Array(names) = value else { panic!("{value:?}") };
        let mut names: Vec<String> = names.iter().map(|name| format!("{name:?}")).collect();
        names.sort();
        names
    };
    let keys = names(client.say("KEYS *").await);
    assert_eq!(keys.len(), 99);
    let mut once = keys.clone();
    once.dedup();
    assert_eq!(once, keys);
    assert_eq!(client.say("DBSIZE").await, Value::Integer(99));
    let (mut scanned, mut cursor) = (Vec::new(), "0".to_owned());
    loop {
        let Value::Array(mut page) = client.say(&format!("SCAN {cursor} COUNT 7")).await else {
            panic!("no page")
        };
        let (Some(found), Some(Value::Bulk(next))) = (page.pop(), page.pop()) else {
            panic!("no page")
        };
        scanned.extend(names(found));
        cursor = String::from_utf8(next).unwrap();
        if cursor == "0" {
            break;
        }
    }
    scanned.sort();
    scanned.dedup();
    assert_eq!(scanned, keys);
    client.say("FLUSHALL").await;
    stack.redis.say("FLUSHALL").await;
    stack.sql_execute("truncate hashes").await;
    stack.redis.say("HSET h:only n 5").await;
    wait_until("the one key is found", async || client.say("RANDOMKEY").await == bulk("h:only"))
        .await;
    stack.stop_expecting(&[]).await;
}

#[tokio::test]
async fn redis_is_not_emptied_of_what_only_it_has() {
    let builder = Stack::builder(MAPPINGS).sql(TABLES);
    let mut stack = builder.set("RESPGRES__UPSTREAM__FLUSH", "cache").start().await;
    let mut client = stack.client().await;
    client.say("HSET h:1 n 1").await;
    assert_eq!(client.say("FLUSHALL").await, Value::Status("OK".into()), "it began empty");
    stack.run(&["phase", "set", "verify", "--mapping", "entries"]);
    stack.proxy.restart().await;
    stack.redis.say("HSET e:1 a 1").await;
    let mut client = stack.client().await;
    for line in ["FLUSHALL", "FLUSHDB ASYNC"] {
        let Value::Error(text) = client.say(line).await else { panic!("{line}") };
        assert!(text.starts_with("ERR mapping \"entries\" is not migrated"), "{text}");
    }
    assert_eq!(client.say("HGET e:1 a").await, bulk("1"));
    stack.stop_expecting(&[]).await;
}

// === phases ===

fn phases(stack: &Stack) -> String {
    let (done, told, error) = stack.run(&["phase", "get"]);
    assert!(done, "{error}");
    told
}

#[tokio::test]
async fn a_mapping_begins_as_what_redis_has_allows() {
    let mut stack = Stack::builder(MAPPINGS).sql(TABLES).start().await;
    assert_eq!(phases(&stack), "hashes: migrated\nentries: migrated\nmembers: migrated\n");
    // As if they had never been started.
    stack.sql_execute("delete from respgres.control where name like 'mapping:%'").await;
    assert!(phases(&stack).starts_with("hashes: not started yet\n"));
    stack.redis.say("HSET h:1 n 5 name old").await;
    stack.sql_execute(
        "insert into respgres.control values ('mapping:members', '{\"strategy\": \"cache_first\"}')",
    )
    .await;
    stack.proxy.restart().await;
    assert_eq!(phases(&stack), "hashes: dual_write\nentries: migrated\nmembers: migrated\n");
    let kept = "select value ->> 'strategy' from respgres.control where name = 'mapping:members'";
    assert_eq!(stack.sql_text(kept).await, "cache_first");
    let mut client = stack.client().await;
    client.say("HSET h:1 n 6").await;
    assert_eq!(stack.sql_text("select name from hashes").await, "old");
    // Where respgres has run before there were phases nothing changes.
    stack
        .sql_execute(
            "delete from respgres.control where name like 'mapping:%';
         insert into respgres.control values ('phases', '{\"before\": true}')
             on conflict (name) do update set value = excluded.value",
        )
        .await;
    stack.proxy.restart().await;
    assert_eq!(phases(&stack), "hashes: migrated\nentries: migrated\nmembers: migrated\n");
    stack.sql_execute("delete from respgres.control where name = 'mapping:hashes'").await;
    stack.proxy.restart().await;
    assert!(phases(&stack).starts_with("hashes: dual_write\n"), "that was for one start");
    stack.stop_expecting(&[]).await;
}

#[tokio::test]
async fn a_mapping_in_preparation_passes_through() {
    let mut stack = stack("dual_write").await;
    stack.run(&["phase", "set", "preparation", "--force"]);
    stack.proxy.restart().await;
    let mut client = stack.client().await;
    client.say("HSET h:1 n 1").await;
    assert_eq!(stack.redis.say("PTTL h:1").await, Value::Integer(-1));
    assert_eq!(stack.sql_i64("select count(*) from hashes").await, 0);
    stack.run(&["phase", "set", "dual_write"]);
    stack.proxy.restart().await;
    let mut client = stack.client().await;
    client.say("HSET h:1 name new").await;
    assert_eq!(stack.sql_text("select n || name from hashes").await, "1new");
    stack.stop_expecting(&[]).await;
}

#[tokio::test]
async fn a_step_that_would_lose_keys_is_asked_about() {
    let stack = stack("dual_write").await;
    let mut client = stack.client().await;
    for number in 1..=4 {
        stack.redis.say(&format!("HSET h:{number} n 5")).await;
    }
    client.say("HSET h:1 n 6").await;
    // Nobody answers: standard input is at its end, or not there.
    let (done, told, error) = stack.run(&["phase", "set", "migrated"]);
    assert!(!done && told.is_empty(), "{told}");
    let wanted =
        "hashes: only Redis has 3 keys of it, which the next writes would hide: h:2, h:3, h:4";
    assert!(error.contains(wanted), "{error}");
    assert!(phases(&stack).starts_with("hashes: dual_write"));
    let (done, told, error) = stack.run(&["phase", "set", "migrated", "--mapping", "entries"]);
    assert!(done && told == "entries: migrated\n", "{error}");
    let (done, _, error) = stack.run(&["phase", "set", "preparation", "--mapping", "hashes"]);
    assert!(!done && error.contains("its rows are not seen any more"), "{error}");
    let (done, ..) = stack.run(&["phase", "set", "migrated", "--force"]);
    assert!(done);
    let (done, _, error) = stack.run(&["phase", "get", "--mapping", "nobody"]);
    assert!(!done && error.contains("there is no mapping \"nobody\""), "{error}");
    stack.stop_expecting(&[]).await;
}
