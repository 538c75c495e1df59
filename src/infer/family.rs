//! Families: keys that begin, go on and end alike, found in the tree of names.
//!
//! Words at one place of a key are values of a capture when what follows them is the same, and the fields
//! below are; the fewer the words, the more they have to look like values. Where keys begin no word is
//! ever taken for a value: `cart` and `order` are two sorts of things, whatever they hold.

use std::collections::{BTreeMap, BTreeSet};

use super::names::Naming;
use super::profile::Profile;
use super::segment::{Form, Separator, Step, cut, is, is_surely_value, may_be_value};
use super::tree::{End, HeldType, Names, Place};
use crate::mapping::pattern::CaptureKind;

/// How like their fields must be for two hashes to be of one family.
const LIKE: f64 = 0.5;
/// So many words with the same beneath them are values, whatever they look like.
const MANY_WORDS: usize = 4;
/// How often places that were made one are gone through again; each time costs as much as the first.
const REFINEMENTS: usize = 3;

/// A part of the pattern of a family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Literal(String),
    Capture {
        name: String,
        kind: CaptureKind,
        /// For people: a token, whose values are not to be shown.
        is_opaque: bool,
    },
}

/// Keys of one form and type.
#[derive(Debug)]
pub(super) struct Family {
    pub(super) held: HeldType,
    pub(super) parts: Vec<Part>,
    /// The last part takes anything up to the key's end; with the separator that it does not hold.
    pub(super) open_end: Option<Separator>,
    pub(super) keys: u64,
    pub(super) samples: BTreeSet<(u64, Box<str>)>,
    pub(super) profile: Profile,
}

/// All families, in the order of their patterns.
pub(super) fn families(names: Names) -> Vec<Family> {
    let mut families = Vec::new();
    for ((held, separator), mut root) in names.trees {
        refine(&mut root, 0, REFINEMENTS);
        collect(root, &mut Vec::new(), held, separator, &mut families);
    }
    families.sort_by_cached_key(|family| (family.pattern(), family.held));
    families
}

// === impl Family ===

impl Family {
    /// The key pattern, as a configuration has it.
    pub(super) fn pattern(&self) -> String {
        let parts = self.parts.iter().map(|part| match part {
            Part::Literal(text) => text.replace('{', "{{").replace('}', "}}"),
            Part::Capture { name, kind, .. } => format!("{{{name}:{kind}}}"),
        });
        parts.collect()
    }

    /// A glob that matches all keys of the family, and perhaps others.
    pub(super) fn glob(&self) -> String {
        self.parts.iter().map(Part::glob).collect()
    }

    /// A glob of keys that have more segments than this family's, whose last part would take them.
    pub(super) fn longer_keys(&self) -> Option<String> {
        let separator = self.open_end?.unwrap_or(':');
        let (_, before) = self.parts.split_last()?;
        let before: String = before.iter().map(Part::glob).collect();
        Some(format!("{before}*{separator}*"))
    }

    pub(super) fn has_capture(&self) -> bool {
        self.parts.iter().any(|part| matches!(part, Part::Capture { .. }))
    }

    /// Whether a key can be seen to belong to it: by some letter, or by a form that few keys have.
    pub(super) fn is_recognizable(&self) -> bool {
        let mut parts = self.parts.iter();
        !self.has_capture()
            || parts.any(|part| match part {
                Part::Literal(text) => text.contains(char::is_alphanumeric),
                Part::Capture { kind, .. } => {
                    !matches!(kind, CaptureKind::Text | CaptureKind::Slug)
                }
            })
    }

    pub(super) fn sample_keys(&self) -> impl Iterator<Item = &str> {
        self.samples.iter().map(|(_, key)| &**key)
    }
}

impl Part {
    fn glob(&self) -> String {
        match self {
            Part::Literal(text) => {
                let mut glob = String::new();
                for character in text.chars() {
                    if "*?[]\\^-".contains(character) && character != '-' && character != '^' {
                        glob.push('\\');
                    }
                    glob.push(character);
                }
                glob
            }
            Part::Capture { kind: CaptureKind::Uuid, .. } => {
                [8, 4, 4, 4, 12].map(|length| "?".repeat(length)).join("-")
            }
            Part::Capture { kind: CaptureKind::Date, .. } => "????-??-??".to_owned(),
            Part::Capture { kind: CaptureKind::Month, .. } => "????-??".to_owned(),
            Part::Capture { .. } => "*".to_owned(),
        }
    }
}

// === words that are values ===

/// `again`: how often places that were made one may be gone through again.
fn refine(place: &mut Place, depth: usize, again: usize) {
    for next in place.next.values_mut() {
        refine(next, depth + 1, again);
    }
    if depth == 0 {
        return;
    }
    let mut groups: BTreeMap<Vec<String>, Vec<Vec<Step>>> = BTreeMap::new();
    for (step, next) in place.next.iter().filter(|(step, _)| step.is_loose()) {
        let groups = groups.entry(ends_below(next)).or_default();
        let found = groups.iter_mut().find(|group| is_alike(&place.next[&group[0]], next));
        match found {
            Some(group) => group.push(step.clone()),
            None => groups.push(vec![step.clone()]),
        }
    }
    let only_one_group =
        groups.values().map(Vec::len).sum::<usize>() == 1 && place.next.keys().all(Step::is_loose);
    let mut is_joined = false;
    for group in groups.into_values().flatten() {
        if are_values(place, &group, only_one_group && depth > 1) {
            place.join(&group);
            join_what_text_takes(place);
            is_joined = true;
        }
    }
    is_joined |= join_words_before_words(place);
    // What lies below was gone through word by word; together there may be more to see.
    if is_joined
        && again > 0
        && let Some(joined) = place.next.get_mut(&Step::Value(Form::Text))
    {
        refine(joined, depth + 1, again - 1);
    }
}

/// Words that are followed by words, each by others: `seen:alice:paris`, `seen:bob:rome`.
fn join_words_before_words(place: &mut Place) -> bool {
    let mut groups: BTreeMap<Vec<String>, Vec<Vec<Step>>> = BTreeMap::new();
    for (step, next) in place.next.iter().filter(|(step, _)| step.is_loose()) {
        let groups = groups.entry(shapes_below(next)).or_default();
        match groups.iter_mut().find(|group| ends_alike(&place.next[&group[0]], next)) {
            Some(group) => group.push(step.clone()),
            None => groups.push(vec![step.clone()]),
        }
    }
    let large = groups.into_values().flatten().filter(|group| group.len() >= 2 * MANY_WORDS);
    let large: Vec<_> = large.collect();
    for group in &large {
        place.join(group);
        join_what_text_takes(place);
    }
    !large.is_empty()
}

fn are_values(place: &Place, group: &[Step], is_all_there_is: bool) -> bool {
    let words: Vec<String> = group.iter().filter_map(word).collect();
    // Numbers within the same words are values already: user_1, user_2.
    if words.len() < group.len() && group.len() < 2 {
        return false;
    }
    let has_text = place.next.contains_key(&Step::Value(Form::Text));
    has_text && words.iter().any(|word| may_be_value(word))
        || group.len() >= MANY_WORDS
        || words.iter().filter(|word| may_be_value(word)).count() * 2 > group.len()
            && group.len() > 1
        || words.iter().any(|word| is_surely_value(word))
        || is_all_there_is && group.len() > 1
}

fn word(step: &Step) -> Option<String> {
    match step {
        Step::Literal(text) => Some(text.clone()),
        _ => None,
    }
}

/// Tokens and numbers beside any text with the same beneath them are texts too.
fn join_what_text_takes(place: &mut Place) {
    let text = Step::Value(Form::Text);
    for form in [Form::Opaque, Form::Digits] {
        let step = Step::Value(form);
        let (Some(one), Some(other)) = (place.next.get(&text), place.next.get(&step)) else {
            continue;
        };
        if ends_below(one) == ends_below(other) && is_alike(one, other) {
            place.join(&[step]);
        }
    }
}

/// How keys end that come by here: the steps of each.
fn ends_below(place: &Place) -> Vec<String> {
    let mut ends = Vec::new();
    if place.end.is_some() {
        ends.push(String::new());
    }
    for (step, next) in &place.next {
        ends.extend(ends_below(next).into_iter().map(|end| format!("{step:?} {end}")));
    }
    ends
}

/// The same with all words alike.
fn shapes_below(place: &Place) -> Vec<String> {
    let mut shapes = BTreeSet::new();
    if place.end.is_some() {
        shapes.insert(String::new());
    }
    for (step, next) in &place.next {
        let step = if step.is_loose() { "*".to_owned() } else { format!("{step:?}") };
        shapes.extend(shapes_below(next).into_iter().map(|shape| format!("{step} {shape}")));
    }
    shapes.into_iter().collect()
}

/// Whether the first hashes below either have the same fields.
fn ends_alike(one: &Place, other: &Place) -> bool {
    match (one.first_end(), other.first_end()) {
        (Some(one), Some(other)) => is_like(&one.profile, &other.profile),
        _ => false,
    }
}

/// Whether hashes at the same ends have the same fields.
fn is_alike(one: &Place, other: &Place) -> bool {
    let ends = match (&one.end, &other.end) {
        (Some(one), Some(other)) => is_like(&one.profile, &other.profile),
        _ => true,
    };
    ends && one
        .next
        .iter()
        .all(|(step, next)| other.next.get(step).is_none_or(|other| is_alike(next, other)))
}

fn is_like(one: &Profile, other: &Profile) -> bool {
    let is_data = |profile: &Profile| profile.data_names * 2 > profile.all.count;
    is_data(one) && is_data(other) || one.likeness(other) >= LIKE
}

// === families from places ===

fn collect(
    place: Place,
    steps: &mut Vec<Step>,
    held: HeldType,
    separator: Separator,
    families: &mut Vec<Family>,
) {
    if let Some(end) = place.end {
        families.push(family(end, steps, held, separator));
    }
    for (step, next) in place.next {
        steps.push(step);
        collect(next, steps, held, separator, families);
        steps.pop();
    }
}

fn family(end: End, steps: &[Step], held: HeldType, separator: Separator) -> Family {
    let mut literal = String::new();
    let mut parts = Vec::new();
    let mut naming = Naming::default();
    for (at, step) in steps.iter().enumerate() {
        if at > 0 {
            literal.extend(separator);
        }
        let (before, form, after) = match step {
            Step::Literal(text) => {
                literal.push_str(text);
                naming.pass(text);
                continue;
            }
            Step::Value(form) => ("", *form, ""),
            Step::Within(before, form, after) => (before.as_str(), *form, after.as_str()),
        };
        literal.push_str(before);
        naming.pass(before);
        let values: Vec<&str> = end
            .sample_keys()
            .filter_map(|key| {
                let (_, segments) = cut(key);
                segments.get(at).map(|segment| step.value_in(segment))
            })
            .collect();
        let is_hour = at > 0
            && steps[at - 1] == Step::Value(Form::Date)
            && values.iter().all(|value| value.len() == 2 && *value < "25");
        let kind = capture_kind(form, &values, is_hour, before, after);
        if kind == CaptureKind::Text && values.iter().all(|value| value.is_empty()) {
            // Nothing to capture.
            literal.push_str(after);
            continue;
        }
        if !literal.is_empty() {
            parts.push(Part::Literal(std::mem::take(&mut literal)));
        }
        let name = naming.capture(kind, form, is_hour);
        parts.push(Part::Capture { name, kind, is_opaque: form == Form::Opaque });
        literal.push_str(after);
    }
    if !literal.is_empty() {
        parts.push(Part::Literal(literal));
    }
    let open_end = match parts.last() {
        Some(Part::Capture { kind: CaptureKind::Text, .. }) => Some(separator),
        _ => None,
    };
    Family { held, parts, open_end, keys: end.keys, samples: end.samples, profile: end.profile }
}

/// The narrowest kind that takes all values seen, and others like them.
fn capture_kind(
    form: Form,
    values: &[&str],
    is_hour: bool,
    before: &str,
    after: &str,
) -> CaptureKind {
    let all = |kind| values.iter().all(|value| is(kind, value));
    let is_slug_free = |text: &str| {
        !text.contains(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "_-".contains(c))
    };
    let may_be_slug = is_slug_free(before) && is_slug_free(after);
    match form {
        Form::Uuid => CaptureKind::Uuid,
        Form::Date => CaptureKind::Date,
        Form::Month => CaptureKind::Month,
        // 07 is an hour of a day, and no integer; 17 is none either then.
        Form::Digits if all(CaptureKind::Int) && !is_hour => CaptureKind::Int,
        // Others of these words may have what a slug cannot: gpt-5, and gemini-2.5.
        Form::Text if values.iter().any(|value| may_be_value(value)) => CaptureKind::Text,
        _ if may_be_slug && all(CaptureKind::Slug) => CaptureKind::Slug,
        _ => CaptureKind::Text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(keys: &[&str], expected: &[&str]) {
        let mut names = Names::new(20);
        keys.iter().for_each(|key| names.add(key.as_bytes(), HeldType::Set));
        let found: Vec<String> = families(names).iter().map(Family::pattern).collect();
        assert_eq!(found, expected, "{keys:?}");
    }

    #[test]
    fn values_are_captured_and_words_are_kept() {
        let one = "6f1c0d3e-5b7a-4c2d-9e8f-0123456789ab";
        check(
            &[&format!("apikey:{one}"), "apikey:idx:all"],
            &["apikey:idx:all", "apikey:{apikey_id:uuid}"],
        );
        check(
            &["user:1", "user:2:posts", "user:3"],
            &["user:{user_id:int}", "user:{user_id:int}:posts"],
        );
        check(&["user_1", "user_2", "order_7"], &["order_{order_id:int}", "user_{user_id:int}"]);
        check(
            &["cart", "index", "tags", "users", "words"],
            &["cart", "index", "tags", "users", "words"],
        );
        check(
            &["usage:daily:2026-11-20", "usage:monthly:2026-11", "usage:hourly:2026-11-20:07"],
            &[
                "usage:daily:{day:date}",
                "usage:hourly:{day:date}:{hour:slug}",
                "usage:monthly:{month:month}",
            ],
        );
        check(&["{user:1}:cart", "{user:2}:cart"], &["{{user:{user_id:int}}}:cart"]);
        check(&["a/b/1", "a/b/2"], &["a/b/{b_id:int}"]);
        check(&["tag:x", "tag:team a", "tag:y", "tag:z"], &["tag:{tag:text}"]);
        check(&["m:gpt-5:1", "m:claude-3-5-haiku:1"], &["m:{m:text}:{id:int}"]);
        let towns = ["paris", "rome", "oslo", "bern", "riga", "kyiv", "lima", "doha"];
        let seen: Vec<String> =
            towns.iter().map(|town| format!("seen:{}:{town}", town.to_uppercase())).collect();
        let seen: Vec<&str> = seen.iter().map(String::as_str).collect();
        check(&seen, &["seen:{seen:text}:{name:slug}"]);
        check(&["zip:007", "zip:12"], &["zip:{zip_id:slug}"]);
    }

    #[test]
    fn two_words_are_values_only_where_nothing_else_is() {
        check(&["cards:by:status:new", "cards:by:status:used"], &["cards:by:status:{status:slug}"]);
        check(&["cards:new", "cards:used"], &["cards:new", "cards:used"]);
        check(&["cards:a", "cards:b", "cards:c", "cards:d"], &["cards:{card:slug}"]);
    }
}
