//! Which way a request goes: decided from the command table and the mappings alone.

use bytes::Bytes;

use super::Engine;
use super::loan::Lent;
use super::mailbox::ReplyTo;
use super::operation::Operation;
use crate::command::{Command, Mapped, Proof, Read, Write};
use crate::mapping::{Gate, MappedKey, Pass};
use crate::protocol::Reply;
use crate::upstream::scripts::RESERVED_PREFIX;
use crate::value::ValueKind;

/// What a request's keys mean for its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Touch {
    /// No key is mapped: the upstream answers.
    Nothing,
    /// So, but some are of a mapping that may get a side in Postgres.
    Passing,
    /// Its one key is mapped, and Redis may answer it as it came: with a reply that proves that the key
    /// was there. With its mapping's place in the configuration file.
    Asks(Proof, &'static Gate, usize),
    /// At least one key is mapped.
    Mapped,
    /// A key is one of our own.
    Reserved,
}

/// The way of a command with mapped keys.
#[derive(Debug)]
pub enum MappedRoute {
    /// To a reading worker.
    Read(Box<Operation>),
    /// To a writing worker.
    Write(Box<Operation>),
    /// To a lender.
    Lend(Box<Lent>),
    /// WATCH of these keys, beside others that are not mapped.
    Watch { keys: Vec<MappedKey>, others: Vec<Bytes> },
    /// Tell the client this.
    Refuse(String),
    /// A key's mapping is on its way out of `redis_only`, or has just come back to it: try again.
    Wait,
}

impl Engine {
    /// Whether a request touches a mapped key. `argument` gives the request's arguments (0 is the
    /// name), of which there are `count`.
    pub fn touch<'a>(
        &self,
        command: &Command,
        count: usize,
        argument: impl Fn(usize) -> &'a [u8],
    ) -> Touch {
        let mut touch = Touch::Nothing;
        if command.keys.is_first_alone(count) {
            if count > 1 {
                self.touch_only_key(command, argument(1), &mut touch);
            }
            return touch;
        }
        command.for_each_key(count, &argument, |at| self.touch_key(argument(at), &mut touch));
        if matches!(touch, Touch::Nothing | Touch::Passing)
            && self.looks_up_mapped_keys(command, count, argument)
        {
            touch = Touch::Mapped;
        }
        touch
    }

    /// The same for a command that is not in the table: any argument may be a key.
    pub fn touch_of_unknown<'a>(
        &self,
        count: usize,
        argument: impl Fn(usize) -> &'a [u8],
    ) -> Touch {
        let mut touch = Touch::Nothing;
        for at in 1..count {
            self.touch_key(argument(at), &mut touch);
        }
        touch
    }

    fn touch_only_key(&self, command: &Command, key: &[u8], touch: &mut Touch) {
        if key.starts_with(RESERVED_PREFIX) {
            *touch = Touch::Reserved;
        } else if let Some(mapping) = self.registry().find_any(key) {
            if mapping.gate.passes_through() {
                *touch = Touch::Passing;
                return;
            }
            *touch = match command.mapped {
                Mapped::Read(Read { proof, of, .. })
                    if proof != Proof::Never
                        && mapping.gate.reads_redis()
                        && of.is_none_or(|of| of == mapping.holds()) =>
                {
                    Touch::Asks(proof, mapping.gate, mapping.index)
                }
                _ => Touch::Mapped,
            };
        }
    }

    fn touch_key(&self, key: &[u8], touch: &mut Touch) {
        if key.starts_with(RESERVED_PREFIX) {
            *touch = Touch::Reserved;
        } else if matches!(*touch, Touch::Nothing | Touch::Passing)
            && let Some(mapping) = self.registry().find_any(key)
        {
            let passes = mapping.gate.passes_through();
            *touch = if passes { Touch::Passing } else { Touch::Mapped };
        }
    }

    /// The way of a request that touches a mapped key; its arity has been checked. `arguments` are parts
    /// of `bytes`, the request as it came.
    pub fn route_mapped(
        &self,
        command: &'static Command,
        bytes: &Bytes,
        arguments: Vec<Bytes>,
        reply_to: ReplyTo,
    ) -> MappedRoute {
        let mut keys: Vec<MappedKey> = Vec::new();
        let mut others = Vec::new();
        command.for_each_key(
            arguments.len(),
            |at| &arguments[at][..],
            |at| match self.registry().mapped_key(&arguments[at]) {
                Some(key) => keys.push(key),
                None => others.push(arguments[at].clone()),
            },
        );
        if others.iter().any(|key| self.is_leaving_redis(key)) {
            return MappedRoute::Wait;
        }
        let fits = |of: Option<ValueKind>| {
            of.is_none_or(|of| keys.iter().all(|key| key.mapping.holds() == of))
        };
        let lends = match command.mapped {
            // Redis tells what it has to say of a key that holds something else.
            Mapped::Read(Read { of, .. }) | Mapped::Write(Write { of, .. }) => !fits(of),
            Mapped::Lent | Mapped::Refused(_) | Mapped::NotApplicable => true,
            Mapped::Watched if keys.is_empty() => return MappedRoute::Wait,
            Mapped::Watched => return MappedRoute::Watch { keys, others },
        };
        if keys.is_empty() && !lends {
            return MappedRoute::Wait;
        }
        if lends {
            let argument = |at: usize| &arguments[at][..];
            return match self.lent_request(command, bytes, arguments.len(), argument) {
                Ok(lent) => MappedRoute::Lend(Box::new(lent)),
                Err(refusal) => MappedRoute::Refuse(refusal),
            };
        }
        let operation = Operation::new(command, arguments, keys, others, reply_to);
        match command.mapped {
            Mapped::Read(_) => MappedRoute::Read(Box::new(operation)),
            _ => MappedRoute::Write(Box::new(operation)),
        }
    }
}

impl Engine {
    /// Lets an operation in at the gates of all its keys' mappings; `false` when one of them is closed.
    pub fn admit(&self, operation: &mut Operation) -> bool {
        let Operation { keys, others, passes, .. } = operation;
        for key in &mut *keys {
            key.pass = key.mapping.gate.enter();
        }
        let passing = others.iter().filter_map(|key| self.registry().find_any(key));
        let passing: Option<Vec<Pass>> =
            passing.map(|mapping| mapping.gate.enter_passing()).collect();
        let is_in = passing.is_some() && keys.iter().all(|key| key.pass.is_some());
        if !is_in {
            keys.iter_mut().for_each(|key| key.pass = None);
        }
        *passes = passing.unwrap_or_default();
        is_in
    }

    /// Whether a key is in Redis alone, and its mapping's gate is closed.
    pub fn is_leaving_redis(&self, key: &[u8]) -> bool {
        let mapping = self.registry().find_any(key);
        mapping.is_some_and(|mapping| !mapping.gate.has_rows() && mapping.gate.is_closed())
    }

    /// Hands over a read of one key that Redis could not answer for good (see [`Touch::Asks`]).
    pub fn read_one(
        &self,
        command: &'static Command,
        arguments: Vec<Bytes>,
        reply_to: ReplyTo,
        pass: Pass,
    ) {
        let key = arguments.get(1).and_then(|key| self.registry().mapped_key(key));
        match key {
            Some(mut key) => {
                key.pass = Some(pass);
                self.read(Operation::new(command, arguments, vec![key], Vec::new(), reply_to));
            }
            // Cannot be: a key stays with its mapping.
            None => reply_to.answer(&Reply::err("the key is not mapped any more")),
        }
    }
}

/// Whether a reply of Redis, as it came, proves that the key was there. An error about the key or the
/// request is final too; one about Redis itself (LOADING, BUSY, MASTERDOWN, NOPERM, …) is not, for
/// Postgres can answer.
pub fn proves(proof: Proof, reply: &[u8]) -> bool {
    let Some((&kind, rest)) = reply.split_first() else { return false };
    if kind == b'-' {
        return rest.starts_with(b"WRONGTYPE ") || rest.starts_with(b"ERR ");
    }
    if kind == b'!' {
        return true;
    }
    let is_nil = kind == b'_' || (matches!(kind, b'$' | b'*') && rest.starts_with(b"-1\r"));
    match proof {
        Proof::NonNil => !is_nil,
        Proof::NonZero => kind == b':' && !rest.starts_with(b"0\r"),
        Proof::NonEmpty => !is_nil && !rest.starts_with(b"0\r"),
        Proof::AnyNonNil => any(rest, |line| line != b"$-1\r\n" && line != b"_\r\n"),
        Proof::AnyNonZero => any(rest, |line| line != b":0\r\n"),
        // "0" for the cursor, and nothing found.
        Proof::Scanned => !rest.ends_with(b"$1\r\n0\r\n*0\r\n"),
        Proof::NotNone => !rest.starts_with(b"none\r"),
        Proof::Never => false,
    }
}

/// Whether a line after the first one of an array (what follows its `*`) is of this sort.
fn any(mut rest: &[u8], is_such: impl Fn(&[u8]) -> bool) -> bool {
    let mut next_line = || {
        let end = memchr::memchr(b'\n', rest)?;
        let (line, after) = rest.split_at(end + 1);
        rest = after;
        Some(line)
    };
    let _count = next_line();
    while let Some(line) = next_line() {
        if is_such(line) {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_reply_that_shows_the_key_is_final() {
        let check = |proof, reply: &str, expected| {
            assert_eq!(proves(proof, reply.as_bytes()), expected, "{proof:?} {reply:?}");
        };
        check(Proof::NonNil, "$1\r\na\r\n", true);
        check(Proof::NonNil, "$0\r\n\r\n", true);
        check(Proof::NonNil, "$-1\r\n", false);
        check(Proof::NonNil, "_\r\n", false);
        check(Proof::NonZero, ":1\r\n", true);
        check(Proof::NonZero, ":0\r\n", false);
        check(Proof::NonEmpty, "*0\r\n", false);
        check(Proof::NonEmpty, "%0\r\n", false);
        check(Proof::NonEmpty, "*2\r\n$1\r\na\r\n$1\r\nb\r\n", true);
        check(Proof::AnyNonNil, "*2\r\n$-1\r\n$-1\r\n", false);
        check(Proof::AnyNonNil, "*2\r\n_\r\n_\r\n", false);
        check(Proof::AnyNonNil, "*2\r\n$-1\r\n$0\r\n\r\n", true);
        check(Proof::AnyNonZero, "*2\r\n:0\r\n:0\r\n", false);
        check(Proof::AnyNonZero, "*2\r\n:0\r\n:1\r\n", true);
        check(Proof::Scanned, "*2\r\n$1\r\n0\r\n*0\r\n", false);
        check(Proof::Scanned, "*2\r\n$1\r\n8\r\n*0\r\n", true);
        check(Proof::Scanned, "*2\r\n$1\r\n0\r\n*1\r\n$1\r\na\r\n", true);
        check(Proof::NotNone, "+none\r\n", false);
        check(Proof::NotNone, "+hash\r\n", true);
        check(Proof::NonZero, "-WRONGTYPE x\r\n", true);
        check(Proof::NonNil, "-LOADING Redis is loading the dataset in memory\r\n", false);
        check(Proof::NonNil, "-MASTERDOWN Link with MASTER is down\r\n", false);
        check(Proof::Never, ":5\r\n", false);
    }
}
