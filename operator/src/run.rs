//! Wires the parts of the process: admin listener, watches, Lease, placer, and, while this replica
//! leads, the fleet and the reconcile. Decides only which parts run; the Lease decides who leads.
//! Invariant: when leadership ends, the reconcile is dropped at once, calls in flight included.

use std::{
    collections::BTreeSet,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use anyhow::Context as _;
use jiff::Timestamp;
use kube::{
    Client, ResourceExt,
    runtime::events::{Recorder, Reporter},
};
use tokio::{net::TcpListener, sync::watch, task::JoinHandle, time::interval};
use tokio_util::sync::CancellationToken;

use crate::{
    admin::{self, Readiness},
    admission::Admission,
    api_client,
    config::Config,
    evidence::Book,
    fleet::Fleet,
    lease::{Candidacy, Contender, Standing, holding::Acknowledged},
    metrics::Metrics,
    pki::{
        signing::{self, SigningKeys},
        store,
        trust::TrustStore,
    },
    placer,
    reconcile::{self, context::Context, seen},
    replicas::{Asker, Leadership},
    watches::Watches,
    witness::{self, Witness},
};

/// How often a replica looks for CAs that it does not know and renews its own certificates.
const TRUST_EVERY: Duration = Duration::from_secs(2);
/// Every how many of those rounds known CAs are read again: a minute, well within the hour for
/// which a new CA is only announced.
const TRUST_ROUNDS: u32 = 30;

/// What all parts share.
struct Parts {
    config: Arc<Config>,
    client: Client,
    metrics: Arc<Metrics>,
    readiness: Arc<Readiness>,
    trust: Arc<TrustStore>,
    watches: Watches,
    identity: String,
    stop: CancellationToken,
}

/// Runs the operator until `stop`.
///
/// # Errors
/// When a listener cannot be bound or the API server's configuration cannot be used.
pub async fn run(config: Arc<Config>, stop: CancellationToken) -> anyhow::Result<()> {
    let kube_config = kube::Config::infer().await.context("no way to the API server is known")?;
    let metrics = Arc::new(Metrics::new());
    let readiness = Arc::new(Readiness::default());
    let client = api_client::client(kube_config, metrics.clone(), readiness.clone())
        .context("the API server's configuration cannot be used")?;
    let address = config.placer_listen_address;
    let bound = TcpListener::bind(address).await;
    let listener = bound.with_context(|| format!("cannot listen on {address}"))?;
    let admin = tokio::spawn(admin::serve(
        config.admin_address,
        readiness.clone(),
        metrics.clone(),
        stop.clone().cancelled_owned(),
    ));
    let watches = Watches::start(&client, &stop);
    let trust = Arc::new(TrustStore::default());
    tokio::spawn(learn_trust(client.clone(), trust.clone(), watches.clone(), stop.clone()));
    let identity = format!("{}_{:016x}", config.pod_name, rand_u64());
    let parts = Parts { config, client, metrics, readiness, trust, watches, identity, stop };
    lead_or_follow(parts, listener).await?;
    admin.await.context("the admin listener ended badly")??;
    Ok(())
}

/// Contends for the Lease, serves gateways, and works while it leads.
async fn lead_or_follow(parts: Parts, listener: TcpListener) -> anyhow::Result<()> {
    let Parts { config, client, metrics, readiness, trust, watches, identity, stop } = parts;
    let (epoch_seen, epoch_receiver) = watch::channel(0);
    let acknowledged = Arc::new(Acknowledged::default());
    let candidacy = Candidacy {
        namespace: config.namespace.clone(),
        lease: config.lease_name.clone(),
        identity: identity.clone(),
        duration: Duration::from_secs(config.lease_seconds.into()),
    };
    let (contender, standing) =
        Contender::new(client.clone(), candidacy, epoch_receiver, acknowledged.clone());
    let leadership = Leadership::new(standing, config.replicas).until(contender.term_end());
    let leadership = Arc::new(leadership);
    let fleet = Arc::new(Fleet::new(
        trust.clone(),
        leadership.clone(),
        metrics.clone(),
        epoch_seen.clone(),
    ));
    let asker = Asker {
        address: config.placer_address.clone(),
        trust: trust.clone(),
        identity: identity.clone(),
        epoch_seen: epoch_seen.clone(),
        leadership: leadership.clone(),
    };
    tokio::spawn(asker.run(stop.clone()));
    let service = placer::Placer {
        fleet: fleet.clone(),
        leadership: leadership.clone(),
        metrics: metrics.clone(),
        acknowledged,
        epoch_seen,
        identity: identity.clone(),
    };
    let serving = placer::serve(listener, trust.clone(), service, metrics.clone(), stop.clone());
    let placer = tokio::spawn(serving);
    readiness.placer_listens.store(true, Ordering::Relaxed);

    let reporter = Reporter { controller: "hemicycle-operator".into(), instance: Some(identity) };
    let recorder = Recorder::new(client.clone(), reporter);
    let admission = Admission::new(&config.admission())?;
    let witness = Arc::new(Witness::new(config.witness()?, metrics.clone()));
    let terms = Terms {
        client,
        config,
        recorder,
        metrics,
        trust,
        fleet,
        leadership,
        watches,
        admission,
        witness,
        book: Arc::new(Book::default()),
    };
    let leading = tokio::spawn(Arc::new(terms).follow(stop.clone()));
    contender.run(stop.clone()).await;
    stop.cancel();
    leading.await.context("the supervision of terms ended badly")?;
    placer.await.context("the placer ended badly")??;
    Ok(())
}

/// A number that no other process draws: the Lease's holder must be one process and no other.
fn rand_u64() -> u64 {
    use std::hash::{BuildHasher, Hasher, RandomState};
    RandomState::new().build_hasher().finish()
}

/// Starts and ends the work of a leader as its standing changes.
struct Terms {
    client: Client,
    config: Arc<Config>,
    recorder: Recorder,
    metrics: Arc<Metrics>,
    trust: Arc<TrustStore>,
    fleet: Arc<Fleet>,
    leadership: Arc<Leadership>,
    watches: Watches,
    admission: Arc<Admission>,
    witness: Arc<Witness>,
    /// Outlives a term: each answer in it bears its own age.
    book: Arc<Book>,
}

impl Terms {
    async fn follow(self: Arc<Self>, stop: CancellationToken) {
        let mut standing = self.leadership.watch();
        let mut reconcile: Option<JoinHandle<()>> = None;
        let mut term = None;
        let mut witnessing = CancellationToken::new();
        loop {
            let now = *standing.borrow_and_update();
            self.metrics.leader.set(i64::from(now != Standing::Following));
            match now {
                Standing::Leading { epoch } => {
                    if term != Some(epoch) {
                        self.metrics.epoch.set(i64::try_from(epoch).unwrap_or(i64::MAX));
                        self.fleet.begin_term(epoch);
                        term = Some(epoch);
                        witnessing.cancel();
                        witnessing = CancellationToken::new();
                        tokio::spawn(self.clone().bear_witness(epoch, witnessing.clone()));
                    }
                    if reconcile.is_none() {
                        reconcile = Some(tokio::spawn(self.clone().lead(epoch)));
                    }
                }
                Standing::Holding { .. } => end(&mut reconcile),
                Standing::Following => {
                    end(&mut reconcile);
                    if term.take().is_some() {
                        witnessing.cancel();
                        self.fleet.end_term();
                    }
                }
            }
            tokio::select! {
                () = stop.cancelled() => break,
                changed = standing.changed() => if changed.is_err() { break },
            }
        }
        end(&mut reconcile);
        witnessing.cancel();
        self.fleet.end_term();
    }

    /// Through the whole term, also while the API server is away and the reconcile rests.
    async fn bear_witness(self: Arc<Self>, epoch: u64, stop: CancellationToken) {
        let keys = tokio::select! {
            () = stop.cancelled() => return,
            keys = signing::ensured(&self.client, &self.config.namespace) => Arc::new(keys),
        };
        self.witness.journal().acts(&self.config.pod_name, epoch);
        let term = witness::Term { epoch, keys, fleet: self.fleet.clone() };
        self.witness.clone().run(term, stop).await;
    }

    /// First the keys: no media node is spoken to before there is a ticket for it, since its
    /// absence would take away the one that it holds.
    async fn lead(self: Arc<Self>, epoch: u64) {
        let keys = Arc::new(signing::ensured(&self.client, &self.config.namespace).await);
        self.fleet.sign_with(keys.clone());
        reconcile::run(Arc::new(self.context(epoch, keys))).await;
    }

    fn context(&self, epoch: u64, signing: Arc<SigningKeys>) -> Context {
        self.book.begin_term(seen::timestamp(Timestamp::now()));
        Context {
            client: self.client.clone(),
            config: self.config.clone(),
            recorder: self.recorder.clone(),
            metrics: self.metrics.clone(),
            trust: self.trust.clone(),
            signing,
            fleet: self.fleet.clone(),
            leadership: self.leadership.clone(),
            epoch,
            watches: self.watches.clone(),
            admission: self.admission.clone(),
            witness: self.witness.clone(),
            book: self.book.clone(),
            memory: std::sync::Mutex::default(),
            clock: Timestamp::now,
        }
    }
}

fn end(task: &mut Option<JoinHandle<()>>) {
    if let Some(task) = task.take() {
        task.abort();
    }
}

/// Keeps every replica able to speak to gateways and media nodes, so that a new leader loses no
/// time.
async fn learn_trust(
    client: Client,
    trust: Arc<TrustStore>,
    watches: Watches,
    stop: CancellationToken,
) {
    let mut tick = interval(TRUST_EVERY);
    let mut round = 0_u32;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = tick.tick() => {}
        }
        let again = round.is_multiple_of(TRUST_ROUNDS);
        round = round.wrapping_add(1);
        let now = Timestamp::now();
        let mut present = BTreeSet::new();
        for cluster in watches.meeting_clusters.state() {
            let namespace = cluster.namespace().unwrap_or_default();
            let name = cluster.name_any();
            let tenant = format!("{namespace}/{name}");
            if again || trust.get(&tenant).is_none() {
                learn_one(&client, &trust, &namespace, &name, now).await;
            }
            present.insert(tenant);
        }
        // An empty copy may only mean that the API server was never reached.
        if !present.is_empty() {
            trust.retain(&present);
        }
        trust.refresh(now);
    }
}

async fn learn_one(
    client: &Client,
    trust: &TrustStore,
    namespace: &str,
    name: &str,
    now: Timestamp,
) {
    match store::load_authority(client, namespace, name).await {
        Ok(Some(authority)) => {
            if let Err(error) = trust.put(namespace, name, &authority, now) {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, namespace, name, "the internal CA cannot be used");
            }
        }
        Ok(None) => {}
        Err(error) => {
            let error = &error as &dyn std::error::Error;
            tracing::debug!(error, namespace, name, "the internal CA could not be read");
        }
    }
}
