//! A mapping leaves `redis_only` while clients go on: nothing that Redis has is lost, and what cannot be is refused.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::stack::{Client, Server, Stack, Value, wait_until};

const MAPPINGS: &str = r#"
[[mapping]]
name = "things"
key = "thing:{id:int}"
table = "things"
extra = "extra"

[[mapping]]
name = "plain"
key = "plain:{id:int}"
table = "plain"
extra = "extra"
strategy = "redis_only"
"#;

async fn stack() -> Stack {
    Stack::builder(MAPPINGS).set("RESPGRES__UPSTREAM__ADMIN_COMMANDS", "true").start().await
}

fn ok() -> Value {
    Value::Status("OK".into())
}

fn bulk(text: &str) -> Value {
    Value::Bulk(text.as_bytes().to_vec())
}

async fn strategy(client: &mut Client) -> String {
    match client.say("RESPGRES STRATEGY plain").await {
        Value::Array(told) => String::from_utf8_lossy(told[1].bytes().unwrap()).into_owned(),
        other => panic!("{other:?}"),
    }
}

async fn entry(stack: &Stack, member: &str) -> Option<String> {
    let query =
        format!("select value ->> '{member}' from respgres.control where name = 'mapping:plain'");
    stack.sql_optional_text(&query).await
}

#[tokio::test]
async fn what_redis_has_is_imported_when_it_is_needed() {
    let mut stack = stack().await;
    let second = stack.start_second_proxy().await;
    let (mut client, mut other) = (stack.client().await, Client::connect(&second).await);
    client.say("HSET plain:1 a 1 b 2").await;
    client.say("HSET plain:2 a 1").await;
    client.say("PEXPIRE plain:2 86400000").await;
    client.say("HSET plain:3 a 1").await;
    client.say("HSET thing:1 a 1").await;
    // They live in Redis alone, and are listed once.
    assert_eq!(client.say("HGET plain:1 a").await, bulk("1"));
    assert_eq!(client.say("DBSIZE").await, Value::Integer(4));
    assert_eq!(stack.sql_i64("select count(*) from plain").await, 0);
    assert_eq!(client.say("EXISTS thing:1 plain:1 plain:2").await, Value::Integer(3));

    assert_eq!(other.say("RESPGRES STRATEGY plain dual_write").await, ok());
    for client in [&mut client, &mut other] {
        assert_eq!(strategy(client).await, "dual_write");
    }
    assert_eq!(entry(&stack, "phase").await.as_deref(), Some("dual_write"));
    assert_eq!(client.say("DBSIZE").await, Value::Integer(4));
    // One field is written, and the others come along.
    assert_eq!(other.say("HINCRBY plain:1 a 1").await, Value::Integer(2));
    assert_eq!(client.say("HGET plain:1 b").await, bulk("2"));
    assert_eq!(stack.sql_text("select extra ->> 'b' from plain where id = 1").await, "2");
    let Value::Integer(left_ms) = client.say("PTTL plain:2").await else { panic!() };
    assert!((86_000_000..=86_400_000).contains(&left_ms), "{left_ms}");
    assert_eq!(client.say("DEL plain:3").await, Value::Integer(1));
    assert_eq!(other.say("EXISTS plain:3").await, Value::Integer(0));
    assert_eq!(client.say("DBSIZE").await, Value::Integer(3));

    // It holds over restarts, and its phase can be told and set.
    stack.proxy.restart().await;
    let mut client = stack.client().await;
    assert_eq!(strategy(&mut client).await, "dual_write");
    assert_eq!(client.say("HINCRBY plain:1 a 1").await, Value::Integer(3));
    let (done, told, error) = stack.run(&["phase", "get", "--mapping", "plain"]);
    assert!(done && told == "plain: dual_write\n", "{told}{error}");
    drop(second);
    stack.stop_expecting(&[]).await;
}

/// Each of them by requests that are sent together, so that some are under way when the gate closes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_increment_is_lost_on_the_way() {
    for target in ["dual_write", "cache_first", "database_first", "postgres_only"] {
        let stack = stack().await;
        let second = stack.start_second_proxy().await;
        let stop = Arc::new(AtomicBool::new(false));
        let count = |address: String, command: &'static str| {
            let stop = Arc::clone(&stop);
            tokio::spawn(async move {
                let mut client = Client::connect_to(&address).await;
                let mut acknowledged = 0;
                while !stop.load(Ordering::Relaxed) {
                    let requests: Vec<Vec<String>> =
                        (0..20).map(|_| command.split(' ').map(str::to_owned).collect()).collect();
                    for reply in client.pipeline(&requests).await {
                        assert!(matches!(reply, Value::Integer(_)), "{reply:?}");
                        acknowledged += 1;
                    }
                }
                acknowledged
            })
        };
        let script = "EVAL return(redis.call('hincrby',KEYS[1],'a',1)) 1 plain:1";
        let counters: Vec<_> = [stack.address(), second.address()]
            .into_iter()
            .flat_map(|address| {
                ["HINCRBY plain:1 a 1", "HINCRBY plain:1 a 1", script]
                    .map(|command| count(address.clone(), command))
            })
            .collect();
        let mut operator = stack.client().await;
        wait_until("they count", async || {
            matches!(operator.say("HGET plain:1 a").await, Value::Bulk(count) if count.len() > 2)
        })
        .await;
        assert_eq!(operator.say(&format!("RESPGRES STRATEGY plain {target}")).await, ok());
        let Value::Bulk(now) = operator.say("HGET plain:1 a").await else { panic!() };
        wait_until("they go on", async || {
            operator.say("HGET plain:1 a").await != Value::Bulk(now.clone())
        })
        .await;
        stop.store(true, Ordering::Relaxed);
        let mut acknowledged = 0;
        for counter in counters {
            acknowledged += counter.await.unwrap();
        }
        assert_eq!(
            operator.say("HGET plain:1 a").await,
            bulk(&acknowledged.to_string()),
            "{target}"
        );
        stack.flushed().await;
        let row = stack.sql_text("select extra ->> 'a' from plain where id = 1").await;
        assert_eq!(row, acknowledged.to_string(), "{target}");
        drop(second);
        stack.stop_expecting(&[]).await;
    }
}

#[tokio::test]
async fn rows_from_before_do_not_hide_what_redis_has() {
    let stack = stack().await;
    let mut client = stack.client().await;
    client.say("HSET plain:1 a new").await;
    stack
        .sql_execute(
            "insert into plain (id, extra) values (1, '{\"a\": \"old\"}'), (2, '{\"a\": \"gone\"}');
             insert into respgres.moved (mapping, key) values ('plain', 'plain:1')",
        )
        .await;
    let Value::Error(told) = client.say("RESPGRES STRATEGY plain dual_write").await else {
        panic!()
    };
    assert!(told.contains("its table has rows from before"), "{told}");
    let (done, _, told) = stack.run(&["strategy", "set", "dual_write", "--mapping", "plain"]);
    assert!(!done && told.contains("--discard-rows"), "{told}");
    assert_eq!(stack.sql_i64("select count(*) from plain").await, 2);
    assert_eq!(strategy(&mut client).await, "redis_only");
    let words = ["strategy", "set", "dual_write", "--mapping", "plain", "--discard-rows"];
    let (done, told, error) = stack.run(&words);
    assert!(done && told.starts_with("plain: dual_write; clients waited"), "{told}{error}");
    assert_eq!(client.say("HSET plain:1 b 1").await, Value::Integer(1));
    assert_eq!(client.say("HGET plain:1 a").await, bulk("new"));
    assert_eq!(client.say("EXISTS plain:2").await, Value::Integer(0));
    assert_eq!(stack.sql_i64("select count(*) from plain").await, 1);
    stack.stop_expecting(&["a strategy was not changed"]).await;
}

#[tokio::test]
async fn transactions_that_are_open_fail_and_who_waits_for_elements_holds_nothing_up() {
    let stack = stack().await;
    let (mut queues, mut watches) = (stack.client().await, stack.client().await);
    let (mut waits, mut elsewhere) = (stack.client().await, stack.client().await);
    let (mut watches_both, mut gives_up) = (stack.client().await, stack.client().await);
    let mut operator = stack.client().await;
    for line in ["WATCH plain:2 thing:1", "MULTI", "INCR number"] {
        assert!(!watches_both.say(line).await.is_error(), "{line}");
    }
    let mut errs = stack.client().await;
    for client in [&mut gives_up, &mut errs] {
        assert_eq!(client.say("WATCH plain:1").await, ok());
    }
    for line in ["MULTI", "HINCRBY plain:1 a 1"] {
        assert!(!queues.say(line).await.is_error(), "{line}");
    }
    for line in ["WATCH plain:1", "HGET plain:1 a"] {
        assert!(!watches.say(line).await.is_error(), "{line}");
    }
    for line in ["MULTI", "INCR number"] {
        assert!(!elsewhere.say(line).await.is_error(), "{line}");
    }
    waits.send(b"BLPOP list 0\r\n").await;
    wait_until("it waits", async || {
        let Value::Bulk(info) = stack.redis.say("INFO clients").await else { panic!() };
        String::from_utf8_lossy(&info).contains("blocked_clients:1")
    })
    .await;
    assert_eq!(operator.say("RESPGRES STRATEGY plain postgres_only").await, ok());
    assert_eq!(operator.say("HSET plain:1 a 5").await, Value::Integer(1));
    // Of this one Redis never hears.
    assert_eq!(operator.say("HSET plain:2 a 5").await, Value::Integer(1));
    for line in ["MULTI", "HINCRBY plain:1 a 1"] {
        assert!(!watches.say(line).await.is_error(), "{line}");
    }
    for line in ["UNWATCH", "MULTI"] {
        assert_eq!(gives_up.say(line).await, ok());
    }
    assert_eq!(gives_up.say("EXEC").await, Value::Array(Vec::new()));
    assert_eq!(errs.say("MULTI").await, ok());
    assert!(errs.say("GET").await.is_error());
    let aborted = "EXECABORT Transaction discarded because of previous errors.".to_owned();
    for (client, expected) in [
        (&mut queues, Value::Error(aborted.clone())),
        // Redis, too, says so first.
        (&mut errs, Value::Error(aborted)),
        (&mut watches, Value::NilArray),
        (&mut watches_both, Value::NilArray),
    ] {
        assert_eq!(client.say("EXEC").await, expected);
        assert_eq!(client.say("HGET plain:1 a").await, bulk("5"));
        // And the next one is run.
        for line in ["MULTI", "HGET plain:1 a"] {
            assert!(!client.say(line).await.is_error(), "{line}");
        }
        assert_eq!(client.say("EXEC").await, Value::Array(vec![bulk("5")]));
    }
    assert_eq!(elsewhere.say("EXEC").await, Value::Array(vec![Value::Integer(1)]));
    operator.say("RPUSH list x").await;
    assert_eq!(waits.reply().await, Value::Array(vec![bulk("list"), bulk("x")]));
    stack.stop_expecting(&[]).await;
}

/// A script that is under way on such a key is waited for; if it takes too long all stays as it was.
#[tokio::test]
async fn who_is_still_at_it_is_waited_for() {
    // While it runs Redis answers nobody. (A Redis whose clock stands still in scripts counts.)
    let stack = Stack::builder(MAPPINGS)
        .set("RESPGRES__UPSTREAM__ADMIN_COMMANDS", "true")
        .set("RESPGRES__UPSTREAM__CONNECT_TIMEOUT", "30s")
        .set("RESPGRES__UPSTREAM__REQUEST_TIMEOUT", "30s")
        .start()
        .await;
    let second = stack.start_second_proxy().await;
    let mut slow = Client::connect(&second).await;
    slow.send(
        b"EVAL \"local function now() local t = redis.call('time') return t[1] * 1000 + t[2] / 1000 end; \
          local start, n = now(), 0; while now() - start < 300 and n < 600000 do n = n + 1 end; \
          return redis.call('hset', KEYS[1], 'a', 'late')\" 1 plain:1\r\n",
    )
    .await;
    let words = ["strategy", "set", "dual_write", "--mapping", "plain"];
    let (done, told, error) = stack.run(&words);
    assert!(done, "{told}{error}");
    assert_eq!(slow.reply().await, Value::Integer(1));
    assert_eq!(slow.say("HSET plain:1 b 1").await, Value::Integer(1));
    assert_eq!(stack.sql_text("select extra ->> 'a' from plain where id = 1").await, "late");
    drop(second);
    stack.stop_allowing(&[], &["Redis", "upstream", "Postgres", "strategy"]).await;
}

#[tokio::test]
async fn a_switcher_that_dies_leaves_it_in_redis_alone() {
    let stack = stack().await;
    let mut client = stack.client().await;
    client.say("HSET plain:1 a 1").await;
    let version = r#"{"version": 1, "strategy": "redis_only", "target": "dual_write"}"#;
    stack
        .sql_execute(&format!(
            "insert into respgres.control values ('mapping:plain', '{version}') \
                  on conflict (name) do update set value = control.value || excluded.value"
        ))
        .await;
    wait_until("it is called off", async || entry(&stack, "version").await.as_deref() == Some("2"))
        .await;
    assert_eq!(entry(&stack, "phase").await, None);
    wait_until("all goes on", async || client.say("HSET plain:1 a 2").await == Value::Integer(0))
        .await;
    assert_eq!(strategy(&mut client).await, "redis_only");
    assert_eq!(stack.sql_i64("select count(*) from plain").await, 0);
    assert_eq!(stack.redis.say("HGET plain:1 a").await, bulk("2"));
    assert_eq!(client.say("RESPGRES STRATEGY plain cache_first").await, ok());
    assert_eq!(client.say("HINCRBY plain:1 a 1").await, Value::Integer(3));
    stack.stop_expecting(&[]).await;
}

/// It is taken for dead, and others have gone on: what it would pass through is past them.
#[tokio::test]
async fn a_proxy_that_stood_still_passes_nothing_through() {
    let stack = stack().await;
    let mut second = stack.start_second_proxy().await;
    let (mut client, mut sleeper) = (stack.client().await, Client::connect(&second).await);
    assert_eq!(sleeper.say("HSET plain:1 a old").await, Value::Integer(1));
    second.process().signal("STOP");
    sleeper.send(b"HSET plain:1 a late\r\n").await;
    assert_eq!(client.say("RESPGRES STRATEGY plain dual_write").await, ok());
    assert_eq!(client.say("HSET plain:1 a new").await, Value::Integer(0));
    second.process().signal("CONT");
    let expected = match sleeper.reply().await {
        Value::Error(text) => {
            assert!(
                text.ends_with("nothing was done") || text.contains("nothing was written"),
                "{text}"
            );
            "new"
        }
        reply => {
            assert_eq!(reply, Value::Integer(0));
            "late"
        }
    };
    assert_eq!(stack.sql_text("select extra ->> 'a' from plain").await, expected);
    // Where it has written past Redis, which it had lost, the copy goes a moment later.
    wait_until("all see it", async || client.say("HGET plain:1 a").await == bulk(expected)).await;
    wait_until("it goes by what holds", async || {
        sleeper.say("HSET plain:1 a last").await == Value::Integer(0)
    })
    .await;
    assert_eq!(stack.sql_text("select extra ->> 'a' from plain").await, "last");
    second.stop_allowing(&[], &["Postgres", "upstream", "failed", "lost", "looked for"]).await;
    stack.stop_allowing(&[], &["failed"]).await;
}

#[tokio::test]
async fn a_table_that_does_not_fit_is_told_of_and_hurts_nobody() {
    let mut stack = stack().await;
    stack.sql_execute("drop table plain").await;
    stack.proxy.restart().await;
    let mut client = stack.client().await;
    assert_eq!(client.say("HSET plain:1 a 1").await, Value::Integer(1));
    let Value::Error(told) = client.say("RESPGRES STRATEGY plain dual_write").await else {
        panic!()
    };
    assert!(told.contains("its table does not fit it"), "{told}");
    let (done, _, told) = stack.run(&["strategy", "set", "dual_write", "--mapping", "plain"]);
    assert!(!done && told.contains("`respgres schema --apply`"), "{told}");
    assert_eq!(client.say("HGET plain:1 a").await, bulk("1"));
    assert_eq!(client.say("PING").await, Value::Status("PONG".into()));
    stack.stop_expecting(&[]).await;
}
