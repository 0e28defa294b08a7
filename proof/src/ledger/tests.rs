//! The ledger against a model that knows nothing of intervals, and its cuts one by one.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::chain::Chain;
use crate::fixtures::{TENANT, facts, moment, nine, room, text};
use crate::key::tests::key;

const MINUTE: u64 = 60_000;

fn ledger(every_ms: u64) -> Ledger {
    Ledger::new(text(TENANT), every_ms, Moment::from_unix_ms(0))
}

fn sighting(pod: &str, people: &[(&str, u32)]) -> Sighting {
    let rooms = people.iter().map(|(name, count)| (room(name), *count)).collect();
    let ticket = Some(Span::new(nine(), nine().plus_ms(30 * 24 * 60 * MINUTE)));
    Sighting { facts: facts(pod), ticket, violations: 0, rooms }
}

/// Sees `pod` every two seconds from `from` up to `to`.
fn watch(ledger: &mut Ledger, pod: &Sighting, from: Moment, to: Moment) {
    let mut at = from;
    while at <= to {
        ledger.observe(at, pod.clone());
        at = at.plus_ms(2_000);
    }
}

#[test]
fn participant_time_is_added_up() {
    let mut ledger = ledger(60 * MINUTE);
    let end = nine().plus_ms(10 * MINUTE);
    watch(&mut ledger, &sighting("p", &[("a", 3), ("b", 0), ("a", 1)]), nine(), end);
    let [statement] = &ledger.flush(end)[..] else { panic!("one pod, one statement") };
    assert_eq!(statement.participant_ms, 40 * MINUTE);
    assert_eq!(statement.rooms.len(), 2);
    assert_eq!((statement.unobserved_ms, statement.interval), (0, Span::new(nine(), end)));
}

#[test]
fn silence_is_told_and_counts_for_nobody() {
    let mut ledger = ledger(60 * MINUTE);
    let back = nine().plus_ms(5 * MINUTE);
    ledger.observe(nine(), sighting("p", &[("a", 1)]));
    ledger.observe(back, sighting("p", &[("a", 1)]));
    let [statement] = &ledger.flush(back.plus_ms(1_000))[..] else { panic!("one statement") };
    assert_eq!(statement.participant_ms, HOLD_MS + 1_000);
    assert_eq!(statement.unobserved_ms, 5 * MINUTE - HOLD_MS);
    assert_eq!(statement.silences, [Span::new(nine().plus_ms(HOLD_MS), back)]);
}

#[test]
fn flushing_in_a_silence_does_not_prolong_presence() {
    let mut ledger = ledger(1_000);
    ledger.observe(nine(), sighting("p", &[("a", 1)]));
    let mut all = Vec::new();
    for second in 1..60 {
        all.extend(ledger.due(nine().plus_ms(second * 1_000)));
    }
    assert_eq!(all.iter().map(|o| o.participant_ms).sum::<u64>(), HOLD_MS);
}

#[test]
fn a_long_silence_ends_the_interval_where_the_last_sighting_counts() {
    let mut ledger = ledger(60 * MINUTE);
    ledger.observe(nine(), sighting("p", &[("a", 1)]));
    let [statement] = &ledger.due(nine().plus_ms(SILENCE_MS_MAX + 1))[..] else {
        panic!("one statement")
    };
    assert_eq!(statement.interval.to, nine().plus_ms(HOLD_MS));
    assert!(ledger.flush(nine().plus_ms(SILENCE_MS_MAX + 2)).is_empty());
}

#[test]
fn midnight_the_end_of_a_ticket_and_of_the_scope_cut() {
    let start = moment("2026-11-28T23:59:00.000Z");
    let mut pod = sighting("p", &[("a", 1)]);
    pod.ticket = Some(Span::new(start, start.plus_ms(2 * MINUTE)));
    pod.facts.scope.expires = start.plus_ms(3 * MINUTE);
    let mut ledger = ledger(60 * MINUTE);
    let end = start.plus_ms(4 * MINUTE);
    watch(&mut ledger, &pod, start, end);
    let cuts: Vec<u64> =
        ledger.flush(end).iter().map(|o| o.interval.to.since_ms(start) / MINUTE).collect();
    assert_eq!(cuts, [1, 2, 3, 4]);
}

#[test]
fn a_renewed_ticket_does_not_cut_and_a_late_one_does() {
    let mut pod = sighting("p", &[]);
    let ticket = |from, to| Some(Span::new(nine().plus_ms(from), nine().plus_ms(to)));
    let mut ledger = ledger(60 * MINUTE);
    for (at, held) in [(0, ticket(0, 9_000)), (8_000, ticket(8_000, 17_000))] {
        pod.ticket = held;
        ledger.observe(nine().plus_ms(at), pod.clone());
    }
    pod.ticket = ticket(18_000, 27_000);
    ledger.observe(nine().plus_ms(18_000), pod.clone());
    let all = ledger.flush(nine().plus_ms(20_000));
    let held: Vec<_> = all.iter().map(|o| (o.interval, o.ticket)).collect();
    let span = |from, to| Span::new(nine().plus_ms(from), nine().plus_ms(to));
    assert_eq!(
        held,
        [
            (span(0, 17_000), ticket(0, 17_000)),
            (span(17_000, 18_000), ticket(0, 17_000)),
            (span(18_000, 20_000), ticket(18_000, 27_000)),
        ]
    );
}

#[test]
fn another_ground_begins_another_statement_and_evidence_seen_again_does_not() {
    let mut ledger = ledger(60 * MINUTE);
    let mut pod = sighting("p", &[("a", 1)]);
    ledger.observe(nine(), pod.clone());
    pod.facts.evidence[0].observed_at = nine().plus_ms(2_000);
    ledger.observe(nine().plus_ms(2_000), pod.clone());
    assert!(ledger.due(nine().plus_ms(2_000)).is_empty());
    pod.facts.kubernetes_node = text("worker-2");
    ledger.observe(nine().plus_ms(4_000), pod);
    let [statement] = &ledger.due(nine().plus_ms(4_000))[..] else { panic!("one statement") };
    assert_eq!(statement.facts.kubernetes_node, text("worker-1"));
    assert_eq!(statement.interval.ms(), 4_000);
    assert_eq!(statement.facts.evidence[0].observed_at, nine().plus_ms(2_000));
}

#[test]
fn more_rooms_than_a_statement_lists_are_counted() {
    let people: Vec<(String, u32)> = (0..ROOMS_MAX + 5).map(|n| (n.to_string(), 1)).collect();
    let people: Vec<(&str, u32)> = people.iter().map(|(name, n)| (name.as_str(), *n)).collect();
    let mut ledger = ledger(60 * MINUTE);
    ledger.observe(nine(), sighting("p", &people));
    let [statement] = &ledger.flush(nine().plus_ms(1_000))[..] else { panic!("one statement") };
    assert_eq!((statement.rooms.len(), statement.rooms_omitted), (ROOMS_MAX, 5));
    assert_eq!(statement.participant_ms, 1_000 * (ROOMS_MAX as u64 + 5));
    let full = Chain::begin(text(TENANT)).append(statement.clone(), 1, &key(1)).unwrap().0;
    assert!(full.len() < crate::dsse::LINE_BYTES_MAX, "{}", full.len());
}

#[test]
fn rooms_that_come_and_go_find_place_in_the_next_statement() {
    let mut ledger = ledger(60 * MINUTE);
    let mut at = nine();
    for round in 0..3 {
        let names: Vec<String> = (0..600).map(|n| format!("{round}-{n}")).collect();
        let people: Vec<(&str, u32)> = names.iter().map(|name| (name.as_str(), 1)).collect();
        ledger.observe(at, sighting("p", &people));
        at = at.plus_ms(2_000);
    }
    let all = ledger.flush(at);
    assert!(all.iter().all(|o| o.rooms_omitted == 0));
    assert_eq!(all.iter().map(|o| o.participant_ms).sum::<u64>(), 3 * 600 * 2_000);
}

#[derive(Clone, Debug)]
enum Act {
    See { pod: usize, rooms: Vec<(u8, u32)>, ground: u8, ticket_ms: Option<u64> },
    End { pod: usize },
    Due,
    Flush,
}

fn acts() -> impl Strategy<Value = Vec<(i64, Act)>> {
    let see = (
        0..3_usize,
        proptest::collection::vec((0..4_u8, 0..5_u32), 0..4),
        prop_oneof![9 => Just(0_u8), 1 => Just(1)],
        proptest::option::weighted(0.8, 1_000..900_000_u64),
    );
    let see =
        see.prop_map(|(pod, rooms, ground, ticket_ms)| Act::See { pod, rooms, ground, ticket_ms });
    let act = prop_oneof![
        8 => see,
        1 => (0..3_usize).prop_map(|pod| Act::End { pod }),
        3 => Just(Act::Due),
        1 => Just(Act::Flush),
    ];
    let step = prop_oneof![
        8 => 0..4_000_i64,
        2 => 4_000..60_000_i64,
        1 => 60_000..5_000_000_i64,
        1 => -5_000..0_i64,
    ];
    proptest::collection::vec((step, act), 1..60)
}

/// What each pod was seen with last, and all the participant time that follows from it.
#[derive(Default)]
struct Model {
    seen: BTreeMap<usize, (Moment, u64)>,
    participant_ms: u64,
}

impl Model {
    fn leave(&mut self, pod: usize, at: Moment) {
        if let Some((seen, people)) = self.seen.remove(&pod) {
            self.participant_ms += at.since_ms(seen).min(HOLD_MS) * people;
        }
    }
}

fn act(
    ledger: &mut Ledger,
    model: &mut Model,
    clock: Moment,
    at: Moment,
    act: &Act,
) -> Vec<Observed> {
    match act {
        Act::See { pod, rooms, ground, ticket_ms } => {
            let mut sighting = sighting(&format!("p{pod}"), &[]);
            sighting.rooms = rooms.iter().map(|(r, n)| (room(&r.to_string()), *n)).collect();
            sighting.facts.kubernetes_node = text(&format!("worker-{ground}"));
            sighting.ticket = ticket_ms.map(|ms| Span::new(at, at.plus_ms(ms)));
            model.leave(*pod, clock);
            model.seen.insert(*pod, (clock, rooms.iter().map(|(_, n)| u64::from(*n)).sum()));
            ledger.observe(at, sighting);
            Vec::new()
        }
        Act::End { pod } => {
            model.leave(*pod, clock);
            ledger.end(at, &text(&format!("p{pod}")));
            Vec::new()
        }
        Act::Due => ledger.due(at),
        Act::Flush => ledger.flush(at),
    }
}

proptest! {
    #[test]
    fn no_minute_is_lost_or_counted_twice(steps in acts(), every_ms in 1_000..2_000_000_u64) {
        let mut model = Model::default();
        // An hour before midnight, so that days change.
        let mut at = moment("2026-11-28T23:00:00.000Z");
        let mut ledger = Ledger::new(text(TENANT), every_ms, at);
        let mut clock = at;
        let mut all = Vec::new();
        for (ms, step) in &steps {
            at = Moment::from_unix_ms(at.unix_ms().saturating_add_signed(*ms));
            clock = clock.max(at);
            all.extend(act(&mut ledger, &mut model, clock, at, step));
        }
        all.extend(ledger.flush(clock));
        for pod in 0..3 {
            model.leave(pod, clock);
        }
        let counted: u64 = all.iter().map(|observed| observed.participant_ms).sum();
        prop_assert_eq!(counted, model.participant_ms);
        let mut chain = Chain::begin(text(TENANT));
        let mut ends: BTreeMap<Text, Moment> = BTreeMap::new();
        for observed in all {
            let pod = observed.facts.pod_uid.clone();
            let interval = observed.interval;
            prop_assert!(ends.get(&pod).is_none_or(|end| *end <= interval.from), "overlap");
            ends.insert(pod, interval.to);
            // Sealing checks lists, times and sums.
            chain = chain.append(observed, 1, &key(1)).unwrap().1;
        }
    }
}
