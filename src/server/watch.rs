//! A Redis that hangs: it takes requests and answers nobody.
//!
//! That a request takes long says nothing: scripts, SORT and KEYS may. So a lane is given up only when
//! it was silent for the whole of `upstream.silence_timeout` while it owed an answer, and then a new
//! connection gets no word either. See docs/decisions/0010-a-redis-that-answers-nobody.md.

use std::rc::Rc;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};

use super::event_loop::EventLoop;
use crate::upstream::Lane;
use crate::upstream::link::Link;

/// Looks at every lane, for the length of the timeout.
const LOOKS: u32 = 4;

// === impl EventLoop ===

impl EventLoop {
    /// Gives up lanes whose upstream hangs, for as long as the loop lives.
    pub(super) async fn watch_upstream(&self) {
        let upstream = &self.shared.upstream;
        let pause_ms = (upstream.silence_timeout_ms / u64::from(LOOKS)).max(1);
        let mut look = interval(Duration::from_millis(pause_ms));
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            look.tick().await;
            // The first look may have come right after the request.
            let is_silent = |lane: &Rc<Lane<Self>>| lane.look() > LOOKS;
            let silent: Vec<Rc<Lane<Self>>> =
                self.all_lanes().into_iter().filter(is_silent).collect();
            if silent.is_empty() {
                continue;
            }
            let address = &self.shared.upstream_address;
            let alive = Link::is_answered(address, upstream.connect_timeout_ms).await;
            for lane in silent {
                if alive { lane.forgive() } else { lane.give_up() }
            }
        }
    }
}
