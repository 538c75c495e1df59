//! Batches of the journal that are too much for Postgres: smaller ones are not.

use std::sync::Arc;

use sqlx::Executor;

use crate::behind::{MAPPINGS, held, let_go};
use crate::stack::{Cluster, Stack, Value};

/// Requests that are sent before a reply is read.
const AT_ONCE: usize = 200;

/// Makes a backlog: keys of which each is set once. The flusher waits meanwhile.
async fn backlog(stack: &Stack, keys: usize, request: impl Fn(usize) -> String) {
    let mut client = stack.client().await;
    let holder = held(stack).await;
    for from in (1..=keys).step_by(AT_ONCE) {
        let numbers = from..(from + AT_ONCE).min(keys + 1);
        let text: String = numbers.clone().map(|number| request(number) + "\r\n").collect();
        client.send(text.as_bytes()).await;
        for number in numbers {
            assert_eq!(client.reply().await, Value::Integer(1), "{number}");
        }
    }
    let_go(holder).await;
}

/// Each key has a lock, of which Postgres has 10 for each of 300 sessions here.
#[tokio::test]
async fn a_backlog_of_many_keys_needs_no_more_locks_than_there_are() {
    let cluster = Arc::new(Cluster::start(false).await);
    let mut connection = cluster.connect("postgres").await;
    connection.execute("alter system set max_locks_per_transaction = 10").await.unwrap();
    drop(connection);
    cluster.restart().await;
    let stack = Stack::builder(MAPPINGS).cluster(Arc::clone(&cluster)).start().await;
    assert_eq!(stack.sql_text("select current_setting('max_locks_per_transaction')").await, "10");
    backlog(&stack, 8000, |number| format!("HSET loose:{number} a {number}")).await;
    stack.flushed().await;
    assert_eq!(stack.sql_i64("select count(*) from loose").await, 8000);
    stack.stop_expecting(&[]).await;
}

/// A trigger takes some milliseconds for each row, and a statement has a second.
#[tokio::test]
async fn a_batch_that_takes_too_long_is_brought_in_smaller_ones() {
    let stack =
        Stack::builder(MAPPINGS).set("RESPGRES__POSTGRES__STATEMENT_TIMEOUT", "1s").start().await;
    stack
        .sql_execute(
            "create function slow() returns trigger language plpgsql as
                 $$ begin perform pg_sleep(0.002); return new; end $$;
             create trigger slow before insert or update on loose
                 for each row execute function slow()",
        )
        .await;
    backlog(&stack, 1500, |number| format!("HSET loose:{number} a {number}")).await;
    stack.flushed().await;
    assert_eq!(stack.sql_i64("select count(*) from loose").await, 1500);
    stack.stop_allowing(&[], &["the journal is not brought"]).await;
}

/// Each try to find out what Postgres refuses writes all that was found good before.
#[tokio::test]
async fn what_is_refused_is_found_in_a_large_batch() {
    let stack = Stack::with_mappings(MAPPINGS).await;
    stack.sql_execute("alter table things add check (size <> 13 and size <> 1000)").await;
    backlog(&stack, 2000, |number| format!("HSET thing:{number} size {number}")).await;
    stack.flushed().await;
    let dead =
        "select string_agg(convert_from(key, 'utf8'), ' ' order by key) from respgres.dead_letters";
    assert_eq!(stack.sql_text(dead).await, "thing:1000 thing:13");
    assert_eq!(stack.sql_i64("select count(*) from things").await, 1998);
    stack.stop_expecting(&["Postgres refuses a change"; 2]).await;
}
