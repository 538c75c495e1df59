//! How much memory a large value takes on its way.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::reader::{ask, assert_counts_up};
use crate::stack::{Stack, Value};
use crate::{COUNTS, MAPPINGS};

/// What all of respgres may take beyond what it takes when idle.
const MOST_KB: u64 = 32 << 10;

const TEXTS: &str = r#"
[[mapping]]
name = "texts"
key = "texts:{id:int}"
kind = "hash_entries"
table = "texts"
field = "field"
value = "value"
"#;

const NOTES: &str = r#"
[[mapping]]
name = "notes"
key = "notes:{id:int}"
table = "notes"
extra = "extra"
"#;

/// The most memory that a process takes from now on.
struct Peak {
    directory: PathBuf,
    before_kb: u64,
}

impl Peak {
    fn of(stack: &Stack) -> Self {
        let directory = Self::directory(stack.proxy.process().id());
        // The peak is what it is now.
        std::fs::write(directory.join("clear_refs"), "5").unwrap();
        let mut peak = Self { directory, before_kb: 0 };
        peak.before_kb = peak.kb("VmRSS:");
        peak
    }

    fn grown_kb(&self) -> u64 {
        self.kb("VmHWM:").saturating_sub(self.before_kb)
    }

    fn directory(process: u32) -> PathBuf {
        PathBuf::from(format!("/proc/{process}"))
    }

    fn kb(&self, name: &str) -> u64 {
        kb(&self.directory, name).unwrap()
    }
}

fn kb(directory: &Path, name: &str) -> Option<u64> {
    let status = std::fs::read_to_string(directory.join("status")).ok()?;
    let line = status.lines().find(|line| line.starts_with(name))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

/// The most memory that a rollback takes, in kilobytes; it has to put and compare so many keys.
async fn peak_of_rollback_kb(stack: &Stack, keys: usize) -> u64 {
    let mut rollback = stack.begin(&["rollback", "--force"]);
    let mut peak_kb = 0;
    while !rollback.has_ended() {
        // Those of one that has ended stand there no more.
        peak_kb = kb(&Peak::directory(rollback.id()), "VmHWM:").unwrap_or(0).max(peak_kb);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let (status, log) = rollback.finish().await;
    assert!(status.success(), "{log:?}");
    for what in ["put into Redis", "compared with their rows"] {
        let line = format!(": {keys} keys {what}");
        assert!(log.iter().any(|told| told.contains(&line)), "{line}: {log:?}");
    }
    assert!(peak_kb > 0, "it was never read");
    peak_kb
}

#[tokio::test]
async fn many_elements_take_no_more_memory_than_few() {
    let stack = Stack::with_mappings(MAPPINGS).await;
    stack.add_ids(1_000_000).await;
    stack.add_counts(100_000).await;
    let mut client = stack.client().await;
    assert_eq!(client.say("SISMEMBER ids:1 7").await, Value::Integer(1));
    let peak = Peak::of(&stack);
    assert_counts_up(&ask(&stack, &["SMEMBERS ids:1"]).await[0], 1_000_000);
    let entries = ask(&stack, &[&format!("HGETALL {COUNTS}")]).await.remove(0);
    let Value::Map(entries) = entries.into_map() else { panic!("no map") };
    assert_eq!(entries.len(), 100_000);
    for (field, value) in entries {
        assert_eq!(field.bytes().unwrap()[1..], *value.bytes().unwrap());
    }
    let steps = ask(&stack, &["SSCAN ids:1 0"]).await;
    assert_eq!(steps[0].elements()[1].elements().len(), 1_000_000);
    let grown_kb = peak.grown_kb();
    assert!(grown_kb < MOST_KB, "{grown_kb} KB");
    stack.stop_expecting(&[]).await;
}

#[tokio::test]
async fn long_elements_take_no_more_memory_than_short_ones() {
    let stack = Stack::with_mappings(TEXTS).await;
    // Fewer than would be too many, and compressible to almost nothing.
    stack
        .sql_execute(
            "insert into texts select 1, n, repeat('x', 1 << 20) from generate_series(1, 150) as n",
        )
        .await;
    let mut client = stack.client().await;
    assert_eq!(client.say("HLEN texts:1").await, Value::Integer(150));
    let peak = Peak::of(&stack);
    let replies = ask(&stack, &["HEXISTS texts:1 7", "HVALS texts:1", "HGETALL texts:1"]).await;
    assert_eq!(replies[0], Value::Integer(1));
    assert_eq!(replies[1].elements().len(), 150);
    assert!(replies[1].elements().iter().all(|value| value.bytes().unwrap().len() == 1 << 20));
    assert_eq!(replies[2].elements().len(), 300);
    let grown_kb = peak.grown_kb();
    assert!(grown_kb < MOST_KB, "{grown_kb} KB");
    assert_eq!(stack.redis.say("EXISTS texts:1").await, Value::Integer(0));
    stack.stop_expecting(&[]).await;
}

#[tokio::test]
async fn a_rollback_holds_no_more_large_sets_at_once_than_there_is_room_for() {
    let stack = Stack::with_mappings(MAPPINGS).await;
    let sql = "insert into ids select id, n from generate_series(1, 100) as id, \
               generate_series(1, 5000) as n";
    stack.sql_execute(sql).await;
    let peak_kb = peak_of_rollback_kb(&stack, 100).await;
    // Half of what all of them take.
    assert!(peak_kb < 64 << 10, "{peak_kb} KB");
    for id in [1, 100] {
        let count = stack.redis.say(&format!("SCARD ids:{id}")).await;
        assert_eq!(count, Value::Integer(5000));
    }
    stack.stop_expecting(&[]).await;
}

#[tokio::test]
async fn a_rollback_holds_no_more_long_rows_at_once_than_there_is_room_for() {
    let stack = Stack::with_mappings(NOTES).await;
    let sql = "insert into notes (id, extra) select id, \
               jsonb_build_object('text', repeat('x', 1 << 20)) from generate_series(1, 150) as id";
    stack.sql_execute(sql).await;
    let peak_kb = peak_of_rollback_kb(&stack, 150).await;
    // All rows, once: each of those that are there at once is there in several forms.
    assert!(peak_kb < 150 << 10, "{peak_kb} KB");
    for id in [1, 150] {
        let length = stack.redis.say(&format!("HSTRLEN notes:{id} text")).await;
        assert_eq!(length, Value::Integer(1 << 20));
    }
    stack.stop_expecting(&[]).await;
}
