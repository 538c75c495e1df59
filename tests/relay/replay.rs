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

/// A replay that is under way.
pub struct Talk<'s, S> {
    server: &'s S,
    /// By their numbers in the record, with the address that each was opened to.
    connections: BTreeMap<u64, (String, Client)>,
    answers: Vec<Option<Answer>>,
    start: Instant,
    started_ms: i64,
}

impl Replay {
    pub async fn with(server: &impl Server, traffic: &[Recorded]) -> Replay {
        Talk::begin(server).all(traffic).await
    }

    /// A later replay, whose times count from the start of this one.
    pub async fn then(&self, server: &impl Server, traffic: &[Recorded]) -> Replay {
        let talk = Talk::begin(server);
        Talk { start: self.start, started_ms: self.started_ms, ..talk }.all(traffic).await
    }
}

impl<'s, S: Server> Talk<'s, S> {
    pub fn begin(server: &'s S) -> Self {
        Self {
            server,
            connections: BTreeMap::new(),
            answers: Vec::new(),
            start: Instant::now(),
            started_ms: now_ms(),
        }
    }

    async fn all(mut self, traffic: &[Recorded]) -> Replay {
        for batch in writes(traffic) {
            self.say(batch).await;
        }
        self.take()
    }

    /// Sends what was one write. A server that has another address by now is connected to anew.
    pub async fn say(&mut self, batch: &[Recorded]) {
        let address = self.server.address();
        self.connections.retain(|_, (opened_to, _)| *opened_to == address);
        let (_, client) = match self.connections.entry(batch[0].connection) {
            Entry::Occupied(open) => open.into_mut(),
            Entry::Vacant(new) => {
                let client = Client::connect_to(&address).await;
                new.insert((address, client))
            }
        };
        let replies = if batch[0].name() == "scan" {
            vec![whole_scan(client, &batch[0]).await]
        } else {
            let commands: Vec<_> = batch.iter().map(|recorded| recorded.command.clone()).collect();
            client.pipeline(&commands).await.into_iter().map(Some).collect()
        };
        let after = self.start.elapsed();
        let answers = replies.into_iter().map(|reply| reply.map(|reply| Answer { reply, after }));
        self.answers.extend(answers);
    }

    /// The last reply.
    #[allow(dead_code, reason = "for tests/demo")]
    pub fn last(&self) -> Option<&Value> {
        self.answers.last().and_then(|answer| answer.as_ref()).map(|answer| &answer.reply)
    }

    /// Says one write again; the replies to it count.
    #[allow(dead_code, reason = "for tests/demo")]
    pub async fn say_again(&mut self, batch: &[Recorded]) {
        self.answers.truncate(self.answers.len() - batch.len());
        self.say(batch).await;
    }

    /// What was said so far. Connections are opened anew for what comes then.
    pub fn take(&mut self) -> Replay {
        self.connections.clear();
        let answers = std::mem::take(&mut self.answers);
        let Self { start, started_ms, .. } = *self;
        Replay { answers, started_ms, took: start.elapsed(), start }
    }
}

/// The record in the pieces that the app has written at once.
pub fn writes(traffic: &[Recorded]) -> impl Iterator<Item = &[Recorded]> {
    traffic.chunk_by(is_one_write)
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
