//! The commands on mapped hashes against a Redis 7.0.15: the same random requests, the same
//! replies, the same errors, the same state.
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
    let server = Redis::start().await;
    for (seed, version) in [(1, Resp2), (2, Resp3), (3, Resp2), (4, Resp3)] {
        let mut redis = Client::connect(&server).await;
        redis.say(if version == Resp3 { "HELLO 3" } else { "HELLO 2" }).await;
        redis.say("FLUSHALL").await;
        let mut random = Random::new(seed);
        let mut state = None;
        let (mut errors, mut absent, mut expiring) = (0, 0, 0);
        for turn in 0..REQUESTS_PER_SEED {
            let request = random_request(&mut random);
            let story = format!("seed {seed}, turn {turn}: {} on {state:?}", show(&request));
            let (reply, after) = step(&mut redis, version, state, &request, &story).await;
            compare_fields(&mut redis, version, after.as_ref(), &story).await;
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
    let mut ours = None;
    for now_ms in earliest..=latest {
        let (given, after) = run(&args, state.clone(), now_ms);
        let given = sorted(request, value(&given, version));
        let found = after.as_ref().and_then(|record| record.expires_at_ms);
        if given == reply && found == expiry {
            return (reply, after);
        }
        ours = Some((given, after));
    }
    panic!("{story}\nredis: {reply:?}, expires {expiry:?}\nours: {ours:?}");
}

/// What the commands say and leave.
fn run(args: &[Bytes], state: Option<Record>, now_ms: i64) -> (Reply, Option<Record>) {
    let command = lookup(&args[0]).expect("a known command");
    if !command.arity_ok(args.len()) {
        return (Reply::Error(command.arity_error()), state);
    }
    let mut keys = Vec::new();
    command.for_each_key(args.len(), |i| &args[i], |position| keys.push(&args[position]));
    let mut draft = Draft::new(ValueKind::Hash, state);
    let mut nowhere = Draft::new(ValueKind::Hash, None);
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
            Mapped::NotApplicable | Mapped::Refused(_) => panic!("{} is not served", command.name),
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
        Need::Whole => {}
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
        (Proof::NotNone, Reply::Status(status)) => *status != "none",
        (proof, reply) => panic!("{reply:?} cannot be judged by {proof:?}"),
    }
}

async fn compare_fields(redis: &mut Client, version: Version, state: Option<&Record>, story: &str) {
    let hgetall = vec![b"HGETALL".to_vec()];
    let found = sorted(&hgetall, redis.say("HGETALL k").await);
    let fields = state.into_iter().flat_map(|record| &record.fields);
    let pair =
        |(field, value): (&Bytes, &Bytes)| (Reply::Bulk(field.clone()), Reply::Bulk(value.clone()));
    let expected = value(&Reply::Map(fields.map(pair).collect()), version);
    assert_eq!(sorted(&hgetall, expected), found, "{story}");
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

/// Redis gives the fields of a hash in an order of its own.
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

fn random_request(random: &mut Random) -> Request {
    let names: &[&str] = &[
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
        "HGET",
        "HMGET",
        "HGETALL",
        "HKEYS",
        "HVALS",
        "HEXISTS",
        "HLEN",
        "HSTRLEN",
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
    let name = random.pick(names);
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
        "HDEL" | "HMGET" => request.extend((0..few).map(|_| random.pick(FIELDS))),
        "HGET" | "HEXISTS" | "HSTRLEN" => request.push(random.pick(FIELDS)),
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
