//! Proxies know of each other; one that nobody hears of any more serves no mapped key.

use std::sync::Arc;

use respgres::upstream::scripts::Script;

use crate::stack::{Client, Cluster, Stack, Value, wait_until};

const MAPPINGS: &str = r#"
[[mapping]]
name = "things"
key = "thing:{id:int}"
table = "things"
extra = "extra"
"#;

/// What INFO says of the proxies.
async fn told(client: &mut Client, name: &str) -> String {
    let Value::Bulk(text) = client.say("INFO respgres").await else { panic!("no text") };
    let text = String::from_utf8(text).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(&format!("respgres_{name}:")));
    line.unwrap_or_else(|| panic!("no {name} in {text}")).to_owned()
}

async fn registered(stack: &Stack) -> (i64, Value) {
    let in_postgres = stack.sql_i64("select count(*) from respgres.proxies").await;
    (in_postgres, stack.redis.say("HLEN respgres:proxies").await)
}

#[tokio::test]
async fn proxies_come_and_go() {
    let stack = Stack::with_mappings(MAPPINGS).await;
    let mut client = stack.client().await;
    wait_until("one is registered", async || registered(&stack).await == (1, Value::Integer(1)))
        .await;
    let mut second = stack.start_second_proxy().await;
    let mut third = stack.start_second_proxy().await;
    wait_until("three know of each other", async || told(&mut client, "proxies").await == "3")
        .await;
    let (done, list, _) = stack.run(&["proxies", "list"]);
    assert!(done && list.lines().count() == 3, "{list}");
    let own = told(&mut client, "proxy_id").await;
    let line = list.lines().find(|line| line.starts_with(&own)).unwrap();
    assert!(line.contains("has Redis: yes, Postgres: yes; lease in Redis: for "), "{line}");
    assert!(line.contains(" ms, in Postgres: for "), "{line}");
    let (done, _, error) = stack.run(&["proxies", "forget", &own]);
    assert!(!done && error.contains("is alive; stop it instead"), "{error}");
    let (done, _, error) = stack.run(&["proxies", "forget", "nobody"]);
    assert!(!done && error.contains("there is no proxy nobody"), "{error}");

    // One that stops takes itself out.
    second.stop_expecting(&[]).await;
    wait_until("it is taken out", async || registered(&stack).await == (2, Value::Integer(2)))
        .await;
    // One that stands still is missed; one that is dead is not waited for on the same machine, and taken out.
    third.process().signal("STOP");
    wait_until("it is missed", async || {
        told(&mut client, "proxies_missing_in_redis").await == "1"
            && told(&mut client, "proxies_missing_in_postgres").await == "1"
    })
    .await;
    assert_eq!(told(&mut client, "fenced").await, "0");
    third.kill();
    wait_until("it is taken out", async || registered(&stack).await == (1, Value::Integer(1)))
        .await;
    wait_until("it is forgotten", async || told(&mut client, "proxies").await == "1").await;

    // None of that is seen by clients.
    assert_eq!(client.say("KEYS *").await, Value::Array(Vec::new()));
    assert_eq!(client.say("DBSIZE").await, Value::Integer(0));
    assert!(client.say("HGETALL respgres:proxies").await.is_error());
    stack.stop_expecting(&[]).await;
}

#[tokio::test]
async fn one_that_died_can_be_forgotten_by_hand() {
    let stack = Stack::with_mappings(MAPPINGS).await;
    let id = "00000000-0000-4000-8000-000000000001";
    let entry =
        format!("insert into respgres.proxies values ('{id}', now() - interval '1s', '{{}}')");
    stack.sql_execute(&entry).await;
    let (_, list, _) = stack.run(&["proxies", "list"]);
    let line = list.lines().find(|line| line.starts_with(id)).unwrap();
    assert!(line.contains("lease in Redis: none, in Postgres: ended "), "{line}");
    let (done, said, error) = stack.run(&["proxies", "forget", id]);
    assert!(done && said.contains("is forgotten"), "{error}");
    assert!(!stack.run(&["proxies", "list"]).1.contains(id));
    stack.stop_expecting(&[]).await;
}

#[tokio::test]
async fn one_cut_off_from_both_stores_serves_no_mapped_key_until_it_is_back() {
    let cluster = Arc::new(Cluster::start(false).await);
    let mut stack = Stack::builder(MAPPINGS).cluster(Arc::clone(&cluster)).start().await;
    let mut client = stack.client().await;
    assert_eq!(client.say("HSET thing:1 a 1").await, Value::Integer(1));
    stack.redis.process().signal("STOP");
    cluster.kill();
    let fenced = async |client: &mut Client| match client.say("HGET thing:1 a").await {
        Value::Error(text) => text.starts_with("TRYAGAIN this respgres has not reached the others"),
        _ => false,
    };
    wait_until("it is fenced", async || fenced(&mut client).await).await;
    for line in ["HSET thing:1 a 2", "DEL thing:1", "KEYS *", "DBSIZE"] {
        let Value::Error(text) = client.say(line).await else { panic!("{line}") };
        assert!(text.ends_with("nothing was done"), "{line}: {text}");
    }
    stack.redis.process().signal("CONT");
    // One store is enough.
    wait_until("it has a lease again", async || !fenced(&mut client).await).await;
    cluster.restart().await;
    wait_until("it is read again", async || {
        client.say("HGET thing:1 a").await == Value::Bulk(b"1".to_vec())
    })
    .await;
    stack.proxy.stop_allowing(&[], &["Redis", "Postgres", "upstream", "past"]).await;
}

#[tokio::test]
async fn a_beat_that_comes_late_does_not_prolong_a_lease() {
    let stack = Stack::with_mappings(MAPPINGS).await;
    let mut redis = Client::connect(&stack.redis).await;
    let mut beat = async |until: &str, others: &[&str]| {
        let own = ["EVAL", &Script::Beat.text(), "1", "list", "me", until, "{}"];
        let words: Vec<&str> = own.into_iter().chain(others.iter().copied()).collect();
        redis.command(&words).await
    };
    beat("99999999999999", &[]).await;
    beat("5", &[]).await;
    let text = stack.redis.say("HGET list me").await;
    assert_eq!(text, Value::Bulk(b"99999999999999 {}".to_vec()));
    // Only those are taken out whose lease has ended.
    stack.redis.say("HSET list gone 7x there 88888888888888x other 9x").await;
    beat("99999999999999", &["gone", "there"]).await;
    for (name, expected) in [("gone", 0), ("there", 1), ("other", 1)] {
        let there = stack.redis.say(&format!("HEXISTS list {name}")).await;
        assert_eq!(there, Value::Integer(expected), "{name}");
    }
    stack.sql_execute("delete from respgres.proxies").await;
    stack.stop_expecting(&[]).await;
}
