//! Publishes a meeting cluster's violations as a report for cluster tools: OpenReports' `Report`,
//! or `PolicyReport` of wgpolicyk8s.io where only that is installed; where neither is, the status
//! alone tells them. Decides nothing. Invariant: a report is written when its results changed, and
//! its absence never holds up a reconcile.
//!
//! Shapes: openreports.io/v1alpha1 and wgpolicyk8s.io/v1alpha2, which agree in all that is used.

use kube::api::{Patch, PatchParams};
use operator_core::{sovereignty, violation::Violation};
use serde_json::{Value, json};

use super::{
    build::manifest::{Kind, Manifest, hash_of},
    context::Context,
    objects,
    tell::Account,
};

/// Results in one report, so that it stays far from the API server's limit on an object.
const RESULTS_MAX: usize = 512;
/// How long a cluster without either kind is left alone, in seconds.
const ASK_AGAIN_SECONDS: i64 = 300;
/// Field manager of reports.
const MANAGER: &str = "hemicycle-operator/reports";
/// What is remembered of what was published.
const MEMORY: &str = "reports";
/// The kinds, the one that is preferred first.
const KINDS: [Kind; 2] = [Kind::Report, Kind::PolicyReport];

/// Publishes what the account says of where media run, if that changed.
pub(super) async fn publish(context: &Context, account: &Account<'_>) {
    let tenant = account.workload.tenant();
    let window = account.now.as_second() / ASK_AGAIN_SECONDS;
    let absent = format!("absent/{window}");
    let told = context.remember(&tenant, |memory| memory.told.get(MEMORY).cloned());
    if told.as_ref() == Some(&absent) {
        return;
    }
    let content = content(account);
    let hash = hash_of([&content]);
    if told.as_ref() == Some(&hash) {
        return;
    }
    let now = match write(context, account, &content).await {
        Ok(true) => hash,
        Ok(false) => absent,
        Err(error) => {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(error, tenant, "the report of violations could not be written");
            absent
        }
    };
    context.remember(&tenant, |memory| memory.told.insert(MEMORY.to_owned(), now));
}

/// Whether one of the kinds is there.
async fn write(context: &Context, account: &Account<'_>, content: &Value) -> kube::Result<bool> {
    let workload = account.workload;
    for kind in KINDS {
        let mut content = content.clone();
        if kind == Kind::Report {
            content["source"] = json!("hemicycle");
        }
        let name = format!("{}-sovereignty", workload.name);
        let Manifest { name, body, .. } = Manifest::new(workload, kind, name, "report", content);
        let api = objects::api(&context.client, kind, &workload.namespace);
        let params = PatchParams::apply(MANAGER).force();
        match api.patch(&name, &params, &Patch::Apply(&body)).await {
            Ok(_) => return Ok(true),
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            Err(error) => return Err(error),
        }
    }
    Ok(false)
}

fn content(account: &Account<'_>) -> Value {
    let report = account.report;
    let at = report.at;
    let ongoing = report.violations.iter().filter(|it| it.ended.is_none());
    let (fail, warn): (Vec<_>, Vec<_>) = ongoing.partition(|it| it.is_open(at));
    let media_nodes = account.world.media_nodes.iter().filter_map(|(name, seen)| {
        Some((name.as_str(), sovereignty::attested(&report.gate, seen)?))
    });
    let gateways = account.world.gateway.iter().flat_map(|gateway| &gateway.pods);
    let gateways = gateways.filter_map(|(name, pod)| {
        Some((name.as_str(), sovereignty::pod_attested(&report.gate, pod)?))
    });
    let passed: Vec<Value> = media_nodes
        .chain(gateways)
        .map(|(name, attested)| {
            let message =
                format!("in scope {} by evidence {}", attested.scope, attested.level.as_str());
            result(("pass", "info", "InScope"), &message, name, account, json!({}))
        })
        .collect();
    let summary = json!({
        "pass": passed.len(), "fail": fail.len(), "warn": warn.len(), "error": 0, "skip": 0,
    });
    let failed = fail.iter().map(|it| of_violation("fail", "critical", it, account));
    let warned = warn.iter().map(|it| of_violation("warn", "high", it, account));
    let results: Vec<Value> = failed.chain(warned).chain(passed).take(RESULTS_MAX).collect();
    json!({
        "scope": {
            "apiVersion": "hemicycle.dev/v1alpha1",
            "kind": "MeetingCluster",
            "namespace": account.workload.namespace,
            "name": account.workload.name,
        },
        "summary": summary,
        "results": results,
    })
}

fn of_violation(outcome: &str, severity: &str, it: &Violation, account: &Account<'_>) -> Value {
    let more = json!({
        "violation": it.id,
        "kubernetesNode": it.kubernetes_node.as_str(),
        "remedy": it.remedy,
        "since": super::seen::time(it.since).to_string(),
    });
    let verdict = (outcome, severity, it.what.as_str());
    result(verdict, &it.message, it.pod.as_str(), account, more)
}

fn result(
    (outcome, severity, rule): (&str, &str, &str),
    message: &str,
    pod: &str,
    account: &Account<'_>,
    properties: Value,
) -> Value {
    json!({
        "source": "hemicycle",
        "policy": "sovereignty",
        "rule": rule,
        "category": "Sovereignty",
        "severity": severity,
        "result": outcome,
        "scored": true,
        "message": message,
        "properties": properties,
        "resources": [{
            "apiVersion": "v1",
            "kind": "Pod",
            "namespace": account.workload.namespace,
            "name": pod,
        }],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_successor_is_preferred() {
        let named: Vec<String> = KINDS
            .iter()
            .map(|kind| kind.resource())
            .map(|kind| format!("{}/{}", kind.api_version, kind.plural))
            .collect();
        assert_eq!(
            named,
            ["openreports.io/v1alpha1/reports", "wgpolicyk8s.io/v1alpha2/policyreports"]
        );
    }
}
