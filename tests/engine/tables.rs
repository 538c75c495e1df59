//! A table that changes, or is locked, while respgres runs: only its own mapping suffers, and goes on
//! by itself afterwards.

use std::time::{Duration, Instant};

use sqlx::{Connection, Executor, PgConnection};

use crate::stack::{Client, Stack, Value, resp, wait_until};

const MAPPINGS: &str = r#"
[postgres]
statement_timeout = "2s"
[[mapping]]
name = "pots"
key = "pot:{id:int}"
table = "pots"
extra = "extra"
[mapping.columns]
name = "name"
size = { column = "size", type = "bigint" }

[[mapping]]
name = "pans"
key = "pan:{id:int}"
table = "pans"
extra = "extra"
[mapping.columns]
name = "name"
"#;

fn ok(reply: &Value) -> bool {
    !reply.is_error()
}

/// Writes and reads one pot past the cache, and one pan in the same batch.
async fn both(stack: &Stack, client: &mut Client, number: u32) -> [Value; 4] {
    let lines = [format!("HSET pot:{number} name a size 5"), format!("HSET pan:{number} name b")];
    let commands: Vec<_> = lines.iter().map(|line| resp::arguments(line)).collect();
    let written = client.pipeline(&commands).await;
    stack.redis.say("FLUSHALL").await;
    let lines = [format!("HGET pot:{number} size"), format!("HGET pan:{number} name")];
    let commands: Vec<_> = lines.iter().map(|line| resp::arguments(line)).collect();
    let read = client.pipeline(&commands).await;
    let mut all = written.into_iter().chain(read);
    [(); 4].map(|()| all.next().unwrap())
}

#[tokio::test]
async fn a_table_that_no_longer_fits_sets_its_mapping_aside_until_it_does() {
    let stack = Stack::with_mappings(MAPPINGS).await;
    let mut client = stack.client().await;
    assert!(both(&stack, &mut client, 1).await.iter().all(ok));
    let breaks = [
        ("alter table pots rename size to width", "alter table pots rename width to size"),
        ("alter table pots drop column size", "alter table pots add column size bigint"),
        (
            "drop table pots",
            "create table pots (id bigint primary key, size bigint, extra jsonb, name text, new text)",
        ),
        ("alter table pots rename to jars", "alter table jars rename to pots"),
        ("alter table pots drop constraint pots_pkey", "alter table pots add primary key (id)"),
    ];
    for (at, (breaking, mending)) in breaks.into_iter().enumerate() {
        let number = 10 + u32::try_from(at).unwrap();
        stack.sql_execute(breaking).await;
        let [pot_set, pan_set, pot_get, pan_get] = both(&stack, &mut client, number).await;
        let Value::Error(text) = &pot_set else { panic!("{breaking}: {pot_set:?}") };
        assert_eq!(
            text, "ERR mapping \"pots\": its table no longer fits the mapping; nothing was written",
            "{breaking}"
        );
        let text =
            Value::Error("ERR mapping \"pots\": its table no longer fits the mapping".into());
        // Reading needs no unique index.
        assert!(pot_get == text || breaking.contains("pkey"), "{breaking}: {pot_get:?}");
        assert_eq!(pan_set, Value::Integer(1), "{breaking}");
        assert_eq!(pan_get, Value::Bulk(b"b".to_vec()), "{breaking}");
        stack.sql_execute(mending).await;
        let start = Instant::now();
        wait_until("the mapping works again", async || {
            both(&stack, &mut client, number + 100).await.iter().all(ok)
        })
        .await;
        // It is looked at again after a second. Whoever waited for the next change of it would wait for ever.
        assert!(start.elapsed() < Duration::from_secs(10), "{mending}: {:?}", start.elapsed());
    }
    stack.stop_expecting(&["set aside", "has changed"]).await;
}

#[tokio::test]
async fn a_table_that_fits_otherwise_is_used_as_it_is_now() {
    let stack = Stack::with_mappings(MAPPINGS).await;
    let mut client = stack.client().await;
    assert!(both(&stack, &mut client, 1).await.iter().all(ok));
    for (change, column) in [
        ("alter table pots alter size type text", "text"),
        ("alter table pots alter size type numeric using size::numeric", "numeric"),
        ("alter table pots alter size type integer", "integer"),
    ] {
        stack.sql_execute(change).await;
        let replies = both(&stack, &mut client, 2).await;
        assert!(replies.iter().all(ok), "{change}: {replies:?}");
        assert_eq!(replies[2], Value::Bulk(b"5".to_vec()));
        let is = "select pg_typeof(size)::text || '=' || size from pots where id = 2";
        assert_eq!(stack.sql_text(is).await, format!("{column}=5"));
    }
    stack.stop_expecting(&[]).await;
}

/// As in the mappings.
const TIMEOUT: Duration = Duration::from_secs(2);

/// How long a table is locked.
const LOCKED: Duration = Duration::from_secs(10);

#[tokio::test]
async fn a_locked_table_does_not_stop_the_others_for_good() {
    let stack = Stack::with_mappings(MAPPINGS).await;
    let database = stack.database();
    let mut holder = PgConnection::connect(&database.cluster.url(&database.name)).await.unwrap();
    holder.execute("begin; lock table pots").await.unwrap();
    // Many clients want the locked table all the time.
    let mut crowd = Vec::new();
    for number in 0..8 {
        let mut client = stack.client().await;
        crowd.push(tokio::spawn(async move {
            let mut longest = Duration::ZERO;
            let start = Instant::now();
            while start.elapsed() < LOCKED {
                let asked = Instant::now();
                let reply = client.say(&format!("HSET pot:{number} name x")).await;
                longest = longest.max(asked.elapsed());
                assert!(reply.is_error(), "{reply:?}");
                let reply = client.say(&format!("HGET pot:{number} name")).await;
                assert!(reply.is_error(), "{reply:?}");
            }
            longest
        }));
    }
    let mut client = stack.client().await;
    let start = Instant::now();
    let (mut done, mut longest_later) = (0_u64, Duration::ZERO);
    while start.elapsed() < LOCKED {
        let asked = Instant::now();
        let reply = client.say(&format!("HSET pan:{done} name x")).await;
        assert_eq!(reply, Value::Integer(1));
        stack.redis.say(&format!("DEL pan:{done}")).await;
        assert_eq!(client.say(&format!("HGET pan:{done} name")).await, Value::Bulk(b"x".to_vec()));
        done += 1;
        if start.elapsed() > LOCKED / 2 {
            longest_later = longest_later.max(asked.elapsed());
        }
    }
    // Nobody waits for the locked table behind the crowd: that would take as long as a statement may, each time.
    assert!(longest_later < TIMEOUT, "{longest_later:?} in the end");
    assert!(done > 5 * (LOCKED.as_secs() / TIMEOUT.as_secs()), "only {done}");
    for client in crowd {
        let longest = client.await.unwrap();
        assert!(longest < LOCKED, "{longest:?}");
    }
    holder.execute("rollback").await.unwrap();
    let start = Instant::now();
    wait_until("the table is used again", async || ok(&client.say("HSET pot:1 name y").await))
        .await;
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    stack.stop_expecting(&["took too long"]).await;
}

#[tokio::test]
async fn a_locked_row_fails_alone() {
    // A part of it is what the others get when they are tried again.
    let stack =
        Stack::builder(MAPPINGS).set("RESPGRES__POSTGRES__STATEMENT_TIMEOUT", "6s").start().await;
    let mut client = stack.client().await;
    assert!(both(&stack, &mut client, 4).await.iter().all(ok));
    let database = stack.database();
    let mut holder = PgConnection::connect(&database.cluster.url(&database.name)).await.unwrap();
    holder.execute("begin; select from pots where id = 4 for update").await.unwrap();
    let lines: Vec<String> = (0..10).map(|id| format!("HSET pot:{id} name z")).collect();
    let commands: Vec<_> = lines.iter().map(|line| resp::arguments(line)).collect();
    for (id, reply) in client.pipeline(&commands).await.iter().enumerate() {
        assert_eq!(reply.is_error(), id == 4, "{id}: {reply:?}");
    }
    holder.execute("rollback").await.unwrap();
    assert_eq!(client.say("HSET pot:4 name z").await, Value::Integer(0));
    stack.stop_expecting(&["took too long"]).await;
}
