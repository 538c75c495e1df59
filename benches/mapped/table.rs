//! The tables both sides write to: 20 typed columns, of which a write sets 3.

use std::fmt::Write as _;
use std::sync::{Arc, LazyLock};

use sqlx::postgres::PgArguments;
use sqlx::query::Query;
use sqlx::{AssertSqlSafe, Executor, PgPool, Postgres};

use crate::rig::Failure;

/// Keys of the random writes: 1 to this.
pub(crate) const ROWS: u32 = 100_000;

/// The row of the hot counter, which random writes leave alone.
pub(crate) const HOT: u32 = 0;

/// The hot counter.
pub(crate) const COUNTER: &str = "c0";

/// Column `cN` has the Nth type.
const TYPES: [Type; 20] = {
    use Type::{Bigint, Boolean, Integer, Numeric, Text, Timestamp};
    [
        Bigint, Text, Integer, Boolean, Bigint, Numeric, Text, Timestamp, Bigint, Integer, Boolean,
        Bigint, Text, Numeric, Bigint, Timestamp, Text, Integer, Boolean, Bigint,
    ]
};

#[derive(Clone, Copy)]
enum Type {
    Bigint,
    Integer,
    Boolean,
    Numeric,
    Text,
    Timestamp,
}

/// Three columns that a write sets, and the statement of the side without respgres.
pub(crate) struct Triple {
    pub(crate) columns: [usize; 3],
    pub(crate) names: [String; 3],
    statement: Arc<str>,
}

/// 32 of the possible triples: few enough for sqlx's statement cache, which holds 100 a connection;
/// with all 1,140 the pool would spend its time preparing statements.
pub(crate) static TRIPLES: LazyLock<Vec<Triple>> = LazyLock::new(|| {
    (0..)
        .map(|n: usize| [n % 20, (n * 7 + 3) % 20, (n * 11 + 8) % 20])
        .filter(|[a, b, c]| a != b && b != c && a != c)
        .take(32)
        .map(Triple::new)
        .collect()
});

impl Type {
    fn name(self) -> &'static str {
        match self {
            Self::Bigint => "bigint",
            Self::Integer => "integer",
            Self::Boolean => "boolean",
            Self::Numeric => "numeric",
            Self::Text => "text",
            Self::Timestamp => "timestamptz",
        }
    }
}

impl Triple {
    fn new(columns: [usize; 3]) -> Self {
        let names = columns.map(|column| format!("c{column}"));
        let [a, b, c] = &names;
        let [x, y, z]: [String; 3] = std::array::from_fn(|place| {
            // sqlx binds these two types only with features that respgres does not use.
            match TYPES[columns[place]] {
                Type::Numeric | Type::Timestamp => {
                    format!("${}::text::{}", place + 2, TYPES[columns[place]].name())
                }
                _ => format!("${}", place + 2),
            }
        });
        let statement = format!(
            "INSERT INTO baseline_rows (id, {a}, {b}, {c}) VALUES ($1, {x}, {y}, {z}) \
             ON CONFLICT (id) DO UPDATE SET {a} = excluded.{a}, {b} = excluded.{b}, {c} = excluded.{c}"
        );
        Self { columns, names, statement: statement.into() }
    }

    /// The values as a client writes them, one for each column; they differ with `seed`.
    pub(crate) fn values(&self, seed: u32) -> [String; 3] {
        self.columns.map(|column| value(column, seed))
    }

    /// The typed upsert of the same values.
    pub(crate) fn upsert(&self, id: u32, seed: u32) -> Query<'_, Postgres, PgArguments> {
        let mut query = sqlx::query(AssertSqlSafe(Arc::clone(&self.statement))).bind(i64::from(id));
        let number = i64::from(seed) * 31;
        for (column, value) in self.columns.iter().zip(self.values(seed)) {
            query = match TYPES[*column] {
                Type::Bigint => query.bind(number),
                Type::Integer => query.bind(number as i32),
                Type::Boolean => query.bind(seed.is_multiple_of(2)),
                Type::Numeric | Type::Timestamp | Type::Text => query.bind(value),
            };
        }
        query
    }
}

/// All fields of a hash with their values.
pub(crate) fn whole_row(seed: u32) -> Vec<[String; 2]> {
    (0..TYPES.len()).map(|column| [format!("c{column}"), value(column, seed)]).collect()
}

/// The column's value as a client writes it.
fn value(column: usize, seed: u32) -> String {
    match TYPES[column] {
        Type::Bigint | Type::Integer => seed.wrapping_mul(31).to_string(),
        Type::Boolean => seed.is_multiple_of(2).to_string(),
        Type::Numeric => format!("{}.{}", seed, seed % 9 + 1),
        Type::Text => format!("text of about thirty bytes {seed}"),
        Type::Timestamp => format!("2026-11-{:02}T22:20:35.142Z", seed % 28 + 1),
    }
}

/// `[[mapping]]` for `<name>:{id:int}` and the table `<name>_rows`.
pub(crate) fn mapping(name: &str, strategy: &str) -> String {
    let mut text = format!(
        "[[mapping]]\nname = \"{name}\"\nkey = \"{name}:{{id:int}}\"\nkind = \"hash\"\n\
         table = \"{name}_rows\"\nstrategy = \"{strategy}\"\n\n[mapping.columns]\n",
    );
    for (column, kind) in TYPES.iter().enumerate() {
        // Writing to a String cannot fail.
        let kind = kind.name();
        let _ = writeln!(text, "c{column} = {{ column = \"c{column}\", type = \"{kind}\" }}");
    }
    text
}

/// The tables, with all their rows, so that the first round works on what the last one does.
pub(crate) async fn create(pool: &PgPool) -> Result<(), Failure> {
    let columns: Vec<String> = TYPES
        .iter()
        .enumerate()
        .map(|(column, kind)| format!("c{column} {}", kind.name()))
        .collect();
    for table in ["bench_rows", "behind_rows", "baseline_rows"] {
        let statements = format!(
            "CREATE TABLE {table} (id bigint PRIMARY KEY, {});
             INSERT INTO {table} (id, c1, c4, c7)
                 SELECT n, 'text of about thirty bytes', n, '2026-11-21' FROM generate_series(1, {ROWS}) n;
             VACUUM ANALYZE {table}",
            columns.join(", ")
        );
        // One by one: VACUUM cannot run in the transaction that several statements at once are.
        for statement in statements.split(';') {
            pool.execute(AssertSqlSafe(statement.to_owned())).await?;
        }
    }
    Ok(())
}

/// What the hot counter's row says; 0 when there is none.
pub(crate) async fn hot_counter(pool: &PgPool, table: &str) -> Result<i64, Failure> {
    let query = format!("SELECT {COUNTER} FROM {table} WHERE id = {HOT}");
    let held: Option<Option<i64>> =
        sqlx::query_scalar(AssertSqlSafe(query)).fetch_optional(pool).await?;
    Ok(held.flatten().unwrap_or(0))
}
