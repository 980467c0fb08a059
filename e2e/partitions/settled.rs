//! What must be true once a partition is over, and what people must be told while it lasts.

use idlewild::api::gpujob::Phase;
use idlewild::api::{
    GUEST_NAMESPACE, GpuJob, GuestLease, LABEL_JOB_UID, MemberCluster, conditions, reasons,
};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, ListParams};
use kube::{Api, ResourceExt};

use super::subjects::{Moment, Subjects};
use super::{LOST, Link};
use crate::harness::{SOON, eventually, job_in};
use crate::work::{condition, leases};

impl Subjects<'_> {
    /// The hub says of whom it has not heard, and of which jobs it therefore knows nothing.
    pub(super) async fn told_silent(&self) {
        let what = format!("{}: the silence is told", self.partition);
        eventually(&what, LOST, async || {
            let ready = self.member_is().await?;
            if ready != ("False".into(), reasons::MEMBER_SILENT.into()) {
                return Err(format!("{ready:?}"));
            }
            let job = self.job(Moment::Running).await?;
            match condition(&job, reasons::REACHABLE) {
                Some((status, ..)) if status == "False" => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
    }

    /// Every job comes to its right end, once, and leaves nothing.
    pub(super) async fn settled(&self) {
        if self.partition.reclaims() {
            self.owner_leaves().await;
            self.runs_again().await;
        }
        if self.partition.moves() {
            self.old_copy_goes().await;
        }
        for moment in [Moment::Ending, Moment::Accepted, Moment::Running, Moment::Waiting] {
            self.ran_once(moment).await;
        }
        let withdrawn = self.uid(Moment::Withdrawn);
        let found = self.stage.api.get_opt(&self.partition.name_of(Moment::Withdrawn)).await;
        assert!(found.unwrap().is_none(), "{}: deleted jobs stay deleted", self.partition);
        let (ran, succeeded) = self.stage.sightings.count(&withdrawn);
        assert_eq!((ran, succeeded), (1, 0), "{}: it was told to go", self.partition);
        self.believed_again().await;
        self.nothing_is_left().await;
    }

    async fn job(&self, moment: Moment) -> Result<GpuJob, String> {
        let name = self.partition.name_of(moment);
        self.stage.api.get(&name).await.map_err(|error| error.to_string())
    }

    /// Status and reason of the member's readiness.
    async fn member_is(&self) -> Result<(String, String), String> {
        let api: Api<MemberCluster> = Api::all(self.stage.federation.hub.cluster.admin.clone());
        let member = api.get(self.member).await.map_err(|error| error.to_string())?;
        let status = member.status.unwrap_or_default();
        let ready = conditions::find(&status.conditions, reasons::READY).ok_or("no condition")?;
        Ok((ready.status.clone(), ready.reason.clone()))
    }

    /// The job succeeded with one guest, whatever was lost on the way: nothing that was only cut off
    /// is an eviction, and no guest dies of it.
    async fn ran_once(&self, moment: Moment) {
        let name = self.partition.name_of(moment);
        let over = [Phase::Succeeded, Phase::Failed];
        let status = job_in(&self.stage.api, &name, &over, LOST).await.status.unwrap();
        assert_eq!(status.phase, Some(Phase::Succeeded), "{name}: {status:?}");
        let counts = (status.replicas.succeeded, status.replicas.failed);
        assert_eq!(counts, (1, 0), "{name}: {status:?}");
        let (ran, succeeded) = self.stage.sightings.count(&self.uid(moment));
        assert_eq!((ran, succeeded), (1, 1), "{name} ran once: {status:?}");
        // Only what was not accepted in time may have been withdrawn.
        if moment != Moment::Waiting || self.partition.link == Link::Controller {
            assert_eq!(status.evictions.total, 0, "{name} was left alone: {status:?}");
        }
    }

    /// What left for the owner runs again, once.
    async fn runs_again(&self) {
        let name = self.partition.name_of(Moment::Reclaimed);
        eventually(&format!("{name} runs again"), LOST, async || {
            let status = self.job(Moment::Reclaimed).await?.status.unwrap_or_default();
            let ran = self.stage.sightings.count(&self.uid(Moment::Reclaimed)).0;
            let again = status.phase == Some(Phase::Running) && ran == 2;
            if again { Ok(()) } else { Err(format!("{:?}, {ran} guests", status.phase)) }
        })
        .await;
        let status = self.job(Moment::Reclaimed).await.unwrap().status.unwrap();
        let evictions = (status.evictions.owner_reclaimed, status.evictions.total);
        assert_eq!(evictions, (1, 1), "{name}: {status:?}");
        let together = self.stage.sightings.together(&self.uid(Moment::Reclaimed));
        assert!(!together, "{name}: two guests of one replica ran at once");
    }

    /// The copy that was given up goes when it hears of it, and what it said counts for nothing.
    async fn old_copy_goes(&self) {
        let name = self.partition.name_of(Moment::Moved);
        eventually(&format!("{name}: the old copy goes"), LOST, async || {
            let left = self.guests_on(self.member, Moment::Moved).await.len();
            if left == 0 { Ok(()) } else { Err(format!("{left} guests")) }
        })
        .await;
        let job = job_in(&self.stage.api, &name, &[Phase::Running], SOON).await;
        let status = job.status.unwrap();
        let evictions = (status.evictions.cluster_lost, status.evictions.total);
        assert_eq!((evictions, status.attempts.len()), ((1, 1), 1), "{name}: {status:?}");
        let counted = self.stage.sightings.count(&self.uid(Moment::Moved));
        assert_eq!(counted, (2, 0), "{name}: one copy each, here and there");
    }

    /// The member is as good as before.
    async fn believed_again(&self) {
        eventually(&format!("{}: {} is ready", self.partition, self.member), LOST, async || {
            let ready = self.member_is().await?;
            if ready.0 == "True" { Ok(()) } else { Err(format!("{ready:?}")) }
        })
        .await;
    }

    /// Once the jobs are deleted, no lease, no guest and no open record of them is left anywhere.
    async fn nothing_is_left(&self) {
        for (moment, job) in &self.jobs {
            if *moment != Moment::Withdrawn {
                self.stage.api.delete(&job.name_any(), &DeleteParams::default()).await.unwrap();
            }
        }
        for moment in self.jobs.keys() {
            let what = format!("{}: nothing is left", self.partition.name_of(*moment));
            eventually(&what, LOST, async || {
                let leases = leases(self.stage.federation, &self.uid(*moment)).await.len();
                let mut left = vec![format!("{leases} leases on the hub")];
                let mut found = leases;
                for name in self.stage.federation.members.keys() {
                    let (guests, open) = self.left_on(name, *moment).await;
                    found += guests + open;
                    left.push(format!("{name}: {guests} guests, {open} open records"));
                }
                if found == 0 { Ok(()) } else { Err(left.join("; ")) }
            })
            .await;
        }
    }

    /// Guests of a job on `member`, and records of it that are not closed: closed ones are kept for an
    /// hour, as tombstones.
    async fn left_on(&self, member: &str, moment: Moment) -> (usize, usize) {
        let admin = self.stage.federation.members[member].cluster.admin.clone();
        let params = ListParams::default().labels(&format!("{LABEL_JOB_UID}={}", self.uid(moment)));
        let pods: Api<Pod> = Api::namespaced(admin.clone(), GUEST_NAMESPACE);
        let records: Api<GuestLease> = Api::namespaced(admin, GUEST_NAMESPACE);
        let pods = pods.list(&params).await.unwrap().items.len();
        let records = records.list(&params).await.unwrap();
        (pods, records.iter().filter(|record| !record.spec.forgotten).count())
    }
}
