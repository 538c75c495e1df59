//! The relay app's recorded traffic as a workload: what its long connection sent, pipeline by
//! pipeline, without the pauses.
//!
//! SCAN and KEYS are left out because a cursor of another server means nothing, MULTI because its
//! keys are mapped, INFO and QUIT because they say nothing of speed. Error replies are replies: the
//! app lives with some.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::sync::LazyLock;

use flate2::read::GzDecoder;
use serde_json::Value;

use crate::rig::Failure;
use crate::rig::client::encode;

/// The mappings of the example.
const CONFIG: &str = include_str!("../../config/relay.toml");

/// The app's connection; another one belongs to a tool.
const CONNECTION: u64 = 0;

const LEFT_OUT: [&str; 6] = ["scan", "keys", "multi", "exec", "info", "quit"];

/// What the app sent in one write.
pub(crate) struct Pipeline {
    pub(crate) bytes: Vec<u8>,
    pub(crate) requests: u32,
}

/// All of them, in their order.
pub(crate) static TRAFFIC: LazyLock<Vec<Pipeline>> =
    LazyLock::new(|| recorded().expect("the fixture is part of the project"));

/// The example's configuration, with addresses of ours.
pub(crate) fn config(port: u16, redis_port: u16, postgres_url: &str) -> String {
    let mut config = CONFIG.to_owned();
    for (theirs, ours) in [
        ("127.0.0.1:6380", format!("127.0.0.1:{port}")),
        ("redis://127.0.0.1:6379", format!("redis://127.0.0.1:{redis_port}")),
        ("postgres://localhost/respgres", postgres_url.to_owned()),
    ] {
        config = config.replace(&format!("\"{theirs}\""), &format!("\"{ours}\""));
    }
    config
}

fn recorded() -> Result<Vec<Pipeline>, Failure> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/relay/traffic.jsonl.gz");
    let mut pipelines: Vec<Pipeline> = Vec::new();
    let mut moment = f64::NAN;
    for line in BufReader::new(GzDecoder::new(std::fs::File::open(path)?)).lines() {
        // [seconds, connection, [command, argument…]]
        let line: Value = serde_json::from_str(&line?)?;
        let words: Vec<Vec<u8>> = line[2].as_array().into_iter().flatten().map(argument).collect();
        let name = String::from_utf8_lossy(&words[0]).to_ascii_lowercase();
        if line[1] != CONNECTION || LEFT_OUT.contains(&name.as_str()) {
            continue;
        }
        let seconds = line[0].as_f64().unwrap_or_default();
        if seconds != moment {
            pipelines.push(Pipeline { bytes: Vec::new(), requests: 0 });
            moment = seconds;
        }
        if let Some(pipeline) = pipelines.last_mut() {
            encode(&words.iter().map(Vec::as_slice).collect::<Vec<_>>(), &mut pipeline.bytes);
            pipeline.requests += 1;
        }
    }
    Ok(pipelines)
}

/// Text, or `{"latin1": "…"}` with one character a byte.
fn argument(value: &Value) -> Vec<u8> {
    match value {
        Value::String(text) => text.clone().into_bytes(),
        other => {
            let bytes = other["latin1"].as_str().unwrap_or_default().chars();
            bytes.map(|character| u8::try_from(u32::from(character)).unwrap_or(b'?')).collect()
        }
    }
}
