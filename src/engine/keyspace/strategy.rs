//! RESPGRES STRATEGY: by which strategy mappings go, and changing it.

use super::Surveyor;
use crate::config::Strategy;
use crate::engine::switcher::{NotSwitched, Switcher, USUAL_LIMIT};
use crate::engine::through::connected;
use crate::protocol::Reply;

// === impl Surveyor ===

impl Surveyor {
    /// By which strategy this proxy serves one mapping, or each.
    pub(super) fn strategies(&self, mapping: Option<&str>) -> Result<Reply, Reply> {
        let plans = self.settings.plans.iter();
        let wanted = plans.filter(|plan| mapping.is_none_or(|name| plan.config.name == name));
        let told: Vec<(Reply, Reply)> = wanted
            .map(|plan| {
                let mut mappings = self.registry.all().iter();
                let mapping = mappings.find(|mapping| mapping.index == plan.index);
                let strategy = mapping.map_or(plan.config.strategy, |mapping| mapping.strategy());
                (Reply::bulk(plan.config.name.clone()), Reply::bulk(strategy.name().to_owned()))
            })
            .collect();
        match mapping {
            Some(name) if told.is_empty() => Err(no_mapping(name)),
            _ => Ok(Reply::Map(told)),
        }
    }

    /// Changes the strategy of a mapping for all proxies.
    pub(super) async fn set_strategy(&mut self, name: &str, target: &str) -> Result<Reply, Reply> {
        let target = Strategy::parse(target).map_err(Reply::err)?;
        let mut plans = self.settings.plans.iter();
        let Some(plan) = plans.find(|plan| plan.config.name == name) else {
            return Err(no_mapping(name));
        };
        let initial = plan.config.strategy;
        let mut mappings = self.registry.all().iter();
        let Some(mapping) = mappings.find(|mapping| mapping.index == plan.index) else {
            return Err(Reply::err(NotSwitched::PassesThrough.told()));
        };
        let session = connected(&mut self.session, &self.settings).await;
        let session = session.map_err(|error| {
            tracing::warn!(%error, "a strategy cannot be changed");
            Reply::err("Postgres is out of reach; the strategy is as it was")
        })?;
        let mut switcher = Switcher {
            session,
            control: &mut self.control,
            registry: &self.registry,
            limit: USUAL_LIMIT,
            discards_rows: false,
        };
        match switcher.switch(mapping, initial, target).await {
            Ok(_) => Ok(Reply::OK),
            Err(error) => {
                tracing::warn!(%error, mapping = name, "a strategy was not changed");
                Err(Reply::err(error.told()))
            }
        }
    }
}

fn no_mapping(name: &str) -> Reply {
    Reply::err(format!("there is no mapping \"{name}\"; RESPGRES STRATEGY tells which there are"))
}
