//! Table shapes.
#[derive(Debug)]
pub struct TableShape;
