//! Reads from a client's description what the SDP library does not tell, and rewrites ours: track
//! identity in offers, sections without redundancy in answers.
//!
//! Text in, text out; never trusts what it reads. Invariant: a description that is not understood
//! yields fewer facts, never a panic.

/// Media sections read from one description; more than a client can ever use.
const SECTIONS_MAX: usize = 256;

/// Words of an `m=` line before its formats: kind, port, protocol.
const FORMATS_AT: usize = 3;
/// Lines about one format.
const FORMAT_LINES: [&str; 3] = ["a=rtpmap:", "a=fmtp:", "a=rtcp-fb:"];

/// One `m=` section of a client's offer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Section {
    pub(crate) mid: String,
    pub(crate) video: bool,
    /// The client sends on it.
    pub(crate) sends: bool,
    /// Track id of `a=msid` (RFC 8830), which SDKs set to the track's `cid`.
    pub(crate) track_id: Option<String>,
    /// Simulcast restriction ids that the client sends, in its order.
    pub(crate) rids: Vec<String>,
    /// RED (RFC 2198) is among its formats.
    pub(crate) redundant: bool,
}

/// The audio and video sections of a description.
pub(crate) fn sections(sdp: &str) -> Vec<Section> {
    let mut found = Vec::new();
    for block in blocks(sdp).skip(1).take(SECTIONS_MAX) {
        let Some(first) = block.lines().next() else {
            continue;
        };
        let (audio, video) = (first.starts_with("m=audio"), first.starts_with("m=video"));
        if audio || video {
            found.push(section(block, video));
        }
    }
    found
}

fn section(block: &str, video: bool) -> Section {
    let rejected = block.lines().next().and_then(|m| m.split(' ').nth(1)) == Some("0");
    let mut section = Section {
        mid: String::new(),
        video,
        sends: true,
        track_id: None,
        rids: Vec::new(),
        redundant: !red_formats(block).is_empty(),
    };
    for line in block.lines() {
        if let Some(mid) = line.strip_prefix("a=mid:") {
            section.mid = mid.trim().to_owned();
        } else if let Some(msid) = line.strip_prefix("a=msid:") {
            section.track_id = msid.split_whitespace().nth(1).map(str::to_owned);
        } else if let Some(rid) = line.strip_prefix("a=rid:") {
            let mut parts = rid.split_whitespace();
            if let (Some(rid), Some("send")) = (parts.next(), parts.next()) {
                section.rids.push(rid.to_owned());
            }
        } else if matches!(line.trim(), "a=recvonly" | "a=inactive") {
            section.sends = false;
        }
    }
    if rejected && !block.contains("a=bundle-only") {
        section.sends = false;
    }
    section
}

/// The formats of a section that are RED.
fn red_formats(block: &str) -> Vec<&str> {
    let first = block.lines().next().unwrap_or_default();
    let named = |format: &&str| {
        block.lines().any(|line| {
            let map = line.strip_prefix("a=rtpmap:").and_then(|map| map.strip_prefix(format));
            map.is_some_and(|map| map.starts_with(" red/"))
        })
    };
    first.split_whitespace().skip(FORMATS_AT).filter(named).collect()
}

/// Takes RED out of the sections named in `mids`: who reads the description then sends none there.
pub(crate) fn without_redundancy(sdp: &str, mids: &[String]) -> String {
    let mut out = String::with_capacity(sdp.len());
    for block in blocks(sdp) {
        let mid = block.lines().find_map(|line| line.strip_prefix("a=mid:")).map(str::trim);
        let formats = if mids.iter().any(|refused| Some(refused.as_str()) == mid) {
            red_formats(block)
        } else {
            Vec::new()
        };
        if formats.is_empty() {
            out.push_str(block);
            continue;
        }
        for line in block.split_inclusive('\n') {
            let about = line.split_once(':').and_then(|(_, rest)| rest.split_whitespace().next());
            if line.starts_with("m=") {
                let words = line.split_whitespace().enumerate();
                let kept = words.filter(|(at, word)| *at < FORMATS_AT || !formats.contains(word));
                out.push_str(&kept.map(|(_, word)| word).collect::<Vec<_>>().join(" "));
                out.push_str("\r\n");
            } else if !(FORMAT_LINES.iter().any(|kind| line.starts_with(kind))
                && about.is_some_and(|format| formats.contains(&format)))
            {
                out.push_str(line);
            }
        }
    }
    out
}

/// The description split before every `m=` line; the first part is the session's.
fn blocks(sdp: &str) -> impl Iterator<Item = &str> {
    let mut rest = Some(sdp);
    std::iter::from_fn(move || {
        let text = rest?;
        match text.get(1..).and_then(|tail| tail.find("\nm=")) {
            Some(at) => {
                let (head, tail) = text.split_at_checked(at + 2)?;
                rest = Some(tail);
                Some(head)
            }
            None => rest.take(),
        }
    })
}

/// Gives the sections named in `identities` (mid, stream id, track id) that track identity.
pub(crate) fn with_track_identities(sdp: &str, identities: &[(String, String, String)]) -> String {
    let mut out = String::with_capacity(sdp.len() + 64 * identities.len());
    for block in blocks(sdp) {
        let mid = block.lines().find_map(|line| line.strip_prefix("a=mid:")).map(str::trim);
        let identity = identities.iter().find(|(of, ..)| Some(of.as_str()) == mid);
        let Some((_, stream, track)) = identity else {
            out.push_str(block);
            continue;
        };
        for line in block.split_inclusive('\n') {
            if line.starts_with("a=msid:") {
                out.push_str(&format!("a=msid:{stream} {track}\r\n"));
            } else if let Some((head, _)) =
                line.split_once(" msid:").filter(|_| line.starts_with("a=ssrc:"))
            {
                out.push_str(&format!("{head} msid:{stream} {track}\r\n"));
            } else {
                out.push_str(line);
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const OFFER: &str = "v=0\r\no=- 1 2 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\n\
        m=audio 9 UDP/TLS/RTP/SAVPF 111\r\na=mid:0\r\na=sendonly\r\na=msid:- mic\r\n\
        m=video 9 UDP/TLS/RTP/SAVPF 96\r\na=mid:1\r\na=sendonly\r\na=msid:s cam\r\n\
        a=rid:q send\r\na=rid:h send\r\na=rid:f send\r\na=simulcast:send q;h;f\r\n\
        m=video 9 UDP/TLS/RTP/SAVPF 96\r\na=mid:2\r\na=inactive\r\n\
        m=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\na=mid:3\r\n";

    #[test]
    fn an_offer_tells_tracks_directions_and_layers() {
        let found = sections(OFFER);
        assert_eq!(found.len(), 3);
        assert_eq!(found[0].track_id.as_deref(), Some("mic"));
        assert!(found[0].sends && !found[0].video);
        assert_eq!(found[1].rids, ["q", "h", "f"]);
        assert!(!found[2].sends && found[2].video);
    }

    #[test]
    fn only_named_sections_change_identity() {
        let ours = [("1".to_owned(), "PA_x|TR_y".to_owned(), "TR_y".to_owned())];
        let changed = with_track_identities(OFFER, &ours);
        assert!(changed.contains("a=msid:PA_x|TR_y TR_y\r\n") && changed.contains("a=msid:- mic"));
        assert_eq!(sections(&changed).len(), 3);
        assert_eq!(with_track_identities(OFFER, &[]), OFFER);
    }

    #[test]
    fn redundancy_is_seen_and_taken_out_of_the_named_section_only() {
        let audio = |mid: &str| {
            format!(
                "m=audio 9 UDP/TLS/RTP/SAVPF 63 111\r\na=mid:{mid}\r\na=rtpmap:111 opus/48000/2\r\n\
                 a=rtpmap:63 red/48000/2\r\na=fmtp:63 111/111\r\na=fmtp:111 minptime=10\r\n"
            )
        };
        let answer = format!("v=0\r\n{}{}", audio("0"), audio("1"));
        assert!(sections(&answer).iter().all(|section| section.redundant));
        let changed = without_redundancy(&answer, &["1".to_owned()]);
        let [first, second] = sections(&changed).try_into().unwrap();
        assert!(first.redundant && !second.redundant);
        assert!(changed.starts_with(&format!("v=0\r\n{}", audio("0"))));
        assert!(changed.ends_with(
            "m=audio 9 UDP/TLS/RTP/SAVPF 111\r\na=mid:1\r\na=rtpmap:111 opus/48000/2\r\n\
             a=fmtp:111 minptime=10\r\n"
        ));
        assert_eq!(without_redundancy(OFFER, &["0".to_owned()]), OFFER, "there is none");
        let unused = audio("0").replace("63 111\r", "111\r");
        assert!(!sections(&format!("v=0\r\n{unused}"))[0].redundant, "not among the formats");
    }

    #[test]
    fn noise_is_survived() {
        for noise in ["", "m=", "\nm=\nm=audio", "é\nm=video é\na=rid:\na=msid:", "a=mid:\r\n"] {
            let _ = sections(noise);
            assert_eq!(with_track_identities(noise, &[]), noise);
            let _ = without_redundancy(noise, &[String::new()]);
        }
    }
}
