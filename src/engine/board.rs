//! Many choices among many holders of free GPUs, one after the other, as what is free changes.
//!
//! Holders are nodes to a member, and pools to the hub, which knows of each only how many nodes of
//! which class it has. Nodes of one model with equal [`Idle`] are one class, so a rule judges each
//! class once for each request, however many nodes and choices there are.
//!
//! Invariant: a choice is the best of all nodes by the rule as it last looked; no node is left out because
//! it was judged before it changed.

use std::collections::BTreeMap;

use super::fragmentation::{Ask, Mix, Worth};
use super::idle::{Idle, Place};

/// A class of nodes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Class {
    /// Which model, by its place among those of the board.
    pub model: usize,
    /// What is free on each of them.
    pub idle: Idle,
}

/// How good a class of nodes is for a request.
pub trait Rule {
    /// Takes note of what is free now; whether that changes what it says of anything. `milli` is the
    /// sum of all thousandths of a GPU.
    fn look(&mut self, models: &[String], free: &[(usize, &Idle, u64)], milli: u64) -> bool {
        let _ = (models, free, milli);
        false
    }

    /// Whether it is time to look again.
    fn is_stale(&self, milli: u64) -> bool {
        let _ = milli;
        false
    }

    /// What the class is worth before anything is taken: worked out once, and given back to `cost`.
    fn worth(&self, class: &Class) -> u64;

    /// What taking `ask` from a node of the class costs, and where it goes there; `None` if it does
    /// not fit. Models are looked at already. Lower is better.
    fn cost(&self, class: &Class, worth: u64, ask: &Ask) -> Option<(u64, Place)>;

    /// What decides between classes of equal cost; lower is better. The lowest holder comes after it.
    fn tie(&self, class: &Class) -> (u64, u64);
}

/// The rule of the product: least fragmentation, then fewest free GPUs, then least CPU.
///
/// What is scarce changes as GPUs are taken, and with it what everything is worth. To find that out
/// again before each choice would be exact and slow, so it stands until the free GPUs are fewer or more
/// by one in [`LASTS`].
#[derive(Clone, Debug)]
pub struct Tightest {
    mix: Mix,
    worths: Vec<Worth>,
    /// Thousandths of a GPU that were free when it was found out.
    milli: u64,
}

/// See [`Tightest`]. Looking at every fifth changes no figure by more than a tenth of a point.
const LASTS: u64 = 3;

impl Tightest {
    /// The rule for what is asked for.
    #[must_use]
    pub fn new(mix: Mix) -> Self {
        Self { mix, worths: Vec::new(), milli: 0 }
    }
}

impl Rule for Tightest {
    fn look(&mut self, models: &[String], free: &[(usize, &Idle, u64)], milli: u64) -> bool {
        let models: Vec<&str> = models.iter().map(String::as_str).collect();
        self.worths = self.mix.priced(&models, free);
        self.milli = milli;
        true
    }

    fn is_stale(&self, milli: u64) -> bool {
        self.worths.is_empty() || self.milli.abs_diff(milli) > self.milli / LASTS
    }

    fn worth(&self, class: &Class) -> u64 {
        self.worths[class.model].of(&class.idle)
    }

    fn cost(&self, class: &Class, worth: u64, ask: &Ask) -> Option<(u64, Place)> {
        self.worths[class.model].best(&class.idle, worth, &ask.need)
    }

    fn tie(&self, class: &Class) -> (u64, u64) {
        (class.idle.milli(), class.idle.milli_cpu)
    }
}

/// Where a request goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    /// Who holds the node.
    pub holder: usize,
    /// Number of its class.
    pub class: usize,
    /// The GPUs there.
    pub place: Place,
}

/// What is known of a class.
#[derive(Debug)]
struct Known {
    class: Class,
    worth: Option<u64>,
    tie: (u64, u64),
    /// How many such nodes each holder has.
    holders: BTreeMap<usize, u32>,
    /// Its place among the classes that there are now.
    live: usize,
    /// The look at which `worth` was found.
    look: u32,
}

/// A request and what was found out for it, by number of the class.
#[derive(Debug)]
struct Judged {
    ask: Ask,
    models: Vec<bool>,
    costs: Vec<Cost>,
    /// The look at which they were found.
    look: u32,
}

#[derive(Clone, Copy, Debug)]
enum Cost {
    Unknown,
    TooLarge,
    Fits(u32, Place),
}

/// Free GPUs by class, and who holds them.
#[derive(Debug)]
pub struct Board<R> {
    rule: R,
    models: Vec<String>,
    numbers: BTreeMap<Class, usize>,
    classes: Vec<Known>,
    live: Vec<usize>,
    asks: BTreeMap<Ask, usize>,
    judged: Vec<Judged>,
    /// Thousandths of a GPU that are free in all.
    milli: u64,
    /// How often the rule looked again.
    look: u32,
}

impl<R: Rule> Board<R> {
    /// A board without nodes; `models` gives each model its number.
    #[must_use]
    pub fn new(rule: R, models: Vec<String>) -> Self {
        Self {
            rule,
            models,
            numbers: BTreeMap::new(),
            classes: Vec::new(),
            live: Vec::new(),
            asks: BTreeMap::new(),
            judged: Vec::new(),
            milli: 0,
            look: 0,
        }
    }

    /// The number of a request, for [`Board::choose`].
    pub fn ask(&mut self, ask: &Ask) -> usize {
        if let Some(number) = self.asks.get(ask) {
            return *number;
        }
        let models = self.models.iter().map(|model| ask.accepts(model)).collect();
        self.judged.push(Judged { ask: ask.clone(), models, costs: Vec::new(), look: 0 });
        self.asks.insert(ask.clone(), self.judged.len() - 1);
        self.judged.len() - 1
    }

    /// The class of that number.
    #[must_use]
    pub fn class(&self, number: usize) -> &Class {
        &self.classes[number].class
    }

    /// Adds a node to those of `holder`; the number of its class.
    pub fn add(&mut self, holder: usize, class: Class) -> usize {
        let number = self.number(class);
        let known = &mut self.classes[number];
        self.milli += known.class.idle.milli();
        if known.holders.is_empty() {
            known.live = self.live.len();
            self.live.push(number);
        }
        *known.holders.entry(holder).or_default() += 1;
        number
    }

    /// Takes a node of that class from those of `holder`.
    pub fn remove(&mut self, holder: usize, class: usize) {
        let known = &mut self.classes[class];
        let Some(count) = known.holders.get_mut(&holder) else { return };
        *count -= 1;
        self.milli -= known.class.idle.milli();
        if *count == 0 {
            known.holders.remove(&holder);
        }
        if known.holders.is_empty() {
            let at = known.live;
            self.live.swap_remove(at);
            if let Some(moved) = self.live.get(at) {
                self.classes[*moved].live = at;
            }
        }
    }

    fn number(&mut self, class: Class) -> usize {
        if let Some(number) = self.numbers.get(&class) {
            return *number;
        }
        let tie = self.rule.tie(&class);
        let number = self.classes.len();
        self.numbers.insert(class.clone(), number);
        let holders = BTreeMap::new();
        self.classes.push(Known { class, worth: None, tie, holders, live: 0, look: 0 });
        number
    }

    /// Lets the rule look again, which makes void what it said before if it says so.
    fn look(&mut self) {
        let free = self.live.iter().map(|number| {
            let Known { class, holders, .. } = &self.classes[*number];
            let nodes = holders.values().map(|count| u64::from(*count)).sum();
            (class.model, &class.idle, nodes)
        });
        let free: Vec<_> = free.collect();
        if self.rule.look(&self.models, &free, self.milli) {
            self.look += 1;
        }
    }

    /// The best holder for the request of that number, if it fits anywhere.
    pub fn choose(&mut self, ask: usize) -> Option<Choice> {
        if self.rule.is_stale(self.milli) {
            self.look();
        }
        let judged = &mut self.judged[ask];
        if judged.look != self.look {
            judged.costs.clear();
            judged.look = self.look;
        }
        judged.costs.resize(self.classes.len(), Cost::Unknown);
        let mut best: Option<(u32, usize, Place)> = None;
        for &number in &self.live {
            if matches!(judged.costs[number], Cost::Unknown) {
                let known = &mut self.classes[number];
                judged.costs[number] = judge(&self.rule, known, self.look, judged);
            }
            let Cost::Fits(cost, place) = judged.costs[number] else { continue };
            let better = best.is_none_or(|(least, other, _)| {
                cost < least || cost == least && before(&self.classes[number], &self.classes[other])
            });
            if better {
                best = Some((cost, number, place));
            }
        }
        let (_, class, place) = best?;
        let holder = *self.classes[class].holders.first_key_value()?.0;
        Some(Choice { holder, class, place })
    }
}

fn judge<R: Rule>(rule: &R, known: &mut Known, look: u32, judged: &Judged) -> Cost {
    if !judged.models.get(known.class.model).copied().unwrap_or(false) {
        return Cost::TooLarge;
    }
    if known.worth.is_none() || known.look != look {
        known.worth = Some(rule.worth(&known.class));
        known.look = look;
    }
    let worth = known.worth.unwrap_or(0);
    match rule.cost(&known.class, worth, &judged.ask) {
        Some((cost, place)) => Cost::Fits(u32::try_from(cost).unwrap_or(u32::MAX), place),
        None => Cost::TooLarge,
    }
}

/// Whether `one` comes before `other` at equal cost. Classes that tie in everything else and share
/// their first holder are told apart by what is free there.
fn before(one: &Known, other: &Known) -> bool {
    let key = |known: &Known| (known.tie, known.holders.first_key_value().map(|(at, _)| *at));
    key(one).cmp(&key(other)).then_with(|| one.class.cmp(&other.class)).is_lt()
}

#[cfg(test)]
mod tests;
