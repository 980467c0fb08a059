//! Schemas of custom resources, read once: what they hold, what they leave out, what is filled in.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::rules::Rule;

/// The type of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Type {
    Any,
    Object,
    Array,
    Integer,
    Number,
    String,
    Boolean,
}

/// The shape of a value.
#[derive(Debug)]
pub(super) struct Schema {
    pub(super) kind: Type,
    /// A text that is a time.
    pub(super) time: bool,
    pub(super) nullable: bool,
    pub(super) default: Option<Value>,
    pub(super) properties: BTreeMap<String, Schema>,
    pub(super) additional: Option<Box<Schema>>,
    pub(super) items: Option<Box<Schema>>,
    pub(super) required: Vec<String>,
    pub(super) preserves: bool,
    pub(super) choices: Vec<Value>,
    pub(super) minimum: Option<f64>,
    pub(super) maximum: Option<f64>,
    pub(super) lengths: (Option<usize>, Option<usize>),
    /// Items of a list, or fields of a map.
    pub(super) counts: (Option<usize>, Option<usize>),
    /// Fields by which the items of a list differ.
    pub(super) keys: Vec<String>,
    pub(super) rules: Vec<Rule>,
}

/// What tells nothing about which values are valid.
const SILENT: &[&str] =
    &["description", "title", "x-kubernetes-map-type", "x-kubernetes-list-type"];

impl Schema {
    /// Reads a schema.
    ///
    /// # Panics
    /// If it holds a word that is not modelled.
    pub(super) fn read(source: &Value) -> Self {
        let mut schema = Self {
            kind: Type::Any,
            time: false,
            nullable: false,
            default: None,
            properties: BTreeMap::new(),
            additional: None,
            items: None,
            required: Vec::new(),
            preserves: false,
            choices: Vec::new(),
            minimum: None,
            maximum: None,
            lengths: (None, None),
            counts: (None, None),
            keys: Vec::new(),
            rules: Vec::new(),
        };
        for (key, value) in source.as_object().expect("a schema is an object") {
            schema.learn(key, value);
        }
        schema
    }

    fn learn(&mut self, key: &str, value: &Value) {
        let count = || value.as_u64().and_then(|count| usize::try_from(count).ok());
        let words = || {
            let all = value.as_array().into_iter().flatten();
            all.filter_map(Value::as_str).map(str::to_owned).collect::<Vec<_>>()
        };
        match key {
            "type" => self.kind = kind(value),
            "format" => self.time = *value == "date-time",
            "nullable" => self.nullable = *value == true,
            "default" => self.default = Some(value.clone()),
            "properties" => {
                let fields = value.as_object().into_iter().flatten();
                self.properties =
                    fields.map(|(key, value)| (key.clone(), Self::read(value))).collect();
            }
            "additionalProperties" => self.additional = Some(Box::new(Self::read(value))),
            "items" => self.items = Some(Box::new(Self::read(value))),
            "required" => self.required = words(),
            "x-kubernetes-preserve-unknown-fields" => self.preserves = *value == true,
            "x-kubernetes-list-map-keys" => self.keys = words(),
            "x-kubernetes-validations" => {
                self.rules = value.as_array().into_iter().flatten().map(Rule::read).collect();
            }
            "enum" => self.choices = value.as_array().cloned().unwrap_or_default(),
            "minimum" => self.minimum = value.as_f64(),
            "maximum" => self.maximum = value.as_f64(),
            "minLength" => self.lengths.0 = count(),
            "maxLength" => self.lengths.1 = count(),
            "minItems" | "minProperties" => self.counts.0 = count(),
            "maxItems" | "maxProperties" => self.counts.1 = count(),
            known if SILENT.contains(&known) => {}
            other => panic!("{other} in a schema is not modelled"),
        }
    }

    /// Drops what the schema does not know and fills in its defaults, in a whole object.
    pub(super) fn complete_root(&self, object: &mut Value) {
        let Some(fields) = object.as_object_mut() else { return };
        let own = |key: &str| matches!(key, "apiVersion" | "kind" | "metadata");
        fields.retain(|key, _| own(key) || self.properties.contains_key(key));
        for (key, schema) in self.properties.iter().filter(|(key, _)| !own(key)) {
            schema.complete_field(fields, key);
        }
    }

    fn complete_field(&self, fields: &mut Map<String, Value>, key: &str) {
        let absent = match fields.get(key) {
            None => true,
            Some(value) => value.is_null() && !self.nullable && self.default.is_some(),
        };
        if let Some(default) = self.default.as_ref().filter(|_| absent) {
            fields.insert(key.to_owned(), default.clone());
        }
        if let Some(value) = fields.get_mut(key) {
            self.complete(value);
        }
    }

    fn complete(&self, value: &mut Value) {
        match value {
            Value::Object(fields) => {
                if self.additional.is_none() && !self.preserves {
                    fields.retain(|key, _| self.properties.contains_key(key));
                }
                for (key, schema) in &self.properties {
                    schema.complete_field(fields, key);
                }
                if let Some(schema) = &self.additional {
                    fields.values_mut().for_each(|value| schema.complete(value));
                }
            }
            Value::Array(items) => {
                let schema = self.items.iter();
                schema.for_each(|schema| items.iter_mut().for_each(|item| schema.complete(item)));
            }
            _ => {}
        }
    }
}

fn kind(value: &Value) -> Type {
    match value.as_str() {
        Some("object") => Type::Object,
        Some("array") => Type::Array,
        Some("integer") => Type::Integer,
        Some("number") => Type::Number,
        Some("string") => Type::String,
        Some("boolean") => Type::Boolean,
        _ => panic!("the type {value} is not modelled"),
    }
}
