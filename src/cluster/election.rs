//! Leader election on a coordination Lease: for efficiency only.
//!
//! Invariant: nothing relies on there being one leader; what must not happen twice is fenced by
//! the order of writes. Clocks of two processes are never compared: a Lease is taken over when it
//! was seen not to change for its whole length by our own clock.

use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};
use tracing::{info, warn};

use super::client::within;
use super::clock::Clock;
use super::error::{Error, Outcome, chain};

/// How long a leader that says nothing stays leader.
const LENGTH: Duration = Duration::from_secs(15);
/// How often the leader renews, and others look.
const PERIOD: Duration = Duration::from_secs(4);
/// A leader that could not renew for so long steps down, well before others take over.
const STEP_DOWN: Duration = Duration::from_secs(10);

/// One candidate of an election.
#[derive(Debug)]
pub struct Election {
    api: Api<Lease>,
    name: String,
    identity: String,
    clock: Clock,
}

impl Election {
    /// An election on Lease `name` in `namespace`, as `identity`.
    #[must_use]
    pub fn new(
        client: Client,
        (namespace, name): (&str, &str),
        identity: String,
        clock: Clock,
    ) -> Self {
        Self { api: Api::namespaced(client, namespace), name: name.to_owned(), identity, clock }
    }

    /// Returns once this process leads.
    pub async fn win(&self) {
        let mut seen: Option<(Option<MicroTime>, Instant)> = None;
        loop {
            match self.attempt(&mut seen).await {
                Ok(true) => {
                    info!(identity = self.identity, "leads");
                    return;
                }
                Ok(false) => {}
                Err(error) => warn!(error = chain(&error), "election: will be tried again"),
            }
            tokio::time::sleep(PERIOD).await;
        }
    }

    /// Renews until leadership is lost.
    pub async fn hold(&self) {
        let mut renewed = self.clock.instant();
        while self.since(renewed) < STEP_DOWN {
            tokio::time::sleep(PERIOD).await;
            // Counted from before the call, and cut off in time: who steps down late leads twice.
            let asked = self.clock.instant();
            let left = STEP_DOWN.saturating_sub(self.since(renewed));
            match tokio::time::timeout(left, self.renew()).await {
                Ok(Ok(true)) => renewed = asked,
                Ok(Ok(false)) => return warn!("another process leads now"),
                Ok(Err(error)) => warn!(error = chain(&error), "election: could not renew"),
                Err(_) => break,
            }
        }
        warn!("could not renew leadership in time");
    }

    fn since(&self, instant: Instant) -> Duration {
        self.clock.instant().saturating_duration_since(instant)
    }

    async fn attempt(
        &self,
        seen: &mut Option<(Option<MicroTime>, Instant)>,
    ) -> Result<bool, Error> {
        let Some(lease) = within("read election", self.api.get_opt(&self.name)).await? else {
            let lease = self.claim(ObjectMeta::default(), 0);
            let params = PostParams::default();
            let made = within("create election", self.api.create(&params, &lease)).await;
            return won(made.map(drop));
        };
        let spec = lease.spec.clone().unwrap_or_default();
        let renewed = spec.renew_time.clone();
        let free = spec.holder_identity.as_ref().is_none_or(String::is_empty);
        let ours = spec.holder_identity.as_ref() == Some(&self.identity);
        match seen {
            Some((before, since)) if *before == renewed => {
                if !(free || ours || self.since(*since) > LENGTH) {
                    return Ok(false);
                }
            }
            _ if free || ours => {}
            _ => {
                *seen = Some((renewed, self.clock.instant()));
                return Ok(false);
            }
        }
        let lease = self.claim(lease.metadata, spec.lease_transitions.unwrap_or(0) + 1);
        self.replace(lease).await
    }

    async fn renew(&self) -> Result<bool, Error> {
        let lease = within("read election", self.api.get(&self.name)).await?;
        let spec = lease.spec.unwrap_or_default();
        if spec.holder_identity.as_ref() != Some(&self.identity) {
            return Ok(false);
        }
        self.replace(self.claim(lease.metadata, spec.lease_transitions.unwrap_or(0))).await
    }

    async fn replace(&self, lease: Lease) -> Result<bool, Error> {
        let params = PostParams::default();
        won(within("write election", self.api.replace(&self.name, &params, &lease)).await.map(drop))
    }

    fn claim(&self, metadata: ObjectMeta, transitions: i32) -> Lease {
        let spec = LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: i32::try_from(LENGTH.as_secs()).ok(),
            lease_transitions: Some(transitions),
            renew_time: Some(MicroTime(self.clock.wall())),
            ..LeaseSpec::default()
        };
        let metadata = ObjectMeta { name: Some(self.name.clone()), ..metadata };
        Lease { metadata, spec: Some(spec) }
    }

    /// Lets go, so that the next one need not wait.
    pub async fn resign(&self) {
        let released = async {
            let mut lease = within("read election", self.api.get(&self.name)).await?;
            let ours = lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_ref());
            if ours == Some(&self.identity) {
                lease.spec.get_or_insert_default().holder_identity = None;
                self.replace(lease).await?;
            }
            Ok::<_, Error>(())
        };
        if let Err(error) = released.await {
            warn!(error = chain(&error), "election: could not resign");
        }
    }
}

/// Whoever writes first wins; the others look again.
fn won(written: Result<(), Error>) -> Result<bool, Error> {
    match written {
        Ok(()) => Ok(true),
        Err(error) if matches!(error.outcome(), Outcome::Conflict | Outcome::Exists) => Ok(false),
        Err(error) => Err(error),
    }
}
