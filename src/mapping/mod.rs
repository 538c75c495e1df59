//! Which keys are rows: key patterns, and the layout of a mapped value in its table.

mod binding;
pub mod codec;
pub(crate) mod extra;
pub mod gate;
pub mod layout;
pub mod overlap;
pub mod pattern;
mod phase;
pub mod registry;
pub mod shape;

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use crate::config::{Kind, OnExpire, OnPostgresDown, Strategy};
use crate::value::ValueKind;

pub use gate::{Gate, Pass};
pub use layout::Layout;
pub use pattern::KeyPattern;
pub use phase::Phase;
pub use registry::Registry;
pub use shape::TableShape;

/// A mapping that respgres runs on: checked against the configuration and the database's catalog.
#[derive(Clone, Debug)]
pub struct Mapping {
    /// Its place in the configuration file, from 0.
    pub index: usize,
    pub name: String,
    pub pattern: KeyPattern,
    /// By which strategy its keys are served now.
    pub gate: &'static Gate,
    pub cache_ttl_ms: i64,
    pub negative_ttl_ms: i64,
    pub on_expire: OnExpire,
    /// `None`: what is usual for its strategy.
    pub on_postgres_down: Option<OnPostgresDown>,
    pub layout: Layout,
}

// === impl Mapping ===

impl Mapping {
    /// By which strategy its keys are served now; may change while nobody is inside of its gate.
    pub fn strategy(&self) -> Strategy {
        self.gate.strategy()
    }

    /// Whether Redis may have keys that Postgres lacks: they are imported before anything is done with them.
    pub fn imports(&self) -> bool {
        self.gate.imports()
    }

    /// What becomes of keys that Redis does not have, while Postgres is lost.
    pub fn on_postgres_down(&self) -> OnPostgresDown {
        self.on_postgres_down.unwrap_or_else(|| OnPostgresDown::usual(self.strategy()))
    }

    /// Whether Redis may be told first of its keys: as a rule, or while Postgres is lost.
    pub fn may_be_behind(&self) -> bool {
        match self.strategy() {
            Strategy::CacheFirst => true,
            Strategy::DualWrite | Strategy::DatabaseFirst => {
                self.on_postgres_down() != OnPostgresDown::Reject
            }
            Strategy::RedisOnly | Strategy::PostgresOnly => false,
        }
    }

    /// Whether that may become so by a change of its strategy.
    pub fn may_ever_be_behind(&self) -> bool {
        self.may_be_behind()
            || self.on_postgres_down.is_some_and(|policy| policy != OnPostgresDown::Reject)
    }

    /// What its keys hold.
    pub fn holds(&self) -> ValueKind {
        match self.layout.kind() {
            Kind::Hash | Kind::HashEntries => ValueKind::Hash,
            Kind::Set => ValueKind::Set,
        }
    }
}

/// A client's key together with the mapping that it belongs to.
#[derive(Clone, Debug)]
pub struct MappedKey {
    pub mapping: Arc<Mapping>,
    pub key: Bytes,
    /// Where the pattern's captures stand in `key`, in the pattern's order.
    pub captures: Vec<Range<usize>>,
    /// Of an operation under way on it.
    pub pass: Option<Pass>,
}
