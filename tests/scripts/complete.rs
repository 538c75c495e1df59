//! The rules of completing, by hand: values that become whole for Redis alone to have, while clients go on.

use respgres::upstream::scripts::{
    COMPLETING, MEND, PUT_PREFIX, Script, TOUCHED, aside_of, mark_of,
};

use crate::behind::{Rig, bulk};
use crate::stack::Value;

const KEY: &str = "h:1";

fn text(name: &[u8]) -> String {
    String::from_utf8(name.to_vec()).unwrap()
}

/// By `who`, of a hash with the field `a`.
fn complete(rig: &mut Rig, who: &str, mode: &str, own_end: &str, value: &str) -> Value {
    let before = [PUT_PREFIX, KEY.as_bytes()].concat();
    let keys = vec![
        COMPLETING.to_vec(),
        TOUCHED.to_vec(),
        MEND.to_vec(),
        KEY.as_bytes().to_vec(),
        mark_of(KEY.as_bytes()).to_vec(),
        aside_of(KEY.as_bytes()).to_vec(),
        before,
    ];
    let count = if mode == "hash" { "2" } else { "0" };
    let mut words = vec![who, "60000", "open", mode, own_end, count];
    if mode == "hash" {
        words.extend(["a", value]);
    }
    rig.run(Script::Complete, keys, &words)
}

fn none() -> Value {
    Value::Array(Vec::new())
}

fn first() -> Value {
    Value::Array(vec![Value::Integer(0)])
}

fn begin(rig: &mut Rig) {
    rig.say(&format!("SET {} me", text(COMPLETING)));
}

#[test]
fn only_who_completes_puts_values() {
    let mut rig = Rig::new(&[]);
    assert_eq!(complete(&mut rig, "me", "hash", "", "1"), bulk("LOST"));
    begin(&mut rig);
    assert_eq!(complete(&mut rig, "other", "hash", "", "1"), bulk("LOST"));
    rig.say(&format!("HSET {KEY} b 2"));
    rig.say(&format!("PEXPIREAT {KEY} 4000000000000"));
    rig.say(&format!("SET {} r:1", text(&mark_of(KEY.as_bytes()))));
    assert_eq!(complete(&mut rig, "me", "hash", "", "1"), none());
    assert_eq!(rig.say(&format!("HGETALL {KEY}")), Value::Array(vec![bulk("a"), bulk("1")]));
    assert_eq!(rig.say(&format!("PTTL {KEY}")), Value::Integer(-1));
    assert_eq!(rig.say(&format!("EXISTS {}", text(&mark_of(KEY.as_bytes())))), Value::Integer(0));
    assert_eq!(complete(&mut rig, "me", "hash", "4000000000000", "1"), none());
    // An even end would say that it is a copy.
    assert_eq!(rig.say(&format!("PEXPIRETIME {KEY}")), Value::Integer(3_999_999_999_999));
    assert_eq!(rig.say(&format!("SISMEMBER {} {KEY}", text(MEND))), Value::Integer(1));
    assert_eq!(complete(&mut rig, "me", "none", "", ""), none());
    assert_eq!(rig.say(&format!("EXISTS {KEY}")), Value::Integer(0));
}

/// It was read before, and comes late: the lock was lost meanwhile.
#[test]
fn what_was_touched_since_is_not_put() {
    let mut rig = Rig::new(&[]);
    begin(&mut rig);
    rig.say(&format!("HSET {KEY} a new"));
    rig.say(&format!("SADD {} {KEY}", text(TOUCHED)));
    for mode in ["hash", "none"] {
        assert_eq!(complete(&mut rig, "me", mode, "", "old"), first(), "{mode}");
        assert_eq!(rig.say(&format!("HGET {KEY} a")), bulk("new"), "{mode}");
    }
    let place = format!("{}{KEY}", text(PUT_PREFIX));
    rig.say(&format!("HSET {place} a old"));
    assert_eq!(complete(&mut rig, "me", "before", "", ""), first());
    assert_eq!(rig.say(&format!("HGET {KEY} a")), bulk("new"));
    assert_eq!(rig.say(&format!("EXISTS {place}")), Value::Integer(0));
    // Taken from there, and read anew.
    rig.say(&format!("SREM {} {KEY}", text(TOUCHED)));
    rig.say(&format!("HSET {place} a newer"));
    assert_eq!(complete(&mut rig, "me", "before", "", ""), none());
    assert_eq!(rig.say(&format!("HGET {KEY} a")), bulk("newer"));
    assert_eq!(rig.say(&format!("PTTL {KEY}")), Value::Integer(-1));
}

#[test]
fn dirty_keys_stay_and_count_as_touched() {
    let mut rig = Rig::new(&[]);
    begin(&mut rig);
    for mark in ["d:1-1", "gone:1-1"] {
        rig.say(&format!("DEL {}", text(TOUCHED)));
        rig.say(&format!("HSET {KEY} a new"));
        rig.say(&format!("SET {} {mark}", text(&mark_of(KEY.as_bytes()))));
        assert_eq!(complete(&mut rig, "me", "hash", "", "old"), first(), "{mark}");
        assert_eq!(rig.say(&format!("HGET {KEY} a")), bulk("new"), "{mark}");
        let touched = rig.say(&format!("SISMEMBER {} {KEY}", text(TOUCHED)));
        assert_eq!(touched, Value::Integer(1), "{mark}");
    }
}

#[test]
fn what_was_written_down_lasts_as_long_as_somebody_completes() {
    let mut rig = Rig::new(&[]);
    begin(&mut rig);
    for name in [TOUCHED, MEND] {
        rig.say(&format!("SADD {} other", text(name)));
        rig.say(&format!("PEXPIRE {} 1000", text(name)));
    }
    assert_eq!(complete(&mut rig, "me", "hash", "", "1"), none());
    for name in [COMPLETING, TOUCHED, MEND] {
        let Value::Integer(left_ms) = rig.say(&format!("PTTL {}", text(name))) else { panic!() };
        assert!(left_ms > 50_000, "{left_ms}");
    }
}
