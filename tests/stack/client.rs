//! A Redis client for tests: shows every byte, hides nothing.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use super::process::DEADLINE;
use super::resp::{Value, arguments, request};

/// What can be talked to: a proxy, a Redis, or the stack (its first proxy).
pub trait Server {
    /// `host:port`, or the path of a Unix socket.
    fn address(&self) -> String;
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// One connection.
pub struct Client {
    stream: Box<dyn Stream>,
    received: Vec<u8>,
}

impl Client {
    pub async fn connect(server: &impl Server) -> Self {
        Self::connect_to(&server.address()).await
    }

    pub async fn connect_to(address: &str) -> Self {
        Self::try_connect_to(address)
            .await
            .unwrap_or_else(|error| panic!("cannot connect to {address}: {error}"))
    }

    pub async fn try_connect_to(address: &str) -> std::io::Result<Self> {
        let stream: Box<dyn Stream> = if address.starts_with('/') {
            Box::new(UnixStream::connect(address).await?)
        } else {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            Box::new(stream)
        };
        Ok(Self { stream, received: Vec::new() })
    }

    /// One side to read from, one to send to, for tasks of their own.
    pub fn split(self) -> (Self, Self) {
        let Self { stream, received } = self;
        let (reader, writer) = tokio::io::split(stream);
        let reader =
            Self { stream: Box::new(tokio::io::join(reader, tokio::io::sink())), received };
        let writer = tokio::io::join(tokio::io::empty(), writer);
        (reader, Self { stream: Box::new(writer), received: Vec::new() })
    }

    /// Sends a command line in redis-cli's quoting and reads one reply.
    pub async fn say(&mut self, line: &str) -> Value {
        self.command(&arguments(line)).await
    }

    /// Sends one command and reads one reply.
    pub async fn command<A: AsRef<[u8]>>(&mut self, arguments: &[A]) -> Value {
        self.send(&request(arguments)).await;
        self.reply().await
    }

    /// As `command`; an error when the connection ends instead.
    pub async fn try_command<A: AsRef<[u8]>>(&mut self, arguments: &[A]) -> std::io::Result<Value> {
        self.stream.write_all(&request(arguments)).await?;
        self.try_reply().await
    }

    /// Sends all commands in one write, then reads all replies.
    pub async fn pipeline<A: AsRef<[u8]>>(&mut self, commands: &[Vec<A>]) -> Vec<Value> {
        let bytes: Vec<u8> = commands.iter().flat_map(|command| request(command)).collect();
        self.send(&bytes).await;
        let mut replies = Vec::with_capacity(commands.len());
        for _ in commands {
            replies.push(self.reply().await);
        }
        replies
    }

    /// Sends bytes as they are.
    pub async fn send(&mut self, bytes: &[u8]) {
        let sent = timeout(DEADLINE, self.stream.write_all(bytes)).await;
        sent.expect("the server reads").expect("the connection is open");
    }

    /// Says that nothing more will be sent; replies can still be read.
    pub async fn finish_sending(&mut self) {
        let finished = self.stream.shutdown().await;
        finished.expect("the connection is open");
    }

    /// Reads one reply; fails when the connection ends or nothing comes.
    pub async fn reply(&mut self) -> Value {
        self.try_reply().await.unwrap_or_else(|error| panic!("no reply: {error}"))
    }

    pub async fn try_reply(&mut self) -> std::io::Result<Value> {
        loop {
            if let Some((value, taken)) = Value::parse(&self.received) {
                self.received.drain(..taken);
                return Ok(value);
            }
            if self.receive(DEADLINE).await? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// Reads until the server closes the connection and returns the bytes.
    pub async fn read_to_end(&mut self) -> Vec<u8> {
        loop {
            match self.receive(DEADLINE).await {
                Ok(0) => return std::mem::take(&mut self.received),
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {
                    return std::mem::take(&mut self.received);
                }
                Err(error) => panic!("the connection was not closed: {error}"),
            }
        }
    }

    /// Reads exactly this many bytes.
    pub async fn read_bytes(&mut self, count: usize) -> Vec<u8> {
        while self.received.len() < count {
            let received = self.receive(DEADLINE).await.expect("bytes come");
            assert!(received > 0, "the connection ended after {:?}", self.received);
        }
        self.received.drain(..count).collect()
    }

    /// True when nothing comes within `pause`: for replies that must not be sent.
    pub async fn is_silent_for(&mut self, pause: Duration) -> bool {
        self.received.is_empty()
            && matches!(self.receive(pause).await, Err(error)
                if error.kind() == std::io::ErrorKind::TimedOut)
    }

    async fn receive(&mut self, longest: Duration) -> std::io::Result<usize> {
        self.received.reserve(16 * 1024);
        timeout(longest, self.stream.read_buf(&mut self.received))
            .await
            .unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()))
    }
}
