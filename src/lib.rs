//! respgres: a Redis-protocol caching proxy that keeps mapped hashes in typed Postgres tables.
//!
//! The modules are stacked in floors; a module imports from floors below its own only. See
//! ARCHITECTURE.md.

pub mod admin;
pub mod app;
pub mod cli;
pub mod command;
pub mod config;
pub mod engine;
pub mod infer;
pub mod mapping;
pub mod metrics;
pub mod protocol;
pub mod server;
pub mod store;
pub mod tasks;
pub mod upstream;
pub mod value;
