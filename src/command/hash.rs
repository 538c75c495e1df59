//! Commands on hashs.
