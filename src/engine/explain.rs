//! What respgres makes of one key: its mapping, the SQL that reads it, and what either store has of
//! it. For `respgres explain` and `RESPGRES EXPLAIN`.
//!
//! Nothing is changed by looking, no mark either. Of values only the sizes are told. A store that is
//! out of reach leaves its lines without an answer, not the others.

use bytes::Bytes;

use super::EngineSettings;
use super::tables::Tables;
use super::through::connected;
use crate::command::Needs;
use crate::config::{Kind, Strategy};
use crate::mapping::registry::Plan;
use crate::mapping::{Gate, Layout, MappedKey, Mapping, Registry, overlap};
use crate::store::{RowLock, Session, StoreError, Want, select_statement};
use crate::upstream::control::{Control, Frame};
use crate::upstream::scripts::{RESERVED_PREFIX, aside_of, mark_of};
use crate::value::ValueKind;

/// Mappings that are named when a key belongs to none.
const NEAR: usize = 3;

/// One key is explained with these.
pub struct Explainer<'a> {
    pub settings: &'a EngineSettings,
    pub registry: &'a Registry,
    pub tables: &'a Tables,
}

/// A name and what there is to say under it, line by line.
pub type Explanation = Vec<(&'static str, String)>;

// === impl Explainer ===

impl Explainer<'_> {
    /// Says what there is to say of a key.
    pub async fn explain(
        &self,
        key: &Bytes,
        session: &mut Option<Session>,
        control: &mut Control,
    ) -> Explanation {
        let mut told = vec![("key", String::from_utf8_lossy(key).into_owned())];
        if key.starts_with(RESERVED_PREFIX) {
            told.push(("mapping", "none: such keys are reserved for respgres".to_owned()));
            return told;
        }
        let matching = self.settings.plans.iter().filter(|plan| plan.pattern.matches(key));
        let plan = matching.min_by(|one, other| overlap::order(&one.pattern, &other.pattern));
        let Some(plan) = plan else {
            told.push(("mapping", "none: the key lives in Redis alone".to_owned()));
            told.push(("near", self.near(key)));
            return told;
        };
        let mut mappings = self.registry.all().iter();
        let gate = mappings.find(|mapping| mapping.index == plan.index).map(|mapping| mapping.gate);
        told.extend(of_plan(plan, gate, key));
        let Some(key) = self.registry.mapped_key(key) else { return told };
        match self.tables.current(&key.mapping) {
            Some(mapping) => {
                told.push(("columns", columns(&mapping.layout)));
                told.push(("select", select_statement(&mapping.layout)));
                told.extend(self.of_store(&mapping, &key, session).await);
            }
            None => told.push(("row", "not known: the table does not fit the mapping".to_owned())),
        }
        told.extend(of_upstream(&key, control).await);
        told
    }

    /// Mappings whose keys begin as this one does.
    fn near(&self, key: &[u8]) -> String {
        let shared = |plan: &Plan| {
            let prefix = plan.pattern.literal_prefix().bytes();
            prefix.zip(key).take_while(|(one, other)| one == *other).count()
        };
        let longest = self.settings.plans.iter().map(shared).max().unwrap_or(0);
        let near = self.settings.plans.iter().filter(|plan| longest > 0 && shared(plan) == longest);
        let near: Vec<String> = near.take(NEAR).map(mapping_of).collect();
        if near.is_empty() { "no mapping".to_owned() } else { near.join(", ") }
    }

    async fn of_store(
        &self,
        mapping: &Mapping,
        key: &MappedKey,
        session: &mut Option<Session>,
    ) -> Explanation {
        let read = match self.read(mapping, key, session).await {
            Ok(read) => read,
            Err(error) => {
                tracing::warn!(%error, "a row could not be read to explain it");
                return vec![("row", "not known: Postgres does not tell".to_owned())];
            }
        };
        let Some(row) = read.rows.into_iter().next() else { return Vec::new() };
        let Some(record) = row.record else {
            let text = match (row.present, mapping.imports()) {
                (true, _) => "there, and absent for clients: past its expiry, or without a field",
                (false, true) => "absent: what Redis has is brought over when it is needed",
                (false, false) => "absent",
            };
            return vec![("row", text.to_owned())];
        };
        let expiry = match record.expires_at_ms {
            None => "none".to_owned(),
            Some(at_ms) => format!("in {} ms", at_ms - read.now_ms),
        };
        let elements = format!("there: {} {}", record.len(), elements_of(mapping));
        let row = if mapping.layout.element().is_some() {
            format!("{elements}, a row each")
        } else {
            let fields = record.fields.iter();
            let bytes: usize = fields.map(|(name, value)| name.len() + value.len()).sum();
            format!("{elements}, {bytes} bytes")
        };
        vec![("row", row), ("expiry", expiry)]
    }

    async fn read(
        &self,
        mapping: &Mapping,
        key: &MappedKey,
        session: &mut Option<Session>,
    ) -> Result<crate::store::ReadRows, StoreError> {
        // Where an element has a row of its own their number tells enough, and costs less than all of them.
        let needs = Needs { count: true, ..Needs::default() };
        let want = [Want { key, needs: &needs, whole_up_to: 0 }];
        let was_connected = session.is_some();
        let connected_session = connected(session, self.settings).await?;
        match connected_session.read_parts(mapping, &want, RowLock::None).await {
            // The connection had died unnoticed.
            Err(StoreError::Unreachable(_)) if was_connected => {
                let session = connected(session, self.settings).await?;
                session.read_parts(mapping, &want, RowLock::None).await
            }
            read => read,
        }
    }
}

// === the mapping ===

fn mapping_of(plan: &Plan) -> String {
    format!("{} ({})", plan.config.name, plan.pattern.as_str())
}

fn of_plan(plan: &Plan, gate: Option<&Gate>, key: &[u8]) -> Explanation {
    let captures = plan.pattern.captures(key).unwrap_or_default();
    let names = plan.pattern.capture_names().iter().zip(plan.pattern.capture_kinds());
    let captures = names.zip(captures).map(|((name, kind), range)| {
        format!("{name} ({kind}) = {}", String::from_utf8_lossy(&key[range]))
    });
    let mut strategy = match gate.map_or(plan.config.strategy, Gate::strategy) {
        Strategy::DualWrite => "dual_write: Postgres first, read from Redis, else from Postgres",
        Strategy::CacheFirst => "cache_first: Redis first, read from Redis, else from Postgres",
        Strategy::DatabaseFirst => "database_first: Postgres first, read from Postgres",
        Strategy::RedisOnly => "redis_only: the key lives in Redis alone",
        Strategy::PostgresOnly => "postgres_only: no copy in Redis",
    }
    .to_owned();
    if gate.is_some_and(|gate| gate.version() > 0) {
        strategy.push_str(" (by order, whatever the configuration file says)");
    }
    vec![
        ("mapping", mapping_of(plan)),
        ("kind", plan.config.kind.name().to_owned()),
        ("table", plan.config.table.clone()),
        ("strategy", strategy),
        ("captures", captures.collect::<Vec<_>>().join(", ")),
    ]
}

fn elements_of(mapping: &Mapping) -> &'static str {
    match mapping.holds() {
        ValueKind::Hash => "fields",
        ValueKind::Set => "members",
    }
}

/// Where what is, with the columns' types.
fn columns(layout: &Layout) -> String {
    let keys = layout
        .keys()
        .iter()
        .map(|key| format!("{{{}}} in {} {}", key.capture, key.column, key.type_name));
    let element = layout
        .element()
        .map(|element| format!("{} in {} {}", element.capture, element.column, element.type_name));
    let fields = layout.fields().iter().map(|field| {
        let name = String::from_utf8_lossy(&field.field);
        format!("{name} in {} {}", field.column, field.type_name)
    });
    let others = match (layout.kind(), layout.extra()) {
        (Kind::Hash, Some(extra)) => Some(format!("other fields in {} jsonb", extra.column)),
        (Kind::Hash, None) => Some("no other fields".to_owned()),
        (_, Some(extra)) => Some(format!("odd values in {} jsonb", extra.column)),
        (_, None) => None,
    };
    let expiry = layout.expires_at().unwrap_or("respgres.expiry");
    let ends = others.into_iter().chain([format!("expiry in {expiry}")]);
    keys.chain(element).chain(fields).chain(ends).collect::<Vec<_>>().join(", ")
}

// === the copy ===

async fn of_upstream(key: &MappedKey, control: &mut Control) -> Explanation {
    let word = |word: &'static str| Bytes::from_static(word.as_bytes());
    let (mark, aside) = (mark_of(&key.key), aside_of(&key.key));
    let length = match key.mapping.holds() {
        ValueKind::Hash => "HLEN",
        ValueKind::Set => "SCARD",
    };
    let commands: [&[Bytes]; 6] = [
        &[word("TYPE"), key.key.clone()],
        &[word(length), key.key.clone()],
        &[word("PTTL"), key.key.clone()],
        &[word("GET"), mark.clone()],
        &[word("PTTL"), mark],
        &[word("EXISTS"), aside],
    ];
    let told = match control.commands(&commands).await {
        Err(crate::upstream::UpstreamError::Lost(_)) => control.commands(&commands).await,
        told => told,
    };
    match told {
        Ok(told) => copy_and_mark(&told, elements_of(&key.mapping)),
        Err(error) => {
            tracing::warn!(%error, "a copy could not be looked at to explain it");
            vec![("cached", "not known: the upstream Redis is out of reach".to_owned())]
        }
    }
}

/// What the replies to the questions above say.
fn copy_and_mark(told: &[Frame], elements: &str) -> Explanation {
    let left = |frame: &Frame| match frame {
        Frame::Integer(-1) => "without end".to_owned(),
        Frame::Integer(left_ms) => format!("for {left_ms} ms"),
        _ => "for a time that is not known".to_owned(),
    };
    let [kind, length, copy_left, mark, mark_left, aside] = told else { return Vec::new() };
    let cached = match (kind, length) {
        (Frame::SimpleString(kind), _) if &kind[..] == b"none" => "no".to_owned(),
        (_, Frame::Integer(count)) => format!("yes: {count} {elements}, {}", left(copy_left)),
        (Frame::SimpleString(kind), _) => {
            format!("no: there is a {} in its place", String::from_utf8_lossy(kind))
        }
        _ => "not known: Redis does not tell".to_owned(),
    };
    let is_aside = matches!(aside, Frame::Integer(1));
    let holder = match mark {
        Frame::BulkString(mark) if mark.starts_with(b"r:") => "reader: it may fill the copy",
        Frame::BulkString(mark) if mark.starts_with(b"w:") && is_aside => {
            "writer: the copy is set aside until it has ended"
        }
        Frame::BulkString(mark) if mark.starts_with(b"w:") => "writer: no copy until it has ended",
        Frame::BulkString(mark) if mark.starts_with(b"d:") && mark.ends_with(b":p") => {
            "dirty: a part of the value, which Postgres does not know yet"
        }
        Frame::BulkString(mark) if mark.starts_with(b"d:") => {
            "dirty: Postgres does not know it yet"
        }
        Frame::BulkString(mark) if mark.starts_with(b"gone:") => {
            "dirty and absent: Postgres does not know it yet"
        }
        Frame::BulkString(mark) if &mark[..] == b"gone" => "absent: known to have no row",
        Frame::BulkString(_) => "one that this version does not know",
        _ => return vec![("cached", cached), ("mark", "none".to_owned())],
    };
    vec![("cached", cached), ("mark", format!("{holder}, {}", left(mark_left)))]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_told_by_its_kind_and_never_by_its_token() {
        let check = |mark: Option<&'static str>, aside, expected: &str| {
            let mark = mark.map_or(Frame::Null, |mark| Frame::BulkString(Bytes::from(mark)));
            let none = Frame::SimpleString(Bytes::from("none"));
            let zero = Frame::Integer(0);
            let told =
                [none, zero, Frame::Integer(-2), mark, Frame::Integer(9), Frame::Integer(aside)];
            let told = copy_and_mark(&told, "fields");
            assert_eq!(told, [("cached", "no".to_owned()), ("mark", expected.to_owned())]);
        };
        check(None, 0, "none");
        check(Some("r:secret"), 0, "reader: it may fill the copy, for 9 ms");
        check(Some("w:secret"), 0, "writer: no copy until it has ended, for 9 ms");
        check(Some("w:secret"), 1, "writer: the copy is set aside until it has ended, for 9 ms");
        check(Some("gone"), 0, "absent: known to have no row, for 9 ms");
        check(Some("gone:7"), 0, "dirty and absent: Postgres does not know it yet, for 9 ms");
        let part = "dirty: a part of the value, which Postgres does not know yet, for 9 ms";
        check(Some("d:7-1:p"), 0, part);
        check(Some("d:7"), 0, "dirty: Postgres does not know it yet, for 9 ms");
    }
}
