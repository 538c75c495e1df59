//! Jobs lose their part in moving keys, as their sessions end, and mappings go elsewhere meanwhile.

use crate::stack::process::Process;
use crate::stack::{Client, Stack, Value, wait_until};
use crate::verify::filled_stack;
use crate::{fill_redis, stack};

/// Who has a part in moving keys, which keeps mappings where they are.
const PARTS: &str =
    "pg_locks l join pg_database d on d.oid = l.database and d.datname = current_database()
    where l.locktype = 'advisory' and l.classid = 1919251312 and l.objid = 5";

/// Takes all of it.
const TAKE_ALL: &str = "select pg_try_advisory_lock(1919251312, 5)";

/// A backfill that stands still in the middle, whose sessions Postgres has ended.
async fn cut_off(stack: &Stack) -> Process {
    fill_redis(stack, 1, 5000).await;
    let process = stack.begin(&["backfill", "--mapping", "hashes", "--rate", "500"]);
    wait_until("some keys have come over", async || {
        stack.sql_i64("select count(*) from hashes").await >= 250
    })
    .await;
    process.signal("STOP");
    assert!(stack.sql_i64(&format!("select count(*) from {PARTS}")).await > 0);
    let end = format!("select count(pg_terminate_backend(l.pid, 5000)) from {PARTS}");
    stack.sql_i64(&end).await;
    process
}

#[tokio::test]
async fn one_that_has_lost_its_part_in_moving_keys_ends_when_another_has_all_of_it() {
    let stack = stack(&[]).await;
    let mut process = cut_off(&stack).await;
    assert_eq!(stack.sql_text(TAKE_ALL).await, "true");
    let there = stack.sql_i64("select count(*) from hashes").await;
    let (status, log) = process.stop("CONT").await;
    let log = log.join("\n");
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(log.contains("a mapping is just going back to Redis alone"), "{log}");
    assert_eq!(stack.sql_i64("select count(*) from hashes").await, there, "{log}");
    stack.stop_expecting(&[]).await;
}

#[tokio::test]
async fn one_that_finds_its_mapping_gone_back_to_redis_alone_leaves_the_keys_there() {
    let stack = stack(&[]).await;
    let mut process = cut_off(&stack).await;
    let (done, told, error) = stack.run(&["rollback", "--force", "--mapping", "hashes"]);
    assert!(done, "{told}{error}");
    let there = stack.sql_i64("select count(*) from hashes").await;
    let (status, log) = process.stop("CONT").await;
    let log = log.join("\n");
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(log.contains("or has done so meanwhile"), "{log}");
    assert_eq!(stack.sql_i64("select count(*) from hashes").await, there, "{log}");
    // None of them is a copy by now, which would end.
    let script = "local all = redis.call('KEYS', 'h:*') local ends = 0 \
                  for _, key in ipairs(all) do if redis.call('PTTL', key) ~= -1 then ends = ends + 1 end end \
                  return {#all, ends}";
    let mut redis = Client::connect(&stack.redis).await;
    let told = redis.command(&["EVAL", script, "0"]).await;
    assert_eq!(told, Value::Array(vec![Value::Integer(5000), Value::Integer(0)]));
    stack.stop_expecting(&[]).await;
}

/// Its sessions may end, as long as nobody has taken a mapping elsewhere.
#[tokio::test]
async fn one_whose_sessions_have_ended_goes_on_over_new_ones() {
    let stack = stack(&[]).await;
    let mut process = cut_off(&stack).await;
    let (status, log) = process.stop("CONT").await;
    let log = log.join("\n");
    assert_eq!(status.code(), Some(0), "{log}");
    assert_eq!(stack.sql_i64("select count(*) from hashes").await, 5000, "{log}");
    stack.stop_expecting(&[]).await;
}

/// A warm-up that goes on while nobody is to make copies would leave some that are believed afterwards.
#[tokio::test]
async fn while_one_runs_no_mapping_becomes_or_leaves_postgres_only() {
    let stack = filled_stack().await;
    let change = |strategy| stack.run(&["strategy", "set", strategy, "--mapping", "hashes"]);
    let begin = async || {
        let process =
            stack.begin(&["sync", "--from", "postgres", "--to", "redis", "--rate", "200"]);
        let parts = format!("select count(*) from {PARTS}");
        wait_until("it has begun", async || stack.sql_i64(&parts).await > 0).await;
        process
    };
    let refused = |strategy| {
        let (done, _, error) = change(strategy);
        assert!(!done && error.contains("keys are just being moved"), "{error}");
    };
    let mut process = begin().await;
    refused("postgres_only");
    let (done, _, error) = change("cache_first");
    assert!(done, "{error}");
    refused("postgres_only");
    assert_eq!(process.stop("INT").await.0.code(), Some(1));
    let (done, _, error) = change("postgres_only");
    assert!(done, "{error}");
    let mut process = begin().await;
    refused("dual_write");
    let told = stack.run(&["strategy", "get", "--mapping", "hashes"]).1;
    assert!(told.starts_with("hashes: postgres_only"), "{told}");
    process.stop("INT").await;
    let (done, _, error) = change("dual_write");
    assert!(done, "{error}");
    stack.stop_allowing(&[], &["strategy"]).await;
}
