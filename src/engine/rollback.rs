//! The way back: a mapping's keys are put into Redis, whole, and live there alone from then on.
//!
//! No proxy runs meanwhile, so nobody writes, fills or drops anything; Redis then has what an app would have had
//! that had never used respgres.
//!
//! Invariants
//! - It begins when Postgres has all that the journal had, and no proxy is alive; the entry of the mapping says that
//!   it is being changed, so one that is started meanwhile lets no request in, and makes it fail.
//! - What only Redis has stays as it is.
//! - The strategy is `redis_only` after each value in Redis was read again and compared with its row, byte for byte,
//!   with the time at which it ends. Until then any failure leaves the mapping as it was, with copies in Redis that
//!   are true, or none.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::switcher::{NotSwitched, Switcher};
use crate::config::Strategy;
use crate::mapping::{MappedKey, Mapping};
use crate::store::sole::Work;
use crate::store::{KeyValues, RowLock};
use crate::upstream::UpstreamError;
use crate::upstream::control::Frame;
use crate::upstream::scripts::{aside_of, mark_of};
use crate::value::{Record, ValueKind};

/// Keys that are read and written at once.
const PAGE: usize = 200;

/// Fields or members that Redis is given at once.
const SLICE: usize = 1000;

/// How close to its end a key may be for its absence to be no difference.
const SOON_MS: i64 = 1000;

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RolledBack {
    /// It is `redis_only` already.
    Already,
    Done {
        keys: usize,
        took: Duration,
    },
}

// === impl Switcher ===

impl Switcher<'_> {
    /// Brings a mapping back to Redis alone. `initial` is what the file says; `progress` is told now and then how
    /// many keys were put into Redis, and how many compared.
    ///
    /// # Errors
    /// Why it is as it was.
    pub async fn roll_back(
        &mut self,
        mapping: &Mapping,
        initial: Strategy,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<RolledBack, NotSwitched> {
        if !self.session.take_on(Work::Switch).await? {
            return Err(NotSwitched::Busy);
        }
        let done = self.roll_back_alone(mapping, initial, progress).await;
        if let Err(error) = self.session.lay_down(Work::Switch).await {
            tracing::debug!(%error, "the right to change strategies goes with its session");
        }
        done
    }

    async fn roll_back_alone(
        &mut self,
        mapping: &Mapping,
        initial: Strategy,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<RolledBack, NotSwitched> {
        let began = Instant::now();
        let entry = self.clean_entry(mapping, initial).await?;
        if entry.strategy == Strategy::RedisOnly.name() {
            return Ok(RolledBack::Already);
        }
        self.check_alone().await?;
        if self.control.ends_of_journal().await?.is_some() {
            return Err(NotSwitched::Unflushed);
        }
        let barrier = self.change(mapping, &entry, Some(Strategy::RedisOnly)).await?;
        let mut done = self.announce(mapping, &barrier).await.map_err(NotSwitched::from);
        let mut keys = 0;
        if done.is_ok() {
            match self.put_into_redis(mapping, progress).await {
                Ok(count) => keys = count,
                Err(error) => done = Err(error),
            }
        }
        if done.is_ok() {
            done = self.check_alone().await;
        }
        if let Err(why) = done {
            // What was put there has no end, as copies should have.
            if let Err(error) = self.drop_copies(mapping).await {
                tracing::debug!(%error, "copies stay in Redis");
            }
            self.change(mapping, &barrier, None).await?;
            return Err(why);
        }
        self.settle(mapping, barrier, Strategy::RedisOnly, None).await?;
        Ok(RolledBack::Done { keys, took: began.elapsed() })
    }

    /// That no proxy is alive.
    async fn check_alone(&mut self) -> Result<(), NotSwitched> {
        let seen = self.look("").await?;
        match seen.into_iter().find(|(_, seen)| seen.is_alive) {
            Some((id, _)) => Err(NotSwitched::Alive(id)),
            None => Ok(()),
        }
    }

    async fn put_into_redis(
        &mut self,
        mapping: &Mapping,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<usize, NotSwitched> {
        self.drop_copies(mapping).await?;
        let (mut put, mut compared) = (0, 0);
        for compares in [false, true] {
            let mut after: Option<KeyValues> = None;
            loop {
                let page = self.session.key_page(mapping, after.as_ref(), PAGE).await?;
                let keys = page.keys.iter();
                let keys: Vec<MappedKey> =
                    keys.filter_map(|values| self.registry.key_of_row(mapping, values)).collect();
                if compares {
                    self.compare(mapping, &keys).await?;
                    compared += keys.len();
                } else {
                    put += self.put(mapping, &keys).await?;
                }
                progress(put, compared);
                let Some(last) = page.last else { break };
                after = Some(last);
            }
        }
        Ok(put)
    }

    /// How many of these keys were put into Redis: those that Postgres has.
    async fn put(&mut self, mapping: &Mapping, keys: &[MappedKey]) -> Result<usize, NotSwitched> {
        let mut commands: Vec<Vec<Bytes>> = Vec::new();
        let mut count = 0;
        for (key, record) in self.records(mapping, keys).await?.1 {
            count += 1;
            commands.push(vec![word("UNLINK"), key.clone(), mark_of(&key), aside_of(&key)]);
            let fields: Vec<(&Bytes, &Bytes)> = record.fields.iter().collect();
            for fields in fields.chunks(SLICE) {
                let add = if record.kind == ValueKind::Set { "SADD" } else { "HSET" };
                let mut command = vec![word(add), key.clone()];
                for (field, value) in fields {
                    command.push((*field).clone());
                    if record.kind == ValueKind::Hash {
                        command.push((*value).clone());
                    }
                }
                commands.push(command);
            }
            if let Some(at_ms) = record.expires_at_ms {
                commands.push(vec![word("PEXPIREAT"), key, Bytes::from(at_ms.to_string())]);
            }
        }
        let commands: Vec<&[Bytes]> = commands.iter().map(|command| &command[..]).collect();
        for reply in self.control.commands(&commands).await? {
            if let Frame::Error(text) = reply {
                return Err(UpstreamError::Refused(text.to_string()).into());
            }
        }
        Ok(count)
    }

    async fn compare(&mut self, mapping: &Mapping, keys: &[MappedKey]) -> Result<(), NotSwitched> {
        let (now_ms, records) = self.records(mapping, keys).await?;
        let commands: Vec<[Bytes; 2]> = records
            .iter()
            .flat_map(|(key, record)| {
                let all = if record.kind == ValueKind::Set { "SMEMBERS" } else { "HGETALL" };
                [[word(all), key.clone()], [word("PEXPIRETIME"), key.clone()]]
            })
            .collect();
        let commands: Vec<&[Bytes]> = commands.iter().map(|command| &command[..]).collect();
        let replies = self.control.commands(&commands).await?;
        for ((key, record), told) in records.iter().zip(replies.chunks_exact(2)) {
            let ends_soon = record.expires_at_ms.is_some_and(|at_ms| at_ms < now_ms + SOON_MS);
            let at_ms = record.expires_at_ms.unwrap_or(-1);
            let is_same = has(&told[0], record) && told[1] == Frame::Integer(at_ms);
            if !is_same && !ends_soon {
                return Err(NotSwitched::Different(key.escape_ascii().to_string()));
            }
        }
        Ok(())
    }

    /// What Postgres has of these keys, and what time it was.
    async fn records(
        &mut self,
        mapping: &Mapping,
        keys: &[MappedKey],
    ) -> Result<(i64, Vec<(Bytes, Record)>), NotSwitched> {
        let asked: Vec<&MappedKey> = keys.iter().collect();
        let read = self.session.read(mapping, &asked, RowLock::None).await?;
        let found = keys.iter().zip(read.rows).filter_map(|(key, row)| {
            let record = row.record?;
            Some((key.key.clone(), record))
        });
        let records: Vec<(Bytes, Record)> = found.collect();
        match records.iter().find(|(_, record)| record.others > 0) {
            Some((key, _)) => Err(NotSwitched::Different(key.escape_ascii().to_string())),
            None => Ok((read.now_ms, records)),
        }
    }
}

/// Whether a reply to HGETALL or SMEMBERS has all of a record, and nothing else.
fn has(told: &Frame, record: &Record) -> bool {
    let Frame::Array(told) = told else { return false };
    let width = if record.kind == ValueKind::Set { 1 } else { 2 };
    let is_in = |part: &[Frame]| match part {
        [Frame::BulkString(member)] => record.fields.contains_key(member),
        [Frame::BulkString(field), Frame::BulkString(value)] => {
            record.fields.get(field) == Some(value)
        }
        _ => false,
    };
    // Redis tells none of them twice.
    told.len() == width * record.fields.len() && told.chunks_exact(width).all(is_in)
}

fn word(word: &'static str) -> Bytes {
    Bytes::from_static(word.as_bytes())
}
