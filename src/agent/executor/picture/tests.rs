use serde_json::{Value, json};

use super::*;

fn pool(offer: Value) -> GpuPool {
    serde_json::from_value(json!({"apiVersion": "idlewild.dev/v1alpha1", "kind": "GpuPool",
        "metadata": {"name": "a", "generation": 1}, "spec": {"offer": offer}}))
    .unwrap()
}

fn lent(free: &[u32]) -> Lent {
    let slot = |(place, free): (usize, &u32)| Slot {
        node: format!("n{place}"),
        model: "A100".into(),
        memory: "80Gi".into(),
        arch: "amd64".into(),
        resource: "nvidia.com/gpu".into(),
        total: 8,
        guests: 0,
        owner: 8_u32.saturating_sub(*free),
        free: *free,
        milli_cpu: 1000 * (place as u64 + 1),
        memory_bytes: 7,
    };
    Lent { slots: free.iter().enumerate().map(slot).collect(), ..Lent::default() }
}

const NOBODY: &BTreeMap<String, i64> = &BTreeMap::new();
const NEVER: &VacateHistory = &VacateHistory { counts: Vec::new(), evictions: 0, gpu_seconds: 0 };
const HELD: Held = Held {
    hubs: NOBODY,
    reclaimed: 0,
    entered: 0,
    models: NOBODY,
    closed: None,
    vacating: NEVER,
    hindered: Hindered { priority: 0, scheduler: 0 },
    learnt: None,
};

fn held_by(hub: &str, gpus: i64) -> BTreeMap<String, i64> {
    BTreeMap::from([(hub.to_owned(), gpus)])
}

fn at() -> Timestamp {
    Timestamp::UNIX_EPOCH
}

#[test]
fn nodes_are_grouped_by_what_is_free_with_the_least_of_the_rest() {
    let status = status(&pool(json!({})), &lent(&[4, 8, 4, 0]), HELD, 7, at()).unwrap();
    assert_eq!((status.serial, status.shapes.len(), status.shapes[0].nodes), (7, 1, 4));
    let group = |gpus, nodes, milli_cpu| FreeNodes { gpus, nodes, milli_cpu, memory_bytes: 7 };
    assert_eq!(status.shapes[0].free, [group(8, 1, 2000), group(4, 2, 1000)]);
    assert_eq!((status.gpus.offered, status.gpus.owner, status.gpus.free), (32, 16, 16));
    assert_eq!(status.summary.models, "A100");
}

#[test]
fn an_unchanged_picture_is_written_only_to_cover_a_lease() {
    let mut pool = pool(json!({}));
    pool.status = status(&pool, &lent(&[8]), HELD, 7, at());
    assert_eq!(status(&pool, &lent(&[8]), Held { entered: 7, ..HELD }, 8, at()), None);
    let entered = Held { entered: 8, ..HELD };
    assert_eq!(status(&pool, &lent(&[8]), entered, 9, at()).unwrap().serial, 9);
    assert_eq!(status(&pool, &lent(&[7]), HELD, 9, at()).unwrap().serial, 9);
}

#[test]
fn limits_cap_the_sums_and_reasons_are_told() {
    let capped = pool(json!({"maxGpus": 6}));
    let guests = held_by("hub", 4);
    let held = Held { hubs: &guests, ..HELD };
    let gpus = status(&capped, &lent(&[8]), held, 1, at()).unwrap().gpus;
    assert_eq!((gpus.offered, gpus.guests, gpus.free), (6, 4, 2));
    let paused = status(&pool(json!({"paused": true})), &lent(&[8]), HELD, 1, at()).unwrap();
    assert_eq!((paused.gpus.free, paused.shapes.len()), (0, 0));
    assert_eq!(paused.conditions[0].reason, "Paused");
    let mut empty = lent(&[]);
    empty.not_lent.insert("NotReady", 3);
    let empty = status(&pool(json!({})), &empty, HELD, 1, at()).unwrap();
    assert_eq!(empty.conditions[0].reason, "NoNodes");
    assert_eq!(empty.not_lent[0].nodes, 3);
}

#[test]
fn a_picture_never_holds_more_than_can_be_stored() {
    let mut many = lent(&(1..200).collect::<Vec<_>>());
    let shapes = super::shapes(&many.slots);
    assert_eq!((shapes.len(), shapes[0].free.len(), shapes[0].free[0].gpus), (1, 64, 199));
    for (place, slot) in many.slots.iter_mut().enumerate() {
        slot.model = format!("M{place:062}");
    }
    many.slots[0].model.push('x');
    let status = status(&pool(json!({})), &many, HELD, 1, at()).unwrap();
    assert_eq!((status.shapes.len(), status.summary.models.len()), (64, 1024));
}

#[test]
fn conditions_say_what_holds_the_pool_back() {
    let said = |pool: &GpuPool, lent: &Lent, held: Held| {
        let conditions = status(pool, lent, held, 1, at()).unwrap().conditions;
        let true_ones = conditions.into_iter().filter(|condition| condition.status == "True");
        true_ones.map(|condition| (condition.type_, condition.message)).collect::<Vec<_>>()
    };
    let types = |found: Vec<(String, String)>| {
        found.into_iter().map(|(type_, _)| type_).collect::<Vec<_>>().join(" ")
    };
    let open = pool(json!({}));
    assert_eq!(types(said(&open, &lent(&[8]), HELD)), "Ready");
    assert_eq!(types(said(&pool(json!({"paused": true})), &lent(&[8]), HELD)), "Paused");
    let guests = held_by("hub", 8);
    let held = Held { hubs: &guests, reclaimed: 4, ..HELD };
    let found = said(&open, &lent(&[8]), held);
    assert!(found[1].1.contains("on 4 GPUs"), "{found:?}");
    assert_eq!(types(found), "Ready Reclaiming");
    let mut some = lent(&[8]);
    some.not_lent.insert("NotReady", 2);
    let found = said(&open, &some, HELD);
    assert!(found[1].1.ends_with("2 NotReady"), "{found:?}");
    assert_eq!(types(found), "Ready Degraded");
}

#[test]
fn sums_by_model_add_up_to_those_of_the_pool() {
    let mut mixed = lent(&[8, 2]);
    mixed.slots[1].model = "H100".into();
    let by_model = |status: &GpuPoolStatus| {
        let all = status.models.iter().map(|one| (one.model.clone(), one.states()));
        all.map(|(model, states)| (model, states.map(|(_, gpus)| gpus))).collect::<Vec<_>>()
    };
    let guests = held_by("hub", 4);
    let models = BTreeMap::from([("H100".to_owned(), 4)]);
    let held = Held { hubs: &guests, models: &models, ..HELD };
    let open = status(&pool(json!({})), &mixed, held, 1, at()).unwrap();
    let want = [("A100".to_owned(), [8, 0, 0, 8]), ("H100".to_owned(), [8, 6, 4, 2])];
    assert_eq!(by_model(&open), want);
    let capped = status(&pool(json!({"maxGpus": 13})), &mixed, held, 1, at()).unwrap();
    let want = [("A100".to_owned(), [8, 0, 0, 8]), ("H100".to_owned(), [5, 6, 4, 1])];
    assert_eq!(by_model(&capped), want, "{:?}", capped.gpus);
    assert_eq!((capped.gpus.offered, capped.gpus.free), (13, 9));
}

#[test]
fn definitions_that_drop_the_newest_parts_do_not_make_it_write_for_ever() {
    let mut pool = pool(json!({}));
    let guests = held_by("hub", 4);
    let models = BTreeMap::from([("A100".to_owned(), 4)]);
    let held = Held { hubs: &guests, models: &models, ..HELD };
    let mut stored = status(&pool, &lent(&[8]), held, 7, at()).unwrap();
    stored.models.clear();
    stored.hubs.clear();
    pool.status = Some(stored);
    assert_eq!(status(&pool, &lent(&[8]), held, 8, at()), None);
    assert!(status(&pool, &lent(&[7]), held, 8, at()).is_some(), "what changed is written");
}
