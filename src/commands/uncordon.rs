//! `uncordon`: a member that was cordoned or drained takes new work again.

use std::io::Write;

use kube::Client;
use serde_json::json;

use super::standing::change;
use super::{Error, check_name, say};
use crate::api::{MemberCluster, TAINT_DRAIN};

/// Opens the member `name` again with the operator's credentials.
///
/// # Errors
/// If the member is unknown or leaves, or the API server refuses.
pub async fn run(client: Client, name: &str, out: &mut dyn Write) -> Result<(), Error> {
    check_name(name)?;
    match change(&client, name, opened).await? {
        true => say(out, &format!("{name} takes new work again")),
        false => say(out, &format!("{name} was not cordoned; there is nothing to do")),
    }
}

/// The spec without what `cordon` and `drain` set; `None` if neither did.
fn opened(member: &MemberCluster) -> Option<serde_json::Value> {
    let taints = &member.spec.taints;
    let others: Vec<_> = taints.iter().filter(|taint| taint.key != TAINT_DRAIN).collect();
    let closed = member.spec.unschedulable || others.len() < taints.len();
    closed.then(|| json!({ "unschedulable": false, "taints": others }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::MemberClusterSpec;

    #[test]
    fn only_what_cordon_and_drain_set_is_taken_back() {
        let member = |unschedulable: bool, keys: &[&str]| {
            let taint = |key: &&str| json!({ "key": key, "effect": "NoExecute" });
            let taints: Vec<_> = keys.iter().map(taint).collect();
            let taints = serde_json::from_value(json!(taints)).unwrap();
            let spec = MemberClusterSpec { unschedulable, taints, ..MemberClusterSpec::default() };
            MemberCluster::new("north", spec)
        };
        assert_eq!(opened(&member(false, &["mine"])), None);
        for (unschedulable, keys) in [(true, &["mine"][..]), (false, &["mine", TAINT_DRAIN])] {
            let opened = opened(&member(unschedulable, keys)).unwrap();
            assert_eq!(opened["unschedulable"], json!(false));
            assert_eq!(opened["taints"], json!([{ "key": "mine", "effect": "NoExecute" }]));
        }
    }
}
