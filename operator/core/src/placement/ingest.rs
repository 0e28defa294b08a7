//! Takes reports: believes, ignores, and learns from them where rooms are.
//!
//! A report that is late, impossible or from a lower epoch changes nothing at all. One that was
//! written before a claim was answered is not believed about that room's absence.

use std::collections::BTreeSet;

use super::{
    CLAIM_SETTLE_MS, CLAIM_TIMEOUT_MS, Release, ReportOutcome,
    directory::{Directory, Load, RoomEntry, RoomPhase, Stream},
};
use crate::{
    fleet::REPORT_FRESH_MS,
    ids::{MediaNodeName, RoomKey, Timestamp},
    report::{NodeReportView, ReportError, RoomView},
};

/// Clocks may drift apart by this much between two reports without making one look late.
const CLOCK_DRIFT_MS: i64 = 1;

/// Reserved growth is counted anew at most this often for one media node.
const RESERVED_EVERY_MS: u64 = 1_000;

impl Directory {
    /// Takes one report of a media node.
    pub fn report(
        &mut self,
        name: &MediaNodeName,
        view: &NodeReportView,
        now: Timestamp,
    ) -> ReportOutcome {
        if view.epoch > self.epoch {
            return ReportOutcome::Fenced { epoch: view.epoch };
        }
        match self.believe(name, view, now) {
            Ok(written) => {
                self.learn(name, view, written, now);
                ReportOutcome::Accepted
            }
            Err(error) => {
                *self.counters.reports_ignored.entry(error).or_default() += 1;
                self.node_lost(name);
                ReportOutcome::Ignored(error)
            }
        }
    }

    /// Whether to believe it; if so, when it was written on our clock, at the latest.
    fn believe(
        &mut self,
        name: &MediaNodeName,
        view: &NodeReportView,
        now: Timestamp,
    ) -> Result<Timestamp, ReportError> {
        let node = self.nodes.get_mut(name).ok_or(ReportError::UnknownMediaNode)?;
        view.check()?;
        if view.epoch < self.epoch {
            return Err(ReportError::EpochLower);
        }
        // Reports tell what changed, and while it was out of sight its rooms may have been given
        // away: it must tell the whole again.
        let out_of_sight = node.stream.is_some() && !node.in_sight(now);
        if out_of_sight && !view.whole {
            return Err(ReportError::Late);
        }
        let apart_ms = i64::try_from(now.0).unwrap_or(i64::MAX)
            - i64::try_from(view.uptime_ms).unwrap_or(i64::MAX);
        let offset_ms = match node.stream {
            // The first report of a stream is written when the stream is asked for.
            None if view.whole => apart_ms,
            None => return Err(ReportError::Late),
            Some(stream) if view.sequence == stream.sequence + 1 => {
                apart_ms.min(stream.clock_offset_ms.saturating_add(CLOCK_DRIFT_MS))
            }
            Some(_) => return Err(ReportError::Late),
        };
        let delay_ms = u64::try_from(apart_ms.saturating_sub(offset_ms)).unwrap_or(0);
        if delay_ms > REPORT_FRESH_MS {
            return Err(ReportError::Late);
        }
        node.stream = Some(Stream { sequence: view.sequence, clock_offset_ms: offset_ms });
        Ok(Timestamp(now.0.saturating_sub(delay_ms)))
    }

    fn learn(
        &mut self,
        name: &MediaNodeName,
        view: &NodeReportView,
        written: Timestamp,
        now: Timestamp,
    ) {
        self.learn_incarnation(name, view);
        let listed: BTreeSet<&RoomKey> = view.rooms.iter().map(|room| &room.room).collect();
        for room in &view.rooms {
            self.learn_room(name, view, room, now);
        }
        let absent: Vec<RoomKey> = match self.nodes.get(name) {
            Some(node) if view.whole => {
                node.rooms.iter().filter(|room| !listed.contains(room)).cloned().collect()
            }
            Some(node) => {
                let ended = view.ended.iter().filter(|room| !listed.contains(room));
                ended.chain(&node.doubted).cloned().collect()
            }
            None => vec![],
        };
        for room in absent {
            self.learn_absence(name, &room, written);
        }
        self.forget_releases(name, view, &listed);
        if let Some(node) = self.nodes.get_mut(name) {
            node.heard |= view.whole;
            node.load = Some(Load {
                received: now,
                written,
                uptime_ms: view.uptime_ms,
                state: view.state,
                participants: u32::try_from(view.participants).unwrap_or(u32::MAX),
                busy: view.busy(),
            });
            if now.since_ms(node.reserved_at) >= RESERVED_EVERY_MS {
                self.count_reserved(name, now);
            }
        }
        self.tick(now);
    }

    /// A new process has none of the old one's rooms.
    fn learn_incarnation(&mut self, name: &MediaNodeName, view: &NodeReportView) {
        let Some(node) = self.nodes.get_mut(name) else { return };
        if node.incarnation.as_ref() == Some(&view.incarnation) {
            return;
        }
        node.incarnation = Some(view.incarnation.clone());
        let rooms: Vec<RoomKey> = node.rooms.iter().cloned().collect();
        self.changes.node_changed(name);
        for room in rooms {
            let gone = self.rooms.get(&room).is_some_and(|entry| {
                entry.phase == RoomPhase::Home
                    && entry.incarnation.as_ref() != Some(&view.incarnation)
            });
            if gone {
                self.take_room(&room);
            }
        }
    }

    fn learn_room(
        &mut self,
        name: &MediaNodeName,
        view: &NodeReportView,
        seen: &RoomView,
        now: Timestamp,
    ) {
        if seen.room.tenant != self.settings.tenant {
            self.counters.rooms_foreign += 1;
            return;
        }
        match self.rooms.get(&seen.room).map(|entry| entry.home == *name) {
            Some(true) => self.confirm(name, view, seen),
            Some(false) => self.settle_double(name, view, seen, now),
            None => self.enter_seen(name, view, seen, now),
        }
    }

    fn enter_seen(
        &mut self,
        name: &MediaNodeName,
        view: &NodeReportView,
        seen: &RoomView,
        now: Timestamp,
    ) {
        let entry = RoomEntry {
            home: name.clone(),
            phase: RoomPhase::Home,
            incarnation: Some(view.incarnation.clone()),
            claim_epoch: seen.claim_epoch,
            claimed_at: None,
            created_unix_ms: seen.created_unix_ms,
            participants: seen.participants,
            expected: seen.participants,
            placed_at: now,
        };
        let release = Release { media_node: name.clone(), room: seen.room.clone() };
        self.releases.remove(&release);
        self.put_room(seen.room.clone(), entry);
    }

    fn confirm(&mut self, name: &MediaNodeName, view: &NodeReportView, seen: &RoomView) {
        if let Some(node) = self.nodes.get_mut(name) {
            node.doubted.remove(&seen.room);
        }
        if let Some(entry) = self.rooms.get_mut(&seen.room) {
            entry.participants = seen.participants;
            entry.created_unix_ms = seen.created_unix_ms;
            entry.incarnation = Some(view.incarnation.clone());
            if matches!(entry.phase, RoomPhase::Uncertain(_)) {
                self.set_phase(&seen.room, RoomPhase::Home);
            }
        }
    }

    /// A room with two homes: the newer claim keeps it, the other media node gives it up.
    fn settle_double(
        &mut self,
        name: &MediaNodeName,
        view: &NodeReportView,
        seen: &RoomView,
        now: Timestamp,
    ) {
        let Some(entry) = self.rooms.get(&seen.room) else { return };
        let loser = entry.home.clone();
        // What this leader claimed itself it claimed after it had given up the other home.
        let ours = entry.claimed_at.is_some() || entry.phase != RoomPhase::Home;
        let newer = (seen.claim_epoch, seen.created_unix_ms, name)
            > (entry.claim_epoch, entry.created_unix_ms, &entry.home);
        let release = Release { media_node: name.clone(), room: seen.room.clone() };
        if !self.releases.contains_key(&release) {
            self.counters.rooms_doubled += 1;
        }
        if ours || !newer {
            self.release(name, &seen.room);
            return;
        }
        self.take_room(&seen.room);
        self.release(&loser, &seen.room);
        self.enter_seen(name, view, seen, now);
    }

    /// A report says that a room is not there, or does not mention one that should be.
    fn learn_absence(&mut self, name: &MediaNodeName, room: &RoomKey, written: Timestamp) {
        let Some(entry) = self.rooms.get(room).filter(|entry| entry.home == *name) else { return };
        let settled = |since: Timestamp, ms| written.0 >= since.plus_ms(ms).0;
        let gone = match entry.phase {
            RoomPhase::Claiming(_) => return,
            // The claim may still be on its way.
            RoomPhase::Uncertain(since) => settled(since, CLAIM_TIMEOUT_MS),
            RoomPhase::Home => {
                entry.claimed_at.is_none_or(|claimed| settled(claimed, CLAIM_SETTLE_MS))
            }
        };
        if gone {
            self.take_room(room);
        } else if let Some(node) = self.nodes.get_mut(name) {
            node.doubted.insert(room.clone());
        }
    }

    /// Releases are done when the media node stops reporting the room.
    fn forget_releases(
        &mut self,
        name: &MediaNodeName,
        view: &NodeReportView,
        listed: &BTreeSet<&RoomKey>,
    ) {
        if self.releases.is_empty() {
            return;
        }
        let ended: BTreeSet<&RoomKey> = view.ended.iter().collect();
        self.releases.retain(|release, _| {
            release.media_node != *name
                || listed.contains(&release.room)
                || !(view.whole || ended.contains(&release.room))
        });
    }
}
