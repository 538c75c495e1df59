//! The triggers that tell respgres of changes by others, as SQL: `respgres schema --triggers` prints it,
//! `--apply` runs it.
//!
//! A statement that changes a mapped table puts the keys of its rows into `respgres.outbox`, in its own
//! transaction, once each. What respgres itself writes (`OWN_WRITES` is on) is left out: it looks after
//! the copies itself. It does not know what triggers and foreign keys of others do then, so that is told.
//!
//! The functions run with their owner's rights, so that who may change the table need not know of the outbox;
//! and with settings of their own, on which the text of a key depends. Temporary objects come last in their
//! search path: they come first where they are not named, and who calls could slip in a type of theirs.

use std::fmt::Write as _;

use super::outbox::CHANNEL;
use super::session::OWN_WRITES;
use crate::config::Strategy;
use crate::mapping::pattern::Piece;
use crate::mapping::registry::Plan;
use crate::mapping::shape::{TableName, quote};

/// The statements for one mapping's table; nothing where Redis has no copies of it. They may be run again at
/// any time.
pub fn trigger_statements(plan: &Plan) -> String {
    let config = &plan.config;
    if matches!(config.strategy, Strategy::RedisOnly | Strategy::PostgresOnly) {
        return String::new();
    }
    let table = TableName::parse(&config.table).quoted();
    let mapping = literal(&config.name);
    let key = key_expression(plan);
    let changed = format!("respgres.{}", quote(&format!("changed_{}", config.name)));
    let emptied = format!("respgres.{}", quote(&format!("emptied_{}", config.name)));
    // Within a format of Postgres'.
    let (emptied_mapping, emptied_key) = (mapping.replace('%', "%%"), key.replace('%', "%%"));
    let mut sql = format!("-- {}: changes by others\n", config.name);
    let mut line = |text: std::fmt::Arguments<'_>| {
        sql.write_fmt(text).expect("writing to a string cannot fail");
    };
    let function = "returns trigger language plpgsql security definer\n    \
                    set search_path = pg_catalog, pg_temp set datestyle = 'ISO, YMD' \
                    set timezone = 'UTC' set bytea_output = 'hex'";
    let insert = "insert into respgres.outbox (mapping, key)";
    line(format_args!(
        "create or replace function {changed}() {function}
as $respgres$
begin
    if tg_op = 'INSERT' then
        {insert}
        select distinct {mapping}, {key} from new_rows where {key} is not null;
    elsif tg_op = 'DELETE' then
        {insert}
        select distinct {mapping}, {key} from old_rows where {key} is not null;
    else
        {insert}
        select {mapping}, {key} from old_rows where {key} is not null
        union select {mapping}, {key} from new_rows where {key} is not null;
    end if;
    perform pg_notify('{CHANNEL}', '');
    return null;
end
$respgres$;
create or replace function {emptied}() {function}
as $respgres$
begin
    execute format($sql$
        {insert}
        select distinct {emptied_mapping}, {emptied_key} from %I.%I where {emptied_key} is not null
    $sql$, tg_table_schema, tg_table_name);
    perform pg_notify('{CHANNEL}', '');
    return null;
end
$respgres$;
",
    ));
    let by_others = format!(
        "for each statement when (current_setting('{OWN_WRITES}', true) is distinct from 'on'\n    \
         or pg_catalog.pg_trigger_depth() > 0)"
    );
    for (event, name, rows) in [
        ("after insert", "respgres_inserted", "referencing new table as new_rows"),
        (
            "after update",
            "respgres_updated",
            "referencing old table as old_rows new table as new_rows",
        ),
        ("after delete", "respgres_deleted", "referencing old table as old_rows"),
    ] {
        line(format_args!(
            "create or replace trigger {name} {event} on {table}\n    {rows}\n    {by_others}\n    \
             execute function {changed}();\n"
        ));
    }
    line(format_args!(
        "create or replace trigger respgres_emptied before truncate on {table}\n    {by_others}\n    \
         execute function {emptied}();\n"
    ));
    sql
}

/// A row's key, as SQL.
fn key_expression(plan: &Plan) -> String {
    let parts: Vec<String> = plan
        .pattern
        .pieces()
        .map(|piece| match piece {
            Piece::Literal(text) => literal(text),
            Piece::Capture(at) => {
                let name = &plan.pattern.capture_names()[at];
                let column = plan.config.key_columns.get(name).unwrap_or(name);
                format!("{}::text", quote(column))
            }
        })
        .collect();
    format!("convert_to({}, 'UTF8')", parts.join(" || "))
}

/// A text as a literal of Postgres.
fn literal(text: &str) -> String {
    format!("'{}'::text", text.replace('\'', "''"))
}
