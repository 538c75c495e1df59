//! What Redis does when its memory is full, where it alone may have what clients were told.
//!
//! Values with changes that Postgres lacks have no end, and neither has the journal: policies that evict only
//! what has one leave them alone.

use bytes::Bytes;

use super::AppError;
use crate::upstream::control::{Control, ControlSettings, Frame};

/// Whether Redis evicts anything, which is refused where a mapping is `cache_first`; says what is not known.
pub(super) async fn check(
    settings: &ControlSettings,
    is_cache_first: bool,
) -> Result<bool, AppError> {
    let mut control = Control::new(settings.clone());
    let words =
        ["CONFIG", "GET", "maxmemory-policy"].map(|word| Bytes::from_static(word.as_bytes()));
    let policy = match control.command(&words).await {
        Ok(Frame::Array(told)) => match told.into_iter().nth(1) {
            Some(Frame::BulkString(policy)) => String::from_utf8_lossy(&policy).into_owned(),
            _ => String::new(),
        },
        Ok(Frame::Error(error)) => {
            tracing::info!(%error, "maxmemory-policy of the upstream Redis is not known: it must not \
                evict keys without an expiry (allkeys-*), which may be what Postgres has not got yet");
            return Ok(false);
        }
        Ok(_) => String::new(),
        Err(error) => {
            tracing::info!(%error, "the upstream Redis is not there to be asked for maxmemory-policy: \
                it must not \
                evict keys without an expiry (allkeys-*), which may be what Postgres has not got yet");
            return Ok(false);
        }
    };
    if policy.starts_with("allkeys") {
        if is_cache_first {
            return Err(AppError::Eviction(policy));
        }
        tracing::warn!(
            policy,
            "the upstream Redis evicts any key when its memory is full: so while Postgres is lost mapped keys \
             are not written, as with on_postgres_down = \"reject\"; volatile-lru would allow it"
        );
        return Ok(true);
    }
    if policy == "volatile-ttl" {
        tracing::warn!(
            "maxmemory-policy of the upstream Redis is volatile-ttl: marks, which have a short life, are \
             evicted first, and cached copies with them in vain; volatile-lru suits `cache_first` better"
        );
    }
    Ok(false)
}
