//! Remembers when which packet left, until its fate is reported.
//!
//! A ring by transport-wide sequence number. Decides nothing. Invariant: a packet is reported as
//! received at most once; memory grows with what is in flight up to [`PACKETS_MAX`], and what is
//! older is forgotten.

/// Packets remembered at most: half a second at 20 Mbit/s, which is a round trip and the wait for
/// a report. 8 bytes each.
const PACKETS_MAX: usize = 1024;
/// Room at the first packet: what a voice sends in a second.
const PACKETS_FIRST: usize = 64;
/// The room is doubled rather than that a packet younger than this is forgotten unreported.
const YOUNG_US: u32 = 2_000_000;

/// What is known of a packet that left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Departure {
    pub(super) sent_us: u64,
    pub(super) bytes: u16,
    /// The probe that it is part of; 0 is none.
    pub(super) cluster: u8,
}

/// What a report brought of one packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Received(Departure),
    /// As above, but an earlier report had called it lost.
    Recovered(Departure),
    Lost(Departure),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum State {
    #[default]
    Unknown,
    InFlight,
    Received,
    Lost,
}

#[derive(Debug, Clone, Copy, Default)]
struct Slot {
    /// The lower half; packets are remembered for less than the hour that it lasts.
    sent_us: u32,
    bytes: u16,
    cluster: u8,
    state: State,
}

/// See the module's description.
#[derive(Debug, Default)]
pub(super) struct History {
    slots: Vec<Slot>,
    newest: u16,
}

impl History {
    /// The packet with this number left.
    pub(super) fn sent(&mut self, sequence: u16, departure: Departure) {
        if self.slots.is_empty() {
            self.slots.resize(PACKETS_FIRST, Slot::default());
            self.newest = sequence.wrapping_sub(1);
        }
        let sent_us = departure.sent_us as u32;
        let ahead = sequence.wrapping_sub(self.newest);
        if ahead == 0 || ahead > u16::MAX / 2 {
            return;
        }
        self.make_room(sequence, sent_us);
        for skipped in (1..ahead).take(self.slots.len()) {
            self.put(sequence.wrapping_sub(skipped), Slot::default());
        }
        let Departure { bytes, cluster, .. } = departure;
        self.put(sequence, Slot { sent_us, bytes, cluster, state: State::InFlight });
        self.newest = sequence;
    }

    /// A report told of the packet with this number; nothing when it is not remembered or was
    /// reported before.
    pub(super) fn reported(&mut self, sequence: u16, received: bool, now_us: u64) -> Option<Fate> {
        let mask = self.slots.len().checked_sub(1)?;
        if usize::from(self.newest.wrapping_sub(sequence)) > mask {
            return None;
        }
        let slot = self.slots.get_mut(usize::from(sequence) & mask)?;
        let age_us = (now_us as u32).wrapping_sub(slot.sent_us);
        let departure = Departure {
            sent_us: now_us.saturating_sub(u64::from(age_us)),
            bytes: slot.bytes,
            cluster: slot.cluster,
        };
        let (state, fate) = match (slot.state, received) {
            (State::InFlight, true) => (State::Received, Fate::Received(departure)),
            (State::InFlight, false) => (State::Lost, Fate::Lost(departure)),
            (State::Lost, true) => (State::Received, Fate::Recovered(departure)),
            (State::Unknown | State::Received, _) | (State::Lost, false) => return None,
        };
        slot.state = state;
        Some(fate)
    }

    fn put(&mut self, sequence: u16, slot: Slot) {
        let mask = self.slots.len().wrapping_sub(1);
        if let Some(place) = self.slots.get_mut(usize::from(sequence) & mask) {
            *place = slot;
        }
    }

    /// Doubles the ring when it would forget a packet whose report may still come.
    fn make_room(&mut self, sequence: u16, now_us: u32) {
        let room = self.slots.len();
        let oldest = self.slots.get(usize::from(sequence) & room.wrapping_sub(1)).copied();
        let waits = |slot: Slot| {
            slot.state == State::InFlight && now_us.wrapping_sub(slot.sent_us) < YOUNG_US
        };
        if room >= PACKETS_MAX || !oldest.is_some_and(waits) {
            return;
        }
        let before = std::mem::take(&mut self.slots);
        self.slots.resize(room * 2, Slot::default());
        for behind in (0..room as u16).rev() {
            let sequence = self.newest.wrapping_sub(behind);
            let slot = before.get(usize::from(sequence) & (room - 1)).copied();
            self.put(sequence, slot.unwrap_or_default());
        }
    }

    /// Bytes of memory beside the structure itself.
    #[cfg(test)]
    pub(super) fn heap_bytes(&self) -> usize {
        self.slots.capacity() * size_of::<Slot>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn left(sent_us: u64) -> Departure {
        Departure { sent_us, bytes: 1000, cluster: 0 }
    }

    #[test]
    fn each_packet_is_told_once_across_the_wrap() {
        let mut history = History::default();
        for index in 0..300u64 {
            history.sent(65_400u16.wrapping_add(index as u16), left(index * 1000));
        }
        let now = 400_000;
        assert_eq!(history.reported(65_535, true, now), Some(Fate::Received(left(135_000))));
        assert_eq!(history.reported(65_535, true, now), None);
        assert_eq!(history.reported(3, false, now), Some(Fate::Lost(left(139_000))));
        assert_eq!(history.reported(3, false, now), None);
        assert_eq!(history.reported(3, true, now), Some(Fate::Recovered(left(139_000))));
        assert_eq!(history.reported(200, true, now), None, "it has not left");
        assert_eq!(history.reported(40_000, true, now), None, "long ago or never");
    }

    #[test]
    fn a_number_that_was_skipped_is_not_the_packet_a_ring_before() {
        let mut history = History::default();
        for sequence in 0..64 {
            history.sent(sequence, left(u64::from(sequence)));
            history.reported(sequence, true, 100);
        }
        history.sent(70, left(10_000));
        assert_eq!(history.reported(66, true, 20_000), None);
        assert_eq!(history.reported(70, true, 20_000), Some(Fate::Received(left(10_000))));
    }

    #[test]
    fn memory_follows_what_is_in_flight_and_is_bounded() {
        let mut history = History::default();
        assert_eq!(history.heap_bytes(), 0);
        for index in 0..10_000u64 {
            history.sent(index as u16, left(index * 20_000));
            history.reported(index as u16, true, index * 20_000 + 5000);
        }
        assert_eq!(history.heap_bytes(), PACKETS_FIRST * 8);
        for index in 10_000..40_000u64 {
            history.sent(index as u16, left(200_000_000 + index));
        }
        assert_eq!(history.heap_bytes(), PACKETS_MAX * 8);
        let oldest = 40_000 - PACKETS_MAX as u16;
        assert!(history.reported(oldest, true, 200_100_000).is_some());
        assert_eq!(history.reported(oldest - 1, true, 200_100_000), None);
    }

    #[test]
    fn the_time_of_departure_survives_the_wrap_of_its_half() {
        let mut history = History::default();
        let sent_us = (5 << 32) - 1000;
        history.sent(1, left(sent_us));
        assert_eq!(
            history.reported(1, true, sent_us + 90_000),
            Some(Fate::Received(left(sent_us)))
        );
    }
}
