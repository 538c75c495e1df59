//! What a command is: the one table of commands, and what each of them does to a mapped key.
//!
//! Commands are pure. A read says what it needs of a value and, given that, yields a reply; a
//! write changes a draft and yields a reply. No command knows of stores, sockets or clocks.
//!
//! The functions of [`Read`] and [`Write`] get the whole request: argument 0 is the name, argument 1
//! the key. The caller has checked [`Command::arity_ok`].

mod document;
#[cfg(test)]
mod example;
mod flags;
pub mod hash;
mod index;
pub mod key;
mod keys;
mod table;

use bytes::Bytes;

use crate::protocol::Reply;
use crate::value::{Draft, Record};

pub use document::document;
pub use flags::Flags;
pub use index::lookup;
pub use keys::Keys;
pub use table::COMMANDS;

/// One row of the command table.
#[derive(Debug)]
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

/// How a request reaches the upstream when it touches no mapped key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Path {
    /// As it came, over a shared connection.
    Forward,
    /// Runs a script: over a connection that only scripts share. While one runs for long, Redis
    /// answers `-BUSY` to everybody else, and SCRIPT KILL has to get through.
    Script,
    /// May wait inside Redis, or hold Redis up (see `Command::is_blocking` for XREAD without BLOCK, SCRIPT
    /// and FUNCTION): over a connection of its own until the reply is there.
    Blocking,
    /// MULTI, EXEC, DISCARD, WATCH, UNWATCH: over a connection of its own while the state lasts.
    Transaction,
    /// The SUBSCRIBE family: over a connection of its own while subscribed.
    Subscription,
    /// MONITOR and the like: over a connection of its own until the client leaves.
    Stream,
    /// Answered by respgres: AUTH, CLIENT, HELLO, QUIT, RESET, SELECT; ASKING and the like; RESPGRES.
    Local,
    /// INFO: the upstream's answer with a section of our own added.
    Info,
    /// KEYS, SCAN, DBSIZE, RANDOMKEY: as it came while the database has no mappings; else answered by
    /// respgres from both stores.
    Keyspace,
    /// FLUSHALL, FLUSHDB, SWAPDB: refused while mappings exist, unless the configuration allows it.
    Flush,
    /// Never answered through a proxy (SYNC, PSYNC, …): refused by name.
    Refused(&'static str),
}

/// What a command does to a key that is mapped to a hash.
#[derive(Clone, Copy, Debug)]
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
#[derive(Clone, Copy, Debug)]
pub struct Read {
    pub proof: Proof,
    pub need: fn(args: &[Bytes]) -> Need,
    /// `record` is what `need` asked for: with `Need::Fields` a part of the hash. `None`: the key is
    /// absent. `now_ms`: milliseconds since the Unix epoch, by the clock of the store that was asked.
    pub reply: fn(args: &[Bytes], record: Option<&Record>, now_ms: i64) -> Reply,
}

/// A command that changes a mapped hash. With several keys (DEL, UNLINK) the function is applied to
/// each key, and the integers are added up.
#[derive(Clone, Copy, Debug)]
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

// === impl Command ===

impl Command {
    /// The number of its row in [`COMMANDS`]; their number for one that is not there.
    pub fn row(&self) -> usize {
        let from_first = std::ptr::from_ref(self).addr().wrapping_sub(COMMANDS.as_ptr().addr());
        (from_first / size_of::<Self>()).min(COMMANDS.len())
    }

    /// Whether a request of `count` arguments, the name included, has as many as the command takes.
    pub fn arity_ok(&self, count: usize) -> bool {
        let least = self.arity.unsigned_abs() as usize;
        if self.arity < 0 { count >= least } else { count == least }
    }

    /// Whether it is only a name that its subcommands share: CONFIG, CLIENT (not COMMAND).
    pub fn has_subcommands(&self) -> bool {
        // Redis gives its flags to the subcommands.
        self.flags == Flags(0)
    }

    /// The error for a client whose request the arity does not admit, as Redis words it.
    pub fn arity_error(&self) -> String {
        format!("ERR wrong number of arguments for '{}' command", self.name)
    }

    /// The error for a client that sends this command for a key of a mapping it cannot serve.
    pub fn refusal(&self, mapping_name: &str) -> String {
        let why = match self.mapped {
            Mapped::Refused(why) => why,
            Mapped::NotApplicable | Mapped::Read(_) | Mapped::Write(_) => {
                "not supported in this place"
            }
        };
        format!("ERR '{}' is refused for keys of mapping '{mapping_name}': {why}", self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::lookup;

    #[test]
    fn a_command_takes_as_many_arguments_as_its_arity_says() {
        let takes = |name: &str, count| lookup(name.as_bytes()).expect(name).arity_ok(count);
        assert!(takes("get", 2) && !takes("get", 1) && !takes("get", 3));
        assert!(takes("del", 2) && takes("del", 9_999) && !takes("del", 1));
        assert!(takes("ping", 1) && takes("ping", 2) && !takes("ping", 0));
    }

    #[test]
    fn errors_name_the_command_as_redis_does() {
        let zadd = lookup(b"ZADD").expect("a known command");
        let expected = "ERR wrong number of arguments for 'zadd' command";
        assert_eq!(zadd.arity_error(), expected);
        let expected =
            "ERR 'zadd' is refused for keys of mapping 'api_keys': sorted sets are not mapped";
        assert_eq!(zadd.refusal("api_keys"), expected);
    }
}
