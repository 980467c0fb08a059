use proptest::prelude::*;

use super::*;
use crate::engine::notation::{request, shape};

fn replica<'a>(model: &'a str, text: &str) -> Replica<'a> {
    let request = request(text);
    Replica { model, min_memory: None, need: request.need, size: request.size }
}

fn shapes(text: &str) -> Vec<Shape> {
    text.split(' ').map(shape).collect()
}

/// Whether one replica would fit if nothing else ran and `offered` GPUs were lent in all.
fn could_ever_hold(shapes: &[Shape], offered: u64, replica: &Replica) -> bool {
    replicas(idle(shapes, replica).1, offered, replica) > 0
}

#[track_caller]
fn check(pool: &str, asked: &str, want: u32) {
    assert_eq!(room(&shapes(pool), u64::MAX, &replica("A100", asked)), want);
}

#[test]
fn counts_per_node_and_not_in_sum() {
    check("A100:8x4", "gpus=8", 4);
    check("A100:8x4=7x4", "gpus=8", 0);
    check("A100:8x4=7x4", "gpus=4", 4);
    check("A100:8x4=7x1,4x2,3x1", "gpus=3", 5);
    check("A100:8x4", "gpus=8 size=4", 1);
    check("A100:8x4", "gpus=8 size=5", 0);
    check("A100:8x2", "gpus=3 size=4", 1);
    check("A100:8x2", "gpus=3 size=3", 1);
    check("H100:8x4", "gpus=1", 0);
    check("A100:8x1 H100:8x9 A100:4x2", "gpus=4", 4);
    check("A100:8x1=", "gpus=1", 0);
}

#[test]
fn counts_cpu_and_memory_as_well() {
    check("A100:8x2=8x2/8000", "gpus=1 cpu=4000", 4);
    check("A100:8x2=8x2/3999", "gpus=1 cpu=4000", 0);
    check("A100:8x2=8x2/0", "gpus=1 cpu=0", 16);
    let mut starved = shapes("A100:8x2");
    starved[0].free[0].memory = 5;
    let mut hungry = replica("A100", "");
    hungry.need.memory = 2;
    assert_eq!(room(&starved, u64::MAX, &hungry), 4);
}

#[test]
fn lendable_caps_the_sum() {
    let all = shapes("A100:8x4");
    assert_eq!(room(&all, 7, &replica("A100", "gpus=2")), 3);
    assert_eq!(room(&all, 31, &replica("A100", "gpus=8 size=4")), 0);
    assert!(could_ever_hold(&all, 32, &replica("A100", "gpus=8 size=4")));
    assert!(!could_ever_hold(&all, 31, &replica("A100", "gpus=8 size=4")));
}

#[test]
fn unknown_memory_satisfies_no_minimum() {
    let least = |gib: u64| Replica { min_memory: Some(gib << 30), ..replica("A100", "") };
    assert_eq!(room(&shapes("A100:8x1"), u64::MAX, &least(1)), 0);
    assert_eq!(room(&shapes("A100~40:8x1 A100~80:4x1"), u64::MAX, &least(80)), 4);
    assert_eq!(room(&shapes("A100~40:8x1 A100~80:4x1"), u64::MAX, &least(40)), 12);
}

#[test]
fn an_idle_pool_is_judged_by_its_nodes() {
    let busy = shapes("A100:8x2=");
    assert!(could_ever_hold(&busy, 16, &replica("A100", "gpus=8 size=2")));
    assert!(!could_ever_hold(&busy, 16, &replica("A100", "gpus=8 size=3")));
    assert!(!could_ever_hold(&busy, 16, &replica("A100", "gpus=9")));
    assert!(!could_ever_hold(&busy, 16, &replica("H100", "")));
}

#[test]
fn nothing_asked_for_fits_nowhere_and_absurd_pictures_do_not_overflow() {
    check("A100:8x4", "gpus=0", 0);
    check("A100:8x4", "size=0", 0);
    let free = Free { gpus: u32::MAX, nodes: u32::MAX, milli_cpu: u64::MAX, memory: u64::MAX };
    let absurd = Shape {
        model: "A100".into(),
        gpus_per_node: u32::MAX,
        nodes: u32::MAX,
        free: vec![free; 3],
        ..Shape::default()
    };
    let (mut absurd, one) = ([absurd.clone(), absurd], replica("A100", "gpus=1 cpu=0"));
    assert_eq!(room(&absurd, u64::MAX, &one), u32::MAX);
    assert!(could_ever_hold(
        &absurd,
        u64::MAX,
        &replica("A100", "gpus=4294967295 size=4294967295")
    ));
    assert_eq!(take(&mut absurd, &one, u32::MAX), 0);
}

/// Takes and shows what is left as `gpus x nodes`, most GPUs first.
#[track_caller]
fn check_take(pool: &str, asked: &str, count: u32, want: &str) {
    let mut left = shapes(pool);
    assert_eq!(take(&mut left, &replica("A100", asked), count), 0);
    let mut groups: Vec<Free> = left.into_iter().flat_map(|shape| shape.free).collect();
    groups.sort_by_key(|free| std::cmp::Reverse(*free));
    let shown: Vec<String> =
        groups.iter().map(|free| format!("{}x{}", free.gpus, free.nodes)).collect();
    assert_eq!(shown.join(","), want);
}

#[test]
fn takes_the_tightest_nodes() {
    check_take("A100:8x4=8x2,3x1,2x1", "gpus=2", 1, "8x2,3x1");
    check_take("A100:8x4=8x2,3x1,2x1", "gpus=1", 4, "8x2,1x1");
    check_take("A100:8x4", "gpus=1", 11, "8x2,5x1");
    check_take("A100:8x4", "gpus=3", 3, "8x2,5x1,2x1");
    check_take("A100:8x2 A100:4x1", "gpus=4", 1, "8x2");
}

#[test]
fn a_gang_gets_one_node_if_one_holds_it() {
    check_take("A100:8x4=8x1,4x1,3x1,1x1", "gpus=1 size=4", 1, "8x1,3x1,1x1");
    check_take("A100:8x4=8x2,3x1,1x1", "gpus=1 size=4", 1, "8x1,4x1,3x1,1x1");
    check_take("A100:8x4=3x2,1x1", "gpus=1 size=4", 1, "3x1");
    check_take("A100:8x4", "gpus=8 size=2", 2, "");
}

#[test]
fn what_is_not_there_is_counted() {
    let mut left = shapes("A100:8x1=5x1");
    assert_eq!(take(&mut left, &replica("A100", "gpus=2"), 4), 2);
    assert_eq!(left[0].free.iter().map(|free| free.gpus).collect::<Vec<_>>(), [1]);
    assert_eq!(take(&mut left, &replica("A100", "gpus=1 size=3"), 1), 2);
}

/// Most pods that any way of putting them on nodes reaches, found by trying all ways.
fn oracle(nodes: &mut Vec<Free>, need: PodNeed) -> u64 {
    let mut best = 0;
    for place in 0..nodes.len() {
        let before = nodes[place];
        let fits = before.gpus >= need.gpus && before.milli_cpu >= need.milli_cpu;
        if fits && before.memory >= need.memory {
            nodes[place].gpus -= need.gpus;
            nodes[place].milli_cpu -= need.milli_cpu;
            nodes[place].memory -= need.memory;
            best = best.max(1 + oracle(nodes, need));
            nodes[place] = before;
        }
    }
    best
}

fn group() -> impl Strategy<Value = Free> {
    (0_u32..4, 0_u32..3, 0_u64..4, 0_u64..4).prop_map(|(gpus, nodes, milli_cpu, memory)| Free {
        gpus,
        nodes,
        milli_cpu,
        memory,
    })
}

fn small_pool() -> impl Strategy<Value = Vec<Shape>> {
    let shape = (prop::sample::select(vec!["A100", "H100"]), prop::collection::vec(group(), 0..3));
    let shape = shape.prop_map(|(model, free)| Shape {
        model: model.into(),
        gpu_memory: None,
        gpus_per_node: 4,
        nodes: free.iter().map(|free| free.nodes).sum(),
        free,
    });
    prop::collection::vec(shape, 0..3)
}

fn small_replica() -> impl Strategy<Value = Replica<'static>> {
    (1_u32..4, 0_u64..3, 0_u64..3, 1_u32..4).prop_map(|(gpus, milli_cpu, memory, size)| Replica {
        model: "A100",
        min_memory: None,
        need: PodNeed { gpus, milli_cpu, memory },
        size,
    })
}

/// Every node of the model by itself.
fn nodes(shapes: &[Shape]) -> Vec<Free> {
    let groups =
        shapes.iter().filter(|shape| shape.model == "A100").flat_map(|shape| &shape.free).copied();
    let mut nodes: Vec<Free> = groups
        .flat_map(|free| (0..free.nodes).map(move |_| Free { nodes: 1, ..free }))
        .filter(|free| free.gpus > 0)
        .collect();
    nodes.sort_unstable();
    nodes
}

proptest! {
    #[test]
    fn agrees_with_trying_all_ways(shapes in small_pool(), replica in small_replica()) {
        let mut nodes = nodes(&shapes);
        // The oracle's cost explodes with pods; five nodes of three GPUs show every case.
        nodes.truncate(4);
        let alone: Vec<Shape> = nodes
            .iter()
            .map(|free| Shape { model: "A100".into(), free: vec![*free], ..Shape::default() })
            .collect();
        prop_assert_eq!(free_pods(&alone, &replica), oracle(&mut nodes, replica.need));
    }

    #[test]
    fn what_is_taken_was_free_and_nothing_more_is_lost(
        mut shapes in small_pool(),
        replica in small_replica(),
        count in 0_u32..6,
    ) {
        let before = nodes(&shapes);
        let (pods, fits) = (free_pods(&shapes, &replica), room(&shapes, u64::MAX, &replica));
        let missing = take(&mut shapes, &replica, count);
        let asked = u64::from(count) * u64::from(replica.size);
        prop_assert_eq!(missing, asked.saturating_sub(pods));
        prop_assert_eq!(missing == 0, count <= fits);
        prop_assert_eq!(free_pods(&shapes, &replica), pods - (asked - missing));
        let sum = |nodes: &[Free]| nodes.iter().fold((0, 0), |(gpus, cpu), free| {
            (gpus + u64::from(free.gpus), cpu + free.milli_cpu)
        });
        let ((gpus, cpu), (gpus_left, cpu_left)) = (sum(&before), sum(&nodes(&shapes)));
        let taken = asked - missing;
        prop_assert_eq!(gpus - gpus_left, taken * u64::from(replica.need.gpus));
        // A node without free GPUs is dropped with the rest of its CPU.
        prop_assert!(cpu - cpu_left >= taken * replica.need.milli_cpu);
    }

    #[test]
    fn the_order_of_shapes_and_groups_decides_nothing(
        mut shapes in small_pool(),
        replica in small_replica(),
        count in 0_u32..6,
    ) {
        let mut turned = shapes.clone();
        turned.reverse();
        for shape in &mut turned {
            shape.free.reverse();
        }
        prop_assert_eq!(
            take(&mut shapes, &replica, count),
            take(&mut turned, &replica, count)
        );
        prop_assert_eq!(nodes(&shapes), nodes(&turned));
    }

    #[test]
    fn what_fits_now_could_always_fit(shapes in small_pool(), replica in small_replica()) {
        if room(&shapes, u64::MAX, &replica) > 0 {
            prop_assert!(could_ever_hold(&shapes, u64::MAX, &replica));
        }
    }
}
