//! How long daily files are kept: at least so many months, at most so many.
//!
//! Decides which files go; deletes nothing. Invariant: nothing younger than the minimum is ever
//! named. Defaults: six months, which SecNumCloud 3.2 (12.6.c) asks of a provider, to twelve, which
//! is the CNIL's usual bound for logs.

use thiserror::Error;

use crate::moment::Day;

/// Months that files are kept for at least, by default.
pub const MONTHS_MIN_DEFAULT: u16 = 6;
/// Months after which files go, by default.
pub const MONTHS_MAX_DEFAULT: u16 = 12;
/// The longest retention: the CNIL's three years for internal control with proof of the need.
pub const MONTHS_LIMIT: u16 = 36;

/// How long daily files are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    months_min: u16,
    months_max: u16,
}

/// Bounds that do not go together.
#[derive(Debug, Error)]
#[error(
    "files cannot be kept for {min} to {max} months: give 1 to {MONTHS_LIMIT}, and a minimum that \
     is not above the maximum"
)]
pub struct RetentionError {
    min: u16,
    max: u16,
}

impl Default for Retention {
    fn default() -> Self {
        Self { months_min: MONTHS_MIN_DEFAULT, months_max: MONTHS_MAX_DEFAULT }
    }
}

impl Retention {
    /// Keeps files for at least `min` and at most `max` months.
    ///
    /// # Errors
    /// [`RetentionError`] when the bounds do not go together.
    pub const fn new(min: u16, max: u16) -> Result<Self, RetentionError> {
        if min == 0 || min > max || max > MONTHS_LIMIT {
            return Err(RetentionError { min, max });
        }
        Ok(Self { months_min: min, months_max: max })
    }

    /// The days among `files` whose file must be deleted on the day `today`, oldest first.
    #[must_use]
    pub fn expired(self, files: &[Day], today: Day) -> Vec<Day> {
        older(files, today.months_earlier(self.months_max))
    }

    /// The days among `files` whose file may be deleted for want of space, oldest first; those that
    /// must be are among them.
    #[must_use]
    pub fn spare(self, files: &[Day], today: Day) -> Vec<Day> {
        older(files, today.months_earlier(self.months_min))
    }
}

fn older(files: &[Day], than: Day) -> Vec<Day> {
    let mut older: Vec<Day> = files.iter().copied().filter(|day| *day < than).collect();
    older.sort_unstable();
    older
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn day(text: &str) -> Day {
        Day::parse(text).unwrap()
    }

    #[test]
    fn files_go_after_the_maximum_and_may_go_after_the_minimum() {
        let files = ["2026-11-28", "2025-11-28", "2025-11-27", "2026-05-28", "2026-05-27"].map(day);
        let (keep, today) = (Retention::default(), day("2026-11-28"));
        assert_eq!(keep.expired(&files, today), [day("2025-11-27")]);
        let spare = ["2025-11-27", "2025-11-28", "2026-05-27"].map(day);
        assert_eq!(keep.spare(&files, today), spare);
    }

    #[test]
    fn bounds_that_contradict_each_other_are_refused() {
        for (min, max) in [(0, 6), (7, 6), (6, 37)] {
            assert!(Retention::new(min, max).is_err(), "{min} to {max}");
        }
    }

    proptest! {
        #[test]
        fn what_must_go_may_go_and_is_old(
            unix_days in proptest::collection::vec(0..30_000_u64, 0..20),
            today in 0..30_000_u64,
        ) {
            let of = |days: u64| crate::Moment::from_unix_ms(days * 86_400_000).day();
            let files: Vec<Day> = unix_days.into_iter().map(of).collect();
            let keep = Retention::default();
            let spare = keep.spare(&files, of(today));
            prop_assert!(keep.expired(&files, of(today)).iter().all(|day| spare.contains(day)));
            prop_assert!(spare.iter().all(|day| *day < of(today.saturating_sub(180))));
        }
    }
}
