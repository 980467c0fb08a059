//! All nodes of all pools as flat lists of numbers: what is new of a request costs no look at names.
//!
//! Invariant: it says of every pool what [`fit::idle`] and [`fit::find`] say.

use std::collections::BTreeMap;

use super::book::Book;
use crate::engine::fit::{Places, Replica};
use crate::engine::model::Shape;

/// Nodes of a pool that are alike, whatever is free on them.
#[derive(Clone, Copy, Debug)]
struct Kinds {
    model: u32,
    gpu_memory: Option<u64>,
    gpus_per_node: u32,
    nodes: u32,
}

/// Pods that need so many GPUs and nothing else, as far as they fit now.
#[derive(Clone, Debug)]
struct Pods {
    /// By shape.
    fit: Vec<u64>,
    /// After how many changes of the book each pool was counted.
    counted: Vec<usize>,
    seen: usize,
}

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct Index<'a> {
    /// Models by number.
    models: Vec<&'a str>,
    shapes: Vec<Kinds>,
    /// Where the shapes of the pool at a place begin; they end where those of the next one begin.
    first: Vec<usize>,
    pods: BTreeMap<u32, Pods>,
}

impl<'a> Index<'a> {
    /// The index of all pools.
    pub(super) fn of(book: &Book<'a>) -> Self {
        let mut numbers: BTreeMap<&'a str, u32> = BTreeMap::new();
        let (mut models, mut shapes) = (Vec::new(), Vec::with_capacity(2 * book.pools().len()));
        let mut first = Vec::with_capacity(book.pools().len() + 1);
        for left in book.pools() {
            first.push(shapes.len());
            for Shape { model, gpu_memory, gpus_per_node, nodes, .. } in &left.pool.shapes {
                let model = *numbers.entry(model).or_insert_with(|| {
                    models.push(model.as_str());
                    u32::try_from(models.len() - 1).unwrap_or(u32::MAX)
                });
                let (gpu_memory, gpus_per_node, nodes) = (*gpu_memory, *gpus_per_node, *nodes);
                shapes.push(Kinds { model, gpu_memory, gpus_per_node, nodes });
            }
        }
        first.push(shapes.len());
        Self { models, shapes, first, pods: BTreeMap::new() }
    }

    /// All models that there are.
    pub(super) fn models(&self) -> &[&'a str] {
        &self.models
    }

    /// The number of a model; `None` = no pool has it.
    pub(super) fn number(&self, model: &str) -> Option<u32> {
        let place = self.models.iter().position(|known| *known == model)?;
        u32::try_from(place).ok()
    }

    /// What [`crate::engine::fit::idle`] says of the pool at `place`, `model` being the number of the
    /// replica's own.
    pub(super) fn idle(
        &self,
        place: usize,
        model: Option<u32>,
        replica: &Replica,
    ) -> (Places, u64) {
        let (mut accepted, mut sum) = (Places::default(), 0_u64);
        let shapes = &self.shapes[self.first[place]..self.first[place + 1]];
        for (at, shape) in shapes.iter().enumerate().filter(|(_, of)| Some(of.model) == model) {
            let least = replica.min_memory;
            if least.is_some_and(|least| shape.gpu_memory.is_none_or(|memory| memory < least)) {
                continue;
            }
            accepted.add(at);
            let each = shape.gpus_per_node.checked_div(replica.need.gpus).unwrap_or(0);
            sum = sum.saturating_add(u64::from(shape.nodes) * u64::from(each));
        }
        (accepted, sum)
    }

    /// Counts pods of so many GPUs, as far as that changed since they were last counted.
    pub(super) fn count(&mut self, gpus: u32, book: &Book) {
        let (shapes, places) = (self.shapes.len(), book.pools().len());
        let pods = self.pods.entry(gpus);
        let pods = pods.or_insert_with(|| {
            let mut pods = Pods { fit: vec![0; shapes], counted: vec![0; places], seen: 0 };
            (0..places).for_each(|place| pods.look(place, gpus, self.first[place], book));
            pods
        });
        for (at, change) in book.changes_since(pods.seen) {
            if pods.counted[change.place] <= at {
                pods.look(change.place, gpus, self.first[change.place], book);
            }
        }
        pods.seen = book.changes();
    }

    /// Pods of so many GPUs that the accepted shapes of the pool hold, as counted last; `None` if that
    /// was never, or if the pool has more shapes than bits tell apart.
    pub(super) fn pods(&self, gpus: u32, place: usize, accepted: Places) -> Option<u64> {
        let fit = &self.pods.get(&gpus)?.fit[self.first[place]..self.first[place + 1]];
        let told_apart = fit.len() <= Places::TOLD_APART;
        let of = fit.iter().enumerate().filter(|(at, _)| accepted.holds(*at));
        told_apart.then(|| of.fold(0, |sum: u64, (_, pods)| sum.saturating_add(*pods)))
    }
}

impl Pods {
    fn look(&mut self, place: usize, gpus: u32, first: usize, book: &Book) {
        for (at, shape) in book.pool(place).shapes().iter().enumerate() {
            self.fit[first + at] = shape.free.iter().fold(0, |sum: u64, free| {
                let each = free.gpus.checked_div(gpus).unwrap_or(0);
                sum.saturating_add(u64::from(free.nodes) * u64::from(each))
            });
        }
        self.counted[place] = book.changes();
    }
}
