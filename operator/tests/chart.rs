//! Holds what the chart may give the operator: no list of Secrets, no way to more rights,
//! restricted pods, its own admission policies. Reads the rendered chart as it is committed. Harm
//! if it fails: whoever takes the operator over reads every Secret of the cluster.

use std::collections::BTreeSet;

use clap::Parser as _;
use operator::{
    admission::policies::{self, Kind},
    config::Config,
};
use serde_json::Value;

fn objects() -> Vec<Value> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../charts/hemicycle/rendered.yaml");
    let text = std::fs::read_to_string(path).expect("rendered and committed");
    let documents = text.split("\n---").map(|text| text.trim_start_matches("---"));
    documents
        .filter(|text| text.lines().any(|line| !line.is_empty() && !line.starts_with('#')))
        .map(|text| serde_saphyr::from_str(text).expect("YAML"))
        .collect()
}

fn of_kind(kind: &str) -> Vec<Value> {
    let found: Vec<_> = objects().into_iter().filter(|object| object["kind"] == kind).collect();
    assert!(!found.is_empty(), "the chart holds no {kind}");
    found
}

fn words(rule: &Value, field: &str) -> Vec<String> {
    let items = rule[field].as_array().cloned().unwrap_or_default();
    items.iter().filter_map(|item| item.as_str().map(str::to_owned)).collect()
}

#[test]
fn secrets_are_never_listed_and_no_right_leads_to_more() {
    for role in of_kind("ClusterRole").into_iter().chain(of_kind("Role")) {
        for rule in role["rules"].as_array().expect("rules") {
            let (resources, verbs) = (words(rule, "resources"), words(rule, "verbs"));
            let all = || resources.iter().chain(&verbs);
            assert!(all().all(|word| !word.contains('*')), "a wildcard: {rule}");
            for verb in ["escalate", "bind", "impersonate", "deletecollection"] {
                assert!(!verbs.contains(&verb.to_owned()), "{verb}: {rule}");
            }
            assert!(!resources.iter().any(|resource| resource.starts_with("pods/")), "{rule}");
            if resources.contains(&"secrets".to_owned()) {
                assert_eq!(verbs, ["get", "create", "update"]);
            }
        }
    }
}

/// Harm if it fails: whoever takes the operator over reads and writes what it never needed.
#[test]
fn kinds_that_the_operator_does_not_touch_are_not_granted() {
    for role in of_kind("ClusterRole") {
        for rule in role["rules"].as_array().expect("rules") {
            for resource in words(rule, "resources") {
                let foreign = ["configmaps", "serviceaccounts", "endpoints", "daemonsets"];
                assert!(!foreign.contains(&resource.as_str()), "{rule}");
            }
        }
    }
}

#[test]
fn the_operators_pods_are_restricted() {
    for deployment in of_kind("Deployment") {
        assert_eq!(deployment["spec"]["replicas"], 3);
        let pod = &deployment["spec"]["template"]["spec"];
        assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
        assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault");
        let container = &pod["containers"][0];
        let own = &container["securityContext"];
        assert_eq!(own["allowPrivilegeEscalation"], false);
        assert_eq!(own["readOnlyRootFilesystem"], true);
        assert_eq!(own["capabilities"]["drop"][0], "ALL");
        let path = |probe: &str| container[probe]["httpGet"]["path"].clone();
        assert_ne!(path("livenessProbe"), path("readinessProbe"));
    }
}

#[test]
fn every_replica_is_found_while_its_readiness_is_in_doubt() {
    let service = of_kind("Service").remove(0);
    assert_eq!(service["metadata"]["name"], "hemicycle-operator-placer");
    assert_eq!(service["spec"]["clusterIP"], "None");
    assert_eq!(service["spec"]["publishNotReadyAddresses"], true);
}

#[test]
fn the_charts_policies_are_those_of_the_operator() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../charts/hemicycle/templates/admission.yaml");
    let committed = std::fs::read_to_string(path).expect("committed");
    assert!(
        committed == policies::helm(),
        "write it again: cargo run -p operator -- --print-admission helm > {path}"
    );
    // What helm makes of it is what the operator would make: it has nothing to put back.
    let config = Config::try_parse_from(["operator"]).expect("defaults");
    for wanted in policies::wanted(&config.admission()).expect("good policies") {
        let rendered = of_kind(&wanted.kind.resource().kind);
        let rendered = rendered.iter().find(|it| it["metadata"]["name"] == wanted.name.as_str());
        assert_eq!(rendered.expect("in the chart")["spec"], wanted.spec, "{}", wanted.name);
    }
}

#[test]
fn the_operator_may_write_its_own_policies_and_no_others() {
    let config = Config::try_parse_from(["operator"]).expect("defaults");
    let wanted = policies::wanted(&config.admission()).expect("good policies");
    let names: BTreeSet<String> = wanted.into_iter().map(|wanted| wanted.name).collect();
    let plural = Kind::Policy.resource().plural;
    for role in of_kind("ClusterRole") {
        for rule in role["rules"].as_array().expect("rules") {
            let verbs = words(rule, "verbs");
            if !words(rule, "resources").contains(&plural) {
                continue;
            }
            if verbs.iter().any(|verb| ["update", "patch", "delete"].contains(&verb.as_str())) {
                assert_eq!(verbs, ["get", "update"]);
                let named: BTreeSet<String> = words(rule, "resourceNames").into_iter().collect();
                assert_eq!(named, names);
            }
        }
    }
}
