//! Strategies that are changed while clients read and write: every change between two that have a side in
//! Postgres.

use std::time::Duration;

use crate::keys::Names;
use crate::stack::{Client, Server, Stack, Value};
use crate::workload::Size;
use crate::{MAPPING, assert_copies_equal_rows, judge, scene};

/// A way over each of the twelve, from `dual_write` and back.
const WAY: [&str; 12] = [
    "cache_first",
    "dual_write",
    "database_first",
    "dual_write",
    "postgres_only",
    "cache_first",
    "database_first",
    "cache_first",
    "postgres_only",
    "database_first",
    "postgres_only",
    "dual_write",
];

const MAPPINGS: [&str; 3] = ["coherence", "entries", "sets"];

async fn strategy_of(client: &mut Client, mapping: &str) -> String {
    let Value::Array(told) = client.say(&format!("RESPGRES STRATEGY {mapping}")).await else {
        panic!("no map");
    };
    String::from_utf8_lossy(told[1].bytes().expect("a name")).into_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strategies_that_are_changed_under_load_break_no_promise() {
    let stack =
        Stack::builder(MAPPING).set("RESPGRES__UPSTREAM__ADMIN_COMMANDS", "true").start().await;
    let second = stack.start_second_proxy().await;
    let scene =
        scene(vec![stack.address(), second.address()], Size { clients: 30, seconds: 4, keys: 50 });
    let mut operators = [stack.client().await, Client::connect(&second).await];
    let switch = async |_: &crate::Scene| {
        for (turn, target) in WAY.iter().enumerate() {
            for mapping in MAPPINGS {
                let line = format!("RESPGRES STRATEGY {mapping} {target}");
                let told = operators[turn % 2].say(&line).await;
                assert_eq!(told, Value::Status("OK".into()), "{line}");
                for operator in &mut operators {
                    assert_eq!(strategy_of(operator, mapping).await, *target, "{mapping}");
                }
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let record = scene.play(switch).await;
    judge(&record);
    assert_eq!((record.unanswered, record.errors.len()), (0, 0), "{}", record.summary());
    stack.flushed().await;
    assert_copies_equal_rows(&stack, scene.size.keys).await;
    drop(second);
    stack.stop_expecting(&[]).await;
}

/// All of it begins in Redis alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mappings_that_leave_redis_only_under_load_break_no_promise() {
    let redis_only = "strategy = \"redis_only\"";
    let mappings = MAPPING
        .replace("strategy = \"dual_write\"", redis_only)
        .replace("kind = \"hash_entries\"", &format!("kind = \"hash_entries\"\n{redis_only}"))
        .replace("kind = \"set\"", &format!("kind = \"set\"\n{redis_only}"));
    // One that has a side in Postgres from the beginning.
    let other = "\n[[mapping]]\nname = \"other\"\nkey = \"other:{id:int}\"\ntable = \"others\"\nextra = \"extra\"\n";
    let stack = Stack::builder(&format!("{mappings}{other}"))
        .set("RESPGRES__UPSTREAM__ADMIN_COMMANDS", "true")
        .start()
        .await;
    let second = stack.start_second_proxy().await;
    let scene =
        scene(vec![stack.address(), second.address()], Size { clients: 30, seconds: 3, keys: 50 });
    let mut operator = stack.client().await;
    let switch = async |_: &crate::Scene| {
        tokio::time::sleep(Duration::from_millis(700)).await;
        for (mapping, target) in
            [("coherence", "dual_write"), ("entries", "cache_first"), ("sets", "database_first")]
        {
            assert_eq!(strategy_of(&mut operator, mapping).await, "redis_only");
            let line = format!("RESPGRES STRATEGY {mapping} {target}");
            assert_eq!(operator.say(&line).await, Value::Status("OK".into()), "{line}");
        }
    };
    let record = scene.play(switch).await;
    judge(&record);
    assert_eq!((record.unanswered, record.errors.len()), (0, 0), "{}", record.summary());
    // What nobody has needed in Postgres is brought there now.
    let mut client = stack.client().await;
    for key in 0..scene.size.keys {
        client.command(&["TTL", &Names::default().key(key)]).await;
    }
    stack.flushed().await;
    assert_copies_equal_rows(&stack, scene.size.keys).await;
    drop(second);
    stack.stop_expecting(&[]).await;
}
