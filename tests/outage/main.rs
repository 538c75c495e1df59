//! A store that is gone while clients go on: first Postgres, then Redis, under load.
//!
//! Counters and sets, each key written by many. Latencies are told by phase; in the end both stores have to hold
//! what clients were told, each increment once. `make check-outage` lets each store be gone for a minute.
#![allow(clippy::unwrap_used, reason = "a test ends where something fails")]

mod load;
#[path = "../stack/mod.rs"]
mod stack;

use std::sync::Arc;
use std::time::{Duration, Instant};

use load::{Load, Phase, Spans};
use stack::{Client, Cluster, Stack, Value, wait_until};

const MAPPINGS: &str = r#"
[defaults]
on_postgres_down = "redis_only"

[[mapping]]
name = "dual"
key = "dual:{id:int}"
table = "dual"
extra = "extra"
[mapping.columns]
n = { column = "n", type = "bigint" }

[[mapping]]
name = "first"
key = "first:{id:int}"
table = "first"
strategy = "database_first"
[mapping.columns]
n = { column = "n", type = "bigint" }

[[mapping]]
name = "groups"
key = "group:{id:int}"
kind = "set"
table = "groups"
member = "member"
"#;

/// What goes on while the state changes is told apart from what comes after.
const SWITCH: Duration = Duration::from_secs(1);

/// How soon all has to be well again, on a machine that does nothing else: `make check-outage`.
const RECOVERY: Duration = Duration::from_secs(2);

/// The same beside other tests. Whoever stayed out for good would be out for longer.
const BUSY_RECOVERY: Duration = Duration::from_secs(20);

fn number(name: &str, usual: u64) -> u64 {
    std::env::var(name).map_or(usual, |text| text.parse().unwrap())
}

struct House {
    cluster: Arc<Cluster>,
    stack: Stack,
    client: Client,
    phase: Arc<Phase>,
}

impl House {
    async fn build() -> Self {
        let cluster = Arc::new(Cluster::start(true).await);
        let stack = Stack::builder(MAPPINGS).cluster(Arc::clone(&cluster)).start().await;
        let client = stack.client().await;
        Self { cluster, stack, client, phase: Arc::default() }
    }

    async fn spend(&self, name: &'static str, length: Duration) {
        self.phase.enter(name);
        tokio::time::sleep(length).await;
    }

    async fn standing(&mut self) -> String {
        let told = self.client.say("INFO respgres").await;
        let told = String::from_utf8_lossy(told.bytes().unwrap()).into_owned();
        let line = told.lines().find_map(|line| line.strip_prefix("respgres_postgres:"));
        line.unwrap().to_owned()
    }

    /// Each row as text, in order.
    async fn rows(&self, query: &str) -> Vec<String> {
        let mut connection = self.cluster.connect(&self.stack.database().name).await;
        let query = sqlx::AssertSqlSafe(query.to_owned());
        let rows = sqlx::Executor::fetch_all(&mut connection, query).await.unwrap();
        rows.iter().map(|row| sqlx::Row::get::<String, _>(row, 0)).collect()
    }
}

#[tokio::test]
async fn clients_go_on_without_a_store_and_nothing_is_lost() {
    let is_alone = std::env::var("RESPGRES_OUTAGE_SECONDS").is_ok();
    let length = Duration::from_secs(number("RESPGRES_OUTAGE_SECONDS", 3));
    let bound = if is_alone { RECOVERY } else { BUSY_RECOVERY };
    let clients = number("RESPGRES_OUTAGE_CLIENTS", 8);
    let healthy = length / 3;
    let mut house = House::build().await;
    let load = Load::start(&house.stack, &house.phase, clients).await;

    house.spend("warming up", healthy).await;
    house.spend("healthy", healthy).await;
    house.phase.enter("Postgres goes");
    house.cluster.kill();
    house.spend("Postgres goes", SWITCH).await;
    wait_until("Postgres is known to be lost", async || house.standing().await == "lost").await;
    house.spend("without Postgres", length).await;
    house.phase.enter("Postgres comes back");
    house.cluster.restart().await;
    let since = Instant::now();
    wait_until("Postgres is found again", async || house.standing().await != "lost").await;
    let found = since.elapsed();
    wait_until("Postgres has caught up", async || house.standing().await == "up").await;
    println!("Postgres found again after {found:?}, caught up after {:?}", since.elapsed());
    assert!(found < bound, "{found:?}");
    house.spend("healthy again", healthy).await;
    house.phase.enter("Redis goes");
    house.stack.redis.kill();
    house.spend("Redis goes", SWITCH).await;
    house.spend("without Redis", length).await;
    house.phase.enter("Redis comes back");
    house.stack.redis.restart().await;
    let since = Instant::now();
    wait_until("a copy is there", async || {
        house.client.say("EXISTS dual:1").await;
        house.stack.redis.say("EXISTS dual:1").await == Value::Integer(1)
    })
    .await;
    let found = since.elapsed();
    println!("copies in Redis again after {found:?}");
    assert!(found < bound, "{found:?}");
    house.spend("healthy at last", healthy).await;
    house.phase.end();

    let told = load.end().await;
    house.stack.flushed().await;
    for line in told.spans.lines() {
        println!("{line}");
    }
    for kind in ["dual", "first"] {
        let query = format!("select id || ' ' || n from {kind}");
        for row in house.rows(&query).await {
            let (id, held) = row.split_once(' ').unwrap();
            let key = format!("{kind}:{id}");
            let [sure, perhaps] = told.increments[&key];
            let held: u64 = held.parse().unwrap();
            assert!(
                (sure..=sure + perhaps).contains(&held),
                "{key}: {held}, not {sure} (+ {perhaps})"
            );
            let seen = house.client.say(&format!("HGET {key} n")).await;
            assert_eq!(seen, Value::Bulk(held.to_string().into()), "{key}");
        }
    }
    let members = house.rows("select id || ' ' || member from groups").await;
    let members: std::collections::HashSet<String> = members.into_iter().collect();
    for member in &told.members {
        assert!(members.contains(member), "{member} was acknowledged and is not there");
    }
    println!(
        "{} increments ({} in doubt) and {} members: all there, once",
        told.increments.values().map(|[sure, _]| sure).sum::<u64>(),
        told.increments.values().map(|[_, perhaps]| perhaps).sum::<u64>(),
        told.members.len()
    );
    check(&told.spans, &house.stack.proxy.process().log());
    house.stack.stop_allowing(&["Postgres is lost", "upstream"], &["failed"]).await;
}

/// What is promised of errors: none but while a store goes, but for what was under way then.
fn check(spans: &Spans, log: &[String]) {
    let log = log.join("\n");
    for phase in
        ["healthy", "without Postgres", "healthy again", "without Redis", "healthy at last"]
    {
        assert_eq!(spans.errors(phase), Vec::<String>::new(), "{phase}\n{log}");
    }
    for phase in ["Postgres goes", "Redis goes"] {
        let is_known = |text: &String| text.contains("may have happened");
        let errors = spans.errors(phase);
        assert!(errors.iter().all(is_known), "{phase}: {errors:?}\n{log}");
    }
}
