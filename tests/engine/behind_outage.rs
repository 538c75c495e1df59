//! Writing behind, and a Redis that goes and comes: what it has kept reaches Postgres, once; what it alone had
//! and lost is lost, and nothing else.

use std::time::{Duration, Instant};

use crate::behind::{MAPPINGS, bulk, error, held, let_go};
use crate::stack::{Client, Stack, Value, wait_until};

#[tokio::test]
async fn without_redis_nothing_is_said_that_may_be_wrong() {
    // Timeouts that nobody is to wait for.
    let mut stack = Stack::builder(MAPPINGS)
        .set("RESPGRES__UPSTREAM__CONNECT_TIMEOUT", "20s")
        .set("RESPGRES__UPSTREAM__REQUEST_TIMEOUT", "20s")
        .start()
        .await;
    let mut client = stack.client().await;
    client.say("HSET thing:1 total 1").await;
    client.say("HSET dual:1 a 1").await;
    stack.flushed().await;
    stack.redis.kill();
    for line in
        ["HSET thing:1 total 2", "HINCRBY thing:1 total 1", "EXPIRE thing:1 100", "DEL thing:1"]
    {
        let start = Instant::now();
        let told = error(client.say(line).await);
        assert!(told.contains("out of reach"), "{line}: {told}");
        assert!(start.elapsed() < Duration::from_secs(8), "{line}: {:?}", start.elapsed());
    }
    for line in ["HGET thing:1 total", "HGETALL thing:1", "TTL thing:1", "EXISTS thing:1"] {
        let told = error(client.say(line).await);
        assert_eq!(told, "ERR the upstream Redis is out of reach", "{line}");
    }
    // Others go on.
    assert_eq!(client.say("HINCRBY dual:1 a 1").await, Value::Integer(2));
    assert_eq!(client.say("HGET dual:1 a").await, bulk("2"));
    stack.redis.restart().await;
    let start = Instant::now();
    wait_until("writes go on", async || !client.say("HSET thing:1 total 5").await.is_error()).await;
    assert_eq!(client.say("HGET thing:1 total").await, bulk("5"));
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    stack.flushed().await;
    assert_eq!(stack.sql_i64("select total from things").await, 5);
    stack.stop_allowing(&[], &["upstream", "Redis", "failed"]).await;
}

/// Redis with a file that has every write.
async fn durable() -> Stack {
    Stack::builder(MAPPINGS)
        .redis_arguments(&["--appendonly", "yes", "--appendfsync", "always"])
        .start()
        .await
}

#[tokio::test]
async fn what_redis_has_kept_over_a_restart_reaches_postgres_once() {
    let mut stack = durable().await;
    let second = stack.start_second_proxy().await;
    let (mut client, mut other) = (stack.client().await, Client::connect(&second).await);
    let (mut told, mut doubtful) = (0, 0);
    for _ in 0..4 {
        for client in [&mut client, &mut other] {
            for _ in 0..10 {
                match client.say("HINCRBY thing:1 total 1").await {
                    Value::Integer(total) => told = total,
                    Value::Error(text) if text.contains("may have happened") => doubtful += 1,
                    Value::Error(text) => assert!(text.contains("nothing was written"), "{text}"),
                    reply => panic!("{reply:?}"),
                }
            }
        }
        let lock = held(&stack).await;
        for number in 0..10 {
            if let Value::Integer(total) = client.say("HINCRBY thing:1 total 1").await {
                told = total;
            }
            client.say(&format!("SADD members:1 m{number}")).await;
        }
        assert_eq!(stack.redis.say("HGET thing:1 total").await, bulk(&told.to_string()));
        stack.redis.restart().await;
        let_go(lock).await;
        wait_until("Redis is believed", async || {
            client.say("HGET thing:1 total").await == bulk(&told.to_string())
        })
        .await;
    }
    assert_eq!(doubtful, 0);
    stack.flushed().await;
    assert_eq!(stack.sql_i64("select total from things").await, told);
    assert!(told >= 80, "{told}");
    assert_eq!(stack.sql_i64("select count(*) from members").await, 10);
    let (_, status, _) = stack.run(&["journal", "status"]);
    assert!(status.contains("epoch: 5\n"), "{status}");
    stack.stop_allowing(&[], &["upstream", "Redis", "failed", "journal"]).await;
}

#[tokio::test]
async fn a_redis_that_comes_back_empty_has_lost_only_what_it_alone_had() {
    let mut stack = Stack::with_mappings(MAPPINGS).await;
    let mut client = stack.client().await;
    client.say("HSET thing:1 total 10 name a").await;
    stack.flushed().await;
    let lock = held(&stack).await;
    client.say("HINCRBY thing:1 total 5").await;
    stack.redis.restart().await;
    let_go(lock).await;
    wait_until("it is read again", async || client.say("HGET thing:1 total").await == bulk("10"))
        .await;
    for number in 11..=20 {
        wait_until("it is written", async || {
            client.say(&format!("HSET thing:1 total {number}")).await == Value::Integer(0)
        })
        .await;
    }
    stack.flushed().await;
    assert_eq!(stack.sql_i64("select total from things").await, 20);
    stack.stop_allowing(&[], &["upstream", "Redis", "failed", "journal"]).await;
}

#[tokio::test]
async fn an_old_snapshot_brings_nothing_back_that_postgres_has_had() {
    let mut stack = Stack::with_mappings(MAPPINGS).await;
    let mut client = stack.client().await;
    let lock = held(&stack).await;
    client.say("HSET thing:1 total 1").await;
    client.say("HSET thing:2 total 1").await;
    // With both of them dirty.
    assert_eq!(stack.redis.say("SAVE").await, Value::Status("OK".into()));
    let_go(lock).await;
    stack.flushed().await;
    client.say("HSET thing:1 total 2").await;
    stack.flushed().await;
    stack.sql_execute("update things set total = 7 where id = 2").await;
    stack.redis.restart().await;
    assert_eq!(stack.redis.say("HGET thing:1 total").await, bulk("1"), "the snapshot is there");
    for (key, total) in [("thing:1", "2"), ("thing:2", "7")] {
        wait_until("the row counts", async || {
            client.say(&format!("HGET {key} total")).await == bulk(total)
        })
        .await;
    }
    stack.flushed().await;
    assert_eq!(
        stack.sql_text("select string_agg(total::text, ' ' order by id) from things").await,
        "2 7"
    );
    stack.stop_allowing(&[], &["upstream", "Redis", "failed", "journal"]).await;
}

#[tokio::test]
async fn a_journal_of_data_that_others_have_taken_the_place_of_is_dropped() {
    let mut stack =
        Stack::builder(MAPPINGS).redis_arguments(&["--dbfilename", "old.rdb"]).start().await;
    let mut client = stack.client().await;
    let lock = held(&stack).await;
    client.say("HSET thing:1 total 1").await;
    stack.redis.say("SAVE").await;
    stack.redis.say("CONFIG SET dbfilename other.rdb").await;
    // Another one takes its place, and others write.
    stack.redis.say("FLUSHALL").await;
    let_go(lock).await;
    wait_until("it is written", async || {
        client.say("HSET thing:1 total 2").await == Value::Integer(1)
    })
    .await;
    stack.flushed().await;
    stack.redis.restart().await;
    assert_eq!(stack.redis.say("HGET thing:1 total").await, bulk("1"), "the snapshot is there");
    wait_until("the row counts", async || client.say("HGET thing:1 total").await == bulk("2"))
        .await;
    stack.flushed().await;
    assert_eq!(stack.sql_i64("select total from things").await, 2);
    let told = "a journal of changes that belong to other data";
    stack.stop_allowing(&[told], &["upstream", "Redis", "failed", "journal"]).await;
}

#[tokio::test]
async fn the_journal_is_opened_again_when_somebody_has_emptied_redis() {
    let stack = Stack::with_mappings(MAPPINGS).await;
    let mut client = stack.client().await;
    for number in 1..=5 {
        let reply = client.say(&format!("HSET thing:1 total {number}")).await;
        assert_eq!(reply, Value::Integer(i64::from(number == 1)));
        stack.flushed().await;
        stack.redis.say("FLUSHALL").await;
    }
    assert_eq!(client.say("HGET thing:1 total").await, bulk("5"));
    stack.stop_expecting(&[]).await;
}

#[tokio::test]
async fn a_redis_out_of_memory_is_written_past() {
    let stack = Stack::with_mappings(MAPPINGS).await;
    let mut client = stack.client().await;
    client.say("HSET thing:1 total 1").await;
    stack.redis.say("CONFIG SET maxmemory 1").await;
    assert_eq!(client.say("HINCRBY thing:1 total 1").await, Value::Integer(2));
    assert_eq!(stack.sql_i64("select total from things").await, 2);
    stack.redis.say("CONFIG SET maxmemory 0").await;
    assert_eq!(client.say("HINCRBY thing:1 total 1").await, Value::Integer(3));
    stack.flushed().await;
    assert_eq!(stack.sql_i64("select total from things").await, 3);
    stack.stop_expecting(&[]).await;
}
