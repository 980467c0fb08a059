//! What could be changed of a request so that pools may take it: one thing at a time.

use std::collections::BTreeSet;

use crate::engine::model::{LabelRule, ModelChoice, Request, Snapshot, Taint, Toleration};

/// Most taints and models that are tried: each costs a question to every pool, and members choose
/// how many there are.
const TRIED: usize = 32;
/// Memory is tried in steps of this.
const MIB: u64 = 1 << 20;

/// One change of a request.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Relief {
    /// Any member, not only the named ones.
    AnyMember,
    /// The excluded members too.
    NoExclusion,
    /// Without this rule on labels.
    NoLabelRule(LabelRule),
    /// Any member and any labels.
    NoAffinity,
    /// This taint is tolerated too.
    Tolerate(Taint),
    /// Every taint is tolerated.
    TolerateAll,
    /// Any jurisdiction.
    AnyJurisdiction,
    /// This model will do too.
    Model(String),
    /// GPUs of any memory.
    AnyGpuMemory,
    /// Without this image.
    NoImage(String),
    /// At most so many seconds between notice and kill.
    Grace(u64),
    /// At most so many thousandths of a core for each pod.
    MilliCpu(u64),
    /// At most so many bytes for each pod.
    Memory(u64),
    /// At most so many GPUs for each pod.
    Gpus(u32),
    /// At most so many pods for each replica.
    Size(u32),
    /// At most so many GPUs for each pod, and so many pods.
    Smaller {
        /// GPUs of each pod.
        gpus: u32,
        /// Pods.
        size: u32,
    },
}

impl Relief {
    /// `request` with the change.
    #[must_use]
    pub fn apply(&self, request: &Request) -> Request {
        let mut new = request.clone();
        match self {
            Self::AnyMember => new.members.clear(),
            Self::NoExclusion => new.excluded.clear(),
            Self::NoLabelRule(rule) => new.labels.retain(|held| held != rule),
            Self::NoAffinity => {
                new.members.clear();
                new.excluded.clear();
                new.labels.clear();
            }
            Self::Tolerate(taint) => new.tolerations.push(Toleration {
                key: Some(taint.key.clone()),
                value: Some(taint.value.clone()),
                effect: None,
            }),
            Self::TolerateAll => new.tolerations.push(Toleration::default()),
            Self::AnyJurisdiction => new.residency = None,
            Self::Model(model) => {
                new.models.push(ModelChoice { model: model.clone(), min_memory: None });
            }
            Self::AnyGpuMemory => {
                new.models.iter_mut().for_each(|choice| choice.min_memory = None);
            }
            Self::NoImage(image) => drop(new.images.remove(image)),
            Self::Grace(seconds) => new.grace_seconds = *seconds,
            Self::MilliCpu(milli) => new.need.milli_cpu = *milli,
            Self::Memory(bytes) => new.need.memory = *bytes,
            Self::Gpus(gpus) => new.need.gpus = *gpus,
            Self::Size(size) => new.size = *size,
            Self::Smaller { gpus, size } => {
                new.need.gpus = *gpus;
                new.size = *size;
            }
        }
        new
    }
}

/// Rules of the request that could be left out, one by one.
pub(super) fn singles(request: &Request, snapshot: &Snapshot) -> Vec<Relief> {
    let mut tried = Vec::new();
    tried.extend((!request.members.is_empty()).then_some(Relief::AnyMember));
    tried.extend((!request.excluded.is_empty()).then_some(Relief::NoExclusion));
    tried.extend(request.labels.iter().cloned().map(Relief::NoLabelRule));
    let taints: BTreeSet<&Taint> = snapshot.pools.values().flat_map(|pool| &pool.taints).collect();
    tried.extend(taints.into_iter().take(TRIED).cloned().map(Relief::Tolerate));
    tried.extend(request.residency.is_some().then_some(Relief::AnyJurisdiction));
    let wanted: BTreeSet<&str> =
        request.models.iter().map(|choice| choice.model.as_str()).collect();
    if !wanted.is_empty() {
        let shapes = snapshot.pools.values().flat_map(|pool| &pool.shapes);
        let models: BTreeSet<&str> = shapes.map(|shape| shape.model.as_str()).collect();
        let others = models.difference(&wanted).take(TRIED);
        tried.extend(others.map(|model| Relief::Model((*model).to_owned())));
    }
    let bounded = request.models.iter().any(|choice| choice.min_memory.is_some());
    tried.extend(bounded.then_some(Relief::AnyGpuMemory));
    tried.extend(request.images.iter().cloned().map(Relief::NoImage));
    tried
}

/// A number of the request that could be smaller.
pub(super) struct Amount {
    /// The largest that is smaller than what is asked.
    pub(super) most: u64,
    /// The change to that number.
    pub(super) relief: fn(u64) -> Relief,
}

/// Numbers of the request that could be smaller, one by one.
pub(super) fn amounts(request: &Request) -> [Amount; 5] {
    let below = |number: u64| number.saturating_sub(1);
    [
        Amount { most: below(request.grace_seconds), relief: Relief::Grace },
        Amount { most: below(request.need.milli_cpu), relief: Relief::MilliCpu },
        Amount {
            most: below(request.need.memory.div_ceil(MIB)),
            relief: |mebibytes| Relief::Memory(mebibytes * MIB),
        },
        Amount {
            most: below(request.need.gpus.into()),
            relief: |gpus| Relief::Gpus(u32::try_from(gpus).unwrap_or(u32::MAX)),
        },
        Amount {
            most: below(request.size.into()),
            relief: |size| Relief::Size(u32::try_from(size).unwrap_or(u32::MAX)),
        },
    ]
}

/// Says whether a change is a part of one that takes several rules at once.
type Covers = fn(&Relief) -> bool;

/// Rules of one kind that could be left out together, where no single one of them helps.
pub(super) fn together(request: &Request) -> Vec<(Relief, Covers)> {
    let rules = usize::from(!request.members.is_empty())
        + usize::from(!request.excluded.is_empty())
        + request.labels.len();
    let affinity: Covers =
        |relief| matches!(relief, Relief::AnyMember | Relief::NoExclusion | Relief::NoLabelRule(_));
    let taints: Covers = |relief| matches!(relief, Relief::Tolerate(_));
    let mut tried = vec![(Relief::TolerateAll, taints)];
    if rules > 1 {
        tried.push((Relief::NoAffinity, affinity));
    }
    tried
}
