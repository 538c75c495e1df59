//! Key patterns.
#[derive(Debug)]
pub struct KeyPattern;
