//! Carries out one step about one lease, and looks again where the outcome is not certain.

use std::time::Duration;

use kube::api::{DeleteParams, ObjectMeta, Patch, PatchParams, PostParams, Preconditions};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tracing::{debug, warn};

use super::Link;
use super::decide::{Step, is_of, refused};
use crate::api::digest::{guest_name, hub_label};
use crate::api::gpulease::{self, GpuLeaseStatus, LeaseRefusal};
use crate::api::{GpuLease, GuestLease, GuestLeaseSpec, LABEL_HUB, LABEL_JOB_UID, LABEL_LEASE};
use crate::cluster::{Error, Outcome, apply, chain, within};
use crate::planted::{Defect, planted};

/// First wait after a failure; it doubles with each one that follows.
const FIRST_RETRY: Duration = Duration::from_millis(200);
/// Longest wait after a failure.
const LAST_RETRY: Duration = Duration::from_secs(15);

/// What became known of one of the two records.
pub(super) enum News {
    Lease(Box<GpuLease>),
    NoLease,
    Guest(Box<GuestLease>),
    NoGuest,
}

/// One lease in hand: both records as the step was decided on.
pub(super) struct Hand<'a> {
    pub(super) link: &'a Link,
    pub(super) hub: &'a Client,
    /// Bounds the requests that are under way at once; who waits after a failure holds none.
    pub(super) permits: &'a Semaphore,
    pub(super) name: String,
    pub(super) lease: Option<GpuLease>,
    pub(super) guest: Option<GuestLease>,
    /// The hub was seen to remove the lease of `guest`.
    pub(super) buried: bool,
}

impl Hand<'_> {
    /// Carries out `step`. After a failure it waits and reads both records again, so that whoever
    /// decides next knows what is true.
    pub(super) async fn carry_out(&self, step: Step, failures: u32) -> (Vec<News>, u32) {
        let error = match self.with_permit(self.attempt(step)).await {
            Ok(news) => return (news, 0),
            Err(error) => error,
        };
        let mut failures = failures + 1;
        self.complain(&error);
        // Somebody else wrote first: nothing is wrong, so look at once, but never in a hot loop.
        let overtaken =
            matches!(error.outcome(), Outcome::Conflict | Outcome::Exists | Outcome::Gone);
        if !overtaken || failures > 1 {
            tokio::time::sleep(pause(failures)).await;
        }
        loop {
            match self.with_permit(self.look()).await {
                Ok(news) => return (news, failures),
                Err(error) => self.complain(&error),
            }
            failures += 1;
            tokio::time::sleep(pause(failures)).await;
        }
    }

    fn complain(&self, error: &Error) {
        let (grant, lease) = (&self.link.grant.name, &self.name);
        let (reason, chain) = (error.reason(), chain(error));
        match error.outcome() {
            Outcome::Refused => warn!(grant, lease, reason, error = chain, "step refused"),
            _ => debug!(grant, lease, reason, error = chain, "step failed"),
        }
    }

    async fn with_permit<T>(&self, call: impl Future<Output = T>) -> T {
        let _permit = self.permits.acquire().await;
        call.await
    }

    fn leases(&self) -> Api<GpuLease> {
        self.link.leases(self.hub)
    }

    fn guest_name(&self) -> String {
        guest_name(&self.link.grant.spec.hub_id, &self.name)
    }

    async fn attempt(&self, step: Step) -> Result<Vec<News>, Error> {
        match (step, &self.lease, &self.guest) {
            (Step::RaiseIncarnation(incarnation), ..) => {
                self.link.record.raise(incarnation).await.map(|()| Vec::new())
            }
            (Step::Propose, Some(lease), _) => self.propose(lease).await,
            (Step::Confirm, _, Some(guest)) => {
                self.patch(guest, json!({ "confirmed": true }), "confirm guest").await
            }
            (Step::Withdraw(withdrawal), _, Some(guest)) => {
                self.patch(guest, json!({ "withdrawn": withdrawal }), "withdraw guest").await
            }
            (Step::Adopt(adoption), _, Some(guest)) => {
                self.patch(guest, json!({ "adopted": adoption }), "adopt guest").await
            }
            (Step::Report(status), Some(lease), _) => self.report(lease, &status).await,
            (Step::ReportMissing(status), Some(lease), _) => match self.look_for_guest().await? {
                News::NoGuest => self.report(lease, &status).await,
                found => Ok(vec![found]),
            },
            (Step::Remove, _, Some(guest)) => self.remove(guest).await,
            (Step::Forget, _, Some(guest)) => self.forget(guest).await,
            _ => self.look().await,
        }
    }

    async fn propose(&self, lease: &GpuLease) -> Result<Vec<News>, Error> {
        let guest = guest_of(&self.link.grant.name, lease, self.guest_name());
        let params = PostParams::default();
        match within("create guest lease", self.link.guests().create(&params, &guest)).await {
            Ok(made) => Ok(vec![News::Guest(Box::new(made))]),
            Err(error) if is_malformed(&error) => {
                let refusal = LeaseRefusal { reason: "Malformed".into(), message: chain(&error) };
                self.report(lease, &refused(lease, refusal, None)).await
            }
            Err(error) => Err(error),
        }
    }

    async fn report(&self, lease: &GpuLease, new: &GpuLeaseStatus) -> Result<Vec<News>, Error> {
        let (api, old) = (self.leases(), lease.status.as_ref());
        let mut new = new.clone();
        new.conditions = gpulease::conditions(
            old.map(|status| status.conditions.clone()).unwrap_or_default(),
            new.phase,
            new.refusal.as_ref(),
            new.end_reason.as_deref(),
            (new.observed_generation, self.link.clock.wall()),
        );
        let written = apply::status(&api, lease, old, &new, "report lease").await?;
        Ok(written.map(|lease| News::Lease(Box::new(lease))).into_iter().collect())
    }

    /// Changes the spec of `guest`, whoever else writes it: nobody else writes these fields.
    async fn patch(
        &self,
        guest: &GuestLease,
        spec: Value,
        what: &'static str,
    ) -> Result<Vec<News>, Error> {
        let patch = Patch::Merge(json!({ "metadata": { "uid": guest.uid() }, "spec": spec }));
        let (api, params) = (self.link.guests(), PatchParams::default());
        let written = within(what, api.patch(&guest.name_any(), &params, &patch)).await?;
        Ok(vec![News::Guest(Box::new(written))])
    }

    /// Deletes `guest`; if its lease is thought to be gone, only when the hub says so now.
    async fn remove(&self, guest: &GuestLease) -> Result<Vec<News>, Error> {
        if let Some(found) = self.contradiction(guest).await? {
            return Ok(vec![found]);
        }
        let preconditions = Preconditions { uid: guest.uid(), resource_version: None };
        let params = DeleteParams { preconditions: Some(preconditions), ..Default::default() };
        let api = self.link.guests();
        within("delete guest lease", api.delete(&guest.name_any(), &params)).await?;
        Ok(vec![News::NoGuest])
    }

    async fn forget(&self, guest: &GuestLease) -> Result<Vec<News>, Error> {
        if !self.buried
            && let Some(found) = self.contradiction(guest).await?
        {
            return Ok(vec![found]);
        }
        // A merge patch empties a map only by naming its keys.
        let template = match guest.spec.template.value() {
            Value::Object(fields) => {
                fields.into_iter().map(|(key, _)| (key, Value::Null)).collect()
            }
            _ => serde_json::Map::new(),
        };
        let change = json!({ "forgotten": true, "template": template });
        self.patch(guest, change, "forget guest").await
    }

    /// The lease of `guest`, if it was thought to be gone and the hub still has it.
    async fn contradiction(&self, guest: &GuestLease) -> Result<Option<News>, Error> {
        let known = self.lease.as_ref().is_some_and(|lease| is_of(lease, guest));
        if known || guest.spec.forgotten {
            return Ok(None);
        }
        Ok(match self.look_for_lease().await? {
            News::Lease(lease) if is_of(&lease, guest) => Some(News::Lease(lease)),
            _ => None,
        })
    }

    async fn look(&self) -> Result<Vec<News>, Error> {
        Ok(vec![self.look_for_lease().await?, self.look_for_guest().await?])
    }

    async fn look_for_lease(&self) -> Result<News, Error> {
        let found = within("get lease", self.leases().get_opt(&self.name)).await?;
        Ok(found.map_or(News::NoLease, |lease| News::Lease(Box::new(lease))))
    }

    async fn look_for_guest(&self) -> Result<News, Error> {
        let name = self.guest_name();
        let found = within("get guest lease", self.link.guests().get_opt(&name)).await?;
        Ok(found.map_or(News::NoGuest, |guest| News::Guest(Box::new(guest))))
    }
}

fn pause(failures: u32) -> Duration {
    if planted(Defect::NoPause) {
        return Duration::ZERO;
    }
    FIRST_RETRY
        .saturating_mul(1_u32.checked_shl(failures.min(10)).unwrap_or(u32::MAX))
        .min(LAST_RETRY)
}

/// Whether the server says that the object itself is wrong: asking again cannot help.
fn is_malformed(error: &Error) -> bool {
    let Error::Call { source, .. } = error else { return false };
    matches!(source.as_ref(), kube::Error::Api(status) if matches!(status.code, 400 | 413 | 422))
}

/// Our own record of `lease`, as a proposal to the executor.
fn guest_of(grant: &str, lease: &GpuLease, name: String) -> GuestLease {
    let spec = lease.spec.clone();
    let labels = [
        (LABEL_JOB_UID, spec.job.uid.clone()),
        (LABEL_LEASE, lease.name_any()),
        (LABEL_HUB, hub_label(&spec.hub_id)),
    ];
    let labels = labels.map(|(key, value)| (key.to_owned(), value));
    GuestLease {
        metadata: ObjectMeta {
            name: Some(name),
            labels: Some(labels.into()),
            ..ObjectMeta::default()
        },
        spec: GuestLeaseSpec {
            hub_id: spec.hub_id,
            grant: grant.into(),
            lease_name: lease.name_any(),
            lease_uid: lease.uid().unwrap_or_default(),
            job: spec.job,
            pool: spec.pool,
            epoch: spec.epoch,
            indexes: spec.indexes,
            size: spec.size,
            gpu: spec.gpu,
            grace_seconds: spec.grace_seconds,
            active_deadline_seconds: spec.active_deadline_seconds,
            residency: spec.residency,
            checkpoint: spec.checkpoint,
            stop_after_seconds: spec.stop_after_seconds,
            expires_after_seconds: spec.expires_after_seconds,
            duplicate_policy: spec.duplicate_policy,
            digest: spec.digest,
            template: spec.template,
            confirmed: false,
            withdrawn: None,
            adopted: None,
            forgotten: false,
        },
        status: None,
    }
}
