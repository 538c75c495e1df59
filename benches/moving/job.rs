//! A job of respgres that ran to its end, and what it used.

use std::time::{Duration, Instant};

use crate::house::{Cpu, House};
use crate::rig::Failure;

/// What a job did.
pub(crate) struct Job {
    pub(crate) name: String,
    /// What it said at the end.
    pub(crate) told: String,
    pub(crate) seconds: f64,
    pub(crate) per_second: f64,
    /// CPU µs a key of the job itself, the running respgres, Postgres and Redis.
    pub(crate) cpu_us: [f64; 4],
    /// How many of the cores others kept busy.
    pub(crate) others: f64,
}

/// The longest that a job may take.
const LIMIT: Duration = Duration::from_secs(600);

// === impl House ===

impl House {
    /// Runs a job with nobody else at work.
    ///
    /// # Errors
    /// When it fails, or finds something.
    pub(crate) async fn run(&mut self, name: &str, arguments: &[String]) -> Result<Job, Failure> {
        eprintln!("{name}");
        let (before, start) = (self.cpu()?, Instant::now());
        let mut process = self.begin(arguments)?;
        process.finish(LIMIT).await?;
        let seconds = start.elapsed().as_secs_f64();
        let told = process.log()?.lines().last().unwrap_or_default().to_owned();
        drop(process);
        let used = self.cpu()?.since(&before);
        let keys: f64 = told.split(' ').next().unwrap_or_default().parse().unwrap_or(f64::NAN);
        let Cpu { ours, ended, busy } = used;
        let parts = [ended, ours[0], ours[1], ours[2]];
        let others = (busy - parts.iter().sum::<f64>()).max(0.0) / seconds;
        eprintln!("  {told}");
        Ok(Job {
            name: name.to_owned(),
            told,
            seconds,
            per_second: keys / seconds,
            cpu_us: parts.map(|part| part / keys * 1e6),
            others,
        })
    }

    /// Begins a backfill, and kills it when it has brought about half of the keys over; how many it had.
    pub(crate) async fn kill_half_way(
        &mut self,
        keys: u64,
        arguments: &[String],
    ) -> Result<u64, Failure> {
        eprintln!("backfill, and kill -9");
        let process = self.begin(arguments)?;
        let start = Instant::now();
        while self.rows().await? < keys / 2 {
            if start.elapsed() > LIMIT {
                return Err("it does not come half-way".into());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        // Dropped, it is killed.
        drop(process);
        let rows = self.rows().await?;
        if rows >= keys {
            return Err("it had ended before it was killed".into());
        }
        eprintln!("  at {rows} rows");
        Ok(rows)
    }
}
