//! What Postgres refuses comes back as an error that names the place; neighbours in the batch go
//! on, and neither store is changed.

use crate::stack::{Client, Stack, Value, talk, wait_until};

const MAPPINGS: &str = r#"
[[mapping]]
name = "people"
key = "person:{id:int}"
table = "people"
[mapping.columns]
name = "name"
age = "age"
email = "email"
team = "team"
leader = "leader"

[[mapping]]
name = "loose"
key = "loose:{id:int}"
table = "loose"
extra = "extra"
[mapping.columns]
born = "born"
"#;

const TABLES: &str = "
    create table teams (name text primary key);
    insert into teams values ('red');
    create table people (
        id bigint primary key,
        name text not null default '',
        age integer constraint age_is_human check (age between 0 and 150),
        email text constraint one_email unique,
        team text constraint known_team references teams,
        leader text constraint known_leader references teams deferrable initially deferred);
    create table loose (id bigint primary key, born date, extra jsonb);
";

async fn stack() -> Stack {
    Stack::builder(MAPPINGS).sql(TABLES).start().await
}

fn commands(lines: &[&str]) -> Vec<Vec<Vec<u8>>> {
    lines.iter().map(|line| crate::stack::resp::arguments(line)).collect()
}

#[tokio::test]
async fn every_kind_of_constraint_is_told_by_name() {
    let stack = stack().await;
    let refused = |place: &str, what: &str| {
        format!(
            "-ERR mapping \\\"people\\\"{place}: Postgres refused the write ({what}); nothing was written"
        )
        .replace("\\\"", "\"")
    };
    let mut client = stack.client().await;
    assert_eq!(client.say("HSET person:1 name ann age 7 email a@x").await, Value::Integer(3));
    let cases = [
        (
            "HSET person:1 age 151",
            refused(
                ", column \"age\", constraint \"age_is_human\"",
                "new row for relation \"people\" violates check constraint \"age_is_human\"",
            ),
        ),
        (
            "HDEL person:1 name",
            refused(
                ", column \"name\"",
                "null value in column \"name\" of relation \"people\" violates not-null constraint",
            ),
        ),
        (
            "HSET person:2 name bob email a@x",
            refused(
                ", column \"email\", constraint \"one_email\"",
                "duplicate key value violates unique constraint \"one_email\"",
            ),
        ),
        (
            "HSET person:1 team blue",
            refused(
                ", column \"team\", constraint \"known_team\"",
                "insert or update on table \"people\" violates foreign key constraint \"known_team\"",
            ),
        ),
        (
            "HSET person:1 leader blue",
            refused(
                ", column \"leader\", constraint \"known_leader\"",
                "insert or update on table \"people\" violates foreign key constraint \"known_leader\"",
            ),
        ),
    ];
    for (command, expected) in cases {
        assert_eq!(client.say(command).await.lines().join("\n"), expected, "{command}");
        let kept = client.say("HGETALL person:1").await.into_map().lines().join(" ");
        assert_eq!(
            kept, "%3   \"age\"   \"7\"   \"email\"   \"a@x\"   \"name\"   \"ann\"",
            "{command}"
        );
        assert_eq!(stack.sql_i64("select count(*) from people").await, 1, "{command}");
    }
    assert_eq!(client.say("EXISTS person:2").await, Value::Integer(0));
    stack.stop_expecting(&[]).await;
}

#[tokio::test]
async fn neighbours_in_a_batch_are_written() {
    let stack = stack().await;
    let mut client = stack.client().await;
    let mut lines = Vec::new();
    for id in 0..60 {
        lines.push(match id {
            7 => format!("HSET person:{id} name n age 900"),
            23 => format!("HSET person:{id} name n email e1"),
            41 => format!("HSET person:{id} name n leader nobody"),
            55 => format!("HSET person:{id} name n hat none"),
            _ => format!("HSET person:{id} name n email e{id}"),
        });
    }
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let replies = client.pipeline(&commands(&lines)).await;
    for (id, reply) in replies.iter().enumerate() {
        let bad = matches!(id, 7 | 23 | 41 | 55);
        assert_eq!(reply.is_error(), bad, "{}: {reply:?}", lines[id]);
    }
    let Value::Error(text) = &replies[55] else { panic!("it is an error") };
    assert_eq!(
        text,
        "ERR mapping \"people\": field \"hat\" has no column, and there is no extra column; nothing was written"
    );
    assert_eq!(stack.sql_i64("select count(*) from people").await, 56);
    stack.stop_expecting(&[]).await;
}

#[tokio::test]
async fn a_refused_write_leaves_the_cached_copy_true() {
    let stack = stack().await;
    talk(
        &stack,
        "
        > HSET person:1 name ann age 7
        :2
        > HGET person:1 age
        \"7\"
        > HSET person:1 name eve age -1
        -ERR mapping…
        > HMGET person:1 name age
        *2
          \"ann\"
          \"7\"
        ",
    )
    .await;
    // The mark is gone, too: the next reader fills again.
    let mut redis = Client::connect(&stack.redis).await;
    wait_until("the copy is back", async || {
        let copied = redis.say("HGET person:1 name").await == Value::Bulk(b"ann".to_vec());
        stack.client().await.say("HEXISTS person:1 nothing").await;
        copied
    })
    .await;
    assert_eq!(
        redis.say("EXISTS respgres:m:person:1 respgres:a:person:1").await,
        Value::Integer(0)
    );
    stack.stop_expecting(&[]).await;
}

#[tokio::test]
async fn a_row_that_a_trigger_withholds_fails_alone() {
    let stack = stack().await;
    stack
        .sql_execute(
            "create function withhold() returns trigger language plpgsql as
             $$ begin return case when new.id = 13 then null else new end; end $$;
             create trigger withhold before insert on loose
             for each row execute function withhold();
             create function shout() returns trigger language plpgsql as
             $$ begin raise exception E'not on\\na friday'; end $$;
             create trigger shout before delete on loose
             for each row when (old.id = 3) execute function shout()",
        )
        .await;
    let mut client = stack.client().await;
    let lines: Vec<String> = (0..20).map(|id| format!("HSET loose:{id} a 1")).collect();
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    for (id, reply) in client.pipeline(&commands(&lines)).await.iter().enumerate() {
        assert_eq!(reply.is_error(), id == 13, "{id}: {reply:?}");
    }
    let replies = client.pipeline(&commands(&["DEL loose:2", "DEL loose:3", "DEL loose:4"])).await;
    let Value::Error(text) = &replies[1] else { panic!("{replies:?}") };
    assert!(text.contains("not on") && text.contains("nothing was written"), "{text}");
    assert_eq!((&replies[0], &replies[2]), (&Value::Integer(1), &Value::Integer(1)));
    stack.stop_expecting(&["a write failed"]).await;
}
