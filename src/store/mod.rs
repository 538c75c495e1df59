//! Postgres, the system of record of mapped keys: sessions, rows, keys, the catalog, the schema.
//!
//! A session is one connection that its worker owns. There is no pool: a pool pings on every
//! release, which costs two to three round trips a statement. The sessions of one worker follow one
//! another; `Session::is_broken` says when the next one is due.

mod applied;
pub mod catalog;
mod column_sets;
mod control;
mod dead_letters;
mod element_read;
mod element_stream;
mod element_write;
mod empty;
mod error;
mod exchange;
mod expired;
mod keys;
pub mod migrate;
mod moved;
mod named_read;
pub mod outbox;
mod parameters;
mod phases;
mod proxies;
mod read;
mod row_read;
mod row_write;
pub mod schema;
mod session;
pub mod sole;
mod statement;
mod swept;
pub mod triggers;
mod write;

pub use applied::Applied;
pub use control::application_name;
pub use dead_letters::{DeadLetter, Letter};
pub use element_read::{WHOLE_BYTES, Want};
pub use element_stream::Elements;
pub use error::StoreError;
pub use keys::{CountedPage, KeyPage, KeyValues, TableSize};
pub use phases::Phases;
pub use proxies::{ProxyEntry, ProxyRoll};
pub use read::{ReadRows, Reading, RowLock, StoredRow, has_row, select_statement};
pub use session::Session;
pub use swept::Swept;
pub use write::Change;
