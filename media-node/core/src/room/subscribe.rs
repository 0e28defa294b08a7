//! Who receives what: choices, permissions, and the negotiation that follows from them.
//!
//! Decides which tracks a participant gets a section for. Invariant: a track is in a participant's
//! sections exactly when the participant wants it and both sides may.

use std::time::Instant;

use livekit_protocol as proto;
use proto::signal_response;

use super::Room;
use super::signal::REMEMBERED_MAX;
use crate::context::Context;
use crate::ids::{ParticipantSlot, Side, TrackSlot};
use crate::negotiation::{Identity, NegotiationError, Wanted};

impl Room {
    /// Makes a participant's sections what they should be, and offers the difference.
    pub(super) fn reconcile(&mut self, ctx: &mut Context<'_>, slot: ParticipantSlot) {
        let tracks: Vec<_> = self.tracks.keys().collect();
        for track in tracks {
            self.reconcile_track(ctx.now, slot, track);
        }
        self.negotiate(ctx, slot);
    }

    /// Offers one track to everyone who wants it.
    pub(super) fn offer_track(&mut self, ctx: &mut Context<'_>, track: TrackSlot) {
        let everyone: Vec<_> = self.participants.keys().collect();
        for slot in everyone {
            if self.reconcile_track(ctx.now, slot, track) {
                self.negotiate(ctx, slot);
            }
        }
    }

    fn should_receive(&self, slot: ParticipantSlot, track: TrackSlot) -> bool {
        let (Some(one), Some(track)) = (self.participants.get(slot), self.tracks.get(track)) else {
            return false;
        };
        let owner = self.participants.get(track.owner);
        track.owner != slot
            && one.wants(&track.info.sid)
            && owner
                .is_some_and(|owner| owner.admits(&one.sid, one.identity.expose(), &track.info.sid))
    }

    /// True when something changed.
    fn reconcile_track(
        &mut self,
        now: Instant,
        slot: ParticipantSlot,
        track_slot: TrackSlot,
    ) -> bool {
        let should = self.should_receive(slot, track_slot);
        let Some(track) = self.tracks.get_mut(track_slot) else {
            return false;
        };
        let owner_sid = self.participants.get(track.owner).map(|owner| owner.sid.clone());
        let Some(one) = self.participants.get_mut(slot) else {
            return false;
        };
        let has = one.subscriber.has(track_slot);
        if should == has {
            return false;
        }
        if should {
            let identity = Identity {
                participant_sid: owner_sid.unwrap_or_default(),
                track_sid: track.info.sid.clone(),
                stream: track.info.stream.clone(),
            };
            one.subscriber.want(Wanted { track: track_slot, kind: track.kind, identity });
            track.receivers.push(slot);
        } else {
            one.subscriber.release(now, track_slot);
            track.receivers.retain(|receiver| *receiver != slot);
        }
        true
    }

    /// Sends the next offer, if one is due.
    pub(super) fn negotiate(&mut self, ctx: &mut Context<'_>, slot: ParticipantSlot) {
        let Some(one) = self.participants.get_mut(slot) else {
            return;
        };
        // An offer that nobody receives would stay open for ever; a resume sends it.
        if one.connection.is_none() {
            return;
        }
        let Some((sdp, id)) = one.subscriber.offer() else {
            return;
        };
        let offer =
            proto::SessionDescription { r#type: "offer".to_owned(), sdp, id, ..Default::default() };
        self.tell(ctx, slot, signal_response::Message::Offer(offer));
    }

    pub(super) fn subscriber_answer(
        &mut self,
        ctx: &mut Context<'_>,
        slot: ParticipantSlot,
        answer: &proto::SessionDescription,
    ) {
        let Some(one) = self.participants.get_mut(slot) else {
            return;
        };
        match one.subscriber.answer(ctx.now, &answer.sdp, answer.id, ctx.config.rtx_cache) {
            Ok(()) => {}
            Err(NegotiationError::Malformed) => {
                return self.protocol_error(ctx, slot, "the answer is not SDP");
            }
            Err(NegotiationError::Refused(error)) => {
                tracing::debug!(%error, "answer refused");
                return self.protocol_error(ctx, slot, "the answer does not fit the offer");
            }
        }
        self.route(ctx, slot, Side::Subscriber);
        self.touch(ctx, slot, Side::Subscriber);
        self.apply_settings(ctx, slot);
        self.negotiate(ctx, slot);
    }

    /// UpdateSubscription.
    pub(super) fn choose(
        &mut self,
        ctx: &mut Context<'_>,
        slot: ParticipantSlot,
        update: &proto::UpdateSubscription,
    ) {
        let nested = update.participant_tracks.iter().flat_map(|tracks| &tracks.track_sids);
        let sids: Vec<_> = update.track_sids.iter().chain(nested).cloned().collect();
        let Some(one) = self.participants.get_mut(slot) else {
            return;
        };
        for sid in sids {
            if one.choices.len() < REMEMBERED_MAX || one.choices.contains_key(&sid) {
                one.choices.insert(sid, update.subscribe);
            }
        }
        self.reconcile(ctx, slot);
    }

    /// UpdateTrackSettings: which quality the client can show.
    pub(super) fn set_tracks(
        &mut self,
        ctx: &mut Context<'_>,
        slot: ParticipantSlot,
        settings: proto::UpdateTrackSettings,
    ) {
        let Some(one) = self.participants.get_mut(slot) else {
            return;
        };
        for sid in &settings.track_sids {
            if one.settings.len() < REMEMBERED_MAX || one.settings.contains_key(sid) {
                let mut own = settings.clone();
                own.track_sids = Vec::new();
                one.settings.insert(sid.clone(), own);
            }
        }
        self.apply_settings(ctx, slot);
    }

    /// SubscriptionPermission: who may receive what this participant publishes.
    pub(super) fn set_audience(
        &mut self,
        ctx: &mut Context<'_>,
        slot: ParticipantSlot,
        permission: proto::SubscriptionPermission,
    ) {
        let Some(one) = self.participants.get_mut(slot) else {
            return;
        };
        let admitted = permission.track_permissions;
        one.audience = if permission.all_participants { None } else { Some(admitted) };
        one.audience.iter_mut().for_each(|list| list.truncate(REMEMBERED_MAX));
        let own = one.tracks.clone();
        let sid = one.sid.clone();
        let others: Vec<_> = self.participants.keys().filter(|other| *other != slot).collect();
        for other in others {
            let mut changed = false;
            for track in &own {
                if !self.reconcile_track(ctx.now, other, *track) {
                    continue;
                }
                changed = true;
                let allowed =
                    self.participants.get(other).is_some_and(|one| one.subscriber.has(*track));
                if let Some(track) = self.tracks.get(*track) {
                    let update = proto::SubscriptionPermissionUpdate {
                        participant_sid: sid.clone(),
                        track_sid: track.info.sid.clone(),
                        allowed,
                    };
                    let update = signal_response::Message::SubscriptionPermissionUpdate(update);
                    self.tell(ctx, other, update);
                }
            }
            if changed {
                self.negotiate(ctx, other);
            }
        }
    }
}
