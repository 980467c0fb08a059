//! The arguments of each program of a control plane; what each group is for stands beside it.

use std::path::Path;

/// Controllers of a member: all that act on what this project and its users create.
const MEMBER_CONTROLLERS: &str = "serviceaccount-controller,serviceaccount-token-controller,\
namespace-controller,garbage-collector-controller,job-controller,deployment-controller,\
replicaset-controller,pod-garbage-collector-controller,ttl-after-finished-controller,\
disruption-controller,node-lifecycle-controller,taint-eviction-controller,\
root-ca-certificate-publisher-controller,resourcequota-controller,clusterrole-aggregation-controller,\
endpointslice-controller,validatingadmissionpolicy-status-controller";

/// Controllers of a hub, which runs no pods: namespaces end, owner references are followed, service
/// accounts appear, roles aggregate.
const HUB_CONTROLLERS: &str = "serviceaccount-controller,serviceaccount-token-controller,\
namespace-controller,garbage-collector-controller,root-ca-certificate-publisher-controller,\
clusterrole-aggregation-controller";

/// Name by which an API server speaks for users to aggregated APIs.
pub const PROXY: &str = "front-proxy-client";

/// What a cluster is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// API server and a small controller manager: nothing runs on it.
    Hub,
    /// The whole control plane with simulated nodes.
    Member,
}

/// Ports of one control plane.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ports {
    pub(super) etcd: u16,
    pub(super) etcd_peer: u16,
    pub(super) api_server: u16,
}

/// etcd without fsync: the data is worth nothing after a crash of the machine.
pub(super) fn etcd(directory: &Path, ports: Ports) -> Vec<String> {
    let client = format!("http://127.0.0.1:{}", ports.etcd);
    let peer = format!("http://127.0.0.1:{}", ports.etcd_peer);
    vec![
        "--name=m".into(),
        format!("--data-dir={}", directory.join("etcd").display()),
        "--unsafe-no-fsync".into(),
        "--log-level=warn".into(),
        format!("--listen-client-urls={client}"),
        format!("--advertise-client-urls={client}"),
        format!("--listen-peer-urls={peer}"),
        format!("--initial-advertise-peer-urls={peer}"),
        format!("--initial-cluster=m={peer}"),
        "--quota-backend-bytes=1073741824".into(),
    ]
}

pub(super) fn api_server(directory: &Path, cluster: &str, ports: Ports) -> Vec<String> {
    let file = |flag: &str, name: &str| format!("--{flag}={}", directory.join(name).display());
    vec![
        format!("--etcd-servers=http://127.0.0.1:{}", ports.etcd),
        format!("--etcd-prefix=/{cluster}"),
        "--bind-address=127.0.0.1".into(),
        "--advertise-address=127.0.0.1".into(),
        format!("--secure-port={}", ports.api_server),
        format!("--cert-dir={}", directory.display()),
        file("tls-cert-file", "apiserver.crt"),
        file("tls-private-key-file", "apiserver.key"),
        file("client-ca-file", "ca.crt"),
        // As every cluster with an aggregation layer: how it shows aggregated APIs who it is.
        file("requestheader-client-ca-file", "front-proxy-ca.crt"),
        format!("--requestheader-allowed-names={PROXY}"),
        "--requestheader-username-headers=X-Remote-User".into(),
        "--requestheader-group-headers=X-Remote-Group".into(),
        "--requestheader-extra-headers-prefix=X-Remote-Extra-".into(),
        file("proxy-client-cert-file", "front-proxy.crt"),
        file("proxy-client-key-file", "front-proxy.key"),
        "--service-account-issuer=https://kubernetes.default.svc".into(),
        file("service-account-key-file", "sa.pub"),
        file("service-account-signing-key-file", "sa.key"),
        "--service-cluster-ip-range=10.96.0.0/16".into(),
        "--authorization-mode=Node,RBAC".into(),
        "--enable-admission-plugins=NodeRestriction".into(),
        "--endpoint-reconciler-type=none".into(),
        // For its administrator only: where its time goes is the first question of any benchmark.
        "--profiling=true".into(),
    ]
}

/// The raised client rate saves five seconds: each controller fetches a token of its own first.
pub(super) fn controller_manager(directory: &Path, role: Role) -> Vec<String> {
    let file = |flag: &str, name: &str| format!("--{flag}={}", directory.join(name).display());
    let controllers = match role {
        Role::Hub => HUB_CONTROLLERS,
        Role::Member => MEMBER_CONTROLLERS,
    };
    let mut arguments = client("controller-manager", directory);
    arguments.extend([
        file("service-account-private-key-file", "sa.key"),
        file("root-ca-file", "ca.crt"),
        // Without it the stock role lacks rights that the controllers need.
        "--use-service-account-credentials=true".into(),
        // Its default lies outside our directory.
        file("flex-volume-plugin-dir", "flex"),
        format!("--controllers={controllers}"),
    ]);
    arguments
}

pub(super) fn scheduler(directory: &Path) -> Vec<String> {
    client("scheduler", directory)
}

fn client(user: &str, directory: &Path) -> Vec<String> {
    vec![
        format!("--kubeconfig={}", directory.join(format!("{user}.kubeconfig")).display()),
        "--leader-elect=false".into(),
        "--secure-port=0".into(),
        "--kube-api-qps=500".into(),
        "--kube-api-burst=1000".into(),
        "--profiling=false".into(),
    ]
}

pub(super) fn kwok(directory: &Path, admin: &Path) -> Vec<String> {
    vec![
        format!("--kubeconfig={}", admin.display()),
        format!("--config={}", directory.join("stages.yaml").display()),
        "--manage-nodes-with-annotation-selector=kwok.x-k8s.io/node=fake".into(),
        // Leases are renewed every quarter of it.
        "--node-lease-duration-seconds=40".into(),
        "--cidr=10.10.0.0/16".into(),
        "--node-ip=10.19.0.1".into(),
    ]
}
