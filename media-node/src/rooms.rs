//! Which rooms are here, on which shard, and whether a new one may come: claims, grants, epochs.
//!
//! Decides admission of rooms; sends nothing. Time is an argument. Invariant: a room is on at most
//! one shard; without a fresh grant and a ticket, while draining or stopping no new room is
//! admitted, and none of these ever ends a room that is here. Commands of a lower epoch change
//! nothing.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use media_core::ids::RoomKey;

use crate::ticket::Tickets;

/// What a media node tells the operator about itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Serving,
    Draining,
    Stopping,
}

/// Why a room or a command is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("stale epoch")]
    StaleEpoch,
    #[error("no grant: the operator has not renewed its permission to admit rooms")]
    NoGrant,
    #[error("no ticket: this media node holds no signed permission to carry rooms of its scope")]
    NoTicket,
    #[error("the media node is draining")]
    Draining,
    #[error("the media node is stopping")]
    Stopping,
    #[error("the media node is full: it holds {0} rooms")]
    Full(usize),
    /// LiveKit's text; SDKs look for it.
    #[error("requested room does not exist")]
    NotHere,
}

/// A room that is here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Home {
    pub shard: usize,
    /// Epoch of the claim that brought it; 0 without an operator.
    pub claim_epoch: u64,
    pub created_unix_ms: u64,
    pub sid: String,
    pub participants: u32,
    /// Published tracks by participant sid.
    publishing: BTreeMap<String, u32>,
}

impl Home {
    /// Participants that publish something.
    pub fn publishers(&self) -> u32 {
        u32::try_from(self.publishing.len()).unwrap_or(u32::MAX)
    }
}

/// How rooms come to be here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// The operator claims them.
    Claimed,
    /// A join brings them.
    OnJoin,
    /// Only RoomService creates them.
    OnCreate,
}

/// What happened in a room, as far as reports tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Happened {
    Started { sid: String },
    Joined,
    Left { participant: String },
    Published { participant: String },
    Unpublished { participant: String },
    Finished,
}

/// The directory.
pub struct Rooms {
    admission: Admission,
    rooms_max: usize,
    homes: BTreeMap<RoomKey, Home>,
    state: State,
    epoch: u64,
    grant_until: Option<Instant>,
    /// Needed beside the grant for a room that is claimed anew.
    pub tickets: Tickets,
}

impl Rooms {
    /// Empty and serving; nothing below `epoch` is obeyed.
    pub fn new(admission: Admission, rooms_max: usize, epoch: u64, tickets: Tickets) -> Self {
        Self {
            admission,
            rooms_max,
            homes: BTreeMap::new(),
            state: State::Serving,
            epoch,
            grant_until: None,
            tickets,
        }
    }

    /// The shard of a room that somebody joins; with [`Admission::OnJoin`] the room comes to be on
    /// `shard`.
    pub fn join(&mut self, unix_ms: u64, room: &RoomKey, shard: usize) -> Result<usize, Refusal> {
        self.may_join(room)?;
        match self.homes.get(room) {
            Some(home) => Ok(home.shard),
            None => self.admit(unix_ms, room, shard),
        }
    }

    /// What [`Rooms::join`] would say, changing nothing.
    pub fn may_join(&self, room: &RoomKey) -> Result<(), Refusal> {
        let here = self.homes.contains_key(room);
        match (self.state, self.admission) {
            // Who was sent home must not come back here; a gateway asks the placer again.
            (State::Stopping, Admission::Claimed) => Err(Refusal::NotHere),
            (State::Stopping, _) => Err(Refusal::Stopping),
            _ if here => Ok(()),
            (_, Admission::Claimed | Admission::OnCreate) => Err(Refusal::NotHere),
            (_, Admission::OnJoin) => self.may_admit(),
        }
    }

    /// The shard of a room that RoomService creates.
    pub fn create(&mut self, unix_ms: u64, room: &RoomKey, shard: usize) -> Result<usize, Refusal> {
        if let Some(home) = self.homes.get(room) {
            return Ok(home.shard);
        }
        match self.admission {
            Admission::OnJoin | Admission::OnCreate => self.admit(unix_ms, room, shard),
            Admission::Claimed => Err(Refusal::NotHere),
        }
    }

    /// Gives a room its home on `shard`, or tells the one it has. True: it was here before.
    pub fn claim(
        &mut self,
        now: Instant,
        unix_ms: u64,
        epoch: u64,
        room: &RoomKey,
        shard: usize,
    ) -> Result<(usize, bool), Refusal> {
        self.see_epoch(epoch)?;
        if self.state == State::Stopping {
            return Err(Refusal::Stopping);
        }
        if let Some(home) = self.homes.get_mut(room) {
            home.claim_epoch = epoch;
            return Ok((home.shard, true));
        }
        if self.grant_remaining(now).is_zero() {
            return Err(Refusal::NoGrant);
        }
        if self.tickets.remaining(now, unix_ms).is_zero() {
            return Err(Refusal::NoTicket);
        }
        self.admit(unix_ms, room, shard).map(|shard| (shard, false))
    }

    /// Whether a room that is not here may come.
    fn may_admit(&self) -> Result<(), Refusal> {
        match self.state {
            State::Draining => Err(Refusal::Draining),
            State::Stopping => Err(Refusal::Stopping),
            State::Serving if self.homes.len() >= self.rooms_max => {
                Err(Refusal::Full(self.rooms_max))
            }
            State::Serving => Ok(()),
        }
    }

    fn admit(&mut self, unix_ms: u64, room: &RoomKey, shard: usize) -> Result<usize, Refusal> {
        self.may_admit()?;
        let home = Home {
            shard,
            claim_epoch: self.epoch,
            created_unix_ms: unix_ms,
            sid: String::new(),
            participants: 0,
            publishing: BTreeMap::new(),
        };
        self.homes.insert(room.clone(), home);
        Ok(shard)
    }

    /// Takes the home of a room away, so that nobody joins it here any more.
    pub fn release(&mut self, epoch: u64, room: &RoomKey) -> Result<Option<Home>, Refusal> {
        self.see_epoch(epoch)?;
        Ok(self.remove(room))
    }

    /// Follows what a shard tells of a room; one that has its home elsewhere is not followed.
    pub fn happened(&mut self, shard: usize, room: &RoomKey, what: Happened) {
        let Some(home) = self.homes.get_mut(room).filter(|home| home.shard == shard) else {
            return;
        };
        match what {
            Happened::Started { sid } => home.sid = sid,
            Happened::Joined => home.participants += 1,
            Happened::Left { participant } => {
                home.participants = home.participants.saturating_sub(1);
                home.publishing.remove(&participant);
            }
            Happened::Published { participant } => {
                *home.publishing.entry(participant).or_default() += 1;
            }
            Happened::Unpublished { participant } => {
                if let Some(tracks) = home.publishing.get_mut(&participant) {
                    *tracks -= 1;
                    if *tracks == 0 {
                        home.publishing.remove(&participant);
                    }
                }
            }
            Happened::Finished => drop(self.remove(room)),
        }
    }

    fn remove(&mut self, room: &RoomKey) -> Option<Home> {
        self.homes.remove(room)
    }

    /// A shard lost everything.
    pub fn shard_restarted(&mut self, shard: usize) {
        self.homes.retain(|_, home| home.shard != shard);
    }

    /// Remembers the highest epoch and refuses a lower one.
    pub fn see_epoch(&mut self, epoch: u64) -> Result<(), Refusal> {
        if epoch < self.epoch {
            return Err(Refusal::StaleEpoch);
        }
        self.epoch = epoch;
        Ok(())
    }

    /// Allows new rooms for `ttl` from the moment at which the report was written that the grant
    /// quotes. One that arrives when that is over allows nothing, and one that was overtaken by a
    /// newer takes nothing away.
    pub fn grant(&mut self, quoted: Instant, epoch: u64, ttl: Duration) -> Result<(), Refusal> {
        self.see_epoch(epoch)?;
        self.grant_until = self.grant_until.max(quoted.checked_add(ttl));
        Ok(())
    }

    /// How long the grant still holds.
    pub fn grant_remaining(&self, now: Instant) -> Duration {
        self.grant_until.map_or(Duration::ZERO, |until| until.saturating_duration_since(now))
    }

    /// No new rooms from now on; reversible.
    pub fn drain(&mut self, epoch: u64) -> Result<usize, Refusal> {
        self.see_epoch(epoch)?;
        if self.state == State::Serving {
            self.state = State::Draining;
        }
        Ok(self.homes.len())
    }

    /// New rooms again.
    pub fn undrain(&mut self, epoch: u64) -> Result<(), Refusal> {
        self.see_epoch(epoch)?;
        if self.state == State::Draining {
            self.state = State::Serving;
        }
        Ok(())
    }

    /// The process ends: no new rooms, not reversible. Returns the rooms to send home.
    pub fn stop(&mut self) -> Vec<(RoomKey, usize)> {
        self.state = State::Stopping;
        self.homes.iter().map(|(room, home)| (room.clone(), home.shard)).collect()
    }

    /// Every room that is here.
    pub fn all(&self) -> impl Iterator<Item = (&RoomKey, &Home)> {
        self.homes.iter()
    }

    /// The home of a room.
    pub fn home(&self, room: &RoomKey) -> Option<&Home> {
        self.homes.get(room)
    }

    /// Whether new rooms may come.
    pub fn state(&self) -> State {
        self.state
    }

    /// The highest epoch seen.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Whether rooms need a claim.
    pub fn claimed(&self) -> bool {
        self.admission == Admission::Claimed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ticket::Bearer;
    use crate::ticket::tests::{NOON, held};

    fn room(name: &str) -> RoomKey {
        RoomKey { tenant: "ns/mc".into(), name: name.into() }
    }

    fn claimed() -> (Rooms, Instant) {
        let now = Instant::now();
        (Rooms::new(Admission::Claimed, 2, 0, held(now)), now)
    }

    const TTL: Duration = Duration::from_secs(5);

    #[test]
    fn without_a_grant_no_new_room_but_the_old_ones_stay() {
        let (mut rooms, now) = claimed();
        assert_eq!(rooms.claim(now, NOON, 1, &room("a"), 0), Err(Refusal::NoGrant));
        rooms.grant(now, 1, TTL).unwrap();
        assert_eq!(rooms.claim(now, NOON, 1, &room("a"), 0), Ok((0, false)));
        let later = now + TTL;
        assert_eq!(rooms.claim(later, NOON, 1, &room("b"), 0), Err(Refusal::NoGrant));
        assert_eq!(rooms.claim(later, NOON, 1, &room("a"), 1), Ok((0, true)), "idempotent");
        assert_eq!(rooms.join(0, &room("a"), 1), Ok(0), "newcomers are let in");
        assert_eq!(rooms.join(0, &room("b"), 1), Err(Refusal::NotHere));
    }

    #[test]
    fn a_grant_alone_admits_no_new_room_and_a_ticket_that_ends_closes_none() {
        let (mut rooms, now) = claimed();
        rooms.grant(now, 1, TTL).unwrap();
        rooms.claim(now, NOON, 1, &room("a"), 0).unwrap();
        for (name, unix_ms) in [("late", NOON + 600_000), ("in the future", NOON + 7_200_000)] {
            let refused = rooms.claim(now, unix_ms, 1, &room("b"), 0);
            assert_eq!(refused, Err(Refusal::NoTicket), "{name}");
            assert_eq!(rooms.claim(now, unix_ms, 1, &room("a"), 0), Ok((0, true)), "{name}");
            assert_eq!(rooms.join(unix_ms, &room("a"), 0), Ok(0), "newcomers are let in: {name}");
        }
        rooms.tickets.take(now, NOON, now, &[]).unwrap();
        assert_eq!(rooms.claim(now, NOON, 1, &room("b"), 0), Err(Refusal::NoTicket));
    }

    #[test]
    fn a_lower_epoch_changes_nothing() {
        let (mut rooms, now) = claimed();
        rooms.grant(now, 7, TTL).unwrap();
        assert_eq!(rooms.grant(now, 6, TTL * 100), Err(Refusal::StaleEpoch));
        assert_eq!(rooms.grant_remaining(now), TTL);
        assert_eq!(rooms.claim(now, NOON, 6, &room("a"), 0), Err(Refusal::StaleEpoch));
        assert_eq!(rooms.drain(6), Err(Refusal::StaleEpoch));
        assert_eq!(rooms.release(6, &room("a")), Err(Refusal::StaleEpoch));
        assert_eq!((rooms.state(), rooms.epoch()), (State::Serving, 7));
    }

    #[test]
    fn a_grant_counts_from_the_report_that_it_quotes_however_late_it_comes() {
        let (mut rooms, written) = claimed();
        let thawed = written + TTL * 4;
        rooms.grant(written, 1, TTL).unwrap();
        assert_eq!(rooms.claim(thawed, NOON, 1, &room("a"), 0), Err(Refusal::NoGrant));
        rooms.grant(thawed, 1, TTL).unwrap();
        rooms.grant(written, 1, TTL).unwrap();
        assert_eq!(rooms.grant_remaining(thawed), TTL, "one that was overtaken takes nothing away");
        assert_eq!(rooms.claim(thawed, NOON, 1, &room("a"), 0), Ok((0, false)));
    }

    #[test]
    fn a_process_that_starts_with_an_epoch_obeys_none_below_it() {
        let now = Instant::now();
        let mut rooms = Rooms::new(Admission::Claimed, 2, 7, held(now));
        assert_eq!(rooms.grant(now, 6, TTL), Err(Refusal::StaleEpoch));
        assert_eq!(rooms.claim(now, NOON, 6, &room("a"), 0), Err(Refusal::StaleEpoch));
        rooms.grant(now, 7, TTL).unwrap();
    }

    #[test]
    fn draining_refuses_new_rooms_and_is_reversible_unlike_stopping() {
        let (mut rooms, now) = claimed();
        rooms.grant(now, 1, TTL).unwrap();
        rooms.claim(now, NOON, 1, &room("a"), 0).unwrap();
        assert_eq!(rooms.drain(1), Ok(1));
        assert_eq!(rooms.claim(now, NOON, 1, &room("b"), 0), Err(Refusal::Draining));
        assert_eq!(rooms.join(0, &room("a"), 0), Ok(0));
        rooms.undrain(2).unwrap();
        assert_eq!(rooms.claim(now, NOON, 2, &room("b"), 0), Ok((0, false)));
        assert_eq!(rooms.claim(now, NOON, 2, &room("c"), 0), Err(Refusal::Full(2)));
        assert_eq!(rooms.stop().len(), 2);
        rooms.undrain(3).unwrap();
        assert_eq!(rooms.state(), State::Stopping);
        assert_eq!(rooms.join(0, &room("a"), 0), Err(Refusal::NotHere), "sent home for good");
        assert_eq!(rooms.claim(now, NOON, 3, &room("a"), 0), Err(Refusal::Stopping));
    }

    #[test]
    fn a_room_is_counted_until_it_ends() {
        let (mut rooms, now) = claimed();
        rooms.grant(now, 1, TTL).unwrap();
        rooms.claim(now, NOON, 1, &room("a"), 0).unwrap();
        let ada = || "PA_ada".to_owned();
        for what in [
            Happened::Started { sid: "RM_a".into() },
            Happened::Joined,
            Happened::Joined,
            Happened::Published { participant: ada() },
            Happened::Published { participant: ada() },
            Happened::Unpublished { participant: ada() },
        ] {
            rooms.happened(0, &room("a"), what);
        }
        rooms.happened(1, &room("a"), Happened::Finished);
        let home = rooms.home(&room("a")).unwrap();
        assert_eq!((home.sid.as_str(), home.participants, home.publishers()), ("RM_a", 2, 1));
        rooms.happened(0, &room("a"), Happened::Left { participant: ada() });
        let home = rooms.home(&room("a")).unwrap();
        assert_eq!((home.participants, home.publishers()), (1, 0));
        rooms.happened(0, &room("a"), Happened::Finished);
        assert!(rooms.home(&room("a")).is_none());
    }

    #[test]
    fn a_release_takes_the_home_away_at_once() {
        let (mut rooms, now) = claimed();
        rooms.grant(now, 1, TTL).unwrap();
        rooms.claim(now, NOON, 1, &room("a"), 0).unwrap();
        assert!(rooms.release(1, &room("a")).unwrap().is_some());
        assert!(rooms.release(1, &room("a")).unwrap().is_none());
        assert_eq!(rooms.join(0, &room("a"), 0), Err(Refusal::NotHere));
    }

    #[test]
    fn only_create_brings_a_room_when_joins_may_not() {
        let mut rooms = Rooms::new(Admission::OnCreate, 10, 0, Tickets::new(Bearer::default()));
        assert_eq!(rooms.join(0, &room("a"), 0), Err(Refusal::NotHere));
        assert_eq!(rooms.create(0, &room("a"), 0), Ok(0));
        assert_eq!(rooms.join(0, &room("a"), 0), Ok(0));
        rooms.shard_restarted(0);
        assert_eq!(rooms.join(0, &room("a"), 0), Err(Refusal::NotHere));
    }
}
