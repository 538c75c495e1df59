//! Several hands that work on batches of keys, each over its own connections, while one walks and gives them out.
//!
//! A batch that fails for a reason that may pass is tried again; work is such that it may be done twice. But all of it
//! is done in one run of Redis: another one may have fewer keys, or older ones.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::sync::{Mutex, oneshot};
use tokio::time::sleep;

use super::pace::Pace;
use super::progress::Counters;
use super::{Ground, Hand, MovingError, Speed};
use crate::mapping::MappedKey;
use crate::store::Session;
use crate::tasks::Tasks;
use crate::upstream::control::Control;

/// How often, and how long apart, it is tried again where a store is out of reach.
const TRIES: u32 = 60;
const PAUSE: Duration = Duration::from_millis(500);

/// What is done with keys.
pub(super) trait Work: Send + Sync + 'static {
    /// Whether these are keys that nobody else of the job deals with.
    const COUNTS: bool = true;

    /// Deals with keys of one mapping, each of which comes once.
    fn deal_with(
        &self,
        hand: &mut Hand,
        keys: &[MappedKey],
        counters: &Counters,
    ) -> impl Future<Output = Result<(), MovingError>> + Send;
}

/// With stores that are out of reach.
#[derive(Debug, Default)]
pub(super) struct Patience {
    tries: u32,
}

/// What all have in common who work on one job.
struct Crew<W> {
    work: W,
    ground: Arc<Ground>,
    counters: Arc<Counters>,
    tasks: Tasks,
    batches: Mutex<Receiver<Vec<MappedKey>>>,
}

/// Has all keys dealt with that the walk gives away.
pub(super) async fn deal_with_all<W: Work>(
    work: W,
    ground: &Arc<Ground>,
    speed: Speed,
    counters: &Arc<Counters>,
    tasks: &Tasks,
    walk: impl AsyncFnOnce(&mut Pace, &Sender<Vec<MappedKey>>) -> Result<(), MovingError>,
) -> Result<(), MovingError> {
    let parallel = speed.parallel.max(1);
    let (to, batches) = channel(parallel);
    let crew = Arc::new(Crew {
        work,
        ground: Arc::clone(ground),
        counters: Arc::clone(counters),
        tasks: tasks.clone(),
        batches: Mutex::new(batches),
    });
    let mut hands = Vec::new();
    for _ in 0..parallel {
        let (tell, told) = oneshot::channel();
        let crew = Arc::clone(&crew);
        tasks.spawn(async move {
            // Who waits for it waits for all.
            let _ = tell.send(crew.work_on().await);
        });
        hands.push(told);
    }
    let walked = walk(&mut Pace::new(speed.keys_per_second), &to).await;
    drop(to);
    let mut ended = Ok(());
    for told in hands {
        let done = told.await.unwrap_or(Err(MovingError::Died));
        if ended.is_ok() {
            ended = done;
        }
    }
    // What a hand says is why the walk ended.
    match ended.and(walked) {
        Err(error) if ground.part.is_lost() => {
            tracing::debug!(%error, "a job ends that has no part any more");
            Err(MovingError::GoingBack)
        }
        Err(error) if !error.may_pass() => Err(error),
        done => same_run(ground, tasks).await.and(done),
    }
}

/// Whether Redis is still in the run in which the job began.
async fn same_run(ground: &Ground, tasks: &Tasks) -> Result<(), MovingError> {
    let mut control = Control::new(ground.settings.control.clone());
    let mut tries = 0;
    loop {
        match control.run_id().await {
            Ok(run) if ground.trust.is_elsewhere(run) => return Err(MovingError::StartedAnew),
            Ok(_) => return Ok(()),
            Err(error) => {
                tries += 1;
                if tries > TRIES || tasks.is_stopping() {
                    return Err(error.into());
                }
            }
        }
        sleep(PAUSE).await;
    }
}

// === impl Patience ===

impl Patience {
    /// Waits before the next try.
    ///
    /// # Errors
    /// Why there is to be none.
    pub(super) async fn wait(
        &mut self,
        error: MovingError,
        ground: &Ground,
        tasks: &Tasks,
    ) -> Result<(), MovingError> {
        self.tries += 1;
        if !error.may_pass() || self.tries > TRIES || ground.part.is_lost() {
            return Err(error);
        }
        tracing::info!(%error, "keys are going to be tried again");
        tokio::select! {
            () = sleep(PAUSE) => Ok(()),
            () = tasks.stopping() => Err(error),
        }
    }
}

// === impl Crew ===

impl<W: Work> Crew<W> {
    async fn work_on(&self) -> Result<(), MovingError> {
        let mut hand = Hand::new(&self.ground);
        let done = self.work_with(&mut hand).await;
        if done.is_err() {
            self.tasks.stop();
        }
        hand.close().await;
        done
    }

    async fn work_with(&self, hand: &mut Hand) -> Result<(), MovingError> {
        loop {
            let batch = self.batches.lock().await.recv().await;
            let Some(mut keys) = batch else { return Ok(()) };
            let given = keys.len();
            keys.sort_unstable_by(|one, other| one.key.cmp(&other.key));
            keys.dedup_by(|one, other| one.key == other.key);
            self.deal_with(hand, &keys).await?;
            if W::COUNTS {
                self.counters.add(&self.counters.done, given);
            }
        }
    }

    async fn deal_with(&self, hand: &mut Hand, keys: &[MappedKey]) -> Result<(), MovingError> {
        let mut patience = Patience::default();
        loop {
            let error = match self.work.deal_with(hand, keys, &self.counters).await {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            if hand.session.as_ref().is_some_and(Session::is_broken) {
                hand.session = None;
            }
            patience.wait(error, &self.ground, &self.tasks).await?;
        }
    }
}
