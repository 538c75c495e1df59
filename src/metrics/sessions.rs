//! Connections to Postgres that are open, by what they are for.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What a worker keeps its connection for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Role {
    /// Writes, also those that Redis is told first.
    Write,
    /// Reads that Redis could not answer.
    Read,
    Stream,
    Lend,
    Keep,
    Expire,
    Flush,
    Survey,
    /// Hits that are compared.
    Check,
    /// What operators ask and have done.
    #[default]
    Operate,
}

/// How many there are now.
#[derive(Debug, Default)]
pub struct Sessions([AtomicUsize; Role::ALL.len()]);

/// One that is open; counted until it is dropped.
#[derive(Debug)]
pub struct OpenSession {
    sessions: Arc<Sessions>,
    role: Role,
}

// === impl Role ===

impl Role {
    /// In the order of their declaration.
    pub const ALL: [Self; 10] = [
        Self::Write,
        Self::Read,
        Self::Stream,
        Self::Lend,
        Self::Keep,
        Self::Expire,
        Self::Flush,
        Self::Survey,
        Self::Check,
        Self::Operate,
    ];

    /// As a label.
    pub fn name(self) -> &'static str {
        match self {
            Self::Write => "write",
            Self::Read => "read",
            Self::Stream => "stream",
            Self::Lend => "lend",
            Self::Keep => "keep",
            Self::Expire => "expire",
            Self::Flush => "flush",
            Self::Survey => "survey",
            Self::Check => "check",
            Self::Operate => "operate",
        }
    }
}

// === impl Sessions ===

impl Sessions {
    /// Counts one more.
    pub fn open(self: &Arc<Self>, role: Role) -> OpenSession {
        self.0[role as usize].fetch_add(1, Ordering::Relaxed);
        OpenSession { sessions: Arc::clone(self), role }
    }

    pub fn count(&self, role: Role) -> usize {
        self.0[role as usize].load(Ordering::Relaxed)
    }
}

impl Drop for OpenSession {
    fn drop(&mut self) {
        self.sessions.0[self.role as usize].fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_counted_while_it_is_open() {
        for (place, role) in Role::ALL.into_iter().enumerate() {
            assert_eq!(role as usize, place);
        }
        let sessions = Arc::new(Sessions::default());
        let (one, two) = (sessions.open(Role::Read), sessions.open(Role::Read));
        drop(one);
        assert_eq!((sessions.count(Role::Read), sessions.count(Role::Write)), (1, 0));
        drop(two);
        assert_eq!(sessions.count(Role::Read), 0);
    }
}
