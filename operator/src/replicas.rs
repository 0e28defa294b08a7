//! Asks the other replicas, while the Lease cannot be renewed, whether this one may go on placing.
//! Keeps the answers' ages; [`crate::lease::holding`] holds the rule. Writes nothing to Kubernetes.
//! Invariant: no new room is placed without a fresh majority once the standing is `Holding`.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use placement_api::v1::{AcknowledgeRequest, replica_client::ReplicaClient};
use tokio::{
    net::lookup_host,
    sync::watch,
    task::JoinSet,
    time::{MissedTickBehavior, interval, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    fleet::channel,
    lease::{Standing, TermEnd, holding},
    pki::{Role, trust::TrustStore},
};

/// How often a leader without the API server asks.
const ASK_EVERY: Duration = Duration::from_secs(1);
/// Deadline of one question, connection included: shorter than an answer stays fresh.
const ASK_TIMEOUT: Duration = Duration::from_millis(1_500);
/// Addresses asked at most: more replicas than the chart allows are not replicas.
const ADDRESSES_MAX: usize = 16;

/// What this replica may do, as seen by those who place.
#[derive(Debug)]
pub struct Leadership {
    standing: watch::Receiver<Standing>,
    answers: Mutex<BTreeMap<String, Instant>>,
    replicas: u32,
    term_end: Arc<TermEnd>,
}

impl Leadership {
    /// Follows `standing`; `replicas` is the size of the Deployment.
    #[must_use]
    pub fn new(standing: watch::Receiver<Standing>, replicas: u32) -> Self {
        Self { standing, answers: Mutex::default(), replicas, term_end: Arc::default() }
    }

    /// Also looks at the end of the term, which a process that slept may not have noticed yet.
    #[must_use]
    pub fn until(self, term_end: Arc<TermEnd>) -> Self {
        Self { term_end, ..self }
    }

    /// The standing, changes included.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Standing> {
        self.standing.clone()
    }

    /// The epoch under which this replica answers gateways; `None` when it does not lead.
    #[must_use]
    pub fn epoch(&self) -> Option<u64> {
        match *self.standing.borrow() {
            Standing::Following => None,
            Standing::Leading { epoch } | Standing::Holding { epoch } => Some(epoch),
        }
    }

    /// Whether new rooms may be placed and grants be given now.
    #[must_use]
    pub fn may_place(&self) -> bool {
        match *self.standing.borrow() {
            Standing::Following => false,
            Standing::Leading { .. } if !self.term_end.has_passed() => true,
            Standing::Leading { .. } | Standing::Holding { .. } => {
                holding::majority(self.fresh(), self.replicas)
            }
        }
    }

    fn fresh(&self) -> usize {
        let answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        answers.values().filter(|given| given.elapsed() < holding::ANSWER_FRESH).count()
    }

    fn acknowledged_by(&self, identity: String, asked: Instant) {
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        answers.retain(|_, given| given.elapsed() < holding::ANSWER_FRESH);
        answers.insert(identity, asked);
    }
}

/// What asking needs.
#[derive(Clone)]
pub struct Asker {
    /// Name and port of the headless Service of all replicas; several by commas.
    pub address: String,
    /// How replicas know each other.
    pub trust: Arc<TrustStore>,
    /// This replica, as in the Lease.
    pub identity: String,
    /// Where a higher epoch is told.
    pub epoch_seen: watch::Sender<u64>,
    /// Where answers are kept.
    pub leadership: Arc<Leadership>,
}

impl Asker {
    /// Asks every second while the standing is `Holding`, until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let mut addresses: Vec<SocketAddr> = Vec::new();
        let mut tick = interval(ASK_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut beats = 0_u32;
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = tick.tick() => {}
            }
            let standing = *self.leadership.standing.borrow();
            // The addresses are learnt while all is well: DNS may be gone together with the API
            // server.
            if beats.is_multiple_of(10) || matches!(standing, Standing::Holding { .. }) {
                self.resolve(&mut addresses).await;
            }
            beats = beats.wrapping_add(1);
            if let Standing::Holding { epoch } = standing {
                self.ask_all(&addresses, epoch).await;
            }
        }
    }

    async fn resolve(&self, addresses: &mut Vec<SocketAddr>) {
        let mut all = Vec::new();
        for host in self.address.split(',') {
            if let Ok(Ok(found)) = timeout(ASK_TIMEOUT, lookup_host(host)).await {
                all.extend(found);
            }
        }
        all.truncate(ADDRESSES_MAX);
        if !all.is_empty() {
            *addresses = all;
        }
    }

    async fn ask_all(&self, addresses: &[SocketAddr], epoch: u64) {
        let mut questions = JoinSet::new();
        for address in addresses {
            let (asker, address) = (self.clone(), *address);
            questions.spawn(async move {
                let asked = timeout(ASK_TIMEOUT, asker.ask(address, epoch)).await;
                if !matches!(asked, Ok(Ok(()))) {
                    tracing::debug!(?asked, "a replica did not acknowledge");
                }
            });
        }
        while questions.join_next().await.is_some() {}
    }

    async fn ask(&self, address: SocketAddr, epoch: u64) -> anyhow::Result<()> {
        let trusted = self.trust.any().ok_or_else(|| anyhow::anyhow!("no CA is known yet"))?;
        let name = trusted.dns_name(&Role::Placer);
        let asked = Instant::now();
        let channel = channel::connect(&trusted, address, &name).await?;
        let request = AcknowledgeRequest { epoch, identity: self.identity.clone() };
        let reply = ReplicaClient::new(channel).acknowledge(request).await?.into_inner();
        // Our own address is among them; our vote is counted already.
        if reply.identity == self.identity {
            return Ok(());
        }
        if reply.epoch_highest > epoch {
            self.epoch_seen.send_if_modified(|seen| {
                let higher = reply.epoch_highest > *seen;
                *seen = reply.epoch_highest.max(*seen);
                higher
            });
        }
        if reply.acknowledged {
            self.leadership.acknowledged_by(reply.identity, asked);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leader_cut_off_places_only_with_a_fresh_majority() {
        let (standing, receiver) = watch::channel(Standing::Holding { epoch: 3 });
        let leadership = Leadership::new(receiver, 3);
        assert!(!leadership.may_place());
        leadership.acknowledged_by("b".into(), Instant::now());
        assert!(leadership.may_place());
        let stale = Instant::now().checked_sub(holding::ANSWER_FRESH).expect("up long enough");
        leadership.acknowledged_by("b".into(), stale);
        assert!(!leadership.may_place());
        standing.send_replace(Standing::Leading { epoch: 3 });
        assert!(leadership.may_place());
        standing.send_replace(Standing::Following);
        assert!(!leadership.may_place());
        assert_eq!(leadership.epoch(), None);
    }
}
