//! The only door between the custom resources and the engine.
//!
//! Invariant: whoever passes this door is valid; nobody behind it checks again.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, Time};
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use serde_json::Value;

use super::gpujob::{DuplicatePolicy, FailureAction, PodFailureRule};
use super::gpulease::{EpochRef, GpuLease, LeasePhase};
use super::gpupool::Orphan;
use super::{GpuJob, GpuPool, MemberCluster, quantity, template};
use crate::engine::indexes::Indexes;
use crate::engine::lifecycle::{
    self, Ended, FailurePattern, FailureRule, Fence, Lease, Stage, Terms,
};
use crate::engine::model::{
    Epoch, Free, JobId, LabelRule, ModelChoice, PodNeed, Pool, PoolId, Request, Shape,
};

pub mod explanation;
pub mod record;
pub mod survival;
pub mod taints;

/// What every pool asks until owners name prices: one unit of the hub's currency.
const ASK: u64 = 1_000_000;
/// Characters of a member's message that are kept.
const WORDS: usize = 256;

impl From<EpochRef> for Epoch {
    fn from(epoch: EpochRef) -> Self {
        Self { incarnation: epoch.incarnation, attempt: epoch.attempt }
    }
}

impl From<Epoch> for EpochRef {
    fn from(epoch: Epoch) -> Self {
        Self { incarnation: epoch.incarnation, attempt: epoch.attempt }
    }
}

/// Milliseconds since 1970.
#[must_use]
pub fn millis(time: &Time) -> i64 {
    time.0.as_millisecond()
}

/// The time `millis` after 1970.
#[must_use]
pub fn time(millis: i64) -> Time {
    Time(Timestamp::from_millisecond(millis).unwrap_or(Timestamp::UNIX_EPOCH))
}

/// What the placement of `job` depends on.
///
/// # Errors
/// Every violation, one sentence each.
pub fn asked(job: &GpuJob) -> Result<Request, Vec<String>> {
    let spec = &job.spec;
    let template = spec.template.value();
    let mut wrong = template::violations(&template, spec.gpu.count);
    let gpus = u32::try_from(spec.gpu.count).unwrap_or(0);
    let need = template::need(&template, spec.gpu.count).unwrap_or_else(|problems| {
        wrong.extend(problems);
        template::Need::default()
    });
    let models = models(job, &mut wrong);
    let labels = spec
        .placement
        .as_ref()
        .and_then(|placement| placement.cluster_affinity.as_ref()?.label_selector.as_ref())
        .map_or_else(Vec::new, |selector| label_rules(selector, &mut wrong));
    wrong.sort();
    wrong.dedup();
    if !wrong.is_empty() {
        return Err(wrong);
    }
    let need = PodNeed { gpus, milli_cpu: need.milli_cpu, memory: need.memory_bytes };
    Ok(Request { need, models, labels, ..request(job, &template) })
}

fn unsigned(number: i32) -> u32 {
    u32::try_from(number).unwrap_or(0)
}

/// What the life of a job's replicas depends on, but for what stops them; never wrong.
#[must_use]
pub fn terms(job: &GpuJob) -> Terms {
    let spec = &job.spec;
    let completions = unsigned(spec.completions);
    let rules = spec.pod_failure_policy.iter().flat_map(|policy| &policy.rules);
    Terms {
        completions,
        parallelism: spec.parallelism.map_or(completions, unsigned),
        gpus: u64::from(unsigned(spec.size)) * u64::from(unsigned(spec.gpu.count)),
        backoff_limit: unsigned(spec.backoff_limit),
        rules: rules.map(failure_rule).collect(),
        max_running_seconds: spec.max_running_seconds.and_then(|limit| u64::try_from(limit).ok()),
        checkpoint_uri: spec.checkpoint.as_ref().map(|checkpoint| checkpoint.uri.clone()),
        checkpoint_seconds: spec.checkpoint.as_ref().map(saving_seconds),
        grace_seconds: u64::try_from(grace_seconds(job, &spec.template.value())).unwrap_or(0),
        toleration_seconds: spec
            .failover
            .as_ref()
            .and_then(|failover| failover.toleration_seconds)
            .and_then(|seconds| u64::try_from(seconds).ok()),
        never_twice: spec
            .failover
            .as_ref()
            .is_some_and(|failover| failover.duplicate_policy == DuplicatePolicy::Never),
        max_evictions: spec.failover.as_ref().and_then(|one| one.max_evictions).map(unsigned),
        stopped: None,
        held: false,
    }
}

fn failure_rule(rule: &PodFailureRule) -> FailureRule {
    let action = match rule.action {
        FailureAction::Ignore => lifecycle::FailureAction::Ignore,
        FailureAction::Count => lifecycle::FailureAction::Count,
        FailureAction::FailJob => lifecycle::FailureAction::FailJob,
    };
    let pattern = match &rule.on_exit_codes {
        Some(on) => FailurePattern::ExitCodes {
            container: on.container_name.clone(),
            codes: on.values.clone(),
            negated: on.operator == super::gpujob::ExitCodeOperator::NotIn,
        },
        None => FailurePattern::Conditions(
            rule.on_pod_conditions.iter().flatten().map(|on| on.type_.clone()).collect(),
        ),
    };
    FailureRule { pattern, action }
}

/// The part of the request that cannot be wrong.
fn request(job: &GpuJob, template: &Value) -> Request {
    let spec = &job.spec;
    let placement = spec.placement.clone().unwrap_or_default();
    let affinity = placement.cluster_affinity.unwrap_or_default();
    Request {
        namespace: job.namespace().unwrap_or_default(),
        size: unsigned(spec.size),
        members: affinity.cluster_names.into_iter().collect(),
        excluded: affinity.exclude.into_iter().collect(),
        tolerations: taints::tolerations(job),
        residency: spec.data.as_ref().map(|data| data.residency.iter().cloned().collect()),
        images: template::images(template),
        grace_seconds: u64::try_from(grace_seconds(job, template)).unwrap_or(0),
        checkpoint_seconds: spec.checkpoint.as_ref().map_or(0, saving_seconds),
        running_seconds: spec.max_running_seconds.and_then(|limit| u64::try_from(limit).ok()),
        ..Request::default()
    }
}

fn saving_seconds(checkpoint: &super::gpujob::CheckpointSpec) -> u64 {
    u64::try_from(checkpoint.interval_seconds).unwrap_or(1)
}

/// Seconds between notice and kill that the pods of a job get.
#[must_use]
pub fn grace_seconds(job: &GpuJob, template: &Value) -> i64 {
    let asked = job.spec.checkpoint.as_ref().and_then(|checkpoint| checkpoint.grace_seconds);
    asked.unwrap_or_else(|| template::grace_seconds(template))
}

fn models(job: &GpuJob, wrong: &mut Vec<String>) -> Vec<ModelChoice> {
    let mut choice = |choice: &super::gpujob::GpuChoice| ModelChoice {
        model: choice.model.clone(),
        min_memory: choice.min_memory.as_ref().and_then(|text| {
            quantity::bytes(text)
                .map_err(|why| wrong.push(format!("gpu.anyOf minMemory: {why}")))
                .ok()
        }),
    };
    job.spec.gpu.any_of.iter().map(&mut choice).collect()
}

/// The rules of a label selector.
pub fn label_rules(selector: &LabelSelector, wrong: &mut Vec<String>) -> Vec<LabelRule> {
    let equal = |(key, value): (&String, &String)| {
        LabelRule::In(key.clone(), BTreeSet::from([value.clone()]))
    };
    let mut rules: Vec<_> = selector.match_labels.iter().flatten().map(equal).collect();
    for expression in selector.match_expressions.iter().flatten() {
        let key = expression.key.clone();
        let values = expression.values.iter().flatten().cloned().collect();
        match expression.operator.as_str() {
            "In" => rules.push(LabelRule::In(key, values)),
            "NotIn" => rules.push(LabelRule::NotIn(key, values)),
            "Exists" => rules.push(LabelRule::Exists(key)),
            "DoesNotExist" => rules.push(LabelRule::Absent(key)),
            other => wrong.push(format!(
                "matchExpressions of key {key}: operator {other} is unknown; use In, NotIn, Exists \
                 or DoesNotExist"
            )),
        }
    }
    rules
}

/// Whether `labels` satisfy `selector`; one with an unknown operator is satisfied by none.
#[must_use]
pub fn selects(selector: &LabelSelector, labels: &BTreeMap<String, String>) -> bool {
    let mut wrong = Vec::new();
    let rules = label_rules(selector, &mut wrong);
    wrong.is_empty() && rules.iter().all(|rule| rule.holds(labels))
}

/// A reason as a member gave it: one word, or `Unknown`. What only the hub orders counts only where
/// it did, so that no member gets work for nothing by claiming it.
fn word(reason: &str, withdrawn: bool) -> String {
    let plain = reason.len() <= 64 && reason.bytes().all(|byte| byte.is_ascii_alphabetic());
    let ordered = matches!(reason, "Suspended" | "JobFinished" | lifecycle::PREEMPTED);
    if plain && (withdrawn || !ordered) { reason.to_owned() } else { "Unknown".to_owned() }
}

/// A lease as the engine sees it.
#[must_use]
pub fn lease(lease: &GpuLease) -> Lease {
    let status = lease.status.clone().unwrap_or_default();
    let stage = match status.phase {
        // Its member may hold what this lease only takes up again, until it says that it does not.
        None if lease.spec.adopted.is_some() => Stage::Held,
        None | Some(LeasePhase::Reserved) => Stage::Unanswered,
        Some(LeasePhase::Refused) => Stage::Refused,
        Some(LeasePhase::Released) => Stage::Released,
        Some(_) => Stage::Held,
    };
    let withdrawn = lease.spec.withdrawn.is_some();
    let adopted = lease.spec.adopted.as_ref();
    let vouched = adopted.and_then(|adopted| adopted.expired_at.as_ref());
    let ended = |group: &super::gpulease::EndedGroup| Ended {
        reason: word(&group.reason, withdrawn),
        message: group.message.as_deref().unwrap_or("").chars().take(WORDS).collect(),
        exit_code: group.exit_code,
        container: group.container.clone(),
        conditions: group.conditions.clone(),
        indexes: Indexes::parse(&group.indexes).unwrap_or_default(),
        checkpoint: group.checkpoint.as_ref().map(|saved| lifecycle::Checkpoint {
            at: millis(&saved.at),
            reference: saved.reference.clone(),
        }),
        lost_seconds: u64::try_from(group.lost_seconds).unwrap_or(0),
    };
    Lease {
        epoch: lease.spec.epoch.into(),
        stage,
        withdrawn,
        resumes: adopted.is_some(),
        fence: match status.expired_at.as_ref() {
            Some(at) if Some(at) != vouched => Fence::Closed,
            _ => Fence::Open,
        },
        started: matches!(status.phase, Some(LeasePhase::Running | LeasePhase::Releasing)),
        start: status.start_time.as_ref().map(millis),
        end: status.end_time.as_ref().map(millis),
        end_reason: word(&status.end_reason.unwrap_or_default(), withdrawn),
        ended: status.ended.iter().map(ended).collect(),
    }
}

/// What `member` says that it holds in `pool` without a lease, as what would be on record of it.
#[must_use]
pub fn orphan(member: &str, pool: &str, orphan: &Orphan) -> (JobId, lifecycle::Allocation) {
    let seconds = |number: i64| u64::try_from(number).unwrap_or(0);
    let allocation = lifecycle::Allocation {
        epoch: orphan.epoch.into(),
        pool: PoolId { member: member.to_owned(), pool: pool.to_owned() },
        indexes: Indexes::parse(&orphan.indexes).unwrap_or_default(),
        model: orphan.model.clone(),
        generation: orphan.job.generation,
        deadline_seconds: seconds(orphan.active_deadline_seconds),
        stop_after: orphan.stop_after_seconds.map(seconds),
        expires_after: orphan.expires_after_seconds.map(seconds),
        never_twice: orphan.duplicate_policy == Some(DuplicatePolicy::Never),
        ..lifecycle::Allocation::default()
    };
    (JobId(orphan.job.uid.clone()), allocation)
}

/// A pool as the engine sees it; whether it is closed is for the caller to say.
#[must_use]
pub fn pool(pool: &GpuPool, member: &MemberCluster) -> Pool {
    let status = pool.status.clone().unwrap_or_default();
    let allow = &pool.spec.allow;
    let location = pool.spec.location.clone().unwrap_or_default();
    let vouched = |claim: &String| member.spec.jurisdictions.contains(claim);
    Pool {
        closed: None,
        labels: labels(pool, member),
        taints: taints::taints(member),
        jurisdiction: Some(location.jurisdiction).filter(vouched),
        namespaces: allow.namespaces.as_ref().map(|names| names.iter().cloned().collect()),
        images: allow.images.clone(),
        takes_batch: allow
            .types
            .as_ref()
            .is_none_or(|types| types.contains(&super::gpujob::JobType::Batch)),
        notice_seconds: u64::try_from(pool.spec.offer.notice_seconds).unwrap_or(0),
        longest_seconds: u64::try_from(pool.spec.offer.max_attempt_seconds).ok(),
        serial: status.serial,
        offered: u64::try_from(status.gpus.offered).unwrap_or(0),
        lendable: u64::try_from(status.gpus.free).unwrap_or(0),
        survival: survival::survival(&status),
        ask: ASK,
        shapes: status.shapes.iter().map(shape).collect(),
    }
}

/// Labels of pool and member together; the pool's win.
fn labels(pool: &GpuPool, member: &MemberCluster) -> BTreeMap<String, String> {
    let location = pool.spec.location.clone().unwrap_or_default();
    let places = [
        ("topology.kubernetes.io/region", location.region),
        ("topology.kubernetes.io/zone", location.zone),
    ];
    let places = places.into_iter().filter(|(_, place)| !place.is_empty());
    let mut labels = member.labels().clone();
    labels.extend(places.map(|(key, place)| (key.to_owned(), place)));
    labels.extend(pool.labels().clone());
    labels
}

fn shape(shape: &super::gpupool::NodeShape) -> Shape {
    let free = |free: &super::gpupool::FreeNodes| Free {
        gpus: unsigned(free.gpus),
        nodes: unsigned(free.nodes),
        milli_cpu: u64::try_from(free.milli_cpu).unwrap_or(0),
        memory: u64::try_from(free.memory_bytes).unwrap_or(0),
    };
    Shape {
        model: shape.model.clone(),
        gpu_memory: quantity::bytes(&shape.memory).ok(),
        gpus_per_node: unsigned(shape.gpus_per_node),
        nodes: unsigned(shape.nodes),
        free: shape.free.iter().map(free).collect(),
    }
}
