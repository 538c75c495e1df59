//! Loans that Postgres refuses: nothing is written, and what is not mapped is put back.

use crate::stack::{Client, Database, Stack, Value, talk, wait_until};

const MAPPINGS: &str = r#"
[[mapping]]
name = "people"
key = "person:{id:int}"
table = "people"
[mapping.columns]
name = "name"
age = "age"
email = "email"
leader = "leader"
"#;

const TABLES: &str = "
    create table people (
        id bigint primary key,
        name text not null default '',
        age integer constraint age_is_human check (age between 0 and 150),
        email text constraint one_email unique,
        leader text constraint known_leader references people (email) deferrable initially deferred);
";

async fn stack() -> Stack {
    Stack::builder(MAPPINGS).sql(TABLES).start().await
}

/// Waits until another session of the database waits for a lock.
async fn wait_for_a_wait(stack: &Stack) {
    wait_until("a session waits", async || {
        let waiting = "select count(*) from pg_stat_activity where datname = current_database() \
                       and wait_event_type = 'Lock'";
        stack.sql_i64(waiting).await > 0
    })
    .await;
}

async fn connect(database: &Database) -> sqlx::PgConnection {
    database.cluster.connect(&database.name).await
}

#[tokio::test]
async fn what_is_not_mapped_is_put_back() {
    let stack = stack().await;
    talk(
        &stack,
        r#"
        > HSET person:1 name ann age 7
        :2
        > SET counter 5
        +OK
        > RPUSH list a b
        :2
        > PEXPIREAT list 4102444800000
        :1
        > HSET away name old age 999
        :2
        > EVAL "redis.call('INCR', KEYS[2]) redis.call('RPUSH', KEYS[3], 'c') redis.call('PERSIST', KEYS[3]) redis.call('SET', KEYS[4], 1) redis.call('DEL', KEYS[5]) redis.call('HSET', KEYS[1], 'age', 151) return 1" 5 person:1 counter list new away
        -ERR mapping "people", column "age", constraint "age_is_human": Postgres refused the write (new row for relation "people" violates check constraint "age_is_human"); nothing was written
        > MGET counter new
        *2
          "5"
          $-1
        > LRANGE list 0 -1
        *2
          "a"
          "b"
        > PEXPIRETIME list
        :4102444800000
        > RENAME away person:2
        -ERR mapping "people", column "age", constraint "age_is_human": Postgres refused the write (new row for relation "people" violates check constraint "age_is_human"); nothing was written
        > HGETALL away
        *4
          "name"
          "old"
          "age"
          "999"
        # A constraint that is looked at when all is done.
        > MULTI
        +OK
        > INCR counter
        +QUEUED
        > HSET person:1 age 8 leader nobody
        +QUEUED
        > EXEC
        -ERR mapping "people", column "leader", constraint "known_leader": Postgres refused the write (insert or update on table "people" violates foreign key constraint "known_leader"); nothing was written
        # A field without a column.
        > MULTI
        +OK
        > INCR counter
        +QUEUED
        > HSET person:1 hat none
        +QUEUED
        > EXEC
        -ERR mapping "people": field "hat" has no column, and there is no extra column; nothing was written
        > MGET counter new
        *2
          "5"
          $-1
        > HMGET person:1 name age
        *2
          "ann"
          "7"
        > EXISTS person:2
        :0
        > DEL list away
        :2
        "#,
    )
    .await;
    // The marks are gone: readers fill again.
    let mut redis = Client::connect(&stack.redis).await;
    let mut client = stack.client().await;
    wait_until("the copy is back", async || {
        client.say("HEXISTS person:1 nothing").await;
        redis.say("HGET person:1 age").await == Value::Bulk(b"7".to_vec())
    })
    .await;
    assert_eq!(stack.sql_i64("select count(*) from people").await, 1);
    stack.stop_expecting(&[]).await;
}

#[tokio::test]
async fn what_others_have_changed_since_stays_and_is_told() {
    let stack = stack().await;
    let mut client = stack.client().await;
    client.say("SET counter 5").await;
    client.say("SET other 1").await;
    // Somebody is about to take the address.
    let mut session = connect(stack.database()).await;
    let run = async |session: &mut sqlx::PgConnection, sql: &'static str| {
        sqlx::Executor::execute(session, sql).await.unwrap();
    };
    run(&mut session, "begin").await;
    run(&mut session, "insert into people (id, email) values (9, 'a@x')").await;
    let mut writer = stack.client().await;
    let writing = tokio::spawn(async move {
        writer.say("MULTI").await;
        writer.say("INCR counter").await;
        writer.say("INCR other").await;
        writer.say("HSET person:1 email a@x").await;
        writer.say("EXEC").await
    });
    wait_for_a_wait(&stack).await;
    // The step has run.
    assert_eq!(client.say("INCR counter").await, Value::Integer(7));
    run(&mut session, "commit").await;
    let Value::Error(text) = writing.await.unwrap() else { panic!("it is refused") };
    assert!(text.contains("constraint \"one_email\""), "{text}");
    assert!(text.ends_with("; a part of the write may have happened"), "{text}");
    assert_eq!(client.say("GET counter").await, Value::Bulk(b"7".to_vec()));
    assert_eq!(client.say("GET other").await, Value::Bulk(b"1".to_vec()));
    assert_eq!(client.say("EXISTS person:1").await, Value::Integer(0));
    stack.stop_expecting(&["undone in part"]).await;
}

/// A row that another session inserts meanwhile: the request is undone and run again on what is there.
#[tokio::test]
async fn a_loan_that_others_overtake_is_tried_again() {
    let stack = stack().await;
    let mut client = stack.client().await;
    let run = async |session: &mut sqlx::PgConnection, sql: &'static str| {
        sqlx::Executor::execute(session, sql).await.unwrap();
    };
    // A script may have published: it is not run twice.
    let script = "EVAL \"return redis.call('RENAME', KEYS[1], KEYS[2])\" 2 other person:2";
    for (id, line) in [(1, "RENAME other person:1"), (2, script)] {
        client.say("HSET other name new age 5").await;
        let mut session = connect(stack.database()).await;
        run(&mut session, "begin").await;
        let sql = [
            "insert into people (id, name) values (1, 'x')",
            "insert into people (id, name) values (2, 'x')",
        ];
        run(&mut session, sql[id - 1]).await;
        let mut writer = stack.client().await;
        let writing = tokio::spawn(async move { writer.say(line).await });
        wait_for_a_wait(&stack).await;
        run(&mut session, "commit").await;
        let told = writing.await.unwrap();
        if id == 1 {
            assert_eq!(told, Value::Status("OK".into()));
            assert_eq!(client.say("HGET person:1 name").await, Value::Bulk(b"new".to_vec()));
            assert_eq!(client.say("EXISTS other").await, Value::Integer(0));
        } else {
            let text = told.lines().join("");
            assert!(text.starts_with("-ERR other writers were faster"), "{text}");
            assert!(text.ends_with("; nothing was written"), "{text}");
            assert_eq!(client.say("HGET person:2 name").await, Value::Bulk(b"x".to_vec()));
            assert_eq!(client.say("HGET other name").await, Value::Bulk(b"new".to_vec()));
        }
    }
    stack.stop_expecting(&["a loan failed"]).await;
}

#[tokio::test]
async fn a_proxy_killed_between_the_step_and_commit_leaves_nothing_lent() {
    let mut stack =
        Stack::builder(MAPPINGS).sql(TABLES).set("RESPGRES__DEFAULTS__LEASE", "5s").start().await;
    let mut client = stack.client().await;
    client.say("HSET person:1 name ann").await;
    client.say("HGET person:1 age").await;
    let mut session = connect(stack.database()).await;
    for sql in ["begin", "insert into people (id, email) values (9, 'a@x')"] {
        sqlx::Executor::execute(&mut session, sql).await.unwrap();
    }
    let mut writer = stack.client().await;
    let script = "EVAL \"redis.call('SET', KEYS[2], 1) redis.call('HSET', KEYS[1], 'name', 'eve', \
                  'email', 'a@x')\" 2 person:1 plain";
    let _ = tokio::time::timeout(std::time::Duration::from_millis(1), writer.say(script)).await;
    wait_for_a_wait(&stack).await;
    stack.proxy.kill();
    // The step has run; of the lent key nothing is left but its mark.
    assert_eq!(stack.redis.say("EXISTS person:1").await, Value::Integer(0));
    assert_eq!(stack.redis.say("EXISTS plain respgres:m:person:1").await, Value::Integer(2));
    sqlx::Executor::execute(&mut session, "rollback").await.unwrap();
    stack.proxy.restart().await;
    let mut client = stack.client().await;
    assert_eq!(client.say("HGET person:1 name").await, Value::Bulk(b"ann".to_vec()));
    wait_until("the mark has lapsed and a reader fills", async || {
        client.say("HGET person:1 age").await;
        stack.redis.say("HGET person:1 name").await == Value::Bulk(b"ann".to_vec())
    })
    .await;
    assert_eq!(client.say("HSET person:1 age 3").await, Value::Integer(1));
    stack.stop_expecting(&[]).await;
}

/// While a loan waits for longer than its marks live, nobody brings the old value back.
#[tokio::test]
async fn a_commit_that_comes_after_the_lease_is_seen_at_once() {
    let stack = Stack::builder(MAPPINGS)
        .sql(TABLES)
        .set("RESPGRES__DEFAULTS__LEASE", "200ms")
        .start()
        .await;
    let mut second = stack.start_second_proxy().await;
    let mut client = Client::connect(&second).await;
    client.say("HSET person:1 name ann").await;
    let mut session = connect(stack.database()).await;
    for sql in ["begin", "insert into people (id, email) values (9, 'a@x')"] {
        sqlx::Executor::execute(&mut session, sql).await.unwrap();
    }
    let mut writer = stack.client().await;
    let writing = tokio::spawn(async move {
        let script = "EVAL \"return redis.call('HSET', KEYS[1], 'name', 'eve', 'email', 'a@x')\" 1 \
                      person:1";
        writer.say(script).await
    });
    wait_for_a_wait(&stack).await;
    wait_until("the mark has lapsed", async || {
        stack.redis.say("EXISTS respgres:m:person:1").await == Value::Integer(0)
    })
    .await;
    for _ in 0..5 {
        assert_eq!(client.say("HGET person:1 name").await, Value::Bulk(b"ann".to_vec()));
        assert_eq!(client.say("HGET person:1 hat").await, Value::NilBulk);
    }
    sqlx::Executor::execute(&mut session, "rollback").await.unwrap();
    assert_eq!(writing.await.unwrap(), Value::Integer(1));
    assert_eq!(client.say("HGET person:1 name").await, Value::Bulk(b"eve".to_vec()));
    second.stop_expecting(&[]).await;
    stack.stop_expecting(&[]).await;
}
