//! Which keys are there, and that each is told once.

use std::collections::BTreeSet;

use sqlx::{Connection, PgConnection};

use crate::stack::{Client, Redis, Stack, Value, talk, wait_until};
use crate::{keys_of, scan, set};

pub const MAPPINGS: &str = r#"
[[mapping]]
name = "rows"
key = "row:{id:int}"
table = "rows"
extra = "extra"
[mapping.columns]
a = "a"
b = "b"

[[mapping]]
name = "days"
key = "day:{id:uuid}:{day:date}"
table = "days"
expires_at = "ends"
[mapping.columns]
a = "a"

[[mapping]]
name = "pairs"
key = "pair:{one:text}:{two:text}"
exclude = ["pair:*:secret"]
table = "pairs"
strategy = "postgres_only"
extra = "extra"

[[mapping]]
name = "favourites"
key = "pair:best:{two:text}"
table = "favourites"
strategy = "database_first"
extra = "extra"

[[mapping]]
name = "groups"
key = "group:{id:int}:{name:text}"
kind = "set"
table = "groups"
member = "member"

[[mapping]]
name = "counts"
key = "count:{day:date}"
kind = "hash_entries"
table = "counts"
strategy = "postgres_only"
field = "what"
value = { column = "amount", type = "bigint" }
extra = "extra"

[[mapping]]
name = "things"
key = "things:all"
kind = "set"
table = "things"
member = { column = "id", type = "bigint" }

[[mapping]]
name = "later"
key = "later:{id:int}"
table = "later"
strategy = "redis_only"
extra = "extra"
"#;

const DAY: &str = "day:6f1c0d3e-5b7a-4c2d-9e8f-0123456789ab:2026-11-20";

/// Keys of all kinds, some of them not, or no more, in Redis; gives their names.
async fn fill(stack: &Stack) -> BTreeSet<String> {
    let mut client = stack.client().await;
    let mut redis = Client::connect(&stack.redis).await;
    for line in ["HSET row:1 a 1", "HSET row:2 x 1", &format!("HSET {DAY} a 1")] {
        assert!(client.say(line).await.integer() > 0, "{line}");
    }
    for line in ["SADD group:1:a x y z", "SADD group:1:b x", "HSET count:2026-11-20 a 1 b odd c 3"]
    {
        assert!(client.say(line).await.integer() > 0, "{line}");
    }
    redis.say("FLUSHALL").await;
    for line in [
        "SADD group:2:c x y",
        "SADD things:all 1 2 3",
        "HSET count:2026-11-21 b odd",
        "HSET row:3 b 1",
        "HSET pair:1:2 a 1",
        "HSET pair:best:2 a 1",
        "HSET later:1 a 1",
        "HSET pair:1:secret a 1",
        "SADD other 1",
        "SET row: 1",
    ] {
        client.say(line).await;
    }
    // A copy, a mark, a copy set aside. Redis that was emptied may have to be gone through first.
    wait_until("there is a copy and a mark", async || {
        for line in ["HGETALL row:1", "HGETALL pair:best:2", "SMEMBERS group:2:c", "HGET row:77 a"]
        {
            client.say(line).await;
        }
        redis.say("EXISTS row:1 respgres:m:row:77").await == Value::Integer(2)
    })
    .await;
    redis.say("HSET respgres:a:row:9 a 1").await;
    // What nobody can see.
    redis.say("HSET row:66 stray 1").await;
    client.say("HSET row:4 a 1").await;
    client.say("PEXPIRE row:4 1").await;
    client.say("HSET day:6f1c0d3e-5b7a-4c2d-9e8f-0123456789ab:2026-11-21 a 1").await;
    client.say("PEXPIRE day:6f1c0d3e-5b7a-4c2d-9e8f-0123456789ab:2026-11-21 1").await;
    for line in ["SADD group:3:d x y", "PEXPIRE group:3:d 1", "HSET count:2026-11-22 a 1 b 1"] {
        client.say(line).await;
    }
    client.say("PEXPIRE count:2026-11-22 1").await;
    client.say("EXPIRE group:1:a 1000").await;
    stack
        .sql_execute(
            r#"
            insert into groups (id, name, member) values (4, 'e:f', 'x'), (4, '', 'x'), (4, 'g', '');
            insert into counts (day, what, amount, extra) values ('2026-11-23', 'a', null, null),
                ('2026-11-23', 'b', null, '{}'), ('infinity', 'a', 1, null), ('2026-11-24', 'a', null, null),
                ('2026-11-24', 'b', null, '{"value": "odd"}');
            insert into respgres.expiry values ('groups', 'group:9:z', 'infinity');
            insert into rows (id, a, extra) values (5, null, null), (6, null, '{}'), (7, null, '[]'),
                (8, null, '{"x": null}'), (9, null, '{"a": "stale"}');
            insert into rows (id, a, extra) values (10, null, '{"a": {"base64": "AP8="}}');
            insert into pairs (one, two, extra) values ('x:y', 'z', '{"a": "1"}'),
                ('q', '', '{"a": "1"}'), ('best', '9', '{"a": "1"}'), ('2', 'secret', '{"a": "1"}');
            insert into days (id, day, a) values (gen_random_uuid(), 'infinity', '1');
            "#,
        )
        .await;
    tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    let mut names = set(&[
        "row:1",
        "row:2",
        "row:3",
        "row:10",
        DAY,
        "pair:1:2",
        "pair:best:2",
        "later:1",
        "other",
        "row:",
        "pair:1:secret",
        "group:1:a",
        "group:1:b",
        "group:2:c",
        "group:4:e:f",
        "group:4:g",
        "count:2026-11-20",
        "count:2026-11-21",
        "count:2026-11-24",
        "things:all",
    ]);
    // Read for what they are: the row says nothing, or what a client wrote.
    for (key, there) in [
        ("row:9", 0),
        ("row:10", 1),
        ("row:8", 0),
        ("row:66", 0),
        ("count:2026-11-23", 0),
        ("count:2026-11-24", 1),
        ("group:4:g", 1),
        ("group:9:z", 0),
    ] {
        redis.say(&format!("DEL {key}")).await;
        assert_eq!(client.say(&format!("EXISTS {key}")).await, Value::Integer(there), "{key}");
    }
    redis.say("HSET row:66 stray 1").await;
    names.insert("row:10".to_owned());
    names
}

#[tokio::test]
async fn every_key_is_listed_once_wherever_it_is() {
    let stack = Stack::with_mappings(MAPPINGS).await;
    let names = fill(&stack).await;
    let mut client = stack.client().await;
    assert_eq!(keys_of(&client.say("KEYS *").await), names);
    for options in ["", "COUNT 1", "COUNT 2", "COUNT 3", "COUNT 1000", "COUNT 4 MATCH *"] {
        let (listed, calls) = scan(&mut client, options).await;
        let once: BTreeSet<String> = listed.iter().cloned().collect();
        assert_eq!(once, names, "{options}");
        assert_eq!(listed.len(), names.len(), "{options}: {listed:?}");
        assert_eq!(calls == 1, options == "COUNT 1000", "{options}: {calls} calls");
    }
    assert_eq!(client.say("DBSIZE").await, Value::Integer(names.len() as i64));
    let mut by_chance = BTreeSet::new();
    for _ in 0..400 {
        let reply = client.say("RANDOMKEY").await;
        by_chance.insert(String::from_utf8(reply.bytes().unwrap().to_vec()).unwrap());
    }
    assert_eq!(by_chance, names);
    stack.stop_expecting(&[]).await;
}

#[tokio::test]
async fn globs_and_types_choose_as_in_redis() {
    let stack = Stack::with_mappings(MAPPINGS).await;
    let names = fill(&stack).await;
    // The same keys, in one plain Redis.
    let plain = Redis::start().await;
    let mut redis = Client::connect(&plain).await;
    for name in &names {
        let word = match name.as_str() {
            "other" => "SADD other 1".to_owned(),
            "row:" => "SET row: 1".to_owned(),
            name if name.starts_with("group:") || name.starts_with("things:") => {
                format!("SADD {name} 1")
            }
            name => format!("HSET {name} a 1"),
        };
        redis.say(&word).await;
    }
    let mut client = stack.client().await;
    for glob in [
        "*",
        "row:*",
        "row:?",
        "row:[12]",
        "row:[^12]*",
        "day:*",
        "*:2026-*",
        "pair:*",
        "pair:best:*",
        "later:*",
        "group:*",
        "group:?:[a-c]",
        "count:2026-11-2[01]",
        "things:*",
        "things:all",
        "things:al",
        "nothing",
        "o*",
        "*e*:*",
        "row:1",
        "\"\"",
        "ü*",
        "*r*:*1*",
        "row:\\\\1",
    ] {
        let expected = keys_of(&redis.say(&format!("KEYS {glob}")).await);
        assert_eq!(keys_of(&client.say(&format!("KEYS {glob}")).await), expected, "{glob}");
        for kind in ["hash", "HASH", "set", "string", "zset", "none"] {
            let options = format!("MATCH {glob} COUNT 2 TYPE {kind}");
            let expected: BTreeSet<String> =
                scan(&mut redis, &options).await.0.into_iter().collect();
            let listed: BTreeSet<String> =
                scan(&mut client, &options).await.0.into_iter().collect();
            assert_eq!(listed, expected, "{options}");
        }
    }
    stack.stop_expecting(&[]).await;
}

#[tokio::test]
async fn what_is_wrong_with_a_request_is_said_as_by_redis() {
    let stack = Stack::with_mappings(MAPPINGS).await;
    let plain = Redis::start().await;
    let mut client = stack.client().await;
    client.say("HSET row:1 a 1").await;
    client.say("HSET row:2 a 1").await;
    let mut redis = Client::connect(&plain).await;
    let (ours, _) = crate::scan_step(&mut client, "0", "COUNT 1").await;
    for line in [
        "SCAN",
        "SCAN x",
        "SCAN 1x",
        "SCAN \" 0\"",
        "SCAN 0 COUNT",
        "SCAN 0 COUNT 0",
        "SCAN 0 COUNT -1",
        "SCAN 0 COUNT x",
        "SCAN 0 MATCH",
        "SCAN 0 TYPE",
        "SCAN 0 TYPE hash COUNT x",
        "SCAN 0 FOO bar",
        "SCAN 99999999999999999999",
        "KEYS",
        "KEYS a b",
        "DBSIZE x",
        "RANDOMKEY x",
    ] {
        let expected = redis.say(line).await;
        assert_eq!(client.say(line).await, expected, "{line}");
        if line.starts_with("SCAN 0 ") {
            let line = line.replacen('0', &ours, 1);
            assert_eq!(client.say(&line).await, expected, "{line}");
        }
    }
    talk(
        &stack,
        r"
        > SCAN 4611686018427387904
        -ERR invalid cursor: it is more than ten minutes old, or the SCAN has gone on from it, or Redis was emptied; start again with 0
        > MULTI
        +OK
        > KEYS *
        -ERR KEYS is not supported inside MULTI while mappings exist
        > EXEC
        -EXECABORT Transaction discarded because of previous errors.
        > DBSIZE
        :2
        > EVAL return(redis.call('dbsize')) 0
        :…
        ",
    )
    .await;
    stack.stop_expecting(&[]).await;
}

#[tokio::test]
async fn a_database_without_mappings_is_listed_by_redis() {
    let stack = Stack::with_mappings(MAPPINGS).await;
    talk(
        &stack,
        "
        > HSET row:1 a 1
        :1
        > SELECT 1
        +OK
        > SET row:5 here
        +OK
        > KEYS *
        *1
          \"row:5\"
        > SCAN 0
        *2
          \"0\"
          *1
            \"row:5\"
        > DBSIZE
        :1
        > RANDOMKEY
        \"row:5\"
        > SELECT 0
        +OK
        > KEYS *
        *1
          \"row:1\"
        > RANDOMKEY
        \"row:1\"
        > DEL row:1
        :1
        > RANDOMKEY
        $-1
        > DBSIZE
        :0
        > SCAN 0
        *2
          \"0\"
          *0
        ",
    )
    .await;
    stack.stop_expecting(&[]).await;
}

#[tokio::test]
async fn listings_stand_in_the_order_of_their_client() {
    let stack = Stack::with_mappings(MAPPINGS).await;
    let mut client = stack.client().await;
    let commands: Vec<Vec<&str>> = [
        "HSET row:1 a 1",
        "SET one 1",
        "DBSIZE",
        "HSET row:2 a 1",
        "SET two 2",
        "KEYS *",
        "DEL row:1 one",
        "DBSIZE",
        "GET two",
        "SCAN 0 COUNT 100",
    ]
    .iter()
    .map(|line| line.split(' ').collect())
    .collect();
    for _ in 0..20 {
        let replies = client.pipeline(&commands).await;
        assert_eq!(replies[2], Value::Integer(2));
        assert_eq!(keys_of(&replies[5]), set(&["row:1", "row:2", "one", "two"]));
        assert_eq!(replies[7], Value::Integer(2));
        assert_eq!(keys_of(&replies[9].elements()[1]), set(&["row:2", "two"]));
        client.say("DEL row:2 two").await;
    }
    stack.stop_expecting(&[]).await;
}

/// A key is one key however many rows it has, and a mapping without captures has one or none.
#[tokio::test]
async fn keys_with_many_rows_are_counted_and_listed_once() {
    let stack = Stack::with_mappings(MAPPINGS).await;
    stack
        .sql_execute(
            "insert into groups (id, name, member)
                 select n % 30, 'n' || n % 2, n from generate_series(1, 6000) as n;
             insert into counts (day, what, amount)
                 select date '2026-01-01' + n % 20, n, n from generate_series(1, 4000) as n;
             insert into things (id) select n from generate_series(1, 3000) as n",
        )
        .await;
    let mut client = stack.client().await;
    for options in ["COUNT 1", "COUNT 7", "COUNT 30", "COUNT 51", "COUNT 1000"] {
        for (chosen, count) in [
            ("", 51),
            (" MATCH group:*", 30),
            (" MATCH count:*", 20),
            (" MATCH things:*", 1),
            (" TYPE set", 31),
            (" TYPE hash", 20),
        ] {
            let (listed, calls) = scan(&mut client, &format!("{options}{chosen}")).await;
            assert_eq!(listed.iter().collect::<BTreeSet<_>>().len(), count, "{options}{chosen}");
            assert_eq!(listed.len(), count, "{options}{chosen}");
            assert!(calls <= count + 5, "{options}{chosen}: {calls}");
        }
    }
    assert_eq!(client.say("DBSIZE").await, Value::Integer(51));
    assert_eq!(keys_of(&client.say("KEYS *").await).len(), 51);
    let mut by_chance = std::collections::BTreeMap::<Vec<u8>, usize>::new();
    for _ in 0..1000 {
        let key = client.say("RANDOMKEY").await;
        *by_chance.entry(key.bytes().unwrap().to_vec()).or_default() += 1;
    }
    // The one with half of all rows is no likelier than others.
    assert!(by_chance.len() >= 45 && by_chance.values().all(|times| *times < 80), "{by_chance:?}");
    assert_eq!(client.say("EXPIRE things:all 100").await, Value::Integer(1));
    assert_eq!(client.say("DBSIZE").await, Value::Integer(51));
    client.say("PEXPIREAT things:all 1").await;
    client.say("DEL group:0:n0").await;
    assert_eq!(client.say("DBSIZE").await, Value::Integer(49));
    assert_eq!(keys_of(&client.say("KEYS things:*").await), set(&[]));
    client.say("SADD things:all 5").await;
    assert_eq!(keys_of(&client.say("KEYS things:*").await), set(&["things:all"]));
    assert_eq!(scan(&mut client, "COUNT 1 MATCH things:all").await.0, ["things:all"]);
    stack.sql_execute("delete from things").await;
    assert_eq!(client.say("DBSIZE").await, Value::Integer(49));
    stack.stop_expecting(&[]).await;
}

#[tokio::test]
async fn keys_are_walked_in_the_order_of_whatever_index_fits() {
    let stack = Stack::with_mappings(MAPPINGS).await;
    stack
        .sql_execute(
            "create domain number as bigint check (value > 0);
             alter table groups drop constraint groups_pkey;
             alter table groups alter id type number, alter name type varchar(40) collate \"C\";
             alter table groups add primary key (name, id, member);
             alter table rows alter id type number;
             insert into groups (id, name, member)
                 select 1 + n % 5, chr(60 + n % 40), n from generate_series(1, 400) as n;
             insert into rows (id, a) select n, 'x' from generate_series(1, 40) as n",
        )
        .await;
    // It looks at the tables as they are now.
    let second = stack.start_second_proxy().await;
    let mut client = Client::connect(&second).await;
    for options in ["COUNT 1 TYPE set", "COUNT 7 TYPE set", "COUNT 7", "COUNT 1000"] {
        let (listed, _) = scan(&mut client, options).await;
        let once: BTreeSet<&String> = listed.iter().collect();
        assert_eq!(once.len(), listed.len(), "{options}");
        assert_eq!(listed.len(), if options.ends_with("set") { 40 } else { 80 }, "{options}");
    }
    assert_eq!(client.say("DBSIZE").await, Value::Integer(80));
    drop(second);
    stack.stop_expecting(&[]).await;
}

#[tokio::test]
async fn a_key_by_chance_is_any_key_of_a_table_with_many() {
    let stack = Stack::with_mappings(MAPPINGS).await;
    stack
        .sql_execute(
            "insert into groups (id, name, member)
                 select n % 3000, 'n', n from generate_series(1, 12000) as n;
             analyze groups;
             insert into rows (id, a) values (1, '1')",
        )
        .await;
    let mut client = stack.client().await;
    let mut by_chance = BTreeSet::new();
    for _ in 0..300 {
        let key = client.say("RANDOMKEY").await;
        by_chance.insert(String::from_utf8(key.bytes().unwrap().to_vec()).unwrap());
    }
    // Which of two tables it is goes by their keys, of which the other has one.
    let of_groups = by_chance.iter().filter(|key| key.starts_with("group:")).count();
    assert!(of_groups > 150, "{of_groups} of {}", by_chance.len());
    assert_eq!(client.say("DBSIZE").await, Value::Integer(3001));
    stack.stop_expecting(&[]).await;
}

#[tokio::test]
async fn a_database_whose_mappings_leave_nothing_in_redis_is_counted_at_once() {
    let mapping = r#"
        [[mapping]]
        name = "numbers"
        key = "number:{id:int}"
        table = "numbers"
        extra = "extra"
        "#;
    let only =
        Stack::builder(mapping).set("RESPGRES__DEFAULTS__STRATEGY", "postgres_only").start().await;
    let mut client = only.client().await;
    for number in 0..50 {
        client.say(&format!("HSET number:{number} a 1")).await;
        client.say(&format!("SET plain:{number} 1")).await;
    }
    // Its place is kept in Redis, and not counted.
    crate::scan_step(&mut client, "0", "COUNT 70").await;
    only.redis.say("CONFIG RESETSTAT").await;
    assert_eq!(client.say("DBSIZE").await, Value::Integer(100));
    let told = only.redis.say("INFO commandstats").await;
    let told = String::from_utf8_lossy(told.bytes().unwrap()).into_owned();
    assert!(!told.contains("cmdstat_scan"), "{told}");
    only.stop_expecting(&[]).await;
}

/// The table of a less specific mapping may have a row for it, which SQL has made.
#[tokio::test]
async fn a_key_of_a_redis_only_mapping_is_not_in_the_table_of_another() {
    let mappings = r#"
        [[mapping]]
        name = "numbers"
        key = "number:{id:int}"
        table = "numbers"
        extra = "extra"
        [[mapping]]
        name = "seven"
        key = "number:7"
        kind = "set"
        table = "sevens"
        member = "member"
        strategy = "redis_only"
        "#;
    let stack = Stack::with_mappings(mappings).await;
    let mut client = stack.client().await;
    client.say("HSET number:1 a 1").await;
    stack.sql_execute("insert into numbers (id, extra) select 7, extra from numbers").await;
    assert_eq!(client.say("DBSIZE").await, Value::Integer(1));
    assert_eq!(client.say("EXISTS number:7").await, Value::Integer(0));
    client.say("SET number:7 text").await;
    assert_eq!(client.say("DBSIZE").await, Value::Integer(2));
    assert_eq!(keys_of(&client.say("KEYS *").await), set(&["number:1", "number:7"]));
    stack.stop_expecting(&[]).await;
}

/// Keys that leave Redis, or come back to it, while they are listed.
#[tokio::test]
async fn a_mapping_that_changes_sides_is_listed_all_the_same() {
    let mappings = r#"
        [[mapping]]
        name = "held"
        key = "held:{id:int}"
        table = "held"
        extra = "extra"
        [[mapping]]
        name = "later"
        key = "later:{id:int}"
        table = "later"
        strategy = "redis_only"
        extra = "extra"
        "#;
    let stack = Stack::with_mappings(mappings).await;
    let mut client = stack.client().await;
    client.say("HSET held:1 a 1").await;
    client.say("HSET later:1 a 1").await;
    let all = set(&["held:1", "later:1"]);
    let database = stack.database();
    let url = database.cluster.url(&database.name);
    for (ask, change) in [
        ("KEYS *", ["strategy", "set", "dual_write", "--mapping", "later"].as_slice()),
        ("SCAN 0 COUNT 1000", &["rollback", "--force", "--mapping", "later"]),
    ] {
        // Who lists waits at the one table while the other mapping changes.
        let mut holder = PgConnection::connect(&url).await.unwrap();
        let lock = "begin; lock table held in access exclusive mode";
        sqlx::raw_sql(lock).execute(&mut holder).await.unwrap();
        let asking = client.say(ask);
        let changing = async {
            wait_until("the table is waited for", async || {
                let waiting =
                    "select count(*) from pg_locks where not granted and relation is not null";
                stack.sql_i64(waiting).await > 0
            })
            .await;
            let (done, _, error) = stack.run(change);
            assert!(done, "{error}");
            sqlx::raw_sql("rollback").execute(&mut holder).await.unwrap();
        };
        let (told, ()) = tokio::join!(asking, changing);
        let keys = if ask.starts_with("SCAN") { told.elements()[1].clone() } else { told };
        assert_eq!(keys_of(&keys), all, "{ask}");
        holder.close().await.unwrap();
        // What was only in Redis has a row for the way back.
        client.say("HSET later:1 b 1").await;
    }
    stack.stop_expecting(&[]).await;
}
