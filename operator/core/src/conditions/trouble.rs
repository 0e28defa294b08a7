//! What keeps pods from running, in the words of Kubernetes, each with its cure.
//!
//! Looks at the world alone. The words are those of scheduler, kubelet or API server, because they
//! name the cause better than we could; what is added is the object it happened to and what to do.

use crate::{
    draft::pod,
    world::{PodPhase, World},
};

/// In the API server's words when a quota is used up.
const QUOTA: &str = "exceeded quota";
/// What to do then.
const MORE: &str = "raise that ResourceQuota, or lower spec.capacity, spec.gateway.replicas or \
     spec.podTemplate.resources";

/// What the API server refused last, if a refusal stands.
pub(super) fn refused(world: &World) -> Option<String> {
    let refusal = world.refusals.last()?;
    let (act, said) = (&refusal.act, unpunctuated(&refusal.message));
    let cure = if said.contains(QUOTA) { MORE } else { "change the object or the rule it names" };
    Some(format!("the API server refused to {act} ({said}): {cure}"))
}

/// The first pod of a media node that the scheduler finds no place for.
pub(super) fn unplaced(world: &World) -> Option<String> {
    let unplaced = |phase| matches!(phase, PodPhase::Unschedulable { .. });
    let pods = || world.media_nodes.iter().filter_map(|(name, seen)| Some((name, pod(seen)?)));
    let more = pods().filter(|(_, pod)| unplaced(pod.phase)).count().saturating_sub(1);
    let (name, pod) = pods().find(|(_, pod)| unplaced(pod.phase))?;
    let said = pod.trouble.as_deref().unwrap_or("the scheduler does not say why");
    // Behind it the scheduler tells that nobody else had to go either.
    let said = unpunctuated(said.split(" preemption:").next().unwrap_or(said));
    Some(format!(
        "the pod of media node {name} (and {more} more) has no place ({said}): add Kubernetes \
         nodes to the scope, uncordon one, or lower spec.podTemplate.resources"
    ))
}

/// The first pod of a media node that has a place and does not run.
pub(super) fn failing(world: &World) -> Option<String> {
    world.media_nodes.iter().find_map(|(name, seen)| {
        let pod = pod(seen).filter(|pod| !matches!(pod.phase, PodPhase::Unschedulable { .. }))?;
        let said = unpunctuated(pod.trouble.as_deref()?);
        let cure = cure(said, "mediaNode", name.as_str());
        Some(format!("the pod of media node {name} does not run ({said}): {cure}"))
    })
}

/// A pod of the gateway that does not run, although another may.
pub(super) fn gateway_failing(world: &World) -> Option<String> {
    let gateway = world.gateway.as_ref()?;
    let trouble = gateway.trouble.as_ref()?;
    let (ready, wanted) = (gateway.replicas_ready, gateway.replicas_wanted);
    let said = unpunctuated(&trouble.words);
    let cure = cure(said, "gateway", &trouble.pod);
    Some(format!(
        "gateway pod {} does not run ({said}): {cure}; {ready} of {wanted} gateways are ready",
        trouble.pod
    ))
}

/// What to do about a container that does not start.
fn cure(said: &str, image: &str, pod: &str) -> String {
    if said.contains(QUOTA) {
        MORE.to_owned()
    } else if said.contains("Image") {
        format!("correct spec.image.{image}, or bring the image where the Kubernetes node finds it")
    } else if said.starts_with("NoAddress") {
        "provide it, or choose another spec.media.exposure or addressSource".to_owned()
    } else {
        format!("see kubectl describe pod {pod} and kubectl logs --previous {pod}")
    }
}

/// Messages go on after it.
fn unpunctuated(said: &str) -> &str {
    said.trim_end_matches(['.', ' ', '\n'])
}
