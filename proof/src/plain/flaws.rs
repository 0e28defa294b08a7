//! Each flaw in a sentence: what is wrong, and what that means.

use super::{Lang, interval};
use crate::finding::{Breach, Finding, Flaw, Place};

pub(super) fn sentence(lang: Lang, finding: &Finding) -> String {
    let place = match (lang, finding.place) {
        (Lang::English, Place::Bundle) => "Bundle: ".to_owned(),
        (Lang::French, Place::Bundle) => "Dossier\u{a0}: ".to_owned(),
        (Lang::English, Place::Line(line)) => format!("Line {line}: "),
        (Lang::French, Place::Line(line)) => format!("Ligne {line}\u{a0}: "),
    };
    let what = match lang {
        Lang::English => english(&finding.flaw),
        Lang::French => french(&finding.flaw),
    };
    place + &what
}

fn english(flaw: &Flaw) -> String {
    match flaw {
        Flaw::TooLong => "it is longer than any that is verified; export a shorter time".into(),
        Flaw::CutShort => "it does not end with a line feed; its end was cut off or altered".into(),
        Flaw::Unreadable => "this is not an envelope as they are written; it was altered".into(),
        Flaw::Altered => "the signature does not fit; the record was altered after signing".into(),
        Flaw::ForeignKey(key_id) => {
            format!("signed with another key, {key_id}; it was put in, or the wrong key was given")
        }
        Flaw::NotARecord => "signed, and not a record; it does not belong here".into(),
        Flaw::NoCheckpoint => "the last line is no checkpoint; the end was removed".into(),
        Flaw::Malformed => "signed content of an unknown form; another version wrote it".into(),
        Flaw::Unsound(what) => format!("signed, and contradicts itself: {}", what.english()),
        Flaw::Sequence { expected, found } => {
            format!("this is record {found} where {expected} belongs; records are missing or moved")
        }
        Flaw::Previous => "it does not follow on the line before it, which was altered, put in or \
                           moved"
            .into(),
        Flaw::EpochWentBack { before, found } => format!(
            "a leader of epoch {found} wrote after one of epoch {before}; it had been replaced and \
             forked the chain"
        ),
        Flaw::Tenant(tenant) => format!("the record belongs to {tenant}; two chains were mixed"),
        Flaw::Latest => "its latest end of all intervals is not that of the records before".into(),
        Flaw::Overlap { pod } => {
            format!("pod {pod} is counted twice for the same time; the minutes are not right")
        }
        Flaw::Count { counted, found } => format!(
            "the checkpoint counts {counted} records and {found} are there; records were removed \
             or added"
        ),
        Flaw::Head => "the last record is not the one that the checkpoint names; the end was \
                       removed or replaced"
            .into(),
        Flaw::Breach(breach) => breach_english(breach),
    }
}

fn breach_english(breach: &Breach) -> String {
    match breach {
        Breach::NoTicket => "the pod held no ticket; nothing says that it was in the scope".into(),
        Breach::OutsideTicket { ticket, interval: span } => format!(
            "the pod ran ({}) outside the time of its tickets ({})",
            interval(Lang::English, *span),
            interval(Lang::English, *ticket)
        ),
        Breach::AfterExpiry { scope, expires, interval: span } => format!(
            "the attestation of scope {scope} ended at {expires} and the pod went on ({})",
            interval(Lang::English, *span)
        ),
        Breach::Violations { count, interval: span } => format!(
            "{count} violation(s) of the scope open ({}); the operator saw them itself",
            interval(Lang::English, *span)
        ),
    }
}

fn french(flaw: &Flaw) -> String {
    match flaw {
        Flaw::TooLong => {
            "trop long pour être vérifié\u{202f}; exportez une période plus courte".into()
        }
        Flaw::CutShort => {
            "ne se termine pas par un saut de ligne\u{202f}; la fin a été coupée ou modifiée".into()
        }
        Flaw::Unreadable => {
            "ceci n’est pas une enveloppe telle qu’elle est écrite\u{202f}; elle a été modifiée"
                .into()
        }
        Flaw::Altered => "la signature ne correspond pas\u{202f}; l’enregistrement a été modifié \
                          après signature"
            .into(),
        Flaw::ForeignKey(key_id) => format!(
            "signée avec une autre clé, {key_id}\u{202f}; elle a été insérée, ou la clé fournie \
             n’est pas la bonne"
        ),
        Flaw::NotARecord => {
            "signée, mais n’est pas un enregistrement\u{202f}; elle n’a rien à faire ici".into()
        }
        Flaw::NoCheckpoint => {
            "la dernière ligne n’est pas un point de contrôle\u{202f}; la fin a été retirée".into()
        }
        Flaw::Malformed => {
            "contenu signé de forme inconnue\u{202f}; une autre version l’a écrit".into()
        }
        Flaw::Unsound(what) => format!("signée, mais se contredit\u{a0}: {}", what.french()),
        Flaw::Sequence { expected, found } => format!(
            "enregistrement {found} à la place du {expected}\u{202f}; des enregistrements manquent \
             ou ont été déplacés"
        ),
        Flaw::Previous => "elle ne fait pas suite à la ligne précédente, qui a été modifiée, \
                           insérée ou déplacée"
            .into(),
        Flaw::EpochWentBack { before, found } => format!(
            "un meneur d’époque {found} a écrit après celui d’époque {before}\u{202f}; il avait \
             été remplacé et a fait bifurquer la chaîne"
        ),
        Flaw::Tenant(tenant) => format!(
            "l’enregistrement appartient à {tenant}\u{202f}; deux chaînes ont été mélangées"
        ),
        Flaw::Latest => {
            "la dernière fin d’intervalle annoncée n’est pas celle des enregistrements \
                         précédents"
                .into()
        }
        Flaw::Overlap { pod } => format!(
            "le pod {pod} est compté deux fois pour le même temps\u{202f}; les minutes sont fausses"
        ),
        Flaw::Count { counted, found } => format!(
            "le point de contrôle compte {counted} enregistrements, il y en a {found}\u{202f}; des \
             enregistrements ont été retirés ou ajoutés"
        ),
        Flaw::Head => "le dernier enregistrement n’est pas celui que nomme le point de \
                       contrôle\u{202f}; la fin a été retirée ou remplacée"
            .into(),
        Flaw::Breach(breach) => breach_french(breach),
    }
}

fn breach_french(breach: &Breach) -> String {
    match breach {
        Breach::NoTicket => {
            "le pod ne détenait aucun ticket\u{202f}; rien ne dit qu’il était dans le \
                           périmètre"
                .into()
        }
        Breach::OutsideTicket { ticket, interval: span } => format!(
            "le pod a fonctionné ({}) hors de la validité de ses tickets ({})",
            interval(Lang::French, *span),
            interval(Lang::French, *ticket)
        ),
        Breach::AfterExpiry { scope, expires, interval: span } => format!(
            "l’attestation du périmètre {scope} a pris fin à {expires} et le pod a continué ({})",
            interval(Lang::French, *span)
        ),
        Breach::Violations { count, interval: span } => format!(
            "{count} violation(s) du périmètre ouverte(s) ({})\u{202f}; l’opérateur les a lui-même \
             constatées",
            interval(Lang::French, *span)
        ),
    }
}
