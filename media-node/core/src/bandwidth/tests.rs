//! How a downlink is shared, in the cases that a viewer would notice.

use super::*;
use crate::layers::TEMPORAL_TOP;

fn demand(track: u64, pixels: u64) -> Demand {
    let mut costs = Costs::default();
    for (row, cost) in costs.iter_mut().zip([150_000, 500_000, 1_500_000]) {
        row[3] = Some(cost);
    }
    let layer_max = Some(Layer::new(2, TEMPORAL_TOP));
    Demand { track, layer_max, priority: 0, screen: false, pixels, costs }
}

fn spatial(allocation: &Allocation) -> Vec<Option<u8>> {
    allocation.grants.iter().map(|grant| grant.target.map(|layer| layer.spatial)).collect()
}

#[test]
fn everyone_gets_the_lowest_before_anyone_gets_more() {
    let now = Instant::now();
    let demands = [demand(1, 100), demand(2, 900), demand(3, 100)];
    let share = |budget| Allocator::new(true).allocate(now, budget, 40_000, &demands);
    assert_eq!(spatial(&share(None)), [Some(2); 3]);
    assert_eq!(spatial(&share(Some(500_000))), [Some(0); 3]);
    assert_eq!(spatial(&share(Some(850_000))), [Some(0), Some(1), Some(0)]);
    let short = share(Some(350_000));
    assert_eq!(spatial(&short), [Some(0), Some(0), None]);
    assert!(short.grants[2].paused && short.spent_bps <= 350_000);
    assert_eq!(short.desired_bps, 4_540_000);
    assert_eq!(short.probe_bps, Some(4_994_000));
    assert_eq!(spatial(&share(Some(0))), [None; 3]);
    let mut keep = Allocator::new(false);
    assert_eq!(spatial(&keep.allocate(now, Some(0), 40_000, &demands)), [Some(0); 3]);
}

#[test]
fn a_track_falls_at_once_and_rises_later_with_room_to_spare() {
    let start = Instant::now();
    let demands = [demand(1, 100)];
    let mut allocator = Allocator::new(true);
    let mut at = |seconds, budget| {
        let now = start + Duration::from_secs(seconds);
        spatial(&allocator.allocate(now, Some(budget), 0, &demands))
    };
    assert_eq!(at(0, 1_500_000), [Some(2)]);
    assert_eq!(at(1, 1_400_000), [Some(1)]);
    assert_eq!(at(2, 3_000_000), [Some(1)], "held");
    assert_eq!(at(6, 1_600_000), [Some(1)], "no head room");
    assert_eq!(at(6, 1_800_000), [Some(2)]);
    assert_eq!(at(7, 1_510_000), [Some(2)], "what it has needs no head room");
}

#[test]
fn what_was_muted_or_not_wished_for_comes_back_at_once() {
    let start = Instant::now();
    let mut allocator = Allocator::new(true);
    let mut at = |millis, demand: Demand| {
        let now = start + Duration::from_millis(millis);
        spatial(&allocator.allocate(now, Some(3_000_000), 0, &[demand]))
    };
    let muted = Demand { costs: Costs::default(), ..demand(1, 100) };
    let low = Demand { layer_max: Some(Layer::new(0, TEMPORAL_TOP)), ..demand(1, 100) };
    assert_eq!(at(0, demand(1, 100)), [Some(2)]);
    assert_eq!(at(100, muted), [None]);
    assert_eq!(at(200, demand(1, 100)), [Some(2)], "unmuted");
    assert_eq!(at(300, low), [Some(0)]);
    assert_eq!(at(400, demand(1, 100)), [Some(2)], "shown large again");
}

#[test]
fn priority_and_screen_shares_go_first_and_hidden_tracks_cost_nothing() {
    let now = Instant::now();
    let mut demands = [demand(1, 900), demand(2, 1), demand(3, 1), demand(4, 5)];
    demands[1].priority = 1;
    demands[2].screen = true;
    demands[3].layer_max = None;
    let result = Allocator::new(true).allocate(now, Some(320_000), 0, &demands);
    assert_eq!(spatial(&result), [None, Some(0), Some(0), None]);
    assert!(!result.grants[3].paused && result.grants[0].paused);
}

#[test]
fn a_wish_below_every_living_layer_gets_the_lowest_that_lives() {
    let now = Instant::now();
    let mut only_high = demand(1, 1);
    only_high.costs[0] = [None; 4];
    only_high.layer_max = Some(Layer::new(0, 3));
    let result = Allocator::new(true).allocate(now, None, 0, &[only_high]);
    assert_eq!(spatial(&result), [Some(1)]);
}

#[test]
fn a_camera_comes_sharper_only_at_its_full_rate_and_a_screen_at_any() {
    let mut camera = demand(1, 100);
    for (row, top) in camera.costs.iter_mut().zip([100_000, 400_000, 1_500_000]) {
        *row = [Some(top * 2 / 5), Some(top * 3 / 5), Some(top), None];
    }
    let given = |demand: &Demand, budget| {
        let demands = [demand.clone()];
        let shared = Allocator::new(true).allocate(Instant::now(), Some(budget), 0, &demands);
        shared.grants[0].target
    };
    assert_eq!(given(&camera, 300_000), Some(Layer::new(0, 2)));
    assert_eq!(given(&camera, 400_000), Some(Layer::new(1, 2)));
    assert_eq!(given(&camera, 50_000), Some(Layer::new(0, 0)));
    let screen = Demand { screen: true, ..camera };
    assert_eq!(given(&screen, 300_000), Some(Layer::new(1, 1)));
}
