//! Emptying media nodes: who is to be emptied for an outside reason, what happens at the deadline,
//! and when a media node may be removed.
//!
//! A media node is removed only when it said itself, freshly and after it stopped admitting rooms,
//! that it holds none. Rooms end by themselves; those left at the deadline are sent home and meet
//! again elsewhere. Everything here can be taken back until the media node is gone.

use crate::{
    draft::{Draft, View, pod},
    fleet::{self, REPORT_FRESH_MS, Standing},
    ids::MediaNodeName,
    plan::{Stage, WaitingOn},
    policy::OnLoss,
    report::MediaNodeState,
    sovereignty::{self, Footing},
    step::Evidence,
    world::{DesiredState, DrainCause, DrainRequested, MediaNodeSeen, PodPhase, Ready, ReportSeen},
};

/// Rooms sent home by one plan. Their people come back at once and must all be placed again: this
/// is what a placer takes in its stride between two plans, and a few plans empty any media node.
pub const SEND_HOME_PER_PLAN_MAX: usize = 50;

/// Lets media nodes out of scope admit no new room, and those back in scope admit rooms again.
pub(crate) fn plan_sovereignty(view: &View<'_>, draft: &mut Draft) {
    draft.open(Stage::Sovereignty);
    for (name, seen, standing) in view.fleet() {
        let footing = sovereignty::footing(view.gate, seen);
        let lost = seen.drain_cause == Some(DrainCause::ScopeLost);
        if standing.counts() && footing == Footing::OutOfScope {
            draft.drain(view, name, DrainCause::ScopeLost);
        } else if *standing == Standing::Emptying && lost && footing == Footing::InScope {
            draft.undrain(view, name);
        }
    }
}

/// Drains for an outside reason, sends home at the deadline, removes what is empty.
pub(crate) fn plan_drain(view: &View<'_>, draft: &mut Draft) {
    draft.open(Stage::Drain);
    let mut send_home_left = SEND_HOME_PER_PLAN_MAX;
    for (name, seen, standing) in view.fleet() {
        if draft.is_touched(name) {
            continue;
        }
        match standing {
            Standing::Emptying => plan_emptying(view, draft, name, &mut send_home_left),
            _ if standing.counts() => {
                if let Some(cause) = outside_cause(view, seen) {
                    begin(view, draft, name, cause);
                }
            }
            _ => {}
        }
    }
}

/// Why somebody outside wants a media node emptied.
fn outside_cause(view: &View<'_>, seen: &MediaNodeSeen) -> Option<DrainCause> {
    if seen.drain_requested == DrainRequested::Yes {
        return Some(DrainCause::Requested);
    }
    let bound = pod(seen)?.kubernetes_node.as_ref()?;
    let kubernetes_node = view.world.kubernetes_nodes.as_ref()?.get(bound)?;
    kubernetes_node.unschedulable.then_some(DrainCause::KubernetesNodeCordoned)
}

/// Whether somebody outside wants it emptied, so that it is not counted on any more.
pub(crate) fn is_wanted_away(view: &View<'_>, seen: &MediaNodeSeen) -> bool {
    outside_cause(view, seen).is_some()
}

/// Begins a drain, unless that would leave nobody to take new rooms.
fn begin(view: &View<'_>, draft: &mut Draft, name: &MediaNodeName, cause: DrainCause) {
    let other_serves = view.fleet().any(|(other, seen, standing)| {
        other != name
            && *standing == Standing::Serving
            && draft.counts(other, standing)
            && outside_cause(view, seen).is_none()
    });
    let serves = view.standings.get(name) == Some(&Standing::Serving);
    if other_serves || !serves {
        draft.drain(view, name, cause);
    } else {
        let on = WaitingOn::KubernetesNode("another media node to take new rooms".into());
        draft.hold(format!("drain media node {name} ({})", cause.as_str()), on);
    }
}

/// A media node that is being emptied: taken back, removed, sent home or waited for.
fn plan_emptying(
    view: &View<'_>,
    draft: &mut Draft,
    name: &MediaNodeName,
    send_home_left: &mut usize,
) {
    let Some(seen) = view.world.media_nodes.get(name) else { return };
    // Without a cause it was not us: whoever edited the resource asks by annotation instead.
    let lasts_as_its_cause = matches!(
        seen.drain_cause,
        None | Some(DrainCause::Requested | DrainCause::KubernetesNodeCordoned)
    );
    let over = lasts_as_its_cause && outside_cause(view, seen).is_none();
    if over && seen.desired == DesiredState::Draining {
        return draft.undrain(view, name);
    }
    if let Some(evidence) = never_started(seen) {
        return draft.delete(view, name, evidence);
    }
    let remove = format!("remove media node {name}");
    let fresh = seen.report.as_ref().filter(|r| view.now.since_ms(r.received) <= REPORT_FRESH_MS);
    let Some(report) = fresh else {
        return draft.hold(remove, WaitingOn::FreshReport(name.clone()));
    };
    if let Some(evidence) = empty(seen, report) {
        return draft.delete(view, name, evidence);
    }
    if report.claims_in_flight > 0 {
        return draft.hold(remove, WaitingOn::ClaimInFlight(name.clone()));
    }
    if report.state == MediaNodeState::Serving || report.rooms.is_empty() {
        // It has not heard of the drain yet, or its people are still leaving.
        return draft.hold(remove, WaitingOn::FreshReport(name.clone()));
    }
    let deadline_in_ms = deadline_in_ms(view, seen);
    if deadline_in_ms == 0 {
        for room in report.rooms.keys().take(*send_home_left) {
            draft.send_home(name, room);
        }
        *send_home_left = send_home_left.saturating_sub(report.rooms.len());
    }
    let rooms = u32::try_from(report.rooms.len()).unwrap_or(u32::MAX);
    draft.hold(remove, WaitingOn::Rooms { media_node: name.clone(), rooms, deadline_in_ms });
}

/// Milliseconds until the rooms that are left are sent home.
fn deadline_in_ms(view: &View<'_>, seen: &MediaNodeSeen) -> u64 {
    let scope_lost = seen.drain_cause == Some(DrainCause::ScopeLost);
    if scope_lost && view.policy.sovereignty.on_loss == OnLoss::Terminate {
        return 0;
    }
    // A drain whose beginning was not written down begins now.
    let since = seen.desired_since.unwrap_or(view.now);
    view.policy.drain_deadline_ms.saturating_sub(view.now.since_ms(since))
}

/// The evidence that nobody is in a media node that admits nobody.
fn empty(seen: &MediaNodeSeen, report: &ReportSeen) -> Option<Evidence> {
    let pod = pod(seen)?;
    let after_the_drain = seen.desired_since.is_some_and(|since| report.received >= since);
    let admits_none = report.state != MediaNodeState::Serving;
    let holds_none =
        report.rooms.is_empty() && report.participants == 0 && report.claims_in_flight == 0;
    (after_the_drain && admits_none && holds_none).then(|| Evidence::ReportedEmpty {
        pod_uid: pod.uid.clone(),
        incarnation: report.incarnation.clone(),
        sequence: report.sequence,
        received: report.received,
    })
}

/// The evidence that a media node never ran, or never far enough to speak.
pub(crate) fn never_started(seen: &MediaNodeSeen) -> Option<Evidence> {
    if seen.report.is_some() {
        return None;
    }
    match pod(seen) {
        None => Some(Evidence::NeverCreated),
        Some(pod) => {
            let pending = matches!(pod.phase, PodPhase::Pending | PodPhase::Unschedulable { .. });
            // Not ready, with the kubelet's word on why its container waits: no process is there.
            let failing =
                pod.phase == PodPhase::Running && pod.ready == Ready::No && pod.trouble.is_some();
            (pending || failing).then(|| Evidence::NeverStarted { pod_uid: pod.uid.clone() })
        }
    }
}

/// The media node that is emptied with the least harm among `candidates`: first those that never
/// ran, then the fewest participants, then the fewest rooms, then the greater name, which is the
/// younger. Only a media node with a fresh report, or one that never ran, is chosen.
pub(crate) fn victim<'a>(
    view: &View<'_>,
    candidates: impl Iterator<Item = (&'a MediaNodeName, &'a MediaNodeSeen)>,
) -> Option<&'a MediaNodeName> {
    candidates
        .filter_map(|(name, seen)| {
            if never_started(seen).is_some() {
                return Some(((0, 0, 0), name));
            }
            let report = seen.report.as_ref()?;
            fleet::heard_within(seen, view.now, REPORT_FRESH_MS)
                .then_some(((1, report.participants, report.rooms.len()), name))
        })
        .min_by(|(a, a_name), (b, b_name)| a.cmp(b).then_with(|| by_age(b_name, a_name)))
        .map(|(_, name)| name)
}

/// Older first: by length, then by text, which orders `demo-9` before `demo-10`.
fn by_age(a: &MediaNodeName, b: &MediaNodeName) -> std::cmp::Ordering {
    a.as_str().len().cmp(&b.as_str().len()).then_with(|| a.cmp(b))
}

#[cfg(test)]
mod tests;
