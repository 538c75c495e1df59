//! Moving in and out again, live: an app goes on while its data go from a pure Redis to typed tables and back.
//!
//! `make demo-migration` does it for longer and with more keys, and shows each step with its time. No reply is wrong
//! and no request fails, or it ends at once with what it was.
#![allow(clippy::unwrap_used, reason = "a test ends where something fails")]
// A test's own modules have nobody else to be private from, and the steps are for people.
#![allow(unreachable_pub, clippy::print_stderr)]

mod app;
#[allow(dead_code, reason = "shared with tests/relay, which uses all of it")]
#[path = "../relay/difference.rs"]
mod difference;
#[allow(dead_code, reason = "shared with tests/relay, which uses all of it")]
#[path = "../relay/replay.rs"]
mod replay;
#[path = "../stack/mod.rs"]
mod stack;
mod steps;
#[allow(dead_code, reason = "shared with tests/relay, which uses all of it")]
#[path = "../relay/traffic.rs"]
mod traffic;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::task::JoinSet;

use app::{App, CLERKS};
use stack::{Client, Cluster, Proxy, Redis, Server};
use steps::{House, Steps};

/// How long the app works at the least between two steps, ms, and how many orders it has placed before.
const PAUSE_MS: u64 = 500;
const ORDERS: u64 = 600;

/// However long it is to take, it is over by then.
const LIMIT: Duration = Duration::from_secs(900);

fn setting(name: &str, usual: u64) -> u64 {
    std::env::var(name).map_or(usual, |text| text.parse().expect("a number"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_app_moves_in_and_out_again_without_a_wrong_reply() {
    let redis = Redis::start().await;
    let cluster = Cluster::shared().await;
    let house = House::new(&redis, &cluster).await;
    let orders = setting("RESPGRES_DEMO_ORDERS", ORDERS);
    let app = Arc::new(App::new(&redis, traffic::recorded(), orders).await);
    let mut steps = Steps::new(
        Arc::clone(&app),
        Duration::from_millis(setting("RESPGRES_DEMO_PAUSE_MS", PAUSE_MS)),
    );
    let mut at_work: JoinSet<BTreeMap<u64, BTreeMap<String, String>>> = JoinSet::new();
    let of_record = Arc::clone(&app);
    at_work.spawn(async move {
        of_record.say_record().await;
        BTreeMap::new()
    });
    for number in 1..=CLERKS {
        let app = Arc::clone(&app);
        at_work.spawn(async move { app.place_orders(number).await });
    }
    let moving = async {
        steps
            .step("pure Redis: the app has said all of its record once", async || {
                app.rounds_pass(1).await;
            })
            .await;

        let mut first = None;
        steps
            .step("the app is pointed at a respgres without mappings", async || {
                let proxy = Proxy::start(&house.empty_config(), house.environment()).await;
                app.service.move_to(proxy.address()).await;
                first = Some(proxy);
            })
            .await;
        steps
            .step("respgres infer, schema --apply, check-config", async || {
                house.infer().await;
                house.run(&["schema", "--apply"]).await;
                house.run(&["check-config"]).await;
            })
            .await;
        steps
            .step("respgres rollback, before any of them runs: all are redis_only", async || {
                house.run(&["rollback", "--force"]).await;
            })
            .await;
        let mut second = None;
        steps
            .step("the app moves to a respgres with these mappings", async || {
                let proxy = Proxy::start(&house.config, house.environment()).await;
                app.service.move_to(proxy.address()).await;
                second = Some(proxy);
            })
            .await;
        first.take().expect("it was started").stop_expecting(&[]).await;

        let mappings = house.mappings();
        steps
            .step("RESPGRES STRATEGY … dual_write of each mapping: writes import", async || {
                let mut client = Client::connect_to(&app.service.address()).await;
                for mapping in &mappings {
                    let told = client.say(&format!("RESPGRES STRATEGY {mapping} dual_write")).await;
                    assert!(!told.is_error(), "{mapping}: {told:?}");
                }
            })
            .await;
        steps.step("backfill", async || house.run_and_tell(&["backfill"]).await).await;
        steps.step("verify", async || house.run_and_tell(&["verify"]).await).await;
        let rounds = setting("RESPGRES_DEMO_ROUNDS", 0);
        steps
            .step("the app goes on; what it reads is answered by Redis first", async || {
                app.rounds_pass_if_any(rounds).await;
            })
            .await;
        if rounds > 0 {
            steps
                .step("strategy set cache_first: so is what it writes", async || {
                    house.run(&["strategy", "set", "cache_first"]).await;
                    app.rounds_pass_if_any(rounds).await;
                })
                .await;
            steps
                .step("strategy set dual_write: Postgres has all of the journal", async || {
                    house.run(&["strategy", "set", "dual_write"]).await;
                })
                .await;
            steps.step("verify, again", async || house.run_and_tell(&["verify"]).await).await;
        }
        steps
            .step("respgres rollback, while the app goes on: all keys are in Redis", async || {
                app.goes_back.store(true, Ordering::Relaxed);
                house.run(&["rollback", "--force"]).await;
                app.goes_back.store(false, Ordering::Relaxed);
            })
            .await;
        steps
            .step("the app moves to Redis itself", async || {
                app.service.move_to(redis.address()).await;
            })
            .await;
        second.take().expect("it was started").stop_expecting(&[]).await;
        steps
            .step("pure Redis: the app says its record once more", async || {
                app.rounds_pass(1).await;
            })
            .await;
        app.end();
    };
    let mut all = BTreeMap::new();
    let working = async {
        // Who fails ends it all.
        while let Some(orders) = at_work.join_next().await {
            all.append(&mut orders.unwrap());
        }
    };
    let all_of_it = async { tokio::join!(moving, working) };
    tokio::time::timeout(LIMIT, all_of_it).await.expect("it comes to its end in time");
    let compared = app.compare_all(&redis, &all).await;
    let replies = app.replies.load(Ordering::Relaxed);
    let anew = app.begun_anew.load(Ordering::Relaxed);
    steps.tell_end(&format!(
        "{replies} replies were checked, none was wrong and no request failed; {anew} SCANs were begun anew on the way \
         back; {compared} keys of Redis are as they are to be"
    ));
    assert!(replies > 30_000, "hardly anything was said");
}
