//! Writes that an event loop tells Redis first itself: they end as if a worker had done them, whatever comes in
//! between.

use respgres::upstream::journal::KeyChange;
use respgres::upstream::scripts::JOURNAL;

use crate::behind::{MAPPINGS, bulk, error, held, let_go};
use crate::stack::{Client, Redis, Stack, Value, wait_until};

/// Whether the newest entry is a loop's: it has a change for each operation, where a worker puts together what it makes
/// of one key.
async fn is_stepped(stack: &Stack) -> bool {
    let mut redis = Client::connect(&stack.redis).await;
    let newest = redis.command(&[b"XREVRANGE", JOURNAL, b"+", b"-", b"COUNT", b"1"]).await;
    let Some(entry) = newest.elements().first() else { return false };
    let text = entry.elements()[1].elements()[5].bytes().unwrap().to_vec();
    KeyChange::read_all(&text.into()).unwrap().len() > 1
}

fn requests(lines: &[&str]) -> Vec<Vec<Vec<u8>>> {
    lines.iter().map(|line| line.split(' ').map(Into::into).collect()).collect()
}

/// Waits until the client's loop makes steps; the flusher has to be held.
async fn wait_for_steps(stack: &Stack, client: &mut Client) {
    wait_until("the loop makes steps", async || {
        client.pipeline(&requests(&["HINCRBY loose:99 n 1", "HINCRBY loose:99 n 1"])).await;
        is_stepped(stack).await
    })
    .await;
}

#[tokio::test]
async fn replies_and_rows_are_those_of_redis() {
    for hello in ["HELLO 2", "HELLO 3"] {
        let stack = Stack::with_mappings(MAPPINGS).await;
        let lock = held(&stack).await;
        let plain = Redis::start().await;
        let mut client = stack.client().await;
        let mut expected = Client::connect(&plain).await;
        client.say(hello).await;
        expected.say(hello).await;
        wait_for_steps(&stack, &mut client).await;
        let lines = [
            "HSET loose:1 a 1 b 2",
            "HINCRBY loose:1 n 9223372036854775806",
            "HINCRBY loose:1 n 5",
            "HINCRBYFLOAT loose:1 f 1.5",
            "HSETNX loose:1 a 2",
            "HSET loose:1 a 1 b",
            "HDEL loose:1 b nothing",
            "HMSET loose:1 c 3",
            "SADD members:1 x y",
            "SADD members:1 x",
            "SREM members:1 x z",
            "HINCRBY loose:1 n -1",
            "HSETNX loose:1 d 4",
        ];
        for turn in 0..3 {
            let given = client.pipeline(&requests(&lines)).await;
            let wanted = expected.pipeline(&requests(&lines)).await;
            for ((line, given), wanted) in lines.iter().zip(given).zip(wanted) {
                assert_eq!(given, wanted, "{hello}, turn {turn}: {line}");
            }
        }
        assert!(is_stepped(&stack).await);
        let_go(lock).await;
        stack.flushed().await;
        let row = stack.sql_text("select extra::text from loose where id = 1").await;
        let held = |field: &str, value: &str| row.contains(&format!("\"{field}\": \"{value}\""));
        assert!(held("a", "1") && held("f", "4.5") && held("c", "3") && held("d", "4"), "{row}");
        assert!(held("n", "9223372036854775803") && !row.contains("\"b\""), "{row}");
        assert_eq!(stack.sql_text("select string_agg(member, ',') from members").await, "y");
        stack.stop_expecting(&[]).await;
    }
}

#[tokio::test]
async fn what_redis_does_not_have_is_loaded_and_the_pipeline_stays_in_order() {
    let stack = Stack::with_mappings(MAPPINGS).await;
    stack
        .sql_execute("insert into things (id, total) select n, 100 from generate_series(1, 20) n")
        .await;
    let lock = held(&stack).await;
    let mut client = stack.client().await;
    wait_for_steps(&stack, &mut client).await;
    // Each thing is not there the first time, and all say where in the pipeline they were.
    let lines: Vec<String> = (1..=20)
        .flat_map(|id| {
            let thing = format!("HINCRBY thing:{id} total 1");
            [thing.clone(), "HINCRBY loose:99 m 1".into(), thing, "HINCRBY loose:99 m 1".into()]
        })
        .collect();
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let told = client.pipeline(&requests(&lines)).await;
    let expected =
        (0..20).flat_map(|turn| [101, 2 * turn + 1, 102, 2 * turn + 2]).map(Value::Integer);
    assert_eq!(told, expected.collect::<Vec<_>>());
    // Now all of it is there.
    client.pipeline(&requests(&lines)).await;
    assert!(is_stepped(&stack).await);
    let_go(lock).await;
    stack.flushed().await;
    assert_eq!(stack.sql_i64("select sum(total)::bigint from things").await, 20 * 104);
    stack.stop_expecting(&[]).await;
}

#[tokio::test]
async fn many_clients_count_exactly() {
    let stack = Stack::with_mappings(MAPPINGS).await;
    let mut clients = Vec::new();
    for _ in 0..8 {
        clients.push(stack.client().await);
    }
    let counting = clients.into_iter().enumerate().map(|(number, mut client)| {
        tokio::spawn(async move {
            let key = number % 3;
            for turn in 0..60 {
                let line = format!("HINCRBY loose:{key} n 1");
                if turn % 10 == 0 {
                    // In turns with what goes through and with what asks.
                    client.say(&format!("PERSIST loose:{key}")).await;
                    client.say(&format!("HGET loose:{key} n")).await;
                }
                let told = client.pipeline(&requests(&[&line, &line])).await;
                assert!(told[0].integer() < told[1].integer());
            }
        })
    });
    for counted in counting.collect::<Vec<_>>() {
        counted.await.unwrap();
    }
    stack.flushed().await;
    let sum = "select sum((extra ->> 'n')::bigint)::bigint from loose";
    assert_eq!(stack.sql_i64(sum).await, 8 * 120);
    stack.stop_expecting(&[]).await;
}

#[tokio::test]
async fn a_redis_that_has_forgotten_the_script_learns_it_again() {
    let stack = Stack::with_mappings(MAPPINGS).await;
    let lock = held(&stack).await;
    let mut client = stack.client().await;
    wait_for_steps(&stack, &mut client).await;
    stack.redis.say("SCRIPT FLUSH").await;
    assert_eq!(client.say("HSET loose:1 a 1").await, Value::Integer(1));
    wait_for_steps(&stack, &mut client).await;
    assert_eq!(client.say("HGET loose:1 a").await, bulk("1"));
    let_go(lock).await;
    stack.stop_expecting(&[]).await;
}

#[tokio::test]
async fn of_a_step_without_an_answer_nobody_knows() {
    let mut stack = Stack::with_mappings(MAPPINGS).await;
    let lock = held(&stack).await;
    let mut client = stack.client().await;
    wait_for_steps(&stack, &mut client).await;
    stack.redis.process().signal("STOP");
    let (mut reader, mut writer) = client.split();
    writer.send(b"*4\r\n$4\r\nHSET\r\n$8\r\nloose:99\r\n$1\r\na\r\n$1\r\n1\r\n").await;
    assert!(reader.is_silent_for(std::time::Duration::from_millis(100)).await);
    stack.redis.kill();
    let told = error(reader.reply().await);
    assert!(told.ends_with("may have happened"), "{told}");
    let_go(lock).await;
    let warning = "what was told Redis first may or may not have happened";
    stack.stop_allowing(&[warning], &["upstream", "Redis", "failed", "refused"]).await;
}
