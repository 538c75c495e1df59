//! What is written behind: how long Postgres takes to catch up.

use std::time::{Duration, Instant};

use redis_protocol::resp2::types::BytesFrame;

use crate::rig::Failure;
use crate::rig::client::Client;

/// More than it may take.
const LIMIT: Duration = Duration::from_secs(60);

const PAUSE: Duration = Duration::from_millis(100);

/// Waits until the journal is empty; what was seen meanwhile.
pub(crate) async fn drain(respgres_port: u16) -> Result<String, Failure> {
    let mut client = Client::connect(respgres_port).await?;
    let start = Instant::now();
    let mut lag_ms = 0;
    loop {
        let BytesFrame::BulkString(info) = client.call(&[b"INFO", b"respgres"]).await? else {
            return Err("INFO is no text".into());
        };
        let info = String::from_utf8_lossy(&info).into_owned();
        let number = |name: &str| -> Result<u64, Failure> {
            let line = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            Ok(line.ok_or_else(|| format!("INFO does not tell {name}"))?.trim().parse()?)
        };
        lag_ms = lag_ms.max(number("respgres_journal_lag_ms")?);
        // What it says may be half a second old.
        if number("respgres_journal_entries")? == 0 && start.elapsed() > Duration::from_secs(1) {
            let flushed = number("respgres_journal_flushed_changes")?;
            return Ok(format!(
                "lag of the journal {lag_ms} ms at most, {flushed} changes flushed so far"
            ));
        }
        if start.elapsed() > LIMIT {
            return Err(format!("the journal is not empty after {LIMIT:?}").into());
        }
        tokio::time::sleep(PAUSE).await;
    }
}
