//! Writing behind, by chance: writers of both kinds, readers and a flusher take one step at a time; messages
//! to Redis arrive late or never, the flusher dies, Redis forgets copies, or everything.
//!
//! Two things have to hold after every step: what Redis says of a key is what has become of it in the order in
//! which it was written, and so is the row of every key that is clean.

use std::collections::BTreeMap;

use respgres::upstream::journal::KeyChange;
use respgres::upstream::scripts::{JOURNAL, JOURNAL_STATE, Script, aside_of, mark_of};

use crate::blocking::Blocking;
use crate::stack::{Random, Value};

const KEY: &[u8] = b"key:1";
const STEPS: usize = 300;
const SCHEDULES: u64 = 300;
const MOST_SCHEDULES: u64 = 1000;
/// Even: no end of the key's own.
const LATER: i64 = 4_102_444_800_000;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Held {
    fields: BTreeMap<String, u64>,
    /// It has an end of its own.
    ends: bool,
}

type Row = Option<Held>;
type Id = (u64, u64);

#[derive(Clone, Debug)]
enum Change {
    Set(String, u64),
    Remove(String),
    Delete,
    Expire,
    Persist,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mutant {
    None,
    /// The first text is replaced by the second in the script.
    Script(Script, &'static str, &'static str),
    /// The flusher does not look again once it has the lock.
    NoCheck,
}

struct Late {
    script: Script,
    keys: Vec<Vec<u8>>,
    arguments: Vec<Vec<u8>>,
    /// What it does, if it is written behind.
    change: Option<Change>,
}

enum Through {
    Idle,
    Locked(Change, Row),
    Begun { token: String, change: Change, after: Row, had_row: bool },
}

enum Reader {
    Idle,
    Leased(String),
    Probed { token: String, row: Row, free: bool },
}

enum Flusher {
    Idle,
    Read(Vec<(Id, KeyChange)>),
    Locked(Vec<(Id, KeyChange)>),
    Checked(Vec<(Id, KeyChange)>),
    Cleaning(Vec<(Id, KeyChange)>),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Holder {
    Through,
    Flusher,
}

struct World<'r> {
    redis: &'r mut Blocking,
    random: Random,
    mutant: Mutant,
    row: Row,
    /// What everybody has to see.
    truth: Row,
    lock: Option<Holder>,
    applied: Id,
    epoch: u64,
    through: Through,
    readers: [Reader; 2],
    flusher: Flusher,
    late: Vec<Late>,
    number: u64,
    told: Vec<String>,
    seen: Seen,
}

#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    behind: u64,
    /// Of these, by an event loop itself.
    stepped: u64,
    refused: u64,
    through: u64,
    dirty: u64,
    flushed: u64,
    cleaned: u64,
}

// === impl World ===

impl<'r> World<'r> {
    fn new(redis: &'r mut Blocking, seed: u64, mutant: Mutant) -> Self {
        redis.call(&["FLUSHALL"]);
        let mut world = Self {
            redis,
            random: Random::new(seed),
            mutant,
            row: None,
            truth: None,
            lock: None,
            applied: (0, 0),
            epoch: 0,
            through: Through::Idle,
            readers: [Reader::Idle, Reader::Idle],
            flusher: Flusher::Idle,
            late: Vec::new(),
            number: 0,
            told: Vec::new(),
            seen: Seen::default(),
        };
        world.open();
        world
    }

    fn play(&mut self) -> Result<(), String> {
        for _ in 0..STEPS {
            match self.random.below(30) {
                0..=6 => self.behind(),
                7..=9 => self.write_through(),
                10..=16 => {
                    let reader = self.random.below(2);
                    self.read(reader);
                }
                17..=25 => self.flush(),
                26 | 27 => self.arrive(),
                28 => self.forget(),
                _ => self.flusher_dies(),
            }
            self.check()?;
        }
        Ok(())
    }

    fn check(&mut self) -> Result<(), String> {
        let copy = self.copy();
        let mark = match self.redis.call(&[b"GET".to_vec(), mark_of(KEY).to_vec()]) {
            Value::Bulk(mark) => String::from_utf8_lossy(&mark).into_owned(),
            _ => String::new(),
        };
        let truth = self.truth.as_ref().map(|held| held.fields.clone());
        if copy.is_some() && copy != truth {
            return Err(format!("copy {copy:?}, truth {truth:?}"));
        }
        if copy.is_some() && self.truth.as_ref().is_some_and(|held| held.ends) {
            let ends_at = self.redis.call(&[b"PEXPIRETIME", KEY]).integer();
            if ends_at % 2 == 0 || ends_at < 0 {
                return Err(format!("the copy ends at {ends_at}, and the key has its own end"));
            }
        }
        if mark.starts_with("gone") && truth.is_some() {
            return Err(format!("mark {mark}, truth {truth:?}"));
        }
        let counted = self.redis.call(&[b"HGET", JOURNAL_STATE, b"changes"]);
        let counted = counted.bytes().map_or(0, |it| String::from_utf8_lossy(it).parse().unwrap());
        let entries = self.entries("-", "+");
        let held: usize = entries.iter().map(|(_, change)| change.names.len().max(1)).sum();
        if held != counted {
            return Err(format!("{counted} changes are counted, and there are {held}"));
        }
        let is_dirty = mark.starts_with("d:") || mark.starts_with("gone:");
        self.seen.dirty += u64::from(is_dirty);
        if !is_dirty && self.row != self.truth {
            return Err(format!("clean, row {:?}, truth {:?}", self.row, self.truth));
        }
        Ok(())
    }

    fn copy(&mut self) -> Option<BTreeMap<String, u64>> {
        let Value::Array(words) = self.redis.call(&[b"HGETALL", KEY]) else { panic!("no hash") };
        let text = |word: &Value| String::from_utf8_lossy(word.bytes().unwrap()).into_owned();
        let pairs = words.chunks(2).map(|pair| (text(&pair[0]), text(&pair[1]).parse().unwrap()));
        (!words.is_empty()).then(|| pairs.collect())
    }

    fn open(&mut self) {
        self.epoch += 1;
        let epoch = self.epoch.to_string().into_bytes();
        let state = JOURNAL_STATE.to_vec();
        self.redis.call(&[b"HSET".to_vec(), state, b"epoch".to_vec(), epoch]);
    }

    // --- scripts ---

    fn run(&mut self, script: Script, keys: &[Vec<u8>], arguments: &[Vec<u8>]) -> Value {
        let mut text = script.text().into_owned();
        if let Mutant::Script(of, from, to) = self.mutant
            && of == script
        {
            assert!(text.contains(from), "{from:?} is not in the script");
            text = text.replace(from, to);
        }
        let mut words = vec![b"EVAL".to_vec(), text.into_bytes(), keys.len().to_string().into()];
        words.extend_from_slice(keys);
        words.extend_from_slice(arguments);
        let answer = self.redis.call(&words);
        assert!(!matches!(answer, Value::Error(_)), "{answer:?}");
        let shown: Vec<_> = arguments.iter().map(|word| String::from_utf8_lossy(word)).collect();
        self.told.push(format!("{script:?} {shown:?}"));
        answer
    }

    /// Nobody waits for it: it comes now, later, or never.
    fn post(&mut self, script: Script, keys: Vec<Vec<u8>>, arguments: Vec<Vec<u8>>) {
        match self.random.below(4) {
            0 => self.late.push(Late { script, keys, arguments, change: None }),
            1 if self.random.below(2) == 0 => {}
            _ => drop(self.run(script, &keys, &arguments)),
        }
    }

    fn arrive(&mut self) {
        if self.late.is_empty() {
            return;
        }
        let at = self.random.below(self.late.len());
        let Late { script, keys, arguments, change } = self.late.remove(at);
        self.told.push("late:".into());
        let answer = self.run(script, &keys, &arguments);
        if let Some(change) = change {
            self.has_written_behind(&change, &answer);
        }
    }

    // --- writers ---

    fn change(&mut self) -> Change {
        self.number += 1;
        let field = self.random.pick(&["a", "b"]).to_owned();
        match self.random.below(8) {
            0 => Change::Delete,
            1 | 2 => Change::Remove(field),
            _ => Change::Set(field, self.number),
        }
    }

    fn behind(&mut self) {
        let change = self.change();
        if self.random.below(2) == 0 && !matches!(change, Change::Delete) {
            return self.step(change);
        }
        let words: Vec<Vec<u8>> = match &change {
            Change::Set(field, value) => {
                let value = value.to_string();
                ["pairs", "1", "4", "HSET", "key:1", field, &value].map(Into::into).to_vec()
            }
            Change::Remove(field) => {
                ["removes", "1", "3", "HDEL", "key:1", field].map(Into::into).to_vec()
            }
            _ => ["keys", "0", "1", "1"].map(Into::into).to_vec(),
        };
        let keys =
            vec![JOURNAL_STATE.to_vec(), JOURNAL.to_vec(), KEY.to_vec(), mark_of(KEY).to_vec()];
        let mut arguments: Vec<Vec<u8>> = vec![b"1000".to_vec(), Vec::new(), b"hash".to_vec()];
        arguments.extend(words);
        if self.random.below(6) == 0 {
            // Its connection is lost: it comes late, or never.
            if self.random.below(2) == 0 {
                let script = Script::Behind;
                self.late.push(Late { script, keys, arguments, change: Some(change) });
            }
            return;
        }
        let answer = self.run(Script::Behind, &keys, &arguments);
        self.has_written_behind(&change, &answer);
    }

    /// As `behind`, by an event loop itself.
    fn step(&mut self, change: Change) {
        let (how, text, words) = match &change {
            Change::Set(field, value) => {
                let (field, value) = (field.clone(), value.to_string());
                let names = vec![(field.clone().into(), Some(value.clone().into()))];
                (b"p0\x03", names, vec!["HSET".to_owned(), field, value])
            }
            Change::Remove(field) => {
                let names = vec![(field.clone().into(), None)];
                (b"r0\x02", names, vec!["HDEL".to_owned(), field.clone()])
            }
            _ => return,
        };
        let text = KeyChange { key: KEY.into(), cleared: false, names: text, steps: Vec::new() };
        let keys =
            vec![JOURNAL_STATE.to_vec(), JOURNAL.to_vec(), KEY.to_vec(), mark_of(KEY).to_vec()];
        let mut arguments: Vec<Vec<u8>> = vec![b"1000".to_vec(), how.to_vec(), text.write()];
        arguments.extend(words.into_iter().map(String::into_bytes));
        if self.random.below(6) == 0 {
            if self.random.below(2) == 0 {
                let script = Script::Step;
                self.late.push(Late { script, keys, arguments, change: Some(change) });
            }
            return;
        }
        let answer = self.run(Script::Step, &keys, &arguments);
        self.has_written_behind(&change, &answer);
    }

    fn has_written_behind(&mut self, change: &Change, answer: &Value) {
        let has_happened = match answer {
            // A step's, of one operation.
            Value::Array(parts) if matches!(parts[..], [Value::Integer(_)]) => {
                self.seen.stepped += 1;
                true
            }
            Value::Array(parts) => parts.len() >= 3,
            _ => false,
        };
        if !has_happened {
            self.seen.refused += 1;
            return;
        }
        self.seen.behind += 1;
        self.truth = after(self.truth.clone(), change);
    }

    fn write_through(&mut self) {
        self.through = match std::mem::replace(&mut self.through, Through::Idle) {
            Through::Idle if self.lock.is_some() => Through::Idle,
            Through::Idle => {
                self.lock = Some(Holder::Through);
                let change = match self.random.below(5) {
                    0 => Change::Expire,
                    1 => Change::Persist,
                    _ => self.change(),
                };
                Through::Locked(change, self.row.clone())
            }
            Through::Locked(change, row) => {
                self.number += 1;
                let token = format!("w:{}", self.number);
                let arguments = vec![token.clone().into_bytes(), b"100000000".to_vec()];
                let answer = self.run(Script::Begin, &triple(), &arguments);
                if matches!(answer.elements()[1], Value::Integer(_)) {
                    self.lock = None;
                    Through::Idle
                } else if self.random.below(8) == 0 {
                    // It dies.
                    self.lock = None;
                    Through::Idle
                } else {
                    let had_row = row.is_some();
                    let after = after(row, &change);
                    Through::Begun { token, change, after, had_row }
                }
            }
            Through::Begun { token, change, after, had_row } => {
                self.lock = None;
                self.seen.through += 1;
                self.truth = after.clone();
                self.row = after.clone();
                self.told.push(format!("written through: {change:?}, {:?}", self.row));
                let end = match &after {
                    Some(held) if had_row => {
                        let mut end = vec![b"hash".to_vec(), end_of(held)];
                        let set = |text: &str| text.as_bytes().to_vec();
                        match &change {
                            Change::Set(field, value) => {
                                end.extend([set("1"), set(field), set(&value.to_string())]);
                                end.push(set("0"));
                            }
                            Change::Remove(field) => {
                                end.extend([set("0"), set("1"), set(field)]);
                            }
                            _ => end.extend([set("0"), set("0")]),
                        }
                        end
                    }
                    _ => ["drop", "0", "0", "0"].map(Into::into).to_vec(),
                };
                let mut arguments = vec![token.into_bytes()];
                arguments.extend(end);
                self.post(Script::End, triple(), arguments);
                Through::Idle
            }
        };
    }

    // --- readers ---

    fn read(&mut self, at: usize) {
        let reader = std::mem::replace(&mut self.readers[at], Reader::Idle);
        let pair = vec![KEY.to_vec(), mark_of(KEY).to_vec()];
        self.readers[at] = match reader {
            Reader::Idle => {
                self.number += 1;
                let token = format!("r:{}", self.number);
                let arguments = [token.as_str(), "100000000", "hash", "existence"];
                let arguments = arguments.map(Into::into);
                let answer = self.run(Script::Miss, &pair, &arguments);
                if answer.elements()[0] == Value::Bulk(b"FILL".to_vec()) {
                    Reader::Leased(token)
                } else {
                    Reader::Idle
                }
            }
            Reader::Leased(token) => {
                Reader::Probed { token, row: self.row.clone(), free: self.lock.is_none() }
            }
            Reader::Probed { token, row, free } => {
                let token = token.into_bytes();
                if free {
                    let mut arguments = vec![token];
                    match row {
                        None => arguments.extend([b"gone".to_vec(), b"100000000".to_vec()]),
                        Some(held) => {
                            arguments.extend([b"hash".to_vec(), end_of(&held)]);
                            for (field, value) in held.fields {
                                arguments.extend([field.into(), value.to_string().into()]);
                            }
                        }
                    }
                    self.post(Script::Fill, pair, arguments);
                } else {
                    self.post(Script::Unlease, pair[1..].to_vec(), vec![token]);
                }
                Reader::Idle
            }
        };
    }

    // --- the flusher ---

    fn entries(&mut self, from: &str, to: &str) -> Vec<(Id, KeyChange)> {
        let reply = self.redis.call(&[b"XRANGE", JOURNAL, from.as_bytes(), to.as_bytes()]);
        let entry = |entry: &Value| {
            let id = String::from_utf8_lossy(entry.elements()[0].bytes().unwrap()).into_owned();
            let (epoch, number) = id.split_once('-').unwrap();
            let keys = entry.elements()[1].elements()[5].bytes().unwrap().to_vec();
            let change = KeyChange::read(&keys.into()).unwrap();
            ((epoch.parse().unwrap(), number.parse().unwrap()), change)
        };
        reply.elements().iter().map(entry).collect()
    }

    fn flush(&mut self) {
        self.flusher = match std::mem::replace(&mut self.flusher, Flusher::Idle) {
            Flusher::Idle => {
                let mut batch = self.entries("-", "+");
                batch.truncate(1 + self.random.below(3));
                if batch.is_empty() { Flusher::Idle } else { Flusher::Read(batch) }
            }
            Flusher::Read(batch) if self.lock.is_some() => Flusher::Read(batch),
            Flusher::Read(batch) => {
                self.lock = Some(Holder::Flusher);
                Flusher::Locked(batch)
            }
            Flusher::Locked(batch) => {
                let (epoch, number) = batch.last().expect("not empty").0;
                let last = format!("{epoch}-{number}");
                let is_there = !self.entries(&last, &last).is_empty();
                if is_there || self.mutant == Mutant::NoCheck {
                    Flusher::Checked(batch)
                } else {
                    self.lock = None;
                    Flusher::Idle
                }
            }
            Flusher::Checked(batch) => {
                for (id, change) in &batch {
                    if *id > self.applied {
                        fold(&mut self.row, change);
                        self.applied = *id;
                        self.seen.flushed += 1;
                    }
                }
                self.told.push(format!("flushed up to {:?}: {:?}", self.applied, self.row));
                self.lock = None;
                Flusher::Cleaning(batch)
            }
            Flusher::Cleaning(batch) => {
                let text = |(epoch, number): Id| format!("{epoch}-{number}").into_bytes();
                let (first, (epoch, number)) = (batch[0].0, batch.last().expect("not empty").0);
                let last = text((epoch, number));
                let changes =
                    batch.iter().map(|(_, change)| change.names.len().max(1)).sum::<usize>();
                let mut keys = vec![JOURNAL_STATE.to_vec(), JOURNAL.to_vec()];
                keys.extend(triple());
                let mut arguments = vec![last.clone(), text(first), text((epoch, number + 1))];
                arguments.extend([changes.to_string().into(), last]);
                arguments.extend([b"100000000".to_vec(), b"100000000".to_vec()]);
                self.seen.cleaned += 1;
                self.post(Script::Clean, keys, arguments);
                Flusher::Idle
            }
        };
    }

    fn flusher_dies(&mut self) {
        self.flusher = Flusher::Idle;
        if self.lock == Some(Holder::Flusher) {
            self.lock = None;
        }
    }

    // --- what Redis forgets ---

    fn forget(&mut self) {
        let mark = mark_of(KEY).to_vec();
        let is_dirty = match self.redis.call(&[b"GET".to_vec(), mark.clone()]) {
            Value::Bulk(mark) => mark.starts_with(b"d:") || mark.starts_with(b"gone:"),
            _ => false,
        };
        match self.random.below(6) {
            0 if matches!(
                self.flusher,
                Flusher::Cleaning(_) | Flusher::Idle | Flusher::Read(_)
            ) || self.random.below(4) == 0 =>
            {
                self.redis.call(&["FLUSHALL"]);
                self.late.clear();
                if !matches!(self.flusher, Flusher::Checked(_)) {
                    self.truth = self.row.clone();
                } else {
                    // What is being committed stays; nobody can read before.
                    let Flusher::Checked(batch) = &self.flusher else { return };
                    let mut row = self.row.clone();
                    for (id, change) in batch {
                        if *id > self.applied {
                            fold(&mut row, change);
                        }
                    }
                    self.truth = row;
                    // The check is for those who can look: it is not clean before.
                    self.flush();
                }
                self.told.push("FLUSHALL".into());
                self.open();
            }
            1 => drop(self.redis.call(&[b"DEL".to_vec(), aside_of(KEY).to_vec()])),
            // What is dirty has no end, so it is not evicted.
            _ if is_dirty => {}
            2 | 3 => drop(self.redis.call(&[b"DEL".to_vec(), KEY.to_vec()])),
            _ => drop(self.redis.call(&[b"DEL".to_vec(), mark])),
        }
    }
}

fn triple() -> Vec<Vec<u8>> {
    vec![KEY.to_vec(), mark_of(KEY).to_vec(), aside_of(KEY).to_vec()]
}

fn end_of(held: &Held) -> Vec<u8> {
    (LATER + i64::from(held.ends)).to_string().into_bytes()
}

fn after(row: Row, change: &Change) -> Row {
    let mut held = row.unwrap_or_default();
    match change {
        Change::Set(field, value) => drop(held.fields.insert(field.clone(), *value)),
        Change::Remove(field) => drop(held.fields.remove(field)),
        Change::Delete => held.fields.clear(),
        Change::Expire => held.ends = true,
        Change::Persist => held.ends = false,
    }
    (!held.fields.is_empty()).then_some(held)
}

fn fold(row: &mut Row, change: &KeyChange) {
    let mut held = row.take().unwrap_or_default();
    if change.cleared {
        held = Held::default();
    }
    for (name, value) in &change.names {
        let name = String::from_utf8_lossy(name).into_owned();
        match value {
            Some(value) => {
                let value = std::str::from_utf8(value).unwrap().parse().unwrap();
                held.fields.insert(name, value);
            }
            None => drop(held.fields.remove(&name)),
        }
    }
    *row = (!held.fields.is_empty()).then_some(held);
}

// === the schedules ===

fn search(mutant: Mutant, schedules: u64) -> (Option<String>, Seen) {
    let mut redis = Blocking::start();
    let mut seen = Seen::default();
    for seed in 0..schedules {
        let mut world = World::new(&mut redis, seed, mutant);
        let result = world.play();
        for (sum, more) in [
            (&mut seen.behind, world.seen.behind),
            (&mut seen.stepped, world.seen.stepped),
            (&mut seen.refused, world.seen.refused),
            (&mut seen.through, world.seen.through),
            (&mut seen.dirty, world.seen.dirty),
            (&mut seen.flushed, world.seen.flushed),
            (&mut seen.cleaned, world.seen.cleaned),
        ] {
            *sum += more;
        }
        if let Err(text) = result {
            let from = world.told.len().saturating_sub(40);
            let story = world.told[from..].join("\n");
            return (Some(format!("seed {seed}: {text}\n{story}")), seen);
        }
    }
    (None, seen)
}

#[test]
fn redis_and_clean_rows_say_what_was_written_last() {
    let (violation, seen) = search(Mutant::None, SCHEDULES);
    assert!(violation.is_none(), "{}", violation.unwrap_or_default());
    let Seen { behind, stepped, refused, through, dirty, flushed, cleaned } = seen;
    for times in [behind, stepped, refused, through, dirty, flushed, cleaned] {
        assert!(times > SCHEDULES, "{seen:?}");
    }
}

fn dies(mutant: Mutant) {
    let (violation, seen) = search(mutant, MOST_SCHEDULES);
    assert!(violation.is_some(), "{mutant:?} was not found out; {seen:?}");
}

#[test]
fn a_through_write_over_a_dirty_key_loses_changes() {
    dies(Mutant::Script(Script::Begin, "if #answer > 1 then", "if false then"));
}

#[test]
fn writing_behind_on_a_key_that_is_not_loaded_hides_the_rest_of_it() {
    dies(Mutant::Script(Script::Behind, "states[key] = 'l'", "states[key] = 'y'"));
}

#[test]
fn writing_behind_on_a_key_with_an_end_of_its_own_takes_it_away() {
    let from = "ends_at % 2 == 0 and 'y' or 't'";
    dies(Mutant::Script(Script::Behind, from, "'y'"));
    dies(Mutant::Script(Script::Step, "left = ends_at % 2 == 1", "left = false"));
}

#[test]
fn a_step_on_a_key_that_is_not_loaded_hides_the_rest_of_it() {
    dies(Mutant::Script(Script::Step, "left = not is_known or", "left ="));
}

#[test]
fn a_step_without_a_mark_loses_changes() {
    let from = "call('MSET', unpack(now_said))";
    let to = "for _, value in ipairs(changed) do call('DEL', marks[value]) end";
    dies(Mutant::Script(Script::Step, from, to));
}

#[test]
fn entries_that_are_told_to_go_twice_are_counted_once() {
    let from = "if first and first[1] == ARGV[2] then";
    dies(Mutant::Script(Script::Clean, from, "if true then"));
}

#[test]
fn a_key_is_not_clean_before_its_newest_entry_is_written() {
    let from = "if held == 'd:' .. id or held == 'gone:' .. id then";
    let to = "if held and string.find(held, ':') and string.sub(held, 1, 2) ~= 'w:' \
              and string.sub(held, 1, 2) ~= 'r:' then id = string.match(held, ':(.*)$')";
    dies(Mutant::Script(Script::Clean, from, to));
}

#[test]
fn a_batch_that_redis_has_lost_is_not_written_over_what_came_after() {
    dies(Mutant::NoCheck);
}

#[test]
fn a_dirty_copy_has_no_end() {
    // Or it could be evicted, and the row read in its place.
    let mut redis = Blocking::start();
    let mut world = World::new(&mut redis, 1, Mutant::None);
    world.redis.call(&[b"SET".to_vec(), mark_of(KEY).to_vec(), b"gone".to_vec()]);
    while world.seen.behind < 3 {
        world.behind();
        if world.copy().is_some() {
            assert_eq!(world.redis.call(&[b"PTTL", KEY]), Value::Integer(-1));
        }
    }
}
