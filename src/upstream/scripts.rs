//! The scripts of the cache protocol, each one atomic step in Redis, and the names of the keys
//! that they keep beside a client's key; and where unfinished SCANs are remembered.
//!
//! The value of a key K is in K itself. Beside it stand its mark (who is filling or writing it, or
//! that it is known to be absent) and, while a writer is between `begin` and `end`, the value moved
//! aside.

use std::borrow::Cow;

use bytes::{BufMut, Bytes, BytesMut};

/// Keys of our own begin like this; clients may not use them.
pub const RESERVED_PREFIX: &[u8] = b"respgres:";
const MARK_PREFIX: &[u8] = b"respgres:m:";
const ASIDE_PREFIX: &[u8] = b"respgres:a:";
const LENT_PREFIX: &[u8] = b"respgres:l:";
const DRAWER_PREFIX: &[u8] = b"respgres:s:";

/// The stream of changes that Postgres still has to get.
pub const JOURNAL: &[u8] = b"respgres:journal";

/// What is known of the journal: its epoch (see engine::keeper), and how many changes are in it.
pub const JOURNAL_STATE: &[u8] = b"respgres:journal-state";

/// What holds for mappings by order of an operator: see `lua/announce.lua`.
pub const ENTRIES: &[u8] = b"respgres:entries";

/// The proxies that are alive, by id: see `lua/beat.lua`.
pub const PROXIES: &[u8] = b"respgres:proxies";

/// Who completes values, for a while (see `lua/complete.lua`); while that stands there, which keys were touched; and which
/// of them have an own end that they do not show yet.
pub const COMPLETING: &[u8] = b"respgres:completing";
pub const TOUCHED: &[u8] = b"respgres:touched";
/// Those of them that are being put.
pub const TAKEN: &[u8] = b"respgres:touched-taken";
/// Of keys where whoever completes puts large values together.
pub const PUT_PREFIX: &[u8] = b"respgres:put:";
pub const MEND: &[u8] = b"respgres:mend";

/// What stands in front of scripts that may change values: a function with which they say so.
const TOUCH: &str = include_str!("lua/touch.lua");

/// How many keys hold the places of unfinished SCANs: see `lua/remember.lua`.
pub const DRAWERS: u64 = 4;

/// A step of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Script {
    Begin,
    End,
    Miss,
    Fill,
    Unlease,
    Undo,
    Inval,
    Sweep,
    Remember,
    Behind,
    Step,
    Clean,
    Empty,
    Beat,
    Original,
    Adopt,
    Announce,
    Look,
    Complete,
    Mend,
}

/// One call of a script.
#[derive(Clone, Debug)]
pub struct Call {
    pub script: Script,
    pub keys: Vec<Bytes>,
    pub arguments: Vec<Bytes>,
}

/// A mark's text: who holds it. 128 random bits tell two holders apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token(Bytes);

// === impl Script ===

impl Script {
    pub const ALL: [Self; 20] = [
        Self::Begin,
        Self::End,
        Self::Miss,
        Self::Fill,
        Self::Unlease,
        Self::Undo,
        Self::Inval,
        Self::Sweep,
        Self::Remember,
        Self::Behind,
        Self::Step,
        Self::Clean,
        Self::Empty,
        Self::Beat,
        Self::Original,
        Self::Adopt,
        Self::Announce,
        Self::Look,
        Self::Complete,
        Self::Mend,
    ];

    /// As Redis gets it.
    pub fn text(self) -> Cow<'static, str> {
        let text = self.own_text();
        match text.split_once('\n') {
            Some((head, body)) if self.touches_values() => {
                Cow::Owned([head, "\n", TOUCH, body].concat())
            }
            _ => Cow::Borrowed(text),
        }
    }

    /// Whether it calls what `TOUCH` defines. (`step` says by itself which values it touches.)
    fn touches_values(self) -> bool {
        matches!(
            self,
            Self::Begin
                | Self::End
                | Self::Fill
                | Self::Inval
                | Self::Sweep
                | Self::Behind
                | Self::Clean
                | Self::Original
                | Self::Adopt
        )
    }

    fn own_text(self) -> &'static str {
        match self {
            Self::Begin => include_str!("lua/begin.lua"),
            Self::End => include_str!("lua/end.lua"),
            Self::Miss => include_str!("lua/miss.lua"),
            Self::Fill => include_str!("lua/fill.lua"),
            Self::Unlease => include_str!("lua/unlease.lua"),
            Self::Undo => include_str!("lua/undo.lua"),
            Self::Inval => include_str!("lua/inval.lua"),
            Self::Sweep => include_str!("lua/sweep.lua"),
            Self::Remember => include_str!("lua/remember.lua"),
            Self::Behind => include_str!("lua/behind.lua"),
            Self::Step => include_str!("lua/step.lua"),
            Self::Clean => include_str!("lua/clean.lua"),
            Self::Empty => include_str!("lua/empty.lua"),
            Self::Announce => include_str!("lua/announce.lua"),
            Self::Beat => include_str!("lua/beat.lua"),
            Self::Original => include_str!("lua/original.lua"),
            Self::Adopt => include_str!("lua/adopt.lua"),
            Self::Look => include_str!("lua/look.lua"),
            Self::Complete => include_str!("lua/complete.lua"),
            Self::Mend => include_str!("lua/mend.lua"),
        }
    }
}

// === impl Token ===

impl Token {
    /// A token for a reader's lease.
    ///
    /// # Panics
    /// When the operating system has no random numbers to give.
    pub fn reader() -> Self {
        Self::new(b'r')
    }

    /// A token for a writer's batch.
    ///
    /// # Panics
    /// When the operating system has no random numbers to give.
    pub fn writer() -> Self {
        Self::new(b'w')
    }

    fn new(kind: u8) -> Self {
        let bits = uuid::Uuid::new_v4();
        let mut text = BytesMut::with_capacity(34);
        text.put_u8(kind);
        text.put_u8(b':');
        text.put_slice(bits.simple().encode_lower(&mut [0; 32]).as_bytes());
        Self(text.freeze())
    }

    /// As it stands in the mark.
    pub fn text(&self) -> Bytes {
        self.0.clone()
    }
}

/// The client's key that one of our own keys belongs to.
pub fn owner_of(name: &Bytes) -> Option<Bytes> {
    let prefix = [MARK_PREFIX, ASIDE_PREFIX].into_iter().find(|prefix| name.starts_with(prefix))?;
    Some(name.slice(prefix.len()..))
}

/// The key of `key`'s mark.
pub fn mark_of(key: &[u8]) -> Bytes {
    prefixed(MARK_PREFIX, key)
}

/// The key that holds `key`'s value while a writer is under way.
pub fn aside_of(key: &[u8]) -> Bytes {
    prefixed(ASIDE_PREFIX, key)
}

/// The key that holds `key`'s cached copy while the true value is lent to a command that only reads;
/// within one atomic step.
pub fn aside_of_lent(key: &[u8]) -> Bytes {
    prefixed(LENT_PREFIX, key)
}

/// The key that holds places of unfinished SCANs, by its number.
pub fn drawer(number: u64) -> Bytes {
    prefixed(DRAWER_PREFIX, (number % DRAWERS).to_string().as_bytes())
}

fn prefixed(prefix: &[u8], key: &[u8]) -> Bytes {
    let mut name = BytesMut::with_capacity(prefix.len() + key.len());
    name.put_slice(prefix);
    name.put_slice(key);
    name.freeze()
}

/// An integer argument.
pub fn decimal(number: i64) -> Bytes {
    Bytes::from(number.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_says_what_it_touches_can_and_nobody_else_carries_that_along() {
        for script in Script::ALL {
            let text = script.text();
            assert!(text.starts_with("#!lua"), "{script:?}");
            let calls = text.lines().filter(|line| line.starts_with("touch(")).count();
            let defines = text.matches("local function touch(").count();
            assert_eq!((calls, defines), if calls > 0 { (1, 1) } else { (0, 0) }, "{script:?}");
            let names_it = text.contains("'respgres:touched'");
            assert_eq!(names_it, calls > 0 || script == Script::Step, "{script:?}");
        }
    }
}
