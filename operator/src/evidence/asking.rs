//! Asks each scope's provider about the machines of its Kubernetes nodes: at once when one is new,
//! then again before the answer grows stale. Runs while this replica leads.
//!
//! Judges no answer. Invariant: a failure changes nothing that is known; the last answer stays and
//! grows older. One call at a time for each scope, and [`CALLS_MAX`] for all.

use std::{
    collections::{BTreeMap, BTreeSet, hash_map::DefaultHasher},
    hash::{Hash, Hasher},
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use futures_util::{FutureExt, StreamExt, stream::FuturesUnordered};
use hemicycle_crds::{QualificationScope, qualification_scope::ProviderApi as Spec};
use k8s_openapi::api::core::v1::{Node, Secret};
use kube::{Api, Client, ResourceExt};
use operator_core::{
    evidence::MachineSeen,
    ids::{KubernetesNodeName, ScopeName, Timestamp},
    provider_id,
};
use tokio::time::{Instant, interval, timeout};

use super::{
    book::{Book, Place, Sight},
    provider_api::{self, Credentials, Machines, ProviderApi, ProviderApiError},
};
use crate::{
    metrics::Metrics,
    reconcile::{context::Clock, seen},
    watches::Watches,
};

/// How often it is looked at what is to be asked.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Time between two calls to the API of one scope: providers throttle users who ask faster.
const CALL_GAP: Duration = Duration::from_millis(250);
/// Calls at once, so that some APIs that hang do not keep the others from being asked.
const CALLS_MAX: usize = 8;
/// How long a call may take with all that belongs to it: Secret, `ReadVms` and `ReadAccounts`.
const CALL_WITHIN: Duration = Duration::from_secs(25);
/// Age at which an answer is asked for anew: two more attempts fit before it counts no more.
const ASK_EVERY_MS: u64 = 300_000;
/// By how much scopes ask earlier than that, each by its own share, so as not to ask together.
const SPREAD_MS: u64 = 60_000;
/// Answers that will be due within this time are asked for along with those that are.
const EARLY_MS: u64 = 60_000;
/// Pause after a first failure; it doubles with each further one.
const PAUSE_MS: u64 = 15_000;
/// Longest pause.
const PAUSE_MAX_MS: u64 = 120_000;
/// How long a Secret that was read is used; also the pause after one that was of no use.
const SECRET_MS: u64 = 60_000;

/// What asking needs.
pub struct Asking {
    /// For Secrets.
    pub client: Client,
    /// The operator's own namespace, where those Secrets are.
    pub namespace: String,
    /// Kubernetes nodes and scopes.
    pub watches: Watches,
    /// Where answers are written down.
    pub book: Arc<Book>,
    /// Counts calls.
    pub metrics: Arc<Metrics>,
    /// The wall clock.
    pub clock: Clock,
}

/// The API of one scope.
struct Provider {
    spec: Spec,
    opened: Option<Opened>,
    /// No call before, by either clock.
    pause_until: Timestamp,
    gap_until: Instant,
    failures: u32,
    /// The kind of the last failure, so that the log tells each change once.
    told: Option<&'static str>,
}

/// The API, with the Secret that opened it.
struct Opened {
    api: Arc<dyn ProviderApi>,
    credentials: Credentials,
    read: Timestamp,
}

/// One machine to ask about.
struct Subject {
    kubernetes_node: KubernetesNodeName,
    provider_id: String,
    machine: String,
}

/// A call that came to its end.
struct Done {
    scope: ScopeName,
    provider: Provider,
    subjects: Vec<Subject>,
    asked: Timestamp,
    outcome: Result<Machines, ProviderApiError>,
}

type Calls<'a> = FuturesUnordered<Pin<Box<dyn Future<Output = Done> + Send + 'a>>>;
type Providers = BTreeMap<ScopeName, Provider>;

impl Asking {
    fn now(&self) -> Timestamp {
        seen::timestamp((self.clock)())
    }

    /// Runs until dropped.
    pub async fn run(self) {
        let mut changes = self.watches.changes.clone();
        let mut tick = interval(LOOK_EVERY);
        let mut calls = Calls::new();
        // Those that are not asked right now.
        let mut idle = Providers::new();
        let mut busy: BTreeSet<ScopeName> = BTreeSet::new();
        loop {
            self.look(&mut idle, &mut busy, &calls);
            tokio::select! {
                _ = tick.tick() => {}
                changed = changes.changed() => if changed.is_err() { return },
                Some(done) = calls.next(), if !calls.is_empty() => {
                    busy.remove(&done.scope);
                    self.heard(done, &mut idle);
                }
            }
        }
    }

    /// Learns what there is, and begins the calls that are due.
    fn look<'a>(&'a self, idle: &mut Providers, busy: &mut BTreeSet<ScopeName>, calls: &Calls<'a>) {
        let (scopes, nodes) = (&self.watches.scopes, &self.watches.kubernetes_nodes);
        if scopes.wait_until_ready().now_or_never().is_none()
            || nodes.wait_until_ready().now_or_never().is_none()
        {
            return;
        }
        let (scopes, nodes, now) = (scopes.state(), nodes.state(), self.now());
        let readable: BTreeMap<ScopeName, &QualificationScope> = scopes
            .iter()
            .filter_map(|guard| guard.0.as_ref().ok())
            .map(|scope| (ScopeName::new(scope.name_any()), scope))
            .collect();
        let names = nodes.iter().map(|node| KubernetesNodeName::new(node.name_any())).collect();
        let places = readable
            .iter()
            .map(|(name, scope)| (name.clone(), scope.spec.provider_api.as_ref().map(Place::from)));
        self.book.keep(&names, &places.collect(), now);
        self.adopt(idle, busy, &readable);
        for (name, scope) in &readable {
            if calls.len() >= CALLS_MAX {
                return;
            }
            if !idle.get(name).is_some_and(|provider| provider.may_ask(now)) {
                continue;
            }
            let subjects = self.due(name, scope, &nodes, now);
            if subjects.is_empty() {
                self.book.sight(name, Sight::Heard);
            } else if let Some(provider) = idle.remove(name) {
                busy.insert(name.clone());
                calls.push(Box::pin(self.call(name.clone(), provider, subjects)));
            }
        }
    }

    /// Keeps one provider for each scope that names an API, and those that are asked right now.
    fn adopt(
        &self,
        idle: &mut Providers,
        busy: &BTreeSet<ScopeName>,
        scopes: &BTreeMap<ScopeName, &QualificationScope>,
    ) {
        let spec = |name: &ScopeName| scopes.get(name)?.spec.provider_api.as_ref();
        idle.retain(|name, provider| {
            let stays = spec(name) == Some(&provider.spec);
            if spec(name).is_none() {
                self.metrics.forget_scope(name.as_str());
            }
            stays
        });
        for name in scopes.keys().filter(|name| !busy.contains(*name)) {
            if let (Some(spec), false) = (spec(name), idle.contains_key(name)) {
                idle.insert(name.clone(), Provider::new(spec.clone()));
            }
        }
    }

    /// Machines whose answer is missing or old, the oldest first, as many as one call takes.
    fn due(
        &self,
        name: &ScopeName,
        scope: &QualificationScope,
        nodes: &[Arc<Node>],
        now: Timestamp,
    ) -> Vec<Subject> {
        let label = &scope.spec.node_label;
        let has_room = self.book.has_room();
        let every = ask_every_ms(name);
        let mut found: Vec<(u64, Subject)> = Vec::new();
        for node in nodes.iter().filter(|it| it.labels().get(&label.key) == Some(&label.value)) {
            let id = node.spec.as_ref().and_then(|spec| spec.provider_id.as_deref());
            let Some((id, machine)) = id.and_then(|id| Some((id, provider_id::machine(id)?)))
            else {
                continue;
            };
            let kubernetes_node = KubernetesNodeName::new(node.name_any());
            let asked = self.book.asked(&(kubernetes_node.clone(), name.clone()), id);
            let age = match asked {
                None if !has_room => continue,
                None => u64::MAX,
                // A clock that was set back would keep an answer young for as long.
                Some(asked) if asked > now => u64::MAX,
                Some(asked) => now.since_ms(asked),
            };
            let (provider_id, machine) = (id.to_owned(), machine.to_owned());
            found.push((age, Subject { kubernetes_node, provider_id, machine }));
        }
        if !found.iter().any(|(age, _)| *age >= every) {
            return vec![];
        }
        found.retain(|(age, _)| *age >= every.saturating_sub(EARLY_MS));
        found.sort_by(|(a, one), (b, other)| {
            b.cmp(a).then_with(|| one.kubernetes_node.cmp(&other.kubernetes_node))
        });
        found.truncate(
            scope.spec.provider_api.as_ref().map_or(0, |api| provider_api::batch_max(api.kind)),
        );
        found.into_iter().map(|(_, subject)| subject).collect()
    }

    async fn call(&self, scope: ScopeName, mut provider: Provider, subjects: Vec<Subject>) -> Done {
        let asked = self.now();
        let ids: BTreeSet<String> = subjects.iter().map(|it| it.machine.clone()).collect();
        let ids: Vec<String> = ids.into_iter().collect();
        let outcome = timeout(CALL_WITHIN, self.ask(&mut provider, &ids)).await;
        let outcome = outcome.unwrap_or_else(|_| {
            let why = format!("no answer within {} s", CALL_WITHIN.as_secs());
            Err(ProviderApiError::Unreachable { act: "the provider's API", why })
        });
        Done { scope, provider, subjects, asked, outcome }
    }

    async fn ask(
        &self,
        provider: &mut Provider,
        ids: &[String],
    ) -> Result<Machines, ProviderApiError> {
        let now = self.now();
        if let Some(opened) = &provider.opened
            && opened.read <= now
            && now.since_ms(opened.read) < SECRET_MS
        {
            return opened.api.machines(ids).await;
        }
        let name = &provider.spec.secret_name;
        let secrets: Api<Secret> = Api::namespaced(self.client.clone(), &self.namespace);
        let secret = secrets.get_opt(name).await.map_err(|error| {
            let why = format!("Secret {name}: {error}");
            ProviderApiError::Unreachable { act: "the API server", why }
        })?;
        let credentials = Credentials::read(name, secret.as_ref())?;
        let api = match provider.opened.take() {
            // Its connections are kept.
            Some(opened) if opened.credentials == credentials => opened.api,
            _ => provider_api::open(&provider.spec, credentials.clone(), self.clock)?,
        };
        provider.opened = Some(Opened { api: api.clone(), credentials, read: now });
        api.machines(ids).await
    }

    /// Writes answers down; of a failure only that it happened.
    fn heard(&self, done: Done, idle: &mut Providers) {
        let Done { scope, mut provider, subjects, asked, outcome } = done;
        provider.gap_until = Instant::now() + CALL_GAP;
        let word = outcome.as_ref().map_or_else(ProviderApiError::kind, |_| "ok");
        self.metrics.provider_api_calls.with_label_values(&[scope.as_str(), word]).inc();
        match outcome {
            Ok(machines) => {
                if provider.told.take().is_some() {
                    tracing::info!(%scope, "the provider's API answers again");
                }
                (provider.failures, provider.pause_until) = (0, Timestamp(0));
                let place = Place::from(&provider.spec);
                for Subject { kubernetes_node, provider_id, machine } in subjects {
                    let seen = machine_seen(machines.get(&machine), asked);
                    let key = (kubernetes_node, scope.clone());
                    self.book.write(key, provider_id, seen, &place);
                }
            }
            Err(error) => {
                self.book.sight(&scope, Sight::Tried);
                provider.pause_until = self.now().plus_ms(pause_ms(&error, provider.failures));
                provider.failures = provider.failures.saturating_add(1);
                if provider.told.replace(error.kind()) != Some(error.kind()) {
                    let kind = error.kind();
                    tracing::warn!(%scope, kind, "the provider's API gives no evidence: {error}");
                }
            }
        }
        idle.insert(scope, provider);
    }
}

impl Provider {
    fn new(spec: Spec) -> Self {
        Self {
            spec,
            opened: None,
            pause_until: Timestamp(0),
            gap_until: Instant::now(),
            failures: 0,
            told: None,
        }
    }

    fn may_ask(&self, now: Timestamp) -> bool {
        // A clock that was set back makes no pause longer.
        let pauses = now < self.pause_until && self.pause_until.since_ms(now) <= PAUSE_MAX_MS;
        !pauses && self.gap_until <= Instant::now()
    }
}

fn machine_seen(machine: Option<&Option<provider_api::Machine>>, asked: Timestamp) -> MachineSeen {
    match machine.and_then(Option::as_ref) {
        None => MachineSeen::NotThere { asked },
        Some(machine) => MachineSeen::Found {
            account: machine.account.clone(),
            region: machine.region.clone(),
            subregion: machine.subregion.clone(),
            asked,
        },
    }
}

fn ask_every_ms(scope: &ScopeName) -> u64 {
    let mut hasher = DefaultHasher::new();
    scope.hash(&mut hasher);
    ASK_EVERY_MS - hasher.finish() % SPREAD_MS
}

fn pause_ms(error: &ProviderApiError, failures: u32) -> u64 {
    match error {
        ProviderApiError::Misconfigured { .. } => SECRET_MS,
        _ => PAUSE_MS.saturating_mul(1 << failures.min(16)).min(PAUSE_MAX_MS),
    }
}

#[cfg(test)]
mod tests {
    use operator_core::evidence::ANSWER_FRESH_MS;

    use super::*;

    #[test]
    fn an_answer_is_asked_for_often_enough_to_outlive_two_failures() {
        let unreachable = || ProviderApiError::Unreachable { act: "a", why: String::new() };
        let pauses: Vec<u64> = (0..6).map(|failed| pause_ms(&unreachable(), failed)).collect();
        assert_eq!(pauses, [15_000, 30_000, 60_000, 120_000, 120_000, 120_000]);
        for scope in ["gold", "silver", "s"] {
            let every = ask_every_ms(&scope.into());
            assert!((ASK_EVERY_MS - SPREAD_MS..=ASK_EVERY_MS).contains(&every));
            let call_ms = u64::try_from(CALL_WITHIN.as_millis()).unwrap();
            assert!(every + 3 * call_ms + pauses[0] + pauses[1] < ANSWER_FRESH_MS);
        }
    }

    #[test]
    fn a_clock_that_is_set_back_makes_no_pause_longer() {
        let spec = Spec {
            kind: hemicycle_crds::qualification_scope::ProviderApiKind::Outscale,
            url: "https://a".into(),
            region: "r".into(),
            secret_name: "s".into(),
        };
        let mut provider = Provider::new(spec);
        provider.pause_until = Timestamp(1_000_000);
        assert!(!provider.may_ask(Timestamp(999_999)));
        assert!(provider.may_ask(Timestamp(1_000_000)));
        assert!(provider.may_ask(Timestamp(500_000)));
    }
}
