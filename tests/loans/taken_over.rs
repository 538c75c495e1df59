//! The edges of transactions that respgres takes over: what cannot be in one, what fails while it is
//! queued, clients that leave, and what stays on the connections.

use crate::alike::MAPPINGS;
use crate::stack::{Client, Stack, Value, talk, wait_until};

/// What the client of `CLIENT TRACKING` reads must be read over its own connection.
#[tokio::test]
async fn a_client_that_tracks_is_told_no() {
    let stack = Stack::with_mappings(MAPPINGS).await;
    talk(
        &stack,
        "
        > CLIENT TRACKING ON
        +OK
        > MULTI
        +OK
        > GET plain
        +QUEUED
        > HSET thing:1 size 1
        -ERR a client that tracks cannot use mapped keys in a transaction
        > EXEC
        -EXECABORT Transaction discarded because of previous errors.
        # Redis has forgotten the transaction, and still tracks.
        > PING
        +PONG
        > HSET thing:1 size 1
        :1
        > WATCH thing:1 plain
        +OK
        > MULTI
        +OK
        > SET plain 1
        +QUEUED
        > EXEC
        -EXECABORT Transaction discarded because of: a client that tracks cannot use mapped keys in a transaction
        > EXISTS plain
        :0
        > MULTI
        +OK
        > GET plain
        +QUEUED
        > EXEC
        *1
          $-1
        ",
    )
    .await;
    stack.stop_expecting(&[]).await;
}

/// The loan would run where its watch is, and so are its subscriptions.
#[tokio::test]
async fn a_client_that_is_subscribed_and_watches_is_told_no() {
    let stack = Stack::with_mappings(MAPPINGS).await;
    let mut client = stack.client().await;
    client.say("HELLO 3").await;
    client.say("SUBSCRIBE news").await;
    let executed = |size: &str| Value::Array(vec![Value::Integer(i64::from(size == "1"))]);
    for size in ["1", "2"] {
        client.say("MULTI").await;
        client.say(&format!("HSET thing:1 size {size}")).await;
        assert_eq!(client.say("EXEC").await, executed(size));
    }
    client.say("WATCH plain").await;
    client.say("MULTI").await;
    let told = client.say("HSET thing:1 size 3").await;
    assert_eq!(
        told,
        Value::Error(
            "ERR a client that subscribes, or that others redirect to, cannot watch keys and use \
             mapped ones in one transaction"
                .to_owned()
        )
    );
    assert!(client.say("EXEC").await.is_error());
    stack.client().await.say("PUBLISH news x").await;
    assert_eq!(client.reply().await.elements().len(), 3);
    stack.stop_expecting(&[]).await;
}

#[tokio::test]
async fn a_database_is_not_emptied_around_lent_values() {
    let stack = Stack::builder(MAPPINGS).set("RESPGRES__UPSTREAM__FLUSH", "cache").start().await;
    let refusal = "-ERR FLUSHDB, FLUSHALL and mapped keys cannot be in one transaction";
    let aborted = "-EXECABORT Transaction discarded because of previous errors.";
    talk(
        &stack,
        &format!(
            "
            > HSET thing:1 size 1
            :1
            > SET plain 1
            +OK
            > MULTI
            +OK
            > HSET thing:1 size 2
            +QUEUED
            > FLUSHDB
            {refusal}
            > EXEC
            {aborted}
            > MULTI
            +OK
            > FLUSHALL
            +QUEUED
            > HSET thing:1 size 2
            {refusal}
            > EXEC
            {aborted}
            > GET plain
            \"1\"
            > WATCH thing:1
            +OK
            > MULTI
            +OK
            > FLUSHDB
            +QUEUED
            > EXEC
            *1
              +OK
            > EXISTS plain
            :0
            > HGET thing:1 size
            \"1\"
            "
        ),
    )
    .await;
    stack.stop_expecting(&[]).await;
}

#[tokio::test]
async fn what_is_for_operators_fails_the_transaction() {
    let stack = Stack::with_mappings(MAPPINGS).await;
    talk(
        &stack,
        "
        > MULTI
        +OK
        > HSET thing:1 size 1
        +QUEUED
        > CONFIG SET maxmemory 1
        -NOPERM this user has no permissions to run the 'config|set' command
        > EXEC
        -EXECABORT Transaction discarded because of previous errors.
        > EXISTS thing:1
        :0
        ",
    )
    .await;
    stack.stop_expecting(&[]).await;
}

/// Redis would run the command at once: on the cached copy, past Postgres.
#[tokio::test]
async fn mapped_keys_do_not_follow_a_multi_that_failed() {
    let stack = Stack::with_mappings(MAPPINGS).await;
    stack.redis.say("ACL SETUSER default -multi").await;
    let mut client = stack.client().await;
    let commands = ["MULTI", "HSET thing:1 size 5", "EXEC", "PING", "EXISTS thing:1"]
        .map(crate::stack::resp::arguments);
    let replies = client.pipeline(&commands).await;
    let text = |reply: &Value| reply.lines().join("");
    assert!(text(&replies[0]).starts_with("-NOPERM"), "{:?}", replies[0]);
    assert_eq!(text(&replies[1]), "-ERR no transaction was begun: MULTI has failed");
    assert!(text(&replies[2]).starts_with("-EXECABORT"), "{:?}", replies[2]);
    assert_eq!(replies[3], Value::Status("PONG".into()));
    assert_eq!(replies[4], Value::Integer(0));
    assert_eq!(stack.redis.say("EXISTS thing:1").await, Value::Integer(0));
    // Nor is anything lent, which would be there for all to see.
    client.say("SET plain 1").await;
    let refused = client.say("EVAL \"return redis.call('DEL', KEYS[2])\" 2 thing:1 plain").await;
    assert_eq!(text(&refused), "-ERR the upstream Redis is out of reach; nothing was written");
    assert_eq!(client.say("EXISTS plain").await, Value::Integer(1));
    stack.redis.say("ACL SETUSER default +multi").await;
    stack.stop_expecting(&["a loan failed"]).await;
}

/// Commands about the connection are queued as others are: what Redis says to them counts.
#[tokio::test]
async fn a_stand_in_that_is_refused_fails_the_transaction() {
    let stack = Stack::with_mappings(MAPPINGS).await;
    stack.redis.say("ACL SETUSER default -info").await;
    let mut client = stack.client().await;
    client.say("MULTI").await;
    client.say("HSET thing:1 size 5").await;
    let refused = client.say("INFO").await;
    assert!(refused.lines().join("").starts_with("-NOPERM"), "{refused:?}");
    let executed = client.say("EXEC").await;
    assert!(executed.lines().join("").starts_with("-EXECABORT"), "{executed:?}");
    assert_eq!(stack.sql_i64("select count(*) from things").await, 0);
    stack.stop_expecting(&[]).await;
}

#[tokio::test]
async fn what_is_kept_of_a_transaction_is_bounded() {
    let stack = Stack::builder(MAPPINGS)
        .set("RESPGRES__LIMITS__MAX_REQUEST_BYTES", "100kb")
        .set("RESPGRES__LIMITS__MAX_ARGUMENT_BYTES", "100kb")
        .start()
        .await;
    let mut client = stack.client().await;
    client.say("MULTI").await;
    // Fourteen bytes each; what is noted of them takes more.
    let pings = vec![crate::stack::resp::arguments("PING"); 2000];
    let refused = Value::Error(
        "ERR the transaction takes more memory than limits.max_request_bytes".to_owned(),
    );
    let replies = client.pipeline(&pings).await;
    assert_eq!(replies.first(), Some(&Value::Status("QUEUED".into())));
    assert_eq!(replies.last(), Some(&refused));
    assert!(client.say("EXEC").await.is_error());
    // Elsewhere nothing is kept.
    client.say("SELECT 1").await;
    client.say("MULTI").await;
    client.pipeline(&pings).await;
    assert!(matches!(client.say("EXEC").await, Value::Array(pongs) if pongs.len() == 2000));
    stack.stop_expecting(&[]).await;
}

#[tokio::test]
async fn a_watch_that_failed_watches_nothing() {
    let stack = Stack::with_mappings(MAPPINGS).await;
    let mut client = stack.client().await;
    stack.sql_execute("alter table things rename to away").await;
    assert!(client.say("WATCH tags:a thing:1").await.is_error());
    // So it is Redis' transaction: Postgres is not asked.
    client.say("MULTI").await;
    client.say("SET plain 1").await;
    let mut other = stack.client().await;
    other.say("SADD tags:a x").await;
    assert_eq!(client.say("EXEC").await, Value::Array(vec![Value::Status("OK".into())]));
    stack.sql_execute("alter table away rename to things").await;
    wait_until("the table is found again", async || !client.say("WATCH thing:1").await.is_error())
        .await;
    stack.stop_expecting(&["watched", "set aside"]).await;
}

/// Statements that were prepared for the table as it was fail; the table is looked at again.
#[tokio::test]
async fn keys_are_watched_after_their_table_has_changed() {
    let stack = Stack::with_mappings(MAPPINGS).await;
    let mut client = stack.client().await;
    for change in ["comment on table things is ''", "alter table things alter name type varchar"] {
        stack.sql_execute(change).await;
        // More often than there are workers.
        for _ in 0..8 {
            assert_eq!(client.say("WATCH thing:1").await, Value::Status("OK".into()), "{change}");
        }
    }
    stack.stop_expecting(&[]).await;
}

#[tokio::test]
async fn a_key_watched_again_after_a_change_has_changed() {
    let stack = Stack::with_mappings(MAPPINGS).await;
    talk(
        &stack,
        "
        > HSET thing:1 size 1
        :1
        > WATCH thing:1
        +OK
        b> HSET thing:1 size 2
        :0
        > WATCH thing:1
        +OK
        b> HSET thing:1 size 1
        :0
        > MULTI
        +OK
        > SET plain 1
        +QUEUED
        > EXEC
        *-1
        > WATCH thing:1
        +OK
        > WATCH thing:1
        +OK
        > MULTI
        +OK
        > SET plain 1
        +QUEUED
        > EXEC
        *1
          +OK
        ",
    )
    .await;
    stack.stop_expecting(&[]).await;
}

/// Of clients that leave in the middle nothing stays, on no connection.
#[tokio::test]
async fn clients_that_leave_take_their_transactions_along() {
    let stack = Stack::with_mappings(MAPPINGS).await;
    for turn in 0..40 {
        let mut client = stack.client().await;
        client.say("WATCH plain thing:1").await;
        client.say("MULTI").await;
        client.say("SET plain 1").await;
        client.say("HSET thing:1 size 1").await;
        if turn % 2 == 0 {
            // EXEC is done all the same, if it was sent.
            client.send(b"EXEC\r\n").await;
        }
    }
    let mut client = stack.client().await;
    wait_until("what was sent is done", async || {
        client.say("HGET thing:1 size").await == Value::Bulk(b"1".to_vec())
    })
    .await;
    let mut redis = Client::connect(&stack.redis).await;
    wait_until("their connections are closed or idle", async || {
        let clients = redis.say("CLIENT LIST").await;
        let clients = String::from_utf8_lossy(clients.bytes().unwrap()).into_owned();
        clients.lines().count() < 40 && clients.lines().all(|client| client.contains(" multi=-1 "))
    })
    .await;
    for turn in 0..60 {
        client.say("MULTI").await;
        client.say(&format!("HSET thing:1 size {turn}")).await;
        assert_eq!(client.say("EXEC").await, Value::Array(vec![Value::Integer(0)]));
    }
    stack.stop_expecting(&[]).await;
}
