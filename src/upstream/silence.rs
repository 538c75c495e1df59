//! Whether the upstream says anything on a lane on which something is waited for.
//!
//! A lane notes that bytes came; somebody looks from time to time. No clock is read for a request, and
//! a respgres that was stopped itself has not looked, so that it takes no time for silence in which
//! it could not hear.

use std::cell::Cell;

use tokio::sync::Notify;

#[derive(Debug, Default)]
pub struct Silence {
    /// Bytes have come since the last look.
    heard: Cell<bool>,
    /// Something was sent that is answered by unasked frames, and nothing has come since.
    asked: Cell<bool>,
    /// What is waited for may take as long as it likes.
    patient: Cell<bool>,
    /// Looks in a row at which nothing had come.
    looks: Cell<u32>,
    given_up: Notify,
}

// === impl Silence ===

impl Silence {
    /// Bytes have come.
    pub(super) fn broken(&self) {
        self.heard.set(true);
        self.asked.set(false);
    }

    /// Something was sent that no reply is counted for.
    pub(super) fn asked(&self) {
        self.asked.set(true);
    }

    /// Whether an answer is awaited; `owed`: replies are.
    pub(super) fn awaits(&self, owed: bool) -> bool {
        !self.patient.get() && (owed || self.asked.get())
    }

    pub(super) fn set_patient(&self, patient: bool) {
        self.patient.set(patient);
    }

    /// Looks; how many times in a row an answer was awaited and nothing had come.
    pub(super) fn look(&self, awaits: bool) -> u32 {
        let heard = self.heard.replace(false);
        self.looks.set(if awaits && !heard { self.looks.get() + 1 } else { 0 });
        self.looks.get()
    }

    /// Begins to count anew.
    pub(super) fn forgive(&self) {
        self.looks.set(0);
    }

    /// Gives the connection up, unless something has come since the last look.
    pub(super) fn give_up(&self) {
        self.looks.set(0);
        if !self.heard.get() {
            self.given_up.notify_waiters();
        }
    }

    /// Completes when the connection is given up.
    pub(super) async fn given_up(&self) {
        self.given_up.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_silence_while_an_answer_is_awaited_counts() {
        let silence = Silence::default();
        assert_eq!(silence.look(silence.awaits(false)), 0);
        assert_eq!(silence.look(silence.awaits(true)), 1);
        assert_eq!(silence.look(silence.awaits(true)), 2);
        silence.broken();
        assert_eq!(silence.look(silence.awaits(true)), 0);
        assert_eq!(silence.look(silence.awaits(true)), 1);
        silence.set_patient(true);
        assert_eq!(silence.look(silence.awaits(true)), 0);
    }

    #[test]
    fn what_is_answered_by_unasked_frames_is_awaited_until_one_comes() {
        let silence = Silence::default();
        silence.asked();
        assert_eq!(silence.look(silence.awaits(false)), 1);
        silence.broken();
        assert_eq!(silence.look(silence.awaits(false)), 0);
        assert_eq!(silence.look(silence.awaits(false)), 0);
    }
}
