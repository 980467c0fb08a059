//! The half that owns guests; no way out of the cluster.
//!
//! It watches the owner's nodes, pods, pools and grants, answers leases that the other half
//! proposes, runs the confirmed ones as pods, and publishes what each pool has free. The two halves
//! meet in `GuestLease` and `GpuPool` objects only.
//!
//! Invariant: one task owns all that is known and decides alone; writes run beside it and come back
//! as events. It may be killed between any two writes: [`state`] holds nothing that matters which
//! the API server does not hold as well.
//!
//! - `node`, `pod`, `guest`, `selecting`: what is seen, slim.
//! - `capacity`, `usage`, `idling`, `picture`: what is free, and for how long → what is published.
//! - `windows`, `books`, `owner`, `demand`: the owner's policy and pods: who may come, who must go.
//! - `runs`, `step`, `gang`, `report`, `outcome`: a lease and its pods → the next step.
//! - `workload`, `container`: a lease → its pods.
//! - `store`, `state`, `seen`: the loop's memory. `turn`, `answering`, `judging`, `carrying`: its
//!   decisions.
//!   `event`, `writes`, `sweeping`: its eyes and hands. `tally`, `vacating`, `reclaims`,
//!   `hindered`, `observe`: what it counts.

mod answering;
mod asking;
pub mod books;
pub mod capacity;
mod carrying;
pub mod container;
pub mod demand;
pub mod event;
pub mod gang;
pub mod guest;
mod health;
mod hindered;
mod idling;
mod judging;
pub mod lost;
pub mod node;
mod observe;
pub mod outcome;
pub mod owner;
pub mod picture;
pub mod pod;
mod reclaims;
pub mod report;
pub mod runs;
mod seen;
pub mod selecting;
pub mod state;
pub mod step;
pub mod store;
mod sweeping;
pub mod tally;
pub mod turn;
pub mod usage;
mod vacating;
pub mod windows;
pub mod workload;
pub mod writes;

#[cfg(test)]
mod endings;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod world;

use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::{Api, Client};
use tokio::sync::mpsc::{self, Receiver, Sender};
use tokio::task::{JoinError, JoinSet};
use tracing::info;

use self::event::{Event, map, noted, noted_node};
pub use self::health::Health;
pub use self::observe::Figures;
use self::pod::Pod;
use self::state::State;
use self::writes::Writer;
use crate::api::{GpuPool, GuestLease, HubGrant};
use crate::cluster::{self, Error, watch};

/// Events that wait to be taken in; more make watches wait.
const QUEUE: usize = 1024;
/// Events taken in before a turn, so that a burst is decided together.
const BATCH: usize = 256;
/// Longest sleep: clocks of nobody else are needed to wake from it.
const LONGEST_SLEEP: Duration = Duration::from_secs(30);

/// Metrics that need a look at everything are set at most this often.
const COUNTED: SignedDuration = SignedDuration::from_secs(1);

/// How the executor runs.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Namespace of the owner's `GpuPools` and `HubGrants`.
    pub namespace: String,
    /// Namespace of leases and guests.
    pub guest_namespace: String,
    /// Whether annotations of the sandbox pass to pods.
    pub sandbox: bool,
    /// What time it is.
    pub clock: cluster::Clock,
}

/// Time that never goes back, whatever the machine's clock does.
struct Clock(Timestamp, Instant, cluster::Clock);

impl Clock {
    fn new(clock: cluster::Clock) -> Self {
        Self(clock.wall(), clock.instant(), clock)
    }

    fn now(&self) -> Timestamp {
        let passed = self.2.instant().saturating_duration_since(self.1);
        let passed = SignedDuration::try_from(passed).unwrap_or(SignedDuration::ZERO);
        self.0.checked_add(passed).unwrap_or(self.0)
    }

    fn due(&self, at: Timestamp) -> tokio::time::Instant {
        let after = Duration::try_from(at.duration_since(self.0)).unwrap_or(Duration::ZERO);
        self.2.due(self.1 + after)
    }
}

/// Runs the executor with `client` until it is dropped.
///
/// # Errors
/// If one of its tasks ends or panics, which none does by itself: to go on would be to decide on a
/// view that no longer changes.
pub async fn run(
    client: Client,
    settings: Settings,
    health: Arc<Health>,
    figures: Figures,
) -> Result<(), Error> {
    let (sender, events) = mpsc::channel(QUEUE);
    let mut tasks = JoinSet::new();
    watches(&mut tasks, &client, &settings, &sender);
    let writer = Writer::new(client, &settings);
    let hands = Hands { writer, sender, figures };
    Err(serve(&settings, &health, hands, (tasks, events)).await)
}

/// Decides for as long as all `watches` run that send `events`; what ended it.
async fn serve(
    settings: &Settings,
    health: &Health,
    hands: Hands,
    (mut watches, events): (JoinSet<()>, Receiver<Event>),
) -> Error {
    tokio::select! {
        biased;
        Some(ended) = watches.join_next() => broken("a watch", ended),
        error = run_loop(settings, health, hands, events) => error,
    }
}

/// What the end of a task means that was to run as long as the process.
fn broken(task: &str, ended: Result<(), JoinError>) -> Error {
    let why = ended.err().map_or_else(|| "it returned".into(), |error| error.to_string());
    Error::Unfit { reason: format!("{task} of the executor ended: {why}") }
}

fn watches(tasks: &mut JoinSet<()>, client: &Client, settings: &Settings, sender: &Sender<Event>) {
    let own = |namespace: &str| namespace.to_owned();
    let (namespace, guests) = (own(&settings.namespace), own(&settings.guest_namespace));
    let nodes: Api<core::Node> = Api::all(client.clone());
    tasks
        .spawn(watch::feed(nodes, None, sender.clone(), |seen| Event::Node(map(seen, noted_node))));
    let pods: Api<core::Pod> = Api::all(client.clone());
    let slim = guests.clone();
    tasks.spawn(watch::feed(pods, None, sender.clone(), move |seen| {
        Event::Pod(map(seen, |pod| Pod::slim(pod, &slim)))
    }));
    let pools: Api<GpuPool> = Api::namespaced(client.clone(), &namespace);
    tasks.spawn(watch::feed(pools, None, sender.clone(), |seen| Event::Pool(map(seen, noted))));
    let leases: Api<GuestLease> = Api::namespaced(client.clone(), &guests);
    tasks.spawn(watch::feed(leases, None, sender.clone(), |seen| Event::Lease(map(seen, noted))));
    let grants: Api<HubGrant> = Api::namespaced(client.clone(), &namespace);
    tasks.spawn(watch::feed(grants, None, sender.clone(), |seen| Event::Grant(map(seen, noted))));
}

/// What the loop writes and counts with.
struct Hands {
    writer: Writer,
    sender: Sender<Event>,
    figures: Figures,
}

/// Decides and writes; returns only what broke it.
async fn run_loop(
    settings: &Settings,
    health: &Health,
    hands: Hands,
    mut events: Receiver<Event>,
) -> Error {
    let clock = Clock::new(settings.clock.clone());
    let mut state = State::default();
    let mut writes = JoinSet::new();
    let mut counted = Counted { at: clock.now(), stale: false };
    loop {
        let wake = state.wake().into_iter().chain(counted.due()).min();
        let far = || tokio::time::Instant::now() + LONGEST_SLEEP;
        let sleep = tokio::time::sleep_until(wake.map_or_else(far, |at| clock.due(at)));
        let first = tokio::select! {
            biased;
            event = events.recv() => match event {
                Some(event) => Some(event),
                None => return broken("the channel", Ok(())),
            },
            () = sleep => None,
        };
        let now = clock.now();
        counted.stale |= first.is_some();
        take_in(&mut state, first, &mut events, (&hands.figures, now));
        while let Some(ended) = writes.try_join_next() {
            if ended.is_err() {
                return broken("a write", ended);
            }
        }
        let timer = hands.figures.turn();
        let decided = state.turn(settings.sandbox, now);
        timer.observe_duration();
        for write in decided {
            observe::say(&write);
            let (hand, sender) = (hands.writer.clone(), hands.sender.clone());
            writes.spawn(async move {
                let event = hand.perform(write).await;
                // The loop ends only with the process.
                let _ended = sender.send(event).await;
            });
        }
        let closed = state.incomplete();
        if closed.is_empty() && !health.closed().is_empty() {
            info!("the executor knows its cluster and begins to decide");
        }
        health.set(closed);
        if now.duration_since(counted.at) >= COUNTED {
            counted = Counted { at: now, stale: false };
            hands.figures.show(&mut state, now);
        }
    }
}

/// When figures were last shown, and whether something happened since.
struct Counted {
    at: Timestamp,
    stale: bool,
}

impl Counted {
    /// When to show them again though nothing happens.
    fn due(&self) -> Option<Timestamp> {
        self.stale.then(|| self.at.checked_add(COUNTED).unwrap_or(self.at))
    }
}

/// Takes in `first` and what came right after it.
fn take_in(
    state: &mut State,
    first: Option<Event>,
    events: &mut Receiver<Event>,
    (figures, now): (&Figures, Timestamp),
) {
    let rest = std::iter::from_fn(|| events.try_recv().ok());
    let mut taken: u64 = 0;
    for event in first.into_iter().chain(rest.take(BATCH)) {
        state.apply(event, now);
        taken += 1;
    }
    figures.coalesced(taken.saturating_sub(1));
}
