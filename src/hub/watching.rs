//! What the hub watches, and those who compute what it would do.

use kube::{Api, Client};
use tokio::sync::mpsc::Sender;

use super::facts::Event;
use crate::api::LABEL_MEMBER;
use crate::cluster::watch::feed;

macro_rules! fed {
    ($client:expr, $sender:expr, $event:expr, $labels:expr) => {
        feed(Api::all($client.clone()), $labels, $sender.clone(), $event)
    };
}

/// Feeds everything that rounds depend on into a loop.
pub(super) fn for_rounds(
    client: &Client,
    sender: &Sender<Event>,
) -> impl Future<Output = ()> + use<> {
    let all = (
        fed!(client, sender, Event::Job, None),
        fed!(client, sender, Event::Lease, None),
        fed!(client, sender, Event::Pool, None),
        fed!(client, sender, Event::Member, None),
        fed!(client, sender, Event::Heartbeat, Some(LABEL_MEMBER)),
        fed!(client, sender, Event::Queue, None),
        fed!(client, sender, Event::Namespace, None),
        fed!(client, sender, Event::Priority, None),
    );
    async move {
        tokio::join!(all.0, all.1, all.2, all.3, all.4, all.5, all.6, all.7);
    }
}

/// Feeds everything that the hub watches into its loop.
pub(super) fn everything(
    client: &Client,
    sender: &Sender<Event>,
) -> impl Future<Output = ()> + use<> {
    let rounds = for_rounds(client, sender);
    let joins = fed!(client, sender, Event::Join, None);
    async move {
        tokio::join!(rounds, joins);
    }
}
