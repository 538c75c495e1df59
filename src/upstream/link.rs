//! One connection to the upstream: opened, authenticated, on its database and protocol version.

use std::io;
use std::net::Shutdown;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use socket2::{SockRef, TcpKeepalive};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpStream, UnixStream, tcp, unix};

use super::run::RunId;
use crate::config::RedisUrl;
use crate::config::url::Endpoint;
use crate::protocol::Version;
use crate::protocol::inline::encode_request;
use crate::protocol::scan::{ReplyScanner, Step};

/// Silence after which the upstream is asked for a sign of life.
const KEEPALIVE: Duration = Duration::from_secs(15);

/// Why the upstream cannot be used.
#[derive(Clone, Debug, Error)]
pub enum UpstreamError {
    #[error("cannot connect to the upstream Redis at {address}: {cause}")]
    Connect { address: String, cause: String },
    /// The upstream answered the handshake with this error (its text, without the `-`).
    #[error("the upstream Redis refused the connection: {0}")]
    Refused(String),
    #[error("the connection to the upstream Redis was lost: {0}")]
    Lost(String),
    #[error("the upstream Redis did not answer within {0} ms")]
    Timeout(u64),
    #[error("the upstream Redis has answered nobody for {0} ms")]
    Silent(u64),
    #[error("the upstream Redis is another one than respgres has met last")]
    Elsewhere,
    #[error("the upstream Redis sent bytes that are no reply: {0}")]
    Protocol(String),
}

/// An open connection, in two halves.
#[derive(Debug)]
pub struct Link {
    pub reader: LinkReader,
    pub writer: LinkWriter,
    /// The connection's CLIENT ID in the upstream; 0 when it was not asked, or does not tell.
    pub id: u64,
    /// `None` when it was not asked, or does not tell: then nobody knows what data it has.
    pub run_id: Option<RunId>,
}

/// What the upstream is asked once it has let us in.
#[derive(Clone, Copy, Debug, Default)]
pub struct Questions {
    /// The connection's number.
    pub id: bool,
    pub run_id: bool,
}

#[derive(Debug)]
pub enum LinkReader {
    Tcp(tcp::OwnedReadHalf),
    Unix(unix::OwnedReadHalf),
}

#[derive(Debug)]
pub enum LinkWriter {
    Tcp(tcp::OwnedWriteHalf),
    Unix(unix::OwnedWriteHalf),
}

// === impl Link ===

impl Link {
    /// Connects, authenticates, selects the protocol version and the database, and asks.
    ///
    /// # Errors
    /// When the upstream is out of reach within `timeout_ms` or refuses a step.
    pub async fn open(
        address: &RedisUrl,
        database: u16,
        version: Version,
        timeout_ms: u64,
        questions: Questions,
    ) -> Result<Self, UpstreamError> {
        let opening = async {
            let mut link =
                Self::connect(address).await.map_err(|error| UpstreamError::Connect {
                    address: address.endpoint.to_string(),
                    cause: error.to_string(),
                })?;
            link.shake_hands(address, database, version, questions).await?;
            Ok(link)
        };
        tokio::time::timeout(Duration::from_millis(timeout_ms), opening)
            .await
            .unwrap_or(Err(UpstreamError::Timeout(timeout_ms)))
    }

    /// Whether a new connection gets a word out of the upstream.
    ///
    /// The request is one that Redis refuses before all else, so that it is answered also without a
    /// password, while the data is loaded, while a script is found to be busy, and while clients are
    /// paused.
    pub async fn is_answered(address: &RedisUrl, timeout_ms: u64) -> bool {
        let asking = async {
            let mut link = Self::connect(address).await?;
            link.writer.write_all(b"*1\r\n$4\r\nECHO\r\n").await?;
            link.reader.read_u8().await
        };
        let asked = tokio::time::timeout(Duration::from_millis(timeout_ms), asking).await;
        matches!(asked, Ok(Ok(_)))
    }

    fn new(reader: LinkReader, writer: LinkWriter) -> Self {
        Self { reader, writer, id: 0, run_id: None }
    }

    async fn connect(address: &RedisUrl) -> io::Result<Self> {
        Ok(match &address.endpoint {
            Endpoint::Tcp(host, port) => {
                let stream = TcpStream::connect((host.as_str(), *port)).await?;
                stream.set_nodelay(true)?;
                // A machine that has vanished says nothing.
                SockRef::from(&stream).set_tcp_keepalive(
                    &TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE / 3),
                )?;
                let (reader, writer) = stream.into_split();
                Self::new(LinkReader::Tcp(reader), LinkWriter::Tcp(writer))
            }
            Endpoint::Unix(path) => {
                let (reader, writer) = UnixStream::connect(path).await?.into_split();
                Self::new(LinkReader::Unix(reader), LinkWriter::Unix(writer))
            }
        })
    }

    async fn shake_hands(
        &mut self,
        address: &RedisUrl,
        database: u16,
        version: Version,
        questions: Questions,
    ) -> Result<(), UpstreamError> {
        let select = database.to_string();
        let mut steps: Vec<Vec<&str>> = Vec::new();
        match (&address.user, &address.password) {
            (Some(user), Some(password)) => steps.push(vec!["AUTH", user, password]),
            (None, Some(password)) => steps.push(vec!["AUTH", password]),
            (_, None) => {}
        }
        if version == Version::Resp3 {
            steps.push(vec!["HELLO", "3"]);
        }
        if database != 0 {
            steps.push(vec!["SELECT", &select]);
        }
        let settled = steps.len();
        if questions.id {
            steps.push(vec!["CLIENT", "ID"]);
        }
        if questions.run_id {
            steps.push(vec!["INFO", "server"]);
        }
        if steps.len() == settled {
            // Makes sure that somebody answers, and is willing to: NOAUTH, max clients reached.
            steps.push(vec!["PING"]);
        }
        let mut requests = BytesMut::new();
        for step in &steps {
            encode_request(step, &mut requests);
        }
        self.writer.write_all(&requests).await.map_err(lost)?;
        let mut buffer = BytesMut::with_capacity(4096);
        for step in 0..steps.len() {
            let reply = read_frame(&mut self.reader, &mut buffer).await?;
            let text = || String::from_utf8_lossy(&reply[1..]).trim_end().to_owned();
            match reply[0] {
                b'-' if step >= settled && is_alive(&text()) => {}
                b'-' => return Err(UpstreamError::Refused(text())),
                b':' => self.id = text().parse().unwrap_or(0),
                // A verbatim string in RESP3.
                b'$' | b'=' => self.run_id = RunId::of_info(&reply),
                _ => {}
            }
        }
        Ok(())
    }
}

/// Whether an error comes from a Redis that takes connections: clients shall be told it themselves,
/// and what a Redis that loads or runs a script does allow (SCRIPT KILL) has to get through.
fn is_alive(error: &str) -> bool {
    let first = error.split(' ').next().unwrap_or_default();
    matches!(first, "BUSY" | "LOADING" | "MASTERDOWN" | "NOPERM")
}

/// Reads one whole reply frame.
///
/// # Errors
/// When the connection is lost, or the bytes are no reply.
pub async fn read_frame(
    reader: &mut LinkReader,
    buffer: &mut BytesMut,
) -> Result<Bytes, UpstreamError> {
    let mut scanner = ReplyScanner::new();
    let mut seen = 0;
    loop {
        match scanner.next(&buffer[seen..]) {
            Step::End(length) => return Ok(buffer.split_to(seen + length).freeze()),
            Step::Partial => seen = buffer.len(),
            Step::Error(text) => return Err(UpstreamError::Protocol(text.to_string())),
        }
        if reader.read_buf(buffer).await.map_err(lost)? == 0 {
            return Err(UpstreamError::Lost("closed by the upstream".into()));
        }
    }
}

fn lost(error: io::Error) -> UpstreamError {
    UpstreamError::Lost(error.to_string())
}

// === impl LinkReader, LinkWriter ===

impl LinkWriter {
    /// Writes what the socket takes now.
    pub fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(half) => half.try_write(bytes),
            Self::Unix(half) => half.try_write(bytes),
        }
    }

    /// Says that nothing more will be written.
    pub fn finish(&self) -> io::Result<()> {
        match self {
            Self::Tcp(half) => SockRef::from(half.as_ref()).shutdown(Shutdown::Write),
            Self::Unix(half) => SockRef::from(half.as_ref()).shutdown(Shutdown::Write),
        }
    }

    /// Writes some of the bytes, as soon as the socket takes any.
    pub async fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match self.try_write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => match self {
                    Self::Tcp(half) => half.writable().await?,
                    Self::Unix(half) => half.writable().await?,
                },
                done => return done,
            }
        }
    }
}

impl AsyncRead for LinkReader {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(half) => Pin::new(half).poll_read(cx, buffer),
            Self::Unix(half) => Pin::new(half).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for LinkWriter {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(half) => Pin::new(half).poll_write(cx, bytes),
            Self::Unix(half) => Pin::new(half).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(half) => Pin::new(half).poll_flush(cx),
            Self::Unix(half) => Pin::new(half).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(half) => Pin::new(half).poll_shutdown(cx),
            Self::Unix(half) => Pin::new(half).poll_shutdown(cx),
        }
    }
}
