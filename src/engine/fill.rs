//! What a reader tells Redis at the end of its lease: a copy of the value, that there is none, or nothing.

use bytes::Bytes;

use super::asked::Lease;
use super::copy::ends_at_ms;
use super::transaction::cached_ttl_ms;
use crate::mapping::{MappedKey, Mapping};
use crate::store::WHOLE_BYTES;
use crate::upstream::scripts::{Call, Script, decimal, mark_of};
use crate::value::{Record, ValueKind};

/// Arguments of a fill. Redis takes 1,048,576 in a request.
const FILL_ARGUMENTS: usize = 1 << 20;

/// Gives Redis a copy of what was read, or the news that there is nothing; of a value that is too large for
/// a copy only ends the lease.
pub(super) fn fill(
    key: &MappedKey,
    mapping: &Mapping,
    lease: &Lease,
    record: Option<&Record>,
    now_ms: i64,
    most_elements: usize,
) -> Call {
    let has_rows = mapping.layout.element().is_some();
    let most = if has_rows { most_elements } else { FILL_ARGUMENTS / 2 - 8 };
    let mut arguments = vec![lease.token.text()];
    match record {
        Some(record) if record.others > 0 || record.fields.len() > most => {
            return unlease(key, lease);
        }
        Some(record) if has_rows && bytes_of(record) > WHOLE_BYTES => return unlease(key, lease),
        Some(record) => {
            let left_ms = cached_ttl_ms(mapping, record.expires_at_ms, now_ms);
            arguments.push(Bytes::from_static(mapping.holds().name().as_bytes()));
            let expires = record.expires_at_ms.is_some();
            arguments.push(decimal(ends_at_ms(lease.upstream_now_ms, left_ms, expires)));
            for (field, value) in &record.fields {
                arguments.push(field.clone());
                if mapping.holds() == ValueKind::Hash {
                    arguments.push(value.clone());
                }
            }
        }
        None => {
            arguments.push(Bytes::from_static(b"gone"));
            arguments.push(decimal(mapping.negative_ttl_ms));
        }
    }
    Call { script: Script::Fill, keys: vec![key.key.clone(), mark_of(&key.key)], arguments }
}

fn bytes_of(record: &Record) -> usize {
    record.fields.iter().map(|(field, value)| field.len() + value.len()).sum()
}

/// Ends a lease that may not, or need not, be used.
pub(super) fn unlease(key: &MappedKey, lease: &Lease) -> Call {
    let arguments = vec![lease.token.text()];
    Call { script: Script::Unlease, keys: vec![mark_of(&key.key)], arguments }
}
