//! Leases, built from the allocations that are their authority.

use std::collections::BTreeMap;

use kube::ResourceExt;
use kube::api::ObjectMeta;

use super::state::{State, namespace_of};
use super::work::{LeaseWork, Work};
use crate::api::convert::{self, taints};
use crate::api::digest::digest;
use crate::api::gpujob::DuplicatePolicy;
use crate::api::gpulease::{
    Adoption, GpuLease, GpuLeaseSpec, JobReference, LeasedCheckpoint, LeasedGpu, Resume, Withdrawal,
};
use crate::api::{GpuJob, LABEL_JOB_UID, LABEL_LEASE, quantity};
use crate::engine::lifecycle::{
    Allocation, Checkpoint, NOT_ACCEPTED, PREEMPTED, Record, SUPERSEDED, Step,
};
use crate::engine::model::{Epoch, JobId};
use crate::planted::{Defect, planted};

/// Name of the lease of an attempt.
#[must_use]
pub(super) fn name(job_uid: &str, epoch: Epoch) -> String {
    if planted(Defect::RandomNames) {
        let any = crate::planted::any();
        return format!("{job_uid}-{}-{}-{any}", epoch.incarnation, epoch.attempt);
    }
    format!("{job_uid}-{}-{}", epoch.incarnation, epoch.attempt)
}

/// The lease of `allocation`: a function of it and of what cannot change of the job, so that
/// whoever completes it makes the same. The saves of a replica stand still while one attempt holds it.
#[must_use]
pub(super) fn build(
    job: &GpuJob,
    allocation: &Allocation,
    checkpoints: &BTreeMap<u32, Checkpoint>,
    hub_id: &str,
) -> GpuLease {
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
        gpu: leased_gpu(job, &allocation.model),
        grace_seconds: convert::grace_seconds(job, &job.spec.template.value()),
        active_deadline_seconds: signed(allocation.deadline_seconds),
        residency: job.spec.data.as_ref().map(|data| data.residency.clone()),
        checkpoint: checkpoint(job, allocation, checkpoints),
        stop_after_seconds: allocation.stop_after.map(signed),
        expires_after_seconds: allocation.expires_after.map(signed),
        duplicate_policy: allocation.never_twice.then_some(DuplicatePolicy::Never),
        digest: String::new(),
        template: job.spec.template.clone(),
        withdrawn: None,
        adopted: None,
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

/// A lease that tells the member of `orphan` to end it: made only to be withdrawn.
pub(super) fn rejection(job: &GpuJob, orphan: &Allocation, hub_id: &str) -> GpuLease {
    let mut lease = build(job, orphan, &BTreeMap::new(), hub_id);
    lease.spec.adopted = Some(Adoption::default());
    let grace_seconds = lease.spec.grace_seconds;
    lease.spec.withdrawn = Some(Withdrawal { reason: SUPERSEDED.to_owned(), grace_seconds });
    lease
}

/// Where the program saves, and what it goes on from.
fn checkpoint(
    job: &GpuJob,
    allocation: &Allocation,
    checkpoints: &BTreeMap<u32, Checkpoint>,
) -> Option<LeasedCheckpoint> {
    let asked = job.spec.checkpoint.as_ref()?;
    let resume = allocation.indexes.iter().filter_map(|index| {
        let reference = checkpoints.get(&index)?.reference.clone();
        Some(Resume { index: i64::from(index), reference })
    });
    Some(LeasedCheckpoint {
        uri: asked.uri.clone(),
        interval_seconds: asked.interval_seconds,
        indexed: job.spec.completions > 1,
        resume: resume.collect(),
        earlier_epochs: allocation.earlier.iter().copied().map(Into::into).collect(),
    })
}

/// GPUs of each pod on `model`: the least memory that any choice of that model asks for.
fn leased_gpu(job: &GpuJob, model: &str) -> LeasedGpu {
    let choices = job.spec.gpu.any_of.iter().filter(|choice| choice.model == model);
    let least = choices.map(|choice| {
        let bytes = choice.min_memory.as_ref().and_then(|text| quantity::bytes(text).ok());
        (bytes.unwrap_or(0), choice.min_memory.clone())
    });
    LeasedGpu {
        count: job.spec.gpu.count,
        model: model.to_owned(),
        min_memory: least.min().and_then(|(_, text)| text),
    }
}

/// The withdrawal that a step asks for; `None` if its lease is not seen.
pub(super) fn withdrawal(state: &State, id: &JobId, step: &Step) -> Option<LeaseWork> {
    let (epoch, reason, unanswered_only) = match step {
        Step::Withdraw(epoch, reason) => (epoch, *reason, false),
        Step::WithdrawUnanswered(epoch) => (epoch, NOT_ACCEPTED, true),
        Step::Create(_) | Step::Adopt(_) | Step::Reject(_) | Step::Remove(_) | Step::Refresh => {
            return None;
        }
    };
    let lease = state.leases.get(state.leases_of.get(id)?.get(epoch)?)?.clone();
    Some(LeaseWork::Withdraw { lease: Box::new(lease), reason, unanswered_only })
}

/// The word to its member that an expired lease is current.
pub(super) fn adoption(state: &State, id: &JobId, epoch: Epoch) -> Option<LeaseWork> {
    let lease = state.leases.get(state.leases_of.get(id)?.get(&epoch)?)?;
    let expired_at = lease.status.as_ref()?.expired_at.clone();
    Some(LeaseWork::Adopt(Box::new(lease.clone()), Adoption { expired_at }))
}

/// Looks up the job that leases of it name; `None` if there are none.
pub(super) fn look_up_job(state: &mut State, id: &JobId) -> Option<Work> {
    let key = state.leases_of.get(id)?.values().next()?;
    let job = &state.leases.get(key)?.spec.job;
    let key = (job.namespace.clone(), job.name.clone());
    state.absent.insert(id.clone(), false);
    Some(Work::LookUpJob(key, id.clone()))
}

/// The removal of a lease, unless it is under way.
pub(super) fn removal(state: &State, id: &JobId, epoch: Epoch) -> Option<Work> {
    let key = state.leases_of.get(id)?.get(&epoch)?;
    (!state.removing.contains(key)).then(|| Work::Remove(key.clone()))
}

/// Leases of the job that go so that a more important one can start.
pub(super) fn preempted(state: &State, id: &JobId, record: &Record) -> Vec<LeaseWork> {
    let noted = state.notes.get(id).into_iter().flat_map(|notes| &notes.preempted);
    let live = noted.filter(|epoch| record.allocations.iter().any(|held| held.epoch == **epoch));
    let asked = live.filter_map(|epoch| withdrawal(state, id, &Step::Withdraw(*epoch, PREEMPTED)));
    asked.filter(is_fresh).collect()
}

/// Whether nobody withdrew that lease yet.
fn is_fresh(work: &LeaseWork) -> bool {
    match work {
        LeaseWork::Withdraw { lease, .. } => lease.spec.withdrawn.is_none(),
        _ => false,
    }
}

/// Leases that go because of their member: it leaves in order, is drained, or has a taint that the
/// job does not tolerate.
pub(super) fn expelled(state: &State, job: &GpuJob, id: &JobId, record: &Record) -> Vec<LeaseWork> {
    let tolerations = taints::tolerations(job);
    let reason = |allocation: &Allocation| {
        let member = state.members.get(&(String::new(), allocation.pool.member.clone()))?;
        taints::expelled(member, &tolerations)
    };
    let asked = record.allocations.iter().filter_map(|allocation| {
        withdrawal(state, id, &Step::Withdraw(allocation.epoch, reason(allocation)?))
    });
    asked.filter(is_fresh).collect()
}
