//! What a kubelet makes of a pod of ours, as far as its one container needs it.

use std::net::TcpListener;

use idlewild::api::SYSTEM_NAMESPACE;
use idlewild::sandbox::Endpoint;
use k8s_openapi::api::core::v1::{EnvVar, HTTPGetAction, PodSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::container::Process;
use super::names;

/// A pod of one of our deployments, as its cluster shows it.
#[derive(Debug)]
pub(super) struct Pod {
    /// The name by which the pod reaches its API server.
    service: String,
    /// Its `/etc/hosts`.
    hosts: String,
    spec: PodSpec,
    endpoint: Endpoint,
    token: String,
    /// The network is this machine's, where the port of the chart may be taken.
    port: u16,
}

impl Pod {
    /// # Panics
    /// If the specification has something that is not played here.
    pub(super) fn new(spec: PodSpec, endpoint: &Endpoint, token: String) -> Self {
        assert!(spec.volumes.is_none() && spec.containers.len() == 1, "extend the test: {spec:?}");
        assert!(spec.containers[0].command.is_none(), "the image has no other program");
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let (service, endpoint) = ("localhost".into(), endpoint.clone());
        let pod =
            Self { service, hosts: "127.0.0.1 localhost\n".into(), spec, endpoint, token, port };
        // Both probes lead to where it listens.
        for path in [pod.readiness(), pod.liveness()] {
            assert!(path.starts_with('/'), "{path}");
        }
        pod
    }

    /// The same pod in a cluster whose API server is reached by the name `service`.
    pub(super) fn reaching(self, service: &str) -> Self {
        Self { service: service.into(), ..self }
    }

    /// The same pod with `line` in its `/etc/hosts`.
    pub(super) fn with_host(mut self, line: &str) -> Self {
        self.hosts.push_str(line);
        self.hosts.push('\n');
        self
    }

    /// Where it listens.
    pub(super) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub(super) fn readiness(&self) -> String {
        let probe = self.spec.containers[0].readiness_probe.as_ref();
        self.path(probe.and_then(|probe| probe.http_get.as_ref()).expect("a readiness probe"))
    }

    pub(super) fn liveness(&self) -> String {
        let probe = self.spec.containers[0].liveness_probe.as_ref();
        self.path(probe.and_then(|probe| probe.http_get.as_ref()).expect("a liveness probe"))
    }

    fn path(&self, probe: &HTTPGetAction) -> String {
        let container = &self.spec.containers[0];
        let named = |name: &str| {
            let mut ports = container.ports.iter().flatten();
            ports.find(|port| port.name.as_deref() == Some(name)).map(|port| port.container_port)
        };
        let port = match &probe.port {
            IntOrString::Int(port) => Some(*port),
            IntOrString::String(name) => named(name),
        };
        let listens = format!("--listen=0.0.0.0:{}", port.expect("a port of the container"));
        assert!(container.args.iter().flatten().any(|found| *found == listens), "{listens}");
        probe.path.clone().unwrap_or_default()
    }

    /// What the deployment runs.
    pub(super) fn service_process(&self) -> Process {
        let listen = format!("--listen={}", self.address());
        let arguments = self.spec.containers[0].args.iter().flatten();
        let arguments: Vec<_> = arguments
            .map(|found| if found.starts_with("--listen=") { &listen } else { found })
            .map(String::as_str)
            .collect();
        self.process(&arguments)
    }

    /// `arguments` with everything else as in the deployment.
    pub(super) fn process(&self, arguments: &[&str]) -> Process {
        let container = &self.spec.containers[0];
        let variables = container.env.iter().flatten().map(|found| (&*found.name, value(found)));
        let variables: Vec<(&str, String)> = variables.collect();
        let expanded = |argument: &&str| {
            variables.iter().fold((*argument).to_owned(), |argument, (name, value)| {
                argument.replace(&format!("$({name})"), value)
            })
        };
        let port = self.endpoint.address.rsplit(':').next().unwrap();
        let mut environment = vec![
            "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned(),
            "HOME=/".to_owned(),
            format!("KUBERNETES_SERVICE_HOST={}", self.service),
            format!("KUBERNETES_SERVICE_PORT={port}"),
        ];
        environment.extend(variables.iter().map(|(name, value)| format!("{name}={value}")));
        let pod = self.spec.security_context.clone().unwrap_or_default();
        let own = container.security_context.clone().unwrap_or_default();
        let dropped = own.capabilities.and_then(|found| found.drop).unwrap_or_default();
        let all = dropped.iter().any(|capability| capability == "ALL");
        Process {
            arguments: arguments.iter().map(expanded).collect(),
            environment,
            // Without a user the image's own would do; the charts must name it all the same.
            user: own.run_as_user.or(pod.run_as_user).unwrap_or_default(),
            group: own.run_as_group.or(pod.run_as_group).unwrap_or_default(),
            read_only: own.read_only_root_filesystem.unwrap_or_default(),
            no_new_privileges: !own.allow_privilege_escalation.unwrap_or(true),
            capabilities: if all { vec![] } else { vec!["CAP_NET_BIND_SERVICE"] },
            files: self.files(),
        }
    }

    fn files(&self) -> Vec<(&'static str, String)> {
        let search =
            format!("{SYSTEM_NAMESPACE}.svc.cluster.local svc.cluster.local cluster.local");
        let resolver = format!("search {search}\nnameserver {}\noptions ndots:5\n", names::ADDRESS);
        vec![
            ("/etc/hosts", self.hosts.clone()),
            ("/etc/resolv.conf", resolver),
            ("/var/run/secrets/kubernetes.io/serviceaccount/token", self.token.clone()),
            (
                "/var/run/secrets/kubernetes.io/serviceaccount/ca.crt",
                self.endpoint.authority.clone(),
            ),
            (
                "/var/run/secrets/kubernetes.io/serviceaccount/namespace",
                SYSTEM_NAMESPACE.to_owned(),
            ),
        ]
    }
}

fn value(variable: &EnvVar) -> String {
    let field = |field: &str| match field {
        "metadata.namespace" => SYSTEM_NAMESPACE.to_owned(),
        "metadata.name" => "pod-of-the-test".to_owned(),
        other => panic!("extend the test: {other}"),
    };
    let source = variable.value_from.as_ref().and_then(|source| source.field_ref.as_ref());
    source
        .map(|source| field(&source.field_path))
        .or_else(|| variable.value.clone())
        .unwrap_or_else(|| panic!("extend the test: {variable:?}"))
}
