//! SORT whose BY and GET patterns mean mapped keys: those are lent, too.

use crate::alike::{MAPPINGS, same};
use crate::stack::{Stack, Value, resp, talk};

#[tokio::test]
async fn sorting_by_mapped_hashes_is_as_in_redis() {
    same(
        "
        > SADD ids:1 3 1 2
        > HSET thing:1 name c size 30
        > HSET thing:2 name b size 10
        > HSET thing:3 name a size 20
        > SORT ids:1 BY thing:*->size
        > SORT ids:1 BY thing:*->size DESC LIMIT 1 1
        > SORT ids:1 BY thing:*->name ALPHA GET # GET thing:*->name GET thing:*->none GET thing:*
        > SORT_RO ids:1 BY thing:*->size
        > RPUSH list 2 3 1 9
        > SORT list BY thing:*->size GET # GET thing:*->size
        > SORT list BY nosort GET thing:*->name
        > SORT list BY thing:*->name
        > SORT list BY thing:*->
        > SORT list BY thing:*->size NONSENSE
        > ZADD zset 5 3 6 1
        > SORT zset BY thing:*->size GET notes:*->b
        > HSET notes:3 b third
        > SORT zset BY nosort GET notes:*->b GET thing:*->size
        > SET text 1
        > SORT text BY thing:*->size
        > SORT nothing BY thing:*->size
        > SORT thing:1 BY thing:*->size
        > DEL thing:2
        > SORT ids:1 BY thing:*->size
        ~> HGETALL thing:1
    ",
    )
    .await;
}

#[tokio::test]
async fn what_is_looked_up_is_neither_stored_nor_queued() {
    let stack = Stack::with_mappings(MAPPINGS).await;
    talk(
        &stack,
        "
        > RPUSH list 1 2
        :2
        > SORT list BY thing:*->size STORE other
        -ERR 'sort' is refused for keys of mapping 'things': with STORE its BY or GET must not look up mapped keys
        > EXISTS other
        :0
        > MULTI
        +OK
        > SORT list BY thing:*->size
        -ERR SORT with a BY or GET that could look up mapped keys cannot be in a transaction
        > EXEC
        -EXECABORT Transaction discarded because of previous errors.
        ",
    )
    .await;
    stack.stop_expecting(&[]).await;
}

/// Elements come in between the finding of the keys and the step.
#[tokio::test]
async fn a_list_that_grows_is_sorted_with_all_that_it_means() {
    const THINGS: usize = 150;
    let stack = Stack::with_mappings(MAPPINGS).await;
    let mut writer = stack.client().await;
    let write = async {
        for number in 1..=THINGS {
            let lines =
                [format!("HSET thing:{number} size {number}"), format!("RPUSH list {number}")];
            for line in lines {
                let reply = writer.command(&resp::arguments(&line)).await;
                assert!(!reply.is_error(), "{line}: {reply:?}");
            }
        }
    };
    let mut reader = stack.client().await;
    let read = async {
        let mut found = 0;
        while found < THINGS {
            let reply = reader.say("SORT list BY nosort GET thing:*->size").await;
            for (at, size) in reply.elements().iter().enumerate() {
                assert_eq!(*size, Value::Bulk((at + 1).to_string().into_bytes()), "{reply:?}");
            }
            found = reply.elements().len();
        }
    };
    tokio::join!(write, read);
    stack.stop_expecting(&[]).await;
}
