//! Keys of mappings that import and that only Redis has yet: of these Redis is the one to list them.
//!
//! Redis is asked before the tables are. So a key that is imported in between is met in its table; and one that
//! was listed already may be met there again, which SCAN may do, and KEYS looks after.

use std::collections::HashSet;

use bytes::Bytes;

use super::Surveyor;
use crate::command::Needs;
use crate::mapping::MappedKey;
use crate::protocol::Reply;
use crate::store::{RowLock, StoreError, Want};

// === impl Surveyor ===

impl Surveyor {
    /// Of keys that Redis has, those that it is to list.
    pub(super) async fn of_redis(&mut self, mut keys: Vec<Bytes>) -> Result<Vec<Bytes>, Reply> {
        let importing = keys.iter().filter_map(|key| self.registry.mapped_key(key));
        let mut to_ask: Vec<MappedKey> = importing.filter(|key| key.mapping.imports()).collect();
        to_ask.sort_by(|one, other| {
            one.mapping.index.cmp(&other.mapping.index).then_with(|| one.key.cmp(&other.key))
        });
        to_ask.dedup_by(|one, other| one.key == other.key);
        let mut of_redis: HashSet<Bytes, ahash::RandomState> = HashSet::default();
        for group in to_ask.chunk_by(|one, other| one.mapping.index == other.mapping.index) {
            let mut tries = 0;
            let originals = loop {
                match self.without_rows(group).await {
                    Ok(originals) => break originals,
                    Err(error) => self.settle(error, &group[0].mapping, &mut tries).await?,
                }
            };
            of_redis.extend(originals);
        }
        keys.retain(|key| !self.is_ours(key) || of_redis.contains(key));
        Ok(keys)
    }

    /// Those of which Postgres has, and had, no row.
    async fn without_rows(&mut self, group: &[MappedKey]) -> Result<Vec<Bytes>, StoreError> {
        let needs = Needs { existence: true, ..Needs::default() };
        let wants: Vec<Want<'_>> =
            group.iter().map(|key| Want { key, needs: &needs, whole_up_to: 0 }).collect();
        let (session, mapping) = self.table(&group[0].mapping).await?;
        let read = session.read_parts(&mapping, &wants, RowLock::None).await?;
        let names: Vec<&[u8]> = group.iter().map(|key| &key.key[..]).collect();
        let had = session.has_had(&mapping, &names).await?;
        let found = group.iter().zip(read.rows.iter().zip(had));
        let originals = found.filter(|(_, (row, had))| !row.present && !had);
        Ok(originals.map(|(key, _)| key.key.clone()).collect())
    }
}
