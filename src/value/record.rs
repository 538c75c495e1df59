//! The value of a mapped hash key: its fields, and when the key expires.

use bytes::Bytes;
use indexmap::IndexMap;

/// Field to value, in the order in which the fields were first set.
pub type Fields = IndexMap<Bytes, Bytes, ahash::RandomState>;

/// What a mapped hash key holds. A record has at least one field: a hash without
/// fields is an absent key, as in Redis.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    pub fields: Fields,
    /// The key's own expiry, milliseconds since the Unix epoch; `None` for a key that stays.
    pub expires_at_ms: Option<i64>,
}
