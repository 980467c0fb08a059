//! Whether an object is valid: its metadata, and what the schema of a custom resource says.

use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use super::kinds::Kind;
use super::refusal::Cause;
use super::schema::{Schema, Type};
use super::{metadata, pods};

/// What is wrong with an object. What a change leaves as it was is not looked at: it was accepted.
pub(super) fn wrong(kind: &Kind, new: &Value, old: Option<&Value>) -> Vec<Cause> {
    let mut causes = Vec::new();
    if old.is_none_or(|old| old["metadata"] != new["metadata"]) {
        metadata::wrong(kind, new, &mut causes);
    }
    let Some(schema) = &kind.schema else {
        built_in(kind, new, &mut causes);
        return causes;
    };
    wrong_fields(schema, (new, old), &mut causes);
    if causes.iter().any(|cause| BLOCKING.contains(&cause.reason)) {
        let why = "some validation rules were not checked because the object was invalid; correct \
                   the existing errors to complete validation";
        causes.push(Cause::invalid("<nil>", &Value::Null, why));
    } else {
        rules(schema, (new, old), &mut causes);
    }
    causes
}

/// What keeps rules from being asked: they might not know what to do with it.
const BLOCKING: &[&str] = &[
    "FieldValueNotSupported",
    "FieldValueRequired",
    "FieldValueTooLong",
    "FieldValueTooMany",
    "FieldValueTypeInvalid",
];

/// Little of what a server says of its own kinds.
fn built_in(kind: &Kind, object: &Value, causes: &mut Vec<Cause>) {
    match kind.plural.as_str() {
        "configmaps" | "secrets" => {
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
            let keys = object["data"].as_object().into_iter().flatten().map(|(key, _)| key);
            for key in keys.filter(|key| key.is_empty() || !key.bytes().all(plain)) {
                let field = format!("data[{key}]");
                causes.push(Cause::invalid(&field, &json!(key), "a valid config key is needed"));
            }
        }
        "leases" => {
            let spec = &object["spec"];
            for (key, least) in [("leaseDurationSeconds", 1), ("leaseTransitions", 0)] {
                if spec[key].as_i64().is_some_and(|number| number < least) {
                    let why = format!("must be at least {least}");
                    causes.push(Cause::invalid(&format!("spec.{key}"), &spec[key], &why));
                }
            }
        }
        _ => {}
    }
}

fn wrong_fields(schema: &Schema, (new, old): Pair<'_>, causes: &mut Vec<Cause>) {
    for key in schema.required.iter().filter(|key| new.get(key).is_none()) {
        causes.push(Cause::required(key));
    }
    for (key, schema) in &schema.properties {
        let before = old.and_then(|old| old.get(key));
        if let Some(value) = new.get(key).filter(|_| key != "metadata") {
            schema.check(key, value, before, causes);
        }
    }
}

fn rules(schema: &Schema, (new, old): Pair<'_>, causes: &mut Vec<Cause>) {
    schema.check_rules("", new, old, causes);
    for (key, schema) in schema.properties.iter().filter(|(key, _)| *key != "metadata") {
        let before = old.and_then(|old| old.get(key));
        if let Some(value) = new.get(key) {
            schema.walk_rules(key, value, before, causes);
        }
    }
}

/// A value, and what it was before a change.
type Pair<'v> = (&'v Value, Option<&'v Value>);

/// What a change of the specification may not do.
pub(super) fn wrong_change(kind: &Kind, new: &Value, old: &Value, causes: &mut Vec<Cause>) {
    let fixed: &[&str] = match kind.plural.as_str() {
        "pods" => return pods::wrong_change(new, old, causes),
        "secrets" => &["type"],
        "priorityclasses" => &["preemptionPolicy"],
        "rolebindings" => &["roleRef"],
        _ => &[],
    };
    for key in fixed.iter().filter(|key| new[**key] != old[**key]) {
        causes.push(Cause::invalid(key, &new[*key], "field is immutable"));
    }
    if kind.plural == "priorityclasses" && new["value"] != old["value"] {
        causes.push(Cause::forbidden("value", "may not be changed in an update."));
    }
    if matches!(kind.plural.as_str(), "secrets" | "configmaps") && old["immutable"] == true {
        for key in ["data", "binaryData", "immutable"] {
            if new[key] != old[key] {
                causes.push(Cause::forbidden(key, "field is immutable when `immutable` is set"));
            }
        }
    }
}

impl Schema {
    fn check(&self, path: &str, value: &Value, old: Option<&Value>, causes: &mut Vec<Cause>) {
        if old == Some(value) {
            return;
        }
        if value.is_null() && self.nullable {
            // A choice has to name it even so.
            return self.check_alone(path, value, causes);
        }
        let time = |text: &str| text.parse::<Timestamp>().is_ok();
        if !self.kind.is(value) || self.time && !value.as_str().is_some_and(time) {
            let why = format!("{path} in body must be of type {}", self.kind.name());
            causes.push(Cause {
                reason: "FieldValueTypeInvalid",
                ..Cause::invalid(path, value, &why)
            });
            return;
        }
        self.check_alone(path, value, causes);
        match value {
            Value::Object(fields) => {
                for key in self.required.iter().filter(|key| !fields.contains_key(*key)) {
                    causes.push(Cause::required(&format!("{path}.{key}")));
                }
                for (key, value) in fields {
                    let before = old.and_then(|old| old.get(key));
                    let schema = self.properties.get(key).or(self.additional.as_deref());
                    if let Some(schema) = schema {
                        schema.check(&format!("{path}.{key}"), value, before, causes);
                    }
                }
            }
            Value::Array(items) => {
                for (index, item) in items.iter().enumerate() {
                    let schema = self.items.iter();
                    schema.for_each(|schema| {
                        schema.check(&format!("{path}[{index}]"), item, None, causes);
                    });
                }
                self.check_keys(path, items, causes);
            }
            _ => {}
        }
    }

    fn walk_rules(&self, path: &str, value: &Value, old: Option<&Value>, causes: &mut Vec<Cause>) {
        if old == Some(value) {
            return;
        }
        self.check_rules(path, value, old, causes);
        match value {
            Value::Object(fields) => {
                for (key, value) in fields {
                    let before = old.and_then(|old| old.get(key));
                    let schema = self.properties.get(key).or(self.additional.as_deref());
                    if let Some(schema) = schema {
                        schema.walk_rules(&format!("{path}.{key}"), value, before, causes);
                    }
                }
            }
            Value::Array(items) => {
                for (schema, (index, item)) in self
                    .items
                    .iter()
                    .flat_map(|schema| items.iter().enumerate().map(move |item| (schema, item)))
                {
                    schema.walk_rules(&format!("{path}[{index}]"), item, None, causes);
                }
            }
            _ => {}
        }
    }

    fn check_rules(&self, path: &str, value: &Value, old: Option<&Value>, causes: &mut Vec<Cause>) {
        let old = old.filter(|old| !old.is_null());
        let asked = self.rules.iter().filter(|rule| !rule.transition || old.is_some());
        for rule in asked.filter(|_| !value.is_null()) {
            if !rule.holds(value, old) {
                let field = if path.is_empty() { "<nil>" } else { path };
                causes.push(Cause::invalid(field, value, &rule.message));
            }
        }
    }

    /// What can be said of a value without looking into it.
    fn check_alone(&self, path: &str, value: &Value, causes: &mut Vec<Cause>) {
        if !self.choices.is_empty() && !self.choices.contains(value) {
            let all: Vec<String> = self.choices.iter().map(ToString::to_string).collect();
            let message =
                format!("Unsupported value: {value}: supported values: {}", all.join(", "));
            let field = path.to_owned();
            causes.push(Cause { reason: "FieldValueNotSupported", field, message });
        }
        if let Some(number) = value.as_f64() {
            if let Some(least) = self.minimum.filter(|least| number < *least) {
                let why = format!("{path} in body should be greater than or equal to {least}");
                causes.push(Cause::invalid(path, value, &why));
            }
            if let Some(most) = self.maximum.filter(|most| number > *most) {
                let why = format!("{path} in body should be less than or equal to {most}");
                causes.push(Cause::invalid(path, value, &why));
            }
        }
        let (size, (least, most), what) = match value {
            Value::String(text) => (text.chars().count(), self.lengths, "chars long"),
            Value::Array(items) => (items.len(), self.counts, "items"),
            Value::Object(fields) => (fields.len(), self.counts, "properties"),
            _ => return,
        };
        if let Some(least) = least.filter(|least| size < *least) {
            let why = format!("{path} in body should be at least {least} {what}");
            causes.push(Cause::invalid(path, value, &why));
        }
        if let Some(most) = most.filter(|most| size > *most) {
            let message = format!("Too long: may not be more than {most} {what}");
            let reason = "FieldValueTooLong";
            causes.push(Cause { reason, field: path.to_owned(), message });
        }
    }

    fn check_keys(&self, path: &str, items: &[Value], causes: &mut Vec<Cause>) {
        if self.keys.is_empty() {
            return;
        }
        let key = |item: &Value| self.keys.iter().map(|key| item[key].clone()).collect::<Value>();
        for (index, item) in items.iter().enumerate() {
            if items[..index].iter().any(|other| key(other) == key(item)) {
                let field = format!("{path}[{index}]");
                let message = format!("Duplicate value: {}", json!(key(item)));
                causes.push(Cause { reason: "FieldValueDuplicate", field, message });
            }
        }
    }
}

impl Type {
    fn is(self, value: &Value) -> bool {
        match self {
            Self::Any => true,
            Self::Object => value.is_object(),
            Self::Array => value.is_array(),
            Self::Integer => value.is_i64() || value.is_u64(),
            Self::Number => value.is_number(),
            Self::String => value.is_string(),
            Self::Boolean => value.is_boolean(),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Any => "any",
            Self::Object => "object",
            Self::Array => "array",
            Self::Integer => "integer",
            Self::Number => "number",
            Self::String => "string",
            Self::Boolean => "boolean",
        }
    }
}
