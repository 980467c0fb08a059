//! Hashes by which two sides know that they speak of the same thing: contracts, hubs, clusters.

use std::fmt::Write as _;

use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::GpuLeaseSpec;

/// SHA-256 of the contract as JSON with sorted keys, without the digest itself and without
/// `withdrawn` and `adopted`, which come later: `sha256:<hex>`.
///
/// # Panics
/// Never: a spec is plain data.
#[must_use]
pub fn digest(spec: &GpuLeaseSpec) -> String {
    let mut contract = serde_json::to_value(spec).expect("a spec is plain data");
    if let Value::Object(fields) = &mut contract {
        fields.remove("digest");
        fields.remove("withdrawn");
        fields.remove("adopted");
    }
    let mut text = String::new();
    canonical(&contract, &mut text);
    format!("sha256:{}", hex(&text))
}

/// A hub's ID as the value of a label and the start of a name: 8 hex digits of its SHA-256.
#[must_use]
pub fn hub_label(hub_id: &str) -> String {
    hex(hub_id)[..8].to_owned()
}

/// Name of the `GuestLease` that records the lease `name` of a hub; hubs cannot collide.
#[must_use]
pub fn guest_name(hub_id: &str, name: &str) -> String {
    format!("{}-{name}", hub_label(hub_id))
}

/// What a member cluster says of itself: a hash of the UID of its namespace `kube-system`.
#[must_use]
pub fn cluster_identity(kube_system_uid: &str) -> String {
    text_hash(kube_system_uid)
}

/// SHA-256 of any text: `sha256:<hex>`.
#[must_use]
pub fn text_hash(text: &str) -> String {
    format!("sha256:{}", hex(text))
}

/// SHA-256 of `text` in hexadecimal.
pub(super) fn hex(text: &str) -> String {
    Sha256::digest(text.as_bytes()).iter().fold(String::with_capacity(64), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

/// Writes `value` as JSON with sorted keys, whatever order its maps keep.
fn canonical(value: &Value, text: &mut String) {
    match value {
        Value::Object(fields) => {
            let mut sorted: Vec<_> = fields.iter().collect();
            sorted.sort_unstable_by_key(|(key, _)| *key);
            text.push('{');
            for (n, (key, value)) in sorted.into_iter().enumerate() {
                text.push_str(if n == 0 { "" } else { "," });
                let _ = write!(text, "{}:", Value::from(key.as_str()));
                canonical(value, text);
            }
            text.push('}');
        }
        Value::Array(items) => {
            text.push('[');
            for (n, item) in items.iter().enumerate() {
                text.push_str(if n == 0 { "" } else { "," });
                canonical(item, text);
            }
            text.push(']');
        }
        leaf => {
            let _ = write!(text, "{leaf}");
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn spec(change: impl FnOnce(&mut Value)) -> GpuLeaseSpec {
        let mut spec = json!({
            "hubId": "hub.example.org",
            "job": {"namespace": "a", "name": "j", "uid": "u", "generation": 1},
            "pool": "lab", "epoch": {"incarnation": 1, "attempt": 2}, "indexes": "0-3",
            "size": 1, "gpu": {"count": 1, "model": "A100"}, "graceSeconds": 30,
            "activeDeadlineSeconds": 60, "digest": "",
            "template": {"spec": {"containers": [{"name": "c", "image": "i"}]}},
        });
        change(&mut spec);
        serde_json::from_value(spec).unwrap()
    }

    #[test]
    fn a_digest_covers_every_field_but_itself_and_what_comes_later() {
        let plain = digest(&spec(|_| ()));
        assert!(plain.starts_with("sha256:") && plain.len() == 71, "{plain}");
        assert_eq!(plain, digest(&spec(|spec| spec["digest"] = json!("sha256:other"))));
        let withdrawn = json!({"reason": "JobDeleted", "graceSeconds": 1});
        assert_eq!(plain, digest(&spec(|spec| spec["withdrawn"] = withdrawn)));
        let adopted = json!({"expiredAt": "2026-01-01T00:00:00Z"});
        assert_eq!(plain, digest(&spec(|spec| spec["adopted"] = adopted)));
        let changes: [fn(&mut Value); 6] = [
            |spec| spec["pool"] = json!("other"),
            |spec| spec["epoch"]["attempt"] = json!(3),
            |spec| spec["job"]["uid"] = json!("v"),
            |spec| spec["residency"] = json!(["EU"]),
            |spec| spec["template"]["spec"]["containers"][0]["image"] = json!("evil"),
            |spec| spec["template"]["spec"]["unknown"] = json!(null),
        ];
        for (n, change) in changes.into_iter().enumerate() {
            assert_ne!(plain, digest(&spec(change)), "change {n}");
        }
    }

    #[test]
    fn the_order_of_keys_does_not_matter_and_strings_are_escaped() {
        let read = |text: &str| serde_json::from_str::<Value>(text).unwrap();
        let mut text = String::new();
        canonical(&read(r#"{"b":[{"z":1,"a":"\"x"}],"a":{}}"#), &mut text);
        assert_eq!(text, r#"{"a":{},"b":[{"a":"\"x","z":1}]}"#);
    }
}
