//! Requests that each API server counted, by verb and resource: `apiserver_request_total`.
//!
//! What a job of one pod writes from its creation to the last trace of it, and why:
//!
//! | who | what | why |
//! |---|---|---|
//! | user | POST gpujobs | the job |
//! | hub | PATCH gpujobs/status | the epoch is on record before its lease exists: two leaders start nothing twice |
//! | hub | POST gpuleases | the word to the member |
//! | agent | POST guestleases | the member's own record, as a proposal to its books |
//! | agent | PATCH guestleases/status | reserved, with the serial that survives a restart |
//! | agent | PATCH gpuleases/status | accepted, onto the version that was not withdrawn |
//! | agent | PATCH guestleases | confirmed: pods may exist |
//! | agent | POST pods | the guest |
//! | scheduler | POST pods/binding, POST events | kube-scheduler's own |
//! | agent | PATCH guestleases/status, PATCH gpuleases/status | it runs |
//! | hub | PATCH gpujobs/status | it runs, for the user |
//! | agent | PATCH guestleases/status | the result is on record before the pod goes |
//! | agent | PATCH gpuleases/status | the result, for the hub |
//! | hub | PATCH gpujobs/status | the result, for the user; the lease is folded |
//! | agent | PATCH guestleases | its hub removed the lease: the template goes, the record stays an hour |
//!
//! That is 15 and the scheduler's 2. Removals of leases and pods and the pictures of pools are shared
//! by many jobs. Each pod also makes the API server and its controller manager count the owner's quota
//! anew, once or for many pods together.

use std::collections::BTreeMap;

use futures::future::join_all;
use idlewild::sandbox::{ControlPlane, Federation};
use serde_json::{Value, json};

/// What changes something.
const WRITES: [&str; 6] = ["POST", "PUT", "PATCH", "APPLY", "DELETE", "DELETECOLLECTION"];

/// Stands between a resource and the code of an answer that was no success.
const REFUSED: &str = " -> ";

/// Which cluster, which verb, which resource.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Kind {
    /// `hub` or `members`.
    cluster: &'static str,
    verb: String,
    resource: String,
}

/// Who sends a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Sender {
    /// Whoever submits.
    User,
    /// The hub's controller.
    Hub,
    /// The agents, to either side.
    Agent,
    /// kube-scheduler: it binds, and says so in an Event.
    Scheduler,
    /// The API server and its controller manager, which count guests against the owner's quota.
    Quota,
    /// kwok and the gate player, in place of kubelets.
    Kubelet,
    /// What happens without jobs too: heartbeats, node leases, elections, reads of set-up.
    Background,
}

/// Requests since an API server began.
pub(super) type Requests = BTreeMap<Kind, f64>;

impl Kind {
    fn is_write(&self) -> bool {
        WRITES.contains(&self.verb.as_str()) && !self.resource.contains(REFUSED)
    }

    fn sender(&self) -> Sender {
        let write = self.is_write();
        match (self.cluster, self.resource.as_str(), self.verb.as_str()) {
            (_, _, "WATCH" | "LIST") | (_, "leases" | "nodes" | "nodes/status", _) => {
                Sender::Background
            }
            ("members", "pods/binding" | "events", _) => Sender::Scheduler,
            ("members", "pods/status", _) | ("members", "pods", "PATCH") => Sender::Kubelet,
            ("members", "resourcequotas/status", _) => Sender::Quota,
            ("hub", "gpuleases/status", _)
            | ("hub", "gpuleases", "GET")
            | (_, "gpupools" | "gpupools/status", _)
            | ("members", "pods" | "guestleases" | "guestleases/status", _) => Sender::Agent,
            ("members", "configmaps", _) if write => Sender::Agent,
            ("hub", "gpujobs", "POST") => Sender::User,
            ("hub", "gpujobs" | "gpujobs/status" | "gpuleases", _) => Sender::Hub,
            _ => Sender::Background,
        }
    }
}

/// What all API servers counted by now.
pub(super) async fn requests(federation: &Federation) -> Requests {
    let hub = std::iter::once(("hub", &federation.hub.cluster));
    let members = federation.members.values().map(|member| ("members", &member.cluster));
    let pages = hub.chain(members).map(async |(name, cluster)| (name, page(cluster).await));
    let mut all = Requests::new();
    for (cluster, page) in join_all(pages).await {
        for (verb, resource, count) in page.lines().filter_map(sample) {
            *all.entry(Kind { cluster, verb, resource }).or_default() += count;
        }
    }
    all
}

async fn page(cluster: &ControlPlane) -> String {
    let request = http::Request::get("/metrics").body(Vec::new()).expect("the literal is valid");
    cluster.admin.request_text(request).await.expect("the API server shows its metrics")
}

/// Verb, resource and count of one line of `/metrics`.
fn sample(line: &str) -> Option<(String, String, f64)> {
    let labels = line.strip_prefix("apiserver_request_total{")?;
    let (labels, count) = labels.rsplit_once("} ")?;
    let label = |name: &str| {
        let from = labels.split(',').find_map(|label| label.strip_prefix(name))?;
        Some(from.strip_prefix("=\"")?.trim_end_matches('"'))
    };
    let (resource, part) = (label("resource")?, label("subresource")?);
    let mut resource = match part {
        "" => resource.to_owned(),
        part => format!("{resource}/{part}"),
    };
    let code = label("code")?;
    if !code.starts_with('2') {
        resource = format!("{resource}{REFUSED}{code}");
    }
    Some((label("verb")?.to_owned(), resource, count.parse().ok()?))
}

/// What came between two looks.
pub(super) fn since(before: &Requests, after: &Requests) -> Requests {
    let more = |(kind, after): (&Kind, &f64)| {
        let more = after - before.get(kind).unwrap_or(&0.0);
        (more > 0.0).then(|| (kind.clone(), more))
    };
    after.iter().filter_map(more).collect()
}

/// Writes for jobs by whoever sends them, kubelets' and background apart.
#[derive(Clone, Copy, Debug)]
pub(super) struct Writes {
    /// The user's, the hub's and the agents'.
    pub(super) ours: f64,
    /// kube-scheduler's: bindings and Events.
    pub(super) scheduler: f64,
    /// Those that keep the count of the owner's quota.
    pub(super) quota: f64,
}

impl Writes {
    pub(super) fn of(requests: &Requests, jobs: f64) -> Self {
        let sum = |fits: fn(Sender) -> bool| {
            let fits = |kind: &Kind| kind.is_write() && fits(kind.sender());
            let all = requests.iter().filter(|(kind, _)| fits(kind));
            all.map(|(_, count)| count).sum::<f64>() / jobs
        };
        Self {
            ours: sum(|sender| matches!(sender, Sender::User | Sender::Hub | Sender::Agent)),
            scheduler: sum(|sender| sender == Sender::Scheduler),
            quota: sum(|sender| sender == Sender::Quota),
        }
    }

    pub(super) fn as_json(self) -> Value {
        json!({ "ours": self.ours, "scheduler": self.scheduler, "quota": self.quota })
    }
}

/// All writes that reach any API server.
pub(super) fn all_writes(requests: &Requests) -> f64 {
    requests.iter().filter(|(kind, _)| kind.is_write()).map(|(_, count)| count).sum()
}

/// One line for each kind of request, by sender; what is rare is left out.
pub(super) fn table(requests: &Requests, jobs: f64) -> String {
    let mut lines: Vec<_> =
        requests.iter().map(|(kind, count)| (kind.sender(), kind, count)).collect();
    lines.sort_by(|a, b| (a.0, a.1).cmp(&(b.0, b.1)));
    let shown = lines.into_iter().filter(|(_, _, count)| **count / jobs >= 0.005);
    let line = |(sender, kind, count): (Sender, &Kind, &f64)| {
        let mark = if kind.is_write() { "write" } else { "read" };
        let Kind { cluster, verb, resource } = kind;
        let each = count / jobs;
        format!(
            "    {each:7.3} {mark:<5} {:<10} {cluster:<7} {verb} {resource}\n",
            format!("{sender:?}")
        )
    };
    shown.map(line).collect()
}

/// The same for programs.
pub(super) fn as_json(requests: &Requests, jobs: f64) -> Value {
    let one = |(kind, count): (&Kind, &f64)| {
        json!({
            "sender": format!("{:?}", kind.sender()), "cluster": kind.cluster, "verb": kind.verb,
            "resource": kind.resource, "perJob": count / jobs,
        })
    };
    Value::Array(requests.iter().map(one).collect())
}

#[test]
fn a_line_of_metrics_is_read() {
    let line = "apiserver_request_total{code=\"200\",component=\"apiserver\",dry_run=\"\",\
                group=\"\",resource=\"pods\",scope=\"resource\",subresource=\"binding\",\
                verb=\"POST\",version=\"v1\"} 12";
    let want = Some(("POST".to_owned(), "pods/binding".to_owned(), 12.0));
    assert_eq!(sample(line), want);
    assert_eq!(sample("apiserver_request_total_other{} 1"), None);
}
