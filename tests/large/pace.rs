//! Clients that read slowly, not at all, or go; and a Postgres that goes while it is read.

use std::time::{Duration, Instant};

use crate::reader::{Reader, ask, assert_counts_up, others_are_served};
use crate::stack::{Stack, Value, wait_until};
use crate::{MAPPINGS, WORDS};

#[tokio::test]
async fn clients_that_read_slowly_keep_nobody_waiting() {
    let stack = Stack::with_mappings(MAPPINGS).await;
    stack.add_words().await;
    let mut slow = Vec::new();
    for _ in 0..3 {
        let mut reader = Reader::connect(&stack).await;
        reader.send(&["SMEMBERS words:1"]).await;
        reader.read(1000).await;
        slow.push(reader);
    }
    assert_eq!(stack.open_transactions().await, 3);
    others_are_served(&stack).await;
    assert_counts_up(&ask(&stack, &["SMEMBERS words:1"]).await[0], WORDS);
    for mut reader in slow {
        assert_counts_up(&reader.replies().await[0], WORDS);
    }
    assert_eq!(stack.open_transactions().await, 0);
    stack.stop_expecting(&[]).await;
}

#[tokio::test]
async fn a_client_that_reads_slowly_is_not_heard_meanwhile() {
    let stack = Stack::with_mappings(MAPPINGS).await;
    stack.add_words().await;
    let mut reader = Reader::connect(&stack).await;
    reader.send(&["SMEMBERS words:1"]).await;
    reader.read(1000).await;
    reader.send(&["SET late 1", "SMEMBERS words:1", "GET late"]).await;
    for _ in 0..20 {
        others_are_served(&stack).await;
        assert_eq!(stack.redis.say("GET late").await, Value::NilBulk);
    }
    let replies = reader.all_replies(2).await;
    assert_counts_up(&replies[0], WORDS);
    assert_counts_up(&replies[3], WORDS);
    assert_eq!(replies[4], Value::Bulk(b"1".to_vec()));
    stack.stop_expecting(&[]).await;
}

#[tokio::test]
async fn a_client_that_goes_takes_its_snapshot_with_it() {
    // Whoever waits for the one stream waits for long.
    let stack = Stack::builder(MAPPINGS)
        .set("RESPGRES__POSTGRES__STREAMS", "1")
        .set("RESPGRES__POSTGRES__STATEMENT_TIMEOUT", "1m")
        .start()
        .await;
    stack.add_words().await;
    for _ in 0..3 {
        let mut reader = Reader::connect(&stack).await;
        reader.send(&["SMEMBERS words:1", "SMEMBERS words:1"]).await;
        reader.read(1000).await;
        drop(reader);
        wait_until("the snapshot has gone", async || stack.open_transactions().await == 0).await;
    }
    assert_counts_up(&ask(&stack, &["SMEMBERS words:1"]).await[0], WORDS);
    stack.stop_expecting(&[]).await;
}

#[tokio::test]
async fn a_client_that_reads_nothing_is_closed() {
    let stack = Stack::with_mappings(MAPPINGS).await;
    stack.add_words().await;
    let mut reader = Reader::connect(&stack).await;
    let start = Instant::now();
    reader.send(&["SMEMBERS words:1"]).await;
    reader.read(1000).await;
    wait_until("the snapshot has gone", async || stack.open_transactions().await == 0).await;
    assert!((9..30).contains(&start.elapsed().as_secs()), "{:?}", start.elapsed());
    assert!(!reader.read_to_end().await.ends_with(b"+PONG\r\n"));
    others_are_served(&stack).await;
    stack.stop_expecting(&["it does not read the large value that it asked for"]).await;
}

#[tokio::test]
async fn a_value_that_takes_too_long_costs_the_connection() {
    let stack =
        Stack::builder(MAPPINGS).set("RESPGRES__POSTGRES__STREAM_TIMEOUT", "2s").start().await;
    stack.add_words().await;
    let mut reader = Reader::connect(&stack).await;
    reader.send(&["SMEMBERS words:1"]).await;
    // However steadily it reads.
    let start = Instant::now();
    let mut count = 0;
    while start.elapsed() < Duration::from_secs(3) {
        count = reader.read(count + 1).await.len();
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert!(count > 0 && !reader.read_to_end().await.ends_with(b"+PONG\r\n"));
    assert_eq!(stack.open_transactions().await, 0);
    others_are_served(&stack).await;
    stack.stop_expecting(&["the large value that it asked for cannot be read on"]).await;
}

#[tokio::test]
async fn one_value_more_than_there_are_streams_waits_and_then_is_refused() {
    let stack = Stack::builder(MAPPINGS)
        .set("RESPGRES__POSTGRES__STREAMS", "1")
        .set("RESPGRES__POSTGRES__STATEMENT_TIMEOUT", "2s")
        .start()
        .await;
    stack.add_words().await;
    let mut reader = Reader::connect(&stack).await;
    reader.send(&["SMEMBERS words:1"]).await;
    reader.read(1000).await;
    let busy = Value::Error("ERR Postgres is too slow for what is asked of it".into());
    let refused = ask(&stack, &["SMEMBERS words:1", "SISMEMBER words:1 no"]).await;
    assert_eq!(refused, [busy, Value::Integer(0)]);
    others_are_served(&stack).await;
    let (waited, first) = tokio::join!(ask(&stack, &["SMEMBERS words:1"]), reader.replies());
    assert_counts_up(&waited[0], WORDS);
    assert_counts_up(&first[0], WORDS);
    stack.stop_expecting(&[]).await;
}

#[tokio::test]
async fn a_session_that_ends_costs_only_who_has_a_part() {
    let stack = Stack::with_mappings(MAPPINGS).await;
    stack.add_words().await;
    let mut reader = Reader::connect(&stack).await;
    reader.send(&["SMEMBERS words:1"]).await;
    reader.read(1000).await;
    let end = "select count(pg_terminate_backend(pid)) from pg_stat_activity \
               where datname = current_database() and pid <> pg_backend_pid()";
    assert!(stack.sql_i64(&format!("{end} and xact_start is not null")).await == 1);
    assert!(!reader.read_to_end().await.ends_with(b"+PONG\r\n"));
    // Of a session that has died unnoticed nobody hears.
    assert_counts_up(&ask(&stack, &["SMEMBERS words:1"]).await[0], WORDS);
    assert!(stack.sql_i64(&format!("{end} and query = 'rollback'")).await >= 1);
    assert_counts_up(&ask(&stack, &["SMEMBERS words:1"]).await[0], WORDS);
    stack.stop_expecting(&["the large value that it asked for cannot be read on"]).await;
}
