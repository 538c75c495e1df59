//! Commands that wait inside Redis, and clients that leave while they wait.

use crate::both::{Both, same};
use crate::stack::resp::{arguments, request};
use crate::stack::{Value, wait_until};

#[tokio::test]
async fn a_blocked_client_is_served_by_another() {
    same(
        r#"
        a>> BLPOP l m 0
        blocked 1
        b> RPUSH l one
        a<
        b> LLEN l
        a>> BRPOPLPUSH l other 0
        blocked 1
        b> RPUSH l two
        a<
        b> LRANGE other 0 -1
        a>> BLMOVE l other left right 0
        blocked 1
        b> RPUSH l three
        a<
        a>> BZPOPMIN z 0
        blocked 1
        b> ZADD z 1 m
        a<
        a>> XREAD BLOCK 0 STREAMS s $
        blocked 1
        b> XADD s 1-1 f v
        a<
        a>> BLPOP l 0
        blocked 1
        b> SET l text
        b> DEL l
        b> RPUSH l four
        a<
        a> BLPOP l 0.05
        a> BRPOPLPUSH l other 0.05
        a> BLPOP l abc
        a> BLPOP l -1
        a> BLPOP l
        a> XREAD BLOCK 20 STREAMS s $
        a> HELLO 3
        a> BLPOP l 0.05
        a>> BLMPOP 0 1 l LEFT
        blocked 1
        b> RPUSH l five
        a<
        a> SELECT 2
        a>> BLPOP l 0
        blocked 1
        b> RPUSH l not-this
        b> SELECT 2
        b> RPUSH l this
        a<
    "#,
    )
    .await;
}

#[tokio::test]
async fn commands_behind_a_blocked_one_wait_for_it() {
    same(
        r#"
        a! BLPOP l 0\r\nPING\r\nSET after 1\r\nBLPOP m 0\r\nGET after\r\n
        blocked 1
        b> GET after
        b> RPUSH l one
        a<
        a<
        a<
        blocked 1
        b> RPUSH m two
        a<
        a<
        c| RPUSH l x | BLPOP l 0 | PING | BLPOP l 0.02 | PING
    "#,
    )
    .await;
}

#[tokio::test]
async fn a_client_that_leaves_while_it_waits_takes_nothing_along() {
    same(
        r"
        a>> BLPOP l 0
        blocked 1
        a-
        blocked 0
        b> RPUSH l one
        b> LRANGE l 0 -1
        c! BLPOP none 0\r\nPING\r\n
        blocked 1
        c$
        blocked 0
        d! PING\r\nBLPOP none 0\r\n
        d$
        blocked 0
        b> RPUSH none kept
        b> LRANGE none 0 -1
        e! BLPOP l 0\r\nPING\r\n
        e$
        b> LRANGE l 0 -1
        f! WATCH k\r\nBLPOP none2 0\r\n
        f$
        blocked 0
        g! MULTI\r\nBLPOP none2 0\r\nEXEC\r\nPING\r\n
        g$
    ",
    )
    .await;
}

#[tokio::test]
async fn a_blocked_client_can_be_unblocked_by_another() {
    same(
        r#"
        a=
        a>> BLPOP l 0
        blocked 1
        b> CLIENT UNBLOCK {a}
        a<
        a> PING
        a>> BLPOP l 0
        blocked 1
        b> CLIENT UNBLOCK {a} ERROR
        a<
        a>> XREAD BLOCK 0 STREAMS s $
        blocked 1
        b> CLIENT UNBLOCK {a} timeout
        a<
        a>> WAIT 5 0
        blocked 1
        b> CLIENT UNBLOCK {a} timeout
        a<
        a> WATCH k
        a>> BLPOP l 0
        blocked 1
        b> CLIENT UNBLOCK {a} error
        a<
        a> MULTI
        a> EXEC
        b> CLIENT UNBLOCK {a}
        b> CLIENT UNBLOCK 999999
        b> CLIENT UNBLOCK abc
        b> CLIENT UNBLOCK {a} FOO
        b> CLIENT UNBLOCK
        b> CLIENT UNBLOCK {a} ERROR x
        a>> BLPOP l 0
        blocked 1
        b> RPUSH l one
        a<
        b> CLIENT UNBLOCK {a}
        b> LLEN l
    "#,
    )
    .await;
}

#[tokio::test]
async fn a_script_that_runs_too_long_can_be_killed() {
    same(
        r#"
        a> CONFIG SET busy-reply-threshold 20
        b> PING
        a>> EVAL "while true do end" 0
        c> SCRIPT KILL
        a<
        b> PING
        a> SCRIPT KILL
        a> FUNCTION KILL
    "#,
    )
    .await;
}

#[tokio::test]
async fn a_busy_redis_says_so_to_everybody_else() {
    let both = Both::start().await;
    let (mut caller, mut other) = (both.stack.client().await, both.stack.client().await);
    // In a database that has to be selected, with a transaction's connection that is there already.
    for client in [&mut caller, &mut other] {
        client.say("SELECT 9").await;
    }
    other.say("MULTI").await;
    other.say("DISCARD").await;
    other.say("CONFIG SET busy-reply-threshold 20").await;
    let script = "EVAL \"while true do redis.call('PING') end\" 0";
    // In one write, so that the GET waits for the script.
    let both_requests = [request(&arguments(script)), request(&arguments("GET k"))].concat();
    caller.send(&both_requests).await;
    let is_busy = |value: &Value| matches!(value, Value::Error(text) if text.starts_with("BUSY "));
    wait_until("Redis is busy", async || is_busy(&other.say("GET k").await)).await;
    assert_eq!(other.say("MULTI").await, Value::Status("OK".to_owned()));
    assert!(is_busy(&other.say("GET k").await));
    assert!(is_busy(&both.stack.client().await.say("SET k v").await));
    let mut killer = both.stack.client().await;
    killer.say("SELECT 9").await;
    assert_eq!(killer.say("SCRIPT KILL").await, Value::Status("OK".to_owned()));
    assert!(caller.reply().await.is_error());
    assert_eq!(caller.reply().await, Value::NilBulk);
    wait_until("Redis serves again", async || {
        killer.say("SET k v").await == Value::Status("OK".to_owned())
    })
    .await;
    assert!(other.say("EXEC").await.is_error(), "the transaction was spoilt by the refused GET");
    assert_eq!(other.say("GET k").await.bytes(), Some(&b"v"[..]));
    both.stop(&[]).await;
}

#[tokio::test]
async fn scripts_stay_in_order_with_what_surrounds_them() {
    same(
        r#"
        a| SET k 1 | EVAL "return redis.call('INCR', KEYS[1])" 1 k | GET k | INCR k | EVALSHA x 0 | GET k
        a| EVAL "return redis.call('INCR', KEYS[1])" 1 k | INCR k | CLIENT GETNAME | EVAL "return redis.call('INCR', KEYS[1])" 1 k
        a| INCR k | EVAL "return redis.call('GET', KEYS[1])" 1 k | SELECT 1 | GET k | EVAL "return redis.call('SET', KEYS[1], 1)" 1 k | SELECT 0 | GET k
        a| EVAL "return 1" 0 | MULTI | EVAL "return redis.call('INCR', KEYS[1])" 1 k | EXEC | GET k
    "#,
    )
    .await;
}
