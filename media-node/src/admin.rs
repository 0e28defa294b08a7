//! Health and metrics on a listener of their own, never reachable through the gateway.
//!
//! Reads only. Invariant: no label holds a name, an identity or an address.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus::proto::{Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType};
use prometheus::{Encoder, TextEncoder};

use crate::keys::unix_millis;
use crate::node::Node;
use crate::rooms::State as NodeState;
use crate::shard::{DelayHistogram, ShardHandle, ShardReport};

/// The router of the admin listener.
pub fn router(node: Arc<Node>) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "OK" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state(node)
}

/// Ready while participants may come; draining is ready, because rooms that are here take
/// newcomers.
async fn ready(State(node): State<Arc<Node>>) -> Response {
    match node.rooms().state() {
        NodeState::Serving | NodeState::Draining => "OK".into_response(),
        NodeState::Stopping => (StatusCode::SERVICE_UNAVAILABLE, "stopping").into_response(),
    }
}

async fn metrics(State(node): State<Arc<Node>>) -> Response {
    let families = families(&node);
    let mut text = Vec::new();
    let encoder = TextEncoder::new();
    match encoder.encode(&families, &mut text) {
        Ok(()) => {
            ([(header::CONTENT_TYPE, encoder.format_type().to_owned())], text).into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

/// One shard's number in its report.
type ShardValue = fn(&ShardReport) -> f64;

/// Numbers of a shard: name, what it tells, where it is.
type ShardTable = &'static [(&'static str, &'static str, ShardValue)];

const SHARD_COUNTERS: ShardTable = &[
    ("packets_received", "packets from the network", |r| r.totals.packets_in as f64),
    ("bytes_received", "bytes of them", |r| r.totals.bytes_in as f64),
    ("receive_errors", "times the kernel refused to hand out packets", |r| {
        r.totals.receive_errors as f64
    }),
    ("packets_sent", "packets to the network by UDP", |r| r.totals.sent.packets as f64),
    ("bytes_sent", "bytes of them", |r| r.totals.sent.bytes as f64),
    ("send_messages", "messages given to the kernel; packets_sent / this is the GSO run", |r| {
        r.totals.sent.messages as f64
    }),
    ("packets_dropped_socket_full", "packets the socket did not take", |r| {
        r.totals.sent.dropped_full as f64
    }),
    ("packets_refused_by_kernel", "packets without a route or too long", |r| {
        r.totals.sent.dropped_refused as f64
    }),
    ("gso_fallbacks", "sockets that fell back to single packets", |r| {
        r.totals.sent.gso_fallbacks as f64
    }),
    ("signal_overflows", "websockets cut off because they did not read", |r| {
        r.totals.signal_overflows as f64
    }),
    ("tcp_frames_dropped", "media frames a TCP connection did not take", |r| {
        r.totals.tcp_frames_dropped as f64
    }),
    ("events_dropped", "events the control side did not take", |r| r.totals.events_dropped as f64),
    ("unvalidated_packets", "packets from addresses ICE has not validated", |r| {
        r.core.drops.unvalidated as f64
    }),
    ("unknown_ufrag_packets", "STUN for nobody here", |r| r.core.drops.unknown_ufrag as f64),
    ("malformed_packets", "neither STUN, DTLS, RTP nor RTCP", |r| r.core.drops.malformed as f64),
    ("downlink_dropped_packets", "packets for a receiver of whom too many wait", |r| {
        r.core.drops.downlink_full as f64
    }),
    ("red_malformed", "audio packets that claimed redundancy and were not", |r| {
        r.core.drops.red_malformed as f64
    }),
    ("red_recovered", "lost audio packets sent to receivers out of a later one", |r| {
        r.core.red_recovered as f64
    }),
    ("data_slow_reader_drops", "data messages a slow reader had no room for", |r| {
        r.core.drops.data_slow_reader as f64
    }),
    ("data_refused", "data messages too large, malformed or not allowed", |r| {
        r.core.drops.data_refused as f64
    }),
    ("protocol_errors", "connections closed for breaking the protocol", |r| {
        r.core.protocol_errors as f64
    }),
    ("shard_panics", "times a shard began anew", |r| r.totals.panics as f64),
];

const SHARD_GAUGES: ShardTable = &[
    ("busy_ratio", "share of the last second in which the shard ran", |r| r.busy_ratio),
    ("participants", "participants", |r| r.core.participants as f64),
    ("tracks", "published tracks", |r| r.core.tracks as f64),
    ("downlinks", "subscriptions", |r| r.core.downlinks as f64),
    ("rooms_open", "rooms of the shard", |r| r.core.rooms as f64),
];

fn families(node: &Node) -> Vec<MetricFamily> {
    let mut families = Vec::new();
    let reports: Vec<(String, Arc<ShardReport>)> =
        node.shards.iter().map(|shard| (shard.index.to_string(), shard.report())).collect();
    let tables = [(MetricType::COUNTER, SHARD_COUNTERS), (MetricType::GAUGE, SHARD_GAUGES)];
    for (kind, table) in tables {
        for (name, help, value) in table {
            let values = reports.iter().map(|(shard, report)| (shard.as_str(), value(report)));
            families.push(family(name, help, kind, "shard", values));
        }
    }
    let mut delay = DelayHistogram::default();
    reports.iter().for_each(|(_, report)| delay.add(&report.delay));
    let (rooms, epoch, state, grant, ticket, tickets_refused) = {
        let (rooms, now) = (node.rooms(), Instant::now());
        let grant = rooms.grant_remaining(now).as_secs_f64();
        let ticket = rooms.tickets.remaining(now, unix_millis()).as_secs_f64();
        let refused = rooms.tickets.refused().clone();
        (rooms.all().count(), rooms.epoch(), rooms.state(), grant, ticket, refused)
    };
    let gauges = [
        ("forwarding_delay_p99_seconds", "added delay, last second", delay.quantile_seconds(0.99)),
        ("forwarding_delay_p50_seconds", "added delay, last second", delay.quantile_seconds(0.5)),
        ("cpu_ratio", "share of the CPU time it may use, lately", node.cpu_ratio()),
        ("rooms", "rooms that have their home here", rooms as f64),
        ("epoch", "highest epoch seen", epoch as f64),
        ("grant_remaining_seconds", "how long new rooms are admitted", grant),
        ("ticket_remaining_seconds", "how long the ticket for the scope still holds", ticket),
        ("draining", "1 while no new rooms are admitted", f64::from(state != NodeState::Serving)),
        ("websockets", "signalling connections", get_count(&node.counters.websockets_open)),
    ];
    for (name, help, value) in gauges {
        families.push(family(name, help, MetricType::GAUGE, "", [("", value)].into_iter()));
    }
    for (name, help, value) in counters(node) {
        families.push(family(name, help, MetricType::COUNTER, "", [("", value)].into_iter()));
    }
    let refused = tickets_refused.iter().map(|(reason, count)| (*reason, *count as f64));
    let help = "tickets that were not good here";
    families.push(family("tickets_refused", help, MetricType::COUNTER, "reason", refused));
    families
}

fn counters(node: &Node) -> [(&'static str, &'static str, f64); 12] {
    let counters = &node.counters;
    let refused: u64 = node.shards.iter().map(ShardHandle::refused).sum();
    [
        ("commands_refused", "commands a shard's full queue refused", refused as f64),
        ("tokens_refused", "requests without a valid token", get_count(&counters.tokens_refused)),
        ("joins", "joins admitted", get_count(&counters.joins)),
        ("resumes", "websockets that came back", get_count(&counters.resumes)),
        ("frames_refused", "signalling frames not readable", get_count(&counters.frames_refused)),
        ("rooms_refused", "rooms not admitted", get_count(&counters.rooms_refused)),
        ("rooms_panicked", "rooms ended by their own panic", get_count(&counters.rooms_panicked)),
        ("transports_gcm", "connections with AES-GCM", get_count(&counters.transports_gcm)),
        ("transports_sha1", "connections with SHA1", get_count(&counters.transports_sha1)),
        ("twirp_calls", "RoomService calls", get_count(&counters.twirp_calls)),
        ("tcp_refused", "media TCP connections refused", get_count(&counters.tcp_refused)),
        (
            "connections_refused",
            "connections dropped because all, or their address, had no place left",
            get_count(&counters.connections_refused),
        ),
    ]
}

fn get_count(counter: &AtomicU64) -> f64 {
    counter.load(Ordering::Relaxed) as f64
}

/// One family with a value for each content of `label`, or one value without a label.
fn family<'a>(
    name: &str,
    help: &str,
    kind: MetricType,
    label: &str,
    values: impl Iterator<Item = (&'a str, f64)>,
) -> MetricFamily {
    let mut family = MetricFamily::default();
    let suffix = if kind == MetricType::COUNTER { "_total" } else { "" };
    family.set_name(format!("hemicycle_media_node_{name}{suffix}"));
    family.set_help(help.to_owned());
    family.set_field_type(kind);
    let metrics = values.map(|(content, value)| {
        let mut metric = Metric::default();
        if !label.is_empty() {
            let mut pair = LabelPair::default();
            pair.set_name(label.to_owned());
            pair.set_value(content.to_owned());
            metric.set_label(vec![pair]);
        }
        if kind == MetricType::COUNTER {
            let mut counter = Counter::default();
            counter.set_value(value);
            metric.set_counter(counter);
        } else {
            let mut gauge = Gauge::default();
            gauge.set_value(value);
            metric.set_gauge(gauge);
        }
        metric
    });
    family.set_metric(metrics.collect());
    family
}
