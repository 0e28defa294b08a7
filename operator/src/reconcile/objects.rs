//! Writes the standing objects of a meeting cluster by server-side apply and removes those wanted
//! no more. Decides nothing: what is not in the list does not stay, what is in it is made so.
//! Invariant: an object that already is as wanted is not written; a deletion carries UID and
//! resourceVersion of what was seen. What is due is read anew: no copy is believed.

use std::collections::{BTreeMap, BTreeSet};

use hemicycle_crds::LABEL_MEETING_CLUSTER;
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, DynamicObject, ListParams, Patch, PatchParams, Preconditions},
};
use serde_json::Value;

use super::{
    build::manifest::{Kind, Manifest, hash_of},
    context::{Context, Memory},
    error::ReconcileError,
    workload::{MANAGED_BY, Workload},
};

/// Field manager of the objects; status has one of its own.
pub const FIELD_MANAGER: &str = "hemicycle-operator/meetingcluster";
/// Annotation with the hash of what was applied, so that a wish that lost a field is noticed.
const APPLIED: &str = "hemicycle.dev/applied";

/// Selects the objects of one meeting cluster.
#[must_use]
pub fn selector(meeting_cluster: &str) -> String {
    format!("{}={},{LABEL_MEETING_CLUSTER}={meeting_cluster}", MANAGED_BY.0, MANAGED_BY.1)
}

pub(super) fn api(client: &Client, kind: Kind, namespace: &str) -> Api<DynamicObject> {
    Api::namespaced_with(client.clone(), namespace, &kind.resource())
}

/// Makes the standing objects so and removes the others of the same labels and owner; returns the
/// kinds of those that were written. Kinds that are not due are taken for granted.
///
/// # Errors
/// The first call that fails; what was done before stays done.
pub async fn apply(
    context: &Context,
    workload: &Workload,
    wanted: &[Manifest],
) -> Result<BTreeSet<Kind>, ReconcileError> {
    let tenant = workload.tenant();
    let mut written = BTreeSet::new();
    for kind in Kind::PRUNED {
        let wanted: Vec<_> = wanted.iter().filter(|manifest| manifest.kind == kind).collect();
        let wish = hash_of(wanted.iter().map(|manifest| &manifest.body));
        let look = |memory: &mut Memory| {
            // Nobody watches a kind that may not be installed.
            if kind == Kind::HttpRoute && !wanted.is_empty() {
                memory.due.touch(kind);
            }
            memory.due.look(kind, &wish, context.now())
        };
        let Some(look) = context.remember(&tenant, look) else { continue };
        let wrote = apply_kind(&context.client, workload, kind, &wanted).await?;
        context.remember(&tenant, |memory| memory.due.settle(kind, look, wrote));
        if wrote {
            written.insert(kind);
        }
    }
    Ok(written)
}

/// Makes the objects of one kind so, and says whether any had to be written.
async fn apply_kind(
    client: &Client,
    workload: &Workload,
    kind: Kind,
    wanted: &[&Manifest],
) -> Result<bool, ReconcileError> {
    let namespace = &workload.namespace;
    let live = match list(client, kind, namespace, &workload.name).await {
        // The Gateway API may not be installed, and nothing of it is asked for.
        Err(error) if wanted.is_empty() && kind == Kind::HttpRoute && is_absent(&error) => {
            return Ok(false);
        }
        live => live?,
    };
    let mut written = false;
    for manifest in wanted {
        written |= apply_one(client, namespace, manifest, live.get(&manifest.name)).await?;
    }
    for (name, object) in &live {
        let kept = wanted.iter().any(|wish| wish.name == *name);
        let owners = object.owner_references();
        let ours = owners.iter().any(|owner| owner.uid == workload.owner.uid);
        if !kept && ours && object.metadata.deletion_timestamp.is_none() {
            delete(client, kind, namespace, object).await?;
        }
    }
    Ok(written)
}

/// The API server knows no such kind.
fn is_absent(error: &ReconcileError) -> bool {
    matches!(error, ReconcileError::Read { source: kube::Error::Api(status), .. }
        if status.code == 404)
}

async fn list(
    client: &Client,
    kind: Kind,
    namespace: &str,
    meeting_cluster: &str,
) -> Result<BTreeMap<String, DynamicObject>, ReconcileError> {
    let params = ListParams::default().labels(&selector(meeting_cluster));
    let listed = api(client, kind, namespace).list(&params).await.map_err(|source| {
        ReconcileError::Read { what: format!("the list of {}", kind.resource().plural), source }
    })?;
    Ok(listed.items.into_iter().map(|object| (object.name_any(), object)).collect())
}

/// Writes one object unless it is as wanted, and says whether it did.
async fn apply_one(
    client: &Client,
    namespace: &str,
    manifest: &Manifest,
    live: Option<&DynamicObject>,
) -> Result<bool, ReconcileError> {
    let mut body = manifest.body.clone();
    let hash = hash_of([&body]);
    if let Some(metadata) = body.get_mut("metadata").and_then(Value::as_object_mut) {
        let annotations = metadata.entry("annotations").or_insert_with(|| serde_json::json!({}));
        if let Some(annotations) = annotations.as_object_mut() {
            annotations.insert(APPLIED.to_owned(), hash.into());
        }
    }
    if live.is_some_and(|live| is_as_wanted(live, &body)) {
        return Ok(false);
    }
    let params = PatchParams::apply(FIELD_MANAGER).force();
    let act = format!("apply {} {}", manifest.kind.resource().kind, manifest.name);
    let failed = |source| ReconcileError::Write { act: act.clone(), source };
    let api = api(client, manifest.kind, namespace);
    let applied = api.patch(&manifest.name, &params, &Patch::Apply(&body)).await;
    let applied = applied.map_err(failed)?;
    if !is_as_wanted(&applied, &body) {
        // What somebody added to a list or a selector by hand is theirs to server-side apply, and
        // would stay. A merge writes our lists whole, and takes away what it is told to.
        let now = serde_json::to_value(&applied).unwrap_or_default();
        let params = PatchParams { force: false, ..params };
        let body = closed(&now, body);
        api.patch(&manifest.name, &params, &Patch::Merge(&body)).await.map_err(failed)?;
    }
    tracing::info!(act, namespace, "applied");
    Ok(true)
}

async fn delete(
    client: &Client,
    kind: Kind,
    namespace: &str,
    object: &DynamicObject,
) -> Result<(), ReconcileError> {
    let name = object.name_any();
    let act = format!("delete {} {name}", kind.resource().kind);
    let params = DeleteParams {
        preconditions: Some(Preconditions {
            uid: object.uid(),
            resource_version: object.resource_version(),
        }),
        ..DeleteParams::default()
    };
    match api(client, kind, namespace).delete(&name, &params).await {
        Ok(_) => {
            tracing::info!(act, namespace, "removed an object that is wanted no more");
            Ok(())
        }
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        Err(source) => Err(ReconcileError::Write { act, source }),
    }
}

/// Every field that we set has the value that we set. Fields that others or defaults set do not
/// count.
fn is_as_wanted(live: &DynamicObject, wanted: &Value) -> bool {
    let mut wanted = wanted.clone();
    if let Some(fields) = wanted.as_object_mut() {
        // Items of a list do not say what they are.
        fields.retain(|key, _| key != "apiVersion" && key != "kind");
    }
    serde_json::to_value(live).is_ok_and(|live| contains(&live, &wanted))
}

/// Whether a map is ours whole: one label more in a selector, and it selects nothing.
fn is_closed(key: &str) -> bool {
    matches!(key, "selector" | "matchLabels")
}

/// `wanted` with a null for each key that a map of ours has gained in `live`.
fn closed(live: &Value, mut wanted: Value) -> Value {
    let (Value::Object(live), Value::Object(fields)) = (live, &mut wanted) else { return wanted };
    for (key, field) in fields.iter_mut() {
        let Some(live) = live.get(key) else { continue };
        *field = closed(live, field.take());
        if let (true, Value::Object(live), Value::Object(field)) = (is_closed(key), live, field) {
            for gained in live.keys() {
                field.entry(gained.clone()).or_insert(Value::Null);
            }
        }
    }
    wanted
}

/// Whether `whole` has everything that `part` has; what it has beyond that does not count.
#[must_use]
pub fn contains(whole: &Value, part: &Value) -> bool {
    match (whole, part) {
        (Value::Object(whole), Value::Object(part)) => {
            part.iter().all(|(key, part)| match whole.get(key) {
                Some(whole) if is_closed(key) => whole == part,
                Some(whole) => contains(whole, part),
                // The API server leaves out what is empty.
                None => is_empty(part),
            })
        }
        (Value::Array(whole), Value::Array(part)) => {
            whole.len() == part.len() && whole.iter().zip(part).all(|(a, b)| contains(a, b))
        }
        _ => whole == part,
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn defaults_of_the_server_are_no_difference_and_edits_by_hand_are() {
        let wanted = json!({"spec": {"replicas": 2, "ports": [{"port": 80}], "none": []}});
        let mut live =
            json!({"spec": {"replicas": 2, "ports": [{"port": 80, "nodePort": 3}], "x": 1}});
        assert!(contains(&live, &wanted));
        live["spec"]["replicas"] = json!(3);
        assert!(!contains(&live, &wanted));
    }

    #[test]
    fn a_selector_is_ours_whole_and_what_it_gained_is_taken_away() {
        let wanted = json!({"spec": {"selector": {"app": "gateway"}, "type": "ClusterIP"}});
        let mut live = wanted.clone();
        live["spec"]["clusterIP"] = json!("198.18.240.9");
        assert!(contains(&live, &wanted));
        live["spec"]["selector"]["team"] = json!("somebody");
        assert!(!contains(&live, &wanted));
        let merged = json!({"spec": {"selector": {"app": "gateway", "team": null},
            "type": "ClusterIP"}});
        assert_eq!(closed(&live, wanted), merged);
    }
}
