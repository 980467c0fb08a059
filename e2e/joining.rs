//! Members that come, go, come back, and meet what goes wrong on the way: real agents, one hub.

mod clock;
mod trust;

use std::time::{Duration, Instant};

use idlewild::api::gpujob::Phase;
use idlewild::api::{
    GpuPool, HubGrant, JoinRequest, KEY_SECRET, MemberCluster, SYSTEM_NAMESPACE, TOKEN_SECRET,
    conditions,
};
use idlewild::cluster::chain;
use idlewild::sandbox::{Authority, Federation, OWNER, Reach, Service, Settings};
use k8s_openapi::ByteString;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Secret};
use k8s_openapi::api::rbac::v1::RoleBinding;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

use clock::a_clock_an_hour_off_changes_nothing;
use trust::{impostors_hear_no_token, last_beat, the_hub_changes_its_ca};

use crate::front::{Front, Issuer, Tunnels};
use crate::harness::{SOON, eventually, fresh, job_in, jobs, member, settings};
use crate::work::{create, guests, job_with};

/// Name of every grant: the hub's ID.
const GRANT: &str = "sandbox";
/// What a member must do within a minute of `accept`.
const FIRST_PICTURE: Duration = Duration::from_mins(1);

#[test]
fn members_join_through_what_goes_wrong_and_come_back() {
    let members = vec![member("north", 1, 8), member("south", 1, 8)];
    let settings = Settings {
        reach: Reach::Installed,
        // As managed control planes do.
        hub_flags: vec!["--service-account-max-token-expiration=24h".into()],
        ..settings("joining", members)
    };
    fresh(&settings, async |federation| {
        let hub = &federation.hub.cluster;
        let pair = hub.authority().server("hub", &["127.0.0.1"]).unwrap();
        let front = Front::start(hub, &pair).await;
        a_foreign_namespace_is_not_taken(federation).await;
        a_chart_is_installed_once(federation).await;
        the_chart_hands_on_the_proxy(federation).await;
        north_joins(federation, &front).await;
        a_renamed_member_is_told_what_to_do(federation).await;
        the_hub_changes_its_ca(federation, &front).await;
        impostors_hear_no_token(federation).await;
        south_joins_through_a_proxy(federation).await;
        a_clock_an_hour_off_changes_nothing(federation).await;
        stolen_tokens_are_seen_and_ended(federation).await;
        the_hub_revokes(federation).await;
        the_owner_makes_a_new_key(federation).await;
        the_owner_takes_the_grant_back(federation).await;
    });
}

fn grants(federation: &Federation, member: &str) -> Api<HubGrant> {
    Api::namespaced(federation.members[member].cluster.admin.clone(), SYSTEM_NAMESPACE)
}

async fn grant(federation: &Federation, member: &str) -> HubGrant {
    grants(federation, member).get(GRANT).await.unwrap()
}

/// Waits until `member`'s grant says `reason`; returns the sentence.
async fn says(federation: &Federation, member: &str, type_: &str, reason: &str) -> String {
    let api = grants(federation, member);
    eventually(&format!("{member}: {type_} is {reason}"), SOON, async || {
        let status = api.get(GRANT).await.map_err(|error| error.to_string())?.status;
        let status = status.unwrap_or_default();
        let found = conditions::find(&status.conditions, type_).ok_or("no condition")?;
        if found.reason == reason { Ok(found.message.clone()) } else { Err(format!("{found:?}")) }
    })
    .await
}

async fn connected(federation: &Federation, member: &str) -> String {
    says(federation, member, "Connected", "Connected").await
}

fn print_of(grant: &HubGrant) -> String {
    grant.status.as_ref().and_then(|status| status.fingerprint.clone()).unwrap_or_default()
}

/// The owner applies what the operator got from `invite`.
async fn invited(federation: &Federation, arguments: &[&str]) {
    let all: Vec<&str> = ["invite"].into_iter().chain(arguments.iter().copied()).collect();
    let yaml = federation.operate(&all).await.unwrap();
    let member = &federation.members[arguments[0]].cluster;
    member.kubectl(OWNER, &["apply", "-f", "-"], &yaml).await.unwrap();
}

/// Waits until the hub holds a request of `member` with `print`, and accepts it.
async fn accepted(federation: &Federation, member: &str, print: &str) -> String {
    let namespace = format!("member-{member}");
    let api: Api<JoinRequest> = Api::namespaced(federation.hub.cluster.admin.clone(), &namespace);
    eventually(&format!("{member} asks with {print}"), SOON, async || {
        let request = api.get("join").await.map_err(|error| error.to_string())?;
        if request.spec.fingerprint == print { Ok(()) } else { Err(request.spec.fingerprint) }
    })
    .await;
    federation.operate(&["accept", member, "--fingerprint", print]).await.unwrap()
}

/// Joins `member` again with the owner's fingerprint as it is now.
async fn rejoined(federation: &Federation, member: &str, more: &[&str]) {
    let arguments: Vec<&str> = [member, "--again"].iter().chain(more).copied().collect();
    invited(federation, &arguments).await;
    let print = print_of(&grant(federation, member).await);
    accepted(federation, member, &print).await;
    connected(federation, member).await;
}

async fn restarted(federation: &Federation, member: &str) {
    let agent = federation.members[member].agent();
    agent.process.restart().await.unwrap();
    agent.ready().await.unwrap();
}

async fn a_foreign_namespace_is_not_taken(federation: &Federation) {
    let admin = &federation.hub.cluster.admin;
    let api: Api<Namespace> = Api::all(admin.clone());
    let mut namespace = Namespace::default();
    namespace.metadata.name = Some("member-taken".into());
    api.create(&PostParams::default(), &namespace).await.unwrap();
    let error = chain(&federation.operate(&["invite", "taken"]).await.unwrap_err());
    assert!(error.contains("choose another name, or delete the namespace"), "{error}");
    let found = api.get("member-taken").await.unwrap();
    assert!(!found.labels().contains_key("idlewild.dev/member"), "it is as it was");
    assert!(Api::<MemberCluster>::all(admin.clone()).get_opt("taken").await.unwrap().is_none());
}

async fn a_chart_is_installed_once(federation: &Federation) {
    let helm = federation.settings.binaries.join("helm");
    for (cluster, chart) in [
        (&federation.members["north"].cluster, "idlewild-member"),
        (&federation.hub.cluster, "idlewild-hub"),
    ] {
        let kubeconfig = format!("--kubeconfig={}", cluster.admin_kubeconfig.display());
        let path = federation.settings.charts.join(chart).display().to_string();
        let cache = format!("--repository-cache={}", cluster.directory().join("cache").display());
        let arguments = [
            "install",
            "second",
            &path,
            &kubeconfig,
            &cache,
            "-n",
            SYSTEM_NAMESPACE,
            "--set",
            "replicas=0",
        ];
        let mut arguments = arguments.to_vec();
        if chart == "idlewild-hub" {
            arguments.extend(["--set", "hub.id=sandbox", "--set", "hub.address=https://x"]);
        }
        let error = idlewild::sandbox::run(&helm, &arguments, "").await.unwrap_err();
        let said = chain(&error);
        assert!(said.contains(&format!("as release {chart}")), "{said}");
        assert!(said.contains("helm upgrade"), "{said}");
    }
}

async fn the_chart_hands_on_the_proxy(federation: &Federation) {
    let helm = federation.settings.binaries.join("helm");
    let chart = federation.settings.charts.join("idlewild-member").display().to_string();
    let through = "proxy.httpsProxy=http://proxy:3128";
    let version = ["--kube-version", "1.30.0"];
    let template = ["template", "x", &chart, "-n", SYSTEM_NAMESPACE, version[0], version[1]];
    let set = ["--set", through, "--set", "proxy.noProxy=.example.org"];
    let all: Vec<&str> = template.iter().chain(&set).copied().collect();
    let plain = idlewild::sandbox::run(&helm, &template, "").await.unwrap();
    let yaml = idlewild::sandbox::run(&helm, &all, "").await.unwrap();
    for line in [
        "- name: HTTPS_PROXY\n          value: \"http://proxy:3128\"",
        "value: \"$(KUBERNETES_SERVICE_HOST),.example.org\"",
    ] {
        assert!(yaml.contains(line) && !plain.contains(line), "{line}");
    }
    let wrong = ["--set", "proxy.httpsProxy=https://proxy:3128"];
    let all: Vec<&str> = template.iter().chain(&wrong).copied().collect();
    let error = idlewild::sandbox::run(&helm, &all, "").await.unwrap_err();
    assert!(chain(&error).contains("httpsProxy"), "{}", chain(&error));
}

async fn north_joins(federation: &Federation, front: &Front) {
    invited(federation, &["north", "--address", &front.address]).await;
    says(federation, "north", "Connected", "WaitingForAcceptance").await;
    let held = grant(federation, "north").await;
    let print = print_of(&held);
    let seen = federation.operate(&["accept", "north", "--fingerprint", "dead-beef"]).await;
    let said = chain(&seen.unwrap_err());
    assert!(said.contains(&print), "the operator sees what the owner sees: {said}");
    let began = Instant::now();
    let said = accepted(federation, "north", &print).await;
    let took = first_picture(federation, "north", began).await;
    println!("from accept to the first pool picture on the hub: {took:?}");
    assert!(took < FIRST_PICTURE);
    assert!(said.contains("tokens live 24 h at most"), "accept warns: {said}");
    let message = connected(federation, "north").await;
    assert!(message.contains("renew tokens live 24 h only"), "the owner is told: {message}");
    let status = grant(federation, "north").await.status.unwrap();
    let life = status.renewal_expires.unwrap().0.as_second()
        - k8s_openapi::jiff::Timestamp::now().as_second();
    assert!((86_000..=86_400).contains(&life), "renewal follows what was given: {life}");
    let key = secret(federation, "north", KEY_SECRET, "ed25519").await.unwrap();
    let log = std::fs::read_to_string(federation.members["north"].agent().process.log()).unwrap();
    let (start, whole) = (&key[16..], json!(ByteString(key.clone())));
    assert!(!log.contains(whole.as_str().unwrap()), "the key is in the log");
    assert!(!log.contains(json!(ByteString(start.to_vec())).as_str().unwrap()));
    invitation_is_over(federation, "north").await;
}

async fn first_picture(federation: &Federation, member: &str, began: Instant) -> Duration {
    let namespace = format!("member-{member}");
    let api: Api<GpuPool> = Api::namespaced(federation.hub.cluster.admin.clone(), &namespace);
    eventually("a picture", SOON * 2, async || {
        let pool = api.get("a100").await.map_err(|error| error.to_string())?;
        let free = pool.status.map_or(0, |status| status.gpus.free);
        if free > 0 { Ok(began.elapsed()) } else { Err("no GPUs".into()) }
    })
    .await
}

/// The join token dies and its rights go, though the member may have been ready all the time.
async fn invitation_is_over(federation: &Federation, member: &str) {
    let (admin, namespace) = (&federation.hub.cluster.admin, format!("member-{member}"));
    let secrets: Api<Secret> = Api::namespaced(admin.clone(), &namespace);
    let bindings: Api<RoleBinding> = Api::namespaced(admin.clone(), &namespace);
    eventually(&format!("{member}'s invitation is over"), SOON, async || {
        let secret = secrets.get_opt("join").await.unwrap().is_some();
        let join = bindings.get_opt("idlewild-member-join").await.unwrap().is_some();
        let enrol = bindings.get_opt("idlewild-member-enrol").await.unwrap().is_some();
        if secret || join || enrol { Err(format!("{secret} {join} {enrol}")) } else { Ok(()) }
    })
    .await;
}

async fn secret(federation: &Federation, member: &str, name: &str, field: &str) -> Option<Vec<u8>> {
    let admin = federation.members[member].cluster.admin.clone();
    let secret = Api::<Secret>::namespaced(admin, SYSTEM_NAMESPACE).get(name).await.unwrap();
    secret.data?.remove(field).map(|ByteString(bytes)| bytes)
}

async fn a_renamed_member_is_told_what_to_do(federation: &Federation) {
    let renamed = Patch::Merge(json!({ "spec": { "member": "north-2" } }));
    let api = grants(federation, "north");
    let error = api.patch(GRANT, &PatchParams::default(), &renamed).await.unwrap_err().to_string();
    assert!(error.contains("delete the HubGrant and apply a new one"), "{error}");
    connected(federation, "north").await;
}

/// South reaches its hub through a proxy, and nothing else.
async fn south_joins_through_a_proxy(federation: &Federation) {
    let tunnels = Tunnels::start().await;
    let hub = &federation.hub.cluster;
    federation.members["south"].agent().process.kill().await.unwrap();
    let file = hub.directory().join("ca.crt").display().to_string();
    // The front of before is gone: a new address and a new pin, on the same grant.
    let address = hub.endpoint.address.clone();
    let pin =
        json!({ "spec": { "address": address, "ca": std::fs::read_to_string(&file).unwrap() } });
    let api = grants(federation, "south");
    api.patch(GRANT, &PatchParams::default(), &Patch::Merge(pin)).await.unwrap();
    let proxy = format!("HTTPS_PROXY={}", tunnels.address);
    let before = last_beat(federation, "south").await;
    let agent = proxied(federation, "south-proxied", &[proxy.clone(), "NO_PROXY=elsewhere".into()]);
    beats_after(federation, before).await;
    agent.process.kill().await.unwrap();
    let target = address.trim_start_matches("https://");
    let targets = tunnels.targets();
    assert!(!targets.is_empty() && targets.iter().all(|it| it == target), "{targets:?}");
    let before = last_beat(federation, "south").await;
    let agent = proxied(federation, "south-exempt", &[proxy, "NO_PROXY=127.0.0.0/8".into()]);
    beats_after(federation, before).await;
    agent.process.kill().await.unwrap();
    assert_eq!(tunnels.targets(), targets, "an exempt hub is reached directly");
    let wrong = "HTTPS_PROXY=https://user:secret@127.0.0.1:1".to_owned();
    let agent = proxied(federation, "south-wrong", &[wrong]);
    let message = says(federation, "south", "Connected", "Misconfigured").await;
    assert!(
        message.contains("must start with http://") && !message.contains("secret"),
        "{message}"
    );
    agent.process.kill().await.unwrap();
    restarted(federation, "south").await;
    connected(federation, "south").await;
}

fn proxied(federation: &Federation, name: &str, environment: &[String]) -> Service {
    federation.add_agent("south", name, environment).unwrap()
}

async fn beats_after(federation: &Federation, before: Option<String>) {
    eventually("south beats", SOON, async || {
        let now = last_beat(federation, "south").await;
        if now > before { Ok(()) } else { Err(format!("{now:?}")) }
    })
    .await;
}

/// A second agent uses south's tokens: the owner sees it, and a new enrolment ends it.
async fn stolen_tokens_are_seen_and_ended(federation: &Federation) {
    let hub = &federation.hub.cluster;
    let renew = secret(federation, "south", TOKEN_SECRET, GRANT).await.unwrap();
    let renew = String::from_utf8(renew).unwrap();
    let stolen = agent_token(federation, &renew).await.expect("a stolen token works at first");
    let thief = crate::thieves::holder(hub, Some(&stolen));
    let beats: Api<Lease> = Api::namespaced(thief, "member-south");
    let api = grants(federation, "south");
    let patience = SOON * 2;
    eventually("the owner is told", patience, async || {
        let beat = Patch::Merge(json!({ "spec": { "leaseDurationSeconds": 40 },
            "metadata": { "annotations": { "beat": format!("{:?}", Instant::now()) } } }));
        beats.patch("member", &PatchParams::default(), &beat).await.map_err(|it| it.to_string())?;
        let status = api.get(GRANT).await.unwrap().status.unwrap();
        let found = conditions::find(&status.conditions, "TokensPrivate").ok_or("none")?;
        let told =
            found.reason == "UsedElsewhere" && found.message.contains("invite south --again");
        if told { Ok(()) } else { Err(format!("{found:?}")) }
    })
    .await;
    rejoined(federation, "south", &[]).await;
    assert_eq!(agent_token(federation, &renew).await.err(), Some(401), "the thief has nothing");
    let beat = Patch::Merge(json!({ "spec": { "leaseDurationSeconds": 41 } }));
    let error = beats.patch("member", &PatchParams::default(), &beat).await.unwrap_err();
    assert!(matches!(&error, kube::Error::Api(status) if status.code == 401), "{error}");
    invitation_is_over(federation, "south").await;
}

async fn agent_token(federation: &Federation, renew: &str) -> Result<String, u16> {
    let client = crate::thieves::holder(&federation.hub.cluster, Some(renew));
    let ask = crate::thieves::token_of("member-south", "agent");
    let answer: Value = crate::thieves::send(&client, ask).await?;
    Ok(answer["status"]["token"].as_str().unwrap().to_owned())
}

/// The operator takes every right away while a guest runs; the guest goes on, and so does the job.
async fn the_hub_revokes(federation: &Federation) {
    let hub = &federation.hub.cluster;
    let api = jobs(federation).await;
    let only = json!({ "placement": { "clusterAffinity": { "clusterNames": ["south"] } } });
    let made = create(&api, job_with("kept", 1, "600s", only)).await;
    job_in(&api, "kept", &[Phase::Running], SOON).await;
    let uid = made.uid().unwrap();
    let guest = guests(federation, &uid).await["south"][0].uid();
    let bindings: Api<RoleBinding> = Api::namespaced(hub.admin.clone(), "member-south");
    let began = Instant::now();
    for name in ["idlewild-member-renew", "idlewild-member-agent"] {
        bindings.delete(name, &DeleteParams::default()).await.unwrap();
    }
    let message = says(federation, "south", "Connected", "ReEnrolNeeded").await;
    println!("a revoked member knows after {:?}", began.elapsed());
    assert!(message.contains("invite south --again"), "{message}");
    rejoined(federation, "south", &[]).await;
    assert_eq!(guests(federation, &uid).await["south"][0].uid(), guest, "the same guest runs on");
    job_in(&api, "kept", &[Phase::Running], SOON).await;
}

/// Whoever removes the key from its Secret gets another, and the hub has to accept it.
async fn the_owner_makes_a_new_key(federation: &Federation) {
    let before = grant(federation, "south").await;
    let owner = federation.members["south"].cluster.client_for(OWNER).await.unwrap();
    let secrets: Api<Secret> = Api::namespaced(owner, SYSTEM_NAMESPACE);
    let remove = Patch::Merge(json!({ "data": null }));
    secrets.patch(KEY_SECRET, &PatchParams::default(), &remove).await.unwrap();
    restarted(federation, "south").await;
    let message = says(federation, "south", "Connected", "ReEnrolNeeded").await;
    assert!(message.contains("new key") && message.contains("--again"), "{message}");
    let print = print_of(&grant(federation, "south").await);
    assert_ne!(print, print_of(&before), "a new key is a new fingerprint");
    invited(federation, &["south", "--again"]).await;
    let namespace: Api<JoinRequest> =
        Api::namespaced(federation.hub.cluster.admin.clone(), "member-south");
    eventually("south asks anew", SOON, async || {
        let request = namespace.get("join").await.map_err(|error| error.to_string())?;
        if request.spec.fingerprint == print { Ok(()) } else { Err("the old one".into()) }
    })
    .await;
    let error = chain(&federation.operate(&["accept", "south", "--yes"]).await.unwrap_err());
    assert!(error.contains(&format!("--fingerprint {print}")), "not waved through: {error}");
    accepted(federation, "south", &print).await;
    connected(federation, "south").await;
    let status = grant(federation, "south").await.status.unwrap();
    assert_ne!(status.public_key, before.status.unwrap().public_key);
}

/// The owner deletes the grant: guests leave within their grace, and nothing comes any more.
async fn the_owner_takes_the_grant_back(federation: &Federation) {
    let api = jobs(federation).await;
    let kept = api.get("kept").await.unwrap();
    let uid = kept.uid().unwrap();
    assert_eq!(guests(federation, &uid).await["south"].len(), 1);
    let owner = federation.members["south"].cluster.client_for(OWNER).await.unwrap();
    let api: Api<HubGrant> = Api::namespaced(owner, SYSTEM_NAMESPACE);
    let began = Instant::now();
    api.delete(GRANT, &DeleteParams::default()).await.unwrap();
    eventually("guests are gone", SOON, async || {
        let left = guests(federation, &uid).await;
        if left.is_empty() { Ok(()) } else { Err(format!("{:?}", left.keys())) }
    })
    .await;
    println!("guests are gone {:?} after their hub's grant", began.elapsed());
    let log = federation.members["south"].agent().process.log();
    eventually("no link serves the hub", SOON, async || {
        let log = std::fs::read_to_string(log).map_err(|error| error.to_string())?;
        let last = log.lines().rfind(|line| line.contains("serving a hub")).unwrap_or_default();
        if last.contains("no longer") { Ok(()) } else { Err(last.to_owned()) }
    })
    .await;
    let api = jobs(federation).await;
    let only = json!({ "placement": { "clusterAffinity": { "clusterNames": ["south"] } } });
    let late = create(&api, job_with("late", 1, "600s", only)).await.uid().unwrap();
    // The hub may lease until it finds the member silent; nobody takes it.
    let members: Api<MemberCluster> = Api::all(federation.hub.cluster.admin.clone());
    eventually("the hub sees the silence", SOON * 2, async || {
        let status = members.get("south").await.unwrap().status.unwrap_or_default();
        let ready = conditions::find(&status.conditions, "Ready").ok_or("no condition")?;
        if ready.reason == "MemberSilent" { Ok(()) } else { Err(format!("{ready:?}")) }
    })
    .await;
    assert!(guests(federation, &late).await.is_empty(), "nothing new is taken");
    assert!(guests(federation, &uid).await.is_empty(), "and nothing comes back");
}
