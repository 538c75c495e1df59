//! Commands about the connection inside of MULTI: Redis queues them, so respgres does too.
//!
//! What Redis has to do itself (SELECT) is sent to it, and noted when EXEC has done it; what respgres
//! adds something to (INFO) is sent too. What respgres answers (CLIENT GETNAME, AUTH) has a PING as
//! its stand-in in Redis' queue; when EXEC's reply comes, the command is run and its reply takes the
//! stand-in's place.

use std::sync::atomic::Ordering;

use bytes::{Bytes, BytesMut};

use super::conversation::{Flow, Request, Talk};
use super::info;
use super::pin::Pin;
use super::takeover::SELECTS;
use crate::command::Command;
use crate::engine::Lent;
use crate::protocol::Reply;
use crate::protocol::request::{Scanned, Scanner};
use crate::protocol::scan::{ReplyScanner, Step};

const STAND_IN: &[u8] = b"*1\r\n$4\r\nPING\r\n";

/// What EXEC does to the connection.
#[derive(Debug)]
pub(super) enum Effect {
    /// The database, once Redis says OK.
    Select(u16),
    /// Our own section is added to INFO's reply.
    Info,
    /// A command that respgres answers, and its request.
    Answer(&'static Command, Bytes),
}

/// An effect of the queued command with this number, counted from 0.
pub(super) type Queued = (usize, Effect);

// === impl Talk ===

impl Talk {
    /// Queues a command that respgres answers.
    pub(super) fn queue_local(&self, command: &'static Command, request: &Request<'_>) -> Flow {
        let effect = Effect::Answer(command, Bytes::copy_from_slice(request.bytes));
        self.queue(STAND_IN, effect)
    }

    /// Queues bytes in Redis' transaction, and what they will mean.
    pub(super) fn queue(&self, bytes: &[u8], effect: Effect) -> Flow {
        if !self.may_forward() {
            return Flow::Wait;
        }
        let selects = matches!(effect, Effect::Select(_));
        if selects && self.client.session.borrow().pin.as_ref().is_some_and(Pin::has_mapped_keys) {
            self.refuse(&Reply::err(SELECTS));
            return Flow::Done;
        }
        if !self.keep(Lent::harmless(Bytes::copy_from_slice(bytes))) {
            return Flow::Done;
        }
        if let Some(pin) = &mut self.client.session.borrow_mut().pin {
            if let Effect::Select(database) = effect {
                pin.queued_database = Some(database);
            }
            pin.effects.push((pin.queued, effect));
            pin.queued += 1;
        }
        self.send_to_queue(bytes);
        self.client.show_standing();
        Flow::Done
    }

    /// Makes of Redis' reply to EXEC the client's: runs what was queued here.
    pub(super) fn finish_transaction(&self, reply: Vec<u8>, effects: Vec<Queued>) -> Vec<u8> {
        // Not run: aborted, or a watched key was changed.
        if reply.first() != Some(&b'*') || reply.starts_with(b"*-1") {
            return reply;
        }
        let header = memchr::memchr(b'\n', &reply).map_or(reply.len(), |end| end + 1);
        let (mut out, mut rest) = (BytesMut::from(&reply[..header]), &reply[header..]);
        let mut scanner = ReplyScanner::new();
        let mut effects = effects.into_iter().peekable();
        let mut number = 0;
        while !rest.is_empty() {
            let Step::End(length) = scanner.next(rest) else { break };
            let (element, after) = rest.split_at(length);
            match effects.next_if(|(queued, _)| *queued == number) {
                Some((_, Effect::Answer(command, request))) => {
                    self.run_queued(command, &request, &mut out);
                }
                Some((_, Effect::Info)) => {
                    let section = info::section(&self.event_loop.shared);
                    out.extend_from_slice(&info::with_section(element, &section));
                }
                Some((_, Effect::Select(database))) => {
                    if element.starts_with(b"+") {
                        self.selected(database);
                    }
                    out.extend_from_slice(element);
                }
                None => out.extend_from_slice(element),
            }
            rest = after;
            number += 1;
        }
        out.extend_from_slice(rest);
        out.to_vec()
    }

    fn run_queued(&self, command: &'static Command, bytes: &[u8], out: &mut BytesMut) {
        let mut scanner = Scanner::new();
        let scanned = scanner.next(bytes, true, &self.limits);
        debug_assert!(
            matches!(scanned, Scanned::Request(_)),
            "it was a request when it was queued"
        );
        let reply = self.local_reply(command, &Request { bytes, scanner: &scanner });
        reply.write(self.client.version(), out);
    }

    /// The client's own connection to Redis has changed to this database.
    pub(super) fn selected(&self, database: u16) {
        let mut session = self.client.session.borrow_mut();
        session.database = database;
        if let Some(pin) = &mut session.pin {
            // It is not what its lane says any more.
            pin.spoiled = true;
        }
        self.client.entry.database.store(database, Ordering::Relaxed);
    }
}
