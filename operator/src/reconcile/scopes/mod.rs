//! Looks after QualificationScopes beside the reconcile, while this replica leads: weighs the
//! evidence for every Kubernetes node, stamps the outcome on it as a label, and tells each scope's
//! owner. Decides nothing about media: the reconcile weighs for itself and believes no label of
//! ours. Invariant: nothing is written unless it changed.

mod acts;
mod stamp;
mod status;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures_util::{FutureExt, StreamExt};
use hemicycle_crds::{QualificationScope, QualificationScopeStatus};
use kube::{
    Api, Resource, ResourceExt,
    api::{Patch, PatchParams},
    runtime::events::EventType,
};
use operator_core::{
    evidence::{self, Level, Weighed},
    ids::{KubernetesNodeName, ScopeName, Timestamp},
    sovereignty,
    world::{KubernetesNodeSeen, ScopeSeen},
};
use serde_json::json;
use tokio::time::{interval, sleep};

use self::status::News;
use super::{context::Context, seen, tell};
use crate::evidence::Testimony;

/// How often scopes are looked at, beside every change: an expiry comes without an event.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// Changes within this time are told of once: a hundred Kubernetes nodes that are labelled in a row
/// are not worth a hundred statuses.
const GATHER: Duration = Duration::from_millis(500);
/// Field manager of these statuses.
const MANAGER: &str = "hemicycle-operator/scopes";

/// Runs until dropped.
pub async fn run(context: Arc<Context>) {
    let mut changes = context.changes();
    let mut tick = interval(LOOK_EVERY);
    let mut before = None;
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            changed = changes.next() => {
                if changed.is_none() {
                    return;
                }
                sleep(GATHER).await;
            }
        }
        before = look(&context, before).await;
    }
}

/// What is found about one scope.
#[derive(Debug, Default)]
struct Found {
    /// Kubernetes nodes that lie in it, by how well that is known.
    inside: BTreeMap<KubernetesNodeName, Level>,
    /// Kubernetes nodes that are declared to and do not, with the reason.
    contradicted: BTreeMap<KubernetesNodeName, String>,
}

/// What is seen of one scope.
struct Scope {
    name: ScopeName,
    resource: QualificationScope,
    seen: ScopeSeen,
}

/// What each scope was found to hold.
type ByScope = BTreeMap<ScopeName, Found>;

async fn look(context: &Context, before: Option<ByScope>) -> Option<ByScope> {
    let (scopes, nodes) = (&context.watches.scopes, &context.watches.kubernetes_nodes);
    if scopes.wait_until_ready().now_or_never().is_none()
        || nodes.wait_until_ready().now_or_never().is_none()
    {
        return before;
    }
    let readable = scopes.state().into_iter().filter_map(|guard| {
        let resource = guard.0.as_ref().ok()?.clone();
        let name = ScopeName::new(resource.name_any());
        Some(Scope { name, seen: seen::scope(&resource), resource })
    });
    let scopes: Vec<Scope> = readable.collect();
    let now = seen::timestamp(context.now());
    if context.book.awaits(scopes.iter().map(|scope| &scope.name), Level::E0, now) {
        // A new leader would tell of every Kubernetes node that nobody vouches for it.
        return before;
    }
    let nodes = Testimony::new(&context.book, &context.watches).kubernetes_nodes(&context.watches);
    let found = weigh(&scopes, &nodes, now);
    if let Some(before) = &before {
        acts::evidence(context, before, &found);
    }
    stamp::all(context, &scopes, &found, now).await;
    for scope in &scopes {
        let found = found.get(&scope.name);
        if let Some(found) = found {
            tell_owner(context, scope, found).await;
        }
    }
    Some(found)
}

fn weigh(
    scopes: &[Scope],
    nodes: &BTreeMap<KubernetesNodeName, KubernetesNodeSeen>,
    now: Timestamp,
) -> ByScope {
    let mut all = ByScope::new();
    for scope in scopes {
        let found = all.entry(scope.name.clone()).or_default();
        for (name, node) in nodes {
            match evidence::weigh((&scope.name, &scope.seen), (name, node), now) {
                Weighed::Unclaimed => {}
                Weighed::Contradicted(what) => {
                    found.contradicted.insert(name.clone(), what);
                }
                Weighed::Known(standing) => {
                    found.inside.insert(name.clone(), standing.level);
                }
            }
        }
    }
    all
}

impl Scope {
    fn holds(&self, now: Timestamp) -> bool {
        sovereignty::holds(&self.name, Some(&self.seen), now).is_ok()
    }
}

async fn tell_owner(context: &Context, scope: &Scope, found: &Found) {
    let resource = &scope.resource;
    let before = resource.status.clone().unwrap_or_default();
    let after = status::status(resource, found, &before, context.now());
    let left = status::seconds_left(resource, context.now());
    context.metrics.scope_seconds_left.with_label_values(&[&resource.name_any()]).set(left);
    if before == after || context.still_leading().is_err() {
        return;
    }
    acts::scope(context, resource, &before, &after);
    if let Some(News { good, reason, message }) = status::news(&before, &after) {
        let type_ = if good { EventType::Normal } else { EventType::Warning };
        let about = resource.object_ref(&());
        tell::publish(context, &about, type_, (&reason, "Observe"), message).await;
    }
    write(context, resource, &after).await;
}

async fn write(
    context: &Context,
    resource: &QualificationScope,
    status: &QualificationScopeStatus,
) {
    let name = resource.name_any();
    let body = json!({
        "apiVersion": QualificationScope::api_version(&()),
        "kind": QualificationScope::kind(&()),
        "metadata": {"name": name},
        "status": status,
    });
    let api: Api<QualificationScope> = Api::all(context.client.clone());
    let params = PatchParams::apply(MANAGER).force();
    if let Err(error) = api.patch_status(&name, &params, &Patch::Apply(&body)).await {
        let error = &error as &dyn std::error::Error;
        tracing::warn!(error, scope = name, "its status could not be written");
    }
}
