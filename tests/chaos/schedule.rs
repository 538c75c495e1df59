//! Which faults come when: drawn from a seed before the run, so that the same seed brings the same faults.
//!
//! With every third seed Redis loses no data: what is promised only as long as it keeps them is checked then.
//!
//! Each thing that can fail has one fault at a time, and at most [`AT_ONCE`] things fail together: a world
//! in which nothing ever works proves nothing.

use std::fmt;
use std::time::Duration;

use crate::relay::Direction;
use crate::stack::Random;

/// So many things may be broken at a time.
const AT_ONCE: usize = 2;

/// Before the end all is well for this long, and the clients are still at work.
const CALM: Duration = Duration::from_millis(1500);

/// A proxy, by its place.
pub(crate) type Side = usize;

/// What a relay stands between.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Link {
    Clients(Side),
    Redis(Side),
    Postgres(Side),
}

/// What can fail, one fault at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Subject {
    Proxy(Side),
    Redis,
    Postgres,
    Link(Link),
    Strategy,
}

/// What a Redis that was killed knows when it is back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Memory {
    Empty,
    /// What it had some time before it was killed.
    Snapshot,
}

/// What Redis does when its memory is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Policy {
    NoEviction,
    VolatileLru,
    VolatileRandom,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// SIGKILL, and a new start at the end.
    ProxyKilled(Side),
    /// SIGSTOP, SIGCONT.
    ProxyStopped(Side),
    RedisKilled(Memory),
    RedisStopped,
    /// `maxmemory` is reached.
    RedisFull(Policy),
    /// SIGKILL to the postmaster: there is a recovery at the next start.
    PostgresKilled,
    /// SIGKILL to one session: Postgres ends all others and recovers by itself.
    SessionKilled,
    /// SIGSTOP to the postmaster: nobody can connect.
    PostgresStopped,
    /// A fast shutdown while every COMMIT takes its time.
    PostgresRestarted,
    /// Connections of a proxy are cut while every COMMIT takes its time: Postgres goes on with what it was told.
    CutInCommit(Side),
    /// No more room on Postgres' disk, but for so many bytes.
    DiskFull(u64),
    Cut(Link),
    HalfClosed(Link, Direction),
    /// What goes this way is held up; then it goes on, or the connections are cut.
    Held(Link, Direction, bool),
    HeldBothWays(Link, bool),
    Slow(Link, Duration),
    /// Told by a proxy, mappings go by another strategy for a while: no fault, but none makes it wrong.
    Switched(Side, &'static str),
}

/// A fault, its time from the start of the run, and how long it lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Event {
    pub(crate) at: Duration,
    pub(crate) lasts: Duration,
    pub(crate) fault: Fault,
}

/// How often a kind of fault comes among all, and how long (ms) it lasts.
struct Kind {
    weight: usize,
    from: usize,
    to: usize,
    draw: fn(&mut Random) -> Fault,
}

#[rustfmt::skip]
const KINDS: &[Kind] = &[
    //  weight, from, to
    kind(4,  100, 1500, |random| Fault::ProxyKilled(side(random))),
    kind(4,  100, 4000, |random| Fault::ProxyStopped(side(random))),
    kind(3,  100, 2000, |_| Fault::RedisKilled(Memory::Empty)),
    kind(3,  500, 3000, |_| Fault::RedisKilled(Memory::Snapshot)),
    kind(3,  100, 4000, |_| Fault::RedisStopped),
    kind(4,  300, 3000, |random| Fault::RedisFull(random.pick(&POLICIES))),
    kind(3,  100, 2000, |_| Fault::PostgresKilled),
    kind(2,  100,  500, |_| Fault::SessionKilled),
    kind(2,  100, 4000, |_| Fault::PostgresStopped),
    kind(4,  100, 2000, |_| Fault::PostgresRestarted),
    kind(4,  100,  500, |random| Fault::CutInCommit(side(random))),
    kind(4,  300, 3000, |random| Fault::DiskFull(random.pick(&[0, 50_000, 3_000_000]))),
    kind(4,  100, 3000, |random| Fault::Cut(link(random))),
    kind(3,  100,  500, |random| Fault::HalfClosed(link(random), direction(random))),
    kind(3,  300, 4000, |random| Fault::Held(link(random), direction(random), random.below(2) == 0)),
    kind(3,  300, 4000, |random| Fault::HeldBothWays(link(random), random.below(2) == 0)),
    kind(4,  300, 3000, |random| Fault::Switched(side(random), random.pick(&TARGETS))),
    kind(3,  500, 3000, |random| Fault::Slow(link(random), ms(5 + random.below(100)))),
];

const fn kind(weight: usize, from: usize, to: usize, draw: fn(&mut Random) -> Fault) -> Kind {
    Kind { weight, from, to, draw }
}

/// Where something is written behind, respgres refuses those that evict what has no end.
const POLICIES: [Policy; 3] = [Policy::NoEviction, Policy::VolatileLru, Policy::VolatileRandom];

/// What `dual_write` mappings are changed to: strategies under which the same is promised.
const TARGETS: [&str; 2] = ["database_first", "postgres_only"];

/// All faults of a run of this length, by their time.
pub(crate) fn draw(seed: u64, length: Duration) -> Vec<Event> {
    let mut random = Random::new(seed);
    let all: usize = KINDS.iter().map(|kind| kind.weight).sum();
    let mut events: Vec<Event> = Vec::new();
    let mut at = ms(500);
    loop {
        at += ms(100 + random.below(1500));
        let mut ticket = random.below(all);
        let kind = KINDS.iter().find(|kind| {
            let is_drawn = ticket < kind.weight;
            ticket = ticket.wrapping_sub(kind.weight);
            is_drawn
        });
        let Kind { from, to, draw, .. } = kind.expect("a ticket is below the sum");
        let lasts = ms(from + random.below(to - from));
        let mut fault = draw(&mut random);
        if seed.is_multiple_of(3) {
            fault = fault.without_loss();
        }
        // Of those that are under way the first to end makes room.
        let mut ends: Vec<Duration> = Vec::new();
        for event in &events {
            if event.end() > at {
                if event.fault.subject() == fault.subject() {
                    at = event.end();
                }
                ends.push(event.end());
            }
        }
        ends.sort_unstable();
        if let Some(free) = ends.len().checked_sub(AT_ONCE) {
            at = at.max(ends[free]);
        }
        let event = Event { at, lasts, fault };
        if event.end() + CALM > length {
            return events;
        }
        events.push(event);
    }
}

fn ms(ms: usize) -> Duration {
    Duration::from_millis(ms as u64)
}

fn side(random: &mut Random) -> Side {
    random.below(2)
}

fn direction(random: &mut Random) -> Direction {
    random.pick(&[Direction::Up, Direction::Down])
}

/// Those between the proxies and the stores more often than those of clients.
fn link(random: &mut Random) -> Link {
    let side = side(random);
    random.pick(&[
        Link::Clients(side),
        Link::Redis(side),
        Link::Redis(side),
        Link::Postgres(side),
        Link::Postgres(side),
    ])
}

impl Event {
    pub(crate) fn end(&self) -> Duration {
        self.at + self.lasts
    }
}

impl Fault {
    pub(crate) fn subject(&self) -> Subject {
        match *self {
            Self::ProxyKilled(side) | Self::ProxyStopped(side) => Subject::Proxy(side),
            Self::RedisKilled(_) | Self::RedisStopped | Self::RedisFull(_) => Subject::Redis,
            Self::PostgresKilled
            | Self::SessionKilled
            | Self::PostgresStopped
            | Self::PostgresRestarted
            | Self::CutInCommit(_)
            | Self::DiskFull(_) => Subject::Postgres,
            Self::Cut(link)
            | Self::HalfClosed(link, _)
            | Self::Held(link, ..)
            | Self::HeldBothWays(link, _)
            | Self::Slow(link, _) => Subject::Link(link),
            Self::Switched(..) => Subject::Strategy,
        }
    }

    /// The like of it that costs Redis no data.
    fn without_loss(self) -> Self {
        match self {
            Self::RedisKilled(_) => Self::RedisStopped,
            other => other,
        }
    }

    /// Whether Redis may have less afterwards than it was told.
    pub(crate) fn costs_data_of_redis(&self) -> bool {
        matches!(self, Self::RedisKilled(_))
    }
}

impl Policy {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::NoEviction => "noeviction",
            Self::VolatileLru => "volatile-lru",
            Self::VolatileRandom => "volatile-random",
        }
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = |duration: Duration| duration.as_secs_f64();
        write!(f, "{:7.3} s to {:7.3} s: {:?}", seconds(self.at), seconds(self.end()), self.fault)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::mem::{Discriminant, discriminant};

    use super::*;

    const LENGTH: Duration = Duration::from_secs(60);

    #[test]
    fn a_seed_brings_the_same_faults_again_and_another_one_others() {
        assert_eq!(draw(7, LENGTH), draw(7, LENGTH));
        assert_ne!(draw(7, LENGTH), draw(8, LENGTH));
        let (short, long) = (draw(7, LENGTH / 4), draw(7, LENGTH));
        assert!(short.len() > 3);
        assert_eq!(short, long[..short.len()]);
    }

    #[test]
    fn half_an_hour_has_all_kinds_of_faults_and_many() {
        let events: Vec<Event> = (1..=20).flat_map(|seed| draw(seed, LENGTH)).collect();
        let kinds: HashSet<Discriminant<Fault>> =
            events.iter().map(|event| discriminant(&event.fault)).collect();
        assert_eq!(kinds.len(), 17);
        let subjects: HashSet<Subject> = events.iter().map(|event| event.fault.subject()).collect();
        assert_eq!(subjects.len(), 2 + 2 + 6 + 1);
        assert!(events.len() > 400, "{}", events.len());
    }

    #[test]
    fn redis_keeps_its_data_with_every_third_seed() {
        for seed in 0..60 {
            let events = draw(seed, LENGTH);
            let is_lost = events.iter().any(|event| event.fault.costs_data_of_redis());
            assert_eq!(is_lost, seed % 3 != 0, "seed {seed}");
        }
    }

    #[test]
    fn nothing_fails_twice_at_a_time_and_all_is_well_in_the_end() {
        for seed in 0..200 {
            let events = draw(seed, LENGTH);
            for (place, event) in events.iter().enumerate() {
                assert!(event.end() + CALM <= LENGTH, "seed {seed}: {event}");
                let earlier = &events[..place];
                let meanwhile: Vec<_> =
                    earlier.iter().filter(|earlier| earlier.end() > event.at).collect();
                assert!(meanwhile.len() < AT_ONCE, "seed {seed}: {event}");
                let subject = event.fault.subject();
                assert!(meanwhile.iter().all(|earlier| earlier.fault.subject() != subject));
                assert!(earlier.iter().all(|earlier| earlier.at <= event.at), "seed {seed}");
            }
        }
    }
}
