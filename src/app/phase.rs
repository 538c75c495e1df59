//! How far the mappings have moved from Redis to Postgres: what is recorded at their first start, and what the
//! command line tells and changes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::stores::connected;
use super::{AppError, Setup, bind, engine_settings, registry, worker_runtime};
use crate::command::Needs;
use crate::config::Strategy;
use crate::engine::EngineSettings;
use crate::mapping::registry::Plan;
use crate::mapping::{MappedKey, Phase};
use crate::store::{Phases, RowLock, Session, Want};
use crate::upstream::UpstreamError;
use crate::upstream::control::{Control, ControlSettings, scan_page};

/// Keys of Redis that are looked at at once.
const SCAN_COUNT: &str = "1000";

/// How long the first start of a mapping looks through Redis for keys of it.
const LOOK: Duration = Duration::from_secs(10);

/// Keys that are named when they would be lost.
const NAMED: usize = 3;

/// The phases of all mappings that have a side in Postgres. Those that are started for the first time get
/// one: `dual_write`, but where there is nothing to be imported, as Redis has no key of theirs, or nothing is to
/// change, as respgres has run before there were phases.
pub(super) async fn begin(
    session: &mut Session,
    setup: &Setup,
    control: &ControlSettings,
) -> Result<Phases, AppError> {
    let mut phases = session.phases().await?;
    let new: Vec<&str> = names(setup).filter(|name| !phases.contains_key(*name)).collect();
    if !new.is_empty() {
        let in_redis = if session.is_from_before_phases().await? {
            Vec::new()
        } else {
            let plans = setup.plans.iter().filter(|plan| new.contains(&&plan.config.name[..]));
            in_redis(&plans.collect::<Vec<_>>(), control).await
        };
        let (importing, migrated): (Vec<&str>, Vec<&str>) =
            new.iter().partition(|name| in_redis.contains(name));
        session.begin_phases(&importing, Phase::DualWrite).await?;
        session.begin_phases(&migrated, Phase::Migrated).await?;
        // Others may have been faster.
        phases = session.phases().await?;
        let mut by_phase: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for name in new {
            let phase = phases.get(name).map_or("none", |phase| phase.name());
            by_phase.entry(phase).or_default().push(name);
        }
        for (phase, names) in by_phase {
            let mappings = names.len();
            tracing::info!(phase, mappings, "mappings are started for the first time");
            tracing::debug!(phase, ?names, "which they are");
        }
    }
    session.end_time_before_phases().await?;
    let migrated = phases.iter().filter(|(_, phase)| **phase == Phase::Migrated);
    let migrated: Vec<&str> = migrated.map(|(name, _)| name.as_str()).collect();
    session.forget_moved(&migrated).await?;
    Ok(phases)
}

/// The mappings of which Redis has keys; all of them where it does not tell in time.
async fn in_redis<'p>(plans: &[&'p Plan], settings: &ControlSettings) -> Vec<&'p str> {
    let mut control = Control::new(settings.clone());
    let looking = async {
        let (mut found, mut cursor) = (Vec::new(), Bytes::from_static(b"0"));
        loop {
            let (next, names) = scan_page(control.command(&scan(cursor)).await?)?;
            for plan in plans {
                let name = plan.config.name.as_str();
                if !found.contains(&name) && names.iter().any(|key| plan.pattern.matches(key)) {
                    found.push(name);
                }
            }
            if &next[..] == b"0" || found.len() == plans.len() {
                return Ok::<_, UpstreamError>(found);
            }
            cursor = next;
        }
    };
    match tokio::time::timeout(LOOK, looking).await {
        Ok(Ok(found)) => found,
        told => {
            tracing::info!(error = ?told.map(drop), "it is not known which keys Redis has");
            plans.iter().map(|plan| plan.config.name.as_str()).collect()
        }
    }
}

fn scan(cursor: Bytes) -> [Bytes; 4] {
    let word = |word: &'static str| Bytes::from_static(word.as_bytes());
    [word("SCAN"), cursor, word("COUNT"), word(SCAN_COUNT)]
}

/// The phases, a mapping a line.
///
/// # Errors
/// When Postgres is out of reach, or there is no such mapping.
pub fn get(setup: &Setup, mapping: Option<&str>) -> Result<Vec<String>, AppError> {
    worker_runtime()?.block_on(async {
        let mut session = connected(setup).await?;
        let phases = session.phases().await?;
        session.close().await;
        let names = chosen(setup, &phases, mapping)?;
        let line = |name: &&str| {
            let phase = phases.get(*name).map_or("not started yet", |phase| phase.name());
            format!("{name}: {phase}")
        };
        Ok(names.iter().map(line).collect())
    })
}

/// Records a phase of one mapping or of all.
///
/// # Errors
/// As `get`.
pub fn set(setup: &Setup, phase: Phase, mapping: Option<&str>) -> Result<Vec<String>, AppError> {
    worker_runtime()?.block_on(async {
        let mut session = connected(setup).await?;
        let phases = session.phases().await?;
        let names = chosen(setup, &phases, mapping)?;
        session.set_phases(&names, phase).await?;
        session.close().await;
        Ok(names.iter().map(|name| format!("{name}: {}", phase.name())).collect())
    })
}

/// What may be lost with a change of phase, line by line.
///
/// # Errors
/// When a store is out of reach, or there is no such mapping.
pub fn dangers(
    setup: &Setup,
    phase: Phase,
    mapping: Option<&str>,
) -> Result<Vec<String>, AppError> {
    if !matches!(phase, Phase::Preparation | Phase::Migrated) {
        return Ok(Vec::new());
    }
    worker_runtime()?.block_on(async {
        let mut session = connected(setup).await?;
        let phases = session.phases().await?;
        let names = chosen(setup, &phases, mapping)?;
        let mut dangers = Vec::new();
        if phase == Phase::Migrated {
            let originals = originals(setup, &mut session).await?;
            for name in names {
                let mut of_mapping = originals.iter().filter(|key| key.mapping.name == name);
                let some: Vec<String> = of_mapping
                    .by_ref()
                    .take(NAMED)
                    .map(|key| key.key.escape_ascii().to_string())
                    .collect();
                let count = some.len() + of_mapping.count();
                if count > 0 {
                    dangers.push(format!(
                        "{name}: only Redis has {count} keys of it, which the next writes would hide: {}",
                        some.join(", ")
                    ));
                }
            }
        } else {
            let has_begun = |name: &&str| {
                phases.get(*name).is_some_and(|phase| !phase.passes_through())
            };
            let begun = names.into_iter().filter(has_begun);
            dangers.extend(begun.map(|name| {
                format!("{name}: its rows are not seen any more; what only Postgres has is missing")
            }));
        }
        session.close().await;
        Ok(dangers)
    })
}

/// The keys that only Redis has.
async fn originals(setup: &Setup, session: &mut Session) -> Result<Vec<MappedKey>, AppError> {
    // In whatever phase they are: those that pass through have all their keys there.
    let entries = session.mapping_entries().await?;
    let mappings = bind(session, &setup.plans, &Phases::new(), &entries).await?;
    let registry = registry(mappings, &setup.plans);
    let EngineSettings { control, .. } = engine_settings(setup)?;
    let mut control = Control::new(control);
    let mut originals = Vec::new();
    let mut cursor = Bytes::from_static(b"0");
    loop {
        let (next, names) = scan_page(control.command(&scan(cursor)).await?)?;
        let mut keys: Vec<MappedKey> =
            names.iter().filter_map(|name| registry.mapped_key(name)).collect();
        keys.sort_by(|one, other| {
            one.mapping.index.cmp(&other.mapping.index).then_with(|| one.key.cmp(&other.key))
        });
        keys.dedup_by(|one, other| one.key == other.key);
        for group in keys.chunk_by(|one, other| Arc::ptr_eq(&one.mapping, &other.mapping)) {
            let mapping = &group[0].mapping;
            let needs = Needs { existence: true, ..Needs::default() };
            let wants: Vec<Want<'_>> =
                group.iter().map(|key| Want { key, needs: &needs, whole_up_to: 0 }).collect();
            let read = session.read_parts(mapping, &wants, RowLock::None).await?;
            let names: Vec<&[u8]> = group.iter().map(|key| &key.key[..]).collect();
            let had = session.has_had(mapping, &names).await?;
            let found = group.iter().zip(read.rows.iter().zip(had));
            let alone = found.filter(|(_, (row, had))| !row.present && !had);
            originals.extend(alone.map(|(key, _)| key.clone()));
        }
        if &next[..] == b"0" {
            originals.sort_by(|one, other| one.key.cmp(&other.key));
            originals.dedup_by(|one, other| one.key == other.key);
            return Ok(originals);
        }
        cursor = next;
    }
}

/// The mappings that have a side in Postgres.
fn names(setup: &Setup) -> impl Iterator<Item = &str> {
    let plans = setup.plans.iter().filter(|plan| plan.config.strategy != Strategy::RedisOnly);
    plans.map(|plan| plan.config.name.as_str())
}

/// The mappings that have a side in Postgres, or have had one, so that their phase is recorded.
pub(super) fn chosen<'s>(
    setup: &'s Setup,
    phases: &Phases,
    mapping: Option<&str>,
) -> Result<Vec<&'s str>, AppError> {
    let has_side = |plan: &&Plan| {
        plan.config.strategy != Strategy::RedisOnly || phases.contains_key(&plan.config.name)
    };
    let names = setup.plans.iter().filter(has_side).map(|plan| plan.config.name.as_str());
    let names: Vec<&str> =
        names.filter(|name| mapping.is_none_or(|mapping| mapping == *name)).collect();
    match mapping {
        Some(mapping) if names.is_empty() => Err(AppError::NoSuchRows(mapping.to_owned())),
        _ => Ok(names),
    }
}
