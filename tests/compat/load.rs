//! Much at once: large values, long pipelines, clients that do not read, clients that leave.

use std::time::Duration;

use crate::both::Both;
use crate::stack::resp::request;
use crate::stack::{Client, Stack, Value, wait_until};

#[tokio::test]
async fn a_value_of_fifty_megabytes_goes_through_whole() {
    let stack = Stack::pass_through().await;
    let mut client = stack.client().await;
    let value: Vec<u8> =
        (0..50 << 20).map(|n: u32| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let ok = Value::Status("OK".to_owned());
    assert_eq!(client.command(&[b"SET", b"big", value.as_slice()]).await, ok);
    let header = format!("${}\r\n", value.len());
    for version in ["2", "3"] {
        client.say(&format!("HELLO {version}")).await;
        client.send(&[request(&["GET", "big"]), request(&["PING"])].concat()).await;
        assert_eq!(client.read_bytes(header.len()).await, header.as_bytes());
        assert!(client.read_bytes(value.len()).await == value, "the value came back otherwise");
        assert_eq!(client.read_bytes(9).await, b"\r\n+PONG\r\n");
    }
    stack.stop_expecting(&[]).await;
}

#[tokio::test]
async fn long_requests_of_clients_in_turn_stay_apart() {
    let stack = Stack::pass_through().await;
    let ok = Value::Status("OK".to_owned());
    let mut clients = Vec::new();
    for _ in 0..4 {
        clients.push(stack.client().await);
    }
    // Each goes on with buffers that another has used for more, or for less.
    for round in 0..6_usize {
        let mut rests = Vec::new();
        for (number, client) in clients.iter_mut().enumerate() {
            let length = 1000 + (round + number * 5) % 7 * 150_000;
            let value = char::from(b'a' + (round * 4 + number) as u8).to_string().repeat(length);
            let key = format!("k{number}");
            let bytes = [request(&["SET", &key, &value]), request(&["STRLEN", &key])].concat();
            let (first, rest) = bytes.split_at(bytes.len() * (number + 1) / 5);
            client.send(first).await;
            rests.push((rest.to_vec(), key, value));
        }
        for (client, (rest, key, value)) in clients.iter_mut().zip(rests) {
            client.send(&rest).await;
            assert_eq!(client.reply().await, ok);
            assert_eq!(client.reply().await, Value::Integer(value.len() as i64));
            assert_eq!(client.command(&["GET", &key]).await, Value::Bulk(value.into_bytes()));
        }
    }
    stack.stop_expecting(&[]).await;
}

#[tokio::test]
async fn a_hundred_thousand_commands_may_be_sent_at_once() {
    let both = Both::start().await;
    let count = 100_000;
    let requests: Vec<u8> = (0..count)
        .flat_map(|n| {
            request(&["SET", "k", &n.to_string()]).into_iter().chain(request(&["GET", "k"]))
        })
        .collect();
    let expected: Vec<u8> = (0..count)
        .flat_map(|n: u32| format!("+OK\r\n${}\r\n{n}\r\n", n.to_string().len()).into_bytes())
        .collect();
    let mut client = both.stack.client().await;
    client.send(&requests).await;
    assert!(client.read_bytes(expected.len()).await == expected, "replies differ");
    // And with the end right behind it.
    assert!(crate::both::exchange(&both.stack, &requests).await == expected, "replies differ");
    both.stop(&[]).await;
}

/// Resident memory of a process, bytes.
fn memory(process: u32) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("Linux tells it");
    line.trim().trim_end_matches(" kB").parse::<usize>().expect("a number") << 10
}

#[tokio::test]
async fn a_client_that_does_not_read_is_paused_and_goes_on() {
    let stack = Stack::pass_through().await;
    let mut other = stack.client().await;
    let value = "v".repeat(1000);
    other.command(&["SET", "k", &value]).await;
    let before = memory(stack.proxy.process().id());
    let client = Client::connect(&stack).await;
    let count = 400_000;
    let (mut reader, mut writer) = client.split();
    let sender = tokio::spawn(async move {
        let requests = request(&["GET", "k"]).repeat(1000);
        for _ in 0..count / 1000 {
            writer.send(&requests).await;
        }
        writer
    });
    // 400 MB of replies wait to be read: Redis gives, respgres has to stop taking.
    let mut most = 0;
    for _ in 0..100 {
        assert_eq!(other.say("PING").await, Value::Status("PONG".to_owned()), "others go on");
        most = most.max(memory(stack.proxy.process().id()));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(!sender.is_finished(), "the client was never paused");
    assert!(most - before < 64 << 20, "memory grew by {} MB", (most - before) >> 20);
    let reply = format!("$1000\r\n{value}\r\n");
    for _ in 0..count {
        assert!(reader.read_bytes(reply.len()).await == reply.as_bytes(), "replies differ");
    }
    drop(sender.await.expect("no panic"));
    stack.stop_expecting(&[]).await;
}

/// What CLIENT LIST says waits for a client, bytes.
async fn waiting(observer: &mut Client, id: i64) -> usize {
    let list = observer.say(&format!("CLIENT LIST ID {id}")).await;
    let list = String::from_utf8_lossy(list.bytes().expect("text")).into_owned();
    let omem = list.split(' ').find_map(|word| word.strip_prefix("omem=").map(str::to_owned));
    omem.map_or(0, |omem| omem.parse().expect("a number"))
}

/// With a cap that a few large replies exceed.
async fn with_a_low_cap() -> Stack {
    Stack::builder("")
        .set("RESPGRES__LIMITS__CLIENT_BACKLOG_BYTES", "64kb")
        .set("RESPGRES__LIMITS__CLIENT_BACKLOG_MAX_BYTES", "4mb")
        .start()
        .await
}

const NOT_READ: &str = "closed: it does not read its replies";

#[tokio::test]
async fn what_waits_for_a_client_is_shown_until_it_reads() {
    let stack = Stack::pass_through().await;
    let (mut client, mut observer) = (stack.client().await, stack.client().await);
    let id = client.say("CLIENT ID").await.integer();
    let value = "v".repeat(1 << 20);
    client.command(&["SET", "big", &value]).await;
    assert_eq!(waiting(&mut observer, id).await, 0);
    client.send(&request(&["GET", "big"]).repeat(40)).await;
    wait_until("replies wait", async || waiting(&mut observer, id).await > 1 << 20).await;
    for _ in 0..40 {
        assert!(client.reply().await.bytes() == Some(value.as_bytes()), "replies differ");
    }
    wait_until("nothing waits", async || waiting(&mut observer, id).await == 0).await;
    stack.stop_expecting(&[]).await;
}

#[tokio::test]
async fn a_client_is_closed_when_more_replies_wait_than_are_allowed() {
    let stack = with_a_low_cap().await;
    let (mut client, mut other) = (stack.client().await, stack.client().await);
    let value = "v".repeat(1 << 20);
    other.command(&["SET", "big", &value]).await;
    let id = client.say("CLIENT ID").await.integer();
    // All of them are under way before the first reply comes.
    client.send(&request(&["GET", "big"]).repeat(100)).await;
    wait_until("it is closed", async || {
        other.say(&format!("CLIENT LIST ID {id}")).await == Value::Bulk(Vec::new())
    })
    .await;
    let received = client.read_to_end().await;
    let all = format!("${}\r\n{value}\r\n", value.len()).repeat(100);
    assert!(received.len() < all.len() && all.as_bytes().starts_with(&received));
    assert_eq!(other.say("STRLEN big").await, Value::Integer(1 << 20));
    stack.stop_expecting(&[NOT_READ]).await;
}

#[tokio::test]
async fn a_subscriber_is_closed_when_more_messages_wait_than_are_allowed() {
    for version in ["2", "3"] {
        let stack = with_a_low_cap().await;
        let (mut subscriber, mut other) = (stack.client().await, stack.client().await);
        let id = subscriber.say("CLIENT ID").await.integer();
        subscriber.say(&format!("HELLO {version}")).await;
        subscriber.say("SUBSCRIBE c").await;
        let message = "m".repeat(1 << 20);
        let mut most = 0;
        let mut published = 0;
        while other.command(&["PUBLISH", "c", &message]).await == Value::Integer(1) {
            published += 1;
            most = most.max(waiting(&mut other, id).await);
            assert!(published < 100, "it is never closed");
        }
        assert!(most > 0, "nothing was seen to wait");
        // With the message that was one too many.
        assert!(most <= 6 << 20, "{most} bytes waited");
        let received = subscriber.read_to_end().await;
        assert!(received.len() < published * message.len());
        assert_eq!(other.say("PING").await, Value::Status("PONG".to_owned()));
        stack.stop_expecting(&[NOT_READ]).await;
    }
}

/// Not a matter of time: Redis is stopped until all requests are where they have to wait.
#[tokio::test]
async fn a_single_request_waits_for_a_bounded_number_of_others() {
    const REQUESTS: usize = 16;
    const CLIENTS: usize = 8;
    const DEPTH: usize = 400;
    let stack = Stack::builder("")
        .set("RESPGRES__SERVER__THREADS", "1")
        .set("RESPGRES__LIMITS__CLIENT_REQUESTS", &REQUESTS.to_string())
        .start()
        .await;
    let (mut single, mut observer) = (stack.client().await, stack.client().await);
    single.say("CLIENT SETNAME single").await;
    assert_eq!(single.say("EXISTS list").await, Value::Integer(0));
    stack.redis.process().signal("STOP");
    let mut senders = Vec::new();
    for _ in 0..CLIENTS {
        let mut client = stack.client().await;
        senders.push(tokio::spawn(async move {
            let one = request(&["RPUSH", "list", &"v".repeat(10 << 10)]);
            client.send(&one.repeat(DEPTH)).await;
            for _ in 0..DEPTH {
                assert!(matches!(client.reply().await, Value::Integer(_)));
            }
        }));
    }
    let mut list = async || {
        let list = observer.say("CLIENT LIST").await;
        String::from_utf8_lossy(list.bytes().expect("text")).into_owned()
    };
    wait_until("deep pipelines have begun", async || {
        list().await.matches(" cmd=rpush ").count() == CLIENTS
    })
    .await;
    single.send(b"LLEN list\r\n").await;
    wait_until("the single request is under way", async || {
        list()
            .await
            .lines()
            .any(|line| line.contains(" name=single ") && line.contains(" cmd=llen "))
    })
    .await;
    stack.redis.process().signal("CONT");
    let before = single.reply().await.integer();
    let bound = i64::try_from(REQUESTS * CLIENTS).expect("few");
    assert!(before >= i64::try_from(CLIENTS).expect("few"), "only {before} others came before it");
    assert!(before <= bound, "{before} others came before it");
    for sender in senders {
        sender.await.expect("all replies came");
    }
    let all = i64::try_from(CLIENTS * DEPTH).expect("few");
    assert_eq!(single.say("LLEN list").await, Value::Integer(all));
    stack.stop_expecting(&[]).await;
}

#[tokio::test]
async fn a_client_that_leaves_amid_its_replies_harms_nobody() {
    let stack = Stack::pass_through().await;
    let mut other = stack.client().await;
    other.command(&["SET", "big", &"v".repeat(100_000)]).await;
    for round in 0..50 {
        let mut leaving = stack.client().await;
        leaving.send(&request(&["GET", "big"]).repeat(20)).await;
        if round % 2 == 0 {
            leaving.read_bytes(1000 * round + 1).await;
        }
        // Half a request at last.
        leaving.send(b"*2\r\n$3\r\nGET\r\n$1000\r\nabc").await;
        drop(leaving);
        let key = format!("k{round}");
        let replies = other
            .pipeline(&[vec!["SET", &key, "mine"], vec!["GET", &key], vec!["STRLEN", "big"]])
            .await;
        let expected = [
            Value::Status("OK".to_owned()),
            Value::Bulk(b"mine".to_vec()),
            Value::Integer(100_000),
        ];
        assert_eq!(replies, expected);
    }
    wait_until("respgres forgets those who left", async || {
        let info = other.say("INFO respgres").await;
        let info = String::from_utf8_lossy(info.bytes().expect("text")).into_owned();
        info.contains("respgres_connected_clients:1\r\n")
    })
    .await;
    stack.stop_expecting(&[]).await;
}

#[tokio::test]
async fn a_client_that_says_no_more_still_gets_its_replies() {
    let both = Both::start().await;
    for bytes in [
        &b"PING\r\n"[..],
        b"SET k v\r\nGET k\r\nSELECT 2\r\nSET k w\r\nGET k\r\nINFO nosuch\r\nCLIENT GETNAME\r\n",
        b"HELLO 3\r\nGET none\r\nHGETALL none\r\n",
        b"RPUSH l 1\r\nBLPOP l 0\r\nPING\r\n",
        b"BLPOP l 0.02\r\nPING\r\n",
        b"PSUBSCRIBE p\r\nPUNSUBSCRIBE p\r\nGET k\r\n",
        b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n*2\r\n$3\r\nGET\r\n",
    ] {
        if bytes.starts_with(b"HELLO") {
            let ours = crate::both::exchange(&both.stack, bytes).await;
            assert!(ours.ends_with(b"_\r\n%0\r\n"), "{}", ours.escape_ascii());
        } else {
            both.exchange_the_same(bytes).await;
        }
    }
    both.stop(&[]).await;
}

#[tokio::test]
async fn no_more_clients_come_in_than_are_allowed() {
    let stack = Stack::builder("").set("RESPGRES__SERVER__MAX_CLIENTS", "2").start().await;
    let (mut one, mut two) = (stack.client().await, stack.client().await);
    one.say("PING").await;
    two.say("PING").await;
    let mut three = stack.client().await;
    assert_eq!(three.read_to_end().await, b"-ERR max number of clients reached\r\n");
    drop(one);
    wait_until("there is room again", async || {
        let mut four = stack.client().await;
        matches!(four.try_command(&["PING"]).await, Ok(Value::Status(_)))
    })
    .await;
    stack.stop_expecting(&[]).await;
}
