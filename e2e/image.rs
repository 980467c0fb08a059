//! The container image of `make image`: what is in it, and that hub and agent start from it the way
//! their charts run them. `make test-image` runs these tests, since they need a release build.

mod container;
mod layout;
mod names;
mod pod;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use idlewild::sandbox::{self, ControlPlane, Federation};
use k8s_openapi::api::apps::v1::Deployment;
use kube::Api;
use serde_json::{Value, json};

use crate::harness::{SOON, control_planes, eventually, fresh, member};
use container::{Bundle, Container, run};
use layout::{Image, digest, output};
use names::Names;
use pod::Pod;

/// The figure that the image keeps to, compressed and unpacked: 25 MB.
const MOST_BYTES: u64 = 25_000_000;
/// How a pod may call its API server; the certificate holds that name.
const SERVICE: &str = "kubernetes.default.svc";

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(file: &str) -> String {
    let path = repository().join(file);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
#[ignore = "needs the image: make test-image"]
fn the_image_holds_one_static_binary_and_runs_it_without_rights() {
    let image = Image::open();
    assert!(image.compressed() <= MOST_BYTES, "{} bytes compressed", image.compressed());
    assert!(image.layer.len() as u64 <= MOST_BYTES, "{} bytes unpacked", image.layer.len());
    let config = &image.config["config"];
    assert_eq!(config["User"], "65532:65532");
    assert_eq!(config["Entrypoint"], json!(["/idlewild"]));
    assert_eq!(config["ExposedPorts"], json!({ "8080/tcp": {} }));
    let labels = &config["Labels"];
    assert_eq!(labels["org.opencontainers.image.version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(labels["org.opencontainers.image.licenses"], env!("CARGO_PKG_LICENSE"));
    assert_eq!(labels["org.opencontainers.image.created"], image.config["created"]);
    let listing = image.listing();
    let files: Vec<_> = listing.lines().map(|line| line.split_whitespace().collect()).collect();
    let [licence, binary]: &[Vec<&str>; 2] = files.as_slice().try_into().expect(&listing);
    assert_eq!((licence[0], licence[1], licence[5]), ("-rw-r--r--", "0/0", "LICENSE"));
    assert_eq!((binary[0], binary[1], binary[5]), ("-rwxr-xr-x", "0/0", "idlewild"));
    // Neither does it ask for a loader, nor does it tell where it was built.
    let program = image.binary();
    assert_eq!(layout::interpreter(&program), None);
    let home = std::env::var("CARGO_HOME")
        .or_else(|_| std::env::var("HOME").map(|home| format!("{home}/.cargo")));
    for place in [format!("{}/src/", repository().display()), format!("{}/", home.unwrap())] {
        assert!(!layout::contains(&program, &place), "the binary holds {place}");
    }
    // Our own sources have relative paths; those of the crates show that the mapping works.
    assert!(layout::contains(&program, "/crates/"), "paths are not told as they were mapped");
}

/// Name and version of each crate of the normal dependency graph.
fn crates() -> BTreeSet<(String, String)> {
    let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let arguments =
        ["tree", "--locked", "--edges", "normal", "--prefix", "none", "--target", &target];
    let tree = output(Command::new(env!("CARGO")).current_dir(repository()).args(arguments));
    let crates = tree.lines().filter_map(|line| {
        let mut words = line.split(' ');
        Some((words.next()?.to_owned(), words.next()?.trim_start_matches('v').to_owned()))
    });
    crates.collect()
}

#[test]
#[ignore = "needs the image: make test-image"]
fn the_sbom_names_every_crate_that_is_in_the_binary() {
    let image = Image::open();
    let sbom: Value = serde_json::from_str(&image.file("idlewild.cdx.json")).unwrap();
    let program = image.binary();
    let root = &sbom["metadata"]["component"];
    assert_eq!(root["hashes"][0]["content"], digest(&program), "it is about another binary");
    let text = |value: &Value, key: &str| value[key].as_str().unwrap_or_default().to_owned();
    let key = |component: &Value| (text(component, "name"), text(component, "version"));
    let components = sbom["components"].as_array().unwrap();
    let mut listed: BTreeSet<_> = components.iter().map(key).collect();
    listed.insert(key(root));
    let missing: Vec<_> = crates().into_iter().filter(|found| !listed.contains(found)).collect();
    assert!(missing.is_empty(), "not in the SBOM: {missing:?}");
    // The messages of panics tell which sources went in, whatever cargo says.
    let sources = layout::crates_named_in(&program);
    assert!(sources.len() > 50, "{sources:?}");
    let names: BTreeSet<_> = listed.iter().map(|(name, of)| format!("{name}-{of}")).collect();
    let unknown: Vec<_> = sources.difference(&names).collect();
    assert!(unknown.is_empty(), "in the binary and not in the SBOM: {unknown:?}");
    let lock = read("Cargo.lock");
    let from_registry = |component: &&Value| text(component, "purl").starts_with("pkg:cargo/");
    for component in components.iter().filter(from_registry) {
        let hash = text(&component["hashes"][0], "content");
        assert!(lock.contains(&format!("checksum = \"{hash}\"")), "{component}");
        assert!(component["licenses"][0]["expression"].is_string(), "{component}");
    }
    let linked: BTreeSet<_> =
        components.iter().map(|component| text(component, "bom-ref")).collect();
    for archive in ["libc.a", "libgcc_eh.a", "rust-std"] {
        assert!(linked.contains(archive), "{archive}");
    }
}

#[test]
fn the_dockerfile_makes_of_the_same_toolchain_an_image_with_the_same_settings() {
    let file = read("Dockerfile");
    let line = |start: &str| {
        let found = file.lines().rfind(|line| line.starts_with(start));
        found.unwrap_or_else(|| panic!("no {start} in the Dockerfile"))[start.len()..].trim()
    };
    let toolchain = read("rust-toolchain.toml");
    let channel = toolchain.split('"').nth(1).unwrap();
    assert!(file.contains(&format!("\nFROM rust:{channel}-slim-bookworm AS build\n")), "{channel}");
    assert!(file.contains(&format!("RUSTUP_TOOLCHAIN={channel}")), "{channel}");
    assert!(file.contains("-Ctarget-feature=+crt-static"));
    assert_eq!(line("FROM "), "scratch");
    let script = read("deploy/image.sh");
    for (here, there) in [
        (line("USER "), "User: \"65532:65532\""),
        (line("ENTRYPOINT "), "Entrypoint: [\"/idlewild\"]"),
        (line("EXPOSE "), "ExposedPorts: {\"8080/tcp\""),
    ] {
        assert!(there.contains(here) && script.contains(there), "{here} is not {there}");
    }
}

#[test]
#[ignore = "needs the image: make test-image"]
fn hub_and_agent_start_from_the_image_as_their_charts_run_them() {
    let image = Image::open();
    let settings = control_planes("image", vec![member("solo", 2, 8)]);
    fresh(&settings, async |federation| {
        let root = federation.settings.dir.join("image");
        let bundle = Bundle::unpack(&image, root);
        says_who_it_is(&bundle);
        let (hub, solo) = (&federation.hub.cluster, &federation.members["solo"].cluster);
        install(federation, hub, "idlewild-hub").await;
        install(federation, solo, "idlewild-member").await;
        // Where a cluster's own DNS answers, with the search list of a pod.
        let dns = Names::serve(&["kubernetes.default.svc.cluster.local"]);
        let pod = deployed(hub, "idlewild-hub").await.reaching(SERVICE);
        starts_and_stops(&bundle, &pod, "hub starts").await;
        assert!(dns.asked("kubernetes.default.svc.cluster.local"), "{dns:?}");
        // Where /etc/hosts has the name, DNS is not asked.
        let asked = dns.count();
        let agent = deployed(solo, "idlewild-agent").await.reaching("localhost");
        starts_and_stops(&bundle, &agent, "agent starts").await;
        let agent = agent.with_host("127.0.0.1 kubernetes.default.svc").reaching(SERVICE);
        starts_and_stops(&bundle, &agent, "agent starts").await;
        assert_eq!(dns.count(), asked, "{dns:?}");
        // What nobody knows is said to be unknown.
        let lost = pod.reaching("nowhere.example.org");
        let (code, said) = run(&bundle, &lost.process(&["leave", "solo"]));
        assert!(code != 0 && said.contains("Name or service not known"), "{code}: {said}");
    });
}

fn says_who_it_is(bundle: &Bundle) {
    let (code, said) = run(bundle, &container::plain(&["--version"]));
    assert_eq!((code, said.trim()), (0, concat!("idlewild ", env!("CARGO_PKG_VERSION"))));
    for verb in ["hub", "agent"] {
        let (code, said) = run(bundle, &container::plain(&[verb, "--help"]));
        assert!(code == 0 && said.contains(&format!("Usage: idlewild {verb}")), "{code}: {said}");
    }
}

/// Installs `chart` without replicas: this test plays the kubelet.
async fn install(federation: &Federation, cluster: &ControlPlane, chart: &str) {
    let settings = &federation.settings;
    let address = cluster.endpoint.address.as_str();
    let hub = [("replicas", "0"), ("hub.id", "image"), ("hub.address", address)];
    let values = if chart == "idlewild-hub" { &hub[..] } else { &hub[..1] };
    let helm = settings.binaries.join("helm");
    sandbox::install(&helm, &settings.charts.join(chart), cluster, values).await.unwrap();
}

/// The pod of the deployment `name`, which is also the name of its service account.
async fn deployed(cluster: &ControlPlane, name: &str) -> Pod {
    let namespace = idlewild::api::SYSTEM_NAMESPACE;
    let api = Api::<Deployment>::namespaced(cluster.admin.clone(), namespace);
    let deployment = api.get(name).await.unwrap();
    let spec = deployment.spec.unwrap().template.spec.unwrap();
    let kubeconfig = sandbox::kubeconfig_of_service_account(cluster, name).await.unwrap();
    let token: Value = serde_json::from_slice(&std::fs::read(kubeconfig).unwrap()).unwrap();
    let token = token["users"][0]["user"]["token"].as_str().unwrap().to_owned();
    Pod::new(spec, &cluster.endpoint, token)
}

/// Runs the pod until its readiness probe succeeds, looks at its rights, and ends it as a kubelet does.
async fn starts_and_stops(bundle: &Bundle, pod: &Pod, line: &str) {
    let container = Container::start(bundle, &pod.service_process());
    eventually("readiness", SOON, async || {
        container.assert_running();
        match sandbox::get(&pod.address(), &pod.readiness()).await? {
            (200, _) => Ok(()),
            (code, body) => Err(format!("{code} {}; {}", body.trim(), container.log())),
        }
    })
    .await;
    assert!(container.log().contains(line), "{}", container.log());
    let (code, _) = sandbox::get(&pod.address(), &pod.liveness()).await.unwrap();
    assert_eq!(code, 200);
    container.assert_without_rights(65532);
    container.terminate();
    let code = eventually("the end", Duration::from_secs(30), async || container.ended()).await;
    assert_eq!(code, 0, "{}", container.log());
}

/// Where `make image` puts what it makes.
fn folder() -> PathBuf {
    repository().join("target/image")
}
