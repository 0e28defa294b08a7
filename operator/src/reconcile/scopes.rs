//! Says in the status of each QualificationScope whether media may run in it and how many
//! Kubernetes nodes lie in it. Runs beside the reconcile, while this replica leads; decides nothing
//! about media. Invariant: a status is written only when it changed.

use std::{sync::Arc, time::Duration};

use futures_util::FutureExt;
use hemicycle_crds::{Condition, QualificationScope, QualificationScopeStatus};
use jiff::Timestamp;
use kube::{
    Api, Resource, ResourceExt,
    api::{Patch, PatchParams},
};
use serde_json::json;
use tokio::time::{interval, sleep};

use super::{context::Context, status::with_time};

/// How often scopes are looked at, beside every change: an expiry comes without an event.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// Changes within this time are told of once: a hundred Kubernetes nodes that are labelled in a row
/// are not worth a hundred statuses.
const GATHER: Duration = Duration::from_secs(1);
/// Field manager of these statuses.
const MANAGER: &str = "hemicycle-operator/scopes";

/// Runs until dropped.
pub async fn run(context: Arc<Context>) {
    let mut changes = context.watches.changes.clone();
    let mut tick = interval(LOOK_EVERY);
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            changed = changes.changed() => {
                if changed.is_err() {
                    return;
                }
                sleep(GATHER).await;
            }
        }
        tell_all(&context).await;
    }
}

async fn tell_all(context: &Context) {
    let (scopes, nodes) = (&context.watches.scopes, &context.watches.kubernetes_nodes);
    if scopes.wait_until_ready().now_or_never().is_none()
        || nodes.wait_until_ready().now_or_never().is_none()
    {
        return;
    }
    for guard in scopes.state() {
        let Ok(scope) = &guard.0 else { continue };
        let label = &scope.spec.node_label;
        let inside = nodes.state_filter(|node| node.labels().get(&label.key) == Some(&label.value));
        let before = scope.status.clone().unwrap_or_default();
        let after = status(scope, inside.len(), &before, context.now());
        if before == after || context.still_leading().is_err() {
            continue;
        }
        let body = json!({
            "apiVersion": QualificationScope::api_version(&()),
            "kind": QualificationScope::kind(&()),
            "metadata": {"name": scope.name_any()},
            "status": after,
        });
        let api: Api<QualificationScope> = Api::all(context.client.clone());
        let params = PatchParams::apply(MANAGER).force();
        let patched = api.patch_status(&scope.name_any(), &params, &Patch::Apply(&body)).await;
        if let Err(error) = patched {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(error, scope = scope.name_any(), "its status could not be written");
        }
    }
}

fn status(
    scope: &QualificationScope,
    nodes: usize,
    before: &QualificationScopeStatus,
    now: Timestamp,
) -> QualificationScopeStatus {
    let expires = &scope.spec.attestation.expires_at;
    let (holds, reason, message) = match expires.parse::<Timestamp>() {
        _ if scope.spec.withdrawn => (
            "False",
            "ScopeNotValid",
            "it is withdrawn: no new room and no new pod; set spec.withdrawn to false to undo"
                .into(),
        ),
        Err(_) => (
            "False",
            "ScopeNotValid",
            format!("spec.attestation.expiresAt ({expires}) is no RFC 3339 time: correct it"),
        ),
        Ok(end) if end <= now => (
            "False",
            "ScopeNotValid",
            format!("the attestation ended at {end}: renew it and spec.attestation"),
        ),
        Ok(_) if nodes == 0 => (
            "False",
            "NoKubernetesNodeInScope",
            format!(
                "no Kubernetes node carries {}={}: label those that lie in the scope",
                scope.spec.node_label.key, scope.spec.node_label.value
            ),
        ),
        Ok(end) => ("True", "AsExpected", format!("media may run in it until {end}")),
    };
    let fresh = Condition {
        type_: "Ready".into(),
        status: holds.into(),
        reason: reason.into(),
        message,
        last_transition_time: String::new(),
        observed_generation: scope.metadata.generation,
    };
    QualificationScopeStatus {
        conditions: vec![with_time(&before.conditions, fresh, now)],
        kubernetes_nodes: i32::try_from(nodes).unwrap_or(i32::MAX),
        observed_generation: scope.metadata.generation,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ready(spec: serde_json::Value, nodes: usize) -> (String, String) {
        let mut whole = json!({
            "provider": "p", "service": "s", "regions": ["r"], "referential": "SecNumCloud 3.2",
            "attestation": {"id": "1", "expiresAt": "2027-01-01T00:00:00Z"},
            "nodeLabel": {"key": "a.node-restriction.kubernetes.io/b"},
        });
        if let (Some(whole), Some(spec)) = (whole.as_object_mut(), spec.as_object()) {
            whole.extend(spec.clone());
        }
        let spec = serde_json::from_value(whole).expect("a spec");
        let scope = QualificationScope::new("gold", spec);
        let now = "2026-11-23T09:00:00Z".parse().expect("a time");
        let told = status(&scope, nodes, &QualificationScopeStatus::default(), now);
        (told.conditions[0].status.clone(), told.conditions[0].reason.clone())
    }

    #[test]
    fn a_scope_holds_until_it_is_withdrawn_ends_or_has_no_kubernetes_node() {
        let is = |status: &str, reason: &str| (status.to_owned(), reason.to_owned());
        assert_eq!(ready(json!({}), 3), is("True", "AsExpected"));
        assert_eq!(ready(json!({}), 0), is("False", "NoKubernetesNodeInScope"));
        assert_eq!(ready(json!({"withdrawn": true}), 3), is("False", "ScopeNotValid"));
        let ended = json!({"attestation": {"id": "1", "expiresAt": "2026-01-01T00:00:00Z"}});
        assert_eq!(ready(ended, 3), is("False", "ScopeNotValid"));
        let wrong = json!({"attestation": {"id": "1", "expiresAt": "soon"}});
        assert_eq!(ready(wrong, 3), is("False", "ScopeNotValid"));
    }
}
