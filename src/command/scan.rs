//! What hashes and sets have in common when they are searched or drawn from. HSCAN and SSCAN of a value
//! that is known as a whole: all of it in one step.
//!
//! A scan may return everything at once, as Redis does for small values; whatever cursor a client
//! brings along from an earlier step, the guarantee holds that what was there from start to end is
//! returned.

use bytes::Bytes;

use super::{Listing, Need};
use crate::protocol::Reply;
use crate::value::Record;
use crate::value::glob::Glob;
use crate::value::number::parse_i64;

/// More draws with repetition would make a reply out of all proportion to the value.
const MOST_REPEATED: i64 = 1 << 20;

/// What a step of a scan asks for.
pub(super) struct Step {
    pattern: Option<Glob>,
}

// === impl Step ===

impl Step {
    /// The cursor of the last step.
    pub(super) const LAST: &'static [u8] = b"0";

    /// What a step needs that shows all that it wants; `listing`: if that is everything.
    pub(super) fn need(args: &[Bytes], listing: Listing) -> Need {
        match Self::parse(args, true) {
            Ok(Self { pattern: None }) => Need::Each(listing),
            Ok(_) => Need::Whole,
            Err(_) => Need::Existence,
        }
    }

    /// Reads `HSCAN key cursor [MATCH pattern] [COUNT count]`; errors come in Redis' order, which does not
    /// look at the options when there is no key.
    pub(super) fn parse(args: &[Bytes], exists: bool) -> Result<Self, String> {
        check_cursor(&args[2])?;
        let mut pattern = None;
        if !exists {
            return Ok(Self { pattern });
        }
        let mut options = args[3..].iter();
        while let Some(option) = options.next() {
            let value = options.next();
            match (option.to_ascii_lowercase().as_slice(), value) {
                (b"count", Some(count)) => match parse_i64(count) {
                    Some(1..) => {}
                    Some(_) => return Err("ERR syntax error".to_owned()),
                    None => {
                        return Err("ERR value is not an integer or out of range".to_owned());
                    }
                },
                // As a glob, `*` does not match the empty text.
                (b"match", Some(value)) => pattern = (value != "*").then(|| Glob::new(value)),
                _ => return Err("ERR syntax error".to_owned()),
            }
        }
        Ok(Self { pattern })
    }

    pub(super) fn wants(&self, name: &[u8]) -> bool {
        self.pattern.as_ref().is_none_or(|pattern| pattern.matches(name))
    }

    /// The last step's reply.
    pub(super) fn reply(found: Vec<Reply>) -> Reply {
        Reply::Array(vec![Reply::bulk(Self::LAST), Reply::Array(found)])
    }
}

/// As `strtoul` reads it, with which Redis reads cursors.
fn check_cursor(cursor: &[u8]) -> Result<(), String> {
    let digits = cursor.strip_prefix(b"+").or(cursor.strip_prefix(b"-")).unwrap_or(cursor);
    let is_number = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    let fits = || std::str::from_utf8(digits).is_ok_and(|digits| digits.parse::<u64>().is_ok());
    // An empty text is 0 to `strtoul`.
    if cursor.is_empty() || (is_number && fits()) {
        Ok(())
    } else {
        Err("ERR invalid cursor".to_owned())
    }
}

/// What a command needs that draws as often as an argument says; one that is wrong needs nothing.
pub(super) fn need_to_draw(argument: Option<&Bytes>) -> Need {
    match argument.map(count_to_draw) {
        None => Need::Sample(1),
        Some(Ok(count @ 0..)) => Need::Sample(at_most(count)),
        Some(Ok(count)) => Need::Repeated(at_most(count)),
        Some(Err(_)) => Need::Existence,
    }
}

/// Reads the count of HRANDFIELD and SRANDMEMBER: negative for draws with repetition.
pub(super) fn count_to_draw(argument: &Bytes) -> Result<i64, String> {
    match parse_i64(argument) {
        None => Err("ERR value is not an integer or out of range".to_owned()),
        Some(i64::MIN) => Err(format!(
            "ERR value is out of range, value must between {} and {}",
            -i64::MAX,
            i64::MAX
        )),
        Some(count) => Ok(count),
    }
}

/// Draws as many names as a count says.
pub(super) fn draw(record: &Record, count: i64) -> Result<Vec<Bytes>, String> {
    match count {
        0.. => Ok(record.draw(at_most(count))),
        _ if count < -MOST_REPEATED => Err(format!(
            "ERR value is out of range, at most {MOST_REPEATED} can be drawn with repetition"
        )),
        _ => Ok(record.draw_with_repetition(at_most(count))),
    }
}

/// More than any value holds.
pub(super) fn at_most(count: i64) -> usize {
    usize::try_from(count.unsigned_abs()).unwrap_or(usize::MAX)
}
