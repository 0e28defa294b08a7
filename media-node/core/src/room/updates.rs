//! Who hears of what: participant and room updates.
//!
//! Hidden participants are shown to themselves only. Invariant: an update about a participant
//! carries its newest version.

use livekit_protocol as proto;
use proto::signal_response::Message;

use super::Room;
use crate::context::Context;
use crate::ids::ParticipantSlot;

impl Room {
    pub(super) fn participant_info(
        &self,
        ctx: &Context<'_>,
        slot: ParticipantSlot,
    ) -> Option<proto::ParticipantInfo> {
        let one = self.participants.get(slot)?;
        let tracks = one.tracks.iter().filter_map(|track| self.tracks.get(*track));
        let infos = tracks.map(|track| track.info.clone()).collect();
        Some(one.info(infos, &ctx.config.region))
    }

    /// Sends a message to one participant; lost while its WebSocket is away, because a resume
    /// begins with the whole state.
    pub(super) fn tell(&self, ctx: &mut Context<'_>, slot: ParticipantSlot, message: Message) {
        if let Some(connection) = self.participants.get(slot).and_then(|one| one.connection) {
            ctx.signal(connection, message);
        }
    }

    pub(super) fn tell_all(&self, ctx: &mut Context<'_>, message: &Message) {
        for one in self.participants.values() {
            if let Some(connection) = one.connection {
                ctx.signal(connection, message.clone());
            }
        }
    }

    /// Tells everyone but the participant itself how it is now.
    pub(super) fn tell_others(&self, ctx: &mut Context<'_>, about: ParticipantSlot) {
        self.tell_about(ctx, about, false);
    }

    /// Tells everyone, the participant included.
    pub(super) fn tell_everyone(&self, ctx: &mut Context<'_>, about: ParticipantSlot) {
        self.tell_about(ctx, about, true);
    }

    fn tell_about(&self, ctx: &mut Context<'_>, about: ParticipantSlot, itself: bool) {
        let Some(info) = self.participant_info(ctx, about) else {
            return;
        };
        let hidden = self.participants.get(about).is_some_and(|one| one.grant.hidden);
        let message = Message::Update(proto::ParticipantUpdate { participants: vec![info] });
        for (slot, one) in &self.participants {
            let wanted = if slot == about { itself } else { !hidden };
            if let (true, Some(connection)) = (wanted, one.connection) {
                ctx.signal(connection, message.clone());
            }
        }
    }

    /// Tells one participant how everyone is, itself included.
    pub(super) fn tell_all_about(&self, ctx: &mut Context<'_>, to: ParticipantSlot) {
        let shown = self.participants.iter().filter(|(slot, one)| *slot == to || !one.grant.hidden);
        let infos = shown.filter_map(|(slot, _)| self.participant_info(ctx, slot)).collect();
        self.tell(ctx, to, Message::Update(proto::ParticipantUpdate { participants: infos }));
    }

    pub(super) fn tell_room(&self, ctx: &mut Context<'_>) {
        self.tell_all(ctx, &Message::RoomUpdate(proto::RoomUpdate { room: Some(self.info()) }));
    }

    /// Counts a change of a participant, so that clients can order what they hear.
    pub(super) fn changed(&mut self, slot: ParticipantSlot) {
        if let Some(one) = self.participants.get_mut(slot) {
            one.version += 1;
        }
    }
}
