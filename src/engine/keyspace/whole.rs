//! What looks at all keys at once, or at any: KEYS, DBSIZE, RANDOMKEY.

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;

use super::scan::scanned;
use super::{Place, Survey, Surveyor, answer_of, random_below, words};
use crate::config::Strategy;
use crate::mapping::pattern::CaptureKind;
use crate::mapping::{Mapping, overlap};
use crate::protocol::{Bulks, Reply};
use crate::store::{KeyValues, TableSize};
use crate::upstream::UpstreamError;
use crate::upstream::control::Frame;
use crate::upstream::scripts::{DRAWERS, ENTRIES, JOURNAL, JOURNAL_STATE, PROXIES, drawer};
use crate::value::glob::Glob;

/// Keys of a page that are read.
const PAGE_KEYS: usize = 5_000;

/// Keys of a page that are only counted: a stretch of the index. Keys with many rows are one step each, so of
/// them it is a page as any other.
const COUNTED_KEYS: usize = 50_000;

/// Keys of Redis that are looked at in one step.
const STEP_KEYS: &str = "1000";

/// How long KEYS may keep Redis busy.
const KEYS_PATIENCE_MS: u64 = 60_000;

/// Keys that Redis is asked for by chance: many of them may be copies of mapped keys.
const TRIES: usize = 16;

/// The keys that KEYS has found so far.
struct Found {
    keys: Bulks,
    most_bytes: usize,
}

// === impl Surveyor ===

impl Surveyor {
    pub(super) async fn keys(&mut self, survey: &Survey, pattern: &Bytes) -> Result<Reply, Reply> {
        let glob = Glob::new(pattern);
        let ask = [Bytes::from_static(b"KEYS"), pattern.clone()];
        let told = self.control.long_command(&ask, KEYS_PATIENCE_MS).await;
        let Frame::Array(of_redis) = answer_of(told)? else {
            return Err(Reply::err("Redis gave an odd answer"));
        };
        let most_bytes = self.settings.reply_most_bytes;
        let mut found = Found { keys: Bulks::default(), most_bytes };
        let of_redis: Vec<Bytes> = of_redis.into_iter().filter_map(bulk).collect();
        let mut originals: HashSet<Bytes, ahash::RandomState> = HashSet::default();
        for part in of_redis.chunks(PAGE_KEYS) {
            self.go_on(survey)?;
            for key in self.of_redis(part.to_vec()).await? {
                found.add(&key)?;
                if self.is_ours(&key) {
                    originals.insert(key);
                }
            }
        }
        let registry = Arc::clone(&self.registry);
        for mapping in registry.mappings() {
            if !overlap::may_match(&mapping.pattern, &glob) {
                continue;
            }
            let mut from: Option<Place> = None;
            loop {
                self.go_on(survey)?;
                let page = self.page(mapping, from.as_ref(), PAGE_KEYS).await?;
                for key in page.keys.into_iter().filter(|key| glob.matches(key)) {
                    // Else it was imported since it was listed.
                    if !originals.contains(&key) {
                        found.add(&key)?;
                    }
                }
                from = page.next;
                if from.is_none() {
                    break;
                }
            }
        }
        Ok(Reply::Written(found.keys))
    }

    // --- DBSIZE ---

    pub(super) async fn count(&mut self, survey: &Survey) -> Result<Reply, Reply> {
        let mut total = self.count_redis(survey).await?;
        let registry = Arc::clone(&self.registry);
        for mapping in registry.mappings() {
            total += self.count_table(survey, mapping).await?;
        }
        Ok(Reply::Integer(i64::try_from(total).unwrap_or(i64::MAX)))
    }

    /// The keys that Redis has to list.
    async fn count_redis(&mut self, survey: &Survey) -> Result<u64, Reply> {
        let never_has_copies = |mapping: &Arc<Mapping>| {
            mapping.strategy() == Strategy::PostgresOnly
                && mapping.gate.version() == 0
                && !mapping.imports()
        };
        if self.registry.mappings().all(never_has_copies) {
            // There are no copies, and no marks: what is ours can be called by name.
            let mut exists = vec![Bytes::from_static(b"EXISTS")];
            exists.extend((0..DRAWERS).map(drawer));
            exists.extend([JOURNAL, JOURNAL_STATE, PROXIES, ENTRIES].map(Bytes::from_static));
            let all = integer(&self.ask_redis(&words(["DBSIZE"])).await?);
            return Ok(all.saturating_sub(integer(&self.ask_redis(&exists).await?)));
        }
        let (mut cursor, mut count) = (Bytes::from_static(b"0"), 0);
        loop {
            self.go_on(survey)?;
            let [scan, count_word, step] = words(["SCAN", "COUNT", STEP_KEYS]);
            let reply = self.ask_redis(&[scan, cursor, count_word, step]).await?;
            let (next, keys) = scanned(reply)?;
            count += self.of_redis(keys).await?.len() as u64;
            if &next[..] == b"0" {
                return Ok(count);
            }
            cursor = next;
        }
    }

    async fn count_table(&mut self, survey: &Survey, mapping: &Arc<Mapping>) -> Result<u64, Reply> {
        let (mut from, mut count) = (None::<Place>, 0);
        let (mut reads_keys, mut tries) = (!self.has_only_keys(mapping), 0);
        let limit = if mapping.layout.element().is_some() { PAGE_KEYS } else { COUNTED_KEYS };
        loop {
            self.go_on(survey)?;
            if reads_keys {
                let page = self.page(mapping, from.as_ref(), PAGE_KEYS).await?;
                count += page.keys.len() as u64;
                from = page.next;
            } else {
                let after = from.as_ref().map(|from| &from.after);
                let told = match self.table(mapping).await {
                    Ok((session, current)) => session
                        .counted_page(&current, after, limit)
                        .await
                        .map(|page| (page, current)),
                    Err(error) => Err(error),
                };
                let (page, current) = match told {
                    Ok(told) => told,
                    Err(error) => {
                        self.settle(error, mapping, &mut tries).await?;
                        continue;
                    }
                };
                let order = super::order_of(&current.layout);
                if page.undecided || from.as_ref().is_some_and(|from| from.order != order) {
                    // Which has the words for a table that has changed.
                    reads_keys = true;
                    continue;
                }
                count += page.present;
                from = page.last.map(|after| Place { order, after });
            }
            if from.is_none() {
                return Ok(count);
            }
        }
    }

    /// Whether every row's key columns are a key of this mapping and of no other, by their types alone.
    fn has_only_keys(&self, mapping: &Mapping) -> bool {
        let kinds = mapping.pattern.capture_kinds().iter();
        let types = mapping.layout.keys().iter().map(|key| key.type_name.as_str());
        let holds_only = |(kind, type_name): (&CaptureKind, &str)| match kind {
            CaptureKind::Uuid => type_name == "uuid",
            CaptureKind::Int => matches!(type_name, "bigint" | "integer"),
            _ => false,
        };
        kinds.zip(types).all(holds_only)
            && mapping.pattern.exclude().is_empty()
            && self.registry.is_apart(mapping)
    }

    // --- RANDOMKEY ---

    /// Weighs Redis and the tables by how many keys they have, about; then takes a key by chance.
    pub(super) async fn random(&mut self, survey: &Survey) -> Result<Reply, Reply> {
        let (size, of_redis) = self.random_of_redis().await?;
        let weight_of_redis = size * of_redis.len() as u64 / TRIES as u64;
        let mappings: Vec<Arc<Mapping>> = self.registry.mappings().cloned().collect();
        let mut sizes = Vec::new();
        for mapping in &mappings {
            sizes.push(self.table_size(mapping).await?);
        }
        let counts = sizes.iter().map(|size| size.keys.unsigned_abs());
        let mut number = random_below(weight_of_redis + counts.clone().sum::<u64>());
        if number < weight_of_redis {
            return Ok(Reply::Bulk(any_of(of_redis)));
        }
        number -= weight_of_redis;
        for ((mapping, size), count) in mappings.iter().zip(&sizes).zip(counts) {
            if number >= count {
                number -= count;
                continue;
            }
            let keys = self.sample(mapping, *size).await?;
            if !keys.is_empty() {
                return Ok(Reply::Bulk(any_of(keys)));
            }
            break;
        }
        // What Postgres believes of its tables was wrong: whatever there is.
        if !of_redis.is_empty() {
            return Ok(Reply::Bulk(any_of(of_redis)));
        }
        self.any_key(survey).await
    }

    async fn table_size(&mut self, mapping: &Arc<Mapping>) -> Result<TableSize, Reply> {
        let mut tries = 0;
        loop {
            let told = match self.table(mapping).await {
                Ok((session, current)) => session.table_size(&current).await,
                Err(error) => Err(error),
            };
            match told {
                Ok(size) => return Ok(size),
                Err(error) => self.settle(error, mapping, &mut tries).await?,
            }
        }
    }

    /// Some keys of a mapping, by chance; none when those places of the table had none.
    async fn sample(
        &mut self,
        mapping: &Arc<Mapping>,
        size: TableSize,
    ) -> Result<Vec<Bytes>, Reply> {
        let mut tries = 0;
        loop {
            let told = match self.table(mapping).await {
                Ok((session, current)) => {
                    session.key_sample(&current, size).await.map(|keys| (keys, current))
                }
                Err(error) => Err(error),
            };
            match told {
                Ok((keys, current)) => {
                    let key = |row: &KeyValues| Some(self.registry.key_of_row(&current, row)?.key);
                    return Ok(keys.iter().filter_map(key).collect());
                }
                Err(error) => self.settle(error, mapping, &mut tries).await?,
            }
        }
    }

    /// How many keys Redis has, and some that are its own, by chance.
    async fn random_of_redis(&mut self) -> Result<(u64, Vec<Bytes>), Reply> {
        let (size, random) = (words(["DBSIZE"]), words(["RANDOMKEY"]));
        let mut commands: Vec<&[Bytes]> = vec![&size];
        commands.extend([&random[..]; TRIES]);
        let told = match self.control.commands(&commands).await {
            Err(UpstreamError::Lost(_)) => self.control.commands(&commands).await,
            told => told,
        };
        let frame = answer_of(told.map(Frame::Array))?;
        let Frame::Array(frames) = frame else { return Ok((0, Vec::new())) };
        let mut frames = frames.into_iter();
        let size = frames.next();
        let size = answer_of(Ok(size.unwrap_or(Frame::Null)))?;
        let keys = self.of_redis(frames.filter_map(bulk).collect()).await?;
        Ok((integer(&size), keys))
    }

    /// The first key there is; nil when there is none at all.
    async fn any_key(&mut self, survey: &Survey) -> Result<Reply, Reply> {
        let registry = Arc::clone(&self.registry);
        for mapping in registry.mappings() {
            let mut from: Option<Place> = None;
            loop {
                self.go_on(survey)?;
                let page = self.page(mapping, from.as_ref(), PAGE_KEYS).await?;
                if !page.keys.is_empty() {
                    return Ok(Reply::Bulk(any_of(page.keys)));
                }
                from = page.next;
                if from.is_none() {
                    break;
                }
            }
        }
        let mut cursor = Bytes::from_static(b"0");
        loop {
            self.go_on(survey)?;
            let [scan, count_word, step] = words(["SCAN", "COUNT", STEP_KEYS]);
            let reply = self.ask_redis(&[scan, cursor, count_word, step]).await?;
            let (next, keys) = scanned(reply)?;
            if let Some(key) = self.of_redis(keys).await?.into_iter().next() {
                return Ok(Reply::Bulk(key));
            }
            if &next[..] == b"0" {
                return Ok(Reply::Nil);
            }
            cursor = next;
        }
    }
}

fn bulk(frame: Frame) -> Option<Bytes> {
    match frame {
        Frame::BulkString(bytes) => Some(bytes),
        _ => None,
    }
}

fn integer(frame: &Frame) -> u64 {
    match frame {
        Frame::Integer(number) => number.unsigned_abs(),
        _ => 0,
    }
}

/// One of some keys, of which there is at least one.
fn any_of(mut keys: Vec<Bytes>) -> Bytes {
    let at = usize::try_from(random_below(keys.len() as u64)).unwrap_or(0);
    keys.swap_remove(at)
}

// === impl Found ===

impl Found {
    fn add(&mut self, key: &[u8]) -> Result<(), Reply> {
        self.keys.push(key);
        if self.keys.size() > self.most_bytes {
            return Err(Reply::err(
                "the reply would be longer than limits.client_backlog_max_bytes; use SCAN",
            ));
        }
        Ok(())
    }
}
