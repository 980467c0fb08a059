//! What programs do, as their arguments say: how long they run, how they end, and how they leave.

use k8s_openapi::jiff::SignedDuration;
use serde_json::{Value, json};

use super::models::Program;

/// How a program takes notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Manner {
    /// It leaves within a second.
    Polite,
    /// It saves, says so, and leaves with 85.
    Saves,
    /// It leaves as if all was well.
    Silent,
    /// It goes on until it is killed.
    Stubborn,
}

pub(crate) const MANNERS: [Manner; 4] =
    [Manner::Polite, Manner::Saves, Manner::Silent, Manner::Stubborn];

/// The arguments of a program.
pub(crate) fn arguments(seconds: u32, exit: &str, manner: Manner) -> Value {
    json!([seconds.to_string(), exit, format!("{manner:?}")])
}

/// What the program of a pod does; `now` is when it starts.
pub(crate) fn program(
    pod: &Value,
    pull: SignedDuration,
    now: k8s_openapi::jiff::Timestamp,
) -> Program {
    let container = &pod["spec"]["containers"][0];
    let word = |at: usize| container["args"][at].as_str().unwrap_or_default();
    let name = pod["metadata"]["name"].as_str().unwrap_or_default();
    let exit = match word(1) {
        // It fails about every other time.
        "flaky" => i64::from(name.bytes().map(u32::from).sum::<u32>() % 2),
        code => code.parse().unwrap_or(0),
    };
    let variables = container["env"].as_array().into_iter().flatten();
    let place = variables.clone().find(|one| one["name"] == "IDLEWILD_CHECKPOINT_URI");
    let save = place.and_then(|one| one["value"].as_str()).map(|uri| format!("{uri}/last"));
    let save = save.map(|save| json!({"checkpoint": save, "step": 1, "at": now}).to_string());
    let second = Some(SignedDuration::from_secs(1));
    let (leaves, told_exit) = match word(2) {
        "Saves" => (Some(SignedDuration::from_secs(2)), 85),
        "Silent" => (second, 0),
        "Stubborn" => (None, 137),
        _ => (second, 143),
    };
    Program {
        runs: word(0).parse().ok().map(SignedDuration::from_secs),
        exit,
        leaves,
        told_exit,
        message: save.filter(|_| word(2) == "Saves").unwrap_or_default(),
        pull,
    }
}
