use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::agent::executor::pod::{Pod, Role};

fn node(name: &str, change: Value) -> Node {
    let mut node = json!({"metadata": {"name": name, "labels": {"lend": "a",
            "nvidia.com/gpu.product": "NVIDIA-A100-SXM4-80GB"}},
        "spec": {},
        "status": {"allocatable": {"cpu": "8", "memory": "64Gi", "pods": "110", "nvidia.com/gpu": "8"},
            "conditions": [{"type": "Ready", "status": "True"}]}});
    for (pointer, value) in change.as_object().unwrap() {
        let (parent, field) = pointer.rsplit_once('/').unwrap();
        node.pointer_mut(parent).unwrap()[field.replace('~', "/")] = value.clone();
    }
    Node::slim(serde_json::from_value(node).unwrap())
}

fn pool(change: Value) -> GpuPoolSpec {
    let mut spec = json!({"nodeSelector": {"matchLabels": {"lend": "a"}}});
    for (field, value) in change.as_object().unwrap() {
        spec[field] = value.clone();
    }
    serde_json::from_value(spec).unwrap()
}

fn used(gpus: u32, guests: u32) -> Usage {
    let load =
        |gpus| Load { gpus: BTreeMap::from([("nvidia.com/gpu".into(), gpus)]), ..Load::default() };
    Usage { all: load(gpus + guests), guests: load(guests), pods: 1, ..Usage::default() }
}

fn wish(gpus: u32) -> Wish {
    let pod = json!({"metadata": {"uid": "u"}, "spec": {"containers": [{"name": "c",
        "resources": {"limits": {"nvidia.com/gpu": gpus.to_string()}}}]}});
    match Pod::slim(serde_json::from_value(pod).unwrap(), "g").unwrap().role {
        Role::Waits { wish, .. } => *wish,
        other => panic!("{other:?}"),
    }
}

fn lend_one(spec: &GpuPoolSpec, nodes: &[(Node, Usage)], wishes: &[Wish]) -> Lent {
    let pools = BTreeMap::from([("a".to_owned(), spec)]);
    let members = membership(&pools, nodes.iter().map(|(node, _)| node));
    let wishes: Vec<_> = wishes.iter().collect();
    let nodes = nodes.iter().map(|(node, usage)| (node, usage));
    lend(&pools, nodes, &members, &wishes).remove("a").unwrap()
}

#[track_caller]
fn not_lent(change: Value, spec: Value, want: &str) {
    let lent = lend_one(&pool(spec), &[(node("n", change), Usage::default())], &[]);
    assert_eq!(lent.not_lent, BTreeMap::from([(want, 1)]));
    assert!(lent.slots.is_empty());
}

#[test]
fn nodes_that_cannot_be_lent_say_why() {
    not_lent(json!({"/status/conditions": []}), json!({}), "NotReady");
    not_lent(json!({"/spec/unschedulable": true}), json!({}), "Cordoned");
    let shared = json!({"/metadata/labels/nvidia.com~gpu.sharing-strategy": "mps"});
    not_lent(shared, json!({}), "GpusShared");
    not_lent(json!({"/metadata/labels/nvidia.com~gpu.replicas": "4"}), json!({}), "GpusShared");
    not_lent(json!({"/status/allocatable": {"cpu": "8"}}), json!({}), "NoGpus");
    not_lent(json!({"/metadata/labels": {"lend": "a"}}), json!({}), "UnknownModel");
    let taint = json!({"/spec/taints": [{"key": "gpu", "effect": "NoSchedule"}]});
    not_lent(taint, json!({}), "TaintNotTolerated");
    let product = json!({"/metadata/labels/nvidia.com~gpu.product": "A100-SXM4-40GB-MIG-1g.5gb"});
    not_lent(product, json!({}), "SingleMigStrategy");
}

#[test]
fn models_come_from_labels_or_from_the_owner_and_slices_have_their_own() {
    let told = pool(json!({"modelOverride": {"model": "X1", "memory": "24Gi"}}));
    let bare = node("n", json!({"/metadata/labels": {"lend": "a"}}));
    let lent = lend_one(&told, &[(bare, Usage::default())], &[]);
    assert_eq!((lent.slots[0].model.as_str(), lent.slots[0].memory.as_str()), ("X1", "24Gi"));
    let mixed = node("n", json!({"/status/allocatable/nvidia.com~mig-1g.10gb": "7"}));
    let lent = lend_one(&pool(json!({})), &[(mixed, Usage::default())], &[]);
    let models: Vec<_> = lent.slots.iter().map(|slot| (slot.model.as_str(), slot.free)).collect();
    assert_eq!(models, [("A100", 8), ("A100/1g.10gb", 7)]);
}

#[test]
fn a_node_of_two_pools_belongs_to_the_first_by_name() {
    let (first, second) = (pool(json!({})), pool(json!({})));
    let pools = BTreeMap::from([("b".to_owned(), &first), ("a".to_owned(), &second)]);
    let nodes = [node("n", json!({}))];
    assert_eq!(membership(&pools, nodes.iter())["n"], "a");
}

#[test]
fn the_owners_pending_pods_take_the_tightest_node_that_fits() {
    let nodes = [(node("n1", json!({})), used(0, 0)), (node("n2", json!({})), used(4, 0))];
    let lent = lend_one(&pool(json!({})), &nodes, &[wish(3), wish(9), wish(9)]);
    let free: Vec<_> = lent.slots.iter().map(|slot| (slot.free, slot.owner)).collect();
    assert_eq!(free, [(8, 0), (1, 7)]);
}

proptest! {
    #[test]
    fn what_is_free_is_never_more_than_what_is_left(
        usage in prop::collection::vec((0_u32..12, 0_u32..12), 1..8),
        wishes in prop::collection::vec(1_u32..10, 0..5),
        reserve in 0_i64..20,
    ) {
        let nodes: Vec<_> = usage
            .iter()
            .enumerate()
            .map(|(place, (owner, guests))| {
                (node(&format!("n{place}"), json!({})), used(*owner, *guests))
            })
            .collect();
        let spec = pool(json!({"offer": {"reserveGpus": reserve}}));
        let none = lend_one(&pool(json!({})), &nodes, &[]);
        let wishes: Vec<_> = wishes.into_iter().map(wish).collect();
        let wished = lend_one(&pool(json!({})), &nodes, &wishes);
        let lent = lend_one(&spec, &nodes, &wishes);
        let sum = |lent: &Lent| lent.slots.iter().map(|slot| i64::from(slot.free)).sum::<i64>();
        for (slot, (owner, guests)) in none.slots.iter().zip(&usage) {
            prop_assert_eq!(slot.free, 8_u32.saturating_sub(owner + guests));
        }
        prop_assert!(sum(&wished) <= sum(&none));
        prop_assert_eq!(sum(&lent), (sum(&wished) - reserve).max(0));
    }
}
