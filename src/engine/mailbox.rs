//! Answers on their way from the workers back to an event loop.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Bytes, BytesMut};
use tokio::sync::Notify;

use crate::protocol::{Reply, Version};
use crate::upstream::lane::Owner;

/// A reply for one client's slot.
#[derive(Debug)]
pub struct Answer {
    pub owner: Owner,
    pub slot: u32,
    /// As it goes over the wire.
    pub reply: Bytes,
}

/// An event loop's inbox.
#[derive(Debug, Default)]
pub struct Mailbox {
    answers: Mutex<Vec<Answer>>,
    arrived: Notify,
}

/// Where, and in which protocol version, an operation's reply is to go.
#[derive(Clone, Debug)]
pub struct ReplyTo {
    pub mailbox: Arc<Mailbox>,
    pub owner: Owner,
    pub slot: u32,
    pub version: Version,
}

// === impl Mailbox ===

impl Mailbox {
    /// Waits for answers and takes all that are there.
    pub async fn take(&self) -> Vec<Answer> {
        loop {
            let taken =
                std::mem::take(&mut *self.answers.lock().unwrap_or_else(PoisonError::into_inner));
            if !taken.is_empty() {
                return taken;
            }
            self.arrived.notified().await;
        }
    }

    fn put(&self, answer: Answer) {
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        answers.push(answer);
        let first = answers.len() == 1;
        drop(answers);
        if first {
            self.arrived.notify_one();
        }
    }
}

// === impl ReplyTo ===

impl ReplyTo {
    pub fn answer(&self, reply: &Reply) {
        let mut bytes = BytesMut::new();
        reply.write(self.version, &mut bytes);
        self.mailbox.put(Answer { owner: self.owner, slot: self.slot, reply: bytes.freeze() });
    }
}
