//! The fleet: the proxies on one database, as this one knows them, and whether it may still speak for
//! itself.
//!
//! Each proxy has a lease in either store, which it renews twice a second (see `beat`). What is known here
//! is what the stores said at the last beat; nobody who asks waits for one.
//!
//! Invariants
//! - A lease is believed here to end before any other proxy can see that it has ended: it counts from before
//!   the beat was sent, and the stores never prolong one by a beat that comes late.
//! - A proxy without a lease in either store serves no mapped key: the others may have taken it for dead.
//! - Another proxy counts as alive only as long as its lease lasts for sure, and as missing only from when it
//!   has ended for sure.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio::time::timeout;

use super::process::Process;
use super::split::Split;
use super::trust::Trust;
use crate::config;

/// How long a lease lasts.
pub const LEASE: Duration = Duration::from_secs(3);

/// Clocks do not go equally fast: this proxy takes its own lease for shorter.
const MARGIN: Duration = Duration::from_millis(200);

/// A beat that takes longer is given up.
pub(super) const LATE: Duration = Duration::from_secs(2);

/// How soon others are asked again.
const AGAIN: Duration = Duration::from_millis(50);

/// After an outage has begun it is waited for the others so long.
const HEARING: Duration = Duration::from_secs(6);

/// A store in which proxies have their leases.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    Redis = 0,
    Postgres = 1,
}

/// What a proxy says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Standing {
    pub version: String,
    /// Milliseconds since the Unix epoch, by its own clock.
    pub started_at_ms: i64,
    /// Whether it believes Redis, and whether it has Postgres.
    pub redis: bool,
    pub postgres: bool,
    /// By mapping: the newest version of its entry in `respgres.control` that the proxy goes by.
    pub acknowledged: BTreeMap<String, u64>,
    /// How often it has lost Redis, and whether it goes past Redis since.
    pub outages: u64,
    pub is_past_redis: bool,
    /// The outages of others that it knows of, by their ids.
    pub knows: BTreeMap<String, u64>,
    /// It has stopped, and could not tell both stores.
    pub has_stopped: bool,
    /// `None`: it cannot say.
    pub process: Option<Process>,
}

#[derive(Debug)]
pub struct Fleet {
    id: String,
    /// What moments are counted from.
    since: Instant,
    /// This proxy has leases: one of the command line has none, and needs none.
    beats: AtomicBool,
    /// Until when this proxy has its lease in either place; ms, 0 for never.
    own: [AtomicU64; 2],
    /// This one.
    process: Option<Process>,
    rolls: Mutex<[Roll; 2]>,
    told: Notify,
    split: Split,
    nudged: Notify,
}

/// What a store has said of the other proxies.
#[derive(Debug, Default)]
struct Roll {
    /// When it was asked; `None`: never.
    looked_at: Option<Instant>,
    others: HashMap<String, Seen>,
    /// Those of them whose process has ended, as it was seen after this look.
    ended: HashSet<String>,
}

/// One of them.
#[derive(Clone, Debug)]
struct Seen {
    /// So long its lease lasts for sure.
    fresh_until: Instant,
    /// From then on it has ended for sure.
    stale_from: Instant,
    standing: Standing,
    /// Its process had ended before the store was asked: this is the last that it says.
    has_ended: bool,
}

/// A look at one store's list.
#[derive(Clone, Debug)]
pub(super) struct Look {
    /// Before it was asked, and after it had answered.
    pub(super) asked_at: Instant,
    pub(super) answered_at: Instant,
    /// What its clock said between these.
    pub(super) now_ms: i64,
    /// Id, end of the lease, standing.
    pub(super) proxies: Vec<(String, i64, String)>,
}

/// What operators are told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FleetReport {
    pub id: String,
    /// This one too.
    pub proxies: usize,
    /// Those without a lease, this one too.
    pub missing_in_redis: usize,
    pub missing_in_postgres: usize,
    pub is_fenced: bool,
    /// Others may be past Redis: it would not go on without Postgres.
    pub is_apart: bool,
}

// === impl Fleet ===

impl Fleet {
    pub fn new(split: config::Split) -> Self {
        let probation = u64::try_from((LEASE + LATE).as_millis()).unwrap_or(u64::MAX);
        Self {
            id: uuid::Uuid::new_v4().to_string(),
            since: Instant::now(),
            beats: AtomicBool::new(false),
            own: [AtomicU64::new(0), AtomicU64::new(0)],
            process: Process::own(),
            rolls: Mutex::default(),
            told: Notify::new(),
            split: Split::new(split, probation),
            nudged: Notify::new(),
        }
    }

    fn rolls(&self) -> std::sync::MutexGuard<'_, [Roll; 2]> {
        self.rolls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn id(&self) -> &str {
        &self.id
    }

    // --- this proxy ---

    pub(super) fn process(&self) -> Option<&Process> {
        self.process.as_ref()
    }

    /// Whether this proxy is without a lease anywhere: the others may go on without it.
    pub fn is_fenced(&self) -> bool {
        self.beats.load(Ordering::Relaxed) && self.is_fenced_at(Instant::now())
    }

    fn is_fenced_at(&self, now: Instant) -> bool {
        [Place::Redis, Place::Postgres].into_iter().all(|place| !self.has_lease_at(place, now))
    }

    /// Whether the others see this proxy alive there.
    pub fn has_lease(&self, place: Place) -> bool {
        self.has_lease_at(place, Instant::now())
    }

    fn has_lease_at(&self, place: Place, now: Instant) -> bool {
        self.moment(now) < self.own[place as usize].load(Ordering::Acquire)
    }

    fn moment(&self, at: Instant) -> u64 {
        let passed = at.saturating_duration_since(self.since).as_millis();
        u64::try_from(passed).unwrap_or(u64::MAX)
    }

    /// Completes once this proxy is registered anywhere.
    pub async fn registered(&self) {
        loop {
            let told = self.told.notified();
            if !self.is_fenced() {
                return;
            }
            told.await;
        }
    }

    // --- the others ---

    /// `None`: each other proxy that is registered in either store has its lease in this one, as far as the
    /// last look goes. Else how long all who have none have been without, at the least.
    pub fn missing_in(&self, place: Place) -> Option<Duration> {
        self.missing_at(place, Instant::now())
    }

    fn missing_at(&self, place: Place, now: Instant) -> Option<Duration> {
        let rolls = self.rolls();
        let here = &rolls[place as usize];
        let without = |id: &String| match here.others.get(id) {
            Some(seen) if now < seen.fresh_until => None,
            Some(seen) => Some(now.saturating_duration_since(seen.stale_from)),
            // It is registered in the other store alone: since when is not known.
            None => Some(Duration::ZERO),
        };
        ids_of(&rolls).into_iter().filter_map(without).min()
    }

    /// Those who are alive: their lease lasts in one of the stores at least, for all that is known.
    pub fn living(&self) -> Vec<(String, Standing)> {
        self.living_at(Instant::now())
    }

    fn living_at(&self, now: Instant) -> Vec<(String, Standing)> {
        let mut living: BTreeMap<&String, &Seen> = BTreeMap::new();
        let rolls = self.rolls();
        for (id, seen) in rolls.iter().flat_map(|roll| &roll.others) {
            if now < seen.stale_from {
                let newest = living.entry(id).or_insert(seen);
                if newest.stale_from < seen.stale_from {
                    *newest = seen;
                }
            }
        }
        living.into_iter().map(|(id, seen)| (id.clone(), seen.standing.clone())).collect()
    }

    /// Those who may be taken out: nobody has seen them alive in either store, which both were asked just now.
    pub(super) fn dead(&self) -> Vec<String> {
        self.dead_at(Instant::now())
    }

    fn dead_at(&self, now: Instant) -> Vec<String> {
        let rolls = self.rolls();
        let is_recent = |roll: &Roll| {
            roll.looked_at.is_some_and(|at| now.saturating_duration_since(at) < LEASE)
        };
        if !rolls.iter().all(is_recent) {
            return Vec::new();
        }
        let is_dead = |id: &String| {
            let mut seen = rolls.iter().filter_map(|roll| roll.others.get(id));
            seen.all(|seen| now >= seen.stale_from + LEASE)
        };
        let ids: HashSet<&String> = rolls.iter().flat_map(|roll| roll.others.keys()).collect();
        ids.into_iter().filter(|id| is_dead(id)).cloned().collect()
    }

    pub fn report(&self) -> FleetReport {
        let now = Instant::now();
        let rolls = self.rolls();
        let ids = ids_of(&rolls);
        let missing = |place: Place| {
            let here = &rolls[place as usize].others;
            let has_lease = |id: &String| here.get(id).is_some_and(|seen| now < seen.fresh_until);
            let others = ids.iter().filter(|id| !has_lease(id)).count();
            others + usize::from(!self.has_lease_at(place, now))
        };
        FleetReport {
            id: self.id.clone(),
            proxies: ids.len() + 1,
            missing_in_redis: missing(Place::Redis),
            missing_in_postgres: missing(Place::Postgres),
            is_fenced: self.is_fenced_at(now),
            is_apart: self.split.is_apart(self.moment(now)),
        }
    }

    // --- what others may do that have lost the other store (see `split`) ---

    /// Whether others may go past Redis: this proxy must not go on without Postgres.
    pub fn is_apart(&self) -> bool {
        self.split.is_apart(self.moment(Instant::now()))
    }

    /// Whether this proxy may go past Redis; waits for the others, soon after it has lost it.
    pub(super) async fn may_pass_redis(&self, trust: &Trust, may_be_behind: bool) -> bool {
        let may_pass = || self.may_pass_redis_now(trust, may_be_behind);
        let left = HEARING.saturating_sub(trust.outage_age());
        let waiting = async {
            loop {
                let told = self.told.notified();
                if may_pass() {
                    return;
                }
                self.nudge();
                drop(timeout(AGAIN, told).await);
            }
        };
        may_pass() || timeout(left, waiting).await.is_ok() || may_pass()
    }

    /// The same without waiting.
    pub(super) fn may_pass_redis_now(&self, trust: &Trust, may_be_behind: bool) -> bool {
        // Beats that were sent may arrive late, with what they say.
        let lease = u64::try_from((LEASE + LATE + MARGIN).as_millis()).unwrap_or(u64::MAX);
        let now = self.moment(Instant::now());
        self.split.may_pass(&self.id, trust.outage(), now, lease, may_be_behind)
    }

    /// Whether there are others.
    pub(super) fn has_others(&self) -> bool {
        self.split.has_others()
    }

    /// The outages that the others may be told that this proxy knows of.
    pub(super) fn knows(&self, is_loose: impl Fn() -> bool) -> BTreeMap<String, u64> {
        self.split.to_tell(is_loose)
    }

    /// Puts together what the stores say.
    fn judge(&self, rolls: &[Roll; 2]) {
        let [redis, postgres] = rolls;
        let mut others: HashMap<String, &Seen> = HashMap::new();
        for (id, seen) in postgres.others.iter().chain(&redis.others) {
            let newest = others.entry(id.clone()).or_insert(seen);
            if newest.stale_from < seen.stale_from {
                *newest = seen;
            }
        }
        let ids = ids_of(rolls);
        others.retain(|id, _| ids.contains(id));
        let ended = others.keys().filter(|id| has_ended(rolls, id)).cloned().collect();
        let fresh_until = |id| redis.others.get(id).map_or(0, |seen| self.moment(seen.fresh_until));
        let fresh_until = others.keys().map(fresh_until).min();
        let others = others.into_iter().map(|(id, seen)| (id, seen.standing.clone())).collect();
        self.split.tell(others, &ended, fresh_until);
    }

    // --- the beat's ---

    /// Redis is about to be told of this proxy.
    pub(super) fn tell_redis(&self) {
        self.split.tell_redis(self.moment(Instant::now()));
    }

    /// There is something that the other proxies are to know, or this one: it beats at once.
    pub fn nudge(&self) {
        self.nudged.notify_waiters();
    }

    pub(super) async fn nudged(&self) {
        self.nudged.notified().await;
    }

    /// From now on this proxy needs a lease.
    pub(super) fn begin(&self) {
        self.beats.store(true, Ordering::Relaxed);
    }

    /// A beat that was sent after `sent_at` has arrived: this proxy has its lease.
    pub(super) fn renew(&self, place: Place, sent_at: Instant) {
        let until = self.moment(sent_at + LEASE - MARGIN);
        self.own[place as usize].fetch_max(until, Ordering::AcqRel);
        if place == Place::Redis {
            self.split.heard_by_redis();
        }
        self.told.notify_waiters();
    }

    fn sees_ended(&self, seen: &Seen) -> bool {
        let both = seen.standing.process.as_ref().zip(self.process.as_ref());
        both.is_some_and(|(process, own)| process.has_ended(own))
    }

    /// What a store has said of all proxies.
    pub(super) fn tell(&self, place: Place, look: Look) {
        let mut rolls = self.rolls();
        let ended_before = &rolls[place as usize].ended;
        let others = look.proxies.into_iter().filter(|(id, ..)| *id != self.id);
        let others = others.map(|(id, until_ms, standing)| {
            let left_ms = u64::try_from(until_ms - look.now_ms);
            let left = left_ms.map_or(Duration::ZERO, Duration::from_millis);
            let over_ms = u64::try_from(look.now_ms - until_ms);
            let over = over_ms.map_or(Duration::ZERO, Duration::from_millis);
            let stale_from = look.answered_at + left;
            let seen = Seen {
                fresh_until: look.asked_at + left,
                stale_from: stale_from.checked_sub(over).unwrap_or(self.since),
                // What another version says may be more, or less.
                standing: serde_json::from_str(&standing).unwrap_or_default(),
                has_ended: ended_before.contains(&id),
            };
            (id, seen)
        });
        let others: HashMap<String, Seen> = others.collect();
        let ended: HashSet<String> = others
            .iter()
            .filter(|(_, seen)| self.sees_ended(seen))
            .map(|(id, _)| id.clone())
            .collect();
        let has_news = !ended.is_subset(ended_before);
        rolls[place as usize] = Roll { looked_at: Some(look.asked_at), others, ended };
        self.judge(&rolls);
        drop(rolls);
        self.told.notify_waiters();
        if has_news {
            // What they say last is to be heard.
            self.nudge();
        }
    }
}

/// All who have not stopped; nor have ended, unless one of them went past Redis: then who has no Postgres must
/// not believe Redis yet.
fn ids_of(rolls: &[Roll; 2]) -> HashSet<&String> {
    let all = || rolls.iter().flat_map(|roll| &roll.others);
    let stopped = |id: &String| all().any(|(other, seen)| other == id && seen.standing.has_stopped);
    let was_past_redis = |id: &String| {
        rolls[Place::Postgres as usize]
            .others
            .get(id)
            .is_some_and(|seen| seen.standing.is_past_redis)
    };
    let is_over = |id: &String| stopped(id) || (has_ended(rolls, id) && !was_past_redis(id));
    all().map(|(id, _)| id).filter(|id| !is_over(id)).collect()
}

/// Whether a proxy has ended without a word, and the last that it has said in Postgres is known.
fn has_ended(rolls: &[Roll; 2], id: &str) -> bool {
    rolls[Place::Postgres as usize].others.get(id).is_some_and(|seen| seen.has_ended)
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT_MS: i64 = 1_000_000;

    fn look(at: Instant, proxies: &[(&str, i64)]) -> Look {
        let entry = |(id, left_ms): &(&str, i64)| ((*id).to_owned(), AT_MS + left_ms, "{}".into());
        let proxies = proxies.iter().map(entry).collect();
        Look { asked_at: at, answered_at: at + Duration::from_millis(10), now_ms: AT_MS, proxies }
    }

    #[test]
    fn one_without_a_lease_in_either_store_is_fenced_until_it_has_one_anew() {
        let fleet = Fleet::new(config::Split::Refuse);
        let at = |ms: u64| fleet.since + Duration::from_millis(ms);
        assert!(fleet.is_fenced_at(at(1)));
        fleet.renew(Place::Redis, at(1000));
        assert!(!fleet.is_fenced_at(at(3700)));
        assert!(fleet.is_fenced_at(at(3800)), "before the others can see it");
        fleet.renew(Place::Postgres, at(2000));
        assert!(!fleet.is_fenced_at(at(3800)) && !fleet.has_lease_at(Place::Redis, at(3800)));
        fleet.renew(Place::Postgres, at(1500));
        assert!(!fleet.is_fenced_at(at(4700)), "an older one takes nothing back");
        assert!(fleet.is_fenced_at(at(4800)));
    }

    #[test]
    fn another_is_missing_where_it_has_no_lease_and_dead_where_it_has_none_anywhere() {
        let fleet = Fleet::new(config::Split::Refuse);
        let now = fleet.since + Duration::from_mins(1);
        let later = |ms: u64| now + Duration::from_millis(ms);
        fleet.tell(Place::Redis, look(now, &[("a", 2000), ("b", 500)]));
        fleet.tell(Place::Postgres, look(now, &[("a", 2000)]));
        assert_eq!(fleet.missing_at(Place::Redis, later(499)), None);
        assert_eq!(fleet.missing_at(Place::Postgres, later(0)), Some(Duration::ZERO));
        let missing = fleet.missing_at(Place::Redis, later(1510));
        assert_eq!(missing, Some(Duration::from_millis(1000)));
        // The last to go counts.
        let missing = fleet.missing_at(Place::Redis, later(2110));
        assert_eq!(missing, Some(Duration::from_millis(100)));
        let ids = |living: Vec<(String, Standing)>| -> Vec<String> {
            living.into_iter().map(|(id, _)| id).collect()
        };
        assert_eq!(ids(fleet.living_at(later(509))), ["a", "b"]);
        assert_eq!(ids(fleet.living_at(later(510))), ["a"]);
        assert_eq!(fleet.dead_at(later(2999)), Vec::<String>::new());
    }

    #[test]
    fn a_predecessor_whose_process_has_ended_is_nobody_once_its_last_words_are_known() {
        let fleet = Fleet::new(config::Split::Refuse);
        let now = fleet.since + Duration::from_mins(1);
        let own = fleet.process().unwrap().clone();
        let ended = Process { started: own.started - 1, ..own.clone() };
        let tell = |place, process: &Process, is_past_redis| {
            let process = Some(process.clone());
            let standing = Standing { process, is_past_redis, ..Standing::default() };
            let mut look = look(now, &[("a", 2000)]);
            look.proxies[0].2 = serde_json::to_string(&standing).unwrap();
            fleet.tell(place, look);
        };
        tell(Place::Postgres, &own, false);
        tell(Place::Postgres, &own, false);
        assert_eq!(fleet.report().proxies, 2, "it runs");
        tell(Place::Postgres, &ended, true);
        tell(Place::Redis, &ended, false);
        tell(Place::Redis, &ended, false);
        assert_eq!(fleet.report().proxies, 2, "it may have said more in Postgres");
        tell(Place::Postgres, &ended, true);
        assert_eq!(fleet.report().proxies, 2, "it went past Redis");
        tell(Place::Postgres, &ended, false);
        assert_eq!(fleet.report().proxies, 1);
        assert_eq!(fleet.missing_at(Place::Redis, now), None);
    }

    #[test]
    fn who_is_taken_out_was_looked_for_in_both_stores() {
        let fleet = Fleet::new(config::Split::Refuse);
        let now = fleet.since + Duration::from_mins(1);
        let over = -i64::try_from(LEASE.as_millis()).unwrap() - 20;
        fleet.tell(Place::Postgres, look(now, &[("a", over), ("b", over)]));
        assert!(fleet.dead_at(now).is_empty(), "Redis was not asked");
        fleet.tell(Place::Redis, look(now, &[("b", 100)]));
        assert_eq!(fleet.dead_at(now), ["a"]);
        assert!(fleet.dead_at(now + LEASE).is_empty(), "it was asked long ago");
    }
}
