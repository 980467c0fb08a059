//! Schemas of selectors, tolerations and conditions: Kubernetes' own shapes, with bounds and sentences.
//!
//! The types of `k8s-openapi` leave lists unbounded and operators free, so nonsense would pass
//! admission and fail later, in somebody else's cluster.

use schemars::{Schema, SchemaGenerator, json_schema};

/// A label selector as in `apimachinery`: at most 64 labels and 64 expressions.
#[must_use]
pub fn label_selector(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "nullable": true,
        "properties": {
            "matchLabels": {
                "description": "Labels that must have exactly these values.",
                "type": "object",
                "maxProperties": 64,
                "additionalProperties": {"type": "string", "maxLength": 63},
            },
            "matchExpressions": {
                "description": "Requirements on labels; all must hold.",
                "type": "array",
                "maxItems": 64,
                "items": {
                    "type": "object",
                    "required": ["key", "operator"],
                    "properties": {
                        "key": {
                            "description": "Key of the label.",
                            "type": "string",
                            "minLength": 1,
                            "maxLength": 317,
                        },
                        "operator": {
                            "description": "How the values are compared.",
                            "type": "string",
                            "enum": ["In", "NotIn", "Exists", "DoesNotExist"],
                        },
                        "values": {
                            "description": "Values for In and NotIn.",
                            "type": "array",
                            "maxItems": 64,
                            "items": {"type": "string", "maxLength": 63},
                        },
                    },
                    "x-kubernetes-validations": [{
                        "rule": "(self.operator in ['In', 'NotIn']) == (has(self.values) && self.values.size() > 0)",
                        "message": "In and NotIn need values, Exists and DoesNotExist must have none",
                    }],
                },
            },
        },
    })
}

/// Tolerations of pods, at most 16.
#[must_use]
pub fn tolerations(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": 16,
        "items": {
            "type": "object",
            "properties": {
                "key": {
                    "description": "Key of the taint; absent with Exists = every taint.",
                    "type": "string",
                    "maxLength": 316,
                },
                "operator": {
                    "description": "How the value is compared; default Equal.",
                    "type": "string",
                    "enum": ["Equal", "Exists"],
                },
                "value": {
                    "description": "Value that Equal compares.",
                    "type": "string",
                    "maxLength": 63,
                },
                "effect": {
                    "description": "Effect that is tolerated; absent = all.",
                    "type": "string",
                    "enum": ["NoSchedule", "PreferNoSchedule", "NoExecute"],
                },
                "tolerationSeconds": {
                    "description": "Seconds that NoExecute is tolerated; absent = for ever.",
                    "type": "integer",
                    "format": "int64",
                },
            },
            "x-kubernetes-validations": [
                {
                    "rule": "(has(self.operator) && self.operator == 'Exists') || (has(self.key) && self.key != '')",
                    "message": "a toleration needs a key, or operator: Exists",
                },
                {
                    "rule": "!has(self.operator) || self.operator != 'Exists' || !has(self.value) || self.value == ''",
                    "message": "a toleration with operator: Exists must have no value",
                },
                {
                    "rule": "!has(self.tolerationSeconds) || (has(self.effect) && self.effect == 'NoExecute')",
                    "message": "tolerationSeconds needs effect: NoExecute",
                },
            ],
        },
    })
}

/// Conditions as in `apimachinery`, at most 16, with bounds: they are copied between clusters.
#[must_use]
pub fn conditions(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": 16,
        "items": {
            "description": "Whether one thing holds, since when and why not.",
            "type": "object",
            "required": ["type", "status", "reason", "message", "lastTransitionTime"],
            "properties": {
                "type": {
                    "description": "What holds or does not.",
                    "type": "string",
                    "maxLength": 316,
                },
                "status": {
                    "description": "True, False or Unknown.",
                    "type": "string",
                    "enum": ["True", "False", "Unknown"],
                },
                "reason": {
                    "description": "One word.",
                    "type": "string",
                    "maxLength": 64,
                },
                "message": {
                    "description": "One sentence; may be empty.",
                    "type": "string",
                    "maxLength": 1024,
                },
                "lastTransitionTime": {
                    "description": "When its status changed last.",
                    "type": "string",
                    "format": "date-time",
                },
                "observedGeneration": {
                    "description": "The generation of the spec that it speaks of.",
                    "type": "integer",
                    "format": "int64",
                    "minimum": 0,
                },
            },
        },
    })
}
