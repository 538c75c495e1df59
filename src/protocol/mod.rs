//! The Redis serialization protocol: frame boundaries of requests and replies, and replies
//! of our own. Client bytes never reach a recursive decoder.

pub mod inline;
pub mod reply;
pub mod request;
pub mod scan;

pub use reply::{Bulks, Reply, Version};
