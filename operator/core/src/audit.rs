//! Whether what was decided is sound: capacity, sovereignty, evidence, one home for each room.
//!
//! Independent on purpose: it looks at the raw world and shares no judgement with the decisions
//! that it checks, so that one mistake cannot hide in both. It decides nothing; an empty answer is
//! the only good one.

use std::collections::{BTreeMap, BTreeSet};

use thiserror::Error;

use crate::{
    fleet::REPORT_FRESH_MS,
    ids::{MediaNodeName, PodName, ResourceVersion, RoomKey, ScopeName, Timestamp, Uid},
    policy::{OnLoss, Paused, Policy},
    report::MediaNodeState,
    rollout::SURGE,
    step::{Evidence, Plan, Step},
    world::{
        DesiredState, DrainCause, MediaNodeSeen, Pod, PodPhase, PodSeen, QualificationState, World,
    },
};

/// One thing that is not sound.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum Problem {
    /// Something is changed although the owner said no.
    #[error("the plan changes something while the meeting cluster is paused")]
    ChangedWhilePaused,
    /// A pod is made without a scope that holds.
    #[error("media node {0} is made although no scope holds")]
    MadeWithoutScope(MediaNodeName),
    /// A name is used twice.
    #[error("media node {0} is made although one of that name exists")]
    NameTaken(MediaNodeName),
    /// More media nodes than the owner allows.
    #[error("{would_be} media nodes would take rooms, allowed are {allowed}")]
    TooMany {
        /// How many would be there.
        would_be: usize,
        /// How many may be.
        allowed: usize,
    },
    /// A step names an object that nobody saw, or another version of it.
    #[error("a step speaks of media node {0} as nobody saw it")]
    NotAsSeen(MediaNodeName),
    /// Two steps change one object.
    #[error("media node {0} is changed twice")]
    ChangedTwice(MediaNodeName),
    /// A gateway is moved although nobody saw it where it may not run.
    #[error("gateway pod {0} is moved although nobody could see it out of the scope")]
    MovedBlind(PodName),
    /// The last gateway that answers is taken away.
    #[error("gateway pod {0} is moved although no other one answers")]
    DoorShut(PodName),
    /// A media node is removed without proof that nobody is in it.
    #[error("media node {0} is removed without proof that it is empty")]
    RemovedUnproved(MediaNodeName),
    /// The fleet shrinks although somebody that should report does not.
    #[error("media node {0} is emptied for want of load while reports are missing")]
    ShrunkBlind(MediaNodeName),
    /// A room is sent home early.
    #[error("a room on media node {0} is sent home before its time")]
    SentHomeEarly(MediaNodeName),
    /// A room lives on two media nodes.
    #[error("room {room} lives on {first} and on {second}")]
    TwoHomes {
        /// Which room.
        room: RoomKey,
        /// One home.
        first: MediaNodeName,
        /// The other.
        second: MediaNodeName,
    },
}

/// Whether each room lives on at most one of the media nodes that can be reached.
pub fn homes<'a>(
    hosted: impl IntoIterator<Item = (&'a MediaNodeName, &'a RoomKey)>,
) -> Vec<Problem> {
    let mut first_homes: BTreeMap<&RoomKey, &MediaNodeName> = BTreeMap::new();
    let mut problems = Vec::new();
    for (media_node, room) in hosted {
        if let Some(first) = first_homes.insert(room, media_node) {
            let (room, first, second) = (room.clone(), first.clone(), media_node.clone());
            problems.push(Problem::TwoHomes { room, first, second });
        }
    }
    problems
}

/// Whether a plan is sound for the world and policy that it was made from.
#[must_use]
pub fn plan(world: &World, policy: &Policy, plan: &Plan, now: Timestamp) -> Vec<Problem> {
    let mut problems = Vec::new();
    if policy.paused == Paused::Yes && !plan.steps.is_empty() {
        problems.push(Problem::ChangedWhilePaused);
    }
    let mut changed = BTreeSet::new();
    let mut made = BTreeSet::new();
    for step in &plan.steps {
        if let Some(name) = changes(step)
            && !changed.insert(name.clone())
        {
            problems.push(Problem::ChangedTwice(name.clone()));
        }
        match step {
            Step::CreateMediaNode { name } => {
                if world.media_nodes.contains_key(name) || !made.insert(name.clone()) {
                    problems.push(Problem::NameTaken(name.clone()));
                }
                check_scope(world, policy, name, now, &mut problems);
            }
            Step::CreatePod { media_node, media_node_uid } => {
                let seen = world.media_nodes.get(media_node);
                if !seen.is_some_and(|s| s.uid == *media_node_uid && s.pod == PodSeen::NeverCreated)
                {
                    problems.push(Problem::NotAsSeen(media_node.clone()));
                }
                check_scope(world, policy, media_node, now, &mut problems);
            }
            Step::SetDesiredState { .. } => check_desire(world, policy, step, now, &mut problems),
            Step::SendHome { media_node, room } => {
                check_send_home(world, policy, (media_node, room), now, &mut problems);
            }
            Step::MoveGateway { pod, uid, resource_version } => {
                check_move(world, policy, (pod, uid, resource_version), &mut problems);
            }
            Step::DeleteMediaNode { name, uid, resource_version, evidence } => {
                match world.media_nodes.get(name) {
                    Some(seen)
                        if seen.uid == *uid && seen.resource_version == *resource_version =>
                    {
                        if !proves_empty(world, seen, evidence, now) {
                            problems.push(Problem::RemovedUnproved(name.clone()));
                        }
                    }
                    _ => problems.push(Problem::NotAsSeen(name.clone())),
                }
            }
        }
    }
    check_size(world, policy, plan, &mut problems);
    problems
}

fn changes(step: &Step) -> Option<&MediaNodeName> {
    match step {
        Step::SetDesiredState { name, .. } | Step::DeleteMediaNode { name, .. } => Some(name),
        Step::CreateMediaNode { .. }
        | Step::CreatePod { .. }
        | Step::SendHome { .. }
        | Step::MoveGateway { .. } => None,
    }
}

fn check_scope(
    world: &World,
    policy: &Policy,
    name: &MediaNodeName,
    now: Timestamp,
    problems: &mut Vec<Problem>,
) {
    let held = |scope: &ScopeName| {
        let seen = world.scopes.as_ref().and_then(|scopes| scopes.get(scope));
        seen.is_some_and(|it| it.state == QualificationState::Qualified && now < it.expires)
    };
    if !policy.sovereignty.scopes.iter().any(held) {
        problems.push(Problem::MadeWithoutScope(name.clone()));
    }
}

/// A gateway is moved as it was seen, where somebody could look, and not while it is the only one
/// of several that answers.
fn check_move(
    world: &World,
    policy: &Policy,
    (name, uid, resource_version): (&PodName, &Uid, &ResourceVersion),
    problems: &mut Vec<Problem>,
) {
    let gateway = world.gateway.as_ref();
    let pod = gateway.and_then(|gateway| gateway.pods.get(name));
    let as_seen = |pod: &Pod| pod.uid == *uid && pod.resource_version == *resource_version;
    let bound = pod.is_some_and(|pod| as_seen(pod) && pod.kubernetes_node.is_some());
    if !bound || world.kubernetes_nodes.is_none() || world.scopes.is_none() {
        problems.push(Problem::MovedBlind(name.clone()));
    }
    let answers = |pod: &Pod| pod.ready == crate::world::Ready::Yes;
    let others = gateway.iter().flat_map(|it| &it.pods).filter(|(other, _)| *other != name);
    let last = pod.is_some_and(answers) && !others.map(|(_, pod)| pod).any(answers);
    let several = gateway.is_some_and(|gateway| gateway.replicas_wanted > 1);
    if last && several && policy.sovereignty.on_loss == OnLoss::Drain {
        problems.push(Problem::DoorShut(name.clone()));
    }
}

fn check_desire(
    world: &World,
    policy: &Policy,
    step: &Step,
    now: Timestamp,
    problems: &mut Vec<Problem>,
) {
    let Step::SetDesiredState { name, uid, resource_version, cause, .. } = step else { return };
    let as_seen =
        |seen: &MediaNodeSeen| seen.uid == *uid && seen.resource_version == *resource_version;
    if !world.media_nodes.get(name).is_some_and(as_seen) {
        problems.push(Problem::NotAsSeen(name.clone()));
    }
    let serving = world.media_nodes.values().filter(|s| s.desired == DesiredState::Serving).count();
    let over_max = serving > policy.capacity.nodes_max as usize;
    if *cause == Some(DrainCause::ScaleDown) && !over_max && reports_missing(world, now) {
        problems.push(Problem::ShrunkBlind(name.clone()));
    }
}

/// Whether a media node that Kubernetes calls ready has not been heard for a minute, or never.
fn reports_missing(world: &World, now: Timestamp) -> bool {
    world.media_nodes.values().any(|seen| {
        let PodSeen::Present(pod) = &seen.pod else { return false };
        let runs = pod.phase == PodPhase::Running
            && pod.ready == crate::world::Ready::Yes
            && pod.deleting == crate::world::Deleting::No
            && seen.deleting == crate::world::Deleting::No;
        let on_ready_node = match (&world.kubernetes_nodes, &pod.kubernetes_node) {
            (Some(known), Some(bound)) => known.get(bound).is_some_and(|node| node.ready),
            _ => true,
        };
        let heard = seen.report.as_ref().is_some_and(|r| now.since_ms(r.received) <= 60_000);
        runs && on_ready_node && !heard
    })
}

fn check_send_home(
    world: &World,
    policy: &Policy,
    (name, room): (&MediaNodeName, &RoomKey),
    now: Timestamp,
    problems: &mut Vec<Problem>,
) {
    let Some(seen) = world.media_nodes.get(name) else {
        problems.push(Problem::NotAsSeen(name.clone()));
        return;
    };
    let late =
        seen.desired_since.is_some_and(|since| now.since_ms(since) >= policy.drain_deadline_ms);
    let terminated = seen.drain_cause == Some(DrainCause::ScopeLost)
        && policy.sovereignty.on_loss == OnLoss::Terminate;
    let there = seen.report.as_ref().is_some_and(|r| r.rooms.contains_key(room));
    if seen.desired == DesiredState::Serving || !there || !(late || terminated) {
        problems.push(Problem::SentHomeEarly(name.clone()));
    }
}

/// Whether the evidence is true of the world and proves that nobody is in the media node.
fn proves_empty(world: &World, seen: &MediaNodeSeen, evidence: &Evidence, now: Timestamp) -> bool {
    let pod = match &seen.pod {
        PodSeen::Present(pod) => Some(pod),
        PodSeen::Gone | PodSeen::NeverCreated => None,
    };
    match evidence {
        Evidence::PodGone => seen.pod == PodSeen::Gone,
        Evidence::NeverCreated => seen.pod == PodSeen::NeverCreated,
        Evidence::NeverStarted { pod_uid } => pod.is_some_and(|pod| {
            let waits = match pod.phase {
                PodPhase::Pending | PodPhase::Unschedulable { .. } => true,
                PodPhase::Running => pod.ready == crate::world::Ready::No && pod.trouble.is_some(),
                PodPhase::Terminated { .. } => false,
            };
            pod.uid == *pod_uid && waits && seen.report.is_none()
        }),
        Evidence::PodTerminated { pod_uid } => pod.is_some_and(|pod| {
            pod.uid == *pod_uid && matches!(pod.phase, PodPhase::Terminated { .. })
        }),
        Evidence::KubernetesNodeGone { pod_uid, kubernetes_node } => {
            let known = world.kubernetes_nodes.as_ref();
            pod.is_some_and(|pod| {
                pod.uid == *pod_uid && pod.kubernetes_node.as_ref() == Some(kubernetes_node)
            }) && known
                .is_some_and(|nodes| !nodes.is_empty() && !nodes.contains_key(kubernetes_node))
        }
        Evidence::ReportedEmpty { pod_uid, incarnation, sequence, .. } => {
            let Some(report) = &seen.report else { return false };
            pod.is_some_and(|pod| pod.uid == *pod_uid)
                && report.incarnation == *incarnation
                && report.sequence == *sequence
                && now.since_ms(report.received) <= REPORT_FRESH_MS
                && seen.desired != DesiredState::Serving
                && seen.desired_since.is_some_and(|since| report.received >= since)
                && report.state != MediaNodeState::Serving
                && report.rooms.is_empty()
                && report.participants == 0
                && report.claims_in_flight == 0
        }
    }
}

/// A plan may not push the number of media nodes that take rooms over the bound.
fn check_size(world: &World, policy: &Policy, plan: &Plan, problems: &mut Vec<Problem>) {
    let created =
        plan.steps.iter().filter(|step| matches!(step, Step::CreateMediaNode { .. })).count();
    let was_scaled_down = |name: &MediaNodeName| {
        let seen = world.media_nodes.get(name);
        seen.is_some_and(|seen| seen.drain_cause == Some(DrainCause::ScaleDown))
    };
    let undrained = plan
        .steps
        .iter()
        .filter(|step| match step {
            Step::SetDesiredState { state: DesiredState::Serving, name, .. } => {
                was_scaled_down(name)
            }
            _ => false,
        })
        .count();
    if created + undrained == 0 {
        return;
    }
    let gone: BTreeSet<&MediaNodeName> = plan.steps.iter().filter_map(changes).collect();
    let staying = world.media_nodes.iter().filter(|(name, seen)| {
        seen.desired == DesiredState::Serving && !gone.contains(name) && takes_rooms(world, seen)
    });
    let would_be = staying.count() + created + undrained;
    let allowed = (policy.capacity.nodes_max + SURGE) as usize;
    if would_be > allowed {
        problems.push(Problem::TooMany { would_be, allowed });
    }
}

/// Whether a media node's pod is there, not over, not wanted away and not out of reach.
fn takes_rooms(world: &World, seen: &MediaNodeSeen) -> bool {
    use crate::world::{Deleting, DrainRequested, Ready};
    let PodSeen::Present(pod) = &seen.pod else {
        return seen.pod == PodSeen::NeverCreated && seen.deleting == Deleting::No;
    };
    let over = matches!(pod.phase, PodPhase::Terminated { .. });
    let known = world.kubernetes_nodes.as_ref();
    let under = pod.kubernetes_node.as_ref().and_then(|bound| known?.get(bound));
    let reachable = pod.ready == Ready::Yes && under.is_none_or(|node| node.ready);
    !over
        && reachable
        && seen.deleting == Deleting::No
        && pod.deleting == Deleting::No
        && seen.drain_requested == DrainRequested::No
        && under.is_none_or(|node| !node.unschedulable)
        && (pod.kubernetes_node.is_none() || known.is_none() || under.is_some())
}
