//! Command flags: what Redis says of a command beside its arity and keys.

use std::ops::BitOr;

/// A set of command flags, as COMMAND INFO shows them where Redis has the same flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flags(pub u32);

impl Flags {
    /// Changes keys.
    pub const WRITE: Flags = Flags(1);
    /// Only reads keys.
    pub const READ: Flags = Flags(1 << 1);
    /// Refused by a Redis that is out of memory.
    pub const DENY_OOM: Flags = Flags(1 << 2);
    /// For operators.
    pub const ADMIN: Flags = Flags(1 << 3);
    pub const PUBSUB: Flags = Flags(1 << 4);
    /// Not from inside a script.
    pub const NO_SCRIPT: Flags = Flags(1 << 5);
    /// May wait inside Redis.
    pub const BLOCKING: Flags = Flags(1 << 6);
    /// Allowed while Redis loads its data.
    pub const LOADING: Flags = Flags(1 << 7);
    /// Allowed on a replica with old data.
    pub const STALE: Flags = Flags(1 << 8);
    /// Not shown by MONITOR.
    pub const SKIP_MONITOR: Flags = Flags(1 << 9);
    /// Not counted as slow.
    pub const SKIP_SLOWLOG: Flags = Flags(1 << 10);
    /// Implies ASKING in a cluster.
    pub const ASKING: Flags = Flags(1 << 11);
    /// Constant or logarithmic time.
    pub const FAST: Flags = Flags(1 << 12);
    /// Allowed before the client has authenticated.
    pub const NO_AUTH: Flags = Flags(1 << 13);
    /// May be sent without any key.
    pub const NO_MANDATORY_KEYS: Flags = Flags(1 << 14);
    /// Not while Redis replaces its data in the background.
    pub const NO_ASYNC_LOADING: Flags = Flags(1 << 15);
    /// Not between MULTI and EXEC.
    pub const NO_MULTI: Flags = Flags(1 << 16);
    /// Allowed while a script blocks Redis.
    pub const ALLOW_BUSY: Flags = Flags(1 << 17);

    /// Flag and its name in Redis, in the order in which COMMAND INFO lists them.
    pub const NAMES: [(Flags, &'static str); 18] = [
        (Flags::WRITE, "write"),
        (Flags::READ, "readonly"),
        (Flags::DENY_OOM, "denyoom"),
        (Flags::ADMIN, "admin"),
        (Flags::PUBSUB, "pubsub"),
        (Flags::NO_SCRIPT, "noscript"),
        (Flags::BLOCKING, "blocking"),
        (Flags::LOADING, "loading"),
        (Flags::STALE, "stale"),
        (Flags::SKIP_MONITOR, "skip_monitor"),
        (Flags::SKIP_SLOWLOG, "skip_slowlog"),
        (Flags::ASKING, "asking"),
        (Flags::FAST, "fast"),
        (Flags::NO_AUTH, "no_auth"),
        (Flags::NO_MANDATORY_KEYS, "no_mandatory_keys"),
        (Flags::NO_ASYNC_LOADING, "no_async_loading"),
        (Flags::NO_MULTI, "no_multi"),
        (Flags::ALLOW_BUSY, "allow_busy"),
    ];

    /// Whether all of `flags` are set.
    pub const fn contains(self, flags: Flags) -> bool {
        self.0 & flags.0 == flags.0
    }

    /// The names that Redis gives these flags.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        Self::NAMES.into_iter().filter(move |(flag, _)| self.contains(*flag)).map(|(_, name)| name)
    }
}

impl BitOr for Flags {
    type Output = Flags;

    fn bitor(self, other: Flags) -> Flags {
        Flags(self.0 | other.0)
    }
}
