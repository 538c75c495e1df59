//! What differs from Redis on purpose: a test for each entry of docs/differences.md that a
//! conversation can show. The others are named there with their tests.

use crate::stack::{Stack, Value, talk};

async fn ours(script: &str) {
    let stack = Stack::pass_through().await;
    talk(&stack, script).await;
    stack.stop_expecting(&[]).await;
}

#[tokio::test]
async fn what_would_change_a_shared_connection_is_refused() {
    let stack = Stack::builder("").set("RESPGRES__UPSTREAM__ADMIN_COMMANDS", "true").start().await;
    talk(
        &stack,
        "
        > SCRIPT DEBUG YES
        -ERR SCRIPT DEBUG works only with a direct connection to Redis
        > SCRIPT DEBUG NO
        +OK
        > SYNC
        -ERR SYNC: a replica must connect to the Redis server itself
        > PSYNC ? -1
        -ERR PSYNC: a replica must connect to the Redis server itself
        > REPLCONF listening-port 1
        -ERR REPLCONF: a replica must connect to the Redis server itself
        > PING
        +PONG
    ",
    )
    .await;
    stack.stop_expecting(&[]).await;
}

#[tokio::test]
async fn the_protocol_stays_within_a_transaction() {
    ours(
        "
        > MULTI
        +OK
        > HELLO 3
        -ERR HELLO cannot change the protocol inside MULTI
        > EXEC
        -EXECABORT Transaction discarded because of previous errors.
        > HELLO 2 SETNAME x
        *14
          \"server\"
          \"redis\"
          \"version\"
          \"7…
          \"proto\"
          :2
          \"id\"
          :…
          \"mode\"
          \"standalone\"
          \"role\"
          \"master\"
          \"modules\"
          *0
    ",
    )
    .await;
}

#[tokio::test]
async fn some_commands_cannot_be_queued() {
    for (line, name) in [
        ("SUBSCRIBE c", "SUBSCRIBE"),
        ("CLIENT REPLY OFF", "CLIENT REPLY"),
        ("CLIENT TRACKING on", "CLIENT TRACKING"),
        ("CLIENT UNBLOCK 1", "CLIENT UNBLOCK"),
    ] {
        ours(&format!(
            "
            > MULTI
            +OK
            > SET k v
            +QUEUED
            > {line}
            -ERR {name} is not supported inside MULTI
            > EXEC
            -EXECABORT Transaction discarded because of previous errors.
            > EXISTS k
            :0
        "
        ))
        .await;
    }
}

#[tokio::test]
async fn tracking_can_be_redirected_only_to_a_connection_that_redis_knows() {
    let stack = Stack::pass_through().await;
    let mut target = stack.client().await;
    let id = target.say("CLIENT ID").await.integer();
    let mut client = stack.client().await;
    let reply = client.say(&format!("CLIENT TRACKING on REDIRECT {id}")).await;
    let expected = "ERR the client to redirect to must have subscribed or enabled tracking before";
    assert_eq!(reply, Value::Error(expected.to_owned()));
    stack.stop_expecting(&[]).await;
}

#[tokio::test]
async fn a_client_that_monitors_changes_nothing_about_its_connection() {
    ours(
        "
        > MONITOR
        +OK
        > SELECT 1
        -ERR SELECT is not supported while the connection monitors
        > CLIENT ID
        -ERR CLIENT is not supported while the connection monitors
        > RESET
        +RESET
        > SELECT 1
        +OK
    ",
    )
    .await;
}
