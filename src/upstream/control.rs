//! A connection to the upstream for commands of our own, used by one task at a time.
//!
//! Calls that nobody waits for (`post`) are written at once; their replies are read, and their
//! errors logged, before those of the next call. After an error the connection is opened anew by the
//! next call; scripts are loaded whenever it is opened.
//!
//! Invariants
//! - A call is sent once. What was sent over a connection that is lost may still run, and later than
//!   anything else: sent again with the same token it could bring back a mark that a writer has
//!   voided, or set aside a newer value under a mark that an older `end` still knows. So whoever
//!   wants to try again makes new calls, with new tokens.
//! - A call that is given up half-way (timeout, dropped future) takes its connection with it: no reply
//!   is ever taken for that of another call.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use redis_protocol::resp2::decode::decode_bytes;
use redis_protocol::resp2::types::BytesFrame;
use tokio::io::AsyncWriteExt;

use super::link::{Link, Questions, UpstreamError, read_frame};
use super::run::RunId;
use super::scripts::{Call, Script};
use crate::config::RedisUrl;
use crate::protocol::Version;
use crate::protocol::inline::encode_request;

pub use redis_protocol::resp2::types::BytesFrame as Frame;

/// How to reach the upstream.
#[derive(Clone, Debug)]
pub struct ControlSettings {
    pub address: RedisUrl,
    pub database: u16,
    pub connect_timeout_ms: u64,
    pub request_timeout_ms: u64,
}

#[derive(Debug)]
pub struct Control {
    settings: ControlSettings,
    connection: Option<Connection>,
}

#[derive(Debug)]
struct Connection {
    link: Link,
    buffer: BytesMut,
    out: BytesMut,
    /// Replies to posted calls, still to be read.
    unread: usize,
    /// SHA-1 of each script, in the order of `Script::ALL`.
    hashes: Vec<Bytes>,
}

// === impl Control ===

impl Control {
    pub fn new(settings: ControlSettings) -> Self {
        Self { settings, connection: None }
    }

    /// Runs scripts in order and waits for their replies. A call that Redis answers with an error
    /// has `Frame::Error` in its place.
    ///
    /// # Errors
    /// When the upstream is out of reach; the scripts may or may not have run, or may run later.
    pub async fn call(&mut self, calls: &[Call]) -> Result<Vec<Frame>, UpstreamError> {
        let mut replies = self.exchange(calls).await?;
        // Somebody has flushed the scripts (SCRIPT FLUSH): those calls have not run.
        if replies.iter().any(is_script_missing) {
            self.connection = None;
            let missing: Vec<usize> =
                (0..replies.len()).filter(|&at| is_script_missing(&replies[at])).collect();
            let again: Vec<Call> = missing.iter().map(|&at| calls[at].clone()).collect();
            for (at, reply) in missing.into_iter().zip(self.exchange(&again).await?) {
                replies[at] = reply;
            }
        }
        Ok(replies)
    }

    /// By which name Redis knows a script; `None` while there is no connection.
    pub fn hash_of(&self, script: Script) -> Option<Bytes> {
        self.connection.as_ref()?.hashes.get(script as usize).cloned()
    }

    /// The run of the upstream that the calls to come will reach; opens the connection if there is none.
    /// `None`: it does not tell.
    ///
    /// # Errors
    /// When the upstream is out of reach.
    pub async fn run_id(&mut self) -> Result<Option<RunId>, UpstreamError> {
        if let Some(connection) = &self.connection {
            return Ok(connection.link.run_id);
        }
        self.talk(async |connection| Ok(connection.link.run_id)).await
    }

    /// As `run_id`, over a connection that has just answered: one that has died unnoticed is opened anew.
    ///
    /// # Errors
    /// When the upstream is out of reach.
    pub async fn live_run_id(&mut self) -> Result<Option<RunId>, UpstreamError> {
        let ping = [Bytes::from_static(b"PING")];
        match self.command(&ping).await {
            Err(UpstreamError::Lost(_)) => {}
            answer => drop(answer?),
        }
        self.run_id().await
    }

    /// As `run_id`, over a new connection: who has the address now.
    ///
    /// # Errors
    /// When the upstream is out of reach.
    pub async fn run_id_anew(&mut self) -> Result<Option<RunId>, UpstreamError> {
        self.connection = None;
        self.run_id().await
    }

    /// Runs scripts in order, before all later calls, without waiting. An upstream out of reach is
    /// noticed by the next call.
    pub async fn post(&mut self, calls: &[Call]) {
        let timeout = Duration::from_millis(self.settings.request_timeout_ms);
        let Some(mut connection) = self.connection.take() else { return };
        let posted = tokio::time::timeout(timeout, connection.send(calls)).await;
        if let Ok(Ok(())) = posted {
            connection.unread += calls.len();
            self.connection = Some(connection);
        }
    }

    /// Runs one command, once.
    ///
    /// # Errors
    /// When the upstream is out of reach; the command may or may not have run.
    pub async fn command(&mut self, words: &[Bytes]) -> Result<Frame, UpstreamError> {
        let mut replies = self.commands(&[words]).await?;
        Ok(replies.remove(0))
    }

    /// Runs commands in order, each once.
    ///
    /// # Errors
    /// As `command`.
    pub async fn commands(&mut self, commands: &[&[Bytes]]) -> Result<Vec<Frame>, UpstreamError> {
        self.talk(async |connection| connection.run(commands).await).await
    }

    /// Runs one command that takes Redis long.
    ///
    /// # Errors
    /// As `command`.
    pub async fn long_command(
        &mut self,
        words: &[Bytes],
        timeout_ms: u64,
    ) -> Result<Frame, UpstreamError> {
        let run = async |connection: &mut Connection| connection.run(&[words]).await;
        let mut replies = self.talk_within(timeout_ms, run).await?;
        Ok(replies.remove(0))
    }

    async fn exchange(&mut self, calls: &[Call]) -> Result<Vec<Frame>, UpstreamError> {
        self.talk(async |connection| {
            connection.send(calls).await?;
            connection.receive(calls.len()).await
        })
        .await
    }

    /// Keeps the connection only if all went well.
    async fn talk<T>(
        &mut self,
        exchange: impl AsyncFnOnce(&mut Connection) -> Result<T, UpstreamError>,
    ) -> Result<T, UpstreamError> {
        self.talk_within(self.settings.request_timeout_ms, exchange).await
    }

    async fn talk_within<T>(
        &mut self,
        timeout_ms: u64,
        exchange: impl AsyncFnOnce(&mut Connection) -> Result<T, UpstreamError>,
    ) -> Result<T, UpstreamError> {
        let kept = self.connection.take();
        let (done, connection) = with_timeout(timeout_ms, async {
            let mut connection = match kept {
                Some(connection) => connection,
                None => Connection::open(&self.settings).await?,
            };
            let done = exchange(&mut connection).await?;
            Ok((done, connection))
        })
        .await?;
        self.connection = Some(connection);
        Ok(done)
    }
}

async fn with_timeout<T>(
    timeout_ms: u64,
    work: impl Future<Output = Result<T, UpstreamError>>,
) -> Result<T, UpstreamError> {
    tokio::time::timeout(Duration::from_millis(timeout_ms), work)
        .await
        .unwrap_or(Err(UpstreamError::Timeout(timeout_ms)))
}

fn is_script_missing(frame: &Frame) -> bool {
    matches!(frame, BytesFrame::Error(text) if text.starts_with("NOSCRIPT"))
}

// === impl Connection ===

impl Connection {
    async fn open(settings: &ControlSettings) -> Result<Self, UpstreamError> {
        let link = Link::open(
            &settings.address,
            settings.database,
            Version::Resp2,
            settings.connect_timeout_ms,
            Questions { id: false, run_id: true },
        )
        .await?;
        let mut connection = Self {
            link,
            buffer: BytesMut::new(),
            out: BytesMut::new(),
            unread: 0,
            hashes: Vec::new(),
        };
        for script in Script::ALL {
            let [verb, load] = ["SCRIPT", "LOAD"].map(|word| Bytes::from_static(word.as_bytes()));
            let words = [verb, load, Bytes::from(script.text().into_owned())];
            encode_request(&words, &mut connection.out);
        }
        connection.flush().await?;
        for reply in connection.receive(Script::ALL.len()).await? {
            match reply {
                BytesFrame::BulkString(hash) => connection.hashes.push(hash),
                BytesFrame::Error(text) => return Err(UpstreamError::Refused(text.to_string())),
                _ => return Err(UpstreamError::Protocol("no hash for SCRIPT LOAD".into())),
            }
        }
        Ok(connection)
    }

    async fn send(&mut self, calls: &[Call]) -> Result<(), UpstreamError> {
        let mut words = Vec::new();
        for call in calls {
            words.clear();
            words.push(Bytes::from_static(b"EVALSHA"));
            words.push(self.hashes[call.script as usize].clone());
            words.push(Bytes::from(call.keys.len().to_string()));
            words.extend_from_slice(&call.keys);
            words.extend_from_slice(&call.arguments);
            encode_request(&words, &mut self.out);
        }
        self.flush().await
    }

    async fn run(&mut self, commands: &[&[Bytes]]) -> Result<Vec<Frame>, UpstreamError> {
        for words in commands {
            encode_request(words, &mut self.out);
        }
        self.flush().await?;
        self.receive(commands.len()).await
    }

    async fn flush(&mut self) -> Result<(), UpstreamError> {
        let written = self.link.writer.write_all(&self.out).await;
        self.out.clear();
        written.map_err(|error| UpstreamError::Lost(error.to_string()))
    }

    /// Reads the replies to posted calls, then `count` more.
    async fn receive(&mut self, count: usize) -> Result<Vec<Frame>, UpstreamError> {
        while self.unread > 0 {
            let frame = self.frame().await?;
            self.unread -= 1;
            if let BytesFrame::Error(text) = frame {
                tracing::warn!(error = %text, "a step of the cache protocol failed");
            }
        }
        let mut replies = Vec::with_capacity(count);
        for _ in 0..count {
            replies.push(self.frame().await?);
        }
        Ok(replies)
    }

    async fn frame(&mut self) -> Result<Frame, UpstreamError> {
        let bytes = read_frame(&mut self.link.reader, &mut self.buffer).await?;
        match decode_bytes(&bytes) {
            Ok(Some((frame, _))) => Ok(frame),
            Ok(None) => Err(UpstreamError::Protocol("an incomplete reply".into())),
            Err(error) => Err(UpstreamError::Protocol(error.to_string())),
        }
    }
}

/// A page of SCAN as it was answered: the next cursor, and names.
///
/// # Errors
/// `Refused` with what Redis says; `Protocol` where it is no page.
pub fn scan_page(reply: Frame) -> Result<(Bytes, Vec<Bytes>), UpstreamError> {
    let odd = || UpstreamError::Protocol("an odd answer to SCAN".into());
    let parts = match reply {
        Frame::Array(parts) => parts,
        Frame::Error(text) => return Err(UpstreamError::Refused(text.to_string())),
        _ => return Err(odd()),
    };
    let mut parts = parts.into_iter();
    let (Some(Frame::BulkString(cursor)), Some(Frame::Array(names))) = (parts.next(), parts.next())
    else {
        return Err(odd());
    };
    let name = |frame| match frame {
        Frame::BulkString(name) => Ok(name),
        _ => Err(odd()),
    };
    Ok((cursor, names.into_iter().map(name).collect::<Result<_, _>>()?))
}
