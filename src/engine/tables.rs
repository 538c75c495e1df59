//! The tables of the mappings as they are now, for all workers.
//!
//! A mapping is bound to its table when respgres starts. When Postgres says later that the table is
//! another one, its shape is read again: either the mapping fits the new shape, and goes on with it,
//! or it is set aside, and only its own operations fail until the table fits again.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use crate::mapping::registry::Plan;
use crate::mapping::shape::TableName;
use crate::mapping::{Layout, Mapping};
use crate::store::{Session, StoreError};

/// How long a mapping stays set aside before its table is looked at again.
const PAUSE: Duration = Duration::from_secs(1);

/// A look this short ago is not repeated by those that fail together.
const LATELY: Duration = Duration::from_millis(20);

#[derive(Debug, Default)]
pub struct Tables {
    plans: HashMap<usize, Plan>,
    /// By `Mapping::index`: only those that are not what they were at the start.
    changed: RwLock<HashMap<usize, Table>>,
    /// How many of `changed` are set aside.
    aside: AtomicUsize,
}

#[derive(Clone, Debug)]
enum Table {
    Fits { mapping: Arc<Mapping>, looked_at: Instant },
    SetAside { looked_at: Instant },
}

// === impl Tables ===

impl Tables {
    pub fn new(plans: &[Plan]) -> Self {
        let plans = plans.iter().map(|plan| (plan.index, plan.clone())).collect();
        Self { plans, ..Self::default() }
    }

    /// The mapping with its table's present layout; `None` while it is set aside.
    pub fn current(&self, mapping: &Arc<Mapping>) -> Option<Arc<Mapping>> {
        let changed = self.changed.read().unwrap_or_else(PoisonError::into_inner);
        match changed.get(&mapping.index) {
            None => Some(Arc::clone(mapping)),
            Some(Table::Fits { mapping, .. }) => Some(Arc::clone(mapping)),
            Some(Table::SetAside { .. }) => None,
        }
    }

    /// Whether any mapping is set aside.
    pub fn any_aside(&self) -> bool {
        self.aside.load(Ordering::Relaxed) > 0
    }

    /// Whether a mapping has been set aside for so long that its table is to be looked at again.
    pub fn is_due(&self, mapping: &Mapping) -> bool {
        let changed = self.changed.read().unwrap_or_else(PoisonError::into_inner);
        matches!(changed.get(&mapping.index),
            Some(Table::SetAside { looked_at }) if looked_at.elapsed() >= PAUSE)
    }

    /// Whether a mapping's table was looked at only just now, for the same reason most likely.
    pub fn looked_lately(&self, mapping: &Mapping) -> bool {
        let changed = self.changed.read().unwrap_or_else(PoisonError::into_inner);
        matches!(changed.get(&mapping.index),
            Some(Table::SetAside { looked_at } | Table::Fits { looked_at, .. })
                if looked_at.elapsed() < LATELY)
    }

    /// Reads the shape of a mapping's table and takes the mapping up or sets it aside. To be called
    /// outside of a transaction.
    ///
    /// # Errors
    /// When Postgres does not tell; the mapping stays as it was.
    pub async fn look_again(
        &self,
        session: &mut Session,
        mapping: &Mapping,
    ) -> Result<(), StoreError> {
        let Some(plan) = self.plans.get(&mapping.index) else { return Ok(()) };
        let shape = session.table_shape(&TableName::parse(&plan.config.table)).await?;
        let table = match Layout::bind(plan, shape.as_ref()) {
            Ok(layout) => Table::Fits {
                mapping: Arc::new(Mapping { layout, ..mapping.clone() }),
                looked_at: Instant::now(),
            },
            Err(problems) => {
                let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
                let problems = problems.join("; ");
                tracing::warn!(mapping = %mapping.name, %problems, "a mapping is set aside");
                Table::SetAside { looked_at: Instant::now() }
            }
        };
        let mut changed = self.changed.write().unwrap_or_else(PoisonError::into_inner);
        let was_aside = matches!(changed.get(&mapping.index), Some(Table::SetAside { .. }));
        if was_aside && matches!(table, Table::Fits { .. }) {
            tracing::info!(mapping = %mapping.name, "its table fits again");
        }
        changed.insert(mapping.index, table);
        let aside =
            changed.values().filter(|table| matches!(table, Table::SetAside { .. })).count();
        self.aside.store(aside, Ordering::Relaxed);
        Ok(())
    }
}
