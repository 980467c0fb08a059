//! The rights of every identity, against reviewed golden files and with real requests.
//!
//! After a change of the charts' roles: `IDLEWILD_UPDATE=1 cargo test --test e2e rights`, then read
//! the difference line by line. What an identity does not need is a defect of the chart.

mod live;
mod matrix;

use std::path::Path;
use std::time::Instant;

use idlewild::sandbox::{Federation, OPERATOR, USER, USER_NAMESPACES};
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::api::rbac::v1::RoleBinding;
use kube::api::{DeleteParams, PostParams};
use kube::{Api, Client};
use serde_json::json;

use crate::harness::{SOON, eventually, shared};
use matrix::{Identity, Matrix, Thing, VERBS};

/// A member that is invited and whose cluster never asks: all its bindings stand.
const INVITED: &str = "matrix";
/// Its namespace.
pub(crate) const INVITED_NAMESPACE: &str = "member-matrix";
/// A user with `view` in the first namespace of users.
const VIEWER: &str = "victor";

/// Resources of hub and member; names where a role names them.
const THINGS: &[&str] = &[
    "idlewild.dev/gpujobs",
    "idlewild.dev/gpujobs/status",
    "idlewild.dev/gpuleases",
    "idlewild.dev/gpuleases/status",
    "idlewild.dev/gpupools",
    "idlewild.dev/gpupools/status",
    "idlewild.dev/joinrequests",
    "idlewild.dev/joinrequests=join",
    "idlewild.dev/joinrequests/status",
    "idlewild.dev/hubgrants",
    "idlewild.dev/hubgrants/status",
    "idlewild.dev/guestleases",
    "idlewild.dev/guestleases/status",
    "-idlewild.dev/gpuqueues",
    "-idlewild.dev/gpuqueues/status",
    "-idlewild.dev/memberclusters",
    "-idlewild.dev/memberclusters/status",
    "-idlewild.dev/memberclusters/finalizers",
    "/pods",
    "/pods/status",
    "/pods/log",
    "/pods/exec",
    "/pods/attach",
    "/pods/portforward",
    "/pods/proxy",
    "/pods/ephemeralcontainers",
    "/pods/eviction",
    "/pods/binding",
    "/services",
    "/endpoints",
    "/configmaps",
    "/configmaps=idlewild-hub",
    "/secrets",
    "/secrets=join",
    "/secrets=idlewild-join",
    "/secrets=idlewild-hub-tokens",
    "/serviceaccounts",
    "/serviceaccounts/token",
    "/serviceaccounts/token=join",
    "/serviceaccounts/token=renew",
    "/serviceaccounts/token=agent",
    "/serviceaccounts/token=idlewild-hub",
    "/events",
    "/limitranges",
    "/resourcequotas",
    "/persistentvolumeclaims",
    "/replicationcontrollers",
    "-/namespaces",
    "-/namespaces=kube-system",
    "-/namespaces/finalize",
    "-/nodes",
    "-/nodes/status",
    "-/nodes/proxy",
    "-/persistentvolumes",
    "apps/deployments",
    "apps/deployments/scale",
    "apps/daemonsets",
    "apps/statefulsets",
    "batch/jobs",
    "batch/cronjobs",
    "coordination.k8s.io/leases",
    "coordination.k8s.io/leases=member",
    "coordination.k8s.io/leases=idlewild-hub",
    "networking.k8s.io/networkpolicies",
    "networking.k8s.io/ingresses",
    "policy/poddisruptionbudgets",
    "rbac.authorization.k8s.io/roles",
    "rbac.authorization.k8s.io/rolebindings",
    "rbac.authorization.k8s.io/rolebindings=idlewild-member-join",
    "rbac.authorization.k8s.io/rolebindings=idlewild-member-enrol",
    "rbac.authorization.k8s.io/rolebindings=idlewild-member-renew",
    "rbac.authorization.k8s.io/rolebindings=idlewild-member-agent",
    "rbac.authorization.k8s.io/rolebindings=idlewild-member-revoke",
    "-rbac.authorization.k8s.io/clusterroles",
    "-rbac.authorization.k8s.io/clusterrolebindings",
    "-scheduling.k8s.io/priorityclasses",
    "-apiextensions.k8s.io/customresourcedefinitions",
    "-admissionregistration.k8s.io/validatingadmissionpolicies",
    "-admissionregistration.k8s.io/validatingadmissionpolicybindings",
    "-admissionregistration.k8s.io/validatingwebhookconfigurations",
    "-admissionregistration.k8s.io/mutatingwebhookconfigurations",
    "-apiregistration.k8s.io/apiservices",
    "-certificates.k8s.io/certificatesigningrequests",
    "-certificates.k8s.io/certificatesigningrequests/approval",
    "-storage.k8s.io/storageclasses",
    "resource.k8s.io/resourceclaims",
    "-authentication.k8s.io/tokenreviews",
    "-authorization.k8s.io/subjectaccessreviews",
];

/// Verbs that make more of the rights one has.
const SPECIAL: &[(&str, &str)] = &[
    ("accept", "-idlewild.dev/memberclusters"),
    ("bind", "-rbac.authorization.k8s.io/clusterroles"),
    ("bind", "-rbac.authorization.k8s.io/clusterroles=cluster-admin"),
    ("bind", "-rbac.authorization.k8s.io/clusterroles=idlewild-operator"),
    ("bind", "-rbac.authorization.k8s.io/clusterroles=idlewild-member-join"),
    ("bind", "-rbac.authorization.k8s.io/clusterroles=idlewild-member-enrol"),
    ("bind", "-rbac.authorization.k8s.io/clusterroles=idlewild-member-renew"),
    ("bind", "-rbac.authorization.k8s.io/clusterroles=idlewild-member-agent"),
    ("bind", "-rbac.authorization.k8s.io/clusterroles=idlewild-member-revoke"),
    ("escalate", "-rbac.authorization.k8s.io/clusterroles"),
    ("escalate", "rbac.authorization.k8s.io/roles"),
    ("impersonate", "-/users"),
    ("impersonate", "-/groups"),
    ("impersonate", "/serviceaccounts"),
    ("approve", "-certificates.k8s.io/signers"),
    ("sign", "-certificates.k8s.io/signers"),
];

fn matrix(namespaces: &[&str]) -> Matrix {
    Matrix {
        things: THINGS.iter().map(|text| Thing::read(text)).collect(),
        special: SPECIAL.iter().map(|(verb, text)| (*verb, Thing::read(text))).collect(),
        namespaces: namespaces.iter().map(|name| (*name).to_owned()).collect(),
    }
}

/// Compares with the golden file, or writes it.
fn golden(name: &str, head: &str, found: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("e2e/rights").join(name);
    let found = format!("{head}{found}");
    if std::env::var_os("IDLEWILD_UPDATE").is_some() {
        std::fs::write(&path, found).unwrap();
        return;
    }
    let wanted = std::fs::read_to_string(&path).unwrap();
    for (number, (wanted, found)) in wanted.lines().zip(found.lines()).enumerate() {
        assert_eq!(found, wanted, "{}:{}: right is as reviewed", path.display(), number + 1);
    }
    assert_eq!(found.lines().count(), wanted.lines().count(), "{}", path.display());
}

fn head(what: &str) -> String {
    format!(
        "What each identity may do {what}, as its API server answers. What is not listed is denied, for:\n\
         verbs: {}, and where they exist bind, escalate, impersonate, accept, approve, sign\n\
         resources: {} with and without names, see e2e/rights/mod.rs\n\
         A name in brackets: for that object only. Admission policies narrow this further: what they\n\
         refuse is among the real requests in e2e/rights/live.rs.\n\
         Reviewed; written by IDLEWILD_UPDATE=1.\n",
        VERBS.join(" "),
        THINGS.len(),
    )
}

/// Gives `role` in `namespace` to somebody, as an administrator would.
async fn bind(admin: &Client, namespace: &str, role: &str, subject: serde_json::Value) {
    let api: Api<RoleBinding> = Api::namespaced(admin.clone(), namespace);
    let binding = serde_json::from_value(json!({
        "metadata": { "name": format!("matrix-{role}") },
        "roleRef": {
            "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role },
        "subjects": [subject],
    }));
    api.create(&PostParams::default(), &binding.unwrap()).await.unwrap();
}

/// What the hub's golden file holds.
async fn on_the_hub(federation: &Federation) -> (String, usize) {
    let admin = &federation.hub.cluster.admin;
    let namespaces = [
        INVITED_NAMESPACE,
        "member-uni-north",
        USER_NAMESPACES[0],
        "idlewild-system",
        "kube-system",
    ];
    let member = |what: &str, name: &str| Identity::account(what, INVITED_NAMESPACE, name);
    let before = [member("an invited cluster, before it is accepted", "join")];
    let (mut text, mut asked) = matrix(&namespaces).ask(admin, &before).await;
    // As `accept` does.
    let join = json!({
        "kind": "ServiceAccount", "name": "join", "namespace": INVITED_NAMESPACE });
    bind(admin, INVITED_NAMESPACE, "idlewild-member-enrol", join).await;
    for (role, name) in [("idlewild-member-renew", "renew"), ("idlewild-member-agent", "agent")] {
        let account = json!({
            "kind": "ServiceAccount", "name": name, "namespace": INVITED_NAMESPACE });
        bind(admin, INVITED_NAMESPACE, role, account).await;
    }
    let victor = json!({ "kind": "User", "name": VIEWER, "apiGroup": "rbac.authorization.k8s.io" });
    bind(admin, USER_NAMESPACES[0], "view", victor).await;
    let after = [
        member("an invited cluster, once it is accepted", "join"),
        member("a member's renewal", "renew"),
        member("a member's agent", "agent"),
        Identity::account("the hub's controller", "idlewild-system", "idlewild-hub"),
        Identity::person("an operator", OPERATOR),
        Identity::person("a user with edit in team-a and team-b", USER),
        Identity::person("a user with view in team-a", VIEWER),
        Identity::account("a pod's default account", USER_NAMESPACES[0], "default"),
    ];
    let (more, number) = matrix(&namespaces).ask(admin, &after).await;
    text += &more;
    asked += number;
    let bindings: Api<RoleBinding> = Api::namespaced(admin.clone(), USER_NAMESPACES[0]);
    bindings.delete("matrix-view", &DeleteParams::default()).await.unwrap();
    (text, asked)
}

#[test]
fn rights_are_as_reviewed_and_real_requests_beyond_them_are_refused() {
    shared(async |federation| {
        let hub = &federation.hub.cluster;
        federation.invite(INVITED).await.unwrap();
        let began = Instant::now();
        let (text, on_hub) = on_the_hub(federation).await;
        golden("hub.txt", &head("on a hub"), &text);

        let member = &federation.members["uni-north"].cluster;
        let namespaces = ["idlewild-system", "idlewild-guests", "owner", "kube-system"];
        let identities = [
            Identity::account("the agent", "idlewild-system", "idlewild-agent"),
            Identity::account("a guest's account", "idlewild-guests", "default"),
        ];
        let (text, on_member) = matrix(&namespaces).ask(&member.admin, &identities).await;
        golden("member.txt", &head("in a member"), &text);
        println!(
            "{on_hub} questions about rights on a hub and {on_member} in a member in {:?}",
            began.elapsed()
        );
        assert!(on_hub >= 6 * 8 * 30 * 3, "{on_hub}");

        let refused = live::refused(federation).await;
        println!("{refused} real requests beyond the rights were refused");

        federation.operate(&["leave", INVITED]).await.unwrap();
        let namespaces: Api<Namespace> = Api::all(hub.admin.clone());
        eventually("its namespace goes", SOON, async || {
            let found = namespaces.get_opt(INVITED_NAMESPACE).await.unwrap();
            found.map_or(Ok(()), |_| Err("it is there".to_owned()))
        })
        .await;
    });
}
