//! MULTI, EXEC and WATCH with mapped keys.

use crate::alike::same;
use crate::stack::{Client, Stack, Value, talk};

#[tokio::test]
async fn transactions_are_as_in_redis() {
    same(
        "
        > HSET thing:1 name one size 1
        > MULTI
        > HINCRBY thing:1 size 4
        > SET plain 1
        > HGETALL thing:1
        > SADD tags:a x y
        > SCARD tags:a
        > EXEC
        > MULTI
        > SET plain 2
        > HINCRBY thing:1 name 1
        > INCR plain
        > GET thing:1
        > HGET thing:1 size
        > EXEC
        > MULTI
        > HSET thing:1 size
        > SET plain 9
        > EXEC
        > MULTI
        > HSET thing:1 size 9
        > NOSUCH command
        > EXEC
        > MULTI
        > HSET thing:1 size 9
        > MULTI
        > WATCH thing:1
        > WATCH plain
        > DISCARD
        > HGET thing:1 size
        > MULTI
        > EXEC
        > MULTI
        > DEL thing:1 plain
        > EXISTS thing:1 plain
        > HSET thing:1 size 5
        > EXPIRE thing:1 100
        > TTL thing:1
        > EXEC
        > MULTI
        > EVAL \"return redis.call('HINCRBY', KEYS[1], 'size', 1)\" 1 thing:1
        > CLIENT SETNAME me
        > CLIENT GETNAME
        > PING
        > PERSIST thing:1
        > BLPOP thing:2 0
        > RENAME thing:1 thing:3
        > EXEC
        > CLIENT GETNAME
        > MULTI
        > SET plain 3
        > EXEC
        > EXEC
        > DISCARD
    ",
    )
    .await;
}

#[tokio::test]
async fn watched_keys_of_both_kinds_are_noticed() {
    same(
        "
        > HSET thing:1 size 1
        > SET plain 1
        > WATCH thing:1
        b> HSET thing:1 size 2
        > MULTI
        > SET plain 2
        > EXEC
        > WATCH thing:1
        > MULTI
        > SET plain 3
        > HSET thing:1 size 3
        > EXEC
        > WATCH thing:1 plain
        b> SET plain 4
        > MULTI
        > HSET thing:1 size 5
        > EXEC
        > HGET thing:1 size
        > WATCH plain
        > MULTI
        > GET plain
        > HSET thing:1 size 6
        b> SET plain 5
        > EXEC
        > WATCH plain
        > MULTI
        > GET plain
        > HSET thing:1 size 7
        > EXEC
        > WATCH plain thing:1
        > HSET thing:1 size 8
        > MULTI
        > PING
        > EXEC
        > WATCH thing:1
        b> HSET thing:1 size 9
        > UNWATCH
        > MULTI
        > SET plain 6
        > EXEC
        > WATCH thing:1 plain
        b> DEL thing:1
        b> SET plain 7
        > MULTI
        > HSET thing:1 size 10
        > DISCARD
        > MULTI
        > HSET thing:1 size 11
        > EXEC
        > WATCH thing:2 tags:a
        b> SADD tags:a x
        > MULTI
        > PING
        > EXEC
        > WATCH plain
        > MULTI
        > SET plain 8
        > EXEC
        > WATCH plain
        > MULTI
        > SET plain 9
        b> SET plain 10
        > EXEC
        > WATCH thing:1
        > WATCH tags:a
        > EXPIRE thing:1 1000
        > MULTI
        > EXEC
        > WATCH plain
        > MULTI
        > NOSUCH
        > HSET thing:1 size 12
        > EXEC
        > WATCH plain
        > MULTI
        > NOSUCH
        > SET plain 11
        > EXEC
        > GET plain
        > MULTI
        > SET plain 12
        > NOSUCH
        > EXEC
        > GET plain
        > WATCH thing:2
        > RESET
    ",
    )
    .await;
}

#[tokio::test]
async fn a_watch_is_noticed_through_another_proxy_and_sql() {
    let stack = Stack::with_mappings(crate::alike::MAPPINGS).await;
    let mut second = stack.start_second_proxy().await;
    let mut client = stack.client().await;
    let mut other = Client::connect(&second).await;
    client.say("HSET thing:1 size 1").await;
    for change in ["HSET thing:1 size 2", "DEL thing:1", "HSET thing:1 size 1"] {
        client.say("WATCH thing:1").await;
        other.say(change).await;
        client.say("MULTI").await;
        client.say("HSET thing:1 size 100").await;
        assert_eq!(client.say("EXEC").await, Value::NilArray, "{change}");
    }
    client.say("WATCH thing:1").await;
    stack.sql_execute("update things set size = 5").await;
    client.say("MULTI").await;
    client.say("SET plain 1").await;
    assert_eq!(client.say("EXEC").await, Value::NilArray);
    assert_eq!(client.say("EXISTS plain").await, Value::Integer(0));
    second.stop_expecting(&[]).await;
    stack.stop_expecting(&[]).await;
}

#[tokio::test]
async fn what_cannot_be_in_one_transaction_is_told_at_once() {
    let stack = Stack::with_mappings(crate::alike::MAPPINGS).await;
    talk(
        &stack,
        "
        > MULTI
        +OK
        > SELECT 0
        +QUEUED
        > HSET thing:1 size 1
        -ERR SELECT and mapped keys cannot be in one transaction
        > EXEC
        -EXECABORT Transaction discarded because of previous errors.
        > MULTI
        +OK
        > HSET thing:1 size 1
        +QUEUED
        > SELECT 1
        -ERR SELECT and mapped keys cannot be in one transaction
        > EXEC
        -EXECABORT Transaction discarded because of previous errors.
        > MULTI
        +OK
        > HEXPIRE thing:1 5 FIELDS 1 size
        -ERR 'hexpire' is refused for keys of mapping 'things': expiry and conditions of single fields are not mapped
        > EXEC
        -EXECABORT Transaction discarded because of previous errors.
        > MULTI
        +OK
        > SET plain 1
        +QUEUED
        > SET thing:1 1
        +QUEUED
        > EXEC
        -ERR 'set' is refused for keys of mapping 'things': it would leave a string where the mapping holds a hash; nothing was written
        > EXISTS thing:1 plain
        :0
        > WATCH plain
        +OK
        > MULTI
        +OK
        > SELECT 1
        +QUEUED
        > SET there 1
        +QUEUED
        > EXEC
        *2
          +OK
          +OK
        > DBSIZE
        :1
        > SELECT 0
        +OK
        > EXISTS there
        :0
        ",
    )
    .await;
    stack.stop_expecting(&[]).await;
}

fn commands(lines: &[&str]) -> Vec<Vec<Vec<u8>>> {
    lines.iter().map(|line| crate::stack::resp::arguments(line)).collect()
}

/// All in one write: nothing overtakes anything.
#[tokio::test]
async fn pipelines_stay_in_order() {
    let stack = Stack::with_mappings(crate::alike::MAPPINGS).await;
    let plain = crate::stack::Redis::start().await;
    let lines = [
        "SET plain 1",
        "HSET thing:1 size 1",
        "GET thing:1",
        "INCR plain",
        "WATCH thing:1 plain",
        "HGET thing:1 size",
        "MULTI",
        "HINCRBY thing:1 size 1",
        "GET plain",
        "CLIENT GETNAME",
        "EXEC",
        "HGET thing:1 size",
        "LPUSH thing:1 x",
        "RENAME thing:1 thing:2",
        "HGET thing:2 size",
        "SET plain 5",
        "EVAL \"return redis.call('HINCRBY', KEYS[1], 'size', redis.call('GET', KEYS[2]))\" 2 thing:2 plain",
        "INCR plain",
        "MULTI",
        "HSET thing:1 size",
        "INCR plain",
        "EXEC",
        "MULTI",
        "INCR plain",
        "DISCARD",
        "WATCH thing:1",
        "HSET thing:1 size 1",
        "MULTI",
        "INCR plain",
        "EXEC",
        "MULTI",
        "INCR plain",
        "EXEC",
        "GET plain",
        "HGETALL thing:2",
    ];
    for _ in 0..20 {
        let expected = Client::connect(&plain).await.pipeline(&commands(&lines)).await;
        let actual = stack.client().await.pipeline(&commands(&lines)).await;
        for ((line, expected), actual) in lines.iter().zip(&expected).zip(&actual) {
            assert_eq!(actual, expected, "{line}");
        }
        for server in [Client::connect(&plain).await, stack.client().await] {
            let mut client = server;
            client.say("DEL thing:1 thing:2 plain").await;
        }
    }
    stack.stop_expecting(&[]).await;
}

#[tokio::test]
async fn replies_that_are_not_wanted_are_not_sent() {
    let stack = Stack::with_mappings(crate::alike::MAPPINGS).await;
    let mut client = stack.client().await;
    client
        .send(b"CLIENT REPLY OFF\r\nWATCH thing:1\r\nMULTI\r\nHSET thing:1 size 1\r\nEXEC\r\n")
        .await;
    client.send(b"GET thing:1\r\nCLIENT REPLY ON\r\nHGET thing:1 size\r\n").await;
    assert_eq!(client.reply().await, Value::Status("OK".into()));
    assert_eq!(client.reply().await, Value::Bulk(b"1".to_vec()));
    client.send(b"CLIENT REPLY SKIP\r\nGET thing:1\r\nGET thing:1\r\n").await;
    assert!(client.reply().await.is_error());
    stack.stop_expecting(&[]).await;
}

/// Watching clients have a second lane for their queue: both are given back, and none is mixed up.
#[tokio::test]
async fn lanes_are_given_back() {
    let stack = Stack::with_mappings(crate::alike::MAPPINGS).await;
    let mut client = stack.client().await;
    for turn in 0..60 {
        client.say("WATCH plain thing:1").await;
        client.say("MULTI").await;
        client.say("INCR plain").await;
        match turn % 4 {
            0 => assert!(!client.say("EXEC").await.is_error()),
            1 => {
                client.say("HINCRBY thing:1 size 1").await;
                assert!(!client.say("EXEC").await.is_error());
            }
            2 => assert_eq!(client.say("DISCARD").await, Value::Status("OK".into())),
            _ => {
                client.say("NOSUCH").await;
                assert!(client.say("EXEC").await.is_error());
            }
        }
    }
    assert_eq!(client.say("GET plain").await, Value::Bulk(b"30".to_vec()));
    assert_eq!(client.say("HGET thing:1 size").await, Value::Bulk(b"15".to_vec()));
    let clients = stack.redis.say("CLIENT LIST").await;
    let clients = String::from_utf8_lossy(clients.bytes().unwrap()).into_owned();
    assert!(clients.lines().count() < 30, "{clients}");
    stack.stop_expecting(&[]).await;
}
