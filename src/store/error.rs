//! What can go wrong with Postgres, by what the caller can do about it.

use sqlx::postgres::{PgDatabaseError, PgSeverity};

use crate::mapping::layout::Unencodable;

/// What statements say that did not find the rows they were to change.
pub(super) const RACED: &str = "respgres: rows have come or gone";

/// Why Postgres did not do what it was asked. Texts are for the log; clients are told by the engine.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Postgres, or a trigger, refuses this data or this user, and would do so again. The
    /// transaction has failed.
    #[error("postgres refuses: {message} (SQLSTATE {code})")]
    Refused {
        /// The SQLSTATE.
        code: String,
        constraint: Option<String>,
        column: Option<String>,
        message: String,
    },
    /// The row has no place for a field. The transaction is still good, but incomplete.
    #[error(transparent)]
    Unencodable(#[from] Unencodable),
    /// Another session inserted a row that was absent when it was read, or deleted one that was
    /// there. Roll back and start again with reading.
    #[error("a row was inserted or deleted by another session since it was read")]
    Raced,
    /// A deadlock, a serialization failure or a lock that was not to be had: try again.
    #[error("postgres asks to try again: {message} (SQLSTATE {code})")]
    Retryable { code: String, message: String },
    /// No connection, or none that can be used.
    #[error("postgres is out of reach: {0}")]
    Unreachable(String),
    /// The table no longer is what the layout says: load its shape again.
    #[error("the table has changed: {message} (SQLSTATE {code})")]
    LayoutChanged { code: String, message: String },
    /// The connection was lost after COMMIT was sent: the transaction may have happened.
    #[error("the connection was lost while committing: {0}")]
    InDoubt(String),
    /// The statement ran into its time limit.
    #[error("postgres took too long: {0}")]
    Timeout(String),
}

// === impl StoreError ===

impl StoreError {
    /// By SQLSTATE, see "PostgreSQL Error Codes" in Postgres' manual.
    pub(super) fn of(error: &sqlx::Error) -> Self {
        let error = match error {
            sqlx::Error::Database(error) => error,
            // A migration of ours that the database knows otherwise.
            sqlx::Error::Migrate(error) => {
                return Self::Refused {
                    code: "XX000".into(),
                    constraint: None,
                    column: None,
                    message: error.to_string(),
                };
            }
            other => return Self::Unreachable(other.to_string()),
        };
        let error: &PgDatabaseError = error.downcast_ref();
        let code = error.code().to_owned();
        let message = error.message().to_owned();
        if matches!(error.severity(), PgSeverity::Fatal | PgSeverity::Panic) {
            return Self::Unreachable(format!("{message} (SQLSTATE {code})"));
        }
        match code.as_str() {
            "57014" => Self::Timeout(message),
            "22P02" if message.contains(RACED) => Self::Raced,
            // undefined column, table, schema; another type, so that a comparison or a cast is
            // undefined; no unique index on the key columns; a view in the table's place, a generated
            // column, rights taken away; a plan whose result has changed
            "42703" | "42P01" | "3F000" | "42804" | "42704" | "42883" | "42846" | "42P10"
            | "42809" | "428C9" | "42501" | "0A000" => Self::LayoutChanged { code, message },
            "55P03" | "55006" => Self::Retryable { code, message },
            // a standby: the primary is elsewhere
            "25006" => Self::Unreachable(format!("{message} (SQLSTATE {code})")),
            _ => match code.get(..2) {
                Some("40") => Self::Retryable { code, message },
                Some("08" | "53" | "57" | "58") => {
                    Self::Unreachable(format!("{message} (SQLSTATE {code})"))
                }
                _ => Self::Refused {
                    constraint: error.constraint().map(str::to_owned),
                    column: error.column().map(str::to_owned),
                    code,
                    message,
                },
            },
        }
    }

    /// Whether the connection cannot be used any more after this error of sqlx.
    pub(super) fn breaks(error: &sqlx::Error) -> bool {
        match error {
            sqlx::Error::Database(error) => {
                let error: &PgDatabaseError = error.downcast_ref();
                matches!(error.severity(), PgSeverity::Fatal | PgSeverity::Panic)
                    || error.code() == "25006"
                    || error.code().starts_with("08")
            }
            _ => true,
        }
    }
}
