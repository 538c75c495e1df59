//! What the command line tells of the proxies on a database.

use std::collections::BTreeMap;

use super::stores::connected;
use super::{AppError, Setup, engine_settings, worker_runtime};
use crate::engine::fleet::Standing;
use crate::store::Session;
use crate::upstream::Control;

/// What either store has of one proxy: how long its lease lasts, or has been over; ms.
#[derive(Debug, Default)]
struct Leases {
    redis_ms: Option<i64>,
    postgres_ms: Option<i64>,
    standing: Standing,
}

/// All proxies, one a line.
///
/// # Errors
/// When neither store can be asked.
pub fn list(setup: &Setup) -> Result<Vec<String>, AppError> {
    worker_runtime()?.block_on(async {
        let (told, missing) = leases(setup).await?;
        let mut lines: Vec<String> = told.iter().map(|(id, leases)| line(id, leases)).collect();
        if lines.is_empty() {
            lines.push("none".to_owned());
        }
        lines.extend(missing);
        Ok(lines)
    })
}

/// Takes out a proxy that is dead.
///
/// # Errors
/// When it is not, or when one of the stores cannot be told.
pub fn forget(setup: &Setup, id: &str) -> Result<Vec<String>, AppError> {
    worker_runtime()?.block_on(async {
        let settings = engine_settings(setup)?;
        let (told, _) = leases(setup).await?;
        let Some(leases) = told.get(id) else { return Err(AppError::NoProxy(id.to_owned())) };
        let lasts = |left: Option<i64>| left.is_some_and(|left_ms| left_ms > 0);
        if lasts(leases.redis_ms) || lasts(leases.postgres_ms) {
            return Err(AppError::IsAlive(id.to_owned()));
        }
        let of_postgres = async {
            let mut session = Session::connect(&setup.config.postgres).await?;
            session.take_out_proxy(id).await?;
            session.close().await;
            Ok::<_, AppError>(())
        };
        let of_postgres = of_postgres.await;
        let of_redis = Control::new(settings.control).stop_proxy(id).await;
        let mut said = vec![format!("{id} is forgotten")];
        match (of_redis, of_postgres) {
            (Err(_), Err(error)) => return Err(error),
            (Err(error), Ok(())) => said.push(format!("Redis could not be told: {error}")),
            (Ok(()), Err(error)) => said.push(format!("Postgres could not be told: {error}")),
            (Ok(()), Ok(())) => {}
        }
        Ok(said)
    })
}

/// What the stores have; and what there is to say of one that cannot be asked.
async fn leases(setup: &Setup) -> Result<(BTreeMap<String, Leases>, Vec<String>), AppError> {
    let settings = engine_settings(setup)?;
    let mut told: BTreeMap<String, Leases> = BTreeMap::new();
    let mut missing = Vec::new();
    let standing = |text: &str| -> Standing { serde_json::from_str(text).unwrap_or_default() };
    let in_redis = Control::new(settings.control).proxies().await;
    match &in_redis {
        Ok(roll) => {
            for proxy in &roll.proxies {
                if standing(&proxy.standing).has_stopped {
                    continue;
                }
                let leases = told.entry(proxy.id.clone()).or_default();
                leases.redis_ms = Some(proxy.lease_until_ms - roll.now_ms);
                leases.standing = standing(&proxy.standing);
            }
        }
        Err(error) => missing.push(format!("Redis could not be asked: {error}")),
    }
    let in_postgres = async {
        let mut session = connected(setup).await?;
        let roll = session.proxies().await?;
        session.close().await;
        Ok::<_, AppError>(roll)
    };
    match in_postgres.await {
        Ok(roll) => {
            for proxy in &roll.proxies {
                let leases = told.entry(proxy.id.clone()).or_default();
                let left_ms = proxy.lease_until_ms - roll.now_ms;
                if leases.redis_ms.is_none_or(|other_ms| other_ms < left_ms) {
                    leases.standing = standing(&proxy.standing);
                }
                leases.postgres_ms = Some(left_ms);
            }
        }
        Err(error) if in_redis.is_err() => return Err(error),
        Err(error) => missing.push(format!("Postgres could not be asked: {error}")),
    }
    Ok((told, missing))
}

fn line(id: &str, leases: &Leases) -> String {
    let lease = |left: Option<i64>| match left {
        None => "none".to_owned(),
        Some(left_ms @ 1..) => format!("for {left_ms} ms"),
        Some(left_ms) => format!("ended {} ms ago", -left_ms),
    };
    let Standing { version, started_at_ms, redis, postgres, .. } = &leases.standing;
    let has = |is_there: &bool| if *is_there { "yes" } else { "no" };
    format!(
        "{id} version {version}, started at {started_at_ms}; has Redis: {}, Postgres: {}; lease in \
         Redis: {}, in Postgres: {}",
        has(redis),
        has(postgres),
        lease(leases.redis_ms),
        lease(leases.postgres_ms),
    )
}
