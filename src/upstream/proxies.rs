//! Which proxies are alive, as Redis knows it: one hash, a field a proxy, with the end of its lease by
//! Redis' own clock.
//!
//! The hash has no end itself: where Redis evicts what has one, no proxy seems to be dead for that.

use bytes::Bytes;

use super::control::{Control, Frame};
use super::link::UpstreamError;
use super::scripts::{Call, ENTRIES, PROXIES, Script};

/// All proxies that are registered, and what time it was; milliseconds since the Unix epoch, by Redis'
/// clock.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProxyRoll {
    pub now_ms: i64,
    pub proxies: Vec<ProxyEntry>,
    /// What holds for mappings: mapping, version, entry as JSON.
    pub entries: Vec<(String, u64, String)>,
}

/// One registered proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyEntry {
    pub id: String,
    pub lease_until_ms: i64,
    /// What it says of itself, as JSON.
    pub standing: String,
}

/// What takes the place of the entry of a proxy that has stopped.
const STOPPED: &[u8] = b"0 {\"has_stopped\":true}";

// === impl Control ===

impl Control {
    /// What time it is, by Redis' clock.
    ///
    /// # Errors
    /// When the upstream is out of reach, or does not tell.
    pub async fn clock_ms(&mut self) -> Result<i64, UpstreamError> {
        match self.command(&[Bytes::from_static(b"TIME")]).await? {
            Frame::Array(parts) => match &parts[..] {
                [Frame::BulkString(seconds), Frame::BulkString(micros)] => {
                    let (seconds, micros) = (number(seconds)?, number(micros)?);
                    Ok(seconds * 1000 + micros / 1000)
                }
                _ => Err(odd()),
            },
            Frame::Error(text) => Err(UpstreamError::Refused(text.to_string())),
            _ => Err(odd()),
        }
    }

    /// Registers a proxy, or prolongs its lease; takes out those of `stale` whose lease has ended, and tells
    /// who is registered.
    ///
    /// # Errors
    /// When the upstream is out of reach, or refuses.
    pub async fn beat(
        &mut self,
        entry: &ProxyEntry,
        stale: &[String],
    ) -> Result<ProxyRoll, UpstreamError> {
        let own = [entry.id.clone(), entry.lease_until_ms.to_string(), entry.standing.clone()];
        let arguments = own.iter().chain(stale).cloned().map(Bytes::from).collect();
        let keys = [PROXIES, ENTRIES].map(Bytes::from_static).to_vec();
        let call = Call { script: Script::Beat, keys, arguments };
        match self.call(&[call]).await?.pop() {
            Some(Frame::Array(parts)) => match <[Frame; 3]>::try_from(parts) {
                Ok([Frame::Integer(now_ms), Frame::Array(proxies), Frame::Array(entries)]) => {
                    let (proxies, entries) = (proxies_of(proxies)?, entries_of(entries)?);
                    Ok(ProxyRoll { now_ms, proxies, entries })
                }
                _ => Err(odd()),
            },
            Some(Frame::Error(text)) => Err(UpstreamError::Refused(text.to_string())),
            _ => Err(odd()),
        }
    }

    /// All proxies that are registered.
    ///
    /// # Errors
    /// When the upstream is out of reach, or does not tell.
    pub async fn proxies(&mut self) -> Result<ProxyRoll, UpstreamError> {
        let now_ms = self.clock_ms().await?;
        let words = [Bytes::from_static(b"HGETALL"), Bytes::from_static(PROXIES)];
        match self.command(&words).await? {
            Frame::Array(fields) => {
                Ok(ProxyRoll { now_ms, proxies: proxies_of(fields)?, entries: Vec::new() })
            }
            Frame::Error(text) => Err(UpstreamError::Refused(text.to_string())),
            _ => Err(odd()),
        }
    }

    /// Tells what holds for mappings: mapping, version, entry as JSON. What is older than what is known there
    /// changes nothing.
    ///
    /// # Errors
    /// When the upstream is out of reach, or refuses.
    pub async fn announce(
        &mut self,
        entries: &[(String, u64, String)],
    ) -> Result<(), UpstreamError> {
        let words = |(mapping, version, entry): &(String, u64, String)| {
            [mapping.clone(), version.to_string(), entry.clone()].map(Bytes::from)
        };
        let arguments = entries.iter().flat_map(words).collect();
        let keys = vec![Bytes::from_static(ENTRIES)];
        match self.call(&[Call { script: Script::Announce, keys, arguments }]).await?.pop() {
            Some(Frame::Error(text)) => Err(UpstreamError::Refused(text.to_string())),
            _ => Ok(()),
        }
    }

    /// A proxy has stopped, or will not come back. It is taken out once Postgres knows it too: who is just
    /// not there could as well be one of which Redis has lost the entry.
    ///
    /// # Errors
    /// When the upstream is out of reach, or refuses.
    pub async fn stop_proxy(&mut self, id: &str) -> Result<(), UpstreamError> {
        let words = [
            Bytes::from_static(b"HSET"),
            Bytes::from_static(PROXIES),
            Bytes::copy_from_slice(id.as_bytes()),
            Bytes::from_static(STOPPED),
        ];
        match self.command(&words).await? {
            Frame::Error(text) => Err(UpstreamError::Refused(text.to_string())),
            _ => Ok(()),
        }
    }
}

fn proxies_of(fields: Vec<Frame>) -> Result<Vec<ProxyEntry>, UpstreamError> {
    let proxy = |(id, lease_until_ms, standing)| ProxyEntry { id, lease_until_ms, standing };
    Ok(numbered(fields)?.into_iter().map(proxy).collect())
}

fn entries_of(fields: Vec<Frame>) -> Result<Vec<(String, u64, String)>, UpstreamError> {
    let entry = |(mapping, version, entry): (String, i64, String)| {
        Ok((mapping, u64::try_from(version).map_err(|_| odd())?, entry))
    };
    numbered(fields)?.into_iter().map(entry).collect()
}

/// Fields of a hash whose values are a number and a text each.
fn numbered(fields: Vec<Frame>) -> Result<Vec<(String, i64, String)>, UpstreamError> {
    let mut fields = fields.into_iter();
    let mut told = Vec::new();
    while let (Some(Frame::BulkString(name)), Some(Frame::BulkString(text))) =
        (fields.next(), fields.next())
    {
        let text = String::from_utf8_lossy(&text);
        let (first, rest) = text.split_once(' ').ok_or_else(odd)?;
        let name = String::from_utf8_lossy(&name).into_owned();
        told.push((name, number(first.as_bytes())?, rest.to_owned()));
    }
    Ok(told)
}

fn number(text: &[u8]) -> Result<i64, UpstreamError> {
    std::str::from_utf8(text).ok().and_then(|text| text.parse().ok()).ok_or_else(odd)
}

fn odd() -> UpstreamError {
    UpstreamError::Protocol("an odd answer about the proxies".into())
}
