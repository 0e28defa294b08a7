//! Where datagrams of one transport leave to, and under which transport-wide numbers.
//!
//! Decides nothing. Invariant: numbers are given in the order in which datagrams leave, and the
//! estimate is told of each that has one.

use std::time::Instant;

use super::stream::Stream;
use crate::estimate::Congestion;
use crate::io::Transmit;
use crate::shard::routes::Path;

/// See the module's description.
#[derive(Default)]
pub(super) struct Line {
    /// How the client reaches us by the pair of addresses that ICE nominated: the way back.
    pub(super) path: Option<Path>,
    pub(super) sequence: u16,
    /// From the first picture on; without it nothing waits.
    pub(super) congestion: Option<Box<Congestion>>,
    /// A stream of pictures is being sent. Voices alone need no estimate, and their receivers no
    /// feedback about it.
    pub(super) watched: bool,
}

impl Line {
    pub(super) fn number(&mut self, stream: &Stream) -> Option<u16> {
        if !self.watched || !stream.is_told_of() {
            return None;
        }
        let number = self.sequence;
        self.sequence = number.wrapping_add(1);
        Some(number)
    }

    pub(super) fn may_send(&mut self, now: Instant) -> bool {
        self.congestion.as_mut().is_none_or(|congestion| congestion.may_send(now))
    }

    pub(super) fn left(
        &mut self,
        now: Instant,
        number: Option<u16>,
        paced: bool,
        contents: Vec<u8>,
        send: &mut impl FnMut(Transmit),
    ) {
        if let (Some(congestion), Some(number)) = (&mut self.congestion, number) {
            congestion.sent(now, number, contents.len(), paced);
        }
        if let Some(Path { carrier, source, destination }) = self.path {
            let (source, destination) = (destination, source);
            send(Transmit { transport: carrier, source, destination, contents });
        }
    }
}
