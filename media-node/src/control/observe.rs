//! The stream of reports to the leader: everything first, then twice a second and on change.
//!
//! Decides what a report holds. Invariant: sequence numbers of a stream have no gaps, and a stream
//! ends when a higher epoch has been seen or its reader does not read.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use media_api::v1;
use media_core::ids::RoomKey;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use crate::keys::unix_millis;
use crate::node::Node;
use crate::rooms::{Home, State};
use crate::shard::DelayHistogram;

/// Reports waiting for the operator: four seconds; who is further behind opens a new stream.
const REPORTS_MAX: usize = 8;
/// How often a report goes out at least: the leader answers each with a grant, and takes three that
/// are missing for a sign.
const EVERY: Duration = Duration::from_millis(500);
/// Changes within this time share a report, so that a burst of joins is one message.
const GATHER: Duration = Duration::from_millis(20);

/// Starts a stream for a leader of this epoch.
pub(super) fn stream(
    node: Arc<Node>,
    epoch: u64,
) -> ReceiverStream<Result<v1::NodeReport, Status>> {
    let (sender, receiver) = mpsc::channel(REPORTS_MAX);
    tokio::spawn(follow(node, epoch, sender));
    ReceiverStream::new(receiver)
}

async fn follow(
    node: Arc<Node>,
    epoch: u64,
    reports: mpsc::Sender<Result<v1::NodeReport, Status>>,
) {
    let mut told: BTreeMap<RoomKey, Home> = BTreeMap::new();
    let mut sequence = 0;
    loop {
        sequence += 1;
        let changed = node.changed.notified();
        tokio::pin!(changed);
        // Registered before the rooms are read, so that no change between the two is missed.
        changed.as_mut().enable();
        if node.rooms().epoch() > epoch {
            let _ = reports.try_send(Err(Status::failed_precondition("stale epoch")));
            return;
        }
        let report = report(&node, sequence, &mut told);
        if reports.try_send(Ok(report)).is_err() {
            return;
        }
        let _ = tokio::time::timeout(EVERY, changed).await;
        tokio::time::sleep(GATHER).await;
        if reports.is_closed() {
            return;
        }
    }
}

/// What is so now; `told` is what this stream knows already and learns.
fn report(node: &Node, sequence: u64, told: &mut BTreeMap<RoomKey, Home>) -> v1::NodeReport {
    let whole = sequence == 1;
    let (now, unix_ms) = (Instant::now(), unix_millis());
    let (rooms, ended, epoch, state, grant, ticket) = {
        let rooms = node.rooms();
        let (here, gone) = difference(rooms.all(), told);
        let grant = rooms.grant_remaining(now);
        let ticket = rooms.tickets.expiry_unix_ms(now, unix_ms);
        (here, gone, rooms.epoch(), rooms.state(), grant, ticket)
    };
    let mut report = v1::NodeReport {
        media_node: node.config.media_node_name.clone(),
        incarnation: node.incarnation.clone(),
        epoch,
        sequence,
        unix_ms,
        uptime_ms: node.started.elapsed().as_millis() as u64,
        state: wire_state(state).into(),
        grant_remaining_ms: grant.as_millis() as u64,
        ticket_expiry_unix_ms: ticket,
        whole,
        rooms,
        ended,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ..v1::NodeReport::default()
    };
    add_load(node, &mut report);
    report
}

fn add_load(node: &Node, report: &mut v1::NodeReport) {
    report.cpu_ratio = node.cpu_ratio();
    let mut delay = DelayHistogram::default();
    for shard in &node.shards {
        let load = shard.report();
        delay.add(&load.delay);
        report.participants += load.core.participants as u32;
        report.tracks += load.core.tracks as u32;
        report.downlinks += load.core.downlinks as u32;
        report.shards.push(v1::ShardLoad {
            shard: shard.index as u32,
            busy_ratio: load.busy_ratio,
            packets_in_per_second: load.packets_in_per_second,
            packets_out_per_second: load.packets_out_per_second,
            bytes_in_per_second: load.bytes_in_per_second,
            bytes_out_per_second: load.bytes_out_per_second,
        });
    }
    report.forwarding_delay_p99_seconds = delay.quantile_seconds(0.99);
}

/// Rooms that are new or changed, and those that are gone, against what was told.
fn difference<'a>(
    now: impl Iterator<Item = (&'a RoomKey, &'a Home)>,
    told: &mut BTreeMap<RoomKey, Home>,
) -> (Vec<v1::RoomReport>, Vec<v1::RoomKey>) {
    let fresh: BTreeMap<RoomKey, Home> =
        now.map(|(room, home)| (room.clone(), home.clone())).collect();
    let changed = fresh.iter().filter(|(room, home)| told.get(room) != Some(home));
    let here = changed.map(|(room, home)| room_report(room, home)).collect();
    let gone = told.keys().filter(|room| !fresh.contains_key(room)).map(wire_room).collect();
    *told = fresh;
    (here, gone)
}

fn room_report(room: &RoomKey, home: &Home) -> v1::RoomReport {
    v1::RoomReport {
        room: Some(wire_room(room)),
        claim_epoch: home.claim_epoch,
        participants: home.participants,
        publishers: home.publishers(),
        created_unix_ms: home.created_unix_ms,
        sid: home.sid.clone(),
    }
}

fn wire_room(room: &RoomKey) -> v1::RoomKey {
    v1::RoomKey { tenant: room.tenant.clone(), name: room.name.clone() }
}

fn wire_state(state: State) -> v1::State {
    match state {
        State::Serving => v1::State::Serving,
        State::Draining => v1::State::Draining,
        State::Stopping => v1::State::Stopping,
    }
}
