//! Tests against real Kubernetes control planes.

mod manifests;
