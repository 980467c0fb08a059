//! A member as its operator sees it: read, changed on what was read, and what it holds.

use std::collections::BTreeSet;

use kube::api::{ListParams, Patch, PatchParams};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};

use super::{Error, namespace_of};
use crate::api::gpulease::LeasePhase;
use crate::api::{GpuJob, GpuLease, MemberCluster};
use crate::cluster::{Outcome, within};
use crate::engine::indexes::Indexes;

/// The hub writes taints and statuses of members too; whoever loses against it so often gives up.
const ATTEMPTS: usize = 5;
/// Jobs that one request lists.
const PAGE: u32 = 500;

/// Changes the spec of the member `name` by what `wanted` makes of it; false if that is nothing.
///
/// # Errors
/// If there is no such member, it leaves, or the API server refuses.
pub(super) async fn change(
    client: &Client,
    name: &str,
    wanted: impl Fn(&MemberCluster) -> Option<Value>,
) -> Result<bool, Error> {
    let api: Api<MemberCluster> = Api::all(client.clone());
    for _ in 0..ATTEMPTS {
        let member = check(name, within("get member", api.get_opt(name)).await?)?;
        let Some(spec) = wanted(&member) else { return Ok(false) };
        let patch = Patch::Merge(json!({
            "metadata": { "uid": member.uid(), "resourceVersion": member.resource_version() },
            "spec": spec,
        }));
        match within("change member", api.patch(name, &PatchParams::default(), &patch)).await {
            Ok(_) => return Ok(true),
            Err(error) if matches!(error.outcome(), Outcome::Conflict | Outcome::Gone) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(Error::Refused(format!("{name} is being changed by somebody else all the time: try again")))
}

/// The member, if it can be changed.
pub(super) fn check(name: &str, member: Option<MemberCluster>) -> Result<MemberCluster, Error> {
    let Some(member) = member else {
        return Err(Error::Refused(format!(
            "there is no member {name}; kubectl get memberclusters lists them"
        )));
    };
    if member.metadata.deletion_timestamp.is_some() {
        return Err(Error::Refused(format!(
            "{name} is leaving, which ends all that runs there; kubectl idlewild leave {name} waits \
             for it"
        )));
    }
    Ok(member)
}

/// What a member holds of this hub.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Held {
    /// UIDs of jobs with a lease that has not ended.
    pub(super) jobs: BTreeSet<String>,
    /// Those leases.
    pub(super) leases: usize,
    /// Their GPUs.
    pub(super) gpus: u64,
}

impl Held {
    /// Counts the leases that have not ended.
    pub(super) fn of<'a>(leases: impl IntoIterator<Item = &'a GpuLease>) -> Self {
        let mut held = Self::default();
        for lease in leases.into_iter().filter(|lease| holds(lease)) {
            held.jobs.insert(lease.spec.job.uid.clone());
            held.leases += 1;
            held.gpus += gpus(lease);
        }
        held
    }

    /// What `name` holds now.
    ///
    /// # Errors
    /// If the API server refuses or does not answer.
    pub(super) async fn by(client: &Client, name: &str) -> Result<Self, Error> {
        let api: Api<GpuLease> = Api::namespaced(client.clone(), &namespace_of(name));
        let leases = within("list leases", api.list(&ListParams::default())).await?;
        Ok(Self::of(&leases))
    }

    /// In words: `2 jobs with 3 leases and 24 GPUs`.
    pub(super) fn words(&self) -> String {
        let one_of = |count: u64, what: &str| match count {
            1 => format!("1 {what}"),
            count => format!("{count} {what}s"),
        };
        let count = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
        let (jobs, leases) = (count(self.jobs.len()), count(self.leases));
        let (jobs, leases) = (one_of(jobs, "job"), one_of(leases, "lease"));
        format!("{jobs} with {leases} and {}", one_of(self.gpus, "GPU"))
    }

    /// Whether nothing is held.
    pub(super) fn is_empty(&self) -> bool {
        self.leases == 0
    }
}

/// Whether a lease may have pods, now or soon. One that was withdrawn unanswered never will.
fn holds(lease: &GpuLease) -> bool {
    match lease.status.as_ref().and_then(|status| status.phase) {
        Some(LeasePhase::Released | LeasePhase::Refused) => false,
        None => lease.spec.withdrawn.is_none(),
        Some(_) => true,
    }
}

fn gpus(lease: &GpuLease) -> u64 {
    let spec = &lease.spec;
    let ended = lease.status.iter().flat_map(|status| &status.ended);
    let ended = ended.filter_map(|group| Indexes::parse(&group.indexes));
    let all = Indexes::parse(&spec.indexes).unwrap_or_default();
    let live = ended.fold(all, |left, group| left.minus(&group));
    let positive = |number: i32| u64::try_from(number).unwrap_or(0);
    u64::from(live.len()) * positive(spec.size) * positive(spec.gpu.count)
}

/// Whether a job has an allocation on `name` on record, whatever its leases say.
///
/// # Errors
/// If the API server refuses or does not answer.
pub(super) async fn on_record(client: &Client, name: &str) -> Result<bool, Error> {
    let api: Api<GpuJob> = Api::all(client.clone());
    let mut params = ListParams::default().limit(PAGE);
    loop {
        let page = within("list jobs", api.list(&params)).await?;
        let statuses = page.items.iter().filter_map(|job| job.status.as_ref());
        let mut allocations = statuses.flat_map(|status| &status.allocations);
        if allocations.any(|allocation| allocation.cluster == name) {
            return Ok(true);
        }
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params = ListParams::default().limit(PAGE).continue_token(&token),
            None => return Ok(false),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(job: &str, indexes: &str, size: i32, status: Value, withdrawn: bool) -> GpuLease {
        let withdrawn = withdrawn.then(|| json!({ "reason": "MemberDrained", "graceSeconds": 1 }));
        serde_json::from_value(json!({
            "apiVersion": "idlewild.dev/v1alpha1", "kind": "GpuLease", "metadata": {"name": "one"},
            "spec": {"hubId": "hub", "job": {"namespace": "a", "name": "a", "uid": job, "generation": 1},
                "pool": "p", "epoch": {"incarnation": 1, "attempt": 0}, "indexes": indexes,
                "size": size, "gpu": {"count": 4, "model": "A100"}, "graceSeconds": 30,
                "activeDeadlineSeconds": 60, "digest": "d", "template": {}, "withdrawn": withdrawn},
            "status": status,
        }))
        .unwrap()
    }

    #[test]
    fn only_what_may_have_pods_is_held() {
        let running = json!({ "phase": "Running" });
        let half =
            json!({ "phase": "Running", "ended": [{ "reason": "Succeeded", "indexes": "0" }] });
        for (leases, words) in [
            (vec![], "0 jobs with 0 leases and 0 GPUs"),
            (vec![lease("a", "0", 1, running.clone(), true)], "1 job with 1 lease and 4 GPUs"),
            (vec![lease("a", "0-1", 2, half, false)], "1 job with 1 lease and 8 GPUs"),
            (vec![lease("a", "0", 1, json!({}), false)], "1 job with 1 lease and 4 GPUs"),
            (vec![lease("a", "0", 1, json!({}), true)], "0 jobs with 0 leases and 0 GPUs"),
            (
                vec![
                    lease("a", "0", 1, running.clone(), false),
                    lease("a", "1", 1, running.clone(), false),
                    lease("b", "0", 1, running, false),
                    lease("c", "0", 1, json!({ "phase": "Released" }), true),
                    lease("c", "1", 1, json!({ "phase": "Refused" }), false),
                ],
                "2 jobs with 3 leases and 12 GPUs",
            ),
        ] {
            let held = Held::of(&leases);
            assert_eq!(held.words(), words);
            assert_eq!(held.is_empty(), words.starts_with('0'));
        }
    }

    #[test]
    fn a_member_that_is_unknown_or_leaves_cannot_be_changed() {
        let error = check("north", None).unwrap_err().to_string();
        assert!(error.contains("kubectl get memberclusters"), "{error}");
        let mut member: MemberCluster = serde_json::from_value(json!({
            "apiVersion": "idlewild.dev/v1alpha1", "kind": "MemberCluster",
            "metadata": { "name": "north", "deletionTimestamp": "2026-01-01T00:00:00Z" }, "spec": {},
        }))
        .unwrap();
        let error = check("north", Some(member.clone())).unwrap_err().to_string();
        assert!(error.contains("is leaving"), "{error}");
        member.metadata.deletion_timestamp = None;
        assert!(check("north", Some(member)).is_ok());
    }
}
