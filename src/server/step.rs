//! Mapped writes that the event loop tells Redis first by itself: what has come while one step was under way goes in
//! the next (see `engine::step`). Redis answers all of what it has got over one connection at once, so a second step
//! would not be answered sooner by being sent sooner; and clients that are answered together ask together again.
//!
//! Invariants
//! - One step of a loop is under way at a time, but for what is too much for the next one, and where Redis is far: then
//!   it is the way there and back that takes the time, on which steps do not hinder each other.
//! - Of one client, operations are under way in one step only, and stand behind one another there.
//! - What is left by a step goes to the worker in the order in which it came.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use tokio::sync::Notify;

use super::conversation::{Flow, Request, Talk};
use super::errand::failure_of;
use super::event_loop::{Carries, EventLoop};
use super::mapped::arguments_of;
use crate::command::Command;
use crate::engine::ErrandFailed;
use crate::engine::ReplyTo;
use crate::engine::refusal::{Happened, upstream_failed};
use crate::engine::route::MappedRoute;
use crate::engine::step::{Step, Stepped, Telling};
use crate::mapping::Pass;
use crate::metrics::{Side, TIMED};
use crate::protocol::request::{RequestLimits, Scanned, Scanner};
use crate::protocol::{Reply, Version};
use crate::upstream::UpstreamError;
use crate::upstream::lane::{Delivered, Owner};

/// The owner of steps; see `EventLoop::enter` for those that are clients.
const STEP: Owner = Owner(1 << 62);

/// Stands for a worker where what is under way is in a step.
const IN_STEP: usize = usize::MAX - 1;

/// Operations that are gathered before a step is sent, even if one is under way: nobody else gets an answer from Redis
/// meanwhile.
const GATHERED: usize = 32;

/// A Redis that has answered none of the last steps sooner is far.
const FAR: Duration = Duration::from_micros(500);

/// So many steps are the last ones, at the least; at the most twice as many.
const LAST: u8 = 64;

/// Steps of an event loop.
#[derive(Default)]
pub(super) struct Steps {
    gathering: RefCell<Gathering>,
    sent: RefCell<VecDeque<Sent>>,
    distance: Cell<Distance>,
    /// There may be something to send now.
    gathered: Notify,
}

#[derive(Default)]
struct Gathering {
    step: Step,
    told: Vec<Told>,
    /// The requests, as they came.
    requests: BytesMut,
    /// So many are not timed before the next one is.
    untimed: u8,
}

/// How far Redis is: the time in which the quickest of the last steps was answered.
#[derive(Clone, Copy, Debug)]
struct Distance {
    /// Of those that are being counted, and of those that were counted before.
    quickest: [Duration; 2],
    count: u8,
}

/// A step whose answer is awaited.
struct Sent {
    at: Instant,
    told: Vec<Told>,
    requests: Bytes,
    /// What has come of the answer.
    answer: BytesMut,
}

/// One operation of a step.
struct Told {
    telling: Telling,
    pass: Pass,
    command: &'static Command,
    owner: Owner,
    slot: u32,
    version: Version,
    /// Of its request.
    length: usize,
    /// When it came, if it is timed.
    since: Option<Instant>,
}

// === impl Distance ===

impl Default for Distance {
    fn default() -> Self {
        Self { quickest: [Duration::MAX, Duration::ZERO], count: 0 }
    }
}

impl Distance {
    fn after(self, took: Duration) -> Self {
        let [now, before] = self.quickest;
        match self.count + 1 {
            LAST => Self { quickest: [Duration::MAX, now.min(took)], count: 0 },
            count => Self { quickest: [now.min(took), before], count },
        }
    }

    fn is_far(self) -> bool {
        self.quickest.into_iter().min() > Some(FAR)
    }
}

pub(super) fn is_step(owner: Owner) -> bool {
    owner == STEP
}

// === impl Talk ===

impl Talk {
    /// Has a write told Redis first by the loop itself, if it may; `None`: it is for a worker.
    pub(super) fn tell_first(
        &self,
        command: &'static Command,
        request: &Request<'_>,
    ) -> Option<Flow> {
        if self.writes_paused.get() {
            return None;
        }
        let engine = &self.event_loop.shared.engine;
        let arguments: Vec<&[u8]> = (0..request.count()).map(|at| request.argument(at)).collect();
        let (telling, pass) = engine.telling(command, &arguments)?;
        if !self.event_loop.may_step() {
            return None;
        }
        let client = &self.client;
        let steps = &self.event_loop.steps;
        let under_way = client.writes.get() > 0;
        let mut gathering = steps.gathering.borrow_mut();
        let last = gathering.told.last();
        let follows = under_way
            && client.writer.get() == IN_STEP
            && last.is_some_and(|last| last.owner == client.owner);
        if under_way && !follows && !self.drained() {
            return Some(Flow::Wait);
        }
        if follows && !gathering.step.has_room() {
            self.drained();
            return Some(Flow::Wait);
        }
        if !follows && gathering.step.count() >= GATHERED {
            drop(gathering);
            self.event_loop.send_step();
            gathering = steps.gathering.borrow_mut();
        }
        client.writer.set(IN_STEP);
        client.writes.set(client.writes.get() + 1);
        let slot = client.expected.borrow_mut().slot(client.take_muted());
        if gathering.step.is_empty() {
            steps.gathered.notify_one();
        }
        gathering.step.add(telling, follows, &arguments);
        let is_timed = gathering.untimed == 0;
        gathering.untimed = if is_timed { TIMED - 1 } else { gathering.untimed - 1 };
        gathering.requests.extend_from_slice(request.bytes);
        gathering.told.push(Told {
            telling,
            pass,
            command,
            owner: client.owner,
            slot,
            version: client.version(),
            length: request.bytes.len(),
            since: is_timed.then(Instant::now),
        });
        Some(Flow::Done)
    }
}

// === impl EventLoop ===

impl EventLoop {
    /// Sends steps once all clients that were ready have been read, for as long as the loop lives.
    pub(super) async fn send_steps(&self) {
        loop {
            self.steps.gathered.notified().await;
            if self.steps.sent.borrow().is_empty() || self.steps.distance.get().is_far() {
                self.send_step();
            }
        }
    }

    /// The oldest step that is under way has ended: the next one may go, with what comes of its clients by then.
    fn end_step(&self) -> Option<Sent> {
        self.steps.gathered.notify_one();
        let sent = self.steps.sent.borrow_mut().pop_front()?;
        let distance = &self.steps.distance;
        distance.set(distance.get().after(sent.at.elapsed()));
        Some(sent)
    }

    /// Whether there is a connection for steps, to a run of Redis that is believed.
    fn may_step(&self) -> bool {
        let engine = &self.shared.engine;
        engine.believes(self.step_lane().run_id())
    }

    fn step_lane(&self) -> std::rc::Rc<crate::upstream::Lane<Self>> {
        self.shared_lane(self.shared.engine.database(), Version::Resp2, Carries::Steps)
    }

    fn send_step(&self) {
        let mut gathering = self.steps.gathering.borrow_mut();
        if gathering.step.is_empty() {
            return;
        }
        let lane = self.step_lane();
        let engine = &self.shared.engine;
        let believed = engine.believes(lane.run_id());
        let request = believed.then(|| engine.request_of(&gathering.step)).flatten();
        gathering.step.clear();
        let sent = Sent {
            at: Instant::now(),
            told: std::mem::take(&mut gathering.told),
            requests: gathering.requests.split().freeze(),
            answer: BytesMut::new(),
        };
        drop(gathering);
        match request {
            Some(request) if lane.append(STEP, &request, 1, Delivered::Together) => {
                self.steps.sent.borrow_mut().push_back(sent);
                lane.send_now();
            }
            _ => self.leave_all(sent),
        }
    }

    /// Bytes of the answer to the oldest step; `ended`: all of it.
    pub(super) fn step_answered(&self, bytes: &[u8], ended: bool) {
        let mut all = self.steps.sent.borrow_mut();
        let Some(first) = all.front_mut() else { return };
        first.answer.extend_from_slice(bytes);
        if !ended {
            return;
        }
        drop(all);
        let Some(mut sent) = self.end_step() else { return };
        let answer = sent.answer.split().freeze();
        match Stepped::read(&answer, sent.told.iter().map(|told| told.telling)) {
            Stepped::Ran(replies) => self.tell(sent, replies),
            Stepped::Not => self.leave_all(sent),
            Stepped::Odd => self.doubt(&sent, &UpstreamError::Protocol("an odd answer".into())),
        }
    }

    /// The oldest step gets no answer.
    pub(super) fn step_failed(&self, error: &UpstreamError) {
        let Some(sent) = self.end_step() else { return };
        match failure_of(error) {
            ErrandFailed::NotRun(_) => self.leave_all(sent),
            ErrandFailed::InDoubt(_) => self.doubt(&sent, error),
        }
    }

    fn tell(&self, mut sent: Sent, replies: Vec<Option<Bytes>>) {
        let mut replies = replies.into_iter();
        for of_client in sent.told.chunk_by(|one, next| one.owner == next.owner) {
            let client = self.client(of_client[0].owner);
            for told in of_client {
                let request = sent.requests.split_to(told.length);
                let reply = replies.next().flatten();
                if let Some(reply) = &reply {
                    self.shared.engine.count_told(told.telling, reply);
                    if let Some(since) = told.since {
                        self.counts.took(told.telling.mapping(), Side::Write, since.elapsed());
                    }
                }
                match (reply, &client) {
                    (Some(reply), Some(client)) => client.fill(told.slot, reply),
                    // Nobody waits for it.
                    (Some(_), None) => {}
                    (None, _) => self.leave_to_worker(told, request),
                }
            }
            if let Some(client) = client {
                client.flush();
            }
        }
    }

    fn leave_all(&self, mut sent: Sent) {
        for told in &sent.told {
            let request = sent.requests.split_to(told.length);
            self.leave_to_worker(told, request);
        }
    }

    fn leave_to_worker(&self, told: &Told, request: Bytes) {
        let mut scanner = Scanner::new();
        let max_argument_bytes = self.shared.limits.max_argument_bytes;
        let limits = RequestLimits { max_argument_bytes, max_inline_bytes: request.len() };
        let Scanned::Request(_) = scanner.next(&request, true, &limits) else {
            debug_assert!(false, "it was a request when it came");
            return;
        };
        let &Told { owner, slot, version, .. } = told;
        let mailbox = std::sync::Arc::clone(&self.mailbox);
        let reply_to = ReplyTo { mailbox, owner, slot, version };
        let engine = &self.shared.engine;
        let arguments = arguments_of(&request, &scanner);
        match engine.route_mapped(told.command, &request, arguments, reply_to.clone()) {
            MappedRoute::Write(mut operation) => {
                // Its one key was let in before.
                operation.keys.iter_mut().for_each(|key| key.pass = Some(told.pass.clone()));
                let worker = engine.writer_of(&operation);
                engine.write(*operation, worker);
            }
            // Cannot be: a key stays with its mapping.
            _ => reply_to.answer(&Reply::err("the key is not mapped any more")),
        }
    }

    fn doubt(&self, sent: &Sent, error: &UpstreamError) {
        self.shared.engine.doubt_step(error);
        for told in &sent.told {
            let Some(client) = self.client(told.owner) else { continue };
            let mut reply = BytesMut::new();
            upstream_failed(Happened::Maybe).write(told.version, &mut reply);
            client.fill(told.slot, reply.freeze());
            client.flush();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_quickest_of_the_last_steps_tells_how_far_redis_is() {
        let (quick, slow) = (Duration::from_micros(100), Duration::from_millis(2));
        let mut distance = Distance::default();
        let mut answered = |took: Duration, steps: u8| {
            (0..steps).for_each(|_| distance = distance.after(took));
            distance.is_far()
        };
        assert!(!answered(slow, LAST - 1), "not known yet");
        assert!(answered(slow, 1) && answered(slow, LAST));
        assert!(!answered(quick, 1), "one is enough");
        assert!(!answered(slow, LAST), "it is one of the last ones");
        assert!(answered(slow, LAST), "and is forgotten");
    }
}
