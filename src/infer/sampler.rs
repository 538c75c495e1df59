//! Looks into a live Redis: SCAN and TYPE for all names, then the values of a few keys of each family.
//!
//! Invariants
//! - Only what reads is sent: SCAN, TYPE, PTTL, OBJECT ENCODING, HLEN, HGETALL, HSCAN, SCARD, SSCAN, INFO.
//!   Never KEYS; a value that may be large is read in slices, and only so far.
//! - No more keys a second than asked for.
//! - It may be dropped at any await: what was seen until then is in the survey.

use std::cell::Cell;
use std::ops::RangeInclusive;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use redis_protocol::resp2::decode::decode_bytes;
use redis_protocol::resp2::types::BytesFrame as Frame;
use tokio::io::AsyncWriteExt;
use tokio::time::Instant;

use super::profile::Profile;
use super::tree::{End, HeldType, Names};
use crate::config::RedisUrl;
use crate::protocol::Version;
use crate::protocol::inline::encode_request;
use crate::upstream::UpstreamError;
use crate::upstream::link::{Link, Questions, read_frame};
use crate::upstream::scripts::RESERVED_PREFIX;

/// Keys that one SCAN looks at; fewer at a low rate, so that it can be told to stop.
const PAGE: RangeInclusive<u32> = 10..=500;
/// Keys whose values are asked for together.
const TOGETHER: usize = 32;
/// Elements that one HSCAN or SSCAN looks at.
const SLICE: u32 = 64;
/// Elements that are read of one key.
const MAX_ELEMENTS: usize = 1024;
/// Bytes that are read of one key, from which on no further slice is asked for.
const MAX_BYTES: usize = 1 << 20;
/// Keys that are looked into, of all families together.
const MAX_LOOKED_INTO: usize = 100_000;
/// The same when somebody waits.
const MAX_IN_HASTE: usize = 2000;
/// A family that cannot be mapped is only asked for the expiry of so many.
const EXPIRIES: usize = 20;

/// Where to look, and how much of it.
#[derive(Clone, Debug)]
pub struct Sampling {
    pub address: RedisUrl,
    pub database: u16,
    /// Keys a second.
    pub rate: u32,
    /// Keys whose names are looked at; 0: all.
    pub limit: u64,
    /// Keys of each family that are looked into.
    pub samples: usize,
    pub timeout_ms: u64,
}

/// What was seen so far.
#[derive(Debug)]
pub struct Survey {
    pub(super) names: Names,
    /// In the order of the ends of the tree.
    profiles: Vec<Profile>,
    /// What people should know of this Redis.
    pub notes: Vec<String>,
    /// Keys in the database when it began, as DBSIZE tells.
    pub expected: u64,
    pub looked_into: u64,
    /// Whether there are keys of respgres' own.
    pub(super) has_own_keys: bool,
    /// Whether all names were seen.
    pub has_all_names: bool,
    /// Whether all values were seen that were to be.
    pub is_complete: bool,
}

/// Why a Redis could not be looked into.
#[derive(Debug, thiserror::Error)]
pub enum SampleError {
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
    #[error("Redis refused {command}: {text}")]
    Refused { command: &'static str, text: String },
    #[error("{0} was answered as no Redis does")]
    Odd(&'static str),
}

struct Connection {
    link: Link,
    buffer: BytesMut,
    timeout_ms: u64,
}

/// Lets pass so many keys a second.
struct Pace {
    began: Instant,
    passed: u64,
    rate: f64,
}

/// A key that is looked into.
struct Looked {
    end: usize,
    held: HeldType,
    key: Bytes,
}

// === impl Survey ===

impl Survey {
    pub fn new(samples: usize) -> Self {
        Self {
            names: Names::new(samples),
            profiles: Vec::new(),
            notes: Vec::new(),
            expected: 0,
            looked_into: 0,
            has_own_keys: false,
            has_all_names: false,
            is_complete: false,
        }
    }

    /// Looks at names, then into values. Calls `progress` now and then. When `stop` is set it looks at no
    /// more names, and into a few values of those that it has seen; set once more, at nothing.
    ///
    /// # Errors
    /// When the Redis is out of reach or refuses; what was seen until then stays.
    pub async fn run(
        &mut self,
        sampling: &Sampling,
        stop: &Cell<u32>,
        mut progress: impl FnMut(&Survey),
    ) -> Result<(), SampleError> {
        let mut connection = Connection::open(sampling).await?;
        self.ask_what_it_is(&mut connection).await?;
        let mut pace = Pace::new(sampling.rate);
        let mut cursor = Bytes::from_static(b"0");
        loop {
            cursor = self.look_at_page(&mut connection, cursor, &mut pace).await?;
            progress(self);
            if cursor == "0" {
                self.has_all_names = true;
                break;
            }
            let is_enough = sampling.limit > 0 && self.names.keys >= sampling.limit;
            if is_enough || stop.get() > 0 {
                break;
            }
        }
        let told = stop.get();
        self.names.thin_out(if told > 0 { MAX_IN_HASTE } else { MAX_LOOKED_INTO });
        for chunk in self.keys_to_look_into().chunks(TOGETHER) {
            if stop.get() > told {
                return Ok(());
            }
            pace.pass(chunk.len()).await;
            self.look_into(&mut connection, chunk).await?;
            self.looked_into += chunk.len() as u64;
            progress(self);
        }
        self.is_complete = true;
        Ok(())
    }

    /// The names with what is known of their values.
    pub(super) fn finish(mut self) -> Names {
        let mut profiles = std::mem::take(&mut self.profiles).into_iter();
        each_end(&mut self.names, |_, end| end.profile = profiles.next().unwrap_or_default());
        self.names
    }

    /// Keys whose names were seen.
    pub fn keys(&self) -> u64 {
        self.names.keys
    }

    async fn ask_what_it_is(&mut self, connection: &mut Connection) -> Result<(), SampleError> {
        let asked =
            [words(&["DBSIZE"]), words(&["INFO", "replication"]), words(&["INFO", "cluster"])];
        let replies = connection.ask(&asked).await?;
        if let Frame::Integer(keys) = replies[0] {
            self.expected = u64::try_from(keys).unwrap_or(0);
        }
        let says = |at: usize, line: &str| match &replies[at] {
            Frame::BulkString(text) => memchr::memmem::find(text, line.as_bytes()).is_some(),
            _ => false,
        };
        if says(1, "role:slave") {
            self.notes.push("this Redis is a replica; respgres needs its master".to_owned());
        }
        if says(2, "cluster_enabled:1") {
            self.notes.push(
                "this Redis is a node of a cluster: only its own keys were looked at, and respgres \
                 does not run on Redis Cluster yet"
                    .to_owned(),
            );
        }
        Ok(())
    }

    async fn look_at_page(
        &mut self,
        connection: &mut Connection,
        cursor: Bytes,
        pace: &mut Pace,
    ) -> Result<Bytes, SampleError> {
        let count = Bytes::from(pace.page().to_string());
        let scan = vec![Bytes::from_static(b"SCAN"), cursor, Bytes::from_static(b"COUNT"), count];
        let reply = connection.ask(&[scan]).await?.remove(0);
        let (cursor, keys) = slice("SCAN", reply)?;
        pace.pass(keys.len()).await;
        let types: Vec<_> = keys.iter().map(|key| command("TYPE", key)).collect();
        let types = connection.ask(&types).await?;
        for (key, held) in keys.iter().zip(types) {
            let name = match &held {
                Frame::SimpleString(name) => name,
                Frame::Error(text) => {
                    return Err(SampleError::Refused { command: "TYPE", text: text.to_string() });
                }
                _ => return Err(SampleError::Odd("TYPE")),
            };
            if key.starts_with(RESERVED_PREFIX) {
                self.has_own_keys = true;
            } else if let Some(held) = HeldType::of_redis(&String::from_utf8_lossy(name)) {
                self.names.add(key, held);
            }
        }
        Ok(cursor)
    }

    fn keys_to_look_into(&mut self) -> Vec<Looked> {
        let mut looked = Vec::new();
        let mut ends = 0;
        each_end(&mut self.names, |held, end| {
            let most = if held.is_mappable() { usize::MAX } else { EXPIRIES };
            let keys = end.sample_keys().take(most);
            looked.extend(keys.map(|key| Looked {
                end: ends,
                held,
                key: Bytes::copy_from_slice(key.as_bytes()),
            }));
            ends += 1;
        });
        self.profiles.resize_with(ends, Profile::default);
        looked
    }

    async fn look_into(
        &mut self,
        connection: &mut Connection,
        chunk: &[Looked],
    ) -> Result<(), SampleError> {
        let mut asked = Vec::new();
        for Looked { held, key, .. } in chunk {
            let size = if *held == HeldType::Set { "SCARD" } else { "HLEN" };
            asked.push(command("PTTL", key));
            asked.push(vec![
                Bytes::from_static(b"OBJECT"),
                Bytes::from_static(b"ENCODING"),
                key.clone(),
            ]);
            // Of what cannot be mapped there is nothing to count; the error is a reply like others.
            asked.push(command(if held.is_mappable() { size } else { "PTTL" }, key));
        }
        let replies = connection.ask(&asked).await?;
        for (looked, replies) in chunk.iter().zip(replies.chunks(3)) {
            let [Frame::Integer(left_ms), encoding, size] = replies else {
                refused("PTTL", &replies[0])?;
                continue;
            };
            // -2: the key is gone. A size of another kind of answer: it is of another type now.
            let Frame::Integer(size) = size else {
                refused("HLEN or SCARD", size)?;
                continue;
            };
            if *left_ms == -2 {
                continue;
            }
            let profile = &mut self.profiles[looked.end];
            if !looked.held.is_mappable() {
                profile.see_key(*left_ms, 0, true);
                continue;
            }
            let is_small = matches!(
                encoding,
                Frame::BulkString(name) if matches!(&name[..], b"listpack" | b"ziplist" | b"intset"));
            let mut seen = Profile::default();
            let Some(is_whole) = read_value(connection, looked, is_small, &mut seen).await? else {
                continue;
            };
            profile.merge(seen);
            profile.see_key(*left_ms, u64::try_from(*size).unwrap_or(0), is_whole);
        }
        Ok(())
    }
}

fn each_end(names: &mut Names, mut visit: impl FnMut(HeldType, &mut End)) {
    for ((held, _), tree) in &mut names.trees {
        tree.each_end(&mut |end| visit(*held, end));
    }
}

/// Reads the elements of one key; says whether that was all of them, `None` when it has become another type.
async fn read_value(
    connection: &mut Connection,
    looked: &Looked,
    is_small: bool,
    profile: &mut Profile,
) -> Result<Option<bool>, SampleError> {
    let is_set = looked.held == HeldType::Set;
    if is_small && !is_set {
        let reply = connection.ask(&[command("HGETALL", &looked.key)]).await?.remove(0);
        if is_wrong_type(&reply) {
            return Ok(None);
        }
        see(&array("HGETALL", reply)?, is_set, profile);
        return Ok(Some(true));
    }
    let name = if is_set { "SSCAN" } else { "HSCAN" };
    let mut cursor = Bytes::from_static(b"0");
    let (mut elements, mut bytes) = (0, 0);
    loop {
        let mut scan = command(name, &looked.key);
        scan.extend([cursor, Bytes::from_static(b"COUNT"), Bytes::from(SLICE.to_string())]);
        let reply = connection.ask(&[scan]).await?.remove(0);
        if is_wrong_type(&reply) {
            return Ok(None);
        }
        let (next, parts) = slice(name, reply)?;
        see(&parts, is_set, profile);
        elements += if is_set { parts.len() } else { parts.len() / 2 };
        bytes += parts.iter().map(Bytes::len).sum::<usize>();
        if next == "0" {
            return Ok(Some(true));
        }
        if elements >= MAX_ELEMENTS || bytes >= MAX_BYTES {
            return Ok(Some(false));
        }
        cursor = next;
    }
}

fn see(parts: &[Bytes], is_set: bool, profile: &mut Profile) {
    if is_set {
        parts.iter().for_each(|member| profile.see_member(member));
    } else {
        parts.chunks_exact(2).for_each(|pair| profile.see_field(&pair[0], &pair[1]));
    }
}

// === replies ===

fn words(words: &[&'static str]) -> Vec<Bytes> {
    words.iter().map(|word| Bytes::from_static(word.as_bytes())).collect()
}

fn command(name: &'static str, key: &Bytes) -> Vec<Bytes> {
    vec![Bytes::from_static(name.as_bytes()), key.clone()]
}

fn is_wrong_type(reply: &Frame) -> bool {
    matches!(reply, Frame::Error(text) if text.starts_with("WRONGTYPE"))
}

/// An error, unless it only says that the key is of another type by now.
fn refused(command: &'static str, reply: &Frame) -> Result<(), SampleError> {
    match reply {
        Frame::Error(text) if !is_wrong_type(reply) => {
            Err(SampleError::Refused { command, text: text.to_string() })
        }
        _ => Ok(()),
    }
}

fn array(command: &'static str, reply: Frame) -> Result<Vec<Bytes>, SampleError> {
    refused(command, &reply)?;
    let Frame::Array(parts) = reply else { return Err(SampleError::Odd(command)) };
    let bytes = |part| match part {
        Frame::BulkString(bytes) => Ok(bytes),
        _ => Err(SampleError::Odd(command)),
    };
    parts.into_iter().map(bytes).collect()
}

/// The cursor and the elements of a step of a scan.
fn slice(command: &'static str, reply: Frame) -> Result<(Bytes, Vec<Bytes>), SampleError> {
    refused(command, &reply)?;
    let Frame::Array(mut parts) = reply else { return Err(SampleError::Odd(command)) };
    match (parts.pop(), parts.pop()) {
        (Some(elements), Some(Frame::BulkString(cursor))) => {
            Ok((cursor, array(command, elements)?))
        }
        _ => Err(SampleError::Odd(command)),
    }
}

// === impl Connection ===

impl Connection {
    async fn open(sampling: &Sampling) -> Result<Self, SampleError> {
        let (database, timeout_ms) = (sampling.database, sampling.timeout_ms);
        let link = Link::open(
            &sampling.address,
            database,
            Version::Resp2,
            timeout_ms,
            Questions::default(),
        );
        Ok(Self { link: link.await?, buffer: BytesMut::new(), timeout_ms })
    }

    /// Sends requests together and waits for all their replies.
    async fn ask(&mut self, requests: &[Vec<Bytes>]) -> Result<Vec<Frame>, UpstreamError> {
        let (link, buffer) = (&mut self.link, &mut self.buffer);
        let asking = async {
            let mut out = BytesMut::new();
            requests.iter().for_each(|request| encode_request(request, &mut out));
            let written = link.writer.write_all(&out).await;
            written.map_err(|error| UpstreamError::Lost(error.to_string()))?;
            let mut replies = Vec::with_capacity(requests.len());
            for _ in requests {
                let bytes = read_frame(&mut link.reader, buffer).await?;
                match decode_bytes(&bytes) {
                    Ok(Some((frame, _))) => replies.push(frame),
                    Ok(None) => return Err(UpstreamError::Protocol("an incomplete reply".into())),
                    Err(error) => return Err(UpstreamError::Protocol(error.to_string())),
                }
            }
            Ok(replies)
        };
        tokio::time::timeout(Duration::from_millis(self.timeout_ms), asking)
            .await
            .unwrap_or(Err(UpstreamError::Timeout(self.timeout_ms)))
    }
}

// === impl Pace ===

impl Pace {
    fn new(rate: u32) -> Self {
        Self { began: Instant::now(), passed: 0, rate: f64::from(rate.max(1)) }
    }

    /// How many to ask for at a time: what may pass in a quarter of a second.
    fn page(&self) -> u32 {
        ((self.rate / 4.0) as u32).clamp(*PAGE.start(), *PAGE.end())
    }

    async fn pass(&mut self, keys: usize) {
        self.passed += keys as u64;
        let due = self.began + Duration::from_secs_f64(self.passed as f64 / self.rate);
        tokio::time::sleep_until(due).await;
    }
}
