//! Tells people what was seen and done: statuses and Events. Writes nothing else, and decides only
//! whether a change is worth a write. Invariant: an Event is made for a change, not for every plan.

use hemicycle_crds::{
    ANNOTATION_ADDRESSES, Condition, MediaNode, MediaNodeStatus, MeetingCluster,
    MeetingClusterStatus,
};
use jiff::Timestamp;
use k8s_openapi::{api::core::v1::ObjectReference, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use kube::{
    Api, Resource, ResourceExt,
    api::{Patch, PatchParams},
    core::PartialObjectMeta,
    runtime::events::{Event, EventType},
};
use operator_core::{
    Condition as CoreCondition, ConditionKind, Reason, Status as CoreStatus,
    fleet::{self, Standing},
    plan::PlanReport,
    policy::{Policy, PolicyError},
    sovereignty,
    world::World,
};
use serde_json::{Value, json};

use super::{
    build,
    context::Context,
    error::ReconcileError,
    fetch::{self, Observed},
    findings, seen, status,
    workload::Workload,
};
use crate::events;

/// Field manager of statuses: another than that of the objects, so that neither clears the other.
const STATUS_MANAGER: &str = "hemicycle-operator/status";

/// What there is to tell.
pub struct Account<'a> {
    /// The resource.
    pub cluster: &'a MeetingCluster,
    /// What objects are made from.
    pub workload: &'a Workload,
    /// What was read.
    pub observed: &'a Observed,
    /// What the plan was made from.
    pub world: &'a World,
    /// What is wanted.
    pub policy: &'a Policy,
    /// Why the plan is what it is.
    pub report: &'a PlanReport,
    /// Whether the plan was carried out to its end.
    pub carried_out: bool,
    /// Now.
    pub now: Timestamp,
}

/// Writes all statuses that changed, and Events.
///
/// # Errors
/// When a status cannot be written.
pub async fn everybody(
    context: &Context,
    account: &Account<'_>,
    conditions: &[CoreCondition],
) -> Result<(), ReconcileError> {
    context.still_leading()?;
    let tenant = account.workload.tenant();
    let written = context.remember(&tenant, |memory| memory.status_written);
    let every = status::numbers_every_ms(account.observed.media_nodes.len());
    let numbers_due =
        written.is_none_or(|at| account.now.as_millisecond() - at.as_millisecond() >= every);
    let numbers = if numbers_due { Numbers::Due } else { Numbers::Wait };
    let facts = status::Facts {
        generation: account.cluster.metadata.generation,
        now: account.now,
        epoch: context.epoch,
        scheme: if account.workload.gateway.tls_secret.is_some() { "wss" } else { "ws" },
        domain: &account.workload.domain,
        keys: &context.signing,
        flows: &build::flows::listed(account.workload),
    };
    let open = account.report.violations_open().count();
    let gauge = context.metrics.witness.violations_open.with_label_values(&[&tenant]);
    gauge.set(i64::try_from(open).unwrap_or(i64::MAX));
    let before = account.cluster.status.clone().unwrap_or_default();
    let after = status::meeting_cluster(&before, conditions, account.report, &facts);
    if status::is_transition(&before, &after) || (numbers == Numbers::Due && before != after) {
        write_cluster(context, account.cluster, &after).await?;
    }
    media_nodes(context, account, numbers).await?;
    if numbers == Numbers::Due {
        context.remember(&tenant, |memory| memory.status_written = Some(account.now));
    }
    events(context, account, conditions).await;
    findings::publish(context, account).await;
    Ok(())
}

/// Whether numbers alone are worth a write now.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Numbers {
    Due,
    Wait,
}

fn write_error(act: String) -> impl FnOnce(kube::Error) -> ReconcileError {
    move |source| ReconcileError::Write { act, source }
}

async fn write_cluster(
    context: &Context,
    cluster: &MeetingCluster,
    status: &MeetingClusterStatus,
) -> Result<(), ReconcileError> {
    write_cluster_status(context, &cluster.metadata, json!(status)).await
}

async fn write_cluster_status(
    context: &Context,
    metadata: &ObjectMeta,
    status: Value,
) -> Result<(), ReconcileError> {
    let name = metadata.name.as_deref().unwrap_or_default();
    let namespace = metadata.namespace.as_deref().unwrap_or_default();
    // Typed only by its path: what answers need not be readable either.
    let api: Api<PartialObjectMeta<MeetingCluster>> =
        Api::namespaced(context.client.clone(), namespace);
    let body = json!({
        "apiVersion": MeetingCluster::api_version(&()),
        "kind": MeetingCluster::kind(&()),
        // Another of the same name is not told this one's story.
        "metadata": {"name": name, "uid": metadata.uid},
        "status": status,
    });
    let params = PatchParams::apply(STATUS_MANAGER).force();
    let patched = api.patch_status(name, &params, &Patch::Apply(&body)).await;
    gone_is_fine(patched, format!("write the status of MeetingCluster {name}"))
}

/// The object may have gone meanwhile: then there is nobody to tell.
fn gone_is_fine<T>(patched: kube::Result<T>, act: String) -> Result<(), ReconcileError> {
    match patched {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
        Err(source) => Err(write_error(act)(source)),
    }
}

async fn media_nodes(
    context: &Context,
    account: &Account<'_>,
    numbers: Numbers,
) -> Result<(), ReconcileError> {
    let now = seen::timestamp(account.now);
    let tenant = account.workload.tenant();
    let standings = fleet::standings(account.world, now);
    for (name, media_node) in &account.observed.media_nodes {
        let key = name.as_str().into();
        let (Some(seen), Some(standing)) =
            (account.world.media_nodes.get(&key), standings.get(&key))
        else {
            continue;
        };
        let before = media_node.status.clone().unwrap_or_default();
        let pod = account.observed.pods.get(name);
        let written = pod.and_then(|pod| pod.annotations().get(ANNOTATION_ADDRESSES));
        let host_ip = pod.and_then(|pod| pod.status.as_ref()?.host_ip.as_ref());
        let version = context.fleet.version(&tenant, name);
        let facts = status::MediaNodeFacts {
            standing,
            attested: sovereignty::attested(&account.report.gate, seen),
            address: written.or(host_ip).map(String::as_str),
            version: version.as_deref(),
            generation: media_node.metadata.generation,
            now: account.now,
        };
        let after = status::media_node(&before, account.policy, seen, &facts);
        let changed = status::is_media_node_transition(&before, &after)
            || (numbers == Numbers::Due && before != after);
        if changed && !matches!(standing, Standing::Leaving) {
            write_media_node(context, media_node, &after).await?;
        }
    }
    Ok(())
}

async fn write_media_node(
    context: &Context,
    media_node: &MediaNode,
    status: &MediaNodeStatus,
) -> Result<(), ReconcileError> {
    let name = media_node.name_any();
    let api: Api<MediaNode> =
        Api::namespaced(context.client.clone(), &media_node.namespace().unwrap_or_default());
    let body = json!({
        "apiVersion": MediaNode::api_version(&()),
        "kind": MediaNode::kind(&()),
        "metadata": {"name": name, "uid": media_node.uid()},
        "status": status,
    });
    let params = PatchParams::apply(STATUS_MANAGER).force();
    let patched = api.patch_status(&name, &params, &Patch::Apply(&body)).await;
    gone_is_fine(patched, format!("write the status of MediaNode {name}"))
}

/// One Event for each thing done, and for each condition that changed its mind.
async fn events(context: &Context, account: &Account<'_>, conditions: &[CoreCondition]) {
    let tenant = account.workload.tenant();
    let about = account.cluster.object_ref(&());
    // What could not be done is told by the condition that says why.
    for (stage, done) in account.report.done().filter(|_| account.carried_out) {
        let note = done.to_owned();
        publish(context, &about, EventType::Normal, (stage.as_str(), "Plan"), note).await;
    }
    for condition in conditions {
        let kind = condition.kind.as_str();
        let word = format!("{}/{}", condition.status.as_str(), condition.reason.as_str());
        let changed = context.remember(&tenant, |memory| {
            memory.told.insert(kind.to_owned(), word.clone()).is_some_and(|old| old != word)
        });
        if changed {
            let type_ = if is_bad(condition) { EventType::Warning } else { EventType::Normal };
            let note = format!("{kind} is {}: {}", condition.status.as_str(), condition.message);
            let reason = condition.reason.as_str();
            publish(context, &about, type_, (reason, "Observe"), note).await;
        }
    }
}

fn is_bad(condition: &CoreCondition) -> bool {
    match condition.kind {
        ConditionKind::Degraded => condition.status == CoreStatus::True,
        ConditionKind::Progressing | ConditionKind::Paused => false,
        _ => condition.status != CoreStatus::True,
    }
}

/// Publishes an Event about what `about` names.
pub(super) async fn publish(
    context: &Context,
    about: &ObjectReference,
    type_: EventType,
    (reason, action): (&str, &str),
    note: String,
) {
    let (reason, action) = (reason.to_owned(), action.to_owned());
    let event = Event { type_, reason, note: Some(note), action, secondary: None };
    if let Err(error) = events::publish(&context.recorder, about, event).await {
        let error = &error as &dyn std::error::Error;
        tracing::debug!(error, about = about.name, "an Event could not be written");
    }
}

/// The wishes contradict each other: says so, and lets everything be as it is.
///
/// # Errors
/// When the status cannot be written.
pub async fn invalid(
    context: &Context,
    cluster: &MeetingCluster,
    error: &PolicyError,
    now: Timestamp,
) -> Result<(), ReconcileError> {
    let before = cluster.status.clone().unwrap_or_default();
    let generation = cluster.metadata.generation;
    let after = MeetingClusterStatus {
        conditions: not_valid(&before.conditions, &error.to_string(), generation, now),
        observed_generation: generation,
        ..before.clone()
    };
    if before == after {
        return Ok(());
    }
    let (note, reason) = (error.to_string(), Reason::SpecInvalid.as_str());
    let about = cluster.object_ref(&());
    publish(context, &about, EventType::Warning, (reason, "Validate"), note).await;
    tracing::warn!(tenant = fetch::tenant_of(cluster), %error, "the wishes contradict each other");
    write_cluster(context, cluster, &after).await
}

/// The resource cannot be decoded: its conditions say so, and are all that can be written of it.
///
/// # Errors
/// When the status cannot be written.
pub async fn undecodable(
    context: &Context,
    metadata: &ObjectMeta,
    error: &str,
) -> Result<(), ReconcileError> {
    context.still_leading()?;
    let namespace = metadata.namespace.as_deref().unwrap_or_default();
    let name = metadata.name.as_deref().unwrap_or_default();
    let known = context.remember(&format!("{namespace}/{name}"), |memory| {
        memory.told.insert("Undecodable".into(), error.to_owned())
    });
    if known.as_deref() == Some(error) {
        return Ok(());
    }
    let message = format!(
        "the MeetingCluster cannot be read ({error}): compare it with kubectl explain \
         meetingcluster.spec"
    );
    let conditions = not_valid(&[], &message, metadata.generation, context.now());
    let status = json!({"conditions": conditions, "observedGeneration": metadata.generation});
    write_cluster_status(context, metadata, status).await
}

/// The conditions of a meeting cluster that is left as it is, because nobody can tell what it asks.
fn not_valid(
    before: &[Condition],
    message: &str,
    generation: Option<i64>,
    now: Timestamp,
) -> Vec<Condition> {
    let conditions = [("Ready", "False"), ("Degraded", "True")].map(|(type_, status)| {
        let fresh = Condition {
            type_: type_.into(),
            status: status.into(),
            reason: Reason::SpecInvalid.as_str().into(),
            message: message.to_owned(),
            last_transition_time: String::new(),
            observed_generation: generation,
        };
        status::with_time(before, fresh, now)
    });
    conditions.into()
}
