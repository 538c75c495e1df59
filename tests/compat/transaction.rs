//! MULTI, EXEC, DISCARD, WATCH, UNWATCH.

use crate::both::{Both, same};
use crate::stack::{Stack, Value, talk};

#[tokio::test]
async fn transactions_run_as_in_redis() {
    same(
        r#"
        a> MULTI
        a> SET k 1
        a> INCR k
        a> GET k
        a> PING
        a> FOO
        a> EXEC
        a> GET k
        a> MULTI
        a> SET k text
        a> INCR k
        a> GET k
        a> EXEC
        a> EXEC
        a> DISCARD
        a> MULTI
        a> MULTI
        a> SET k 3
        a> EXEC
        a> MULTI
        a> SET k 4
        a> DISCARD
        a> GET k
        a> MULTI
        a> GET
        a> EXEC
        a> MULTI x
        a> MULTI
        a> EXEC x
        a> EXEC
        a> MULTI
        a> EXEC
        a| MULTI | SET p 1 | INCR p | EXEC | GET p | MULTI | INCR p | EXEC | DISCARD | PING
        a> HELLO 3
        a> MULTI
        a> HGETALL none
        a> GET none
        a> EXEC
        a> GET none
    "#,
    )
    .await;
}

#[tokio::test]
async fn a_watched_key_that_another_client_changes_ends_the_transaction() {
    same(
        r#"
        a> WATCH k
        b> SET k 1
        a> MULTI
        a> SET k 2
        a> EXEC
        b> GET k
        a> WATCH k other
        a> MULTI
        a> SET k 3
        a> EXEC
        b> GET k
        a> WATCH k
        b> SET k 4
        a> UNWATCH
        a> MULTI
        a> SET k 5
        a> EXEC
        a> WATCH k
        b> SET k 6
        a> MULTI
        a> DISCARD
        a> MULTI
        a> GET k
        a> EXEC
        a> MULTI
        a> WATCH k
        a> UNWATCH
        a> EXEC
        a> WATCH
        a> UNWATCH
        a> UNWATCH x
        a> WATCH k
        a> SELECT 3
        b> SET k 7
        a> MULTI
        a> GET k
        a> EXEC
        a> GET k
        a> SELECT 0
        a> GET k
        a> WATCH k
        a> INFO nosuch
        a> SET k 8
        a> MULTI
        a> GET k
        a> EXEC
        a| WATCH k | GET k | MULTI | INCR k | EXEC | GET k
    "#,
    )
    .await;
}

#[tokio::test]
async fn connection_commands_may_stand_in_a_transaction() {
    same(
        r#"
        a> CLIENT SETNAME me
        a> SET k zero
        a> MULTI
        a> SELECT 2
        a> SET k two
        a> GET k
        a> EXEC
        a> GET k
        b> GET k
        a> SELECT 0
        a> GET k
        a> MULTI
        a> CLIENT GETNAME
        a> CLIENT SETNAME you
        a> CLIENT GETNAME
        a> ECHO x
        a> CLIENT NO-EVICT on
        a> EXEC
        a> CLIENT GETNAME
        a> MULTI
        a> SELECT 99
        a> SELECT abc
        a> GET k
        a> EXEC
        a> GET k
        a> MULTI
        a> SELECT 3
        a> SET k three
        a> DISCARD
        a> GET k
        a> MULTI
        a> SELECT 4
        a> NOSUCH
        a> EXEC
        a> GET k
        a> WATCH k
        b> SET k changed
        a> MULTI
        a> SELECT 5
        a> EXEC
        a> GET k
        a> MULTI
        a> SELECT
        a> EXEC
        a> MULTI
        a> CLIENT FOO
        a> EXEC
        a> MULTI
        a> HELLO
        a> HELLO 2
        a> PING
        a> EXEC
        a> MULTI
        a> AUTH default x
        a> PING
        a> EXEC
        a> HELLO 3
        a> MULTI
        a> CLIENT GETNAME
        a> SELECT 1
        a> GET none
        a> EXEC
        a> DBSIZE
        a| MULTI | SELECT 2 | GET k | EXEC | GET k | SELECT 0 | GET k
    "#,
    )
    .await;
}

#[tokio::test]
async fn blocking_commands_do_not_block_in_a_transaction() {
    same(
        r#"
        a> MULTI
        a> BLPOP nothing 0
        a> RPUSH l 1 2
        a> BLPOP l 0
        a> XREAD BLOCK 0 STREAMS s $
        a> WAIT 1 0
        a> EXEC
        a> LRANGE l 0 -1
        a> MULTI
        a> MONITOR
        a> EXEC
        a> PING
    "#,
    )
    .await;
}

#[tokio::test]
async fn info_has_our_section_in_a_transaction_too() {
    let stack = Stack::pass_through().await;
    let mut client = stack.client().await;
    for version in ["2", "3"] {
        client.say(&format!("HELLO {version}")).await;
        client.say("MULTI").await;
        for line in ["SET k v", "INFO", "INFO clients", "INFO respgres", "CLIENT GETNAME", "GET k"]
        {
            assert_eq!(client.say(line).await, Value::Status("QUEUED".to_owned()), "{line}");
        }
        let seen = client.say("CLIENT LIST").await;
        assert_eq!(seen, Value::Status("QUEUED".to_owned()));
        let reply = client.say("EXEC").await;
        let reply = reply.elements();
        let text = |at: usize| info_text(&reply[at]);
        assert_eq!(reply.len(), 7);
        assert!(text(1).contains("redis_version:7"));
        assert!(text(1).contains("\r\n\r\n# respgres\r\nrespgres_version:"), "{}", text(1));
        assert!(text(2).contains("connected_clients") && !text(2).contains("# respgres"));
        assert!(text(3).starts_with("# respgres\r\n"), "{}", text(3));
        assert_eq!(reply[5].bytes(), Some(&b"v"[..]));
        // Outside of it nothing has changed.
        let info = client.say("INFO respgres").await;
        assert!(info_text(&info).starts_with("# respgres"));
    }
    client.say("MULTI").await;
    client.say("INFO").await;
    client.say("CONFIG SET maxmemory 0").await;
    assert!(client.say("EXEC").await.is_error());
    stack.stop_expecting(&[]).await;
}

/// INFO's reply is verbatim in RESP3.
fn info_text(value: &Value) -> String {
    match value {
        Value::Verbatim(text) => String::from_utf8_lossy(text).replacen("txt:", "", 1),
        other => String::from_utf8_lossy(other.bytes().expect("INFO is text")).into_owned(),
    }
}

#[tokio::test]
async fn what_is_queued_by_respgres_is_counted_at_once() {
    let stack = Stack::pass_through().await;
    let (mut client, mut observer) = (stack.client().await, stack.client().await);
    let id = client.say("CLIENT ID").await.integer();
    client.say("MULTI").await;
    for (count, line) in ["CLIENT GETNAME", "INFO", "INFO clients", "SELECT 1"].iter().enumerate() {
        client.say(line).await;
        let list = observer.say(&format!("CLIENT LIST ID {id}")).await;
        let list = String::from_utf8_lossy(list.bytes().unwrap()).into_owned();
        assert!(list.contains(&format!(" multi={} ", count + 1)), "{line}: {list}");
    }
    stack.stop_expecting(&[]).await;
}

#[tokio::test]
async fn a_client_that_leaves_takes_its_transaction_along() {
    let both = Both::start().await;
    both.say_the_same(
        r"
        a> WATCH k
        a> MULTI
        a> SET k 1
        a-
        b> GET k
        b> MULTI
        b> EXEC
        c! MULTI\r\nSET k 2\r\nEXEC\r\nGET k\r\n
        c$
    ",
    )
    .await;
    both.stop(&[]).await;
}

#[tokio::test]
async fn what_is_refused_for_a_mapped_key_ends_the_transaction() {
    let stack = Stack::with_mappings(
        "[[mapping]]\nname = \"people\"\nkey = \"person:{id:int}\"\ntable = \"people\"\n[mapping.columns]\nname = \"name\"\n",
    )
    .await;
    talk(
        &stack,
        "
        > MULTI
        +OK
        > SET k 1
        +QUEUED
        > HTTL person:1 FIELDS 1 name
        -ERR 'httl' is refused for keys of mapping 'people': expiry and conditions of single fields are not mapped
        > EXEC
        -EXECABORT Transaction discarded because of previous errors.
        > EXISTS k
        :0
        > MULTI
        +OK
        > SELECT 1
        +QUEUED
        > HSET person:1 name unmapped-in-database-1
        +QUEUED
        > EXEC
        *2
          +OK
          :1
        > TYPE person:1
        +hash
        > SELECT 0
        +OK
        > EXISTS person:1
        :0
    ",
    )
    .await;
    stack.stop_expecting(&[]).await;
}
