//! The half of the agent that talks to hubs: joins them, carries leases in and reports out.
//!
//! Invariant: it touches no pod, and everything belongs to one `HubGrant`: one task, one client and
//! one set of tokens each, so that a broken hub never slows another.

mod act;
pub mod client;
mod decide;
mod enrol;
mod expiry;
mod heartbeat;
mod held;
mod invited;
mod key;
mod leases;
mod life;
mod observe;
mod orphans;
mod pools;
mod record;
mod session;
mod sole;
mod sweep;
mod tokens;
mod trust;
mod vigil;
mod watching;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use kube::{Api, Client, ResourceExt};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::{AbortHandle, Id, JoinError, JoinSet};
use tracing::{error, info};

pub use self::observe::Figures;
use crate::api::{GpuLease, GuestLease, HubGrant, HubGrantSpec};
use crate::cluster::watch::{Seen, feed};
use crate::cluster::{Clock, chain};

/// How long a hub whose task broke waits before it is served again.
const AFTER_A_DEFECT: Duration = Duration::from_secs(5);

/// Where the link finds what it works on.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Namespace of `HubGrants`, `GpuPools` and token Secrets: the agent's own.
    pub namespace: String,
    /// Namespace of `GuestLeases`.
    pub guest_namespace: String,
    /// The way to hubs.
    pub dial: client::Dial,
    /// What time it is.
    pub clock: Clock,
}

/// What keeps the link from being ready. Hubs do not: one that is away must not make the agent so.
#[derive(Debug, Default)]
pub struct Health(AtomicBool);

impl Health {
    /// Names of the gates that are still closed; empty = ready.
    #[must_use]
    pub fn closed(&self) -> Vec<&'static str> {
        if self.0.load(Ordering::Relaxed) { Vec::new() } else { vec!["grants"] }
    }
}

/// The owner's grant, as far as the link needs it.
#[derive(Clone, Debug)]
struct Grant {
    name: String,
    spec: HubGrantSpec,
    /// The agent's own namespace.
    home: String,
    /// Namespace of guests.
    guests: String,
}

/// What all parts of the link to one hub share.
struct Link {
    grant: Grant,
    /// Client of the own cluster.
    local: Client,
    record: record::Record,
    figures: Figures,
    /// Told when the hub refuses the agent's token.
    doubt: Notify,
    /// Guests of the hub that it has no lease of.
    orphans: orphans::Board,
    /// Whether the watch of leases is complete and running.
    live: watch::Sender<bool>,
    /// Told when that watch runs, but the hub answers nothing: its connection may be dead.
    stale: Notify,
    dial: client::Dial,
    clock: Clock,
    /// Seconds that the renew token lived when it was given; 0 before.
    renewal: AtomicU64,
}

impl Link {
    fn new((local, figures): (Client, Figures), settings: &Settings, grant: HubGrant) -> Self {
        let api = Api::namespaced(local.clone(), &settings.namespace);
        Self {
            grant: Grant {
                name: grant.name_any(),
                spec: grant.spec.clone(),
                home: settings.namespace.clone(),
                guests: settings.guest_namespace.clone(),
            },
            local,
            record: record::Record::new(api, grant, settings.clock.clone()),
            figures,
            doubt: Notify::new(),
            orphans: orphans::Board::new(),
            live: watch::Sender::new(false),
            stale: Notify::new(),
            dial: settings.dial.clone(),
            clock: settings.clock.clone(),
            renewal: AtomicU64::new(0),
        }
    }

    /// Shows the owner how it stands with the hub.
    async fn show(&self, standing: &record::Standing) {
        self.figures.connected(&self.grant.name, standing.reason == record::CONNECTED);
        self.record.show(standing).await;
    }

    fn guests(&self) -> Api<GuestLease> {
        Api::namespaced(self.local.clone(), &self.grant.guests)
    }

    fn leases(&self, hub: &Client) -> Api<GpuLease> {
        Api::namespaced(hub.clone(), &self.grant.spec.namespace)
    }
}

/// Serves every hub that the owner grants, for ever: a task for each `HubGrant`, started, started
/// again when its spec changes, and stopped when it is deleted.
pub async fn run(client: Client, settings: Settings, health: Arc<Health>, figures: Figures) {
    let grants: Api<HubGrant> = Api::namespaced(client.clone(), &settings.namespace);
    let (sender, mut seen) = mpsc::channel(64);
    let mut hubs = Hubs {
        client: client.clone(),
        settings: settings.clone(),
        tasks: JoinSet::new(),
        running: BTreeMap::new(),
        listing: BTreeSet::new(),
        health,
        figures,
    };
    let serve = async {
        loop {
            tokio::select! {
                biased;
                Some(event) = seen.recv() => hubs.see(event),
                Some(ended) = hubs.tasks.join_next_with_id() => hubs.ended(ended),
            }
        }
    };
    tokio::select! {
        biased;
        () = feed(grants, None, sender, |seen: Seen<HubGrant>| seen) => {}
        () = serve => {}
        () = sweep::run(&client, &settings) => {}
    }
}

struct Running {
    grant: HubGrant,
    task: AbortHandle,
}

/// The tasks, one for each grant.
struct Hubs {
    client: Client,
    settings: Settings,
    tasks: JoinSet<()>,
    running: BTreeMap<String, Running>,
    /// Names seen since the list began.
    listing: BTreeSet<String>,
    health: Arc<Health>,
    figures: Figures,
}

impl Hubs {
    fn see(&mut self, event: Seen<HubGrant>) {
        match event {
            Seen::Listing => self.listing.clear(),
            Seen::Object(grant) => {
                self.listing.insert(grant.name_any());
                self.start(grant);
            }
            Seen::Gone(grant) => self.stop(&grant.name_any()),
            Seen::Listed => {
                self.health.0.store(true, Ordering::Relaxed);
                let listed = std::mem::take(&mut self.listing);
                let gone = self.running.keys().filter(|name| !listed.contains(*name)).cloned();
                gone.collect::<Vec<_>>().iter().for_each(|name| self.stop(name));
            }
            Seen::Broken => {}
        }
    }

    /// Starts the task of `grant`, unless one with the same spec runs already.
    fn start(&mut self, grant: HubGrant) {
        let name = grant.name_any();
        if let Some(running) = self.running.get_mut(&name) {
            if running.grant.uid() == grant.uid() && running.grant.spec == grant.spec {
                running.grant = grant;
                return;
            }
            self.stop(&name);
        }
        info!(grant = name, hub = grant.spec.hub_id, "serving a hub");
        self.spawn(name, grant, Duration::ZERO);
    }

    fn spawn(&mut self, name: String, grant: HubGrant, after: Duration) {
        self.figures.begin(&name, &grant);
        let hands = (self.client.clone(), self.figures.clone());
        let link = Link::new(hands, &self.settings, grant.clone());
        let task = self.tasks.spawn(async move {
            tokio::time::sleep(after).await;
            session::serve(&link).await;
        });
        self.running.insert(name, Running { grant, task });
    }

    fn stop(&mut self, name: &str) {
        if let Some(running) = self.running.remove(name) {
            running.task.abort();
            self.figures.end(name);
            info!(grant = name, "no longer serving a hub");
        }
    }

    /// A task that broke is started again; the others never notice.
    fn ended(&mut self, ended: Result<(Id, ()), JoinError>) {
        let Err(broken) = ended else { return };
        let id = broken.id();
        let Some((name, running)) =
            self.running.iter().find(|(_, running)| running.task.id() == id)
        else {
            return;
        };
        error!(grant = name, error = chain(&broken), "the link to a hub broke");
        let (name, grant) = (name.clone(), running.grant.clone());
        self.spawn(name, grant, AFTER_A_DEFECT);
    }
}
