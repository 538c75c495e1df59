//! How a SCAN is kept between its calls, and what a call costs.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::stack::{Client, Cluster, Stack, Value, wait_until};
use crate::{keys_of, scan, scan_step};

const ROWS: &str = r#"
[[mapping]]
name = "rows"
key = "row:{kind:slug}:{id:int}"
table = "rows"
extra = "extra"
[mapping.columns]
a = "a"

[[mapping]]
name = "others"
key = "other:{id:int}"
table = "others"
expires_at = "ends"
extra = "extra"

[[mapping]]
name = "groups"
key = "group:{kind:slug}:{id:int}"
kind = "set"
table = "groups"
member = "member"

[[mapping]]
name = "entries"
key = "entry:{id:int}"
kind = "hash_entries"
table = "entries"
field = "field"
value = "value"
extra = "extra"
"#;

#[tokio::test]
async fn any_proxy_goes_on_where_another_has_stopped() {
    let stack = Stack::with_mappings(ROWS).await;
    let second = stack.start_second_proxy().await;
    let mut clients = [stack.client().await, Client::connect(&second).await];
    for number in 0..40 {
        clients[0].say(&format!("HSET row:a:{number} a 1")).await;
        clients[1].say(&format!("SET plain:{number} 1")).await;
    }
    let (mut cursor, mut listed, mut calls) = ("0".to_owned(), BTreeSet::new(), 0);
    loop {
        let (next, keys) = scan_step(&mut clients[calls % 2], &cursor, "COUNT 3").await;
        listed.extend(keys);
        calls += 1;
        // A client that has not got the answer asks again.
        let (_, again) = scan_step(&mut clients[calls % 2], &cursor, "COUNT 3").await;
        listed.extend(again);
        if next == "0" {
            break;
        }
        cursor = next;
    }
    assert_eq!(listed.len(), 80);
    assert!(calls > 20, "{calls}");
    drop(second);
    stack.stop_expecting(&[]).await;
}

#[tokio::test]
async fn a_place_that_is_not_needed_any_more_is_forgotten() {
    let stack = Stack::with_mappings(ROWS).await;
    let mut client = stack.client().await;
    for number in 0..100 {
        client.say(&format!("HSET other:{number} a 1")).await;
    }
    let mut redis = Client::connect(&stack.redis).await;
    let mut kept = async || {
        let mut count = 0;
        for drawer in 0..4 {
            let name = format!("respgres:s:{drawer}");
            let length = redis.say(&format!("HLEN {name}")).await.integer();
            if length > 0 {
                let left_ms = redis.say(&format!("PTTL {name}")).await.integer();
                assert!((600_000..=1_200_000).contains(&left_ms), "{left_ms}");
            }
            count += length;
        }
        count
    };
    let (cursor, _) = scan_step(&mut client, "0", "COUNT 20").await;
    let (first, _) = scan_step(&mut client, &cursor, "COUNT 2").await;
    let (second, _) = scan_step(&mut client, &first, "COUNT 2").await;
    let (third, _) = scan_step(&mut client, &second, "COUNT 2").await;
    for _ in 0..10 {
        scan_step(&mut client, &third, "COUNT 2").await;
    }
    // The one it came by and those that it has led to; of the others but the last two.
    assert!(kept().await <= 14);
    assert!(client.say(&format!("SCAN {first}")).await.is_error());
    let mut many = 0;
    for _ in 0..5 {
        many += scan(&mut client, "COUNT 1").await.1;
    }
    assert!(many > 500);
    assert!(kept().await <= 24);
    // Emptied behind our back: the client is told to start again.
    stack.redis.say("FLUSHALL").await;
    let lost = client.say(&format!("SCAN {third}")).await;
    assert!(
        matches!(&lost, Value::Error(text) if text.starts_with("ERR invalid cursor")),
        "{lost:?}"
    );
    stack.stop_expecting(&[]).await;
}

#[tokio::test]
async fn a_scan_goes_on_when_redis_takes_no_more_writes() {
    let stack = Stack::with_mappings(ROWS).await;
    let mut client = stack.client().await;
    for number in 0..30 {
        client.say(&format!("HSET row:a:{number} a 1")).await;
    }
    stack.redis.say("CONFIG SET maxmemory 1").await;
    assert!(client.say("SET unmapped 1").await.is_error());
    assert_eq!(scan(&mut client, "COUNT 2").await.0.len(), 30);
    stack.redis.say("CONFIG SET maxmemory 0").await;
    stack.stop_expecting(&[]).await;
}

#[tokio::test]
async fn a_table_that_changes_under_a_scan_ends_it_with_a_word() {
    let stack = Stack::with_mappings(ROWS).await;
    let mut client = stack.client().await;
    for number in 0..30 {
        client.say(&format!("HSET row:a:{number} a 1")).await;
    }
    let (cursor, _) = scan_step(&mut client, "0", "COUNT 100 MATCH row:*").await;
    assert_eq!(cursor, "0");
    let (mut cursor, _) = scan_step(&mut client, "0", "COUNT 5").await;
    while cursor.parse::<u64>().unwrap() < 1 << 62 {
        cursor = scan_step(&mut client, &cursor, "COUNT 5").await.0;
    }
    let (cursor, _) = scan_step(&mut client, &cursor, "COUNT 5").await;
    stack
        .sql_execute("alter table rows drop constraint rows_pkey, add primary key (id, kind)")
        .await;
    // One that knows the new index, which has another order.
    let second = stack.start_second_proxy().await;
    let mut informed = Client::connect(&second).await;
    let reply = informed.say(&format!("SCAN {cursor} COUNT 5")).await;
    let expected = "ERR mapping \"rows\": its table has changed since its keys began to be listed; \
                    start again";
    assert_eq!(reply, Value::Error(expected.to_owned()));
    assert_eq!(scan(&mut informed, "COUNT 4").await.0.len(), 30);
    // One that does not lists all the same.
    assert_eq!(scan(&mut client, "COUNT 4").await.0.len(), 30);
    drop(second);
    stack.sql_execute("alter table rows rename to gone").await;
    let reply = client.say("KEYS *").await;
    assert!(matches!(&reply, Value::Error(text) if text.contains("no longer fits")), "{reply:?}");
    assert_eq!(client.say("KEYS other:*").await, Value::Array(Vec::new()));
    stack.stop_expecting(&["keys could not be listed", "a mapping is set aside"]).await;
}

/// Each page is a range of the index, whatever the planner believes of the table and however cheap other
/// ways seem: no table is read as a whole, nothing is sorted, no other process begins with rows behind
/// the page.
#[tokio::test]
async fn a_page_reads_of_the_index_what_it_tells_and_no_more() {
    let cluster = Arc::new(Cluster::start(false).await);
    let stack = Stack::builder(ROWS).cluster(Arc::clone(&cluster)).start().await;
    let database = &stack.database().name;
    stack
        .sql_execute(&format!(
            "insert into rows (kind, id, a)
                 select 'k' || n % 7, n, 'x' from generate_series(1, 30000) as n;
             insert into others (id, extra)
                 select n, '{{\"a\": \"1\"}}' from generate_series(1, 30000) as n order by md5(n::text);
             insert into groups (kind, id, member)
                 select 'big', 1, n || repeat('-', 200) from generate_series(1, 50000) as n;
             insert into groups (kind, id, member)
                 select 'k' || n % 7, n % 3000, n from generate_series(1, 20000) as n;
             insert into entries (id, field, value)
                 select n % 6000, n || repeat('-', 200), 'x' from generate_series(1, 20000) as n;
             insert into entries (id, field, value)
                 select 10, n || repeat('-', 200), 'x' from generate_series(30001, 80000) as n;
             analyze rows, others, groups;
             alter database {database} set session_preload_libraries = 'auto_explain';
             alter database {database} set auto_explain.log_min_duration = 0;
             alter database {database} set auto_explain.log_level = 'warning';
             alter database {database} set auto_explain.log_analyze = on;
             alter database {database} set auto_explain.log_buffers = on;
             alter database {database} set min_parallel_table_scan_size = 0;
             alter database {database} set min_parallel_index_scan_size = 0;
             alter database {database} set parallel_setup_cost = 0;
             alter database {database} set parallel_tuple_cost = 0;
             alter database {database} set random_page_cost = 1000;
             alter database {database} set client_min_messages = error"
        ))
        .await;
    let mut client = stack.client().await;
    for glob in ["row:*", "other:*", "group:*", "entry:*"] {
        let options = format!("COUNT 30 MATCH {glob}");
        let mut cursor = "0".to_owned();
        for _ in 0..5 {
            let (next, keys) = scan_step(&mut client, &cursor, &options).await;
            assert_eq!(keys.len(), 30, "{glob}");
            cursor = next;
        }
    }
    // The first row behind a key is one scan, and so is each step to the next; a look at what it has is another.
    for (index, most, scans) in [
        ("rows_pkey", 30, 5),
        ("others_pkey", 30, 5),
        ("groups_pkey", 1, 10),
        ("entries_pkey", 1, 15),
        ("expiry_pkey", 1, 15),
    ] {
        let reads = |line: &String| {
            let (_, after) = line.split_once(&format!("using {index} on"))?;
            let (_, actual) = after.split_once("actual time=")?;
            let (_, rows) = actual.split_once("rows=")?;
            rows.split(' ').next()?.parse::<u32>().ok()
        };
        wait_until("the plans are in the log", async || {
            cluster.log().iter().filter_map(reads).count() == scans
        })
        .await;
        let log = cluster.log();
        assert!(log.iter().filter_map(reads).all(|rows| rows <= most), "{}", log.join("\n"));
    }
    // The elements of the large keys are in some 1,500 blocks each.
    let blocks = |line: &String| {
        let (_, after) = line.split_once("Buffers: shared ")?;
        let counts = after.split([' ', '=']).filter_map(|word| word.parse::<u32>().ok());
        Some(counts.sum::<u32>())
    };
    let most_blocks = cluster.log().iter().filter_map(blocks).max();
    assert!(most_blocks.is_some_and(|blocks| blocks < 500), "{most_blocks:?}");
    let log = cluster.log().join("\n");
    for other in ["Seq Scan", "Sort", "Bitmap", "Gather", "Hash", "Merge", "Materialize"] {
        assert!(!log.contains(other), "{other}:\n{log}");
    }
    // Each key once, page by page.
    assert_eq!(client.say("DBSIZE").await, Value::Integer(30_000 + 30_000 + 20_001 + 6_000));
    stack.stop_expecting(&[]).await;
}

#[tokio::test]
async fn a_long_listing_ends_when_its_client_has_left_and_holds_up_no_miss() {
    let mut stack = Stack::builder(ROWS)
        .set("RESPGRES__LIMITS__CLIENT_BACKLOG_BYTES", "64kb")
        .set("RESPGRES__LIMITS__CLIENT_BACKLOG_MAX_BYTES", "1mb")
        .set("RESPGRES__LOG__LEVEL", "info,respgres::engine=debug")
        .start()
        .await;
    stack
        .sql_execute(
            "insert into rows (kind, id, a)
                 select 'k' || n % 7, n, 'x' from generate_series(1, 200000) as n",
        )
        .await;
    let mut client = stack.client().await;
    // 200,000 keys of about 11 bytes would be more than the client may have waiting.
    let reply = client.say("KEYS row:*").await;
    let expected = "ERR the reply would be longer than limits.client_backlog_max_bytes; use SCAN";
    assert_eq!(reply, Value::Error(expected.to_owned()));
    assert_eq!(client.say("DBSIZE").await, Value::Integer(200_000));
    // Somebody holds the table: the listing waits, a miss of another table does not.
    let mut leaving = stack.client().await;
    let id = leaving.say("CLIENT ID").await.integer();
    let database = stack.database();
    let mut holder = database.cluster.connect(&database.name).await;
    sqlx::Executor::execute(&mut holder, "begin; lock table rows in access exclusive mode")
        .await
        .expect("the table can be locked");
    leaving.send(b"KEYS *\r\n").await;
    client.say("HSET other:1 a 1").await;
    stack.redis.say("FLUSHALL").await;
    assert_eq!(client.say("HGET other:1 a").await, Value::Bulk(b"1".to_vec()));
    assert_eq!(client.say(&format!("CLIENT KILL ID {id}")).await, Value::Integer(1));
    assert_eq!(leaving.read_to_end().await, b"");
    sqlx::Executor::execute(&mut holder, "rollback").await.expect("it can end");
    assert_eq!(keys_of(&client.say("KEYS other:*").await).len(), 1);
    stack.proxy.wait_for_line(|line| line.contains("its client has left")).await;
    stack.stop_expecting(&[]).await;
}
