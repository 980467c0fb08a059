//! The user with a bad manifest at midnight: each gets a sentence, nothing crashes, nothing wedges.

use std::time::Duration;

use idlewild::api::GpuJob;
use idlewild::sandbox::{OWNER, USER, USER_NAMESPACES};
use kube::Api;
use kube::api::DeleteParams;

use crate::harness::{SOON, eventually, jobs, shared};
use crate::manifests::{Bad, Cluster, Outcome, table};
use crate::work::{condition, create, job};

#[test]
fn every_nonsense_manifest_is_refused_or_waits_with_a_readable_reason() {
    shared(async |federation| {
        let hub = &federation.hub.cluster;
        let member = &federation.members["uni-north"].cluster;
        let mut wrong = Vec::new();
        let all = table();
        for bad in &all {
            let create = |namespace| ["create", "-n", namespace, "-f", "-"];
            let answer = match bad.on {
                Cluster::Hub if is_admins(bad) => {
                    let access = format!("--kubeconfig={}", hub.admin_kubeconfig.display());
                    let create = create(USER_NAMESPACES[0]);
                    let arguments: Vec<_> = [access.as_str()].into_iter().chain(create).collect();
                    let kubectl = federation.settings.binaries.join("kubectl");
                    idlewild::sandbox::run(&kubectl, &arguments, &bad.yaml).await
                }
                Cluster::Hub => hub.kubectl(USER, &create(USER_NAMESPACES[0]), &bad.yaml).await,
                Cluster::Member => {
                    member.kubectl(OWNER, &create("idlewild-system"), &bad.yaml).await
                }
            };
            match (&bad.outcome, answer) {
                (Outcome::Refused(words), Err(error)) => {
                    let said = idlewild::cluster::chain(&error);
                    let missing: Vec<_> =
                        words.iter().filter(|word| !said.contains(**word)).collect();
                    if !missing.is_empty() {
                        wrong.push(format!("{}: {missing:?} not in: {said}", bad.name));
                    }
                }
                (Outcome::Refused(_), Ok(_)) => wrong.push(format!("{}: was taken", bad.name)),
                (Outcome::Waits { .. }, Err(error)) => {
                    let said = idlewild::cluster::chain(&error);
                    wrong.push(format!("{}: refused: {said}", bad.name));
                }
                (Outcome::Waits { .. }, Ok(_)) => {}
            }
        }
        let api = jobs(federation).await;
        for bad in &all {
            wrong.extend(waits(&api, bad).await);
        }
        println!("{} nonsense manifests", all.len());
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
        create(&api, job("sensible", 1, "200ms")).await;
        crate::harness::job_in(&api, "sensible", &[idlewild::api::gpujob::Phase::Succeeded], SOON)
            .await;
    });
}

/// Whether users have no right to the kind at all, so that only an administrator meets its rules.
fn is_admins(bad: &Bad) -> bool {
    !bad.yaml.contains("kind: GpuJob\n")
}

async fn waits(api: &Api<GpuJob>, bad: &Bad) -> Option<String> {
    let Outcome::Waits { condition: type_, reason, words } = &bad.outcome else { return None };
    let name = name_of(&bad.yaml);
    let seen = eventually(bad.name, Duration::from_secs(20), async || {
        let job = api.get(&name).await.map_err(|error| error.to_string())?;
        match condition(&job, type_) {
            Some((status, found, message)) if status == "False" => Ok((found, message)),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    let fits = seen.0 == *reason && words.iter().all(|word| seen.1.contains(word));
    drop(api.delete(&name, &DeleteParams::default()).await);
    (!fits).then(|| format!("{}: want {reason} {words:?}, saw {seen:?}", bad.name))
}

/// Name of the object in a manifest.
fn name_of(yaml: &str) -> String {
    let value: serde_json::Value = serde_yaml::from_str(yaml).expect("a stored manifest is YAML");
    value["metadata"]["name"].as_str().expect("it has a name").to_owned()
}
