//! Back to Redis alone: afterwards Redis itself says what clients were told, byte for byte.

use std::process::Stdio;

use crate::stack::{Client, Stack, Value, wait_until};

const MAPPINGS: &str = r#"
[[mapping]]
name = "things"
key = "thing:{id:int}"
table = "things"
extra = "extra"

[[mapping]]
name = "entries"
key = "entry:{id:int}"
kind = "hash_entries"
table = "entries"
field = "field"
value = "value"

[[mapping]]
name = "members"
key = "member:{id:int}"
kind = "set"
table = "members"
member = "member"
strategy = "cache_first"

[[mapping]]
name = "plain"
key = "plain:{id:int}"
table = "plain"
extra = "extra"
strategy = "redis_only"
"#;

const KEYS: usize = 20_000;

/// What is told of a key: its value in a certain order, and when it ends.
async fn told(client: &mut Client, key: &str) -> (Vec<Value>, Value) {
    let read = if key.starts_with("member") { "SMEMBERS" } else { "HGETALL" };
    let value = client.command(&[read, key]).await;
    let Value::Array(mut parts) = value else { panic!("{key}: {value:?}") };
    if read == "HGETALL" {
        parts = parts.chunks_exact(2).map(|pair| Value::Array(pair.to_vec())).collect();
    }
    parts.sort_by_key(|part| format!("{part:?}"));
    (parts, client.command(&["PEXPIRETIME", key]).await)
}

async fn roll_back(stack: &Stack) -> (bool, String, String) {
    stack.run(&["rollback", "--force"])
}

#[tokio::test]
async fn redis_has_what_clients_were_told_byte_for_byte() {
    let mut stack = Stack::with_mappings(MAPPINGS).await;
    let mut client = stack.client().await;
    let mut requests: Vec<Vec<Vec<u8>>> = Vec::new();
    let mut add = |words: &[&[u8]]| requests.push(words.iter().map(|word| word.to_vec()).collect());
    for id in 0..KEYS {
        let (thing, number) = (format!("thing:{id}"), id.to_string());
        add(&[
            b"HSET",
            thing.as_bytes(),
            b"n",
            number.as_bytes(),
            b"odd",
            b"\0\xff\r\n",
            b"empty",
            b"",
        ]);
        if id % 10 == 0 {
            add(&[b"PEXPIREAT", thing.as_bytes(), b"4102444800123"]);
        }
    }
    for id in 0..200 {
        let (entry, member) = (format!("entry:{id}"), format!("member:{id}"));
        add(&[b"HSET", entry.as_bytes(), b"a", b"1", b"long name", b" "]);
        add(&[b"SADD", member.as_bytes(), b"a", b"with space", b"10"]);
        if id % 10 == 0 {
            add(&[b"PEXPIREAT", entry.as_bytes(), b"4102444800123"]);
            add(&[b"PEXPIREAT", member.as_bytes(), b"4102444800123"]);
        }
    }
    // More than is cached, and more than Redis is given at once.
    let many: Vec<String> = (0..5_000).map(|number| number.to_string()).collect();
    let mut large: Vec<&[u8]> = vec![b"SADD", b"member:1000000"];
    large.extend(many.iter().map(|member| member.as_bytes()));
    add(&large);
    add(&[b"HSET", b"plain:1", b"a", b"1"]);
    add(&[b"DEL", b"thing:7"]);
    for requests in requests.chunks(500) {
        for reply in client.pipeline(requests).await {
            assert!(!reply.is_error(), "{reply:?}");
        }
    }
    stack.flushed().await;
    let mut names: Vec<String> = (0..KEYS).step_by(97).map(|id| format!("thing:{id}")).collect();
    names.extend((0..200).flat_map(|id| [format!("entry:{id}"), format!("member:{id}")]));
    names.extend(["thing:7".into(), "thing:10".into(), "member:1000000".into(), "plain:1".into()]);
    let mut before = Vec::new();
    for name in &names {
        before.push(told(&mut client, name).await);
    }

    let (done, _, error) = roll_back(&stack).await;
    assert!(!done && error.contains("is alive; stop all of them"), "{error}");
    let (done, _, error) = stack.run(&["rollback", "--mapping", "nothing", "--force"]);
    assert!(!done && error.contains("there is no mapping \"nothing\""), "{error}");
    let (done, _, error) = stack.run(&["rollback"]);
    assert!(!done && error.contains("nothing was changed"), "{error}");
    stack.proxy.stop_expecting(&[]).await;
    let (done, out, error) = roll_back(&stack).await;
    assert!(done, "{error}");
    let lines: Vec<&str> = out.lines().collect();
    assert!(
        lines[0].starts_with("things: redis_only; 19999 keys put into Redis and compared"),
        "{out}"
    );
    assert!(lines[1].starts_with("entries: redis_only; 200 keys"), "{out}");
    assert!(lines[2].starts_with("members: redis_only; 201 keys"), "{out}");
    assert_eq!(lines[3], "plain: lives in Redis alone already");

    let mut redis = Client::connect(&stack.redis).await;
    for (name, before) in names.iter().zip(&before) {
        assert_eq!(told(&mut redis, name).await, *before, "{name}");
    }
    let all = KEYS - 1 + 200 + 201 + 1;
    let Value::Array(own) = redis.say("KEYS respgres:*").await else { panic!() };
    assert_eq!(redis.say("DBSIZE").await, Value::Integer((all + own.len()).try_into().unwrap()));
    let beside = |key: &Value| {
        let key = key.bytes().unwrap();
        key.starts_with(b"respgres:m:") || key.starts_with(b"respgres:a:")
    };
    assert!(!own.iter().any(beside), "{own:?}");

    // respgres passes them through now, and what was done is not done again.
    stack.proxy.restart().await;
    let mut client = stack.client().await;
    assert_eq!(client.say("HINCRBY thing:8 n 1").await, Value::Integer(9));
    assert_eq!(stack.redis.say("HGET thing:8 n").await, Value::Bulk(b"9".to_vec()));
    assert_eq!(stack.sql_i64("select count(*) from things").await, (KEYS - 1) as i64);
    let (done, out, _) = stack.run(&["strategy", "get"]);
    assert!(done && out.starts_with("things: redis_only, by order\n"), "{out}");
    // And forth again.
    let words = ["strategy", "set", "dual_write", "--mapping", "things", "--discard-rows"];
    let (done, _, error) = stack.run(&words);
    assert!(done, "{error}");
    assert_eq!(client.say("HINCRBY thing:8 n 1").await, Value::Integer(10));
    assert_eq!(stack.sql_i64("select count(*) from things").await, 1);
    stack.stop_expecting(&[]).await;
}

#[tokio::test]
async fn one_that_is_killed_leaves_all_as_it_was_and_can_be_tried_again() {
    let mut stack = Stack::with_mappings(MAPPINGS).await;
    let mut client = stack.client().await;
    let requests: Vec<Vec<String>> = (0..KEYS)
        .map(|id| ["HSET", &format!("thing:{id}"), "a", "1"].map(str::to_owned).to_vec())
        .collect();
    for requests in requests.chunks(500) {
        client.pipeline(requests).await;
    }
    stack.proxy.stop_expecting(&[]).await;
    let mut command = stack.command(&["rollback", "--force"]);
    let mut killed = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    wait_until("it is at it", async || {
        matches!(stack.redis.say("DBSIZE").await, Value::Integer(count) if count > 1000)
            && stack
                .sql_i64(
                    "select count(*) from respgres.control where value ->> 'target' = 'redis_only'",
                )
                .await
                == 1
    })
    .await;
    killed.kill().unwrap();
    killed.wait().unwrap();
    stack.proxy.restart().await;
    let mut client = stack.client().await;
    wait_until("it is called off", async || {
        client.say("HSET thing:1 a 2").await == Value::Integer(0)
    })
    .await;
    assert_eq!(stack.sql_text("select extra ->> 'a' from things where id = 1").await, "2");
    assert_eq!(client.say("HGET thing:1 a").await, Value::Bulk(b"2".to_vec()));
    assert_eq!(client.say("DEL thing:2").await, Value::Integer(1));
    assert_eq!(client.say("HGET thing:2 a").await, Value::NilBulk);
    stack.proxy.stop_expecting(&[]).await;
    let (done, out, error) = roll_back(&stack).await;
    assert!(done && out.starts_with("things: redis_only; 19999 keys"), "{out}{error}");
    assert_eq!(stack.redis.say("HGET thing:1 a").await, Value::Bulk(b"2".to_vec()));
    assert_eq!(stack.redis.say("EXISTS thing:2").await, Value::Integer(0));
}

#[tokio::test]
async fn without_room_in_redis_it_is_called_off() {
    let mut stack = Stack::with_mappings(MAPPINGS).await;
    let mut client = stack.client().await;
    for id in 0..50 {
        let (key, value) = (format!("thing:{id}"), "x".repeat(100_000));
        assert_eq!(client.command(&["HSET", &key, "a", &value]).await, Value::Integer(1));
    }
    stack.redis.say("HSET plain:1 a 1").await;
    stack.proxy.stop_expecting(&[]).await;
    stack.redis.say("CONFIG SET maxmemory 3mb").await;
    stack.redis.say("CONFIG SET maxmemory-policy noeviction").await;
    let (done, _, error) = roll_back(&stack).await;
    assert!(!done && error.contains("\"things\" is as it was") && error.contains("OOM"), "{error}");
    let query = "select count(*) from respgres.control where value ->> 'strategy' = 'redis_only'";
    assert_eq!(stack.sql_i64(query).await, 0);
    stack.redis.say("CONFIG SET maxmemory 0").await;
    let (done, _, error) = roll_back(&stack).await;
    assert!(done, "{error}");
    let Value::Bulk(value) = stack.redis.say("HGET thing:49 a").await else { panic!() };
    assert_eq!(value.len(), 100_000);
}

#[tokio::test]
async fn what_the_journal_has_comes_to_postgres_first() {
    let builder = Stack::builder(MAPPINGS).set("RESPGRES__JOURNAL__DELAY", "1m");
    let mut stack = builder.start().await;
    let mut client = stack.client().await;
    client.say("SADD member:1 a").await;
    client.say("SADD member:1 b").await;
    stack.proxy.kill();
    wait_until("its lease has ended", async || !roll_back(&stack).await.2.contains("is alive"))
        .await;
    let (done, _, error) = roll_back(&stack).await;
    assert!(!done && error.contains("the journal has changes that Postgres lacks"), "{error}");
    assert_eq!(stack.redis.say("SCARD member:1").await, Value::Integer(2));
}
