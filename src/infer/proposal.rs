//! What is proposed for each family: a mapping, or to leave its keys in Redis, and why.
//!
//! Invariants
//! - Of the mappings no two can match one key unless a literal decides between them, and every key that
//!   was kept as an example is found by the mapping of its own family, or by none.
//! - A mapping refuses nothing that a hash of strings can hold: every column may be NULL, and `extra` takes
//!   what no column gives back. (Fields and members with a row of their own are the exception: their
//!   column has to give them back.)

use std::collections::BTreeSet;

use super::column::{Choice, choose, percent};
use super::family::{Family, Part};
use super::names;
use super::profile::Profile;
use super::tree::HeldType;
use crate::config::Kind;
use crate::mapping::KeyPattern;
use crate::mapping::overlap::{self, Claim};
use crate::value::glob::Glob;

/// Most columns for fields in one table; further fields are kept in `extra`.
pub(super) const MAX_COLUMNS: usize = 64;
/// Most mappings; of more families those with the most keys.
pub(super) const MAX_MAPPINGS: usize = 300;
/// A field or member that is looked up by an index can be no longer.
const MAX_NAME_BYTES: usize = 1000;
/// This share of fields with names made of values makes a hash one of entries.
const OPEN_ENDED: f64 = 0.3;

/// A mapping that is proposed.
#[derive(Debug)]
pub(super) struct Proposed {
    pub(super) family: Family,
    pub(super) pattern: KeyPattern,
    pub(super) exclude: Vec<String>,
    pub(super) table: String,
    pub(super) value: Shape,
    pub(super) expires_at: Option<String>,
    pub(super) extra: Option<String>,
    pub(super) notes: Vec<String>,
}

/// How the values lie in the table.
#[derive(Debug)]
pub(super) enum Shape {
    Hash(Vec<Column>),
    Entries { field: Element, value: Choice },
    Set(Element),
}

/// A column of a field or member that has a row of its own.
#[derive(Debug)]
pub(super) struct Element {
    pub(super) column: String,
    pub(super) type_name: &'static str,
}

/// A column of a field.
#[derive(Debug)]
pub(super) struct Column {
    pub(super) field: String,
    pub(super) name: String,
    pub(super) choice: Choice,
    /// The share of keys that have the field.
    pub(super) presence: f64,
}

/// A family that stays in Redis.
#[derive(Debug)]
pub(super) struct Left {
    pub(super) family: Family,
    pub(super) reason: String,
}

/// Decides on every family.
pub(super) fn decide(families: Vec<Family>) -> (Vec<Proposed>, Vec<Left>) {
    let (mut proposed, mut left) = (Vec::new(), Vec::new());
    for family in families {
        match propose(family) {
            Ok(one) => proposed.push(one),
            Err(one) => left.push(*one),
        }
    }
    while proposed.len() > MAX_MAPPINGS {
        let fewest = (0..proposed.len()).min_by_key(|&at| (proposed[at].family.keys, at));
        let family = proposed.remove(fewest.unwrap_or(0)).family;
        left.push(Left { family, reason: format!("more than {MAX_MAPPINGS} families") });
    }
    while let Some((at, reason)) = settle(&mut proposed, &left) {
        left.push(Left { family: proposed.remove(at).family, reason });
    }
    name_tables(&mut proposed);
    left.sort_by_cached_key(|left| (left.family.pattern(), left.family.held));
    (proposed, left)
}

// === one family ===

fn propose(family: Family) -> Result<Proposed, Box<Left>> {
    let stays = |family, reason: &str| Err(Box::new(Left { family, reason: reason.to_owned() }));
    if !family.held.is_mappable() {
        let reason = format!("{} keys are not mapped", family.held.name());
        return stays(family, &reason);
    }
    if family.profile.keys == 0 {
        return stays(family, "its keys were not looked into");
    }
    if !family.is_recognizable() {
        return stays(family, "nothing is the same in its keys: any key might be one of them");
    }
    let text = family.pattern();
    if text.contains(char::is_control) {
        return stays(family, "its keys have control characters");
    }
    let Ok(mut pattern) = KeyPattern::parse(&text) else {
        return stays(family, "no key pattern can tell where its parts end");
    };
    let mut exclude = Vec::new();
    if let Some(glob) = family.longer_keys().filter(|glob| matches_none(glob, &family)) {
        pattern = pattern.excluding([Glob::new(glob.as_bytes())]);
        exclude.push(glob);
    }
    if !family.sample_keys().any(|key| pattern.matches(key.as_bytes())) {
        return stays(family, "no key pattern matches its keys");
    }
    let mut taken: BTreeSet<String> = pattern.capture_names().iter().cloned().collect();
    let profile = &family.profile;
    let mut notes = Vec::new();
    let value = match family.held {
        HeldType::Set => Shape::Set(element("member", profile, &mut taken, &mut notes)),
        _ if is_open_ended(profile) || !family.has_capture() && is_counters(profile) => {
            let field = element("field", profile, &mut taken, &mut notes);
            taken.insert("value".to_owned());
            Shape::Entries { field, value: choose("", &profile.all) }
        }
        _ if !family.has_capture() => {
            return stays(family, "one key, a record: rows need a part of the key that varies");
        }
        _ => Shape::Hash(columns(profile, &mut taken, &mut notes)),
    };
    if profile.longest_name > MAX_NAME_BYTES && !matches!(value, Shape::Hash(_)) {
        return stays(family, "its fields or members are too long for an index");
    }
    let is_hash = matches!(value, Shape::Hash(_));
    let extra = (!matches!(value, Shape::Set(_))).then(|| names::column("extra", &mut taken));
    let expires_at =
        (is_hash && profile.expiring > 0).then(|| names::column("key_expires_at", &mut taken));
    if !is_hash && profile.expiring > 0 {
        notes.push("what EXPIRE sets is kept in respgres.expiry".to_owned());
    }
    if profile.partial > 0 {
        notes.push(format!("{} sampled keys were too large to be read in full", profile.partial));
    }
    Ok(Proposed { family, pattern, exclude, table: String::new(), value, expires_at, extra, notes })
}

fn element(
    name: &str,
    profile: &Profile,
    taken: &mut BTreeSet<String>,
    notes: &mut Vec<String>,
) -> Element {
    let type_name = if profile.binary_names > 0 { "bytea" } else { "text" };
    if type_name == "bytea" {
        notes.push(format!("{name}s are not all UTF-8 text, so they are bytea"));
    }
    Element { column: names::column(name, taken), type_name }
}

/// Whether field names are data: then each is a row.
fn is_open_ended(profile: &Profile) -> bool {
    let all = profile.all.count as f64;
    if profile.data_names as f64 > OPEN_ENDED * all {
        return true;
    }
    let mut counts: Vec<u64> = profile.fields.values().map(|values| values.count).collect();
    counts.sort_unstable_by(|one, other| other.cmp(one));
    let usual: u64 = counts.iter().take(MAX_COLUMNS).sum();
    (counts.len() > MAX_COLUMNS || profile.has_more_fields()) && (usual as f64) < 0.8 * all
}

/// Whether all values are numbers of one kind, so that a row a field makes a table of counters.
fn is_counters(profile: &Profile) -> bool {
    let choice = choose("", &profile.all);
    profile.fields.len() >= 2 && matches!(choice.type_name, "bigint" | "numeric")
}

fn columns(
    profile: &Profile,
    taken: &mut BTreeSet<String>,
    notes: &mut Vec<String>,
) -> Vec<Column> {
    let keys = profile.keys as f64;
    let is_fit = |field: &[u8], count: u64| {
        let text = std::str::from_utf8(field).ok();
        let text = text.filter(|text| text.len() <= 100 && !text.contains(char::is_control));
        text.filter(|text| !text.is_empty() && (profile.keys < 20 || count as f64 >= 0.02 * keys))
            .map(str::to_owned)
    };
    let mut fields: Vec<_> = profile
        .fields
        .iter()
        .filter_map(|(field, values)| Some((is_fit(field, values.count)?, values)))
        .collect();
    fields.sort_by(|(name, one), (other_name, other)| {
        other.count.cmp(&one.count).then_with(|| name.cmp(other_name))
    });
    fields.truncate(MAX_COLUMNS);
    let rest = profile.fields.len() - fields.len();
    if rest > 0 || profile.has_more_fields() {
        let more = if profile.has_more_fields() { "more than " } else { "" };
        notes.push(format!("{more}{rest} rare or odd fields without a column: they go to extra"));
    }
    let column = |(field, values): (String, &super::profile::Values)| Column {
        name: names::column(&field, taken),
        choice: choose(&field, values),
        presence: (values.count as f64 / keys).min(1.0),
        field,
    };
    fields.into_iter().map(column).collect()
}

// === between families ===

fn matches_none(glob: &str, family: &Family) -> bool {
    let glob = Glob::new(glob.as_bytes());
    !family.sample_keys().any(|key| glob.matches(key.as_bytes()))
}

/// Makes each key belong to one; where exclusion cannot, gives the place of the one to give up, with why.
fn settle(proposed: &mut [Proposed], left: &[Left]) -> Option<(usize, String)> {
    for (at, one) in proposed.iter_mut().enumerate() {
        for Left { family, .. } in left {
            if !one.takes_any_of(family) {
                continue;
            }
            if !one.leave(family) {
                return Some((
                    at,
                    format!(
                        "its keys cannot be told from those of {} ({})",
                        family.pattern(),
                        family.held.name()
                    ),
                ));
            }
        }
    }
    for at in 1..proposed.len() {
        for other in 0..at {
            let (before, after) = proposed.split_at_mut(at);
            if !part(&mut before[other], &mut after[0]) {
                let is_smaller = after[0].family.keys <= before[other].family.keys;
                let (fewer, more) = if is_smaller { (at, other) } else { (other, at) };
                let more = proposed[more].family.pattern();
                return Some((fewer, format!("its keys cannot be told from those of {more}")));
            }
        }
    }
    None
}

/// Sees to it that no key is claimed by both, and that the samples of each are its own.
fn part(one: &mut Proposed, other: &mut Proposed) -> bool {
    let is_first = overlap::order(&one.pattern, &other.pattern).is_lt();
    let (first, second) = if is_first { (one, other) } else { (other, one) };
    if first.takes_any_of(&second.family) && !first.leave(&second.family) {
        return false;
    }
    let is_settled = |first: &Proposed, second: &Proposed| {
        !matches!(overlap::claim(&first.pattern, &second.pattern), Claim::Conflict(_))
    };
    // The wider pattern, the one with less literal in it, gives way.
    let width = |one: &Proposed| one.family.glob().replace('*', "").len();
    let first_is_wider = width(first) <= width(second);
    is_settled(first, second)
        || first_is_wider && first.leave(&second.family) && is_settled(first, second)
        || second.leave(&first.family) && is_settled(first, second)
        || !first_is_wider && first.leave(&second.family) && is_settled(first, second)
}

// === impl Proposed ===

impl Proposed {
    fn takes_any_of(&self, other: &Family) -> bool {
        other.sample_keys().any(|key| self.pattern.matches(key.as_bytes()))
    }

    /// Leaves the keys of another family alone, if that is possible without losing its own.
    fn leave(&mut self, other: &Family) -> bool {
        let glob = other.glob();
        if !matches_none(&glob, &self.family) {
            return false;
        }
        if !self.exclude.contains(&glob) {
            self.pattern = self.pattern.clone().excluding([Glob::new(glob.as_bytes())]);
            self.exclude.push(glob);
        }
        true
    }

    pub(super) fn kind(&self) -> Kind {
        match self.value {
            Shape::Hash(_) => Kind::Hash,
            Shape::Entries { .. } => Kind::HashEntries,
            Shape::Set(_) => Kind::Set,
        }
    }

    /// How the keys' own expiry is used, for people; times are rounded up, so that it stays the same from
    /// run to run.
    pub(super) fn expiry(&self) -> String {
        expiry(&self.family.profile)
    }
}

pub(super) fn expiry(profile: &Profile) -> String {
    if profile.keys == 0 {
        return "?".to_owned();
    }
    if profile.expiring == 0 {
        return "never".to_owned();
    }
    const STEPS: &[(i64, &str)] = &[
        (1, "1 s"),
        (10, "10 s"),
        (60, "1 min"),
        (300, "5 min"),
        (900, "15 min"),
        (3600, "1 h"),
        (6 * 3600, "6 h"),
        (86_400, "1 d"),
        (7 * 86_400, "7 d"),
        (32 * 86_400, "32 d"),
        (92 * 86_400, "92 d"),
        (366 * 86_400, "1 y"),
    ];
    let seconds = (profile.longest_ms + 999) / 1000;
    let longest = STEPS.iter().find(|(most, _)| seconds <= *most).map_or("years", |(_, name)| name);
    let share = profile.expiring as f64 / profile.keys as f64;
    format!("{} within {longest}", percent(share))
}

fn name_tables(proposed: &mut [Proposed]) {
    let mut taken = BTreeSet::new();
    for one in proposed {
        let words = |part: &Part| match part {
            Part::Literal(text) => Some(text.clone()),
            Part::Capture { .. } => None,
        };
        let words: Vec<String> = one.family.parts.iter().filter_map(words).collect();
        let by = one.pattern.capture_names().first().map(|name| name.trim_end_matches("_id"));
        one.table = names::table(&words, by, &mut taken);
    }
}
