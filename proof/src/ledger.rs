//! Adds up, in the leader's memory, who was where for how long, and says what is to be signed.
//!
//! Decides when an interval ends: at midnight UTC, at the end of a ticket or of the scope, when a
//! pod ends or its ground changes, after a given time, and on demand. Reads no clock and writes
//! nothing. Invariants: intervals of one pod never overlap; time counts for participants only
//! within [`HOLD_MS`] after a sighting; every participant-millisecond that was counted is in
//! exactly one statement; each statement passes [`Placement::check`].
//!
//! [`Placement::check`]: crate::statement::Placement::check

use std::collections::BTreeMap;

use crate::moment::{Moment, Span};
use crate::room_hash::RoomHash;
use crate::statement::{EVIDENCE_MAX, Facts, Observed, ROOMS_MAX, RoomTime, SILENCES_MAX};
use crate::text::Text;

/// For how long a sighting counts when no other follows: five of the two-second rounds in which
/// media nodes are looked at. What lies beyond is silence.
pub const HOLD_MS: u64 = 10_000;
/// After so much silence the interval is over; a pod that is seen again begins another.
pub const SILENCE_MS_MAX: u64 = 15 * 60_000;
/// Pods that are watched at once: ten times the largest fleet that was measured, and room for those
/// that are replaced.
pub const PODS_MAX: usize = 4_096;
/// Statements that wait to be fetched: one for each pod, four times over. The caller fetches them
/// in every round.
pub const READY_MAX: usize = 4 * PODS_MAX;
/// Participants that are believed of one room; more is a broken report. With it no sum of a day
/// leaves the numbers that JSON keeps exact.
const PARTICIPANTS_MAX: u32 = 100_000;
/// The same for all rooms that found no place in the list.
const OTHERS_MAX: u64 = 1_000_000;

/// What is seen of one pod at a moment.
#[derive(Clone, Debug)]
pub struct Sighting {
    /// The pod and its ground.
    pub facts: Facts,
    /// The ticket that it holds, even when that has run out; `None` when it never had one.
    pub ticket: Option<Span>,
    /// Violations of the scope that are open for it.
    pub violations: u32,
    /// Its rooms, each with its participants.
    pub rooms: Vec<(RoomHash, u32)>,
}

/// The intervals of all pods of one meeting cluster during one leader's term.
#[derive(Debug)]
pub struct Ledger {
    tenant: Text,
    every_ms: u64,
    clock: Moment,
    open: BTreeMap<Text, OpenInterval>,
    ready: Vec<Observed>,
    dropped: u64,
}

impl Ledger {
    /// An empty ledger. No interval lasts longer than `every_ms`, so that a leader that dies loses
    /// no more; none begins before `not_before`, which is the chain's latest end, so that leaders
    /// whose clocks differ do not count a moment twice.
    #[must_use]
    pub fn new(tenant: Text, every_ms: u64, not_before: Moment) -> Self {
        let (open, ready) = (BTreeMap::new(), Vec::new());
        Self { tenant, every_ms, clock: not_before, open, ready, dropped: 0 }
    }

    /// Takes in what is seen of one pod at `at`. A clock that goes back stands still here.
    pub fn observe(&mut self, at: Moment, mut sighting: Sighting) {
        let at = self.tick(at);
        sighting.facts.evidence.truncate(EVIDENCE_MAX);
        sighting.ticket = sighting.ticket.filter(|ticket| ticket.from < ticket.to);
        let pod = sighting.facts.pod_uid.clone();
        let mut closed = Vec::new();
        let kept = self.open.remove(&pod).and_then(|mut interval| {
            let renewed = renewed(interval.ticket, sighting.ticket);
            interval.ticket = renewed.unwrap_or(interval.ticket);
            let heard = interval.run_to(at, &mut closed);
            let same = renewed.is_some() && interval.facts.same_ground(&sighting.facts);
            if heard && same {
                return Some(interval);
            }
            interval.emit(&mut closed);
            None
        });
        if kept.is_some() || self.open.len() < PODS_MAX {
            let mut interval =
                kept.unwrap_or_else(|| OpenInterval::begin(at, self.tenant.clone(), &sighting));
            interval.see(at, sighting, &mut closed);
            self.open.insert(pod, interval);
        } else {
            self.dropped += 1;
        }
        self.keep(closed);
    }

    /// The pod ended at `at`.
    pub fn end(&mut self, at: Moment, pod_uid: &Text) {
        let at = self.tick(at);
        let Some(mut interval) = self.open.remove(pod_uid) else { return };
        let mut closed = Vec::new();
        interval.run_to(at, &mut closed);
        interval.emit(&mut closed);
        self.keep(closed);
    }

    /// What is to be signed at `at`: call it in every round.
    pub fn due(&mut self, at: Moment) -> Vec<Observed> {
        let at = self.tick(at);
        let every_ms = self.every_ms;
        self.each(at, |interval, heard| !heard || at.since_ms(interval.from) >= every_ms)
    }

    /// Everything that was counted up to `at`: at the end of a term, and before an export.
    pub fn flush(&mut self, at: Moment) -> Vec<Observed> {
        let at = self.tick(at);
        self.each(at, |_, _| true)
    }

    /// Sightings and statements that found no place. Their time shows as silence.
    #[must_use]
    pub const fn dropped(&self) -> u64 {
        self.dropped
    }

    fn each(&mut self, at: Moment, is_due: impl Fn(&OpenInterval, bool) -> bool) -> Vec<Observed> {
        let mut closed = Vec::new();
        self.open.retain(|_, interval| {
            let heard = interval.run_to(at, &mut closed);
            if is_due(interval, heard) {
                interval.emit(&mut closed);
            }
            heard
        });
        self.keep(closed);
        std::mem::take(&mut self.ready)
    }

    fn keep(&mut self, closed: Vec<Observed>) {
        let place = READY_MAX.saturating_sub(self.ready.len());
        self.dropped += closed.len().saturating_sub(place) as u64;
        self.ready.extend(closed.into_iter().take(place));
    }

    fn tick(&mut self, at: Moment) -> Moment {
        self.clock = self.clock.max(at);
        self.clock
    }
}

/// What ticket holds now, or `None` when the new one does not follow on the old without a break.
fn renewed(old: Option<Span>, new: Option<Span>) -> Option<Option<Span>> {
    match (old, new) {
        (None, None) => Some(None),
        (Some(old), Some(new)) if new.from <= old.to && old.to <= new.to => {
            Some(Some(Span::new(old.from.min(new.from), new.to)))
        }
        _ => None,
    }
}

/// The open interval of one pod.
#[derive(Debug)]
struct OpenInterval {
    tenant: Text,
    facts: Facts,
    ticket: Option<Span>,
    from: Moment,
    /// Up to where time is added up.
    upto: Moment,
    /// The last sighting; flushing does not move it, so that silence cannot grow into presence.
    seen: Moment,
    now: Now,
    times: BTreeMap<RoomHash, u64>,
    omitted: u32,
    participant_ms: u64,
    unobserved_ms: u64,
    silences: Vec<Span>,
    violations: u32,
}

/// What held at the last sighting.
#[derive(Debug, Default)]
struct Now {
    rooms: BTreeMap<RoomHash, u32>,
    others: u64,
    omitted: u32,
    violations: u32,
}

impl OpenInterval {
    fn begin(at: Moment, tenant: Text, sighting: &Sighting) -> Self {
        Self {
            tenant,
            facts: sighting.facts.clone(),
            ticket: sighting.ticket,
            from: at,
            upto: at,
            seen: at,
            now: Now::default(),
            times: BTreeMap::new(),
            omitted: 0,
            participant_ms: 0,
            unobserved_ms: 0,
            silences: Vec::new(),
            violations: 0,
        }
    }

    /// Adds up to `at`, cutting where a statement must end, and says whether the pod was heard of
    /// lately. One that was not is only added up to where its last sighting counts.
    fn run_to(&mut self, at: Moment, closed: &mut Vec<Observed>) -> bool {
        let heard = at.since_ms(self.seen) <= SILENCE_MS_MAX;
        let at = if heard { at } else { self.upto.max(self.seen.plus_ms(HOLD_MS)) };
        while let Some(cut) = self.cut().filter(|cut| *cut <= at) {
            self.add_up_to(cut);
            self.emit(closed);
        }
        self.add_up_to(at);
        heard
    }

    /// The next moment that no statement may span.
    fn cut(&self) -> Option<Moment> {
        [Some(self.from.day().end()), self.ticket.map(|ticket| ticket.to)]
            .into_iter()
            .chain([Some(self.facts.scope.expires)])
            .flatten()
            .filter(|cut| *cut > self.from && *cut >= self.upto)
            .min()
    }

    fn add_up_to(&mut self, to: Moment) {
        let counted = to.min(self.seen.plus_ms(HOLD_MS)).max(self.upto);
        let ms = counted.since_ms(self.upto);
        for (room, participants) in &self.now.rooms {
            let more = ms * u64::from(*participants);
            *self.times.entry(*room).or_default() += more;
            self.participant_ms += more;
        }
        self.participant_ms += ms * self.now.others;
        if counted < to {
            self.be_silent(Span::new(counted, to));
        }
        self.upto = self.upto.max(to);
    }

    fn be_silent(&mut self, silence: Span) {
        self.unobserved_ms += silence.ms();
        let listed = self.silences.len();
        match self.silences.last_mut().filter(|last| last.to == silence.from) {
            Some(last) => last.to = silence.to,
            None if listed < SILENCES_MAX => self.silences.push(silence),
            None => {}
        }
    }

    /// Takes in what holds from `at` on.
    fn see(&mut self, at: Moment, sighting: Sighting, closed: &mut Vec<Observed>) {
        let mut rooms: BTreeMap<RoomHash, u32> = BTreeMap::new();
        for (room, participants) in sighting.rooms {
            let sum = rooms.entry(room).or_default();
            *sum = sum.saturating_add(participants).min(PARTICIPANTS_MAX);
        }
        let listed = rooms.keys().take(ROOMS_MAX);
        let new = listed.filter(|room| !self.times.contains_key(room)).count();
        if self.times.len() + new > ROOMS_MAX {
            // A fresh statement has place for them.
            self.emit(closed);
            self.times.clear();
        }
        let mut now = Now { violations: sighting.violations, ..Now::default() };
        for (room, participants) in rooms {
            if now.rooms.len() < ROOMS_MAX {
                now.rooms.insert(room, participants);
                self.times.entry(room).or_default();
            } else {
                now.omitted += 1;
                now.others = (now.others + u64::from(participants)).min(OTHERS_MAX);
            }
        }
        self.omitted = self.omitted.max(now.omitted);
        self.violations = self.violations.max(now.violations);
        self.now = now;
        self.seen = at;
        self.facts.evidence = sighting.facts.evidence;
    }

    /// Ends the interval where it is added up to, and begins the next there.
    fn emit(&mut self, closed: &mut Vec<Observed>) {
        if self.from == self.upto {
            return;
        }
        let fresh = self.now.rooms.keys().map(|room| (*room, 0)).collect();
        let rooms = std::mem::replace(&mut self.times, fresh)
            .into_iter()
            .map(|(hash, participant_ms)| RoomTime { hash, participant_ms })
            .collect();
        closed.push(Observed {
            tenant: self.tenant.clone(),
            facts: self.facts.clone(),
            ticket: self.ticket,
            interval: Span::new(self.from, self.upto),
            rooms,
            rooms_omitted: std::mem::replace(&mut self.omitted, self.now.omitted),
            participant_ms: std::mem::take(&mut self.participant_ms),
            unobserved_ms: std::mem::take(&mut self.unobserved_ms),
            silences: std::mem::take(&mut self.silences),
            violations: std::mem::replace(&mut self.violations, self.now.violations),
        });
        self.from = self.upto;
    }
}

#[cfg(test)]
mod tests;
