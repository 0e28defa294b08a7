//! How many media nodes there should be.
//!
//! Growth is immediate; shrinking waits until the need was lower for the whole window, and does not
//! happen at all while any media node that should report does not: a report that is missing, late
//! or not a number never looks like an empty media node. It names no victim and makes no pod.

use std::collections::BTreeMap;

use crate::{
    capacity,
    fleet::{self, Standing},
    ids::{MediaNodeName, Timestamp},
    policy::Policy,
    world::World,
};

/// The need must have been lower for this long before the fleet shrinks: five minutes, the window
/// that the reference simulations use; shorter ones chase the half-hourly starts of meetings.
pub const SHRINK_WINDOW_MS: u64 = 300_000;

/// Wishes are remembered as the highest of each interval of this length, so that the memory stays
/// small (21 entries) at any rate of planning.
const WISH_INTERVAL_MS: u64 = 15_000;

/// What earlier plans wished. Empty after a change of leader, and then nothing shrinks until it has
/// filled again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScaleMemory {
    since: Option<Timestamp>,
    wishes: BTreeMap<Timestamp, u32>,
}

impl ScaleMemory {
    fn remember(&mut self, wish: u32, now: Timestamp) {
        self.since.get_or_insert(now);
        let interval = Timestamp(now.0 - now.0 % WISH_INTERVAL_MS);
        let highest = self.wishes.entry(interval).or_default();
        *highest = (*highest).max(wish);
        self.wishes.retain(|at, _| now.since_ms(*at) <= SHRINK_WINDOW_MS + WISH_INTERVAL_MS);
    }

    fn highest(&self) -> u32 {
        self.wishes.values().copied().max().unwrap_or(0)
    }

    /// Milliseconds until a whole window has been seen.
    fn unseen_ms(&self, now: Timestamp) -> u64 {
        SHRINK_WINDOW_MS.saturating_sub(self.since.map_or(0, |since| now.since_ms(since)))
    }
}

/// How many media nodes are needed, and why.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ScaleReport {
    /// Needed right now, between the bounds.
    pub wish: u32,
    /// Needed without regard to `nodes_max`: more than `nodes_max` means too small a bound.
    pub wish_unbounded: u32,
    /// The highest wish of the window: what the load has asked for lately.
    pub needed: u32,
    /// Wanted after waiting and freezing.
    pub wanted: u32,
    /// Serving, starting or silent.
    pub present: u32,
    /// Heard and serving.
    pub serving: u32,
    /// Being emptied.
    pub emptying: u32,
    /// Pods for which the scheduler finds no place.
    pub unschedulable: u32,
    /// People and programs in all rooms, as far as known.
    pub participants: u64,
    /// Rooms, as far as known.
    pub rooms: u64,
    /// How full the serving media nodes are on average, 0 to 1.
    pub load_ratio: f64,
    /// Media nodes whose missing or old reports freeze shrinking.
    pub frozen_by: Vec<MediaNodeName>,
    /// New rooms refused for want of capacity in the last minute.
    pub rooms_refused: u32,
    /// Milliseconds until shrinking may begin, when that alone stands in its way.
    pub shrink_in_ms: u64,
}

/// How many media nodes are wanted, and the memory for the next plan.
#[must_use]
pub fn plan_scale(
    world: &World,
    policy: &Policy,
    standings: &BTreeMap<MediaNodeName, Standing>,
    now: Timestamp,
) -> (ScaleReport, ScaleMemory) {
    let mut report = measure(world, policy, standings, now);
    let capacity = &policy.capacity;
    report.wish = report.wish_unbounded.clamp(capacity.nodes_min, capacity.nodes_max);
    let mut memory = world.scale_memory.clone();
    memory.remember(report.wish, now);

    let settled = memory.highest().clamp(capacity.nodes_min, capacity.nodes_max);
    report.needed = settled;
    let shrinking = settled < report.present;
    let unseen_ms = memory.unseen_ms(now);
    report.wanted = if shrinking && (!report.frozen_by.is_empty() || unseen_ms > 0) {
        // A maximum that the owner lowered holds even then: it is a wish, not a measurement.
        report.present.min(capacity.nodes_max)
    } else {
        settled
    };
    report.shrink_in_ms = match (shrinking, report.wish < settled) {
        (true, _) => unseen_ms,
        (false, true) => unseen_ms.max(WISH_INTERVAL_MS),
        (false, false) => 0,
    };
    (report, memory)
}

fn measure(
    world: &World,
    policy: &Policy,
    standings: &BTreeMap<MediaNodeName, Standing>,
    now: Timestamp,
) -> ScaleReport {
    let mut report =
        ScaleReport { rooms_refused: world.demand.rooms_refused, ..Default::default() };
    let (mut busy_sum, mut serving_fill) = (0.0, 0.0);
    for (name, media_node) in &world.media_nodes {
        let Some(standing) = standings.get(name) else { continue };
        if matches!(standing, Standing::Over(_)) {
            continue;
        }
        report.present += u32::from(standing.counts());
        report.serving += u32::from(*standing == Standing::Serving);
        report.emptying += u32::from(*standing == Standing::Emptying);
        report.unschedulable += u32::from(is_unschedulable(media_node));
        let live = matches!(standing, Standing::Serving | Standing::Silent | Standing::Emptying);
        if live && !fleet::heard_within(media_node, now, fleet::REPORT_SCALE_MS) {
            report.frozen_by.push(name.clone());
        }
        if let Some(seen) = &media_node.report {
            report.participants += u64::from(seen.participants);
            report.rooms += seen.rooms.len() as u64;
            busy_sum += seen.busy.all();
            if *standing == Standing::Serving {
                let max = policy.capacity.participants_per_node_max;
                serving_fill += capacity::fill(seen.participants, seen.busy, 0.0, max);
            }
        }
    }
    if report.serving > 0 {
        report.load_ratio = serving_fill / f64::from(report.serving);
    }
    let demand = report.participants + u64::from(world.demand.participants_reserved);
    report.wish_unbounded = capacity::nodes_needed(&policy.capacity, demand, busy_sum);
    if report.rooms_refused > 0 {
        // Somebody was turned away while the sums say that there is room: the sums are wrong.
        report.wish_unbounded = report.wish_unbounded.max(report.present.saturating_add(1));
    }
    report
}

fn is_unschedulable(media_node: &crate::world::MediaNodeSeen) -> bool {
    use crate::world::{PodPhase, PodSeen};
    matches!(&media_node.pod, PodSeen::Present(pod)
        if matches!(pod.phase, PodPhase::Unschedulable { .. }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capacity::Busy;
    use crate::fixtures::{self, NOW};

    fn scale(world: &World, policy: &Policy, now: Timestamp) -> (ScaleReport, ScaleMemory) {
        plan_scale(world, policy, &fleet::standings(world, now), now)
    }

    /// Plans every 10 s until `now + for_ms` with reports kept fresh; the last report.
    fn run(world: &mut World, policy: &Policy, for_ms: u64) -> ScaleReport {
        let mut last = ScaleReport::default();
        for at in (0..=for_ms).step_by(10_000).map(|ms| NOW.plus_ms(ms)) {
            fixtures::refresh(world, at);
            let (report, memory) = scale(world, policy, at);
            world.scale_memory = memory;
            last = report;
        }
        last
    }

    #[test]
    fn growth_is_immediate() {
        let (mut world, policy) = fixtures::fleet(1);
        fixtures::report(&mut world, "demo-0").participants = 150;
        let (report, _) = scale(&world, &policy, NOW);
        assert_eq!((report.present, report.wanted), (1, 3));
    }

    #[test]
    fn joins_that_fill_a_media_node_make_another_as_media_do() {
        let (mut world, policy) = fixtures::fleet(1);
        fixtures::report(&mut world, "demo-0").busy.process = 1.0;
        assert_eq!(scale(&world, &policy, NOW).0.wanted, 2);
        fixtures::report(&mut world, "demo-0").busy = Busy { shards: 1.0, process: 0.0 };
        assert_eq!(scale(&world, &policy, NOW).0.wanted, 2);
    }

    #[test]
    fn shrinking_waits_for_a_whole_window() {
        let (mut world, policy) = fixtures::fleet(4);
        assert_eq!(run(&mut world, &policy, SHRINK_WINDOW_MS - 10_000).wanted, 4);
        assert_eq!(run(&mut world, &policy, SHRINK_WINDOW_MS).wanted, 1);
    }

    #[test]
    fn a_peak_inside_the_window_holds_the_fleet() {
        let (mut world, policy) = fixtures::fleet(4);
        run(&mut world, &policy, SHRINK_WINDOW_MS);
        fixtures::report(&mut world, "demo-0").participants = 150;
        let (report, memory) = scale(&world, &policy, NOW.plus_ms(SHRINK_WINDOW_MS));
        assert_eq!(report.wanted, 3);
        world.scale_memory = memory;
        fixtures::report(&mut world, "demo-0").participants = 0;
        let (report, _) = scale(&world, &policy, NOW.plus_ms(SHRINK_WINDOW_MS + 1_000));
        assert_eq!((report.wish, report.wanted), (1, 3));
    }

    #[test]
    fn a_missing_report_freezes_shrinking_and_never_looks_like_zero_load() {
        let (mut world, policy) = fixtures::fleet(4);
        run(&mut world, &policy, SHRINK_WINDOW_MS);
        let now = NOW.plus_ms(SHRINK_WINDOW_MS);
        for change in
            [(|w| fixtures::media_node(w, "demo-2").report = None) as fn(&mut World), |w| {
                fixtures::report(w, "demo-2").received = NOW;
            }]
        {
            let mut world = world.clone();
            change(&mut world);
            let (report, _) = scale(&world, &policy, now);
            assert_eq!(report.wanted, 4);
            assert_eq!(report.frozen_by, ["demo-2".into()]);
        }
    }

    #[test]
    fn a_lowered_maximum_holds_although_shrinking_is_frozen() {
        let (mut world, mut policy) = fixtures::fleet(4);
        fixtures::media_node(&mut world, "demo-2").report = None;
        policy.capacity.nodes_max = 2;
        assert_eq!(scale(&world, &policy, NOW).0.wanted, 2);
    }

    #[test]
    fn a_room_turned_away_asks_for_one_more_up_to_the_maximum() {
        let (mut world, mut policy) = fixtures::fleet(2);
        world.demand.rooms_refused = 1;
        assert_eq!(scale(&world, &policy, NOW).0.wanted, 3);
        policy.capacity.nodes_max = 2;
        let (report, _) = scale(&world, &policy, NOW);
        assert_eq!((report.wanted, report.wish_unbounded), (2, 3));
    }

    #[test]
    fn the_memory_is_bounded() {
        let mut memory = ScaleMemory::default();
        for at in 0..10_000 {
            memory.remember(1, Timestamp(at * 1_000));
        }
        assert!(memory.wishes.len() <= 23, "{}", memory.wishes.len());
    }
}
