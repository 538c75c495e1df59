//! Rows of mapped hashes in a real Postgres: what is written is read, by us and by SQL.

#![allow(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

mod stack;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use respgres::command::{Need, Needs};
use respgres::config::{self, FieldColumn, Kind, OnExpire, Strategy};
use respgres::mapping::registry::Plan;
use respgres::mapping::shape::TableName;
use respgres::mapping::{KeyPattern, Layout, MappedKey, Mapping};
use respgres::store::sole::Work;
use respgres::store::{Change, Reading, RowLock, Session, StoreError, StoredRow, Want, schema};
use respgres::value::{Draft, Record, ValueKind};
use sqlx::{AssertSqlSafe, Executor, PgConnection};
use stack::Cluster;

const TABLE: &str = "create table things (
    id uuid primary key, name text, tokens bigint, cost numeric, active boolean not null default true,
    seen timestamptz, doc json, raw bytea, code varchar(4) unique, extra jsonb, gone_at timestamptz,
    note text default 'by SQL')";

const FIELDS: [(&str, &str); 8] = [
    ("name", "name"),
    ("tokens", "tokens"),
    ("cost", "cost"),
    ("isActive", "active"),
    ("seenAt", "seen"),
    ("doc", "doc"),
    ("raw", "raw"),
    ("code", "code"),
];

/// Ends all sessions of respgres; how many.
const TERMINATE: &str = "select count(pg_terminate_backend(pid)) from pg_stat_activity
    where application_name = 'respgres' and datname = current_database()";

/// A database with the table, a session on it, and a connection of an SQL user.
struct House {
    cluster: Arc<Cluster>,
    database: String,
    session: Session,
    sql: PgConnection,
    mapping: Arc<Mapping>,
}

impl House {
    async fn new() -> Self {
        Self::with(plan(|_| {}), TABLE).await
    }

    async fn with(plan: Plan, tables: &str) -> Self {
        let cluster = Cluster::shared().await;
        let database = cluster.create_database().await;
        let mut sql = cluster.connect(&database).await;
        sql.execute(sqlx::raw_sql(AssertSqlSafe(tables.to_owned()))).await.unwrap();
        sql.execute("set timezone = 'UTC'").await.unwrap();
        let mut session = Session::connect(&postgres(cluster.url(&database))).await.unwrap();
        session.migrate().await.unwrap();
        let mapping = bind(&mut session, &plan).await;
        Self { cluster, database, session, sql, mapping }
    }

    async fn another_session(&self) -> Session {
        Session::connect(&postgres(self.cluster.url(&self.database))).await.unwrap()
    }

    fn key(&self, number: u32) -> MappedKey {
        let key = Bytes::from(format!("thing:{}", id(number)));
        let captures = self.mapping.pattern.captures(&key).unwrap();
        MappedKey { mapping: Arc::clone(&self.mapping), key, captures, pass: None }
    }

    async fn read(&mut self, number: u32) -> StoredRow {
        let key = self.key(number);
        let read = self.session.read(&self.mapping, &[&key], RowLock::None).await.unwrap();
        read.rows.into_iter().next().unwrap()
    }

    async fn fields(&mut self, number: u32) -> Vec<(String, String)> {
        let Some(record) = self.read(number).await.record else { return Vec::new() };
        let text = |bytes: &Bytes| String::from_utf8_lossy(bytes).into_owned();
        record.fields.iter().map(|(field, value)| (text(field), text(value))).collect()
    }

    /// Reads and changes one key as the engine does, in a transaction of its own.
    async fn change(
        &mut self,
        number: u32,
        change: impl FnOnce(&mut Draft),
    ) -> Result<(), StoreError> {
        let key = self.key(number);
        self.session.begin_locked(&[key.lock()]).await?;
        let mut rows = self.session.read(&self.mapping, &[&key], RowLock::ForUpdate).await?.rows;
        let row = rows.remove(0);
        let mut draft = Draft::new(ValueKind::Hash, row.record);
        change(&mut draft);
        let change = Change { key: &key, present: row.present, draft: &draft };
        let written = self.session.write(&self.mapping, &[change]).await;
        match written {
            Ok(()) => self.session.commit().await,
            Err(error) => {
                self.session.rollback().await?;
                Err(error)
            }
        }
    }

    async fn set(&mut self, number: u32, fields: &[(&'static str, &'static str)]) {
        let fields = fields.to_vec();
        let set = |draft: &mut Draft| {
            for (field, value) in fields {
                draft.set(field.into(), value.into());
            }
        };
        self.change(number, set).await.unwrap();
    }

    async fn execute(&mut self, sql: &str) {
        self.sql.execute(AssertSqlSafe(sql.to_owned())).await.unwrap();
    }

    async fn text(&mut self, sql: &str) -> Option<String> {
        let sql = format!("select ({sql})::text");
        sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(&mut self.sql).await.unwrap()
    }
}

fn put(draft: &mut Draft, field: &'static str, value: &'static str) {
    draft.set(field.into(), value.into());
}

fn id(number: u32) -> String {
    format!("00000000-0000-4000-8000-{number:012x}")
}

fn plan(adjust: impl FnOnce(&mut config::Mapping)) -> Plan {
    let column = |(field, column): &(&str, &str)| FieldColumn {
        field: (*field).into(),
        column: (*column).into(),
        format: None,
        column_type: None,
    };
    let mut mapping = config::Mapping {
        name: "things".into(),
        key: "thing:{id:uuid}".into(),
        exclude: Vec::new(),
        kind: Kind::Hash,
        table: "things".into(),
        strategy: Strategy::DualWrite,
        cache_ttl_ms: 1000,
        negative_ttl_ms: 1000,
        on_expire: OnExpire::Delete,
        on_postgres_down: None,
        expires_at: Some("gone_at".into()),
        extra: Some("extra".into()),
        key_columns: BTreeMap::new(),
        columns: FIELDS.iter().map(column).collect(),
        element: None,
        value: None,
    };
    adjust(&mut mapping);
    let pattern = KeyPattern::parse(&mapping.key).unwrap();
    Plan { index: 0, config: mapping, pattern }
}

async fn bind(session: &mut Session, plan: &Plan) -> Arc<Mapping> {
    let shape = session.table_shape(&TableName::parse(&plan.config.table)).await.unwrap();
    let layout =
        Layout::bind(plan, shape.as_ref()).unwrap_or_else(|problems| panic!("{problems:?}"));
    Arc::new(Mapping {
        index: plan.index,
        name: plan.config.name.clone(),
        pattern: plan.pattern.clone(),
        gate: respgres::mapping::Gate::new(plan.config.strategy, false),
        cache_ttl_ms: 1000,
        negative_ttl_ms: 1000,
        on_expire: OnExpire::Delete,
        on_postgres_down: Some(respgres::config::OnPostgresDown::RedisOnly),
        layout,
    })
}

fn postgres(url: String) -> config::Postgres {
    config::Postgres {
        url,
        writers: 1,
        readers: 2,
        streams: 1,
        stream_timeout_ms: 60_000,
        batch_operations: 1000,
        connect_timeout_ms: 10_000,
        statement_timeout_ms: 10_000,
    }
}

fn pairs(fields: &[(&str, &str)]) -> Vec<(String, String)> {
    fields.iter().map(|(field, value)| ((*field).to_owned(), (*value).to_owned())).collect()
}

#[tokio::test]
async fn a_hash_is_a_typed_row() {
    let mut house = House::new().await;
    let fields = [
        ("name", "demo"),
        ("tokens", "5"),
        ("cost", "1.50"),
        ("isActive", "false"),
        ("seenAt", "2026-11-20T22:20:35.142Z"),
        ("doc", "{\"a\":1,  \"b\":[]}"),
        ("raw", "bytes"),
        ("code", "ab"),
    ];
    house.set(1, &fields).await;
    assert_eq!(house.fields(1).await, pairs(&fields));
    let row =
        house.text("select row(name, tokens, cost, active, seen, doc, code, extra) from things");
    let expected = r#"(demo,5,1.50,f,"2026-11-20 22:20:35.142+00","{""a"":1,  ""b"":[]}",ab,)"#;
    assert_eq!(row.await.as_deref(), Some(expected));
}

#[tokio::test]
async fn odd_bytes_come_back_until_sql_changes_the_column() {
    let mut house = House::new().await;
    let fields = [
        ("tokens", "+05"),
        ("cost", "1e-7"),
        ("isActive", "TRUE"),
        ("seenAt", "2030-01-01"),
        ("doc", "not json"),
        ("code", "too long"),
        ("other", "no column"),
    ];
    house.set(1, &fields).await;
    assert_eq!(house.fields(1).await, pairs(&fields));
    let row = house.text("select row(tokens, cost, active, seen, doc, code) from things").await;
    assert_eq!(row.as_deref(), Some("(5,0.0000001,t,\"2030-01-01 00:00:00+00\",,)"));

    house.execute("update things set tokens = 6, doc = '[]', active = false, note = 'x'").await;
    let fields = [
        ("tokens", "6"),
        ("cost", "1e-7"),
        ("isActive", "false"),
        ("seenAt", "2030-01-01"),
        ("doc", "[]"),
        ("code", "too long"),
        ("other", "no column"),
    ];
    assert_eq!(house.fields(1).await, pairs(&fields));

    house.set(1, &[("tokens", "7"), ("cost", "2")]).await;
    let extra = house.text("select extra - 'doc' from things").await.unwrap();
    assert!(!extra.contains("tokens") && !extra.contains("cost"), "{extra}");
    assert_eq!(house.text("select note from things").await.as_deref(), Some("x"));
}

#[tokio::test]
async fn what_sql_put_into_a_row_stays_when_other_fields_are_written() {
    let mut house = House::new().await;
    house.set(1, &[("name", "a")]).await;
    let sql = "update things set seen = 'infinity', cost = 'NaN', doc = '{\"deep\" : 1}',
               extra = '{\"n\": 1.50, \"nested\": {\"x\": null}, \"tokens\": \"5\"}'";
    house.execute(sql).await;
    house.set(1, &[("name", "b"), ("own", "1")]).await;
    let expected = [
        ("name", "b"),
        ("cost", "NaN"),
        ("isActive", "true"),
        ("seenAt", "infinity"),
        ("doc", "{\"deep\" : 1}"),
        ("n", "1.50"),
        ("nested", "{\"x\":null}"),
        ("own", "1"),
    ];
    assert_eq!(house.fields(1).await, pairs(&expected));
    let extra = house.text("select extra from things").await;
    let expected = r#"{"n": 1.50, "own": "1", "nested": {"x": null}, "tokens": "5"}"#;
    assert_eq!(extra.as_deref(), Some(expected));
}

#[tokio::test]
async fn a_deleted_and_a_removed_field_are_gone() {
    let mut house = House::new().await;
    house.set(1, &[("name", "a"), ("tokens", "x"), ("other", "1"), ("ot\"h\\er", "2")]).await;
    house
        .change(1, |draft| {
            for field in ["name", "tokens", "ot\"h\\er"] {
                assert!(draft.remove(field.as_bytes()));
            }
        })
        .await
        .unwrap();
    assert_eq!(house.fields(1).await, pairs(&[("isActive", "true"), ("other", "1")]));
    house.change(1, |draft| assert!(draft.delete())).await.unwrap();
    assert_eq!(house.text("select count(*) from things").await.as_deref(), Some("0"));

    house.set(1, &[("name", "a"), ("other", "1")]).await;
    let again = |draft: &mut Draft| {
        draft.delete();
        draft.set("tokens".into(), "1".into());
    };
    house.change(1, again).await.unwrap();
    assert_eq!(
        house.text("select name is null and extra is null from things").await.as_deref(),
        Some("true")
    );
}

#[tokio::test]
async fn an_expired_row_is_absent_and_forgets_its_values_when_written_again() {
    for column in [true, false] {
        let adjust = |mapping: &mut config::Mapping| {
            mapping.expires_at = mapping.expires_at.take().filter(|_| column);
        };
        let mut house = House::with(plan(adjust), TABLE).await;
        house.set(1, &[("name", "a"), ("other", "1")]).await;
        let far = 4_000_000_000_123;
        house.change(1, |draft| draft.set_expires_at_ms(Some(far))).await.unwrap();
        let row = house.read(1).await;
        assert_eq!(row.record.unwrap().expires_at_ms, Some(far));
        house.set(1, &[("tokens", "1")]).await;
        assert_eq!(house.read(1).await.record.unwrap().expires_at_ms, Some(far));

        house.change(1, |draft| draft.set_expires_at_ms(Some(1000))).await.unwrap();
        assert_eq!(house.read(1).await, StoredRow { present: true, record: None });
        house.set(1, &[("code", "z")]).await;
        let row = house.read(1).await.record.unwrap();
        assert_eq!(row.expires_at_ms, None);
        let expected = pairs(&[("isActive", "true"), ("code", "z")]);
        assert_eq!(house.fields(1).await, expected);

        // An expiry does not outlive its row.
        house.change(1, |draft| draft.set_expires_at_ms(Some(1000))).await.unwrap();
        house.execute("delete from things").await;
        house.set(1, &[("name", "new")]).await;
        assert_eq!(house.read(1).await.record.unwrap().expires_at_ms, None);
        house.change(1, |draft| draft.set_expires_at_ms(Some(i64::MAX))).await.unwrap();
        assert_eq!(house.read(1).await.record.unwrap().expires_at_ms, None);
        house.change(1, |draft| assert!(draft.delete())).await.unwrap();
        let left = house.text("select count(*) from respgres.expiry").await;
        assert_eq!(left.as_deref(), Some("0"));
    }
}

#[tokio::test]
async fn what_postgres_refuses_is_named_and_nothing_is_written() {
    let mut house = House::new().await;
    house.set(1, &[("code", "a")]).await;
    let refused = house.change(2, |draft| put(draft, "code", "a")).await;
    match refused {
        Err(StoreError::Refused { code, constraint, .. }) => {
            assert_eq!((code.as_str(), constraint.as_deref()), ("23505", Some("things_code_key")));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(house.read(2).await, StoredRow::default());
    let refused = house.change(1, |draft| assert!(draft.remove(b"isActive"))).await;
    match refused {
        Err(StoreError::Refused { code, column, .. }) => {
            assert_eq!((code.as_str(), column.as_deref()), ("23502", Some("active")));
        }
        other => panic!("{other:?}"),
    }
    let refused = house.change(1, |draft| put(draft, "isActive", "")).await;
    assert!(
        matches!(&refused, Err(StoreError::Unencodable(why)) if why.field == "isActive"),
        "{refused:?}"
    );
    assert!(!house.session.is_broken());
    house.set(1, &[("name", "still works")]).await;
}

#[tokio::test]
async fn a_row_that_appears_or_goes_meanwhile_is_a_race() {
    let mut house = House::new().await;
    let key = house.key(1);
    let mut draft = Draft::new(ValueKind::Hash, None);
    draft.set("name".into(), "a".into());
    let insert = Change { key: &key, present: false, draft: &draft };
    house.execute(&format!("insert into things (id, name) values ('{}', 'sql')", id(1))).await;
    house.session.begin_locked(&[key.lock()]).await.unwrap();
    let raced = house.session.write(&house.mapping, &[insert]).await;
    assert!(matches!(raced, Err(StoreError::Raced)), "{raced:?}");
    house.session.rollback().await.unwrap();

    house.execute("delete from things").await;
    let update = Change { present: true, ..insert };
    house.session.begin_locked(&[key.lock()]).await.unwrap();
    let raced = house.session.write(&house.mapping, &[update]).await;
    assert!(matches!(raced, Err(StoreError::Raced)), "{raced:?}");
    house.session.rollback().await.unwrap();
}

#[tokio::test]
async fn a_writers_lock_is_seen_by_the_probe_and_stops_other_writers() {
    let mut house = House::new().await;
    let mut other = house.another_session().await;
    let locks = [i64::MIN, -5, 7, i64::MAX];
    house.session.begin_locked(&[-5, i64::MAX]).await.unwrap();
    let (free, _) = other.read_probed(&locks, &[]).await.unwrap();
    assert_eq!(free, [true, false, true, false]);
    house.session.commit().await.unwrap();
    let (free, _) = other.read_probed(&locks, &[]).await.unwrap();
    assert_eq!(free, [true; 4]);
    // The probe's locks have gone with its transaction.
    house.session.begin_locked(&[7]).await.unwrap();
    let waiting = other.begin_locked(&[7]);
    let waits = tokio::time::timeout(std::time::Duration::from_millis(100), waiting).await;
    assert!(waits.is_err(), "the writer's lock is not held");
    assert!(other.is_broken(), "a call that was given up leaves its session broken");
    house.session.rollback().await.unwrap();
}

#[tokio::test]
async fn a_probed_lock_is_held_until_the_rows_are_read() {
    let mut house = House::new().await;
    let mut other = house.another_session().await;
    let key = house.key(1);
    let needs = Needs { whole: true, ..Needs::default() };
    let mapping = Arc::clone(&house.mapping);
    let want = Want { key: &key, needs: &needs, whole_up_to: 0 };
    let readings = [Reading { mapping: &mapping, wants: vec![want] }];
    let locks = [key.lock()];
    other.read_probed(&locks, &readings).await.unwrap();
    house.execute("begin; lock table things in access exclusive mode").await;
    let probing = other.read_probed(&locks, &readings);
    let looking = async {
        // The server has other databases, with other tests in them.
        let waiting =
            "select count(*) from pg_locks as l join pg_database as d on d.oid = l.database
                       where not l.granted and d.datname = current_database()";
        while house.text(waiting).await.as_deref() != Some("1") {
            tokio::task::yield_now().await;
        }
        let taken = format!("select pg_try_advisory_xact_lock({})", key.lock());
        assert_eq!(house.text(&taken).await.as_deref(), Some("false"), "the probe is not held");
        house.execute("commit").await;
    };
    let (probed, ()) = tokio::join!(probing, looking);
    assert_eq!(probed.unwrap().0, [true]);
}

#[tokio::test]
async fn what_is_written_with_commit_is_committed_or_was_not_written() {
    let mut house = House::new().await;
    house.set(1, &[("code", "a")]).await;
    let draft = |code: &'static str| {
        let mut draft = Draft::new(ValueKind::Hash, None);
        draft.set("code".into(), code.into());
        draft
    };
    let key = house.key(2);
    let mapping = Arc::clone(&house.mapping);
    for (code, present, expected) in
        [("a", false, "Refused"), ("b", true, "Raced"), ("b", false, ""), ("c", false, "Raced")]
    {
        let draft = draft(code);
        let change = [Change { key: &key, present, draft: &draft }];
        house.session.begin_locked(&[key.lock()]).await.unwrap();
        let written = house.session.write_and_commit(&[(&mapping, &change)]).await;
        let told = written.map_or_else(|error| format!("{error:?}"), |()| String::new());
        assert!(told.starts_with(expected) && told.is_empty() == expected.is_empty(), "{told}");
    }
    assert_eq!(house.fields(2).await, pairs(&[("isActive", "true"), ("code", "b")]));
    // It is COMMIT that fails.
    house
        .execute(
            "alter table things add constraint late unique (name) deferrable initially deferred",
        )
        .await;
    house.set(1, &[("name", "taken")]).await;
    let mut draft = Draft::new(ValueKind::Hash, house.read(2).await.record);
    draft.set("name".into(), "taken".into());
    let change = [Change { key: &key, present: true, draft: &draft }];
    house.session.begin_locked(&[key.lock()]).await.unwrap();
    let written = house.session.write_and_commit(&[(&mapping, &change)]).await;
    assert!(matches!(written, Err(StoreError::Refused { .. })), "{written:?}");
    house.set(2, &[("name", "free")]).await;
    // Nobody knows what becomes of what was sent over a connection that is lost.
    house.session.begin_locked(&[key.lock()]).await.unwrap();
    house.text(TERMINATE).await;
    let written = house.session.write_and_commit(&[(&mapping, &change)]).await;
    assert!(matches!(written, Err(StoreError::InDoubt(_))), "{written:?}");
}

#[tokio::test]
async fn a_connection_lost_while_committing_leaves_doubt() {
    let mut house = House::new().await;
    house.session.begin_locked(&[1]).await.unwrap();
    assert_eq!(house.text(TERMINATE).await.as_deref(), Some("1"));
    let doubt = house.session.commit().await;
    assert!(matches!(doubt, Err(StoreError::InDoubt(_))), "{doubt:?}");
    assert!(house.session.is_broken());
    let after = house.session.begin_locked(&[1]).await;
    assert!(matches!(after, Err(StoreError::Unreachable(_))), "{after:?}");
}

#[tokio::test]
async fn a_lock_that_takes_too_long_is_given_up() {
    let house = House::new().await;
    let mut holder = house.another_session().await;
    holder.begin_locked(&[1]).await.unwrap();
    let url = house.cluster.url(&house.database);
    let config = config::Postgres { statement_timeout_ms: 50, ..postgres(url) };
    let mut session = Session::connect(&config).await.unwrap();
    let late = session.begin_locked(&[1]).await;
    assert!(matches!(late, Err(StoreError::Timeout(_))), "{late:?}");
    assert!(!session.is_broken());
    session.begin_locked(&[2]).await.unwrap();
    session.commit().await.unwrap();
}

#[tokio::test]
async fn a_failed_transaction_does_not_commit() {
    let mut house = House::new().await;
    house.set(1, &[("code", "a")]).await;
    let (one, two) = (house.key(2), house.key(3));
    let draft = |code: &'static str| {
        let mut draft = Draft::new(ValueKind::Hash, None);
        draft.set("code".into(), code.into());
        draft
    };
    let (good, bad) = (draft("b"), draft("a"));
    let changes = [
        Change { key: &two, present: false, draft: &bad },
        Change { key: &one, present: false, draft: &good },
    ];
    house.session.begin_locked(&[1]).await.unwrap();
    house.session.write(&house.mapping, &changes).await.unwrap_err();
    house.session.commit().await.unwrap_err();
    assert_eq!(house.text("select count(*) from things").await.as_deref(), Some("1"));
}

#[tokio::test]
async fn a_changed_table_is_noticed_and_read_again() {
    let mut house = House::new().await;
    house.set(1, &[("name", "a"), ("tokens", "1")]).await;
    house.execute("alter table things alter tokens type text, drop column raw").await;
    let key = house.key(1);
    let changed = house.session.read(&house.mapping, &[&key], RowLock::None).await;
    assert!(matches!(changed, Err(StoreError::LayoutChanged { .. })), "{changed:?}");
    house.execute("alter table things add raw bytea").await;
    house.mapping = bind(&mut house.session, &plan(|_| {})).await;
    house.set(1, &[("tokens", "any text")]).await;
    let expected = pairs(&[("name", "a"), ("tokens", "any text"), ("isActive", "true")]);
    assert_eq!(house.fields(1).await, expected);
}

#[tokio::test]
async fn a_key_out_of_its_columns_range_is_absent_and_refused() {
    let numbers = |mapping: &mut config::Mapping| {
        mapping.key = "thing:{id:int}".into();
        mapping.columns.truncate(1);
        mapping.expires_at = None;
    };
    let table = "create table things (id integer primary key, name text, extra jsonb)";
    let mut house = House::with(plan(numbers), table).await;
    let keys: Vec<_> = ["thing:9999999999", "thing:7"]
        .map(|text| {
            let key = Bytes::from(text);
            let captures = house.mapping.pattern.captures(&key).unwrap();
            MappedKey { mapping: Arc::clone(&house.mapping), key, captures, pass: None }
        })
        .into();
    house.execute("insert into things values (7, 'seven')").await;
    let both = [&keys[0], &keys[1]];
    let read = house.session.read(&house.mapping, &both, RowLock::None).await.unwrap();
    assert_eq!(read.rows[0], StoredRow::default());
    assert!(read.rows[1].record.is_some());
    let mut draft = Draft::new(ValueKind::Hash, None);
    draft.set("name".into(), "x".into());
    let change = Change { key: &keys[0], present: false, draft: &draft };
    house.session.begin_locked(&[]).await.unwrap();
    let refused = house.session.write(&house.mapping, &[change]).await;
    assert!(matches!(refused, Err(StoreError::Unencodable(_))), "{refused:?}");
    house.session.rollback().await.unwrap();
}

#[tokio::test]
async fn batches_of_any_changes_leave_what_redis_would_hold() {
    let not_null = TABLE.replace("extra jsonb", "extra jsonb not null default '{}'");
    for (seed, column, table) in [(1, true, TABLE), (2, false, TABLE), (3, true, &not_null)] {
        let adjust = |mapping: &mut config::Mapping| {
            mapping.expires_at = mapping.expires_at.take().filter(|_| column);
        };
        let table = table.replace("active boolean not null default true", "active boolean");
        let table = table.replace(" unique", "");
        let mut house = House::with(plan(adjust), &table).await;
        check_batches(&mut house, seed).await;
    }
}

async fn check_batches(house: &mut House, seed: u64) {
    let mut state = seed;
    let mut random = |bound: usize| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(state >> 33).unwrap() % bound
    };
    let values: [&[u8]; 14] = [
        b"",
        b"5",
        b"+5",
        b"1.50",
        b"true",
        b"TRUE",
        b"2030-01-01",
        b"2026-11-20T22:20:35.142Z",
        b"{\"a\":1}",
        b"a\0b",
        b"\xff",
        b"text",
        b"longer text",
        b"{\"base64\":\"eA==\"}",
    ];
    let others: [&[u8]; 5] = [b"x", b"", b"nul\0", b"base64:eA==", b"q\"\\,{}"];
    let mut model: HashMap<u32, Record> = HashMap::new();
    for batch in 0..120 {
        let most = if batch % 3 == 0 { 1 } else { 20 };
        let mut numbers: Vec<u32> = (0..1 + random(most)).map(|_| random(30) as u32).collect();
        numbers.sort_unstable();
        numbers.dedup();
        let keys: Vec<_> = numbers.iter().map(|number| house.key(*number)).collect();
        let keys: Vec<&MappedKey> = keys.iter().rev().collect();
        numbers.reverse();
        let mut locks: Vec<i64> = keys.iter().map(|key| key.lock()).collect();
        locks.sort_unstable();
        let mut change = || {
            let field = match random(13) {
                place @ 0..8 => Bytes::from(FIELDS[place].0),
                place => Bytes::from_static(others[place - 8]),
            };
            match random(12) {
                0 => Step::Delete,
                1 | 2 => Step::Remove(field),
                3 => Step::Expire(Some(4_000_000_000_000 + random(9) as i64)),
                4 => Step::Expire(None),
                _ => Step::Set(field, Bytes::from_static(values[random(values.len())])),
            }
        };
        let steps: Vec<Vec<Step>> = keys
            .iter()
            .enumerate()
            .map(|(at, _)| (0..at % 5).map(|_| change()).collect())
            .collect();
        let steps: Vec<Vec<Step>> =
            if keys.len() == 1 { vec![vec![change(), change()]] } else { steps };
        let needs: Vec<Needs> = steps.iter().map(|steps| needs_of(steps)).collect();
        let want = |(&key, needs)| Want { key, needs, whole_up_to: 0 };
        let mapping = Arc::clone(&house.mapping);
        let reading =
            Reading { mapping: &mapping, wants: keys.iter().zip(&needs).map(want).collect() };
        let read = if batch % 2 == 0 {
            house.session.begin_reading(&locks, &[reading]).await.unwrap().remove(0)
        } else {
            house.session.begin_locked(&locks).await.unwrap();
            house.session.read(&mapping, &keys, RowLock::ForUpdate).await.unwrap()
        };
        assert!(read.now_ms > 1_700_000_000_000, "there is a clock, also without a row");
        let mut drafts = Vec::new();
        for (((number, row), steps), needs) in
            numbers.iter().zip(&read.rows).zip(&steps).zip(&needs)
        {
            let expected = model.remove(number);
            assert_eq!(row.record.is_some(), expected.is_some());
            if let (Some(expected), Some(record)) = (&expected, &row.record) {
                assert_eq!(record.expires_at_ms, expected.expires_at_ms);
                let is_asked =
                    |field: &Bytes| batch % 2 == 1 || needs.whole || needs.fields.contains(field);
                let mut asked = expected.fields.clone();
                asked.retain(|field, _| is_asked(field));
                asked.sort_keys();
                let mut fields = record.fields.clone();
                fields.sort_keys();
                assert_eq!(fields, asked);
                assert_eq!(record.others > 0, asked.len() < expected.fields.len());
            }
            let mut draft = Draft::new(ValueKind::Hash, row.record.clone());
            // What Redis would hold; it knows all.
            let mut true_draft = Draft::new(ValueKind::Hash, expected);
            for step in steps {
                assert_eq!(step.take(&mut draft), step.take(&mut true_draft), "{step:?}");
            }
            assert_eq!(draft.delta(), true_draft.delta());
            if let Some(record) = true_draft.record() {
                model.insert(*number, record.clone());
            }
            drafts.push(draft);
        }
        let changes: Vec<_> = keys
            .iter()
            .zip(&read.rows)
            .zip(&drafts)
            .map(|((key, row), draft)| Change { key, present: row.present, draft })
            .collect();
        house.session.write(&house.mapping, &changes).await.unwrap();
        house.session.commit().await.unwrap();
    }
    assert!(!model.is_empty());
}

/// What becomes of a draft.
#[derive(Debug)]
enum Step {
    Delete,
    Remove(Bytes),
    Expire(Option<i64>),
    Set(Bytes, Bytes),
}

impl Step {
    /// Takes it; what a client would be told.
    fn take(&self, draft: &mut Draft) -> bool {
        match self {
            Self::Delete => draft.delete(),
            Self::Remove(field) => draft.remove(field),
            Self::Expire(at_ms) => {
                draft.set_expires_at_ms(*at_ms);
                draft.exists()
            }
            Self::Set(field, value) => draft.set(field.clone(), value.clone()),
        }
    }
}

fn needs_of(steps: &[Step]) -> Needs {
    let mut needs = Needs::default();
    for step in steps {
        needs.add(match step {
            Step::Delete => Need::Existence,
            Step::Expire(_) => Need::Expiry,
            Step::Remove(field) | Step::Set(field, _) => Need::Fields(vec![field.clone()]),
        });
    }
    needs
}

#[tokio::test]
async fn everything_that_does_not_fit_is_told_at_once() {
    let tables = "create table things (id text primary key, \"TokenLimit\" bigint, pair point,
                  must integer not null, made integer generated always as (must + 1) stored,
                  extra json, gone_at timestamp, flag boolean, at date);
                  create role nobody_much; grant select on things to nobody_much;";
    let cluster = Cluster::shared().await;
    let database = cluster.create_database().await;
    let mut sql = cluster.connect(&database).await;
    sql.execute(sqlx::raw_sql(tables)).await.unwrap();
    let columns = [
        ("tokens", "token_limit", None),
        ("pair", "pair", None),
        ("made", "made", None),
        ("flag", "flag", Some("yes")),
        ("at", "at", Some("epoch-ms")),
        ("twice", "flag", None),
    ];
    let plan = plan(|mapping| {
        mapping.key = "thing:{day:date}:{id:uuid}".into();
        mapping.key_columns.insert("day".into(), "at".into());
        let column = |(field, column, format): &(&str, &str, Option<&str>)| FieldColumn {
            field: (*field).into(),
            column: (*column).into(),
            format: format.map(str::to_owned),
            column_type: None,
        };
        mapping.columns = columns.iter().map(column).collect();
    });
    let url = cluster.url(&database).replace("postgres@", "nobody_much@");
    sql.execute("alter role nobody_much login").await.unwrap();
    let mut session = Session::connect(&postgres(url)).await.unwrap();
    let shape = session.table_shape(&TableName::parse("things")).await.unwrap();
    let problems = Layout::bind(&plan, shape.as_ref()).unwrap_err();
    let told: Vec<_> = problems.iter().map(ToString::to_string).collect();
    let told = told.join("\n");
    for expected in [
        "may not INSERT, UPDATE, DELETE on \"things\"",
        "no primary key or unique index (immediate, not partial) on exactly (at, id)",
        "columns.tokens: table \"things\" has no column \"token_limit\"; it has \"TokenLimit\"",
        "columns.pair: column \"pair\": type point is not supported; make the column text",
        "columns.made: column \"made\" gets its value from Postgres",
        "columns.flag: column \"flag\": format \"yes\" is none for a boolean",
        "columns.at: column \"at\" is used by key_columns.day already",
        "columns.twice: column \"flag\" is used by columns.flag already",
        "extra: column \"extra\" is json; extra needs jsonb",
        "expires_at: column \"gone_at\" is timestamp without time zone",
        "column \"must\" of table \"things\" is NOT NULL",
    ] {
        assert!(told.contains(expected), "{expected}\nis not in\n{told}");
    }
    assert_eq!(problems.len(), 11, "{told}");
    let none = Layout::bind(&plan, None).unwrap_err();
    assert!(none[0].text.contains("respgres schema"), "{none:?}");
}

#[tokio::test]
async fn the_printed_schema_makes_tables_that_fit() {
    let plan = plan(|mapping| {
        mapping.key = "thing:{day:date}:{id:uuid}:{n:int}:{what:text}".into();
        mapping.table = "app.Things".into();
        let types =
            ["text", "bigint", "numeric", "boolean", "timestamptz", "json", "bytea", "varchar(4)"];
        for (column, type_name) in mapping.columns.iter_mut().zip(types) {
            column.column_type = Some(type_name.into());
        }
    });
    let mut house = House::with(self::plan(|_| {}), TABLE).await;
    let sql = schema::create_statements(&plan);
    house.session.apply(&sql).await.unwrap();
    house.session.apply(&sql).await.unwrap();
    bind(&mut house.session, &plan).await;
    house.execute("alter table app.\"Things\" drop column cost").await;
    house.session.apply(&sql).await.unwrap();
    bind(&mut house.session, &plan).await;
    let refused = house.session.apply("create table x (); create table x ()").await;
    assert!(matches!(refused, Err(StoreError::Refused { .. })), "{refused:?}");
    assert_eq!(house.text("select to_regclass('x') is null").await.as_deref(), Some("true"));
}

#[tokio::test]
async fn many_proxies_may_migrate_at_once() {
    let cluster = Cluster::shared().await;
    let database = cluster.create_database().await;
    let mut proxies = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let url = cluster.url(&database);
        proxies.spawn(async move {
            let mut session = Session::connect(&postgres(url)).await.unwrap();
            session.migrate().await.unwrap();
            session.migrate().await.unwrap();
        });
    }
    while let Some(done) = proxies.join_next().await {
        done.unwrap();
    }
    let mut sql = cluster.connect(&database).await;
    sql.execute("insert into respgres.outbox (mapping, key) values ('m', 'k')").await.unwrap();
    sql.execute(
        "create role poor login; grant usage on schema respgres to poor;
                 grant select on respgres.migrations to poor",
    )
    .await
    .unwrap();
    let url = cluster.url(&database).replace("postgres@", "poor@");
    let mut poor = Session::connect(&postgres(url)).await.unwrap();
    poor.migrate().await.unwrap();
}

#[tokio::test]
async fn rows_are_found_by_their_keys_however_many_there_are() {
    let mut house = House::new().await;
    // Plans are made while there is nothing.
    house.execute("vacuum analyze things").await;
    let key = house.key(1);
    let mapping = Arc::clone(&house.mapping);
    let fields = [("name".into(), "a".into())].into_iter().collect();
    let record = Record { fields, ..Record::default() };
    for rows in [0, 100_000] {
        let many = format!(
            "insert into things (id) select gen_random_uuid() from generate_series(1, {rows})"
        );
        house.execute(&many).await;
        house.read(1).await;
        for deleted in [false, true] {
            let mut draft = Draft::new(ValueKind::Hash, Some(record.clone()));
            if deleted {
                assert!(draft.delete())
            } else {
                put(&mut draft, "name", "b")
            }
            let change = Change { key: &key, present: true, draft: &draft };
            house.session.begin_locked(&[key.lock()]).await.unwrap();
            let written = house.session.write(&mapping, &[change]).await;
            // There is no row to be changed.
            assert_eq!(matches!(written, Err(StoreError::Raced)), !deleted, "{written:?}");
            house.session.rollback().await.unwrap();
        }
    }
    house.session.apply("select pg_stat_force_next_flush()").await.unwrap();
    let read = "select sum(idx_tup_read) from pg_stat_user_indexes where relname = 'things'";
    let read: i64 = house.text(read).await.unwrap().parse().unwrap();
    assert!(read < 1000, "{read}");
}

#[tokio::test]
async fn one_session_at_a_time_has_a_work() {
    let mut house = House::new().await;
    let mut other = house.another_session().await;
    assert!(house.session.take_on(Work::Expire).await.unwrap());
    assert!(!other.take_on(Work::Expire).await.unwrap());
    assert!(other.take_on(Work::Flush).await.unwrap());
    // What it does not have it cannot lay down for another.
    other.lay_down(Work::Expire).await.unwrap();
    assert!(!other.take_on(Work::Expire).await.unwrap());
    house.session.lay_down(Work::Expire).await.unwrap();
    assert!(other.take_on(Work::Expire).await.unwrap());
    // Its process at the server ends a moment after it was told to.
    other.close().await;
    let session = &mut house.session;
    stack::wait_until("the works are free", async || session.take_on(Work::Flush).await.unwrap())
        .await;
    let held = "select count(*) from pg_locks as l join pg_database as d on d.oid = l.database
                where l.classid = 1919251312 and d.datname = current_database()";
    let held: i64 = sqlx::query_scalar(held).fetch_one(&mut house.sql).await.unwrap();
    assert_eq!(held, 1);
}
