//! Knows when the standing objects of a meeting cluster are to be read: when a watch saw one of
//! them change, when the wish for them is another, and once in a while in case a watch missed
//! something. Reads nothing and says nothing about objects. Invariant: a change that is noticed
//! while they are read makes them due again.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::build::manifest::Kind;

/// Objects that no watch saw change are read again after this long, in seconds: a watch that broke
/// may have missed a deletion.
const READ_AGAIN_SECONDS: i64 = 60;
/// After a kind was written it rests this long, in milliseconds: whoever edits it at once again
/// does not keep us writing as fast as both can, and the next look, within seconds, heals it.
const REST_MS: i64 = 1_000;

/// What is known of the standing objects of one meeting cluster.
#[derive(Debug, Default)]
pub struct Due(BTreeMap<Kind, Known>);

#[derive(Debug, Default)]
struct Known {
    /// Changes noticed so far.
    changes: u64,
    /// When all were last as wished.
    settled: Option<Settled>,
}

#[derive(Debug)]
struct Settled {
    look: Look,
    written: bool,
}

/// A reading of one kind, from its beginning.
#[derive(Debug)]
pub struct Look {
    changes: u64,
    wish: String,
    at: Timestamp,
}

impl Due {
    /// An object of this kind changed, or is gone.
    pub fn touch(&mut self, kind: Kind) {
        let known = self.0.entry(kind).or_default();
        known.changes = known.changes.wrapping_add(1);
    }

    /// Begins to read the objects of `kind`, if they are due; `wish` is the hash of what is wanted.
    #[must_use]
    pub fn look(&self, kind: Kind, wish: &str, now: Timestamp) -> Option<Look> {
        let known = self.0.get(&kind);
        let changes = known.map_or(0, |known| known.changes);
        let wanted = known.and_then(|known| known.settled.as_ref()).is_none_or(|settled| {
            let age_ms = now.as_millisecond() - settled.look.at.as_millisecond();
            let rests = settled.written && (0..REST_MS).contains(&age_ms);
            settled.look.wish != wish
                || (settled.look.changes != changes && !rests)
                || !(0..READ_AGAIN_SECONDS * 1_000).contains(&age_ms)
        });
        wanted.then(|| Look { changes, wish: wish.to_owned(), at: now })
    }

    /// Everything of `kind` was made as wished in that look, by writing or without.
    pub fn settle(&mut self, kind: Kind, look: Look, written: bool) {
        self.0.entry(kind).or_default().settled = Some(Settled { look, written });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIND: Kind = Kind::Service;

    fn at(ms: i64) -> Timestamp {
        Timestamp::from_millisecond(ms).expect("a time")
    }

    fn settled(written: bool) -> Due {
        let mut due = Due::default();
        let look = due.look(KIND, "wish", at(0)).expect("never read");
        due.settle(KIND, look, written);
        due
    }

    #[test]
    fn what_nobody_changed_is_read_once_a_minute() {
        let due = settled(false);
        assert!(due.look(KIND, "wish", at(59_999)).is_none());
        assert!(due.look(KIND, "wish", at(60_000)).is_some());
        assert!(due.look(KIND, "wish", at(-1)).is_some(), "a clock set back proves nothing");
        assert!(due.look(Kind::Deployment, "wish", at(1)).is_some(), "never read");
    }

    #[test]
    fn a_change_or_another_wish_is_read_at_once() {
        let mut due = settled(false);
        assert!(due.look(KIND, "another", at(1)).is_some());
        due.touch(KIND);
        assert!(due.look(KIND, "wish", at(1)).is_some());
    }

    /// Harm if it fails: an edit in the moment of reading stays for a minute.
    #[test]
    fn a_change_during_the_reading_is_not_lost() {
        let mut due = Due::default();
        let look = due.look(KIND, "wish", at(0)).expect("never read");
        due.touch(KIND);
        due.settle(KIND, look, false);
        assert!(due.look(KIND, "wish", at(1)).is_some());
    }

    /// Harm if it fails: a controller that edits the same field makes both write without end.
    #[test]
    fn what_was_written_rests_a_moment() {
        let mut due = settled(true);
        due.touch(KIND);
        assert!(due.look(KIND, "wish", at(999)).is_none());
        assert!(due.look(KIND, "another", at(999)).is_some(), "its owner never waits");
        assert!(due.look(KIND, "wish", at(1_000)).is_some());
    }
}
