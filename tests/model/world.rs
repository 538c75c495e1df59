//! Everything at one moment: both stores, messages on their way, and how far each process is.

use crate::history::{History, Operation, Set};
use crate::redis::{Redis, Token};

/// Who holds a lock: a process, or a transaction that goes on after its client has died.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Holder {
    Through(u8),
    Flusher,
    Orphan,
}

/// Postgres: the row and what guards it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Postgres {
    pub(crate) row: History,
    /// The key's advisory lock.
    pub(crate) lock: Option<Holder>,
    pub(crate) row_lock: Option<Holder>,
    /// Epoch and id of the last entry of the journal that is in the row.
    pub(crate) applied: (u8, u8),
    /// Operations whose outbox row is there.
    pub(crate) outbox: Set,
    /// It is written down that the key had a row: what Redis has without one is no original.
    pub(crate) moved: bool,
    /// The run of Redis that has been swept, and the epoch that its data got.
    pub(crate) swept_run: u8,
    pub(crate) epoch: u8,
    /// The last epoch that a sweep was begun with.
    pub(crate) last_epoch: u8,
    /// The first epoch of which the present data is a continuation.
    pub(crate) first_epoch: u8,
    /// A transaction whose COMMIT runs although its client has died.
    pub(crate) orphan: Option<Commit>,
}

/// What a COMMIT is going to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Commit {
    pub(crate) row: History,
    pub(crate) applied: Option<(u8, u8)>,
}

/// Sent to Redis, not yet there. Messages overtake each other, and may never arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Message {
    Begin(Token),
    End(Token, Option<Operation>),
    Fill(Token, History),
    Unlease(Token),
}

/// Postgres first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Through {
    Idle {
        tries: u8,
    },
    /// Only of a mutant: begun, without the lock.
    Early {
        tries: u8,
    },
    Locked {
        tries: u8,
        row: History,
    },
    Begun {
        tries: u8,
        row: History,
    },
    Committing {
        tries: u8,
        commit: Commit,
    },
    Committed {
        tries: u8,
        existed: bool,
    },
    /// There is no row, and Redis has the key: it is brought over, in a transaction of its own.
    Missing {
        tries: u8,
    },
    /// That transaction has the lock and found neither row nor outbox row.
    Importing {
        tries: u8,
    },
    /// It has read the value in Redis, and sends COMMIT.
    Bringing {
        tries: u8,
        commit: Commit,
    },
    Done,
}

/// Redis first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Behind {
    Idle,
    /// What Redis has of the key is known to be no original.
    Known,
    Done,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Reader {
    Idle,
    /// Redis had no value. `floor` is what the answer has to have in it.
    Missed {
        floor: Set,
    },
    Asked {
        floor: Set,
    },
    Probed {
        floor: Set,
        free: bool,
    },
    /// Only of a mutant: the row was read before the probe.
    Selected {
        row: History,
    },
    Through {
        floor: Set,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Flusher {
    Idle,
    Read(Vec<crate::redis::Entry>),
    Locked(Vec<crate::redis::Entry>),
    Checked(Vec<crate::redis::Entry>),
    Committing { commit: Commit, ids: Vec<u8> },
    Cleaning(Vec<u8>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Drainer {
    Idle,
    Read(Set),
    Dropped(Set),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Sweeper {
    Idle,
    /// The epoch is written down.
    Begun {
        run: u8,
        epoch: u8,
        is_known: bool,
    },
    /// The value was spared, as it may be an original.
    Spared {
        run: u8,
        epoch: u8,
    },
    /// It has found out that it is none.
    Found {
        run: u8,
        epoch: u8,
    },
    /// It has been through Redis.
    Swept {
        run: u8,
        epoch: u8,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct World {
    pub(crate) redis: Redis,
    pub(crate) postgres: Postgres,
    /// The key may be in Redis alone.
    pub(crate) imports: bool,
    /// Writers that have found out that what Redis has is no original.
    pub(crate) spared: Set,
    /// Sorted, so that equal worlds are equal.
    pub(crate) messages: Vec<Message>,
    pub(crate) throughs: Vec<Through>,
    pub(crate) behinds: Vec<Behind>,
    /// An UPDATE by somebody else that is still to come.
    pub(crate) external: Option<Operation>,
    /// With the reads that each has left.
    pub(crate) readers: Vec<(Reader, u8)>,
    pub(crate) flusher: Flusher,
    pub(crate) drainer: Drainer,
    pub(crate) sweeper: Sweeper,
    /// What Redis would come back with after a restart from a snapshot.
    pub(crate) snapshot: Option<Box<Redis>>,
    pub(crate) crashes_left: u8,
    pub(crate) evictions_left: u8,
    pub(crate) restarts_left: u8,
    /// What every read that begins now has to see: what was acknowledged, and what others saw.
    pub(crate) floor: Set,
    /// Operations that took place.
    pub(crate) happened: Set,
    /// A read returned something older than its floor, or what never was.
    pub(crate) wrong_read: bool,
}

// === impl World ===

impl World {
    /// Whether Redis may be asked for mapped keys.
    pub(crate) fn is_trusted(&self) -> bool {
        self.postgres.swept_run == self.redis.run
    }

    pub(crate) fn send(&mut self, message: Message) {
        if let Err(at) = self.messages.binary_search(&message) {
            self.messages.insert(at, message);
        }
    }

    /// A reader has its answer.
    pub(crate) fn returned(&mut self, value: History, floor: Set) {
        let set = value.set();
        let unheard_of = set & !self.happened != 0;
        self.wrong_read |= floor & !set != 0 || unheard_of || value.repeats();
    }

    pub(crate) fn acknowledge(&mut self, operations: Set) {
        self.floor |= operations;
    }

    pub(crate) fn is_free(&self) -> bool {
        self.postgres.lock.is_none() && self.postgres.row_lock.is_none()
    }

    pub(crate) fn take_locks(&mut self, holder: Holder, advisory: bool) {
        if advisory {
            self.postgres.lock = Some(holder);
        }
        self.postgres.row_lock = Some(holder);
    }

    /// The end of a transaction.
    pub(crate) fn release(&mut self, holder: Holder) {
        let Postgres { lock, row_lock, .. } = &mut self.postgres;
        *lock = lock.filter(|&held_by| held_by != holder);
        *row_lock = row_lock.filter(|&held_by| held_by != holder);
    }

    /// Whether Postgres has the key, or has written down that it had it.
    pub(crate) fn knows(&self) -> bool {
        self.postgres.row.exists() || self.postgres.moved
    }

    /// Whether Redis has the key alone.
    pub(crate) fn has_original(&self) -> bool {
        self.imports
            && self.postgres.row.set() == 0
            && !self.postgres.moved
            && !self.redis.is_dirty()
    }

    /// COMMIT takes effect.
    pub(crate) fn land(&mut self, commit: Commit, holder: Holder) {
        self.postgres.row = commit.row;
        self.postgres.moved |= self.imports && !commit.row.exists();
        if let Some(applied) = commit.applied {
            self.postgres.applied = applied;
        }
        self.happened |= commit.row.set();
        self.release(holder);
    }

    /// The client of a transaction dies after it has sent COMMIT.
    pub(crate) fn orphan(&mut self, commit: Commit, holder: Holder) {
        let Postgres { lock, row_lock, orphan, .. } = &mut self.postgres;
        for held_by in [lock, row_lock] {
            if *held_by == Some(holder) {
                *held_by = Some(Holder::Orphan);
            }
        }
        *orphan = Some(commit);
    }

    /// Redis comes back with other data. What it alone had is lost, and owed to nobody any more; what of
    /// that the flusher is just committing shows up again with the COMMIT.
    pub(crate) fn restart(&mut self, mut redis: Redis) {
        redis.run = self.redis.run + 1;
        self.redis = redis;
        self.messages.clear();
        self.restarts_left -= 1;
        let journal = self.redis.journal.iter().fold(0, |set, entry| set | entry.operation.bit());
        let original = self.redis.value.filter(|_| self.has_original());
        let original = original.map_or(0, |value| value.set());
        self.floor &= self.postgres.row.set() | journal | original;
    }

    /// Nothing is under way, and nothing is left to do.
    pub(crate) fn is_quiet(&self) -> bool {
        self.throughs.iter().all(|through| *through == Through::Done)
            && self.behinds.iter().all(|behind| *behind == Behind::Done)
            && self.external.is_none()
            && self.flusher == Flusher::Idle
            && self.drainer == Drainer::Idle
            && self.redis.journal.is_empty()
            && self.postgres.outbox == 0
            && self.postgres.orphan.is_none()
            && self.is_trusted()
    }
}
