//! The key's own expiry and the life of its cached copy.

use std::time::{Duration, Instant};

use crate::stack::{Client, Stack, Value, resp, talk, wait_until};

const MAPPINGS: &str = r#"
[defaults]
cache_ttl = "60s"
[[mapping]]
name = "column"
key = "column:{id:int}"
table = "with_column"
extra = "extra"
expires_at = "expires_at"

[[mapping]]
name = "table"
key = "table:{id:int}"
table = "without_column"
extra = "extra"
"#;

#[tokio::test]
async fn a_copy_ends_with_its_key_or_before() {
    let stack = Stack::with_mappings(MAPPINGS).await;
    let mut client = stack.client().await;
    let mut redis = Client::connect(&stack.redis).await;
    for name in ["column:1", "table:1"] {
        client.say(&format!("HSET {name} a 1")).await;
        client.say(&format!("PEXPIRE {name} 60000")).await;
        // Once by a fill, once by a writer's end.
        let since = Instant::now();
        for refresh in ["HGET", "HSET"] {
            assert_eq!(client.say(&format!("HGET {name} a")).await, Value::Bulk(b"1".to_vec()));
            if refresh == "HSET" {
                client.say(&format!("HSET {name} a 1")).await;
            }
            wait_until("there is a copy", async || {
                redis.say(&format!("EXISTS {name}")).await == Value::Integer(1)
            })
            .await;
            // Redis and Postgres share the machine's clock here.
            let copy = redis.say(&format!("PEXPIRETIME {name}")).await.integer();
            let key = client.say(&format!("PEXPIRETIME {name}")).await.integer();
            assert!(copy <= key, "{name} {refresh}: the copy {} ms longer", copy - key);
            // By what it took to make it, at most.
            let took_ms = i64::try_from(since.elapsed().as_millis()).unwrap();
            let shorter_ms = key - copy;
            assert!(shorter_ms <= took_ms + 10, "{name} {refresh}: {shorter_ms} in {took_ms} ms");
        }
        assert_eq!(client.say(&format!("PEXPIRE {name} 300")).await, Value::Integer(1));
        wait_until("it is over", async || {
            client.say(&format!("HGET {name} a")).await == Value::NilBulk
        })
        .await;
        assert_eq!(client.say(&format!("EXISTS {name}")).await, Value::Integer(0));
        assert_eq!(client.say(&format!("HSET {name} b 2")).await, Value::Integer(1));
        assert_eq!(client.say(&format!("TTL {name}")).await, Value::Integer(-1));
        let all = client.say(&format!("HGETALL {name}")).await.lines().join(" ");
        assert_eq!(all, "*2   \"b\"   \"2\"");
    }
    stack.stop_expecting(&[]).await;
}

#[tokio::test]
async fn a_stay_that_is_made_longer_or_endless_outlives_the_old_copy() {
    let stack = Stack::with_mappings(MAPPINGS).await;
    let mut redis = Client::connect(&stack.redis).await;
    let mut client = stack.client().await;
    let names = ["column:1", "table:1"];
    for name in names {
        client.say(&format!("HSET {name} a 1")).await;
        client.say(&format!("PEXPIRE {name} 4000")).await;
        client.say(&format!("HGET {name} a")).await;
        assert_eq!(client.say(&format!("PERSIST {name}")).await, Value::Integer(1));
    }
    tokio::time::sleep(Duration::from_millis(4100)).await;
    for name in names {
        assert_eq!(client.say(&format!("HGET {name} a")).await, Value::Bulk(b"1".to_vec()));
        wait_until("there is a copy", async || {
            redis.say(&format!("PTTL {name}")).await.integer() > 50_000
        })
        .await;
    }
    stack.stop_expecting(&[]).await;
}

#[tokio::test]
async fn expiries_deletes_and_sets_in_one_batch_are_done_in_order() {
    let stack = Stack::with_mappings(MAPPINGS).await;
    for name in ["column:1", "table:1"] {
        let mut client = stack.client().await;
        client.say(&format!("HSET {name} old 1 a 0")).await;
        let lines = [
            ("PEXPIRE K 50000", ":1"),
            ("HSET K a 1", ":0"),
            ("PERSIST K", ":1"),
            ("PERSIST K", ":0"),
            ("EXPIRE K 100 NX", ":1"),
            ("DEL K", ":1"),
            ("EXPIRE K 100", ":0"),
            ("HSET K b 2", ":1"),
            ("PERSIST K", ":0"),
            ("EXPIRE K 500", ":1"),
            ("HINCRBY K b 5", ":7"),
            ("EXPIRE K -1", ":1"),
            ("HINCRBY K b 5", ":5"),
            ("PEXPIREAT K 99999999999999", ":1"),
            ("HDEL K b", ":1"),
            ("HSETNX K c 3", ":1"),
        ];
        let commands: Vec<_> =
            lines.iter().map(|(line, _)| resp::arguments(&line.replace('K', name))).collect();
        let replies = client.pipeline(&commands).await;
        for ((line, expected), reply) in lines.iter().zip(&replies) {
            assert_eq!(reply.lines().join(" "), *expected, "{name}: {line}");
        }
        talk(
            &stack,
            &format!(
                "
                > HGETALL {name}
                *2
                  \"c\"
                  \"3\"
                > PTTL {name}
                :-1
                "
            ),
        )
        .await;
    }
    assert_eq!(stack.sql_i64("select count(*) from respgres.expiry").await, 0);
    stack.stop_expecting(&[]).await;
}

#[tokio::test]
async fn a_hash_of_very_many_fields_is_asked_for_and_cached() {
    let stack = Stack::with_mappings(MAPPINGS).await;
    let mut client = stack.client().await;
    let mut set = vec!["HSET".to_owned(), "table:9".to_owned()];
    let mut get = vec!["HMGET".to_owned(), "table:9".to_owned()];
    for field in 0..12_000 {
        set.extend([format!("f{field}"), "1".to_owned()]);
        get.push(format!("absent{field}"));
    }
    assert_eq!(client.command(&set).await, Value::Integer(12_000));
    let mut redis = Client::connect(&stack.redis).await;
    for _ in 0..2 {
        // Nil for all: Redis is asked whether the key is there at all.
        let reply = client.command(&get).await;
        assert!(reply.elements().iter().all(|value| *value == Value::NilBulk));
        wait_until("there is a copy", async || {
            redis.say("HLEN table:9").await == Value::Integer(12_000)
        })
        .await;
    }
    stack.stop_expecting(&[]).await;
}
