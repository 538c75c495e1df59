//! Who takes part in a run, and what each may do next.

use stateright::{Model, Property};

use crate::history::{History, Operation, Set};
use crate::mutant::Mutant;
use crate::redis::{Mark, Missed, Redis, Token};
use crate::world::{
    Behind, Commit, Drainer, Flusher, Holder, Message, Postgres, Reader, Sweeper, Through, World,
};

/// Tries of a writer that finds the key dirty.
const TRIES: u8 = 2;
/// Entries that the flusher takes at once.
const BATCH: usize = 2;

#[derive(Clone, Debug, Default)]
pub(crate) struct Scene {
    pub(crate) throughs: Vec<Operation>,
    pub(crate) behinds: Vec<Operation>,
    pub(crate) external: Option<Operation>,
    /// How often each reader reads.
    pub(crate) readers: Vec<u8>,
    /// Whether those who write behind have lost Postgres: of what Redis does not know they make a part.
    pub(crate) makes_parts: bool,
    /// Whether the value is in Redis when it begins.
    pub(crate) cached: bool,
    /// What the mapping's keys may be, where they may be in Redis alone.
    pub(crate) imports: Option<Origin>,
    pub(crate) crashes: u8,
    pub(crate) evictions: u8,
    pub(crate) restarts: u8,
    pub(crate) mutant: Option<Mutant>,
}

/// Where a key comes from whose mapping imports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// Redis has it, Postgres does not.
    Redis,
    /// It has a row, and a copy.
    Postgres,
    /// It is nowhere yet.
    Nowhere,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Action {
    /// The next step of a process.
    Through(u8),
    Behind(u8),
    Reader(u8),
    Flusher,
    Drainer,
    External,
    Sweep,
    /// A write is given up before COMMIT was sent.
    Abort(u8),
    Deliver(Message),
    /// A writer dies; `true`: its `begin` is on its way.
    CrashThrough(u8, bool),
    CrashFlusher,
    CrashDrainer,
    CrashSweeper,
    OrphanLands,
    OrphanFails,
    EvictValue,
    EvictMark,
    EvictAside,
    Snapshot,
    RestartEmpty,
    RestartFromSnapshot,
}

// === impl Model for Scene ===

impl Model for Scene {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        let made = History::of(&[Operation::Increment(0)]);
        let row = match self.imports {
            Some(Origin::Redis | Origin::Nowhere) => History::default(),
            Some(Origin::Postgres) | None => made,
        };
        let in_redis = match self.imports {
            Some(origin) => origin != Origin::Nowhere,
            None => self.cached,
        };
        let owed = if in_redis { made.set() } else { row.set() };
        let mut redis = Redis::empty(0);
        redis.value = in_redis.then_some(made);
        redis.epoch = 1;
        vec![World {
            redis,
            postgres: Postgres {
                row,
                lock: None,
                row_lock: None,
                applied: (0, 0),
                outbox: 0,
                moved: false,
                swept_run: 0,
                epoch: 1,
                last_epoch: 1,
                first_epoch: 1,
                orphan: None,
            },
            imports: self.imports.is_some(),
            spared: 0,
            messages: vec![],
            throughs: vec![Through::Idle { tries: 0 }; self.throughs.len()],
            behinds: vec![Behind::Idle; self.behinds.len()],
            external: self.external,
            readers: self.readers.iter().map(|&reads| (Reader::Idle, reads)).collect(),
            flusher: Flusher::Idle,
            drainer: Drainer::Idle,
            sweeper: Sweeper::Idle,
            snapshot: None,
            crashes_left: self.crashes,
            evictions_left: self.evictions,
            restarts_left: self.restarts,
            floor: owed,
            happened: owed,
            wrong_read: false,
        }]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        let indexes = |count: usize| 0..u8::try_from(count).unwrap_or(u8::MAX);
        for at in indexes(world.throughs.len()) {
            actions.push(Action::Through(at));
            actions.push(Action::Abort(at));
            if world.crashes_left > 0 {
                actions.extend([Action::CrashThrough(at, false), Action::CrashThrough(at, true)]);
            }
        }
        actions.extend(indexes(world.behinds.len()).map(Action::Behind));
        actions.extend(indexes(world.readers.len()).map(Action::Reader));
        actions.extend(world.messages.iter().map(|&message| Action::Deliver(message)));
        actions.extend([Action::Flusher, Action::Drainer, Action::External, Action::Sweep]);
        actions.extend([Action::OrphanLands, Action::OrphanFails]);
        if world.crashes_left > 0 {
            actions.extend([Action::CrashFlusher, Action::CrashDrainer, Action::CrashSweeper]);
        }
        if world.evictions_left > 0 {
            actions.extend([Action::EvictValue, Action::EvictMark, Action::EvictAside]);
        }
        if world.restarts_left > 0 {
            actions.extend([Action::Snapshot, Action::RestartEmpty, Action::RestartFromSnapshot]);
        }
    }

    fn next_state(&self, world: &World, action: Action) -> Option<World> {
        let mut next = world.clone();
        self.act(&mut next, action)?;
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("no read is stale", |_, world: &World| !world.wrong_read),
            Property::always("nothing is applied twice", |_, world: &World| {
                !world.postgres.row.repeats()
            }),
            Property::always("both stores are equal when all is quiet", |_, world: &World| {
                !world.is_quiet() || agrees(world)
            }),
            Property::sometimes("everything is done, and cached", |scene: &Self, world: &World| {
                let (throughs, behinds) = (&scene.throughs, &scene.behinds);
                let all = throughs.iter().chain(behinds).chain(&scene.external);
                let first = Set::from(scene.imports != Some(Origin::Nowhere));
                let all: Set = all.fold(first, |set, operation| set | operation.bit());
                let cached = match world.redis.mark {
                    Mark::Gone(history) => Some(history),
                    _ => world.redis.value,
                };
                world.is_quiet() && cached.is_some_and(|cached| cached.set() == all)
            }),
        ]
    }
}

/// Whether Redis holds what Postgres holds, or nothing; and Postgres all that was acknowledged.
fn agrees(world: &World) -> bool {
    let row = world.postgres.row;
    if world.has_original() {
        // Nobody has had to ask Postgres for it.
        let value = world.redis.value.map_or(0, |value| value.set());
        return world.floor & !value == 0;
    }
    let (value, mark) = (world.redis.value, world.redis.mark);
    let value_agrees = value.is_none_or(|value| value.set() == row.set() && row.exists());
    let mark_agrees = match mark {
        Mark::Gone(_) => !row.exists(),
        Mark::Dirty(_) | Mark::GoneDirty(..) | Mark::Part(_) => false,
        Mark::None | Mark::Reader(_) | Mark::Writer(_) => true,
    };
    value_agrees && mark_agrees && world.floor & !row.set() == 0
}

// === impl Scene ===

impl Scene {
    fn is(&self, mutant: Mutant) -> bool {
        self.mutant == Some(mutant)
    }

    /// Whether a process may talk with Redis about the key.
    fn trusts(&self, world: &World) -> bool {
        world.is_trusted() || self.is(Mutant::NoSweep)
    }

    fn act(&self, world: &mut World, action: Action) -> Option<()> {
        match action {
            Action::Through(at) => self.through(world, at),
            Action::Behind(at) => self.behind(world, at),
            Action::Reader(at) => self.reader(world, at),
            Action::Flusher => self.flusher(world),
            Action::Drainer => self.drainer(world),
            Action::External => {
                world.postgres.row_lock.is_none().then_some(())?;
                let operation = world.external.take()?;
                if self.imports.is_some() && !world.postgres.row.exists() {
                    // There is no row to change.
                    return Some(());
                }
                world.postgres.row = world.postgres.row.with(operation);
                world.postgres.outbox |= operation.bit();
                world.happened |= operation.bit();
                Some(())
            }
            Action::Sweep => self.sweep(world),
            Action::Abort(at) => {
                let Through::Begun { tries, .. } = world.throughs[usize::from(at)] else {
                    return None;
                };
                world.release(Holder::Through(at));
                world.send(Message::End(Token(at, tries), None));
                world.throughs[usize::from(at)] = Through::Done;
                Some(())
            }
            Action::Deliver(message) => {
                world.messages.retain(|sent| *sent != message);
                match message {
                    // An error of Redis' is of no use to a sender that has died.
                    Message::Begin(token) => world.redis.begin(token, self.mutant).unwrap_or(()),
                    Message::End(token, delta) => world.redis.end(token, delta, self.mutant),
                    Message::Fill(token, row) => world.redis.fill(token, row, self.mutant),
                    Message::Unlease(token) => world.redis.unlease(token),
                }
                Some(())
            }
            Action::CrashThrough(at, begins) => self.crash_through(world, at, begins),
            Action::CrashFlusher => {
                world.crashes_left -= 1;
                match std::mem::replace(&mut world.flusher, Flusher::Idle) {
                    Flusher::Idle => return None,
                    Flusher::Committing { commit, .. } => world.orphan(commit, Holder::Flusher),
                    _ => world.release(Holder::Flusher),
                }
                Some(())
            }
            Action::CrashDrainer => {
                world.crashes_left -= 1;
                let crashed = std::mem::replace(&mut world.drainer, Drainer::Idle);
                (crashed != Drainer::Idle).then_some(())
            }
            Action::CrashSweeper => {
                world.crashes_left -= 1;
                let crashed = std::mem::replace(&mut world.sweeper, Sweeper::Idle);
                (crashed != Sweeper::Idle).then_some(())
            }
            Action::OrphanLands => {
                let commit = world.postgres.orphan.take()?;
                self.land(world, commit, Holder::Orphan);
                Some(())
            }
            Action::OrphanFails => {
                world.postgres.orphan.take()?;
                world.release(Holder::Orphan);
                Some(())
            }
            Action::EvictValue => {
                world.evictions_left -= 1;
                // What only Redis has is Redis' to lose.
                (!world.redis.is_dirty() && !world.has_original()).then_some(())?;
                world.redis.value.take().map(|_| ())
            }
            Action::EvictMark => {
                world.evictions_left -= 1;
                let had = !world.redis.is_dirty() && world.redis.mark != Mark::None;
                world.redis.mark = Mark::None;
                had.then_some(())
            }
            Action::EvictAside => {
                world.evictions_left -= 1;
                world.redis.aside.take().map(|_| ())
            }
            Action::Snapshot => {
                world.snapshot.is_none().then_some(())?;
                world.snapshot = Some(Box::new(world.redis.clone()));
                Some(())
            }
            Action::RestartEmpty => {
                world.restart(Redis::empty(0));
                Some(())
            }
            Action::RestartFromSnapshot => {
                let snapshot = world.snapshot.take()?;
                world.restart(*snapshot);
                Some(())
            }
        }
    }

    fn through(&self, world: &mut World, at: u8) -> Option<()> {
        let operation = self.throughs[usize::from(at)];
        let holder = Holder::Through(at);
        let locks = !self.is(Mutant::WriteWithoutLock);
        let next = match world.throughs[usize::from(at)] {
            Through::Idle { tries } if self.is(Mutant::BeginBeforeLock) => {
                self.trusts(world).then_some(())?;
                match world.redis.begin(Token(at, tries), self.mutant) {
                    Ok(()) => Through::Early { tries },
                    Err(_) if tries + 1 < TRIES => Through::Idle { tries: tries + 1 },
                    Err(_) => Through::Done,
                }
            }
            Through::Early { tries } => {
                world.is_free().then_some(())?;
                world.take_locks(holder, locks);
                Through::Begun { tries, row: world.postgres.row }
            }
            Through::Idle { tries } => {
                // Without the advisory lock the row's own lock still keeps writers apart.
                let free = if locks { world.is_free() } else { world.postgres.row_lock.is_none() };
                free.then_some(())?;
                world.take_locks(holder, locks);
                Through::Locked { tries, row: world.postgres.row }
            }
            Through::Locked { tries, row } if self.is_missing(world, at, row) => {
                self.trusts(world).then_some(())?;
                world.release(holder);
                Through::Missing { tries }
            }
            Through::Missing { tries } => {
                let locks = !self.is(Mutant::ImportWithoutLock);
                let Postgres { lock, outbox, .. } = world.postgres;
                (lock.is_none() || !locks).then_some(())?;
                let is_changed = outbox != 0 && !self.is(Mutant::ImportIgnoresTheOutbox);
                if world.knows() || is_changed {
                    world.spared |= 1 << at;
                    Through::Idle { tries }
                } else {
                    if locks {
                        world.postgres.lock = Some(holder);
                    }
                    Through::Importing { tries }
                }
            }
            Through::Importing { tries } => {
                self.trusts(world).then_some(())?;
                let ignores = self.is(Mutant::ImportIgnoresTheMark);
                match world.redis.value {
                    Some(value) if ignores || world.redis.mark == Mark::None => {
                        Through::Bringing { tries, commit: Commit { row: value, applied: None } }
                    }
                    // Whoever finds it dirty waits, and comes again.
                    Some(_) => {
                        world.release(holder);
                        let again = tries + 1 < TRIES;
                        if again { Through::Idle { tries: tries + 1 } } else { Through::Done }
                    }
                    None => {
                        world.release(holder);
                        world.spared |= 1 << at;
                        Through::Idle { tries }
                    }
                }
            }
            Through::Bringing { tries, commit } => {
                world.land(commit, holder);
                Through::Idle { tries }
            }
            Through::Locked { tries, row } => {
                self.trusts(world).then_some(())?;
                let token = Token(at, tries);
                if self.is(Mutant::CommitBeforeBegun) {
                    world.send(Message::Begin(token));
                    Through::Begun { tries, row }
                } else {
                    match world.redis.begin(token, self.mutant) {
                        Ok(()) => Through::Begun { tries, row },
                        Err(_) => {
                            world.release(holder);
                            let again = tries + 1 < TRIES;
                            if again { Through::Idle { tries: tries + 1 } } else { Through::Done }
                        }
                    }
                }
            }
            Through::Begun { tries, row } => {
                let commit = Commit { row: row.with(operation), applied: None };
                Through::Committing { tries, commit }
            }
            Through::Committing { tries, commit } => {
                let existed = world.postgres.row.exists() || self.imports.is_none();
                self.land(world, commit, holder);
                Through::Committed { tries, existed }
            }
            Through::Committed { tries, existed } => {
                world.acknowledge(operation.bit());
                // What is aside of a key without a row is no copy of it, and goes.
                let number = u8::try_from(operation.bit().trailing_zeros()).unwrap_or(u8::MAX);
                let delta = if existed { operation } else { Operation::Delete(number) };
                world.send(Message::End(Token(at, tries), Some(delta)));
                Through::Done
            }
            Through::Done => return None,
        };
        world.throughs[usize::from(at)] = next;
        Some(())
    }

    /// Whether a writer has to see to what Redis has before it makes a row.
    fn is_missing(&self, world: &World, at: u8, row: History) -> bool {
        self.imports.is_some()
            && !self.is(Mutant::WriteWithoutImport)
            && !row.exists()
            && world.redis.value.is_some()
            && world.spared & (1 << at) == 0
    }

    fn land(&self, world: &mut World, commit: Commit, holder: Holder) {
        let moved = world.postgres.moved;
        world.land(commit, holder);
        if self.is(Mutant::MovedForgotten) {
            world.postgres.moved = moved;
        }
    }

    fn crash_through(&self, world: &mut World, at: u8, begins: bool) -> Option<()> {
        world.crashes_left -= 1;
        let holder = Holder::Through(at);
        let through = std::mem::replace(&mut world.throughs[usize::from(at)], Through::Done);
        match through {
            Through::Idle { .. } | Through::Done => return None,
            // Of a key that it has found missing it does not begin.
            Through::Locked { tries, row } if begins && !self.is_missing(world, at, row) => {
                world.release(holder);
                world.send(Message::Begin(Token(at, tries)));
            }
            _ if begins => return None,
            Through::Committing { commit, .. } | Through::Bringing { commit, .. } => {
                // One orphan at a time is enough.
                world.postgres.orphan.is_none().then_some(())?;
                world.orphan(commit, holder);
            }
            _ => world.release(holder),
        }
        Some(())
    }

    fn behind(&self, world: &mut World, at: u8) -> Option<()> {
        let done = world.behinds[usize::from(at)];
        (done != Behind::Done).then_some(())?;
        if self.imports.is_some() && done == Behind::Idle && !self.is(Mutant::BehindWithoutImport) {
            // An original is imported by those who write through.
            let is_known = world.redis.value.is_none() || world.redis.is_dirty() || world.knows();
            (self.trusts(world) && is_known).then_some(())?;
            world.behinds[usize::from(at)] = Behind::Known;
            return Some(());
        }
        world.behinds[usize::from(at)] = Behind::Done;
        self.trusts(world).then_some(())?;
        let operation = self.behinds[usize::from(at)];
        // A key that is not loaded is loaded by a reader; until then there is nothing to do.
        let epoch = world.postgres.epoch;
        world.redis.behind(operation, epoch, self.makes_parts, self.mutant).ok()?;
        world.happened |= operation.bit();
        world.acknowledge(operation.bit());
        Some(())
    }

    fn reader(&self, world: &mut World, at: u8) -> Option<()> {
        let (reader, reads) = world.readers[usize::from(at)];
        // Numbers of readers come after those of writers.
        let token = Token(100 + at, reads);
        let mut returned = None;
        let next = match reader {
            Reader::Idle => {
                (reads > 0 && self.trusts(world)).then_some(())?;
                match world.redis.value {
                    // Who reads a part knows that Postgres is lost.
                    Some(_) if matches!(world.redis.mark, Mark::Part(_)) => {
                        world.readers[usize::from(at)] = (Reader::Idle, reads - 1);
                        return Some(());
                    }
                    Some(value) => {
                        returned = Some((value, world.floor));
                        Reader::Idle
                    }
                    None => Reader::Missed { floor: world.floor },
                }
            }
            Reader::Missed { floor } => {
                self.trusts(world).then_some(())?;
                if matches!(world.redis.mark, Mark::Part(_)) {
                    world.readers[usize::from(at)] = (Reader::Idle, reads - 1);
                    return Some(());
                }
                match world.redis.miss(token, self.mutant) {
                    Missed::Hit(value) | Missed::Absent(value) => {
                        returned = Some((value, floor));
                        Reader::Idle
                    }
                    Missed::Fill if self.is(Mutant::FillWithoutProbe) => {
                        Reader::Probed { floor, free: true }
                    }
                    Missed::Fill => Reader::Asked { floor },
                    Missed::Through => Reader::Through { floor },
                }
            }
            Reader::Asked { floor } if self.is(Mutant::ProbeAfterSelect) => {
                world.returned(world.postgres.row, floor);
                Reader::Selected { row: world.postgres.row }
            }
            Reader::Selected { row } => {
                let free = world.postgres.lock.is_none();
                world.send(fill_or_not(token, row, free));
                returned = Some((row, 0));
                Reader::Idle
            }
            Reader::Asked { floor } => {
                Reader::Probed { floor, free: world.postgres.lock.is_none() }
            }
            Reader::Probed { floor, free } => {
                let row = world.postgres.row;
                world.send(fill_or_not(token, row, free));
                returned = Some((row, floor));
                Reader::Idle
            }
            Reader::Through { floor } => {
                returned = Some((world.postgres.row, floor));
                Reader::Idle
            }
        };
        let left = reads - u8::from(returned.is_some());
        world.readers[usize::from(at)] = (next, left);
        if let Some((value, floor)) = returned {
            world.returned(value, floor);
            // What others do by SQL is owed to nobody before its outbox row is gone.
            let external = self.external.map_or(0, Operation::bit);
            world.acknowledge(value.set() & !external);
        }
        Some(())
    }

    fn flusher(&self, world: &mut World) -> Option<()> {
        world.flusher = match std::mem::replace(&mut world.flusher, Flusher::Idle) {
            Flusher::Idle => {
                // Its lock is a session's: who died has it until his transaction is through.
                let alone = world.postgres.orphan.is_none_or(|orphan| orphan.applied.is_none());
                let batch: Vec<_> = world.redis.journal.iter().take(BATCH).copied().collect();
                (alone && self.trusts(world) && !batch.is_empty()).then_some(())?;
                Flusher::Read(batch)
            }
            Flusher::Read(batch) => {
                world.is_free().then_some(())?;
                world.take_locks(Holder::Flusher, true);
                Flusher::Locked(batch)
            }
            Flusher::Locked(batch) if self.is(Mutant::FlushWithoutCheck) => Flusher::Checked(batch),
            Flusher::Locked(batch) => {
                self.trusts(world).then_some(())?;
                let is_there = batch.last().is_some_and(|last| world.redis.journal.contains(last));
                if is_there {
                    Flusher::Checked(batch)
                } else {
                    world.release(Holder::Flusher);
                    Flusher::Idle
                }
            }
            Flusher::Checked(batch) => {
                let mut row = world.postgres.row;
                let mut applied = world.postgres.applied;
                for entry in &batch {
                    if (entry.epoch, entry.id) > world.postgres.applied {
                        row = entry.image.unwrap_or_else(|| row.with(entry.operation));
                        applied = (entry.epoch, entry.id);
                    }
                }
                let stored = !self.is(Mutant::AppliedNotStored);
                let applied = Some(if stored { applied } else { world.postgres.applied });
                let ids = batch.iter().map(|entry| entry.id).collect();
                Flusher::Committing { commit: Commit { row, applied }, ids }
            }
            Flusher::Committing { commit, ids } => {
                self.land(world, commit, Holder::Flusher);
                Flusher::Cleaning(ids)
            }
            Flusher::Cleaning(mut ids) => {
                if !self.trusts(world) {
                    // Another life of Redis: its entries are read again.
                    return Some(());
                }
                world.redis.clean(ids.remove(0), self.mutant);
                if ids.is_empty() { Flusher::Idle } else { Flusher::Cleaning(ids) }
            }
        };
        Some(())
    }

    fn drainer(&self, world: &mut World) -> Option<()> {
        world.drainer = match world.drainer {
            Drainer::Idle => {
                (world.postgres.outbox != 0).then_some(())?;
                Drainer::Read(world.postgres.outbox)
            }
            Drainer::Read(rows) => {
                self.trusts(world).then_some(())?;
                match world.redis.inval() {
                    Err(_) if !self.is(Mutant::OutboxIgnoresDirty) => Drainer::Idle,
                    _ => Drainer::Dropped(rows),
                }
            }
            Drainer::Dropped(rows) => {
                world.postgres.outbox &= !rows;
                world.postgres.moved |= self.imports.is_some() && !self.is(Mutant::MovedForgotten);
                world.acknowledge(rows);
                Drainer::Idle
            }
        };
        Some(())
    }

    /// After a restart: the new epoch is written down, Redis is gone through, that is recorded.
    fn sweep(&self, world: &mut World) -> Option<()> {
        let known_only = !self.is(Mutant::SweepKeepsAnyDirty);
        world.sweeper = match world.sweeper {
            Sweeper::Idle => {
                (!world.is_trusted()).then_some(())?;
                let Postgres { last_epoch, first_epoch, .. } = &mut world.postgres;
                let is_known = world.redis.epoch >= *first_epoch || !known_only;
                *last_epoch += 1;
                if !is_known {
                    *first_epoch = *last_epoch;
                }
                let epoch = *last_epoch;
                Sweeper::Begun { run: world.redis.run, epoch, is_known }
            }
            // What the sweeper knows is about another run.
            Sweeper::Begun { run, .. }
            | Sweeper::Spared { run, .. }
            | Sweeper::Found { run, .. }
                if run != world.redis.run =>
            {
                Sweeper::Idle
            }
            Sweeper::Begun { run, epoch, is_known } => {
                let spares = self.imports.is_some() && !self.is(Mutant::SweepDropsOriginals);
                let applied = world.postgres.applied;
                if world.redis.sweep(applied, is_known, epoch, spares) {
                    Sweeper::Spared { run, epoch }
                } else {
                    Sweeper::Swept { run, epoch }
                }
            }
            Sweeper::Spared { run, epoch } if world.knows() => Sweeper::Found { run, epoch },
            Sweeper::Spared { run, epoch } => Sweeper::Swept { run, epoch },
            Sweeper::Found { run, epoch } => {
                // What is dirty by now is newer than the sweep.
                let _ = world.redis.inval();
                Sweeper::Swept { run, epoch }
            }
            Sweeper::Swept { run, epoch } => {
                world.postgres.swept_run = run;
                world.postgres.epoch = epoch;
                Sweeper::Idle
            }
        };
        Some(())
    }
}

fn fill_or_not(token: Token, row: History, free: bool) -> Message {
    if free { Message::Fill(token, row) } else { Message::Unlease(token) }
}
