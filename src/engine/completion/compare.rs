//! Reading back what was put: it has to be as its rows are, byte for byte, unless somebody has touched it since.

use bytes::Bytes;

use super::super::switcher::{NotSwitched, Switcher};
use super::{Completing, Passes, Values, named, word};
use crate::mapping::{MappedKey, Mapping};
use crate::upstream::control::Frame;
use crate::upstream::scripts::{TOUCHED, mark_of};
use crate::value::{Record, ValueKind};

/// How close to its end a key may be for its absence to be no difference.
const SOON_MS: i64 = 1000;

/// What came of some keys; by their places.
struct Compared {
    /// So many Postgres has.
    count: usize,
    /// In Redis they are not as their rows are.
    different: Vec<usize>,
    /// There was no room for these.
    left: Vec<usize>,
}

// === impl Switcher ===

impl Switcher<'_> {
    /// Reads all values back, and compares them with their rows; how many. One that was touched meanwhile is none
    /// that was put.
    pub(in super::super) async fn compare_all(
        &mut self,
        mapping: &Mapping,
        completing: &Completing,
        tell: &mut dyn FnMut(usize),
    ) -> Result<usize, NotSwitched> {
        let compare = async |this: &mut Self, keys: &[MappedKey]| {
            this.compare(mapping, completing, keys).await
        };
        self.for_each_page(mapping, completing, tell, compare).await
    }

    /// Compares these keys; how many of them Postgres has.
    async fn compare(
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
            let compared = self.compare_what_fits(mapping, &pass).await?;
            count += compared.count;
            for place in compared.different {
                self.look_closer(mapping, &pass[place]).await?;
            }
            passes.put_back(pass, &compared.left);
            self.go_on(completing).await?;
        }
        Ok(count)
    }

    /// Compares as many values of these keys as may be in memory together.
    async fn compare_what_fits(
        &mut self,
        mapping: &Mapping,
        keys: &[MappedKey],
    ) -> Result<Compared, NotSwitched> {
        let Values { now_ms, records, left } = self.values(mapping, keys).await?;
        let all = if mapping.holds() == ValueKind::Set { "SMEMBERS" } else { "HGETALL" };
        let asked: Vec<Vec<Bytes>> = records
            .iter()
            .map(|(at, _)| &keys[*at].key)
            .flat_map(|key| [vec![word(all), key.clone()], vec![word("PEXPIRETIME"), key.clone()]])
            .collect();
        let asked: Vec<&[Bytes]> = asked.iter().map(|words| &words[..]).collect();
        let told = self.control.commands(&asked).await?;
        let differs = |record: &Option<Record>, told: &[Frame]| match record {
            Some(record) => {
                let own_end = record.expires_at_ms;
                let ends_soon = own_end.is_some_and(|at_ms| at_ms < now_ms + SOON_MS);
                let ends_at = own_end.map_or(-1, |at_ms| at_ms - (1 - at_ms.rem_euclid(2)));
                let is_same = has(&told[0], record) && told[1] == Frame::Integer(ends_at);
                !is_same && !ends_soon
            }
            // It was deleted a moment ago, or has ended.
            None => false,
        };
        let pairs = records.iter().zip(told.chunks_exact(2));
        let different = pairs.filter(|((_, record), told)| differs(record, told));
        let different = different.map(|((at, _), _)| *at).collect();
        let count = records.iter().filter(|(_, record)| record.is_some()).count();
        Ok(Compared { count, different, left })
    }

    /// Of a key that is not in Redis as Postgres has it: whether somebody has touched it, so that it is put again.
    async fn look_closer(&mut self, mapping: &Mapping, key: &MappedKey) -> Result<(), NotSwitched> {
        self.lock(std::slice::from_ref(key)).await?;
        let known = self.is_known_to_differ(mapping, key).await;
        if !self.session.is_broken() {
            self.session.rollback().await?;
        }
        match known? {
            true => {
                let add = vec![word("SADD"), named(TOUCHED), key.key.clone()];
                self.tell_redis(&[add]).await.map(drop)
            }
            false => Err(NotSwitched::Different(key.key.escape_ascii().to_string())),
        }
    }

    async fn is_known_to_differ(
        &mut self,
        mapping: &Mapping,
        key: &MappedKey,
    ) -> Result<bool, NotSwitched> {
        // In this order: a key leaves the outbox when its copy was dropped, and was touched by that.
        let is_in_outbox = self.session.is_key_in_outbox(&key.key).await?;
        let asked = [
            vec![word("SISMEMBER"), named(TOUCHED), key.key.clone()],
            vec![word("EXISTS"), mark_of(&key.key)],
        ];
        let told = self.tell_redis(&asked).await?;
        let is_touched = told.iter().any(|told| *told == Frame::Integer(1));
        if is_in_outbox || is_touched {
            return Ok(true);
        }
        // Or it was touched and put in between.
        let again = self.compare_what_fits(mapping, std::slice::from_ref(key)).await?;
        Ok(again.different.is_empty())
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
