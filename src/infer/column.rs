//! Which column a field gets: the narrowest type that gives nearly all of its values back.

use super::names;
use super::profile::{CANDIDATES, Values};

/// A type is proposed if it gives back at least this share of the values that are not empty.
pub(super) const MIN_SHARE: f64 = 0.9;

/// A type for a field, and why.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Choice {
    pub(super) type_name: &'static str,
    pub(super) format: Option<&'static str>,
    /// The share of the filled values that the column gives back byte for byte.
    pub(super) share: f64,
    /// What people should know of it.
    pub(super) notes: Vec<String>,
}

/// Chooses by the field's values, and by its name where several types fit.
pub(super) fn choose(field: &str, values: &Values) -> Choice {
    let text = |notes| Choice { type_name: "text", format: None, share: 1.0, notes };
    let filled = values.filled();
    if filled == 0 {
        return text(vec!["always empty".to_owned()]);
    }
    let mut best: Option<(usize, u64)> = None;
    for (at, candidate) in CANDIDATES.iter().enumerate() {
        let count = match (candidate.type_name, candidate.format) {
            // Small documents are written alike; one with spaces decides.
            ("jsonb", _) if !values.has_spaced_json() => 0,
            ("timestamptz", Some("epoch-ms" | "epoch-s")) if !is_moment(field) => 0,
            // Any moment is an integer too: the name has decided.
            _ => values.exact(at),
        };
        let is_better = match best {
            None => count > 0,
            Some((known, most)) => {
                let is_named_moment =
                    CANDIDATES[known].type_name == "bigint" && candidate.type_name == "timestamptz";
                count > most || count == most && is_named_moment && count > 0
            }
        };
        if is_better {
            best = Some((at, count));
        }
    }
    let Some((mut at, count)) = best else { return text(Vec::new()) };
    let share = count as f64 / filled as f64;
    let name = |at: usize| {
        let known: &super::profile::Candidate = &CANDIDATES[at];
        known
            .format
            .map_or(known.type_name.to_owned(), |format| format!("{} ({format})", known.type_name))
    };
    let examples = |at: usize| {
        let odd: Vec<String> = values.odd(at).iter().map(|odd| format!("'{odd}'")).collect();
        if is_secret(field) || odd.is_empty() {
            String::new()
        } else {
            format!(", such as {}", odd.join(", "))
        }
    };
    if share < MIN_SHARE {
        let is_worth_a_word = share >= 0.5;
        let note = format!("{} fits {}{}", name(at), percent(share), but_not(&examples(at)));
        return text(if is_worth_a_word { vec![note] } else { Vec::new() });
    }
    if CANDIDATES[at].type_name == "bigint" && is_amount(field) {
        at = CANDIDATES.iter().position(|known| known.type_name == "numeric").unwrap_or(at);
    }
    let mut notes = Vec::new();
    if count < filled {
        notes.push(format!("{} kept in extra{}", percent(1.0 - share), examples(at)));
    }
    if values.empty > 0 {
        notes.push(format!(
            "{} empty, kept in extra",
            percent(values.empty as f64 / values.count as f64)
        ));
    }
    Choice { type_name: CANDIDATES[at].type_name, format: CANDIDATES[at].format, share, notes }
}

fn but_not(examples: &str) -> String {
    examples.strip_prefix(", such as ").map_or_else(String::new, |list| format!(", but not {list}"))
}

/// Of something that is there at all never 0 %, of not quite all never 100 %.
pub(super) fn percent(share: f64) -> String {
    match share * 100.0 {
        all if all >= 100.0 => "100 %".to_owned(),
        most if most > 99.0 => "> 99 %".to_owned(),
        few if few < 1.0 => "< 1 %".to_owned(),
        some => format!("{some:.0} %"),
    }
}

/// Values of such fields are not shown, not even in part.
pub(super) fn is_secret(field: &str) -> bool {
    let name = field.to_ascii_lowercase();
    let words = [
        "pass", "secret", "token", "key", "auth", "cred", "cookie", "hash", "session", "private",
        "cert",
    ];
    words.iter().any(|word| name.contains(word))
}

fn is_moment(field: &str) -> bool {
    let name = names::snake_case(field);
    let has = |words: &[&str]| name.split('_').any(|word| words.contains(&word));
    has(&[
        "at",
        "time",
        "date",
        "timestamp",
        "ts",
        "expires",
        "expire",
        "expiry",
        "until",
        "since",
        "created",
        "updated",
        "modified",
        "seen",
    ]) && !has(&["id", "count"])
}

/// Numbers that are whole only by chance.
fn is_amount(field: &str) -> bool {
    let name = names::snake_case(field);
    let has = |words: &[&str]| name.split('_').any(|word| words.contains(&word));
    has(&["cost", "costs", "price", "amount", "balance", "ratio", "percent", "score", "quota"])
        && !has(&["micro", "micros", "cent", "cents", "count", "id"])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(field: &str, values: &[&str], expected: &str) {
        let mut seen = Values::default();
        values.iter().for_each(|value| seen.see(value.as_bytes()));
        let choice = choose(field, &seen);
        let found = [Some(choice.type_name), choice.format].into_iter().flatten();
        assert_eq!(found.collect::<Vec<_>>().join(" "), expected, "{field}: {values:?}");
    }

    #[test]
    fn the_narrowest_type_that_gives_the_bytes_back_is_taken() {
        check("id", &["6f1c0d3e-5b7a-4c2d-9e8f-0123456789ab"], "uuid");
        check("id", &["6F1C0D3E-5B7A-4C2D-9E8F-0123456789AB"], "text");
        check("isActive", &["true", "false", ""], "boolean true/false");
        check("flag", &["yes", "no"], "boolean yes/no");
        check("count", &["1", "-7", "0"], "bigint");
        check("count", &["1", "2.50"], "numeric");
        check("dailyCostLimit", &["0"], "numeric");
        check("costMicro", &["5585"], "bigint");
        check("zip", &["01234", "55555"], "text");
        check("x", &["1e-07"], "double precision");
        check("day", &["2026-11-20"], "date");
        check("createdAt", &["2026-11-20T22:20:35.142Z"], "timestamptz iso8601-ms");
        check("createdAt", &["2026-11-20T22:20:35Z"], "timestamptz iso8601");
        check("expiresAt", &["1795212529666"], "timestamptz epoch-ms");
        check("expires_at", &["1795212529"], "timestamptz epoch-s");
        check("lastSeen", &["1795212529666"], "timestamptz epoch-ms");
        check("timeZoneId", &["1795212529"], "bigint");
        check("phone", &["1795212529"], "bigint");
        check("tags", &["[]", "[\"a\",\"b\"]"], "json");
        check("tags", &["[]", "[\"a\", \"b\"]"], "jsonb");
        check("tags", &["[]", "[\"a\"]"], "json");
        check("name", &["demo", "5"], "text");
        check("nothing", &["", ""], "text");
    }

    #[test]
    fn a_low_share_makes_text_and_says_why() {
        let mut values = Values::default();
        for number in 0..8 {
            values.see(number.to_string().as_bytes());
        }
        values.see(b"many");
        values.see(b"007");
        let choice = choose("limit", &values);
        assert_eq!(choice.type_name, "text");
        assert_eq!(choice.notes, ["bigint fits 80 %, but not '007', 'many'"]);
        assert_eq!(choose("apiToken", &values).notes, ["bigint fits 80 %"]);
    }

    #[test]
    fn odd_values_are_told() {
        let mut values = Values::default();
        for number in 0..98 {
            values.see(number.to_string().as_bytes());
        }
        values.see(b"9.90");
        values.see(b"1e-7");
        let choice = choose("limit", &values);
        assert_eq!((choice.type_name, choice.share), ("numeric", 0.99));
        assert_eq!(choice.notes, ["1 % kept in extra, such as '1e-7'"]);
    }
}
