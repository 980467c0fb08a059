//! `drain`: everything on a member gets notice and is placed elsewhere; the member stays cordoned.
//!
//! The operator writes no lease: a taint with effect `NoExecute` tells the hub, which takes its
//! leases back, as Kubernetes does with nodes.

use std::io::Write;
use std::time::Duration;

use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::standing::{Held, change, on_record};
use super::{Error, check_name, say};
use crate::api::member::{MemberTaint, TaintEffect};
use crate::api::{MemberCluster, TAINT_DRAIN, conditions, reasons};
use crate::cluster::within;

/// How often it is looked how far it is.
const EVERY: Duration = Duration::from_secs(1);
/// The user is told what is left when that changed, at most this often.
const TOLD_EVERY: Duration = Duration::from_secs(5);

/// What `drain` is told.
#[derive(Clone, Debug)]
pub struct Drain {
    /// Name of the member on this hub.
    pub name: String,
    /// Longest wait for everything to be gone.
    pub timeout: Duration,
}

/// Drains `args.name` with the operator's credentials, and returns when nothing of it is on any
/// job's record. Calling it again continues.
///
/// # Errors
/// If the member is unknown or leaves, something is left when the time is over, or the API server
/// refuses.
pub async fn run(client: Client, args: Drain, out: &mut dyn Write) -> Result<(), Error> {
    let name = &args.name;
    check_name(name)?;
    let held = Held::by(&client, name).await?;
    change(&client, name, drained).await?;
    if !held.is_empty() {
        let held = held.words();
        say(out, &format!("draining {name}: {held} there get notice and are placed elsewhere"))?;
    }
    wait(&client, &args, held, out).await?;
    say(
        out,
        &format!(
            "{name} is drained: nothing of this hub runs there; it stays cordoned until kubectl \
             idlewild uncordon {name}"
        ),
    )
}

/// The spec of a member that is to be empty; `None` if it says so already.
fn drained(member: &MemberCluster) -> Option<Value> {
    let ours = MemberTaint {
        key: TAINT_DRAIN.into(),
        value: String::new(),
        effect: TaintEffect::NoExecute,
    };
    let spec = &member.spec;
    if spec.unschedulable && spec.taints.contains(&ours) {
        return None;
    }
    let mut taints: Vec<_> =
        spec.taints.iter().filter(|taint| taint.key != TAINT_DRAIN).cloned().collect();
    taints.push(ours);
    Some(json!({ "unschedulable": true, "taints": taints }))
}

/// Waits until nothing of the member is left, and tells how it gets on from what it `held`.
async fn wait(client: &Client, args: &Drain, held: Held, out: &mut dyn Write) -> Result<(), Error> {
    let name = &args.name;
    let began = Instant::now();
    let mut told = (began, held);
    loop {
        let held = Held::by(client, name).await?;
        // All jobs are read only when no lease is left: what leases reported is then on record.
        if held.is_empty() && !on_record(client, name).await? {
            return Ok(());
        }
        if began.elapsed() > args.timeout {
            return Err(Error::Refused(left(client, args, &held).await?));
        }
        if held != told.1 && told.0.elapsed() >= TOLD_EVERY {
            say(out, &format!("waiting: {} left", held.words()))?;
            told = (Instant::now(), held);
        }
        tokio::time::sleep(EVERY).await;
    }
}

/// Why it has not ended, and what to do.
async fn left(client: &Client, args: &Drain, held: &Held) -> Result<String, Error> {
    let (name, seconds) = (&args.name, args.timeout.as_secs());
    let api: Api<MemberCluster> = Api::all(client.clone());
    let member = within("get member", api.get_opt(name)).await?;
    let status = member.and_then(|member| member.status).unwrap_or_default();
    let silent = conditions::find(&status.conditions, reasons::READY)
        .is_some_and(|ready| ready.reason == reasons::MEMBER_SILENT);
    let what = match held.is_empty() {
        true => {
            "what ended is not on the jobs' records yet: is the hub's controller running?".into()
        }
        false if silent => format!(
            "{} are left, and {name} is silent: they get notice when it answers; if it is gone for \
             good, run kubectl idlewild leave {name}",
            held.words()
        ),
        false => format!(
            "{} are left: is the hub's controller running, and is their grace longer than that?",
            held.words()
        ),
    };
    Ok(format!(
        "{name} is not empty after {seconds} seconds: {what} Call drain again to go on waiting"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::MemberClusterSpec;

    #[test]
    fn draining_cordons_and_keeps_other_taints() {
        let taint = |key: &str, effect: &str| json!({ "key": key, "effect": effect });
        let member = |unschedulable: bool, taints: &[Value]| {
            let taints = serde_json::from_value(json!(taints)).unwrap();
            let spec = MemberClusterSpec { unschedulable, taints, ..MemberClusterSpec::default() };
            MemberCluster::new("north", spec)
        };
        let (mine, ours) = (taint("mine", "NoSchedule"), taint(TAINT_DRAIN, "NoExecute"));
        for (unschedulable, taints) in [
            (false, vec![mine.clone()]),
            (true, vec![mine.clone()]),
            (false, vec![mine.clone(), ours.clone()]),
            (true, vec![mine.clone(), taint(TAINT_DRAIN, "NoSchedule")]),
        ] {
            let spec = drained(&member(unschedulable, &taints)).unwrap();
            assert_eq!(spec["unschedulable"], json!(true));
            assert_eq!(spec["taints"], json!([mine, ours]));
        }
        assert_eq!(drained(&member(true, &[mine, ours])), None);
    }
}
