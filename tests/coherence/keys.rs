//! Which keys there are: every form of them in every family, half of them counted.

use std::sync::Arc;

/// What a key holds, and in which rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    Hash,
    Entries,
    Set,
}

/// What keys are called: each form of keys is there once for each family, whose name they begin with.
#[derive(Clone, Debug)]
pub(crate) struct Names(Arc<[String]>);

/// So many neighbours are of every form, counted and not.
const KEYS_OF_ALL_FORMS: usize = 6;

/// Neighbours, of which one is counted and one is not, are of one form.
pub(crate) fn form(key: u32) -> Form {
    match key / 2 % 3 {
        0 => Form::Hash,
        1 => Form::Entries,
        _ => Form::Set,
    }
}

/// Keys that are never deleted, so that their counter can be followed.
pub(crate) fn is_counted(key: u32) -> bool {
    key.is_multiple_of(2)
}

// === impl Names ===

impl Names {
    pub(crate) fn of(families: impl IntoIterator<Item = String>) -> Self {
        Self(families.into_iter().collect())
    }

    /// For a mapping such as `coherence:{id:int}`.
    pub(crate) fn key(&self, key: u32) -> String {
        let family = &self.0[self.family(key)];
        match form(key) {
            Form::Hash => format!("{family}coherence:{key}"),
            Form::Entries => format!("{family}entries:{key}"),
            Form::Set => format!("{family}set:{key}"),
        }
    }

    /// The place of its family.
    pub(crate) fn family(&self, key: u32) -> usize {
        key as usize / KEYS_OF_ALL_FORMS % self.0.len()
    }
}

impl Default for Names {
    fn default() -> Self {
        Self::of([String::new()])
    }
}
