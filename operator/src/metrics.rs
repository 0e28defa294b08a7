//! Holds every metric of the operator and renders them for a scrape.
//! May not hold names of rooms or participants: labels are meeting clusters, media nodes,
//! categories.

use std::time::{Duration, Instant};

use prometheus::{
    Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, TextEncoder,
};

use crate::queue::Queue;

/// Bounds of the placement latency histogram in seconds: the goal is p99 ≤ 50 ms at the gateway.
const PLACEMENT_BUCKETS_SECONDS: &[f64] =
    &[0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 2.0];
/// Bounds of the reconcile duration histogram in seconds; a reconcile makes tens of API calls.
const RECONCILE_BUCKETS_SECONDS: &[f64] = &[0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];

/// All metrics of the process.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Reconciles by `outcome` (ok, error).
    pub reconciles: IntCounterVec,
    /// Failed reconciles by `category`.
    pub reconcile_errors: IntCounterVec,
    /// Duration of a reconcile.
    pub reconcile_duration: Histogram,
    /// API server calls by `verb` and `outcome` (ok, client_error, server_error, unreachable).
    pub api_calls: IntCounterVec,
    /// 1 on the replica that leads.
    pub leader: IntGauge,
    /// Fencing epoch this replica leads or last led under.
    pub epoch: IntGauge,
    /// Placement answers by `outcome`.
    pub placements: IntCounterVec,
    /// Time from a gateway's question to the answer, by `outcome`.
    pub placement_duration: HistogramVec,
    /// Rooms by `meeting_cluster`, `media_node`.
    pub rooms: IntGaugeVec,
    /// Participants by `meeting_cluster`, `media_node`.
    pub participants: IntGaugeVec,
    /// Busiest shard's busy share, by `meeting_cluster`, `media_node`.
    pub load: GaugeVec,
    /// Share of its CPU limit that a media node uses, by `meeting_cluster`, `media_node`.
    pub cpu: GaugeVec,
    /// How far a media node's clock is ahead, in seconds, by `meeting_cluster`, `media_node`.
    pub clock_skew: GaugeVec,
    /// Tickets that a media node refused, by `meeting_cluster`, `media_node`.
    pub tickets_refused: IntCounterVec,
    /// Reports that were ignored, by `reason`.
    pub reports_refused: IntCounterVec,
    /// Directory streams that were given a fresh whole because they lagged, by `meeting_cluster`.
    pub directory_resyncs: IntCounterVec,
    /// Connections to the placement listener that were refused, by `reason`.
    pub connections_refused: IntCounterVec,
    /// What the witness wrote.
    pub witness: Witness,
    /// Seconds until a scope's attestation ends, by `scope`.
    pub scope_seconds_left: IntGaugeVec,
    /// What the watch over the admission policies did.
    pub admission: Admission,
    /// Calls to providers' APIs by `scope` and `outcome` (ok, or the kind of failure).
    pub provider_api_calls: IntCounterVec,
    /// The meeting clusters that are due; read at each scrape.
    pub queue: Queue,
    in_flight: IntGauge,
    waiting: IntGauge,
    oldest: Gauge,
}

/// Metrics of the watch over the admission policies.
#[derive(Debug)]
pub struct Admission {
    /// Policies and bindings put back, by `policy` and `what` (policy_deleted, policy_changed,
    /// binding_deleted, binding_changed).
    pub repaired: IntCounterVec,
    /// 1 on the leader while all are as they must be.
    pub intact: IntGauge,
}

impl Admission {
    fn new() -> Self {
        Self {
            repaired: counter(
                "admission_policies_repaired_total",
                "Admission policies and bindings put back after somebody changed or deleted them.",
                &["policy", "what"],
            ),
            intact: gauge(
                "admission_policies_intact",
                "1 on the leader while every admission policy and binding is as it must be.",
            ),
        }
    }
}

/// What the witness of where meetings run wrote.
#[derive(Debug)]
pub struct Witness {
    /// Signed statements.
    pub statements: IntCounter,
    /// What it had no place for, by `what` (act, statement, tenant).
    pub dropped: IntCounterVec,
    /// Writes of proof or journal that failed.
    pub failures: IntCounter,
    /// Violations that go on and that nobody answers for, by `meeting_cluster`.
    pub violations_open: IntGaugeVec,
}

impl Witness {
    fn new() -> Self {
        let number = |name: &str, help: &str| registered(IntCounter::new(name, help));
        Self {
            statements: number(
                "proof_statements_total",
                "Signed statements of where meetings ran.",
            ),
            dropped: counter(
                "witness_dropped_total",
                "What the witness had no place for.",
                &["what"],
            ),
            failures: number("witness_failures_total", "Writes of proof or journal that failed."),
            violations_open: gauges(
                "violations_open",
                "Media nodes that run where no scope reaches, and nobody answers for it.",
                &["meeting_cluster"],
            ),
        }
    }
}

fn counter(name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
    registered(IntCounterVec::new(Opts::new(name, help), labels))
}

fn gauges(name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
    registered(IntGaugeVec::new(Opts::new(name, help), labels))
}

fn fractions(name: &str, help: &str, labels: &[&str]) -> GaugeVec {
    registered(GaugeVec::new(Opts::new(name, help), labels))
}

fn gauge(name: &str, help: &str) -> IntGauge {
    registered(IntGauge::new(name, help))
}

fn clock_skew(labels: &[&str]) -> GaugeVec {
    fractions("media_node_clock_skew_seconds", "How far its clock is ahead.", labels)
}

fn directory_resyncs() -> IntCounterVec {
    let help = "Directory streams given a fresh whole because they lagged.";
    counter("directory_resyncs_total", help, &["meeting_cluster"])
}

fn placement_duration() -> HistogramVec {
    let help = "Time from a gateway's question to the answer.";
    let options = HistogramOpts::new("placement_duration_seconds", help);
    let buckets = PLACEMENT_BUCKETS_SECONDS.to_vec();
    registered(HistogramVec::new(options.buckets(buckets), &["outcome"]))
}

#[allow(clippy::expect_used, reason = "names and labels are constants, checked by every test")]
fn registered<T>(made: prometheus::Result<T>) -> T {
    made.expect("constant metric names and labels are valid")
}

impl Metrics {
    /// Makes and registers every metric.
    #[must_use]
    pub fn new() -> Self {
        let histogram = |name: &str, help: &str, buckets: &[f64]| {
            HistogramOpts::new(name, help).buckets(buckets.to_vec())
        };
        let node = &["meeting_cluster", "media_node"];
        let metrics = Self {
            registry: Registry::new_custom(Some("hemicycle_operator".to_owned()), None)
                .unwrap_or_default(),
            reconciles: counter("reconciles_total", "Reconciles by outcome.", &["outcome"]),
            reconcile_errors: counter(
                "reconcile_errors_total",
                "Failed reconciles by category.",
                &["category"],
            ),
            reconcile_duration: registered(Histogram::with_opts(histogram(
                "reconcile_duration_seconds",
                "Duration of a reconcile.",
                RECONCILE_BUCKETS_SECONDS,
            ))),
            api_calls: counter("api_calls_total", "Calls to the API server.", &["verb", "outcome"]),
            leader: gauge("leader", "1 on the replica that leads."),
            epoch: gauge("epoch", "Fencing epoch of this replica's present or last term."),
            placements: counter("placements_total", "Placement answers.", &["outcome"]),
            placement_duration: placement_duration(),
            witness: Witness::new(),
            scope_seconds_left: gauges(
                "scope_attestation_seconds_left",
                "Seconds until a scope's attestation ends.",
                &["scope"],
            ),
            rooms: gauges("rooms", "Rooms per media node.", node),
            participants: gauges("participants", "Participants per media node.", node),
            load: fractions("media_node_busy_ratio", "Busy share of the busiest shard.", node),
            cpu: fractions("media_node_cpu_ratio", "Share of its CPU limit in use.", node),
            clock_skew: clock_skew(node),
            tickets_refused: counter("tickets_refused_total", "Tickets refused there.", node),
            reports_refused: counter(
                "reports_refused_total",
                "Media node reports that were ignored.",
                &["reason"],
            ),
            directory_resyncs: directory_resyncs(),
            connections_refused: counter(
                "placer_connections_refused_total",
                "Connections to the placement listener that were refused.",
                &["reason"],
            ),
            admission: Admission::new(),
            provider_api_calls: counter(
                "provider_api_calls_total",
                "Calls to providers' APIs about machines, by outcome.",
                &["scope", "outcome"],
            ),
            queue: Queue::default(),
            in_flight: gauge("reconciles_in_flight", "Meeting clusters in reconcile now."),
            waiting: gauge(
                "reconcile_queue_depth",
                "Meeting clusters whose next look is due and has not begun.",
            ),
            oldest: registered(Gauge::new(
                "reconcile_queue_oldest_seconds",
                "How long the first of them has waited.",
            )),
        };
        metrics.register();
        metrics
    }

    fn register(&self) {
        let all: Vec<Box<dyn prometheus::core::Collector>> = vec![
            Box::new(self.reconciles.clone()),
            Box::new(self.reconcile_errors.clone()),
            Box::new(self.reconcile_duration.clone()),
            Box::new(self.api_calls.clone()),
            Box::new(self.leader.clone()),
            Box::new(self.epoch.clone()),
            Box::new(self.placements.clone()),
            Box::new(self.placement_duration.clone()),
            Box::new(self.witness.statements.clone()),
            Box::new(self.witness.dropped.clone()),
            Box::new(self.witness.failures.clone()),
            Box::new(self.witness.violations_open.clone()),
            Box::new(self.scope_seconds_left.clone()),
            Box::new(self.rooms.clone()),
            Box::new(self.participants.clone()),
            Box::new(self.load.clone()),
            Box::new(self.cpu.clone()),
            Box::new(self.clock_skew.clone()),
            Box::new(self.tickets_refused.clone()),
            Box::new(self.reports_refused.clone()),
            Box::new(self.directory_resyncs.clone()),
            Box::new(self.connections_refused.clone()),
            Box::new(self.admission.repaired.clone()),
            Box::new(self.admission.intact.clone()),
            Box::new(self.provider_api_calls.clone()),
            Box::new(self.in_flight.clone()),
            Box::new(self.waiting.clone()),
            Box::new(self.oldest.clone()),
        ];
        for collector in all {
            registered(self.registry.register(collector));
        }
    }

    /// Counts one placement answer and its latency.
    pub fn placed(&self, outcome: &str, took: Duration) {
        self.placements.with_label_values(&[outcome]).inc();
        self.placement_duration.with_label_values(&[outcome]).observe(took.as_secs_f64());
    }

    /// Forgets the calls to the API of a scope that names none any more.
    pub fn forget_scope(&self, scope: &str) {
        for outcome in ["ok", "misconfigured", "unreachable", "refused", "unreadable"] {
            // A series that was never made cannot be removed, and need not be.
            let _ = self.provider_api_calls.remove_label_values(&[scope, outcome]);
        }
    }

    /// Forgets the series of a media node that is gone.
    pub fn forget_media_node(&self, meeting_cluster: &str, media_node: &str) {
        let labels = &[meeting_cluster, media_node];
        // A series that was never made cannot be removed, and need not be.
        let _ = self.rooms.remove_label_values(labels);
        let _ = self.participants.remove_label_values(labels);
        let _ = self.load.remove_label_values(labels);
        let _ = self.cpu.remove_label_values(labels);
        let _ = self.clock_skew.remove_label_values(labels);
        let _ = self.tickets_refused.remove_label_values(labels);
    }

    /// Everything in Prometheus' text format.
    ///
    /// # Errors
    /// When encoding fails, which would be a fault of the library.
    pub fn render(&self) -> prometheus::Result<String> {
        let depth = self.queue.depth(Instant::now());
        let number = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        self.in_flight.set(number(depth.in_flight));
        self.waiting.set(number(depth.waiting));
        self.oldest.set(depth.oldest.as_secs_f64());
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_carries_the_prefix() {
        let metrics = Metrics::new();
        metrics.placed("existing", Duration::from_millis(1));
        metrics.leader.set(1);
        let text = metrics.render().expect("renders");
        assert!(text.contains("hemicycle_operator_leader 1"), "{text}");
        assert!(
            text.contains("hemicycle_operator_placements_total{outcome=\"existing\"} 1"),
            "{text}"
        );
    }
}
