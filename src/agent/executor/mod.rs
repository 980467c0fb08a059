//! The half that owns guests; no way out of the cluster.
