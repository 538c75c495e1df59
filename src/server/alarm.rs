//! A warning that anybody who can connect is able to cause: logged at most once a minute, with the
//! number of those that were not.

use std::sync::atomic::{AtomicU64, Ordering};

/// As long as Redis keeps silent about the same.
const PAUSE_MS: u64 = 60_000;

#[derive(Debug, Default)]
pub struct Alarm {
    /// From when on it may be logged again.
    next_ms: AtomicU64,
    suppressed: AtomicU64,
}

// === impl Alarm ===

impl Alarm {
    /// Something has happened, `now_ms` after the server's start: if it is to be logged, how many times
    /// it was not since it was logged last.
    pub(super) fn ring(&self, now_ms: u64) -> Option<u64> {
        let next_ms = self.next_ms.load(Ordering::Relaxed);
        // Of two event loops at once, one logs it.
        let mine = now_ms >= next_ms
            && self
                .next_ms
                .compare_exchange(next_ms, now_ms + PAUSE_MS, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok();
        if !mine {
            self.suppressed.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        Some(self.suppressed.swap(0, Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_told_once_a_minute_and_how_often_it_was_not() {
        let alarm = Alarm::default();
        assert_eq!(alarm.ring(5), Some(0));
        assert_eq!(alarm.ring(5), None);
        assert_eq!(alarm.ring(60_004), None);
        assert_eq!(alarm.ring(60_005), Some(2));
        assert_eq!(alarm.ring(60_006), None);
        assert_eq!(alarm.ring(500_000), Some(1));
    }
}
