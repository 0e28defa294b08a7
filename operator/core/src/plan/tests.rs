//! Whole plans: the same input gives the same plan, and each held step says why.

use super::*;
use crate::{
    fixtures::{self, NOW},
    sovereignty::ScopeLoss,
    world::PodSeen,
};

fn planned(world: &World, policy: &Policy) -> (Plan, PlanReport) {
    let made = plan(world, policy, NOW);
    assert_eq!(made, plan(world, policy, NOW), "the same input, the same plan");
    assert_eq!(crate::audit::plan(world, policy, &made.0, NOW), []);
    made
}

#[test]
fn an_empty_meeting_cluster_gets_its_minimum_and_then_its_pods() {
    let (mut world, mut policy) = fixtures::fleet(0);
    policy.capacity.nodes_min = 2;
    let (plan, report) = planned(&world, &policy);
    let made = |name: &str| Step::CreateMediaNode { name: name.into() };
    assert_eq!(plan.steps, [made("demo-1"), made("demo-2")]);
    assert_eq!(report.ordinal_high_water, 2);

    for index in 1..3 {
        fixtures::add(&mut world, index);
        let seen = fixtures::media_node(&mut world, &format!("demo-{index}"));
        seen.pod = PodSeen::NeverCreated;
        seen.report = None;
    }
    let (plan, _) = planned(&world, &policy);
    let pod = |index: u32| Step::CreatePod {
        media_node: format!("demo-{index}").into(),
        media_node_uid: format!("uid-{index}").into(),
    };
    assert_eq!(plan.steps, [pod(1), pod(2)]);
}

#[test]
fn an_ordinal_is_never_given_twice() {
    let (mut world, policy) = fixtures::fleet(0);
    world.ordinal_high_water = 41;
    let (plan, report) = planned(&world, &policy);
    assert_eq!(plan.steps, [Step::CreateMediaNode { name: "demo-42".into() }]);
    assert_eq!(report.ordinal_high_water, 42);
}

#[test]
fn no_scope_no_pod_and_the_report_says_why() {
    let (mut world, policy) = fixtures::fleet(0);
    world.scopes.as_mut().unwrap().clear();
    let (plan, report) = planned(&world, &policy);
    assert_eq!(plan.steps, []);
    assert_eq!(report.gate, ScopeGate::Closed(ScopeLoss::Missing("snc".into())));
    assert!(report.held().any(|(_, held)| matches!(held.on, WaitingOn::Scope(_))));
}

#[test]
fn weak_keys_make_no_media_node_and_leave_those_that_run() {
    let (mut world, mut policy) = fixtures::fleet(1);
    policy.capacity.nodes_min = 2;
    world.credentials = CredentialsSeen::Weak { what: "key devkey is weak".into() };
    let (plan, report) = planned(&world, &policy);
    assert_eq!(plan.steps, []);
    assert!(report.held().any(|(_, held)| matches!(held.on, WaitingOn::Credentials(_))));
}

#[test]
fn a_pause_changes_nothing_at_all() {
    let (mut world, mut policy) = fixtures::fleet(1);
    policy.capacity.nodes_min = 5;
    policy.paused = Paused::Yes;
    fixtures::media_node(&mut world, "demo-0").pod = PodSeen::Gone;
    let (plan, report) = planned(&world, &policy);
    assert_eq!(plan.steps, []);
    assert!(report.held().any(|(_, held)| held.on == WaitingOn::Pause));
}

#[test]
fn a_pod_without_a_place_stops_growth_after_a_while() {
    let (mut world, mut policy) = fixtures::fleet(2);
    policy.capacity.nodes_min = 3;
    fixtures::media_node(&mut world, "demo-1").report = None;
    let since = |ms: u64| PodPhase::Unschedulable { since: Timestamp(NOW.0 - ms) };
    fixtures::pod(&mut world, "demo-1").phase = since(5_000);
    fixtures::pod(&mut world, "demo-1").kubernetes_node = None;
    let (plan, _) = planned(&world, &policy);
    assert_eq!(plan.steps.len(), 1);
    fixtures::pod(&mut world, "demo-1").phase = since(UNSCHEDULABLE_PATIENCE_MS);
    let (plan, report) = planned(&world, &policy);
    assert_eq!(plan.steps, []);
    assert!(report.held().any(|(_, held)| matches!(held.on, WaitingOn::KubernetesNode(_))));
}

#[test]
fn growth_takes_back_a_drain_before_it_makes_a_media_node() {
    let (mut world, policy) = fixtures::fleet(2);
    fixtures::draining(&mut world, "demo-1", NOW);
    fixtures::room(&mut world, "demo-1", "r", 70);
    let (plan, _) = planned(&world, &policy);
    assert!(matches!(
        plan.steps.as_slice(),
        [Step::SetDesiredState { state: crate::world::DesiredState::Serving, .. }]
    ));
}

#[test]
fn the_bound_is_told_when_more_is_needed() {
    let (mut world, mut policy) = fixtures::fleet(2);
    policy.capacity.nodes_max = 2;
    fixtures::report(&mut world, "demo-0").participants = 200;
    let (plan, report) = planned(&world, &policy);
    assert_eq!(plan.steps, []);
    assert!(report.held().any(|(_, held)| held.on == WaitingOn::NodesMax(2)));
}
