//! A set of numbers that come mostly in runs.

use std::collections::BTreeMap;

/// Disjoint runs: first number to the one after the last.
#[derive(Clone, Debug, Default)]
pub(crate) struct Intervals {
    runs: BTreeMap<u64, u64>,
    count: u64,
}

impl Intervals {
    /// Adds a number; false where it was there.
    pub(crate) fn insert(&mut self, number: u64) -> bool {
        let before = self.runs.range(..=number).next_back().map(|(start, end)| (*start, *end));
        if before.is_some_and(|(_, end)| number < end) {
            return false;
        }
        let start = before.filter(|(_, end)| *end == number).map_or(number, |(start, _)| start);
        let end = self.runs.remove(&(number + 1)).unwrap_or(number + 1);
        self.runs.insert(start, end);
        self.count += 1;
        true
    }

    /// Takes a number out again.
    pub(crate) fn remove(&mut self, number: u64) {
        let run = self.runs.range(..=number).next_back().map(|(start, end)| (*start, *end));
        let Some((start, end)) = run.filter(|(_, end)| number < *end) else { return };
        self.runs.remove(&start);
        if start < number {
            self.runs.insert(start, number);
        }
        if number + 1 < end {
            self.runs.insert(number + 1, end);
        }
        self.count -= 1;
    }

    pub(crate) fn contains(&self, number: u64) -> bool {
        self.runs.range(..=number).next_back().is_some_and(|(_, end)| number < *end)
    }

    /// The first number that is not there.
    pub(crate) fn first_missing(&self) -> u64 {
        self.runs.get(&0).copied().unwrap_or_default()
    }

    /// How many numbers.
    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// How many runs: what it costs.
    pub(crate) fn runs(&self) -> usize {
        self.runs.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn behaves_like_a_set(steps in prop::collection::vec((any::<bool>(), 0_u64..30), 0..200)) {
            let (mut runs, mut set) = (Intervals::default(), BTreeSet::new());
            for (add, number) in steps {
                if add {
                    prop_assert_eq!(runs.insert(number), set.insert(number));
                } else {
                    runs.remove(number);
                    set.remove(&number);
                }
                prop_assert_eq!(runs.count(), u64::try_from(set.len()).unwrap());
                for n in 0..30 {
                    prop_assert_eq!(runs.contains(n), set.contains(&n));
                }
            }
        }
    }
}
