//! Registry.
#[derive(Debug)]
pub struct Registry;
