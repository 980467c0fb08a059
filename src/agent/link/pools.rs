//! Pictures out: each of the owner's pools as the hub may see it.
//!
//! Invariant: a change goes out at once, but each pool is written at most once a second, so that
//! busy books do not become busy hubs.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::time::Duration;

use futures::future::join_all;
use kube::api::{DeleteParams, ListParams, ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt};
use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tracing::debug;

use super::Link;
use super::held::Held;
use crate::api::gpupool::ModelGpus;
use crate::api::{GpuPool, GpuPoolStatus, HubGrantSpec};
use crate::cluster::apply::{difference, status};
use crate::cluster::watch::feed;
use crate::cluster::{Error, Outcome, Seen, chain, within};

/// The condition that speaks of all hubs' guests.
const RECLAIMING: &str = "Reclaiming";
/// Least time between two pictures of a pool.
const BETWEEN: Duration = Duration::from_secs(1);
/// Wait after a picture that did not arrive.
const RETRY: Duration = Duration::from_secs(5);

/// Publishes the owner's pools for ever.
pub(super) async fn run(link: &Link, hub: &Client) -> Infallible {
    let local: Api<GpuPool> = Api::namespaced(link.local.clone(), &link.grant.home);
    let (sender, mut events) = mpsc::channel(64);
    let work = async {
        let mut gallery = Gallery::open(link, hub).await;
        let (mut orphans, mut live) = (link.orphans.subscribe(), link.live.subscribe());
        live.mark_unchanged();
        loop {
            let next = gallery.next();
            tokio::select! {
                biased;
                Ok(()) = orphans.changed() => gallery.look_at_all(),
                Ok(()) = live.changed() => {
                    // It may have been restored since its copies were read.
                    if *live.borrow_and_update() {
                        gallery.read().await;
                    }
                }
                () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {
                    gallery.publish().await;
                }
                Some(event) = events.recv() => gallery.hear(event),
            }
        }
    };
    tokio::select! {
        biased;
        () = feed(local, None, sender, |seen: Seen<GpuPool>| seen) => {
            unreachable!("the channel outlives the watch")
        }
        never = work => never,
    }
}

/// What the owner has, what the hub shows, and when each picture may next be written.
struct Gallery<'a> {
    link: &'a Link,
    api: Api<GpuPool>,
    pools: Held<GpuPool>,
    copies: BTreeMap<String, GpuPool>,
    dirty: BTreeSet<String>,
    not_before: BTreeMap<String, Instant>,
}

impl<'a> Gallery<'a> {
    /// Reads what the hub shows of us, however long that takes.
    async fn open(link: &'a Link, hub: &Client) -> Self {
        let mut gallery = Self {
            link,
            api: Api::namespaced(hub.clone(), &link.grant.spec.namespace),
            pools: Held::new(|pool: &GpuPool| Some(pool.name_any())),
            dirty: BTreeSet::new(),
            copies: BTreeMap::new(),
            not_before: BTreeMap::new(),
        };
        gallery.read().await;
        gallery
    }

    /// Reads all copies, however long that takes.
    async fn read(&mut self) {
        let copies = loop {
            match within("list copies of pools", self.api.list(&ListParams::default())).await {
                Ok(copies) => break copies,
                Err(error) => {
                    debug!(grant = self.link.grant.name, error = chain(&error), "no pictures");
                }
            }
            tokio::time::sleep(RETRY).await;
        };
        self.copies = copies.into_iter().map(|copy| (copy.name_any(), copy)).collect();
        self.dirty.extend(self.copies.keys().cloned());
        self.look_at_all();
    }

    fn look_at_all(&mut self) {
        self.dirty.extend(self.pools.iter().map(|(name, _)| name.clone()));
    }

    fn hear(&mut self, event: Seen<GpuPool>) {
        let before = self.room();
        self.dirty.extend(self.pools.see(event));
        if self.room() != before {
            self.look_at_all();
        }
    }

    /// GPUs that the hub may still lease, over all pools; `None` = no limit but the pools'.
    fn room(&self) -> Option<i64> {
        let most = self.link.grant.spec.max_gpus?;
        let held = self.pools.iter().map(|(_, pool)| guests(pool, &self.link.grant.spec.hub_id));
        Some(most.saturating_sub(held.sum()).max(0))
    }

    /// When the next picture may be written; `None` while there is none to write.
    fn next(&self) -> Option<Instant> {
        if !self.pools.is_complete() {
            return None;
        }
        let now = Instant::now();
        self.dirty.iter().map(|name| self.not_before.get(name).copied().unwrap_or(now)).min()
    }

    fn is_due(&self, name: &str) -> bool {
        self.not_before.get(name).is_none_or(|at| *at <= Instant::now())
    }

    /// Writes every picture that is due.
    async fn publish(&mut self) {
        let due: Vec<String> =
            self.dirty.iter().filter(|name| self.is_due(name)).cloned().collect();
        let writes = due.iter().map(|name| {
            let (pool, copy) = (self.pools.get(name), self.copies.get(name));
            let mut picture = pool.and_then(|pool| shown(pool, &self.link.grant.spec, self.room()));
            if let Some(status) = picture.as_mut().and_then(|picture| picture.status.as_mut()) {
                self.link.orphans.show(name, status);
                status.incarnation = self.link.record.highest();
            }
            write(&self.api, picture, copy.cloned())
        });
        let results = join_all(writes).await;
        for (name, result) in due.into_iter().zip(results) {
            let wait = match result {
                Ok(Written::Nothing) => {
                    self.dirty.remove(&name);
                    continue;
                }
                Ok(Written::Copy(copy)) => {
                    self.dirty.remove(&name);
                    self.copies.insert(name.clone(), *copy);
                    BETWEEN
                }
                Ok(Written::Removed) => {
                    self.dirty.remove(&name);
                    self.copies.remove(&name);
                    BETWEEN
                }
                Err(error) => self.failed(&name, &error).await,
            };
            self.not_before.insert(name, Instant::now() + wait);
        }
    }

    /// Looks at the copy again: the outcome is unknown, or somebody else wrote it.
    async fn failed(&mut self, name: &str, error: &Error) -> Duration {
        let grant = &self.link.grant.name;
        debug!(grant, pool = name, reason = error.reason(), error = chain(error), "no picture");
        match within("get copy of pool", self.api.get_opt(name)).await {
            Ok(Some(copy)) => drop(self.copies.insert(name.to_owned(), copy)),
            Ok(None) => drop(self.copies.remove(name)),
            Err(_) => return RETRY,
        }
        match error.outcome() {
            Outcome::Refused => RETRY,
            _ => BETWEEN,
        }
    }
}

/// GPUs of `pool` that guests of the hub hold.
fn guests(pool: &GpuPool, hub_id: &str) -> i64 {
    let hubs = pool.status.iter().flat_map(|status| &status.hubs);
    hubs.filter(|hub| hub.hub_id == hub_id).map(|hub| hub.gpus).sum()
}

/// `pool` as the hub of `grant` may see it, which may lease `room` more GPUs; `None` if its owner
/// does not lend to that hub. Of other hubs it sees nothing but that less is free.
fn shown(pool: &GpuPool, grant: &HubGrantSpec, room: Option<i64>) -> Option<GpuPool> {
    let allowed = pool.spec.allow.hubs.as_ref();
    if allowed.is_some_and(|hubs| !hubs.contains(&grant.hub_id)) {
        return None;
    }
    let mut spec = pool.spec.clone();
    spec.allow.hubs = allowed.map(|_| vec![grant.hub_id.clone()]);
    let own = guests(pool, &grant.hub_id);
    let status = pool.status.clone().map(|mut status| {
        status.summary.member.clone_from(&grant.member);
        status.hubs.clear();
        status.idle_history = None;
        status.vacate_history = None;
        status.conditions.retain(|condition| condition.type_ != RECLAIMING);
        status.gpus.owner += status.gpus.guests.saturating_sub(own);
        status.gpus.guests = own;
        status.gpus.free = status.gpus.free.min(room.unwrap_or(i64::MAX));
        mask(&mut status.models, own, status.gpus.free);
        status
    });
    Some(GpuPool {
        metadata: ObjectMeta {
            name: pool.metadata.name.clone(),
            labels: pool.metadata.labels.clone(),
            ..ObjectMeta::default()
        },
        spec,
        status,
    })
}

/// Makes the sums by model those of one hub, whose guests hold `own` GPUs and may have `free`. Nobody
/// says on which models its guests are: where several hubs share a pool of several models, they are
/// counted on the first by name.
fn mask(models: &mut [ModelGpus], own: i64, free: i64) {
    let (mut own, mut free) = (own, free);
    for of_model in models {
        let guests = of_model.guests.min(own);
        own -= guests;
        of_model.owner += of_model.guests - guests;
        of_model.guests = guests;
        of_model.free = of_model.free.min(free);
        free -= of_model.free;
    }
}

enum Written {
    Nothing,
    Copy(Box<GpuPool>),
    Removed,
}

/// Makes the hub's `copy` equal to `wanted`.
async fn write(
    api: &Api<GpuPool>,
    wanted: Option<GpuPool>,
    copy: Option<GpuPool>,
) -> Result<Written, Error> {
    let (wanted, copy) = match (wanted, copy) {
        (None, None) => return Ok(Written::Nothing),
        (None, Some(copy)) => return remove(api, &copy).await,
        (Some(wanted), None) => {
            let params = PostParams::default();
            let made = within("create copy of pool", api.create(&params, &wanted)).await?;
            (wanted, Some(made))
        }
        (Some(wanted), copy) => (wanted, copy),
    };
    let Some(before) = copy else { return Ok(Written::Nothing) };
    let mut now = before.clone();
    if let Some(change) = specified(&before, &wanted) {
        let (params, patch) = (PatchParams::default(), Patch::Merge(change));
        let name = before.name_any();
        now = within("change copy of pool", api.patch(&name, &params, &patch)).await?;
    }
    if let Some(new) = &wanted.status {
        let old: Option<GpuPoolStatus> = now.status.clone();
        if let Some(written) = status(api, &now, old.as_ref(), new, "publish pool").await? {
            now = written;
        }
    }
    Ok(Written::Copy(Box::new(now)))
}

async fn remove(api: &Api<GpuPool>, copy: &GpuPool) -> Result<Written, Error> {
    let params = DeleteParams::default();
    match within("delete copy of pool", api.delete(&copy.name_any(), &params)).await {
        Err(error) if error.outcome() != Outcome::Gone => Err(error),
        _ => Ok(Written::Removed),
    }
}

/// The patch that gives `before` the labels and the spec of `wanted`.
fn specified(before: &GpuPool, wanted: &GpuPool) -> Option<serde_json::Value> {
    let plain =
        |pool: &GpuPool| json!({ "metadata": { "labels": pool.labels() }, "spec": pool.spec });
    difference(&plain(before), &plain(wanted))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::gpupool::{HubGpus, PoolGpus};

    fn grant() -> HubGrantSpec {
        HubGrantSpec { hub_id: "hub".into(), member: "north".into(), ..HubGrantSpec::default() }
    }

    fn pool(hubs: Option<&[&str]>) -> GpuPool {
        let mut pool = GpuPool::new(
            "lab",
            crate::api::GpuPoolSpec {
                node_selector: None,
                model_override: None,
                pod_defaults: None,
                offer: crate::api::gpupool::Offer::default(),
                allow: crate::api::gpupool::Allow::default(),
                location: None,
            },
        );
        pool.spec.allow.hubs = hubs.map(|hubs| hubs.iter().map(|&hub| hub.into()).collect());
        pool.metadata.labels = Some([("a".to_owned(), "b".to_owned())].into());
        pool.metadata.uid = Some("local".into());
        pool.status = Some(GpuPoolStatus { serial: 7, ..GpuPoolStatus::default() });
        pool
    }

    #[test]
    fn a_hub_sees_the_pools_that_are_lent_to_it_and_whose_they_are() {
        for (hubs, seen) in
            [(None, true), (Some(&["hub"][..]), true), (Some(&["other"][..]), false)]
        {
            assert_eq!(shown(&pool(hubs), &grant(), None).is_some(), seen, "{hubs:?}");
        }
        assert!(shown(&pool(Some(&[])), &grant(), None).is_none(), "an empty list allows nothing");
        let copy = shown(&pool(Some(&["hub", "other"])), &grant(), None).unwrap();
        assert_eq!(copy.spec.allow.hubs, Some(vec!["hub".to_owned()]), "others are not named");
        let copy = shown(&pool(None), &grant(), None).unwrap();
        assert_eq!(copy.status.as_ref().unwrap().summary.member, "north");
        assert_eq!(copy.metadata.uid, None);
        assert_eq!(copy.labels(), pool(None).labels());
    }

    #[test]
    fn a_hub_sees_of_other_hubs_that_less_is_free_and_no_more_than_it_may_have() {
        let mut pool = pool(None);
        let status = pool.status.as_mut().unwrap();
        let until = crate::api::convert::time(0);
        status.idle_history = Some(crate::api::gpupool::IdleHistory { until, sizes: Vec::new() });
        status.survival = vec![crate::api::gpupool::SizeSurvival { gpus: 8, chances: vec![7] }];
        status.gpus = PoolGpus { offered: 64, owner: 8, guests: 24, free: 32 };
        status.hubs = vec![
            HubGpus { hub_id: "hub".into(), gpus: 4 },
            HubGpus { hub_id: "other".into(), gpus: 20 },
        ];
        let of_model = |model: &str, owner, guests, free| {
            let model = model.to_owned();
            ModelGpus { model, offered: 32, owner, guests, free }
        };
        status.models = vec![of_model("A100", 8, 2, 22), of_model("H100", 0, 22, 10)];
        let seen = |room| shown(&pool, &grant(), room).unwrap().status.unwrap();
        let all = seen(None);
        assert_eq!(all.gpus, PoolGpus { offered: 64, owner: 28, guests: 4, free: 32 });
        assert!(all.hubs.is_empty());
        assert_eq!((all.idle_history, all.survival[0].chances[0]), (None, 7));
        assert_eq!(all.models, [of_model("A100", 8, 2, 22), of_model("H100", 20, 2, 10)]);
        let little = seen(Some(6));
        assert_eq!(little.gpus.free, 6);
        assert_eq!(little.models.iter().map(|model| model.free).sum::<i64>(), 6);
    }

    #[test]
    fn nothing_is_written_when_nothing_differs_and_a_removed_label_is_removed() {
        let copy = shown(&pool(None), &grant(), None).unwrap();
        assert_eq!(specified(&copy, &copy), None);
        let mut bare = copy.clone();
        bare.metadata.labels = None;
        bare.spec.offer.paused = true;
        let patch = json!({
            "metadata": { "labels": { "a": null } },
            "spec": { "offer": { "paused": true } },
        });
        assert_eq!(specified(&copy, &bare), Some(patch));
    }
}
