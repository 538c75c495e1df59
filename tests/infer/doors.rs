//! What is not there, is no Redis, wants a password, or is not the whole of it: a clear word each.

use std::io::Write;
use std::net::TcpListener;

use crate::stack::{Redis, directory, wait_until};
use crate::{infer, text};

fn fails(arguments: &[&str], expected: &str) {
    let output = infer(arguments);
    assert!(!output.status.success(), "{arguments:?}");
    assert!(output.stdout.is_empty(), "{arguments:?}");
    let told = text(&output.stderr);
    assert!(told.contains(expected), "{arguments:?}: {told}");
}

#[test]
fn a_wrong_url_is_said_with_the_way_out() {
    fails(&["--redis", "localhost:6379"], "--redis: not a Redis url; write redis://");
    fails(
        &["--redis", "rediss://localhost"],
        "--redis: TLS to the upstream (rediss://) is not available yet",
    );
    fails(
        &["--redis", "redis://localhost/1"],
        "nothing can follow the port; the database is --database",
    );
    fails(&["--redis", "redis://localhost", "--rate", "0"], "--rate");
    fails(&[], "--redis <URL>");
}

#[test]
fn nobody_there_and_somebody_else_are_told() {
    fails(&["--redis", "unix:/nonexistent"], "nothing can be proposed: cannot connect");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("redis://{}", listener.local_addr().unwrap());
    let server = std::thread::spawn(move || {
        let (mut client, _) = listener.accept().unwrap();
        client.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").unwrap();
    });
    fails(&["--redis", &url], "sent bytes that are no reply");
    server.join().unwrap();
}

#[tokio::test]
async fn a_password_and_a_user_are_given_in_the_url_and_not_repeated() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    let redis = Redis::start_with(&["--port", &port, "--requirepass", "sesame"]).await;
    let mut client = crate::stack::Client::connect(&redis).await;
    client.say("AUTH sesame").await;
    for line in [
        "HSET user:1 name x",
        "ACL SETUSER looker on >sesame2 ~* -@all +scan +type +pttl +hlen +hgetall +hscan +scard +sscan +ping +object|encoding",
        "ACL SETUSER blind on >sesame3 ~* -@all +ping",
    ] {
        assert!(!client.say(line).await.is_error(), "{line}");
    }
    fails(&["--redis", &redis.url()], "refused the connection: NOAUTH");
    fails(&["--redis", &format!("redis://:wrong@127.0.0.1:{port}")], "WRONGPASS");
    fails(
        &["--redis", &format!("redis://blind:sesame3@127.0.0.1:{port}")],
        "Redis refused SCAN: NOPERM",
    );
    for login in [":sesame", "looker:sesame2"] {
        let output = infer(&["--redis", &format!("redis://{login}@127.0.0.1:{port}")]);
        assert!(output.status.success(), "{}", text(&output.stderr));
        let config = text(&output.stdout);
        assert!(config.contains("key        = \"user:{user_id:int}\""), "{config}");
        assert!(!config.contains("sesame"), "{config}");
        assert!(config.contains(&format!("url = \"redis://127.0.0.1:{port}\"")), "{config}");
    }
}

#[tokio::test]
async fn another_database_is_looked_into() {
    let redis = Redis::start().await;
    let mut client = crate::stack::Client::connect(&redis).await;
    client.say("SELECT 3").await;
    client.say("HSET user:1 name x").await;
    let found = crate::proposal(&["--redis", &redis.url(), "--database", "3"]);
    assert_eq!(crate::mappings(&found), ["user:{user_id:int} hash name=text"]);
    assert!(found["config"].as_str().unwrap().contains("database = 3"));
    fails(&["--redis", &redis.url(), "--database", "99"], "DB index is out of range");
}

#[tokio::test]
async fn a_replica_and_a_node_of_a_cluster_say_what_they_are() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    let master = Redis::start_with(&["--port", &port]).await;
    master.say("HSET user:1 name x").await;
    let replica = Redis::start_with(&["--replicaof", "127.0.0.1", &port]).await;
    wait_until("the replica has it", async || {
        replica.say("EXISTS user:1").await == crate::stack::Value::Integer(1)
    })
    .await;
    let found = crate::proposal(&["--redis", &replica.url()]);
    assert_eq!(crate::mappings(&found), ["user:{user_id:int} hash name=text"]);
    assert_eq!(found["notes"][0], "this Redis is a replica; respgres needs its master");

    let node =
        Redis::start_with(&["--cluster-enabled", "yes", "--cluster-require-full-coverage", "no"])
            .await;
    let slots: Vec<String> = (0..16_384).map(|slot| slot.to_string()).collect();
    node.say(&format!("CLUSTER ADDSLOTS {}", slots.join(" "))).await;
    wait_until("the node takes keys", async || !node.say("HSET user:1 name x").await.is_error())
        .await;
    let found = crate::proposal(&["--redis", &node.url()]);
    assert_eq!(crate::mappings(&found), ["user:{user_id:int} hash name=text"]);
    let note = found["notes"][0].as_str().unwrap();
    assert!(note.starts_with("this Redis is a node of a cluster: only its own keys"), "{note}");
}

#[tokio::test]
async fn files_that_are_there_are_not_overwritten() {
    let redis = Redis::start().await;
    let directory = directory("output");
    let path = directory.path().to_str().unwrap();
    std::fs::write(directory.path().join("schema.sql"), "mine").unwrap();
    fails(&["--redis", &redis.url(), "--output", path], "schema.sql: is there already");
    assert!(!directory.path().join("respgres.toml").exists());
    assert_eq!(std::fs::read_to_string(directory.path().join("schema.sql")).unwrap(), "mine");
}
