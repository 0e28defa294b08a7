//! The plan: ordered steps that leave `apply` no choice, and a report that explains them.
//!
//! `plan` runs the decisions in a fixed order and joins what they say. It does no I/O and reads no
//! clock: the same world, policy and time give the same plan, byte for byte.

mod report;

use std::collections::BTreeSet;

pub use report::{Held, PlanReport, Stage, StageReport, WaitingOn};

use crate::{
    autoscale::{self, ScaleReport},
    door,
    draft::{Draft, View, pod},
    drain,
    fleet::{self, Standing},
    ids::{MediaNodeName, Timestamp},
    policy::{Paused, Policy},
    repair, rollout,
    sovereignty::{self, ScopeGate},
    step::{Plan, Step},
    violation,
    world::{CredentialsSeen, DrainCause, PodPhase, World},
};

/// Media nodes made by one plan: what Agones found an API server to bear in parallel.
pub const CREATE_PER_PLAN_MAX: u32 = 16;

/// A pod that the scheduler found no place for within this time stops further growth: ten more
/// waiting pods help nobody. Shorter than what a cluster autoscaler takes to see the first.
pub const UNSCHEDULABLE_PATIENCE_MS: u64 = 20_000;

/// What to do now, and why.
#[must_use]
pub fn plan(world: &World, policy: &Policy, now: Timestamp) -> (Plan, PlanReport) {
    let gate = sovereignty::scope_gate(world, policy, now);
    let standings = fleet::standings(world, now);
    let (scale, scale_memory) = autoscale::plan_scale(world, policy, &standings, now);
    let view = View { world, policy, now, gate: &gate, standings: &standings };
    let mut draft = Draft::default();
    let mut ordinal = ordinal_high_water(world, policy);
    if policy.paused == Paused::Yes {
        draft.open(Stage::Scale);
        draft.hold("change anything", WaitingOn::Pause);
    } else {
        drain::plan_sovereignty(&view, &mut draft);
        door::plan_door(&view, &mut draft);
        repair::plan_repair(&view, &mut draft);
        drain::plan_drain(&view, &mut draft);
        let wanted = rollout::plan_rollout(&view, &mut draft, &scale);
        plan_size(&view, &mut draft, &scale, wanted, &mut ordinal);
        plan_pods(&view, &mut draft);
    }
    let Draft { plan, stages, .. } = draft;
    let ordinal_high_water = ordinal;
    let violations = violation::record(world, policy, &gate, now);
    let at = now;
    (plan, PlanReport { stages, gate, scale, scale_memory, ordinal_high_water, violations, at })
}

/// Makes or empties media nodes until `wanted` are there.
fn plan_size(
    view: &View<'_>,
    draft: &mut Draft,
    scale: &ScaleReport,
    wanted: u32,
    ordinal: &mut u64,
) {
    draft.open(Stage::Scale);
    let kept_by_backoff = view.fleet().filter(|(_, seen, standing)| {
        matches!(standing, Standing::Over(_)) && repair::backoff_ms(seen, view.now) > 0
    });
    let backoff = kept_by_backoff.count() as u32;
    let leaving_soon = view.fleet().filter(|(name, seen, standing)| {
        draft.counts(name, standing) && drain::is_wanted_away(view, seen)
    });
    let leaving = leaving_soon.count() as u32;
    let counted = view.fleet().filter(|(name, _, standing)| draft.counts(name, standing)).count();
    let present = (counted as u32).saturating_sub(leaving);
    if present < wanted {
        grow(view, draft, (wanted - present).saturating_sub(backoff), ordinal);
        if scale.wish_unbounded > view.policy.capacity.nodes_max {
            let max = view.policy.capacity.nodes_max;
            draft.hold("add media nodes", WaitingOn::NodesMax(max));
        }
    } else if present > wanted {
        shrink(view, draft);
    } else if scale.wish_unbounded > view.policy.capacity.nodes_max {
        draft.hold("add media nodes", WaitingOn::NodesMax(view.policy.capacity.nodes_max));
    } else if scale.wish < scale.wanted {
        let on = scale
            .frozen_by
            .first()
            .map_or(WaitingOn::Stabilisation { remaining_ms: scale.shrink_in_ms }, |name| {
                WaitingOn::FreshReport(name.clone())
            });
        draft.hold("remove surplus media nodes", on);
    }
}

/// Takes back drains that only made the fleet smaller, then makes new media nodes.
fn grow(view: &View<'_>, draft: &mut Draft, mut missing: u32, ordinal: &mut u64) {
    let mut reversible: Vec<_> = view
        .fleet()
        .filter(|(name, seen, standing)| {
            **standing == Standing::Emptying
                && seen.drain_cause == Some(DrainCause::ScaleDown)
                && seen.report.is_some()
                && !view.is_outdated(seen)
                && !drain::is_wanted_away(view, seen)
                && !draft.is_touched(name)
        })
        .map(|(name, seen, _)| (seen.report.as_ref().map_or(0, |r| r.participants), name))
        .collect();
    // The fullest first: it would have taken longest to empty.
    reversible.sort_by(|(a, a_name), (b, b_name)| b.cmp(a).then_with(|| a_name.cmp(b_name)));
    for (_, name) in reversible {
        if missing == 0 {
            return;
        }
        draft.undrain(view, name);
        missing -= 1;
    }
    if missing == 0 {
        return;
    }
    if let Some(on) = blocked(view, draft) {
        return draft.hold(format!("add {missing} media nodes"), on);
    }
    for _ in 0..missing.min(CREATE_PER_PLAN_MAX) {
        *ordinal += 1;
        let name = MediaNodeName::new(format!("{}-{ordinal}", view.policy.name));
        let said = format!("media node {name} is made");
        draft.act(Step::CreateMediaNode { name }, said);
    }
}

/// What stands in the way of making another media node.
fn blocked(view: &View<'_>, draft: &Draft) -> Option<WaitingOn> {
    if let Some(on) = closed(view) {
        return Some(on);
    }
    view.fleet().find_map(|(name, seen, standing)| match pod(seen)?.phase {
        PodPhase::Unschedulable { since }
            if draft.counts(name, standing)
                && view.now.since_ms(since) >= UNSCHEDULABLE_PATIENCE_MS =>
        {
            Some(WaitingOn::KubernetesNode(format!("a place for the pod of media node {name}")))
        }
        _ => None,
    })
}

/// Why no pod may be made at all.
fn closed(view: &View<'_>) -> Option<WaitingOn> {
    match view.gate {
        ScopeGate::Open { .. } => {}
        ScopeGate::Closed(loss) => return Some(WaitingOn::Scope(loss.describe())),
        ScopeGate::Unknown => {
            return Some(WaitingOn::Scope("QualificationScopes could not be listed".into()));
        }
    }
    match &view.world.credentials {
        CredentialsSeen::Good | CredentialsSeen::Unknown => None,
        CredentialsSeen::Missing { what } | CredentialsSeen::Weak { what } => {
            Some(WaitingOn::Credentials(what.clone()))
        }
    }
}

/// Lets one media node empty: shrinking is slow on purpose, and the next plan sees what it did.
fn shrink(view: &View<'_>, draft: &mut Draft) {
    let candidates: Vec<_> = view
        .fleet()
        .filter(|(name, seen, standing)| {
            draft.counts(name, standing)
                && !draft.is_touched(name)
                && !drain::is_wanted_away(view, seen)
        })
        .map(|(name, seen, _)| (name, seen))
        .collect();
    match drain::victim(view, candidates.iter().copied()) {
        Some(name) => {
            let evidence = view.world.media_nodes.get(name).and_then(drain::never_started);
            match evidence {
                Some(evidence) => draft.delete(view, name, evidence),
                None => draft.drain(view, name, DrainCause::ScaleDown),
            }
        }
        None => {
            if let Some((name, _)) = candidates.first() {
                draft.hold("remove a media node", WaitingOn::FreshReport((*name).clone()));
            }
        }
    }
}

/// Makes the pods of media nodes that never had one.
fn plan_pods(view: &View<'_>, draft: &mut Draft) {
    draft.open(Stage::Pods);
    let closed = closed(view);
    for (name, seen, standing) in view.fleet() {
        if *standing != Standing::Awaiting || draft.is_touched(name) {
            continue;
        }
        match &closed {
            Some(on) => draft.hold(format!("create pod {name}"), on.clone()),
            None => {
                let (media_node, media_node_uid) = (name.clone(), seen.uid.clone());
                let step = Step::CreatePod { media_node, media_node_uid };
                draft.act(step, format!("pod {name} is made"));
            }
        }
    }
}

/// The highest ordinal ever given: what the status remembers, or what names show.
fn ordinal_high_water(world: &World, policy: &Policy) -> u64 {
    let prefix = format!("{}-", policy.name);
    let seen: BTreeSet<u64> = world
        .media_nodes
        .keys()
        .filter_map(|name| name.as_str().strip_prefix(&prefix)?.parse().ok())
        .collect();
    seen.last().copied().unwrap_or(0).max(world.ordinal_high_water)
}

#[cfg(test)]
mod tests;
