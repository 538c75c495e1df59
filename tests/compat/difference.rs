//! What differs from Redis on purpose: a test for each entry of docs/differences.md that a
//! conversation can show. The others are named there with their tests.

use crate::stack::{Stack, talk};

async fn ours(script: &str) {
    let stack = Stack::pass_through().await;
    talk(&stack, script).await;
    stack.stop_expecting(&[]).await;
}

#[tokio::test]
async fn what_would_change_a_shared_connection_is_refused() {
    ours(
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
}

#[tokio::test]
async fn the_protocol_stays_while_redis_keeps_state_for_the_connection() {
    ours(
        "
        > WATCH k
        +OK
        > HELLO 3
        -ERR HELLO cannot change the protocol while the connection is subscribed, watching, tracking or monitoring
        > UNWATCH
        +OK
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
async fn tracking_cannot_be_redirected_to_another_connection() {
    ours(
        "
        > CLIENT TRACKING on REDIRECT 1
        -ERR CLIENT TRACKING with REDIRECT is not supported through respgres yet
    ",
    )
    .await;
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
