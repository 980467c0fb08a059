//! Talking to any API server; knows nothing of GPUs.

pub mod apply;
pub mod cache;
pub mod client;
pub mod clock;
pub mod counting;
pub mod election;
pub mod error;
pub mod watch;

pub use client::{Access, connect, within};
pub use clock::Clock;
pub use error::{Error, Outcome, chain};
pub use watch::Seen;
