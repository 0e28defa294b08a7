//! What a client can do, from what it says of itself when it joins.
//!
//! Decides by protocol version and browser name, as LiveKit does (`pkg/rtc/clientinfo.go`). Knows
//! nothing of rooms. Invariant: a client that says nothing is taken for an old one.

use crate::io::ClientParams;

/// Clients above this version look a track up by its own id when the stream's is shared
/// (`pkg/rtc/types/protocol_version.go`).
const PROTOCOL_SHARED_STREAMS: u32 = 9;

/// See the module's description.
pub(crate) struct Client<'a>(pub(crate) &'a ClientParams);

impl Client<'_> {
    fn browser_is(&self, name: &str) -> bool {
        self.0.browser.eq_ignore_ascii_case(name)
    }

    /// Firefox makes track ids of its own, so that only a stream can name a track.
    fn is_firefox(&self) -> bool {
        self.browser_is("firefox") || self.browser_is("firefox mobile")
    }

    fn is_safari(&self) -> bool {
        self.browser_is("safari")
    }

    /// Tracks of one stream can be told apart.
    pub(crate) fn shares_streams(&self) -> bool {
        self.0.protocol > PROTOCOL_SHARED_STREAMS && !self.is_firefox()
    }

    /// A media section that is empty can take another track.
    pub(crate) fn reuses_sections(&self) -> bool {
        !self.is_safari()
    }

    /// RED (RFC 2198) for Opus may be offered to it.
    pub(crate) fn takes_redundancy(&self) -> bool {
        !self.is_firefox() && !self.is_safari()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn browsers_and_versions_are_told_apart() {
        let all = |protocol, browser: &str| {
            let browser = browser.to_owned();
            let params = ClientParams { protocol, browser, ..ClientParams::default() };
            let client = Client(&params);
            [client.shares_streams(), client.reuses_sections(), client.takes_redundancy()]
        };
        assert_eq!(all(16, "Chrome"), [true, true, true]);
        assert_eq!(all(16, ""), [true, true, true]);
        assert_eq!(all(9, "Chrome"), [false, true, true]);
        assert_eq!(all(16, "Firefox"), [false, true, false]);
        assert_eq!(all(16, "firefox mobile"), [false, true, false]);
        assert_eq!(all(16, "Safari"), [true, false, false]);
    }
}
