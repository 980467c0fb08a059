//! Talking to any API server; knows nothing of GPUs.

pub mod client;
pub mod error;

pub use client::{Access, connect, within};
pub use error::{Error, Outcome, chain};
