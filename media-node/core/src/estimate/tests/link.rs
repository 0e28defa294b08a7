//! A sender, a bottleneck with a queue, and a receiver that reports, in virtual time from one seed.
//!
//! Sends frames of video and voices as an egress does, and writes reports as libwebrtc's receiver
//! does. Keeps the course of a run; asserts nothing beyond that timers make sense.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::time::{Duration, Instant};

use super::super::Congestion;
use super::super::feedback::tests::encode;

/// The longest packet of video, in bytes of UDP payload.
const PACKET_BYTES: usize = 1200;
const FRAME_US: u64 = 33_333;
const VOICE_US: u64 = 20_000;
const VOICE_BYTES: usize = 110;
/// An event loop wakes at whole milliseconds.
const TICK_US: u64 = 1_000;

/// What the network does.
#[derive(Debug, Clone, Copy)]
pub(super) struct Conditions {
    pub(super) bps: f64,
    pub(super) delay_us: u64,
    pub(super) jitter_us: u64,
    pub(super) loss: f64,
    /// What would wait longer is dropped.
    pub(super) queue_us: u64,
    pub(super) feedback_loss: f64,
}

pub(super) fn link(bps: f64) -> Conditions {
    Conditions {
        bps,
        delay_us: 20_000,
        jitter_us: 0,
        loss: 0.0,
        queue_us: 300_000,
        feedback_loss: 0.0,
    }
}

/// What is sent.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Source {
    /// Voices only.
    Silent,
    /// As much as the estimate allows, up to so many bits per second.
    Greedy(f64),
    /// The highest of these layers that fits with 15 % to spare; none when none fits.
    Layers([f64; 3]),
    /// So many bits per second whatever happens.
    Fixed(f64),
}

/// One tenth of a second of the course.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sample {
    pub(super) at_us: u64,
    pub(super) estimate_bps: f64,
    pub(super) arrived_bps: f64,
    pub(super) queue_us: u64,
}

/// See the module's description.
pub(super) struct World {
    start: Instant,
    pub(super) now_us: u64,
    pub(super) congestion: Congestion,
    pub(super) conditions: Conditions,
    pub(super) source: Source,
    pub(super) voice: bool,
    /// Nothing can be padded with.
    pub(super) unpadded: bool,
    /// The least that a packet of padding can have.
    pub(super) padding_bytes_least: usize,
    random: fastrand::Rng,
    free_us: u64,
    flight: BinaryHeap<Reverse<(u64, u64, usize)>>,
    waiting: VecDeque<usize>,
    sequence: u64,
    next_frame_us: u64,
    next_voice_us: u64,
    next_report_us: u64,
    /// Receiver's clock minus ours.
    clock_us: i64,
    arrived: BTreeMap<u64, i64>,
    base: Option<u64>,
    reports: VecDeque<(u64, Vec<u8>)>,
    pub(super) drop_reports: u32,
    pub(super) estimate_bps: f64,
    pub(super) told: u32,
    pub(super) wakes: u32,
    pub(super) padding_bytes: u64,
    sample_bytes: usize,
    sampled_us: u64,
    pub(super) samples: Vec<Sample>,
    /// When each packet left, and how long it stood in the link's queue.
    pub(super) queued: Vec<(u64, u64)>,
}

/// Runs senders over one link, whose queue they share, for so many seconds.
pub(super) fn together(worlds: &mut [World], seconds: f64) {
    let end_us = worlds[0].now_us + (seconds * 1e6) as u64;
    let mut free_us = worlds.iter().map(|world| world.free_us).max().unwrap();
    while worlds[0].now_us < end_us {
        for world in &mut *worlds {
            world.free_us = free_us;
            world.seconds(TICK_US as f64 / 1e6);
            free_us = world.free_us;
        }
    }
}

impl World {
    pub(super) fn new(seed: u64, start_bps: u64, conditions: Conditions, source: Source) -> Self {
        let start = Instant::now();
        Self {
            start,
            now_us: 0,
            congestion: Congestion::new(start, start_bps),
            conditions,
            source,
            voice: true,
            unpadded: false,
            padding_bytes_least: 1,
            random: fastrand::Rng::with_seed(seed),
            free_us: 0,
            flight: BinaryHeap::new(),
            waiting: VecDeque::new(),
            sequence: 65_000,
            next_frame_us: 0,
            next_voice_us: 0,
            next_report_us: 100_000,
            clock_us: 5_000_000_000,
            arrived: BTreeMap::new(),
            base: None,
            reports: VecDeque::new(),
            drop_reports: 0,
            estimate_bps: start_bps as f64,
            told: 0,
            wakes: 0,
            padding_bytes: 0,
            sample_bytes: 0,
            sampled_us: 0,
            samples: Vec::new(),
            queued: Vec::new(),
        }
    }

    pub(super) fn now(&self) -> Instant {
        self.start + Duration::from_micros(self.now_us)
    }

    pub(super) fn desire(&mut self, bps: f64) {
        self.congestion.set_desired(self.now(), bps as u64);
        self.egress();
    }

    pub(super) fn seconds(&mut self, seconds: f64) {
        let end_us = self.now_us + (seconds * 1e6) as u64;
        while self.now_us < end_us {
            let wake = self.congestion.wake_at(self.now(), !self.waiting.is_empty());
            let wake_us =
                wake.map(|at| ((at - self.start).as_micros() as u64).next_multiple_of(TICK_US));
            let wake_us = wake_us.map(|at| at.max(self.now_us + TICK_US));
            let sample_us = self.sampled_us + 100_000;
            let times = [
                wake_us,
                self.flight.peek().map(|Reverse((at, ..))| *at),
                self.reports.front().map(|(at, _)| *at),
                Some(self.next_frame_us),
                Some(self.next_voice_us),
                Some(self.next_report_us),
                Some(sample_us),
                Some(end_us),
            ];
            self.now_us = times.into_iter().flatten().min().unwrap().max(self.now_us);
            let woken = wake_us.is_some_and(|at| at <= self.now_us);
            self.wakes += u32::from(woken);
            self.events(woken);
            if self.now_us >= sample_us {
                self.sample();
            }
        }
    }

    /// What falls due; the egress is called only for what a shard is woken for.
    fn events(&mut self, woken: bool) {
        let mut called = woken;
        while let Some(Reverse((at_us, sequence, bytes))) = self.flight.peek().copied()
            && at_us <= self.now_us
        {
            self.flight.pop();
            self.sample_bytes += bytes;
            self.arrived.insert(sequence, at_us as i64 + self.clock_us);
        }
        if self.now_us >= self.next_report_us {
            self.next_report_us = self.now_us + self.random.u64(50_000..100_000);
            self.report();
        }
        while self.reports.front().is_some_and(|(at, _)| *at <= self.now_us) {
            let (_, report) = self.reports.pop_front().unwrap();
            self.congestion.feedback(self.now(), &report).unwrap();
            called = true;
        }
        if self.now_us >= self.next_voice_us {
            self.next_voice_us += VOICE_US;
            if self.voice {
                self.send(VOICE_BYTES, false);
                called = true;
            }
        }
        if self.now_us >= self.next_frame_us {
            self.next_frame_us += FRAME_US;
            called |= self.frame();
        }
        if called {
            self.egress();
        }
    }

    fn frame(&mut self) -> bool {
        let bps = match self.source {
            Source::Silent => 0.0,
            Source::Greedy(most) => (self.estimate_bps * 0.97 - 44e3).clamp(30e3, most),
            Source::Layers(layers) => {
                let fits = |layer: &&f64| **layer * 1.15 + 44e3 <= self.estimate_bps;
                layers.iter().rev().find(fits).copied().unwrap_or(0.0)
            }
            Source::Fixed(bps) => bps,
        };
        let size = bps * FRAME_US as f64 / 8e6 * (0.7 + self.random.f64() * 0.6);
        let mut rest = size as usize;
        while rest > 0 {
            let bytes = rest.min(PACKET_BYTES);
            self.waiting.push_back(bytes);
            rest -= bytes;
        }
        // A frame is dropped rather than sent a second late.
        let most = (self.estimate_bps / 8.0) as usize;
        while self.waiting.iter().sum::<usize>() > most.max(20_000) {
            self.waiting.pop_front();
        }
        size >= 1.0
    }

    fn egress(&mut self) {
        let now = self.now();
        self.congestion.pass(now);
        while !self.waiting.is_empty() && self.congestion.may_send(now) {
            let bytes = self.waiting.pop_front().unwrap();
            self.send(bytes, true);
        }
        if self.waiting.is_empty() && !self.unpadded {
            let mut due = self.congestion.padding_due(now).unwrap_or(0);
            while due > 0 {
                let bytes = due.clamp(self.padding_bytes_least, PACKET_BYTES).max(60);
                self.padding_bytes += bytes as u64;
                self.send(bytes, true);
                due = due.saturating_sub(bytes);
            }
        }
        if let Some(bps) = self.congestion.take_estimate() {
            self.estimate_bps = bps as f64;
            self.told += 1;
        }
    }

    fn send(&mut self, bytes: usize, paced: bool) {
        let sequence = self.sequence;
        self.sequence += 1;
        self.congestion.sent(self.now(), sequence as u16, bytes, paced);
        let takes_us = bytes as f64 * 8e6 / self.conditions.bps;
        let stands_us = self.free_us.saturating_sub(self.now_us);
        self.queued.push((self.now_us, stands_us));
        if stands_us as f64 + takes_us > self.conditions.queue_us as f64 {
            return;
        }
        self.free_us = self.now_us + stands_us + takes_us as u64;
        if self.random.f64() < self.conditions.loss {
            return;
        }
        let jitter_us = self.random.u64(0..=self.conditions.jitter_us);
        let at_us = self.free_us + self.conditions.delay_us + jitter_us;
        self.flight.push(Reverse((at_us, sequence, bytes)));
    }

    /// Tells of everything from the first number not told of to the last that arrived.
    fn report(&mut self) {
        let Some((last, _)) = self.arrived.last_key_value() else {
            return;
        };
        let first = self.base.unwrap_or(65_000).min(*self.arrived.keys().next().unwrap());
        let ticks = |at_us: i64| at_us.div_euclid(250);
        let reference = ticks(*self.arrived.values().next().unwrap()).div_euclid(256);
        let arrivals: Vec<_> = (first..=*last)
            .map(|number| self.arrived.get(&number).map(|at| ticks(*at) - reference * 256))
            .collect();
        let report = encode(first as u16, (reference & 0xff_ffff) as u32, &arrivals);
        self.base = Some(last + 1);
        self.arrived.clear();
        if self.drop_reports > 0 {
            self.drop_reports -= 1;
        } else if self.random.f64() >= self.conditions.feedback_loss {
            self.reports.push_back((self.now_us + self.conditions.delay_us, report));
        }
    }

    /// The link sends nothing for so long.
    pub(super) fn stall(&mut self, for_us: u64) {
        self.free_us = self.free_us.max(self.now_us) + for_us;
    }

    /// The receiver's clock jumps; what arrived and was not reported is forgotten.
    pub(super) fn jump(&mut self, by_us: i64) {
        self.clock_us += by_us;
        self.arrived.clear();
    }

    /// Both machines stand still for so long.
    pub(super) fn sleep(&mut self, for_us: u64) {
        self.now_us += for_us;
        self.next_frame_us += for_us;
        self.next_voice_us += for_us;
        self.next_report_us += for_us;
        self.sampled_us += for_us;
    }

    fn sample(&mut self) {
        let sample = Sample {
            at_us: self.now_us,
            estimate_bps: self.estimate_bps,
            arrived_bps: self.sample_bytes as f64 * 80.0,
            queue_us: self.free_us.saturating_sub(self.now_us),
        };
        (self.sample_bytes, self.sampled_us) = (0, self.now_us);
        self.samples.push(sample);
    }

    /// Samples between two times in seconds.
    pub(super) fn between(&self, from: f64, to: f64) -> impl Iterator<Item = &Sample> {
        let within = move |at: &u64| (from * 1e6..=to * 1e6).contains(&(*at as f64));
        self.samples.iter().filter(move |sample| within(&sample.at_us))
    }

    /// The mean of what arrived, in bits per second.
    pub(super) fn arrived_bps(&self, from: f64, to: f64) -> f64 {
        let all: Vec<_> = self.between(from, to).map(|sample| sample.arrived_bps).collect();
        all.iter().sum::<f64>() / all.len() as f64
    }

    pub(super) fn least_bps(&self, from: f64, to: f64) -> f64 {
        self.between(from, to).map(|sample| sample.estimate_bps).fold(f64::MAX, f64::min)
    }

    pub(super) fn most_bps(&self, from: f64, to: f64) -> f64 {
        self.between(from, to).map(|sample| sample.estimate_bps).fold(0.0, f64::max)
    }

    /// The time in milliseconds that 95 % of the packets stood in the queue at most.
    pub(super) fn queue_p95_ms(&self, from: f64, to: f64) -> f64 {
        let within = |at: u64| (from * 1e6..=to * 1e6).contains(&(at as f64));
        let queued = self.queued.iter().filter(|(at, _)| within(*at)).map(|(_, stood)| *stood);
        let mut all: Vec<_> = queued.collect();
        all.sort_unstable();
        all.get(all.len() * 95 / 100).map_or(0.0, |stood| *stood as f64 / 1e3)
    }

    /// Seconds after `from` until the estimate is as asked for.
    pub(super) fn until(&self, from: f64, asked: impl Fn(f64) -> bool) -> Option<f64> {
        let found = self
            .samples
            .iter()
            .find(|sample| sample.at_us as f64 > from * 1e6 && asked(sample.estimate_bps));
        found.map(|sample| sample.at_us as f64 / 1e6 - from)
    }

    /// Prints the course: time, link, estimate, arrivals in kbit/s, queue in ms.
    pub(super) fn print(&self, name: &str, every: usize) {
        println!("{name}: told {} wakes {} padding {}", self.told, self.wakes, self.padding_bytes);
        for sample in self.samples.iter().step_by(every) {
            let Sample { at_us, estimate_bps, arrived_bps, queue_us } = sample;
            println!(
                "  {:6.1} s  estimate {:6.0}  arrived {:6.0}  queue {:4}",
                *at_us as f64 / 1e6,
                estimate_bps / 1e3,
                arrived_bps / 1e3,
                queue_us / 1000
            );
        }
    }
}
