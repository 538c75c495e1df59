//! The relay app's recorded traffic, through respgres under each strategy and with plain Redis: the
//! same reply to every command; afterwards every mapped hash read back, then read back again with
//! the Redis behind respgres emptied.
//!
//! `difference.toml` is the list of what may differ, and why.
#![allow(clippy::unwrap_used, reason = "a test ends where something fails")]
// A test's own modules have nobody else to be private from, and the figures are for people.
#![allow(unreachable_pub, clippy::print_stderr)]

mod difference;
mod replay;
#[path = "../stack/mod.rs"]
mod stack;
mod traffic;

use std::time::Duration;

use respgres::mapping::KeyPattern;
use respgres::mapping::overlap::overlap;
use respgres::value::glob::Glob;

use difference::{Difference, SLACK};
use replay::Replay;
use stack::{Client, Redis, Server, Stack, Value};
use traffic::{Recorded, recorded};

const CONFIG: &str = include_str!("../../config/relay.toml");

#[tokio::test]
async fn plain_redis_replies_like_itself() {
    let traffic = recorded();
    let (one, other) = (Redis::start().await, Redis::start().await);
    let plain = Replay::with(&one, &traffic).await;
    let again = Replay::with(&other, &traffic).await;
    compare("plain Redis", &traffic, &plain, &again);
    let hashes = Hashes::of(&one).await;
    assert!(hashes.mapped.len() > 100, "the record makes more than {} hashes", hashes.mapped.len());
    hashes.assert_same(&other, &plain, &again).await;
}

#[tokio::test]
async fn a_reply_that_differs_is_found() {
    let traffic = recorded();
    let redis = Redis::start().await;
    redis.say("HSET apikey:hash_map stray field").await;
    redis.say("SADD usage:global:total stray").await;
    let plain = Replay::with(&Redis::start().await, &traffic).await;
    let actual = Replay::with(&redis, &traffic).await;
    let report = Difference::load().compare(&traffic, &plain, &actual);
    let has = |text: &str| report.faults.iter().any(|fault| fault.contains(text));
    assert!(has("hgetall apikey:hash_map: another reply"), "{:?}", report.faults);
    assert!(has("hincrby usage:global:total"), "{:?}", report.faults);
}

#[test]
fn the_example_maps_the_hashes_that_it_says_it_maps() {
    let config: toml::Table = CONFIG.parse().expect("the example is TOML");
    let mappings = config["mapping"].as_array().expect("the example has mappings");
    let patterns: Vec<KeyPattern> = mappings.iter().map(pattern).collect();
    for (at, one) in patterns.iter().enumerate() {
        for other in &patterns[..at] {
            assert_eq!(overlap(other, one), None, "{} and {}", other.as_str(), one.as_str());
        }
    }
    let mut used = vec![false; patterns.len()];
    let difference = Difference::load();
    for recorded in recorded() {
        let key = recorded.argument(1);
        let matching: Vec<usize> =
            (0..patterns.len()).filter(|&at| patterns[at].matches(key)).collect();
        let expected = match recorded.name().as_str() {
            "hset" | "hmset" | "hincrby" => usize::from(difference.is_mapped(key)),
            "sadd" | "set" | "setex" | "zadd" | "lpush" | "incrbyfloat" => 0,
            _ => continue,
        };
        assert_eq!(matching.len(), expected, "{}: {matching:?}", show(key));
        matching.into_iter().for_each(|at| used[at] = true);
    }
    for (pattern, used) in patterns.iter().zip(used) {
        assert!(used, "the record has no key for {}", pattern.as_str());
    }
}

fn pattern(mapping: &toml::Value) -> KeyPattern {
    let text = |value: &toml::Value| value.as_str().expect("text").to_owned();
    let exclude = mapping.get("exclude").map_or(Vec::new(), |globs| {
        globs
            .as_array()
            .expect("a list")
            .iter()
            .map(|glob| Glob::new(text(glob).as_bytes()))
            .collect()
    });
    KeyPattern::parse(&text(&mapping["key"])).expect("a valid pattern").excluding(exclude)
}

#[tokio::test]
async fn the_app_cannot_tell_respgres_from_redis_under_dual_write() {
    the_app_cannot_tell_respgres_from_redis_under("dual_write").await;
}

#[tokio::test]
async fn the_app_cannot_tell_respgres_from_redis_under_database_first() {
    the_app_cannot_tell_respgres_from_redis_under("database_first").await;
}

#[tokio::test]
async fn the_app_cannot_tell_respgres_from_redis_under_redis_only() {
    the_app_cannot_tell_respgres_from_redis_under("redis_only").await;
}

#[tokio::test]
async fn the_app_cannot_tell_respgres_from_redis_under_postgres_only() {
    the_app_cannot_tell_respgres_from_redis_under("postgres_only").await;
}

async fn the_app_cannot_tell_respgres_from_redis_under(strategy: &str) {
    let traffic = recorded();
    let redis = Redis::start().await;
    let builder = Stack::builder(CONFIG).set("RESPGRES__DEFAULTS__STRATEGY", strategy);
    let stack = builder.start().await;
    let plain = Replay::with(&redis, &traffic).await;
    let actual = Replay::with(&stack, &traffic).await;
    compare(strategy, &traffic, &plain, &actual);

    let hashes = Hashes::of(&redis).await;
    hashes.assert_same(&stack, &plain, &actual).await;

    let cached = hashes.count_in(&stack.redis).await;
    let rows = rows_in_tables(&stack).await;
    let all = hashes.mapped.len();
    match strategy {
        "redis_only" => assert_eq!((cached, rows), (all, 0), "mapped hashes in Redis, rows"),
        "postgres_only" => assert_eq!((cached, rows), (0, all), "mapped hashes in Redis, rows"),
        _ => assert_eq!(rows, all, "rows in the tables"),
    }
    if rows > 0 {
        let requests = redis.say("HGET usage:global:total requests").await;
        let requests = String::from_utf8_lossy(requests.bytes().expect("a counter")).into_owned();
        let sql = "select requests from usage_global_total where scope = 'total'";
        assert_eq!(stack.sql_text(sql).await, requests);
    }

    assert_eq!(stack.redis.say("FLUSHALL").await, Value::Status("OK".to_owned()));
    if strategy == "redis_only" {
        assert_eq!(hashes.count_in(&stack).await, 0, "redis_only keeps nothing elsewhere");
    } else {
        hashes.assert_same_mapped(&stack, &plain, &actual).await;
    }
    eprintln!("{strategy}: {all} mapped hashes read back, {} others", hashes.unmapped.len());
    stack.stop_expecting(&[]).await;
}

/// Compares two replays, says how many commands were compared, and fails on any fault.
fn compare(name: &str, traffic: &[Recorded], plain: &Replay, actual: &Replay) {
    let report = Difference::load().compare(traffic, plain, actual);
    eprintln!(
        "{name}: {} commands compared ({} of them by a rule of difference.toml, {} errors among \
         them), {} differ by nature, {} later steps of a SCAN; {:?} beside {:?}",
        report.compared,
        report.by_rule,
        report.errors,
        report.different,
        report.scan_steps,
        actual.took,
        plain.took,
    );
    let shown = report.faults.iter().take(20).cloned().collect::<Vec<_>>().join("\n");
    assert!(report.faults.is_empty(), "{name}: {} faults, such as\n{shown}", report.faults.len());
    assert!(report.compared > 12_000, "the record has 13,296 commands");
}

/// How many rows all tables of the example have together.
async fn rows_in_tables(stack: &Stack) -> usize {
    let config: toml::Table = CONFIG.parse().expect("the example is TOML");
    let mappings = config["mapping"].as_array().expect("the example has mappings");
    let counts: Vec<String> = mappings
        .iter()
        .map(|mapping| {
            format!("(select count(*) from {})", mapping["table"].as_str().expect("text"))
        })
        .collect();
    let rows = stack.sql_i64(&format!("select {}", counts.join(" + "))).await;
    usize::try_from(rows).expect("a count")
}

/// All hashes that the replay leaves behind in plain Redis.
struct Hashes {
    mapped: Vec<Hash>,
    unmapped: Vec<Hash>,
}

struct Hash {
    key: Vec<u8>,
    fields: Value,
    /// Milliseconds since the Unix epoch; -1 for a key that stays.
    expires_at_ms: i64,
}

impl Hashes {
    async fn of(redis: &Redis) -> Self {
        let difference = Difference::load();
        let mut client = Client::connect(redis).await;
        let (mut mapped, mut unmapped) = (Vec::new(), Vec::new());
        for key in client.say("KEYS *").await.into_set().elements() {
            let key = key.bytes().expect("a key").to_vec();
            if client.command(&[b"TYPE", key.as_slice()]).await.bytes() == Some(b"hash") {
                let hash = Hash::read(&mut client, key).await;
                if difference.is_mapped(&hash.key) {
                    mapped.push(hash)
                } else {
                    unmapped.push(hash)
                }
            }
        }
        Self { mapped, unmapped }
    }

    async fn assert_same(&self, server: &impl Server, plain: &Replay, actual: &Replay) {
        let mut client = Client::connect(server).await;
        for hash in self.mapped.iter().chain(&self.unmapped) {
            hash.assert_same(&mut client, plain, actual).await;
        }
    }

    async fn assert_same_mapped(&self, server: &impl Server, plain: &Replay, actual: &Replay) {
        let mut client = Client::connect(server).await;
        for hash in &self.mapped {
            hash.assert_same(&mut client, plain, actual).await;
        }
        for hash in &self.unmapped {
            let reply = client.command(&[b"EXISTS", hash.key.as_slice()]).await;
            assert_eq!(reply, Value::Integer(0), "only Redis had {}", show(&hash.key));
        }
    }

    /// How many of the mapped hashes a server has.
    async fn count_in(&self, server: &impl Server) -> usize {
        let mut client = Client::connect(server).await;
        let mut count = 0;
        for hash in &self.mapped {
            count += client.command(&[b"EXISTS", hash.key.as_slice()]).await.integer();
        }
        usize::try_from(count).expect("a count")
    }
}

impl Hash {
    async fn read(client: &mut Client, key: Vec<u8>) -> Self {
        let fields = client.command(&[b"HGETALL", key.as_slice()]).await.into_map();
        let expires_at_ms = client.command(&[b"PEXPIRETIME", key.as_slice()]).await.integer();
        Self { key, fields, expires_at_ms }
    }

    /// The same bytes in every field, and an expiry as far from the replay's start.
    async fn assert_same(&self, client: &mut Client, plain: &Replay, actual: &Replay) {
        let here = Hash::read(client, self.key.clone()).await;
        assert_eq!(here.fields.lines(), self.fields.lines(), "{}", show(&self.key));
        if self.expires_at_ms < 0 {
            assert_eq!(here.expires_at_ms, self.expires_at_ms, "{}", show(&self.key));
            return;
        }
        let expected = self.expires_at_ms - plain.started_ms;
        let got = here.expires_at_ms - actual.started_ms;
        let off = Duration::from_millis(expected.abs_diff(got));
        let allowed = plain.took.abs_diff(actual.took) + SLACK;
        assert!(off <= allowed, "{} expires {off:?} off, allowed {allowed:?}", show(&self.key));
    }
}

fn show(key: &[u8]) -> String {
    String::from_utf8_lossy(key).into_owned()
}
