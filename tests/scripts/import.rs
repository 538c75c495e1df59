//! The rules of importing, by hand.

use respgres::upstream::scripts::{JOURNAL, Script, aside_of, mark_of};

use crate::blocking::Blocking;
use crate::stack::Value;

const EVEN: &str = "4102444800000";
const ODD: &str = "4102444800001";

struct Rig {
    redis: Blocking,
}

impl Rig {
    fn new(before: &[&str]) -> Self {
        let mut rig = Self { redis: Blocking::start() };
        for line in before {
            rig.say(line);
        }
        rig
    }

    fn say(&mut self, line: &str) -> Value {
        self.redis.call(&line.split(' ').collect::<Vec<_>>())
    }

    fn run(&mut self, script: Script, keys: &[Vec<u8>], arguments: &[&str]) -> Value {
        let count = keys.len().to_string();
        let mut words: Vec<Vec<u8>> =
            vec!["EVAL".into(), script.text().as_bytes().into(), count.into()];
        words.extend_from_slice(keys);
        words.extend(arguments.iter().map(|argument| argument.as_bytes().to_vec()));
        self.redis.call(&words)
    }

    /// What `original` says of the key `k`.
    fn original(&mut self, arguments: [&str; 3]) -> Vec<Value> {
        self.originals(&["k"], arguments).remove(0)
    }

    /// What it says of these.
    fn originals(&mut self, keys: &[&str], arguments: [&str; 3]) -> Vec<Vec<Value>> {
        let of_key = |key: &&str| {
            let key = key.as_bytes();
            [key.to_vec(), mark_of(key).to_vec(), aside_of(key).to_vec()]
        };
        let keys: Vec<Vec<u8>> = keys.iter().flat_map(of_key).collect();
        let told = self.run(Script::Original, &keys, &arguments);
        told.elements().iter().map(|answer| answer.elements().to_vec()).collect()
    }

    fn adopt(&mut self, keys: &[&str], ttl_ms: &str) {
        let of_key = |key: &&str| [key.as_bytes().to_vec(), mark_of(key.as_bytes()).to_vec()];
        let keys: Vec<Vec<u8>> = keys.iter().flat_map(of_key).collect();
        self.run(Script::Adopt, &keys, &[ttl_ms]);
    }

    fn sweep(&mut self, spare: &str) -> Value {
        let keys =
            [JOURNAL.to_vec(), b"k".to_vec(), mark_of(b"k").to_vec(), aside_of(b"k").to_vec()];
        self.run(Script::Sweep, &keys, &["7", "9", spare])
    }
}

fn bulk(text: &str) -> Value {
    Value::Bulk(text.into())
}

#[test]
fn an_original_is_told_unless_somebody_is_at_it() {
    let usual = ["hash", "10", "1000000"];
    let cases: [(&[&str], &str); 8] = [
        (&[], "NONE"),
        (&["HSET k a 1"], "VALUE"),
        (&["HSET k a 1", "SET respgres:m:k gone"], "VALUE"),
        (&["HSET k a 1", "SET respgres:m:k d:7-1"], "DIRTY"),
        (&["HSET k a 1", "SET respgres:m:k gone:7-1"], "DIRTY"),
        (&["HSET k a 1", "SET respgres:m:k w:1"], "HELD"),
        (&["HSET k a 1", "HSET respgres:a:k a 1"], "HELD"),
        (&["SADD k a"], "TYPE"),
    ];
    for (before, expected) in cases {
        assert_eq!(Rig::new(before).original(usual)[0], bulk(expected), "{before:?}");
    }
    let mut rig = Rig::new(&["HSET k a 1 b 2"]);
    let pair = Value::Array(vec![bulk("a"), bulk("1"), bulk("b"), bulk("2")]);
    let told = [bulk("VALUE"), Value::Integer(-1), Value::Integer(2), pair];
    assert_eq!(rig.original(usual), told);
    let told = [bulk("MANY"), Value::Integer(-1), Value::Integer(2)];
    assert_eq!(rig.original(["hash", "1", "1000000"]), told);
    assert_eq!(rig.original(["hash", "1", "10"]), [bulk("LARGE")]);
    let mut rig = Rig::new(&["SADD k a"]);
    let told =
        [bulk("VALUE"), Value::Integer(-1), Value::Integer(1), Value::Array(vec![bulk("a")])];
    assert_eq!(rig.original(["set", "10", "1000000"]), told);
}

#[test]
fn each_of_many_keys_is_told_and_adopted_as_one_alone() {
    let mut rig = Rig::new(&[
        "HSET a f 1",
        "HSET b f 1 g 2",
        "SET respgres:m:b w:1",
        "HSET d f 1",
        &format!("PEXPIREAT d {EVEN}"),
        "SADD e x",
    ]);
    let told = rig.originals(&["a", "b", "c", "d", "e"], ["hash", "10", "1000000"]);
    let words: Vec<&Value> = told.iter().map(|answer| &answer[0]).collect();
    let expected = ["VALUE", "HELD", "NONE", "VALUE", "TYPE"].map(bulk);
    assert_eq!(words, expected.iter().collect::<Vec<_>>());
    assert_eq!(rig.say("PEXPIRETIME d"), Value::Integer(4_102_444_799_999));
    rig.adopt(&["a", "b", "c", "d"], "100000");
    let Value::Integer(ends_at) = rig.say("PEXPIRETIME a") else { panic!("no end") };
    assert!(ends_at > 0 && ends_at % 2 == 0, "{ends_at}");
    // Somebody is at this one, and that one has an end of its own.
    assert_eq!(rig.say("PTTL b"), Value::Integer(-1));
    assert_eq!(rig.say("PEXPIRETIME d"), Value::Integer(4_102_444_799_999));
}

#[test]
fn an_end_of_its_own_becomes_odd_and_stays() {
    for (end, expected) in [(EVEN, 4_102_444_799_999), (ODD, 4_102_444_800_001)] {
        let mut rig = Rig::new(&["HSET k a 1", &format!("PEXPIREAT k {end}")]);
        rig.original(["hash", "10", "1000000"]);
        assert_eq!(rig.say("PEXPIRETIME k"), Value::Integer(expected));
        rig.adopt(&["k"], "1000");
        assert_eq!(rig.say("PEXPIRETIME k"), Value::Integer(expected));
    }
}

#[test]
fn what_was_imported_ends_as_copies_do() {
    let mut rig = Rig::new(&["HSET k a 1"]);
    rig.adopt(&["k"], "100000");
    let Value::Integer(ends_at) = rig.say("PEXPIRETIME k") else { panic!("no end") };
    assert!(ends_at > 0 && ends_at % 2 == 0, "{ends_at}");
    // It has been written behind since.
    let mut rig = Rig::new(&["HSET k a 1", "SET respgres:m:k d:7-1"]);
    rig.adopt(&["k"], "100000");
    assert_eq!(rig.say("PTTL k"), Value::Integer(-1));
}

#[test]
fn a_sweep_leaves_what_may_be_in_redis_alone() {
    for (spare, end, mark, stays) in [
        ("own", EVEN, "", true),
        ("own", ODD, "r:1", true),
        ("own", "", "", true),
        ("", "", "", true),
        ("", EVEN, "", false),
        // It was written behind, and Postgres has it, or it was given up.
        ("own", "", "d:7-3", false),
        ("own", EVEN, "d:7-3", false),
    ] {
        let mut rig = Rig::new(&["HSET k a 1", "HSET respgres:a:k a 0"]);
        if !end.is_empty() {
            rig.say(&format!("PEXPIREAT k {end}"));
        }
        if !mark.is_empty() {
            rig.say(&format!("SET respgres:m:k {mark}"));
        }
        let told = rig.sweep(spare);
        let what = format!("{spare:?} {end:?} {mark:?}");
        assert_eq!(told.elements().len(), usize::from(stays), "{what}");
        assert_eq!(rig.say("EXISTS k"), Value::Integer(i64::from(stays)), "{what}");
        assert_eq!(rig.say("EXISTS respgres:m:k respgres:a:k"), Value::Integer(0), "{what}");
    }
}
