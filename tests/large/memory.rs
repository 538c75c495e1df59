//! How much memory a large value takes on its way.

use std::path::PathBuf;

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

/// The most memory that a process takes from now on.
struct Peak {
    directory: PathBuf,
    before_kb: u64,
}

impl Peak {
    fn of(stack: &Stack) -> Self {
        let directory = PathBuf::from(format!("/proc/{}", stack.proxy.process().id()));
        // The peak is what it is now.
        std::fs::write(directory.join("clear_refs"), "5").unwrap();
        let mut peak = Self { directory, before_kb: 0 };
        peak.before_kb = peak.kb("VmRSS:");
        peak
    }

    fn grown_kb(&self) -> u64 {
        self.kb("VmHWM:").saturating_sub(self.before_kb)
    }

    fn kb(&self, name: &str) -> u64 {
        let status = std::fs::read_to_string(self.directory.join("status")).unwrap();
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }
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
