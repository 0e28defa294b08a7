//! Where media may run: the gate of the scopes, and what follows when a Kubernetes node leaves
//! them.
//!
//! Fails closed: without a scope that is known, qualified and not expired no pod is made, and no
//! media node is given a grant whose Kubernetes node lies in none by enough evidence. It ends no
//! room: that is the drain's business. Not being able to look is neither an open nor a closed
//! scope, and changes nothing that runs.

use std::collections::BTreeMap;

use crate::{
    evidence::{self, Evidence, Level, Weighed},
    ids::{KubernetesNodeName, ScopeName, Timestamp},
    policy::Policy,
    world::{
        KubernetesNodeSeen, MediaNodeSeen, Pod, PodSeen, QualificationState, ScopeSeen, World,
    },
};

/// How far the clocks of a media node and of the operator may be apart, in milliseconds. Beyond it
/// neither could tell when the other's ticket ends.
pub const CLOCK_SKEW_MAX_MS: i64 = 30_000;

/// Whether media may run at all, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ScopeGate {
    /// At least one scope holds.
    Open {
        /// Where media may run; `None` when Kubernetes nodes could not be listed.
        kubernetes_nodes: Option<BTreeMap<KubernetesNodeName, Attested>>,
        /// Kubernetes nodes that are declared to lie in a scope, and why media may not run there.
        refused: BTreeMap<KubernetesNodeName, NodeLoss>,
    },
    /// No scope holds: no new pod, no new room.
    Closed(ScopeLoss),
    /// Nobody could look: no new pod, and nothing that runs is touched.
    Unknown,
}

/// Why media may run on a Kubernetes node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attested {
    /// The scope that it lies in.
    pub scope: ScopeName,
    /// How well that is known.
    pub level: Level,
    /// Until when, if nothing is seen anew.
    pub valid_until: Timestamp,
    /// What speaks for it.
    pub evidence: Vec<Evidence>,
}

/// Why media may not run on a Kubernetes node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodeLoss {
    /// It carries the label of no scope that the meeting cluster names.
    Unclaimed,
    /// The scope that it is declared to lie in does not hold.
    Scope(ScopeLoss),
    /// Something speaks against it.
    Contradicted {
        /// Which scope.
        scope: ScopeName,
        /// What.
        what: String,
    },
    /// It is not known well enough.
    TooWeak {
        /// Which scope.
        scope: ScopeName,
        /// How well it is known.
        level: Level,
        /// How well it must be.
        minimum: Level,
        /// What is lacking.
        lacking: Vec<String>,
    },
}

impl NodeLoss {
    /// The stable word in violations.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Unclaimed => "OutOfScope",
            Self::Scope(_) => "ScopeNotValid",
            Self::Contradicted { .. } => "EvidenceContradicted",
            Self::TooWeak { .. } => "EvidenceTooWeak",
        }
    }

    /// What is so, without what to do.
    #[must_use]
    pub fn describe(&self) -> String {
        match self {
            Self::Unclaimed => {
                "it carries the label of no scope in spec.sovereignty.scopeRefs".into()
            }
            Self::Scope(loss) => loss.what(),
            Self::Contradicted { scope, what } => {
                format!("it is declared to lie in {scope}, but {what}")
            }
            Self::TooWeak { scope, level, minimum, lacking } => format!(
                "that it lies in {scope} is known at level {}, and {} is asked for: {}",
                level.as_str(),
                minimum.as_str(),
                lacking.join(", ")
            ),
        }
    }

    /// What remedies it.
    #[must_use]
    pub fn remedy(&self) -> String {
        match self {
            Self::Unclaimed => {
                "let the scope's owner label the Kubernetes node, if it lies there; \
                                else let the media node go"
                    .into()
            }
            Self::Scope(loss) => loss.remedy(),
            Self::Contradicted { .. } => "take the label from the Kubernetes node, or correct the \
                                          QualificationScope if that is wrong"
                .into(),
            Self::TooWeak { .. } => "provide that evidence, or lower \
                                     spec.sovereignty.minimumEvidence"
                .into(),
        }
    }
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
    /// The authority suspended it.
    Suspended(ScopeName),
    /// The authority withdrew it.
    Withdrawn(ScopeName),
}

impl ScopeLoss {
    fn what(&self) -> String {
        match self {
            Self::Missing(scope) => format!("QualificationScope {scope} does not exist"),
            Self::Expired { scope, .. } => {
                format!("the attestation of QualificationScope {scope} has expired")
            }
            Self::Suspended(scope) => format!("QualificationScope {scope} is suspended"),
            Self::Withdrawn(scope) => format!("QualificationScope {scope} is withdrawn"),
        }
    }

    fn remedy(&self) -> String {
        let remedy = match self {
            Self::Missing(_) => "create it, or name another in spec.sovereignty.scopeRefs",
            Self::Expired { .. } => "renew spec.attestation.expiresAt",
            Self::Suspended(_) => {
                "wait for the authority, or name another scope in spec.sovereignty.scopeRefs"
            }
            Self::Withdrawn(_) => "name another scope in spec.sovereignty.scopeRefs",
        };
        remedy.into()
    }

    /// What happened, to which object, and what to do.
    #[must_use]
    pub fn describe(&self) -> String {
        format!("{}: {}", self.what(), self.remedy())
    }
}

/// Whether a media node may carry rooms where it runs, and a gateway what is said about them.
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
    let mut standing = Vec::new();
    let mut losses = Vec::new();
    for name in &policy.sovereignty.scopes {
        match holds(name, scopes.get(name), now) {
            Ok(scope) => standing.push((name, scope)),
            Err(loss) => losses.push((name, loss)),
        }
    }
    if let (true, Some((_, loss))) = (standing.is_empty(), losses.first()) {
        return ScopeGate::Closed(loss.clone());
    }
    let Some(nodes) = &world.kubernetes_nodes else {
        return ScopeGate::Open { kubernetes_nodes: None, refused: BTreeMap::new() };
    };
    let mut attested = BTreeMap::new();
    let mut refused = BTreeMap::new();
    for (name, node) in nodes {
        let lost = |(scope, loss): &(&ScopeName, ScopeLoss)| {
            let seen = scopes.get(*scope)?;
            is_declared(seen, node).then(|| NodeLoss::Scope(loss.clone()))
        };
        match judge(&standing, (name, node), policy.sovereignty.minimum_evidence, now) {
            Ok(good) => drop(attested.insert(name.clone(), good)),
            Err(NodeLoss::Unclaimed) => {
                if let Some(loss) = losses.iter().find_map(lost) {
                    refused.insert(name.clone(), loss);
                }
            }
            Err(loss) => drop(refused.insert(name.clone(), loss)),
        }
    }
    ScopeGate::Open { kubernetes_nodes: Some(attested), refused }
}

/// The scope, if it holds.
///
/// # Errors
/// Why it does not.
pub fn holds<'a>(
    name: &ScopeName,
    scope: Option<&'a ScopeSeen>,
    now: Timestamp,
) -> Result<&'a ScopeSeen, ScopeLoss> {
    let scope = scope.ok_or_else(|| ScopeLoss::Missing(name.clone()))?;
    match scope.state {
        QualificationState::Qualified if scope.expires <= now => {
            Err(ScopeLoss::Expired { scope: name.clone(), at: scope.expires })
        }
        QualificationState::Qualified => Ok(scope),
        QualificationState::Suspended => Err(ScopeLoss::Suspended(name.clone())),
        QualificationState::Withdrawn => Err(ScopeLoss::Withdrawn(name.clone())),
    }
}

/// Whether a Kubernetes node carries the scope's label.
#[must_use]
pub(crate) fn is_declared(scope: &ScopeSeen, node: &KubernetesNodeSeen) -> bool {
    node.labels.get(&scope.label_key) == Some(&scope.label_value)
}

/// The scope of highest evidence, in the owner's order; a contradiction in one outweighs the rest.
fn judge(
    scopes: &[(&ScopeName, &ScopeSeen)],
    node: (&KubernetesNodeName, &KubernetesNodeSeen),
    minimum: Level,
    now: Timestamp,
) -> Result<Attested, NodeLoss> {
    let mut best: Option<Attested> = None;
    let mut weak = NodeLoss::Unclaimed;
    for (scope, seen) in scopes {
        match evidence::weigh((scope, seen), node, now) {
            Weighed::Unclaimed => {}
            Weighed::Contradicted(what) => {
                return Err(NodeLoss::Contradicted { scope: (*scope).clone(), what });
            }
            Weighed::Known(standing) if standing.level < minimum => {
                let (level, lacking) = (standing.level, standing.lacking);
                weak = NodeLoss::TooWeak { scope: (*scope).clone(), level, minimum, lacking };
            }
            Weighed::Known(standing) => {
                if best.as_ref().is_none_or(|best| best.level < standing.level) {
                    let valid_until = standing.valid_until(minimum).min(seen.expires);
                    best = Some(Attested {
                        scope: (*scope).clone(),
                        level: standing.level,
                        valid_until,
                        evidence: standing.evidence,
                    });
                }
            }
        }
    }
    best.ok_or(weak)
}

/// Where a media node runs, if it may carry rooms there.
#[must_use]
pub fn attested<'a>(gate: &'a ScopeGate, media_node: &MediaNodeSeen) -> Option<&'a Attested> {
    let PodSeen::Present(pod) = &media_node.pod else { return None };
    pod_attested(gate, pod)
}

/// The same of any pod.
#[must_use]
pub fn pod_attested<'a>(gate: &'a ScopeGate, pod: &Pod) -> Option<&'a Attested> {
    let ScopeGate::Open { kubernetes_nodes: Some(nodes), .. } = gate else { return None };
    nodes.get(pod.kubernetes_node.as_ref()?)
}

/// Whether a media node may carry rooms where it runs. The placer gives no grant and no room to
/// one that is not [`Footing::InScope`].
#[must_use]
pub fn footing(gate: &ScopeGate, media_node: &MediaNodeSeen) -> Footing {
    let PodSeen::Present(pod) = &media_node.pod else { return Footing::Unknown };
    pod_footing(gate, pod)
}

/// The same of any pod.
#[must_use]
pub fn pod_footing(gate: &ScopeGate, pod: &Pod) -> Footing {
    match gate {
        ScopeGate::Unknown => Footing::Unknown,
        ScopeGate::Closed(_) => Footing::OutOfScope,
        ScopeGate::Open { kubernetes_nodes, .. } => {
            match (kubernetes_nodes, &pod.kubernetes_node) {
                (Some(attested), Some(bound)) if attested.contains_key(bound) => Footing::InScope,
                (Some(_), Some(_)) => Footing::OutOfScope,
                _ => Footing::Unknown,
            }
        }
    }
}

/// Why a media node may not carry rooms where it runs; `None` unless that is sure.
#[must_use]
pub fn loss(gate: &ScopeGate, media_node: &MediaNodeSeen) -> Option<NodeLoss> {
    let PodSeen::Present(pod) = &media_node.pod else { return None };
    pod_loss(gate, pod)
}

/// The same of any pod.
#[must_use]
pub fn pod_loss(gate: &ScopeGate, pod: &Pod) -> Option<NodeLoss> {
    if pod_footing(gate, pod) != Footing::OutOfScope {
        return None;
    }
    match gate {
        ScopeGate::Closed(loss) => Some(NodeLoss::Scope(loss.clone())),
        ScopeGate::Open { refused, .. } => {
            let known = refused.get(pod.kubernetes_node.as_ref()?);
            Some(known.cloned().unwrap_or(NodeLoss::Unclaimed))
        }
        ScopeGate::Unknown => None,
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
        let ScopeGate::Open { kubernetes_nodes: Some(nodes), .. } =
            scope_gate(&world, &policy, NOW)
        else {
            panic!("the scope holds");
        };
        assert!(nodes.contains_key(&"k0".into()));
        assert!(!nodes.contains_key(&"k-out".into()));
    }

    #[test]
    fn a_scope_that_does_not_hold_is_closed_and_says_what_to_do() {
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
        assert!(
            closed(|w| fixtures::scope(w).state = QualificationState::Withdrawn)
                .contains("withdrawn")
        );
        assert!(
            closed(|w| fixtures::scope(w).state = QualificationState::Suspended)
                .contains("suspended")
        );
    }

    #[test]
    fn one_scope_that_holds_keeps_the_gate_open_for_its_own_kubernetes_nodes() {
        let (mut world, mut policy) = fixtures::fleet(2);
        let mut other = fixtures::scope(&mut world).clone();
        other.label_key = "silver.node-restriction.kubernetes.io/qualified".into();
        let key = other.label_key.clone();
        world.scopes.as_mut().unwrap().insert("silver".into(), other);
        policy.sovereignty.scopes.push("silver".into());
        let k1 = fixtures::kubernetes_node(&mut world, "k1");
        k1.labels = BTreeMap::from([(key, "true".into())]);
        fixtures::scope(&mut world).state = QualificationState::Suspended;
        let gate = scope_gate(&world, &policy, NOW);
        let media_node = |name: &str| &world.media_nodes[&name.into()];
        assert_eq!(footing(&gate, media_node("demo-0")), Footing::OutOfScope);
        let suspended = NodeLoss::Scope(ScopeLoss::Suspended("snc".into()));
        assert_eq!(loss(&gate, media_node("demo-0")), Some(suspended));
        let good = attested(&gate, media_node("demo-1")).expect("in scope");
        assert_eq!(good.scope, "silver".into());
    }

    #[test]
    fn weaker_evidence_than_the_owner_asks_for_is_none() {
        let (world, mut policy) = fixtures::fleet(1);
        policy.sovereignty.minimum_evidence = Level::E1;
        let gate = scope_gate(&world, &policy, NOW);
        let media_node = world.media_nodes.values().next().unwrap();
        let loss = loss(&gate, media_node).expect("too weak");
        assert_eq!(loss.word(), "EvidenceTooWeak");
        assert!(loss.describe().contains("spec.providerID is empty"), "{}", loss.describe());
    }

    #[test]
    fn not_being_able_to_look_is_neither_open_nor_closed() {
        let (mut world, policy) = fixtures::fleet(1);
        world.scopes = None;
        let gate = scope_gate(&world, &policy, NOW);
        assert_eq!(gate, ScopeGate::Unknown);
        let media_node = world.media_nodes.values().next().unwrap();
        assert_eq!(footing(&gate, media_node), Footing::Unknown);
        assert_eq!(loss(&gate, media_node), None);
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
        assert_eq!(loss(&gate, &media_node), Some(NodeLoss::Unclaimed));
    }
}
