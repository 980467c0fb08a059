//! Hubs, members and everybody who works in them, in one process and in virtual time.
//!
//! Invariant: hub and agent are the product's own code, whole but for its sockets; what they know
//! comes through real clients, and a process that ends takes all its tasks along.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::models::{Kubelet, Program, schedule};
use super::network::{Life, Network, Trouble};
use super::server::Server;
use super::time::{Epoch, Machine};
use crate::agent::link::client::{Dial, Reach};
use crate::metrics::{self, Common};
use crate::{agent, hub};

pub(crate) const SYSTEM: &str = "idlewild-system";
pub(crate) const GUESTS: &str = "idlewild-guests";
pub(crate) const TEAM: &str = "team";

/// Metrics that all processes of a thread share: nobody reads them, and making them takes time.
#[derive(Clone)]
pub(crate) struct Counters {
    hub: metrics::Hub,
    executor: metrics::Executor,
    link: metrics::Link,
    common: Common,
}

impl Counters {
    pub(crate) fn new() -> Self {
        let process = metrics::Process::new("simulation");
        Self {
            hub: metrics::Hub::new(&process.registry),
            executor: metrics::Executor::new(&process.registry),
            link: metrics::Link::new(&process.registry),
            common: process.common,
        }
    }
}

/// Where a process runs, whether it does now or not.
pub(crate) struct Slot {
    pub(crate) name: String,
    pub(crate) machine: Machine,
    running: Option<(Life, JoinHandle<String>)>,
    /// When it is started again after it gave up.
    back: Option<Duration>,
}

/// A kubelet starts a container again that ended, after a while.
const AGAIN: Duration = Duration::from_secs(5);

impl Slot {
    fn new(name: String, machine: Machine) -> Self {
        Self { name, machine, running: None, back: None }
    }

    pub(crate) fn is_up(&self) -> bool {
        self.running.is_some()
    }

    /// Whether it ended by itself. A process may give up, and is started again by its kubelet; `Err`
    /// tells of one that broke.
    fn ended(&mut self) -> Result<bool, String> {
        let Some((_, task)) = self.running.as_mut().filter(|(_, task)| task.is_finished()) else {
            return Ok(false);
        };
        let why = futures::FutureExt::now_or_never(task).expect("a finished task");
        self.running = None;
        why.map(|_| true).map_err(|error| error.to_string())
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if let Some((_, task)) = &self.running {
            task.abort();
        }
    }
}

/// A hub: its cluster and its processes, of which one leads.
pub(crate) struct Hub {
    pub(crate) id: String,
    pub(crate) server: Server,
    pub(crate) slots: Vec<Slot>,
}

/// A member: its cluster, its nodes and its agent.
pub(crate) struct Member {
    pub(crate) name: String,
    pub(crate) server: Server,
    pub(crate) kubelet: Kubelet,
    pub(crate) agent: Slot,
    /// Whether its API server works.
    pub(crate) up: bool,
    stepped: u64,
    due: Option<Timestamp>,
}

/// How many of everything.
#[derive(Clone, Debug)]
pub(crate) struct Shape {
    pub(crate) hubs: usize,
    /// Processes of each hub.
    pub(crate) processes: usize,
    /// Whether they elect a leader; else all work at once.
    pub(crate) elect: bool,
    /// Nodes of each member.
    pub(crate) members: Vec<usize>,
    pub(crate) gpus_per_node: i64,
    /// Parts per million by which clocks go wrong, hubs' and members'.
    pub(crate) rates: (i64, i64),
    pub(crate) lease_seconds: u64,
}

/// All of it.
pub(crate) struct Federation {
    pub(crate) epoch: Epoch,
    pub(crate) network: Network,
    pub(crate) shape: Shape,
    pub(crate) hubs: Vec<Hub>,
    pub(crate) members: Vec<Member>,
    counters: Counters,
    pub(crate) restored: bool,
}

impl Federation {
    /// Everything is set up as the charts do it, members have joined, and all processes start.
    pub(crate) fn new(seed: u64, shape: Shape, counters: Counters) -> Self {
        let epoch = Epoch::begin();
        let network = Network::new(seed, epoch);
        let slot = |name: String, rate| Slot::new(name, Machine::new(epoch, rate));
        let hubs = (0..shape.hubs).map(|number| {
            let slots = (0..shape.processes)
                .map(|process| slot(format!("hub-{number}-{process}"), shape.rates.0));
            let server = Server::new(u32::try_from(number).expect("few"));
            Hub { id: format!("hub-{number}"), server, slots: slots.collect() }
        });
        let members = (0..shape.members.len()).map(|number| Member {
            name: format!("m{number}"),
            server: Server::new(100 + u32::try_from(number).expect("few")),
            kubelet: Kubelet::default(),
            agent: slot(format!("agent-m{number}"), shape.rates.1),
            up: true,
            stepped: 0,
            due: None,
        });
        let (hubs, members) = (hubs.collect(), members.collect());
        let mut all = Self { epoch, network, shape, hubs, members, counters, restored: false };
        all.set_time();
        super::setup::hubs(&mut all);
        super::setup::members(&mut all);
        for hub in 0..all.hubs.len() {
            (0..all.shape.processes).for_each(|process| all.start_hub(hub, process));
        }
        (0..all.members.len()).for_each(|member| all.start_agent(member));
        all
    }

    /// All servers know the time.
    pub(crate) fn set_time(&self) {
        let now = self.epoch.now();
        let servers = self.hubs.iter().map(|hub| &hub.server);
        let servers = servers.chain(self.members.iter().map(|member| &member.server));
        servers.for_each(|server| server.store().now = now);
    }

    pub(crate) fn start_hub(&mut self, hub: usize, process: usize) {
        let (restored, elect) = (self.restored, self.shape.elect);
        let Hub { server, slots, id } = &mut self.hubs[hub];
        let slot = &mut slots[process];
        let life = self.network.born(&slot.name);
        let client = self.network.client(&life, server, id);
        let settings = hub::Settings {
            namespace: SYSTEM.into(),
            listen: ([127, 0, 0, 1], 0).into(),
            elect,
            identity: format!("{}#{}", life.name, life.number),
            restored,
        };
        let figures = (self.counters.hub.clone(), self.counters.common.clone());
        let time = (slot.machine.clock(), Arc::default());
        let task = tokio::spawn(async move {
            let never = std::future::pending();
            format!("{:?}", Box::pin(hub::serve(client, settings, time, figures, never)).await)
        });
        slot.running = Some((life, task));
    }

    pub(crate) fn start_agent(&mut self, member: usize) {
        let Self { network, members, hubs, counters, .. } = self;
        let Member { server, agent, name, .. } = &mut members[member];
        let life = network.born(&agent.name);
        let clients = agent::Clients {
            link: network.client(&life, server, name),
            executor: network.client(&life, server, name),
        };
        let hubs: Vec<_> = hubs.iter().map(|hub| (hub.id.clone(), hub.server.clone())).collect();
        let (way, own) = (network.clone(), life.clone());
        let dial = Dial::with(move |Reach { grant, .. }| {
            let (id, server) = hubs.iter().find(|(id, _)| *id == grant.hub_id).expect("a hub");
            Ok(way.client(&own, server, id))
        });
        let settings = agent::Settings {
            namespace: SYSTEM.into(),
            guest_namespace: GUESTS.into(),
            listen: ([127, 0, 0, 1], 0).into(),
            sandbox: true,
            proxy: agent::link::client::Proxy::default(),
        };
        let counters = counters.clone();
        let told = agent::Told::new(counters.executor, counters.link, counters.common);
        let serve = agent::serve(clients, settings, told, (dial, agent.machine.clock()));
        let task = tokio::spawn(async move { serve.await.to_string() });
        agent.running = Some((life, task));
    }

    pub(crate) fn slot(&mut self, process: Process) -> &mut Slot {
        match process {
            Process::Hub(hub, process) => &mut self.hubs[hub].slots[process],
            Process::Agent(member) => &mut self.members[member].agent,
        }
    }

    pub(crate) fn start(&mut self, process: Process) {
        if self.slot(process).is_up() {
            return;
        }
        match process {
            Process::Hub(hub, process) => self.start_hub(hub, process),
            Process::Agent(member) => self.start_agent(member),
        }
    }

    /// The process ends without a word.
    pub(crate) fn kill(&mut self, process: Process) {
        self.slot(process).back = None;
        if let Some((life, task)) = self.slot(process).running.take() {
            task.abort();
            self.network.dies(&life);
            self.cut(&life.name);
        }
    }

    fn cut(&self, name: &str) {
        let servers = self.hubs.iter().map(|hub| &hub.server);
        let servers = servers.chain(self.members.iter().map(|member| &member.server));
        servers.for_each(|server| server.cut_watches(name));
    }

    pub(crate) fn processes(&self) -> Vec<Process> {
        let hubs = (0..self.hubs.len()).flat_map(|hub| {
            (0..self.shape.processes).map(move |process| Process::Hub(hub, process))
        });
        hubs.chain((0..self.members.len()).map(Process::Agent)).collect()
    }

    /// Ends those whose death was planned at a write; which they were.
    pub(crate) fn bury(&mut self) -> Vec<Process> {
        let struck = std::mem::take(&mut self.network.wire().struck);
        let is = |slot: &Slot| {
            slot.running.as_ref().is_some_and(|(life, _)| struck.contains(&life.number))
        };
        let dead: Vec<_> =
            self.processes().into_iter().filter(|process| is(self.slot(*process))).collect();
        for process in &dead {
            self.kill(*process);
        }
        dead
    }

    /// Starts again whoever gave up; `Err` tells who broke, and why.
    pub(crate) fn revive(&mut self) -> Result<(), String> {
        for process in self.processes() {
            match self.slot(process).ended() {
                Ok(false) => {}
                Ok(true) => self.slot(process).back = Some(self.epoch.elapsed() + AGAIN),
                Err(why) => return Err(format!("{} broke: {why}", self.slot(process).name)),
            }
            let now = self.epoch.elapsed();
            if self.slot(process).back.take_if(|back| *back <= now).is_some() {
                self.start(process);
            }
        }
        Ok(())
    }

    /// Schedulers, kubelets and garbage collectors do what there is to do.
    pub(crate) fn step(&mut self, program: &mut dyn FnMut(&Value) -> Program) {
        self.set_time();
        let now = self.epoch.now();
        for hub in &self.hubs {
            hub.server.store().collect_garbage();
        }
        for member in &mut self.members {
            let mut store = member.server.store();
            let due = member.due.is_some_and(|due| due <= now);
            if !member.up {
                member.due = member.kubelet.step(None, now, program);
                continue;
            }
            if !due && store.revision() == member.stepped {
                continue;
            }
            // What one does wakes the others, until nobody has anything to do.
            for round in 0.. {
                assert!(
                    round < 100,
                    "the models of {} never rest: {:?}",
                    member.name,
                    store.log.last()
                );
                let before = store.revision();
                store.collect_garbage();
                schedule(&mut store);
                member.due = member.kubelet.step(Some(&mut store), now, program);
                if store.revision() == before {
                    break;
                }
            }
            member.stepped = store.revision();
        }
    }

    /// Whether nothing keeps a member's agent from seeing and helping its owner.
    pub(crate) fn is_clear(&self, member: &Member) -> bool {
        let wire = self.network.wire();
        let way = wire.trouble(&member.agent.name, &member.name).is_none() && wire.mishaps == 0;
        way && member.agent.is_up() && member.up && member.kubelet.cut.is_empty()
    }

    /// Something about a member changed that its server does not know of.
    pub(crate) fn touch(&mut self, member: usize) {
        self.members[member].stepped = 0;
    }

    /// The API server of a member stops or comes back.
    pub(crate) fn set_member_up(&mut self, member: usize, up: bool) {
        let member = &mut self.members[member];
        member.up = up;
        member.stepped = 0;
        let trouble = (!up).then_some(Trouble::Refused);
        self.network.set_trouble(&member.agent.name, &member.name, trouble);
        if !up {
            member.server.cut_watches(&member.agent.name);
        }
    }
}

/// Which process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Process {
    /// Of a hub.
    Hub(usize, usize),
    /// Of a member.
    Agent(usize),
}

/// How long models take to see what happened.
pub(crate) const TICK: Duration = Duration::from_millis(100);

/// An object of ours.
pub(crate) fn object(kind: &str, name: &str, spec: &Value) -> Value {
    json!({"apiVersion": "idlewild.dev/v1alpha1", "kind": kind,
        "metadata": {"name": name}, "spec": spec})
}
