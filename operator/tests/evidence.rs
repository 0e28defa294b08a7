//! Shows how evidence from outside of the cluster comes about and what it is worth: the operator's
//! asking, over TLS, against a server that answers as Outscale's API does, and signed declarations.
//! Harm if it fails: meetings on machines that lie elsewhere, or none on those that lie right.

#[expect(dead_code, reason = "only Secrets are read from it here")]
mod api_server;
mod provider_api;

use std::{
    cell::Cell,
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use api_server::ApiServer;
use hemicycle_crds::QualificationScope;
use hemicycle_proof::{Moment, SigningKey, Text, declaration::Declaration};
use jiff::Timestamp;
use k8s_openapi::{ByteString, api::core::v1::Node};
use kube::{
    core::DeserializeGuard,
    runtime::{
        reflector::{self, store::Writer},
        watcher::Event,
    },
};
use operator::{
    evidence::{
        Asking, Book, Testimony,
        provider_api::{Credentials, Private, open},
    },
    metrics::Metrics,
    reconcile::seen,
    watches::Watches,
};
use operator_core::evidence::{self, Level, Weighed};
use provider_api::{ACCESS_KEY, ACCOUNT, Mood, Recorded, SECRET_KEY};
use serde_json::{Value, json};
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{interval, timeout},
};

const LABEL: &str = "gold.scope.node-restriction.kubernetes.io/qualified";
const SECRETS: &str = "api/v1/namespaces/hemicycle-system/secrets";
const MACHINE: &str = "aws:///eu-west-2a/i-0a1b2c3d";
/// Any port of this machine.
const LOCAL: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
const START_MS: i64 = 1_795_424_400_000;
/// Far more than any condition takes.
const WITHIN: Duration = Duration::from_secs(60);

thread_local! {
    /// Milliseconds since 1970, moved on by the test of this thread.
    static NOW_MS: Cell<i64> = const { Cell::new(START_MS) };
}

fn clock() -> Timestamp {
    Timestamp::from_millisecond(NOW_MS.get()).expect("a time")
}

fn minutes_pass(minutes: i64) {
    NOW_MS.set(NOW_MS.get() + minutes * 60_000);
}

/// A cluster with an operator that leads.
struct Cluster {
    server: ApiServer,
    watches: Watches,
    nodes: Writer<Node>,
    scopes: Writer<DeserializeGuard<QualificationScope>>,
    change: watch::Sender<u64>,
    book: Arc<Book>,
    metrics: Arc<Metrics>,
    asking: JoinHandle<()>,
}

impl Cluster {
    fn start() -> Self {
        let (nodes, mut node_writer) = reflector::store();
        let (scopes, mut scope_writer) = reflector::store();
        let (change, changes) = watch::channel(0);
        node_writer.apply_watcher_event(&Event::Init);
        node_writer.apply_watcher_event(&Event::InitDone);
        scope_writer.apply_watcher_event(&Event::Init);
        scope_writer.apply_watcher_event(&Event::InitDone);
        let meeting_clusters = reflector::store().0;
        let watches = Watches { kubernetes_nodes: nodes, scopes, meeting_clusters, changes };
        let (server, book) = (ApiServer::default(), Arc::new(Book::default()));
        let metrics = Arc::new(Metrics::new());
        let asking = Asking {
            client: server.client(),
            namespace: "hemicycle-system".into(),
            watches: watches.clone(),
            book: book.clone(),
            metrics: metrics.clone(),
            clock,
        };
        let asking = tokio::spawn(asking.run());
        let (nodes, scopes) = (node_writer, scope_writer);
        Self { server, watches, nodes, scopes, change, book, metrics, asking }
    }

    /// A scope whose machines the API at `url` knows.
    fn scope(&mut self, name: &str, url: &str) {
        self.scope_with(
            name,
            &json!({"providerApi": {"kind": "Outscale", "url": url,
            "region": "eu-west-2", "secretName": format!("{name}-api")}}),
        );
    }

    fn scope_with(&mut self, name: &str, more: &Value) {
        let mut spec = json!({
            "provider": "p", "service": "s", "platform": "Outscale", "regions": ["eu-west-2"],
            "accounts": [ACCOUNT], "referential": "r",
            "attestation": {"id": "1", "expiresAt": "2037-01-01T00:00:00Z"},
            "nodeLabel": {"key": LABEL.replace("gold", name), "value": "true"},
        });
        spec.as_object_mut().expect("an object").extend(more.as_object().expect("one").clone());
        let scope = json!({"apiVersion": "hemicycle.dev/v1alpha1", "kind": "QualificationScope",
            "metadata": {"name": name}, "spec": spec});
        let scope = serde_json::from_value(scope).expect("a QualificationScope");
        self.scopes.apply_watcher_event(&Event::Apply(scope));
        self.change.send_modify(|count| *count += 1);
    }

    fn secret(&self, name: &str, secret_key: &str, authority: &str) {
        let value = |text: &str| serde_json::to_value(ByteString(text.into())).expect("base64");
        self.server.put(
            SECRETS,
            json!({"metadata": {"name": format!("{name}-api"), "namespace": "hemicycle-system"},
                "data": {"accessKey": value(ACCESS_KEY), "secretKey": value(secret_key),
                    "ca.crt": value(authority)}}),
        );
    }

    /// A Kubernetes node that its owner declares to lie in `scope`.
    fn node(&mut self, name: &str, scope: &str, provider_id: &str) {
        self.annotated(name, scope, provider_id, &BTreeMap::new());
    }

    fn annotated(
        &mut self,
        name: &str,
        scope: &str,
        provider_id: &str,
        annotations: &BTreeMap<&str, String>,
    ) {
        let label = LABEL.replace("gold", scope);
        let node = json!({
            "metadata": {"name": name, "labels": {label: "true"}, "annotations": annotations},
            "spec": {"providerID": provider_id},
        });
        let node = serde_json::from_value(node).expect("a Node");
        self.nodes.apply_watcher_event(&Event::Apply(node));
        self.change.send_modify(|count| *count += 1);
    }

    fn weighed(&self, node: &str, scope: &str) -> Weighed {
        let scopes = self.watches.scopes.state();
        let scope = scopes
            .iter()
            .filter_map(|guard| guard.0.as_ref().ok())
            .find(|it| it.metadata.name.as_deref() == Some(scope));
        let scope = scope.expect("there");
        let name = scope.metadata.name.as_deref().expect("named").into();
        let testimony = Testimony::new(&self.book, &self.watches);
        let nodes = testimony.kubernetes_nodes(&self.watches);
        let seen = nodes.get_key_value(&node.into()).expect("there");
        evidence::weigh((&name, &seen::scope(scope)), seen, seen::timestamp(clock()))
    }

    fn level(&self, node: &str, scope: &str) -> Option<Level> {
        match self.weighed(node, scope) {
            Weighed::Known(standing) => Some(standing.level),
            _ => None,
        }
    }

    /// What speaks against it; empty when nothing does.
    fn against(&self, node: &str, scope: &str) -> String {
        match self.weighed(node, scope) {
            Weighed::Contradicted(what) => what,
            _ => String::new(),
        }
    }

    /// What it lacks for more, in one line.
    fn lacking(&self, node: &str, scope: &str) -> String {
        match self.weighed(node, scope) {
            Weighed::Known(standing) => standing.lacking.join(", "),
            _ => String::new(),
        }
    }

    fn calls(&self, scope: &str, outcome: &str) -> u64 {
        self.metrics.provider_api_calls.with_label_values(&[scope, outcome]).get()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.asking.abort();
    }
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let mut tick = interval(Duration::from_millis(5));
    let met = async {
        while !condition() {
            tick.tick().await;
        }
    };
    timeout(WITHIN, met).await.unwrap_or_else(|_| panic!("never: {what}"));
}

/// A scope `gold` with an API that knows the machine of Kubernetes node `n1`.
async fn gold() -> (Cluster, Recorded) {
    let (mut cluster, api) = (Cluster::start(), Recorded::start(LOCAL).await);
    api.put("i-0a1b2c3d", ACCOUNT, "eu-west-2a");
    cluster.secret("gold", SECRET_KEY, &api.authority);
    cluster.scope("gold", &api.url);
    cluster.node("n1", "gold", MACHINE);
    (cluster, api)
}

#[tokio::test]
async fn a_machine_that_the_api_knows_there_is_known_best() {
    let (cluster, api) = gold().await;
    until("E2", || cluster.level("n1", "gold") == Some(Level::E2)).await;
    let Weighed::Known(standing) = cluster.weighed("n1", "gold") else { panic!("known") };
    let seen = &standing.evidence.last().expect("the API's").seen;
    assert!(seen.contains(ACCOUNT) && seen.contains("eu-west-2a"), "{seen}");
    assert_eq!(api.asked(), [["i-0a1b2c3d"]]);
    assert_eq!(api.accounts_asked(), 0);
}

/// The same letter is another building in another account.
#[tokio::test]
async fn the_same_subregion_of_another_account_contradicts() {
    let (mut cluster, api) = gold().await;
    api.put("i-0b0b0b0b", "999999999999", "eu-west-2a");
    cluster.node("n2", "gold", "aws:///eu-west-2a/i-0b0b0b0b");
    until("E2", || cluster.level("n1", "gold") == Some(Level::E2)).await;
    until("contradicted", || cluster.against("n2", "gold").contains("account 9999")).await;
}

#[tokio::test]
async fn a_machine_outside_of_the_regions_contradicts() {
    let (mut cluster, api) = gold().await;
    cluster.node("far", "gold", "aws:///us-east-2a/i-0b0b0b0b");
    assert!(cluster.against("far", "gold").contains("region us-east-2"));
    until("E2", || cluster.level("n1", "gold") == Some(Level::E2)).await;
    api.put("i-0a1b2c3d", ACCOUNT, "eu-west-3a");
    minutes_pass(5);
    until("moved", || cluster.against("n1", "gold").contains("region eu-west-3")).await;
}

#[tokio::test]
async fn a_machine_that_the_api_does_not_know_contradicts() {
    let (mut cluster, api) = gold().await;
    api.put("i-0c0c0c0c", "terminated", "eu-west-2a");
    for (name, id) in [
        ("unknown", "aws:///eu-west-2a/i-0b0b0b0b"),
        ("ended", "aws:///eu-west-2a/i-0c0c0c0c"),
        ("no-machine", "aws:///eu-west-2a/i-not-one"),
    ] {
        cluster.node(name, "gold", id);
        let told = || cluster.against(name, "gold").contains("knows no such machine");
        until(name, told).await;
    }
    until("E2", || cluster.level("n1", "gold") == Some(Level::E2)).await;
    assert_eq!(cluster.calls("gold", "refused"), 0);
}

#[tokio::test]
async fn an_answer_outlives_the_api_for_a_quarter_of_an_hour() {
    let (cluster, api) = gold().await;
    until("E2", || cluster.level("n1", "gold") == Some(Level::E2)).await;
    api.feel(Mood::Fail);
    minutes_pass(6);
    until("counted", || cluster.calls("gold", "unreachable") > 0).await;
    assert_eq!(cluster.level("n1", "gold"), Some(Level::E2));
    minutes_pass(10);
    assert_eq!(cluster.level("n1", "gold"), Some(Level::E1));
    assert!(cluster.lacking("n1", "gold").contains("15 minutes"));
    api.feel(Mood::Answer);
    minutes_pass(3);
    until("E2 again", || cluster.level("n1", "gold") == Some(Level::E2)).await;
}

#[tokio::test]
async fn a_wrong_secret_is_refused_and_counted_until_it_is_right() {
    let (mut cluster, api) = (Cluster::start(), Recorded::start(LOCAL).await);
    api.put("i-0a1b2c3d", ACCOUNT, "eu-west-2a");
    cluster.scope("gold", &api.url);
    cluster.node("n1", "gold", MACHINE);
    until("no Secret", || cluster.calls("gold", "misconfigured") == 1).await;
    cluster.secret("gold", "of-somebody-else", &api.authority);
    minutes_pass(2);
    until("refused", || cluster.calls("gold", "refused") == 1).await;
    assert_eq!(cluster.level("n1", "gold"), Some(Level::E1));
    cluster.secret("gold", SECRET_KEY, &api.authority);
    minutes_pass(2);
    until("E2", || cluster.level("n1", "gold") == Some(Level::E2)).await;
}

#[tokio::test]
async fn no_authority_is_trusted_but_the_one_in_the_secret() {
    let (cluster, api) = gold().await;
    let other = Recorded::start(LOCAL).await;
    cluster.secret("gold", SECRET_KEY, &other.authority);
    until("unreachable", || cluster.calls("gold", "unreachable") > 0).await;
    assert!(api.asked().is_empty());
}

#[tokio::test]
async fn an_api_that_hangs_keeps_no_other_from_being_asked() {
    let (mut cluster, api) = gold().await;
    api.feel(Mood::Hang);
    let other = Recorded::start(LOCAL).await;
    other.put("i-0b0b0b0b", ACCOUNT, "eu-west-2b");
    cluster.secret("silver", SECRET_KEY, &other.authority);
    cluster.scope("silver", &other.url);
    cluster.node("n2", "silver", "aws:///eu-west-2b/i-0b0b0b0b");
    until("E2", || cluster.level("n2", "silver") == Some(Level::E2)).await;
    assert_eq!(cluster.level("n1", "gold"), Some(Level::E1));
}

#[tokio::test]
async fn many_machines_are_asked_about_in_few_calls() {
    let (mut cluster, api) = (Cluster::start(), Recorded::start(LOCAL).await);
    for number in 0..45 {
        let id = format!("i-{number:08x}");
        api.put(&id, ACCOUNT, "eu-west-2a");
        cluster.node(&format!("n{number}"), "gold", &format!("aws:///eu-west-2a/{id}"));
    }
    cluster.secret("gold", SECRET_KEY, &api.authority);
    cluster.scope("gold", &api.url);
    let known = |number: i32| cluster.level(&format!("n{number}"), "gold") == Some(Level::E2);
    until("all E2", || (0..45).all(known)).await;
    let sizes: Vec<usize> = api.asked().iter().map(Vec::len).collect();
    assert_eq!(sizes, [20, 20, 5]);
}

#[tokio::test]
async fn where_machines_do_not_tell_their_account_it_is_asked_for_once() {
    let (mut cluster, api) = gold().await;
    api.put("i-0a1b2c3d", "", "eu-west-2a");
    api.put("i-0b0b0b0b", "", "eu-west-2a");
    cluster.node("n2", "gold", "aws:///eu-west-2a/i-0b0b0b0b");
    for name in ["n1", "n2"] {
        until(name, || cluster.level(name, "gold") == Some(Level::E2)).await;
    }
    assert_eq!(api.accounts_asked(), 1);
}

#[tokio::test]
async fn a_new_machine_behind_a_name_is_asked_about_at_once() {
    let (mut cluster, api) = gold().await;
    until("E2", || cluster.level("n1", "gold") == Some(Level::E2)).await;
    api.put("i-0b0b0b0b", "999999999999", "eu-west-2a");
    cluster.node("n1", "gold", "aws:///eu-west-2a/i-0b0b0b0b");
    assert_eq!(cluster.level("n1", "gold"), Some(Level::E1), "the answer was about another");
    until("asked", || cluster.against("n1", "gold").contains("account 9999")).await;
}

#[tokio::test]
async fn an_answer_that_is_not_whole_is_an_error_and_shows_no_secret() {
    let api = Recorded::start(LOCAL).await;
    let spec = serde_json::from_value(json!({"kind": "Outscale", "url": api.url,
        "region": "eu-west-2", "secretName": "s"}));
    let credentials = |secret_key: &str| Credentials {
        access_key: ACCESS_KEY.into(),
        secret_key: Private::new(secret_key.into()),
        authorities: api.authority.clone(),
    };
    let spec = spec.expect("a spec");
    let ids = ["i-0a1b2c3d".to_owned()];
    let good = open(&spec, credentials(SECRET_KEY), clock).expect("usable");
    for (mood, kind) in
        [(Mood::Babble, "unreadable"), (Mood::Continue, "unreadable"), (Mood::Fail, "unreachable")]
    {
        api.feel(mood);
        let error = good.machines(&ids).await.expect_err("no answer");
        assert_eq!(error.kind(), kind, "{error}");
    }
    api.feel(Mood::Answer);
    let bad = open(&spec, credentials("of-somebody-else"), clock).expect("usable");
    let error = bad.machines(&ids).await.expect_err("refused");
    assert_eq!(error.kind(), "refused");
    let told = format!("{error} {error:?}");
    assert!(told.contains("AccessDenied") && !told.contains("of-somebody-else"), "{told}");
    assert!(good.machines(&ids).await.expect("answered")["i-0a1b2c3d"].is_none());
}

fn declared(node: &str, days: u64, key: &SigningKey) -> String {
    let text = |text: &str| Text::new(text).expect("text");
    let issued_at = Moment::from_unix_ms(START_MS.unsigned_abs());
    let declaration = Declaration {
        kubernetes_node: text(node),
        provider_id: text(MACHINE),
        scope: text("gold"),
        issued_at,
        expires_at: issued_at.plus_ms(days * 86_400_000),
    };
    declaration.sign(key).expect("signed").to_line()
}

#[tokio::test]
async fn a_signed_declaration_counts_for_its_machine_until_it_ends() {
    let mut cluster = Cluster::start();
    let (owner, stranger) = (SigningKey::generate().unwrap(), SigningKey::generate().unwrap());
    let keys = json!({"declarationKeys": [owner.public_key().to_base64()]});
    cluster.scope_with("gold", &keys);
    let mut look = |line: String| {
        let annotations = BTreeMap::from([("hemicycle.dev/declaration", line)]);
        cluster.annotated("n1", "gold", MACHINE, &annotations);
        (cluster.level("n1", "gold").expect("labelled"), cluster.lacking("n1", "gold"))
    };
    assert_eq!(look(declared("n1", 90, &owner)), (Level::E2, String::new()));
    let (level, lacking) = look(declared("n2", 90, &owner));
    assert!(level == Level::E1 && lacking.contains("another machine"), "{lacking}");
    let (level, lacking) = look(declared("n1", 90, &stranger));
    assert!(level == Level::E1 && lacking.contains("does not count"), "{lacking}");
    minutes_pass(2 * 24 * 60);
    let (level, lacking) = look(declared("n1", 1, &owner));
    assert!(level == Level::E1 && lacking.contains("does not hold now"), "{lacking}");
    assert_eq!(look(declared("n1", 90, &owner)).0, Level::E2);
    let nobody = json!({"declarationKeys": [stranger.public_key().to_base64()]});
    cluster.scope_with("gold", &nobody);
    assert_eq!(cluster.level("n1", "gold"), Some(Level::E1), "a key that was taken back");
}
