//! The pace of a job: so many keys a second at most.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// What was not used of the pace for longer than this is lost: after a pause a job does not run faster.
const CREDIT: Duration = Duration::from_millis(100);

/// Lets pass so many keys a second.
#[derive(Debug)]
pub(super) struct Pace {
    /// `None`: any number.
    each: Option<Duration>,
    /// When the next key may pass.
    next: Instant,
}

// === impl Pace ===

impl Pace {
    pub(super) fn new(keys_per_second: u32) -> Self {
        let each = (keys_per_second > 0).then(|| Duration::from_secs(1) / keys_per_second);
        Self { each, next: Instant::now() }
    }

    /// How many keys may pass together, out of a most: what a tenth of a second takes.
    pub(super) fn together(&self, most: usize) -> usize {
        let Some(each) = self.each.filter(|each| !each.is_zero()) else { return most };
        let count = CREDIT.as_nanos() / each.as_nanos();
        usize::try_from(count).unwrap_or(most).clamp(1, most)
    }

    /// Completes when so many keys may pass.
    pub(super) async fn pass(&mut self, keys: usize) {
        if let Some(due) = self.due(keys, Instant::now()) {
            sleep_until(due).await;
        }
    }

    fn due(&mut self, keys: usize, now: Instant) -> Option<Instant> {
        let each = self.each?;
        self.next = self.next.max(now.checked_sub(CREDIT).unwrap_or(now));
        let keys = u32::try_from(keys).unwrap_or(u32::MAX);
        self.next += each.saturating_mul(keys);
        Some(self.next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_keys_pass_than_are_to_also_after_a_pause() {
        let mut pace = Pace::new(100);
        assert_eq!((pace.together(500), Pace::new(0).together(500)), (10, 500));
        assert_eq!(Pace::new(0).due(500, Instant::now()), None);
        let start = pace.next;
        let mut now = start;
        for _ in 0..20 {
            now = pace.due(10, now).unwrap();
        }
        assert_eq!((now - start).as_millis(), 2000);
        let start = now + Duration::from_secs(60);
        now = start;
        for _ in 0..20 {
            now = pace.due(10, now).unwrap();
        }
        assert_eq!((now - start).as_millis(), 1900);
    }
}
