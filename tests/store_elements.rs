//! Values with one row an element in a real Postgres: batches of commands that know a value in part leave
//! what Redis would hold, and what is read belongs together.

#![allow(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

mod stack;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use respgres::command::{Mapped, Need, Needs, lookup};
use respgres::config::{self, FieldColumn, Kind, OnExpire, Strategy};
use respgres::mapping::registry::Plan;
use respgres::mapping::shape::TableName;
use respgres::mapping::{KeyPattern, Layout, MappedKey, Mapping};
use respgres::protocol::Reply;
use respgres::store::{Change, Reading, RowLock, Session, StoredRow, Want};
use respgres::value::{Delta, Draft, Record, ValueKind};
use sqlx::{AssertSqlSafe, Executor, PgConnection};
use stack::{Cluster, Random};

const TABLES: &str = "
    create table members (id bigint, member text, note text default 'by SQL', primary key (id, member));
    create table entries (id bigint, field bytea, amount bigint, extra jsonb, primary key (id, field));";

/// A database with the tables, a session on it, and a connection of an SQL user.
struct House {
    cluster: Arc<Cluster>,
    database: String,
    session: Session,
    another: Session,
    sql: PgConnection,
    mapping: Arc<Mapping>,
}

impl House {
    async fn new(kind: Kind) -> Self {
        let cluster = Cluster::shared().await;
        let database = cluster.create_database().await;
        let mut sql = cluster.connect(&database).await;
        sql.execute(TABLES).await.unwrap();
        let postgres = config::Postgres {
            url: cluster.url(&database),
            writers: 1,
            readers: 2,
            streams: 1,
            stream_timeout_ms: 60_000,
            batch_operations: 1000,
            connect_timeout_ms: 10_000,
            statement_timeout_ms: 60_000,
        };
        let mut session = Session::connect(&postgres).await.unwrap();
        session.migrate().await.unwrap();
        let another = Session::connect(&postgres).await.unwrap();
        let plan = plan(kind);
        let shape = session.table_shape(&TableName::parse(&plan.config.table)).await.unwrap();
        let layout = Layout::bind(&plan, shape.as_ref()).unwrap();
        let mapping = Arc::new(Mapping {
            index: 0,
            name: plan.config.name.clone(),
            pattern: plan.pattern,
            gate: respgres::mapping::Gate::new(plan.config.strategy, false),
            cache_ttl_ms: 1000,
            negative_ttl_ms: 1000,
            on_expire: OnExpire::Delete,
            on_postgres_down: Some(respgres::config::OnPostgresDown::RedisOnly),
            layout,
        });
        Self { cluster, database, session, another, sql, mapping }
    }

    async fn another_connection(&self) -> PgConnection {
        self.cluster.connect(&self.database).await
    }

    fn key(&self, number: usize) -> MappedKey {
        let key = Bytes::from(format!("key:{number}"));
        let captures = self.mapping.pattern.captures(&key).unwrap();
        MappedKey { mapping: Arc::clone(&self.mapping), key, captures, pass: None }
    }

    fn kind(&self) -> ValueKind {
        self.mapping.holds()
    }

    async fn execute(&mut self, sql: &str) {
        self.sql.execute(AssertSqlSafe(sql.to_owned())).await.unwrap();
    }

    async fn count(&mut self, sql: &str) -> i64 {
        sqlx::query_scalar(AssertSqlSafe(sql.to_owned())).fetch_one(&mut self.sql).await.unwrap()
    }

    /// As a reader does.
    async fn read(&mut self, number: usize, needs: &Needs, whole_up_to: usize) -> Option<Record> {
        let key = self.key(number);
        let want = Want { key: &key, needs, whole_up_to };
        let read = self.another.read_parts(&self.mapping, &[want], RowLock::None).await.unwrap();
        read.rows.into_iter().next().unwrap().record
    }

    async fn whole(&mut self, number: usize) -> Option<Record> {
        self.read(number, &needs([Need::Whole]), 0).await
    }

    /// Begins as the engine does; the drafts of the keys with what the operations on them need.
    async fn begin(&mut self, asked: &[(MappedKey, Needs)]) -> (i64, Vec<StoredRow>) {
        let mut locks: Vec<i64> = asked.iter().map(|(key, _)| key.lock()).collect();
        locks.sort_unstable();
        let wants: Vec<Want<'_>> =
            asked.iter().map(|(key, needs)| Want { key, needs, whole_up_to: 0 }).collect();
        let mapping = Arc::clone(&self.mapping);
        let readings = [Reading { mapping: &mapping, wants }];
        let read = self.session.begin_reading(&locks, &readings).await.unwrap().remove(0);
        (read.now_ms, read.rows)
    }

    async fn finish(&mut self, asked: &[(MappedKey, Needs)], rows: &[StoredRow], drafts: &[Draft]) {
        let changes: Vec<Change<'_>> = asked
            .iter()
            .zip(rows)
            .zip(drafts)
            .filter(|(_, draft)| draft.is_changed())
            .map(|(((key, _), row), draft)| Change { key, present: row.present, draft })
            .collect();
        self.session.write(&self.mapping, &changes).await.unwrap();
        self.session.commit().await.unwrap();
    }
}

fn plan(kind: Kind) -> Plan {
    let column = |field: &str, column: &str| {
        Some(FieldColumn {
            field: field.into(),
            column: column.into(),
            format: None,
            column_type: None,
        })
    };
    let is_set = kind == Kind::Set;
    let mapping = config::Mapping {
        name: "things".into(),
        key: "key:{id:int}".into(),
        exclude: Vec::new(),
        kind,
        table: if is_set { "members" } else { "entries" }.into(),
        strategy: Strategy::DualWrite,
        cache_ttl_ms: 1000,
        negative_ttl_ms: 1000,
        on_expire: OnExpire::Delete,
        on_postgres_down: None,
        expires_at: None,
        extra: (!is_set).then(|| "extra".into()),
        key_columns: BTreeMap::new(),
        columns: Vec::new(),
        element: if is_set { column("member", "member") } else { column("field", "field") },
        value: if is_set { None } else { column("value", "amount") },
    };
    let pattern = KeyPattern::parse(&mapping.key).unwrap();
    Plan { index: 0, config: mapping, pattern }
}

fn needs(needs: impl IntoIterator<Item = Need>) -> Needs {
    let mut all = Needs::default();
    needs.into_iter().for_each(|need| all.add(need));
    all
}

fn words(text: &str) -> Vec<Bytes> {
    text.split(' ').map(|word| Bytes::from(word.to_owned())).collect()
}

fn need(request: &[Bytes]) -> Need {
    match lookup(&request[0]).unwrap().mapped {
        Mapped::Read(read) => (read.need)(request),
        Mapped::Write(write) => (write.need)(request),
        _ => panic!("{request:?} is not served"),
    }
}

fn run(request: &[Bytes], draft: &mut Draft, now_ms: i64) -> Reply {
    let Mapped::Write(write) = lookup(&request[0]).unwrap().mapped else {
        panic!("{request:?} does not write")
    };
    (write.run)(request, draft, now_ms)
}

fn element(random: &mut Random, large: bool) -> String {
    format!("m{}", random.below(if large { 3000 } else { 6 }))
}

fn request(random: &mut Random, kind: ValueKind, large: bool) -> Vec<Bytes> {
    let few = |random: &mut Random, name: &str, with_values: bool| {
        let mut text = format!("{name} k");
        for _ in 0..=random.below(4) {
            text += &format!(" {}", element(random, large));
            if with_values {
                text += random.pick(&[" 5", " 07", " text", " -1"]);
            }
        }
        text
    };
    let text = match (random.below(14), kind) {
        (0..=3, ValueKind::Set) => few(random, "SADD", false),
        (4..=6, ValueKind::Set) => few(random, "SREM", false),
        (7, ValueKind::Set) => "SPOP k".to_owned(),
        (8, ValueKind::Set) => format!("SPOP k {}", random.pick(&["0", "1", "2", "40", "100000"])),
        (0..=2, ValueKind::Hash) => few(random, "HSET", true),
        (3..=5, ValueKind::Hash) => few(random, "HDEL", false),
        (6 | 7, ValueKind::Hash) => format!("HINCRBY k {} 3", element(random, large)),
        (8, ValueKind::Hash) => format!("HSETNX k {} 9", element(random, large)),
        (9, _) => random.pick(&["DEL k", "UNLINK k", "EXPIRE k -1"]).to_owned(),
        (10, _) => "EXPIRE k 100000".to_owned(),
        // It has run out when it is looked at next.
        (11, _) => "PEXPIRE k 1".to_owned(),
        (12, _) => "PERSIST k".to_owned(),
        _ => random.pick(&["PEXPIREAT k 4102444800123 GT", "EXPIRE k 5000 NX"]).to_owned(),
    };
    words(&text)
}

/// What a reply says, if it is not for chance to say.
fn names(reply: &Reply) -> Vec<Bytes> {
    match reply {
        Reply::Bulk(name) => vec![name.clone()],
        Reply::Set(names) => names.iter().flat_map(self::names).collect(),
        _ => Vec::new(),
    }
}

/// The same request on a draft that knows everything; what a draft in part has drawn is drawn here too.
fn check_reply(request: &[Bytes], given: &Reply, whole: &mut Draft, now_ms: i64, story: &str) {
    if !request[0].eq_ignore_ascii_case(b"SPOP") {
        assert_eq!(*given, run(request, whole, now_ms), "{story}");
        return;
    }
    let drawn = names(given);
    let wanted: usize =
        request.get(2).map_or(1, |count| String::from_utf8_lossy(count).parse().unwrap());
    let there = whole.record().map_or(0, Record::len);
    assert_eq!(drawn.len(), wanted.min(there), "{story}");
    for name in drawn {
        assert!(whole.remove(&name), "{name:?} was not there, or drawn twice: {story}");
    }
}

fn sorted(record: Option<&Record>) -> Option<(BTreeMap<Bytes, Bytes>, Option<i64>)> {
    let record = record?;
    assert_eq!(record.others, 0);
    let fields = record.fields.iter().map(|(name, value)| (name.clone(), value.clone()));
    Some((fields.collect(), record.expires_at_ms))
}

/// What a cached copy of `before` holds after the delta.
fn copy_after(before: Option<&Record>, delta: &Delta) -> Option<BTreeMap<Bytes, Bytes>> {
    let mut copy = sorted(before)?.0;
    match delta {
        Delta::Drop => return None,
        Delta::Unchanged => {}
        Delta::Change { set, removed } => {
            copy.extend(set.iter().cloned());
            for name in removed {
                copy.remove(name);
            }
        }
    }
    Some(copy)
}

async fn batches_leave_what_redis_would_hold(kind: Kind, seed: u64) {
    let mut house = House::new(kind).await;
    let mut random = Random::new(seed);
    let mut model: BTreeMap<usize, Record> = BTreeMap::new();
    let (mut emptied, mut expired, mut of_large, mut changed) = (0, 0, 0, 0);
    for turn in 0..250 {
        // Often one operation on one key.
        let is_lone = random.below(5) < 2;
        let most = if is_lone { 1 } else { 6 };
        // Some keys have thousands of elements.
        let numbers: BTreeSet<usize> =
            (0..1 + random.below(most)).map(|_| random.below(8)).collect();
        let refilled = random.below(4);
        if turn % 10 == 0 {
            let key = house.key(refilled);
            let empty = Needs::default();
            let asked = [(key, empty)];
            let (_, rows) = house.begin(&asked).await;
            let mut draft = Draft::new(house.kind(), rows[0].record.clone());
            draft.delete();
            for at in 0..2000 {
                let value = if kind == Kind::Set { "" } else { "7" };
                draft.set(format!("m{at}").into(), value.into());
            }
            house.finish(&asked, &rows, &[draft.clone()]).await;
            model.insert(refilled, draft.record().unwrap().clone());
        }
        let mut asked = Vec::new();
        let mut requests = Vec::new();
        for &number in &numbers {
            let several = if is_lone { 1 } else { 1 + random.below(7) };
            let requests_of_it: Vec<Vec<Bytes>> =
                (0..several).map(|_| request(&mut random, house.kind(), number < 4)).collect();
            asked.push((house.key(number), needs(requests_of_it.iter().map(|words| need(words)))));
            requests.push(requests_of_it);
        }
        let (now_ms, rows) = house.begin(&asked).await;
        let mut drafts = Vec::new();
        for ((&number, row), requests) in numbers.iter().zip(&rows).zip(&requests) {
            let story = format!("{kind:?}, seed {seed}, turn {turn}, key {number}: {requests:?}");
            let mut before = model.remove(&number);
            if before.as_ref().is_some_and(|it| it.expires_at_ms.is_some_and(|at| at < now_ms)) {
                before = None;
                expired += 1;
            }
            assert_eq!(row.record.is_some(), before.is_some(), "{story}");
            of_large += usize::from(row.record.as_ref().is_some_and(|record| record.others > 0));
            let mut part = Draft::new(house.kind(), row.record.clone());
            let mut whole = Draft::new(house.kind(), before.clone());
            for request in requests {
                part.begin_operation();
                let given = run(request, &mut part, now_ms);
                check_reply(request, &given, &mut whole, now_ms, &story);
                assert_eq!(part.exists(), whole.exists(), "{story}");
            }
            if let Some(copy) = copy_after(before.as_ref(), &part.delta()) {
                let after = sorted(whole.record()).map(|(fields, _)| fields);
                assert_eq!(Some(copy), after, "the cached copy: {story}");
            }
            emptied += usize::from(part.replaced() && !part.cleared());
            changed += usize::from(matches!(part.delta(), Delta::Change { .. }));
            model.extend(whole.record().map(|record| (number, record.clone())));
            drafts.push(part);
        }
        house.finish(&asked, &rows, &drafts).await;
        for number in numbers {
            let stored = house.whole(number).await;
            // It may have run out meanwhile.
            let soon =
                |record: &Record| record.expires_at_ms.is_some_and(|at| at < now_ms + 60_000);
            let expected = model.get(&number);
            if stored.is_some() || !expected.is_some_and(soon) {
                let story = format!("{kind:?}, seed {seed}, turn {turn}, key {number}");
                assert_eq!(sorted(stored.as_ref()), sorted(expected), "{story}");
            }
        }
    }
    // What matters has come about.
    assert!(emptied > 0 && expired > 5 && of_large > 50, "{emptied} {expired} {of_large}");
    assert!(changed > 50, "{changed}");
}

#[tokio::test]
async fn batches_on_sets_leave_what_redis_would_hold() {
    for seed in 1..=3 {
        batches_leave_what_redis_would_hold(Kind::Set, seed).await;
    }
}

#[tokio::test]
async fn batches_on_entries_leave_what_redis_would_hold() {
    for seed in 4..=6 {
        batches_leave_what_redis_would_hold(Kind::HashEntries, seed).await;
    }
}

#[tokio::test]
async fn what_is_read_in_part_belongs_to_the_whole() {
    let mut house = House::new(Kind::Set).await;
    house.execute("insert into members select 1, 'm' || n from generate_series(0, 999) as n").await;
    house.execute("insert into members select 2, 'm' || n from generate_series(0, 9) as n").await;
    let mut random = Random::new(11);
    for _ in 0..300 {
        let (number, size) = random.pick(&[(1, 1000), (2, 10), (3, 0)]);
        let fields: Vec<Bytes> =
            (0..random.below(4)).map(|_| format!("m{}", random.below(1200)).into()).collect();
        let (whole, count) = (random.below(6) == 0, random.below(3) == 0);
        let sample = random.pick(&[0, 0, 1, 7, 600, usize::MAX]);
        let mut wanted = vec![Need::Existence, Need::Sample(sample), Need::Fields(fields.clone())];
        wanted.extend(whole.then_some(Need::Whole));
        wanted.extend(count.then_some(Need::Count));
        let whole_up_to = random.pick(&[0, 9, 10, 999, 1000]);
        let needs = needs(wanted);
        let record = house.read(number, &needs, whole_up_to).await;
        let story = format!("{number}, {needs:?}, {whole_up_to}: {record:?}");
        let Some(record) = record else {
            assert_eq!(size, 0, "{story}");
            continue;
        };
        if whole || size <= whole_up_to {
            assert_eq!((record.fields.len(), record.others), (size, 0), "{story}");
        } else {
            let missing = size - record.fields.len();
            assert_eq!(record.others > 0, missing > 0, "{story}");
            assert!(record.others <= missing && (!count || record.others == missing), "{story}");
            let drawn = if sample == 0 { 0 } else { sample.saturating_add(needs.fields.len()) };
            assert_eq!(record.sample.len(), drawn.min(size), "{story}");
        }
        let different: BTreeSet<&Bytes> = record.sample.iter().collect();
        assert_eq!(different.len(), record.sample.len(), "{story}");
        assert!(record.sample.iter().all(|name| record.fields.contains_key(name)), "{story}");
        for name in &fields {
            let place: usize = String::from_utf8_lossy(&name[1..]).parse().unwrap();
            assert_eq!(record.fields.contains_key(name), place < size, "{story}");
        }
    }
}

#[tokio::test]
async fn a_value_is_read_as_of_one_moment() {
    let mut house = House::new(Kind::Set).await;
    house.execute("insert into members select 1, 'm' || n from generate_series(0, 999) as n").await;
    // All of a thousand members, or all of the next thousand: never some of both.
    let mut sql = house.another_connection().await;
    let writing = async move {
        let end = Instant::now() + Duration::from_secs(2);
        let mut turns = 0;
        while Instant::now() < end {
            for (old, new) in [("m", "n"), ("n", "m")] {
                let change = format!(
                    "begin; delete from members where member like '{old}%'; \
                     insert into members select 1, '{new}' || n from generate_series(0, 999) as n; \
                     commit"
                );
                sql.execute(sqlx::raw_sql(AssertSqlSafe(change))).await.unwrap();
                turns += 1;
            }
        }
        turns
    };
    let mut writer = tokio::task::JoinSet::new();
    writer.spawn(writing);
    let names = |letter: &str| (0..500).map(|at| format!("{letter}{at}").into()).collect();
    let mut seen = BTreeSet::new();
    let turns = loop {
        if let Some(turns) = writer.try_join_next() {
            break turns.unwrap();
        }
        for whole_up_to in [0, 1000] {
            let wanted = needs([Need::Fields(names("m")), Need::Sample(200), Need::Count]);
            let record = house.read(1, &wanted, whole_up_to).await.unwrap();
            let letters: BTreeSet<u8> = record.fields.keys().map(|name| name[0]).collect();
            assert_eq!(letters.len(), 1, "{letters:?}");
            assert_eq!(record.len(), 1000);
            seen.extend(letters);
        }
    };
    assert!(turns > 10 && seen.len() == 2, "{turns} {seen:?}");
}

#[tokio::test]
async fn a_batch_of_reads_takes_along_no_more_than_it_may() {
    let mut house = House::new(Kind::Set).await;
    let fill = "insert into members select id, 'm' || n \
                from generate_series(0, 19) as id, generate_series(1, 9000) as n";
    house.execute(fill).await;
    let keys: Vec<MappedKey> = (0..20).map(|number| house.key(number)).collect();
    let needs = needs([Need::Fields(vec!["m7".into()])]);
    let wants: Vec<Want<'_>> =
        keys.iter().map(|key| Want { key, needs: &needs, whole_up_to: 10_000 }).collect();
    let read = house.session.read_parts(&house.mapping, &wants, RowLock::None).await.unwrap();
    let records: Vec<Record> = read.rows.into_iter().map(|row| row.record.unwrap()).collect();
    assert!(records.iter().all(|record| record.fields.contains_key(&b"m7"[..])));
    // As many as have room, and of the others what was asked for.
    let whole = records.iter().filter(|record| record.others == 0);
    assert_eq!(whole.map(Record::len).collect::<Vec<_>>(), [9000; 11]);
    assert_eq!(records.iter().filter(|record| record.fields.len() == 1).count(), 9);
}

#[tokio::test]
async fn a_row_that_sql_has_just_added_survives_the_removal_of_the_last_known_one() {
    let mut house = House::new(Kind::Set).await;
    house.execute("insert into members values (1, 'a')").await;
    for (request, left) in [("SREM k a", 1), ("DEL k", 0)] {
        let request = words(request);
        let asked = [(house.key(1), needs([need(&request)]))];
        let (now_ms, rows) = house.begin(&asked).await;
        house.execute("insert into members values (1, 'b') on conflict do nothing").await;
        let mut draft = Draft::new(ValueKind::Set, rows[0].record.clone());
        assert_eq!(run(&request, &mut draft, now_ms), Reply::Integer(1));
        house.finish(&asked, &rows, &[draft]).await;
        assert_eq!(house.count("select count(*) from members").await, left);
    }
}

#[tokio::test]
async fn an_expiry_is_looked_up_by_its_key_however_many_there_are() {
    let mut house = House::new(Kind::Set).await;
    let asked: Vec<(MappedKey, Needs)> =
        (0..500).map(|number| (house.key(number), needs([Need::Existence]))).collect();
    let replace = async |house: &mut House| {
        let (_, rows) = house.begin(&asked).await;
        let draft = |row: &StoredRow| {
            let mut draft = Draft::new(ValueKind::Set, row.record.clone());
            draft.delete();
            draft.set("m".into(), Bytes::new());
            draft
        };
        let drafts: Vec<Draft> = rows.iter().map(draft).collect();
        house.finish(&asked, &rows, &drafts).await;
    };
    // Plans are made while there is hardly anything.
    house.execute("vacuum analyze respgres.expiry").await;
    replace(&mut house).await;
    let many = "insert into respgres.expiry select 'things', ('other:' || n)::bytea, '2100-01-01' \
                from generate_series(1, 300000) as n";
    house.execute(many).await;
    replace(&mut house).await;
    house.session.apply("select pg_stat_force_next_flush()").await.unwrap();
    let read =
        "select sum(idx_tup_read)::bigint from pg_stat_user_indexes where relname = 'expiry'";
    let read = house.count(read).await;
    assert!(read < 10_000, "{read}");
    assert_eq!(house.count("select count(*) from respgres.expiry").await, 300_000);
}

#[tokio::test]
async fn elements_are_looked_up_by_their_keys_however_many_there_are() {
    let mut house = House::new(Kind::Set).await;
    let wanted = needs([Need::Fields(vec!["m".into()]), Need::Sample(1)]);
    let asked: Vec<(MappedKey, Needs)> =
        (0..500).map(|number| (house.key(number), wanted.clone())).collect();
    // Plans are made while there is hardly anything.
    house.execute("vacuum analyze members").await;
    for members in [0, 100_000] {
        let many =
            format!("insert into members select n, 'm' from generate_series(1, {members}) as n");
        house.execute(&many).await;
        house.begin(&asked).await;
        house.session.rollback().await.unwrap();
        let keys: Vec<Want<'_>> =
            asked.iter().map(|(key, needs)| Want { key, needs, whole_up_to: 10 }).collect();
        house.session.read_parts(&house.mapping, &keys, RowLock::None).await.unwrap();
    }
    house.session.apply("select pg_stat_force_next_flush()").await.unwrap();
    let read =
        "select sum(idx_tup_read)::bigint from pg_stat_user_indexes where relname = 'members'";
    let read = house.count(read).await;
    assert!((500..20_000).contains(&read), "{read}");
}

#[tokio::test]
async fn elements_are_changed_by_their_keys_however_many_there_are() {
    let mut house = House::new(Kind::Set).await;
    // Plans are made while there is nothing.
    house.execute("vacuum analyze members").await;
    let fields = ["a", "b"].map(|member| (Bytes::from(member), Bytes::new()));
    let record =
        Record { kind: ValueKind::Set, fields: fields.into_iter().collect(), ..Record::default() };
    for members in [0, 100_000] {
        let many =
            format!("insert into members select n, 'a' from generate_series(2, {members}) as n");
        house.execute(&many).await;
        for request in ["SREM k a", "DEL k"] {
            let request = words(request);
            let asked = [(house.key(1), needs([need(&request)]))];
            house.session.begin_locked(&[asked[0].0.lock()]).await.unwrap();
            let rows = [StoredRow { present: true, record: Some(record.clone()) }];
            let mut draft = Draft::new(ValueKind::Set, rows[0].record.clone());
            run(&request, &mut draft, 0);
            house.finish(&asked, &rows, &[draft]).await;
        }
    }
    house.session.apply("select pg_stat_force_next_flush()").await.unwrap();
    let read =
        "select sum(idx_tup_read)::bigint from pg_stat_user_indexes where relname = 'members'";
    let read = house.count(read).await;
    assert!(read < 1000, "{read}");
}

#[tokio::test]
async fn columns_that_cannot_tell_elements_apart_are_refused() {
    let mut house = House::new(Kind::Set).await;
    for (table, told) in [
        (
            "create table members (id bigint, member numeric, primary key (id, member))",
            "member: column \"member\" is numeric, to which different texts are equal",
        ),
        (
            "create table members (id bigint, member text, unique (id, member))",
            "ALTER COLUMN \"member\" SET NOT NULL",
        ),
        (
            "create table members (id bigint, member text, primary key (member, id))",
            "on exactly (id, member), with \"member\" last; CREATE UNIQUE INDEX ON \"members\" (id, member)",
        ),
        (
            "create table members (id bigint primary key, member text not null)",
            "no primary key or unique index (immediate, not partial) on exactly (id, member)",
        ),
    ] {
        house.execute("drop table members").await;
        house.execute(table).await;
        let shape = house.session.table_shape(&TableName::parse("members")).await.unwrap();
        let problems = Layout::bind(&plan(Kind::Set), shape.as_ref()).unwrap_err();
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(problems[0].to_string().contains(told), "{}", problems[0]);
    }
    house.execute("create unique index on members (id, member)").await;
    let shape = house.session.table_shape(&TableName::parse("members")).await.unwrap();
    Layout::bind(&plan(Kind::Set), shape.as_ref()).unwrap();
}
