//! How fast rooms get their homes: real operator replicas with their Lease, fleet and placer, real
//! gateway clients, real gRPC over mutual TLS; only the media nodes' rooms and the store of the
//! Lease are simulated. All of it runs in this process, on loopback, and ends with it.
//!
//! Decides the load and the figures. Invariant: an answer counts from the moment its question was
//! due, so that a placer that is late cannot make itself look fast.

mod lease_store;
mod measure;
mod media_node;
mod replica;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use arc_swap::ArcSwap;
use gateway::files::Files;
use gateway::metrics::Metrics;
use gateway::placer::Placer;
use jiff::Timestamp;
use livekit_contract::token::{ApiKey, KeyRing, Strength};
use operator::pki::{Authority, Role};
use tokio::task::JoinSet;

use self::lease_store::LeaseStore;
use self::measure::{Offer, Outcome};
use self::media_node::Bed;
pub(crate) use self::media_node::converse;
use self::replica::{Operator, Replica};

/// Namespace and name of the simulated meeting cluster, and both as tenant.
const NAMESPACE: &str = "ministry";
const CLUSTER: &str = "visio";
const TENANT: &str = "ministry/visio";
/// Gateways that ask.
const GATEWAYS: usize = 2;
/// Operator replicas, as the chart has them.
const REPLICAS: u32 = 3;
/// Questions at once when the ceiling is looked for: two connections' worth.
const CEILING_AT_ONCE: usize = 128;
/// Longest wait for the first leader and for the next.
const LEADER_WITHIN: Duration = Duration::from_secs(30);

/// What to offer and what must come out.
#[derive(Clone, Debug)]
pub struct Options {
    /// New rooms asked for each second.
    pub rooms_per_second: u32,
    /// For so long.
    pub duration: Duration,
    /// Simulated media nodes.
    pub media_nodes: u8,
    /// How long a room lives.
    pub room_lifetime: Duration,
    /// Whether the leader is killed afterwards, and the next one waited for.
    pub kill_leader: bool,
}

/// What came out.
#[derive(Clone, Debug)]
pub struct Figures {
    /// Rooms that got a home, each second.
    pub rooms_per_second: f64,
    /// Median of the time from question to answer.
    pub p50: Duration,
    /// 99 of 100 answers came within this time.
    pub p99: Duration,
    /// Questions without a home at their end.
    pub refused: usize,
    /// Rooms that were given to a second media node while a first had them and held a grant.
    pub double: usize,
    /// Rooms each second when questions never wait for their turn.
    pub ceiling_per_second: f64,
    /// From the leader's death to the first new room.
    pub without_leader: Option<Duration>,
}

/// Runs the load and prints what it finds as it goes.
///
/// # Errors
/// When something cannot be set up, or no replica comes to lead.
pub async fn run(options: &Options) -> anyhow::Result<Figures> {
    // Every part speaks TLS by the one provider; another caller may have said so before.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let authority = Authority::generate(TENANT, Timestamp::now()).context("no CA")?;
    let bed = Bed::start(&authority, options.media_nodes, options.room_lifetime).await?;
    let operator = Operator {
        authority,
        store: LeaseStore::default(),
        bed: bed.clone(),
        media_nodes: options.media_nodes,
        replicas: REPLICAS,
    };
    let mut replicas = operator.start()?;
    let mut following = JoinSet::new();
    let gateways = gateways(&operator.authority, &replicas)?;
    for gateway in &gateways {
        following.spawn(follow_directory(Arc::clone(gateway)));
    }
    measure::first_room(&gateways, "warm-up", LEADER_WITHIN).await?;
    let Options { rooms_per_second, duration, media_nodes, .. } = *options;
    println!(
        "placement: {media_nodes} media nodes, {GATEWAYS} gateways, {REPLICAS} operator replicas"
    );
    let offer = Offer { rooms_per_second, duration, prefix: "steady" };
    let steady = measure::open_loop(&gateways, &offer).await;
    println!("offered {rooms_per_second} rooms/s for {} s: {steady}", duration.as_secs());
    let ceiling = measure::closed_loop(&gateways, CEILING_AT_ONCE, duration / 2).await;
    println!("ceiling, {CEILING_AT_ONCE} questions at once: {ceiling}");
    let mut without_leader = None;
    if options.kill_leader {
        without_leader = Some(kill_leader(&mut replicas, &gateways, &bed).await?);
        stop_leader(&replicas, &gateways, &bed).await?;
    }
    following.abort_all();
    let double = bed.double();
    println!("rooms with two homes: {double}; moved from one out of sight: {}", bed.moved());
    Ok(figures(&steady, &ceiling, double, without_leader))
}

fn figures(
    steady: &Outcome,
    ceiling: &Outcome,
    double: usize,
    without_leader: Option<Duration>,
) -> Figures {
    Figures {
        rooms_per_second: steady.rooms_per_second(),
        p50: steady.quantile(0.50),
        p99: steady.quantile(0.99),
        refused: steady.refused,
        double,
        ceiling_per_second: ceiling.rooms_per_second(),
        without_leader,
    }
}

/// Kills the leading replica as `kill -9` would, goes on asking for rooms, and waits for the next.
async fn kill_leader(
    replicas: &mut Vec<Replica>,
    gateways: &[Arc<Placer>],
    bed: &Bed,
) -> anyhow::Result<Duration> {
    let leading = replicas.iter().position(|replica| replica.epoch().is_some());
    let leading = leading.context("no replica leads")?;
    let before = bed.rooms();
    replicas.remove(leading).kill();
    let killed = Instant::now();
    measure::first_room(gateways, "after", LEADER_WITHIN).await?;
    let took = killed.elapsed();
    ensure!(bed.epoch() > 1, "the media nodes have not seen a higher epoch");
    println!(
        "leader killed with {before} rooms alive: new rooms start again after {:.2} s",
        took.as_secs_f64()
    );
    Ok(took)
}

/// Tells the leading replica to end, as a roll-out does, and waits for a room under the next.
async fn stop_leader(
    replicas: &[Replica],
    gateways: &[Arc<Placer>],
    bed: &Bed,
) -> anyhow::Result<()> {
    let leading = replicas.iter().find(|replica| replica.epoch().is_some());
    let epoch = bed.epoch();
    leading.context("no replica leads")?.stop();
    let told = Instant::now();
    while bed.epoch() == epoch {
        ensure!(told.elapsed() < LEADER_WITHIN, "no replica followed one that was told to stop");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    measure::first_room(gateways, "after-stop", LEADER_WITHIN).await?;
    println!(
        "leader told to stop: new rooms start again after {:.2} s",
        told.elapsed().as_secs_f64()
    );
    Ok(())
}

/// Gateways' clients that know all replicas.
fn gateways(authority: &Authority, replicas: &[Replica]) -> anyhow::Result<Vec<Arc<Placer>>> {
    let addresses: Vec<String> =
        replicas.iter().map(|replica| replica.address.to_string()).collect();
    let addresses = addresses.join(",");
    (0..GATEWAYS).map(|_| Ok(Arc::new(gateway_client(authority, &addresses)?))).collect()
}

/// The client that a gateway asks with, as the gateway makes it.
fn gateway_client(authority: &Authority, addresses: &str) -> anyhow::Result<Placer> {
    let name = Role::Gateway.dns_name(NAMESPACE, CLUSTER);
    let issued = authority.issue(&name, Timestamp::now()).context("no certificate")?;
    let tls = gateway::tls::client(
        issued.certificate.as_bytes(),
        issued.key.as_bytes(),
        authority.bundle().as_bytes(),
    )?;
    // The placer's client uses none of the API keys.
    let keys = KeyRing::new([ApiKey::new("unused", "unused")], Strength::Dev)?;
    let files = Files {
        keys: ArcSwap::from_pointee(keys),
        client: ArcSwap::from_pointee(tls),
        public: None,
    };
    let placer_name = Role::Placer.dns_name(NAMESPACE, CLUSTER);
    Ok(Placer::new(addresses.to_owned(), placer_name, Arc::new(files), Metrics::new()?))
}

/// Reads the directory as every gateway does: part of what a placer has to carry.
async fn follow_directory(gateway: Arc<Placer>) {
    loop {
        if let Some((_, mut updates)) = gateway.directory().await {
            while let Ok(Some(_)) = updates.message().await {}
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}
