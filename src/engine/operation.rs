//! One client's command on mapped keys, on its way through the engine.

use bytes::Bytes;

use super::mailbox::ReplyTo;
use crate::command::{Command, Mapped, Read, Write};
use crate::mapping::MappedKey;
use crate::protocol::Reply;

/// A command with at least one mapped key.
#[derive(Debug)]
pub struct Operation {
    pub command: &'static Command,
    /// With the name.
    pub arguments: Vec<Bytes>,
    /// The mapped keys in the order of the arguments; a key named twice stands here twice.
    pub keys: Vec<MappedKey>,
    /// Keys that are not mapped (DEL, UNLINK and EXISTS take both).
    pub others: Vec<Bytes>,
    pub reply_to: ReplyTo,
}

// === impl Operation ===

impl Operation {
    /// How the command reads, if it is a read.
    pub fn as_read(&self) -> Option<Read> {
        match self.command.mapped {
            Mapped::Read(read) => Some(read),
            _ => None,
        }
    }

    /// How the command writes, if it is a write.
    pub fn as_write(&self) -> Option<Write> {
        match self.command.mapped {
            Mapped::Write(write) => Some(write),
            _ => None,
        }
    }

    pub fn answer(&self, reply: &Reply) {
        self.reply_to.answer(reply);
    }

    /// The same command on the keys that are not mapped, for the upstream.
    pub fn for_others(&self) -> Vec<Bytes> {
        std::iter::once(self.arguments[0].clone()).chain(self.others.iter().cloned()).collect()
    }
}

/// Adds up the replies that a command gave for each of its keys; a command with one key has one
/// reply, which is returned as it is. The first error wins.
pub fn total(replies: impl Iterator<Item = Reply>) -> Reply {
    let mut sum: Option<Reply> = None;
    for reply in replies {
        sum = Some(match (sum, reply) {
            (None, reply) => reply,
            (Some(Reply::Integer(a)), Reply::Integer(b)) => Reply::Integer(a + b),
            (Some(error @ Reply::Error(_)), _) => error,
            (Some(_), reply) => reply,
        });
    }
    sum.unwrap_or(Reply::Integer(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_are_added_up_and_errors_win() {
        let integers = [Reply::Integer(1), Reply::Integer(0), Reply::Integer(1)];
        assert_eq!(total(integers.into_iter()), Reply::Integer(2));
        let mixed = [Reply::Integer(1), Reply::Error("ERR x".into()), Reply::Integer(1)];
        assert_eq!(total(mixed.into_iter()), Reply::Error("ERR x".into()));
    }
}
