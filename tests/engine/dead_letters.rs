//! What Postgres refuses after clients were told: it is kept, holds nothing else up, and leaves no copy.

use crate::behind::{MAPPINGS, bulk, held, let_go};
use crate::stack::{Stack, Value, wait_until};

async fn count(stack: &Stack) -> i64 {
    stack.sql_i64("select count(*) from respgres.dead_letters").await
}

#[tokio::test]
async fn a_refused_change_is_kept_and_the_others_are_written() {
    let stack = Stack::with_mappings(MAPPINGS).await;
    stack.sql_execute("alter table things add check (size < 100)").await;
    let mut client = stack.client().await;
    client.say("HSET thing:5 name five size 5").await;
    stack.flushed().await;
    let lock = held(&stack).await;
    for number in 1..=9 {
        let size = if number % 4 == 1 { 100 + number } else { number };
        client.say(&format!("HSET thing:{number} size {size}")).await;
    }
    client.say("SADD members:1 a").await;
    assert_eq!(client.say("HGET thing:5 size").await, bulk("105"));
    let_go(lock).await;
    stack.flushed().await;
    assert_eq!(count(&stack).await, 3);
    let sizes = "select string_agg(size::text, ' ' order by id) from things";
    assert_eq!(stack.sql_text(sizes).await, "2 3 4 5 6 7 8");
    assert_eq!(stack.sql_i64("select count(*) from members").await, 1);
    // Redis does not go on saying what Postgres refused.
    assert_eq!(client.say("HGET thing:5 size").await, bulk("5"));
    assert_eq!(client.say("HGET thing:1 size").await, Value::NilBulk);
    wait_until("the outbox is empty", async || {
        stack.sql_i64("select count(*) from respgres.outbox").await == 0
    })
    .await;

    let (done, told, _) = stack.run(&["journal", "dlq", "list"]);
    assert!(done && told.lines().count() == 3, "{told}");
    assert!(told.contains(" things thing:5: postgres refuses: "), "{told}");
    let id = |key: &str| {
        let line = told.lines().find(|line| line.contains(&format!(" {key}: "))).unwrap();
        line.split(' ').next().unwrap().to_owned()
    };
    let (done, shown, _) = stack.run(&["journal", "dlq", "show", &id("thing:5")]);
    assert!(done && shown.ends_with("set \"size\" \"105\"\n"), "{shown}");
    let (done, _, told) = stack.run(&["journal", "dlq", "retry", &id("thing:5")]);
    assert!(!done && told.contains("it was not written: postgres refuses"), "{told}");
    assert_eq!(count(&stack).await, 3);
    stack.sql_execute("alter table things drop constraint things_size_check").await;
    let (done, told, _) = stack.run(&["journal", "dlq", "retry", &id("thing:5")]);
    assert!(done, "{told}");
    wait_until("it is seen", async || client.say("HGET thing:5 size").await == bulk("105")).await;
    assert_eq!(stack.sql_text("select name from things where id = 5").await, "five");
    let (done, _, told) = stack.run(&["journal", "dlq", "retry", &id("thing:5")]);
    assert!(!done && told.contains("there is no dead letter"), "{told}");
    let (done, told, _) = stack.run(&["journal", "dlq", "drop", &id("thing:1")]);
    assert!(done, "{told}");
    assert_eq!(count(&stack).await, 1);
    wait_until("INFO tells", async || {
        let Value::Bulk(info) = client.say("INFO respgres").await else { panic!("no text") };
        let info = String::from_utf8(info).unwrap();
        info.contains("respgres_dead_letters:1\r\n")
            && info.contains("respgres_journal_entries:0\r\n")
    })
    .await;
    stack.stop_expecting(&["Postgres refuses a change that clients were told of"]).await;
}

#[tokio::test]
async fn what_is_refused_only_together_costs_one_of_them() {
    let stack = Stack::with_mappings(MAPPINGS).await;
    stack.sql_execute("alter table things add unique (name) deferrable initially deferred").await;
    let lock = held(&stack).await;
    let mut client = stack.client().await;
    for number in 1..=6 {
        client.say(&format!("HSET thing:{number} name n{}", number % 4)).await;
    }
    let_go(lock).await;
    stack.flushed().await;
    assert_eq!(count(&stack).await, 2);
    assert_eq!(stack.sql_i64("select count(*) from things").await, 4);
    stack.stop_expecting(&["Postgres refuses a change"]).await;
}

#[tokio::test]
async fn a_table_that_no_longer_fits_holds_nothing_else_up() {
    let stack = Stack::with_mappings(MAPPINGS).await;
    let mut client = stack.client().await;
    client.say("HSET thing:1 size 1").await;
    client.say("HSET loose:1 a 1").await;
    stack.flushed().await;
    let lock = held(&stack).await;
    client.say("HSET thing:1 size 2").await;
    client.say("HSET loose:1 a 2").await;
    stack.sql_execute("alter table things rename to others").await;
    let_go(lock).await;
    stack.flushed().await;
    assert_eq!(stack.sql_text("select extra ->> 'a' from loose").await, "2");
    assert_eq!(count(&stack).await, 1);
    stack.stop_allowing(&["Postgres refuses a change"], &["things", "failed"]).await;
}

#[tokio::test]
async fn the_journal_is_told_of_on_the_command_line() {
    let stack = Stack::with_mappings(MAPPINGS).await;
    let lock = held(&stack).await;
    let mut client = stack.client().await;
    client.say("HSET thing:1 size 1 name a").await;
    client.say("SADD members:1 a").await;
    let (done, told, error) = stack.run(&["journal", "status"]);
    assert!(done, "{error}");
    for line in ["epoch: 1", "entries: 2", "changes: 3", "applied: 0-0", "dead_letters: 0"] {
        assert!(told.lines().any(|told| told == line), "{line} in {told}");
    }
    let_go(lock).await;
    stack.flushed().await;
    let (_, told, _) = stack.run(&["journal", "status"]);
    assert!(told.contains("entries: 0\nchanges: 0\nlag_ms: 0\napplied: 1-"), "{told}");
    stack.stop_expecting(&[]).await;
}
