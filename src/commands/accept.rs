//! `accept`: the operator has compared fingerprints, and lets a cluster in.
//!
//! Invariant: whatever an earlier holder of this member's tokens has dies before a newcomer gets its
//! own; nothing of it dies before the operator has compared.

mod admit;
mod asked;

use std::io::{BufRead, IsTerminal, Write};

use k8s_openapi::api::rbac::v1::RoleBinding;
use kube::{Api, Client};

use super::{ENROL_ROLE, Error, binding, check_name, ensure, hub_identity, namespace_of, say};
use crate::api::member::short_life;
use crate::cluster::within;
use admit::{WORKING, admit, end_tokens, renewal_life};
use asked::{Asked, Asking, Before};

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
    let bindings: Api<RoleBinding> = Api::namespaced(client.clone(), &namespace);
    let asking = Asking::new(&client, name, &hub.id);
    let asked = asking.look().await?;
    say(out, &asked.sentence())?;
    // Asked once: what an operator accepted is not asked again, but a wrong word is still wrong.
    if asked.before != Before::Same || args.fingerprint.is_some() {
        confirm(&args, &asked, out)?;
    }
    admit(&asking, &asked, args.jurisdictions.as_deref()).await?;
    // The binding is there while an invitation is open; the hub removes it at the first heartbeat.
    if within("get role binding", bindings.get_opt(JOIN)).await?.is_none() {
        return say(out, &format!("{name} has joined; there is nothing more to do"));
    }
    let enrols = within("get role binding", bindings.get_opt(ENROL_ROLE)).await?.is_some();
    if asked.before != Before::Nobody && !enrols {
        say(out, "ending the tokens of before; this takes 15 seconds")?;
        end_tokens(&client, &namespace).await?;
    }
    for (role, account) in WORKING {
        let object = binding(role, account, &namespace);
        ensure(&bindings, &object, "create role binding").await?;
    }
    ensure(&bindings, &binding(ENROL_ROLE, "join", &namespace), "create role binding").await?;
    if let Some(life) = renewal_life(&client, &namespace).await?.and_then(short_life) {
        say(
            out,
            &format!(
                "warning: this hub's tokens live {life} at most: {name} must be invited again after \
                 longer away; --service-account-max-token-expiration of the API server limits it"
            ),
        )?;
    }
    say(out, &format!("{name} may join; see kubectl get memberclusters {name}"))
}

/// Makes sure that the operator has compared the fingerprint that asks.
fn confirm(args: &Accept, asked: &Asked, out: &mut dyn Write) -> Result<(), Error> {
    let print = &asked.fingerprint;
    if let Some(given) = &args.fingerprint {
        let same = given.trim().eq_ignore_ascii_case(print);
        return if same { Ok(()) } else { Err(mismatch(given, print)) };
    }
    // Whoever asks in the place of somebody who was let in is looked at twice.
    if args.yes && asked.before == Before::Nobody {
        return Ok(());
    }
    if !std::io::stdin().is_terminal() {
        return Err(Error::Refused(format!(
            "compare {print} with what the owner sees (kubectl get hubgrants -n idlewild-system), \
             then say --fingerprint {print}{}",
            if asked.before == Before::Nobody { ", or --yes to trust whoever asked" } else { "" }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn newcomer(print: &str, before: Before) -> Asked {
        let member = asked::tests::member(None, None);
        Asked { member, fingerprint: print.into(), cluster_identity: "sha256:abc".into(), before }
    }

    #[test]
    fn a_fingerprint_that_was_read_out_must_be_the_same() {
        let given = |print: &str| Accept { fingerprint: Some(print.into()), ..Accept::default() };
        let (mut out, asked) = (Vec::new(), newcomer("ab-cd", Before::Nobody));
        assert!(confirm(&given(" AB-cd "), &asked, &mut out).is_ok());
        let error = confirm(&given("ab-ce"), &asked, &mut out).unwrap_err().to_string();
        assert!(error.contains("another cluster used the invitation"), "{error}");
        let yes = Accept { yes: true, ..Accept::default() };
        assert!(confirm(&yes, &asked, &mut out).is_ok());
    }

    #[test]
    fn a_new_key_in_the_place_of_an_accepted_one_is_never_waved_through() {
        let (mut out, asked) = (Vec::new(), newcomer("ab-cd", Before::OtherKey("12-34".into())));
        let yes = Accept { yes: true, ..Accept::default() };
        let error = confirm(&yes, &asked, &mut out).unwrap_err().to_string();
        assert!(error.contains("--fingerprint ab-cd") && !error.contains("--yes"), "{error}");
        let given = Accept { fingerprint: Some("ab-cd".into()), ..Accept::default() };
        assert!(confirm(&given, &asked, &mut out).is_ok());
    }
}
