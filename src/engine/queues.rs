//! Whose turn it is, and how much a queue may hold: fair shares, quotas, borrowing and lending.
//!
//! **Share.** The dominant share of a queue is the largest part that it has of any model: GPUs that
//! its jobs hold now plus its decayed mean of the past, by GPUs offered (dominant resource fairness,
//! Ghodsi et al., NSDI 2011, with models as resources). It is divided by the queue's weight; the
//! queue with the least goes next. A queue whose organisation lends GPUs weighs more: of all weights
//! W, lending a part f of all GPUs adds f·W, so that contributors get back what they lend when it is
//! short, and those who lend nothing keep at least half of their part.
//!
//! **Quota.** In a cohort a queue may use what others leave, up to its borrowing limit, and keeps
//! for itself what is above its own lending limit. What it lent comes back when jobs end, or by
//! preemption. Words and arithmetic are Kueue's (its cohorts of one level).
//!
//! Invariant: integers only, and the same facts in any order give the same order of queues.

use std::collections::BTreeMap;

use super::model::{Pool, PoolId};

/// Half of what a queue used is forgotten after this time: yesterday's use counts, last week's
/// hardly does.
pub const HALF_LIFE_SECONDS: u64 = 24 * 3600;
/// Shares are parts of this.
const WHOLE: u128 = 1_000_000_000;
/// Weights are thousandths.
const MILLI: u64 = 1000;
/// Decayed means count millionths of GPUs.
const MICRO: u64 = 1_000_000;
/// Two to the power of -2^k / [`HALF_LIFE_SECONDS`] in parts of 2^64, for k = 0, 1, …: what is kept
/// of a value after 1, 2, 4, … seconds.
const KEPT: [u64; 17] = [
    0xffff_7967_9adf_aaa4,
    0xfffe_f2cf_7c83_39df,
    0xfffd_e5a0_1415_7144,
    0xfffb_cb44_9462_3210,
    0xfff7_969a_d97c_6dfd,
    0xffef_2d7c_74af_65c3,
    0xffde_5c13_e6ec_49c2,
    0xffbc_bc93_79ad_8c48,
    0xff79_8ad3_4feb_6409,
    0xfef3_5c45_8040_fe66,
    0xfde7_d272_37b4_7b43,
    0xfbd4_07e3_393a_d9b4,
    0xf7b9_7714_a2ce_672f,
    0xefb7_6a27_2561_ca74,
    0xe077_fb9e_07c8_7ac6,
    0xc4d2_3090_71d9_580d,
    0x9752_86f0_e486_139a,
];

/// A queue as a round sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Queue {
    /// Whether it admits anything new.
    pub held: bool,
    /// How much it counts among queues; 1 or more.
    pub weight: u32,
    /// GPUs that its organisation's members offer now.
    pub contributed: u64,
    /// Queues of one cohort lend each other what they do not use.
    pub cohort: Option<String>,
    /// GPUs that its jobs may hold at once, at most one entry for each model and one for all
    /// together; what none covers has no limit.
    pub quota: Vec<Quota>,
    /// GPUs that its jobs hold by model, allocated ones included.
    pub used: BTreeMap<String, u64>,
    /// Millionths of GPUs that its jobs held by model: the mean that [`decayed`] keeps.
    pub past: BTreeMap<String, u64>,
}

impl Default for Queue {
    fn default() -> Self {
        let (used, past) = (BTreeMap::new(), BTreeMap::new());
        Self { held: false, weight: 1, contributed: 0, cohort: None, quota: Vec::new(), used, past }
    }
}

/// One limit of a queue.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Quota {
    /// For this model; `None` = for all models together.
    pub model: Option<String>,
    /// GPUs that are the queue's own.
    pub gpus: u64,
    /// GPUs beyond those that it may borrow from its cohort; `None` = all that others leave.
    pub borrowing: Option<u64>,
    /// GPUs of its own that others may use while it does not; `None` = all.
    pub lending: Option<u64>,
}

impl Quota {
    /// What of it others may use.
    fn lends(&self) -> u64 {
        self.lending.unwrap_or(self.gpus).min(self.gpus)
    }

    /// What of it is never lent.
    fn kept(&self) -> u64 {
        self.gpus - self.lends()
    }

    fn covers(&self, model: &str) -> bool {
        self.model.as_deref().is_none_or(|covered| covered == model)
    }
}

/// Why a queue may not hold more of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limit {
    /// The model that it is for; `None` = all models together.
    pub model: Option<String>,
    /// The queue's own GPUs under it.
    pub quota: u64,
    /// The most that it could ever hold, with all that it may borrow.
    pub most: u64,
    /// GPUs that its jobs hold under it.
    pub used: u64,
    /// GPUs that they may take now.
    pub room: u64,
}

/// The mean `past` of millionths of GPUs after `seconds` in which `held` GPUs were held:
/// exponentially weighted, half-life [`HALF_LIFE_SECONDS`].
#[must_use]
pub fn decayed(past: u64, held: u64, seconds: u64) -> u64 {
    let halvings = u32::try_from(seconds / HALF_LIFE_SECONDS).unwrap_or(u32::MAX);
    let rest = seconds % HALF_LIFE_SECONDS;
    let kept = |value: u64| {
        let bits = KEPT.iter().enumerate().filter(|(bit, _)| rest >> bit & 1 == 1);
        let value =
            bits.fold(u128::from(value), |left, (_, part)| (left * u128::from(*part)) >> 64);
        u64::try_from(value.checked_shr(halvings).unwrap_or(0)).unwrap_or(u64::MAX)
    };
    let goal = held.saturating_mul(MICRO);
    match past >= goal {
        true => goal.saturating_add(kept(past - goal)),
        false => goal - kept(goal - past),
    }
}

/// What cohorts have lent by now.
#[derive(Clone, Copy, Debug, Default)]
struct Pot {
    /// GPUs that its queues lend.
    lent: u64,
    /// GPUs that its queues hold beyond what each keeps for itself.
    taken: u64,
}

/// A queue in the course of a round.
#[derive(Clone, Debug)]
struct Account<'a> {
    queue: &'a Queue,
    /// Thousandths, with what contribution adds.
    weight: u64,
    /// GPUs that its jobs hold by model, with what this round gave.
    used: BTreeMap<&'a str, u64>,
    /// GPUs that are kept for a job of it that waits long, whatever the model.
    kept: u64,
}

/// All queues in the course of a round.
#[derive(Clone, Debug)]
pub(super) struct Accounts<'a> {
    of: BTreeMap<&'a str, Account<'a>>,
    pots: BTreeMap<(&'a str, Option<&'a str>), Pot>,
    offered: BTreeMap<&'a str, u64>,
}

impl<'a> Accounts<'a> {
    /// All queues as they are, where `offered` GPUs are lent by model.
    pub(super) fn open(
        queues: &'a BTreeMap<String, Queue>,
        offered: BTreeMap<&'a str, u64>,
    ) -> Self {
        let all: u64 = offered.values().sum();
        let weights: u64 = queues.values().map(|queue| u64::from(queue.weight.max(1))).sum();
        let account = |queue: &'a Queue| {
            let part = u128::from(queue.contributed.min(all)) * u128::from(weights * MILLI);
            let added = part.checked_div(u128::from(all)).unwrap_or(0);
            let weight = u64::from(queue.weight.max(1)) * MILLI;
            let added = u64::try_from(added).unwrap_or(u64::MAX);
            let used = queue.used.iter().map(|(model, gpus)| (model.as_str(), *gpus)).collect();
            Account { queue, weight: weight.saturating_add(added), used, kept: 0 }
        };
        let accounts: BTreeMap<&str, Account> =
            queues.iter().map(|(name, queue)| (name.as_str(), account(queue))).collect();
        let mut pots: BTreeMap<(&str, Option<&str>), Pot> = BTreeMap::new();
        for account in accounts.values() {
            let Some(cohort) = account.queue.cohort.as_deref() else { continue };
            for quota in &account.queue.quota {
                let pot = pots.entry((cohort, quota.model.as_deref())).or_default();
                pot.lent = pot.lent.saturating_add(quota.lends());
                pot.taken = pot.taken.saturating_add(account.beyond(quota));
            }
        }
        Self { of: accounts, pots, offered }
    }

    /// The queue, if there is one of that name.
    pub(super) fn queue(&self, name: &str) -> Option<&'a Queue> {
        self.of.get(name).map(|account| account.queue)
    }

    /// The weighted dominant share of a queue: the one with the least goes next.
    pub(super) fn share(&self, name: &str) -> u64 {
        self.share_with(name, None)
    }

    /// The same once it also held `more` GPUs of a model.
    pub(super) fn share_with(&self, name: &str, more: Option<(&str, u64)>) -> u64 {
        let Some(account) = self.of.get(name) else { return u64::MAX };
        let part = |model: &str| {
            let extra = more.filter(|(other, _)| *other == model).map_or(0, |(_, gpus)| gpus);
            let now = account.used.get(model).copied().unwrap_or(0).saturating_add(extra);
            let past = account.queue.past.get(model).copied().unwrap_or(0);
            let micro = u128::from(now) * u128::from(MICRO) + u128::from(past);
            let offered = u128::from(self.offered.get(model).copied().unwrap_or(0).max(1));
            micro * WHOLE / u128::from(MICRO) * u128::from(MILLI)
                / offered
                / u128::from(account.weight)
        };
        let models =
            account.used.keys().copied().chain(account.queue.past.keys().map(String::as_str));
        let models = models.chain(more.map(|(model, _)| model));
        let most = models.map(part).max().unwrap_or(0);
        u64::try_from(most).unwrap_or(u64::MAX)
    }

    /// The tightest limit on what a queue may take of a model; `None` = no limit.
    pub(super) fn limit(&self, name: &str, model: &str) -> Option<Limit> {
        let account = self.of.get(name)?;
        let entries = account.queue.quota.iter().filter(|quota| quota.covers(model));
        entries.map(|quota| self.limit_of(account, quota)).min_by_key(|limit| limit.room)
    }

    /// The limit over all models together; `None` = no limit.
    pub(super) fn total(&self, name: &str) -> Option<Limit> {
        let account = self.of.get(name)?;
        let entry = account.queue.quota.iter().find(|quota| quota.model.is_none())?;
        Some(self.limit_of(account, entry))
    }

    fn limit_of(&self, account: &Account, quota: &Quota) -> Limit {
        let used = account.under(quota);
        let limit = |most: u64, room: u64| {
            let model = quota.model.clone();
            Limit { model, quota: quota.gpus, most, used, room }
        };
        let Some(cohort) = account.queue.cohort.as_deref() else {
            return limit(quota.gpus, quota.gpus.saturating_sub(used));
        };
        let pot = self.pots.get(&(cohort, quota.model.as_deref())).copied().unwrap_or_default();
        let others = pot.lent.saturating_sub(quota.lends());
        let most = quota.gpus.saturating_add(quota.borrowing.unwrap_or(u64::MAX).min(others));
        let own = quota.kept().saturating_sub(used);
        let room = own.saturating_add(pot.lent.saturating_sub(pot.taken));
        limit(most, room.min(most.saturating_sub(used)))
    }

    /// GPUs of a model that a queue holds beyond its own quota.
    pub(super) fn borrowed(&self, name: &str, model: &str) -> u64 {
        let Some(account) = self.of.get(name) else { return 0 };
        let entries = account.queue.quota.iter().filter(|quota| quota.covers(model));
        let beyond = entries.map(|quota| account.under(quota).saturating_sub(quota.gpus));
        beyond.max().unwrap_or(0)
    }

    /// Whether a queue may hold so many more GPUs of a model without borrowing any.
    pub(super) fn owns(&self, name: &str, model: &str, gpus: u64) -> bool {
        let Some(account) = self.of.get(name) else { return false };
        let mut entries = account.queue.quota.iter().filter(|quota| quota.covers(model)).peekable();
        entries.peek().is_some()
            && entries.all(|quota| account.under(quota).saturating_add(gpus) <= quota.gpus)
    }

    /// Counts GPUs that a queue is given.
    pub(super) fn take(&mut self, name: &str, model: &'a str, gpus: u64) {
        self.change(name, |account| {
            let used = account.used.entry(model).or_default();
            *used = used.saturating_add(gpus);
        });
    }

    /// Keeps quota for a job that waits long: nobody else may use it in this round.
    pub(super) fn keep(&mut self, name: &str, gpus: u64) {
        self.change(name, |account| account.kept = account.kept.saturating_add(gpus));
    }

    fn change(&mut self, name: &str, change: impl FnOnce(&mut Account<'a>)) {
        let Some(account) = self.of.get_mut(name) else { return };
        let queue = account.queue;
        let Some(cohort) = queue.cohort.as_deref() else {
            change(account);
            return;
        };
        let before: Vec<u64> = queue.quota.iter().map(|quota| account.beyond(quota)).collect();
        change(account);
        for (quota, before) in queue.quota.iter().zip(before) {
            if let Some(pot) = self.pots.get_mut(&(cohort, quota.model.as_deref())) {
                let rest = pot.taken.saturating_sub(before);
                pot.taken = rest.saturating_add(account.beyond(quota));
            }
        }
    }
}

impl Account<'_> {
    /// GPUs that count under a quota.
    fn under(&self, quota: &Quota) -> u64 {
        let covered = self.used.iter().filter(|(model, _)| quota.covers(model));
        let used = covered.fold(0_u64, |sum, (_, gpus)| sum.saturating_add(*gpus));
        used.saturating_add(self.kept)
    }

    /// What of them is beyond what the queue keeps for itself.
    fn beyond(&self, quota: &Quota) -> u64 {
        self.under(quota).saturating_sub(quota.kept())
    }
}

/// GPUs of all pools by model, free or not.
pub(super) fn offered(pools: &BTreeMap<PoolId, Pool>) -> BTreeMap<&str, u64> {
    let mut offered: BTreeMap<&str, u64> = BTreeMap::new();
    for shape in pools.values().flat_map(|pool| &pool.shapes) {
        let gpus = u64::from(shape.gpus_per_node) * u64::from(shape.nodes);
        let sum = offered.entry(&shape.model).or_default();
        *sum = sum.saturating_add(gpus);
    }
    offered
}

/// The weighted dominant share of a queue, in parts of 1,000,000,000; the highest number if there is
/// no such queue.
#[must_use]
pub fn share(queues: &BTreeMap<String, Queue>, pools: &BTreeMap<PoolId, Pool>, name: &str) -> u64 {
    Accounts::open(queues, offered(pools)).share(name)
}

#[cfg(test)]
mod tests;
