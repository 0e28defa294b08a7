//! Where media may run: the scope gate, and what follows when a Kubernetes node leaves the scope.
//!
//! Fails closed: without a scope that is known, not expired and not withdrawn no pod is made and no
//! media node is given a grant. It ends no room: that is the drain's business. Not being able to
//! look is neither an open nor a closed scope, and changes nothing that runs.

use std::collections::BTreeSet;

use crate::{
    ids::{KubernetesNodeName, ScopeName, Timestamp},
    policy::Policy,
    world::{KubernetesNodeSeen, MediaNodeSeen, PodSeen, ScopeSeen, World},
};

/// How far the clocks of a media node and of the operator may be apart, in milliseconds. Beyond it
/// neither could tell when the other's ticket ends.
pub const CLOCK_SKEW_MAX_MS: i64 = 30_000;

/// Whether media may run at all, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ScopeGate {
    /// The scope holds.
    Open {
        /// Its Kubernetes nodes; `None` when they could not be listed.
        kubernetes_nodes: Option<BTreeSet<KubernetesNodeName>>,
    },
    /// The scope does not hold: no new pod, no new room.
    Closed(ScopeLoss),
    /// Nobody could look: no new pod, and nothing that runs is touched.
    Unknown,
}

/// Why a scope does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ScopeLoss {
    /// No `QualificationScope` of that name exists.
    Missing(ScopeName),
    /// Its attestation ended.
    Expired {
        /// Which scope.
        scope: ScopeName,
        /// When it ended.
        at: Timestamp,
    },
    /// Its owner withdrew it.
    Withdrawn(ScopeName),
}

impl ScopeLoss {
    /// What happened, to which object, and what to do.
    #[must_use]
    pub fn describe(&self) -> String {
        match self {
            Self::Missing(scope) => format!(
                "QualificationScope {scope} does not exist: create it, or name another in \
                 spec.sovereignty.scopeRef"
            ),
            Self::Expired { scope, .. } => format!(
                "the attestation of QualificationScope {scope} has expired: renew \
                 spec.attestation.expiresAt"
            ),
            Self::Withdrawn(scope) => format!(
                "QualificationScope {scope} is withdrawn: name another scope in \
                 spec.sovereignty.scopeRef"
            ),
        }
    }
}

/// Whether one media node may carry rooms where it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Footing {
    /// Its Kubernetes node lies in the scope.
    InScope,
    /// Its Kubernetes node does not, or the scope does not hold.
    OutOfScope,
    /// It is bound to no Kubernetes node yet, or nobody could look.
    Unknown,
}

/// The gate of the meeting cluster at `now`.
#[must_use]
pub fn scope_gate(world: &World, policy: &Policy, now: Timestamp) -> ScopeGate {
    let Some(scopes) = &world.scopes else { return ScopeGate::Unknown };
    let name = &policy.sovereignty.scope;
    let Some(scope) = scopes.get(name) else {
        return ScopeGate::Closed(ScopeLoss::Missing(name.clone()));
    };
    if scope.withdrawn {
        return ScopeGate::Closed(ScopeLoss::Withdrawn(name.clone()));
    }
    if scope.expires <= now {
        return ScopeGate::Closed(ScopeLoss::Expired { scope: name.clone(), at: scope.expires });
    }
    let kubernetes_nodes = world.kubernetes_nodes.as_ref().map(|nodes| {
        nodes
            .iter()
            .filter(|(_, node)| lies_in(scope, node))
            .map(|(name, _)| name.clone())
            .collect()
    });
    ScopeGate::Open { kubernetes_nodes }
}

/// Whether a Kubernetes node carries the scope's label.
#[must_use]
pub fn lies_in(scope: &ScopeSeen, node: &KubernetesNodeSeen) -> bool {
    node.labels.get(&scope.label_key).is_some_and(|value| *value == scope.label_value)
}

/// Whether a media node may carry rooms where it runs. The placer gives no grant and no room to
/// one that is not [`Footing::InScope`].
#[must_use]
pub fn footing(gate: &ScopeGate, media_node: &MediaNodeSeen) -> Footing {
    let PodSeen::Present(pod) = &media_node.pod else { return Footing::Unknown };
    match gate {
        ScopeGate::Unknown => Footing::Unknown,
        ScopeGate::Closed(_) => Footing::OutOfScope,
        ScopeGate::Open { kubernetes_nodes } => match (kubernetes_nodes, &pod.kubernetes_node) {
            (Some(eligible), Some(bound)) if eligible.contains(bound) => Footing::InScope,
            (Some(_), Some(_)) => Footing::OutOfScope,
            _ => Footing::Unknown,
        },
    }
}

/// Whether a media node whose clock is ahead by this much ([`ReportSeen::clock_skew_ms`]) may hold
/// a ticket, and so be given new rooms.
///
/// [`ReportSeen::clock_skew_ms`]: crate::world::ReportSeen::clock_skew_ms
#[must_use]
pub fn clock_fits(clock_skew_ms: i64) -> bool {
    (-CLOCK_SKEW_MAX_MS..=CLOCK_SKEW_MAX_MS).contains(&clock_skew_ms)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{self, NOW};

    #[test]
    fn a_scope_opens_only_the_kubernetes_nodes_that_carry_its_label() {
        let (mut world, policy) = fixtures::fleet(1);
        fixtures::kubernetes_node(&mut world, "k-out").labels.clear();
        let ScopeGate::Open { kubernetes_nodes: Some(nodes) } = scope_gate(&world, &policy, NOW)
        else {
            panic!("the scope holds");
        };
        assert!(nodes.contains(&"k0".into()));
        assert!(!nodes.contains(&"k-out".into()));
    }

    #[test]
    fn a_missing_expired_or_withdrawn_scope_is_closed_and_says_what_to_do() {
        let (world, policy) = fixtures::fleet(1);
        let closed = |change: fn(&mut World)| {
            let mut world = world.clone();
            change(&mut world);
            match scope_gate(&world, &policy, NOW) {
                ScopeGate::Closed(loss) => loss.describe(),
                other => panic!("{other:?}"),
            }
        };
        assert!(closed(|w| w.scopes.as_mut().unwrap().clear()).contains("does not exist"));
        assert!(closed(|w| fixtures::scope(w).expires = NOW).contains("renew"));
        assert!(closed(|w| fixtures::scope(w).withdrawn = true).contains("withdrawn"));
    }

    #[test]
    fn not_being_able_to_look_is_neither_open_nor_closed() {
        let (mut world, policy) = fixtures::fleet(1);
        world.scopes = None;
        let gate = scope_gate(&world, &policy, NOW);
        assert_eq!(gate, ScopeGate::Unknown);
        let media_node = world.media_nodes.values().next().unwrap();
        assert_eq!(footing(&gate, media_node), Footing::Unknown);
    }

    #[test]
    fn a_clock_may_be_half_a_minute_off_in_either_direction_and_not_two_hours() {
        for fits in [0, CLOCK_SKEW_MAX_MS, -CLOCK_SKEW_MAX_MS] {
            assert!(clock_fits(fits), "{fits}");
        }
        for apart in [CLOCK_SKEW_MAX_MS + 1, 7_200_000, -7_200_000, i64::MIN, i64::MAX] {
            assert!(!clock_fits(apart), "{apart}");
        }
    }

    #[test]
    fn a_label_taken_away_puts_the_media_node_out_of_scope() {
        let (mut world, policy) = fixtures::fleet(1);
        let gate = scope_gate(&world, &policy, NOW);
        let media_node = world.media_nodes.values().next().unwrap().clone();
        assert_eq!(footing(&gate, &media_node), Footing::InScope);
        fixtures::kubernetes_node(&mut world, "k0").labels.clear();
        let gate = scope_gate(&world, &policy, NOW);
        assert_eq!(footing(&gate, &media_node), Footing::OutOfScope);
    }
}
