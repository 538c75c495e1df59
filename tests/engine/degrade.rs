//! Postgres is lost and comes back: mapped keys are served from Redis meanwhile, and nothing is lost.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::stack::{Client, Cluster, Stack, Value, wait_until};

const MAPPINGS: &str = r#"
[defaults]
on_postgres_down = "redis_only"

[[mapping]]
name = "dual"
key = "dual:{id:int}"
table = "dual"
extra = "extra"
expires_at = "ends"
[mapping.columns]
n = { column = "n", type = "bigint" }

[[mapping]]
name = "first"
key = "first:{id:int}"
table = "first"
extra = "extra"
strategy = "database_first"

[[mapping]]
name = "behind"
key = "behind:{id:int}"
table = "behind"
extra = "extra"
strategy = "cache_first"

[[mapping]]
name = "cached"
key = "cached:{id:int}"
table = "cached"
extra = "extra"
on_postgres_down = "cached_only"

[[mapping]]
name = "strict"
key = "strict:{id:int}"
table = "strict"
extra = "extra"
on_postgres_down = "reject"

[[mapping]]
name = "counts"
key = "count:{id:int}"
kind = "hash_entries"
table = "counts"
field = "what"
value = { column = "amount", type = "numeric" }

[[mapping]]
name = "groups"
key = "group:{id:int}"
kind = "set"
table = "groups"
member = "member"
"#;

const LOST: &str = "Postgres is lost";

struct House {
    cluster: Arc<Cluster>,
    stack: Stack,
    client: Client,
}

impl House {
    async fn build() -> Self {
        let cluster = Arc::new(Cluster::start(false).await);
        // Timeouts that nobody is to wait for.
        let stack = Stack::builder(MAPPINGS)
            .set("RESPGRES__POSTGRES__CONNECT_TIMEOUT", "20s")
            .set("RESPGRES__POSTGRES__STATEMENT_TIMEOUT", "20s")
            .cluster(Arc::clone(&cluster))
            .start()
            .await;
        let client = stack.client().await;
        Self { cluster, stack, client }
    }

    /// Every reply comes at once, whatever is broken.
    async fn say(&mut self, line: &str) -> Value {
        let start = Instant::now();
        let reply = self.client.say(line).await;
        assert!(start.elapsed() < Duration::from_secs(5), "{line}: {:?}", start.elapsed());
        reply
    }

    async fn check(&mut self, lines: &[(&str, Value)]) {
        for (line, expected) in lines {
            assert_eq!(self.say(line).await, *expected, "{line}");
        }
    }

    /// These keys are in Redis, as copies.
    async fn cached(&mut self, keys: &[&str]) {
        for key in keys {
            wait_until("a copy is there", async || {
                self.client.say(&format!("EXISTS {key}")).await;
                self.stack.redis.say(&format!("EXISTS {key}")).await == Value::Integer(1)
            })
            .await;
        }
    }

    /// Copies go, as with time.
    async fn uncached(&mut self, keys: &[&str]) {
        for key in keys {
            self.stack.redis.say(&format!("DEL {key} respgres:m:{key}")).await;
        }
    }

    async fn standing(&mut self) -> String {
        let told = self.client.say("INFO respgres").await;
        let told = String::from_utf8_lossy(told.bytes().unwrap()).into_owned();
        let line = told.lines().find_map(|line| line.strip_prefix("respgres_postgres:"));
        line.unwrap().to_owned()
    }

    async fn lose_postgres(&mut self) {
        self.cluster.kill();
        wait_until("the loss is known", async || self.standing().await == "lost").await;
    }

    async fn postgres_comes_back(&mut self) {
        self.cluster.restart().await;
        let start = Instant::now();
        wait_until("Postgres is back", async || self.standing().await != "lost").await;
        assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
        wait_until("Postgres has caught up", async || self.standing().await == "up").await;
        self.stack.flushed().await;
    }

    /// Over a new connection: those of before have ended.
    async fn sql(&self, query: &str) -> String {
        use sqlx::Row as _;
        let mut connection = self.cluster.connect(&self.stack.database().name).await;
        let query = sqlx::AssertSqlSafe(format!("select ({query})::text"));
        let row = sqlx::Executor::fetch_one(&mut connection, query).await.unwrap();
        row.get::<Option<String>, _>(0).unwrap_or_default()
    }
}

fn bulk(text: &str) -> Value {
    Value::Bulk(text.into())
}

fn integer(number: i64) -> Value {
    Value::Integer(number)
}

#[tokio::test]
async fn keys_that_redis_has_are_read_and_written_without_postgres() {
    let mut house = House::build().await;
    for name in ["dual", "first", "behind", "cached"] {
        house.say(&format!("HSET {name}:1 a 1 n 5")).await;
    }
    house.say("SADD group:1 x y").await;
    house.stack.flushed().await;
    house.cached(&["dual:1", "first:1", "behind:1", "cached:1", "group:1"]).await;
    house.lose_postgres().await;
    for name in ["dual", "first", "behind", "cached"] {
        let line = |text: &str| text.replace('_', &format!("{name}:1"));
        house
            .check(&[
                (&line("HSET _ a 2"), integer(0)),
                (&line("HINCRBY _ n 3"), integer(8)),
                (&line("HGET _ a"), bulk("2")),
                (&line("HMGET _ n gone"), Value::Array(vec![bulk("8"), Value::NilBulk])),
                (&line("HDEL _ a"), integer(1)),
                (&line("HLEN _"), integer(1)),
            ])
            .await;
    }
    house.check(&[("SADD group:1 z x", integer(1)), ("SREM group:1 y", integer(1))]).await;
    house.check(&[("DEL cached:1", integer(1)), ("EXISTS cached:1", integer(0))]).await;
    house.postgres_comes_back().await;
    for name in ["dual", "first", "behind"] {
        assert_eq!(
            house.say(&format!("HGETALL {name}:1")).await.elements(),
            [bulk("n"), bulk("8")]
        );
    }
    assert_eq!(house.sql("select n from dual").await, "8");
    assert_eq!(house.sql("select extra ->> 'n' from first").await, "8");
    assert_eq!(house.sql("select count(*) from cached").await, "0");
    let members = house.sql("select string_agg(member, '' order by member) from groups").await;
    assert_eq!(members, "xz");
    house.stack.stop_allowing(&[LOST], &[]).await;
}

#[tokio::test]
async fn what_only_redis_has_is_read_and_not_written_without_postgres() {
    let mut house = House::build().await;
    let (done, _, error) = house.stack.run(&["phase", "set", "dual_write"]);
    assert!(done, "{error}");
    house.stack.proxy.restart().await;
    house.client = house.stack.client().await;
    wait_until("the proxy of before is known to be dead", async || {
        let told = house.say("INFO respgres").await;
        String::from_utf8_lossy(told.bytes().unwrap()).contains("respgres_proxies:1\r")
    })
    .await;
    for name in ["dual", "behind"] {
        house.stack.redis.say(&format!("HSET {name}:1 n 5 a old")).await;
        house.stack.redis.say(&format!("PEXPIREAT {name}:1 4102444800000")).await;
        // This one was brought over.
        house.stack.redis.say(&format!("HSET {name}:2 n 5 a old")).await;
        house.say(&format!("HINCRBY {name}:2 n 1")).await;
    }
    house.stack.flushed().await;
    house.cached(&["dual:2", "behind:2"]).await;
    house.lose_postgres().await;
    for name in ["dual", "behind"] {
        let told = house.say(&format!("HINCRBY {name}:1 n 1")).await;
        let Value::Error(text) = told else { panic!("{told:?}") };
        assert!(text.starts_with("TRYAGAIN Postgres is out of reach"), "{text}");
        assert_eq!(house.say(&format!("HGET {name}:1 n")).await, bulk("5"));
        // What is in Redis nowhere is no original.
        assert_eq!(house.say(&format!("HSET {name}:3 n 1")).await, integer(1));
    }
    // Since it was started this proxy has told Redis first of nothing but this one.
    assert_eq!(house.say("HINCRBY behind:2 n 1").await, integer(7));
    let since = Instant::now();
    house.postgres_comes_back().await;
    for name in ["dual", "behind"] {
        assert_eq!(house.say(&format!("HINCRBY {name}:1 n 1")).await, integer(6));
        assert_eq!(house.say(&format!("HGET {name}:1 a")).await, bulk("old"));
        let ends_at = house.say(&format!("PEXPIRETIME {name}:1")).await.integer();
        // Later by what the import took.
        let later_ms = ends_at - 4_102_444_800_000;
        let most_ms = i64::try_from(since.elapsed().as_millis()).unwrap() + 10;
        assert!((-10..=most_ms).contains(&later_ms), "{name}: {later_ms} in {most_ms} ms");
    }
    house.stack.flushed().await;
    assert_eq!(house.sql("select string_agg(n::text, ',' order by id) from dual").await, "6,6,1");
    house.stack.stop_allowing(&[LOST], &[]).await;
}

#[tokio::test]
async fn what_redis_does_not_have_is_taken_for_absent_and_merged_later() {
    let mut house = House::build().await;
    house.say("HSET dual:1 n 100 a old b kept").await;
    house.say("HSET count:1 x 10 y 1.5").await;
    house.say("SADD group:1 x y").await;
    house.say("HSET first:1 a 1").await;
    house.say("HSET behind:1 a 1").await;
    house.stack.flushed().await;
    let keys = ["dual:1", "count:1", "group:1", "first:1", "behind:1"];
    house.cached(&keys).await;
    house.uncached(&keys).await;
    house.lose_postgres().await;
    house
        .check(&[
            ("HGETALL dual:1", Value::Array(vec![])),
            ("EXISTS dual:1 group:1", integer(0)),
            ("HINCRBY dual:1 n 5", integer(5)),
            ("HINCRBY dual:1 n 6", integer(11)),
            ("HSET dual:1 a new", integer(1)),
            ("HGET dual:1 b", Value::NilBulk),
            ("HDEL dual:1 b", integer(0)),
            ("HINCRBYFLOAT count:1 y 0.25", bulk("0.25")),
            ("HINCRBY count:1 z 7", integer(7)),
            ("SADD group:1 z", integer(1)),
            ("SREM group:1 y", integer(0)),
            ("SMEMBERS group:1", Value::Array(vec![bulk("z")])),
            ("DEL first:1", integer(0)),
            ("HINCRBY behind:1 a 1", integer(1)),
        ])
        .await;
    house.postgres_comes_back().await;
    house
        .check(&[
            ("HGET dual:1 n", bulk("111")),
            ("HGET dual:1 a", bulk("new")),
            ("HEXISTS dual:1 b", integer(0)),
            ("HGET count:1 x", bulk("10")),
            ("HGET count:1 y", bulk("1.75")),
            ("HGET count:1 z", bulk("7")),
            ("SCARD group:1", integer(2)),
            ("SISMEMBER group:1 x", integer(1)),
            ("EXISTS first:1", integer(0)),
            ("HGET behind:1 a", bulk("2")),
        ])
        .await;
    assert_eq!(house.sql("select n || ' ' || extra::text from dual").await, r#"111 {"a": "new"}"#);
    house.stack.stop_allowing(&[LOST], &[]).await;
}

#[tokio::test]
async fn a_number_that_cannot_be_added_is_a_dead_letter_and_holds_up_nobody() {
    let mut house = House::build().await;
    house.say("HSET dual:1 a text").await;
    house.cached(&["dual:1"]).await;
    house.uncached(&["dual:1"]).await;
    house.lose_postgres().await;
    house.check(&[("HINCRBY dual:1 a 5", integer(5)), ("HSET dual:2 n 1", integer(1))]).await;
    house.postgres_comes_back().await;
    house.check(&[("HGET dual:2 n", bulk("1")), ("HGET dual:1 a", bulk("text"))]).await;
    assert_eq!(house.sql("select count(*) from respgres.dead_letters").await, "1");
    house.stack.stop_allowing(&[LOST, "Postgres refuses a change"], &[]).await;
}

#[tokio::test]
async fn what_needs_postgres_is_refused_at_once_and_says_so() {
    let mut house = House::build().await;
    house.say("HSET dual:1 n 1").await;
    house.say("HSET dual:2 n 1").await;
    house.say("EXPIRE dual:2 1000").await;
    house.say("HSET strict:1 a 1").await;
    house.say("HSET cached:1 a 1").await;
    house.cached(&["dual:1", "dual:2", "strict:1", "cached:1"]).await;
    house.uncached(&["cached:1"]).await;
    house.lose_postgres().await;
    let needs = "TRYAGAIN Postgres is out of reach, and this write cannot be done without it; nothing was written";
    let ends = "TRYAGAIN Postgres is out of reach, and only it knows when a key ends";
    let lacks = "TRYAGAIN Postgres is out of reach, and Redis does not have this key";
    let down = "ERR Postgres is out of reach";
    let not_written = "ERR Postgres is out of reach; nothing was written";
    for (line, expected) in [
        ("TTL dual:1", ends),
        // A key with an end of its own must not lose it.
        ("HSET dual:2 n 2", needs),
        ("HSET cached:1 a 2", lacks),
        ("DEL cached:1", lacks),
        ("HGET cached:1 a", lacks),
        ("HSET strict:1 a 2", not_written),
        ("HSET strict:2 a 2", not_written),
        ("HGET strict:2 a", down),
        ("EXPIRE dual:1 100", not_written),
        ("RENAME dual:1 dual:3", not_written),
        ("DBSIZE", down),
    ] {
        assert_eq!(house.say(line).await, Value::Error(expected.into()), "{line}");
    }
    house.check(&[("HGET dual:2 n", bulk("1")), ("HGET strict:1 a", bulk("1"))]).await;
    house.postgres_comes_back().await;
    house.check(&[("HSET cached:1 a 2", integer(0)), ("TTL dual:1", integer(-1))]).await;
    house.stack.stop_allowing(&[LOST], &[]).await;
}

/// Operations that a worker had in hand when Postgres went are done, not refused; and the copies that it had
/// set aside for them are there.
#[tokio::test]
async fn what_is_under_way_when_postgres_goes_is_done_behind() {
    let mut house = House::build().await;
    house.say("HSET dual:1 n 0 a whole").await;
    house.cached(&["dual:1"]).await;
    // A lock keeps the writer waiting within its transaction.
    let mut holder = house.cluster.connect(&house.stack.database().name).await;
    let lock = "begin; select from dual for update";
    sqlx::Executor::execute(&mut holder, sqlx::raw_sql(lock)).await.unwrap();
    let mut writer = house.stack.client().await;
    let writing = tokio::spawn(async move { writer.say("HINCRBY dual:1 n 1").await });
    wait_until("the writer waits", async || {
        let waits = "select count(*) from pg_stat_activity where wait_event_type = 'Lock'";
        house.sql(waits).await != "0"
    })
    .await;
    house.lose_postgres().await;
    assert_eq!(writing.await.unwrap(), integer(1));
    house.check(&[("HGET dual:1 a", bulk("whole")), ("HINCRBY dual:1 n 1", integer(2))]).await;
    house.postgres_comes_back().await;
    assert_eq!(house.sql("select n from dual").await, "2");
    house.stack.stop_allowing(&[LOST], &[]).await;
}

#[tokio::test]
async fn a_copy_that_was_set_aside_in_vain_comes_back_as_it_was() {
    let mut house = House::build().await;
    house.stack.sql_execute("alter table dual add check (n < 1000)").await;
    house.say("HSET dual:1 n 1 a whole").await;
    house.cached(&["dual:1"]).await;
    for turn in 0..2 {
        if turn == 1 {
            // A key with an end of its own.
            house.say("EXPIRE dual:1 1000").await;
            house.cached(&["dual:1"]).await;
        }
        let end = house.stack.redis.say("PEXPIRETIME dual:1").await;
        assert_eq!(end.integer() % 2, turn);
        assert!(house.say("HINCRBY dual:1 n 5000").await.is_error());
        assert_eq!(house.stack.redis.say("PEXPIRETIME dual:1").await, end);
        assert_eq!(house.stack.redis.say("HGET dual:1 a").await, bulk("whole"));
        assert_eq!(house.stack.redis.say("HGET dual:1 n").await, bulk("1"));
    }
    house.stack.stop_expecting(&[]).await;
}

/// Redis goes while it alone has changes: nothing is told as if they had never been.
#[tokio::test]
async fn nothing_is_done_past_a_redis_that_may_be_ahead() {
    let mut house = House::build().await;
    house.say("HSET dual:1 n 1").await;
    house.cached(&["dual:1"]).await;
    house.lose_postgres().await;
    house.check(&[("HINCRBY dual:1 n 1", integer(2))]).await;
    house.stack.redis.process().signal("STOP");
    house.cluster.restart().await;
    let told = house.client.say("HINCRBY dual:1 n 1").await;
    assert!(told.is_error(), "{told:?}");
    house.stack.redis.process().signal("CONT");
    wait_until("all is well", async || house.client.say("HGET dual:1 n").await == bulk("2")).await;
    house.stack.flushed().await;
    assert_eq!(house.sql("select n from dual").await, "2");
    house.stack.stop_allowing(&[LOST], &["upstream", "Redis", "failed"]).await;
}
