//! What a proxy occupies: when nobody is there, and with thousands of idle connections.
//!
//! Each proxy is started anew for it, before anything else has used it.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::time::Duration;

use crate::figures::Memory;
use crate::rig::Failure;
use crate::rig::process;
use crate::target::{Kind, Surroundings, Target};

/// Redis, behind a proxy that has an upstream connection for each client, takes 10,000 at most.
const MOST_CONNECTIONS: u32 = 9_900;

/// For buffers that are given back late, and for what starts by a timer.
const SETTLE: Duration = Duration::from_secs(1);

/// Connections that every proxy can hold: some need two files for each.
pub(crate) fn connections() -> u32 {
    MOST_CONNECTIONS.min(process::open_files().saturating_sub(200) / 2)
}

pub(crate) async fn measure(
    kind: Kind,
    surroundings: &Surroundings<'_>,
) -> Result<Memory, Failure> {
    let target = Target::start(kind, surroundings).await?;
    let proxy = target.proxy.as_ref().ok_or("direct Redis is no proxy")?;
    tokio::time::sleep(SETTLE).await;
    let idle_mb = proxy.resident_mb()?;
    let count = connections();
    let port = target.port;
    let held = tokio::task::spawn_blocking(move || connect(port, count)).await??;
    tokio::time::sleep(SETTLE).await;
    let connected_mb = proxy.resident_mb()?;
    Ok(Memory { target: kind, connections: u32::try_from(held.len())?, idle_mb, connected_mb })
}

/// Connections that have each done one PING.
fn connect(port: u16, count: u32) -> Result<Vec<TcpStream>, Failure> {
    let mut held = Vec::new();
    for number in 1..=count {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        stream.write_all(b"*1\r\n$4\r\nPING\r\n")?;
        let mut reply = [0; 7];
        stream
            .read_exact(&mut reply)
            .map_err(|error| format!("no reply to PING on connection {number}: {error}"))?;
        if &reply != b"+PONG\r\n" {
            let reply = String::from_utf8_lossy(&reply).into_owned();
            return Err(format!("connection {number} answers PING with {reply:?}").into());
        }
        held.push(stream);
    }
    Ok(held)
}
