//! What Redis does when its memory is full, where it alone may have what clients were told.
//!
//! Values with changes that Postgres lacks have no end, and neither has the journal: policies that evict only
//! what has one leave them alone.

use bytes::Bytes;

use super::AppError;
use crate::upstream::control::{Control, ControlSettings, Frame};

/// Refuses a Redis that evicts anything; says what is not known.
pub(super) async fn check(settings: &ControlSettings) -> Result<(), AppError> {
    let mut control = Control::new(settings.clone());
    let words =
        ["CONFIG", "GET", "maxmemory-policy"].map(|word| Bytes::from_static(word.as_bytes()));
    let policy = match control.command(&words).await {
        Ok(Frame::Array(told)) => match told.into_iter().nth(1) {
            Some(Frame::BulkString(policy)) => String::from_utf8_lossy(&policy).into_owned(),
            _ => String::new(),
        },
        Ok(Frame::Error(error)) => {
            tracing::info!(%error, "maxmemory-policy of the upstream Redis is not known: with \
                `cache_first` it must not be one that evicts keys without an expiry (allkeys-*)");
            return Ok(());
        }
        Ok(_) => String::new(),
        Err(error) => {
            tracing::warn!(%error, "the upstream Redis is not there to be asked for maxmemory-policy: \
                with `cache_first` it must not be one that evicts keys without an expiry (allkeys-*)");
            return Ok(());
        }
    };
    if policy.starts_with("allkeys") {
        return Err(AppError::Eviction(policy));
    }
    if policy == "volatile-ttl" {
        tracing::warn!(
            "maxmemory-policy of the upstream Redis is volatile-ttl: marks, which have a short life, are \
             evicted first, and cached copies with them in vain; volatile-lru suits `cache_first` better"
        );
    }
    Ok(())
}
