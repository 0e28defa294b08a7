//! Tells the journal what was found about scopes and Kubernetes nodes, and what was stamped on
//! them.
//! Invariant: what is as it was is not told.

use std::collections::BTreeMap;

use hemicycle_crds::{
    QualificationScope, QualificationScopeStatus, SCOPE_LABEL_PREFIX,
    qualification_scope::QualificationState,
};
use hemicycle_proof::journal::{EventId, ObjectKind};
use k8s_openapi::api::core::v1::Node;
use kube::ResourceExt;
use operator_core::{
    evidence::Level,
    ids::{KubernetesNodeName, ScopeName},
};

use super::{ByScope, Found};
use crate::{
    reconcile::context::Context,
    witness::{Act, facts, named},
};

/// What became of a Kubernetes node in a scope, in one word.
fn word(found: Option<&Found>, node: &KubernetesNodeName) -> String {
    let Some(found) = found else { return "none".to_owned() };
    match (found.inside.get(node), found.contradicted.get(node)) {
        (Some(level), _) => level.as_str().to_owned(),
        (None, Some(what)) => format!("contradicted: {what}"),
        (None, None) => "none".to_owned(),
    }
}

/// Evidence that was gained, lost or contradicted since the last look.
pub(super) fn evidence(context: &Context, before: &ByScope, after: &ByScope) {
    for (scope, now) in after {
        let was = before.get(scope);
        let of = |found: &Found| -> Vec<KubernetesNodeName> {
            found.inside.keys().chain(found.contradicted.keys()).cloned().collect()
        };
        let mut nodes = of(now);
        nodes.extend(was.into_iter().flat_map(of));
        nodes.sort();
        nodes.dedup();
        for node in nodes {
            let (old, new) = (word(was, &node), word(Some(now), &node));
            if old == new {
                continue;
            }
            let lower = was.and_then(|it| it.inside.get(&node)) > now.inside.get(&node);
            let id = match now.contradicted.contains_key(&node) {
                true => EventId::EvidenceContradicted,
                false if lower => EventId::EvidenceLost,
                false => EventId::EvidenceGained,
            };
            context.witness.journal().tell(Act {
                id,
                object: named(ObjectKind::Node, node.as_str()),
                before: facts([("scope", scope.as_str()), ("evidence", &old)]),
                after: facts([("scope", scope.as_str()), ("evidence", &new)]),
            });
        }
    }
}

/// A scope that came into force, or is in force no more, or whose declaration changed.
pub(super) fn scope(
    context: &Context,
    resource: &QualificationScope,
    before: &QualificationScopeStatus,
    after: &QualificationScopeStatus,
) {
    let reason = |status: &QualificationScopeStatus| {
        let ready = status.conditions.iter().find(|it| it.type_ == "Ready");
        ready.map(|it| it.reason.clone()).unwrap_or_default()
    };
    let (old, new) = (reason(before), reason(after));
    let id = if old != new && new == "ScopeNotValid" {
        match resource.spec.state {
            QualificationState::Qualified => EventId::ScopeExpired,
            QualificationState::Suspended | QualificationState::Withdrawn => {
                EventId::ScopeWithdrawn
            }
        }
    } else if old != new && (old.is_empty() || old == "ScopeNotValid") {
        EventId::ScopeQualified
    } else if before.observed_generation != after.observed_generation {
        EventId::ScopeChanged
    } else {
        return;
    };
    let generation = after.observed_generation.unwrap_or_default().to_string();
    context.witness.journal().tell(Act {
        id,
        object: named(ObjectKind::QualificationScope, &resource.name_any()),
        before: facts([("reason", &old)]),
        after: facts([
            ("reason", new.as_str()),
            ("expiresAt", &resource.spec.attestation.expires_at),
            ("generation", &generation),
        ]),
    });
}

/// Labels of ours that were written on a Kubernetes node, or taken away.
pub(super) fn stamped(
    context: &Context,
    name: &KubernetesNodeName,
    before: &Node,
    levels: &BTreeMap<&ScopeName, Level>,
) {
    tracing::info!(kubernetes_node = %name, ?levels, "its scopes are stamped");
    let was = before.labels().iter().filter_map(|(key, level)| {
        Some((key.strip_prefix(SCOPE_LABEL_PREFIX)?.to_owned(), level.clone()))
    });
    let was: BTreeMap<String, String> = was.collect();
    let is: BTreeMap<String, String> = levels
        .iter()
        .map(|(scope, level)| (scope.to_string(), level.as_str().to_owned()))
        .collect();
    for scope in was.keys().chain(is.keys().filter(|scope| !was.contains_key(*scope))) {
        let (old, new) = (was.get(scope), is.get(scope));
        if old == new {
            continue;
        }
        let state = |level: Option<&String>| {
            level.map(|level| facts([("scope", scope.as_str()), ("level", level)]))
        };
        context.witness.journal().tell(Act {
            id: if new.is_some() { EventId::LabelWritten } else { EventId::LabelRemoved },
            object: named(ObjectKind::Node, name.as_str()),
            before: state(old).unwrap_or_default(),
            after: state(new).unwrap_or_default(),
        });
    }
}
