//! How well participants are connected, as the bars in their tiles show it.
//!
//! Decides from what arrives of a participant's packets, after repair, and from the downlink's
//! estimate. Invariant: a participant hears of a change at most once per [`EVERY`].

use std::time::Duration;

use livekit_protocol as proto;
use proto::ConnectionQuality;
use proto::signal_response::Message;

use super::Room;
use crate::context::Context;
use crate::ids::ParticipantSlot;
use crate::participant::Participant;

/// LiveKit's interval (`connectionQualityWorker`).
pub(super) const EVERY: Duration = Duration::from_secs(5);
/// Packets that must have been expected for a share of them to mean something.
const EXPECTED_MIN: u64 = 50;
/// Lost packets per thousand, after repair, up to which a connection is excellent, and good.
const LOST_EXCELLENT: u64 = 15;
const LOST_GOOD: u64 = 40;

/// Packets of one participant since the last look.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Arrivals {
    pub(crate) expected: u64,
    pub(crate) received: u64,
}

impl Arrivals {
    fn lost_per_thousand(self) -> u64 {
        if self.expected < EXPECTED_MIN {
            return 0;
        }
        self.expected.saturating_sub(self.received) * 1_000 / self.expected
    }
}

impl Room {
    /// Tells everyone how they and those they receive are connected, where that changed.
    pub(super) fn tell_connections(&mut self, ctx: &mut Context<'_>) {
        if self.connections_told.is_some_and(|at| ctx.now.saturating_duration_since(at) < EVERY) {
            return;
        }
        self.connections_told = Some(ctx.now);
        let mut all = Vec::new();
        let mut newcomers = Vec::new();
        for (slot, one) in &mut self.participants {
            let quality = judge(one);
            let told = one.told_connection.replace(quality);
            if told.is_none() {
                newcomers.push(slot);
            }
            let score = match quality {
                ConnectionQuality::Excellent => 4.6,
                ConnectionQuality::Good => 3.6,
                ConnectionQuality::Poor => 2.1,
                ConnectionQuality::Lost => 0.0,
            };
            all.push((slot, one.sid.clone(), quality, score, told != Some(quality)));
        }
        if all.iter().all(|(.., changed)| !changed) {
            return;
        }
        let everyone: Vec<_> = self.participants.keys().collect();
        for to in everyone {
            let new = newcomers.contains(&to);
            let shown = all
                .iter()
                .filter(|(about, .., changed)| (new || *changed) && self.shows(to, *about));
            let updates: Vec<_> = shown
                .map(|(_, sid, quality, score, _)| proto::ConnectionQualityInfo {
                    participant_sid: sid.clone(),
                    quality: *quality as i32,
                    score: *score,
                })
                .collect();
            if !updates.is_empty() {
                let update = proto::ConnectionQualityUpdate { updates };
                self.tell(ctx, to, Message::ConnectionQuality(update));
            }
        }
    }

    /// Whether `to` is told about `about`: itself and whoever is not hidden.
    fn shows(&self, to: ParticipantSlot, about: ParticipantSlot) -> bool {
        to == about || self.participants.get(about).is_some_and(|one| !one.grant.hidden)
    }
}

fn judge(one: &mut Participant) -> ConnectionQuality {
    let mut arrivals = Arrivals::default();
    let mut lost = one.subscriber.transport.lost_at.is_some();
    if let Some(publisher) = &mut one.publisher {
        lost |= publisher.transport.lost_at.is_some();
        for source in &mut publisher.sources {
            let seen = std::mem::take(&mut source.arrivals);
            arrivals.expected += seen.expected;
            arrivals.received += seen.received;
        }
    }
    let paused = one.subscriber.sections().any(|section| section.downlink.paused);
    match arrivals.lost_per_thousand() {
        _ if lost => ConnectionQuality::Lost,
        _ if paused => ConnectionQuality::Poor,
        share if share <= LOST_EXCELLENT => ConnectionQuality::Excellent,
        share if share <= LOST_GOOD => ConnectionQuality::Good,
        _ => ConnectionQuality::Poor,
    }
}
