//! Sets under load: many that grow, many small ones in the cache, and one that is too large for it.

use sqlx::{AssertSqlSafe, Executor, PgPool};

use crate::cache::{MAPPED, UNMAPPED, read_until_cached};
use crate::drive::Servers;
use crate::rig::Failure;
use crate::rig::client::Client;

/// Sets of either kind.
pub(crate) const SETS: u32 = 1000;

/// The first of the growing ones, the first of the small ones, the large one.
pub(crate) const GROWING: u32 = 0;
pub(crate) const SMALL: u32 = 10_000;
pub(crate) const LARGE: u32 = 20_000;

pub(crate) const SMALL_MEMBERS: u32 = 20;

/// More than respgres would cache.
pub(crate) const LARGE_MEMBERS: u32 = 100_000;

pub(crate) fn key(prefix: &str, id: u32) -> String {
    format!("{prefix}:set:{id}")
}

pub(crate) fn member(number: u32) -> String {
    format!("member {number}")
}

/// One that is hardly there yet.
pub(crate) fn new_member(random: u32) -> String {
    format!("new member {random}")
}

/// `[[mapping]]` for `bench:set:{id:int}`.
pub(crate) fn mapping() -> String {
    format!(
        "\n[[mapping]]\nname = \"members\"\nkey = \"{MAPPED}:set:{{id:int}}\"\nkind = \"set\"\n\
         table = \"bench_members\"\nstrategy = \"dual_write\"\nmember = \"member\"\n"
    )
}

/// Both tables, with all that is asked for.
pub(crate) async fn create(pool: &PgPool) -> Result<(), Failure> {
    for table in ["bench_members", "baseline_members"] {
        let create = format!(
            "CREATE TABLE {table} (id bigint, member text, PRIMARY KEY (id, member));
             INSERT INTO {table} SELECT {SMALL} + s, 'member ' || m
                 FROM generate_series(0, {SETS} - 1) s, generate_series(0, {SMALL_MEMBERS} - 1) m;
             INSERT INTO {table} SELECT {LARGE}, 'member ' || m
                 FROM generate_series(0, {LARGE_MEMBERS} - 1) m;
             VACUUM ANALYZE {table}"
        );
        for statement in create.split(';') {
            pool.execute(AssertSqlSafe(statement.to_owned())).await?;
        }
    }
    Ok(())
}

/// Brings the small sets into the cache, and the same with the large one under keys that no mapping
/// matches.
pub(crate) async fn warm(servers: &Servers) -> Result<(), Failure> {
    let mut client = Client::connect(servers.respgres_port).await?;
    let all = (SMALL..SMALL + SETS).map(|id| (id, SMALL_MEMBERS)).chain([(LARGE, LARGE_MEMBERS)]);
    for (id, members) in all {
        let members: Vec<String> = (0..members).map(member).collect();
        for some in members.chunks(1000) {
            let key = key(UNMAPPED, id);
            let mut request: Vec<&[u8]> = vec![b"SADD", key.as_bytes()];
            request.extend(some.iter().map(String::as_bytes));
            client.call(&request).await?;
        }
    }
    let mut redis = Client::connect(servers.redis_port).await?;
    for id in SMALL..SMALL + SETS {
        let key = key(MAPPED, id);
        let request: &[&[u8]] = &[b"SMEMBERS", key.as_bytes()];
        read_until_cached(&mut client, &mut redis, request, SMALL_MEMBERS as usize).await?;
    }
    Ok(())
}
