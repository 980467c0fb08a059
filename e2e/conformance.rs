//! The simulated API server answers as a real one does: both get the same random requests, and what
//! they say is compared.
//!
//! `IDLEWILD_CONFORMANCE=<seed>` replays one sequence and prints each request and answer;
//! `IDLEWILD_CONFORMANCE=<seed>..<seed>` goes through many, for a long search.

mod chance;
mod collected;
mod plan;
mod samples;
mod twins;
mod words;

#[allow(dead_code, unused_imports, reason = "the simulation uses the rest of it")]
#[path = "../src/testing/server/mod.rs"]
mod simulated;

use std::collections::BTreeMap;
use std::time::Instant;

use kube::Client;
use serde_json::{Value, json};

use crate::harness::{SOON, control_planes, eventually, fresh};
use plan::Planner;
use twins::Twins;

/// Sequences in the gate, and requests in each.
const SEQUENCES: u64 = 60;
const REQUESTS: usize = 50;

#[test]
fn the_simulated_server_answers_as_a_real_one() {
    let seeds = seeds();
    fresh(&control_planes("conformance", vec![]), async |federation| {
        let client = &federation.hub.cluster.admin;
        define(client).await;
        for seed in &seeds {
            twins::make_namespace(client, *seed).await;
        }
        let began = Instant::now();
        let (mut reached, mut wrong) = (Reached::new(), Vec::new());
        for seed in &seeds {
            if let Err(difference) = sequence(client, *seed, &mut reached).await {
                wrong.push(difference);
            }
        }
        println!("{} sequences in {:?}, which agreed on", seeds.len(), began.elapsed());
        for (what, times) in &reached {
            println!("{times:>8} {what}");
        }
        assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n\n"));
        // What no sequence reaches is not compared.
        let missing = EXPECTED.iter().filter(|what| !reached.contains_key(**what));
        let missing: Vec<_> = missing.filter(|_| seeds.len() >= 50).collect();
        assert!(missing.is_empty(), "no sequence reached {missing:?}");
        collected::dependents_go_as_a_real_collector_takes_them(client).await;
        collected::namespaces_end_as_real_ones_do(client).await;
    });
}

fn seeds() -> Vec<u64> {
    let Ok(asked) = std::env::var("IDLEWILD_CONFORMANCE") else {
        return (1..=SEQUENCES).collect();
    };
    match asked.split_once("..") {
        Some((from, to)) => (from.parse().unwrap()..to.parse().unwrap()).collect(),
        None => vec![asked.parse().unwrap()],
    }
}

/// How often an answer or event was given by both.
type Reached = BTreeMap<String, usize>;

/// What has to be among that.
const EXPECTED: &[&str] = &[
    "200 ",
    "201 ",
    "400 BadRequest",
    "403 Forbidden",
    "404 NotFound",
    "409 AlreadyExists",
    "409 Conflict",
    "415 UnsupportedMediaType",
    "422 Invalid",
    "500 ",
    "event ADDED",
    "event MODIFIED",
    "event DELETED",
    "event BOOKMARK",
    "event ERROR",
];

/// Carries out one sequence, and counts what both said; or tells what only one did.
async fn sequence(client: &Client, seed: u64, reached: &mut Reached) -> Result<(), String> {
    let loud = std::env::var("IDLEWILD_CONFORMANCE").is_ok_and(|asked| !asked.contains(".."));
    let mut twins = Twins::new(client.clone(), seed);
    let mut planner = Planner::new(seed);
    for number in 0..REQUESTS {
        let asked = planner.next(&twins);
        let differs = |difference| {
            let asked = asked.words();
            format!("IDLEWILD_CONFORMANCE={seed}, request {number}:\n{asked}\n{difference}")
        };
        if loud {
            println!("{number}: {}", asked.words());
        }
        let answer = twins.ask(&asked).await.map_err(differs)?;
        if loud {
            println!("    {answer}");
        }
        let reason = answer["reason"].as_str().unwrap_or("");
        *reached.entry(format!("{} {reason}", answer["code"])).or_default() += 1;
    }
    for watch in planner.watches() {
        let events = twins.watch(watch).await.map_err(|difference| {
            format!("IDLEWILD_CONFORMANCE={seed}, {}\n{difference}", watch.words())
        })?;
        for event in events {
            *reached.entry(format!("event {event}")).or_default() += 1;
        }
    }
    Ok(())
}

/// Defines this project's resources, and waits until they are served.
async fn define(client: &Client) {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("crds");
    for entry in std::fs::read_dir(root).unwrap() {
        let text = std::fs::read_to_string(entry.unwrap().path()).unwrap();
        let crd: Value = serde_yaml::from_str(&text).unwrap();
        let uri = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
        let (code, answer) = twins::send(client, "POST", uri, &crd, "application/json").await;
        assert_eq!(code, 201, "{answer}");
        let plural = crd["spec"]["names"]["plural"].as_str().unwrap();
        let uri = format!("/apis/idlewild.dev/v1alpha1/{plural}");
        eventually(&format!("{plural} served"), SOON, async || {
            match twins::send(client, "GET", &uri, &json!(null), "").await {
                (200, _) => Ok(()),
                (code, answer) => Err(format!("{code} {answer}")),
            }
        })
        .await;
    }
}
