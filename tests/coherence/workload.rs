//! Clients that read and write at random, and write down what they did and saw.
//!
//! Half of the keys are deleted now and then, and only their register is observed; the others are
//! never deleted, and their counter is observed too. Each version is written to two fields at
//! once, so that a torn hash is found as well. A third of the keys are hashes with one row each, a third
//! hashes with one row a field, a third sets (see `members`). Every eighth request is a script.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use crate::history::{Action, NEVER, Operation, Span, Version, Violation};
use crate::keys::{Form, Names, form, is_counted};
use crate::stack::{Client, Value};

/// How much of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Size {
    pub(crate) clients: u32,
    pub(crate) seconds: u64,
    pub(crate) keys: u32,
}

/// One field is enough for the register; the second one tells whether a hash was read whole.
const REGISTER: [&str; 2] = ["first", "second"];
const COUNTER: &str = "counter";

/// Where a client goes, and what it may touch.
pub(crate) struct Scene {
    /// Addresses of the proxies (or of whatever stands for them). Fixed: a proxy that is started
    /// again has its old address.
    pub(crate) addresses: Vec<String>,
    pub(crate) size: Size,
    pub(crate) names: Names,
    manners: Manners,
    epoch: Instant,
    over: AtomicBool,
}

/// How hard a client works.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Manners {
    /// Between two requests of a client.
    pub(crate) pause: Duration,
    /// How long a client waits for a reply before it connects anew.
    pub(crate) patience: Duration,
    /// Every other request is for one of the first so many keys.
    pub(crate) hot: Option<u32>,
}

/// What all clients together did.
#[derive(Default)]
pub(crate) struct Record {
    names: Names,
    /// By key.
    pub(crate) histories: HashMap<u32, Vec<Operation>>,
    /// Of sets: by key and pair of members.
    pub(crate) pairs: HashMap<(u32, Version), Vec<Operation>>,
    /// Of sets: the deletes, by key.
    pub(crate) cleared: HashMap<u32, Vec<Operation>>,
    pub(crate) answered: u64,
    /// Error replies, by text.
    pub(crate) errors: HashMap<String, u64>,
    /// Requests whose connection ended before the reply.
    pub(crate) unanswered: u64,
    pub(crate) violations: Vec<Violation>,
}

/// What one request came to.
pub(crate) enum Outcome {
    Reply(Value),
    /// An error reply that says for certain that nothing happened.
    Refused,
    /// Nobody knows.
    Unknown,
}

/// One client at work.
pub(crate) struct Worker {
    scene: Arc<Scene>,
    number: u32,
    serial: u32,
    random: Random,
    connection: Option<Client>,
    /// Whether the connection is to another proxy than the client's own.
    is_away: bool,
    /// The last connection broke: the next one is to the next proxy.
    is_shy: bool,
    /// Pairs of members that it has added or seen, by key.
    pub(crate) pairs: HashMap<u32, VecDeque<Version>>,
    pub(crate) record: Record,
}

/// The same request as a script, which Redis runs on lent values.
fn in_script<'a>(arguments: &[&'a str]) -> Vec<&'a str> {
    let [name, key, rest @ ..] = arguments else { panic!("{arguments:?} has no key") };
    let writes = ["HSET", "HINCRBY", "DEL", "SADD", "SREM"].contains(name);
    let script = "return redis.call(ARGV[1], KEYS[1], unpack(ARGV, 2))";
    let eval = if writes { "EVAL" } else { "EVAL_RO" };
    [&[eval, script, "1", key, name], rest].concat()
}

/// Marsaglia's xorshift: good enough to choose keys, and without a dependency.
struct Random(u64);

// === impl Scene ===

impl Default for Manners {
    fn default() -> Self {
        Self { pause: Duration::ZERO, patience: crate::stack::process::DEADLINE, hot: None }
    }
}

impl Scene {
    pub(crate) fn new(
        addresses: Vec<String>,
        size: Size,
        names: Names,
        manners: Manners,
    ) -> Arc<Self> {
        assert!(size.clients > 0 && size.keys > 1, "{size:?} is too small");
        let (epoch, over) = (Instant::now(), AtomicBool::new(false));
        Arc::new(Self { addresses, size, names, manners, epoch, over })
    }

    /// Runs all clients for the given time (and until `meanwhile`, which runs beside them, is done), and
    /// reads every key through every address at the end.
    pub(crate) async fn play(self: &Arc<Self>, meanwhile: impl AsyncFnOnce(&Scene)) -> Record {
        let mut clients: JoinSet<Record> =
            (0..self.size.clients).map(|number| Worker::new(self, number).work()).collect();
        meanwhile(self).await;
        tokio::time::sleep_until((self.epoch + Duration::from_secs(self.size.seconds)).into())
            .await;
        self.over.store(true, Ordering::Relaxed);
        let mut record = self.record();
        while let Some(client) = clients.join_next().await {
            record.add(client.expect("a client does not panic"));
        }
        for (place, _) in self.addresses.iter().enumerate() {
            let mut reader = Worker::new(self, u32::try_from(place).expect("a few addresses"));
            for key in 0..self.size.keys {
                match form(key) {
                    Form::Hash | Form::Entries => reader.read_whole(key).await,
                    Form::Set => reader.read_members(key).await,
                }
            }
            assert_eq!(reader.record.unanswered, 0, "the last reads were not answered");
            assert_eq!(reader.record.errors, HashMap::new(), "the last reads failed");
            record.add(reader.record);
        }
        record
    }

    fn record(&self) -> Record {
        Record { names: self.names.clone(), ..Record::default() }
    }

    /// How long it has been going on.
    pub(crate) fn elapsed(&self) -> Duration {
        self.epoch.elapsed()
    }

    fn now_ns(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_nanos()).expect("no run takes 500 years")
    }
}

// === impl Record ===

impl Record {
    fn add(&mut self, other: Record) {
        for (key, history) in other.histories {
            self.histories.entry(key).or_default().extend(history);
        }
        for (pair, history) in other.pairs {
            self.pairs.entry(pair).or_default().extend(history);
        }
        for (key, deletes) in other.cleared {
            self.cleared.entry(key).or_default().extend(deletes);
        }
        for (text, count) in other.errors {
            *self.errors.entry(text).or_default() += count;
        }
        self.answered += other.answered;
        self.unanswered += other.unanswered;
        self.violations.extend(other.violations);
    }

    /// Everything that no single Redis would have done, key by key.
    pub(crate) fn check(&self) -> Vec<String> {
        let mut all: Vec<String> =
            self.violations.iter().map(|violation| violation.0.clone()).collect();
        for (key, history) in &self.histories {
            let found = [crate::register::check(history), crate::counter::check(history)].concat();
            all.extend(
                found
                    .into_iter()
                    .map(|violation| format!("{}: {}", self.names.key(*key), violation.0)),
            );
        }
        for ((key, version), history) in &self.pairs {
            let cleared = self.cleared.get(key).map_or(&[][..], Vec::as_slice);
            let found = crate::members::check(history, cleared);
            let told =
                |Violation(text)| format!("{} {}: {text}", self.names.key(*key), version.text());
            all.extend(found.into_iter().map(told));
        }
        all.sort();
        all
    }

    /// One line for people.
    pub(crate) fn summary(&self) -> String {
        format!(
            "{} answered, {} unanswered, {} pairs of members, errors: {:?}",
            self.answered,
            self.unanswered,
            self.pairs.len(),
            self.errors
        )
    }
}

// === impl Worker ===

impl Worker {
    fn new(scene: &Arc<Scene>, number: u32) -> Self {
        let seed = scene.now_ns() ^ (u64::from(number) << 40) ^ 0x9e37_79b9_7f4a_7c15;
        Self {
            scene: Arc::clone(scene),
            number,
            serial: 0,
            random: Random(seed | 1),
            connection: None,
            is_away: false,
            is_shy: false,
            pairs: HashMap::new(),
            record: scene.record(),
        }
    }

    async fn work(mut self) -> Record {
        while !self.scene.over.load(Ordering::Relaxed) {
            if !self.scene.manners.pause.is_zero() {
                tokio::time::sleep(self.scene.manners.pause).await;
            }
            if self.is_away && self.random.below(100) == 0 {
                self.connection = None;
            }
            let key = self.choose_key();
            if form(key) == Form::Set {
                self.work_on_set(key).await;
                continue;
            }
            match self.random.below(100) {
                0..25 => self.write(key).await,
                25..45 => self.increment(key).await,
                45..65 => self.read_register(key).await,
                65..75 => self.read_counter(key).await,
                75..93 => self.read_whole(key).await,
                _ if is_counted(key) => self.write(key).await,
                _ => self.delete(key).await,
            }
        }
        self.record
    }

    fn choose_key(&mut self) -> u32 {
        match self.scene.manners.hot {
            Some(hot) if self.random.below(2) == 0 => self.random.below(hot),
            _ => self.random.below(self.scene.size.keys),
        }
    }

    pub(crate) fn below(&mut self, bound: u32) -> u32 {
        self.random.below(bound)
    }

    pub(crate) fn name(&self, key: u32) -> String {
        self.scene.names.key(key)
    }

    pub(crate) fn next_version(&mut self) -> Version {
        let version = Version { client: self.number, serial: self.serial };
        self.serial += 1;
        version
    }

    async fn write(&mut self, key: u32) {
        let version = self.next_version();
        let text = version.text();
        let name = self.name(key);
        let (span, outcome) =
            self.ask(&["HSET", &name, REGISTER[0], &text, REGISTER[1], &text]).await;
        match outcome {
            Outcome::Reply(Value::Integer(0..=2)) | Outcome::Unknown => {
                self.note(key, span, Action::Write(version));
            }
            Outcome::Reply(other) => self.odd("HSET", key, &other),
            Outcome::Refused => {}
        }
    }

    async fn increment(&mut self, key: u32) {
        let (span, outcome) = self.ask(&["HINCRBY", &self.name(key), COUNTER, "1"]).await;
        let reply = match outcome {
            Outcome::Reply(Value::Integer(reply)) => Some(reply),
            Outcome::Reply(other) => return self.odd("HINCRBY", key, &other),
            Outcome::Unknown => None,
            Outcome::Refused => return,
        };
        if is_counted(key) {
            self.note(key, span, Action::Increment(reply));
        }
    }

    async fn delete(&mut self, key: u32) {
        let (span, outcome) = self.ask(&["DEL", &self.name(key)]).await;
        match outcome {
            Outcome::Reply(Value::Integer(0 | 1)) | Outcome::Unknown => {
                self.note(key, span, Action::Delete);
            }
            Outcome::Reply(other) => self.odd("DEL", key, &other),
            Outcome::Refused => {}
        }
    }

    async fn read_register(&mut self, key: u32) {
        let (span, outcome) = self.ask(&["HGET", &self.name(key), REGISTER[0]]).await;
        match outcome {
            Outcome::Reply(Value::NilBulk) => self.note(key, span, Action::Read(None)),
            Outcome::Reply(Value::Bulk(bytes)) => self.note_version(key, span, &bytes),
            Outcome::Reply(other) => self.odd("HGET", key, &other),
            Outcome::Unknown | Outcome::Refused => {}
        }
    }

    async fn read_counter(&mut self, key: u32) {
        let (span, outcome) = self.ask(&["HGET", &self.name(key), COUNTER]).await;
        match outcome {
            Outcome::Reply(Value::NilBulk) => self.note_count(key, span, b"0"),
            Outcome::Reply(Value::Bulk(bytes)) => self.note_count(key, span, &bytes),
            Outcome::Reply(other) => self.odd("HGET", key, &other),
            Outcome::Unknown | Outcome::Refused => {}
        }
    }

    async fn read_whole(&mut self, key: u32) {
        let (span, outcome) = self.ask(&["HGETALL", &self.name(key)]).await;
        let Outcome::Reply(reply) = outcome else { return };
        let mut fields = HashMap::new();
        match &reply {
            Value::Array(elements) => {
                for pair in elements.chunks(2) {
                    let [Value::Bulk(field), Value::Bulk(value)] = pair else {
                        return self.odd("HGETALL", key, &reply);
                    };
                    fields.insert(String::from_utf8_lossy(field).into_owned(), value.clone());
                }
            }
            _ => return self.odd("HGETALL", key, &reply),
        }
        let counter = fields.remove(COUNTER);
        let [first, second] = REGISTER.map(|field| fields.remove(field));
        if first != second || !fields.is_empty() {
            return self.odd("HGETALL", key, &reply);
        }
        match first {
            None => self.note(key, span, Action::Read(None)),
            Some(bytes) => self.note_version(key, span, &bytes),
        }
        self.note_count(key, span, counter.as_deref().unwrap_or(b"0"));
    }

    fn note(&mut self, key: u32, span: Span, action: Action) {
        self.record.histories.entry(key).or_default().push(Operation { span, action });
    }

    fn note_version(&mut self, key: u32, span: Span, bytes: &[u8]) {
        match Version::parse(&String::from_utf8_lossy(bytes)) {
            Ok(version) => self.note(key, span, Action::Read(Some(version))),
            Err(violation) => self.record.violations.push(violation),
        }
    }

    fn note_count(&mut self, key: u32, span: Span, bytes: &[u8]) {
        if !is_counted(key) {
            return;
        }
        let text = String::from_utf8_lossy(bytes);
        match text.parse() {
            Ok(value) => self.note(key, span, Action::Count(value)),
            Err(_) => {
                let text = format!("{}: not a counter: {text:?}", self.name(key));
                self.record.violations.push(Violation(text));
            }
        }
    }

    pub(crate) fn odd(&mut self, command: &str, key: u32, reply: &Value) {
        let lines = reply.lines().join(" ");
        let text = format!("{command} {}: an odd reply: {lines}", self.name(key));
        self.record.violations.push(Violation(text));
    }

    /// Sends one request and waits for its reply, over a new connection if the last one broke.
    pub(crate) async fn ask(&mut self, arguments: &[&str]) -> (Span, Outcome) {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.connect().await,
        };
        let script = (self.random.below(8) == 0).then(|| in_script(arguments));
        let arguments = script.as_deref().unwrap_or(arguments);
        let start_ns = self.scene.now_ns();
        let reply = connection.try_command(arguments);
        let reply = tokio::time::timeout(self.scene.manners.patience, reply).await;
        let reply = reply.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()));
        let end_ns = self.scene.now_ns();
        let unknown = Span { start_ns, end_ns: NEVER };
        match reply {
            Ok(Value::Error(text)) => {
                self.connection = Some(connection);
                let certain = text.contains("nothing was written");
                *self.record.errors.entry(text).or_default() += 1;
                (unknown, if certain { Outcome::Refused } else { Outcome::Unknown })
            }
            Ok(value) => {
                self.connection = Some(connection);
                self.record.answered += 1;
                (Span { start_ns, end_ns }, Outcome::Reply(value))
            }
            Err(_) => {
                self.record.unanswered += 1;
                self.is_shy = !self.is_away;
                (unknown, Outcome::Unknown)
            }
        }
    }

    /// To the client's own proxy, or to the next one that lets it in.
    async fn connect(&mut self) -> Client {
        let start = Instant::now();
        let own = self.number as usize;
        for away in usize::from(std::mem::take(&mut self.is_shy)).. {
            let place = (own + away) % self.scene.addresses.len();
            match Client::try_connect_to(&self.scene.addresses[place]).await {
                Ok(client) => {
                    self.is_away = place != own % self.scene.addresses.len();
                    return client;
                }
                Err(error) => assert!(
                    start.elapsed() < crate::stack::process::DEADLINE,
                    "no proxy lets a client in: {error}"
                ),
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        unreachable!("the loop ends by returning or by failing")
    }
}

// === impl Random ===

impl Random {
    fn below(&mut self, bound: u32) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        u32::try_from((self.0 >> 32) % u64::from(bound)).expect("less than a u32")
    }
}
