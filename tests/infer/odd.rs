//! Keys and values that are not as one would wish: still a proposal that is valid and loses nothing.

use crate::stack::{Client, Redis, Stack};
use crate::{infer, left, mappings, proposal, text};

#[tokio::test]
async fn an_empty_redis_gives_a_valid_file_without_mappings() {
    let redis = Redis::start().await;
    let output = infer(&["--redis", &redis.url()]);
    assert!(output.status.success());
    assert!(text(&output.stderr).contains("0 keys, 0 looked into: 0 mappings proposed"));
    let config: toml::Table = text(&output.stdout).parse().unwrap();
    assert!(!config.contains_key("mapping"));
}

#[tokio::test]
async fn odd_keys_and_fields_are_quoted_or_stay() {
    let redis = Redis::start().await;
    let mut client = Client::connect(&redis).await;
    for line in [
        r#"HSET "\xff\xfe:1" f v"#,
        r#"HSET "nul\x00:1" f v"#,
        r#"HSET "line\n; drop table users; --:1" f v"#,
        r#"HSET "a\"b\\c*[x]?:1" "f\"1" v "f'2" v "order" 1 "ctid" 2 "a.b" 3 "A_b" 4 "" 5 "größe" 6"#,
        r#"HSET "{brace}:1" f v"#,
        r#"HSET "a\"b\\c*[x]?:1" "bin\xff" v key_expires_at x extra y aBId z"#,
        r#"HSET "::1" f v"#,
        r#"HSET ":" f v"#,
        r#"HSET "user:1" id 1 user_id 2"#,
        r#"SADD "binary:1" "\xff""#,
        r#"SADD "größe:1" "ä""#,
        r#"HSET "one record" name demo at 5"#,
    ] {
        assert!(!client.say(line).await.is_error(), "{line}");
    }
    client.say(r#"PEXPIRE "user:1" 100000"#).await;
    let found = proposal(&["--redis", &redis.url()]);
    let patterns: Vec<String> =
        mappings(&found).iter().map(|line| line.split(' ').next().unwrap().to_owned()).collect();
    assert_eq!(
        patterns,
        [
            "::{id:int}",
            "a\"b\\c*[x]?:{a_b_c_x_id:int}",
            "binary:{binary_id:int}",
            "größe:{gr_e_id:int}",
            "user:{user_id:int}",
            "{{brace}}:{brace_id:int}",
        ]
    );
    #[rustfmt::skip]
    assert_eq!(left(&found), [
        ": hash: one key, a record: rows need a part of the key that varies",
        "line\n; drop table users; --:{line_drop_table_user_id:int} hash: its keys have control characters",
        "one record hash: one key, a record: rows need a part of the key that varies",
    ]);
    assert_eq!(
        found["notes"][0],
        "2 keys cannot be mapped (not UTF-8 text, or too long) and stay in Redis"
    );
    let config = found["config"].as_str().unwrap();
    let stack = Stack::builder(config).sql(found["schema"].as_str().unwrap()).start().await;
    let mut here = Client::connect(&stack).await;
    for line in [
        r#"HSET "a\"b\\c*[x]?:1" "f\"1" v "order" 1 "ctid" 2 "bin\xff" v aBId z"#,
        r#"HSET "user:1" id 1 user_id 2"#,
        r#"SADD "binary:1" "\xff""#,
    ] {
        assert!(!here.say(line).await.is_error(), "{line}");
    }
    let said = here.say(r#"HGET "a\"b\\c*[x]?:1" "bin\xff""#).await;
    assert_eq!(said.bytes(), Some(&b"v"[..]));
    assert_eq!(stack.sql_text("select user_id_2 from users").await, "2");
    assert_eq!(stack.sql_text("select member from binarys").await, "\\xff");
    stack.stop_expecting(&[]).await;
}

#[tokio::test]
async fn families_that_share_keys_are_told_apart_or_stay() {
    let redis = Redis::start().await;
    let mut client = Client::connect(&redis).await;
    let mut say = async |line: String| assert!(!client.say(&line).await.is_error(), "{line}");
    for n in 0..30 {
        let word: String = n.to_string().bytes().map(|digit| char::from(digit + 49)).collect();
        // Hashes and strings in one place: no pattern can tell.
        say(format!("HSET mixed:{n} a {n} b x")).await;
        say(format!("SET mixed:{} x", n + 1000)).await;
        // Free names, beside ids of another type, and beside a longer name.
        say(format!("HSET team:{word} name x size {n}")).await;
        say(format!("SADD team:6f1c0d3e-5b7a-4c2d-9e8f-0000000000{:02} a", n)).await;
        say(format!("SET team:{word}:lock 1")).await;
        say(format!("SADD label:team-{word}.{word} x")).await;
    }
    say("SET team:size 30".to_owned()).await;
    say("HSET team:all count 30 open 2 note x".to_owned()).await;
    let found = proposal(&["--redis", &redis.url()]);
    assert_eq!(
        mappings(&found),
        [
            "label:{label:text} set",
            "team:{team:slug} hash name=text size=bigint",
            "team:{team_id:uuid} set",
        ]
    );
    let left = left(&found);
    let mixed = "mixed:{mixed_id:int} hash: its keys cannot be told from those of mixed:{mixed_id:int} (string)";
    assert!(left.iter().any(|line| line == mixed), "{left:?}");
    let stack = Stack::builder(found["config"].as_str().unwrap()).start().await;
    let mut here = Client::connect(&stack).await;
    for (line, expected) in [
        ("HSET team:abc name x", "explained"),
        ("SADD team:6f1c0d3e-5b7a-4c2d-9e8f-000000000001 a", "explained"),
    ] {
        assert!(!here.say(line).await.is_error(), "{line} {expected}");
    }
    // What is a string in Redis can be one here.
    for line in ["SET team:size 30", "SET team:abc:lock 1", "SET mixed:7 x"] {
        assert!(!here.say(line).await.is_error(), "{line}");
    }
    assert_eq!(stack.sql_i64("select count(*) from team").await, 1);
    stack.stop_expecting(&[]).await;
}

#[tokio::test]
async fn names_without_anything_in_common_stay() {
    let redis = Redis::start().await;
    let mut client = Client::connect(&redis).await;
    let word =
        |n: u32| -> String { n.to_string().bytes().map(|digit| char::from(digit + 49)).collect() };
    let commands: Vec<Vec<String>> = (0..1500)
        .flat_map(|n| {
            let id = format!("{n:08}-5b7a-4c2d-9e8f-0123456789ab");
            [word(n), format!("{}:{}", word(n), word(n)), id]
        })
        .map(|key| ["HSET", &key, "name", "x"].map(str::to_owned).into())
        .collect();
    client.pipeline(&commands).await;
    let found = proposal(&["--redis", &redis.url()]);
    assert_eq!(mappings(&found), ["{id:uuid} hash name=text"]);
    let reason = "nothing is the same in its keys: any key might be one of them";
    assert_eq!(
        left(&found),
        [
            format!("{{name:slug}} hash: {reason}"),
            format!("{{name:slug}}:{{name_2:slug}} hash: {reason}")
        ]
    );
}

#[tokio::test]
async fn secrets_are_not_repeated() {
    let redis = Redis::start().await;
    let mut client = Client::connect(&redis).await;
    for n in 0..30 {
        let value = if n == 0 { "hunter2-correct-horse".to_owned() } else { n.to_string() };
        let line = format!(
            "HSET login:c0ffee{n:02}9f8e7d6c5b4a39281706f5e4d3c2b1a0 apiSecret {value} level {value}"
        );
        client.say(&line).await;
    }
    let output = infer(&["--redis", &redis.url()]);
    let all = text(&output.stdout) + &text(&output.stderr);
    assert!(all.contains("login:c0ffee…"), "{all}");
    assert!(!all.contains("9f8e7d6c"), "a token of a key\n{all}");
    assert!(!all.contains("hunter2-correct-horse"), "a whole value\n{all}");
    let secret = all.lines().find(|line| line.starts_with("apiSecret")).unwrap();
    assert!(!secret.contains("hunter"), "{secret}");
}

#[tokio::test]
async fn large_values_are_read_in_slices_and_only_so_far() {
    let redis = Redis::start().await;
    let mut client = Client::connect(&redis).await;
    for first in (0..20_000).step_by(1000) {
        let fields: Vec<String> = (first..first + 1000).map(|n| format!("{n} {}", n * 2)).collect();
        client.say(&format!("HSET big:1 {}", fields.join(" "))).await;
        client.say(&format!("SADD wide:1 {}", fields.join(" "))).await;
    }
    client.say("CONFIG RESETSTAT").await;
    let found = proposal(&["--redis", &redis.url()]);
    assert_eq!(mappings(&found), ["big:{big_id:int} hash_entries", "wide:{wide_id:int} set"]);
    assert_eq!(found["mappings"][0]["largest"], 20_000);
    let stats = text(client.say("INFO commandstats").await.bytes().unwrap());
    for refused in ["cmdstat_keys", "cmdstat_hgetall", "cmdstat_smembers", "cmdstat_config|set"] {
        assert!(!stats.contains(refused), "{refused} in\n{stats}");
    }
    let calls = stats.lines().find_map(|line| line.strip_prefix("cmdstat_hscan:calls=")).unwrap();
    let calls: u32 = calls.split(',').next().unwrap().parse().unwrap();
    assert!((10..40).contains(&calls), "{calls} steps of HSCAN");
}

#[tokio::test]
async fn keys_of_respgres_own_are_no_family() {
    let mappings = r#"
        [[mapping]]
        name     = "users"
        key      = "user:{user_id:int}"
        table    = "users"
        strategy = "cache_first"
        [mapping.columns]
        name = "name"
    "#;
    let stack = Stack::with_mappings(mappings).await;
    let mut client = Client::connect(&stack).await;
    client.say("HSET user:1 name x").await;
    client.say("HGET user:2 name").await;
    assert!(!client.say("SCAN 0 COUNT 1").await.is_error());
    let found = proposal(&["--redis", &stack.redis.url()]);
    assert_eq!(crate::mappings(&found), ["user:{user_id:int} hash name=text"]);
    assert_eq!(left(&found), [""; 0]);
    assert_eq!(
        found["notes"][0],
        "a respgres runs on this Redis: of keys that it maps only cached copies are here"
    );
    stack.stop_expecting(&[]).await;
}
