//! Taints of members and what jobs tolerate: who may be placed on a member, and who must go.

use crate::api::gpujob::{ClusterToleration, TolerationOperator};
use crate::api::member::TaintEffect;
use crate::api::{GpuJob, MemberCluster, TAINT_DRAIN, TAINT_NOT_READY, TAINT_UNREACHABLE, reasons};
use crate::engine::model::{Effect, Taint, Toleration};
use crate::engine::rules::tolerated;

/// Taints that repeat why a member is closed: for people to read, no toleration opens it.
const CLOSING: [&str; 3] = [TAINT_NOT_READY, TAINT_UNREACHABLE, TAINT_DRAIN];

impl From<TaintEffect> for Effect {
    fn from(effect: TaintEffect) -> Self {
        match effect {
            TaintEffect::NoSchedule => Self::NoSchedule,
            TaintEffect::NoExecute => Self::NoExecute,
        }
    }
}

/// What `job` tolerates.
#[must_use]
pub fn tolerations(job: &GpuJob) -> Vec<Toleration> {
    let placement = job.spec.placement.iter();
    placement.flat_map(|placement| &placement.cluster_tolerations).map(toleration).collect()
}

fn toleration(toleration: &ClusterToleration) -> Toleration {
    let value = match toleration.operator {
        TolerationOperator::Exists => None,
        TolerationOperator::Equal => Some(toleration.value.clone().unwrap_or_default()),
    };
    let effect = toleration.effect.map(Effect::from);
    Toleration { key: toleration.key.clone().filter(|key| !key.is_empty()), value, effect }
}

/// Taints of `member` that jobs may tolerate.
#[must_use]
pub fn taints(member: &MemberCluster) -> Vec<Taint> {
    let open = member.spec.taints.iter().filter(|taint| !CLOSING.contains(&taint.key.as_str()));
    let taint = |taint: &crate::api::member::MemberTaint| Taint {
        key: taint.key.clone(),
        value: taint.value.clone(),
        effect: taint.effect.into(),
    };
    open.map(taint).collect()
}

/// Whether everything on `member` goes, whatever it tolerates.
#[must_use]
pub fn is_drained(member: &MemberCluster) -> bool {
    let drains = |effect| effect == TaintEffect::NoExecute;
    member.spec.taints.iter().any(|taint| taint.key == TAINT_DRAIN && drains(taint.effect))
}

/// Why what runs on `member` must go, if it tolerates these; `None` if it may stay.
#[must_use]
pub fn expelled(member: &MemberCluster, tolerations: &[Toleration]) -> Option<&'static str> {
    let evicts =
        |taint: &Taint| taint.effect == Effect::NoExecute && !tolerated(taint, tolerations);
    if member.metadata.deletion_timestamp.is_some() {
        Some(reasons::MEMBER_LEFT)
    } else if is_drained(member) {
        Some(reasons::MEMBER_DRAINED)
    } else if taints(member).iter().any(evicts) {
        Some(reasons::MEMBER_TAINTED)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn member(taints: &Value) -> MemberCluster {
        serde_json::from_value(json!({ "apiVersion": "idlewild.dev/v1alpha1",
            "kind": "MemberCluster", "metadata": { "name": "north" },
            "spec": { "taints": taints } }))
        .unwrap()
    }

    fn tolerates(tolerations: &Value) -> Vec<Toleration> {
        let read = |one: &Value| toleration(&serde_json::from_value(one.clone()).unwrap());
        tolerations.as_array().unwrap().iter().map(read).collect()
    }

    #[test]
    fn only_what_is_not_tolerated_for_its_effect_expels() {
        let taint = |key: &str, effect: &str| json!([{ "key": key, "effect": effect }]);
        let all = json!([{ "operator": "Exists" }]);
        let keeps = json!([{ "key": "k", "operator": "Exists", "effect": "NoSchedule" }]);
        let stays = json!([{ "key": "k", "operator": "Exists", "effect": "NoExecute" }]);
        for (taints, tolerations, want) in [
            (json!([]), json!([]), None),
            (taint("k", "NoSchedule"), json!([]), None),
            (taint("k", "NoExecute"), json!([]), Some("MemberTainted")),
            (taint("k", "NoExecute"), keeps, Some("MemberTainted")),
            (taint("k", "NoExecute"), stays, None),
            (taint("k", "NoExecute"), all.clone(), None),
            (taint(TAINT_DRAIN, "NoExecute"), all.clone(), Some("MemberDrained")),
            (taint(TAINT_DRAIN, "NoSchedule"), json!([]), None),
            (taint(TAINT_UNREACHABLE, "NoExecute"), json!([]), None),
        ] {
            let found = expelled(&member(&taints), &tolerates(&tolerations));
            assert_eq!(found, want, "{taints} {tolerations}");
        }
    }
}
