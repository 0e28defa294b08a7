//! One operator replica as far as placing goes: the real contender for the Lease, fleet, placer and
//! its listener, on a runtime of its own, so that it can be killed as a process is.
//!
//! Decides nothing. Stands in for the reconcile by telling the fleet its media nodes.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use jiff::Timestamp;
use operator::fleet::{Fleet, Known, Target};
use operator::lease::holding::Acknowledged;
use operator::lease::{Candidacy, Contender, Standing};
use operator::metrics::Metrics;
use operator::pki::Authority;
use operator::pki::trust::TrustStore;
use operator::placer::{self, Placer};
use operator::replicas::Leadership;
use operator_core::placement::{Admission, Settings};
use operator_core::world::DesiredState;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::lease_store::LeaseStore;
use super::{CLUSTER, NAMESPACE, TENANT, media_node};

/// As the operator's default.
const LEASE_DURATION: Duration = Duration::from_secs(7);
/// Threads of a replica: a pod of the chart has no more.
const THREADS: usize = 2;
/// So that capacity is not what is measured.
const PARTICIPANTS_PER_NODE_MAX: u32 = 1_000_000;

/// A running replica.
pub(super) struct Replica {
    /// Where its placer listens.
    pub(super) address: SocketAddr,
    leadership: Arc<Leadership>,
    runtime: Option<Runtime>,
}

impl Drop for Replica {
    /// Without waiting: a runtime may not be waited for inside another.
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Replica {
    /// Starts a replica that contends for the Lease and knows so many media nodes.
    pub(super) fn start(
        identity: &str,
        authority: &Authority,
        store: &LeaseStore,
        media_nodes: u8,
    ) -> anyhow::Result<Self> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(THREADS)
            .enable_all()
            .build()
            .context("no runtime for a replica")?;
        let trust = Arc::new(TrustStore::default());
        trust.put(NAMESPACE, CLUSTER, authority, Timestamp::now()).context("the CA is no CA")?;
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let leadership = {
            let _entered = runtime.enter();
            let listener = tokio::net::TcpListener::from_std(listener)?;
            compose(identity, listener, trust, store, media_nodes)
        };
        Ok(Self { address, leadership, runtime: Some(runtime) })
    }

    /// Whether it holds the Lease.
    pub(super) fn leads(&self) -> bool {
        self.leadership.epoch().is_some()
    }

    /// Ends it without a word to anybody: its connections break, its Lease stays taken.
    pub(super) fn kill(self) {
        drop(self);
    }
}

/// Starts every part in the runtime that was entered.
fn compose(
    identity: &str,
    listener: tokio::net::TcpListener,
    trust: Arc<TrustStore>,
    store: &LeaseStore,
    media_nodes: u8,
) -> Arc<Leadership> {
    let metrics = Arc::new(Metrics::new());
    let (epoch_seen, epoch_receiver) = watch::channel(0);
    let acknowledged = Arc::new(Acknowledged::default());
    let candidacy = Candidacy {
        namespace: "hemicycle-system".to_owned(),
        lease: "hemicycle-operator".to_owned(),
        identity: identity.to_owned(),
        duration: LEASE_DURATION,
    };
    let (contender, standing) =
        Contender::new(store.client(), candidacy, epoch_receiver, Arc::clone(&acknowledged));
    let leadership = Arc::new(Leadership::new(standing, 2));
    let fleet = Arc::new(Fleet::new(
        Arc::clone(&trust),
        Arc::clone(&leadership),
        Arc::clone(&metrics),
        epoch_seen.clone(),
    ));
    let service = Placer {
        fleet: Arc::clone(&fleet),
        leadership: Arc::clone(&leadership),
        metrics: Arc::clone(&metrics),
        acknowledged,
        epoch_seen,
        identity: identity.to_owned(),
    };
    let never = CancellationToken::new();
    tokio::spawn(placer::serve(listener, trust, service, metrics, never.clone()));
    tokio::spawn(contender.run(never));
    tokio::spawn(lead(fleet, Arc::clone(&leadership), media_nodes));
    leadership
}

/// Begins and ends terms as the standing changes, as the operator does.
async fn lead(fleet: Arc<Fleet>, leadership: Arc<Leadership>, media_nodes: u8) {
    let mut standing = leadership.watch();
    let mut term = None;
    loop {
        match *standing.borrow_and_update() {
            Standing::Leading { epoch } if term != Some(epoch) => {
                fleet.begin_term(epoch);
                tell_media_nodes(&fleet, media_nodes);
                term = Some(epoch);
            }
            Standing::Following if term.take().is_some() => fleet.end_term(),
            _ => {}
        }
        if standing.changed().await.is_err() {
            return;
        }
    }
}

fn tell_media_nodes(fleet: &Arc<Fleet>, count: u8) {
    let settings = Settings {
        tenant: TENANT.into(),
        participants_per_node_max: PARTICIPANTS_PER_NODE_MAX,
        target_fill: 0.8,
    };
    let names = || (1..=count).map(|number| (number, media_node::name(number)));
    let known = names().map(|(_, name)| Known {
        media_node: name,
        zone: String::new(),
        admission: Admission::Admit,
    });
    let targets = names().map(|(number, name)| Target {
        pod_uid: format!("uid-{name}"),
        media_node: name,
        ip: media_node::address(number),
        desired: DesiredState::Serving,
    });
    fleet.set_targets(settings, known.collect(), targets.collect());
}
