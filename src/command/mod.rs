//! What a command is: the one table of commands, and what each of them does to a mapped key.
//!
//! Commands are pure. A read says what it needs of a value and, given that, yields a reply; a
//! write changes a draft and yields a reply. No command knows of stores, sockets or clocks.
//!
//! Sets are records whose fields are the members; see [`crate::value::Record`]. The commands that draw at
//! random take their chances from the thread's generator.
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
mod listing;
mod needs;
mod scan;
pub mod set;
mod table;

use bytes::Bytes;

use crate::protocol::Reply;
use crate::value::{Draft, Record, ValueKind};

pub use document::document;
pub use flags::Flags;
pub use index::lookup;
pub use keys::Keys;
pub use listing::Listing;
pub use needs::{Need, Needs};
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
    /// What happens when a key is mapped.
    pub mapped: Mapped,
    pub guarded: Guarded,
}

/// Which requests concern the server as a whole: only with `upstream.admin_commands`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guarded {
    Nothing,
    Whole,
    /// These subcommands, with their arities.
    Subcommands(&'static [(&'static str, i32)]),
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

/// What a command does to a mapped key.
#[derive(Clone, Copy, Debug)]
pub enum Mapped {
    /// The command has no keys.
    NotApplicable,
    Read(Read),
    Write(Write),
    /// Redis runs it, on the key's true value.
    Lent,
    /// WATCH.
    Watched,
    /// Refused by name: why.
    Refused(&'static str),
}

/// A command that reads a mapped key. With several keys (EXISTS) the function is applied to
/// each key, and the integers are added up.
#[derive(Clone, Copy, Debug)]
pub struct Read {
    /// What the key has to hold; `None`: anything.
    pub of: Option<ValueKind>,
    pub proof: Proof,
    pub need: fn(args: &[Bytes]) -> Need,
    /// `record` is what `need` asked for, perhaps with more. `None`: the key is
    /// absent. `now_ms`: milliseconds since the Unix epoch, by the clock of the store that was asked.
    pub reply: fn(args: &[Bytes], record: Option<&Record>, now_ms: i64) -> Reply,
}

/// A command that changes a mapped key. With several keys (DEL, UNLINK) the function is applied to
/// each key, and the integers are added up.
#[derive(Clone, Copy, Debug)]
pub struct Write {
    /// What the key has to hold; `None`: anything.
    pub of: Option<ValueKind>,
    /// What the draft has to know of the value.
    pub need: fn(args: &[Bytes]) -> Need,
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
    /// An array with at least one integer that is not 0.
    AnyNonZero,
    /// A step of a scan that is not the last one, or found something.
    Scanned,
    /// Any status but `+none`.
    NotNone,
    /// None: the cached copy cannot tell (it does not carry the key's own expiry).
    Never,
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
        takes(self.arity, count)
    }

    /// What Redis tells a user without the right to this request, if it concerns the server as a
    /// whole. A request that Redis refuses for something else first is told that.
    pub fn guard<'a>(
        &self,
        count: usize,
        argument: impl Fn(usize) -> &'a [u8],
        in_multi: bool,
    ) -> Option<String> {
        let (name, arity) = match self.guarded {
            Guarded::Nothing => return None,
            Guarded::Whole => (self.name.to_owned(), self.arity),
            Guarded::Subcommands(_) if count < 2 => return None,
            Guarded::Subcommands(subcommands) => {
                let is_named = |name: &str| argument(1).eq_ignore_ascii_case(name.as_bytes());
                let (name, arity) = subcommands.iter().find(|(name, _)| is_named(name))?;
                (format!("{}|{name}", self.name), *arity)
            }
        };
        Some(if !takes(arity, count) {
            wrong_number_of_arguments(&name)
        } else if in_multi && self.flags.contains(Flags::NO_MULTI) {
            "ERR Command not allowed inside a transaction".to_owned()
        } else {
            format!("NOPERM this user has no permissions to run the '{name}' command")
        })
    }

    /// Whether it is only a name that its subcommands share: CONFIG, CLIENT (not COMMAND).
    pub fn has_subcommands(&self) -> bool {
        // Redis gives its flags to the subcommands.
        self.flags == Flags(0)
    }

    /// The error for a client whose request the arity does not admit, as Redis words it.
    pub fn arity_error(&self) -> String {
        wrong_number_of_arguments(self.name)
    }

    /// Whether the command changes no key.
    pub fn only_reads(&self) -> bool {
        // Redis gives the flags of these to their subcommands.
        self.flags.contains(Flags::READ) || matches!(self.name, "memory" | "object" | "xinfo")
    }

    /// The error for a client that sends this command for a key of a mapping it cannot serve.
    pub fn refusal(&self, mapping_name: &str) -> String {
        match self.mapped {
            Mapped::Refused(why) => self.refused(mapping_name, why),
            _ => self.refused(mapping_name, "not supported in this place"),
        }
    }

    /// The error for a client that sends this command for a key of a mapping, with the reason.
    pub fn refused(&self, mapping_name: &str, why: &str) -> String {
        format!("ERR '{}' is refused for keys of mapping '{mapping_name}': {why}", self.name)
    }
}

fn takes(arity: i32, count: usize) -> bool {
    let least = arity.unsigned_abs() as usize;
    if arity < 0 { count >= least } else { count == least }
}

fn wrong_number_of_arguments(name: &str) -> String {
    format!("ERR wrong number of arguments for '{name}' command")
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
        let hexpire = lookup(b"HEXPIRE").expect("a known command");
        let expected = "ERR wrong number of arguments for 'hexpire' command";
        assert_eq!(hexpire.arity_error(), expected);
        let expected = "ERR 'hexpire' is refused for keys of mapping 'api_keys': expiry and \
                        conditions of single fields are not mapped";
        assert_eq!(hexpire.refusal("api_keys"), expected);
    }
}
