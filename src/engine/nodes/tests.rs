use proptest::prelude::*;

use super::*;
use crate::engine::fit;
use crate::engine::fragmentation::Ask;
use crate::engine::model::{Free, PodNeed, Shape};

/// `name:gpus` or `name:gpus/cpu`, plenty of CPU if it is not said.
fn nodes(text: &str) -> Vec<Node> {
    let node = |word: &str| {
        let (name, free) = word.split_once(':').unwrap();
        let (gpus, cpu) = free.split_once('/').unwrap_or((free, "1000"));
        Node {
            name: name.into(),
            model: "A100".into(),
            gpu_memory: Some(40),
            free_gpus: gpus.parse().unwrap(),
            free_milli_cpu: cpu.parse().unwrap(),
            free_memory: 1000,
        }
    };
    text.split(' ').map(node).collect()
}

fn replica(gpus: u32, size: u32) -> Replica<'static> {
    let need = PodNeed { gpus, milli_cpu: 1, memory: 1 };
    Replica { model: "A100", min_memory: None, need, size }
}

#[track_caller]
fn check(free: &str, replica: Replica, count: u32, want: Option<&str>) {
    let chosen =
        choose(&nodes(free), &replica, count, &Mix::default()).map(|names| names.join(" "));
    assert_eq!(chosen.as_deref(), want);
}

#[test]
fn a_pod_goes_to_the_tightest_node() {
    check("a:8 b:2 c:1", replica(2, 1), 1, Some("b"));
    check("b:2/500 a:2 c:2/500", replica(2, 1), 1, Some("b"));
    check("b:2 a:2", replica(2, 1), 1, Some("a"));
    check("a:2/0 b:3", replica(2, 1), 1, Some("b"));
    check("a:1 b:1", replica(2, 1), 1, None);
}

#[test]
fn an_array_fills_gaps_first() {
    check("a:8 b:2 c:1", replica(1, 1), 5, Some("c b b a a"));
    check("a:1 b:2", replica(1, 1), 4, None);
}

#[test]
fn a_gang_gets_one_node_if_one_holds_it() {
    check("a:8 b:4 c:1", replica(1, 4), 1, Some("b b b b"));
    check("a:8 b:4 c:1", replica(2, 4), 1, Some("a a a a"));
    check("a:3 b:2 c:1", replica(1, 4), 1, Some("c b b a"));
    check("a:8 b:8 c:8 d:8", replica(8, 4), 1, Some("a b c d"));
    check("a:8 b:8 c:8 d:7", replica(8, 4), 1, None);
}

#[test]
fn model_and_memory_are_kept() {
    let wanting = |model, min_memory| Replica { model, min_memory, ..replica(1, 1) };
    check("a:8", wanting("A100", Some(40)), 1, Some("a"));
    check("a:8", wanting("A100", Some(41)), 1, None);
    check("a:8", wanting("H100", None), 1, None);
}

/// So many pods of the owner with so many GPUs each.
fn usual(asked: &[(u32, u64)]) -> Mix {
    let ask = |gpus| Ask { need: PodNeed { gpus, milli_cpu: 1, memory: 1 }.into(), models: None };
    Mix::new(&asked.iter().map(|(gpus, pods)| (ask(*gpus), *pods)).collect())
}

#[test]
fn a_pod_keeps_out_of_gaps_that_others_need() {
    let chosen = |free: &str, asked: &[(u32, u64)]| {
        choose(&nodes(free), &replica(1, 1), 1, &usual(asked)).map(|names| names.join(" "))
    };
    // Best fit breaks the pair; where pairs are usual the odd GPU is better.
    assert_eq!(chosen("a:2 b:5", &[]).as_deref(), Some("a"));
    assert_eq!(chosen("a:2 b:5", &[(2, 9), (1, 1)]).as_deref(), Some("b"));
    assert_eq!(chosen("a:4 b:5", &[(4, 9), (1, 1)]).as_deref(), Some("b"));
    assert_eq!(chosen("a:4 b:5", &[(1, 1)]).as_deref(), Some("a"));
}

#[test]
fn no_nodes_are_none() {
    assert_eq!(choose(&[], &replica(1, 1), 1, &usual(&[(1, 1)])), None);
    assert_eq!(choose(&[], &replica(1, 1), 0, &usual(&[(1, 1)])), Some(Vec::new()));
}

#[test]
fn the_limits_of_integers_break_nothing() {
    let all = Node {
        free_gpus: u32::MAX,
        free_milli_cpu: u64::MAX,
        free_memory: u64::MAX,
        ..nodes("a:16").remove(0)
    };
    let mix = usual(&[(u32::MAX, u64::MAX), (1, 1)]);
    let chosen = choose(&[all], &replica(u32::MAX, 1), 1, &mix);
    assert_eq!(chosen, Some(vec!["a".to_owned()]));
}

fn some_nodes() -> impl Strategy<Value = Vec<Node>> {
    prop::collection::vec((0_u32..9, 0_u64..6, 0_u64..6), 0..6).prop_map(|free| {
        let node = |(place, (free_gpus, free_milli_cpu, free_memory))| Node {
            name: format!("n{place}"),
            model: if place == 3 { "H100".into() } else { "A100".into() },
            gpu_memory: None,
            free_gpus,
            free_milli_cpu,
            free_memory,
        };
        free.into_iter().enumerate().map(node).collect()
    })
}

fn some_mix() -> impl Strategy<Value = Mix> {
    prop::collection::vec((1_u32..9, 1_u64..9), 0..4).prop_map(|asked| usual(&asked))
}

/// The rule as it is told: every choice among all nodes anew.
fn plain(nodes: &[Node], replica: &Replica, count: u32, mix: &Mix) -> Option<Vec<String>> {
    let worth = worth(nodes, replica.model, mix);
    let mut left = nodes.to_vec();
    let best = |left: &[Node], pods: u32| {
        let key = |(place, node): (usize, &Node)| {
            let holds = replica.pods_within(node.free_gpus, node.free_milli_cpu, node.free_memory);
            let fits = replica.accepts(&node.model, node.gpu_memory) && holds >= pods;
            let mut after = node.clone();
            (0..pods).filter(|_| fits).for_each(|_| take(&mut after, replica));
            let cost = Worth::steps(worth.of(&node.idle()), worth.of(&after.idle()));
            let free = (node.free_gpus, node.free_milli_cpu, node.name.clone());
            fits.then_some((cost, free, place))
        };
        left.iter().enumerate().filter_map(key).min().map(|(.., place)| place)
    };
    let mut chosen = Vec::new();
    for _ in 0..count {
        let one = best(&left, replica.size);
        for _ in 0..replica.size {
            let place = one.or_else(|| best(&left, 1))?;
            take(&mut left[place], replica);
            chosen.push(left[place].name.clone());
        }
    }
    Some(chosen)
}

fn take(node: &mut Node, replica: &Replica) {
    node.free_gpus -= replica.need.gpus;
    node.free_milli_cpu -= replica.need.milli_cpu;
    node.free_memory -= replica.need.memory;
}

/// What the hub would see of these nodes if each were a group of its own.
fn picture(nodes: &[Node]) -> Vec<Shape> {
    let shape = |node: &Node| Shape {
        model: node.model.clone(),
        free: vec![Free {
            gpus: node.free_gpus,
            nodes: 1,
            milli_cpu: node.free_milli_cpu,
            memory: node.free_memory,
        }],
        ..Shape::default()
    };
    nodes.iter().map(shape).collect()
}

proptest! {
    #[test]
    fn chooses_as_a_look_at_every_node(
        nodes in some_nodes(),
        gpus in 1_u32..5,
        size in 1_u32..5,
        count in 1_u32..5,
        mix in some_mix(),
    ) {
        let replica = replica(gpus, size);
        let chosen = choose(&nodes, &replica, count, &mix);
        prop_assert_eq!(chosen, plain(&nodes, &replica, count, &mix));
    }

    #[test]
    fn no_node_is_given_more_than_it_has(
        nodes in some_nodes(),
        gpus in 1_u32..5,
        size in 1_u32..5,
        count in 1_u32..5,
        mix in some_mix(),
    ) {
        let replica = replica(gpus, size);
        for name in choose(&nodes, &replica, count, &mix).iter().flatten() {
            let node = nodes.iter().find(|node| node.name == *name).unwrap();
            let chosen = choose(&nodes, &replica, count, &mix).unwrap();
            let pods = chosen.iter().filter(|other| *other == name).count();
            let holds =
                replica.pods_within(node.free_gpus, node.free_milli_cpu, node.free_memory);
            prop_assert!(pods <= holds as usize && node.model == "A100");
            prop_assert_eq!(chosen.len(), (size * count) as usize);
        }
    }

    #[test]
    fn finds_nodes_whenever_the_hub_counts_room(
        nodes in some_nodes(),
        gpus in 1_u32..5,
        size in 1_u32..5,
        count in 1_u32..5,
        mix in some_mix(),
    ) {
        let replica = replica(gpus, size);
        let room = fit::room(&picture(&nodes), u64::MAX, &replica);
        prop_assert_eq!(choose(&nodes, &replica, count, &mix).is_some(), room >= count);
    }

    #[test]
    fn the_order_of_nodes_decides_nothing(
        nodes in some_nodes(),
        gpus in 1_u32..5,
        size in 1_u32..5,
        mix in some_mix(),
    ) {
        let mut turned = nodes.clone();
        turned.reverse();
        let replica = replica(gpus, size);
        prop_assert_eq!(choose(&nodes, &replica, 2, &mix), choose(&turned, &replica, 2, &mix));
    }
}
