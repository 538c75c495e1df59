//! One client's side of the talk: its bytes are read, cut into requests, and each request is sent
//! on its way.
//!
//! Requests that pass through are not looked at one by one: a run of them is appended to the lane
//! in one piece. A request that has to wait (for the replies before it, for room) stays in the
//! client's input and is cut again later.
//!
//! Invariants
//! - A request is forwarded only when all of it is there.
//! - A mapped write starts when everything before it has been answered, other writes to the same
//!   worker excepted; everything else starts when the mapped writes before it have been answered.
//!   So another client never sees a later command's effect without an earlier one's.

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
use super::client_command;
use super::event_loop::{Carries, EventLoop};
use super::expect::Inspection;
use super::info;
use crate::command::{Command, Flags, Keys, Mapped, Path, lookup};
use crate::config::Flush;
use crate::engine::ReplyTo;
use crate::engine::route::{MappedRoute, Touch};
use crate::protocol::Reply;
use crate::protocol::inline::{encode_request, split};
use crate::protocol::request::{ProtocolError, RequestLimits, Scanned, Scanner, is_http_probe};

/// Bytes read ahead of a client whose requests have to wait.
const READ_AHEAD_BYTES: usize = 64 << 10;

/// Stands for a worker where what is under way is no write of any.
const NO_WRITER: usize = usize::MAX;

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
    last: Cell<Option<&'static Command>>,
    /// Redis pauses writes: as it was when the requests at hand began to be taken.
    writes_paused: Cell<bool>,
}

/// One whole request.
pub(super) struct Request<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) scanner: &'a Scanner,
}

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flow {
    /// It is on its way, or answered.
    Done,
    /// It has to wait; the conversation is woken when it may be tried again.
    Wait,
}

/// How a request is to be handled.
pub(super) enum Way {
    /// Forwarded as it came, in a run with its neighbours.
    Forward,
    /// Anything else.
    Apart(Apart),
}

pub(super) enum Apart {
    Mapped(&'static Command),
    Pinned(&'static Command),
    Local(&'static Command),
    /// Forwarded over a connection of the client's own until the reply is there.
    Alone(&'static Command),
    /// Forwarded over the lane of the scripts.
    Script,
    Info,
    Tell(Reply),
    /// An HTTP request: closed without a reply.
    Close,
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
            if client.is_done() {
                return Poll::Ready(());
            }
            self.talk.give_back_lane();
            let may_take = self.talk.may_take();
            if may_take && !self.input.is_empty() {
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
            if !self.talk.may_take() && self.input.len() >= READ_AHEAD_BYTES {
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
        let room = if self.talk.may_take() { shared.len() } else { READ_AHEAD_BYTES };
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
        if self.input.is_empty() && self.talk.may_take() {
            let taken = self.talk.take(&mut self.scanner, bytes);
            self.input.extend_from_slice(&bytes[taken..]);
        } else {
            self.input.extend_from_slice(bytes);
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
        if self.input.is_empty() && self.input.capacity() > KEPT_INPUT_BYTES {
            self.input = BytesMut::new();
        }
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
        Self { event_loop, client, limits, last: Cell::new(None), writes_paused }
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
        let taken = self.take_requests(scanner, buffer);
        self.show_command();
        taken
    }

    fn take_requests(&self, scanner: &mut Scanner, buffer: &[u8]) -> usize {
        let client = &self.client;
        let most = self.event_loop.shared.limits.client_requests;
        let mut from = 0;
        let mut at = 0;
        let mut count = 0;
        loop {
            let rest = &buffer[at..];
            if rest.is_empty() || client.is_leaving() {
                break;
            }
            if count as usize + client.expected.borrow().requests() >= most {
                self.forward_run(&buffer[from..at], count);
                self.drained();
                return at;
            }
            let authenticated = client.session.borrow().authenticated;
            match scanner.next(rest, authenticated, &self.limits) {
                Scanned::Incomplete => break,
                Scanned::Skip(length) => {
                    self.forward_run(&buffer[from..at], count);
                    at += length;
                    (from, count) = (at, 0);
                }
                Scanned::Request(length) => {
                    let request = Request { bytes: &rest[..length], scanner };
                    let way = self.way(&request);
                    let alone = client.session.borrow().replies == Replies::SkipNext;
                    if matches!(way, Way::Forward) && !alone {
                        if count == 0 && !self.may_forward() {
                            return at;
                        }
                        at += length;
                        count += 1;
                        continue;
                    }
                    self.forward_run(&buffer[from..at], count);
                    count = 0;
                    if self.go(way, &request) == Flow::Wait {
                        return at;
                    }
                    at += length;
                    from = at;
                    if !self.may_take() {
                        return at;
                    }
                }
                Scanned::Inline(length) => {
                    self.forward_run(&buffer[from..at], count);
                    count = 0;
                    if self.inline(&rest[..length]) == Flow::Wait {
                        return at;
                    }
                    at += length;
                    from = at;
                    if !self.may_take() {
                        return at;
                    }
                }
                Scanned::Error(error) => {
                    self.forward_run(&buffer[from..at], count);
                    self.protocol_error(error);
                    return buffer.len();
                }
            }
        }
        self.forward_run(&buffer[from..at], count);
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

    // --- which way ---

    pub(super) fn way(&self, request: &Request<'_>) -> Way {
        let session = self.client.session.borrow();
        let count = request.count();
        let argument = |at: usize| request.argument(at);
        let engine = &self.event_loop.shared.engine;
        let pin = session.pin.as_ref();
        // What is queued after a SELECT in a transaction is for that database.
        let database = pin.and_then(|pin| pin.queued_database).unwrap_or(session.database);
        let may_be_mapped = engine.maps_database(database);
        let is_accounted = pin.is_none_or(|pin| pin.lane.is_accounted());
        let Some(command) = lookup(argument(0)) else {
            if is_http_probe(argument(0)) {
                return Way::Apart(Apart::Close);
            }
            if !session.authenticated {
                return tell(unknown_command(request));
            }
            if may_be_mapped && is_accounted {
                match engine.touch_of_unknown(count, argument) {
                    Touch::Nothing => {}
                    Touch::Mapped => {
                        let name = String::from_utf8_lossy(argument(0)).into_owned();
                        return tell(format!(
                            "ERR '{name}' is not a command that respgres knows, and it may touch a mapped key"
                        ));
                    }
                    Touch::Reserved => return reserved(),
                }
            }
            return if session.pin.is_some() { pinned_forward() } else { Way::Forward };
        };
        self.last.set(Some(command));
        if command.has_subcommands() && count > 1 {
            self.client.entry.set_subcommand(argument(1));
        }
        if !session.authenticated && !command.flags.contains(Flags::NO_AUTH) {
            if !command.arity_ok(count) {
                return tell(command.arity_error());
            }
            let refusal = (command.name == "client").then(|| client_command::refusal(request));
            return refusal.flatten().map_or_else(no_auth, tell);
        }
        if !is_accounted {
            return Way::Apart(Apart::Pinned(command));
        }
        if may_be_mapped {
            match engine.touch(command, count, argument) {
                Touch::Nothing => {}
                Touch::Mapped if command.arity_ok(count) => {
                    return Way::Apart(Apart::Mapped(command));
                }
                Touch::Mapped => {
                    return Way::Apart(Apart::Tell(Reply::Error(command.arity_error())));
                }
                Touch::Reserved => return reserved(),
            }
        }
        let pinned = session.pin.is_some();
        match command.path {
            Path::Forward | Path::Script if !pinned && self.writes_paused.get() => {
                Way::Apart(Apart::Alone(command))
            }
            Path::Forward if !pinned => Way::Forward,
            // The client's requests before it are under way there already.
            Path::Script if !pinned && self.client.on_scripts_lane.get() => Way::Forward,
            Path::Script if !pinned => Way::Apart(Apart::Script),
            Path::Blocking if is_script_debug(command, count, argument) => {
                tell("ERR SCRIPT DEBUG works only with a direct connection to Redis".to_owned())
            }
            Path::Blocking if !pinned && !command.is_blocking(count, argument) => Way::Forward,
            Path::Forward
            | Path::Script
            | Path::Blocking
            | Path::Transaction
            | Path::Subscription
            | Path::Stream => Way::Apart(Apart::Pinned(command)),
            Path::Local => Way::Apart(Apart::Local(command)),
            Path::Info if pin.is_some_and(|pin| pin.multi) => Way::Apart(Apart::Pinned(command)),
            Path::Info => {
                if info::wants_section((1..count).map(argument)) {
                    Way::Apart(Apart::Info)
                } else {
                    Way::Forward
                }
            }
            Path::Flush => {
                let everywhere = command.name != "flushdb";
                let cache_only = self.event_loop.shared.upstream.flush == Flush::Cache;
                let allowed = cache_only && command.name != "swapdb";
                let touches = engine.has_mappings() && (everywhere || may_be_mapped);
                if touches && !allowed {
                    return tell(format!(
                        "ERR {} is refused while mappings exist; see upstream.flush in the configuration",
                        command.name.to_ascii_uppercase()
                    ));
                }
                if pinned { Way::Apart(Apart::Pinned(command)) } else { Way::Forward }
            }
            Path::Refused(why) => tell(format!("ERR {}: {why}", command.name.to_ascii_uppercase())),
        }
    }

    pub(super) fn go(&self, way: Way, request: &Request<'_>) -> Flow {
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
            Way::Apart(Apart::Mapped(command)) => self.mapped(command, request),
            Way::Apart(Apart::Pinned(command)) => self.pinned(command, request),
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
                if !self.may_forward() {
                    return Flow::Wait;
                }
                let muted = self.client.take_muted();
                self.client.expected.borrow_mut().inspect(Inspection::Info, muted);
                self.append(request.bytes, 1, false);
                Flow::Done
            }
            Way::Apart(Apart::Tell(reply)) => {
                self.refuse(&reply);
                Flow::Done
            }
            Way::Apart(Apart::Close) => {
                tracing::warn!(
                    client = self.client.entry.id,
                    "possible SECURITY ATTACK: an HTTP request on the Redis port; closed"
                );
                self.client.leave();
                Flow::Done
            }
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
        let joins = self.client.expected.borrow_mut().replies(count, muted);
        self.append(bytes, count, joins);
    }

    /// Appends requests whose replies are expected already.
    pub(super) fn append(&self, bytes: &[u8], count: u32, joins: bool) {
        let session = self.client.session.borrow();
        let lane = match &session.pin {
            Some(pin) => Rc::clone(&pin.lane),
            None => {
                let carries = if self.client.on_scripts_lane.get() {
                    Carries::Scripts
                } else {
                    Carries::AllElse
                };
                self.event_loop.shared_lane(session.database, session.version, carries)
            }
        };
        drop(session);
        if lane.append(self.client.owner, bytes, count, joins) {
            if !lane.has_room(self.client.owner) {
                self.client.without_room.set(true);
            }
        } else {
            use crate::upstream::lane::Receiver;
            self.event_loop.failed(self.client.owner, count, &lane.last_error());
        }
    }

    // --- mapped keys ---

    fn mapped(&self, command: &'static Command, request: &Request<'_>) -> Flow {
        if self.client.session.borrow().pin.as_ref().is_some_and(|pin| pin.multi) {
            self.refuse(&Reply::Error(format!(
                "ERR {} on a mapped key is not supported inside MULTI yet",
                command.name.to_ascii_uppercase()
            )));
            return Flow::Done;
        }
        let client = &self.client;
        if matches!(command.mapped, Mapped::Write(_)) {
            if client.writes.get() == 0 && !self.drained() {
                return Flow::Wait;
            }
        } else if !self.may_forward() {
            return Flow::Wait;
        }
        let bytes = bytes::Bytes::copy_from_slice(request.bytes);
        let arguments =
            request.scanner.arguments().iter().map(|range| bytes.slice(range.clone())).collect();
        let reply_to = ReplyTo {
            mailbox: std::sync::Arc::clone(&self.event_loop.mailbox),
            owner: client.owner,
            slot: 0,
            version: client.version(),
        };
        let engine = &self.event_loop.shared.engine;
        match engine.route_mapped(command, arguments, reply_to) {
            MappedRoute::AskRedis(proof, operation) => {
                let muted = client.take_muted();
                let inspection = Inspection::Read(proof, operation);
                client.expected.borrow_mut().inspect(inspection, muted);
                self.append(request.bytes, 1, false);
            }
            MappedRoute::Read(mut operation) => {
                if !operation.others.is_empty() {
                    // The keys that are not mapped are asked for over another connection: not
                    // before, and not while, the client's other requests change them.
                    if !self.drained() {
                        return Flow::Wait;
                    }
                    client.writer.set(NO_WRITER);
                    client.writes.set(1);
                }
                let muted = client.take_muted();
                operation.reply_to.slot = client.expected.borrow_mut().slot(muted);
                engine.read(*operation);
            }
            MappedRoute::Write(mut operation) => {
                let writer = engine.writer_of(&operation);
                if client.writes.get() > 0 && client.writer.get() != writer && !self.drained() {
                    return Flow::Wait;
                }
                client.writer.set(writer);
                client.writes.set(client.writes.get() + 1);
                let muted = client.take_muted();
                operation.reply_to.slot = client.expected.borrow_mut().slot(muted);
                engine.write(*operation);
            }
            MappedRoute::Refuse(text) => self.refuse(&Reply::Error(text)),
        }
        Flow::Done
    }

    /// Tells the client no; inside MULTI, EXEC will fail for it.
    pub(super) fn refuse(&self, reply: &Reply) {
        if let Some(pin) = &mut self.client.session.borrow_mut().pin {
            pin.aborted |= pin.multi;
        }
        self.client.answer(reply);
    }
}

fn tell(text: String) -> Way {
    Way::Apart(Apart::Tell(Reply::Error(text)))
}

fn is_script_debug<'a>(
    command: &Command,
    count: usize,
    argument: impl Fn(usize) -> &'a [u8],
) -> bool {
    command.name == "script"
        && count == 3
        && argument(1).eq_ignore_ascii_case(b"debug")
        && !argument(2).eq_ignore_ascii_case(b"no")
}

/// What Redis says of a command that it does not know (`commandCheckExistence`).
fn unknown_command(request: &Request<'_>) -> String {
    const MOST: usize = 128;
    let shown = |bytes: &[u8], most: usize| {
        String::from_utf8_lossy(&bytes[..bytes.len().min(most)]).into_owned()
    };
    let mut arguments = String::new();
    for at in 1..request.count() {
        if arguments.len() >= MOST {
            break;
        }
        let argument = shown(request.argument(at), MOST - arguments.len());
        arguments.push_str(&format!("'{argument}' "));
    }
    let name = shown(request.argument(0), MOST);
    format!("ERR unknown command '{name}', with args beginning with: {arguments}")
}

fn no_auth() -> Way {
    tell("NOAUTH Authentication required.".to_owned())
}

fn reserved() -> Way {
    tell("ERR keys that begin with \"respgres:\" are reserved for respgres".to_owned())
}

/// A command that is not in the table, of a client with a connection of its own.
fn pinned_forward() -> Way {
    static UNKNOWN: Command = Command {
        name: "",
        arity: -1,
        flags: Flags(0),
        keys: Keys::None,
        path: Path::Forward,
        mapped: Mapped::NotApplicable,
    };
    Way::Apart(Apart::Pinned(&UNKNOWN))
}
