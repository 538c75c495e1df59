//! The relay app's recorded traffic, through respgres under each strategy and with plain Redis: the
//! same reply to every command, and every mapped hash and set read back; then the Redis behind respgres is
//! emptied, and both are read again, in the app's way: every command of the record that only reads.
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

use respgres::mapping::KeyPattern;
use respgres::mapping::overlap::overlap;
use respgres::value::glob::Glob;

use difference::{Difference, Lags, Report, SLACK};
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
    let values = Values::of(&one).await;
    assert!(values.mapped.len() > 100, "the record makes more than {} values", values.mapped.len());
    values.assert_same(&other, &plain, &again).await;
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
fn the_example_maps_what_it_says_it_maps() {
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
            "sadd" => 1,
            "set" | "setex" | "zadd" | "lpush" | "incrbyfloat" => 0,
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
async fn the_app_cannot_tell_respgres_from_redis_under_cache_first() {
    the_app_cannot_tell_respgres_from_redis_under("cache_first").await;
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
    let reads: Vec<Recorded> = traffic.iter().filter(|said| said.only_reads()).cloned().collect();
    let redis = Redis::start().await;
    let plain = Replay::with(&redis, &traffic).await;
    let values = Values::of(&redis).await;
    let requests = redis.say("HGET usage:global:total requests").await;
    // What Redis has when nothing but the mapped values is left of it.
    values.leave_alone(&redis, strategy != "redis_only").await;
    let plain_reads = plain.then(&redis, &reads).await;

    let builder = Stack::builder(CONFIG).set("RESPGRES__DEFAULTS__STRATEGY", strategy);
    let stack = builder.start().await;
    let actual = Replay::with(&stack, &traffic).await;
    compare(strategy, &traffic, &plain, &actual);
    values.assert_same(&stack, &plain, &actual).await;

    stack.flushed().await;
    let cached = values.count_in(&stack.redis).await;
    let rows = rows_in_tables(&stack).await;
    let all = values.mapped.len();
    match strategy {
        "redis_only" => assert_eq!((cached, rows), (all, 0), "mapped values in Redis, rows"),
        "postgres_only" => assert_eq!((cached, rows), (0, all), "mapped values in Redis, rows"),
        _ => assert_eq!(rows, all, "rows in the tables"),
    }
    if rows > 0 {
        let requests = String::from_utf8_lossy(requests.bytes().expect("a counter")).into_owned();
        let sql = "select requests from usage_global_total where scope = 'total'";
        assert_eq!(stack.sql_text(sql).await, requests);
    }

    assert_eq!(stack.redis.say("FLUSHALL").await, Value::Status("OK".to_owned()));
    let actual_reads = actual.then(&stack, &reads).await;
    let report = faultless(strategy, &reads, &plain_reads, &actual_reads);
    assert!(report.compared > 6000, "half of the record reads");
    if strategy == "redis_only" {
        assert_eq!(values.count_in(&stack).await, 0, "redis_only keeps nothing elsewhere");
    } else {
        // Again, for this time copies that were read back are there.
        values.assert_same_mapped(&stack, &plain, &actual).await;
    }
    eprintln!("{strategy}: {all} mapped values read back, {} others", values.unmapped.len());
    stack.stop_expecting(&[]).await;
}

#[tokio::test]
async fn the_app_cannot_tell_when_it_moves_in_under_dual_write() {
    the_app_cannot_tell_when_it_moves_in_under("dual_write").await;
}

#[tokio::test]
async fn the_app_cannot_tell_when_it_moves_in_under_cache_first() {
    the_app_cannot_tell_when_it_moves_in_under("cache_first").await;
}

#[tokio::test]
async fn the_app_cannot_tell_when_it_moves_in_under_database_first() {
    the_app_cannot_tell_when_it_moves_in_under("database_first").await;
}

#[tokio::test]
async fn the_app_cannot_tell_when_it_moves_in_under_postgres_only() {
    the_app_cannot_tell_when_it_moves_in_under("postgres_only").await;
}

/// The first half of the record is said to the Redis behind respgres, before anybody knows of mappings; the
/// second through respgres, which has empty tables then.
async fn the_app_cannot_tell_when_it_moves_in_under(strategy: &str) {
    let traffic = recorded();
    let (before, after) = traffic.split_at(traffic.len() / 2);
    let redis = Redis::start().await;
    let plain = Replay::with(&redis, before).await;
    let plain_after = plain.then(&redis, after).await;
    let values = Values::of(&redis).await;

    let builder = Stack::builder(CONFIG).set("RESPGRES__DEFAULTS__STRATEGY", strategy);
    let mut stack = builder.start().await;
    let (done, _, error) = stack.run(&["phase", "set", "dual_write"]);
    assert!(done, "{error}");
    let actual = Replay::with(&stack.redis, before).await;
    stack.proxy.restart().await;
    let actual_after = actual.then(&stack, after).await;
    let report = faultless(strategy, after, &plain_after, &actual_after);
    assert!(report.compared > 6000, "half of the record");
    values.assert_same(&stack, &plain_after, &actual_after).await;

    stack.flushed().await;
    // To ask for a key's end is to bring it over.
    let rows = rows_in_tables(&stack).await;
    assert_eq!(rows, values.mapped.len(), "{strategy}: rows in the tables");
    assert_eq!(stack.redis.say("FLUSHALL").await, Value::Status("OK".to_owned()));
    values.assert_same_mapped(&stack, &plain_after, &actual_after).await;
    stack.stop_expecting(&[]).await;
}

/// Compares two replays of the whole record.
fn compare(name: &str, traffic: &[Recorded], plain: &Replay, actual: &Replay) {
    let report = faultless(name, traffic, plain, actual);
    assert!(report.unused.is_empty(), "{name}: {}", report.unused.join("\n"));
    assert!(report.compared > 12_000, "the record has 13,296 commands");
    // HGETALL and HGET, in pipelines, of all that the app finds by SCAN among its API keys; most are sets.
    assert_eq!(report.wrong_types, 108, "errors about keys of another type");
}

/// Compares two replays, says how many commands were compared, and fails on any fault.
fn faultless(name: &str, traffic: &[Recorded], plain: &Replay, actual: &Replay) -> Report {
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
    report
}

/// How many keys have rows in the tables of the example.
async fn rows_in_tables(stack: &Stack) -> usize {
    let config: toml::Table = CONFIG.parse().expect("the example is TOML");
    let mappings = config["mapping"].as_array().expect("the example has mappings");
    let counts: Vec<String> = mappings
        .iter()
        .map(|mapping| {
            let table = mapping["table"].as_str().expect("text");
            let captures = pattern(mapping).capture_names().join(", ");
            match (mapping["kind"].as_str(), captures.is_empty()) {
                (Some("hash"), _) => format!("(select count(*) from {table})"),
                (_, true) => format!("(select count(*) from (select from {table} limit 1) as key)"),
                _ => format!(
                    "(select count(*) from (select distinct {captures} from {table}) as key)"
                ),
            }
        })
        .collect();
    let rows = stack.sql_i64(&format!("select {}", counts.join(" + "))).await;
    usize::try_from(rows).expect("a count")
}

/// All hashes and sets that the replay leaves behind in plain Redis.
struct Values {
    mapped: Vec<Kept>,
    unmapped: Vec<Kept>,
}

struct Kept {
    key: Vec<u8>,
    /// The command that reads it.
    whole: &'static str,
    elements: Value,
    /// Milliseconds since the Unix epoch; -1 for a key that stays.
    expires_at_ms: i64,
}

impl Values {
    async fn of(redis: &Redis) -> Self {
        let difference = Difference::load();
        let mut client = Client::connect(redis).await;
        let (mut mapped, mut unmapped) = (Vec::new(), Vec::new());
        for key in client.say("KEYS *").await.into_set().elements() {
            let key = key.bytes().expect("a key").to_vec();
            let kind = client.command(&[b"TYPE", key.as_slice()]).await;
            let whole = match kind.bytes() {
                Some(b"hash") => "HGETALL",
                Some(b"set") => "SMEMBERS",
                _ => continue,
            };
            let kept = Kept::read(&mut client, key, whole).await;
            let list = if difference.is_mapped(&kept.key) { &mut mapped } else { &mut unmapped };
            list.push(kept);
        }
        Self { mapped, unmapped }
    }

    async fn assert_same(&self, server: &impl Server, plain: &Replay, actual: &Replay) {
        let mut client = Client::connect(server).await;
        for kept in self.mapped.iter().chain(&self.unmapped) {
            kept.assert_same(&mut client, plain, actual).await;
        }
    }

    async fn assert_same_mapped(&self, server: &impl Server, plain: &Replay, actual: &Replay) {
        let mut client = Client::connect(server).await;
        for kept in &self.mapped {
            kept.assert_same(&mut client, plain, actual).await;
        }
        for kept in &self.unmapped {
            let reply = client.command(&[b"EXISTS", kept.key.as_slice()]).await;
            assert_eq!(reply, Value::Integer(0), "only Redis had {}", show(&kept.key));
        }
    }

    /// Deletes all other keys from the Redis that they are of; and these too unless they are `kept`.
    async fn leave_alone(&self, redis: &Redis, kept: bool) {
        let mut client = Client::connect(redis).await;
        for key in client.say("KEYS *").await.elements() {
            let key = key.bytes().expect("a key");
            if !kept || !self.mapped.iter().any(|one| one.key == key) {
                client.command(&[b"DEL", key]).await;
            }
        }
    }

    /// How many of the mapped ones a server has.
    async fn count_in(&self, server: &impl Server) -> usize {
        let mut client = Client::connect(server).await;
        let mut count = 0;
        for kept in &self.mapped {
            count += client.command(&[b"EXISTS", kept.key.as_slice()]).await.integer();
        }
        usize::try_from(count).expect("a count")
    }
}

impl Kept {
    async fn read(client: &mut Client, key: Vec<u8>, whole: &'static str) -> Self {
        let reply = client.command(&[whole.as_bytes(), key.as_slice()]).await;
        let elements = if whole == "SMEMBERS" { reply.into_set() } else { reply.into_map() };
        let expires_at_ms = client.command(&[b"PEXPIRETIME", key.as_slice()]).await.integer();
        Self { key, whole, elements, expires_at_ms }
    }

    /// The same bytes in every field, and an expiry as far from the replay's start.
    async fn assert_same(&self, client: &mut Client, plain: &Replay, actual: &Replay) {
        let here = Kept::read(client, self.key.clone(), self.whole).await;
        assert_eq!(here.elements.lines(), self.elements.lines(), "{}", show(&self.key));
        if self.expires_at_ms < 0 {
            assert_eq!(here.expires_at_ms, self.expires_at_ms, "{}", show(&self.key));
            return;
        }
        let expected = self.expires_at_ms - plain.started_ms;
        let got = here.expires_at_ms - actual.started_ms;
        let (later, lags) = ((got - expected) as f64 / 1000.0, Lags::of(plain, actual));
        let slack = SLACK.as_secs_f64();
        let allowed = lags.least - slack..=lags.most + slack;
        let name = show(&self.key);
        assert!(allowed.contains(&later), "{name} expires {later} s later, allowed {allowed:?}");
    }
}

fn show(key: &[u8]) -> String {
    String::from_utf8_lossy(key).into_owned()
}
