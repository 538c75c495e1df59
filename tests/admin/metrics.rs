//! What is counted, and how it is told.

use std::collections::HashSet;

use respgres::metrics::{FAMILIES, Kind};

use crate::house::{House, MAPPINGS};
use crate::stack::{Value, wait_until};

/// A line of Prometheus' text format: its name, its labels, its value.
fn parse(line: &str) -> (String, Vec<(String, String)>, f64) {
    let (left, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("{line}"));
    let value: f64 = value.parse().unwrap_or_else(|error| panic!("{line}: {error}"));
    let Some((name, labels)) = left.split_once('{') else {
        return (left.to_owned(), Vec::new(), value);
    };
    let mut rest = labels.strip_suffix('}').unwrap_or_else(|| panic!("{line}"));
    let mut labels = Vec::new();
    while !rest.is_empty() {
        let (label, after) = rest.split_once("=\"").unwrap_or_else(|| panic!("{line}"));
        let end = after.find('"').unwrap_or_else(|| panic!("{line}"));
        labels.push((label.to_owned(), after[..end].to_owned()));
        rest = after[end + 1..].trim_start_matches(',');
    }
    (name.to_owned(), labels, value)
}

#[tokio::test]
async fn every_line_is_of_the_table_and_well_formed() {
    let house = House::build(MAPPINGS).await;
    let mut client = house.stack.client().await;
    client.say("SET plain 1").await;
    client.say("HSET thing:1 name a").await;
    client.say("HGET thing:1 name").await;
    let answer = house.get("/metrics").await;
    assert_eq!(answer.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    let mut seen = HashSet::new();
    let (mut told, mut typed) = (HashSet::new(), None);
    for line in answer.body.lines() {
        if let Some(about) = line.strip_prefix("# ") {
            let mut words = about.splitn(3, ' ');
            let (what, name) = (words.next().unwrap(), words.next().unwrap());
            assert!(matches!(what, "HELP" | "TYPE"), "{line}");
            if what == "TYPE" {
                let family = FAMILIES.iter().find(|family| family.name == name).unwrap();
                assert_eq!(words.next(), Some(family.kind.name()), "{line}");
                assert!(told.insert(name), "{name} comes twice");
                typed = Some(family);
            }
            continue;
        }
        let (name, labels, value) = parse(line);
        let family = typed.unwrap_or_else(|| panic!("no type before {line}"));
        let suffix = name.strip_prefix(family.name).unwrap_or_else(|| panic!("{line}"));
        let suffixes: &[&str] = match family.kind {
            Kind::Histogram => &["_bucket", "_sum", "_count"],
            Kind::Counter | Kind::Gauge => &[""],
        };
        assert!(suffixes.contains(&suffix), "{line}");
        let own = labels.iter().map(|(label, _)| label.as_str()).filter(|label| *label != "le");
        let expected = family.labels.iter().map(|(label, _)| *label);
        assert!(own.eq(expected), "{line}");
        assert!(value >= 0.0, "{line}");
        assert!(seen.insert(line.rsplit_once(' ').unwrap().0.to_owned()), "{line} comes twice");
    }
    // All of the table are told by a proxy with mappings.
    for family in FAMILIES {
        assert!(told.contains(family.name), "{} is not told", family.name);
    }
    let json = house.get("/admin/database/metrics").await.json();
    assert_eq!(json.as_object().unwrap().len(), FAMILIES.len());
    house.stack.stop_expecting(&[]).await;
}

#[tokio::test]
async fn requests_are_counted_by_their_way() {
    let house = House::build(MAPPINGS).await;
    let mut client = house.stack.client().await;
    client.say("SET plain 1").await;
    client.say("GET plain").await;
    client.say("get plain").await;
    client.say("HSET thing:1 name a size 5").await;
    client.say("HGET thing:1 name").await;
    client.say("HGET thing:1 name").await;
    client.say("HGET thing:1 none").await;
    client.say("HINCRBY thing:1 name 1").await;
    client.say("HSET fast:1 size 1").await;
    client.say("HSET fast:1 size 2").await;
    client.say("CLIENT ID").await;
    client.say("KEYS *").await;
    client.say("MULTI").await;
    client.say("PING").await;
    client.say("EXEC").await;
    client.say("SHUTDOWN").await;
    client.say("NOSUCH x").await;
    client.say("HGET").await;
    let check = async |sample: &str, expected: f64| {
        assert_eq!(house.sample(sample).await.unwrap_or(0.0), expected, "{sample}");
    };
    let commands = async |command: &str, path: &str, expected: f64| {
        check(
            &format!("respgres_commands_total{{command=\"{command}\",path=\"{path}\"}}"),
            expected,
        )
        .await;
    };
    commands("set", "pass", 1.0).await;
    commands("get", "pass", 2.0).await;
    commands("hset", "mapped", 3.0).await;
    // The first fills; what proves nothing is asked of Postgres.
    let hits =
        house.sample("respgres_cache_total{mapping=\"things\",result=\"hit\"}").await.unwrap();
    commands("hget", "hit", hits).await;
    commands("hget", "mapped", 3.0 - hits).await;
    assert!(hits >= 1.0, "{hits}");
    commands("client", "local", 1.0).await;
    commands("keys", "survey", 1.0).await;
    commands("multi", "pinned", 1.0).await;
    commands("ping", "pinned", 1.0).await;
    commands("exec", "pinned", 1.0).await;
    commands("shutdown", "refused", 1.0).await;
    commands("unknown", "pass", 1.0).await;
    let operations = async |mapping: &str, kind: &str, outcome: &str, expected: f64| {
        let labels = format!("mapping=\"{mapping}\",kind=\"{kind}\",outcome=\"{outcome}\"");
        check(&format!("respgres_mapped_operations_total{{{labels}}}"), expected).await;
    };
    operations("things", "read", "ok", 3.0).await;
    operations("things", "write", "ok", 1.0).await;
    operations("things", "write", "error", 1.0).await;
    operations("fast", "write", "ok", 2.0).await;
    check("respgres_mapped_seconds_count{mapping=\"things\",kind=\"write\"}", 2.0).await;
    // The first read of a client is timed, be it a hit or none.
    let timed = "respgres_mapped_loop_seconds_count{mapping=\"things\",kind=\"read\"}";
    check(timed, 0.0).await;
    for _ in 0..20 {
        client.say("HGET thing:1 name").await;
    }
    check(timed, 1.0).await;
    // So are writes that the loop tells Redis itself.
    for _ in 0..40 {
        client.say("HSET fast:1 size 3").await;
    }
    let told = "respgres_mapped_loop_seconds_count{mapping=\"fast\",kind=\"write\"}";
    let told = house.sample(told).await.unwrap();
    assert!((1.0..=3.0).contains(&told), "{told}");
    check("respgres_errors_total{kind=\"noperm\"}", 1.0).await;
    check("respgres_errors_total{kind=\"err\"}", 1.0).await;
    check("respgres_clients", 1.0).await;
    let batches = house.sample("respgres_batch_operations_count").await.unwrap();
    assert!(batches >= 1.0, "{batches}");
    let fills = house.sample("respgres_cache_total{mapping=\"things\",result=\"fill\"}").await;
    assert_eq!(fills, Some(1.0));
    house.stack.flushed().await;
    // Two changes of one field are one where they came together.
    wait_until("it is told that they are flushed", async || {
        house.sample("respgres_journal_flushed_changes_total").await >= Some(1.0)
    })
    .await;
    house.stack.stop_expecting(&[]).await;
}

#[tokio::test]
async fn connections_are_counted_by_what_they_are_for_and_loans_too() {
    let house = House::build(MAPPINGS).await;
    let mut client = house.stack.client().await;
    client.say("HSET thing:1 name a").await;
    client.say("HGET thing:1 name").await;
    client.say("HSET fast:1 size 1").await;
    house.wait_for_sample("respgres_loans_total", 0.0).await;
    client.say("OBJECT ENCODING thing:1").await;
    house.wait_for_sample("respgres_loans_total", 1.0).await;
    for role in ["write", "read", "lend", "keep", "flush", "operate"] {
        let name = format!("respgres_postgres_connections{{role=\"{role}\"}}");
        wait_until(&name, async || house.sample(&name).await >= Some(1.0)).await;
    }
    let check = "respgres_postgres_connections{role=\"check\"}";
    assert_eq!(house.sample(check).await, Some(0.0));
    // One that is cut off is counted no more; the next write takes a new one.
    let write = "respgres_postgres_connections{role=\"write\"}";
    let before = house.sample(write).await.unwrap();
    house
        .stack
        .sql_execute(
            "select pg_terminate_backend(pid) from pg_stat_activity
             where datname = current_database() and pid <> pg_backend_pid()",
        )
        .await;
    wait_until("it writes again", async || {
        client.say("HSET thing:1 name b").await == Value::Integer(0)
    })
    .await;
    house.wait_for_sample(write, before).await;
    house.stack.stop_expecting(&[]).await;
}

#[tokio::test]
async fn odd_commands_add_no_labels() {
    let house = House::build(MAPPINGS).await;
    let mut client = house.stack.client().await;
    for number in 0..1000 {
        client.say(&format!("ODD{number}\\\"{{ x{number}")).await;
    }
    let page = house.get("/metrics").await.body;
    let of_commands = page.lines().filter(|line| line.starts_with("respgres_commands_total{"));
    let of_commands: Vec<&str> = of_commands.collect();
    assert_eq!(of_commands, ["respgres_commands_total{command=\"unknown\",path=\"pass\"} 1000"]);
    assert!(!page.to_ascii_lowercase().contains("odd"), "{page}");
    house.stack.stop_expecting(&[]).await;
}
