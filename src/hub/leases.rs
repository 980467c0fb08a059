//! Leases, built from the allocations that are their authority.

use kube::ResourceExt;
use kube::api::ObjectMeta;

use super::state::namespace_of;
use crate::api::digest::digest;
use crate::api::gpulease::{GpuLease, GpuLeaseSpec, JobReference, LeasedGpu};
use crate::api::{GpuJob, LABEL_JOB_UID, LABEL_LEASE, template};
use crate::engine::lifecycle::Allocation;
use crate::engine::model::Epoch;

/// Name of the lease of an attempt.
#[must_use]
pub(super) fn name(job_uid: &str, epoch: Epoch) -> String {
    format!("{job_uid}-{}-{}", epoch.incarnation, epoch.attempt)
}

/// The lease of `allocation`: a function of it and of what cannot change of the job, so that
/// whoever completes it makes the same.
#[must_use]
pub(super) fn build(job: &GpuJob, allocation: &Allocation, hub_id: &str) -> GpuLease {
    let uid = job.uid().unwrap_or_default();
    let name = name(&uid, allocation.epoch);
    let signed = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    let mut spec = GpuLeaseSpec {
        hub_id: hub_id.to_owned(),
        job: JobReference {
            namespace: job.namespace().unwrap_or_default(),
            name: job.name_any(),
            uid: uid.clone(),
            generation: allocation.generation,
        },
        pool: allocation.pool.pool.clone(),
        epoch: allocation.epoch.into(),
        indexes: allocation.indexes.to_string(),
        size: job.spec.size,
        gpu: LeasedGpu { count: job.spec.gpu.count, model: allocation.model.clone() },
        grace_seconds: template::grace_seconds(&job.spec.template),
        active_deadline_seconds: signed(allocation.deadline_seconds),
        residency: job.spec.data.as_ref().map(|data| data.residency.clone()),
        digest: String::new(),
        template: job.spec.template.clone(),
        withdrawn: None,
    };
    spec.digest = digest(&spec);
    let labels = [(LABEL_JOB_UID, uid), (LABEL_LEASE, name.clone())];
    let metadata = ObjectMeta {
        name: Some(name),
        namespace: Some(namespace_of(&allocation.pool.member)),
        labels: Some(labels.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()),
        ..ObjectMeta::default()
    };
    GpuLease { metadata, spec, status: None }
}
