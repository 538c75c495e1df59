//! The five properties, for one type after another in one database.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use respgres::config::{self, FieldColumn, Kind, OnExpire, Strategy};
use respgres::mapping::registry::Plan;
use respgres::mapping::shape::TableName;
use respgres::mapping::{KeyPattern, Layout, MappedKey, Mapping};
use respgres::store::{Change, RowLock, Session, StoreError};
use respgres::value::{Draft, ValueKind};
use sqlx::{AssertSqlSafe, Executor, PgConnection, Row};

use crate::stack::{Cluster, Random};
use crate::subject::{Subject, TYPES};

/// What `judge` says of a value that a domain's CHECK refuses.
const REFUSED: &str = "refused by a CHECK";

/// Of values that are to be refused, every so many is really written.
const WRITES_BETWEEN: usize = 20;

/// Values longer than this are not what SQL updates rows to.
const LONGEST_UPDATE: usize = 1 << 14;

/// A database, our session on it, and an SQL user's connection.
pub struct House {
    session: Session,
    sql: PgConnection,
}

/// What Postgres says of a row.
#[derive(Debug)]
pub struct Seen {
    /// `c::text`.
    pub column: Option<String>,
    /// What a client should get of the column alone.
    pub rendered: Option<Vec<u8>>,
    pub has_extra: bool,
}

// === impl House ===

impl House {
    pub async fn new() -> Self {
        let cluster = Cluster::shared().await;
        let database = cluster.create_database().await;
        let mut sql = cluster.connect(&database).await;
        sql.execute("set timezone = 'UTC'").await.unwrap();
        sql.execute(sqlx::raw_sql(TYPES)).await.unwrap();
        let mut session = Session::connect(&config::Postgres {
            url: cluster.url(&database),
            writers: 1,
            readers: 2,
            streams: 1,
            stream_timeout_ms: 60_000,
            batch_operations: 1000,
            connect_timeout_ms: 10_000,
            statement_timeout_ms: 60_000,
        })
        .await
        .unwrap();
        session.migrate().await.unwrap();
        Self { session, sql }
    }

    pub async fn execute(&mut self, sql: String) {
        self.sql.execute(sqlx::raw_sql(AssertSqlSafe(sql))).await.unwrap();
    }

    /// Tables with a column of the subject's type: `kept` with an extra column, `bare` without.
    pub async fn create_tables(&mut self, subject: &Subject) {
        let type_name = subject.type_name;
        let tables = format!(
            "drop table if exists kept, bare;
             create table kept (id bigint primary key, c {type_name}, n bigint, extra jsonb);
             create table bare (id bigint primary key, c {type_name}, n bigint);"
        );
        self.execute(tables).await;
    }

    /// Fails on the first value of the subject for which one of the properties does not hold.
    pub async fn examine(&mut self, subject: &Subject) {
        let Subject { type_name, documented, reading, rendering, .. } = subject;
        let name = subject.name();
        self.create_tables(subject).await;
        let judge = format!(
            "drop function if exists judge;
             create function judge(b bytea) returns text language plpgsql as $judge$
             declare v text; r {type_name};
             begin
                 if '{type_name}' <> 'bytea' then v := convert_from(b, 'UTF8'); end if;
                 if not ({documented}) then return null; end if;
                 r := {reading};
                 return r::text;
             exception
                 when check_violation then return '{REFUSED}';
                 when data_exception or program_limit_exceeded then return null;
             end $judge$;"
        );
        self.execute(judge).await;
        let judged: Vec<Option<String>> = sqlx::query_scalar(
            "select judge(b) from unnest($1) with ordinality as u(b, n) order by n",
        )
        .bind(&subject.values)
        .fetch_all(&mut self.sql)
        .await
        .unwrap();
        let refused = |judged: &Option<String>| judged.as_deref() == Some(REFUSED);
        let (unwelcome, welcome): (Vec<_>, Vec<_>) =
            subject.values.iter().zip(judged).partition(|(_, judged)| refused(judged));
        let (values, judged): (Vec<&Vec<u8>>, Vec<Option<String>>) = welcome.into_iter().unzip();
        let typed = judged.iter().flatten().count();
        assert!(typed >= 15, "{name}: only {typed} of {} values are typed", values.len());

        let mapping = self.bind("kept", subject, true).await;
        for (value, _) in unwelcome.into_iter().take(3) {
            let error = self.write(&mapping, &[(0, value)]).await.unwrap_err();
            assert!(matches!(error, StoreError::Refused { .. }), "{name}: {error}");
        }
        let rows: Vec<(usize, &Vec<u8>)> = values.iter().copied().enumerate().collect();
        self.write(&mapping, &rows).await.unwrap();
        let seen = self.seen("kept", rendering).await;
        self.holds(&name, &mapping, &values, |_| true).await;
        for (place, seen) in seen.iter().enumerate() {
            let value = show(values[place]);
            assert_eq!(cut(&seen.column), cut(&judged[place]), "{name}: the column for {value}");
            let exact = seen.rendered.as_ref() == Some(values[place]);
            assert_eq!(seen.has_extra, !exact, "{name}: whether {value} is in extra");
        }

        self.execute(format!("update kept set c = c::text::{type_name}")).await;
        self.holds(&name, &mapping, &values, |_| true).await;
        self.update_by_sql(subject, &mapping, &values, &judged).await;

        let exact: Vec<bool> = seen
            .iter()
            .zip(&values)
            .map(|(seen, value)| seen.rendered.as_ref() == Some(*value))
            .collect();
        self.without_extra(subject, &values, &exact).await;
    }

    /// Clients get these bytes, of the places that matter.
    async fn holds(
        &mut self,
        name: &str,
        mapping: &Arc<Mapping>,
        values: &[&Vec<u8>],
        matters: impl Fn(usize) -> bool,
    ) {
        let read = self.read(mapping, values.len()).await;
        for (place, (read, value)) in read.iter().zip(values).enumerate() {
            if matters(place) && read.as_deref() != Some(&value[..]) {
                let read = read.as_deref().map(show);
                panic!("{name}: {} came back as {read:?}", show(value));
            }
        }
    }

    /// Gives every row another row's value, or none.
    async fn update_by_sql(
        &mut self,
        subject: &Subject,
        mapping: &Arc<Mapping>,
        values: &[&Vec<u8>],
        judged: &[Option<String>],
    ) {
        let mut random = Random::new(99);
        let mut choices: Vec<Option<&str>> =
            judged.iter().map(Option::as_deref).collect::<Vec<_>>();
        choices.retain(|choice| choice.is_some_and(|choice| choice.len() <= LONGEST_UPDATE));
        choices.sort_unstable();
        choices.dedup();
        for _ in 0..=choices.len() / 20 {
            choices.push(None);
        }
        let chosen: Vec<Option<&str>> = values.iter().map(|_| random.pick(&choices)).collect();
        let sql = format!(
            "update kept set c = u.c::{} from unnest($1::text[]) with ordinality as u(c, n)
             where kept.id = u.n - 1",
            subject.type_name
        );
        let query = sqlx::query(AssertSqlSafe(sql)).bind(&chosen);
        query.execute(&mut self.sql).await.unwrap();
        let seen = self.seen("kept", &subject.rendering).await;
        let read = self.read(mapping, values.len()).await;
        for (place, seen) in seen.iter().enumerate() {
            let same = seen.column == judged[place];
            let expected = if same { Some(values[place]) } else { seen.rendered.as_ref() };
            if read[place].as_deref() != expected.map(|bytes| &bytes[..]) {
                panic!(
                    "{}: {} updated to {:?} by SQL is read as {:?} instead of {:?}",
                    subject.name(),
                    show(values[place]),
                    cut(&seen.column),
                    read[place].as_deref().map(show),
                    expected.map(|bytes| show(bytes))
                );
            }
        }
    }

    async fn without_extra(&mut self, subject: &Subject, values: &[&Vec<u8>], exact: &[bool]) {
        let name = subject.name();
        let mapping = self.bind("bare", subject, false).await;
        let numbered = || values.iter().copied().enumerate();
        let rows: Vec<_> = numbered().filter(|(place, _)| exact[*place]).collect();
        self.write(&mapping, &rows).await.unwrap();
        for (number, (place, value)) in numbered().filter(|(place, _)| !exact[*place]).enumerate() {
            let Err(error) = mapping.layout.check_field(b"v", value) else {
                panic!("{name}: {} was not refused", show(value));
            };
            if number % WRITES_BETWEEN == 0 {
                match self.write(&mapping, &[(place, value)]).await {
                    Err(StoreError::Unencodable(again)) => assert_eq!(again, error, "{name}"),
                    other => panic!("{name}: {} was not refused: {other:?}", show(value)),
                }
            }
            let error = error.to_string();
            let expected = "mapping \"bare\": field \"v\" could not be given back unchanged by \
                            column \"c\" of type ";
            let told = error.starts_with(expected) && error.ends_with("; nothing was written");
            assert!(told, "{name}: {error}");
        }
        let count: i64 =
            sqlx::query_scalar("select count(*) from bare").fetch_one(&mut self.sql).await.unwrap();
        assert_eq!(count, i64::try_from(rows.len()).unwrap(), "{name}");
        self.holds(&name, &mapping, values, |place| exact[place]).await;
    }

    pub async fn bind(&mut self, table: &str, subject: &Subject, extra: bool) -> Arc<Mapping> {
        let (plan, layout) = self.layout(table, subject, extra).await;
        Arc::new(Mapping {
            index: 0,
            name: plan.config.name,
            pattern: plan.pattern,
            gate: respgres::mapping::Gate::new(plan.config.strategy, false),
            cache_ttl_ms: 1000,
            negative_ttl_ms: 1000,
            on_expire: OnExpire::Delete,
            on_postgres_down: Some(config::OnPostgresDown::RedisOnly),
            layout: layout.unwrap_or_else(|problems| panic!("{problems:?}")),
        })
    }

    /// Why the table cannot be mapped.
    pub async fn problem_of(&mut self, table: &str, subject: &Subject) -> String {
        let (_, layout) = self.layout(table, subject, true).await;
        layout.unwrap_err().iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    }

    async fn layout(
        &mut self,
        table: &str,
        subject: &Subject,
        extra: bool,
    ) -> (Plan, Result<Layout, Vec<config::Problem>>) {
        let column = |field: &str, column: &str, format: Option<&str>| FieldColumn {
            field: field.into(),
            column: column.into(),
            format: format.map(str::to_owned),
            column_type: None,
        };
        let config = config::Mapping {
            name: table.into(),
            key: format!("{table}:{{id:int}}"),
            exclude: Vec::new(),
            kind: Kind::Hash,
            table: table.into(),
            strategy: Strategy::DualWrite,
            cache_ttl_ms: 1000,
            negative_ttl_ms: 1000,
            on_expire: OnExpire::Delete,
            on_postgres_down: None,
            expires_at: None,
            extra: extra.then(|| "extra".into()),
            key_columns: BTreeMap::new(),
            element: None,
            value: None,
            columns: vec![column("v", "c", subject.format), column("n", "n", None)],
        };
        let pattern = KeyPattern::parse(&config.key).unwrap();
        let plan = Plan { index: 0, config, pattern };
        let shape = self.session.table_shape(&TableName::parse(table)).await.unwrap();
        let layout = Layout::bind(&plan, shape.as_ref());
        (plan, layout)
    }

    /// Writes new hashes with these values in one transaction.
    pub async fn write(
        &mut self,
        mapping: &Arc<Mapping>,
        rows: &[(usize, &Vec<u8>)],
    ) -> Result<(), StoreError> {
        let keys: Vec<_> = rows.iter().map(|(number, _)| key(mapping, *number)).collect();
        let drafts: Vec<_> = rows
            .iter()
            .map(|(_, value)| {
                let mut draft = Draft::new(ValueKind::Hash, None);
                draft.set("v".into(), Bytes::copy_from_slice(value));
                draft.set("n".into(), "1".into());
                draft
            })
            .collect();
        let change = |(key, draft)| Change { key, present: false, draft };
        let changes: Vec<_> = keys.iter().zip(&drafts).map(change).collect();
        self.session.begin_locked(&[]).await?;
        match self.session.write(mapping, &changes).await {
            Ok(()) => self.session.commit().await,
            Err(error) => {
                self.session.rollback().await?;
                Err(error)
            }
        }
    }

    /// The field's bytes of the first `count` keys.
    pub async fn read(&mut self, mapping: &Arc<Mapping>, count: usize) -> Vec<Option<Bytes>> {
        let keys: Vec<_> = (0..count).map(|number| key(mapping, number)).collect();
        let keys: Vec<&MappedKey> = keys.iter().collect();
        let read = self.session.read(mapping, &keys, RowLock::None).await.unwrap();
        let field = |record: respgres::value::Record| record.fields.get(&b"v"[..]).cloned();
        read.rows.into_iter().map(|row| row.record.and_then(field)).collect()
    }

    pub async fn seen(&mut self, table: &str, rendering: &str) -> Vec<Seen> {
        let sql =
            format!("select c::text, {rendering}, extra is not null from {table} order by id");
        let rows = sqlx::query(AssertSqlSafe(sql)).fetch_all(&mut self.sql).await.unwrap();
        let seen = |row: &sqlx::postgres::PgRow| Seen {
            column: row.get(0),
            rendered: row.get(1),
            has_extra: row.get(2),
        };
        rows.iter().map(seen).collect()
    }
}

fn key(mapping: &Arc<Mapping>, number: usize) -> MappedKey {
    let key = Bytes::from(format!("{}:{number}", mapping.name));
    let captures = mapping.pattern.captures(&key).unwrap();
    MappedKey { mapping: Arc::clone(mapping), key, captures, pass: None }
}

/// For messages: not a megabyte of it.
fn show(bytes: &[u8]) -> String {
    let shown = &bytes[..bytes.len().min(200)];
    format!("\"{}\" ({} bytes)", shown.escape_ascii(), bytes.len())
}

/// Long texts are told apart by their length and ends.
fn cut(text: &Option<String>) -> Option<(usize, &str, &str)> {
    let text = text.as_deref()?;
    let end = (0..=text.len().min(400)).rev().find(|end| text.is_char_boundary(*end))?;
    let tail = text.len().saturating_sub(400);
    let tail = (tail..=text.len()).find(|tail| text.is_char_boundary(*tail))?;
    Some((text.len(), &text[..end], &text[tail..]))
}
