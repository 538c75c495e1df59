//! FLUSHALL and FLUSHDB with `upstream.flush = "truncate"`: the mapped tables are emptied with Redis.
//!
//! The order is: empty the tables within a transaction, empty Redis, COMMIT. TRUNCATE gets its locks when
//! every transaction that has read or written the tables has ended, and from then on those that come
//! wait for its COMMIT. So
//! - a write is either committed before, and flushed, or it reads its row after, and finds none;
//!   its `end` finds no mark and does nothing;
//! - a fill that was read before comes before Redis is emptied, and is emptied with it, or after, and
//!   finds no mark: emptying Redis has taken its reader's;
//! - between Redis and COMMIT nobody reads an old value: the copies are gone, and who asks Postgres
//!   waits. Were Redis emptied after COMMIT, a key could be seen as gone (TTL asks Postgres), and
//!   its copy be read after that.

use std::sync::Arc;

use bytes::Bytes;

use super::{Surveyor, connected};
use crate::engine::barrier::{NotFlushed, until_flushed};
use crate::engine::refusal::{Flushed, flush_failed, has_originals};
use crate::engine::through::{RACES, set_aside};
use crate::mapping::Mapping;
use crate::protocol::Reply;
use crate::store::StoreError;
use crate::upstream::control::Frame;
use crate::upstream::scripts::{Call, JOURNAL, Script};

/// How often Redis is asked to empty itself while others go on writing.
const EMPTY_TRIES: u32 = 50;

// === impl Surveyor ===

impl Surveyor {
    pub(super) async fn flush(&mut self, arguments: &[Bytes]) -> Result<Reply, Reply> {
        let is_known = |mode: &Bytes| {
            mode.eq_ignore_ascii_case(b"async") || mode.eq_ignore_ascii_case(b"sync")
        };
        if arguments.len() > 2 || !arguments[1..].iter().all(is_known) {
            return Err(Reply::err("syntax error"));
        }
        let mut tries = 0;
        loop {
            let was_connected = self.session.is_some();
            let error = match self.begin_empty().await {
                Ok(()) => break,
                Err(error) => error,
            };
            tries += 1;
            match &error {
                StoreError::Retryable { .. } if tries <= RACES => {}
                StoreError::Unreachable(_) if was_connected && tries == 1 => {}
                _ => {
                    tracing::warn!(%error, "the mapped tables were not emptied");
                    return Err(flush_failed(&error, Flushed::Nothing));
                }
            }
        }
        let told = self.control.command(arguments).await;
        let session = self.session.as_mut().expect("it is within a transaction");
        let refused = match told {
            Ok(Frame::SimpleString(_)) => {
                return session.commit().await.map(|()| Reply::OK).map_err(|error| {
                    tracing::error!(%error, "Redis was emptied, and the mapped tables may not be");
                    flush_failed(&error, Flushed::Redis)
                });
            }
            Ok(Frame::Error(text)) => Reply::Error(text.to_string()),
            told => {
                tracing::warn!(error = ?told.err(), "Redis was not emptied");
                Reply::err(
                    "the upstream Redis is out of reach; the mapped tables are as they were, and \
                     Redis may have been emptied",
                )
            }
        };
        if let Err(error) = session.rollback().await {
            // The session is broken and with it the transaction.
            tracing::debug!(%error, "rollback failed");
        }
        Err(refused)
    }

    /// Empties Redis alone, once Postgres has what it has.
    pub(super) async fn empty(&mut self, arguments: &[Bytes]) -> Result<Reply, Reply> {
        if let Some(mapping) = self.registry.mappings().find(|mapping| mapping.imports()) {
            return Err(has_originals(&mapping.name));
        }
        for _ in 0..EMPTY_TRIES {
            let flushed =
                until_flushed((&self.trust, &self.settings.health), &mut self.control).await;
            flushed.map_err(|error| error.reply())?;
            let call = Call {
                script: Script::Empty,
                keys: vec![Bytes::from_static(JOURNAL)],
                arguments: arguments.to_vec(),
            };
            let told = self.control.call(&[call]).await.map(|mut told| told.remove(0));
            match told {
                Ok(Frame::BulkString(word)) if &word[..] == b"DIRTY" => {}
                Ok(Frame::SimpleString(_)) => {
                    // The journal needs another epoch.
                    self.trust.poke();
                    return Ok(Reply::OK);
                }
                Ok(Frame::Error(text)) => return Err(Reply::Error(text.to_string())),
                told => {
                    tracing::warn!(error = ?told.err(), "Redis was not emptied");
                    return Err(Reply::err(
                        "the upstream Redis is out of reach; Redis may have been emptied",
                    ));
                }
            }
        }
        Err(NotFlushed::Late.reply())
    }

    async fn begin_empty(&mut self) -> Result<(), StoreError> {
        let registry = Arc::clone(&self.registry);
        let mut mappings: Vec<Arc<Mapping>> = Vec::new();
        for mapping in registry.mappings() {
            if self.tables.is_due(mapping) {
                self.look_again(mapping).await?;
            }
            mappings.push(self.tables.current(mapping).ok_or_else(set_aside)?);
        }
        mappings.sort_unstable_by_key(|mapping| mapping.index);
        let mappings: Vec<&Mapping> = mappings.iter().map(|mapping| &**mapping).collect();
        connected(&mut self.session, &self.settings).await?.begin_empty(&mappings).await
    }
}
