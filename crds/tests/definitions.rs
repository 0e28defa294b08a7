//! The resource definitions: committed as generated, explained throughout, and each rule shown to
//! accept and to refuse.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use hemicycle_crds::{
    AttestedNodes, MediaNode, MeetingCluster, QualificationScope, condition, generate,
};
use serde_json::Value;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a workspace").to_path_buf()
}

#[test]
fn what_is_committed_is_what_is_generated() {
    for directory in ["crds/generated", "charts/hemicycle-crds/templates"] {
        for (name, generated) in generate::files().expect("YAML") {
            let path = root().join(directory).join(&name);
            let committed = fs::read_to_string(&path).unwrap_or_default();
            assert!(
                committed == generated,
                "{}: run `cargo run -p hemicycle-crds --bin crdgen -- crds/generated \
                 charts/hemicycle-crds/templates`",
                path.display()
            );
        }
    }
}

fn schemas() -> Vec<(String, Value)> {
    generate::definitions()
        .into_iter()
        .map(|definition| {
            let version = &definition.spec.versions[0];
            let schema = version.schema.as_ref().and_then(|s| s.open_api_v3_schema.as_ref());
            let schema = serde_json::to_value(schema.expect("a schema")).expect("JSON");
            (definition.spec.names.kind, schema)
        })
        .collect()
}

/// Calls `visit` with every schema that stands under a property, and its path.
fn walk(path: &str, schema: &Value, visit: &mut impl FnMut(&str, &Value)) {
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        let path = format!("{path}.{name}");
        visit(&path, property);
        walk(&path, property, visit);
    }
    for below in ["items", "additionalProperties"] {
        if schema[below].is_object() {
            walk(&format!("{path}[]"), &schema[below], visit);
        }
    }
}

#[test]
fn every_field_is_explained() {
    let mut silent = Vec::new();
    for (kind, schema) in schemas() {
        assert!(schema["description"].is_string(), "{kind} has no description");
        walk(&kind, &schema, &mut |path, property| {
            let said = property["description"].as_str().unwrap_or_default();
            let own = !path.ends_with(".metadata");
            if own && said.len() < 8 {
                silent.push(path.to_owned());
            }
        });
    }
    assert!(silent.is_empty(), "no description: {silent:#?}");
}

#[test]
fn every_optional_field_with_a_default_shows_it() {
    let mut hidden = Vec::new();
    for (kind, schema) in schemas().into_iter().filter(|(kind, _)| kind == "MeetingCluster") {
        let spec = &schema["properties"]["spec"];
        let required: BTreeSet<&str> =
            spec["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        for (name, property) in spec["properties"].as_object().expect("properties") {
            if !required.contains(name.as_str()) && property.get("default").is_none() {
                hidden.push(format!("{kind}.spec.{name}"));
            }
        }
        assert_eq!(required, BTreeSet::from(["credentials", "domain", "sovereignty"]));
    }
    assert!(hidden.is_empty(), "no visible default: {hidden:?}");
}

/// A case: its name, the message part that a refusal must show, and its documents.
struct Case {
    name: String,
    message: String,
    documents: Vec<String>,
}

fn cases(verdict: &str) -> Vec<Case> {
    let directory = root().join("crds/cases").join(verdict);
    let mut paths: Vec<PathBuf> = fs::read_dir(&directory)
        .expect("a directory of cases")
        .map(|entry| entry.expect("an entry").path())
        .collect();
    paths.sort();
    paths
        .into_iter()
        .map(|path| {
            let text = fs::read_to_string(&path).expect("a case");
            let first = text.lines().next().unwrap_or_default();
            Case {
                name: path.file_stem().expect("a name").to_string_lossy().into_owned(),
                message: first.trim_start_matches('#').trim().to_owned(),
                documents: text.split("---\n").map(str::to_owned).collect(),
            }
        })
        .collect()
}

/// The API server's verdict on a case, as far as the rules go.
fn verdict(case: &Case) -> Result<(), String> {
    macro_rules! judge {
        ($kind:ty) => {{
            let objects: Vec<$kind> = case
                .documents
                .iter()
                .map(|text| serde_saphyr::from_str(text).map_err(|e| format!("{}: {e}", case.name)))
                .collect::<Result<_, _>>()?;
            match objects.as_slice() {
                [object] => object.validate_cel(),
                [old, new] => {
                    old.validate_cel().expect("the first document is good");
                    new.validate_cel_update(old)
                }
                _ => panic!("{}: one or two documents", case.name),
            }
            .map_err(|errors| errors.to_string())
        }};
    }
    match &case.name[..2] {
        "mc" => judge!(MeetingCluster),
        "mn" => judge!(MediaNode),
        "qs" => judge!(QualificationScope),
        "an" => judge!(AttestedNodes),
        other => panic!("{}: unknown kind {other}", case.name),
    }
}

#[test]
fn good_objects_are_accepted() {
    let cases = cases("accept");
    assert!(cases.len() >= 13, "only {} cases", cases.len());
    for case in cases {
        assert_eq!(verdict(&case), Ok(()), "{}", case.name);
    }
}

#[test]
fn bad_objects_are_refused_with_the_field_and_what_is_allowed() {
    let mut shown = Vec::new();
    for case in cases("reject").into_iter().filter(|case| !case.name.starts_with("schema-")) {
        match verdict(&case) {
            Ok(()) => panic!("{}: accepted", case.name),
            Err(said) => {
                assert!(said.contains(&case.message), "{}: said {said}", case.name);
                shown.push(said);
            }
        }
    }
    // Every rule is seen to refuse at least once.
    for (kind, schema) in schemas() {
        let mut rules = rules_of(&schema);
        walk(&kind, &schema, &mut |_, property| rules.extend(rules_of(property)));
        for message in rules {
            let seen = shown.iter().any(|said| said.contains(&message));
            assert!(seen, "{kind}: no case in crds/cases/reject shows: {message}");
        }
    }
}

fn rules_of(schema: &Value) -> Vec<String> {
    let rules = schema["x-kubernetes-validations"].as_array().into_iter().flatten();
    rules.filter_map(|rule| Some(rule["message"].as_str()?.to_owned())).collect()
}

#[test]
fn the_samples_are_good_and_short() {
    let text = fs::read_to_string(root().join("samples/meetingcluster.yaml")).expect("a sample");
    assert!(text.lines().count() <= 10, "ten lines are promised");
    let sample: MeetingCluster = serde_saphyr::from_str(&text).expect("a MeetingCluster");
    sample.validate_cel().expect("the sample passes the rules");
    let text =
        fs::read_to_string(root().join("samples/qualificationscope.yaml")).expect("a sample");
    let sample: QualificationScope = serde_saphyr::from_str(&text).expect("a QualificationScope");
    sample.validate_cel().expect("the sample passes the rules");
}

#[test]
fn reasons_and_conditions_are_those_that_the_operator_writes() {
    let documented: Vec<&str> = condition::REASONS.iter().map(|(reason, _)| *reason).collect();
    let written: Vec<&str> =
        operator_core::Reason::ALL.into_iter().map(operator_core::Reason::as_str).collect();
    assert_eq!(documented, written);
    let documented: Vec<&str> =
        condition::MEETING_CLUSTER_CONDITIONS.iter().map(|(kind, _)| *kind).collect();
    let written: Vec<&str> = operator_core::ConditionKind::ALL
        .into_iter()
        .map(operator_core::ConditionKind::as_str)
        .collect();
    assert_eq!(documented, written);
}
