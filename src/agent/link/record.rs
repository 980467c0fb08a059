//! The grant's status: the one place where the link tells the owner how it stands with a hub.

use std::sync::atomic::{AtomicU32, Ordering};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::{Api, ResourceExt};
use tokio::sync::Mutex;
use tracing::{info, warn};

use crate::api::HubGrant;
use crate::api::conditions::{self, Claim};
use crate::api::grant::{FollowedCa, HubGrantStatus};
use crate::api::member::holder;
use crate::cluster::{Clock, Error, Outcome, apply, chain, within};

/// Type of the condition that says whether the hub answers and accepts us.
pub(super) const CONNECTED: &str = "Connected";

/// The last contact is written at most this often: each write wakes whoever watches the grant. The
/// executor counts from it when guests stop that may not go on without their hub: a
/// fraction of the shortest lease, so that a heartbeat that is lost ends nothing.
const CONTACT_EVERY: SignedDuration = SignedDuration::from_secs(15);

/// What the link tells about a hub: a word and a sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Standing {
    /// One word; `Connected` makes the condition true.
    pub(super) reason: &'static str,
    /// One sentence with the remedy.
    pub(super) message: String,
    /// When the hub was asked for what it answered; absent = just now.
    at: Option<Timestamp>,
}

impl Standing {
    pub(super) fn new(reason: &'static str, message: impl Into<String>) -> Self {
        Self { reason, message: message.into(), at: None }
    }

    /// The same of a hub that was asked at `at`.
    pub(super) fn asked_at(self, at: Timestamp) -> Self {
        Self { at: Some(at), ..self }
    }
}

/// Writes the status of one `HubGrant`; only what changed, one write at a time.
pub(super) struct Record {
    api: Api<HubGrant>,
    held: Mutex<HubGrant>,
    highest: AtomicU32,
    clock: Clock,
}

impl Record {
    pub(super) fn new(api: Api<HubGrant>, grant: HubGrant, clock: Clock) -> Self {
        let highest = grant.status.as_ref().map_or(0, |status| status.highest_incarnation);
        Self { api, held: Mutex::new(grant), highest: AtomicU32::new(highest), clock }
    }

    /// Highest incarnation of the hub that is durably remembered.
    pub(super) fn highest(&self) -> u32 {
        self.highest.load(Ordering::Acquire)
    }

    /// Certificates of the hub that were followed.
    pub(super) async fn followed_ca(&self) -> Option<FollowedCa> {
        self.held.lock().await.status.as_ref().and_then(|status| status.followed_ca.clone())
    }

    /// The key with which this cluster was enrolled.
    pub(super) async fn enrolled_key(&self) -> Option<String> {
        self.held.lock().await.status.as_ref().and_then(|status| status.public_key.clone())
    }

    /// The mark of the invitation with which this cluster was enrolled.
    pub(super) async fn invitation(&self) -> Option<String> {
        self.held.lock().await.status.as_ref().and_then(|status| status.invitation.clone())
    }

    /// How the heartbeats of `member` are signed: the hub sees by it which request to join has done its
    /// work, and ends that invitation.
    pub(super) async fn holder(&self, member: &str) -> String {
        let held = self.held.lock().await;
        let request = held.status.as_ref().and_then(|status| status.join_request.as_deref());
        holder(member, request)
    }

    /// Shows a condition besides [`CONNECTED`].
    pub(super) async fn tell(&self, claim: Claim<'_>) {
        let written = self.change(|status| {
            let generation = status.observed_generation;
            conditions::set(&mut status.conditions, claim.clone(), generation, self.clock.wall());
        });
        if let Err(error) = written.await {
            warn!(reason = error.reason(), error = chain(&error), "grant's status not written");
        }
    }

    /// Reads the grant anew, since a watch may show an old one.
    pub(super) async fn refresh(&self) -> Result<(), Error> {
        let mut held = self.held.lock().await;
        let fresh = within("get grant", self.api.get(&held.name_any())).await?;
        let highest = fresh.status.as_ref().map_or(0, |status| status.highest_incarnation);
        self.highest.fetch_max(highest, Ordering::AcqRel);
        *held = fresh;
        Ok(())
    }

    /// Remembers `incarnation` for ever.
    pub(super) async fn raise(&self, incarnation: u32) -> Result<(), Error> {
        self.change(|status| {
            status.highest_incarnation = status.highest_incarnation.max(incarnation);
        })
        .await
    }

    /// Shows `standing`; a failure is logged, since the next standing is as good.
    pub(super) async fn show(&self, standing: &Standing) {
        let connected = standing.reason == CONNECTED;
        let written = self
            .change(|status| {
                let now = self.clock.wall();
                let asked = standing.at.unwrap_or(now);
                if connected && is_older(status.last_contact.as_ref(), asked) {
                    status.last_contact = Some(Time(asked));
                }
                let before = conditions::find(&status.conditions, CONNECTED);
                if standing.reason == "Unreachable"
                    && before.is_some_and(|before| before.reason == standing.reason)
                {
                    return; // the words of each failure differ, the news does not
                }
                let generation = status.observed_generation;
                let claim = Claim {
                    type_: CONNECTED,
                    status: if connected { "True" } else { "False" },
                    reason: standing.reason,
                    message: standing.message.clone(),
                };
                conditions::set(&mut status.conditions, claim, generation, now);
            })
            .await;
        if let Err(error) = written {
            warn!(reason = error.reason(), error = chain(&error), "grant's status not written");
        }
    }

    /// Changes the status; a conflict is read again and tried again.
    pub(super) async fn change(&self, edit: impl Fn(&mut HubGrantStatus)) -> Result<(), Error> {
        let mut held = self.held.lock().await;
        for _ in 0..3 {
            let old = held.status.clone();
            let mut new = old.clone().unwrap_or_default();
            new.observed_generation = held.metadata.generation;
            edit(&mut new);
            match apply::status(&self.api, &held, old.as_ref(), &new, "write grant status").await {
                Ok(None) => {
                    self.highest.fetch_max(new.highest_incarnation, Ordering::AcqRel);
                    return Ok(());
                }
                Ok(Some(written)) => {
                    self.highest.fetch_max(new.highest_incarnation, Ordering::AcqRel);
                    announce(old.as_ref(), &new, &written.name_any());
                    *held = written;
                    return Ok(());
                }
                Err(error) if error.outcome() == Outcome::Conflict => {}
                Err(error) => return Err(error),
            }
            *held = within("get grant", self.api.get(&held.name_any())).await?;
        }
        Err(Error::Unfit { reason: "the grant's status is written by somebody else too".into() })
    }
}

/// Whether `contact` is so long ago that a newer one is worth a write.
fn is_older(contact: Option<&Time>, now: Timestamp) -> bool {
    contact.is_none_or(|contact| now.duration_since(contact.0).abs() >= CONTACT_EVERY)
}

fn announce(old: Option<&HubGrantStatus>, new: &HubGrantStatus, grant: &str) {
    let reason = |status: &HubGrantStatus| {
        conditions::find(&status.conditions, CONNECTED).map(|it| it.reason.clone())
    };
    if old.and_then(reason) != reason(new) {
        info!(grant, standing = reason(new), "standing with the hub changed");
    }
}
