//! Layout.
#[derive(Debug)]
pub struct Layout;
