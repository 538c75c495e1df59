//! Redis: what it keeps of one key, and the scripts of the cache protocol.
//!
//! Each function is one script, so one atomic step. The scripts themselves are in `src/upstream/lua`; that
//! both do the same is what `tests/scripts` is for.

use crate::history::{History, Operation};
use crate::mutant::Mutant;

/// Who set a mark: process and try.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Token(pub(crate) u8, pub(crate) u8);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Mark {
    None,
    Reader(Token),
    Writer(Token),
    /// Known to be absent. What the value was is for the checker only, here and below.
    Gone(History),
    Dirty(u8),
    GoneDirty(u8, History),
    /// Dirty, and what is there is a part of the value: the row has the rest.
    Part(u8),
}

/// A change that Postgres still has to get.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Entry {
    /// Counts the lives of Redis' data.
    pub(crate) epoch: u8,
    pub(crate) id: u8,
    pub(crate) operation: Operation,
    /// Only of a mutant: what Redis held then, which takes the row's place.
    pub(crate) image: Option<History>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Redis {
    pub(crate) value: Option<History>,
    pub(crate) mark: Mark,
    pub(crate) aside: Option<History>,
    pub(crate) journal: Vec<Entry>,
    pub(crate) next_id: u8,
    /// Which sweep the data has come from: a key of its own. 0: none.
    pub(crate) epoch: u8,
    /// Another one after every restart: `run_id`.
    pub(crate) run: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Missed {
    Hit(History),
    Fill,
    Absent(History),
    Through,
}

/// A key is dirty.
#[derive(Debug)]
pub(crate) struct IsDirty;

/// `behind` cannot work on a key that is not loaded.
#[derive(Debug)]
pub(crate) struct NotLoaded;

// === impl Redis ===

impl Redis {
    pub(crate) fn empty(run: u8) -> Self {
        Self {
            value: None,
            mark: Mark::None,
            aside: None,
            journal: vec![],
            next_id: 1,
            epoch: 0,
            run,
        }
    }

    pub(crate) fn is_dirty(&self) -> bool {
        matches!(self.mark, Mark::Dirty(_) | Mark::GoneDirty(..) | Mark::Part(_))
    }

    pub(crate) fn inval(&mut self) -> Result<(), IsDirty> {
        if self.is_dirty() {
            return Err(IsDirty);
        }
        (self.value, self.mark, self.aside) = (None, Mark::None, None);
        Ok(())
    }

    pub(crate) fn begin(&mut self, token: Token, mutant: Option<Mutant>) -> Result<(), IsDirty> {
        if self.is_dirty() && mutant != Some(Mutant::BeginIgnoresDirty) {
            return Err(IsDirty);
        }
        if mutant != Some(Mutant::BeginLeavesTheValue) {
            self.aside = self.value.take();
        }
        if mutant != Some(Mutant::BeginLeavesTheMark) {
            self.mark = Mark::Writer(token);
        }
        Ok(())
    }

    pub(crate) fn end(&mut self, token: Token, delta: Option<Operation>, mutant: Option<Mutant>) {
        if self.mark != Mark::Writer(token) && mutant != Some(Mutant::EndIgnoresTheToken) {
            return;
        }
        self.mark = Mark::None;
        if let Some(aside) = self.aside.take() {
            let value = delta.map_or(aside, |operation| aside.with(operation));
            self.value = Some(value).filter(History::exists);
        }
    }

    pub(crate) fn miss(&mut self, token: Token, mutant: Option<Mutant>) -> Missed {
        if let Some(value) = self.value {
            return Missed::Hit(value);
        }
        if self.mark == Mark::None || mutant == Some(Mutant::MissTakesTheMark) {
            self.mark = Mark::Reader(token);
            return Missed::Fill;
        }
        match self.mark {
            Mark::Gone(history) | Mark::GoneDirty(_, history) => Missed::Absent(history),
            _ => Missed::Through,
        }
    }

    pub(crate) fn fill(&mut self, token: Token, row: History, mutant: Option<Mutant>) {
        if self.mark != Mark::Reader(token) && mutant != Some(Mutant::FillIgnoresTheToken) {
            return;
        }
        if row.exists() {
            (self.value, self.mark) = (Some(row), Mark::None);
        } else {
            self.mark = Mark::Gone(row);
        }
    }

    pub(crate) fn unlease(&mut self, token: Token) {
        if self.mark == Mark::Reader(token) {
            self.mark = Mark::None;
        }
    }

    pub(crate) fn behind(
        &mut self,
        operation: Operation,
        epoch: u8,
        makes_parts: bool,
        mutant: Option<Mutant>,
    ) -> Result<(), NotLoaded> {
        let is_part = match (self.value, self.mark) {
            (_, Mark::Part(_)) => mutant != Some(Mutant::PartForgotten),
            (None, Mark::None | Mark::Reader(_) | Mark::Writer(_)) => makes_parts,
            _ => false,
        };
        let history = match (self.value, self.mark) {
            (Some(value), _) => value,
            (None, Mark::Gone(history) | Mark::GoneDirty(_, history)) => history,
            (None, _) if is_part || mutant == Some(Mutant::BehindWithoutLoading) => {
                History::default()
            }
            (None, _) => return Err(NotLoaded),
        };
        let history = history.with(operation);
        let id = self.next_id;
        self.next_id += 1;
        let image = (is_part && mutant == Some(Mutant::PartAsImage)).then_some(history);
        self.journal.push(Entry { epoch, id, operation, image });
        if is_part {
            (self.value, self.mark) = (Some(history), Mark::Part(id));
        } else if history.exists() {
            (self.value, self.mark) = (Some(history), Mark::Dirty(id));
        } else {
            (self.value, self.mark) = (None, Mark::GoneDirty(id, history));
        }
        Ok(())
    }

    pub(crate) fn clean(&mut self, id: u8, mutant: Option<Mutant>) {
        self.journal.retain(|entry| entry.id != id);
        match self.mark {
            Mark::Dirty(newest) if newest == id || mutant == Some(Mutant::CleanIgnoresTheId) => {
                self.mark = Mark::None;
            }
            Mark::GoneDirty(newest, history) if newest == id => self.mark = Mark::Gone(history),
            Mark::Part(newest) if newest == id => {
                self.mark = Mark::None;
                if mutant != Some(Mutant::CleanKeepsThePart) {
                    (self.value, self.aside) = (None, None);
                }
            }
            _ => {}
        }
    }

    /// After a restart: keeps what Postgres does not have yet, drops what may be old. `is_known`: what
    /// is there now is what was there before, or an older state of it. Else what was dirty in it was given up
    /// when other data took its place, and others have written since.
    /// `spares`: a value that nobody has changed behind stays for now, as it may be an original; whether it
    /// does is the answer.
    pub(crate) fn sweep(
        &mut self,
        applied: (u8, u8),
        is_known: bool,
        epoch: u8,
        spares: bool,
    ) -> bool {
        self.epoch = epoch;
        let is_dirty = self.is_dirty();
        if !is_known {
            self.journal.clear();
        }
        let newest = match self.mark {
            Mark::Dirty(id) | Mark::GoneDirty(id, _) | Mark::Part(id) => {
                self.journal.iter().find(|entry| entry.id == id)
            }
            _ => None,
        };
        let keep = newest.is_some_and(|entry| (entry.epoch, entry.id) > applied);
        if keep {
            return false;
        }
        (self.mark, self.aside) = (Mark::None, None);
        if is_dirty || !spares {
            self.value = None;
        }
        self.value.is_some()
    }
}
