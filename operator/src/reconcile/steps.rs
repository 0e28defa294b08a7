//! Carries out the steps of a plan against the API server and the media nodes, in the plan's order.
//! Leaves no choice to be made: a step whose evidence is outdated fails with a conflict, and the
//! next plan is made from what is there then. Invariant: nothing is written once this replica leads
//! no more.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, DynamicObject, Patch, PatchParams, PostParams, Preconditions},
};
use operator_core::{
    ids::{MediaNodeName, PodName, ResourceVersion, RoomKey, Timestamp, Uid},
    step::{Evidence, Plan, Step},
    world::{DesiredState, DrainCause},
};
use serde_json::{Value, json};

use super::{
    build::{
        manifest::{Kind, Manifest},
        media_pod,
    },
    context::Context,
    error::{ReconcileError, is_conflict},
    objects::FIELD_MANAGER,
    seen,
    workload::{MEDIA_NODE, MediaPod, Workload},
};
use crate::pki::{Authority, Role, store};

/// Carries out `plan`.
///
/// # Errors
/// The first step that fails; those before it stay done, and doing them again changes nothing.
pub async fn carry_out(
    context: &Context,
    workload: &Workload,
    authority: &Authority,
    plan: &Plan,
) -> Result<(), ReconcileError> {
    let executor = Executor { context, workload, authority };
    for step in &plan.steps {
        context.still_leading()?;
        executor.one(step).await?;
    }
    Ok(())
}

struct Executor<'a> {
    context: &'a Context,
    workload: &'a Workload,
    authority: &'a Authority,
}

impl Executor<'_> {
    fn api(&self, kind: Kind) -> Api<DynamicObject> {
        let client = self.context.client.clone();
        Api::namespaced_with(client, &self.workload.namespace, &kind.resource())
    }

    async fn one(&self, step: &Step) -> Result<(), ReconcileError> {
        match step {
            Step::CreateMediaNode { name } => self.create_media_node(name).await,
            Step::CreatePod { media_node, media_node_uid } => {
                self.create_pod(media_node, media_node_uid).await
            }
            Step::SetDesiredState { name, uid, resource_version, state, cause, since } => {
                let seen = Seen { name, uid, resource_version };
                self.set_desired_state(&seen, *state, *cause, *since).await
            }
            Step::SendHome { media_node, room } => {
                self.send_home(media_node, room).await;
                Ok(())
            }
            Step::MoveGateway { pod, uid, resource_version } => {
                self.move_gateway(pod, uid, resource_version).await
            }
            Step::DeleteMediaNode { name, uid, resource_version, evidence } => {
                let seen = Seen { name, uid, resource_version };
                self.delete_media_node(&seen, evidence).await
            }
        }
    }

    async fn create_media_node(&self, name: &MediaNodeName) -> Result<(), ReconcileError> {
        let content = json!({"spec": {
            "meetingCluster": self.workload.name,
            "desiredState": "Serving",
        }});
        let name = name.as_str().to_owned();
        let manifest = Manifest::new(self.workload, Kind::MediaNode, name, MEDIA_NODE, content);
        self.create(&manifest, &self.workload.owner.uid).await
    }

    async fn create_pod(
        &self,
        media_node: &MediaNodeName,
        media_node_uid: &Uid,
    ) -> Result<(), ReconcileError> {
        let owner = media_node_owner(media_node, media_node_uid);
        let place = store::Place {
            namespace: &self.workload.namespace,
            name: media_pod::tls_secret(media_node.as_str()),
            owner: owner.clone(),
            labels: self.workload.labels(MEDIA_NODE),
        };
        let role = Role::MediaNode(media_node.as_str());
        let dns_name = role.dns_name(&self.workload.namespace, &self.workload.name);
        let now = self.context.now();
        // Before the pod, which could not start without it.
        store::ensure_leaf(&self.context.client, &place, self.authority, &dns_name, now).await?;
        let name = media_node.as_str().to_owned();
        let wish = MediaPod { name, owner, epoch: self.context.epoch };
        let manifest = media_pod::media_pod(self.workload, &wish);
        self.create(&manifest, media_node_uid.as_str()).await
    }

    /// Creates an object that must not exist yet. One that exists is fine when `owner_uid` owns it:
    /// then a crash or a lost answer came between its creation and our knowledge of it.
    async fn create(&self, manifest: &Manifest, owner_uid: &str) -> Result<(), ReconcileError> {
        let act = format!("create {} {}", manifest.kind.resource().kind, manifest.name);
        let params = PostParams { field_manager: Some(FIELD_MANAGER.into()), ..Default::default() };
        let api = self.api(manifest.kind);
        let object: DynamicObject = match serde_json::from_value(manifest.body.clone()) {
            Ok(object) => object,
            Err(error) => {
                let source = kube::Error::SerdeError(error);
                return Err(ReconcileError::Write { act, source });
            }
        };
        match api.create(&params, &object).await {
            Ok(_) => {
                tracing::info!(act, namespace = self.workload.namespace, "created");
                Ok(())
            }
            Err(kube::Error::Api(status)) if status.reason == "AlreadyExists" => {
                let found = api.get_opt(&manifest.name).await.map_err(|source| {
                    ReconcileError::Read { what: manifest.name.clone(), source }
                })?;
                let owned = |object: &DynamicObject| {
                    object.owner_references().iter().any(|owner| owner.uid == owner_uid)
                };
                if found.as_ref().is_none_or(owned) {
                    return Ok(());
                }
                let kind = manifest.kind.resource().kind;
                Err(ReconcileError::Foreign { object: format!("{kind} {}", manifest.name) })
            }
            Err(source) => Err(ReconcileError::Write { act, source }),
        }
    }

    async fn set_desired_state(
        &self,
        seen: &Seen<'_>,
        state: DesiredState,
        cause: Option<DrainCause>,
        since: Timestamp,
    ) -> Result<(), ReconcileError> {
        let patch = json!({
            "metadata": {
                "uid": seen.uid.as_str(),
                "resourceVersion": seen.resource_version.as_str(),
            },
            "spec": {
                "desiredState": state_word(state),
                "desiredStateReason": cause.map_or(Value::Null, |cause| json!(cause.as_str())),
                "desiredStateSince": seen::time(since).to_string(),
            },
        });
        let params =
            PatchParams { field_manager: Some(FIELD_MANAGER.into()), ..PatchParams::default() };
        let act = format!("set MediaNode {} to {}", seen.name, state_word(state));
        self.api(Kind::MediaNode)
            .patch(seen.name.as_str(), &params, &Patch::Merge(patch))
            .await
            .map_err(|source| ReconcileError::Write { act: act.clone(), source })?;
        tracing::info!(act, "changed what a media node is wanted to do");
        Ok(())
    }

    async fn send_home(&self, media_node: &MediaNodeName, room: &RoomKey) {
        let tenant = self.workload.tenant();
        // A media node that does not answer is asked again by the next plan.
        if let Err(error) = self.context.fleet.release(&tenant, media_node.as_str(), room).await {
            tracing::warn!(%media_node, %room, error = %error, "a room could not be sent home");
        }
    }

    async fn delete_media_node(
        &self,
        seen: &Seen<'_>,
        evidence: &Evidence,
    ) -> Result<(), ReconcileError> {
        let name = seen.name.as_str();
        let act = format!("delete MediaNode {name}");
        let params = as_seen(seen.uid, Some(seen.resource_version));
        delete(&self.api(Kind::MediaNode), name, &params, &act).await?;
        tracing::info!(media_node = name, evidence = evidence.describe(), "deleted a media node");
        match pod_uid(evidence) {
            Some(pod_uid) => self.delete_pod(name, pod_uid).await,
            None => Ok(()),
        }
    }

    /// The garbage collector would delete the pod too, but `kubectl drain` waits for it, so we do
    /// not. It would also leave the pod the time that its rooms need to empty, which a process that
    /// hears no SIGTERM takes to the end while its ports are held: there is nobody in it.
    async fn delete_pod(&self, name: &str, uid: &Uid) -> Result<(), ReconcileError> {
        // Whatever changed since it was seen, its owner is gone, and it is to follow.
        let params = DeleteParams {
            grace_period_seconds: Some(media_pod::EXIT_SECONDS),
            ..as_seen(uid, None)
        };
        match delete(&self.api(Kind::Pod), name, &params, &format!("delete Pod {name}")).await {
            // A namesake; ours is gone.
            Err(ReconcileError::Write { source, .. }) if is_conflict(&source) => Ok(()),
            done => done,
        }
    }

    async fn move_gateway(
        &self,
        pod: &PodName,
        uid: &Uid,
        resource_version: &ResourceVersion,
    ) -> Result<(), ReconcileError> {
        let act = format!("delete Pod {pod}");
        let params = as_seen(uid, Some(resource_version));
        delete(&self.api(Kind::Pod), pod.as_str(), &params, &act).await?;
        tracing::info!(%pod, "a gateway leaves a Kubernetes node that left the scope");
        Ok(())
    }
}

/// Owner reference that points to a media node.
#[must_use]
pub fn media_node_owner(name: &MediaNodeName, uid: &Uid) -> OwnerReference {
    let resource = Kind::MediaNode.resource();
    OwnerReference {
        api_version: resource.api_version,
        kind: resource.kind,
        name: name.as_str().to_owned(),
        uid: uid.as_str().to_owned(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// What an act was decided on.
struct Seen<'a> {
    name: &'a MediaNodeName,
    uid: &'a Uid,
    resource_version: &'a ResourceVersion,
}

/// The word for a desired state in the resource.
#[must_use]
pub fn state_word(state: DesiredState) -> &'static str {
    match state {
        DesiredState::Serving => "Serving",
        DesiredState::Draining => "Draining",
        DesiredState::Retired => "Retired",
    }
}

fn pod_uid(evidence: &Evidence) -> Option<&Uid> {
    match evidence {
        Evidence::ReportedEmpty { pod_uid, .. }
        | Evidence::PodTerminated { pod_uid }
        | Evidence::NeverStarted { pod_uid }
        | Evidence::KubernetesNodeGone { pod_uid, .. } => Some(pod_uid),
        Evidence::PodGone | Evidence::NeverCreated => None,
    }
}

/// Deletes this object and no successor, and only as it was seen.
fn as_seen(uid: &Uid, resource_version: Option<&ResourceVersion>) -> DeleteParams {
    let preconditions = Preconditions {
        uid: Some(uid.as_str().to_owned()),
        resource_version: resource_version.map(|version| version.as_str().to_owned()),
    };
    DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() }
}

async fn delete(
    api: &Api<DynamicObject>,
    name: &str,
    params: &DeleteParams,
    act: &str,
) -> Result<(), ReconcileError> {
    match api.delete(name, params).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        Err(source) => Err(ReconcileError::Write { act: act.to_owned(), source }),
    }
}
