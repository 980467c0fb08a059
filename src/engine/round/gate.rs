//! What quotas and back-offs allow, pools apart.

use std::collections::BTreeMap;

use super::{Round, gpus};
use crate::engine::fit::clamp;
use crate::engine::model::{Demand, ModelChoice, PoolId, Refusal, Request, Snapshot, Waiting};
use crate::engine::placement::{Answer, answer, answers, holds};
use crate::engine::queues::Limit;

/// Requests for one model each, of those that wait in queues with a quota for single models: what
/// a quota forbids of one model, another may allow.
pub(in crate::engine) struct Variants<'a>(BTreeMap<&'a Request, Vec<Request>>);

impl<'a> Variants<'a> {
    /// Those of all demands.
    pub(in crate::engine) fn of(snapshot: &'a Snapshot) -> Self {
        let mut variants = BTreeMap::new();
        let mut models: Vec<&str> = Vec::new();
        for demand in &snapshot.demands {
            let queue = snapshot.queues.get(&demand.queue);
            if queue.is_none_or(|queue| queue.quota.iter().all(|quota| quota.model.is_none())) {
                continue;
            }
            if models.is_empty() {
                let shapes = snapshot.pools.values().flat_map(|pool| &pool.shapes);
                models = shapes.map(|shape| shape.model.as_str()).collect();
                models.sort_unstable();
                models.dedup();
            }
            let request = &*demand.request;
            variants.entry(request).or_insert_with(|| singles(request, &models));
        }
        Self(variants)
    }

    fn get(&self, request: &Request) -> Option<&[Request]> {
        self.0.get(request).map(Vec::as_slice)
    }
}

/// The request for each single model that will do, most wanted first.
fn singles(request: &Request, all: &[&str]) -> Vec<Request> {
    let any = |model: &&str| ModelChoice { model: (*model).to_owned(), min_memory: None };
    let choices: Vec<ModelChoice> = match request.models.is_empty() {
        true => all.iter().map(any).collect(),
        false => request.models.clone(),
    };
    let single = |choice| Request { models: vec![choice], ..request.clone() };
    choices.into_iter().map(single).collect()
}

impl<'a> Round<'a> {
    /// Why not even one replica may be placed now, pools apart.
    pub(in crate::engine) fn gate(&self, demand: &Demand) -> Option<Waiting> {
        self.allowed(demand).err()
    }

    /// How many replicas quota and back-off allow: 1 or more.
    pub(super) fn allowed(&self, demand: &Demand) -> Result<u32, Waiting> {
        let Some(queue) = self.accounts.queue(&demand.queue) else {
            return Err(Waiting::QueueNotAllowed);
        };
        if queue.held {
            return Err(Waiting::QueueHeld);
        }
        let need = gpus(&demand.request);
        let limits = self.limits(demand);
        if let Some(limits) = &limits
            && let Some(most) = limits.iter().max_by_key(|limit| limit.most)
            && most.most < need
        {
            let (model, quota) = (most.model.clone(), most.most);
            return Err(Waiting::ExceedsMaxQuota { model, quota, need });
        }
        // Before the quota: others may use that up meanwhile, and its reason would flap.
        if let Some(until) = demand.not_before.filter(|until| *until > self.snapshot.now) {
            return Err(Waiting::BackOff { until });
        }
        let Some(limits) = limits else { return Ok(u32::MAX) };
        let Some(limit) = limits.into_iter().max_by_key(|limit| limit.room) else {
            return Ok(u32::MAX);
        };
        match limit.room.checked_div(need).map_or(u32::MAX, clamp) {
            0 => Err(Waiting::WaitingForQuota { limit, need }),
            room => Ok(room),
        }
    }

    /// The tightest limit for each model that will do; `None` if one of them has none.
    fn limits(&self, demand: &Demand) -> Option<Vec<Limit>> {
        match self.variants.get(&demand.request) {
            Some(singles) if !singles.is_empty() => {
                singles.iter().map(|single| self.limit_of(demand, single)).collect()
            }
            _ => self.accounts.total(&demand.queue).map(|limit| vec![limit]),
        }
    }

    fn limit_of(&self, demand: &Demand, single: &Request) -> Option<Limit> {
        self.accounts.limit(&demand.queue, &single.models.first()?.model)
    }

    /// What to ask pools for, most wanted first: the request itself, or one for each model that the
    /// queue's quota still allows.
    pub(super) fn wishes(&self, demand: &'a Demand) -> Vec<&'a Request> {
        let Some(singles) = self.variants.get(&demand.request) else {
            return vec![&demand.request];
        };
        let need = gpus(&demand.request);
        let open = |single: &&Request| {
            self.limit_of(demand, single).is_none_or(|limit| limit.room >= need)
        };
        singles.iter().filter(open).collect()
    }

    /// Why the demand waits if no pool took what its quota allows.
    pub(super) fn no_pool(&mut self, demand: &'a Demand, first: BTreeMap<Refusal, u32>) -> Waiting {
        if self.variants.get(&demand.request).is_none() {
            return Waiting::NoPool { refusals: self.kept_apart(demand, first) };
        }
        let request = &*demand.request;
        match self.known.place_as(demand, request, &self.book) {
            super::Verdict::Refused(refusals) => {
                Waiting::NoPool { refusals: self.kept_apart(demand, refusals) }
            }
            // A model is free that the quota does not allow any more.
            super::Verdict::Chosen(choice) => {
                let need = gpus(request);
                match self.accounts.limit(&demand.queue, choice.replica.model) {
                    Some(limit) => Waiting::WaitingForQuota { limit, need },
                    None => Waiting::NoPool { refusals: first },
                }
            }
        }
    }

    /// What every pool says to the demand now; one that has room, but keeps it, says so.
    pub(in crate::engine) fn answers(&self, demand: &Demand) -> Vec<(&'a PoolId, Answer)> {
        let mut said = answers(demand, &self.book);
        for (place, _) in self.kept_from(demand) {
            said[place].1 = Answer::Refused(Refusal::KeptForOthers);
        }
        said
    }

    /// The refusals with those pools apart that have room, but keep it. What was said of a request is
    /// said again in a round, as thousands may ask the same.
    fn kept_apart(
        &mut self,
        demand: &'a Demand,
        mut refusals: BTreeMap<Refusal, u32>,
    ) -> BTreeMap<Refusal, u32> {
        if !self.reservations.keep_something() {
            return refusals;
        }
        if let Some(told) = self.told.get(&*demand.request).filter(|_| demand.barred.is_empty()) {
            return told.clone();
        }
        for (_, why) in self.kept_from(demand) {
            if let Some(count) = refusals.get_mut(&why) {
                *count -= 1;
                *refusals.entry(Refusal::KeptForOthers).or_default() += 1;
            }
        }
        refusals.retain(|_, count| *count > 0);
        if demand.barred.is_empty() {
            self.told.insert(&demand.request, refusals.clone());
        }
        refusals
    }

    /// Pools that would take the demand if they kept nothing for others, and what else they would say.
    fn kept_from(&self, demand: &Demand) -> Vec<(usize, Refusal)> {
        let kept = self.reservations.kept().filter_map(|(place, more)| {
            let Answer::Refused(short @ (Refusal::TooFewFreeGpus | Refusal::TooLittleCpuOrMemory)) =
                answer(demand, &self.book, place)
            else {
                return None;
            };
            holds(&demand.request, &self.book.pool(place).and(&more)).then_some((place, short))
        });
        kept.collect()
    }
}
