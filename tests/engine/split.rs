//! Two proxies of which one loses Redis and the other one Postgres: nobody writes what the other does not see.

use std::time::Duration;

use crate::relay::Relay;
use crate::stack::{Client, Proxy, Server, Stack, Value, wait_until};

const MAPPINGS: &str = r#"
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

[[mapping]]
name = "first"
key = "first:{id:int}"
table = "first"
extra = "extra"
strategy = "cache_first"
"#;

/// A proxy whose way to either store can be cut.
struct Side {
    proxy: Proxy,
    client: Client,
    redis: Relay,
    postgres: Relay,
}

struct House {
    stack: Stack,
    sides: [Side; 2],
}

impl Side {
    async fn start(stack: &Stack, own: &[(&str, &str)]) -> Self {
        let redis = Relay::to(&stack.redis.address()).await;
        let cluster = &stack.database().cluster;
        let postgres = Relay::to(&cluster.socket().display().to_string()).await;
        let (proxy, client) = Self::begin(stack, own, &redis, &postgres).await;
        Self { proxy, client, redis, postgres }
    }

    async fn begin(
        stack: &Stack,
        own: &[(&str, &str)],
        redis: &Relay,
        postgres: &Relay,
    ) -> (Proxy, Client) {
        let database = &stack.database().name;
        let url = format!("postgres://postgres@{}/{database}?sslmode=disable", postgres.address());
        let mut settings = vec![
            ("RESPGRES__UPSTREAM__URL", format!("redis://{}", redis.address())),
            ("RESPGRES__POSTGRES__URL", url),
        ];
        settings.extend(own.iter().map(|(name, value)| (*name, (*value).to_owned())));
        let proxy = stack.start_proxy_with(&settings).await;
        let client = Client::connect(&proxy).await;
        (proxy, client)
    }

    /// Without a word to the stores.
    async fn kill_and_start_anew(&mut self, stack: &Stack) {
        self.proxy.kill();
        (self.proxy, self.client) = Self::begin(stack, &[], &self.redis, &self.postgres).await;
    }

    async fn say(&mut self, line: &str) -> Value {
        self.client.say(line).await
    }

    async fn told(&mut self, name: &str) -> String {
        let Value::Bulk(text) = self.say("INFO respgres").await else { panic!("no text") };
        let text = String::from_utf8(text).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("respgres_{name}:")));
        line.unwrap_or_else(|| panic!("no {name} in {text}")).to_owned()
    }

    async fn lose_postgres(&mut self) {
        self.postgres.cut();
        wait_until("Postgres is lost", async || self.told("postgres").await == "lost").await;
    }
}

impl House {
    async fn build(own: &[(&str, &str)]) -> Self {
        let mut stack = Stack::with_mappings(MAPPINGS).await;
        stack.proxy.stop_expecting(&[]).await;
        let sides = [Side::start(&stack, own).await, Side::start(&stack, own).await];
        let mut house = Self { stack, sides };
        for line in ["HSET cached:1 n 1", "HSET strict:1 n 1", "HSET first:1 n 1"] {
            assert_eq!(house.sides[0].say(line).await, Value::Integer(1), "{line}");
        }
        house.stack.flushed().await;
        for side in &mut house.sides {
            for key in ["cached:1", "strict:1", "first:1"] {
                assert_eq!(side.say(&format!("HGET {key} n")).await, bulk("1"), "{key}");
            }
            wait_until("they know of each other for some time", async || {
                side.told("proxies").await == "2"
                    && side.told("uptime_in_seconds").await.parse::<u64>().unwrap() > 5
            })
            .await;
        }
        house
    }

    /// Both stores have this, and so says each proxy.
    async fn agrees(&mut self, key: &str, value: &str) {
        for side in &mut self.sides {
            wait_until("it is seen", async || {
                side.say(&format!("HGET {key} n")).await == bulk(value)
            })
            .await;
        }
        self.stack.flushed().await;
        let (table, id) = key.split_once(':').unwrap();
        let query = format!("select extra->>'n' from {table} where id = {id}");
        assert_eq!(self.stack.sql_text(&query).await, value);
    }

    async fn end(self) {
        let allowed = ["Postgres is lost", "Redis", "respgres", "a write failed"];
        for mut side in self.sides {
            side.proxy.stop_allowing(&[], &allowed).await;
        }
    }
}

fn bulk(text: &str) -> Value {
    Value::Bulk(text.as_bytes().to_vec())
}

#[track_caller]
fn assert_apart(told: &Value) {
    let Value::Error(text) = told else { panic!("{told:?}") };
    assert!(text.contains("another respgres may be without"), "{text}");
}

#[tokio::test]
async fn who_knows_that_another_has_lost_redis_does_not_go_on_without_postgres() {
    let mut house = House::build(&[]).await;
    let [one, other] = &mut house.sides;
    other.redis.cut();
    assert_eq!(other.say("HSET cached:1 n 2").await, Value::Integer(0));
    wait_until("it is seen", async || one.say("HGET cached:1 n").await == bulk("2")).await;

    one.lose_postgres().await;
    assert_eq!(other.say("HSET cached:1 n 3").await, Value::Integer(0));
    assert_eq!(other.say("HSET strict:1 n 3").await, Value::Integer(0));
    assert_apart(&one.say("HGET cached:1 n").await);
    assert_apart(&one.say("HGET strict:1 n").await);
    let refused = one.say("HSET cached:1 n 4").await;
    assert!(matches!(&refused, Value::Error(text) if text.ends_with("nothing was written")));
    // Nobody writes these past Redis.
    assert_eq!(one.say("HGET first:1 n").await, bulk("1"));
    assert_eq!(one.say("HSET first:1 n 5").await, Value::Integer(0));

    // Postgres is there again for the other one, too; but what was said holds until Redis is.
    one.postgres.heal();
    wait_until("it has caught up", async || one.told("postgres").await == "up").await;
    assert_eq!(other.say("HINCRBY cached:1 counter 5").await, Value::Integer(5));
    wait_until("it is seen", async || one.say("HGET cached:1 counter").await == bulk("5")).await;
    assert_eq!(one.say("HINCRBY cached:1 counter 1").await, Value::Integer(6));
    assert_eq!(other.say("HGET cached:1 counter").await, bulk("6"));
    one.lose_postgres().await;
    assert_apart(&one.say("HGET cached:1 n").await);

    other.redis.heal();
    wait_until("it goes on", async || {
        // What has been dropped comes back with who has Postgres.
        other.say("HGET cached:1 n").await;
        other.say("HGET strict:1 n").await;
        one.say("HGET cached:1 n").await == bulk("3")
    })
    .await;
    assert_eq!(one.say("HGET strict:1 n").await, bulk("3"));
    assert_eq!(one.say("HSET cached:1 n 6").await, Value::Integer(0));
    one.postgres.heal();
    house.agrees("cached:1", "6").await;
    house.agrees("strict:1", "3").await;
    house.agrees("first:1", "5").await;
    house.end().await;
}

#[tokio::test]
async fn who_has_lost_redis_does_not_write_what_another_may_write_without_postgres() {
    let mut house = House::build(&[]).await;
    let [one, other] = &mut house.sides;
    one.lose_postgres().await;
    assert_eq!(one.say("HSET cached:1 n 2").await, Value::Integer(0));
    other.redis.cut();
    assert_apart(&other.say("HSET cached:1 n 3").await);
    let read = other.say("HGET cached:1 n").await;
    assert!(matches!(&read, Value::Error(text) if text.starts_with("TRYAGAIN")), "{read:?}");
    // Of this one nobody tells Redis first, and who could believe its copy does not any more.
    assert_eq!(other.say("HSET strict:1 n 3").await, Value::Integer(0));
    assert_apart(&one.say("HGET strict:1 n").await);

    one.postgres.heal();
    other.redis.heal();
    house.agrees("cached:1", "2").await;
    house.agrees("strict:1", "3").await;
    house.end().await;
}

#[tokio::test]
async fn one_that_is_to_be_available_goes_on() {
    let mut house = House::build(&[("RESPGRES__PROXIES__SPLIT", "available")]).await;
    let [one, other] = &mut house.sides;
    one.lose_postgres().await;
    other.redis.cut();
    assert_eq!(other.say("HSET strict:1 n 2").await, Value::Integer(0));
    assert_eq!(one.say("HGET strict:1 n").await, bulk("1"), "the copy of before");
    assert_eq!(one.say("HSET cached:1 n 2").await, Value::Integer(0));
    one.postgres.heal();
    other.redis.heal();
    house.agrees("cached:1", "2").await;
    house.agrees("strict:1", "2").await;
    house.end().await;
}

#[tokio::test]
async fn one_whose_other_has_died_goes_on_without_postgres_when_told_so() {
    let mut house = House::build(&[]).await;
    let id = house.sides[1].told("proxy_id").await;
    let [one, other] = &mut house.sides;
    one.lose_postgres().await;
    other.proxy.kill();
    wait_until("it refuses", async || matches!(one.say("HGET strict:1 n").await, Value::Error(_)))
        .await;
    assert_apart(&one.say("HGET cached:1 n").await);
    wait_until("it can be forgotten", async || house.stack.run(&["proxies", "forget", &id]).0)
        .await;
    // A tombstone in Redis is enough, as Postgres may be away for all.
    wait_until("it goes on", async || one.say("HGET cached:1 n").await == bulk("1")).await;
    assert_eq!(one.say("HSET cached:1 n 2").await, Value::Integer(0));
    one.postgres.heal();
    wait_until("all is flushed", async || one.told("postgres").await == "up").await;
    let allowed = ["Postgres is lost", "respgres", "a write failed"];
    house.sides[0].proxy.stop_allowing(&[], &allowed).await;
}

#[tokio::test]
async fn who_has_lost_redis_leaves_the_journal_to_others() {
    let mut stack = Stack::with_mappings(MAPPINGS).await;
    stack.proxy.stop_expecting(&[]).await;
    let mut first = Side::start(&stack, &[]).await;
    assert_eq!(first.say("HSET first:1 n 1").await, Value::Integer(1));
    // It is the one who brings it to Postgres.
    stack.flushed().await;
    let mut second = Side::start(&stack, &[]).await;
    first.redis.cut();
    assert_eq!(second.say("HSET first:1 n 2").await, Value::Integer(0));
    stack.flushed().await;
    assert_eq!(stack.sql_text("select extra->>'n' from first where id = 1").await, "2");
    first.redis.heal();
    for mut side in [first, second] {
        side.proxy.stop_allowing(&[], &["Redis", "respgres", "a write failed"]).await;
    }
}

#[tokio::test]
async fn one_that_was_killed_is_not_another_one_to_its_successor() {
    let mut stack = Stack::with_mappings(MAPPINGS).await;
    stack.proxy.stop_expecting(&[]).await;
    let mut side = Side::start(&stack, &[]).await;
    assert_eq!(side.say("HSET strict:1 n 1").await, Value::Integer(1));
    assert_eq!(side.say("HSET cached:1 n 1").await, Value::Integer(1));
    side.kill_and_start_anew(&stack).await;
    let since = std::time::Instant::now();
    wait_until("it is alone", async || side.told("proxies").await == "1").await;
    assert!(since.elapsed() < Duration::from_secs(3), "a lease lasts as long");
    wait_until("a copy is there", async || {
        side.say("HGET cached:1 n").await;
        stack.redis.say("EXISTS cached:1").await == Value::Integer(1)
    })
    .await;
    side.lose_postgres().await;
    assert_eq!(side.say("HGET cached:1 n").await, bulk("1"), "without Postgres");
    side.postgres.heal();
    wait_until("Postgres is back", async || side.told("postgres").await == "up").await;
    side.redis.cut();
    wait_until("it goes past Redis", async || {
        side.say("HSET strict:1 n 2").await == Value::Integer(0)
    })
    .await;
    // Its predecessor went past Redis, and Redis is still away.
    side.kill_and_start_anew(&stack).await;
    let since = std::time::Instant::now();
    wait_until("it goes past Redis", async || {
        side.say("HSET strict:1 n 3").await == Value::Integer(0)
    })
    .await;
    assert!(since.elapsed() < Duration::from_secs(3), "it waited for the dead");
    side.redis.heal();
    wait_until("a copy is there", async || {
        assert_eq!(side.say("HGET strict:1 n").await, bulk("3"));
        stack.redis.say("HGET strict:1 n").await == bulk("3")
    })
    .await;
    let allowed = ["Postgres is lost", "Redis", "respgres", "a write failed"];
    side.proxy.stop_allowing(&[], &allowed).await;
}

#[tokio::test]
async fn a_strict_write_past_redis_is_acknowledged_when_nobody_reads_the_old_value() {
    let mut house = House::build(&[("RESPGRES__PROXIES__REDIS_LOSS", "strict")]).await;
    let [one, other] = &mut house.sides;
    other.redis.cut();
    for value in 2..200 {
        assert_eq!(other.say(&format!("HSET strict:1 n {value}")).await, Value::Integer(0));
        let value = value.to_string();
        assert_eq!(one.say("HGET strict:1 n").await, bulk(&value));
    }
    one.redis.cut();
    let told = other.say("HSET strict:1 n 1000").await;
    assert!(
        matches!(&told, Value::Error(text) if text.contains("no other respgres has dropped its copy")),
        "{told:?}"
    );
    one.redis.heal();
    other.redis.heal();
    house.agrees("strict:1", "199").await;
    house.end().await;
}
