//! What the tests of several modules build on: a tenant, a pod, its scope. No two tests share
//! state through it.

use crate::chain::Chain;
use crate::hash::Sha256;
use crate::key::SigningKey;
use crate::moment::{Moment, Span};
use crate::room_hash::{RoomHash, RoomHashKey};
use crate::statement::{EvidenceFact, Facts, Image, Level, Observed, RoomTime, ScopeFacts};
use crate::text::Text;

pub(crate) const TENANT: &str = "meetings/demo";

pub(crate) fn text(text: &str) -> Text {
    Text::new(text).unwrap()
}

pub(crate) fn moment(text: &str) -> Moment {
    Moment::parse(text).unwrap()
}

pub(crate) fn nine() -> Moment {
    moment("2026-11-28T09:00:00.000Z")
}

pub(crate) fn room(name: &str) -> RoomHash {
    RoomHashKey::from_bytes(&[7; 32]).unwrap().hash(TENANT, name)
}

pub(crate) fn facts(pod: &str) -> Facts {
    Facts {
        media_node: text("demo-1"),
        pod_uid: text(pod),
        image: Image {
            reference: text("registry.example/media-node:1"),
            sha256: Some(Sha256::of(b"image")),
        },
        kubernetes_node: text("worker-1"),
        scope: ScopeFacts {
            name: text("gold"),
            provider: text("Example Cloud"),
            service: text("IaaS"),
            referential: text("SecNumCloud 3.2"),
            attestation_id: text("EX-2026-1"),
            attestation_sha256: None,
            expires: moment("2027-03-01T00:00:00.000Z"),
        },
        evidence: vec![EvidenceFact {
            kind: text("manualSigned"),
            level: Level::E2,
            digest: Sha256::of(b"declaration"),
            observed_at: nine(),
            reason: text("declared by the scope's owner"),
        }],
    }
}

/// Ten minutes of one pod, `after` milliseconds after nine, with one participant in one room.
pub(crate) fn observed(pod: &str, after: u64) -> Observed {
    let from = nine().plus_ms(after);
    let interval = Span::new(from, from.plus_ms(600_000));
    Observed {
        tenant: text(TENANT),
        facts: facts(pod),
        ticket: Some(interval),
        interval,
        rooms: vec![RoomTime { hash: room("board"), participant_ms: 600_000 }],
        rooms_omitted: 0,
        participant_ms: 600_000,
        unobserved_ms: 0,
        silences: Vec::new(),
        violations: 0,
    }
}

/// The lines of a chain of `all`, with its checkpoint as the last.
pub(crate) fn lines(all: Vec<Observed>, key: &SigningKey) -> Vec<String> {
    let mut chain = Chain::begin(text(TENANT));
    let mut lines = Vec::new();
    for observed in all {
        let (line, next) = chain.append(observed, 3, key).unwrap();
        lines.push(line);
        chain = next;
    }
    let journal = Some(Sha256::of(b"journal"));
    lines.push(chain.checkpoint(3, nine().plus_ms(3_600_000), journal, key).unwrap());
    lines
}

pub(crate) fn join(lines: &[String]) -> Vec<u8> {
    lines.iter().flat_map(|line| [line.as_bytes(), b"\n"].concat()).collect()
}
