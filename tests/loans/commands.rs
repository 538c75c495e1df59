//! Single commands that Redis runs on lent values.

use crate::alike::same;
use crate::stack::{Client, Stack, Value, talk};

#[tokio::test]
async fn sets_are_combined_across_both_stores() {
    same(
        "
        > SADD ids:1 1 2 3 4
        > SADD ids:2 3 4 5
        > SADD plain 4 5 6
        ~> SINTER ids:1 ids:2
        ~> SUNION ids:1 plain
        ~> SDIFF ids:1 ids:2 nothing
        ~> SDIFF plain ids:1
        > SINTERCARD 2 ids:1 plain
        > SINTERCARD 2 ids:1 ids:2 LIMIT 1
        > SINTERCARD 0 ids:1
        > SINTERSTORE ids:3 ids:1 ids:2
        > SUNIONSTORE plain plain ids:1
        > SDIFFSTORE other ids:1 ids:2
        > SDIFFSTORE ids:2 ids:1 ids:1
        > EXISTS ids:2
        > SUNIONSTORE tags:a ids:1 ids:3
        > SINTER ids:1 nothing
        > SMOVE ids:1 ids:3 1
        > SMOVE ids:1 ids:3 77
        > SMOVE ids:1 plain 2
        > SMOVE plain tags:b 5
        > HSET thing:1 name x
        > SINTER ids:1 thing:1
        > SUNIONSTORE other ids:1 thing:1
        > SMOVE ids:1 thing:1 3
    ",
    )
    .await;
}

#[tokio::test]
async fn keys_are_renamed_and_copied_across_both_stores() {
    same(
        "
        > HSET thing:1 name one size 1 loose x
        > RENAME thing:1 thing:2
        > RENAME thing:1 thing:2
        > RENAMENX thing:2 thing:3
        > HSET thing:1 name new
        > RENAMENX thing:1 thing:3
        > PEXPIREAT thing:3 4102444800000
        > RENAME thing:3 other
        > PEXPIRETIME other
        > RENAME other notes:a
        > PEXPIRETIME notes:a
        > COPY notes:a notes:b
        > COPY notes:a notes:b
        > COPY notes:a notes:b REPLACE
        > COPY notes:a plain
        > COPY plain thing:2 DB 0
        > COPY nothing thing:2
        > RENAME notes:b notes:b
        > HGETALL thing:2
        > COPY notes:a notes:a
    ",
    )
    .await;
}

#[tokio::test]
async fn values_are_sorted_dumped_and_looked_at() {
    same(
        "
        > SADD ids:1 3 1 2 20
        > SORT ids:1
        > SORT ids:1 DESC LIMIT 0 2
        > SORT ids:1 ALPHA
        > SORT_RO ids:1
        > SORT ids:1 BY nosort GET # LIMIT 0 0
        > SORT ids:1 STORE list
        > SET weight_1 5
        > SORT ids:1 BY weight_* GET weight_* GET #
        > SORT thing:1
        > HSET thing:1 name x
        > SORT thing:1
        > OBJECT ENCODING ids:1
        > OBJECT ENCODING thing:1
        > OBJECT ENCODING thing:2
        > OBJECT REFCOUNT thing:1
        > OBJECT FREQ thing:1
        > OBJECT NONSENSE thing:1
        > MEMORY USAGE thing:2
        > TOUCH thing:1 thing:2 ids:1 nothing
        > DUMP ids:1
        > DUMP thing:2
        > RESTORE ids:2 0 \"\\x02\\x02\\x011\\x012\\x0a\\x00+\\xa7\\xe4\\x17\\xb9\\xd4\\xb5\\x0c\"
        > RESTORE thing:1 0 nonsense
        > RESTORE ids:1 0 nonsense
    ",
    )
    .await;
}

#[tokio::test]
async fn commands_of_other_types_say_what_redis_says() {
    same(
        "
        > GET thing:1
        > HSET thing:1 name x size 2
        > SADD tags:a m
        > GET thing:1
        > GETRANGE tags:a 0 1
        > MGET thing:1 tags:a nothing
        > STRLEN thing:1
        > INCR thing:1
        > APPEND tags:a x
        > GETSET thing:1 x
        > SETNX thing:1 x
        > SET thing:1 x NX
        > SETRANGE thing:1 5 x
        > BITCOUNT thing:1
        > LPUSH thing:1 x
        > LPUSHX thing:1 x
        > LPUSHX thing:2 x
        > LRANGE tags:a 0 -1
        > LLEN thing:2
        > RPOPLPUSH thing:1 list
        > ZADD thing:1 1 x
        > ZADD thing:1 XX 1 x
        > ZADD thing:2 XX 1 x
        > ZRANGE thing:1 0 -1
        > ZUNION 2 tags:a zset
        > ZUNIONSTORE zset 1 tags:a
        > ZINTERCARD 1 thing:1
        > ZRANGEBYSCORE thing:2 0 1
        > XADD thing:1 * a 1
        > XLEN thing:1
        > XREAD STREAMS thing:1 0
        > XINFO STREAM thing:1
        > XGROUP CREATE thing:1 g 0
        > PFADD thing:1 x
        > PFCOUNT thing:1
        > GEOADD thing:1 1 2 x
        > GEODIST thing:2 a b
        > GETDEL thing:1
        > GETEX tags:a
        > HGET tags:a m
        > HSET tags:a m 1
        > HGETALL tags:a
        > SADD thing:1 m
        > SMEMBERS thing:1
        > SPOP notes:a
        > HDEL tags:b x
        > BLPOP thing:1 0
        > BLPOP thing:1 list 0
        > BLPOP list thing:1 0
        > RPUSH list e f
        > BLPOP thing:2 list 0
        > BLMOVE thing:1 list LEFT RIGHT 0
        > XREAD BLOCK 0 STREAMS thing:1 0
        > LCS thing:1 text
        > SET thing:1
        > VCARD thing:1
    ",
    )
    .await;
}

#[tokio::test]
async fn what_a_mapping_cannot_hold_is_refused_and_undone() {
    let stack = Stack::with_mappings(crate::alike::MAPPINGS).await;
    talk(
        &stack,
        "
        > HSET thing:1 name x
        :1
        > SET thing:1 text
        -ERR 'set' is refused for keys of mapping 'things': it would leave a string where the mapping holds a hash; nothing was written
        > SET thing:2 text EX 5
        -ERR 'set' is refused for keys of mapping 'things': it would leave a string where the mapping holds a hash; nothing was written
        > MSET plain changed thing:1 text
        -ERR 'mset' is refused for keys of mapping 'things': it would leave a string where the mapping holds a hash; nothing was written
        > EXISTS plain
        :0
        > SET plain 1 EXAT 4102444800
        +OK
        > MSET plain changed thing:1 text
        -ERR 'mset' is refused for keys of mapping 'things': it would leave a string where the mapping holds a hash; nothing was written
        > GET plain
        \"1\"
        > EXPIRETIME plain
        :4102444800
        > LPUSH tags:a 1
        -ERR 'lpush' is refused for keys of mapping 'tags': it would leave a list where the mapping holds a set; nothing was written
        > HSET tags:a f v
        -ERR 'hset' is refused for keys of mapping 'tags': it would leave a hash where the mapping holds a set; nothing was written
        > SUNIONSTORE ids:1 tags:a other
        :0
        > SADD other word
        :1
        > SUNIONSTORE ids:1 other
        -ERR mapping \"ids\": member \"word\" could not be given back unchanged by column \"member\" of type bigint; nothing was written
        > RENAME other thing:1
        -ERR 'rename' is refused for keys of mapping 'things': it would leave a set where the mapping holds a hash; nothing was written
        > SMEMBERS other
        *1
          \"word\"
        > HGETALL thing:1
        *2
          \"name\"
          \"x\"
        > BLPOP thing:2 0
        -ERR 'blpop' is refused for keys of mapping 'things': it would wait, and what it waits for can never be there
        > XREAD BLOCK 0 STREAMS thing:2 0
        -ERR 'xread' is refused for keys of mapping 'things': it would wait, and what it waits for can never be there
        > MOVE thing:1 1
        -ERR 'move' is refused for keys of mapping 'things': it would leave Postgres
        > COPY thing:1 plain DB 1
        -ERR 'copy' is refused for keys of mapping 'things': keys of other databases are not mapped
        > HEXPIRE thing:1 5 FIELDS 1 name
        -ERR 'hexpire' is refused for keys of mapping 'things': expiry and conditions of single fields are not mapped
        ",
    )
    .await;
    stack.stop_expecting(&[]).await;
}

/// A command that only reads leaves the cached copy where it is.
#[tokio::test]
async fn reading_keeps_the_cached_copy() {
    let stack = Stack::with_mappings(crate::alike::MAPPINGS).await;
    let mut client = stack.client().await;
    let mut redis = Client::connect(&stack.redis).await;
    client.say("HSET thing:1 name x size 2").await;
    client.say("HGET thing:1 nothing").await;
    crate::stack::wait_until("the copy is there", async || {
        redis.say("EXISTS thing:1").await == Value::Integer(1)
    })
    .await;
    let ttl = redis.say("PEXPIRETIME thing:1").await;
    assert_eq!(client.say("SORT_RO thing:1").await.lines()[0].as_bytes()[0], b'-');
    assert_eq!(client.say("OBJECT ENCODING thing:1").await, Value::Bulk(b"listpack".to_vec()));
    assert_eq!(redis.say("HGET thing:1 size").await, Value::Bulk(b"2".to_vec()));
    assert_eq!(redis.say("PEXPIRETIME thing:1").await, ttl);
    // A write that changes one field keeps the copy, too.
    client.say("EVAL \"return redis.call('HSET', KEYS[1], 'size', 3)\" 1 thing:1").await;
    crate::stack::wait_until("the copy is back", async || {
        redis.say("HGET thing:1 size").await == Value::Bulk(b"3".to_vec())
    })
    .await;
    stack.stop_expecting(&[]).await;
}
