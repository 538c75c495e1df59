//! What the database's catalog says of a table. Pure data; the store loads it.

/// A table as it stands in the catalog.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TableShape {
    pub name: TableName,
    /// `pg_class.relkind`: `r` for a table, `p` for a partitioned one, `v` for a view, …
    pub relation_kind: char,
    /// The encoding of the database; bytes can only be kept exactly in `UTF8`.
    pub encoding: String,
    /// In the table's order, without dropped and system columns.
    pub columns: Vec<ColumnShape>,
    /// Column lists of the indexes that make rows unique and that `ON CONFLICT` can use: valid,
    /// immediate, without expressions, not partial. Those first that give the rows in the order of the
    /// columns' own comparison, ascending.
    pub unique_indexes: Vec<Vec<String>>,
    /// What the connected user may do with the table.
    pub privileges: Privileges,
}

/// A table's name, with its schema when the configuration gives one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct TableName {
    /// `None`: found through the search path.
    pub schema: Option<String>,
    pub name: String,
}

/// A column as it stands in the catalog.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ColumnShape {
    pub name: String,
    /// As `format_type` writes it, ready for a cast: `numeric(10,2)`, `timestamp with time zone`,
    /// `public.mood`.
    pub type_name: String,
    /// What the type is at bottom; a domain's is that of the type under it.
    pub base: BaseType,
    /// `atttypmod` (of a domain: `typtypmod`); -1 for none.
    pub modifier: i32,
    /// Also true for a domain that forbids NULL.
    pub not_null: bool,
    /// The default as an SQL expression, as `pg_get_expr` writes it.
    pub default: Option<String>,
    /// `GENERATED ALWAYS AS (…) STORED`, or an identity column: Postgres gives the value.
    pub generated: bool,
    /// Whether only equal bytes are equal to the column's collation.
    pub deterministic: bool,
}

/// The types that a column's codec may be for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BaseType {
    Text,
    Varchar,
    Char,
    Bytea,
    Smallint,
    Integer,
    Bigint,
    Numeric,
    Real,
    Double,
    Boolean,
    Date,
    Time,
    TimeTz,
    Timestamp,
    TimestampTz,
    Uuid,
    Inet,
    Cidr,
    Macaddr,
    Json,
    Jsonb,
    /// With its labels, in their order.
    Enum(Vec<String>),
    /// Of elements of one type, in any number of dimensions.
    Array(Box<ElementShape>),
    Other,
}

/// The elements of an array column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ElementShape {
    /// What the type is at bottom; never an array, as arrays of arrays are domains' business.
    pub base: BaseType,
    /// As of a column.
    pub modifier: i32,
}

/// What the connected user may do with a table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Privileges {
    pub select: bool,
    pub insert: bool,
    pub update: bool,
    pub delete: bool,
}

// === impl TableShape ===

impl TableShape {
    pub fn column(&self, name: &str) -> Option<&ColumnShape> {
        self.columns.iter().find(|column| column.name == name)
    }
}

// === impl TableName ===

impl TableName {
    /// Reads `table` or `schema.table`, each taken as it is written, without quotes.
    pub fn parse(text: &str) -> Self {
        match text.split_once('.') {
            Some((schema, name)) => Self { schema: Some(schema.into()), name: name.into() },
            None => Self { schema: None, name: text.into() },
        }
    }

    /// The name as SQL, every part quoted.
    pub fn quoted(&self) -> String {
        match &self.schema {
            Some(schema) => format!("{}.{}", quote(schema), quote(&self.name)),
            None => quote(&self.name),
        }
    }
}

impl std::fmt::Display for TableName {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.schema {
            Some(schema) => write!(formatter, "{schema}.{}", self.name),
            None => formatter.write_str(&self.name),
        }
    }
}

// === impl BaseType ===

impl BaseType {
    /// By the type's name in `pg_catalog.pg_type`; an enum comes by its labels instead.
    pub fn of_catalog_name(name: &str) -> Self {
        match name {
            "text" => Self::Text,
            "varchar" => Self::Varchar,
            "bpchar" => Self::Char,
            "bytea" => Self::Bytea,
            "int2" => Self::Smallint,
            "int4" => Self::Integer,
            "int8" => Self::Bigint,
            "numeric" => Self::Numeric,
            "float4" => Self::Real,
            "float8" => Self::Double,
            "bool" => Self::Boolean,
            "date" => Self::Date,
            "time" => Self::Time,
            "timetz" => Self::TimeTz,
            "timestamp" => Self::Timestamp,
            "timestamptz" => Self::TimestampTz,
            "uuid" => Self::Uuid,
            "inet" => Self::Inet,
            "cidr" => Self::Cidr,
            "macaddr" => Self::Macaddr,
            "json" => Self::Json,
            "jsonb" => Self::Jsonb,
            _ => Self::Other,
        }
    }
}

/// An identifier as SQL: quoted, so that case and odd characters are kept.
pub fn quote(identifier: &str) -> String {
    format!("\"{}\"", identifier.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_quoted_part_by_part() {
        assert_eq!(TableName::parse("api_keys").quoted(), "\"api_keys\"");
        assert_eq!(TableName::parse("App.Api\"Keys").quoted(), "\"App\".\"Api\"\"Keys\"");
    }
}
