//! Reads what a plan needs: media nodes and pods fresh from the API server, Kubernetes nodes and
//! scopes from the warm copies, reports from the fleet. Writes nothing and decides nothing.
//! Invariant: an absence that could cost a meeting is confirmed at the API server, never taken from
//! a copy that may lag.

use std::collections::BTreeMap;

use futures_util::FutureExt;
use hemicycle_crds::{
    ANNOTATION_DRAIN, ANNOTATION_TEMPLATE_HASH, MediaNode, MeetingCluster, QualificationScope,
    media_node::DesiredState as SpecState,
};
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{Node, Pod, Secret},
};
use kube::{Api, ResourceExt, api::ListParams, core::DeserializeGuard};
use operator_core::{
    ids::{KubernetesNodeName, MediaNodeName, ScopeName, Timestamp},
    policy::Policy,
    world::{
        CredentialsSeen, Deleting, DesiredState, DrainCause, DrainRequested, GatewayRollout,
        GatewaySeen, KubernetesNodeSeen, MediaNodeSeen, PodSeen, PodTrouble, ScopeSeen, World,
    },
};

use super::{
    addresses,
    build::gateway,
    context::Context,
    credentials,
    error::ReconcileError,
    objects, seen,
    workload::{GATEWAY, LABEL_OF_COMPONENT, MEDIA_NODE, Workload},
};
use crate::evidence::Testimony;

/// What was read.
#[derive(Debug)]
pub struct Observed {
    /// The media nodes' resources, by name.
    pub media_nodes: BTreeMap<String, MediaNode>,
    /// Pods that bear the labels of media nodes, by name.
    pub pods: BTreeMap<String, Pod>,
    /// Kubernetes nodes; `None` when no copy is there yet.
    pub kubernetes_nodes: Option<BTreeMap<KubernetesNodeName, KubernetesNodeSeen>>,
    /// Scopes; likewise.
    pub scopes: Option<BTreeMap<ScopeName, ScopeSeen>>,
    /// `metadata.resourceVersion` of the Secret with the keys.
    pub credentials_version: Option<String>,
    /// What the keys are worth.
    pub credentials: CredentialsSeen,
    /// The public door.
    pub gateway: Option<GatewaySeen>,
}

fn read_error(what: &str) -> impl FnOnce(kube::Error) -> ReconcileError {
    let what = what.to_owned();
    move |source| ReconcileError::Read { what, source }
}

/// Reads everything about `cluster`.
///
/// # Errors
/// When media nodes, pods or the keys cannot be read. Kubernetes nodes and scopes that cannot be
/// read are not an error: the plan is told that they are not known.
pub async fn observe(
    context: &Context,
    cluster: &MeetingCluster,
) -> Result<Observed, ReconcileError> {
    let namespace = cluster.namespace().unwrap_or_default();
    let name = cluster.name_any();
    let client = || context.client.clone();

    let media_nodes: Api<DeserializeGuard<MediaNode>> = Api::namespaced(client(), &namespace);
    let mine = ListParams::default().fields(&format!("spec.meetingCluster={name}"));
    let media_nodes = media_nodes.list(&mine).await.map_err(read_error("the media nodes"))?;

    let pods: Api<Pod> = Api::namespaced(client(), &namespace);
    let pods = pods.list(&ListParams::default().labels(&objects::selector(&name))).await;
    let pods = pods.map_err(read_error("the pods"))?.items;
    let of = |component: &str| {
        let is = |pod: &&Pod| pod.labels().get(LABEL_OF_COMPONENT).is_some_and(|c| c == component);
        by_name(pods.iter().filter(is).cloned())
    };
    let (pods, gateway_pods) = (of(MEDIA_NODE), of(GATEWAY));

    let secret_name = &cluster.spec.credentials.secret_ref.name;
    let secrets: Api<Secret> = Api::namespaced(client(), &namespace);
    let secret = secrets.get_opt(secret_name).await;
    let secret = secret.map_err(read_error(&format!("Secret {secret_name}")))?;

    let now = seen::timestamp(context.now());
    let deployments: Api<Deployment> = Api::namespaced(client(), &namespace);
    let deployment = deployments.get_opt(&gateway::name_of(&name)).await;
    let deployment = deployment.map_err(read_error("the gateway's Deployment"))?;

    Ok(Observed {
        kubernetes_nodes: kubernetes_nodes(context, pods.values().chain(gateway_pods.values()))
            .await?,
        media_nodes: readable(media_nodes.items),
        pods,
        scopes: scopes(context),
        credentials_version: secret.as_ref().and_then(ResourceExt::resource_version),
        credentials: credentials::judge(secret_name, secret.as_ref()),
        gateway: deployment.as_ref().map(|deployment| gateway_seen(deployment, &gateway_pods, now)),
    })
}

fn by_name(pods: impl Iterator<Item = Pod>) -> BTreeMap<String, Pod> {
    pods.map(|pod| (pod.name_any(), pod)).collect()
}

/// A resource that cannot be decoded is left alone: neither counted nor touched.
fn readable(found: Vec<DeserializeGuard<MediaNode>>) -> BTreeMap<String, MediaNode> {
    found
        .into_iter()
        .filter_map(|guard| match guard.0 {
            Ok(media_node) => Some((media_node.name_any(), media_node)),
            Err(invalid) => {
                let name = invalid.metadata.name.unwrap_or_default();
                tracing::warn!(media_node = name, error = invalid.error, "cannot be read");
                None
            }
        })
        .collect()
}

async fn kubernetes_nodes(
    context: &Context,
    pods: impl Iterator<Item = &Pod>,
) -> Result<Option<BTreeMap<KubernetesNodeName, KubernetesNodeSeen>>, ReconcileError> {
    let store = &context.watches.kubernetes_nodes;
    if store.wait_until_ready().now_or_never().is_none() {
        return Ok(None);
    }
    let testimony = Testimony::new(&context.book, &context.watches);
    let mut all = testimony.kubernetes_nodes(&context.watches);
    // The copy may not know a young Kubernetes node yet: its absence would count as its end.
    let api: Api<Node> = Api::all(context.client.clone());
    for pod in pods {
        let Some(name) = pod.spec.as_ref().and_then(|spec| spec.node_name.clone()) else {
            continue;
        };
        let key = KubernetesNodeName::new(name.clone());
        if let std::collections::btree_map::Entry::Vacant(entry) = all.entry(key) {
            let found = api.get_opt(&name).await;
            if let Some(node) = found.map_err(read_error(&format!("Node {name}")))? {
                entry.insert(testimony.kubernetes_node(&node).1);
            }
        }
    }
    Ok(Some(all))
}

fn scopes(context: &Context) -> Option<BTreeMap<ScopeName, ScopeSeen>> {
    let store = &context.watches.scopes;
    store.wait_until_ready().now_or_never()?.ok()?;
    let readable = |guard: &DeserializeGuard<QualificationScope>| {
        let scope = guard.0.as_ref().ok()?;
        Some((ScopeName::new(scope.name_any()), seen::scope(scope)))
    };
    Some(store.state().iter().filter_map(|guard| readable(guard)).collect())
}

fn gateway_seen(
    deployment: &Deployment,
    pods: &BTreeMap<String, Pod>,
    now: Timestamp,
) -> GatewaySeen {
    let number = |count: Option<i32>| u32::try_from(count.unwrap_or_default()).unwrap_or_default();
    let of_pods = pods.iter().find_map(|(name, pod)| {
        let words = seen::trouble(pod.status.as_ref()?)?;
        Some(PodTrouble { pod: name.clone(), words })
    });
    let wanted = number(deployment.spec.as_ref().and_then(|spec| spec.replicas));
    let status = deployment.status.clone().unwrap_or_default();
    let updated = number(status.updated_replicas);
    // As `kubectl rollout status` judges.
    let done = status.observed_generation >= deployment.metadata.generation
        && [updated, number(status.replicas), number(status.available_replicas)] == [wanted; 3];
    GatewaySeen {
        replicas_wanted: wanted,
        replicas_ready: number(status.ready_replicas),
        rollout: if done { GatewayRollout::Done } else { GatewayRollout::Going { updated } },
        trouble: of_pods.or_else(|| not_made(deployment)),
        pods: pods.iter().map(|(name, pod)| (name.clone().into(), seen::pod(pod, now))).collect(),
    }
}

/// Why the Deployment cannot make a pod, such as a quota.
fn not_made(deployment: &Deployment) -> Option<PodTrouble> {
    let conditions = deployment.status.as_ref()?.conditions.as_ref()?;
    let failed = |type_: &str, status: &str| type_ == "ReplicaFailure" && status == "True";
    let failure = conditions.iter().find(|it| failed(&it.type_, &it.status))?;
    Some(PodTrouble { pod: deployment.name_any(), words: failure.message.clone()? })
}

/// The world of one meeting cluster, from what was read and what the fleet and the last plan know.
#[must_use]
pub fn world(
    context: &Context,
    cluster: &MeetingCluster,
    observed: &Observed,
    workload: &Workload,
    policy: &Policy,
    now: Timestamp,
) -> World {
    let tenant = tenant_of(cluster);
    let status = cluster.status.as_ref();
    let media_nodes = observed.media_nodes.iter().map(|(name, media_node)| {
        let pod = observed.pods.get(name);
        let mut seen = media_node_seen(media_node, pod, &policy.template_hash, now);
        seen.report = context.fleet.report(&tenant, name);
        if let (PodSeen::Present(seen), Some(pod)) = (&mut seen.pod, pod)
            && seen.trouble.is_some()
            && let Some(missing) = addresses::missing(workload.media.advertised, name, pod)
        {
            seen.trouble = Some(missing);
        }
        (MediaNodeName::new(name.clone()), seen)
    });
    let (scale_memory, refusals, violations) = context.remember(&tenant, |memory| {
        (memory.scale.clone(), memory.refusals.clone(), memory.violations.clone())
    });
    let violations = violations.unwrap_or_else(|| {
        status.map(|status| seen::violations(&status.violations)).unwrap_or_default()
    });
    let asked_for = &policy.sovereignty;
    // What may be known in a moment is not known yet: nothing that runs is touched for that.
    let awaited = context.book.awaits(&asked_for.scopes, asked_for.minimum_evidence, now);
    World {
        media_nodes: media_nodes.collect(),
        kubernetes_nodes: observed.kubernetes_nodes.clone().filter(|_| !awaited),
        scopes: observed.scopes.clone(),
        ordinal_high_water: status
            .map(|status| u64::try_from(status.ordinal_high_water).unwrap_or_default())
            .unwrap_or_default(),
        demand: context.fleet.demand(&tenant),
        scale_memory,
        credentials: observed.credentials.clone(),
        gateway: observed.gateway.clone(),
        placer: context.fleet.placer_seen(&tenant),
        refusals,
        violations,
        admission_trouble: context.admission.guard.trouble(seen::time(now)),
    }
}

/// "namespace/name".
#[must_use]
pub fn tenant_of(cluster: &impl ResourceExt) -> String {
    format!("{}/{}", cluster.namespace().unwrap_or_default(), cluster.name_any())
}

fn media_node_seen(
    media_node: &MediaNode,
    pod: Option<&Pod>,
    template_hash: &str,
    now: Timestamp,
) -> MediaNodeSeen {
    let uid = media_node.uid().unwrap_or_default();
    // A pod of the name that somebody else owns is not this media node's pod.
    let pod = pod.filter(|pod| pod.owner_references().iter().any(|owner| owner.uid == uid));
    let had_pod = media_node.status.as_ref().is_some_and(|status| status.pod_uid.is_some());
    let spec = &media_node.spec;
    let since = spec.desired_state_since.as_ref().and_then(|since| since.parse().ok());
    let made_from = pod.and_then(|pod| pod.annotations().get(ANNOTATION_TEMPLATE_HASH).cloned());
    MediaNodeSeen {
        uid: uid.into(),
        resource_version: media_node.resource_version().unwrap_or_default().into(),
        deleting: match media_node.metadata.deletion_timestamp {
            Some(_) => Deleting::Yes,
            None => Deleting::No,
        },
        desired: desired(spec.desired_state),
        drain_cause: spec.desired_state_reason.as_deref().and_then(DrainCause::parse),
        desired_since: since.map(seen::timestamp),
        drain_requested: if media_node.annotations().contains_key(ANNOTATION_DRAIN) {
            DrainRequested::Yes
        } else {
            DrainRequested::No
        },
        // Without a pod it will be made from the present template.
        template_hash: made_from.unwrap_or_else(|| template_hash.to_owned()),
        pod: match pod {
            Some(pod) => PodSeen::Present(seen::pod(pod, now)),
            None if had_pod => PodSeen::Gone,
            None => PodSeen::NeverCreated,
        },
        report: None,
    }
}

/// The core's word for a desired state.
#[must_use]
pub fn desired(state: SpecState) -> DesiredState {
    match state {
        SpecState::Serving => DesiredState::Serving,
        SpecState::Draining => DesiredState::Draining,
        SpecState::Retired => DesiredState::Retired,
    }
}
