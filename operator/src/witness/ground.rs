//! Puts into the proof's words what the reconcile sees of a media node: pod, image, Kubernetes
//! node, scope and evidence. Pure; decides nothing. Invariant: without a scope that attests it
//! there is no ground to speak of.

use hemicycle_crds::QualificationScope;
use hemicycle_proof::{
    Moment, Sha256, Text,
    statement::{EvidenceFact, Facts, Image, Level, ScopeFacts},
};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use operator_core::{evidence, sovereignty::Attested};

/// What is certain of a pod that may carry rooms where it runs.
#[must_use]
pub fn facts(pod: &Pod, attested: &Attested, scope: &QualificationScope) -> Option<Facts> {
    let kubernetes_node = pod.spec.as_ref()?.node_name.as_ref()?;
    let spec = &scope.spec;
    let expires = spec.attestation.expires_at.parse().ok()?;
    Some(Facts {
        media_node: Text::lossy(&pod.name_any()),
        pod_uid: Text::lossy(&pod.uid()?),
        image: image(pod)?,
        kubernetes_node: Text::lossy(kubernetes_node),
        scope: ScopeFacts {
            name: Text::lossy(&scope.name_any()),
            provider: Text::lossy(&spec.provider),
            service: Text::lossy(&spec.service),
            referential: Text::lossy(&spec.referential),
            attestation_id: Text::lossy(&spec.attestation.id),
            attestation_sha256: spec
                .attestation
                .sha256
                .as_ref()
                .and_then(|it| Sha256::parse(it).ok()),
            expires: super::moment(expires),
        },
        evidence: attested.evidence.iter().map(fact).collect(),
    })
}

fn fact(evidence: &evidence::Evidence) -> EvidenceFact {
    EvidenceFact {
        kind: Text::lossy(evidence.source.as_str()),
        level: match evidence.source.level() {
            evidence::Level::E0 => Level::E0,
            evidence::Level::E1 => Level::E1,
            evidence::Level::E2 => Level::E2,
        },
        digest: Sha256::of(evidence.seen.as_bytes()),
        observed_at: Moment::from_unix_ms(evidence.observed.unix_ms()),
        reason: Text::lossy(&evidence.seen),
    }
}

/// The image as the pod names it, and its digest as the kubelet found it.
fn image(pod: &Pod) -> Option<Image> {
    let container = pod.spec.as_ref()?.containers.first()?;
    let status = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref());
    let id = status.and_then(|all| all.iter().find(|it| it.name == container.name));
    let digest = |id: &str| Sha256::parse(id.rsplit_once("sha256:")?.1).ok();
    Some(Image {
        reference: Text::lossy(container.image.as_deref().unwrap_or_default()),
        sha256: id.and_then(|status| digest(&status.image_id)),
    })
}
