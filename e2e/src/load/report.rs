//! The outcome of a load, as text or JSON.
//!
//! Formats and judges whether the generator was fit to measure. Invariant: a figure that was not
//! measured is not printed.

use std::fmt;
use std::time::Duration;

use super::Usage;
use crate::headless::Histogram;

/// A generator whose packets go out later than this at the 99th percentile measures itself.
const LATENESS_MAX: Duration = Duration::from_millis(10);
/// Share of all CPUs at which a generator is taken to be saturated.
const BUSY_MAX: f64 = 0.85;

/// Sums over all participants in the measuring window.
#[derive(Debug, Clone, Default)]
pub struct Report {
    pub seconds: f64,
    pub participants: u64,
    pub joins_failed: u64,
    pub reconnects: u64,
    /// From the first byte to the server's Join message.
    pub join: Histogram,
    /// From the first byte to connected transports.
    pub connected: Histogram,
    pub tracks_expected: u64,
    pub tracks_received: u64,
    /// Packets published.
    pub packets_in: u64,
    /// Packets received by subscribers: what the server forwarded.
    pub packets_out: u64,
    pub bytes_out: u64,
    pub lost: u64,
    pub late: u64,
    pub disorder: u64,
    pub corrupt: u64,
    pub frames: u64,
    pub freezes: u64,
    pub gap_max: Duration,
    pub delay: Histogram,
    /// How late the generator sent.
    pub lateness: Histogram,
    pub send_blocked: u64,
    pub generator: Usage,
    pub server: Option<Usage>,
}

impl Report {
    /// Lost packets as a share of those that should have come.
    #[must_use]
    pub fn loss(&self) -> f64 {
        self.lost as f64 / (self.lost + self.packets_out).max(1) as f64
    }

    /// CPU time of the server per forwarded packet, in microseconds: user, system.
    #[must_use]
    pub fn server_micros_per_packet(&self) -> Option<(f64, f64)> {
        let usage = self.server.filter(|_| self.packets_out > 0)?;
        let per_packet = |time: Duration| time.as_secs_f64() * 1e6 / self.packets_out as f64;
        Some((per_packet(usage.user), per_packet(usage.system)))
    }

    /// Why the generator's figures are not to be trusted, if so.
    #[must_use]
    pub fn saturation(&self) -> Vec<String> {
        let mut reasons = Vec::new();
        let late = self.lateness.percentile(99.0).unwrap_or_default();
        if late > LATENESS_MAX {
            reasons.push(format!("packets were sent {late:.1?} late at p99"));
        }
        let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get) as f64;
        let busy = (self.generator.user + self.generator.system).as_secs_f64() / self.seconds;
        if busy > BUSY_MAX * cpus {
            reasons.push(format!("it used {busy:.2} of {cpus} CPUs"));
        }
        if self.send_blocked > 0 {
            reasons.push(format!("its sockets refused {} packets", self.send_blocked));
        }
        reasons
    }

    /// The figures as JSON, times in microseconds.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        let micros = |histogram: &Histogram, percent| {
            histogram.percentile(percent).map(|value| value.as_micros() as u64)
        };
        serde_json::json!({
            "seconds": self.seconds,
            "participants": self.participants,
            "joins_failed": self.joins_failed,
            "reconnects": self.reconnects,
            "join_p50_us": micros(&self.join, 50.0),
            "join_p99_us": micros(&self.join, 99.0),
            "connected_p50_us": micros(&self.connected, 50.0),
            "connected_p99_us": micros(&self.connected, 99.0),
            "tracks_expected": self.tracks_expected,
            "tracks_received": self.tracks_received,
            "packets_in": self.packets_in,
            "packets_out": self.packets_out,
            "bytes_out": self.bytes_out,
            "lost": self.lost,
            "loss": self.loss(),
            "late": self.late,
            "disorder": self.disorder,
            "corrupt": self.corrupt,
            "frames": self.frames,
            "freezes": self.freezes,
            "gap_max_us": self.gap_max.as_micros() as u64,
            "delay_p50_us": micros(&self.delay, 50.0),
            "delay_p99_us": micros(&self.delay, 99.0),
            "server_us_per_packet": self.server_micros_per_packet(),
            "server_resident_bytes": self.server.map(|usage| usage.resident_bytes),
            "generator_saturated": self.saturation(),
        })
    }
}

fn pair(histogram: &Histogram) -> String {
    match (histogram.percentile(50.0), histogram.percentile(99.0)) {
        (Some(p50), Some(p99)) => format!("p50 {p50:.2?}, p99 {p99:.2?}"),
        _ => "not measured".to_owned(),
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rate = |count: u64| count as f64 / self.seconds;
        writeln!(
            f,
            "participants   {} joined, {} failed, {} reconnects",
            self.participants, self.joins_failed, self.reconnects
        )?;
        writeln!(f, "join           {}", pair(&self.join))?;
        writeln!(f, "connected      {}", pair(&self.connected))?;
        writeln!(f, "tracks         {} of {}", self.tracks_received, self.tracks_expected)?;
        writeln!(f, "packets in     {} ({:.0}/s)", self.packets_in, rate(self.packets_in))?;
        let megabits = rate(self.bytes_out) * 8.0 / 1e6;
        let out = rate(self.packets_out);
        writeln!(f, "packets out    {} ({out:.0}/s, {megabits:.1} Mbit/s)", self.packets_out)?;
        writeln!(
            f,
            "loss           {:.4} % ({} lost, {} late, {} out of order, {} corrupt)",
            self.loss() * 100.0,
            self.lost,
            self.late,
            self.disorder,
            self.corrupt
        )?;
        writeln!(f, "delay          {}", pair(&self.delay))?;
        writeln!(
            f,
            "video          {} frames, {} freezes; longest gap of any track {:.2?}",
            self.frames, self.freezes, self.gap_max
        )?;
        if let (Some(usage), Some((user, system))) = (self.server, self.server_micros_per_packet())
        {
            let busy = (usage.user + usage.system).as_secs_f64() / self.seconds * 100.0;
            let total = user + system;
            writeln!(
                f,
                "server CPU     {total:.2} µs per packet out ({user:.2} user, {system:.2} \
                 system), {busy:.0} % of one CPU"
            )?;
            let each = usage.resident_bytes as f64 / 1024.0 / self.participants.max(1) as f64;
            let mebibytes = usage.resident_bytes as f64 / 1_048_576.0;
            writeln!(f, "server memory  {mebibytes:.0} MiB, {each:.0} KiB per participant")?;
        }
        let busy = (self.generator.user + self.generator.system).as_secs_f64() / self.seconds;
        write!(f, "generator      {busy:.2} CPUs, sends late by {}", pair(&self.lateness))?;
        for reason in self.saturation() {
            write!(f, "\nTHE GENERATOR WAS SATURATED: {reason}")?;
        }
        Ok(())
    }
}
