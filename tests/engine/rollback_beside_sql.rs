//! Back to Redis alone, while others change the rows by SQL: what they have done when the gates are closed is there, and
//! what they go on to do holds nothing up.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use sqlx::{Connection, PgConnection};

use crate::rollback::with_things;
use crate::stack::{Stack, Value, wait_until};

/// Between the last look and the end others change rows: they are in the outbox, and no copy is dropped any more.
#[tokio::test]
async fn what_others_change_by_sql_in_the_last_moment_is_there() {
    let stack = with_things(300).await;
    let mut client = stack.client().await;
    let (stop, database) = (Arc::new(AtomicBool::new(false)), stack.database());
    let url = database.cluster.url(&database.name);
    // The end waits for the journal, and the journal for this table.
    let mut transaction = PgConnection::connect(&url).await.unwrap();
    let lock = "begin; lock table members in share mode";
    sqlx::raw_sql(lock).execute(&mut transaction).await.unwrap();
    assert_eq!(client.say("SADD member:1 a").await, Value::Integer(1));
    // They go on, and hold nothing up: so many that there is something in the outbox whenever somebody looks.
    let mut writers = tokio::task::JoinSet::new();
    for id in 8..14 {
        let (stop, url) = (Arc::clone(&stop), url.clone());
        writers.spawn(async move {
            let mut connection = PgConnection::connect(&url).await.unwrap();
            let mut count = 0;
            while !stop.load(Ordering::Relaxed) {
                count += 1;
                let sql = change_by_sql(id, &count.to_string());
                sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&mut connection).await.unwrap();
            }
        });
    }
    let mut rollback = stack.begin(&["rollback", "--force", "--mapping", "things"]);
    wait_until("the gates are closed", async || {
        assert!(!rollback.has_ended(), "{:?}", rollback.log());
        gates_are_closed(&stack).await
    })
    .await;
    stack.sql_execute(&change_by_sql(7, "last")).await;
    sqlx::raw_sql("rollback").execute(&mut transaction).await.unwrap();
    let (status, log) = rollback.finish().await;
    // From now on the rows are nobody's.
    let there = stack.redis.say("HGET thing:8 a").await;
    stop.store(true, Ordering::Relaxed);
    writers.join_all().await;
    assert!(status.success(), "{log:?}");
    let last = Value::Bulk(b"last".to_vec());
    assert_eq!(stack.redis.say("HGET thing:7 a").await, last);
    wait_until("the outbox is empty", async || {
        stack.sql_i64("select count(*) from respgres.outbox").await == 0
    })
    .await;
    for (line, there) in [("HGET thing:7 a", last), ("HGET thing:8 a", there)] {
        assert_eq!(stack.redis.say(line).await, there);
        assert_eq!(client.say(line).await, there);
    }
    stack.stop_allowing(&[], &["the journal is not brought to Postgres"]).await;
}

/// Whether all proxies have let go of the mapping that goes back to Redis.
async fn gates_are_closed(stack: &Stack) -> bool {
    let query = "select count(*) from respgres.control as c, respgres.proxies as p \
                 where c.name = 'mapping:things' and c.value ->> 'target' = 'redis_only' \
                 and p.standing -> 'acknowledged' ->> 'things' = c.value ->> 'version'";
    stack.sql_i64(query).await == 1
}

/// A transaction of somebody who does as the triggers do, fifty times.
fn change_by_sql(id: u32, value: &str) -> String {
    format!(
        "begin; update things set extra = '{{\"a\": \"{value}\"}}' where id = {id}; \
         insert into respgres.outbox (mapping, key) \
         select 'things', 'thing:{id}' from generate_series(1, 50); \
         notify respgres_outbox; commit"
    )
}
