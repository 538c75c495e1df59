//! What the workers send to an event loop: answers for its clients, large values to be streamed to them,
//! and errands.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Bytes, BytesMut};
use tokio::sync::Notify;

use super::errand::Errand;
use super::stream::Large;
use crate::mapping::Pass;
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

#[derive(Debug)]
pub enum Mail {
    Answer(Answer),
    /// The reply for this client's slot is to be streamed, when it is its turn.
    Large {
        owner: Owner,
        slot: u32,
        large: Box<Large>,
    },
    Errand(Errand),
    /// A mapping leaves `redis_only`: to be held until what passes through to its keys has ended.
    Fence(Pass),
    /// The lane that is held under this number is not needed any more.
    GiveBack(u32),
}

/// An event loop's inbox.
#[derive(Debug, Default)]
pub struct Mailbox {
    inbox: Mutex<Inbox>,
    arrived: Notify,
}

#[derive(Debug, Default)]
struct Inbox {
    mail: Vec<Mail>,
    closed: bool,
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
    /// Waits for mail and takes all that is there.
    pub async fn take(&self) -> Vec<Mail> {
        loop {
            let taken = std::mem::take(&mut self.inbox().mail);
            if !taken.is_empty() {
                return taken;
            }
            self.arrived.notified().await;
        }
    }

    /// Nobody takes mail any more: what is there and what comes is dropped.
    pub fn close(&self) {
        let mut inbox = self.inbox();
        inbox.closed = true;
        let dropped = std::mem::take(&mut inbox.mail);
        drop(inbox);
        drop(dropped);
    }

    pub(super) fn put(&self, mail: Mail) {
        let mut inbox = self.inbox();
        if inbox.closed {
            return;
        }
        inbox.mail.push(mail);
        let first = inbox.mail.len() == 1;
        drop(inbox);
        if first {
            self.arrived.notify_one();
        }
    }

    fn inbox(&self) -> MutexGuard<'_, Inbox> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl ReplyTo ===

impl ReplyTo {
    pub fn answer(&self, reply: &Reply) {
        let mut bytes = BytesMut::new();
        reply.write(self.version, &mut bytes);
        self.answer_bytes(bytes.freeze());
    }

    /// Has the reply streamed when it is its turn.
    pub fn put_off(&self, large: Large) {
        let Self { owner, slot, .. } = *self;
        self.mailbox.put(Mail::Large { owner, slot, large: Box::new(large) });
    }

    /// Answers with a reply as it goes over the wire.
    pub fn answer_bytes(&self, reply: Bytes) {
        let answer = Answer { owner: self.owner, slot: self.slot, reply };
        self.mailbox.put(Mail::Answer(answer));
    }
}
