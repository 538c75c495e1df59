//! The guarantee of SCAN: what is there from its start to its end is told, however much others write
//! meanwhile. The time comes from `RESPGRES_SCAN_SECONDS`; `make check-scan` asks for a minute.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;

use crate::scan_step;
use crate::stack::process::DEADLINE;
use crate::stack::{Client, Random, Server, Stack, Value};

const MAPPING: &str = r#"
[[mapping]]
name = "numbers"
key = "number:{id:int}"
table = "numbers"
extra = "extra"
[mapping.columns]
count = { column = "count", type = "bigint" }

[[mapping]]
name = "names"
key = "name:{first:slug}:{second:text}"
table = "names"
expires_at = "ends"
extra = "extra"

[[mapping]]
name = "tags"
key = "tag:{first:slug}:{id:int}"
kind = "set"
table = "tags"
member = "member"

[[mapping]]
name = "entries"
key = "entry:{id:int}"
kind = "hash_entries"
table = "entries"
field = "field"
value = { column = "value", type = "bigint" }
"#;

const WRITERS: usize = 8;

/// Keys that stay all the time.
const STAYING: usize = 600;

/// Keys that come and go.
const COMING: usize = 1500;

/// Seconds of each run, or more where it takes longer until writers have done so much.
const SHORT: u64 = 2;
const ENOUGH: usize = 500;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_stays_in_postgres_alone_is_told() {
    judge("postgres_only", false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_stays_in_redis_alone_is_told() {
    judge("redis_only", false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_stays_here_and_there_is_told() {
    judge("dual_write", true).await;
}

/// The name of a key; `unmapped`: some lie in Redis alone.
fn key(number: usize, stays: bool, unmapped: bool) -> String {
    let number = if stays { number } else { number + 1_000_000 };
    match number % 5 {
        0 => format!("number:{number}"),
        1 => format!("name:n{}:{number}", number % 10),
        2 => format!("tag:t{}:{number}", number % 7),
        3 => format!("entry:{number}"),
        _ if unmapped => format!("plain:{number}"),
        _ => format!("number:{number}"),
    }
}

fn is_set(name: &str) -> bool {
    name.starts_with("tag:")
}

async fn judge(strategy: &str, unmapped: bool) {
    let stack = Stack::builder(MAPPING).set("RESPGRES__DEFAULTS__STRATEGY", strategy).start().await;
    let second = stack.start_second_proxy().await;
    let addresses = [stack.address(), second.address()];
    let seconds = std::env::var("RESPGRES_SCAN_SECONDS");
    let seconds = seconds.map_or(SHORT, |text| text.parse().expect("a number of seconds"));

    let mut client = stack.client().await;
    let staying: BTreeSet<String> = (0..STAYING).map(|at| key(at, true, unmapped)).collect();
    for name in &staying {
        let line = if is_set(name) {
            format!("SADD {name} stays")
        } else {
            format!("HSET {name} count 1")
        };
        assert!(!client.say(&line).await.is_error());
    }
    let ended = Arc::new(AtomicBool::new(false));
    let written = Arc::new(AtomicUsize::new(0));
    let mut tasks = Vec::new();
    for writer in 0..WRITERS {
        let address = addresses[writer % 2].clone();
        let (ended, written) = (Arc::clone(&ended), Arc::clone(&written));
        tasks.push(tokio::spawn(async move {
            let mut client = Client::connect_to(&address).await;
            let mut random = Random::new(writer as u64);
            while !ended.load(Ordering::Relaxed) {
                let lines: Vec<Vec<String>> =
                    (0..8).map(|_| write(&mut random, unmapped)).collect();
                for reply in client.pipeline(&lines).await {
                    assert!(!reply.is_error(), "{reply:?}");
                }
                written.fetch_add(lines.len(), Ordering::Relaxed);
            }
        }));
    }

    let mut clients = [client, Client::connect(&second).await];
    let (mut scans, mut random) = (0, Random::new(99));
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(seconds)
        || scans < 3
        || written.load(Ordering::Relaxed) < ENOUGH
            && start.elapsed() < DEADLINE
            && !tasks.iter().any(JoinHandle::is_finished)
    {
        let (mut cursor, mut told, mut calls) = ("0".to_owned(), BTreeSet::new(), 0);
        let kind = random.pick(&["", " TYPE hash", " TYPE set"]);
        loop {
            let count = random.pick(&["COUNT 10", "COUNT 37", "COUNT 100", "COUNT 1000"]);
            let options = &format!("{count}{kind}");
            // Any proxy goes on from any cursor.
            let (next, keys) = scan_step(&mut clients[random.below(2)], &cursor, options).await;
            told.extend(keys);
            calls += 1;
            if next == "0" {
                break;
            }
            cursor = next;
        }
        let is_asked_for = |name: &&String| match kind {
            "" => true,
            kind => kind.ends_with("set") == is_set(name),
        };
        let missing: Vec<&String> = staying.difference(&told).filter(is_asked_for).collect();
        assert!(told.iter().all(|name| is_asked_for(&name)), "{kind}: {told:?}");
        assert!(missing.is_empty(), "{missing:?} not told in {calls} calls, scan {scans}");
        assert!(told.iter().all(|name| !name.starts_with("respgres:")), "{told:?}");
        scans += 1;
    }
    let writes = written.load(Ordering::Relaxed);
    ended.store(true, Ordering::Relaxed);
    for task in tasks {
        task.await.expect("a writer does not panic");
    }
    assert!(writes >= ENOUGH, "hardly anything was written: {writes}");
    // Shown by `cargo test -- --nocapture`.
    #[allow(clippy::print_stderr, reason = "a test tells what it did")]
    {
        eprintln!("{strategy}: {scans} scans were complete during {writes} writes in {seconds} s");
    }
    // When things are quiet, all that looks at many keys agrees.
    let [client, other] = &mut clients;
    let listed = crate::keys_of(&client.say("KEYS *").await);
    assert_eq!(other.say("DBSIZE").await, Value::Integer(listed.len() as i64));
    let told: BTreeSet<String> = crate::scan(other, "COUNT 50").await.0.into_iter().collect();
    assert_eq!(told, listed);
    drop(second);
    stack.stop_expecting(&[]).await;
}

/// A write to a key that stays, or one that makes a key or takes it away.
fn write(random: &mut Random, unmapped: bool) -> Vec<String> {
    let stays = random.below(3) == 0;
    let number = random.below(if stays { STAYING } else { COMING });
    let name = key(number, stays, unmapped);
    let line = if is_set(&name) {
        // The member that a staying key began with is not taken away.
        match random.below(6) {
            0 | 1 => format!("SADD {name} {} {}", random.below(50), random.below(50)),
            2 => format!("SREM {name} {}", random.below(50)),
            3 => format!("SMEMBERS {name}"),
            4 if !stays => format!("DEL {name}"),
            _ => format!("SADD {name} {number}"),
        }
    } else {
        hash_line(random, &name, number, stays)
    };
    line.split(' ').map(str::to_owned).collect()
}

fn hash_line(random: &mut Random, name: &str, number: usize, stays: bool) -> String {
    match random.below(7) {
        0 | 1 => format!("HINCRBY {name} count 1"),
        2 => format!("HSET {name} note {number}"),
        3 => format!("HGETALL {name}"),
        4 => format!("HDEL {name} note"),
        _ if stays => format!("HSET {name} count {number}"),
        5 => format!("DEL {name}"),
        _ => format!("HSET {name} count {number}"),
    }
}
