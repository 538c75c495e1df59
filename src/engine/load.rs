//! Loading: values that Redis has to have before they can be written behind are put there as after a miss,
//! under the same rules (see `miss`).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use super::EngineSettings;
use super::asked::Lease;
use super::fill::{fill, unlease};
use super::miss::{LARGE_FOR, MOST_LARGE};
use super::tables::Tables;
use super::through::connected;
use crate::command::Needs;
use crate::mapping::{MappedKey, Mapping};
use crate::store::{Reading, Session, StoreError, Want};
use crate::upstream::UpstreamError;
use crate::upstream::control::{Control, Frame};
use crate::upstream::scripts::{Call, Script, Token, mark_of};

/// Keys that are loaded at once.
const BATCH_KEYS: usize = 500;

#[derive(Debug, thiserror::Error)]
pub(super) enum NotLoaded {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
}

/// What loads, for one worker, over its connections.
#[derive(Debug, Default)]
pub(super) struct Loader {
    /// Keys that were too large to be cached, and since when.
    large: HashMap<Bytes, Instant, ahash::RandomState>,
}

/// The right to fill a key.
struct Leased<'k> {
    key: &'k MappedKey,
    mapping: Arc<Mapping>,
    lease: Lease,
}

// === impl Loader ===

impl Loader {
    /// Whether a key was too large lately.
    pub(super) fn is_large(&self, key: &[u8]) -> bool {
        self.large.get(key).is_some_and(|since| since.elapsed() < LARGE_FOR)
    }

    /// Puts what Postgres has of these keys into Redis, where nobody else is at them. What is sent over
    /// `control` afterwards finds them there.
    pub(super) async fn load(
        &mut self,
        keys: &[&MappedKey],
        settings: &EngineSettings,
        tables: &Tables,
        session: &mut Option<Session>,
        control: &mut Control,
    ) -> Result<(), NotLoaded> {
        let most = settings.cache_max_elements;
        for part in keys.chunks(BATCH_KEYS) {
            let leased = lease(part, settings, tables, control).await?;
            if leased.is_empty() {
                continue;
            }
            let was_connected = session.is_some();
            let mut fills = self.fills(&leased, most, connected(session, settings).await?).await;
            if was_connected && matches!(fills, Err(StoreError::Unreachable(_))) {
                // The session had died unnoticed.
                fills = self.fills(&leased, most, connected(session, settings).await?).await;
            }
            match fills {
                Ok(fills) => control.post(&fills).await,
                Err(error) => {
                    let give_up = |leased: &Leased<'_>| unlease(leased.key, &leased.lease);
                    control.post(&leased.iter().map(give_up).collect::<Vec<_>>()).await;
                    return Err(error.into());
                }
            }
        }
        Ok(())
    }

    async fn fills(
        &mut self,
        leased: &[Leased<'_>],
        most: usize,
        session: &mut Session,
    ) -> Result<Vec<Call>, StoreError> {
        let mut groups: Vec<(&Arc<Mapping>, Vec<&Leased<'_>>)> = Vec::new();
        for one in leased {
            match groups.iter_mut().find(|(mapping, _)| Arc::ptr_eq(mapping, &one.mapping)) {
                Some((_, of_mapping)) => of_mapping.push(one),
                None => groups.push((&one.mapping, vec![one])),
            }
        }
        let in_order = || groups.iter().flat_map(|(_, of_mapping)| of_mapping);
        let locks: Vec<i64> = in_order().map(|leased| leased.key.lock()).collect();
        let needs = Needs { existence: true, ..Needs::default() };
        let mut readings = Vec::with_capacity(groups.len());
        for (mapping, of_mapping) in &groups {
            let keys = of_mapping.iter().map(|leased| leased.key);
            let wants = keys.map(|key| Want { key, needs: &needs, whole_up_to: most });
            readings.push(Reading { mapping, wants: wants.collect() });
        }
        session.hurry(None);
        let (free, read) = session.read_probed(&locks, &readings).await?;
        let rows = read.into_iter().flat_map(|read| {
            let now_ms = read.now_ms;
            read.rows.into_iter().map(move |row| (row, now_ms))
        });
        let mut calls = Vec::with_capacity(leased.len());
        let mut large = Vec::new();
        for ((leased, is_free), (row, now_ms)) in in_order().zip(free).zip(rows) {
            let Leased { key, mapping, lease } = leased;
            if !is_free {
                calls.push(unlease(key, lease));
                continue;
            }
            let call = fill(key, mapping, lease, row.record.as_ref(), now_ms, most);
            if call.script != Script::Fill {
                large.push(key.key.clone());
            }
            calls.push(call);
        }
        self.remember(large);
        Ok(calls)
    }

    fn remember(&mut self, large: Vec<Bytes>) {
        if self.large.len() + large.len() > MOST_LARGE {
            self.large.retain(|_, since| since.elapsed() < LARGE_FOR);
        }
        if self.large.len() + large.len() <= MOST_LARGE {
            self.large.extend(large.into_iter().map(|key| (key, Instant::now())));
        }
    }
}

/// Asks Redis for the right to fill these keys.
async fn lease<'k>(
    keys: &[&'k MappedKey],
    settings: &EngineSettings,
    tables: &Tables,
    control: &mut Control,
) -> Result<Vec<Leased<'k>>, UpstreamError> {
    let (mut calls, mut asked) = (Vec::new(), Vec::new());
    for key in keys {
        let Some(mapping) = tables.current(&key.mapping) else { continue };
        let token = Token::reader();
        let arguments = vec![
            token.text(),
            Bytes::from(settings.lease_ms.to_string()),
            Bytes::from_static(mapping.holds().name().as_bytes()),
            Bytes::from_static(b"existence"),
        ];
        let names = vec![key.key.clone(), mark_of(&key.key)];
        calls.push(Call { script: Script::Miss, keys: names, arguments });
        asked.push((*key, mapping, token));
    }
    let replies = control.call(&calls).await?;
    let leased = asked.into_iter().zip(replies).filter_map(|((key, mapping, token), reply)| {
        let Frame::Array(parts) = reply else { return None };
        match &parts[..] {
            [Frame::BulkString(word), Frame::Integer(now_ms)] if &word[..] == b"FILL" => {
                let lease = Lease { token, upstream_now_ms: *now_ms };
                Some(Leased { key, mapping, lease })
            }
            _ => None,
        }
    });
    Ok(leased.collect())
}
