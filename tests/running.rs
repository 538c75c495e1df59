//! What config/, the Dockerfile and docker-compose.yml say of respgres is so: the metrics that they ask
//! for, the settings that they give, the health that they look at, the parts that an image is built of.
//!
//! Whether Docker, systemd and Prometheus understand these files is for scripts/check-compose and its like.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::Command;
use std::thread;

use tempfile::tempdir;

const DOCKERFILE: &str = include_str!("../Dockerfile");
const COMPOSE: &str = include_str!("../docker-compose.yml");
const ALERTS: &str = include_str!("../config/monitoring/alerts.yml");
const DASHBOARD: &str = include_str!("../config/monitoring/grafana/respgres.json");

const METRICS: &str = include_str!("../docs/metrics.md");
/// What the queries of the dashboard are tried on.
const SAMPLES: &str = include_str!("fixtures/metrics.prom");

/// What Prometheus itself knows of who is scraped, and what the exporter for Postgres tells.
const OF_OTHERS: [&str; 3] = ["up", "pg_stat_database_numbackends", "pg_settings_max_connections"];

#[test]
fn alerts_and_dashboard_ask_for_metrics_that_there_are() {
    let known = metrics();
    for (page, text) in [("alerts.yml", ALERTS), ("respgres.json", DASHBOARD)] {
        let asked = metrics_in(text);
        assert!(asked.len() > 10, "{page} asks for {asked:?}");
        let unknown: Vec<_> = asked.difference(&known).collect();
        assert!(unknown.is_empty(), "{page} asks for {unknown:?}");
    }
}

#[test]
fn the_samples_are_of_the_metrics_that_there_are() {
    let known: BTreeSet<_> =
        metrics().into_iter().filter(|name| name.starts_with("respgres_")).collect();
    assert_eq!(metrics_in(SAMPLES), known);
}

#[test]
fn the_dashboard_shows_every_metric() {
    let missing: BTreeSet<_> = &metrics() - &metrics_in(DASHBOARD);
    let left_out: BTreeSet<_> =
        ["respgres_uptime_seconds"].into_iter().chain(OF_OTHERS).map(str::to_owned).collect();
    let missing: Vec<_> = missing.difference(&left_out).collect();
    assert!(missing.is_empty(), "the dashboard does not show {missing:?}");
}

#[test]
fn the_environment_in_docker_compose_is_settings() {
    let page = include_str!("../docs/config.md");
    let names = words(COMPOSE).filter(|word| word.starts_with("RESPGRES__"));
    let names: BTreeSet<_> = names.collect();
    assert!(names.len() > 4, "docker-compose.yml sets {names:?}");
    for name in names {
        let lower = name.to_lowercase();
        let path: Vec<_> = lower.split("__").collect();
        let section = page.split(&format!("## `[{}]`\n", path[1])).nth(1);
        let section = section.unwrap_or_else(|| panic!("{name}: there is no such section"));
        let section = section.split("\n## ").next().expect("a section ends");
        assert!(
            section.contains(&format!("| `{}` |", path[2])),
            "{name}: there is no such setting"
        );
    }
}

#[test]
fn the_image_is_healthy_when_respgres_is_ready() {
    assert!(healthy_when(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"));
    assert!(!healthy_when(b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n"));
    assert!(!healthy_when(b""));
}

#[test]
fn the_image_is_not_healthy_when_nobody_listens() {
    let port = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    assert!(!healthy(&port.expect("a port is free").to_string()));
}

/// A bench or a program that the manifest names and that is not there would break the image's build.
#[test]
fn the_stand_ins_of_the_image_are_all_that_the_manifest_names() {
    let directory = tempdir().expect("a directory can be made");
    for name in ["Cargo.toml", "Cargo.lock"] {
        let from = format!("{}/{name}", env!("CARGO_MANIFEST_DIR"));
        std::fs::copy(from, directory.path().join(name)).expect("a file can be copied");
    }
    let begin = DOCKERFILE.find("RUN mkdir src").expect("the Dockerfile makes stand-ins");
    let step = DOCKERFILE[begin + "RUN ".len()..].split("cargo build --release --locked").next();
    let step = step.expect("the step ends").to_owned()
        + "cargo metadata --no-deps --offline --format-version 1";
    let output = Command::new("sh").args(["-c", &step]).current_dir(&directory).output();
    let output = output.expect("sh starts");
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}");
    let manifest: toml::Table =
        include_str!("../Cargo.toml").parse().expect("the manifest is TOML");
    for bench in manifest["bench"].as_array().expect("a list") {
        let name = bench["name"].as_str().expect("a name");
        assert!(directory.path().join(format!("benches/{name}/main.rs")).exists(), "{name}");
    }
}

/// Names of all metrics, as the page has them.
fn metrics() -> BTreeSet<String> {
    let own = words(METRICS).filter(|word| word.starts_with("respgres_"));
    own.chain(OF_OTHERS).map(str::to_owned).collect()
}

fn metrics_in(text: &str) -> BTreeSet<String> {
    let exporters = |word: &&str| word.starts_with("pg_") && OF_OTHERS.contains(word);
    let names = words(text).filter(|word| word.starts_with("respgres_") || exporters(word));
    names.map(family).map(str::to_owned).collect()
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|character: char| !character.is_ascii_alphanumeric() && character != '_')
}

/// What a histogram's series belong to.
fn family(name: &str) -> &str {
    let parts = ["_bucket", "_sum", "_count"];
    parts.iter().find_map(|part| name.strip_suffix(part)).unwrap_or(name)
}

/// What the health check of the image says when the admin port answers so.
fn healthy_when(answer: &'static [u8]) -> bool {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let address = listener.local_addr().expect("it has an address").to_string();
    let server = thread::spawn(move || {
        let (mut client, _) = listener.accept().expect("somebody connects");
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            client.read_exact(&mut byte).expect("a request has an end");
            request.extend(byte);
        }
        client.write_all(answer).expect("the client is there");
        String::from_utf8(request).expect("a request is text")
    });
    let healthy = healthy(&address);
    let request = server.join().expect("the server does not panic");
    assert!(request.starts_with("GET /ready HTTP/1.1\r\nHost: "), "{request}");
    healthy
}

/// The health check of the image, with an admin port at that address.
fn healthy(address: &str) -> bool {
    let check = DOCKERFILE.split("HEALTHCHECK").nth(1).expect("the image has a health check");
    let check = check.split(" CMD ").nth(1).expect("it is a command");
    let check = check.split_once("]\"]").expect("it is a list").0.replace("\\\n", "") + "]\"]";
    let check: Vec<String> = serde_json::from_str(&check).expect("it is a list of texts");
    let mut command = Command::new(&check[0]);
    command.args(&check[1..]).env("RESPGRES__ADMIN__LISTEN", address);
    command.output().expect("bash starts").status.success()
}
