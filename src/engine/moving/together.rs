//! The import of many keys of one mapping in one transaction; see `import` for what an import is.
//!
//! Keys that are not as usual (somebody is at them, too large, refused by a column) are left out, to be imported
//! one by one. What the table refuses fails all of them: then they are too.

use std::sync::Arc;
use std::time::Instant;

use super::super::import::{Importer, Told, adopt, answers, begin, draft_of, original, told};
use super::super::through::connected;
use super::super::transaction::{Copies, Failure};
use crate::mapping::{MappedKey, Mapping};
use crate::store::{Change, StoreError};
use crate::upstream::UpstreamError;
use crate::upstream::control::Frame;
use crate::value::Draft;

/// The bytes of a value that is taken together with others.
const MOST_BYTES: usize = 128 << 10;

/// Keys of one step in Redis, which holds everybody up for so long: about a tenth of a millisecond.
const STEP_KEYS: usize = 10;

/// What has become of keys.
#[derive(Debug, Default)]
pub(super) struct Together {
    pub(super) imported: usize,
    /// There is nothing to import: Redis has a copy at most.
    pub(super) no_originals: usize,
    /// Their places.
    pub(super) left_out: Vec<usize>,
}

impl Importer<'_> {
    /// Imports keys that have no row, as it seems; each comes once. After an error nothing was written, or (`InDoubt`)
    /// all may have been.
    pub(super) async fn import_together(
        &mut self,
        mapping: &Arc<Mapping>,
        keys: &[&MappedKey],
    ) -> Result<Together, Failure> {
        Copies::known(self.trust, self.control).await?;
        let session = connected(self.session, self.settings).await.map_err(Failure::Store)?;
        session.hurry(None);
        let asked_at = Instant::now();
        let begun = match begin(session, keys, mapping).await {
            Ok(begun) => begun,
            Err(error) => return Err(self.give_up(Failure::Store(error)).await),
        };
        let mut done =
            Together { no_originals: keys.len() - begun.originals.len(), ..Together::default() };
        let answers = match self.ask_together(mapping, keys, &begun.originals).await {
            Ok(answers) => answers,
            Err(error) => return Err(self.give_up(Failure::Upstream(error)).await),
        };
        let now_ms = begun.now_ms_after(asked_at.elapsed());
        let (mut drafts, mut adopted): (Vec<(&MappedKey, Draft)>, _) = (Vec::new(), Vec::new());
        for (&at, answer) in begun.originals.iter().zip(answers) {
            let (mut record, left_ms) = match told(answer, mapping) {
                Ok(Told::Value { record, left_ms }) => (record, left_ms),
                Ok(Told::Nothing) => {
                    done.no_originals += 1;
                    continue;
                }
                Ok(Told::Busy | Told::OtherType | Told::Large | Told::Many { .. }) => {
                    done.left_out.push(at);
                    continue;
                }
                Err(error) => return Err(self.give_up(Failure::Upstream(error)).await),
            };
            record.expires_at_ms = left_ms.map(|left_ms| now_ms.saturating_add(left_ms));
            let Ok(draft) = draft_of(mapping, record) else {
                done.left_out.push(at);
                continue;
            };
            drafts.push((keys[at], draft));
            if left_ms.is_none() {
                adopted.push(keys[at]);
            }
        }
        done.imported = drafts.len();
        if drafts.is_empty() {
            self.end().await?;
            return Ok(done);
        }
        let changes: Vec<Change<'_>> =
            drafts.iter().map(|(key, draft)| Change { key, present: false, draft }).collect();
        let session = self.session.as_mut().expect("it has begun the transaction");
        match session.write_and_commit(&[(&**mapping, &changes)]).await {
            Ok(()) => {
                let steps = adopted.chunks(STEP_KEYS).map(|keys| adopt(keys, mapping));
                self.adopt(&steps.collect::<Vec<_>>()).await;
                Ok(done)
            }
            Err(error @ StoreError::InDoubt(_)) => Err(Failure::Store(error)),
            Err(error) => Err(self.give_up(Failure::Store(error)).await),
        }
    }
    /// What Redis has of these, in their order.
    async fn ask_together(
        &mut self,
        mapping: &Mapping,
        keys: &[&MappedKey],
        places: &[usize],
    ) -> Result<Vec<Frame>, UpstreamError> {
        let asked: Vec<&MappedKey> = places.iter().map(|&at| keys[at]).collect();
        let steps = asked.chunks(STEP_KEYS);
        let calls: Vec<_> = steps.clone().map(|keys| original(keys, mapping, MOST_BYTES)).collect();
        let mut all = Vec::with_capacity(asked.len());
        for (step, told) in steps.zip(self.control.call(&calls).await?) {
            all.append(&mut answers(told, step.len())?);
        }
        Ok(all)
    }
}
