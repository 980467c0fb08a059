//! Requests to join: what they are told, and when the invitation behind one is over.

use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;

use super::jobs::claim;
use super::state::{State, namespace_of};
use crate::api::conditions;
use crate::api::member::{JoinRequestStatus, holder};
use crate::api::{HEARTBEAT_LEASE, JOIN_REQUEST, JoinRequest, MemberCluster};

/// An operator accepted it.
pub(super) const ACCEPTED: &str = "Accepted";
/// Its poster uses the rights that it brought, and the invitation is over.
const ENROLLED: &str = "Enrolled";

/// What the member's request to join is to be told, if that is news.
pub(super) fn answer(
    state: &State,
    member: &MemberCluster,
    used: bool,
    wall: Timestamp,
) -> Option<(JoinRequest, JoinRequestStatus)> {
    let request = request_of(state, member)?;
    let accepted = member.spec.fingerprint.as_ref() == Some(&request.spec.fingerprint);
    let mut status = request.status.clone().unwrap_or_default();
    status.observed_generation = request.metadata.generation;
    let told = match member.spec.accepted && accepted {
        true => claim(ACCEPTED, true, "", ""),
        false => {
            claim(ACCEPTED, false, "WaitingForAcceptance", "an operator compares fingerprints")
        }
    };
    conditions::set(&mut status.conditions, told, request.metadata.generation, wall);
    if used {
        let told = claim(ENROLLED, true, "", "");
        conditions::set(&mut status.conditions, told, request.metadata.generation, wall);
    }
    (request.status.as_ref() != Some(&status)).then(|| (request.clone(), status))
}

/// Whether the member is known to use the rights that `request` brought.
pub(super) fn is_enrolled(request: &JoinRequest) -> bool {
    let status = request.status.as_ref();
    status.is_some_and(|status| conditions::is_true(&status.conditions, ENROLLED))
}

fn request_of<'a>(state: &'a State, member: &MemberCluster) -> Option<&'a JoinRequest> {
    state.joins.get(&(namespace_of(&member.name_any()), JOIN_REQUEST.to_owned()))
}

/// Whether the member sends heartbeats by the rights that its present request brought, which is told
/// once: from then on nobody else may use that invitation, be it another one or the first.
pub(super) fn has_enrolled(state: &State, member: &MemberCluster) -> bool {
    let name = member.name_any();
    let Some(request) = request_of(state, member) else { return false };
    let beat = state.heartbeats.get(&(namespace_of(&name), HEARTBEAT_LEASE.to_owned()));
    let signed = beat.and_then(|beat| beat.spec.as_ref()?.holder_identity.as_deref());
    !is_enrolled(request) && signed.is_some_and(|it| it == holder(&name, request.uid().as_deref()))
}

/// Whether a request of the member is there by which nobody is enrolled yet.
pub(super) fn is_pending(state: &State, member: &MemberCluster) -> bool {
    request_of(state, member).is_some_and(|request| !is_enrolled(request))
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use serde::de::DeserializeOwned;
    use serde_json::{Value, json};

    use super::*;
    use crate::cluster::Seen;
    use crate::hub::facts::Event;

    fn read<T: DeserializeOwned>(value: Value) -> T {
        serde_json::from_value(value).unwrap()
    }

    fn listed<T>(object: T) -> [Seen<T>; 3] {
        [Seen::Listing, Seen::Object(object), Seen::Listed]
    }

    fn member() -> MemberCluster {
        read(json!({ "apiVersion": "idlewild.dev/v1alpha1", "kind": "MemberCluster",
            "metadata": { "name": "north" }, "spec": { "accepted": true, "fingerprint": "p" } }))
    }

    /// A hub that holds the request `u2` and a heartbeat of `holder`.
    fn state(holder: &str, status: &Value) -> State {
        let mut state = State::default();
        let request = json!({ "apiVersion": "idlewild.dev/v1alpha1", "kind": "JoinRequest",
            "metadata": { "namespace": "member-north", "name": "join", "uid": "u2" },
            "spec": { "fingerprint": "p", "clusterIdentity": "c", "publicKey": "k", "proof": "s",
                "agentVersion": "1" },
            "status": status });
        let beat = json!({ "metadata": { "namespace": "member-north", "name": "member" },
            "spec": { "holderIdentity": holder, "renewTime": "2026-01-01T00:00:00.000000Z" } });
        let now = Instant::now();
        for seen in listed(read(request)) {
            state.take(Event::Join(seen), now);
        }
        for seen in listed(read(beat)) {
            state.take(Event::Heartbeat(seen), now);
        }
        state
    }

    #[test]
    fn only_a_beat_by_the_rights_of_this_request_ends_its_invitation() {
        for (holder, enrolled) in [
            ("north", false),
            ("north u1", false),
            ("north u2", true),
            ("north-2 u2", false),
            ("south u2", false),
        ] {
            let state = state(holder, &json!({}));
            assert_eq!(has_enrolled(&state, &member()), enrolled, "{holder}");
            assert!(is_pending(&state, &member()));
        }
    }

    #[test]
    fn it_is_told_once() {
        let wall = Timestamp::UNIX_EPOCH;
        let before = state("north u2", &json!({}));
        let told = answer(&before, &member(), true, wall).unwrap().1;
        assert!(conditions::is_true(&told.conditions, ENROLLED));
        let after = state("north u2", &serde_json::to_value(&told).unwrap());
        assert!(!has_enrolled(&after, &member()) && !is_pending(&after, &member()));
        assert!(answer(&after, &member(), false, wall).is_none(), "nothing is news");
    }
}
