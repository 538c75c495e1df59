//! The protocol with one piece left out. The checker has to find what goes wrong then.

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Mutant {
    /// `begin` works on a key whose changes Postgres does not have yet.
    BeginIgnoresDirty,
    /// `begin` does not take readers their right to fill.
    BeginLeavesTheMark,
    /// `begin` does not move the cached copy aside.
    BeginLeavesTheValue,
    /// `end` works with another writer's token.
    EndIgnoresTheToken,
    /// `miss` gives the right to fill whoever has the mark.
    MissTakesTheMark,
    /// `fill` works without the right to.
    FillIgnoresTheToken,
    /// `behind` works on a key that Redis does not know.
    BehindWithoutLoading,
    /// `clean` of an older entry calls the key clean.
    CleanIgnoresTheId,
    /// Writers take no advisory lock.
    WriteWithoutLock,
    /// A writer begins before it has the lock.
    BeginBeforeLock,
    /// A writer sends COMMIT while `begin` is on its way.
    CommitBeforeBegun,
    /// A reader fills without having probed the lock.
    FillWithoutProbe,
    /// A reader probes after it has read the row.
    ProbeAfterSelect,
    /// The flusher does not look whether its batch is still in the journal once it has the lock.
    FlushWithoutCheck,
    /// The id of the last applied entry is not stored in the transaction.
    AppliedNotStored,
    /// An outbox row is deleted though the key was dirty.
    OutboxIgnoresDirty,
    /// A sweep keeps what is dirty, whatever has been in Redis' place since that data was there.
    SweepKeepsAnyDirty,
    /// A second change of a part of a value takes it for the whole.
    PartForgotten,
    /// Of a part it is journaled what it holds, not what was added.
    PartAsImage,
    /// A part of a value stays in Redis when Postgres has it.
    CleanKeepsThePart,
    /// Hits are trusted after a restart of Redis before it was swept.
    NoSweep,
    /// A writer makes a row of a key that only Redis has.
    WriteWithoutImport,
    /// A writer tells Redis first of a key that only Redis has.
    BehindWithoutImport,
    /// A key is imported without its lock.
    ImportWithoutLock,
    /// A key is imported though Redis has changes of it in the journal.
    ImportIgnoresTheMark,
    /// A key is imported though SQL of others has deleted its row, and its copy is still to go.
    ImportIgnoresTheOutbox,
    /// Nobody writes down that a row was deleted.
    MovedForgotten,
    /// A sweep drops what only Redis has.
    SweepDropsOriginals,
}
