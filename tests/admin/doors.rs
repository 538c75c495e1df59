//! Who is let in, and how the others are told no.

use crate::house::{House, MAPPINGS, TOKEN};
use crate::http::{Answer, send};
use crate::stack::{Stack, Value, directory, respgres};

fn check(answer: &Answer, status: u16, error: &str) {
    assert_eq!(answer.status, status, "{answer:?}");
    assert_eq!(answer.header("content-type"), Some("application/json"), "{answer:?}");
    let body = answer.json();
    assert!(body["error"].as_str().unwrap().contains(error), "{body}");
    assert!(!body["advice"].as_str().unwrap().is_empty(), "{body}");
    assert_eq!(body.as_object().unwrap().len(), 2, "{body}");
}

#[tokio::test]
async fn without_the_token_nothing_answers_but_whether_it_lives() {
    let house = House::build("").await;
    let paths = [
        "/metrics",
        "/admin/database/health",
        "/admin/database/status",
        "/admin/database/dead-letters",
        "/admin/database/cache/clear",
        "/no/such/path",
        "//",
        "/page.html",
        "/page.js/",
        "/page/page.js",
        "/favicon.ico",
        "/live/",
        "//live",
        "/live/../metrics",
    ];
    for path in paths {
        for method in ["GET", "POST", "DELETE"] {
            let answer = send(&house.address, method, path, &[], "").await;
            check(&answer, 401, "a token is needed");
            assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
        }
    }
    let tokens =
        ["Bearer wrong", "Bearer", "Basic an-operator's-token", "Bearer an-operator's-toke"];
    for token in tokens {
        let headers = [("Authorization", token)];
        check(&send(&house.address, "GET", "/metrics", &headers, "").await, 401, "not the token");
    }
    for path in ["/live", "/ready"] {
        let answer = send(&house.address, "GET", path, &[], "").await;
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    assert_eq!(house.get("/metrics").await.status, 200);
    house.stack.stop_expecting(&[]).await;
}

#[tokio::test]
async fn without_a_token_in_the_configuration_nobody_is_let_in() {
    let house = House::with("", &[], None).await;
    for headers in [&[][..], &[("Authorization", "Bearer ")], &[("Authorization", "Bearer x")]] {
        let answer = send(&house.address, "GET", "/metrics", headers, "").await;
        check(&answer, 401, "the admin API has no token");
    }
    assert_eq!(send(&house.address, "GET", "/live", &[], "").await.json()["live"], true);
    house.stack.stop_expecting(&[]).await;
}

#[tokio::test]
async fn what_cannot_be_served_is_told_in_one_shape() {
    let house = House::build(MAPPINGS).await;
    check(&house.get("/no/such/path").await, 404, "no such path");
    check(&house.get("/admin/database/no").await, 404, "no such path");
    let answer = house.post("/metrics").await;
    check(&answer, 405, "not for this method");
    assert_eq!(answer.header("allow"), Some("GET,HEAD"));
    check(&send(&house.address, "POST", "/live", &[], "").await, 405, "not for this method");
    check(&house.get("/admin/database/cache/clear").await, 405, "not for this method");
    check(&house.get("/admin/database/dead-letters?limit=0").await, 400, "limit");
    check(&house.post("/admin/database/dead-letters/x/retry").await, 400, "a number");
    check(&house.post("/admin/database/dead-letters/7/retry").await, 404, "no dead letter 7");
    check(&house.post("/admin/database/dead-letters/7/drop").await, 404, "no dead letter 7");
    let clear = "/admin/database/cache/clear";
    check(&house.post_json(clear, r#"{"mapping": "none"}"#).await, 404, "no mapping \"none\"");
    check(&house.post_json(clear, r#"{"what": 1}"#).await, 400, "not understood");
    check(&house.post_json(clear, "{").await, 400, "not understood");
    let bearer = format!("Bearer {TOKEN}");
    let headers = [("Authorization", &*bearer), ("Content-Type", "text/plain")];
    check(&send(&house.address, "POST", clear, &headers, "{}").await, 415, "of a type");
    let large = format!("{{\"mapping\": \"{}\"}}", "x".repeat(20_000));
    check(&house.post_json(clear, &large).await, 413, "more than 16384 bytes");
    house.stack.stop_expecting(&[]).await;
}

#[tokio::test]
async fn a_body_in_pieces_without_an_end_is_not_gathered() {
    let house = House::build("").await;
    let bearer = format!("Bearer {TOKEN}");
    let headers = [("Authorization", &*bearer), ("Transfer-Encoding", "chunked")];
    let chunk = format!("1000\r\n{}\r\n", "x".repeat(0x1000));
    let request = format!(
        "POST /admin/database/cache/clear HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{}: {}\r\n{}: {}\r\n\r\n{}",
        headers[0].0,
        headers[0].1,
        headers[1].0,
        headers[1].1,
        chunk.repeat(5)
    );
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(&house.address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut told = [0; 12];
    stream.read_exact(&mut told).await.unwrap();
    assert_eq!(&told, b"HTTP/1.1 413");
    house.stack.stop_expecting(&[]).await;
}

/// What `respgres run` says when it does not start.
async fn refusal_to_start(settings: &[(&str, &str)]) -> String {
    let directory = directory("admin");
    let config = directory.path().join("respgres.toml");
    std::fs::write(&config, "").unwrap();
    let own = settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    let mut environment = vec![("RESPGRES__SERVER__LISTEN".to_owned(), "127.0.0.1:0".to_owned())];
    environment.extend(own);
    let mut command = respgres(&["run"], &config, &environment);
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    assert!(!output.status.success());
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[tokio::test]
async fn other_machines_are_not_let_in_without_a_token() {
    for address in ["0.0.0.0:0", "[::]:0", "10.0.0.1:6381", "example:6381"] {
        let told = refusal_to_start(&[("RESPGRES__ADMIN__LISTEN", address)]).await;
        assert!(told.contains("admin.listen: is for others than this machine alone"), "{told}");
    }
    let settings = [("RESPGRES__ADMIN__LISTEN", "0.0.0.0:0"), ("RESPGRES__ADMIN__TOKEN", TOKEN)];
    Stack::builder("")
        .set(settings[0].0, settings[0].1)
        .set(settings[1].0, settings[1].1)
        .start()
        .await;
    let told = refusal_to_start(&[("RESPGRES__ADMIN__TOKEN", "a b")]).await;
    assert!(told.contains("a header cannot carry it") && !told.contains("a b"), "{told}");
}

#[tokio::test]
async fn a_port_that_is_taken_is_told_at_the_start() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let told = refusal_to_start(&[("RESPGRES__ADMIN__LISTEN", &address)]).await;
    let expected = format!("the admin API cannot listen on {address}: Address already in use");
    assert!(told.contains(&expected) && told.contains("see admin.listen"), "{told}");
}

#[tokio::test]
async fn many_who_ask_do_not_disturb_clients() {
    let house = House::build(MAPPINGS).await;
    let mut client = house.stack.client().await;
    client.say("HSET thing:1 name a").await;
    let asking = async {
        let mut asks = tokio::task::JoinSet::new();
        for number in 0..200 {
            let path = ["/metrics", "/admin/database/status", "/ready", "/live"][number % 4];
            let address = house.address.clone();
            asks.spawn(async move {
                let bearer = format!("Bearer {TOKEN}");
                send(&address, "GET", path, &[("Authorization", &bearer)], "").await
            });
        }
        let answers = asks.join_all().await;
        assert!(answers.iter().all(|answer| answer.status == 200), "{answers:?}");
    };
    let talking = async {
        for number in 0..200 {
            let size = format!("{number}");
            client.say(&format!("HSET thing:1 size {size}")).await;
            let told = client.say("HGET thing:1 size").await;
            assert_eq!(told, Value::Bulk(size.into_bytes()));
        }
    };
    tokio::join!(asking, talking);
    house.stack.stop_expecting(&[]).await;
}
