//! A verified audit journal, and what is wrong with one, in words.

use std::fmt::Write as _;

use super::{Lang, heading, number, wrap};
use crate::journal::{Finding, Flaw, Verified};

/// What a journal that hangs together holds, and what that does not prove.
#[must_use]
pub fn journal(lang: Lang, verified: &Verified) -> String {
    let mut page = String::new();
    let entries = number(lang, verified.entries);
    let _ = match lang {
        Lang::English => {
            writeln!(page, "Audit journal: {entries} entries, none altered or missing\n")
        }
        Lang::French => writeln!(
            page,
            "Journal d’audit\u{a0}: {entries} entrées, aucune modifiée ni manquante\n"
        ),
    };
    if let Some((from, to)) = verified.span {
        let _ = match lang {
            Lang::English => writeln!(page, "  From {from} to {to}"),
            Lang::French => writeln!(page, "  Du {from} au {to}"),
        };
    }
    let head = verified.head;
    let _ = match lang {
        Lang::English => writeln!(page, "  Last line: {head}"),
        Lang::French => writeln!(page, "  Dernière ligne\u{a0}: {head}"),
    };
    heading(&mut page, lang.say("What this does not prove", "Ce que cela ne prouve pas"));
    page.push('\n');
    if !verified.from_the_beginning {
        let beginning = lang.say(
            "Anything before the first line: earlier files are not here.",
            "Quoi que ce soit avant la première ligne\u{a0}: les fichiers antérieurs manquent.",
        );
        wrap(&mut page, "  – ", beginning);
    }
    wrap(&mut page, "  – ", &unsigned(lang, verified));
    page
}

fn unsigned(lang: Lang, verified: &Verified) -> String {
    let vouched = verified.vouched.map(|entries| number(lang, entries));
    match (lang, vouched) {
        (Lang::English, None) => "That it is the journal that was written: its lines are linked, \
                                  not signed. Give --bundle and --key, and a signed checkpoint \
                                  vouches for it."
            .to_owned(),
        (Lang::French, None) => "Qu’il s’agit du journal d’origine\u{a0}: ses lignes sont \
                                 chaînées, non signées. Donnez --bundle et --key\u{a0}: un point \
                                 de contrôle signé s’en portera garant."
            .to_owned(),
        (Lang::English, Some(vouched)) => format!(
            "Anything about lines after number {vouched}: up to there the signed checkpoint \
             vouches for them."
        ),
        (Lang::French, Some(vouched)) => format!(
            "Quoi que ce soit sur les lignes après la {vouched}\u{a0}: jusque-là, le point de \
             contrôle signé s’en porte garant."
        ),
    }
}

/// A line for each thing that is wrong with a journal.
#[must_use]
pub fn journal_findings(lang: Lang, findings: &[Finding]) -> String {
    let title = lang.say(
        "Refused: this is not the journal as it was written",
        "Refusé\u{a0}: ce n’est pas le journal tel qu’il a été écrit",
    );
    let mut page = format!("{title}\n\n");
    for finding in findings {
        let place = match (lang, finding.line) {
            (Lang::English, None) => "Journal: ".to_owned(),
            (Lang::French, None) => "Journal\u{a0}: ".to_owned(),
            (Lang::English, Some(line)) => format!("Line {line}: "),
            (Lang::French, Some(line)) => format!("Ligne {line}\u{a0}: "),
        };
        let _ = writeln!(page, "  {place}{}", sentence(lang, finding.flaw));
    }
    page
}

const fn sentence(lang: Lang, flaw: Flaw) -> &'static str {
    match flaw {
        Flaw::CutShort => lang.say(
            "it does not end with a line feed; its end was cut off or altered",
            "ne se termine pas par un saut de ligne\u{202f}; la fin a été coupée ou modifiée",
        ),
        Flaw::Unreadable => lang.say(
            "this is not an entry as they are written; it was altered or written in part",
            "ceci n’est pas une entrée telle qu’elle est écrite\u{202f}; elle a été modifiée, ou \
             écrite en partie",
        ),
        Flaw::Previous => lang.say(
            "it does not follow on the line before it, which was altered, put in or moved",
            "elle ne fait pas suite à la ligne précédente, qui a été modifiée, insérée ou déplacée",
        ),
        Flaw::AnchorMissing => lang.say(
            "the line that the signed checkpoint names is not there; the end was removed or \
             altered",
            "la ligne que nomme le point de contrôle signé est absente\u{202f}; la fin a été \
             retirée ou modifiée",
        ),
    }
}
