//! Jobs that stand at different moments of their lives when a partition begins, and what becomes of
//! them while it lasts.

use std::collections::BTreeMap;

use idlewild::api::gpujob::Phase;
use idlewild::api::gpulease::LeasePhase;
use idlewild::api::{GUEST_NAMESPACE, GpuJob, LABEL_JOB_UID};
use idlewild::sandbox::{Member, OWNER, OWNER_NAMESPACE, Process};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

use super::stage::{POLITE, Stage};
use super::wire::Fault;
use super::{LOST, Link, Partition, SPARE};
use crate::harness::{SOON, eventually, job_in};
use crate::work::{create, job_with, leases};

/// What a job goes through when the partition begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Moment {
    /// It is submitted while nothing passes.
    Waiting,
    /// Its lease is accepted and its guest bound, but nothing runs.
    Accepted,
    /// Its guest runs on.
    Running,
    /// Its guest ends while nobody can be told.
    Ending,
    /// The user deletes it.
    Withdrawn,
    /// The owner takes its GPUs.
    Reclaimed,
    /// Its member stays away for longer than it bears.
    Moved,
}

/// Jobs of one partition.
pub(super) struct Subjects<'a> {
    pub(super) stage: &'a Stage<'a>,
    pub(super) member: &'a str,
    pub(super) partition: Partition,
    pub(super) jobs: BTreeMap<Moment, GpuJob>,
    /// Moments that were met as they are described.
    pub(super) met: Vec<Moment>,
}

/// Placement on `members` and nowhere else.
fn only(members: &[&str]) -> Value {
    json!({ "placement": { "clusterAffinity": { "clusterNames": members } } })
}

impl<'a> Subjects<'a> {
    /// Brings a job of each kind to its moment. What simulates kubelets stands still at the end, so
    /// that no guest starts or ends before the partition.
    pub(super) async fn before(
        stage: &'a Stage<'a>,
        member: &'a str,
        partition: Partition,
    ) -> Subjects<'a> {
        let (jobs, met) = (BTreeMap::new(), Vec::new());
        let mut subjects = Self { stage, member, partition, jobs, met };
        let mut running = vec![(Moment::Running, 1, partition.lasts.and_more(), json!({}))];
        running.push((Moment::Withdrawn, 1, "600s", json!({})));
        if partition.reclaims() {
            running.push((Moment::Reclaimed, 8, "600s", json!({})));
        }
        if partition.moves() {
            let bears = json!({ "failover": { "tolerationSeconds": 45 } });
            running.push((Moment::Moved, 1, "600s", bears));
        }
        for (moment, gpus, run_for, extra) in running {
            subjects.submit(moment, gpus, run_for, extra).await;
        }
        for (moment, job) in &subjects.jobs {
            job_in(&stage.api, &job.name_any(), &[Phase::Running], SOON).await;
            subjects.met.push(*moment);
        }
        if partition.moves() {
            let anywhere = Patch::Merge(json!({ "spec": only(&[member, SPARE]) }));
            let name = subjects.jobs[&Moment::Moved].name_any();
            stage.api.patch(&name, &PatchParams::default(), &anywhere).await.unwrap();
        }
        subjects.submit(Moment::Ending, 1, "6s", json!({})).await;
        subjects.guest(Moment::Ending, &["Running", "Succeeded"]).await;
        subjects.kubelets().pause().unwrap();
        if subjects.guest(Moment::Ending, &["Running", "Succeeded"]).await == "Running" {
            subjects.met.push(Moment::Ending);
        }
        subjects.submit(Moment::Accepted, 1, "1s", json!({})).await;
        subjects.accepted().await;
        subjects
    }

    /// Lets happen what happens while nothing passes, and looks at what must.
    pub(super) async fn meanwhile(&mut self) {
        self.kubelets().resume().unwrap();
        let withdrawn = self.jobs[&Moment::Withdrawn].name_any();
        self.stage.api.delete(&withdrawn, &DeleteParams::default()).await.unwrap();
        self.submit(Moment::Waiting, 1, "1s", json!({})).await;
        self.met.push(Moment::Waiting);
        if self.partition.reclaims() {
            self.owner_comes_first().await;
        }
        self.guest(Moment::Ending, &["Succeeded"]).await;
        if self.partition.link != Link::Controller {
            self.placed().await;
        }
        if self.partition.moves() {
            self.runs_elsewhere().await;
        }
    }

    async fn submit(&mut self, moment: Moment, gpus: i32, run_for: &str, extra: Value) {
        let name = self.partition.name_of(moment);
        let mut job = job_with(&name, gpus, run_for, only(&[self.member]));
        job["spec"].as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        self.jobs.insert(moment, create(&self.stage.api, job).await);
    }

    fn here(&self) -> &Member {
        &self.stage.federation.members[self.member]
    }

    fn kubelets(&self) -> &Process {
        self.here().cluster.kwok.as_ref().expect("a member has one")
    }

    pub(super) fn uid(&self, moment: Moment) -> String {
        self.jobs[&moment].uid().unwrap()
    }

    /// Guests of the job on `member`, past every proxy.
    pub(super) async fn guests_on(&self, member: &str, moment: Moment) -> Vec<Pod> {
        let admin = self.stage.federation.members[member].cluster.admin.clone();
        let pods: Api<Pod> = Api::namespaced(admin, GUEST_NAMESPACE);
        let labels = format!("{LABEL_JOB_UID}={}", self.uid(moment));
        pods.list(&ListParams::default().labels(&labels)).await.unwrap().items
    }

    /// Waits until the job has a guest here in one of `phases`, and returns the phase. A guest that has
    /// succeeded may have been removed since.
    async fn guest(&self, moment: Moment, phases: &[&str]) -> String {
        let what = format!("{}: a guest in {phases:?}", self.partition.name_of(moment));
        eventually(&what, SOON, async || {
            let pods = self.guests_on(self.member, moment).await;
            let phase = |pod: &Pod| pod.status.as_ref().and_then(|status| status.phase.clone());
            let mut seen: Vec<_> = pods.iter().filter_map(phase).collect();
            if self.stage.sightings.count(&self.uid(moment)).1 > 0 {
                seen.push("Succeeded".into());
            }
            let found = seen.iter().find(|phase| phases.contains(&phase.as_str()));
            found.cloned().ok_or_else(|| format!("{seen:?}"))
        })
        .await
    }

    /// Waits until the lease is accepted and the guest bound, though it cannot start.
    async fn accepted(&mut self) {
        let uid = self.uid(Moment::Accepted);
        eventually(&format!("{:?} is accepted and bound", self.partition), SOON, async || {
            let found = leases(self.stage.federation, &uid).await;
            let phase = |lease: &idlewild::api::GpuLease| lease.status.as_ref()?.phase;
            let accepted = [LeasePhase::Accepted, LeasePhase::Starting];
            let phases: Vec<_> = found.iter().filter_map(phase).collect();
            let pods = self.guests_on(self.member, Moment::Accepted).await;
            let bound = pods
                .iter()
                .any(|pod| pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some()));
            let fits = bound && phases.iter().any(|phase| accepted.contains(phase));
            if fits { Ok(()) } else { Err(format!("{phases:?}, bound: {bound}")) }
        })
        .await;
        self.met.push(Moment::Accepted);
    }

    /// The hub, which sees no fault yet, places what waits.
    async fn placed(&self) {
        let (uid, name) = (self.uid(Moment::Waiting), self.partition.name_of(Moment::Waiting));
        eventually(&format!("{name} has a lease"), SOON * 2, async || {
            let job = self.stage.api.get(&name).await.map_err(|error| error.to_string())?;
            let over = job.status.is_some_and(|status| status.phase == Some(Phase::Succeeded));
            let leases = leases(self.stage.federation, &uid).await.len();
            if over || leases > 0 { Ok(()) } else { Err("none".into()) }
        })
        .await;
    }

    fn owners(&self) -> Api<Pod> {
        Api::namespaced(self.here().cluster.admin.clone(), OWNER_NAMESPACE)
    }

    /// The owner wants the node of a guest, for a pod that no scheduler makes room for: the guest goes
    /// while nothing passes.
    async fn owner_comes_first(&self) {
        let guest = self.guests_on(self.member, Moment::Reclaimed).await.remove(0);
        let node = guest.spec.as_ref().and_then(|spec| spec.node_name.clone()).unwrap();
        let name = self.partition.name_of(Moment::Reclaimed);
        let limits = json!({ "nvidia.com/gpu": "8", "cpu": "100m" });
        let pod: Pod = serde_json::from_value(json!({ "metadata": { "name": name }, "spec": {
            "terminationGracePeriodSeconds": 1,
            "priorityClassName": POLITE,
            "nodeSelector": { "kubernetes.io/hostname": node },
            "containers": [{ "name": "main", "image": "registry.example.org/own:1",
                "resources": { "limits": limits } }] } }))
        .unwrap();
        let as_owner = self.here().cluster.client_for(OWNER).await.unwrap();
        let own: Api<Pod> = Api::namespaced(as_owner, OWNER_NAMESPACE);
        own.create(&PostParams::default(), &pod).await.unwrap();
        eventually(&format!("{name}: the owner has the node"), SOON, async || {
            let pod = own.get(&name).await.map_err(|error| error.to_string())?;
            let bound = pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
            bound.map(drop).ok_or_else(|| format!("{:?}", pod.status))
        })
        .await;
    }

    /// The owner needs the node no longer.
    pub(super) async fn owner_leaves(&self) {
        let name = self.partition.name_of(Moment::Reclaimed);
        self.owners().delete(&name, &DeleteParams::default()).await.unwrap();
    }

    /// A job whose member is away for longer than it bears runs elsewhere, beside its old copy.
    async fn runs_elsewhere(&self) {
        let name = self.partition.name_of(Moment::Moved);
        eventually(&format!("{name} runs on {SPARE}"), LOST, async || {
            let job = self.stage.api.get(&name).await.map_err(|error| error.to_string())?;
            let status = job.status.unwrap_or_default();
            let runs = status.phase == Some(Phase::Running) && status.clusters == [SPARE];
            if runs { Ok(()) } else { Err(format!("{:?} {:?}", status.phase, status.clusters)) }
        })
        .await;
        // Who is mute may hear that it is superseded; all others go on.
        if self.partition.fault != Fault::Mute {
            let left = self.guests_on(self.member, Moment::Moved).await.len();
            assert_eq!(left, 1, "{name}: nobody told the old copy");
        }
    }
}
