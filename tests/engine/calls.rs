//! A call of the cache's scripts is sent once, and a reply is never taken for another call's.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use respgres::config::RedisUrl;
use respgres::upstream::control::{Control, ControlSettings, Frame};
use respgres::upstream::scripts::{Call, Script, Token, mark_of};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;

use crate::stack::{Redis, Value};

fn settings(url: &str, request_timeout_ms: u64) -> ControlSettings {
    ControlSettings {
        address: RedisUrl::parse(url).unwrap(),
        database: 0,
        connect_timeout_ms: 20_000,
        request_timeout_ms,
    }
}

fn begin(token: &Token) -> Call {
    let keys = ["k", "m", "a"].map(Bytes::from).to_vec();
    Call { script: Script::Begin, keys, arguments: vec![token.text(), Bytes::from("10000")] }
}

/// A Redis that does as it is told until it gets an EVALSHA: then it hangs up.
async fn redis_that_hangs_up(calls: Arc<AtomicUsize>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("redis://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let mut stream = BufReader::new(stream);
            loop {
                let mut line = String::new();
                if stream.read_line(&mut line).await.unwrap_or(0) == 0 {
                    break;
                }
                let count: usize = line.trim_start_matches('*').trim().parse().unwrap();
                let mut words = Vec::new();
                for _ in 0..count {
                    let mut length = String::new();
                    stream.read_line(&mut length).await.unwrap();
                    let length: usize = length.trim_start_matches('$').trim().parse().unwrap();
                    let mut word = vec![0; length + 2];
                    stream.read_exact(&mut word).await.unwrap();
                    words.push(String::from_utf8(word[..length].to_vec()).unwrap());
                }
                match words[0].as_str() {
                    "SCRIPT" => {
                        stream.write_all(b"$40\r\n0123456789012345678901234567890123456789\r\n")
                    }
                    "EVALSHA" => {
                        calls.fetch_add(1, Ordering::SeqCst);
                        break;
                    }
                    _ => stream.write_all(b"+PONG\r\n"),
                }
                .await
                .unwrap();
            }
        }
    });
    url
}

#[tokio::test]
async fn a_call_whose_connection_is_lost_is_not_sent_again() {
    let calls = Arc::new(AtomicUsize::new(0));
    let url = redis_that_hangs_up(Arc::clone(&calls)).await;
    let mut control = Control::new(settings(&url, 20_000));
    // The connection is there already: a call over an old one is no other case.
    assert_eq!(
        control.command(&[Bytes::from("PING")]).await.unwrap(),
        Frame::SimpleString("PONG".into())
    );
    for sent in 1..=3 {
        control.call(&[begin(&Token::writer())]).await.unwrap_err();
        assert_eq!(calls.load(Ordering::SeqCst), sent);
    }
}

#[tokio::test]
async fn a_call_that_was_given_up_leaves_no_reply_behind() {
    let redis = Redis::start().await;
    let mut control = Control::new(settings(&redis.url(), 3000));
    let echo = |text: &'static str| [Bytes::from("ECHO"), Bytes::from(text)];
    let first = control.command(&echo("first")).await.unwrap();
    assert_eq!(first, Frame::BulkString("first".into()));
    redis.process().signal("STOP");
    control.command(&echo("second")).await.unwrap_err();
    // Also when nobody waits for the end any more.
    let given_up = echo("third");
    let waiting = control.command(&given_up);
    let limit = std::time::Duration::from_millis(20);
    tokio::time::timeout(limit, waiting).await.unwrap_err();
    redis.process().signal("CONT");
    let fourth = control.command(&echo("fourth")).await.unwrap();
    assert_eq!(fourth, Frame::BulkString("fourth".into()));
}

#[tokio::test]
async fn scripts_that_were_flushed_are_loaded_again() {
    let redis = Redis::start().await;
    let mut control = Control::new(settings(&redis.url(), 20_000));
    let token = Token::reader();
    let miss = Call {
        script: Script::Miss,
        keys: vec![Bytes::from("k"), mark_of(b"k")],
        arguments: vec![token.text(), Bytes::from("10000"), Bytes::from("whole")],
    };
    control.command(&[Bytes::from("PING")]).await.unwrap();
    redis.say("SCRIPT FLUSH").await;
    let replies = control.call(&[miss]).await.unwrap();
    assert!(matches!(&replies[..], [Frame::Array(_)]), "{replies:?}");
    let mark = Value::Bulk(token.text().to_vec());
    assert_eq!(redis.say("GET respgres:m:k").await, mark);
}
