//! The backfill brings every key over, as it is, once, whatever happens meanwhile.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use tokio::task::JoinSet;

use crate::stack::{Client, Random, Server, Value, wait_until};
use crate::{bulk, fill_redis, held, stack};

const STRATEGIES: [&str; 4] = ["dual_write", "database_first", "postgres_only", "cache_first"];

const KEYS: [&str; 8] = ["h:1", "h:timed", "h:odd", "e:1", "e:timed", "e:many", "s:1", "s:timed"];

#[tokio::test]
async fn every_key_comes_over_as_it_is_and_only_once() {
    for strategy in STRATEGIES {
        let stack = stack(&[("RESPGRES__DEFAULTS__STRATEGY", strategy)]).await;
        let mut redis = Client::connect(&stack.redis).await;
        for line in [
            "HSET h:1 n 5 name old other x",
            "HSET h:timed n 5 name old other x",
            "PEXPIREAT h:timed 4000000000000",
            "HSET e:1 a 1 b 2 c 3",
            "HSET e:timed a 1 b 2 c 3",
            "PEXPIREAT e:timed 4000000000001",
            "SADD s:1 a b c",
            "SADD s:timed a b c",
            "PEXPIREAT s:timed 4000000000000",
            "SET unmapped 1",
        ] {
            redis.say(line).await;
        }
        let odd: Vec<&[u8]> =
            vec![b"HSET", b"h:odd", b"\0\xff", b"\xfe", b"", b"", b"n", b"007", b"name", b"a\0b"];
        redis.command(&odd).await;
        for part in 0..6 {
            let mut words = vec!["HSET".to_owned(), "e:many".to_owned()];
            words.extend((0..2000).map(|at| format!("{}", part * 2000 + at)));
            redis.command(&words).await;
        }
        let mut before = Vec::new();
        for key in KEYS {
            before.push(held(&mut redis, key).await);
        }
        let (done, told, error) = stack.run(&["backfill"]);
        assert!(done, "{told}{error}");
        assert!(told.starts_with("8 keys seen, 8 imported, 0 refused, "), "{strategy}: {told}");
        let (_, phases, _) = stack.run(&["phase", "get"]);
        assert_eq!(phases, "hashes: verify\nentries: verify\nmembers: verify\n");
        // From Postgres alone.
        for key in KEYS {
            redis.say(&format!("DEL {key} respgres:m:{key}")).await;
        }
        let mut client = stack.client().await;
        for (key, (value, end)) in KEYS.iter().zip(before) {
            let (told, told_end) = held(&mut client, key).await;
            assert_eq!(told, value, "{strategy}: {key}");
            match (told_end, end) {
                (Value::Integer(told), Value::Integer(end)) => {
                    assert!((told - end).abs() < 1000, "{strategy}: {key}: {told}, not {end}");
                }
                (told, end) => panic!("{strategy}: {key}: {told:?}, {end:?}"),
            }
        }
        let (done, told, error) = stack.run(&["backfill", "--mapping", "hashes"]);
        assert!(done, "{error}");
        assert!(told.contains(" 0 imported, 0 refused, "), "{strategy}: {told}");
        stack.stop_expecting(&[]).await;
    }
}

#[tokio::test]
async fn what_was_deleted_is_not_brought_back() {
    let stack = stack(&[]).await;
    let mut client = stack.client().await;
    fill_redis(&stack, 1, 300).await;
    for key in 1..=300 {
        assert_eq!(client.say(&format!("DEL h:{key}")).await, Value::Integer(1));
    }
    // An old snapshot.
    fill_redis(&stack, 1, 300).await;
    let (done, told, error) = stack.run(&["backfill"]);
    assert!(done, "{error}");
    assert!(told.starts_with("300 keys seen, 0 imported, 0 refused, "), "{told}");
    assert_eq!(stack.sql_i64("select count(*) from hashes").await, 0);
    stack.stop_expecting(&[]).await;
}

#[tokio::test]
async fn what_the_table_refuses_is_told_and_stops_nothing() {
    let stack = stack(&[]).await;
    fill_redis(&stack, 1, 2000).await;
    for key in [17, 18, 1000, 1999] {
        stack.redis.say(&format!("HSET h:{key} n 5000000")).await;
    }
    stack.redis.say("SET h:text x").await;
    let (done, told, error) = stack.run(&["backfill"]);
    assert!(!done, "{told}");
    assert_eq!(error, "not all keys are as they are to be\n");
    assert!(told.starts_with("2001 keys seen, 1996 imported, 5 refused, "), "{told}");
    let refused = "hashes: 4 keys: mapping \"hashes\", column \"n\", constraint \"hashes_n_check\"";
    assert!(told.contains(refused), "{told}");
    assert!(told.contains("hashes: 1 keys: WRONGTYPE ") && told.contains("  h:text\n"), "{told}");
    for key in ["h:17", "h:18", "h:1000", "h:1999"] {
        assert!(told.contains(key), "{key} is not named: {told}");
    }
    assert_eq!(stack.sql_i64("select count(*) from hashes").await, 1996);
    assert_eq!(stack.redis.say("HGET h:17 n").await, bulk("5000000"));
    // Not all of it has come over.
    let (_, phase, _) = stack.run(&["phase", "get", "--mapping", "hashes"]);
    assert_eq!(phase, "hashes: backfill\n");
    stack.redis.say("DEL h:17 h:18 h:1000 h:1999 h:text").await;
    let (done, told, error) = stack.run(&["backfill"]);
    assert!(done, "{told}{error}");
    stack.stop_expecting(&[]).await;
}

#[tokio::test]
async fn one_that_is_killed_goes_on_where_it_was() {
    let stack = stack(&[]).await;
    fill_redis(&stack, 1, 20_000).await;
    let mut process = stack.begin(&["backfill", "--rate", "5000"]);
    wait_until("some keys have come over", async || {
        stack.sql_i64("select count(*) from hashes").await > 1000
    })
    .await;
    process.kill();
    let there = stack.sql_i64("select count(*) from hashes").await;
    assert!(there < 20_000, "it was too fast to be killed");
    let (_, phase, _) = stack.run(&["phase", "get", "--mapping", "hashes"]);
    assert_eq!(phase, "hashes: backfill\n");
    let (done, told, error) = stack.run(&["backfill"]);
    assert!(done, "{told}{error}");
    // A transaction of the killed one may have been committed since.
    let imported = told.split(", ").nth(1).unwrap().trim_end_matches(" imported");
    let imported: i64 = imported.parse().unwrap();
    assert!((20_000 - there - 2000..=20_000 - there).contains(&imported), "{there}, {told}");
    let sums =
        "select count(*) || ' ' || sum(n) || ' ' || count(*) filter (where name = 'key ' || n
                    and id = n::text and extra = '{\"other\": \"x\"}') from hashes";
    assert_eq!(stack.sql_text(sums).await, "20000 200010000 20000");
    stack.stop_expecting(&[]).await;
}

#[tokio::test]
async fn the_rate_holds_and_an_interrupt_ends_it_well() {
    let stack = stack(&[]).await;
    fill_redis(&stack, 1, 5000).await;
    let start = Instant::now();
    let mut process = stack.begin(&["backfill", "--rate", "1000"]);
    wait_until("some keys have come over", async || {
        stack.sql_i64("select count(*) from hashes").await >= 1500
    })
    .await;
    let seconds = start.elapsed().as_secs_f64();
    assert!(seconds >= 1.4, "1500 keys in {seconds} s");
    let (status, log) = process.stop("INT").await;
    let log = log.join("\n");
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(log.contains("it was ended before its end; begun again, it goes on"), "{log}");
    let there = stack.sql_i64("select count(*) from hashes").await;
    assert!(log.contains(&format!("{there} imported, 0 refused")), "{there}: {log}");
    assert!(there < 5000, "{log}");
    stack.stop_expecting(&[]).await;
}

#[tokio::test]
async fn a_mapping_that_is_not_on_its_way_is_told_so() {
    let stack = stack(&[]).await;
    let (done, _, error) =
        stack.run(&["phase", "set", "migrated", "--mapping", "hashes", "--force"]);
    assert!(done, "{error}");
    let (done, told, error) = stack.run(&["backfill", "--mapping", "hashes"]);
    assert!(done, "{error}");
    assert_eq!(told, "hashes: has migrated: Redis has nothing but copies of it\n");
    let preparation = ["phase", "set", "preparation", "--mapping", "hashes", "--force"];
    assert!(stack.run(&preparation).0);
    let (done, told, error) = stack.run(&["backfill", "--mapping", "hashes"]);
    assert!(!done && error.starts_with("\"hashes\" lives in Redis alone: "), "{told}{error}");
    let (done, _, error) = stack.run(&["backfill", "--mapping", "absent"]);
    assert!(!done && error.contains("there is no mapping \"absent\""), "{error}");
    stack.stop_expecting(&[]).await;
}

/// Clients of two proxies count up while the keys come over. Each number is told once, and none is left out.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_lose_nothing_while_it_runs() {
    const COUNTERS: usize = 600;
    for strategy in ["dual_write", "cache_first"] {
        let stack = stack(&[("RESPGRES__DEFAULTS__STRATEGY", strategy)]).await;
        let second = stack.start_second_proxy().await;
        for key in 1..=COUNTERS {
            stack.redis.say(&format!("HSET h:{key} n 0 name kept")).await;
            stack.redis.say(&format!("HSET e:{key} n 0 name kept")).await;
        }
        let over = Arc::new(AtomicBool::new(false));
        let mut clients: JoinSet<BTreeMap<String, Vec<i64>>> = JoinSet::new();
        for number in 0..8_u64 {
            let address = if number % 2 == 0 { stack.address() } else { second.address() };
            let over = Arc::clone(&over);
            clients.spawn(async move {
                let mut client = Client::connect_to(&address).await;
                let mut random = Random::new(number + 1);
                let mut told: BTreeMap<String, Vec<i64>> = BTreeMap::new();
                // On a busy machine, a while longer.
                for round in 0.. {
                    if round >= 60 && over.load(Ordering::Relaxed) {
                        break;
                    }
                    let kind = if random.below(2) == 0 { "h" } else { "e" };
                    let key = format!("{kind}:{}", 1 + random.below(COUNTERS));
                    match client.say(&format!("HINCRBY {key} n 1")).await {
                        Value::Integer(n) => told.entry(key.clone()).or_default().push(n),
                        other => panic!("{key}: {other:?}"),
                    }
                    assert_eq!(client.say(&format!("HGET {key} name")).await, bulk("kept"));
                }
                told
            });
        }
        let mut process = stack.begin(&["backfill", "--rate", "1000", "--parallel", "2"]);
        let (status, log) = process.finish().await;
        over.store(true, Ordering::Relaxed);
        assert!(status.success(), "{}", log.join("\n"));
        let mut told: BTreeMap<String, Vec<i64>> = BTreeMap::new();
        while let Some(of_client) = clients.join_next().await {
            for (key, mut numbers) in of_client.unwrap() {
                told.entry(key).or_default().append(&mut numbers);
            }
        }
        stack.flushed().await;
        let mut client = stack.client().await;
        assert!(told.len() > 100, "hardly a key was touched");
        for (key, mut numbers) in told {
            numbers.sort_unstable();
            let last = i64::try_from(numbers.len()).unwrap();
            assert_eq!(numbers, (1..=last).collect::<Vec<_>>(), "{strategy}: {key}");
            stack.redis.say(&format!("DEL {key}")).await;
            assert_eq!(client.say(&format!("HGET {key} n")).await, bulk(&last.to_string()));
            assert_eq!(client.say(&format!("HGET {key} name")).await, bulk("kept"));
        }
        let rows = "select (select count(*) from hashes) || ' ' || (select count(distinct id) from entries)";
        assert_eq!(stack.sql_text(rows).await, format!("{COUNTERS} {COUNTERS}"));
        drop(second);
        stack.stop_expecting(&[]).await;
    }
}
