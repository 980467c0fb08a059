//! The pools that may take a request, kept in the order of their scores.

use std::collections::{BTreeMap, BTreeSet};

use super::book::Book;
use super::bracket::Bracket;
use super::{Choice, Score, Verdict, cost, fitting, score, shortage};
use crate::engine::model::{Refusal, Request};
use crate::engine::rules::{Chance, Wish, lasting_refusal, wishes};

/// Entries of all lists of candidates that are kept at once: about 64 bytes each, so 32 MiB.
const KEPT: usize = 1 << 19;

/// Of a pool that is in no list.
const NOWHERE: u32 = u32::MAX;

/// A pool that no lasting rule keeps from the request.
#[derive(Clone, Copy, Debug)]
struct Able {
    place: usize,
    /// See [`cost`].
    cost: u64,
    /// Where its chances begin in the list of all; they end where those of the next one begin.
    chances: usize,
}

/// Pools that could take a request at some time, best first, and how many could not, by reason.
///
/// Invariant: it stands as it did after `seen` changes of its book. Pools that changed later are
/// scored again when the next demand asks, and only those: over a thousand pools that is the
/// difference between a look at each of them and a look at a few.
#[derive(Clone, Debug)]
pub struct Candidates<'a> {
    wishes: Vec<Wish<'a>>,
    /// By place, and so by id.
    able: Vec<Able>,
    chances: Vec<Chance>,
    /// Which of `able` the pool at a place is.
    at: Vec<u32>,
    refusals: BTreeMap<Refusal, u32>,
    order: Bracket<Score>,
    seen: usize,
}

/// The pools that no lasting rule keeps from the request, found once for equal requests.
#[must_use]
pub fn candidates<'a>(request: &'a Request, book: &Book<'a>) -> Candidates<'a> {
    let mut found = Candidates {
        wishes: wishes(request),
        able: Vec::new(),
        chances: Vec::new(),
        at: vec![NOWHERE; book.pools().len()],
        refusals: BTreeMap::new(),
        order: Bracket::of(Vec::new()),
        seen: book.changes(),
    };
    let mut chances = Vec::new();
    for (place, left) in book.pools().iter().enumerate() {
        let pool = (left.id, left.pool);
        if let Some(why) = lasting_refusal(request, pool, &mut found.wishes, &mut chances) {
            *found.refusals.entry(why).or_default() += 1;
            continue;
        }
        found.at[place] = u32::try_from(found.able.len()).unwrap_or(NOWHERE);
        let (cost, first) = (cost(request, left), found.chances.len());
        found.able.push(Able { place, cost, chances: first });
        found.chances.append(&mut chances);
    }
    let scores = (0..found.able.len()).map(|able| found.score(able, book)).collect();
    found.order = Bracket::of(scores);
    found
}

impl<'a> Candidates<'a> {
    /// How many pools it holds.
    fn len(&self) -> usize {
        self.able.len()
    }

    /// The best pool that is not `barred`, by place; if there is none, why not.
    pub(super) fn verdict(&mut self, barred: BTreeSet<usize>, book: &Book<'a>) -> Verdict<'a> {
        self.catch_up(book);
        let out = barred.iter().filter_map(|place| self.able_at(*place)).collect::<Vec<_>>();
        // Those that are barred step out for this one question.
        let aside: Vec<_> = out.iter().map(|able| self.order.replace(*able, None)).collect();
        let best = self.order.best();
        for (able, score) in out.into_iter().zip(aside) {
            self.order.replace(able, score);
        }
        let choice = best.and_then(|able| self.choice(able, book));
        choice.map_or_else(|| Verdict::Refused(self.refusals(&barred, book)), Verdict::Chosen)
    }

    /// Scores the pools again that changed meanwhile.
    fn catch_up(&mut self, book: &Book) {
        for place in book.changed_since(self.seen) {
            if let Some(able) = self.able_at(place) {
                let score = self.score(able, book);
                self.order.replace(able, score);
            }
        }
        self.seen = book.changes();
    }

    fn able_at(&self, place: usize) -> Option<usize> {
        (self.at[place] != NOWHERE).then_some(self.at[place] as usize)
    }

    fn chances(&self, able: usize) -> &[Chance] {
        let end = self.able.get(able + 1).map_or(self.chances.len(), |next| next.chances);
        &self.chances[self.able[able].chances..end]
    }

    /// `None` if nothing of the request fits there now.
    fn score(&self, able: usize, book: &Book) -> Option<Score> {
        let Able { place, cost, .. } = self.able[able];
        if book.answers(place) == 0 {
            return None;
        }
        let left = book.pool(place);
        let fits = fitting(left, &self.wishes, self.chances(able))?;
        Some(score(left, &fits, cost))
    }

    fn choice(&self, able: usize, book: &Book) -> Option<Choice<'a>> {
        let place = self.able[able].place;
        let fits = fitting(book.pool(place), &self.wishes, self.chances(able))?;
        Some(Choice { place, replica: fits.wish.replica, room: fits.room })
    }

    /// Why each pool takes nothing, once it is known that none does.
    fn refusals(&self, barred: &BTreeSet<usize>, book: &Book) -> BTreeMap<Refusal, u32> {
        let mut refusals = self.refusals.clone();
        for (able, Able { place, .. }) in self.able.iter().enumerate() {
            let why = match () {
                () if barred.contains(place) => Refusal::Refused,
                () if book.answers(*place) == 0 => Refusal::TooManyUnanswered,
                () => shortage(book.pool(*place), &self.wishes, self.chances(able)),
            };
            *refusals.entry(why).or_default() += 1;
        }
        refusals
    }
}

/// The candidates of the requests that were decided on lately.
#[derive(Debug, Default)]
pub struct Known<'a> {
    lists: BTreeMap<&'a Request, Candidates<'a>>,
    entries: usize,
}

impl<'a> Known<'a> {
    /// Those of `request`. All lists are forgotten when they grow too large: thousands of different
    /// requests over thousands of pools would not fit in memory.
    pub fn of(&mut self, request: &'a Request, book: &Book<'a>) -> &mut Candidates<'a> {
        if self.entries > KEPT && !self.lists.contains_key(request) {
            *self = Self::default();
        }
        let entries = &mut self.entries;
        self.lists.entry(request).or_insert_with(|| {
            let found = candidates(request, book);
            *entries += found.len() + found.at.len() / 8;
            found
        })
    }
}
