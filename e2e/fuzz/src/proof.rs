//! Targets of the crate `hemicycle-proof`: what an auditor is handed, and what an annotation holds.
//!
//! Beyond not panicking: an accepted line is what is written, and what passed its check is sealed
//! and opened again as the same. A second pass signs the content, so that what lies behind the
//! signature is reached.

use hemicycle_proof::chain::Chain;
use hemicycle_proof::checkpoint::{self, Checkpoint};
use hemicycle_proof::declaration::{self, Declaration};
use hemicycle_proof::dsse::Envelope;
use hemicycle_proof::journal::{
    self, Actor, Entry, Event, EventId, Fact, FactName, Journal, Object, ObjectKind, State,
};
use hemicycle_proof::ledger::{Ledger, Sighting};
use hemicycle_proof::plain::{self, Lang};
use hemicycle_proof::statement::{self, EvidenceFact, Facts, Image, Level, Placement, ScopeFacts};
use hemicycle_proof::{Moment, RoomHashKey, Sha256, SigningKey, Span, Text};

/// PKCS#8 of Ed25519 before the 32 bytes of the seed (RFC 8410, section 7).
const PKCS8_HEAD: [u8; 16] =
    [0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];
const LANGUAGES: [Lang; 2] = [Lang::English, Lang::French];

fn key() -> SigningKey {
    let der = [&PKCS8_HEAD[..], &[7; 32]].concat();
    SigningKey::from_pkcs8_der(&der).expect("a good key")
}

/// One line: an envelope, and the documents that one may hold.
pub fn envelope(data: &[u8]) {
    let key = key();
    let keys = [key.public_key()];
    if let Ok(read) = Envelope::parse(data) {
        assert_eq!(read.to_line().as_bytes(), data, "a line has two spellings");
        let _ = (Placement::open(&read, &keys), Checkpoint::open(&read, &keys));
        let _ = Declaration::open(&read.to_line(), &keys);
    }
    if let Ok(placement) = Placement::read(data) {
        let sealed = placement.clone().seal(&key).expect("it was checked");
        let again = Placement::open(&sealed, &keys).expect("ours");
        assert_eq!(again, placement, "a statement changed on its way");
    }
    if let Ok(sealed) = Envelope::seal(declaration::PAYLOAD_TYPE, data.to_vec(), &key)
        && let Ok((read, _)) = Declaration::open(&sealed.to_line(), &keys)
    {
        assert!(read.issued_at < read.expires_at, "a declaration without an end");
        assert!(read.sign(&key).is_ok(), "an accepted declaration cannot be made");
    }
}

/// A bundle as it is handed over, and one whose lines are the payloads of signed envelopes.
pub fn bundle(data: &[u8]) {
    let key = key();
    look(data, &key);
    let payloads: Vec<&[u8]> = data.split(|byte| *byte == b'\n').collect();
    let mut signed = Vec::new();
    for (at, payload) in payloads.iter().enumerate() {
        let last = at + 1 == payloads.len();
        let kind = if last { checkpoint::PAYLOAD_TYPE } else { statement::PAYLOAD_TYPE };
        let Ok(sealed) = Envelope::seal(kind, payload.to_vec(), &key) else { return };
        signed.extend_from_slice(sealed.to_line().as_bytes());
        signed.push(b'\n');
    }
    look(&signed, &key);
}

fn look(bundle: &[u8], key: &SigningKey) {
    let verified = hemicycle_proof::bundle::verify(bundle, &key.public_key());
    for lang in LANGUAGES {
        let page = match &verified {
            Ok(account) => plain::account(lang, account),
            Err(refused) => {
                assert!(!refused.findings.is_empty(), "refused for nothing");
                plain::refusal(lang, refused)
            }
        };
        assert!(!page.chars().any(|c| c.is_control() && c != '\n'), "a control character");
    }
}

/// Journal text.
pub fn journal(data: &[u8]) {
    for line in data.split(|byte| *byte == b'\n') {
        if let Ok(entry) = Entry::parse(line) {
            assert_eq!(entry.to_line().as_bytes(), line, "a line has two spellings");
        }
    }
    for anchor in [None, Some(Sha256::of(data))] {
        for lang in LANGUAGES {
            let _ = match journal::verify(data, anchor) {
                Ok(verified) => plain::journal(lang, &verified),
                Err(findings) => plain::journal_findings(lang, &findings),
            };
        }
    }
}

/// A bundle, its payloads, a declaration and a journal.
pub fn seeds() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    let key = key();
    let start = Moment::from_unix_ms(1_700_000_000_000);
    let mut ledger = Ledger::new(text("a/b"), 60_000, start);
    let mut chain = Chain::begin(text("a/b"));
    let mut lines = Vec::new();
    for at in [0, 5_000, 40_000].map(|ms| start.plus_ms(ms)) {
        ledger.observe(at, sighting(start));
        let observed = if at == start { Vec::new() } else { ledger.flush(at) };
        for observed in observed {
            let (line, next) = chain.append(observed, 3, &key).expect("sound");
            lines.push(line);
            chain = next;
        }
    }
    let last = chain.checkpoint(3, start, Some(Sha256::of(b"j")), &key).expect("sound");
    lines.push(last);
    let payloads: Vec<Vec<u8>> = lines
        .iter()
        .map(|line| Envelope::parse(line.as_bytes()).expect("ours").payload_unverified().to_vec())
        .collect();
    let declaration = Declaration {
        kubernetes_node: text("worker-1"),
        provider_id: text("aws:///a/i-1"),
        scope: text("gold"),
        issued_at: start,
        expires_at: start.plus_ms(1),
    };
    let declared = declaration.sign(&key).expect("sound");
    vec![
        ("envelope", "record", lines[0].clone().into_bytes()),
        ("envelope", "statement", payloads[0].clone()),
        ("envelope", "declaration", declared.to_line().into_bytes()),
        ("envelope", "declared", declared.payload_unverified().to_vec()),
        ("bundle", "sound", (lines.join("\n") + "\n").into_bytes()),
        ("bundle", "payloads", payloads.join(&b'\n')),
        ("journal", "two", entries(start)),
    ]
}

fn text(text: &str) -> Text {
    Text::new(text).expect("a good text")
}

fn sighting(start: Moment) -> Sighting {
    let rooms = RoomHashKey::from_bytes(&[7; 32]).expect("a good key");
    let facts = Facts {
        media_node: text("m"),
        pod_uid: text("p"),
        image: Image { reference: text("i:1"), sha256: Some(Sha256::of(b"i")) },
        kubernetes_node: text("worker-1"),
        scope: ScopeFacts {
            name: text("gold"),
            provider: text("Example"),
            service: text("IaaS"),
            referential: text("SecNumCloud 3.2"),
            attestation_id: text("1"),
            attestation_sha256: None,
            expires: start.plus_ms(60_000),
        },
        evidence: vec![EvidenceFact {
            kind: text("providerId"),
            level: Level::E1,
            digest: Sha256::of(b"e"),
            observed_at: start,
            reason: text("region"),
        }],
    };
    let ticket = Some(Span::new(start, start.plus_ms(60_000)));
    Sighting { facts, ticket, violations: 0, rooms: vec![(rooms.hash("a/b", "room"), 2)] }
}

fn entries(at: Moment) -> Vec<u8> {
    let (mut journal, mut lines) = (Journal::begin(), String::new());
    let name = FactName::new("level").expect("a good name");
    for id in [EventId::EvidenceGained, EventId::LabelWritten] {
        let event = Event {
            id,
            at,
            actor: Actor::Operator { replica: text("o-0"), epoch: 3 },
            object: Object::cluster(ObjectKind::Node, text("worker-1")),
            before: State::new(),
            after: [(name.clone(), Fact::text("E1"))].into(),
        };
        let (line, next) = journal.append(event).expect("sound");
        lines += &(line + "\n");
        journal = next;
    }
    lines.into_bytes()
}
