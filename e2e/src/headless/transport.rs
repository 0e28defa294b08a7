//! One WebRTC transport: an `Rtc` on a UDP socket of its own.
//!
//! Moves packets and descriptions. Decides nothing about media or signalling. Invariant: after
//! every call the library has been drained, so its deadline is always known.

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use str0m::change::{SdpAnswer, SdpOffer, SdpPendingOffer};
use str0m::net::{Protocol, Receive};
use str0m::{Candidate, Event, Input, Output, Rtc, RtcConfig};
use tokio::net::UdpSocket;

use super::HeadlessError;
use super::inbox::{Inbox, stamp_arrivals};

/// Batches taken from the socket before anything else gets its turn.
const BATCHES_MAX: usize = 4;
/// Socket buffers, in bytes: half a second of a busy downlink.
const SOCKET_BUFFER_BYTES: usize = 1 << 20;

/// One transport.
pub(super) struct Transport {
    pub(super) rtc: Rtc,
    deadline: Instant,
    /// Something was changed or written that the library acts upon only at its next timeout.
    changed: bool,
    pub(super) socket: UdpSocket,
    local: SocketAddr,
    pending: Option<SdpPendingOffer>,
    described: bool,
    early_candidates: Vec<Candidate>,
    events: Vec<Event>,
    /// Datagrams that the socket did not take.
    pub(super) send_blocked: u64,
    /// Where media went last: the far end of the pair that ICE chose.
    pub(super) media_to: Option<SocketAddr>,
    /// Where media came from last.
    pub(super) media_from: Option<SocketAddr>,
}

/// Whether a datagram is SRTP or SRTCP and not STUN or DTLS (RFC 7983).
fn is_media(datagram: &[u8]) -> bool {
    matches!(datagram.first(), Some(128..=191))
}

fn media(error: impl std::fmt::Display) -> HeadlessError {
    HeadlessError::Media(error.to_string())
}

impl Transport {
    /// Binds a socket on `ip` and offers it as the only candidate.
    pub(super) fn new(ip: IpAddr, now: Instant) -> Result<Self, HeadlessError> {
        let domain = socket2::Domain::for_address(SocketAddr::new(ip, 0));
        let socket = socket2::Socket::new(domain, socket2::Type::DGRAM, None)?;
        socket.set_nonblocking(true)?;
        socket.set_recv_buffer_size(SOCKET_BUFFER_BYTES)?;
        socket.set_send_buffer_size(SOCKET_BUFFER_BYTES)?;
        socket.bind(&SocketAddr::new(ip, 0).into())?;
        stamp_arrivals(&socket);
        let socket = UdpSocket::from_std(socket.into())?;
        let local = socket.local_addr()?;
        let mut rtc = RtcConfig::new()
            .set_rtp_mode(true)
            .clear_codecs()
            .enable_opus(true, false)
            .enable_vp8(true)
            .set_stats_interval(None)
            .build(now);
        rtc.add_local_candidate(Candidate::host(local, "udp").map_err(media)?);
        Ok(Self {
            rtc,
            deadline: now,
            changed: true,
            socket,
            local,
            pending: None,
            described: false,
            early_candidates: Vec::new(),
            events: Vec::new(),
            send_blocked: 0,
            media_to: None,
            media_from: None,
        })
    }

    /// An offer of ours waits for its answer.
    pub(super) fn is_negotiating(&self) -> bool {
        self.pending.is_some()
    }

    /// Applies changes and returns the offer to send, if one is needed.
    pub(super) fn offer(
        &mut self,
        change: impl FnOnce(&mut str0m::change::SdpApi<'_>),
    ) -> Option<String> {
        let mut api = self.rtc.sdp_api();
        change(&mut api);
        let (offer, pending) = api.apply()?;
        self.pending = Some(pending);
        Some(offer.to_sdp_string())
    }

    pub(super) fn accept_answer(&mut self, sdp: &str) -> Result<(), HeadlessError> {
        let Some(pending) = self.pending.take() else { return Ok(()) };
        let answer = SdpAnswer::from_sdp_string(sdp).map_err(media)?;
        self.rtc.sdp_api().accept_answer(pending, answer).map_err(media)?;
        self.on_described();
        Ok(())
    }

    /// Answers the server's offer.
    pub(super) fn accept_offer(&mut self, sdp: &str) -> Result<String, HeadlessError> {
        let offer = SdpOffer::from_sdp_string(sdp).map_err(media)?;
        let answer = self.rtc.sdp_api().accept_offer(offer).map_err(media)?;
        self.on_described();
        Ok(answer.to_sdp_string())
    }

    /// A candidate of the server, in the JSON of `TrickleRequest.candidate_init`.
    pub(super) fn add_candidate(&mut self, candidate_init: &str) {
        let Ok(json) = serde_json::from_str::<serde_json::Value>(candidate_init) else { return };
        let Some(text) = json.get("candidate").and_then(|value| value.as_str()) else { return };
        let Ok(candidate) = Candidate::from_sdp_string(text) else { return };
        // An address of the other family, or TCP, is of no use to this socket.
        let usable = candidate.proto() == Protocol::Udp
            && candidate.addr().is_ipv4() == self.local.is_ipv4();
        if !usable {
            return;
        }
        if self.described {
            self.rtc.add_remote_candidate(candidate);
            self.changed = true;
        } else {
            self.early_candidates.push(candidate);
        }
    }

    fn on_described(&mut self) {
        self.described = true;
        self.changed = true;
        for candidate in self.early_candidates.drain(..) {
            self.rtc.add_remote_candidate(candidate);
        }
    }

    /// Reads what has arrived, up to a few batches. What the library says of a packet carries the
    /// time at which it reached this machine.
    pub(super) fn receive(&mut self, inbox: &mut Inbox) -> Result<(), HeadlessError> {
        for _ in 0..BATCHES_MAX {
            let more = inbox.receive(&self.socket);
            for (arrival, source, datagram) in inbox.datagrams() {
                if is_media(datagram) {
                    self.media_from = Some(source);
                }
                let receive = Receive::new(Protocol::Udp, source, self.local, datagram);
                let Ok(receive) = receive else { continue };
                self.rtc.handle_input(Input::Receive(arrival, receive)).map_err(media)?;
                // The library holds one packet at a time: what is not fetched is overwritten.
                self.drain()?;
            }
            if !more {
                break;
            }
        }
        Ok(())
    }

    /// When the library wants its turn.
    pub(super) fn due(&self) -> Option<Instant> {
        (!self.changed).then_some(self.deadline)
    }

    /// Something was written: the next turn must not wait.
    pub(super) fn touch(&mut self) {
        self.changed = true;
    }

    /// Lets the library act on the time, if it is due, and on what was written to it.
    pub(super) fn tick(&mut self, now: Instant) -> Result<(), HeadlessError> {
        if self.due().is_some_and(|due| due > now) {
            return Ok(());
        }
        self.changed = false;
        self.rtc.handle_input(Input::Timeout(now)).map_err(media)?;
        self.drain()
    }

    /// The events since the last call.
    pub(super) fn take_events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }

    fn drain(&mut self) -> Result<(), HeadlessError> {
        loop {
            match self.rtc.poll_output().map_err(media)? {
                Output::Timeout(deadline) => {
                    self.deadline = deadline;
                    return Ok(());
                }
                Output::Transmit(transmit) => {
                    if is_media(&transmit.contents) {
                        self.media_to = Some(transmit.destination);
                    }
                    let sent = self.socket.try_send_to(&transmit.contents, transmit.destination);
                    self.send_blocked += u64::from(sent.is_err());
                }
                Output::Event(event) => self.events.push(event),
            }
        }
    }
}
