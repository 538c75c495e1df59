//! Values too large to be held, on their way to a client: read and written element by element, at the
//! client's pace.
//!
//! A reader that finds such a value asked for as a whole gives it back to the client's event loop. When
//! all replies before it are on their way, the loop has it streamed: the reply comes in pieces, and the
//! next one is read when there is room for it.
//!
//! Invariants
//! - The reply is of one snapshot, which began after the request had come, and is what a reply that was
//!   made at once would have been, byte for byte.
//! - Of a value no more is in memory than its largest element and a few pieces.
//! - A client that does not take its reply holds a streamer, and a snapshot in Postgres, for a bounded
//!   time. Other reads are not the streamers' business.
//! - Half a reply cannot be taken back: what fails after the first piece costs the client its
//!   connection. Whoever sends the pieces says which is the last one; without one the reply has failed.
//!
//! Absent on purpose: filling the cache with such a value. It would keep Redis busy with one key.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::sync::{Semaphore, mpsc};

use super::queue::Queue;
use super::refusal::{read_failed, read_too_busy};
use super::rescue::rescue;
use super::tables::Tables;
use super::through::{connected, set_aside};
use super::{EngineSettings, patience};
use crate::command::Listing;
use crate::mapping::{MappedKey, Mapping};
use crate::protocol::{Reply, Version};
use crate::store::{Session, StoreError};
use crate::tasks::Tasks;

/// A piece of a reply is sent when it is this long.
const PIECE_BYTES: usize = 64 << 10;

/// Pieces that wait for the client.
const PIECES: usize = 2;

/// What one statement reads: so much, by what the rows before were like, and at most so many rows.
const FETCH_BYTES: usize = 256 << 10;
const MOST_ROWS: usize = 4096;
const FIRST_ROWS: usize = 128;

/// How long a client may take nothing. Shorter than Postgres lets a transaction idle.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// A large value that is asked for as a whole.
#[derive(Clone, Debug)]
pub struct Large {
    pub key: MappedKey,
    pub listing: Listing,
    pub version: Version,
}

/// A part of a reply.
#[derive(Debug)]
pub enum Piece {
    Bytes(Bytes),
    /// The reply is complete.
    End,
}

/// A large value that is to be streamed now.
#[derive(Debug)]
pub struct Streaming {
    large: Large,
    pieces: mpsc::Sender<Piece>,
    /// The client has a part of the reply, or all of it.
    begun: bool,
}

/// What streams large values, a few at a time.
#[derive(Debug)]
pub struct Streamer {
    settings: EngineSettings,
    tables: Arc<Tables>,
    queue: Arc<Queue<Streaming>>,
    /// One for each value that may be streamed at the same time.
    permits: Semaphore,
    /// Sessions that are not in use.
    idle: Mutex<Vec<Session>>,
}

/// Why a reply ends early.
#[derive(Debug)]
enum Stop {
    /// The client has gone.
    Left,
    Stalled,
    Store(StoreError),
    /// There were not as many elements as had been counted.
    Miscounted,
}

// === impl Streaming ===

impl Streaming {
    /// What is to be queued, and where its pieces will come out.
    pub fn new(large: Large) -> (Self, mpsc::Receiver<Piece>) {
        let (sender, pieces) = mpsc::channel(PIECES);
        (Self { large, pieces: sender, begun: false }, pieces)
    }

    /// Answers with a short reply, if none has begun.
    fn answer(&mut self, reply: &Reply) {
        if self.begun {
            return;
        }
        let mut bytes = BytesMut::new();
        reply.write(self.large.version, &mut bytes);
        self.begun = true;
        // There is room for both, unless the client has gone.
        let _ = self.pieces.try_send(Piece::Bytes(bytes.freeze()));
        let _ = self.pieces.try_send(Piece::End);
    }

    async fn send(&mut self, piece: Piece) -> Result<(), Stop> {
        self.begun = true;
        match tokio::time::timeout(LONGEST_PAUSE, self.pieces.send(piece)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(Stop::Left),
            Err(_) => Err(Stop::Stalled),
        }
    }
}

// === impl Streamer ===

impl Streamer {
    pub(super) fn new(
        settings: &EngineSettings,
        tables: Arc<Tables>,
        queue: Arc<Queue<Streaming>>,
    ) -> Self {
        let permits = Semaphore::new(settings.postgres.streams);
        Self { settings: settings.clone(), tables, queue, permits, idle: Mutex::default() }
    }

    /// Streams until it is asked to stop.
    pub async fn run(self: Arc<Self>, tasks: &Tasks) {
        loop {
            let streamings = tokio::select! {
                streamings = self.queue.take() => streamings,
                () = tasks.stopping() => break,
            };
            for mut streaming in streamings {
                let streamer = Arc::clone(&self);
                tasks.spawn(async move {
                    if rescue(streamer.serve(&mut streaming)).await.is_err() {
                        tracing::error!("the streaming of a large value panicked");
                        streaming.answer(&Reply::err("internal error"));
                    }
                });
            }
        }
        let idle = std::mem::take(&mut *self.idle());
        for session in idle {
            session.close().await;
        }
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Session>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Streams a value once it is one of the few.
    async fn serve(&self, streaming: &mut Streaming) {
        let permit = self.permits.acquire();
        let permit = tokio::select! {
            permit = tokio::time::timeout(patience(&self.settings.postgres), permit) => permit,
            () = streaming.pieces.closed() => return,
        };
        let Ok(Ok(_permit)) = permit else {
            streaming.answer(&read_too_busy());
            return;
        };
        let mut session = self.idle().pop();
        let limit = Duration::from_millis(self.settings.postgres.stream_timeout_ms);
        match tokio::time::timeout(limit, self.stream(&mut session, streaming)).await {
            Ok(Ok(())) => self.idle().extend(session),
            // The session may have rows under way: it is dropped, and its snapshot ends at once.
            Ok(Err(stop)) => give_up(stop, streaming),
            Err(_) => {
                let late = StoreError::Timeout(format!("not all of it within {limit:?}"));
                give_up(Stop::Store(late), streaming);
            }
        }
    }

    async fn stream(
        &self,
        session: &mut Option<Session>,
        streaming: &mut Streaming,
    ) -> Result<(), Stop> {
        let (session, mapping, count) = self.begin(session, &streaming.large.key).await?;
        let listing = streaming.large.listing;
        let mut bytes = BytesMut::with_capacity(PIECE_BYTES);
        listing.write_head(count, streaming.large.version, &mut bytes);
        let (mut written, mut rows) = (0, FIRST_ROWS);
        while written < count {
            let mut fetched_bytes = 0;
            let mut elements = session.next_elements(&mapping.layout, rows)?;
            while let Some((name, value)) = elements.next().await? {
                listing.write_element(&name, &value, &mut bytes);
                written += 1;
                fetched_bytes += name.len() + value.len();
                if bytes.len() >= PIECE_BYTES {
                    streaming.send(Piece::Bytes(bytes.split().freeze())).await?;
                }
            }
            let come = elements.come;
            if come < rows {
                break;
            }
            rows = (FETCH_BYTES / (fetched_bytes / come).max(1)).clamp(1, MOST_ROWS);
        }
        if written != count {
            return Err(Stop::Miscounted);
        }
        session.rollback().await?;
        if !bytes.is_empty() {
            streaming.send(Piece::Bytes(bytes.freeze())).await?;
        }
        streaming.send(Piece::End).await
    }

    /// Begins a snapshot; the session it is in, the mapping as its table is now, and how many elements
    /// there are.
    async fn begin<'s>(
        &self,
        session: &'s mut Option<Session>,
        key: &MappedKey,
    ) -> Result<(&'s mut Session, Arc<Mapping>, usize), StoreError> {
        let limit_ms = self.settings.postgres.stream_timeout_ms;
        // A reader has just looked at the table.
        let mapping = self.tables.current(&key.mapping).ok_or_else(set_aside)?;
        let was_connected = session.is_some();
        let connection = connected(session, &self.settings).await?;
        let mut begun = connection.begin_elements(&mapping, key, limit_ms).await;
        if was_connected && matches!(begun, Err(StoreError::Unreachable(_))) {
            // The session had died unnoticed.
            *session = None;
            let connection = connected(session, &self.settings).await?;
            begun = connection.begin_elements(&mapping, key, limit_ms).await;
        }
        let count = begun?;
        let session = session.as_mut().expect("it has begun a transaction just now");
        Ok((session, mapping, count))
    }
}

/// Tells the client that there is no reply, or, where there is a part of one, nothing more; then its
/// connection ends.
fn give_up(stop: Stop, streaming: &mut Streaming) {
    let begun = streaming.begun;
    let mapping = &streaming.large.key.mapping.name;
    match stop {
        Stop::Left => tracing::debug!(mapping, "a client left before it had all of its reply"),
        Stop::Stalled => tracing::warn!(
            mapping,
            "a client is closed: it does not read the large value that it asked for"
        ),
        Stop::Store(error) if begun => tracing::warn!(
            mapping, %error,
            "a client is closed: the large value that it asked for cannot be read on"
        ),
        Stop::Store(error) => {
            tracing::warn!(%error, "a read from Postgres failed");
            let reply = read_failed(&error, mapping);
            streaming.answer(&reply);
        }
        Stop::Miscounted => tracing::error!(
            mapping,
            "a client is closed: a large value has not as many elements as were counted"
        ),
    }
}

impl From<StoreError> for Stop {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}
