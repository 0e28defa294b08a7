//! The subscriber transport's media sections: which track has which, and the offers that say so.
//!
//! A section is never given up, only emptied and used again, so that a client's sections stay
//! bounded by the most tracks it ever had at once. One offer is open at a time; what changes
//! meanwhile goes into the next. Invariant: a section carries a new track only after the client
//! has agreed that it was empty (JSEP fires `ontrack` on that transition only).

use std::time::Instant;

use str0m::change::{SdpAnswer, SdpApi, SdpOffer, SdpPendingOffer};
use str0m::channel::{ChannelConfig, Reliability};
use str0m::media::{Direction, MediaKind, Mid};

use crate::client::Client;
use crate::config::RtxCache;
use crate::downlink::Downlink;
use crate::egress::StreamId;
use crate::egress::stream::Stream;
use crate::ids::TrackSlot;
use crate::sdp;
use crate::track::Kind;
use crate::transport::{DataKind, Transport, TransportError};

/// Media sections per subscriber. Each costs memory at both ends and makes descriptions longer, and
/// browsers slow down beyond a few hundred; tracks beyond it wait for a section.
pub(crate) const SECTIONS_MAX: usize = 300;

/// Empty sections that a client keeps which tells tracks of one stream apart by the track id of a
/// section's first use: a fresh section lets a person's audio and video share a stream. Each makes
/// descriptions longer, so beyond them one is used again, with a stream of its own.
const EMPTY_SECTIONS_MAX: usize = 16;

/// What a section is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Use {
    /// Agreed to be empty.
    Empty,
    /// Carries the track, or will when the open offer is answered.
    Carrying(TrackSlot),
    /// Its track is gone and the client has yet to agree that it is empty.
    Leaving { offered: bool },
}

/// One media section.
pub(crate) struct Section {
    pub(crate) mid: Mid,
    kind: Kind,
    used: Use,
    /// The client has accepted it.
    agreed: bool,
    /// What it sends, once it was agreed upon.
    pub(crate) stream: Option<StreamId>,
    /// It was added for the track it carries.
    fresh: bool,
    identity: Identity,
    /// The client takes RED in it.
    pub(crate) redundant: bool,
    pub(crate) downlink: Downlink,
}

impl Section {
    pub(crate) fn track(&self) -> Option<TrackSlot> {
        match self.used {
            Use::Carrying(track) => Some(track),
            Use::Empty | Use::Leaving { .. } => None,
        }
    }

    /// Whether packets may be written.
    pub(crate) fn ready(&self) -> bool {
        self.agreed && self.track().is_some()
    }
}

/// By what a client knows a track.
#[derive(Debug, Clone)]
pub(crate) struct Identity {
    pub(crate) participant_sid: String,
    pub(crate) track_sid: String,
    /// What is captured together (`TrackInfo.stream`), such as a camera and its microphone; empty
    /// when the track belongs to nothing.
    pub(crate) stream: String,
}

impl Identity {
    /// The stream id. A client takes its second half for the track when it looks like one, and
    /// else asks the track id (client-sdk-js `extractTrackSid`); what shares a stream id is played
    /// in time with one another.
    fn stream_id(&self, shared: bool) -> String {
        let shared = shared && !self.stream.is_empty();
        let second = if shared { &self.stream } else { &self.track_sid };
        format!("{}|{second}", self.participant_sid)
    }
}

/// A track that waits for a section.
pub(crate) struct Wanted {
    pub(crate) track: TrackSlot,
    pub(crate) kind: Kind,
    pub(crate) identity: Identity,
}

/// See the module's description.
pub(crate) struct Subscriber {
    pub(crate) transport: Transport,
    sections: Vec<Section>,
    wanted: Vec<Wanted>,
    shares_streams: bool,
    empty_sections_max: usize,
    open_offer: Option<SdpPendingOffer>,
    channels_offered: bool,
    restart_ice: bool,
    changed: bool,
    offer_id: u32,
}

impl Subscriber {
    /// `shares_streams`: what is captured together comes in one media stream.
    pub(crate) fn new(transport: Transport, client: &Client, shares_streams: bool) -> Self {
        let shares_streams = shares_streams && client.shares_streams();
        let empty_sections_max = match (client.reuses_sections(), shares_streams) {
            (false, _) => SECTIONS_MAX,
            (true, true) => EMPTY_SECTIONS_MAX,
            (true, false) => 0,
        };
        Self {
            transport,
            shares_streams,
            empty_sections_max,
            sections: Vec::new(),
            wanted: Vec::new(),
            open_offer: None,
            channels_offered: false,
            restart_ice: false,
            changed: true,
            offer_id: 0,
        }
    }

    /// Transport and sections, to write what the sections say.
    pub(crate) fn parts(&mut self) -> (&mut Transport, &mut Vec<Section>) {
        (&mut self.transport, &mut self.sections)
    }

    pub(crate) fn sections(&self) -> impl Iterator<Item = &Section> {
        self.sections.iter()
    }

    /// The section that carries the track.
    pub(crate) fn section_of(&mut self, track: TrackSlot) -> Option<&mut Section> {
        self.sections.iter_mut().find(|section| section.track() == Some(track))
    }

    pub(crate) fn has(&self, track: TrackSlot) -> bool {
        self.sections.iter().any(|section| section.track() == Some(track))
            || self.wanted.iter().any(|wanted| wanted.track == track)
    }

    /// Asks for a section; it comes with a later offer.
    pub(crate) fn want(&mut self, wanted: Wanted) {
        self.wanted.push(wanted);
        self.changed = true;
    }

    /// Empties the track's section.
    pub(crate) fn release(&mut self, now: Instant, track: TrackSlot) {
        self.wanted.retain(|wanted| wanted.track != track);
        let Some(section) = self.section_of(track) else {
            return;
        };
        section.used = Use::Leaving { offered: false };
        section.downlink.restart();
        let stream = section.stream;
        if let (Some(egress), Some(stream)) = (&mut self.transport.egress, stream) {
            egress.end(now, stream);
        }
        self.changed = true;
    }

    /// The next offer shall restart ICE.
    pub(crate) fn restart_ice(&mut self) {
        self.restart_ice = true;
        self.changed = true;
        // A client that lost its WebSocket may have lost the offer or its answer too.
        self.open_offer = None;
        let Self { transport, sections, wanted, .. } = self;
        // Sections of an abandoned offer never came to be: their tracks want one again.
        sections.retain(|section| {
            let exists = transport.rtc.media(section.mid).is_some();
            if let (false, Some(track)) = (exists, section.track()) {
                let identity = section.identity.clone();
                wanted.push(Wanted { track, kind: section.kind, identity });
            }
            exists
        });
        for section in sections {
            if section.used == (Use::Leaving { offered: true }) {
                section.used = Use::Leaving { offered: false };
            }
        }
    }

    /// The next offer and its id, if something changed and none is open.
    pub(crate) fn offer(&mut self) -> Option<(String, u32)> {
        if !self.changed || self.open_offer.is_some() {
            return None;
        }
        self.changed = false;
        let Self { transport, sections, wanted, .. } = self;
        let mut api = transport.rtc.sdp_api();
        if !self.channels_offered {
            api.add_channel_with_config(channel(DataKind::Reliable));
            api.add_channel_with_config(channel(DataKind::Lossy));
        }
        for section in sections.iter_mut() {
            if let Use::Leaving { .. } = section.used {
                section.used = Use::Leaving { offered: true };
                api.set_direction(section.mid, Direction::Inactive);
            }
        }
        let mut later = Vec::new();
        for track in wanted.drain(..) {
            let empty =
                |section: &Section| section.used == Use::Empty && section.kind == track.kind;
            let spare = sections.iter().filter(|section| empty(section)).count();
            let full = sections.len() >= SECTIONS_MAX;
            let again = sections.iter_mut().find(|section| empty(section));
            if let Some(section) = again.filter(|_| full || spare > self.empty_sections_max) {
                api.set_direction(section.mid, Direction::SendOnly);
                section.used = Use::Carrying(track.track);
                section.identity = track.identity;
                section.fresh = false;
                section.agreed = false;
            } else if full {
                later.push(track);
            } else {
                sections.push(add_section(&mut api, track));
            }
        }
        if self.restart_ice {
            api.ice_restart(true);
            self.restart_ice = false;
        }
        *wanted = later;
        let (offer, pending) = api.apply()?;
        self.open_offer = Some(pending);
        self.offer_id += 1;
        Some((self.with_identities(&offer), self.offer_id))
    }

    fn with_identities(&self, offer: &SdpOffer) -> String {
        let carrying = self.sections.iter().filter(|section| section.track().is_some());
        let identities: Vec<_> = carrying
            .map(|section| {
                let stream = section.identity.stream_id(self.shares_streams && section.fresh);
                (section.mid.to_string(), stream, section.identity.track_sid.clone())
            })
            .collect();
        sdp::with_track_identities(&offer.to_sdp_string(), &identities)
    }

    /// Takes the answer to the open offer; an answer to an older one is ignored.
    pub(crate) fn answer(
        &mut self,
        now: Instant,
        text: &str,
        id: u32,
        cache: RtxCache,
    ) -> Result<(), NegotiationError> {
        if id != 0 && id != self.offer_id {
            return Ok(());
        }
        let Some(pending) = self.open_offer.take() else {
            return Ok(());
        };
        let answer = SdpAnswer::from_sdp_string(text).map_err(|_| NegotiationError::Malformed)?;
        self.transport.negotiate(|rtc| rtc.sdp_api().accept_answer(pending, answer))?;
        self.channels_offered = true;
        let taken = sdp::sections(text);
        for section in &mut self.sections {
            match section.used {
                Use::Leaving { offered: true } => section.used = Use::Empty,
                Use::Carrying(_) if !section.agreed => {
                    let mid = section.mid.to_string();
                    section.redundant = taken.iter().any(|one| one.mid == mid && one.redundant);
                    section.agreed = true;
                    section.downlink.restart();
                    let Transport { rtc, egress, .. } = &mut self.transport;
                    let agreed = Stream::agreed(rtc, section.mid, section.kind, cache);
                    if let (Some(egress), Some(agreed)) = (egress, agreed) {
                        section.stream = Some(egress.begin(now, section.stream, agreed));
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// A section that comes with the next offer.
fn add_section(api: &mut SdpApi<'_>, wanted: Wanted) -> Section {
    let Wanted { track, kind, identity } = wanted;
    let media = match kind {
        Kind::Audio => MediaKind::Audio,
        Kind::Video => MediaKind::Video,
    };
    // Written over when the offer is: by then it may have become another track's.
    let ids = (Some(identity.stream_id(false)), Some(identity.track_sid.clone()));
    Section {
        mid: api.add_media(media, Direction::SendOnly, ids.0, ids.1, None),
        kind,
        used: Use::Carrying(track),
        agreed: false,
        stream: None,
        fresh: true,
        identity,
        redundant: false,
        downlink: Downlink::new(kind),
    }
}

/// Why an answer was not taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NegotiationError {
    #[error("the description is not SDP")]
    Malformed,
    #[error(transparent)]
    Refused(#[from] TransportError),
}

fn channel(kind: DataKind) -> ChannelConfig {
    let (ordered, reliability) = match kind {
        DataKind::Reliable => (true, Reliability::Reliable),
        DataKind::Lossy => (false, Reliability::MaxRetransmits { retransmits: 0 }),
    };
    ChannelConfig { label: kind.label().to_owned(), ordered, reliability, ..Default::default() }
}
