//! CLIENT.

use std::collections::BTreeMap;

use crate::both::{Both, same};
use crate::stack::{Client, Stack, Value, wait_until};

#[tokio::test]
async fn clients_have_names_and_numbers() {
    same(
        r#"
        a> CLIENT GETNAME
        a> CLIENT SETNAME me
        a> CLIENT GETNAME
        a> CLIENT SETNAME "a b"
        a> CLIENT SETNAME ''
        a> CLIENT GETNAME
        a> CLIENT SETNAME
        a> CLIENT SETNAME a b
        a> CLIENT ID x
        a> CLIENT GETNAME x
        a> CLIENT NO-EVICT on
        a> CLIENT NO-EVICT off
        a> CLIENT NO-EVICT maybe
        a> CLIENT NO-EVICT
        a> CLIENT INFO x
        a> CLIENT LIST FOO
        a> CLIENT LIST TYPE foo
        a> CLIENT LIST ID abc
        a> CLIENT LIST ID 0
        a> CLIENT LIST ID
        a> CLIENT LIST TYPE master
        a> CLIENT REPLY
        a> CLIENT REPLY FOO
        a> CLIENT GETREDIR
        a> CLIENT TRACKINGINFO
        a> CLIENT CACHING YES
        a> CLIENT TRACKING
        a> CLIENT TRACKING maybe
        a> CLIENT TRACKING off
        a> CLIENT PAUSE abc
        a> CLIENT PAUSE
        a> CLIENT PAUSE 10 FOO
        a> CLIENT UNPAUSE
        a> CLIENT HELP
        a> HELLO 3
        a> CLIENT GETNAME
        a> CLIENT TRACKINGINFO
    "#,
    )
    .await;
}

#[tokio::test]
async fn a_pause_holds_writes_back_and_ends() {
    same(
        r"
        a> CLIENT PAUSE 100000 WRITE
        b> GET k
        c> CLIENT UNPAUSE
        b> SET k v
        a> CLIENT PAUSE 30
        b> SET k w
        a> CLIENT PAUSE 100000 WRITE
        b>> SET k x
        c> CLIENT UNPAUSE
        b<
    ",
    )
    .await;
}

#[tokio::test]
async fn replies_can_be_switched_off() {
    same(
        r#"
        a! CLIENT REPLY OFF\r\nSET k 1\r\nGET k\r\nFOO\r\nCLIENT REPLY ON\r\n
        a<
        a> GET k
        a! CLIENT REPLY SKIP\r\nSET k 2\r\nGET k\r\n
        a<
        a! CLIENT REPLY SKIP\r\nCLIENT REPLY SKIP\r\nGET k\r\nPING\r\n
        a<
        a! CLIENT REPLY SKIP\r\nCLIENT REPLY ON\r\nPING\r\n
        a<
        a<
        a! CLIENT REPLY OFF\r\nCLIENT REPLY SKIP\r\nPING\r\nCLIENT REPLY ON\r\nPING\r\n
        a<
        a<
        a! CLIENT REPLY SKIP\r\nCLIENT ID\r\nPING\r\nPING\r\n
        a<
        a<
        a! PING\r\nCLIENT REPLY SKIP\r\nPING\r\nGET k\r\nCLIENT REPLY OFF\r\nGET k\r\n
        a<
        a<
        a! CLIENT REPLY ON\r\nGET k\r\n
        a<
        a<
        b! CLIENT REPLY OFF\r\nMULTI\r\nSET k 3\r\nEXEC\r\nCLIENT REPLY ON\r\n
        b<
        b> GET k
        c! CLIENT REPLY OFF\r\nRPUSH l 1\r\nBLPOP l 0\r\nCLIENT REPLY ON\r\n
        c<
        c> LLEN l
    "#,
    )
    .await;
}

#[tokio::test]
async fn clients_can_be_killed() {
    same(
        r"
        a=
        b=
        a> PING
        b> CLIENT KILL ID {a}
        a^
        b> CLIENT KILL ID {a}
        b> CLIENT KILL ID 0
        b> CLIENT KILL ID abc
        b> CLIENT KILL ID
        b> CLIENT KILL 127.0.0.1:1
        b> CLIENT KILL ADDR 127.0.0.1:1
        b> CLIENT KILL TYPE foo
        b> CLIENT KILL USER nosuch
        b> CLIENT KILL SKIPME maybe
        b> CLIENT KILL FOO bar
        b> CLIENT KILL
        c> PING
        d> PING
        b> CLIENT KILL TYPE normal SKIPME yes ID {b}
        b> PING
        b> CLIENT KILL TYPE normal
        c^
        d^
        e=
        e>> BLPOP l 0
        blocked 1
        b> CLIENT KILL ID {e}
        e^
        blocked 0
        b> RPUSH l 1
        b> LLEN l
        f=
        f> SUBSCRIBE c
        b> CLIENT KILL TYPE normal
        b> CLIENT KILL TYPE pubsub
        f^
        subscribers 0 c
        b> CLIENT KILL ID {b}
        b! CLIENT KILL TYPE normal SKIPME no\r\nPING\r\n
        b^
    ",
    )
    .await;
}

#[tokio::test]
async fn a_client_that_kills_itself_is_told_first() {
    same(
        r"
        a=
        a> CLIENT KILL ID {a} SKIPME no
        a^
        b=
        b| PING | CLIENT KILL ID {b} SKIPME no
        b^
    ",
    )
    .await;
    let both = Both::start().await;
    let mut client = both.stack.client().await;
    let info = client.say("CLIENT INFO").await;
    let address = fields(&info)["addr"].clone();
    assert_eq!(client.say(&format!("CLIENT KILL {address}")).await, Value::Status("OK".to_owned()));
    assert_eq!(client.read_to_end().await, b"");
    both.stop(&[]).await;
}

/// The fields of a line of CLIENT LIST.
fn fields(line: &Value) -> BTreeMap<String, String> {
    let text = String::from_utf8_lossy(line.bytes().expect("CLIENT INFO is text")).into_owned();
    text.trim_end()
        .split(' ')
        .map(|field| field.split_once('=').expect("name=value"))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

#[tokio::test]
async fn the_list_of_clients_has_the_fields_that_redis_has() {
    let both = Both::start().await;
    let (plain, ours) = (&both.plain, &both.stack);
    let names = |info: &Value| fields(info).into_keys().collect::<Vec<_>>();
    let info = Client::connect(plain).await.say("CLIENT INFO").await;
    let mut client = ours.client().await;
    let ours_info = client.say("CLIENT INFO").await;
    assert_eq!(names(&ours_info), names(&info));

    client.say("CLIENT SETNAME me").await;
    client.say("SELECT 3").await;
    client.say("HELLO 3").await;
    client.say("WATCH k").await;
    client.say("MULTI").await;
    client.say("PING").await;
    let id = fields(&ours_info)["id"].clone();
    let mut observer = ours.client().await;
    let mut seen = async || fields(&observer.say(&format!("CLIENT LIST ID {id}")).await);
    let expected = |all: &BTreeMap<String, String>, wanted: &[(&str, &str)]| {
        for (name, value) in wanted {
            assert_eq!(all[*name], *value, "{name} of {all:?}");
        }
    };
    expected(
        &seen().await,
        &[
            ("name", "me"),
            ("db", "3"),
            ("resp", "3"),
            ("multi", "1"),
            ("flags", "x"),
            ("cmd", "ping"),
            ("user", "default"),
        ],
    );
    client.say("EXEC").await;
    expected(&seen().await, &[("multi", "-1"), ("flags", "N"), ("cmd", "exec")]);
    client.say("SUBSCRIBE a b").await;
    client.reply().await;
    client.say("PSUBSCRIBE p").await;
    expected(&seen().await, &[("sub", "2"), ("psub", "1"), ("flags", "P"), ("cmd", "psubscribe")]);
    client.say("RESET").await;
    client.send(b"BLPOP none 0\r\n").await;
    wait_until("the client is blocked", async || seen().await["flags"] == "b").await;
    expected(&seen().await, &[("cmd", "blpop"), ("db", "0"), ("name", ""), ("sub", "0")]);
    let mut third = ours.client().await;
    third.say("CLIENT LIST").await;
    third.say("GET k").await;
    let list = third.say("CLIENT LIST").await;
    let list = String::from_utf8_lossy(list.bytes().unwrap()).into_owned();
    assert_eq!(list.lines().count(), 3, "{list}");
    assert!(list.ends_with('\n'), "{list:?}");
    both.stop(&[]).await;
}

#[tokio::test]
async fn a_client_that_tracks_is_told_of_changes() {
    same(
        r"
        a> HELLO 3
        a> CLIENT TRACKING on
        a> GET k
        b> SET k 1
        a<
        a> GET k
        a> CLIENT TRACKINGINFO
        a> CLIENT GETREDIR
        a> CLIENT CACHING YES
        a> CLIENT TRACKING off
        a> GET k
        b> SET k 2
        a> PING
        a> CLIENT TRACKING on BCAST PREFIX user:
        b> SET user:1 x
        a<
        a> SELECT 1
        a> SET k 3
        a> CLIENT TRACKING on OPTIN
        a> CLIENT TRACKING off
        a> CLIENT TRACKING on OPTIN
        a> CLIENT CACHING yes
        a> GET k
        a> RESET
        a> GET k
    ",
    )
    .await;
}

#[tokio::test]
async fn what_a_client_sets_on_its_connection_does_not_touch_others() {
    // Clients share connections to Redis: state of one must never show at another.
    same(
        r#"
        a> CLIENT REPLY FOO
        a> READONLY
        a> ASKING
        a> MULTI
        b> GET k
        a> DISCARD
        a> CLIENT NO-EVICT on
        a> CLIENT SETNAME x
        b> CLIENT GETNAME
        b> CLIENT TRACKINGINFO
        a> FAILOVER ABORT
        b> PING
        a> DEBUG SLEEP 0
        b> PING
    "#,
    )
    .await;
}

#[tokio::test]
async fn newer_client_libraries_may_introduce_themselves() {
    let stack = Stack::pass_through().await;
    let mut client = stack.client().await;
    for line in ["CLIENT SETINFO LIB-NAME test", "CLIENT SETINFO LIB-VER 1.0", "CLIENT NO-TOUCH on"]
    {
        assert_eq!(client.say(line).await, Value::Status("OK".to_owned()), "{line}");
    }
    stack.stop_expecting(&[]).await;
}

#[tokio::test]
async fn reads_go_on_while_several_writes_are_paused() {
    same(
        r#"
        a> SET k v
        a> CLIENT PAUSE 100000 WRITE
        b>> SET k w
        c>> EVAL "return redis.call('SET', KEYS[1], 'x')" 1 l
        d>> PUBLISH c m
        blocked 3
        e> GET k
        e| GET k | PING | EVAL_RO "return redis.call('GET', KEYS[1])" 1 k
        e> MULTI
        e> GET k
        e> EXEC
        f> CLIENT UNPAUSE
        b<
        c<
        d<
        e> GET k
        e> GET l
    "#,
    )
    .await;
}

#[tokio::test]
async fn changes_are_told_to_the_client_that_tracking_redirects_to() {
    same(
        r"
        a=
        a> SUBSCRIBE __redis__:invalidate
        b> CLIENT TRACKING on REDIRECT {a}
        b> GET k
        c> SET k 1
        a<
        b> CLIENT TRACKING on REDIRECT {a} REDIRECT {a}
        b> CLIENT TRACKING on REDIRECT 987654321
        b> CLIENT TRACKING on REDIRECT abc
        b> CLIENT TRACKING off
        b> CLIENT GETREDIR
        b> CLIENT TRACKING on BCAST PREFIX p: REDIRECT {a} NOLOOP
        c> SET p:1 x
        a<
        a> UNSUBSCRIBE
        a> GET p:1
    ",
    )
    .await;
}

#[tokio::test]
async fn tracking_ends_also_with_the_client_that_it_redirected_to() {
    same(
        r"
        a=
        b=
        b> CLIENT TRACKING off REDIRECT {a}
        b> CLIENT TRACKING off REDIRECT {a} NOLOOP
        b> CLIENT TRACKING off REDIRECT 987654321
        b> CLIENT TRACKING off REDIRECT 0
        b> CLIENT TRACKING off REDIRECT abc
        b> CLIENT TRACKING off REDIRECT {a} REDIRECT {b}
        b> CLIENT TRACKING off REDIRECT {a} PREFIX
        a> SUBSCRIBE __redis__:invalidate
        b> CLIENT TRACKING on REDIRECT {a}
        b> CLIENT TRACKING off REDIRECT {a}
        b> CLIENT GETREDIR
        b> CLIENT TRACKINGINFO
    ",
    )
    .await;
}

#[tokio::test]
async fn clients_see_their_own_numbers_where_tracking_redirects() {
    let both = Both::start().await;
    let mut target = both.stack.client().await;
    let id = target.say("CLIENT ID").await.integer();
    target.say("SUBSCRIBE __redis__:invalidate").await;
    // Redis' numbers are higher: it has respgres' own connections too.
    let mut client = both.stack.client().await;
    assert_eq!(client.say("CLIENT GETREDIR").await, Value::Integer(-1));
    client.say(&format!("CLIENT TRACKING on REDIRECT {id}")).await;
    assert_eq!(client.say("CLIENT GETREDIR").await, Value::Integer(id));
    let info = client.say("CLIENT TRACKINGINFO").await;
    assert_eq!(info.elements()[3], Value::Integer(id), "{info:?}");
    assert_eq!(fields(&client.say("CLIENT INFO").await)["redir"], id.to_string());
    client.say("CLIENT TRACKING off").await;
    assert_eq!(client.say("CLIENT GETREDIR").await, Value::Integer(-1));
    assert_eq!(fields(&client.say("CLIENT INFO").await)["redir"], "-1");
    both.stop(&[]).await;
}

#[tokio::test]
async fn a_connection_that_was_redirected_to_serves_nobody_else() {
    let both = Both::start().await;
    let mut target = both.stack.client().await;
    let id = target.say("CLIENT ID").await.integer();
    target.say("SUBSCRIBE __redis__:invalidate").await;
    let mut client = both.stack.client().await;
    client.say(&format!("CLIENT TRACKING on REDIRECT {id}")).await;
    target.say("UNSUBSCRIBE").await;
    assert_eq!(target.say("PING").await, Value::Status("PONG".to_owned()));
    // Whoever subscribes next gets another connection, and no word of what the client reads.
    let mut other = both.stack.client().await;
    other.say("SUBSCRIBE __redis__:invalidate").await;
    client.say("GET k").await;
    client.say("SET k 1").await;
    client.say("PUBLISH __redis__:invalidate last").await;
    let message = other.reply().await;
    assert_eq!(message.elements()[2].bytes(), Some(&b"last"[..]), "{message:?}");
    both.stop(&[]).await;
}

#[tokio::test]
async fn the_protocol_version_can_change_while_redis_keeps_state() {
    let both = Both::start().await;
    let mut other = both.stack.client().await;
    let mut client = both.stack.client().await;
    client.say("WATCH k").await;
    assert!(matches!(client.say("HELLO 3").await, Value::Map(_)));
    assert_eq!(client.say("GET k").await, Value::Null);
    other.say("SET k 1").await;
    client.say("MULTI").await;
    client.say("GET k").await;
    assert_eq!(client.say("EXEC").await, Value::Null, "the key was watched all along");

    client.say("SUBSCRIBE c").await;
    assert!(matches!(client.say("HELLO 2").await, Value::Array(_)));
    other.say("PUBLISH c m").await;
    let message = client.reply().await;
    assert_eq!(message.elements()[2].bytes(), Some(&b"m"[..]), "{message:?}");
    assert!(client.say("GET k").await.is_error(), "in RESP2 a subscriber reads no keys");
    client.say("UNSUBSCRIBE").await;
    assert_eq!(client.say("GET k").await.bytes(), Some(&b"1"[..]));
    both.stop(&[]).await;
}
