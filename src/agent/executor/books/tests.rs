use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::agent::executor::capacity::Slot;

fn lease(change: Value) -> GuestLeaseSpec {
    let mut spec = json!({"hubId": "hub", "grant": "g", "leaseName": "l", "leaseUid": "x",
        "job": {"namespace": "team", "name": "j", "uid": "j", "generation": 1}, "pool": "a",
        "epoch": {"incarnation": 1, "attempt": 2}, "indexes": "0-1", "size": 1,
        "gpu": {"count": 2, "model": "A100"}, "graceSeconds": 30, "activeDeadlineSeconds": 100,
        "digest": "d",
        "template": {"spec": {"containers": [{"name": "c", "image": "registry.test/i:1"}]}}});
    for (field, value) in change.as_object().unwrap() {
        spec[field] = value.clone();
    }
    serde_json::from_value(spec).unwrap()
}

fn pool(spec: Value) -> GpuPool {
    serde_json::from_value(json!({"apiVersion": "idlewild.dev/v1alpha1", "kind": "GpuPool",
        "metadata": {"name": "a"}, "spec": spec}))
    .unwrap()
}

fn slot(node: &str, free: u32) -> Slot {
    Slot {
        node: node.into(),
        model: "A100".into(),
        memory: "80Gi".into(),
        arch: "amd64".into(),
        resource: "nvidia.com/gpu".into(),
        total: 8,
        guests: 0,
        owner: 8 - free,
        free,
        milli_cpu: 64_000,
        memory_bytes: 512 << 30,
    }
}

fn lent(free: &[u32]) -> Lent {
    let slots = free.iter().enumerate().map(|(place, free)| slot(&format!("n{place}"), *free));
    Lent { slots: slots.collect(), ..Lent::default() }
}

const GRANT: Option<Grant> = Some(Grant { max_gpus: None, held: 0 });

#[track_caller]
fn check(change: Value, spec: Value, want: &str) {
    let (pool, lent) = (pool(spec), lent(&[8]));
    let books = Books {
        closed: None,
        pool: Some(&pool),
        lent: Some(&lent),
        held: 0,
        grant: GRANT,
        rivals: &[],
        mix: &Mix::default(),
    };
    let found = match answer("l", &lease(change), books) {
        Answer::Reserve(_) => "Reserved".into(),
        Answer::Refuse(refusal) => refusal.reason,
    };
    assert_eq!(found, want);
}

#[test]
fn the_owners_policy_decides() {
    check(json!({}), json!({}), "Reserved");
    check(json!({}), json!({"offer": {"paused": true}}), "PoolPaused");
    check(json!({}), json!({"allow": {"hubs": []}}), "HubNotAllowed");
    check(json!({}), json!({"allow": {"hubs": ["hub"]}}), "Reserved");
    check(json!({}), json!({"allow": {"namespaces": ["other"]}}), "NamespaceNotAllowed");
    check(json!({}), json!({"allow": {"types": []}}), "TypeNotAllowed");
    check(json!({}), json!({"allow": {"images": ["registry.test/*"]}}), "Reserved");
    check(json!({}), json!({"allow": {"images": ["registry.test/i"]}}), "ImageNotAllowed");
    check(json!({"residency": ["EU"]}), json!({}), "JurisdictionMismatch");
    check(json!({"residency": ["EU"]}), json!({"location": {"jurisdiction": "EU"}}), "Reserved");
    check(json!({"graceSeconds": 31}), json!({}), "NoticeTooShort");
    check(json!({"activeDeadlineSeconds": 86_401}), json!({}), "TooLong");
    check(json!({}), json!({"offer": {"maxGpus": 3}}), "NotEnoughFree");
    check(json!({"gpu": {"count": 2, "model": "H100"}}), json!({}), "NotEnoughFree");
    check(json!({"gpu": {"count": 5, "model": "A100"}}), json!({}), "NotEnoughFree");
}

#[test]
fn nonsense_is_refused_by_name() {
    for change in [
        json!({"indexes": "x"}),
        json!({"indexes": ""}),
        json!({"indexes": "0-256"}),
        json!({"indexes": "0-4294967295"}),
        json!({"size": 0}),
        json!({"size": 2}),
        json!({"gpu": {"count": 0, "model": "A100"}}),
        json!({"gpu": {"count": 17, "model": "A100"}}),
        json!({"activeDeadlineSeconds": 0}),
    ] {
        check(change, json!({}), "InvalidLease");
    }
    let template =
        json!({"spec": {"hostNetwork": true, "containers": [{"name": "c", "image": "i"}]}});
    check(json!({"template": template}), json!({}), "TemplateNotAllowed");
}

#[test]
fn grants_and_epochs_bind() {
    let (pool, lent) = (pool(json!({})), lent(&[8]));
    let books = Books {
        closed: None,
        pool: Some(&pool),
        lent: Some(&lent),
        held: 0,
        grant: GRANT,
        rivals: &[],
        mix: &Mix::default(),
    };
    let reason = |books: Books<'_>| match answer("l", &lease(json!({})), books) {
        Answer::Reserve(_) => "Reserved".to_owned(),
        Answer::Refuse(refusal) => refusal.reason,
    };
    let rival = |attempt, indexes| {
        [(EpochRef { incarnation: 1, attempt }, Indexes::parse(indexes).unwrap())]
    };
    assert_eq!(reason(Books { rivals: &rival(3, "1-5"), ..books }), "StaleEpoch");
    assert_eq!(reason(Books { rivals: &rival(3, "2-5"), ..books }), "Reserved");
    assert_eq!(reason(Books { rivals: &rival(1, "1-5"), ..books }), "Reserved");
    assert_eq!(reason(Books { grant: None, ..books }), "HubNotGranted");
    let tight = Some(Grant { max_gpus: Some(5), held: 2 });
    assert_eq!(reason(Books { grant: tight, ..books }), "NotEnoughFree");
    assert_eq!(reason(Books { pool: None, ..books }), "NoSuchPool");
}

proptest! {
    #[test]
    fn no_node_is_promised_more_than_it_has_free(
        free in prop::collection::vec(0_u32..9, 0..6),
        pods in 1_u32..6,
        gpus in 1_i32..9,
        gang in any::<bool>(),
    ) {
        let (indexes, size) = if gang { ("0".into(), pods) } else { (format!("0-{}", pods - 1), 1) };
        let spec = lease(json!({"indexes": indexes, "size": size,
            "gpu": {"count": gpus, "model": "A100"}}));
        let (pool, lent) = (pool(json!({})), lent(&free));
        let books =
            Books { closed: None, pool: Some(&pool), lent: Some(&lent), held: 0, grant: GRANT, rivals: &[], mix: &Mix::default() };
        let most: u32 = free.iter().map(|free| free / gpus.unsigned_abs()).sum();
        match answer("l", &spec, books) {
            Answer::Reserve(chosen) => {
                prop_assert_eq!(chosen.len(), pods as usize);
                for (place, free) in free.iter().enumerate() {
                    let here = chosen.values().filter(|node| **node == format!("n{place}")).count();
                    prop_assert!(u32::try_from(here).unwrap() * gpus.unsigned_abs() <= *free);
                }
            }
            Answer::Refuse(refusal) => {
                prop_assert_eq!(refusal.reason, "NotEnoughFree");
                prop_assert!(most < pods, "{most} pods would fit");
            }
        }
    }
}
