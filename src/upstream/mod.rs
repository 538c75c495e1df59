//! The Redis behind us: shared and private connections for clients' requests, a control
//! connection for our own scripts. Knows nothing of Postgres.

pub mod control;
pub mod journal;
pub mod lane;
pub mod link;
pub mod proxies;
pub mod run;
pub mod scripts;
pub mod silence;

pub use control::Control;
pub use lane::{Lane, Receiver};
pub use link::UpstreamError;
pub use run::RunId;
