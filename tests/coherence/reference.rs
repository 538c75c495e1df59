//! The checkers against the definition: small random histories, all orders tried.
//!
//! A history is linearizable when some order of its operations, in which none comes before another
//! that had ended before it began, is one that a single Redis could have answered. Unanswered
//! changes may be left out.

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

use crate::history::{Action, NEVER, Operation, Span, Version};
use crate::{counter, register};

/// What one key of a single Redis holds.
#[derive(Clone, Copy, Default)]
struct State {
    register: Option<Version>,
    counter: i64,
}

/// Tries every order.
fn is_linearizable(state: State, left: &[Operation]) -> bool {
    if left.iter().all(|operation| !operation.is_answered()) {
        return true;
    }
    let first_end = left.iter().map(|operation| operation.span.end_ns).min().unwrap_or(NEVER);
    (0..left.len()).filter(|index| left[*index].span.start_ns <= first_end).any(|index| {
        let Some(next) = step(state, left[index].action) else { return false };
        let mut rest = left.to_vec();
        rest.remove(index);
        is_linearizable(next, &rest)
    })
}

/// The state afterwards; `None` when a single Redis would have answered otherwise.
fn step(mut state: State, action: Action) -> Option<State> {
    let possible = match action {
        Action::Write(version) => {
            state.register = Some(version);
            true
        }
        Action::Delete => {
            state.register = None;
            true
        }
        Action::Read(seen) => seen == state.register,
        Action::Increment(reply) => {
            state.counter += 1;
            reply.is_none_or(|reply| reply == state.counter)
        }
        Action::Count(value) => value == state.counter,
    };
    possible.then_some(state)
}

fn version(serial: u32) -> Version {
    Version { client: 0, serial }
}

/// Up to seven operations within fourteen ticks; each place writes a version of its own.
fn histories(action: impl Strategy<Value = Action>) -> impl Strategy<Value = Vec<Operation>> {
    let operation = (action, 1..14_u64, 1..8_u64, prop::bool::weighted(0.2));
    prop::collection::vec(operation, 1..8).prop_map(|operations| {
        let number = |(serial, (action, start, length, is_lost))| {
            let action = match action {
                Action::Write(_) => Action::Write(version(serial)),
                other => other,
            };
            let is_read = matches!(action, Action::Read(_) | Action::Count(_));
            let action = match action {
                Action::Increment(_) if is_lost => Action::Increment(None),
                other => other,
            };
            // Twice the tick, odd ends: no two operations touch.
            let start_ns = 2 * start;
            let end_ns = if is_lost && !is_read { NEVER } else { start_ns + 2 * length - 1 };
            Operation { span: Span { start_ns, end_ns }, action }
        };
        (0..).zip(operations).map(number).collect()
    })
}

fn histories_with_deletes() -> impl Strategy<Value = Vec<Operation>> {
    histories(prop_oneof![
        2 => Just(Action::Write(version(0))),
        1 => Just(Action::Delete),
        1 => Just(Action::Read(None)),
        2 => (0..4_u32).prop_map(|serial| Action::Read(Some(version(serial)))),
    ])
}

#[test]
fn the_register_checker_misses_next_to_nothing_over_deletes() {
    let mut runner = TestRunner::deterministic();
    let (mut bad, mut missed) = (0, 0);
    for _ in 0..20_000 {
        let history = histories_with_deletes().new_tree(&mut runner).expect("no filter").current();
        if !is_linearizable(State::default(), &history) {
            bad += 1;
            missed += usize::from(register::check(&history).is_empty());
        }
    }
    assert!(bad > 5_000 && missed * 1000 < bad, "missed {missed} of {bad}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]

    #[test]
    fn the_register_checker_agrees_with_the_definition(history in histories(prop_oneof![
        2 => Just(Action::Write(version(0))),
        3 => (0..4_u32).prop_map(|serial| Action::Read(Some(version(serial)))),
    ])) {
        let is_good = register::check(&history).is_empty();
        prop_assert_eq!(is_good, is_linearizable(State::default(), &history));
    }

    #[test]
    fn the_register_checker_accuses_nobody_falsely_over_deletes(history in histories_with_deletes()) {
        if is_linearizable(State::default(), &history) {
            prop_assert_eq!(register::check(&history), []);
        }
    }

    #[test]
    fn the_counter_checker_agrees_with_the_definition(history in histories(prop_oneof![
        3 => (1..5_i64).prop_map(|reply| Action::Increment(Some(reply))),
        2 => (0..4_i64).prop_map(Action::Count),
    ])) {
        let is_good = counter::check(&history).is_empty();
        prop_assert_eq!(is_good, is_linearizable(State::default(), &history));
    }
}
