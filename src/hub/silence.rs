//! Which members are silent, for how long that counts, and when it is this hub that hears nobody.

use std::time::{Duration, Instant};

use kube::ResourceExt;

use super::state::{State, namespace_of};
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
        if self.suspects_itself(now).is_some() {
            return 0;
        }
        let lasts = self.silence.get(member).and_then(|silence| silence.lasts(now));
        lasts.map_or(0, |lasts| lasts.as_secs())
    }

    /// How many members are silent, and of how many, if this hub rather suspects itself.
    #[must_use]
    pub(super) fn suspects_itself(&self, now: Instant) -> Option<(usize, usize)> {
        // Those that leave are the operator's word that they are gone, not this hub's guess.
        let known = self.members.iter().map(|(_, member)| member);
        let known = known.filter(|member| member.metadata.deletion_timestamp.is_none());
        let known: Vec<_> =
            known.filter_map(|member| self.silence.get(&member.name_any())).collect();
        let silent = known.iter().filter(|silence| silence.is_silent(now));
        let silences: Vec<u64> =
            silent.filter_map(|silence| Some(silence.lasts(now)?.as_secs())).collect();
        suspects_itself(&silences, known.len()).then_some((silences.len(), known.len()))
    }

    /// Carries on the silence that a former leader counted, now that members are known.
    pub(super) fn recall_silence(&mut self) {
        for (name, silence) in &mut self.silence {
            let member = self.members.get(&(String::new(), name.clone()));
            let status = member.and_then(|member| member.status.as_ref());
            silence.recall(status.and_then(|status| status.silent_seconds));
        }
    }
}
