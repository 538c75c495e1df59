//! Wakes the keeper when something has come into the outbox, and the beat when a strategy is changed: within milliseconds, while without it the
//! keeper looks now and then.

use std::sync::Arc;
use std::time::Duration;

use super::EngineSettings;
use super::trust::Trust;
use crate::store::outbox::Listener;
use crate::tasks::Tasks;

/// How long a listener that was cut off waits before it tries again.
const PAUSE: Duration = Duration::from_millis(500);

pub(super) async fn listen(settings: EngineSettings, trust: Arc<Trust>, tasks: Tasks) {
    let listening = async {
        loop {
            if !settings.health.is_lost()
                && let Ok(mut listener) = Listener::connect(&settings.postgres).await
            {
                // What came before is not told any more.
                trust.poke();
                while let Ok(is_outbox) = listener.next().await {
                    if is_outbox {
                        trust.poke();
                    } else {
                        settings.fleet.nudge();
                    }
                }
            }
            tokio::time::sleep(PAUSE).await;
        }
    };
    tokio::select! {
        () = listening => {}
        () = tasks.stopping() => {}
    }
}
