//! What an API server says when it does not do what it was asked.

use serde_json::{Value, json};

use super::kinds::Kind;

/// A request that failed, as its `Status` tells.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Refusal {
    pub(super) code: u16,
    pub(super) reason: &'static str,
    pub(super) message: String,
    pub(super) details: Value,
}

/// Code and body of a request that was carried out, or why it was not.
pub(super) type Answer = Result<(u16, Value), Refusal>;

/// What is wrong with one field.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Cause {
    pub(super) reason: &'static str,
    pub(super) field: String,
    pub(super) message: String,
}

impl Cause {
    pub(super) fn required(field: &str) -> Self {
        let message = "Required value".to_owned();
        Self { reason: "FieldValueRequired", field: field.to_owned(), message }
    }

    pub(super) fn invalid(field: &str, value: &Value, why: &str) -> Self {
        let message = format!("Invalid value: {value}: {why}");
        Self { reason: "FieldValueInvalid", field: field.to_owned(), message }
    }

    pub(super) fn forbidden(field: &str, why: &str) -> Self {
        let message = format!("Forbidden: {why}");
        Self { reason: "FieldValueForbidden", field: field.to_owned(), message }
    }
}

impl Refusal {
    fn new(code: u16, reason: &'static str, message: String) -> Self {
        Self { code, reason, message, details: Value::Null }
    }

    fn of(mut self, kind: &Kind, name: &str) -> Self {
        self.details = details(&kind.group, &kind.plural, name);
        self
    }

    pub(super) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message.into())
    }

    pub(super) fn not_found(kind: &Kind, name: &str) -> Self {
        let message = format!("{} \"{name}\" not found", kind.qualified());
        Self::new(404, "NotFound", message).of(kind, name)
    }

    pub(super) fn exists(kind: &Kind, name: &str, held: &Value) -> Self {
        let leaves = held["metadata"].get("deletionTimestamp").is_some();
        let leaves = if leaves { "object is being deleted: " } else { "" };
        let message = format!("{leaves}{} \"{name}\" already exists", kind.qualified());
        Self::new(409, "AlreadyExists", message).of(kind, name)
    }

    pub(super) fn conflict(kind: &Kind, name: &str, why: &str) -> Self {
        let what = kind.qualified();
        let message = format!("Operation cannot be fulfilled on {what} \"{name}\": {why}");
        Self::new(409, "Conflict", message).of(kind, name)
    }

    /// The object changed since whoever asks has read it.
    pub(super) fn modified(kind: &Kind, name: &str) -> Self {
        let why = "the object has been modified; please apply your changes to the latest version \
                   and try again";
        Self::conflict(kind, name, why)
    }

    pub(super) fn forbidden(kind: &Kind, name: &str, why: &str) -> Self {
        let name = if name.is_empty() { "Unknown" } else { name };
        let message = format!("{} \"{name}\" is forbidden: {why}", kind.qualified());
        Self::new(403, "Forbidden", message).of(kind, name)
    }

    pub(super) fn unsupported_patch(given: &str) -> Self {
        let message = format!(
            "the body of the request was in an unknown format - accepted media types include: \
             application/merge-patch+json, not {given}"
        );
        Self::new(415, "UnsupportedMediaType", message)
    }

    pub(super) fn internal(message: impl Into<String>) -> Self {
        // An error that no part of a real server has a reason for.
        Self::new(500, "", message.into())
    }

    /// History before a version is gone.
    pub(super) fn expired(message: String) -> Self {
        Self::new(410, "Expired", message)
    }

    pub(super) fn too_old(wanted: u64, oldest: u64) -> Self {
        Self::expired(format!("too old resource version: {wanted} ({oldest})"))
    }

    /// A list of a version that the server has not reached.
    pub(super) fn too_new(wanted: u64, current: u64) -> Self {
        let message = format!("Too large resource version: {wanted}, current: {current}");
        let mut refusal = Self::new(504, "Timeout", message);
        let cause = json!([{"reason": "ResourceVersionTooLarge",
            "message": "Too large resource version"}]);
        refusal.details = json!({ "causes": cause, "retryAfterSeconds": 1 });
        refusal
    }

    /// A change that does not say which version it was made of, where it has to. Here the plural
    /// stands where otherwise the kind does.
    pub(super) fn unversioned(kind: &Kind, name: &str) -> Self {
        let why = "must be specified for an update";
        let cause = Cause::invalid("metadata.resourceVersion", &json!(0), why);
        let mut refusal = Self::invalid(kind, name, &[cause]);
        refusal.message = refusal.message.replacen(&kind.named, &kind.plural, 1);
        refusal.details["kind"] = json!(kind.plural);
        refusal
    }

    pub(super) fn invalid(kind: &Kind, name: &str, causes: &[Cause]) -> Self {
        let shown: Vec<String> =
            causes.iter().map(|cause| format!("{}: {}", cause.field, cause.message)).collect();
        let shown = match shown.as_slice() {
            [only] => only.clone(),
            many => format!("[{}]", many.join(", ")),
        };
        let what = match kind.group.as_str() {
            "" => kind.named.clone(),
            group => format!("{}.{group}", kind.named),
        };
        let mut refusal =
            Self::new(422, "Invalid", format!("{what} \"{name}\" is invalid: {shown}"));
        refusal.details = details(&kind.group, &kind.named, name);
        let told = causes.iter().map(
            |cause| json!({"reason": cause.reason, "message": cause.message, "field": cause.field}),
        );
        refusal.details["causes"] = told.collect();
        refusal
    }

    /// As the body of an answer or of an event.
    pub(super) fn status(&self) -> Value {
        let mut status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "code": self.code,
        });
        if !self.reason.is_empty() {
            status["reason"] = json!(self.reason);
        }
        if !self.details.is_null() {
            status["details"] = self.details.clone();
        }
        status
    }

    pub(super) fn answer(&self) -> (u16, Value) {
        (self.code, self.status())
    }
}

/// Whatever came of a request, as code and body.
pub(super) fn flat(answer: Answer) -> (u16, Value) {
    answer.unwrap_or_else(|refusal| refusal.answer())
}

/// The answer to a deletion that is complete.
pub(super) fn deleted(kind: &Kind, name: &str, uid: &Value) -> Value {
    let mut details = details(&kind.group, &kind.plural, name);
    details["uid"] = uid.clone();
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success",
        "details": details})
}

fn details(group: &str, kind: &str, name: &str) -> Value {
    let mut details = json!({ "kind": kind });
    if !name.is_empty() {
        details["name"] = json!(name);
    }
    if !group.is_empty() {
        details["group"] = json!(group);
    }
    details
}
