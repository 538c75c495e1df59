//! Twenty families of 5,000 keys each, found with their kinds and types, in bounded memory, and bound to the
//! tables that are proposed for them.

use std::process::Command;

use serde_json::Value as Json;

use crate::stack::{Client, Redis, Stack, Value, wait_until};
use crate::{infer_command, left, mappings, proposal, text};

const EACH: u64 = 5000;

type Words = Vec<String>;

/// The commands that make key number `n` of each family.
fn keys(n: u64) -> Vec<Words> {
    let words = |text: String| text.split(' ').map(str::to_owned).collect::<Words>();
    let uuid =
        format!("{:08x}-5b7a-4c2d-9e8f-{:012x}", n.wrapping_mul(2_654_435_761) & 0xffff_ffff, n);
    let hex = format!(
        "{:032x}",
        u128::from(n + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835)
    );
    let day = format!("20{:02}-{:02}-{:02}", n % 30, 1 + n % 12, 1 + n % 28);
    let month = format!("{:04}-{:02}", 1600 + n / 12, 1 + n % 12);
    let moment = format!("2026-11-20T22:20:35.{:03}Z", n % 1000);
    // Words without digits.
    let word: String = n.to_string().bytes().map(|digit| char::from(digit + 49)).collect();
    [
        format!(
            "HSET user:{n} name user{n} age {} balance {}.50 active true created {moment}",
            n % 90,
            n
        ),
        format!("HSET order:{uuid} user_id {n} total {}.{:02} paid false", n, n % 100),
        format!("HSET session:{hex} user {uuid} seen {}", 1_795_212_529_000_u64 + n),
        format!("HINCRBY stats:{day}:{n} hits {n}"),
        format!("HINCRBY report:{month} views {n}"),
        format!("HSET product/{n}/price amount {n} currency EUR"),
        format!("HSET device_{n} serial SN-{n} temp 2{}.5", n % 10),
        format!("HSET mail.inbox.{n} subject s{n} unread {}", n % 5),
        format!("HSET {{tenant:{}}}:settings theme dark limit {n}", n),
        format!("HSET article:{word}:meta title t{n} words {n}"),
        format!("SADD followers:{n} {} {}", n + 1, n + 2),
        format!("SADD tags:{word} a b"),
        format!("SADD visits:{day}:{n} {uuid}"),
        format!("HSET votes:{n} {} up {} down {} up", n + 7, n + 8, n + 9),
        format!("SET cache:page:{n} html"),
        format!("LPUSH queue:{n} job"),
        format!("ZADD rank:{n} 1 a"),
        format!("XADD log:{n} 1-1 a b"),
        format!("SET lock:{uuid} 1"),
        format!("HSET cart:{uuid}:items sku-{n} 1"),
    ]
    .map(words)
    .into()
}

async fn loaded() -> Redis {
    let redis = Redis::start().await;
    let mut client = Client::connect(&redis).await;
    for first in (0..EACH).step_by(250) {
        let batch: Vec<Words> = (first..first + 250).flat_map(keys).collect();
        let replies = client.pipeline(&batch).await;
        assert!(!replies.iter().any(Value::is_error), "{replies:?}");
    }
    redis
}

#[tokio::test]
async fn twenty_families_are_found_among_a_hundred_thousand_keys() {
    let redis = loaded().await;
    let found = proposal(&["--redis", &redis.url()]);
    #[rustfmt::skip]
    assert_eq!(mappings(&found), [
        "article:{article:slug}:meta hash title=text words=bigint",
        "cart:{cart_id:uuid}:items hash_entries",
        "device_{device_id:int} hash serial=text temp=numeric",
        "followers:{follower_id:int} set",
        "mail.inbox.{inbox_id:int} hash subject=text unread=bigint",
        "order:{order_id:uuid} hash paid=boolean total=numeric user_id=bigint",
        "product/{product_id:int}/price hash amount=numeric currency=text",
        "report:{month:month} hash views=bigint",
        "session:{session_id:slug} hash seen=timestamptz user=uuid",
        "stats:{day:date}:{stat_id:int} hash hits=bigint",
        "tags:{tag:slug} set",
        "user:{user_id:int} hash active=boolean age=bigint balance=numeric created=timestamptz name=text",
        "visits:{day:date}:{visit_id:int} set",
        "votes:{vote_id:int} hash_entries",
        "{{tenant:{tenant_id:int}}}:settings hash limit=bigint theme=text",
    ]);
    #[rustfmt::skip]
    assert_eq!(left(&found), [
        "cache:page:{page_id:int} string: string keys are not mapped",
        "lock:{lock_id:uuid} string: string keys are not mapped",
        "log:{log_id:int} stream: stream keys are not mapped",
        "queue:{queue_id:int} list: list keys are not mapped",
        "rank:{rank_id:int} zset: zset keys are not mapped",
    ]);
    for family in found["mappings"].as_array().unwrap() {
        let keys = family["keys"].as_u64().unwrap();
        // Days and months come again; SCAN may tell a key twice.
        assert!(
            keys <= EACH + EACH / 10 && family["looked_into"].as_u64() <= Some(100),
            "{family}"
        );
    }
    assert_eq!(found["notes"], Json::Array(Vec::new()));

    // The tables that it proposes bind, and take what the keys hold.
    let config = found["config"].as_str().unwrap();
    let stack = Stack::builder(config).sql(found["schema"].as_str().unwrap()).start().await;
    let mut client = Client::connect(&stack).await;
    for n in 0..5 {
        for words in keys(n) {
            let reply = client.command(&words).await;
            assert!(!reply.is_error(), "{words:?}: {reply:?}");
        }
    }
    assert_eq!(stack.sql_i64("select count(*) from users").await, 5);
    assert_eq!(stack.sql_i64("select sum(n) from (select 1 as n from followers) as f").await, 10);
    assert_eq!(stack.sql_i64("select count(*) from device where extra is null").await, 5);
    stack.stop_expecting(&[]).await;
}

#[tokio::test]
async fn memory_is_bounded_and_a_limit_is_kept_and_told() {
    let redis = loaded().await;
    // Address space, in KiB: what a process of this size needs for itself is most of it.
    let limited = |arguments: &str| {
        let program = env!("CARGO_BIN_EXE_respgres");
        let line =
            format!("ulimit -v 300000; exec {program} infer --redis {} {arguments}", redis.url());
        Command::new("sh").args(["-c", &line]).output().unwrap()
    };
    let output = limited("--rate 10000000 --samples 10000");
    assert!(output.status.success(), "{}", text(&output.stderr));
    let output = limited("--rate 10000000 --limit 3000 --json");
    assert!(output.status.success(), "{}", text(&output.stderr));
    let found: Json = serde_json::from_slice(&output.stdout).unwrap();
    let seen = found["keys"].as_u64().unwrap();
    assert!((3000..4000).contains(&seen), "{seen}");
    let note = found["notes"][0].as_str().unwrap();
    assert!(note.starts_with(&format!("only {seen} of about ")), "{note}");
}

#[tokio::test]
async fn the_rate_is_kept_and_an_interrupt_gives_what_is_known() {
    let redis = loaded().await;
    let before = calls(&redis, "type").await;
    let started = std::time::Instant::now();
    let mut command = infer_command(&["--redis", &redis.url(), "--rate", "2000"]);
    command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    let child = command.spawn().unwrap();
    // 2,000 keys and as many TYPEs; the rate would have let 100,000 through in a minute.
    wait_until("a few pages are read", async || calls(&redis, "type").await > before + 2000).await;
    let keys = calls(&redis, "type").await - before;
    let most = 2000.0 * (started.elapsed().as_secs_f64() + 1.0);
    assert!((keys as f64) < most, "{keys} in {:?}", started.elapsed());
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    let config = text(&output.stdout);
    assert!(config.contains("# Mind: only "), "{config}");
    // What was seen was looked into, if shortly.
    assert!(config.contains("age     = { column = \"age\", type = \"bigint\" }"), "{config}");
}

#[tokio::test]
async fn a_second_interrupt_ends_the_look_into_values_too() {
    let redis = loaded().await;
    let started = std::time::Instant::now();
    let mut command = infer_command(&["--redis", &redis.url(), "--rate", "100"]);
    command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    let child = command.spawn().unwrap();
    let pid = rustix::process::Pid::from_child(&child);
    let interrupt = || rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    wait_until("names are read", async || calls(&redis, "type").await > 400).await;
    interrupt();
    wait_until("values are read", async || calls(&redis, "pttl").await > 0).await;
    interrupt();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("its keys were not looked into"));
    let looked = calls(&redis, "pttl").await;
    assert!(looked < 400, "{looked} keys were looked into, {:?}", started.elapsed());
}

/// How often a Redis has run a command.
async fn calls(redis: &Redis, command: &str) -> i64 {
    let stats = redis.say("INFO commandstats").await;
    let stats = text(stats.bytes().unwrap());
    let line =
        stats.lines().find_map(|line| line.strip_prefix(&format!("cmdstat_{command}:calls=")));
    line.and_then(|line| line.split(',').next()?.parse().ok()).unwrap_or(0)
}
