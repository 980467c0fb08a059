//! The watch of a hub's leases, and whether it runs: heartbeats promise that it does.

use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use kube::Client;
use tokio::sync::Notify;
use tokio::sync::mpsc::Sender;
use tracing::debug;

use super::Link;
use crate::api::GpuLease;
use crate::cluster::Seen;
use crate::cluster::watch::feed;

/// First wait before a broken watch is started again; it doubles while no list is complete.
const FIRST_RETRY: Duration = Duration::from_secs(1);
/// Longest wait before a broken watch is started again.
const LAST_RETRY: Duration = Duration::from_secs(10);

/// Watches the hub's leases. A broken watch begins again with a complete list, so that nothing new
/// is accepted before everything was read; so does one whose hub no longer answers anything else.
pub(super) async fn run<E>(
    link: &Link,
    hub: &Client,
    sender: Sender<E>,
    event: impl Fn(Seen<GpuLease>) -> E,
) -> Infallible {
    let mut pause = FIRST_RETRY;
    loop {
        let (broken, listed) = (Notify::new(), AtomicBool::new(false));
        let keep = |seen: Seen<GpuLease>| {
            match seen {
                Seen::Listed => {
                    listed.store(true, Ordering::Relaxed);
                    link.live.send_replace(true);
                }
                Seen::Broken => {
                    link.live.send_replace(false);
                    broken.notify_one();
                }
                _ => {}
            }
            event(seen)
        };
        tokio::select! {
            biased;
            () = feed(link.leases(hub), None, sender.clone(), keep) => {}
            () = broken.notified() => {}
            () = link.stale.notified() => {}
        }
        link.live.send_replace(false);
        pause =
            if listed.load(Ordering::Relaxed) { FIRST_RETRY } else { (pause * 2).min(LAST_RETRY) };
        debug!(grant = link.grant.name, ?pause, "the watch of leases begins again");
        tokio::time::sleep(pause).await;
    }
}
