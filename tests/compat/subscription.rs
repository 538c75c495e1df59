//! SUBSCRIBE and its family, MONITOR.

use crate::both::{Both, same};
use crate::stack::{Client, Stack, Value, wait_until};

#[tokio::test]
async fn messages_come_to_subscribers_in_resp2() {
    same(
        r#"
        a> SUBSCRIBE one two
        a<
        a> PSUBSCRIBE o* t?o
        a<
        b> PUBLISH one hello
        a<
        a<
        b> PUBLISH three x
        b> PUBLISH two "a\r\nb"
        a<
        a<
        a> PING
        a> PING hello
        a> GET k
        a> SELECT 1
        a> SET k v
        a> MULTI
        a> HELLO 3
        a> CLIENT ID
        a> AUTH x
        a> HGET person:1 name
        a> FOO
        a> INFO
        a> MONITOR
        a> SUBSCRIBE
        a> UNSUBSCRIBE one
        a> UNSUBSCRIBE nothing
        a> UNSUBSCRIBE
        a> GET k
        a> PUNSUBSCRIBE
        a<
        a> GET k
        a> PING
        a> UNSUBSCRIBE
        a> PUNSUBSCRIBE
        a> UNSUBSCRIBE x y
        a<
        a> GET k
        a> SSUBSCRIBE shard
        b> SPUBLISH shard hello
        a<
        a> SUNSUBSCRIBE
        a> GET k
        a> SUBSCRIBE
        b> PUBSUB NUMSUB one two
        b> PUBSUB NUMPAT
        b> PUBSUB CHANNELS
        a| SUBSCRIBE x | PING | UNSUBSCRIBE | PING | GET k | SELECT 1 | GET k | SUBSCRIBE y | UNSUBSCRIBE y | SELECT 0 | SET z 1
        b> GET z
    "#,
    )
    .await;
}

#[tokio::test]
async fn messages_come_to_subscribers_in_resp3_beside_replies() {
    same(
        r#"
        a> HELLO 3
        a> SUBSCRIBE one two
        a<
        a> PSUBSCRIBE o*
        b> PUBLISH one hello
        a<
        a<
        a> GET k
        a> SET k v
        a> PING
        a> SELECT 1
        a> GET k
        a> SELECT 0
        a> GET k
        a> MULTI
        a> GET k
        a> EXEC
        a| GET k | SUBSCRIBE three | GET k | PUBLISH three x
        a<
        a> UNSUBSCRIBE one three
        a<
        a> UNSUBSCRIBE
        a> PUNSUBSCRIBE
        a> GET k
        a> SUBSCRIBE
        a> UNSUBSCRIBE
        a> SSUBSCRIBE shard
        b> SPUBLISH shard hello
        a<
        a> SUNSUBSCRIBE
        a> PING
        a> HELLO 2
        a> GET none
    "#,
    )
    .await;
}

#[tokio::test]
async fn a_subscriber_that_leaves_is_no_subscriber_any_more() {
    same(
        r"
        a> SUBSCRIBE c
        subscribers 1 c
        a-
        subscribers 0 c
        b> SUBSCRIBE c
        b> RESET
        subscribers 0 c
        c! SUBSCRIBE c\r\n
        c$
        subscribers 0 c
        d! SUBSCRIBE c\r\nPING\r\nUNSUBSCRIBE\r\nGET k\r\n
        d$
        e> SUBSCRIBE c
        e> UNSUBSCRIBE c
        f> PUBLISH c x
        e> PING
    ",
    )
    .await;
}

#[tokio::test]
async fn connections_of_subscribers_are_used_again() {
    let stack = Stack::pass_through().await;
    let mut client = stack.client().await;
    for _ in 0..50 {
        for line in ["SUBSCRIBE a", "UNSUBSCRIBE", "WATCH k", "UNWATCH", "BLPOP none 0.001"] {
            client.say(line).await;
        }
    }
    let total = stack.redis.say("INFO stats").await;
    let total = String::from_utf8_lossy(total.bytes().expect("text")).into_owned();
    let connections: u32 = total
        .lines()
        .find_map(|line| line.strip_prefix("total_connections_received:"))
        .and_then(|count| count.parse().ok())
        .expect("INFO counts connections");
    assert!(connections < 10, "250 requests took {connections} connections");
    stack.stop_expecting(&[]).await;
}

#[tokio::test]
async fn ten_thousand_messages_come_whole_and_in_order() {
    let both = Both::start().await;
    let mut subscriber = both.stack.client().await;
    subscriber.say("SUBSCRIBE c").await;
    let mut publisher = both.stack.client().await;
    let messages: Vec<Vec<String>> =
        (0..10_000).map(|n| ["PUBLISH", "c", &n.to_string()].map(str::to_owned).to_vec()).collect();
    let received = publisher.pipeline(&messages).await;
    assert!(received.iter().all(|reply| *reply == Value::Integer(1)));
    for n in 0..10_000 {
        let message = subscriber.reply().await;
        assert_eq!(message.elements()[2].bytes(), Some(n.to_string().as_bytes()));
    }
    both.stop(&[]).await;
}

#[tokio::test]
async fn a_monitor_sees_the_commands_of_others() {
    let stack = Stack::pass_through().await;
    let mut monitor = stack.client().await;
    assert_eq!(monitor.say("MONITOR").await, Value::Status("OK".to_owned()));
    let mut other = stack.client().await;
    other.say("SET seen by-the-monitor").await;
    wait_until("the monitor tells of the SET", async || {
        matches!(monitor.reply().await, Value::Status(line) if line.contains("\"SET\" \"seen\" \"by-the-monitor\""))
    })
    .await;
    // As in Redis, it may say little itself.
    monitor.send(b"GET seen\r\n").await;
    wait_until("GET is refused", async || {
        matches!(monitor.reply().await, Value::Error(text) if text.contains("Replica can't interact"))
    })
    .await;
    assert_eq!(monitor.say("RESET").await, Value::Status("RESET".to_owned()));
    assert_eq!(monitor.say("GET seen").await.bytes(), Some(&b"by-the-monitor"[..]));
    let mut other = Client::connect(&stack).await;
    other.say("MONITOR").await;
    drop(other);
    wait_until("nobody monitors any more", async || {
        let list = stack.redis.say("CLIENT LIST").await;
        !String::from_utf8_lossy(list.bytes().expect("text")).contains("flags=O")
    })
    .await;
    stack.stop_expecting(&[]).await;
}
