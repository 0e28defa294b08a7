//! Which media node a new room gets: first the gate, then best fit, then the name.
//!
//! The gate: admitted by the plan (wanted serving, in scope), in sight, serving by its own word,
//! granted, not just refused. Best fit: the fullest that stays under the target fill with the
//! room's expected growth; if none does, the emptiest that stays under its maximum. A media node in
//! the caller's zone goes before any other. Ties go to the lesser name.

use super::{
    Admission, HEARD_LATELY_MS, RefuseReason,
    directory::{Directory, Load, NodeEntry},
};
use crate::{
    capacity,
    ids::{MediaNodeName, Timestamp, Zone},
    report::MediaNodeState,
};

impl Directory {
    /// The media node for a new room of `expected` participants.
    pub(super) fn choose(
        &self,
        expected: u32,
        zone: &Zone,
        now: Timestamp,
    ) -> Result<MediaNodeName, RefuseReason> {
        let mut open = false;
        let (mut best, mut spare) = (None, None);
        for (name, node) in self.nodes.iter().filter(|(_, node)| admits(node, now)) {
            open = true;
            let near = zone.as_str().is_empty() || node.zone == *zone;
            let fill = self.fill_with(node, expected);
            if fill <= self.settings.target_fill {
                keep(&mut best, (near, fill), name);
            } else if fill <= 1.0 {
                keep(&mut spare, (near, -fill), name);
            }
        }
        let chosen = best.or(spare).map(|(_, name)| name.clone());
        chosen.ok_or(if open { RefuseReason::Full } else { RefuseReason::NoMediaNode })
    }

    /// Whether some media node would take new rooms but for its last reports being late.
    pub(super) fn sight_lost(&self, now: Timestamp) -> bool {
        self.nodes.values().any(|node| {
            let lately = |load: Load| {
                load.state == MediaNodeState::Serving
                    && now.since_ms(load.received) <= HEARD_LATELY_MS
            };
            node.admission == Admission::Admit
                && node.load.is_some_and(lately)
                && now >= node.refused_until
                && !admits(node, now)
        })
    }

    /// How full a media node would be with a room of `expected` participants more.
    fn fill_with(&self, node: &NodeEntry, expected: u32) -> f64 {
        let Some(load) = node.load else { return f64::INFINITY };
        let max = self.settings.participants_per_node_max;
        let reserved = node.reserved + f64::from(expected);
        capacity::fill(load.participants, load.busy, reserved, max)
    }
}

fn admits(node: &NodeEntry, now: Timestamp) -> bool {
    node.admission == Admission::Admit
        && node.in_sight(now)
        && node.load.is_some_and(|load| load.state == MediaNodeState::Serving)
        && now < node.granted_until
        && now >= node.refused_until
}

/// Keeps the higher score; the first of equals, and names come in order.
fn keep<'a>(
    kept: &mut Option<((bool, f64), &'a MediaNodeName)>,
    score: (bool, f64),
    name: &'a MediaNodeName,
) {
    let better = kept.is_none_or(|((near, fill), _)| (score.0, score.1) > (near, fill));
    if better {
        *kept = Some((score, name));
    }
}
