//! An app at work, all the time: it says the relay's record again and again, and beside that places orders, over
//! connections of their own. Every reply is checked.
//!
//! - The record is said to a plain Redis as well, at the same time, and the replies are compared by the rules of
//!   `relay/difference.toml`.
//! - Orders are hashes that one connection each knows all about: what they hold is kept here.
//!
//! Where the app finds its Redis is what a deploy changes. A connection is opened anew, between two requests, when
//! that was changed. No request is tried again, the first reply counts; but for one thing that operators are told: a SCAN that
//! was under way while mappings went back to Redis, and missed a key, is begun anew.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::difference::Difference;
use crate::replay::{Talk, writes};
use crate::stack::{Client, Random, Redis, Server, Value, wait_until};
use crate::traffic::Recorded;

/// Connections that place orders.
pub const CLERKS: u64 = 6;

/// Where the app finds its Redis by now.
pub struct Service {
    address: Mutex<String>,
    /// Who has opened a connection to that address: a number for the record, and one for each clerk.
    moved: Mutex<Vec<u64>>,
}

/// What all of the app have in common.
pub struct App {
    pub service: Service,
    /// What the record is compared with.
    plain: Redis,
    record: Vec<Recorded>,
    orders: u64,
    over: AtomicBool,
    /// Mappings are going back to Redis.
    pub goes_back: AtomicBool,
    /// SCANs that were begun anew for that.
    pub begun_anew: AtomicU64,
    pub replies: AtomicU64,
    /// How often the whole record was said.
    pub rounds: AtomicU64,
    pub slowest: Mutex<Duration>,
}

/// One connection that places orders, and what it knows of them.
struct Clerk<'a> {
    app: &'a App,
    number: u64,
    random: Random,
    orders: BTreeMap<u64, Fields>,
    address: String,
    client: Client,
}

type Fields = BTreeMap<String, String>;

// === impl Service ===

impl Service {
    /// From now on the app finds it there. Completes when every connection has been opened anew.
    pub async fn move_to(&self, address: String) {
        *self.address.lock().unwrap() = address;
        self.moved.lock().unwrap().clear();
        wait_until("the app has moved", async || {
            // The record's own connections, which open when they are used, and each clerk.
            self.moved.lock().unwrap().len() as u64 > CLERKS
        })
        .await;
    }

    fn has_moved(&self, who: u64) {
        let mut moved = self.moved.lock().unwrap();
        if !moved.contains(&who) {
            moved.push(who);
        }
    }
}

impl Server for Service {
    fn address(&self) -> String {
        self.address.lock().unwrap().clone()
    }
}

// === impl App ===

impl App {
    pub async fn new(redis: &Redis, record: Vec<Recorded>, orders: u64) -> Self {
        Self {
            service: Service { address: Mutex::new(redis.address()), moved: Mutex::default() },
            plain: Redis::start().await,
            record,
            orders,
            over: AtomicBool::new(false),
            goes_back: AtomicBool::new(false),
            begun_anew: AtomicU64::new(0),
            replies: AtomicU64::new(0),
            rounds: AtomicU64::new(0),
            slowest: Mutex::default(),
        }
    }

    pub fn end(&self) {
        self.over.store(true, Ordering::Relaxed);
    }

    /// As `rounds_pass`; at once for none.
    pub async fn rounds_pass_if_any(&self, count: u64) {
        if count > 0 {
            self.rounds_pass(count).await;
        }
    }

    /// Completes when the whole record has been said so often from now on.
    pub async fn rounds_pass(&self, count: u64) {
        // One is under way.
        let wanted = self.rounds.load(Ordering::Relaxed) + count + 1;
        while self.rounds.load(Ordering::Relaxed) < wanted {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    fn heard(&self, replies: usize, since: Instant) {
        self.replies.fetch_add(replies as u64, Ordering::Relaxed);
        let mut slowest = self.slowest.lock().unwrap();
        *slowest = (*slowest).max(since.elapsed());
    }

    /// Says the record until it is over; a round that has begun is said to its end.
    pub async fn say_record(&self) {
        let difference = Difference::load();
        let (mut plain, mut talk) = (Talk::begin(&self.plain), Talk::begin(&self.service));
        while !self.is_over() {
            for batch in writes(&self.record) {
                let start = Instant::now();
                let address = self.service.address();
                let mut may_miss = self.goes_back.load(Ordering::Relaxed);
                tokio::join!(plain.say(batch), talk.say(batch));
                may_miss |= self.goes_back.load(Ordering::Relaxed);
                while may_miss && batch[0].name() == "scan" && plain.last() != talk.last() {
                    may_miss = self.goes_back.load(Ordering::Relaxed);
                    talk.say_again(batch).await;
                    self.begun_anew.fetch_add(1, Ordering::Relaxed);
                }
                self.heard(batch.len(), start);
                if address == self.service.address() {
                    self.service.has_moved(0);
                }
            }
            let (expected, got) = (plain.take(), talk.take());
            let report = difference.compare(&self.record, &expected, &got);
            let shown = report.faults.iter().take(5).cloned().collect::<Vec<_>>().join("\n");
            assert!(shown.is_empty(), "{} wrong replies:\n{shown}", report.faults.len());
            self.rounds.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Places orders until it is over; what all of them hold then.
    pub async fn place_orders(&self, number: u64) -> BTreeMap<u64, Fields> {
        let address = self.service.address();
        let client = Client::connect_to(&address).await;
        let random = Random::new(number);
        let orders = BTreeMap::new();
        let mut clerk = Clerk { app: self, number, random, orders, address, client };
        for id in (0..self.orders).filter(|id| id % CLERKS + 1 == number) {
            clerk.place(id).await;
        }
        while !self.is_over() {
            clerk.work().await;
            // An app has something else to do, too.
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        clerk.orders
    }

    /// Whether a server has every key of the record as plain Redis has it, and all orders; how many keys.
    pub async fn compare_all(&self, server: &impl Server, orders: &BTreeMap<u64, Fields>) -> usize {
        let (mut plain, mut here) =
            (Client::connect(&self.plain).await, Client::connect(server).await);
        let mut compared = 0;
        // Nothing has come back that was deleted. Some end just now.
        wait_until("both have the same keys", async || {
            names(&mut plain).await == names(&mut here).await
        })
        .await;
        let placed = here.say("KEYS order:*").await;
        assert_eq!(placed.elements().len(), orders.len(), "orders");
        for key in plain.say("KEYS *").await.elements() {
            let key = key.bytes().expect("a key");
            let name = String::from_utf8_lossy(key).into_owned();
            let kind = plain.command(&[b"TYPE".as_slice(), key]).await;
            let words: &[&[u8]] = match kind.bytes() {
                Some(b"hash") => &[b"HGETALL", key],
                Some(b"set") => &[b"SMEMBERS", key],
                Some(b"string") => &[b"GET", key],
                Some(b"zset") => &[b"ZRANGE", key, b"0", b"-1", b"WITHSCORES"],
                Some(b"list") => &[b"LRANGE", key, b"0", b"-1"],
                // Redis chooses the ids of a stream's entries itself.
                _ => continue,
            };
            let sorted = |value: Value| match words[0] {
                b"HGETALL" => value.into_map(),
                b"SMEMBERS" => value.into_set(),
                _ => value,
            };
            let expected = sorted(plain.command(words).await);
            let got = sorted(here.command(words).await);
            assert_eq!(got.lines(), expected.lines(), "{name}");
            let ttl = [b"PTTL".as_slice(), key];
            let (expected, got) = (plain.command(&ttl).await, here.command(&ttl).await);
            let off = (expected.integer() - got.integer()).abs();
            assert!(
                off < 2000,
                "{name} ends in {} ms, not in {}",
                got.integer(),
                expected.integer()
            );
            compared += 1;
        }
        for (id, fields) in orders {
            let got = here.say(&format!("HGETALL order:{id}")).await;
            assert_eq!(got.into_map(), map_of(fields), "order:{id}");
            // Orders stay.
            let end = here.say(&format!("PTTL order:{id}")).await;
            assert_eq!(end, Value::Integer(-1), "order:{id}");
            compared += 1;
        }
        compared
    }
}

// === impl Clerk ===

impl Clerk<'_> {
    async fn say(&mut self, line: &str) -> Value {
        let start = Instant::now();
        let address = self.app.service.address();
        if address != self.address {
            self.client = Client::connect_to(&address).await;
            self.address = address;
        }
        let reply = self.client.say(line).await;
        self.app.heard(1, start);
        if self.address == self.app.service.address() {
            self.app.service.has_moved(self.number);
        }
        reply
    }

    async fn check(&mut self, line: &str, expected: Value) {
        let address = self.address.clone();
        let got = self.say(line).await;
        let got = if line.starts_with("HGETALL") { got.into_map() } else { got };
        assert_eq!(got, expected, "{line}, at {address}");
    }

    async fn place(&mut self, id: u64) {
        let hour = self.random.below(24);
        let fields: Fields = [
            ("status", "new".to_owned()),
            ("visits", "0".to_owned()),
            ("total", format!("{}.50", self.random.below(1000))),
            ("isPaid", self.random.pick(&["true", "false"]).to_owned()),
            ("createdAt", format!("2026-03-04T{hour:02}:06:07.089Z")),
            ("note", format!("order {id}")),
        ]
        .map(|(field, value)| (field.to_owned(), value))
        .into();
        let pairs: Vec<String> =
            fields.iter().map(|(field, value)| format!("{field} \"{value}\"")).collect();
        self.check(&format!("HSET order:{id} {}", pairs.join(" ")), Value::Integer(6)).await;
        self.orders.insert(id, fields);
    }

    /// One request about an order of its own.
    async fn work(&mut self) {
        let at = self.random.below(self.orders.len());
        let Some((&id, fields)) = self.orders.iter_mut().nth(at) else { return };
        match self.random.below(10) {
            0..=3 => {
                let expected = map_of(fields);
                self.check(&format!("HGETALL order:{id}"), expected).await;
            }
            4 => {
                let expected = Value::Bulk(fields["status"].clone().into_bytes());
                self.check(&format!("HGET order:{id} status"), expected).await;
            }
            5 | 6 => {
                let visits = fields["visits"].parse::<i64>().unwrap() + 1;
                fields.insert("visits".to_owned(), visits.to_string());
                self.check(&format!("HINCRBY order:{id} visits 1"), Value::Integer(visits)).await;
            }
            7 => {
                let status = format!("{}", self.random.bits());
                fields.insert("status".to_owned(), status.clone());
                self.check(&format!("HSET order:{id} status {status}"), Value::Integer(0)).await;
            }
            8 => {
                let was_there = i64::from(fields.remove("note").is_some());
                self.check(&format!("HDEL order:{id} note"), Value::Integer(was_there)).await;
            }
            _ => {
                self.check(&format!("DEL order:{id}"), Value::Integer(1)).await;
                self.check(&format!("EXISTS order:{id}"), Value::Integer(0)).await;
                self.place(id).await;
            }
        }
    }
}

fn map_of(fields: &Fields) -> Value {
    let bulk = |text: &String| Value::Bulk(text.clone().into_bytes());
    let parts = fields.iter().flat_map(|(field, value)| [bulk(field), bulk(value)]);
    Value::Array(parts.collect()).into_map()
}

/// All keys but the orders, and respgres' own.
async fn names(client: &mut Client) -> Vec<Vec<u8>> {
    let all = client.say("KEYS *").await;
    let names = all.elements().iter().filter_map(Value::bytes);
    let others = |name: &&[u8]| !name.starts_with(b"order:") && !name.starts_with(b"respgres:");
    let mut names: Vec<Vec<u8>> = names.filter(others).map(<[u8]>::to_vec).collect();
    names.sort();
    names
}
