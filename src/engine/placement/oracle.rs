//! Test only: the same verdict from a look at every pool, each time anew.

use std::collections::BTreeMap;

use super::*;

/// What [`place`] must say.
pub(super) fn place<'a>(
    demand: &'a Demand,
    book: &Book<'a>,
) -> Result<(usize, Replica<'a>, u32), BTreeMap<Refusal, u32>> {
    let mut refusals = BTreeMap::new();
    let mut best: Option<((Score, usize), Fits<'a>)> = None;
    for (place, left) in book.pools().iter().enumerate() {
        match find(&demand.request, left, || passing_refusal(demand, book, place)) {
            Err(why) => *refusals.entry(why).or_default() += 1,
            Ok(fits) => {
                let worth = (score(left, &fits, cost(&demand.request, left)), place);
                if best.as_ref().is_none_or(|(least, _)| worth < *least) {
                    best = Some((worth, fits));
                }
            }
        }
    }
    let found = best.map(|((_, place), fits)| (place, fits.wish.replica, fits.room));
    found.ok_or(refusals)
}
