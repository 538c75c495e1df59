//! Bytes that are no request, and requests in pieces.

use crate::both::{Both, exchange};
use crate::stack::resp::request;
use crate::stack::{Client, Server, Stack};

const PING: &[u8] = b"*1\r\n$4\r\nPING\r\n";

/// What is sent to a new connection, and closed for or not.
fn broken() -> Vec<Vec<u8>> {
    let mut cases: Vec<Vec<u8>> = [
        &b"*3000000000\r\n"[..],
        b"*abc\r\n",
        b"*\r\n",
        b"*+1\r\n$4\r\nPING\r\n",
        b"*01\r\n$4\r\nPING\r\n",
        b"*1\n$4\nPING\n",
        b"*1 \r\n$4\r\nPING\r\n",
        b"*2147483648\r\n",
        b"*2147483647\r\n",
        b"*0\r\n*1\r\n$4\r\nPING\r\n",
        b"*-1\r\n*1\r\n$4\r\nPING\r\n",
        b"*-10\r\nPING\r\n",
        b"\r\n\r\n*1\r\n$4\r\nPING\r\n",
        b"*1\r\n$-1\r\n",
        b"*1\r\n$04\r\nPING\r\n",
        b"*1\r\n$536870913\r\n",
        b"*1\r\n$536870912\r\n",
        b"*1\r\n$abc\r\n",
        b"*1\r\n$\r\n",
        b"*1\r\nfoo\r\n",
        b"*1\r\n*1\r\n$4\r\nPING\r\n",
        b"*2\r\n$4\r\nPING\r\n:1\r\n",
        b"*1\r\n\r\n",
        b"*1\r\n$4\r\nPINGxx*1\r\n$4\r\nPING\r\n",
        b"*1\r\n$0\r\n\r\n*1\r\n$4\r\nPING\r\n",
        b"%1\r\n+a\r\n+b\r\nPING\r\n",
        b"~1\r\n",
        b"_\r\n",
        b"#t\r\n",
        b"$4\r\nPING\r\n",
        b"+PING\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"post\r\n",
        b"PING\r\nhost:\r\nPING\r\n",
        b"GET \"a\r\n",
        b"GET 'a\r\n",
        b"\x00\r\nPING\r\n",
        b"\xff\xfe\r\n",
        b"*1\r\n$6\r\nFO\r\nOO\r\n*2\r\n$3\r\nFOO\r\n$3\r\n\r\n+\r\n",
        b"*2\r\n$4\r\nEVAL\r\n$1\r\nx\r\n",
    ]
    .iter()
    .map(|bytes| bytes.to_vec())
    .collect();
    cases.push([PING, PING, b"*abc\r\n", PING].concat());
    cases.push([PING, b"*1\r\n$-5\r\n", PING].concat());
    cases.push([&b"*"[..], &[b'1'; 70_000]].concat());
    cases.push([&b"*1\r\n$"[..], &[b'1'; 70_000]].concat());
    cases.push(vec![b'a'; 70_000]);
    cases
}

#[tokio::test]
async fn broken_requests_are_answered_as_redis_answers_them() {
    let both = Both::start().await;
    for bytes in broken() {
        both.exchange_the_same(&bytes).await;
    }
    both.stop(&["possible SECURITY ATTACK"]).await;
}

#[tokio::test]
async fn after_a_protocol_error_the_connection_is_closed_by_the_server() {
    let both = Both::start().await;
    both.say_the_same(
        r"
        a! *1\r\n$4\r\nPING\r\n*1\r\n$4\r\nPING\r\n*abc\r\nPING\r\n
        a^
        b! *1\r\nfoo\r\n
        b^
        c! GET / HTTP/1.1\r\nHost: x\r\n
        c^
        d! GET 'a\r\n
        d^
        e! POST / HTTP/1.1\r\n
        e^
    ",
    )
    .await;
    both.stop(&["possible SECURITY ATTACK"]).await;
}

#[tokio::test]
async fn a_request_may_come_in_any_pieces() {
    let both = Both::start().await;
    let requests = [
        request(&["SET", "k", "value"]),
        b"\r\nGET k\r\n".to_vec(),
        b"*0\r\n".to_vec(),
        request(&["SELECT", "1"]),
        request(&["GET", "k"]),
        request(&["MULTI"]),
        request(&["GET", "k"]),
        request(&["EXEC"]),
        request(&["ECHO", "\r\n$3\r\n"]),
        b"*1\r\n$-9\r\n".to_vec(),
    ]
    .concat();
    let expected = exchange(&both.plain, &requests).await;
    assert!(expected.ends_with(b"invalid bulk length\r\n"), "{}", expected.escape_ascii());
    for at in 1..requests.len() {
        let (one, other) = requests.split_at(at);
        assert_eq!(in_pieces(&both.stack, &[one, other]).await, expected, "cut at {at}");
    }
    let bytes: Vec<&[u8]> = requests.chunks(1).collect();
    assert_eq!(in_pieces(&both.stack, &bytes).await, expected, "byte by byte");
    both.stop(&[]).await;
}

/// Sends pieces, each as a packet of its own as far as that can be had.
async fn in_pieces(server: &impl Server, pieces: &[&[u8]]) -> Vec<u8> {
    let mut client = Client::connect(server).await;
    for piece in pieces {
        client.send(piece).await;
        tokio::task::yield_now().await;
    }
    client.finish_sending().await;
    client.read_to_end().await
}

#[tokio::test]
async fn http_requests_on_the_redis_port_do_not_fill_the_log() {
    let stack = Stack::builder("").set("RESPGRES__SERVER__THREADS", "2").start().await;
    for _ in 0..50 {
        assert_eq!(exchange(&stack, b"POST / HTTP/1.1\r\n").await, b"");
    }
    let log = stack.proxy.process().log();
    let lines: Vec<_> = log.iter().filter(|line| line.contains("SECURITY ATTACK")).collect();
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].contains("suppressed=0"), "{lines:?}");
    stack.stop_expecting(&["possible SECURITY ATTACK"]).await;
}
