//! How well each pool takes replicas of one kind, whoever asks for them.
//!
//! Invariant: it stands as it did after `seen` changes of its book. Pools that changed later are
//! judged again when the next demand asks, and only those whose change could matter: over a thousand
//! pools that is the difference between a look at all their nodes and a look at a few.

use super::book::Book;
use super::filters::bits_of;
use super::index::Index;
use super::score::Score;
use super::{compared, fitting, fitting_as, tightness};
use crate::engine::fit::{self, Found, Moved, Places, Replica};
use crate::engine::model::{ModelChoice, PodNeed, Request};
use crate::engine::rules::{Chance, Nodes, Wish, granted, learn, wishes};

/// What requests have in common that share an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Kind<'a> {
    models: &'a [ModelChoice],
    need: PodNeed,
    size: u32,
}

/// All pools, as replicas of one kind find them.
#[derive(Clone, Debug)]
pub(super) struct Order<'a> {
    wishes: Vec<Wish<'a>>,
    chances: Vec<Chance>,
    /// Where the chances of the pool at a place begin; they end where those of the next one begin.
    first: Vec<usize>,
    /// Which shapes of each pool such replicas look at.
    shapes: Vec<Places>,
    /// A bit for each pool whose nodes are of other models, and one for each where even idle ones are
    /// too small.
    other_models: Vec<u64>,
    too_small: Vec<u64>,
    /// Of kinds of one pod, how many of them each chance finds.
    pods: Vec<u64>,
    /// How well each pool takes the most wanted model that it has free, cost apart. Of requests that
    /// share the order some find a less wanted one alone, as they need more CPU or memory: for them it
    /// is a bound.
    standings: Vec<Score>,
    /// After how many changes each pool was judged.
    judged: Vec<usize>,
    seen: usize,
}

impl<'a> Kind<'a> {
    pub(super) fn of(request: &'a Request) -> Self {
        let bare = Replica { model: "", min_memory: None, need: request.need, size: request.size };
        Self { models: &request.models, need: compared(bare).need, size: request.size }
    }
}

impl<'a> Order<'a> {
    /// The order for all requests of the kind of this one.
    pub(super) fn of(request: &'a Request, book: &Book<'a>, index: &mut Index<'a>) -> Self {
        let pools = book.pools();
        let (mut wishes, mut held) = (wishes(request), Vec::with_capacity(pools.len()));
        if request.models.is_empty() {
            index.models().iter().for_each(|model| learn(request, model, &mut wishes));
        }
        let models = wishes.iter().map(|wish| index.number(wish.replica.model));
        let models: Vec<Option<u32>> = models.collect();
        let mut first = Vec::with_capacity(pools.len() + 1);
        let mut nodes = Vec::with_capacity(pools.len());
        let mut looked_at = Vec::with_capacity(pools.len());
        for (place, left) in pools.iter().enumerate() {
            let begin = held.len();
            let idle = |wish: usize, replica: &Replica| index.idle(place, models[wish], replica);
            let what = granted(request, left.pool.offered, &wishes, &mut held, idle);
            let shapes = held[begin..].iter().map(|chance| chance.accepted);
            nodes.push(what);
            looked_at.push(shapes.fold(Places::default(), Places::or));
            first.push(begin);
        }
        first.push(held.len());
        for wish in &mut wishes {
            wish.replica = compared(wish.replica);
        }
        let (seen, places) = (book.changes(), pools.len());
        let mut order = Self {
            wishes,
            chances: held,
            first,
            shapes: looked_at,
            other_models: bits_of(places, |place| nodes[place] == Nodes::OtherModels),
            too_small: bits_of(places, |place| nodes[place] == Nodes::TooSmall),
            pods: Vec::new(),
            standings: Vec::new(),
            judged: vec![seen; places],
            seen,
        };
        order.pods = vec![0; order.chances.len()];
        if request.size == 1 {
            index.count(request.need.gpus, book);
        }
        let known = |place| order.first_look(place, book, index).unwrap_or(Score::NONE);
        order.standings = (0..places).map(known).collect();
        order
    }

    /// Judges again what changed.
    pub(super) fn catch_up(&mut self, book: &Book) {
        let Some(need) = self.wishes.first().map(|wish| wish.replica.need.gpus) else { return };
        for (at, change) in book.changes_since(self.seen) {
            let place = change.place;
            // A node with fewer free GPUs than a pod needs did not count before, nor does it now.
            let looked_at = self.shapes[place].meet(change.shapes);
            if !looked_at || change.gpus < need || self.judged[place] > at {
                continue;
            }
            let standing = match change.moved.and_then(|moved| self.count(place, moved)) {
                Some(()) => self.standing(place, book),
                None => {
                    self.judged[place] = book.changes();
                    self.judge(place, book)
                }
            };
            self.standings[place] = standing.unwrap_or(Score::NONE);
        }
        self.seen = book.changes();
    }

    /// How the pool stands now, by what the index has counted.
    fn first_look(&mut self, place: usize, book: &Book, index: &Index) -> Option<Score> {
        let Replica { size, need, .. } = self.wishes.first()?.replica;
        for chance in self.first[place]..self.first[place + 1] {
            match index.pods(need.gpus, place, self.chances[chance].accepted) {
                Some(pods) if size == 1 => self.pods[chance] = pods,
                _ => return self.judge(place, book),
            }
        }
        self.standing(place, book)
    }

    /// How the pool stands now, from a look at its nodes; `None` if nothing of the kind fits there.
    fn judge(&mut self, place: usize, book: &Book) -> Option<Score> {
        let left = book.pool(place);
        if self.wishes.first()?.replica.size > 1 {
            let fits = fitting(left, &self.wishes, self.chances(place))?;
            return Some(Score::new(fits.wish.rank, tightness(left, &fits)));
        }
        for chance in self.first[place]..self.first[place + 1] {
            let Chance { wish, accepted, .. } = self.chances[chance];
            let replica = &self.wishes[wish as usize].replica;
            self.pods[chance] = fit::find(&left.shapes, accepted, replica).pods;
        }
        self.standing(place, book)
    }

    /// Counts what became of one group of nodes, which spares a look at all of them; `None` if that
    /// does not do. A pod that needs GPUs alone makes this exact.
    fn count(&mut self, place: usize, moved: Moved) -> Option<()> {
        let Replica { need, size, .. } = self.wishes.first()?.replica;
        let chances = self.first[place]..self.first[place + 1];
        // Counts of such a size may have stopped at the largest number.
        let absurd = |pods: &u64| *pods >= u64::from(u32::MAX);
        if size > 1 || self.pods[chances.clone()].iter().any(absurd) {
            return None;
        }
        for chance in chances {
            let lost = moved.pods_lost(self.chances[chance].accepted, need.gpus)?;
            self.pods[chance] = self.pods[chance].saturating_sub(lost);
        }
        Some(())
    }

    /// How the pool stands now, by the pods that are counted.
    fn standing(&self, place: usize, book: &Book) -> Option<Score> {
        let (left, pods) = (book.pool(place), &self.pods[self.first[place]..]);
        let find = |chance: usize, _, _: &Replica| Found { pods: pods[chance], one_node: None };
        let fits = fitting_as(left, &self.wishes, self.chances(place), find)?;
        Some(Score::new(fits.wish.rank, tightness(left, &fits)))
    }

    /// How the pool stands for those who find there the wishes of `rank` alone.
    pub(super) fn standing_at(&self, rank: u32, place: usize, book: &Book) -> Option<Score> {
        let standing = self.standings[place];
        let known = (standing.rank() == Some(rank)).then_some(standing);
        known.or_else(|| {
            let of_rank = |chance: &&Chance| self.wishes[chance.wish as usize].rank == rank;
            let chances: Vec<Chance> =
                self.chances(place).iter().filter(of_rank).copied().collect();
            let left = book.pool(place);
            let fits = fitting(left, &self.wishes, &chances)?;
            Some(Score::new(rank, tightness(left, &fits)))
        })
    }

    /// By place; [`Score::NONE`] where nothing of the kind fits.
    pub(super) fn standings(&self) -> &[Score] {
        &self.standings
    }

    pub(super) fn chances(&self, place: usize) -> &[Chance] {
        &self.chances[self.first[place]..self.first[place + 1]]
    }

    /// Pools whose nodes are of other models, and pools whose nodes are too small even when idle.
    pub(super) fn unable(&self) -> (&[u64], &[u64]) {
        (&self.other_models, &self.too_small)
    }

    /// The wishes of a request of this kind, with all that it needs.
    pub(super) fn wishes_of(&self, request: &Request) -> Vec<Wish<'a>> {
        let mut wishes = self.wishes.clone();
        for wish in &mut wishes {
            wish.replica.need = request.need;
        }
        wishes
    }
}
