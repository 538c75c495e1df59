//! A relay: TCP connections that go through it can be slowed down, held up, cut and half closed.
//!
//! What is held up is not lost: as with TCP over a network that drops packets it comes later, unless the
//! connection is cut meanwhile.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Most bytes that are under way at a time, in one direction of one connection.
const CHUNK: usize = 16 * 1024;

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Direction {
    /// From who connected to who was connected to.
    Up,
    Down,
}

/// Runs until it is dropped; its connections end with it.
pub(crate) struct Relay {
    address: String,
    weather: watch::Sender<Weather>,
    _relaying: JoinSet<()>,
}

/// What becomes of bytes and connections.
#[derive(Clone, Copy, Debug, Default)]
struct Weather {
    /// Connections are closed as soon as they are there.
    is_cut: bool,
    held: [bool; 2],
    delay: Duration,
    /// How often everything was cut, and each direction closed: connections that are older end.
    cuts: u64,
    closings: [u64; 2],
}

// === impl Relay ===

impl Relay {
    /// To `host:port` or the path of a Unix socket.
    pub(crate) async fn to(target: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let address = listener.local_addr().expect("it is bound").to_string();
        let (weather, seen) = watch::channel(Weather::default());
        let mut relaying = JoinSet::new();
        relaying.spawn(accept(listener, target.to_owned(), seen));
        Self { address, weather, _relaying: relaying }
    }

    /// Where to connect to.
    pub(crate) fn address(&self) -> String {
        self.address.clone()
    }

    /// Resets all connections; new ones too, until `heal`.
    pub(crate) fn cut(&self) {
        self.weather.send_modify(|weather| {
            weather.is_cut = true;
            weather.cuts += 1;
        });
    }

    /// Resets all connections; new ones are let through.
    pub(crate) fn cut_once(&self) {
        self.weather.send_modify(|weather| weather.cuts += 1);
    }

    /// Ends one direction of all connections as if that side had closed it; the other goes on.
    pub(crate) fn half_close(&self, direction: Direction) {
        self.weather.send_modify(|weather| weather.closings[direction as usize] += 1);
    }

    /// Nothing arrives any more in this direction, and nobody is told.
    pub(crate) fn hold(&self, direction: Direction) {
        self.weather.send_modify(|weather| weather.held[direction as usize] = true);
    }

    /// Everything takes so much longer, in each direction.
    pub(crate) fn slow_down(&self, delay: Duration) {
        self.weather.send_modify(|weather| weather.delay = delay);
    }

    /// As in the beginning; what was held up goes on.
    pub(crate) fn heal(&self) {
        self.weather.send_modify(|weather| {
            *weather =
                Weather { cuts: weather.cuts, closings: weather.closings, ..Weather::default() };
        });
    }
}

// === connections ===

async fn accept(listener: TcpListener, target: String, seen: watch::Receiver<Weather>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((client, _)) = accepted else { continue };
                if seen.borrow().is_cut {
                    reset(&client);
                } else {
                    connections.spawn(relay(client, target.clone(), seen.clone()));
                }
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn relay(mut client: TcpStream, target: String, mut seen: watch::Receiver<Weather>) {
    let born = *seen.borrow();
    let other = seen.clone();
    // Fails where nobody listens: then the client's connection ends.
    let relaying = async {
        client.set_nodelay(true)?;
        let (client_out, client_in) = client.split();
        if target.starts_with('/') {
            let (server_out, server_in) = UnixStream::connect(&target).await?.into_split();
            let up = pump(client_out, server_in, Direction::Up, born, other.clone());
            let down = pump(server_out, client_in, Direction::Down, born, other);
            tokio::try_join!(up, down).map(drop)
        } else {
            let server = TcpStream::connect(&target).await?;
            server.set_nodelay(true)?;
            let (server_out, server_in) = server.into_split();
            let up = pump(client_out, server_in, Direction::Up, born, other.clone());
            let down = pump(server_out, client_in, Direction::Down, born, other);
            tokio::try_join!(up, down).map(drop)
        }
    };
    let is_cut = tokio::select! {
        _ = relaying => false,
        _ = seen.wait_for(|weather| weather.cuts != born.cuts) => true,
    };
    if is_cut {
        reset(&client);
    }
}

/// What is dropped after this tells the other side at once that it is gone.
fn reset(stream: &TcpStream) {
    // Fails when the other side was faster.
    let _ = socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO));
}

/// Brings bytes one way until that way is closed.
async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    direction: Direction,
    born: Weather,
    mut seen: watch::Receiver<Weather>,
) -> std::io::Result<()> {
    let way = direction as usize;
    let mut other = seen.clone();
    let bringing = async {
        let mut chunk = vec![0; CHUNK];
        loop {
            let count = from.read(&mut chunk).await?;
            let delay = seen.borrow().delay;
            if !delay.is_zero() {
                tokio::time::sleep(delay).await;
            }
            let _ = seen.wait_for(|weather| !weather.held[way]).await;
            if count == 0 {
                return Ok(());
            }
            to.write_all(&chunk[..count]).await?;
        }
    };
    let ended: std::io::Result<()> = tokio::select! {
        ended = bringing => ended,
        _ = other.wait_for(|weather| weather.closings[way] != born.closings[way]) => Ok(()),
    };
    ended?;
    to.shutdown().await
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::stack::{Client, Redis, Server, Value};

    fn pong() -> Value {
        Value::Status("PONG".into())
    }

    async fn stand() -> (Redis, Relay, Client) {
        let redis = Redis::start().await;
        let relay = Relay::to(&redis.address()).await;
        let mut client = Client::connect_to(&relay.address()).await;
        assert_eq!(client.say("PING").await, pong());
        (redis, relay, client)
    }

    #[tokio::test]
    async fn what_is_slow_comes_late() {
        let (_redis, relay, mut client) = stand().await;
        relay.slow_down(Duration::from_millis(50));
        let start = Instant::now();
        assert_eq!(client.say("PING").await, pong());
        assert!(start.elapsed() >= Duration::from_millis(100), "{:?}", start.elapsed());
    }

    #[tokio::test]
    async fn what_is_held_comes_when_it_is_let_go() {
        let (redis, relay, mut client) = stand().await;
        for direction in [Direction::Up, Direction::Down] {
            relay.hold(direction);
            client.send(b"INCR n\r\n").await;
            assert!(client.is_silent_for(Duration::from_millis(100)).await);
            let arrived = redis.say("EXISTS n").await == Value::Integer(1);
            assert_eq!(arrived, direction == Direction::Down);
            relay.heal();
            assert_eq!(client.reply().await, Value::Integer(1));
            redis.say("DEL n").await;
        }
    }

    #[tokio::test]
    async fn a_cut_ends_what_there_is_and_what_comes() {
        let (_redis, relay, mut client) = stand().await;
        relay.cut();
        assert!(client.try_command(&["PING"]).await.is_err());
        let mut client = Client::connect_to(&relay.address()).await;
        assert!(client.try_command(&["PING"]).await.is_err());
        relay.heal();
        let mut client = Client::connect_to(&relay.address()).await;
        assert_eq!(client.say("PING").await, pong());
        relay.cut_once();
        assert!(client.try_command(&["PING"]).await.is_err());
        let mut client = Client::connect_to(&relay.address()).await;
        assert_eq!(client.say("PING").await, pong());
    }

    #[tokio::test]
    async fn one_direction_ends_and_the_other_goes_on() {
        let redis = Redis::start().await;
        let relay = Relay::to(&redis.address()).await;
        let mut client = Client::connect_to(&relay.address()).await;
        client.say("SUBSCRIBE news").await;
        relay.half_close(Direction::Up);
        // Redis closes a connection whose client has closed its side.
        assert_eq!(client.read_to_end().await, b"");
        let mut client = Client::connect_to(&relay.address()).await;
        client.say("PING").await;
        relay.half_close(Direction::Down);
        assert_eq!(client.read_to_end().await, b"");
        client.send(b"SET k v\r\n").await;
        crate::stack::wait_until("what is sent arrives", async || {
            redis.say("EXISTS k").await == Value::Integer(1)
        })
        .await;
    }
}
