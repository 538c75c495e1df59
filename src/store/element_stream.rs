//! Reading a value with one row an element that is too large to be held: some rows at a time.
//!
//! Invariants
//! - The number of elements and the elements are of one snapshot, so that one can be told before the
//!   others.
//! - Rows come as they are asked for, so that the one who takes them sets the pace; no more of them are
//!   in memory than the sockets between hold.
//! - A snapshot that nobody goes on with does not last: Postgres ends the transaction when nothing is
//!   asked for some time, see `session`.

use futures_util::TryStreamExt;
use futures_util::stream::BoxStream;
use sqlx::postgres::PgRow;
use sqlx::{AssertSqlSafe, Executor, Row};

use bytes::Bytes;

use super::element_read::{element_columns, names, sources};
use super::error::StoreError;
use super::exchange::Exchange;
use super::read::{has_row, kept_expiry, key_arrays, key_condition};
use super::session::Session;
use super::statement::Statement;
use crate::mapping::codec::micros_of_text;
use crate::mapping::shape::quote;
use crate::mapping::{Layout, MappedKey, Mapping};

/// The cursor, of which a session has one at a time.
const CURSOR: &str = "respgres_elements";

/// Rows that are looked at together while elements are only counted.
const COUNTED_ROWS: usize = 1000;

/// What a row of the first statement says.
#[derive(Debug, Default)]
struct Counted {
    /// Elements for certain.
    certain: usize,
    /// Rows without a value, of which `extra` has one that may count or not.
    uncertain: usize,
    expired: bool,
}

/// Which rows a cursor goes through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rows {
    All,
    /// Those without a value in its column.
    Uncertain,
}

/// Rows on their way.
pub struct Elements<'s> {
    rows: BoxStream<'s, Result<PgRow, sqlx::Error>>,
    broken: &'s mut bool,
    layout: &'s Layout,
    /// Rows that have come, elements or not.
    pub come: usize,
}

// === impl Session ===

impl Session {
    /// Begins a transaction in which a key's elements can be read (`next_elements`), as of one moment; how
    /// many there are, 0 for a key that is absent. Each of the statements to come may take `limit_ms`.
    ///
    /// # Errors
    /// Those of the statements, see [`StoreError`].
    pub async fn begin_elements(
        &mut self,
        mapping: &Mapping,
        key: &MappedKey,
        limit_ms: u64,
    ) -> Result<usize, StoreError> {
        let layout = &mapping.layout;
        self.begin_snapshot().await?;
        if !has_row(layout, key) {
            return Ok(0);
        }
        let counted = self.count_elements(mapping, key).await?;
        if counted.expired {
            return Ok(0);
        }
        let mut count = counted.certain;
        if counted.uncertain > 0 {
            count += self.count_uncertain(layout, key).await?;
        }
        self.open_cursor(layout, key, Rows::All).await?;
        // Whoever takes the rows may be slow.
        self.command(format!("set local statement_timeout = {limit_ms}")).await?;
        Ok(count)
    }

    /// The next so many rows of the value.
    ///
    /// # Errors
    /// When the session has been lost before.
    pub fn next_elements<'s>(
        &'s mut self,
        layout: &'s Layout,
        rows: usize,
    ) -> Result<Elements<'s>, StoreError> {
        let (connection, broken) = self.parts()?;
        let fetch = format!("fetch forward {rows} from {CURSOR}");
        // Stays so unless the rows are taken to the last.
        *broken = true;
        let rows = connection.fetch(sqlx::raw_sql(AssertSqlSafe(fetch)));
        Ok(Elements { rows, broken, layout, come: 0 })
    }

    async fn count_elements(
        &mut self,
        mapping: &Mapping,
        key: &MappedKey,
    ) -> Result<Counted, StoreError> {
        let layout = &mapping.layout;
        let statement = with_key(Statement::new(count_statement(layout)), layout, key);
        let statements = vec![statement.bind(mapping.name.as_str())];
        let mut counted = Counted::default();
        self.exchange(&Exchange { statements, ..Exchange::default() }, |_, row| {
            let now_ms: i64 = row.try_get(0)?;
            let expires_at = row.try_get::<Option<&str>, _>(1)?.and_then(micros_of_text);
            let count = |number: i64| usize::try_from(number).unwrap_or(0);
            counted = Counted {
                certain: count(row.try_get(2)?),
                uncertain: count(row.try_get(3)?),
                // As Redis: gone when now is later than the expiry.
                expired: expires_at
                    .is_some_and(|micros| micros != i64::MAX && now_ms > micros.div_euclid(1000)),
            };
            Ok(())
        })
        .await?;
        Ok(counted)
    }

    /// Elements among the rows without a value: only decoding tells.
    async fn count_uncertain(
        &mut self,
        layout: &Layout,
        key: &MappedKey,
    ) -> Result<usize, StoreError> {
        self.open_cursor(layout, key, Rows::Uncertain).await?;
        let mut count = 0;
        loop {
            let mut elements = self.next_elements(layout, COUNTED_ROWS)?;
            while elements.next().await?.is_some() {
                count += 1;
            }
            if elements.come < COUNTED_ROWS {
                break;
            }
        }
        self.command(format!("close {CURSOR}")).await?;
        Ok(count)
    }

    async fn open_cursor(
        &mut self,
        layout: &Layout,
        key: &MappedKey,
        rows: Rows,
    ) -> Result<(), StoreError> {
        let sql = format!("declare {CURSOR} no scroll cursor for {}", rows_statement(layout, rows));
        let statement = with_key(Statement::new(sql), layout, key);
        self.attempt(async |connection| connection.execute(statement.bound()).await.map(drop)).await
    }
}

// === impl Elements ===

impl Elements<'_> {
    /// The next element, a set's member with an empty value; `None` after the last row.
    ///
    /// # Errors
    /// Those of the statement; the session is broken then.
    pub async fn next(&mut self) -> Result<Option<(Bytes, Bytes)>, StoreError> {
        let failed = |error: sqlx::Error| StoreError::of(&error);
        while let Some(row) = self.rows.try_next().await.map_err(failed)? {
            self.come += 1;
            let text = |at: usize| row.try_get::<Option<&str>, _>(at).map_err(failed);
            let Some(element) = text(0)? else { continue };
            if let Some(element) = self.layout.decode_element(element, text(1)?, text(2)?) {
                return Ok(Some(element));
            }
        }
        *self.broken = false;
        Ok(None)
    }
}

// === the statements ===

fn with_key<'a>(
    mut statement: Statement<'a>,
    layout: &Layout,
    key: &'a MappedKey,
) -> Statement<'a> {
    for array in key_arrays(layout, std::iter::once(key)) {
        statement = statement.bind(array);
    }
    statement.bind(vec![&key.key[..]])
}

/// SQL that says whether a row without a value may be an element.
fn uncertain_condition(layout: &Layout) -> Option<String> {
    let (value, extra) = (layout.fields().first()?, layout.extra()?);
    let (value, extra) = (quote(&value.column), quote(&extra.column));
    Some(format!("t.{value} is null and t.{extra} ? 'value'"))
}

/// The clock, the key's expiry, and how many elements there are for certain and perhaps.
fn count_statement(layout: &Layout) -> String {
    let (table, condition) = (layout.table().quoted(), key_condition(layout));
    let certain = match layout.fields().first() {
        Some(value) => format!("count(t.{})", quote(&value.column)),
        None => "count(*)".to_owned(),
    };
    let uncertain = match uncertain_condition(layout) {
        Some(uncertain) => format!("count(*) filter (where {uncertain})"),
        None => "0::bigint".to_owned(),
    };
    let (key, keys) = (sources(layout, 1, &["bytea[]"]), names(layout, "key"));
    let expires_at = kept_expiry(layout.keys().len() + 2);
    format!(
        "select floor(extract(epoch from clock_timestamp()) * 1000)::bigint, {expires_at}::text, c.* \
         from unnest({key}) as u({keys}) cross join lateral (\
         select {certain}, {uncertain} from {table} as t where {condition}) as c"
    )
}

fn rows_statement(layout: &Layout, rows: Rows) -> String {
    let (table, columns) = (layout.table().quoted(), element_columns(layout));
    let condition = [
        Some(key_condition(layout)),
        match rows {
            Rows::All => layout.element_condition(),
            Rows::Uncertain => uncertain_condition(layout),
        },
    ];
    let condition = condition.into_iter().flatten().collect::<Vec<_>>().join(" and ");
    let (key, keys) = (sources(layout, 1, &["bytea[]"]), names(layout, "key"));
    format!(
        "select s.* from unnest({key}) as u({keys}) cross join lateral (\
         select {columns} from {table} as t where {condition} offset 0) as s"
    )
}
