//! Every decision, as pure functions over plain data.
//!
//! Invariant: std only. No async, clock, randomness, logging or serde; time, policy and identity
//! are arguments, and the same input gives the same output in any order.

pub mod asked;
pub mod board;
pub mod explain;
pub mod fit;
pub mod fragmentation;
pub mod guests;
pub mod idle;
pub mod indexes;
pub mod lifecycle;
pub mod model;
pub mod nodes;
#[cfg(test)]
mod notation;
pub mod outlook;
pub mod placement;
pub mod preempt;
pub mod queues;
pub mod reserve;
pub mod round;
pub mod rules;
pub mod survival;
