//! Which members are silent, for how long that counts, and when it is this hub that hears nobody.

use std::time::{Duration, Instant};

use kube::ResourceExt;

use super::members::JOINED;
use super::state::{State, member_in, namespace_of};
use crate::api::conditions;
use crate::api::gpulease::{GpuLease, LeasePhase};
use crate::cluster::cache::{self, Change};
use crate::engine::lifecycle::failover::suspects_itself;

/// Members send heartbeats every ten seconds, so that two in a row of all of them were not heard.
const DEAF_AFTER: Duration = Duration::from_secs(20);

impl State {
    /// If nobody at all was heard for a while, it was this process that heard nobody, as when its
    /// API server is away: no member's silence.
    pub(super) fn leave_out_deafness(&mut self, now: Instant) {
        let gap = self.heard.map(|heard| now.saturating_duration_since(heard));
        if let Some(gap) = gap.filter(|gap| *gap > DEAF_AFTER) {
            self.silence.values_mut().for_each(|silence| silence.leave_out(gap, now));
            self.unobserved.begin_anew(now);
        }
    }

    /// Whether `member` sends no heartbeats, or sends them and takes no notice of its leases.
    #[must_use]
    pub(super) fn is_silent(&self, member: &str, now: Instant) -> bool {
        let beats = self.silence.get(member).is_some_and(|silence| !silence.is_silent(now));
        !beats || self.unobserved.is_deaf(&namespace_of(member), now)
    }

    /// For how many seconds `member` has sent no heartbeat, as far as its work may be run elsewhere for
    /// it: none if so many fell silent at once that this hub rather suspects itself.
    #[must_use]
    pub(super) fn silent_seconds(&self, member: &str, now: Instant) -> u64 {
        let deaf = self.heard.is_none_or(|heard| now.saturating_duration_since(heard) > DEAF_AFTER);
        if deaf || self.suspected.is_some() {
            return 0;
        }
        // What a former leader counted may be over by now: it is looked at for a while first.
        let silence = self.silence.get(member);
        let silence = silence.filter(|one| one.unheard(now).is_some_and(|own| own > DEAF_AFTER));
        silence.and_then(|silence| silence.lasts(now)).map_or(0, |lasts| lasts.as_secs())
    }

    /// Pods that began while their member sent no heartbeat live longer than its silence says.
    pub(super) fn note_running(&mut self, change: &Change<GpuLease>, now: Instant) {
        let key = match change {
            Change::Removed(lease) => {
                self.ran.remove(&cache::key(lease));
                return;
            }
            Change::Set(key) => key,
        };
        let status = self.leases.get(key).and_then(|lease| lease.status.as_ref());
        let runs = status.is_some_and(|status| status.phase == Some(LeasePhase::Running));
        // Of what is listed at the start nobody knows since when.
        let news = runs && self.ran.insert(key.clone()) && self.leases.is_complete();
        let member = member_in(&key.0).filter(|_| news);
        if let Some(silence) = member.and_then(|member| self.silence.get_mut(&member)) {
            silence.alive(now);
        }
    }

    /// Looks whether this hub rather suspects itself. What it did not hear while it did is not held
    /// against members which are still to come back: their silence counts anew.
    pub(super) fn doubt(&mut self, now: Instant) {
        let suspected = self.suspects_itself(now);
        let before = std::mem::replace(&mut self.suspected, suspected);
        if before.is_some() && self.suspected.is_none() {
            self.silence.values_mut().for_each(|silence| silence.alive(now));
        }
    }

    /// How many members are silent, and of how many, if this hub rather suspects itself.
    #[must_use]
    fn suspects_itself(&self, now: Instant) -> Option<(usize, usize)> {
        // Those that leave are the operator's word that they are gone, not this hub's guess.
        let known = self.members.iter().map(|(_, member)| member);
        let known = known.filter(|member| member.metadata.deletion_timestamp.is_none());
        let known: Vec<_> =
            known.filter_map(|member| self.silence.get(&member.name_any())).collect();
        // Two beats that did not come are enough: those that are cut off at once beat at other times.
        let lasts = known.iter().filter_map(|silence| silence.lasts(now));
        let silences: Vec<u64> =
            lasts.filter(|lasts| *lasts > DEAF_AFTER).map(|lasts| lasts.as_secs()).collect();
        suspects_itself(&silences, known.len()).then_some((silences.len(), known.len()))
    }

    /// Carries on the silence that a former leader counted, now that members are known.
    pub(super) fn recall_silence(&mut self, now: Instant) {
        // One that joined, and whose heartbeat is gone, is neither given up at once nor waited for for ever.
        for (_, member) in self.members.iter() {
            let Some(status) = &member.status else { continue };
            if conditions::is_true(&status.conditions, JOINED) {
                let silence = self.silence.entry(member.name_any()).or_default();
                silence.miss(status.silent_seconds, now);
            }
        }
        for (name, silence) in &mut self.silence {
            let member = self.members.get(&(String::new(), name.clone()));
            let status = member.and_then(|member| member.status.as_ref());
            silence.recall(status.and_then(|status| status.silent_seconds), now);
        }
    }
}
