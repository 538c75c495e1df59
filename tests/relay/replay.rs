//! The recorded traffic said again, to whichever server.
//!
//! Commands that the app sent at one moment over one connection go out in one write, and their
//! replies are awaited before the next write: the order between connections is that of the record.
//! A SCAN is the exception. The record holds cursors of another server, so each SCAN from cursor 0
//! is carried through to its end here, and its later steps in the record are left out.

use std::collections::btree_map::{BTreeMap, Entry};
use std::time::{Duration, Instant};

use crate::stack::{Client, Server, Value};
use crate::traffic::Recorded;

/// One reply, and when it came, from the start of the replay.
pub struct Answer {
    pub reply: Value,
    pub after: Duration,
}

/// What a server answered: one entry a recorded command.
pub struct Replay {
    /// `None` for the later steps of a SCAN.
    pub answers: Vec<Option<Answer>>,
    /// When the replay began, milliseconds since the Unix epoch.
    pub started_ms: i64,
    pub took: Duration,
    start: Instant,
}

impl Replay {
    pub async fn with(server: &impl Server, traffic: &[Recorded]) -> Replay {
        Self::since(Instant::now(), now_ms(), server, traffic).await
    }

    /// A later replay, whose times count from the start of this one.
    pub async fn then(&self, server: &impl Server, traffic: &[Recorded]) -> Replay {
        Self::since(self.start, self.started_ms, server, traffic).await
    }

    async fn since(
        start: Instant,
        started_ms: i64,
        server: &impl Server,
        traffic: &[Recorded],
    ) -> Replay {
        let mut connections: BTreeMap<u64, Client> = BTreeMap::new();
        let mut answers = Vec::with_capacity(traffic.len());
        for batch in traffic.chunk_by(is_one_write) {
            let client = match connections.entry(batch[0].connection) {
                Entry::Occupied(open) => open.into_mut(),
                Entry::Vacant(new) => new.insert(Client::connect(server).await),
            };
            let replies = if batch[0].name() == "scan" {
                vec![whole_scan(client, &batch[0]).await]
            } else {
                let commands: Vec<_> =
                    batch.iter().map(|recorded| recorded.command.clone()).collect();
                client.pipeline(&commands).await.into_iter().map(Some).collect()
            };
            let after = start.elapsed();
            answers.extend(
                replies.into_iter().map(|reply| reply.map(|reply| Answer { reply, after })),
            );
        }
        Replay { answers, started_ms, took: start.elapsed(), start }
    }
}

fn is_one_write(one: &Recorded, next: &Recorded) -> bool {
    one.connection == next.connection
        && one.moment_ms == next.moment_ms
        && one.name() != "scan"
        && next.name() != "scan"
}

/// All that a SCAN finds from the first step to the last, as one array; `None` for a later step.
async fn whole_scan(client: &mut Client, recorded: &Recorded) -> Option<Value> {
    let mut command = recorded.command.clone();
    if command[1] != b"0" {
        return None;
    }
    let mut found = Vec::new();
    loop {
        let step = match client.command(&command).await {
            Value::Array(step) => step,
            error => return Some(error),
        };
        found.extend_from_slice(step[1].elements());
        command[1] = step[0].bytes().expect("a cursor is a string").to_vec();
        if command[1] == b"0" {
            // The same key may come twice: that much Redis says itself.
            found.sort();
            found.dedup();
            return Some(Value::Array(found));
        }
    }
}

fn now_ms() -> i64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    i64::try_from(now.expect("after 1970").as_millis()).expect("before the year 292277026")
}
