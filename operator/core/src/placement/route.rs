//! Answers "which media node has this room?", and takes the outcome of claims.
//!
//! A claim is handed to one caller and remembered before it is sent, so concurrent first joins get
//! one answer. A claim of unknown outcome stays with its media node until that one answers or can
//! no longer admit the room.

use super::{
    CLAIM_TIMEOUT_MS, ClaimOutcome, ClaimRefusal, Create, Decision, Hints, REFUSED_PAUSE_MS,
    ROOM_PARTICIPANTS_EXPECTED, ROOMS_MAX, RefuseReason, Release, WaitReason,
    directory::{Directory, RoomEntry, RoomPhase},
};
use crate::ids::{MediaNodeName, RoomKey, Timestamp};

impl Directory {
    /// Decides about one request for a room.
    pub fn route(&mut self, room: &RoomKey, hints: &Hints, now: Timestamp) -> Decision {
        if room.tenant != self.settings.tenant {
            return Decision::Refuse { reason: RefuseReason::WrongTenant };
        }
        if let Some(decision) = self.route_known(room, hints, now) {
            return decision;
        }
        self.tick(now);
        if self.rebuilding {
            let unheard = match self.state(now) {
                super::PlacerState::Rebuilding { unheard } => unheard,
                _ => 0,
            };
            return Decision::Wait { reason: WaitReason::Rebuilding { unheard } };
        }
        if hints.create == Create::Forbidden {
            return Decision::Refuse { reason: RefuseReason::NotFound };
        }
        self.route_new(room, hints, now)
    }

    /// The answer for a room that has a home or a claim; `None` when it has neither, or its home is
    /// known to be lost.
    fn route_known(&mut self, room: &RoomKey, hints: &Hints, now: Timestamp) -> Option<Decision> {
        let entry = self.rooms.get(room)?;
        let media_node = entry.home.clone();
        let phase = entry.phase;
        let node = self.nodes.get(&media_node);
        let in_sight = node.is_some_and(|node| node.in_sight(now));
        let may_hold = node.is_some_and(|node| node.may_hold(now));
        let doubted = node.is_some_and(|node| node.doubted.contains(room));
        let hold_until = node.map_or(now, |node| node.hold_until);
        match phase {
            RoomPhase::Claiming(since) if now.since_ms(since) < CLAIM_TIMEOUT_MS => {
                return Some(Decision::Wait { reason: WaitReason::ClaimInFlight { media_node } });
            }
            // Out of our sight is not out of everybody's reach: a gateway that does not reach it
            // either says so.
            RoomPhase::Home if !doubted && hints.unreachable.as_ref() != Some(&media_node) => {
                return Some(Decision::Existing { media_node });
            }
            // Somebody did not find it there, or nobody knows whether it ever got there. A claim
            // is idempotent, so claiming it once more is how to ask.
            RoomPhase::Home | RoomPhase::Claiming(_) | RoomPhase::Uncertain(_) => {
                if in_sight {
                    self.set_phase(room, RoomPhase::Claiming(now));
                    return Some(Decision::Claim { media_node });
                }
                if may_hold {
                    let retry_in_ms = hold_until.since_ms(now);
                    let reason = WaitReason::HomeOutOfSight { media_node, retry_in_ms };
                    return Some(Decision::Wait { reason });
                }
            }
        }
        self.take_room(room);
        None
    }

    fn route_new(&mut self, room: &RoomKey, hints: &Hints, now: Timestamp) -> Decision {
        let expected = match hints.participants_expected {
            0 => ROOM_PARTICIPANTS_EXPECTED,
            // Nobody may book a whole media node by a hint.
            hint => hint.min(self.settings.participants_per_node_max),
        };
        let chosen = if self.rooms.len() >= ROOMS_MAX {
            Err(RefuseReason::Full)
        } else {
            self.choose(expected, &hints.zone, now)
        };
        match chosen {
            Ok(media_node) => {
                self.enter_claim(room, &media_node, expected, now);
                Decision::Claim { media_node }
            }
            Err(RefuseReason::NoMediaNode) if self.sight_lost(now) => {
                Decision::Wait { reason: WaitReason::SightLost }
            }
            Err(reason) => {
                self.counters.rooms_refused += 1;
                *self.refusals.entry(now.0 / 1_000).or_default() += 1;
                Decision::Refuse { reason }
            }
        }
    }

    fn enter_claim(
        &mut self,
        room: &RoomKey,
        media_node: &MediaNodeName,
        expected: u32,
        now: Timestamp,
    ) {
        let entry = RoomEntry {
            home: media_node.clone(),
            phase: RoomPhase::Claiming(now),
            incarnation: None,
            claim_epoch: self.epoch,
            claimed_at: None,
            created_unix_ms: now.0,
            participants: 0,
            expected,
            placed_at: now,
        };
        self.put_room(room.clone(), entry);
        // A release for an earlier life of the room must not end this one.
        self.released(&Release { media_node: media_node.clone(), room: room.clone() });
        if let Some(node) = self.nodes.get_mut(media_node) {
            node.reserved += f64::from(expected);
        }
    }

    /// Takes the outcome of a claim that [`Decision::Claim`] asked for. After `Held` the room is
    /// [`Decision::Existing`]; after a refusal ask [`Directory::route`] again.
    pub fn claimed(
        &mut self,
        room: &RoomKey,
        media_node: &MediaNodeName,
        outcome: ClaimOutcome,
        now: Timestamp,
    ) {
        let home = self.rooms.get(room).map(|entry| (entry.home.clone(), entry.phase));
        let mine = home.as_ref().is_some_and(|(home, _)| home == media_node);
        match outcome {
            ClaimOutcome::Held { incarnation } => match home {
                Some(_) if !mine => self.release(media_node, room),
                _ => self.settle_claim(room, media_node, incarnation, now),
            },
            ClaimOutcome::Refused(refusal) => {
                if mine {
                    self.take_room(room);
                }
                if let Some(node) = self.nodes.get_mut(media_node)
                    && refusal != ClaimRefusal::StaleEpoch
                {
                    node.refused_until = now.plus_ms(REFUSED_PAUSE_MS);
                }
            }
            ClaimOutcome::Unknown => {
                if mine && home.is_some_and(|(_, phase)| phase != RoomPhase::Home) {
                    self.doubt_claim(room, media_node, now);
                }
            }
        }
    }

    /// Nobody knows what came of a claim. A room that had its home there keeps it: the claim was
    /// only a question. A new one is given up when later reports do not bring it.
    fn doubt_claim(&mut self, room: &RoomKey, media_node: &MediaNodeName, now: Timestamp) {
        let had_its_home = self.rooms.get(room).is_some_and(|entry| entry.incarnation.is_some());
        if had_its_home {
            self.set_phase(room, RoomPhase::Home);
            return;
        }
        self.set_phase(room, RoomPhase::Uncertain(now));
        if let Some(node) = self.nodes.get_mut(media_node) {
            node.doubted.insert(room.clone());
        }
    }

    fn settle_claim(
        &mut self,
        room: &RoomKey,
        media_node: &MediaNodeName,
        incarnation: crate::ids::Incarnation,
        now: Timestamp,
    ) {
        if !self.nodes.contains_key(media_node) {
            return;
        }
        if !self.rooms.contains_key(room) {
            self.enter_claim(room, media_node, 0, now);
        }
        let Some(mut entry) = self.take_room(room) else { return };
        self.counters.rooms_placed += u64::from(entry.claimed_at.is_none());
        entry.phase = RoomPhase::Home;
        entry.incarnation = Some(incarnation);
        entry.claim_epoch = self.epoch;
        entry.claimed_at = Some(now);
        self.put_room(room.clone(), entry);
    }
}
