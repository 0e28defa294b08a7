//! RoomService calls on this room (LiveKit `pkg/service/roomservice.go`).
//!
//! The shell has checked the caller's token. Invariant: every call is answered; what is not there
//! is `not_found`.

use livekit_contract::twirp::{Code, TwirpError};
use livekit_protocol as proto;
use prost::Message as _;
use proto::leave_request::Action;
use proto::{DisconnectReason, data_packet, signal_response};

use super::data::Destinations;
use super::join::leave;
use super::signal::{METADATA_BYTES_MAX, within_limits};
use super::{Room, TrackSlot};
use crate::context::Context;
use crate::ids::ParticipantSlot;
use crate::io::{AdminCall, AdminReply, RoomWish};
use crate::transport::DataKind;

fn refused(code: Code, text: &str) -> AdminReply {
    AdminReply::Refused(TwirpError::new(code, text))
}

impl Room {
    pub(crate) fn admin(&mut self, ctx: &mut Context<'_>, call: AdminCall) -> AdminReply {
        match call {
            AdminCall::CreateRoom(request) => self.reconfigure(ctx, &request),
            AdminCall::GetRoom => AdminReply::Room(self.info()),
            AdminCall::DeleteRoom => self.delete(ctx),
            AdminCall::ListParticipants => {
                let slots: Vec<_> = self.participants.keys().collect();
                let infos = slots.into_iter().filter_map(|slot| self.participant_info(ctx, slot));
                AdminReply::Participants(infos.collect())
            }
            AdminCall::GetParticipant { identity } => {
                self.with_participant(&identity, |room, slot| {
                    let info = room.participant_info(ctx, slot);
                    info.map_or_else(missing_participant, AdminReply::Participant)
                })
            }
            AdminCall::RemoveParticipant { identity } => {
                self.with_participant(&identity, |room, slot| {
                    let reason = DisconnectReason::ParticipantRemoved;
                    room.remove(ctx, slot, reason, Some(leave(reason, Action::Disconnect)));
                    AdminReply::Done
                })
            }
            AdminCall::MutePublishedTrack(request) => self
                .with_participant(&request.identity.clone(), |room, slot| {
                    room.mute_remotely(ctx, slot, &request)
                }),
            AdminCall::UpdateParticipant(request) => self
                .with_participant(&request.identity.clone(), |room, slot| {
                    room.update_remotely(ctx, slot, request)
                }),
            AdminCall::UpdateSubscriptions(request) => {
                self.with_participant(&request.identity.clone(), |room, slot| {
                    let update = proto::UpdateSubscription {
                        track_sids: request.track_sids,
                        subscribe: request.subscribe,
                        participant_tracks: request.participant_tracks,
                    };
                    room.choose(ctx, slot, &update);
                    AdminReply::Done
                })
            }
            AdminCall::SendData(request) => self.send_from_server(ctx, request),
            AdminCall::UpdateRoomMetadata { metadata } => {
                if metadata.len() > METADATA_BYTES_MAX {
                    return refused(Code::InvalidArgument, "metadata is too long");
                }
                self.options.metadata = metadata;
                self.tell_room(ctx);
                AdminReply::Room(self.info())
            }
        }
    }

    fn with_participant(
        &mut self,
        identity: &str,
        work: impl FnOnce(&mut Self, ParticipantSlot) -> AdminReply,
    ) -> AdminReply {
        match self.identities.get(identity).copied() {
            Some(slot) => work(self, slot),
            None => missing_participant(),
        }
    }

    fn reconfigure(
        &mut self,
        ctx: &mut Context<'_>,
        request: &proto::CreateRoomRequest,
    ) -> AdminReply {
        let options = self.options.wished(&RoomWish::from(request));
        let former = std::mem::replace(&mut self.options, options);
        if former.metadata != self.options.metadata {
            self.tell_room(ctx);
        }
        self.arm(ctx);
        AdminReply::Room(self.info())
    }

    fn delete(&mut self, ctx: &mut Context<'_>) -> AdminReply {
        let everyone: Vec<_> = self.participants.keys().collect();
        for slot in everyone {
            let reason = DisconnectReason::RoomDeleted;
            self.remove(ctx, slot, reason, Some(leave(reason, Action::Disconnect)));
        }
        self.end(ctx);
        AdminReply::Done
    }

    fn track_by_sid(&self, owner: ParticipantSlot, sid: &str) -> Option<TrackSlot> {
        let mut own = self.tracks.iter().filter(|(_, track)| track.owner == owner);
        own.find(|(_, track)| track.info.sid == sid).map(|(slot, _)| slot)
    }

    fn mute_remotely(
        &mut self,
        ctx: &mut Context<'_>,
        slot: ParticipantSlot,
        request: &proto::MuteRoomTrackRequest,
    ) -> AdminReply {
        let Some(track) = self.track_by_sid(slot, &request.track_sid) else {
            return refused(Code::NotFound, "track is not found");
        };
        if !request.muted && !self.options.enable_remote_unmute {
            return refused(Code::FailedPrecondition, "remote unmute not enabled");
        }
        let mute = proto::MuteTrackRequest { sid: request.track_sid.clone(), muted: request.muted };
        self.tell(ctx, slot, signal_response::Message::Mute(mute));
        self.mute(ctx, slot, &request.track_sid, request.muted);
        match self.tracks.get(track) {
            Some(track) => AdminReply::Track(track.info.clone()),
            None => refused(Code::NotFound, "track is not found"),
        }
    }

    fn update_remotely(
        &mut self,
        ctx: &mut Context<'_>,
        slot: ParticipantSlot,
        request: proto::UpdateParticipantRequest,
    ) -> AdminReply {
        if !within_limits(&request.metadata, &request.name, &request.attributes) {
            return refused(Code::InvalidArgument, "metadata, name or attributes are too long");
        }
        if let Some(permission) = &request.permission {
            self.set_permission(ctx, slot, permission);
        }
        self.update_participant(ctx, slot, request.metadata, request.name, request.attributes);
        let info = self.participant_info(ctx, slot);
        info.map_or_else(missing_participant, AdminReply::Participant)
    }

    /// New rights take effect at once: what may no longer be sent or received ends.
    fn set_permission(
        &mut self,
        ctx: &mut Context<'_>,
        slot: ParticipantSlot,
        permission: &proto::ParticipantPermission,
    ) {
        let Some(one) = self.participants.get_mut(slot) else {
            return;
        };
        one.grant.apply_permission(permission);
        one.version += 1;
        let grant = one.grant.clone();
        one.pending.retain(|pending| grant.can_publish_source(pending.info.source()));
        let forbidden: Vec<_> = one
            .tracks
            .iter()
            .filter_map(|track| Some((*track, self.tracks.get(*track)?)))
            .filter(|(_, track)| !grant.can_publish_source(track.info.source()))
            .map(|(slot, track)| (slot, track.info.sid.clone()))
            .collect();
        for (track, track_sid) in forbidden {
            self.unpublish(ctx, slot, track);
            let gone = proto::TrackUnpublishedResponse { track_sid };
            self.tell(ctx, slot, signal_response::Message::TrackUnpublished(gone));
        }
        self.reconcile(ctx, slot);
        self.refresh_token(ctx, slot);
    }

    #[expect(deprecated, reason = "older SDKs read kind and destinations in the user packet")]
    fn send_from_server(
        &mut self,
        ctx: &mut Context<'_>,
        request: proto::SendDataRequest,
    ) -> AdminReply {
        let kind = match request.kind() {
            data_packet::Kind::Reliable => DataKind::Reliable,
            data_packet::Kind::Lossy => DataKind::Lossy,
        };
        let to = Destinations {
            identities: request.destination_identities.clone(),
            sids: request.destination_sids.clone(),
        };
        let packet = proto::DataPacket {
            kind: request.kind,
            destination_identities: request.destination_identities.clone(),
            value: Some(data_packet::Value::User(proto::UserPacket {
                payload: request.data,
                destination_sids: request.destination_sids,
                destination_identities: request.destination_identities,
                topic: request.topic,
                nonce: request.nonce,
                ..Default::default()
            })),
            ..Default::default()
        };
        self.send_data(ctx, None, kind, &to, &packet.encode_to_vec());
        AdminReply::Done
    }
}

fn missing_participant() -> AdminReply {
    refused(Code::NotFound, "participant does not exist")
}
