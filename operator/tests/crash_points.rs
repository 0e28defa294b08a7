//! Cuts the operator off after each of its writes, for every workload, and starts it anew with
//! empty memory: every cut must converge to what an undisturbed run leaves. Harm if it fails: a
//! restart at the wrong moment leaves a meeting cluster that never becomes whole, or media nodes
//! that nobody owns.

mod api_server;

use std::{
    cell::Cell,
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, LazyLock},
};

use api_server::{ApiServer, Cut};
use clap::Parser;
use hemicycle_crds::MeetingCluster;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use kube::runtime::{
    events::{Recorder, Reporter},
    reflector, watcher,
};
use operator::{
    admission::Admission,
    config::Config,
    fleet::Fleet,
    lease::Standing,
    metrics::Metrics,
    pki::{signing::SigningKeys, trust::TrustStore},
    reconcile::{self, build::manifest::Kind, context::Context, error::ReconcileError, seen},
    replicas::Leadership,
    watches::Watches,
    witness::Witness,
};
use serde_json::{Value, json};
use tokio::sync::watch;

const CLUSTERS: &str = "apis/hemicycle.dev/v1alpha1/namespaces/ministry/meetingclusters";
const MEDIA_NODES: &str = "apis/hemicycle.dev/v1alpha1/namespaces/ministry/medianodes";
const PODS: &str = "api/v1/namespaces/ministry/pods";
const SECRETS: &str = "api/v1/namespaces/ministry/secrets";
const SERVICES: &str = "api/v1/namespaces/ministry/services";
const DEPLOYMENTS: &str = "apis/apps/v1/namespaces/ministry/deployments";
/// More steps than any workload needs.
const STEPS_MAX: usize = 30;

/// What every process finds in the operator's own Secret.
static SIGNING: LazyLock<Arc<SigningKeys>> =
    LazyLock::new(|| Arc::new(SigningKeys::generate().expect("generated")));

thread_local! {
    /// Milliseconds since 1970, moved on by the test of this thread.
    static NOW_MS: Cell<i64> = const { Cell::new(1_795_424_400_000) };
}

fn clock() -> Timestamp {
    Timestamp::from_millisecond(NOW_MS.get()).expect("a time")
}

fn a_minute_passes() {
    NOW_MS.set(NOW_MS.get() + 61_000);
}

fn cluster(spec: &Value) -> Value {
    let mut whole = json!({
        "domain": "visio.example.org",
        "credentials": {"secretRef": {"name": "keys"}},
        "sovereignty": {"scopeRefs": [{"name": "gold"}], "minimumEvidence": "E0"},
        "capacity": {"minNodes": 1, "maxNodes": 5},
    });
    whole.as_object_mut().expect("an object").extend(spec.as_object().expect("one").clone());
    json!({"apiVersion": "hemicycle.dev/v1alpha1", "kind": "MeetingCluster",
        "metadata": {"name": "visio", "namespace": "ministry"}, "spec": whole})
}

/// An API server with what a user brings along.
fn stage() -> ApiServer {
    let server = ApiServer::default();
    server.put("api/v1/namespaces", json!({"metadata": {"name": "ministry"}}));
    server.put(
        SECRETS,
        json!({"metadata": {"name": "keys", "namespace": "ministry"},
        "data": {"keys.yaml": "dmlzaW86IDAxMjM0NTY3ODlhYmNkZWYwMTIzNDU2Nzg5YWJjZGVm"}}),
    );
    server
}

/// One operator process, from its start.
fn process(server: &ApiServer) -> Context {
    let client = server.client();
    let (_, standing) = watch::channel(Standing::Leading { epoch: 1 });
    let leadership = Arc::new(Leadership::new(standing, 1));
    let (trust, metrics) = (Arc::new(TrustStore::default()), Arc::new(Metrics::new()));
    let epoch_seen = watch::Sender::new(0);
    let fleet =
        Arc::new(Fleet::new(trust.clone(), leadership.clone(), metrics.clone(), epoch_seen));
    fleet.begin_term(1);
    let reporter = Reporter { controller: "hemicycle-operator".into(), instance: None };
    let config = Arc::new(Config::try_parse_from(["operator"]).expect("defaults"));
    Context {
        recorder: Recorder::new(client.clone(), reporter),
        client,
        admission: Admission::new(&config.admission()).expect("good policies"),
        witness: Arc::new(Witness::new(config.witness().expect("sound"), metrics.clone())),
        config,
        metrics,
        trust,
        signing: SIGNING.clone(),
        fleet,
        leadership,
        epoch: 1,
        watches: watches(),
        book: Arc::default(),
        memory: std::sync::Mutex::default(),
        clock,
    }
}

fn watches() -> Watches {
    fn filled<K>(objects: Vec<K>) -> reflector::Store<K>
    where
        K: reflector::Lookup + Clone + 'static,
        K::DynamicType: Default + Eq + std::hash::Hash + Clone,
    {
        let (store, mut writer) = reflector::store();
        writer.apply_watcher_event(&watcher::Event::Init);
        for object in objects {
            writer.apply_watcher_event(&watcher::Event::InitApply(object));
        }
        writer.apply_watcher_event(&watcher::Event::InitDone);
        store
    }
    let label = "gold.scope.node-restriction.kubernetes.io/qualified";
    let node: Node = serde_json::from_value(json!({
        "metadata": {"name": "n1", "labels": {label: "true"}},
        "status": {"conditions": [{"type": "Ready", "status": "True"}]},
    }))
    .expect("a Node");
    let scope = serde_json::from_value(json!({
        "apiVersion": "hemicycle.dev/v1alpha1", "kind": "QualificationScope",
        "metadata": {"name": "gold"},
        "spec": {"provider": "p", "service": "s", "regions": ["r"], "referential": "r",
            "attestation": {"id": "1", "expiresAt": "2037-01-01T00:00:00Z"},
            "nodeLabel": {"key": label, "value": "true"}},
    }))
    .expect("a QualificationScope");
    Watches {
        kubernetes_nodes: filled(vec![node]),
        scopes: filled(vec![scope]),
        meeting_clusters: filled(vec![]),
        changes: watch::channel(0).1,
    }
}

/// What kubelet and controllers do between two looks of the operator.
fn cluster_moves(server: &ApiServer) {
    for mut deployment in server.all(DEPLOYMENTS) {
        deployment["status"] = json!({"readyReplicas": deployment["spec"]["replicas"]});
        server.put(DEPLOYMENTS, deployment);
    }
}

/// One look of the operator, then one of everybody else.
async fn settle_once(server: &ApiServer, context: &Context) -> Result<(), ReconcileError> {
    let Some(object) = server.get(CLUSTERS, "visio") else { return Ok(()) };
    let cluster: MeetingCluster = serde_json::from_value(object).expect("a MeetingCluster");
    reconcile::reconcile_one(context, &cluster).await?;
    cluster_moves(server);
    a_minute_passes();
    Ok(())
}

/// Reconciles until nothing is written any more. `Err` when the process was cut.
async fn settle(server: &ApiServer, context: &Context) -> Result<(), ReconcileError> {
    let mut quiet = 0;
    for _ in 0..STEPS_MAX {
        let before = server.writes().len();
        settle_once(server, context).await?;
        quiet = if server.writes().len() == before { quiet + 1 } else { 0 };
        // Shrinking waits five minutes, during which nothing is written.
        if quiet > 6 {
            return Ok(());
        }
    }
    Ok(())
}

/// One change after another, each given time to settle.
type Workload = &'static [fn(&ApiServer)];

const CREATE: Workload = &[|server| server.put(CLUSTERS, cluster(&json!({})))];
const SCALE: Workload = &[
    |server| server.put(CLUSTERS, cluster(&json!({}))),
    |server| {
        let capacity = json!({"minNodes": 3, "maxNodes": 5});
        server.put(CLUSTERS, cluster(&json!({ "capacity": capacity })));
    },
    |server| server.put(CLUSTERS, cluster(&json!({}))),
];
const UPDATE: Workload = &[
    |server| server.put(CLUSTERS, cluster(&json!({}))),
    |server| {
        let spec = json!({"image": {"mediaNode": "localhost/media-node:next"},
            "gateway": {"replicas": 3, "ingress": {}}});
        server.put(CLUSTERS, cluster(&spec));
    },
    |server| server.put(CLUSTERS, cluster(&json!({}))),
];
const DELETE: Workload = &[
    |server| server.put(CLUSTERS, cluster(&json!({}))),
    |server| server.delete(CLUSTERS, "visio"),
];

async fn undisturbed(workload: Workload) -> (BTreeMap<String, Value>, usize) {
    let server = stage();
    let context = process(&server);
    for change in workload {
        change(&server);
        settle(&server, &context).await.expect("nothing is cut");
    }
    (server.picture(), server.writes().len())
}

/// The `number`-th write is cut; whether there was one.
async fn disturbed(workload: Workload, number: usize, cut: Cut) -> BTreeMap<String, Value> {
    let server = stage();
    server.cut(number, cut);
    let mut context = process(&server);
    for change in workload {
        change(&server);
        let mut starts = 0;
        while settle(&server, &context).await.is_err() {
            starts += 1;
            assert!(starts < 3, "write {number} cut {cut:?}: it fails after a restart too");
            server.revive();
            context = process(&server);
        }
    }
    server.picture()
}

async fn sweep(name: &str, workload: Workload) {
    let (expected, writes) = undisturbed(workload).await;
    assert!(writes > 0, "{name} writes nothing");
    for number in 1..=writes {
        for cut in [Cut::Before, Cut::After] {
            let found = disturbed(workload, number, cut).await;
            let missing: Vec<_> = expected.keys().filter(|key| !found.contains_key(*key)).collect();
            let surplus: Vec<_> = found.keys().filter(|key| !expected.contains_key(*key)).collect();
            assert!(
                missing.is_empty() && surplus.is_empty(),
                "{name}, write {number} cut {cut:?}: missing {missing:?}, surplus {surplus:?}"
            );
            for (key, object) in &expected {
                assert_eq!(&found[key], object, "{name}, write {number} cut {cut:?}: {key}");
            }
        }
    }
    println!("{name}: {writes} writes, {} cut points, all converge", writes * 2);
}

#[tokio::test]
async fn every_cut_point_of_a_creation_converges() {
    sweep("create", CREATE).await;
}

#[tokio::test]
async fn every_cut_point_of_growing_and_shrinking_converges() {
    sweep("scale", SCALE).await;
}

#[tokio::test]
async fn every_cut_point_of_an_update_converges() {
    sweep("update", UPDATE).await;
}

#[tokio::test]
async fn every_cut_point_around_a_deletion_converges() {
    sweep("delete", DELETE).await;
}

/// Harm if it fails: a media node is removed because of what was true a while ago.
#[tokio::test]
async fn reads_that_lag_delete_nothing_on_old_evidence_and_converge() {
    for (name, workload) in [("scale", SCALE), ("update", UPDATE)] {
        let (expected, _) = undisturbed(workload).await;
        for lag in 1..=8 {
            let server = stage();
            let context = process(&server);
            for change in workload {
                change(&server);
                server.lag(lag);
                // A conflict is the right answer to old evidence; the server refuses deletes
                // without.
                for _ in 0..12 {
                    let _ = settle_once(&server, &context).await;
                }
                server.lag(0);
                while settle(&server, &context).await.is_err() {}
            }
            let found = server.picture();
            let names = |picture: &BTreeMap<String, Value>| {
                let kinds: Vec<_> = picture.keys().map(|key| kind_of(key)).collect();
                kinds
            };
            // Names of media nodes go on counting; their number and everything else is the same.
            assert_eq!(names(&found), names(&expected), "{name}, {lag} versions late");
        }
    }
}

/// Harm if it fails: a process that does not hear SIGTERM holds its pod, and its ports on the
/// Kubernetes node, for as long as a drain may take.
#[tokio::test]
async fn the_pod_of_an_empty_media_node_is_not_left_the_time_of_a_drain() {
    let server = stage();
    let context = process(&server);
    server.let_pods_linger();
    for change in SCALE {
        change(&server);
        settle(&server, &context).await.expect("nothing is cut");
    }
    let grace = |pod: &Value| pod["metadata"]["deletionGracePeriodSeconds"].as_i64();
    let graces: Vec<i64> = server.all(PODS).iter().filter_map(grace).collect();
    assert_eq!(graces, [30, 30], "one media node of three stays");
}

/// The key without a media node's ordinal.
fn kind_of(key: &str) -> String {
    key.split(['/', '-']).filter(|part| part.parse::<u32>().is_err()).collect::<Vec<_>>().join("/")
}

#[tokio::test]
async fn deleting_the_meeting_cluster_leaves_nothing_behind() {
    let (left, _) = undisturbed(DELETE).await;
    // The entry in AttestedNodes is taken away beside the reconcile: `admit_sovereignty` shows it.
    let brought = |key: &&String| !key.contains("attestednodes");
    let keys: Vec<_> = left.keys().filter(brought).collect();
    let expected = ["api/v1/namespaces/ministry", "api/v1/namespaces/ministry/secrets/keys"];
    assert_eq!(keys, expected, "what the user brought stays");
}

#[tokio::test]
async fn a_report_tells_cluster_tools_where_media_run() {
    let server = stage();
    let context = process(&server);
    server.put(CLUSTERS, cluster(&json!({})));
    settle(&server, &context).await.expect("nothing is cut");
    let reports = "apis/openreports.io/v1alpha1/namespaces/ministry/reports";
    let report = server.get(reports, "visio-sovereignty").expect("published");
    assert_eq!(report["scope"]["name"], "visio");
    assert_eq!(report["summary"]["fail"], 0);
    let writes = server.writes().len();
    settle(&server, &context).await.expect("nothing is cut");
    assert_eq!(server.writes().len(), writes, "what did not change is not written");
}

/// Harm if it fails: whoever deletes a meeting cluster and makes it again waits a minute for its
/// certificates.
#[tokio::test]
async fn a_namesake_made_at_once_is_whole_at_once() {
    let server = stage();
    let context = process(&server);
    server.put(CLUSTERS, cluster(&json!({})));
    settle_in_place(&server, &context).await.expect("nothing is cut");
    // It is gone and there again before the operator has looked.
    server.delete(CLUSTERS, "visio");
    server.put(CLUSTERS, cluster(&json!({})));
    settle_in_place(&server, &context).await.expect("nothing is cut");
    assert!(server.get(SECRETS, "visio-gateway-tls").is_some(), "no certificate");
}

#[tokio::test]
async fn a_fleet_that_is_as_wanted_is_not_written() {
    let server = stage();
    let context = process(&server);
    server.put(CLUSTERS, cluster(&json!({})));
    settle(&server, &context).await.expect("nothing is cut");
    let before = server.writes().len();
    settle(&server, &context).await.expect("nothing is cut");
    assert_eq!(server.writes().len(), before, "{:?}", &server.writes()[before..]);
    assert_eq!(server.all(MEDIA_NODES).len(), 1);
    assert_eq!(server.all(PODS).len(), 1);
}

#[tokio::test]
async fn what_was_edited_or_deleted_by_hand_is_healed() {
    let server = stage();
    let context = process(&server);
    server.put(CLUSTERS, cluster(&json!({})));
    settle(&server, &context).await.expect("nothing is cut");
    let whole = server.picture();
    let mut deployment = server.get(DEPLOYMENTS, "visio-gateway").expect("made");
    deployment["spec"]["template"]["spec"]["containers"][0]["image"] = json!("evil");
    server.put(DEPLOYMENTS, deployment);
    server.delete(SERVICES, "visio-gateway");
    server.delete("apis/networking.k8s.io/v1/namespaces/ministry/networkpolicies", "visio-gateway");
    server.delete(SECRETS, "visio-gateway-tls");
    a_minute_passes();
    settle(&server, &context).await.expect("nothing is cut");
    assert_eq!(server.picture(), whole);
}

/// Harm if it fails: every meeting cluster costs the API server a hundred lists a minute at rest.
#[tokio::test]
async fn objects_that_nothing_touched_are_not_read_at_every_look() {
    let server = stage();
    let context = process(&server);
    server.put(CLUSTERS, cluster(&json!({})));
    settle(&server, &context).await.expect("nothing is cut");
    let before = server.lists(SERVICES);
    for _ in 0..5 {
        settle_in_place(&server, &context).await.expect("nothing is cut");
    }
    assert!(server.lists(SERVICES) <= before + 1, "{} lists", server.lists(SERVICES) - before);
    // What a watch tells of is read and healed at the next look, and nothing else is.
    let deployments = server.lists(DEPLOYMENTS);
    server.delete(SERVICES, "visio-gateway");
    settle_in_place(&server, &context).await.expect("nothing is cut");
    assert!(server.get(SERVICES, "visio-gateway").is_none(), "read without a reason");
    context.touch("ministry/visio", Kind::Service);
    settle_in_place(&server, &context).await.expect("nothing is cut");
    assert!(server.get(SERVICES, "visio-gateway").is_some(), "not healed");
    assert_eq!(server.lists(DEPLOYMENTS), deployments);
}

/// Harm if it fails: what a watch missed stays as somebody left it.
#[tokio::test]
async fn what_a_watch_missed_is_healed_within_a_minute() {
    let server = stage();
    let context = process(&server);
    server.put(CLUSTERS, cluster(&json!({})));
    settle(&server, &context).await.expect("nothing is cut");
    server.delete(SERVICES, "visio-gateway");
    a_minute_passes();
    settle_in_place(&server, &context).await.expect("nothing is cut");
    assert!(server.get(SERVICES, "visio-gateway").is_some(), "not healed");
}

/// Harm if it fails: who no longer wants a route of the Gateway API keeps it.
#[tokio::test]
async fn a_route_that_is_wanted_no_more_goes() {
    const ROUTES: &str = "apis/gateway.networking.k8s.io/v1/namespaces/ministry/httproutes";
    let server = stage();
    let context = process(&server);
    let gateway = json!({"httpRoute": {"parentName": "public"}});
    server.put(CLUSTERS, cluster(&json!({ "gateway": gateway })));
    settle(&server, &context).await.expect("nothing is cut");
    assert!(server.get(ROUTES, "visio-gateway").is_some(), "not made");
    server.delete(ROUTES, "visio-gateway");
    settle_in_place(&server, &context).await.expect("nothing is cut");
    assert!(server.get(ROUTES, "visio-gateway").is_some(), "no watch tells of it");
    server.put(CLUSTERS, cluster(&json!({})));
    settle_in_place(&server, &process(&server)).await.expect("nothing is cut");
    assert!(server.get(ROUTES, "visio-gateway").is_none(), "it stays");
}

/// Harm if it fails: one full quota keeps the API server busy with the same refusal, ten times a
/// second.
#[tokio::test]
async fn a_refusal_that_lasts_is_told_once_and_not_written_again_and_again() {
    let server = stage();
    server.fill(MEDIA_NODES);
    let context = process(&server);
    server.put(CLUSTERS, cluster(&json!({})));
    for _ in 0..3 {
        settle_once(&server, &context).await.expect_err("the quota is full");
    }
    let before = server.get(CLUSTERS, "visio").expect("there");
    assert_eq!(before["status"]["ordinalHighWater"], 0);
    let told = before["status"]["conditions"].to_string();
    assert!(told.contains("ApiRefused") && told.contains("exceeded quota"), "{told}");
    let version = server.writes().len();
    for _ in 0..3 {
        settle_in_place(&server, &context).await.expect_err("the quota is full");
    }
    assert_eq!(server.writes().len(), version, "{:?}", &server.writes()[version..]);
}

/// Harm if it fails: a new leader empties the media nodes whose evidence it has not heard yet.
#[tokio::test]
async fn nothing_follows_from_evidence_that_a_new_leader_has_not_asked_for_yet() {
    let server = stage();
    let context = process(&server);
    let sovereignty = json!({"scopeRefs": [{"name": "gold"}], "minimumEvidence": "E2"});
    server.put(CLUSTERS, cluster(&json!({ "sovereignty": sovereignty })));
    let look = async || {
        for _ in 0..3 {
            settle_in_place(&server, &context).await.expect("nothing is cut");
        }
        let media_node = server.all(MEDIA_NODES).remove(0);
        (
            media_node["spec"]["desiredState"].clone(),
            media_node["spec"]["desiredStateReason"].clone(),
        )
    };
    context.book.begin_term(seen::timestamp(clock()));
    look().await;
    let mut pod = server.all(PODS).remove(0);
    pod["spec"]["nodeName"] = json!("n1");
    pod["status"] = json!({"phase": "Running"});
    server.put(PODS, pod);
    assert_eq!(look().await, (json!("Serving"), Value::Null));
    context.book.keep(&BTreeSet::new(), &BTreeMap::new(), seen::timestamp(clock()));
    assert_eq!(look().await, (json!("Draining"), json!("ScopeLost")));
}

/// Harm if it fails: an operator that fights the end of every namespace, and says so ten times a
/// second.
#[tokio::test]
async fn in_a_namespace_that_is_being_deleted_nothing_is_tried_twice() {
    let server = stage();
    let context = process(&server);
    server.put(CLUSTERS, cluster(&json!({})));
    settle(&server, &context).await.expect("nothing is cut");
    server.end_namespace();
    server.delete(SERVICES, "visio-gateway");
    server.delete(DEPLOYMENTS, "visio-gateway");
    for _ in 0..5 {
        settle_once(&server, &context).await.expect("it waits");
    }
    assert_eq!(server.vain(), 1, "creations tried");
}

/// One look of the operator, in no time.
async fn settle_in_place(server: &ApiServer, context: &Context) -> Result<(), ReconcileError> {
    let object = server.get(CLUSTERS, "visio").expect("there");
    let cluster: MeetingCluster = serde_json::from_value(object).expect("a MeetingCluster");
    reconcile::reconcile_one(context, &cluster).await.map(drop)
}
