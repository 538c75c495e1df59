//! Is a key's register linearizable?
//!
//! Every write writes another value, so the question has an exact and fast answer (Gibbons and
//! Korach, "Testing shared memories", 1997; zones as in Golab, Li and Shah, "Analyzing consistency
//! properties for fun and profit", 2011). Of each value take `known`, when the first operation that
//! wrote or saw it ended, and `needed`, when the last one that wrote or saw it began.
//! - `known < needed`: the register held the value all that time (a forward zone). Two such zones
//!   must not overlap.
//! - Otherwise it was held for a moment somewhere in `[needed, known]` (a backward zone). That must
//!   not lie wholly within the forward zone of another value.
//!
//! Deletes do not write unique values, so absence is checked by rules of its own: an answered
//! delete and a read of nothing are each a moment without a value, which must not lie wholly
//! within a forward zone; and a read of nothing needs a delete (or the start of the run) after which
//! no value is certain to have been written before the read. That finds stale reads before, after
//! and through deletes; it does not try to tell which delete it was that a read of nothing saw.
//!
//! A write without an answer may count or not: it counts from the moment somebody saw its value.
//! Operations that touch in the same nanosecond are taken as concurrent.

use std::collections::HashMap;

use crate::history::{Action, Operation, Version, Violation};

/// All operations that wrote or saw one value.
struct Zone {
    write: Operation,
    /// The operation that ended first.
    known: Operation,
    /// The operation that began last.
    needed: Operation,
}

impl Zone {
    fn is_forward(&self) -> bool {
        self.known.span.end_ns < self.needed.span.start_ns
    }
}

/// The violations in the history of one key's register, in which it was absent at first.
pub fn check(history: &[Operation]) -> Vec<Violation> {
    let mut violations = Vec::new();
    let zones = zones(history, &mut violations);
    let (mut forward, backward): (Vec<&Zone>, Vec<&Zone>) =
        zones.iter().partition(|zone| zone.is_forward());
    forward.sort_by_key(|zone| zone.known.span.end_ns);

    check_overlaps(&forward, &mut violations);
    for zone in backward {
        if let Some(outer) = holder(&forward, zone.needed.span.start_ns, zone.known.span.end_ns) {
            violations.push(Violation(format!(
                "stale read: {} and {} lie between {} and {}",
                zone.needed, zone.known, outer.known, outer.needed
            )));
        }
    }
    for moment in history.iter().filter(|operation| {
        matches!(operation.action, Action::Delete | Action::Read(None)) && operation.is_answered()
    }) {
        if let Some(outer) = holder(&forward, moment.span.start_ns, moment.span.end_ns) {
            violations.push(Violation(format!(
                "stale read: {moment} lies between {} and {}",
                outer.known, outer.needed
            )));
        }
    }
    check_absence(history, &zones, &mut violations);
    violations
}

fn zones(history: &[Operation], violations: &mut Vec<Violation>) -> Vec<Zone> {
    let mut zones: HashMap<Version, Zone> = HashMap::new();
    for operation in history {
        if let Action::Write(version) = operation.action {
            let zone = Zone { write: *operation, known: *operation, needed: *operation };
            assert!(zones.insert(version, zone).is_none(), "two writes of {}", version.text());
        }
    }
    for operation in history {
        let Action::Read(Some(version)) = operation.action else { continue };
        let Some(zone) = zones.get_mut(&version) else {
            violations.push(Violation(format!("a value that nobody wrote: {operation}")));
            continue;
        };
        if operation.span.end_ns < zone.write.span.start_ns {
            violations.push(Violation(format!("{operation} came before {}", zone.write)));
        }
        if operation.span.end_ns < zone.known.span.end_ns {
            zone.known = *operation;
        }
        if operation.span.start_ns > zone.needed.span.start_ns {
            zone.needed = *operation;
        }
    }
    zones.into_values().collect()
}

/// `forward` is sorted by the time from which the value was known.
fn check_overlaps(forward: &[&Zone], violations: &mut Vec<Violation>) {
    let mut longest: Option<&Zone> = None;
    for zone in forward {
        if let Some(earlier) = longest
            && zone.known.span.end_ns < earlier.needed.span.start_ns
        {
            violations.push(Violation(format!(
                "stale read: the value was there from {} to {}, the other one from {} to {}",
                earlier.known, earlier.needed, zone.known, zone.needed
            )));
        }
        if longest
            .is_none_or(|earlier| earlier.needed.span.start_ns < zone.needed.span.start_ns)
        {
            longest = Some(zone);
        }
    }
}

/// The forward zone that wholly contains the time from `start_ns` to `end_ns`. Of overlapping zones
/// (a violation by themselves) it looks at the latest only.
fn holder<'a>(forward: &[&'a Zone], start_ns: u64, end_ns: u64) -> Option<&'a Zone> {
    let after = forward.partition_point(|zone| zone.known.span.end_ns < start_ns);
    let zone = forward[..after].last()?;
    (end_ns < zone.needed.span.start_ns).then_some(zone)
}

/// Each read of nothing needs a delete, or the start, with no certain write in between.
fn check_absence(history: &[Operation], zones: &[Zone], violations: &mut Vec<Violation>) {
    let mut deletes: Vec<&Operation> =
        history.iter().filter(|operation| operation.action == Action::Delete).collect();
    deletes.sort_by_key(|operation| operation.span.start_ns);
    let latest_end = running_maximum(deletes.iter().map(|operation| operation.span.end_ns));

    let mut certain: Vec<&Zone> = zones.iter().collect();
    certain.sort_by_key(|zone| zone.known.span.end_ns);
    let mut latest: Vec<&Zone> = Vec::with_capacity(certain.len());
    for zone in &certain {
        let best = latest.last().copied().unwrap_or(zone);
        let later = zone.write.span.start_ns > best.write.span.start_ns;
        latest.push(if later { zone } else { best });
    }

    for read in history.iter().filter(|operation| operation.action == Action::Read(None)) {
        let begun = deletes.partition_point(|delete| delete.span.start_ns < read.span.end_ns);
        let absent_until = begun.checked_sub(1).map_or(0, |last| latest_end[last]);
        let known = certain.partition_point(|zone| zone.known.span.end_ns < read.span.start_ns);
        let Some(zone) = known.checked_sub(1).map(|last| latest[last]) else { continue };
        if zone.write.span.start_ns > absent_until {
            violations.push(Violation(format!(
                "lost write: {read} came after {}, and no delete explains it",
                zone.write
            )));
        }
    }
}

fn running_maximum(values: impl Iterator<Item = u64>) -> Vec<u64> {
    let mut maximum = 0;
    values
        .map(|value| {
            maximum = value.max(maximum);
            maximum
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{NEVER, Span};

    fn version(serial: u32) -> Version {
        Version { client: 0, serial }
    }

    fn write(serial: u32, start_ns: u64, end_ns: u64) -> Operation {
        Operation { span: Span { start_ns, end_ns }, action: Action::Write(version(serial)) }
    }

    fn read(serial: u32, start_ns: u64, end_ns: u64) -> Operation {
        Operation { span: Span { start_ns, end_ns }, action: Action::Read(Some(version(serial))) }
    }

    fn nothing(start_ns: u64, end_ns: u64) -> Operation {
        Operation { span: Span { start_ns, end_ns }, action: Action::Read(None) }
    }

    fn delete(start_ns: u64, end_ns: u64) -> Operation {
        Operation { span: Span { start_ns, end_ns }, action: Action::Delete }
    }

    #[track_caller]
    fn accepts(history: &[Operation]) {
        assert_eq!(check(history), []);
    }

    #[track_caller]
    fn refuses(history: &[Operation], part: &str) {
        let violations = check(history);
        assert!(
            violations.iter().any(|violation| violation.0.contains(part)),
            "no {part:?} in {violations:?}"
        );
    }

    #[test]
    fn a_read_may_see_either_of_two_concurrent_writes_in_one_order() {
        accepts(&[write(1, 1, 10), write(2, 2, 10), read(1, 3, 4), read(2, 5, 6), read(2, 20, 21)]);
        accepts(&[write(1, 1, 10), write(2, 2, 10), read(2, 3, 4), read(1, 5, 6), read(1, 20, 21)]);
        refuses(
            &[write(1, 1, 10), write(2, 2, 10), read(2, 3, 4), read(1, 5, 6), read(2, 20, 21)],
            "stale read",
        );
    }

    #[test]
    fn an_old_value_after_an_acknowledged_write_is_stale() {
        refuses(&[write(1, 1, 2), write(2, 3, 4), read(1, 5, 6)], "stale read");
        accepts(&[write(1, 1, 2), write(2, 3, 6), read(1, 5, 7)]);
    }

    #[test]
    fn nobody_goes_back_behind_what_another_has_seen() {
        refuses(&[write(1, 1, 2), write(2, 3, 20), read(2, 5, 6), read(1, 7, 8)], "stale read");
        accepts(&[write(1, 1, 2), write(2, 3, 20), read(2, 5, 8), read(1, 7, 9)]);
    }

    #[test]
    fn a_write_without_an_answer_may_happen_late_or_never_but_not_twice() {
        accepts(&[write(1, 1, 2), write(2, 3, NEVER), read(1, 50, 51)]);
        accepts(&[write(1, 1, 2), write(2, 3, NEVER), read(1, 50, 51), read(2, 60, 61)]);
        refuses(
            &[write(1, 1, 2), write(2, 3, NEVER), read(2, 50, 51), read(1, 60, 61)],
            "stale read",
        );
        refuses(
            &[write(2, 3, NEVER), read(2, 50, 51), write(1, 55, 56), read(1, 57, 58), read(2, 60, 61)],
            "stale read",
        );
    }

    #[test]
    fn a_read_cannot_come_before_its_write_nor_see_what_nobody_wrote() {
        refuses(&[read(1, 1, 2), write(1, 3, 4)], "came before");
        refuses(&[write(1, 3, 4), read(9, 5, 6)], "nobody wrote");
    }

    #[test]
    fn a_delete_is_not_undone() {
        refuses(&[write(1, 1, 2), delete(3, 4), read(1, 5, 6)], "stale read");
        accepts(&[write(1, 1, 2), delete(3, 8), read(1, 5, 6), nothing(9, 10)]);
        accepts(&[write(1, 1, 2), delete(3, NEVER), read(1, 5, 6), nothing(9, 10)]);
        refuses(
            &[write(1, 1, 2), delete(3, NEVER), nothing(5, 6), read(1, 7, 8)],
            "stale read",
        );
    }

    #[test]
    fn nothing_is_only_read_where_nothing_was() {
        accepts(&[nothing(1, 2), write(1, 1, 4), delete(5, 6), nothing(7, 8)]);
        refuses(&[write(1, 1, 2), nothing(3, 4)], "no delete explains it");
        refuses(&[write(1, 1, 2), delete(3, 4), write(2, 5, 6), nothing(7, 8)], "no delete");
        refuses(&[write(1, 1, 9), read(1, 2, 3), nothing(4, 5)], "no delete explains it");
        accepts(&[write(1, 1, 2), delete(3, 9), write(2, 5, 6), nothing(7, 8)]);
        accepts(&[write(1, 1, 2), delete(3, NEVER), write(2, 5, 6), nothing(7, 8)]);
    }
}
