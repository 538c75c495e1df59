//! The cache protocol as a model, explored exhaustively: every order in which the steps of several writers,
//! readers, a flusher and others may come, with crashes, late messages, evictions and restarts.
//!
//! A protocol with one piece left out (a `Mutant`) has to be found wrong: so the checker is known to look.
//! `RESPGRES_MODEL_FAULTS` says how many crashes and how many evictions a run may have; `make check-model`
//! asks for more than one.

mod history;
mod mutant;
mod redis;
mod scene;
mod world;

use std::time::Instant;

use stateright::{Checker, HasDiscoveries, Model};

use history::Operation::{Delete, Increment};
use mutant::Mutant;
use scene::{Origin, Scene};

/// Crashes, and evictions, that a run may have.
fn faults() -> u8 {
    let text = std::env::var("RESPGRES_MODEL_FAULTS").unwrap_or_else(|_| "1".to_owned());
    let faults = text.parse().ok().filter(|&faults| faults > 0);
    faults.expect("RESPGRES_MODEL_FAULTS is a number from 1 to 9")
}

#[expect(clippy::print_stdout, reason = "the count of states is what one wants to know of a run")]
fn holds(name: &str, scene: Scene) {
    let since = Instant::now();
    let checker = scene.checker().threads(2).spawn_bfs().join();
    println!(
        "{name}: {} states, {} of them different, {:.1} s",
        checker.state_count(),
        checker.unique_state_count(),
        since.elapsed().as_secs_f32()
    );
    checker.assert_properties();
}

/// Without the piece something goes wrong.
fn is_caught(scene: Scene, mutant: Mutant) {
    let scene = Scene { mutant: Some(mutant), ..scene };
    let checker = scene.checker().threads(2).finish_when(HasDiscoveries::AnyFailures).spawn_bfs();
    let checker = checker.join();
    let found = checker.discoveries().into_keys().any(|name| !name.starts_with("everything"));
    assert!(found, "{mutant:?}: nothing was found in {} states", checker.unique_state_count());
}

fn two_writers() -> Scene {
    Scene {
        throughs: vec![Increment(1), Delete(2)],
        readers: vec![2, 1],
        cached: true,
        crashes: faults(),
        evictions: faults(),
        ..Scene::default()
    }
}

fn through_and_behind() -> Scene {
    Scene {
        throughs: vec![Increment(1)],
        behinds: vec![Increment(2)],
        readers: vec![2],
        cached: true,
        crashes: faults(),
        evictions: faults(),
        ..Scene::default()
    }
}

fn two_behind() -> Scene {
    Scene {
        behinds: vec![Delete(1), Increment(2)],
        readers: vec![1],
        cached: true,
        crashes: faults() + 1,
        evictions: faults(),
        ..Scene::default()
    }
}

fn with_an_external_writer() -> Scene {
    Scene {
        throughs: vec![Increment(1)],
        external: Some(Increment(2)),
        readers: vec![2],
        cached: true,
        crashes: faults(),
        evictions: faults(),
        ..Scene::default()
    }
}

fn behind_and_external() -> Scene {
    Scene {
        behinds: vec![Increment(1)],
        external: Some(Increment(2)),
        readers: vec![2],
        cached: true,
        crashes: faults(),
        evictions: faults(),
        ..Scene::default()
    }
}

fn restarts() -> Scene {
    Scene {
        throughs: vec![Increment(1)],
        behinds: vec![Increment(2)],
        readers: vec![2],
        cached: true,
        crashes: faults(),
        restarts: 1,
        ..Scene::default()
    }
}

/// Two who have lost Postgres, beside one who has not; Redis does not have the value.
fn parts() -> Scene {
    Scene {
        throughs: vec![Increment(1)],
        behinds: vec![Increment(2), Increment(3)],
        readers: vec![2],
        makes_parts: true,
        crashes: faults(),
        evictions: faults(),
        ..Scene::default()
    }
}

/// Redis comes back empty, then with what it had before that.
fn two_restarts() -> Scene {
    Scene {
        throughs: vec![Increment(1)],
        behinds: vec![Increment(2)],
        readers: vec![2],
        cached: true,
        restarts: 2,
        ..Scene::default()
    }
}

/// Only Redis has the key.
fn original() -> Scene {
    Scene {
        throughs: vec![Increment(1), Delete(2)],
        readers: vec![2],
        imports: Some(Origin::Redis),
        crashes: faults(),
        evictions: faults(),
        ..Scene::default()
    }
}

fn original_and_behind() -> Scene {
    Scene {
        throughs: vec![Increment(1)],
        behinds: vec![Increment(2)],
        external: Some(Delete(3)),
        readers: vec![1],
        imports: Some(Origin::Redis),
        crashes: faults(),
        ..Scene::default()
    }
}

fn original_and_restarts() -> Scene {
    Scene {
        throughs: vec![Delete(1), Increment(2)],
        readers: vec![1],
        imports: Some(Origin::Redis),
        crashes: faults(),
        restarts: 1,
        ..Scene::default()
    }
}

fn copy_while_others_import() -> Scene {
    Scene {
        throughs: vec![Increment(1)],
        external: Some(Delete(2)),
        readers: vec![2],
        imports: Some(Origin::Postgres),
        crashes: faults(),
        evictions: faults(),
        ..Scene::default()
    }
}

fn new_key_while_others_are_imported() -> Scene {
    Scene {
        throughs: vec![Increment(1)],
        behinds: vec![Increment(2)],
        readers: vec![2],
        imports: Some(Origin::Nowhere),
        crashes: faults(),
        evictions: faults(),
        ..Scene::default()
    }
}

#[test]
fn a_key_that_only_redis_has_is_never_lost_nor_imported_twice() {
    holds("original", original());
    holds("original and behind", original_and_behind());
    holds("original and restarts", original_and_restarts());
    holds("copy while others import", copy_while_others_import());
    holds("new key while others are imported", new_key_while_others_are_imported());
}

#[test]
fn two_writers_and_two_readers_agree() {
    holds("two writers", two_writers());
}

#[test]
fn a_writer_through_and_one_behind_agree() {
    holds("through and behind", through_and_behind());
}

#[test]
fn two_writers_behind_agree() {
    holds("two behind", two_behind());
}

#[test]
fn parts_of_a_value_are_merged_once_and_go() {
    holds("parts", parts());
}

#[test]
fn a_change_by_sql_is_seen_once_its_outbox_row_is_gone() {
    holds("external", with_an_external_writer());
    holds("behind and external", behind_and_external());
}

#[test]
fn a_redis_that_comes_back_empty_or_old_is_not_believed() {
    holds("restarts", restarts());
    holds("two restarts", two_restarts());
}

#[test]
fn every_piece_of_the_protocol_is_needed() {
    use Mutant::*;
    for (mutant, scene) in [
        (BeginIgnoresDirty, through_and_behind()),
        (BeginLeavesTheMark, two_writers()),
        (BeginLeavesTheValue, two_writers()),
        (EndIgnoresTheToken, two_writers()),
        (MissTakesTheMark, two_behind()),
        (FillIgnoresTheToken, two_writers()),
        (BehindWithoutLoading, through_and_behind()),
        (CleanIgnoresTheId, two_behind()),
        (WriteWithoutLock, two_writers()),
        (BeginBeforeLock, two_writers()),
        (CommitBeforeBegun, two_writers()),
        (FillWithoutProbe, two_writers()),
        (ProbeAfterSelect, two_writers()),
        (FlushWithoutCheck, restarts()),
        (AppliedNotStored, two_behind()),
        (OutboxIgnoresDirty, behind_and_external()),
        (NoSweep, restarts()),
        (SweepKeepsAnyDirty, two_restarts()),
        (PartForgotten, parts()),
        (PartAsImage, parts()),
        (CleanKeepsThePart, parts()),
        (WriteWithoutImport, original()),
        (BehindWithoutImport, original_and_behind()),
        (ImportWithoutLock, original()),
        (ImportIgnoresTheMark, new_key_while_others_are_imported()),
        (ImportIgnoresTheOutbox, copy_while_others_import()),
        (MovedForgotten, original_and_restarts()),
        (SweepDropsOriginals, original_and_restarts()),
    ] {
        is_caught(scene, mutant);
    }
}

/// The whole cast in one run: more of it takes more than one has the patience for, so it has one fault less.
fn everybody() -> Scene {
    Scene {
        throughs: vec![Increment(1), Increment(2)],
        behinds: vec![Increment(3)],
        external: Some(Increment(4)),
        readers: vec![1; usize::from(faults())],
        cached: true,
        crashes: faults() - 1,
        ..Scene::default()
    }
}

#[test]
fn everybody_agrees() {
    holds("everybody", everybody());
}
