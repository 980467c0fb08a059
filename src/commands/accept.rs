//! `accept`: the operator has compared fingerprints, and lets a cluster in.

use std::io::{BufRead, IsTerminal, Write};

use k8s_openapi::api::rbac::v1::RoleBinding;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client, ResourceExt};
use serde_json::json;

use super::{Error, binding, check_name, ensure, hub_identity, namespace_of, say};
use crate::api::digest::fingerprint;
use crate::api::{JOIN_REQUEST, JoinRequest, MemberCluster};
use crate::cluster::{Outcome, within};

/// The role by which a newcomer fetches its renew token.
const ENROL: &str = "idlewild-member-enrol";
/// The role by which a newcomer asks to join.
const JOIN: &str = "idlewild-member-join";

/// What `accept` is told.
#[derive(Clone, Debug, Default)]
pub struct Accept {
    /// Name of the member on this hub.
    pub name: String,
    /// The fingerprint that the owner read out; nothing is asked then.
    pub fingerprint: Option<String>,
    /// True: accept whatever fingerprint asks, without a question.
    pub yes: bool,
    /// Jurisdictions that the operator vouches for; `None` leaves them as they are.
    pub jurisdictions: Option<Vec<String>>,
}

/// Accepts `args.name` with the operator's credentials of `client`; asks on the terminal unless the
/// fingerprint was given.
///
/// # Errors
/// If the member is unknown, has not asked yet, asks with another fingerprint, or the operator says
/// no; or if the API server refuses.
pub async fn run(client: Client, args: Accept, out: &mut dyn Write) -> Result<(), Error> {
    let name = &args.name;
    check_name(name)?;
    let hub = hub_identity(&client).await?;
    let namespace = namespace_of(name);
    let members: Api<MemberCluster> = Api::all(client.clone());
    let requests: Api<JoinRequest> = Api::namespaced(client.clone(), &namespace);
    let bindings: Api<RoleBinding> = Api::namespaced(client, &namespace);
    let member = within("get member", members.get_opt(name)).await?;
    let request = within("get join request", requests.get_opt(JOIN_REQUEST)).await?;
    let asked = asked(name, &hub.id, member, request)?;
    let print = &asked.fingerprint;
    if asked.member.spec.accepted {
        say(out, &format!("{name} was accepted already, with fingerprint {print}"))?;
    } else {
        say(out, &format!("{name} asks to join with fingerprint {print}"))?;
    }
    // Asked once: what an operator accepted is not asked again, but a wrong word is still wrong.
    if !asked.member.spec.accepted || args.fingerprint.is_some() {
        confirm(&args, print, out)?;
    }
    admit(&members, &asked, args.jurisdictions).await?;
    // The binding is there while an invitation is open; the hub removes it at the first heartbeat.
    if within("get role binding", bindings.get_opt(JOIN)).await?.is_none() {
        return say(out, &format!("{name} has joined; there is nothing more to do"));
    }
    ensure(&bindings, &binding(ENROL, "join", &namespace), "create role binding").await?;
    say(out, &format!("{name} may join; see kubectl get memberclusters {name}"))
}

/// A cluster that asks to join, and whom it says it is.
#[derive(Debug)]
struct Asked {
    member: MemberCluster,
    fingerprint: String,
}

/// Who asks to join as `name`, if that is in order.
fn asked(
    name: &str,
    hub_id: &str,
    member: Option<MemberCluster>,
    request: Option<JoinRequest>,
) -> Result<Asked, Error> {
    let refuse = |why: String| Err(Error::Refused(why));
    let Some(member) = member else {
        return refuse(format!(
            "there is no member {name}: invite it first with kubectl idlewild invite {name}"
        ));
    };
    if member.metadata.deletion_timestamp.is_some() {
        return refuse(format!("{name} is leaving"));
    }
    let Some(request) = request else {
        return refuse(format!(
            "{name} has not asked to join yet: its owner applies the invitation where the agent \
             runs, and kubectl get hubgrants -n idlewild-system there says how it stands"
        ));
    };
    let found = fingerprint(&request.spec.cluster_identity, hub_id, name);
    if request.spec.fingerprint != found {
        return refuse(format!(
            "the request of {name} shows fingerprint {}, but its content has {found}: do not accept \
             it, invite {name} again",
            request.spec.fingerprint
        ));
    }
    let accepted = member.spec.fingerprint.as_deref().filter(|_| member.spec.accepted);
    if accepted.is_some_and(|accepted| accepted != found) {
        return refuse(format!(
            "{name} was accepted with another fingerprint, {}: another cluster asks now, with \
             {found}; to let it in, first kubectl idlewild leave {name}",
            accepted.unwrap_or_default()
        ));
    }
    Ok(Asked { member, fingerprint: found })
}

/// Makes sure that the operator has compared `print`.
fn confirm(args: &Accept, print: &str, out: &mut dyn Write) -> Result<(), Error> {
    if let Some(given) = &args.fingerprint {
        let same = given.trim().eq_ignore_ascii_case(print);
        return if same { Ok(()) } else { Err(mismatch(given, print)) };
    }
    if args.yes {
        return Ok(());
    }
    if !std::io::stdin().is_terminal() {
        return Err(Error::Refused(format!(
            "compare {print} with what the owner sees (kubectl get hubgrants -n idlewild-system), \
             then say --fingerprint {print}, or --yes to trust whoever asked"
        )));
    }
    say(out, "Does the owner see the same (kubectl get hubgrants -n idlewild-system)? [y/N]")?;
    let mut answer = String::new();
    std::io::stdin()
        .lock()
        .read_line(&mut answer)
        .map_err(|source| Error::Files { what: "read the answer".into(), source })?;
    match answer.trim() {
        "y" | "Y" | "yes" => Ok(()),
        _ => Err(Error::Refused("not accepted".into())),
    }
}

fn mismatch(given: &str, print: &str) -> Error {
    Error::Refused(format!(
        "the owner's fingerprint is {given}, the request's is {print}: another cluster used the \
         invitation; invite again"
    ))
}

/// Writes the acceptance onto the member that was read.
async fn admit(
    members: &Api<MemberCluster>,
    asked: &Asked,
    jurisdictions: Option<Vec<String>>,
) -> Result<(), Error> {
    let mut spec = json!({ "accepted": true, "fingerprint": asked.fingerprint });
    if let Some(jurisdictions) = jurisdictions {
        spec["jurisdictions"] = json!(jurisdictions);
    }
    let member = &asked.member;
    let patch = Patch::Merge(json!({
        "metadata": { "uid": member.uid(), "resourceVersion": member.resource_version() },
        "spec": spec,
    }));
    let (name, params) = (member.name_any(), PatchParams::default());
    match within("accept member", members.patch(&name, &params, &patch)).await {
        Ok(_) => Ok(()),
        Err(error) if error.outcome() == Outcome::Conflict => Err(Error::Refused(format!(
            "{name} was changed by somebody else just now: look at it and accept again"
        ))),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{JoinRequestSpec, MemberClusterSpec};

    const IDENTITY: &str = "sha256:abc";

    fn member(accepted: Option<&str>) -> MemberCluster {
        MemberCluster::new(
            "north",
            MemberClusterSpec {
                accepted: accepted.is_some(),
                fingerprint: accepted.map(ToOwned::to_owned),
                ..MemberClusterSpec::default()
            },
        )
    }

    fn request(print: &str) -> JoinRequest {
        JoinRequest::new(
            JOIN_REQUEST,
            JoinRequestSpec {
                fingerprint: print.into(),
                cluster_identity: IDENTITY.into(),
                agent_version: "1".into(),
            },
        )
    }

    #[test]
    fn each_way_not_to_be_in_order_has_its_sentence() {
        let print = fingerprint(IDENTITY, "hub", "north");
        let good = || Some(request(&print));
        for (member, request, want) in [
            (None, None, "invite it first"),
            (Some(member(None)), None, "has not asked to join yet"),
            (Some(member(None)), Some(request("other")), "do not accept"),
            (Some(member(Some("other"))), good(), "another cluster asks"),
        ] {
            let error = asked("north", "hub", member, request).unwrap_err().to_string();
            assert!(error.contains(want), "{error}");
        }
        assert_eq!(asked("north", "hub", Some(member(None)), good()).unwrap().fingerprint, print);
        assert!(asked("north", "hub", Some(member(Some(&print))), good()).is_ok());
    }

    #[test]
    fn a_fingerprint_that_was_read_out_must_be_the_same() {
        let given = |print: &str| Accept { fingerprint: Some(print.into()), ..Accept::default() };
        let mut out = Vec::new();
        assert!(confirm(&given(" AB-cd "), "ab-cd", &mut out).is_ok());
        let error = confirm(&given("ab-ce"), "ab-cd", &mut out).unwrap_err().to_string();
        assert!(error.contains("another cluster used the invitation"), "{error}");
        assert!(confirm(&Accept { yes: true, ..Accept::default() }, "ab-cd", &mut out).is_ok());
    }
}
