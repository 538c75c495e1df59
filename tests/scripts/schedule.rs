//! Very many schedules by chance: no copy is ever older than its row. And with each piece of the
//! protocol taken away, the same schedules find one that is.

use respgres::upstream::scripts::Script;

use crate::blocking::Blocking;
use crate::world::{Mutant, Seen, World};

const STEPS: usize = 400;
const SCHEDULES: u64 = 1200;
/// A mutant that lives so long would live for ever.
const MOST_SCHEDULES: u64 = 3000;

/// The story of the first schedule that goes wrong, if one does.
fn search(mutant: Mutant, schedules: u64) -> (Option<String>, Seen) {
    let mut redis = Blocking::start();
    let mut seen = Seen::default();
    for seed in 0..schedules {
        let mut world = World::new(&mut redis, seed, mutant);
        let result = world.play(STEPS);
        seen.fills += world.seen.fills;
        seen.restored += world.seen.restored;
        seen.absent += world.seen.absent;
        seen.late += world.seen.late;
        if let Err(text) = result {
            let from = world.told.len().saturating_sub(40);
            let story = world.told[from..].join("\n");
            return (Some(format!("seed {seed}: {text}\n{story}")), seen);
        }
    }
    (None, seen)
}

#[test]
fn no_copy_is_ever_older_than_its_row() {
    let (violation, seen) = search(Mutant::None, SCHEDULES);
    assert!(violation.is_none(), "{}", violation.unwrap_or_default());
    // It came to all that matters.
    for times in [seen.fills, seen.restored, seen.absent, seen.late] {
        assert!(times > SCHEDULES / 5, "{seen:?}");
    }
}

fn dies(mutant: Mutant) {
    let (violation, seen) = search(mutant, MOST_SCHEDULES);
    assert!(violation.is_some(), "{mutant:?} was not found out; {seen:?}");
}

#[test]
fn without_waiting_for_begin_copies_get_old() {
    dies(Mutant::CommitFirst);
}

#[test]
fn without_the_probe_copies_get_old() {
    dies(Mutant::NoProbe);
}

#[test]
fn with_the_probe_after_the_row_copies_get_old() {
    dies(Mutant::ProbeLate);
}

#[test]
fn with_begin_before_the_lock_copies_get_old() {
    dies(Mutant::BeginUnlocked);
}

#[test]
fn with_calls_sent_twice_copies_get_old() {
    dies(Mutant::SameToken);
}

#[test]
fn without_voiding_a_readers_mark_copies_get_old() {
    let from = "  redis.call('SET', KEYS[i + 1], ARGV[1], 'PX', ARGV[2])";
    let to = "  if not redis.call('GET', KEYS[i + 1]) then redis.call('SET', KEYS[i + 1], ARGV[1], 'PX', ARGV[2]) end";
    dies(Mutant::Script(Script::Begin, from, to));
}

#[test]
fn without_setting_the_copy_aside_copies_get_old() {
    dies(Mutant::Script(
        Script::Begin,
        "redis.call('RENAME', KEYS[i], KEYS[i + 2])",
        "local x = 1",
    ));
}

#[test]
fn with_something_left_aside_copies_get_old() {
    dies(Mutant::Script(Script::Begin, "  redis.call('DEL', KEYS[i + 2])\n", ""));
}

#[test]
fn with_an_end_for_anybody_copies_get_old() {
    let from = "if redis.call('GET', mark) == ARGV[1] then";
    dies(Mutant::Script(Script::End, from, "if true then"));
}

#[test]
fn with_a_fill_for_anybody_copies_get_old() {
    dies(Mutant::Script(Script::Fill, "~= ARGV[1] then", "== 'never' then"));
}

#[test]
fn marks_are_a_matter_of_speed_where_the_lock_protects() {
    // A COMMIT in doubt is ended as if it had been refused; a lease is given over a writer's mark. The
    // probe keeps readers off all the same.
    let lease = Mutant::Script(
        Script::Miss,
        "if not mark then",
        "if not mark or string.sub(mark, 1, 2) == 'w:' then",
    );
    for mutant in [Mutant::EndInDoubt, lease] {
        let (violation, _) = search(mutant, SCHEDULES);
        assert!(violation.is_none(), "{}", violation.unwrap_or_default());
    }
}
