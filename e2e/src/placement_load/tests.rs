//! Real operator replicas, really cut off: over gRPC and mutual TLS, with a store of the Lease that
//! each of them can lose. And a short run of the load itself.

use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use operator::pki::Authority;
use placement_api::v1::RouteReply;

use super::lease_store::LeaseStore;
use super::media_node::Bed;
use super::replica::{Operator, Replica};
use super::{Options, Placer, TENANT, gateways, measure, run};

/// Longest wait for anything that must come to pass; conditions end the wait.
const LONG: Duration = Duration::from_secs(40);
/// Rooms of these tests outlive them.
const FOREVER: Duration = Duration::from_secs(3_600);

/// Between two questions: how fast rooms are placed is not at issue.
const PAUSE: Duration = Duration::from_millis(20);

struct Scene {
    operator: Operator,
    replicas: Vec<Replica>,
    gateway: Arc<Placer>,
}

impl Scene {
    /// Three replicas over two media nodes, of which one leads.
    async fn set() -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let authority = Authority::generate(TENANT, Timestamp::now()).unwrap();
        let bed = Bed::start(&authority, 2, FOREVER).await.unwrap();
        let store = LeaseStore::default();
        let operator = Operator { authority, store, bed, media_nodes: 2, replicas: 3 };
        let replicas = operator.start().unwrap();
        let gateway = gateways(&operator.authority, &replicas).unwrap().remove(0);
        let scene = Self { operator, replicas, gateway };
        scene.placed("first").await;
        scene
    }

    /// Number of the replica that answers gateways, and its epoch.
    fn leader(&self) -> Option<(usize, u64)> {
        let mut epochs = self.replicas.iter().map(Replica::epoch).enumerate();
        epochs.find_map(|(number, epoch)| Some((number, epoch?)))
    }

    /// Asks until the room has a home.
    async fn placed(&self, room: &str) -> RouteReply {
        let began = Instant::now();
        loop {
            match measure::ask(&self.gateway, room.to_owned()).await {
                Ok(reply) => return reply,
                Err(error) => assert!(began.elapsed() < LONG, "{room} found no home: {error}"),
            }
        }
    }

    fn cut_all(&self, cut: bool) {
        self.replicas.iter().for_each(|replica| replica.way.cut(cut));
    }

    /// Waits until new rooms are refused, so that the present leader knows that it is cut off.
    async fn refused(&self) {
        let began = Instant::now();
        for attempt in 0.. {
            let asked = measure::ask(&self.gateway, format!("refused-{attempt}"));
            // A gateway asks for some seconds before it gives up.
            if asked.await.is_err() {
                return;
            }
            assert!(began.elapsed() < LONG, "a replica that is cut off goes on placing");
            tokio::time::sleep(PAUSE).await;
        }
    }
}

async fn until(what: &str, holds: impl Fn() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < LONG, "in vain: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_replicas_cut_off_together_go_on_under_the_leader_they_have() {
    let scene = Scene::set().await;
    let (leader, epoch) = scene.leader().unwrap();
    scene.cut_all(true);
    // Well after it could have renewed last, so that only the others' word lets it place.
    let began = Instant::now();
    let mut rooms = 0;
    while began.elapsed() < Duration::from_secs(8) {
        rooms += 1;
        let reply = scene.placed(&format!("without-{rooms}")).await;
        assert_eq!(reply.epoch, epoch);
        tokio::time::sleep(PAUSE).await;
    }
    println!("{rooms} rooms placed in {:?} without the API server", began.elapsed());
    assert_eq!(scene.leader(), Some((leader, epoch)), "nobody else tried");
    scene.cut_all(false);
    let reply = scene.placed("after").await;
    assert_eq!(reply.epoch, epoch, "it renews the Lease that nobody took");
    assert_eq!(scene.operator.bed.double(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_without_a_majority_refuses_new_rooms_and_finds_the_old_ones() {
    let mut scene = Scene::set().await;
    let (leader, epoch) = scene.leader().unwrap();
    let home = scene.placed("old").await.endpoint.unwrap().media_node;
    scene.cut_all(true);
    let leading = scene.replicas.swap_remove(leader);
    let others = std::mem::replace(&mut scene.replicas, vec![leading]);
    others.into_iter().for_each(Replica::kill);
    scene.refused().await;
    assert_eq!(scene.leader(), Some((0, epoch)), "it still answers");
    let reply = scene.placed("old").await;
    assert_eq!(reply.endpoint.unwrap().media_node, home);
    scene.cut_all(false);
    assert_eq!(scene.placed("new").await.epoch, epoch, "contact returns");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_cut_off_alone_is_succeeded_and_steps_back() {
    let scene = Scene::set().await;
    let (former, epoch) = scene.leader().unwrap();
    let home = scene.placed("old").await.endpoint.unwrap().media_node;
    scene.replicas[former].way.cut(true);
    until("another replica leads", || {
        let others = scene.replicas.iter().enumerate().filter(|(number, _)| *number != former);
        others.filter_map(|(_, replica)| replica.epoch()).any(|other| other > epoch)
    })
    .await;
    // The media nodes have seen the higher epoch and show it.
    until("the former leader steps back", || scene.replicas[former].epoch().is_none()).await;
    let reply = scene.placed("old").await;
    assert!(reply.epoch > epoch);
    assert_eq!(reply.endpoint.unwrap().media_node, home, "rooms stay where they are");
    assert_eq!(scene.operator.bed.home("old"), Some(home));
    scene.replicas[former].way.cut(false);
    assert!(scene.placed("new").await.epoch > epoch);
    assert_eq!(scene.operator.bed.double(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_ends_in_order_leaves_its_lease_to_the_next_at_once() {
    let scene = Scene::set().await;
    let (leader, epoch) = scene.leader().unwrap();
    let began = Instant::now();
    scene.replicas[leader].stop();
    let mut attempt = 0;
    let reply = loop {
        attempt += 1;
        let reply = scene.placed(&format!("after-{attempt}")).await;
        if reply.epoch > epoch {
            break reply;
        }
    };
    println!("new rooms {:?} after the leader was told to stop", began.elapsed());
    assert_eq!(reply.epoch, epoch + 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_short_load_places_every_room_once_though_its_leader_is_killed() {
    let options = Options {
        rooms_per_second: 50,
        duration: Duration::from_secs(2),
        media_nodes: 3,
        room_lifetime: Duration::from_secs(5),
        kill_leader: true,
    };
    let figures = run(&options).await.unwrap();
    assert_eq!((figures.double, figures.refused), (0, 0), "{figures:?}");
}
