//! The owner's policy → which guests must go.
//!
//! Invariant: as few leases as will do, those of less important hubs first, then those that lose the
//! least work, then the youngest; gangs whole. Preemption for the owner's own pods is
//! kube-scheduler's, and [`super::demand`]'s where that does not help; this is what no scheduler sees.

use std::collections::{BTreeMap, BTreeSet};

use super::demand::Cost;
use super::guest::Key;
use super::outcome::{OWNER_RECLAIMED, POOL_CLOSED};
use super::step::Verdict;

/// A confirmed lease that has not ended.
#[derive(Clone, Debug)]
pub struct Holding {
    /// UID of the `GuestLease`.
    pub uid: String,
    /// Its name.
    pub name: String,
    /// What it costs that it goes.
    pub cost: Cost,
    /// Its pool.
    pub pool: String,
    /// Name of the owner's grant that it came by, with the hub's ID.
    pub grant: (String, String),
    /// GPUs that it holds.
    pub gpus: i64,
    /// Whether it goes already.
    pub leaving: bool,
    /// Where its pods are.
    pub nodes: BTreeMap<Key, String>,
}

/// What the owner allows.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    /// Pools that are there, with `maxGpus`; a paused pool has `None` for all.
    pub pools: BTreeMap<String, PoolPolicy>,
    /// `maxGpus` of grants that are there, by name and hub ID.
    pub grants: BTreeMap<(String, String), Option<i64>>,
    /// The pool of each node that some pool selects.
    pub members: BTreeMap<String, String>,
    /// Nodes that exist.
    pub nodes: BTreeSet<String>,
}

/// What the owner allows in one pool.
#[derive(Clone, Copy, Debug, Default)]
pub struct PoolPolicy {
    /// Whether nothing may run.
    pub paused: bool,
    /// Most GPUs that guests hold.
    pub max_gpus: Option<i64>,
}

/// Which of `holdings` must go.
#[must_use]
pub fn verdicts(holdings: &[Holding], policy: &Policy) -> BTreeMap<String, Verdict> {
    let mut verdicts = BTreeMap::new();
    for holding in holdings {
        if let Some(verdict) = closed(holding, policy).or_else(|| strayed(holding, policy)) {
            verdicts.insert(holding.uid.clone(), verdict);
        }
    }
    for (pool, limits) in &policy.pools {
        let of_pool = |holding: &&Holding| holding.pool == *pool;
        shed(holdings.iter().filter(of_pool), limits.max_gpus, &mut verdicts);
    }
    for (grant, limit) in &policy.grants {
        let of_grant = |holding: &&Holding| holding.grant == *grant;
        shed(holdings.iter().filter(of_grant), *limit, &mut verdicts);
    }
    verdicts
}

fn closed(holding: &Holding, policy: &Policy) -> Option<Verdict> {
    let open = policy.pools.get(&holding.pool).is_some_and(|pool| !pool.paused);
    let granted = policy.grants.contains_key(&holding.grant);
    (!open || !granted).then_some(Verdict { reason: POOL_CLOSED, only: None })
}

/// Pods on nodes that the owner took out of the pool. A node that is gone took its pods along.
fn strayed(holding: &Holding, policy: &Policy) -> Option<Verdict> {
    let outside = |node: &String| {
        policy.nodes.contains(node) && policy.members.get(node) != Some(&holding.pool)
    };
    let pods = holding.nodes.iter().filter(|(_, node)| outside(node)).map(|(key, _)| *key);
    let pods: BTreeSet<Key> = pods.collect();
    (!pods.is_empty()).then_some(Verdict { reason: OWNER_RECLAIMED, only: Some(pods) })
}

/// Whether all of a lease is on its way.
pub(super) fn goes(holding: &Holding, verdicts: &BTreeMap<String, Verdict>) -> bool {
    let verdict = verdicts.get(&holding.uid);
    holding.leaving || verdict.is_some_and(|verdict| verdict.only.is_none())
}

/// Adds a verdict to what was said of the lease before: the wider one counts.
pub(super) fn join(verdicts: &mut BTreeMap<String, Verdict>, uid: String, verdict: Verdict) {
    match (verdicts.get_mut(&uid), verdict.only) {
        (Some(Verdict { only: None, .. }), _) => {}
        (Some(before @ Verdict { only: Some(_), .. }), None) => before.only = None,
        (Some(Verdict { only: Some(keys), .. }), Some(more)) => keys.extend(more),
        (None, only) => drop(verdicts.insert(uid, Verdict { only, ..verdict })),
    }
}

/// Takes the cheapest until the rest fits `limit`, then spares the last
/// taken whose going is not needed.
fn shed<'a>(
    holdings: impl Iterator<Item = &'a Holding>,
    limit: Option<i64>,
    verdicts: &mut BTreeMap<String, Verdict>,
) {
    let Some(limit) = limit else { return };
    let mut staying: Vec<_> = holdings.filter(|holding| !goes(holding, verdicts)).collect();
    staying.sort_by(|a, b| (&a.cost, &a.name).cmp(&(&b.cost, &b.name)));
    let mut excess = staying.iter().map(|holding| holding.gpus).sum::<i64>() - limit;
    let mut victims = Vec::new();
    for holding in staying {
        if excess <= 0 {
            break;
        }
        excess -= holding.gpus;
        victims.push(holding);
    }
    for holding in victims.into_iter().rev() {
        if holding.gpus <= -excess {
            excess += holding.gpus;
            continue;
        }
        verdicts.insert(holding.uid.clone(), Verdict { reason: OWNER_RECLAIMED, only: None });
    }
}

#[cfg(test)]
mod tests {
    use std::cmp::Reverse;

    use super::*;

    /// `"uid age gpus pool grant"`.
    fn holding(text: &str) -> Holding {
        let words: Vec<_> = text.split_whitespace().collect();
        let number = |prefix: &str| -> Option<i64> {
            words.iter().find_map(|word| word.strip_prefix(prefix)?.parse().ok())
        };
        Holding {
            uid: words[0].into(),
            name: words[0].into(),
            cost: Cost {
                priority: number("priority=").map_or(0, |number| i32::try_from(number).unwrap()),
                lost: number("lost=").unwrap_or(0),
                made: Reverse(words[1].parse().unwrap()),
            },
            gpus: words[2].parse().unwrap(),
            pool: words[3].into(),
            grant: (words[4].into(), "hub".into()),
            leaving: words.contains(&"leaving"),
            nodes: BTreeMap::from([(Key::default(), "n1".into())]),
        }
    }

    fn policy(pool: PoolPolicy, grant: Option<i64>) -> Policy {
        Policy {
            pools: BTreeMap::from([("a".into(), pool)]),
            grants: BTreeMap::from([(("g".into(), "hub".into()), grant)]),
            members: BTreeMap::from([("n1".into(), "a".into())]),
            nodes: BTreeSet::from(["n1".into()]),
        }
    }

    #[track_caller]
    fn check(holdings: &[&str], policy: &Policy, want: &[(&str, &str)]) {
        let holdings: Vec<_> = holdings.iter().map(|text| holding(text)).collect();
        let found = verdicts(&holdings, policy);
        let found: Vec<_> = found.iter().map(|(uid, one)| (uid.as_str(), one.reason)).collect();
        assert_eq!(found, want);
    }

    #[test]
    fn nobody_goes_while_the_policy_holds() {
        let limits = PoolPolicy { max_gpus: Some(8), ..PoolPolicy::default() };
        check(&["x 1 4 a g", "y 2 4 a g"], &policy(limits, Some(8)), &[]);
    }

    #[test]
    fn closed_pools_and_withdrawn_grants_take_everybody() {
        let paused = PoolPolicy { paused: true, ..PoolPolicy::default() };
        check(&["x 1 4 a g"], &policy(paused, None), &[("x", POOL_CLOSED)]);
        let open = policy(PoolPolicy::default(), None);
        check(&["x 1 4 b g", "y 1 4 a other"], &open, &[("x", POOL_CLOSED), ("y", POOL_CLOSED)]);
    }

    #[test]
    fn lowered_limits_take_the_youngest_and_no_more_than_needed() {
        let limits =
            |max| policy(PoolPolicy { max_gpus: Some(max), ..PoolPolicy::default() }, None);
        let holdings = ["old 1 8 a g", "mid 2 1 a g", "new 3 8 a g"];
        check(&holdings, &limits(16), &[("new", OWNER_RECLAIMED)]);
        check(
            &holdings,
            &limits(0),
            &[("mid", OWNER_RECLAIMED), ("new", OWNER_RECLAIMED), ("old", OWNER_RECLAIMED)],
        );
        // The small one is taken first, but once the large one must go it may stay.
        check(&["big 1 8 a g", "small 2 1 a g"], &limits(1), &[("big", OWNER_RECLAIMED)]);
        check(&["old 1 8 a g", "new 2 8 a g leaving"], &limits(8), &[]);
        check(&holdings, &policy(PoolPolicy::default(), Some(9)), &[("new", OWNER_RECLAIMED)]);
    }

    #[test]
    fn guests_of_the_less_important_hub_leave_first() {
        let limits = policy(PoolPolicy { max_gpus: Some(8), ..PoolPolicy::default() }, None);
        let holdings = ["old 1 8 a g priority=-1", "new 2 8 a g"];
        check(&holdings, &limits, &[("old", OWNER_RECLAIMED)]);
        let holdings = ["old 1 8 a g", "new 2 8 a g priority=5"];
        check(&holdings, &limits, &[("old", OWNER_RECLAIMED)]);
    }

    #[test]
    fn who_loses_the_least_work_leaves_first() {
        let limits = policy(PoolPolicy { max_gpus: Some(8), ..PoolPolicy::default() }, None);
        let holdings = ["young 9 8 a g lost=900", "saved 1 8 a g lost=10"];
        check(&holdings, &limits, &[("saved", OWNER_RECLAIMED)]);
        let holdings = ["young 9 8 a g priority=1", "saved 1 8 a g lost=10"];
        check(&holdings, &limits, &[("saved", OWNER_RECLAIMED)]);
    }

    #[test]
    fn verdicts_on_pods_add_up_and_those_on_leases_stand() {
        let key = |index| Key { index, rank: 0 };
        let of = |only: Option<&[u32]>| Verdict {
            reason: OWNER_RECLAIMED,
            only: only.map(|keys| keys.iter().copied().map(key).collect()),
        };
        let mut verdicts = BTreeMap::new();
        join(&mut verdicts, "x".into(), of(Some(&[1])));
        join(&mut verdicts, "x".into(), of(Some(&[2])));
        assert_eq!(verdicts["x"], of(Some(&[1, 2])));
        join(&mut verdicts, "x".into(), of(None));
        join(&mut verdicts, "x".into(), of(Some(&[3])));
        assert_eq!(verdicts["x"], of(None));
    }

    #[test]
    fn pods_on_a_node_that_left_the_pool_go() {
        let mut left = policy(PoolPolicy::default(), None);
        left.members.clear();
        check(&["x 1 4 a g"], &left, &[("x", OWNER_RECLAIMED)]);
        left.nodes.clear();
        check(&["x 1 4 a g"], &left, &[]);
    }
}
