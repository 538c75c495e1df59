//! A Redis that hangs: it takes connections and requests, and answers nobody. And one that is slow,
//! which must not be taken for it.

use std::time::{Duration, Instant};

use crate::both::wait_for_clients;
use crate::stack::{Client, Stack, Value, wait_until};
use crate::upstream::{DOWN, GONE};

const SILENCE: Duration = Duration::from_secs(1);

/// Far more than silence, the attempt to connect and a slow machine take; far less than for ever.
const LONGEST: Duration = Duration::from_secs(15);

async fn stack() -> Stack {
    Stack::builder("")
        .set("RESPGRES__UPSTREAM__SILENCE_TIMEOUT", "1s")
        .set("RESPGRES__UPSTREAM__CONNECT_TIMEOUT", "1s")
        .set("RESPGRES__UPSTREAM__ADMIN_COMMANDS", "true")
        .start()
        .await
}

fn gone() -> Value {
    Value::Error(GONE.to_owned())
}

#[tokio::test]
async fn what_waits_for_a_redis_that_hangs_is_told_and_others_at_once() {
    let stack = stack().await;
    let [mut plain, mut scripts, mut multi, mut blocked, mut subscriber] = [
        stack.client().await,
        stack.client().await,
        stack.client().await,
        stack.client().await,
        stack.client().await,
    ];
    plain.say("SET k v").await;
    scripts.say("EVAL 'return 1' 0").await;
    multi.say("MULTI").await;
    multi.say("INCR n").await;
    subscriber.say("SUBSCRIBE c").await;
    blocked.send(b"BLPOP l 0\r\n").await;
    wait_for_clients(&stack.redis, "blocked_clients:1").await;

    stack.redis.process().signal("STOP");
    let start = Instant::now();
    plain.send(b"GET k\r\nGET k\r\n").await;
    scripts.send(b"EVAL 'return 1' 0\r\n").await;
    multi.send(b"EXEC\r\n").await;
    for client in [&mut plain, &mut scripts, &mut multi] {
        assert_eq!(client.reply().await, gone());
        assert!(start.elapsed() >= SILENCE, "given up after {:?}", start.elapsed());
    }
    assert_eq!(plain.reply().await, gone());
    assert!(start.elapsed() < LONGEST, "it took {:?}", start.elapsed());
    // From the first failed attempt to connect on, nobody waits.
    let refused = Value::Error(DOWN.to_owned());
    assert_eq!(plain.say("GET k").await, refused);
    let start = Instant::now();
    for _ in 0..100 {
        assert_eq!(plain.say("GET k").await, refused);
    }
    assert!(start.elapsed() < LONGEST, "it took {:?}", start.elapsed());

    stack.redis.process().signal("CONT");
    wait_until("service is back", async || !plain.say("GET k").await.is_error()).await;
    assert_eq!(scripts.say("EVAL 'return 1' 0").await, Value::Integer(1));
    // Who waits for ever has not been disturbed.
    plain.say("RPUSH l element").await;
    assert_eq!(blocked.reply().await.elements()[1], Value::Bulk(b"element".to_vec()));
    plain.say("PUBLISH c message").await;
    assert_eq!(subscriber.reply().await.elements()[2], Value::Bulk(b"message".to_vec()));
    assert_eq!(subscriber.say("UNSUBSCRIBE").await.elements()[2], Value::Integer(0));
    stack.stop_expecting(&["upstream"]).await;
}

#[tokio::test]
async fn a_subscriber_that_awaits_an_answer_is_told_too() {
    let stack = stack().await;
    let mut subscriber = stack.client().await;
    subscriber.say("SUBSCRIBE c").await;
    stack.redis.process().signal("STOP");
    subscriber.send(b"SUBSCRIBE d\r\n").await;
    assert_eq!(subscriber.read_to_end().await, format!("-{GONE}\r\n").as_bytes());
    stack.redis.process().signal("CONT");
    stack.stop_expecting(&[]).await;
}

#[tokio::test]
async fn a_script_that_redis_finds_busy_is_waited_for() {
    let stack = stack().await;
    let (mut caller, mut other) = (stack.client().await, stack.client().await);
    other.say("CONFIG SET busy-reply-threshold 50").await;
    let start = Instant::now();
    caller.send(script_of(4 * SILENCE).as_bytes()).await;
    wait_until("Redis is busy", async || {
        matches!(other.say("GET k").await, Value::Error(text) if text.starts_with("BUSY "))
    })
    .await;
    assert_eq!(caller.reply().await, Value::Integer(7));
    assert!(start.elapsed() > 4 * SILENCE);
    stack.stop_expecting(&[]).await;
}

#[tokio::test]
async fn a_script_that_holds_up_all_of_redis_for_too_long_counts_as_hanging() {
    let stack = stack().await;
    let (mut caller, mut other) = (stack.client().await, stack.client().await);
    for client in [&mut caller, &mut other] {
        client.say("EVAL 'return 1' 0").await;
        client.say("GET k").await;
    }
    // Redis' usual threshold: nobody is told anything for five seconds.
    caller.send(script_of(6 * SILENCE).as_bytes()).await;
    wait_until("the script runs", async || {
        let mut asked = Client::connect(&stack.redis).await;
        asked.send(b"PING\r\n").await;
        asked.is_silent_for(Duration::from_millis(200)).await
    })
    .await;
    other.send(b"GET k\r\n").await;
    assert_eq!(other.reply().await, gone());
    assert_eq!(caller.reply().await, gone());
    wait_until("service is back", async || other.say("GET k").await == Value::NilBulk).await;
    stack.stop_expecting(&["upstream"]).await;
}

#[tokio::test]
async fn a_redis_that_has_paused_its_clients_is_waited_for() {
    let stack = stack().await;
    let mut client = stack.client().await;
    client.say("SET k v").await;
    // Past respgres, which knows nothing of it.
    let pause_ms = 4 * SILENCE.as_millis();
    assert!(!stack.redis.say(&format!("CLIENT PAUSE {pause_ms} ALL")).await.is_error());
    let start = Instant::now();
    assert_eq!(client.say("GET k").await, Value::Bulk(b"v".to_vec()));
    assert!(start.elapsed() > 3 * SILENCE, "it was not paused");
    stack.stop_expecting(&[]).await;
}

#[tokio::test]
async fn a_redis_with_a_password_that_is_slow_is_waited_for() {
    let stack = stack_of_a_slow_redis_with_a_password().await;
    let mut client = stack.client().await;
    let start = Instant::now();
    client.send(script_of(4 * SILENCE).as_bytes()).await;
    assert_eq!(client.reply().await, Value::Integer(7));
    assert!(start.elapsed() > 4 * SILENCE);
    stack.stop_expecting(&[]).await;
}

/// Nobody gets in without a password, not even to ask whether it hangs.
async fn stack_of_a_slow_redis_with_a_password() -> Stack {
    let stack = stack().await;
    let mut admin = Client::connect(&stack.redis).await;
    let mut client = stack.client().await;
    client.say("EVAL 'return 1' 0").await;
    admin.say("CONFIG SET busy-reply-threshold 50").await;
    admin.say("CONFIG SET requirepass secret").await;
    stack
}

/// A script that runs for so long and returns 7.
fn script_of(duration: Duration) -> String {
    let script = format!(
        "local function now() local t = redis.call('TIME') return t[1] * 1000 + t[2] / 1000 end \
         local start = now() while now() - start < {} do end return 7",
        duration.as_millis()
    );
    format!("EVAL \"{script}\" 0\r\n")
}
