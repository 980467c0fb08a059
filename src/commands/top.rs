//! `top`: pools and their GPUs, or queues and their jobs. It reads and changes nothing.

use std::io::Write;

use kube::api::ListParams;
use kube::{Api, Client, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::table::{Align, Colour, Format, Table, Tone, data};
use super::{Error, say};
use crate::api::gpuqueue::StopPolicy;
use crate::api::{GpuPool, GpuQueue, MEMBER_NAMESPACE_PREFIX, conditions, reasons};
use crate::cluster::{self, Outcome, within};

/// What a pool lends, as the member says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PoolRow {
    member: String,
    pool: String,
    region: String,
    jurisdiction: String,
    models: String,
    nodes: i64,
    offered: i64,
    owner: i64,
    guests: i64,
    free: i64,
    ready: String,
    version: String,
}

/// What a queue allows and holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct QueueRow {
    queue: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    quota: Option<i64>,
    /// Millionths of what is offered, by weight.
    share: i64,
    used: i64,
    running: i64,
    waiting: i64,
    state: String,
}

/// Prints all pools of the hub behind `client`.
///
/// # Errors
/// If they may not be listed, the hub does not answer, or nothing can be written.
pub async fn pools(client: Client, format: Format, out: &mut dyn Write) -> Result<(), Error> {
    let mut rows: Vec<PoolRow> =
        list::<GpuPool>(client, "GpuPools").await?.iter().map(pool).collect();
    rows.sort_by(|a, b| (&a.member, &a.pool).cmp(&(&b.member, &b.pool)));
    let total = rows.iter().fold(PoolRow::default(), |sum, row| PoolRow {
        nodes: sum.nodes.saturating_add(row.nodes),
        offered: sum.offered.saturating_add(row.offered),
        owner: sum.owner.saturating_add(row.owner),
        guests: sum.guests.saturating_add(row.guests),
        free: sum.free.saturating_add(row.free),
        ..sum
    });
    match format {
        Format::Json | Format::Yaml => {
            let total = serde_json::json!({ "nodes": total.nodes, "offered": total.offered,
                "owner": total.owner, "guests": total.guests, "free": total.free });
            data(out, format, &serde_json::json!({ "pools": rows, "total": total }))
        }
        _ if rows.is_empty() => say(out, "no member lends a pool yet"),
        Format::Text(colour) => lines(out, &pool_table(&rows, &total, Width::Narrow), colour),
        Format::Wide(colour) => lines(out, &pool_table(&rows, &total, Width::All), colour),
    }
}

/// Prints all queues of the hub behind `client`.
///
/// # Errors
/// As [`pools`].
pub async fn queues(client: Client, format: Format, out: &mut dyn Write) -> Result<(), Error> {
    let rows: Vec<QueueRow> =
        list::<GpuQueue>(client, "GpuQueues").await?.iter().map(queue).collect();
    match format {
        Format::Json | Format::Yaml => data(out, format, &serde_json::json!({ "queues": rows })),
        _ if rows.is_empty() => say(out, "there is no queue: no job can be placed"),
        Format::Text(colour) | Format::Wide(colour) => lines(out, &queue_table(&rows), colour),
    }
}

async fn list<K>(client: Client, kinds: &'static str) -> Result<Vec<K>, Error>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug,
{
    match within("list", Api::<K>::all(client).list(&ListParams::default())).await {
        Ok(list) => Ok(list.items),
        Err(error) => Err(unlisted(error, kinds)),
    }
}

/// Why there is no list, and what to do.
fn unlisted(error: cluster::Error, kinds: &str) -> Error {
    let code = match &error {
        cluster::Error::Call { source, .. } => match source.as_ref() {
            kube::Error::Api(status) => status.code,
            _ => 0,
        },
        _ => 0,
    };
    match (code, error.outcome()) {
        (403, _) => Error::Refused(format!(
            "you may not list {kinds} of all members: ask an operator of the hub for kubectl create \
             clusterrolebinding NAME --clusterrole=idlewild-top --user=YOU"
        )),
        (_, Outcome::Gone) => Error::Refused(format!(
            "this cluster is no hub, it knows no {kinds}: choose another context of your kubeconfig"
        )),
        _ => error.into(),
    }
}

fn pool(pool: &GpuPool) -> PoolRow {
    let status = pool.status.clone().unwrap_or_default();
    let namespace = pool.namespace().unwrap_or_default();
    // The member's own name for itself is shown where the namespace is no member's.
    let member = namespace.strip_prefix(MEMBER_NAMESPACE_PREFIX).unwrap_or(&status.summary.member);
    let location = pool.spec.location.clone().unwrap_or_default();
    let ready = conditions::find(&status.conditions, reasons::READY);
    let ready = match ready {
        Some(ready) if ready.status == "True" => "True".to_owned(),
        Some(ready) => ready.reason.clone(),
        None => "Unknown".to_owned(),
    };
    PoolRow {
        member: member.to_owned(),
        pool: pool.name_any(),
        region: location.region,
        jurisdiction: location.jurisdiction,
        models: status.summary.models,
        nodes: status.shapes.iter().map(|shape| i64::from(shape.nodes)).sum(),
        offered: status.gpus.offered,
        owner: status.gpus.owner,
        guests: status.gpus.guests,
        free: status.gpus.free,
        ready: if pool.spec.offer.paused { "Paused".to_owned() } else { ready },
        version: status.agent_version,
    }
}

fn queue(queue: &GpuQueue) -> QueueRow {
    let status = queue.status.clone().unwrap_or_default();
    QueueRow {
        queue: queue.name_any(),
        quota: total(queue),
        share: status.share_ppm,
        used: status.used_gpus,
        running: status.admitted,
        waiting: status.pending,
        state: match queue.spec.stop_policy {
            StopPolicy::None => "Active".to_owned(),
            StopPolicy::Hold => "Held".to_owned(),
            StopPolicy::HoldAndDrain => "Draining".to_owned(),
        },
    }
}

/// The quota of all models together, else the sum of those of single models.
fn total(queue: &GpuQueue) -> Option<i64> {
    let quotas = &queue.spec.quota;
    let all = quotas.iter().find(|quota| quota.model.is_none());
    let single = (!quotas.is_empty())
        .then(|| quotas.iter().fold(0_i64, |sum, quota| sum.saturating_add(quota.gpus)));
    all.map(|quota| quota.gpus).or(single)
}

/// `12.5 %` of millionths.
fn percent(ppm: i64) -> String {
    format!("{}.{} %", ppm / 10_000, ppm / 1000 % 10)
}

/// How many columns there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Width {
    Narrow,
    All,
}

fn pool_table(rows: &[PoolRow], total: &PoolRow, width: Width) -> Table {
    let columns = [
        ("MEMBER", Align::Left),
        ("POOL", Align::Left),
        ("MODELS", Align::Left),
        ("NODES", Align::Right),
        ("OFFERED", Align::Right),
        ("OWNER", Align::Right),
        ("GUESTS", Align::Right),
        ("FREE", Align::Right),
        ("READY", Align::Left),
        ("REGION", Align::Left),
        ("JURISDICTION", Align::Left),
        ("VERSION", Align::Left),
    ];
    let shown = if width == Width::All { columns.len() } else { columns.len() - 3 };
    let cells = |row: &PoolRow| -> Vec<String> {
        let counts = [row.nodes, row.offered, row.owner, row.guests, row.free];
        let counts = counts.iter().map(ToString::to_string);
        let words = [&row.member, &row.pool, &row.models].map(Clone::clone);
        let last = [&row.ready, &row.region, &row.jurisdiction, &row.version].map(Clone::clone);
        words.into_iter().chain(counts).chain(last).take(shown).collect()
    };
    let mut table = Table::new(&columns[..shown]);
    for row in rows {
        let tone = if row.ready == "True" { Tone::Plain } else { Tone::Passing };
        table.row(tone, cells(row));
    }
    let total = PoolRow { member: "TOTAL".into(), ..total.clone() };
    table.row(Tone::Head, cells(&total));
    table
}

fn queue_table(rows: &[QueueRow]) -> Table {
    let mut table = Table::new(&[
        ("QUEUE", Align::Left),
        ("QUOTA", Align::Right),
        ("USED", Align::Right),
        ("SHARE", Align::Right),
        ("RUNNING", Align::Right),
        ("WAITING", Align::Right),
        ("STATE", Align::Left),
    ]);
    for row in rows {
        let quota = row.quota.map_or_else(|| "none".to_owned(), |quota| quota.to_string());
        let counts = [row.used, row.running, row.waiting].map(|count| count.to_string());
        let [used, running, waiting] = counts;
        let counts = [used, percent(row.share), running, waiting];
        let cells = [row.queue.clone(), quota].into_iter().chain(counts).chain([row.state.clone()]);
        let tone = if row.state == "Active" { Tone::Plain } else { Tone::Passing };
        table.row(tone, cells.collect());
    }
    table
}

fn lines(out: &mut dyn Write, table: &Table, colour: Colour) -> Result<(), Error> {
    say(out, &table.lines(colour).join("\n"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn row(namespace: &str, name: &str, free: i64, ready: &str) -> PoolRow {
        pool(&serde_json::from_value(json!({
            "apiVersion": "idlewild.dev/v1alpha1", "kind": "GpuPool",
            "metadata": {"name": name, "namespace": namespace},
            "spec": {"location": {"region": "eu-north", "jurisdiction": "EU"}},
            "status": {
                "conditions": [{"type": "Ready", "status": ready, "reason": "NoNodes", "message": "",
                    "lastTransitionTime": "2026-01-01T00:00:00Z"}],
                "shapes": [{"model": "A100", "gpusPerNode": 8, "nodes": 6}],
                "gpus": {"offered": 48, "owner": 8, "guests": 40 - free, "free": free},
                "summary": {"member": "a-liar", "models": "A100"}, "agentVersion": "0.1.0",
            },
        })).unwrap())
    }

    #[test]
    fn pools_are_shown_with_totals() {
        let rows = [row("member-north", "a100", 30, "True"), row("member-south", "b", 0, "False")];
        let total = PoolRow {
            nodes: 12,
            offered: 96,
            owner: 16,
            guests: 50,
            free: 30,
            ..PoolRow::default()
        };
        assert_eq!(
            pool_table(&rows, &total, Width::Narrow).lines(Colour::Off),
            [
                "MEMBER   POOL   MODELS   NODES   OFFERED   OWNER   GUESTS   FREE   READY",
                "north    a100   A100         6        48       8       10     30   True",
                "south    b      A100         6        48       8       40      0   NoNodes",
                "TOTAL                       12        96      16       50     30",
            ]
        );
        let wide = pool_table(&rows, &total, Width::All).lines(Colour::Off);
        assert!(wide[1].ends_with("True      eu-north   EU             0.1.0"), "{}", wide[1]);
    }

    #[test]
    fn queues_are_shown_with_their_quota() {
        let of = |spec: serde_json::Value| {
            queue(
                &serde_json::from_value(json!({
                    "apiVersion": "idlewild.dev/v1alpha1", "kind": "GpuQueue",
                    "metadata": {"name": "q"}, "spec": spec,
                    "status": {"usedGpus": 3, "pending": 2, "admitted": 1},
                }))
                .unwrap(),
            )
        };
        let rows = [of(json!({})), of(json!({"quota": [{"gpus": 4}], "stopPolicy": "Hold"}))];
        assert_eq!(
            queue_table(&rows).lines(Colour::Off),
            [
                "QUEUE   QUOTA   USED   SHARE   RUNNING   WAITING   STATE",
                "q        none      3   0.0 %         1         2   Active",
                "q           4      3   0.0 %         1         2   Held",
            ]
        );
    }

    #[test]
    fn who_may_not_list_is_told_whom_to_ask() {
        let refused = |code: u16| {
            let status = kube::core::Status { code, reason: "x".into(), ..Default::default() };
            let error = cluster::Error::call("list", kube::Error::Api(Box::new(status)));
            unlisted(error, "GpuPools").to_string()
        };
        assert!(refused(403).contains("--clusterrole=idlewild-top"), "{}", refused(403));
        assert!(refused(404).contains("no hub"), "{}", refused(404));
    }
}
