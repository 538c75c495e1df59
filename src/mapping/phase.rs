//! How far a mapping's keys have moved from Redis to Postgres.

/// A phase, as `respgres.control` has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The keys live in Redis alone; the table is only checked.
    Preparation,
    /// Postgres is told of every write; a key that it lacks is imported whole before.
    DualWrite,
    /// As `DualWrite`, while all keys are brought over.
    Backfill,
    /// As `DualWrite`, while both sides are compared.
    Verify,
    /// Redis has nothing but copies.
    Migrated,
}

// === impl Phase ===

impl Phase {
    pub const ALL: [Self; 5] =
        [Self::Preparation, Self::DualWrite, Self::Backfill, Self::Verify, Self::Migrated];

    pub fn name(self) -> &'static str {
        match self {
            Self::Preparation => "preparation",
            Self::DualWrite => "dual_write",
            Self::Backfill => "backfill",
            Self::Verify => "verify",
            Self::Migrated => "migrated",
        }
    }

    /// By its name; `None` for a word that is none.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|phase| phase.name() == name)
    }

    /// Whether Redis may have keys that Postgres lacks.
    pub fn imports(self) -> bool {
        self != Self::Migrated
    }

    /// Whether the keys pass through to Redis.
    pub fn passes_through(self) -> bool {
        self == Self::Preparation
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_phase_is_found_by_its_name() {
        for phase in Phase::ALL {
            assert_eq!(Phase::parse(phase.name()), Some(phase));
        }
        assert_eq!(Phase::parse("Migrated"), None);
        assert!(Phase::Verify.imports() && !Phase::Migrated.imports());
    }
}
