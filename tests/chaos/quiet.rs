//! When all faults are mended and nobody writes: do both stores say the same, is everything cacheable again, is
//! nothing left over?

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use sqlx::{AssertSqlSafe, Executor, Row};

use crate::keys::{Form, Names, form};
use crate::stack::{Client, Value};
use crate::strategy::{self, STRATEGIES, Strategy};
use crate::world::World;

/// How long the proxies may take until they take writes and reads again after the last fault, and until
/// what a fault has left is cleared away: the timeouts of the world's settings, with room for a slow machine.
pub(crate) const RECOVERY: Duration = Duration::from_secs(15);

/// As long as marks may live, and a little.
const LEASES: Duration = Duration::from_secs(5);

/// Past the keys of the clients.
const PROBE: u32 = 1_000_000;

/// What a key holds: fields and values, or members and nothing.
type Content = BTreeMap<String, String>;

/// Waits until every proxy writes and reads keys of every strategy and form.
pub(crate) async fn recovered(world: &World, names: &Names) -> Vec<String> {
    let mut violations = Vec::new();
    let is_as_before = within(RECOVERY, async || world.switch(0, strategy::INITIAL).await).await;
    if !is_as_before {
        violations.push("strategies cannot be changed again".to_owned());
    }
    for (side, address) in world.addresses().iter().enumerate() {
        let keys = u32::try_from(STRATEGIES.len() * 6).expect("a few");
        for key in (0..keys).step_by(2).map(|key| PROBE + key) {
            let name = names.key(key);
            let commands = match form(key) {
                Form::Set => [["SADD", &name, "m", "n"], ["SISMEMBER", &name, "m", ""]],
                _ => [["HSET", &name, "first", "1"], ["HGET", &name, "first", ""]],
            };
            let mut last = String::new();
            let is_well = within(RECOVERY, async || {
                let reply = all_replies(address, &commands).await;
                last = format!("{reply:?}");
                reply.is_ok_and(|replies| !replies.iter().any(Value::is_error))
            })
            .await;
            if !is_well {
                violations.push(format!("{name} is not served by proxy {side} again: {last}"));
            }
        }
    }
    violations
}

async fn all_replies(address: &str, commands: &[[&str; 4]]) -> std::io::Result<Vec<Value>> {
    let mut client = Client::try_connect_to(address).await?;
    let mut replies = Vec::new();
    for command in commands {
        let words: Vec<&str> = command.iter().copied().filter(|word| !word.is_empty()).collect();
        replies.push(client.try_command(&words).await?);
    }
    Ok(replies)
}

/// Everything that is not as promised of the keys below `keys`.
pub(crate) async fn check(
    world: &World,
    names: &Names,
    keys: u32,
    patience: Duration,
) -> Vec<String> {
    match look(world, names, keys, patience).await {
        Ok(violations) => violations,
        Err(error) => vec![format!("the stores cannot be compared: {error}")],
    }
}

async fn look(
    world: &World,
    names: &Names,
    keys: u32,
    patience: Duration,
) -> Result<Vec<String>, Box<dyn std::error::Error>> {
    let mut violations = Vec::new();
    let mut sql = world.sql().await?;
    let mut left = 0;
    let is_worked_off = within(patience, async || {
        let row = sql.fetch_one("select count(*) from respgres.outbox").await;
        left = row.map_or(-1, |row| row.get::<i64, _>(0));
        left == 0
    });
    if !is_worked_off.await {
        violations.push(format!("the outbox is not worked off: {left} keys"));
    }

    let mut redis = Client::connect(&*world.redis.lock().await).await;
    let is_flushed =
        within(patience, async || redis.say("XLEN respgres:journal").await == Value::Integer(0));
    if !is_flushed.await {
        violations.push("the journal is not flushed".to_owned());
    }

    let rows = rows(world).await?;
    let mut clients = Vec::new();
    for address in world.addresses() {
        clients.push(Client::try_connect_to(&address).await?);
    }
    let mut copies = 0;
    for key in 0..keys {
        let (name, strategy) = (names.key(key), strategy::of(names, key));
        let row = rows.get(&name).cloned().unwrap_or_default();
        if strategy.has_copies && !row.is_empty() {
            let is_cached = within(patience, async || {
                let _ = content(&mut clients[0], key, &name).await;
                redis.command(&["EXISTS", &name]).await == Value::Integer(1)
            });
            if is_cached.await {
                copies += 1;
            } else {
                violations.push(format!("{name} is read, and Redis gets no copy of it"));
            }
        }
        let held = content(&mut redis, key, &name).await?;
        let expected = if strategy.has_rows { &row } else { &held };
        for (side, client) in clients.iter_mut().enumerate() {
            let read = content(client, key, &name).await?;
            if read != *expected {
                violations.push(differ(&name, &format!("proxy {side}"), &read, expected));
            }
        }
        let may_differ = held.is_empty() || !strategy.has_rows;
        if !may_differ && held != row {
            violations.push(differ(&name, "Redis", &held, &row));
        }
        if !strategy.has_rows && !row.is_empty()
            || strategy.has_rows && !strategy.has_copies && !held.is_empty()
        {
            violations.push(format!("{name}, of {}, is where it does not belong", strategy.name));
        }
    }
    if copies == 0 {
        violations.push("nothing was cached".to_owned());
    }

    let mut left = Vec::new();
    let are_gone = within(LEASES, async || {
        left = marks(&mut redis).await;
        left.is_empty()
    });
    if !are_gone.await {
        violations.push(format!("marks outlive their leases: {left:?}"));
    }
    Ok(violations)
}

fn differ(name: &str, who: &str, found: &Content, expected: &Content) -> String {
    format!("{name}: {who} says {found:?}, it should be {expected:?}")
}

/// What all tables hold, by key.
async fn rows(world: &World) -> Result<BTreeMap<String, Content>, sqlx::Error> {
    let mut connection = world.sql().await?;
    let mut rows: BTreeMap<String, Content> = BTreeMap::new();
    for Strategy { name, .. } in STRATEGIES.iter().filter(|strategy| strategy.has_rows) {
        for query in [
            format!(
                "select '{name}:coherence:' || id, c.field, c.value from {name}_rows,
                 lateral (values ('first', first), ('second', second), ('counter', counter::text))
                 as c(field, value) where c.value is not null"
            ),
            format!("select '{name}:entries:' || id, field, value from {name}_entries"),
            format!("select '{name}:set:' || id, member, '' from {name}_members"),
        ] {
            for row in connection.fetch_all(AssertSqlSafe(query)).await? {
                rows.entry(row.get(0)).or_default().insert(row.get(1), row.get(2));
            }
        }
    }
    Ok(rows)
}

/// What a key holds, as a proxy or Redis says.
async fn content(client: &mut Client, key: u32, name: &str) -> std::io::Result<Content> {
    let read = if form(key) == Form::Set { "SMEMBERS" } else { "HGETALL" };
    let reply = client.try_command(&[read, name]).await?;
    let Value::Array(parts) = &reply else {
        return Err(std::io::Error::other(format!("{read} {name}: {reply:?}")));
    };
    let text = |value: &Value| String::from_utf8_lossy(value.bytes().unwrap_or(b"?")).into_owned();
    Ok(match form(key) {
        Form::Set => parts.iter().map(|member| (text(member), String::new())).collect(),
        _ => parts.chunks_exact(2).map(|pair| (text(&pair[0]), text(&pair[1]))).collect(),
    })
}

/// Keys of respgres' own in Redis that are about one key each: not the journal and what is said of it.
async fn marks(redis: &mut Client) -> Vec<String> {
    match redis.say("KEYS respgres:?:*").await {
        Value::Array(names) => names.iter().map(|name| name.lines().join(" ")).collect(),
        other => vec![format!("{other:?}")],
    }
}

async fn within(bound: Duration, mut condition: impl AsyncFnMut() -> bool) -> bool {
    let start = Instant::now();
    loop {
        if condition().await {
            return true;
        }
        if start.elapsed() > bound {
            return false;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::{Event, Fault, Memory};

    const KEYS: u32 = 24;

    async fn write_all(world: &World, names: &Names) {
        let mut client = Client::connect_to(&world.addresses()[0]).await;
        for key in 0..KEYS {
            let name = names.key(key);
            let reply = match form(key) {
                Form::Set => client.command(&["SADD", &name, "m"]).await,
                _ => client.command(&["HSET", &name, "first", "1"]).await,
            };
            assert!(!reply.is_error(), "{name}: {reply:?}");
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_is_not_as_promised_is_found() {
        let (world, names) = (World::start().await, strategy::names());
        write_all(&world, &names).await;
        assert_eq!(check(&world, &names, KEYS, RECOVERY).await, [""; 0]);

        let mut redis = Client::connect(&*world.redis.lock().await).await;
        let mut sql = world.sql().await.unwrap();
        let of = |key: u32| names.key(key);
        // A copy with other fields, a row nobody reads, a copy where there must not be one, a mark.
        redis.command(&["HSET", &of(0), "second", "2"]).await;
        redis.command(&["SADD", &of(12 + 4), "m"]).await;
        redis.say("SET respgres:m:it 1").await;
        let change = format!("update database_first_entries set value = '9' where id = {}", 6 + 2);
        sql.execute(AssertSqlSafe(change)).await.unwrap();
        // A key that cannot be cached, and an outbox that nobody works off.
        redis.command(&["DEL", &of(5)]).await;
        redis.command(&["SET", &format!("respgres:m:{}", of(5)), "r:nobody"]).await;
        let keep = "create rule keep as on delete to respgres.outbox do instead nothing;
            insert into respgres.outbox (mapping, key) values ('no such', 'no such')";
        sql.execute(keep).await.unwrap();

        let violations = check(&world, &names, KEYS, Duration::from_millis(300)).await;
        let found = |parts: &[&str]| {
            let has = |violation: &&String| parts.iter().all(|part| violation.contains(part));
            assert!(violations.iter().any(|it| has(&it)), "{parts:?} in {violations:#?}");
        };
        found(&[&of(0), "proxy 1 says"]);
        found(&[&of(0), "Redis says"]);
        found(&[&of(12 + 4), "does not belong"]);
        found(&[&of(6 + 2), "Redis says"]);
        found(&[&of(5), "gets no copy"]);
        found(&["the outbox is not worked off"]);
        found(&["marks outlive", "respgres:m:it"]);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_full_disk_is_felt_and_mended() {
        let (world, names) = (World::start().await, strategy::names());
        let mut client = Client::connect_to(&world.addresses()[0]).await;
        let long = "x".repeat(500_000);
        let full = Fault::DiskFull(0);
        let event = Event { at: Duration::ZERO, lasts: Duration::from_secs(2), fault: full };
        let felt = async {
            within(Duration::from_secs(2), async || {
                client.command(&["HSET", &names.key(2), "first", &long]).await.is_error()
            })
            .await
        };
        let ((), is_felt) = tokio::join!(world.suffer(&event), felt);
        assert!(is_felt, "there was room");
        assert_eq!(recovered(&world, &names).await, [""; 0]);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_is_written_past_redis_is_known_to_have_been() {
        let (world, names) = (World::start().await, strategy::names());
        let epoch = std::time::SystemTime::now();
        let gone = Fault::RedisKilled(Memory::Empty);
        let event = Event { at: Duration::ZERO, lasts: Duration::from_secs(1), fault: gone };
        let written = async {
            tokio::time::sleep(event.lasts / 4).await;
            let mut client = Client::connect_to(&world.addresses()[0]).await;
            client.command(&["HSET", &names.key(0), "first", "1"]).await
        };
        let ((), reply) = tokio::join!(world.suffer(&event), written);
        assert_eq!(reply, Value::Integer(1));
        assert_eq!(recovered(&world, &names).await, [""; 0]);
        let is_known = within(RECOVERY, async || {
            let mut waited = crate::trial::waited(&world, epoch).await;
            let times = waited.remove(&names.key(0)).expect("it was written past Redis");
            let [time] = times[..] else { panic!("{times:?}") };
            time.start_ns < time.end_ns && time.end_ns < u64::MAX
        });
        assert!(is_known.await, "it is in the outbox for ever");
    }
}
