//! A Redis that comes back with other data, or whose copies somebody has made old: nobody is told what is
//! not true any more.

use crate::stack::{Client, Redis, Stack, Value, wait_until};

const MAPPINGS: &str = r#"
[[mapping]]
name = "dual"
key = "dual:{id:int}"
table = "dual"
extra = "extra"

[[mapping]]
name = "members"
key = "members:{id:int}"
kind = "set"
table = "members"
member = "member"
"#;

fn bulk(text: &str) -> Value {
    Value::Bulk(text.as_bytes().to_vec())
}

/// Reads until Redis has a copy.
async fn cache(stack: &Stack, client: &mut Client, read: &str, key: &str) {
    wait_until("a copy is there", async || {
        client.say(read).await;
        stack.redis.say(&format!("EXISTS {key}")).await == Value::Integer(1)
    })
    .await;
}

#[tokio::test]
async fn an_old_snapshot_is_not_believed() {
    let mut stack = Stack::with_mappings(MAPPINGS).await;
    let second = stack.start_second_proxy().await;
    let (mut client, mut other) = (stack.client().await, Client::connect(&second).await);
    for number in 1..=3 {
        client.say(&format!("HSET dual:{number} a old")).await;
        cache(&stack, &mut client, &format!("HGETALL dual:{number}"), &format!("dual:{number}"))
            .await;
    }
    client.say("SADD members:1 a").await;
    cache(&stack, &mut client, "SMEMBERS members:1", "members:1").await;
    stack.redis.say("SET unmapped here").await;
    assert_eq!(stack.redis.say("SAVE").await, Value::Status("OK".into()));
    client.say("HSET dual:1 a new").await;
    client.say("DEL dual:2").await;
    client.say("SADD members:1 b").await;

    stack.redis.restart().await;
    assert_eq!(stack.redis.say("HGET dual:1 a").await, bulk("old"), "the snapshot is there");
    for client in [&mut other, &mut client] {
        assert_eq!(client.say("HGET dual:1 a").await, bulk("new"));
        assert_eq!(client.say("EXISTS dual:2").await, Value::Integer(0));
        assert_eq!(client.say("HGET dual:3 a").await, bulk("old"));
        assert_eq!(client.say("SCARD members:1").await, Value::Integer(2));
    }
    wait_until("old copies are gone", async || {
        stack.redis.say("EXISTS dual:2").await == Value::Integer(0)
            && stack.redis.say("HGET dual:1 a").await != bulk("old")
    })
    .await;
    for client in [&mut other, &mut client] {
        cache(&stack, client, "HGETALL dual:1", "dual:1").await;
        assert_eq!(client.say("HGET dual:1 a").await, bulk("new"));
    }
    // Mapped keys are answered before the clients' own connection to Redis is back.
    wait_until("unmapped keys are there again", async || {
        client.say("GET unmapped").await == bulk("here")
    })
    .await;
    stack.stop_allowing(&["upstream lost"], &["mapped keys are read", "upstream down"]).await;
}

#[tokio::test]
async fn a_write_while_an_old_snapshot_is_gone_through_is_not_undone() {
    let mut stack = Stack::with_mappings(MAPPINGS).await;
    let mut client = stack.client().await;
    for turn in 0..5 {
        client.say("HSET dual:1 n 0").await;
        cache(&stack, &mut client, "HGETALL dual:1", "dual:1").await;
        stack.redis.say("SAVE").await;
        client.say("HSET dual:1 n 10").await;
        stack.redis.restart().await;
        // The writer may be the first to meet the other Redis.
        for increment in 1..=20 {
            assert_eq!(
                client.say("HINCRBY dual:1 n 1").await,
                Value::Integer(10 + increment),
                "{turn}"
            );
            assert_eq!(client.say("HGET dual:1 n").await, bulk(&(10 + increment).to_string()));
        }
    }
    stack.stop_allowing(&["upstream lost"], &["mapped keys are read", "upstream down"]).await;
}

#[tokio::test]
async fn what_only_redis_has_is_not_dropped() {
    let mut stack = Stack::with_mappings(MAPPINGS).await;
    let mut client = stack.client().await;
    client.say("HSET dual:1 a 1").await;
    cache(&stack, &mut client, "HGETALL dual:1", "dual:1").await;
    stack.redis.say("PERSIST dual:1").await;
    stack.redis.say("HSET dual:2 a from-before").await;
    stack.redis.say("SAVE").await;
    client.say("HSET dual:1 a 2").await;
    stack.redis.restart().await;
    assert_eq!(client.say("HGET dual:1 a").await, bulk("2"));
    wait_until("what has a row is gone", async || {
        stack.redis.say("HGET dual:1 a").await != bulk("1")
    })
    .await;
    assert_eq!(stack.redis.say("HGET dual:2 a").await, bulk("from-before"));
    wait_until("Redis is believed", async || {
        client.say("HGET dual:2 a").await == bulk("from-before")
    })
    .await;
    stack.stop_allowing(&["upstream lost"], &["mapped keys are read", "upstream down"]).await;
}

#[tokio::test]
async fn a_failover_that_leaves_connections_open_is_noticed() {
    let stack = Stack::with_mappings(MAPPINGS).await;
    let mut client = stack.client().await;
    client.say("HSET dual:1 n 0").await;
    cache(&stack, &mut client, "HGETALL dual:1", "dual:1").await;
    let promoted = Redis::start().await;
    let mut before = Client::connect(&stack.redis).await;
    stack.redis.give_place_to(&promoted);
    before.say("REPLICAOF localhost 1").await;
    // The old one refuses what writers say to it.
    for number in 1..=20 {
        assert_eq!(client.say("HINCRBY dual:1 n 1").await, Value::Integer(number));
        assert_eq!(client.say("HGET dual:1 n").await, bulk(&number.to_string()));
    }
    wait_until("the new one gets copies", async || {
        client.say("HGET dual:1 n").await;
        promoted.say("HGET dual:1 n").await == bulk("20")
    })
    .await;
    let first = stack.sql_i64("select nextval('respgres.outbox_id_seq')").await;
    assert_eq!(client.say("HINCRBY dual:1 n 1").await, Value::Integer(21));
    let next = stack.sql_i64("select nextval('respgres.outbox_id_seq')").await;
    assert_eq!(next, first + 1, "nothing goes past the new one");
    stack.stop_allowing(&[], &["mapped keys are read"]).await;
}

#[tokio::test]
async fn two_proxies_do_not_go_on_with_a_redis_each() {
    let stack = Stack::with_mappings(MAPPINGS).await;
    let mut client = stack.client().await;
    client.say("HSET dual:1 n 0").await;
    cache(&stack, &mut client, "HGETALL dual:1", "dual:1").await;
    let promoted = Redis::start().await;
    stack.redis.give_place_to(&promoted);
    let second = stack.start_second_proxy().await;
    let mut other = Client::connect(&second).await;
    wait_until("the first proxy has noticed", async || {
        other.say("HINCRBY dual:1 n 1").await;
        let Value::Bulk(new) = other.say("HGET dual:1 n").await else { panic!("no value") };
        client.say("HGET dual:1 n").await == Value::Bulk(new)
    })
    .await;
    for number in 1000..1020 {
        client.say(&format!("HSET dual:1 n {number}")).await;
        assert_eq!(other.say("HGET dual:1 n").await, bulk(&number.to_string()));
        other.say(&format!("HSET dual:1 n -{number}")).await;
        assert_eq!(client.say("HGET dual:1 n").await, bulk(&format!("-{number}")));
    }
    stack
        .stop_allowing(&["another respgres has met another Redis"], &["mapped keys are read"])
        .await;
}

#[tokio::test]
async fn copies_from_before_the_first_start_are_not_believed() {
    let stack = Stack::with_mappings(MAPPINGS).await;
    let mut client = stack.client().await;
    client.say("HSET dual:1 a new").await;
    // As if the database had been restored, or were another one.
    stack.sql_execute("delete from respgres.control where name = 'redis'").await;
    stack.redis.say("DEL dual:1").await;
    stack.redis.say("HSET dual:1 a old").await;
    stack.redis.say("PEXPIRE dual:1 600000").await;
    client.say("SADD members:1 new").await;
    stack.redis.say("DEL members:1").await;
    stack.redis.say("SADD members:1 old").await;
    // Nobody has brought this to Postgres yet.
    stack.redis.say("SADD members:2 only-here").await;
    stack.redis.say("HSET dual:2 a only-here").await;
    stack.redis.say("PEXPIRE dual:2 600000").await;
    let second = stack.start_second_proxy().await;
    let mut other = Client::connect(&second).await;
    wait_until("the copy is gone", async || other.say("HGET dual:1 a").await == bulk("new")).await;
    wait_until("the copy is gone", async || {
        other.say("SISMEMBER members:1 new").await == Value::Integer(1)
    })
    .await;
    assert_eq!(stack.redis.say("HGET dual:2 a").await, bulk("only-here"));
    assert_eq!(stack.redis.say("SCARD members:2").await, Value::Integer(1));
    stack.stop_allowing(&[], &["another respgres has met", "mapped keys are read"]).await;
}
