//! One client's side of the talk: its bytes are read, cut into requests, and each request is sent
//! on its way.
//!
//! Requests that pass through are not looked at one by one: a run of them is appended to the lane
//! in one piece, and so is a run of mapped reads that Redis may answer. A request that has to wait (for the replies before it, for room) stays in the
//! client's input and is cut again later.
//!
//! Invariants
//! - A request is forwarded only when all of it is there.
//! - What has to wait for the client's earlier requests waits (see `mapped`, `pin`), and everything
//!   after it does.

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::tcp::OwnedReadHalf;

use super::client::{Client, Replies};
use super::event_loop::{Carries, EventLoop};
use super::expect::Inspection;
use super::queued::Effect;
use super::way::{Apart, Way};
use crate::command::{COMMANDS, Command};
use crate::metrics;
use crate::protocol::Reply;
use crate::protocol::inline::{encode_request, split};
use crate::protocol::request::{ProtocolError, RequestLimits, Scanned, Scanner};
use crate::upstream::Lane;
use crate::upstream::lane::Delivered;

/// Bytes read ahead of a client whose requests have to wait.
const READ_AHEAD_BYTES: usize = 64 << 10;

/// Room for input that is kept between requests.
const KEPT_INPUT_BYTES: usize = 16 << 10;

pub(super) struct Conversation {
    reader: OwnedReadHalf,
    scanner: Scanner,
    input: BytesMut,
    /// The client has sent all that it will send.
    ended: bool,
    talk: Talk,
}

/// A conversation without its buffers.
pub(super) struct Talk {
    pub(super) event_loop: Rc<EventLoop>,
    pub(super) client: Rc<Client>,
    pub(super) limits: RequestLimits,
    /// The command that was looked at last.
    pub(super) last: Cell<Option<&'static Command>>,
    /// The row, in the command table, of the request that was looked at last; its length for one that is not
    /// there.
    pub(super) row: Cell<usize>,
    /// Redis pauses writes: as it was when the requests at hand began to be taken.
    pub(super) writes_paused: Cell<bool>,
    /// Mapped keys must not be touched; `None`: not asked yet since the requests at hand began to be taken.
    pub(super) fenced: Cell<Option<bool>>,
}

/// One whole request.
pub(super) struct Request<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) scanner: &'a Scanner,
}

/// Requests of one sort, one behind the other, that are sent in one piece.
#[derive(Clone, Copy, Debug)]
struct Run {
    /// Where it begins.
    from: usize,
    count: u32,
    /// They are mapped reads that Redis may answer. Their replies are expected already.
    asked: bool,
}

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flow {
    /// It is on its way, or answered.
    Done,
    /// It has to wait; the conversation is woken when it may be tried again.
    Wait,
}

// === impl Run ===

impl Run {
    /// The next one.
    fn after(self, at: usize) -> Self {
        Self { from: at, count: 0, ..self }
    }

    fn goes_on_asking(self) -> bool {
        self.asked && self.count > 0
    }

    /// Requests whose replies are not expected yet.
    fn unexpected(self) -> usize {
        if self.asked { 0 } else { self.count as usize }
    }
}

// === impl Request ===

impl<'a> Request<'a> {
    pub(super) fn count(&self) -> usize {
        self.scanner.arguments().len()
    }

    pub(super) fn argument(&self, index: usize) -> &'a [u8] {
        self.scanner.argument(self.bytes, index)
    }
}

// === impl Conversation ===

impl Conversation {
    pub(super) fn new(
        event_loop: Rc<EventLoop>,
        client: Rc<Client>,
        reader: OwnedReadHalf,
    ) -> Self {
        Self {
            reader,
            scanner: Scanner::new(),
            input: BytesMut::new(),
            ended: false,
            talk: Talk::new(event_loop, client),
        }
    }

    /// Talks until the client or we have enough.
    pub(super) async fn run(mut self) {
        let client = Rc::clone(&self.talk.client);
        let entry = std::sync::Arc::clone(&client.entry);
        tokio::select! {
            () = poll_fn(|cx| self.poll(cx)) => {}
            () = entry.kill_wanted.notified() => {}
        }
        self.talk.event_loop.leave(&client);
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let client = Rc::clone(&self.talk.client);
        client.set_waker(cx);
        loop {
            if client.is_blocked() {
                match client.socket().as_ref().poll_write_ready(cx) {
                    Poll::Ready(Ok(())) => client.unblock(),
                    Poll::Ready(Err(_)) => return Poll::Ready(()),
                    Poll::Pending => {}
                }
            }
            self.talk.bring_large(cx);
            if client.is_done() {
                return Poll::Ready(());
            }
            self.talk.give_back_lane();
            if !self.input.is_empty() && self.talk.may_take() {
                self.take_input();
                if client.is_blocked() && client.socket().as_ref().poll_write_ready(cx).is_ready() {
                    continue;
                }
            }
            if self.ended {
                self.end();
                return if client.is_done() { Poll::Ready(()) } else { Poll::Pending };
            }
            if client.is_done() {
                return Poll::Ready(());
            }
            // What has to wait is read ahead a little, to notice a client that leaves.
            if self.input.len() >= READ_AHEAD_BYTES && !self.talk.may_take() {
                return Poll::Pending;
            }
            match self.poll_read(cx) {
                Poll::Ready(true) => {}
                Poll::Ready(false) => return Poll::Ready(()),
                Poll::Pending => {
                    // Taking the input may have blocked or ended the client meanwhile.
                    if client.is_done() {
                        return Poll::Ready(());
                    }
                    return Poll::Pending;
                }
            }
        }
    }

    /// Reads once; false when the connection is broken.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        let shared = Rc::clone(&self.talk.event_loop.read_buffer);
        let mut shared = shared.borrow_mut();
        let may_take = self.talk.may_take();
        let room = if may_take { shared.len() } else { READ_AHEAD_BYTES };
        let mut buffer = ReadBuf::new(&mut shared[..room]);
        match Pin::new(&mut self.reader).poll_read(cx, &mut buffer) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Err(_)) => return Poll::Ready(false),
            Poll::Ready(Ok(())) => {}
        }
        let bytes = buffer.filled();
        if bytes.is_empty() {
            self.ended = true;
            return Poll::Ready(true);
        }
        if may_take && self.input.is_empty() {
            let taken = self.talk.take(&mut self.scanner, bytes);
            self.keep_input(&bytes[taken..]);
        } else {
            self.keep_input(bytes);
        }
        if self.input.len() > self.talk.event_loop.shared.limits.max_request_bytes {
            tracing::warn!(client = self.talk.client.entry.id, "closed: its request is too long");
            return Poll::Ready(false);
        }
        Poll::Ready(true)
    }

    fn take_input(&mut self) {
        let taken = self.talk.take(&mut self.scanner, &self.input);
        self.input.advance(taken);
        if self.input.is_empty() && self.input.try_reclaim(KEPT_INPUT_BYTES + 1) {
            self.talk.event_loop.spare_inputs.keep(std::mem::take(&mut self.input));
        }
    }

    /// Keeps what cannot be taken yet: most often the beginning of a long request.
    fn keep_input(&mut self, bytes: &[u8]) {
        let length = self.input.len() + bytes.len();
        if length > KEPT_INPUT_BYTES
            && length > self.input.capacity()
            && let Some(mut spare) = self.talk.event_loop.spare_inputs.take()
        {
            spare.extend_from_slice(&self.input);
            self.input = spare;
        }
        self.input.extend_from_slice(bytes);
    }

    /// The client will send nothing more.
    fn end(&mut self) {
        let client = &self.talk.client;
        if let Some(pin) = &client.session.borrow().pin
            && (pin.blocking || pin.sticky || pin.subscriptions.is_some())
        {
            // As with Redis: what it can answer it answers, then the connection ends.
            pin.lane.finish();
            return;
        }
        if self.talk.may_take() {
            // All that could be understood has been taken; the rest is half a request.
            client.leave_when_told();
        }
    }
}

// === impl Talk ===

impl Talk {
    pub(super) fn new(event_loop: Rc<EventLoop>, client: Rc<Client>) -> Self {
        let limits = RequestLimits {
            max_argument_bytes: event_loop.shared.limits.max_argument_bytes,
            max_inline_bytes: 64 << 10,
        };
        let writes_paused = Cell::new(false);
        let (last, fenced) = (Cell::new(None), Cell::new(None));
        let row = Cell::new(COMMANDS.len());
        Self { event_loop, client, limits, last, row, writes_paused, fenced }
    }

    /// Tells other clients (CLIENT LIST) when this one last sent something, and what.
    pub(super) fn show_command(&self) {
        let entry = &self.client.entry;
        entry.seen.store(self.event_loop.seconds.get(), Ordering::Relaxed);
        if let Some(command) = self.last.get() {
            entry.command.store(command.row() + 1, Ordering::Relaxed);
        }
    }

    /// Whether requests may be taken now.
    fn may_take(&self) -> bool {
        let client = &self.client;
        if client.stalled.get() || client.without_room.get() || client.is_leaving() {
            return false;
        }
        let limits = &self.event_loop.shared.limits;
        if client.is_blocked() && client.backlog_bytes() > limits.client_backlog_bytes {
            return false;
        }
        true
    }

    /// Takes the requests that `buffer` begins with; how many bytes they were.
    fn take(&self, scanner: &mut Scanner, buffer: &[u8]) -> usize {
        self.writes_paused.set(self.event_loop.writes_are_paused());
        self.fenced.set(None);
        let taken = self.take_requests(scanner, buffer);
        self.show_command();
        taken
    }

    fn take_requests(&self, scanner: &mut Scanner, buffer: &[u8]) -> usize {
        let client = &self.client;
        let most = self.event_loop.shared.limits.client_requests;
        let mut run = Run { from: 0, count: 0, asked: false };
        let mut at = 0;
        loop {
            let rest = &buffer[at..];
            if rest.is_empty() || client.is_leaving() {
                break;
            }
            if run.unexpected() + client.expected.borrow().requests() >= most {
                self.send_run(run, &buffer[..at]);
                self.drained();
                return at;
            }
            let authenticated = client.session.borrow().authenticated;
            match scanner.next(rest, authenticated, &self.limits) {
                Scanned::Incomplete => break,
                Scanned::Skip(length) => {
                    self.send_run(run, &buffer[..at]);
                    at += length;
                    run = run.after(at);
                }
                Scanned::Request(length) => {
                    let request = Request { bytes: &rest[..length], scanner };
                    let way = match self.way(&request) {
                        // Asked for once a run.
                        Way::Ask(ask) if !run.goes_on_asking() && !self.believes_redis() => {
                            Way::Apart(Apart::Mapped(ask.command))
                        }
                        way => way,
                    };
                    let alone = client.session.borrow().replies == Replies::SkipNext;
                    let asked = matches!(way, Way::Ask(_));
                    if (asked || matches!(way, Way::Forward)) && !alone {
                        if run.count > 0 && run.asked != asked {
                            self.send_run(run, &buffer[..at]);
                            run = run.after(at);
                        }
                        if run.count == 0 {
                            if !self.may_forward() {
                                return at;
                            }
                            run.asked = asked;
                            client.at_gate_since.set(None);
                        }
                        if let Way::Ask(ask) = way {
                            self.expect_asked(ask, &request);
                        } else {
                            self.count(metrics::Way::Pass);
                        }
                        at += length;
                        run.count += 1;
                        continue;
                    }
                    self.send_run(run, &buffer[..at]);
                    run.count = 0;
                    if self.go(way, &request) == Flow::Wait {
                        return at;
                    }
                    client.at_gate_since.set(None);
                    at += length;
                    run = run.after(at);
                    if !self.may_take() {
                        return at;
                    }
                }
                Scanned::Inline(length) => {
                    self.send_run(run, &buffer[..at]);
                    run.count = 0;
                    if self.inline(&rest[..length]) == Flow::Wait {
                        return at;
                    }
                    client.at_gate_since.set(None);
                    at += length;
                    run = run.after(at);
                    if !self.may_take() {
                        return at;
                    }
                }
                Scanned::Error(error) => {
                    self.send_run(run, &buffer[..at]);
                    self.protocol_error(error);
                    return buffer.len();
                }
            }
        }
        self.send_run(run, &buffer[..at]);
        at
    }

    fn inline(&self, line: &[u8]) -> Flow {
        let arguments = match split(line) {
            Ok(arguments) => arguments,
            Err(error) => {
                self.protocol_error(error);
                return Flow::Done;
            }
        };
        let mut bytes = BytesMut::new();
        encode_request(&arguments, &mut bytes);
        let mut scanner = Scanner::new();
        let authenticated = self.client.session.borrow().authenticated;
        match scanner.next(&bytes, authenticated, &self.limits) {
            Scanned::Request(_) => {
                let request = Request { bytes: &bytes, scanner: &scanner };
                self.go(self.way(&request), &request)
            }
            Scanned::Error(error) => {
                self.protocol_error(error);
                Flow::Done
            }
            Scanned::Incomplete | Scanned::Skip(_) | Scanned::Inline(_) => Flow::Done,
        }
    }

    fn protocol_error(&self, error: ProtocolError) {
        let mut reply = BytesMut::new();
        error.write(&mut reply);
        let mut expected = self.client.expected.borrow_mut();
        let slot = expected.slot(false);
        drop(expected);
        self.client.fill(slot, reply.freeze());
        self.client.flush();
        self.client.leave_when_told();
    }

    // --- on its way ---

    pub(super) fn go(&self, way: Way, request: &Request<'_>) -> Flow {
        let counted = match &way {
            Way::Forward => Some(metrics::Way::Pass),
            // Counted by `mapped`, or when it is known whether it is a hit.
            Way::Ask(_) => None,
            Way::Apart(apart) => match apart {
                Apart::Mapped(_) | Apart::Close => None,
                Apart::Pinned(_) => Some(metrics::Way::Pinned),
                Apart::Survey(_) => Some(metrics::Way::Survey),
                Apart::Local(_) => Some(metrics::Way::Local),
                Apart::Alone(_) | Apart::Script | Apart::Info => Some(metrics::Way::Pass),
                Apart::Tell(_) => Some(metrics::Way::Refused),
            },
        };
        let flow = self.go_on(way, request);
        if let Some(counted) = counted {
            self.count_if_done(flow, counted);
        }
        flow
    }

    fn go_on(&self, way: Way, request: &Request<'_>) -> Flow {
        // Shown before its effects are.
        self.show_command();
        match way {
            Way::Forward => {
                if !self.may_forward() {
                    return Flow::Wait;
                }
                self.forward_run(request.bytes, 1);
                Flow::Done
            }
            Way::Ask(ask) => self.mapped(ask.command, request),
            Way::Apart(Apart::Mapped(command)) => self.mapped(command, request),
            Way::Apart(Apart::Pinned(command)) => self.pinned(command, request),
            Way::Apart(Apart::Survey(command)) => self.survey(command, request),
            Way::Apart(Apart::Local(command)) => self.local(command, request),
            Way::Apart(Apart::Alone(command)) => self.wait_in_redis(command.name, request),
            Way::Apart(Apart::Script) => {
                // Two lanes do not wait for each other.
                if !self.drained() {
                    return Flow::Wait;
                }
                self.client.on_scripts_lane.set(true);
                self.forward_run(request.bytes, 1);
                Flow::Done
            }
            Way::Apart(Apart::Info) => {
                let session = self.client.session.borrow();
                if session.pin.as_ref().is_some_and(|pin| pin.multi) {
                    drop(session);
                    return self.queue(request.bytes, Effect::Info);
                }
                drop(session);
                if !self.may_forward() {
                    return Flow::Wait;
                }
                let muted = self.client.take_muted();
                self.client.expected.borrow_mut().inspect(Inspection::Info, muted);
                self.append(request.bytes, 1, Delivered::Together);
                Flow::Done
            }
            Way::Apart(Apart::Tell(reply)) => {
                self.refuse(&reply);
                Flow::Done
            }
            Way::Apart(Apart::Close) => {
                let now_ms = self.event_loop.uptime_ms();
                if let Some(suppressed) = self.event_loop.shared.http_requests.ring(now_ms) {
                    tracing::warn!(
                        client = self.client.entry.id,
                        address = %self.client.entry.address,
                        suppressed,
                        "possible SECURITY ATTACK: an HTTP request on the Redis port; closed"
                    );
                }
                self.client.leave();
                Flow::Done
            }
        }
    }

    /// Counts the request that was looked at last.
    pub(super) fn count(&self, way: metrics::Way) {
        self.event_loop.counts.request(self.row.get(), way);
    }

    /// The same, but for one that has to wait: it will be looked at again.
    pub(super) fn count_if_done(&self, flow: Flow, way: metrics::Way) {
        if flow == Flow::Done {
            self.count(way);
        }
    }

    // --- forwarding ---

    /// Whether a request that is not a mapped write may start now.
    pub(super) fn may_forward(&self) -> bool {
        self.client.writes.get() == 0 || self.drained()
    }

    /// Whether nothing is under way; if there is, the conversation is woken when it has ended.
    pub(super) fn drained(&self) -> bool {
        let drained = self.client.expected.borrow().is_empty();
        self.client.stalled.set(!drained);
        drained
    }

    /// Forwards whole requests over the client's shared lane.
    pub(super) fn forward_run(&self, bytes: &[u8], count: u32) {
        if count == 0 {
            return;
        }
        let muted = self.client.take_muted();
        let delivered = self.client.expected.borrow_mut().replies(count, muted);
        self.append(bytes, count, delivered);
    }

    /// Sends what has gathered in `taken` since the run began.
    fn send_run(&self, run: Run, taken: &[u8]) {
        let bytes = &taken[run.from..];
        if run.asked && run.count > 0 {
            self.append(bytes, run.count, Delivered::OneByOne);
        } else {
            self.forward_run(bytes, run.count);
        }
    }

    /// The connection that the client's requests go over now.
    pub(super) fn lane(&self) -> Rc<Lane<EventLoop>> {
        let session = self.client.session.borrow();
        match &session.pin {
            Some(pin) => Rc::clone(&pin.lane),
            None => {
                let carries = if self.client.on_scripts_lane.get() {
                    Carries::Scripts
                } else {
                    Carries::AllElse
                };
                self.event_loop.shared_lane(session.database, session.version, carries)
            }
        }
    }

    /// Appends requests whose replies are expected already.
    pub(super) fn append(&self, bytes: &[u8], count: u32, delivered: Delivered) {
        let lane = self.lane();
        if lane.append(self.client.owner, bytes, count, delivered) {
            if !lane.has_room(self.client.owner) {
                self.client.without_room.set(true);
            }
        } else {
            use crate::upstream::lane::Receiver;
            self.event_loop.failed(self.client.owner, count, &lane.last_error());
        }
    }

    /// Tells the client no; inside MULTI, EXEC will fail for it.
    pub(super) fn refuse(&self, reply: &Reply) {
        if let Some(pin) = &mut self.client.session.borrow_mut().pin {
            pin.aborted |= pin.multi;
        }
        if let Reply::Error(text) = reply {
            self.event_loop.shared.engine.metrics().tell_error(text);
        }
        self.client.answer(reply);
    }
}
