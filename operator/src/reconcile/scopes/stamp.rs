//! Stamps on each Kubernetes node the scopes that it lies in, with the level of the evidence, and
//! the taint of dedicated scopes: what media pods require and bear. Writes only those keys.
//! Invariant: taints are replaced only in the version of the Kubernetes node that was looked at.

use std::collections::{BTreeMap, BTreeSet};

use hemicycle_crds::{SCOPE_LABEL_PREFIX, SCOPE_TAINT};
use k8s_openapi::api::core::v1::{Node, Taint};
use kube::{
    Api, ResourceExt,
    api::{Patch, PatchParams},
};
use operator_core::{
    evidence::Level,
    ids::{KubernetesNodeName, ScopeName, Timestamp},
};
use serde_json::{Map, Value, json};

use super::{ByScope, Scope, acts};
use crate::reconcile::context::Context;

/// Brings every Kubernetes node's stamps up to date.
pub(super) async fn all(context: &Context, scopes: &[Scope], found: &ByScope, now: Timestamp) {
    let holding: Vec<&Scope> = scopes.iter().filter(|it| it.holds(now)).collect();
    let dedicated = holding.iter().filter(|it| it.resource.spec.dedicated);
    let dedicated: BTreeSet<ScopeName> = dedicated.map(|it| it.name.clone()).collect();
    let api: Api<Node> = Api::all(context.client.clone());
    for node in context.watches.kubernetes_nodes.state() {
        let name = KubernetesNodeName::new(node.name_any());
        let levels: BTreeMap<&ScopeName, Level> = holding
            .iter()
            .filter_map(|it| Some((&it.name, *found.get(&it.name)?.inside.get(&name)?)))
            .collect();
        let Some(change) = change(&node, &levels, &dedicated) else { continue };
        if context.still_leading().is_err() {
            return;
        }
        let params = PatchParams::default();
        match api.patch(name.as_str(), &params, &Patch::Merge(&change)).await {
            Ok(_) => acts::stamped(context, &name, &node, &levels),
            // Somebody else changed it meanwhile, or it is gone: the next look sees what is there.
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {}
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, kubernetes_node = %name, "its scopes cannot be stamped");
            }
        }
    }
}

/// The merge patch that makes the stamps right; `None` when they are.
fn change(
    node: &Node,
    levels: &BTreeMap<&ScopeName, Level>,
    dedicated: &BTreeSet<ScopeName>,
) -> Option<Value> {
    let wanted: BTreeMap<String, &str> = levels
        .iter()
        .map(|(scope, level)| (format!("{SCOPE_LABEL_PREFIX}{scope}"), level.as_str()))
        .collect();
    let mut labels = Map::new();
    for (key, value) in node.labels().iter().filter(|(key, _)| key.starts_with(SCOPE_LABEL_PREFIX))
    {
        match wanted.get(key) {
            None => drop(labels.insert(key.clone(), Value::Null)),
            Some(level) if level != value => drop(labels.insert(key.clone(), json!(level))),
            Some(_) => {}
        }
    }
    for (key, level) in &wanted {
        if !node.labels().contains_key(key) {
            labels.insert(key.clone(), json!(level));
        }
    }
    let taints = taints(node, levels.keys().find(|scope| dedicated.contains(**scope)).copied());
    let mut patch = Map::new();
    let mut metadata = Map::new();
    if !labels.is_empty() {
        metadata.insert("labels".into(), labels.into());
    }
    if let Some(taints) = taints {
        patch.insert("spec".into(), json!({"taints": taints}));
        metadata.insert("resourceVersion".into(), json!(node.resource_version()));
    }
    if metadata.is_empty() {
        return None;
    }
    patch.insert("metadata".into(), metadata.into());
    Some(patch.into())
}

/// All taints of the Kubernetes node, if ours is to change.
fn taints(node: &Node, scope: Option<&ScopeName>) -> Option<Vec<Taint>> {
    let present = node.spec.as_ref().and_then(|spec| spec.taints.clone()).unwrap_or_default();
    let (ours, others): (Vec<Taint>, Vec<Taint>) =
        present.into_iter().partition(|taint| taint.key == SCOPE_TAINT);
    let wanted = scope.map(|scope| Taint {
        key: SCOPE_TAINT.into(),
        value: Some(scope.to_string()),
        effect: "NoSchedule".into(),
        time_added: None,
    });
    let is = |taint: &Taint| (taint.value.clone(), taint.effect.clone());
    let same = ours.iter().map(is).eq(wanted.iter().map(is));
    (!same).then(|| others.into_iter().chain(wanted).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(labels: Value, taints: Value) -> Node {
        let metadata = json!({"name": "k", "resourceVersion": "7", "labels": labels});
        serde_json::from_value(json!({"metadata": metadata, "spec": {"taints": taints}}))
            .expect("a Node")
    }

    fn changed(node: &Node, scopes: &[(&str, Level)], kept: &[&str]) -> Option<Value> {
        let names: Vec<(ScopeName, Level)> =
            scopes.iter().map(|(name, level)| (ScopeName::new(*name), *level)).collect();
        let levels = names.iter().map(|(name, level)| (name, *level)).collect();
        let kept = kept.iter().map(|name| ScopeName::new(*name)).collect();
        change(node, &levels, &kept)
    }

    #[test]
    fn the_label_follows_the_evidence_and_nothing_else_is_touched() {
        let key = format!("{SCOPE_LABEL_PREFIX}gold");
        let bare = node(json!({"a": "b"}), json!([]));
        let stamped = changed(&bare, &[("gold", Level::E1)], &[]);
        assert_eq!(stamped, Some(json!({"metadata": {"labels": {&key: "E1"}}})));
        let right = node(json!({&key: "E1"}), json!([]));
        assert_eq!(changed(&right, &[("gold", Level::E1)], &[]), None);
        let raised = changed(&right, &[("gold", Level::E2)], &[]);
        assert_eq!(raised, Some(json!({"metadata": {"labels": {&key: "E2"}}})));
        let lost = changed(&right, &[], &[]);
        assert_eq!(lost, Some(json!({"metadata": {"labels": {&key: null}}})));
    }

    #[test]
    fn a_dedicated_scope_taints_and_keeps_the_taints_of_others() {
        let key = format!("{SCOPE_LABEL_PREFIX}gold");
        let other = json!({"key": "other", "effect": "NoExecute"});
        let ours = json!({"key": SCOPE_TAINT, "value": "gold", "effect": "NoSchedule"});
        let labelled = node(json!({&key: "E0"}), json!([other]));
        let tainted = changed(&labelled, &[("gold", Level::E0)], &["gold"]);
        let wanted =
            json!({"metadata": {"resourceVersion": "7"}, "spec": {"taints": [other, ours]}});
        assert_eq!(tainted, Some(wanted));
        let both = node(json!({&key: "E0"}), json!([other, ours]));
        assert_eq!(changed(&both, &[("gold", Level::E0)], &["gold"]), None);
        let freed = changed(&both, &[("gold", Level::E0)], &[]).expect("freed");
        assert_eq!(freed["spec"]["taints"], json!([other]));
    }
}
