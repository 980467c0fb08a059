//! Which pools each rule of requests leaves open, found once for all requests that share the rule.
//!
//! Hundreds of different requests name the same few jurisdictions, labels and taints: what is new of a
//! request is then a few sets of bits to meet, and no look at any pool.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::book::{Book, Left, WORD};
use super::cost;
use crate::engine::model::{Closed, LabelRule, Refusal, Request, Toleration};
use crate::engine::rules;
use crate::engine::survival;

/// A bit for each place.
pub(super) type Places = Vec<u64>;

/// What is known of rules by now.
#[derive(Debug, Default)]
pub(super) struct Filters<'a> {
    members: BTreeMap<(&'a BTreeSet<String>, &'a BTreeSet<String>), Places>,
    labels: BTreeMap<&'a LabelRule, Places>,
    tolerations: BTreeMap<&'a [Toleration], Places>,
    residencies: BTreeMap<&'a BTreeSet<String>, Places>,
    namespaces: BTreeMap<&'a str, Places>,
    images: BTreeMap<&'a BTreeSet<String>, Places>,
    notices: BTreeMap<u64, Places>,
    batch: Option<Places>,
    /// Pools that take nothing at all, by why.
    closed: BTreeMap<Closed, Places>,
    /// See [`Filters::costs`], for jobs of so many GPUs and seconds.
    costs: BTreeMap<(u64, u64, u64), Arc<[u32]>>,
}

/// Places that are still open, and how many each rule closed.
struct Open {
    places: Places,
    refusals: BTreeMap<Refusal, u32>,
}

impl Open {
    fn keep(&mut self, allowed: &[u64], why: Refusal) {
        self.close(allowed.iter().map(|word| !word), why);
    }

    fn close(&mut self, closed: impl Iterator<Item = u64>, why: Refusal) {
        let mut count = 0;
        for (open, closed) in self.places.iter_mut().zip(closed) {
            count += (*open & closed).count_ones();
            *open &= !closed;
        }
        if count > 0 {
            *self.refusals.entry(why).or_default() += count;
        }
    }
}

/// The bit of each pool that `is`.
pub(super) fn bits_of(pools: usize, is: impl Fn(usize) -> bool) -> Places {
    let mut places = vec![0; pools.div_ceil(WORD)];
    for place in (0..pools).filter(|place| is(*place)) {
        places[place / WORD] |= 1 << (place % WORD);
    }
    places
}

impl<'a> Filters<'a> {
    /// The pools that no lasting rule keeps from the request, and how many are kept from it by the
    /// first rule that each breaks; `other_models` and `too_small` say what their nodes are to it.
    pub(super) fn open(
        &mut self,
        request: &'a Request,
        book: &Book<'a>,
        (other_models, too_small): (&[u64], &[u64]),
    ) -> (Places, BTreeMap<Refusal, u32>) {
        let pools = book.pools();
        let is = |of: &dyn Fn(&Left) -> bool| bits_of(pools.len(), |place| of(&pools[place]));
        let mut open = Open { places: bits_of(pools.len(), |_| true), refusals: BTreeMap::new() };
        if !request.members.is_empty() || !request.excluded.is_empty() {
            let key = (&request.members, &request.excluded);
            let named = self.members.entry(key);
            let named = named.or_insert_with(|| is(&|left| rules::is_named(request, left.id)));
            open.keep(named, Refusal::NotInAffinity);
        }
        for rule in &request.labels {
            let holds = self.labels.entry(rule);
            let holds = holds.or_insert_with(|| is(&|left| rule.holds(&left.pool.labels)));
            open.keep(holds, Refusal::NotInAffinity);
        }
        let tolerated = self.tolerations.entry(&request.tolerations);
        let tolerated =
            tolerated.or_insert_with(|| is(&|left| rules::is_tolerated(request, left.pool)));
        open.keep(tolerated, Refusal::Tainted);
        if let Some(wanted) = &request.residency {
            let inside = self.residencies.entry(wanted);
            let inside =
                inside.or_insert_with(|| is(&|left| rules::in_residency(request, left.pool)));
            open.keep(inside, Refusal::OutsideResidency);
        }
        let named = self.namespaces.entry(&request.namespace);
        let named = named.or_insert_with(|| is(&|left| rules::takes_namespace(request, left.pool)));
        open.keep(named, Refusal::NamespaceNotAllowed);
        let images = self.images.entry(&request.images);
        let images = images.or_insert_with(|| is(&|left| rules::takes_images(request, left.pool)));
        open.keep(images, Refusal::ImageNotAllowed);
        open.keep(
            self.batch.get_or_insert_with(|| is(&|left| left.pool.takes_batch)),
            Refusal::TypeNotAllowed,
        );
        open.close(other_models.iter().copied(), Refusal::NoMatchingModel);
        let notice = self.notices.entry(request.grace_seconds);
        let notice =
            notice.or_insert_with(|| is(&|left| left.pool.notice_seconds >= request.grace_seconds));
        open.keep(notice, Refusal::NoticeTooShort);
        open.close(too_small.iter().copied(), Refusal::NeverFits);
        for closed in [Closed::Cordoned, Closed::Silent, Closed::NotReady] {
            let places = self.closed.entry(closed);
            let places = places.or_insert_with(|| is(&|left| left.pool.closed == Some(closed)));
            open.close(places.iter().copied(), rules::refusal_of(closed));
        }
        (open.places, open.refusals)
    }

    /// By place, how many lower costs of useful work there are: see [`cost`]. Empty if it costs the same
    /// everywhere.
    pub(super) fn costs(&mut self, request: &Request, book: &Book<'a>) -> Arc<[u32]> {
        let gpus = u64::from(request.size) * u64::from(request.need.gpus);
        let seconds = request.running_seconds.unwrap_or(survival::USUAL);
        let known = self.costs.entry((gpus, seconds, request.checkpoint_seconds));
        let found = known.or_insert_with(|| {
            let costs: Vec<u64> = book.pools().iter().map(|left| cost(request, left)).collect();
            let different: BTreeSet<u64> = costs.iter().copied().collect();
            if different.len() < 2 {
                return Arc::default();
            }
            let places: BTreeMap<u64, u32> = different.into_iter().zip(0..).collect();
            costs.iter().map(|cost| places[cost]).collect()
        });
        found.clone()
    }
}
