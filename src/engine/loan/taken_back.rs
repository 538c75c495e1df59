//! What a loan has made of a value, as changes of its draft; and by how much the clocks of the two
//! stores differ meanwhile.
//!
//! Only what has changed is written: a field that the requests have left alone stays in Postgres as it
//! is, with the bytes that `extra` keeps for it.

use std::time::Instant;

use bytes::Bytes;

use super::step::Returned;
use crate::value::Draft;

/// How far Redis' clock is ahead of Postgres'.
///
/// An expiry is the same moment on both, if they agree as far as can be told. Else it is shifted, so
/// that what is left of it stays the same: no key may expire because it was lent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct ClockShift {
    pub(super) ms: i64,
}

/// A moment between two that were observed here.
#[derive(Clone, Copy, Debug)]
pub(super) struct Within {
    pub(super) from: Instant,
    pub(super) to: Instant,
}

/// A clock's reading, at some moment within.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reading {
    pub(super) now_ms: i64,
    pub(super) at: Within,
}

// === impl ClockShift ===

impl ClockShift {
    /// The least shift that the readings allow; Postgres' was taken first.
    pub(super) fn between(postgres: Reading, redis: Reading) -> Self {
        let apart = redis.now_ms.saturating_sub(postgres.now_ms);
        let ms = |from: Instant, to: Instant| {
            i64::try_from(to.saturating_duration_since(from).as_millis()).unwrap_or(i64::MAX)
        };
        // Both clocks cut off, and so does the time between.
        let most = apart - ms(postgres.at.to, redis.at.from) + 2;
        let least = apart - ms(postgres.at.from, redis.at.to) - 2;
        Self { ms: if least > 0 { least } else { most.min(0) } }
    }

    pub(super) fn to_redis(self, at_ms: i64) -> i64 {
        at_ms.saturating_add(self.ms)
    }

    pub(super) fn to_postgres(self, at_ms: i64) -> i64 {
        at_ms.saturating_sub(self.ms)
    }
}

/// Brings a draft to what the key holds after the requests.
pub(super) fn take_back(draft: &mut Draft, returned: Returned, shift: ClockShift) {
    let Returned::Value { fields, expires_at_ms } = returned else {
        draft.delete();
        return;
    };
    // What is gone goes last: a draft that loses its last field forgets its expiry.
    let gone: Vec<Bytes> = draft
        .fields()
        .into_iter()
        .flat_map(|before| before.keys())
        .filter(|field| !fields.contains_key(*field))
        .cloned()
        .collect();
    for (field, value) in fields {
        if draft.get(&field) != Some(&value) {
            draft.set(field, value);
        }
    }
    for field in &gone {
        draft.remove(field);
    }
    let lent_until = draft.expires_at_ms().map(|at_ms| shift.to_redis(at_ms));
    if expires_at_ms != lent_until {
        draft.set_expires_at_ms(expires_at_ms.map(|at_ms| shift.to_postgres(at_ms)));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::value::{Delta, Fields, Record, ValueKind};

    fn fields(text: &str) -> Fields {
        let pair = |word: &str| {
            let (field, value) = word.split_once('=').expect("a field and its value");
            (Bytes::from(field.to_owned()), Bytes::from(value.to_owned()))
        };
        text.split_whitespace().map(pair).collect()
    }

    fn draft(text: &str, expires_at_ms: Option<i64>) -> Draft {
        let record = Record { fields: fields(text), expires_at_ms, ..Record::default() };
        Draft::new(ValueKind::Hash, (!text.is_empty()).then_some(record))
    }

    fn value(text: &str, expires_at_ms: Option<i64>) -> Returned {
        Returned::Value { fields: fields(text), expires_at_ms }
    }

    #[test]
    fn only_what_has_changed_is_touched() {
        let shift = ClockShift { ms: 100 };
        let mut same = draft("a=1 b=2", Some(5_000));
        take_back(&mut same, value("b=2 a=1", Some(5_100)), shift);
        assert!(!same.is_changed());

        let mut other = draft("a=1 b=2 c=3", None);
        take_back(&mut other, value("a=1 c=4 d=5", Some(9_100)), shift);
        let set = fields("c=4 d=5").into_iter().collect();
        assert_eq!(other.delta(), Delta::Change { set, removed: vec!["b".into()] });
        assert_eq!(other.expires_at_ms(), Some(9_000));

        let mut none_left = draft("a=1", Some(5_000));
        take_back(&mut none_left, value("b=1", Some(5_100)), shift);
        assert_eq!((none_left.expires_at_ms(), none_left.replaced()), (Some(5_000), false));

        let mut gone = draft("a=1", None);
        take_back(&mut gone, Returned::Absent, shift);
        assert!(gone.is_changed() && !gone.exists());

        let mut new = draft("", None);
        take_back(&mut new, value("a=1", Some(200)), shift);
        assert_eq!((new.fields(), new.expires_at_ms()), (Some(&fields("a=1")), Some(100)));

        let mut nothing = draft("", None);
        take_back(&mut nothing, Returned::Absent, shift);
        assert!(!nothing.is_changed());
    }

    #[test]
    fn clocks_that_may_agree_do() {
        let start = Instant::now();
        let at = |from: u64, to: u64| Within {
            from: start + Duration::from_millis(from),
            to: start + Duration::from_millis(to),
        };
        let shift = |redis_ms| {
            let postgres = Reading { now_ms: 1_000_000, at: at(0, 5) };
            ClockShift::between(postgres, Reading { now_ms: redis_ms, at: at(5, 10) }).ms
        };
        assert_eq!(shift(1_000_005), 0);
        assert_eq!(shift(1_000_012), 0);
        assert_eq!(shift(999_998), 0);
        assert_eq!(shift(1_060_000), 59_988);
        assert_eq!(shift(940_000), -59_998);
    }
}
