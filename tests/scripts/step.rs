//! The rules of steps, by hand: operations of several clients that an event loop tells Redis first itself.

use respgres::upstream::journal::KeyChange;
use respgres::upstream::scripts::{JOURNAL, JOURNAL_STATE, Script, mark_of};

use crate::behind::{LATER, Rig, bulk};
use crate::stack::Value;

/// What comes after the operation before it, of the same client.
const FOLLOWS: u8 = 1;
/// A hash that cannot be made anew from some of its fields.
const NEEDY: u8 = 2;

/// `operations`: flags, and the request.
fn step(rig: &mut Rig, most: &str, operations: &[(u8, &str)]) -> Value {
    let mut keys = vec![JOURNAL_STATE.to_vec(), JOURNAL.to_vec()];
    let mut words = vec![most.to_owned()];
    for (flags, request) in operations {
        let request: Vec<&str> = request.split(' ').collect();
        let key = request[1].as_bytes();
        keys.extend([key.to_vec(), mark_of(key).to_vec()]);
        let (how, text) = told(&request);
        let count = char::from(u8::try_from(request.len() - 1).unwrap());
        words.extend([format!("{how}{flags}{count}"), text, request[0].to_owned()]);
        words.extend(request[2..].iter().map(|word| (*word).to_owned()));
    }
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    rig.run(Script::Step, keys, &words)
}

/// How the script is told, and what the journal is to say.
fn told(request: &[&str]) -> (char, String) {
    let owned = |text: &str| bytes::Bytes::copy_from_slice(text.as_bytes());
    let set = |pair: &[&str]| (owned(pair[0]), Some(owned(pair[1])));
    let (how, names): (_, Vec<_>) = match request[0] {
        "HSET" | "HMSET" => ('p', request[2..].chunks_exact(2).map(set).collect()),
        "HSETNX" => ('u', vec![set(&request[2..])]),
        "SADD" => ('a', request[2..].iter().map(|name| set(&[name, ""])).collect()),
        "HINCRBY" => ('s', vec![set(&[request[2], ""])]),
        "HINCRBYFLOAT" => ('f', vec![set(&[request[2], ""])]),
        _ => ('r', request[2..].iter().map(|name| (owned(name), None)).collect()),
    };
    let change = KeyChange { key: owned(request[1]), cleared: false, names, steps: Vec::new() };
    let mut text = String::from_utf8(change.write()).unwrap();
    if matches!(how, 's' | 'f') {
        // All but the sum: `1:+`.
        text.truncate(text.len() - 3);
    }
    (how, text)
}

fn left() -> Value {
    Value::Status("LEFT".into())
}

fn one() -> Value {
    Value::Integer(1)
}

#[test]
fn a_step_is_one_entry_that_says_what_is_held_now() {
    let mut rig = Rig::new(&["h", "s"]);
    let operations = [
        (0, "HSET h a 1 b 2"),
        (0, "HINCRBY h a 4"),
        (0, "SADD s x y"),
        (0, "HINCRBYFLOAT h f 1.5"),
        (0, "HDEL h b x"),
        (0, "HSETNX h a 9"),
        (0, "HSETNX h n 9"),
        (0, "HDEL h nothing"),
        (0, "HMSET h m 1"),
        (0, "SADD s x"),
        (0, "SREM s y"),
    ];
    let told = step(&mut rig, "100", &operations);
    let ok = Value::Status("OK".into());
    let replies = [
        Value::Integer(2),
        bulk("5"),
        Value::Integer(2),
        bulk("1.5"),
        one(),
        Value::Integer(0),
        one(),
        Value::Integer(0),
        ok,
        Value::Integer(0),
        one(),
    ];
    assert_eq!(told.elements(), replies);
    let entry = "7-0 h a=1 b=2 h a=5 s x= y= h f=1.5 h b- x- h n=9 h m=1 s y-";
    assert_eq!(rig.journal(), [entry]);
    assert_eq!(rig.changes(), "11");
    assert_eq!((rig.mark("h").as_str(), rig.mark("s").as_str()), ("d:7-0", "d:7-0"));
    assert_eq!(rig.say("PTTL h"), Value::Integer(-1));
}

#[test]
fn what_changes_nothing_is_not_journaled_by_a_step() {
    let mut rig = Rig::new(&["h", "s"]);
    let operations = [(0, "HDEL h a"), (0, "SREM s a"), (0, "HINCRBY h a x"), (0, "HSET h a 1 b")];
    step(&mut rig, "100", &operations);
    assert_eq!(rig.journal(), [""; 0]);
    assert_eq!((rig.mark("h").as_str(), rig.changes().as_str()), ("gone", ""));
}

#[test]
fn errors_of_a_step_are_those_of_redis() {
    let mut rig = Rig::new(&[]);
    rig.say("HSET h a text");
    rig.say(&format!("PEXPIREAT h {LATER}"));
    let told =
        step(&mut rig, "100", &[(0, "HINCRBY h a 1"), (1, "HSET h a 1 b"), (1, "HSET h a 2")]);
    let errors = [
        Value::Error("ERR hash value is not an integer".into()),
        Value::Error("ERR wrong number of arguments for 'hset' command".into()),
        Value::Integer(0),
    ];
    assert_eq!(told.elements(), errors);
    assert_eq!(rig.journal(), ["7-0 h a=2"]);
}

#[test]
fn a_step_counts_beyond_what_lua_can() {
    let mut rig = Rig::new(&["h"]);
    let operations = [(0, "HINCRBY h a 9223372036854775806"), (0, "HINCRBY h b -9007199254740993")];
    let told = step(&mut rig, "100", &operations);
    assert_eq!(told.elements(), [bulk("9223372036854775806"), bulk("-9007199254740993")]);
    assert_eq!(rig.journal(), ["7-0 h a=9223372036854775806 h b=-9007199254740993"]);
}

#[test]
fn what_cannot_be_done_is_left_and_what_its_client_sent_after_it() {
    let mut rig = Rig::new(&["a", "c"]);
    let operations = [
        (0, "HSET a x 1"),
        (FOLLOWS, "HSET b x 1"),
        (FOLLOWS, "HSET a x 2"),
        (FOLLOWS, "HSET c x 2"),
        (0, "HSET c x 3"),
        (0, "HSET b x 4"),
        (0, "HSET a y 5"),
    ];
    let told = step(&mut rig, "100", &operations);
    assert_eq!(told.elements(), [one(), left(), left(), left(), one(), left(), one()]);
    assert_eq!(rig.journal(), ["7-0 a x=1 c x=3 a y=5"]);
    assert_eq!((rig.say("HGET a x"), rig.say("EXISTS b")), (bulk("1"), Value::Integer(0)));
}

#[test]
fn a_step_works_on_what_is_known_whole_and_has_no_end_of_its_own() {
    let check = |prepare: &[&str], flags: u8, is_done: bool| {
        let mut rig = Rig::new(&[]);
        for line in prepare {
            rig.say(line);
        }
        let mark = rig.mark("h");
        let told = step(&mut rig, "100", &[(flags, "HSET h a 1")]);
        let expected = if is_done { one() } else { left() };
        assert_eq!(told.elements(), [expected], "{prepare:?}");
        assert_eq!(rig.mark("h"), if is_done { "d:7-0".to_owned() } else { mark }, "{prepare:?}");
        assert_eq!(rig.journal().len(), usize::from(is_done));
    };
    let clean = ["HSET h b 1", &format!("PEXPIREAT h {LATER}")];
    check(&[], 0, false);
    check(&["SET respgres:m:h r:1"], 0, false);
    check(&["SET respgres:m:h w:1"], 0, false);
    check(&["SET respgres:m:h gone"], 0, true);
    check(&["SET respgres:m:h gone:1-1"], 0, true);
    check(&["SET respgres:m:h gone"], NEEDY, false);
    check(&clean, 0, true);
    check(&clean, NEEDY, true);
    check(&["HSET h b 1", "PEXPIREAT h 4102444800001"], 0, false);
    check(&["HSET h b 1", "SET respgres:m:h d:1-1"], 0, true);
    // Parts of values, which were begun while Postgres was lost.
    check(&["HSET h b 1", "SET respgres:m:h d:1-1:p"], 0, false);
    check(&["SET respgres:m:h gone:1-1:p"], 0, false);
    // Somebody has put it there.
    check(&["HSET h b 1"], 0, false);
}

#[test]
fn what_a_step_empties_is_known_to_be_absent() {
    let mut rig = Rig::new(&["s", "t"]);
    step(&mut rig, "100", &[(0, "SADD s a"), (0, "SREM s a"), (0, "SADD t a"), (0, "SREM t a")]);
    assert_eq!((rig.mark("s").as_str(), rig.mark("t").as_str()), ("gone:7-0", "gone:7-0"));
    step(&mut rig, "100", &[(0, "SADD s b"), (0, "SREM s b"), (0, "SADD s c")]);
    assert_eq!((rig.mark("s").as_str(), rig.say("PTTL s")), ("d:7-1", Value::Integer(-1)));
    // It was clean, and is emptied and made anew.
    rig.clean("7-1", "s", ["100000", "5000"]);
    step(&mut rig, "100", &[(0, "SREM s c"), (0, "SADD s d")]);
    assert_eq!((rig.mark("s").as_str(), rig.say("PTTL s")), ("d:7-2", Value::Integer(-1)));
}

#[test]
fn a_step_into_a_journal_that_is_full_or_not_open_does_nothing() {
    let mut rig = Rig::new(&["h"]);
    let set = [(0, "HSET h a 1 b 2")];
    assert_eq!(step(&mut rig, "2", &set).elements(), [Value::Integer(2)]);
    assert_eq!(step(&mut rig, "2", &set), Value::Status("FULL".into()));
    rig.clean("7-0", "h", ["1000", "1000"]);
    assert_eq!(step(&mut rig, "2", &set).elements(), [Value::Integer(0)]);
    rig.say("FLUSHALL");
    assert_eq!(step(&mut rig, "2", &set), Value::Status("EPOCH".into()));
}
