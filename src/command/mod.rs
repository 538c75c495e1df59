//! What a command is: the one table of commands, and what each of them does to a mapped key.
//!
//! Commands are pure. A read says what it needs of a value and, given that, yields a reply; a
//! write changes a draft and yields a reply. No command knows of stores, sockets or clocks.

pub mod hash;
pub mod key;
pub mod table;

use bytes::Bytes;

use crate::protocol::Reply;
use crate::value::{Draft, Record};

pub use table::{COMMANDS, lookup};

/// One row of the command table.
pub struct Command {
    /// Lower case.
    pub name: &'static str,
    /// As in Redis: the number of arguments with the name; negative: at least that many.
    pub arity: i32,
    pub flags: Flags,
    pub keys: Keys,
    /// The way of a request that touches no mapped key.
    pub path: Path,
    /// What happens when a key is mapped to a hash.
    pub mapped: Mapped,
}

/// Where a command's keys are among its arguments (argument 0 is the name).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keys {
    None,
    /// Argument 1 alone.
    First,
    /// From argument `first` to the last one (`last` = -1; -2: all but the last, and so on),
    /// every `step`th.
    Range {
        first: u8,
        last: i8,
        step: u8,
    },
    /// A count at argument `count`, then that many keys; `also` is one more key, before the count
    /// (a destination), 0 for none.
    Counted {
        count: u8,
        also: u8,
    },
    /// After the word STREAMS: the first half of what follows.
    Streams,
    /// SORT and SORT_RO: argument 1, the STORE destination, and BY/GET patterns.
    Sort,
    /// GEORADIUS and GEORADIUSBYMEMBER: argument 1 and the STORE/STOREDIST destinations.
    GeoRadius,
    /// MIGRATE: argument 3, or those after KEYS.
    Migrate,
}

/// How a request reaches the upstream when it touches no mapped key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Path {
    /// As it came, over a shared connection.
    Forward,
    /// May wait inside Redis: over a connection of its own until the reply is there.
    Blocking,
    /// MULTI, EXEC, DISCARD, WATCH, UNWATCH: over a connection of its own while the state lasts.
    Transaction,
    /// The SUBSCRIBE family: over a connection of its own while subscribed.
    Subscription,
    /// MONITOR and the like: over a connection of its own until the client leaves.
    Stream,
    /// Answered by respgres: AUTH, CLIENT, HELLO, QUIT, RESET, SELECT.
    Local,
    /// INFO: the upstream's answer with a section of our own added.
    Info,
    /// FLUSHALL, FLUSHDB, SWAPDB: refused while mappings exist, unless the configuration allows it.
    Flush,
    /// Never answered through a proxy (SYNC, PSYNC, …): refused by name.
    Refused(&'static str),
}

/// What a command does to a key that is mapped to a hash.
#[derive(Clone, Copy)]
pub enum Mapped {
    /// The command has no keys.
    NotApplicable,
    Read(Read),
    Write(Write),
    /// Refused by name: why.
    Refused(&'static str),
}

/// A command that reads a mapped hash. With several keys (EXISTS) the function is applied to
/// each key, and the integers are added up.
#[derive(Clone, Copy)]
pub struct Read {
    pub proof: Proof,
    pub need: fn(args: &[Bytes]) -> Need,
    /// `record` is what `need` asked for: with `Need::Fields` a part of the hash. `None`: the key is
    /// absent. `now_ms`: milliseconds since the Unix epoch, by the clock of the store that was asked.
    pub reply: fn(args: &[Bytes], record: Option<&Record>, now_ms: i64) -> Reply,
}

/// A command that changes a mapped hash. With several keys (DEL, UNLINK) the function is applied to
/// each key, and the integers are added up.
#[derive(Clone, Copy)]
pub struct Write {
    /// Changes the draft and says what the client is told. A `Reply::Error` means that the draft was
    /// left as it was. `now_ms`: milliseconds since the Unix epoch.
    pub run: fn(args: &[Bytes], draft: &mut Draft, now_ms: i64) -> Reply,
}

/// Which replies of Redis prove that the key was there, so that they are final.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// Anything but nil.
    NonNil,
    /// Any integer but 0.
    NonZero,
    /// An array or map with at least one element.
    NonEmpty,
    /// An array with at least one element that is not nil.
    AnyNonNil,
    /// Any status but `+none`.
    NotNone,
    /// None: the cached copy cannot tell (it does not carry the key's own expiry).
    Never,
}

/// What a read needs of the value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Need {
    /// All fields.
    Whole,
    /// These fields.
    Fields(Vec<Bytes>),
    /// Only whether the key is there.
    Existence,
    /// Whether the key is there, and its own expiry.
    Expiry,
}

/// A set of command flags, as COMMAND INFO shows them where Redis has the same flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flags(pub u32);
