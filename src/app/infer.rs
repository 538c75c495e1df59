//! `respgres infer`: looks into a Redis until it has seen enough or is interrupted, and tells what it
//! proposes.

use std::cell::Cell;
use std::io::{IsTerminal, Write};
use std::path::Path;
use std::time::Duration;

use thiserror::Error;
use tokio::runtime::Builder;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;

use crate::config::Problems;
use crate::infer::{Proposal, SampleError, Sampling, Survey, propose};

/// Why nothing is proposed.
#[derive(Debug, Error)]
pub enum InferError {
    #[error("{0}")]
    Io(#[from] std::io::Error),
    #[error(transparent)]
    Sample(#[from] SampleError),
    #[error("the proposal is not valid, which is a defect of respgres; please report it\n{0}")]
    Defect(Problems),
    #[error("{path}: {cause}")]
    Write { path: String, cause: String },
}

/// Names of the files in the directory of `--output`.
const FILES: [&str; 2] = ["respgres.toml", "schema.sql"];

/// How often a terminal is told how far it is.
const BETWEEN_LINES: Duration = Duration::from_millis(200);

/// Looks into a Redis and proposes mappings. The first Ctrl-C ends the look at names, the
/// second the look into values: then it proposes what is known.
///
/// # Errors
/// When the Redis is out of reach or refuses to be looked into.
pub fn infer(sampling: &Sampling) -> Result<Proposal, InferError> {
    let mut survey = Survey::new(sampling.samples);
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let done = runtime.block_on(async {
        let mut interrupted = signal(SignalKind::interrupt())?;
        let mut terminal = Terminal::default();
        let stop = Cell::new(0);
        let done = {
            let looking = survey.run(sampling, &stop, |survey| terminal.tell(survey, stop.get()));
            tokio::pin!(looking);
            loop {
                tokio::select! {
                    done = &mut looking => break done.map_err(InferError::from),
                    _ = interrupted.recv() => stop.set(stop.get() + 1),
                }
                if stop.get() > 1 {
                    break Ok(());
                }
            }
        };
        terminal.clear();
        done
    });
    done?;
    propose(survey, sampling).map_err(InferError::Defect)
}

/// Writes the files of a proposal into a directory, which is made if it is not there. Files that are there
/// already are not touched.
///
/// # Errors
/// What cannot be written.
pub fn write(proposal: &Proposal, directory: &Path) -> Result<(), InferError> {
    let failed = |path: &Path, error: std::io::Error| InferError::Write {
        path: path.display().to_string(),
        cause: error.to_string(),
    };
    std::fs::create_dir_all(directory).map_err(|error| failed(directory, error))?;
    let paths = FILES.map(|name| directory.join(name));
    if let Some(path) = paths.iter().find(|path| path.exists()) {
        return Err(InferError::Write {
            path: path.display().to_string(),
            cause: "is there already; remove it, or write into another directory".to_owned(),
        });
    }
    for (path, text) in paths.iter().zip([&proposal.config, &proposal.schema]) {
        std::fs::write(path, text).map_err(|error| failed(path, error))?;
    }
    Ok(())
}

/// The line that tells how far it is, where somebody looks.
#[derive(Debug, Default)]
struct Terminal {
    told: Option<Instant>,
}

// === impl Terminal ===

impl Terminal {
    fn tell(&mut self, survey: &Survey, stops: u32) {
        let is_soon = self.told.is_some_and(|told| told.elapsed() < BETWEEN_LINES);
        if is_soon || !std::io::stderr().is_terminal() {
            return;
        }
        self.told = Some(Instant::now());
        let what = if survey.looked_into == 0 {
            format!("{} of about {} keys seen", survey.keys(), survey.expected)
        } else {
            format!("{} keys seen, {} looked into", survey.keys(), survey.looked_into)
        };
        // A terminal that has gone away is no reason to stop.
        let way_out = if stops == 0 { "Ctrl-C" } else { "Ctrl-C again" };
        let _ = write!(std::io::stderr(), "\r\x1b[K{what}; {way_out}: propose what is known");
    }

    fn clear(&self) {
        if self.told.is_some() {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}
