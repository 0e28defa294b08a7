//! What the owner of a meeting cluster is told: conditions with stable reasons.
//!
//! Derived from the world, the policy and the plan's report and from nothing else; transition times
//! are the business of whoever writes them. A message says what happened, to which object, and what
//! to do.

use crate::{
    plan::{PlanReport, Stage, WaitingOn},
    policy::{Paused, Policy},
    sovereignty::ScopeGate,
    world::{CredentialsSeen, GatewayRollout, PlacerSeen, World},
};

mod reason;
mod sovereignty;
mod trouble;

pub use reason::Reason;

/// What a condition is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ConditionKind {
    /// Everything that was asked for is there.
    Ready,
    /// People can meet.
    Available,
    /// Something is being changed.
    Progressing,
    /// Something is wrong that needs a person.
    Degraded,
    /// The owner stopped changes.
    Paused,
    /// There is room for what is asked.
    CapacityOk,
    /// New rooms get a home.
    PlacementReady,
    /// Media run where they may, and nowhere else.
    SovereigntyVerified,
}

impl ConditionKind {
    /// Every kind, in the order in which they are written.
    pub const ALL: [Self; 8] = [
        Self::Ready,
        Self::Available,
        Self::Progressing,
        Self::Degraded,
        Self::Paused,
        Self::CapacityOk,
        Self::PlacementReady,
        Self::SovereigntyVerified,
    ];

    /// `type` of the condition.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "Ready",
            Self::Available => "Available",
            Self::Progressing => "Progressing",
            Self::Degraded => "Degraded",
            Self::Paused => "Paused",
            Self::CapacityOk => "CapacityOK",
            Self::PlacementReady => "PlacementReady",
            Self::SovereigntyVerified => "SovereigntyVerified",
        }
    }
}

/// Whether a condition holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Status {
    /// It holds.
    True,
    /// It does not.
    False,
    /// Nobody could look.
    Unknown,
}

impl Status {
    /// `status` of the condition.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        }
    }
}

/// One condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// `type`.
    pub kind: ConditionKind,
    /// `status`.
    pub status: Status,
    /// `reason`.
    pub reason: Reason,
    /// `message`.
    pub message: String,
}

fn condition(
    kind: ConditionKind,
    status: Status,
    reason: Reason,
    message: impl Into<String>,
) -> Condition {
    Condition { kind, status, reason, message: message.into() }
}

/// All conditions of a meeting cluster, in the order of [`ConditionKind::ALL`].
#[must_use]
pub fn conditions(world: &World, policy: &Policy, report: &PlanReport) -> Vec<Condition> {
    let available = available(world, report);
    let degraded = degraded(world, report);
    let progressing = progressing(world, policy, report);
    let capacity = capacity(world, policy, report);
    let ready = ready(&available, &degraded, policy, report);
    let (paused, placement) = (paused(policy), placement(world));
    let verified = sovereignty::verified(world, policy, report);
    vec![ready, available, progressing, degraded, paused, capacity, placement, verified]
}

fn ready(
    available: &Condition,
    degraded: &Condition,
    policy: &Policy,
    report: &PlanReport,
) -> Condition {
    let kind = ConditionKind::Ready;
    if available.status != Status::True {
        return Condition { kind, ..available.clone() };
    }
    let blocking = [Reason::ScopeNotValid, Reason::CredentialsMissing, Reason::CredentialsWeak];
    if degraded.status == Status::True && blocking.contains(&degraded.reason) {
        return condition(kind, Status::False, degraded.reason, degraded.message.clone());
    }
    let (serving, wanted) = (report.scale.serving, report.scale.wanted);
    if serving < policy.capacity.nodes_min {
        let message = format!("{serving} of {wanted} media nodes serve");
        return condition(kind, Status::False, Reason::MediaNodesStarting, message);
    }
    let message = format!("{serving} media nodes serve, {wanted} are wanted");
    condition(kind, Status::True, Reason::AsExpected, message)
}

fn available(world: &World, report: &PlanReport) -> Condition {
    let kind = ConditionKind::Available;
    if let Some(gateway) = &world.gateway
        && gateway.replicas_ready == 0
    {
        // Gateways run where media may, or nowhere: then that is what must be mended.
        let (reason, message) = homeless(report).unwrap_or_else(|| {
            let wanted = gateway.replicas_wanted;
            let message = format!(
                "none of {wanted} gateway replicas is ready: look at the Deployment's events"
            );
            (Reason::GatewayNotReady, message)
        });
        return condition(kind, Status::False, reason, message);
    }
    if report.scale.serving == 0 {
        return match blocker(world, report) {
            Some((reason, message)) => condition(kind, Status::False, reason, message),
            None => {
                let message = "no media node serves yet";
                condition(kind, Status::False, Reason::MediaNodesStarting, message)
            }
        };
    }
    let message = format!("{} media nodes serve", report.scale.serving);
    condition(kind, Status::True, Reason::AsExpected, message)
}

/// What keeps media nodes from being made or from serving, if anything does.
fn blocker(world: &World, report: &PlanReport) -> Option<(Reason, String)> {
    if let Some(loss) = closed(report) {
        return Some(loss);
    }
    let held = report.held().find_map(|(_, held)| match &held.on {
        WaitingOn::Credentials(what) => Some((Reason::CredentialsMissing, what.clone())),
        WaitingOn::Backoff { .. } => Some((
            Reason::MediaNodesFailing,
            format!("cannot {}: it waits for {}", held.step, held.on.describe()),
        )),
        _ => None,
    });
    held.or_else(|| trouble::refused(world).map(|message| (Reason::ApiRefused, message)))
        .or_else(|| no_place(report))
        .or_else(|| trouble::unplaced(world).map(|message| (Reason::PodUnschedulable, message)))
        .or_else(|| trouble::failing(world).map(|message| (Reason::MediaNodesFailing, message)))
}

/// Why neither media nor gateways may run anywhere.
fn homeless(report: &PlanReport) -> Option<(Reason, String)> {
    closed(report).or_else(|| no_place(report))
}

fn closed(report: &PlanReport) -> Option<(Reason, String)> {
    let ScopeGate::Closed(loss) = &report.gate else { return None };
    Some((Reason::ScopeNotValid, loss.describe()))
}

fn no_place(report: &PlanReport) -> Option<(Reason, String)> {
    sovereignty::no_place(report).map(|message| (Reason::NoKubernetesNodeInScope, message))
}

fn progressing(world: &World, policy: &Policy, report: &PlanReport) -> Condition {
    let kind = ConditionKind::Progressing;
    if policy.paused == Paused::Yes {
        let message = "spec.paused is true: nothing is changed";
        return condition(kind, Status::False, Reason::Paused, message);
    }
    let rolling = report.stages.iter().find(|s| s.stage == Stage::Rollout);
    if let Some(stage) = rolling.filter(|s| !s.done.is_empty() || !s.held.is_empty()) {
        let waits = stage.held.first().map_or_else(
            || stage.done.join("; "),
            |held| format!("{} waits for {}", held.step, held.on.describe()),
        );
        return condition(kind, Status::True, Reason::RollingOut, waits);
    }
    let scale = &report.scale;
    if scale.serving < scale.wanted {
        let message = format!("{} of {} media nodes serve", scale.serving, scale.wanted);
        return condition(kind, Status::True, Reason::MediaNodesStarting, message);
    }
    if scale.emptying > 0 {
        let waits = report.held().find_map(|(_, held)| match &held.on {
            WaitingOn::Rooms { .. } => {
                Some(format!("{}: waits for {}", held.step, held.on.describe()))
            }
            _ => None,
        });
        let message =
            waits.unwrap_or_else(|| format!("{} media nodes are being emptied", scale.emptying));
        return condition(kind, Status::True, Reason::Draining, message);
    }
    if let Some(gateway) = &world.gateway
        && let GatewayRollout::Going { updated } = gateway.rollout
    {
        let message = format!(
            "{updated} of {} gateway replicas are of the newest template, {} are ready",
            gateway.replicas_wanted, gateway.replicas_ready
        );
        return condition(kind, Status::True, Reason::GatewayRollingOut, message);
    }
    condition(kind, Status::False, Reason::AsExpected, "nothing is being changed")
}

fn degraded(world: &World, report: &PlanReport) -> Condition {
    let kind = ConditionKind::Degraded;
    let is = |reason, message: String| condition(kind, Status::True, reason, message);
    match &report.gate {
        ScopeGate::Closed(loss) => return is(Reason::ScopeNotValid, loss.describe()),
        ScopeGate::Unknown => {
            let message = "QualificationScopes could not be listed: no new media node is made";
            return is(Reason::ScopeUnknown, message.into());
        }
        ScopeGate::Open { .. } => {}
    }
    match &world.credentials {
        CredentialsSeen::Missing { what } => return is(Reason::CredentialsMissing, what.clone()),
        CredentialsSeen::Weak { what } => return is(Reason::CredentialsWeak, what.clone()),
        CredentialsSeen::Unknown | CredentialsSeen::Good => {}
    }
    if let Some(message) = trouble::refused(world) {
        return is(Reason::ApiRefused, message);
    }
    if let Some(message) = trouble::failing(world) {
        return is(Reason::MediaNodesFailing, message);
    }
    if let Some(message) = trouble::gateway_failing(world) {
        return is(Reason::GatewayFailing, message);
    }
    if let Some((reason, message)) = sovereignty::trouble(world, report) {
        return is(reason, message);
    }
    if let Some(name) = report.scale.frozen_by.first() {
        let more = report.scale.frozen_by.len() - 1;
        let message = format!(
            "media node {name} (and {more} more) does not report: the fleet does not shrink and \
             it gets no new room until it does"
        );
        return is(Reason::ReportsMissing, message);
    }
    condition(kind, Status::False, Reason::AsExpected, "nothing is wrong")
}

fn paused(policy: &Policy) -> Condition {
    let kind = ConditionKind::Paused;
    match policy.paused {
        Paused::Yes => {
            let message = "spec.paused is true: set it to false to let changes go on";
            condition(kind, Status::True, Reason::Paused, message)
        }
        Paused::No => condition(kind, Status::False, Reason::AsExpected, "changes go on"),
    }
}

fn capacity(world: &World, policy: &Policy, report: &PlanReport) -> Condition {
    let kind = ConditionKind::CapacityOk;
    let scale = &report.scale;
    let is_not = |reason, message| condition(kind, Status::False, reason, message);
    // What the scope keeps from beginning is not for want of media nodes.
    if let ScopeGate::Closed(loss) = &report.gate {
        return is_not(Reason::ScopeNotValid, loss.describe());
    }
    if let Some(message) = sovereignty::no_place(report) {
        return is_not(Reason::NoKubernetesNodeInScope, message);
    }
    if let Some(message) = trouble::unplaced(world) {
        return is_not(Reason::PodUnschedulable, message);
    }
    if scale.rooms_refused > 0 {
        let message = format!(
            "{} new rooms were refused in the last minute: raise spec.capacity.maxNodes or \
             participantsPerNodeMax",
            scale.rooms_refused
        );
        return is_not(Reason::RoomsRefused, message);
    }
    if scale.wish_unbounded > policy.capacity.nodes_max {
        let message = format!(
            "{} media nodes are needed and spec.capacity.maxNodes is {}: raise it",
            scale.wish_unbounded, policy.capacity.nodes_max
        );
        return is_not(Reason::NodesMaxReached, message);
    }
    if scale.serving == 0 {
        return is_not(Reason::MediaNodesStarting, "no media node serves".into());
    }
    let message = format!(
        "{} participants in {} rooms on {} media nodes, which are {:.0} % full",
        scale.participants,
        scale.rooms,
        scale.serving,
        scale.load_ratio * 100.0
    );
    condition(kind, Status::True, Reason::AsExpected, message)
}

fn placement(world: &World) -> Condition {
    let kind = ConditionKind::PlacementReady;
    match world.placer {
        PlacerSeen::Placing => {
            condition(kind, Status::True, Reason::AsExpected, "new rooms get a home")
        }
        PlacerSeen::Rebuilding { unheard } => {
            let message = format!(
                "a new leader is still hearing {unheard} media nodes: new rooms wait a few seconds"
            );
            condition(kind, Status::False, Reason::Rebuilding, message)
        }
        PlacerSeen::NotLeading => {
            let message = "this operator replica does not lead";
            condition(kind, Status::Unknown, Reason::NotLeading, message)
        }
    }
}

#[cfg(test)]
mod tests;
