//! Media nodes whose process is over are removed, so that others are made in their place.
//!
//! Acts on proof only ([`Standing::Over`]). A media node out of reach is left alone and blocks
//! nothing. One that died young is kept for a while, so that a pod that cannot live is not made
//! again and again at the API server's expense.

use crate::{
    draft::{Draft, View, pod},
    fleet::Standing,
    ids::Timestamp,
    plan::{Stage, WaitingOn},
    world::{MediaNodeSeen, PodPhase},
};

/// A pod that ended within this time of its creation died young.
pub const YOUNG_MS: u64 = 60_000;

/// How long a media node that died young keeps its place before another is made.
pub const BACKOFF_MS: u64 = 30_000;

pub(crate) fn plan_repair(view: &View<'_>, draft: &mut Draft) {
    draft.open(Stage::Repair);
    for (name, seen, standing) in view.fleet() {
        match standing {
            Standing::Over(evidence) => match backoff_ms(seen, view.now) {
                0 => draft.delete(view, name, evidence.clone()),
                remaining_ms => draft.hold(
                    format!("replace media node {name}"),
                    WaitingOn::Backoff { media_node: name.clone(), remaining_ms },
                ),
            },
            Standing::Unreachable => draft
                .hold(format!("remove media node {name}"), WaitingOn::PodTermination(name.clone())),
            _ => {}
        }
    }
}

/// Milliseconds for which a media node that died young still keeps its place.
pub(crate) fn backoff_ms(seen: &MediaNodeSeen, now: Timestamp) -> u64 {
    match pod(seen) {
        Some(pod) => match pod.phase {
            PodPhase::Terminated { at } if at.since_ms(pod.created) < YOUNG_MS => {
                BACKOFF_MS.saturating_sub(now.since_ms(at))
            }
            _ => 0,
        },
        None => 0,
    }
}
