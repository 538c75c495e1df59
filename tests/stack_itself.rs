//! The test support tested: a harness that cannot fail proves nothing.

mod stack;

use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};

use stack::reaper::Reaper;
use stack::resp::{arguments, escape};
use stack::{Client, Cluster, Redis, Value, talk, wait_until};

#[tokio::test]
async fn a_conversation_with_redis_goes_as_written() {
    let redis = Redis::start().await;
    talk(
        &redis,
        r#"
        # quoting, nil, maps, errors
        > HSET k "a field" "\x00\xff é\"" b ''
        :2
        > HGETALL k
        *4
          "a field"
          "\x00\xff é\""
          "b"
          ""
        > GET nothing
        $-1
        > GET k
        -WRONGTYPE Operation against a key holding the wrong kind of value
        > TTL k
        :-…
        b> SUBSCRIBE news
        *3
          "subscribe"
          "news"
          :1
        > PUBLISH news hello
        :1
        b< *3
          "message"
          "news"
          "hello"
        c> HELLO 3
        %7
          "server"
          "redis"
          "version"
          "…
          "proto"
          :3
          "id"
          :…
          "mode"
          "standalone"
          "role"
          "master"
          "modules"
          *0
    "#,
    )
    .await;
}

#[tokio::test]
#[should_panic(expected = "another way at line 2")]
async fn a_conversation_that_goes_otherwise_fails() {
    let redis = Redis::start().await;
    talk(
        &redis,
        "
        > INCR k
        :2
    ",
    )
    .await;
}

#[tokio::test]
#[should_panic(expected = "another way at line 3")]
async fn a_reply_that_nobody_expects_fails() {
    let redis = Redis::start().await;
    talk(
        &redis,
        "
        > MGET a b
        *2
    ",
    )
    .await;
}

#[test]
fn quoting_gives_back_the_bytes() {
    let bytes: Vec<u8> = (0..=255).collect();
    let line = format!("SET \"{}\"", escape(&bytes));
    assert_eq!(arguments(&line), [b"SET".to_vec(), bytes]);
}

#[test]
fn a_reply_is_read_only_when_it_is_whole() {
    let whole = b"*3\r\n$2\r\n\r\n\r\n:-5\r\n%1\r\n+a\r\n$-1\r\n";
    for end in 0..whole.len() {
        assert_eq!(Value::parse(&whole[..end]), None, "{end}");
    }
    let map = Value::Map(vec![(Value::Status("a".to_owned()), Value::NilBulk)]);
    let value = Value::Array(vec![Value::Bulk(b"\r\n".to_vec()), Value::Integer(-5), map]);
    assert_eq!(Value::parse(whole), Some((value, whole.len())));
}

#[tokio::test]
async fn each_test_has_a_database_of_its_own() {
    let cluster = Cluster::shared().await;
    let prepare = async |template: &str| {
        let mut connection = cluster.connect(template).await;
        sqlx::query("create table t (n int)").execute(&mut connection).await.expect("fresh");
    };
    let one = cluster.clone_database("one table", prepare).await;
    let two = cluster
        .clone_database("one table", async |_: &str| panic!("the template is there already"))
        .await;
    let mut first = cluster.connect(&one).await;
    sqlx::query("insert into t values (1)").execute(&mut first).await.expect("a copy has t");
    let mut second = cluster.connect(&two).await;
    let count: i64 =
        sqlx::query_scalar("select count(*) from t").fetch_one(&mut second).await.expect("has t");
    assert_eq!(count, 0);
}

#[tokio::test]
async fn a_cluster_that_was_killed_comes_back_with_its_data() {
    let cluster = Cluster::start(true).await;
    let database = cluster.create_database().await;
    let mut connection = cluster.connect(&database).await;
    sqlx::query("create table t (n int)").execute(&mut connection).await.expect("fresh");
    cluster.kill();
    wait_until("the connection breaks", async || {
        sqlx::query("select 1").execute(&mut connection).await.is_err()
    })
    .await;
    cluster.restart().await;
    let mut connection = cluster.connect(&database).await;
    sqlx::query("select n from t").execute(&mut connection).await.expect("t survived");
}

#[tokio::test]
async fn a_redis_starts_again_at_the_same_address_empty() {
    let mut redis = Redis::start().await;
    assert_eq!(redis.say("SET k v").await, Value::Status("OK".to_owned()));
    redis.kill();
    assert!(Client::try_connect_to(&redis.socket().display().to_string()).await.is_err());
    redis.restart().await;
    assert_eq!(redis.say("GET k").await, Value::NilBulk);
}

#[test]
fn the_reaper_kills_and_removes_what_it_was_told() {
    let sleep = || {
        // A shell that runs tests in the background has made them ignore SIGQUIT.
        let mut command = Command::new("env");
        command.args(["--default-signal=QUIT", "sleep", "60"]);
        command.stdout(Stdio::null()).spawn().expect("sleep starts")
    };
    let (mut doomed, mut quitted, mut spared) = (sleep(), sleep(), sleep());
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut reaper = Reaper::start();
    reaper.kill(doomed.id());
    reaper.quit(quitted.id());
    reaper.kill(spared.id());
    reaper.spare(spared.id());
    reaper.remove(directory.path());
    drop(reaper);
    assert_eq!(doomed.wait().expect("our child").signal(), Some(9));
    assert_eq!(quitted.wait().expect("our child").signal(), Some(3));
    assert_eq!(spared.try_wait().expect("our child"), None);
    spared.kill().expect("our child");
    spared.wait().expect("our child");
    assert!(!directory.path().exists());
}
