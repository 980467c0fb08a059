//! The template as jobs and leases carry it.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

/// A v1 `PodTemplateSpec` with whatever fields it was written with, those of later Kubernetes too.
///
/// Kept as JSON text: parsed, it takes ten times the memory, and a hub holds one for each job but
/// reads it once. Copies share the text.
#[derive(Clone, PartialEq, Eq)]
pub struct PodTemplate(Arc<str>);

impl PodTemplate {
    /// The template, parsed.
    ///
    /// # Panics
    /// Never: the text was written from a value.
    #[must_use]
    pub fn value(&self) -> Value {
        serde_json::from_str(&self.0).expect("written from a value")
    }
}

impl From<&Value> for PodTemplate {
    fn from(value: &Value) -> Self {
        Self(value.to_string().into())
    }
}

impl From<Value> for PodTemplate {
    fn from(value: Value) -> Self {
        Self::from(&value)
    }
}

/// No template.
impl Default for PodTemplate {
    fn default() -> Self {
        Self::from(Value::Null)
    }
}

impl fmt::Debug for PodTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for PodTemplate {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.value().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for PodTemplate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Value::deserialize(deserializer).map(Self::from)
    }
}

/// A schema that keeps every field: the template outlives what this build knows of pods.
impl JsonSchema for PodTemplate {
    fn schema_name() -> Cow<'static, str> {
        "PodTemplate".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn it_keeps_every_field_and_number() {
        let given = json!({"spec": {"containers": [{"name": "c", "x": 1e300, "y": 18_446_744_073_709_551_615_u64}],
            "later": null, "": "\u{0}\"\\é"}});
        let template: PodTemplate = serde_json::from_value(given.clone()).unwrap();
        assert_eq!(template.value(), given);
        assert_eq!(serde_json::to_value(&template).unwrap(), given);
        assert_eq!(template, PodTemplate::from(&given));
    }
}
