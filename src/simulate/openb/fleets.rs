//! Nodes under each policy and in one or two levels: a pod comes, a node is chosen and filled.

use crate::engine::board::{Board, Class, Rule, Tightest};
use crate::engine::fragmentation::Mix;
use crate::engine::idle::{Gpus, Idle, Place};

use super::files::Trace;
use super::order::Random;
use super::rules::{BestFit, Gradient};
use super::{Levels, Options, Policy};

/// A node that was filled.
#[derive(Clone, Debug)]
pub(super) struct Taken {
    /// Which node of the trace.
    pub node: usize,
    /// What was free there.
    pub before: Idle,
    /// What still is.
    pub after: Idle,
}

/// Nodes that fill up.
pub(super) trait Fleet {
    /// Places a pod of that kind, if it fits anywhere.
    fn place(&mut self, kind: usize) -> Option<Taken>;
}

/// The nodes of `trace`, all free, under the policy that `options` name.
pub(super) fn fleet<'a>(
    options: &Options,
    trace: &'a Trace,
    random: Random,
) -> Box<dyn Fleet + 'a> {
    let members = match options.levels {
        Levels::Flat => 1,
        Levels::Two => usize::try_from(options.members).unwrap_or(usize::MAX),
    };
    match options.policy {
        Policy::Default => by_rule(trace, members, || Tightest::new(Mix::new(&trace.asked()))),
        Policy::Bestfit => by_rule(trace, members, || BestFit),
        Policy::Fgd => by_rule(trace, members, || Gradient::new(trace)),
        Policy::Random => Box::new(Chance::new(trace, members, random)),
    }
}

fn by_rule<'a, R: Rule + 'a>(
    trace: &'a Trace,
    members: usize,
    rule: impl Fn() -> R,
) -> Box<dyn Fleet + 'a> {
    match members {
        1 => Box::new(Flat::new(trace, rule(), |_| true)),
        _ => Box::new(Two::new(trace, members, rule)),
    }
}

/// Some nodes of the trace, and one choice among them.
struct Flat<'a, R> {
    trace: &'a Trace,
    board: Board<R>,
    /// Number of each kind's request on the board.
    asks: Vec<usize>,
}

impl<'a, R: Rule> Flat<'a, R> {
    fn new(trace: &'a Trace, rule: R, has: impl Fn(usize) -> bool) -> Self {
        let mut board = Board::new(rule, trace.models.clone());
        let asks = trace.asks.iter().map(|ask| board.ask(ask)).collect();
        for (place, node) in trace.nodes.iter().enumerate().filter(|(place, _)| has(*place)) {
            board.add(place, Class { model: node.model, idle: node.idle.clone() });
        }
        Self { trace, board, asks }
    }
}

impl<R: Rule> Fleet for Flat<'_, R> {
    fn place(&mut self, kind: usize) -> Option<Taken> {
        let choice = self.board.choose(self.asks[kind])?;
        let Class { model, idle: before } = self.board.class(choice.class).clone();
        let after = before.less(&self.trace.asks[kind].need, choice.place);
        self.board.remove(choice.holder, choice.class);
        self.board.add(choice.holder, Class { model, idle: after.clone() });
        Some(Taken { node: choice.holder, before, after })
    }
}

/// A hub that knows how many nodes of which class each member has, and members that know their nodes.
struct Two<'a, R> {
    trace: &'a Trace,
    hub: Board<R>,
    asks: Vec<usize>,
    members: Vec<Flat<'a, R>>,
}

impl<'a, R: Rule> Two<'a, R> {
    fn new(trace: &'a Trace, count: usize, rule: impl Fn() -> R) -> Self {
        let dealt = |member| move |node| node % count == member;
        let members = (0..count).map(|member| Flat::new(trace, rule(), dealt(member))).collect();
        let mut hub = Board::new(rule(), trace.models.clone());
        let asks = trace.asks.iter().map(|ask| hub.ask(ask)).collect();
        for (place, node) in trace.nodes.iter().enumerate() {
            hub.add(place % count, published(node.model, &node.idle));
        }
        Self { trace, hub, asks, members }
    }
}

impl<R: Rule> Fleet for Two<'_, R> {
    fn place(&mut self, kind: usize) -> Option<Taken> {
        let member = self.hub.choose(self.asks[kind])?.holder;
        let taken = self.members[member].place(kind)?;
        let model = self.trace.nodes[taken.node].model;
        let before = self.hub.add(member, published(model, &taken.before));
        // Once for the node that was just added to learn its number, once for the node itself.
        self.hub.remove(member, before);
        self.hub.remove(member, before);
        self.hub.add(member, published(model, &taken.after));
        Some(taken)
    }
}

/// The class under which a member publishes a node: CPU and memory rounded down, so that like nodes
/// count together and nothing is promised that is not there.
fn published(model: usize, idle: &Idle) -> Class {
    let (milli_cpu, memory) = (rounded(idle.milli_cpu), rounded(idle.memory));
    Class { model, idle: Idle { milli_cpu, memory, ..idle.clone() } }
}

/// The number cut to its first [`DIGITS`] binary digits.
fn rounded(number: u64) -> u64 {
    let surplus = (u64::BITS - number.leading_zeros()).saturating_sub(DIGITS);
    number >> surplus << surplus
}

/// Binary digits of CPU and memory that a member publishes of a node.
const DIGITS: u32 = 5;

/// Chance: a node that fits, then a GPU of it that fits.
struct Chance<'a> {
    trace: &'a Trace,
    members: usize,
    nodes: Vec<Idle>,
    random: Random,
}

impl<'a> Chance<'a> {
    fn new(trace: &'a Trace, members: usize, random: Random) -> Self {
        let nodes = trace.nodes.iter().map(|node| node.idle.clone()).collect();
        Self { trace, members, nodes, random }
    }

    /// The nodes where a pod of that kind fits.
    fn able(&self, kind: usize) -> Vec<usize> {
        let ask = &self.trace.asks[kind];
        let accepted: Vec<bool> =
            self.trace.models.iter().map(|model| ask.accepts(model)).collect();
        let able = self.nodes.iter().enumerate().filter(|(place, idle)| {
            accepted[self.trace.nodes[*place].model] && idle.places(&ask.need).next().is_some()
        });
        able.map(|(place, _)| place).collect()
    }

    /// One of the GPUs that the pod can have, each as likely as any other.
    fn gpu(&mut self, node: usize, gpus: Gpus) -> Place {
        let Gpus::Part(milli) = gpus else { return Place::Whole };
        let idle = &self.nodes[node];
        let able: Vec<u32> = idle.parts.iter().copied().filter(|left| *left >= milli).collect();
        let whole = usize::try_from(idle.whole).unwrap_or(0);
        let at = self.random.below(able.len() + whole);
        able.get(at).map_or(Place::Whole, |left| Place::Part(*left))
    }
}

impl Fleet for Chance<'_> {
    fn place(&mut self, kind: usize) -> Option<Taken> {
        let mut able = self.able(kind);
        if able.is_empty() {
            return None;
        }
        if self.members > 1 {
            let mut members: Vec<usize> = able.iter().map(|node| node % self.members).collect();
            members.sort_unstable();
            members.dedup();
            let member = members[self.random.below(members.len())];
            able.retain(|node| node % self.members == member);
        }
        let node = able[self.random.below(able.len())];
        let need = self.trace.asks[kind].need;
        let place = self.gpu(node, need.gpus);
        let before = self.nodes[node].clone();
        let after = before.less(&need, place);
        self.nodes[node] = after.clone();
        Some(Taken { node, before, after })
    }
}
