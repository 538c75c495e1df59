//! The replies: what Redis would send, in the order of the requests, and of one moment.

use crate::reader::{Reader, ask, assert_counts_up};
use crate::stack::{Client, Stack, Value, talk, wait_until};
use crate::{COUNTS, MAPPINGS, WORDS};

const COUNT: usize = 12_000;

#[tokio::test]
async fn all_of_a_value_comes_under_every_strategy() {
    for strategy in ["dual_write", "database_first", "postgres_only"] {
        let stack =
            Stack::builder(MAPPINGS).set("RESPGRES__DEFAULTS__STRATEGY", strategy).start().await;
        stack.add_ids(COUNT).await;
        stack.add_counts(COUNT).await;
        // Once more, as it is known to be large then.
        for _ in 0..2 {
            let [fields, values] = [format!("HKEYS {COUNTS}"), format!("HVALS {COUNTS}")];
            let replies =
                ask(&stack, &["SMEMBERS ids:1", &format!("HGETALL {COUNTS}"), &fields, &values])
                    .await;
            assert_counts_up(&replies[0], COUNT);
            let Value::Map(entries) = replies[1].clone().into_map() else { panic!("no map") };
            let (fields, values) = entries.into_iter().unzip();
            assert_counts_up(&Value::Array(fields), COUNT);
            assert_counts_up(&Value::Array(values), COUNT);
            assert_counts_up(&replies[2], COUNT);
            assert_counts_up(&replies[3], COUNT);
            assert!(replies[2].elements()[0].bytes().unwrap().starts_with(b"f"));
        }
        // Too large for a copy.
        assert_eq!(stack.redis.say(&format!("EXISTS ids:1 {COUNTS}")).await, Value::Integer(0));
        assert_eq!(stack.open_transactions().await, 0);
        stack.stop_expecting(&[]).await;
    }
}

#[tokio::test]
async fn the_one_step_of_a_scan_has_all() {
    let stack = Stack::with_mappings(MAPPINGS).await;
    stack.add_ids(COUNT).await;
    stack.add_counts(COUNT).await;
    let requests = [
        "HELLO 3",
        "SSCAN ids:1 0 COUNT 10",
        &format!("HSCAN {COUNTS} 0"),
        &format!("HSCAN {COUNTS} 7 MATCH f1000?"),
        &format!("HSCAN {COUNTS} 0 COUNT 0"),
        &format!("HSCAN {COUNTS} x"),
    ];
    let replies = ask(&stack, &requests).await;
    let found = |at: usize| {
        let [cursor, found] = replies[at].elements() else { panic!("no step") };
        assert_eq!(*cursor, Value::Bulk(b"0".to_vec()));
        found
    };
    assert_counts_up(found(1), COUNT);
    let entries = found(2).elements();
    assert_eq!(entries.len(), 2 * COUNT);
    let fields = entries.chunks(2).map(|pair| pair[0].clone()).collect();
    assert_counts_up(&Value::Array(fields), COUNT);
    assert_eq!(found(3).elements().len(), 20);
    assert_eq!(replies[4], Value::Error("ERR syntax error".into()));
    assert_eq!(replies[5], Value::Error("ERR invalid cursor".into()));
    stack.stop_expecting(&[]).await;
}

#[tokio::test]
async fn the_bytes_are_those_of_redis_in_both_protocols() {
    let stack = Stack::with_mappings(MAPPINGS).await;
    stack.add_ids(COUNT).await;
    stack.add_counts(COUNT).await;
    let mut redis = Client::connect(&stack.redis).await;
    let members: Vec<String> = (1..=COUNT).map(|n| n.to_string()).collect();
    let entries: Vec<String> = (1..=COUNT).map(|n| format!("f{n} {n}")).collect();
    redis.say(&format!("SADD plain:set {}", members.join(" "))).await;
    redis.say(&format!("HSET plain:hash {}", entries.join(" "))).await;
    for version in [2, 3] {
        let hello = format!("HELLO {version}");
        for (mapped, plain) in [
            ("SMEMBERS ids:1".to_owned(), "SMEMBERS plain:set"),
            (format!("HGETALL {COUNTS}"), "HGETALL plain:hash"),
            (format!("HKEYS {COUNTS}"), "HKEYS plain:hash"),
            (format!("HVALS {COUNTS}"), "HVALS plain:hash"),
        ] {
            let sorted = |reply: &Value| {
                let mut reply = reply.clone();
                match &mut reply {
                    Value::Map(pairs) => pairs.sort(),
                    // Two by two.
                    Value::Array(_) if mapped.starts_with("HGETALL") => reply = reply.into_map(),
                    Value::Array(elements) | Value::Set(elements) => elements.sort(),
                    other => panic!("{other:?}"),
                }
                reply
            };
            let replies = ask(&stack, &[&hello, &mapped, plain]).await;
            assert_eq!(sorted(&replies[1]), sorted(&replies[2]), "{mapped} {version}");
        }
    }
    stack.stop_expecting(&[]).await;
}

#[tokio::test]
async fn a_large_reply_keeps_its_place_among_the_others() {
    let stack = Stack::with_mappings(MAPPINGS).await;
    stack.add_ids(COUNT).await;
    stack.add_counts(COUNT).await;
    let requests = [
        "SET a 1",
        "SADD ids:2 5",
        "SMEMBERS ids:1",
        "INCR a",
        "SMEMBERS ids:2",
        &format!("HKEYS {COUNTS}"),
        "SADD ids:1 12001",
        "SCARD ids:1",
        "SMEMBERS ids:1",
        "GET a",
        "CLIENT REPLY SKIP",
        "SMEMBERS ids:1",
        "INCR a",
    ];
    let mut reader = Reader::connect(&stack).await;
    // Again over the same connection.
    for round in 0..2 {
        reader.send(&requests).await;
        let replies = reader.replies().await;
        assert_eq!(replies.len(), requests.len() - 2);
        assert_eq!(replies[0], Value::Status("OK".into()));
        assert_eq!(replies[1], Value::Integer(1 - round));
        assert_counts_up(&replies[2], COUNT + usize::from(round > 0));
        assert_eq!(replies[3], Value::Integer(2));
        assert_eq!(replies[4].elements(), [Value::Bulk(b"5".to_vec())]);
        assert_counts_up(&replies[5], COUNT);
        assert_eq!(replies[6], Value::Integer(1 - round));
        assert_eq!(replies[7], Value::Integer(12_001));
        assert_counts_up(&replies[8], COUNT + 1);
        assert_eq!(replies[9], Value::Bulk(b"2".to_vec()));
        assert_eq!(replies[10], Value::Integer(3));
    }
    stack.stop_expecting(&[]).await;
}

#[tokio::test]
async fn a_push_does_not_fall_into_a_large_reply() {
    let stack = Stack::with_mappings(MAPPINGS).await;
    stack.add_words().await;
    let mut reader = Reader::connect(&stack).await;
    reader.send(&["HELLO 3", "SUBSCRIBE news"]).await;
    reader.replies().await;
    reader.send(&["SMEMBERS words:1"]).await;
    reader.read(1000).await;
    for _ in 0..3 {
        assert_eq!(stack.redis.say("PUBLISH news x").await, Value::Integer(1));
    }
    let replies = reader.replies().await;
    assert_counts_up(&replies[0], WORDS);
    assert_eq!(replies.len(), 4);
    assert!(replies[1..].iter().all(|reply| matches!(reply, Value::Push(_))));
    stack.stop_expecting(&[]).await;
}

#[tokio::test]
async fn a_client_that_has_said_all_gets_all() {
    let stack = Stack::with_mappings(MAPPINGS).await;
    stack.add_ids(COUNT).await;
    let mut client = stack.client().await;
    client.send(b"SMEMBERS ids:1\r\nPING\r\n").await;
    client.finish_sending().await;
    let bytes = client.read_to_end().await;
    let (reply, taken) = Value::parse(&bytes).expect("a whole reply");
    assert_counts_up(&reply, COUNT);
    assert_eq!(&bytes[taken..], b"+PONG\r\n");
    stack.stop_expecting(&[]).await;
}

#[tokio::test]
async fn a_reply_is_of_one_moment_whatever_is_written_meanwhile() {
    let stack = Stack::with_mappings(MAPPINGS).await;
    stack.add_words().await;
    let mut reader = Reader::connect(&stack).await;
    reader.send(&["SMEMBERS words:1"]).await;
    reader.read(1000).await;
    assert_eq!(stack.open_transactions().await, 1);
    stack.sql_execute("delete from words where member like '%1x%'").await;
    let mut writer = stack.client().await;
    assert_eq!(writer.say("SADD words:1 a b").await, Value::Integer(2));
    let gone = format!("SREM words:1 2{0} 3{0}", "x".repeat(1000));
    assert_eq!(writer.say(&gone).await, Value::Integer(2));
    assert_counts_up(&reader.replies().await[0], WORDS);
    assert_eq!(writer.say("SCARD words:1").await, Value::Integer(9000));
    assert_eq!(stack.open_transactions().await, 0);
    stack.stop_expecting(&[]).await;
}

#[tokio::test]
async fn the_count_is_that_of_the_elements_while_others_write() {
    let stack = Stack::with_mappings(MAPPINGS).await;
    stack.add_ids(COUNT).await;
    let (done, is_done) = tokio::sync::watch::channel(false);
    let mut writer = stack.client().await;
    let writes = tokio::spawn(async move {
        let mut member = 100_000;
        while !*is_done.borrow() {
            member += 1;
            writer.say(&format!("SADD ids:1 {member}")).await;
        }
        member
    });
    let (mut before, mut changed) = (COUNT, 0);
    for _ in 0..30 {
        let replies = ask(&stack, &["SMEMBERS ids:1"]).await;
        let count = replies[0].elements().len();
        assert!(count >= before);
        changed += usize::from(count > before);
        before = count;
    }
    done.send(true).unwrap();
    assert!(writes.await.unwrap() > 100_000 && changed > 10, "{changed}");
    stack.stop_expecting(&[]).await;
}

#[tokio::test]
async fn what_has_expired_or_gone_is_not_streamed() {
    let stack = Stack::with_mappings(MAPPINGS).await;
    stack.add_ids(COUNT).await;
    let mut client = stack.client().await;
    assert_eq!(client.say("EXPIRE ids:1 1000").await, Value::Integer(1));
    assert_counts_up(&ask(&stack, &["SMEMBERS ids:1"]).await[0], COUNT);
    assert_eq!(client.say("PEXPIRE ids:1 1").await, Value::Integer(1));
    wait_until("it has expired", async || {
        client.say("SMEMBERS ids:1").await == Value::Array(Vec::new())
    })
    .await;
    talk(
        &stack,
        "
        > SMEMBERS ids:1
        *0
        > HGETALL counts:2026-11-20
        *0
        ",
    )
    .await;
    stack.stop_expecting(&[]).await;
}

#[tokio::test]
async fn fields_whose_values_are_only_in_extra_are_counted_as_they_are_read() {
    let stack = Stack::with_mappings(MAPPINGS).await;
    stack.add_counts(COUNT).await;
    let mut client = stack.client().await;
    assert_eq!(client.say(&format!("HSET {COUNTS} odd x f1 007")).await, Value::Integer(1));
    // What was 007 is nothing now: the field is absent, though `extra` has it still.
    stack.sql_execute("update counts set amount = null where what = 'f1'").await;
    stack.sql_execute("update counts set amount = null where what in ('f2', 'f3')").await;
    let replies = ask(&stack, &[&format!("HKEYS {COUNTS}"), &format!("HGET {COUNTS} f1")]).await;
    assert_eq!(replies[1], Value::NilBulk);
    let fields = replies[0].elements();
    assert_eq!(fields.len(), COUNT + 1 - 3);
    assert!(fields.contains(&Value::Bulk(b"odd".to_vec())));
    stack.stop_expecting(&[]).await;
}

#[tokio::test]
async fn a_table_that_changes_between_two_reads_is_read_as_it_is() {
    let stack = Stack::with_mappings(MAPPINGS).await;
    stack.add_ids(COUNT).await;
    assert_counts_up(&ask(&stack, &["SMEMBERS ids:1"]).await[0], COUNT);
    stack.sql_execute("alter table ids alter column member type integer").await;
    stack.sql_execute("alter table ids alter column id type integer").await;
    assert_counts_up(&ask(&stack, &["SMEMBERS ids:1"]).await[0], COUNT);
    stack.stop_allowing(&[], &[]).await;
}

#[tokio::test]
async fn a_copy_that_has_grown_too_large_is_not_taken_from_redis_at_once() {
    for strategy in ["dual_write", "database_first"] {
        let stack = Stack::builder(MAPPINGS)
            .set("RESPGRES__DEFAULTS__CACHE_MAX_ELEMENTS", "5")
            .set("RESPGRES__DEFAULTS__STRATEGY", strategy)
            .start()
            .await;
        let mut client = stack.client().await;
        client.say("SADD ids:5 1 2 3").await;
        assert_counts_up(&client.say("SMEMBERS ids:5").await, 3);
        let mut redis = Client::connect(&stack.redis).await;
        let copied = async |redis: &mut Client, count| {
            wait_until("there is a copy", async || {
                redis.say("SCARD ids:5").await == Value::Integer(count)
            })
            .await;
        };
        copied(&mut redis, 3).await;
        client.say("SADD ids:5 4 5 6 7").await;
        copied(&mut redis, 7).await;
        redis.say("CONFIG RESETSTAT").await;
        assert_counts_up(&client.say("SMEMBERS ids:5").await, 7);
        let whole = redis.say("INFO commandstats").await;
        let text = String::from_utf8_lossy(whole.bytes().unwrap()).into_owned();
        // A hit, as the client asked it.
        let times = usize::from(strategy == "dual_write");
        assert_eq!(text.matches("cmdstat_smembers").count(), times, "{text}");
        stack.stop_expecting(&[]).await;
    }
}

#[tokio::test]
async fn what_is_cached_and_what_is_not_is_for_the_configuration_to_say() {
    let stack =
        Stack::builder(MAPPINGS).set("RESPGRES__DEFAULTS__CACHE_MAX_ELEMENTS", "5").start().await;
    let mut client = stack.client().await;
    client.say("SADD ids:5 1 2 3 4 5").await;
    client.say("SADD ids:6 1 2 3 4 5 6").await;
    for _ in 0..2 {
        assert_counts_up(&client.say("SMEMBERS ids:5").await, 5);
        assert_counts_up(&client.say("SMEMBERS ids:6").await, 6);
    }
    let mut redis = Client::connect(&stack.redis).await;
    wait_until("there is a copy", async || redis.say("SCARD ids:5").await == Value::Integer(5))
        .await;
    assert_eq!(redis.say("EXISTS ids:6").await, Value::Integer(0));
    stack.stop_expecting(&[]).await;
}
