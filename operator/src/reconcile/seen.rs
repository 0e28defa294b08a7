//! Translates what the API server shows of pods and Kubernetes nodes into the words of the core.
//! Pure; keeps "not known" apart from "no".

use hemicycle_crds::{
    QualificationScope,
    qualification_scope::{Platform as SpecPlatform, QualificationState as SpecState},
};
use jiff::Timestamp as Time;
use k8s_openapi::api::core::v1::{Node, Pod as KubernetesPod, PodStatus};
use kube::ResourceExt;
use operator_core::{
    evidence,
    ids::{Timestamp, Zone},
    provider_id::Platform,
    violation::Violation,
    world::{Deleting, KubernetesNodeSeen, Pod, PodPhase, QualificationState, Ready, ScopeSeen},
};

/// Well-known label with a Kubernetes node's zone.
const ZONE_LABEL: &str = "topology.kubernetes.io/zone";

/// A jiff time in the core's terms; before 1970 counts as 1970.
#[must_use]
pub fn timestamp(time: Time) -> Timestamp {
    Timestamp::from_unix_ms(u64::try_from(time.as_millisecond()).unwrap_or_default())
}

/// The core's time as jiff's.
#[must_use]
pub fn time(timestamp: Timestamp) -> Time {
    let milliseconds = i64::try_from(timestamp.unix_ms()).unwrap_or(i64::MAX);
    Time::from_millisecond(milliseconds).unwrap_or(Time::MAX)
}

/// A Kubernetes node.
#[must_use]
pub fn kubernetes_node(node: &Node) -> KubernetesNodeSeen {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
    let ready = conditions.is_some_and(|all| {
        all.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
    });
    let labels = node.labels().clone();
    KubernetesNodeSeen {
        zone: Zone::new(labels.get(ZONE_LABEL).cloned().unwrap_or_default()),
        labels,
        ready,
        unschedulable: node.spec.as_ref().and_then(|spec| spec.unschedulable).unwrap_or_default(),
        provider_id: node.spec.as_ref().and_then(|it| it.provider_id.clone()).unwrap_or_default(),
        statements: evidence::ByScope::new(),
    }
}

/// A scope.
#[must_use]
pub fn scope(scope: &QualificationScope) -> ScopeSeen {
    let spec = &scope.spec;
    ScopeSeen {
        // A date that cannot be read proves nothing: the scope counts as expired.
        expires: spec.attestation.expires_at.parse().map_or(Timestamp(0), timestamp),
        state: match spec.state {
            SpecState::Qualified => QualificationState::Qualified,
            SpecState::Suspended => QualificationState::Suspended,
            SpecState::Withdrawn => QualificationState::Withdrawn,
        },
        label_key: spec.node_label.key.clone(),
        label_value: spec.node_label.value.clone(),
        platform: match spec.platform {
            SpecPlatform::Generic => Platform::Generic,
            SpecPlatform::Outscale => Platform::Outscale,
            SpecPlatform::OVHcloud => Platform::OvhCloud,
            SpecPlatform::Scaleway => Platform::Scaleway,
        },
        regions: spec.regions.iter().cloned().collect(),
        subregions: spec.subregions.iter().cloned().collect(),
        accounts: spec.accounts.iter().cloned().collect(),
    }
}

/// The violations that a status lists: what a new leader knows of them. Their rooms are known by
/// hash alone, so no room is named.
#[must_use]
pub fn violations(listed: &[hemicycle_crds::meeting_cluster::Violation]) -> Vec<Violation> {
    let time = |text: &str| text.parse().ok().map(timestamp);
    let read = |it: &hemicycle_crds::meeting_cluster::Violation| {
        Some(Violation {
            id: it.id.clone(),
            what: it.what.clone(),
            message: it.message.clone(),
            remedy: it.remedy.clone(),
            pod: it.pod.clone().into(),
            kubernetes_node: it.kubernetes_node.clone().into(),
            since: time(&it.since)?,
            ended: it.ended.as_deref().and_then(time),
            rooms: usize::try_from(it.rooms).unwrap_or_default(),
            room_keys: vec![],
            acknowledged: None,
        })
    };
    listed.iter().filter_map(read).collect()
}

/// A media node's pod.
#[must_use]
pub fn pod(pod: &KubernetesPod, now: Timestamp) -> Pod {
    let status = pod.status.clone().unwrap_or_default();
    let deleting = pod.metadata.deletion_timestamp.is_some();
    let created = pod.metadata.creation_timestamp.as_ref();
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
    Pod {
        uid: pod.uid().unwrap_or_default().into(),
        resource_version: pod.resource_version().unwrap_or_default().into(),
        created: created.map_or(now, |time| timestamp(time.0)),
        deleting: if deleting { Deleting::Yes } else { Deleting::No },
        phase: phase(&status, now),
        ready: if condition(&status, "Ready").is_some_and(|ready| ready.status == "True") {
            Ready::Yes
        } else {
            Ready::No
        },
        kubernetes_node: node.map(Into::into),
        trouble: trouble(&status),
    }
}

type Condition = k8s_openapi::api::core::v1::PodCondition;

fn condition<'a>(status: &'a PodStatus, type_: &str) -> Option<&'a Condition> {
    status.conditions.iter().flatten().find(|condition| condition.type_ == type_)
}

fn phase(status: &PodStatus, now: Timestamp) -> PodPhase {
    match status.phase.as_deref() {
        Some("Succeeded" | "Failed") => PodPhase::Terminated { at: finished(status, now) },
        Some("Running") => PodPhase::Running,
        _ => {
            let scheduled = condition(status, "PodScheduled");
            let refused = scheduled.filter(|condition| {
                condition.status == "False" && condition.reason.as_deref() == Some("Unschedulable")
            });
            if let Some(refused) = refused {
                let since = refused.last_transition_time.as_ref();
                return PodPhase::Unschedulable {
                    since: since.map_or(now, |time| timestamp(time.0)),
                };
            }
            // A container that ran once leaves a mark even where the phase says Pending again.
            let started = status.container_statuses.iter().flatten().any(|container| {
                container.started == Some(true)
                    || container.restart_count > 0
                    || container.state.as_ref().is_some_and(|state| state.running.is_some())
            });
            if started { PodPhase::Running } else { PodPhase::Pending }
        }
    }
}

fn finished(status: &PodStatus, now: Timestamp) -> Timestamp {
    let ends = status.container_statuses.iter().flatten().filter_map(|container| {
        let terminated = container.state.as_ref()?.terminated.as_ref()?;
        terminated.finished_at.as_ref().map(|time| timestamp(time.0))
    });
    ends.max().unwrap_or(now)
}

/// What keeps a pod from running, in the words of scheduler or kubelet.
#[must_use]
pub fn trouble(status: &PodStatus) -> Option<String> {
    let unscheduled = condition(status, "PodScheduled")
        .filter(|condition| condition.status == "False")
        .and_then(|condition| condition.message.clone());
    if unscheduled.is_some() {
        return unscheduled;
    }
    status.container_statuses.iter().flatten().find_map(|container| {
        let waiting = container.state.as_ref()?.waiting.as_ref()?;
        let reason = waiting.reason.as_deref().unwrap_or_default();
        // These are stations on the way, not troubles.
        if matches!(reason, "ContainerCreating" | "PodInitializing" | "") {
            return None;
        }
        let message = waiting.message.as_deref().unwrap_or_default();
        Some(format!("{reason}: {message}").trim_end_matches([':', ' ']).to_owned())
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn seen(status: serde_json::Value) -> Pod {
        let object = json!({"metadata": {"name": "a", "uid": "u"}, "status": status});
        pod(&serde_json::from_value(object).expect("a pod"), Timestamp(7_000))
    }

    #[test]
    fn an_unschedulable_pod_says_so_in_the_schedulers_words() {
        let pod = seen(json!({"phase": "Pending", "conditions": [{
            "type": "PodScheduled", "status": "False", "reason": "Unschedulable",
            "message": "0/3 nodes are available", "lastTransitionTime": "1970-01-01T00:00:05Z",
        }]}));
        assert_eq!(pod.phase, PodPhase::Unschedulable { since: Timestamp(5_000) });
        assert_eq!(pod.trouble.as_deref(), Some("0/3 nodes are available"));
    }

    #[test]
    fn a_wrong_image_is_told_with_the_kubelets_message() {
        let pod = seen(json!({"phase": "Pending", "containerStatuses": [{
            "name": "media-node", "image": "x", "imageID": "", "ready": false, "restartCount": 0,
            "state": {"waiting": {"reason": "ErrImageNeverPull", "message": "no image x"}},
        }]}));
        assert_eq!(pod.phase, PodPhase::Pending);
        assert_eq!(pod.trouble.as_deref(), Some("ErrImageNeverPull: no image x"));
    }

    #[test]
    fn only_the_kubelets_word_counts_as_terminated() {
        assert_eq!(seen(json!({"phase": "Unknown"})).phase, PodPhase::Pending);
        assert_eq!(
            seen(json!({"phase": "Failed"})).phase,
            PodPhase::Terminated { at: Timestamp(7_000) }
        );
        assert_eq!(seen(json!({"phase": "Running"})).phase, PodPhase::Running);
    }
}
