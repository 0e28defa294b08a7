//! The placer's memory: media nodes, rooms, and the events that come from outside a request.
//!
//! Rooms are entered and removed here and nowhere else, so that the two indexes (room to media
//! node, media node to rooms) and the changes for gateways never part.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Admission, GRANT_SKEW_MS, GRANT_TTL_MS, Grant, KnownMediaNode, PlacerState, REFUSALS_WINDOW_MS,
    RELEASE_RETRY_MS, RELEASES_MAX, RESERVATION_MS, Release, SIGHT_MS, Settings, changes::Changes,
};
use crate::{
    capacity::Busy,
    ids::{Epoch, Incarnation, MediaNodeName, RoomKey, Timestamp, Zone},
    report::{MediaNodeState, ReportError},
};

/// Which media node has which room of one meeting cluster.
#[derive(Clone, Debug)]
pub struct Directory {
    pub(super) settings: Settings,
    pub(super) epoch: Epoch,
    pub(super) rebuilding: bool,
    pub(super) nodes: BTreeMap<MediaNodeName, NodeEntry>,
    pub(super) rooms: BTreeMap<RoomKey, RoomEntry>,
    pub(super) releases: BTreeMap<Release, Option<Timestamp>>,
    pub(super) refusals: BTreeMap<u64, u32>,
    pub(super) changes: Changes,
    pub(super) counters: Counters,
}

/// What was counted since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Reports that were ignored, by reason.
    pub reports_ignored: BTreeMap<ReportError, u64>,
    /// Rooms that got a home by a claim.
    pub rooms_placed: u64,
    /// New rooms that were refused for want of a media node.
    pub rooms_refused: u64,
    /// Rooms that were found on two media nodes.
    pub rooms_doubled: u64,
    /// Rooms in reports that belong to somebody else.
    pub rooms_foreign: u64,
    /// Releases that were dropped because too many wait.
    pub releases_dropped: u64,
}

/// One media node in the placer's memory.
#[derive(Clone, Debug)]
pub(super) struct NodeEntry {
    pub(super) zone: Zone,
    pub(super) admission: Admission,
    /// It answered in this epoch, or cannot hold rooms from before it.
    pub(super) heard: bool,
    /// Until then it may admit new rooms that this leader does not know of.
    pub(super) hold_until: Timestamp,
    /// This leader's grant ends then; new rooms go only to a media node that holds one.
    pub(super) granted_until: Timestamp,
    pub(super) known_since: Timestamp,
    /// Gateways were told that it is out of sight.
    pub(super) told_unseen: bool,
    pub(super) incarnation: Option<Incarnation>,
    pub(super) stream: Option<Stream>,
    pub(super) load: Option<Load>,
    pub(super) rooms: BTreeSet<RoomKey>,
    /// Rooms of which a report that may be older than their claim said that they are gone.
    pub(super) doubted: BTreeSet<RoomKey>,
    pub(super) claims_in_flight: u32,
    /// Participants that its rooms are still expected to grow by.
    pub(super) reserved: f64,
    pub(super) reserved_at: Timestamp,
    pub(super) refused_until: Timestamp,
}

/// An open stream of reports.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stream {
    pub(super) sequence: u64,
    /// Least difference seen between our clock at arrival and the report's own, in milliseconds.
    pub(super) clock_offset_ms: i64,
}

/// The last believed load.
#[derive(Clone, Copy, Debug)]
pub(super) struct Load {
    pub(super) received: Timestamp,
    /// When it was written, on our clock at the earliest and on the media node's own.
    pub(super) written: Timestamp,
    pub(super) uptime_ms: u64,
    pub(super) state: MediaNodeState,
    pub(super) participants: u32,
    pub(super) busy: Busy,
}

/// One room in the placer's memory.
#[derive(Clone, Debug)]
pub(super) struct RoomEntry {
    pub(super) home: MediaNodeName,
    pub(super) phase: RoomPhase,
    pub(super) incarnation: Option<Incarnation>,
    pub(super) claim_epoch: Epoch,
    /// When a claim of this leader was answered; `None` when the room was learnt from a report.
    pub(super) claimed_at: Option<Timestamp>,
    pub(super) created_unix_ms: u64,
    pub(super) participants: u32,
    pub(super) expected: u32,
    pub(super) placed_at: Timestamp,
}

/// How sure the home is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RoomPhase {
    /// A claim is on its way since then.
    Claiming(Timestamp),
    /// A claim was sent and nobody knows what came of it, since then.
    Uncertain(Timestamp),
    /// The media node has it.
    Home,
}

impl NodeEntry {
    /// Whether it reports, now.
    pub(super) fn in_sight(&self, now: Timestamp) -> bool {
        self.stream.is_some()
            && self.load.is_some_and(|load| now.since_ms(load.received) <= SIGHT_MS)
    }

    /// Whether it may still admit people to a room as new without this leader knowing.
    pub(super) fn may_hold(&self, now: Timestamp) -> bool {
        self.in_sight(now) || now < self.hold_until
    }
}

impl Directory {
    /// An empty directory that places nothing until an epoch is begun.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            epoch: Epoch(0),
            rebuilding: true,
            nodes: BTreeMap::new(),
            rooms: BTreeMap::new(),
            releases: BTreeMap::new(),
            refusals: BTreeMap::new(),
            changes: Changes::default(),
            counters: Counters::default(),
        }
    }

    /// Takes new packing numbers, such as after a change of the resource.
    pub fn set_settings(&mut self, settings: Settings) {
        self.settings = settings;
    }

    /// Begins to lead with `epoch`: forgets everything and hears the media nodes anew. An epoch
    /// that is not higher than the present one changes nothing.
    pub fn begin_epoch(
        &mut self,
        epoch: Epoch,
        known: impl IntoIterator<Item = KnownMediaNode>,
        now: Timestamp,
    ) {
        if epoch <= self.epoch {
            return;
        }
        let counters = std::mem::take(&mut self.counters);
        *self = Self { counters, epoch, ..Self::new(self.settings.clone()) };
        for media_node in known {
            self.node_known(media_node, now);
        }
        self.changes.whole = true;
        self.tick(now);
    }

    /// The epoch that is led with; 0 before the first.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Tells of a media node, or of a change of its zone or admission. One that may hold rooms from
    /// before this epoch holds new rooms back until it answers or its grant has run out.
    pub fn node_known(&mut self, known: KnownMediaNode, now: Timestamp) {
        if let Some(entry) = self.nodes.get_mut(&known.name) {
            entry.zone = known.zone;
            entry.admission = known.admission;
            return;
        }
        let hold_until =
            if known.may_hold_rooms { now.plus_ms(GRANT_TTL_MS + GRANT_SKEW_MS) } else { now };
        let entry = NodeEntry {
            zone: known.zone,
            admission: known.admission,
            heard: !known.may_hold_rooms,
            hold_until,
            granted_until: Timestamp(0),
            known_since: now,
            told_unseen: false,
            incarnation: None,
            stream: None,
            load: None,
            rooms: BTreeSet::new(),
            doubted: BTreeSet::new(),
            claims_in_flight: 0,
            reserved: 0.0,
            reserved_at: now,
            refused_until: Timestamp(0),
        };
        self.nodes.insert(known.name.clone(), entry);
        self.changes.node_changed(&known.name);
    }

    /// The grant to send to a media node now: to one that is admitted and in sight. It is counted
    /// as given from this moment, whether or not it arrives, and makes the media node's rooms wait
    /// for its end; so ask only for one that is sent.
    pub fn grant(&mut self, name: &MediaNodeName, now: Timestamp) -> Option<Grant> {
        let entry = self.nodes.get_mut(name)?;
        if entry.admission != Admission::Admit || !entry.in_sight(now) {
            return None;
        }
        let (load, incarnation) = (entry.load?, entry.incarnation.clone()?);
        // It was written before it came: by our clock, the grant ends no later than this.
        let over = load.received.plus_ms(GRANT_TTL_MS + GRANT_SKEW_MS);
        entry.hold_until = entry.hold_until.max(over);
        let until = load.written.plus_ms(GRANT_TTL_MS);
        Some(Grant { incarnation, uptime_ms: load.uptime_ms, ttl_ms: GRANT_TTL_MS, until })
    }

    /// Notes that a media node confirmed a grant: new rooms may go there until it ends.
    pub fn granted(&mut self, name: &MediaNodeName, grant: &Grant) {
        if let Some(entry) = self.nodes.get_mut(name)
            && entry.incarnation.as_ref() == Some(&grant.incarnation)
        {
            entry.granted_until = entry.granted_until.max(grant.until);
        }
    }

    /// Notes that the stream of reports broke. The rooms stay where they are: losing sight is not
    /// death.
    pub fn node_lost(&mut self, name: &MediaNodeName) {
        if let Some(entry) = self.nodes.get_mut(name) {
            entry.stream = None;
        }
    }

    /// Notes that somebody who knows says that the media node's process is over for good: its rooms
    /// are gone and may get a new home at once.
    pub fn node_terminated(&mut self, name: &MediaNodeName, now: Timestamp) {
        let Some(entry) = self.nodes.remove(name) else { return };
        for room in entry.rooms {
            self.rooms.remove(&room);
            self.changes.room_gone(&room);
        }
        self.releases.retain(|release, _| release.media_node != *name);
        self.changes.node_gone(name);
        self.tick(now);
    }

    /// Notes proof that the process which spoke for a media node is over, while its pod may start
    /// another one: its rooms are gone and may get a new home at once.
    pub fn process_over(&mut self, name: &MediaNodeName, now: Timestamp) {
        let Some(entry) = self.nodes.get_mut(name) else { return };
        entry.stream = None;
        entry.load = None;
        entry.granted_until = Timestamp(0);
        // Whoever comes next under this name holds no grant before this leader gives one.
        entry.hold_until = now;
        entry.heard = true;
        entry.told_unseen = true;
        let rooms: Vec<RoomKey> = entry.rooms.iter().cloned().collect();
        for room in rooms {
            let claimed = |entry: &RoomEntry| matches!(entry.phase, RoomPhase::Claiming(_));
            // The outcome of a claim is still to come.
            if !self.rooms.get(&room).is_some_and(claimed) {
                self.take_room(&room);
            }
        }
        self.releases.retain(|release, _| release.media_node != *name);
        self.count_reserved(name, now);
        self.changes.node_gone(name);
        self.tick(now);
    }

    /// Notes for gateways which media nodes went out of sight and which came back.
    pub fn note_sight(&mut self, now: Timestamp) {
        for (name, entry) in &mut self.nodes {
            if entry.in_sight(now) {
                if std::mem::take(&mut entry.told_unseen) {
                    self.changes.node_changed(name);
                }
                continue;
            }
            // A stream that broke may be open again before a report is missed.
            let heard = entry.load.map_or(entry.known_since, |load| load.received);
            if !entry.told_unseen && now.since_ms(heard) > SIGHT_MS {
                entry.told_unseen = true;
                self.changes.node_unseen(name);
            }
        }
    }

    pub(super) fn told_unseen(&self) -> Vec<MediaNodeName> {
        let unseen = self.nodes.iter().filter(|(_, entry)| entry.told_unseen);
        unseen.map(|(name, _)| name.clone()).collect()
    }

    /// Lets time pass: ends the rebuild when every media node was heard or its grant has run out,
    /// and forgets claims of which nothing was heard.
    pub fn tick(&mut self, now: Timestamp) {
        if self.epoch > Epoch(0) && self.rebuilding {
            self.rebuilding = self.unheard(now) > 0;
        }
        let oldest = now.0.saturating_sub(REFUSALS_WINDOW_MS) / 1_000;
        self.refusals = self.refusals.split_off(&oldest);
    }

    /// Whether new rooms are placed.
    #[must_use]
    pub fn state(&self, now: Timestamp) -> PlacerState {
        match (self.epoch, self.rebuilding.then(|| self.unheard(now))) {
            (Epoch(0), _) => PlacerState::Idle,
            (_, Some(unheard)) if unheard > 0 => PlacerState::Rebuilding { unheard },
            _ => PlacerState::Placing,
        }
    }

    fn unheard(&self, now: Timestamp) -> u32 {
        let unheard = |entry: &&NodeEntry| !entry.heard && now < entry.hold_until;
        u32::try_from(self.nodes.values().filter(unheard).count()).unwrap_or(u32::MAX)
    }

    /// Releases to be sent now. Each comes again until the media node stops reporting the room.
    pub fn take_releases(&mut self, now: Timestamp) -> Vec<Release> {
        let mut due = Vec::new();
        for (release, sent) in &mut self.releases {
            if sent.is_none_or(|sent| now.since_ms(sent) >= RELEASE_RETRY_MS) {
                *sent = Some(now);
                due.push(release.clone());
            }
        }
        due
    }

    /// Notes that a media node confirmed a release.
    pub fn released(&mut self, release: &Release) {
        self.releases.remove(release);
    }

    /// What was counted since the start.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// New rooms refused for want of a media node in the last minute.
    #[must_use]
    pub fn rooms_refused_recently(&self, now: Timestamp) -> u32 {
        let oldest = now.0.saturating_sub(REFUSALS_WINDOW_MS) / 1_000;
        self.refusals.range(oldest..).map(|(_, count)| *count).sum()
    }

    /// Participants that rooms are still expected to grow by, over all media nodes.
    #[must_use]
    pub fn participants_reserved(&self) -> u32 {
        self.nodes.values().map(|entry| entry.reserved).sum::<f64>().max(0.0) as u32
    }

    /// Claims on their way to a media node.
    #[must_use]
    pub fn claims_in_flight(&self, name: &MediaNodeName) -> u32 {
        self.nodes.get(name).map_or(0, |entry| entry.claims_in_flight)
    }

    /// Rooms on a media node with their participants, claims on their way included.
    #[must_use]
    pub fn rooms_on(&self, name: &MediaNodeName) -> BTreeMap<RoomKey, u32> {
        let rooms = self.nodes.get(name).into_iter().flat_map(|entry| &entry.rooms);
        rooms.filter_map(|r| Some((r.clone(), self.rooms.get(r)?.participants))).collect()
    }

    /// How many rooms a media node has, claims on their way included.
    #[must_use]
    pub fn rooms_len_on(&self, name: &MediaNodeName) -> usize {
        self.nodes.get(name).map_or(0, |entry| entry.rooms.len())
    }

    /// How many rooms have a home or a claim on its way.
    #[must_use]
    pub fn rooms_len(&self) -> usize {
        self.rooms.len()
    }

    pub(super) fn put_room(&mut self, room: RoomKey, entry: RoomEntry) {
        self.take_room(&room);
        if let Some(node) = self.nodes.get_mut(&entry.home) {
            node.rooms.insert(room.clone());
            node.claims_in_flight += u32::from(entry.phase != RoomPhase::Home);
        }
        if entry.phase == RoomPhase::Home {
            self.changes.room_changed(&room);
        }
        self.rooms.insert(room, entry);
    }

    pub(super) fn take_room(&mut self, room: &RoomKey) -> Option<RoomEntry> {
        let entry = self.rooms.remove(room)?;
        if let Some(node) = self.nodes.get_mut(&entry.home) {
            node.rooms.remove(room);
            node.doubted.remove(room);
            if entry.phase != RoomPhase::Home {
                node.claims_in_flight = node.claims_in_flight.saturating_sub(1);
            }
        }
        self.changes.room_gone(room);
        Some(entry)
    }

    pub(super) fn set_phase(&mut self, room: &RoomKey, phase: RoomPhase) {
        if let Some(mut entry) = self.take_room(room) {
            entry.phase = phase;
            self.put_room(room.clone(), entry);
        }
    }

    pub(super) fn release(&mut self, media_node: &MediaNodeName, room: &RoomKey) {
        if self.releases.len() >= RELEASES_MAX {
            self.counters.releases_dropped += 1;
            return;
        }
        let release = Release { media_node: media_node.clone(), room: room.clone() };
        self.releases.entry(release).or_insert(None);
    }

    /// Counts anew what the rooms of a media node are still expected to grow by.
    pub(super) fn count_reserved(&mut self, name: &MediaNodeName, now: Timestamp) {
        let Some(node) = self.nodes.get(name) else { return };
        let rooms = node.rooms.iter().filter_map(|room| self.rooms.get(room));
        let reserved = rooms.map(|room| room.growth_expected(now)).sum();
        if let Some(node) = self.nodes.get_mut(name) {
            node.reserved = reserved;
            node.reserved_at = now;
        }
    }
}

impl RoomEntry {
    /// Participants that the room is still expected to grow by; fades with its age.
    fn growth_expected(&self, now: Timestamp) -> f64 {
        let missing = f64::from(self.expected.saturating_sub(self.participants));
        let age_ms = now.since_ms(self.placed_at).min(RESERVATION_MS);
        missing * (1.0 - age_ms as f64 / RESERVATION_MS as f64)
    }
}
