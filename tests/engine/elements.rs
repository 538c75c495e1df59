//! Values with a row for each element: sets, and hashes whose fields are not known beforehand.

use crate::stack::{Client, Stack, Value, talk, wait_until};

const MAPPINGS: &str = r#"
[[mapping]]
name = "ids"
key = "ids:{id:int}"
kind = "set"
table = "ids"
member = { column = "member", type = "bigint" }

[[mapping]]
name = "all"
key = "things:all"
kind = "set"
table = "all_things"
member = { column = "id", type = "uuid" }

[[mapping]]
name = "counts"
key = "counts:{day:date}:{hour:int}"
kind = "hash_entries"
table = "counts"
field = "what"
value = { column = "amount", type = "bigint" }

[[mapping]]
name = "notes"
key = "notes:{id:text}"
kind = "hash_entries"
table = "notes"
field = { column = "field", type = "bytea" }
value = { column = "at", type = "timestamptz" }
extra = "extra"
"#;

fn bulk(text: &str) -> Value {
    Value::Bulk(text.as_bytes().to_vec())
}

#[tokio::test]
async fn members_and_entries_are_typed_rows() {
    let stack = Stack::with_mappings(MAPPINGS).await;
    talk(
        &stack,
        "
        > SADD ids:5 1 22 333 22
        :3
        > SADD things:all 0d0e3d5e-5b7a-4c2d-9e8f-0123456789ab
        :1
        > HINCRBY counts:2026-11-20:7 requests 5
        :5
        > HINCRBY counts:2026-11-20:7 requests 2
        :7
        > HSET notes:x made 2026-11-20T22:20:30.783Z odd never
        :2
        ",
    )
    .await;
    assert_eq!(stack.sql_i64("select sum(member)::bigint from ids where id = 5").await, 356);
    assert_eq!(stack.sql_i64("select count(*) from all_things").await, 1);
    let sql = "select amount from counts where day = '2026-11-20' and hour = 7";
    assert_eq!(stack.sql_i64(sql).await, 7);
    assert_eq!(stack.sql_i64("select count(*) from notes where at is null").await, 1);
    // From Postgres alone.
    stack.redis.say("FLUSHALL").await;
    let mut client = stack.client().await;
    assert_eq!(client.say("SCARD ids:5").await, Value::Integer(3));
    assert_eq!(client.say("SISMEMBER things:all x").await, Value::Integer(0));
    assert_eq!(client.say("HGET notes:x odd").await, bulk("never"));
    assert_eq!(client.say("HGET notes:x made").await, bulk("2026-11-20T22:20:30.783Z"));
    assert_eq!(client.say("HGETALL counts:2026-11-20:7").await.elements().len(), 2);
    stack.stop_expecting(&[]).await;
}

#[tokio::test]
async fn an_element_that_its_column_cannot_give_back_is_refused() {
    let stack = Stack::with_mappings(MAPPINGS).await;
    let mut client = stack.client().await;
    for (request, told) in [
        (
            "SADD ids:5 1 007",
            "member \"007\" could not be given back unchanged by column \"member\"",
        ),
        ("SADD ids:5 x", "member \"x\" could not be given back unchanged by column \"member\""),
        (
            "HSET counts:2026-11-20:7 a 1.5",
            "could not be given back unchanged by column \"amount\"",
        ),
    ] {
        let Value::Error(text) = client.say(request).await else { panic!("{request} was taken") };
        assert!(text.contains(told) && text.contains("nothing was written"), "{text}");
    }
    assert_eq!(client.say("EXISTS ids:5 counts:2026-11-20:7").await, Value::Integer(0));
    assert_eq!(client.say("SREM ids:5 007").await, Value::Integer(0));
    // A neighbour in the same batch is written all the same.
    let replies = client
        .pipeline(&[
            vec![b"SADD".to_vec(), b"ids:6".to_vec(), b"1".to_vec()],
            vec![b"SADD".to_vec(), b"ids:6".to_vec(), b"x".to_vec()],
            vec![b"SADD".to_vec(), b"ids:6".to_vec(), b"2".to_vec()],
        ])
        .await;
    assert_eq!(replies[0], Value::Integer(1));
    assert!(replies[1].is_error());
    assert_eq!(replies[2], Value::Integer(1));
    assert_eq!(stack.sql_i64("select count(*) from ids").await, 2);
    stack.stop_expecting(&[]).await;
}

#[tokio::test]
async fn the_last_element_takes_the_key_and_its_expiry_with_it() {
    let stack = Stack::with_mappings(MAPPINGS).await;
    talk(
        &stack,
        "
        > SADD ids:5 1 2
        :2
        > EXPIREAT ids:5 4102444800
        :1
        > SREM ids:5 1
        :1
        > EXPIRETIME ids:5
        :4102444800
        > SREM ids:5 2
        :1
        > EXISTS ids:5
        :0
        > SADD ids:5 3
        :1
        > TTL ids:5
        :-1
        > EXPIRE ids:5 1000
        :1
        > DEL ids:5
        :1
        ",
    )
    .await;
    assert_eq!(stack.sql_i64("select count(*) from respgres.expiry").await, 0);
    // What has expired does not come back with the next member.
    let mut client = stack.client().await;
    client.say("SADD ids:5 1 2").await;
    client.say("PEXPIRE ids:5 30").await;
    wait_until("it has expired", async || client.say("SCARD ids:5").await == Value::Integer(0))
        .await;
    assert_eq!(client.say("SADD ids:5 2 3").await, Value::Integer(2));
    assert_eq!(client.say("SCARD ids:5").await, Value::Integer(2));
    assert_eq!(stack.sql_i64("select count(*) from ids").await, 2);
    stack.stop_expecting(&[]).await;
}

#[tokio::test]
async fn an_element_of_a_large_value_is_one_row() {
    let stack = Stack::with_mappings(MAPPINGS).await;
    stack.sql_execute("insert into ids select 1, n from generate_series(1, 200000) as n").await;
    stack
        .sql_execute(
            "insert into counts select '2026-11-20', 7, 'f' || n, n \
             from generate_series(1, 100000) as n",
        )
        .await;
    stack.sql_execute("analyze ids").await;
    let mut client = stack.client().await;
    assert_eq!(client.say("SISMEMBER ids:1 77").await, Value::Integer(1));
    assert_eq!(client.say("HGET counts:2026-11-20:7 f5").await, bulk("5"));
    let before = stack.sql_i64("select txid_current()").await;
    let wanted = [
        ("SISMEMBER ids:1 78", 1),
        ("SISMEMBER ids:1 -5", 0),
        ("SADD ids:1 200001 5", 1),
        ("SREM ids:1 200001", 1),
        ("HINCRBY counts:2026-11-20:7 f9 1", 10),
        ("HEXISTS counts:2026-11-20:7 f10", 1),
        ("HDEL counts:2026-11-20:7 f10 f11", 2),
        ("EXISTS ids:1", 1),
        ("EXPIRE ids:1 1000", 1),
    ];
    for (request, reply) in wanted {
        assert_eq!(client.say(request).await, Value::Integer(reply), "{request}");
    }
    for (table, written) in [("ids", 0), ("counts", 1)] {
        let sql = format!("select count(*) from {table} where xmin::text::bigint >= {before}");
        assert_eq!(stack.sql_i64(&sql).await, written, "rows of {table}");
    }
    assert_eq!(client.say("SCARD ids:1").await, Value::Integer(200_000));
    assert_eq!(client.say("HLEN counts:2026-11-20:7").await, Value::Integer(99_998));
    assert_eq!(client.say("SMEMBERS ids:1").await.elements().len(), 200_000);
    let popped = client.say("SPOP ids:1 10").await;
    assert_eq!(popped.elements().len(), 10);
    assert_eq!(stack.sql_i64("select count(*) from ids").await, 199_990);
    let drawn = client.say("SRANDMEMBER ids:1 5").await;
    assert_eq!(drawn.elements().len(), 5);
    // Too large for a copy.
    let mut redis = Client::connect(&stack.redis).await;
    assert_eq!(redis.say("EXISTS ids:1 counts:2026-11-20:7").await, Value::Integer(0));
    stack.stop_expecting(&[]).await;
}

#[tokio::test]
async fn a_small_value_is_cached_as_a_whole() {
    let stack = Stack::with_mappings(MAPPINGS).await;
    let mut client = stack.client().await;
    client.say("SADD ids:1 1 2 3").await;
    assert_eq!(client.say("SISMEMBER ids:1 9").await, Value::Integer(0));
    let mut redis = Client::connect(&stack.redis).await;
    wait_until("there is a copy", async || redis.say("SCARD ids:1").await == Value::Integer(3))
        .await;
    // A write changes the copy, and does not drop it.
    client.say("SADD ids:1 4").await;
    client.say("SREM ids:1 1").await;
    wait_until("the copy has the change", async || {
        redis.say("SMISMEMBER ids:1 1 2 3 4").await
            == Value::Array([0, 1, 1, 1].map(Value::Integer).to_vec())
    })
    .await;
    stack.stop_expecting(&[]).await;
}

#[tokio::test]
async fn what_one_value_costs_grows_with_what_is_done_to_it_and_no_faster() {
    let stack = Stack::with_mappings(MAPPINGS).await;
    let mut client = stack.client().await;
    let request = |name: &str, from: usize, count: usize| {
        let members = (from..from + count).map(|member| member.to_string().into_bytes());
        [name.into(), b"ids:5".to_vec()].into_iter().chain(members).collect::<Vec<_>>()
    };
    // Many commands on one key in a batch: each looks at what it sets, not at all that was set before.
    let requests: Vec<_> = (0..400).map(|at| request("SADD", 100 * at, 100)).collect();
    let replies = client.pipeline(&requests).await;
    assert!(replies.iter().all(|reply| *reply == Value::Integer(100)), "{replies:?}");
    // Members that go one after the other: the others need not move up.
    let reply = client.command(&request("SREM", 0, 39_999)).await;
    assert_eq!(reply, Value::Integer(39_999));
    assert_eq!(client.say("SMEMBERS ids:5").await.elements().len(), 1);
    stack.stop_expecting(&[]).await;
}

#[tokio::test]
async fn a_refused_command_leaves_the_draft_as_it_was() {
    let stack = Stack::with_mappings(MAPPINGS).await;
    let mut client = stack.client().await;
    let key = "counts:2026-11-20:7";
    let requests: Vec<Vec<Vec<u8>>> = [
        format!("HSET {key} a 1 b 1.5"),
        format!("HLEN {key}"),
        format!("HSET {key} a 2 b 2"),
        format!("HSET {key} a 3 c 3 b x"),
        format!("HINCRBY {key} a 5"),
        format!("HDEL {key} b"),
        format!("HINCRBYFLOAT {key} a 0.5"),
        format!("HGETALL {key}"),
    ]
    .iter()
    .map(|text| text.split(' ').map(|word| word.as_bytes().to_vec()).collect())
    .collect();
    let replies = client.pipeline(&requests).await;
    assert!(replies[0].is_error() && replies[3].is_error() && replies[6].is_error());
    assert_eq!(replies[1], Value::Integer(0));
    assert_eq!(replies[2], Value::Integer(2));
    assert_eq!(replies[4], Value::Integer(7));
    assert_eq!(replies[5], Value::Integer(1));
    assert_eq!(replies[7].elements(), [bulk("a"), bulk("7")]);
    stack.stop_expecting(&[]).await;
}
