//! Who asks to join, and who had that place before.

use kube::{Api, Client};

use super::super::{Error, namespace_of};
use crate::api::applicant::Applicant;
use crate::api::{JOIN_REQUEST, JoinRequest, MemberCluster};
use crate::cluster::within;

/// Where it stands whether a cluster asks to join as `name`.
pub(super) struct Asking<'a> {
    pub(super) name: &'a str,
    pub(super) members: Api<MemberCluster>,
    requests: Api<JoinRequest>,
    hub_id: &'a str,
}

impl<'a> Asking<'a> {
    pub(super) fn new(client: &Client, name: &'a str, hub_id: &'a str) -> Self {
        let requests = Api::namespaced(client.clone(), &namespace_of(name));
        Self { name, members: Api::all(client.clone()), requests, hub_id }
    }

    /// Who asks now.
    pub(super) async fn look(&self) -> Result<Asked, Error> {
        let member = within("get member", self.members.get_opt(self.name)).await?;
        let request = within("get join request", self.requests.get_opt(JOIN_REQUEST)).await?;
        asked(self.name, self.hub_id, member, request)
    }
}

/// A cluster that asks to join, and whom it says it is.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) member: MemberCluster,
    pub(super) fingerprint: String,
    pub(super) cluster_identity: String,
    pub(super) before: Before,
}

/// Who was accepted under that name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Before {
    /// Nobody.
    Nobody,
    /// The same cluster with the same key.
    Same,
    /// The same cluster with another key, and so with this fingerprint.
    OtherKey(String),
}

impl Asked {
    /// True if the same cluster with the same key has the same place as in `other`.
    pub(super) fn is_as(&self, other: &Self) -> bool {
        (&self.fingerprint, &self.cluster_identity, &self.before)
            == (&other.fingerprint, &other.cluster_identity, &other.before)
    }

    /// What the operator reads first.
    pub(super) fn sentence(&self) -> String {
        let (name, print) =
            (self.member.metadata.name.as_deref().unwrap_or_default(), &self.fingerprint);
        match &self.before {
            Before::Nobody => format!("{name} asks to join with fingerprint {print}"),
            Before::Same => format!("{name} was accepted already, with fingerprint {print}"),
            Before::OtherKey(old) => format!(
                "{name} was accepted with fingerprint {old}; its agent has a new key now and asks with \
                 fingerprint {print}. Accepting it ends all tokens of before"
            ),
        }
    }
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
    let (cluster_identity, public_key) = (request.spec.cluster_identity, request.spec.public_key);
    let applicant = Applicant {
        cluster_identity: &cluster_identity,
        public_key: &public_key,
        hub_id,
        member: name,
    };
    let fingerprint = applicant.fingerprint();
    if request.spec.fingerprint != fingerprint {
        return refuse(format!(
            "the request of {name} shows fingerprint {}, but its content has {fingerprint}: do not \
             accept it, invite {name} again",
            request.spec.fingerprint
        ));
    }
    if !applicant.is_proven(&request.spec.proof) {
        return refuse(format!(
            "the request of {name} is not signed by the key that it names: somebody else copied it; do \
             not accept it, invite {name} again"
        ));
    }
    let before = before(&member, &fingerprint, &cluster_identity).ok_or_else(|| {
        Error::Refused(format!(
            "{name} was accepted with another fingerprint, {}: another cluster asks now, with \
             {fingerprint}; to let it in, first kubectl idlewild leave {name}",
            member.spec.fingerprint.as_deref().unwrap_or_default()
        ))
    })?;
    Ok(Asked { member, fingerprint, cluster_identity, before })
}

/// Who was accepted before; `None`: another cluster.
fn before(member: &MemberCluster, fingerprint: &str, cluster_identity: &str) -> Option<Before> {
    let accepted = member.spec.fingerprint.as_deref().filter(|_| member.spec.accepted);
    let same_cluster = member.spec.cluster_identity.as_deref() == Some(cluster_identity);
    match accepted {
        None => Some(Before::Nobody),
        Some(accepted) if accepted == fingerprint => Some(Before::Same),
        Some(accepted) => same_cluster.then(|| Before::OtherKey(accepted.to_owned())),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use ring::rand::SystemRandom;
    use ring::signature::{Ed25519KeyPair, KeyPair};

    use super::*;
    use crate::api::applicant::{encoded, public_key};
    use crate::api::{JoinRequestSpec, MemberClusterSpec};

    pub(in super::super) const IDENTITY: &str = "sha256:abc";

    pub(in super::super) fn member(
        accepted: Option<&str>,
        identity: Option<&str>,
    ) -> MemberCluster {
        MemberCluster::new(
            "north",
            MemberClusterSpec {
                accepted: accepted.is_some(),
                fingerprint: accepted.map(ToOwned::to_owned),
                cluster_identity: identity.map(ToOwned::to_owned),
                ..MemberClusterSpec::default()
            },
        )
    }

    pub(in super::super) fn request() -> JoinRequest {
        let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        let pair = Ed25519KeyPair::from_pkcs8(document.as_ref()).unwrap();
        let key = public_key(pair.public_key().as_ref());
        let us = Applicant {
            cluster_identity: IDENTITY,
            public_key: &key,
            hub_id: "hub",
            member: "north",
        };
        let spec = JoinRequestSpec {
            fingerprint: us.fingerprint(),
            proof: encoded(pair.sign(us.statement().as_bytes()).as_ref()),
            cluster_identity: IDENTITY.into(),
            public_key: key.clone(),
            agent_version: "1".into(),
        };
        JoinRequest::new(JOIN_REQUEST, spec)
    }

    #[test]
    fn each_way_not_to_be_in_order_has_its_sentence() {
        let forged = |edit: fn(&mut JoinRequestSpec)| {
            let mut request = request();
            edit(&mut request.spec);
            Some(request)
        };
        let fresh = || Some(member(None, None));
        for (member, request, want) in [
            (None, None, "invite it first"),
            (fresh(), None, "has not asked to join yet"),
            (fresh(), forged(|it| it.fingerprint = "other".into()), "do not accept"),
            (fresh(), forged(|it| it.cluster_identity = "sha256:x".into()), "do not accept"),
            (fresh(), forged(|it| it.public_key = "ed25519:AAAA".into()), "do not accept"),
            (fresh(), forged(|it| it.proof = "AAAA".into()), "not signed by the key"),
            (Some(member(Some("other"), None)), Some(request()), "another cluster asks"),
            (Some(member(Some("other"), Some("sha256:x"))), Some(request()), "first kubectl"),
        ] {
            let error = asked("north", "hub", member, request).unwrap_err().to_string();
            assert!(error.contains(want), "{error}");
        }
    }

    #[test]
    fn who_was_there_before_is_told_apart() {
        let request = request();
        let print = request.spec.fingerprint.clone();
        for (member, want) in [
            (member(None, None), Before::Nobody),
            (member(Some(&print), None), Before::Same),
            (member(Some("12-34"), Some(IDENTITY)), Before::OtherKey("12-34".into())),
        ] {
            let asked = asked("north", "hub", Some(member), Some(request.clone())).unwrap();
            assert_eq!((asked.before.clone(), &asked.fingerprint), (want, &print));
            assert!(asked.sentence().contains(&print));
        }
        let stranger = asked("south", "hub", Some(member(None, None)), Some(request)).unwrap_err();
        assert!(stranger.to_string().contains("do not accept"), "a request for another name");
    }
}
