//! What clients did and saw: one operation each, with its start and its end.
//!
//! Two things are observed of each key: a register (what HSET last wrote, or nothing) and a
//! counter (what HINCRBY added up). A key whose counter is observed is never deleted.

/// When an operation was under way, nanoseconds since the start of the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) start_ns: u64,
    /// [`NEVER`] for a change without an answer: it may take effect at any later time, or not at all.
    pub(crate) end_ns: u64,
}

/// The end of what was not answered.
pub(crate) const NEVER: u64 = u64::MAX;

/// The value that one HSET writes; no two write the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Version {
    pub(crate) client: u32,
    pub(crate) serial: u32,
}

/// One operation on one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Operation {
    pub(crate) span: Span,
    pub(crate) action: Action,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// HSET of a version.
    Write(Version),
    /// DEL.
    Delete,
    /// A read of the register; `None`: the field was absent.
    Read(Option<Version>),
    /// HINCRBY by one, and the answer, if there was one.
    Increment(Option<i64>),
    /// A read of the counter; an absent field is 0.
    Count(i64),
}

/// Something that no single Redis would have done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Violation(pub String);

impl Operation {
    pub(crate) fn is_answered(&self) -> bool {
        self.span.end_ns != NEVER
    }
}

impl Version {
    /// As a client writes it: `7.12`.
    pub(crate) fn text(self) -> String {
        format!("{}.{}", self.client, self.serial)
    }

    /// # Errors
    /// When nobody can have written this text.
    pub(crate) fn parse(text: &str) -> Result<Self, Violation> {
        let parts = text.split_once('.').and_then(|(client, serial)| {
            Some(Self { client: client.parse().ok()?, serial: serial.parse().ok()? })
        });
        parts.ok_or_else(|| Violation(format!("a value that nobody wrote: {text:?}")))
    }
}

impl std::fmt::Display for Operation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ms = |ns: u64| ns as f64 / 1e6;
        match self.action {
            Action::Write(version) => write!(f, "write of {}", version.text())?,
            Action::Delete => write!(f, "delete")?,
            Action::Read(Some(version)) => write!(f, "read of {}", version.text())?,
            Action::Read(None) => write!(f, "read of nothing")?,
            Action::Increment(Some(reply)) => write!(f, "increment to {reply}")?,
            Action::Increment(None) => write!(f, "increment")?,
            Action::Count(value) => write!(f, "count of {value}")?,
        }
        if self.is_answered() {
            write!(f, " [{:.3} ms, {:.3} ms]", ms(self.span.start_ns), ms(self.span.end_ns))
        } else {
            write!(f, " [{:.3} ms, unanswered]", ms(self.span.start_ns))
        }
    }
}
