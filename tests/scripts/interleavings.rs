//! Each rule of the protocol, by hand.

use respgres::upstream::scripts::{Script, aside_of, mark_of};

use crate::blocking::Blocking;
use crate::stack::Value;

const KEY: &str = "thing:1";
/// Far from now, in milliseconds.
const LATER: &str = "4102444800000";

struct Rig {
    redis: Blocking,
}

impl Rig {
    fn new() -> Self {
        Self { redis: Blocking::start() }
    }

    fn run(&mut self, script: Script, keys: &[Vec<u8>], arguments: &[&str]) -> Value {
        let count = keys.len().to_string();
        let mut words: Vec<Vec<u8>> =
            vec!["EVAL".into(), script.text().as_bytes().into(), count.into()];
        words.extend_from_slice(keys);
        words.extend(arguments.iter().map(|argument| argument.as_bytes().to_vec()));
        self.redis.call(&words)
    }

    /// The numbers of the dirty keys.
    fn begin(&mut self, keys: &[&str], token: &str) -> Vec<i64> {
        let reply = self.run(Script::Begin, &triples(keys), &[token, "10000"]);
        let (time, dirty) = reply.elements().split_first().unwrap();
        assert!(time.integer() > 1_600_000_000_000, "no time in {reply:?}");
        match dirty {
            [Value::Array(ends)] => {
                assert_eq!(ends.len(), keys.len());
                Vec::new()
            }
            dirty => dirty.iter().map(Value::integer).collect(),
        }
    }

    fn end(&mut self, token: &str, changes: &[&str]) {
        let arguments: Vec<&str> = std::iter::once(token).chain(changes.iter().copied()).collect();
        assert_eq!(self.run(Script::End, &triples(&[KEY]), &arguments), Value::Integer(0));
    }

    fn miss(&mut self, token: &str, needs: &[&str]) -> Value {
        let arguments: Vec<&str> =
            [token, "10000", "hash"].into_iter().chain(needs.iter().copied()).collect();
        self.run(Script::Miss, &[KEY.into(), mark()], &arguments)
    }

    fn miss_word(&mut self, token: &str) -> String {
        match &self.miss(token, &["existence"]).elements()[0] {
            Value::Bulk(word) => String::from_utf8_lossy(word).into_owned(),
            other => panic!("{other:?}"),
        }
    }

    fn fill(&mut self, token: &str, fields: &[&str]) -> bool {
        let (kind, until) = if fields.is_empty() { ("gone", "5000") } else { ("hash", LATER) };
        let arguments: Vec<&str> =
            [token, kind, until].into_iter().chain(fields.iter().copied()).collect();
        self.run(Script::Fill, &[KEY.into(), mark()], &arguments) == Value::Integer(1)
    }

    fn unlease(&mut self, token: &str) {
        self.run(Script::Unlease, &[mark()], &[token]);
    }

    fn say(&mut self, line: &str) -> Value {
        self.redis.call(&line.split(' ').collect::<Vec<_>>())
    }

    /// The copy's fields; nothing when there is none.
    fn copy(&mut self) -> String {
        let Value::Array(words) = self.say(&format!("HGETALL {KEY}")) else { panic!("no hash") };
        let text = |value: &Value| match value {
            Value::Bulk(bytes) => String::from_utf8_lossy(bytes).into_owned(),
            other => panic!("{other:?}"),
        };
        words.chunks(2).map(|pair| format!("{}={} ", text(&pair[0]), text(&pair[1]))).collect()
    }

    fn mark(&mut self) -> String {
        match self.redis.call(&[b"GET".to_vec(), mark()]) {
            Value::Bulk(mark) => String::from_utf8_lossy(&mark).into_owned(),
            _ => String::new(),
        }
    }

    fn aside_exists(&mut self) -> bool {
        self.redis.call(&[b"EXISTS".to_vec(), aside_of(KEY.as_bytes()).to_vec()])
            == Value::Integer(1)
    }
}

fn mark() -> Vec<u8> {
    mark_of(KEY.as_bytes()).to_vec()
}

fn triples(keys: &[&str]) -> Vec<Vec<u8>> {
    let triple = |key: &&str| {
        let key = key.as_bytes();
        [key.to_vec(), mark_of(key).to_vec(), aside_of(key).to_vec()]
    };
    keys.iter().flat_map(triple).collect()
}

#[test]
fn a_reader_fills_once() {
    let mut rig = Rig::new();
    assert_eq!(rig.miss_word("r:1"), "FILL");
    assert_eq!(rig.miss_word("r:2"), "THROUGH");
    assert!(!rig.fill("r:2", &["a", "2"]));
    assert_eq!(rig.copy(), "");
    assert!(rig.fill("r:1", &["a", "1"]));
    assert_eq!((rig.copy().as_str(), rig.mark().as_str()), ("a=1 ", ""));
    assert!(!rig.fill("r:1", &["a", "0"]));
    assert_eq!(rig.copy(), "a=1 ");
    assert_eq!(rig.miss_word("r:3"), "HIT");
    let expiry = rig.say(&format!("PEXPIRETIME {KEY}"));
    assert_eq!(expiry.integer().to_string(), LATER);
}

#[test]
fn a_miss_tells_what_is_needed_of_a_copy_that_is_there() {
    let mut rig = Rig::new();
    rig.say(&format!("HSET {KEY} a 1 b 2"));
    let bulk = |text: &str| Value::Bulk(text.into());
    let check = |reply: Value, expected: Vec<Value>| assert_eq!(reply.elements(), expected);
    check(rig.miss("r:1", &["existence"]), vec![bulk("HIT")]);
    let fields = Value::Array(vec![bulk("2"), Value::NilBulk, bulk("1")]);
    check(rig.miss("r:1", &["fields", "b", "c", "a"]), vec![bulk("HIT"), fields]);
    let whole = Value::Array(["a", "1", "b", "2"].map(bulk).to_vec());
    check(rig.miss("r:1", &["whole"]), vec![bulk("HIT"), whole]);
    rig.say(&format!("SET {KEY} text"));
    let reply = rig.miss("r:1", &["whole"]);
    assert!(matches!(&reply.elements()[1], Value::Error(text) if text.starts_with("WRONGTYPE")));
    assert_eq!(rig.mark(), "");
}

#[test]
fn a_writer_voids_the_mark_of_a_reader() {
    let mut rig = Rig::new();
    assert_eq!(rig.miss_word("r:1"), "FILL");
    assert_eq!(rig.begin(&[KEY], "w:1"), [0; 0]);
    assert!(!rig.fill("r:1", &["a", "old"]));
    assert!(!rig.fill("r:1", &[]));
    rig.unlease("r:1");
    assert_eq!((rig.copy().as_str(), rig.mark().as_str()), ("", "w:1"));
    rig.end("w:1", &["hash", LATER, "1", "a", "new", "0"]);
    // There was no copy to change: the next reader fills.
    assert_eq!((rig.copy().as_str(), rig.mark().as_str()), ("", ""));
    assert!(!rig.fill("r:1", &["a", "old"]));
    assert_eq!(rig.copy(), "");
}

#[test]
fn nobody_reads_or_fills_between_begin_and_end() {
    let mut rig = Rig::new();
    rig.say(&format!("HSET {KEY} a 1 b 2"));
    rig.begin(&[KEY], "w:1");
    assert_eq!((rig.copy().as_str(), rig.aside_exists()), ("", true));
    assert_eq!(rig.miss_word("r:1"), "THROUGH");
    assert!(!rig.fill("r:1", &["a", "1"]));
    rig.end("w:1", &["hash", LATER, "2", "a", "3", "c", "4", "1", "b"]);
    assert_eq!((rig.copy().as_str(), rig.mark().as_str()), ("a=3 c=4 ", ""));
    assert!(!rig.aside_exists());
    assert_eq!(rig.say(&format!("PEXPIRETIME {KEY}")).integer().to_string(), LATER);
}

#[test]
fn the_mark_and_what_was_set_aside_lapse_together() {
    let mut rig = Rig::new();
    rig.say(&format!("HSET {KEY} a 1"));
    rig.begin(&[KEY], "w:1");
    for name in [mark(), aside_of(KEY.as_bytes()).to_vec()] {
        let left = rig.redis.call(&[b"PTTL".to_vec(), name]).integer();
        assert!((9000..=10_000).contains(&left), "{left}");
    }
}

#[test]
fn the_end_of_an_older_writer_does_nothing() {
    let mut rig = Rig::new();
    rig.say(&format!("HSET {KEY} a 1"));
    rig.begin(&[KEY], "w:1");
    rig.begin(&[KEY], "w:2");
    // What the older one set aside is not the newer one's to change.
    assert!(!rig.aside_exists());
    rig.end("w:1", &["hash", LATER, "1", "a", "old", "0"]);
    assert_eq!((rig.copy().as_str(), rig.mark().as_str()), ("", "w:2"));
    rig.end("w:2", &["hash", LATER, "1", "a", "new", "0"]);
    assert_eq!(rig.copy(), "");
    assert_eq!(rig.miss_word("r:1"), "FILL");
    assert!(rig.fill("r:1", &["a", "new"]));
    rig.end("w:1", &["hash", LATER, "1", "a", "old", "0"]);
    rig.end("w:2", &["drop", LATER, "0", "0"]);
    assert_eq!(rig.copy(), "a=new ");
}

#[test]
fn an_end_changes_drops_or_removes_the_copy() {
    let cases: [(&[&str], &str); 6] = [
        (&["hash", LATER, "0", "0"], "a=1 "),
        (&["hash", LATER, "1", "b", "2", "0"], "a=1 b=2 "),
        (&["hash", LATER, "0", "1", "a"], ""),
        (&["drop", LATER, "0", "0"], ""),
        // Its own expiry is over.
        (&["hash", "1", "1", "b", "2", "0"], ""),
        (&["hash", "-5", "1", "b", "2", "0"], ""),
    ];
    for (changes, expected) in cases {
        let mut rig = Rig::new();
        rig.say(&format!("HSET {KEY} a 1"));
        rig.begin(&[KEY], "w:1");
        rig.end("w:1", changes);
        assert_eq!(rig.copy(), expected, "{changes:?}");
        assert_eq!((rig.mark().as_str(), rig.aside_exists()), ("", false), "{changes:?}");
    }
}

#[test]
fn a_copy_that_cannot_be_changed_is_dropped() {
    let mut rig = Rig::new();
    rig.say(&format!("SET {KEY} text"));
    rig.begin(&[KEY], "w:1");
    rig.end("w:1", &["hash", LATER, "1", "a", "1", "1", "b"]);
    assert_eq!(rig.say(&format!("EXISTS {KEY}")), Value::Integer(0));
    assert_eq!((rig.mark().as_str(), rig.aside_exists()), ("", false));
}

#[test]
fn the_absence_of_a_key_is_known_until_a_writer_comes() {
    let mut rig = Rig::new();
    assert_eq!(rig.miss_word("r:1"), "FILL");
    assert!(rig.fill("r:1", &[]));
    assert_eq!(rig.mark(), "gone");
    assert!((1..=5000).contains(&rig.redis.call(&[b"PTTL".to_vec(), mark()]).integer()));
    assert_eq!(rig.miss_word("r:2"), "ABSENT");
    rig.unlease("r:1");
    assert_eq!(rig.miss_word("r:2"), "ABSENT");
    assert_eq!(rig.begin(&[KEY], "w:1"), [0; 0]);
    assert_eq!(rig.miss_word("r:2"), "THROUGH");
    rig.end("w:1", &["drop", LATER, "0", "0"]);
    assert_eq!(rig.miss_word("r:2"), "FILL");
}

#[test]
fn a_reader_gives_back_only_its_own_lease() {
    let mut rig = Rig::new();
    assert_eq!(rig.miss_word("r:1"), "FILL");
    rig.unlease("r:2");
    assert_eq!(rig.mark(), "r:1");
    rig.unlease("r:1");
    assert_eq!(rig.mark(), "");
    assert_eq!(rig.miss_word("r:2"), "FILL");
}

#[test]
fn a_key_that_is_dirty_stops_the_whole_begin() {
    for dirty in ["d:1-1", "gone:1-1"] {
        let mut rig = Rig::new();
        rig.say(&format!("HSET {KEY} a 1"));
        rig.say("HSET other a 1");
        rig.say(&format!("SET {} {dirty}", String::from_utf8_lossy(&mark())));
        assert_eq!(rig.begin(&["other", KEY, "third"], "w:1"), [1]);
        assert_eq!((rig.copy().as_str(), rig.mark().as_str()), ("a=1 ", dirty));
        assert_eq!(rig.say("HGET other a"), Value::Bulk(b"1".to_vec()));
        assert_eq!(rig.say("EXISTS respgres:m:other respgres:m:third"), Value::Integer(0));
        rig.say(&format!("DEL {KEY}"));
        let expected = if dirty.starts_with("gone") { "ABSENT" } else { "THROUGH" };
        assert_eq!(rig.miss_word("r:1"), expected);
    }
}

#[test]
fn writers_and_readers_go_on_when_redis_is_out_of_memory() {
    let mut rig = Rig::new();
    rig.say(&format!("HSET {KEY} a 1"));
    rig.say("CONFIG SET maxmemory 1");
    assert!(matches!(rig.say("SET x 1"), Value::Error(text) if text.starts_with("OOM")));
    assert_eq!(rig.begin(&[KEY], "w:1"), [0; 0]);
    rig.end("w:1", &["hash", LATER, "1", "a", "2", "0"]);
    assert_eq!(rig.copy(), "a=2 ");
}

#[test]
fn a_begin_sent_twice_with_one_token_would_bring_an_old_value_back() {
    // Why `Control::call` never repeats a call.
    let mut rig = Rig::new();
    rig.say(&format!("HSET {KEY} a 0"));
    rig.begin(&[KEY], "w:1"); // its connection was lost, and it was sent again
    rig.begin(&[KEY], "w:2"); // the next writer
    rig.end("w:2", &["hash", LATER, "1", "a", "2", "0"]);
    assert_eq!(rig.miss_word("r:1"), "FILL");
    assert!(rig.fill("r:1", &["a", "2"]));
    rig.begin(&[KEY], "w:1"); // the lost one arrives
    rig.end("w:1", &["hash", LATER, "1", "a", "1", "0"]); // and the end of that writer
    assert_eq!(rig.copy(), "a=1 ", "no longer a danger: then `Control` may be simpler");
}

#[test]
fn very_large_calls_are_taken() {
    let mut rig = Rig::new();
    rig.say(&format!("HSET {KEY} a 1"));
    let fields: Vec<String> = (0..100_000).map(|field| format!("f{field}")).collect();
    let names: Vec<String> = (0..1000).map(|key| format!("many:{key}")).collect();
    let keys: Vec<&str> = names.iter().map(String::as_str).chain([KEY]).collect();
    assert_eq!(rig.begin(&keys, "w:1"), [0; 0]);
    let count = fields.len().to_string();
    let large = "x".repeat(1_000_000);
    let mut change = vec!["hash", LATER, &count];
    for field in &fields {
        change.extend([field.as_str(), if field == "f7" { &large } else { "1" }]);
    }
    change.push("0");
    rig.end("w:1", &change);
    assert_eq!(rig.say(&format!("HLEN {KEY}")), Value::Integer(100_001));
    assert_eq!(rig.say(&format!("HSTRLEN {KEY} f7")), Value::Integer(1_000_000));
    let mut needs = vec!["fields"];
    needs.extend(fields[..1000].iter().map(String::as_str));
    let reply = rig.miss("r:1", &needs);
    assert_eq!(reply.elements()[1].elements().len(), 1000);
}
