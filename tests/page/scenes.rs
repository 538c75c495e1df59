//! What the page shows while all is well, and while Postgres is gone. With RESPGRES_SCREENSHOTS these are the pictures of
//! the documentation.

use std::path::Path;
use std::sync::Arc;

use crate::browser::Browser;
use crate::entered;
use crate::house::{House, TOKEN};
use crate::stack::{Client, Cluster, Server};

const SHOP: &str = r#"
[[mapping]]
name = "api_keys"
key = "apikey:{id:int}"
table = "api_keys"
extra = "extra"
[mapping.columns]
name = "name"
limit = { column = "call_limit", type = "integer" }

[[mapping]]
name = "usage"
key = "usage:{id:int}"
table = "usage"
strategy = "cache_first"
[mapping.columns]
requests = { column = "requests", type = "bigint" }

[[mapping]]
name = "baskets"
key = "basket:{id:int}"
kind = "set"
table = "baskets"
member = "article"
on_postgres_down = "redis_only"
"#;

/// What an app does, for as long as this is held.
struct App(tokio::task::JoinSet<()>);

impl App {
    fn start(address: &str) -> Self {
        let mut clients = tokio::task::JoinSet::new();
        for number in 0..4_u32 {
            let address = address.to_owned();
            clients.spawn(async move {
                let mut client = Client::connect_to(&address).await;
                for turn in number.. {
                    let key = turn % 40;
                    // What is told does not matter here.
                    client.say(&format!("HSET apikey:{key} name demo limit {turn}")).await;
                    client.say(&format!("HINCRBY usage:{key} requests 1")).await;
                    client.say(&format!("SADD basket:{key} {}", turn % 9)).await;
                    for _ in 0..12 {
                        client.say(&format!("HGETALL apikey:{key}")).await;
                        client.say(&format!("HGET usage:{key} requests")).await;
                        client.say(&format!("SMEMBERS basket:{key}")).await;
                    }
                    client.say(&format!("HGET apikey:{} name", 1000 + turn % 500)).await;
                    tokio::time::sleep(std::time::Duration::from_millis(5)).await;
                }
            });
        }
        Self(clients)
    }
}

fn keep(browser: &Browser, name: &str) {
    let height = browser.eval("document.documentElement.scrollHeight");
    browser.resize(crate::WIDTH, u32::try_from(height.as_u64().unwrap()).unwrap());
    let picture = browser.picture();
    assert!(picture.starts_with(b"\x89PNG"), "{name}");
    if let Some(directory) = std::env::var_os("RESPGRES_SCREENSHOTS") {
        std::fs::write(Path::new(&directory).join(name), picture).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_and_loss_of_postgres_are_in_sight() {
    let cluster = Arc::new(Cluster::start(true).await);
    let token = [("RESPGRES__ADMIN__TOKEN", TOKEN)];
    let mut house = House::with(SHOP, &token, Some(Arc::clone(&cluster))).await;
    let (done, _, error) =
        house.stack.run(&["phase", "set", "dual_write", "--force", "--mapping", "baskets"]);
    assert!(done, "{error}");
    let browser = entered(&house);
    browser.wait_for_text("#standing", "ok");
    let app = App::start(&house.stack.proxy.address());
    browser.wait_for("document.querySelector('#requests [data-of=rate]').innerText.length > 2");
    browser.wait_for("parseFloat(document.querySelector('#cache [data-of=ratio]').innerText) > 50");
    browser.wait_for_text("#writes [data-of=most]", "ms");
    browser.wait_for_text("#mappings", "cache_first");
    browser.wait_for_text("#redis", "answers");
    browser.wait_for_text("#postgres", "is there");
    let body = r#"{"mapping": "api_keys", "rate": 1, "parallel": 1}"#;
    house.post_json("/admin/database/sync/postgres-to-redis", body).await;
    browser.wait_for_text("#jobs", "Postgres to Redis, api_keys: running");
    keep(&browser, "page-healthy.png");
    house.post("/admin/database/jobs/1/cancel").await;
    browser.wait_for_text("#jobs", "api_keys: cancelled");

    cluster.kill();
    browser.wait_for_text("#standing", "degraded");
    browser.wait_for_text("#postgres", "is lost");
    browser.wait_for_text("#mappings", "degraded");
    browser.wait_for_text("#troubles", "Postgres is lost");
    browser.prefer("dark");
    keep(&browser, "page-degraded.png");
    drop(app);
    cluster.restart().await;
    browser.wait_for_text("#standing", "ok");
    browser.expect_troubles(&[]);
    house.stack.proxy.stop_allowing(&["Postgres is lost"], &["WARN"]).await;
}
