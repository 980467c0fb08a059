//! `explain`: why a job waits, where it stands in line, and what would help; from the hub's gateway,
//! with the user's own credentials.

use std::io::Write;

use kube::Client;

use super::table::{Align, Colour, Format, Table, Tone, data, printable};
use super::{Error, say};
use crate::api::GpuJobExplanation;
use crate::api::explanation::{
    Effect, GATEWAY_GROUP, GATEWAY_VERSION, HelpfulChange, PoolAnswer, Position,
};
use crate::cluster::{self, within};

/// Pools that are listed one by one, unless all are asked for.
const LISTED: usize = 20;
/// Pools that are named beside a change.
const NAMED: usize = 3;

/// What `explain` is told.
#[derive(Clone, Debug)]
pub struct Explain {
    /// The job.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// How to print it.
    pub format: Format,
}

/// Prints the explanation of `asked.name`.
///
/// # Errors
/// If there is no such job or no gateway, the user may not see it, or nothing can be written.
pub async fn run(client: Client, asked: Explain, out: &mut dyn Write) -> Result<(), Error> {
    let explanation = fetch(client, &asked).await?;
    match asked.format {
        Format::Json | Format::Yaml => data(out, asked.format, &explanation),
        Format::Text(colour) => say(out, &text(&explanation, LISTED, colour).join("\n")),
        Format::Wide(colour) => say(out, &text(&explanation, usize::MAX, colour).join("\n")),
    }
}

async fn fetch(client: Client, asked: &Explain) -> Result<GpuJobExplanation, Error> {
    let Explain { name, namespace, .. } = asked;
    let plain = |text: &str| {
        let fits = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.');
        !text.is_empty() && text.bytes().all(fits) && !text.starts_with('.')
    };
    if !plain(name) || !plain(namespace) {
        return Err(Error::Refused(format!(
            "{namespace}/{name} cannot name a job: names are lower case letters, digits, dashes and dots"
        )));
    }
    let path = format!(
        "/apis/{GATEWAY_GROUP}/{GATEWAY_VERSION}/namespaces/{namespace}/gpujobs/{name}/explain"
    );
    let request = http::Request::get(path).body(Vec::new());
    let request = request.map_err(|error| Error::Refused(format!("cannot ask: {error}")))?;
    within("explain", client.request(request)).await.map_err(|error| unexplained(error, asked))
}

/// Why there is no explanation, and what to do.
fn unexplained(error: cluster::Error, asked: &Explain) -> Error {
    let Explain { name, namespace, .. } = asked;
    let cluster::Error::Call { source, .. } = &error else { return error.into() };
    let kube::Error::Api(status) = source.as_ref() else { return error.into() };
    let ours = status.details.as_ref().is_some_and(|details| details.group == GATEWAY_GROUP);
    Error::Refused(match status.code {
        404 if ours => format!(
            "there is no GpuJob {name} in namespace {namespace}: kubectl get gpujobs -n {namespace} \
             lists them"
        ),
        404 => {
            "this hub has no gateway, or this cluster is no hub: an operator enables it with helm \
                upgrade idlewild-hub --reuse-values --set gateway.enabled=true; until then kubectl \
                describe gpujob says why a job waits"
                .to_owned()
        }
        403 => format!(
            "you may not see GpuJobs in namespace {namespace}: ask its administrator for kubectl \
             create rolebinding NAME --clusterrole=view --user=YOU -n {namespace}"
        ),
        503 if ours => format!("the gateway cannot say it now: {}; try again", status.message),
        500..=599 => format!(
            "the hub's gateway does not answer: an operator looks at kubectl get apiservice \
             {GATEWAY_VERSION}.{GATEWAY_GROUP} and at the pods of deployment idlewild-gateway; until \
             then kubectl describe gpujob {name} -n {namespace} says why it waits"
        ),
        _ => return error.into(),
    })
}

/// The explanation in lines; `listed` pools are shown one by one.
fn text(said: &GpuJobExplanation, listed: usize, colour: Colour) -> Vec<String> {
    let name = said.metadata.name.clone().unwrap_or_default();
    let namespace = said.metadata.namespace.clone().unwrap_or_default();
    let phase = said.phase.map_or_else(|| "New".to_owned(), |phase| format!("{phase:?}"));
    let reason = match said.reason.as_str() {
        "" => String::new(),
        reason => format!(", {reason}"),
    };
    let head = format!("{namespace}/{name} is {phase}{reason}");
    let mut lines = vec![colour.paint(Tone::Head, &printable(&head))];
    lines.extend((!said.message.is_empty()).then(|| format!("  {}", printable(&said.message))));
    lines.push(String::new());
    lines.extend(standing(said));
    if !said.pools.is_empty() {
        lines.push(String::new());
        lines.extend(pools(&said.pools, listed, colour));
    }
    if !said.changes.is_empty() {
        lines.push(String::new());
        lines.extend(changes(&said.changes, colour));
    }
    lines
}

/// Queue, replicas, and where it runs or will.
fn standing(said: &GpuJobExplanation) -> Vec<String> {
    let place = |position: &Position| format!("{} of {}", position.place, position.of);
    let queue = &said.queue;
    let mut lines = Vec::new();
    let mut line =
        |label: &str, text: String| lines.push(format!("{label:<10}{}", printable(&text)));
    let quota = match queue.quota_gpus {
        Some(quota) => format!("{} of {quota} GPUs in use", queue.used_gpus),
        None => format!("no quota, {} GPUs in use", queue.used_gpus),
    };
    line(
        "Queue",
        match (queue.takes, queue.held) {
            (false, _) => format!("{}, which does not take it", queue.name),
            (true, true) => format!("{}, held: nothing new starts; {quota}", queue.name),
            (true, false) => format!("{}; {quota}", queue.name),
        },
    );
    if let (Some(own), Some(all)) = (&queue.position, &queue.overall) {
        line("Position", format!("{} in its queue, {} on the hub", place(own), place(all)));
    }
    let counts = said.replicas;
    line(
        "Replicas",
        format!(
            "{} waiting, {} starting, {} running, {} succeeded, {} failures",
            counts.waiting, counts.starting, counts.running, counts.succeeded, counts.failed
        ),
    );
    // What is placed next starts now; saying when is for what waits.
    if let Some(time) = said.starts.as_ref().filter(|_| said.next.is_empty()) {
        line("Starts", format!("about {}", time.0.strftime("%Y-%m-%dT%H:%M:%SZ")));
    }
    if let Some(time) = &said.not_before {
        line("Backs off", format!("until {}", time.0.strftime("%Y-%m-%dT%H:%M:%SZ")));
    }
    for run in &said.runs {
        line(
            "On",
            format!(
                "{}/{} ({}): replicas {}, attempt {}",
                run.cluster, run.pool, run.model, run.indexes, run.epoch
            ),
        );
    }
    for next in &said.next {
        let count = next.replicas;
        let replicas = if count == 1 { "replica" } else { "replicas" };
        line(
            "Next",
            format!("{}/{} ({}): {count} {replicas}", next.cluster, next.pool, next.model),
        );
    }
    lines
}

/// What the pools say: those that fit first, then those that may later.
fn pools(pools: &[PoolAnswer], listed: usize, colour: Colour) -> Vec<String> {
    let rank = |pool: &PoolAnswer| (pool.fits == 0, !pool.passing);
    let mut sorted: Vec<&PoolAnswer> = pools.iter().collect();
    sorted.sort_by_key(|pool| rank(pool));
    let mut table =
        Table::new(&[("MEMBER", Align::Left), ("POOL", Align::Left), ("ANSWER", Align::Left)]);
    for pool in sorted.iter().take(listed) {
        let (tone, answer) = match (pool.fits, pool.passing) {
            (0, true) => (Tone::Passing, format!("{}: {}", pool.reason, pool.message)),
            (0, false) => (Tone::Bad, format!("{}: {}", pool.reason, pool.message)),
            (1, _) => (Tone::Good, "fits".to_owned()),
            (room, _) => (Tone::Good, format!("fits ({room} replicas)")),
        };
        table.row(tone, vec![pool.cluster.clone(), pool.pool.clone(), answer]);
    }
    let mut lines = table.lines(colour);
    let more = sorted.len().saturating_sub(listed);
    lines.extend((more > 0).then(|| format!("and {more} more; -o wide shows them")));
    lines
}

fn changes(changes: &[HelpfulChange], colour: Colour) -> Vec<String> {
    let mut lines = vec![colour.paint(Tone::Head, "WHAT WOULD HELP (a job with one of these)")];
    for HelpfulChange { change, effect, pools } in changes {
        let when = match effect {
            Effect::Now => "fits now",
            Effect::Later => "can fit once GPUs are free",
        };
        let mut places = pools.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
        let more = pools.len().saturating_sub(NAMED);
        if more > 0 {
            places = format!("{places} and {more} more");
        }
        lines.push(printable(&format!("  {change}: {when} on {places}")));
    }
    lines
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn said() -> GpuJobExplanation {
        serde_json::from_value(json!({
            "apiVersion": "gateway.idlewild.dev/v1alpha1", "kind": "GpuJobExplanation",
            "metadata": {"name": "train", "namespace": "team-a"}, "phase": "Queued",
            "time": null,
            "reason": "WaitingForCapacity", "message": "0/2 pools fit\u{1b}[2J",
            "replicas": {"waiting": 1},
            "queue": {"name": "default", "takes": true, "held": false, "usedGpus": 12,
                "position": {"place": 2, "of": 3}, "overall": {"place": 4, "of": 9}},
            "pools": [
                {"cluster": "a", "pool": "x", "fits": 0, "reason": "NoMatchingModel",
                    "message": "without H100", "passing": false},
                {"cluster": "b", "pool": "y", "fits": 0, "reason": "TooFewFreeGpus",
                    "message": "too few free GPUs per node (need 8 on 1 node)", "passing": true},
            ],
            "changes": [{"change": "gpu.count of at most 4", "effect": "Now",
                "pools": ["b/y", "b/z", "c/x", "c/y"]}],
        }))
        .unwrap()
    }

    #[test]
    fn an_explanation_reads_from_most_to_least_important() {
        assert_eq!(
            text(&said(), 1, Colour::Off),
            [
                "team-a/train is Queued, WaitingForCapacity",
                "  0/2 pools fit [2J",
                "",
                "Queue     default; no quota, 12 GPUs in use",
                "Position  2 of 3 in its queue, 4 of 9 on the hub",
                "Replicas  1 waiting, 0 starting, 0 running, 0 succeeded, 0 failures",
                "",
                "MEMBER   POOL   ANSWER",
                "b        y      TooFewFreeGpus: too few free GPUs per node (need 8 on 1 node)",
                "and 1 more; -o wide shows them",
                "",
                "WHAT WOULD HELP (a job with one of these)",
                "  gpu.count of at most 4: fits now on b/y, b/z, c/x and 1 more",
            ]
        );
        assert!(text(&said(), 9, Colour::Off).iter().any(|line| line.contains("without H100")));
        assert!(text(&said(), 9, Colour::On).concat().contains("\u{1b}[31m"));
    }

    #[test]
    fn each_failure_says_what_to_do() {
        let asked = Explain {
            name: "train".into(),
            namespace: "team-a".into(),
            format: Format::Text(Colour::Off),
        };
        let failure = |code: u16, group: &str| {
            let status = serde_json::from_value(json!({ "status": "Failure", "code": code,
                "message": "m", "reason": "r", "details": {"group": group, "kind": "", "name": ""} }));
            let error = kube::Error::Api(Box::new(status.unwrap()));
            unexplained(cluster::Error::call("explain", error), &asked).to_string()
        };
        for (code, group, want) in [
            (404, GATEWAY_GROUP, "kubectl get gpujobs -n team-a"),
            (404, "", "gateway.enabled=true"),
            (403, "", "--clusterrole=view"),
            (503, GATEWAY_GROUP, "try again"),
            (503, "", "apiservice v1alpha1.gateway.idlewild.dev"),
            (502, "", "kubectl describe gpujob train -n team-a"),
        ] {
            let said = failure(code, group);
            assert!(said.contains(want), "{code} {group}: {said}");
        }
    }
}
