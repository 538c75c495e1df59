//! A client that reads when it is told to, and long replies without looking at every byte twice.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use crate::stack::client::Server;
use crate::stack::{Client, Stack, Value};

/// Longest wait for the next bytes.
const DEADLINE: Duration = Duration::from_secs(30);

/// What the system takes in for a reader that does not read.
const RECEIVE_BYTES: u32 = 64 << 10;

pub struct Reader {
    stream: TcpStream,
    received: Vec<u8>,
}

impl Reader {
    pub async fn connect(server: &impl Server) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(RECEIVE_BYTES).unwrap();
        let stream = socket.connect(server.address().parse().unwrap()).await.unwrap();
        Self { stream, received: Vec::new() }
    }

    /// Sends command lines, and PING.
    pub async fn send(&mut self, lines: &[&str]) {
        let mut bytes = lines.join("\r\n").into_bytes();
        bytes.extend_from_slice(b"\r\nPING\r\n");
        self.stream.write_all(&bytes).await.unwrap();
    }

    /// Reads at least so many bytes; fewer when the connection ends.
    pub async fn read(&mut self, count: usize) -> &[u8] {
        while self.received.len() < count && self.receive().await > 0 {}
        &self.received
    }

    /// Reads all replies before that to PING.
    pub async fn replies(&mut self) -> Vec<Value> {
        self.all_replies(1).await
    }

    /// The same with so many PINGs; the replies to all but the last are told.
    pub async fn all_replies(&mut self, pings: usize) -> Vec<Value> {
        const PONG: &[u8] = b"+PONG\r\n";
        let (mut looked_at, mut pongs) = (0, 0);
        loop {
            let from = usize::saturating_sub(looked_at, PONG.len() - 1);
            pongs += memchr::memmem::find_iter(&self.received[from..], PONG).count();
            if pongs >= pings {
                break;
            }
            looked_at = self.received.len();
            assert!(self.receive().await > 0, "closed after {looked_at} bytes");
        }
        let (mut replies, mut at) = (Vec::new(), 0);
        while at < self.received.len() {
            let (value, taken) = Value::parse(&self.received[at..]).expect("whole replies");
            replies.push(value);
            at += taken;
        }
        self.received.clear();
        assert_eq!(replies.pop(), Some(Value::Status("PONG".into())));
        replies
    }

    /// Reads until the connection ends; all that came.
    pub async fn read_to_end(&mut self) -> &[u8] {
        while self.receive().await > 0 {}
        &self.received
    }

    async fn receive(&mut self) -> usize {
        self.received.reserve(1 << 20);
        let received = timeout(DEADLINE, self.stream.read_buf(&mut self.received)).await;
        // One that was closed with requests unread is reset.
        received.expect("something comes").unwrap_or(0)
    }
}

/// The replies to command lines.
pub async fn ask(stack: &Stack, lines: &[&str]) -> Vec<Value> {
    let mut reader = Reader::connect(stack).await;
    reader.send(lines).await;
    reader.replies().await
}

/// The numbers in a reply of bulk strings that have one each, ascending.
pub fn numbers(reply: &Value) -> Vec<usize> {
    let number = |value: &Value| {
        let bytes = value.bytes().unwrap_or_else(|| panic!("no bulk string: {value:?}"));
        std::str::from_utf8(bytes).unwrap().trim_matches(['f', 'x']).parse().unwrap()
    };
    let mut numbers: Vec<usize> = reply.elements().iter().map(number).collect();
    numbers.sort_unstable();
    numbers
}

#[track_caller]
pub fn assert_counts_up(reply: &Value, count: usize) {
    let numbers = numbers(reply);
    assert_eq!(numbers.len(), count);
    assert!(numbers.into_iter().eq(1..=count));
}

/// Something small and something large, each answered at once.
pub async fn others_are_served(stack: &Stack) {
    let mut client = Client::connect(stack).await;
    let asked = async {
        assert_eq!(client.say("SISMEMBER words:1 no").await, Value::Integer(0));
        assert_eq!(client.say("SADD ids:2 1").await, Value::Integer(1));
        assert_eq!(client.say("SMEMBERS ids:2").await.elements().len(), 1);
        assert_eq!(client.say("DEL ids:2").await, Value::Integer(1));
    };
    timeout(Duration::from_secs(9), asked).await.expect("others are served");
}
