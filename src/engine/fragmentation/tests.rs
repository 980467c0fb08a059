use proptest::prelude::*;

use super::*;

const MIB: u64 = 1 << 20;

/// `2` or `/300` (GPUs, or thousandths of one), then any of `@cpu` and `=A100|T4`.
fn ask(text: &str) -> Ask {
    let (text, models) = text.split_once('=').map_or((text, None), |(text, list)| {
        (text, Some(list.split('|').map(Into::into).collect()))
    });
    let (gpus, milli_cpu) =
        text.split_once('@').map_or((text, 0), |(gpus, cpu)| (gpus, cpu.parse().unwrap()));
    let gpus = match gpus.strip_prefix('/') {
        Some(milli) => Gpus::Part(milli.parse().unwrap()),
        None => Gpus::Whole(gpus.parse().unwrap()),
    };
    Ask { need: Need { gpus, milli_cpu, memory: 0 }, models }
}

/// Requests, each with how often it came.
fn mix(asked: &[(&str, u64)]) -> Mix {
    Mix::new(&asked.iter().map(|(text, count)| (ask(text), *count)).collect())
}

fn idle(whole: u32, parts: &[u32], milli_cpu: u64) -> Idle {
    Idle { milli_cpu, memory: MIB, whole, parts: parts.to_vec() }
}

/// What `mix` makes of a node, in thousandths of a GPU, if all nodes are like it.
#[track_caller]
fn check(mix: &Mix, idle: &Idle, want: u64) {
    let worth = mix.priced(&["A100"], &[(0, idle, 1)])[0].clone();
    // Weights are cut to whole parts, which loses less than a thousandth here.
    assert_eq!((worth.of(idle) + SUM / 2) / SUM, want);
}

#[test]
fn worth_is_what_usual_pods_can_use() {
    // One class alone can use all that serves it; its weight makes up for the rest.
    check(&mix(&[("1", 5)]), &idle(2, &[], 0), 2_000);
    check(&mix(&[("1", 5)]), &idle(2, &[500], 0), 2_500);
    check(&mix(&[("3", 5)]), &idle(2, &[], 0), 0);
    // Half of the pods can use 800 of 1,000, the others all.
    check(&mix(&[("/200", 1), ("/300", 1)]), &idle(0, &[200, 800], 0), 1_000);
    check(&mix(&[]), &idle(8, &[], 0), 0);
    check(&mix(&[("1=T4", 1)]), &idle(8, &[], 0), 0);
}

#[test]
fn cpu_bounds_how_many_fit() {
    let mix = mix(&[("1@10", 1), ("1", 1)]);
    let free = [idle(8, &[], 80), idle(8, &[], 20)];
    let all: Vec<_> = free.iter().map(|idle| (0, idle, 1)).collect();
    let worth = &mix.priced(&["A100"], &all)[0];
    // Both classes are half; the first finds 10,000 of the 16,000 that are free.
    let expected = |able: u64, all: u64| (able * SUM / 2 * 16 / 10 + all * SUM / 2) / SUM;
    let whole = |idle: &Idle| (worth.of(idle) + SUM / 2) / SUM;
    assert_eq!(whole(&free[0]), expected(8_000, 8_000));
    assert_eq!(whole(&free[1]), expected(2_000, 8_000));
}

#[test]
fn scarce_models_are_left_to_those_who_need_them() {
    let mix = mix(&[("1=T4", 1), ("1", 4)]);
    let (much, little) = (idle(8, &[], 0), idle(2, &[], 0));
    let worths = mix.priced(&["G2", "T4"], &[(0, &much, 10), (1, &little, 1)]);
    let cost =
        |worth: &Worth, idle: &Idle| worth.best(idle, worth.of(idle), &ask("1").need).unwrap().0;
    assert!(cost(&worths[0], &much) < cost(&worths[1], &little));
}

#[test]
fn a_rare_large_request_weighs_more_once_little_is_left_for_it() {
    let mix = mix(&[("1", 99), ("8", 1)]);
    let (whole, broken) = (idle(8, &[], 0), idle(7, &[], 0));
    let cost = |wholes| {
        let worth = &mix.priced(&["G2"], &[(0, &whole, wholes), (0, &broken, 100 - wholes)])[0];
        worth.best(&whole, worth.of(&whole), &ask("1").need).unwrap().0
    };
    assert!(cost(100) < cost(20) && cost(20) < cost(2), "{} {} {}", cost(100), cost(20), cost(2));
}

#[test]
fn a_part_goes_where_it_spoils_least() {
    let mix = mix(&[("/600", 1), ("1", 1)]);
    let free = idle(1, &[400, 700], 0);
    let worth = &mix.priced(&["A100"], &[(0, &free, 1)])[0];
    let best = |gpus| worth.best(&free, worth.of(&free), &ask(gpus).need).map(|(_, place)| place);
    assert_eq!(best("/300"), Some(Place::Part(400)));
    assert_eq!(best("/600"), Some(Place::Part(700)));
    assert_eq!(best("/800"), Some(Place::Whole));
    assert_eq!(best("2"), None);
}

#[test]
fn the_limits_of_integers_break_nothing() {
    let huge =
        Idle { milli_cpu: u64::MAX, memory: u64::MAX, whole: u32::MAX, parts: vec![999; 64] };
    let need = Need { gpus: Gpus::Whole(u32::MAX), milli_cpu: u64::MAX, memory: u64::MAX };
    let tiny = Need { gpus: Gpus::Part(1), milli_cpu: 1, memory: 1 };
    let asked = [need, tiny].map(|need| (Ask { need, models: None }, u64::MAX));
    let mix = Mix::new(&asked.into());
    let worth = &mix.priced(&["A100"], &[(0, &huge, u64::MAX), (0, &Idle::default(), 1)])[0];
    for need in [need, tiny] {
        assert!(worth.best(&huge, worth.of(&huge), &need).is_some());
        assert_eq!(worth.best(&Idle::default(), 0, &need), None);
    }
    assert_eq!(mix.priced(&["A100"], &[])[0].of(&Idle::default()), 0);
    assert!(mix.priced(&[], &[]).is_empty());
}

/// What `priced` says, worked out GPU by GPU as its doc describes it.
fn plain(asked: &[(Ask, u64)], free: &[(usize, Idle)], models: &[&str], at: usize) -> u128 {
    let usable = |ask: &Ask, (model, idle): &(usize, Idle)| {
        let devices =
            vec![WHOLE; usize::try_from(idle.whole).unwrap()].into_iter().chain(idle.parts.clone());
        let (least, count) = match ask.need.gpus {
            Gpus::Part(milli) => (milli, 1),
            Gpus::Whole(count) => (WHOLE, count),
            Gpus::None => unreachable!(),
        };
        let able: Vec<u32> = devices.filter(|milli| *milli >= least).collect();
        let fits = ask.accepts(models[*model]) && idle.milli_cpu >= ask.need.milli_cpu;
        if !fits || able.len() < usize::try_from(count).unwrap() {
            return 0;
        }
        let milli = u128::from(able.iter().sum::<u32>());
        let rate = (u128::from(ask.need.gpus.milli()) << PLACES)
            .checked_div(u128::from(ask.need.milli_cpu));
        rate.map_or(milli, |rate| milli.min((u128::from(idle.milli_cpu) * rate) >> PLACES))
    };
    let total: u128 = asked.iter().map(|(_, count)| u128::from(*count)).sum();
    let all: u128 = free.iter().map(|(_, idle)| u128::from(idle.milli())).sum();
    let worth = |(ask, count): &(Ask, u64)| {
        let able: u128 = free.iter().map(|node| usable(ask, node)).sum();
        let share = u128::from(SUM) * u128::from(*count) / total;
        let weight = (share * all / able.max(1)).min(share * u128::from(SCARCEST));
        weight * usable(ask, &free[at])
    };
    asked.iter().map(worth).sum()
}

fn some_idle() -> impl Strategy<Value = Idle> {
    (0_u32..16, prop::collection::vec(1_u32..1_000, 0..4), 0_u64..50).prop_map(
        |(whole, mut parts, milli_cpu)| {
            parts.sort_unstable();
            Idle { milli_cpu, memory: MIB, whole, parts }
        },
    )
}

fn some_ask() -> impl Strategy<Value = Ask> {
    let gpus = prop_oneof![(1_u32..1_000).prop_map(Gpus::Part), (1_u32..9).prop_map(Gpus::Whole)];
    (gpus, 0_u64..20, 0_usize..3).prop_map(|(gpus, milli_cpu, models)| Ask {
        need: Need { gpus, milli_cpu, memory: 0 },
        models: [None, Some(BTreeSet::from(["T4".into()])), Some(BTreeSet::from(["G2".into()]))]
            [models]
            .clone(),
    })
}

proptest! {
    #[test]
    fn worth_agrees_with_counting_gpu_by_gpu(
        asked in prop::collection::btree_map(some_ask(), 1_u64..4, 1..5),
        free in prop::collection::vec((0_usize..2, some_idle()), 1..5),
    ) {
        let models = ["G2", "T4"];
        let mix = Mix::new(&asked);
        // The rarest may be left out; then there is nothing to compare.
        prop_assume!(mix.classes.len() == asked.len());
        let nodes: Vec<_> = free.iter().map(|(model, idle)| (*model, idle, 1)).collect();
        let worths = mix.priced(&models, &nodes);
        let asked: Vec<_> = asked.into_iter().collect();
        for (at, (model, idle)) in free.iter().enumerate() {
            let plain = plain(&asked, &free, &models, at);
            prop_assert_eq!(u128::from(worths[*model].of(idle)), plain);
        }
    }

    #[test]
    fn taking_never_makes_more_of_a_node(
        asked in prop::collection::btree_map(some_ask(), 1_u64..4, 0..5),
        idle in some_idle(),
        ask in some_ask(),
    ) {
        let worth = &Mix::new(&asked).priced(&["G2"], &[(0, &idle, 1)])[0];
        for place in idle.places(&ask.need) {
            let after = idle.less(&ask.need, place);
            prop_assert!(worth.of(&after) <= worth.of(&idle));
            prop_assert_eq!(after.milli() + ask.need.gpus.milli(), idle.milli());
        }
    }
}
