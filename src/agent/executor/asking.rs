//! Pods and leases → what they ask for, in the engine's words.

use std::collections::BTreeSet;

use super::answering;
use super::books::Terms;
use super::pod::{Pod, Role};
use super::state::is_over;
use crate::api::{GuestLease, gpus};
use crate::engine::fragmentation::Ask;
use crate::engine::idle::{Gpus, Need};

/// What a pod of the owner asks for. Models are his secret: where his pod may go is not asked here, so
/// any will do. Slices are left out, as only a node says of which model they are.
pub(super) fn of_owner(pod: &Pod) -> Option<Ask> {
    let owners = !matches!(pod.role, Role::Guest(_));
    let count = pod.load.gpus.get(gpus::GPU_RESOURCE).filter(|count| owners && **count > 0)?;
    let (milli_cpu, memory) = (pod.load.milli_cpu, pod.load.memory);
    let need = Need { gpus: Gpus::Whole(*count), milli_cpu, memory };
    Some(Ask { need, models: None })
}

/// What each pod of a lease asks for, and how many there are, unless it is over or makes no sense.
pub(super) fn of_guest(lease: &GuestLease) -> Option<(Ask, u64)> {
    if is_over(lease) {
        return None;
    }
    let terms = Terms::read(&lease.spec).ok()?;
    let need = answering::need(lease, &terms)?;
    let models = Some(BTreeSet::from([lease.spec.gpu.model.clone()]));
    let pods = u64::from(terms.size) * u64::from(terms.indexes.len());
    Some((Ask { need: need.into(), models }, pods))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(resource: &str, namespace: &str) -> Pod {
        let pod = json!({"metadata": {"uid": "u", "namespace": namespace}, "spec": {"nodeName": "n",
            "containers": [{"name": "c", "resources": {"requests":
                {"cpu": "2", "memory": "1Gi", resource: "4"}}}]}});
        Pod::slim(serde_json::from_value(pod).unwrap(), "guests").unwrap()
    }

    #[test]
    fn the_owners_pods_count_by_whole_gpus() {
        let asked = of_owner(&pod(gpus::GPU_RESOURCE, "team")).unwrap();
        let need = Need { gpus: Gpus::Whole(4), milli_cpu: 2_000, memory: 1 << 30 };
        assert_eq!(asked, Ask { need, models: None });
        assert_eq!(of_owner(&pod("nvidia.com/mig-1g.5gb", "team")), None);
    }
}
