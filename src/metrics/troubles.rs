//! The last warnings and errors of the log, for those who look in without it.
//!
//! Of each only the text and the mapping are kept: what else belongs to it may have addresses, causes or SQL in it,
//! and is for the log alone.

use std::collections::VecDeque;
use std::fmt::{Debug, Write as _};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

/// Those that are remembered; the same again is one of them.
const REMEMBERED: usize = 50;

/// Texts of others are not for everybody.
const OWN: &str = "respgres";

#[derive(Debug, Default)]
pub struct Troubles(Mutex<VecDeque<Trouble>>);

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// When it came last.
    pub at: SystemTime,
    pub is_error: bool,
    pub text: String,
    pub mapping: Option<String>,
    /// How often it has come.
    pub count: u64,
}

/// Remembers what is logged.
#[derive(Clone, Debug)]
pub struct Recorder(pub Arc<Troubles>);

/// What is kept of an event.
#[derive(Default)]
struct Kept {
    text: String,
    mapping: Option<String>,
}

// === impl Troubles ===

impl Troubles {
    /// The last one first.
    pub fn last(&self) -> Vec<Trouble> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().cloned().collect()
    }

    fn remember(&self, mut trouble: Trouble) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_same = |known: &Trouble| {
            (&known.text, &known.mapping, known.is_error)
                == (&trouble.text, &trouble.mapping, trouble.is_error)
        };
        if let Some(known) = all.iter().position(is_same).and_then(|at| all.remove(at)) {
            trouble.count += known.count;
        }
        all.push_front(trouble);
        all.truncate(REMEMBERED);
    }
}

// === impl Recorder ===

impl<S: Subscriber> Layer<S> for Recorder {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let about = event.metadata();
        if *about.level() > Level::WARN || !about.target().starts_with(OWN) {
            return;
        }
        let mut kept = Kept::default();
        event.record(&mut kept);
        let Kept { text, mapping } = kept;
        let is_error = *about.level() == Level::ERROR;
        self.0.remember(Trouble { at: SystemTime::now(), is_error, text, mapping, count: 1 });
    }
}

// === impl Kept ===

impl Visit for Kept {
    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "message" => value.clone_into(&mut self.text),
            "mapping" => self.mapping = Some(value.to_owned()),
            _ => {}
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        match field.name() {
            "message" => write!(self.text, "{value:?}").expect("a String takes any text"),
            "mapping" => self.mapping = Some(format!("{value:?}")),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::prelude::*;

    use super::*;

    #[test]
    fn texts_are_kept_and_nothing_that_belongs_to_them() {
        let troubles = Arc::new(Troubles::default());
        let subscriber = tracing_subscriber::registry().with(Recorder(Arc::clone(&troubles)));
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!("all is well");
            tracing::warn!(address = "10.0.0.1", error = %"secret", "it is lost");
            tracing::error!(mapping = "keys", "it does not fit");
            tracing::warn!(target: "sqlx::query", "of somebody else");
            tracing::warn!(address = "10.0.0.2", "it is lost");
        });
        let told: Vec<_> = troubles.last().into_iter().collect();
        let short: Vec<_> =
            told.iter().map(|t| (&*t.text, t.mapping.as_deref(), t.is_error, t.count)).collect();
        assert_eq!(
            short,
            [("it is lost", None, false, 2), ("it does not fit", Some("keys"), true, 1)]
        );
        assert!(!format!("{told:?}").contains("secret"));
    }

    #[test]
    fn no_more_are_remembered_than_there_is_room_for() {
        let troubles = Troubles::default();
        for number in 0..200 {
            let (at, text) = (SystemTime::now(), format!("trouble {number}"));
            troubles.remember(Trouble { at, is_error: false, text, mapping: None, count: 1 });
        }
        assert_eq!(troubles.last().len(), REMEMBERED);
        assert_eq!(troubles.last()[0].text, "trouble 199");
    }
}
