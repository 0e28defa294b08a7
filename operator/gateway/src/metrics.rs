//! What a gateway counts. Labels are from fixed sets; no room, name or address is one.
//!
//! Decides names and meanings only. Invariant: registering cannot fail at run time, because the
//! set is fixed and a test registers it.

use prometheus::{
    Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry, TextEncoder,
};

/// All of a gateway's metrics.
#[derive(Clone)]
pub struct Metrics {
    registry: Registry,
    /// Joins by outcome: an HTTP status class or what refused them.
    pub joins: IntCounterVec,
    /// Twirp calls by outcome.
    pub calls: IntCounterVec,
    /// Requests refused before a media node was asked, by reason.
    pub refused: IntCounterVec,
    /// Times that a room was looked for again because a media node did not have it or was away.
    pub reroutes: IntCounterVec,
    /// Answers of placers by gRPC code.
    pub placer_answers: IntCounterVec,
    /// Seconds from a question to the placers to their answer.
    pub route_seconds: Histogram,
    /// WebSockets open now.
    pub websockets: IntGauge,
    /// WebSockets ended, by who or what ended them.
    pub websockets_ended: IntCounterVec,
    /// Bytes passed on, by direction.
    pub bytes: IntCounterVec,
    /// Connections open now.
    pub connections: IntGauge,
    /// Connections dropped before a request, by reason.
    pub connections_dropped: IntCounterVec,
    /// Rooms in the directory.
    pub directory_rooms: IntGauge,
    /// Media nodes in the directory.
    pub directory_media_nodes: IntGauge,
    /// 1 while the directory is being streamed.
    pub directory_connected: IntGauge,
    /// Entries of the directory refused, by reason.
    pub directory_refused: IntCounterVec,
    /// Looks at media nodes that the placer did not see, by what was found.
    pub media_nodes_unseen: IntCounterVec,
    /// Files taken over after a change, by file and result.
    pub reloads: IntCounterVec,
    /// Listings in which media nodes did not answer, so that the directory filled in.
    pub listings_filled_in: IntCounter,
}

/// One more in a gauge, as long as it lives.
pub(crate) struct Counted(IntGauge);

impl Counted {
    pub(crate) fn new(gauge: IntGauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Metrics {
    /// Registers every metric.
    ///
    /// # Errors
    /// Never with the names below; a test holds that.
    pub fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let counters = |name: &str, help: &str, label: &str| {
            let name = format!("hemicycle_gateway_{name}");
            let counters = IntCounterVec::new(Opts::new(name, help), &[label])?;
            registry.register(Box::new(counters.clone()))?;
            Ok::<_, prometheus::Error>(counters)
        };
        let gauge = |name: &str, help: &str| {
            let gauge = IntGauge::new(format!("hemicycle_gateway_{name}"), help)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok::<_, prometheus::Error>(gauge)
        };
        let route_seconds = Histogram::with_opts(
            HistogramOpts::new(
                "hemicycle_gateway_route_seconds",
                "Seconds from a question to the placers to their answer",
            )
            .buckets(vec![0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0]),
        )?;
        registry.register(Box::new(route_seconds.clone()))?;
        let listings_filled_in = IntCounter::new(
            "hemicycle_gateway_listings_filled_in_total",
            "Room listings completed from the directory because a media node did not answer",
        )?;
        registry.register(Box::new(listings_filled_in.clone()))?;
        Ok(Self {
            joins: counters("joins_total", "Joins by outcome", "outcome")?,
            calls: counters("calls_total", "Twirp calls by outcome", "outcome")?,
            refused: counters("refused_total", "Requests refused at the door", "reason")?,
            reroutes: counters("reroutes_total", "Rooms looked for again", "reason")?,
            placer_answers: counters("placer_answers_total", "Answers of placers", "code")?,
            websockets: gauge("websockets", "WebSockets open now")?,
            websockets_ended: counters("websockets_ended_total", "WebSockets ended", "by")?,
            bytes: counters("bytes_total", "Bytes passed on in WebSockets", "direction")?,
            connections: gauge("connections", "Connections open now")?,
            connections_dropped: counters(
                "connections_dropped_total",
                "Connections dropped before a request",
                "reason",
            )?,
            directory_rooms: gauge("directory_rooms", "Rooms in the directory")?,
            directory_media_nodes: gauge("directory_media_nodes", "Media nodes in the directory")?,
            directory_connected: gauge("directory_connected", "1 while the directory is streamed")?,
            directory_refused: counters(
                "directory_refused_total",
                "Entries of the directory refused",
                "reason",
            )?,
            media_nodes_unseen: counters(
                "media_nodes_unseen_total",
                "Media nodes out of the placer's sight, by whether they were reached from here",
                "found",
            )?,
            reloads: counters(
                "reloads_total",
                "Changed files taken over or refused",
                "file_result",
            )?,
            route_seconds,
            listings_filled_in,
            registry,
        })
    }

    /// In Prometheus' text format.
    #[must_use]
    pub fn render(&self) -> String {
        TextEncoder::new().encode_to_string(&self.registry.gather()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_metric_registers_and_renders() {
        let metrics = super::Metrics::new().expect("registers");
        metrics.joins.with_label_values(&["ok"]).inc();
        assert!(metrics.render().contains(r#"hemicycle_gateway_joins_total{outcome="ok"} 1"#));
    }
}
