//! `leave`: a member goes, whether it still answers or not; `owner` is the same from its own side.

pub mod owner;

use std::io::Write;
use std::time::Duration;

use k8s_openapi::api::core::v1::Namespace;
use kube::api::{DeleteParams, ListParams, Preconditions};
use kube::{Api, Client, ResourceExt};
use tokio::time::Instant;

use super::{Error, check_name, namespace_of, say};
use crate::api::{GpuLease, LABEL_MEMBER, MemberCluster};
use crate::cluster::{Outcome, within};

/// How often it is looked whether the hub has let the member go.
const EVERY: Duration = Duration::from_secs(1);
/// How often the user is told what is still there.
const TOLD_EVERY: Duration = Duration::from_secs(15);

/// What `leave` is told.
#[derive(Clone, Debug)]
pub struct Leave {
    /// Name of the member on this hub.
    pub name: String,
    /// Longest wait for the hub to let it go.
    pub timeout: Duration,
}

/// Ends the membership of `args.name`: the hub takes its leases back, or ends them if the member is
/// silent, and revokes its rights; then its namespace goes. Calling it again continues.
///
/// # Errors
/// If the member is unknown, the hub does not let it go in time, or the API server refuses.
pub async fn run(client: Client, args: Leave, out: &mut dyn Write) -> Result<(), Error> {
    let name = &args.name;
    check_name(name)?;
    let members: Api<MemberCluster> = Api::all(client.clone());
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let member = within("get member", members.get_opt(name)).await?;
    let namespace = within("get namespace", namespaces.get_opt(&namespace_of(name))).await?;
    let namespace = namespace.filter(|found| found.labels().get(LABEL_MEMBER) == Some(name));
    if member.is_none() && namespace.is_none() {
        return Err(Error::Refused(format!(
            "there is no member {name}; kubectl get memberclusters lists them"
        )));
    }
    if let Some(member) = member {
        if member.metadata.deletion_timestamp.is_none() {
            let preconditions = Preconditions { uid: member.uid(), resource_version: None };
            let params = DeleteParams { preconditions: Some(preconditions), ..Default::default() };
            gone(within("delete member", members.delete(name, &params)).await.map(drop))?;
        }
        say(out, &format!("{name} is leaving: its leases end, then its rights"))?;
        wait(&client, &members, &args, out).await?;
    }
    if let Some(namespace) = namespace {
        let preconditions = Preconditions { uid: namespace.uid(), resource_version: None };
        let params = DeleteParams { preconditions: Some(preconditions), ..Default::default() };
        let name = namespace.name_any();
        gone(within("delete namespace", namespaces.delete(&name, &params)).await.map(drop))?;
    }
    say(out, &format!("{name} has left"))
}

/// Waits until the hub dropped its finalizer.
async fn wait(
    client: &Client,
    members: &Api<MemberCluster>,
    args: &Leave,
    out: &mut dyn Write,
) -> Result<(), Error> {
    let (began, mut told) = (Instant::now(), Instant::now());
    while within("get member", members.get_opt(&args.name)).await?.is_some() {
        if began.elapsed() > args.timeout {
            return Err(Error::Refused(format!(
                "the hub has not let {} go in {} seconds: {}; is its controller running? Call leave \
                 again to go on waiting",
                args.name,
                args.timeout.as_secs(),
                remaining(client, &args.name).await?,
            )));
        }
        if told.elapsed() >= TOLD_EVERY {
            told = Instant::now();
            say(out, &format!("waiting: {}", remaining(client, &args.name).await?))?;
        }
        tokio::time::sleep(EVERY).await;
    }
    Ok(())
}

/// What keeps the member, in words.
async fn remaining(client: &Client, name: &str) -> Result<String, Error> {
    let leases: Api<GpuLease> = Api::namespaced(client.clone(), &namespace_of(name));
    let found = within("list leases", leases.list(&ListParams::default())).await?;
    Ok(match found.items.len() {
        0 => "no lease is left, its rights are not yet revoked".into(),
        1 => "one lease is left".into(),
        many => format!("{many} leases are left"),
    })
}

/// What is gone already needs no deletion.
fn gone(result: Result<(), crate::cluster::Error>) -> Result<(), Error> {
    match result {
        Err(error) if error.outcome() != Outcome::Gone => Err(error.into()),
        _ => Ok(()),
    }
}
