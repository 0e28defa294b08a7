//! Two servers under the same load, side by side.
//!
//! Takes medians and divides. Invariant: every figure is of the generator or of the kernel, never
//! of a server's own telling.

use std::fmt;
use std::time::Duration;

use super::row::{Row, median};
use crate::load::Report;

/// The rows of every round, in the order of their rounds.
#[derive(Debug, Default)]
pub(super) struct Versus {
    pub(super) ours: Vec<Row>,
    pub(super) theirs: Vec<Row>,
}

/// One server's medians.
#[derive(Debug, Clone, Copy)]
struct Medians {
    /// CPU of a forwarded packet, in microseconds; none where nothing is forwarded.
    cost_us: Option<f64>,
    /// From the publisher's write to the receiver's kernel.
    delay: Option<(Duration, Duration)>,
    /// Until a participant's transports are connected.
    connected: Option<Duration>,
    kibibytes_each: Option<f64>,
    /// Packets lost, as a share.
    loss: f64,
    /// Share of its CPU.
    busy: f64,
}

impl Medians {
    fn of(rows: &[Row]) -> Self {
        let reports = || rows.iter().map(|row| &row.report);
        let delays = |percent| reports().filter_map(move |of| of.delay.percentile(percent));
        let connected = reports().filter_map(|of| of.connected.percentile(50.0));
        Self {
            cost_us: median(rows.iter().filter_map(|row| Some(row.cost()?.total())).collect()),
            delay: median(delays(50.0).collect()).zip(median(delays(99.0).collect())),
            connected: median(connected.collect()),
            kibibytes_each: median(rows.iter().filter_map(Row::kibibytes_each).collect()),
            loss: median(reports().map(Report::loss).collect()).unwrap_or_default(),
            busy: median(rows.iter().map(Row::busy).collect()).unwrap_or_default(),
        }
    }

    fn to_json(self) -> serde_json::Value {
        let micros = |time: Duration| time.as_micros() as u64;
        serde_json::json!({
            "cost_us": self.cost_us,
            "delay_p50_us": self.delay.map(|(p50, _)| micros(p50)),
            "delay_p99_us": self.delay.map(|(_, p99)| micros(p99)),
            "connected_p50_us": self.connected.map(micros),
            "kibibytes_per_participant": self.kibibytes_each,
            "loss": self.loss,
            "busy": self.busy,
        })
    }
}

impl Versus {
    /// The medians as JSON, times in microseconds.
    pub(super) fn to_json(&self) -> serde_json::Value {
        serde_json::json!({
            "case": self.ours.first().map(|row| row.name),
            "rounds": self.ours.len(),
            "media_node": Medians::of(&self.ours).to_json(),
            "livekit_server": Medians::of(&self.theirs).to_json(),
        })
    }
}

impl fmt::Display for Versus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.ours.first().map_or("", |row| row.name);
        writeln!(f, "== side by side: {name}, medians of {} rounds", self.ours.len())?;
        let (ours, theirs) = (Medians::of(&self.ours), Medians::of(&self.theirs));
        writeln!(f, "{:<24}{:>14}{:>18}{:>9}", "", "media-node", "livekit-server", "times")?;
        let mut line = |what: &str, pair: Option<(f64, f64)>, digits: usize| match pair {
            None => Ok(()),
            Some((own, other)) => writeln!(
                f,
                "{what:<24}{own:>14.digits$}{other:>18.digits$}{:>9.2}",
                other / own.max(f64::MIN_POSITIVE)
            ),
        };
        let millis = |time: Duration| time.as_secs_f64() * 1e3;
        let delay = ours.delay.zip(theirs.delay);
        line("CPU, µs per packet out", ours.cost_us.zip(theirs.cost_us), 2)?;
        line("delay p50, ms", delay.map(|(a, b)| (millis(a.0), millis(b.0))), 2)?;
        line("delay p99, ms", delay.map(|(a, b)| (millis(a.1), millis(b.1))), 2)?;
        let connected = ours.connected.zip(theirs.connected);
        line("connected p50, ms", connected.map(|(a, b)| (millis(a), millis(b))), 0)?;
        line("memory, KiB each", ours.kibibytes_each.zip(theirs.kibibytes_each), 0)?;
        line("% of its CPU", Some((ours.busy * 100.0, theirs.busy * 100.0)), 0)?;
        let (lost, lost_there) = (ours.loss * 100.0, theirs.loss * 100.0);
        write!(f, "{:<24}{lost:>14.3}{lost_there:>18.3}", "% of packets lost")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::Usage;

    /// Rounds of a server that needed so many microseconds for each of a thousand packets.
    fn rounds(server: &'static str, costs_us: [u64; 3]) -> Vec<Row> {
        let row = |cost_us: u64| {
            let user = Duration::from_micros(cost_us * 1_000);
            let usage = Usage { user, resident_bytes: 3 << 20, ..Usage::default() };
            let mut report = Report { seconds: 1.0, participants: 2, ..Report::default() };
            (report.packets_out, report.server) = (1_000, Some(usage));
            report.delay.add(Duration::from_millis(cost_us));
            Row { name: "case", server, report, empty_bytes: 1 << 20, account: None, floor: None }
        };
        costs_us.map(row).into()
    }

    #[test]
    fn medians_of_all_rounds_stand_side_by_side() {
        let ours = rounds("media-node", [4, 90, 5]);
        let versus = Versus { ours, theirs: rounds("livekit-server", [10, 9, 11]) };
        let json = versus.to_json();
        assert_eq!(json["rounds"], 3);
        assert_eq!(json["media_node"]["cost_us"], 5.0);
        assert_eq!(json["livekit_server"]["cost_us"], 10.0);
        assert_eq!(json["media_node"]["kibibytes_per_participant"], 1_024.0);
        assert!(json["media_node"]["connected_p50_us"].is_null(), "nobody measured that");
        let text = versus.to_string();
        let cost = text.lines().find(|line| line.starts_with("CPU, µs per packet out")).unwrap();
        let figures: Vec<&str> = cost.split_whitespace().rev().take(3).collect();
        assert_eq!(figures, ["2.00", "10.00", "5.00"]);
        assert!(!text.contains("connected"), "{text}");
    }
}
