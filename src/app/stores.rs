//! Both stores, as commands need them that change where mappings go: whether or not a respgres runs beside them.

use std::sync::Arc;
use std::time::Duration;

use super::{AppError, Setup, bind, engine_settings, registry};
use crate::engine::switcher::{NotSwitched, Switcher};
use crate::mapping::registry::Plan;
use crate::mapping::{Mapping, Registry};
use crate::store::{Phases, Session};
use crate::upstream::Control;

/// Connections to both, and the mappings as they are bound by now.
pub(super) struct Stores {
    session: Session,
    control: Control,
    registry: Registry,
    mappings: Vec<Arc<Mapping>>,
    pub(super) phases: Phases,
}

// === impl Stores ===

impl Stores {
    pub(super) async fn open(setup: &Setup) -> Result<Self, AppError> {
        let settings = engine_settings(setup)?;
        let mut session = connected(setup).await?;
        let entries = session.mapping_entries().await?;
        let phases = session.phases().await?;
        let mappings = bind(&mut session, &setup.plans, &phases, &entries).await?;
        let registry = registry(mappings.clone(), &setup.plans);
        Ok(Self { session, control: Control::new(settings.control), registry, mappings, phases })
    }

    /// A mapping that is here; `None`: its keys pass through.
    pub(super) fn bound(&self, plan: &Plan) -> Option<Arc<Mapping>> {
        self.mappings.iter().find(|mapping| mapping.index == plan.index).cloned()
    }

    pub(super) fn switcher(&mut self, limit: Duration, discards_rows: bool) -> Switcher<'_> {
        let Self { session, control, registry, .. } = self;
        Switcher { session, control, registry, limit, discards_rows }
    }

    pub(super) async fn close(self) {
        self.session.close().await;
    }
}

/// A session in which respgres' own tables are there.
pub(super) async fn connected(setup: &Setup) -> Result<Session, AppError> {
    let mut session = Session::connect(&setup.config.postgres).await?;
    session.migrate().await?;
    Ok(session)
}

/// The mapping of this name, or all.
pub(super) fn named<'a>(
    setup: &'a Setup,
    mapping: Option<&str>,
) -> Result<Vec<&'a Plan>, AppError> {
    let plans = setup.plans.iter();
    let named: Vec<&Plan> =
        plans.filter(|plan| mapping.is_none_or(|name| plan.config.name == name)).collect();
    if let (Some(name), true) = (mapping, named.is_empty()) {
        let names: Vec<&str> = setup.plans.iter().map(|plan| &*plan.config.name).collect();
        return Err(AppError::NoMapping(name.to_owned(), names.join(", ")));
    }
    Ok(named)
}

/// Why a mapping goes where it went.
pub(super) fn not_switched(name: &str, error: NotSwitched) -> AppError {
    match error {
        NotSwitched::InDoubt(_) => AppError::InDoubt(name.to_owned(), Box::new(error)),
        error => AppError::NotSwitched(name.to_owned(), Box::new(error)),
    }
}
