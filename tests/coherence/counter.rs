//! Is a key's counter linearizable, and has it lost or repeated an increment?
//!
//! Every increment adds one, so its answer is its place in the order: the answers are different
//! numbers, each greater than any that was known before the increment began. Places that no
//! answer names belong to increments without an answer; there must be enough of them that had
//! begun before anybody saw a number beyond the place. These conditions are exact.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};

use crate::history::{Action, Operation, Violation};

/// The violations in the history of one counter, which was 0 at first. The history should end with a
/// count, so that increments lost last are found too.
pub(crate) fn check(history: &[Operation]) -> Vec<Violation> {
    let mut violations = Vec::new();
    check_order(history, &mut violations);
    check_places(history, &mut violations);
    violations
}

/// What an operation proves the counter to have reached by its end.
fn reached(operation: &Operation) -> Option<i64> {
    match operation.action {
        Action::Increment(reply) => reply,
        Action::Count(value) => Some(value),
        _ => None,
    }
}

/// No answer falls behind what was known when its operation began.
fn check_order(history: &[Operation], violations: &mut Vec<Violation>) {
    let mut operations: Vec<&Operation> =
        history.iter().filter(|operation| reached(operation).is_some()).collect();
    operations.sort_by_key(|operation| operation.span.start_ns);
    let mut under_way: BinaryHeap<Reverse<(u64, usize)>> = BinaryHeap::new();
    let mut greatest: Option<&Operation> = None;
    for (index, operation) in operations.iter().enumerate() {
        while let Some(Reverse((end_ns, ended))) = under_way.peek().copied()
            && end_ns < operation.span.start_ns
        {
            under_way.pop();
            if greatest.is_none_or(|known| reached(known) < reached(operations[ended])) {
                greatest = Some(operations[ended]);
            }
        }
        under_way.push(Reverse((operation.span.end_ns, index)));
        let Some(known) = greatest else { continue };
        let behind = match operation.action {
            Action::Increment(_) => reached(operation) <= reached(known),
            _ => reached(operation) < reached(known),
        };
        if behind {
            violations.push(Violation(format!("lost increment: {operation} came after {known}")));
        }
    }
}

/// Every number up to the greatest is one increment's, and only one's.
fn check_places(history: &[Operation], violations: &mut Vec<Violation>) {
    let mut places = BTreeSet::new();
    for operation in history {
        let Action::Increment(Some(reply)) = operation.action else { continue };
        if reply < 1 {
            violations.push(Violation(format!("lost increment: {operation}")));
        } else if !places.insert(reply) {
            violations.push(Violation(format!("lost increment: {reply} answered twice")));
        }
    }
    let mut unanswered: Vec<u64> = history
        .iter()
        .filter(|operation| operation.action == Action::Increment(None))
        .map(|operation| operation.span.start_ns)
        .collect();
    unanswered.sort_unstable();

    // From the greatest number down: the earliest time by which anybody knew of one beyond a place.
    let mut observations: Vec<(i64, u64)> = history
        .iter()
        .filter_map(|operation| {
            // An answered increment has its own place; what it proves ends one below.
            let below = i64::from(matches!(operation.action, Action::Increment(_)));
            Some((reached(operation)? - below, operation.span.end_ns))
        })
        .collect();
    observations.sort_unstable_by_key(|observation| Reverse(observation.0));
    let greatest = history.iter().filter_map(reached).max().unwrap_or(0);
    let mut known_ns = u64::MAX;
    let mut next = observations.iter().peekable();
    let mut missing: Vec<(i64, u64)> = Vec::new();
    for place in (1..=greatest).rev() {
        while let Some((_, end_ns)) = next.next_if(|observation| observation.0 >= place) {
            known_ns = known_ns.min(*end_ns);
        }
        if !places.contains(&place) {
            missing.push((place, known_ns));
        }
    }
    for (index, (place, known_ns)) in missing.iter().rev().enumerate() {
        let candidates = unanswered.partition_point(|start_ns| start_ns < known_ns);
        if candidates <= index {
            violations.push(Violation(format!(
                "repeated increment: {} numbers up to {place} were never answered, but only \
                 {candidates} unanswered increments had begun by then",
                index + 1
            )));
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{NEVER, Span};

    fn increment(reply: i64, start_ns: u64, end_ns: u64) -> Operation {
        Operation { span: Span { start_ns, end_ns }, action: Action::Increment(Some(reply)) }
    }

    fn unanswered(start_ns: u64) -> Operation {
        Operation { span: Span { start_ns, end_ns: NEVER }, action: Action::Increment(None) }
    }

    fn count(value: i64, start_ns: u64, end_ns: u64) -> Operation {
        Operation { span: Span { start_ns, end_ns }, action: Action::Count(value) }
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
    fn concurrent_increments_may_be_answered_in_either_order() {
        accepts(&[increment(2, 1, 9), increment(1, 2, 8), count(1, 3, 7), count(2, 10, 11)]);
    }

    #[test]
    fn a_lost_increment_is_found() {
        refuses(&[increment(1, 1, 2), increment(2, 3, 4), count(1, 5, 6)], "lost increment");
        refuses(&[increment(1, 1, 2), increment(1, 3, 4), count(1, 5, 6)], "lost increment");
        refuses(&[increment(1, 1, 9), increment(1, 2, 8), count(1, 10, 11)], "answered twice");
        refuses(&[increment(2, 1, 2), increment(1, 3, 4), count(2, 5, 6)], "lost increment");
    }

    #[test]
    fn a_count_may_not_fall_behind_another_that_ended_before() {
        refuses(&[increment(1, 1, 20), count(1, 2, 3), count(0, 4, 5)], "lost increment");
        accepts(&[increment(1, 1, 20), count(1, 2, 6), count(0, 4, 5)]);
    }

    #[test]
    fn a_count_cannot_run_ahead_of_the_increments() {
        refuses(&[increment(1, 1, 2), count(2, 3, 4)], "repeated increment");
        refuses(&[count(1, 1, 2), increment(1, 3, 4)], "lost increment");
    }

    #[test]
    fn an_increment_without_an_answer_counts_once_or_not_at_all() {
        accepts(&[unanswered(1), increment(1, 2, 3), count(1, 4, 5)]);
        accepts(&[unanswered(1), increment(2, 2, 3), count(2, 4, 5)]);
        refuses(&[unanswered(1), increment(3, 2, 3), count(3, 4, 5)], "repeated increment");
        refuses(&[increment(2, 2, 3), unanswered(4), count(2, 6, 7)], "repeated increment");
        refuses(&[unanswered(1), increment(2, 2, 3), count(3, 6, 7)], "repeated increment");
        accepts(&[unanswered(1), increment(2, 2, 3), unanswered(4), count(3, 6, 7)]);
    }
}
