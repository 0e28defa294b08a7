//! What is written must verify with the public key alone, and what two leaders write must not fork.

use std::fs;

use hemicycle_proof::{
    Moment, RoomHashKey, Sha256, SigningKey, Span, Text, bundle,
    chain::{CHECKPOINT_FILE, RECORDS_DIRECTORY},
    journal::{self as proof_journal, EventId, ObjectKind},
    ledger::{Ledger, Sighting},
    retention::Retention,
    statement::{EvidenceFact, Facts, Image, Level, Observed, ScopeFacts},
};

use super::{
    Act, Settings, facts,
    journal::{Journal, Pages},
    named,
    store::{Store, StoreError},
};
use crate::metrics::Metrics;

const TENANT: &str = "ministry/visio";

fn text(text: &str) -> Text {
    Text::new(text).expect("a text")
}

fn nine() -> Moment {
    Moment::parse("2026-11-28T09:00:00.000Z").expect("a time")
}

fn ground() -> Facts {
    Facts {
        media_node: text("visio-1"),
        pod_uid: text("pod-1"),
        image: Image { reference: text("media-node:1"), sha256: Some(Sha256::of(b"image")) },
        kubernetes_node: text("n1"),
        scope: ScopeFacts {
            name: text("gold"),
            provider: text("Example Cloud"),
            service: text("IaaS"),
            referential: text("SecNumCloud 3.2"),
            attestation_id: text("EX-1"),
            attestation_sha256: None,
            expires: Moment::parse("2027-03-01T00:00:00.000Z").expect("a time"),
        },
        evidence: vec![EvidenceFact {
            kind: text("declaredLabel"),
            level: Level::E0,
            digest: Sha256::of(b"seen"),
            observed_at: nine(),
            reason: text("labelled"),
        }],
    }
}

/// A minute of a room of three, `minutes` after nine.
fn minute(minutes: u64) -> Vec<Observed> {
    let from = nine().plus_ms(minutes * 60_000);
    let mut ledger = Ledger::new(text(TENANT), 60_000, from);
    let room = RoomHashKey::from_bytes(&[7; 32]).expect("a key").hash(TENANT, "council");
    for second in (0..=60).step_by(2) {
        let at = from.plus_ms(second * 1_000);
        let ticket = Some(Span::new(from, from.plus_ms(600_000)));
        let rooms = vec![(room, 3)];
        ledger.observe(at, Sighting { facts: ground(), ticket, violations: 0, rooms });
    }
    ledger.flush(from.plus_ms(60_000))
}

#[test]
fn what_a_leader_wrote_verifies_and_its_successor_goes_on() {
    let root = tempfile::tempdir().expect("a directory");
    let key = SigningKey::generate().expect("a key");
    let store = Store::of(root.path(), TENANT);
    for epoch in 1..=2 {
        let mut chain = store.resume(text(TENANT), &key.public_key()).expect("taken up");
        for observed in minute(epoch) {
            chain = store.append(&chain, observed, epoch, &key).expect("written");
        }
        let now = nine().plus_ms(epoch * 60_000 + 61_000);
        store.checkpoint(&chain, epoch, now, None, &key).expect("written");
    }
    let directory = root.path().join("proof").join(TENANT);
    let mut names: Vec<_> = fs::read_dir(directory.join(RECORDS_DIRECTORY))
        .expect("records")
        .map(|entry| entry.expect("an entry").path())
        .collect();
    names.sort();
    names.push(directory.join(CHECKPOINT_FILE));
    let lines = names.iter().map(|path| fs::read_to_string(path).expect("a line"));
    let bundle = lines.collect::<Vec<_>>().join("\n") + "\n";
    let account = bundle::verify(bundle.as_bytes(), &key.public_key()).expect("it is sound");
    assert_eq!(account.participant_ms(), 2 * 3 * 60_000);
    assert!(!bundle.contains("council"));
}

#[test]
fn a_leader_that_is_none_any_more_forks_nothing() {
    let root = tempfile::tempdir().expect("a directory");
    let key = SigningKey::generate().expect("a key");
    let store = Store::of(root.path(), TENANT);
    let old = store.resume(text(TENANT), &key.public_key()).expect("taken up");
    let first = minute(1).remove(0);
    store.append(&old, first.clone(), 2, &key).expect("the successor writes");
    let late = store.append(&old, first, 1, &key);
    assert!(matches!(late, Err(StoreError::Taken(1))), "{late:?}");
}

#[test]
fn acts_are_chained_by_day_and_go_on_after_a_restart() {
    let root = tempfile::tempdir().expect("a directory");
    let metrics = std::sync::Arc::new(Metrics::new());
    let settings = Settings {
        directory: Some(root.path().to_owned()),
        every: std::time::Duration::from_secs(60),
        retention: Retention::default(),
    };
    for scope in ["gold", "silver"] {
        let journal = Journal::new(metrics.clone());
        journal.acts("operator-0", 1);
        journal.tell(Act {
            id: EventId::ScopeWithdrawn,
            object: named(ObjectKind::QualificationScope, scope),
            before: facts([("state", "Qualified")]),
            after: facts([("state", "Withdrawn")]),
        });
        Pages::default().write(&settings, &metrics, journal.take());
    }
    let pages = fs::read_dir(root.path().join("audit")).expect("pages");
    let mut text = Vec::new();
    for page in pages {
        text.extend(fs::read(page.expect("a page").path()).expect("a page"));
    }
    let verified = proof_journal::verify(&text, None).map_err(|flaws| format!("{flaws:?}"));
    verified.expect("both lines hang together");
    assert_eq!(text.iter().filter(|byte| **byte == b'\n').count(), 2);
}
