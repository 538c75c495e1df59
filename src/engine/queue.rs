//! Operations on their way to a worker: any thread adds, one worker takes whatever has come.

use std::sync::{Mutex, PoisonError};

use tokio::sync::Notify;

use super::operation::Operation;

/// A queue without a bound of its own: clients are bounded in what they may have under way.
#[derive(Debug)]
pub struct Queue<T = Operation> {
    waiting: Mutex<Vec<T>>,
    arrived: Notify,
}

// === impl Queue ===

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self { waiting: Mutex::default(), arrived: Notify::new() }
    }
}

impl<T> Queue<T> {
    pub fn push(&self, operation: T) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.push(operation);
        let first = waiting.len() == 1;
        drop(waiting);
        if first {
            self.arrived.notify_one();
        }
    }

    /// Waits for operations and takes all that are there, oldest first.
    pub async fn take(&self) -> Vec<T> {
        loop {
            let taken = self.take_now();
            if !taken.is_empty() {
                return taken;
            }
            self.arrived.notified().await;
        }
    }

    /// Waits for one and takes the oldest; for several workers at one queue.
    pub async fn take_one(&self) -> T {
        loop {
            if let Some(one) = self.take_one_now() {
                return one;
            }
            self.arrived.notified().await;
        }
    }

    fn take_one_now(&self) -> Option<T> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.len() > 1 {
            // Only of the first one somebody was told.
            self.arrived.notify_one();
        }
        (!waiting.is_empty()).then(|| waiting.remove(0))
    }

    /// Takes all that are there now.
    pub fn take_now(&self) -> Vec<T> {
        std::mem::take(&mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
