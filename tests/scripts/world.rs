//! A small world: the real scripts in a real Redis, a simulated Postgres with its locks, writers and
//! readers that take one step at a time, and messages to Redis that arrive late or never.
//!
//! Key 1 is a set, whose members say which field they stand for and in which version; the other is a hash.
//!
//! One thing has to hold after every step: a copy, if there is one, says what the row says, and a
//! key that is known to be absent has no row.

use std::collections::BTreeMap;

use respgres::upstream::scripts::{Script, aside_of, mark_of};

use crate::blocking::Blocking;
use crate::stack::{Random, Value};

const KEYS: usize = 2;
const WRITERS: usize = 2;
const READERS: usize = 3;
const LATER: &str = "4102444800000";

/// A key's name made into that of what stands beside it.
type Naming = fn(&[u8]) -> Vec<u8>;
type Row = Option<BTreeMap<String, u64>>;

/// How a protocol can be broken on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mutant {
    None,
    /// The first text is replaced by the second in the script.
    Script(Script, &'static str, &'static str),
    /// COMMIT does not wait for the answer to `begin`.
    CommitFirst,
    /// `begin` is sent before the lock is granted.
    BeginUnlocked,
    /// The probe always says that no writer is there.
    NoProbe,
    /// The row is read before the probe.
    ProbeLate,
    /// What was lost is sent again with its old token.
    SameToken,
    /// A COMMIT that nobody waits for any more is ended as if it had been refused.
    EndInDoubt,
}

pub(crate) struct World<'r> {
    redis: &'r mut Blocking,
    random: Random,
    mutant: Mutant,
    rows: [Row; KEYS],
    /// The writer that holds each key's lock.
    locks: [Option<usize>; KEYS],
    /// Readers that hold it shared.
    shared: [Vec<usize>; KEYS],
    actors: Vec<Actor>,
    messages: Vec<Message>,
    /// Transactions whose COMMIT runs although their writer has died.
    orphans: Vec<(usize, Vec<(usize, Row)>)>,
    /// A row or a copy may have changed.
    changed: bool,
    versions: u64,
    tokens: u64,
    pub(crate) told: Vec<String>,
    /// How often it came to this.
    pub(crate) seen: Seen,
}

#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Seen {
    pub(crate) fills: u64,
    pub(crate) restored: u64,
    pub(crate) absent: u64,
    pub(crate) late: u64,
}

struct Message {
    script: Script,
    keys: Vec<usize>,
    arguments: Vec<String>,
    /// Who waits for the answer.
    waits: Option<usize>,
    /// Its connection was lost on the way.
    lost: bool,
}

enum Actor {
    Writer { step: Write, keys: Vec<usize>, token: String, after: Vec<Row>, deltas: Vec<String> },
    Reader { step: Read, key: usize, token: String, row: Row, free: bool },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Write {
    Start,
    Locked,
    Beginning,
    Begun,
    Committed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Read {
    Start,
    Missing,
    Leased,
    Probed,
    Selected,
}

impl<'r> World<'r> {
    pub(crate) fn new(redis: &'r mut Blocking, seed: u64, mutant: Mutant) -> Self {
        redis.call(&["FLUSHALL"]);
        let mut world = Self {
            redis,
            random: Random::new(seed),
            mutant,
            rows: std::array::from_fn(|_| Some([("a".to_owned(), 0)].into())),
            locks: [None; KEYS],
            shared: [const { Vec::new() }; KEYS],
            actors: Vec::new(),
            messages: Vec::new(),
            orphans: Vec::new(),
            changed: false,
            versions: 0,
            tokens: 0,
            told: Vec::new(),
            seen: Seen::default(),
        };
        for actor in 0..WRITERS + READERS {
            let new = world.new_actor(actor);
            world.actors.push(new);
        }
        world
    }

    /// Lets chance make so many steps; what is wrong after one of them, if anything.
    pub(crate) fn play(&mut self, steps: usize) -> Result<(), String> {
        for _ in 0..steps {
            match self.random.below(40) {
                0..=17 => {
                    let actor = self.random.below(self.actors.len());
                    self.step(actor);
                }
                18..=33 => self.deliver(),
                34..=36 => self.lose(),
                37 | 38 => self.forget(),
                _ => self.commit_orphan(),
            }
            if std::mem::take(&mut self.changed) {
                self.check()?;
            }
        }
        Ok(())
    }

    fn check(&mut self) -> Result<(), String> {
        for key in 0..KEYS {
            let copy = self.copy(key);
            if copy.is_some() && copy != self.rows[key] {
                return Err(format!("key {key}: copy {copy:?}, row {:?}", self.rows[key]));
            }
            let mark = self.redis.call(&[b"GET".to_vec(), mark_of(&name(key)).to_vec()]);
            if mark == Value::Bulk(b"gone".to_vec()) {
                self.seen.absent += 1;
                if self.rows[key].is_some() {
                    return Err(format!("key {key}: known to be absent, row {:?}", self.rows[key]));
                }
            }
        }
        Ok(())
    }

    /// The cached copy, as a row.
    fn copy(&mut self, key: usize) -> Row {
        let read = if is_set(key) { "SMEMBERS" } else { "HGETALL" };
        let reply = self.redis.call(&[read.as_bytes().to_vec(), name(key)]);
        let Value::Array(words) = &reply else { panic!("{reply:?}") };
        let text = |word: &Value| {
            String::from_utf8_lossy(word.bytes().expect("a bulk string")).into_owned()
        };
        let words: Vec<String> = if is_set(key) {
            let parts = |word: &Value| text(word).split(':').map(str::to_owned).collect::<Vec<_>>();
            words.iter().flat_map(parts).collect()
        } else {
            words.iter().map(text).collect()
        };
        let pairs = words
            .chunks(2)
            .map(|pair| (pair[0].clone(), pair[1].parse::<u64>().expect("a version")));
        (!words.is_empty()).then(|| pairs.collect())
    }

    // --- the messages ---

    fn send(
        &mut self,
        script: Script,
        keys: Vec<usize>,
        arguments: Vec<String>,
        waits: Option<usize>,
    ) {
        // What nobody waits for may take its time anyway.
        let lost = waits.is_none() && self.random.below(4) == 0;
        self.messages.push(Message { script, keys, arguments, waits, lost });
    }

    /// One message arrives, not always the oldest.
    fn deliver(&mut self) {
        if self.messages.is_empty() {
            return;
        }
        let at = self.random.below(self.messages.len());
        // What nobody waits for any more takes its time.
        if self.messages[at].lost && self.random.below(6) > 0 {
            return;
        }
        self.seen.late += u64::from(self.messages[at].lost);
        self.changed = true;
        let message = self.messages.remove(at);
        let answer = self.run(&message);
        if let Some(actor) = message.waits {
            self.answered(actor, &answer);
        }
    }

    fn run(&mut self, message: &Message) -> Value {
        let mut text = message.script.text().into_owned();
        if let Mutant::Script(script, from, to) = self.mutant
            && script == message.script
        {
            assert!(text.contains(from), "{from:?} is not in the script");
            text = text.replace(from, to);
        }
        let parts: &[Naming] = match message.script {
            Script::Begin | Script::End | Script::Inval => {
                &[<[u8]>::to_vec, |key| mark_of(key).to_vec(), |key| aside_of(key).to_vec()]
            }
            Script::Miss | Script::Fill => &[<[u8]>::to_vec, |key| mark_of(key).to_vec()],
            Script::Unlease => &[|key| mark_of(key).to_vec()],
            // About keys that are not mapped.
            Script::Undo => &[<[u8]>::to_vec],
            // It is about no key.
            Script::Remember => &[],
            // See `flushing`.
            Script::Behind
            | Script::Step
            | Script::Clean
            | Script::Sweep
            | Script::Empty
            | Script::Beat
            | Script::Announce => &[],
            // See `import`.
            Script::Original | Script::Adopt | Script::Look => &[],
            // See `completion`.
            Script::Complete | Script::Mend => &[],
        };
        let keys: Vec<Vec<u8>> = message
            .keys
            .iter()
            .flat_map(|&key| parts.iter().map(move |part| part(&name(key))))
            .collect();
        let mut words = vec![b"EVAL".to_vec(), text.into_bytes(), keys.len().to_string().into()];
        words.extend(keys);
        words.extend(message.arguments.iter().map(|argument| argument.clone().into_bytes()));
        let before = self.copies();
        let answer = self.redis.call(&words);
        assert!(!matches!(answer, Value::Error(_)), "{answer:?}");
        let more = self.copies().saturating_sub(before);
        match message.script {
            Script::Fill => self.seen.fills += more,
            Script::End => self.seen.restored += more,
            _ => {}
        }
        self.told.push(format!("{:?} {:?} {:?}", message.script, message.keys, message.arguments));
        answer
    }

    fn copies(&mut self) -> u64 {
        let words: Vec<Vec<u8>> =
            std::iter::once(b"EXISTS".to_vec()).chain((0..KEYS).map(name)).collect();
        self.redis.call(&words).integer().cast_unsigned()
    }

    /// A connection is lost: its message may still arrive, or never.
    fn lose(&mut self) {
        if self.messages.is_empty() {
            return;
        }
        let at = self.random.below(self.messages.len());
        let waits = self.messages[at].waits.take();
        self.messages[at].lost = true;
        if self.random.below(3) == 0 {
            self.messages.remove(at);
        }
        if let Some(actor) = waits {
            self.told.push(format!("actor {actor} loses its connection"));
            self.lost(actor);
        }
    }

    /// Redis forgets: everything, or one key (evicted, or lapsed).
    fn forget(&mut self) {
        let key = name(self.random.below(KEYS));
        let (mark, aside) = (mark_of(&key).to_vec(), aside_of(&key).to_vec());
        let victims = match self.random.below(12) {
            0 => vec![b"FLUSHALL".to_vec()],
            1 => vec![b"DEL".to_vec(), key],
            2 => vec![b"DEL".to_vec(), mark],
            3 => vec![b"DEL".to_vec(), aside],
            _ => vec![b"DEL".to_vec(), mark, aside],
        };
        let shown: Vec<_> = victims.iter().map(|word| String::from_utf8_lossy(word)).collect();
        self.told.push(shown.join(" "));
        self.redis.call(&victims);
    }

    fn commit_orphan(&mut self) {
        if self.orphans.is_empty() {
            return;
        }
        let at = self.random.below(self.orphans.len());
        self.changed = true;
        let (holder, changes) = self.orphans.remove(at);
        let happens = self.random.below(3) > 0;
        self.told.push(format!("the orphan of {holder} ends, committed: {happens}"));
        for (key, row) in changes {
            if happens {
                self.rows[key] = row;
            }
            self.locks[key] = None;
        }
    }

    // --- the actors ---

    fn new_actor(&mut self, number: usize) -> Actor {
        let token = self.token(if number < WRITERS { 'w' } else { 'r' });
        if number < WRITERS {
            let keys = match self.random.below(4) {
                0 => vec![0, 1],
                1 => vec![1],
                _ => vec![0],
            };
            Actor::Writer { step: Write::Start, keys, token, after: Vec::new(), deltas: Vec::new() }
        } else {
            let key = usize::from(self.random.below(3) == 0);
            Actor::Reader { step: Read::Start, key, token, row: None, free: false }
        }
    }

    fn token(&mut self, kind: char) -> String {
        self.tokens += 1;
        format!("{kind}:{}", self.tokens)
    }

    fn renew(&mut self, number: usize) {
        let old = std::mem::replace(
            &mut self.actors[number],
            Actor::Reader {
                step: Read::Start,
                key: 0,
                token: String::new(),
                row: None,
                free: false,
            },
        );
        let mut new = self.new_actor(number);
        if self.mutant == Mutant::SameToken {
            // What was lost on the way is done again under the name that it had.
            match (&mut new, &old) {
                (
                    Actor::Writer { token, keys, .. },
                    Actor::Writer { step: Write::Beginning, token: old, keys: of, .. },
                ) => (*token, *keys) = (old.clone(), of.clone()),
                (
                    Actor::Reader { token, key, .. },
                    Actor::Reader { step: Read::Missing, token: old, key: of, .. },
                ) => (*token, *key) = (old.clone(), *of),
                _ => {}
            }
        }
        self.actors[number] = new;
    }

    fn step(&mut self, number: usize) {
        match &self.actors[number] {
            Actor::Writer { .. } => self.write(number),
            Actor::Reader { .. } => self.read(number),
        }
    }

    fn write(&mut self, number: usize) {
        let Actor::Writer { step, keys, token, after, deltas } = &self.actors[number] else {
            return;
        };
        let (step, keys, token) = (*step, keys.clone(), token.clone());
        let (after, deltas) = (after.clone(), deltas.clone());
        let begin = vec![token.clone(), "100000000".into()];
        match step {
            Write::Start if self.mutant == Mutant::BeginUnlocked && after.is_empty() => {
                // It waits for its lock afterwards.
                self.send(Script::Begin, keys, begin, Some(number));
                self.set(number, Write::Beginning);
            }
            Write::Start => {
                let free = |key: &usize| self.locks[*key].is_none() && self.shared[*key].is_empty();
                if keys.iter().all(free) {
                    keys.iter().for_each(|&key| self.locks[key] = Some(number));
                    self.told.push(format!("writer {number} locks {keys:?}"));
                    self.prepare(number);
                    let next = if self.mutant == Mutant::BeginUnlocked {
                        Write::Begun
                    } else {
                        Write::Locked
                    };
                    self.set(number, next);
                }
            }
            Write::Locked => {
                let waits = (self.mutant != Mutant::CommitFirst).then_some(number);
                self.send(Script::Begin, keys, begin, waits);
                let next = if waits.is_some() { Write::Beginning } else { Write::Begun };
                self.set(number, next);
            }
            // The answer comes as a message.
            Write::Beginning => {}
            Write::Begun => match self.random.below(10) {
                // It aborts, and knows it; it may die before it tells.
                0 => {
                    keys.iter().for_each(|&key| self.locks[key] = None);
                    self.told.push(format!("writer {number} aborts"));
                    if self.random.below(2) == 0 {
                        self.send(Script::End, keys.clone(), dropping(&token, keys.len()), None);
                    }
                    self.renew(number);
                }
                // It dies; its COMMIT is under way.
                1 => {
                    let changes = keys.iter().copied().zip(after).collect();
                    self.told.push(format!("writer {number} dies in COMMIT"));
                    self.orphans.push((number, changes));
                    if self.mutant == Mutant::EndInDoubt {
                        self.send(Script::End, keys.clone(), dropping(&token, keys.len()), None);
                    }
                    self.renew(number);
                }
                _ => {
                    self.changed = true;
                    for (&key, row) in keys.iter().zip(after) {
                        self.rows[key] = row;
                        self.locks[key] = None;
                    }
                    self.told.push(format!("writer {number} commits {:?}", self.rows));
                    self.set(number, Write::Committed);
                }
            },
            Write::Committed => {
                if self.random.below(8) > 0 {
                    let mut arguments = vec![token];
                    arguments.extend(deltas);
                    self.send(Script::End, keys, arguments, None);
                }
                self.renew(number);
            }
        }
    }

    /// Reads the rows under the lock and decides what becomes of them.
    fn prepare(&mut self, number: usize) {
        let Actor::Writer { keys, .. } = &self.actors[number] else { return };
        let (mut rows, mut changes) = (Vec::new(), Vec::new());
        for key in keys.clone() {
            self.versions += 1;
            let version = self.versions;
            let field = if self.random.below(2) == 0 { "a" } else { "b" };
            let before = self.rows[key].clone();
            let mut after = before.clone();
            let old =
                before.as_ref().and_then(|fields| Some((field.to_owned(), *fields.get(field)?)));
            let old: Vec<String> = old.map_or(Vec::new(), |old| words(key, old));
            let mut delta = vec![kind(key).to_owned(), LATER.to_owned()];
            match self.random.below(12) {
                0 => after = None,
                1 => {
                    if let Some(fields) = &mut after {
                        fields.remove(field);
                    }
                    after = after.filter(|fields| !fields.is_empty());
                    delta.push("0".into());
                    if is_set(key) {
                        delta.push(old.len().to_string());
                        delta.extend(old);
                    } else {
                        delta.extend(["1".into(), field.into()]);
                    }
                }
                _ => {
                    after.get_or_insert_default().insert(field.into(), version);
                    delta.push("1".into());
                    delta.extend(words(key, (field.to_owned(), version)));
                    let removed = if is_set(key) { old } else { Vec::new() };
                    delta.push(removed.len().to_string());
                    delta.extend(removed);
                }
            }
            if before.is_none() || after.is_none() {
                delta = dropping("", 1).split_off(1);
            }
            rows.push(after);
            changes.extend(delta);
        }
        if let Actor::Writer { after, deltas, .. } = &mut self.actors[number] {
            (*after, *deltas) = (rows, changes);
        }
    }

    fn read(&mut self, number: usize) {
        let Actor::Reader { step, key, token, row, free } = &self.actors[number] else { return };
        let (step, key, token, row, free) = (*step, *key, token.clone(), row.clone(), *free);
        match step {
            Read::Start => {
                let needed = self.random.pick(&["existence", "count", "whole"]);
                let arguments =
                    vec![token, "100000000".into(), kind(key).into(), needed.to_owned()];
                self.send(Script::Miss, vec![key], arguments, Some(number));
                self.set_read(number, Read::Missing, None, false);
            }
            // The answer comes as a message.
            Read::Missing => {}
            Read::Leased => {
                let free = self.locks[key].is_none();
                if free {
                    self.shared[key].push(number);
                }
                let probed = free || self.mutant == Mutant::NoProbe;
                let early = (self.mutant == Mutant::ProbeLate).then(|| self.rows[key].clone());
                if self.mutant == Mutant::ProbeLate && row.is_none() && !free {
                    // It has read, and probes again later.
                    self.set_read(number, Read::Probed, self.rows[key].clone(), false);
                    return;
                }
                self.set_read(number, Read::Probed, early.flatten(), probed);
            }
            Read::Probed => {
                let (row, free) = if self.mutant == Mutant::ProbeLate {
                    (row, self.locks[key].is_none())
                } else {
                    (self.rows[key].clone(), free)
                };
                self.told.push(format!("reader {number} reads {row:?} of {key}"));
                self.set_read(number, Read::Selected, row, free);
            }
            Read::Selected => {
                self.shared[key].retain(|reader| *reader != number);
                if free {
                    let mut arguments = vec![token];
                    match row {
                        None => arguments.extend(["gone".into(), "100000000".into()]),
                        Some(fields) => {
                            arguments.extend([kind(key).into(), LATER.into()]);
                            arguments.extend(fields.into_iter().flat_map(|pair| words(key, pair)));
                        }
                    }
                    self.send(Script::Fill, vec![key], arguments, None);
                } else {
                    self.send(Script::Unlease, vec![key], vec![token], None);
                }
                self.renew(number);
            }
        }
    }

    fn answered(&mut self, number: usize, answer: &Value) {
        match &self.actors[number] {
            Actor::Writer { step: Write::Beginning, after, .. } => {
                let is_begun = matches!(answer.elements()[1], Value::Array(_));
                assert!(is_begun, "nothing is dirty");
                let next = if after.is_empty() { self.lock_late(number) } else { Write::Begun };
                self.set(number, next);
            }
            Actor::Reader { step: Read::Missing, .. } => {
                if answer.elements()[0] == Value::Bulk(b"FILL".to_vec()) {
                    self.set_read(number, Read::Leased, None, false);
                } else {
                    self.renew(number);
                }
            }
            _ => panic!("actor {number} waits for nothing"),
        }
    }

    /// For the mutant that begins first: the lock comes when it comes.
    fn lock_late(&mut self, number: usize) -> Write {
        self.versions += 1;
        if let Actor::Writer { after, .. } = &mut self.actors[number] {
            // Not empty any more: it has begun.
            after.push(None);
        }
        Write::Start
    }

    fn lost(&mut self, number: usize) {
        if let Actor::Writer { keys, .. } = &self.actors[number] {
            for key in keys.clone() {
                if self.locks[key] == Some(number) {
                    self.locks[key] = None;
                }
            }
        }
        self.renew(number);
    }

    fn set(&mut self, number: usize, next: Write) {
        if let Actor::Writer { step, .. } = &mut self.actors[number] {
            *step = next;
        }
    }

    fn set_read(&mut self, number: usize, next: Read, found: Row, is_free: bool) {
        if let Actor::Reader { step, row, free, .. } = &mut self.actors[number] {
            (*step, *row, *free) = (next, found, is_free);
        }
    }
}

fn name(key: usize) -> Vec<u8> {
    format!("key:{key}").into_bytes()
}

fn is_set(key: usize) -> bool {
    key == 1
}

fn kind(key: usize) -> &'static str {
    if is_set(key) { "set" } else { "hash" }
}

/// A field and its version as a hash or a set holds them.
fn words(key: usize, (field, version): (String, u64)) -> Vec<String> {
    if is_set(key) { vec![format!("{field}:{version}")] } else { vec![field, version.to_string()] }
}

/// The end of a writer that leaves no copy.
fn dropping(token: &str, keys: usize) -> Vec<String> {
    let mut arguments = vec![token.to_owned()];
    for _ in 0..keys {
        arguments.extend(["drop", LATER, "0", "0"].map(str::to_owned));
    }
    arguments
}
