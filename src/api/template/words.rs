//! The sentences of refusals: one wording for the checker and for the admission policy.

use super::table::{Form, Object, Shape, VARIABLE_FIELDS, VOLUME_FIELDS};

/// What a reserved variable's name is told.
pub(super) const RESERVED_VARIABLE: &str =
    "is reserved, each guest gets it from Idlewild or its device plugin; remove it or rename it";
/// What a reserved label or annotation is told.
pub(super) const RESERVED_KEY: &str =
    "is reserved for the clusters; use a key with a prefix of your own, or remove it";
/// What an ill-formed key of a label or annotation is told.
pub(super) const KEY: &str = "must be a key such as example.org/team: at most 63 letters, digits, -, _ and . after the prefix";
/// What an ill-formed value of a label is told.
pub(super) const LABEL_VALUE: &str =
    "must be text of at most 63 letters, digits, -, _ and .; put quotes around numbers";

/// What a value of an annotation that is no text is told.
pub(super) const ANNOTATION_VALUE: &str = "must be text; put quotes around numbers";

/// What a value of another shape is told.
pub(super) fn demand(shape: Shape) -> String {
    match shape {
        Shape::Object(object) => format!("must be {}: fields and values", object.what),
        Shape::List(_) => "must be a list".into(),
        Shape::Text(form) => text(form),
        Shape::OneOf(words) => {
            let words: Vec<_> =
                words.iter().map(|word| if word.is_empty() { "empty" } else { word }).collect();
            format!("must be {}; leave it out for the default", words.join(" or "))
        }
        Shape::Flag => "must be true or false".into(),
        Shape::Exactly(value) => {
            format!("must be {value}, since members enforce it; remove it or set it so")
        }
        Shape::Whole(least, most) => format!("must be a whole number from {least} to {most}"),
        Shape::User => "must be a user from 1 to 2147483647: guests never run as root".into(),
        Shape::Port => "must be the number (1 to 65535) or name of a port".into(),
        Shape::Quantity => "must be a quantity from 0 to 1P, such as 500m, 4 or 16Gi".into(),
        Shape::Gpus => "must be a whole number of GPUs from 0 to 16; \
             leave it out and the first container gets gpu.count"
            .into(),
        Shape::Labels | Shape::Annotations => "must be keys and values".into(),
    }
}

fn text(form: Form) -> String {
    let listed = |fields: &[&str]| {
        format!(
            "must be one of {}, metadata.labels['KEY'], metadata.annotations['KEY']",
            fields.join(", ")
        )
    };
    match form {
        Form::Any => "must be text; put quotes around numbers".into(),
        Form::Filled => "must be text, and not empty".into(),
        Form::Label => {
            "must be a name of at most 63 lowercase letters, digits and dashes inside".into()
        }
        Form::Variable => "must be the name of a variable: letters, digits, _, - and .".into(),
        Form::VariableField => listed(VARIABLE_FIELDS),
        Form::VolumeField => listed(VOLUME_FIELDS),
        Form::Image => {
            "must be the reference of an image, such as registry.example.org/train:1".into()
        }
        Form::MountPath => "must be a path without a colon, such as /data".into(),
        Form::RelativePath => "must be a relative path without ..".into(),
    }
}

/// What a field that the table lacks is told, if it is a common one.
pub(super) fn refused(object: &Object, field: &str) -> Option<&'static str> {
    object.refused.iter().find(|(name, _)| *name == field).map(|(_, remedy)| *remedy)
}

/// What a field that nobody knows is told.
pub(super) fn unknown(object: &Object) -> String {
    let names: Vec<_> = object.fields.iter().map(|field| field.name).collect();
    format!("is not allowed; {} may hold {}", object.what, names.join(", "))
}

/// What a missing field is told.
pub(super) fn missing(object: &Object) -> String {
    format!("is missing; {} needs it", object.what)
}

/// What an object with too few or too many of alternative fields is told.
pub(super) fn choice(object: &Object, least: usize, names: &[&str]) -> String {
    let number = if least == 0 { "at most one" } else { "exactly one" };
    format!("{} must have {number} of {}", object.what, names.join(", "))
}

/// What a list with too few elements is told.
pub(super) fn too_short(least: usize) -> String {
    format!("must have at least {least} element")
}
