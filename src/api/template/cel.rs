//! The table as CEL: expressions of type string that say what is wrong with a value, or nothing.

use super::table::{
    DESCRIBING_PREFIX, Field, Form, Object, RESERVED_DOMAINS, RESERVED_KEYS, RESERVED_NAMES,
    RESERVED_PREFIXES, SANDBOX_ANNOTATIONS, Shape, VARIABLE_FIELDS, VOLUME_FIELDS,
};
use super::words;

const LABEL: &str = "^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$";
const LABEL_VALUE: &str = "^([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?$";
const KEY: &str = "([a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?)*/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?";

/// `value` as CEL text.
pub(super) fn text(value: &str) -> String {
    format!("'{}'", value.replace('\\', "\\\\").replace('\'', "\\'"))
}

pub(super) fn texts(values: &[&str]) -> String {
    format!("[{}]", values.iter().map(|value| text(value)).collect::<Vec<_>>().join(", "))
}

/// The path of an element of the list at `path`.
pub(super) fn element_path(path: &str, element: &str, named_by: Option<&str>) -> String {
    match named_by {
        None => format!("{path} + '[*]'"),
        Some(key) => format!(
            "{path} + '[' + (type({element}) == map && '{key}' in {element} && type({element}['{key}']) == string ? {element}['{key}'] : '*') + ']'"
        ),
    }
}

/// Findings about the fields of `object` themselves: unknown, missing, too many alternatives.
pub(super) fn own(object: &Object, value: &str, path: &str) -> String {
    let names: Vec<_> = object.fields.iter().map(|field| field.name).collect();
    let known = texts(&names);
    let unknown = text(&words::unknown(object));
    let remedy = if object.refused.is_empty() {
        unknown
    } else {
        let remedies: Vec<_> = object
            .refused
            .iter()
            .map(|(name, remedy)| format!("{}: {}", text(name), text(remedy)))
            .collect();
        let map = format!("{{{}}}", remedies.join(", "));
        let names: Vec<_> = object.refused.iter().map(|(name, _)| *name).collect();
        format!("(k in {} ? 'is not allowed: ' + {map}[k] : {unknown})", texts(&names))
    };
    let mut parts = vec![format!(
        "{value}.filter(k, !(k in {known})).map(k, {path} + '.' + k + ': ' + {remedy}).join('. ')"
    )];
    let required: Vec<_> =
        object.fields.iter().filter(|field| field.required).map(|field| field.name).collect();
    if !required.is_empty() {
        parts.push(format!(
            "{}.filter(k, !(k in {value})).map(k, {path} + '.' + k + ': ' + {}).join('. ')",
            texts(&required),
            text(&words::missing(object))
        ));
    }
    if let Some((least, most, names)) = object.choice {
        let size = format!("{}.filter(k, k in {value}).size()", texts(names));
        parts.push(format!(
            "({size} >= {least} && {size} <= {most} ? '' : {path} + ': ' + {})",
            text(&words::choice(object, least, names))
        ));
    }
    joined(&parts)
}

fn joined(parts: &[String]) -> String {
    match parts {
        [one] => one.clone(),
        _ => format!("[{}].filter(s, s != '').join('. ')", parts.join(",\n")),
    }
}

/// Findings about `field` of the object `value`, if it is there.
pub(super) fn present(field: &Field, value: &str, path: &str) -> String {
    let inner = format!("{value}['{}']", field.name);
    let path = match path.strip_suffix('\'') {
        Some(open) => format!("{open}.{}'", field.name),
        None => format!("{path} + '.{}'", field.name),
    };
    format!("('{}' in {value} ? {} : '')", field.name, findings(field.shape, &inner, &path))
}

/// CEL of type string: what is wrong with `value` at `path`.
fn findings(shape: Shape, value: &str, path: &str) -> String {
    let otherwise = format!("{path} + ': ' + {}", text(&words::demand(shape)));
    match shape {
        Shape::Object(object) => {
            let mut parts = vec![own(object, value, path)];
            parts.extend(object.fields.iter().map(|field| present(field, value, path)));
            format!("(type({value}) == map ? {} : {otherwise})", joined(&parts))
        }
        Shape::List(list) => {
            let short = format!("{path} + ': ' + {}", text(&words::too_short(list.least)));
            // The variable of each depth has its own name, else it would hide the outer one.
            let e = format!("e{}", value.matches(".it").count());
            let element = element_path(path, &e, list.named_by);
            let pair = format!("{value}.map({e}, {{'at': dyn({element}), 'it': dyn({e})}})");
            let inner = findings(list.of, &format!("{e}.it"), &format!("{e}.at"));
            let each = format!("{pair}.map({e}, {inner}).filter(s, s != '').join('. ')");
            let least = list.least;
            let sized = if least > 0 {
                format!("({value}.size() < {least} ? {short} : {each})")
            } else {
                each
            };
            format!("(type({value}) == list ? {sized} : {otherwise})")
        }
        Shape::Labels | Shape::Annotations => {
            format!("(type({value}) == map ? {} : {otherwise})", keys(shape, value, path))
        }
        Shape::Text(Form::Variable) => {
            let prefixes = RESERVED_PREFIXES.join("|");
            let names = RESERVED_NAMES.join("|");
            format!(
                "(type({value}) == string && {value}.matches('^(({prefixes}).*|{names})$') ? {path} + ': ' + {} : ({}) ? '' : {otherwise})",
                text(words::RESERVED_VARIABLE),
                leaf(shape, value)
            )
        }
        _ => format!("(({}) ? '' : {otherwise})", leaf(shape, value)),
    }
}

/// Findings about keys and values of labels or annotations.
fn keys(shape: Shape, value: &str, path: &str) -> String {
    let domains = RESERVED_DOMAINS.join("|").replace('.', "\\\\.");
    let mut reserved = format!(
        "(k in {} || (k.matches('^([^/]*\\\\.)?({domains})/') && !k.startsWith('{DESCRIBING_PREFIX}')))",
        texts(RESERVED_KEYS)
    );
    if matches!(shape, Shape::Annotations) {
        reserved = format!("!(k in {}) && {reserved}", texts(SANDBOX_ANNOTATIONS));
    }
    let key_form = KEY.replace('\\', "\\\\");
    let bad_value = match shape {
        Shape::Labels => {
            format!("!(type({value}[k]) == string && {value}[k].matches('{LABEL_VALUE}'))")
        }
        _ => format!("type({value}[k]) != string"),
    };
    let value_words = match shape {
        Shape::Labels => words::LABEL_VALUE,
        _ => words::ANNOTATION_VALUE,
    };
    let said = |condition: &str, words: &str| {
        format!(
            "{value}.filter(k, {condition}).map(k, {path} + '[' + k + ']: ' + {}).join('. ')",
            text(words)
        )
    };
    joined(&[
        said(&reserved, words::RESERVED_KEY),
        // The domain of a key has a length that the expression cannot say.
        said(
            &format!("!({reserved}) && !(k.matches('^{key_form}$') && k.size() <= 317)"),
            words::KEY,
        ),
        said(&bad_value, value_words),
    ])
}

/// CEL of type bool: whether `value` is of the simple `shape`.
fn leaf(shape: Shape, value: &str) -> String {
    let whole = |least: i64, most: i64| {
        format!("type({value}) == int && {value} >= {least} && {value} <= {most}")
    };
    match shape {
        Shape::OneOf(words) => format!("{value} in {}", texts(words)),
        Shape::Flag => format!("type({value}) == bool"),
        Shape::Exactly(wanted) => format!("type({value}) == bool && {value} == {wanted}"),
        Shape::Whole(least, most) => whole(least, most),
        Shape::User => whole(1, 2_147_483_647),
        Shape::Port => format!(
            "type({value}) == string ? {value}.size() <= 15 && {value}.matches('{LABEL}') : {}",
            whole(1, 65_535)
        ),
        // Kubernetes reads a unit or a point alone as 0; nobody means that.
        Shape::Quantity => format!(
            "(type({value}) == string || type({value}) == int || type({value}) == double) && string({value}).matches('[0-9]') && isQuantity(string({value})) && quantity(string({value})).compareTo(quantity('0')) >= 0 && quantity(string({value})).compareTo(quantity('1P')) <= 0"
        ),
        Shape::Gpus => format!(
            "type({value}) == string ? {value}.matches('^0*([0-9]|1[0-6])$') : {}",
            whole(0, 16)
        ),
        Shape::Text(form) => format!("type({value}) == string{}", of_form(form, value)),
        Shape::Object(_) | Shape::List(_) | Shape::Labels | Shape::Annotations => "true".into(),
    }
}

/// The rest of a condition on text.
fn of_form(form: Form, value: &str) -> String {
    let field = |fields: &[&str]| {
        let key = KEY.replace('\\', "\\\\");
        format!(
            " && ({value} in {} || {value}.matches('^metadata\\\\.(labels|annotations)\\\\[\\'{key}\\'\\\\]$'))",
            texts(fields)
        )
    };
    match form {
        Form::Any => String::new(),
        Form::Filled => format!(" && {value} != ''"),
        Form::Label => format!(" && {value}.matches('{LABEL}')"),
        Form::Variable => format!(
            " && {value}.matches('^[-._a-zA-Z][-._a-zA-Z0-9]*$') && {value} != '.' && !{value}.startsWith('..')"
        ),
        Form::VariableField => field(VARIABLE_FIELDS),
        Form::VolumeField => field(VOLUME_FIELDS),
        Form::Image => format!(" && {value}.matches('^[!-~]+$')"),
        Form::MountPath => format!(" && {value} != '' && !{value}.contains(':')"),
        Form::RelativePath => {
            format!(" && {value}.matches('^[^/]') && !{value}.matches('(^|/)\\\\.\\\\.(/|$)')")
        }
    }
}
