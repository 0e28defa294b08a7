//! What a bundle does not prove: honest limits, and the silences one by one.
//!
//! Decides which limits an account has. Invariant: those that every bundle has always stand there.

use std::fmt::Write as _;

use super::{Lang, duration, heading, interval, level, number, wrap};
use crate::account::Account;
use crate::statement::Level;

/// What every bundle leaves open.
const ALWAYS: [(&str, &str); 5] = [
    (
        "That the key was held by the right hands. Whoever holds it, such as an administrator of \
         the cluster or an owner of the machines under it, could have signed other records.",
        "Que la clé était en de bonnes mains. Quiconque la détient, par exemple un administrateur \
         du cluster ou un propriétaire des machines sous-jacentes, aurait pu signer d’autres \
         enregistrements.",
    ),
    (
        "That the provider's attestation is genuine or still in force. Compare its number and its \
         date with the list that the authority publishes.",
        "Que l’attestation du fournisseur est authentique ou toujours en vigueur. Comparez son \
         numéro et sa date à la liste que publie l’autorité.",
    ),
    (
        "That contents were encrypted, or who listened. The bundle speaks of places and times \
         alone.",
        "Que les contenus étaient chiffrés, ni qui écoutait. Le dossier ne parle que de lieux et \
         d’heures.",
    ),
    (
        "That the times are right: they are those of the operator's clock.",
        "Que les heures sont exactes\u{a0}: ce sont celles de l’horloge de l’opérateur.",
    ),
    (
        "Anything after the checkpoint. An older checkpoint with the older end of the chain reads \
         as well as this one: look at when it was written.",
        "Quoi que ce soit après le point de contrôle. Un point de contrôle plus ancien, avec la \
         fin de chaîne d’alors, se lit tout aussi bien\u{a0}: vérifiez sa date.",
    ),
];

pub(super) fn write(page: &mut String, lang: Lang, account: &Account) {
    heading(page, lang.say("What this does not prove", "Ce que cela ne prouve pas"));
    page.push('\n');
    for (english, french) in ALWAYS {
        wrap(page, "  – ", lang.say(english, french));
    }
    if !account.rows.is_empty() {
        wrap(page, "  – ", &evidence(lang, account.weakest_evidence()));
    }
    if account.checkpoint.first > 1 {
        wrap(page, "  – ", &beginning(lang, account.checkpoint.first));
    }
    if account.rooms_omitted() {
        let omitted = lang.say(
            "Which rooms ran where a count is marked with +: not all of them are listed. Their \
             participant-minutes are counted.",
            "Quelles salles se sont tenues là où un nombre porte un +\u{a0}: toutes n’y sont pas \
             énumérées. Leurs minutes-participants sont comptées.",
        );
        wrap(page, "  – ", omitted);
    }
    silences(page, lang, account);
}

fn evidence(lang: Lang, weakest: Option<Level>) -> String {
    let name = level(lang, weakest);
    let english = match weakest {
        None => "for some of the time there was no evidence at all",
        Some(Level::E0) => "a label in Kubernetes alone, which whoever may write labels can set",
        Some(Level::E1) => "a cross-check with what the provider's id of the machine says",
        Some(Level::E2) => "a signed statement about the machine, or the provider's own answer",
    };
    let french = match weakest {
        None => "pendant une partie du temps, il n’y en avait aucun",
        Some(Level::E0) => {
            "une simple étiquette dans Kubernetes, que peut poser quiconque a le droit d’en écrire"
        }
        Some(Level::E1) => {
            "un recoupement avec ce que dit l’identifiant de la machine chez le fournisseur"
        }
        Some(Level::E2) => "une déclaration signée sur la machine, ou la réponse du fournisseur",
    };
    match lang {
        Lang::English => format!(
            "That the machines stand where the scope says, beyond the evidence that was seen. The \
             weakest is {name}: {english}."
        ),
        Lang::French => format!(
            "Que les machines se trouvent là où le dit le périmètre, au-delà des éléments \
             constatés. Le niveau le plus faible est {name}\u{a0}: {french}."
        ),
    }
}

fn beginning(lang: Lang, first: u64) -> String {
    match lang {
        Lang::English => format!(
            "Anything before record {first}: earlier ones were deleted at the end of their \
             retention, as the signed checkpoint says."
        ),
        Lang::French => format!(
            "Quoi que ce soit avant l’enregistrement {first}\u{a0}: les précédents ont été \
             supprimés au terme de leur conservation, comme le dit le point de contrôle signé."
        ),
    }
}

fn silences(page: &mut String, lang: Lang, account: &Account) {
    let count = account.silences.len() as u64 + account.silences_omitted;
    if count == 0 {
        return;
    }
    let (shown, all) = (number(lang, count), duration(account.silent_ms));
    let text = match lang {
        Lang::English => format!(
            "Anything about the intervals in which a media node was not observed, which count for \
             no participant. Intervals: {shown}, together {all}."
        ),
        Lang::French => format!(
            "Quoi que ce soit sur les intervalles pendant lesquels un nœud média n’a pas été \
             observé, et qui ne comptent pour aucun participant. Intervalles\u{a0}: {shown}, en \
             tout {all}."
        ),
    };
    wrap(page, "  – ", &text);
    heading(page, lang.say("Silent intervals (UTC)", "Intervalles sans observation (UTC)"));
    page.push('\n');
    for silence in &account.silences {
        let (media_node, span) = (&silence.media_node, silence.span);
        let length = duration(span.ms());
        let _ = writeln!(page, "  {}  {media_node}  ({length})", interval(lang, span));
    }
    if account.silences_omitted > 0 {
        let more = number(lang, account.silences_omitted);
        let _ = match lang {
            Lang::English => writeln!(page, "  … and {more} that are not listed"),
            Lang::French => writeln!(page, "  … et {more} non énumérés"),
        };
    }
}
