//! What is told of the stores, while they are there and while they are not.

use std::sync::Arc;

use serde_json::json;

use crate::house::{House, MAPPINGS};
use crate::stack::{Cluster, wait_until};

const HEALTH: &str = "/admin/database/health";

#[tokio::test]
async fn health_tells_of_a_postgres_that_is_gone() {
    let cluster = Arc::new(Cluster::start(true).await);
    let mut house = House::with_cluster(&cluster).await;
    house.wait_for(HEALTH, "/status", json!("ok")).await;
    let told = house.get(HEALTH).await.json();
    assert_eq!(told["redis"], json!({ "answers": true, "believed": true }), "{told}");
    assert_eq!(told["postgres"]["state"], "up", "{told}");
    cluster.kill();
    house.wait_for(HEALTH, "/postgres/state", json!("lost")).await;
    let answer = house.get(HEALTH).await;
    assert_eq!((answer.status, &answer.json()["status"]), (200, &json!("degraded")));
    assert_eq!(house.sample("respgres_postgres_up").await, Some(0.0));
    assert_eq!(house.sample("respgres_outbox_rows").await, None);
    // What Redis has is served: clients may come.
    let ready = house.get("/ready").await;
    assert_eq!((ready.status, &ready.json()["postgres"]), (200, &json!(false)));
    let answer = house.get("/admin/database/dead-letters").await;
    assert_eq!(answer.status, 503, "{answer:?}");
    assert!(!answer.body.contains("postgres://"), "{answer:?}");
    cluster.restart().await;
    house.wait_for(HEALTH, "/status", json!("ok")).await;
    house.wait_for_sample("respgres_postgres_up", 1.0).await;
    assert_eq!(house.get("/admin/database/dead-letters").await.status, 200);
    house.stack.proxy.stop_allowing(&["Postgres is lost"], &["WARN"]).await;
}

#[tokio::test]
async fn health_tells_of_a_redis_that_is_gone() {
    let mut house = House::build(MAPPINGS).await;
    house.wait_for(HEALTH, "/status", json!("ok")).await;
    house.stack.redis.kill();
    house.wait_for(HEALTH, "/redis/answers", json!(false)).await;
    house.wait_for(HEALTH, "/redis/believed", json!(false)).await;
    let answer = house.get(HEALTH).await;
    assert_eq!((answer.status, &answer.json()["status"]), (200, &json!("degraded")));
    assert_eq!(house.get("/ready").await.status, 200);
    house.wait_for_sample("respgres_redis_believed", 0.0).await;
    let clear = house.post("/admin/database/cache/clear").await;
    assert_eq!(clear.status, 503, "{clear:?}");
    house.stack.redis.restart().await;
    house.wait_for(HEALTH, "/status", json!("ok")).await;
    house.stack.proxy.stop_allowing(&[], &["WARN"]).await;
}

#[tokio::test]
async fn without_mappings_redis_is_all_that_is_needed() {
    let mut house = House::build("").await;
    assert_eq!(
        house.get(HEALTH).await.json(),
        json!({ "status": "ok", "redis": { "answers": true } })
    );
    house.stack.redis.kill();
    wait_until("it is not ready", async || house.get("/ready").await.status == 503).await;
    assert_eq!(house.get(HEALTH).await.status, 503);
    assert_eq!(house.get("/live").await.status, 200);
    house.stack.redis.restart().await;
    wait_until("it is ready", async || house.get("/ready").await.status == 200).await;
    assert_eq!(house.get("/admin/database/dead-letters").await.status, 404);
    house.stack.proxy.stop_allowing(&[], &["WARN"]).await;
}

#[tokio::test]
async fn the_status_names_the_mappings_and_no_secret() {
    let house = House::build(MAPPINGS).await;
    let answer = house.get("/admin/database/status").await;
    let told = answer.json();
    assert_eq!(told["version"], env!("CARGO_PKG_VERSION"));
    let mapping = &told["mappings"][1];
    assert_eq!(mapping["name"], "fast");
    assert_eq!(mapping["strategy"], "cache_first");
    assert_eq!(mapping["passes_through"], false);
    assert_eq!(told["fleet"]["proxies"], 1);
    assert!(!answer.body.contains("://") && !answer.body.contains("token"), "{told}");
    house.stack.stop_expecting(&[]).await;
}
