//! The charts, installed, upgraded, rolled back and removed by real helms of both majors, on a hub and
//! a member with running jobs.
//!
//! `released/` holds the charts of an earlier state; `make release` renews it.

use std::path::{Path, PathBuf};
use std::process::Command;

use idlewild::api::gpujob::Phase;
use idlewild::api::{GUEST_NAMESPACE, GpuJob, GpuPool, GpuQueue, HubGrant, SYSTEM_NAMESPACE};
use idlewild::sandbox::{self, Federation, OWNER, USER_NAMESPACES};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt};
use serde_json::json;

use crate::harness::{SOON, apply, control_planes, eventually, fresh, job_in, jobs, member};
use crate::helm::{ADMIN, Helm, leave_hook};
use crate::work::{create, guests, job};

/// Stands in for the definitions of the Prometheus operator, which the optional objects need.
const MONITORING: &str = include_str!("manifests/monitoring.yaml");

/// What the owner lends: everything.
const POOL: &str = "
apiVersion: idlewild.dev/v1alpha1
kind: GpuPool
metadata: {name: a100, namespace: idlewild-system}
spec:
  nodeSelector: {matchLabels: {idlewild.dev/lend: a100}}
  location: {jurisdiction: EU, region: eu-north}
";
/// How definitions are upgraded: Helm owns their fields since it installed them.
const KUBECTL: [&str; 5] = ["apply", "--server-side", "--force-conflicts", "-f", "-"];

/// The charts of an earlier state, unpacked.
fn released(federation: &Federation) -> PathBuf {
    let into = federation.settings.dir.join("released");
    std::fs::create_dir_all(&into).unwrap();
    let mut count = 0;
    for entry in std::fs::read_dir(root().join("e2e/released")).unwrap() {
        let archive = entry.unwrap().path();
        let tar = Command::new("tar").arg("-xzf").arg(archive).arg("-C").arg(&into).status();
        assert!(tar.unwrap().success());
        count += 1;
    }
    assert_eq!(count, 2, "one of the hub, one of the member");
    into
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Both sides, looked after by `program`.
fn sides<'a>(federation: &'a Federation, program: &str) -> [Helm<'a>; 2] {
    let program = federation.settings.binaries.join(program);
    let member = &federation.members["one"].cluster;
    [
        Helm { program: program.clone(), cluster: &federation.hub.cluster, side: "hub" },
        Helm { program, cluster: member, side: "member" },
    ]
}

#[test]
fn charts_are_installed_upgraded_rolled_back_and_removed_by_helm_3_and_4() {
    fresh(&control_planes("charts", vec![member("one", 2, 8)]), async |federation| {
        let (old, new) = (released(federation), root().join("charts"));
        for side in sides(federation, "helm") {
            apply(side.cluster, ADMIN, MONITORING).await.unwrap();
            side.apply("install", &old, &[]).await.unwrap();
            a_second_installation_is_refused(&side, &new).await;
            older_definitions_are_refused_until_they_are_replaced(federation, &side, &new).await;
        }
        let [hub, member] = sides(federation, "helm");
        hub.upgrade_interrupted(&new).await;
        member.apply("upgrade", &new, &[]).await.unwrap();
        drop((hub, member));
        jobs_run_on_while_everything_is_upgraded_and_rolled_back(federation, &new).await;
        Box::pin(removed_with_guests_and_without_pools(federation)).await;
        for side in sides(federation, "helm4") {
            side.apply("install", &old, &["--skip-crds"]).await.unwrap();
            if side.side == "hub" {
                side.upgrade_interrupted(&new).await;
            } else {
                side.apply("upgrade", &new, &[]).await.unwrap();
            }
            side.rollback().await;
            // The revision before that one is the upgrade again.
            side.rollback().await;
        }
        Box::pin(the_jobs_are_still_there_and_all_goes_again(federation, &new)).await;
    });
}

async fn a_second_installation_is_refused(side: &Helm<'_>, charts: &Path) {
    let chart = side.chart(charts).display().to_string();
    let values = side.values();
    for (name, namespace) in [
        ("second", "--namespace=idlewild-system"),
        ("second", "--namespace=elsewhere"),
        ("idlewild", "--namespace=elsewhere"),
    ] {
        let mut arguments = vec!["install", name, &chart, namespace, "--create-namespace"];
        arguments.extend(values.iter().map(String::as_str));
        let said = side.anywhere(&arguments).await.unwrap_err();
        let advice = "to change it use helm upgrade idlewild -n idlewild-system";
        assert!(said.contains(advice), "{name} {namespace}: {said}");
    }
    let said = side.apply("install", charts, &[]).await.unwrap_err();
    assert!(said.contains("still in use") || said.contains("cannot reuse a name"), "{said}");
    assert_eq!(side.history().await, ["deployed"]);
}

async fn older_definitions_are_refused_until_they_are_replaced(
    federation: &Federation,
    side: &Helm<'_>,
    charts: &Path,
) {
    let name = if side.side == "hub" { "idlewild-hub" } else { "idlewild-agent" };
    let deployments: Api<Deployment> =
        Api::namespaced(side.cluster.admin.clone(), SYSTEM_NAMESPACE);
    let before = deployments.get(name).await.unwrap().resource_version();
    age_definitions(side).await;
    let chart = side.chart(charts).display().to_string();
    let said = side.run(&["upgrade", "idlewild", &chart, "--reuse-values"]).await.unwrap_err();
    assert!(said.contains("use --reset-then-reuse-values"), "{said}");
    let said = side.apply("upgrade", charts, &[]).await.unwrap_err();
    let command = format!("idlewild crds --side {} | kubectl {}", side.side, KUBECTL.join(" "));
    assert!(said.contains(&command), "{said}");
    assert_eq!(side.history().await, ["deployed"], "nothing was changed");
    assert_eq!(deployments.get(name).await.unwrap().resource_version(), before);
    replace_definitions(federation, side).await;
}

/// Makes a definition what it was before it had all of today's columns.
async fn age_definitions(side: &Helm<'_>) {
    let remove = r#"[{"op": "remove", "path": "/spec/versions/0/additionalPrinterColumns/0"}]"#;
    let patch = ["patch", "crd", "gpupools.idlewild.dev", "--type=json", "-p", remove];
    side.cluster.kubectl(ADMIN, &patch, "").await.unwrap();
}

/// The upgrade of definitions, as the chart's README and its refusal say it.
async fn replace_definitions(federation: &Federation, side: &Helm<'_>) {
    let crds = ["crds", "--side", side.side];
    let crds = sandbox::run(&federation.settings.idlewild, &crds, "").await.unwrap();
    side.cluster.kubectl(ADMIN, &KUBECTL, &crds).await.unwrap();
}

async fn jobs_run_on_while_everything_is_upgraded_and_rolled_back(
    federation: &mut Federation,
    charts: &Path,
) {
    federation.serve_hub().await.unwrap();
    apply(&federation.members["one"].cluster, OWNER, POOL).await.unwrap();
    federation.serve_member("one").await.unwrap();
    federation.join("one").await.unwrap();
    let api = jobs(federation).await;
    let uid = create(&api, job("long", 1, "1h")).await.uid().unwrap();
    job_in(&api, "long", &[Phase::Running], SOON).await;
    let pod = the_guest(federation, &uid).await;
    for act in ["upgrade", "rollback"] {
        let name = format!("during-{act}");
        create(&api, job(&name, 1, "1s")).await;
        for side in sides(federation, "helm") {
            if act == "rollback" {
                side.rollback().await;
                continue;
            }
            let full = side.chart(charts).join("ci/full-values.yaml").display().to_string();
            let full = format!("--values={full}");
            let replicas = if side.side == "hub" { "--set=replicas=3" } else { "--set=replicas=0" };
            let notes = side.apply("upgrade", charts, &[&full, replicas]).await.unwrap();
            assert!(notes.contains("kubectl"), "the notes say what comes next: {notes}");
            its_pods_are_as_pod_security_wants_them(&side).await;
        }
        assert_eq!(has_budget(federation).await, act == "upgrade", "only several have one");
        federation.hub.controller().process.restart().await.unwrap();
        federation.members["one"].agent().process.restart().await.unwrap();
        job_in(&api, &name, &[Phase::Succeeded], SOON).await;
        job_in(&api, "long", &[Phase::Running], SOON).await;
        assert_eq!(the_guest(federation, &uid).await, pod, "it was not started again");
    }
}

/// Whether the hub, of which nothing runs the pods here, has a budget for them.
async fn has_budget(federation: &Federation) -> bool {
    let admin = federation.hub.cluster.admin.clone();
    let budgets: Api<PodDisruptionBudget> = Api::namespaced(admin, SYSTEM_NAMESPACE);
    budgets.get_opt("idlewild-hub").await.unwrap().is_some()
}

/// The namespace becomes one that enforces the strictest of Kubernetes' own standards, for the hook's
/// pod later too.
async fn its_pods_are_as_pod_security_wants_them(side: &Helm<'_>) {
    let admin = &side.cluster.admin;
    let label =
        json!({ "metadata": { "labels": { "pod-security.kubernetes.io/enforce": "restricted" } } });
    let namespaces: Api<Namespace> = Api::all(admin.clone());
    let params = PatchParams::default();
    namespaces.patch(SYSTEM_NAMESPACE, &params, &Patch::Merge(&label)).await.unwrap();
    let deployments: Api<Deployment> = Api::namespaced(admin.clone(), SYSTEM_NAMESPACE);
    let pods: Api<Pod> = Api::namespaced(admin.clone(), SYSTEM_NAMESPACE);
    let dry_run = PostParams { dry_run: true, ..PostParams::default() };
    for deployment in deployments.list(&ListParams::default()).await.unwrap() {
        let template = deployment.spec.unwrap().template;
        let mut pod = Pod { spec: template.spec, ..Pod::default() };
        pod.metadata.name = Some("dry-run".into());
        pods.create(&dry_run, &pod).await.unwrap();
        let container = &mut pod.spec.as_mut().unwrap().containers[0];
        container.security_context.as_mut().unwrap().capabilities = None;
        let said = pods.create(&dry_run, &pod).await.unwrap_err().to_string();
        assert!(said.contains("violates PodSecurity"), "the standard is enforced: {said}");
    }
}

/// UID of the one guest of a job.
async fn the_guest(federation: &Federation, uid: &str) -> Option<String> {
    let guests = guests(federation, uid).await;
    let pods: Vec<_> = guests.values().flatten().collect();
    assert_eq!(pods.len(), 1, "one pod runs it");
    pods[0].uid()
}

async fn the_guests_namespace_goes(member: &Helm<'_>) {
    let namespaces: Api<Namespace> = Api::all(member.cluster.admin.clone());
    eventually("the guests' namespace goes", SOON, async || {
        match namespaces.get_opt(GUEST_NAMESPACE).await {
            Ok(None) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
}

async fn removed_with_guests_and_without_pools(federation: &Federation) {
    let [hub, member] = sides(federation, "helm");
    let admin = &member.cluster.admin;
    member.uninstall(leave_hook(federation, member.cluster)).await;
    federation.members["one"].agent().process.kill().await.unwrap();
    the_guests_namespace_goes(&member).await;
    let everywhere: Api<Pod> = Api::namespaced(admin.clone(), GUEST_NAMESPACE);
    assert!(everywhere.list(&ListParams::default()).await.unwrap().items.is_empty());
    let pools: Api<GpuPool> = Api::namespaced(admin.clone(), SYSTEM_NAMESPACE);
    pools.get("a100").await.expect("the owner's pools stay");
    let grants: Api<HubGrant> = Api::namespaced(admin.clone(), SYSTEM_NAMESPACE);
    assert!(grants.list(&ListParams::default()).await.unwrap().items.is_empty());
    // The hub knows that the job has to run elsewhere, and has not lost it.
    let api = jobs(federation).await;
    job_in(&api, "long", &[Phase::Queued, Phase::Requeued], SOON).await;
    hub.uninstall(async {}).await;
    federation.hub.controller().process.kill().await.unwrap();
    for side in [hub, member] {
        let roles: Api<ClusterRole> = Api::all(side.cluster.admin.clone());
        let bindings: Api<ClusterRoleBinding> = Api::all(side.cluster.admin.clone());
        let ours = ListParams::default().labels("app.kubernetes.io/part-of=idlewild");
        assert!(roles.list(&ours).await.unwrap().items.is_empty());
        assert!(bindings.list(&ours).await.unwrap().items.is_empty());
    }
}

async fn the_jobs_are_still_there_and_all_goes_again(federation: &Federation, charts: &Path) {
    let [hub, member] = sides(federation, "helm4");
    member.uninstall(leave_hook(federation, member.cluster)).await;
    the_guests_namespace_goes(&member).await;
    hub.uninstall(async {}).await;
    let pools: Api<GpuPool> = Api::namespaced(member.cluster.admin.clone(), SYSTEM_NAMESPACE);
    pools.get("a100").await.expect("the owner's pools stay");
    let all = ["long", "during-upgrade", "during-rollback"];
    let kept: Api<GpuJob> = Api::namespaced(hub.cluster.admin.clone(), USER_NAMESPACES[0]);
    for name in all {
        kept.get(name).await.expect("jobs stay on the hub");
    }
    // The chart of today where only definitions are left, of another version and then its own.
    for side in [hub, member] {
        age_definitions(&side).await;
        let said = side.apply("install", charts, &[]).await.unwrap_err();
        assert!(said.contains("conflict"), "Helm 4 applies definitions when it installs: {said}");
        replace_definitions(federation, &side).await;
        side.apply("install", charts, &[]).await.unwrap();
    }
    let queues: Api<GpuQueue> = Api::all(federation.hub.cluster.admin.clone());
    queues.get("default").await.unwrap();
}
