//! What the driver sees of jobs and their pods on all API servers, by one monotonic clock.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use futures::TryStreamExt;
use idlewild::api::{GUEST_NAMESPACE, GpuJob, LABEL_JOB_UID};
use idlewild::sandbox::{Federation, USER, USER_NAMESPACES};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{WatchEvent, WatchParams};
use kube::core::Request;
use kube::{Client, Resource};
use serde::Deserialize;
use tokio::task::JoinSet;

/// A watch that breaks is opened again after this time.
const AGAIN: Duration = Duration::from_millis(100);

/// What was seen of one job.
#[derive(Clone, Debug, Default)]
pub(super) struct Story {
    /// Just before the call that created it.
    pub(super) submitted: Option<Duration>,
    /// Its pods by UID.
    pub(super) pods: BTreeMap<String, PodStory>,
    /// Its status said that it succeeded.
    pub(super) over: Option<Duration>,
    /// Its status said that it failed.
    pub(super) failed: bool,
}

/// What was seen of one pod.
#[derive(Clone, Debug, Default)]
pub(super) struct PodStory {
    /// The first event of it.
    pub(super) made: Duration,
    /// It ran.
    pub(super) ran: Option<Duration>,
    /// It ended.
    pub(super) ended: Option<Duration>,
    /// It was removed.
    pub(super) gone: bool,
}

/// The stories of all jobs by UID.
pub(super) type Stories = BTreeMap<String, Story>;

/// Watches on all API servers; they end with it.
pub(super) struct Sight {
    began: Instant,
    stories: Arc<Mutex<Stories>>,
    _watches: JoinSet<()>,
}

/// All that is read of a watched object: the driver shares two cores with what it measures.
#[derive(Clone, Debug, Deserialize)]
struct Slim {
    metadata: SlimMeta,
    status: Option<SlimStatus>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct SlimMeta {
    uid: String,
    resource_version: String,
    #[serde(default)]
    labels: BTreeMap<String, String>,
}

#[derive(Clone, Debug, Deserialize)]
struct SlimStatus {
    phase: Option<String>,
}

impl Sight {
    /// Opens the watches: jobs of the user's first namespace, guests of every member.
    pub(super) async fn open(federation: &Federation) -> Self {
        let (began, stories) = (Instant::now(), Arc::new(Mutex::new(Stories::new())));
        let mut watches = JoinSet::new();
        let user =
            federation.hub.cluster.client_for(USER).await.expect("the user has a kubeconfig");
        let (url, told) = (GpuJob::url_path(&(), Some(USER_NAMESPACES[0])), stories.clone());
        watches.spawn(watch(user, url, move |gone, job| see_job(&told, began, gone, &job)));
        for member in federation.members.values() {
            let (url, told) = (Pod::url_path(&(), Some(GUEST_NAMESPACE)), stories.clone());
            let client = member.cluster.admin.clone();
            watches.spawn(watch(client, url, move |gone, pod| see_pod(&told, began, gone, &pod)));
        }
        Self { began, stories, _watches: watches }
    }

    /// The time by the driver's clock.
    pub(super) fn now(&self) -> Duration {
        self.began.elapsed()
    }

    /// Notes when the job `uid` was submitted.
    pub(super) fn submitted(&self, uid: String, at: Duration) {
        self.stories().entry(uid).or_default().submitted = Some(at);
    }

    /// What was seen so far.
    pub(super) fn stories(&self) -> MutexGuard<'_, Stories> {
        self.stories.lock().expect("no watch panics")
    }

    /// Begins anew: what comes now belongs to the next measurement.
    pub(super) fn forget(&self) {
        self.stories().clear();
    }
}

fn see_job(stories: &Mutex<Stories>, began: Instant, gone: bool, job: &Slim) {
    if gone {
        return;
    }
    let at = began.elapsed();
    let mut stories = stories.lock().expect("no watch panics");
    let story = stories.entry(job.metadata.uid.clone()).or_default();
    match job.status.as_ref().and_then(|status| status.phase.as_deref()) {
        Some("Succeeded") => drop(story.over.get_or_insert(at)),
        Some("Failed") => story.failed = true,
        _ => {}
    }
}

fn see_pod(stories: &Mutex<Stories>, began: Instant, gone: bool, pod: &Slim) {
    let at = began.elapsed();
    let Some(job) = pod.metadata.labels.get(LABEL_JOB_UID) else { return };
    let mut stories = stories.lock().expect("no watch panics");
    let pods = &mut stories.entry(job.clone()).or_default().pods;
    let made = || PodStory { made: at, ..PodStory::default() };
    let story = pods.entry(pod.metadata.uid.clone()).or_insert_with(made);
    story.gone |= gone;
    match pod.status.as_ref().and_then(|status| status.phase.as_deref()) {
        Some("Running") => drop(story.ran.get_or_insert(at)),
        Some("Succeeded" | "Failed") => {
            story.ran.get_or_insert(at);
            story.ended.get_or_insert(at);
        }
        _ => {}
    }
}

/// Watches `url` for ever, from where it was when it broke.
async fn watch(client: Client, url: String, mut see: impl FnMut(bool, Slim)) {
    let mut version = String::new();
    loop {
        let params = WatchParams::default().timeout(290);
        let request = Request::new(&url).watch(&params, &version).expect("the literal is valid");
        if let Ok(events) = client.request_events::<Slim>(request).await {
            let mut events = std::pin::pin!(events);
            while let Ok(Some(event)) = events.try_next().await {
                let (gone, object) = match event {
                    WatchEvent::Added(object) | WatchEvent::Modified(object) => (false, object),
                    WatchEvent::Deleted(object) => (true, object),
                    WatchEvent::Bookmark(mark) => {
                        version = mark.metadata.resource_version;
                        continue;
                    }
                    WatchEvent::Error(error) => {
                        panic!("a watch of {url} lost its place: {error:?}")
                    }
                };
                version.clone_from(&object.metadata.resource_version);
                see(gone, object);
            }
        }
        tokio::time::sleep(AGAIN).await;
    }
}
