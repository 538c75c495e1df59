//! Arrays, addresses and times through a running respgres: made by `respgres schema`, inserted,
//! updated alone and in a batch, read back after Redis has lost its copies.

use crate::stack::resp::arguments;
use crate::stack::{Stack, Value, talk};

const MAPPINGS: &str = r#"
[[mapping]]
name = "hosts"
key = "host:{id:int}"
table = "hosts"
extra = "extra"
[mapping.columns]
address = { column = "address", type = "inet" }
ports   = { column = "ports", type = "integer[]" }
labels  = { column = "labels", type = "varchar(20)[]" }
opens   = { column = "opens", type = "time" }
code    = { column = "code", type = "char(4)" }
"#;

#[tokio::test]
async fn columns_of_every_kind_are_inserted_and_updated() {
    let stack = Stack::with_mappings(MAPPINGS).await;
    talk(
        &stack,
        r#"
        > HSET host:1 address 10.1.2.3 ports {80,443} labels "{a,\"b c\"}" opens 07:30:00 code ab
        :5
        > HSET host:1 ports "{ 80, 8080 }" address 10.1.2.3/32
        :0
        > HSET host:2 ports nothing labels {x}
        :2
        > HMGET host:1 ports address
        *2
          "{ 80, 8080 }"
          "10.1.2.3/32"
        "#,
    )
    .await;
    let row = "select concat_ws(' ', host(address), ports[2], labels[2], opens, code) from hosts where id = 1";
    assert_eq!(stack.sql_text(row).await, "10.1.2.3 8080 b c 07:30:00 ab  ");
    assert_eq!(stack.sql_i64("select count(*) from hosts where ports is null").await, 1);

    // Rows that change different columns go into one statement, which says for each what it changes.
    let mut client = stack.client().await;
    let updates = (1..=40).map(|id| match id % 3 {
        0 => format!("HSET host:{id} ports {{{id}}}"),
        1 => format!("HSET host:{id} labels {{l{id}}} address ::{id}"),
        _ => format!("HSET host:{id} opens 10:{id} ports {{{id},NULL}}"),
    });
    let updates: Vec<_> = updates.map(|line| arguments(&line)).collect();
    for _ in 0..2 {
        for reply in client.pipeline(&updates).await {
            assert!(matches!(reply, Value::Integer(_)), "{reply:?}");
        }
    }
    let sum = "select sum(ports[1]) from hosts";
    assert_eq!(stack.sql_i64(sum).await, (1..=40).filter(|id| id % 3 != 1).sum::<i64>() + 80);

    stack.redis.say("FLUSHALL").await;
    stack.sql_execute("update hosts set ports = '{80,8080}' where id = 1").await;
    talk(
        &stack,
        r#"
        > HMGET host:1 ports labels address opens code
        *5
          "{ 80, 8080 }"
          "{l1}"
          "::1"
          "07:30:00"
          "ab"
        > HMGET host:2 ports opens
        *2
          "{2,NULL}"
          "10:2"
        "#,
    )
    .await;
    stack.redis.say("FLUSHALL").await;
    stack.sql_execute("update hosts set ports = '{22}', address = '10.0.0.0/8' where id = 1").await;
    talk(
        &stack,
        r#"
        > HMGET host:1 ports address
        *2
          "{22}"
          "10.0.0.0/8"
        "#,
    )
    .await;
    stack.stop_expecting(&[]).await;
}
