//! A client that connects, does one of the things that clients do, and leaves: well behaved or not.
//!
//! Those that behave well compare each reply with what it has to be, so that bytes which the dying
//! ones left behind on a shared connection are noticed. A value is a function of its key: whoever
//! wrote it last, it is the same.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use redis_protocol::resp2::types::BytesFrame;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::rig::Failure;
use crate::rig::client::{Client, encode};

const LARGE: usize = 1 << 20;
const LARGE_KEYS: u64 = 8;
const SMALL_KEYS: u64 = 1000;

/// A visit that takes longer hangs.
const VISIT_LIMIT: Duration = Duration::from_secs(60);

/// Longest pause between two visits.
const PAUSE_MS: u64 = 20;

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Behaviour {
    Small,
    Large,
    DieInRequest,
    DieInReply,
    DieUnread,
    Subscribe,
    Publish,
    Pop,
    DieInPop,
    DieInTransaction,
}

pub(crate) struct Visitor {
    port: u16,
    random: u64,
}

use Behaviour::{
    DieInPop, DieInReply, DieInRequest, DieInTransaction, DieUnread, Large, Pop, Publish, Small,
    Subscribe,
};

impl Behaviour {
    pub(crate) const ALL: [Self; 10] = [
        Small,
        Large,
        DieInRequest,
        DieInReply,
        DieUnread,
        Subscribe,
        Publish,
        Pop,
        DieInPop,
        DieInTransaction,
    ];

    /// After "a client".
    pub(crate) fn name(self) -> &'static str {
        match self {
            Small => "wrote and read small values",
            Large => "wrote and read values of 1 MB",
            DieInRequest => "died within a request of 1 MB",
            DieInReply => "died within replies of 1 MB",
            DieUnread => "died with 500 replies unread",
            Subscribe => "subscribed and died",
            Publish => "published and pushed",
            Pop => "popped with a timeout",
            DieInPop => "died in a blocking pop",
            DieInTransaction => "died in a transaction",
        }
    }
}

impl Visitor {
    pub(crate) fn new(port: u16, seed: u64) -> Self {
        // The generator's state must not be 0, and near seeds shall not give near numbers.
        Self { port, random: (seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ seed) | 1 }
    }

    /// How often each behaviour was shown, in the order of `Behaviour::ALL`.
    ///
    /// # Errors
    /// When a reply is wrong, or does not come.
    pub(crate) async fn visit_until(
        mut self,
        end: Instant,
    ) -> Result<[u64; Behaviour::ALL.len()], Failure> {
        let mut counts = [0; Behaviour::ALL.len()];
        while Instant::now() < end {
            let choice = self.below(Behaviour::ALL.len() as u64) as usize;
            let behaviour = Behaviour::ALL[choice];
            let said = |error: String| format!("a client that {}: {error}", behaviour.name());
            match tokio::time::timeout(VISIT_LIMIT, self.visit(behaviour)).await {
                Ok(result) => result.map_err(|error| said(error.to_string()))?,
                Err(_) => return Err(said(format!("no end after {VISIT_LIMIT:?}")).into()),
            }
            counts[choice] += 1;
            let pause = self.below(PAUSE_MS);
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
        Ok(counts)
    }

    async fn visit(&mut self, behaviour: Behaviour) -> Result<(), Failure> {
        match behaviour {
            Small => self.read_what_was_written("small", SMALL_KEYS, 100).await,
            Large => self.read_what_was_written("large", LARGE_KEYS, 3).await,
            DieInRequest => self.die_in_request().await,
            DieInReply => self.die_in_reply().await,
            DieUnread => self.die_unread().await,
            Subscribe => self.subscribe().await,
            Publish => self.publish().await,
            Pop => self.pop().await,
            DieInPop => self.die_in_pop().await,
            DieInTransaction => self.die_in_transaction().await,
        }
    }

    async fn read_what_was_written(
        &mut self,
        prefix: &str,
        keys: u64,
        times: u32,
    ) -> Result<(), Failure> {
        let mut client = Client::connect(self.port).await?;
        for _ in 0..times {
            let key = format!("{prefix}:{}", self.below(keys));
            let value = value(&key);
            client.call(&[b"SET", key.as_bytes(), &value]).await?;
            match client.call(&[b"GET", key.as_bytes()]).await? {
                BytesFrame::BulkString(found) if found == value => {}
                other => {
                    let text: String = format!("{other:?}").chars().take(200).collect();
                    return Err(format!("GET {key} answers {text}").into());
                }
            }
        }
        Ok(())
    }

    async fn die_in_request(&mut self) -> Result<(), Failure> {
        let mut stream = self.connect().await?;
        let key = format!("large:{}", self.below(LARGE_KEYS));
        let mut request = Vec::new();
        encode(&[b"SET", key.as_bytes(), &value(&key)], &mut request);
        let sent = self.below(request.len() as u64) as usize;
        stream.write_all(&request[..sent]).await?;
        self.die(stream)
    }

    async fn die_in_reply(&mut self) -> Result<(), Failure> {
        let mut stream = self.connect().await?;
        let mut request = Vec::new();
        for _ in 0..4 {
            let key = format!("large:{}", self.below(LARGE_KEYS));
            encode(&[b"GET", key.as_bytes()], &mut request);
        }
        stream.write_all(&request).await?;
        self.read_up_to(&mut stream, 3 * LARGE as u64).await?;
        self.die(stream)
    }

    async fn die_unread(&mut self) -> Result<(), Failure> {
        let mut stream = self.connect().await?;
        let mut request = Vec::new();
        for _ in 0..500 {
            let key = format!("small:{}", self.below(SMALL_KEYS));
            encode(&[b"GET", key.as_bytes()], &mut request);
        }
        stream.write_all(&request).await?;
        self.die(stream)
    }

    async fn subscribe(&mut self) -> Result<(), Failure> {
        let mut stream = self.connect().await?;
        let mut request = Vec::new();
        encode(&[b"SUBSCRIBE", b"news", b"weather"], &mut request);
        encode(&[b"PSUBSCRIBE", b"n*"], &mut request);
        stream.write_all(&request).await?;
        self.read_up_to(&mut stream, 100).await?;
        // Some stay for messages, until there is none for a moment.
        let patience = Duration::from_millis(self.below(200));
        let mut buffer = [0; 4096];
        while let Ok(read) = tokio::time::timeout(patience, stream.read(&mut buffer)).await {
            if read? == 0 {
                return Err("closed by the server".into());
            }
            if self.below(10) == 0 {
                break;
            }
        }
        self.die(stream)
    }

    async fn publish(&mut self) -> Result<(), Failure> {
        let mut client = Client::connect(self.port).await?;
        for _ in 0..10 {
            client.call(&[b"PUBLISH", b"news", &[b'n'; 1000]]).await?;
            client.call(&[b"LPUSH", b"queue", b"work"]).await?;
        }
        // What nobody pops shall not fill Redis.
        client.call(&[b"LTRIM", b"queue", b"0", b"99"]).await?;
        Ok(())
    }

    async fn pop(&mut self) -> Result<(), Failure> {
        let mut client = Client::connect(self.port).await?;
        match client.call(&[b"BRPOP", b"queue", b"0.05"]).await? {
            BytesFrame::Null => Ok(()),
            BytesFrame::Array(elements) if elements.len() == 2 => Ok(()),
            other => Err(format!("BRPOP answers {other:?}").into()),
        }
    }

    async fn die_in_pop(&mut self) -> Result<(), Failure> {
        let mut stream = self.connect().await?;
        let mut request = Vec::new();
        encode(&[b"BLPOP", b"nothing", b"0"], &mut request);
        stream.write_all(&request).await?;
        let wait = self.below(100);
        tokio::time::sleep(Duration::from_millis(wait)).await;
        self.die(stream)
    }

    async fn die_in_transaction(&mut self) -> Result<(), Failure> {
        let mut stream = self.connect().await?;
        let key = format!("small:{}", self.below(SMALL_KEYS));
        let mut request = Vec::new();
        encode(&[b"WATCH", key.as_bytes()], &mut request);
        encode(&[b"MULTI"], &mut request);
        encode(&[b"SET", key.as_bytes(), &value(&key)], &mut request);
        if self.below(2) == 0 {
            encode(&[b"EXEC"], &mut request);
        }
        stream.write_all(&request).await?;
        self.read_up_to(&mut stream, 20).await?;
        self.die(stream)
    }

    async fn connect(&self) -> Result<TcpStream, Failure> {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    /// Reads at least one byte, and up to a random number below `most`.
    async fn read_up_to(&mut self, stream: &mut TcpStream, most: u64) -> Result<(), Failure> {
        let wanted = self.below(most);
        let mut buffer = vec![0; 16 << 10];
        let mut read = 0;
        loop {
            match stream.read(&mut buffer).await? {
                0 => return Err("closed by the server".into()),
                count => read += count as u64,
            }
            if read >= wanted {
                return Ok(());
            }
        }
    }

    /// Half of the dying say goodbye (FIN), the others vanish (RST).
    fn die(&mut self, stream: TcpStream) -> Result<(), Failure> {
        if self.below(2) == 0 {
            stream.set_zero_linger()?;
        }
        drop(stream);
        Ok(())
    }

    /// Evenly, for what it is good for here, from 0 to `limit` - 1; 0 when `limit` is 0.
    fn below(&mut self, limit: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 11) % limit.max(1)
    }
}

/// Writes all keys, so that nobody asks for one that is not there.
pub(crate) async fn preload(port: u16) -> Result<(), Failure> {
    let mut client = Client::connect(port).await?;
    for (prefix, keys) in [("small", SMALL_KEYS), ("large", LARGE_KEYS)] {
        for number in 0..keys {
            let key = format!("{prefix}:{number}");
            client.call(&[b"SET", key.as_bytes(), &value(&key)]).await?;
        }
    }
    Ok(())
}

/// The key over and over, as long as its prefix says.
fn value(key: &str) -> Vec<u8> {
    let length = if key.starts_with("large") { LARGE } else { 64 };
    key.bytes().chain([b' ']).cycle().take(length).collect()
}
