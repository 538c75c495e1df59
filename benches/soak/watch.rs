//! Memory and open files over time, and whether they grow.

use std::time::Duration;

use crate::rig::Failure;
use crate::rig::figure::median;
use crate::rig::process::Process;

/// Lines that a whole soak prints.
const LINES: u32 = 30;

/// How many files more the last third may have open on average: clients come and go at random.
const FILES_MARGIN: f64 = 4.0;

/// Samples of each third below which growth cannot be told from chance.
const FEWEST_SAMPLES: usize = 20;

struct Sample {
    at: Duration,
    resident_mb: f64,
    files: usize,
}

pub(crate) struct Watch {
    length: Duration,
    samples: Vec<Sample>,
    lines: u32,
}

impl Watch {
    pub(crate) fn new(length: Duration) -> Self {
        Self { length, samples: Vec::new(), lines: 0 }
    }

    /// Takes a sample; a line for the terminal when the next one is due.
    pub(crate) fn look(
        &mut self,
        process: &Process,
        at: Duration,
    ) -> Result<Option<String>, Failure> {
        let sample = Sample { at, resident_mb: process.resident_mb()?, files: process.files()? };
        let line = (at >= self.length * self.lines / LINES).then(|| {
            format!(
                "{:>6} s {:>8.1} MB {:>5} open files",
                at.as_secs(),
                sample.resident_mb,
                sample.files
            )
        });
        self.lines += u32::from(line.is_some());
        self.samples.push(sample);
        Ok(line)
    }

    /// What grew from the second third of the time to the last.
    pub(crate) fn complaints(&self, growth_mb: f64) -> Vec<String> {
        let third = |from: u32| {
            let (start, end) = (self.length * from / 3, self.length * (from + 1) / 3);
            self.samples.iter().filter(move |one| one.at >= start && one.at < end)
        };
        let fewest = third(1).count().min(third(2).count());
        if fewest < FEWEST_SAMPLES {
            return vec![format!("{fewest} samples in a third are too few: let it run longer")];
        }
        // Values of 1 MB come and go: the median is what stays.
        let resident = |from| median(third(from).map(|one| one.resident_mb));
        let files = |from| {
            third(from).map(|one| one.files as f64).sum::<f64>() / third(from).count() as f64
        };
        let (resident_before, resident_after) = (resident(1), resident(2));
        let (files_before, files_after) = (files(1), files(2));
        println!(
            "second third: {resident_before:.1} MB, {files_before:.1} open files; \
             last third: {resident_after:.1} MB, {files_after:.1} open files"
        );
        let mut complaints = Vec::new();
        if resident_after > resident_before + growth_mb {
            complaints
                .push(format!("memory grew from {resident_before:.1} to {resident_after:.1} MB"));
        }
        if files_after > files_before + FILES_MARGIN {
            complaints.push(format!("open files grew from {files_before:.1} to {files_after:.1}"));
        }
        complaints
    }
}
