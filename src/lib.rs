//! Idlewild federates idle GPU clusters.

pub mod api;
pub mod cluster;
