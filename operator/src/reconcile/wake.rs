//! What wakes the reconcile of a meeting cluster: the resource itself, whatever belongs to it, and
//! what plans of all of them depend on. Reads only what the API server tells of changes; decides
//! nothing. Invariant: whoever changes a standing object wakes its meeting cluster, which then
//! reads those of that kind.

use std::{fmt::Debug, sync::Arc};

use hemicycle_crds::{LABEL_MEETING_CLUSTER, MediaNode, MeetingCluster};
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{Pod, Service},
    networking::v1::{Ingress, NetworkPolicy},
    policy::v1::PodDisruptionBudget,
};
use kube::{
    Api, Resource, ResourceExt,
    core::PartialObjectMeta,
    runtime::{Controller, controller::Config as ControllerConfig, reflector::ObjectRef, watcher},
};

use super::{
    Guarded,
    build::manifest::Kind,
    context::Context,
    workload::{LABEL_OF_COMPONENT, MANAGED_BY, MEDIA_NODE},
};

/// Meeting clusters reconciled at once: kube's default is without bound.
const CONCURRENCY: u16 = 8;

/// The controller of meeting clusters with all its watches. None keeps what it is told of.
pub(super) fn controller(context: &Arc<Context>) -> Controller<Guarded> {
    let client = || context.client.clone();
    let ours = format!("{}={}", MANAGED_BY.0, MANAGED_BY.1);
    let media_pods =
        watcher::Config::default().labels(&format!("{ours},{LABEL_OF_COMPONENT}={MEDIA_NODE}"));
    let owned = watcher::Config::default().labels(&ours);
    let mut controller = Controller::new(Api::<Guarded>::all(client()), watcher::Config::default())
        .with_config(ControllerConfig::default().concurrency(CONCURRENCY))
        .owns(Api::<PartialObjectMeta<MediaNode>>::all(client()), owned.clone())
        .watches(Api::<PartialObjectMeta<Pod>>::all(client()), media_pods, cluster_of_pod)
        .reconcile_all_on(context.changes());
    for (kind, watch) in STANDING {
        controller = watch(controller, context, &owned, kind);
    }
    controller
}

type Watch = fn(Controller<Guarded>, &Arc<Context>, &watcher::Config, Kind) -> Controller<Guarded>;

/// The kinds of standing objects. HTTPRoute is not among them: where it is not installed, a watch
/// would fail for ever.
const STANDING: [(Kind, Watch); 5] = [
    (Kind::Service, watch::<Service>),
    (Kind::NetworkPolicy, watch::<NetworkPolicy>),
    (Kind::PodDisruptionBudget, watch::<PodDisruptionBudget>),
    (Kind::Deployment, watch::<Deployment>),
    (Kind::Ingress, watch::<Ingress>),
];

/// Also watches the objects of one kind.
fn watch<K>(
    controller: Controller<Guarded>,
    context: &Arc<Context>,
    owned: &watcher::Config,
    kind: Kind,
) -> Controller<Guarded>
where
    K: Resource<DynamicType = ()> + Clone + Debug + Send + 'static,
{
    let noticed = context.clone();
    let all = Api::<PartialObjectMeta<K>>::all(context.client.clone());
    controller.watches(all, owned.clone(), move |object| {
        let (namespace, name) = cluster_of_object(&object)?;
        noticed.touch(&format!("{namespace}/{name}"), kind);
        Some(ObjectRef::new(&name).within(&namespace))
    })
}

/// Namespace and name of the meeting cluster that an object belongs to: by its owner, since its
/// labels are what somebody may have edited.
fn cluster_of_object<K>(object: &PartialObjectMeta<K>) -> Option<(String, String)> {
    let metadata = &object.metadata;
    let owners = metadata.owner_references.iter().flatten();
    let owner = owners.filter(|owner| owner.kind == MeetingCluster::kind(&())).map(|it| &it.name);
    let label = metadata.labels.as_ref().and_then(|labels| labels.get(LABEL_MEETING_CLUSTER));
    Some((metadata.namespace.clone()?, owner.chain(label).next()?.clone()))
}

fn cluster_of_pod(pod: PartialObjectMeta<Pod>) -> Option<ObjectRef<Guarded>> {
    let cluster = pod.labels().get(LABEL_MEETING_CLUSTER)?;
    Some(ObjectRef::new(cluster).within(&pod.namespace()?))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn belongs_to(metadata: &Value) -> Option<String> {
        let object = json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata",
            "metadata": metadata});
        let object: PartialObjectMeta<Service> = serde_json::from_value(object).expect("metadata");
        cluster_of_object(&object).map(|(namespace, name)| format!("{namespace}/{name}"))
    }

    /// Harm if it fails: an edit of labels or owners is not noticed.
    #[test]
    fn an_object_belongs_to_its_owner_and_without_one_to_whom_its_label_names() {
        let owner = |kind: &str| {
            json!([{"apiVersion": "hemicycle.dev/v1alpha1", "kind": kind, "name": "visio",
                "uid": "u"}])
        };
        let labels = json!({LABEL_MEETING_CLUSTER: "tchap"});
        let owned = json!({"namespace": "ministry", "labels": labels,
            "ownerReferences": owner("MeetingCluster")});
        assert_eq!(belongs_to(&owned).as_deref(), Some("ministry/visio"));
        let labelled = json!({"namespace": "ministry", "labels": labels,
            "ownerReferences": owner("ReplicaSet")});
        assert_eq!(belongs_to(&labelled).as_deref(), Some("ministry/tchap"));
        assert_eq!(belongs_to(&json!({"namespace": "ministry"})), None);
    }

    /// Harm if it fails: edits of one kind are seen a minute late.
    #[test]
    fn every_kind_but_one_that_may_not_be_installed_is_watched() {
        for kind in Kind::PRUNED {
            let watched = STANDING.iter().any(|(watched, _)| *watched == kind);
            assert_eq!(watched, kind != Kind::HttpRoute, "{kind:?}");
        }
    }
}
