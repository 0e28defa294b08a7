//! SignalRequests: what each asks for, and whether its sender may.
//!
//! Only sorts and checks; the work is in the other submodules. Invariant: a request that is wrong
//! costs its sender at most its own connection.

#![expect(deprecated, reason = "clients in the field still read and send these fields")]

use livekit_contract::privacy::Private;
use livekit_protocol as proto;
use proto::leave_request::Action;
use proto::{DisconnectReason, request_response, signal_request, signal_response};

use super::{Room, join};
use crate::context::Context;
use crate::ids::ParticipantSlot;
use crate::io::CloseReason;

/// Longest metadata, and all attributes together, in bytes (LiveKit's limits are of this order).
pub(super) const METADATA_BYTES_MAX: usize = 64 * 1024;
/// Longest name in bytes.
const NAME_BYTES_MAX: usize = 4 * 1024;
/// Remembered choices and settings per participant, for tracks that may not be there yet.
pub(super) const REMEMBERED_MAX: usize = 4_096;

impl Room {
    pub(crate) fn signal(
        &mut self,
        ctx: &mut Context<'_>,
        slot: ParticipantSlot,
        request: signal_request::Message,
    ) {
        use signal_request::Message as Request;
        let Some(one) = self.participants.get_mut(slot) else {
            return;
        };
        if matches!(request, Request::Ping(_) | Request::PingReq(_)) {
            one.last_ping_at = Some(ctx.now);
        }
        match request {
            Request::Offer(offer) => self.publisher_offer(ctx, slot, &offer),
            Request::Answer(answer) => self.subscriber_answer(ctx, slot, &answer),
            // ICE-lite learns where a client is from its checks; candidates add nothing.
            Request::Trickle(_) => {}
            Request::AddTrack(request) => self.add_track(ctx, slot, request),
            Request::Mute(mute) => self.mute(ctx, slot, &mute.sid, mute.muted),
            Request::Subscription(update) => self.choose(ctx, slot, &update),
            Request::TrackSetting(settings) => self.set_tracks(ctx, slot, settings),
            Request::Leave(_) => self.remove(ctx, slot, DisconnectReason::ClientInitiated, None),
            Request::SubscriptionPermission(permission) => {
                self.set_audience(ctx, slot, permission);
            }
            Request::SyncState(state) => self.sync(ctx, slot, state),
            Request::Ping(_) => {
                let millis = i64::try_from(ctx.unix_ms()).unwrap_or(0);
                self.tell(ctx, slot, signal_response::Message::Pong(millis));
            }
            Request::PingReq(ping) => {
                let timestamp = i64::try_from(ctx.unix_ms()).unwrap_or(0);
                let last_ping_timestamp = ping.timestamp;
                let pong = proto::Pong { last_ping_timestamp, timestamp };
                self.tell(ctx, slot, signal_response::Message::PongResp(pong));
            }
            Request::UpdateMetadata(update) => self.update_own_metadata(ctx, slot, update),
            Request::UpdateLayers(update) => self.update_video(ctx, slot, &update),
            Request::UpdateAudioTrack(update) => {
                self.update_own_track(ctx, slot, &update.track_sid, |info| {
                    info.stereo =
                        update.features().any(|f| f == proto::AudioTrackFeature::TfStereo);
                    info.audio_features = update.features.clone();
                });
            }
            Request::UpdateVideoTrack(update) => {
                self.update_own_track(ctx, slot, &update.track_sid, |info| {
                    (info.width, info.height) = (update.width, update.height);
                });
            }
            // Test scenarios and data tracks are not offered by this server.
            _ => {}
        }
    }

    /// A client that breaks the protocol is sent away with a reason.
    pub(super) fn protocol_error(
        &mut self,
        ctx: &mut Context<'_>,
        slot: ParticipantSlot,
        what: &'static str,
    ) {
        ctx.stats.protocol_errors += 1;
        let connection = self.participants.get_mut(slot).and_then(|one| one.connection.take());
        if let Some(connection) = connection {
            ctx.signal(connection, join::leave(DisconnectReason::StateMismatch, Action::Reconnect));
            ctx.close(connection, CloseReason::ProtocolError(what));
        }
        self.remove(ctx, slot, DisconnectReason::StateMismatch, None);
    }

    fn update_own_metadata(
        &mut self,
        ctx: &mut Context<'_>,
        slot: ParticipantSlot,
        update: proto::UpdateParticipantMetadata,
    ) {
        use request_response::Reason;
        let request_id = update.request_id;
        let Some(one) = self.participants.get(slot) else {
            return;
        };
        let (reason, message) = if !one.grant.can_update_own_metadata() {
            (Reason::NotAllowed, "does not have permission to update own metadata")
        } else if !within_limits(&update.metadata, &update.name, &update.attributes) {
            (Reason::LimitExceeded, "metadata, name or attributes are too long")
        } else {
            (Reason::Ok, "")
        };
        if reason == Reason::Ok {
            self.update_participant(ctx, slot, update.metadata, update.name, update.attributes);
        }
        let response = proto::RequestResponse {
            request_id,
            reason: reason as i32,
            message: message.to_owned(),
            ..Default::default()
        };
        self.tell(ctx, slot, signal_response::Message::RequestResponse(response));
    }

    /// Sets what is not empty; an attribute set to the empty text is removed.
    pub(super) fn update_participant(
        &mut self,
        ctx: &mut Context<'_>,
        slot: ParticipantSlot,
        metadata: String,
        name: String,
        attributes: std::collections::HashMap<String, String>,
    ) {
        let Some(one) = self.participants.get_mut(slot) else {
            return;
        };
        if !metadata.is_empty() {
            one.metadata = Private::new(metadata);
        }
        if !name.is_empty() {
            one.name = Private::new(name);
        }
        let mut all = one.attributes.expose().clone();
        let mut given: Vec<_> = attributes.into_iter().collect();
        given.sort_unstable();
        for (key, value) in given {
            if value.is_empty() {
                all.remove(&key);
            } else {
                all.insert(key, value);
            }
        }
        one.attributes = Private::new(all);
        one.version += 1;
        self.tell_everyone(ctx, slot);
    }

    /// After a resume: what the client believes. Choices are taken over; missed data is sent.
    fn sync(&mut self, ctx: &mut Context<'_>, slot: ParticipantSlot, state: proto::SyncState) {
        if let Some(subscription) = &state.subscription {
            self.choose(ctx, slot, subscription);
        }
        for sid in state.track_sids_disabled {
            let settings = proto::UpdateTrackSettings {
                track_sids: vec![sid],
                disabled: true,
                ..Default::default()
            };
            self.set_tracks(ctx, slot, settings);
        }
        self.replay(ctx, slot, &state.datachannel_receive_states);
        self.reconcile(ctx, slot);
    }
}

/// Whether what a client wants stored about it is of a sane size.
pub(super) fn within_limits(
    metadata: &str,
    name: &str,
    attributes: &std::collections::HashMap<String, String>,
) -> bool {
    let mut attribute_bytes = 0;
    #[expect(clippy::iter_over_hash_type, reason = "a sum does not depend on the order")]
    for (key, value) in attributes {
        attribute_bytes += key.len() + value.len();
    }
    metadata.len() <= METADATA_BYTES_MAX
        && name.len() <= NAME_BYTES_MAX
        && attribute_bytes <= METADATA_BYTES_MAX
}
