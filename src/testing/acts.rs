//! Carrying out what a plan says.

use http::Method;
use rand::RngExt;
use rand::seq::IndexedRandom;
use serde_json::{Value, json};

use super::federation::{GUESTS, Process, SYSTEM, TEAM};
use super::models::{delete, patch};
use super::network::Trouble;
use super::plan::{Act, Wish};
use super::run::Run;
use super::server::{At, Call, Server, Store};

/// Does what `act` says.
pub(crate) fn apply(run: &mut Run, act: &Act) {
    run.all.set_time();
    run.all.network.wire().trace.say(&format!("{act:?}"));
    match act {
        Act::Submit { .. } | Act::Edit { .. } | Act::Delete { .. } => user(run, act),
        Act::Owner { .. }
        | Act::Home { .. }
        | Act::Offer { .. }
        | Act::Cordon { .. }
        | Act::Evict { .. }
        | Act::Forget { .. } => owns(run, act),
        Act::Kill(process) => {
            run.all.network.wire().meet("Kill");
            run.doubt(*process);
            run.all.kill(*process);
        }
        Act::Start(process) => {
            run.doubt(*process);
            run.all.start(*process);
        }
        Act::Way { from, to, trouble } => way(run, (from, to), *trouble),
        Act::Mishaps(many) => {
            run.all.network.wire().mishaps = *many;
            (0..run.all.members.len()).for_each(|member| run.doubt(Process::Agent(member)));
        }
        Act::CutWatches { hub, number } => {
            run.all.network.wire().meet("CutWatches");
            for process in run.all.processes() {
                let name = run.all.slot(process).name.clone();
                server(run, *hub, *number).cut_watches(&name);
            }
        }
        Act::Compact { hub, number } => {
            run.all.network.wire().meet("Compact");
            server(run, *hub, *number).store().compact();
        }
        Act::Api { member, up } => api(run, *member, *up),
        Act::Node { member, node, cut, rebooted } => {
            self::node(run, (*member, *node), *cut, *rebooted);
        }
        Act::Clock(process, seconds) => {
            run.all.network.wire().meet("Clock");
            run.all.slot(*process).machine.jump(*seconds);
        }
        Act::Backup { hub } => {
            let backup = run.all.hubs[*hub].server.store().snapshot();
            run.backups.insert(*hub, backup);
        }
        Act::Restore { hub } => restore(run, *hub),
        Act::Lie { hub, member } => lie(run, *hub, *member),
    }
}

/// The store of a hub is its backup again.
fn restore(run: &mut Run, hub: usize) {
    let Some(backup) = run.backups.remove(&hub) else { return };
    run.all.network.wire().meet("Restore");
    let slots = run.all.shape.processes;
    (0..slots).for_each(|slot| run.all.kill(Process::Hub(hub, slot)));
    {
        let mut store = run.all.hubs[hub].server.store();
        let gone = store.revision().saturating_sub(backup.revision);
        store.restore(&backup);
        store.bump(gone + 1_000);
    }
    run.judge.restored(hub, &run.all);
    run.all.restored = true;
    (0..slots).for_each(|slot| run.all.start(Process::Hub(hub, slot)));
    run.all.restored = false;
}

/// What users do.
fn user(run: &mut Run, act: &Act) {
    match act {
        Act::Submit { hub, job } => {
            create(&mut run.all.hubs[*hub].server.store(), "user", (TEAM, "gpujobs"), job);
        }
        Act::Edit { hub, name, spec } => {
            let at = At::new("gpujobs", TEAM, name);
            let store = &mut run.all.hubs[*hub].server.store();
            patch(store, "user", (&at, ""), &json!({ "spec": spec }));
        }
        Act::Delete { hub, name } => {
            let at = At::new("gpujobs", TEAM, name);
            delete(&mut run.all.hubs[*hub].server.store(), "user", &at, None);
        }
        other => unreachable!("no user does {other:?}"),
    }
}

/// What owners do.
fn owns(run: &mut Run, act: &Act) {
    match act {
        Act::Owner { member, name, gpus, manner } => owner(run, *member, (name, *gpus), *manner),
        Act::Home { member, name } => {
            let at = At::new("pods", "owner", name);
            delete(&mut run.all.members[*member].server.store(), "owner", &at, Some(1));
        }
        Act::Offer { member, offer } => self::offer(run, *member, offer),
        Act::Cordon { member, node, on } => {
            run.doubt(Process::Agent(*member));
            let at = node_at(run, *member, *node);
            let store = &mut run.all.members[*member].server.store();
            patch(store, "owner", (&at, ""), &json!({"spec": {"unschedulable": on}}));
        }
        Act::Evict { member } => take(run, *member, "pods"),
        Act::Forget { member } => take(run, *member, "guestleases"),
        other => unreachable!("no owner does {other:?}"),
    }
}

/// A way breaks, or is mended.
fn way(run: &mut Run, (from, to): (&str, &str), trouble: Option<Trouble>) {
    run.all.network.set_trouble(from, to, trouble);
    let own = run.all.members.iter().position(|one| one.name == to);
    if let Some(member) = own {
        run.doubt(Process::Agent(member));
    }
}

fn api(run: &mut Run, member: usize, up: bool) {
    if !up {
        run.all.network.wire().meet("Api");
    }
    run.doubt(Process::Agent(member));
    run.all.set_member_up(member, up);
}

fn server(run: &Run, hub: bool, number: usize) -> Server {
    match hub {
        true => run.all.hubs[number % run.all.hubs.len()].server.clone(),
        false => run.all.members[number % run.all.members.len()].server.clone(),
    }
}

fn create(store: &mut Store, who: &str, (namespace, plural): (&str, &str), body: &Value) {
    let root = if plural == "pods" { "/api/v1" } else { "/apis/idlewild.dev/v1alpha1" };
    let path = format!("{root}/namespaces/{namespace}/{plural}");
    let body = body.to_string();
    let call = Call::parse(&Method::POST, &path, body.as_bytes(), "application/json".into());
    let (code, answer) = store.answer(who, &call);
    assert!(code < 300 || code == 409, "{path}: {answer}");
}

fn node_at(run: &Run, member: usize, node: usize) -> At {
    At::new("nodes", "", &format!("{}-n{node}", run.all.members[member].name))
}

/// The owner's pod comes.
fn owner(run: &mut Run, member: usize, (name, gpus): (&str, i64), manner: Wish) {
    let mut pod = json!({"metadata": {"name": name}, "spec": {"terminationGracePeriodSeconds": 1,
        "containers": [{"name": "own", "image": "i", "args": ["", "0", "Polite"],
            "resources": {"limits": {"nvidia.com/gpu": gpus.to_string()}}}]}});
    match manner {
        Wish::Plain => {}
        Wish::Never => pod["spec"]["priorityClassName"] = "polite".into(),
        Wish::Low => pod["spec"]["priorityClassName"] = "low".into(),
    }
    let what = match manner {
        Wish::Plain => "Owner",
        Wish::Never | Wish::Low => "OwnerWhoMayNotPreempt",
    };
    run.all.network.wire().meet(what);
    create(&mut run.all.members[member].server.store(), "owner", ("owner", "pods"), &pod);
}

fn offer(run: &mut Run, member: usize, offer: &Value) {
    run.doubt(Process::Agent(member));
    let mut all = json!({"paused": false, "maxGpus": null, "reserveGpus": 0, "noticeSeconds": 30});
    for (key, value) in offer.as_object().into_iter().flatten() {
        all[key] = value.clone();
    }
    let at = At::new("gpupools", SYSTEM, "lab");
    let store = &mut run.all.members[member].server.store();
    patch(store, "owner", (&at, ""), &json!({"spec": {"offer": all}}));
}

/// The owner deletes one of the guests' objects.
fn take(run: &mut Run, member: usize, plural: &str) {
    run.doubt(Process::Agent(member));
    let server = run.all.members[member].server.clone();
    let mut store = server.store();
    let all: Vec<At> = store.of_kind(plural, GUESTS).map(|(at, _)| at.clone()).collect();
    if let Some(at) = all.choose(&mut run.random) {
        run.all.network.wire().meet(format!("delete {plural}"));
        delete(&mut store, "owner", at, None);
    }
}

fn node(run: &mut Run, (member, node): (usize, usize), cut: bool, rebooted: bool) {
    run.doubt(Process::Agent(member));
    let name = node_at(run, member, node).name;
    let now = run.all.epoch.now();
    let kubelet = &mut run.all.members[member].kubelet;
    if cut {
        kubelet.cut.entry(name.clone()).or_insert(now);
        if rebooted {
            kubelet.reboot(&name, now);
        }
        run.all.network.wire().meet(if rebooted { "NodeLost" } else { "NodeCut" });
    } else {
        kubelet.cut.remove(&name);
    }
    run.all.touch(member);
}

/// A member says of a lease what is not true.
fn lie(run: &mut Run, hub: usize, member: usize) {
    let namespace = format!("member-{}", run.all.members[member].name);
    let server = run.all.hubs[hub].server.clone();
    let mut store = server.store();
    let all: Vec<(At, Value)> = store
        .of_kind("gpuleases", &namespace)
        .map(|(at, lease)| (at.clone(), Value::clone(lease)))
        .collect();
    let Some((at, lease)) = all.choose(&mut run.random) else { return };
    let now = store.now;
    let nonsense = match run.random.random_range(0..5) {
        0 => json!({"phase": "Released", "endTime": now, "endReason": "Completed",
            "ended": [{"reason": "Succeeded", "exitCode": 0, "indexes": "0-90000"}]}),
        1 => json!({"phase": "Running", "serial": 9_000_000_000_i64, "pods": {"ready": 77}}),
        2 => {
            json!({"ended": [{"reason": "Failed", "exitCode": 1, "indexes": lease["spec"]["indexes"]}]})
        }
        3 => json!({"phase": "Released", "endTime": "1970-01-01T00:00:00Z"}),
        _ => {
            json!({"phase": "Refused", "refusal": {"reason": "Nonsense", "message": "\u{0}\u{7}"}})
        }
    };
    run.lied.insert(hub);
    run.doubts.1.insert(hub);
    run.all.network.wire().meet("Lie");
    // The server may refuse it.
    let path =
        format!("/apis/idlewild.dev/v1alpha1/namespaces/{namespace}/gpuleases/{}/status", at.name);
    let body = json!({ "status": nonsense }).to_string();
    let merge = "application/merge-patch+json".to_owned();
    store.answer("liar", &Call::parse(&Method::PATCH, &path, body.as_bytes(), merge));
}

/// All of the owner's pods go.
pub(crate) fn all_home(run: &mut Run, member: usize) {
    let mut store = run.all.members[member].server.store();
    let all: Vec<At> = store.of_kind("pods", "owner").map(|(at, _)| at.clone()).collect();
    for at in all {
        delete(&mut store, "owner", &at, Some(1));
    }
}

/// Users let all their jobs run.
pub(crate) fn all_resume(run: &mut Run) {
    for hub in &run.all.hubs {
        let mut store = hub.server.store();
        let suspended =
            store.of_kind("gpujobs", "").filter(|(_, job)| job["spec"]["suspend"] == true);
        let suspended: Vec<At> = suspended.map(|(at, _)| at.clone()).collect();
        for at in suspended {
            patch(&mut store, "user", (&at, ""), &json!({"spec": {"suspend": false}}));
        }
    }
}
