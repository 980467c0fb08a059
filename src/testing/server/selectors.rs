//! Label and field selectors.

use serde_json::Value;

use super::kinds::Kind;
use super::refusal::Refusal;

/// Which objects a request is about, besides namespace and name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Selector {
    labels: Vec<Label>,
    fields: Vec<Field>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Label {
    key: String,
    demand: Demand,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Demand {
    Exists,
    Absent,
    In(Vec<String>),
    NotIn(Vec<String>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Field {
    path: String,
    value: String,
    equal: bool,
}

impl Selector {
    /// Reads the selectors of a request for objects of `kind`.
    pub(super) fn read(kind: &Kind, labels: &str, fields: &str) -> Result<Self, Refusal> {
        let labels = split(labels).into_iter().map(label).collect();
        let fields = split(fields).into_iter().map(|text| field(kind, text));
        Ok(Self { labels, fields: fields.collect::<Result<_, _>>()? })
    }

    pub(super) fn selects(&self, object: &Value) -> bool {
        let labels = &object["metadata"]["labels"];
        self.labels.iter().all(|label| label.selects(labels[&label.key].as_str()))
            && self.fields.iter().all(|field| field.selects(object))
    }

    /// Whether it names one object, which a server then looks up.
    pub(super) fn is_single(&self) -> bool {
        self.fields.iter().any(|field| field.path == "metadata.name" && field.equal)
    }

    /// Whether an object is at least on the node that is asked for: a server has an index of that.
    pub(super) fn indexes(&self, object: &Value) -> bool {
        let node = self.fields.iter().filter(|field| field.path == "spec.nodeName" && field.equal);
        node.into_iter().all(|field| field.selects(object))
    }

    pub(super) fn is_everything(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }
}

impl Label {
    fn selects(&self, value: Option<&str>) -> bool {
        let among =
            |values: &[String]| value.is_some_and(|value| values.iter().any(|one| one == value));
        match &self.demand {
            Demand::Exists => value.is_some(),
            Demand::Absent => value.is_none(),
            Demand::In(values) => among(values),
            Demand::NotIn(values) => !among(values),
        }
    }
}

impl Field {
    fn selects(&self, object: &Value) -> bool {
        let value = self.path.split('.').fold(object, |value, key| &value[key]);
        (value.as_str().unwrap_or("") == self.value) == self.equal
    }
}

/// The parts of a selector: commas within brackets divide values.
fn split(text: &str) -> Vec<&str> {
    let (mut parts, mut start, mut inside) = (Vec::new(), 0, false);
    for (index, letter) in text.char_indices() {
        match letter {
            '(' => inside = true,
            ')' => inside = false,
            ',' if !inside => {
                parts.push(&text[start..index]);
                start = index + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts.retain(|part| !part.trim().is_empty());
    parts
}

fn label(text: &str) -> Label {
    let one = |value: &str| vec![value.trim().to_owned()];
    let many = |values: &str| {
        let inner = values.trim().trim_start_matches('(').trim_end_matches(')');
        inner.split(',').map(|value| value.trim().to_owned()).collect()
    };
    let (key, demand) = if let Some((key, values)) = text.split_once(" notin ") {
        (key, Demand::NotIn(many(values)))
    } else if let Some((key, values)) = text.split_once(" in ") {
        (key, Demand::In(many(values)))
    } else if let Some((key, value)) = text.split_once("!=") {
        (key, Demand::NotIn(one(value)))
    } else if let Some((key, value)) = text.split_once("==").or_else(|| text.split_once('=')) {
        (key, Demand::In(one(value)))
    } else if let Some(key) = text.trim().strip_prefix('!') {
        (key, Demand::Absent)
    } else {
        (text, Demand::Exists)
    };
    Label { key: key.trim().to_owned(), demand }
}

fn field(kind: &Kind, text: &str) -> Result<Field, Refusal> {
    let (path, value, equal) = if let Some((path, value)) = text.split_once("!=") {
        (path, value, false)
    } else if let Some((path, value)) = text.split_once("==").or_else(|| text.split_once('=')) {
        (path, value, true)
    } else {
        let message = format!("invalid selector: '{text}'; can't understand '{text}'");
        return Err(Refusal::bad_request(message));
    };
    let known = match (kind.plural.as_str(), path) {
        (_, "metadata.name" | "metadata.namespace") => true,
        ("pods", path) => matches!(path, "spec.nodeName" | "status.phase" | "spec.schedulerName"),
        ("nodes", path) => path == "spec.unschedulable",
        ("namespaces", path) => path == "status.phase",
        ("secrets", path) => path == "type",
        _ => false,
    };
    if !known {
        let message = format!("field label not supported: {path}");
        return Err(Refusal::bad_request(message));
    }
    Ok(Field { path: path.to_owned(), value: value.to_owned(), equal })
}
