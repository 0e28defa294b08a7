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
use operator::replicas::{Asker, Leadership};
use operator_core::placement::{Admission, Settings};
use operator_core::world::DesiredState;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::lease_store::{LeaseStore, Way};
use super::media_node::{self, Bed};
use super::{CLUSTER, NAMESPACE, TENANT};

/// As the operator's default.
const LEASE_DURATION: Duration = Duration::from_secs(4);
/// Threads of a replica: a pod of the chart has no more.
const THREADS: usize = 2;
/// So that capacity is not what is measured.
const PARTICIPANTS_PER_NODE_MAX: u32 = 1_000_000;

/// What replicas of one operator share.
pub(super) struct Operator {
    pub(super) authority: Authority,
    pub(super) store: LeaseStore,
    pub(super) bed: Bed,
    /// Media nodes of the bed.
    pub(super) media_nodes: u8,
    /// How many replicas there are to be.
    pub(super) replicas: u32,
}

/// A running replica.
pub(super) struct Replica {
    /// Where its placer listens.
    pub(super) address: SocketAddr,
    /// Its way to the API server.
    #[cfg(test)]
    pub(super) way: Way,
    leadership: Arc<Leadership>,
    stop: CancellationToken,
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

impl Operator {
    /// Starts all replicas: they contend for the Lease, know the media nodes and each other.
    pub(super) fn start(&self) -> anyhow::Result<Vec<Replica>> {
        let listeners = (0..self.replicas)
            .map(|_| std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))
            .collect::<Result<Vec<_>, _>>()?;
        let addresses = listeners.iter().map(|listener| Ok(listener.local_addr()?.to_string()));
        let addresses = addresses.collect::<std::io::Result<Vec<_>>>()?.join(",");
        let numbered = listeners.into_iter().enumerate();
        numbered
            .map(|(number, listener)| {
                self.start_one(&format!("replica-{number}"), listener, &addresses)
            })
            .collect()
    }

    fn start_one(
        &self,
        identity: &str,
        listener: std::net::TcpListener,
        addresses: &str,
    ) -> anyhow::Result<Replica> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(THREADS)
            .enable_all()
            .build()
            .context("no runtime for a replica")?;
        let trust = Arc::new(TrustStore::default());
        let trusted = trust.put(NAMESPACE, CLUSTER, &self.authority, Timestamp::now());
        trusted.context("the CA is no CA")?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let (way, stop) = (Way::default(), CancellationToken::new());
        let leadership = {
            let _entered = runtime.enter();
            let parts = Parts {
                identity: identity.to_owned(),
                listener: tokio::net::TcpListener::from_std(listener)?,
                addresses: addresses.to_owned(),
                trust,
                client: self.store.client(&way),
                stop: stop.clone(),
            };
            self.compose(parts)
        };
        Ok(Replica {
            address,
            #[cfg(test)]
            way,
            leadership,
            stop,
            runtime: Some(runtime),
        })
    }
}

impl Replica {
    /// The epoch under which it answers gateways, if it does.
    pub(super) fn epoch(&self) -> Option<u64> {
        self.leadership.epoch()
    }

    /// Ends it without a word to anybody: its connections break, its Lease stays taken.
    pub(super) fn kill(self) {
        drop(self);
    }

    /// Tells it to end in order, as the kubelet does.
    pub(super) fn stop(&self) {
        self.stop.cancel();
    }
}

/// What one replica is composed of.
struct Parts {
    identity: String,
    listener: tokio::net::TcpListener,
    /// Of all replicas' placers.
    addresses: String,
    trust: Arc<TrustStore>,
    client: kube::Client,
    stop: CancellationToken,
}

impl Operator {
    /// Starts every part in the runtime that was entered.
    fn compose(&self, parts: Parts) -> Arc<Leadership> {
        let Parts { identity, listener, addresses, trust, client, stop } = parts;
        let metrics = Arc::new(Metrics::new());
        let (epoch_seen, epoch_receiver) = watch::channel(0);
        let acknowledged = Arc::new(Acknowledged::default());
        let candidacy = Candidacy {
            namespace: "hemicycle-system".to_owned(),
            lease: "hemicycle-operator".to_owned(),
            identity: identity.clone(),
            duration: LEASE_DURATION,
        };
        let (contender, standing) =
            Contender::new(client, candidacy, epoch_receiver, Arc::clone(&acknowledged));
        let leadership = Leadership::new(standing, self.replicas).until(contender.term_end());
        let leadership = Arc::new(leadership);
        let fleet = Arc::new(Fleet::new(
            Arc::clone(&trust),
            Arc::clone(&leadership),
            Arc::clone(&metrics),
            epoch_seen.clone(),
        ));
        let asker = Asker {
            address: addresses,
            trust: Arc::clone(&trust),
            identity: identity.clone(),
            epoch_seen: epoch_seen.clone(),
            leadership: Arc::clone(&leadership),
        };
        let service = Placer {
            fleet: Arc::clone(&fleet),
            leadership: Arc::clone(&leadership),
            metrics: Arc::clone(&metrics),
            acknowledged,
            epoch_seen,
            identity,
        };
        tokio::spawn(asker.run(stop.clone()));
        tokio::spawn(placer::serve(listener, trust, service, metrics, stop.clone()));
        tokio::spawn(contender.run(stop));
        let (bed, media_nodes) = (self.bed.clone(), self.media_nodes);
        tokio::spawn(lead(fleet, Arc::clone(&leadership), bed, media_nodes));
        leadership
    }
}

/// Begins and ends terms as the standing changes, as the operator does.
async fn lead(fleet: Arc<Fleet>, leadership: Arc<Leadership>, bed: Bed, media_nodes: u8) {
    let mut standing = leadership.watch();
    let mut term = None;
    loop {
        match *standing.borrow_and_update() {
            Standing::Leading { epoch } if term != Some(epoch) => {
                fleet.begin_term(epoch);
                tell_media_nodes(&fleet, &bed, media_nodes);
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

fn tell_media_nodes(fleet: &Arc<Fleet>, bed: &Bed, count: u8) {
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
        ip: bed.address(number),
        desired: DesiredState::Serving,
        ticket: None,
    });
    fleet.set_targets(settings, known.collect(), targets.collect());
}
