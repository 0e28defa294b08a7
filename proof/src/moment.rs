//! Moments, UTC days and spans of time, each with one text form.
//!
//! Reads no clock: every moment is handed in. Invariant: a text that reads as a [`Moment`] or a
//! [`Day`] prints as the same text, so that nobody can write one time in two ways.

use std::fmt;

use jiff::{SignedDuration, civil, tz::TimeZone};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Milliseconds of a UTC day; Unix time knows no leap seconds.
pub const DAY_MS: u64 = 86_400_000;
/// The last millisecond of the year 9999, which is as far as four digits of a year go.
const LAST_UNIX_MS: u64 = 253_402_300_799_999;

/// A moment in UTC with milliseconds, written as RFC 3339 such as `2026-11-28T09:00:00.000Z`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Moment(u64);

/// A text is no moment or day in the one form that is accepted.
#[derive(Debug, Error)]
pub enum NotATime {
    /// See [`Moment`].
    #[error("a moment is written in UTC with milliseconds, such as 2026-11-28T09:00:00.000Z")]
    Moment,
    /// See [`Day`].
    #[error("a day is written as 2026-11-28")]
    Day,
}

impl Moment {
    /// A moment from milliseconds since the Unix epoch; beyond the year 9999 its last one.
    #[must_use]
    pub const fn from_unix_ms(unix_ms: u64) -> Self {
        Self(if unix_ms > LAST_UNIX_MS { LAST_UNIX_MS } else { unix_ms })
    }

    /// Milliseconds since the Unix epoch.
    #[must_use]
    pub const fn unix_ms(self) -> u64 {
        self.0
    }

    /// The moment `ms` milliseconds later.
    #[must_use]
    pub const fn plus_ms(self, ms: u64) -> Self {
        Self::from_unix_ms(self.0.saturating_add(ms))
    }

    /// How long ago `earlier` was, in milliseconds; zero when it lies in the future.
    #[must_use]
    pub const fn since_ms(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// The UTC day that the moment lies in.
    #[must_use]
    pub const fn day(self) -> Day {
        Day((self.0 / DAY_MS) as u32)
    }

    /// Reads the one accepted form.
    ///
    /// # Errors
    /// [`NotATime::Moment`] for every other text, other forms of RFC 3339 included.
    pub fn parse(text: &str) -> Result<Self, NotATime> {
        let read: jiff::Timestamp = text.parse().map_err(|_| NotATime::Moment)?;
        let unix_ms = u64::try_from(read.as_millisecond()).map_err(|_| NotATime::Moment)?;
        let moment = Self::from_unix_ms(unix_ms);
        if moment.to_string() == text { Ok(moment) } else { Err(NotATime::Moment) }
    }

    fn civil(self) -> civil::DateTime {
        let unix_ms = i64::try_from(self.0).unwrap_or(i64::MAX);
        jiff::Timestamp::from_millisecond(unix_ms)
            .unwrap_or(jiff::Timestamp::MAX)
            .to_zoned(TimeZone::UTC)
            .datetime()
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.civil().strftime("%Y-%m-%dT%H:%M:%S.%3fZ"))
    }
}

impl TryFrom<String> for Moment {
    type Error = NotATime;

    fn try_from(text: String) -> Result<Self, NotATime> {
        Self::parse(&text)
    }
}

impl From<Moment> for String {
    fn from(moment: Moment) -> Self {
        moment.to_string()
    }
}

/// One UTC day, written as `2026-11-28`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Day(u32);

impl Day {
    /// Midnight at its beginning.
    #[must_use]
    pub const fn start(self) -> Moment {
        Moment::from_unix_ms(self.0 as u64 * DAY_MS)
    }

    /// Midnight at its end, which is the next day's beginning.
    #[must_use]
    pub const fn end(self) -> Moment {
        Moment::from_unix_ms((self.0 as u64 + 1) * DAY_MS)
    }

    /// The day, month (1 to 12) and year.
    #[must_use]
    pub fn date(self) -> (u8, u8, u16) {
        let date = self.start().civil().date();
        (date.day().unsigned_abs(), date.month().unsigned_abs(), date.year().unsigned_abs())
    }

    /// The same day so many months earlier, or the last of that month where it has no such day.
    #[must_use]
    pub fn months_earlier(self, months: u16) -> Self {
        let date = self.start().civil().date();
        let earlier = date.checked_sub(jiff::Span::new().months(months)).unwrap_or(date);
        Self::of(earlier).unwrap_or(Self(0))
    }

    /// Reads `2026-11-28`.
    ///
    /// # Errors
    /// [`NotATime::Day`] for every other text, and for days before 1970.
    pub fn parse(text: &str) -> Result<Self, NotATime> {
        let date: civil::Date = text.parse().map_err(|_| NotATime::Day)?;
        let day = Self::of(date).ok_or(NotATime::Day)?;
        if day.to_string() == text { Ok(day) } else { Err(NotATime::Day) }
    }

    fn of(date: civil::Date) -> Option<Self> {
        let since: SignedDuration = date.duration_since(civil::date(1970, 1, 1));
        u32::try_from(since.as_hours() / 24).ok().map(Self)
    }
}

impl fmt::Display for Day {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.start().civil().strftime("%Y-%m-%d"))
    }
}

/// Time from a moment up to, and without, another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Span {
    /// Its first moment.
    pub from: Moment,
    /// The first moment after it.
    pub to: Moment,
}

impl Span {
    /// Time between two moments.
    #[must_use]
    pub const fn new(from: Moment, to: Moment) -> Self {
        Self { from, to }
    }

    /// Its length in milliseconds; zero when it ends before it begins.
    #[must_use]
    pub const fn ms(self) -> u64 {
        self.to.since_ms(self.from)
    }

    /// Whether all of `other` lies in it.
    #[must_use]
    pub fn contains(self, other: Self) -> bool {
        self.from <= other.from && other.to <= self.to
    }

    /// Whether it has a length and lies in one UTC day; midnight at the end belongs to it.
    #[must_use]
    pub fn lies_in_one_day(self) -> bool {
        self.from < self.to && self.to <= self.from.day().end()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_moment_has_one_text() {
        let text = "2026-11-28T09:00:00.040Z";
        assert_eq!(Moment::parse(text).unwrap().to_string(), text);
        for other in [
            "2026-11-28T09:00:00Z",
            "2026-11-28T09:00:00.04Z",
            "2026-11-28T10:00:00.040+01:00",
            "2026-11-28 09:00:00.040Z",
            "1969-12-31T23:59:59.999Z",
            "",
        ] {
            assert!(Moment::parse(other).is_err(), "{other}");
        }
    }

    #[test]
    fn months_end_where_they_end() {
        let day = |text| Day::parse(text).unwrap();
        assert_eq!(day("2026-08-31").months_earlier(6), day("2026-02-28"));
        assert_eq!(day("2026-11-28").months_earlier(12), day("2025-11-28"));
        assert!(Day::parse("2026-11-8").is_err());
        assert_eq!(day("2026-11-28").date(), (28, 11, 2026));
    }

    #[test]
    fn midnight_ends_a_day() {
        let day = Day::parse("2026-11-28").unwrap();
        assert!(Span::new(day.start(), day.end()).lies_in_one_day());
        assert!(!Span::new(day.start(), day.end().plus_ms(1)).lies_in_one_day());
        assert!(!Span::new(day.start(), day.start()).lies_in_one_day());
    }

    proptest! {
        #[test]
        fn every_moment_reads_as_written(unix_ms in 0..=LAST_UNIX_MS) {
            let moment = Moment::from_unix_ms(unix_ms);
            prop_assert_eq!(Moment::parse(&moment.to_string()).unwrap(), moment);
            prop_assert_eq!(Day::parse(&moment.day().to_string()).unwrap(), moment.day());
            prop_assert!(moment.day().start() <= moment);
        }
    }
}
