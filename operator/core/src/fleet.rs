//! How each media node stands: serving, starting, silent, emptying, out of reach, over.
//!
//! Joins what Kubernetes says with what the media node says, and keeps apart "it is over" (somebody
//! who knows said so) from "it is out of sight" (nobody knows). Decides nothing else.

use std::collections::BTreeMap;

use crate::{
    ids::{MediaNodeName, Timestamp},
    step::Evidence,
    world::{Deleting, DesiredState, MediaNodeSeen, Pod, PodPhase, PodSeen, Ready, World},
};

/// A report older than this says nothing about the present. Placement and deletion need a fresher
/// one than anything else: media nodes report twice a second, so six are missing then.
pub const REPORT_FRESH_MS: u64 = 3_000;

/// A media node unheard for this long counts as silent for the size of the fleet. Longer than
/// [`REPORT_FRESH_MS`] so that one lost stream and its renewal do not stir the fleet.
pub const REPORT_SCALE_MS: u64 = 10_000;

/// A media node unheard for this long, whose Kubernetes node is not ready either, is taken out of
/// the count so that another is made for it. It is not deleted: it may still hold rooms.
pub const UNREACHABLE_AFTER_MS: u64 = 30_000;

/// How one media node stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It has no pod yet.
    Awaiting,
    /// Its pod is there and has not spoken yet.
    Starting,
    /// It reports and is wanted to serve.
    Serving,
    /// It is wanted to serve, Kubernetes says that it runs, and it does not report.
    Silent,
    /// It is wanted to be emptied and may still hold rooms.
    Emptying,
    /// Neither it nor its Kubernetes node answers; it may still hold rooms.
    Unreachable,
    /// Its resource or pod is being deleted.
    Leaving,
    /// Its process is over, and this is why we believe so.
    Over(Evidence),
}

impl Standing {
    /// Whether it serves, or will without further ado.
    #[must_use]
    pub fn counts(&self) -> bool {
        matches!(self, Self::Awaiting | Self::Starting | Self::Serving | Self::Silent)
    }
}

/// How every media node stands at `now`.
#[must_use]
pub fn standings(world: &World, now: Timestamp) -> BTreeMap<MediaNodeName, Standing> {
    world
        .media_nodes
        .iter()
        .map(|(name, media_node)| (name.clone(), standing(world, media_node, now)))
        .collect()
}

/// Whether the last report is not older than `age_ms_max`.
#[must_use]
pub fn heard_within(media_node: &MediaNodeSeen, now: Timestamp, age_ms_max: u64) -> bool {
    media_node.report.as_ref().is_some_and(|r| now.since_ms(r.received) <= age_ms_max)
}

/// How one media node stands at `now`.
#[must_use]
pub fn standing(world: &World, media_node: &MediaNodeSeen, now: Timestamp) -> Standing {
    if media_node.deleting == Deleting::Yes {
        return Standing::Leaving;
    }
    let pod = match &media_node.pod {
        PodSeen::NeverCreated => return Standing::Awaiting,
        PodSeen::Gone => return Standing::Over(Evidence::PodGone),
        PodSeen::Present(pod) => pod,
    };
    if let Some(evidence) = over(world, pod) {
        return Standing::Over(evidence);
    }
    if pod.deleting == Deleting::Yes {
        return Standing::Leaving;
    }
    if media_node.desired != DesiredState::Serving {
        return Standing::Emptying;
    }
    if heard_within(media_node, now, REPORT_SCALE_MS) {
        return Standing::Serving;
    }
    if pod.phase != PodPhase::Running {
        return Standing::Starting;
    }
    silent(world, media_node, pod, now)
}

/// A running pod that does not report: new, out of sight, or out of reach.
fn silent(world: &World, media_node: &MediaNodeSeen, pod: &Pod, now: Timestamp) -> Standing {
    let kubernetes_node_ready = match (&world.kubernetes_nodes, &pod.kubernetes_node) {
        (Some(nodes), Some(name)) => nodes.get(name).is_some_and(|node| node.ready),
        _ => true,
    };
    if pod.ready == Ready::Yes && kubernetes_node_ready {
        return Standing::Silent;
    }
    // Where the Kubernetes node answers, its kubelet sees the process and starts it again: another
    // media node would fail the same way, and another after it.
    let last_heard = media_node.report.as_ref().map_or(pod.created, |report| report.received);
    if !kubernetes_node_ready && now.since_ms(last_heard) >= UNREACHABLE_AFTER_MS {
        return Standing::Unreachable;
    }
    if media_node.report.is_none() { Standing::Starting } else { Standing::Silent }
}

/// Why the pod's process is over for good, if somebody who knows said so.
fn over(world: &World, pod: &Pod) -> Option<Evidence> {
    if let PodPhase::Terminated { .. } = pod.phase {
        return Some(Evidence::PodTerminated { pod_uid: pod.uid.clone() });
    }
    let bound = pod.kubernetes_node.as_ref()?;
    let known = world.kubernetes_nodes.as_ref()?;
    // An empty list is more likely a listing gone wrong than a cluster without a machine.
    if known.is_empty() || known.contains_key(bound) {
        return None;
    }
    let kubernetes_node = bound.clone();
    Some(Evidence::KubernetesNodeGone { pod_uid: pod.uid.clone(), kubernetes_node })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{self, NOW};

    fn stand(change: impl FnOnce(&mut World)) -> Standing {
        let (mut world, _) = fixtures::fleet(1);
        change(&mut world);
        let name = MediaNodeName::from("demo-0");
        standing(&world, &world.media_nodes[&name], NOW)
    }

    #[test]
    fn a_media_node_that_reports_serves() {
        assert_eq!(stand(|_| {}), Standing::Serving);
    }

    #[test]
    fn losing_sight_is_not_death() {
        let stale = |w: &mut World| fixtures::report(w, "demo-0").received = Timestamp(0);
        assert_eq!(stand(stale), Standing::Silent);
        let node_lost = |w: &mut World| {
            stale(w);
            fixtures::kubernetes_node(w, "k0").ready = false;
        };
        assert_eq!(stand(node_lost), Standing::Unreachable);
    }

    #[test]
    fn only_somebody_who_knows_can_say_that_it_is_over() {
        let terminated =
            |w: &mut World| fixtures::pod(w, "demo-0").phase = PodPhase::Terminated { at: NOW };
        assert!(matches!(stand(terminated), Standing::Over(Evidence::PodTerminated { .. })));
        let gone = |w: &mut World| fixtures::media_node(w, "demo-0").pod = PodSeen::Gone;
        assert_eq!(stand(gone), Standing::Over(Evidence::PodGone));
        let node_gone = |w: &mut World| {
            w.kubernetes_nodes.as_mut().unwrap().remove(&"k0".into());
            fixtures::kubernetes_node(w, "other");
        };
        assert!(matches!(stand(node_gone), Standing::Over(Evidence::KubernetesNodeGone { .. })));
    }

    #[test]
    fn an_empty_or_missing_list_of_kubernetes_nodes_proves_nothing() {
        let empty = |w: &mut World| w.kubernetes_nodes.as_mut().unwrap().clear();
        assert_eq!(stand(empty), Standing::Serving);
        assert_eq!(stand(|w| w.kubernetes_nodes = None), Standing::Serving);
    }

    #[test]
    fn a_pod_that_never_spoke_is_starting_until_its_kubernetes_node_is_lost() {
        let fresh = |w: &mut World| {
            fixtures::media_node(w, "demo-0").report = None;
            fixtures::pod(w, "demo-0").ready = Ready::No;
            fixtures::pod(w, "demo-0").created = NOW;
        };
        assert_eq!(stand(fresh), Standing::Starting);
        let old = |w: &mut World| {
            fresh(w);
            fixtures::pod(w, "demo-0").created = Timestamp(0);
        };
        assert_eq!(stand(old), Standing::Starting, "its kubelet starts it again and again");
        let lost = |w: &mut World| {
            old(w);
            fixtures::kubernetes_node(w, "k0").ready = false;
        };
        assert_eq!(stand(lost), Standing::Unreachable);
    }
}
