//! Mappings whose tables have lately not answered in time (a lock that somebody holds, for example),
//! so that those who wait for other tables do not wait for them over and over.
//!
//! After the first time a mapping's operations are given less time; after `STRIKES` of them in a row
//! they are refused at once, but for one every `PAUSE` that finds out whether the table is back.

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// Operations that run out of time one after the other before the rest is refused.
const STRIKES: u32 = 3;

/// How often a mapping that is refused gets another chance.
const PAUSE: Duration = Duration::from_secs(1);

/// Part of the statement timeout that a second try gets, and its least.
const HURRY_PART: u64 = 20;
const HURRY_LEAST_MS: u64 = 100;

/// By `Mapping::index`.
#[derive(Debug, Default)]
pub struct Slow(HashMap<usize, Strikes>);

#[derive(Debug)]
struct Strikes {
    count: u32,
    next_trial: Instant,
}

/// What is to be done with an operation on a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Do it.
    Usual,
    /// Do it, with less time.
    Hurry,
    /// Do this one, alone and with less time: it is to find out whether the table is back.
    Trial,
    Refuse,
}

/// How long a statement may take whose kind has just run out of time.
pub fn hurry_ms(statement_timeout_ms: u64) -> u64 {
    (statement_timeout_ms / HURRY_PART).max(HURRY_LEAST_MS).min(statement_timeout_ms)
}

// === impl Slow ===

impl Slow {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// An operation on the mapping has run out of time.
    pub fn strike(&mut self, mapping: usize, now: Instant) {
        let strikes = self.0.entry(mapping).or_insert(Strikes { count: 0, next_trial: now });
        strikes.count += 1;
        strikes.next_trial = now + PAUSE;
    }

    /// An operation on the mapping was done.
    pub fn clear(&mut self, mapping: usize) {
        self.0.remove(&mapping);
    }

    /// Whether operations on the mapping are refused for now.
    pub fn refuses(&self, mapping: usize, now: Instant) -> bool {
        let strikes = self.0.get(&mapping);
        strikes.is_some_and(|strikes| strikes.count >= STRIKES && now < strikes.next_trial)
    }

    /// What to do with the next operation on the mapping.
    pub fn judge(&mut self, mapping: usize, now: Instant) -> Verdict {
        match self.0.get_mut(&mapping) {
            None => Verdict::Usual,
            Some(strikes) if strikes.count < STRIKES => Verdict::Hurry,
            Some(strikes) if now >= strikes.next_trial => {
                strikes.next_trial = now + PAUSE;
                Verdict::Trial
            }
            Some(_) => Verdict::Refuse,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mapping_that_is_slow_is_tried_now_and_then_until_it_is_back() {
        let now = Instant::now();
        let mut slow = Slow::default();
        assert_eq!(slow.judge(1, now), Verdict::Usual);
        slow.strike(1, now);
        assert_eq!(slow.judge(1, now), Verdict::Hurry);
        slow.strike(1, now);
        slow.strike(1, now);
        assert_eq!(slow.judge(1, now), Verdict::Refuse);
        assert!(slow.refuses(1, now) && !slow.refuses(2, now));
        assert_eq!(slow.judge(2, now), Verdict::Usual);
        let later = now + PAUSE;
        assert_eq!(slow.judge(1, later), Verdict::Trial);
        assert_eq!(slow.judge(1, later), Verdict::Refuse);
        slow.clear(1);
        assert_eq!(slow.judge(1, later), Verdict::Usual);
        assert!(slow.is_empty());
    }

    #[test]
    fn a_second_try_gets_less_time_but_some() {
        assert_eq!(hurry_ms(5000), 250);
        assert_eq!(hurry_ms(1000), 100);
        assert_eq!(hurry_ms(50), 50);
    }
}
