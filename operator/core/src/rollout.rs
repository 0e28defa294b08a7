//! Replacing media nodes of an older template, one at a time.
//!
//! A new media node serves before an old one stops taking rooms, so capacity never falls below
//! what is needed. A template that does not come up stops the roll-out at the first media node; the
//! old ones go on serving.

use crate::{
    autoscale::ScaleReport,
    draft::{Draft, View},
    drain,
    fleet::Standing,
    ids::MediaNodeName,
    plan::{Stage, WaitingOn},
    world::{DrainCause, MediaNodeSeen},
};

/// Media nodes above the wanted number while old ones are replaced.
pub const SURGE: u32 = 1;

/// Takes the next step of a roll-out. Returns how many media nodes are wanted meanwhile.
pub(crate) fn plan_rollout(view: &View<'_>, draft: &mut Draft, scale: &ScaleReport) -> u32 {
    draft.open(Stage::Rollout);
    let outdated: Vec<(&MediaNodeName, &MediaNodeSeen)> = view
        .fleet()
        .filter(|(name, seen, standing)| {
            draft.counts(name, standing) && !draft.is_touched(name) && view.is_outdated(seen)
        })
        .map(|(name, seen, _)| (name, seen))
        .collect();
    let (unborn, living): (Vec<_>, Vec<_>) =
        outdated.into_iter().partition(|(_, seen)| drain::never_started(seen).is_some());
    for (name, seen) in unborn {
        if let Some(evidence) = drain::never_started(seen) {
            draft.delete(view, name, evidence);
        }
    }
    if living.is_empty() {
        return scale.wanted;
    }
    plan_next(view, draft, &living, scale);
    // A fleet that may not shrink now has its spare one already.
    scale.wanted.max(scale.needed + SURGE)
}

fn plan_next(
    view: &View<'_>,
    draft: &mut Draft,
    outdated: &[(&MediaNodeName, &MediaNodeSeen)],
    scale: &ScaleReport,
) {
    let Some(name) = drain::victim(view, outdated.iter().copied()) else {
        if let Some((name, _)) = outdated.first() {
            draft.hold(
                format!("replace media node {name}"),
                WaitingOn::FreshReport((*name).clone()),
            );
        }
        return;
    };
    let step = format!("replace media node {name}");
    if let Some(silent) = scale.frozen_by.first() {
        return draft.hold(step, WaitingOn::FreshReport(silent.clone()));
    }
    let under_way = view.fleet().find(|(_, seen, standing)| {
        **standing == Standing::Emptying && seen.drain_cause == Some(DrainCause::Rollout)
    });
    if let Some((other, ..)) = under_way {
        return draft.hold(step, WaitingOn::OtherDrain(other.clone()));
    }
    let serving = view
        .fleet()
        .filter(|(name, _, standing)| {
            **standing == Standing::Serving && draft.counts(name, standing)
        })
        .count();
    if serving > scale.needed as usize {
        return draft.drain(view, name, DrainCause::Rollout);
    }
    let starting = view.fleet().find(|(name, seen, standing)| {
        draft.counts(name, standing)
            && !view.is_outdated(seen)
            && matches!(standing, Standing::Awaiting | Standing::Starting | Standing::Silent)
    });
    match starting {
        Some((new, ..)) => draft.hold(step, WaitingOn::MediaNodeReady(new.clone())),
        None => {
            let on = WaitingOn::KubernetesNode("a new media node to take its place".into());
            draft.hold(step, on);
        }
    }
}

#[cfg(test)]
mod tests;
