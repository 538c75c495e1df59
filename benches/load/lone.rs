//! One client alone: GET after GET, each latency to the microsecond and below.
//!
//! Blocking calls on a thread of their own: nothing but the two system calls of a request and the
//! waiting itself is in the figure.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::time::{Duration, Instant};

use crate::rig::Failure;
use crate::rig::figure::quantile;
use crate::workload::Run;

/// What GET answers: the preloaded values are three bytes long.
const REPLY: &[u8] = b"$3\r\nxxx\r\n";

/// Requests before those that count.
const WARM_UP: u64 = 1000;

pub(crate) async fn run(port: u16, requests: u64, keys: u32) -> Result<Run, Failure> {
    tokio::task::spawn_blocking(move || run_blocking(port, requests, keys)).await?
}

fn run_blocking(port: u16, requests: u64, keys: u32) -> Result<Run, Failure> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut latencies_ns = Vec::with_capacity(usize::try_from(requests)?);
    let mut reply = [0; REPLY.len()];
    let mut start = Instant::now();
    for number in 0..WARM_UP + requests {
        if number == WARM_UP {
            start = Instant::now();
        }
        // A stride that has no factor in common with the number of keys visits them all.
        let key = (number * 7919) % u64::from(keys);
        let request = format!("*2\r\n$3\r\nGET\r\n$16\r\nkey:{key:012}\r\n");
        let sent = Instant::now();
        stream.write_all(request.as_bytes())?;
        stream.read_exact(&mut reply)?;
        if number >= WARM_UP {
            latencies_ns.push(u32::try_from(sent.elapsed().as_nanos()).unwrap_or(u32::MAX));
        }
        if reply != REPLY {
            return Err(format!("GET answers {:?}", String::from_utf8_lossy(&reply)).into());
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    latencies_ns.sort_unstable();
    let microseconds = |q: f64| quantile(&latencies_ns, q) / 1e3;
    Ok(Run {
        requests_per_second: requests as f64 / seconds,
        p50_us: microseconds(0.5),
        p99_us: microseconds(0.99),
        p999_us: microseconds(0.999),
    })
}
