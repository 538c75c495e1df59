//! The tables that mappings want, as SQL: `respgres schema` prints it, `--apply` runs it.
//!
//! The statements may be run again at any time: they add what is missing and change nothing else.

use std::fmt::Write as _;

use sqlx::{AssertSqlSafe, Executor};

use super::error::StoreError;
use super::session::Session;
use crate::mapping::pattern::CaptureKind;
use crate::mapping::registry::Plan;
use crate::mapping::shape::{TableName, quote};

/// The statements for one mapping's table: created if it is not there, with every column that the
/// mapping names.
pub fn create_statements(plan: &Plan) -> String {
    let config = &plan.config;
    let table = TableName::parse(&config.table);
    let mut keys = Vec::new();
    for (name, kind) in plan.pattern.capture_names().iter().zip(plan.pattern.capture_kinds()) {
        let column = config.key_columns.get(name).unwrap_or(name);
        keys.push((quote(column), key_type(*kind)));
    }
    if let Some(element) = &config.element {
        let type_name = element.column_type.as_deref().unwrap_or("text");
        keys.push((quote(&element.column), type_name));
    }
    let mut others = Vec::new();
    for field in config.columns.iter().chain(&config.value) {
        others.push((quote(&field.column), field.column_type.as_deref().unwrap_or("text")));
    }
    others.extend(config.extra.iter().map(|column| (quote(column), "jsonb")));
    others.extend(config.expires_at.iter().map(|column| (quote(column), "timestamptz")));

    let mut sql = format!("-- {}: {}\n", config.name, config.key);
    let mut line = |text: std::fmt::Arguments<'_>| {
        sql.write_fmt(text).expect("writing to a string cannot fail");
    };
    if let Some(schema) = &table.schema {
        line(format_args!("create schema if not exists {};\n", quote(schema)));
    }
    line(format_args!("create table if not exists {} (\n", table.quoted()));
    for (column, type_name) in &keys {
        line(format_args!("    {column} {type_name} not null,\n"));
    }
    for (column, type_name) in &others {
        line(format_args!("    {column} {type_name},\n"));
    }
    let list = keys.iter().map(|(column, _)| column.as_str()).collect::<Vec<_>>().join(", ");
    line(format_args!("    primary key ({list})\n);\n"));
    for (place, (column, type_name)) in others.iter().enumerate() {
        let begin =
            if place == 0 { format!("alter table {}\n", table.quoted()) } else { String::new() };
        let end = if place + 1 == others.len() { ';' } else { ',' };
        line(format_args!("{begin}    add column if not exists {column} {type_name}{end}\n"));
    }
    if let Some(column) = &config.expires_at {
        // For who deletes expired rows. On a large table in use it is better made beforehand, by hand,
        // with CONCURRENTLY and this name.
        line(format_args!(
            "create index if not exists {} on {} ({column}) where {column} is not null;\n",
            quote(&format!("{}_{column}_idx", table.name)),
            table.quoted(),
            column = quote(column)
        ));
    }
    sql
}

// === impl Session ===

impl Session {
    /// Runs statements in one transaction: all of them or none.
    ///
    /// # Errors
    /// Those of the statements, see [`StoreError`].
    pub async fn apply(&mut self, statements: &str) -> Result<(), StoreError> {
        let statements = AssertSqlSafe(statements.to_owned());
        self.begin_locked(&[]).await?;
        let done = self
            .attempt(async |connection| connection.execute(sqlx::raw_sql(statements)).await)
            .await;
        match done {
            Ok(_) => self.commit().await,
            Err(error) => {
                self.rollback().await?;
                Err(error)
            }
        }
    }
}

fn key_type(kind: CaptureKind) -> &'static str {
    match kind {
        CaptureKind::Uuid => "uuid",
        CaptureKind::Int => "bigint",
        CaptureKind::Date => "date",
        CaptureKind::Text
        | CaptureKind::Path
        | CaptureKind::Rest
        | CaptureKind::Month
        | CaptureKind::Slug => "text",
    }
}
