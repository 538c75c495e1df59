//! FLUSHALL and FLUSHDB that empty the mapped tables.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::keys_of;
use crate::listing::MAPPINGS;
use crate::stack::{Client, Server, Stack, Value, talk, wait_until};

const TRUNCATE: (&str, &str) = ("RESPGRES__UPSTREAM__FLUSH", "truncate");

async fn stack() -> Stack {
    Stack::builder(MAPPINGS).set(TRUNCATE.0, TRUNCATE.1).start().await
}

#[tokio::test]
async fn a_flush_empties_both_stores() {
    let stack = stack().await;
    let mut client = stack.client().await;
    for flush in ["FLUSHALL", "FLUSHDB", "flushall async", "FLUSHDB SYNC", "SELECT 3|FLUSHALL"] {
        client.say("SELECT 0").await;
        for line in [
            "HSET row:1 a 1",
            "EXPIRE row:1 100",
            "HSET pair:1:2 x 1",
            "SADD group:1:a x y",
            "EXPIRE group:1:a 100",
            "HSET count:2026-11-20 a 1 b 2",
            "SADD things:all 1 2",
            "SET other 1",
        ] {
            assert!(!client.say(line).await.is_error(), "{line}");
        }
        for part in flush.split('|') {
            assert_eq!(client.say(part).await, Value::Status("OK".into()), "{part}");
        }
        // A respgres may have said in between that it is alive.
        let mut left = keys_of(&stack.redis.say("KEYS *").await);
        left.remove("respgres:proxies");
        assert!(left.is_empty(), "{flush}: {left:?}");
        for table in ["rows", "pairs", "groups", "counts", "things", "respgres.expiry"] {
            assert_eq!(stack.sql_i64(&format!("select count(*) from {table}")).await, 0, "{flush}");
        }
        client.say("SELECT 0").await;
        for line in ["HGETALL row:1", "HGETALL pair:1:2", "SMEMBERS group:1:a", "KEYS *"] {
            assert_eq!(client.say(line).await, Value::Array(Vec::new()), "{flush}: {line}");
        }
        assert_eq!(client.say("TTL row:1").await, Value::Integer(-2));
        // Nothing of the old value or its expiry is left for the next one.
        assert_eq!(client.say("SADD group:1:a z").await, Value::Integer(1));
        assert_eq!(client.say("SCARD group:1:a").await, Value::Integer(1));
        assert_eq!(client.say("TTL group:1:a").await, Value::Integer(-1));
        client.say("DEL group:1:a").await;
    }
    talk(
        &stack,
        r"
        > HSET row:1 a 1
        :1
        > SET other 1
        +OK
        > FLUSHALL now
        -ERR syntax error
        > FLUSHALL async sync
        -ERR syntax error
        > SWAPDB 0 1
        -ERR SWAPDB is refused while mappings exist; see upstream.flush in the configuration
        > MULTI
        +OK
        > FLUSHALL
        -ERR FLUSHALL is not supported inside MULTI while mappings exist
        > DISCARD
        +OK
        > SELECT 1
        +OK
        > FLUSHDB
        +OK
        > SELECT 0
        +OK
        > DBSIZE
        :2
        ",
    )
    .await;
    stack.stop_expecting(&[]).await;
}

/// Keys of the other databases are Redis' alone.
#[tokio::test]
async fn databases_without_mappings_may_be_swapped() {
    let stack = stack().await;
    talk(
        &stack,
        r#"
        > HSET row:1 a 1
        :1
        > SELECT 2
        +OK
        > SET other 2
        +OK
        > SWAPDB 2 3
        +OK
        > GET other
        $-1
        > SWAPDB 3 2
        +OK
        > GET other
        "2"
        > SWAPDB 2 0
        -ERR SWAPDB is refused while mappings exist; see upstream.flush in the configuration
        > SWAPDB 0 x
        -ERR SWAPDB is refused while mappings exist; see upstream.flush in the configuration
        > SWAPDB x 1
        -ERR invalid first DB index
        > SELECT 0
        +OK
        > SWAPDB 2 3
        +OK
        > HGET row:1 a
        "1"
        "#,
    )
    .await;
    stack.stop_expecting(&[]).await;
}

#[tokio::test]
async fn a_flush_that_one_store_refuses_leaves_the_other() {
    let stack = stack().await;
    let mut client = stack.client().await;
    client.say("HSET row:1 a 1").await;
    client.say("SET other 1").await;
    stack.sql_execute("create table refers (row bigint references rows (id))").await;
    let reply = client.say("FLUSHALL").await;
    let expected = "ERR Postgres refuses to empty the mapped tables (cannot truncate a table referenced \
                    in a foreign key constraint); nothing was written";
    assert_eq!(reply, Value::Error(expected.to_owned()));
    assert_eq!(client.say("DBSIZE").await, Value::Integer(2));
    stack.sql_execute("drop table refers").await;
    // Redis has become a replica, which takes no writes.
    stack.redis.say("REPLICAOF 127.0.0.1 1").await;
    let reply = client.say("FLUSHALL").await;
    assert!(matches!(&reply, Value::Error(text) if text.starts_with("READONLY")), "{reply:?}");
    assert_eq!(stack.sql_i64("select count(*) from rows").await, 1);
    stack.redis.say("REPLICAOF NO ONE").await;
    assert_eq!(client.say("FLUSHALL").await, Value::Status("OK".into()));
    assert_eq!(client.say("DBSIZE").await, Value::Integer(0));
    stack.stop_expecting(&["the mapped tables were not emptied"]).await;
}

/// A flush waits for those who are at the tables, and those who come wait for it: nobody finds an old
/// value afterwards, in either store, by whatever path it could have come back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_comes_back_after_a_flush() {
    let stack = stack().await;
    let second = stack.start_second_proxy().await;
    let addresses = [stack.address(), second.address()];
    let ended = Arc::new(AtomicBool::new(false));
    let mut tasks = Vec::new();
    for number in 0..8 {
        let (address, ended) = (addresses[number % 2].clone(), Arc::clone(&ended));
        tasks.push(tokio::spawn(async move {
            let mut client = Client::connect_to(&address).await;
            let mut asked = 0;
            while !ended.load(Ordering::Relaxed) {
                // Readers that fill, by either way of reading.
                let lines =
                    ["HGETALL row:{}", "TTL row:{}", "HGETALL pair:best:{}", "SMEMBERS group:{}:x"];
                let line = lines[asked % lines.len()];
                let line = line.replace("{}", &(asked % 20).to_string());
                let reply = client.say(&line).await;
                assert!(!reply.is_error(), "{line}: {reply:?}");
                asked += 1;
            }
            asked
        }));
    }
    let mut client = stack.client().await;
    let mut other = Client::connect(&second).await;
    for round in 0..25 {
        for key in 0..20 {
            client.say(&format!("HSET row:{key} round {round}")).await;
            other.say(&format!("HSET pair:best:{key} round {round}")).await;
            other.say(&format!("SADD group:{key}:x {round}")).await;
        }
        assert_eq!(client.say("FLUSHALL").await, Value::Status("OK".into()));
        for key in 0..20 {
            for name in [format!("row:{key}"), format!("pair:best:{key}")] {
                let left = other.say(&format!("HGETALL {name}")).await;
                assert_eq!(left, Value::Array(Vec::new()), "{name} in round {round}");
            }
            let left = other.say(&format!("SCARD group:{key}:x")).await;
            assert_eq!(left, Value::Integer(0), "group:{key}:x in round {round}");
        }
    }
    ended.store(true, Ordering::Relaxed);
    for task in tasks {
        assert!(task.await.expect("no panic") > 50);
    }
    drop(second);
    stack.stop_expecting(&[]).await;
}

/// Writers that are between their read and their COMMIT when the flush comes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn increments_across_flushes_begin_again_at_one() {
    let stack = stack().await;
    let address = stack.address();
    let ended = Arc::new(AtomicBool::new(false));
    let mut tasks = Vec::new();
    for number in 0..6 {
        let (address, ended) = (address.clone(), Arc::clone(&ended));
        // By respgres, or by Redis on lent values.
        let line = match number % 3 {
            0 => "EVAL return(redis.call('hincrby',KEYS[1],'b',1)) 1 row:1",
            _ => "HINCRBY row:1 b 1",
        };
        tasks.push(tokio::spawn(async move {
            let mut client = Client::connect_to(&address).await;
            let mut seen = Vec::new();
            while !ended.load(Ordering::Relaxed) {
                seen.push(client.say(line).await.integer());
            }
            seen
        }));
    }
    let mut client = stack.client().await;
    for _ in 0..20 {
        wait_until("some have written", async || {
            client.say("HGET row:1 b").await != Value::NilBulk
        })
        .await;
        assert_eq!(client.say("FLUSHALL").await, Value::Status("OK".into()));
    }
    ended.store(true, Ordering::Relaxed);
    let mut all = Vec::new();
    for task in tasks {
        all.extend(task.await.expect("no panic"));
    }
    // Between two flushes each number is given once, from 1 on.
    let mut counts: Vec<usize> = Vec::new();
    for number in &all {
        let number = usize::try_from(*number).expect("it counts up");
        counts.resize(counts.len().max(number), 0);
        counts[number - 1] += 1;
    }
    assert!(counts.is_sorted_by(|one, next| one >= next), "{counts:?}");
    assert!(counts[0] <= 21, "{counts:?}");
    let row: BTreeSet<i64> =
        [stack.sql_i64("select coalesce(max(b::bigint), 0) from rows").await].into();
    let read = client.say("HGET row:1 b").await;
    let read = read.bytes().map_or(0, |bytes| std::str::from_utf8(bytes).unwrap().parse().unwrap());
    assert!(row.contains(&read), "the copy says {read}, the row {row:?}");
    stack.stop_expecting(&[]).await;
}
