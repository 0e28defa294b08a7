//! A participant: who it is, what it may do, its connection and its two transports.
//!
//! Holds state; decisions are the room's. Invariant: `version` grows with every change that
//! others are told of.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Instant;

use livekit_contract::grants::{Claims, VideoGrant};
use livekit_contract::privacy::Private;
use livekit_protocol as proto;
use str0m::rtp::Ssrc;

use crate::bandwidth::Allocator;
use crate::data_cache::ReliableCache;
use crate::forward::source_clock::PublisherClock;
use crate::ids::{ConnectionId, Side, TrackSlot};
use crate::io::ClientParams;
use crate::negotiation::Subscriber;
use crate::room::{Arrivals, Destinations};
use crate::transport::Transport;

/// A track announced by AddTrack whose media section has not been offered yet.
pub(crate) struct PendingTrack {
    pub(crate) cid: String,
    pub(crate) info: proto::TrackInfo,
}

/// A reliable message as it was relayed.
#[derive(Clone)]
pub(crate) struct Kept {
    pub(crate) bytes: Arc<[u8]>,
    /// Identities it was for; none is everyone.
    pub(crate) to: Arc<Destinations>,
}

/// Where packets of one SSRC belong.
pub(crate) struct Source {
    pub(crate) ssrc: Ssrc,
    pub(crate) track: TrackSlot,
    pub(crate) encoding: usize,
    /// Highest sequence number so far, extended.
    pub(crate) highest: u64,
    pub(crate) arrivals: Arrivals,
}

/// What a participant sends.
pub(crate) struct Publisher {
    pub(crate) transport: Transport,
    pub(crate) clock: PublisherClock,
    /// Found once per SSRC; at most [`SOURCES_MAX`].
    pub(crate) sources: Vec<Source>,
}

/// SSRCs resolved per publisher: every track with three layers, and room for restarts.
pub(crate) const SOURCES_MAX: usize = 128;

/// See the module's description.
pub(crate) struct Participant {
    pub(crate) sid: String,
    pub(crate) identity: Private<String>,
    pub(crate) name: Private<String>,
    pub(crate) metadata: Private<String>,
    pub(crate) attributes: Private<BTreeMap<String, String>>,
    pub(crate) claims: Claims,
    pub(crate) grant: VideoGrant,
    pub(crate) client: ClientParams,
    pub(crate) state: proto::participant_info::State,
    pub(crate) version: u32,
    pub(crate) joined_unix_ms: u64,
    pub(crate) joined_at: Instant,
    pub(crate) token_refreshed_at: Instant,
    pub(crate) connection: Option<ConnectionId>,
    /// When the WebSocket went away, while it is away.
    pub(crate) signal_lost_at: Option<Instant>,
    /// The newest ping; nothing from clients that never ping.
    pub(crate) last_ping_at: Option<Instant>,
    /// Apart, because who only watches has none and a transport is large.
    pub(crate) publisher: Option<Box<Publisher>>,
    pub(crate) subscriber: Subscriber,
    pub(crate) pending: Vec<PendingTrack>,
    pub(crate) tracks: Vec<TrackSlot>,
    /// Tracks the participant chose or refused by UpdateSubscription.
    pub(crate) choices: HashMap<String, bool>,
    /// UpdateTrackSettings by track, also for tracks that are not there yet.
    pub(crate) settings: HashMap<String, proto::UpdateTrackSettings>,
    /// Its reliable messages, for those who come back after a gap.
    pub(crate) sent: ReliableCache<Kept>,
    pub(crate) allocator: Allocator,
    /// The estimate of the downlink, in bits per second.
    pub(crate) budget_bps: Option<u64>,
    /// What the estimator was last told to probe towards, in bits per second.
    pub(crate) desired_bps: u64,
    /// What others were last told of its connection.
    pub(crate) told_connection: Option<proto::ConnectionQuality>,
    /// Who may receive what this participant publishes; absent means everyone.
    pub(crate) audience: Option<Vec<proto::TrackPermission>>,
}

impl Participant {
    /// As others see it.
    pub(crate) fn info(
        &self,
        tracks: Vec<proto::TrackInfo>,
        region: &str,
    ) -> proto::ParticipantInfo {
        proto::ParticipantInfo {
            sid: self.sid.clone(),
            identity: self.identity.expose().clone(),
            state: self.state as i32,
            is_publisher: !tracks.is_empty(),
            tracks,
            metadata: self.metadata.expose().clone(),
            joined_at: i64::try_from(self.joined_unix_ms / 1_000).unwrap_or(0),
            joined_at_ms: i64::try_from(self.joined_unix_ms).unwrap_or(0),
            name: self.name.expose().clone(),
            version: self.version,
            permission: Some(self.grant.permission()),
            region: region.to_owned(),
            kind: self.claims.participant_kind() as i32,
            attributes: self.attributes.expose().clone().into_iter().collect(),
            client_protocol: self.client.client_protocol,
            ..Default::default()
        }
    }

    pub(crate) fn transport(&mut self, side: Side) -> Option<&mut Transport> {
        match side {
            Side::Publisher => self.publisher.as_mut().map(|publisher| &mut publisher.transport),
            Side::Subscriber => Some(&mut self.subscriber.transport),
        }
    }

    /// Whether the participant wants `track`, as far as it is up to itself.
    pub(crate) fn wants(&self, track_sid: &str) -> bool {
        self.grant.can_subscribe()
            && self.choices.get(track_sid).copied().unwrap_or(self.client.auto_subscribe)
    }

    /// Whether `other` may receive this participant's track.
    pub(crate) fn admits(&self, other_sid: &str, other_identity: &str, track_sid: &str) -> bool {
        let Some(audience) = &self.audience else {
            return true;
        };
        audience.iter().any(|permission| {
            let named = if permission.participant_identity.is_empty() {
                permission.participant_sid == other_sid
            } else {
                permission.participant_identity == other_identity
            };
            named
                && (permission.all_tracks
                    || permission.track_sids.iter().any(|sid| sid == track_sid))
        })
    }
}
