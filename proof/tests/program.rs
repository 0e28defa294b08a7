//! The program as an auditor runs it: a store written to a volume, exported, verified with the
//! public key alone; then changed, and refused.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so")]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output};

use hemicycle_proof::chain::{CHECKPOINT_FILE, Chain, RECORDS_DIRECTORY, record_file_name};
use hemicycle_proof::declaration::Declaration;
use hemicycle_proof::journal::{Actor, Event, EventId, Journal, Object, ObjectKind, State};
use hemicycle_proof::ledger::{Ledger, Sighting};
use hemicycle_proof::statement::{EvidenceFact, Facts, Image, Level, ScopeFacts};
use hemicycle_proof::{Moment, PublicKey, RoomHashKey, Sha256, SigningKey, Span, Text};

const TENANT: &str = "meetings/demo";

fn run(directory: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_hemicycle-proof"))
        .args(arguments)
        .current_dir(directory)
        .output()
        .unwrap()
}

/// Its output, when it ended with `code`.
fn ran(directory: &Path, arguments: &[&str], code: i32) -> String {
    let output = run(directory, arguments);
    let shown = String::from_utf8(output.stdout).unwrap();
    let failed = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}\n{shown}{failed}");
    shown
}

fn text(text: &str) -> Text {
    Text::new(text).unwrap()
}

fn start() -> Moment {
    Moment::parse("2026-11-28T23:30:00.000Z").unwrap()
}

fn facts(number: usize) -> Facts {
    Facts {
        media_node: text(&format!("demo-{number}")),
        pod_uid: text(&format!("0f0e0d0c-0000-4000-8000-00000000000{number}")),
        image: Image {
            reference: text("registry.example/hemicycle/media-node:0.1.0"),
            sha256: Some(Sha256::of(b"image")),
        },
        kubernetes_node: text(&format!("worker-{number}")),
        scope: ScopeFacts {
            name: text("gold"),
            provider: text("Example Cloud"),
            service: text("IaaS de confiance"),
            referential: text("SecNumCloud 3.2"),
            attestation_id: text("EX-2026-1"),
            attestation_sha256: Some(Sha256::of(b"attestation")),
            expires: Moment::parse("2027-03-01T00:00:00.000Z").unwrap(),
        },
        evidence: vec![EvidenceFact {
            kind: text("manualSigned"),
            level: Level::E2,
            digest: Sha256::of(b"declaration"),
            observed_at: start(),
            reason: text("declared by the scope's owner"),
        }],
    }
}

/// An hour over midnight with two media nodes, one of which is not heard of for five minutes.
fn write_store(directory: &Path, key: &SigningKey, rooms: &RoomHashKey, journal: Sha256) {
    let records = directory.join(RECORDS_DIRECTORY);
    fs::create_dir_all(&records).unwrap();
    let mut ledger = Ledger::new(text(TENANT), 15 * 60_000, start());
    let mut chain = Chain::begin(text(TENANT));
    let end = start().plus_ms(3_600_000);
    let mut at = start();
    while at <= end {
        let minute = at.since_ms(start()) / 60_000;
        for number in 1..=2 {
            if number == 2 && (40..45).contains(&minute) {
                continue;
            }
            let board = (rooms.hash(TENANT, "conseil"), 3);
            let own = (rooms.hash(TENANT, &format!("room-{number}")), 40);
            ledger.observe(
                at,
                Sighting {
                    facts: facts(number),
                    ticket: Some(Span::new(start(), at.plus_ms(600_000))),
                    violations: 0,
                    rooms: if number == 1 { vec![board, own] } else { vec![own] },
                },
            );
        }
        let last = at == end;
        for observed in if last { ledger.flush(at) } else { ledger.due(at) } {
            let (line, next) = chain.append(observed, 7, key).unwrap();
            fs::write(records.join(record_file_name(next.sequence())), line).unwrap();
            chain = next;
        }
        at = at.plus_ms(2_000);
    }
    let checkpoint = chain.checkpoint(7, end, Some(journal), key).unwrap();
    fs::write(directory.join(CHECKPOINT_FILE), checkpoint).unwrap();
}

fn write_journal(path: &Path) -> Sha256 {
    let (mut journal, mut all) = (Journal::begin(), String::new());
    for id in [EventId::ScopeQualified, EventId::EvidenceGained, EventId::TicketIssued] {
        let event = Event {
            id,
            at: start(),
            actor: Actor::Operator { replica: text("operator-0"), epoch: 7 },
            object: Object::cluster(ObjectKind::QualificationScope, text("gold")),
            before: State::new(),
            after: State::new(),
        };
        let (line, next) = journal.append(event).unwrap();
        all += &format!("{line}\n");
        journal = next;
    }
    fs::write(path, all).unwrap();
    journal.head()
}

/// A directory with keys, a store, a journal and the bundle of the store.
fn audited() -> tempfile::TempDir {
    let home = tempfile::tempdir().unwrap();
    let directory = home.path();
    let keys = ["--private", "key.pem", "--public", "key.pub", "--room-key", "rooms.key"];
    ran(directory, &[&["keygen"], &keys[..]].concat(), 0);
    let read = |name: &str| fs::read_to_string(directory.join(name)).unwrap();
    let key = SigningKey::from_pem(&read("key.pem")).unwrap();
    let rooms = RoomHashKey::parse(&read("rooms.key")).unwrap();
    let journal = write_journal(&directory.join("audit.jsonl"));
    write_store(&directory.join("store"), &key, &rooms, journal);
    fs::write(directory.join("bundle"), ran(directory, &["export", "store"], 0)).unwrap();
    home
}

const VERIFY: [&str; 4] = ["verify", "bundle", "--key", "key.pub"];

#[test]
fn a_bundle_is_verified_and_explained_in_both_languages() {
    let home = audited();
    let english = ran(home.path(), &VERIFY, 0);
    assert!(english.contains("What this does not prove"), "{english}");
    let found = ["--lang", "fr", "--room-key", "rooms.key", "--room", "conseil", "--room", "autre"];
    let french = ran(home.path(), &[&VERIFY[..], &found].concat(), 0);
    assert!(french.contains("Salle «\u{a0}conseil\u{a0}»"), "{french}");
    assert!(french.contains("Aucun enregistrement"), "{french}");
    // An hour of 3 + 40 and 40 people, without 40 times the silence of 4 min 52 s.
    assert!(french.contains("4\u{202f}785,3 minutes-participants"), "{french}");
    let bundle = fs::read_to_string(home.path().join("bundle")).unwrap();
    assert!(!bundle.contains("conseil"));
}

#[test]
fn what_was_removed_or_altered_is_refused() {
    let home = audited();
    let removed = home.path().join("store").join(RECORDS_DIRECTORY).join(record_file_name(3));
    fs::remove_file(removed).unwrap();
    fs::write(home.path().join("bundle"), ran(home.path(), &["export", "store"], 0)).unwrap();
    let refused = ran(home.path(), &[&VERIFY[..], &["--lang", "fr"]].concat(), 1);
    assert!(refused.contains("\n  Ligne 3\u{a0}: enregistrement 4 à la place du 3"), "{refused}");
}

#[test]
fn a_journal_is_verified_against_the_checkpoint() {
    let home = audited();
    let audit = ["audit", "verify", "audit.jsonl", "--bundle", "bundle", "--key", "key.pub"];
    let sound = ran(home.path(), &audit, 0);
    assert!(sound.contains("3 entries"), "{sound}");
    let path = home.path().join("audit.jsonl");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replace("HC-TICKET-001", "HC-TICKET-002")).unwrap();
    ran(home.path(), &audit[..3], 0);
    let refused = ran(home.path(), &audit, 1);
    assert!(refused.contains("names is not there"), "{refused}");
}

#[test]
fn keys_are_private_and_not_overwritten_and_sign_declarations() {
    let home = audited();
    let mode =
        |name: &str| fs::metadata(home.path().join(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!(["key.pem", "rooms.key"].map(mode), [0o600, 0o600]);
    ran(home.path(), &["keygen", "--private", "key.pem", "--public", "other.pub"], 2);
    assert!(!home.path().join("other.pub").exists());
    let subject = ["--kubernetes-node", "worker-1", "--provider-id", "aws:///a/i-1"];
    let begin = ["declare", "--key", "key.pem", "--scope", "gold", "--days", "30"];
    let line = ran(home.path(), &[&begin[..], &subject].concat(), 0);
    let public = fs::read_to_string(home.path().join("key.pub")).unwrap();
    let key = PublicKey::parse(&public).unwrap();
    let (declaration, by) = Declaration::open(&line, &[key]).unwrap();
    assert_eq!(by, key.key_id());
    let days = declaration.expires_at.since_ms(declaration.issued_at) / 86_400_000;
    assert_eq!((declaration.scope, days), (text("gold"), 30));
}

#[test]
fn bad_usage_is_told_apart_from_a_bad_bundle() {
    let home = audited();
    ran(home.path(), &["verify", "bundle"], 2);
    ran(home.path(), &["verify", "nowhere", "--key", "key.pub"], 2);
    ran(home.path(), &["verify", "bundle", "--key", "key.pem"], 2);
    ran(home.path(), &["verify", "key.pem", "--key", "key.pub"], 1);
}
