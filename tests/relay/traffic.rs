//! The recorded traffic of the relay app: what it said to a plain Redis, command by command.
//!
//! The fixture has one JSON line a command: `[seconds, connection, [command, argument…]]`. An
//! argument that is not UTF-8 is `{"latin1": "…"}`, one character a byte.

use std::io::{BufRead, BufReader};
use std::path::Path;

use flate2::read::GzDecoder;
use respgres::command::{Command, lookup};
use serde_json::Value;

/// One command as it was recorded.
#[derive(Clone, Debug)]
pub struct Recorded {
    pub connection: u64,
    pub command: Vec<Vec<u8>>,
    /// When it was sent, in thousandths of a second; commands of one moment were one write.
    pub moment_ms: i64,
}

impl Recorded {
    /// The command's name in lower case.
    pub fn name(&self) -> String {
        String::from_utf8_lossy(&self.command[0]).to_ascii_lowercase()
    }

    /// Whether it changes nothing.
    pub fn only_reads(&self) -> bool {
        lookup(&self.command[0]).is_some_and(Command::only_reads)
    }

    pub fn argument(&self, at: usize) -> &[u8] {
        self.command.get(at).map_or(b"", Vec::as_slice)
    }

    /// The command as it can be read in a report.
    pub fn text(&self) -> String {
        let text = self.command.iter().map(|argument| {
            let text = crate::stack::resp::escape(argument);
            if text.len() > 60 {
                format!("{}…", text.chars().take(60).collect::<String>())
            } else {
                text
            }
        });
        text.collect::<Vec<_>>().join(" ")
    }
}

/// Reads the fixture.
pub fn recorded() -> Vec<Recorded> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/relay/traffic.jsonl.gz");
    let file = std::fs::File::open(path).expect("the fixture is part of the project");
    let lines = BufReader::new(GzDecoder::new(file)).lines();
    lines.map(|line| parse(&line.expect("the fixture is gzip"))).collect()
}

fn parse(line: &str) -> Recorded {
    let value: Value = serde_json::from_str(line).expect("a line of the fixture is JSON");
    let seconds = value[0].as_f64().expect("the first is a number of seconds");
    let words = value[2].as_array().expect("the third is a command");
    Recorded {
        moment_ms: (seconds * 1000.0).round() as i64,
        connection: value[1].as_u64().expect("the second is a connection's number"),
        command: words.iter().map(argument).collect(),
    }
}

fn argument(value: &Value) -> Vec<u8> {
    match value {
        Value::String(text) => text.clone().into_bytes(),
        Value::Object(wrapped) => {
            let text = wrapped["latin1"].as_str().expect("the only key is latin1");
            text.chars().map(|c| u8::try_from(u32::from(c)).expect("latin1 is a byte")).collect()
        }
        other => panic!("neither text nor latin1: {other}"),
    }
}
