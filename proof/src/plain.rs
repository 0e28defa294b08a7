//! A verified bundle, and what is wrong with one, in plain French or English.
//!
//! Decides words and layout alone. Invariant: every account says what it does not prove; nothing
//! printed holds a control character, since names are [`Text`].

mod audit;
mod flaws;
mod limits;

use std::fmt::Write as _;

pub use audit::{journal, journal_findings};

use crate::account::{Account, Row, RowKey, Stay};
use crate::bundle::Refused;
use crate::finding::Finding;
use crate::moment::Span;
use crate::statement::{Level, ScopeFacts};
use crate::text::Text;

/// Widest line of running text, in characters.
const COLUMNS: usize = 92;

/// A language that verdicts are written in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Lang {
    /// English.
    #[default]
    English,
    /// French.
    French,
}

impl Lang {
    /// One of two texts.
    const fn say<'t>(self, english: &'t str, french: &'t str) -> &'t str {
        match self {
            Self::English => english,
            Self::French => french,
        }
    }
}

/// What a sound bundle proves and what it does not.
#[must_use]
pub fn account(lang: Lang, account: &Account) -> String {
    let mut page = head(lang, account);
    heading(&mut page, lang.say("What this proves", "Ce que cela prouve"));
    if !account.rows.is_empty() {
        paragraph(&mut page, &proven(lang, &account.checkpoint.tenant));
    }
    tables(&mut page, lang, account);
    limits::write(&mut page, lang, account);
    page
}

fn proven(lang: Lang, tenant: &Text) -> String {
    match lang {
        Lang::English => format!(
            "The holder of this key saw and signed that the meetings of {tenant} ran where and \
                 when the tables below say. Since then no record was altered, removed, added or \
                 moved. All of it lies within the tickets of the pods and the attestation of the \
                 scope, and no violation was open."
        ),
        Lang::French => format!(
            "Le détenteur de cette clé a constaté et signé que les réunions de {tenant} se sont \
                 tenues aux lieux et aux heures indiqués ci-dessous. Depuis, aucun enregistrement \
                 n’a été modifié, retiré, ajouté ni déplacé. Tout se situe dans la validité des \
                 tickets des pods et de l’attestation du périmètre, et aucune violation n’était \
                 ouverte."
        ),
    }
}

/// Why a bundle is refused, a line for each finding; and its account when it is intact.
#[must_use]
pub fn refusal(lang: Lang, refused: &Refused) -> String {
    let mut page = String::new();
    if let Some(account) = &refused.account {
        page.push_str(&head(lang, account));
        heading(&mut page, lang.say("What it says", "Ce qu’il dit"));
        tables(&mut page, lang, account);
        limits::write(&mut page, lang, account);
        let title = lang.say(
            "Not in order: intact, and these intervals are not proven",
            "Non conforme\u{a0}: intact, mais ces intervalles ne sont pas prouvés",
        );
        heading(&mut page, title);
    } else {
        let title = lang
            .say("Refused: this bundle proves nothing", "Refusé\u{a0}: ce dossier ne prouve rien");
        let _ = writeln!(page, "{title}\n");
    }
    for found in &refused.findings {
        let _ = writeln!(page, "  {}", finding(lang, found));
    }
    if refused.omitted > 0 {
        let more = number(lang, refused.omitted);
        let _ = match lang {
            Lang::English => writeln!(page, "  … and {more} more"),
            Lang::French => writeln!(page, "  … et {more} de plus"),
        };
    }
    page
}

/// What is wrong, where, and what that means, on one line.
#[must_use]
pub fn finding(lang: Lang, finding: &Finding) -> String {
    flaws::sentence(lang, finding)
}

/// Where the room `name` was; only its owner, who has the key, can ask.
#[must_use]
pub fn room(lang: Lang, name: &str, stays: &[Stay]) -> String {
    let name = Text::lossy(name);
    let mut page = String::new();
    let title = match lang {
        Lang::English => format!("Room “{name}”"),
        Lang::French => format!("Salle «\u{a0}{name}\u{a0}»"),
    };
    heading(&mut page, &title);
    if stays.is_empty() {
        let none = lang.say(
            "No record of this bundle lists it.",
            "Aucun enregistrement de ce dossier ne la mentionne.",
        );
        paragraph(&mut page, none);
        return page;
    }
    let mut rows = vec![row([
        lang.say("Interval (UTC)", "Intervalle (UTC)"),
        lang.say("Scope", "Périmètre"),
        lang.say("Media node", "Nœud média"),
        lang.say("Kubernetes node", "Nœud Kubernetes"),
        lang.say("Participant-minutes", "Minutes-participants"),
    ])];
    for stay in stays {
        rows.push(row([
            &interval(lang, stay.interval),
            stay.scope.as_str(),
            stay.media_node.as_str(),
            stay.kubernetes_node.as_str(),
            &minutes(lang, stay.participant_ms),
        ]));
    }
    table(&mut page, &rows, 4);
    page
}

fn head(lang: Lang, account: &Account) -> String {
    let checkpoint = &account.checkpoint;
    let mut page = String::new();
    let tenant = &checkpoint.tenant;
    let records = number(lang, checkpoint.records);
    let (first, last) = (checkpoint.first, checkpoint.sequence);
    let (key, written) = (account.key_id, checkpoint.written_at);
    let _ = match lang {
        Lang::English => writeln!(
            page,
            "Proof of placement: {tenant}\n\n\
             \x20 Key         {key}\n\
             \x20 Records     {records}, numbered {first} to {last}\n\
             \x20 Checkpoint  {written}"
        ),
        Lang::French => writeln!(
            page,
            "Preuve de placement\u{a0}: {tenant}\n\n\
             \x20 Clé                {key}\n\
             \x20 Enregistrements    {records}, numérotés de {first} à {last}\n\
             \x20 Point de contrôle  {written}"
        ),
    };
    page
}

fn tables(page: &mut String, lang: Lang, account: &Account) {
    if account.rows.is_empty() {
        let none = lang.say(
            "There is no record: nothing is proven.",
            "Il n’y a aucun enregistrement\u{a0}: rien n’est prouvé.",
        );
        paragraph(page, none);
    }
    let mut names: Vec<&Text> = account.scopes.iter().map(|scope| &scope.name).collect();
    names.dedup();
    for name in names {
        for facts in account.scopes.iter().filter(|facts| facts.name == *name) {
            paragraph(page, &scope(lang, facts));
        }
        let of_scope = account.rows.iter().filter(|(key, _)| key.scope == *name);
        scope_table(page, lang, of_scope);
    }
    images(page, lang, account);
    if account.rows.len() > 1 {
        let minutes = minutes(lang, account.participant_ms());
        let rooms = number(lang, account.rooms.len() as u64);
        let total = match lang {
            Lang::English => format!("In all: {minutes} participant-minutes, {rooms} rooms."),
            Lang::French => {
                format!("Au total\u{a0}: {minutes} minutes-participants, {rooms} salles.")
            }
        };
        paragraph(page, &total);
    }
}

fn scope(lang: Lang, facts: &ScopeFacts) -> String {
    let ScopeFacts { name, provider, service, referential, attestation_id: id, .. } = facts;
    let expires = facts.expires.day();
    let document = match facts.attestation_sha256 {
        Some(sha256) => format!(" (sha256:{sha256})"),
        None => String::new(),
    };
    match lang {
        Lang::English => format!(
            "Scope {name}: {provider}, {service}; {referential}, attestation {id}{document}, ends \
             on {expires}"
        ),
        Lang::French => format!(
            "Périmètre {name}\u{a0}: {provider}, {service}\u{202f}; {referential}, attestation \
             {id}{document}, échéance le {expires}"
        ),
    }
}

/// What the pods ran, so that it can be compared with what was released.
fn images(page: &mut String, lang: Lang, account: &Account) {
    for image in &account.images {
        let digest = match image.sha256 {
            Some(sha256) => format!("sha256:{sha256}"),
            None => lang.say("digest unknown", "empreinte inconnue").to_owned(),
        };
        let reference = &image.reference;
        paragraph(page, &format!("Image {reference}{} {digest}", lang.say(":", "\u{a0}:")));
    }
}

fn scope_table<'a>(
    page: &mut String,
    lang: Lang,
    of_scope: impl Iterator<Item = (&'a RowKey, &'a Row)>,
) {
    let mut rows = vec![row([
        lang.say("Day (UTC)", "Jour (UTC)"),
        lang.say("Media node", "Nœud média"),
        lang.say("Kubernetes node", "Nœud Kubernetes"),
        lang.say("Evidence", "Niveau"),
        lang.say("Observed", "Observé"),
        lang.say("Rooms", "Salles"),
        lang.say("Participant-minutes", "Minutes-participants"),
    ])];
    for (key, sums) in of_scope {
        let more = if sums.rooms_omitted { "+" } else { "" };
        rows.push(row([
            &key.day.to_string(),
            key.media_node.as_str(),
            key.kubernetes_node.as_str(),
            level(lang, sums.evidence),
            &duration(sums.observed_ms),
            &format!("{}{more}", number(lang, sums.rooms.len() as u64)),
            &minutes(lang, sums.participant_ms),
        ]));
    }
    table(page, &rows, 4);
}

fn level(lang: Lang, level: Option<Level>) -> &'static str {
    match level {
        None => lang.say("none", "aucun"),
        Some(Level::E0) => "E0",
        Some(Level::E1) => "E1",
        Some(Level::E2) => "E2",
    }
}

fn heading(page: &mut String, title: &str) {
    let _ = write!(page, "\n{title}\n{}\n", "─".repeat(title.chars().count()));
}

fn paragraph(page: &mut String, text: &str) {
    page.push('\n');
    wrap(page, "  ", text);
}

/// Running text, broken at plain spaces alone; the lines after the first are indented alike.
fn wrap(page: &mut String, first: &str, text: &str) {
    let indent = " ".repeat(first.chars().count());
    let mut line = first.to_owned();
    let mut empty = true;
    for word in text.split(' ') {
        if !empty && line.chars().count() + 1 + word.chars().count() > COLUMNS {
            let _ = writeln!(page, "{line}");
            line.clone_from(&indent);
            empty = true;
        }
        if !empty {
            line.push(' ');
        }
        line.push_str(word);
        empty = false;
    }
    let _ = writeln!(page, "{line}");
}

fn row<const N: usize>(cells: [&str; N]) -> Vec<String> {
    cells.map(str::to_owned).to_vec()
}

/// Aligned columns; those from `right` on hold numbers and end at the same place.
fn table(page: &mut String, rows: &[Vec<String>], right: usize) {
    let columns = rows.first().map_or(0, Vec::len);
    let widths: Vec<usize> = (0..columns)
        .map(|at| rows.iter().filter_map(|row| row.get(at)).map(|c| c.chars().count()).max())
        .map(Option::unwrap_or_default)
        .collect();
    page.push('\n');
    for row in rows {
        let mut line = String::from("  ");
        for (at, (cell, width)) in row.iter().zip(&widths).enumerate() {
            let space = " ".repeat(width - cell.chars().count());
            let (before, after) = if at < right { ("", space.as_str()) } else { (&*space, "") };
            let _ = write!(line, "{before}{cell}{after}  ");
        }
        let _ = writeln!(page, "{}", line.trim_end());
    }
}

/// `2026-11-28, 09:00:00 to 09:10:00`; both days where they differ, and midnight as `24:00:00`.
fn interval(lang: Lang, span: Span) -> String {
    let clock = |text: String| text.get(11..19).unwrap_or_default().to_owned();
    let (from, to) = (clock(span.from.to_string()), clock(span.to.to_string()));
    let (day, end) = (span.from.day(), span.to.day());
    let until = lang.say("to", "à");
    if span.to == day.end() {
        format!("{day}, {from} {until} 24:00:00")
    } else if day == end {
        format!("{day}, {from} {until} {to}")
    } else {
        format!("{day}, {from} {until} {end}, {to}")
    }
}

/// The two largest units of hours, minutes and seconds.
fn duration(ms: u64) -> String {
    let (hours, minutes, seconds) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1_000 % 60);
    match (hours, minutes, seconds) {
        (0, 0, _) => format!("{seconds}\u{a0}s"),
        (0, _, 0) => format!("{minutes}\u{a0}min"),
        (0, _, _) => format!("{minutes}\u{a0}min\u{a0}{seconds:02}\u{a0}s"),
        _ => format!("{hours}\u{a0}h\u{a0}{minutes:02}\u{a0}min"),
    }
}

/// Minutes with one decimal.
fn minutes(lang: Lang, ms: u64) -> String {
    let tenths = ms.saturating_add(3_000) / 6_000;
    format!("{}{}{}", number(lang, tenths / 10), lang.say(".", ","), tenths % 10)
}

/// A number with its thousands set apart as the language does.
fn number(lang: Lang, number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push_str(lang.say(",", "\u{202f}"));
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests;
