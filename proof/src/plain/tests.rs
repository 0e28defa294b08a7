//! The words as a reader meets them: both languages whole, their typography, their limits.

use super::*;
use crate::bundle::verify;
use crate::fixtures::{join, lines, observed};
use crate::key::tests::key;

fn sound() -> Account {
    let all = vec![observed("a", 0), observed("a", 1_200_000)];
    verify(&join(&lines(all, &key(1))), &key(1).public_key()).unwrap()
}

fn refused() -> Refused {
    let mut all = lines(vec![observed("a", 0), observed("b", 0)], &key(1));
    all.remove(1);
    verify(&join(&all), &key(1).public_key()).unwrap_err()
}

#[test]
fn an_account_says_what_it_proves_and_what_it_does_not() {
    let english = account(Lang::English, &sound());
    for words in
        ["What this proves", "20.0", "EX-2026-1", "does not prove", "attestation is genuine"]
    {
        assert!(english.contains(words), "{words}:\n{english}");
    }
    assert!(english.contains("2026-11-28, 09:10:00 to 09:20:00  demo-1  (10\u{a0}min)"));
    let french = account(Lang::French, &sound());
    for words in ["Ce que cela prouve", "20,0", "ne prouve pas", "09:10:00 à 09:20:00"] {
        assert!(french.contains(words), "{words}:\n{french}");
    }
}

#[test]
fn a_refusal_has_a_line_for_each_finding() {
    let english = refusal(Lang::English, &refused());
    assert!(english.contains("\n  Line 2: the checkpoint counts 2 records and 1 are there"));
    assert!(refusal(Lang::French, &refused()).contains("\n  Ligne 2\u{a0}: le point de contrôle"));
}

#[test]
fn french_is_set_as_the_french_do() {
    let page = account(Lang::French, &sound()) + &refusal(Lang::French, &refused());
    assert!(!page.contains('\''), "a straight apostrophe");
    for sign in [" :", " ;", " !", " ?"] {
        assert!(!page.contains(sign), "a breaking space before{sign}");
    }
    assert_eq!(number(Lang::French, 1_234_567), "1\u{202f}234\u{202f}567");
    assert_eq!(minutes(Lang::English, 74_070_000), "1,234.5");
}

#[test]
fn running_text_stays_in_its_columns() {
    for page in [account(Lang::English, &sound()), account(Lang::French, &sound())] {
        assert!(page.lines().all(|line| line.chars().count() <= COLUMNS), "{page}");
    }
}

#[test]
fn a_room_is_found_by_its_owner() {
    let hash = crate::fixtures::room("board");
    let page = room(Lang::French, "board", &sound().rooms[&hash]);
    assert!(page.contains("Salle «\u{a0}board\u{a0}»") && page.contains("worker-1"));
    assert!(room(Lang::English, "\u{1b}[2J", &[]).contains("No record"));
}
