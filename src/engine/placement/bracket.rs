//! The best of many whose worth changes one at a time, as in a knock-out tournament.
//!
//! Invariant: the winner is the least of all that take part, the first one of equals.
//!
//! Why not a sorted set: an update climbs ten small steps in one flat table for a thousand pools,
//! and the whole is built in one sweep; a sorted set would move and allocate nodes for both.

/// A tournament of a fixed number of places; the lesser of two wins.
#[derive(Clone, Debug)]
pub(super) struct Bracket<T> {
    entries: Vec<Option<T>>,
    /// Who won each match: that of `i` is between the winners of `2i` and `2i + 1`. The second half
    /// are the places themselves.
    winners: Vec<u32>,
}

impl<T: Ord> Bracket<T> {
    /// A tournament among `entries`; one that is `None` does not take part.
    pub(super) fn of(entries: Vec<Option<T>>) -> Self {
        let size = entries.len().next_power_of_two();
        let mut winners = vec![0; size];
        winners.extend((0..u32::MAX).take(size));
        let mut bracket = Self { entries, winners };
        for game in (1..size).rev() {
            bracket.winners[game] = bracket.winner(game);
        }
        bracket
    }

    /// Puts another one at `place`, and returns who was there.
    pub(super) fn replace(&mut self, place: usize, entry: Option<T>) -> Option<T> {
        if self.entries[place] == entry {
            return entry;
        }
        let before = std::mem::replace(&mut self.entries[place], entry);
        let mut game = (self.winners.len() / 2 + place) / 2;
        while game > 0 {
            let (was, now) = (self.winners[game], self.winner(game));
            self.winners[game] = now;
            // Where somebody else won and still wins, nothing changes further up.
            if was == now && now as usize != place {
                break;
            }
            game /= 2;
        }
        before
    }

    /// The place of the winner; `None` if nobody takes part.
    pub(super) fn best(&self) -> Option<usize> {
        let best = *self.winners.get(1)? as usize;
        self.entries.get(best)?.is_some().then_some(best)
    }

    fn winner(&self, game: usize) -> u32 {
        let (left, right) = (self.winners[2 * game], self.winners[2 * game + 1]);
        let entry = |place: u32| self.entries.get(place as usize).and_then(Option::as_ref);
        match (entry(left), entry(right)) {
            (Some(first), Some(second)) if second < first => right,
            (None, Some(_)) => right,
            _ => left,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn least(entries: &[Option<u8>]) -> Option<usize> {
        let taking_part = entries
            .iter()
            .enumerate()
            .filter_map(|(place, entry)| Some((*entry)?).map(|worth| (worth, place)));
        taking_part.min().map(|(_, place)| place)
    }

    proptest! {
        #[test]
        fn the_winner_is_the_first_of_the_least(
            mut entries in prop::collection::vec(prop::option::of(0_u8..4), 0..20),
            changes in prop::collection::vec((0_usize..20, prop::option::of(0_u8..4)), 0..40),
        ) {
            let mut bracket = Bracket::of(entries.clone());
            prop_assert_eq!(bracket.best(), least(&entries));
            for (place, entry) in changes {
                if place < entries.len() {
                    prop_assert_eq!(bracket.replace(place, entry), entries[place]);
                    entries[place] = entry;
                }
                prop_assert_eq!(bracket.best(), least(&entries));
            }
        }
    }
}
