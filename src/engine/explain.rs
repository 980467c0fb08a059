//! Why a job waits, in words and as the reason of its condition.

use std::collections::BTreeMap;

use super::model::{LabelRule, ModelChoice, Refusal, Request, Taint};
use super::outlook::Relief;

/// Longest list that a message spells out: a condition is read in a terminal.
const LISTED: usize = 3;

/// The reason of a false `Placed` condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum WaitReason {
    /// Every pool is ruled out by affinity or taints.
    AffinityUnsatisfied,
    /// Every pool is outside the wanted jurisdictions.
    ResidencyUnsatisfied,
    /// No pool has a wanted model.
    NoMatchingModel,
    /// A pool could take it at another time.
    WaitingForCapacity,
    /// No pool could take it at any time as things are.
    NoPoolFits,
}

impl WaitReason {
    /// The word that stands in the condition.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AffinityUnsatisfied => "AffinityUnsatisfied",
            Self::ResidencyUnsatisfied => "ResidencyUnsatisfied",
            Self::NoMatchingModel => "NoMatchingModel",
            Self::WaitingForCapacity => "WaitingForCapacity",
            Self::NoPoolFits => "NoPoolFits",
        }
    }

    /// The reason that covers what the pools say.
    ///
    /// One pool that could take it later is enough to wait for capacity. Without any, the reason is
    /// the rule that all pools share, if they share one.
    #[must_use]
    pub fn of(refusals: &BTreeMap<Refusal, u32>) -> Self {
        let all = |reasons: &[Refusal]| {
            !refusals.is_empty() && refusals.keys().all(|why| reasons.contains(why))
        };
        if refusals.keys().any(|why| why.is_temporary()) {
            return Self::WaitingForCapacity;
        }
        if all(&[Refusal::NotInAffinity, Refusal::Tainted]) {
            return Self::AffinityUnsatisfied;
        }
        if all(&[Refusal::OutsideResidency]) {
            return Self::ResidencyUnsatisfied;
        }
        if all(&[Refusal::NoMatchingModel]) {
            return Self::NoMatchingModel;
        }
        Self::NoPoolFits
    }
}

impl Refusal {
    /// Whether it can pass without anybody changing the request or the offer.
    #[must_use]
    pub const fn is_temporary(self) -> bool {
        match self {
            Self::NotInAffinity
            | Self::Tainted
            | Self::OutsideResidency
            | Self::NamespaceNotAllowed
            | Self::ImageNotAllowed
            | Self::TypeNotAllowed
            | Self::NoMatchingModel
            | Self::NoticeTooShort
            | Self::NeverFits => false,
            Self::Cordoned
            | Self::Silent
            | Self::NotReady
            | Self::Refused
            | Self::TooManyUnanswered
            | Self::TooLittleCpuOrMemory
            | Self::TooFewFreeGpus
            | Self::KeptForOthers => true,
        }
    }

    /// What it says of one pool or of many: it follows a number in messages.
    #[must_use]
    pub fn text(self, request: &Request) -> String {
        match self {
            Self::NotInAffinity => "not matched by placement.clusterAffinity".into(),
            Self::Tainted => "with a taint that placement.clusterTolerations lacks".into(),
            Self::OutsideResidency => {
                format!("outside {}", either(request.residency.iter().flatten().cloned()))
            }
            Self::NamespaceNotAllowed => format!("not lent to namespace {}", request.namespace),
            Self::ImageNotAllowed => "not open to its images".into(),
            Self::TypeNotAllowed => "not lent to Batch jobs".into(),
            Self::NoMatchingModel => {
                format!("without {}", either(request.models.iter().map(model)))
            }
            Self::NoticeTooShort => {
                format!("with less than {} s of notice", request.grace_seconds)
            }
            Self::NeverFits => format!("too small even when idle ({})", need(request)),
            Self::Cordoned => "cordoned".into(),
            Self::Silent => "silent".into(),
            Self::NotReady => "not ready".into(),
            Self::Refused => "with a recent refusal of this job".into(),
            Self::TooManyUnanswered => "busy answering other leases".into(),
            Self::TooLittleCpuOrMemory => format!(
                "with too little free CPU or memory beside their free GPUs (need {} milli-CPU and {} \
                 bytes a pod)",
                request.need.milli_cpu, request.need.memory
            ),
            Self::TooFewFreeGpus => format!("too few free GPUs per node ({})", need(request)),
            Self::KeptForOthers => "with free GPUs that are kept for jobs that wait longer".into(),
        }
    }
}

impl Relief {
    /// The change as a user makes it: what follows "it would fit with".
    #[must_use]
    pub fn text(&self) -> String {
        let affinity = "placement.clusterAffinity";
        match self {
            Self::AnyMember => format!("{affinity}.clusterNames left out"),
            Self::NoExclusion => format!("{affinity}.exclude left out"),
            Self::NoLabelRule(rule) => {
                format!("{affinity}.labelSelector without its rule on {}", rule_key(rule))
            }
            Self::NoAffinity => format!("{affinity} left out"),
            Self::Tolerate(taint) => {
                let Taint { key, value, .. } = taint;
                format!("placement.clusterTolerations that include {key}={value}")
            }
            Self::TolerateAll => "placement.clusterTolerations for every taint".into(),
            Self::AnyJurisdiction => "data.residency left out".into(),
            Self::Model(model) => format!("gpu.anyOf that includes {model}"),
            Self::AnyGpuMemory => "gpu.anyOf without minMemory".into(),
            Self::NoImage(image) => format!("another image than {image}"),
            Self::Grace(seconds) => {
                format!("terminationGracePeriodSeconds of at most {seconds}")
            }
            Self::MilliCpu(milli) => format!("at most {milli}m of CPU for each pod"),
            Self::Memory(bytes) => format!("at most {} of memory for each pod", memory(*bytes)),
            Self::Gpus(gpus) => format!("gpu.count of at most {gpus}"),
            Self::Size(size) => format!("size of at most {size}"),
            Self::Smaller { gpus, size } => format!("gpu.count {gpus} and size {size}"),
        }
    }
}

fn rule_key(rule: &LabelRule) -> &str {
    match rule {
        LabelRule::In(key, _)
        | LabelRule::NotIn(key, _)
        | LabelRule::Exists(key)
        | LabelRule::Absent(key) => key,
    }
}

/// `0/14 pools fit: 9 too few free GPUs per node (need 8 on 4 nodes), 2 outside EU`: largest number
/// first, then most permanent first.
#[must_use]
pub fn explain(refusals: &BTreeMap<Refusal, u32>, request: &Request) -> String {
    if refusals.is_empty() {
        return "no member lends a pool yet".into();
    }
    let mut counted: Vec<(Refusal, u32)> = refusals.iter().map(|(why, n)| (*why, *n)).collect();
    counted.sort_by_key(|(why, number)| (std::cmp::Reverse(*number), *why));
    let pools: u32 = counted.iter().map(|(_, number)| number).sum();
    let reasons: Vec<String> =
        counted.iter().map(|(why, number)| format!("{number} {}", why.text(request))).collect();
    format!("0/{pools} pools fit: {}", reasons.join(", "))
}

fn need(request: &Request) -> String {
    let nodes = if request.size == 1 { "node" } else { "nodes" };
    format!("need {} on {} {nodes}", request.need.gpus, request.size)
}

fn model(choice: &ModelChoice) -> String {
    match choice.min_memory {
        Some(bytes) => format!("{} of {}", choice.model, memory(bytes)),
        None => choice.model.clone(),
    }
}

/// Bytes in the largest unit that divides them.
fn memory(bytes: u64) -> String {
    let units = [(1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB")];
    let exact = units.iter().find(|(unit, _)| bytes > 0 && bytes.is_multiple_of(*unit));
    exact.map_or_else(|| format!("{bytes} B"), |(unit, name)| format!("{} {name}", bytes / unit))
}

/// `a`, `a or b`, `a, b or c`, `a, b, c or 2 more`.
fn either(names: impl Iterator<Item = String>) -> String {
    let mut names: Vec<String> = names.collect();
    if names.len() > LISTED + 1 {
        let more = names.len() - LISTED;
        names.truncate(LISTED);
        names.push(format!("{more} more"));
    }
    match names.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, first)) => format!("{} or {last}", first.join(", ")),
        None => "a GPU".into(),
    }
}

#[cfg(test)]
mod tests;
