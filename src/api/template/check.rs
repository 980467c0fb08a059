//! The checker: walks a template along the table and says everything that is wrong with it.

use serde_json::{Map, Value};

use super::table::{
    DESCRIBING_PREFIX, Form, List, Object, RESERVED_DOMAINS, RESERVED_KEYS, RESERVED_NAMES,
    RESERVED_PREFIXES, SANDBOX_ANNOTATIONS, Shape, VARIABLE_FIELDS, VOLUME_FIELDS,
};
use super::words;
use crate::api::quantity;

/// More than 1P of anything is a slip of the pen.
const MOST_MILLI: u64 = 1_000_000_000_000_000_000;

/// Adds to `found` a sentence for everything at `path` that is not of `shape`.
pub(super) fn walk(shape: Shape, value: &Value, path: &str, found: &mut Vec<String>) {
    match (shape, value) {
        (Shape::Object(object), Value::Object(map)) => fields(object, map, path, found),
        (Shape::List(list), Value::Array(items)) => elements(list, items, path, found),
        (Shape::Labels, Value::Object(map)) => keys(map, path, found, |key, value| {
            if value.as_str().is_some_and(label_value) {
                None
            } else {
                Some((key, words::LABEL_VALUE))
            }
        }),
        (Shape::Annotations, Value::Object(map)) => keys(map, path, found, |key, value| {
            if value.is_string() { None } else { Some((key, words::ANNOTATION_VALUE)) }
        }),
        (Shape::Text(Form::Variable), Value::String(name)) if reserved_variable(name) => {
            found.push(format!("{path}: {}", words::RESERVED_VARIABLE));
        }
        _ if leaf(shape, value) => {}
        _ => found.push(format!("{path}: {}", words::demand(shape))),
    }
}

fn fields(object: &Object, map: &Map<String, Value>, path: &str, found: &mut Vec<String>) {
    for key in map.keys() {
        if object.fields.iter().any(|field| field.name == key) {
            continue;
        }
        let remedy = words::refused(object, key)
            .map_or_else(|| words::unknown(object), |remedy| format!("is not allowed: {remedy}"));
        found.push(format!("{path}.{key}: {remedy}"));
    }
    for field in object.fields {
        match map.get(field.name) {
            Some(value) => walk(field.shape, value, &format!("{path}.{}", field.name), found),
            None if field.required => {
                found.push(format!("{path}.{}: {}", field.name, words::missing(object)));
            }
            None => {}
        }
    }
    if let Some((least, most, names)) = object.choice {
        let present = names.iter().filter(|name| map.contains_key(**name)).count();
        if present < least || present > most {
            found.push(format!("{path}: {}", words::choice(object, least, names)));
        }
    }
}

fn elements(list: &List, items: &[Value], path: &str, found: &mut Vec<String>) {
    if items.len() < list.least {
        found.push(format!("{path}: {}", words::too_short(list.least)));
    }
    for (index, item) in items.iter().enumerate() {
        let name = list.named_by.and_then(|field| item.get(field)).and_then(Value::as_str);
        let at = name.map_or_else(|| index.to_string(), Into::into);
        walk(list.of, item, &format!("{path}[{at}]"), found);
    }
}

fn keys<'a>(
    map: &'a Map<String, Value>,
    path: &str,
    found: &mut Vec<String>,
    wrong: impl Fn(&'a str, &'a Value) -> Option<(&'a str, &'static str)>,
) {
    for (key, value) in map {
        let annotation = path.ends_with("annotations");
        if reserved_key(key) && !(annotation && SANDBOX_ANNOTATIONS.contains(&key.as_str())) {
            found.push(format!("{path}[{key}]: {}", words::RESERVED_KEY));
        } else if !qualified(key) {
            found.push(format!("{path}[{key}]: {}", words::KEY));
        }
        if let Some((key, demand)) = wrong(key, value) {
            found.push(format!("{path}[{key}]: {demand}"));
        }
    }
}

/// Whether `value` is of the simple `shape`.
fn leaf(shape: Shape, value: &Value) -> bool {
    match (shape, value) {
        (Shape::Text(form), Value::String(text)) => of_form(form, text),
        (Shape::OneOf(words), Value::String(text)) => words.contains(&text.as_str()),
        (Shape::Flag, Value::Bool(_)) => true,
        (Shape::Exactly(wanted), Value::Bool(found)) => wanted == *found,
        (Shape::Whole(least, most), Value::Number(number)) => {
            number.as_i64().is_some_and(|number| (least..=most).contains(&number))
        }
        (Shape::User, value) => leaf(Shape::Whole(1, 2_147_483_647), value),
        (Shape::Port, Value::String(name)) => label(name) && name.len() <= 15,
        (Shape::Port, value) => leaf(Shape::Whole(1, 65_535), value),
        (Shape::Quantity, Value::String(_) | Value::Number(_)) => {
            quantity::milli(&amount(value)).is_ok_and(|milli| milli <= MOST_MILLI)
        }
        (Shape::Gpus, value) => gpus(value).is_some(),
        _ => false,
    }
}

/// A quantity as text, whether it was written as text or as a number.
pub(super) fn amount(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), Into::into)
}

/// A number of GPUs, 0 to 16, whether it was written as text or as a number.
pub(super) fn gpus(value: &Value) -> Option<i32> {
    let number = match value {
        Value::Number(number) => i32::try_from(number.as_i64()?).ok()?,
        Value::String(text) if text.bytes().all(|byte| byte.is_ascii_digit()) => {
            text.parse().ok()?
        }
        _ => return None,
    };
    (0..=16).contains(&number).then_some(number)
}

fn of_form(form: Form, text: &str) -> bool {
    match form {
        Form::Any => true,
        Form::Filled => !text.is_empty(),
        Form::Label => label(text),
        Form::Variable => variable(text),
        Form::VariableField => pod_field(text, VARIABLE_FIELDS),
        Form::VolumeField => pod_field(text, VOLUME_FIELDS),
        Form::Image => !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic()),
        Form::MountPath => !text.is_empty() && !text.contains(':'),
        Form::RelativePath => {
            !text.is_empty() && !text.starts_with('/') && text.split('/').all(|part| part != "..")
        }
    }
}

fn label(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=63).contains(&text.len())
        && text.bytes().all(inner)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

fn variable(text: &str) -> bool {
    !text.is_empty()
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte))
        && !text.starts_with(|first: char| first.is_ascii_digit())
        && !text.starts_with("..")
        && text != "."
}

fn reserved_variable(name: &str) -> bool {
    RESERVED_NAMES.contains(&name)
        || RESERVED_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

fn pod_field(text: &str, fields: &[&str]) -> bool {
    let keyed = ["metadata.labels['", "metadata.annotations['"].iter().any(|prefix| {
        let key = text.strip_prefix(prefix).and_then(|rest| rest.strip_suffix("']"));
        key.is_some_and(qualified)
    });
    keyed || fields.contains(&text)
}

fn reserved_key(key: &str) -> bool {
    if RESERVED_KEYS.contains(&key) {
        return true;
    }
    let Some((domain, _)) = key.split_once('/') else { return false };
    let owns = |owner: &str| {
        domain.strip_suffix(owner).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    };
    !key.starts_with(DESCRIBING_PREFIX) && RESERVED_DOMAINS.iter().any(|owner| owns(owner))
}

/// Whether `key` can be the key of a label.
fn qualified(key: &str) -> bool {
    let (domain, name) = match key.split_once('/') {
        Some((domain, name)) => (Some(domain), name),
        None => (None, key),
    };
    let good_domain = |domain: &str| domain.len() <= 253 && domain.split('.').all(label);
    !name.is_empty() && label_value(name) && domain.is_none_or(good_domain)
}

fn label_value(text: &str) -> bool {
    let edge = |byte: u8| byte.is_ascii_alphanumeric();
    text.is_empty()
        || (text.len() <= 63
            && text.bytes().all(|byte| edge(byte) || b"-_.".contains(&byte))
            && text.bytes().next().is_some_and(edge)
            && text.bytes().last().is_some_and(edge))
}
