//! Binding: a mapping of the configuration checked against the table as it stands in the catalog.
//!
//! Every problem is told at once, each with the way out; a layout only comes of a table without any.

use super::codec::Codec;
use super::layout::{ExtraColumn, FieldColumn, KeyColumn, Layout};
use super::pattern::CaptureKind;
use super::registry::Plan;
use super::shape::{BaseType, ColumnShape, Privileges, TableName, TableShape};
use crate::config::{self, Problem};

/// One mapping under examination.
struct Binding<'a> {
    path: String,
    shape: &'a TableShape,
    used: Vec<(String, String)>,
    problems: Vec<Problem>,
}

// === impl Layout ===

impl Layout {
    /// The layout of a mapping whose table has this shape.
    ///
    /// # Errors
    /// All problems at once: columns that are missing, generated, of a type that has no codec or that
    /// does not suit its purpose; key columns without a unique index of their own; columns that no
    /// insert could fill; privileges that are lacking; or that there is no such table (`None`).
    pub fn bind(plan: &Plan, shape: Option<&TableShape>) -> Result<Self, Vec<Problem>> {
        let config = &plan.config;
        let Some(shape) = shape else {
            let text = format!(
                "the database has no table {:?} (or none that this user can see); `respgres schema` \
                 prints it, and with --apply creates it",
                config.table
            );
            return Err(vec![Problem::new(format!("{}.table", config.path(plan.index)), text)]);
        };
        let mut binding = Binding {
            path: config.path(plan.index),
            shape,
            used: Vec::new(),
            problems: Vec::new(),
        };
        binding.check_table(&TableName::parse(&config.table));
        let keys = binding.keys(plan);
        let element = config.element.as_ref().and_then(|column| binding.element(column));
        let mut key_order = Vec::new();
        if config.element.is_some() == element.is_some() {
            key_order = binding.check_index(&keys, element.as_ref());
        }
        let fields = match &config.value {
            Some(value) => binding.field("value", value, false).into_iter().collect(),
            None => binding.fields(plan),
        };
        let extra = config.extra.as_ref().and_then(|column| binding.extra(column));
        let expires_at = config.expires_at.as_ref().and_then(|column| binding.expires_at(column));
        binding.check_other_columns();
        if !binding.problems.is_empty() {
            return Err(binding.problems);
        }
        let by_field =
            fields.iter().enumerate().map(|(place, column)| (column.field.clone(), place));
        Ok(Layout {
            mapping: config.name.clone(),
            table: TableName::parse(&config.table),
            by_field: by_field.collect(),
            keys,
            key_order,
            element,
            fields,
            extra,
            expires_at,
        })
    }
}

// === impl Binding ===

impl Binding<'_> {
    fn complain(&mut self, below: &str, text: String) {
        self.problems.push(Problem::new(format!("{}.{below}", self.path), text));
    }

    fn table(&self) -> String {
        format!("table {:?}", self.shape.name.to_string())
    }

    fn check_table(&mut self, name: &TableName) {
        if !matches!(self.shape.relation_kind, 'r' | 'p') {
            let text = format!("{:?} is no table, but a view or the like", name.to_string());
            self.complain("table", text);
        }
        if self.shape.encoding != "UTF8" {
            let encoding = &self.shape.encoding;
            let text = format!(
                "the database's encoding is {encoding}; text is only kept exactly in one created \
                 with encoding UTF8"
            );
            self.complain("table", text);
        }
        let Privileges { select, insert, update, delete } = self.shape.privileges;
        let wanted =
            [(select, "SELECT"), (insert, "INSERT"), (update, "UPDATE"), (delete, "DELETE")];
        let lacking: Vec<_> =
            wanted.into_iter().filter(|(granted, _)| !granted).map(|(_, name)| name).collect();
        if !lacking.is_empty() {
            let text = format!(
                "the user that respgres connects as may not {} on {}; GRANT it",
                lacking.join(", "),
                name.quoted()
            );
            self.complain("table", text);
        }
    }

    /// The column, which nothing else of the mapping may use; complains when there is none.
    fn take(&mut self, below: &str, name: &str) -> Option<ColumnShape> {
        let Some(column) = self.shape.column(name) else {
            let text = format!("{} has no column {name:?}; {}", self.table(), self.suggest(name));
            self.complain(below, text);
            return None;
        };
        let column = column.clone();
        if let Some((_, other)) = self.used.iter().find(|(used, _)| used == name) {
            let text = format!("column {name:?} is used by {other} already; use another");
            self.complain(below, text);
            return None;
        }
        if column.generated {
            let text = format!(
                "column {name:?} gets its value from Postgres (generated, or an identity); map a \
                 column that can be written"
            );
            self.complain(below, text);
        }
        self.used.push((name.to_owned(), below.to_owned()));
        Some(column)
    }

    /// The column that was probably meant, or all that there are.
    fn suggest(&self, name: &str) -> String {
        let plain = |name: &str| -> String {
            name.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect()
        };
        let names = || self.shape.columns.iter().map(|column| column.name.as_str());
        let same: Vec<_> = names().filter(|other| plain(other) == plain(name)).collect();
        match (&same[..], self.shape.columns.len()) {
            ([only], _) => format!("it has {only:?}"),
            (_, 0) => "it has none at all".into(),
            _ => format!("it has {}", names().collect::<Vec<_>>().join(", ")),
        }
    }

    fn keys(&mut self, plan: &Plan) -> Vec<KeyColumn> {
        let pattern = &plan.pattern;
        let mut keys = Vec::new();
        for (name, kind) in pattern.capture_names().iter().zip(pattern.capture_kinds()) {
            let below = format!("key_columns.{name}");
            let column_name = plan.config.key_columns.get(name).unwrap_or(name);
            let Some(column) = self.take(&below, column_name) else { continue };
            let type_name = &column.type_name;
            let (suits, wanted) = key_types(*kind);
            if !suits(&column.base) {
                let kind = kind.name();
                let text = format!(
                    "column {column_name:?} is {type_name}; a capture of kind {kind} goes into \
                     {wanted}"
                );
                self.complain(&below, text);
                continue;
            }
            if !column.deterministic {
                let text = format!(
                    "column {column_name:?} has a collation that takes different texts for equal; \
                     give it one that is deterministic, such as \"C\""
                );
                self.complain(&below, text);
            }
            match Codec::new(&column, None) {
                Ok(codec) => keys.push(KeyColumn {
                    capture: name.clone(),
                    column: column.name,
                    type_name: column.type_name,
                    codec,
                }),
                Err(text) => self.complain(&below, format!("column {column_name:?}: {text}")),
            }
        }
        keys
    }

    /// The column that, with the key columns, tells the rows of one key apart.
    fn element(&mut self, config: &config::FieldColumn) -> Option<KeyColumn> {
        let below = &config.field;
        let column = self.take(below, &config.column)?;
        if !column.deterministic {
            let text = format!(
                "column {:?} has a collation that takes different texts for equal; give it one that \
                 is deterministic, such as \"C\"",
                column.name
            );
            self.complain(below, text);
        }
        if !tells_apart(&column.base) {
            let text = format!(
                "column {:?} is {}, to which different texts are equal; the {below}s of a key have to \
                 be told apart by it: make it text, varchar, bytea, uuid, smallint, integer, bigint, \
                 boolean, date, timestamp, timestamptz or an enum",
                column.name, column.type_name
            );
            self.complain(below, text);
            return None;
        }
        if !column.not_null {
            let text = format!(
                "column {:?} may be NULL, which is no {below}; ALTER TABLE {} ALTER COLUMN {} SET NOT \
                 NULL",
                column.name,
                self.shape.name.quoted(),
                super::shape::quote(&column.name),
            );
            self.complain(below, text);
        }
        match Codec::new(&column, config.format.as_deref()) {
            Ok(codec) => Some(KeyColumn {
                capture: below.clone(),
                column: column.name,
                type_name: column.type_name,
                codec,
            }),
            Err(text) => {
                self.complain(below, format!("column {:?}: {text}", config.column));
                None
            }
        }
    }

    /// The places of the key columns in the order of the unique index that keeps the rows apart. With one
    /// row an element the rows of a key are found by that index, so it has to begin with the key's columns.
    fn check_index(&mut self, keys: &[KeyColumn], element: Option<&KeyColumn>) -> Vec<usize> {
        let place = |column: &String| keys.iter().position(|key| key.column == *column);
        let suits = |index: &&Vec<String>| {
            let (of_keys, others) = index.split_at(keys.len().min(index.len()));
            of_keys.len() == keys.len()
                && of_keys.iter().all(|column| place(column).is_some())
                && others.iter().eq(element.map(|element| &element.column))
        };
        if let Some(index) = self.shape.unique_indexes.iter().find(suits) {
            return index.iter().filter_map(place).collect();
        }
        let all: Vec<&str> = keys.iter().chain(element).map(|key| key.column.as_str()).collect();
        if !all.is_empty() {
            let list = all.join(", ");
            let order = match element {
                Some(element) => format!(", with {:?} last", element.column),
                None => String::new(),
            };
            let text = format!(
                "{} has no primary key or unique index (immediate, not partial) on exactly ({list})\
                 {order}; CREATE UNIQUE INDEX ON {} ({list})",
                self.table(),
                self.shape.name.quoted()
            );
            self.complain("table", text);
        }
        Vec::new()
    }

    fn fields(&mut self, plan: &Plan) -> Vec<FieldColumn> {
        let field = |config: &config::FieldColumn| {
            self.field(&format!("columns.{}", config.field), config, true)
        };
        plan.config.columns.iter().filter_map(field).collect()
    }

    /// A field's or value's column; `may_lack`: a row may be without it.
    fn field(
        &mut self,
        below: &str,
        config: &config::FieldColumn,
        may_lack: bool,
    ) -> Option<FieldColumn> {
        let column = self.take(below, &config.column)?;
        if may_lack && column.not_null && column.default.is_none() {
            let text = format!(
                "column {:?} is NOT NULL without a default, so a hash without the field could not be \
                 stored; ALTER TABLE {} ALTER COLUMN {} DROP NOT NULL, or give it a default",
                config.column,
                self.shape.name.quoted(),
                super::shape::quote(&config.column),
            );
            self.complain(below, text);
        }
        match Codec::new(&column, config.format.as_deref()) {
            Ok(codec) => Some(FieldColumn {
                field: config.field.clone().into(),
                column: column.name,
                type_name: column.type_name,
                codec,
                not_null: column.not_null,
                default: column.default.filter(|_| column.not_null && may_lack),
            }),
            Err(text) => {
                self.complain(below, format!("column {:?}: {text}", config.column));
                None
            }
        }
    }

    fn extra(&mut self, name: &str) -> Option<ExtraColumn> {
        let column = self.take("extra", name)?;
        if column.base != BaseType::Jsonb {
            let text = format!("column {name:?} is {}; extra needs jsonb", column.type_name);
            self.complain("extra", text);
        }
        Some(ExtraColumn { column: column.name, not_null: column.not_null })
    }

    fn expires_at(&mut self, name: &str) -> Option<String> {
        let column = self.take("expires_at", name)?;
        if column.base != BaseType::TimestampTz {
            let text = format!(
                "column {name:?} is {}; the expiry needs timestamp with time zone",
                column.type_name
            );
            self.complain("expires_at", text);
        }
        if column.not_null {
            let text = format!(
                "column {name:?} is NOT NULL, and most keys have no expiry; ALTER TABLE {} ALTER \
                 COLUMN {} DROP NOT NULL",
                self.shape.name.quoted(),
                super::shape::quote(name)
            );
            self.complain("expires_at", text);
        }
        Some(column.name)
    }

    fn check_other_columns(&mut self) {
        let unfilled = |column: &&ColumnShape| {
            column.not_null
                && column.default.is_none()
                && !column.generated
                && !self.used.iter().any(|(used, _)| *used == column.name)
        };
        let unfilled: Vec<_> =
            self.shape.columns.iter().filter(unfilled).map(|column| column.name.clone()).collect();
        for name in unfilled {
            let text = format!(
                "column {name:?} of {} is NOT NULL, has no default and no field, so no insert \
                 could fill it; map a field to it, give it a default, or DROP NOT NULL",
                self.table()
            );
            self.complain("table", text);
        }
    }
}

/// Whether values of which the same text is written are the only ones that an index takes for equal.
/// (1.5 and 1.50, 0 and -0, or two spellings of the same JSON are equal too.)
fn tells_apart(base: &BaseType) -> bool {
    match base {
        BaseType::Text
        | BaseType::Varchar
        | BaseType::Bytea
        | BaseType::Smallint
        | BaseType::Integer
        | BaseType::Bigint
        | BaseType::Boolean
        | BaseType::Date
        | BaseType::Timestamp
        | BaseType::TimestampTz
        | BaseType::Uuid
        | BaseType::Enum(_) => true,
        // For another complaint.
        BaseType::Other => true,
        _ => false,
    }
}

/// Which columns take a capture, and how to say so.
fn key_types(kind: CaptureKind) -> (fn(&BaseType) -> bool, &'static str) {
    use BaseType::{Bigint, Date, Integer, Text, Uuid, Varchar};
    match kind {
        CaptureKind::Uuid => {
            (|base| matches!(base, Uuid | Text | Varchar), "uuid, text or varchar")
        }
        CaptureKind::Int => (
            |base| matches!(base, Bigint | Integer | Text | Varchar),
            "bigint, integer, text or varchar",
        ),
        CaptureKind::Date => {
            (|base| matches!(base, Date | Text | Varchar), "date, text or varchar")
        }
        CaptureKind::Text
        | CaptureKind::Path
        | CaptureKind::Rest
        | CaptureKind::Month
        | CaptureKind::Slug => (|base| matches!(base, Text | Varchar), "text or varchar"),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;
    use crate::config::{self, Kind, Strategy as WriteStrategy};
    use crate::mapping::pattern::KeyPattern;
    use crate::value::Fields;

    fn column(name: &str, base: BaseType, modifier: i32) -> ColumnShape {
        ColumnShape {
            name: name.into(),
            type_name: format!("{base:?}").to_lowercase(),
            base,
            modifier,
            not_null: false,
            default: None,
            generated: false,
            deterministic: true,
        }
    }

    /// A table with a column of each type, `f0`, `f1` and so on, for the fields of the same names.
    fn all_types() -> Vec<ColumnShape> {
        let labels = vec!["sad".to_owned(), "1".to_owned()];
        let types = [
            (BaseType::Text, -1),
            (BaseType::Varchar, 4 + 3),
            (BaseType::Bytea, -1),
            (BaseType::Smallint, -1),
            (BaseType::Integer, -1),
            (BaseType::Bigint, -1),
            (BaseType::Numeric, -1),
            (BaseType::Numeric, (4 << 16 | 1) + 4),
            (BaseType::Real, -1),
            (BaseType::Double, -1),
            (BaseType::Boolean, -1),
            (BaseType::Date, -1),
            (BaseType::Timestamp, -1),
            (BaseType::TimestampTz, 3),
            (BaseType::Uuid, -1),
            (BaseType::Json, -1),
            (BaseType::Jsonb, -1),
            (BaseType::Enum(labels), -1),
        ];
        let named = types.into_iter().enumerate();
        named
            .map(|(place, (base, modifier))| column(&format!("f{place}"), base, modifier))
            .collect()
    }

    fn layout(columns: Vec<ColumnShape>, extra: bool) -> Layout {
        let field = |column: &ColumnShape| config::FieldColumn {
            field: column.name.clone(),
            column: column.name.clone(),
            format: None,
            column_type: None,
        };
        let mapping = config::Mapping {
            name: "m".into(),
            key: "k:{id:text}".into(),
            exclude: Vec::new(),
            kind: Kind::Hash,
            table: "t".into(),
            strategy: WriteStrategy::DualWrite,
            cache_ttl_ms: 1,
            negative_ttl_ms: 1,
            on_expire: config::OnExpire::Delete,
            on_postgres_down: None,
            expires_at: None,
            extra: extra.then(|| "extra".into()),
            key_columns: BTreeMap::new(),
            element: None,
            value: None,
            columns: columns.iter().map(field).collect(),
        };
        let ends = [column("id", BaseType::Text, -1), column("extra", BaseType::Jsonb, -1)];
        let shape = TableShape {
            name: TableName::parse("t"),
            relation_kind: 'r',
            encoding: "UTF8".into(),
            columns: columns.into_iter().chain(ends).collect(),
            unique_indexes: vec![vec!["id".into()]],
            privileges: Privileges { select: true, insert: true, update: true, delete: true },
        };
        let pattern = KeyPattern::parse(&mapping.key).expect("a good pattern");
        let plan = Plan { index: 0, config: mapping, pattern };
        Layout::bind(&plan, Some(&shape)).expect("a table that fits")
    }

    fn there_and_back(layout: &Layout, fields: &Fields) -> Fields {
        let row = layout.encode(fields).expect("extra takes everything");
        layout.decode(row.columns.iter().map(Option::as_deref), row.extra.as_deref())
    }

    /// Bytes that are likely to be of some type, and bytes that are of none.
    fn value() -> impl proptest::strategy::Strategy<Value = Vec<u8>> {
        prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..12),
            "[ +-]?[0-9]{0,6}[.]?[0-9]{0,4}([eE][+-]?[0-9]{1,3})?".prop_map(String::into_bytes),
            "[0-9]{4}-[01][0-9]-[0-3][0-9]([T ][0-2][0-9]:[0-5][0-9](:[0-5][0-9]([.][0-9]{1,7})?)?)?(Z|[+-][01][0-9])?"
                .prop_map(String::into_bytes),
            "(true|FALSE|t|1|0|yes|sad|infinity|nan|null|)".prop_map(String::into_bytes),
            "[{\\[\"]{1,3}[a-z0-9:, ]{0,6}[\"\\]}]{1,3}".prop_map(String::into_bytes),
            "[{]?[0-9a-fA-F]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}[}]?"
                .prop_map(String::into_bytes),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]

        #[test]
        fn any_bytes_come_back_from_any_column(value in value(), other in any::<Vec<u8>>()) {
            let layout = layout(all_types(), true);
            let names = layout.fields().iter().map(|column| column.field.clone());
            let mut fields: Fields = names.map(|name| (name, Bytes::from(value.clone()))).collect();
            fields.insert(Bytes::from([b"x".as_slice(), &other].concat()), Bytes::from(value));
            prop_assert_eq!(there_and_back(&layout, &fields), fields);
        }

        #[test]
        fn without_extra_a_value_is_exact_or_refused(value in value()) {
            let layout = layout(all_types(), false);
            for column in layout.fields() {
                let fields = Fields::from_iter([(column.field.clone(), Bytes::from(value.clone()))]);
                match layout.check_field(&column.field, &value) {
                    Ok(()) => prop_assert_eq!(there_and_back(&layout, &fields), fields),
                    Err(refused) => prop_assert_eq!(Err(refused), layout.encode(&fields).map(drop)),
                }
            }
        }
    }

    #[test]
    fn a_refusal_names_mapping_field_and_column() {
        let layout = layout(vec![column("n", BaseType::Bigint, -1)], false);
        let refused = layout.check_field(b"n", b"five").expect_err("no number").to_string();
        assert_eq!(
            refused,
            "mapping \"m\": field \"n\" could not be given back unchanged by column \"n\" of type \
             bigint, and there is no extra column; nothing was written"
        );
        let refused = layout.check_field(b"x", b"1").expect_err("no column").to_string();
        assert!(refused.contains("field \"x\" has no column"), "{refused}");
        assert_eq!(layout.check_field(b"n", b"5"), Ok(()));
    }
}
