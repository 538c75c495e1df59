//! Keys made by random patterns: what is proposed for them takes them all, each by one mapping of its kind.

use proptest::prelude::*;

use super::sampler::Sampling;
use super::tree::{HeldType, Names};
use super::{Proposal, propose_for, read};
use crate::config::{Kind, RedisUrl};
use crate::mapping::overlap::{self, Claim};
use crate::mapping::pattern::CaptureKind;
use crate::mapping::registry::Plan;

/// A part of a made-up family's keys.
#[derive(Clone, Debug)]
enum Piece {
    Word(String),
    Value(CaptureKind),
}

#[derive(Clone, Debug)]
struct Made {
    held: HeldType,
    pieces: Vec<Piece>,
    keys: usize,
}

fn made(first: impl Strategy<Value = String>) -> impl Strategy<Value = Made> {
    use CaptureKind::{Date, Int, Month, Slug, Text, Uuid};
    let held = prop::sample::select(vec![HeldType::Hash, HeldType::Set, HeldType::String]);
    let word = prop::sample::select(vec!["a", "index", "daily", "all", "x-y", "{t}", "v2"]);
    let piece = prop_oneof![
        word.prop_map(|word| Piece::Word(word.to_owned())),
        prop::sample::select(vec![Uuid, Int, Date, Month, Slug, Text]).prop_map(Piece::Value),
    ];
    (held, first, prop::collection::vec(piece, 1..4), 8..40_usize).prop_map(
        |(held, first, mut pieces, keys)| {
            pieces.insert(0, Piece::Word(first));
            Made { held, pieces, keys }
        },
    )
}

impl Made {
    fn keys(&self) -> Vec<String> {
        (0..self.keys).map(|number| self.key(number)).collect()
    }

    fn key(&self, number: usize) -> String {
        let pieces = self.pieces.iter().enumerate().map(|(at, piece)| match piece {
            Piece::Word(word) => word.clone(),
            // Values of one place differ from key to key, and from those of other places.
            Piece::Value(kind) => value(*kind, number * 7 + at),
        });
        pieces.collect::<Vec<_>>().join(":")
    }

    fn kinds(&self) -> Vec<CaptureKind> {
        let kinds = self.pieces.iter().filter_map(|piece| match piece {
            Piece::Word(_) => None,
            Piece::Value(kind) => Some(*kind),
        });
        kinds.collect()
    }
}

fn value(kind: CaptureKind, number: usize) -> String {
    let letters: String = number.to_string().bytes().map(|byte| char::from(byte + 49)).collect();
    match kind {
        CaptureKind::Uuid => format!("{number:08x}-5b7a-4c2d-9e8f-0123456789ab"),
        CaptureKind::Int => (number + 100).to_string(),
        CaptureKind::Date => format!("2026-{:02}-{:02}", 1 + number % 12, 1 + number % 28),
        CaptureKind::Month => format!("{:04}-{:02}", 1900 + number, 1 + number % 12),
        CaptureKind::Slug => letters,
        CaptureKind::Text | CaptureKind::Path | CaptureKind::Rest => format!("{letters} Ä{number}"),
    }
}

fn proposal(families: &[Made]) -> Proposal {
    let mut names = Names::new(20);
    for family in families {
        family.keys().iter().for_each(|key| names.add(key.as_bytes(), family.held));
    }
    for tree in names.trees.values_mut() {
        tree.each_end(&mut |end| {
            for _ in 0..end.samples.len() {
                end.profile.see_key(-1, 2, true);
                end.profile.see_field(&"name".into(), b"demo");
                end.profile.see_field(&"order".into(), b"17");
            }
        });
    }
    let sampling = Sampling {
        address: RedisUrl::parse("redis://localhost").unwrap(),
        database: 0,
        rate: 1,
        limit: 0,
        samples: 20,
        timeout_ms: 1,
    };
    propose_for(names, 0, Vec::new(), &sampling).unwrap_or_else(|problems| panic!("{problems}"))
}

/// The mapping that the registry would find for a key.
fn find<'a>(plans: &'a [Plan], key: &str) -> Option<&'a Plan> {
    let matching = plans.iter().filter(|plan| plan.pattern.matches(key.as_bytes()));
    matching.min_by(|one, other| overlap::order(&one.pattern, &other.pattern))
}

fn is_broader(found: CaptureKind, made: CaptureKind) -> bool {
    found == made || matches!(found, CaptureKind::Text)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn no_key_is_given_to_a_mapping_of_another_type(
        families in prop::collection::vec(made(prop::sample::select(vec!["k", "user", "u"]).prop_map(str::to_owned)), 1..8),
    ) {
        let plans = read(&proposal(&families).config).unwrap();
        for family in &families {
            for key in family.keys() {
                let Some(plan) = find(&plans, &key) else { continue };
                // A key that two of the families make is of either.
                let held: Vec<HeldType> = families
                    .iter()
                    .filter(|family| family.keys().contains(&key))
                    .map(|family| family.held)
                    .collect();
                let fits = match plan.config.kind {
                    Kind::Set => held.contains(&HeldType::Set),
                    Kind::Hash | Kind::HashEntries => held.contains(&HeldType::Hash),
                };
                prop_assert!(fits, "{key} is {held:?}, and {} takes it", plan.config.key);
            }
        }
        for (at, one) in plans.iter().enumerate() {
            for other in &plans[..at] {
                let claim = overlap::claim(&one.pattern, &other.pattern);
                prop_assert!(!matches!(claim, Claim::Conflict(_)), "{claim:?}");
            }
        }
    }

    #[test]
    fn families_that_begin_differently_are_found_as_they_were_made(
        firsts in prop::collection::btree_set("[a-f]{3,6}", 1..6),
        families in prop::collection::vec(made(Just("first".to_owned())), 6),
    ) {
        let families: Vec<Made> = firsts
            .into_iter()
            .zip(families)
            .map(|(first, mut family)| {
                family.pieces[0] = Piece::Word(first);
                family
            })
            .collect();
        let plans = read(&proposal(&families).config).unwrap();
        for family in &families {
            let kinds = family.kinds();
            if !family.held.is_mappable() || kinds.is_empty() && family.held == HeldType::Hash {
                continue;
            }
            let first = find(&plans, &family.key(0));
            prop_assert!(first.is_some(), "{family:?} is not mapped: {:?}", plans);
            let first = first.unwrap();
            for key in family.keys() {
                let found = find(&plans, &key).map(|plan| &plan.config.key);
                prop_assert_eq!(found, Some(&first.config.key), "{}", key);
            }
            let found = first.pattern.capture_kinds();
            let is_fit = found.len() == kinds.len()
                && found.iter().zip(&kinds).all(|(found, made)| is_broader(*found, *made));
            prop_assert!(is_fit, "{:?} for {family:?}", first.config.key);
        }
    }
}
