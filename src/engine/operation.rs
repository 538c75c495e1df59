//! One client's command on mapped keys, on its way through the engine.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::mailbox::ReplyTo;
use super::stream::Large;
use crate::command::{Command, Listing, Mapped, Read, Write};
use crate::mapping::{MappedKey, Pass};
use crate::metrics::{Metrics, Side};
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
    /// For those of the others that are of a `redis_only` mapping.
    pub passes: Vec<Pass>,
    pub reply_to: ReplyTo,
    arrived: Instant,
    answered: AtomicBool,
    /// Another worker is to do it.
    is_handed_over: AtomicBool,
    /// Where it is counted once it is answered.
    metrics: Option<Arc<Metrics>>,
}

// === impl Operation ===

impl Operation {
    pub fn new(
        command: &'static Command,
        arguments: Vec<Bytes>,
        keys: Vec<MappedKey>,
        others: Vec<Bytes>,
        reply_to: ReplyTo,
    ) -> Self {
        Self {
            command,
            arguments,
            keys,
            others,
            passes: Vec::new(),
            reply_to,
            arrived: Instant::now(),
            answered: AtomicBool::new(false),
            is_handed_over: AtomicBool::new(false),
            metrics: None,
        }
    }

    /// Has it counted once it is answered.
    pub(super) fn count_in(&mut self, metrics: &Arc<Metrics>) {
        self.metrics = Some(Arc::clone(metrics));
    }

    fn count(&self, error: Option<&str>) {
        let (Some(metrics), Some(key)) = (&self.metrics, self.keys.first()) else { return };
        if let Some(counts) = metrics.mapping(key.mapping.index) {
            let side = if self.as_read().is_some() { Side::Read } else { Side::Write };
            counts.operation(side, error.is_some(), self.age());
        }
        if let Some(text) = error {
            metrics.tell_error(text);
        }
    }

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

    /// Tells the client, once: what comes after the first answer is dropped.
    pub fn answer(&self, reply: &Reply) {
        if !self.answered.swap(true, Ordering::Relaxed) {
            self.count(if let Reply::Error(text) = reply { Some(text) } else { None });
            self.reply_to.answer(reply);
        }
    }

    /// Has a large value, its first key's, streamed instead of an answer.
    pub fn put_off(&self, listing: Listing) {
        let Some(key) = self.keys.first() else { return };
        if !self.answered.swap(true, Ordering::Relaxed) {
            self.count(None);
            let version = self.reply_to.version;
            self.reply_to.put_off(Large {
                key: MappedKey { pass: None, ..key.clone() },
                listing,
                version,
            });
        }
    }

    pub fn is_answered(&self) -> bool {
        self.answered.load(Ordering::Relaxed)
    }

    /// Has another worker do it, in its turn.
    pub fn hand_over(&self) {
        self.is_handed_over.store(true, Ordering::Relaxed);
    }

    /// Whether it was handed over; who asks has it now.
    pub fn take_over(&self) -> bool {
        self.is_handed_over.swap(false, Ordering::Relaxed) && !self.is_answered()
    }

    /// Whether a worker that had it leaves it to another one.
    pub fn is_handed_over(&self) -> bool {
        self.is_handed_over.load(Ordering::Relaxed) && !self.is_answered()
    }

    /// How long ago the client has sent it.
    pub fn age(&self) -> Duration {
        self.arrived.elapsed()
    }

    /// The bytes of its arguments.
    pub fn size(&self) -> usize {
        self.arguments.iter().map(Bytes::len).sum()
    }

    /// The same command on the keys that are not mapped, for the upstream.
    pub fn for_others(&self) -> Vec<Bytes> {
        std::iter::once(self.arguments[0].clone()).chain(self.others.iter().cloned()).collect()
    }
}

/// Cuts operations into batches of at most `most` operations and, where one alone is not larger,
/// `most_bytes` bytes of arguments.
pub fn batches(
    operations: &[Operation],
    most: usize,
    most_bytes: usize,
) -> impl Iterator<Item = &[Operation]> {
    let mut rest = operations;
    std::iter::from_fn(move || {
        let mut bytes = 0;
        let fits = |operation: &&Operation| {
            bytes += operation.size();
            bytes <= most_bytes
        };
        let count = rest.iter().take(most).take_while(fits).count().max(1).min(rest.len());
        let (batch, after) = rest.split_at(count);
        rest = after;
        (!batch.is_empty()).then_some(batch)
    })
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
