//! What leaves a room's transports: the egress' datagrams and the library's.
//!
//! Decides nothing. Invariant: a transport that has something to send later has an alarm for it.

use std::collections::VecDeque;

use super::Room;
use crate::context::Context;
use crate::ids::{ParticipantSlot, Side};
use crate::io::{Output, Transmit};
use crate::shard::timers::Due;
use crate::stats::ShardStats;
use crate::transport::carrier;

impl Room {
    /// A receiver's RTCP, which is the egress' to open.
    pub(crate) fn reported(
        &mut self,
        ctx: &mut Context<'_>,
        participant: ParticipantSlot,
        contents: &[u8],
    ) {
        let one = self.participants.get_mut(participant);
        let Some(egress) = one.and_then(|one| one.subscriber.transport.egress.as_mut()) else {
            return;
        };
        if egress.receive(ctx.now, contents).is_err() {
            ctx.stats.drops.malformed += 1;
            return;
        }
        for mid in egress.take_keyframes() {
            self.keyframe_requested(ctx, participant, mid);
        }
        self.send(ctx, participant, Side::Subscriber);
    }

    /// Lets the egress send what may leave, and sets the transport's alarm.
    pub(super) fn send(&mut self, ctx: &mut Context<'_>, participant: ParticipantSlot, side: Side) {
        let due = Due::Transport(self.transport_ref(participant, side));
        let transport = self.participants.get_mut(participant).and_then(|one| one.transport(side));
        let Some(transport) = transport else {
            return;
        };
        let (mut wake, mut estimate) = (None, None);
        if let Some(egress) = &mut transport.egress {
            let Context { now, outputs, stats, .. } = ctx;
            egress.flush(*now, &mut |packet| leave(stats, outputs, packet));
            (wake, estimate) = (egress.next(*now), egress.take_estimate());
        }
        if let Some(at) = [wake, transport.library_at].into_iter().flatten().min() {
            ctx.timers.arm(&mut transport.alarm, due, at);
        }
        if let Some(bps) = estimate {
            self.estimated(ctx, participant, bps);
        }
    }
}

/// Sends what the library made.
pub(super) fn transmit(ctx: &mut Context<'_>, packet: str0m::net::Transmit) {
    let packet = Transmit {
        transport: carrier(packet.proto),
        source: packet.source,
        destination: packet.destination,
        contents: packet.contents.into(),
    };
    leave(ctx.stats, ctx.outputs, packet);
}

fn leave(stats: &mut ShardStats, outputs: &mut VecDeque<Output>, packet: Transmit) {
    stats.packets_out += 1;
    stats.bytes_out += packet.contents.len() as u64;
    outputs.push_back(Output::Transmit(packet));
}
