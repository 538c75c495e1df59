//! Jobs that are started over HTTP: watched, ended, one at a time.

use std::sync::Arc;
use std::time::Instant;

use serde_json::{Value as Json, json};

use crate::house::{House, MAPPINGS, TOKEN, address_of};
use crate::http::{Answer, send};
use crate::stack::{Client, Cluster, Value, wait_until};

const JOBS: &str = "/admin/database/jobs";
const STATUS: &str = "/admin/database/status";
const CHECK: &str = "/admin/database/consistency-check";
const FIX: &str = "/admin/database/consistency-fix";
const TO_POSTGRES: &str = "/admin/database/sync/redis-to-postgres";
const TO_REDIS: &str = "/admin/database/sync/postgres-to-redis";

/// Mappings that move, and so many things in Redis alone.
async fn moving_house(things: u32) -> House {
    moving_house_at("127.0.0.1:0", things).await
}

async fn moving_house_at(listen: &str, things: u32) -> House {
    let settings = [("RESPGRES__ADMIN__LISTEN", listen), ("RESPGRES__ADMIN__TOKEN", TOKEN)];
    let mut house = House::with(MAPPINGS, &settings, None).await;
    let (done, _, error) = house.stack.run(&["phase", "set", "dual_write"]);
    assert!(done, "{error}");
    let script = format!(
        "for i = 1, {things} do redis.call('HSET', 'thing:' .. i, 'name', 'thing ' .. i, 'size', i) end"
    );
    Client::connect(&house.stack.redis).await.command(&["EVAL", &script, "0"]).await;
    house.stack.proxy.restart().await;
    house.address = address_of(&house.stack.proxy);
    // It has gone through Redis by then.
    house.stack.client().await.say("HGET thing:1 size").await;
    house
}

fn started(answer: &Answer) -> u64 {
    assert_eq!(answer.status, 202, "{answer:?}");
    let job = answer.json();
    assert!(["running", "done"].contains(&job["state"].as_str().unwrap()), "{job}");
    job["id"].as_u64().unwrap()
}

/// Waits until some keys are done.
async fn gets_on(house: &House, id: u64) {
    wait_until("it gets on", async || {
        house.get(&format!("{JOBS}/{id}")).await.json()["done"].as_u64().unwrap() > 0
    })
    .await;
}

/// The job, when it has ended.
async fn ended(house: &House, id: u64) -> Json {
    let path = format!("{JOBS}/{id}");
    wait_until("the job has ended", async || {
        let state = house.get(&path).await.json()["state"].as_str().unwrap().to_owned();
        !["running", "cancelling"].contains(&&*state)
    })
    .await;
    house.get(&path).await.json()
}

#[tokio::test]
async fn keys_are_brought_over_compared_and_repaired() {
    let house = moving_house(400).await;
    let job = ended(&house, started(&house.post(TO_POSTGRES).await)).await;
    assert_eq!((&job["kind"], &job["state"]), (&json!("sync_redis_to_postgres"), &json!("done")));
    // The first one was asked for, and so brought over, before.
    assert_eq!((&job["done"], &job["findings"]), (&json!(400), &json!(0)), "{job}");
    assert_eq!(house.stack.sql_i64("select count(*) from things").await, 400);
    let phases = house.get(STATUS).await.json();
    assert_eq!(phases["mappings"][0]["phase"], "verify", "{phases}");

    let query = format!("{CHECK}?mapping=things&parallel=2&rate=100000");
    let job = ended(&house, started(&house.get(&query).await)).await;
    assert_eq!((&job["state"], &job["findings"]), (&json!("done"), &json!(0)), "{job}");
    assert_eq!((&job["mapping"], &job["parallel"]), (&json!("things"), &json!(2)), "{job}");

    house.stack.redis.say("HSET thing:7 name other").await;
    house.stack.redis.say("HSET thing:8 name other").await;
    let job = ended(&house, started(&house.get(CHECK).await)).await;
    assert_eq!((&job["findings"], &job["written"]), (&json!(2), &json!(0)), "{job}");
    let found = &job["found"][0];
    assert_eq!((&found["mapping"], &found["keys"]), (&json!("things"), &json!(2)), "{job}");
    assert_eq!(found["what"], "different values");
    assert!(found["examples"].to_string().contains("thing:7"), "{job}");
    // Where many look, no key is told.
    assert!(!house.get(JOBS).await.body.contains("thing:"));
    assert!(!house.get(STATUS).await.body.contains("thing:7"));

    let body = r#"{"repair": "redis", "mapping": "things"}"#;
    let job = ended(&house, started(&house.post_json(FIX, body).await)).await;
    assert_eq!((&job["repair"], &job["written"]), (&json!("redis"), &json!(2)), "{job}");
    let mut client = house.stack.client().await;
    assert_eq!(client.say("HGET thing:7 name").await, Value::Bulk(b"thing 7".to_vec()));

    house.stack.redis.say("HSET thing:9 name other").await;
    let body = r#"{"repair": "postgres"}"#;
    let job = ended(&house, started(&house.post_json(FIX, body).await)).await;
    assert_eq!(job["written"], 1, "{job}");
    assert_eq!(house.stack.sql_text("select name from things where id = 9").await, "other");

    house.stack.redis.say("DEL thing:10 thing:11").await;
    let misses = house.sample("respgres_cache_total{mapping=\"things\",result=\"miss\"}").await;
    let job = ended(&house, started(&house.post(TO_REDIS).await)).await;
    assert_eq!(job["written"], 3, "thing:8 was dropped too: {job}");
    let copies = house.stack.redis.say("EXISTS thing:8 thing:10 thing:11").await;
    assert_eq!(copies, Value::Integer(3));
    // No client has missed these.
    let now = house.sample("respgres_cache_total{mapping=\"things\",result=\"miss\"}").await;
    assert_eq!(misses, now);
    let job = ended(&house, started(&house.get(&format!("{CHECK}?complete=true")).await)).await;
    assert_eq!((&job["complete"], &job["findings"]), (&json!(true), &json!(0)), "{job}");
    let job = ended(&house, started(&house.get(&format!("{CHECK}?sample=10")).await)).await;
    assert_eq!((&job["sample"], &job["done"]), (&json!(10), &json!(10)), "{job}");
    house.stack.stop_expecting(&[]).await;
}

#[tokio::test]
async fn one_job_runs_at_a_time_and_can_be_ended() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let house = moving_house_at(&format!("127.0.0.1:{port}"), 400).await;
    // Who has started it is gone at once.
    let slow = house.post_json(TO_POSTGRES, r#"{"rate": 5, "parallel": 1}"#).await;
    let id = started(&slow);
    for answer in [
        house.post(TO_POSTGRES).await,
        house.post(TO_REDIS).await,
        house.get(CHECK).await,
        house.post_json(FIX, r#"{"repair": "redis"}"#).await,
    ] {
        assert_eq!(answer.status, 409, "{answer:?}");
        let told = answer.json();
        assert_eq!(told["error"], format!("the job {id} runs: sync_redis_to_postgres"));
        assert_eq!(
            (&told["job"]["id"], &told["job"]["state"]),
            (&json!(id), &json!("running")),
            "{told}"
        );
    }
    house.wait_for(STATUS, "/jobs/0/state", json!("running")).await;
    gets_on(&house, id).await;
    let (done, told, error) = house.stack.run(&["status"]);
    assert!(done, "{error}");
    let line = told.lines().find(|line| line.starts_with(&format!("job {id}: ")));
    assert!(line.unwrap().contains("sync_redis_to_postgres of all, running, "), "{told}");

    let answer = house.post(&format!("{JOBS}/{id}/cancel")).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let job = ended(&house, id).await;
    assert_eq!((&job["state"], &job["error"]), (&json!("cancelled"), &json!(null)));
    assert!(job["done"].as_u64().unwrap() < 400, "{job}");
    // To end it once more changes nothing; what it has found, with keys, is told by looking at it alone.
    let told = house.post(&format!("{JOBS}/{id}/cancel")).await.json();
    assert_eq!((&told["state"], told.get("found")), (&json!("cancelled"), None));
    assert!(job["found"].is_array(), "{job}");
    let job = ended(&house, started(&house.post(TO_POSTGRES).await)).await;
    assert_eq!(job["state"], "done");
    assert_eq!(house.stack.sql_i64("select count(*) from things").await, 400);
    house.stack.stop_expecting(&[]).await;
}

#[tokio::test]
async fn a_proxy_that_stops_ends_its_job() {
    let house = moving_house(400).await;
    started(&house.post_json(TO_POSTGRES, r#"{"rate": 1}"#).await);
    let since = Instant::now();
    house.stack.stop_expecting(&[]).await;
    // At its pace it would take minutes; after ten seconds it would be left half-way.
    assert!(since.elapsed().as_secs() < 9, "{:?}", since.elapsed());
}

#[tokio::test]
async fn a_job_that_cannot_go_on_says_so() {
    let mut house = moving_house(400).await;
    let id = started(&house.post_json(TO_POSTGRES, r#"{"rate": 5}"#).await);
    gets_on(&house, id).await;
    house.stack.redis.restart().await;
    let job = ended(&house, id).await;
    assert_eq!(job["state"], "failed", "{job}");
    assert!(!job["error"].as_str().unwrap().contains("://"), "{job}");
    let told = house.get(STATUS).await.json();
    let troubles = told["troubles"].as_array().unwrap();
    let trouble = troubles.iter().find(|t| t["text"] == "a job has ended before its end").unwrap();
    assert_eq!((&trouble["level"], &trouble["count"]), (&json!("warning"), &json!(1)));
    house.stack.proxy.stop_allowing(&["a job has ended before its end"], &["WARN"]).await;
}

#[tokio::test]
async fn what_cannot_be_begun_is_refused() {
    let cluster = Arc::new(Cluster::start(true).await);
    let mut house = House::with_cluster(&cluster).await;
    let refused = |answer: Answer, status: u16, text: &str| {
        assert_eq!(answer.status, status, "{answer:?}");
        assert!(answer.json()["error"].as_str().unwrap().contains(text), "{answer:?}");
    };
    refused(house.get(&format!("{CHECK}?mapping=none")).await, 404, "no mapping \"none\"");
    refused(house.post(TO_POSTGRES).await, 409, "\"things\" has migrated");
    refused(house.get(&format!("{CHECK}?parallel=0")).await, 400, "from 1 to 64");
    refused(house.get(&format!("{CHECK}?parallel=65")).await, 400, "from 1 to 64");
    refused(house.get(&format!("{CHECK}?rate=-1")).await, 400, "not understood");
    refused(house.get(&format!("{CHECK}?sample=0")).await, 400, "sample is a number from 1");
    refused(house.get(&format!("{CHECK}?rate=4294967296")).await, 400, "rate is a number from 0");
    refused(house.get(&format!("{CHECK}?sample=9223372036854775808")).await, 400, "sample");
    refused(house.get(&format!("{CHECK}?sample=5&complete=true")).await, 400, "complete");
    refused(house.get(&format!("{CHECK}?repair=redis")).await, 400, "a check repairs nothing");
    refused(house.get(&format!("{CHECK}?what=1")).await, 400, "not understood");
    refused(house.post(FIX).await, 400, "which side");
    refused(house.post_json(FIX, r#"{"repair": "both"}"#).await, 400, "not understood");
    refused(house.post_json(TO_REDIS, r#"{"rate": 1.5}"#).await, 400, "not understood");
    refused(house.get(&format!("{JOBS}/1")).await, 404, "no job 1");
    refused(house.post(&format!("{JOBS}/x/cancel")).await, 400, "a number");
    assert_eq!(house.ask("HEAD", CHECK).await.status, 405);
    assert_eq!(house.get(JOBS).await.json(), json!({ "jobs": [] }));
    let (done, _, error) = house.stack.run(&["phase", "set", "preparation", "--force"]);
    assert!(done, "{error}");
    refused(house.get(CHECK).await, 409, "\"things\" lives in Redis alone");
    let (done, _, error) = house.stack.run(&["phase", "set", "migrated", "--force"]);
    assert!(done, "{error}");
    cluster.kill();
    house.wait_for("/admin/database/health", "/postgres/state", json!("lost")).await;
    refused(house.get(CHECK).await, 503, "Postgres");
    cluster.restart().await;
    house.wait_for("/admin/database/health", "/status", json!("ok")).await;
    // What was refused does not stand in the way.
    ended(&house, started(&house.get(CHECK).await)).await;
    house.stack.proxy.stop_allowing(&[], &["WARN"]).await;
    let bare = House::build("").await;
    assert_eq!(bare.get(CHECK).await.status, 404);
    let answer = send(&bare.address, "GET", CHECK, &[], "").await;
    assert_eq!(answer.status, 401);
}
