//! Verify finds every difference that there is and none that there is not, and repairs either side.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::task::JoinSet;

use crate::stack::{Client, Random, Server, Stack, Value, wait_until};
use crate::{bulk, fill_redis, held, stack};

/// Keys that are different in each of the ways below.
const PLANTED: u32 = 200;

/// Both sides are equal, and Redis has a copy of every key.
pub async fn filled_stack() -> Stack {
    let mut stack = stack(&[("RESPGRES__DEFAULTS__CACHE_TTL", "1h")]).await;
    fill_redis(&stack, 1, 2000).await;
    for key in 1..=20 {
        stack.redis.say(&format!("PEXPIRE h:{key} 7200000")).await;
        stack.redis.say(&format!("SADD s:{key} a b c")).await;
        stack.redis.say(&format!("HSET e:{key} a 1 b 2")).await;
    }
    let (done, told, error) = stack.run(&["backfill"]);
    assert!(done, "{told}{error}");
    let (done, _, error) = stack.run(&["phase", "set", "migrated", "--force"]);
    assert!(done, "{error}");
    stack.proxy.restart().await;
    stack.client().await.say("HGET h:1 n").await;
    stack
}

fn first_line(told: &str) -> &str {
    told.split(" repaired").next().unwrap()
}

/// Copies change past respgres, as do rows.
async fn plant(stack: &Stack) {
    let mut redis = Client::connect(&stack.redis).await;
    for at in 0..PLANTED {
        let key = |way: u32| format!("h:{}", 100 + way * PLANTED + at);
        redis.say(&format!("HSET {} name kez", key(0))).await;
        redis.say(&format!("HSET {} more x", key(1))).await;
        redis.say(&format!("PEXPIREAT {} 4000000000001", key(2))).await;
        redis.say(&format!("SET {} text", key(3))).await;
        stack.sql_execute(&format!("delete from hashes where id = '{}'", &key(4)[2..])).await;
    }
}

const FOUND: [&str; 4] = [
    "hashes: 400 keys: different values\n",
    "hashes: 200 keys: different ends\n",
    "hashes: 200 keys: of another type in Redis\n",
    "hashes: 200 keys: missing in Postgres\n",
];

#[tokio::test]
async fn every_difference_is_found_and_repaired_in_redis() {
    let stack = filled_stack().await;
    let (done, told, error) = stack.run(&["verify"]);
    assert!(done, "{told}{error}");
    assert_eq!(first_line(&told), "2040 keys compared, 0 different, 0");
    plant(&stack).await;
    let (done, told, _) = stack.run(&["verify"]);
    assert!(!done, "{told}");
    assert_eq!(first_line(&told), "2040 keys compared, 1000 different, 0");
    for line in FOUND {
        assert!(told.contains(line), "{line}: {told}");
    }
    assert!(told.contains("\"name\" is \"kez\" in Redis, \"key "), "{told}");
    let (done, told, error) = stack.run(&["verify", "--repair", "redis"]);
    assert!(done, "{told}{error}");
    assert_eq!(first_line(&told), "2040 keys compared, 1000 different, 1000");
    let mut client = stack.client().await;
    assert_eq!(client.say("HGET h:100 name").await, bulk("key 100"));
    assert_eq!(client.say("HGET h:700 name").await, bulk("key 700"));
    assert_eq!(client.say("EXISTS h:900").await, Value::Integer(0));
    let (done, told, error) = stack.run(&["verify", "--json"]);
    assert!(done, "{told}{error}");
    let told: serde_json::Value = serde_json::from_str(&told).unwrap();
    assert_eq!((&told["differences"], &told["ended"]), (&0.into(), &true.into()));
    stack.stop_expecting(&[]).await;
}

#[tokio::test]
async fn every_difference_is_repaired_in_postgres() {
    let stack = filled_stack().await;
    plant(&stack).await;
    let mut redis = Client::connect(&stack.redis).await;
    let mut before = Vec::new();
    for key in [100, 300, 500, 900, 1099] {
        before.push((key, held(&mut redis, &format!("h:{key}")).await));
    }
    let (done, told, _) = stack.run(&["verify", "--repair", "postgres"]);
    // What is no hash cannot be a row.
    assert!(!done, "{told}");
    assert_eq!(first_line(&told), "2040 keys compared, 1000 different, 800");
    let (done, told, error) = stack.run(&["verify", "--repair", "redis"]);
    assert!(done, "{told}{error}");
    assert_eq!(first_line(&told), "2040 keys compared, 200 different, 200");
    let mut client = stack.client().await;
    for (key, (value, _)) in before {
        redis.say(&format!("DEL h:{key}")).await;
        assert_eq!(held(&mut client, &format!("h:{key}")).await.0, value, "h:{key}");
    }
    let end = client.say("PEXPIRETIME h:500").await;
    let Value::Integer(end) = end else { panic!("{end:?}") };
    assert!((end - 4_000_000_000_001).abs() < 1000, "{end}");
    assert_eq!(client.say("PTTL h:100").await, Value::Integer(-1));
    stack.stop_expecting(&[]).await;
}

#[tokio::test]
async fn redis_is_filled_and_then_it_is_complete() {
    let stack = filled_stack().await;
    stack.redis.say("DEL h:1 h:2 h:1999 s:3 e:4").await;
    let (done, told, error) = stack.run(&["verify"]);
    assert!(done, "{told}{error}");
    let (done, told, _) = stack.run(&["verify", "--complete"]);
    assert!(!done && told.contains("hashes: 3 keys: missing in Redis\n"), "{told}");
    let (done, told, error) = stack.run(&["sync", "--from", "postgres", "--to", "redis"]);
    assert!(done, "{error}");
    assert!(told.starts_with("2040 keys seen, 5 filled, "), "{told}");
    let (done, told, error) = stack.run(&["verify", "--complete"]);
    assert!(done, "{told}{error}");
    assert_eq!(stack.redis.say("HGET h:1999 name").await, bulk("key 1999"));
    let (done, told, _) = stack.run(&["verify", "--sample", "300"]);
    assert!(done && first_line(&told) == "300 keys compared, 0 different, 0", "{told}");
    stack.redis.say("DEL h:1 s:3").await;
    let (done, told, error) = stack.run(&["verify", "--complete", "--repair", "redis"]);
    assert!(done && told.contains(" 2 different, 2 repaired"), "{told}{error}");
    assert_eq!(stack.redis.say("SCARD s:3").await, Value::Integer(3));
    stack.redis.say("DEL h:1 s:3 e:5").await;
    let (done, told, error) = stack.run(&["verify", "--complete", "--repair", "postgres"]);
    assert!(done && told.contains(" 3 different, 3 repaired"), "{told}{error}");
    let left = "select (select count(*) from hashes where id = '1')
        + (select count(*) from members where id = '3') + (select count(*) from entries where id = '5')";
    assert_eq!(stack.sql_i64(left).await, 0);
    stack.stop_expecting(&[]).await;
}

#[tokio::test]
async fn rows_that_redis_lacks_are_told_and_are_differences_where_it_is_to_have_all() {
    let stack = stack(&[]).await;
    fill_redis(&stack, 1, 1000).await;
    let (done, told, error) = stack.run(&["backfill"]);
    assert!(done, "{told}{error}");
    let (done, told, error) = stack.run(&["verify"]);
    assert!(done && !told.contains("alone"), "{told}{error}");
    // As a client does, and as nobody should.
    stack.client().await.say("HSET h:new n 1").await;
    stack
        .sql_execute(
            "insert into hashes (id, n) select 'extra' || n, n from generate_series(1, 999) n",
        )
        .await;
    let (done, told, error) = stack.run(&["verify"]);
    assert!(done, "{told}{error}");
    assert_eq!(first_line(&told), "1000 keys compared, 0 different, 0");
    assert!(
        told.contains("hashes: 1000 keys: in Postgres alone, which is no difference"),
        "{told}"
    );
    assert!(told.contains("  h:extra"), "{told}");
    let (done, told, error) = stack.run(&["verify", "--json"]);
    assert!(done, "{told}{error}");
    let told: serde_json::Value = serde_json::from_str(&told).unwrap();
    assert_eq!((&told["differences"], &told["remarks"][0]["keys"]), (&0.into(), &1000.into()));
    let (done, told, _) = stack.run(&["verify", "--complete"]);
    assert!(!done && told.contains("hashes: 1000 keys: missing in Redis\n"), "{told}");
    // From then on it is known that copies come and go.
    assert!(stack.run(&["phase", "set", "migrated", "--force"]).0);
    let (done, told, error) = stack.run(&["verify"]);
    assert!(done && !told.contains("alone"), "{told}{error}");
    stack.stop_expecting(&[]).await;
}

/// Another run may have fewer keys, or older ones: what was seen is not what is there, and nobody writes it to rows.
#[tokio::test]
async fn one_is_not_done_while_redis_starts_anew() {
    let mut stack = stack(&[]).await;
    fill_redis(&stack, 1, 200).await;
    assert!(stack.run(&["backfill"]).0);
    assert_eq!(stack.redis.say("SAVE").await, Value::Status("OK".into()));
    stack.sql_execute("update hashes set name = 'newer'").await;
    let mut verify =
        stack.begin(&["verify", "--repair", "postgres", "--rate", "50", "--parallel", "1"]);
    wait_until("it has begun", async || {
        stack.sql_i64("select count(*) from hashes where name <> 'newer'").await > 0
    })
    .await;
    stack.redis.restart().await;
    let (status, log) = verify.finish().await;
    let log = log.join("\n");
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(log.contains("Redis has started anew: begin again"), "{log}");
    assert!(stack.sql_i64("select count(*) from hashes where name = 'newer'").await > 0, "{log}");
    stack.stop_allowing(&[], &["upstream lost", "mapped keys are read", "upstream down"]).await;
}

/// What only Redis has is a difference, and the one that is not repaired by dropping it.
#[tokio::test]
async fn an_original_is_never_dropped() {
    let stack = stack(&[]).await;
    fill_redis(&stack, 1, 10).await;
    let (done, told, _) = stack.run(&["verify", "--repair", "redis"]);
    assert!(!done && told.starts_with("10 keys compared, 10 different, 0 repaired"), "{told}");
    assert_eq!(stack.redis.say("HGET h:10 n").await, bulk("10"));
    let (done, told, error) = stack.run(&["verify", "--repair", "postgres"]);
    assert!(
        done && told.starts_with("10 keys compared, 10 different, 10 repaired"),
        "{told}{error}"
    );
    assert_eq!(stack.sql_i64("select count(*) from hashes").await, 10);
    stack.stop_expecting(&[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_found_while_clients_write() {
    for strategy in ["dual_write", "cache_first"] {
        let stack = stack(&[("RESPGRES__DEFAULTS__STRATEGY", strategy)]).await;
        let second = stack.start_second_proxy().await;
        fill_redis(&stack, 1, 300).await;
        let over = Arc::new(AtomicBool::new(false));
        let mut clients = JoinSet::new();
        for number in 0..6_u64 {
            let address = if number % 2 == 0 { stack.address() } else { second.address() };
            let over = Arc::clone(&over);
            clients.spawn(async move {
                let mut client = Client::connect_to(&address).await;
                let mut random = Random::new(number + 1);
                while !over.load(Ordering::Relaxed) {
                    let key = 1 + random.below(300);
                    let line = match random.below(6) {
                        0 => format!("DEL h:{key}"),
                        1 => format!("SADD s:{key} {}", random.below(9)),
                        2 => format!("HSET e:{key} a {}", random.below(9)),
                        3 => format!("HGETALL h:{key}"),
                        _ => format!("HINCRBY h:{key} n 1"),
                    };
                    let told = client.say(&line).await;
                    assert!(!matches!(told, Value::Error(_)), "{line}: {told:?}");
                }
            });
        }
        let mut filled = stack.begin(&["backfill"]);
        let (status, log) = filled.finish().await;
        assert!(status.success(), "{}", log.join("\n"));
        for _ in 0..3 {
            for arguments in [&["verify"][..], &["sync", "--from", "postgres", "--to", "redis"]] {
                let (status, log) = stack.begin(arguments).finish().await;
                assert!(status.success(), "{strategy}: {}", log.join("\n"));
            }
        }
        over.store(true, Ordering::Relaxed);
        while let Some(client) = clients.join_next().await {
            client.unwrap();
        }
        drop(second);
        stack.stop_expecting(&[]).await;
    }
}
