//! Back to Redis alone: afterwards Redis itself says what clients were told, byte for byte.

use std::process::Stdio;

use sqlx::{Connection, PgConnection};

use crate::stack::{Client, Cluster, Redis, Server, Stack, Value, wait_until};

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
        // Odd ones and even ones.
        if id % 10 < 2 {
            let end = (4_102_444_800_122_usize + id % 10).to_string();
            add(&[b"PEXPIREAT", thing.as_bytes(), end.as_bytes()]);
        }
    }
    for id in 0..200 {
        let (entry, member) = (format!("entry:{id}"), format!("member:{id}"));
        add(&[b"HSET", entry.as_bytes(), b"a", b"1", b"long name", b" "]);
        add(&[b"SADD", member.as_bytes(), b"a", b"with space", b"10"]);
        if id % 10 == 0 {
            add(&[b"PEXPIREAT", entry.as_bytes(), b"4102444800123"]);
            add(&[b"PEXPIREAT", member.as_bytes(), b"4102444800124"]);
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

    let (done, _, error) = stack.run(&["rollback", "--mapping", "nothing", "--force"]);
    assert!(!done && error.contains("there is no mapping \"nothing\""), "{error}");
    let (done, _, error) = stack.run(&["rollback"]);
    assert!(!done && error.contains("nothing was changed"), "{error}");
    let (done, out, error) = roll_back(&stack).await;
    assert!(done, "{error}");
    for line in [
        "things: 19999 keys put into Redis, in ",
        "things: 19999 keys compared with their rows, byte for byte, in ",
        "things: redis_only; clients waited for ",
        "entries: 200 keys put into Redis, in ",
        "members: 201 keys put into Redis, in ",
        "members: 201 keys compared with their rows",
        "members: redis_only; clients waited for ",
        "plain: lives in Redis alone already",
    ] {
        assert!(out.lines().any(|told| told.starts_with(line)), "{line}\n{out}");
    }
    // Clients see what they saw, and so does who asks Redis.
    for (name, before) in names.iter().zip(&before) {
        assert_eq!(told(&mut client, name).await, *before, "{name}");
    }

    let mut redis = Client::connect(&stack.redis).await;
    for (name, before) in names.iter().zip(&before) {
        assert_eq!(told(&mut redis, name).await, *before, "{name}");
    }
    let all = KEYS - 1 + 200 + 201 + 1;
    // Not DBSIZE, which counts what has lapsed, too.
    let Value::Array(names) = redis.say("KEYS *").await else { panic!() };
    let is_own = |name: &Value| name.bytes().unwrap().starts_with(b"respgres:");
    let (own, others): (Vec<Value>, Vec<Value>) = names.into_iter().partition(is_own);
    assert_eq!(others.len(), all);
    // What is known of absent keys lapses by itself.
    for key in own {
        let key = String::from_utf8_lossy(key.bytes().unwrap()).into_owned();
        let owner = key.strip_prefix("respgres:m:").or(key.strip_prefix("respgres:a:"));
        if let Some(owner) = owner {
            assert_eq!(redis.command(&["EXISTS", owner]).await, Value::Integer(0), "{key}");
            let Value::Integer(left_ms) = redis.command(&["PTTL", &key]).await else { panic!() };
            // -2: it has just done so.
            assert!(left_ms == -2 || (0..=60_000).contains(&left_ms), "{key}: {left_ms}");
        }
    }

    // respgres passes them through now, also when it starts anew.
    assert_eq!(client.say("HSET thing:8 more 1").await, Value::Integer(1));
    assert_eq!(stack.redis.say("HGET thing:8 more").await, Value::Bulk(b"1".to_vec()));
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

/// Of a client that holds its mapping's gate, as it waits for a row that somebody else has locked.
struct Held {
    client: Client,
    transaction: PgConnection,
}

impl Held {
    async fn begin(stack: &Stack) -> Self {
        let database = stack.database();
        let url = database.cluster.url(&database.name);
        let mut transaction = PgConnection::connect(&url).await.unwrap();
        let lock = "begin; select from things where id = 1 for update";
        sqlx::raw_sql(lock).execute(&mut transaction).await.unwrap();
        let mut client = stack.client().await;
        client.send(b"HSET thing:1 a held\r\n").await;
        let waits = "select count(*) from pg_stat_activity where wait_event_type = 'Lock'";
        wait_until("it waits", async || stack.sql_i64(waits).await > 0).await;
        Self { client, transaction }
    }

    async fn let_go(mut self) {
        sqlx::raw_sql("rollback").execute(&mut self.transaction).await.unwrap();
        assert_eq!(self.client.reply().await, Value::Integer(0));
    }
}

pub(crate) async fn with_things(count: usize) -> Stack {
    let stack = Stack::with_mappings(MAPPINGS).await;
    let mut client = stack.client().await;
    let requests: Vec<Vec<String>> = (0..count)
        .map(|id| ["HSET", &format!("thing:{id}"), "a", "1"].map(str::to_owned).to_vec())
        .collect();
    for requests in requests.chunks(500) {
        client.pipeline(requests).await;
    }
    stack
}

async fn targets(stack: &Stack) -> i64 {
    let query = "select count(*) from respgres.control where value ->> 'target' = 'redis_only'";
    stack.sql_i64(query).await
}

#[tokio::test]
async fn one_that_is_killed_leaves_all_as_it_was_and_can_be_tried_again() {
    let mut stack = with_things(2000).await;
    let mut client = stack.client().await;
    // While it puts values into Redis.
    let words = ["rollback", "--force", "--rate", "1000", "--mapping", "things"];
    let mut killed =
        stack.command(&words).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    wait_until("it is at it", async || stack.redis.say("PTTL thing:0").await == Value::Integer(-1))
        .await;
    killed.kill().unwrap();
    killed.wait().unwrap();
    let goes_on = async |client: &mut Client, value: &str| {
        for key in ["thing:0", "thing:1", "thing:1999"] {
            assert_eq!(client.say(&format!("HSET {key} a {value}")).await, Value::Integer(0));
            assert_eq!(
                client.say(&format!("HGET {key} a")).await,
                Value::Bulk(value.as_bytes().to_vec())
            );
        }
        let query = "select count(*) from things where extra ->> 'a' = $$V$$";
        assert_eq!(stack.sql_i64(&query.replace('V', value)).await, 3);
    };
    goes_on(&mut client, "2").await;
    // While clients wait.
    let held = Held::begin(&stack).await;
    let mut killed = stack
        .command(&["rollback", "--force", "--mapping", "things", "--timeout", "60"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    // Its key is locked: it gets no further than that until it is let go.
    assert_eq!(targets(&stack).await, 0);
    held.let_go().await;
    wait_until("clients wait", async || {
        targets(&stack).await == 1 || killed.try_wait().unwrap().is_some()
    })
    .await;
    killed.kill().unwrap();
    killed.wait().unwrap();
    wait_until("all goes on", async || targets(&stack).await == 0).await;
    let (done, told, _) = stack.run(&["strategy", "get", "--mapping", "things"]);
    assert!(done, "{told}");
    if !told.contains("redis_only") {
        goes_on(&mut client, "3").await;
    }
    assert_eq!(client.say("DEL thing:2").await, Value::Integer(1));
    assert_eq!(client.say("HGET thing:2 a").await, Value::NilBulk);
    let (done, out, error) = roll_back(&stack).await;
    assert!(done, "{out}{error}");
    assert_eq!(stack.redis.say("EXISTS thing:2").await, Value::Integer(0));
    assert_eq!(client.say("HSET thing:1 a 4").await, Value::Integer(0));
    assert_eq!(stack.redis.say("HGET thing:1 a").await, Value::Bulk(b"4".to_vec()));
    stack.proxy.stop_allowing(&[], &["strategy"]).await;
}

/// A copy without an end whose row is gone looks like what only Redis has.
#[tokio::test]
async fn what_was_deleted_after_one_was_killed_does_not_come_back_with_a_snapshot() {
    let mut stack = with_things(2000).await;
    let mut client = stack.client().await;
    let words = ["rollback", "--force", "--rate", "500", "--mapping", "things"];
    let mut killed =
        stack.command(&words).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    wait_until("it is at it", async || stack.redis.say("PTTL thing:0").await == Value::Integer(-1))
        .await;
    killed.kill().unwrap();
    killed.wait().unwrap();
    assert_eq!(stack.redis.say("SAVE").await, Value::Status("OK".into()));
    assert_eq!(client.say("DEL thing:0").await, Value::Integer(1));
    stack.redis.restart().await;
    assert_eq!(stack.redis.say("EXISTS thing:0").await, Value::Integer(1), "of the snapshot");
    wait_until("Redis is gone through", async || {
        assert_eq!(client.say("HGETALL thing:0").await, Value::Array(Vec::new()));
        stack.redis.say("EXISTS thing:0").await == Value::Integer(0)
    })
    .await;
    stack.stop_allowing(&[], &["upstream", "mapped keys are read"]).await;
}

/// Its barrier stands, and nobody carries on.
#[tokio::test]
async fn one_that_dies_while_clients_wait_is_called_off() {
    let stack = with_things(10).await;
    let mut client = stack.client().await;
    stack.redis.say("PERSIST thing:1").await;
    let version = r#"{"version": 1, "strategy": "dual_write", "target": "redis_only"}"#;
    stack
        .sql_execute(&format!(
            "insert into respgres.control values ('mapping:things', '{version}') \
                  on conflict (name) do update set value = control.value || excluded.value;
             update things set extra = '{{\"a\": \"sql\"}}' where id = 1;
             insert into respgres.outbox (mapping, key) values ('things', 'thing:1');
             notify respgres_outbox"
        ))
        .await;
    wait_until("it is called off", async || targets(&stack).await == 0).await;
    // The keeper sees to the outbox again.
    wait_until("the copy is dropped", async || {
        client.say("HGET thing:1 a").await == Value::Bulk(b"sql".to_vec())
    })
    .await;
    assert_eq!(client.say("HSET thing:1 a 2").await, Value::Integer(0));
    assert_eq!(stack.sql_text("select extra ->> 'a' from things where id = 1").await, "2");
    stack.stop_expecting(&[]).await;
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
    stack.redis.say("CONFIG SET maxmemory 3mb").await;
    stack.redis.say("CONFIG SET maxmemory-policy noeviction").await;
    let (done, _, error) = roll_back(&stack).await;
    let why = "\"things\" is as it was: Redis has no room for all values";
    assert!(!done && error.contains(why), "{error}");
    assert_eq!(client.say("HSTRLEN thing:49 a").await, Value::Integer(100_000));
    let query = "select count(*) from respgres.control where value ->> 'strategy' = 'redis_only'";
    assert_eq!(stack.sql_i64(query).await, 0);
    stack.redis.say("CONFIG SET maxmemory 0").await;
    let (done, _, error) = roll_back(&stack).await;
    assert!(done, "{error}");
    let Value::Bulk(value) = stack.redis.say("HGET thing:49 a").await else { panic!() };
    assert_eq!(value.len(), 100_000);
    stack.proxy.stop_allowing(&[], &["OOM", "out of memory", "protocol failed"]).await;
}

#[tokio::test]
async fn what_cannot_be_says_why_and_what_to_do() {
    let mut stack = with_things(600).await;
    let mut client = stack.client().await;
    let words = ["rollback", "--force", "--mapping", "things"];
    let refused = async |why: &str| {
        let (done, _, error) = stack.run(&words);
        assert!(!done && error.contains(why), "{error}");
    };
    stack.redis.say("CONFIG SET maxmemory-policy allkeys-lru").await;
    refused("evicts any key when its memory is full (maxmemory-policy allkeys-lru)").await;
    stack.redis.say("CONFIG SET maxmemory-policy noeviction").await;
    let database = stack.database();
    let mut job = PgConnection::connect(&database.cluster.url(&database.name)).await.unwrap();
    let lock = "select pg_advisory_lock_shared(x'72657370'::int, 5)";
    sqlx::raw_sql(lock).execute(&mut job).await.unwrap();
    refused("keys are just being moved (backfill, verify or sync)").await;
    job.close().await.unwrap();
    // Somebody changes what was put.
    let mut command =
        stack.command(&["rollback", "--force", "--mapping", "things", "--rate", "600"]);
    let command = command.stdout(Stdio::null()).stderr(Stdio::piped());
    let child = command.spawn().unwrap();
    wait_until("it is put", async || stack.redis.say("PTTL thing:0").await == Value::Integer(-1))
        .await;
    stack.redis.say("HSET thing:0 a other").await;
    let told = child.wait_with_output().unwrap();
    let error = String::from_utf8_lossy(&told.stderr);
    assert!(error.contains("does not have what Postgres has of the key thing:0"), "{error}");
    // What was put has an end again, and is changed as ever.
    let Value::Integer(left_ms) = stack.redis.say("PTTL thing:1").await else { panic!() };
    assert!(left_ms > 0, "{left_ms}");
    assert_eq!(client.say("HSET thing:0 a 2").await, Value::Integer(0));
    assert_eq!(stack.sql_text("select extra ->> 'a' from things where id = 0").await, "2");
    let (done, _, error) = stack.run(&["strategy", "set", "postgres_only", "--mapping", "things"]);
    assert!(done, "{error}");
    refused("in postgres_only nobody keeps copies in Redis").await;
    let (done, _, error) = stack.run(&["strategy", "set", "dual_write", "--mapping", "things"]);
    assert!(done, "{error}");
    stack.redis.restart().await;
    wait_until("Redis is believed", async || stack.run(&words).0).await;
    stack.proxy.stop_allowing(&[], &["Redis", "upstream"]).await;
}

/// What was queued is run where its keys are by then; what was watched can no longer be compared.
#[tokio::test]
async fn open_transactions_are_run_by_redis_and_watches_fail() {
    let stack = with_things(10).await;
    let (mut queues, mut watches) = (stack.client().await, stack.client().await);
    for line in ["MULTI", "HINCRBY thing:1 a 1"] {
        assert!(!queues.say(line).await.is_error(), "{line}");
    }
    for line in ["WATCH thing:1", "HGET thing:1 a"] {
        assert!(!watches.say(line).await.is_error(), "{line}");
    }
    let (done, _, error) = roll_back(&stack).await;
    assert!(done, "{error}");
    for line in ["MULTI", "HINCRBY thing:1 a 1"] {
        assert!(!watches.say(line).await.is_error(), "{line}");
    }
    assert_eq!(watches.say("EXEC").await, Value::NilArray);
    assert_eq!(queues.say("EXEC").await, Value::Array(vec![Value::Integer(2)]));
    for client in [&mut queues, &mut watches] {
        assert_eq!(client.say("HGET thing:1 a").await, Value::Bulk(b"2".to_vec()));
    }
    assert_eq!(stack.redis.say("HGET thing:1 a").await, Value::Bulk(b"2".to_vec()));
    assert_eq!(stack.sql_text("select extra ->> 'a' from things where id = 1").await, "1");
    stack.stop_expecting(&[]).await;
}

#[tokio::test]
async fn what_the_journal_has_comes_to_postgres_first() {
    let builder = Stack::builder(MAPPINGS).set("RESPGRES__JOURNAL__DELAY", "1m");
    let mut stack = builder.start().await;
    let mut client = stack.client().await;
    client.say("SADD member:1 a").await;
    client.say("SADD member:1 b").await;
    stack.proxy.kill();
    let words = ["rollback", "--force", "--timeout", "1"];
    wait_until("its lease has ended", async || {
        let (done, _, error) = stack.run(&words);
        !done && error.contains("the journal has changes that Postgres lacks")
    })
    .await;
    assert_eq!(stack.redis.say("SCARD member:1").await, Value::Integer(2));
}

#[tokio::test]
async fn before_the_first_start_of_a_respgres_redis_keeps_what_it_has() {
    let stack = Stack::with_mappings(MAPPINGS).await;
    // Beside that one, as nobody has run over these yet.
    let (redis, cluster) = (Redis::start().await, Cluster::shared().await);
    let database = cluster.url(&cluster.create_database().await);
    let run = |words: &[&str]| {
        let mut command = stack.command(words);
        command.env("RESPGRES__UPSTREAM__URL", redis.url());
        let output = command.env("RESPGRES__POSTGRES__URL", &database).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.success(), text(&output.stdout), text(&output.stderr))
    };
    let (done, _, error) = run(&["schema", "--apply"]);
    assert!(done, "{error}");
    redis.say("HSET thing:1 name one").await;
    let mut connection = PgConnection::connect(&database).await.unwrap();
    sqlx::raw_sql("insert into things (id) values (1)").execute(&mut connection).await.unwrap();
    let (done, _, error) = run(&["rollback", "--force"]);
    assert!(!done && error.contains("no respgres has gone through this Redis yet"), "{error}");
    sqlx::raw_sql("delete from things").execute(&mut connection).await.unwrap();
    let (done, out, error) = run(&["rollback", "--force"]);
    assert!(done, "{error}");
    for name in ["things", "entries", "members"] {
        assert!(out.contains(&format!("{name}: redis_only; clients waited for ")), "{out}");
    }
    let places = [("RESPGRES__UPSTREAM__URL", redis.url()), ("RESPGRES__POSTGRES__URL", database)];
    let mut first = stack.start_proxy_with(&places).await;
    let mut client = Client::connect_to(&first.address()).await;
    assert_eq!(client.say("HSET thing:1 more two").await, Value::Integer(1));
    assert_eq!(client.say("HSET thing:2 name two").await, Value::Integer(1));
    assert_eq!(redis.say("HLEN thing:1").await, Value::Integer(2));
    let rows = sqlx::query_scalar::<_, i64>("select count(*) from things");
    assert_eq!(rows.fetch_one(&mut connection).await.unwrap(), 0);
    connection.close().await.unwrap();
    first.stop_expecting(&[]).await;
    stack.stop_expecting(&[]).await;
}
