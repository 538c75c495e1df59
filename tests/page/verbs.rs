//! What the page has done for its user.

use crate::entered;
use crate::house::{House, MAPPINGS};
use crate::stack::{Client, Value, wait_until};

async fn house_with_things(things: u32) -> House {
    let house = House::build(MAPPINGS).await;
    let mut client = house.stack.client().await;
    for thing in 1..=things {
        client.say(&format!("HSET thing:{thing} name kept-secret size {thing}")).await;
        client.say(&format!("HGETALL thing:{thing}")).await;
    }
    wait_until("all are cached", async || {
        let keys = house.stack.redis.say("KEYS thing:*").await;
        matches!(keys, Value::Array(keys) if keys.len() == things as usize)
    })
    .await;
    let (done, _, error) = house.stack.run(&["phase", "set", "dual_write", "--force"]);
    assert!(done, "{error}");
    house
}

#[tokio::test]
async fn a_strategy_is_changed_when_its_user_is_sure() {
    let house = House::build(MAPPINGS).await;
    let browser = entered(&house);
    let select = "select[aria-label='Strategy of things']";
    let change = "button[aria-label='Change the strategy of things']";
    browser.wait_for(&format!("document.querySelector(\"{select}\")?.value === 'dual_write'"));
    assert_eq!(browser.eval(&format!("document.querySelector(\"{change}\").hidden")), true);
    browser.choose(select, "database_first");
    browser.click(change);
    browser.wait_for("document.getElementById('ask').open");
    assert!(
        browser.text("#question").contains("things go by database_first instead of dual_write")
    );
    // No is what one is asked to press first, and what Escape says.
    assert_eq!(browser.eval("document.activeElement.innerText"), "No");
    browser.press("Escape");
    browser.wait_for(&format!("document.querySelector(\"{select}\").value === 'dual_write'"));
    browser.choose(select, "database_first");
    browser.click(change);
    browser.wait_for("document.getElementById('ask').open");
    browser.press("Tab");
    assert_eq!(browser.eval("document.activeElement.innerText"), "Yes");
    browser.press("Enter");
    browser.wait_for_text("#message", "things goes by database_first");
    let (_, told, _) = house.stack.run(&["strategy", "get"]);
    assert_eq!(told, "things: database_first, by order\nfast: cache_first\n");
    // What cannot be done is told.
    browser.choose(select, "redis_only");
    browser.click(change);
    browser.wait_for("document.getElementById('ask').open");
    browser.click("#ask button[value=yes]");
    browser.wait_for("document.getElementById('message').className === 'bad'");
    browser.wait_for(&format!("document.querySelector(\"{select}\").value === 'database_first'"));
    browser.expect_troubles(&["status of 409"]);
    house.stack.stop_expecting(&["a strategy was not changed"]).await;
}

#[tokio::test]
async fn jobs_are_started_watched_and_cancelled() {
    let house = house_with_things(300).await;
    let browser = entered(&house);
    browser.wait_for_text("#jobs", "None since");
    assert_eq!(browser.eval("document.getElementById('repair').closest('label').hidden"), true);
    Client::connect(&house.stack.redis).await.say("HSET thing:7 name other").await;
    browser.click("#start button");
    browser.wait_for_text("#jobs li", "1. Comparing, all mappings: done");
    browser.wait_for_text("#jobs li", "300 keys seen, 0 repaired, 1 different");
    browser.choose("#kind", "consistency-fix");
    browser.choose("#mapping", "things");
    browser.choose("#rate", "10");
    browser.choose("#repair", "redis");
    browser.click("#start button");
    browser.wait_for("document.getElementById('ask').open");
    assert!(browser.text("#question").contains("redis get what the other side has"));
    browser.click("#ask button[value=yes]");
    browser
        .wait_for_text("#jobs li", "2. Comparing and repairing, things, repairing redis: running");
    browser.wait_for("document.querySelector('#jobs progress').value > 0");
    // Another one is not begun meanwhile.
    browser.choose("#kind", "consistency-check");
    browser.click("#start button");
    browser.wait_for_text("#message", "the job 2 runs");
    browser.click("button[aria-label='Cancel job 2']");
    browser.wait_for_text(
        "#jobs li",
        "2. Comparing and repairing, things, repairing redis: cancelled",
    );
    // Of users' keys and values nothing is there to be seen.
    let all = browser.eval("document.documentElement.outerHTML");
    for word in ["thing:7", "kept-secret", "other\""] {
        assert!(!all.as_str().unwrap().contains(word), "{word}");
    }
    browser.expect_troubles(&["status of 409"]);
    house.stack.stop_expecting(&[]).await;
}

#[tokio::test]
async fn copies_are_dropped_and_connections_taken_anew() {
    let house = house_with_things(5).await;
    let browser = entered(&house);
    browser.click("#clear");
    browser.wait_for("document.getElementById('ask').open");
    browser.click("#ask button[value=yes]");
    browser.wait_for_text("#message", "5 copies were dropped");
    browser.click("#reconnect");
    browser.wait_for_text("#message", "Redis answers, Postgres is there");
    browser.expect_troubles(&[]);
    house.stack.stop_expecting(&[]).await;
}
