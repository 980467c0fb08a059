//! What a round learnt of the requests that it decided on: which pools may take them, and how well.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::book::{Book, WORD};
use super::filters::Filters;
use super::index::Index;
use super::order::{Kind, Order};
use super::score::Score;
use super::{Choice, Fits, Verdict, fitting, shortage};
use crate::engine::fit::Replica;
use crate::engine::model::{Demand, Refusal, Request};
use crate::engine::rules::Wish;

/// Pools of all orders that are kept at once, each at about 64 bytes: 64 MiB.
const KEPT: usize = 1 << 20;

/// Pools that no lasting rule keeps from a request, and how many are kept from it, by reason.
#[derive(Clone, Debug)]
struct Candidates<'a> {
    wishes: Vec<Wish<'a>>,
    order: usize,
    /// A bit for each place.
    able: Vec<u64>,
    /// By place: see [`Filters::costs`].
    costs: Arc<[u32]>,
    refusals: BTreeMap<Refusal, u32>,
    /// The answer of all pools if none took it: what is left only falls, so none will.
    refused: Option<BTreeMap<Refusal, u32>>,
}

/// Which pools may take which request, and how well each takes replicas of its kind.
///
/// Many requests differ in filters, CPU and memory alone: they share one order. So a decision reads
/// the standings of the able pools, one after another in a flat list, and looks at the nodes of few.
///
/// Why not a sorted set for each request: some hundred requests would each have to move the pools
/// that changed, which took ten times as long over a thousand pools.
#[derive(Debug, Default)]
pub struct Known<'a> {
    requests: BTreeMap<&'a Request, usize>,
    candidates: Vec<Candidates<'a>>,
    kinds: BTreeMap<Kind<'a>, usize>,
    orders: Vec<Order<'a>>,
    filters: Filters<'a>,
    index: Option<Index<'a>>,
}

impl<'a> Known<'a> {
    /// Picks the pool for the next replica of `demand`.
    ///
    /// Guarantees: the chosen pool breaks no rule of [`Refusal`], and `room` replicas can be taken
    /// there. Assumes that `book` is the same one each time.
    #[must_use]
    pub fn place(&mut self, demand: &'a Demand, book: &Book<'a>) -> Verdict<'a> {
        self.place_as(demand, &demand.request, book)
    }

    /// The same with `request` in place of its own.
    #[must_use]
    pub fn place_as(
        &mut self,
        demand: &'a Demand,
        request: &'a Request,
        book: &Book<'a>,
    ) -> Verdict<'a> {
        let known = self.number(request, book);
        let candidates = &mut self.candidates[known];
        if let Some(refusals) = candidates.refused.as_ref().filter(|_| demand.barred.is_empty()) {
            return Verdict::Refused(refusals.clone());
        }
        let order = &mut self.orders[candidates.order];
        order.catch_up(book);
        let asking = Asking { demand, candidates, order, book };
        if let Some(choice) = asking.best() {
            return Verdict::Chosen(choice);
        }
        let refusals = asking.refusals();
        if demand.barred.is_empty() {
            candidates.refused = Some(refusals.clone());
        }
        Verdict::Refused(refusals)
    }

    /// The replica on each model in each pool that could take the request at some time, in the order
    /// of ids.
    #[must_use]
    pub fn able(&mut self, request: &'a Request, book: &Book<'a>) -> Vec<(usize, Replica<'a>)> {
        let known = self.number(request, book);
        let candidates = &self.candidates[known];
        let order = &self.orders[candidates.order];
        let on = |place: usize| {
            let chances = order.chances(place).iter();
            chances.map(move |chance| (place, candidates.wishes[chance.wish as usize].replica))
        };
        bits(&candidates.able).flat_map(on).collect()
    }

    fn number(&mut self, request: &'a Request, book: &Book<'a>) -> usize {
        let known = self.requests.get(request).copied();
        known.unwrap_or_else(|| self.learn(request, book))
    }

    /// Finds the candidates of `request`. Everything is forgotten when it grows too large: thousands
    /// of different requests over thousands of pools would not fit in memory.
    fn learn(&mut self, request: &'a Request, book: &Book<'a>) -> usize {
        let pools = book.pools().len();
        // The bits of a request are a hundredth of an order.
        let kept = (self.orders.len() + self.candidates.len() / 100).saturating_mul(pools);
        if kept > KEPT {
            *self = Self { index: self.index.take(), ..Self::default() };
        }
        let index = self.index.get_or_insert_with(|| Index::of(book));
        let order = *self.kinds.entry(Kind::of(request)).or_insert_with(|| {
            self.orders.push(Order::of(request, book, index));
            self.orders.len() - 1
        });
        let found = &self.orders[order];
        let (able, refusals) = self.filters.open(request, book, found.unable());
        let wishes = found.wishes_of(request);
        let costs = self.filters.costs(request, book);
        self.candidates.push(Candidates { wishes, order, able, costs, refusals, refused: None });
        self.requests.insert(request, self.candidates.len() - 1);
        self.candidates.len() - 1
    }
}

/// One demand and what is known of its request.
struct Asking<'r, 'a> {
    demand: &'a Demand,
    candidates: &'r Candidates<'a>,
    order: &'r Order<'a>,
    book: &'r Book<'a>,
}

impl<'a> Asking<'_, 'a> {
    /// The best pool of all that the demand does not avoid, else of those that it does.
    fn best(&self) -> Option<Choice<'a>> {
        let open = self.open();
        if self.demand.avoided.is_empty() {
            return self.best_of(open);
        }
        let mut elsewhere = open.clone();
        for place in self.demand.avoided.iter().filter_map(|id| self.book.place_of(id)) {
            elsewhere[place / WORD] &= !(1 << (place % WORD));
        }
        self.best_of(elsewhere).or_else(|| self.best_of(open))
    }

    /// The best pool of those at the places that are `left`.
    fn best_of(&self, mut left: Vec<u64>) -> Option<Choice<'a>> {
        let mut best: Option<(Score, usize, Fits<'a>)> = None;
        while let Some((bound, place)) = self.least(&left) {
            if best.as_ref().is_some_and(|(least, at, _)| (*least, *at) < (bound, place)) {
                break;
            }
            left[place / WORD] &= !(1 << (place % WORD));
            let Some((score, fits)) = self.score(place) else { continue };
            if best.as_ref().is_none_or(|(least, at, _)| (score, place) < (*least, *at)) {
                best = Some((score, place, fits));
            }
            if score == bound {
                break;
            }
        }
        let (_, place, fits) = best?;
        Some(Choice { place, replica: fits.wish.replica, room: fits.room })
    }

    /// The places of pools that may take the demand now, room apart.
    fn open(&self) -> Vec<u64> {
        let words = self.candidates.able.iter().zip(self.book.answering());
        let mut open: Vec<u64> = words.map(|(able, answering)| able & answering).collect();
        for place in self.demand.barred.keys().filter_map(|id| self.book.place_of(id)) {
            let left = self.book.pool(place);
            if self.demand.is_barred(left.id, left.pool) {
                open[place / WORD] &= !(1 << (place % WORD));
            }
        }
        open
    }

    /// The place that would be best if each took the most wanted model that it has free.
    fn least(&self, places: &[u64]) -> Option<(Score, usize)> {
        let (standings, costs) = (self.order.standings(), &self.candidates.costs);
        match costs.is_empty() {
            true => least(places, |place| standings[place]),
            false => least(places, |place| standings[place].at_cost(costs[place])),
        }
    }

    /// What of the pool the demand gets, and how good that is.
    fn score(&self, place: usize) -> Option<(Score, Fits<'a>)> {
        let left = self.book.pool(place);
        let fits = fitting(left, &self.candidates.wishes, self.order.chances(place))?;
        let standing = self.order.standing_at(fits.wish.rank, place, self.book)?;
        let cost = self.candidates.costs.get(place).copied().unwrap_or(0);
        Some((standing.at_cost(cost), fits))
    }

    /// Why each pool takes nothing, once it is known that none does.
    fn refusals(&self) -> BTreeMap<Refusal, u32> {
        let mut refusals = self.candidates.refusals.clone();
        for place in bits(&self.candidates.able) {
            let left = self.book.pool(place);
            let why = match () {
                () if self.demand.is_barred(left.id, left.pool) => Refusal::Refused,
                () if self.book.answers(place) == 0 => Refusal::TooManyUnanswered,
                () => shortage(left, &self.candidates.wishes, self.order.chances(place)),
            };
            *refusals.entry(why).or_default() += 1;
        }
        refusals
    }
}

/// The first of the places with the least score, if any has one. This is what a decision looks at most
/// of all, so it is a plain loop over numbers.
fn least(places: &[u64], score: impl Fn(usize) -> Score) -> Option<(Score, usize)> {
    let (mut least, mut at) = (Score::NONE, 0);
    for (word, bits) in places.iter().enumerate() {
        let mut left = *bits;
        while left != 0 {
            let place = word * WORD + left.trailing_zeros() as usize;
            left &= left - 1;
            // Places rise with ids, so of equal scores the first one has the lowest id.
            let score = score(place);
            if score < least {
                (least, at) = (score, place);
            }
        }
    }
    (least != Score::NONE).then_some((least, at))
}

/// The places whose bits are set, rising.
fn bits(words: &[u64]) -> impl Iterator<Item = usize> {
    words.iter().enumerate().flat_map(|(word, bits)| {
        let mut left = *bits;
        std::iter::from_fn(move || {
            let bit = (left != 0).then(|| left.trailing_zeros() as usize)?;
            left &= left - 1;
            Some(word * WORD + bit)
        })
    })
}
