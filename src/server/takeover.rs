//! Transactions with mapped keys, which respgres takes over from Redis.
//!
//! Where keys are mapped, every command between MULTI and EXEC is queued in Redis, as ever, so that
//! Redis says what it has to say of it, and a copy is kept. If none of them has a mapped key, EXEC goes
//! to Redis too. Else Redis' queue is discarded, and the copies become a loan.
//!
//! DISCARD would forget what the client watches. So a client that watches unmapped keys gets a second
//! lane for the queue; the loan then runs over the first one, where Redis itself holds the watch.
//!
//! Invariants
//! - A mapped key goes to a lane only after Redis has said yes to MULTI there, and EXEC never follows it.
//! - What was refused while it was queued makes EXEC fail, whoever runs it.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::conversation::{Flow, Request, Talk};
use super::expect::Inspection;
use super::mapped::NO_WRITER;
use super::pin::Pin;
use super::queued::Effect;
use crate::command::{Command, Mapped, Path, lookup};
use crate::engine::{Admission, Lent, Loan, Over, Runner, Told, enter_all};
use crate::mapping::MappedKey;
use crate::protocol::Reply;
use crate::protocol::inline::encode_request;
use crate::upstream::lane::Delivered;

pub(super) const SELECTS: &str = "SELECT and mapped keys cannot be in one transaction";
const FLUSHES: &str = "FLUSHDB, FLUSHALL and mapped keys cannot be in one transaction";

/// What was queued since MULTI.
#[derive(Debug, Default)]
pub(super) struct Kept {
    requests: Vec<Lent>,
    bytes: usize,
    /// Redis has said yes to MULTI. If it had not, what follows would be run, not queued.
    opened: bool,
    /// One of them has a mapped key.
    pub(super) mapped: bool,
    /// One of them empties the database.
    flushes: bool,
}

// === impl Talk ===

impl Talk {
    /// MULTI.
    pub(super) fn multi(&self, request: &Request<'_>) -> Flow {
        let (maps, splits) = {
            let session = self.client.session.borrow();
            let maps = self.event_loop.shared.engine.maps_database(session.database)
                || session.watched.is_some();
            // A lane that is subscribed, tracks or is redirected to stays the client's.
            let splits = |pin: &Pin| pin.watching && !pin.sticky && pin.subscriptions.is_none();
            (maps, maps && session.pin.as_ref().is_some_and(splits))
        };
        if splits {
            if !self.drained() {
                return Flow::Wait;
            }
            let (owner, version) = (self.client.owner, self.client.version());
            let mut session = self.client.session.borrow_mut();
            let database = session.database;
            if let Some(pin) = &mut session.pin {
                let queue = self.event_loop.private_lane_of(Some(owner), database, version);
                let watch_lane = std::mem::replace(&mut pin.lane, queue);
                pin.watch_lane = Some((watch_lane, std::mem::take(&mut pin.spoiled)));
            }
        }
        if !maps {
            return self.with_pin(request, |pin| pin.multi = true);
        }
        if !self.pin() {
            return Flow::Wait;
        }
        if let Some(pin) = &mut self.client.session.borrow_mut().pin {
            pin.multi = true;
            pin.kept = Some(Kept::default());
        }
        let muted = self.client.take_muted();
        self.client.expected.borrow_mut().inspect(Inspection::Multi, muted);
        self.append(request.bytes, 1, Delivered::Together);
        Flow::Done
    }

    /// Redis has said yes to MULTI.
    pub(super) fn opened(&self) {
        if let Some(pin) = &mut self.client.session.borrow_mut().pin
            && let Some(kept) = &mut pin.kept
        {
            kept.opened = true;
        }
    }

    /// A command with a mapped key between MULTI and EXEC.
    pub(super) fn queue_mapped(&self, command: &'static Command, request: &Request<'_>) -> Flow {
        if !self.may_forward() {
            return Flow::Wait;
        }
        if matches!(command.mapped, Mapped::Watched) {
            // Redis refuses it, and goes on.
            self.forward_run(request.bytes, 1);
            return Flow::Done;
        }
        let is_opening = |pin: &Pin| pin.kept.as_ref().is_some_and(|kept| !kept.opened);
        let is_opening = self.client.session.borrow().pin.as_ref().is_some_and(is_opening);
        if is_opening && !self.drained() {
            return Flow::Wait;
        }
        let why_not = {
            let session = self.client.session.borrow();
            session.pin.as_ref().and_then(|pin| match &pin.kept {
                None => {
                    Some("mapped keys cannot be in a transaction that began in another database")
                }
                Some(_) if pin.queued_database.is_some() => Some(SELECTS),
                Some(kept) if !kept.opened => Some("no transaction was begun: MULTI has failed"),
                Some(kept) if kept.flushes => Some(FLUSHES),
                Some(_) => pin.why_not_taken_over(),
            })
        };
        if let Some(why_not) = why_not {
            self.refuse(&Reply::err(why_not));
            return Flow::Done;
        }
        let bytes = Bytes::copy_from_slice(request.bytes);
        match self.event_loop.shared.engine.lent_request(command, &bytes, request.count(), |at| {
            &bytes[request.scanner.arguments()[at].clone()]
        }) {
            Ok(lent) if lent.is_leaving_redis(&self.event_loop.shared.engine) => {
                self.wait_at_gate()
            }
            Ok(lent) => self.keep_and_queue(lent, request.bytes),
            Err(refusal) => {
                self.refuse(&Reply::Error(refusal));
                Flow::Done
            }
        }
    }

    /// Queues a command without mapped keys, if copies are kept; `None` if not.
    pub(super) fn queue_kept(&self, request: &Request<'_>) -> Option<Flow> {
        let engine = &self.event_loop.shared.engine;
        let maps = {
            let session = self.client.session.borrow();
            let pin = session.pin.as_ref()?;
            pin.kept.as_ref()?;
            pin.queued_database.is_none() && engine.maps_database(session.database)
        };
        let bytes = Bytes::copy_from_slice(request.bytes);
        let argument = |at: usize| &bytes[request.scanner.arguments()[at].clone()];
        let known = lookup(request.argument(0)).filter(|_| maps);
        if known.is_some_and(|command| command.path == Path::Flush) && !self.may_flush() {
            self.refuse(&Reply::err(FLUSHES));
            return Some(Flow::Done);
        }
        let lent = match known {
            Some(command) => {
                match engine.lent_request(command, &bytes, request.count(), argument) {
                    Ok(lent) => lent,
                    Err(refusal) => {
                        self.refuse(&Reply::Error(refusal));
                        return Some(Flow::Done);
                    }
                }
            }
            None => Lent::unknown(bytes),
        };
        Some(self.keep_and_queue(lent, request.bytes))
    }

    /// Notes that the transaction empties the database; not if it has mapped keys in it.
    fn may_flush(&self) -> bool {
        let mut session = self.client.session.borrow_mut();
        let kept = session.pin.as_mut().and_then(|pin| pin.kept.as_mut());
        kept.is_none_or(|kept| {
            kept.flushes = true;
            !kept.mapped
        })
    }

    fn keep_and_queue(&self, lent: Lent, bytes: &[u8]) -> Flow {
        if !self.may_forward() {
            return Flow::Wait;
        }
        if let Some(refusal) = lent.not_in_a_transaction() {
            self.refuse(&refusal);
            return Flow::Done;
        }
        if !self.keep(lent) {
            return Flow::Done;
        }
        if let Some(pin) = &mut self.client.session.borrow_mut().pin {
            pin.queued += 1;
        }
        self.send_to_queue(bytes);
        Flow::Done
    }

    /// Has Redis queue a request; where copies are kept, its reply is looked at.
    pub(super) fn send_to_queue(&self, bytes: &[u8]) {
        let keeps = |pin: &Pin| pin.kept.is_some();
        if !self.client.session.borrow().pin.as_ref().is_some_and(keeps) {
            self.forward_run(bytes, 1);
            return;
        }
        let muted = self.client.take_muted();
        self.client.expected.borrow_mut().inspect(Inspection::Queued, muted);
        self.append(bytes, 1, Delivered::Together);
    }

    /// Keeps a copy, where copies are kept; false when there is no room, which the client is told.
    pub(super) fn keep(&self, lent: Lent) -> bool {
        let most = self.event_loop.shared.limits.max_request_bytes;
        let mut session = self.client.session.borrow_mut();
        let Some(kept) = session.pin.as_mut().and_then(|pin| pin.kept.as_mut()) else {
            return true;
        };
        kept.bytes += lent.size();
        if kept.bytes > most {
            drop(session);
            self.refuse(&Reply::err(
                "the transaction takes more memory than limits.max_request_bytes",
            ));
            return false;
        }
        kept.mapped |= lent.has_mapped_keys();
        kept.requests.push(lent);
        true
    }

    /// Whether EXEC is a loan.
    pub(super) fn is_taken_over(&self) -> bool {
        let session = self.client.session.borrow();
        let kept = session.pin.as_ref().and_then(|pin| pin.kept.as_ref());
        let watches = session.watched.as_ref().is_some_and(|watched| !watched.is_empty());
        kept.is_some_and(|kept| kept.mapped || watches)
    }

    /// EXEC of a transaction with mapped keys, or that watches such. Nothing is under way.
    pub(super) fn take_over(&self) -> Flow {
        let client = &self.client;
        let passes = match self.admit_kept() {
            Admission::In(passes) => passes,
            Admission::NotYet => {
                let why = ": the strategy of a key's mapping is being changed; try again";
                return self.wait_on().unwrap_or_else(|| self.end_aborted(why));
            }
            Admission::Stale => return self.end_changed(),
        };
        let version = client.version();
        let mut session = client.session.borrow_mut();
        let (watched, database) = (session.watched.take(), session.database);
        let Some(pin) = &mut session.pin else { return Flow::Done };
        let kept = pin.kept.take().unwrap_or_default();
        let effects = std::mem::take(&mut pin.effects);
        let spoils = effects.iter().any(|(_, effect)| matches!(effect, Effect::Select(_)));
        let over = match pin.watch_lane.take() {
            None => {
                drop(session);
                self.discard_queue();
                Over::Spare { database, version }
            }
            Some((watch_lane, spoiled)) => {
                let queue = session.pin.take().map(|pin| pin.lane);
                drop(session);
                if let Some(queue) = queue {
                    self.event_loop.discard(queue);
                }
                // A connection that others redirect to is not for anybody else.
                let spoiled = !client.entry.release_connection() || spoiled;
                client.entry.lose_connection();
                Over::Held(self.event_loop.hold(watch_lane, spoiled))
            }
        };
        let muted = client.take_muted();
        let slot = client.expected.borrow_mut().slot(muted);
        if !effects.is_empty() {
            client.exec_effects.replace(Some((slot, effects)));
        }
        client.writer.set(NO_WRITER);
        client.writes.set(1);
        let loan = Loan {
            requests: kept.requests,
            transaction: true,
            watched,
            spoils,
            passes,
            runner: Runner::new(Arc::clone(&self.event_loop.mailbox), over),
            told: Told::new(self.reply_to(slot)),
        };
        self.event_loop.shared.engine.lend(loan);
        client.show_standing();
        self.drained();
        Flow::Done
    }

    /// Lets in what was queued. Keys that Redis alone has by now are not lent any more; but what one held that is
    /// watched can no longer be compared.
    fn admit_kept(&self) -> Admission {
        let engine = &self.event_loop.shared.engine;
        let mut session = self.client.session.borrow_mut();
        let watched = session.watched.clone();
        let kept = session.pin.as_mut().and_then(|pin| pin.kept.as_mut());
        let Some(kept) = kept else { return Admission::In(Vec::new()) };
        let mut admission = engine.admit_loan(&kept.requests, watched.as_deref());
        if matches!(admission, Admission::Stale) {
            kept.requests.iter_mut().for_each(|lent| engine.look_again(lent));
            admission = engine.admit_loan(&kept.requests, watched.as_deref());
        }
        match admission {
            // Once more, just now.
            Admission::Stale if watched.is_none_or(|watched| watched.is_empty()) => {
                Admission::NotYet
            }
            admission => admission,
        }
    }

    /// Moves the queue to the lane on which the client watches, EXEC's place. Nothing is under way.
    pub(super) fn queue_on_watch_lane(&self) {
        let mut session = self.client.session.borrow_mut();
        let Some(pin) = &mut session.pin else { return };
        let Some((watch_lane, spoiled)) = pin.watch_lane.take() else { return };
        pin.spoiled |= spoiled;
        let queue = std::mem::replace(&mut pin.lane, watch_lane);
        let kept = pin.kept.take().unwrap_or_default();
        drop(session);
        self.event_loop.discard(queue);
        let mut bytes = BytesMut::from(&b"*1\r\n$5\r\nMULTI\r\n"[..]);
        for request in &kept.requests {
            bytes.extend_from_slice(&request.bytes);
        }
        let count = u32::try_from(kept.requests.len() + 1).unwrap_or(u32::MAX);
        let delivered = self.client.expected.borrow_mut().replies(count, true);
        self.append(&bytes, count, delivered);
    }

    /// Forgets what a client watches that ends its transaction without the lane on which it does.
    pub(super) fn forget_watch(&self) {
        let mut session = self.client.session.borrow_mut();
        session.watched = None;
        let lane = session.pin.as_mut().and_then(|pin| pin.watch_lane.take());
        drop(session);
        if let Some((lane, spoiled)) = lane {
            let spoiled = !self.client.entry.release_connection() || spoiled;
            self.client.entry.lose_connection();
            self.event_loop.forget_watch(lane, spoiled);
            let session = self.client.session.borrow();
            if let Some(pin) = &session.pin {
                self.client.entry.get_connection(pin.lane.upstream_id());
            }
        }
    }

    /// WATCH with mapped keys, outside of a transaction.
    pub(super) fn watch_mapped(&self, name: &[u8], keys: Vec<MappedKey>, others: &[Bytes]) -> Flow {
        if !self.drained() {
            return Flow::Wait;
        }
        let Some(passes) = enter_all(&keys) else { return self.wait_at_gate() };
        if !others.is_empty() && !self.pin() {
            return Flow::Wait;
        }
        let client = &self.client;
        client.at_gate_since.set(None);
        let mut session = client.session.borrow_mut();
        let watched = Arc::clone(session.watched.get_or_insert_default());
        if let (Some(pin), false) = (&mut session.pin, others.is_empty()) {
            pin.watching = true;
            let registry = self.event_loop.shared.engine.registry();
            client.passes(None, others.iter().any(|key| registry.find_any(key).is_some()));
        }
        drop(session);
        let muted = client.take_muted();
        // What follows is read after what is remembered.
        client.writer.set(NO_WRITER);
        client.writes.set(1);
        if others.is_empty() {
            let slot = client.expected.borrow_mut().slot(muted);
            let told = Told::new(self.reply_to(slot));
            self.event_loop.shared.engine.watch(keys, watched, passes, told);
            return Flow::Done;
        }
        let mut bytes = BytesMut::new();
        let words: Vec<&[u8]> =
            std::iter::once(name).chain(others.iter().map(|key| &key[..])).collect();
        encode_request(&words, &mut bytes);
        client.expected.borrow_mut().inspect(Inspection::Watch(keys, watched, passes), muted);
        self.append(&bytes, 1, Delivered::Together);
        Flow::Done
    }
}
