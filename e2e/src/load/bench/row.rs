//! One load's figures, as text or JSON.
//!
//! Formats and divides. Invariant: a figure that was not measured is not printed.

use std::fmt;
use std::time::Duration;

use super::floor::Cost;
use crate::load::Report;

/// What one load showed.
#[derive(Debug)]
pub struct Row {
    pub name: &'static str,
    /// The program that carried it.
    pub server: &'static str,
    pub report: Report,
    /// Memory of the server when two had come and gone, in bytes.
    pub empty_bytes: u64,
    /// What a media node says of itself.
    pub account: Option<Account>,
    pub floor: Option<Cost>,
}

/// A media node's own account.
#[derive(Debug)]
pub struct Account {
    /// Messages that it gave to the kernel, packets and bytes in them, packets its sockets refused.
    pub messages: f64,
    pub packets: f64,
    pub bytes: f64,
    pub dropped: f64,
    /// p50 and p99 second by second: from its wake-up to after sending.
    pub delays: Vec<(Duration, Duration)>,
}

impl Account {
    /// Packets per message to the kernel.
    fn run(&self) -> f64 {
        self.packets / self.messages.max(1.0)
    }

    /// Median over the seconds of p50, and of p99.
    fn delay(&self) -> Option<(Duration, Duration)> {
        let (p50s, p99s) = self.delays.iter().copied().unzip();
        Some((median(p50s)?, median(p99s)?))
    }
}

/// The middle one, the upper of two.
pub(super) fn median<T: PartialOrd + Copy>(mut values: Vec<T>) -> Option<T> {
    values.sort_unstable_by(|a, b| a.partial_cmp(b).unwrap_or(std::cmp::Ordering::Equal));
    values.get(values.len() / 2).copied()
}

impl Row {
    pub(super) fn cost(&self) -> Option<Cost> {
        let usage = self.report.server.filter(|_| self.report.packets_out > 0)?;
        Some(Cost::of(&usage, self.report.packets_out))
    }

    /// Share of its CPU that the server used.
    pub(super) fn busy(&self) -> f64 {
        let used = self.report.server.map(|usage| usage.user + usage.system);
        used.unwrap_or_default().as_secs_f64() / self.report.seconds
    }

    /// Memory that each participant added, in KiB.
    pub(super) fn kibibytes_each(&self) -> Option<f64> {
        let grown = self.report.server?.resident_bytes.saturating_sub(self.empty_bytes);
        Some(grown as f64 / 1024.0 / self.report.participants.max(1) as f64)
    }

    /// The figures as JSON, times in microseconds.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        let pair = |cost: Cost| serde_json::json!({"user": cost.user, "system": cost.system});
        let account = self.account.as_ref().filter(|_| self.report.packets_out > 0);
        let delay = account.and_then(Account::delay);
        serde_json::json!({
            "case": self.name,
            "server": self.server,
            "cost_us": self.cost().map(pair),
            "floor_us": self.floor.map(pair),
            "ratio": self.floor.zip(self.cost()).map(|(floor, cost)| cost.total() / floor.total()),
            "busy": self.busy(),
            "run": account.map(Account::run),
            "server_drops": account.map(|account| account.dropped),
            "server_delay_p50_us": delay.map(|(p50, _)| p50.as_micros() as u64),
            "server_delay_p99_us": delay.map(|(_, p99)| p99.as_micros() as u64),
            "empty_bytes": self.empty_bytes,
            "kibibytes_per_participant": self.kibibytes_each(),
            "load": self.report.to_json(),
        })
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "== {}: {}", self.server, self.name)?;
        writeln!(f, "{}", self.report)?;
        if let (Some(cost), Some(floor)) = (self.cost(), self.floor) {
            writeln!(
                f,
                "floor          {:.2} µs per packet ({:.2} user, {:.2} system); the server needs \
                 {:.2} ×",
                floor.total(),
                floor.user,
                floor.system,
                cost.total() / floor.total()
            )?;
        }
        let account = self.account.as_ref().filter(|_| self.report.packets_out > 0);
        if let Some((account, (p50, p99))) = account.and_then(|own| Some((own, own.delay()?))) {
            writeln!(
                f,
                "in the server  p50 {p50:.2?}, p99 {p99:.2?}, from its wake-up until after \
                 sending; {:.0} packets refused by its socket",
                account.dropped
            )?;
            writeln!(f, "runs           {:.2} packets per message to the kernel", account.run())?;
        }
        let each = self.kibibytes_each().unwrap_or_default();
        let empty = self.empty_bytes as f64 / 1_048_576.0;
        write!(
            f,
            "memory         {empty:.1} MiB empty, {each:.0} KiB more for each participant; busy \
             {:.0} % of its CPU",
            self.busy() * 100.0
        )
    }
}
