//! The half that owns guests; no way out of the cluster.

pub mod books;
pub mod capacity;
pub mod container;
pub mod gang;
pub mod guest;
pub mod node;
pub mod outcome;
pub mod owner;
pub mod picture;
pub mod pod;
pub mod report;
pub mod runs;
pub mod selecting;
pub mod workload;
