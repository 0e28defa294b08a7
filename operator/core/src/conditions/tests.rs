//! The owner is told what happened, to which object, and what to do.

use super::*;
use crate::{
    fixtures::{self, NOW},
    ids::Timestamp,
    plan::plan,
    world::{GatewayRollout, GatewaySeen, PodPhase, PodTrouble, RefusalSeen},
};

fn told(world: &World, policy: &Policy, kind: ConditionKind) -> (Status, Reason, String) {
    let (_, report) = plan(world, policy, NOW);
    let all = conditions(world, policy, &report);
    let kinds: Vec<_> = all.iter().map(|condition| condition.kind).collect();
    assert_eq!(kinds, ConditionKind::ALL);
    let found = all.into_iter().find(|condition| condition.kind == kind).unwrap();
    assert!(!found.message.is_empty() && !found.message.ends_with('.'), "{}", found.message);
    (found.status, found.reason, found.message)
}

/// One case: what went wrong, and the condition that must tell.
type Case = (fn(&mut World, &mut Policy), ConditionKind, Status, Reason, &'static str);

#[test]
fn all_is_well_and_says_so() {
    let (world, policy) = fixtures::fleet(2);
    for kind in ConditionKind::ALL {
        let bad = matches!(
            kind,
            ConditionKind::Progressing | ConditionKind::Degraded | ConditionKind::Paused
        );
        let (status, reason, message) = told(&world, &policy, kind);
        let expected = if bad { Status::False } else { Status::True };
        assert_eq!((status, reason), (expected, Reason::AsExpected), "{kind:?}: {message}");
    }
}

#[test]
fn each_trouble_has_its_condition_its_reason_and_its_cure() {
    use ConditionKind as Kind;
    let cases: [Case; 20] = [
        (
            |w, _| {
                w.scopes.as_mut().unwrap().clear();
                w.gateway.as_mut().unwrap().replicas_ready = 0;
            },
            Kind::Ready,
            Status::False,
            Reason::ScopeNotValid,
            "create it",
        ),
        (
            |w, _| w.scopes.as_mut().unwrap().clear(),
            Kind::Ready,
            Status::False,
            Reason::ScopeNotValid,
            "create it",
        ),
        (|w, _| w.scopes = None, Kind::Degraded, Status::True, Reason::ScopeUnknown, "listed"),
        (
            |w, _| w.credentials = CredentialsSeen::Weak { what: "key a is short".into() },
            Kind::Ready,
            Status::False,
            Reason::CredentialsWeak,
            "key a",
        ),
        (
            |w, _| w.gateway = Some(GatewaySeen { replicas_wanted: 2, ..GatewaySeen::default() }),
            Kind::Available,
            Status::False,
            Reason::GatewayNotReady,
            "gateway",
        ),
        (
            |w, _| w.media_nodes.clear(),
            Kind::Available,
            Status::False,
            Reason::MediaNodesStarting,
            "no media node",
        ),
        (
            |w, _| {
                w.gateway.as_mut().unwrap().rollout = GatewayRollout::Going { updated: 1 };
            },
            Kind::Progressing,
            Status::True,
            Reason::GatewayRollingOut,
            "1 of 2 gateway replicas",
        ),
        (
            |_, p| p.template_hash = "t2".into(),
            Kind::Progressing,
            Status::True,
            Reason::RollingOut,
            "media node demo-",
        ),
        (
            |_, p| p.paused = Paused::Yes,
            Kind::Paused,
            Status::True,
            Reason::Paused,
            "set it to false",
        ),
        (
            |w, _| w.demand.rooms_refused = 3,
            Kind::CapacityOk,
            Status::False,
            Reason::RoomsRefused,
            "raise spec.capacity.maxNodes",
        ),
        (
            |w, p| {
                p.capacity.nodes_max = 2;
                fixtures::report(w, "demo-0").participants = 500;
            },
            Kind::CapacityOk,
            Status::False,
            Reason::NodesMaxReached,
            "raise it",
        ),
        (
            |w, _| fixtures::report(w, "demo-1").received = Timestamp(0),
            Kind::Degraded,
            Status::True,
            Reason::ReportsMissing,
            "demo-1",
        ),
        (
            |w, _| fixtures::pod(w, "demo-1").trouble = Some("ErrImagePull: no such image".into()),
            Kind::Degraded,
            Status::True,
            Reason::MediaNodesFailing,
            "no such image): correct spec.image.mediaNode",
        ),
        (
            |w, p| {
                // The old ones serve on, and one of the new template has no place.
                p.template_hash = "t2".into();
                fixtures::add(w, 2);
                fixtures::media_node(w, "demo-2").report = None;
                let pod = fixtures::pod(w, "demo-2");
                pod.phase = PodPhase::Unschedulable { since: NOW };
                pod.trouble = Some("3 Insufficient cpu. preemption: no victims.".into());
            },
            Kind::CapacityOk,
            Status::False,
            Reason::PodUnschedulable,
            "3 Insufficient cpu): add Kubernetes nodes to the scope",
        ),
        (
            |w, _| {
                let pod = "demo-gateway-1".into();
                let trouble = PodTrouble { pod, words: "ErrImagePull: no such image".into() };
                w.gateway.as_mut().unwrap().trouble = Some(trouble);
            },
            Kind::Degraded,
            Status::True,
            Reason::GatewayFailing,
            "correct spec.image.gateway",
        ),
        (
            |w, _| {
                w.media_nodes.retain(|name, _| name.as_str() == "demo-0");
                fixtures::media_node(w, "demo-0").report = None;
                fixtures::pod(w, "demo-0").phase = PodPhase::Pending;
                fixtures::pod(w, "demo-0").trouble = Some("CreateContainerError: no disk".into());
            },
            Kind::Ready,
            Status::False,
            Reason::MediaNodesFailing,
            "kubectl describe pod demo-0",
        ),
        (
            |w, _| {
                w.media_nodes.clear();
                let act = "create Pod demo-1".into();
                w.refusals.push(RefusalSeen { act, message: "exceeded quota".into(), at: NOW });
            },
            Kind::Ready,
            Status::False,
            Reason::ApiRefused,
            "raise that ResourceQuota",
        ),
        (
            |w, _| {
                let refusal = RefusalSeen {
                    act: "create pod demo-9".into(),
                    message: "exceeded quota".into(),
                    at: NOW,
                };
                w.refusals.push(refusal);
            },
            Kind::Degraded,
            Status::True,
            Reason::ApiRefused,
            "exceeded quota",
        ),
        (
            |w, _| w.placer = PlacerSeen::Rebuilding { unheard: 2 },
            Kind::PlacementReady,
            Status::False,
            Reason::Rebuilding,
            "2 media nodes",
        ),
        (
            |w, p| {
                p.capacity.nodes_min = 3;
                let since = Timestamp(NOW.0 - 60_000);
                fixtures::media_node(w, "demo-1").report = None;
                fixtures::pod(w, "demo-1").kubernetes_node = None;
                fixtures::pod(w, "demo-1").phase = PodPhase::Unschedulable { since };
            },
            Kind::CapacityOk,
            Status::False,
            Reason::PodUnschedulable,
            "add Kubernetes nodes",
        ),
    ];
    for (change, kind, status, reason, says) in cases {
        let (mut world, mut policy) = fixtures::fleet(2);
        change(&mut world, &mut policy);
        let (found, why, message) = told(&world, &policy, kind);
        assert_eq!((found, why), (status, reason), "{message}");
        assert!(message.contains(says), "{reason:?}: {message}");
    }
}

#[test]
fn no_kubernetes_node_in_scope_is_told() {
    let (mut world, policy) = fixtures::fleet(0);
    fixtures::kubernetes_node(&mut world, "k9").labels.clear();
    let (status, reason, message) = told(&world, &policy, ConditionKind::Degraded);
    assert_eq!((status, reason), (Status::True, Reason::NoKubernetesNodeInScope));
    assert!(message.contains("spec.nodeLabel"), "{message}");
}

#[test]
fn rooms_that_a_lost_scope_refused_want_no_more_media_nodes() {
    let (mut world, policy) = fixtures::fleet(2);
    world.demand.rooms_refused = 1;
    fixtures::scope(&mut world).state = crate::world::QualificationState::Withdrawn;
    let (status, reason, message) = told(&world, &policy, ConditionKind::CapacityOk);
    assert_eq!((status, reason), (Status::False, Reason::ScopeNotValid));
    assert!(!message.contains("maxNodes"), "{message}");
}

#[test]
fn what_keeps_media_from_every_kubernetes_node_is_told_before_the_scheduler_s_word() {
    let (mut world, mut policy) = fixtures::fleet(1);
    policy.capacity.nodes_min = 1;
    fixtures::media_node(&mut world, "demo-0").report = None;
    fixtures::pod(&mut world, "demo-0").kubernetes_node = None;
    fixtures::pod(&mut world, "demo-0").phase = PodPhase::Unschedulable { since: NOW };
    for name in ["k0", "k1", "k2", "k9"] {
        fixtures::kubernetes_node(&mut world, name).provider_id = "example:///abroad-1/i-1".into();
    }
    for kind in [ConditionKind::Ready, ConditionKind::CapacityOk] {
        let (status, reason, message) = told(&world, &policy, kind);
        assert_eq!((status, reason), (Status::False, Reason::NoKubernetesNodeInScope), "{message}");
        assert!(message.contains("correct the QualificationScope"), "{message}");
    }
}

#[test]
fn a_drain_is_progress_that_names_the_media_node() {
    let (mut world, policy) = fixtures::fleet(2);
    fixtures::draining(&mut world, "demo-1", NOW);
    fixtures::room(&mut world, "demo-1", "r", 1);
    let (status, reason, message) = told(&world, &policy, ConditionKind::Progressing);
    assert_eq!((status, reason), (Status::True, Reason::Draining));
    assert!(message.contains("demo-1"), "{message}");
}
