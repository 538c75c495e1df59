//! Do several proxies over one Redis and one Postgres behave as one Redis?
//!
//! Many clients read and write a few keys at random; a checker looks through the recorded history
//! for stale reads and lost increments; then each cached copy is compared with its row. The size comes
//! from `RESPGRES_COHERENCE_CLIENTS`, `RESPGRES_COHERENCE_SECONDS` and `RESPGRES_COHERENCE_KEYS`;
//! `make check-coherence` asks for the full one.

mod counter;
mod history;
mod keys;
mod members;
mod reference;
mod register;
#[path = "../stack/mod.rs"]
mod stack;
mod switching;
mod workload;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use keys::{Form, Names, form};
use sqlx::{Connection, PgConnection, Row};
use stack::{Client, Proxy, Redis, Server, Stack, Value};
use workload::{Manners, Record, Scene, Size};

const MAPPING: &str = r#"
[[mapping]]
name = "coherence"
key = "coherence:{id:int}"
kind = "hash"
table = "coherence_rows"
strategy = "dual_write"
[mapping.columns]
first = "first"
second = "second"
counter = { column = "counter", type = "bigint" }

[[mapping]]
name = "entries"
key = "entries:{id:int}"
kind = "hash_entries"
table = "coherence_entries"
field = "field"
value = "value"

[[mapping]]
name = "sets"
key = "set:{id:int}"
kind = "set"
table = "coherence_members"
member = "member"
"#;

const SHORT: Size = Size { clients: 40, seconds: 6, keys: 50 };

/// How long a proxy lives before it is killed, and how long it stays dead.
const LIFE: Duration = Duration::from_millis(2500);
const DEATH: Duration = Duration::from_millis(300);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_redis_is_found_coherent() {
    let redis = Redis::start().await;
    let scene = scene(vec![redis.address(); 2], Size { clients: 20, seconds: 1, keys: 10 });
    let record = scene.play(async |_| {}).await;
    assert_eq!(record.check(), [""; 0]);
    assert!(record.answered > 1000, "{}", record.summary());
    assert_eq!(record.unanswered, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_break_are_no_violation() {
    let redis = Redis::start().await;
    let scene = scene(vec![redis.address(); 2], Size { clients: 20, seconds: 2, keys: 10 });
    let cut = async |scene: &Scene| {
        while scene.elapsed() < Duration::from_millis(1800) {
            tokio::time::sleep(Duration::from_millis(20)).await;
            redis.say("CLIENT KILL TYPE normal").await;
        }
    };
    let record = scene.play(cut).await;
    assert_eq!(record.check(), [""; 0]);
    assert!(record.unanswered > 100, "hardly any request was cut: {}", record.summary());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_redis_that_do_not_know_each_other_are_found_out() {
    let redis = [Redis::start().await, Redis::start().await];
    let addresses = redis.iter().map(Server::address).collect();
    let scene = scene(addresses, Size { clients: 20, seconds: 1, keys: 10 });
    let violations = scene.play(async |_| {}).await.check();
    for part in ["stale read", "lost increment", "answered twice"] {
        assert!(violations.iter().any(|violation| violation.contains(part)), "{violations:?}");
    }
    let of_sets = |violation: &&String| violation.starts_with("set:");
    assert!(violations.iter().filter(of_sets).count() > 10, "{violations:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_proxies_are_as_coherent_as_one_redis() {
    let stack = Stack::with_mappings(MAPPING).await;
    let second = stack.start_second_proxy().await;
    let scene = scene(vec![stack.address(), second.address()], Size::from_environment(SHORT));
    let record = scene.play(async |_| {}).await;
    judge(&record);
    assert_eq!((record.unanswered, record.errors.len()), (0, 0), "{}", record.summary());
    assert_copies_equal_rows(&stack, scene.size.keys).await;
    drop(second);
    stack.stop_expecting(&[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_that_is_killed_again_and_again_breaks_no_promise() {
    let stack = Stack::with_mappings(MAPPING).await;
    let mut second = stack.start_second_proxy().await;
    let scene = scene(vec![stack.address(), second.address()], Size::from_environment(SHORT));
    let mut kills = 0;
    let record = scene.play(async |scene| kills = kill_repeatedly(scene, &mut second).await).await;
    judge(&record);
    assert!(kills > 0 && record.unanswered > 0, "nobody was hit: {}", record.summary());
    assert_copies_equal_rows(&stack, scene.size.keys).await;
    drop(second);
    stack.stop_expecting(&[]).await;
}

async fn behind() -> Stack {
    let mapping = MAPPING.replace("strategy = \"dual_write\"\n", "");
    Stack::builder(&mapping).set("RESPGRES__DEFAULTS__STRATEGY", "cache_first").start().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_proxies_that_write_behind_are_as_coherent_as_one_redis() {
    let stack = behind().await;
    let second = stack.start_second_proxy().await;
    let scene = scene(vec![stack.address(), second.address()], Size::from_environment(SHORT));
    let record = scene.play(async |_| {}).await;
    judge(&record);
    assert_eq!((record.unanswered, record.errors.len()), (0, 0), "{}", record.summary());
    stack.flushed().await;
    assert_copies_equal_rows(&stack, scene.size.keys).await;
    drop(second);
    stack.stop_expecting(&[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_that_writes_behind_and_is_killed_breaks_no_promise() {
    let stack = behind().await;
    let mut second = stack.start_second_proxy().await;
    let scene = scene(vec![stack.address(), second.address()], Size::from_environment(SHORT));
    let mut kills = 0;
    let record = scene.play(async |scene| kills = kill_repeatedly(scene, &mut second).await).await;
    judge(&record);
    assert!(kills > 0 && record.unanswered > 0, "nobody was hit: {}", record.summary());
    stack.flushed().await;
    assert_copies_equal_rows(&stack, scene.size.keys).await;
    drop(second);
    stack.stop_expecting(&[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copies_and_marks_that_are_lost_break_no_promise() {
    let stack = Stack::with_mappings(MAPPING).await;
    let second = stack.start_second_proxy().await;
    let scene = scene(vec![stack.address(), second.address()], Size::from_environment(SHORT));
    let lose = async |scene: &Scene| {
        let end = Duration::from_secs(scene.size.seconds);
        for turn in 0_u32.. {
            if scene.elapsed() >= end {
                break;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
            let name = scene.names.key(turn % scene.size.keys);
            // Everything, or one of what there is of a key.
            let command = match turn / scene.size.keys % 8 {
                0 if turn.is_multiple_of(scene.size.keys) => "FLUSHALL".to_owned(),
                1..4 => format!("DEL {name}"),
                4 => format!("DEL respgres:m:{name}"),
                5 => format!("DEL respgres:a:{name}"),
                _ => format!("DEL {name} respgres:m:{name} respgres:a:{name}"),
            };
            stack.redis.say(&command).await;
        }
    };
    let record = scene.play(lose).await;
    judge(&record);
    assert_eq!((record.unanswered, record.errors.len()), (0, 0), "{}", record.summary());
    assert_copies_equal_rows(&stack, scene.size.keys).await;
    drop(second);
    stack.stop_expecting(&[]).await;
}

/// Redis dies and comes back: empty, or with the snapshot of a second ago.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_comes_back_empty_or_old_breaks_no_promise() {
    let mut stack = Stack::with_mappings(MAPPING).await;
    // A second proxy may reach Redis while the first writes past it, and show the older value until the
    // outbox has been worked off.
    let scene = scene(vec![stack.address()], Size::from_environment(SHORT));
    let end = Duration::from_secs(scene.size.seconds);
    let redis = &mut stack.redis;
    let mut restarts = 0;
    let restart = async |scene: &Scene| {
        while scene.elapsed() + LIFE < end {
            tokio::time::sleep(LIFE / 4).await;
            if restarts % 2 == 0 {
                redis.say("SAVE").await;
            }
            tokio::time::sleep(LIFE / 8).await;
            redis.restart().await;
            restarts += 1;
        }
    };
    let record = scene.play(restart).await;
    judge(&record);
    assert!(restarts > 1, "{restarts} restarts");
    let mut client = stack.client().await;
    stack::wait_until("Redis is believed again and every value has been read", async || {
        for key in 0..scene.size.keys {
            let read = if form(key) == Form::Set { "SMEMBERS" } else { "HGETALL" };
            client.command(&[read, &scene.names.key(key)]).await;
        }
        let has_copy = async |wanted| {
            let names = (0..scene.size.keys)
                .filter(|key| form(*key) == wanted)
                .map(|key| scene.names.key(key));
            let exists = std::iter::once("EXISTS".to_owned()).chain(names).collect::<Vec<_>>();
            stack.redis.say(&exists.join(" ")).await != Value::Integer(0)
        };
        has_copy(Form::Hash).await && has_copy(Form::Entries).await && has_copy(Form::Set).await
    })
    .await;
    assert_copies_equal_rows(&stack, scene.size.keys).await;
    stack.stop_allowing(&["upstream lost"], &["upstream", "failed"]).await;
}

impl Size {
    /// From `RESPGRES_COHERENCE_CLIENTS`, `…_SECONDS` and `…_KEYS`; otherwise these defaults.
    fn from_environment(default: Self) -> Self {
        let number = |name: &str, default: u64| match std::env::var(name) {
            Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number")),
            Err(_) => default,
        };
        let small = |name: &str, default: u32| {
            u32::try_from(number(name, default.into()))
                .unwrap_or_else(|_| panic!("{name}: too big"))
        };
        Self {
            clients: small("RESPGRES_COHERENCE_CLIENTS", default.clients),
            seconds: number("RESPGRES_COHERENCE_SECONDS", default.seconds),
            keys: small("RESPGRES_COHERENCE_KEYS", default.keys),
        }
    }
}

fn scene(addresses: Vec<String>, size: Size) -> Arc<Scene> {
    Scene::new(addresses, size, Names::default(), Manners::default())
}

/// SIGKILL every few seconds until shortly before the end; gives the number of kills.
async fn kill_repeatedly(scene: &Scene, proxy: &mut Proxy) -> u32 {
    let end = Duration::from_secs(scene.size.seconds);
    let mut kills = 0;
    while scene.elapsed() + LIFE < end {
        tokio::time::sleep(LIFE).await;
        proxy.kill();
        kills += 1;
        tokio::time::sleep(DEATH).await;
        proxy.restart().await;
    }
    kills
}

fn judge(record: &Record) {
    let summary = record.summary();
    let violations = record.check();
    let first: Vec<&String> = violations.iter().take(10).collect();
    assert!(violations.is_empty(), "{} violations, {first:#?}; {summary}", violations.len());
    assert!(record.answered > 1000, "hardly anything was done: {summary}");
    // Shown by `cargo test -- --nocapture`.
    #[allow(clippy::print_stderr, reason = "a test tells what it did")]
    {
        eprintln!("coherent: {summary}");
    }
}

/// When things are quiet, a cached copy that is there says what the rows say.
async fn assert_copies_equal_rows(stack: &Stack, keys: u32) {
    let database = stack.database();
    let url = database.cluster.url(&database.name);
    let mut connection = PgConnection::connect(&url).await.expect("Postgres is there");
    let mut redis = Client::connect(&stack.redis).await;
    for (wanted, sql) in [
        (
            Form::Hash,
            "select id, c.field, c.value from coherence_rows, lateral (values ('first', first), \
             ('second', second), ('counter', counter::text)) as c(field, value) \
             where c.value is not null",
        ),
        (Form::Entries, "select id, field, value from coherence_entries"),
        (Form::Set, "select id, member, '' from coherence_members"),
    ] {
        let mut expected: BTreeMap<i64, BTreeMap<String, String>> = BTreeMap::new();
        for row in sqlx::query(sql).fetch_all(&mut connection).await.expect("the table is there") {
            expected.entry(row.get(0)).or_default().insert(row.get(1), row.get(2));
        }
        let mut compared = 0;
        for key in (0..keys).filter(|key| form(*key) == wanted) {
            let name = Names::default().key(key);
            let read = if wanted == Form::Set { "SMEMBERS" } else { "HGETALL" };
            let Value::Array(copy) = redis.command(&[read, &name]).await else {
                panic!("{name} is of another kind");
            };
            let text =
                |value: &Value| String::from_utf8_lossy(value.bytes().unwrap_or(b"?")).into_owned();
            let copy: BTreeMap<String, String> = if wanted == Form::Set {
                copy.iter().map(|member| (text(member), String::new())).collect()
            } else {
                copy.chunks_exact(2).map(|pair| (text(&pair[0]), text(&pair[1]))).collect()
            };
            if copy.is_empty() {
                continue;
            }
            let rows = expected.get(&i64::from(key));
            assert_eq!(Some(&copy), rows, "the cached copy of {name} differs from its rows");
            compared += 1;
        }
        // The last reads went through the proxies, so what exists is cached now.
        assert!(compared > 0, "no {wanted:?} had a cached copy");
    }
}
