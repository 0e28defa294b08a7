//! The placer under test: one answer, one home, healed doubles, and a rebuild that waits.

use super::*;
use crate::{
    ids::{Epoch, MediaNodeName, RoomKey, Timestamp},
    report::{MediaNodeState, NodeReportView, ReportError, RoomView},
};

const NOW: Timestamp = Timestamp(1_000_000);

fn settings() -> Settings {
    Settings { tenant: "m/demo".into(), participants_per_node_max: 100, target_fill: 0.8 }
}

fn room(name: &str) -> RoomKey {
    RoomKey::new("m/demo", name)
}

fn known(name: &str) -> KnownMediaNode {
    KnownMediaNode {
        name: name.into(),
        zone: if name == "a" { "z1" } else { "z2" }.into(),
        admission: Admission::Admit,
        may_hold_rooms: false,
    }
}

fn view(epoch: u64, sequence: u64, at: Timestamp, participants: i64) -> NodeReportView {
    NodeReportView {
        incarnation: "i1".into(),
        epoch: Epoch(epoch),
        sequence,
        uptime_ms: at.0 - 900_000,
        state: MediaNodeState::Serving,
        busy_ratios: vec![0.0],
        cpu_ratio: 0.0,
        forwarding_delay_p99_seconds: 0.0,
        participants,
        whole: sequence == 1,
        rooms: vec![],
        ended: vec![],
    }
}

fn with_room(mut view: NodeReportView, name: &str, claim_epoch: u64) -> NodeReportView {
    view.rooms.push(RoomView {
        room: room(name),
        claim_epoch: Epoch(claim_epoch),
        participants: 3,
        publishers: 1,
        created_unix_ms: 5,
    });
    view
}

/// A leader of epoch 1 that sees `names`, each granted and with the participants given.
fn leading(names: &[(&str, i64)]) -> Directory {
    let mut directory = Directory::new(settings());
    directory.begin_epoch(Epoch(1), names.iter().map(|(name, _)| known(name)), NOW);
    for (name, participants) in names {
        let name = MediaNodeName::from(*name);
        let outcome = directory.report(&name, &view(1, 1, NOW, *participants), NOW);
        assert_eq!(outcome, ReportOutcome::Accepted);
        grant(&mut directory, name.as_str(), NOW);
    }
    directory
}

/// The media node got a grant and confirmed it.
fn grant(directory: &mut Directory, name: &str, now: Timestamp) {
    let given = directory.grant(&name.into(), now).expect("it may be granted");
    directory.granted(&name.into(), &given);
}

fn claim(directory: &mut Directory, name: &str, now: Timestamp) -> MediaNodeName {
    match directory.route(&room(name), &Hints::default(), now) {
        Decision::Claim { media_node } => {
            let held = ClaimOutcome::Held { incarnation: "i1".into() };
            directory.claimed(&room(name), &media_node, held, now);
            media_node
        }
        other => panic!("{other:?}"),
    }
}

/// Reports each half second, `reports` times after the one at `NOW`, each answered by a grant.
fn keep_reporting(directory: &mut Directory, name: &str, epoch: u64, reports: u64) -> Timestamp {
    for number in 1..=reports {
        let at = NOW.plus_ms(number * 500);
        let outcome = directory.report(&name.into(), &view(epoch, number + 1, at, 3), at);
        assert_eq!(outcome, ReportOutcome::Accepted);
        grant(directory, name, at);
    }
    NOW.plus_ms(reports * 500)
}

fn existing(name: &str) -> Decision {
    Decision::Existing { media_node: name.into() }
}

#[test]
fn concurrent_first_joins_get_one_answer() {
    let mut directory = leading(&[("a", 0), ("b", 0)]);
    let first = directory.route(&room("r"), &Hints::default(), NOW);
    assert_eq!(first, Decision::Claim { media_node: "a".into() });
    for _ in 0..5 {
        let waiting = directory.route(&room("r"), &Hints::default(), NOW);
        let reason = WaitReason::ClaimInFlight { media_node: "a".into() };
        assert_eq!(waiting, Decision::Wait { reason });
    }
    let held = ClaimOutcome::Held { incarnation: "i1".into() };
    directory.claimed(&room("r"), &"a".into(), held, NOW);
    assert_eq!(directory.route(&room("r"), &Hints::default(), NOW), existing("a"));
    assert_eq!(directory.counters().rooms_placed, 1);
}

#[test]
fn who_is_busy_with_joins_is_spared_and_nobody_is_turned_away_for_it() {
    let mut directory = leading(&[("a", 40), ("b", 0)]);
    let at = NOW.plus_ms(500);
    let rush = |name: &str, directory: &mut Directory| {
        let report = NodeReportView { cpu_ratio: 1.0, ..view(1, 2, at, 40) };
        assert_eq!(directory.report(&name.into(), &report, at), ReportOutcome::Accepted);
    };
    rush("a", &mut directory);
    assert_eq!(claim(&mut directory, "r", at).as_str(), "b");
    rush("b", &mut directory);
    let decision = directory.route(&room("s"), &Hints::default(), at);
    assert!(matches!(decision, Decision::Claim { .. }), "{decision:?}");
}

#[test]
fn the_fullest_under_the_target_wins_then_the_emptiest_under_the_maximum() {
    let mut directory = leading(&[("a", 10), ("b", 40), ("c", 78)]);
    assert_eq!(claim(&mut directory, "r", NOW).as_str(), "b", "78 + 5 exceeds the target of 80");
    let mut directory = leading(&[("a", 90), ("b", 85), ("c", 99)]);
    assert_eq!(claim(&mut directory, "r", NOW).as_str(), "b");
    let mut directory = leading(&[("a", 96), ("b", 97)]);
    let refused = directory.route(&room("r"), &Hints::default(), NOW);
    assert_eq!(refused, Decision::Refuse { reason: RefuseReason::Full });
    assert_eq!(directory.rooms_refused_recently(NOW), 1);
    assert_eq!(directory.rooms_refused_recently(NOW.plus_ms(62_000)), 0);
}

#[test]
fn ties_go_to_the_lesser_name_and_the_zone_before_all() {
    let mut directory = leading(&[("b", 0), ("a", 0)]);
    assert_eq!(claim(&mut directory, "r", NOW).as_str(), "a");
    let hints = Hints { zone: "z2".into(), ..Hints::default() };
    let decision = directory.route(&room("near"), &hints, NOW);
    assert_eq!(decision, Decision::Claim { media_node: "b".into() });
}

#[test]
fn a_burst_between_two_reports_does_not_land_on_one_media_node() {
    let mut directory = leading(&[("a", 0), ("b", 0)]);
    let mut on_a = 0;
    for index in 0..32 {
        on_a += u32::from(claim(&mut directory, &index.to_string(), NOW).as_str() == "a");
    }
    assert_eq!(on_a, 16, "16 rooms of 5 expected fill the target of 80 out of 100");
}

#[test]
fn the_reservation_fades_and_gives_way_to_those_who_came() {
    let mut directory = leading(&[("a", 0)]);
    claim(&mut directory, "r", NOW);
    assert_eq!(directory.participants_reserved(), 5);
    let later = NOW.plus_ms(1_000);
    directory.report(&"a".into(), &with_room(view(1, 2, later, 3), "r", 1), later);
    assert_eq!(directory.participants_reserved(), 1, "three of five came");
    for sequence in 3..=602 {
        let at = NOW.plus_ms((sequence - 1) * 1_000);
        directory.report(&"a".into(), &with_room(view(1, sequence, at, 3), "r", 1), at);
    }
    assert_eq!(directory.participants_reserved(), 0);
}

#[test]
fn the_gate_lets_nothing_through_that_may_not_have_rooms() {
    type Case = (&'static str, fn(&mut Directory));
    let cases: [Case; 4] = [
        ("out of scope or draining by the plan", |d| {
            d.node_known(KnownMediaNode { admission: Admission::Deny, ..known("a") }, NOW);
        }),
        ("draining by its own word", |d| {
            let draining = NodeReportView { state: MediaNodeState::Draining, ..view(1, 2, NOW, 0) };
            d.report(&"a".into(), &draining, NOW);
        }),
        ("terminated", |d| d.node_terminated(&"a".into(), NOW)),
        ("just refused", |d| {
            d.route(&room("x"), &Hints::default(), NOW);
            let refused = ClaimOutcome::Refused(ClaimRefusal::Full);
            d.claimed(&room("x"), &"a".into(), refused, NOW);
        }),
    ];
    for (case, change) in cases {
        let mut directory = leading(&[("a", 0)]);
        change(&mut directory);
        let refused = directory.route(&room("r"), &Hints::default(), NOW);
        assert_eq!(refused, Decision::Refuse { reason: RefuseReason::NoMediaNode }, "{case}");
    }
}

#[test]
fn a_new_room_waits_a_moment_for_a_media_node_whose_reports_are_late() {
    let mut directory = leading(&[("a", 0)]);
    let waits = Decision::Wait { reason: WaitReason::SightLost };
    let new = |directory: &mut Directory, at| directory.route(&room("r"), &Hints::default(), at);
    let unseen = NOW.plus_ms(SIGHT_MS + 1);
    assert_eq!(new(&mut directory, unseen), waits, "an old report");
    let refused = Decision::Refuse { reason: RefuseReason::NoMediaNode };
    assert_eq!(new(&mut directory, NOW.plus_ms(HEARD_LATELY_MS + 1)), refused, "too old");
    directory.node_lost(&"a".into());
    assert_eq!(new(&mut directory, NOW), waits, "a stream that broke");
    let at = NOW.plus_ms(GRANT_TTL_MS);
    directory.report(&"a".into(), &view(1, 1, at, 0), at);
    assert_eq!(new(&mut directory, at), waits, "a grant that lapsed");
    grant(&mut directory, "a", at);
    assert_eq!(claim(&mut directory, "r", at).as_str(), "a");
    assert_eq!(directory.counters().rooms_refused, 1);
}

#[test]
fn bad_reports_are_counted_and_change_nothing() {
    let mut directory = leading(&[("a", 10)]);
    let before = directory.snapshot();
    let later = NOW.plus_ms(500);
    let bad = [
        (NodeReportView { busy_ratios: vec![f64::NAN], ..view(1, 2, later, 0) }, "not_a_number"),
        (view(1, 2, later, -4), "negative"),
        (with_room(view(0, 2, later, 0), "ghost", 0), "epoch_lower"),
        (with_room(view(1, 1, later, 0), "ghost", 1), "late"),
        (with_room(view(1, 9, later, 0), "ghost", 1), "late"),
    ];
    for (view, reason) in bad {
        let mut directory = directory.clone();
        let outcome = directory.report(&"a".into(), &view, later);
        let ReportOutcome::Ignored(error) = outcome else { panic!("{outcome:?}") };
        assert_eq!(error.as_str(), reason);
        assert_eq!(directory.counters().reports_ignored[&error], 1);
        assert_eq!(directory.snapshot(), before);
    }
    // Written four seconds before it came, by the media node's own clock.
    let late = NodeReportView { sequence: 2, whole: false, ..view(1, 2, NOW, 0) };
    let outcome = directory.report(&"a".into(), &late, NOW.plus_ms(4_000));
    assert_eq!(outcome, ReportOutcome::Ignored(ReportError::Late));
    let unknown = directory.report(&"stranger".into(), &view(1, 1, later, 0), later);
    assert_eq!(unknown, ReportOutcome::Ignored(ReportError::UnknownMediaNode));
}

#[test]
fn a_higher_epoch_ends_the_leader() {
    let mut directory = leading(&[("a", 0)]);
    let outcome = directory.report(&"a".into(), &view(2, 2, NOW, 0), NOW);
    assert_eq!(outcome, ReportOutcome::Fenced { epoch: Epoch(2) });
}

#[test]
fn a_new_leader_places_nothing_until_all_are_heard_or_their_grants_are_over() {
    let mut directory = Directory::new(settings());
    let held = |name: &str| KnownMediaNode { may_hold_rooms: true, ..known(name) };
    directory.begin_epoch(Epoch(7), [held("a"), held("b")], NOW);
    directory.report(&"a".into(), &with_room(view(7, 1, NOW, 3), "old", 6), NOW);
    grant(&mut directory, "a", NOW);
    let asked = directory.route(&room("new"), &Hints::default(), NOW);
    assert_eq!(asked, Decision::Wait { reason: WaitReason::Rebuilding { unheard: 1 } });
    let asked = directory.route(&room("old"), &Hints::default(), NOW);
    assert_eq!(asked, existing("a"), "known rooms are routed meanwhile");
    assert_eq!(directory.state(NOW), PlacerState::Rebuilding { unheard: 1 });

    keep_reporting(&mut directory, "a", 7, 5);
    let over = NOW.plus_ms(GRANT_TTL_MS + GRANT_SKEW_MS);
    assert_eq!(directory.state(Timestamp(over.0 - 1)), PlacerState::Rebuilding { unheard: 1 });
    assert_eq!(directory.state(over), PlacerState::Placing);
    assert_eq!(claim(&mut directory, "new", over).as_str(), "a");
}

#[test]
fn a_room_out_of_sight_gets_no_second_home_before_the_grant_is_over() {
    let mut directory = leading(&[("a", 0), ("b", 0)]);
    assert_eq!(claim(&mut directory, "r", NOW).as_str(), "a");
    directory.node_lost(&"a".into());
    let failed = Hints { unreachable: Some("a".into()), ..Hints::default() };
    let at = keep_reporting(&mut directory, "b", 1, 4);
    let reason = WaitReason::HomeOutOfSight { media_node: "a".into(), retry_in_ms: 750 };
    assert_eq!(directory.route(&room("r"), &failed, at), Decision::Wait { reason });
    assert_eq!(directory.route(&room("r"), &Hints::default(), at), existing("a"));
    let over = NOW.plus_ms(GRANT_TTL_MS + GRANT_SKEW_MS);
    let still = directory.route(&room("r"), &Hints::default(), over);
    assert_eq!(still, existing("a"), "only who cannot reach it either moves the room");
    let moved = directory.route(&room("r"), &failed, over);
    assert_eq!(moved, Decision::Claim { media_node: "b".into() });
}

#[test]
fn a_grant_is_counted_from_the_report_that_it_quotes() {
    let mut directory = leading(&[("a", 0)]);
    assert_eq!(claim(&mut directory, "r", NOW).as_str(), "a");
    // A second passes on the way; the media node's clock says when it was written.
    let (written, came) = (NOW.plus_ms(500), NOW.plus_ms(1_500));
    directory.report(&"a".into(), &view(1, 2, written, 0), came);
    let given = directory.grant(&"a".into(), came.plus_ms(400)).expect("in sight");
    assert_eq!((given.uptime_ms, given.ttl_ms), (written.0 - 900_000, GRANT_TTL_MS));
    directory.granted(&"a".into(), &given);
    // The media node itself stops at this moment, so no room is offered to it from then on.
    directory.report(&"a".into(), &view(1, 3, written.plus_ms(2_400), 0), written.plus_ms(2_400));
    let lapsed = written.plus_ms(GRANT_TTL_MS + 1);
    let waits = directory.route(&room("new"), &Hints::default(), lapsed);
    assert_eq!(waits, Decision::Wait { reason: WaitReason::SightLost });
    // Without the second on the way it could have ended as late as this.
    directory.node_lost(&"a".into());
    let failed = Hints { unreachable: Some("a".into()), ..Hints::default() };
    let over = came.plus_ms(GRANT_TTL_MS + GRANT_SKEW_MS);
    let waits = directory.route(&room("r"), &failed, Timestamp(over.0 - 1));
    assert!(matches!(waits, Decision::Wait { .. }), "{waits:?}");
    let moved = directory.route(&room("r"), &failed, over);
    assert_eq!(moved, Decision::Wait { reason: WaitReason::SightLost }, "free, but for where");
}

#[test]
fn proof_that_the_process_is_over_frees_its_rooms_at_once() {
    let mut directory = leading(&[("a", 0), ("b", 0)]);
    assert_eq!(claim(&mut directory, "r", NOW).as_str(), "a");
    directory.take_changes();
    directory.process_over(&"a".into(), NOW);
    let delta = directory.take_changes();
    assert_eq!((delta.media_nodes_gone, delta.rooms_gone), (vec!["a".into()], vec![room("r")]));
    assert_eq!(claim(&mut directory, "r", NOW).as_str(), "b");
    // The next process takes part again, once it has spoken and holds a grant.
    let reborn = NodeReportView { incarnation: "i2".into(), ..view(1, 1, NOW, 0) };
    directory.report(&"a".into(), &reborn, NOW);
    assert_eq!(directory.take_changes().media_nodes, ["a".into()]);
    assert_eq!(directory.home(&room("r")).unwrap().media_node.as_str(), "b");
    grant(&mut directory, "a", NOW);
    assert_eq!(claim(&mut directory, "s", NOW).as_str(), "b", "the fuller one");
}

#[test]
fn a_grant_of_a_former_process_says_nothing_of_the_next() {
    let mut directory = leading(&[("a", 0)]);
    let given = directory.grant(&"a".into(), NOW).expect("in sight");
    directory.process_over(&"a".into(), NOW);
    let reborn = NodeReportView { incarnation: "i2".into(), ..view(1, 1, NOW, 0) };
    directory.report(&"a".into(), &reborn, NOW);
    directory.granted(&"a".into(), &given);
    let refused = directory.route(&room("r"), &Hints::default(), NOW);
    assert_eq!(refused, Decision::Wait { reason: WaitReason::SightLost });
}

#[test]
fn gateways_are_told_who_went_out_of_sight_and_who_came_back() {
    let mut directory = leading(&[("a", 0), ("b", 0)]);
    directory.note_sight(NOW);
    directory.take_changes();
    let beats: Vec<Timestamp> = (1..=3).map(|beat| NOW.plus_ms(beat * 500)).collect();
    for (sequence, at) in (2..).zip(&beats) {
        directory.report(&"b".into(), &view(1, sequence, *at, 0), *at);
        directory.note_sight(*at);
    }
    assert!(directory.take_changes().is_empty(), "three missing reports, not two");
    let unseen = NOW.plus_ms(SIGHT_MS + 1);
    directory.note_sight(unseen);
    assert_eq!(directory.take_changes().media_nodes_unseen, ["a".into()]);
    assert_eq!(directory.snapshot().media_nodes_unseen, ["a".into()]);
    directory.note_sight(unseen.plus_ms(50));
    assert_eq!(directory.take_changes().media_nodes_unseen, [], "told once");
    directory.node_lost(&"a".into());
    directory.report(&"a".into(), &view(1, 1, unseen, 0), unseen);
    directory.note_sight(unseen);
    assert_eq!(directory.take_changes().media_nodes, ["a".into()]);
}

#[test]
fn a_terminated_media_nodes_rooms_get_a_new_home_at_once() {
    let mut directory = leading(&[("a", 0), ("b", 0)]);
    claim(&mut directory, "r", NOW);
    directory.take_changes();
    directory.node_terminated(&"a".into(), NOW);
    let delta = directory.take_changes();
    assert_eq!(delta.media_nodes_gone, ["a".into()]);
    assert_eq!(delta.rooms_gone, [room("r")]);
    assert_eq!(claim(&mut directory, "r", NOW).as_str(), "b");
}

#[test]
fn a_new_incarnation_has_none_of_the_old_rooms() {
    let mut directory = leading(&[("a", 0)]);
    claim(&mut directory, "r", NOW);
    directory.node_lost(&"a".into());
    let reborn = NodeReportView { incarnation: "i2".into(), ..view(1, 1, NOW, 0) };
    directory.report(&"a".into(), &reborn, NOW);
    assert_eq!(directory.home(&room("r")), None);
    assert_eq!(claim(&mut directory, "r", NOW).as_str(), "a");
}

#[test]
fn a_claim_of_unknown_outcome_is_asked_again_where_it_was_sent() {
    let mut directory = leading(&[("a", 0), ("b", 0)]);
    let first = directory.route(&room("r"), &Hints::default(), NOW);
    assert_eq!(first, Decision::Claim { media_node: "a".into() });
    directory.claimed(&room("r"), &"a".into(), ClaimOutcome::Unknown, NOW);
    let again = directory.route(&room("r"), &Hints::default(), NOW);
    assert_eq!(again, Decision::Claim { media_node: "a".into() });
    directory.claimed(&room("r"), &"a".into(), ClaimOutcome::Unknown, NOW);
    directory.node_lost(&"a".into());
    let waits = directory.route(&room("r"), &Hints::default(), NOW);
    assert!(matches!(waits, Decision::Wait { .. }), "{waits:?}");
}

#[test]
fn a_claim_that_never_arrived_is_given_up_when_reports_do_not_bring_it() {
    let mut directory = leading(&[("a", 0)]);
    directory.route(&room("r"), &Hints::default(), NOW);
    directory.claimed(&room("r"), &"a".into(), ClaimOutcome::Unknown, NOW);
    assert_eq!(directory.claims_in_flight(&"a".into()), 1, "no media node is removed meanwhile");
    for sequence in 2..=7 {
        let at = NOW.plus_ms((sequence - 1) * 1_000);
        directory.report(&"a".into(), &view(1, sequence, at, 0), at);
    }
    assert_eq!(directory.claims_in_flight(&"a".into()), 0);
    assert_eq!(directory.rooms_len(), 0);
}

#[test]
fn a_question_without_an_answer_does_not_move_the_room() {
    let mut directory = leading(&[("a", 0), ("b", 0)]);
    claim(&mut directory, "r", NOW);
    directory.take_changes();
    let failed = Hints { unreachable: Some("a".into()), ..Hints::default() };
    directory.route(&room("r"), &failed, NOW);
    assert_eq!(directory.take_changes().rooms_gone, [], "gateways keep the last sure home");
    directory.claimed(&room("r"), &"a".into(), ClaimOutcome::Unknown, NOW);
    for sequence in 2..=12 {
        let at = NOW.plus_ms((sequence - 1) * 1_000);
        directory.report(&"a".into(), &view(1, sequence, at, 0), at);
    }
    assert_eq!(directory.home(&room("r")).unwrap().media_node.as_str(), "a");
}

#[test]
fn a_media_node_that_was_out_of_sight_must_tell_the_whole_again() {
    let mut directory = leading(&[("a", 0)]);
    let later = NOW.plus_ms(3_500);
    let outcome = directory.report(&"a".into(), &view(1, 2, later, 0), later);
    assert_eq!(outcome, ReportOutcome::Ignored(ReportError::Late));
    let outcome = directory.report(&"a".into(), &view(1, 1, later, 0), later);
    assert_eq!(outcome, ReportOutcome::Accepted);
}

#[test]
fn a_caller_who_did_not_find_the_room_makes_the_placer_ask() {
    let mut directory = leading(&[("a", 0)]);
    claim(&mut directory, "r", NOW);
    let failed = Hints { unreachable: Some("a".into()), ..Hints::default() };
    let asked = directory.route(&room("r"), &failed, NOW);
    assert_eq!(asked, Decision::Claim { media_node: "a".into() });
}

#[test]
fn a_report_older_than_the_claim_does_not_end_the_room() {
    let mut directory = leading(&[("a", 0), ("b", 0)]);
    claim(&mut directory, "r", NOW);
    let at = NOW.plus_ms(20);
    let mut stale = view(1, 2, at, 0);
    stale.ended.push(room("r"));
    directory.report(&"a".into(), &stale, at);
    let asked = directory.route(&room("r"), &Hints::default(), at);
    assert_eq!(asked, Decision::Claim { media_node: "a".into() }, "it asks the same one");
    // Much later the same words are believed.
    let held = ClaimOutcome::Held { incarnation: "i1".into() };
    directory.claimed(&room("r"), &"a".into(), held, at);
    for sequence in 3..=5 {
        let between = with_room(view(1, sequence, at.plus_ms(sequence * 500), 3), "r", 1);
        directory.report(&"a".into(), &between, at.plus_ms(sequence * 500));
    }
    let later = at.plus_ms(CLAIM_SETTLE_MS + 100);
    let ended = NodeReportView { ended: vec![room("r")], ..view(1, 6, later, 0) };
    directory.report(&"a".into(), &ended, later);
    assert_eq!(directory.home(&room("r")), None);
}

#[test]
fn a_room_with_two_homes_is_healed_and_the_newer_claim_wins() {
    let mut directory = Directory::new(settings());
    let held = |name: &str| KnownMediaNode { may_hold_rooms: true, ..known(name) };
    directory.begin_epoch(Epoch(9), [held("a"), held("b")], NOW);
    directory.report(&"a".into(), &with_room(view(9, 1, NOW, 3), "r", 7), NOW);
    directory.report(&"b".into(), &with_room(view(9, 1, NOW, 3), "r", 8), NOW);
    assert_eq!(directory.home(&room("r")).unwrap().media_node.as_str(), "b");
    let release = Release { media_node: "a".into(), room: room("r") };
    assert_eq!(directory.take_releases(NOW), std::slice::from_ref(&release));
    assert_eq!(directory.take_releases(NOW), [], "not again at once");
    assert_eq!(directory.take_releases(NOW.plus_ms(RELEASE_RETRY_MS)), [release]);
    let at = NOW.plus_ms(1_500);
    let ended = NodeReportView { ended: vec![room("r")], ..view(9, 2, at, 0) };
    directory.report(&"a".into(), &ended, at);
    assert_eq!(directory.take_releases(NOW.plus_ms(9_000)), []);
    assert_eq!(directory.counters().rooms_doubled, 1);
}

#[test]
fn a_room_of_somebody_else_is_neither_routed_nor_believed() {
    let mut directory = leading(&[("a", 0)]);
    let foreign = RoomKey::new("other/cluster", "r");
    let refused = directory.route(&foreign, &Hints::default(), NOW);
    assert_eq!(refused, Decision::Refuse { reason: RefuseReason::WrongTenant });
    let mut report = with_room(view(1, 2, NOW, 3), "r", 1);
    report.rooms[0].room = foreign.clone();
    directory.report(&"a".into(), &report, NOW);
    assert_eq!(directory.home(&foreign), None);
    assert_eq!(directory.counters().rooms_foreign, 1);
}

#[test]
fn a_room_that_does_not_exist_is_not_made_for_who_may_not() {
    let mut directory = leading(&[("a", 0)]);
    let hints = Hints { create: Create::Forbidden, ..Hints::default() };
    let refused = directory.route(&room("r"), &hints, NOW);
    assert_eq!(refused, Decision::Refuse { reason: RefuseReason::NotFound });
}

#[test]
fn gateways_are_told_the_whole_first_and_then_what_changed() {
    let mut directory = leading(&[("a", 0)]);
    assert!(directory.take_changes().whole);
    assert!(directory.take_changes().is_empty());
    claim(&mut directory, "r", NOW);
    let delta = directory.take_changes();
    assert_eq!(delta.rooms.len(), 1);
    assert_eq!(delta.rooms[0].media_node.as_str(), "a");
    assert_eq!(directory.snapshot().rooms, delta.rooms);
}
