//! Walking through the keys of a mapping's table, page by page.
//!
//! A page begins behind the last key of the page before it, in the order of the unique index on the
//! key columns. What others insert, change or delete meanwhile moves no other key, so a key that is
//! there all the time is met exactly once; and every page is a range of the index, however far the
//! walk has come.
//!
//! Invariants
//! - A row counts as a key when a read of it would find one: it is not past its expiry, and it has a
//!   field. Whether its key columns are a key of the pattern is for the caller to see.
//! - A page holds no more rows than were asked for, and of a row its key alone.

use sqlx::postgres::PgRow;
use sqlx::{AssertSqlSafe, Executor};

use super::error::StoreError;
use super::session::Session;
use crate::mapping::pattern::Piece;
use crate::mapping::shape::quote;
use crate::mapping::{Layout, Mapping, extra};

/// Rows that a sample takes at most.
const SAMPLE_ROWS: usize = 100;

/// Pages of the table that a sample is taken from, about.
const SAMPLE_PAGES: f64 = 4.0;

const PAGE_BYTES: i64 = 8192;

/// Tables up to this size are counted when their size is asked for, to so many rows.
const SMALL_BYTES: i64 = 4 * PAGE_BYTES;
const COUNTED_ROWS: usize = 1000;

/// Bytes of a row, where Postgres has not counted the rows yet.
const ROW_BYTES: i64 = 100;

/// The values of a row's key columns as Postgres writes them, in the order of the captures.
pub type KeyValues = Vec<String>;

/// The rows behind some key.
#[derive(Debug, Default)]
pub struct KeyPage {
    /// Those that are there for clients, in order.
    pub keys: Vec<KeyValues>,
    /// All that were looked at.
    pub rows: usize,
    /// The last key looked at, behind which the next page begins; `None`: there is no next page.
    pub last: Option<KeyValues>,
}

/// The same, only counted.
#[derive(Debug, Default)]
pub struct CountedPage {
    pub present: u64,
    /// Rows of which it takes a look at their `extra` to know: the page has to be read.
    pub undecided: bool,
    pub last: Option<KeyValues>,
}

/// What Postgres believes of a table.
#[derive(Clone, Copy, Debug)]
pub struct TableSize {
    pub rows: i64,
    /// At least 1.
    pub pages: i64,
}

/// What a row is to clients, as the statements here say it.
const ABSENT: i32 = 0;
const PRESENT: i32 = 1;
/// It has nothing but bytes kept in `extra` of fields that have columns: they count only while they
/// mean what the column holds.
const UNDECIDED: i32 = 2;

// === impl Session ===

impl Session {
    /// Has every page read through the index, whatever the planner knows of the table; the keys' own expiry
    /// looked up by key, not kept in memory for all of a mapping; and all of it by one process: others
    /// would begin with rows behind the page. A session that walks through tables does nothing else.
    ///
    /// # Errors
    /// `Unreachable`.
    pub async fn walk_along_indexes(&mut self) -> Result<(), StoreError> {
        let settings = "set enable_bitmapscan = off; set enable_sort = off; set enable_material = off; \
                        set max_parallel_workers_per_gather = 0;";
        self.attempt(async |connection| connection.execute(sqlx::raw_sql(settings)).await.map(drop))
            .await
    }

    /// The keys of at most `limit` rows behind `after`; from the first one on without it.
    ///
    /// # Errors
    /// Those of the statement, see [`StoreError`].
    pub async fn key_page(
        &mut self,
        mapping: &Mapping,
        after: Option<&KeyValues>,
        limit: usize,
    ) -> Result<KeyPage, StoreError> {
        let sql = page_statement(mapping, after.is_some());
        let rows = self.rows(sql, &mapping.layout, after, limit).await?;
        let mut page = self.page_of(&mapping.layout, &rows)?;
        if page.rows < limit {
            page.last = None;
        }
        Ok(page)
    }

    /// Counts the keys of at most `limit` rows behind `after`.
    ///
    /// # Errors
    /// Those of the statement, see [`StoreError`].
    pub async fn counted_page(
        &mut self,
        mapping: &Mapping,
        after: Option<&KeyValues>,
        limit: usize,
    ) -> Result<CountedPage, StoreError> {
        let sql = count_statement(mapping, after.is_some());
        let rows = self.rows(sql, &mapping.layout, after, limit).await?;
        let Some(row) = rows.first() else { return Ok(CountedPage::default()) };
        let counted: i64 = self.column(row, 0)?;
        let present: i64 = self.column(row, 1)?;
        let undecided: i64 = self.column(row, 2)?;
        let last: Option<KeyValues> = self.column(row, 3)?;
        Ok(CountedPage {
            present: present.unsigned_abs(),
            undecided: undecided > 0,
            last: last.filter(|_| usize::try_from(counted).is_ok_and(|counted| counted >= limit)),
        })
    }

    /// How large a mapping's table is, about.
    ///
    /// # Errors
    /// Those of the statement, see [`StoreError`].
    pub async fn table_size(&mut self, mapping: &Mapping) -> Result<TableSize, StoreError> {
        self.forget_stale_statements().await?;
        let table = mapping.layout.table().quoted();
        let sql = AssertSqlSafe(size_statement(&table));
        let query = sqlx::query(sql).bind(table).bind(ROW_BYTES).bind(PAGE_BYTES);
        let row = self.attempt(async |connection| query.fetch_optional(connection).await).await?;
        match row {
            Some(row) => {
                Ok(TableSize { rows: self.column(&row, 0)?, pages: self.column(&row, 1)? })
            }
            None => Ok(TableSize { rows: 0, pages: 1 }),
        }
    }

    /// Keys from some places of the table, chosen by chance.
    ///
    /// # Errors
    /// Those of the statement, see [`StoreError`].
    pub async fn key_sample(
        &mut self,
        mapping: &Mapping,
        size: TableSize,
    ) -> Result<Vec<KeyValues>, StoreError> {
        self.forget_stale_statements().await?;
        #[allow(clippy::cast_precision_loss, reason = "a part of a table, about")]
        let percent = (100.0 * SAMPLE_PAGES / size.pages as f64).min(100.0);
        let sql = AssertSqlSafe(sample_statement(mapping));
        let query = sqlx::query(sql).bind(percent).bind(limit_of(SAMPLE_ROWS));
        let rows = self.attempt(async |connection| query.fetch_all(connection).await).await?;
        Ok(self.page_of(&mapping.layout, &rows)?.keys)
    }

    async fn rows(
        &mut self,
        sql: String,
        layout: &Layout,
        after: Option<&KeyValues>,
        limit: usize,
    ) -> Result<Vec<PgRow>, StoreError> {
        self.forget_stale_statements().await?;
        let mut query = sqlx::query(AssertSqlSafe(sql)).bind(limit_of(limit));
        if let Some(after) = after {
            for &place in layout.key_order() {
                query = query.bind(after.get(place).map(String::as_str));
            }
        }
        self.attempt(async |connection| query.fetch_all(connection).await).await
    }

    fn page_of(&mut self, layout: &Layout, rows: &[PgRow]) -> Result<KeyPage, StoreError> {
        let count = layout.keys().len();
        let mut page = KeyPage { rows: rows.len(), ..KeyPage::default() };
        for (at, row) in rows.iter().enumerate() {
            let mut values = Vec::with_capacity(count);
            for place in 0..count {
                values.push(self.column::<String>(row, place)?);
            }
            let is_present = match self.column::<i32>(row, count)? {
                PRESENT => true,
                UNDECIDED => {
                    let extra = self.column::<Option<&str>>(row, count + 1)?;
                    let columns = layout.fields().iter().map(|_| None);
                    !layout.decode(columns, extra).is_empty()
                }
                _ => false,
            };
            if at + 1 == rows.len() {
                page.last = Some(values.clone());
            }
            if is_present {
                page.keys.push(values);
            }
        }
        Ok(page)
    }
}

fn limit_of(rows: usize) -> i64 {
    i64::try_from(rows).unwrap_or(i64::MAX)
}

// === statements ===

/// The rows of a page: `$1` of them at most, behind the key in `$2` and so on.
fn page_statement(mapping: &Mapping, behind: bool) -> String {
    let Parts { columns, names, extra, source, .. } = Parts::of(mapping);
    format!(
        "select {names}, state, case when state = {UNDECIDED} then extra::text end \
         from (select {columns}, {state} as state, {extra} as extra from {source} {range}) as page",
        state = state(&mapping.layout),
        range = range(&mapping.layout, behind),
    )
}

/// What such a page holds, and its last key.
fn count_statement(mapping: &Mapping, behind: bool) -> String {
    let layout = &mapping.layout;
    let Parts { source, .. } = Parts::of(mapping);
    let keys = layout.keys().iter().enumerate();
    let columns: Vec<_> =
        keys.map(|(place, key)| format!("t.{} as k{place}", quote(&key.column))).collect();
    let texts: Vec<_> = (0..layout.keys().len()).map(|place| format!("k{place}::text")).collect();
    let back: Vec<_> = layout.key_order().iter().map(|place| format!("k{place} desc")).collect();
    format!(
        "with page as materialized (select {columns}, {state} as state from {source} {range}) \
         select count(*), count(*) filter (where state = {PRESENT}), \
                count(*) filter (where state = {UNDECIDED}), \
                (select array[{texts}] from page order by {back} limit 1) from page",
        columns = columns.join(", "),
        texts = texts.join(", "),
        back = back.join(", "),
        state = state(layout),
        range = range(layout, behind),
    )
}

/// Rows of about `$1` percent of the table's pages, `$2` rows at most.
fn sample_statement(mapping: &Mapping) -> String {
    let Parts { columns, names, extra, source, table } = Parts::of(mapping);
    let source = source.replacen(&table, &format!("{table} tablesample system ($1::float8)"), 1);
    format!(
        "select {names}, state, case when state = {UNDECIDED} then extra::text end \
         from (select {columns}, {state} as state, {extra} as extra from {source} \
               where {complete} limit $2::bigint) as page",
        state = state(&mapping.layout),
        complete = complete(&mapping.layout),
    )
}

/// A small table's rows are counted: a guess could be wrong many times over. (A partitioned one has no
/// size of its own.)
fn size_statement(table: &str) -> String {
    format!(
        "select case when s.bytes > {SMALL_BYTES} then greatest(c.reltuples, s.bytes / $2::bigint) \
                     when c.relkind = 'p' then greatest(c.reltuples, s.counted) \
                     else s.counted end::bigint, \
                greatest(s.bytes / $3::bigint, 1) \
         from pg_catalog.pg_class as c, lateral ( \
             select pg_relation_size(c.oid) as bytes, \
                    (select count(*) from (select from {table} limit {COUNTED_ROWS}) as counted) as counted \
         ) as s where c.oid = to_regclass($1)"
    )
}

/// What the statements are made of.
struct Parts {
    /// `t."id"::text as k0, …`
    columns: String,
    /// `k0, …`
    names: String,
    extra: String,
    /// `"table" as t`
    table: String,
    /// The table, and the keys' own expiry where it is kept elsewhere.
    source: String,
}

// === impl Parts ===

impl Parts {
    fn of(mapping: &Mapping) -> Self {
        let layout = &mapping.layout;
        let keys = layout.keys().iter().enumerate();
        let columns: Vec<_> = keys
            .map(|(place, key)| format!("t.{}::text as k{place}", quote(&key.column)))
            .collect();
        let names: Vec<_> = (0..columns.len()).map(|place| format!("k{place}")).collect();
        let table = format!("{} as t", layout.table().quoted());
        let source = match layout.expires_at() {
            Some(_) => table.clone(),
            None => format!(
                "{table} left join respgres.expiry as e on e.mapping = {} \
                 and e.key = convert_to({}, 'UTF8')",
                literal(&mapping.name),
                key_expression(mapping)
            ),
        };
        let extra = layout.extra().map_or("null::jsonb".to_owned(), |extra| column(&extra.column));
        Self { columns: columns.join(", "), names: names.join(", "), extra, table, source }
    }
}

/// The key of a row.
fn key_expression(mapping: &Mapping) -> String {
    let pieces = mapping.pattern.pieces().map(|piece| match piece {
        Piece::Literal(text) => literal(text),
        Piece::Capture(place) => format!("{}::text", column(&mapping.layout.keys()[place].column)),
    });
    pieces.collect::<Vec<_>>().join(" || ")
}

/// The rows behind a key, in order. A key column that is NULL makes no key. (Where a key has several rows,
/// this is the place to go from key to key: the first row behind a key, then the first behind that one's.)
fn range(layout: &Layout, behind: bool) -> String {
    let keys: Vec<_> = layout.key_order().iter().map(|&place| &layout.keys()[place]).collect();
    let order = keys.iter().map(|key| column(&key.column)).collect::<Vec<_>>().join(", ");
    let complete = complete(layout);
    let last: Vec<_> = keys
        .iter()
        .enumerate()
        .map(|(at, key)| format!("${}::text::{}", at + 2, key.type_name))
        .collect();
    let behind =
        if behind { format!("and ({order}) > ({})", last.join(", ")) } else { String::new() };
    format!("where {complete} {behind} order by {order} limit $1::bigint")
}

fn complete(layout: &Layout) -> String {
    let keys = layout.keys().iter().map(|key| format!("{} is not null", column(&key.column)));
    keys.collect::<Vec<_>>().join(" and ")
}

/// Whether a read of the row finds a key: see `Session::read`.
fn state(layout: &Layout) -> String {
    let expires_at = layout.expires_at().map_or("e.expires_at".to_owned(), column);
    let ms = |moment: &str| format!("floor(extract(epoch from {moment}) * 1000)");
    let now = ms("clock_timestamp()");
    let mut cases = format!("when {now} > {} then {ABSENT}", ms(&expires_at));
    let fields =
        layout.fields().iter().map(|field| format!("{} is not null", column(&field.column)));
    let fields = fields.collect::<Vec<_>>().join(" or ");
    if !fields.is_empty() {
        cases.push_str(&format!(" when {fields} then {PRESENT}"));
    }
    if let Some(extra) = layout.extra() {
        let kept = column(&extra.column);
        let names = layout.fields().iter().map(|field| literal(&extra::name_of(&field.field)));
        let names = names.collect::<Vec<_>>().join(", ");
        cases.push_str(&format!(
            " when jsonb_typeof({kept}) is distinct from 'object' then {ABSENT} \
              when jsonb_strip_nulls({kept}) - array[{names}]::text[] <> '{{}}' then {PRESENT} \
              when jsonb_strip_nulls({kept}) <> '{{}}' then {UNDECIDED}"
        ));
    }
    format!("case {cases} else {ABSENT} end")
}

fn column(name: &str) -> String {
    format!("t.{}", quote(name))
}

/// A text as SQL; `standard_conforming_strings` is on.
fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}
