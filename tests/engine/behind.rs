//! Writing behind: what clients are told, what Postgres gets, and what happens when one of the two is away.

use std::sync::Arc;
use std::time::{Duration, Instant};

use sqlx::{AssertSqlSafe, Executor, Row};

use crate::stack::{Client, Cluster, Redis, Stack, Value, wait_until};

pub const MAPPINGS: &str = r#"
[[mapping]]
name = "things"
key = "thing:{id:int}"
table = "things"
strategy = "cache_first"
[mapping.columns]
name = "name"
size = { column = "size", type = "integer" }
total = { column = "total", type = "bigint" }

[[mapping]]
name = "loose"
key = "loose:{id:int}"
table = "loose"
extra = "extra"
strategy = "cache_first"

[[mapping]]
name = "members"
key = "members:{id:int}"
kind = "set"
table = "members"
member = "member"
strategy = "cache_first"

[[mapping]]
name = "dual"
key = "dual:{id:int}"
table = "dual"
extra = "extra"
"#;

pub fn bulk(text: &str) -> Value {
    Value::Bulk(text.as_bytes().to_vec())
}

pub fn error(reply: Value) -> String {
    match reply {
        Value::Error(text) => text,
        other => panic!("no error: {other:?}"),
    }
}

/// Who has the flusher's lock, in this database.
pub const HOLDERS: &str = "pg_locks where locktype = 'advisory' and classid = 1919251312 and objid = 2 \
     and database = (select oid from pg_database where datname = current_database())";

/// The flusher's lock in a test's hands: nothing reaches Postgres while it looks.
pub async fn held(stack: &Stack) -> sqlx::PgConnection {
    let database = stack.database();
    let mut connection = database.cluster.connect(&database.name).await;
    wait_until("the lock is free", async || {
        let end = format!("select count(pg_terminate_backend(pid)) from {HOLDERS}");
        connection.execute(AssertSqlSafe(end)).await.unwrap();
        let row = connection.fetch_one("select pg_try_advisory_lock(1919251312, 2)").await.unwrap();
        row.get::<bool, _>(0)
    })
    .await;
    connection
}

pub async fn let_go(mut connection: sqlx::PgConnection) {
    connection.execute("select pg_advisory_unlock(1919251312, 2)").await.unwrap();
}

#[tokio::test]
async fn clients_are_told_before_postgres_is() {
    let stack = Stack::with_mappings(MAPPINGS).await;
    let lock = held(&stack).await;
    let mut client = stack.client().await;
    assert_eq!(client.say("HSET thing:1 name a total 5").await, Value::Integer(2));
    assert_eq!(client.say("HINCRBY thing:1 total 2").await, Value::Integer(7));
    assert_eq!(client.say("HGET thing:1 total").await, bulk("7"));
    assert_eq!(client.say("SADD members:1 a b").await, Value::Integer(2));
    assert_eq!(client.say("SREM members:1 a").await, Value::Integer(1));
    assert_eq!(stack.sql_i64("select count(*) from things").await, 0);
    assert_eq!(stack.redis.say("PTTL thing:1").await, Value::Integer(-1));
    let second = stack.start_second_proxy().await;
    let mut other = Client::connect(&second).await;
    assert_eq!(other.say("HGETALL thing:1").await.elements().len(), 4);
    let_go(lock).await;
    stack.flushed().await;
    assert_eq!(stack.sql_text("select name || total from things where id = 1").await, "a7");
    assert_eq!(stack.sql_text("select string_agg(member, '') from members").await, "b");
    wait_until("the copy has an end", async || stack.redis.say("PTTL thing:1").await.integer() > 0)
        .await;
    stack.stop_expecting(&[]).await;
}

#[tokio::test]
async fn a_deleted_key_is_known_to_be_absent_and_its_row_goes() {
    let stack = Stack::with_mappings(MAPPINGS).await;
    let mut client = stack.client().await;
    client.say("HSET thing:1 name a size 5").await;
    stack.flushed().await;
    let lock = held(&stack).await;
    assert_eq!(client.say("DEL thing:1 thing:2").await, Value::Integer(1));
    assert_eq!(client.say("HGETALL thing:1").await.elements().len(), 0);
    assert_eq!(stack.sql_i64("select count(*) from things").await, 1);
    assert_eq!(client.say("HSET thing:1 size 1").await, Value::Integer(1));
    let_go(lock).await;
    stack.flushed().await;
    assert_eq!(stack.sql_optional_text("select name from things").await, None);
    assert_eq!(stack.sql_i64("select size from things").await, 1);
    client.say("HDEL thing:1 size").await;
    stack.flushed().await;
    assert_eq!(stack.sql_i64("select count(*) from things").await, 0);
    stack.stop_expecting(&[]).await;
}

#[tokio::test]
async fn who_asks_postgres_waits_for_the_journal() {
    let stack = Stack::builder(MAPPINGS).set("RESPGRES__JOURNAL__DELAY", "300ms").start().await;
    let mut client = stack.client().await;
    let mut key = 0;
    let mut new_key = async |client: &mut Client| {
        key += 1;
        assert_eq!(client.say(&format!("HSET loose:{key} a 1 b 2")).await, Value::Integer(2));
        format!("loose:{key}")
    };
    let key = new_key(&mut client).await;
    assert_eq!(client.say(&format!("TTL {key}")).await, Value::Integer(-1));
    assert_eq!(client.say("DBSIZE").await, Value::Integer(1));
    let key = new_key(&mut client).await;
    assert_eq!(client.say("DBSIZE").await, Value::Integer(2), "{key}");
    new_key(&mut client).await;
    assert_eq!(client.say("KEYS *").await.elements().len(), 3);
    new_key(&mut client).await;
    let page = client.say("SCAN 0 COUNT 1000").await;
    assert_eq!(page.elements()[1].elements().len(), 4);
    // Redis runs it on what Postgres has.
    let key = new_key(&mut client).await;
    let script = format!("EVAL \"return redis.call('hlen', KEYS[1])\" 1 {key}");
    assert_eq!(client.say(&script).await, Value::Integer(2));
    let key = new_key(&mut client).await;
    assert_eq!(client.say(&format!("HSTRLEN {key} a")).await, Value::Integer(1));
    assert_eq!(client.say(&format!("RENAME {key} loose:100")).await, Value::Status("OK".into()));
    assert_eq!(client.say("HGET loose:100 b").await, bulk("2"));
    // Also where nothing comes of it.
    let key = new_key(&mut client).await;
    assert_eq!(client.say(&format!("PERSIST {key}")).await, Value::Integer(0));
    assert_eq!(client.say(&format!("EXPIRE {key} 100")).await, Value::Integer(1));
    client.say(&format!("DEL {key}")).await;
    let key = new_key(&mut client).await;
    assert_eq!(client.say(&format!("WATCH {key}")).await, Value::Status("OK".into()));
    let mut other = stack.client().await;
    other.say(&format!("HSET {key} a 5")).await;
    client.say("MULTI").await;
    client.say(&format!("HSET {key} a 6")).await;
    let told = client.say("EXEC").await;
    assert!(matches!(told, Value::NilArray | Value::Null), "{told:?}");
    assert_eq!(client.say(&format!("HGET {key} a")).await, bulk("5"));
    stack.stop_expecting(&[]).await;
}

#[tokio::test]
async fn a_key_with_an_end_of_its_own_keeps_it() {
    let stack = Stack::with_mappings(MAPPINGS).await;
    let mut client = stack.client().await;
    client.say("HSET loose:1 n 1").await;
    assert_eq!(client.say("EXPIRE loose:1 1000").await, Value::Integer(1));
    for turn in 2..30 {
        assert_eq!(client.say("HINCRBY loose:1 n 1").await, Value::Integer(turn));
        let left = client.say("TTL loose:1").await.integer();
        assert!((990..=1000).contains(&left), "{left}");
        if turn % 3 == 0 {
            stack.redis.say("DEL loose:1").await;
        }
    }
    assert_eq!(client.say("PERSIST loose:1").await, Value::Integer(1));
    let lock = held(&stack).await;
    wait_until("it is written behind again", async || {
        client.say("HINCRBY loose:1 n 1").await;
        stack.redis.say("PTTL loose:1").await == Value::Integer(-1)
    })
    .await;
    let_go(lock).await;
    assert_eq!(client.say("TTL loose:1").await, Value::Integer(-1));
    client.say("HSET loose:2 a 1").await;
    client.say("PEXPIRE loose:2 60").await;
    wait_until("it has ended", async || client.say("EXISTS loose:2").await == Value::Integer(0))
        .await;
    assert_eq!(client.say("HINCRBY loose:2 n 1").await, Value::Integer(1));
    stack.flushed().await;
    assert_eq!(stack.sql_text("select extra from loose where id = 2").await, "{\"n\": \"1\"}");
    stack.stop_expecting(&[]).await;
}

#[tokio::test]
async fn what_no_column_could_hold_is_refused_before_redis_is_told() {
    let stack = Stack::with_mappings(MAPPINGS).await;
    let mut client = stack.client().await;
    let told = error(client.say("HSET thing:1 name a size many").await);
    assert!(told.contains("field \"size\" could not be given back unchanged"), "{told}");
    let told = error(client.say("HSET thing:1 colour red").await);
    assert!(told.contains("has no column, and there is no extra column"), "{told}");
    assert_eq!(client.say("EXISTS thing:1").await, Value::Integer(0));
    // An integer of 64 bits need not fit into a column of 32.
    assert_eq!(client.say("HINCRBY thing:1 size 2147483647").await, Value::Integer(2_147_483_647));
    error(client.say("HINCRBY thing:1 size 1").await);
    assert_eq!(client.say("HINCRBY thing:1 total 9223372036854775807").await.integer(), i64::MAX);
    let told = error(client.say("HINCRBY thing:1 total 1").await);
    assert_eq!(told, "ERR increment or decrement would overflow");
    assert_eq!(client.say("HSETNX thing:1 size many").await, Value::Integer(0));
    stack.flushed().await;
    assert_eq!(stack.sql_i64("select size from things").await, 2_147_483_647);
    assert_eq!(stack.sql_i64("select count(*) from respgres.dead_letters").await, 0);
    stack.stop_expecting(&[]).await;
}

#[tokio::test]
async fn a_full_journal_makes_writes_wait_and_then_refuses_them() {
    let stack = Stack::builder(MAPPINGS)
        .set("RESPGRES__JOURNAL__MAX_CHANGES", "5")
        .set("RESPGRES__POSTGRES__STATEMENT_TIMEOUT", "2s")
        .start()
        .await;
    let lock = held(&stack).await;
    let mut client = stack.client().await;
    for number in 1..=5 {
        // What has to be loaded is loaded: Postgres is there.
        assert_eq!(client.say(&format!("HSET loose:{number} a 1")).await, Value::Integer(1));
    }
    let start = Instant::now();
    let told = error(client.say("HSET loose:1 a 2").await);
    assert!(told.starts_with("ERR the journal is full (journal.max_changes)"), "{told}");
    assert!(told.ends_with("nothing was written"), "{told}");
    assert!(start.elapsed() >= Duration::from_millis(3900), "{:?}", start.elapsed());
    assert_eq!(client.say("HGET loose:1 a").await, bulk("1"));
    let waiting = async { client.say("HSET loose:1 a 3").await };
    let freeing = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let_go(lock).await;
    };
    let (told, ()) = tokio::join!(waiting, freeing);
    assert_eq!(told, Value::Integer(0));
    stack.flushed().await;
    assert_eq!(stack.sql_i64("select count(*) from loose").await, 5);
    assert_eq!(stack.sql_text("select extra ->> 'a' from loose where id = 1").await, "3");
    stack.stop_expecting(&[]).await;
}

#[tokio::test]
async fn increments_reach_postgres_once_whoever_dies() {
    let stack = Stack::builder(MAPPINGS).set("RESPGRES__JOURNAL__DELAY", "1ms").start().await;
    let mut second = stack.start_second_proxy().await;
    let mut told = 0;
    let mut client = stack.client().await;
    for turn in 0..8 {
        // Whoever has the lock: it is the second one's turn to die, or its session's.
        for number in 0..60 {
            told += 1;
            assert_eq!(client.say("HINCRBY thing:1 total 1").await, Value::Integer(told));
            if number == 20 + turn {
                second.kill();
            }
            if number == 40 {
                let end = format!("select pg_terminate_backend(pid) from {HOLDERS}");
                stack.sql_execute(&end).await;
            }
        }
        second.restart().await;
    }
    stack.flushed().await;
    assert_eq!(stack.sql_i64("select total from things").await, told);
    stack.stop_allowing(&[], &["the journal is not brought", "Postgres", "connection"]).await;
}

#[tokio::test]
async fn who_asks_postgres_waits_for_a_flusher_that_is_slow() {
    let stack = Stack::with_mappings(MAPPINGS).await;
    let mut client = stack.client().await;
    client.say("HSET thing:1 name a total 0").await;
    stack.flushed().await;
    let mut holder = held(&stack).await;
    assert_eq!(client.say("HSET thing:1 total 2").await, Value::Integer(0));
    let mut clients = [stack.client().await, stack.client().await, stack.client().await];
    let [lister, reader, writer] = &mut clients;
    let flushing = async {
        holder.execute("select pg_sleep(2)").await.unwrap();
        let_go(holder).await;
    };
    let (keys, left, set, ()) = tokio::join!(
        lister.say("KEYS thing:*"),
        reader.say("TTL thing:1"),
        writer.say("EXPIRE thing:1 100"),
        flushing
    );
    assert_eq!(keys.elements(), [bulk("thing:1")]);
    assert!(matches!(left, Value::Integer(_)), "{left:?}");
    assert!(matches!(set, Value::Integer(_)), "{set:?}");
    stack.stop_expecting(&[]).await;
}

#[tokio::test]
async fn who_asks_postgres_of_a_key_that_is_written_all_the_time_is_answered() {
    let stack = Stack::with_mappings(MAPPINGS).await;
    let mut client = stack.client().await;
    client.say("HSET thing:1 name a total 0").await;
    let mut writer = stack.client().await;
    let writing = tokio::spawn(async move {
        loop {
            assert!(matches!(writer.say("HINCRBY thing:1 total 1").await, Value::Integer(_)));
        }
    });
    let start = Instant::now();
    for _ in 0..20 {
        assert_eq!(client.say("TTL thing:1").await, Value::Integer(-1));
    }
    // Who waited for a pause of the writer would wait for five seconds each time.
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    writing.abort();
    stack.flushed().await;
    stack.stop_expecting(&[]).await;
}

#[tokio::test]
async fn who_waits_for_the_flusher_hears_at_once_that_postgres_is_lost() {
    let cluster = Arc::new(Cluster::start(false).await);
    let stack = Stack::builder(MAPPINGS).cluster(Arc::clone(&cluster)).start().await;
    let mut client = stack.client().await;
    client.say("HSET thing:1 name a total 0").await;
    stack.flushed().await;
    let holder = held(&stack).await;
    client.say("HSET thing:1 total 2").await;
    let start = Instant::now();
    let (told, ()) = tokio::join!(client.say("KEYS *"), async { cluster.kill() });
    let told = error(told);
    assert!(told.starts_with("TRYAGAIN "), "{told}");
    // To wait for the flusher would take five seconds.
    assert!(start.elapsed() < Duration::from_millis(4500), "{:?}", start.elapsed());
    drop(holder);
    cluster.restart().await;
    stack.flushed().await;
    stack.stop_allowing(&[], &["the journal is not brought", "Postgres", "connection"]).await;
}

#[tokio::test]
async fn without_postgres_redis_goes_on_and_nothing_is_lost() {
    let cluster = Arc::new(Cluster::start(false).await);
    // Timeouts that nobody is to wait for.
    let stack = Stack::builder(MAPPINGS)
        .set("RESPGRES__POSTGRES__CONNECT_TIMEOUT", "20s")
        .set("RESPGRES__POSTGRES__STATEMENT_TIMEOUT", "20s")
        .cluster(Arc::clone(&cluster))
        .start()
        .await;
    let mut client = stack.client().await;
    client.say("HSET thing:1 name a total 0").await;
    client.say("SADD members:1 a").await;
    stack.flushed().await;
    cluster.kill();
    for number in 1..=50 {
        assert_eq!(client.say("HINCRBY thing:1 total 1").await, Value::Integer(number));
        assert_eq!(client.say(&format!("SADD members:1 m{number}")).await, Value::Integer(1));
    }
    assert_eq!(client.say("HGET thing:1 total").await, bulk("50"));
    // Nobody knows what is not loaded.
    let start = Instant::now();
    let told = error(client.say("HINCRBY thing:2 total 1").await);
    assert_eq!(told, "TRYAGAIN Postgres is out of reach, and Redis does not have this key");
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    cluster.restart().await;
    let start = Instant::now();
    stack.flushed().await;
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    let mut connection = cluster.connect(&stack.database().name).await;
    let total = connection.fetch_one("select sum(total)::bigint from things").await;
    assert_eq!(total.unwrap().get::<i64, _>(0), 50);
    let members = connection.fetch_one("select count(*) from members").await.unwrap();
    assert_eq!(members.get::<i64, _>(0), 51);
    stack.stop_allowing(&["Postgres is lost"], &["failed"]).await;
}

#[tokio::test]
async fn what_sql_changes_meanwhile_is_kept_where_clients_left_it_alone() {
    let stack = Stack::with_mappings(MAPPINGS).await;
    let mut client = stack.client().await;
    client.say("HSET thing:1 name a size 1 total 1").await;
    stack.flushed().await;
    let lock = held(&stack).await;
    client.say("HSET thing:1 size 2").await;
    stack.sql_execute("update things set name = 'sql', size = 9").await;
    stack
        .sql_execute("insert into respgres.outbox (mapping, key) values ('things', 'thing:1')")
        .await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(client.say("HGET thing:1 name").await, bulk("a"));
    assert_eq!(stack.sql_i64("select count(*) from respgres.outbox").await, 1);
    let_go(lock).await;
    wait_until("both are seen", async || {
        client.say("HMGET thing:1 name size").await == Value::Array(vec![bulk("sql"), bulk("2")])
    })
    .await;
    stack.stop_expecting(&[]).await;
}

#[tokio::test]
async fn a_value_that_is_too_large_to_be_cached_is_written_through() {
    let stack = Stack::with_mappings(MAPPINGS).await;
    let mut client = stack.client().await;
    stack
        .sql_execute(
            "insert into members (id, member) select 1, 'm' || n from generate_series(1, 11000) n",
        )
        .await;
    assert_eq!(client.say("SADD members:1 new").await, Value::Integer(1));
    assert_eq!(stack.sql_i64("select count(*) from members").await, 11_001);
    assert_eq!(client.say("SREM members:1 m1 m2").await, Value::Integer(2));
    assert_eq!(client.say("SCARD members:1").await, Value::Integer(10_999));
    // More at once than one step takes.
    let members: Vec<String> = (0..1500).map(|n| format!("x{n}")).collect();
    let told = client.say(&format!("SADD members:2 {}", members.join(" "))).await;
    assert_eq!(told, Value::Integer(1500));
    assert_eq!(stack.sql_i64("select count(*) from members where id = 2").await, 1500);
    stack.stop_expecting(&[]).await;
}

#[tokio::test]
async fn a_redis_that_would_lose_the_journal_is_refused() {
    let stack = Stack::builder(MAPPINGS)
        .redis_arguments(&["--maxmemory-policy", "volatile-lru"])
        .start()
        .await;
    stack.redis.say("CONFIG SET maxmemory-policy allkeys-lru").await;
    let (done, _, told) = stack.run(&["run"]);
    assert!(!done && told.contains("maxmemory-policy allkeys-lru"), "{told}");
    stack.redis.say("CONFIG SET maxmemory-policy volatile-ttl").await;
    let mut second = stack.start_second_proxy().await;
    second.stop_expecting(&["volatile-ttl"]).await;
    stack.stop_expecting(&[]).await;
}

#[tokio::test]
async fn one_pipeline_is_done_in_its_order() {
    let stack = Stack::with_mappings(MAPPINGS).await;
    let plain = Redis::start().await;
    let (mut client, mut expected) = (stack.client().await, Client::connect(&plain).await);
    let lines: Vec<String> = (0..40)
        .flat_map(|turn| {
            let key = turn % 3;
            [
                format!("HINCRBY loose:{key} n 1"),
                format!("HSET loose:{key} f {turn}"),
                if turn % 5 == 0 {
                    format!("EXPIRE loose:{key} 1000")
                } else {
                    format!("HLEN loose:{key}")
                },
                if turn % 7 == 0 {
                    format!("DEL loose:{key} loose:7")
                } else {
                    format!("HGET loose:{key} f")
                },
                if turn % 11 == 0 {
                    format!("PERSIST loose:{key}")
                } else {
                    format!("HDEL loose:{key} f")
                },
            ]
        })
        .collect();
    let requests: Vec<Vec<Vec<u8>>> =
        lines.iter().map(|line| line.split(' ').map(Into::into).collect()).collect();
    let (given, wanted) = (client.pipeline(&requests).await, expected.pipeline(&requests).await);
    for ((line, given), wanted) in lines.iter().zip(given).zip(wanted) {
        assert_eq!(given, wanted, "{line}");
    }
    stack.stop_expecting(&[]).await;
}

#[tokio::test]
async fn a_flush_of_the_cache_loses_nothing() {
    let stack = Stack::builder(MAPPINGS)
        .set("RESPGRES__UPSTREAM__FLUSH", "cache")
        .set("RESPGRES__JOURNAL__DELAY", "300ms")
        .start()
        .await;
    let mut client = stack.client().await;
    for number in 1..=5 {
        client.say(&format!("HSET thing:1 total {number}")).await;
        client.say("SET other 1").await;
        let flush = if number % 2 == 0 { "FLUSHALL ASYNC" } else { "FLUSHDB" };
        assert_eq!(client.say(flush).await, Value::Status("OK".into()));
        assert_eq!(client.say("EXISTS other").await, Value::Integer(0));
        assert_eq!(client.say("HGET thing:1 total").await, bulk(&number.to_string()));
    }
    assert!(error(client.say("FLUSHALL NOW").await).starts_with("ERR syntax error"));
    stack.stop_expecting(&[]).await;
}
