//! One client as its event loop knows it: its socket's writing side, what it still has to be told,
//! and the state of its connection.
//!
//! Replies are written from where they arrive (the lane's reader, the mailbox), directly to the
//! socket; only what the socket does not take at once is kept.

use std::cell::{Cell, RefCell, RefMut};
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Waker};
use std::time::Instant;

use bytes::Bytes;
use tokio::net::tcp::OwnedWriteHalf;

use super::expect::{Delivery, Expected, Inspected, Unproven};
use super::pin::Pin;
use super::queued::Queued;
use super::roster::{Entry, Standing};
use crate::engine::{Draw, Large, Watched};
use crate::metrics::LoopCounts;
use crate::protocol::{Reply, Version};
use crate::upstream::lane::Owner;

/// Output buffers that grew beyond this are given back once they are empty.
const KEPT_OUTPUT_BYTES: usize = 4096;

pub(super) struct Client {
    pub(super) owner: Owner,
    pub(super) entry: Arc<Entry>,
    socket: OwnedWriteHalf,
    output: RefCell<Output>,
    pub(super) expected: RefCell<Expected>,
    waker: RefCell<Option<Waker>>,
    pub(super) session: RefCell<Session>,
    /// The conversation waits until nothing is under way.
    pub(super) stalled: Cell<bool>,
    /// Since when the request at hand waits for its mapping, whose strategy is being changed.
    pub(super) at_gate_since: Cell<Option<Instant>>,
    /// It is to look again in a moment.
    pub(super) wakes_soon: Cell<bool>,
    /// The conversation waits until its lane has room.
    pub(super) without_room: Cell<bool>,
    /// What is under way began with a script; what follows goes the same way, to stay in order.
    pub(super) on_scripts_lane: Cell<bool>,
    /// Mapped writes under way, and the worker that they are with.
    pub(super) writes: Cell<u32>,
    pub(super) writer: Cell<usize>,
    /// Keys that Redis alone has were named while there was a connection of its own.
    pub(super) has_passed: Cell<bool>,
    /// What an EXEC that the engine runs does to the connection, and its slot.
    pub(super) exec_effects: RefCell<Option<(u32, Vec<Queued>)>>,
    fate: Cell<Fate>,
    /// A client with more than that many bytes waiting is closed.
    most_output_bytes: usize,
}

/// What HELLO, AUTH, SELECT and CLIENT have set.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) version: Version,
    pub(super) database: u16,
    pub(super) authenticated: bool,
    pub(super) replies: Replies,
    /// A connection of its own in the upstream, while there is state in it.
    pub(super) pin: Option<Pin>,
    /// WATCH on mapped keys.
    pub(super) watched: Option<Arc<Watched>>,
}

/// CLIENT REPLY.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Replies {
    On,
    Off,
    /// The next command's reply is not sent.
    SkipNext,
}

/// A reply of the lane's that is not simply passed on.
pub(super) enum Look {
    Inspect(Inspected),
    Unproven(Unproven),
}

#[derive(Debug, Default)]
struct Output {
    bytes: Vec<u8>,
    written: usize,
    /// The socket takes no more; the conversation waits for it.
    blocked: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Stays,
    /// Leaves once all is written (QUIT, protocol errors, the end of its requests).
    LeavesWhenTold,
    /// Leaves now.
    Leaves,
}

// === impl Client ===

impl Client {
    pub(super) fn new(
        owner: Owner,
        entry: Arc<Entry>,
        socket: OwnedWriteHalf,
        authenticated: bool,
        most_output_bytes: usize,
        counts: Arc<LoopCounts>,
        draw: Option<Rc<Draw>>,
    ) -> Rc<Self> {
        let session = Session {
            version: Version::Resp2,
            database: 0,
            authenticated,
            replies: Replies::On,
            pin: None,
            watched: None,
        };
        Rc::new(Self {
            owner,
            entry,
            socket,
            output: RefCell::default(),
            expected: RefCell::new(Expected::counted_in(counts, draw)),
            waker: RefCell::default(),
            session: RefCell::new(session),
            stalled: Cell::new(false),
            at_gate_since: Cell::new(None),
            wakes_soon: Cell::new(false),
            without_room: Cell::new(false),
            on_scripts_lane: Cell::new(false),
            writes: Cell::new(0),
            writer: Cell::new(0),
            has_passed: Cell::new(false),
            exec_effects: RefCell::default(),
            fate: Cell::new(Fate::Stays),
            most_output_bytes,
        })
    }

    pub(super) fn version(&self) -> Version {
        self.session.borrow().version
    }

    /// Remembers whom to wake when something changes that the conversation waits for.
    pub(super) fn set_waker(&self, cx: &Context<'_>) {
        let mut waker = self.waker.borrow_mut();
        match &*waker {
            Some(known) if known.will_wake(cx.waker()) => {}
            _ => *waker = Some(cx.waker().clone()),
        }
    }

    /// Makes the conversation look again.
    pub(super) fn wake(&self) {
        if let Some(waker) = &*self.waker.borrow() {
            waker.wake_by_ref();
        }
    }

    /// Whether the reply to the request at hand is not to be sent (CLIENT REPLY).
    pub(super) fn take_muted(&self) -> bool {
        let mut session = self.session.borrow_mut();
        match session.replies {
            Replies::On => false,
            Replies::Off => true,
            Replies::SkipNext => {
                session.replies = Replies::On;
                true
            }
        }
    }

    /// A reply of our own to the request at hand, in its place among the others.
    pub(super) fn answer(&self, reply: &Reply) {
        let mut bytes = bytes::BytesMut::new();
        reply.write(self.version(), &mut bytes);
        self.answer_bytes(bytes.freeze());
    }

    pub(super) fn answer_bytes(&self, bytes: Bytes) {
        let muted = self.take_muted();
        let slot = self.expected.borrow_mut().slot(muted);
        self.fill(slot, bytes);
        self.flush();
    }

    /// Bytes of the lane's replies have come, in which `ended` replies end; `more`, if more come at
    /// once. What has to be looked at is returned.
    pub(super) fn deliver(&self, bytes: &[u8], ended: u32, more: bool) -> Option<Look> {
        let mut output = self.output.borrow_mut();
        let mut expected = self.expected.borrow_mut();
        let delivery = expected.deliver(bytes, ended, &mut output.bytes);
        let drained = expected.is_empty();
        let is_large = matches!(delivery, Delivery::Kept) && expected.large().is_some();
        drop(expected);
        let look = match delivery {
            // One write for all of them.
            Delivery::Now if more => {
                output.bytes.extend_from_slice(bytes);
                None
            }
            Delivery::Now => {
                self.write(&mut output, bytes);
                None
            }
            Delivery::Kept => {
                if !more {
                    self.write(&mut output, &[]);
                }
                None
            }
            Delivery::Inspect(inspected) => Some(Look::Inspect(inspected)),
            Delivery::Unproven(unproven) => {
                if !more {
                    self.write(&mut output, &[]);
                }
                Some(Look::Unproven(unproven))
            }
        };
        drop(output);
        if drained {
            self.drained();
        } else if is_large {
            self.wake();
        }
        look
    }

    /// The next reply of the lane's will not come; `error` is what is told in its stead.
    pub(super) fn deliver_failure(&self, error: &[u8]) -> Option<Look> {
        let mut output = self.output.borrow_mut();
        let mut expected = self.expected.borrow_mut();
        let delivery = expected.deliver_failure(error, &mut output.bytes);
        let drained = expected.is_empty();
        drop(expected);
        let (bytes, look) = match delivery {
            Delivery::Now => (error, None),
            Delivery::Kept => (&[][..], None),
            Delivery::Inspect(inspected) => (&[][..], Some(Look::Inspect(inspected))),
            Delivery::Unproven(unproven) => (&[][..], Some(Look::Unproven(unproven))),
        };
        self.write(&mut output, bytes);
        drop(output);
        if drained {
            self.drained();
        }
        look
    }

    /// A slot's reply is there; `flush` sends it.
    pub(super) fn fill(&self, slot: u32, bytes: Bytes) {
        let mut expected = self.expected.borrow_mut();
        expected.fill(slot, bytes, &mut self.output.borrow_mut().bytes);
        self.after_release(expected);
    }

    /// A slot's reply is too large to be held.
    pub(super) fn put_off(&self, slot: u32, large: Box<Large>) {
        let mut expected = self.expected.borrow_mut();
        expected.put_off(slot, large, &mut self.output.borrow_mut().bytes);
        self.after_release(expected);
        self.flush();
    }

    /// The large reply whose turn it was is complete.
    pub(super) fn end_large(&self) {
        let mut expected = self.expected.borrow_mut();
        expected.end_large(&mut self.output.borrow_mut().bytes);
        self.after_release(expected);
        self.flush();
    }

    /// Replies have gone out, perhaps.
    fn after_release(&self, mut expected: RefMut<'_, Expected>) {
        let (drained, is_large) = (expected.is_empty(), expected.large().is_some());
        drop(expected);
        if drained {
            self.drained();
        } else if is_large {
            self.wake();
        }
    }

    /// Bytes that stand outside of the order of replies: pushes, published messages.
    pub(super) fn push(&self, bytes: &[u8]) {
        let kept = self.expected.borrow_mut().keep_push(bytes);
        match kept {
            None => self.send(bytes),
            Some(kept) if kept > self.most_output_bytes => self.leave_unread(),
            Some(_) => {}
        }
    }

    /// Bytes of the reply whose turn it is.
    pub(super) fn send(&self, bytes: &[u8]) {
        self.write(&mut self.output.borrow_mut(), bytes);
    }

    /// Tells other clients (CLIENT LIST) what this one has a connection of its own for.
    pub(super) fn show_standing(&self) {
        let session = self.session.borrow();
        let standing = session.pin.as_ref().map_or_else(Standing::default, Pin::standing);
        self.entry.set_standing(standing);
    }

    fn drained(&self) {
        self.writes.set(0);
        self.on_scripts_lane.set(false);
        if self.stalled.replace(false) || self.fate.get() == Fate::LeavesWhenTold {
            self.wake();
        }
    }

    /// Writes what waits, as far as the socket takes it.
    pub(super) fn flush(&self) {
        self.write(&mut self.output.borrow_mut(), &[]);
    }

    /// Called by the conversation once the socket takes bytes again.
    pub(super) fn unblock(&self) {
        let mut output = self.output.borrow_mut();
        output.blocked = false;
        self.write(&mut output, &[]);
    }

    pub(super) fn is_blocked(&self) -> bool {
        self.output.borrow().blocked
    }

    pub(super) fn socket(&self) -> &OwnedWriteHalf {
        &self.socket
    }

    fn write(&self, output: &mut Output, bytes: &[u8]) {
        self.write_or_keep(output, bytes);
        // For CLIENT LIST; mostly it is 0 and stays so.
        let waiting = output.bytes.len() - output.written;
        if self.entry.output_bytes.load(Ordering::Relaxed) != waiting {
            self.entry.output_bytes.store(waiting, Ordering::Relaxed);
        }
    }

    fn write_or_keep(&self, output: &mut Output, bytes: &[u8]) {
        if self.fate.get() == Fate::Leaves {
            // It may have a part of a reply: nothing may follow that.
            output.bytes.clear();
            output.written = 0;
            return;
        }
        let mut bytes = bytes;
        if !output.blocked {
            while output.written < output.bytes.len() {
                match self.socket.try_write(&output.bytes[output.written..]) {
                    Ok(count) => output.written += count,
                    Err(error) => {
                        self.write_failed(output, &error);
                        break;
                    }
                }
            }
            if output.written == output.bytes.len() {
                output.bytes.clear();
                output.written = 0;
                if output.bytes.capacity() > KEPT_OUTPUT_BYTES {
                    output.bytes = Vec::new();
                }
                while !bytes.is_empty() {
                    match self.socket.try_write(bytes) {
                        Ok(count) => bytes = &bytes[count..],
                        Err(error) => {
                            self.write_failed(output, &error);
                            break;
                        }
                    }
                }
            }
        }
        if self.fate.get() == Fate::Leaves {
            output.bytes.clear();
            output.written = 0;
        } else {
            output.bytes.extend_from_slice(bytes);
            if output.bytes.len() - output.written > self.most_output_bytes {
                self.leave_unread();
            }
        }
    }

    /// Leaves, as too much waits for it.
    fn leave_unread(&self) {
        tracing::warn!(client = self.entry.id, "closed: it does not read its replies");
        self.leave();
    }

    fn write_failed(&self, output: &mut Output, error: &io::Error) {
        if error.kind() == io::ErrorKind::WouldBlock {
            output.blocked = true;
            self.wake();
        } else {
            self.leave();
        }
    }

    /// Bytes that this client has not taken yet.
    pub(super) fn backlog_bytes(&self) -> usize {
        let output = self.output.borrow();
        output.bytes.len() - output.written + self.expected.borrow().held_bytes()
    }

    /// Leaves once everything that it was to be told is written.
    pub(super) fn leave_when_told(&self) {
        if self.fate.get() == Fate::Stays {
            self.fate.set(Fate::LeavesWhenTold);
        }
        self.wake();
    }

    /// Leaves at once.
    pub(super) fn leave(&self) {
        self.fate.set(Fate::Leaves);
        self.wake();
    }

    /// Whether no more of its requests are read.
    pub(super) fn is_leaving(&self) -> bool {
        self.fate.get() != Fate::Stays
    }

    /// Whether it is time to close the connection.
    pub(super) fn is_done(&self) -> bool {
        match self.fate.get() {
            Fate::Stays => false,
            Fate::Leaves => true,
            Fate::LeavesWhenTold => {
                self.expected.borrow().is_empty() && self.output.borrow().bytes.is_empty()
            }
        }
    }
}
