//! Hits that are compared with Postgres: what is different is counted, and nothing else is.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::task::JoinSet;

use crate::house::{House, MAPPINGS, TOKEN};
use crate::stack::{Client, Random, Server, Value, wait_until};

const WARNING: &str = "Redis has answered what Postgres does not have";

/// A set and a hash with a row for each element.
const OF_ELEMENTS: &str = r#"
[[mapping]]
name = "members"
key = "members:{id:int}"
kind = "set"
table = "members"
member = "member"

[[mapping]]
name = "entries"
key = "entries:{id:int}"
kind = "hash_entries"
table = "entries"
field = "field"
value = "value"
"#;

async fn house(share: &str) -> House {
    let settings = [("RESPGRES__ADMIN__TOKEN", TOKEN), ("RESPGRES__DEFAULTS__VERIFY_HITS", share)];
    House::with(&format!("{MAPPINGS}{OF_ELEMENTS}"), &settings, None).await
}

fn sample(mapping: &str, result: &str) -> String {
    format!("respgres_hit_checks_total{{mapping=\"{mapping}\",result=\"{result}\"}}")
}

/// Checks with this result.
async fn told(house: &House, mapping: &str, result: &str) -> f64 {
    house.sample(&sample(mapping, result)).await.unwrap()
}

/// Reads until a check has had this result once more.
async fn read_until(house: &House, client: &mut Client, line: &str, mapping: &str, result: &str) {
    let before = told(house, mapping, result).await;
    let client = tokio::sync::Mutex::new(client);
    wait_until(&format!("{line}: {result}"), async || {
        client.lock().await.say(line).await;
        told(house, mapping, result).await > before
    })
    .await;
}

#[tokio::test]
async fn what_is_different_is_counted() {
    let house = house("1").await;
    let mut client = house.stack.client().await;
    let keys = [
        ("things", "HSET thing:1 name one", "HGET thing:1 name", "HSET thing:1 name two"),
        ("fast", "HSET fast:1 size 1", "HGETALL fast:1", "HSET fast:1 size 2"),
        ("members", "SADD members:1 a", "SMEMBERS members:1", "SADD members:1 b"),
        ("entries", "HSET entries:1 a 1", "HGET entries:1 a", "SET entries:1 text"),
    ];
    for (mapping, write, read, _) in keys {
        client.say(write).await;
        house.stack.flushed().await;
        read_until(&house, &mut client, read, mapping, "same").await;
    }
    // Past respgres.
    for (mapping, _, read, change) in keys {
        assert_eq!(told(&house, mapping, "different").await, 0.0, "{mapping}");
        house.stack.redis.say(change).await;
        read_until(&house, &mut client, read, mapping, "different").await;
    }
    client.say("HSET thing:2 name one").await;
    read_until(&house, &mut client, "HGET thing:2 name", "things", "same").await;
    house.stack.sql_execute("update things set name = 'other' where id = 2").await;
    read_until(&house, &mut client, "HGET thing:2 name", "things", "different").await;
    house.stack.sql_execute("delete from things where id = 2").await;
    read_until(&house, &mut client, "HGET thing:2 name", "things", "different").await;
    let log = house.stack.proxy.process().log();
    let warnings: Vec<_> = log.iter().filter(|line| line.contains(WARNING)).collect();
    for mapping in ["things", "fast", "members", "entries"] {
        // Once a minute.
        let of_mapping =
            warnings.iter().filter(|line| line.contains(&format!("mapping={mapping}")));
        assert_eq!(of_mapping.count(), 1, "{warnings:?}");
    }
    assert!(!log.iter().any(|line| line.contains("thing:") || line.contains("other")), "{log:?}");
    house.stack.stop_expecting(&[WARNING]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_different_while_clients_write() {
    let house = house("1").await;
    let second = house.stack.start_second_proxy().await;
    let over = Arc::new(AtomicBool::new(false));
    let mut clients = JoinSet::new();
    for number in 0..4_u64 {
        let address = if number % 2 == 0 { house.stack.address() } else { second.address() };
        let over = Arc::clone(&over);
        clients.spawn(async move {
            let mut client = Client::connect_to(&address).await;
            let mut random = Random::new(number + 1);
            while !over.load(Ordering::Relaxed) {
                let key = 1 + random.below(20);
                let line = match random.below(12) {
                    0 => format!("DEL thing:{key} members:{key}"),
                    1 => format!("SADD members:{key} {}", random.below(9)),
                    2 => format!("HSET entries:{key} a {}", random.below(9)),
                    3 => format!("HINCRBY thing:{key} size 1"),
                    4 => format!("HINCRBY fast:{key} size 1"),
                    5 => format!("PEXPIRE thing:{key} 50"),
                    6 => format!("SMEMBERS members:{key}"),
                    7 => format!("HGETALL entries:{key}"),
                    8 => format!("HGETALL fast:{key}"),
                    _ => format!("HGETALL thing:{key}"),
                };
                let told = client.say(&line).await;
                assert!(!matches!(told, Value::Error(_)), "{line}: {told:?}");
            }
        });
    }
    for mapping in ["things", "fast", "members", "entries"] {
        // However slowly, it gets on.
        for count in 1..=30 {
            wait_until(&format!("{mapping} is compared, {count}"), async || {
                told(&house, mapping, "same").await >= f64::from(count)
            })
            .await;
        }
    }
    over.store(true, Ordering::Relaxed);
    while let Some(client) = clients.join_next().await {
        client.unwrap();
    }
    for mapping in ["things", "fast", "members", "entries"] {
        assert_eq!(told(&house, mapping, "different").await, 0.0, "{mapping}");
    }
    drop(second);
    house.stack.stop_expecting(&[]).await;
}

#[tokio::test]
async fn what_only_redis_is_to_have_is_skipped() {
    let mut house = house("1").await;
    let (done, _, error) = house.stack.run(&["phase", "set", "dual_write", "--force"]);
    assert!(done, "{error}");
    house.stack.proxy.restart().await;
    house.address = crate::house::address_of(&house.stack.proxy);
    let mut client = house.stack.client().await;
    // It has gone through Redis by then.
    client.say("HGET thing:1 name").await;
    house.stack.redis.say("HSET thing:5 name original").await;
    read_until(&house, &mut client, "HGET thing:5 name", "things", "skipped").await;
    assert_eq!(told(&house, "things", "different").await, 0.0);
    assert_eq!(house.stack.sql_i64("select count(*) from things").await, 0);
    house.stack.stop_expecting(&[]).await;
}

#[tokio::test]
async fn no_hit_is_compared_unless_it_is_wanted() {
    for (share, is_wanted) in [("0", false), ("1", true)] {
        let house = house(share).await;
        let mut client = house.stack.client().await;
        client.say("HSET thing:1 name one").await;
        client.say("HGET thing:1 name").await;
        // To be asked for metrics takes a session too.
        told(&house, "things", "same").await;
        let begun = house.stack.sql_text("clock_timestamp()").await;
        // The session of the check, which is opened when it is needed.
        let asked = format!(
            "select count(*) from pg_stat_activity where datname = current_database() \
             and backend_start > '{begun}'"
        );
        if is_wanted {
            read_until(&house, &mut client, "HGET thing:1 name", "things", "same").await;
        }
        for _ in 0..200 {
            client.say("HGET thing:1 name").await;
        }
        let hits = house.sample("respgres_cache_total{mapping=\"things\",result=\"hit\"}").await;
        assert!(hits >= Some(200.0), "{hits:?}");
        assert_eq!(house.stack.sql_i64(&asked).await > 0, is_wanted);
        let mut compared = 0.0;
        for result in ["same", "different", "skipped"] {
            compared += told(&house, "things", result).await;
        }
        assert_eq!(compared > 0.0, is_wanted, "{compared}");
        house.stack.stop_expecting(&[]).await;
    }
}
