//! One run of the upstream: the life of one server process, from its start to its end.
//!
//! Whoever is connected to another run than before may find other data there: none, an old snapshot's,
//! or that of a replica which had not got the last writes.

use std::fmt;
use std::num::NonZeroU64;

/// Tells one run from another: 64 of the 160 random bits of INFO's `run_id`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RunId(NonZeroU64);

/// Hexadecimal digits of 64 bits.
const DIGITS: usize = 16;

// === impl RunId ===

impl RunId {
    /// From the reply to INFO server, as it came.
    pub fn of_info(reply: &[u8]) -> Option<Self> {
        let name = b"\nrun_id:";
        let at = memchr::memmem::find(reply, name)? + name.len();
        let digits = reply.get(at..at + DIGITS)?;
        Self::parse(std::str::from_utf8(digits).ok()?)
    }

    /// As it is displayed.
    pub fn parse(text: &str) -> Option<Self> {
        let is_hexadecimal = text.len() == DIGITS && text.bytes().all(|b| b.is_ascii_hexdigit());
        let number = is_hexadecimal.then(|| u64::from_str_radix(text, 16).ok())??;
        NonZeroU64::new(number).map(Self)
    }

    pub fn number(self) -> u64 {
        self.0.get()
    }
}

impl fmt::Display for RunId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:016x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_read_from_info_and_from_its_own_text() {
        let info = b"$99\r\n# Server\r\nprocess_id:7\r\nrun_id:00f3a2c5d6e7b8091a2b3c4d5e6f708192a3b4c5\r\n";
        let run = RunId::of_info(info).unwrap();
        assert_eq!(run.to_string(), "00f3a2c5d6e7b809");
        assert_eq!(RunId::parse(&run.to_string()), Some(run));
        assert_eq!(run.number(), 0x00f3_a2c5_d6e7_b809);
        for bad in [&b"$0\r\n\r\n"[..], b"\nrun_id:00f3", b"\nrun_id:+0f3a2c5d6e7b809\r\n", b""] {
            assert_eq!(RunId::of_info(bad), None);
        }
        assert_eq!(RunId::parse("0000000000000000"), None);
    }
}
