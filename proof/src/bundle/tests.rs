//! No change to a bundle goes unseen: bytes, lines, ends, forks; and what it says is judged.

use std::sync::LazyLock;

use proptest::prelude::*;

use super::*;
use crate::chain::{Chain, ChainError};
use crate::fixtures::{TENANT, join, lines, nine, observed, room, text};
use crate::key::SigningKey;
use crate::key::tests::key;
use crate::statement::Link;

const TEN_MINUTES: u64 = 600_000;

fn sound() -> Vec<String> {
    let all = (0..4).map(|n| observed(&format!("pod-{}", n % 2), n * TEN_MINUTES)).collect();
    lines(all, &key(1))
}

static BUNDLE: LazyLock<Vec<u8>> = LazyLock::new(|| join(&sound()));

fn verified(bytes: &[u8]) -> Result<Account, Refused> {
    verify(bytes, &key(1).public_key())
}

fn flaws(lines: &[String]) -> Vec<(Place, Flaw)> {
    let refused = verified(&join(lines)).unwrap_err();
    refused.findings.into_iter().map(|finding| (finding.place, finding.flaw)).collect()
}

fn of(all: Vec<Observed>) -> Result<Account, Refused> {
    verified(&join(&lines(all, &key(1))))
}

#[test]
fn a_sound_bundle_gives_its_account() {
    let account = verified(&BUNDLE).unwrap();
    assert_eq!(account.checkpoint.records, 4);
    assert_eq!(account.participant_ms(), 4 * TEN_MINUTES);
    assert_eq!(account.rows.len(), 1);
    assert_eq!(account.rooms[&room("board")].len(), 4);
    assert_eq!((account.silences.len(), account.silent_ms), (2, 2 * TEN_MINUTES));
}

#[test]
fn any_changed_byte_is_seen() {
    let mut bundle = join(&lines(vec![observed("a", 0), observed("b", 0)], &key(1)));
    for at in 0..bundle.len() {
        bundle[at] ^= 1;
        assert!(verified(&bundle).is_err(), "byte {at}");
        bundle[at] ^= 1;
    }
    assert!(verified(&bundle).is_ok());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn any_change_of_any_byte_is_seen(at in 0..BUNDLE.len(), mask in 1..=255_u8) {
        let mut bundle = BUNDLE.clone();
        bundle[at] ^= mask;
        prop_assert!(verified(&bundle).is_err());
    }

    #[test]
    fn any_cut_insertion_or_removal_is_seen(at in 0..BUNDLE.len(), byte: u8) {
        prop_assert!(verified(&BUNDLE[..at]).is_err());
        prop_assert!(verified(&BUNDLE[at + 1..]).is_err());
        let mut longer = BUNDLE.clone();
        longer.insert(at, byte);
        prop_assert!(verified(&longer).is_err());
        longer.remove(at);
        longer.remove(at);
        // Two equal neighbours: the removal of one is the removal of the other.
        prop_assert!(verified(&longer).is_err());
    }
}

#[test]
fn lines_removed_moved_or_doubled_are_seen() {
    let sound = sound();
    let last = sound.len() - 1;
    for at in 0..=last {
        let mut removed = sound.clone();
        removed.remove(at);
        assert!(!flaws(&removed).is_empty(), "removed {at}");
        let mut doubled = sound.clone();
        doubled.insert(at, sound[at].clone());
        assert!(!flaws(&doubled).is_empty(), "doubled {at}");
        for other in 0..at {
            let mut swapped = sound.clone();
            swapped.swap(at, other);
            assert!(!flaws(&swapped).is_empty(), "swapped {at} and {other}");
        }
    }
    assert!(verified(b"").is_err());
    assert!(verified(b"\n").is_err());
}

#[test]
fn the_loss_of_the_last_records_is_named() {
    let mut short = sound();
    short.remove(3);
    let found = flaws(&short);
    assert_eq!(found[0], (Place::Line(4), Flaw::Count { counted: 4, found: 3 }));
    assert_eq!(found[1], (Place::Line(4), Flaw::Head));
}

#[test]
fn a_record_of_another_key_or_chain_is_named() {
    let mut mixed = sound();
    mixed[1] = lines(vec![observed("pod-1", 0)], &key(2)).remove(0);
    let foreign = Flaw::ForeignKey(key(2).public_key().key_id());
    assert_eq!(flaws(&mixed)[..2], [(Place::Line(2), foreign), (Place::Line(3), Flaw::Previous)]);
    let mut other = observed("pod-9", 0);
    other.tenant = text("other/demo");
    let (line, _) = Chain::begin(text("other/demo")).append(other, 3, &key(1)).unwrap();
    mixed[0] = line;
    assert!(flaws(&mixed).contains(&(Place::Line(1), Flaw::Tenant(text("other/demo")))));
}

#[test]
fn a_leader_that_was_fenced_out_cannot_fork_the_chain_unseen() {
    let key: &SigningKey = &key(1);
    let start = Chain::begin(text(TENANT));
    let (first, old) = start.append(observed("a", 0), 3, key).unwrap();
    let (by_new, new) = old.append(observed("a", TEN_MINUTES), 4, key).unwrap();
    // The old leader writes on, from where it stood.
    let (by_old, old) = old.append(observed("b", TEN_MINUTES), 3, key).unwrap();
    let end = new.checkpoint(4, nine(), None, key).unwrap();
    let old_end = old.checkpoint(3, nine(), None, key).unwrap();
    for forked in [
        vec![&first, &by_new, &by_old, &end],
        vec![&first, &by_old, &by_new, &end],
        vec![&first, &by_old, &end],
        vec![&first, &by_new, &by_old, &old_end],
    ] {
        let forked: Vec<String> = forked.into_iter().cloned().collect();
        assert!(!flaws(&forked).is_empty());
    }
    assert!(matches!(
        new.append(observed("b", TEN_MINUTES), 3, key),
        Err(ChainError::Fenced { found: 4, mine: 3 })
    ));
}

#[test]
fn a_record_of_a_lower_epoch_is_named_though_it_is_linked_well() {
    let key = &key(1);
    let (first, chain) = Chain::begin(text(TENANT)).append(observed("a", 0), 4, key).unwrap();
    let observed = observed("a", TEN_MINUTES);
    let latest = observed.interval.to;
    let previous = Sha256::of(first.as_bytes());
    let link = Link { epoch: 3, sequence: 2, previous, latest };
    let second = Placement { observed, chain: link }.seal(key).unwrap().to_line();
    let end = Checkpoint {
        tenant: text(TENANT),
        first: 1,
        sequence: 2,
        records: 2,
        head: Sha256::of(second.as_bytes()),
        epoch: 4,
        written_at: nine(),
        journal: None,
    };
    let end = end.seal(key).unwrap().to_line();
    let went_back = Flaw::EpochWentBack { before: 4, found: 3 };
    assert_eq!(flaws(&[first, second, end]), [(Place::Line(2), went_back)]);
    assert_eq!(chain.sequence(), 1);
}

#[test]
fn a_chain_is_taken_up_where_it_ended_and_misses_its_tail() {
    let all = sound();
    let public = key(1).public_key();
    let resume = |last: usize, checkpoint: Option<usize>| {
        let checkpoint = checkpoint.map(|at| all[at].as_bytes());
        Chain::resume(text(TENANT), Some(all[last].as_bytes()), checkpoint, &public)
    };
    let chain = resume(3, Some(4)).unwrap();
    assert_eq!((chain.sequence(), chain.latest()), (4, nine().plus_ms(4 * TEN_MINUTES)));
    let (line, next) = chain.append(observed("pod-0", 4 * TEN_MINUTES), 4, &key(1)).unwrap();
    let end = next.checkpoint(4, nine(), None, &key(1)).unwrap();
    let longer = [&all[..4], &[line, end]].concat();
    assert!(verified(&join(&longer)).is_ok());
    assert!(matches!(resume(2, Some(4)), Err(ChainError::TailMissing { counted: 4, found: 3 })));
    assert!(resume(2, None).is_ok());
    assert!(resume(0, Some(0)).is_err());
}

#[test]
fn retention_leaves_a_bundle_that_says_where_it_begins() {
    let all = sound();
    let (last, end) = (all[3].as_bytes(), all[4].as_bytes());
    let chain = Chain::resume(text(TENANT), Some(last), Some(end), &key(1).public_key()).unwrap();
    let kept = chain.keep_from(3).unwrap();
    let end = kept.checkpoint(3, nine(), None, &key(1)).unwrap();
    let bundle = [&all[2..4], &[end]].concat();
    assert_eq!(verified(&join(&bundle)).unwrap().checkpoint.first, 3);
    assert!(kept.keep_from(2).is_err());
    let none = kept.keep_from(5).unwrap();
    let end = none.checkpoint(3, nine(), None, &key(1)).unwrap();
    assert_eq!(verified(format!("{end}\n").as_bytes()).unwrap().checkpoint.records, 0);
    let public = key(1).public_key();
    let again = Chain::resume(text(TENANT), None, Some(end.as_bytes()), &public).unwrap();
    let (line, _) = again.append(observed("p", 0), 3, &key(1)).unwrap();
    assert!(line.len() > 1 && again.sequence() == 4);
    assert!(!flaws(&all[2..]).is_empty());
}

#[test]
fn what_an_intact_bundle_says_is_judged() {
    let breached = |change: fn(&mut Observed)| {
        let mut record = observed("p", 0);
        change(&mut record);
        let refused = of(vec![record]).unwrap_err();
        assert!(refused.account.is_some(), "it is intact");
        match &refused.findings[0].flaw {
            Flaw::Breach(breach) => breach.clone(),
            flaw => panic!("{flaw:?}"),
        }
    };
    assert_eq!(breached(|record| record.ticket = None), Breach::NoTicket);
    assert!(matches!(
        breached(|record| record.ticket.as_mut().unwrap().to = nine().plus_ms(1)),
        Breach::OutsideTicket { .. }
    ));
    assert!(matches!(
        breached(|record| record.facts.scope.expires = nine().plus_ms(1)),
        Breach::AfterExpiry { .. }
    ));
    assert!(matches!(
        breached(|record| record.violations = 1),
        Breach::Violations { count: 1, .. }
    ));
    let twice = of(vec![observed("p", 0), observed("p", TEN_MINUTES - 1)]).unwrap_err();
    assert!(twice.account.is_none());
    assert_eq!(twice.findings[0].flaw, Flaw::Overlap { pod: text("p") });
}

#[test]
fn a_statement_that_contradicts_itself_is_not_signed() {
    let refused = |change: fn(&mut Observed)| {
        let mut record = observed("p", 0);
        change(&mut record);
        assert!(Chain::begin(text(TENANT)).append(record, 1, &key(1)).is_err());
    };
    refused(|record| record.interval.to = record.interval.from);
    refused(|record| record.interval.to = record.interval.from.plus_ms(16 * 3_600_000));
    refused(|record| record.participant_ms += 1);
    refused(|record| record.rooms.push(record.rooms[0]));
    refused(|record| record.unobserved_ms = 1);
    refused(|record| record.silences = vec![Span::new(nine(), nine().plus_ms(700_000))]);
    refused(|record| record.facts.evidence = vec![record.facts.evidence[0].clone(); 17]);
}
