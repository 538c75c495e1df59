//! What the command line asks of a running respgres, by its admin API.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1::handshake;
use hyper::{Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;

use super::{AppError, Setup, worker_runtime};

/// How long an answer may take.
const LIMIT: Duration = Duration::from_secs(10);

const PAUSE: Duration = Duration::from_secs(1);

/// How a running respgres is: as JSON, or for people.
///
/// # Errors
/// When it does not tell.
pub fn status(setup: &Setup, as_json: bool) -> Result<String, AppError> {
    let text = worker_runtime()?.block_on(get(setup, "/admin/database/status"))?;
    let told: Value = serde_json::from_str(&text).map_err(|error| odd(&error))?;
    Ok(if as_json { format!("{told:#}") } else { for_people(&told) })
}

/// All metrics.
///
/// # Errors
/// When it does not tell them.
pub fn metrics(setup: &Setup, tell: impl Fn(&str)) -> Result<(), AppError> {
    tell(worker_runtime()?.block_on(get(setup, "/metrics"))?.trim_end());
    Ok(())
}

/// Every second the metrics that have changed, and by how much.
///
/// # Errors
/// When it does not tell them any more.
pub fn watch(setup: &Setup, tell: impl Fn(&str)) -> Result<(), AppError> {
    worker_runtime()?.block_on(async {
        let mut before = values(&get(setup, "/metrics").await?);
        loop {
            tokio::time::sleep(PAUSE).await;
            let now = values(&get(setup, "/metrics").await?);
            tell(&changes(&before, &now));
            before = now;
        }
    })
}

async fn get(setup: &Setup, path: &str) -> Result<String, AppError> {
    let no = |text: String| AppError::NotTold(text);
    let admin = &setup.config.admin;
    if admin.listen.is_empty() {
        return Err(no("admin.listen is empty, so there is none".to_owned()));
    }
    let asking = async {
        let reached = |error: std::io::Error| no(format!("{}: {error}", admin.listen));
        let mut addresses = lookup_host(&admin.listen).await.map_err(reached)?;
        let Some(address) = addresses.next().map(reachable) else {
            return Err(no(format!("{}: no such host", admin.listen)));
        };
        let socket = TcpStream::connect(address).await.map_err(reached)?;
        let (mut sender, connection) =
            handshake(TokioIo::new(socket)).await.map_err(|error| odd(&error))?;
        let mut request = Request::get(path).header(header::HOST, &admin.listen);
        if let Some(token) = &admin.token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        let request = request.body(Empty::<Bytes>::new()).map_err(|error| odd(&error))?;
        // It has the sender with it: the connection ends when the answer is there.
        let answer = async move {
            let answer = sender.send_request(request).await?;
            let status = answer.status();
            Ok((status, answer.into_body().collect().await?.to_bytes()))
        };
        // Of what is wrong with the connection the answer tells.
        let (answer, _) = tokio::join!(answer, connection);
        let (status, body) = answer.map_err(|error: hyper::Error| odd(&error))?;
        let text = String::from_utf8_lossy(&body).into_owned();
        if status != StatusCode::OK {
            return Err(no(refusal(&text).unwrap_or_else(|| status.to_string())));
        }
        Ok(text)
    };
    timeout(LIMIT, asking).await.unwrap_or_else(|_| Err(no(format!("no answer in {LIMIT:?}"))))
}

/// Where who listens at all addresses is reached from this machine.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

fn odd(error: &dyn std::fmt::Display) -> AppError {
    AppError::NotTold(format!("an odd answer: {error}"))
}

fn refusal(text: &str) -> Option<String> {
    let told: Value = serde_json::from_str(text).ok()?;
    Some(format!("{}; {}", told["error"].as_str()?, told["advice"].as_str()?))
}

// === for people ===

fn for_people(told: &Value) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: &Value| {
        let value = match value {
            Value::String(word) => word.clone(),
            Value::Array(list) if list.is_empty() => "none".to_owned(),
            other => other.to_string(),
        };
        writeln!(text, "{name}: {value}").expect("a String takes any text");
    };
    for name in ["version", "uptime_seconds", "clients"] {
        line(name, &told[name]);
    }
    for part in ["health", "fleet", "journal"] {
        for (name, value) in told[part].as_object().into_iter().flatten() {
            match value.as_object() {
                Some(inner) => {
                    inner
                        .iter()
                        .for_each(|(last, value)| line(&format!("{part}.{name}.{last}"), value));
                }
                None => line(&format!("{part}.{name}"), value),
            }
        }
    }
    for mapping in told["mappings"].as_array().into_iter().flatten() {
        let word = |name: &str| mapping[name].as_str().unwrap_or_default().to_owned();
        let flags = ["passes_through", "degraded", "set_aside"];
        let mut all = word("strategy");
        for flag in flags.into_iter().filter(|flag| mapping[*flag] == true) {
            all = format!("{all}, {flag}");
        }
        let mut counts = format!("{} hits, {} misses", mapping["hits"], mapping["misses"]);
        if let Some(phase) = mapping["phase"].as_str() {
            write!(counts, ", phase {phase}").expect("a String takes any text");
        }
        line(&format!("mapping {}", word("name")), &Value::String(format!("{all}, {counts}")));
    }
    let jobs = told["jobs"].as_array().into_iter().flatten();
    for job in jobs.filter(|job| ["running", "cancelling"].map(Value::from).contains(&job["state"]))
    {
        line(&format!("job {}", job["id"]), &Value::String(of_job(job)));
    }
    text.truncate(text.trim_end().len());
    text
}

fn of_job(job: &Value) -> String {
    let word = |name: &str| job[name].as_str().unwrap_or_default().to_owned();
    let mapping = job["mapping"].as_str().unwrap_or("all");
    let left = job["seconds_left"].as_u64().map_or("?".to_owned(), |left| left.to_string());
    let count = |name: &str| job[name].as_u64().unwrap_or_default();
    format!(
        "{} of {mapping}, {}, {} of about {} keys, {} written, {} found, {:.0} keys/s, {left} s left",
        word("kind"),
        word("state"),
        count("walked"),
        count("expected"),
        count("written"),
        count("findings"),
        job["keys_per_second"].as_f64().unwrap_or_default(),
    )
}

/// The samples of a page, without the buckets of histograms.
fn values(page: &str) -> BTreeMap<String, f64> {
    let lines = page.lines().filter(|line| !line.starts_with('#') && !line.contains("_bucket{"));
    let sample = |line: &str| {
        let (name, value) = line.rsplit_once(' ')?;
        Some((name.to_owned(), value.parse().ok()?))
    };
    lines.filter_map(sample).collect()
}

/// A line for each that has changed, and an empty one.
fn changes(before: &BTreeMap<String, f64>, now: &BTreeMap<String, f64>) -> String {
    let mut text = String::new();
    for (name, value) in now.iter().filter(|(name, _)| *name != "respgres_uptime_seconds") {
        let change = value - before.get(name).unwrap_or(&0.0);
        if change != 0.0 {
            writeln!(text, "{name} {value} ({change:+})").expect("a String takes any text");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_has_changed_is_told() {
        let before = values("# HELP x\na 1\nb{c=\"d e\"} 2\nrespgres_uptime_seconds 1");
        let now =
            values("a 1\nb{c=\"d e\"} 5\nh_bucket{le=\"1\"} 4\nn 0.5\nrespgres_uptime_seconds 2");
        assert_eq!(changes(&before, &now), "b{c=\"d e\"} 5 (+3)\nn 0.5 (+0.5)\n");
    }
}
