//! Members: joined, ready, silent, leaving: `decide` is pure, the `Hand` below writes.

use std::time::Instant;

use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use kube::{Api, ResourceExt};
use serde_json::json;
use tracing::info;

use super::facts::Answer;
use super::jobs::claim;
use super::joins::{ACCEPTED, answer, has_enrolled, is_pending};
use super::revoke;
use super::state::{State, member_in, namespace_of};
use super::work::{Hand, delay};
use crate::api::conditions::{self, Claim};
use crate::api::gpulease::LeasePhase;
use crate::api::member::{JoinRequestStatus, MemberClusterStatus, MemberTaint, TaintEffect};
use crate::api::{
    GpuLease, JOIN_REQUEST, JoinRequest, MEMBER_FINALIZER, MemberCluster, TAINT_NOT_READY,
    TAINT_UNREACHABLE, reasons,
};
use crate::cluster::{Error, Outcome, apply, within};
use crate::planted::{Defect, planted};

/// A member was invited.
const INVITED: &str = "Invited";
/// It was heard once.
pub(super) const JOINED: &str = "Joined";

/// Writes for one member, in order.
#[derive(Debug)]
pub(super) struct MemberWork {
    member: MemberCluster,
    clean_invitation: bool,
    taints: Option<Vec<MemberTaint>>,
    status: Option<MemberClusterStatus>,
    answer: Option<(JoinRequest, JoinRequestStatus)>,
    release: bool,
}

/// What is to be written of members that changed, or whose time has come.
pub(super) fn decide(state: &mut State, now: Instant, wall: Timestamp) -> Vec<MemberWork> {
    let mut looked = std::mem::take(&mut state.dirty_members);
    looked.extend(due(state, now));
    let leaving =
        state.members.iter().map(|(_, member)| member).filter(|member| is_leaving(member));
    looked.extend(leaving.map(ResourceExt::name_any));
    let mut all = Vec::new();
    for name in looked {
        state.due_members.remove(&name);
        if state.busy_members.contains(&name) {
            continue;
        }
        let Some(member) = state.members.get(&(String::new(), name.clone())).cloned() else {
            state.silence.remove(&name);
            continue;
        };
        if let Some(work) = one(state, member, now, wall) {
            state.busy_members.insert(name);
            all.push(work);
        }
    }
    all
}

fn is_leaving(member: &MemberCluster) -> bool {
    member.metadata.deletion_timestamp.is_some()
}

/// Members for which time alone may have changed something.
fn due(state: &State, now: Instant) -> Vec<String> {
    let failed = state.due_members.iter().filter(|(_, at)| **at <= now).map(|(name, _)| name);
    // Whose last write failed waits for its turn, or two hubs would go in circles.
    let waits = |name: &String| state.due_members.get(name).is_some_and(|at| *at > now);
    let silences = state.silence.iter().filter(|(name, _)| !waits(name));
    let heard = silences.filter(|(name, silence)| {
        let status = state
            .members
            .get(&(String::new(), (*name).clone()))
            .and_then(|member| member.status.clone())
            .unwrap_or_default();
        let said = !conditions::is_true(&status.conditions, reasons::READY);
        // Also of one that is silent no more: its time may have been left out while others were heard.
        status.silent_seconds != silence.persisted(now) || (silence.is_silent(now) && !said)
    });
    let ready = |name: &String| {
        let member = state.members.get(&(String::new(), name.clone()));
        let status = member.and_then(|member| member.status.as_ref());
        status.is_some_and(|status| conditions::is_true(&status.conditions, reasons::READY))
    };
    let turned = state.unobserved.turns().filter(|(_, at)| *at <= now);
    let deaf = turned.filter_map(|(namespace, _)| member_in(namespace)).filter(ready);
    failed.chain(heard.map(|(name, _)| name)).cloned().chain(deaf).collect()
}

fn one(
    state: &mut State,
    member: MemberCluster,
    now: Instant,
    wall: Timestamp,
) -> Option<MemberWork> {
    let old = member.status.clone().unwrap_or_default();
    let new = status(state, &member, now, wall);
    let joined = |status: &MemberClusterStatus| conditions::is_true(&status.conditions, JOINED);
    let ready =
        |status: &MemberClusterStatus| conditions::is_true(&status.conditions, reasons::READY);
    if ready(&old) != ready(&new) {
        info!(member = member.name_any(), ready = ready(&new), "member changed");
        state.everything_if(true);
    }
    let used = has_enrolled(state, &member);
    let came = (joined(&new) && !joined(&old)) || (ready(&new) && !ready(&old));
    let work = MemberWork {
        // While a request is open, only whoever it enrolled may end the invitation: a beat with an older
        // token, stolen perhaps, must not.
        clean_invitation: used || (came && !is_pending(state, &member)),
        answer: answer(state, &member, used, wall),
        release: may_go(state, &member, now),
        taints: taints(state, &member, &new, now),
        status: (new != old).then_some(new),
        member,
    };
    let changes = work.status.is_some() || work.taints.is_some();
    (changes || work.answer.is_some() || work.release).then_some(work)
}

/// The member's taints with those that the hub sets, as node controllers do; `None` if they stand.
///
/// They show why nothing new is placed there; no toleration makes a silent member take work.
fn taints(
    state: &State,
    member: &MemberCluster,
    status: &MemberClusterStatus,
    now: Instant,
) -> Option<Vec<MemberTaint>> {
    let joined = member.spec.accepted && conditions::is_true(&status.conditions, JOINED);
    let unreachable = joined && state.is_silent(&member.name_any(), now);
    let ours = [(TAINT_NOT_READY, !joined), (TAINT_UNREACHABLE, unreachable)];
    let keeps = |taint: &&MemberTaint| ours.iter().all(|(key, _)| taint.key != *key);
    let mut wanted: Vec<_> = member.spec.taints.iter().filter(keeps).cloned().collect();
    let set = ours.iter().filter(|(_, set)| *set).map(|(key, _)| MemberTaint {
        key: (*key).into(),
        value: String::new(),
        effect: TaintEffect::NoSchedule,
    });
    wanted.extend(set);
    (!is_leaving(member) && wanted != member.spec.taints).then_some(wanted)
}

/// Whether a leaving member's last trace may be removed: nothing of it is on any job's record, and
/// what it held is released, or it is silent.
fn may_go(state: &State, member: &MemberCluster, now: Instant) -> bool {
    let name = member.name_any();
    if !is_leaving(member) || !member.finalizers().iter().any(|held| held == MEMBER_FINALIZER) {
        return false;
    }
    let on_record = state.jobs.iter().any(|(_, job)| {
        let allocations = job.status.iter().flat_map(|status| &status.allocations);
        allocations.into_iter().any(|allocation| allocation.cluster == name)
    });
    let namespace = namespace_of(&name);
    let silent = state.is_silent(&name, now);
    let over = |lease: &GpuLease| {
        let phase = lease.status.as_ref().and_then(|status| status.phase);
        matches!(phase, Some(LeasePhase::Released | LeasePhase::Refused))
    };
    let leases = state.leases.iter().filter(|(key, _)| key.0 == namespace);
    !on_record && (silent || leases.into_iter().all(|(_, lease)| over(lease)))
}

fn status(
    state: &State,
    member: &MemberCluster,
    now: Instant,
    wall: Timestamp,
) -> MemberClusterStatus {
    let name = member.name_any();
    let namespace = namespace_of(&name);
    let silence = state.silence.get(&name);
    let mut status = member.status.clone().unwrap_or_default();
    let pools: Vec<_> = state.pools.iter().filter(|(key, _)| key.0 == namespace).collect();
    let offered =
        |pool: &crate::api::GpuPool| pool.status.as_ref().map_or(0, |status| status.gpus.offered);
    status.observed_generation = member.metadata.generation;
    status.pools = i64::try_from(pools.len()).unwrap_or(i64::MAX);
    let offers = pools.iter().map(|(_, pool)| offered(pool));
    status.gpus = offers.fold(0, i64::saturating_add);
    status.silent_seconds = silence.and_then(|silence| silence.persisted(now));
    let join = state.joins.get(&(namespace.clone(), JOIN_REQUEST.to_owned()));
    let version = pools
        .iter()
        .find_map(|(_, pool)| pool.status.as_ref().map(|status| status.agent_version.clone()));
    status.agent_version =
        version.or_else(|| join.map(|join| join.spec.agent_version.clone())).unwrap_or_default();
    status.namespace = namespace;
    if planted(Defect::WritesAlways) {
        status.agent_version = wall.to_string();
    }
    let heard = silence.is_some_and(super::heartbeats::Silence::was_heard);
    let joined = heard || conditions::is_true(&status.conditions, JOINED);
    let asked = join.map(|join| join.spec.fingerprint.as_str());
    let beats = silence.is_some_and(|silence| !silence.is_silent(now));
    let quiet = match (beats, state.is_silent(&name, now)) {
        (_, false) => None,
        (false, true) => Some("no heartbeat"),
        (true, true) => Some("it sends heartbeats, but took no notice of a lease"),
    };
    for claim in claims(member, joined, asked, quiet) {
        conditions::set(&mut status.conditions, claim, member.metadata.generation, wall);
    }
    status
}

fn claims(
    member: &MemberCluster,
    joined: bool,
    asked: Option<&str>,
    quiet: Option<&str>,
) -> Vec<Claim<'static>> {
    let name = member.name_any();
    let accepted = member.spec.accepted;
    let waits = match asked {
        Some(fingerprint) => format!(
            "it asks to join with fingerprint {fingerprint}; compare it with the owner's and run \
             kubectl idlewild accept {name}"
        ),
        None => "no request to join yet; the owner applies the invitation".to_owned(),
    };
    let ready = match (accepted, joined, quiet) {
        _ if is_leaving(member) => claim(reasons::READY, false, "Leaving", "it is leaving"),
        (false, ..) => {
            claim(reasons::READY, false, "NotAccepted", "an operator has not accepted it")
        }
        (_, false, _) => claim(reasons::READY, false, "NotJoined", "no heartbeat yet"),
        (_, _, Some(what)) => {
            let limit = crate::api::SILENT_AFTER_SECONDS;
            claim(
                reasons::READY,
                false,
                reasons::MEMBER_SILENT,
                format!("{what} for more than {limit} s; nothing new is placed there"),
            )
        }
        (true, true, None) => claim(reasons::READY, true, "", ""),
    };
    let accepted = match accepted {
        true => claim(ACCEPTED, true, "", ""),
        false => claim(ACCEPTED, false, "WaitingForAcceptance", waits),
    };
    let joined = claim(JOINED, joined, "NoHeartbeat", if joined { "" } else { "never heard" });
    vec![claim(INVITED, true, "", ""), accepted, joined, ready]
}

impl Hand {
    /// Carries out writes for a member.
    pub(super) async fn member(&self, work: MemberWork) {
        let name = work.member.name_any();
        let again = match self.write_member(work).await {
            Ok(()) => None,
            Err(error) => Some(delay(&error, "write member")),
        };
        self.tell(Answer::MemberDone(name, again)).await;
    }

    async fn write_member(&self, work: MemberWork) -> Result<(), Error> {
        let namespace = namespace_of(&work.member.name_any());
        if work.clean_invitation {
            revoke::joined(&self.client, &namespace).await?;
        }
        let api: Api<MemberCluster> = Api::all(self.client.clone());
        let mut member = work.member;
        if let Some(taints) = &work.taints {
            member = self.taint(&api, &member, taints).await?;
        }
        if let Some(status) = &work.status {
            let old = member.status.clone();
            let written = apply::status(&api, &member, old.as_ref(), status, "write member status");
            if let Some(fresh) = written.await? {
                self.tell(Answer::Member(Box::new(fresh.clone()))).await;
                member = fresh;
            }
        }
        if let Some((request, status)) = work.answer {
            let api: Api<JoinRequest> = Api::namespaced(self.client.clone(), &namespace);
            let old = request.status.as_ref();
            apply::status(&api, &request, old, &status, "write join request status").await?;
        }
        if work.release {
            self.let_go(&api, &member, &namespace).await?;
        }
        Ok(())
    }

    /// Sets the taints of a member that nobody changed meanwhile.
    async fn taint(
        &self,
        api: &Api<MemberCluster>,
        member: &MemberCluster,
        taints: &[MemberTaint],
    ) -> Result<MemberCluster, Error> {
        let patch = json!({
            "metadata": { "uid": member.uid(), "resourceVersion": member.resource_version() },
            "spec": { "taints": taints },
        });
        let (name, params) = (member.name_any(), PatchParams::default());
        let fresh =
            within("taint member", api.patch(&name, &params, &Patch::Merge(&patch))).await?;
        self.tell(Answer::Member(Box::new(fresh.clone()))).await;
        Ok(fresh)
    }

    /// Takes the rights away first, then what is left, then lets the object go.
    async fn let_go(
        &self,
        api: &Api<MemberCluster>,
        member: &MemberCluster,
        namespace: &str,
    ) -> Result<(), Error> {
        revoke::revoke(&self.client, namespace).await?;
        let leases: Api<GpuLease> = Api::namespaced(self.client.clone(), namespace);
        let (params, list) = (DeleteParams::default(), ListParams::default());
        within("remove leases", leases.delete_collection(&params, &list)).await.map(drop)?;
        let finalizers: Vec<_> =
            member.finalizers().iter().filter(|held| *held != MEMBER_FINALIZER).collect();
        let patch = json!({ "metadata": {
            "uid": member.uid(),
            "resourceVersion": member.resource_version(),
            "finalizers": finalizers,
        } });
        let name = member.name_any();
        let params = PatchParams::default();
        match within("let member go", api.patch(&name, &params, &Patch::Merge(&patch))).await {
            Err(error) if error.outcome() != Outcome::Gone => Err(error),
            _ => {
                info!(member = name, "member left");
                Ok(())
            }
        }
    }
}
