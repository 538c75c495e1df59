//! MULTI, EXEC, DISCARD, WATCH and UNWATCH on a client's own connection.
//!
//! Redis queues and executes. Where keys are mapped, EXEC may be respgres' (see `takeover`).
//!
//! Invariants
//! - What respgres refuses between MULTI and EXEC makes EXEC fail, as what Redis refuses does.
//! - A transaction that respgres ends is discarded in Redis, before anything else comes over its
//!   lane.

use super::conversation::{Flow, Request, Talk};
use super::expect::Inspection;
use super::pin::Pin;
use crate::command::Command;
use crate::protocol::Reply;
use crate::upstream::lane::Delivered;

// === impl Talk ===

impl Talk {
    pub(super) fn transaction(&self, command: &'static Command, request: &Request<'_>) -> Flow {
        let (in_multi, aborted, stale) = {
            let session = self.client.session.borrow();
            let of_pin = |pin: &Pin| (pin.multi, pin.aborted, pin.watches_stale);
            session.pin.as_ref().map_or((false, false, false), of_pin)
        };
        if !command.arity_ok(request.count()) {
            if in_multi && command.name == "exec" {
                // As in Redis, this is EXEC all the same.
                return self.end_aborted(&command.arity_error().replacen("ERR", ":", 1));
            }
            self.refuse(&Reply::Error(command.arity_error()));
            return Flow::Done;
        }
        match command.name {
            "multi" if !in_multi => self.multi(request),
            "watch" if !in_multi => self.with_pin(request, |pin| pin.watching = true),
            "unwatch" if !in_multi => {
                self.client.session.borrow_mut().watched = None;
                self.ending(request, |pin| {
                    pin.watching = false;
                    pin.watches_stale = false;
                })
            }
            "exec" if in_multi && aborted => self.end_aborted(" previous errors."),
            "exec" if in_multi && stale => self.end_changed(),
            "exec" if in_multi => self.exec(request),
            "discard" if in_multi => {
                let splits = |pin: &Pin| pin.watch_lane.is_some();
                let splits = self.client.session.borrow().pin.as_ref().is_some_and(splits);
                if splits && !self.drained() {
                    return Flow::Wait;
                }
                self.forget_watch();
                self.ending(request, Pin::end_transaction)
            }
            // Refused, and not queued.
            "multi" | "watch" if in_multi => {
                if !self.may_forward() {
                    return Flow::Wait;
                }
                self.forward_run(request.bytes, 1);
                Flow::Done
            }
            _ => self.forward_apart(request),
        }
    }

    fn exec(&self, request: &Request<'_>) -> Flow {
        let (splits, takes_over) = {
            let session = self.client.session.borrow();
            let splits = session.pin.as_ref().is_some_and(|pin| pin.watch_lane.is_some());
            (splits, self.is_taken_over())
        };
        if splits || takes_over {
            if !self.drained() {
                return Flow::Wait;
            }
            let (failed, why_not) = {
                let session = self.client.session.borrow();
                let pin = session.pin.as_ref();
                (pin.is_some_and(|pin| pin.queue_failed), pin.and_then(Pin::why_not_taken_over))
            };
            match (takes_over, failed) {
                (true, true) => return self.end_aborted(" previous errors."),
                (true, false) => match why_not {
                    Some(why_not) => return self.end_aborted(&format!(": {why_not}")),
                    None => return self.take_over(),
                },
                // Redis says what has to be said of it.
                (false, true) => self.forget_watch(),
                (false, false) => self.queue_on_watch_lane(),
            }
        }
        self.client.session.borrow_mut().watched = None;
        let effects = match &mut self.client.session.borrow_mut().pin {
            Some(pin) => std::mem::take(&mut pin.effects),
            None => Vec::new(),
        };
        if effects.is_empty() {
            return self.ending(request, Pin::end_transaction);
        }
        let muted = self.client.take_muted();
        self.client.expected.borrow_mut().inspect(Inspection::Exec(effects), muted);
        self.append(request.bytes, 1, Delivered::Together);
        if let Some(pin) = &mut self.client.session.borrow_mut().pin {
            pin.end_transaction();
        }
        self.drained();
        Flow::Done
    }

    /// Forwards a request that ends a state of the client's own connection, if it has one.
    fn ending(&self, request: &Request<'_>, change: impl FnOnce(&mut Pin)) -> Flow {
        if !self.may_forward() {
            return Flow::Wait;
        }
        self.forward_run(request.bytes, 1);
        if let Some(pin) = &mut self.client.session.borrow_mut().pin {
            change(pin);
        }
        // The next request, on a shared lane, may only go when this one is answered.
        self.drained();
        Flow::Done
    }

    /// Ends a transaction that respgres knows to fail.
    pub(super) fn end_aborted(&self, why: &str) -> Flow {
        let text = format!("EXECABORT Transaction discarded because of{why}");
        self.end_unrun(&Reply::Error(text))
    }

    /// Ends a transaction as Redis does whose watched keys have changed: clients try those again.
    pub(super) fn end_changed(&self) -> Flow {
        if !self.drained() {
            return Flow::Wait;
        }
        let failed = |pin: &Pin| pin.queue_failed;
        if self.client.session.borrow().pin.as_ref().is_some_and(failed) {
            return self.end_aborted(" previous errors.");
        }
        self.end_unrun(&Reply::NilArray)
    }

    fn end_unrun(&self, reply: &Reply) -> Flow {
        if !self.drained() {
            return Flow::Wait;
        }
        self.forget_watch();
        self.discard_queue();
        self.client.answer(reply);
        self.drained();
        Flow::Done
    }

    /// Has Redis forget what it has queued on the client's connection, which loses its state there.
    pub(super) fn discard_queue(&self) {
        self.client.expected.borrow_mut().replies(1, true);
        self.append(b"*1\r\n$7\r\nDISCARD\r\n", 1, Delivered::Together);
        if let Some(pin) = &mut self.client.session.borrow_mut().pin {
            pin.end_transaction();
        }
    }
}
