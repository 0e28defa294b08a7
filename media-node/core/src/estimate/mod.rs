//! Congestion control of one downlink: how much its link carries, and when packets may leave.
//!
//! Transport-wide: the receiver reports what arrived and when ([`feedback`]); from that the queue
//! ([`delay`]), the loss ([`loss`]) and what arrives ([`acknowledged`]) are measured and the
//! estimate follows ([`rate`]). Because a forwarder nearly always sends less than the link carries,
//! what is wished for beyond the estimate is probed ([`plan`], [`probe`]). Knows no streams, keys,
//! rooms or sockets; it is told of numbers, sizes and times. Invariant: the same calls give the
//! same answers; time that stands still or goes back harms nothing; memory is bounded, and not
//! taken before something is sent; who sends and wishes for nothing needs no timer.

mod acknowledged;
mod delay;
mod feedback;
mod history;
mod loss;
mod pacer;
mod plan;
mod probe;
mod rate;
#[cfg(test)]
mod tests;

use std::time::{Duration, Instant};

use self::acknowledged::Acknowledged;
use self::delay::{Delay, Usage};
use self::feedback::{Feedback, Reference};
use self::history::{Departure, Fate, History};
use self::loss::Loss;
use self::pacer::Pacer;
use self::plan::{Link, Plan};
use self::probe::{Outcome, Probes};
use self::rate::{MAX_BPS, MIN_BPS, Rate, Seen};

pub(crate) use self::feedback::FeedbackError;

/// Numbers between two reports that may count as lost; more is a receiver that began anew.
const PASSED_OVER_MAX: u16 = 512;
/// The round trip before anything is known of it.
const RTT_US: f64 = 100_000.0;
/// Weight of the newest round trip.
const RTT_WEIGHT: f64 = 0.2;
/// Longer round trips are told by broken clocks.
const RTT_MAX_US: f64 = 3_000_000.0;
/// Media that left and was not reported for so long is lost on the way, or its reports are.
const SILENCE_US: u64 = 1_500_000;
/// Fewer packets may go unreported for other reasons.
const SILENCE_PACKETS: u32 = 8;
/// What remains of the estimate after each such time.
const SILENCE_FALL: f64 = 0.8;
/// Reports so old say nothing of the queue.
const STALE_US: u64 = 1_000_000;
/// A longer queue than this is not a probe's alone.
const PROBED_US: i64 = 150_000;
/// No probe while such a queue stands.
const QUEUE_MAX_US: f64 = 30_000.0;
/// The estimate is told again when it fell below, or rose above, so much of what was told.
const TOLD_FALL: f64 = 0.97;
const TOLD_RISE: f64 = 1.04;

/// Congestion control of one downlink. See the module's description.
///
/// How it is driven: [`Self::pass`] when [`Self::wake_at`] has come, and after
/// [`Self::set_desired`] and [`Self::feedback`]; then, while packets wait, [`Self::may_send`]
/// before each; then [`Self::padding_due`]; [`Self::sent`] for each that left; then
/// [`Self::wake_at`] anew.
#[derive(Debug)]
pub(crate) struct Congestion {
    origin: Instant,
    /// Since the origin; never goes back.
    now_us: u64,
    history: History,
    reference: Reference,
    delay: Delay,
    acknowledged: Acknowledged,
    rate: Rate,
    loss: Loss,
    pacer: Pacer,
    probes: Probes,
    plan: Plan,
    rtt_us: Option<f64>,
    /// Receiver reports tell the round trip better than feedback, which waits.
    rtt_told: bool,
    fed_us: Option<u64>,
    /// The newest report's own number and the last that it told of.
    reported: Option<(u8, u16)>,
    /// When something new was known of the queue.
    heard_us: u64,
    /// When media was last known to be lost.
    lost_us: Option<u64>,
    /// Since when media that left is not reported, and how much.
    silent: Option<(u64, u32)>,
    told_bps: Option<f64>,
    untold: Option<u64>,
}

impl Congestion {
    /// `start_bps`: first guess of the downlink's capacity.
    pub(crate) fn new(now: Instant, start_bps: u64) -> Self {
        let start_bps = (start_bps as f64).clamp(MIN_BPS, MAX_BPS);
        Self {
            origin: now,
            now_us: 0,
            history: History::default(),
            reference: Reference::default(),
            delay: Delay::default(),
            acknowledged: Acknowledged::default(),
            rate: Rate::new(0, start_bps),
            loss: Loss::default(),
            pacer: Pacer::new(0, start_bps),
            probes: Probes::default(),
            plan: Plan::new(),
            rtt_us: None,
            rtt_told: false,
            fed_us: None,
            reported: None,
            heard_us: 0,
            lost_us: None,
            silent: None,
            told_bps: None,
            untold: None,
        }
    }

    /// What all wishes together would cost, in bits per second; 0: nothing is wished for beyond
    /// what is sent. Probing goes up to it, never beyond.
    pub(crate) fn set_desired(&mut self, now: Instant, bps: u64) {
        self.clock(now);
        self.plan.desire(bps as f64);
    }

    /// Whether one more packet of video or of a retransmission may leave now; when not,
    /// [`Self::wake_at`] says when. Audio, RTCP and data never ask.
    pub(crate) fn may_send(&mut self, now: Instant) -> bool {
        let now_us = self.clock(now);
        self.pacer.may_send(now_us)
    }

    /// Bytes of padding that should leave now for a probe: retransmissions of recent packets, or
    /// packets of padding only, together about so many bytes and in packets no larger than that;
    /// nothing when no probe is due. Asked when no packet waits, or in turn with those that do. Who
    /// has nothing to pad with may leave it: the probe then ends by itself.
    pub(crate) fn padding_due(&mut self, now: Instant) -> Option<usize> {
        let now_us = self.clock(now);
        self.probes.padding_due(now_us)
    }

    /// A packet with this transport-wide number left, of so many bytes of UDP payload. `paced`: it
    /// is video, a retransmission or padding; else audio.
    pub(crate) fn sent(&mut self, now: Instant, sequence: u16, bytes: usize, paced: bool) {
        let now_us = self.clock(now);
        let bytes = u16::try_from(bytes).unwrap_or(u16::MAX);
        // Voices within a probe are part of what the link carried.
        let cluster = self.probes.sent(now_us, sequence, bytes);
        if cluster > 0 && self.probes.trying_bps() == 0.0 {
            self.repace(now_us);
        }
        if paced {
            self.plan.begin();
            self.pacer.sent(now_us, bytes);
            if cluster == 0 {
                let (_, packets) = self.silent.get_or_insert((now_us, 0));
                *packets = packets.saturating_add(1);
            }
        }
        self.history.sent(sequence, Departure { sent_us: now_us, bytes, cluster });
    }

    /// Reads the body of a transport-wide feedback: RTPFB with FMT 15, everything after the two
    /// sources.
    ///
    /// # Errors
    /// When it is not whole or tells of too much; then nothing of it was used.
    pub(crate) fn feedback(&mut self, now: Instant, fci: &[u8]) -> Result<(), FeedbackError> {
        let now_us = self.clock(now);
        let report = Feedback::parse(fci)?;
        let reference_us = self.reference.unwrap_us(report.reference());
        let (mut last, mut newest_us) = (None, None);
        for status in report.statuses() {
            if last.is_none() {
                self.passed_over(now_us, report.number(), status.sequence);
            }
            last = Some(status.sequence);
            let arrival_us = status.arrival_us.map(|at| reference_us.saturating_add(at));
            let fate = self.history.reported(status.sequence, arrival_us.is_some(), now_us);
            let (Some(fate), at) = (fate, arrival_us.unwrap_or_default()) else {
                continue;
            };
            match fate {
                Fate::Received(departure) | Fate::Recovered(departure) => {
                    newest_us = newest_us.max(Some(departure.sent_us));
                    self.arrived(departure, at);
                }
                Fate::Lost(departure) if departure.cluster == 0 => {
                    self.delay.lost();
                    self.lost_us = Some(now_us);
                }
                Fate::Lost(_) => {}
            }
            match fate {
                Fate::Received(departure) if departure.cluster == 0 => self.loss.received(),
                Fate::Recovered(departure) if departure.cluster == 0 => self.loss.recovered(),
                Fate::Lost(departure) if departure.cluster == 0 => self.loss.lost(),
                _ => {}
            }
        }
        (self.fed_us, self.silent) = (Some(now_us), None);
        self.plan.answered();
        if let Some(sent_us) = newest_us.filter(|_| !self.rtt_told) {
            self.learn_rtt(now_us.saturating_sub(sent_us) as f64);
        }
        self.reported = last.map(|last| (report.number(), last));
        self.follow(now_us);
        self.conclude(now_us, last);
        self.tell();
        Ok(())
    }

    /// Some receivers begin each report at what arrived first and tell nothing of what was lost
    /// before it: numbers between two reports that follow one another did not arrive either.
    fn passed_over(&mut self, now_us: u64, number: u8, first: u16) {
        let Some((before, reported)) = self.reported else {
            return;
        };
        if number != before.wrapping_add(1) {
            return;
        }
        let between = first.wrapping_sub(reported).saturating_sub(1);
        if between > PASSED_OVER_MAX {
            return;
        }
        for ahead in 1..=between {
            let fate = self.history.reported(reported.wrapping_add(ahead), false, now_us);
            if let Some(Fate::Lost(departure)) = fate
                && departure.cluster == 0
            {
                self.delay.lost();
                self.lost_us = Some(now_us);
                self.loss.lost();
            }
        }
    }

    /// The round trip as receiver reports tell it.
    pub(crate) fn round_trip(&mut self, rtt: Duration) {
        if !std::mem::replace(&mut self.rtt_told, true) {
            self.rtt_us = None;
        }
        self.learn_rtt(micros(rtt) as f64);
    }

    /// When to be called again; `queued`: packets wait that [`Self::may_send`] held back. Nothing
    /// when no timer is needed: nothing left for long and no probe is planned.
    pub(crate) fn wake_at(&self, now: Instant, queued: bool) -> Option<Instant> {
        let times = [
            queued.then(|| self.pacer.ready_us()),
            self.probes.wake_us().filter(|_| !queued),
            self.probe_due().map(|due| due.at_us),
            self.silence_us(),
        ];
        let at_us = times.into_iter().flatten().min()?;
        let at = self.origin.checked_add(Duration::from_micros(at_us))?;
        Some(at.max(now))
    }

    /// Timers: probes, and what silence means.
    pub(crate) fn pass(&mut self, now: Instant) {
        let now_us = self.clock(now);
        self.conclude(now_us, None);
        if self.silence_us().is_some_and(|at| now_us >= at) {
            let estimate_bps = self.estimate_bps();
            self.plan.congested(now_us, estimate_bps);
            self.rate.lower(now_us, estimate_bps * SILENCE_FALL);
            self.silent = Some((now_us, SILENCE_PACKETS));
        }
        if let Some(due) = self.probe_due().filter(|due| now_us >= due.at_us) {
            self.plan.made(now_us, due);
            let (jitter_us, estimate_bps) = (self.delay.jitter_us(), self.estimate_bps());
            self.probes.begin(now_us, due.bps, jitter_us, estimate_bps);
        }
        self.repace(now_us);
        self.tell();
    }

    /// The estimate in bits per second, once after it changed enough to be told.
    pub(crate) fn take_estimate(&mut self) -> Option<u64> {
        self.untold.take()
    }

    /// Bytes of memory, the structure itself included.
    #[cfg(test)]
    fn bytes(&self) -> usize {
        let parts = [self.history.heap_bytes(), self.delay.heap_bytes(), self.probes.heap_bytes()];
        size_of::<Self>() + parts.iter().sum::<usize>()
    }

    fn estimate_bps(&self) -> f64 {
        let bps = self.rate.bps();
        self.loss.bound_bps().map_or(bps, |bound| bound.min(bps)).max(MIN_BPS)
    }

    fn clock(&mut self, now: Instant) -> u64 {
        self.now_us = self.now_us.max(micros(now.saturating_duration_since(self.origin)));
        self.now_us
    }

    fn learn_rtt(&mut self, rtt_us: f64) {
        let rtt_us = rtt_us.min(RTT_MAX_US);
        let before = self.rtt_us.unwrap_or(rtt_us);
        self.rtt_us = Some(before + (rtt_us - before) * RTT_WEIGHT);
    }

    fn arrived(&mut self, departure: Departure, arrival_us: i64) {
        self.acknowledged.arrived(arrival_us, departure.bytes);
        if departure.cluster > 0 {
            self.probes.arrived(departure, arrival_us);
        }
        let above_us = self.delay.passed(departure.sent_us, arrival_us);
        let disturbed = above_us < PROBED_US && self.probes.disturbed(departure.sent_us);
        if !disturbed && self.delay.arrived(departure.sent_us, arrival_us) {
            self.heard_us = self.now_us;
        }
    }

    /// The estimate follows what a report showed.
    fn follow(&mut self, now_us: u64) {
        let estimate_bps = self.estimate_bps();
        let rtt_us = self.rtt_us.unwrap_or(RTT_US) as u64;
        let arriving_bps = self.acknowledged.rate_bps();
        let seen = Seen {
            usage: self.delay.usage(),
            queue_us: self.delay.queue_us(),
            rtt_us,
            arriving_bps,
            busy_bps: self.acknowledged.busy_bps(),
            desired_bps: self.plan.desired_bps(),
            losing: self.lost_us.is_some_and(|at| now_us.saturating_sub(at) < STALE_US),
        };
        let mut congested = self.heard_us == now_us && self.rate.update(now_us, seen);
        if self.loss.judge(now_us, rtt_us, estimate_bps, arriving_bps) {
            self.rate.lower(now_us, self.loss.bound_bps().unwrap_or(estimate_bps));
            congested = true;
        }
        if congested {
            self.plan.congested(now_us, estimate_bps);
        }
    }

    /// What probes showed; `reported` is the newest number that reports have reached.
    fn conclude(&mut self, now_us: u64, reported: Option<u16>) {
        while let Some(outcome) = self.probes.concluded(now_us, reported) {
            let stale = now_us.saturating_sub(self.heard_us) > STALE_US;
            let calm = stale || matches!(self.delay.usage(), Usage::Normal | Usage::Under);
            let raised = match outcome {
                Outcome::Measured { bps, full, .. } if calm => {
                    self.loss.proven(bps);
                    self.rate.proven(now_us, bps, full)
                }
                _ => false,
            };
            self.plan.concluded(now_us, outcome, raised);
        }
        self.repace(now_us);
    }

    fn repace(&mut self, now_us: u64) {
        self.pacer.set_rate(now_us, self.estimate_bps(), self.probes.trying_bps());
    }

    /// The next probe; nothing while one is sent.
    fn probe_due(&self) -> Option<plan::Due> {
        if self.probes.trying_bps() > 0.0 {
            return None;
        }
        let unused = self.rate.unused(self.acknowledged.rate_bps());
        let mut due = self.plan.due(Link { estimate_bps: self.estimate_bps(), unused })?;
        if self.delay.queue_us() > QUEUE_MAX_US {
            due.at_us = due.at_us.max(self.heard_us.saturating_add(STALE_US));
        }
        Some(due)
    }

    /// When media that is not reported lowers the estimate.
    fn silence_us(&self) -> Option<u64> {
        let (since_us, packets) = self.silent.filter(|_| self.fed_us.is_some())?;
        (packets >= SILENCE_PACKETS).then(|| since_us.saturating_add(SILENCE_US))
    }

    fn tell(&mut self) {
        let bps = self.estimate_bps();
        let same = |told: f64| bps >= told * TOLD_FALL && bps <= told * TOLD_RISE;
        if self.fed_us.is_some() && !self.told_bps.is_some_and(same) {
            self.told_bps = Some(bps);
            self.untold = Some(bps as u64);
        }
    }
}

/// As `Duration::as_micros`, in 64 bits.
fn micros(time: Duration) -> u64 {
    time.as_secs().saturating_mul(1_000_000).saturating_add(u64::from(time.subsec_micros()))
}
