//! The rules of writing behind, by hand.

use respgres::upstream::journal::{KeyChange, Step};
use respgres::upstream::scripts::{JOURNAL, JOURNAL_STATE, Script, aside_of, mark_of};

use crate::blocking::Blocking;
use crate::stack::Value;

/// Even: no end of the key's own.
pub(crate) const LATER: &str = "4102444800000";

pub(crate) struct Rig {
    pub(crate) redis: Blocking,
}

impl Rig {
    /// With the journal open, and these keys known to be absent.
    pub(crate) fn new(absent: &[&str]) -> Self {
        let mut rig = Self { redis: Blocking::start() };
        let state = String::from_utf8_lossy(JOURNAL_STATE).into_owned();
        rig.say(&format!("HSET {state} epoch 7"));
        for key in absent {
            rig.redis.call(&[b"SET".to_vec(), mark_of(key.as_bytes()).to_vec(), b"gone".to_vec()]);
        }
        rig
    }

    pub(crate) fn say(&mut self, line: &str) -> Value {
        self.redis.call(&line.split(' ').collect::<Vec<_>>())
    }

    pub(crate) fn run(&mut self, script: Script, keys: Vec<Vec<u8>>, arguments: &[&str]) -> Value {
        let count = keys.len().to_string();
        let mut words: Vec<Vec<u8>> =
            vec!["EVAL".into(), script.text().as_bytes().into(), count.into()];
        words.extend(keys);
        words.extend(arguments.iter().map(|argument| argument.as_bytes().to_vec()));
        self.redis.call(&words)
    }

    /// `keys`: name and kind.
    fn behind(&mut self, most: &str, keys: &[(&str, &str)], operations: &[&str]) -> Vec<Value> {
        let mut names = vec![JOURNAL_STATE.to_vec(), JOURNAL.to_vec()];
        let mut arguments = vec![most, ""];
        for (key, kind) in keys {
            names.extend([key.as_bytes().to_vec(), mark_of(key.as_bytes()).to_vec()]);
            arguments.push(kind);
        }
        arguments.extend_from_slice(operations);
        self.run(Script::Behind, names, &arguments).elements().to_vec()
    }

    pub(crate) fn clean(&mut self, until: &str, key: &str, ttls: [&str; 2]) {
        let bytes = key.as_bytes();
        let keys = vec![
            JOURNAL_STATE.to_vec(),
            JOURNAL.to_vec(),
            bytes.to_vec(),
            mark_of(bytes).to_vec(),
            aside_of(bytes).to_vec(),
        ];
        // A part of the entries may have gone.
        self.run(Script::Clean, keys, &[until, "", "", "", until, ttls[0], ttls[1]]);
    }

    pub(crate) fn mark(&mut self, key: &str) -> String {
        match self.redis.call(&[b"GET".to_vec(), mark_of(key.as_bytes()).to_vec()]) {
            Value::Bulk(mark) => String::from_utf8_lossy(&mark).into_owned(),
            _ => String::new(),
        }
    }

    /// What the journal says of keys, entry by entry: `2-1 key cleared a=1 b-`.
    pub(crate) fn journal(&mut self) -> Vec<String> {
        let reply = self.redis.call(&[b"XRANGE", JOURNAL, b"-", b"+"]);
        let text = |value: &Value| String::from_utf8_lossy(value.bytes().unwrap()).into_owned();
        let entry = |entry: &Value| {
            let [id, fields] = entry.elements() else { panic!("{entry:?}") };
            let keys = fields.elements()[5].bytes().unwrap().to_vec();
            let mut told = text(id);
            for change in KeyChange::read_all(&keys.into()).unwrap() {
                told.push_str(&format!(" {}", String::from_utf8_lossy(&change.key)));
                if change.cleared {
                    told.push_str(" cleared");
                }
                for (name, value) in change.names {
                    let name = String::from_utf8_lossy(&name).into_owned();
                    match value {
                        Some(value) => {
                            told.push_str(&format!(" {name}={}", String::from_utf8_lossy(&value)));
                        }
                        None => told.push_str(&format!(" {name}-")),
                    }
                }
                for (name, step) in change.steps {
                    let name = String::from_utf8_lossy(&name).into_owned();
                    let (Step::Integer(step) | Step::Float(step)) = step;
                    told.push_str(&format!(" {name}+={}", String::from_utf8_lossy(&step)));
                }
            }
            told
        };
        reply.elements().iter().map(entry).collect()
    }

    pub(crate) fn changes(&mut self) -> String {
        let state = JOURNAL_STATE.to_vec();
        match self.redis.call(&[b"HGET".to_vec(), state, b"changes".to_vec()]) {
            Value::Bulk(count) => String::from_utf8_lossy(&count).into_owned(),
            _ => String::new(),
        }
    }
}

fn done(states: &str, replies: &[Value]) -> Vec<Value> {
    let head = [Value::Bulk("DONE".into()), Value::Bulk(states.into())];
    head.into_iter().chain(replies.iter().cloned()).collect()
}

pub(crate) fn bulk(text: &str) -> Value {
    Value::Bulk(text.into())
}

#[test]
fn a_batch_is_one_entry_that_says_what_is_held_now() {
    let mut rig = Rig::new(&["h"]);
    let told = rig.behind(
        "100",
        &[("h", "hash")],
        &[
            "pairs",
            "1",
            "6",
            "HSET",
            "h",
            "a",
            "1",
            "b",
            "2", //
            "sum",
            "1",
            "4",
            "HINCRBY",
            "h",
            "a",
            "4", //
            "float",
            "1",
            "4",
            "HINCRBYFLOAT",
            "h",
            "f",
            "1.5", //
            "removes",
            "1",
            "4",
            "HDEL",
            "h",
            "b",
            "x", //
            "unique",
            "1",
            "4",
            "HSETNX",
            "h",
            "a",
            "9", //
            "unique",
            "1",
            "4",
            "HSETNX",
            "h",
            "n",
            "9", //
            "removes",
            "1",
            "3",
            "HDEL",
            "h",
            "nothing",
        ],
    );
    let one = Value::Integer(1);
    let replies = [
        Value::Integer(2),
        bulk("5"),
        bulk("1.5"),
        one.clone(),
        Value::Integer(0),
        one,
        Value::Integer(0),
    ];
    assert_eq!(told, done("y", &replies));
    assert_eq!(rig.journal(), ["7-0 h a=5 b- f=1.5 x- n=9"]);
    assert_eq!((rig.mark("h").as_str(), rig.changes().as_str()), ("d:7-0", "5"));
    assert_eq!(rig.say("PTTL h"), Value::Integer(-1));
}

#[test]
fn what_changes_nothing_is_not_journaled() {
    let mut rig = Rig::new(&["h", "s"]);
    rig.behind(
        "100",
        &[("h", "hash"), ("s", "set")],
        &[
            "removes", "1", "3", "HDEL", "h", "a", //
            "removes", "2", "3", "SREM", "s", "a", //
            "drawn", "2", "2", "SPOP", "s", //
            "drawn", "2", "3", "SPOP", "s", "2", //
            "keys", "0", "2", "1", "2", //
            "sum", "1", "4", "HINCRBY", "h", "a", "x",
        ],
    );
    assert_eq!(rig.journal(), [""; 0]);
    assert_eq!((rig.mark("h").as_str(), rig.changes().as_str()), ("gone", ""));
}

#[test]
fn sums_beyond_what_lua_can_count_are_exact() {
    let mut rig = Rig::new(&["h"]);
    let told = rig.behind(
        "100",
        &[("h", "hash")],
        &["sum", "1", "4", "HINCRBY", "h", "a", "9223372036854775806"],
    );
    assert_eq!(told, done("y", &[bulk("9223372036854775806")]));
}

#[test]
fn errors_are_those_of_redis() {
    let mut rig = Rig::new(&["h", "s"]);
    rig.say("HSET h a text");
    rig.say(&format!("PEXPIREAT h {LATER}"));
    let told = rig.behind(
        "100",
        &[("h", "hash")],
        &["sum", "1", "4", "HINCRBY", "h", "a", "1", "pairs", "1", "5", "HSET", "h", "a", "1", "b"],
    );
    let errors = [
        Value::Error("ERR hash value is not an integer".into()),
        Value::Error("ERR wrong number of arguments for 'hset' command".into()),
    ];
    assert_eq!(told, done("y", &errors));
    assert_eq!(rig.journal(), [""; 0]);
}

#[test]
fn members_are_told_by_name() {
    let mut rig = Rig::new(&["s"]);
    let told = rig.behind(
        "100",
        &[("s", "set")],
        &["adds", "1", "4", "SADD", "s", "a", "b", "drawn", "1", "3", "SPOP", "s", "1"],
    );
    let drawn = String::from_utf8(told[3].elements()[0].bytes().unwrap().to_vec()).unwrap();
    let kept = if drawn == "a" { "b" } else { "a" };
    let expected = if drawn == "a" { "7-0 s a- b=" } else { "7-0 s a= b-" };
    assert_eq!(rig.journal(), [expected]);
    let told = rig.behind("100", &[("s", "set")], &["drawn", "1", "2", "SPOP", "s"]);
    assert_eq!(told, done("y", &[bulk(kept)]));
    assert_eq!((rig.mark("s").as_str(), rig.say("EXISTS s")), ("gone:7-1", Value::Integer(0)));
}

#[test]
fn what_was_deleted_by_name_is_made_anew() {
    let mut rig = Rig::new(&["h", "i"]);
    rig.behind("100", &[("h", "hash")], &["pairs", "1", "4", "HSET", "h", "a", "1"]);
    let told = rig.behind(
        "100",
        &[("h", "hash"), ("i", "hash")],
        &["keys", "0", "2", "1", "2", "pairs", "1", "4", "HSET", "h", "b", "2"],
    );
    assert_eq!(told, done("yy", &[Value::Integer(1), Value::Integer(1)]));
    assert_eq!(rig.journal(), ["7-0 h a=1", "7-1 h cleared b=2"]);
    rig.behind("100", &[("h", "hash")], &["keys", "0", "1", "1"]);
    assert_eq!((rig.mark("h").as_str(), rig.mark("i").as_str()), ("gone:7-2", "gone"));
}

#[test]
fn what_comes_after_an_operation_that_has_to_wait_waits_too() {
    let mut rig = Rig::new(&["a"]);
    let told = rig.behind(
        "100",
        &[("a", "hash"), ("b", "hash")],
        &[
            "pairs", "1", "4", "HSET", "a", "x", "1", //
            "keys", "0", "2", "1", "2", //
            "pairs", "1", "4", "HSET", "a", "x", "2",
        ],
    );
    assert_eq!(told, done("yl", &[Value::Integer(1)]));
    assert_eq!(rig.say("HGET a x"), bulk("1"));
}

#[test]
fn only_what_is_known_whole_and_has_no_end_of_its_own_is_written_behind() {
    let set = ["pairs", "1", "4", "HSET", "h", "a", "1"];
    let check = |prepare: &[&str], kind: &str, expected: &str| {
        let mut rig = Rig::new(&[]);
        for line in prepare {
            rig.say(line);
        }
        let told = rig.behind("100", &[("h", kind)], &set);
        assert_eq!(told[1], bulk(expected), "{prepare:?}");
        assert_eq!(told.len(), if expected == "y" { 3 } else { 2 }, "{prepare:?}");
    };
    check(&[], "hash", "l");
    check(&["SET respgres:m:h r:1"], "hash", "l");
    check(&["SET respgres:m:h w:1"], "hash", "l");
    check(&["SET respgres:m:h gone"], "hash", "y");
    check(&["SET respgres:m:h gone:1-1"], "hash", "y");
    check(&["SET respgres:m:h gone"], "needy", "t");
    check(&["HSET h b 1", &format!("PEXPIREAT h {LATER}")], "hash", "y");
    check(&["HSET h b 1", &format!("PEXPIREAT h {LATER}")], "needy", "y");
    check(&["HSET h b 1", "PEXPIREAT h 4102444800001"], "hash", "t");
    check(&["HSET h b 1", "SET respgres:m:h d:1-1"], "hash", "y");
    // Somebody has put it there.
    check(&["HSET h b 1"], "hash", "t");
}

#[test]
fn what_cannot_be_made_from_a_part_is_not_made_anew_within_a_batch() {
    let mut rig = Rig::new(&[]);
    rig.say("HSET h a 1");
    rig.say(&format!("PEXPIREAT h {LATER}"));
    let told = rig.behind(
        "100",
        &[("h", "needy")],
        &["keys", "0", "1", "1", "pairs", "1", "4", "HSET", "h", "a", "1"],
    );
    assert_eq!(told, done("t", &[Value::Integer(1)]));
}

#[test]
fn a_journal_that_is_full_or_not_open_takes_nothing() {
    let mut rig = Rig::new(&["h"]);
    let set = ["pairs", "1", "6", "HSET", "h", "a", "1", "b", "2"];
    assert_eq!(rig.behind("2", &[("h", "hash")], &set), done("y", &[Value::Integer(2)]));
    assert_eq!(rig.behind("2", &[("h", "hash")], &set), [bulk("FULL")]);
    rig.clean("7-0", "h", ["1000", "1000"]);
    assert_eq!(rig.behind("2", &[("h", "hash")], &set), done("y", &[Value::Integer(0)]));
    rig.say("FLUSHALL");
    assert_eq!(rig.behind("2", &[("h", "hash")], &set), [bulk("EPOCH")]);
}

#[test]
fn a_key_is_clean_when_its_newest_entry_is() {
    let mut rig = Rig::new(&["h"]);
    let set = ["pairs", "1", "4", "HSET", "h", "a", "1"];
    rig.behind("100", &[("h", "hash")], &set);
    rig.behind("100", &[("h", "hash")], &set);
    rig.clean("7-0", "h", ["100000", "5000"]);
    assert_eq!((rig.mark("h").as_str(), rig.say("PTTL h")), ("d:7-1", Value::Integer(-1)));
    assert_eq!(rig.changes(), "1");
    rig.clean("7-1", "h", ["100000", "5000"]);
    assert_eq!((rig.mark("h").as_str(), rig.changes().as_str()), ("", "0"));
    assert!((99_000..=100_000).contains(&rig.say("PTTL h").integer()));
    assert_eq!(rig.say("PEXPIRETIME h").integer() % 2, 0);
    // The journal goes on with new numbers.
    rig.behind("100", &[("h", "hash")], &["keys", "0", "1", "1"]);
    assert_eq!(rig.mark("h"), "gone:7-2");
    rig.clean("7-2", "h", ["100000", "5000"]);
    assert_eq!(rig.mark("h"), "gone");
    assert!((1..=5000).contains(&rig.say("PTTL respgres:m:h").integer()));
}

#[test]
fn what_postgres_refused_does_not_stay_as_a_copy() {
    let mut rig = Rig::new(&["h"]);
    rig.behind("100", &[("h", "hash")], &["pairs", "1", "4", "HSET", "h", "a", "1"]);
    rig.clean("7-0", "h", ["100000", "drop"]);
    assert_eq!((rig.mark("h").as_str(), rig.say("EXISTS h")), ("", Value::Integer(0)));
}

#[test]
fn flushing_goes_on_when_redis_is_out_of_memory() {
    let mut rig = Rig::new(&["h"]);
    let set = ["pairs", "1", "4", "HSET", "h", "a", "1"];
    rig.behind("100", &[("h", "hash")], &set);
    rig.say("CONFIG SET maxmemory 1");
    let mut keys = vec![JOURNAL_STATE.to_vec(), JOURNAL.to_vec(), b"h".to_vec()];
    keys.push(mark_of(b"h").to_vec());
    let words: Vec<&str> = ["100", "", "hash"].into_iter().chain(set).collect();
    let told = rig.run(Script::Behind, keys, &words);
    assert!(matches!(&told, Value::Error(text) if text.starts_with("OOM")), "{told:?}");
    rig.clean("7-0", "h", ["100000", "5000"]);
    assert_eq!(rig.mark("h"), "");
}

#[test]
fn a_sweep_keeps_what_postgres_does_not_have_yet() {
    let cases: [(&[&str], &str, &str); 5] = [
        // Postgres has nothing yet.
        (&["0", "0", ""], "d:7-0", "1"),
        (&["6", "9", ""], "d:7-0", "1"),
        // It has it.
        (&["7", "0", ""], "", ""),
        (&["8", "0", ""], "", ""),
        // Other data has been in its place since.
        (&["", "", ""], "", ""),
    ];
    for (arguments, mark, value) in cases {
        let mut rig = Rig::new(&["h"]);
        rig.behind("100", &[("h", "hash")], &["pairs", "1", "4", "HSET", "h", "a", "1"]);
        let key = b"h";
        let keys =
            vec![JOURNAL.to_vec(), key.to_vec(), mark_of(key).to_vec(), aside_of(key).to_vec()];
        let stay = rig.run(Script::Sweep, keys, arguments);
        assert_eq!(stay.elements(), [], "{arguments:?}");
        assert_eq!(rig.mark("h"), mark, "{arguments:?}");
        let held = rig.say("HGET h a");
        assert_eq!(held.bytes().unwrap_or_default(), value.as_bytes(), "{arguments:?}");
    }
    let mut rig = Rig::new(&["h"]);
    rig.behind("100", &[("h", "hash")], &["pairs", "1", "4", "HSET", "h", "a", "1"]);
    rig.say("XDEL respgres:journal 7-0");
    let keys =
        vec![JOURNAL.to_vec(), b"h".to_vec(), mark_of(b"h").to_vec(), aside_of(b"h").to_vec()];
    rig.run(Script::Sweep, keys, &["0", "0", ""]);
    assert_eq!(rig.say("EXISTS h"), Value::Integer(0), "nobody owes it");
}

// --- parts of values, while Postgres cannot be asked ---

#[test]
fn of_a_part_increments_are_journaled_as_such() {
    let mut rig = Rig::new(&[]);
    let told = rig.behind(
        "100",
        &[("h", "hash+")],
        &[
            "sum",
            "1",
            "4",
            "HINCRBY",
            "h",
            "n",
            "5", //
            "sum",
            "1",
            "4",
            "HINCRBY",
            "h",
            "n",
            "-2", //
            "float",
            "1",
            "4",
            "HINCRBYFLOAT",
            "h",
            "f",
            "0.5", //
            "pairs",
            "1",
            "4",
            "HSET",
            "h",
            "a",
            "7", //
            "sum",
            "1",
            "4",
            "HINCRBY",
            "h",
            "a",
            "1", //
            "sum",
            "1",
            "4",
            "HINCRBY",
            "h",
            "b",
            "1", //
            "pairs",
            "1",
            "4",
            "HSET",
            "h",
            "b",
            "9",
        ],
    );
    assert_eq!(told[1], bulk("y"));
    assert_eq!(rig.journal(), ["7-0 h a=8 b=9 n+=5 n+=-2 f+=0.5"]);
    assert_eq!(rig.changes(), "5");
    assert_eq!(rig.mark("h"), "d:7-0:p");
    // The next step knows it for a part.
    rig.behind("100", &[("h", "hash")], &["sum", "1", "4", "HINCRBY", "h", "n", "1"]);
    assert_eq!(rig.journal()[1], "7-1 h n+=1");
    assert_eq!(rig.mark("h"), "d:7-1:p");
    assert_eq!(rig.say("HGET h n"), bulk("4"));
}

#[test]
fn a_whole_value_has_its_increments_journaled_as_what_it_holds() {
    let mut rig = Rig::new(&["h"]);
    rig.behind("100", &[("h", "hash+")], &["sum", "1", "4", "HINCRBY", "h", "n", "5"]);
    assert_eq!(rig.journal(), ["7-0 h n=5"]);
    assert_eq!(rig.mark("h"), "d:7-0");
}

#[test]
fn what_a_part_does_not_have_is_removed_all_the_same() {
    let mut rig = Rig::new(&[]);
    for (key, kind, name) in [("h", "hash+", "HDEL"), ("s", "set+", "SREM")] {
        let told = rig.behind("100", &[(key, kind)], &["removes", "1", "3", name, key, "a"]);
        assert_eq!(told, done("y", &[Value::Integer(0)]));
    }
    assert_eq!(rig.journal(), ["7-0 h a-", "7-1 s a-"]);
    assert_eq!(rig.mark("s"), "gone:7-1:p");
}

#[test]
fn a_part_that_is_emptied_is_still_a_part_and_one_that_is_deleted_is_none() {
    let mut rig = Rig::new(&[]);
    rig.behind("100", &[("h", "hash+")], &["pairs", "1", "4", "HSET", "h", "a", "1"]);
    rig.behind("100", &[("h", "hash")], &["removes", "1", "3", "HDEL", "h", "a"]);
    assert_eq!(rig.mark("h"), "gone:7-1:p");
    rig.behind("100", &[("h", "hash")], &["sum", "1", "4", "HINCRBY", "h", "n", "1"]);
    assert_eq!(rig.journal()[2], "7-2 h n+=1");
    // DEL of it, and of a key that Redis does not know.
    let told = rig.behind("100", &[("h", "hash"), ("i", "hash+")], &["keys", "0", "2", "1", "2"]);
    assert_eq!(told, done("yy", &[Value::Integer(1)]));
    assert_eq!((rig.mark("h"), rig.mark("i")), ("gone:7-3".into(), "gone:7-3".into()));
    rig.behind("100", &[("h", "hash")], &["sum", "1", "4", "HINCRBY", "h", "n", "1"]);
    assert_eq!(rig.journal()[4], "7-4 h n=1");
    assert_eq!(rig.mark("h"), "d:7-4");
}

#[test]
fn a_part_goes_when_postgres_has_it() {
    for emptied in [false, true] {
        let mut rig = Rig::new(&[]);
        rig.behind("100", &[("h", "hash+")], &["pairs", "1", "4", "HSET", "h", "a", "1"]);
        let mut newest = "7-0";
        if emptied {
            rig.behind("100", &[("h", "hash")], &["removes", "1", "3", "HDEL", "h", "a"]);
            rig.clean("7-0", "h", ["1000", "1000"]);
            assert_eq!(rig.mark("h"), "gone:7-1:p", "it has changed since");
            newest = "7-1";
        }
        rig.clean(newest, "h", ["1000", "1000"]);
        assert_eq!((rig.say("EXISTS h"), rig.mark("h")), (Value::Integer(0), String::new()));
        assert_eq!(rig.journal(), Vec::<String>::new());
    }
}

#[test]
fn a_part_is_begun_in_the_place_of_a_reader_or_a_writer() {
    for (mark, script) in [("r:1", Script::Fill), ("w:1", Script::End)] {
        let mut rig = Rig::new(&[]);
        rig.say(&format!("SET respgres:m:h {mark}"));
        rig.say("HSET respgres:a:h old 1");
        rig.behind("100", &[("h", "hash+")], &["pairs", "1", "4", "HSET", "h", "a", "1"]);
        let pair = vec![b"h".to_vec(), mark_of(b"h").to_vec()];
        match script {
            Script::Fill => rig.run(script, pair, &[mark, "hash", LATER, "old", "1"]),
            _ => {
                let triple = [pair, vec![aside_of(b"h").to_vec()]].concat();
                rig.run(script, triple, &[mark, "hash", LATER, "0", "0"])
            }
        };
        assert_eq!(rig.say("HGETALL h").elements(), [bulk("a"), bulk("1")], "{mark}");
        assert_eq!(rig.mark("h"), "d:7-0:p");
    }
}

#[test]
fn a_sweep_keeps_a_part_that_postgres_lacks() {
    for (epoch, kept) in [("6", 1), ("7", 0)] {
        let mut rig = Rig::new(&[]);
        rig.behind("100", &[("h", "hash+")], &["pairs", "1", "4", "HSET", "h", "a", "1"]);
        let keys =
            vec![JOURNAL.to_vec(), b"h".to_vec(), mark_of(b"h").to_vec(), aside_of(b"h").to_vec()];
        rig.run(Script::Sweep, keys, &[epoch, "0", ""]);
        assert_eq!(rig.say("EXISTS h"), Value::Integer(kept), "{epoch}");
    }
}

#[test]
fn changes_of_keys_that_are_written_through_are_known_for_such() {
    let mut rig = Rig::new(&["h"]);
    let set = ["pairs", "1", "4", "HSET", "h", "a", "1"];
    rig.behind("100", &[("h", "hash")], &set);
    let loose = format!("HGET {} loose", String::from_utf8_lossy(JOURNAL_STATE));
    assert_eq!(rig.say(&loose), Value::NilBulk);
    let keys =
        vec![JOURNAL_STATE.to_vec(), JOURNAL.to_vec(), b"h".to_vec(), mark_of(b"h").to_vec()];
    let words: Vec<&str> = ["100", "loose", "hash"].into_iter().chain(set).collect();
    rig.run(Script::Behind, keys, &words);
    assert_eq!(rig.say(&loose), bulk("7-1"));
}
