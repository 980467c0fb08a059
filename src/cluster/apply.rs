//! Writing statuses: only what changed, and only onto what was read.

use kube::api::{Patch, PatchParams};
use kube::{Api, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use super::client::within;
use super::error::Error;

/// The merge patch (RFC 7386) that turns `old` into `new`; `None` if nothing differs.
#[must_use]
pub fn difference(old: &Value, new: &Value) -> Option<Value> {
    let (Value::Object(before), Value::Object(after)) = (old, new) else {
        return (old != new).then(|| new.clone());
    };
    let mut patch = Map::new();
    for (key, value) in after {
        match before.get(key) {
            Some(old) => {
                if let Some(change) = difference(old, value) {
                    patch.insert(key.clone(), change);
                }
            }
            None => drop(patch.insert(key.clone(), value.clone())),
        }
    }
    for key in before.keys().filter(|key| !after.contains_key(*key)) {
        patch.insert(key.clone(), Value::Null);
    }
    (!patch.is_empty()).then_some(Value::Object(patch))
}

/// Writes `new` as the status of `object`, whose status is now `old`, with its resourceVersion as
/// precondition. `Ok(None)`: nothing differs and nothing was written.
///
/// # Errors
/// If the API server refuses, somebody else wrote first (`Conflict`), or the outcome is unknown.
pub async fn status<K, S>(
    api: &Api<K>,
    object: &K,
    old: Option<&S>,
    new: &S,
    what: &'static str,
) -> Result<Option<K>, Error>
where
    K: Resource + Clone + DeserializeOwned + std::fmt::Debug,
    S: Serialize,
{
    let encode = |status: &S| {
        serde_json::to_value(status)
            .map_err(|source| Error::call(what, kube::Error::SerdeError(source)))
    };
    let before = old.map_or_else(|| Ok(json!({})), encode)?;
    let Some(change) = difference(&before, &encode(new)?) else { return Ok(None) };
    let patch = json!({
        "metadata": { "uid": object.uid(), "resourceVersion": object.resource_version() },
        "status": change,
    });
    let params = PatchParams::default();
    let name = object.name_any();
    within(what, api.patch_status(&name, &params, &Patch::Merge(&patch))).await.map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_holds_only_what_changed_and_nulls_what_went() {
        let old = json!({"a": 1, "b": {"c": 2, "d": 3}, "e": [1]});
        let new = json!({"a": 1, "b": {"c": 4}, "e": [1, 2], "f": "x"});
        let patch = json!({"b": {"c": 4, "d": null}, "e": [1, 2], "f": "x"});
        assert_eq!(difference(&old, &new), Some(patch));
        assert_eq!(difference(&new, &new), None);
    }
}
