//! What the tests share: federations, waiting, and short ways to ask the obvious.
//!
//! [`shared`] lends one federation to most tests; they keep to names of their own. What pauses, kills
//! or dismisses something gets its own from [`fresh`].

use std::panic::{AssertUnwindSafe, resume_unwind};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Condvar, LazyLock, Mutex, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use idlewild::api::GpuJob;
use idlewild::api::gpujob::Phase;
use idlewild::cluster::chain;
use idlewild::sandbox::{
    self, ControlPlane, Federation, MemberSettings, PoolSettings, Reach, Settings, USER,
    USER_NAMESPACES,
};
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, Client};
use tokio::runtime::{Builder, Runtime};

/// Deadline of anything that is a matter of seconds: generous, since two cores run it all.
pub(crate) const SOON: Duration = Duration::from_mins(1);

/// The federation that most tests share and the runtime in which its tasks live. Clients belong to
/// the runtime that made them, so tests that share it run in it too.
static SHARED: LazyLock<(Runtime, Federation)> = LazyLock::new(|| {
    let runtime = runtime();
    let members = MemberSettings::examples(2);
    let federation = runtime.block_on(started(&settings("shared", members)));
    (runtime, federation)
});

/// Far above what any test takes: a test that hangs must end with its name, not with the gate's
/// patience.
const HANGS: Duration = Duration::from_mins(15);

/// Ends the process if it is not dropped in time, by a thread that no runtime can block.
struct Watchdog {
    _alive: Sender<()>,
}

impl Watchdog {
    fn new() -> Self {
        let (alive, ends) = channel::<()>();
        let test = std::thread::current().name().unwrap_or("a test").to_owned();
        std::thread::spawn(move || {
            if ends.recv_timeout(HANGS) == Err(RecvTimeoutError::Timeout) {
                eprintln!("{test} hangs: it has not ended within {HANGS:?}");
                std::process::abort();
            }
        });
        Self { _alive: alive }
    }
}

/// One test at a time uses the shared federation: they would take each other's GPUs.
static TURN: Mutex<()> = Mutex::new(());

/// Tests that run now; all others wait, which costs nothing. So a test that waits for its turn holds
/// nobody up, however many there are.
static RUNNING: (Mutex<usize>, Condvar) = (Mutex::new(0), Condvar::new());

/// The right to run, one for each core.
struct Slot;

impl Slot {
    fn take() -> Self {
        let most = std::thread::available_parallelism().map_or(1, usize::from);
        let running = RUNNING.0.lock().unwrap_or_else(PoisonError::into_inner);
        let free = RUNNING.1.wait_while(running, |running| *running >= most);
        *free.unwrap_or_else(PoisonError::into_inner) += 1;
        Self
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        *RUNNING.0.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        RUNNING.1.notify_one();
    }
}

/// Runs `test` with the shared federation, which has two joined members.
pub(crate) fn shared(test: impl AsyncFnOnce(&'static Federation)) {
    // A test that failed leaves the federation as usable as one that did not.
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let _slot = Slot::take();
    let _watchdog = Watchdog::new();
    let (runtime, federation) = &*SHARED;
    runtime.block_on(test(federation));
}

/// Runs `test` with a federation of its own, and stops that whatever happens.
pub(crate) fn fresh(settings: &Settings, test: impl AsyncFnOnce(&mut Federation)) {
    let _slot = Slot::take();
    let _watchdog = Watchdog::new();
    runtime().block_on(async {
        let mut federation = started(settings).await;
        let outcome = AssertUnwindSafe(test(&mut federation)).catch_unwind().await;
        let stopped = federation.stop().await;
        if let Err(panic) = outcome {
            resume_unwind(panic);
        }
        stopped.unwrap_or_else(|error| panic!("stop the federation: {}", chain(&error)));
    });
}

/// A federation of `members` in a directory of its own named `name`.
pub(crate) fn settings(name: &str, members: Vec<MemberSettings>) -> Settings {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("e2e").join(name);
    // Benchmarks measure the program as it is released.
    let built = env!("CARGO_BIN_EXE_idlewild").into();
    let idlewild = std::env::var_os("IDLEWILD_PROGRAM").map_or(built, PathBuf::from);
    Settings { idlewild, ..Settings::new(root, dir, members) }
}

/// The same without charts, hub and agents.
pub(crate) fn control_planes(name: &str, members: Vec<MemberSettings>) -> Settings {
    Settings { reach: Reach::ControlPlanes, ..settings(name, members) }
}

/// A member in the EU with one pool of A100 nodes.
pub(crate) fn member(name: &str, nodes: u32, gpus_per_node: u32) -> MemberSettings {
    MemberSettings {
        name: name.into(),
        jurisdiction: "EU".into(),
        region: "eu-north".into(),
        pools: vec![PoolSettings {
            name: "a100".into(),
            product: "NVIDIA-A100-SXM4-80GB".into(),
            nodes,
            gpus_per_node,
        }],
    }
}

/// Looks until `probe` finds something; its `Err` says what there is instead.
///
/// # Panics
/// With the last thing seen, when `limit` is over.
pub(crate) async fn eventually<T>(
    what: &str,
    limit: Duration,
    probe: impl AsyncFnMut() -> Result<T, String>,
) -> T {
    sandbox::eventually(what, limit, probe).await.unwrap_or_else(|error| panic!("{error}"))
}

/// Applies manifests as `user`; `Err` is what the API server said.
pub(crate) async fn apply(
    cluster: &ControlPlane,
    user: &str,
    manifests: &str,
) -> Result<(), String> {
    let arguments = ["apply", "-f", "-"];
    cluster.kubectl(user, &arguments, manifests).await.map(drop).map_err(|error| chain(&error))
}

/// Jobs in the first namespace of the user, with the user's rights.
pub(crate) async fn jobs(federation: &Federation) -> Api<GpuJob> {
    let client = federation.hub.cluster.client_for(USER).await.expect("the user has a kubeconfig");
    Api::namespaced(client, USER_NAMESPACES[0])
}

/// Waits until the job is in one of `phases` and returns it.
pub(crate) async fn job_in(
    api: &Api<GpuJob>,
    name: &str,
    phases: &[Phase],
    limit: Duration,
) -> GpuJob {
    eventually(&format!("{name} in {phases:?}"), limit, async || {
        let job = api.get(name).await.map_err(|error| error.to_string())?;
        let status = job.status.clone().unwrap_or_default();
        match status.phase {
            Some(phase) if phases.contains(&phase) => Ok(job),
            phase => Err(format!("{phase:?} {}", status.summary.reason)),
        }
    })
    .await
}

/// Pods of `namespace`.
pub(crate) fn pods(client: &Client, namespace: &str) -> Api<Pod> {
    Api::namespaced(client.clone(), namespace)
}

/// Phase of a pod and the exit codes of its containers that ended.
pub(crate) fn end_of(pod: &Pod) -> (String, Vec<i32>) {
    let status = pod.status.clone().unwrap_or_default();
    let codes = status.container_statuses.unwrap_or_default().into_iter().filter_map(|container| {
        container.state.and_then(|state| state.terminated).map(|end| end.exit_code)
    });
    (status.phase.unwrap_or_default(), codes.collect())
}

async fn started(settings: &Settings) -> Federation {
    match Federation::start(settings).await {
        Ok(federation) => federation,
        // Without the programs a test fails, and the sentence names the command that builds them.
        Err(error) => panic!("start the sandbox: {}", chain(&error)),
    }
}

fn runtime() -> Runtime {
    Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime needs threads and file descriptors only")
}
