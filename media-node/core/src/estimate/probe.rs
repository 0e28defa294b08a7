//! Sends and measures probes: clusters of packets at a rate above the estimate.
//!
//! A cluster is at least five packets in at least 15 ms (libwebrtc, `BitrateProber`): media that
//! waits goes first, padding fills up. How fast its packets departed and arrived tells what the
//! link carries. Decides neither when to probe nor what follows. Invariant: one cluster is sent at
//! a time; a cluster ends by itself; at most [`CLUSTERS`] are remembered.

use super::history::Departure;

/// Clusters whose reports are waited for: two at the start and one in the making.
const CLUSTERS: usize = 4;
/// Packets and time of a cluster (libwebrtc, `kMinProbePacketsSent`, `kMinProbeDuration`).
const PACKETS: u32 = 5;
const LASTS_US: f64 = 15_000.0;
/// But so many times the jitter, which would hide its slope, up to a bound.
const JITTERS: f64 = 6.0;
const LASTS_MAX_US: f64 = 60_000.0;
/// What lasts longer may not take the link longer than this, if it carries the estimate only.
const QUEUED_US: f64 = 80_000.0;
/// But not less than this, so that the receiver's clock of 250 µs tells packets apart.
const BYTES_LEAST: f64 = 1_500.0;
/// Packets leave at most this often (libwebrtc, `min_probe_delta`).
const STEP_US: u64 = 2_000;
/// A cluster that has not got its packets by then ends with those that it has.
const LIMIT_US: u64 = 200_000;
/// What a cluster sends is queued for so long after it and says nothing of the media's own queue.
const SHADOW_US: u64 = 150_000;
/// The same when the link could not carry it: the media leaves little room to drain it.
const SHADOW_FULL_US: u64 = 600_000;
/// Reports that have not come by then do not come (libwebrtc, `kMaxClusterHistory`).
const WAIT_US: u64 = 1_000_000;
/// Share of the packets and bytes that must have arrived (libwebrtc, `kMinReceivedProbesRatio`).
const ARRIVED: f64 = 0.8;
/// Arrival so much faster than departure is a measurement that failed (libwebrtc,
/// `kMaxValidRatio`).
const FASTER: f64 = 2.0;
/// Arrival at less than this share of the rate of departure: the link was full (libwebrtc,
/// `kMinRatioForUnsaturatedLink`).
const SLOWER: f64 = 0.9;
/// Then this much of it may be used (libwebrtc, `kTargetUtilizationFraction`).
const USABLE: f64 = 0.95;

/// What came of a cluster.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Outcome {
    /// So much arrived when so much was tried; `full`: although more was sent.
    Measured { bps: f64, tried_bps: f64, full: bool },
    /// Too little was reported to have arrived.
    Unknown,
}

/// The straight line of times over bytes that lies nearest. Jitter moves its ends, but on average
/// not its slope.
#[derive(Debug, Clone, Copy, Default)]
struct Line {
    count: f64,
    first_us: i64,
    bytes: f64,
    time: f64,
    bytes_bytes: f64,
    bytes_time: f64,
}

impl Line {
    fn add(&mut self, at_us: i64, bytes: u32) {
        if self.count == 0.0 {
            self.first_us = at_us;
        }
        let (x, y) = (f64::from(bytes), at_us.saturating_sub(self.first_us) as f64);
        self.count += 1.0;
        self.bytes += x;
        self.time += y;
        self.bytes_bytes += x * x;
        self.bytes_time += x * y;
    }

    /// Bits per second; without bound when all came at once, or backwards.
    fn rate_bps(&self) -> f64 {
        let over = self.count * self.bytes_bytes - self.bytes * self.bytes;
        let under = self.count * self.bytes_time - self.bytes * self.time;
        if under > 0.0 { over / under * 8e6 } else { f64::INFINITY }
    }
}

/// One probe.
#[derive(Debug, Clone, Copy, Default)]
struct Cluster {
    /// 0: none.
    id: u8,
    tried_bps: f64,
    lasts_us: f64,
    began_us: u64,
    ended_us: u64,
    packets: u32,
    bytes: u32,
    last_sequence: u16,
    arrived: u32,
    arrived_bytes: u32,
    /// Of those that arrived.
    sent: Line,
    arrivals: Line,
}

impl Cluster {
    fn goal_bytes(&self) -> f64 {
        (self.tried_bps * self.lasts_us / 8e6).max(BYTES_LEAST)
    }

    fn complete(&self) -> bool {
        self.packets >= PACKETS && f64::from(self.bytes) >= self.goal_bytes()
    }

    fn outcome(&self) -> Outcome {
        let enough = |arrived: u32, of: u32| f64::from(arrived) >= f64::from(of) * ARRIVED;
        let known = self.arrived + 1 >= PACKETS
            && enough(self.arrived, self.packets)
            && enough(self.arrived_bytes, self.bytes);
        // What left at once was as fast as it could be.
        let (arrived, sent) = (self.arrivals.rate_bps(), self.sent.rate_bps());
        if !known || arrived.is_infinite() {
            return Outcome::Unknown;
        }
        if arrived > sent * FASTER {
            return Outcome::Unknown;
        }
        let (tried_bps, full) = (self.tried_bps, arrived < sent * SLOWER);
        let bps = if full { arrived * USABLE } else { arrived.min(sent) };
        Outcome::Measured { bps: bps.min(tried_bps), tried_bps, full }
    }
}

/// See the module's description.
#[derive(Debug, Default)]
pub(super) struct Probes {
    /// By identifier; empty before the first.
    clusters: Vec<Cluster>,
    newest: u8,
    /// The newest is being sent.
    sending: bool,
    /// When more of it may be asked for.
    next_us: u64,
    /// When clusters were last looked after.
    looked_us: u64,
    /// Departures in this time are disturbed by probes.
    shadow_us: (u64, u64),
}

impl Probes {
    /// Begins a cluster at this rate. The more `jitter`, the longer it lasts, as far as a link of
    /// the rate `estimate_bps` can bear it.
    pub(super) fn begin(&mut self, now_us: u64, bps: f64, jitter_us: f64, estimate_bps: f64) {
        let bearable_us = (QUEUED_US * estimate_bps / bps).clamp(LASTS_US, LASTS_MAX_US);
        self.clusters.resize(CLUSTERS, Cluster::default());
        self.newest = self.newest.checked_add(1).unwrap_or(1);
        let cluster = Cluster {
            id: self.newest,
            tried_bps: bps,
            lasts_us: (jitter_us * JITTERS).clamp(LASTS_US, bearable_us),
            began_us: now_us,
            ended_us: now_us,
            ..Cluster::default()
        };
        if let Some(place) = self.clusters.get_mut(usize::from(self.newest) % CLUSTERS) {
            *place = cluster;
        }
        (self.sending, self.next_us) = (true, now_us);
        let (from_us, until_us) = self.shadow_us;
        let from_us = if now_us > until_us { now_us } else { from_us };
        self.shadow_us = (from_us, now_us + SHADOW_US);
    }

    fn of(&mut self, id: u8) -> Option<&mut Cluster> {
        self.clusters.get_mut(usize::from(id) % CLUSTERS).filter(|own| own.id == id && id > 0)
    }

    /// The rate that is being tried; 0 when none is.
    pub(super) fn trying_bps(&self) -> f64 {
        let newest = self.clusters.get(usize::from(self.newest) % CLUSTERS);
        newest.filter(|_| self.sending).map_or(0.0, |cluster| cluster.tried_bps)
    }

    /// Whether a cluster is sent, or its reports are waited for.
    #[cfg(test)]
    pub(super) fn busy(&self) -> bool {
        self.clusters.iter().any(|cluster| cluster.id > 0)
    }

    /// What left then shared the queue with a probe.
    pub(super) fn disturbed(&self, sent_us: u64) -> bool {
        (self.shadow_us.0..self.shadow_us.1).contains(&sent_us)
    }

    /// Bytes that should leave now beside the media.
    pub(super) fn padding_due(&mut self, now_us: u64) -> Option<usize> {
        if !self.sending || now_us < self.next_us {
            return None;
        }
        self.next_us = now_us + STEP_US;
        let id = self.newest;
        let cluster = self.of(id)?;
        let step_bytes = cluster.goal_bytes() / f64::from(PACKETS);
        let since_us = now_us.saturating_sub(cluster.began_us).min(LIMIT_US) as f64;
        let due = cluster.tried_bps * since_us / 8e6 + step_bytes - f64::from(cluster.bytes);
        let rest = (cluster.goal_bytes() - f64::from(cluster.bytes)).max(step_bytes);
        let ahead_us = (step_bytes - due).max(0.0) * 8e6 / cluster.tried_bps.max(1.0);
        if due < step_bytes {
            self.next_us = now_us + (ahead_us as u64).max(1);
            return None;
        }
        Some(due.min(rest).ceil() as usize)
    }

    /// A packet left; the cluster that it is part of, 0 for none.
    pub(super) fn sent(&mut self, now_us: u64, sequence: u16, bytes: u16) -> u8 {
        if !self.sending {
            return 0;
        }
        let id = self.newest;
        let Some(cluster) = self.of(id) else {
            return 0;
        };
        cluster.packets += 1;
        cluster.bytes = cluster.bytes.saturating_add(u32::from(bytes));
        (cluster.last_sequence, cluster.ended_us) = (sequence, now_us);
        self.sending = !cluster.complete();
        self.shadow_us.1 = now_us + SHADOW_US;
        id
    }

    /// A packet of a cluster arrived.
    pub(super) fn arrived(&mut self, departure: Departure, arrival_us: i64) {
        let Some(cluster) = self.of(departure.cluster) else {
            return;
        };
        let before = cluster.arrived_bytes;
        cluster.arrived += 1;
        cluster.arrived_bytes = before.saturating_add(u32::from(departure.bytes));
        // A packet has left when those before it have, and has arrived when itself has.
        cluster.sent.add(i64::try_from(departure.sent_us).unwrap_or(i64::MAX), before);
        cluster.arrivals.add(arrival_us, cluster.arrived_bytes);
    }

    /// Bytes of memory beside the structure itself.
    #[cfg(test)]
    pub(super) fn heap_bytes(&self) -> usize {
        self.clusters.capacity() * size_of::<Cluster>()
    }

    /// Ends what took too long, and tells what came of one cluster: its last packet was passed by
    /// the reports, up to `reported`, or they did not come. Asked until it tells nothing.
    pub(super) fn concluded(&mut self, now_us: u64, reported: Option<u16>) -> Option<Outcome> {
        let (sending, newest) = (self.sending, self.newest);
        self.looked_us = now_us;
        for cluster in self.clusters.iter_mut().filter(|cluster| cluster.id > 0) {
            let since_us = now_us.saturating_sub(cluster.began_us);
            if sending && cluster.id == newest {
                if since_us < LIMIT_US {
                    continue;
                }
                self.sending = false;
                if cluster.packets > 0 {
                    continue;
                }
            }
            let passed = reported.is_some_and(|reported| {
                reported.wrapping_sub(cluster.last_sequence) <= u16::MAX / 2
            });
            if passed || cluster.packets == 0 || since_us >= WAIT_US {
                let cluster = std::mem::take(cluster);
                let outcome = cluster.outcome();
                if !matches!(outcome, Outcome::Measured { full: false, .. }) {
                    let until_us = cluster.ended_us + SHADOW_FULL_US;
                    self.shadow_us.1 = self.shadow_us.1.max(until_us);
                }
                return Some(outcome);
            }
        }
        None
    }

    /// When to ask again for padding, or to give a cluster up.
    pub(super) fn wake_us(&self) -> Option<u64> {
        let waits = self.clusters.iter().filter(|cluster| cluster.id > 0);
        let sent = waits.map(|cluster| cluster.began_us + WAIT_US).min();
        // Who looks after them and does not ask for padding is not called again at once.
        let next_us =
            if self.next_us > self.looked_us { self.next_us } else { self.looked_us + STEP_US };
        if self.sending { Some(next_us) } else { sent }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sends a cluster in packets of up to 1,200 bytes; sequence, time and bytes of each.
    fn send(probes: &mut Probes, from_us: u64, bps: f64) -> Vec<(u16, Departure)> {
        send_long(probes, from_us, bps, 0.0)
    }

    fn send_long(
        probes: &mut Probes,
        from_us: u64,
        bps: f64,
        jitter_us: f64,
    ) -> Vec<(u16, Departure)> {
        probes.begin(from_us, bps, jitter_us, bps);
        let (mut now_us, mut all) = (from_us, Vec::new());
        while probes.trying_bps() > 0.0 {
            let mut due = probes.padding_due(now_us).unwrap_or(0);
            while due > 0 && probes.trying_bps() > 0.0 {
                let (sequence, bytes) = (all.len() as u16, due.min(1200) as u16);
                let cluster = probes.sent(now_us, sequence, bytes);
                all.push((sequence, Departure { sent_us: now_us, bytes, cluster }));
                due -= usize::from(bytes);
            }
            now_us = probes.wake_us().unwrap().max(now_us);
        }
        all
    }

    /// Lets them through a link of this rate; what came of it.
    fn through(probes: &mut Probes, sent: &[(u16, Departure)], link_bps: f64) -> Option<Outcome> {
        through_late(probes, sent, link_bps, &vec![0; sent.len()])
    }

    fn through_late(
        probes: &mut Probes,
        sent: &[(u16, Departure)],
        link_bps: f64,
        late_us: &[i64],
    ) -> Option<Outcome> {
        let mut free_us = 0.0f64;
        for ((_, departure), late_us) in sent.iter().zip(late_us) {
            let takes = f64::from(departure.bytes) * 8e6 / link_bps;
            free_us = free_us.max(departure.sent_us as f64) + takes;
            probes.arrived(*departure, free_us as i64 - 5_000_000 + late_us);
        }
        let (last, departure) = sent.last().copied()?;
        assert_eq!(probes.concluded(departure.sent_us, Some(last.wrapping_sub(1))), None);
        probes.concluded(departure.sent_us, Some(last))
    }

    fn measured(outcome: Option<Outcome>) -> f64 {
        match outcome {
            Some(Outcome::Measured { bps, .. }) => bps,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_cluster_has_its_packets_and_its_time_and_measures_the_rate() {
        for bps in [200e3, 900e3, 5e6, 20e6] {
            let mut probes = Probes::default();
            let sent = send(&mut probes, 1_000_000, bps);
            let lasted_us = sent.last().unwrap().1.sent_us - 1_000_000;
            assert!(sent.len() >= 5, "{sent:?}");
            assert!(lasted_us as f64 >= LASTS_US * 0.7, "{lasted_us}");
            let found = measured(through(&mut probes, &sent, 1e9));
            assert!((0.85..1.001).contains(&(found / bps)), "{bps}: {found}");
        }
    }

    #[test]
    fn a_full_link_shows_its_own_rate() {
        let mut probes = Probes::default();
        let sent = send(&mut probes, 1_000_000, 5e6);
        let found = measured(through(&mut probes, &sent, 2e6));
        assert!((1.8e6..2.0e6).contains(&found), "{found}");
        assert!(!probes.busy());
    }

    #[test]
    fn jitter_hides_neither_a_wide_nor_a_full_link() {
        let mut random = fastrand::Rng::with_seed(5);
        for (link_bps, least, most) in [(1e9, 3.6e6, 5e6), (2e6, 1.4e6, 2.6e6)] {
            let (mut all, runs) = (0.0, 200);
            for run in 0..runs {
                let mut probes = Probes::default();
                let sent = send_long(&mut probes, 1_000_000 * run, 5e6, 7_000.0);
                let late_us = sent.iter().map(|_| random.i64(0..20_000)).collect::<Vec<_>>();
                let outcome = through_late(&mut probes, &sent, link_bps, &late_us);
                if let Some(Outcome::Measured { bps, .. }) = outcome {
                    all += bps / f64::from(runs as u32);
                }
            }
            assert!((least..most).contains(&all), "{link_bps}: {all}");
        }
    }

    #[test]
    fn what_is_lost_or_never_reported_measures_nothing() {
        let mut probes = Probes::default();
        let sent = send(&mut probes, 1_000_000, 5e6);
        for (_, departure) in sent.iter().skip(sent.len() / 3) {
            probes.arrived(*departure, departure.sent_us as i64);
        }
        let last = sent.last().unwrap().0;
        assert_eq!(probes.concluded(1_100_000, Some(last)), Some(Outcome::Unknown));
        send(&mut probes, 2_000_000, 5e6);
        assert_eq!(probes.concluded(2_500_000, None), None);
        assert_eq!(probes.concluded(3_000_000, None), Some(Outcome::Unknown));
        assert_eq!(probes.wake_us(), None);
    }

    #[test]
    fn a_cluster_that_gets_no_packets_ends_and_asks_only_now_and_then() {
        let mut probes = Probes::default();
        probes.begin(0, 5e6, 0.0, 1e6);
        let (mut now_us, mut asked) = (0, 0);
        while probes.concluded(now_us, None).is_none() {
            asked += u32::from(probes.padding_due(now_us).is_some());
            let wake_us = probes.wake_us().unwrap();
            assert!(wake_us > now_us);
            now_us = wake_us;
        }
        assert!((10..=101).contains(&asked), "{asked}");
        assert!(!probes.busy());
    }
}
