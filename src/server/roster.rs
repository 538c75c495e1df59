//! All clients of all event loops: what CLIENT LIST shows and CLIENT KILL finds.

use std::net::SocketAddr;
use std::sync::atomic::{
    AtomicBool, AtomicU8, AtomicU16, AtomicU32, AtomicU64, AtomicUsize, Ordering,
};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use dashmap::DashMap;
use tokio::sync::Notify;

use crate::command::COMMANDS;

/// Longer words are no subcommands.
const MAX_SUBCOMMAND_BYTES: usize = 32;

/// The clients that are connected, by id.
#[derive(Debug, Default)]
pub struct Roster {
    entries: DashMap<u64, Arc<Entry>, ahash::RandomState>,
    last_id: AtomicU64,
}

/// What other clients may know of a client.
#[derive(Debug)]
pub struct Entry {
    pub id: u64,
    pub address: SocketAddr,
    pub local_address: SocketAddr,
    pub connected: Instant,
    pub database: AtomicU16,
    /// 2 or 3.
    pub protocol: AtomicU8,
    /// When it last sent something, seconds since the server's start.
    pub seen: AtomicU32,
    /// The command that it sent last: 1 more than its row's number in the command table, or 0.
    pub command: AtomicUsize,
    /// The subcommand, in lower case, of the last command that has any.
    pub subcommand: Mutex<Vec<u8>>,
    /// Bytes of replies that its socket has not taken yet.
    pub output_bytes: AtomicUsize,
    pub name: Mutex<Bytes>,
    pub user: Mutex<String>,
    pub standing: Mutex<Standing>,
    wait: Mutex<Option<Wait>>,
    connection: Mutex<Option<Connection>>,
    /// Set by CLIENT KILL; `kill_wanted` wakes the client's conversation.
    killed: AtomicBool,
    pub kill_wanted: Notify,
}

/// What a client has a connection of its own for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Standing {
    /// Commands queued since MULTI.
    pub multi: Option<usize>,
    /// Channels, patterns, shard channels.
    pub subscriptions: [usize; 3],
    /// It tracks: the client that it redirects to, or 0.
    pub tracks: Option<u64>,
    pub monitors: bool,
}

/// A command that waits inside Redis.
#[derive(Debug)]
struct Wait {
    /// The CLIENT ID, in the upstream, of the connection that it waits on; 0 until it is known.
    upstream_id: Arc<AtomicU64>,
    /// Somebody has asked Redis to end it: that may come late.
    aimed_at: bool,
}

/// A connection to the upstream that only this client has.
#[derive(Debug)]
struct Connection {
    /// Its CLIENT ID there; 0 until it is known.
    upstream_id: Arc<AtomicU64>,
    /// Redis tells it what others track: it must never serve another client.
    is_target: bool,
}

// === impl Roster ===

impl Roster {
    pub fn enter(&self, address: SocketAddr, local_address: SocketAddr) -> Arc<Entry> {
        let id = self.last_id.fetch_add(1, Ordering::Relaxed) + 1;
        let entry = Arc::new(Entry {
            id,
            address,
            local_address,
            connected: Instant::now(),
            database: AtomicU16::new(0),
            protocol: AtomicU8::new(2),
            seen: AtomicU32::new(0),
            command: AtomicUsize::new(0),
            subcommand: Mutex::default(),
            output_bytes: AtomicUsize::new(0),
            name: Mutex::default(),
            user: Mutex::new("default".to_owned()),
            standing: Mutex::default(),
            wait: Mutex::default(),
            connection: Mutex::default(),
            killed: AtomicBool::new(false),
            kill_wanted: Notify::new(),
        });
        self.entries.insert(id, Arc::clone(&entry));
        entry
    }

    pub fn leave(&self, id: u64) {
        self.entries.remove(&id);
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub fn find(&self, id: u64) -> Option<Arc<Entry>> {
        self.entries.get(&id).map(|entry| Arc::clone(entry.value()))
    }

    /// Bytes of replies that wait for all of them.
    pub fn output_bytes(&self) -> usize {
        let bytes = |entry: &Arc<Entry>| entry.output_bytes.load(Ordering::Relaxed);
        self.entries.iter().map(|entry| bytes(entry.value())).sum()
    }

    /// All clients, oldest first.
    pub fn all(&self) -> Vec<Arc<Entry>> {
        let mut all: Vec<Arc<Entry>> =
            self.entries.iter().map(|entry| Arc::clone(entry.value())).collect();
        all.sort_by_key(|entry| entry.id);
        all
    }
}

// === impl Entry ===

impl Entry {
    pub fn kill(&self) {
        self.killed.store(true, Ordering::Release);
        self.kill_wanted.notify_one();
    }

    pub fn is_killed(&self) -> bool {
        self.killed.load(Ordering::Acquire)
    }

    pub fn set_subcommand(&self, name: &[u8]) {
        let mut subcommand = self.subcommand.lock().unwrap_or_else(PoisonError::into_inner);
        subcommand.clear();
        subcommand.extend(name.iter().take(MAX_SUBCOMMAND_BYTES).map(u8::to_ascii_lowercase));
    }

    /// The command that it sent last, as CLIENT LIST names it.
    pub fn command_name(&self) -> String {
        let row = self.command.load(Ordering::Relaxed).checked_sub(1);
        let Some(command) = row.and_then(|row| COMMANDS.get(row)) else { return "NULL".to_owned() };
        let subcommand = self.subcommand.lock().unwrap_or_else(PoisonError::into_inner);
        let is_word = subcommand.iter().all(|byte| byte.is_ascii_lowercase() || *byte == b'-');
        if !command.has_subcommands() || subcommand.is_empty() || !is_word {
            return command.name.to_owned();
        }
        format!("{}|{}", command.name, String::from_utf8_lossy(&subcommand))
    }

    pub fn standing(&self) -> Standing {
        *self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn set_standing(&self, standing: Standing) {
        *self.standing.lock().unwrap_or_else(PoisonError::into_inner) = standing;
    }

    /// The client's command waits inside Redis on the connection with this CLIENT ID there.
    pub fn begin_wait(&self, upstream_id: &Arc<AtomicU64>) {
        let wait = Wait { upstream_id: Arc::clone(upstream_id), aimed_at: false };
        *self.wait() = Some(wait);
    }

    /// The wait is over. True when somebody asked Redis to end it: then the connection must not
    /// serve anybody else, whose wait could be ended in its place.
    pub fn end_wait(&self) -> bool {
        self.wait().take().is_some_and(|wait| wait.aimed_at)
    }

    /// The upstream's CLIENT ID of the connection that this client waits on, for CLIENT UNBLOCK.
    pub fn aim_at_wait(&self) -> Option<u64> {
        let mut wait = self.wait();
        let wait = wait.as_mut()?;
        let id = wait.upstream_id.load(Ordering::Acquire);
        wait.aimed_at |= id != 0;
        (id != 0).then_some(id)
    }

    /// The client has got a connection of its own.
    pub fn get_connection(&self, upstream_id: &Arc<AtomicU64>) {
        let connection = Connection { upstream_id: Arc::clone(upstream_id), is_target: false };
        *self.connection() = Some(connection);
    }

    /// The connection is lost, or closed.
    pub fn lose_connection(&self) {
        *self.connection() = None;
    }

    /// Gives the connection up for others to use; false when another client redirects to it.
    pub fn release_connection(&self) -> bool {
        self.connection().take_if(|connection| !connection.is_target).is_some()
    }

    /// The upstream's CLIENT ID of its own connection, to which another client is going to redirect;
    /// `None` without such a connection.
    pub fn aim_redirection(&self) -> Option<u64> {
        let mut connection = self.connection();
        let connection = connection.as_mut()?;
        let id = connection.upstream_id.load(Ordering::Acquire);
        connection.is_target |= id != 0;
        (id != 0).then_some(id)
    }

    fn connection(&self) -> MutexGuard<'_, Option<Connection>> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn is_waiting(&self) -> bool {
        self.wait().is_some()
    }

    fn wait(&self) -> MutexGuard<'_, Option<Wait>> {
        self.wait.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn name(&self) -> Bytes {
        self.name.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn set_name(&self, name: Bytes) {
        *self.name.lock().unwrap_or_else(PoisonError::into_inner) = name;
    }

    pub fn user(&self) -> String {
        self.user.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn set_user(&self, user: &str) {
        user.clone_into(&mut self.user.lock().unwrap_or_else(PoisonError::into_inner));
    }
}
