//! SCAN: first through Redis, then through the tables of the mappings.
//!
//! While Redis' own SCAN lasts its cursors are the client's. Then the place that the walk has come to
//! is a mapping and a key, which no number can hold: it is kept in Redis, where any proxy finds it by the
//! number that the client gets for a cursor (`lua/remember.lua`).
//!
//! Invariants
//! - A cursor is a number below 2^63, since not all clients take larger ones. Those of Redis are
//!   bucket numbers, far below 2^62; ours have that bit set.
//! - The walk through a table is one by keys (`store::keys`), so what is there from its start to its
//!   end is met; and a key that is mapped all the time is listed by its table alone.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{Place, Surveyor, random_bits};
use crate::mapping::{Mapping, overlap};
use crate::protocol::Reply;
use crate::upstream::control::Frame;
use crate::upstream::scripts::{Call, DRAWERS, Script, drawer};
use crate::value::glob::Glob;
use crate::value::number::parse_i64;

/// Marks the cursors of a walk through tables.
const OURS: u64 = 1 << 62;

/// COUNT where the client says none.
const COUNT: usize = 10;

/// The most keys of tables that one call looks at, whatever COUNT says.
const MOST_KEYS: usize = 10_000;

const INVALID_CURSOR: &str = "invalid cursor: it is more than ten minutes old, or the SCAN has gone on \
     from it, or Redis was emptied; start again with 0";

/// What SCAN says beside its cursor.
#[derive(Debug)]
struct Options {
    glob: Option<Glob>,
    count: usize,
    /// What TYPE says.
    kind: Option<Bytes>,
}

/// Where a walk through tables goes on, as Redis keeps it.
#[derive(Serialize, Deserialize)]
struct Bookmark {
    mapping: String,
    place: Option<Place>,
    /// The cursor that led here. Who comes with this one has got the answer to that one.
    before: Option<Cursor>,
}

/// A cursor of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Cursor {
    drawer: u64,
    number: u64,
}

/// Where the tables are entered.
struct Entry {
    /// The place of the mapping among all.
    at: usize,
    from: Option<Place>,
    /// The cursor that led here, and the one before it.
    cursor: Option<Cursor>,
    before: Option<Cursor>,
}

// === impl Surveyor ===

impl Surveyor {
    pub(super) async fn scan(&mut self, arguments: &[Bytes]) -> Result<Reply, Reply> {
        let Some(cursor) = arguments.get(1).and_then(|text| Cursor::parse(text)) else {
            return self.scan_redis(arguments).await;
        };
        let options = Options::parse(&arguments[2..])?;
        let entry = self.recall(cursor).await?;
        self.scan_tables(&options, entry, Vec::new(), options.count).await
    }

    /// The request goes to Redis as it came, which has the errors for all that is wrong with it.
    async fn scan_redis(&mut self, arguments: &[Bytes]) -> Result<Reply, Reply> {
        let (cursor, found) = scanned(self.ask_redis(arguments).await?)?;
        let count = found.len();
        let keys = self.of_redis(found).await?;
        if &cursor[..] != b"0" {
            if Cursor::parse(&cursor).is_some() {
                return Err(Reply::err(
                    "Redis gave a cursor that respgres has a use of its own for",
                ));
            }
            return Ok(reply(cursor, keys));
        }
        let options = Options::parse(&arguments[2..])?;
        let entry = Entry { at: 0, from: None, cursor: None, before: None };
        let left = options.count.saturating_sub(count);
        self.scan_tables(&options, entry, keys, left).await
    }

    /// Looks at `left` keys, and remembers where it has stopped.
    async fn scan_tables(
        &mut self,
        options: &Options,
        entry: Entry,
        mut keys: Vec<Bytes>,
        mut left: usize,
    ) -> Result<Reply, Reply> {
        let registry = Arc::clone(&self.registry);
        let mut from = entry.from;
        for mapping in &registry.all()[entry.at..] {
            if !mapping.gate.has_rows() || !options.may_list(mapping) {
                from = None;
                continue;
            }
            loop {
                if left == 0 {
                    let mapping = mapping.name.clone();
                    let bookmark = Bookmark { mapping, place: from, before: entry.cursor };
                    let cursor = self.remember(&bookmark, entry.before).await?;
                    return Ok(reply(cursor.text(), keys));
                }
                let page = self.page(mapping, from.as_ref(), left).await?;
                left = left.saturating_sub(page.looked_at);
                keys.extend(page.keys.into_iter().filter(|key| options.lists(key)));
                from = page.next;
                if from.is_none() {
                    break;
                }
            }
        }
        Ok(reply(Bytes::from_static(b"0"), keys))
    }

    async fn remember(
        &mut self,
        bookmark: &Bookmark,
        done_with: Option<Cursor>,
    ) -> Result<Cursor, Reply> {
        let number = random_bits();
        let text = serde_json::to_vec(bookmark).expect("texts by names can be written");
        let mut arguments = vec![Bytes::from(number.to_string()), Bytes::from(text)];
        if let Some(Cursor { drawer, number }) = done_with {
            arguments.extend([drawer.to_string(), number.to_string()].map(Bytes::from));
        }
        let keys = (0..DRAWERS).map(drawer).collect();
        let call = Call { script: Script::Remember, keys, arguments };
        let told = self.control.call(&[call]).await.map(|mut replies| replies.remove(0));
        match super::answer_of(told)? {
            Frame::Integer(drawer) => Ok(Cursor { drawer: drawer.unsigned_abs(), number }),
            _ => Err(Reply::err("Redis gave an odd answer")),
        }
    }

    async fn recall(&mut self, cursor: Cursor) -> Result<Entry, Reply> {
        let number = Bytes::from(cursor.number.to_string());
        let words = [Bytes::from_static(b"HGET"), drawer(cursor.drawer), number];
        let Frame::BulkString(text) = self.ask_redis(&words).await? else {
            return Err(Reply::err(INVALID_CURSOR));
        };
        let bookmark: Option<Bookmark> = serde_json::from_slice(&text).ok();
        let entry = bookmark.and_then(|Bookmark { mapping, place, before }| {
            let mut mappings = self.registry.all().iter();
            let at = mappings.position(|known| known.name == mapping)?;
            Some(Entry { at, from: place, cursor: Some(cursor), before })
        });
        entry.ok_or_else(|| Reply::err(INVALID_CURSOR))
    }
}

/// Redis' cursor and keys.
pub(super) fn scanned(frame: Frame) -> Result<(Bytes, Vec<Bytes>), Reply> {
    if let Frame::Array(parts) = frame
        && let Ok([Frame::BulkString(cursor), Frame::Array(keys)]) = <[Frame; 2]>::try_from(parts)
    {
        let keys = keys.into_iter().filter_map(|key| match key {
            Frame::BulkString(key) => Some(key),
            _ => None,
        });
        return Ok((cursor, keys.collect()));
    }
    Err(Reply::err("Redis gave an odd answer"))
}

fn reply(cursor: Bytes, keys: Vec<Bytes>) -> Reply {
    let keys = keys.into_iter().map(Reply::Bulk).collect();
    Reply::Array(vec![Reply::Bulk(cursor), Reply::Array(keys)])
}

// === impl Options ===

impl Options {
    /// As Redis reads them (`scanGenericCommand`).
    fn parse(words: &[Bytes]) -> Result<Self, Reply> {
        let syntax_error = || Reply::err("syntax error");
        let mut options = Self { glob: None, count: COUNT, kind: None };
        for pair in words.chunks(2) {
            let [name, value] = pair else { return Err(syntax_error()) };
            if name.eq_ignore_ascii_case(b"count") {
                let count = parse_i64(value)
                    .ok_or_else(|| Reply::err("value is not an integer or out of range"))?;
                if count < 1 {
                    return Err(syntax_error());
                }
                options.count = usize::try_from(count).unwrap_or(usize::MAX).min(MOST_KEYS);
            } else if name.eq_ignore_ascii_case(b"match") {
                options.glob = Some(Glob::new(value));
            } else if name.eq_ignore_ascii_case(b"type") {
                options.kind = Some(value.clone());
            } else {
                return Err(syntax_error());
            }
        }
        Ok(options)
    }

    /// Whether a mapping can have keys that are asked for.
    fn may_list(&self, mapping: &Mapping) -> bool {
        let may_match = |glob| overlap::may_match(&mapping.pattern, glob);
        let is_kind = |kind: &Bytes| kind.eq_ignore_ascii_case(mapping.holds().name().as_bytes());
        self.kind.as_ref().is_none_or(is_kind) && self.glob.as_ref().is_none_or(may_match)
    }

    fn lists(&self, key: &[u8]) -> bool {
        self.glob.as_ref().is_none_or(|glob| glob.matches(key))
    }
}

// === impl Cursor ===

impl Cursor {
    /// `None`: it is one of Redis, or none at all.
    fn parse(text: &[u8]) -> Option<Self> {
        let number: u64 = std::str::from_utf8(text).ok()?.parse().ok()?;
        if number < OURS {
            return None;
        }
        let number = number & (OURS - 1);
        Some(Self { drawer: number % DRAWERS, number: number / DRAWERS })
    }

    fn text(self) -> Bytes {
        Bytes::from((OURS | (self.number * DRAWERS + self.drawer)).to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_of_ours_is_known_and_says_where_its_place_is() {
        for drawer in 0..DRAWERS {
            let cursor = Cursor { drawer, number: random_bits() };
            let text = cursor.text();
            assert_eq!(Cursor::parse(&text), Some(cursor));
            let number: i64 = std::str::from_utf8(&text).unwrap().parse().expect("a signed number");
            assert!(number > 0);
        }
        for text in ["0", "17", "4611686018427387903", "-1", "", "x", "99999999999999999999"] {
            assert_eq!(Cursor::parse(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn options_are_read_as_redis_reads_them() {
        let parse = |line: &str| {
            let words: Vec<Bytes> = line
                .split_whitespace()
                .map(|word| Bytes::copy_from_slice(word.as_bytes()))
                .collect();
            Options::parse(&words)
        };
        let options = parse("count 20 MATCH a* Type HASH").expect("good options");
        assert!(options.count == 20 && options.lists(b"ab"));
        assert_eq!(options.kind.as_deref(), Some(&b"HASH"[..]));
        assert!(!options.lists(b"b"));
        assert_eq!(parse("COUNT 99999999").expect("a count").count, MOST_KEYS);
        let error = |line| parse(line).expect_err(line);
        assert_eq!(error("COUNT 0"), Reply::err("syntax error"));
        assert_eq!(error("COUNT x"), Reply::err("value is not an integer or out of range"));
        assert_eq!(error("MATCH"), Reply::err("syntax error"));
        assert_eq!(error("FOO bar"), Reply::err("syntax error"));
    }

    #[test]
    fn a_bookmark_comes_back_as_it_was_kept() {
        for place in [None, Some(Place { order: vec!["b".into()], after: vec!["ü\"".into()] })] {
            let before = Some(Cursor { drawer: 1, number: 1 << 59 });
            let kept = Bookmark { mapping: "m".into(), place: place.clone(), before };
            let text = serde_json::to_vec(&kept).unwrap();
            let back: Bookmark = serde_json::from_slice(&text).unwrap();
            assert_eq!((back.mapping.as_str(), back.place, back.before), ("m", place, before));
        }
    }
}
