//! The commands on mapped hashes and sets against a Redis 7.0.15: the same random requests, the same
//! replies, the same errors, the same state. What is drawn at random is not the same: as many, of those
//! that are there, each once or not.
//!
//! Redis' clock runs while a request is under way. So each request is held between two readings
//! of that clock, and one of the milliseconds between them has to explain the reply.

mod stack;

use bytes::{Bytes, BytesMut};
use respgres::command::{Mapped, Need, Proof, lookup};
use respgres::protocol::Reply;
use respgres::protocol::Version::{self, Resp2, Resp3};
use respgres::value::{Draft, Record, ValueKind};
use stack::{Client, Random, Redis, Value};

const REQUESTS_PER_SEED: usize = 5_000;
/// The only key that is ever there.
const KEY: &[u8] = b"k";

type Request = Vec<Vec<u8>>;

#[tokio::test]
async fn random_requests_are_answered_as_by_redis() {
    random_requests(ValueKind::Hash).await;
}

#[tokio::test]
async fn random_requests_on_sets_are_answered_as_by_redis() {
    random_requests(ValueKind::Set).await;
}

async fn random_requests(kind: ValueKind) {
    let server = Redis::start().await;
    for (seed, version) in [(1, Resp2), (2, Resp3), (3, Resp2), (4, Resp3)] {
        let mut redis = Client::connect(&server).await;
        redis.say(if version == Resp3 { "HELLO 3" } else { "HELLO 2" }).await;
        redis.say("FLUSHALL").await;
        let mut random = Random::new(seed);
        let mut state = None;
        let (mut errors, mut absent, mut expiring) = (0, 0, 0);
        for turn in 0..REQUESTS_PER_SEED {
            let request = random_request(&mut random, kind);
            let story = format!("seed {seed}, turn {turn}: {} on {state:?}", show(&request));
            let (reply, after) = step(&mut redis, version, kind, state, &request, &story).await;
            compare_fields(&mut redis, version, kind, after.as_ref(), &story).await;
            errors += usize::from(matches!(reply, Value::Error(_)));
            absent += usize::from(after.is_none());
            expiring += usize::from(after.as_ref().is_some_and(|r| r.expires_at_ms.is_some()));
            state = after;
        }
        // The requests reach the states that matter, and stay in none of them.
        let tenth = REQUESTS_PER_SEED / 10;
        for (name, times) in [("errors", errors), ("absent", absent), ("expiring", expiring)] {
            assert!(times > tenth && times < 8 * tenth, "{name}: {times}");
        }
    }
}

/// Sends one request to Redis and to the commands; gives the reply and the state after it.
async fn step(
    redis: &mut Client,
    version: Version,
    kind: ValueKind,
    state: Option<Record>,
    request: &Request,
    story: &str,
) -> (Value, Option<Record>) {
    let earliest = now_ms(redis).await;
    let reply = sorted(request, redis.command(request).await);
    let latest = now_ms(redis).await;
    let expiry = match redis.say("PEXPIRETIME k").await.integer() {
        at_ms if at_ms < 0 => None,
        at_ms => Some(at_ms),
    };
    let args: Vec<Bytes> = request.iter().cloned().map(Bytes::from).collect();
    if draws(request) && !reply.is_error() {
        let (given, after) = run(&args, kind, state.clone(), latest);
        let given = value(&given, version);
        let story = format!("{story}\nredis: {reply:?}\nours: {given:?}");
        assert_eq!(shape(&reply), shape(&given), "{story}");
        for drawn in [&reply, &given] {
            check_drawn(request, drawn, state.as_ref(), &story);
        }
        let is_pop = request[0].eq_ignore_ascii_case(b"SPOP");
        let after = if is_pop { popped(kind, state, &reply) } else { after };
        return (reply, after);
    }
    let mut ours = None;
    for now_ms in earliest..=latest {
        let (given, after) = run(&args, kind, state.clone(), now_ms);
        let given = sorted(request, value(&given, version));
        let found = after.as_ref().and_then(|record| record.expires_at_ms);
        if given == reply && found == expiry {
            return (reply, after);
        }
        ours = Some((given, after));
    }
    panic!("{story}\nredis: {reply:?}, expires {expiry:?}\nours: {ours:?}");
}

// === draws ===

fn draws(request: &[Vec<u8>]) -> bool {
    let name = request[0].to_ascii_uppercase();
    matches!(name.as_slice(), b"SPOP" | b"SRANDMEMBER" | b"HRANDFIELD")
}

/// The reply with all texts alike.
fn shape(reply: &Value) -> Value {
    let all = |replies: &[Value]| replies.iter().map(shape).collect();
    match reply {
        Value::Bulk(_) => Value::Bulk(Vec::new()),
        Value::Array(replies) => Value::Array(all(replies)),
        Value::Set(replies) => Value::Set(all(replies)),
        other => other.clone(),
    }
}

fn texts(reply: &Value) -> Vec<Bytes> {
    match reply {
        Value::Bulk(text) => vec![Bytes::from(text.clone())],
        Value::Array(replies) | Value::Set(replies) => replies.iter().flat_map(texts).collect(),
        _ => Vec::new(),
    }
}

/// What was drawn was there, and is there once unless the count is negative.
fn check_drawn(request: &[Vec<u8>], reply: &Value, state: Option<&Record>, story: &str) {
    let texts = texts(reply);
    let with_values = request.len() > 3;
    let mut seen = std::collections::HashSet::new();
    for drawn in texts.chunks(if with_values { 2 } else { 1 }) {
        let value = state.and_then(|record| record.fields.get(&drawn[0]));
        assert!(value.is_some(), "{:?} is not there: {story}", drawn[0]);
        assert!(!with_values || value == drawn.get(1), "{drawn:?} is not its value: {story}");
        let may_repeat = request.get(2).is_some_and(|count| count.starts_with(b"-"));
        assert!(seen.insert(&drawn[0]) || may_repeat, "{:?} comes twice: {story}", drawn[0]);
    }
}

fn popped(kind: ValueKind, state: Option<Record>, reply: &Value) -> Option<Record> {
    let mut draft = Draft::new(kind, state);
    for member in texts(reply) {
        assert!(draft.remove(&member));
    }
    draft.record().cloned()
}

/// What the commands say and leave.
fn run(
    args: &[Bytes],
    kind: ValueKind,
    state: Option<Record>,
    now_ms: i64,
) -> (Reply, Option<Record>) {
    let command = lookup(&args[0]).expect("a known command");
    if !command.arity_ok(args.len()) {
        return (Reply::Error(command.arity_error()), state);
    }
    let mut keys = Vec::new();
    command.for_each_key(args.len(), |i| &args[i], |position| keys.push(&args[position]));
    let mut draft = Draft::new(kind, state);
    let mut nowhere = Draft::new(kind, None);
    let mut replies = Vec::new();
    for key in keys {
        let draft = if key == KEY { &mut draft } else { &mut nowhere };
        replies.push(match command.mapped {
            Mapped::Read(read) => {
                let record = draft.record().map(|record| part(record, (read.need)(args)));
                let reply = (read.reply)(args, record.as_ref(), now_ms);
                if proves_existence(read.proof, &reply) {
                    assert!(record.is_some(), "{args:?}: {reply:?} proves nothing");
                }
                reply
            }
            Mapped::Write(write) => (write.run)(args, draft, now_ms),
            _ => panic!("{} is not served", command.name),
        });
    }
    assert!(!nowhere.is_changed());
    let summed = match replies.as_slice() {
        [reply] => reply.clone(),
        several => Reply::Integer(several.iter().map(integer).sum()),
    };
    (summed, draft.record().cloned())
}

/// What a store gives that was asked for `need`, and not more.
fn part(record: &Record, need: Need) -> Record {
    let mut part = record.clone();
    if need != Need::Expiry {
        part.expires_at_ms = None;
    }
    match need {
        Need::Whole | Need::Each(_) => {}
        Need::Fields(fields) => part.fields.retain(|field, _| fields.contains(field)),
        Need::Existence | Need::Expiry | Need::Count => part.fields.clear(),
        Need::Sample(count) | Need::Repeated(count) => {
            part.fields.truncate(count);
            part.sample = part.fields.keys().cloned().collect();
        }
    }
    part.others = record.fields.len() - part.fields.len();
    part
}

fn proves_existence(proof: Proof, reply: &Reply) -> bool {
    match (proof, reply) {
        (Proof::Never, _) => false,
        (Proof::NonNil, reply) => *reply != Reply::Nil,
        (Proof::NonZero, Reply::Integer(integer)) => *integer != 0,
        (Proof::NonEmpty, Reply::Array(replies)) => !replies.is_empty(),
        (Proof::NonEmpty, Reply::Map(pairs)) => !pairs.is_empty(),
        (Proof::AnyNonNil, Reply::Array(replies)) => replies.iter().any(|r| *r != Reply::Nil),
        (Proof::NonEmpty, Reply::Set(replies)) => !replies.is_empty(),
        (Proof::NonEmpty, Reply::Pairs(pairs)) => !pairs.is_empty(),
        (Proof::NonEmpty, Reply::Bulk(_)) => true,
        (Proof::NonEmpty, Reply::Nil) => false,
        (Proof::AnyNonZero, Reply::Array(replies)) => {
            replies.iter().any(|reply| *reply != Reply::Integer(0))
        }
        (Proof::Scanned, Reply::Array(parts)) => parts[1] != Reply::Array(Vec::new()),
        (Proof::NotNone, Reply::Status(status)) => *status != "none",
        (_, Reply::Error(_)) => false,
        (proof, reply) => panic!("{reply:?} cannot be judged by {proof:?}"),
    }
}

async fn compare_fields(
    redis: &mut Client,
    version: Version,
    kind: ValueKind,
    state: Option<&Record>,
    story: &str,
) {
    let read = if kind == ValueKind::Set { "SMEMBERS" } else { "HGETALL" };
    let request = vec![read.as_bytes().to_vec()];
    let found = sorted(&request, redis.say(&format!("{read} k")).await);
    let fields = state.into_iter().flat_map(|record| &record.fields);
    let pair =
        |(field, value): (&Bytes, &Bytes)| (Reply::Bulk(field.clone()), Reply::Bulk(value.clone()));
    let reply = if kind == ValueKind::Set {
        Reply::Set(fields.map(|(member, _)| Reply::Bulk(member.clone())).collect())
    } else {
        Reply::Map(fields.map(pair).collect())
    };
    assert_eq!(sorted(&request, value(&reply, version)), found, "{story}");
}

// === replies ===

async fn now_ms(redis: &mut Client) -> i64 {
    let time = redis.say("TIME").await;
    let part = |at: usize| -> i64 {
        let digits = time.elements()[at].bytes().expect("TIME gives texts");
        String::from_utf8_lossy(digits).parse().expect("TIME gives numbers")
    };
    part(0) * 1000 + part(1) / 1000
}

/// What a client reads.
fn value(reply: &Reply, version: Version) -> Value {
    let mut bytes = BytesMut::new();
    reply.write(version, &mut bytes);
    Value::parse(&bytes).expect("a whole reply").0
}

/// Redis gives the fields of a hash, and members, in an order of its own.
fn sorted(request: &[Vec<u8>], reply: Value) -> Value {
    match (request[0].to_ascii_uppercase().as_slice(), reply) {
        (b"HKEYS" | b"HVALS", Value::Array(mut elements)) => {
            elements.sort();
            Value::Array(elements)
        }
        (b"HGETALL", Value::Array(elements)) => {
            let mut pairs: Vec<_> = elements.chunks(2).collect();
            pairs.sort();
            Value::Array(pairs.concat())
        }
        (b"SMEMBERS", reply @ (Value::Array(_) | Value::Set(_))) => reply.into_set(),
        (b"HSCAN" | b"SSCAN", Value::Array(mut parts)) if parts.len() == 2 => {
            let found = parts.pop().expect("two parts");
            let is_hash = request[0].starts_with(b"H") || request[0].starts_with(b"h");
            parts.push(if is_hash { found.into_map() } else { found.into_set() });
            Value::Array(parts)
        }
        (b"HGETALL", Value::Map(mut pairs)) => {
            pairs.sort();
            Value::Map(pairs)
        }
        (_, reply) => reply,
    }
}

fn integer(reply: &Reply) -> i64 {
    match reply {
        Reply::Integer(integer) => *integer,
        other => panic!("not an integer: {other:?}"),
    }
}

fn show(request: &Request) -> String {
    request.iter().map(|word| word.escape_ascii().to_string()).collect::<Vec<_>>().join(" ")
}

// === requests ===

const FIELDS: &[&[u8]] = &[b"a", b"b", b"c", b"d", b"", b"f\0\xff", b"tokenLimit"];
const VALUES: &[&[u8]] = &[
    b"0",
    b"1",
    b"-1",
    b"41",
    b"007",
    b"+5",
    b"-0",
    b" 1",
    b"1 ",
    b"",
    b"x",
    b"3.14",
    b"1e3",
    b"1e400",
    b"9223372036854775807",
    b"-9223372036854775808",
    b"9223372036854775808",
    b"0x1p-3",
    b"inf",
    b"-Infinity",
    b"nan",
    b"1e4900",
    b"0.1",
    b"-.5",
    b"5.",
    b"1.50",
    b"1e-7",
    b"\xff\0\r\n",
    b"true",
    b"123456789012345678901234567890",
    b"0.00000000000000001",
    b"2030-01-01",
];
const INTEGERS: &[&[u8]] = &[
    b"1",
    b"1",
    b"-1",
    b"5",
    b"0",
    b"1000000",
    b"9223372036854775807",
    b"-9223372036854775808",
    b"9223372036854775808",
    b"1.5",
    b"x",
    b"",
    b"+1",
    b"01",
    b" 1",
];
const SECONDS: &[&[u8]] = &[
    b"100",
    b"500",
    b"5000",
    b"1000000",
    b"0",
    b"-1",
    b"4102444800",
    b"4102444801",
    b"9223372036854775",
    b"-9223372036854775",
    b"9223372036854776",
    b"-9223372036854776",
    b"9223372036854775807",
    b"x",
    b"1.5",
    b"",
    b" 9",
    b"+9",
];
const MILLISECONDS: &[&[u8]] = &[
    b"100000",
    b"500000",
    b"5000499",
    b"5000500",
    b"0",
    b"-1",
    b"4102444800499",
    b"4102444800500",
    b"9223372036854775807",
    b"-9223372036854775808",
    b"9223372036854775808",
    b"x",
];
const CONDITIONS: &[&[u8]] = &[b"NX", b"XX", b"GT", b"LT", b"gt", b"lt", b"xx"];
const OPTIONS: &[&[u8]] =
    &[b"NX", b"XX", b"GT", b"LT", b"nx\0x", b"AB", b"", b"a\r\nb\r\n", b"GT "];

/// Cursors and options of HSCAN and SSCAN that show everything in one step, here and there.
const SCANS: &[&[&[u8]]] = &[
    &[b"0", b"COUNT", b"999"],
    &[b"0", b"COUNT", b"1000"],
    &[b"0", b"MATCH", b"*", b"COUNT", b"999"],
    &[b"0", b"match", b"[a-c]", b"count", b"500"],
    &[b"0", b"MATCH", b"f*", b"MATCH", b"a", b"COUNT", b"999"],
    &[b"0", b"COUNT", b"0"],
    &[b"0", b"COUNT", b"x"],
    &[b"0", b"COUNT"],
    &[b"0", b"MATCH"],
    &[b"0", b"TYPE", b"hash"],
    &[b"x"],
    &[b""],
    &[b"18446744073709551616"],
    &[b"-0", b"COUNT", b"1000"],
];
const COUNTS: &[&[u8]] = &[
    b"0",
    b"1",
    b"2",
    b"3",
    b"100",
    b"-1",
    b"-3",
    b"-20",
    b"9223372036854775807",
    b"-9223372036854775808",
    b"9223372036854775808",
    b"x",
    b"",
    b"1.5",
];

const OF_HASHES: &[&str] = &[
    "HSET",
    "HSET",
    "HSET",
    "hset",
    "HMSET",
    "HSETNX",
    "HINCRBY",
    "HINCRBY",
    "HINCRBYFLOAT",
    "HINCRBYFLOAT",
    "HDEL",
    "HDEL",
    "HRANDFIELD",
    "HRANDFIELD",
    "HSCAN",
    "HGET",
    "HMGET",
    "HGETALL",
    "HKEYS",
    "HVALS",
    "HEXISTS",
    "HLEN",
    "HSTRLEN",
];
const OF_SETS: &[&str] = &[
    "SADD",
    "SADD",
    "SADD",
    "sadd",
    "SREM",
    "SREM",
    "SISMEMBER",
    "SMISMEMBER",
    "SCARD",
    "SMEMBERS",
    "SPOP",
    "SRANDMEMBER",
    "SRANDMEMBER",
    "SSCAN",
];
const OF_ALL: &[&str] = &[
    "DEL",
    "UNLINK",
    "EXISTS",
    "TYPE",
    "EXPIRE",
    "Expire",
    "PEXPIRE",
    "EXPIREAT",
    "PEXPIREAT",
    "TTL",
    "PTTL",
    "EXPIRETIME",
    "PEXPIRETIME",
    "PERSIST",
];

fn random_request(random: &mut Random, kind: ValueKind) -> Request {
    let own = if kind == ValueKind::Set { OF_SETS } else { OF_HASHES };
    let at = random.below(own.len() + OF_ALL.len());
    let name = own.get(at).unwrap_or_else(|| &OF_ALL[at - own.len()]);
    let mut request = vec![name.as_bytes(), KEY];
    let few = random.below(4) + 1;
    match name.to_ascii_uppercase().as_str() {
        "HSET" | "HMSET" => {
            for _ in 0..few {
                request.extend([random.pick(FIELDS), random.pick(VALUES)]);
            }
        }
        "HSETNX" => request.extend([random.pick(FIELDS), random.pick(VALUES)]),
        "HINCRBY" => request.extend([random.pick(FIELDS), random.pick(INTEGERS)]),
        "HINCRBYFLOAT" => request.extend([random.pick(FIELDS), random.pick(VALUES)]),
        "HDEL" | "HMGET" | "SADD" | "SREM" | "SMISMEMBER" => {
            request.extend((0..few).map(|_| random.pick(FIELDS)))
        }
        "HGET" | "HEXISTS" | "HSTRLEN" | "SISMEMBER" => request.push(random.pick(FIELDS)),
        "HSCAN" | "SSCAN" => request.extend(random.pick(SCANS)),
        "SPOP" | "SRANDMEMBER" | "HRANDFIELD" => match random.below(8) {
            0 | 1 => {}
            2 => request.extend([random.pick(COUNTS), random.pick(&[b"x", b"withvalue"])]),
            3 | 4 if kind == ValueKind::Hash => {
                request.extend([random.pick(COUNTS), b"WithValues"]);
            }
            _ => request.push(random.pick(COUNTS)),
        },
        "DEL" | "UNLINK" | "EXISTS" if random.below(2) == 0 => {
            request.extend((0..few).map(|_| random.pick(&[KEY, b"other"])));
        }
        "EXPIRE" | "EXPIREAT" | "PEXPIRE" | "PEXPIREAT" => {
            let times =
                if name.to_ascii_uppercase().starts_with('P') { MILLISECONDS } else { SECONDS };
            request.push(random.pick(times));
            match random.below(6) {
                0 | 1 => request.push(random.pick(CONDITIONS)),
                2 => request.extend((0..few).map(|_| random.pick(OPTIONS))),
                _ => {}
            }
        }
        _ => {}
    }
    // Now and then an argument too many, or one too few.
    match random.below(40) {
        0 => request.push(b"a"),
        1 => request.truncate(request.len() - 1),
        _ => {}
    }
    request.into_iter().map(<[u8]>::to_vec).collect()
}
