//! The strategy of a mapping is changed for all proxies at once: who may, what is refused, and what happens to
//! proxies, switchers and stores that are gone meanwhile.

use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use crate::stack::{Client, Cluster, Stack, Value, wait_until};

const MAPPINGS: &str = r#"
[[mapping]]
name = "things"
key = "thing:{id:int}"
table = "things"
extra = "extra"

[[mapping]]
name = "others"
key = "other:{id:int}"
table = "others"
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

async fn strategy(client: &mut Client, mapping: &str) -> String {
    match client.say(&format!("RESPGRES STRATEGY {mapping}")).await {
        Value::Array(told) => String::from_utf8_lossy(told[1].bytes().unwrap()).into_owned(),
        other => panic!("{other:?}"),
    }
}

/// The right to change strategies, by hand.
async fn change_rights(stack: &Stack, how: &str) {
    stack.sql_execute(&format!("select pg_advisory_{how}(x'72657370'::int, 4)")).await;
}

#[tokio::test]
async fn who_looks_after_the_dead_for_a_moment_is_in_nobodys_way() {
    let stack = stack().await;
    let mut client = stack.client().await;
    change_rights(&stack, "lock").await;
    let switching = client.say("RESPGRES STRATEGY things database_first");
    let looking = async {
        stack.sql_execute("select pg_sleep(0.1)").await;
        change_rights(&stack, "unlock").await;
    };
    assert_eq!(tokio::join!(switching, looking).0, ok());
    change_rights(&stack, "lock").await;
    let told = error(&mut client, "RESPGRES STRATEGY things dual_write").await;
    assert!(told.contains("another strategy is just being changed"), "{told}");
    change_rights(&stack, "unlock").await;
    stack.stop_expecting(&["a strategy was not changed"]).await;
}

async fn error(client: &mut Client, line: &str) -> String {
    match client.say(line).await {
        Value::Error(text) => text,
        other => panic!("{line}: {other:?}"),
    }
}

/// The entry of `things`.
async fn entry(stack: &Stack, member: &str) -> Option<String> {
    let query =
        format!("select value ->> '{member}' from respgres.control where name = 'mapping:things'");
    stack.sql_optional_text(&query).await
}

#[tokio::test]
async fn what_is_said_holds_for_all_and_over_restarts() {
    let mut stack = stack().await;
    let second = stack.start_second_proxy().await;
    let (mut client, mut other) = (stack.client().await, Client::connect(&second).await);
    client.say("HSET thing:1 a 1").await;
    // What others keep there stays.
    let kept = "insert into respgres.control values ('mapping:things', '{\"other\": \"x\"}') \
                  on conflict (name) do update set value = control.value || excluded.value";
    stack.sql_execute(kept).await;
    assert_eq!(client.say("RESPGRES STRATEGY things postgres_only").await, ok());
    assert_eq!(strategy(&mut other, "things").await, "postgres_only");
    assert_eq!(strategy(&mut other, "others").await, "dual_write");
    assert_eq!(entry(&stack, "other").await.as_deref(), Some("x"));
    assert_eq!(stack.redis.say("EXISTS thing:1 respgres:m:thing:1").await, Value::Integer(0));
    other.say("HSET thing:1 a 2").await;
    assert_eq!(client.say("HGET thing:1 a").await, bulk("2"));
    assert_eq!(stack.redis.say("EXISTS thing:1").await, Value::Integer(0));
    let Value::Array(told) = client.say("RESPGRES EXPLAIN thing:1").await else { panic!() };
    let by_order =
        "postgres_only: no copy in Redis (by order, whatever the configuration file says)";
    assert!(told.contains(&bulk(by_order)), "{told:?}");
    let (_, told, _) = stack.run(&["explain", "thing:1"]);
    assert!(told.contains(by_order), "{told}");

    stack.proxy.restart().await;
    let mut client = stack.client().await;
    assert_eq!(strategy(&mut client, "things").await, "postgres_only");
    let (done, told, _) = stack.run(&["strategy", "get"]);
    let lines = ["things: postgres_only, by order", "others: dual_write", "plain: redis_only"];
    assert!(done && told.lines().eq(lines), "{told}");
    let (done, told, error) = stack.run(&["strategy", "set", "dual_write"]);
    assert!(done, "{error}");
    assert!(told.starts_with("things: dual_write; clients waited for "), "{told}");
    assert!(told.contains("others: is dual_write already"), "{told}");
    assert_eq!(strategy(&mut other, "things").await, "dual_write");
    assert_eq!(client.say("HGET thing:1 a").await, bulk("2"));
    wait_until("it is cached again", async || {
        client.say("HGET thing:1 a").await;
        stack.redis.say("EXISTS thing:1").await == Value::Integer(1)
    })
    .await;
    drop(second);
    stack.stop_expecting(&[]).await;
}

#[tokio::test]
async fn what_cannot_be_is_refused_and_says_why() {
    let stack = stack().await;
    let mut client = stack.client().await;
    let check = async |client: &mut Client, line: &str, expected: &str| {
        let told = error(client, line).await;
        assert!(told.contains(expected), "{line}: {told}");
    };
    let all = "there is no mapping \"nothing\"; RESPGRES STRATEGY tells which there are";
    check(&mut client, "RESPGRES STRATEGY nothing", all).await;
    check(&mut client, "RESPGRES STRATEGY nothing dual_write", all).await;
    let names = "there is no strategy \"dualwrite\"; did you mean \"dual_write\"?";
    check(&mut client, "RESPGRES STRATEGY things dualwrite", names).await;
    let file = "a mapping becomes redis_only by the command line";
    check(&mut client, "RESPGRES STRATEGY things redis_only", file).await;
    let (done, _, told) = stack.run(&["strategy", "set", "dual_write", "--mapping", "nothing"]);
    let names = "there is no mapping \"nothing\"; there are: things, others, plain";
    assert!(!done && told.contains(names), "{told}");
    stack.redis.say("CONFIG SET maxmemory-policy allkeys-lru").await;
    check(&mut client, "RESPGRES STRATEGY things cache_first", "use noeviction").await;
    let arity = "wrong number of arguments for 'respgres|strategy' command";
    check(&mut client, "RESPGRES STRATEGY a b c", arity).await;
    assert_eq!(strategy(&mut client, "things").await, "dual_write");
    assert_eq!(entry(&stack, "version").await, None);
    stack.stop_expecting(&["a strategy was not changed"]).await;

    let stack = Stack::with_mappings(MAPPINGS).await;
    let mut client = stack.client().await;
    check(&mut client, "RESPGRES STRATEGY things postgres_only", "NOPERM RESPGRES STRATEGY").await;
    assert_eq!(strategy(&mut client, "things").await, "dual_write");
    stack.stop_expecting(&[]).await;
}

/// It is taken for dead, and wakes when the others have gone on.
#[tokio::test]
async fn a_proxy_that_stood_still_neither_reads_nor_writes_by_the_old_strategy() {
    let stack = stack().await;
    let mut second = stack.start_second_proxy().await;
    let (mut client, mut sleeper) = (stack.client().await, Client::connect(&second).await);
    assert_eq!(client.say("RESPGRES STRATEGY things postgres_only").await, ok());
    client.say("HSET thing:1 a old").await;
    sleeper.say("HGET thing:1 a").await;
    second.process().signal("STOP");
    sleeper.send(b"HSET thing:1 a late\r\n").await;
    assert_eq!(client.say("RESPGRES STRATEGY things dual_write").await, ok());
    client.say("HSET thing:1 a new").await;
    wait_until("it is cached", async || {
        client.say("HGET thing:1 a").await;
        stack.redis.say("HGET thing:1 a").await == bulk("new")
    })
    .await;
    second.process().signal("CONT");
    // Either it says that nothing was done, or it has written as all do.
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
    assert_eq!(client.say("HGET thing:1 a").await, bulk(expected));
    wait_until("it goes by what holds", async || {
        strategy(&mut sleeper, "things").await == "dual_write"
            && sleeper.say("HSET thing:1 a last").await == Value::Integer(0)
    })
    .await;
    for client in [&mut client, &mut sleeper] {
        assert_eq!(client.say("HGET thing:1 a").await, bulk("last"));
    }

    // And the other way: what it would have read from Redis.
    second.process().signal("STOP");
    sleeper.send(b"HGET thing:1 a\r\n").await;
    assert_eq!(client.say("RESPGRES STRATEGY things postgres_only").await, ok());
    // A copy as a late message might make one.
    stack.redis.say("HSET thing:1 a stale").await;
    client.say("HSET thing:1 a newest").await;
    second.process().signal("CONT");
    let told = sleeper.reply().await;
    assert!(told.is_error() || told == bulk("newest"), "{told:?}");
    wait_until("it goes by what holds", async || {
        let told = sleeper.say("HGET thing:1 a").await;
        assert!(told.is_error() || told == bulk("newest"), "{told:?}");
        !told.is_error()
    })
    .await;
    second.stop_allowing(&[], &["Postgres", "upstream", "failed", "lost", "looked for"]).await;
    stack.stop_allowing(&[], &["failed"]).await;
}

#[tokio::test]
async fn a_switcher_that_dies_is_called_off() {
    let stack = stack().await;
    let mut client = stack.client().await;
    client.say("HSET thing:1 a 1").await;
    // It has said what it is about to do, and no more.
    let version = r#"{"version": 1, "strategy": "dual_write", "target": "postgres_only"}"#;
    stack
        .sql_execute(&format!(
            "insert into respgres.control values ('mapping:things', '{version}') \
                  on conflict (name) do update set value = control.value || excluded.value"
        ))
        .await;
    wait_until("it is called off", async || entry(&stack, "version").await.as_deref() == Some("2"))
        .await;
    assert_eq!(entry(&stack, "target").await, None);
    wait_until("all goes on", async || client.say("HSET thing:1 a 2").await == Value::Integer(0))
        .await;
    assert_eq!(strategy(&mut client, "things").await, "dual_write");

    // It waits for a proxy that does not answer, and is killed there.
    let second = stack.start_second_proxy().await;
    second.process().signal("STOP");
    let mut command = stack.command(&["strategy", "set", "postgres_only", "--mapping", "things"]);
    let mut switcher = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    wait_until("it waits", async || {
        entry(&stack, "target").await.as_deref() == Some("postgres_only")
    })
    .await;
    switcher.kill().unwrap();
    switcher.wait().unwrap();
    wait_until("it is called off", async || entry(&stack, "target").await.is_none()).await;
    assert_eq!(client.say("HSET thing:1 a 3").await, Value::Integer(0));
    assert_eq!(strategy(&mut client, "things").await, "dual_write");
    second.process().signal("CONT");
    drop(second);
    // The next one has a free way.
    wait_until("the other is gone", async || {
        client.say("RESPGRES STRATEGY things postgres_only").await == ok()
    })
    .await;
    stack.stop_allowing(&[], &["a strategy was not changed"]).await;
}

#[tokio::test]
async fn loans_that_wait_at_a_gate_hold_up_no_others() {
    let stack = stack().await;
    let second = stack.start_second_proxy().await;
    let mut client = stack.client().await;
    client.say("HSET other:1 a 1").await;
    second.process().signal("STOP");
    let mut first = stack.command(&["strategy", "set", "database_first", "--mapping", "things"]);
    let mut first = first.stdout(Stdio::null()).spawn().unwrap();
    wait_until("it waits", async || entry(&stack, "target").await.is_some()).await;
    // More of them than there are lenders.
    let mut waiting = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let mut client = stack.client().await;
        waiting.spawn(async move {
            client.say("MULTI").await;
            client.say("HINCRBY thing:1 n 1").await;
            client.say("EXEC").await
        });
    }
    client.say("MULTI").await;
    client.say("HINCRBY other:1 a 1").await;
    let told = client.say("EXEC").await;
    assert_eq!(told, Value::Array(vec![Value::Integer(2)]));
    assert!(first.try_wait().unwrap().is_none(), "the gate is still closed");
    assert!(waiting.try_join_next().is_none());
    assert!(first.wait().unwrap().success(), "the one that stood still is dead by then");
    let told = waiting.join_all().await;
    assert!(told.iter().all(|told| matches!(told, Value::Array(_))), "{told:?}");
    assert_eq!(client.say("HGET thing:1 n").await, bulk("8"));
    second.process().signal("CONT");
    drop(second);
    stack.stop_expecting(&[]).await;
}

#[tokio::test]
async fn what_is_watched_or_looked_up_waits_at_the_gate_too() {
    let stack = stack().await;
    let second = stack.start_second_proxy().await;
    let mut client = stack.client().await;
    client.say("HSET thing:1 n 1").await;
    client.say("RPUSH list 1").await;
    second.process().signal("STOP");
    let mut first = stack.command(&["strategy", "set", "database_first", "--mapping", "things"]);
    let mut first = first.stdout(Stdio::null()).spawn().unwrap();
    let closed = Value::Error(
        "TRYAGAIN the strategy of the key's mapping is just being changed; nothing was done".into(),
    );
    wait_until("its keys are not looked up any more", async || {
        client.say("SORT list BY thing:*->n").await == closed
    })
    .await;
    let mut waiting = tokio::task::JoinSet::new();
    for watch in ["WATCH thing:1", "WATCH thing:1 list"] {
        let mut client = stack.client().await;
        waiting.spawn(async move { client.say(watch).await });
    }
    for _ in 0..3 {
        assert_eq!(client.say("WATCH other:1 list").await, ok());
    }
    assert_eq!(client.say("SORT list BY thing:*->n").await, closed);
    assert!(first.try_wait().unwrap().is_none(), "the gate is still closed");
    assert!(waiting.try_join_next().is_none());
    assert!(first.wait().unwrap().success(), "the one that stood still is dead by then");
    assert!(waiting.join_all().await.iter().all(|told| *told == ok()));
    let sorted = client.say("SORT list BY thing:*->n").await;
    assert_eq!(sorted, Value::Array(vec![bulk("1")]));
    second.process().signal("CONT");
    drop(second);
    stack.stop_expecting(&[]).await;
}

#[tokio::test]
async fn two_at_once_do_not_mix() {
    let stack = stack().await;
    let second = stack.start_second_proxy().await;
    second.process().signal("STOP");
    let mut first = stack.command(&["strategy", "set", "postgres_only", "--mapping", "things"]);
    let mut first = first.stdout(Stdio::null()).spawn().unwrap();
    wait_until("it waits", async || entry(&stack, "target").await.is_some()).await;
    let (done, _, told) = stack.run(&["strategy", "set", "cache_first", "--mapping", "others"]);
    assert!(!done && told.contains("another strategy is just being changed"), "{told}");
    assert!(first.wait().unwrap().success(), "the one that stood still is dead by then");
    assert_eq!(entry(&stack, "strategy").await.as_deref(), Some("postgres_only"));
    second.process().signal("CONT");
    drop(second);
    stack.stop_expecting(&[]).await;
}

#[tokio::test]
async fn without_a_store_nothing_is_changed() {
    let cluster = Arc::new(Cluster::start(false).await);
    let builder = Stack::builder(MAPPINGS).set("RESPGRES__UPSTREAM__ADMIN_COMMANDS", "true");
    let mut stack = builder.cluster(Arc::clone(&cluster)).start().await;
    let mut client = stack.client().await;
    client.say("HSET thing:1 a 1").await;
    stack.redis.kill();
    let told = error(&mut client, "RESPGRES STRATEGY things postgres_only").await;
    let text = "ERR the upstream Redis does not answer as it should; the strategy is as it was";
    assert_eq!(told, text);
    assert_eq!(entry(&stack, "version").await, None);
    stack.redis.restart().await;
    wait_until("writes go on", async || !client.say("HSET thing:1 a 1").await.is_error()).await;
    cluster.kill();
    let told = error(&mut client, "RESPGRES STRATEGY things postgres_only").await;
    assert!(told.contains("Postgres"), "{told}");
    cluster.restart().await;
    wait_until("writes go on", async || !client.say("HSET thing:1 a 1").await.is_error()).await;
    assert_eq!(strategy(&mut client, "things").await, "dual_write");
    wait_until("it may be changed again", async || {
        client.say("RESPGRES STRATEGY things postgres_only").await == ok()
    })
    .await;
    let allowed = ["Redis", "Postgres", "upstream", "past", "strategy", "failed"];
    stack.proxy.stop_allowing(&[], &allowed).await;
}

#[tokio::test]
async fn what_was_written_past_redis_has_left_it_before_the_strategy_is_another() {
    let stack = stack().await;
    let mut client = stack.client().await;
    client.say("HSET thing:1 a 1").await;
    wait_until("it is cached", async || {
        client.say("HGET thing:1 a").await;
        stack.redis.say("EXISTS thing:1").await == Value::Integer(1)
    })
    .await;
    // It is not woken for this.
    stack
        .sql_execute(
            "update things set extra = '{\"a\": \"5\"}';
             insert into respgres.outbox (mapping, key) values ('things', 'thing:1')",
        )
        .await;
    assert_eq!(client.say("RESPGRES STRATEGY things cache_first").await, ok());
    assert_eq!(client.say("HINCRBY thing:1 a 1").await, Value::Integer(6));
    stack.stop_expecting(&[]).await;
}

/// Clients in the middle of a transaction hold nothing up.
#[tokio::test]
async fn open_transactions_wait_for_nothing_and_go_by_what_holds() {
    let stack = stack().await;
    let mut client = stack.client().await;
    let mut operator = stack.client().await;
    client.say("HSET thing:1 a 1").await;
    for line in ["WATCH thing:1", "MULTI", "HINCRBY thing:1 a 1"] {
        assert!(!client.say(line).await.is_error(), "{line}");
    }
    assert_eq!(operator.say("RESPGRES STRATEGY things postgres_only").await, ok());
    assert_eq!(client.say("EXEC").await, Value::Array(vec![Value::Integer(2)]));
    assert_eq!(stack.redis.say("EXISTS thing:1").await, Value::Integer(0));
    assert_eq!(operator.say("HGET thing:1 a").await, bulk("2"));
    // A switcher that waits for somebody does so for ten seconds.
    let switching = operator.say("RESPGRES STRATEGY things dual_write");
    let told = tokio::time::timeout(Duration::from_secs(9), switching).await;
    assert_eq!(told.unwrap(), ok());
    assert_eq!(client.say("HGET thing:1 a").await, bulk("2"));
    stack.stop_expecting(&[]).await;
}

#[tokio::test]
async fn a_mapping_that_has_not_migrated_keeps_what_only_redis_has() {
    let stack = stack().await;
    let mut client = stack.client().await;
    let (done, _, error) = stack.run(&["phase", "set", "dual_write", "--mapping", "things"]);
    assert!(done, "{error}");
    stack.redis.say("HSET thing:7 a 1").await;
    let (done, _, error) = stack.run(&["strategy", "set", "postgres_only", "--mapping", "things"]);
    assert!(!done && error.contains("has not migrated"), "{error}");
    assert_eq!(client.say("HGET thing:7 a").await, Value::Bulk(b"1".to_vec()));
    // Nor is a value without an end dropped later: it is no copy.
    let (done, _, error) = stack.run(&["phase", "set", "migrated", "--force"]);
    assert!(done, "{error}");
    let (done, _, error) = stack.run(&["strategy", "set", "postgres_only", "--mapping", "things"]);
    assert!(done, "{error}");
    assert_eq!(stack.redis.say("HGET thing:7 a").await, Value::Bulk(b"1".to_vec()));
    stack.stop_allowing(&[], &["strategy"]).await;
}
