//! Packets of a headless session: what goes out in time, what comes in and is weighed.
//!
//! Runs both transports once per wake-up. Decides nothing about signalling except that a dead
//! transport means to join again. Invariant: a transport is drained after whatever was written.

use std::sync::atomic::Ordering;
use std::time::Instant;

use livekit_contract::proto::{self, data_packet};
use prost::Message;
use str0m::rtp::RtpPacket;
use str0m::{Event, IceConnectionState};

use super::super::HeadlessError;
use super::super::ledger::{Arrival, TrackKey};
use super::super::media;
use super::super::participant::{Data, lock};
use super::{Session, Transports, UNSENT_MAX};

impl Session {
    /// One turn: read, write what is due, act on events.
    pub(super) fn flow(&mut self) -> Result<(), HeadlessError> {
        let Some(both) = &mut self.transports else { return Ok(()) };
        both.subscriber.receive(&mut self.inbox)?;
        both.publisher.receive(&mut self.inbox)?;
        self.send_media()?;
        let now = Instant::now();
        let Some(both) = &mut self.transports else { return Ok(()) };
        for transport in [&mut both.publisher, &mut both.subscriber] {
            transport.tick(now)?;
        }
        let (publisher, subscriber) = (both.publisher.take_events(), both.subscriber.take_events());
        self.on_publisher_events(publisher)?;
        self.on_subscriber_events(subscriber)
    }

    fn send_media(&mut self) -> Result<(), HeadlessError> {
        let Some(both) = &mut self.transports else { return Ok(()) };
        // Later an ICE restart looks for a better way, and media keeps to the old one meanwhile
        // (RFC 8445, 9).
        if !both.publisher_up {
            return Ok(());
        }
        let now = Instant::now();
        let (mut wrote, mut sent) = (false, 0);
        for publication in &mut self.publications {
            publication.start(&mut both.publisher.rtc, now);
            let before = publication.packets;
            if let Some(lateness) = publication.send(&mut both.publisher.rtc, now) {
                lock(&self.shared.totals).lateness.add(lateness);
                wrote = true;
            }
            sent += publication.packets - before;
        }
        if wrote {
            both.publisher.touch();
            let mut totals = lock(&self.shared.totals);
            totals.packets_sent += sent;
            totals.send_blocked = both.publisher.send_blocked + both.subscriber.send_blocked;
            totals.media_to = both.publisher.media_to;
        }
        Ok(())
    }

    fn on_publisher_events(&mut self, events: Vec<Event>) -> Result<(), HeadlessError> {
        for event in events {
            match event {
                Event::Connected => self.check_connected(),
                Event::ChannelOpen(..) => self.send_unsent(),
                Event::KeyframeRequest(request) => {
                    for publication in &mut self.publications {
                        if publication.mid == Some(request.mid) {
                            publication.on_keyframe_request(&request);
                        }
                    }
                }
                Event::IceConnectionStateChange(IceConnectionState::Disconnected) => {
                    return Err(HeadlessError::Media("publisher transport died".to_owned()));
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn on_subscriber_events(&mut self, events: Vec<Event>) -> Result<(), HeadlessError> {
        if events.is_empty() {
            return Ok(());
        }
        let mut received = 0;
        for event in events {
            match event {
                Event::Connected => self.check_connected(),
                Event::RtpPacket(packet) => {
                    received += 1;
                    self.on_packet(&packet);
                }
                Event::ChannelData(message) => self.on_data(&message.data),
                Event::IceConnectionStateChange(IceConnectionState::Disconnected) => {
                    return Err(HeadlessError::Media("subscriber transport died".to_owned()));
                }
                _ => {}
            }
        }
        let mut totals = lock(&self.shared.totals);
        totals.packets_received += received;
        if let Some(both) = self.transports.as_ref().filter(|_| received > 0) {
            totals.media_from = both.subscriber.media_from;
        }
        Ok(())
    }

    /// Joined means that everything begun so far is connected.
    fn check_connected(&mut self) {
        let Some(both) = &mut self.transports else { return };
        both.publisher_up |= both.publisher.rtc.is_connected();
        both.subscriber_up |= both.subscriber.rtc.is_connected();
        if both.are_up() && !both.connected {
            both.connected = true;
            self.on_connected();
        }
    }

    fn on_packet(&mut self, packet: &RtpPacket) {
        if packet.payload.is_empty() {
            return;
        }
        let Some((sid, key)) = self.track_of(packet) else { return };
        let arrival = Arrival {
            now: packet.timestamp,
            ssrc: *packet.header.ssrc,
            sequence: *packet.seq_no,
            bytes: packet.payload.len(),
            marker: packet.header.marker,
            trailer: media::read(&packet.payload),
        };
        let kind = key.kind;
        let mut ledger = lock(&self.shared.ledger);
        let track = ledger.tracks.entry(key).or_default();
        if track.sid != sid {
            track.sid = sid;
        }
        track.on_packet(&arrival, kind);
    }

    fn track_of(&mut self, packet: &RtpPacket) -> Option<(String, TrackKey)> {
        let Transports { subscriber, sections, .. } = self.transports.as_mut()?;
        let mut api = subscriber.rtc.direct_api();
        let mid = api.stream_rx(&packet.header.ssrc).map(|stream| stream.mid())?;
        if let Some(found) = self.keys.get(&mid) {
            return Some(found.clone());
        }
        let sid = sections.get(&*mid)?;
        let key = self.known.get(sid)?;
        self.keys.insert(mid, (sid.clone(), key.clone()));
        self.keys.get(&mid).cloned()
    }

    #[allow(deprecated, reason = "other fields of the same messages are what SDKs still fill")]
    fn on_data(&mut self, bytes: &[u8]) {
        let Ok(packet) = proto::DataPacket::decode(bytes) else { return };
        let Some(data_packet::Value::User(user)) = packet.value else { return };
        let identity = packet.participant_identity;
        let data = Data { identity, topic: user.topic, payload: user.payload };
        let full = self.data.as_ref().is_some_and(|queue| queue.try_send(data).is_err());
        self.shared.queue_full.fetch_add(u64::from(full), Ordering::Relaxed);
    }

    pub(super) fn send_data(&mut self, payload: Vec<u8>, reliable: bool, to: Vec<String>) {
        let Some(both) = &mut self.transports else { return };
        let mut packet = proto::DataPacket {
            destination_identities: to,
            value: Some(data_packet::Value::User(proto::UserPacket {
                payload,
                ..Default::default()
            })),
            ..Default::default()
        };
        if reliable {
            self.data_sequence += 1;
            packet.sequence = self.data_sequence;
        }
        if both.unsent.len() < UNSENT_MAX {
            both.unsent.push((packet.encode_to_vec(), reliable));
        } else {
            self.shared.queue_full.fetch_add(1, Ordering::Relaxed);
        }
        both.offer_due |= both.channels.is_none();
        self.offer_if_due();
        self.send_unsent();
    }

    /// Writes what waits, as soon as its channel is open.
    fn send_unsent(&mut self) {
        let Some(both) = &mut self.transports else { return };
        let Some(channels) = both.channels else { return };
        let rtc = &mut both.publisher.rtc;
        both.unsent.retain(|(bytes, reliable)| {
            let id = if *reliable { channels.reliable } else { channels.lossy };
            let Some(mut channel) = rtc.channel(id) else { return true };
            let sent = channel.write(true, bytes).unwrap_or(false);
            self.shared.queue_full.fetch_add(u64::from(!sent), Ordering::Relaxed);
            false
        });
        both.publisher.touch();
    }
}
