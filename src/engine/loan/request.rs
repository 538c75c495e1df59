//! One request of a loan: which of its keys are mapped, and whether Redis may run it at all.

use std::collections::HashSet;

use bytes::Bytes;

use super::lookup::Lookups;
use super::watch::Watched;
use crate::command::{Command, Keys, Mapped, Path};
use crate::engine::Engine;
use crate::mapping::{Gate, MappedKey, Pass};
use crate::protocol::Reply;
use crate::value::number::parse_i64;

/// A request that Redis is to run on lent values.
#[derive(Clone, Debug)]
pub struct Lent {
    /// `None`: it is not known which.
    pub(super) command: Option<&'static Command>,
    /// As it came.
    pub bytes: Bytes,
    pub(super) keys: Vec<MappedKey>,
    /// Keys that are not mapped.
    pub(super) others: Vec<Bytes>,
    pub(super) only_reads: bool,
    /// It would wait inside Redis, if it were not in a transaction.
    pub(super) may_wait: bool,
    /// It may look up mapped keys that it does not name.
    pub(super) lookups: Option<Lookups>,
}

/// Whether requests are let in.
#[derive(Debug)]
pub enum Admission {
    /// For as long as these are held.
    In(Vec<Pass>),
    /// A gate is closed.
    NotYet,
    /// A key has left its side in Postgres since it was looked at, or has one now.
    Stale,
}

fn enter(gate: &'static Gate, has_rows: bool) -> Admission {
    let pass = if has_rows { gate.enter() } else { gate.enter_passing() };
    match pass {
        Some(pass) => Admission::In(vec![pass]),
        // Or it was when we tried.
        None if gate.is_closed() || gate.has_rows() == has_rows => Admission::NotYet,
        None => Admission::Stale,
    }
}

/// Lets somebody in at the gates of these keys' mappings; `None` if one is closed, or Redis alone has its keys by now.
pub fn enter_all(keys: &[MappedKey]) -> Option<Vec<Pass>> {
    let mut entered = HashSet::new();
    let mappings = keys.iter().map(|key| &key.mapping);
    let each_once = mappings.filter(|mapping| entered.insert(mapping.index));
    each_once.map(|mapping| mapping.gate.enter()).collect()
}

// === impl Lent ===

impl Lent {
    /// A request of which only the bytes are known: it may do anything, but for mapped keys.
    pub fn unknown(bytes: Bytes) -> Self {
        Self {
            command: None,
            bytes,
            keys: Vec::new(),
            others: Vec::new(),
            only_reads: false,
            may_wait: false,
            lookups: None,
        }
    }

    /// A request that changes no key.
    pub fn harmless(bytes: Bytes) -> Self {
        Self { only_reads: true, ..Self::unknown(bytes) }
    }

    /// What it takes in memory.
    pub fn size(&self) -> usize {
        let keys = self.keys.len() * size_of::<MappedKey>();
        size_of::<Self>() + self.bytes.len() + keys + self.others.len() * size_of::<Bytes>()
    }

    /// What a client is told of a request that cannot be one of a transaction.
    pub fn not_in_a_transaction(&self) -> Option<Reply> {
        self.lookups.as_ref().map(|_| {
            Reply::err(
                "SORT with a BY or GET that could look up mapped keys cannot be in a transaction",
            )
        })
    }

    /// Whether it has to wait, as a key that Redis alone has may soon have a side in Postgres.
    pub fn is_leaving_redis(&self, engine: &Engine) -> bool {
        self.others.iter().any(|key| engine.is_leaving_redis(key))
    }

    pub fn has_mapped_keys(&self) -> bool {
        !self.keys.is_empty()
    }

    /// Whether it may change anything but mapped keys.
    pub(super) fn reaches_others(&self) -> bool {
        self.leaves_traces() || !(self.only_reads || self.others.is_empty())
    }

    /// Whether it may change anything but the keys that it names: what names none may publish, for
    /// one, and so may scripts.
    pub(super) fn leaves_traces(&self) -> bool {
        let is_script = self.command.is_some_and(|command| command.path == Path::Script);
        let names_none = self.keys.is_empty() && self.others.is_empty();
        !self.only_reads && (names_none || is_script)
    }

    /// What a client is told of a key that the request would make something else of than its mapping
    /// holds.
    pub(super) fn would_leave(&self, key: &MappedKey, kind: &str) -> String {
        let name = self.command.map_or("", |command| command.name);
        let holds = key.mapping.holds().name();
        format!(
            "ERR '{name}' is refused for keys of mapping '{}': it would leave a {kind} where the \
             mapping holds a {holds}; nothing was written",
            key.mapping.name
        )
    }

    /// What a client is told of a request that would have to wait for a mapped key.
    pub(super) fn would_wait(&self) -> String {
        let name = self.command.map_or("", |command| command.name);
        let mapping = self.keys.first().map_or("", |key| key.mapping.name.as_str());
        format!(
            "ERR '{name}' is refused for keys of mapping '{mapping}': it would wait, and what it \
             waits for can never be there"
        )
    }
}

// === impl Engine ===

impl Engine {
    /// Lets requests in at the gates of the mappings of all that they name, and of all that is watched.
    pub fn admit_loan<'a>(
        &self,
        requests: impl IntoIterator<Item = &'a Lent>,
        watched: Option<&Watched>,
    ) -> Admission {
        let mut passes = Vec::new();
        let watched = watched.map_or_else(Vec::new, Watched::keys);
        for (key, _) in &watched {
            match enter(key.mapping.gate, true) {
                Admission::In(pass) => passes.extend(pass),
                other => return other,
            }
        }
        for request in requests {
            let others = request.others.iter().filter_map(|key| self.registry().find_any(key));
            let gates = others.map(|mapping| (mapping.gate, false));
            let gates = request.keys.iter().map(|key| (key.mapping.gate, true)).chain(gates);
            for (gate, has_rows) in gates {
                match enter(gate, has_rows) {
                    Admission::In(pass) => passes.extend(pass),
                    other => return other,
                }
            }
        }
        Admission::In(passes)
    }

    /// Looks again which keys of a request are mapped.
    pub fn look_again(&self, lent: &mut Lent) {
        let keys = std::mem::take(&mut lent.keys).into_iter().map(|key| key.key);
        for key in keys.chain(std::mem::take(&mut lent.others)) {
            match self.registry().mapped_key(&key) {
                Some(key) => lent.keys.push(key),
                None => lent.others.push(key),
            }
        }
    }

    /// A request for a loan.
    ///
    /// # Errors
    /// What to tell the client, if Redis must not run it on mapped keys.
    pub fn lent_request<'a>(
        &self,
        command: &'static Command,
        bytes: &Bytes,
        count: usize,
        argument: impl Fn(usize) -> &'a [u8],
    ) -> Result<Lent, String> {
        let (mut keys, mut others): (Vec<MappedKey>, Vec<Bytes>) = (Vec::new(), Vec::new());
        command.for_each_key(count, &argument, |at| {
            let key = bytes.slice_ref(argument(at));
            match self.registry().mapped_key(&key) {
                Some(key) => keys.push(key),
                None => others.push(key),
            }
        });
        let may_wait = command.is_blocking(count, &argument);
        let (lookups, looked_up_in) = self.lookups(command, bytes, count, &argument);
        // SORT that stores nothing; to Redis it is a writing command all the same.
        let only_sorts = command.keys == Keys::Sort && keys.len() + others.len() == 1;
        let lent = Lent {
            command: Some(command),
            bytes: bytes.clone(),
            keys,
            others,
            only_reads: command.only_reads() || only_sorts,
            may_wait,
            lookups,
        };
        if let (Some(_), false) = (&lent.lookups, only_sorts) {
            let why = "with STORE its BY or GET must not look up mapped keys";
            return Err(command.refused(&looked_up_in, why));
        }
        let Some(key) = lent.keys.first() else { return Ok(lent) };
        let refuse = |why: &str| Err(command.refused(&key.mapping.name, why));
        if command.name == "copy" && self.copies_elsewhere(count, &argument) {
            return refuse("keys of other databases are not mapped");
        }
        match command.mapped {
            Mapped::Refused(why) => refuse(why),
            _ => Ok(lent),
        }
    }

    /// Why a request of a client in another database must not be run, for it would put something where
    /// a mapped key is.
    pub fn reaches_into_mapped_database<'a>(
        &self,
        command: &Command,
        count: usize,
        argument: impl Fn(usize) -> &'a [u8],
    ) -> Option<String> {
        let is_mapped = |at: usize| parse_i64(argument(at)) == Some(i64::from(self.database()));
        let key = match command.name {
            "move" if count == 3 && is_mapped(2) => argument(1),
            "copy" => {
                let names_it =
                    |&at: &usize| argument(at).eq_ignore_ascii_case(b"db") && is_mapped(at + 1);
                (3..count.saturating_sub(1)).find(names_it).map(|_| argument(2))?
            }
            _ => return None,
        };
        let mapping = self.registry().find(key)?;
        Some(command.refused(&mapping.name, "it comes from another database"))
    }

    /// Whether a SORT could look up mapped keys that it does not name.
    pub(in crate::engine) fn looks_up_mapped_keys<'a>(
        &self,
        command: &Command,
        count: usize,
        argument: impl Fn(usize) -> &'a [u8],
    ) -> bool {
        let mut found = false;
        command.for_each_pattern(count, &argument, |at| {
            found |= self.mapping_looked_up_in(argument(at)).is_some();
        });
        found
    }

    /// What a SORT could look up, and the name of a mapping that the keys may belong to.
    fn lookups<'a>(
        &self,
        command: &Command,
        bytes: &Bytes,
        count: usize,
        argument: impl Fn(usize) -> &'a [u8],
    ) -> (Option<Lookups>, String) {
        let (mut patterns, mut mapping) = (Vec::new(), None);
        command.for_each_pattern(count, &argument, |at| {
            if let Some(name) = self.mapping_looked_up_in(argument(at)) {
                patterns.push(bytes.slice_ref(argument(at)));
                mapping.get_or_insert(name);
            }
        });
        let lookups =
            mapping.is_some().then(|| Lookups::new(bytes.slice_ref(argument(1)), patterns));
        (lookups, mapping.unwrap_or_default().to_owned())
    }

    fn copies_elsewhere<'a>(&self, count: usize, argument: impl Fn(usize) -> &'a [u8]) -> bool {
        let mut elsewhere = false;
        for at in 3..count.saturating_sub(1) {
            if argument(at).eq_ignore_ascii_case(b"db") {
                let database = parse_i64(argument(at + 1));
                elsewhere |= database.is_some_and(|number| number != i64::from(self.database()));
            }
        }
        elsewhere
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_may_reach_anything() {
        let bytes = Bytes::from_static(b"*1\r\n$4\r\nPING\r\n");
        assert!(Lent::unknown(bytes.clone()).reaches_others());
        assert!(!Lent::harmless(bytes).reaches_others());
    }
}
