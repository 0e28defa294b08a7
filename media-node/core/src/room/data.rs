//! Data messages: from one participant to the others, stamped with who sent them.
//!
//! Decides who gets a message. What is inside passes through byte for byte, so that kinds of
//! message newer than this server arrive whole. Invariant: identity and sid of the sender are
//! ours, never the sender's; a slow reader loses messages and holds up nobody.

#![expect(deprecated, reason = "clients in the field still read and send these fields")]

use std::sync::Arc;

use livekit_protocol as proto;
use prost::Message as _;
use proto::data_packet;

use super::Room;
use crate::context::Context;
use crate::ids::{ParticipantSlot, Side};
use crate::participant::Kept;
use crate::transport::DataKind;

/// Field numbers of `DataPacket` in `livekit_models.proto`.
const FIELD_IDENTITY: u32 = 4;
const FIELD_SID: u32 = 17;

impl Room {
    /// A data message came in on a channel.
    pub(super) fn relay(
        &mut self,
        ctx: &mut Context<'_>,
        from: ParticipantSlot,
        kind: DataKind,
        bytes: &[u8],
    ) {
        let Some(sender) = self.participants.get(from) else {
            return;
        };
        let Ok(mut packet) = proto::DataPacket::decode(bytes) else {
            ctx.stats.drops.data_refused += 1;
            return;
        };
        if !may_send(sender, &packet) {
            ctx.stats.drops.data_refused += 1;
            return;
        }
        let identity = sender.identity.expose().clone();
        let hidden = sender.grant.hidden;
        let to = destinations(&packet);
        let stamped = match &mut packet.value {
            Some(data_packet::Value::User(user)) => {
                stamp_user(user, &identity, &sender.sid, hidden);
                packet.participant_identity.clone_from(&identity);
                packet.participant_sid.clone_from(&sender.sid);
                packet.encode_to_vec()
            }
            // The last value of a field wins (protobuf encoding rules), so appending replaces.
            _ => {
                let mut stamped = bytes.to_vec();
                append(&mut stamped, FIELD_IDENTITY, &identity);
                append(&mut stamped, FIELD_SID, &sender.sid);
                stamped
            }
        };
        self.send_data(ctx, Some(from), kind, &to, &stamped);
        if kind == DataKind::Reliable
            && packet.sequence > 0
            && let Some(sender) = self.participants.get_mut(from)
        {
            let kept = Kept { bytes: Arc::from(stamped), to: Arc::new(to) };
            sender.sent.push(ctx.now, packet.sequence, kept.bytes.len(), kept);
        }
    }

    /// Sends a message to those named, or to everyone but its sender.
    pub(super) fn send_data(
        &mut self,
        ctx: &mut Context<'_>,
        from: Option<ParticipantSlot>,
        kind: DataKind,
        to: &Destinations,
        bytes: &[u8],
    ) {
        let mut written = Vec::new();
        for (slot, one) in &mut self.participants {
            if Some(slot) == from || !to.contain(&one.sid, one.identity.expose()) {
                continue;
            }
            // Without a subscriber transport data goes down the publisher's channels.
            let side = if one.subscriber.transport.channels.contains_key(&kind) {
                Side::Subscriber
            } else {
                Side::Publisher
            };
            let sent =
                one.transport(side).is_some_and(|transport| transport.write_data(kind, bytes));
            if sent {
                ctx.stats.data_out += 1;
                written.push((slot, side));
            } else {
                ctx.stats.drops.data_slow_reader += 1;
            }
        }
        for (slot, side) in written {
            self.touch(ctx, slot, side);
        }
    }

    /// Sends a resumed participant the reliable messages that it missed: those after the last it
    /// had of each publisher.
    pub(super) fn replay(
        &mut self,
        ctx: &mut Context<'_>,
        slot: ParticipantSlot,
        received: &[proto::DataChannelReceiveState],
    ) {
        let Some(one) = self.participants.get(slot) else {
            return;
        };
        let (sid, identity) = (one.sid.clone(), one.identity.expose().clone());
        let mut missed = Vec::new();
        for (publisher, other) in &mut self.participants {
            if publisher == slot {
                continue;
            }
            let last = received.iter().find(|state| state.publisher_sid == other.sid);
            let Some(last) = last.map(|state| state.last_seq) else {
                continue;
            };
            let after = other.sent.after(ctx.now, last).map(|(_, kept)| kept.clone());
            missed.extend(after.filter(|kept| kept.to.contain(&sid, &identity)));
        }
        let Some(one) = self.participants.get_mut(slot) else {
            return;
        };
        for kept in missed {
            if one.subscriber.transport.write_data(DataKind::Reliable, &kept.bytes) {
                ctx.stats.data_out += 1;
            } else {
                ctx.stats.drops.data_slow_reader += 1;
            }
        }
        self.touch(ctx, slot, Side::Subscriber);
    }
}

/// Whom a message is for. Nobody named is everyone.
#[derive(Default)]
pub(crate) struct Destinations {
    pub(crate) identities: Vec<String>,
    pub(crate) sids: Vec<String>,
}

impl Destinations {
    fn contain(&self, sid: &str, identity: &str) -> bool {
        (self.identities.is_empty() && self.sids.is_empty())
            || self.identities.iter().any(|known| known == identity)
            || self.sids.iter().any(|known| known == sid)
    }
}

fn destinations(packet: &proto::DataPacket) -> Destinations {
    let mut to =
        Destinations { identities: packet.destination_identities.clone(), sids: Vec::new() };
    if let Some(data_packet::Value::User(user)) = &packet.value {
        to.sids.clone_from(&user.destination_sids);
        if to.identities.is_empty() {
            to.identities.clone_from(&user.destination_identities);
        }
    }
    to
}

/// Transcriptions are an agent's to send; speakers are the server's; all else needs the grant.
fn may_send(sender: &crate::participant::Participant, packet: &proto::DataPacket) -> bool {
    let agent = sender.claims.participant_kind() == proto::participant_info::Kind::Agent;
    match &packet.value {
        Some(data_packet::Value::Transcription(_)) => agent,
        Some(data_packet::Value::Speaker(_)) => false,
        _ => sender.grant.can_publish_data(),
    }
}

fn stamp_user(user: &mut proto::UserPacket, identity: &str, sid: &str, hidden: bool) {
    // A hidden sender stays unknown.
    user.participant_identity = if hidden { String::new() } else { identity.to_owned() };
    user.participant_sid = if hidden { String::new() } else { sid.to_owned() };
}

fn append(bytes: &mut Vec<u8>, field: u32, value: &str) {
    prost::encoding::string::encode(field, &value.to_owned(), bytes);
}
