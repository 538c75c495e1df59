//! Completing: all values of a mapping become whole in Redis, while clients go on, as they are to stay when Redis alone
//! has them.
//!
//! Whoever completes says so in Redis, for a while, and again with each step. As long as that stands there, every step
//! of the cache protocol that may change a value, or its end, writes down the key with it, in the same atomic step
//! (`respgres:touched`). So a value that was put and is not among these is still as it was put, and what is left to be
//! done once clients wait are those that they have touched in the last moment.
//!
//! Invariants
//! - What is put was read under the key's lock: no writer is between `begin` and COMMIT, and one that has committed finds
//!   that its mark is gone. What a dirty key holds Postgres lacks: it stays as it is, and counts as touched.
//! - A key is taken from those that were touched before it is locked. One that is among them when its value arrives was
//!   touched since, perhaps by who got the lock when ours was lost: it stays as it is.
//! - As long as clients go on, a key that has an end of its own shows that by an odd one (see `copy`). Those whose own end
//!   is even are written down, and get it in the last step.
//! - What only Redis has stays as it is.
//! - Values are in memory together only as far as there is room (see `Session::read_what_fits`); what there is none for
//!   comes later (see `passes`), and what is too large for any company by itself.
//! - If whoever completes is away for too long it is not known what was touched, and he is told so.
//!
//! Absent on purpose: a mode of the proxies for this. They need not know of it, and go on as always.

mod compare;
mod passes;

use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, sleep_until};

use self::passes::Passes;
use super::switcher::{NotSwitched, Switcher};
use crate::mapping::{MappedKey, Mapping};
use crate::store::{KeyValues, RowLock, StoreError};
use crate::upstream::UpstreamError;
use crate::upstream::control::Frame;
use crate::upstream::scripts::{
    COMPLETING, Call, MEND, PUT_PREFIX, Script, TAKEN, TOUCHED, Token, aside_of, decimal, mark_of,
};
use crate::value::{Record, ValueKind};

/// Keys that are read and put at once: so many are locked meanwhile.
const PAGE: usize = 250;

/// Fields or members that Redis is given at once, and up to which a value comes with others; words and bytes from which
/// on a call takes no more values.
const SLICE: usize = 1000;
const CALL_WORDS: usize = 4000;
const CALL_BYTES: usize = 256 << 10;

/// For how long Redis is told that somebody completes.
const LASTING_MS: i64 = 60_000;

/// How long a page may take at the rate that is wanted.
const IN_TIME_SECONDS: usize = 10;

/// How often a lock is waited for anew that was not granted in time.
const TRIES: usize = 10;

/// Keys whose ends are mended at once.
const MENDED: &str = "1000";

/// Who completes.
#[derive(Debug)]
pub(super) struct Completing {
    token: Bytes,
    /// So many keys a second at most, as long as clients go on; 0: as many as it can.
    rate: u32,
    /// Clients wait: nobody is at the keys.
    pub(super) is_last: bool,
}

/// How one value is put.
struct Put {
    key: Bytes,
    /// `None`: nothing is to be there.
    record: Option<Record>,
}

/// What Postgres has of some keys, by their places.
#[derive(Default)]
struct Values {
    now_ms: i64,
    records: Vec<(usize, Option<Record>)>,
    /// There was no room for these.
    left: Vec<usize>,
}

/// How far a walk through the keys of a table has come.
struct Walk {
    /// Keys of a page.
    most: usize,
    after: Option<KeyValues>,
    is_over: bool,
}

// === impl Switcher ===

impl Switcher<'_> {
    pub(super) async fn begin_completing(&mut self, rate: u32) -> Result<Completing, NotSwitched> {
        let completing = Completing { token: Token::writer().text(), rate, is_last: false };
        let lasting = decimal(LASTING_MS);
        let told = [
            vec![word("UNLINK"), named(TOUCHED), named(TAKEN), named(MEND)],
            vec![word("SET"), named(COMPLETING), completing.token.clone(), word("PX"), lasting],
        ];
        self.tell_redis(&told).await?;
        Ok(completing)
    }

    pub(super) async fn end_completing(&mut self) -> Result<(), NotSwitched> {
        let names = [COMPLETING, TOUCHED, TAKEN, MEND].map(named);
        self.tell_redis(&[[&[word("UNLINK")], &names[..]].concat()]).await.map(drop)
    }

    /// Puts all values of a mapping into Redis; how many. `tell` hears how many there are so far.
    pub(super) async fn put_all(
        &mut self,
        mapping: &Mapping,
        completing: &Completing,
        tell: &mut dyn FnMut(usize),
    ) -> Result<usize, NotSwitched> {
        let put =
            async |this: &mut Self, keys: &[MappedKey]| this.put(mapping, completing, keys).await;
        self.for_each_page(mapping, completing, tell, put).await
    }

    /// Does something with all keys of a mapping's table, page by page, at the pace that is wanted; the sum of what it
    /// counts.
    async fn for_each_page(
        &mut self,
        mapping: &Mapping,
        completing: &Completing,
        tell: &mut dyn FnMut(usize),
        work: impl AsyncFn(&mut Self, &[MappedKey]) -> Result<usize, NotSwitched>,
    ) -> Result<usize, NotSwitched> {
        let (mut count, mut walk, since) = (0, completing.walk(), Instant::now());
        while let Some(keys) = self.next_page(mapping, &mut walk).await? {
            count += work(self, &keys).await?;
            tell(count);
            completing.keep_pace(since, count).await;
        }
        Ok(count)
    }

    /// Puts the keys that were touched until now; how many of this mapping were written down, and how many of those put:
    /// all but dirty ones, and those that were touched again.
    pub(super) async fn put_touched(
        &mut self,
        mapping: &Mapping,
        completing: &Completing,
    ) -> Result<(usize, usize), NotSwitched> {
        // Others' keys are touched all the time: what comes from now on is for the next time.
        let take = [word("RENAME"), named(TOUCHED), named(TAKEN)];
        match self.control.command(&take).await? {
            Frame::Error(text) if text.contains("no such key") => return Ok((0, 0)),
            Frame::Error(text) => return Err(UpstreamError::Refused(text.to_string()).into()),
            _ => {}
        }
        let (mut touched, mut put) = (0, 0);
        loop {
            let pop = [word("SPOP"), named(TAKEN), Bytes::from(completing.page().to_string())];
            let names = match self.control.command(&pop).await? {
                Frame::Array(names) => names,
                Frame::Error(text) => return Err(UpstreamError::Refused(text.to_string()).into()),
                _ => return Err(UpstreamError::Protocol("an odd answer to SPOP".into()).into()),
            };
            if names.is_empty() {
                return Ok((touched, put));
            }
            let keys = names.iter().filter_map(|name| match name {
                Frame::BulkString(name) => self.registry.mapped_key(name),
                _ => None,
            });
            let keys = keys.filter(|key| key.mapping.index == mapping.index);
            let keys: Vec<MappedKey> = keys.collect();
            touched += keys.len();
            put += self.put(mapping, completing, &keys).await?;
        }
    }

    /// With clients waiting: gives keys their own ends that had others because of these.
    pub(super) async fn mend_ends(&mut self) -> Result<(), NotSwitched> {
        loop {
            let arguments = vec![Bytes::from_static(MENDED.as_bytes())];
            let call = Call { script: Script::Mend, keys: vec![named(MEND)], arguments };
            match self.control.call(&[call]).await?.pop() {
                Some(Frame::Integer(0)) => return Ok(()),
                Some(Frame::Integer(_)) => {}
                Some(Frame::Error(text)) => return Err(refused(&text)),
                _ => return Err(odd()),
            }
        }
    }

    /// What was put becomes a copy as others are.
    pub(super) async fn give_ends_back(&mut self, mapping: &Mapping) -> Result<(), NotSwitched> {
        let mut walk = Walk::of(PAGE);
        while let Some(keys) = self.next_page(mapping, &mut walk).await? {
            let adopt = |key: MappedKey| Call {
                script: Script::Adopt,
                keys: vec![key.key.clone(), mark_of(&key.key)],
                arguments: vec![decimal(mapping.cache_ttl_ms)],
            };
            self.control.call(&keys.into_iter().map(adopt).collect::<Vec<_>>()).await?;
        }
        Ok(())
    }

    /// The next keys of a mapping's table; `None`: there are no more.
    async fn next_page(
        &mut self,
        mapping: &Mapping,
        walk: &mut Walk,
    ) -> Result<Option<Vec<MappedKey>>, NotSwitched> {
        if walk.is_over {
            return Ok(None);
        }
        let page = self.session.key_page(mapping, walk.after.as_ref(), walk.most).await?;
        (walk.is_over, walk.after) = (page.last.is_none(), page.last);
        let keys = page.keys.iter();
        Ok(Some(keys.filter_map(|values| self.registry.key_of_row(mapping, values)).collect()))
    }

    /// Says that it goes on.
    pub(super) async fn go_on(&mut self, completing: &Completing) -> Result<(), NotSwitched> {
        self.complete(&[completing.call()]).await.map(drop)
    }

    /// Puts the values of keys into Redis, under their locks; how many.
    pub(super) async fn put(
        &mut self,
        mapping: &Mapping,
        completing: &Completing,
        keys: &[MappedKey],
    ) -> Result<usize, NotSwitched> {
        if keys.is_empty() {
            self.go_on(completing).await?;
            return Ok(0);
        }
        let (mut count, mut passes) = (0, Passes::of(keys));
        while let Some(pass) = passes.next() {
            let (put, left) = self.put_what_fits(mapping, completing, &pass).await?;
            count += put;
            passes.put_back(pass, &left);
        }
        Ok(count)
    }

    /// Puts as many values as may be in memory together; how many, and the places of the other keys.
    async fn put_what_fits(
        &mut self,
        mapping: &Mapping,
        completing: &Completing,
        keys: &[MappedKey],
    ) -> Result<(usize, Vec<usize>), NotSwitched> {
        self.lock(keys).await?;
        let done = self.put_locked(mapping, completing, keys).await;
        if !self.session.is_broken() {
            self.session.rollback().await?;
        }
        done
    }

    async fn lock(&mut self, keys: &[MappedKey]) -> Result<(), NotSwitched> {
        let mut locks: Vec<i64> = keys.iter().map(MappedKey::lock).collect();
        locks.sort_unstable();
        locks.dedup();
        let mut tries = 0;
        loop {
            match self.session.begin_locked(&locks).await {
                Err(StoreError::Timeout(_) | StoreError::Retryable { .. }) if tries < TRIES => {
                    tries += 1;
                }
                begun => return Ok(begun?),
            }
        }
    }

    async fn put_locked(
        &mut self,
        mapping: &Mapping,
        completing: &Completing,
        keys: &[MappedKey],
    ) -> Result<(usize, Vec<usize>), NotSwitched> {
        let Values { records, left, .. } = self.values(mapping, keys).await?;
        let had = if mapping.imports() {
            let names: Vec<&[u8]> = keys.iter().map(|key| &key.key[..]).collect();
            self.session.has_had(mapping, &names).await?
        } else {
            vec![true; keys.len()]
        };
        let mut calls = vec![completing.call()];
        let (mut count, mut bytes) = (0, 0);
        for (at, record) in records {
            // Where Postgres has never had it, Redis may have an original.
            if record.is_none() && !had[at] {
                continue;
            }
            let put = Put { key: keys[at].key.clone(), record };
            let is_large = put.record.as_ref().is_some_and(|record| record.fields.len() > SLICE);
            if is_large {
                self.put_before(&put, completing).await?;
            }
            let is_full = |call: &Call| call.arguments.len() > CALL_WORDS || bytes > CALL_BYTES;
            if calls.last().is_none_or(is_full) {
                calls.push(completing.call());
                bytes = 0;
            }
            if let Some(call) = calls.last_mut() {
                bytes += put.add_to(call, completing, is_large);
            }
            count += usize::from(put.record.is_some());
        }
        let untouched = self.complete(&calls).await?;
        Ok((count.saturating_sub(untouched), left))
    }

    /// Runs calls of one script; how many keys stayed as they are.
    async fn complete(&mut self, calls: &[Call]) -> Result<usize, NotSwitched> {
        let mut left = 0;
        for answer in self.control.call(calls).await? {
            match answer {
                Frame::Array(keys) => left += keys.len(),
                Frame::BulkString(lost) if lost == "LOST" => return Err(NotSwitched::Stalled),
                Frame::SimpleString(lost) if lost == "LOST" => return Err(NotSwitched::Stalled),
                Frame::Error(text) => return Err(refused(&text)),
                _ => return Err(odd()),
            }
        }
        Ok(left)
    }

    /// Puts a large value where nobody looks for it.
    async fn put_before(&mut self, put: &Put, completing: &Completing) -> Result<(), NotSwitched> {
        let Some(record) = &put.record else { return Ok(()) };
        let before = completing.place_of(&put.key);
        self.tell_redis(&[vec![word("UNLINK"), before.clone()]]).await?;
        let add = if record.kind == ValueKind::Set { "SADD" } else { "HSET" };
        let fields: Vec<(&Bytes, &Bytes)> = record.fields.iter().collect();
        for fields in fields.chunks(SLICE) {
            let mut slice = vec![word(add), before.clone()];
            words_of(record.kind, fields.iter().copied(), &mut slice);
            let ends = vec![word("PEXPIRE"), before.clone(), decimal(LASTING_MS)];
            self.tell_redis(&[slice, ends]).await?;
        }
        // It is alive, and keeps the lock.
        self.session.clock_ms().await?;
        Ok(())
    }

    /// What Postgres has of these keys: of one all, of several what may be in memory together.
    async fn values(
        &mut self,
        mapping: &Mapping,
        keys: &[MappedKey],
    ) -> Result<Values, NotSwitched> {
        let asked: Vec<&MappedKey> = keys.iter().collect();
        let read = match &asked[..] {
            [_] => self.session.read(mapping, &asked, RowLock::None).await?,
            _ => self.session.read_what_fits(mapping, &asked, SLICE).await?,
        };
        let mut values = Values { now_ms: read.now_ms, ..Values::default() };
        for (at, row) in read.rows.into_iter().enumerate() {
            match row.record {
                Some(record) if record.others > 0 => values.left.push(at),
                record => values.records.push((at, record)),
            }
        }
        match (&values.left[..], keys) {
            ([_], [key]) => Err(NotSwitched::Different(key.key.escape_ascii().to_string())),
            _ => Ok(values),
        }
    }

    /// Runs commands; none of them may be refused.
    pub(super) async fn tell_redis(
        &mut self,
        commands: &[Vec<Bytes>],
    ) -> Result<Vec<Frame>, NotSwitched> {
        let commands: Vec<&[Bytes]> = commands.iter().map(|words| &words[..]).collect();
        let told = self.control.commands(&commands).await?;
        match told.iter().find_map(|frame| match frame {
            Frame::Error(text) => Some(refused(text)),
            _ => None,
        }) {
            Some(error) => Err(error),
            None => Ok(told),
        }
    }
}

// === impl Completing ===

impl Completing {
    /// Keys that are dealt with at once: it has to say again in time that it goes on.
    fn page(&self) -> usize {
        let in_time = (self.rate as usize).saturating_mul(IN_TIME_SECONDS);
        if self.rate == 0 { PAGE } else { in_time.clamp(1, PAGE) }
    }

    fn walk(&self) -> Walk {
        Walk::of(self.page())
    }

    /// Where a large value is put together.
    fn place_of(&self, key: &[u8]) -> Bytes {
        [PUT_PREFIX, &self.token[..], b":", key].concat().into()
    }

    /// Waits until so many keys may have been dealt with.
    async fn keep_pace(&self, since: Instant, keys: usize) {
        if self.rate > 0 {
            let ms = (keys as u64).saturating_mul(1000) / u64::from(self.rate);
            sleep_until(since + Duration::from_millis(ms)).await;
        }
    }

    /// One that puts nothing yet.
    fn call(&self) -> Call {
        let mode = if self.is_last { "last" } else { "open" };
        Call {
            script: Script::Complete,
            keys: [COMPLETING, TOUCHED, MEND].map(named).to_vec(),
            arguments: vec![self.token.clone(), decimal(LASTING_MS), word(mode)],
        }
    }
}

// === impl Walk ===

impl Walk {
    fn of(most: usize) -> Self {
        Self { most, after: None, is_over: false }
    }
}

// === impl Put ===

impl Put {
    /// How many bytes it is.
    fn add_to(&self, call: &mut Call, completing: &Completing, is_before: bool) -> usize {
        let (mark, aside) = (mark_of(&self.key), aside_of(&self.key));
        call.keys.extend([self.key.clone(), mark, aside, completing.place_of(&self.key)]);
        let Some(record) = &self.record else {
            call.arguments.extend([word("none"), Bytes::new(), word("0")]);
            return 0;
        };
        let width = if record.kind == ValueKind::Set { 1 } else { 2 };
        let (mode, count) = match is_before {
            true => ("before", 0),
            false => (record.kind.name(), record.fields.len() * width),
        };
        let own_end = record.expires_at_ms.map_or(Bytes::new(), decimal);
        call.arguments.extend([word(mode), own_end, Bytes::from(count.to_string())]);
        if is_before {
            return 0;
        }
        words_of(record.kind, record.fields.iter(), &mut call.arguments);
        record.fields.iter().map(|(field, value)| field.len() + value.len()).sum()
    }
}

fn words_of<'a>(
    kind: ValueKind,
    fields: impl Iterator<Item = (&'a Bytes, &'a Bytes)>,
    words: &mut Vec<Bytes>,
) {
    for (field, value) in fields {
        words.push(field.clone());
        if kind == ValueKind::Hash {
            words.push(value.clone());
        }
    }
}

fn refused(text: &str) -> NotSwitched {
    match text.starts_with("OOM") {
        true => NotSwitched::NoRoom,
        false => UpstreamError::Refused(text.to_owned()).into(),
    }
}

fn odd() -> NotSwitched {
    UpstreamError::Protocol("an odd answer while values were put into Redis".into()).into()
}

fn word(word: &'static str) -> Bytes {
    Bytes::from_static(word.as_bytes())
}

fn named(name: &'static [u8]) -> Bytes {
    Bytes::from_static(name)
}
