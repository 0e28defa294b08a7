//! When something is due: a heap of wake-up times for rooms and transports.
//!
//! An owner has at most one entry that counts; one that fires early is put back by its owner.
//! Invariant: an owner that armed itself for `t` is woken not later than asked after `t`.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Instant;

use crate::ids::{RoomSlot, TransportRef};

/// Who is woken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Due {
    Room(RoomSlot),
    Transport(TransportRef),
}

/// An owner's own record of when it will be woken.
#[derive(Debug, Default)]
pub(crate) struct Alarm {
    deadline: Option<Instant>,
    scheduled: Option<Instant>,
}

impl Alarm {
    /// Called when an entry fired: true when the owner is really due.
    ///
    /// An entry that an earlier one has overtaken fires as well. It must not pass for the one that
    /// counts, or each would leave another behind and the heap would grow with every packet.
    pub(crate) fn fired(&mut self, now: Instant) -> bool {
        if self.scheduled.is_some_and(|scheduled| scheduled > now) {
            return false;
        }
        self.scheduled = None;
        self.deadline.is_some_and(|deadline| deadline <= now)
    }
}

/// The heap. Its size is bounded by the owners: each re-arms only for an earlier time.
#[derive(Default)]
pub(crate) struct Timers {
    heap: BinaryHeap<Reverse<(Instant, Due)>>,
}

impl Timers {
    /// Sets the alarm; pushes an entry only when none is due as early.
    pub(crate) fn arm(&mut self, alarm: &mut Alarm, due: Due, deadline: Instant) {
        alarm.deadline = Some(deadline);
        if alarm.scheduled.is_none_or(|scheduled| deadline < scheduled) {
            alarm.scheduled = Some(deadline);
            self.heap.push(Reverse((deadline, due)));
        }
    }

    /// Puts an alarm that fired early back.
    pub(crate) fn again(&mut self, alarm: &mut Alarm, due: Due) {
        if let Some(deadline) = alarm.deadline {
            self.arm(alarm, due, deadline);
        }
    }

    pub(crate) fn next(&self) -> Option<Instant> {
        self.heap.peek().map(|Reverse((at, _))| *at)
    }

    /// The next owner to wake, if its time has come.
    pub(crate) fn pop(&mut self, now: Instant) -> Option<Due> {
        if self.next()? > now {
            return None;
        }
        self.heap.pop().map(|Reverse((_, due))| due)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn overtaken_entries_die_out() {
        let start = Instant::now();
        let at = |millis: u64| start + Duration::from_millis(millis);
        let (mut timers, mut alarm) = (Timers::default(), Alarm::default());
        let due = Due::Room(RoomSlot::default());
        for millis in 0_u64..1000 {
            // A timeout asks for something far, the packet after it for something near.
            while timers.pop(at(millis)).is_some() {
                if alarm.fired(at(millis)) {
                    timers.arm(&mut alarm, due, at(millis + 50));
                } else {
                    timers.again(&mut alarm, due);
                }
            }
            if millis.is_multiple_of(7) {
                timers.arm(&mut alarm, due, at(millis + 3));
            }
        }
        assert!(timers.heap.len() < 20, "{} entries for one owner", timers.heap.len());
    }
}
