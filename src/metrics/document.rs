//! docs/metrics.md, printed from the table of metrics.

use std::fmt::Write as _;

use super::FAMILIES;

const HEAD: &str = "\
# Metrics

What `GET /metrics` of the admin API tells, in Prometheus' text format; it wants the token, as all of that API
(see [admin-api.yaml](admin-api.yaml)). `GET /admin/database/metrics` and `respgres metrics` tell the same. This page is
printed from the table of metrics by `respgres print-metrics > docs/metrics.md`; a test compares the two.

Each proxy tells its own. Counters begin at 0 when it starts. What is not there yet (a command that nobody has sent) is
not told. What the stores have (journal, dead letters, outbox) is the same for all proxies on a database: take the largest,
not the sum. How long what passes through takes is not measured: it would be two looks at the clock for each request.

| metric | kind | labels | what |
| --- | --- | --- | --- |
";

/// The text of docs/metrics.md.
pub fn document() -> String {
    let mut text = HEAD.to_owned();
    for family in FAMILIES {
        let label = |(name, values): &(&str, &str)| format!("`{name}`: {values}");
        let labels: Vec<String> = family.labels.iter().map(label).collect();
        let (kind, labels) = (family.kind.name(), labels.join("; "));
        writeln!(text, "| `{}` | {kind} | {labels} | {} |", family.name, family.help)
            .expect("a String takes any text");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_what_the_table_says() {
        let page = include_str!("../../docs/metrics.md");
        for (written, expected) in page.lines().zip(document().lines()) {
            assert_eq!(written, expected, "docs/metrics.md is old; see its head");
        }
        assert_eq!(page, document(), "docs/metrics.md is old; see its head");
    }

    #[test]
    fn names_are_as_prometheus_wants_them() {
        for family in FAMILIES {
            let name = family.name;
            let is_word = |word: &str| word.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
            assert!(is_word(name) && name.starts_with("respgres_"), "{name}");
            assert_eq!(
                name.ends_with("_total"),
                family.kind == super::super::Kind::Counter,
                "{name}"
            );
            assert!(family.labels.iter().all(|(label, _)| is_word(label)), "{name}");
            assert_eq!(FAMILIES.iter().filter(|other| other.name == name).count(), 1, "{name}");
        }
    }
}
