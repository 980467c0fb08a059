//! The loop that keeps a hub's `GpuLeases` and our `GuestLeases` in step.
//!
//! Invariant: one task owns all that is known; a lease with a step under way is not decided again
//! before that step ended. After each complete list of the hub's leases, what happened is reported
//! first, and only then is new work taken.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::pin::Pin;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use kube::{Client, ResourceExt};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::Instant;

use super::act::{Hand, News};
use super::decide::{REMEMBERED, Step, Terms, Verdict, decide};
use super::held::Held;
use super::{Link, watching};
use crate::api::digest::{guest_name, hub_label};
use crate::api::gpulease::LeasePhase;
use crate::api::{GpuLease, GuestLease, LABEL_HUB};
use crate::cluster::Seen;
use crate::cluster::watch::feed;

/// Most ended guests of a hub that are remembered.
const MOST_REMEMBERED: usize = 5_000;
/// Requests under way at once for one hub.
const AT_ONCE: usize = 32;
/// How often what waits for time to pass is looked at.
const TICK: Duration = Duration::from_secs(1);

/// What the loop hears.
enum Event {
    Lease(Seen<GpuLease>),
    Guest(Seen<GuestLease>),
}

/// Keeps the two kinds in step for ever.
pub(super) async fn run(link: &Link, hub: &Client) -> Infallible {
    let (sender, mut events) = mpsc::channel(256);
    let label = format!("{LABEL_HUB}={}", hub_label(&link.grant.spec.hub_id));
    let permits = Semaphore::new(AT_ONCE);
    let mut desk = Desk::new(link, hub, &permits);
    let guests = feed(link.guests(), Some(&label), sender.clone(), Event::Guest);
    let work = async {
        let mut ticks = tokio::time::interval(TICK);
        loop {
            desk.pump();
            tokio::select! {
                biased; // what is rarest goes first: nothing waits for ever
                _ = ticks.tick() => desk.tick(),
                Some(landed) = desk.flights.next() => desk.land(landed),
                Some(event) = events.recv() => desk.hear(event),
            }
        }
    };
    tokio::select! {
        biased;
        never = watching::run(link, hub, sender, Event::Lease) => never,
        () = guests => unreachable!("the channel outlives the watch"),
        never = work => never,
    }
}

/// A step that ended: the lease's name, what became known, and failures in a row.
type Landed = (String, Vec<News>, u32);
type Flight<'a> = Pin<Box<dyn Future<Output = Landed> + Send + 'a>>;

struct Desk<'a> {
    link: &'a Link,
    hub: &'a Client,
    permits: &'a Semaphore,
    leases: Held<GpuLease>,
    guests: Held<GuestLease>,
    dirty: BTreeSet<String>,
    flights: FuturesUnordered<Flight<'a>>,
    flying: BTreeSet<String>,
    /// Leases and guests that went while a step about them was under way.
    gone_leases: BTreeSet<String>,
    gone_guests: BTreeSet<String>,
    /// Failures in a row of leases whose last step failed.
    failures: BTreeMap<String, u32>,
    /// When to decide again although nothing changed.
    due: BTreeMap<String, Instant>,
    /// Since when the guest of a lease that needs one is missing.
    missing: BTreeMap<String, Instant>,
    /// Leases that must be reported before new work is taken.
    owed: BTreeSet<String>,
    /// New leases that wait until everything owed was reported.
    held_back: BTreeSet<String>,
    /// UIDs of leases that the hub was seen to remove, by name, while their guests do not say so.
    buried: BTreeMap<String, String>,
    /// Ended guests beyond those that are remembered.
    excess: BTreeSet<String>,
    ticks: u32,
}

impl<'a> Desk<'a> {
    fn new(link: &'a Link, hub: &'a Client, permits: &'a Semaphore) -> Self {
        Self {
            link,
            hub,
            permits,
            leases: Held::new(|lease: &GpuLease| Some(lease.name_any())),
            guests: Held::new(|guest: &GuestLease| {
                let (hub_id, name) = (&guest.spec.hub_id, &guest.spec.lease_name);
                (guest.name_any() == guest_name(hub_id, name)).then(|| name.clone())
            }),
            dirty: BTreeSet::new(),
            flights: FuturesUnordered::new(),
            flying: BTreeSet::new(),
            gone_leases: BTreeSet::new(),
            gone_guests: BTreeSet::new(),
            failures: BTreeMap::new(),
            due: BTreeMap::new(),
            missing: BTreeMap::new(),
            owed: BTreeSet::new(),
            held_back: BTreeSet::new(),
            buried: BTreeMap::new(),
            excess: BTreeSet::new(),
            ticks: 0,
        }
    }

    fn is_complete(&self) -> bool {
        self.leases.is_complete() && self.guests.is_complete()
    }

    fn takes_new_work(&self) -> bool {
        self.owed.is_empty() && !self.leases.is_listing()
    }

    fn hear(&mut self, event: Event) {
        let listed = matches!(event, Event::Lease(Seen::Listed) | Event::Guest(Seen::Listed));
        if let Event::Lease(Seen::Gone(lease)) = &event {
            self.bury(lease);
        }
        let (leases, guests) = match event {
            Event::Lease(seen) => (self.leases.see(seen), Vec::new()),
            Event::Guest(seen) => (Vec::new(), self.guests.see(seen)),
        };
        for name in leases.iter().filter(|name| self.flying.contains(*name)) {
            note(&mut self.gone_leases, name, self.leases.get(name).is_none());
        }
        for name in guests.iter().filter(|name| self.flying.contains(*name)) {
            note(&mut self.gone_guests, name, self.guests.get(name).is_none());
        }
        self.dirty.extend(leases);
        self.dirty.extend(guests);
        if listed && self.is_complete() {
            let both = self.guests.iter().filter(|(name, _)| self.leases.get(name).is_some());
            self.owed = both.map(|(name, _)| name.clone()).collect();
            self.dirty.extend(self.owed.iter().cloned());
        }
    }

    /// Notes that the hub removed `lease`. Its watch said so of this UID, which never comes back: that
    /// is a fact, while a lease that is merely not held would have to be looked for.
    fn bury(&mut self, lease: &GpuLease) {
        let name = lease.name_any();
        if let (Some(uid), Some(guest)) = (lease.uid(), self.guests.get(&name))
            && guest.spec.lease_uid == uid
        {
            self.buried.insert(name, uid);
        }
    }

    /// Decides everything that changed and starts the steps that follow.
    fn pump(&mut self) {
        if !self.is_complete() {
            return;
        }
        let ready: Vec<String> = self.dirty.difference(&self.flying).cloned().collect();
        for name in ready {
            self.dirty.remove(&name);
            self.consider(name);
        }
        if self.takes_new_work() && !self.held_back.is_empty() {
            for name in std::mem::take(&mut self.held_back) {
                self.consider(name);
            }
        }
    }

    fn consider(&mut self, name: String) {
        let (lease, guest) = (self.leases.get(&name), self.guests.get(&name));
        if guest.is_none_or(|guest| guest.spec.forgotten) {
            self.buried.remove(&name);
        }
        let since = match (lease, guest) {
            (Some(_), None) => *self.missing.entry(name.clone()).or_insert_with(Instant::now),
            _ => {
                self.missing.remove(&name);
                Instant::now()
            }
        };
        let terms = Terms {
            grant: self.link.grant.name.clone(),
            hub_id: self.link.grant.spec.hub_id.clone(),
            highest: self.link.record.highest(),
            missing: since.elapsed(),
            remembered: if self.excess.contains(&name) { Duration::ZERO } else { REMEMBERED },
            now: self.link.clock.wall(),
        };
        self.link.orphans.note(&name, (lease, guest), &terms.grant);
        let verdict = decide(lease, guest, &terms);
        self.due.remove(&name);
        if !matches!(verdict, Verdict::Act(Step::Report(_))) {
            self.owed.remove(&name);
        }
        match verdict {
            Verdict::Act(Step::Propose) if !self.takes_new_work() => {
                self.held_back.insert(name);
            }
            Verdict::Act(step) => self.start(name, step),
            Verdict::Later(wait) => drop(self.due.insert(name, Instant::now() + wait)),
            Verdict::Rest => {}
        }
    }

    fn start(&mut self, name: String, step: Step) {
        let guest = self.guests.get(&name).cloned();
        let uid = guest.as_ref().map(|guest| &guest.spec.lease_uid);
        let hand = Hand {
            link: self.link,
            hub: self.hub,
            permits: self.permits,
            name: name.clone(),
            lease: self.leases.get(&name).cloned(),
            buried: uid.is_some_and(|uid| self.buried.get(&name) == Some(uid)),
            guest,
        };
        let failures = self.failures.get(&name).copied().unwrap_or(0);
        self.flying.insert(name.clone());
        self.flights.push(Box::pin(async move {
            let began = Instant::now();
            let (news, failures) = hand.carry_out(step, failures).await;
            hand.link.figures.stepped(began.elapsed());
            (name, news, failures)
        }));
    }

    fn land(&mut self, (name, news, failures): Landed) {
        self.flying.remove(&name);
        self.owed.remove(&name);
        match failures {
            0 => self.failures.remove(&name),
            _ => self.failures.insert(name.clone(), failures),
        };
        let (no_lease, no_guest) = (self.gone_leases.remove(&name), self.gone_guests.remove(&name));
        for news in news {
            match news {
                // What went while the step was under way stays gone: the watch is ahead of the answer.
                News::Lease(_) if no_lease => {}
                News::Guest(_) if no_guest => {}
                News::Lease(lease) => drop(self.leases.answered(*lease)),
                News::Guest(guest) => drop(self.guests.answered(*guest)),
                News::NoLease => self.leases.remove(&name),
                News::NoGuest => self.guests.remove(&name),
            }
        }
        self.dirty.insert(name);
    }

    fn tick(&mut self) {
        let now = Instant::now();
        let due = self.due.iter().filter(|(_, at)| **at <= now);
        self.dirty.extend(due.map(|(name, _)| name.clone()));
        self.ticks = self.ticks.wrapping_add(1);
        if self.ticks.is_multiple_of(60) {
            self.excess = self.excess();
            self.dirty.extend(self.excess.iter().cloned());
        }
    }

    /// The ended guests, oldest first, that are more than are remembered.
    fn excess(&self) -> BTreeSet<String> {
        let mut ended: Vec<_> = self
            .guests
            .iter()
            .filter(|(_, guest)| guest.spec.forgotten && guest.spec.grant == self.link.grant.name)
            .filter_map(|(name, guest)| Some((name, guest.status.as_ref()?)))
            .filter(|(_, status)| status.phase == Some(LeasePhase::Released))
            .map(|(name, status)| (status.end_time.as_ref().map(|end| end.0), name))
            .collect();
        ended.sort_unstable();
        let many = ended.len().saturating_sub(MOST_REMEMBERED);
        ended.into_iter().take(many).map(|(_, name)| name.clone()).collect()
    }
}

/// Notes in `set` whether `name` is in it.
fn note(set: &mut BTreeSet<String>, name: &str, is_in: bool) {
    if is_in {
        set.insert(name.to_owned());
    } else {
        set.remove(name);
    }
}
