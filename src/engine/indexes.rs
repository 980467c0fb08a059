//! Sets of replica indexes, written as Kubernetes writes them: `0-3,7`.

use std::fmt;

/// A set of replica indexes. Invariant: ranges are inclusive, sorted, apart by at least one.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Indexes(Vec<(u32, u32)>);

impl Indexes {
    /// The indexes `first`, `first + 1`, … of which there are `count`.
    #[must_use]
    pub fn range(first: u32, count: u32) -> Self {
        match count {
            0 => Self::default(),
            _ => Self(vec![(first, first.saturating_add(count - 1))]),
        }
    }

    /// Reads `0-3,7`; the empty text is the empty set. `None` if it is anything else.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut ranges = Vec::new();
        for part in text.split(',').filter(|_| !text.is_empty()) {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let range = (first.parse().ok()?, last.parse().ok()?);
            if range.0 > range.1 {
                return None;
            }
            ranges.push(range);
        }
        Some(Self::merged(ranges))
    }

    fn merged(mut ranges: Vec<(u32, u32)>) -> Self {
        ranges.sort_unstable();
        let mut merged: Vec<(u32, u32)> = Vec::with_capacity(ranges.len());
        for (first, last) in ranges {
            match merged.last_mut() {
                Some(before) if first <= before.1.saturating_add(1) => {
                    before.1 = before.1.max(last);
                }
                _ => merged.push((first, last)),
            }
        }
        Self(merged)
    }

    /// How many there are; beyond 32 bits they are all the same.
    #[must_use]
    pub fn len(&self) -> u32 {
        let all: u64 = self.0.iter().map(|(first, last)| u64::from(last - first) + 1).sum();
        u32::try_from(all).unwrap_or(u32::MAX)
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The lowest.
    #[must_use]
    pub fn first(&self) -> Option<u32> {
        self.0.first().map(|range| range.0)
    }

    /// The highest.
    #[must_use]
    pub fn last(&self) -> Option<u32> {
        self.0.last().map(|range| range.1)
    }

    /// Whether `index` is among them.
    #[must_use]
    pub fn contains(&self, index: u32) -> bool {
        self.0.iter().any(|(first, last)| (*first..=*last).contains(&index))
    }

    /// All of them, rising.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.0.iter().flat_map(|(first, last)| *first..=*last)
    }

    /// Those in either.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        Self::merged(self.0.iter().chain(&other.0).copied().collect())
    }

    /// Those here that are not in `other`.
    #[must_use]
    pub fn minus(&self, other: &Self) -> Self {
        let mut left = Vec::new();
        for &(first, last) in &self.0 {
            let mut from = Some(first);
            let start = other.0.partition_point(|(_, end)| *end < first);
            for &(begin, end) in other.0[start..].iter().take_while(|(begin, _)| *begin <= last) {
                if let Some(start) = from.filter(|start| *start < begin) {
                    left.push((start, begin - 1));
                }
                from = end.checked_add(1).filter(|next| *next <= last);
            }
            left.extend(from.map(|start| (start, last)));
        }
        Self(left)
    }

    /// Those in both.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        let (mut left, mut right) = (self.0.iter().peekable(), other.0.iter().peekable());
        let mut both = Vec::new();
        while let (Some(&&(first, last)), Some(&&(begin, end))) = (left.peek(), right.peek()) {
            if first.max(begin) <= last.min(end) {
                both.push((first.max(begin), last.min(end)));
            }
            if last < end {
                left.next()
            } else {
                right.next()
            };
        }
        Self(both)
    }

    /// The lowest `count` of them.
    #[must_use]
    pub fn lowest(&self, count: u32) -> Self {
        let mut left = count;
        let mut taken = Vec::new();
        for &(first, last) in &self.0 {
            if left == 0 {
                break;
            }
            let size = (last - first).saturating_add(1).min(left);
            taken.push((first, first + size - 1));
            left -= size;
        }
        Self(taken)
    }
}

impl FromIterator<u32> for Indexes {
    fn from_iter<I: IntoIterator<Item = u32>>(indexes: I) -> Self {
        Self::merged(indexes.into_iter().map(|index| (index, index)).collect())
    }
}

impl fmt::Display for Indexes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, (first, last)) in self.0.iter().enumerate() {
            let comma = if place == 0 { "" } else { "," };
            match first == last {
                true => write!(f, "{comma}{first}")?,
                false => write!(f, "{comma}{first}-{last}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reads_and_writes_as_kubernetes_does() {
        for text in ["", "0", "0-3,7", "1,3,5-4294967295"] {
            assert_eq!(Indexes::parse(text).unwrap().to_string(), text);
        }
        let some = Indexes::parse("3,1-2,7-9").unwrap();
        assert_eq!(
            (some.to_string().as_str(), some.first(), some.last()),
            ("1-3,7-9", Some(1), Some(9))
        );
        for nonsense in ["a", "3-1", ",", "-1", "1,,2", "4294967296"] {
            assert_eq!(Indexes::parse(nonsense), None, "{nonsense}");
        }
    }

    fn set(indexes: &Indexes) -> BTreeSet<u32> {
        indexes.iter().collect()
    }

    proptest! {
        #[test]
        fn behaves_as_a_set(
            left in prop::collection::btree_set(0_u32..64, 0..32),
            right in prop::collection::btree_set(0_u32..64, 0..32),
            count in 0_u32..40,
        ) {
            let (a, b): (Indexes, Indexes) =
                (left.iter().copied().collect(), right.iter().copied().collect());
            prop_assert_eq!(set(&a.union(&b)), left.union(&right).copied().collect());
            prop_assert_eq!(set(&a.minus(&b)), left.difference(&right).copied().collect());
            prop_assert_eq!(set(&a.intersection(&b)), left.intersection(&right).copied().collect());
            prop_assert_eq!(set(&a.lowest(count)), left.iter().copied().take(count as usize).collect());
            prop_assert_eq!(a.len() as usize, left.len());
            prop_assert_eq!(Indexes::parse(&a.to_string()), Some(a.clone()));
            prop_assert!((0..64).all(|index| a.contains(index) == left.contains(&index)));
        }
    }
}
