//! A new template replaces media nodes one at a time and stops when it does not come up.

use crate::{
    fixtures::{self, NOW},
    plan::{PlanReport, WaitingOn, plan},
    policy::Policy,
    step::{Plan, Step},
    world::{DesiredState, DrainCause, PodPhase, PodSeen, Ready, World},
};

fn planned(world: &World, policy: &Policy) -> (Plan, PlanReport) {
    let (plan, report) = plan(world, policy, NOW);
    assert_eq!(crate::audit::plan(world, policy, &plan, NOW), []);
    (plan, report)
}

fn retired(plan: &Plan) -> Vec<&str> {
    let retired = plan.steps.iter().filter_map(|step| match step {
        Step::SetDesiredState { name, state: DesiredState::Retired, .. } => Some(name.as_str()),
        _ => None,
    });
    retired.collect()
}

/// Two serving media nodes, wanted are two, and the template has changed.
fn changed() -> (World, Policy) {
    let (world, mut policy) = fixtures::fleet(2);
    policy.capacity.nodes_min = 2;
    policy.template_hash = "t2".into();
    (world, policy)
}

fn add_new(world: &mut World, index: u32) {
    fixtures::kubernetes_node(world, &format!("k{index}"));
    fixtures::add(world, index);
    fixtures::media_node(world, &format!("demo-{index}")).template_hash = "t2".into();
}

#[test]
fn a_new_one_is_made_before_an_old_one_goes() {
    let (mut world, policy) = changed();
    let (plan, _) = planned(&world, &policy);
    assert_eq!(plan.steps, [Step::CreateMediaNode { name: "demo-2".into() }]);

    add_new(&mut world, 2);
    fixtures::media_node(&mut world, "demo-2").report = None;
    fixtures::pod(&mut world, "demo-2").ready = Ready::No;
    fixtures::pod(&mut world, "demo-2").phase = PodPhase::Pending;
    let (plan, report) = planned(&world, &policy);
    assert_eq!(plan.steps, [], "the old ones go on serving until the new one does");
    let waits = WaitingOn::MediaNodeReady("demo-2".into());
    assert!(report.held().any(|(_, held)| held.on == waits));
}

#[test]
fn one_at_a_time_the_emptiest_first() {
    let (mut world, policy) = changed();
    add_new(&mut world, 2);
    fixtures::room(&mut world, "demo-1", "r", 3);
    let (plan, _) = planned(&world, &policy);
    assert_eq!(retired(&plan), ["demo-0"]);

    fixtures::draining(&mut world, "demo-0", NOW);
    fixtures::room(&mut world, "demo-0", "long", 2);
    let seen = fixtures::media_node(&mut world, "demo-0");
    seen.drain_cause = Some(DrainCause::Rollout);
    seen.desired = DesiredState::Retired;
    add_new(&mut world, 3);
    let (plan, report) = planned(&world, &policy);
    assert_eq!(plan.steps, []);
    let waits = WaitingOn::OtherDrain("demo-0".into());
    assert!(report.held().any(|(_, held)| held.on == waits));
}

#[test]
fn a_template_that_cannot_start_is_replaced_by_the_next_without_waiting() {
    let (mut world, mut policy) = changed();
    add_new(&mut world, 2);
    fixtures::media_node(&mut world, "demo-2").report = None;
    fixtures::pod(&mut world, "demo-2").phase = PodPhase::Pending;
    fixtures::pod(&mut world, "demo-2").trouble = Some("ErrImagePull".into());
    policy.template_hash = "t3".into();
    let (plan, _) = planned(&world, &policy);
    let deleted = plan.steps.iter().any(
        |step| matches!(step, Step::DeleteMediaNode { name, .. } if name.as_str() == "demo-2"),
    );
    assert!(deleted, "{plan:?}");
}

#[test]
fn a_template_that_crashes_makes_no_further_media_node_and_gives_way_to_the_next() {
    let (mut world, mut policy) = changed();
    add_new(&mut world, 2);
    fixtures::media_node(&mut world, "demo-2").report = None;
    fixtures::pod(&mut world, "demo-2").ready = Ready::No;
    fixtures::pod(&mut world, "demo-2").trouble = Some("CrashLoopBackOff".into());
    let (plan, report) = planned(&world, &policy);
    assert_eq!(plan.steps, [], "the old ones serve, and one failing media node is enough");
    let waits = WaitingOn::MediaNodeReady("demo-2".into());
    assert!(report.held().any(|(_, held)| held.on == waits));
    policy.template_hash = "t3".into();
    let (plan, _) = planned(&world, &policy);
    let deleted = plan.steps.iter().any(
        |step| matches!(step, Step::DeleteMediaNode { name, .. } if name.as_str() == "demo-2"),
    );
    assert!(deleted && plan.steps.len() == 2, "{plan:?}");
}

#[test]
fn when_all_are_new_the_fleet_has_its_size_again() {
    let (mut world, policy) = changed();
    world.media_nodes.clear();
    for index in 2..4 {
        add_new(&mut world, index);
    }
    assert_eq!(planned(&world, &policy).0.steps, []);
}

#[test]
fn a_media_node_without_a_pod_has_no_template_yet() {
    let (mut world, policy) = changed();
    add_new(&mut world, 2);
    fixtures::media_node(&mut world, "demo-2").pod = PodSeen::NeverCreated;
    fixtures::media_node(&mut world, "demo-2").report = None;
    fixtures::media_node(&mut world, "demo-2").template_hash = "t1".into();
    let (plan, _) = planned(&world, &policy);
    assert!(matches!(plan.steps.as_slice(), [Step::CreatePod { .. }]), "{plan:?}");
}
