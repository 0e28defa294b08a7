//! Shares one subscriber's downlink among the video tracks it watches.
//!
//! Decides target layers and pauses from a budget; does not estimate the budget and does not
//! know packets. Audio is paid first. Invariant: deterministic; while the budget is kept no track
//! gets more than it wished for, everyone gets the lowest layer before anyone gets a higher one,
//! and a track rises only with head room and some time after it fell. The one exception to the
//! budget is a trial of a silent pause, see `trial`.

mod trial;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use self::trial::Trials;
use crate::layers::tracker::Costs;
use crate::layers::{Layer, SPATIAL_LAYERS, TEMPORAL_LAYERS};

/// A higher layer than the current one must fit with this much to spare, in percent, so that the
/// choice does not swing with the estimate.
const HEADROOM_PERCENT: u64 = 15;
/// After a track had to fall it does not rise for this long; congestion rarely ends sooner.
const RISE_HOLD: Duration = Duration::from_secs(4);
/// What a layer that has not been measured is taken to cost, lowest first, in bits per second:
/// LiveKit's presets h180, h360, h720 (`client-sdk-js`, `VideoPresets`).
const COST_UNKNOWN_BPS: [u64; SPATIAL_LAYERS] = [160_000, 450_000, 1_700_000];
/// The estimate is probed up to this much above what is wanted, in percent.
const PROBE_PERCENT: u64 = 110;

/// One video track that the subscriber watches.
#[derive(Debug, Clone)]
pub struct Demand {
    /// The downlink track; unique per subscriber.
    pub track: u64,
    /// Highest layer wished for; `None` when the subscriber shows nothing of it.
    pub layer_max: Option<Layer>,
    /// Higher goes first.
    pub priority: u32,
    /// Screen shares go before cameras of the same priority.
    pub screen: bool,
    /// Size shown, in pixels, as the next rank.
    pub pixels: u64,
    /// From [`crate::layers::tracker::LayerTracker::costs`].
    pub costs: Costs,
}

/// What one track gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grant {
    pub track: u64,
    /// Layer to go for; `None` sends nothing.
    pub target: Option<Layer>,
    /// Nothing is sent for want of bandwidth (`StreamStateUpdate` PAUSED), although it is wished
    /// for and alive.
    pub paused: bool,
}

/// The outcome for one subscriber.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Allocation {
    /// One per demand, in the order of the demands.
    pub grants: Vec<Grant>,
    /// What is being spent, audio included, in bits per second.
    pub spent_bps: u64,
    /// What all wishes together would cost; probing beyond it is a waste.
    pub desired_bps: u64,
    /// Some wish is not met: the estimator should probe up to this, in bits per second.
    pub probe_bps: Option<u64>,
}

#[derive(Debug, Clone, Copy)]
struct Memory {
    target: Option<Layer>,
    fell: Option<Instant>,
}

/// One affordable quality of a track.
#[derive(Debug, Clone, Copy)]
struct Rung {
    layer: Layer,
    cost_bps: u64,
}

struct Ladder {
    index: usize,
    rungs: Vec<Rung>,
    /// Rungs taken; 0 is nothing.
    taken: usize,
    done: bool,
}

/// Remembers what each track had, for hysteresis.
#[derive(Debug, Clone)]
pub struct Allocator {
    pause_allowed: bool,
    memory: BTreeMap<u64, Memory>,
    trials: Trials,
}

impl Allocator {
    /// `pause_allowed`: whether tracks may stop for want of bandwidth; LiveKit's `allow_pause`.
    /// Without it every track keeps its lowest layer.
    #[must_use]
    pub fn new(pause_allowed: bool) -> Self {
        Self { pause_allowed, memory: BTreeMap::new(), trials: Trials::new() }
    }

    /// Shares `budget_bps` (`None`: no estimate yet, so everything wished for) after `audio_bps`.
    pub fn allocate(
        &mut self,
        now: Instant,
        budget_bps: Option<u64>,
        audio_bps: u64,
        demands: &[Demand],
    ) -> Allocation {
        let mut ladders = Self::ladders(demands);
        let video_bps = budget_bps.map_or(u64::MAX, |budget| budget.saturating_sub(audio_bps));
        let spent = self.climb(now, video_bps, demands, &mut ladders)
            + self.try_lowest(now, video_bps, &mut ladders);
        let desired: u64 =
            ladders.iter().filter_map(|ladder| ladder.rungs.last()).map(|top| top.cost_bps).sum();
        let desired_bps = desired + audio_bps;
        let short = ladders.iter().any(|ladder| ladder.taken < ladder.rungs.len());
        ladders.sort_by_key(|ladder| ladder.index);
        let grants = demands.iter().zip(&ladders).map(|(demand, ladder)| {
            let target = ladder.taken.checked_sub(1).and_then(|at| ladder.rungs.get(at));
            Grant {
                track: demand.track,
                target: target.map(|rung| rung.layer),
                paused: target.is_none() && !ladder.rungs.is_empty(),
            }
        });
        let grants: Vec<_> = grants.collect();
        // A track that got all that it wishes and that lives did not fall for want of bandwidth.
        let starved = ladders.iter().map(|ladder| ladder.taken < ladder.rungs.len());
        self.remember(now, grants.iter().zip(starved));
        Allocation {
            grants,
            spent_bps: spent + audio_bps,
            desired_bps,
            probe_bps: short.then_some(desired_bps * PROBE_PERCENT / 100),
        }
    }

    /// All ladders, the most important first.
    fn ladders(demands: &[Demand]) -> Vec<Ladder> {
        let mut ladders: Vec<_> = demands
            .iter()
            .enumerate()
            .map(|(index, demand)| Ladder { index, rungs: rungs(demand), taken: 0, done: false })
            .collect();
        ladders.sort_by_key(|ladder| {
            demands.get(ladder.index).map(|demand| {
                let rank = (demand.priority, demand.screen, demand.pixels);
                (std::cmp::Reverse(rank), demand.track)
            })
        });
        ladders
    }

    /// Everyone's first rung, then rung by rung in turn. Returns what is spent.
    fn climb(
        &self,
        now: Instant,
        video_bps: u64,
        demands: &[Demand],
        ladders: &mut [Ladder],
    ) -> u64 {
        let mut spent = 0_u64;
        loop {
            let mut climbed = false;
            for ladder in ladders.iter_mut().filter(|ladder| !ladder.done) {
                let Some(next) = ladder.rungs.get(ladder.taken).copied() else {
                    ladder.done = true;
                    continue;
                };
                let before = ladder.taken.checked_sub(1).and_then(|at| ladder.rungs.get(at));
                let total =
                    (spent + next.cost_bps).saturating_sub(before.map_or(0, |rung| rung.cost_bps));
                let track = demands.get(ladder.index).map(|demand| demand.track);
                let kept = ladder.taken == 0 && !self.pause_allowed;
                if kept || self.fits(now, track, next, total, video_bps) {
                    spent = total;
                    ladder.taken += 1;
                    climbed = true;
                } else {
                    ladder.done = true;
                }
            }
            if !climbed {
                return spent;
            }
        }
    }

    /// Of a downlink that is paused as a whole, the first track's lowest layer at times. Returns
    /// what that costs.
    fn try_lowest(&mut self, now: Instant, video_bps: u64, ladders: &mut [Ladder]) -> u64 {
        let served = ladders.iter().any(|ladder| ladder.taken > 0);
        let paused = ladders.iter_mut().find(|ladder| !ladder.rungs.is_empty());
        let Some(first) = paused.filter(|_| !served) else {
            self.trials.served();
            return 0;
        };
        if !self.trials.paused(now, video_bps) {
            return 0;
        }
        first.taken = 1;
        first.rungs.first().map_or(0, |lowest| lowest.cost_bps)
    }

    /// What a track has now must fit; what is above needs head room and the hold to be over.
    fn fits(
        &self,
        now: Instant,
        track: Option<u64>,
        next: Rung,
        total: u64,
        video_bps: u64,
    ) -> bool {
        let memory = track.and_then(|track| self.memory.get(&track));
        let rises = memory.is_some_and(|memory| Some(next.layer) > memory.target);
        if !rises || video_bps == u64::MAX {
            return total <= video_bps;
        }
        let held = memory
            .and_then(|memory| memory.fell)
            .is_some_and(|fell| now.saturating_duration_since(fell) < RISE_HOLD);
        !held && total.saturating_mul(100 + HEADROOM_PERCENT) / 100 <= video_bps
    }

    fn remember<'a>(&mut self, now: Instant, grants: impl Iterator<Item = (&'a Grant, bool)>) {
        let mut memory = BTreeMap::new();
        for (grant, starved) in grants {
            let before = self.memory.get(&grant.track);
            let fell = match before {
                Some(before) if starved && grant.target < before.target => Some(now),
                Some(before) => before.fell,
                None => None,
            };
            memory.insert(grant.track, Memory { target: grant.target, fell });
        }
        self.memory = memory;
    }
}

/// The qualities of a track up to its wish, cheapest first; each costs more than the one before.
fn rungs(demand: &Demand) -> Vec<Rung> {
    let Some(layer_max) = demand.layer_max else { return Vec::new() };
    let mut rungs: Vec<Rung> = Vec::with_capacity(SPATIAL_LAYERS * TEMPORAL_LAYERS);
    let living = (0_u8..).zip(&demand.costs).filter(|(_, row)| row.iter().any(Option::is_some));
    // When only layers above the wish live, the lowest of them is better than nothing.
    let lowest = living.clone().next().map_or(0, |(spatial, _)| spatial);
    for (spatial, row) in living.filter(|(at, _)| *at <= layer_max.spatial.max(lowest)) {
        let unknown = COST_UNKNOWN_BPS.get(usize::from(spatial)).copied().unwrap_or_default();
        let known = (0_u8..).zip(row).filter_map(|(temporal, cost)| Some((temporal, (*cost)?)));
        let lowest_temporal = known.clone().next().map_or(0, |(temporal, _)| temporal);
        let top = layer_max.temporal.max(lowest_temporal);
        let offered: Vec<_> = known.filter(|(temporal, _)| *temporal <= top).collect();
        // People notice stutter before blur: above the lowest layer a camera comes at its full
        // rate or not at all. A shared screen is read, so there sharpness goes first.
        let smooth = spatial > lowest && !demand.screen;
        let skipped = if smooth { offered.len().saturating_sub(1) } else { 0 };
        for (temporal, cost) in offered.into_iter().skip(skipped) {
            let cost_bps = if cost == 0 { unknown } else { cost };
            if rungs.last().is_none_or(|last| cost_bps > last.cost_bps) {
                rungs.push(Rung { layer: Layer::new(spatial, temporal), cost_bps });
            } else if let Some(last) = rungs.last_mut() {
                // Higher and not dearer: it takes the place of the lower one.
                last.layer = Layer::new(spatial, temporal);
            }
        }
    }
    rungs
}

#[cfg(test)]
mod tests;
