use proptest::prelude::*;

use super::*;
use crate::engine::model::{PoolId, Snapshot};
use crate::engine::notation::{demand, snapshot};

/// `want` is the pool and model chosen, or the refusal of each pool with its number.
#[track_caller]
fn check(asked: &str, pools: &[(&str, &str)], want: &str) {
    let snapshot = snapshot(pools, &[]);
    assert_eq!(verdict(asked, &snapshot), want, "{asked}");
}

fn verdict(asked: &str, snapshot: &Snapshot) -> String {
    let (demand, book) = (demand(&format!("job {asked}")), Book::open(snapshot));
    match Known::default().place(&demand, &book) {
        Verdict::Chosen(choice) => {
            format!("{} {}", book.pool(choice.place).id.pool, choice.replica.model)
        }
        Verdict::Refused(refusals) => {
            let shown: Vec<String> =
                refusals.iter().map(|(why, number)| format!("{why:?}:{number}")).collect();
            shown.join(" ")
        }
    }
}

#[test]
fn every_rule_has_a_refusal() {
    for (asked, pool, want) in [
        ("members=b", "A100:8x1", "NotInAffinity:1"),
        ("not=a", "A100:8x1", "NotInAffinity:1"),
        ("label=zone:n|s", "A100:8x1", "NotInAffinity:1"),
        ("label=zone:n|s", "A100:8x1 label=zone:w", "NotInAffinity:1"),
        ("label=zone:n|s", "A100:8x1 label=zone:s", "a A100"),
        ("label!=zone:n|s", "A100:8x1 label=zone:s", "NotInAffinity:1"),
        ("label!=zone:n|s", "A100:8x1", "a A100"),
        ("label+zone", "A100:8x1", "NotInAffinity:1"),
        ("label+zone", "A100:8x1 label=zone:s", "a A100"),
        ("label-zone", "A100:8x1 label=zone:s", "NotInAffinity:1"),
        ("", "A100:8x1 taint=k:v", "Tainted:1"),
        ("tolerate=k:w", "A100:8x1 taint=k:v", "Tainted:1"),
        ("tolerate=k", "A100:8x1 taint=k:v taint=l:v", "Tainted:1"),
        ("tolerate=k:v", "A100:8x1 taint=k:v", "a A100"),
        ("tolerate=k!", "A100:8x1 taint=k:v", "a A100"),
        ("tolerate=k!!", "A100:8x1 taint=k:v", "Tainted:1"),
        ("tolerate=k", "A100:8x1 taint=k:v", "a A100"),
        ("tolerate=*", "A100:8x1 taint=k:v taint=l:v", "a A100"),
        ("in=EU,NO", "A100:8x1", "OutsideResidency:1"),
        ("in=EU,NO", "A100:8x1 in=US", "OutsideResidency:1"),
        ("in=EU,NO", "A100:8x1 in=NO", "a A100"),
        ("ns=x", "A100:8x1 namespaces=team", "NamespaceNotAllowed:1"),
        ("images=r/a,r/b", "A100:8x1 images=r/a", "ImageNotAllowed:1"),
        ("images=r/a,r/b", "A100:8x1 images=r/a,r/*", "a A100"),
        ("images=r/a", "A100:8x1 images=r", "ImageNotAllowed:1"),
        ("", "A100:8x1 nobatch", "TypeNotAllowed:1"),
        ("models=H100", "A100:8x1", "NoMatchingModel:1"),
        ("models=A100~80", "A100~40:8x1", "NoMatchingModel:1"),
        ("models=A100~80", "A100:8x1", "NoMatchingModel:1"),
        ("models=A100~80", "A100~80:8x1", "a A100"),
        ("grace=31", "A100:8x1", "NoticeTooShort:1"),
        ("grace=31", "A100:8x1 notice=31", "a A100"),
        ("gpus=9", "A100:8x9", "NeverFits:1"),
        ("gpus=8 size=2", "A100:8x1", "NeverFits:1"),
        ("gpus=8", "A100:8x1 offer=7", "NeverFits:1"),
        ("", "", "NeverFits:1"),
        ("", "A100:8x1 cordoned", "Cordoned:1"),
        ("", "A100:8x1 silent", "Silent:1"),
        ("", "A100:8x1 paused", "NotReady:1"),
        ("barred=a:5", "A100:8x1 serial=5", "Refused:1"),
        ("barred=a:5", "A100:8x1 serial=6", "a A100"),
        ("gpus=8", "A100:8x2=7x2", "TooFewFreeGpus:1"),
        ("gpus=8", "A100:8x2 lend=7", "TooFewFreeGpus:1"),
        ("cpu=9000000", "A100:8x2", "TooLittleCpuOrMemory:1"),
        ("gpus=8 cpu=9000000", "A100:8x2=7x2", "TooFewFreeGpus:1"),
    ] {
        check(asked, &[("a", pool)], want);
    }
}

#[test]
fn pools_that_took_gpus_back_are_avoided_while_others_take_it() {
    let both = [("a", "A100:8x9"), ("b", "A100:8x1")];
    check("", &both, "a A100");
    check("avoid=a", &both, "b A100");
    check("avoid=a avoid=b", &both, "a A100");
    check("avoid=a gpus=8 size=2", &both, "a A100");
    check("avoid=c", &both, "a A100");
    // The more wanted model is there, but not for long.
    check("models=H100,A100 avoid=a", &[("a", "H100:8x1"), ("b", "A100:8x1")], "b A100");
}

#[test]
fn the_most_permanent_rule_is_named() {
    check("in=EU gpus=9 barred=a:1", &[("a", "A100:8x1= silent taint=k:v")], "Tainted:1");
    check("gpus=9 barred=a:1", &[("a", "A100:8x1= silent")], "NeverFits:1");
    check("barred=a:1", &[("a", "A100:8x1= silent")], "Silent:1");
    check("barred=a:1", &[("a", "A100:8x1=")], "Refused:1");
    check("", &[("a", "A100:8x1="), ("b", "A100:8x1="), ("c", "A100:8x1 paused")], {
        "NotReady:1 TooFewFreeGpus:2"
    });
    check("", &[], "");
}

#[test]
fn a_member_with_much_to_answer_gets_no_more() {
    let mut snapshot = snapshot(&[("a/x", "A100:8x1"), ("a/y", "A100:8x1")], &[]);
    snapshot.unanswered.insert("a".into(), UNANSWERED - 1);
    assert_eq!(verdict("", &snapshot), "x A100");
    snapshot.unanswered.insert("a".into(), UNANSWERED);
    assert_eq!(verdict("", &snapshot), "TooManyUnanswered:2");
    snapshot.unanswered.insert("a".into(), UNANSWERED + 1);
    assert_eq!(verdict("", &snapshot), "TooManyUnanswered:2");
}

#[test]
fn the_more_wanted_model_wins_over_all_pools() {
    let pools = [("a", "A100:8x9 H100:8x1="), ("b", "H100:8x9=1x1"), ("c", "A100:8x1")];
    check("models=H100,A100", &pools, "b H100");
    check("models=A100,H100", &pools, "a A100");
    check("models=H100,A100 gpus=2", &pools, "a A100");
}

#[test]
fn any_model_takes_the_one_with_least_room() {
    check("", &[("a", "H100:8x4 T4:4x1 A100:8x2")], "a T4");
    check("gpus=8", &[("a", "H100:8x4 T4:4x1 A100:8x2")], "a A100");
    check("", &[("a", "H100:8x1 A100:8x1")], "a A100");
}

#[test]
fn single_pods_go_where_the_largest_share_stays_free() {
    check("", &[("a", "A100:8x1"), ("b", "A100:8x2")], "b A100");
    check("", &[("a", "A100:8x1"), ("b", "A100:8x2=8x1")], "a A100");
    check("", &[("b", "A100:8x1"), ("a", "A100:8x1")], "a A100");
    // Only what is lent counts: of 8 lent GPUs all are free, of the other pool's 16 only half.
    check("", &[("a", "A100:8x2=8x1"), ("b", "A100:8x9 offer=8 lend=8")], "b A100");
}

#[test]
fn gangs_go_where_they_fit_tightest() {
    check("size=4", &[("a", "A100:8x1"), ("b", "A100:8x2=3x1,5x1")], "b A100");
    check("size=4", &[("a", "A100:8x1"), ("b", "A100:8x2=3x2")], "a A100");
    check("gpus=8 size=2", &[("a", "A100:8x4"), ("b", "A100:8x3")], "b A100");
    check("gpus=8 size=2", &[("b", "A100:8x3"), ("a", "A100:8x3")], "a A100");
}

fn some_pool() -> impl Strategy<Value = (String, String)> {
    let id = ("[a-c]", "[x-z]").prop_map(|(member, pool)| format!("{member}/{pool}"));
    let word = prop::sample::select(vec![
        "",
        "silent",
        "taint=k:v",
        "in=EU",
        "notice=5",
        "lend=3",
        "serial=9",
        "label=zone:n",
    ]);
    let shape = (prop::sample::select(vec!["A100", "H100"]), 0_u32..9, 0_u32..3);
    let text = (shape, word).prop_map(|((model, free, nodes), word)| {
        format!("{model}:8x{} {model}:8x{nodes}={free}x{nodes} {word}", u32::from(nodes > 0))
    });
    (id, text)
}

proptest! {
    #[test]
    fn every_pool_is_chosen_or_gives_one_reason(
        pools in prop::collection::vec(some_pool(), 0..8),
        asked in prop::collection::vec(prop::sample::select(vec![
            "gpus=2", "gpus=8", "size=3", "models=H100,A100", "models=A100", "in=EU", "not=b",
            "grace=10", "tolerate=k", "barred=a/x:5", "label+zone",
        ]), 0..4),
    ) {
        let pools: Vec<(&str, &str)> =
            pools.iter().map(|(id, text)| (id.as_str(), text.as_str())).collect();
        let snapshot = snapshot(&pools, &[]);
        let (demand, book) = (demand(&format!("job {}", asked.join(" "))), Book::open(&snapshot));
            match Known::default().place(&demand, &book) {
            Verdict::Chosen(choice) => {
                let pool = book.pool(choice.place).pool;
                prop_assert!(pool.closed.is_none() && choice.room > 0);
                prop_assert!(choice.replica.gpus() * u64::from(choice.room) <= pool.lendable);
            }
            Verdict::Refused(refusals) => {
                let counted: u32 = refusals.values().sum();
                prop_assert_eq!(counted as usize, snapshot.pools.len());
            }
        }
    }
}

const ASKED: [&str; 22] = [
    "",
    "gpus=2",
    "gpus=8",
    "gpus=3 cpu=40000",
    "size=3",
    "size=2 gpus=4",
    "size=5 gpus=8",
    "size=1024",
    "models=H100,A100",
    "models=A100~40,T4",
    "models=T4 size=2",
    "in=EU",
    "in=EU,NO gpus=2",
    "not=b",
    "members=a,c gpus=4",
    "label=zone:n",
    "tolerate=k gpus=2",
    "grace=10",
    "barred=a/x:5 barred=b/y:9",
    "avoid=a/x avoid=c/z",
    "models=H100,A100 avoid=b/y gpus=2",
    "barred=a/x:5 size=2 barred=c/z:1",
];

/// Pools of some members with several models and holes.
fn market() -> impl Strategy<Value = Vec<(String, String)>> {
    let free = prop::collection::vec((0_u32..9, 1_u32..4, 0_u64..90_000), 0..4);
    let shape = (prop::sample::select(vec!["A100", "A100~40", "H100", "T4"]), free);
    let shape = shape.prop_map(|(model, free)| {
        let groups: Vec<String> =
            free.iter().map(|(gpus, nodes, milli)| format!("{gpus}x{nodes}/{milli}")).collect();
        let nodes: u32 = free.iter().map(|(_, nodes, _)| nodes).sum();
        format!("{model}:8x{nodes}={}", groups.join(","))
    });
    let words =
        vec!["", "in=EU", "in=NO label=zone:n", "taint=k:v", "lend=9", "notice=5", "silent"];
    let pool = (prop::collection::vec(shape, 1..4), prop::sample::select(words));
    let pool = pool.prop_map(|(shapes, word)| format!("{} {word} serial=5", shapes.join(" ")));
    let id = ("[a-d]", "[x-z]").prop_map(|(member, pool)| format!("{member}/{pool}"));
    prop::collection::vec((id, pool), 0..12)
}

/// What one step of a round does: who asks, and how the answer is carried out.
#[derive(Clone, Debug)]
enum Step {
    Lease { asks: usize, most: u32 },
    Reserve { asks: usize },
}

fn step() -> impl Strategy<Value = Step> {
    let asks = 0..ASKED.len();
    prop_oneof![
        8 => (asks.clone(), 1_u32..5).prop_map(|(asks, most)| Step::Lease { asks, most }),
        1 => asks.prop_map(|asks| Step::Reserve { asks }),
    ]
}

proptest! {
    /// Candidates that are kept up to date say what a look at all pools says, whatever happened.
    #[test]
    fn every_verdict_is_that_of_a_look_at_all_pools(
        pools in market(),
        steps in prop::collection::vec(step(), 1..60),
        unanswered in prop::collection::btree_map("[a-d]", UNANSWERED - 3..UNANSWERED + 1, 0..3),
    ) {
        let pools: Vec<(&str, &str)> =
            pools.iter().map(|(id, text)| (id.as_str(), text.as_str())).collect();
        let mut snapshot = snapshot(&pools, &[]);
        snapshot.unanswered = unanswered;
        let demands: Vec<Demand> = ASKED.iter().map(|text| demand(&format!("job {text}"))).collect();
        let (mut book, mut known) = (Book::open(&snapshot), Known::default());
        let mut refused = BTreeMap::new();
        for step in steps {
            let (Step::Lease { asks, .. } | Step::Reserve { asks }) = step;
            let demand = &demands[asks];
            let want = oracle::place(demand, &book);
            let choice = match known.place(demand, &book) {
                Verdict::Chosen(choice) => choice,
                // What was said once is said again: nothing comes free in a round.
                Verdict::Refused(refusals) => {
                    let said = refused.get(&demand.request).filter(|_| demand.barred.is_empty());
                    prop_assert!(want.is_err());
                    prop_assert_eq!(Err(&refusals), said.map_or(want.as_ref(), Err));
                    if demand.barred.is_empty() {
                        refused.insert(demand.request.clone(), refusals);
                    }
                    continue;
                }
            };
            prop_assert_eq!(Ok((choice.place, choice.replica, choice.room)), want);
            match step {
                Step::Lease { most, .. } => {
                    book.send(choice.place);
                    book.take(choice.place, &choice.replica, most.min(choice.room));
                }
                Step::Reserve { .. } => book.take(choice.place, &choice.replica, 1),
            }
        }
    }
}

#[test]
fn ten_thousand_pools_and_a_gang_of_a_thousand() {
    let mut facts = snapshot(&[("large", "A100:8x1024"), ("wide", "A100:16x4")], &[]);
    for number in 0..10_000 {
        let id = PoolId { member: format!("m{number:05}"), pool: "pool".into() };
        facts.pools.insert(id, crate::engine::notation::pool("A100:8x125=7x20,3x5"));
    }
    assert_eq!(verdict("gpus=8 size=1024", &facts), "large A100");
    assert_eq!(verdict("gpus=16 size=4", &facts), "wide A100");
    assert_eq!(verdict("gpus=16 size=5", &facts), "NeverFits:10002");
}

#[test]
fn sixty_four_shapes_and_counts_at_their_limits() {
    let shapes: Vec<String> =
        (0..64).map(|number| format!("M{number:02}:8x2={}x1", number % 8)).collect();
    check("gpus=7", &[("a", &shapes.join(" "))], "a M07");
    check("models=M63,M01", &[("a", &shapes.join(" "))], "a M63");
    let mut facts = snapshot(&[("a", "A100:8x1"), ("b", "A100:8x1")], &[]);
    let absurd = facts.pools.values_mut().next().unwrap();
    (absurd.offered, absurd.lendable) = (u64::MAX, u64::MAX);
    let shape = &mut absurd.shapes[0];
    (shape.gpus_per_node, shape.nodes) = (u32::MAX, u32::MAX);
    let free = &mut shape.free[0];
    (free.gpus, free.nodes, free.milli_cpu, free.memory) = (u32::MAX, u32::MAX, u64::MAX, u64::MAX);
    shape.free = vec![shape.free[0]; 3];
    assert_eq!(verdict("", &facts), "a A100");
    assert_eq!(verdict("gpus=4294967295 size=4294967295 cpu=0", &facts), "a A100");
    let (most, mut book) = (demand("job cpu=0"), Book::open(&facts));
    let Verdict::Chosen(Choice { place, replica, room }) = Known::default().place(&most, &book)
    else {
        panic!("it fits")
    };
    book.take(place, &replica, room);
    assert_eq!(book.pool(place).lendable(), u64::MAX - u64::from(room));
}

/// What a pool lends in all falls with every replica, also for those who look at other nodes.
#[test]
fn what_a_pool_lends_limits_those_who_need_other_nodes() {
    let facts = snapshot(&[("a", "A100:8x2=8x1,1x1 lend=8")], &[]);
    let (large, small) = (demand("large gpus=8"), demand("small"));
    let (mut book, mut known) = (Book::open(&facts), Known::default());
    assert!(matches!(known.place(&large, &book), Verdict::Chosen(_)));
    let Verdict::Chosen(choice) = known.place(&small, &book) else { panic!("it fits") };
    book.take(choice.place, &choice.replica, 1);
    let of_groups: Vec<u32> = book.pool(0).shapes()[0].free.iter().map(|free| free.gpus).collect();
    assert_eq!(of_groups, [8], "the tightest node went");
    let Verdict::Refused(why) = known.place(&large, &book) else { panic!("7 GPUs are lent") };
    assert_eq!(why, BTreeMap::from([(Refusal::TooFewFreeGpus, 1)]));
}

#[test]
fn useful_work_costs_more_where_owners_come_back() {
    let (mut facts, demand) = (snapshot(&[("a", "A100:8x1")], &[]), demand("job gpus=8"));
    let cost_of = |facts: &Snapshot| cost(&demand.request, Book::open(facts).pool(0));
    let pool = |facts: &mut Snapshot, ask, chance| {
        let pool = facts.pools.values_mut().next().unwrap();
        pool.ask = ask;
        pool.survival =
            survival::Survival::new([[chance; survival::SPANS.len()]; survival::SIZES.len()]);
    };
    pool(&mut facts, 1_000_000, 1_000_000);
    assert_eq!(cost_of(&facts), 1_000_000, "what surely stays costs what is asked");
    pool(&mut facts, 2_000_000, 1_000_000);
    assert_eq!(cost_of(&facts), 2_000_000);
    pool(&mut facts, 1_000_000, 100_000);
    assert!(cost_of(&facts) > 1_100_000, "{}", cost_of(&facts));
    assert_eq!(cost_of(&facts) % 50_000, 0, "in steps of a twentieth");
}
