//! respgres: a Redis-protocol caching proxy that keeps mapped hashes in typed Postgres tables.
//!
//! The modules are stacked in floors; a module imports from floors below its own only. See
//! ARCHITECTURE.md.

pub mod command;
pub mod config;
pub mod mapping;
pub mod protocol;
pub mod store;
pub mod value;
