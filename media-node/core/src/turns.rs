//! When a transport that was written to has said all that it has to say.
//!
//! The library's pacer hands out one packet per turn and asks for the next turn at once. Decides
//! whether that turn has something to send, so that a frame leaves in one go and in one run, and
//! nobody pays for a turn that only finds the queue empty, or for being told so. Invariant: a
//! packet that may leave now never waits for a timer; a turn that sent nothing is the last.

use std::time::{Duration, Instant};

use str0m::format::PayloadParams;
use str0m::{PacerReason, Reason};

use crate::track::Kind;

/// Turns in a row; a keyframe of a shared screen has about 200 packets. What is left then waits
/// for the next wake-up, so that one receiver does not hold up all others.
const TURNS_MAX: u32 = 512;
/// How long the pacer may rest when its queue is empty and it has probes to send: the shortest
/// distance between the bursts of a probe (libwebrtc, `min_probe_delta`).
const REST_PROBING: Duration = Duration::from_millis(2);
/// The same when nothing is paced, because no video was written: then its budgets and the estimate,
/// which are looked after 25 and 40 times a second, matter to nobody. What else falls due meanwhile
/// comes so much late, or with the next packet.
const REST: Duration = Duration::from_millis(100);

/// What follows a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// Ask it for more.
    Poll,
    /// Let it have another turn.
    Turn,
    /// It has said everything; only its next time is not known.
    Said,
}

/// See the module's description.
#[derive(Debug)]
pub(crate) struct Turns {
    /// There is a pacer that wants turns; without one everything leaves in the first.
    paced: bool,
    /// Payload types of retransmissions, one bit each.
    resends: u128,
    /// Packets written that have not left.
    unsent: u32,
    /// Something of the pacer's has left in this turn.
    progress: bool,
    taken: u32,
    probing: bool,
}

impl Turns {
    /// For a transport that sends these formats.
    pub(crate) fn new(paced: bool, params: &[PayloadParams]) -> Self {
        let resends = params.iter().filter_map(PayloadParams::resend);
        let resends = resends.fold(0, |bits, pt| bits | bit(*pt));
        Self { paced, resends, unsent: 0, progress: false, taken: 0, probing: false }
    }

    /// A packet was written.
    pub(crate) fn written(&mut self, kind: Kind) {
        self.unsent = self.unsent.saturating_add(1);
        self.probing |= kind == Kind::Video;
    }

    /// A datagram left. Media leaves last: when it does, nothing else is left to be said.
    pub(crate) fn left(&mut self, datagram: &[u8]) -> Next {
        // Media only (RFC 7983): neither RTCP (RFC 5761 §4) nor what is not RTP at all.
        let &[first @ 128..=191, second, ..] = datagram else { return Next::Poll };
        if (192..=223).contains(&second) || !self.paced {
            return Next::Poll;
        }
        self.progress = true;
        let padding = first & 0x20 != 0;
        let resent = padding || self.resends & bit(second & 0x7f) != 0;
        if !resent {
            self.unsent = self.unsent.saturating_sub(1);
        }
        if resent || self.unsent > 0 { self.turn() } else { Next::Said }
    }

    fn turn(&mut self) -> Next {
        if self.taken >= TURNS_MAX {
            return Next::Poll;
        }
        self.taken += 1;
        self.progress = false;
        Next::Turn
    }

    /// The library has nothing more to say, and names its next time and why: when to come back.
    pub(crate) fn next(&mut self, now: Instant, at: Instant, reason: Reason) -> Instant {
        let progress = std::mem::take(&mut self.progress);
        let cut_short = self.taken >= TURNS_MAX;
        self.taken = 0;
        let pacer = match reason {
            Reason::Pacer(PacerReason::Immediate) => true,
            Reason::Pacer(PacerReason::Handle) | Reason::BweDelayControl => {
                self.paced && !self.probing
            }
            _ => false,
        };
        if !pacer || cut_short {
            return at;
        }
        if !progress {
            // What has not left by now was dropped inside, as when its section was closed.
            self.unsent = 0;
        }
        at.max(now + if self.probing { REST_PROBING } else { REST })
    }

    /// The transport is left alone although its next time is not known.
    pub(crate) fn rest(&mut self) {
        self.taken = 0;
        self.progress = false;
    }
}

fn bit(payload_type: u8) -> u128 {
    1_u128.checked_shl(u32::from(payload_type)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const IMMEDIATE: Reason = Reason::Pacer(PacerReason::Immediate);
    const MEDIA: [u8; 12] = [0x80, 96, 0, 1, 0, 0, 0, 0, 0, 0, 0, 9];
    const RESENT: [u8; 12] = [0x80, 97, 0, 1, 0, 0, 0, 0, 0, 0, 0, 8];
    const REPORT: [u8; 12] = [0x80, 200, 0, 1, 0, 0, 0, 0, 0, 0, 0, 9];

    fn turns() -> Turns {
        Turns { resends: bit(97), ..Turns::new(true, &[]) }
    }

    #[test]
    fn a_frame_leaves_in_one_go_and_then_the_pacer_rests() {
        let (mut turns, now) = (turns(), Instant::now());
        (0..3).for_each(|_| turns.written(Kind::Video));
        assert_eq!(turns.left(&REPORT), Next::Poll);
        assert_eq!(turns.left(&MEDIA), Next::Turn);
        assert_eq!(turns.left(&MEDIA), Next::Turn);
        assert_eq!(turns.left(&MEDIA), Next::Said);
        let soon = now + Duration::from_micros(1);
        assert_eq!(turns.next(now, soon, IMMEDIATE), now + REST_PROBING);
    }

    #[test]
    fn what_is_paced_waits_and_what_was_dropped_inside_is_forgotten() {
        let (mut turns, now) = (turns(), Instant::now());
        (0..2).for_each(|_| turns.written(Kind::Audio));
        assert_eq!(turns.left(&MEDIA), Next::Turn);
        let later = now + Duration::from_millis(7);
        let paced = Reason::Pacer(PacerReason::Paced);
        assert_eq!(turns.next(now, later, paced), later);
        turns.written(Kind::Audio);
        assert_eq!(turns.left(&MEDIA), Next::Turn, "the one that is held may leave as well");
        assert_eq!(turns.next(now, now, IMMEDIATE), now + REST, "it was dropped");
        turns.written(Kind::Audio);
        assert_eq!(turns.left(&MEDIA), Next::Said, "and does not count any more");
    }

    #[test]
    fn budgets_are_looked_after_only_where_video_is_paced() {
        let (mut turns, now) = (turns(), Instant::now());
        let at = now + Duration::from_millis(25);
        let reasons = [Reason::Pacer(PacerReason::Handle), Reason::BweDelayControl];
        assert_eq!(reasons.map(|reason| turns.next(now, at, reason)), [now + REST; 2]);
        assert_eq!(turns.next(now, at, Reason::Ice), at);
        turns.written(Kind::Video);
        assert_eq!(reasons.map(|reason| turns.next(now, at, reason)), [at; 2]);
    }

    #[test]
    fn retransmissions_go_on_until_a_turn_sends_none() {
        let (mut turns, now) = (turns(), Instant::now());
        assert_eq!(turns.left(&RESENT), Next::Turn);
        assert_eq!(turns.next(now, now, IMMEDIATE), now + REST);
    }

    #[test]
    fn one_receiver_does_not_hold_up_the_others() {
        let (mut turns, now) = (turns(), Instant::now());
        (0..TURNS_MAX * 2).for_each(|_| turns.written(Kind::Video));
        let mut in_a_row = 0;
        while turns.left(&MEDIA) == Next::Turn {
            in_a_row += 1;
        }
        assert_eq!(in_a_row, TURNS_MAX);
        assert_eq!(turns.next(now, now, IMMEDIATE), now, "as soon as all had a turn");
    }

    #[test]
    fn without_a_pacer_there_are_no_turns() {
        let mut turns = Turns { paced: false, ..turns() };
        (0..2).for_each(|_| turns.written(Kind::Video));
        assert_eq!(turns.left(&MEDIA), Next::Poll);
    }
}
