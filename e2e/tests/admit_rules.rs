//! That the real API server accepts and refuses what the rules on our kinds say, with messages that
//! name the field. Every case is a file in `crds/cases`: its documents are applied one after the
//! other; a case to be refused names on its first line what the refusal of the last must say.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use e2e::story::{Story, tell};
use e2e::{cache, install};

struct Case {
    name: String,
    message: String,
    documents: Vec<String>,
}

fn cases(verdict: &str) -> Result<Vec<Case>> {
    let directory = cache::checkout().join("crds/cases").join(verdict);
    let entries = fs::read_dir(&directory).with_context(|| directory.display().to_string())?;
    let mut paths = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<PathBuf>>>()?;
    paths.sort();
    let read = |path: &PathBuf| -> Result<Case> {
        let text = fs::read_to_string(path)?;
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let message = text.lines().next().unwrap_or_default();
        Ok(Case {
            name,
            message: message.trim_start_matches('#').trim().to_owned(),
            documents: text.split("---\n").map(str::to_owned).collect(),
        })
    };
    paths.iter().map(read).collect()
}

/// Applies the documents in order; what the API server said to the last.
fn apply(story: &Story, case: &Case) -> Result<std::result::Result<(), String>> {
    let (last, first) = case.documents.split_last().context("an empty case")?;
    for document in first {
        install::apply_text(story.bed(), "case", document)
            .with_context(|| format!("{}: an earlier document", case.name))?;
    }
    let said = install::apply_text(story.bed(), "case", last);
    let said = said.map(|_| ()).map_err(|error| error.to_string());
    let all = [
        "meetingcluster/case",
        "medianode/case",
        "qualificationscope/case",
        "attestednodes/attested-nodes",
    ];
    let line = [&["delete", "-n", "default", "--ignore-not-found"][..], &all].concat();
    install::kubectl(story.bed(), &line)?;
    Ok(said)
}

fn with_definitions(name: &str, scenes: impl FnOnce(&Story) -> Result<()>) {
    tell(name, |story| {
        install::definitions(story.bed(), &|text| story.say(text))?;
        let all = ["wait", "--for=condition=Established", "crd", "--all", "--timeout=30s"];
        install::kubectl(story.bed(), &all)?;
        scenes(story)
    });
}

#[test]
fn good_objects_are_accepted() {
    with_definitions("accept", |story| {
        let cases = cases("accept")?;
        ensure!(cases.len() >= 10, "only {} cases", cases.len());
        for case in cases {
            let said = apply(story, &case)?;
            ensure!(said.is_ok(), "{} was refused: {}", case.name, said.unwrap_err());
            story.say(&format!("accepted {}", case.name));
        }
        Ok(())
    });
}

#[test]
fn bad_objects_are_refused_with_the_field_and_what_is_allowed() {
    with_definitions("reject", |story| {
        let cases = cases("reject")?;
        ensure!(cases.len() >= 10, "only {} cases", cases.len());
        for case in cases {
            let said = apply(story, &case)?.err().unwrap_or_default();
            ensure!(!said.is_empty(), "{} was accepted", case.name);
            let wanted = &case.message;
            ensure!(said.contains(wanted), "{}: wanted {wanted:?}, said {said}", case.name);
            story.say(&format!("refused {}: {wanted}", case.name));
        }
        Ok(())
    });
}

/// What the chart renders to, committed, as users apply it; unknown fields are refused too.
#[test]
fn every_object_of_the_chart_fits_its_schema() {
    with_definitions("chart", |story| {
        install::namespace(story.bed(), install::OPERATOR_NAMESPACE)?;
        let rendered = cache::checkout().join("charts/hemicycle/rendered.yaml");
        let file = rendered.display().to_string();
        let strict = ["apply", "--dry-run=server", "--validate=strict", "-f", &file];
        let said = install::kubectl(story.bed(), &strict)?;
        let count = said.lines().filter(|line| line.contains("(server dry run)")).count();
        let objects = fs::read_to_string(&rendered)?.matches("\nkind: ").count();
        ensure!(count == objects && count > 20, "{count} of {objects} fit: {said}");
        story.say(&format!("{count} objects fit their schemas"));
        Ok(())
    });
}
