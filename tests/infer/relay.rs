//! The relay app moves in by what is proposed, unedited: its recorded traffic gets the same replies.

use crate::difference::Difference;
use crate::replay::Replay;
use crate::stack::{Redis, Server, Stack, directory};
use crate::traffic::recorded;
use crate::{infer, text};

#[tokio::test]
async fn the_proposal_for_the_relay_works_unedited() {
    let traffic = recorded();
    let redis = Redis::start().await;
    let plain = Replay::with(&redis, &traffic).await;
    let directory = directory("proposal");
    let files = directory.path().join("new");
    let arguments =
        ["--redis", &redis.url(), "--rate", "1000000", "--output", files.to_str().unwrap()];
    let output = infer(&arguments);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(output.stdout.is_empty(), "the files have it");
    let config = std::fs::read_to_string(files.join("respgres.toml")).unwrap();
    let schema = std::fs::read_to_string(files.join("schema.sql")).unwrap();

    // What a person would map: see config/relay.toml.
    for key in [
        "apikey:{apikey_id:uuid}",
        "apikey:hash_map",
        "apikey:tag:{tag:text}",
        "claude_console_account:{claude_console_account_id:uuid}",
        "account_usage:model:daily:{model_id:uuid}:{name:text}:{day:date}",
        "usage:{usage_id:uuid}",
        "usage:global:total",
        "usage:model:daily:index:{day:date}",
        "quota_card:{quota_card_id:uuid}",
    ] {
        assert!(config.contains(&format!("key        = \"{key}\"\n")), "{key} in\n{config}");
    }
    for column in [
        "tokenLimit                           = { column = \"token_limit\", type = \"bigint\" }",
        "isActive                             = { column = \"is_active\", type = \"boolean\" }",
        "totalCostLimit                       = { column = \"total_cost_limit\", type = \"numeric\" }",
    ] {
        assert!(config.contains(column), "{column} in\n{config}");
    }

    // The statements of the proposal make the tables, and `respgres schema` finds nothing to add.
    let stack = Stack::builder(&config).sql(&schema).start().await;
    let (done, printed, _) = stack.run(&["schema"]);
    assert!(done && printed == schema, "schema.sql is what `respgres schema` prints");
    let (valid, _, complaint) = stack.run(&["check-config"]);
    assert!(valid, "{complaint}");
    let actual = Replay::with(&stack, &traffic).await;
    let report = Difference::load().compare(&traffic, &plain, &actual);
    let shown = report.faults.iter().take(10).cloned().collect::<Vec<_>>().join("\n");
    assert!(report.faults.is_empty(), "{} faults, such as\n{shown}", report.faults.len());
    assert!(report.compared > 12_000, "the record has 13,296 commands");
    assert!(stack.sql_i64("select count(*) from apikey where is_active is not null").await > 0);
    let requests = "select value from usage_global_total where field = 'requests'";
    assert_eq!(
        stack.sql_text(requests).await.as_bytes(),
        redis.say("HGET usage:global:total requests").await.bytes().unwrap()
    );
    stack.stop_expecting(&[]).await;
}

#[tokio::test]
async fn the_same_data_give_the_same_proposal() {
    let traffic = recorded();
    let redis = Redis::start().await;
    Replay::with(&redis, &traffic).await;
    // What is short-lived may go between two looks.
    let mut client = crate::stack::Client::connect(&redis).await;
    for key in client.say("KEYS *").await.elements().to_vec() {
        client.command(&[b"PERSIST", key.bytes().unwrap()]).await;
    }
    let arguments = ["--redis", &redis.url(), "--rate", "1000000"];
    let first = infer(&arguments);
    assert!(first.status.success());
    assert_eq!(text(&infer(&arguments).stdout), text(&first.stdout));
    // Another server has the same keys in another order.
    let other = Redis::start().await;
    let mut copies = crate::stack::Client::connect(&other).await;
    for key in client.say("KEYS *").await.elements().to_vec() {
        let key = key.bytes().unwrap();
        let dump = client.command(&[b"DUMP", key]).await;
        copies.command(&[b"RESTORE".as_slice(), key, b"0", dump.bytes().unwrap()]).await;
    }
    let output = infer(&["--redis", &other.url(), "--rate", "1000000"]);
    let expected = text(&first.stdout).replace(&redis.address(), &other.address());
    assert_eq!(text(&output.stdout), expected);
}
