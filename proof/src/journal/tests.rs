//! Lines hang together, and nobody's name gets in.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::fixtures::{nine, room, text};

fn event(number: u64) -> Event {
    let fact = |name: &str, fact| (FactName::new(name).unwrap(), fact);
    Event {
        id: EventId::ALL[number as usize % EventId::ALL.len()],
        at: nine().plus_ms(number * 1_000),
        actor: Actor::Operator { replica: text("operator-0"), epoch: 3 },
        object: Object::cluster(ObjectKind::Node, text("worker-1")),
        before: [fact("level", Fact::text("E1")), fact("rooms", Fact::Number(2))].into(),
        after: [fact("withdrawn", Fact::Flag(true))].into(),
    }
}

fn written(events: impl IntoIterator<Item = Event>) -> (Vec<String>, Journal) {
    let (mut journal, mut lines) = (Journal::begin(), Vec::new());
    for event in events {
        let (line, next) = journal.append(event).unwrap();
        lines.push(line + "\n");
        journal = next;
    }
    (lines, journal)
}

#[test]
fn a_journal_is_verified_and_taken_up() {
    let (lines, journal) = written((0..5).map(event));
    let text = lines.concat();
    let verified = verify(text.as_bytes(), Some(journal.head())).unwrap();
    assert_eq!((verified.entries, verified.vouched), (5, Some(5)));
    assert_eq!(verified.span, Some((nine(), nine().plus_ms(4_000))));
    assert!(verified.from_the_beginning);
    let last = lines[4].trim_end().as_bytes();
    assert_eq!(Journal::resume(last).unwrap(), journal);
    assert!(Journal::resume(&last[..last.len() - 1]).is_err());
    let later = verify(lines[2..].concat().as_bytes(), None).unwrap();
    assert!(!later.from_the_beginning);
    assert_eq!(verify(b"", None).unwrap().entries, 0);
}

#[test]
fn the_loss_of_the_end_shows_against_the_checkpoint() {
    let (lines, journal) = written((0..3).map(event));
    let short = lines[..2].concat();
    assert!(verify(short.as_bytes(), None).is_ok());
    let missing = Finding { line: None, flaw: Flaw::AnchorMissing };
    assert_eq!(verify(short.as_bytes(), Some(journal.head())), Err(vec![missing]));
}

#[test]
fn an_entry_of_every_kind_reads_as_written() {
    let actors = [
        Actor::Operator { replica: text("operator-0"), epoch: 1 },
        Actor::KubernetesUser { username: text("system:serviceaccount:kube-system:ccm") },
        Actor::Person { name: Redacted::name("Simone Veil") },
        Actor::KubernetesNode { name: text("worker-1") },
        Actor::MediaNode { name: text("demo-1") },
        Actor::ScopeOwner { key_id: Sha256::of(b"key") },
        Actor::Unknown,
    ];
    let objects = [
        Object::room(room("board")),
        Object::namespaced(ObjectKind::Secret, text("meetings"), text("demo-keys")),
    ];
    let name = FactName::new("room").unwrap();
    for actor in actors {
        for object in &objects {
            let after = [(name.clone(), Fact::Room(RoomObject { room: room("board") }))];
            let (object, actor) = (object.clone(), actor.clone());
            let event = Event { actor, object, after: after.into(), ..event(0) };
            let entry = Entry { event, previous: Sha256::NONE };
            let line = entry.to_line();
            assert_eq!(Entry::parse(line.as_bytes()).unwrap(), entry, "{line}");
            assert!(!line.contains("Veil") && !line.contains("board"), "{line}");
        }
    }
}

#[test]
fn a_name_in_place_of_a_redaction_is_refused() {
    let actor = Actor::Person { name: Redacted };
    let line = Entry { event: Event { actor, ..event(0) }, previous: Sha256::NONE }.to_line();
    assert!(Entry::parse(line.as_bytes()).is_ok());
    assert!(Entry::parse(line.replace("‹redacted›", "Simone Veil").as_bytes()).is_err());
}

#[test]
fn a_line_has_one_spelling() {
    let line = Entry { event: event(0), previous: Sha256::NONE }.to_line();
    assert!(Entry::parse(line.as_bytes()).is_ok());
    for other in [
        format!("{line} "),
        line.replace("\":", "\": "),
        line.replace("operator", "\\u006fperator"),
    ] {
        assert!(Entry::parse(other.as_bytes()).is_err(), "{other}");
    }
}

#[test]
fn ids_are_unique_and_in_order() {
    let ids: Vec<&str> = EventId::ALL.iter().map(|event| event.id()).collect();
    assert!(ids.is_sorted());
    assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), ids.len());
    let json = serde_json::to_string(&EventId::ScopeQualified).unwrap();
    assert_eq!(json, "\"HC-SCOPE-001\"");
}

#[test]
fn a_state_is_bounded() {
    let many = (0..=FACTS_MAX).map(|n| (FactName::new(format!("f{n}")).unwrap(), Fact::Number(0)));
    let event = Event { before: many.collect(), ..event(0) };
    assert!(matches!(Journal::begin().append(event), Err(JournalError::TooManyFacts { .. })));
    assert!(FactName::new("a b").is_err());
}

proptest! {
    #[test]
    fn any_changed_byte_or_lost_line_is_seen(
        count in 2..6_u64, at: prop::sample::Index, mask in 1..=255_u8, lost: prop::sample::Index,
    ) {
        let (lines, journal) = written((0..count).map(event));
        let mut text = lines.concat().into_bytes();
        let at = at.index(text.len());
        text[at] ^= mask;
        prop_assert!(verify(&text, Some(journal.head())).is_err());
        let mut fewer = lines.clone();
        let lost = lost.index(fewer.len());
        fewer.remove(lost);
        let found = verify(fewer.concat().as_bytes(), Some(journal.head()));
        // The loss of the first lines alone is what retention does; it is told, not refused.
        prop_assert!(found.is_err() || (lost == 0 && !found.unwrap().from_the_beginning));
    }
}
