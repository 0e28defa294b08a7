//! Who gets which quality, and who speaks: wishes, budgets, dynacast, active speakers.
//!
//! Decides on changes and ticks, never per packet. Invariant: a receiver is told when a track of
//! its is paused for want of bandwidth, and when it goes on.

#![expect(deprecated, reason = "clients in the field still read and send these fields")]

use std::time::{Duration, Instant};

use livekit_protocol as proto;
use proto::signal_response::Message;
use slotmap::{Key, KeyData};
use str0m::format::Codec;

use super::Room;
use crate::bandwidth::Demand;
use crate::context::Context;
use crate::ids::{ParticipantSlot, Side, TrackSlot, TransportRef};
use crate::layers::tracker::LayerChange;
use crate::layers::wish::Wish;
use crate::track::Kind;

/// Less quality is asked of a publisher only when nobody has wanted more for so long: users flip
/// between layouts (LiveKit `video.dynacast_pause_delay`).
const LESS_AFTER: Duration = Duration::from_secs(5);
/// The estimator looks for at least so much: a probe sets the estimate to what was probed, so
/// looking only for what is sent now would hold the estimate down when more is wished for later.
const DESIRED_BPS_MIN: u64 = 4_000_000;
/// How often budgets are shared anew although no wish, estimate or layer changed: what layers cost
/// is measured over spans of this length.
const ALLOCATE_EVERY: Duration = Duration::from_millis(500);
/// What an audio track is taken to cost a downlink, in bits per second.
const AUDIO_BPS: u64 = 40_000;

/// The detector's name for a participant.
pub(super) fn speaker_id(slot: ParticipantSlot) -> u64 {
    slot.data().as_ffi()
}

impl Room {
    /// A layer came to life or the codec became known.
    pub(super) fn layers_changed(&mut self, ctx: &mut Context<'_>, slot: TrackSlot, codec: Codec) {
        let Some(track) = self.tracks.get_mut(slot) else {
            return;
        };
        let mime = match codec {
            Codec::Vp8 => "video/VP8",
            Codec::H264 => "video/H264",
            _ => "audio/opus",
        };
        let (owner, receivers, kind) = (track.owner, track.receivers.clone(), track.kind);
        if track.info.mime_type != mime {
            track.info.mime_type = mime.to_owned();
            if let Some(codec) = track.info.codecs.first_mut() {
                codec.mime_type = mime.to_owned();
            }
            self.changed(owner);
            self.tell_others(ctx, owner);
        }
        if kind == Kind::Video {
            for receiver in receivers {
                self.allocate(ctx, receiver);
            }
        }
    }

    /// Hands UpdateTrackSettings to the sections they are for, and shares the budget anew.
    pub(super) fn apply_settings(&mut self, ctx: &mut Context<'_>, slot: ParticipantSlot) {
        let Some(one) = self.participants.get_mut(slot) else {
            return;
        };
        let settings = &one.settings;
        let (_, sections) = one.subscriber.parts();
        for section in sections.iter_mut() {
            let Some(track) = section.track().and_then(|track| self.tracks.get(track)) else {
                continue;
            };
            let off = settings.get(&track.info.sid).is_some_and(|settings| settings.disabled);
            section.downlink.disabled = off && track.kind == Kind::Audio;
        }
        self.allocate(ctx, slot);
    }

    /// What a receiver wishes of a track.
    fn wish(&self, receiver: ParticipantSlot, track: TrackSlot) -> Wish {
        let settings = self
            .tracks
            .get(track)
            .zip(self.participants.get(receiver))
            .and_then(|(track, one)| one.settings.get(&track.info.sid));
        let Some(settings) = settings else {
            return Wish::default();
        };
        let quality = match settings.quality() {
            proto::VideoQuality::Low => 0,
            proto::VideoQuality::Medium => 1,
            proto::VideoQuality::High | proto::VideoQuality::Off => 2,
        };
        let sized = settings.width > 0 && settings.height > 0;
        Wish {
            disabled: settings.disabled || settings.quality() == proto::VideoQuality::Off,
            quality: Some(quality),
            dimensions: sized.then_some((settings.width, settings.height)),
            fps: settings.fps,
            priority: rank(settings.priority),
        }
    }

    /// Shares a receiver's budget among its video tracks.
    pub(super) fn allocate(&mut self, ctx: &mut Context<'_>, receiver: ParticipantSlot) {
        let Some(one) = self.participants.get(receiver) else {
            return;
        };
        let mut demands = Vec::new();
        let mut audio_bps = 0;
        for slot in one.subscriber.sections().filter_map(crate::negotiation::Section::track) {
            let Some(track) = self.tracks.get(slot) else {
                continue;
            };
            if track.kind == Kind::Audio {
                audio_bps += AUDIO_BPS;
                continue;
            }
            let wish = self.wish(receiver, slot);
            let (width, height) = wish.dimensions.unwrap_or_default();
            demands.push(Demand {
                track: slot.data().as_ffi(),
                layer_max: wish.layer_max(&track.dimensions()),
                priority: wish.priority,
                screen: track.is_screen(),
                pixels: u64::from(width) * u64::from(height),
                costs: track.layers.costs(),
            });
        }
        let Some(one) = self.participants.get_mut(receiver) else {
            return;
        };
        let allocation = one.allocator.allocate(ctx.now, one.budget_bps, audio_bps, &demands);
        if ctx.config.bandwidth_estimation && !demands.is_empty() {
            let desired = (allocation.desired_bps * 2).max(DESIRED_BPS_MIN);
            if one.desired_bps.abs_diff(desired) > desired / 10 {
                one.desired_bps = desired;
                let transport = &mut one.subscriber.transport;
                if let Some(egress) = &mut transport.egress {
                    egress.set_desired(ctx.now, desired);
                    let (room, side) = (self.slot, Side::Subscriber);
                    transport.stir(ctx.dirty, TransportRef { room, participant: receiver, side });
                }
            }
        }
        let mut states = Vec::new();
        let mut keyframes = Vec::new();
        for grant in allocation.grants {
            let slot = TrackSlot::from(KeyData::from_ffi(grant.track));
            let Some(section) = one.subscriber.section_of(slot) else {
                continue;
            };
            section.downlink.set_target(grant.target);
            keyframes.extend(section.downlink.keyframe_wanted().map(|spatial| (slot, spatial)));
            if section.downlink.paused != grant.paused {
                section.downlink.paused = grant.paused;
                states.push((slot, grant.paused));
            }
        }
        self.tell_stream_states(ctx, receiver, &states);
        for (track, spatial) in keyframes {
            self.ask_keyframe(ctx, track, spatial);
        }
    }

    fn tell_stream_states(
        &self,
        ctx: &mut Context<'_>,
        receiver: ParticipantSlot,
        states: &[(TrackSlot, bool)],
    ) {
        let state = |(slot, paused): &(TrackSlot, bool)| {
            let track = self.tracks.get(*slot)?;
            let owner = self.participants.get(track.owner)?;
            let state =
                if *paused { proto::StreamState::Paused } else { proto::StreamState::Active };
            Some(proto::StreamStateInfo {
                participant_sid: owner.sid.clone(),
                track_sid: track.info.sid.clone(),
                state: state as i32,
            })
        };
        let stream_states: Vec<_> = states.iter().filter_map(state).collect();
        if !stream_states.is_empty() {
            let update = proto::StreamStateUpdate { stream_states };
            self.tell(ctx, receiver, Message::StreamStateUpdate(update));
        }
    }

    /// The estimate of a receiver's downlink changed.
    pub(super) fn estimated(&mut self, ctx: &mut Context<'_>, receiver: ParticipantSlot, bps: u64) {
        if let Some(one) = self.participants.get_mut(receiver) {
            one.budget_bps = Some(bps);
        }
        self.allocate(ctx, receiver);
    }

    /// Layers that died, budgets, and what publishers should send; about every 100 ms.
    pub(super) fn tick_quality(&mut self, ctx: &mut Context<'_>) {
        let mut down = Vec::new();
        for (slot, track) in &mut self.tracks {
            if track.kind == Kind::Video {
                for change in track.layers.on_tick(ctx.now) {
                    if let LayerChange::Down(spatial) = change {
                        down.push((slot, spatial));
                    }
                }
            }
        }
        for (slot, spatial) in down {
            let receivers = self.tracks.get(slot).map(|track| track.receivers.clone());
            for receiver in receivers.unwrap_or_default() {
                let one = self.participants.get_mut(receiver);
                if let Some(section) = one.and_then(|one| one.subscriber.section_of(slot)) {
                    section.downlink.layer_down(spatial);
                }
                self.allocate(ctx, receiver);
            }
        }
        let due = |at: Instant| ctx.now.saturating_duration_since(at) >= ALLOCATE_EVERY;
        if self.allocated.is_none_or(due) {
            self.allocated = Some(ctx.now);
            let everyone: Vec<_> = self.participants.keys().collect();
            for slot in everyone {
                self.allocate(ctx, slot);
            }
        }
        let videos = self.tracks.iter().filter(|(_, track)| track.kind == Kind::Video);
        let videos: Vec<_> = videos.map(|(slot, _)| slot).collect();
        for slot in videos {
            self.tell_publisher(ctx, slot);
        }
    }

    /// Dynacast: the publisher of a video track hears which layers anyone wants.
    fn tell_publisher(&mut self, ctx: &mut Context<'_>, slot: TrackSlot) {
        let Some(track) = self.tracks.get(slot) else {
            return;
        };
        let sizes = track.dimensions();
        let wishes = track.receivers.iter().map(|receiver| self.wish(*receiver, slot));
        let most =
            wishes.filter_map(|wish| wish.layer_max(&sizes)).map(|layer| layer.spatial).max();
        let Some(track) = self.tracks.get_mut(slot) else {
            return;
        };
        let told = track.told_quality;
        if told == Some(most) {
            track.less_since = None;
            return;
        }
        if told.is_none_or(|told| most < told) {
            let since = *track.less_since.get_or_insert(ctx.now);
            if ctx.now.saturating_duration_since(since) < LESS_AFTER {
                return;
            }
        }
        track.told_quality = Some(most);
        track.less_since = None;
        let qualities = [0_u8, 1, 2].map(|spatial| proto::SubscribedQuality {
            quality: i32::from(spatial),
            enabled: most.is_some_and(|most| spatial <= most),
        });
        let codec = track.info.mime_type.trim_start_matches("video/").to_ascii_lowercase();
        let update = proto::SubscribedQualityUpdate {
            track_sid: track.info.sid.clone(),
            subscribed_codecs: vec![proto::SubscribedCodec {
                codec,
                qualities: qualities.to_vec(),
            }],
            subscribed_qualities: qualities.to_vec(),
        };
        let owner = track.owner;
        self.tell(ctx, owner, Message::SubscribedQualityUpdate(update));
    }

    /// Tells who began and ceased to speak.
    pub(super) fn tell_speakers(&mut self, ctx: &mut Context<'_>) {
        let changes = self.speakers.on_tick(ctx.now);
        let speakers: Vec<_> =
            changes.iter().filter_map(|change| self.speaker_info(change)).collect();
        if !speakers.is_empty() {
            self.tell_all(ctx, &Message::SpeakersChanged(proto::SpeakersChanged { speakers }));
        }
    }

    /// Tells one who has just come, or come back, who is speaking: a steady voice makes no change
    /// that would tell it later.
    pub(super) fn tell_speakers_to(&self, ctx: &mut Context<'_>, to: ParticipantSlot) {
        let active = self.speakers.active();
        let speakers: Vec<_> =
            active.iter().filter_map(|change| self.speaker_info(change)).collect();
        if !speakers.is_empty() {
            let changed = proto::SpeakersChanged { speakers };
            self.tell(ctx, to, Message::SpeakersChanged(changed));
        }
    }

    fn speaker_info(&self, change: &crate::speakers::SpeakerChange) -> Option<proto::SpeakerInfo> {
        let slot = ParticipantSlot::from(KeyData::from_ffi(change.speaker));
        let one = self.participants.get(slot).filter(|one| !one.grant.hidden)?;
        let (level, active) = (change.level, change.active);
        Some(proto::SpeakerInfo { sid: one.sid.clone(), level, active })
    }
}

/// `UpdateTrackSettings.priority` counts from 1, the highest, and 0 is unset
/// (`livekit_rtc.proto`); in a demand higher goes first.
fn rank(priority: u32) -> u32 {
    priority.checked_sub(1).map_or(0, |after_first| u32::MAX - after_first)
}

#[cfg(test)]
mod tests {
    use super::rank;

    #[test]
    fn the_first_priority_outranks_the_second_and_any_outranks_none() {
        assert!(rank(1) > rank(2));
        assert!(rank(2) > rank(u32::MAX));
        assert!(rank(u32::MAX) > rank(0));
    }
}
