//! All clients of all event loops: what CLIENT LIST shows and CLIENT KILL finds.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU16, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use dashmap::DashMap;
use tokio::sync::Notify;

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
    pub name: Mutex<Bytes>,
    pub user: Mutex<String>,
    /// Set by CLIENT KILL; `kill_wanted` wakes the client's conversation.
    killed: AtomicBool,
    pub kill_wanted: Notify,
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
            name: Mutex::default(),
            user: Mutex::new("default".to_owned()),
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
