//! EVAL, EVALSHA and FCALL with mapped keys among those that they declare.

use crate::alike::same;
use crate::stack::{Client, Stack, Value, talk, wait_until};

#[tokio::test]
async fn scripts_read_and_write_mapped_keys() {
    same(
        r##"
        > HSET thing:1 name one size 1
        > EVAL "return redis.call('HGET', KEYS[1], 'name')" 1 thing:1
        > EVAL "return redis.call('HGETALL', KEYS[1])" 1 thing:2
        > EVAL "redis.call('HSET', KEYS[1], 'size', 7, 'new', ARGV[1]) return redis.call('HLEN', KEYS[1])" 1 thing:1 x
        > EVAL "redis.call('HSET', KEYS[1], 'a', 1) redis.call('SADD', KEYS[2], 'm') redis.call('SET', KEYS[3], 'v') return {1, 'two', {3}, false}" 3 notes:a tags:a text
        > EVAL "return redis.call('DEL', KEYS[1])" 1 notes:a
        > EVAL "redis.call('HSET', KEYS[1], 'size', 8) return redis.error_reply('MY own')" 1 thing:1
        > EVAL "redis.call('HSET', KEYS[1], 'size', 9) redis.call('LPUSH', KEYS[1], 1)" 1 thing:1
        > EVAL "redis.call('SET', KEYS[2], 'kept') error('oh')" 2 thing:1 plain
        > EVAL "return redis.call('PEXPIREAT', KEYS[1], 4102444800000)" 1 thing:1
        > PEXPIRETIME thing:1
        > EVAL "return redis.call('PEXPIRETIME', KEYS[1])" 1 thing:1
        > EVAL "return {redis.call('PERSIST', KEYS[1]), redis.call('TTL', KEYS[1])}" 1 thing:1
        > EVAL "redis.setresp(3) return redis.call('HGETALL', KEYS[1])" 1 tags:b
        > EVAL "redis.setresp(3) return redis.call('SMEMBERS', KEYS[1])" 1 tags:a
        > EVAL "return redis.call('HINCRBY', KEYS[1], 'name', 1)" 1 thing:1
        > EVAL "return redis.pcall('HINCRBY', KEYS[1], 'name', 1)['err']" 1 thing:1
        > EVAL_RO "return redis.call('HGET', KEYS[1], 'size')" 1 thing:1
        > EVAL_RO "return redis.call('HSET', KEYS[1], 'size', 0)" 1 thing:1
        > EVAL "syntax error" 1 thing:1
        > EVAL "return 1" 5 thing:1
        > EVAL "return 1" x thing:1
        > EVALSHA 0123456789012345678901234567890123456789 1 thing:1
        > SCRIPT LOAD "return redis.call('HINCRBY', KEYS[1], 'size', ARGV[1])"
        > EVALSHA b1051d77f156f6b16dc4f89d9d94fd2d0aaf1da5 1 thing:1 4
        > EVAL "return redis.call('HINCRBY', KEYS[1], 'size', ARGV[1])" 1 thing:1 4
        > EVAL "return redis.call('RENAME', KEYS[1], KEYS[2])" 2 thing:1 thing:3
        > EVAL "return redis.call('HSET', KEYS[1], 'f', 'caf\\xe9\\0')" 1 thing:2
        > FUNCTION LOAD "#!lua name=lib\nredis.register_function('bump', function(keys, args) return redis.call('HINCRBY', keys[1], 'size', args[1]) end)\nredis.register_function{function_name='look', callback=function(keys) return redis.call('HGET', keys[1], 'size') end, flags={'no-writes'}}"
        > FCALL bump 1 thing:3 5
        > FCALL_RO look 1 thing:3
        > FCALL nothing 1 thing:3
        "##,
    )
    .await;
}

#[tokio::test]
async fn a_script_of_several_seconds_is_waited_for_and_can_be_killed() {
    let stack = Stack::builder(crate::alike::MAPPINGS)
        .redis_arguments(&["--busy-reply-threshold", "100"])
        .set("RESPGRES__DEFAULTS__LEASE", "500ms")
        .start()
        .await;
    let mut client = stack.client().await;
    client.say("HSET thing:1 name x size 1").await;
    // Longer than the lease: the marks lapse, and still nobody fills the old value.
    let script = "local start = redis.call('TIME') local now = start \
                  while now[1] * 1000 + now[2] / 1000 - start[1] * 1000 - start[2] / 1000 < 1500 do \
                  now = redis.call('TIME') end return redis.call('HSET', KEYS[1], 'size', 2)";
    let script = format!("EVAL \"{script}\" 1 thing:1");
    let mut writer = stack.client().await;
    let running = tokio::spawn(async move { writer.say(&script).await });
    wait_until("the script runs", async || stack.redis.say("PING").await.is_error()).await;
    assert_eq!(running.await.unwrap(), Value::Integer(0));
    assert_eq!(client.say("HGET thing:1 size").await, Value::Bulk(b"2".to_vec()));

    let mut writer = stack.client().await;
    let endless = "EVAL \"while true do end\" 1 thing:1";
    let running = tokio::spawn(async move { writer.say(endless).await });
    wait_until("the script runs", async || stack.redis.say("PING").await.is_error()).await;
    let busy = client.say("EVAL \"return 1\" 1 thing:2").await;
    assert!(matches!(&busy, Value::Error(text) if text.starts_with("BUSY ")), "{busy:?}");
    assert_eq!(client.say("SCRIPT KILL").await, Value::Status("OK".into()));
    let killed = running.await.unwrap();
    assert!(
        matches!(&killed, Value::Error(text) if text.contains("Script killed by user")),
        "{killed:?}"
    );
    assert_eq!(client.say("HGET thing:1 size").await, Value::Bulk(b"2".to_vec()));
    stack.stop_expecting(&["failed"]).await;
}

#[tokio::test]
async fn increments_by_scripts_through_two_proxies_are_not_lost() {
    let stack = Stack::with_mappings(crate::alike::MAPPINGS).await;
    let mut second = stack.start_second_proxy().await;
    let script = "EVAL \"local n = redis.call('HGET', KEYS[1], 'size') or 0 redis.call('HSET', \
                  KEYS[1], 'size', n + 1) return redis.call('INCR', KEYS[2])\" 2 thing:1 plain";
    let mut turns = Vec::new();
    for at in 0..8 {
        let mut client =
            if at % 2 == 0 { stack.client().await } else { Client::connect(&second).await };
        turns.push(tokio::spawn(async move {
            for _ in 0..25 {
                let reply = client.say(script).await;
                assert!(!reply.is_error(), "{reply:?}");
                let reply = client.say("HINCRBY thing:1 size 1").await;
                assert!(!reply.is_error(), "{reply:?}");
            }
        }));
    }
    for turn in turns {
        turn.await.unwrap();
    }
    talk(
        &stack,
        "
        > HGET thing:1 size
        \"400\"
        > GET plain
        \"200\"
        ",
    )
    .await;
    assert_eq!(stack.sql_i64("select size from things").await, 400);
    second.stop_expecting(&[]).await;
    stack.stop_expecting(&[]).await;
}
