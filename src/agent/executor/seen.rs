//! What watches saw of leases and pods, and how writes ended, taken into what is known.

use std::sync::Arc;

use k8s_openapi::jiff::Timestamp;

use super::asking;
use super::event::{Noted, Written, noted};
use super::guest::Guest;
use super::lost;
use super::outcome;
use super::pod::{Pod, Role};
use super::state::{State, is_over, is_wish, plan_id};
use super::step::Task;
use super::store::Put;
use super::usage::Entry;
use crate::api::GuestLease;
use crate::api::template::PodTemplate;
use crate::cluster::{Outcome, Seen};

impl State {
    pub(super) fn see_lease(&mut self, seen: Seen<Noted<GuestLease>>) {
        let gone = match seen {
            Seen::Listing => return self.leases.begin(),
            Seen::Broken => return,
            Seen::Object(lease) => return self.put_lease(lease),
            Seen::Listed => self.leases.finish(),
            Seen::Gone(lease) => vec![lease.uid],
        };
        for uid in gone {
            self.lease_gone(&uid);
        }
    }

    fn put_lease(&mut self, Noted { uid, version, mut item }: Noted<GuestLease>) {
        let status = item.status.as_ref();
        let over = is_over(&item);
        if over {
            // An ended lease makes no pods: its template is only weight.
            item.spec.template = PodTemplate::default();
        }
        let serial = status.and_then(|status| status.serial).unwrap_or(0);
        let (pool, confirmed) = (item.spec.pool.clone(), item.spec.confirmed);
        let job = (item.spec.hub_id.clone(), item.spec.job.uid.clone());
        let new = Arc::new(item);
        let old = match self.leases.put(&uid, version, new.clone()) {
            Put::Stale => return,
            Put::New => {
                let request = asking::of_guest(&new);
                if let Some((ask, pods)) = request {
                    self.asked.note(ask, pods);
                }
                None
            }
            Put::Changed(old) => Some(old),
        };
        if let Some(old) = &old {
            self.tally.changed(old, &new);
        }
        self.jobs.entry(job).or_default().insert(uid.clone());
        let entered = self.entered.entry(pool).or_default();
        *entered = (*entered).max(serial);
        self.serial = self.serial.max(serial);
        if over {
            let known = self.known.entry(uid.clone()).or_default();
            let planned = std::mem::take(&mut known.memory.planned);
            known.memory.lost.clear();
            known.memory.unsure.clear();
            known.verdict = None;
            for key in planned.into_keys() {
                self.usages.set(&plan_id(&uid, key), None);
                self.capacity_changed();
            }
        }
        let newly = confirmed && !old.is_some_and(|old| old.spec.confirmed);
        self.judging.due |= newly && serial <= self.policy;
        self.recount(&uid);
        self.dirty.insert(uid);
    }

    fn lease_gone(&mut self, uid: &str) {
        let Some(lease) = self.leases.remove(uid) else { return };
        let job = (lease.spec.hub_id.clone(), lease.spec.job.uid.clone());
        if let Some(uids) = self.jobs.get_mut(&job) {
            uids.remove(uid);
            if uids.is_empty() {
                self.jobs.remove(&job);
            }
        }
        let Some(known) = self.known.get_mut(uid) else { return };
        let planned = std::mem::take(&mut known.memory.planned);
        let wake = known.wake.take();
        let rest = !known.pods.is_empty();
        for key in planned.into_keys() {
            self.usages.set(&plan_id(uid, key), None);
            self.capacity_changed();
        }
        self.recount(uid);
        if let Some(wake) = wake {
            self.wakes.remove(&(wake, uid.into()));
        }
        if !rest {
            self.known.remove(uid);
        }
    }

    pub(super) fn see_pod(&mut self, seen: Seen<Result<Pod, String>>, now: Timestamp) {
        match seen {
            Seen::Listing => self.pods.begin(),
            Seen::Broken => {}
            Seen::Object(Ok(pod)) => self.put_pod(pod, now),
            Seen::Object(Err(uid)) => {
                let waited = self.pods.forget(&uid).is_some_and(|pod| is_wish(&pod));
                if self.usages.set(&uid, None) || waited {
                    self.capacity_changed();
                }
            }
            Seen::Gone(last) => {
                let (uid, last) = match last {
                    Ok(pod) => (pod.uid.clone(), pod.guest().cloned()),
                    Err(uid) => (uid, None),
                };
                self.pod_gone(&uid, last, now);
            }
            Seen::Listed => {
                for uid in self.pods.finish() {
                    self.pod_gone(&uid, None, now);
                }
            }
        }
    }

    fn put_pod(&mut self, mut pod: Pod, now: Timestamp) {
        let uid = pod.uid.clone();
        if let Role::Guest(guest) = &mut pod.role {
            let before = self.known.get(&guest.lease_uid);
            let before = before.and_then(|known| known.pods.get(&guest.key));
            let before = before.filter(|(before, _)| *before == uid).map(|(_, guest)| guest);
            guest.seen = before.map_or(now, |before| before.seen);
            let troubled = before.filter(|before| before.trouble.is_some());
            guest.trouble_seen = troubled.map_or(now, |before| before.trouble_seen);
        }
        let taken = pod.place().map(|node| Entry {
            node: node.into(),
            load: pod.load.clone(),
            guest: pod.guest().is_some(),
            nominated: matches!(&pod.role, Role::Takes { nominated: true, .. }),
            claims: matches!(&pod.role, Role::Takes { claims: true, .. }),
        });
        let guest = pod.guest().cloned();
        // What the owner does with GPUs may be something that no scheduler makes room for.
        let owners = guest.is_none() && pod.load.gpu_count() > 0;
        let (role, load) = (pod.role.clone(), pod.load.clone());
        let waits = matches!(&pod.role, Role::Waits { .. });
        let request = asking::of_owner(&pod);
        let old = match self.pods.put(&uid, pod.version, pod) {
            Put::Stale => return,
            Put::New => {
                if let Some(ask) = request {
                    self.asked.note(ask, 1);
                }
                None
            }
            Put::Changed(old) => Some(old),
        };
        self.judging.due |=
            owners && old.as_ref().is_none_or(|old| (&old.role, &old.load) != (&role, &load));
        if self.usages.set(&uid, taken) || waits || old.is_some_and(|old| is_wish(&old)) {
            self.capacity_changed();
        }
        let Some(guest) = guest else { return };
        let lease = guest.lease_uid.clone();
        let known = self.known.entry(lease.clone()).or_default();
        if known.memory.planned.remove(&guest.key).is_some() {
            self.usages.set(&plan_id(&lease, guest.key), None);
        }
        known.memory.lost.remove(&guest.key);
        known.memory.unsure.remove(&guest.key);
        let key = guest.key;
        known.pods.insert(key, (uid, guest.clone()));
        self.watch_notice(&lease, key, &guest, now);
        self.recount(&lease);
        self.dirty.insert(lease);
    }

    /// The pod is gone; `last` is what the server saw last of it, if it told.
    fn pod_gone(&mut self, uid: &str, last: Option<Guest>, now: Timestamp) {
        let Some(pod) = self.pods.remove(uid) else { return };
        if self.usages.set(uid, None) || is_wish(&pod) {
            self.capacity_changed();
        }
        let Some(seen) = pod.guest() else { return };
        let (lease, key) = (seen.lease_uid.clone(), seen.key);
        let Some(known) = self.known.get_mut(&lease) else { return };
        if known.pods.get(&key).is_none_or(|(held, _)| held != uid) {
            return;
        }
        known.pods.remove(&key);
        known.memory.asked.remove(&key);
        let boot = seen.node.as_ref().and_then(|node| self.boot(node));
        self.vacated(&lease, key, now);
        let Some(known) = self.known.get_mut(&lease) else { return };
        let rebinding = known.rebinding.remove(&key);
        let object = self.leases.get(&lease);
        if let Some(object) = object.filter(|object| !is_over(object) && !rebinding) {
            let limit = object.spec.active_deadline_seconds;
            let status = object.status.as_ref();
            let ending = status.and_then(|status| status.end_reason.as_deref());
            let withdrawn = object.spec.withdrawn.as_ref();
            let cause = known.memory.doomed.get(&key).map(String::as_str).or(ending);
            let cause = cause.or(withdrawn.map(|withdrawn| withdrawn.reason.as_str()));
            let guest = last.as_ref().unwrap_or(seen);
            let end = outcome::vanished(guest, cause, limit, now);
            lost::note(known, object, guest, boot.unwrap_or_default(), end);
        }
        let over = object.is_none() && known.pods.is_empty();
        self.recount(&lease);
        self.dirty.insert(lease.clone());
        if over {
            self.known.remove(&lease);
        }
    }

    pub(super) fn written(&mut self, lease: &str, task: Task, written: Written, now: Timestamp) {
        if let Some(known) = self.known.get_mut(lease) {
            known.memory.busy.remove(&task);
            self.dirty.insert(lease.into());
        }
        match written {
            Written::Lease(lease) => self.put_lease(noted(*lease)),
            Written::Pod(pod) => {
                if let Some(known) = self.known.get_mut(lease) {
                    known.memory.refused = (0, String::new());
                }
                self.put_pod(*pod, now);
            }
            Written::PodGone(uid) => self.pod_gone(&uid, None, now),
            Written::Deleting(uid) => {
                let known = self.known.get_mut(lease);
                if let (Some(known), Task::Pod(key)) = (known, task) {
                    known.memory.asked.insert(key, uid);
                }
            }
            Written::Done => {
                let known = self.known.get_mut(lease).filter(|_| task == Task::Gate);
                if let Some(known) = known {
                    known.memory.gate_open = true;
                }
            }
            Written::Failed(outcome, said) => self.failed(lease, task, outcome, said),
        }
    }

    fn failed(&mut self, lease: &str, task: Task, outcome: Outcome, said: String) {
        let (Some(known), Task::Pod(key)) = (self.known.get_mut(lease), task) else { return };
        if known.rebinding.remove(&key) {
            // It was bound after all, or nobody knows: look at it again.
            return;
        }
        if outcome == Outcome::Refused && !known.pods.contains_key(&key) {
            known.memory.refused = (known.memory.refused.0 + 1, said);
        }
    }
}
