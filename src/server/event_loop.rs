//! One event loop: its clients, its connections to the upstream, and the way between them.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use slab::Slab;
use tokio::net::tcp::OwnedWriteHalf;
use tokio::sync::Notify;

use super::Shared;
use super::client::{Client, Look};
use super::conversation::Talk;
use super::errand::{Errands, errand_of, failure_of};
use super::expect::{Inspected, Inspection};
use super::info;
use super::roster::Entry;
use super::spare_input::SpareInputs;
use super::step::{Steps, is_step};
use super::tracking::with_target;
use crate::config::RedisUrl;
use crate::engine::{Draw, Mail, Mailbox, Told};
use crate::metrics::LoopCounts;
use crate::protocol::{Reply, Version};
use crate::tasks::Tasks;
use crate::upstream::lane::{LaneSettings, Owner, ReadBuffer, Receiver};
use crate::upstream::{Lane, UpstreamError};

/// Bytes that all connections of a loop are read through.
const READ_BUFFER_BYTES: usize = 256 << 10;

/// How long a conversation that waits for none of its own replies waits before it looks again.
const MOMENT: Duration = Duration::from_millis(5);

/// Private connections kept for the next client that needs one, per database and version.
const KEPT_PRIVATE_LANES: usize = 16;

pub(super) struct EventLoop {
    me: Weak<Self>,
    pub(super) shared: Arc<Shared>,
    pub(super) mailbox: Arc<Mailbox>,
    pub(super) tasks: Tasks,
    pub(super) read_buffer: ReadBuffer,
    pub(super) spare_inputs: SpareInputs,
    address: Rc<RedisUrl>,
    clients: RefCell<Slab<Rc<Client>>>,
    /// A client has left.
    left: Notify,
    generation: Cell<u32>,
    /// Seconds since the server's start.
    pub(super) seconds: Cell<u32>,
    lanes: RefCell<HashMap<SharedLaneKey, Rc<Lane<Self>>, ahash::RandomState>>,
    kept: RefCell<HashMap<LaneKey, Vec<Rc<Lane<Self>>>>>,
    /// Private lanes, also those that are kept.
    private: RefCell<Vec<Weak<Lane<Self>>>>,
    pub(super) errands: Errands,
    pub(super) steps: Steps,
    pub(super) counts: Arc<LoopCounts>,
    /// Which hits are compared with Postgres.
    draw: Option<Rc<Draw>>,
    /// Clients whose conversations are to look again in a moment.
    waiting: RefCell<Vec<Rc<Client>>>,
    /// What comes over the lanes may be old, as others may have gone on without this proxy.
    is_fenced: Cell<bool>,
}

/// Requests of one database and protocol version share a lane.
type LaneKey = (u16, Version);

type SharedLaneKey = (LaneKey, Carries);

/// Which of the shared lanes: a script may hold up one of them, never the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Carries {
    /// Scripts, and what their clients sent behind them.
    Scripts,
    /// Mapped writes that Redis is told first.
    Steps,
    AllElse,
}

// === impl EventLoop ===

impl EventLoop {
    pub(super) fn new(shared: Arc<Shared>, tasks: Tasks) -> Rc<Self> {
        let address = Rc::new(shared.upstream_address.clone());
        let read_buffer = vec![0; READ_BUFFER_BYTES].into_boxed_slice();
        let mailbox = Arc::default();
        shared.engine.attach(&mailbox);
        let counts = shared.engine.metrics().of_new_loop();
        let draw = shared.engine.draw().map(Rc::new);
        Rc::new_cyclic(|me| Self {
            me: me.clone(),
            shared,
            mailbox,
            tasks,
            read_buffer: Rc::new(RefCell::new(read_buffer)),
            spare_inputs: SpareInputs::default(),
            address,
            clients: RefCell::default(),
            left: Notify::new(),
            generation: Cell::new(0),
            seconds: Cell::new(0),
            lanes: RefCell::default(),
            kept: RefCell::default(),
            private: RefCell::default(),
            errands: Errands::default(),
            steps: Steps::default(),
            counts,
            draw,
            waiting: RefCell::default(),
            is_fenced: Cell::new(false),
        })
    }

    fn me(&self) -> Rc<Self> {
        self.me.upgrade().expect("an event loop lives as long as it is called")
    }

    /// Hands answers of the workers to their clients, for as long as the loop lives.
    pub(super) async fn deliver_answers(&self) {
        let mut told: Vec<Rc<Client>> = Vec::new();
        loop {
            for mail in self.mailbox.take().await {
                let mut answer = match mail {
                    Mail::Answer(answer) => answer,
                    Mail::Large { owner, slot, large } => {
                        if let Some(client) = self.client(owner) {
                            client.put_off(slot, large);
                        }
                        continue;
                    }
                    Mail::Errand(errand) => {
                        self.run_errand(errand);
                        continue;
                    }
                    Mail::Fence(pass) => {
                        self.fence(&pass);
                        continue;
                    }
                    Mail::GiveBack(number) => {
                        self.let_go(number);
                        continue;
                    }
                };
                let Some(client) = self.client(answer.owner) else { continue };
                let of_exec =
                    client.exec_effects.borrow_mut().take_if(|(slot, _)| *slot == answer.slot);
                if let Some((_, effects)) = of_exec {
                    let talk = Talk::new(self.me(), Rc::clone(&client));
                    answer.reply = talk.finish_transaction(answer.reply.to_vec(), effects).into();
                }
                client.fill(answer.slot, answer.reply);
                if !told.last().is_some_and(|last| Rc::ptr_eq(last, &client)) {
                    told.push(client);
                }
            }
            for client in told.drain(..) {
                client.flush();
            }
        }
    }

    /// Keeps the time, for as long as the loop lives: to the second, for CLIENT LIST and for memory that
    /// nobody needs any more.
    pub(super) async fn keep_time(&self) {
        let mut second = tokio::time::interval(Duration::from_secs(1));
        loop {
            second.tick().await;
            let seconds = self.shared.started.elapsed().as_secs();
            self.seconds.set(seconds.try_into().unwrap_or(u32::MAX));
            self.spare_inputs.give_back();
        }
    }

    pub(super) fn uptime_ms(&self) -> u64 {
        self.shared.started.elapsed().as_millis().try_into().unwrap_or(u64::MAX)
    }

    /// Whether a client has had Redis pause writes (CLIENT PAUSE … WRITE).
    pub(super) fn writes_are_paused(&self) -> bool {
        let until_ms = self.shared.writes_paused_until_ms.load(Ordering::Relaxed);
        until_ms != 0 && until_ms > self.uptime_ms()
    }

    /// Makes a stalled conversation look again in a moment.
    pub(super) fn wake_soon(&self, client: &Rc<Client>) {
        if client.wakes_soon.replace(true) {
            return;
        }
        let mut waiting = self.waiting.borrow_mut();
        waiting.push(Rc::clone(client));
        if waiting.len() == 1 {
            let me = self.me();
            self.tasks.spawn_local(async move {
                tokio::time::sleep(MOMENT).await;
                let waiting = me.waiting.take();
                for client in waiting {
                    client.wakes_soon.set(false);
                    client.stalled.set(false);
                    client.wake();
                }
            });
        }
    }

    // --- clients ---

    pub(super) fn enter(&self, entry: Arc<Entry>, socket: OwnedWriteHalf) -> Rc<Client> {
        // The highest bits are those of errands and steps.
        let generation = self.generation.get().wrapping_add(1) & (u32::MAX >> 2);
        self.generation.set(generation);
        let mut clients = self.clients.borrow_mut();
        let place = clients.vacant_entry();
        let owner = Owner(u64::from(generation) << 32 | place.key() as u64);
        let authenticated = !self.shared.users.must_authenticate();
        let most = self.shared.limits.client_backlog_max_bytes;
        let counts = Arc::clone(&self.counts);
        counts.enter();
        let draw = self.draw.clone();
        let client = Client::new(owner, entry, socket, authenticated, most, counts, draw);
        Rc::clone(place.insert(client))
    }

    pub(super) fn leave(&self, client: &Client) {
        self.clients.borrow_mut().try_remove(place_of(client.owner));
        self.shared.roster.leave(client.entry.id);
        self.left.notify_one();
        if let Some(pin) = client.session.borrow_mut().pin.take() {
            pin.close();
        }
    }

    /// Lets every client have the replies that are under way, then closes it.
    pub(super) async fn say_farewell(&self) {
        for (_, client) in self.clients.borrow().iter() {
            client.leave_when_told();
        }
        while !self.clients.borrow().is_empty() {
            self.left.notified().await;
        }
    }

    pub(super) fn client(&self, owner: Owner) -> Option<Rc<Client>> {
        let clients = self.clients.borrow();
        clients.get(place_of(owner)).filter(|client| client.owner == owner).cloned()
    }

    pub(super) fn all_clients(&self) -> Vec<Rc<Client>> {
        self.clients.borrow().iter().map(|(_, client)| Rc::clone(client)).collect()
    }

    // --- lanes ---

    /// A shared lane of a database and protocol version; opened at the first request for it.
    pub(super) fn shared_lane(
        &self,
        database: u16,
        version: Version,
        carries: Carries,
    ) -> Rc<Lane<Self>> {
        let mut lanes = self.lanes.borrow_mut();
        let lane = lanes.entry(((database, version), carries)).or_insert_with(|| {
            let settings = self.lane_settings(database, version);
            let lane = Lane::shared(settings, self.me(), Rc::clone(&self.read_buffer));
            self.tasks.spawn_local(Rc::clone(&lane).run());
            lane
        });
        Rc::clone(lane)
    }

    /// Forgets a lane whose database the upstream refuses, and that of scripts if it has got no further. The lane of
    /// steps is the loop's own, and lives as long as the loop.
    pub(super) fn forget_lane(&self, lane: &Lane<Self>) {
        let key = (lane.database(), lane.version());
        for carries in [Carries::AllElse, Carries::Scripts] {
            let mut lanes = self.lanes.borrow_mut();
            // One that is open has its database, and others who wait for it.
            if let Some(lane) = lanes.get(&(key, carries)).filter(|lane| !lane.is_open()) {
                lane.close();
                lanes.remove(&(key, carries));
            }
        }
    }

    /// A connection for this client alone: one that was kept, or a new one.
    pub(super) fn private_lane(&self, client: &Client, database: u16) -> Rc<Lane<Self>> {
        self.private_lane_of(Some(client.owner), database, client.version())
    }

    /// The same, for nobody yet where there is no owner.
    pub(super) fn private_lane_of(
        &self,
        owner: Option<Owner>,
        database: u16,
        version: Version,
    ) -> Rc<Lane<Self>> {
        let key = (database, version);
        while let Some(lane) = self.kept.borrow_mut().get_mut(&key).and_then(Vec::pop) {
            if lane.is_open() {
                lane.give_to(owner);
                return lane;
            }
        }
        let settings = self.lane_settings(key.0, key.1);
        let lane = Lane::private(settings, self.me(), Rc::clone(&self.read_buffer), owner);
        let mut private = self.private.borrow_mut();
        if private.len() == private.capacity() {
            // Before it grows: most of them may be gone.
            private.retain(|lane| lane.strong_count() > 0);
        }
        private.push(Rc::downgrade(&lane));
        drop(private);
        self.tasks.spawn_local(Rc::clone(&lane).run());
        lane
    }

    /// All lanes that there are.
    pub(super) fn all_lanes(&self) -> Vec<Rc<Lane<Self>>> {
        let mut lanes: Vec<_> = self.lanes.borrow().values().cloned().collect();
        self.private.borrow_mut().retain(|lane| match lane.upgrade() {
            Some(lane) => {
                lanes.push(lane);
                true
            }
            None => false,
        });
        lanes
    }

    /// Takes back a private connection on which nothing is under way.
    pub(super) fn keep_lane(&self, lane: Rc<Lane<Self>>) {
        let mut kept = self.kept.borrow_mut();
        let lanes = kept.entry((lane.database(), lane.version())).or_default();
        if lane.is_open() && lanes.len() < KEPT_PRIVATE_LANES {
            lane.give_to(None);
            lanes.push(lane);
        } else {
            lane.close();
        }
    }

    fn lane_settings(&self, database: u16, version: Version) -> LaneSettings {
        let upstream = &self.shared.upstream;
        LaneSettings {
            address: Rc::clone(&self.address),
            database,
            version,
            connect_timeout_ms: upstream.connect_timeout_ms,
            silence_timeout_ms: upstream.silence_timeout_ms,
            asks_run_id: self.shared.engine.maps_database(database),
            reconnect_min_ms: upstream.reconnect_min_ms,
            reconnect_max_ms: upstream.reconnect_max_ms,
        }
    }

    // --- replies that are looked at ---

    fn look_at(&self, client: &Rc<Client>, inspected: Inspected) {
        let Inspected { slot, inspection, reply } = inspected;
        match inspection {
            Inspection::Info => {
                let section = info::section(&self.shared);
                client.fill(slot, Bytes::from(info::with_section(&reply, &section)));
            }
            Inspection::Select(database) => {
                if reply.first() == Some(&b'+') {
                    Talk::new(self.me(), Rc::clone(client)).selected(database);
                }
                client.fill(slot, Bytes::from(reply));
            }
            Inspection::Hello(request) => {
                let talk = Talk::new(self.me(), Rc::clone(client));
                client.fill(slot, talk.finish_hello(reply, &request));
            }
            Inspection::Redirection(target) => {
                client.fill(slot, Bytes::from(with_target(reply, target)));
            }
            Inspection::Multi => {
                if reply.first() == Some(&b'+') {
                    Talk::new(self.me(), Rc::clone(client)).opened();
                }
                client.fill(slot, Bytes::from(reply));
            }
            Inspection::Queued => {
                if reply.first() == Some(&b'-')
                    && let Some(pin) = &mut client.session.borrow_mut().pin
                {
                    pin.queue_failed |= pin.multi;
                }
                client.fill(slot, Bytes::from(reply));
            }
            Inspection::Watch(keys, watched, passes) => {
                if reply.first() == Some(&b'+') {
                    let talk = Talk::new(self.me(), Rc::clone(client));
                    let told = Told::new(talk.reply_to(slot));
                    self.shared.engine.watch(keys, watched, passes, told);
                    return;
                }
                client.fill(slot, Bytes::from(reply));
            }
            Inspection::Exec(effects) => {
                let talk = Talk::new(self.me(), Rc::clone(client));
                client.fill(slot, Bytes::from(talk.finish_transaction(reply, effects)));
            }
        }
        client.flush();
    }

    fn look(&self, client: &Rc<Client>, look: Look) {
        match look {
            Look::Inspect(inspected) => self.look_at(client, inspected),
            Look::Unproven(unproven) => {
                Talk::new(self.me(), Rc::clone(client)).read_slowly(unproven);
            }
        }
    }
}

/// What a client is told about a request that the upstream did not answer.
pub(super) fn upstream_failed(error: &UpstreamError) -> Reply {
    Reply::Error(match error {
        // SELECT of a new connection, while a script runs or the data is loaded.
        UpstreamError::Refused(text) if is_for_later(text) => text.clone(),
        UpstreamError::Refused(text) => {
            format!("ERR the upstream Redis refuses connections: {text}")
        }
        // Timeouts are those of connecting.
        UpstreamError::Connect { .. } | UpstreamError::Timeout(_) | UpstreamError::Elsewhere => {
            "ERR the upstream Redis is out of reach; the command was not run".to_owned()
        }
        UpstreamError::Lost(_) | UpstreamError::Silent(_) | UpstreamError::Protocol(_) => {
            "ERR the connection to the upstream Redis was lost; the command may have been run"
                .to_owned()
        }
    })
}

/// Whether Redis refuses a request now and is willing to serve it later.
fn is_for_later(error: &str) -> bool {
    let first = error.split(' ').next().unwrap_or_default();
    matches!(first, "BUSY" | "LOADING" | "MASTERDOWN")
}

fn place_of(owner: Owner) -> usize {
    (owner.0 & u64::from(u32::MAX)) as usize
}

impl Receiver for EventLoop {
    fn bytes_came(&self) {
        self.is_fenced.set(self.shared.engine.is_fenced());
    }

    fn deliver(&self, owner: Owner, bytes: &[u8], ended: u32, more: bool) {
        if let Some(number) = errand_of(owner) {
            // Whole frames, one by one, as it is a private lane.
            self.errand_replied(number, bytes);
            return;
        }
        if is_step(owner) {
            self.step_answered(bytes, ended > 0);
            return;
        }
        let Some(client) = self.client(owner) else { return };
        if self.is_fenced.get() {
            client.expected.borrow_mut().doubt();
        }
        if let Some(look) = client.deliver(bytes, ended, more) {
            self.look(&client, look);
        }
    }

    fn unasked(&self, owner: Owner, frame: &[u8]) {
        let Some(client) = self.client(owner) else { return };
        let mut answered = false;
        if let Some(pin) = &mut client.session.borrow_mut().pin
            && let Some(subscriptions) = &mut pin.subscriptions
        {
            subscriptions.received(frame);
            answered = !subscriptions.awaits();
        }
        if answered {
            client.show_standing();
        }
        client.push(frame);
        if answered {
            if client.expected.borrow().is_empty() {
                client.stalled.set(false);
            }
            client.wake();
        }
    }

    fn failed(&self, owner: Owner, requests: u32, error: &UpstreamError) {
        if errand_of(owner).is_some() {
            self.errand_failed(owner, failure_of(error));
            return;
        }
        if is_step(owner) {
            self.step_failed(error);
            return;
        }
        let Some(client) = self.client(owner) else { return };
        let mut reply = BytesMut::new();
        upstream_failed(error).write(client.version(), &mut reply);
        for _ in 0..requests {
            match client.deliver_failure(&reply) {
                Some(Look::Inspect(inspected)) => {
                    client.fill(inspected.slot, Bytes::from(inspected.reply));
                    client.flush();
                }
                // A mapped key: Postgres knows it too.
                Some(look @ Look::Unproven(_)) => self.look(&client, look),
                None => {}
            }
        }
    }

    fn cut_off(&self, owner: Owner) {
        if let Some(client) = self.client(owner) {
            client.leave();
        }
    }

    fn lane_lost(&self, owner: Owner, error: &UpstreamError) {
        let Some(client) = self.client(owner) else { return };
        let Some(pin) = client.session.borrow_mut().pin.take() else { return };
        // Of two lanes the other one.
        pin.close();
        client.entry.end_wait();
        client.entry.lose_connection();
        if pin.has_state() {
            if pin.subscriptions.is_some() && !matches!(error, UpstreamError::Lost(_)) {
                // Nobody else answers its SUBSCRIBE.
                let mut reply = BytesMut::new();
                upstream_failed(error).write(client.version(), &mut reply);
                client.push(&reply);
            }
            // As when Redis itself goes away: its transaction or subscriptions are gone.
            client.leave_when_told();
        }
    }

    fn room(&self, owner: Owner) {
        if let Some(client) = self.client(owner)
            && client.without_room.replace(false)
        {
            client.wake();
        }
    }
}
