//! A connection to the upstream that carries clients' requests: shared by all clients of an event
//! loop (a multiplexer), or private to one while it has state of its own in Redis.
//!
//! Requests are appended as they came and written in one go once every client that was ready has
//! appended; replies are handed on as they come, in pieces if they come in pieces. One entry of the
//! queue of owners stands for any number of requests that one client sent in a row.
//!
//! Invariants
//! - Every request appended gets exactly one reply, or one `failed`, in the order of appending.
//! - A client that went away keeps its entries: their replies are counted and dropped by the
//!   receiver, which no longer knows the owner.
//! - A private lane hands on whole frames only, so that pushes can stand between replies.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::sync::Notify;

use super::link::{Link, LinkReader, LinkWriter, Questions, UpstreamError};
use super::run::RunId;
use super::silence::Silence;
use crate::config::RedisUrl;
use crate::mapping::Pass;
use crate::protocol::Version;
use crate::protocol::scan::{ReplyScanner, Step};

/// Whose request it is: the event loop's name for a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Owner(pub u64);

/// Who gets the replies: an event loop.
pub trait Receiver: 'static {
    /// Bytes have come over a lane: they are handed on next.
    fn bytes_came(&self);
    /// Bytes of replies to `owner`; `ended` whole replies end within them. `more`: the owner gets more at
    /// once, in another call.
    fn deliver(&self, owner: Owner, bytes: &[u8], ended: u32, more: bool);
    /// A whole frame that answers no request: a RESP3 push, or anything on an unaccounted lane.
    fn unasked(&self, owner: Owner, frame: &[u8]);
    /// This many requests of `owner` will not be answered.
    fn failed(&self, owner: Owner, requests: u32, error: &UpstreamError);
    /// `owner` has a part of a reply whose rest will not come, or waits for what will not come since
    /// its lane was finished.
    fn cut_off(&self, owner: Owner);
    /// A private lane is gone for good.
    fn lane_lost(&self, owner: Owner, error: &UpstreamError);
    /// A lane that had no room has room again.
    fn room(&self, owner: Owner);
}

/// The read buffer that all connections of an event loop use in turn.
pub type ReadBuffer = Rc<RefCell<Box<[u8]>>>;

/// Bytes waiting to be written to the upstream before clients stop being read.
const BACKLOG_BYTES: usize = 4 << 20;

/// Buffers that grew beyond this are given back once requests need much less.
const KEPT_BUFFER_BYTES: usize = 1 << 20;

/// Runs of requests that are gathered before they are written, if the loop has not come to its writer
/// by itself: Redis shall begin with the first ones while the others are still being read. Fewer cost
/// a system call each, more let the two wait for each other.
const GATHERED_RUNS: u32 = 12;

/// How a lane is to connect.
#[derive(Clone, Debug)]
pub struct LaneSettings {
    pub address: Rc<RedisUrl>,
    pub database: u16,
    pub version: Version,
    pub connect_timeout_ms: u64,
    pub silence_timeout_ms: u64,
    /// Whether it matters which run of the upstream answers.
    pub asks_run_id: bool,
    pub reconnect_min_ms: u64,
    pub reconnect_max_ms: u64,
}

pub struct Lane<R: Receiver> {
    settings: LaneSettings,
    receiver: Rc<R>,
    read_buffer: ReadBuffer,
    /// The only client of a private lane.
    private_to: Cell<Option<Owner>>,
    is_private: bool,
    accounted: Cell<bool>,
    /// Nothing more will be sent; see `finish`.
    finishing: Cell<bool>,
    /// A private connection's CLIENT ID in the upstream; 0 until it is known.
    upstream_id: Arc<AtomicU64>,
    run_id: Cell<Option<RunId>>,
    out: RefCell<Vec<u8>>,
    pending: RefCell<VecDeque<Pending>>,
    without_room: RefCell<Vec<Owner>>,
    /// Of the reply under way, a part has been handed on.
    within_reply: Cell<bool>,
    /// Appended since the last write.
    gathered_runs: Cell<u32>,
    /// The connection's writing side, while the writer has nothing under way.
    idle_writer: RefCell<Option<Rc<LinkWriter>>>,
    silence: Silence,
    state: Cell<State>,
    last_error: RefCell<Option<UpstreamError>>,
    /// Something to write, or the lane is to close.
    wake: Notify,
    /// The state has changed.
    changed: Notify,
}

/// How the replies to a run of requests are delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivered {
    /// As they come, all together.
    Together,
    /// So, and together with those to the owner's requests before them.
    Joined,
    /// Each in a call of its own.
    OneByOne,
}

struct Pending {
    owner: Owner,
    requests: u32,
    one_by_one: bool,
    /// Somebody waits until these are answered, and what was appended before them.
    held: Vec<Pass>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Requests are taken and wait for the connection.
    Connecting,
    Ready,
    /// The last attempt failed: requests are refused until the next one succeeds.
    Down,
    Closed,
}

// === impl Lane ===

impl<R: Receiver> Lane<R> {
    /// A lane for all clients of the loop.
    pub fn shared(settings: LaneSettings, receiver: Rc<R>, read_buffer: ReadBuffer) -> Rc<Self> {
        Self::new(settings, receiver, read_buffer, None, false)
    }

    /// A lane for one client at a time; for nobody yet where there is no owner.
    pub fn private(
        settings: LaneSettings,
        receiver: Rc<R>,
        read_buffer: ReadBuffer,
        owner: Option<Owner>,
    ) -> Rc<Self> {
        Self::new(settings, receiver, read_buffer, owner, true)
    }

    fn new(
        settings: LaneSettings,
        receiver: Rc<R>,
        read_buffer: ReadBuffer,
        private_to: Option<Owner>,
        is_private: bool,
    ) -> Rc<Self> {
        Rc::new(Self {
            settings,
            receiver,
            read_buffer,
            private_to: Cell::new(private_to),
            is_private,
            accounted: Cell::new(true),
            finishing: Cell::new(false),
            upstream_id: Arc::default(),
            run_id: Cell::default(),
            out: RefCell::default(),
            pending: RefCell::default(),
            without_room: RefCell::default(),
            within_reply: Cell::new(false),
            gathered_runs: Cell::new(0),
            idle_writer: RefCell::default(),
            silence: Silence::default(),
            state: Cell::new(State::Connecting),
            last_error: RefCell::default(),
            wake: Notify::new(),
            changed: Notify::new(),
        })
    }

    pub fn database(&self) -> u16 {
        self.settings.database
    }

    pub fn version(&self) -> Version {
        self.settings.version
    }

    /// Hands a private lane that has no state left to another client, or to nobody.
    pub fn give_to(&self, owner: Option<Owner>) {
        debug_assert!(self.is_private && self.pending.borrow().is_empty());
        self.private_to.set(owner);
    }

    /// Whether replies are matched with requests (the usual), or all frames are `unasked`: a RESP2
    /// connection that subscribes or monitors.
    pub fn set_accounted(&self, accounted: bool) {
        self.accounted.set(accounted);
    }

    pub fn is_accounted(&self) -> bool {
        self.accounted.get()
    }

    pub fn is_open(&self) -> bool {
        matches!(self.state.get(), State::Connecting | State::Ready) && !self.finishing.get()
    }

    /// A private connection's CLIENT ID in the upstream; 0 until it is known.
    pub fn upstream_id(&self) -> &Arc<AtomicU64> {
        &self.upstream_id
    }

    /// The run of the upstream that answers what is appended now; `None` while there is no connection, and
    /// when it was not asked or does not tell.
    pub fn run_id(&self) -> Option<RunId> {
        self.run_id.get().filter(|_| self.state.get() == State::Ready)
    }

    /// Why the lane is down.
    pub fn last_error(&self) -> UpstreamError {
        let error = self.last_error.borrow().clone();
        error.unwrap_or_else(|| UpstreamError::Lost("closed".into()))
    }

    /// Appends whole requests; false when the lane is down and they were not taken.
    #[must_use]
    pub fn append(&self, owner: Owner, bytes: &[u8], requests: u32, delivered: Delivered) -> bool {
        if !self.append_bytes(bytes) {
            return false;
        }
        if self.accounted.get() {
            let mut pending = self.pending.borrow_mut();
            match pending.back_mut() {
                Some(last)
                    if delivered == Delivered::Joined
                        && last.owner == owner
                        && last.held.is_empty() =>
                {
                    last.requests += requests;
                }
                _ => {
                    let one_by_one = delivered == Delivered::OneByOne;
                    pending.push_back(Pending { owner, requests, one_by_one, held: Vec::new() });
                }
            }
        }
        true
    }

    /// Holds a pass until all that was appended is answered, or will not be.
    pub fn hold(&self, pass: Pass) {
        if let Some(last) = self.pending.borrow_mut().back_mut() {
            last.held.push(pass);
        }
    }

    /// Appends a request that is answered by unasked frames only.
    #[must_use]
    pub fn append_unanswered(&self, bytes: &[u8]) -> bool {
        self.silence.asked();
        self.append_bytes(bytes)
    }

    fn append_bytes(&self, bytes: &[u8]) -> bool {
        if !self.is_open() {
            return false;
        }
        let mut out = self.out.borrow_mut();
        if out.is_empty() {
            self.wake.notify_one();
        }
        out.extend_from_slice(bytes);
        self.gathered_runs.set(self.gathered_runs.get() + 1);
        if self.gathered_runs.get() >= GATHERED_RUNS {
            self.write_now(&mut out);
        }
        true
    }

    /// Writes what was appended, if nothing older is still to be written.
    pub fn send_now(&self) {
        self.write_now(&mut self.out.borrow_mut());
    }

    /// Writes what the socket takes at once, if nothing older is still to be written. Errors are for
    /// the writer to find.
    fn write_now(&self, out: &mut Vec<u8>) {
        self.gathered_runs.set(0);
        if let Some(writer) = &*self.idle_writer.borrow()
            && let Ok(count) = writer.try_write(out)
        {
            out.drain(..count);
        }
    }

    /// Whether more may be appended now; if not, `Receiver::room` tells when.
    pub fn has_room(&self, owner: Owner) -> bool {
        if self.out.borrow().len() < BACKLOG_BYTES {
            return true;
        }
        self.without_room.borrow_mut().push(owner);
        false
    }

    /// Tells the upstream that nothing more will be sent, as the lane's client has done: what Redis
    /// can answer it answers, then it closes, and a command that waits is given up. So no element is
    /// taken for a client that is gone, and none that was taken is lost on the way.
    pub fn finish(&self) {
        debug_assert!(self.is_private);
        if !self.finishing.replace(true) {
            self.wake.notify_one();
        }
    }

    /// Closes the connection; requests under way are dropped without a word, those not yet written
    /// are never sent.
    pub fn close(&self) {
        self.private_to.set(None);
        self.out.take();
        self.state.set(State::Closed);
        self.wake.notify_one();
        self.changed.notify_waiters();
    }

    /// Whether what is waited for may take as long as it likes: a command that waits inside Redis.
    pub fn set_patient(&self, patient: bool) {
        self.silence.set_patient(patient);
    }

    /// Looks whether the upstream says anything: how many looks in a row found that something was
    /// waited for and nothing had come.
    pub fn look(&self) -> u32 {
        let owed = !self.pending.borrow().is_empty();
        self.silence.look(self.state.get() == State::Ready && self.silence.awaits(owed))
    }

    /// The upstream is alive, if slow: looks are counted anew.
    pub fn forgive(&self) {
        self.silence.forgive();
    }

    /// The upstream answers nobody: the connection is lost, if nothing has come since the last look.
    pub fn give_up(&self) {
        self.silence.give_up();
    }

    /// Completes once the lane is connected.
    ///
    /// # Errors
    /// When the attempt under way fails.
    pub async fn ready(&self) -> Result<(), UpstreamError> {
        loop {
            let changed = self.changed.notified();
            match self.state.get() {
                State::Ready => return Ok(()),
                State::Connecting => changed.await,
                State::Down | State::Closed => return Err(self.last_error()),
            }
        }
    }

    /// Connects and serves until closed; a shared lane connects again when the connection is lost.
    pub async fn run(self: Rc<Self>) {
        let mut pause_ms = self.settings.reconnect_min_ms;
        loop {
            let error = match self.open().await {
                Ok(link) => {
                    if self.state.get() == State::Closed {
                        return;
                    }
                    pause_ms = self.settings.reconnect_min_ms;
                    self.upstream_id.store(link.id, Ordering::Release);
                    self.run_id.set(link.run_id);
                    self.silence.forgive();
                    self.set_state(State::Ready);
                    if self.last_error.take().is_some() {
                        tracing::info!(upstream = %self.settings.address.endpoint, "upstream is back");
                    }
                    let error = self.serve(link).await;
                    if self.state.get() == State::Closed {
                        return;
                    }
                    self.log("upstream lost", &error);
                    self.set_state(State::Connecting);
                    error
                }
                Err(error) => {
                    if self.state.get() == State::Closed {
                        return;
                    }
                    if self.last_error.borrow().is_none() {
                        self.log("upstream down", &error);
                    }
                    self.set_state(State::Down);
                    error
                }
            };
            self.last_error.replace(Some(error.clone()));
            if self.finishing.get()
                && let Some(pending) = self.pending.take().front()
            {
                self.receiver.cut_off(pending.owner);
            }
            self.fail_pending(&error);
            if self.is_private {
                self.state.set(State::Closed);
                if let Some(owner) = self.private_to.get() {
                    self.receiver.lane_lost(owner, &error);
                }
                self.changed.notify_waiters();
                return;
            }
            self.changed.notify_waiters();
            if self.state.get() == State::Down {
                tokio::time::sleep(Duration::from_millis(pause_ms)).await;
                pause_ms = (pause_ms * 2).min(self.settings.reconnect_max_ms);
            }
        }
    }

    /// Private connections come and go with their clients, who are told: one line for each would
    /// be a line for each request while the upstream is down.
    fn log(&self, what: &str, error: &UpstreamError) {
        let upstream = &self.settings.address.endpoint;
        // Nor is a database that Redis does not have, which any client may ask for, any trouble.
        let is_wish =
            matches!(error, UpstreamError::Refused(text) if text.starts_with("ERR DB index"));
        if self.is_private || is_wish {
            tracing::debug!(%upstream, %error, "of one client: {what}");
        } else {
            tracing::warn!(%upstream, %error, "{what}");
        }
    }

    fn set_state(&self, state: State) {
        self.state.set(state);
        self.changed.notify_waiters();
    }

    async fn open(&self) -> Result<Link, UpstreamError> {
        let LaneSettings { address, database, version, connect_timeout_ms, asks_run_id, .. } =
            &self.settings;
        let questions = Questions { id: self.is_private, run_id: *asks_run_id };
        Link::open(address, *database, *version, *connect_timeout_ms, questions).await
    }

    fn fail_pending(&self, error: &UpstreamError) {
        self.out.take();
        let pending = self.pending.take();
        if let Some(first) = pending.front()
            && self.within_reply.replace(false)
        {
            self.receiver.cut_off(first.owner);
        }
        for entry in pending {
            self.receiver.failed(entry.owner, entry.requests, error);
        }
        self.tell_room();
    }

    fn tell_room(&self) {
        for owner in self.without_room.take() {
            self.receiver.room(owner);
        }
    }

    async fn serve(&self, link: Link) -> UpstreamError {
        let Link { reader, writer, .. } = link;
        let writer = Rc::new(writer);
        let (error, ()) = tokio::select! {
            error = self.read(reader) => (error, ()),
            error = self.write(writer) => (error, ()),
            () = self.silence.given_up() => {
                (UpstreamError::Silent(self.settings.silence_timeout_ms), ())
            }
        };
        self.idle_writer.take();
        error
    }

    async fn write(&self, writer: Rc<LinkWriter>) -> UpstreamError {
        let mut writing: Vec<u8> = Vec::new();
        let mut at = 0;
        loop {
            if at == writing.len() {
                let written = writing.len();
                writing.clear();
                at = 0;
                if written > 0 && writing.capacity() > KEPT_BUFFER_BYTES.max(4 * written) {
                    writing = Vec::new();
                }
                std::mem::swap(&mut writing, &mut self.out.borrow_mut());
                self.gathered_runs.set(0);
                if !self.without_room.borrow().is_empty() {
                    self.tell_room();
                }
                if writing.is_empty() {
                    self.idle_writer.replace(Some(Rc::clone(&writer)));
                    if self.state.get() == State::Closed {
                        return UpstreamError::Lost("closed by respgres".into());
                    }
                    if self.finishing.get() {
                        if let Err(error) = writer.finish() {
                            return UpstreamError::Lost(error.to_string());
                        }
                        // The reader notices when the upstream is done.
                        return std::future::pending().await;
                    }
                    self.wake.notified().await;
                    continue;
                }
                self.idle_writer.take();
            }
            match writer.write(&writing[at..]).await {
                Ok(0) => return UpstreamError::Lost("closed by the upstream".into()),
                Ok(count) => at += count,
                Err(error) => return UpstreamError::Lost(error.to_string()),
            }
        }
    }

    async fn read(&self, mut reader: LinkReader) -> UpstreamError {
        let mut scanner = ReplyScanner::new();
        let mut partial = BytesMut::new();
        poll_fn(|cx| {
            loop {
                let mut shared = self.read_buffer.borrow_mut();
                let mut buffer = ReadBuf::new(&mut shared);
                match Pin::new(&mut reader).poll_read(cx, &mut buffer) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Err(error)) => {
                        return Poll::Ready(UpstreamError::Lost(error.to_string()));
                    }
                    Poll::Ready(Ok(())) => {}
                }
                let bytes = buffer.filled();
                self.silence.broken();
                if bytes.is_empty() {
                    let text = "closed by the upstream".into();
                    return Poll::Ready(UpstreamError::Lost(text));
                }
                self.receiver.bytes_came();
                let handed_on = if self.is_private {
                    self.hand_on_frames(&mut scanner, &mut partial, bytes)
                } else {
                    self.hand_on(&mut scanner, bytes)
                };
                if let Err(text) = handed_on {
                    return Poll::Ready(UpstreamError::Protocol(text));
                }
            }
        })
        .await
    }

    /// A shared lane: bytes go to their owners as they come, one call for all that an owner gets, or one
    /// for each of its replies.
    fn hand_on(&self, scanner: &mut ReplyScanner, bytes: &[u8]) -> Result<(), String> {
        let mut from = 0;
        let mut at = 0;
        let mut ended = 0;
        while at < bytes.len() {
            match scanner.next(&bytes[at..]) {
                Step::End(length) => {
                    at += length;
                    if scanner.is_push() {
                        return Err("a push on a shared connection".into());
                    }
                    ended += 1;
                    let mut pending = self.pending.borrow_mut();
                    let Some(first) = pending.front_mut() else {
                        return Err("a reply that nobody asked for".into());
                    };
                    let owner = first.owner;
                    let is_last = first.requests == ended;
                    if is_last {
                        pending.pop_front();
                    } else if first.one_by_one {
                        first.requests -= ended;
                    } else {
                        continue;
                    }
                    drop(pending);
                    let more = !is_last && at < bytes.len();
                    self.receiver.deliver(owner, &bytes[from..at], ended, more);
                    from = at;
                    ended = 0;
                }
                Step::Partial => at = bytes.len(),
                Step::Error(text) => return Err(text.to_string()),
            }
        }
        self.within_reply.set(!scanner.is_between_frames());
        self.hand_on_run(&bytes[from..], ended)
    }

    /// Hands on the beginning of what the first owner waits for.
    fn hand_on_run(&self, bytes: &[u8], ended: u32) -> Result<(), String> {
        if bytes.is_empty() {
            return Ok(());
        }
        let owner = match self.pending.borrow_mut().front_mut() {
            Some(first) => {
                first.requests -= ended;
                first.owner
            }
            None => return Err("a reply that nobody asked for".into()),
        };
        self.receiver.deliver(owner, bytes, ended, false);
        Ok(())
    }

    /// A private lane: whole frames, each with its meaning.
    fn hand_on_frames(
        &self,
        scanner: &mut ReplyScanner,
        partial: &mut BytesMut,
        mut bytes: &[u8],
    ) -> Result<(), String> {
        while !bytes.is_empty() {
            match scanner.next(bytes) {
                Step::End(length) => {
                    let (end, rest) = bytes.split_at(length);
                    bytes = rest;
                    let is_push = scanner.is_push();
                    if partial.is_empty() {
                        self.hand_on_frame(end, is_push)?;
                    } else {
                        partial.extend_from_slice(end);
                        self.hand_on_frame(&partial.split(), is_push)?;
                    }
                }
                Step::Partial => {
                    partial.extend_from_slice(bytes);
                    bytes = &[];
                }
                Step::Error(text) => return Err(text.to_string()),
            }
        }
        Ok(())
    }

    fn hand_on_frame(&self, frame: &[u8], is_push: bool) -> Result<(), String> {
        if is_push || !self.accounted.get() {
            if let Some(owner) = self.private_to.get() {
                self.receiver.unasked(owner, frame);
            }
            return Ok(());
        }
        let mut pending = self.pending.borrow_mut();
        let Some(first) = pending.front_mut() else {
            // A SUBSCRIBE of a RESP3 client that Redis refused.
            drop(pending);
            if let Some(owner) = self.private_to.get() {
                self.receiver.unasked(owner, frame);
            }
            return Ok(());
        };
        let owner = first.owner;
        first.requests -= 1;
        if first.requests == 0 {
            pending.pop_front();
        }
        drop(pending);
        self.receiver.deliver(owner, frame, 1, false);
        Ok(())
    }
}
