//! Runs once: watches jobs and pools, runs rounds, issues leases, reports status.
//!
//! One loop owns everything that is known (`state`), decides purely (`rounds`, `members`) and lets
//! tasks carry out the writes (`work`), whose answers come back as events like any other.
//!
//! Invariant: it holds nothing that cannot be read again; killing it at any moment loses nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use kube::{Api, Client, ResourceExt};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tracing::{error, info};

use crate::cluster::election::Election;
use crate::cluster::{Clock, Error, chain};
use crate::http;
use crate::metrics::{self, Process};

mod bars;
mod conclude;
mod facts;
mod guests;
mod heartbeats;
mod identity;
mod jobs;
mod joins;
mod leases;
mod lookups;
mod members;
mod memory;
mod observe;
mod observed;
mod queues;
mod revoke;
mod rounds;
mod shares;
mod silence;
pub mod snapshot;
mod state;
mod tally;
#[cfg(test)]
mod tests;
mod watching;
mod words;
mod work;

use facts::{Answer, Event};
use identity::Identity;
use memory::Memory;
use observe::Figures;
use rounds::Now;
use state::State;
use work::{Hand, Work};

/// Writes under way at once: enough to keep an API server busy, not enough to drown it.
const WRITES: usize = 64;
/// Least time between two decisions: what comes meanwhile is decided on together.
const COALESCED: Duration = Duration::from_millis(5);
/// Removals gather for this long, or until there are [`REMOVED_AT_ONCE`].
const GATHERED: Duration = Duration::from_secs(2);
/// Most leases that one request removes: their names must fit into its address.
const REMOVED_AT_ONCE: usize = 50;
/// The status of a queue is written at most this often.
const QUEUES_EVERY: Duration = Duration::from_secs(10);
/// Name of the leader's Lease.
const ELECTION: &str = "idlewild-hub";

/// How to run.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Namespace of the hub.
    pub namespace: String,
    /// Where metrics and probes are served.
    pub listen: SocketAddr,
    /// Whether to wait for leadership; without, several processes work at once, which is harmless.
    pub elect: bool,
    /// Name of this process among the candidates.
    pub identity: String,
    /// The hub's store was restored from a backup: raise the incarnation first.
    pub restored: bool,
}

/// Runs until the process is told to stop.
///
/// # Errors
/// If the hub's identity cannot be read or the listening address cannot be used.
pub async fn run(
    client: Client,
    process: Process,
    settings: Settings,
    stop: impl Future<Output = ()>,
) -> Result<(), Error> {
    let gates: Gates = Arc::new(Mutex::new(vec!["start".to_owned()]));
    let shown = gates.clone();
    let Process { registry, common } = process;
    let figures = (metrics::Hub::new(&registry), common);
    let show = Arc::new(move || shown.lock().map(|gates| gates.clone()).unwrap_or_default());
    let server = tokio::spawn(http::serve(settings.listen, registry, show));
    let listen = settings.listen;
    tokio::select! {
        result = serve(client, settings, (Clock::default(), gates), figures, stop) => result,
        ended = server => Err(Error::Unfit {
            reason: format!("cannot serve on {listen}: {ended:?}"),
        }),
    }
}

/// Names of what keeps the hub from working, for whoever asks.
type Gates = Arc<Mutex<Vec<String>>>;

/// Works until it is told to stop.
///
/// # Errors
/// If the hub's identity cannot be read.
pub(crate) async fn serve(
    client: Client,
    settings: Settings,
    (clock, gates): (Clock, Gates),
    (counted, common): (metrics::Hub, metrics::Common),
    stop: impl Future<Output = ()>,
) -> Result<(), Error> {
    let identity = identity::read(&client, &settings).await?;
    info!(hub = identity.id, incarnation = identity.incarnation, "hub starts");
    let (sender, receiver) = mpsc::channel(4096);
    let watches = watching::everything(&client, &sender);
    let (leads, leader) = watch::channel(!settings.elect);
    let election = Arc::new(Election::new(
        client.clone(),
        (&settings.namespace, ELECTION),
        settings.identity.clone(),
        clock.clone(),
    ));
    let (candidate, elect) = (election.clone(), settings.elect);
    let held = async move {
        if !elect {
            return std::future::pending().await;
        }
        // A leader that cannot renew stands back and tries again: what it knows is still true.
        loop {
            candidate.win().await;
            leads.send_replace(true);
            candidate.hold().await;
            leads.send_replace(false);
        }
    };
    let hand = Hand { client: client.clone(), home: settings.namespace.clone(), answers: sender };
    let mut hub = Loop::new(identity, hand, gates, (Figures::new(counted, common), clock));
    hub.restored = settings.restored;
    tokio::select! {
        biased;
        () = stop => {}
        () = hub.run(receiver, leader) => {}
        never = held => never,
        () = watches => {}
    }
    if elect {
        election.resign().await;
    }
    Ok(())
}

/// The one loop.
struct Loop {
    state: State,
    identity: Identity,
    hand: Hand,
    gates: Gates,
    figures: Figures,
    writes: Arc<Semaphore>,
    /// Tasks that write; they end with the loop.
    writing: JoinSet<()>,
    clock: Clock,
    /// Its store was restored, and it has not led since.
    restored: bool,
    removals: BTreeMap<String, (Instant, BTreeSet<String>)>,
    queues_at: Instant,
    /// When it last decided.
    decided: Instant,
}

impl Loop {
    fn new(
        identity: Identity,
        hand: Hand,
        gates: Gates,
        (figures, clock): (Figures, Clock),
    ) -> Self {
        let now = clock.instant();
        let memory = Memory::new(identity.incarnation);
        Self {
            state: State { memory, ..State::default() },
            identity,
            hand,
            gates,
            figures,
            writes: Arc::new(Semaphore::new(WRITES)),
            writing: JoinSet::new(),
            clock,
            restored: false,
            removals: BTreeMap::new(),
            queues_at: now,
            decided: now,
        }
    }

    async fn run(mut self, mut events: mpsc::Receiver<Event>, mut leader: watch::Receiver<bool>) {
        let mut working = false;
        loop {
            let wake = self.clock.due(self.wake(working));
            tokio::select! {
                biased;
                Ok(()) = leader.changed() => {}
                event = events.recv() => match event {
                    Some(event) => self.take_with_followers(event, &mut events).await,
                    None => return,
                },
                () = tokio::time::sleep_until(wake) => {}
            }
            let closed = self.state.closed_gates();
            let ready = closed.is_empty();
            if let Ok(mut gates) = self.gates.lock() {
                *gates = closed.into_iter().map(str::to_owned).collect();
            }
            if !ready || !*leader.borrow() {
                // What happens meanwhile is counted by whoever leads.
                self.state.tally = tally::Tally::default();
                if std::mem::take(&mut working) {
                    self.figures.hide();
                }
                continue;
            }
            if !working {
                working = true;
                self.begin(self.clock.instant());
            }
            self.pass(Now { instant: self.clock.instant(), wall: self.clock.wall() });
            self.decided = self.clock.instant();
        }
    }

    /// Takes in an event and those that come right after a decision: the first one after a while is
    /// decided on at once.
    async fn take_with_followers(&mut self, event: Event, events: &mut mpsc::Receiver<Event>) {
        let until = self.clock.due(self.decided + COALESCED);
        self.state.take(event, self.clock.instant());
        let mut coalesced = 0;
        while let Ok(Some(event)) = tokio::time::timeout_at(until, events.recv()).await {
            self.state.take(event, self.clock.instant());
            coalesced += 1;
        }
        self.figures.common.coalesced.with_label_values(&["hub"]).inc_by(coalesced);
    }

    /// Everything is known and this process leads: look at everything once.
    fn begin(&mut self, now: Instant) {
        info!(
            jobs = self.state.jobs.len(),
            leases = self.state.leases.len(),
            members = self.state.members.len(),
            "hub works"
        );
        self.figures.hub.leads.set(1);
        self.state.leave_out_deafness(now);
        self.state.recall_silence(now);
        if std::mem::take(&mut self.restored) {
            self.state.memory.doubt_all(now);
        }
        rounds::recall_promises(&mut self.state);
        let names = self.state.members.iter().map(|(_, member)| member.name_any());
        let names: Vec<_> = names.collect();
        self.state.dirty_members.extend(names);
        let orphaned: Vec<_> = self.state.leases_of.keys().cloned().collect();
        self.state.dirty.extend(orphaned);
        self.state.everything_if(true);
    }

    /// Decides everything that can be decided, and starts the writes.
    fn pass(&mut self, now: Now) {
        while let Some(ended) = self.writing.try_join_next() {
            if let Err(broken) = ended {
                error!(error = chain(&broken), "a write broke");
            }
        }
        self.state.doubt(now.instant);
        self.figures.count(std::mem::take(&mut self.state.tally));
        self.identity.incarnation = self.state.memory.incarnation;
        let timer = self.figures.hub.round_seconds.start_timer();
        let work = rounds::decide(&mut self.state, &self.identity, now);
        timer.observe_duration();
        for work in work {
            match work {
                Work::Remove(key) => {
                    let gathered = self.removals.entry(key.0.clone());
                    let (_, names) = gathered.or_insert_with(|| (now.instant, BTreeSet::new()));
                    names.insert(key.1.clone());
                    self.state.removing.insert(key);
                }
                work => self.start("job", move |hand| async move { hand.carry_out(work).await }),
            }
        }
        for work in members::decide(&mut self.state, now.instant, now.wall) {
            self.start("member", move |hand| async move { hand.member(work).await });
        }
        self.remove_gathered(now.instant);
        if now.instant >= self.queues_at {
            self.queues_at = now.instant + QUEUES_EVERY;
            self.report(now);
        }
    }

    /// Carries out in a task of its own what `controller` decided.
    fn start<F>(&mut self, controller: &'static str, carry_out: impl FnOnce(Hand) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (writes, gauge) = (self.writes.clone(), self.figures.hub.writes.clone());
        let time = self.figures.common.reconcile_seconds.with_label_values(&[controller]);
        let carried = carry_out(self.hand.clone());
        self.writing.spawn(async move {
            let _permit = writes.acquire_owned().await;
            gauge.inc();
            let timer = time.start_timer();
            carried.await;
            timer.observe_duration();
            gauge.dec();
        });
    }

    fn remove_gathered(&mut self, now: Instant) {
        let ripe = |(_, (since, names)): (&String, &(Instant, BTreeSet<String>))| {
            now >= *since + GATHERED || names.len() >= REMOVED_AT_ONCE
        };
        let namespaces: Vec<String> = self
            .removals
            .iter()
            .filter(|entry| ripe(*entry))
            .map(|(namespace, _)| namespace.clone())
            .collect();
        for namespace in namespaces {
            let Some((_, names)) = self.removals.remove(&namespace) else { continue };
            let names: Vec<String> = names.into_iter().collect();
            for names in names.chunks(REMOVED_AT_ONCE).map(<[String]>::to_vec) {
                let namespace = namespace.clone();
                let remove = move |hand: Hand| async move { hand.remove(namespace, names).await };
                self.start("removal", remove);
            }
        }
    }

    /// Writes the statuses of queues that changed, and shows gauges.
    fn report(&mut self, now: Now) {
        self.figures.show(&self.state, now);
        let queues: Vec<_> = self.state.queues.iter().map(|(_, queue)| queue.clone()).collect();
        for queue in queues {
            let status = queues::status(&self.state, &queue, now);
            if queue.status.as_ref() != Some(&status) {
                let write = move |hand: Hand| async move { hand.queue(queue, status).await };
                self.start("queue", write);
            }
        }
    }

    /// When to pass without an event.
    fn wake(&self, working: bool) -> Instant {
        let now = self.clock.instant();
        let far = now + QUEUES_EVERY;
        if !working {
            return far;
        }
        let notes = self.state.notes.values().filter(|notes| !notes.busy);
        let jobs = notes.filter_map(|notes| notes.due);
        let members = self.state.silence.values().filter_map(|silence| silence.next_look(now));
        let failed = self.state.due_members.values().copied();
        let deaf = self.state.unobserved.turns().map(|(_, at)| at).filter(|at| *at > now);
        let removals = self.removals.values().map(|(since, _)| *since + GATHERED);
        let later = self.state.later.values().copied();
        let all = jobs
            .chain(later)
            .chain(members)
            .chain(deaf)
            .chain(failed)
            .chain(removals)
            .chain(self.state.round_at)
            .chain(self.state.memory.again)
            .chain([self.queues_at, far]);
        all.min().unwrap_or(far).max(now)
    }
}

impl Hand {
    /// Writes the status of a queue; a failure is made good by the next report.
    async fn queue(&self, queue: crate::api::GpuQueue, status: crate::api::GpuQueueStatus) {
        let api = Api::all(self.client.clone());
        let old = queue.status.clone();
        let written = crate::cluster::apply::status(
            &api,
            &queue,
            old.as_ref(),
            &status,
            "write queue status",
        );
        match written.await {
            Ok(Some(fresh)) => self.tell(Answer::Queue(Box::new(fresh))).await,
            Ok(None) => {}
            Err(error) => drop(work::delay(&error, "write queue status")),
        }
    }
}
