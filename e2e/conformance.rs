//! The simulated API server answers as a real one does: both get the same random requests, and what
//! they say is compared.
//!
//! `IDLEWILD_CONFORMANCE=<seed>` replays one sequence and prints each request and answer;
//! `IDLEWILD_CONFORMANCE=<seed>..<seed>` goes through many, for a long search.

mod chance;
mod plan;
mod samples;
mod twins;
mod words;

#[allow(dead_code, unused_imports, reason = "the simulation uses the rest of it")]
#[path = "../src/testing/server/mod.rs"]
mod simulated;

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
        let (mut requests, mut events, mut wrong) = (0, 0, Vec::new());
        for seed in &seeds {
            match sequence(client, *seed, seeds.len() == 1).await {
                Ok(seen) => (requests, events) = (requests + seen.0, events + seen.1),
                Err(difference) => wrong.push(difference),
            }
        }
        println!(
            "{} sequences: {requests} requests and {events} events agreed, in {:?}",
            seeds.len(),
            began.elapsed()
        );
        assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n\n"));
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

/// Carries out one sequence; how many requests and events agreed, or what did not.
async fn sequence(client: &Client, seed: u64, loud: bool) -> Result<(usize, usize), String> {
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
    }
    let mut events = 0;
    for watch in planner.watches() {
        events += twins.watch(watch).await.map_err(|difference| {
            format!("IDLEWILD_CONFORMANCE={seed}, {}\n{difference}", watch.words())
        })?;
    }
    Ok((REQUESTS, events))
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
