//! A store that is gone, full or slow; and what is too much to lend.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::alike::MAPPINGS;
use crate::stack::{Client, Cluster, Stack, Value, talk, wait_until};

/// Sets an unmapped key, changes a mapped one, and takes a second or so.
const SLOW_SCRIPT: &str = "EVAL \"redis.call('SET', KEYS[2], 1) redis.call('HSET', KEYS[1], 'size', \
    2) local start = redis.call('TIME') local now = start while now[1] - start[1] < 2 do now = \
    redis.call('TIME') end return 1\" 2 thing:1 plain";

fn text(reply: Value) -> String {
    match reply {
        Value::Error(text) => text,
        other => panic!("not an error: {other:?}"),
    }
}

#[tokio::test]
async fn without_a_store_nothing_is_written() {
    let cluster = Arc::new(Cluster::start(false).await);
    let mut stack = Stack::builder(MAPPINGS).cluster(Arc::clone(&cluster)).start().await;
    let mut client = stack.client().await;
    client.say("HSET thing:1 size 1").await;
    let scripts = ["EVAL \"return redis.call('HSET', KEYS[1], 'size', 9)\" 1 thing:1", SLOW_SCRIPT];
    cluster.kill();
    for script in scripts {
        let told = text(client.say(script).await);
        assert_eq!(told, "ERR Postgres is out of reach; nothing was written");
    }
    assert_eq!(text(client.say("GET thing:1").await), "ERR Postgres is out of reach");
    assert_eq!(text(client.say("WATCH thing:1").await), "ERR Postgres is out of reach");
    assert_eq!(client.say("EXISTS plain").await, Value::Integer(0));
    cluster.restart().await;
    wait_until("Postgres is back", async || !client.say("DBSIZE").await.is_error()).await;
    wait_until("Redis is known not to be ahead", async || {
        let told = client.say("INFO respgres").await;
        String::from_utf8_lossy(told.bytes().unwrap()).contains("respgres_postgres:up")
    })
    .await;
    stack.redis.kill();
    for script in scripts {
        let told = text(client.say(script).await);
        assert_eq!(told, "ERR the upstream Redis is out of reach; nothing was written");
    }
    let told = text(client.say("GET thing:1").await);
    assert_eq!(told, "ERR the upstream Redis is out of reach");
    // Postgres still knows.
    assert_eq!(client.say("HGET thing:1 size").await, Value::Bulk(b"1".to_vec()));
    stack.redis.restart().await;
    wait_until("loans go on", async || !client.say(scripts[0]).await.is_error()).await;
    assert_eq!(client.say("HGET thing:1 size").await, Value::Bulk(b"9".to_vec()));
    let allowed = ["Postgres is lost", "failed", "watched", "upstream"];
    stack.stop_allowing(&[], &allowed).await;
}

#[tokio::test]
async fn a_redis_that_dies_during_the_step_leaves_postgres_as_it_was() {
    let mut stack =
        Stack::builder(MAPPINGS).redis_arguments(&["--busy-reply-threshold", "50"]).start().await;
    let mut client = stack.client().await;
    client.say("HSET thing:1 size 1").await;
    let mut writer = stack.client().await;
    let running = tokio::spawn(async move { writer.say(SLOW_SCRIPT).await });
    wait_until("the script runs", async || stack.redis.say("PING").await.is_error()).await;
    stack.redis.kill();
    let told = text(running.await.unwrap());
    assert_eq!(
        told,
        "ERR the upstream Redis is out of reach; a part of the write may have happened"
    );
    assert_eq!(stack.sql_i64("select size from things").await, 1);
    stack.redis.restart().await;
    wait_until("loans go on", async || !client.say(SLOW_SCRIPT).await.is_error()).await;
    assert_eq!(stack.sql_i64("select size from things").await, 2);
    stack.stop_expecting(&["failed", "upstream"]).await;
}

#[tokio::test]
async fn a_postgres_that_dies_during_the_step_undoes_it() {
    let cluster = Arc::new(Cluster::start(false).await);
    let stack = Stack::builder(MAPPINGS)
        .cluster(Arc::clone(&cluster))
        .redis_arguments(&["--busy-reply-threshold", "50"])
        .start()
        .await;
    let mut client = stack.client().await;
    client.say("HSET thing:1 size 1").await;
    let mut writer = stack.client().await;
    let running = tokio::spawn(async move { writer.say(SLOW_SCRIPT).await });
    wait_until("the script runs", async || stack.redis.say("PING").await.is_error()).await;
    cluster.kill();
    let told = text(running.await.unwrap());
    assert_eq!(told, "ERR Postgres is out of reach; nothing was written");
    assert_eq!(client.say("EXISTS plain").await, Value::Integer(0));
    cluster.restart().await;
    wait_until("loans go on", async || {
        client.say("HGET thing:1 size").await == Value::Bulk(b"1".to_vec())
    })
    .await;
    stack.stop_allowing(&[], &["Postgres is lost", "failed"]).await;
}

#[tokio::test]
async fn a_redis_without_memory_says_so() {
    let stack = Stack::with_mappings(MAPPINGS).await;
    let mut client = stack.client().await;
    client.say("HSET thing:1 size 1").await;
    stack.redis.say("CONFIG SET maxmemory 1").await;
    let told = text(client.say("EVAL \"return redis.call('DEL', KEYS[1])\" 1 thing:1").await);
    assert!(told.starts_with("OOM command not allowed"), "{told}");
    client.say("MULTI").await;
    assert!(text(client.say("HSET thing:1 size 2").await).starts_with("OOM "));
    assert!(text(client.say("EXEC").await).starts_with("EXECABORT "));
    assert_eq!(stack.sql_i64("select size from things").await, 1);
    stack.redis.say("CONFIG SET maxmemory 0").await;
    let deleted = client.say("EVAL \"return redis.call('DEL', KEYS[1])\" 1 thing:1").await;
    assert_eq!(deleted, Value::Integer(1));
    stack.stop_expecting(&[]).await;
}

/// After the first time, loans of a table that does not answer are told so sooner.
#[tokio::test]
async fn a_table_that_does_not_answer_holds_up_no_lender_for_long() {
    let stack =
        Stack::builder(MAPPINGS).set("RESPGRES__POSTGRES__STATEMENT_TIMEOUT", "6s").start().await;
    let mut session = stack.database().cluster.connect(&stack.database().name).await;
    sqlx::Executor::execute(&mut session, "begin; lock table things").await.unwrap();
    let mut lenders = Vec::new();
    for _ in 0..4 {
        let mut client = stack.client().await;
        lenders.push(tokio::spawn(async move { client.say("OBJECT ENCODING thing:1").await }));
    }
    for lender in lenders {
        assert_eq!(text(lender.await.unwrap()), "ERR Postgres did not answer in time");
    }
    let start = Instant::now();
    let mut client = stack.client().await;
    let told = text(client.say("OBJECT ENCODING thing:1").await);
    assert_eq!(told, "ERR Postgres did not answer in time");
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    sqlx::Executor::execute(&mut session, "rollback").await.unwrap();
    assert_eq!(client.say("OBJECT ENCODING thing:1").await, Value::NilBulk);
    stack.stop_expecting(&["a loan failed"]).await;
}

#[tokio::test]
async fn too_much_is_not_lent() {
    let stack = Stack::with_mappings(MAPPINGS).await;
    let mut client = stack.client().await;
    stack.sql_execute("insert into things (id, name) values (1, repeat('x', 70000000))").await;
    for line in ["RENAME thing:1 thing:2", "OBJECT ENCODING thing:1"] {
        assert_eq!(
            text(client.say(line).await),
            "ERR the values of the mapped keys take more than 64 MiB, which is not lent to Redis; \
             nothing was written"
        );
    }
    client.say("SETRANGE large 70000000 x").await;
    assert_eq!(
        text(client.say("EVAL \"return redis.call('DEL', KEYS[2])\" 2 thing:2 large").await),
        "ERR the keys that are not mapped take more than 64 MiB, which could not be put back if \
         Postgres refused; nothing was written"
    );
    assert_eq!(client.say("EXISTS large").await, Value::Integer(1));
    stack.stop_expecting(&[]).await;
}

/// Postgres ends transactions that say nothing for 15 seconds.
#[tokio::test]
async fn a_step_that_has_to_wait_for_long_is_waited_for() {
    let stack =
        Stack::builder(MAPPINGS).set("RESPGRES__DEFAULTS__STRATEGY", "postgres_only").start().await;
    let mut client = stack.client().await;
    client.say("HSET thing:1 size 1").await;
    let start = Instant::now();
    stack.redis.say("CLIENT PAUSE 17000 WRITE").await;
    let reply = client.say("EVAL \"return redis.call('HINCRBY', KEYS[1], 'size', 4)\" 1 thing:1");
    assert_eq!(reply.await, Value::Integer(5));
    assert!(start.elapsed() > Duration::from_secs(16), "{:?}", start.elapsed());
    assert_eq!(stack.sql_i64("select size from things").await, 5);
    stack.stop_expecting(&[]).await;
}

#[tokio::test]
async fn nothing_comes_from_another_database_into_mapped_keys() {
    let stack = Stack::with_mappings(MAPPINGS).await;
    talk(
        &stack,
        "
        > SELECT 1
        +OK
        > HSET thing:1 size 1
        :1
        > MOVE thing:1 0
        -ERR 'move' is refused for keys of mapping 'things': it comes from another database
        > COPY thing:1 thing:2 DB 0
        -ERR 'copy' is refused for keys of mapping 'things': it comes from another database
        > COPY thing:1 thing:2 DB 2
        :1
        > COPY thing:1 plain DB 0
        :1
        # Watched here, changed there.
        > SELECT 0
        +OK
        > WATCH thing:3
        +OK
        b> HSET thing:3 size 1
        :1
        > SELECT 1
        +OK
        > MULTI
        +OK
        > SET plain 1
        +QUEUED
        > EXEC
        *-1
        > EXISTS plain
        :0
        > SELECT 0
        +OK
        > WATCH thing:3 here
        +OK
        > SELECT 1
        +OK
        > MULTI
        +OK
        > SET plain 1
        +QUEUED
        > EXEC
        *1
          +OK
        > EXISTS plain
        :1
        ",
    )
    .await;
    let mut redis = Client::connect(&stack.redis).await;
    assert_eq!(redis.say("EXISTS thing:1 thing:2").await, Value::Integer(0));
    stack.stop_expecting(&[]).await;
}
