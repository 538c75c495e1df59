//! What a mapped key holds, and how an operation changes it. Pure: no I/O, no clock.

pub mod draft;
pub mod glob;
pub mod number;
pub mod record;

pub use draft::{Delta, Draft};
pub use record::{Fields, Record, ValueKind};
