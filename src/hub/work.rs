//! The writes that a pass decided on, and carrying them out.
//!
//! Invariant: the status that allocates an epoch is written, onto the version that was decided on,
//! before the lease of that epoch exists anywhere. So two leaders cannot start one replica twice.

use std::sync::Arc;
use std::time::Duration;

use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};
use tokio::sync::mpsc::Sender;
use tracing::{debug, warn};

use super::facts::{Answer, Event};
use crate::api::gpulease::Adoption;
use crate::api::{GpuJob, GpuJobStatus, GpuLease, LABEL_LEASE};
use crate::cluster::cache::{Key, key};
use crate::cluster::{Error, Outcome, apply, chain, within};
use crate::engine::model::JobId;

/// What failed is tried again after this time.
pub(super) const AGAIN: Duration = Duration::from_secs(2);

/// One thing to carry out; the pieces do not depend on one another.
#[derive(Debug)]
pub(super) enum Work {
    /// Writes for a job.
    Job(Box<JobWork>),
    /// Writes to leases whose job is gone.
    Leases(JobId, Vec<LeaseWork>),
    /// A lease that is over and on record.
    Remove(Key),
    /// The hub's incarnation, which must be this or more.
    Raise(u32),
    /// Whether a member exists that was not listed.
    LookUpMember(String),
    /// Whether a job exists that was not listed.
    LookUpJob(Key, JobId),
}

/// Writes for one job, in order.
#[derive(Debug)]
pub(super) struct JobWork {
    /// The job.
    pub(super) id: JobId,
    /// As it was decided on.
    pub(super) job: Arc<GpuJob>,
    /// Its status is behind: read it again.
    pub(super) look: bool,
    /// Its new status.
    pub(super) status: Option<GpuJobStatus>,
    /// Then, its leases.
    pub(super) leases: Vec<LeaseWork>,
    /// Its time is over: delete it.
    pub(super) delete: bool,
}

/// A write to a lease.
#[derive(Debug)]
pub(super) enum LeaseWork {
    /// Create it: its allocation is in the status of the same work.
    Create(Box<GpuLease>),
    /// Create it: its allocation was found without.
    Complete(Box<GpuLease>),
    /// Say that it is current, if the job still is as it was decided on.
    Adopt(Box<GpuLease>, Adoption),
    /// Withdraw it.
    Withdraw {
        /// As it was decided on.
        lease: Box<GpuLease>,
        /// Why.
        reason: &'static str,
        /// Only if its member has not answered meanwhile.
        unanswered_only: bool,
    },
}

impl JobWork {
    /// Nothing to do yet.
    #[must_use]
    pub(super) fn new(id: JobId, job: Arc<GpuJob>) -> Self {
        Self { id, job, look: false, status: None, leases: Vec::new(), delete: false }
    }

    /// Whether there is nothing to do.
    #[must_use]
    pub(super) fn is_empty(&self) -> bool {
        !self.look && self.status.is_none() && self.leases.is_empty() && !self.delete
    }
}

impl LeaseWork {
    /// Whether it is right only if the job's record is the newest there is: somebody else may have
    /// ended the allocation meanwhile.
    #[must_use]
    fn stands_on_record(&self) -> bool {
        matches!(self, Self::Complete(_) | Self::Adopt(..))
    }
}

/// Carries out writes; what came of each goes back to the loop.
#[derive(Clone)]
pub(super) struct Hand {
    /// Client of the hub.
    pub(super) client: Client,
    /// Namespace of the hub.
    pub(super) home: String,
    /// The loop.
    pub(super) answers: Sender<Event>,
}

impl Hand {
    /// Tells the loop; if it is gone, so is the need to.
    pub(super) async fn tell(&self, answer: Answer) {
        drop(self.answers.send(Event::Answer(answer)).await);
    }

    /// Carries out `work`.
    pub(super) async fn carry_out(&self, work: Work) {
        match work {
            Work::Job(work) => {
                let id = work.id.clone();
                let again = match Box::pin(self.job(*work)).await {
                    Ok(()) => None,
                    Err(error) => Some(delay(&error, "write job")),
                };
                self.tell(Answer::JobDone(id, again)).await;
            }
            Work::Leases(id, work) => {
                let failed = self.all_leases(work).await.err();
                let again = failed.map(|error| delay(&error, "write lease"));
                self.tell(Answer::Retired(id, again)).await;
            }
            Work::Raise(least) => self.raise(least).await,
            Work::LookUpMember(name) => self.look_up_member(name).await,
            Work::LookUpJob(key, id) => self.look_up_job(key, id).await,
            // Removals are gathered by the loop, see `removals`.
            Work::Remove(_) => {}
        }
    }

    async fn job(&self, work: JobWork) -> Result<(), Error> {
        let mut job = work.job;
        let api: Api<GpuJob> =
            Api::namespaced(self.client.clone(), &job.namespace().unwrap_or_default());
        if work.look || work.leases.iter().any(LeaseWork::stands_on_record) {
            let Some(fresh) = self.read_again(&api, &job).await? else { return Ok(()) };
            if fresh.resource_version() != job.resource_version() {
                // Decided on an old version: decide again.
                self.tell(Answer::Job(Box::new(fresh))).await;
                return Ok(());
            }
            if work.look {
                let reason = "a lease is newer than all the job has on record".to_owned();
                return Err(Error::Unfit { reason });
            }
        }
        if let Some(status) = &work.status {
            match apply::status(&api, &job, job.status.as_ref(), status, "write job status").await {
                Ok(Some(fresh)) => {
                    job = Arc::new(fresh.clone());
                    self.tell(Answer::Job(Box::new(fresh))).await;
                }
                Ok(None) => {}
                Err(error) => {
                    if let Some(fresh) = self.read_again(&api, &job).await? {
                        self.tell(Answer::Job(Box::new(fresh))).await;
                    }
                    return if error.outcome() == Outcome::Refused { Err(error) } else { Ok(()) };
                }
            }
        }
        self.all_leases(work.leases).await?;
        if work.delete {
            return self.delete(&api, &job, &work.id).await;
        }
        Ok(())
    }

    /// The job as the store has it now; tells the loop if it is gone.
    async fn read_again(&self, api: &Api<GpuJob>, job: &GpuJob) -> Result<Option<GpuJob>, Error> {
        let found = within("read job", api.get_opt(&job.name_any())).await?;
        let same = found.filter(|found| found.uid() == job.uid());
        if same.is_none() {
            let id = JobId(job.uid().unwrap_or_default());
            self.tell(Answer::JobGone(key(job), id)).await;
        }
        Ok(same)
    }

    async fn delete(&self, api: &Api<GpuJob>, job: &GpuJob, id: &JobId) -> Result<(), Error> {
        let preconditions =
            Preconditions { uid: job.uid(), resource_version: job.resource_version() };
        let params =
            DeleteParams { preconditions: Some(preconditions), ..DeleteParams::background() };
        match within("delete finished job", api.delete(&job.name_any(), &params)).await {
            Err(error) if error.outcome() != Outcome::Gone => Err(error),
            _ => {
                self.tell(Answer::JobGone(key(job), id.clone())).await;
                Ok(())
            }
        }
    }

    async fn all_leases(&self, work: Vec<LeaseWork>) -> Result<(), Error> {
        let writes = work.into_iter().map(|lease| self.lease(lease));
        let results = futures::future::join_all(writes).await;
        results.into_iter().collect()
    }

    async fn lease(&self, work: LeaseWork) -> Result<(), Error> {
        match work {
            LeaseWork::Create(lease) | LeaseWork::Complete(lease) => self.create(lease).await,
            LeaseWork::Adopt(lease, adoption) => {
                let patch = json!({
                    "metadata": { "uid": lease.uid() },
                    "spec": { "adopted": adoption },
                });
                self.change(*lease, patch, "adopt lease").await
            }
            LeaseWork::Withdraw { lease, reason, unanswered_only } => {
                self.withdraw(*lease, reason, unanswered_only).await
            }
        }
    }

    async fn create(&self, lease: Box<GpuLease>) -> Result<(), Error> {
        let api = self.leases(&lease);
        let params = PostParams::default();
        let result = within("create lease", api.create(&params, lease.as_ref())).await;
        let made = match result {
            Ok(made) => made,
            Err(error) if matches!(error.outcome(), Outcome::Exists | Outcome::Unknown) => {
                let found = within("read lease", api.get_opt(&lease.name_any())).await?;
                let Some(found) = found else { return Err(error) };
                if found.spec.digest != lease.spec.digest {
                    return Err(Error::Unfit {
                        reason: format!(
                            "lease {} exists with another digest; withdraw it by hand",
                            lease.name_any()
                        ),
                    });
                }
                found
            }
            Err(error) => return Err(error),
        };
        self.tell(Answer::Lease(Box::new(made))).await;
        Ok(())
    }

    /// Withdraws a lease. One that must be unanswered is only withdrawn in the version in which it
    /// was seen so: the member's acceptance and this write exclude each other.
    async fn withdraw(
        &self,
        lease: GpuLease,
        reason: &'static str,
        unanswered_only: bool,
    ) -> Result<(), Error> {
        let mut patch = json!({
            "metadata": { "uid": lease.uid() },
            "spec": { "withdrawn": { "reason": reason, "graceSeconds": lease.spec.grace_seconds } },
        });
        if unanswered_only {
            patch["metadata"]["resourceVersion"] = json!(lease.resource_version());
        }
        self.change(lease, patch, "withdraw lease").await
    }

    /// Changes the spec of a lease; tells how it is then, or is if that failed.
    async fn change(&self, lease: GpuLease, patch: Value, what: &'static str) -> Result<(), Error> {
        let (api, name) = (self.leases(&lease), lease.name_any());
        let params = PatchParams::default();
        match within(what, api.patch(&name, &params, &Patch::Merge(&patch))).await {
            Ok(fresh) => self.tell(Answer::Lease(Box::new(fresh))).await,
            Err(error) => match error.outcome() {
                Outcome::Gone => self.tell(Answer::LeaseGone(key(&lease))).await,
                Outcome::Conflict | Outcome::Unknown => {
                    match within("read lease", api.get_opt(&name)).await? {
                        Some(fresh) => self.tell(Answer::Lease(Box::new(fresh))).await,
                        None => self.tell(Answer::LeaseGone(key(&lease))).await,
                    }
                }
                Outcome::Refused | Outcome::Exists => return Err(error),
            },
        }
        Ok(())
    }

    fn leases(&self, lease: &GpuLease) -> Api<GpuLease> {
        Api::namespaced(self.client.clone(), &lease.namespace().unwrap_or_default())
    }

    /// Removes leases of one namespace with one request; they are over and on record.
    pub(super) async fn remove(&self, namespace: String, names: Vec<String>) {
        let api: Api<GpuLease> = Api::namespaced(self.client.clone(), &namespace);
        let result = if let [name] = names.as_slice() {
            within("remove lease", api.delete(name, &DeleteParams::default())).await.map(drop)
        } else {
            let labels = format!("{LABEL_LEASE} in ({})", names.join(","));
            let list = ListParams::default().labels(&labels);
            let params = DeleteParams::default();
            within("remove leases", api.delete_collection(&params, &list)).await.map(drop)
        };
        let again = match result {
            Err(error) if error.outcome() != Outcome::Gone => Some(delay(&error, "remove leases")),
            _ => None,
        };
        self.tell(Answer::Removed(namespace, names, again)).await;
    }
}

/// Logs a failure and says when to try again.
pub(super) fn delay(error: &Error, what: &'static str) -> Duration {
    match error.outcome() {
        Outcome::Conflict => debug!(what, error = chain(error), "somebody else wrote first"),
        _ => warn!(what, reason = error.reason(), error = chain(error), "will be tried again"),
    }
    AGAIN
}
