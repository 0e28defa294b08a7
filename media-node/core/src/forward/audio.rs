//! Forwarding of one audio track to one subscriber.
//!
//! Decides numbers only: audio has one layer and goes whole or not at all. Invariant: that of
//! [`RtpMunger`].

use super::SourceId;
use super::rtp_munger::{Numbers, Refused, RtpMunger, SourceStamp};

/// RTP clock of Opus, whatever it samples at (RFC 7587 §4.1).
pub const OPUS_CLOCK_RATE_HZ: u32 = 48_000;

/// Downlink state of one audio track.
#[derive(Debug, Clone)]
pub struct AudioForwarder {
    munger: RtpMunger,
    run: u64,
}

impl AudioForwarder {
    /// See [`RtpMunger::new`].
    #[must_use]
    pub fn new(first_sequence: u16, first_timestamp: u32) -> Self {
        Self { munger: RtpMunger::new(OPUS_CLOCK_RATE_HZ, first_sequence, first_timestamp), run: 0 }
    }

    /// The numbers for one packet.
    pub fn forward(&mut self, stamp: &SourceStamp) -> Result<Numbers, Refused> {
        self.munger.forward(SourceId(self.run), stamp)
    }

    /// The numbers for a packet that did not come but is repeated in a later one, if it is missing.
    pub fn recover(&mut self, stamp: &SourceStamp) -> Option<Numbers> {
        self.munger.recover(SourceId(self.run), stamp)
    }

    /// One packet that is not sent, such as one without payload.
    pub fn skip(&mut self, sequence: u16) {
        self.munger.skip(SourceId(self.run), sequence);
    }

    /// The publisher or the subscription starts anew: the next packet continues the numbers.
    pub fn restart(&mut self) {
        self.run += 1;
    }
}
