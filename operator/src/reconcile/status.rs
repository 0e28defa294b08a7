//! Says in the status of a meeting cluster and its media nodes what was seen and decided. Pure: the
//! conditions come from the core; this module keeps transition times and decides what is worth a
//! write. Invariant: a condition's time changes exactly when its status does.

use std::collections::BTreeMap;

use hemicycle_crds::{
    Condition, MediaNodeStatus, MeetingClusterStatus,
    media_node::MediaNodePhase,
    meeting_cluster::{Flow, Violation},
};
use jiff::Timestamp;
use operator_core::{
    Condition as CoreCondition, capacity,
    fleet::{REPORT_FRESH_MS, Standing},
    ids::RoomKey,
    plan::PlanReport,
    policy::Policy,
    report::MediaNodeState,
    sovereignty::Attested,
    violation::Violation as CoreViolation,
    world::{MediaNodeSeen, PodSeen},
};

use crate::pki::signing::SigningKeys;

/// Rooms of a violation that are listed by their hash.
const ROOM_HASHES_MAX: usize = 16;
/// Lines of what is held back, in the status.
const HELD_MAX: usize = 16;
/// Numbers alone are written this often at most, in milliseconds; a transition is written at once.
const NUMBERS_EVERY_MS: i64 = 9_000;
/// Added to that for each media node, so that a meeting cluster of any size has 1.7 of them written
/// a second at most. The design allows 5 writes a second and 0.02 for each media node, in all.
const NUMBERS_EVERY_MS_PER_NODE: i64 = 600;

/// How long numbers wait in a fleet of `media_nodes`.
#[must_use]
pub fn numbers_every_ms(media_nodes: usize) -> i64 {
    let nodes = i64::try_from(media_nodes).unwrap_or(i64::MAX);
    NUMBERS_EVERY_MS.saturating_add(nodes.saturating_mul(NUMBERS_EVERY_MS_PER_NODE))
}

fn count(number: impl TryInto<i32>) -> i32 {
    number.try_into().unwrap_or(i32::MAX)
}

fn percent(ratio: f64) -> String {
    format!("{:.0}%", ratio * 100.0)
}

/// Two decimals: more would be noise that is worth a write each time.
fn rounded(ratio: f64) -> f64 {
    (ratio * 100.0).round() / 100.0
}

/// The status of the meeting cluster.
#[must_use]
pub fn meeting_cluster(
    before: &MeetingClusterStatus,
    conditions: &[CoreCondition],
    report: &PlanReport,
    facts: &Facts<'_>,
) -> MeetingClusterStatus {
    let scale = &report.scale;
    let held = report.held().map(|(stage, held)| {
        format!("{}: {} waits for {}", stage.as_str(), held.step, held.on.describe())
    });
    MeetingClusterStatus {
        conditions: kept_times(&before.conditions, conditions, facts),
        nodes: Some(format!("{}/{}", scale.serving, scale.wanted)),
        nodes_serving: count(scale.serving),
        nodes_wanted: count(scale.wanted),
        nodes_draining: count(scale.emptying),
        rooms: count(scale.rooms),
        participants: count(scale.participants),
        load_ratio: Some(rounded(scale.load_ratio)),
        load: Some(percent(scale.load_ratio)),
        ordinal_high_water: i64::try_from(report.ordinal_high_water).unwrap_or(i64::MAX),
        violations: report.violations.iter().map(|it| violation(it, before, facts)).collect(),
        violations_open: count(report.violations_open().count()),
        flows: facts.flows.to_vec(),
        held: held.take(HELD_MAX).collect(),
        url: Some(format!("{}://{}", facts.scheme, facts.domain)),
        facts: BTreeMap::from([
            ("epoch".to_owned(), facts.epoch.to_string()),
            ("proofKey".to_owned(), facts.keys.proof().public_key().to_base64()),
        ]),
        observed_generation: facts.generation,
    }
}

/// A violation as it is listed. Rooms that were known when it was listed stay listed.
fn violation(it: &CoreViolation, before: &MeetingClusterStatus, facts: &Facts<'_>) -> Violation {
    let time = |at: operator_core::Timestamp| super::seen::time(at).to_string();
    let rooms = it.room_keys.iter().take(ROOM_HASHES_MAX);
    let hash = |room: &RoomKey| facts.keys.rooms().hash(&room.tenant, &room.name).to_string();
    let mut room_hashes: Vec<String> = rooms.map(hash).collect();
    if room_hashes.is_empty()
        && let Some(listed) = before.violations.iter().find(|old| old.id == it.id)
    {
        room_hashes.clone_from(&listed.room_hashes);
    }
    Violation {
        id: it.id.clone(),
        what: it.what.clone(),
        message: it.message.clone(),
        pod: it.pod.to_string(),
        kubernetes_node: it.kubernetes_node.to_string(),
        since: time(it.since),
        ended: it.ended.map(time),
        rooms: count(it.rooms),
        room_hashes,
        remedy: it.remedy.clone(),
        acknowledged_by: it.acknowledged.as_ref().map(|(by, _)| by.clone()),
        acknowledged_until: it.acknowledged.as_ref().map(|(_, until)| time(*until)),
    }
}

/// What else a status tells.
#[derive(Clone, Copy)]
pub struct Facts<'a> {
    /// `metadata.generation` that was looked at.
    pub generation: Option<i64>,
    /// Now.
    pub now: Timestamp,
    /// The leader's fencing number.
    pub epoch: u64,
    /// `ws` or `wss`.
    pub scheme: &'a str,
    /// `spec.domain`.
    pub domain: &'a str,
    /// What the proof is signed with, and rooms are hashed.
    pub keys: &'a SigningKeys,
    /// What is let through.
    pub flows: &'a [Flow],
}

fn kept_times(
    before: &[Condition],
    conditions: &[CoreCondition],
    facts: &Facts<'_>,
) -> Vec<Condition> {
    conditions
        .iter()
        .map(|condition| {
            let fresh = Condition {
                type_: condition.kind.as_str().to_owned(),
                status: condition.status.as_str().to_owned(),
                reason: condition.reason.as_str().to_owned(),
                message: condition.message.clone(),
                last_transition_time: String::new(),
                observed_generation: facts.generation,
            };
            with_time(before, fresh, facts.now)
        })
        .collect()
}

/// `fresh` with the time at which its status became what it is.
#[must_use]
pub fn with_time(before: &[Condition], fresh: Condition, now: Timestamp) -> Condition {
    let same = before
        .iter()
        .find(|old| old.type_ == fresh.type_ && old.status == fresh.status)
        .map(|old| old.last_transition_time.clone());
    let whole_second = Timestamp::from_second(now.as_second()).unwrap_or(now);
    Condition { last_transition_time: same.unwrap_or_else(|| whole_second.to_string()), ..fresh }
}

/// Whether more than numbers changed: that is written at once.
#[must_use]
pub fn is_transition(before: &MeetingClusterStatus, after: &MeetingClusterStatus) -> bool {
    let words = |status: &MeetingClusterStatus| {
        let conditions = status.conditions.iter().map(|condition| {
            (condition.type_.clone(), condition.status.clone(), condition.reason.clone())
        });
        (
            conditions.collect::<Vec<_>>(),
            status.nodes.clone(),
            status.nodes_draining,
            status
                .violations
                .iter()
                .map(|it| (it.id.clone(), it.ended.clone()))
                .collect::<Vec<_>>(),
            status.violations_open,
            status.ordinal_high_water,
            (status.url.clone(), status.flows.clone()),
            status.facts.clone(),
            status.observed_generation,
        )
    };
    words(before) != words(after)
}

/// What is told of one media node beside what the world holds.
#[derive(Clone, Copy, Debug)]
pub struct MediaNodeFacts<'a> {
    /// How it stands.
    pub standing: &'a Standing,
    /// Why it may carry rooms where it runs; `None` when it may not, or nobody could look.
    pub attested: Option<&'a Attested>,
    /// The address that participants are told.
    pub address: Option<&'a str>,
    /// Version of the binary that reports.
    pub version: Option<&'a str>,
    /// `metadata.generation` of its resource.
    pub generation: Option<i64>,
    /// Now.
    pub now: Timestamp,
}

/// The status of one media node.
#[must_use]
pub fn media_node(
    before: &MediaNodeStatus,
    policy: &Policy,
    seen: &MediaNodeSeen,
    facts: &MediaNodeFacts<'_>,
) -> MediaNodeStatus {
    let pod = match &seen.pod {
        PodSeen::Present(pod) => Some(pod),
        PodSeen::NeverCreated | PodSeen::Gone => None,
    };
    let report = seen.report.as_ref();
    let kubernetes_node = pod.and_then(|pod| pod.kubernetes_node.clone());
    let load = report.map(|report| {
        let max = policy.capacity.participants_per_node_max;
        capacity::fill(report.participants, report.busy, 0.0, max)
    });
    let phase = phase(seen, facts.standing);
    MediaNodeStatus {
        phase,
        pod_uid: pod.map(|pod| pod.uid.to_string()).or_else(|| before.pod_uid.clone()),
        kubernetes_node: kubernetes_node
            .map(|name| name.to_string())
            .or_else(|| before.kubernetes_node.clone()),
        address: facts.address.map(str::to_owned),
        scope: facts.attested.map(|attested| attested.scope.to_string()),
        evidence: facts.attested.map(|attested| attested.level.as_str().to_owned()),
        rooms: count(report.map_or(0, |report| report.rooms.len())),
        participants: count(report.map_or(0, |report| report.participants)),
        load_ratio: load.map(rounded),
        load: load.map(percent),
        version: facts.version.map(str::to_owned).or_else(|| before.version.clone()),
        conditions: vec![ready(before, seen, phase, facts)],
        observed_generation: facts.generation,
    }
}

fn phase(seen: &MediaNodeSeen, standing: &Standing) -> MediaNodePhase {
    match standing {
        Standing::Awaiting => MediaNodePhase::Pending,
        Standing::Starting => match &seen.pod {
            PodSeen::Present(pod) if pod.kubernetes_node.is_some() => MediaNodePhase::Starting,
            _ => MediaNodePhase::Pending,
        },
        Standing::Serving => MediaNodePhase::Serving,
        Standing::Silent => MediaNodePhase::Silent,
        Standing::Emptying => MediaNodePhase::Draining,
        Standing::Unreachable => MediaNodePhase::Unreachable,
        Standing::Leaving | Standing::Over(_) => MediaNodePhase::Terminating,
    }
}

fn ready(
    before: &MediaNodeStatus,
    seen: &MediaNodeSeen,
    phase: MediaNodePhase,
    facts: &MediaNodeFacts<'_>,
) -> Condition {
    let trouble = match &seen.pod {
        PodSeen::Present(pod) => pod.trouble.clone(),
        PodSeen::NeverCreated | PodSeen::Gone => None,
    };
    let fresh = seen.report.as_ref().filter(|report| {
        let now = super::seen::timestamp(facts.now);
        now.since_ms(report.received) <= REPORT_FRESH_MS * 4
    });
    let (status, reason, message) = match phase {
        MediaNodePhase::Serving
            if fresh.is_some_and(|report| report.state == MediaNodeState::Serving) =>
        {
            ("True", "AsExpected", "it reports and admits rooms".to_owned())
        }
        MediaNodePhase::Serving => {
            ("False", "Draining", "it admits no room by its own word".into())
        }
        MediaNodePhase::Draining => {
            let cause = seen.drain_cause.map_or("its spec asks for it", |cause| cause.as_str());
            ("False", "Draining", format!("it is being emptied: {cause}"))
        }
        MediaNodePhase::Pending | MediaNodePhase::Starting => {
            let message = trouble.unwrap_or_else(|| "its pod has not reported yet".into());
            ("False", "MediaNodesStarting", message)
        }
        MediaNodePhase::Silent | MediaNodePhase::Unreachable => {
            ("Unknown", "ReportsMissing", "it does not report".into())
        }
        MediaNodePhase::Terminating => ("False", "Draining", "its process is over".into()),
    };
    let fresh = Condition {
        type_: "Ready".into(),
        status: status.into(),
        reason: reason.into(),
        message,
        last_transition_time: String::new(),
        observed_generation: facts.generation,
    };
    with_time(&before.conditions, fresh, facts.now)
}

/// Whether more than numbers changed.
#[must_use]
pub fn is_media_node_transition(before: &MediaNodeStatus, after: &MediaNodeStatus) -> bool {
    let words = |status: &MediaNodeStatus| {
        let reasons = status.conditions.iter().map(|condition| {
            (condition.type_.clone(), condition.status.clone(), condition.reason.clone())
        });
        (
            status.phase,
            status.pod_uid.clone(),
            status.kubernetes_node.clone(),
            status.address.clone(),
            status.scope.clone(),
            status.version.clone(),
            reasons.collect::<Vec<_>>(),
            status.observed_generation,
        )
    };
    words(before) != words(after)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn condition(status: &str, time: &str) -> Condition {
        Condition {
            type_: "Ready".into(),
            status: status.into(),
            last_transition_time: time.into(),
            ..Condition::default()
        }
    }

    #[test]
    fn a_transition_time_changes_exactly_when_the_status_does() {
        let now: Timestamp = "2026-11-23T09:00:05.7Z".parse().expect("a time");
        let before = [condition("True", "2026-01-01T00:00:00Z")];
        let same = with_time(&before, condition("True", ""), now);
        assert_eq!(same.last_transition_time, "2026-01-01T00:00:00Z");
        let other = with_time(&before, condition("False", ""), now);
        assert_eq!(other.last_transition_time, "2026-11-23T09:00:05Z");
        let first = with_time(&[], condition("False", ""), now);
        assert_eq!(first.last_transition_time, "2026-11-23T09:00:05Z");
    }

    #[test]
    fn numbers_wait_and_words_do_not() {
        let before = MeetingClusterStatus::default();
        let numbers = MeetingClusterStatus { rooms: 7, participants: 30, ..before.clone() };
        assert!(!is_transition(&before, &numbers));
        let words = MeetingClusterStatus { nodes: Some("2/3".into()), ..before.clone() };
        assert!(is_transition(&before, &words));
        // 0.02 writes a second for each of a thousand media nodes, each of which has a status.
        assert!(numbers_every_ms(1_000) >= 50_000);
    }
}
