//! Walking through the keys of a mapping's table, page by page.
//!
//! A page begins behind the last key of the page before it, in the order of the unique index that begins
//! with the key columns. What others insert, change or delete meanwhile moves no other key, so a key that is
//! there all the time is met exactly once; and every page is a range of the index, however far the
//! walk has come. Where a key has many rows the walk goes from key to key, and leaves out its other rows.
//!
//! Invariants
//! - A key counts when a read of it would find it: it is not past its expiry, and it has a field or an
//!   element. Whether its key columns are a key of the pattern is for the caller to see.
//! - A page holds no more keys than were asked for, and of a row its key alone.

use sqlx::postgres::PgRow;
use sqlx::{AssertSqlSafe, Executor, Row};

use super::error::StoreError;
use super::session::Session;
use crate::mapping::pattern::Piece;
use crate::mapping::shape::quote;
use crate::mapping::{Layout, Mapping, extra};

/// Rows that a sample takes at most; and where many rows make one key.
const SAMPLE_ROWS: usize = 100;
const SAMPLE_ELEMENTS: usize = 1000;

/// Pages of the table that a sample is taken from, about.
const SAMPLE_PAGES: f64 = 4.0;

const PAGE_BYTES: i64 = 8192;

/// Tables up to this size are counted when their size is asked for, to so many rows.
const SMALL_BYTES: i64 = 4 * PAGE_BYTES;
const COUNTED_KEYS: usize = 1000;

/// Bytes of a row, where Postgres has not counted the rows yet.
const ROW_BYTES: i64 = 100;

/// The values of a row's key columns as Postgres writes them, in the order of the captures.
pub type KeyValues = Vec<String>;

/// The keys behind some key.
#[derive(Debug, Default)]
pub struct KeyPage {
    /// Those that are there for clients, in order.
    pub keys: Vec<KeyValues>,
    /// How many were looked at.
    pub looked_at: usize,
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
    pub keys: i64,
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

    /// The next `limit` keys behind `after`, or fewer; from the first one on without it.
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
        if page.looked_at < limit {
            page.last = None;
        }
        Ok(page)
    }

    /// Counts the next `limit` keys behind `after`.
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
        let sql = AssertSqlSafe(size_statement(&mapping.layout));
        let query = sqlx::query(sql).bind(mapping.layout.table().quoted());
        let row = self.attempt(async |connection| query.fetch_optional(connection).await).await?;
        match row {
            Some(row) => {
                Ok(TableSize { keys: self.column(&row, 0)?, pages: self.column(&row, 1)? })
            }
            None => Ok(TableSize { keys: 0, pages: 1 }),
        }
    }

    /// Keys from some places of the table, chosen by chance; all, where they are few and have many rows
    /// each: the places would be those of the largest one.
    ///
    /// # Errors
    /// Those of the statement, see [`StoreError`].
    pub async fn key_sample(
        &mut self,
        mapping: &Mapping,
        size: TableSize,
    ) -> Result<Vec<KeyValues>, StoreError> {
        let has_many_rows = mapping.layout.element().is_some();
        if has_many_rows && size.keys < limit_of(COUNTED_KEYS) {
            return Ok(self.key_page(mapping, None, COUNTED_KEYS).await?.keys);
        }
        self.forget_stale_statements().await?;
        #[allow(clippy::cast_precision_loss, reason = "a part of a table, about")]
        let percent = (100.0 * SAMPLE_PAGES / size.pages as f64).min(100.0);
        let limit = limit_of(if has_many_rows { SAMPLE_ELEMENTS } else { SAMPLE_ROWS });
        let sql = AssertSqlSafe(sample_statement(mapping));
        let query = sqlx::query(sql).bind(percent).bind(limit);
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
        let mut page = KeyPage { looked_at: rows.len(), ..KeyPage::default() };
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

    fn column<'r, T>(&mut self, row: &'r PgRow, place: usize) -> Result<T, StoreError>
    where
        T: sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres>,
    {
        row.try_get(place).map_err(|error| self.failed(&error))
    }
}

fn limit_of(rows: usize) -> i64 {
    i64::try_from(rows).unwrap_or(i64::MAX)
}

// === statements ===
//
// In all of them a key's row is called `u`, also where it is one that was made of many.

/// The keys of a page: `$1` of them at most, behind the key in `$2` and so on.
fn page_statement(mapping: &Mapping, behind: bool) -> String {
    told(mapping, &rows(&mapping.layout, behind))
}

/// What such a page holds, and its last key.
fn count_statement(mapping: &Mapping, behind: bool) -> String {
    let layout = &mapping.layout;
    let texts: Vec<_> = (0..layout.keys().len()).map(|place| format!("k{place}::text")).collect();
    let mut back: Vec<_> = layout.key_order().iter().map(|at| format!("k{at} desc")).collect();
    if back.is_empty() {
        // One key, and nothing to sort it by.
        back.push("state".to_owned());
    }
    format!(
        "with page as materialized (select {keys}{state} as state from {rows}) \
         select count(*), count(*) filter (where state = {PRESENT}), \
                count(*) filter (where state = {UNDECIDED}), \
                (select array[{texts}]::text[] from page order by {back} limit 1) from page",
        keys = typed_keys(layout),
        state = state(mapping),
        rows = rows(layout, behind),
        texts = texts.join(", "),
        back = back.join(", "),
    )
}

/// Keys from about `$1` percent of the table's pages, of `$2` rows at most.
fn sample_statement(mapping: &Mapping) -> String {
    let layout = &mapping.layout;
    let keys = layout.keys().iter().map(|key| column(&key.column)).collect::<Vec<_>>().join(", ");
    let (table, complete) = (layout.table().quoted(), complete(layout));
    let sampled =
        format!("{table} as u tablesample system ($1::float8) where {complete} limit $2::bigint");
    match layout.element() {
        None => told(mapping, &sampled),
        Some(_) => {
            let each_once =
                format!("(select distinct {keys} from (select {keys} from {sampled}) as u)");
            told(mapping, &format!("{each_once} as u"))
        }
    }
}

/// How many keys, and how many pages. A small table is counted, as are the first keys of one with many rows a
/// key: a guess could be wrong many times over. (A partitioned one has no size of its own.)
fn size_statement(layout: &Layout) -> String {
    let table = layout.table().quoted();
    let (counted, keys) = match layout.element() {
        None => (
            format!("select from {table} limit {COUNTED_KEYS}"),
            format!(
                "case when s.bytes > {SMALL_BYTES} then greatest(c.reltuples, s.bytes / {ROW_BYTES}) \
                      when c.relkind = 'p' then greatest(c.reltuples, s.counted) \
                      else s.counted end"
            ),
        ),
        Some(_) => (
            format!("select from {} as u", each_key(layout, false, &COUNTED_KEYS.to_string())),
            format!(
                "case when s.counted < {COUNTED_KEYS} then s.counted else greatest(s.counted, ( \
                     select max(case when p.n_distinct < 0 then -p.n_distinct * c.reltuples \
                                     else p.n_distinct end) \
                     from pg_catalog.pg_stats as p \
                     join pg_catalog.pg_namespace as n on n.oid = c.relnamespace \
                     where p.schemaname = n.nspname and p.tablename = c.relname \
                       and p.attname = any(array[{}]::text[]))) end",
                layout.keys().iter().map(|key| literal(&key.column)).collect::<Vec<_>>().join(", ")
            ),
        ),
    };
    format!(
        "select ({keys})::bigint, greatest(s.bytes / {PAGE_BYTES}, 1) \
         from pg_catalog.pg_class as c, lateral ( \
             select pg_relation_size(c.oid) as bytes, \
                    (select count(*) from ({counted}) as counted) as counted \
         ) as s where c.oid = to_regclass($1)"
    )
}

/// Of each of these rows: its key as texts, what it is to clients, and what it takes to decide that.
fn told(mapping: &Mapping, rows: &str) -> String {
    let layout = &mapping.layout;
    let texts = (0..layout.keys().len()).map(|place| format!("k{place}::text, "));
    let extra = layout.extra().filter(|_| layout.element().is_none());
    format!(
        "select {texts}state, case when state = {UNDECIDED} then extra::text end \
         from (select {keys}{state} as state, {extra} as extra from {rows}) as page",
        texts = texts.collect::<String>(),
        keys = typed_keys(layout),
        state = state(mapping),
        extra = extra.map_or("null::jsonb".to_owned(), |extra| column(&extra.column)),
    )
}

/// `u."id" as k0, …, `
fn typed_keys(layout: &Layout) -> String {
    let keys = layout.keys().iter().enumerate();
    keys.map(|(place, key)| format!("{} as k{place}, ", column(&key.column))).collect()
}

/// The rows of a page, in order.
fn rows(layout: &Layout, behind: bool) -> String {
    match layout.element() {
        None => {
            let table = layout.table().quoted();
            let behind = behind.then(|| last_key(layout));
            format!("{table} as u {} limit $1::bigint", range(layout, behind.as_deref()))
        }
        Some(_) => format!("{} as u", each_key(layout, behind, "$1::bigint")),
    }
}

/// The keys of rows of which many have the same: from the first row behind a key to the first behind that
/// one's, so that a key with a million elements takes one step through the index, as any other. The
/// columns are named as in the table.
fn each_key(layout: &Layout, behind: bool, limit: &str) -> String {
    let table = layout.table().quoted();
    if layout.keys().is_empty() {
        // All rows are of the only key.
        return format!(
            "(select where {limit} > 0 and {} and exists (select from {table}))",
            !behind
        );
    }
    let last = behind.then(|| last_key(layout));
    let found = layout.key_order().iter().map(|place| format!("found.k{place}"));
    let found = found.collect::<Vec<_>>().join(", ");
    let first = range(layout, last.as_deref());
    let next = range(layout, Some(&found));
    let keys = typed_keys(layout);
    let names = layout.keys().iter().enumerate();
    let names = names.map(|(place, key)| format!("k{place} as {}", quote(&key.column)));
    format!(
        "(with recursive found as ( \
             (select {keys}1::bigint as number from {table} as u {first} limit 1) \
             union all \
             select next.* from found \
             cross join lateral (select {keys}found.number + 1 from {table} as u {next} limit 1) as next \
             where found.number < {limit}) \
         select {names} from found)",
        names = names.collect::<Vec<_>>().join(", "),
    )
}

/// The rows behind a key, in order. A key column that is NULL makes no key.
fn range(layout: &Layout, behind: Option<&str>) -> String {
    let keys = layout.key_order().iter().map(|&place| column(&layout.keys()[place].column));
    let order = keys.collect::<Vec<_>>().join(", ");
    let behind = behind.map_or(String::new(), |key| format!("and ({order}) > ({key}) "));
    format!("where {} {behind}order by {order}", complete(layout))
}

/// `$2::text::bigint, …`
fn last_key(layout: &Layout) -> String {
    let types = layout.key_order().iter().map(|&place| &layout.keys()[place].type_name);
    let types = types.enumerate().map(|(at, type_name)| format!("${}::text::{type_name}", at + 2));
    types.collect::<Vec<_>>().join(", ")
}

fn complete(layout: &Layout) -> String {
    let keys = layout.keys().iter().map(|key| format!("{} is not null", column(&key.column)));
    let keys: Vec<_> = keys.collect();
    if keys.is_empty() { "true".to_owned() } else { keys.join(" and ") }
}

/// Whether a read finds a key: see `Session::read` and `Session::read_parts`.
fn state(mapping: &Mapping) -> String {
    let layout = &mapping.layout;
    let expires_at = layout.expires_at().map_or_else(|| kept_expiry(mapping), column);
    let ms = |moment: &str| format!("floor(extract(epoch from {moment}) * 1000)");
    let past = format!("{} > {}", ms("clock_timestamp()"), ms(&expires_at));
    let otherwise = match layout.element() {
        None => row_state(layout),
        Some(_) => elements_state(layout),
    };
    format!("case when {past} then {ABSENT} {otherwise} end")
}

/// Of a value with one row.
fn row_state(layout: &Layout) -> String {
    let mut cases = String::new();
    let fields =
        layout.fields().iter().map(|field| format!("{} is not null", column(&field.column)));
    let fields = fields.collect::<Vec<_>>().join(" or ");
    if !fields.is_empty() {
        cases.push_str(&format!("when {fields} then {PRESENT} "));
    }
    if let Some(extra) = layout.extra() {
        let kept = column(&extra.column);
        let names = layout.fields().iter().map(|field| literal(&extra::name_of(&field.field)));
        let names = names.collect::<Vec<_>>().join(", ");
        cases.push_str(&format!(
            "when jsonb_typeof({kept}) is distinct from 'object' then {ABSENT} \
             when jsonb_strip_nulls({kept}) - array[{names}]::text[] <> '{{}}' then {PRESENT} \
             when jsonb_strip_nulls({kept}) <> '{{}}' then {UNDECIDED} "
        ));
    }
    format!("{cases}else {ABSENT}")
}

/// Of a value with a row an element: SQL can leave rows that are none.
fn elements_state(layout: &Layout) -> String {
    let Some(is_element) = layout.element_condition() else { return format!("else {PRESENT}") };
    let same = layout.keys().iter().map(|key| format!("t.{0} = u.{0} and ", quote(&key.column)));
    format!(
        "when exists (select from {table} as t where {same}{is_element}) then {PRESENT} else {ABSENT}",
        table = layout.table().quoted(),
        same = same.collect::<String>(),
    )
}

/// The key's expiry in `respgres.expiry`. As in `read`, a query of its own for each key.
fn kept_expiry(mapping: &Mapping) -> String {
    let pieces = mapping.pattern.pieces().map(|piece| match piece {
        Piece::Literal(text) => literal(text),
        Piece::Capture(place) => format!("{}::text", column(&mapping.layout.keys()[place].column)),
    });
    format!(
        "(select e.expires_at from respgres.expiry as e where e.mapping = {} \
         and e.key = convert_to({}, 'UTF8'))",
        literal(&mapping.name),
        pieces.collect::<Vec<_>>().join(" || ")
    )
}

fn column(name: &str) -> String {
    format!("u.{}", quote(name))
}

/// A text as SQL; `standard_conforming_strings` is on.
fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}
