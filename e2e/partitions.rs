//! Links that break while jobs stand at every moment of their lives: each process reaches its API
//! servers through a proxy of its own, and whatever the proxy does, each job comes to its right end
//! once.
//!
//! A partition is one fault of one link for a while, and meets one job at each moment; so one of them
//! tries as many combinations as there are moments.

mod proof;
mod settled;
mod sightings;
mod stage;
mod subjects;
mod wire;

use std::fmt;
use std::time::Duration;

use idlewild::sandbox::Settings;

use crate::harness::{fresh, member, settings};
use stage::Stage;
use subjects::Moment;
use wire::{FAULTS, Fault};

/// Deadline of what waits for a dead connection to be missed, too: generous, as it takes one minute.
const LOST: Duration = Duration::from_mins(3);
/// The member to which work moves; no link of its breaks.
const SPARE: &str = "spare";
/// Which connection breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Link {
    /// An agent's to the hub's API server.
    Hub,
    /// An agent's to its own API server.
    Own,
    /// The hub's to its own API server.
    Controller,
}

/// For how long at least.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Lasts {
    /// A few seconds, in which no call is given up.
    Short,
    /// Longer than a call is waited for, shorter than the silence that is borne.
    Middle,
    /// Longer than that silence; and where work can move, until it has moved.
    Long,
}

impl Lasts {
    fn time(self) -> Duration {
        Duration::from_secs(match self {
            Self::Short => 5,
            Self::Middle => 15,
            Self::Long => 48,
        })
    }

    /// So long runs what is to outlast it.
    fn and_more(self) -> &'static str {
        match self {
            Self::Short => "14s",
            Self::Middle => "25s",
            Self::Long => "75s",
        }
    }
}

/// One fault of one link for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Partition {
    link: Link,
    fault: Fault,
    lasts: Lasts,
}

impl fmt::Display for Partition {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:?}-{:?}-{:?}", self.link, self.fault, self.lasts)
    }
}

impl Partition {
    fn name_of(self, moment: Moment) -> String {
        format!("{self}-{moment:?}").to_lowercase()
    }

    /// Without its own API server an agent can do nothing for its owner; schedulers can.
    fn reclaims(self) -> bool {
        self.link != Link::Own
    }

    /// Whether it lasts until work was moved.
    fn moves(self) -> bool {
        self.link != Link::Controller && self.lasts == Lasts::Long && self.fault.silences()
    }
}

/// `faults` of `link`, each for so long.
fn each(link: Link, lasts: Lasts, faults: &[Fault]) -> Vec<Partition> {
    faults.iter().map(|fault| Partition { link, fault: *fault, lasts }).collect()
}

/// With four members a broken one or two are not most of them: the hub never suspects itself.
fn four(name: &str) -> Settings {
    let names = ["north", "south", "west", SPARE];
    settings(name, names.map(|name| member(name, 3, 8)).into())
}

#[test]
fn links_break_at_every_moment_of_a_job_and_each_job_comes_to_its_end_once() {
    fresh(&four("partitions"), async |federation| {
        let stage = Stage::set(federation).await;
        let (hub, own) = (Link::Hub, Link::Own);
        let (short, middle) = (Lasts::Short, Lasts::Middle);
        let south = [
            each(hub, middle, &[Fault::Busy, Fault::Deaf]),
            each(hub, short, &[Fault::Cut, Fault::Reset]),
        ];
        let west = [
            each(own, middle, &[Fault::Hole, Fault::Mute]),
            each(own, short, &[Fault::Refused, Fault::Cut]),
        ];
        let lanes = [
            ("north", each(hub, Lasts::Long, &[Fault::Forgotten])),
            ("south", south.concat()),
            ("west", west.concat()),
        ];
        stage.break_all(&lanes).await;
        stage.breaks("south", &each(Link::Controller, middle, &[Fault::Hole])).await;
        stage.tried(12);
    });
}

/// Every fault of an agent's `link` on two members, and on a third those that make it silent until
/// its work has moved.
fn every_fault_of(name: &str, link: Link) {
    fresh(&four(name), async |federation| {
        let stage = Stage::set(federation).await;
        let silent = [Fault::Hole, Fault::Forgotten, Fault::Mute, Fault::Busy];
        let lanes = [
            ("north", each(link, Lasts::Long, &silent)),
            ("south", each(link, Lasts::Middle, &FAULTS)),
            ("west", each(link, Lasts::Short, &FAULTS)),
        ];
        stage.break_all(&lanes).await;
        stage.tried(60);
    });
}

#[test]
#[ignore = "many minutes: see make soak"]
fn soak_every_fault_between_agents_and_the_hub() {
    every_fault_of("partitions-hub", Link::Hub);
}

#[test]
#[ignore = "many minutes: see make soak"]
fn soak_every_fault_between_agents_and_their_own_clusters() {
    every_fault_of("partitions-own", Link::Own);
}

#[test]
#[ignore = "many minutes: see make soak"]
fn soak_every_fault_between_the_hub_and_its_own_cluster() {
    fresh(&four("partitions-controller"), async |federation| {
        let stage = Stage::set(federation).await;
        let link = Link::Controller;
        let mut all = each(link, Lasts::Middle, &FAULTS);
        all.extend(each(link, Lasts::Long, &[Fault::Hole, Fault::Forgotten, Fault::Busy]));
        stage.breaks("south", &all).await;
        stage.tried(60);
    });
}
