//! Test only: the same verdict from a look at every pool, each time anew.

use std::collections::BTreeMap;

use super::*;

/// Lower is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Score {
    rank: u32,
    cost: u64,
    tightness: Tightness,
}

/// What [`Known::place`] must say.
pub(super) fn place<'a>(
    demand: &'a Demand,
    book: &Book<'a>,
) -> Result<(usize, Replica<'a>, u32), BTreeMap<Refusal, u32>> {
    let mut refusals = BTreeMap::new();
    let mut best: Option<((bool, Score, usize), Fits<'a>)> = None;
    for (place, left) in book.pools().iter().enumerate() {
        match find(&demand.request, left, || passing_refusal(demand, book, place)) {
            Err(why) => *refusals.entry(why).or_default() += 1,
            Ok(fits) => {
                let avoided = demand.avoided.contains(left.id);
                let worth = (avoided, worth(&demand.request, left, &fits), place);
                if best.as_ref().is_none_or(|(least, _)| worth < *least) {
                    best = Some((worth, fits));
                }
            }
        }
    }
    let found = best.map(|((.., place), fits)| (place, fits.wish.replica, fits.room));
    found.ok_or(refusals)
}

/// As [`Known::place`] compares pools: on the models that are wanted as much as the one that fits.
fn worth<'a>(request: &'a Request, left: &Left<'a>, fits: &Fits) -> Score {
    let (mut wishes, mut held) = (wishes(request), Vec::new());
    chances(request, left.pool, &mut wishes, &mut held);
    for wish in &mut wishes {
        wish.replica = compared(wish.replica);
    }
    held.retain(|chance| wishes[chance.wish as usize].rank == fits.wish.rank);
    let of_rank = fitting(left, &wishes, &held).expect("who needs less fits as well");
    let (rank, cost) = (fits.wish.rank, cost(request, left));
    Score { rank, cost, tightness: tightness(left, &of_rank) }
}
