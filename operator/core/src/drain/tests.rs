//! A media node is emptied without throwing anyone out, and removed only on proof.

use crate::{
    fixtures::{self, NOW},
    ids::Timestamp,
    plan::{PlanReport, WaitingOn, plan},
    policy::{OnLoss, Policy},
    report::MediaNodeState,
    step::{Evidence, Plan, Step},
    world::{DesiredState, DrainCause, DrainRequested, PodPhase, Ready, World},
};

fn planned(world: &World, policy: &Policy) -> (Plan, PlanReport) {
    let (plan, report) = plan(world, policy, NOW);
    assert_eq!(crate::audit::plan(world, policy, &plan, NOW), []);
    (plan, report)
}

fn deletes(plan: &Plan) -> Vec<&str> {
    let deleted = plan.steps.iter().filter_map(|step| match step {
        Step::DeleteMediaNode { name, .. } => Some(name.as_str()),
        _ => None,
    });
    deleted.collect()
}

fn desires(plan: &Plan) -> Vec<(&str, DesiredState, Option<DrainCause>)> {
    let desired = plan.steps.iter().filter_map(|step| match step {
        Step::SetDesiredState { name, state, cause, .. } => Some((name.as_str(), *state, *cause)),
        _ => None,
    });
    desired.collect()
}

/// Three media nodes of which `demo-1` drains since `since`.
fn drained(since: Timestamp) -> (World, Policy) {
    let (mut world, policy) = fixtures::fleet(3);
    fixtures::draining(&mut world, "demo-1", since);
    (world, policy)
}

#[test]
fn an_empty_media_node_that_said_so_is_removed() {
    let (world, policy) = drained(Timestamp(NOW.0 - 5_000));
    let (plan, _) = planned(&world, &policy);
    assert_eq!(deletes(&plan), ["demo-1"]);
    let evidence = plan.steps.iter().find_map(|step| match step {
        Step::DeleteMediaNode { evidence, .. } => Some(evidence),
        _ => None,
    });
    assert!(matches!(evidence, Some(Evidence::ReportedEmpty { .. })));
}

#[test]
fn a_drain_that_only_an_edit_by_hand_asks_for_is_taken_back() {
    let (mut world, mut policy) = drained(Timestamp(NOW.0 - 5_000));
    policy.capacity.nodes_min = 3;
    fixtures::media_node(&mut world, "demo-1").drain_cause = None;
    let (plan, _) = planned(&world, &policy);
    assert_eq!(desires(&plan), [("demo-1", DesiredState::Serving, None)]);
    assert_eq!(deletes(&plan), [""; 0]);
}

#[test]
fn nothing_is_removed_on_stale_missing_or_early_evidence() {
    type Case = (&'static str, fn(&mut World));
    let cases: [Case; 6] = [
        ("old report", |w| fixtures::report(w, "demo-1").received = Timestamp(NOW.0 - 3_001)),
        ("no report", |w| fixtures::media_node(w, "demo-1").report = None),
        ("report from before the drain", |w| {
            fixtures::media_node(w, "demo-1").desired_since = Some(NOW.plus_ms(1));
        }),
        ("it has not heard", |w| fixtures::report(w, "demo-1").state = MediaNodeState::Serving),
        ("a claim is on its way", |w| fixtures::report(w, "demo-1").claims_in_flight = 1),
        ("somebody is leaving", |w| fixtures::report(w, "demo-1").participants = 1),
    ];
    for (case, change) in cases {
        let (mut world, policy) = drained(Timestamp(NOW.0 - 5_000));
        change(&mut world);
        let (plan, report) = planned(&world, &policy);
        assert!(deletes(&plan).is_empty(), "{case}");
        let held = report.held().any(|(_, held)| held.step == "remove media node demo-1");
        assert!(held, "{case}: {:?}", report.stages);
    }
}

#[test]
fn rooms_end_by_themselves_until_the_deadline_and_are_then_sent_home() {
    let (mut world, policy) = drained(Timestamp(NOW.0 - 5_000));
    fixtures::room(&mut world, "demo-1", "standup", 4);
    let (plan, report) = planned(&world, &policy);
    assert!(plan.steps.iter().all(|step| !matches!(step, Step::SendHome { .. })));
    let waits = report.held().find_map(|(_, held)| match &held.on {
        WaitingOn::Rooms { rooms, deadline_in_ms, .. } => Some((*rooms, *deadline_in_ms)),
        _ => None,
    });
    assert_eq!(waits, Some((1, 595_000)));

    fixtures::media_node(&mut world, "demo-1").desired_since = Some(Timestamp(NOW.0 - 600_000));
    let (plan, _) = planned(&world, &policy);
    let sent: Vec<_> =
        plan.steps.iter().filter(|step| matches!(step, Step::SendHome { .. })).collect();
    assert_eq!(sent.len(), 1);
    assert!(deletes(&plan).is_empty(), "people are still in it");
}

#[test]
fn a_thousand_rooms_are_sent_home_in_portions() {
    let (mut world, policy) = drained(Timestamp(NOW.0 - 600_000));
    for room in 0..1_000 {
        fixtures::room(&mut world, "demo-1", &format!("r{room}"), 1);
    }
    let (plan, _) = planned(&world, &policy);
    let sent = plan.steps.iter().filter(|step| matches!(step, Step::SendHome { .. })).count();
    assert_eq!(sent, super::SEND_HOME_PER_PLAN_MAX);
}

#[test]
fn a_cordoned_kubernetes_node_is_drained_and_another_media_node_made() {
    let (mut world, mut policy) = fixtures::fleet(2);
    policy.capacity.nodes_min = 2;
    fixtures::kubernetes_node(&mut world, "k1").unschedulable = true;
    let (plan, _) = planned(&world, &policy);
    let cause = Some(DrainCause::KubernetesNodeCordoned);
    assert_eq!(desires(&plan), [("demo-1", DesiredState::Draining, cause)]);
    assert!(plan.steps.contains(&Step::CreateMediaNode { name: "demo-2".into() }));
}

#[test]
fn the_last_media_node_is_not_drained_before_another_serves() {
    let (mut world, policy) = fixtures::fleet(1);
    fixtures::media_node(&mut world, "demo-0").drain_requested = DrainRequested::Yes;
    let (plan, report) = planned(&world, &policy);
    assert!(desires(&plan).is_empty());
    assert!(plan.steps.contains(&Step::CreateMediaNode { name: "demo-1".into() }));
    assert!(report.held().any(|(_, held)| held.step.contains("drain media node demo-0")));
    // Once the other one serves, the drain begins.
    fixtures::kubernetes_node(&mut world, "k1");
    fixtures::add(&mut world, 1);
    let (plan, _) = planned(&world, &policy);
    let cause = Some(DrainCause::Requested);
    assert_eq!(desires(&plan), [("demo-0", DesiredState::Draining, cause)]);
}

#[test]
fn a_drain_is_taken_back_with_its_reason() {
    let (mut world, mut policy) = drained(Timestamp(NOW.0 - 5_000));
    policy.capacity.nodes_min = 3;
    fixtures::room(&mut world, "demo-1", "r", 1);
    fixtures::media_node(&mut world, "demo-1").drain_cause =
        Some(DrainCause::KubernetesNodeCordoned);
    let (plan, _) = planned(&world, &policy);
    assert_eq!(desires(&plan), [("demo-1", DesiredState::Serving, None)]);
}

#[test]
fn leaving_the_scope_refuses_new_rooms_and_the_owner_chooses_about_the_others() {
    let (mut world, mut policy) = fixtures::fleet(2);
    fixtures::room(&mut world, "demo-1", "r", 2);
    fixtures::kubernetes_node(&mut world, "k1").labels.clear();
    let (plan, _) = planned(&world, &policy);
    let cause = Some(DrainCause::ScopeLost);
    assert_eq!(desires(&plan), [("demo-1", DesiredState::Draining, cause)]);

    fixtures::draining(&mut world, "demo-1", NOW);
    fixtures::media_node(&mut world, "demo-1").drain_cause = cause;
    let sent = |policy: &Policy| {
        let (plan, _) = planned(&world, policy);
        plan.steps.iter().filter(|step| matches!(step, Step::SendHome { .. })).count()
    };
    assert_eq!(sent(&policy), 0);
    policy.sovereignty.on_loss = OnLoss::Terminate;
    assert_eq!(sent(&policy), 1);
}

#[test]
fn scopes_that_could_not_be_listed_touch_nothing_that_runs() {
    let (mut world, policy) = fixtures::fleet(2);
    world.scopes = None;
    let (plan, _) = planned(&world, &policy);
    assert_eq!(plan.steps, []);
}

#[test]
fn a_lost_media_node_is_replaced_and_kept_until_its_end_is_proved() {
    let (mut world, mut policy) = fixtures::fleet(2);
    policy.capacity.nodes_min = 2;
    fixtures::room(&mut world, "demo-1", "r", 2);
    fixtures::report(&mut world, "demo-1").received = Timestamp(NOW.0 - 60_000);
    fixtures::pod(&mut world, "demo-1").ready = Ready::No;
    fixtures::kubernetes_node(&mut world, "k1").ready = false;
    let (plan, report) = planned(&world, &policy);
    assert_eq!(plan.steps, [Step::CreateMediaNode { name: "demo-2".into() }]);
    let waits = WaitingOn::PodTermination("demo-1".into());
    assert!(report.held().any(|(_, held)| held.on == waits));
    // The Kubernetes node goes away: now it is proved.
    world.kubernetes_nodes.as_mut().unwrap().remove(&"k1".into());
    assert_eq!(deletes(&planned(&world, &policy).0), ["demo-1"]);
}

#[test]
fn a_pod_that_dies_young_is_not_made_again_at_once() {
    let (mut world, policy) = fixtures::fleet(1);
    fixtures::pod(&mut world, "demo-0").created = Timestamp(NOW.0 - 10_000);
    fixtures::pod(&mut world, "demo-0").phase =
        PodPhase::Terminated { at: Timestamp(NOW.0 - 5_000) };
    let (plan, report) = planned(&world, &policy);
    assert_eq!(plan.steps, []);
    let backoff = WaitingOn::Backoff { media_node: "demo-0".into(), remaining_ms: 25_000 };
    assert!(report.held().any(|(_, held)| held.on == backoff));

    fixtures::pod(&mut world, "demo-0").phase =
        PodPhase::Terminated { at: Timestamp(NOW.0 - 30_000) };
    fixtures::pod(&mut world, "demo-0").created = Timestamp(NOW.0 - 40_000);
    let (plan, _) = planned(&world, &policy);
    assert_eq!(deletes(&plan), ["demo-0"]);
    assert!(plan.steps.contains(&Step::CreateMediaNode { name: "demo-1".into() }));
}

#[test]
fn the_emptiest_is_the_victim_and_the_younger_of_equals() {
    let (mut world, mut policy) = fixtures::fleet(3);
    policy.capacity.nodes_max = 2;
    fixtures::room(&mut world, "demo-2", "r", 1);
    let cause = Some(DrainCause::ScaleDown);
    let (plan, _) = planned(&world, &policy);
    assert_eq!(desires(&plan), [("demo-1", DesiredState::Draining, cause)]);
    fixtures::report(&mut world, "demo-0").participants = 1;
    fixtures::report(&mut world, "demo-1").participants = 2;
    let (plan, _) = planned(&world, &policy);
    // `demo-0` reports a participant and no room, `demo-2` one of each.
    assert_eq!(desires(&plan), [("demo-0", DesiredState::Draining, cause)]);
}
