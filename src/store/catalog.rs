//! The catalog: what Postgres itself says of a table.

use sqlx::Row;
use sqlx::postgres::PgRow;

use super::error::StoreError;
use super::session::Session;
use crate::mapping::shape::{
    BaseType, ColumnShape, ElementShape, Privileges, TableName, TableShape,
};

const TABLE: &str = "
    select c.oid::bigint, c.relkind::text,
           (select pg_encoding_to_char(encoding) from pg_database where datname = current_database())::text,
           has_table_privilege(c.oid, 'SELECT'), has_table_privilege(c.oid, 'INSERT'),
           has_table_privilege(c.oid, 'UPDATE'), has_table_privilege(c.oid, 'DELETE')
    from pg_catalog.pg_class as c
    where c.oid = to_regclass($1)";

/// Domains are followed down to the type under them, whose modifier they carry: of the column, and of
/// the elements of an array, which have the array's own modifier.
const COLUMNS: &str = "
    select a.attname::text, format_type(a.atttypid, a.atttypmod), b.modifier,
           case when b.typtype = 'b' and b.typnamespace = 'pg_catalog'::regnamespace
                then b.typname::text else '' end,
           case when b.typtype = 'e' then
                array(select enumlabel::text from pg_catalog.pg_enum
                      where enumtypid = b.type_oid order by enumsortorder) end,
           a.attnotnull or b.not_null,
           case when a.attgenerated = '' then pg_get_expr(d.adbin, d.adrelid) end,
           a.attgenerated <> '' or a.attidentity <> '',
           coalesce(l.collisdeterministic, true),
           case when e.typtype = 'b' and e.typnamespace = 'pg_catalog'::regnamespace
                then e.typname::text else '' end,
           case when e.typtype = 'e' then
                array(select enumlabel::text from pg_catalog.pg_enum
                      where enumtypid = e.type_oid order by enumsortorder) end,
           e.modifier
    from pg_catalog.pg_attribute as a
    left join pg_catalog.pg_attrdef as d on d.adrelid = a.attrelid and d.adnum = a.attnum
    left join pg_catalog.pg_collation as l on l.oid = a.attcollation
    cross join lateral (
        with recursive under(type_oid, modifier, not_null) as (
            select a.atttypid, a.atttypmod, false
            union all
            select t.typbasetype, t.typtypmod, under.not_null or t.typnotnull
            from under join pg_catalog.pg_type as t on t.oid = under.type_oid
            where t.typtype = 'd')
        select under.*, t.typname, t.typtype, t.typnamespace
        from under join pg_catalog.pg_type as t on t.oid = under.type_oid
        where t.typtype <> 'd') as b
    left join lateral (
        with recursive under(type_oid, modifier) as (
            select t.oid, b.modifier from pg_catalog.pg_type as t where t.typarray = b.type_oid
            union all
            select t.typbasetype, t.typtypmod
            from under join pg_catalog.pg_type as t on t.oid = under.type_oid
            where t.typtype = 'd')
        select under.*, t.typname, t.typtype, t.typnamespace
        from under join pg_catalog.pg_type as t on t.oid = under.type_oid
        where t.typtype <> 'd') as e on true
    where a.attrelid = $1::bigint::oid and a.attnum > 0 and not a.attisdropped
    order by a.attnum";

const UNIQUE_INDEXES: &str = "
    select array(select a.attname::text
                 from unnest((i.indkey::int2[])[0:i.indnkeyatts - 1]) with ordinality as k(number, n)
                 join pg_catalog.pg_attribute as a
                   on a.attrelid = i.indrelid and a.attnum = k.number
                 order by k.n)
    from pg_catalog.pg_index as i
    where i.indrelid = $1::bigint::oid and i.indisunique and i.indisvalid and i.indimmediate
      and i.indpred is null and i.indexprs is null
    order by 0 = all (i.indoption::int2[]) and not exists (
                 select from unnest(i.indkey::int2[], i.indcollation::oid[], i.indclass::oid[])
                             as k(number, collation_oid, class)
                 join pg_catalog.pg_attribute as a
                   on a.attrelid = i.indrelid and a.attnum = k.number
                 join pg_catalog.pg_opclass as o on o.oid = k.class
                 where k.collation_oid <> a.attcollation or not o.opcdefault) desc,
             i.indexrelid";

const CONSTRAINT_COLUMNS: &str = "
    select array(select a.attname::text
                 from unnest(c.conkey) with ordinality as k(number, n)
                 join pg_catalog.pg_attribute as a
                   on a.attrelid = c.conrelid and a.attnum = k.number
                 order by k.n)
    from pg_catalog.pg_constraint as c
    where c.conrelid = to_regclass($1) and c.conname = $2";

// === impl Session ===

impl Session {
    /// The columns that a constraint of a table is about; none when it has no such constraint.
    ///
    /// # Errors
    /// Those of the statement, see [`StoreError`].
    pub async fn constraint_columns(
        &mut self,
        table: &TableName,
        constraint: &str,
    ) -> Result<Vec<String>, StoreError> {
        let columns = self
            .attempt(async |connection| {
                sqlx::query_scalar(CONSTRAINT_COLUMNS)
                    .bind(table.quoted())
                    .bind(constraint)
                    .fetch_optional(connection)
                    .await
            })
            .await?;
        Ok(columns.unwrap_or_default())
    }

    /// What the catalog says of a table; `None` when there is no such table.
    ///
    /// # Errors
    /// Those of the statements, see [`StoreError`].
    pub async fn table_shape(
        &mut self,
        name: &TableName,
    ) -> Result<Option<TableShape>, StoreError> {
        let table = self
            .attempt(async |connection| {
                sqlx::query(TABLE).bind(name.quoted()).fetch_optional(connection).await
            })
            .await?;
        let Some(table) = table else { return Ok(None) };
        let oid: i64 = table.try_get(0).map_err(|error| self.failed(&error))?;
        let columns = self
            .attempt(async |connection| sqlx::query(COLUMNS).bind(oid).fetch_all(connection).await)
            .await?;
        let indexes = self
            .attempt(async |connection| {
                sqlx::query_scalar(UNIQUE_INDEXES).bind(oid).fetch_all(connection).await
            })
            .await?;
        let shape = shape(name, &table, &columns, indexes);
        shape.map(Some).map_err(|error| self.failed(&error))
    }
}

fn shape(
    name: &TableName,
    table: &PgRow,
    columns: &[PgRow],
    unique_indexes: Vec<Vec<String>>,
) -> Result<TableShape, sqlx::Error> {
    Ok(TableShape {
        name: name.clone(),
        relation_kind: table.try_get::<&str, _>(1)?.chars().next().unwrap_or(' '),
        encoding: table.try_get(2)?,
        columns: columns.iter().map(column).collect::<Result<_, _>>()?,
        unique_indexes,
        privileges: Privileges {
            select: table.try_get(3)?,
            insert: table.try_get(4)?,
            update: table.try_get(5)?,
            delete: table.try_get(6)?,
        },
    })
}

fn column(row: &PgRow) -> Result<ColumnShape, sqlx::Error> {
    let element_modifier: Option<i32> = row.try_get(11)?;
    let base = match element_modifier {
        None => base(row, 3, 4)?,
        Some(modifier) => {
            BaseType::Array(Box::new(ElementShape { base: base(row, 9, 10)?, modifier }))
        }
    };
    Ok(ColumnShape {
        name: row.try_get(0)?,
        type_name: row.try_get(1)?,
        modifier: row.try_get(2)?,
        base,
        not_null: row.try_get(5)?,
        default: row.try_get(6)?,
        generated: row.try_get(7)?,
        deterministic: row.try_get(8)?,
    })
}

/// A type by the places of its name and of its labels.
fn base(row: &PgRow, name: usize, labels: usize) -> Result<BaseType, sqlx::Error> {
    Ok(match row.try_get(labels)? {
        Some(labels) => BaseType::Enum(labels),
        None => BaseType::of_catalog_name(row.try_get(name)?),
    })
}
