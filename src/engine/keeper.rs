//! The keeper: makes sure that what Redis says of mapped keys can be believed (see `trust`), and drops
//! copies of rows that were changed past Redis (COHERENCE, "Outbox" and "Restart and failover of Redis").
//!
//! Redis is believed in one run only. When the keeper meets another one, it goes through all keys first
//! and drops what may be an old copy; one proxy does that for all, and records the run in
//! `respgres.control`. Then, and whenever there is something in it, it works off the outbox.
//!
//! Until then every mapped key is read from Postgres, and writes do not keep the old values aside: a
//! value that is renamed there and back while the keeper goes through the keys could escape it.
//!
//! Of a mapping that imports, also what has an end and no row stays: it may be the key's own end.
//!
//! Absent on purpose: deleting what has no end and no row. Copies have an end; that is a value which
//! somebody has put into Redis before its keys were mapped, and which is nowhere else.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, sleep};

use super::EngineSettings;
use super::rollback::may_have_endless_copies;
use super::tables::Tables;
use super::through::{connected, set_aside};
use super::trust::{Attempt, Trust};
use crate::command::Needs;
use crate::mapping::{MappedKey, Pass, Registry};
use crate::store::outbox::OutboxRow;
use crate::store::sole::Work;
use crate::store::{Applied, RowLock, Session, StoreError, Swept, Want};
use crate::tasks::Tasks;
use crate::upstream::control::{Control, Frame, scan_page};
use crate::upstream::scripts::{Call, JOURNAL, Script, aside_of, mark_of, owner_of};
use crate::upstream::{RunId, UpstreamError};

/// How often a Redis that is believed is asked for a sign of life, and the outbox is looked into though
/// nobody was woken.
const LOOK: Duration = Duration::from_millis(500);

/// How long the keeper waits before it tries again to get Redis back, or the outbox worked off.
const PAUSE: Duration = Duration::from_millis(100);

/// A trouble that lasts so long is worth a warning. Those who meet it log theirs.
const LASTING: Duration = Duration::from_secs(2);

/// Keys that Redis is asked for at once.
const SCAN_COUNT: &str = "1000";

/// Outbox rows that are worked off at once.
const ROWS: i64 = 1000;

#[derive(Debug)]
pub(super) struct Keeper {
    settings: EngineSettings,
    trust: Arc<Trust>,
    registry: Arc<Registry>,
    tables: Arc<Tables>,
    session: Option<Session>,
    control: Control,
    /// Since when something is wrong, and whether a warning has said so.
    trouble: Option<(Instant, bool)>,
}

/// Why the keeper could not do its work now.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
    #[error("the upstream Redis does not say which run it is: respgres' user may not run INFO")]
    NoRunId,
    #[error("Redis was lost again")]
    LostAgain,
    #[error("this respgres has no lease in either store")]
    Fenced,
    #[error("the keys of a mapping are about to be in Redis alone")]
    Leaving,
}

// === impl Keeper ===

impl Keeper {
    pub(super) fn new(
        settings: &EngineSettings,
        trust: Arc<Trust>,
        registry: Arc<Registry>,
        tables: Arc<Tables>,
    ) -> Self {
        Self {
            control: Control::new(settings.control.clone()),
            settings: settings.clone(),
            trust,
            registry,
            tables,
            session: None,
            trouble: None,
        }
    }

    /// Keeps watch until it is asked to stop.
    pub(super) async fn run(mut self, tasks: &Tasks) {
        tokio::select! {
            () = self.keep_watch() => {}
            () = tasks.stopping() => {}
        }
        if let Some(session) = self.session.take() {
            session.close().await;
        }
    }

    async fn keep_watch(&mut self) {
        loop {
            let was_believed = self.trust.believes_any();
            let done = if was_believed { self.look().await } else { self.come_back().await };
            match done {
                Ok(()) => {
                    self.trouble = None;
                    if !was_believed {
                        // What is in the journal is not known yet.
                        continue;
                    }
                    // While it is not known that nothing is lost with Redis, it is to be known soon.
                    let losses = self.settings.health.losses();
                    let is_loose = self.trust.journal.may_be_loose(losses);
                    tokio::select! {
                        () = self.trust.changed() => {}
                        () = sleep(if is_loose { PAUSE } else { LOOK }) => {}
                    }
                }
                Err(trouble) => {
                    self.tell(&trouble);
                    if matches!(trouble, Trouble::Upstream(_)) && !self.trust.is_out() {
                        self.trust.lose();
                    }
                    sleep(PAUSE).await;
                }
            }
        }
    }

    /// Tells the log once that something is wrong, and once more if it stays so.
    fn tell(&mut self, trouble: &Trouble) {
        let is_first = self.trouble.is_none();
        let (since, warned) = self.trouble.get_or_insert_with(|| (Instant::now(), false));
        // Of a Postgres that is lost the watcher tells.
        if self.settings.health.is_lost() && matches!(trouble, Trouble::Store(_)) {
            return;
        }
        let what = match trouble {
            Trouble::Store(_) => "changes past Redis are not looked for",
            _ => "mapped keys are read from Postgres alone",
        };
        if !*warned && since.elapsed() >= LASTING {
            *warned = true;
            tracing::warn!(error = %trouble, "{what}");
        } else if is_first {
            tracing::info!(error = %trouble, "{what}");
        }
    }

    /// While Redis is believed: is it still the same one, for the others too, and does it answer?
    async fn look(&mut self) -> Result<(), Trouble> {
        let run = self.control.live_run_id().await?;
        if !self.trust.covers(run) {
            return self.come_back().await;
        }
        let health = &self.settings.health;
        let look = self.trust.journal.begin_look(health.losses());
        let journal = self.control.journal_state().await?;
        self.trust.journal.tell(journal);
        let session = connected(&mut self.session, &self.settings).await?;
        let swept = session.swept().await?;
        if run.map(|run| run.to_string()) != swept.as_ref().map(|swept| swept.run.clone()) {
            if swept.is_some() {
                tracing::warn!("another respgres has met another Redis: who has the address now?");
            }
            self.trust.lose();
            return self.come_back().await;
        }
        if journal.epoch != swept.map(|swept| swept.epoch) {
            // Somebody has emptied Redis. What it has now is as good as any copies; only the journal
            // cannot go on before it has its new epoch.
            return self.come_back().await;
        }
        self.trust.journal.end_look(look, journal.is_loose);
        let session = connected(&mut self.session, &self.settings).await?;
        let count = session.count_dead_letters().await?;
        self.trust.journal.tell_dead_letters(count);
        self.work_off_the_outbox().await?;
        // What others wrote past Redis has left it.
        self.settings.health.tell_journal(journal.changes, journal.lag_ms);
        Ok(())
    }

    /// Makes Redis believable again.
    async fn come_back(&mut self) -> Result<(), Trouble> {
        // Over a new connection: one that outlives a failover leads to the Redis of before.
        let run = self.control.run_id_anew().await?.ok_or(Trouble::NoRunId)?;
        let attempt = self.trust.begin_again(run);
        while !self.trust.is_free_of_bypasses() {
            self.trust.changed().await;
        }
        self.make_sure_of(run).await?;
        self.work_off_the_outbox().await?;
        self.believe(run, attempt).await
    }

    async fn believe(&mut self, run: RunId, attempt: Attempt) -> Result<(), Trouble> {
        // All of that was done over connections to the run that it was meant for.
        if self.control.run_id().await? != Some(run) || !self.trust.believe(run, attempt) {
            return Err(Trouble::LostAgain);
        }
        if self.trouble.take().is_some() {
            tracing::info!("mapped keys are read from Redis again");
        }
        Ok(())
    }

    // --- another run ---

    /// Goes through the keys of a run that nobody has gone through yet.
    async fn make_sure_of(&mut self, run: RunId) -> Result<(), Trouble> {
        let text = run.to_string();
        loop {
            if self.is_swept(&text).await? {
                return Ok(());
            }
            let session = connected(&mut self.session, &self.settings).await?;
            if session.take_on(Work::Sweep).await? {
                break;
            }
            sleep(PAUSE).await;
        }
        let done = self.sweep_under_lock(&text).await;
        let session = connected(&mut self.session, &self.settings).await?;
        session.lay_down(Work::Sweep).await?;
        done
    }

    /// Whether this run was gone through, and has its data still.
    async fn is_swept(&mut self, run: &str) -> Result<bool, Trouble> {
        let session = connected(&mut self.session, &self.settings).await?;
        let Some(swept) = session.swept().await? else { return Ok(false) };
        Ok(swept.run == run && self.control.journal_state().await?.epoch == Some(swept.epoch))
    }

    async fn sweep_under_lock(&mut self, run: &str) -> Result<(), Trouble> {
        if self.is_swept(run).await? {
            return Ok(());
        }
        let session = connected(&mut self.session, &self.settings).await?;
        let recorded = session.swept().await?;
        let applied = session.applied().await?;
        // Nothing is recorded before the first start of all. A Redis from before may have copies all the
        // same: of another database, or of this one as it was before it was restored. But it may as well have
        // what nobody has brought to Postgres yet.
        let spares_what_has_no_row = recorded.is_none();
        let journal = self.control.journal_state().await?;
        let before = recorded.unwrap_or_default();
        let is_known = !spares_what_has_no_row
            && journal.epoch.is_some_and(|epoch| epoch >= before.first_epoch);
        let past = [before.last_epoch, applied.epoch, journal.epoch.unwrap_or(0)];
        let epoch = past.into_iter().max().unwrap_or(0) + 1;
        let first_epoch = if is_known { before.first_epoch } else { epoch };
        // From here on nobody takes the changes in data of before for known, whoever ends this sweep.
        let begun = Swept { first_epoch, last_epoch: epoch, ..before };
        if !spares_what_has_no_row {
            session.record_swept(&begun).await?;
        }
        if !is_known {
            if journal.entries > 0 {
                tracing::error!(
                    entries = journal.entries,
                    changes = journal.changes,
                    "Redis has come with a journal of changes that belong to other data than what                      respgres knows: they are dropped"
                );
            }
            self.control.drop_journal().await?;
        }
        let since = Instant::now();
        let (seen, kept) = self.sweep(spares_what_has_no_row, is_known.then_some(applied)).await?;
        // The journal is opened when all else is done: who has to begin again begins at the beginning.
        self.control.begin_epoch(epoch).await?;
        let seconds = since.elapsed().as_secs_f64();
        tracing::info!(
            seen,
            kept,
            seconds,
            "Redis is new here or has started anew: copies of mapped keys in it were dropped"
        );
        let session = connected(&mut self.session, &self.settings).await?;
        let ended = Swept { run: run.to_owned(), epoch, ..begun };
        session.record_swept(&ended).await?;
        Ok(())
    }

    /// Drops what may be an old copy; how many mapped keys were seen, and kept.
    /// `applied`: the last entry of the journal that Postgres has, where its entries are to be believed.
    async fn sweep(
        &mut self,
        spares_what_has_no_row: bool,
        applied: Option<Applied>,
    ) -> Result<(usize, usize), Trouble> {
        let (epoch, number) = match applied {
            Some(applied) => (applied.epoch.to_string(), applied.number.to_string()),
            None => (String::new(), String::new()),
        };
        let (mut seen, mut kept) = (0, 0);
        let session = connected(&mut self.session, &self.settings).await?;
        let mut endless = may_have_endless_copies(&session.mapping_entries().await?);
        if spares_what_has_no_row {
            endless.clear();
        }
        let mut cursor = Bytes::from_static(b"0");
        loop {
            let words = [
                Bytes::from_static(b"SCAN"),
                cursor,
                Bytes::from_static(b"COUNT"),
                Bytes::from_static(SCAN_COUNT.as_bytes()),
            ];
            let (next, names) = scan_page(self.control.command(&words).await?)?;
            let mut mapped: HashSet<Bytes, ahash::RandomState> = HashSet::default();
            for name in names {
                let key = owner_of(&name).unwrap_or(name);
                if self.registry.find(&key).is_some() {
                    mapped.insert(key);
                }
            }
            // None of them goes to Redis alone before this page is done.
            let mut passes = Vec::new();
            if !mapped.is_empty() {
                for mapping in self.registry.mappings() {
                    passes.push(mapping.gate.hold_copies().ok_or(Trouble::Leaving)?);
                }
                mapped.retain(|key| self.registry.find(key).is_some());
            }
            if !mapped.is_empty() {
                seen += mapped.len();
                let imports = |key: &Bytes| {
                    self.registry.mapped_key(key).is_some_and(|key| key.mapping.imports())
                };
                let (importing, others): (Vec<Bytes>, Vec<Bytes>) =
                    mapped.into_iter().partition(imports);
                for (mapped, usual) in [(importing, "own"), (others, "")] {
                    if mapped.is_empty() {
                        continue;
                    }
                    let spare = if spares_what_has_no_row { "spare" } else { usual };
                    let arguments = [&epoch[..], &number[..], spare];
                    let arguments = arguments.map(|word| Bytes::copy_from_slice(word.as_bytes()));
                    let staying = numbers(self.call(Script::Sweep, &mapped, &arguments).await?)?;
                    let staying: Vec<Bytes> =
                        staying.into_iter().map(|at| mapped[at].clone()).collect();
                    kept += self.drop_those_with_rows(&staying, &endless).await?;
                }
            }
            if next == "0" {
                return Ok((seen, kept));
            }
            cursor = next;
        }
    }

    /// Drops the keys that Postgres has, or had while their mapping imports; how many it has not. Of mappings that do not
    /// import, and of which Redis may have `endless` copies, it may have had each.
    async fn drop_those_with_rows(
        &mut self,
        keys: &[Bytes],
        endless: &HashSet<String>,
    ) -> Result<usize, Trouble> {
        let keys: Vec<MappedKey> =
            keys.iter().filter_map(|key| self.registry.mapped_key(key)).collect();
        let mut groups: HashMap<usize, Vec<&MappedKey>, ahash::RandomState> = HashMap::default();
        for key in &keys {
            groups.entry(key.mapping.index).or_default().push(key);
        }
        let needs = Needs { existence: true, ..Needs::default() };
        let mut with_rows = Vec::new();
        for group in groups.values() {
            let known = &group[0].mapping;
            if !known.imports() && endless.contains(&known.name) {
                with_rows.extend(group.iter().map(|key| key.key.clone()));
                continue;
            }
            if known.imports() && self.tables.is_due(known) {
                let session = connected(&mut self.session, &self.settings).await?;
                self.tables.look_again(session, known).await?;
            }
            let Some(mapping) = self.tables.current(known) else {
                if known.imports() {
                    // Nobody knows what only Redis has of it: this Redis has to wait.
                    return Err(set_aside().into());
                }
                with_rows.extend(group.iter().map(|key| key.key.clone()));
                continue;
            };
            let want = |&key| Want { key, needs: &needs, whole_up_to: 0 };
            let wants: Vec<Want<'_>> = group.iter().map(want).collect();
            let session = connected(&mut self.session, &self.settings).await?;
            let read = session.read_parts(&mapping, &wants, RowLock::None).await?;
            let mut there: Vec<bool> = read.rows.iter().map(|row| row.present).collect();
            if mapping.imports() {
                let names: Vec<&[u8]> = group.iter().map(|key| &key.key[..]).collect();
                let had = session.has_had(&mapping, &names).await?;
                there.iter_mut().zip(had).for_each(|(there, had)| *there |= had);
            }
            let there = group.iter().zip(there).filter(|(_, there)| *there);
            with_rows.extend(there.map(|(key, _)| key.key.clone()));
        }
        if !with_rows.is_empty() {
            self.call(Script::Inval, &with_rows, &[]).await?;
        }
        Ok(keys.len() - with_rows.len())
    }

    // --- the outbox ---

    /// Drops the copies of all keys that are in the outbox, but for dirty ones.
    async fn work_off_the_outbox(&mut self) -> Result<(), Trouble> {
        let mut after = i64::MIN;
        let registry = Arc::clone(&self.registry);
        loop {
            // What a row says of a key that Redis alone has is of no use, and must not be heard of later, when the
            // mapping has left `redis_only`: so what it was is found out before the row is read.
            let before: HashSet<usize> = registry.mappings().map(|mapping| mapping.index).collect();
            let session = connected(&mut self.session, &self.settings).await?;
            let rows = session.read_outbox(after, ROWS).await?;
            let Some(last) = rows.last() else { return Ok(()) };
            after = last.id;
            let (mut done, mut ours): (Vec<i64>, Vec<OutboxRow>) = (Vec::new(), Vec::new());
            let mut passes: HashMap<usize, Pass, ahash::RandomState> = HashMap::default();
            for row in rows {
                match registry.find(&row.key) {
                    Some(mapping) if before.contains(&mapping.index) => {
                        // Where the keys are about to be in Redis alone, who sees to that sees to these.
                        if let Some(pass) = mapping.gate.hold_copies() {
                            passes.insert(mapping.index, pass);
                            ours.push(row);
                        }
                    }
                    // It is seen to when the outbox is looked into again.
                    Some(_) => {}
                    // What a trigger tells of a mapping that is no more, or `redis_only` by now, is none of ours.
                    None => done.push(row.id),
                }
            }
            let rows = ours;
            if !rows.is_empty() && self.settings.fleet.is_fenced() {
                return Err(Trouble::Fenced);
            }
            if !rows.is_empty() {
                let keys: Vec<Bytes> =
                    rows.iter().map(|row| Bytes::from(row.key.clone())).collect();
                let dirty = numbers(self.call(Script::Inval, &keys, &[]).await?)?;
                let clean =
                    |(at, row): (usize, &OutboxRow)| (!dirty.contains(&at)).then_some(row.id);
                done.extend(rows.iter().enumerate().filter_map(clean));
            }
            let session = connected(&mut self.session, &self.settings).await?;
            let importing = registry
                .mappings()
                .filter(|mapping| mapping.imports() && before.contains(&mapping.index));
            let importing: Vec<&str> = importing.map(|mapping| mapping.name.as_str()).collect();
            session.delete_from_outbox(&done, &importing).await?;
        }
    }

    async fn call(
        &mut self,
        script: Script,
        keys: &[Bytes],
        arguments: &[Bytes],
    ) -> Result<Frame, UpstreamError> {
        let names = keys.iter().flat_map(|key| [key.clone(), mark_of(key), aside_of(key)]);
        let journal = (script == Script::Sweep).then_some(Bytes::from_static(JOURNAL));
        let keys = journal.into_iter().chain(names).collect();
        let call = Call { script, keys, arguments: arguments.to_vec() };
        let mut replies = self.control.call(&[call]).await?;
        replies.pop().ok_or_else(odd)
    }
}

// === what Redis says ===

/// An array of places.
fn numbers(reply: Frame) -> Result<Vec<usize>, UpstreamError> {
    let Frame::Array(parts) = reply else { return Err(refused_or_odd(reply)) };
    let number = |frame| match frame {
        Frame::Integer(number) => usize::try_from(number).map_err(|_| odd()),
        _ => Err(odd()),
    };
    parts.into_iter().map(number).collect()
}

fn refused_or_odd(reply: Frame) -> UpstreamError {
    match reply {
        Frame::Error(text) => UpstreamError::Refused(text.to_string()),
        _ => odd(),
    }
}

fn odd() -> UpstreamError {
    UpstreamError::Protocol("an odd answer to a step of the keeper".into())
}
