//! Maps the numbers of a source to outgoing numbers while some of them are taken out.
//!
//! Keeps runs of numbers that share one shift. Decides nothing about which number goes. Invariant:
//! the mapping is strictly increasing over the numbers that were not removed, and leaves no hole
//! for those that were; memory is bounded by the window that the caller prunes to.

use std::collections::VecDeque;

/// Numbers from `first` up to, not including, `end` go out as `number + shift`, wrapping.
#[derive(Debug, Clone, Copy)]
struct Run {
    first: u64,
    end: u64,
    shift: u64,
}

/// The mapping of one source. The newest run is open: its end is `u64::MAX`.
#[derive(Debug, Clone)]
pub struct OffsetMap {
    runs: VecDeque<Run>,
}

impl OffsetMap {
    /// Source number `first` becomes `outgoing`; everything below `first` is unknown.
    #[must_use]
    pub fn new(first: u64, outgoing: u64) -> Self {
        let run = Run { first, end: u64::MAX, shift: outgoing.wrapping_sub(first) };
        Self { runs: VecDeque::from([run]) }
    }

    /// The outgoing number, or nothing when it was removed or lies before the mapping.
    #[must_use]
    pub fn get(&self, number: u64) -> Option<u64> {
        let run = self.runs.iter().rev().find(|run| run.first <= number)?;
        (number < run.end).then(|| number.wrapping_add(run.shift))
    }

    /// Takes `number` out: everything above it moves down by one. The caller sees to it that no
    /// number above it has been used. Removing twice changes nothing.
    pub fn remove(&mut self, number: u64) {
        let Some(index) = self.runs.iter().rposition(|run| run.first <= number) else {
            return;
        };
        let Some(run) = self.runs.get(index).copied() else { return };
        if number >= run.end {
            return;
        }
        for later in self.runs.iter_mut().skip(index + 1) {
            later.shift = later.shift.wrapping_sub(1);
        }
        let rest = Run { first: number + 1, end: run.end, shift: run.shift.wrapping_sub(1) };
        let before = (run.first < number).then_some(Run { end: number, ..run });
        match (before, rest.first < rest.end) {
            (Some(before), true) => {
                self.set(index, before);
                self.runs.insert(index + 1, rest);
            }
            (Some(before), false) => self.set(index, before),
            (None, true) => self.set(index, rest),
            (None, false) => {
                self.runs.remove(index);
            }
        }
    }

    /// Forgets runs that end at or below `base`.
    pub fn prune(&mut self, base: u64) {
        while self.runs.len() > 1 && self.runs.front().is_some_and(|run| run.end <= base) {
            self.runs.pop_front();
        }
    }

    /// Runs held, for the bound in tests.
    #[must_use]
    pub fn runs(&self) -> usize {
        self.runs.len()
    }

    fn set(&mut self, index: usize, run: Run) {
        if let Some(slot) = self.runs.get_mut(index) {
            *slot = run;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn removed_numbers_close_up() {
        let mut map = OffsetMap::new(100, 7);
        assert_eq!(map.get(99), None);
        map.remove(101);
        map.remove(102);
        map.remove(101);
        assert_eq!((map.get(100), map.get(101), map.get(103)), (Some(7), None, Some(8)));
        assert_eq!(map.runs(), 2);
        map.remove(100);
        assert_eq!((map.get(100), map.get(103)), (None, Some(7)));
        map.remove(110);
        map.remove(108);
        let out: Vec<_> = (103..113).filter_map(|n| map.get(n)).collect();
        assert_eq!(out, (7..15).collect::<Vec<_>>());
    }
}
