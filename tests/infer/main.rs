//! `respgres infer` on real Redis servers: what it proposes is right, works unedited, and is the same each
//! time; what it cannot look into it says.
#![allow(clippy::unwrap_used, reason = "a test ends where something fails")]
// A test's own modules have nobody else to be private from.
#![allow(unreachable_pub)]

#[allow(dead_code, reason = "shared with tests/relay, which uses all of it")]
#[path = "../relay/difference.rs"]
mod difference;
mod doors;
mod families;
mod odd;
mod relay;
#[allow(dead_code, reason = "shared with tests/relay, which uses all of it")]
#[path = "../relay/replay.rs"]
mod replay;
#[path = "../stack/mod.rs"]
mod stack;
#[allow(dead_code, reason = "shared with tests/relay, which uses all of it")]
#[path = "../relay/traffic.rs"]
mod traffic;

use std::process::{Command, Output};

/// `respgres infer` with these arguments.
fn infer_command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_respgres"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("RESPGRES")) {
        command.env_remove(name);
    }
    command.arg("infer").args(arguments);
    command
}

fn infer(arguments: &[&str]) -> Output {
    infer_command(arguments).output().expect("respgres starts")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("respgres says UTF-8")
}

/// The proposal as JSON; the look must go well.
fn proposal(arguments: &[&str]) -> serde_json::Value {
    let output = infer(&[arguments, &["--json", "--rate", "10000000"]].concat());
    assert!(output.status.success(), "{}", text(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("--json prints JSON")
}

/// One mapping a line: pattern, kind, `field=type` of each column.
fn mappings(proposal: &serde_json::Value) -> Vec<String> {
    let mappings = proposal["mappings"].as_array().expect("a list");
    let line = |mapping: &serde_json::Value| {
        let columns = mapping["columns"].as_array().expect("a list").iter().map(|column| {
            format!(" {}={}", column["field"].as_str().unwrap(), column["type"].as_str().unwrap())
        });
        let columns: String = columns.collect();
        format!(
            "{} {}{columns}",
            mapping["key"].as_str().unwrap(),
            mapping["kind"].as_str().unwrap()
        )
    };
    mappings.iter().map(line).collect()
}

/// One family that stays in Redis a line: pattern, type, why.
fn left(proposal: &serde_json::Value) -> Vec<String> {
    let left = proposal["stay_in_redis"].as_array().expect("a list");
    let line = |left: &serde_json::Value| {
        let text = |name: &str| left[name].as_str().unwrap().to_owned();
        format!("{} {}: {}", text("key"), text("type"), text("reason"))
    };
    left.iter().map(line).collect()
}
