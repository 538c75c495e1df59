//! Rows past their expiry are deleted, and no others.

use sqlx::{Connection, Executor};

use crate::stack::{Stack, Value, talk, wait_until};

const MAPPINGS: &str = r#"
[[mapping]]
name = "column"
key = "column:{id:int}"
table = "with_column"
extra = "extra"
expires_at = "expires_at"

[[mapping]]
name = "table"
key = "table:{id:int}"
table = "without_column"
extra = "extra"

[[mapping]]
name = "entries"
key = "entries:{id:int}"
kind = "hash_entries"
table = "entries"
field = "field"
value = "value"

[[mapping]]
name = "members"
key = "members:{id:int}"
kind = "set"
table = "members"
member = "member"

[[mapping]]
name = "kept"
key = "kept:{id:int}"
table = "kept"
extra = "extra"
expires_at = "expires_at"
on_expire = "keep"

[[mapping]]
name = "kept-members"
key = "kept:members:{id:int}"
kind = "set"
table = "kept_members"
member = "member"
on_expire = "keep"
"#;

const KEYS: [&str; 6] = ["column", "table", "entries", "members", "kept", "kept:members"];

/// How many wait for an advisory lock of this database.
const WAITING: &str = "select count(*) from pg_locks as l join pg_database as d on d.oid = l.database \
    where l.locktype = 'advisory' and not l.granted and d.datname = current_database()";

async fn fill(stack: &Stack, id: u32) {
    let mut client = stack.client().await;
    for key in KEYS {
        let line = match key {
            "members" | "kept:members" => format!("SADD {key}:{id} a b c"),
            _ => format!("HSET {key}:{id} a 1 b 2 c 3"),
        };
        assert_eq!(client.say(&line).await, Value::Integer(3), "{line}");
    }
}

async fn rows(stack: &Stack, table: &str, id: u32) -> i64 {
    stack.sql_i64(&format!("select count(*) from {table} where id = {id}")).await
}

#[tokio::test]
async fn expired_rows_of_all_kinds_go_and_the_others_stay() {
    let stack = Stack::with_mappings(MAPPINGS).await;
    for id in 1..=3 {
        fill(&stack, id).await;
    }
    let mut client = stack.client().await;
    for key in KEYS {
        for line in [format!("PEXPIRE {key}:1 50"), format!("EXPIRE {key}:2 1000")] {
            assert_eq!(client.say(&line).await, Value::Integer(1), "{line}");
        }
    }
    let deleted = ["with_column", "without_column", "entries", "members"];
    for table in deleted {
        wait_until("its rows are gone", async || rows(&stack, table, 1).await == 0).await;
    }
    wait_until("nothing says when they expired", async || {
        let expired = "select count(*) from respgres.expiry \
                       where expires_at < now() and mapping <> 'kept-members'";
        stack.sql_i64(expired).await == 0
    })
    .await;
    for (table, each) in [("with_column", 1), ("without_column", 1), ("entries", 3), ("members", 3)]
    {
        for id in 2..=3 {
            assert_eq!(rows(&stack, table, id).await, each, "{table} {id}");
        }
    }
    // Kept rows are absent all the same, and a key that is written anew begins anew.
    assert_eq!(rows(&stack, "kept", 1).await, 1);
    assert_eq!(rows(&stack, "kept_members", 1).await, 3);
    talk(
        &stack,
        "
        > EXISTS kept:1
        :0
        > HSET kept:1 z 1
        :1
        > HGETALL kept:1
        *2
          \"z\"
          \"1\"
        > TTL kept:1
        :-1
        > SADD kept:members:1 z
        :1
        > SMEMBERS kept:members:1
        *1
          \"z\"
        > TTL members:3
        :-1
        ",
    )
    .await;
    for key in ["column", "table", "entries", "members"] {
        let left = client.say(&format!("TTL {key}:2")).await.integer();
        assert!((900..=1000).contains(&left), "{key}: {left}");
    }
    stack.stop_expecting(&[]).await;
}

#[tokio::test]
async fn more_than_one_transaction_takes_go_too() {
    let stack = Stack::with_mappings(MAPPINGS).await;
    stack
        .sql_execute(
            "insert into with_column (id, extra, expires_at)
                 select g, '{\"a\": \"1\"}', now() - interval '1 s' * g from generate_series(1, 1000) g;
             insert into members (id, member) select g / 2, g::text from generate_series(2, 2001) g;
             insert into respgres.expiry (mapping, key, expires_at)
                 select 'members', ('members:' || g)::bytea, now() - interval '1 s'
                 from generate_series(1, 1000) g;
             insert into respgres.expiry (mapping, key, expires_at)
                 values ('gone', 'gone:1', now() - interval '1 s'),
                        ('members', 'members:9999', now() - interval '1 s')",
        )
        .await;
    wait_until("all are gone", async || {
        stack
            .sql_i64("select (select count(*) from with_column) + (select count(*) from members)")
            .await
            == 0
    })
    .await;
    // What belongs to no mapping is nobody's to delete; what has no row is.
    wait_until("their expiry is forgotten", async || {
        stack.sql_i64("select count(*) from respgres.expiry").await == 1
    })
    .await;
    stack.stop_expecting(&[]).await;
}

#[tokio::test]
async fn a_key_that_gets_more_time_while_it_waits_for_its_lock_stays() {
    let stack = Stack::with_mappings(MAPPINGS).await;
    fill(&stack, 1).await;
    let database = stack.database();
    let mut holder = database.cluster.connect(&database.name).await;
    let mut transaction = holder.begin().await.unwrap();
    let lock = respgres::mapping::registry::lock_number(b"column:1");
    let hold = format!("select pg_advisory_xact_lock({lock})");
    transaction.execute(sqlx::AssertSqlSafe(hold)).await.unwrap();
    stack.sql_execute("update with_column set expires_at = now() - interval '1 s'").await;
    wait_until("somebody waits for the lock", async || stack.sql_i64(WAITING).await > 0).await;
    transaction.execute("update with_column set expires_at = null").await.unwrap();
    transaction.commit().await.unwrap();
    wait_until("nobody waits any more", async || stack.sql_i64(WAITING).await == 0).await;
    // Another one that goes shows that a whole look has passed.
    stack
        .sql_execute(
            "insert into with_column (id, extra, expires_at) values (2, '{\"a\": \"1\"}', now())",
        )
        .await;
    wait_until("the other one is gone", async || rows(&stack, "with_column", 2).await == 0).await;
    assert_eq!(rows(&stack, "with_column", 1).await, 1);
    stack.stop_expecting(&[]).await;
}

#[tokio::test]
async fn a_row_that_cannot_be_deleted_stays_alone() {
    let stack = Stack::with_mappings(MAPPINGS).await;
    stack
        .sql_execute(
            "create table child (id bigint references with_column (id));
             insert into with_column (id, extra, expires_at)
                 select g, '{\"a\": \"1\"}', now() from generate_series(1, 5) g;
             insert into child values (3)",
        )
        .await;
    wait_until("the others are gone", async || {
        stack.sql_i64("select count(*) from with_column").await == 1
    })
    .await;
    assert_eq!(rows(&stack, "with_column", 3).await, 1);
    stack.sql_execute("drop table child").await;
    wait_until("it goes when it can", async || rows(&stack, "with_column", 3).await == 0).await;
    stack.stop_expecting(&["Postgres refuses to delete an expired row"]).await;
}
