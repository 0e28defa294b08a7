//! The whole of congestion control on simulated links: what it finds, how soon, what it costs.
//!
//! Each test prints the course of its runs; `--nocapture` shows them.

mod link;

use std::time::Duration;

use proptest::prelude::*;

use self::link::{Conditions, Source, World, link, together};
use super::Congestion;
use super::feedback::tests::encode;

/// What a camera in three layers costs.
const LAYERS: Source = Source::Layers([150e3, 450e3, 1.7e6]);
const SEEDS: std::ops::Range<u64> = 1..4;

/// A sender that takes what it gets, up to what is wished for.
fn greedy(seed: u64, conditions: Conditions, wished_bps: f64) -> World {
    let mut world = World::new(seed, 1_500_000, conditions, Source::Greedy(wished_bps));
    world.desire(wished_bps);
    world
}

/// One that forwards layers.
fn layered(seed: u64, conditions: Conditions) -> World {
    let mut world = World::new(seed, 1_500_000, conditions, LAYERS);
    world.desire(4e6);
    world
}

/// Runs the first 20 seconds, in which it may still look, and a minute; the share of the link that
/// was used in it. Asserts that queues stayed short.
fn steady(name: &str, world: &mut World) -> f64 {
    world.seconds(80.0);
    let used = world.arrived_bps(20.0, 80.0) / world.conditions.bps;
    let queue_ms = world.queue_p95_ms(20.0, 80.0);
    world.print(&format!("{name}: used {used:.3}, queue p95 {queue_ms:.0} ms"), 20);
    assert!(queue_ms <= 150.0, "{name}: {queue_ms}");
    assert!(world.wakes < 80 * 20, "{name}: {} wakes", world.wakes);
    used
}

#[test]
fn it_starts_within_seconds_when_more_is_wished_for() {
    for seed in SEEDS {
        let mut world = greedy(seed, link(20e6), 5e6);
        world.seconds(10.0);
        world.print("start", 5);
        let reached = world.until(0.0, |bps| bps >= 4.5e6);
        assert!(reached.is_some_and(|at| at < 2.0), "seed {seed}: {reached:?}");
        // A quarter more than what is wished for or what arrived at most, with a probe.
        assert!(world.most_bps(0.0, 10.0) < 5e6 * 1.5);
    }
}

#[test]
fn a_steady_link_is_used_without_long_queues() {
    for bps in [0.3e6, 1e6, 2.5e6, 8e6] {
        for seed in SEEDS {
            let mut world = greedy(seed, link(bps), bps * 2.0);
            let used = steady("steady", &mut world);
            assert!(used >= 0.8, "{bps} seed {seed}: {used}");
            assert!(world.most_bps(20.0, 80.0) < bps * 1.4, "{}", world.most_bps(20.0, 80.0));
        }
    }
}

#[test]
fn a_link_that_halves_is_followed_and_found_again() {
    for bps in [0.8e6, 2.5e6, 5e6] {
        for seed in SEEDS {
            let mut world = greedy(seed, link(bps), bps * 2.0);
            world.seconds(30.0);
            world.conditions.bps = bps / 2.0;
            world.seconds(30.0);
            world.conditions.bps = bps;
            world.seconds(20.0);
            world.print("halved", 5);
            let down = world.until(30.0, |now| now <= bps * 0.5 * 1.1);
            assert!(down.is_some_and(|at| at <= 1.5), "{bps} seed {seed}: {down:?}");
            let queue_ms = world.queue_p95_ms(33.0, 60.0);
            assert!(queue_ms <= 150.0, "{bps} seed {seed}: {queue_ms}");
            let up = world.until(60.0, |now| now >= bps * 0.8);
            assert!(up.is_some_and(|at| at <= 10.0), "{bps} seed {seed}: {up:?}");
        }
    }
}

#[test]
fn a_first_guess_that_is_too_high_gives_way() {
    for bps in [0.09e6, 0.3e6, 0.8e6, 1.2e6] {
        for seed in SEEDS {
            let mut world = greedy(seed, link(bps), 5e6);
            world.seconds(20.0);
            world.print("guess", 5);
            let down = world.until(0.0, |now| now <= bps * 1.1);
            assert!(down.is_some_and(|at| at <= 3.0), "{bps} seed {seed}: {down:?}");
            let mut world = layered(seed, link(bps));
            world.seconds(20.0);
            world.print("guess, layers", 5);
            let queue_ms = world.queue_p95_ms(5.0, 20.0);
            assert!(queue_ms <= 150.0, "{bps} seed {seed}: {queue_ms}");
        }
    }
}

#[test]
fn chance_loss_costs_little() {
    for seed in SEEDS {
        let used = |loss| {
            let conditions = Conditions { loss, ..link(2.5e6) };
            steady(&format!("loss {loss}"), &mut greedy(seed, conditions, 5e6))
        };
        let (none, some, more) = (used(0.0), used(0.02), used(0.05));
        assert!(some >= none * 0.8, "seed {seed}: {none} {some}");
        assert!(more >= none * 0.7, "seed {seed}: {none} {more}");
    }
}

#[test]
fn jitter_costs_little() {
    for jitter_us in [10_000, 30_000] {
        for seed in SEEDS {
            let conditions = Conditions { jitter_us, ..link(2.5e6) };
            let used = steady("jitter", &mut greedy(seed, conditions, 5e6));
            assert!(used >= 0.7, "{jitter_us} seed {seed}: {used}");
        }
    }
}

#[test]
fn much_jitter_does_not_hide_a_wide_link() {
    for seed in SEEDS {
        let mut world = layered(seed, Conditions { jitter_us: 100_000, ..link(20e6) });
        world.seconds(40.0);
        world.print("much jitter", 20);
        let sent = world.arrived_bps(30.0, 40.0);
        assert!(sent > 1.5e6, "seed {seed}: {sent}");
    }
}

#[test]
fn a_link_that_drops_instead_of_queueing_is_used_too() {
    for seed in SEEDS {
        let conditions = Conditions { queue_us: 40_000, ..link(2.5e6) };
        let used = steady("short queue", &mut greedy(seed, conditions, 5e6));
        assert!(used >= 0.7, "seed {seed}: {used}");
    }
}

#[test]
fn what_is_known_of_a_link_is_kept_while_little_is_sent() {
    for jitter_us in [0, 30_000] {
        for seed in SEEDS {
            let mut world = layered(seed, Conditions { jitter_us, ..link(20e6) });
            world.seconds(20.0);
            world.source = Source::Fixed(300e3);
            let found = world.estimate_bps;
            world.seconds(120.0);
            world.print("unused", 100);
            let kept = world.least_bps(20.0, 140.0) / found;
            assert!(kept >= 0.9, "jitter {jitter_us} seed {seed}: {kept}");
            world.stall(150_000);
            world.seconds(10.0);
            let kept = world.least_bps(147.0, 150.0) / found;
            assert!(kept >= 0.8, "after a stall, seed {seed}: {kept}");
        }
    }
}

#[test]
fn layers_follow_the_link_down_and_up() {
    for (jitter_us, padding_bytes) in [(0, 1), (20_000, 1), (0, 1_000)] {
        for seed in SEEDS {
            let mut world = layered(seed, Conditions { jitter_us, ..link(20e6) });
            world.padding_bytes_least = padding_bytes;
            world.seconds(20.0);
            for (bps, sent_bps) in [(0.65e6, 450e3), (0.24e6, 150e3), (0.65e6, 450e3), (3e6, 1.7e6)]
            {
                let from = world.now_us as f64 / 1e6;
                world.conditions.bps = bps;
                world.seconds(25.0);
                let sent = world.arrived_bps(from + 15.0, from + 25.0) / sent_bps;
                world.print(&format!("layers: {sent:.2} of {sent_bps} on {bps}"), 50);
                assert!(sent > 0.9 && sent < 1.4, "{bps}, seed {seed}: {sent}");
            }
        }
    }
}

#[test]
fn a_pause_ends_when_the_link_is_back() {
    for voice in [true, false] {
        for seed in SEEDS {
            let mut world = layered(seed, link(3e6));
            world.voice = voice;
            world.seconds(10.0);
            world.conditions.bps = 90e3;
            world.seconds(30.0);
            let paused = world.arrived_bps(30.0, 40.0);
            assert!(paused < 90e3, "seed {seed}: {paused}");
            world.conditions.bps = 3e6;
            world.seconds(15.0);
            world.print("pause", 10);
            let back = world.until(40.0, |bps| bps >= 2.2e6);
            assert!(back.is_some_and(|at| at <= 8.0), "voice {voice} seed {seed}: {back:?}");
        }
    }
}

#[test]
fn reports_that_are_lost_harm_little_and_one_nothing() {
    for seed in SEEDS {
        let conditions = Conditions { feedback_loss: 0.2, ..link(2.5e6) };
        let used = steady("reports lost", &mut greedy(seed, conditions, 5e6));
        assert!(used >= 0.7, "seed {seed}: {used}");

        let mut world = layered(seed, link(20e6));
        world.seconds(10.0);
        let before = world.estimate_bps;
        world.drop_reports = 1;
        world.seconds(5.0);
        assert!(world.least_bps(10.0, 15.0) >= before * 0.99, "seed {seed}");
        world.drop_reports = 200;
        world.seconds(10.0);
        let silent = world.estimate_bps;
        assert!(silent < before * 0.5, "seed {seed}: {silent}");
        world.drop_reports = 0;
        world.seconds(10.0);
        world.print("no reports", 10);
        assert!(world.estimate_bps >= before * 0.9, "seed {seed}: {}", world.estimate_bps);
    }
}

/// Two who would take all of it. What probes find between another's frames must not stand in the
/// queue again and again.
#[test]
fn two_behind_one_link_both_get_some_of_it_without_long_queues() {
    for bps in [1.5e6, 4e6] {
        for seed in SEEDS {
            let another = |seed| greedy(seed, link(bps), bps * 2.0);
            let mut worlds = [another(seed), another(seed + 1_000)];
            together(&mut worlds, 100.0);
            let shares = worlds.each_ref().map(|world| world.arrived_bps(40.0, 100.0) / bps);
            let queue_ms = worlds[0].queue_p95_ms(20.0, 100.0);
            println!("two on {bps}, seed {seed}: {shares:.2?}, queue p95 {queue_ms:.0} ms");
            assert!(shares.iter().sum::<f64>() >= 0.8, "{bps} seed {seed}: {shares:?}");
            assert!(shares.iter().all(|share| *share >= 0.1), "{bps} seed {seed}: {shares:?}");
            assert!(queue_ms <= 220.0, "{bps} seed {seed}: {queue_ms}");
        }
    }
}

#[test]
fn who_comes_later_gets_a_part() {
    for seed in SEEDS {
        let mut worlds = [seed, seed + 1_000].map(|seed| greedy(seed, link(4e6), 8e6));
        worlds[0].seconds(30.0);
        worlds[1].sleep(30_000_000);
        together(&mut worlds, 30.0);
        let shares = worlds.each_ref().map(|world| world.arrived_bps(45.0, 60.0) / 4e6);
        println!("one came later, seed {seed}: {shares:.2?}");
        assert!(shares.iter().all(|share| *share >= 0.2), "seed {seed}: {shares:?}");
    }
}

/// As people in one office: each gets the layer that fits its part, and the queue stays empty.
#[test]
fn layers_behind_one_link_fit_beside_each_other() {
    for seed in SEEDS {
        let mut worlds = [0, 1_000, 2_000, 3_000].map(|more| layered(seed + more, link(4e6)));
        together(&mut worlds, 60.0);
        let sent = worlds.each_ref().map(|world| world.arrived_bps(30.0, 60.0));
        let queue_ms = worlds[0].queue_p95_ms(20.0, 60.0);
        println!("four in layers, seed {seed}: {sent:.0?}, queue p95 {queue_ms:.0} ms");
        assert!(sent.iter().all(|bps| *bps >= 400e3), "seed {seed}: {sent:?}");
        assert!(queue_ms <= 50.0, "seed {seed}: {queue_ms}");
    }
}

#[test]
fn layers_leave_room_for_what_does_not_yield() {
    for seed in SEEDS {
        let mut fixed = World::new(seed + 1_000, 1_500_000, link(3e6), Source::Fixed(2e6));
        fixed.unpadded = true;
        let mut worlds = [layered(seed, link(3e6)), fixed];
        together(&mut worlds, 90.0);
        let [sent, fixed] = worlds.each_ref().map(|world| world.arrived_bps(30.0, 90.0));
        let queue_ms = worlds[0].queue_p95_ms(20.0, 90.0);
        println!("beside 2 Mbit/s, seed {seed}: {sent:.0}, {fixed:.0}, queue p95 {queue_ms:.0} ms");
        assert!(sent >= 250e3, "seed {seed}: {sent}");
        assert!(fixed >= 1.95e6, "seed {seed}: {fixed}");
        assert!(queue_ms <= 60.0, "seed {seed}: {queue_ms}");
    }
}

#[test]
fn voices_alone_move_nothing_and_want_no_timer() {
    for jitter_us in [0, 30_000] {
        let conditions = Conditions { jitter_us, ..link(1e6) };
        let mut world = World::new(1, 1_500_000, conditions, Source::Silent);
        world.seconds(120.0);
        assert!(world.told <= 1, "{}", world.told);
        assert_eq!((world.wakes, world.padding_bytes), (0, 0));
        assert_eq!(world.estimate_bps, 1.5e6);
    }
}

#[test]
fn who_cannot_pad_is_not_woken_without_end() {
    let mut world = layered(1, link(20e6));
    world.unpadded = true;
    world.seconds(60.0);
    world.print("unpadded", 20);
    assert!(world.wakes < 60 * 40, "{}", world.wakes);
    assert_eq!(world.padding_bytes, 0);
    assert!(world.arrived_bps(30.0, 60.0) > 400e3);
}

#[test]
fn clocks_that_jump_cost_little() {
    for jump_us in [-6_000_000, -400_000, 90_000, 400_000, 6_000_000, 600_000_000_000] {
        let mut world = layered(2, link(20e6));
        world.seconds(10.0);
        let before = world.estimate_bps;
        world.jump(jump_us);
        world.seconds(10.0);
        world.print("clock", 10);
        assert!(world.estimate_bps >= before * 0.8, "{jump_us}: {}", world.estimate_bps);
    }
    for jump_us in [50_000_000, 7_200_000_000, 90_000_000_000] {
        let mut world = layered(2, link(20e6));
        world.seconds(10.0);
        let before = world.estimate_bps;
        world.sleep(jump_us);
        world.seconds(10.0);
        assert!(world.estimate_bps >= before * 0.8, "{jump_us}: {}", world.estimate_bps);
    }
}

#[test]
fn time_that_goes_back_stands_still() {
    let mut world = layered(3, link(20e6));
    world.seconds(10.0);
    world.congestion.round_trip(Duration::from_millis(45));
    let earlier = world.now() - Duration::from_secs(9);
    let before = world.estimate_bps;
    let congestion = &mut world.congestion;
    congestion.pass(earlier);
    congestion.set_desired(earlier, 3_000_000);
    assert!(congestion.wake_at(earlier, true).is_none_or(|at| at >= earlier));
    congestion.sent(earlier, 1, 1200, true);
    world.seconds(5.0);
    assert!(world.estimate_bps >= before * 0.9);
}

#[test]
fn memory_is_bounded_and_not_taken_before_something_is_sent() {
    let mut world = greedy(1, link(40e6), 40e6);
    assert!(world.congestion.bytes() < 1024, "{}", world.congestion.bytes());
    world.seconds(20.0);
    assert!(world.arrived_bps(10.0, 20.0) > 20e6);
    assert!(world.congestion.bytes() <= 16 * 1024, "{}", world.congestion.bytes());
}

#[test]
fn the_same_seed_gives_the_same_course() {
    let course = |seed| {
        let conditions = Conditions { loss: 0.01, jitter_us: 5_000, ..link(2.5e6) };
        let mut world = greedy(seed, conditions, 5e6);
        world.seconds(20.0);
        world.samples.iter().map(|sample| sample.estimate_bps).collect::<Vec<_>>()
    };
    assert_eq!(course(7), course(7));
    assert_ne!(course(7), course(8));
}

#[test]
#[ignore = "a measurement: run it in release mode with --nocapture"]
fn what_a_packet_and_a_report_cost() {
    const PACKETS: u32 = 4_000_000;
    const REPORTED: u32 = 40;
    let start = std::time::Instant::now();
    let mut congestion = Congestion::new(start, 5_000_000);
    let arrivals: Vec<_> = (0..i64::from(REPORTED)).map(|at| Some(at * 8)).collect();
    let reports: Vec<_> = (0..65_536 / REPORTED + 1)
        .map(|at| encode((at * REPORTED) as u16, at * 5 / 4, &arrivals))
        .collect();
    let (mut sending, mut reading, mut may) = (Duration::ZERO, Duration::ZERO, 0);
    for batch in 0..PACKETS / REPORTED {
        let now = start + Duration::from_millis(u64::from(batch) * 80);
        let began = std::time::Instant::now();
        for packet in 0..REPORTED {
            let now = now + Duration::from_millis(u64::from(packet) * 2);
            may += u32::from(congestion.may_send(now));
            congestion.sent(now, (batch * REPORTED + packet) as u16, 1200, true);
        }
        sending += began.elapsed();
        let began = std::time::Instant::now();
        let report = &reports[(batch as usize * REPORTED as usize % 65_536) / REPORTED as usize];
        let _ = congestion.feedback(now + Duration::from_millis(79), report);
        reading += began.elapsed();
    }
    assert!(may > 0);
    let each = |all: Duration, of| all.as_nanos() as f64 / f64::from(of);
    println!("may_send and sent: {:.1} ns a packet", each(sending, PACKETS));
    println!("feedback: {:.1} ns a packet reported", each(reading, PACKETS));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever the receiver writes, the estimate stays sane and no timer stands in the past.
    #[test]
    fn hostile_reports_move_only_the_estimate(
        reports in prop::collection::vec(prop::collection::vec(any::<u8>(), 8..60), 1..80),
        head in any::<[u8; 3]>(),
    ) {
        let start = std::time::Instant::now();
        let mut congestion = Congestion::new(start, 1_500_000);
        congestion.set_desired(start, 5_000_000);
        let mut sequence = u16::from_be_bytes([head[0], head[1]]);
        for (index, mut report) in reports.into_iter().enumerate() {
            let now = start + Duration::from_millis(index as u64 * 37);
            for _ in 0..head[2] % 32 {
                congestion.sent(now, sequence, 1200, true);
                sequence = sequence.wrapping_add(1);
            }
            report[..2].copy_from_slice(&sequence.wrapping_sub(20).to_be_bytes());
            report[2..4].copy_from_slice(&[0, 20]);
            let _ = congestion.feedback(now, &report);
            congestion.pass(now);
            congestion.padding_due(now);
            let told = congestion.take_estimate();
            prop_assert!(told.is_none_or(|bps| (20_000..=1_000_000_000).contains(&bps)));
            prop_assert!(congestion.wake_at(now, true).is_some_and(|at| at >= now));
        }
    }
}
