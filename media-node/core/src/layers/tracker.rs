//! Which layers of a published track are alive, and what each costs.
//!
//! Counts packets and bytes; decides liveness by time since the last packet. Invariant: fixed
//! size, and the same packets at the same times give the same answer.

use std::time::{Duration, Instant};

use super::{Layer, SPATIAL_LAYERS, TEMPORAL_LAYERS, TEMPORAL_TOP};

/// A camera layer that was silent this long is dead: well above a frame at 5 frames a second and
/// a retransmission, well below what a viewer would sit through.
pub const SILENCE_MAX: Duration = Duration::from_millis(1500);
/// A camera layer that is silent while a lower one of the same picture goes on is dead sooner: its
/// encoder was switched off, which browsers do when their uplink narrows. Six frames at 15 frames a
/// second, so that a burst of loss is not taken for it.
pub const SILENCE_BESIDE_LOWER_MAX: Duration = Duration::from_millis(400);
/// The same for screen shares, whose encoders pause on a still picture.
pub const SILENCE_MAX_SCREEN: Duration = Duration::from_secs(8);
/// Bit rates are measured over spans of this length.
const SPAN: Duration = Duration::from_millis(500);
/// Weight of a new span in the smoothed bit rate: settles within about 2 s.
const SMOOTHING: f64 = 0.35;

/// A layer appeared or vanished.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LayerChange {
    Up(u8),
    Down(u8),
}

#[derive(Debug, Clone, Copy, Default)]
struct Spatial {
    last_packet: Option<Instant>,
    alive: bool,
    has_temporal: bool,
    bytes: [u64; TEMPORAL_LAYERS],
    bitrate_bps: [f64; TEMPORAL_LAYERS],
    measured: bool,
}

/// Bit rates in bits per second by spatial and temporal layer; each includes the temporal layers
/// below it. `None`: not alive, or no such temporal layer.
pub type Costs = [[Option<u64>; TEMPORAL_LAYERS]; SPATIAL_LAYERS];

/// The layers of one published track.
#[derive(Debug, Clone)]
pub struct LayerTracker {
    spatial: [Spatial; SPATIAL_LAYERS],
    silence_max: Duration,
    span_started: Option<Instant>,
}

impl LayerTracker {
    /// `screen`: the track is a screen share, which may be silent for longer.
    #[must_use]
    pub fn new(screen: bool) -> Self {
        Self {
            spatial: [Spatial::default(); SPATIAL_LAYERS],
            silence_max: if screen { SILENCE_MAX_SCREEN } else { SILENCE_MAX },
            span_started: None,
        }
    }

    /// A packet with media arrived. Returns `Up` when its layer was not alive.
    pub fn on_packet(
        &mut self,
        now: Instant,
        spatial: u8,
        temporal: Option<u8>,
        bytes: usize,
    ) -> Option<LayerChange> {
        self.span_started.get_or_insert(now);
        let layer = self.spatial.get_mut(usize::from(spatial))?;
        layer.last_packet = Some(now);
        layer.has_temporal |= temporal.is_some_and(|temporal| temporal > 0);
        let slot = usize::from(temporal.unwrap_or(0));
        if let Some(count) = layer.bytes.get_mut(slot) {
            *count += bytes as u64;
        }
        let appeared = !layer.alive;
        layer.alive = true;
        appeared.then_some(LayerChange::Up(spatial))
    }

    /// Call about every 100 ms. Closes a measuring span when one is over and returns what died.
    pub fn on_tick(&mut self, now: Instant) -> impl Iterator<Item = LayerChange> + use<> {
        if let Some(started) = self.span_started {
            let elapsed = now.saturating_duration_since(started);
            if elapsed >= SPAN {
                self.measure(elapsed);
                self.span_started = Some(now);
            }
        }
        let mut down = [false; SPATIAL_LAYERS];
        // The shortest silence of the layers below; screen shares' layers pause by themselves.
        let mut below = (self.silence_max == SILENCE_MAX).then_some(Duration::MAX);
        for (layer, down) in self.spatial.iter_mut().zip(&mut down) {
            let Some(last) = layer.last_packet.filter(|_| layer.alive) else {
                continue;
            };
            let silent = now.saturating_duration_since(last);
            let alone = below.is_some_and(|below| below < SILENCE_BESIDE_LOWER_MAX / 2);
            if silent >= self.silence_max || (alone && silent >= SILENCE_BESIDE_LOWER_MAX) {
                *layer = Spatial { has_temporal: layer.has_temporal, ..Spatial::default() };
                *down = true;
            }
            below = below.map(|below| below.min(silent));
        }
        (0_u8..).zip(down).filter(|(_, down)| *down).map(|(at, _)| LayerChange::Down(at))
    }

    /// The publisher muted or starts anew: nothing is alive.
    pub fn reset(&mut self) {
        self.spatial = [Spatial::default(); SPATIAL_LAYERS];
        self.span_started = None;
    }

    #[must_use]
    pub fn is_alive(&self, spatial: u8) -> bool {
        self.spatial.get(usize::from(spatial)).is_some_and(|layer| layer.alive)
    }

    /// The highest spatial layer alive.
    #[must_use]
    pub fn top(&self) -> Option<u8> {
        (0_u8..).zip(&self.spatial).filter(|(_, layer)| layer.alive).map(|(at, _)| at).last()
    }

    /// What each living layer costs. A layer without temporal layers has its cost at the top
    /// temporal layer only.
    #[must_use]
    pub fn costs(&self) -> Costs {
        let mut costs = Costs::default();
        for (row, layer) in costs.iter_mut().zip(&self.spatial) {
            if !layer.alive {
                continue;
            }
            let mut sum = 0.0;
            for (temporal, (cell, bitrate)) in (0_u8..).zip(row.iter_mut().zip(layer.bitrate_bps)) {
                sum += bitrate;
                if (layer.has_temporal && bitrate > 0.0) || temporal == TEMPORAL_TOP {
                    *cell = Some(sum as u64);
                }
            }
        }
        costs
    }

    /// The cost of one layer, in bits per second.
    #[must_use]
    pub fn bitrate_bps(&self, layer: Layer) -> Option<u64> {
        let row = self.costs().get(usize::from(layer.spatial)).copied()?;
        row.get(..=usize::from(layer.temporal))?.iter().rev().find_map(|cost| *cost)
    }

    fn measure(&mut self, elapsed: Duration) {
        let seconds = elapsed.as_secs_f64();
        for layer in &mut self.spatial {
            for (bytes, smoothed) in layer.bytes.iter_mut().zip(&mut layer.bitrate_bps) {
                let sample = *bytes as f64 * 8.0 / seconds;
                *smoothed += (sample - *smoothed) * if layer.measured { SMOOTHING } else { 1.0 };
                *bytes = 0;
            }
            layer.measured = layer.alive;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layer_that_falls_silent_beside_a_lower_one_is_dead_sooner() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let died = |screen| {
            let mut tracker = LayerTracker::new(screen);
            tracker.on_packet(start, 2, None, 100);
            (0..=15_u64).map(|n| at(n * 100)).find_map(|now| {
                tracker.on_packet(now, 0, None, 100);
                let down: Vec<_> = tracker.on_tick(now).collect();
                (!down.is_empty()).then(|| (now - start, down))
            })
        };
        assert_eq!(died(false), Some((Duration::from_millis(400), vec![LayerChange::Down(2)])));
        assert_eq!(died(true), None, "a screen share's layers pause by themselves");
        // When the lower one is silent too, the network is late and no layer is dead.
        let mut tracker = LayerTracker::new(false);
        tracker.on_packet(start, 0, None, 100);
        tracker.on_packet(start, 2, None, 100);
        assert_eq!(tracker.on_tick(at(1000)).count(), 0);
        // The lowest layer has none below: it lives its full time.
        tracker.on_packet(at(1000), 2, None, 100);
        assert_eq!(tracker.on_tick(at(1100)).count(), 0);
    }

    #[test]
    fn layers_live_by_their_packets_and_are_weighed() {
        let start = Instant::now();
        let mut tracker = LayerTracker::new(false);
        assert_eq!(tracker.on_packet(start, 1, Some(0), 0), Some(LayerChange::Up(1)));
        for n in 1..=100_u64 {
            let now = start + Duration::from_millis(10 * n);
            let temporal = Some((n % 2) as u8);
            assert_eq!(tracker.on_packet(now, 1, temporal, 1000), None);
            assert_eq!(tracker.on_tick(now).count(), 0);
        }
        let whole = tracker.bitrate_bps(Layer::new(1, 3)).unwrap();
        let half = tracker.bitrate_bps(Layer::new(1, 0)).unwrap();
        assert!((700_000..900_000).contains(&whole), "{whole}");
        assert!((350_000..450_000).contains(&half), "{half}");
        assert_eq!(tracker.top(), Some(1));
        let late = start + Duration::from_secs(3);
        assert_eq!(tracker.on_tick(late).collect::<Vec<_>>(), [LayerChange::Down(1)]);
        assert_eq!((tracker.top(), tracker.bitrate_bps(Layer::new(1, 3))), (None, None));
        assert_eq!(tracker.on_packet(late, 1, None, 10), Some(LayerChange::Up(1)));
    }
}
