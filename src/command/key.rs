//! Commands on keys.
