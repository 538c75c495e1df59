//! A split: one proxy has lost Redis and another one Postgres, and each would go on with what the other does
//! not see (COHERENCE, "Outbox"). Where that may be so, both refuse.
//!
//! A proxy that goes past Redis says so in Postgres, and waits until each of the others has said there that
//! it knows. Who knows does not go on without Postgres before that outage is over.
//!
//! Invariants
//! - Who says that it knows has brought all to Postgres that it told Redis first, and does so from then on.
//! - Without Postgres, Redis is believed and told first only while each other proxy has its lease there: who
//!   has one is not past Redis, or it is known that it is.
//! - Who goes past Redis though one of the others has not said that it knows, does so when its own lease in
//!   Redis has ended for sure, and only with keys of which Redis is never told first. One that never had a lease
//!   there does not: who has no Postgres may never have heard of it.
//!
//! Absent on purpose: a vote. Two proxies of which one is dead and one cut off cannot tell.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use super::fleet::Standing;
use super::trust::Outage;
use crate::config;

/// All of it in milliseconds from the start of this proxy.
#[derive(Debug)]
pub(super) struct Split {
    policy: config::Split,
    /// Whether others are registered; until when all of them have their lease in Redis.
    others: Mutex<Others>,
    fresh_until: AtomicU64,
    /// Outages of others that are not over.
    knows: Mutex<BTreeMap<String, u64>>,
    knows_any: AtomicBool,
    /// When Redis was last told that this proxy is alive.
    told_redis_at: AtomicU64,
    /// It was heard there: who reads Redis knows of this proxy.
    is_known_in_redis: AtomicBool,
    /// Before that others may not have seen this one yet.
    probation: u64,
}

/// What the others say: the newest of each.
type Others = HashMap<String, Standing>;

// === impl Split ===

impl Split {
    pub(super) fn new(policy: config::Split, probation_ms: u64) -> Self {
        Self {
            policy,
            others: Mutex::default(),
            fresh_until: AtomicU64::new(u64::MAX),
            knows: Mutex::default(),
            knows_any: AtomicBool::new(false),
            told_redis_at: AtomicU64::new(0),
            is_known_in_redis: AtomicBool::new(false),
            probation: probation_ms,
        }
    }

    fn knows(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, u64>> {
        self.knows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn others(&self) -> std::sync::MutexGuard<'_, Others> {
        self.others.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // --- without Postgres ---

    /// Whether others may go past Redis, or have begun to: this proxy must not go on without Postgres.
    pub(super) fn is_apart(&self, now: u64) -> bool {
        let fresh_until = self.fresh_until.load(Ordering::Acquire);
        self.policy == config::Split::Refuse
            && fresh_until != u64::MAX
            && (now >= fresh_until || now < self.probation || self.knows_any.load(Ordering::SeqCst))
    }

    /// The outages of others that this proxy knows of, for them to know that; none while it has told Redis
    /// what Postgres lacks.
    pub(super) fn to_tell(&self, is_loose: impl Fn() -> bool) -> BTreeMap<String, u64> {
        let knows = self.knows();
        // Asked once `is_apart` says so: what begins now is not told Redis first.
        if is_loose() { BTreeMap::new() } else { knows.clone() }
    }

    // --- without Redis ---

    /// Redis is told that this proxy is alive.
    pub(super) fn tell_redis(&self, now: u64) {
        self.told_redis_at.fetch_max(now, Ordering::AcqRel);
    }

    /// Redis has heard so.
    pub(super) fn heard_by_redis(&self) {
        self.is_known_in_redis.store(true, Ordering::Release);
    }

    /// Whether this proxy (`id`) may go past Redis: all others know of this outage; or, with keys of which
    /// Redis is never told first, this one has no lease in Redis any more, which lasts `lease_ms` at most.
    pub(super) fn may_pass(
        &self,
        id: &str,
        outage: Outage,
        now: u64,
        lease_ms: u64,
        may_be_behind: bool,
    ) -> bool {
        let told_at = self.told_redis_at.load(Ordering::Acquire);
        let is_known = self.is_known_in_redis.load(Ordering::Acquire);
        let is_seen_gone = is_known && now > told_at.saturating_add(lease_ms);
        self.policy == config::Split::Available
            || (is_seen_gone && !may_be_behind)
            || self.others().values().all(|other| other.knows.get(id) == Some(&outage.number))
    }

    pub(super) fn has_others(&self) -> bool {
        !self.others().is_empty()
    }

    // --- what the stores say of the others ---

    /// All others, by what they said last; of them `ended` have nothing under way any more, and need not know of
    /// anything; `fresh_until`: all have their lease in Redis.
    pub(super) fn tell(
        &self,
        mut others: Others,
        ended: &HashSet<String>,
        fresh_until: Option<u64>,
    ) {
        let mut knows = self.knows();
        for (id, standing) in &others {
            if standing.is_past_redis {
                knows.insert(id.clone(), standing.outages);
            } else if knows.get(id).is_some_and(|known| *known <= standing.outages) {
                knows.remove(id);
            }
        }
        // Who has stopped goes past nothing, and who was taken out was without a lease for long.
        knows.retain(|id, _| others.contains_key(id));
        self.knows_any.store(!knows.is_empty(), Ordering::SeqCst);
        drop(knows);
        self.fresh_until.store(fresh_until.unwrap_or(u64::MAX), Ordering::Release);
        others.retain(|id, _| !ended.contains(id));
        *self.others() = others;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE_MS: u64 = 3000;

    fn split(policy: config::Split) -> Split {
        Split::new(policy, 10)
    }

    fn standing(outages: u64, is_past_redis: bool, knows: &[(&str, u64)]) -> Standing {
        let knows = knows.iter().map(|(id, outage)| ((*id).to_owned(), *outage)).collect();
        Standing { outages, is_past_redis, knows, ..Standing::default() }
    }

    fn others(standing: Standing) -> Others {
        [("other".to_owned(), standing)].into()
    }

    const OUTAGE: Outage = Outage { number: 2, lasts: true };

    #[test]
    fn one_that_is_alone_goes_on() {
        let split = split(config::Split::Refuse);
        split.tell(Others::new(), &HashSet::new(), None);
        assert!(!split.is_apart(0));
        assert!(split.may_pass("me", OUTAGE, 0, LEASE_MS, true));
    }

    #[test]
    fn without_postgres_all_others_have_to_be_in_redis() {
        let refusing = split(config::Split::Refuse);
        refusing.tell(others(Standing::default()), &HashSet::new(), Some(100));
        assert!(refusing.is_apart(9), "it may not have been seen");
        assert!(!refusing.is_apart(99));
        assert!(refusing.is_apart(100));
        let available = split(config::Split::Available);
        available.tell(others(Standing::default()), &HashSet::new(), Some(100));
        assert!(!available.is_apart(100));
    }

    #[test]
    fn who_knows_of_an_outage_does_not_go_on_without_postgres_until_it_is_over() {
        let split = split(config::Split::Refuse);
        split.tell(others(standing(5, true, &[])), &HashSet::new(), Some(100));
        assert!(split.is_apart(50));
        assert!(split.to_tell(|| true).is_empty(), "not yet");
        assert_eq!(split.to_tell(|| false), [("other".to_owned(), 5)].into());
        // That was said before.
        split.tell(others(standing(4, false, &[])), &HashSet::new(), Some(100));
        assert!(split.is_apart(50));
        split.tell(others(standing(5, false, &[])), &HashSet::new(), Some(100));
        assert!(!split.is_apart(50) && split.to_tell(|| false).is_empty());
    }

    #[test]
    fn past_redis_goes_who_is_known_to_or_is_seen_gone() {
        let split = split(config::Split::Refuse);
        split.tell_redis(1000);
        split.tell(others(standing(0, false, &[("me", 1)])), &HashSet::new(), Some(100));
        let may_pass =
            |now, may_be_behind| split.may_pass("me", OUTAGE, now, LEASE_MS, may_be_behind);
        assert!(!may_pass(4001, false), "who reads Redis may never have heard of this one");
        split.heard_by_redis();
        assert!(!may_pass(4000, false), "they know of another outage, and the lease may last");
        assert!(may_pass(4001, false));
        assert!(!may_pass(4001, true));
        split.tell(others(standing(0, false, &[("me", 2)])), &HashSet::new(), Some(100));
        assert!(may_pass(1001, true));
        split.tell(others(standing(0, true, &[])), &HashSet::new(), Some(100));
        assert!(!may_pass(1001, true));
        split.tell(others(standing(0, true, &[])), &["other".to_owned()].into(), Some(100));
        assert!(may_pass(1001, true), "it has ended");
        assert!(split.is_apart(50), "what it wrote past Redis is not over");
    }
}
