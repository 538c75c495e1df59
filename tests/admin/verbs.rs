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
