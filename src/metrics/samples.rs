//! What is told at one moment: values of the table's families, as Prometheus' text or as JSON.

use std::fmt::Write as _;

use serde_json::{Map, json};

use super::histogram::Snapshot;
use super::table::{FAMILIES, Family};

#[derive(Debug, Default)]
pub struct Samples(Vec<Sample>);

#[derive(Debug)]
struct Sample {
    family: &'static Family,
    /// In the family's order.
    labels: Vec<String>,
    value: Value,
}

#[derive(Debug)]
pub enum Value {
    Whole(u64),
    Number(f64),
    Histogram(Snapshot),
}

// === impl Value ===

impl From<u64> for Value {
    fn from(number: u64) -> Self {
        Self::Whole(number)
    }
}

impl From<usize> for Value {
    fn from(number: usize) -> Self {
        Self::Whole(number as u64)
    }
}

impl From<bool> for Value {
    fn from(flag: bool) -> Self {
        Self::Whole(u64::from(flag))
    }
}

impl From<f64> for Value {
    fn from(number: f64) -> Self {
        Self::Number(number)
    }
}

impl From<Snapshot> for Value {
    fn from(snapshot: Snapshot) -> Self {
        Self::Histogram(snapshot)
    }
}

// === impl Samples ===

impl Samples {
    /// Adds a value; `labels` are the values of the family's labels, in their order.
    pub fn add(&mut self, name: &str, labels: &[&str], value: impl Into<Value>) {
        let family = Family::named(name);
        debug_assert!(
            family.is_some_and(|family| family.labels.len() == labels.len()),
            "{name} is not so in the table"
        );
        let Some(family) = family else { return };
        let labels = labels.iter().map(|label| (*label).to_owned()).collect();
        self.0.push(Sample { family, labels, value: value.into() });
    }

    /// As Prometheus reads it.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for family in FAMILIES {
            let mut samples = self.of(family).peekable();
            if samples.peek().is_none() {
                continue;
            }
            let Family { name, help, .. } = family;
            line(&mut text, format_args!("# HELP {name} {help}"));
            line(&mut text, format_args!("# TYPE {name} {}", family.kind.name()));
            for sample in samples {
                sample.write(&mut text);
            }
        }
        text
    }

    /// By family: its kind, its help and its values, each with its labels.
    pub fn json(&self) -> serde_json::Value {
        let mut families = Map::new();
        for family in FAMILIES {
            let values: Vec<serde_json::Value> = self.of(family).map(Sample::json).collect();
            if !values.is_empty() {
                let told =
                    json!({ "kind": family.kind.name(), "help": family.help, "values": values });
                families.insert(family.name.to_owned(), told);
            }
        }
        families.into()
    }

    fn of(&self, family: &Family) -> impl Iterator<Item = &Sample> {
        self.0.iter().filter(move |sample| std::ptr::eq(sample.family, family))
    }
}

// === impl Sample ===

impl Sample {
    fn write(&self, text: &mut String) {
        let name = self.family.name;
        let labels = self.labels(None);
        match &self.value {
            Value::Whole(number) => line(text, format_args!("{name}{labels} {number}")),
            Value::Number(number) => line(text, format_args!("{name}{labels} {number}")),
            Value::Histogram(Snapshot { buckets, sum, count }) => {
                for (bound, count) in buckets {
                    let labels = self.labels(Some(&bound.to_string()));
                    line(text, format_args!("{name}_bucket{labels} {count}"));
                }
                let all = self.labels(Some("+Inf"));
                line(text, format_args!("{name}_bucket{all} {count}"));
                line(text, format_args!("{name}_sum{labels} {sum}"));
                line(text, format_args!("{name}_count{labels} {count}"));
            }
        }
    }

    fn labels(&self, bound: Option<&str>) -> String {
        let own = self.family.labels.iter().map(|(name, _)| *name);
        let own = own.zip(self.labels.iter().map(String::as_str));
        let pairs = own.chain(bound.map(|bound| ("le", bound)));
        let pairs: Vec<String> =
            pairs.map(|(name, value)| format!("{name}=\"{}\"", escaped(value))).collect();
        if pairs.is_empty() { String::new() } else { format!("{{{}}}", pairs.join(",")) }
    }

    fn json(&self) -> serde_json::Value {
        let names = self.family.labels.iter().map(|(name, _)| *name);
        let labels: Map<_, _> =
            names.zip(&self.labels).map(|(name, value)| (name.to_owned(), json!(value))).collect();
        match &self.value {
            Value::Whole(number) => json!({ "labels": labels, "value": number }),
            Value::Number(number) => json!({ "labels": labels, "value": number }),
            Value::Histogram(Snapshot { buckets, sum, count }) => {
                let bucket = |(most, count): &(f64, u64)| json!({ "most": most, "count": count });
                let buckets: Vec<_> = buckets.iter().map(bucket).collect();
                json!({ "labels": labels, "buckets": buckets, "sum": sum, "count": count })
            }
        }
    }
}

fn line(text: &mut String, line: std::fmt::Arguments<'_>) {
    writeln!(text, "{line}").expect("a String takes any text");
}

/// What stands between the quotes of a label.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_is_as_prometheus_reads_it() {
        let mut samples = Samples::default();
        let snapshot = Snapshot { buckets: vec![(1.0, 2), (2.0, 2)], sum: 9.5, count: 3 };
        samples.add("respgres_batch_operations", &[], snapshot);
        samples.add("respgres_cache_total", &["a\"b\\c\n", "hit"], 7_u64);
        let expected = "respgres_cache_total{mapping=\"a\\\"b\\\\c\\n\",result=\"hit\"} 7";
        let text = samples.text();
        let values: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        let histogram = [
            "respgres_batch_operations_bucket{le=\"1\"} 2",
            "respgres_batch_operations_bucket{le=\"2\"} 2",
            "respgres_batch_operations_bucket{le=\"+Inf\"} 3",
            "respgres_batch_operations_sum 9.5",
            "respgres_batch_operations_count 3",
        ];
        assert_eq!(values, [&[expected][..], &histogram].concat());
        assert_eq!(text.matches("# TYPE ").count(), 2);
        assert_eq!(samples.json()["respgres_cache_total"]["values"][0]["value"], 7);
    }
}
