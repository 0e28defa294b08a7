//! Keeps the record of violations: what runs where no scope reaches, from when until when.
//!
//! Decides what is a violation and when it is over; ends no room. A violation is a media node or a
//! gateway whose process runs without footing, rooms or none. Invariants: one that goes on keeps
//! its beginning and its id; not being able to look neither opens nor ends one; the record is
//! bounded, and one that goes on is never pushed out by one that is over.

use std::collections::BTreeMap;

use crate::{
    ids::{KubernetesNodeName, MediaNodeName, PodName, RoomKey, Timestamp},
    policy::Policy,
    sovereignty::{self, Footing, ScopeGate},
    world::{MediaNodeSeen, Pod, PodPhase, PodSeen, ReportSeen, World},
};

/// Violations that are remembered: a page of a status. Those that are over go first.
pub const REMEMBERED_MAX: usize = 32;

/// A media node or a gateway that runs, or ran, where no scope reaches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Names it: the pod and the second in which it was first seen.
    pub id: String,
    /// What is wrong, in one stable word.
    pub what: String,
    /// What was seen.
    pub message: String,
    /// What remedies it.
    pub remedy: String,
    /// The pod; a media node's bears its name.
    pub pod: PodName,
    /// The Kubernetes node under it.
    pub kubernetes_node: KubernetesNodeName,
    /// When it was first seen.
    pub since: Timestamp,
    /// When it was seen to be over.
    pub ended: Option<Timestamp>,
    /// How many rooms were there when it was seen last.
    pub rooms: usize,
    /// Those rooms, as far as they are known.
    pub room_keys: Vec<RoomKey>,
    /// Who answers for it, and until when.
    pub acknowledged: Option<(String, Timestamp)>,
}

impl Violation {
    /// Whether it goes on and nobody answers for it at `now`.
    #[must_use]
    pub fn is_open(&self, now: Timestamp) -> bool {
        let answered = self.acknowledged.as_ref().is_some_and(|(_, until)| now < *until);
        self.ended.is_none() && !answered
    }
}

/// The record after this look, the oldest first.
#[must_use]
pub fn record(world: &World, policy: &Policy, gate: &ScopeGate, now: Timestamp) -> Vec<Violation> {
    let mut record: BTreeMap<(Timestamp, String), Violation> = BTreeMap::new();
    for before in &world.violations {
        let mut kept = before.clone();
        if kept.ended.is_none() && is_over(world, gate, &kept) {
            kept.ended = Some(now);
        }
        record.insert((kept.since, kept.id.clone()), kept);
    }
    let media_nodes = world.media_nodes.iter().filter_map(|it| of_media_node(it, gate, now));
    let gateways = world.gateway.iter().flat_map(|gateway| &gateway.pods);
    let gateways = gateways.filter_map(|it| of_gateway(it, gate, now));
    for fresh in media_nodes.chain(gateways) {
        let known = record.values_mut().find(|it| it.pod == fresh.pod && it.ended.is_none());
        match known {
            Some(known) => {
                let (id, since) = (known.id.clone(), known.since);
                *known = Violation { id, since, ..fresh };
            }
            None => drop(record.insert((now, fresh.id.clone()), fresh)),
        }
    }
    let mut record: Vec<Violation> = record.into_values().collect();
    for violation in &mut record {
        let answers = policy.sovereignty.acknowledgements.iter();
        violation.acknowledged = answers
            .filter(|it| it.violation == violation.id)
            .map(|it| (it.by.clone(), it.until))
            .next_back();
    }
    while record.len() > REMEMBERED_MAX {
        let over = record.iter().position(|it| it.ended.is_some()).unwrap_or_default();
        record.remove(over);
    }
    record
}

/// What is wrong with where a media node's process runs, if that is sure.
fn of_media_node(
    (name, seen): (&MediaNodeName, &MediaNodeSeen),
    gate: &ScopeGate,
    now: Timestamp,
) -> Option<Violation> {
    let PodSeen::Present(pod) = &seen.pod else { return None };
    let report = seen.report.as_ref();
    let wrong = astray(gate, pod).or_else(|| clock(report?))?;
    let mut violation = violation(PodName::new(name.as_str()), pod, wrong, now)?;
    if let Some(report) = report {
        violation.rooms = report.rooms.len();
        violation.room_keys = report.rooms.keys().cloned().collect();
    }
    Some(violation)
}

/// The same of a gateway, which holds no room.
fn of_gateway(
    (name, pod): (&PodName, &Pod),
    gate: &ScopeGate,
    now: Timestamp,
) -> Option<Violation> {
    violation(name.clone(), pod, astray(gate, pod)?, now)
}

/// What is wrong: in one stable word, in a sentence, and what remedies it.
struct Wrong {
    what: &'static str,
    message: String,
    remedy: String,
}

fn astray(gate: &ScopeGate, pod: &Pod) -> Option<Wrong> {
    let loss = sovereignty::pod_loss(gate, pod)?;
    Some(Wrong { what: loss.word(), message: loss.describe(), remedy: loss.remedy() })
}

fn clock(report: &ReportSeen) -> Option<Wrong> {
    (!sovereignty::clock_fits(report.clock_skew_ms)).then(|| Wrong {
        what: CLOCK_SKEW,
        message: format!("its clock is {} s off the operator's", report.clock_skew_ms / 1_000),
        remedy: "set the clock of the Kubernetes node, or of the operator's, by the scope's time \
                 source"
            .into(),
    })
}

/// The violation of a pod whose process runs.
fn violation(name: PodName, pod: &Pod, wrong: Wrong, now: Timestamp) -> Option<Violation> {
    let kubernetes_node = pod.kubernetes_node.clone().filter(|_| pod.phase == PodPhase::Running)?;
    Some(Violation {
        id: format!("{name}-{}", now.unix_ms() / 1_000),
        what: wrong.what.to_owned(),
        message: format!("Kubernetes node {kubernetes_node}: {}", wrong.message),
        remedy: wrong.remedy,
        pod: name,
        kubernetes_node,
        since: now,
        ended: None,
        rooms: 0,
        room_keys: vec![],
        acknowledged: None,
    })
}

/// The word for a clock that is not believed.
const CLOCK_SKEW: &str = "ClockSkew";

fn is_over(world: &World, gate: &ScopeGate, violation: &Violation) -> bool {
    let runs = |pod: &Pod| !matches!(pod.phase, PodPhase::Terminated { .. });
    let in_scope = |pod: &Pod| sovereignty::pod_footing(gate, pod) == Footing::InScope;
    if let Some(seen) = world.media_nodes.get(&MediaNodeName::new(violation.pod.as_str())) {
        let PodSeen::Present(pod) = &seen.pod else { return true };
        let report = seen.report.as_ref();
        let clock_fits = report.is_none_or(|it| sovereignty::clock_fits(it.clock_skew_ms));
        return !runs(pod) || (in_scope(pod) && clock_fits);
    }
    // A door that could not be read may have the pod still.
    world.gateway.as_ref().is_some_and(|gateway| {
        gateway.pods.get(&violation.pod).is_none_or(|pod| !runs(pod) || in_scope(pod))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        fixtures::{self, NOW},
        policy::Acknowledgement,
        sovereignty::scope_gate,
    };

    fn look(world: &mut World, policy: &Policy, now: Timestamp) -> Vec<Violation> {
        let gate = scope_gate(world, policy, now);
        world.violations = record(world, policy, &gate, now);
        world.violations.clone()
    }

    #[test]
    fn a_violation_lasts_from_the_loss_to_the_remedy() {
        let (mut world, policy) = fixtures::fleet(2);
        fixtures::room(&mut world, "demo-0", "council", 3);
        assert_eq!(look(&mut world, &policy, NOW), []);
        let labels = std::mem::take(&mut fixtures::kubernetes_node(&mut world, "k0").labels);
        let [one] = &look(&mut world, &policy, NOW)[..] else { panic!("one") };
        assert_eq!((one.what.as_str(), one.rooms), ("OutOfScope", 1));
        assert!(one.is_open(NOW) && !one.message.contains("council"), "{one:?}");
        let later = NOW.plus_ms(5_000);
        assert_eq!(look(&mut world, &policy, later)[0].since, NOW, "it is the same one");
        fixtures::kubernetes_node(&mut world, "k0").labels = labels;
        let after = look(&mut world, &policy, NOW.plus_ms(6_000));
        assert_eq!(after[0].ended, Some(NOW.plus_ms(6_000)));
        fixtures::kubernetes_node(&mut world, "k0").labels.clear();
        assert_eq!(look(&mut world, &policy, NOW.plus_ms(9_000)).len(), 2, "another one");
    }

    #[test]
    fn a_gateway_that_runs_out_of_scope_is_one_too() {
        let (mut world, policy) = fixtures::fleet(1);
        fixtures::gateway_pod(&mut world, "demo-gateway-a", "k-out");
        fixtures::kubernetes_node(&mut world, "k-out").labels.clear();
        let [one] = &look(&mut world, &policy, NOW)[..] else { panic!("one") };
        assert_eq!((one.what.as_str(), one.pod.as_str()), ("OutOfScope", "demo-gateway-a"));
        let gateway = world.gateway.take();
        assert_eq!(look(&mut world, &policy, NOW)[0].ended, None, "nobody could look");
        world.gateway = gateway;
        world.gateway.as_mut().unwrap().pods.clear();
        assert_eq!(look(&mut world, &policy, NOW)[0].ended, Some(NOW));
    }

    #[test]
    fn not_being_able_to_look_neither_opens_nor_ends_one() {
        let (mut world, policy) = fixtures::fleet(1);
        let scopes = world.scopes.take();
        assert_eq!(look(&mut world, &policy, NOW), []);
        world.scopes = scopes;
        fixtures::kubernetes_node(&mut world, "k0").labels.clear();
        look(&mut world, &policy, NOW);
        world.kubernetes_nodes = None;
        assert_eq!(look(&mut world, &policy, NOW.plus_ms(1))[0].ended, None);
    }

    #[test]
    fn who_answers_for_one_closes_it_for_a_time() {
        let (mut world, mut policy) = fixtures::fleet(1);
        fixtures::kubernetes_node(&mut world, "k0").labels.clear();
        let id = look(&mut world, &policy, NOW)[0].id.clone();
        let (by, until) = ("the prefect".to_owned(), NOW.plus_ms(10));
        policy.sovereignty.acknowledgements.push(Acknowledgement { violation: id, by, until });
        let answered = look(&mut world, &policy, NOW.plus_ms(1));
        assert!(!answered[0].is_open(NOW.plus_ms(9)));
        assert!(answered[0].is_open(NOW.plus_ms(10)));
    }

    #[test]
    fn a_clock_two_hours_off_is_a_violation() {
        let (mut world, policy) = fixtures::fleet(1);
        fixtures::report(&mut world, "demo-0").clock_skew_ms = -7_200_000;
        let one = &look(&mut world, &policy, NOW)[0];
        assert_eq!(one.what, "ClockSkew");
        assert!(one.message.contains("-7200 s"), "{}", one.message);
    }

    #[test]
    fn the_record_is_bounded_and_keeps_what_goes_on() {
        let (mut world, policy) = fixtures::fleet(1);
        fixtures::kubernetes_node(&mut world, "k0").labels.clear();
        let first = look(&mut world, &policy, NOW)[0].clone();
        for number in 1..100 {
            let since = NOW.plus_ms(number);
            let (id, ended) = (format!("old-{number}"), Some(since));
            world.violations.push(Violation { id, since, ended, ..first.clone() });
        }
        let kept = look(&mut world, &policy, NOW.plus_ms(200));
        assert_eq!(kept.len(), REMEMBERED_MAX);
        assert_eq!(kept[0].id, first.id);
    }
}
