//! A store that is gone: who still answers, what is refused, and how soon all is well again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::stack::{Builder, Client, Cluster, Stack, Value, resp, wait_until};

const MAPPINGS: &str = r#"
[[mapping]]
name = "dual"
key = "dual:{id:int}"
table = "dual"
extra = "extra"

[[mapping]]
name = "first"
key = "first:{id:int}"
table = "first"
extra = "extra"
strategy = "database_first"

[[mapping]]
name = "only"
key = "only:{id:int}"
table = "only"
extra = "extra"
strategy = "postgres_only"
"#;

const NAMES: [&str; 3] = ["dual", "first", "only"];

/// Far more than "at once" takes on a machine that is slow; far less than the timeouts of these tests.
const AT_ONCE: Duration = Duration::from_secs(5);

/// As soon as a store is back that is tried again every other second, on such a machine.
const SOON: Duration = Duration::from_secs(10);

/// Of a Redis that hangs.
const TIMEOUT: Duration = Duration::from_secs(3);

/// With timeouts that nobody is to wait for.
fn builder() -> Builder {
    Stack::builder(MAPPINGS)
        .set("RESPGRES__UPSTREAM__CONNECT_TIMEOUT", "20s")
        .set("RESPGRES__UPSTREAM__REQUEST_TIMEOUT", "20s")
        .set("RESPGRES__POSTGRES__CONNECT_TIMEOUT", "20s")
        .set("RESPGRES__POSTGRES__STATEMENT_TIMEOUT", "20s")
}

/// Every reply comes at once, whatever is broken.
async fn say(client: &mut Client, line: &str) -> Value {
    let start = Instant::now();
    let reply = client.say(line).await;
    assert!(start.elapsed() < AT_ONCE, "{line}: {:?}", start.elapsed());
    reply
}

async fn error(client: &mut Client, line: &str) -> String {
    match say(client, line).await {
        Value::Error(text) => text,
        other => panic!("{line}: {other:?}"),
    }
}

fn one() -> Value {
    Value::Bulk(b"1".to_vec())
}

#[tokio::test]
async fn without_postgres_copies_are_read_and_nothing_is_written() {
    let cluster = Arc::new(Cluster::start(false).await);
    let stack = builder().cluster(Arc::clone(&cluster)).start().await;
    let mut client = stack.client().await;
    for name in NAMES {
        client.say(&format!("HSET {name}:1 a 1 b 2")).await;
        wait_until("a copy is there", async || {
            client.say(&format!("HGET {name}:1 nothing")).await;
            let copies = stack.redis.say(&format!("EXISTS {name}:1")).await;
            name == "only" || copies == Value::Integer(1)
        })
        .await;
        client.say(&format!("EXISTS {name}:2")).await;
    }
    cluster.kill();
    for name in ["dual", "first"] {
        assert_eq!(say(&mut client, &format!("HGET {name}:1 a")).await, one());
        assert_eq!(say(&mut client, &format!("HLEN {name}:1")).await, Value::Integer(2));
        assert_eq!(say(&mut client, &format!("HGET {name}:1 nothing")).await, Value::NilBulk);
        // Known to be absent.
        assert_eq!(say(&mut client, &format!("EXISTS {name}:2")).await, Value::Integer(0));
    }
    assert_eq!(say(&mut client, "EXISTS dual:1 first:1 dual:2 other").await, Value::Integer(2));
    // One batch: TTL, which only Postgres tells, does not spoil what Redis tells.
    let commands =
        ["TTL dual:1", "HGET dual:1 nothing", "TTL first:1", "HGET first:1 a"].map(resp::arguments);
    let replies = client.pipeline(&commands).await;
    assert!(replies[0].is_error() && replies[2].is_error(), "{replies:?}");
    assert_eq!((&replies[1], &replies[3]), (&Value::NilBulk, &one()));
    for line in ["HGET dual:3 a", "HGET first:3 a", "HGET only:1 a", "PTTL dual:1"] {
        assert_eq!(error(&mut client, line).await, "ERR Postgres is out of reach", "{line}");
    }
    for name in NAMES {
        for line in [format!("HSET {name}:1 a 9"), format!("DEL {name}:1")] {
            let text = error(&mut client, &line).await;
            assert_eq!(text, "ERR Postgres is out of reach; nothing was written", "{line}");
        }
    }
    assert_eq!(say(&mut client, "HGET dual:1 a").await, one());
    assert_eq!(say(&mut client, "SET unmapped 1").await, Value::Status("OK".into()));

    cluster.restart().await;
    let start = Instant::now();
    for name in NAMES {
        wait_until("writes go on", async || {
            !client.say(&format!("HSET {name}:1 a 3")).await.is_error()
        })
        .await;
        let read = say(&mut client, &format!("HGET {name}:1 a")).await;
        assert_eq!(read, Value::Bulk(b"3".to_vec()));
    }
    assert!(start.elapsed() < SOON, "{:?}", start.elapsed());
    stack.stop_expecting(&["Postgres is lost"]).await;
}

#[tokio::test]
async fn without_redis_postgres_does_it_all() {
    let mut stack = builder().start().await;
    let mut client = stack.client().await;
    for name in NAMES {
        client.say(&format!("HSET {name}:1 a 1")).await;
        client.say(&format!("HGET {name}:1 a")).await;
    }
    stack.redis.kill();
    for name in NAMES {
        assert_eq!(say(&mut client, &format!("HGET {name}:1 a")).await, one());
        assert_eq!(say(&mut client, &format!("EXISTS {name}:2")).await, Value::Integer(0));
        assert_eq!(say(&mut client, &format!("TTL {name}:1")).await, Value::Integer(-1));
        let written = say(&mut client, &format!("HINCRBY {name}:1 a 8")).await;
        assert_eq!(written, Value::Integer(9));
        let read = say(&mut client, &format!("HGET {name}:1 a")).await;
        assert_eq!(read, Value::Bulk(b"9".to_vec()));
        assert_eq!(stack.sql_text(&format!("select extra ->> 'a' from \"{name}\"")).await, "9");
    }
    assert!(error(&mut client, "GET unmapped").await.contains("upstream Redis"));
    assert!(error(&mut client, "EXISTS dual:1 unmapped").await.contains("upstream Redis"));
    let told = error(&mut client, "DEL dual:1 unmapped").await;
    assert_eq!(
        told,
        "ERR the upstream Redis is out of reach; a part of the write may have happened"
    );

    stack.redis.restart().await;
    let start = Instant::now();
    assert_eq!(client.say("HSET dual:1 a 3").await, Value::Integer(1));
    wait_until("copies are used again", async || {
        client.say("HGET dual:1 a").await;
        stack.redis.say("EXISTS dual:1").await == Value::Integer(1)
    })
    .await;
    assert!(start.elapsed() < SOON, "{:?}", start.elapsed());
    stack.stop_expecting(&["upstream"]).await;
}

#[tokio::test]
async fn a_redis_that_starts_again_costs_no_write() {
    let mut stack = Stack::with_mappings(MAPPINGS).await;
    let mut client = stack.client().await;
    for turn in 0..5 {
        assert_eq!(client.say("HINCRBY dual:1 n 1").await, Value::Integer(2 * turn + 1));
        // The connections of the workers are dead, and they do not know it.
        stack.redis.restart().await;
        assert_eq!(client.say("HINCRBY dual:1 n 1").await, Value::Integer(2 * turn + 2));
        stack.redis.say("SCRIPT FLUSH").await;
        stack.redis.say("CLIENT KILL TYPE normal").await;
    }
    let expected = Value::Bulk(b"10".to_vec());
    wait_until("reads go on", async || client.say("HGET dual:1 n").await == expected).await;
    stack.stop_allowing(&[], &["upstream Redis"]).await;
}

#[tokio::test]
async fn without_both_errors_come_at_once() {
    let cluster = Arc::new(Cluster::start(false).await);
    let mut stack = builder().cluster(Arc::clone(&cluster)).start().await;
    let mut client = stack.client().await;
    client.say("HSET dual:1 a 1").await;
    cluster.kill();
    stack.redis.kill();
    for name in NAMES {
        for line in
            [format!("HGET {name}:1 a"), format!("EXISTS {name}:1"), format!("TTL {name}:1")]
        {
            let text = error(&mut client, &line).await;
            assert!(text.contains(" Postgres is out of reach"), "{line}: {text}");
        }
        let text = error(&mut client, &format!("HSET {name}:1 a 1")).await;
        assert!(text.ends_with("; nothing was written"), "{text}");
        assert!(text.contains("out of reach"), "{text}");
    }
    cluster.restart().await;
    stack.redis.restart().await;
    let start = Instant::now();
    wait_until("all is well", async || !client.say("HSET dual:1 a 2").await.is_error()).await;
    wait_until("all is well", async || {
        client.say("HGET dual:1 a").await == Value::Bulk(b"2".to_vec())
    })
    .await;
    assert!(start.elapsed() < SOON, "{:?}", start.elapsed());
    stack.stop_allowing(&["upstream", "Postgres is lost"], &["failed"]).await;
}

#[tokio::test]
async fn a_redis_that_hangs_is_given_up() {
    let stack = Stack::builder(MAPPINGS)
        .set("RESPGRES__UPSTREAM__CONNECT_TIMEOUT", "3s")
        .set("RESPGRES__UPSTREAM__REQUEST_TIMEOUT", "3s")
        .start()
        .await;
    let mut client = stack.client().await;
    client.say("HSET first:1 a 1").await;
    client.say("HGET first:1 a").await;
    client.say("HSET dual:1 a 1").await;
    wait_until("a copy is there", async || {
        client.say("HGET dual:1 a").await;
        stack.redis.say("HGET dual:1 a").await == one()
    })
    .await;
    stack.redis.process().signal("STOP");
    let start = Instant::now();
    for value in 2..5 {
        assert_eq!(client.say("HGET first:1 a").await, one());
        assert_eq!(client.say("EXISTS dual:1 first:1").await, Value::Integer(2));
        assert_eq!(client.say("HINCRBY dual:1 a 1").await, Value::Integer(value));
    }
    // One of them has waited for a timeout, and none of the others.
    assert!(start.elapsed() < 2 * TIMEOUT, "{:?}", start.elapsed());
    assert_eq!(stack.sql_text("select extra ->> 'a' from dual").await, "4");
    stack.redis.process().signal("CONT");
    let start = Instant::now();
    // The copy that Redis has had all the time is not seen by anybody.
    assert_eq!(client.say("HGET dual:1 a").await, Value::Bulk(b"4".to_vec()));
    let expected = Value::Bulk(b"4".to_vec());
    wait_until("the copy is a new one", async || {
        client.say("HGET dual:1 a").await;
        stack.redis.say("HGET dual:1 a").await == expected
    })
    .await;
    assert!(start.elapsed() < SOON, "{:?}", start.elapsed());
    assert_eq!(stack.sql_i64("select count(*) from respgres.outbox").await, 0);
    stack.stop_allowing(&[], &["mapped keys are read from Postgres alone"]).await;
}

#[tokio::test]
async fn what_a_redis_that_hangs_has_cached_is_read_from_postgres() {
    let stack = Stack::builder(MAPPINGS)
        .set("RESPGRES__UPSTREAM__CONNECT_TIMEOUT", "300ms")
        .set("RESPGRES__UPSTREAM__REQUEST_TIMEOUT", "500ms")
        .set("RESPGRES__UPSTREAM__SILENCE_TIMEOUT", "400ms")
        .start()
        .await;
    let mut client = stack.client().await;
    client.say("HSET dual:1 a 1").await;
    wait_until("the copy is there", async || client.say("HGET dual:1 a").await == one()).await;
    stack.redis.process().signal("STOP");
    // The connection of the hits is given up, and Postgres knows the key too.
    assert_eq!(client.say("HGET dual:1 a").await, one());
    stack.redis.process().signal("CONT");
    wait_until("writes go on", async || !client.say("HSET dual:1 a 3").await.is_error()).await;
    assert_eq!(client.say("HGET dual:1 a").await, Value::Bulk(b"3".to_vec()));
    stack.stop_expecting(&["upstream"]).await;
}
