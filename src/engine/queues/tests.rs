use proptest::prelude::*;

use super::*;
use crate::engine::notation::queue;

fn queues(texts: &[(&str, &str)]) -> BTreeMap<String, Queue> {
    texts.iter().map(|(name, text)| ((*name).to_owned(), queue(text))).collect()
}

fn offered() -> BTreeMap<&'static str, u64> {
    BTreeMap::from([("A100", 100), ("H100", 10)])
}

#[test]
fn the_share_is_the_largest_over_models_by_weight() {
    let all =
        queues(&[("a", "used=A100:10"), ("h", "used=H100:10"), ("w", "weight=4 used=A100:40")]);
    let accounts = Accounts::open(&all, offered());
    assert_eq!(accounts.share("a"), 100_000_000);
    assert_eq!(accounts.share("h"), 1_000_000_000, "a scarce model counts for what it is");
    assert_eq!(accounts.share("w"), 100_000_000, "four times the weight, four times the GPUs");
    assert_eq!(accounts.share_with("a", Some(("H100", 5))), 500_000_000);
}

#[test]
fn what_was_used_yesterday_counts() {
    let all = queues(&[("a", "past=A100:10000000"), ("b", "used=A100:5 past=A100:5000000")]);
    let accounts = Accounts::open(&all, offered());
    assert_eq!(accounts.share("a"), accounts.share("b"));
}

#[test]
fn lending_adds_weight_and_leaves_the_others_half() {
    let all = queues(&[("all", "lends=110 used=A100:30"), ("none", "used=A100:10")]);
    let accounts = Accounts::open(&all, offered());
    assert_eq!(accounts.share("all"), accounts.share("none"), "1 + 2 of weight against 1");
    let idle = queues(&[("all", "lends=110 used=A100:30"), ("none", "")]);
    assert!(Accounts::open(&idle, BTreeMap::new()).share("all") > 0, "no pool, no division by 0");
}

#[test]
fn half_is_forgotten_in_a_day() {
    let near = |value: u64, want: u64| assert!(value.abs_diff(want) < 5, "{value}, not {want}");
    near(decayed(8_000_000, 0, HALF_LIFE_SECONDS), 4_000_000);
    near(decayed(0, 8, HALF_LIFE_SECONDS), 4_000_000);
    near(decayed(0, 8, 2 * HALF_LIFE_SECONDS), 6_000_000);
    assert_eq!(decayed(7, 3, 0), 7);
    assert_eq!(decayed(u64::MAX, 3, u64::MAX), 3_000_000);
    assert_eq!(decayed(0, u64::MAX, u64::MAX), u64::MAX);
}

/// Room of a queue for a model.
fn room(all: &BTreeMap<String, Queue>, name: &str, model: &str) -> Option<u64> {
    Accounts::open(all, offered()).limit(name, model).map(|limit| limit.room)
}

#[test]
fn a_quota_without_a_cohort_is_a_plain_limit() {
    let all = queues(&[("a", "quota=10+90 used=A100:3 used=H100:4"), ("b", "quota=50")]);
    assert_eq!(room(&all, "a", "A100"), Some(3), "nobody to borrow from");
    assert_eq!(room(&queues(&[("a", "quota=H100:4")]), "a", "A100"), None);
    assert_eq!(room(&queues(&[("a", "quota=9 quota=H100:4")]), "a", "H100"), Some(4));
}

#[test]
fn a_cohort_lends_what_is_not_used() {
    let both = |a: &str, b: &str| {
        queues(&[("a", &format!("cohort=c {a}")), ("b", &format!("cohort=c {b}"))])
    };
    let of = |a: &str, b: &str| room(&both(a, b), "a", "A100");
    assert_eq!(of("quota=10", "quota=20"), Some(30));
    assert_eq!(of("quota=10+5", "quota=20"), Some(15), "its borrowing limit");
    assert_eq!(of("quota=10", "quota=20-8"), Some(18), "their lending limit");
    assert_eq!(of("quota=10 used=A100:12", "quota=20 used=A100:15"), Some(3));
    assert_eq!(of("quota=10-0", "quota=20 used=A100:20"), Some(10), "what it never lends");
    assert_eq!(of("quota=10", "quota=20 used=A100:30"), Some(0), "all is lent");
    assert_eq!(of("quota=10-4", "quota=20 used=A100:24"), Some(6), "what it keeps, no more");
}

#[test]
fn quota_that_is_kept_is_used_for_everybody_else() {
    let all = queues(&[("a", "cohort=c quota=10"), ("b", "cohort=c quota=10")]);
    let mut accounts = Accounts::open(&all, offered());
    accounts.keep("a", 8);
    assert_eq!(accounts.limit("b", "A100").unwrap().room, 12);
    accounts.take("b", "A100", 12);
    assert_eq!(accounts.limit("b", "A100").unwrap().room, 0);
    assert_eq!(accounts.borrowed("b", "A100"), 2);
    assert!(accounts.owns("a", "A100", 2) && !accounts.owns("a", "A100", 3));
}

fn some_queue() -> impl Strategy<Value = String> {
    let quota = (0_u64..30, prop::option::of(0_u64..30), prop::option::of(0_u64..30));
    let quota = prop::option::of(quota.prop_map(|(own, borrows, lends)| {
        let borrows = borrows.map_or(String::new(), |gpus| format!("+{gpus}"));
        let lends = lends.map_or(String::new(), |gpus| format!("-{gpus}"));
        format!("quota={own}{borrows}{lends}")
    }));
    let cohort = prop::sample::select(vec!["", "cohort=c", "cohort=c", "cohort=d"]);
    (quota, cohort).prop_map(|(quota, cohort)| format!("{} {cohort}", quota.unwrap_or_default()))
}

proptest! {
    /// Whatever order it is taken in: a cohort never holds more than its queues have together, a
    /// queue never more than it may borrow, and what a queue never lends is always there for it.
    #[test]
    fn quotas_hold_in_any_order(
        texts in prop::collection::vec(some_queue(), 1..5),
        turns in prop::collection::vec((0_usize..5, 1_u64..12), 0..40),
    ) {
        let names = ["a", "b", "c", "d", "e"];
        let all: BTreeMap<String, Queue> =
            names.iter().zip(&texts).map(|(name, text)| ((*name).to_owned(), queue(text))).collect();
        let mut accounts = Accounts::open(&all, offered());
        let mut used: BTreeMap<&str, u64> = BTreeMap::new();
        for (at, want) in turns {
            let name = names[at % texts.len()];
            let room = accounts.limit(name, "A100").map_or(u64::MAX, |limit| limit.room);
            let taken = want.min(room);
            accounts.take(name, "A100", taken);
            *used.entry(name).or_default() += taken;
            for (name, queue) in &all {
                let Some(quota) = queue.quota.first() else { continue };
                let mine = used.get(name.as_str()).copied().unwrap_or(0);
                let limit = accounts.limit(name, "A100").unwrap();
                prop_assert!(mine <= limit.most, "{name} holds {mine} of {limit:?}");
                prop_assert!(limit.room >= quota.kept().saturating_sub(mine), "{limit:?}");
                prop_assert!(quota.borrowing.is_none_or(|more| mine <= quota.gpus + more));
                prop_assert!(queue.cohort.is_some() || mine <= quota.gpus);
            }
            for cohort in ["c", "d"] {
                let inside = || all.iter().filter(|(_, queue)| {
                    queue.cohort.as_deref() == Some(cohort) && !queue.quota.is_empty()
                });
                let own: u64 = inside().map(|(_, queue)| queue.quota[0].gpus).sum();
                let held: u64 = inside().filter_map(|(name, _)| used.get(name.as_str())).sum();
                prop_assert!(held <= own, "{cohort} holds {held} of {own}");
            }
        }
    }

    #[test]
    fn decay_in_slices_is_decay_in_one(
        past in 0_u64..1_000_000_000_000,
        held in 0_u64..1_000_000,
        slices in prop::collection::vec(0_u64..100_000, 1..20),
    ) {
        let whole = decayed(past, held, slices.iter().sum());
        let sliced = slices.iter().fold(past, |mean, seconds| decayed(mean, held, *seconds));
        // Each bit of each slice rounds by one at most.
        prop_assert!(whole.abs_diff(sliced) <= 17 * (slices.len() as u64 + 1), "{whole} {sliced}");
        prop_assert!(whole <= past.max(held * MICRO) && whole >= past.min(held * MICRO));
    }
}

#[test]
fn one_queue_by_itself_has_the_share_that_it_has_in_a_round() {
    let all = queues(&[("a", "used=A100:8"), ("b", "")]);
    let pools = crate::engine::notation::snapshot(&[("p", "A100:8x2=")], &[]).pools;
    assert_eq!(
        ["a", "b", "gone"].map(|name| share(&all, &pools, name)),
        [500_000_000, 0, u64::MAX]
    );
}
