//! What operators have done.

use serde_json::json;

use crate::house::{House, MAPPINGS};
use crate::stack::{Value, wait_until};

const LETTERS: &str = "/admin/database/dead-letters";
const CLEAR: &str = "/admin/database/cache/clear";

#[tokio::test]
async fn dead_letters_are_listed_written_and_dropped() {
    let house = House::build(MAPPINGS).await;
    house.stack.sql_execute("alter table fast add check (size < 100)").await;
    let mut client = house.stack.client().await;
    for number in 1..=3 {
        client.say(&format!("HSET fast:{number} size {}", 100 + number)).await;
    }
    house.stack.flushed().await;
    let told = house.get(LETTERS).await.json();
    let letters = told["dead_letters"].as_array().unwrap();
    assert_eq!(letters.len(), 3, "{told}");
    assert_eq!(told["next_after"], json!(null));
    let first = letters.iter().find(|letter| letter["key"] == "fast:1").unwrap();
    assert_eq!(first["mapping"], "fast");
    assert_eq!(first["change"], json!(["set \"size\" \"101\""]));
    assert!(first["reason"].as_str().unwrap().contains("fast_size_check"), "{first}");
    house.wait_for("/admin/database/journal", "/dead_letters", json!(3)).await;
    let page = house.get(&format!("{LETTERS}?limit=2")).await.json();
    let after = page["next_after"].as_i64().unwrap();
    let page = house.get(&format!("{LETTERS}?limit=2&after={after}")).await.json();
    assert_eq!(page["dead_letters"].as_array().unwrap().len(), 1, "{page}");

    let id = first["id"].as_i64().unwrap();
    let answer = house.post(&format!("{LETTERS}/{id}/retry")).await;
    assert_eq!(answer.status, 409, "{answer:?}");
    assert!(answer.json()["error"].as_str().unwrap().contains("fast_size_check"), "{answer:?}");
    house.stack.sql_execute("alter table fast drop constraint fast_size_check").await;
    let answer = house.post(&format!("{LETTERS}/{id}/retry")).await;
    assert_eq!((answer.status, answer.json()), (200, json!({ "id": id, "done": "written" })));
    assert_eq!(house.stack.sql_i64("select size from fast where id = 1").await, 101);
    assert_eq!(house.post(&format!("{LETTERS}/{id}/retry")).await.status, 404);
    let other = letters.iter().find(|letter| letter["key"] == "fast:2").unwrap()["id"].clone();
    let answer = house.post(&format!("{LETTERS}/{other}/drop")).await;
    assert_eq!((answer.status, answer.json()), (200, json!({ "id": other, "done": "dropped" })));
    assert_eq!(house.stack.sql_i64("select count(*) from respgres.dead_letters").await, 1);
    assert_eq!(house.stack.sql_i64("select count(*) from fast").await, 1);
    house.stack.stop_expecting(&["Postgres refuses a change"]).await;
}

#[tokio::test]
async fn cached_copies_are_dropped_and_nothing_else() {
    let house = House::build(MAPPINGS).await;
    let mut client = house.stack.client().await;
    client.say("SET plain 1").await;
    for number in 1..=5 {
        client.say(&format!("HSET thing:{number} size {number}")).await;
        client.say(&format!("HSET fast:{number} size {number}")).await;
        client.say(&format!("HGET thing:{number} size")).await;
    }
    house.stack.flushed().await;
    wait_until("all are cached", async || {
        house.stack.redis.say("EXISTS thing:1 thing:2 thing:3 thing:4 thing:5").await
            == Value::Integer(5)
    })
    .await;
    let answer = house.post_json(CLEAR, r#"{"mapping": "things"}"#).await;
    assert_eq!((answer.status, answer.json()), (200, json!({ "keys": 5, "pending": false })));
    let left = house.stack.redis.say("EXISTS thing:1 thing:2 thing:3 thing:4 thing:5").await;
    assert_eq!(left, Value::Integer(0));
    assert_eq!(house.stack.redis.say("EXISTS fast:1 fast:5 plain").await, Value::Integer(3));
    assert_eq!(client.say("HGET thing:3 size").await, Value::Bulk(b"3".to_vec()));
    let answer = house.post(CLEAR).await;
    assert_eq!((answer.status, answer.json()), (200, json!({ "keys": 6, "pending": false })));
    assert_eq!(house.stack.redis.say("EXISTS fast:1 fast:5 thing:3").await, Value::Integer(0));
    assert_eq!(house.stack.redis.say("EXISTS plain").await, Value::Integer(1));
    assert_eq!(client.say("HGET fast:5 size").await, Value::Bulk(b"5".to_vec()));
    house.stack.stop_expecting(&[]).await;
}

#[tokio::test]
async fn what_only_redis_has_is_not_dropped() {
    let mut house = House::build(MAPPINGS).await;
    // A mapping that imports may have keys that no row is known of.
    house.stack.run(&["phase", "set", "dual_write", "--force"]);
    house.stack.redis.say("HSET thing:9 size 9").await;
    house.stack.proxy.restart().await;
    house.address = crate::house::address_of(&house.stack.proxy);
    let answer = house.post(CLEAR).await;
    assert_eq!((answer.status, answer.json()), (200, json!({ "keys": 0, "pending": false })));
    assert_eq!(house.stack.redis.say("EXISTS thing:9").await, Value::Integer(1));
    let mut client = house.stack.client().await;
    assert_eq!(client.say("HGET thing:9 size").await, Value::Bulk(b"9".to_vec()));
    house.stack.stop_expecting(&[]).await;
}

#[tokio::test]
async fn a_strategy_is_changed_for_one_mapping_or_for_all() {
    let house = House::build(MAPPINGS).await;
    let mut client = house.stack.client().await;
    client.say("HSET fast:1 size 1").await;
    let only_things = r#"{"mapping": "things"}"#;
    let answer = house.post_json("/admin/database/strategy/database-first", only_things).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let told = answer.json();
    assert_eq!(
        (&told["strategy"], &told["mappings"][0]["name"]),
        (&json!("database_first"), &json!("things"))
    );
    assert_eq!(told["mappings"][0]["changed"], true);
    assert_eq!(told["mappings"].as_array().unwrap().len(), 1, "{told}");
    let (done, lines, error) = house.stack.run(&["strategy", "get"]);
    assert!(done, "{error}");
    assert_eq!(lines, "things: database_first, by order\nfast: cache_first\n");
    let told = house.post("/admin/database/strategy/dual-write").await.json();
    let changed: Vec<_> = (0..2).map(|at| told["mappings"][at]["changed"].clone()).collect();
    assert_eq!(changed, [true, true], "{told}");
    assert_eq!(house.stack.sql_i64("select size from fast where id = 1").await, 1);
    let status = house.get("/admin/database/status").await.json();
    assert_eq!(status["mappings"][1]["strategy"], "dual_write");
    let told = house.post_json("/admin/database/strategy/dual-write", only_things).await.json();
    assert_eq!(told["mappings"], json!([{ "name": "things", "changed": false, "waited_ms": 0 }]));
    let answer = house.post("/admin/database/strategy/redis-only").await;
    assert_eq!(answer.status, 409, "{answer:?}");
    assert!(answer.json()["error"].as_str().unwrap().starts_with("things: "), "{answer:?}");
    assert_eq!(house.post("/admin/database/strategy/dual_write").await.status, 404);
    let none = house.post_json("/admin/database/strategy/dual-write", r#"{"mapping": "no"}"#).await;
    assert_eq!(none.status, 404, "{none:?}");
    assert_eq!(client.say("HGET fast:1 size").await, Value::Bulk(b"1".to_vec()));
    house.stack.stop_expecting(&["a strategy was not changed"]).await;
}

#[tokio::test]
async fn workers_take_new_connections_when_it_is_wanted() {
    let house = House::build(MAPPINGS).await;
    let mut client = house.stack.client().await;
    client.say("HSET thing:1 size 1").await;
    let begun = house.stack.sql_text("select clock_timestamp()").await;
    let new = format!(
        "select count(*) from pg_stat_activity where datname = current_database() \
         and backend_start > '{begun}'"
    );
    let answer = house.post("/admin/database/reconnect").await;
    assert_eq!((answer.status, answer.json()), (200, json!({ "redis": true, "postgres": true })));
    // Who looks at Postgres has one already; a writer takes one when there is something to write.
    let looking = house.stack.sql_i64(&new).await;
    client.say("HSET thing:1 size 3").await;
    assert_eq!(house.stack.sql_i64(&new).await, looking + 1);
    assert_eq!(client.say("HGET thing:1 size").await, Value::Bulk(b"3".to_vec()));
    house.stack.stop_expecting(&[]).await;
}

#[tokio::test]
async fn the_command_line_asks_the_running_proxy() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let listen = format!("127.0.0.1:{port}");
    let settings = [("RESPGRES__ADMIN__LISTEN", &*listen), ("RESPGRES__ADMIN__TOKEN", "t0ken")];
    let house = House::with(MAPPINGS, &settings, None).await;
    let mut client = house.stack.client().await;
    client.say("HSET thing:1 size 1").await;
    let (done, told, error) = house.stack.run(&["status"]);
    assert!(done, "{error}");
    for line in ["health.status: ok", "fleet.proxies: 1", "journal.entries: 0"] {
        assert!(told.lines().any(|told| told == line), "{line} in {told}");
    }
    assert!(told.contains("mapping things: dual_write, 0 hits, "), "{told}");
    assert!(told.contains(" misses, phase migrated\n"), "{told}");
    let (done, told, error) = house.stack.run(&["status", "--json"]);
    assert!(done, "{error}");
    let told: serde_json::Value = serde_json::from_str(&told).unwrap();
    assert_eq!(told["mappings"][1]["name"], "fast");
    let (done, told, error) = house.stack.run(&["metrics"]);
    assert!(
        done && told.contains("respgres_commands_total{command=\"hset\",path=\"mapped\"} 1"),
        "{told}{error}"
    );
    let mut stack = house.stack;
    stack.proxy.kill();
    let (done, _, error) = stack.run(&["status"]);
    assert!(
        !done && error.contains(&format!("the admin API of a running respgres: {listen}: ")),
        "{error}"
    );
}
