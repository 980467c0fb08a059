//! Dashboards and alerts against a real Prometheus that scrapes a federation.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use idlewild::api::gpujob::Phase;
use idlewild::api::{GpuJob, GpuPool};
use idlewild::sandbox::{
    Federation, Member, MemberSettings, OWNER, Process, Program, Service, USER, free_port, get, run,
};
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

use crate::harness::{SOON, eventually, fresh, job_in, jobs, settings};
use crate::work::{create, job_with};

/// Most series of a hub's controller with three members of one pool each, whatever runs there.
const MOST_OF_HUB: usize = 300;
/// Most series of a member's agent with one pool and one hub.
const MOST_OF_AGENT: usize = 200;

/// Debian's Prometheus, which the Makefile unpacks.
fn tool(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools/prometheus").join(name);
    assert!(path.exists(), "{} is missing: make alerts unpacks it", path.display());
    path
}

/// A Prometheus that scrapes hub and agents of a federation.
struct Prometheus {
    address: String,
    process: Process,
}

impl Prometheus {
    async fn start(federation: &Federation) -> Self {
        let directory = federation.directory().join("prometheus");
        std::fs::create_dir_all(&directory).unwrap();
        std::fs::write(directory.join("hub.yaml"), impatient("hub")).unwrap();
        std::fs::write(directory.join("member.yaml"), impatient("member")).unwrap();
        let targets = |services: Vec<&Service>| {
            let addresses: Vec<_> = services.iter().map(|one| one.address.clone()).collect();
            json!([{ "targets": addresses }])
        };
        let gateway = std::iter::once(&federation.hub.gateway().service);
        let hub = targets(federation.hub.controllers.iter().chain(gateway).collect());
        let agents = targets(federation.members.values().map(Member::agent).collect());
        let config = json!({
            "global": { "scrape_interval": "2s", "scrape_timeout": "2s", "evaluation_interval": "2s" },
            "rule_files": ["hub.yaml", "member.yaml"],
            "scrape_configs": [
                { "job_name": "idlewild-hub-metrics", "static_configs": hub },
                { "job_name": "idlewild-agent-metrics", "static_configs": agents },
            ],
        });
        let file = directory.join("prometheus.yaml"); // JSON is YAML
        std::fs::write(&file, config.to_string()).unwrap();
        let address = format!("127.0.0.1:{}", free_port().unwrap());
        let program = Program {
            name: "prometheus".into(),
            path: tool("prometheus"),
            arguments: vec![
                format!("--config.file={}", file.display()),
                format!("--storage.tsdb.path={}", directory.join("data").display()),
                format!("--web.listen-address={address}"),
                "--log.level=warn".into(),
            ],
        };
        let process = federation.run(program).unwrap();
        let prometheus = Self { address, process };
        eventually("Prometheus is ready", SOON, async || {
            assert!(prometheus.process.is_running(), "{}", prometheus.process.last_words());
            match get(&prometheus.address, "/-/ready").await? {
                (200, _) => Ok(()),
                (code, body) => Err(format!("{code} {body}")),
            }
        })
        .await;
        prometheus
    }

    async fn ask(&self, path: &str) -> Result<Value, String> {
        let (code, body) = get(&self.address, path).await?;
        match code {
            200 => serde_json::from_str(&body).map_err(|error| error.to_string()),
            _ => Err(format!("{code} {body}")),
        }
    }

    /// Series with a number that `query` returns now.
    async fn series(&self, query: &str) -> Result<usize, String> {
        let answer = self.ask(&format!("/api/v1/query?query={}", encoded(query))).await?;
        let found = answer["data"]["result"].as_array().ok_or("no result")?;
        Ok(found.iter().filter(|series| series["value"][1] != "NaN").count())
    }
}

/// The chart's rules with a wait that fits a test; all else is as it is shipped.
fn impatient(which: &str) -> String {
    let file = format!("charts/idlewild-{which}/rules/{which}.yaml");
    let rules = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap();
    let short = rules.replace("for: 2m", "for: 4s");
    assert!(which != "hub" || short != rules);
    short
}

fn encoded(query: &str) -> String {
    let byte = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' => char::from(byte).to_string(),
        other => format!("%{other:02X}"),
    };
    query.bytes().map(byte).collect()
}

/// Every query of a dashboard, with its variables as Grafana would fill them in.
fn queries() -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    for file in ["hub/dashboards/federation.json", "member/dashboards/contribution.json"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("charts/idlewild-{file}"));
        let dashboard: Value =
            serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        for panel in dashboard["panels"].as_array().unwrap() {
            for target in panel["targets"].as_array().into_iter().flatten() {
                let query = target["expr"].as_str().unwrap();
                let query = query.replace("$__rate_interval", "5m").replace("$__range", "5m");
                let query = query.replace("$member", ".*").replace("$pool", ".*");
                let title = format!("{file}: {} {}", panel["title"], target["refId"]);
                assert!(!query.contains('$'), "{title}: {query}");
                all.insert(title, query);
            }
        }
    }
    all
}

/// Jobs that run, end, wait, and must go for an owner.
async fn bustle(federation: &Federation, api: &Api<GpuJob>) {
    let on = |model: &str| json!({ "gpu": { "anyOf": [{ "model": model }] } });
    create(api, job_with("stays", 1, "900s", on("A100"))).await;
    create(api, job_with("ends", 1, "1s", on("A100"))).await;
    create(api, job_with("must-go", 1, "900s", on("L40S"))).await;
    job_in(api, "stays", &[Phase::Running], SOON).await;
    job_in(api, "must-go", &[Phase::Running], SOON).await;
    job_in(api, "ends", &[Phase::Succeeded], SOON).await;
    let owner = federation.members["lab-south"].cluster.client_for(OWNER).await.unwrap();
    let pools: Api<GpuPool> = Api::namespaced(owner, "idlewild-system");
    let paused = Patch::Merge(json!({ "spec": { "offer": { "paused": true } } }));
    pools.patch("l40s", &PatchParams::default(), &paused).await.unwrap();
    eventually("the guest that must go waits", SOON, async || {
        let status = api.get("must-go").await.unwrap().status.unwrap_or_default();
        let evicted = status.evictions.total == 1 && status.replicas.waiting == 1;
        if evicted { Ok(()) } else { Err(format!("{:?} {:?}", status.phase, status.evictions)) }
    })
    .await;
}

/// What Prometheus's own tool has against a page of metrics, and how many series the page has.
async fn inspected(service: &Service) -> usize {
    let page = service.page("/metrics").await.unwrap();
    let checked = run(&tool("promtool"), &["check", "metrics"], &page).await;
    checked.unwrap_or_else(|error| panic!("{}: {error:?}", service.process.name()));
    page.lines().filter(|line| line.starts_with("idlewild_")).count()
}

#[test]
fn every_panel_has_data_and_a_silent_member_raises_its_alert() {
    let members = MemberSettings::examples(3);
    fresh(&settings("metrics", members), async |federation| {
        let prometheus = Prometheus::start(federation).await;
        eventually("hub and agents are scraped before anything happens", SOON, async || {
            match prometheus.series("up == 1").await? {
                5 => Ok(()),
                some => Err(format!("{some} of 5 targets")),
            }
        })
        .await;
        let api = jobs(federation).await;
        bustle(federation, &api).await;
        let mut series = BTreeMap::new();
        for service in federation.members.values().map(Member::agent) {
            series.insert(service.process.name().to_owned(), inspected(service).await);
        }
        let hub = inspected(federation.hub.controller()).await;
        println!("series: hub {hub}, agents {series:?}");
        assert!(hub <= MOST_OF_HUB, "{hub}");
        assert!(series.values().all(|agent| *agent <= MOST_OF_AGENT), "{series:?}");
        federation.members["corp-west"].agent().process.kill().await.unwrap();
        let queries = queries();
        assert!(queries.len() > 50, "{}", queries.len());
        eventually("every panel has data", SOON, async || {
            let question =
                "/apis/gateway.idlewild.dev/v1alpha1/namespaces/team-a/gpujobs/must-go/explain";
            let asked = federation.hub.cluster.kubectl(USER, &["get", "--raw", question], "").await;
            asked.map_err(|error| error.to_string())?;
            let mut empty = Vec::new();
            for (title, query) in &queries {
                match prometheus.series(query).await {
                    Ok(0) => empty.push(format!("{title}: no data for {query}")),
                    Ok(_) => {}
                    Err(error) => return Err(format!("{title}: {error}")),
                }
            }
            if empty.is_empty() { Ok(()) } else { Err(empty.join("; ")) }
        })
        .await;
        let limit = Duration::from_mins(2);
        eventually("the alert fires for the silent member and no other", limit, async || {
            let alerts = prometheus.ask("/api/v1/alerts").await?;
            let of_members = alerts["data"]["alerts"].as_array().ok_or("no alerts")?.iter();
            let of_members: Vec<_> = of_members
                .filter(|alert| alert["labels"]["alertname"] == "IdlewildMemberSilent")
                .map(|alert| (alert["labels"]["member"].as_str(), alert["state"].as_str()))
                .collect();
            assert!(of_members.iter().all(|(member, _)| *member == Some("corp-west")));
            match of_members[..] {
                [(_, Some("firing"))] => Ok(()),
                _ => Err(format!("{of_members:?}")),
            }
        })
        .await;
    });
}
