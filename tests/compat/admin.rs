//! Commands that concern the Redis server as a whole: refused, unless the configuration allows them.

use respgres::command::{COMMANDS, Guarded};

use crate::both::{Both, same};
use crate::stack::{Client, Stack, Value, talk};

/// All that is guarded, as ACL rules name it.
fn guarded() -> Vec<String> {
    let mut names = Vec::new();
    for command in COMMANDS {
        match command.guarded {
            Guarded::Nothing => {}
            Guarded::Whole => names.push(command.name.to_owned()),
            Guarded::Subcommands(subcommands) => {
                names.extend(subcommands.iter().map(|(name, _)| format!("{}|{name}", command.name)))
            }
        }
    }
    names
}

#[tokio::test]
async fn by_default_they_are_refused_as_by_a_redis_that_denies_them() {
    let names = guarded();
    let both = Both::start_denying(&names).await;
    let mut script = String::new();
    for version in ["2", "3"] {
        script.push_str(&format!("a> HELLO {version}\n"));
        for name in &names {
            // As many arguments as none of them has, one, two and four.
            let words = name.replace('|', " ");
            for arguments in ["", "x", "x 1", "x 1 y 2"] {
                script.push_str(&format!("a> {words} {arguments}\n"));
            }
        }
    }
    both.say_the_same(&script).await;
    both.say_the_same(
        r"
        a> CONFIG GET maxmemory
        a> cOnFiG sEt maxmemory 0
        a> CONFIG
        a> CONFIG NOSUCH x
        a> ACL WHOAMI
        a> SLOWLOG LEN
        a> LATENCY LATEST
        a> MODULE LIST
        a> CLUSTER INFO
        a> CLIENT NO-EVICT on
        a! CONFIG SET maxmemory 0\r\n
        a<
        a| SET k 1 | CONFIG RESETSTAT | INCR k | SAVE | GET k
    ",
    )
    .await;
    both.stop(&[]).await;
}

#[tokio::test]
async fn inside_multi_a_refusal_ends_the_transaction() {
    let both = Both::start_denying(&guarded()).await;
    let mut script = String::new();
    for line in ["CONFIG SET maxmemory 0", "CONFIG SET x", "DEBUG SLEEP 0", "SAVE", "SHUTDOWN"] {
        script.push_str(&format!("a> MULTI\na> SET k v\na> {line}\na> GET k\na> EXEC\na> GET k\n"));
    }
    script.push_str("a> MULTI\na> CONFIG GET maxmemory\na> EXEC\n");
    both.say_the_same(&script).await;
    both.stop(&[]).await;
}

#[tokio::test]
async fn a_client_with_a_connection_of_its_own_is_refused_too() {
    let both = Both::start_denying(&guarded()).await;
    both.say_the_same(
        r"
        a> SUBSCRIBE c
        a> CONFIG SET maxmemory 0
        a> CONFIG GET maxmemory
        a! SUBSCRIBE d\r\nDEBUG SLEEP 0\r\nUNSUBSCRIBE c d\r\nSAVE\r\n
        a<
        a<
        a<
        a<
        a<
        b> HELLO 3
        b> SUBSCRIBE c
        b> CONFIG SET maxmemory 0
        c> WATCH k
        c> SHUTDOWN NOSAVE
        c> PING
        d> MONITOR
        d> DEBUG SLEEP 0
    ",
    )
    .await;
    both.stop(&[]).await;
}

#[tokio::test]
async fn they_pass_when_the_configuration_allows_them() {
    same(
        r"
        a> CONFIG SET maxmemory-samples 7
        b> CONFIG GET maxmemory-samples
        a> CONFIG RESETSTAT
        a> SLOWLOG RESET
        a> LATENCY RESET
        a> DEBUG SLEEP 0
        a> ACL SETUSER somebody on nopass
        a> ACL GETUSER somebody
        a> REPLICAOF no one
        a> MULTI
        a> CONFIG SET maxmemory-samples 5
        a> EXEC
        a> SAVE
        a> CLUSTER ADDSLOTS 1
        a> FAILOVER ABORT
    ",
    )
    .await;
    let mut stack =
        Stack::builder("").set("RESPGRES__UPSTREAM__ADMIN_COMMANDS", "true").start().await;
    let mut client = stack.client().await;
    client.send(b"SHUTDOWN NOSAVE\r\n").await;
    let (status, _) = stack.redis.finish().await;
    assert!(status.success(), "Redis ended with {status}");
}

#[tokio::test]
async fn who_has_not_authenticated_is_told_that_first() {
    let stack = Stack::builder("").set("RESPGRES__AUTH__PASSWORD", "secret").start().await;
    talk(
        &stack,
        "
        > SHUTDOWN
        -NOAUTH Authentication required.
        > CONFIG SET maxmemory 0
        -NOAUTH Authentication required.
        > AUTH secret
        +OK
        > SHUTDOWN
        -NOPERM this user has no permissions to run the 'shutdown' command
    ",
    )
    .await;
    let mut redis = Client::connect(&stack.redis).await;
    assert_eq!(redis.say("PING").await, Value::Status("PONG".to_owned()));
    stack.stop_expecting(&[]).await;
}
