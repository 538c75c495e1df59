//! What the benchmarks stand on: servers of their own, a client, figures.
//!
//! Included by each benchmark with `#[path]`; none of it belongs to the product.

#![allow(dead_code, reason = "each benchmark uses its own part of the rig")]

pub(crate) mod client;
pub(crate) mod cluster;
pub(crate) mod figure;
pub(crate) mod process;

/// What went wrong, for a person at a terminal.
pub(crate) type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Waits for Ctrl-C or SIGTERM, so that the caller can leave and its servers are stopped.
pub(crate) async fn interrupted() -> Failure {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = match signal(SignalKind::terminate()) {
        Ok(terminate) => terminate,
        Err(error) => return error.into(),
    };
    tokio::select! {
        result = tokio::signal::ctrl_c() => match result {
            Ok(()) => "interrupted".into(),
            Err(error) => error.into(),
        },
        _ = terminate.recv() => "interrupted".into(),
    }
}
