//! HELLO, AUTH, SELECT, RESET, QUIT, PING, ECHO, COMMAND, inline requests.

use crate::both::{Both, same};
use crate::stack::{Redis, Stack, Value, talk};

#[tokio::test]
async fn hello_switches_between_the_protocols() {
    same(
        r#"
        a> HELLO
        a> HELLO 3
        a> HGETALL none
        a> GET none
        a> HSET h f v
        a> HGETALL h
        a> SADD s a
        a> SMEMBERS s
        a> CONFIG GET maxmemory-policy
        a> HELLO
        a> HELLO 2
        a> HGETALL h
        a> GET none
        a> HELLO 3 SETNAME me
        a> CLIENT GETNAME
        a> HELLO 2 SETNAME you
        a> CLIENT GETNAME
        a| GET none | HELLO 3 | GET none | HELLO 2 | GET none
    "#,
    )
    .await;
}

#[tokio::test]
async fn hello_refuses_what_redis_refuses() {
    same(
        r#"
        a> HELLO 1
        a> HELLO 4
        a> HELLO three
        a> HELLO ''
        a> HELLO 99999999999999999999
        a> HELLO -1
        a> HELLO 3 FOO
        a> HELLO 3 AUTH default
        a> HELLO 3 AUTH default x
        a> HELLO 3 AUTH nobody x
        a> HELLO 3 SETNAME
        a> HELLO 3 SETNAME "a b"
        a> HELLO 3 SETNAME "a\nb"
        a> HELLO 3 AUTH default x SETNAME ok EXTRA
        a> HELLO 2 SETNAME ''
        a> CLIENT GETNAME
        a> PING
    "#,
    )
    .await;
}

#[tokio::test]
async fn auth_without_a_password_configured_answers_as_redis_does() {
    same(
        r#"
        a> AUTH
        a> AUTH x
        a> AUTH default x
        a> AUTH nobody x
        a> AUTH a b c
        a> PING
    "#,
    )
    .await;
}

/// Redis and respgres with the same password for the default user, and the same named user.
async fn with_passwords() -> Both {
    let plain = Redis::start_with(&["--requirepass", "secret"]).await;
    let mut admin = crate::stack::Client::connect(&plain).await;
    admin.say("AUTH secret").await;
    assert_eq!(
        admin.say("ACL SETUSER app on >apppass ~* &* +@all").await,
        Value::Status("OK".to_owned())
    );
    let config =
        "[auth]\npassword = \"secret\"\n[[auth.user]]\nname = \"app\"\npassword = \"apppass\"\n";
    Both { plain, stack: Stack::builder(config).start().await }
}

#[tokio::test]
async fn a_client_must_authenticate_where_a_password_is_set() {
    let both = with_passwords().await;
    both.say_the_same(
        r#"
        a> PING
        a> GET k
        a> GET
        a> FOO
        a> FOO bar "a\r\nb"
        a> CLIENT GETNAME
        a> CLIENT FOO
        a> SELECT 1
        a> HELLO
        a> HELLO 3
        a> HELLO 3 AUTH default wrong
        a> AUTH wrong
        a> AUTH default wrong
        a> AUTH nobody secret
        a> AUTH app wrong
        a> MULTI
        a> SUBSCRIBE c
        a> GET k
        a> RESET
        a> AUTH secret
        a> GET k
        a> AUTH wrong
        a> GET k
        a> RESET
        a> GET k
        a> AUTH app apppass
        a> GET k
        b> HELLO 3 AUTH app apppass SETNAME me
        b> GET k
        b> CLIENT GETNAME
        b> RESET
        b> GET k
        b> CLIENT GETNAME
        c> AUTH default secret
        c> PING
        d| GET k | AUTH secret | GET k
        e> QUIT
        e^
    "#,
    )
    .await;
    for bytes in [
        &b"*10\r\n"[..],
        b"*11\r\n$4\r\nPING\r\n",
        b"*1\r\n$16385\r\n",
        b"*2\r\n$4\r\nPING\r\n$16384\r\n",
        b"PING\r\nQUIT\r\n",
        b"*3\r\n$4\r\nauth\r\n$7\r\ndefault\r\n$6\r\nsecret\r\n*11\r\n$4\r\nMGET\r\n",
        b"AUTH secret\r\nMGET 1 2 3 4 5 6 7 8 9 10 11\r\n",
    ] {
        both.exchange_the_same(bytes).await;
    }
    both.stop(&[]).await;
}

#[tokio::test]
async fn databases_are_kept_apart() {
    same(
        r#"
        a> SELECT 0
        a> SET k zero
        a> SELECT 1
        a> GET k
        a> SET k one
        b> GET k
        a| SELECT 0 | GET k | SELECT 1 | GET k | SELECT 15 | GET k | SELECT 0 | GET k
        a> SELECT 16
        a> GET k
        a> SELECT -1
        a> SELECT abc
        a> SELECT ''
        a> SELECT 99999999999
        a> SELECT 2147483647
        a> SELECT 70000
        a> SELECT
        a> SELECT 1 2
        a> SELECT 01
        a| SELECT 16 | GET k | SELECT 1 | GET k
        a> MOVE k 5
        a> SELECT 5
        a> GET k
        a> HELLO 3
        a> SELECT 5
        a> GET k
        a> SELECT 4
        a> GET k
        a> RESET
        a> GET k
    "#,
    )
    .await;
}

#[tokio::test]
async fn reset_and_quit_work_in_every_state() {
    same(
        r#"
        a> SELECT 3
        a> CLIENT SETNAME me
        a> HELLO 3
        a> RESET
        a> CLIENT GETNAME
        a> GET none
        a> MULTI
        a> SET k v
        a> RESET
        a> EXEC
        a> GET k
        a> WATCH k
        b> SET k 1
        a> RESET
        a> MULTI
        a> EXEC
        a| MULTI | SET k 2 | RESET | GET k
        a| WATCH k | GET k | RESET | PING
        a> SUBSCRIBE c
        a> RESET
        a> GET k
        a| SUBSCRIBE c | RESET | GET k
        a> RESET x
        a> MONITOR
        a> RESET
        a> GET k
        c| PING | QUIT
        c^
        d> MULTI
        d> QUIT
        d^
        e> SUBSCRIBE c
        e> QUIT
        e^
        f| SUBSCRIBE c | QUIT
        f^
        g> QUIT x
        g^
        h! QUIT\r\nSET after quit\r\n
        h^
        b> GET after
    "#,
    )
    .await;
}

#[tokio::test]
async fn simple_commands_answer_the_same() {
    same(
        r##"
        a> PING
        a> PING hello
        a> PING a b
        a> ping
        a> ECHO "a\r\nb"
        a> ECHO
        a> FOO
        a> FOO bar baz
        a> "FO\r\nO" "a\nb"
        a> ''
        a> CLIENT
        a> CLIENT FOO
        a> client foo bar
        a> CONFIG FOO
        a> COMMAND COUNT
        a> COMMAND INFO get set nosuch
        a> COMMAND DOCS get
        a> COMMAND GETKEYS MSET a 1 b 2
        a> COMMAND GETKEYS PING
        a> COMMAND FOO
        a> ASKING
        a> READONLY
        a> READWRITE
        a> CLUSTER INFO
        a> GETSET
        a> SET k v EX abc
        a> INCR k
        a> HSET k f v
        a> SCRIPT LOAD "return 1"
        a> EVALSHA e0e1f9fabfc9d4800c877a703b823ac0578ff8db 0
        a> EVALSHA ffffffffffffffffffffffffffffffffffffffff 0
        a> EVAL "return {1,2,{3,'four'},redis.error_reply('MY error')}" 0
        a> EVAL "return redis.call('set', KEYS[1], ARGV[1])" 1 k value
        a> EVAL "return redis.call('select', 5)" 0
        a> EVAL "return redis.error_reply('a\\r\\nb')" 0
        a> GET k
        a> SCRIPT EXISTS e0e1f9fabfc9d4800c877a703b823ac0578ff8db
        a> FUNCTION LOAD "#!lua name=lib\nredis.register_function('f', function(k, a) return redis.call('get', k[1]) end)"
        a> FCALL f 1 k
        a> FCALL nosuch 0
        a> XADD s 1-1 f v
        a> XREAD COUNT 1 STREAMS s 0
        a> XREAD BLOCK 10 STREAMS s $
        a> WAIT 0 10
        a> WAIT 1 10
        a> WAIT a b
        a> OBJECT ENCODING k
        a> OBJECT FOO k
        a> DEBUG SLEEP 0
        a> HELLO 3
        a> COMMAND INFO get
        a> DEBUG PROTOCOL bignum
        a> DEBUG PROTOCOL verbatim
        a> DEBUG PROTOCOL double
        a> DEBUG PROTOCOL null
        a> DEBUG PROTOCOL set
        a> PING
    "##,
    )
    .await;
}

#[tokio::test]
async fn inline_requests_are_understood() {
    let both = Both::start().await;
    for bytes in [
        &b"PING\r\n"[..],
        b"PING\n",
        b"  PING  \r\n",
        b"PING hello\r\nECHO \"a b\"\r\n",
        b"SET k \"a \\x41\\n\\\"b\"\r\nGET k\r\n",
        b"SET k 'it\\'s'\r\nGET k\r\n",
        b"ECHO \"\"\r\nECHO ''\r\n",
        b"\r\n\r\nPING\r\n",
        b"   \r\nPING\r\n",
        b"SELECT 1\r\nSET a 1\r\nSELECT 0\r\nGET a\r\n",
        b"MULTI\r\nSET a 2\r\nGET a\r\nEXEC\r\n",
        b"FOO bar\r\n",
        b"\"PING\r\n",
        b"PING \"a\"b\r\nPING\r\n",
        b"*1\r\n$4\r\nPING\r\nPING\r\n*1\r\n$4\r\nPING\r\n",
        b"PING",
        b"",
    ] {
        both.exchange_the_same(bytes).await;
    }
    both.stop(&[]).await;
}

#[tokio::test]
async fn info_is_the_upstreams_with_a_section_of_our_own() {
    let stack = Stack::pass_through().await;
    let mut client = stack.client().await;
    let mut info = async |line: &str| {
        let reply = client.say(line).await;
        String::from_utf8(reply.bytes().expect("INFO is text").to_vec()).expect("UTF-8")
    };
    for line in ["INFO", "INFO all", "INFO everything", "INFO default", "INFO server respgres"] {
        let text = info(line).await;
        assert!(
            text.contains("# Server\r\n") && text.contains("\r\n\r\n# respgres\r\n"),
            "{line}: {text}"
        );
        assert!(text.contains("\r\nrespgres_connected_clients:1\r\n"), "{text}");
    }
    assert!(!info("INFO server").await.contains("# respgres"));
    assert!(info("INFO respgres").await.starts_with("# respgres\r\n"));
    info("CLIENT INFO").await;
    talk(
        &stack,
        "
        > WATCH k
        +OK
    ",
    )
    .await;
    stack.stop_expecting(&[]).await;
}
