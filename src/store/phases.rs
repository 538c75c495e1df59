//! The phases of the mappings, in `respgres.control`: rows `mapping:<name>`, whose other members belong to
//! others.

use std::collections::HashMap;

use sqlx::Row;

use super::error::StoreError;
use super::session::Session;
use crate::mapping::Phase;

/// The row that says whether respgres had run here before there were phases.
const NAME: &str = "phases";

const PREFIX: &str = "mapping:";

/// The phases that are recorded, by the mappings' names.
pub type Phases = HashMap<String, Phase>;

// === impl Session ===

impl Session {
    /// What is recorded. A word that this version does not know counts as `dual_write`, in which nothing is
    /// lost.
    ///
    /// # Errors
    /// Those of the statement, see [`StoreError`].
    pub async fn phases(&mut self) -> Result<Phases, StoreError> {
        let rows = self
            .attempt(async |connection| {
                sqlx::query(
                    "select substr(name, length($1) + 1), value ->> 'phase' from respgres.control
                     where starts_with(name, $1) and value ? 'phase'",
                )
                .bind(PREFIX)
                .fetch_all(connection)
                .await
            })
            .await?;
        let phase = |row: &sqlx::postgres::PgRow| {
            let phase: String = row.try_get(1)?;
            Ok((row.try_get(0)?, Phase::parse(&phase).unwrap_or(Phase::DualWrite)))
        };
        let phases = rows.iter().map(phase).collect::<Result<_, sqlx::Error>>();
        phases.map_err(|error| self.failed(&error))
    }

    /// Records the phase of mappings that have none yet.
    ///
    /// # Errors
    /// As `phases`.
    pub async fn begin_phases(&mut self, names: &[&str], phase: Phase) -> Result<(), StoreError> {
        self.record_phases(names, phase, "where not respgres.control.value ? 'phase'").await
    }

    /// Records the phase of mappings.
    ///
    /// # Errors
    /// As `phases`.
    pub async fn set_phases(&mut self, names: &[&str], phase: Phase) -> Result<(), StoreError> {
        self.record_phases(names, phase, "").await
    }

    /// Records the phase of those of the mappings that have begun to move, and are not as far.
    ///
    /// # Errors
    /// As `phases`.
    pub async fn advance_phases(&mut self, names: &[&str], phase: Phase) -> Result<(), StoreError> {
        let names: Vec<String> = names.iter().map(|name| format!("{PREFIX}{name}")).collect();
        let before = Phase::ALL.into_iter().take_while(|before| *before != phase);
        let before: Vec<&str> =
            before.filter(|before| !before.passes_through()).map(Phase::name).collect();
        self.attempt(async |connection| {
            sqlx::query(
                "update respgres.control
                 set value = value || jsonb_build_object('phase', $2::text), changed_at = now()
                 where name = any($1::text[]) and value ->> 'phase' = any($3::text[])",
            )
            .bind(names)
            .bind(phase.name())
            .bind(before)
            .execute(connection)
            .await
            .map(drop)
        })
        .await
    }

    async fn record_phases(
        &mut self,
        names: &[&str],
        phase: Phase,
        condition: &'static str,
    ) -> Result<(), StoreError> {
        let names: Vec<String> = names.iter().map(|name| format!("{PREFIX}{name}")).collect();
        let statement = format!(
            "insert into respgres.control (name, value)
             select name, jsonb_build_object('phase', $2::text) from unnest($1::text[]) as n(name)
             on conflict (name) do update
                 set value = respgres.control.value || excluded.value, changed_at = now() {condition}"
        );
        self.attempt(async |connection| {
            sqlx::query(sqlx::AssertSqlSafe(statement))
                .bind(names)
                .bind(phase.name())
                .execute(connection)
                .await
                .map(drop)
        })
        .await
    }

    /// Whether respgres had run here before there were phases, and has not been started since.
    ///
    /// # Errors
    /// As `phases`.
    pub async fn is_from_before_phases(&mut self) -> Result<bool, StoreError> {
        let row = self
            .attempt(async |connection| {
                sqlx::query(
                    "select coalesce((select (value -> 'before')::boolean from respgres.control
                         where name = $1), false)",
                )
                .bind(NAME)
                .fetch_one(connection)
                .await
            })
            .await?;
        row.try_get(0).map_err(|error| self.failed(&error))
    }

    /// From now on a mapping without a phase is a new one.
    ///
    /// # Errors
    /// As `phases`.
    pub async fn end_time_before_phases(&mut self) -> Result<(), StoreError> {
        self.attempt(async |connection| {
            sqlx::query(
                "update respgres.control set value = '{\"before\": false}', changed_at = now()
                 where name = $1",
            )
            .bind(NAME)
            .execute(connection)
            .await
            .map(drop)
        })
        .await
    }
}
