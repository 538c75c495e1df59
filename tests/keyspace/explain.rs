//! `RESPGRES EXPLAIN` and `respgres explain`.

use std::collections::BTreeMap;

use crate::listing::MAPPINGS;
use crate::stack::{Client, Stack, Value, talk, wait_until};

async fn explain(client: &mut Client, key: &str) -> BTreeMap<String, String> {
    let reply = client.command(&["RESPGRES", "EXPLAIN", key]).await;
    let text = |value: &Value| String::from_utf8_lossy(value.bytes().unwrap()).into_owned();
    let pairs = reply.elements().chunks(2).map(|pair| (text(&pair[0]), text(&pair[1])));
    pairs.collect()
}

#[tokio::test]
async fn a_key_is_explained_from_both_stores() {
    let stack = Stack::with_mappings(MAPPINGS).await;
    let mut client = stack.client().await;
    client.say("HSET row:1 a secretvalue note other").await;
    client.say("EXPIRE row:1 1000").await;
    let told = explain(&mut client, "row:1").await;
    assert_eq!(told["key"], "row:1");
    assert_eq!(told["mapping"], "rows (row:{id:int})");
    assert_eq!((told["kind"].as_str(), told["table"].as_str()), ("hash", "rows"));
    assert!(told["strategy"].starts_with("dual_write"));
    assert_eq!(told["captures"], "id (int) = 1");
    assert_eq!(
        told["columns"],
        "{id} in id bigint, a in a text, b in b text, other fields in extra jsonb, expiry in respgres.expiry"
    );
    assert!(told["select"].contains("\"rows\" as t"), "{}", told["select"]);
    assert_eq!(told["row"], "there: 2 fields, 21 bytes");
    let left: i64 = told["expiry"].split(' ').nth(1).unwrap().parse().unwrap();
    assert!((990_000..=1_000_000).contains(&left), "{left}");
    assert_eq!((told["cached"].as_str(), told["mark"].as_str()), ("no", "none"));
    assert!(told.values().all(|text| !text.contains("secretvalue")), "{told:?}");

    client.say("HGETALL row:1").await;
    wait_until("there is a copy", async || {
        explain(&mut client, "row:1").await["cached"].starts_with("yes: 2 fields, for ")
    })
    .await;
    client.say("HGET row:2 a").await;
    wait_until("it is known to be absent", async || {
        explain(&mut client, "row:2").await["mark"]
            .starts_with("absent: known to have no row, for ")
    })
    .await;
    assert_eq!(explain(&mut client, "row:2").await["row"], "absent");
    stack.redis.say("SET respgres:m:row:3 w:00").await;
    let told = explain(&mut client, "row:3").await;
    assert_eq!(told["mark"], "writer: no copy until it has ended, without end");
    client.say("PEXPIRE row:1 1").await;
    wait_until("it is over", async || {
        explain(&mut client, "row:1").await["row"].starts_with("there, and absent for clients")
    })
    .await;
    // Looking has changed nothing.
    assert_eq!(stack.redis.say("EXISTS respgres:m:row:3 row:3").await, Value::Integer(1));
    stack.stop_expecting(&[]).await;
}

#[tokio::test]
async fn a_key_with_many_rows_is_explained_by_its_kind() {
    let stack = Stack::with_mappings(MAPPINGS).await;
    let mut client = stack.client().await;
    client.say("SADD group:1:a secretmember y z").await;
    client.say("EXPIRE group:1:a 1000").await;
    let told = explain(&mut client, "group:1:a").await;
    assert_eq!(told["kind"], "set");
    assert_eq!(told["captures"], "id (int) = 1, name (text) = a");
    assert_eq!(
        told["columns"],
        "{id} in id bigint, {name} in name text, member in member text, expiry in respgres.expiry"
    );
    assert!(told["select"].contains("\"groups\" as t"), "{}", told["select"]);
    assert_eq!(told["row"], "there: 3 members, a row each");
    assert!(told["expiry"].starts_with("in "), "{}", told["expiry"]);
    assert!(told.values().all(|text| !text.contains("secretmember")), "{told:?}");
    client.say("SMEMBERS group:1:a").await;
    wait_until("there is a copy", async || {
        explain(&mut client, "group:1:a").await["cached"].starts_with("yes: 3 members, for ")
    })
    .await;

    client.say("HSET count:2026-11-20 a 1 b 2").await;
    let told = explain(&mut client, "count:2026-11-20").await;
    assert_eq!((told["kind"].as_str(), told["table"].as_str()), ("hash_entries", "counts"));
    assert_eq!(
        told["columns"],
        "{day} in day date, field in what text, value in amount bigint, odd values in extra jsonb, \
         expiry in respgres.expiry"
    );
    assert_eq!(told["row"], "there: 2 fields, a row each");
    assert_eq!(explain(&mut client, "count:2026-11-21").await["row"], "absent");

    client.say("SADD things:all 1").await;
    let told = explain(&mut client, "things:all").await;
    assert_eq!((told["mapping"].as_str(), told["captures"].as_str()), ("things (things:all)", ""));
    assert_eq!(told["columns"], "member in id bigint, expiry in respgres.expiry");
    assert_eq!(told["row"], "there: 1 members, a row each");
    stack.stop_expecting(&[]).await;
}

#[tokio::test]
async fn keys_without_a_table_are_explained_too() {
    let stack = Stack::with_mappings(MAPPINGS).await;
    let mut client = stack.client().await;
    let told = explain(&mut client, "row:one").await;
    assert_eq!(told["mapping"], "none: the key lives in Redis alone");
    assert_eq!(told["near"], "rows (row:{id:int})");
    assert_eq!(explain(&mut client, "zzz").await["near"], "no mapping");
    let told = explain(&mut client, "pair:1:secret").await;
    assert!(told["near"].starts_with("favourites") || told["near"].contains("pairs ("), "{told:?}");
    let told = explain(&mut client, "later:1").await;
    assert_eq!(told["strategy"], "redis_only: the key lives in Redis alone");
    assert!(!told.contains_key("row"), "{told:?}");
    let told = explain(&mut client, "respgres:m:row:1").await;
    assert_eq!(told["mapping"], "none: such keys are reserved for respgres");
    talk(
        &stack,
        r"
        > RESPGRES HELP
        *8
          +RESPGRES <subcommand> [<arg> [value] [opt] ...]. Subcommands are:
          +EXPLAIN <key>
          +    Tell the mapping of a key, the SQL that reads it, and what either store has of it.
          +STRATEGY [<mapping> [<strategy>]]
          +    Tell by which strategy mappings go, or change it for all proxies at once, while clients go on.
          +    The latter takes upstream.admin_commands.
          +HELP
          +    Print this help.
        > RESPGRES
        -ERR wrong number of arguments for 'respgres' command
        > RESPGRES EXPLAIN
        -ERR wrong number of arguments for 'respgres|explain' command
        > RESPGRES DANCE
        -ERR unknown subcommand 'DANCE'. Try RESPGRES HELP.
        > MULTI
        +OK
        > RESPGRES EXPLAIN row:1
        -ERR RESPGRES is not supported inside MULTI
        > DISCARD
        +OK
        ",
    )
    .await;
    let mut newer = stack.client().await;
    newer.say("HELLO 3").await;
    let Value::Map(entries) = newer.say("RESPGRES EXPLAIN later:1").await else { panic!("no map") };
    assert_eq!(entries[0].0, Value::Bulk(b"key".to_vec()));
    stack.stop_expecting(&[]).await;
}

#[tokio::test]
async fn the_command_line_explains_as_a_running_proxy_does() {
    let stack = Stack::with_mappings(MAPPINGS).await;
    let mut client = stack.client().await;
    client.say("HSET pair:1:2 a 1 b 22").await;
    let told = explain(&mut client, "pair:1:2").await;
    assert!(told["strategy"].starts_with("postgres_only"));
    let (done, output, error) = stack.run(&["explain", "pair:1:2"]);
    assert!(done, "{error}");
    for (name, text) in &told {
        assert!(
            output.contains(&format!("{name}: {text}\n")),
            "{name}: {text} is not in\n{output}"
        );
    }
    stack.stop_expecting(&[]).await;
}

#[tokio::test]
async fn only_who_has_authenticated_is_told() {
    let stack = Stack::builder(MAPPINGS).set("RESPGRES__AUTH__PASSWORD", "secret").start().await;
    let mut client = stack.client().await;
    let refused = client.say("RESPGRES EXPLAIN row:1").await;
    assert_eq!(refused, Value::Error("NOAUTH Authentication required.".to_owned()));
    assert!(client.say("RESPGRES HELP").await.is_error());
    client.say("AUTH secret").await;
    assert_eq!(explain(&mut client, "row:1").await["mapping"], "rows (row:{id:int})");
    stack.stop_expecting(&[]).await;
}

#[tokio::test]
async fn a_proxy_without_mappings_explains_that() {
    let stack = Stack::pass_through().await;
    talk(
        &stack,
        r#"
        > RESPGRES EXPLAIN any
        *6
          "key"
          "any"
          "mapping"
          "none: the key lives in Redis alone"
          "near"
          "no mapping"
        "#,
    )
    .await;
    stack.stop_expecting(&[]).await;
}
