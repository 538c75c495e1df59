//! The upstream fails, comes back, and asks for a password.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::stack::{Client, Redis, Stack, Value, wait_until};

pub const GONE: &str =
    "ERR the connection to the upstream Redis was lost; the command may have been run";
pub const DOWN: &str = "ERR the upstream Redis is out of reach; the command was not run";

fn log_lines(stack: &Stack, level: &str) -> usize {
    stack.proxy.process().log().iter().filter(|line| line.contains(level)).count()
}

#[tokio::test]
async fn a_redis_that_goes_away_is_told_at_once_and_found_again() {
    // Timeouts that nobody is to wait for.
    let mut stack = Stack::builder("")
        .set("RESPGRES__UPSTREAM__CONNECT_TIMEOUT", "20s")
        .set("RESPGRES__UPSTREAM__REQUEST_TIMEOUT", "20s")
        .start()
        .await;
    let address = crate::stack::Server::address(&stack);
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let mut load = Vec::new();
    for number in 0..20 {
        let (address, stop) = (address.clone(), std::sync::Arc::clone(&stop));
        load.push(tokio::spawn(async move {
            let mut client = Client::connect_to(&address).await;
            let (mut errors, mut slowest) = (0, Duration::ZERO);
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                let value = format!("{number}");
                let start = Instant::now();
                let replies = client
                    .pipeline(&[
                        vec!["SET", &value, &value],
                        vec!["GET", &value],
                        vec!["ECHO", &value],
                    ])
                    .await;
                slowest = slowest.max(start.elapsed());
                for (at, reply) in replies.iter().enumerate() {
                    match reply {
                        Value::Error(text) => {
                            assert!(text == GONE || text == DOWN, "{text}");
                            errors += 1;
                        }
                        Value::NilBulk if at == 1 => {}
                        Value::Status(text) if at == 0 => assert_eq!(text, "OK"),
                        Value::Bulk(bytes) if at > 0 => assert_eq!(*bytes, value.as_bytes()),
                        other => panic!("reply {at} is {other:?}"),
                    }
                }
                if matches!(replies[0], Value::Error(_)) {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            }
            (errors, slowest)
        }));
    }
    let mut client = stack.client().await;
    for _ in 0..3 {
        stack.redis.kill();
        wait_until("requests are refused", async || {
            client.say("GET k").await == Value::Error(DOWN.to_owned())
        })
        .await;
        let start = Instant::now();
        for line in
            ["GET k", "BLPOP l 0", "WATCH k", "SELECT 1", "INFO", "CLIENT ID", "EVAL 'return 1' 0"]
        {
            let reply = client.say(line).await;
            assert_eq!(reply.is_error(), line != "CLIENT ID", "{line}: {reply:?}");
            if line == "WATCH k" {
                // Nobody may take what follows for watched.
                assert_eq!(client.read_to_end().await, b"");
                client = stack.client().await;
            }
        }
        assert!(start.elapsed() < Duration::from_secs(5), "errors took {:?}", start.elapsed());
        stack.redis.restart().await;
        let start = Instant::now();
        wait_until("service is back", async || !client.say("GET k").await.is_error()).await;
        assert!(start.elapsed() < Duration::from_secs(10), "it took {:?}", start.elapsed());
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    for client in load {
        let (errors, slowest) = client.await.expect("no reply was wrong");
        assert!(errors > 0, "the outages were noticed");
        assert!(slowest < Duration::from_secs(10), "a request took {slowest:?}");
    }
    let troubles = log_lines(&stack, "WARN") + log_lines(&stack, "ERROR");
    assert!(troubles <= 9, "one outage is worth two lines, not {troubles} for three");
    stack.stop_expecting(&["upstream"]).await;
}

#[tokio::test]
async fn requests_in_an_outage_do_not_fill_the_log() {
    let mut stack = Stack::pass_through().await;
    let mut client = stack.client().await;
    client.say("GET k").await;
    stack.redis.kill();
    for _ in 0..200 {
        for line in ["GET k", "BLPOP l 1", "SUBSCRIBE c", "WATCH k", "SELECT 1"] {
            if client.try_command(&line.split(' ').collect::<Vec<_>>()).await.is_err() {
                client = stack.client().await;
            }
        }
    }
    let troubles = log_lines(&stack, "WARN") + log_lines(&stack, "ERROR");
    assert!(troubles <= 4, "{troubles} lines for one outage");
    stack.stop_expecting(&["upstream"]).await;
}

#[tokio::test]
async fn clients_with_state_in_a_redis_that_goes_away_are_closed() {
    let mut stack = Stack::pass_through().await;
    let mut subscriber = stack.client().await;
    subscriber.say("SUBSCRIBE c").await;
    let mut watcher = stack.client().await;
    watcher.say("WATCH k").await;
    let mut blocked = stack.client().await;
    blocked.send(b"BLPOP l 0\r\n").await;
    let mut idle = stack.client().await;
    idle.say("GET k").await;
    crate::both::wait_for_clients(&stack.redis, "blocked_clients:1").await;
    stack.redis.kill();
    assert_eq!(subscriber.read_to_end().await, b"");
    assert_eq!(watcher.read_to_end().await, b"");
    assert_eq!(blocked.reply().await, Value::Error(GONE.to_owned()));
    stack.redis.restart().await;
    for client in [&mut idle, &mut blocked] {
        wait_until("service is back", async || !client.say("GET k").await.is_error()).await;
    }
    stack.stop_expecting(&["upstream"]).await;
}

fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("bound").port()
}

/// A server that answers PING, and any GET with the beginning of a long value.
async fn broken_off() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound").to_string();
    tokio::spawn(async move {
        loop {
            let Ok((mut socket, _)) = listener.accept().await else { return };
            tokio::spawn(async move {
                let mut buffer = vec![0; 1 << 16];
                while let Ok(count @ 1..) = socket.read(&mut buffer).await {
                    let text = String::from_utf8_lossy(&buffer[..count]).into_owned();
                    if text.contains("GET") {
                        let _ = socket.write_all(b"+first\r\n$100\r\nonly a part").await;
                        let _ = socket.shutdown().await;
                        return;
                    }
                    let pongs = text.matches("PING").count();
                    let _ = socket.write_all(&b"+PONG\r\n".repeat(pongs)).await;
                }
            });
        }
    });
    address
}

#[tokio::test]
async fn a_reply_that_is_cut_off_never_looks_whole() {
    let upstream = broken_off().await;
    let stack = Stack::builder("")
        .set("RESPGRES__UPSTREAM__URL", &format!("redis://{upstream}"))
        .start()
        .await;
    let mut cut = stack.client().await;
    cut.say("PING").await;
    cut.send(b"GET a\r\nGET b\r\nPING\r\n").await;
    let received = cut.read_to_end().await;
    assert!(
        b"+first\r\n$100\r\nonly a part".starts_with(&received[..]),
        "nothing may follow a part of a reply: {}",
        received.escape_ascii()
    );
    // Over a connection of its own nothing of it is handed on.
    let mut watching = stack.client().await;
    watching.send(b"WATCH k\r\nGET a\r\n").await;
    watching.read_to_end().await;
    let mut other = stack.client().await;
    wait_until("others go on", async || {
        other.say("PING").await == Value::Status("PONG".to_owned())
    })
    .await;
    stack.stop_expecting(&["upstream"]).await;
}

#[tokio::test]
async fn the_upstreams_password_is_the_proxys_business() {
    let redis = Redis::start_with(&["--requirepass", "a b@c"]).await;
    let mut admin = Client::connect(&redis).await;
    admin.say("AUTH 'a b@c'").await;
    admin.say(&format!("CONFIG SET port {}", free_port())).await;
    let port = admin.say("CONFIG GET port").await;
    let port = String::from_utf8_lossy(port.elements()[1].bytes().unwrap()).into_owned();
    admin.say("ACL SETUSER proxy on >pw ~* &* +@all").await;
    for credentials in [":a%20b%40c@", "default:a%20b%40c@", "proxy:pw@"] {
        let stack = Stack::builder("")
            .set("RESPGRES__UPSTREAM__URL", &format!("redis://{credentials}127.0.0.1:{port}"))
            .start()
            .await;
        let mut client = stack.client().await;
        assert_eq!(client.say("SET k v").await, Value::Status("OK".to_owned()), "{credentials}");
        client.say("HELLO 3").await;
        client.say("SELECT 3").await;
        assert_eq!(client.say("SET k v").await, Value::Status("OK".to_owned()), "{credentials}");
        assert_eq!(client.say("BLPOP none 0.01").await, Value::Null, "{credentials}");
        stack.stop_expecting(&[]).await;
    }
    for (credentials, cause) in [
        ("", "NOAUTH Authentication required."),
        (":wrong@", "WRONGPASS invalid username-password pair or user is disabled."),
        ("nobody:pw@", "WRONGPASS invalid username-password pair or user is disabled."),
    ] {
        let stack = Stack::builder("")
            .set("RESPGRES__UPSTREAM__URL", &format!("redis://{credentials}127.0.0.1:{port}"))
            .start()
            .await;
        let mut client = stack.client().await;
        for line in ["GET k", "GET k", "BLPOP l 0", "SELECT 1"] {
            let reply = client.say(line).await;
            let expected = format!("ERR the upstream Redis refuses connections: {cause}");
            assert_eq!(reply, Value::Error(expected), "{line} as {credentials:?}");
        }
        assert!(log_lines(&stack, "WARN") <= 3, "one line tells it");
        stack.stop_expecting(&["upstream"]).await;
    }
}
