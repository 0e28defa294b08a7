//! What a large fleet costs the API server and the operator: a thousand Kubernetes nodes and three
//! hundred media nodes on a real control plane, with the operator as its chart installs it.
//!
//! Kubelets and the processes in the media pods are simulated: the former by kwok, the latter by
//! one listener that speaks the real gRPC. So this measures the API side and the operator, not
//! media. Runs inside the bed.
//!
//! Decides what must hold. Invariant: what is asserted is a count, a rate that the design promises
//! or a bound of memory; wall time is printed.

mod figures;
mod ground;
mod media_nodes;
mod meeting_clusters;

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use hemicycle_crds::QualificationScope;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{ListParams, Patch, PatchParams};
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::time::sleep;

use self::figures::{Cost, Reading};
use self::ground::{Ground, IN_SCOPE, KUBERNETES_NODES, SCOPE, SCOPE_LABEL, node_name};
use self::media_nodes::MediaNodes;
use self::meeting_clusters::MeetingClusters;
use crate::bed::{Bed, Layout};
use crate::install::{self, OPERATOR_NAMESPACE};
use crate::process;

/// How long nothing is done and everything counted.
const STEADY: Duration = Duration::from_secs(60);
/// How long the after-effects of a burst are counted.
const AFTERMATH: Duration = Duration::from_secs(10);
/// Kubernetes nodes that change at once.
const BURST: usize = 100;
/// Media pods lost at once.
const LOST: usize = 10;
/// Media nodes that one meeting cluster grows by and loses again.
const GROWTH: u32 = 50;
/// The design's promise: writes a second, whatever the rooms do, and more for each media node.
const WRITES_PER_SECOND: f64 = 5.0;
const WRITES_PER_SECOND_AND_MEDIA_NODE: f64 = 0.02;
/// Lists a minute at rest for each meeting cluster: a list costs the API server most. Two for each
/// look, six for the standing objects once, and half as many again for what wakes it.
const LISTS_A_MINUTE: f64 = 70.0;
/// Calls of any kind a minute at rest: of three replicas for their Lease, for each meeting cluster,
/// and for each media node, whose certificate is looked at and whose load is written.
const CALLS_A_MINUTE: [f64; 3] = [450.0, 200.0, 3.0];
/// Of the memory that the chart allows the operator, what this fleet may take at its peak, which is
/// while all of it is made at once.
const MEMORY_SHARE_MAX: f64 = 0.8;
/// How far two counts of the same requests may lie apart: what is under way while one looks.
const COUNTS_APART_MAX: f64 = 0.02;

/// What is asked when something did not hold, and lines of each answer.
const ACCOUNT: [&str; 3] = [
    "logs -n hemicycle-system -l app.kubernetes.io/name=hemicycle-operator --tail=20 --prefix",
    "get events -A --sort-by .metadata.creationTimestamp",
    "get meetingclusters -A -o wide",
];
const ACCOUNT_LINES: usize = 60;

/// How the media nodes are spread over meeting clusters.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Meeting clusters, each in a namespace of its own.
    pub meeting_clusters: usize,
    /// Media nodes of each.
    pub media_nodes_each: u32,
}

/// Measures a fleet of this shape and prints what it finds.
///
/// # Errors
/// If something that must hold does not, or the cluster cannot be prepared.
pub fn run(shape: Shape) -> Result<()> {
    ensure!(Bed::is_inside(), "this runs inside the test bed: ./verify scale");
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let bed = Bed::open(Layout::from_environment())?;
    let runtime = tokio::runtime::Runtime::new()?;
    let measured = runtime.block_on(measure(&bed, shape));
    if measured.is_err() {
        println!("{}", account(&bed));
    }
    measured
}

/// What the cluster says when something did not hold.
fn account(bed: &Bed) -> String {
    let kwok = std::fs::read_to_string(bed.layout().log("kwok")).unwrap_or_default();
    let said = ACCOUNT.map(|line| {
        let said = install::kubectl(bed, &line.split(' ').collect::<Vec<_>>());
        (format!("kubectl {line}"), said.unwrap_or_else(|error| error.to_string()))
    });
    let all = std::iter::once(("kwok".to_owned(), kwok)).chain(said);
    let all = all.map(|(who, said)| format!("--- {who}\n{}", process::tail(&said, ACCOUNT_LINES)));
    all.collect::<Vec<_>>().join("\n")
}

async fn measure(bed: &Bed, shape: Shape) -> Result<()> {
    let client = Client::try_default().await.context("no way to the API server")?;
    let begun = Instant::now();
    let mut ground = Ground::prepare(bed, &client).await?;
    MediaNodes::serve(&client).await?;
    let mut clusters = MeetingClusters::prepare(bed, &client, shape.meeting_clusters)?;
    let mut gauge = Gauge::new(client.clone()).await?;
    println!(
        "figure: {KUBERNETES_NODES} fake Kubernetes nodes, {IN_SCOPE} of them in scope, after \
         {:.1} s; operator: {:.0} MiB",
        secs(begun.elapsed()),
        gauge.last.resident_mib
    );
    grow_from_nothing(&mut clusters, &mut gauge, shape).await?;
    let steady = steady(&clusters, &mut gauge, shape).await?;
    heartbeats(&client, &mut gauge, &steady).await?;
    scope_grows(&client, &mut gauge).await?;
    let took = clusters.lose_pods(LOST).await?;
    gauge.step(&format!("{LOST} media pods lost, replaced after {:.1} s", secs(took))).await?;
    resize(&mut clusters, &mut gauge, shape).await?;
    clusters.check_places().await?;
    ground.check(&client).await?;
    gauge.end().await
}

fn secs(duration: Duration) -> f64 {
    duration.as_secs_f64()
}

async fn grow_from_nothing(
    clusters: &mut MeetingClusters,
    gauge: &mut Gauge,
    shape: Shape,
) -> Result<()> {
    let begun = Instant::now();
    for number in 0..shape.meeting_clusters {
        clusters.wish(number, shape.media_nodes_each).await?;
    }
    clusters.until_made().await?;
    let made = begun.elapsed();
    clusters.until_told().await?;
    let text = format!(
        "figure: {} × {} media nodes applied: objects after {:.1} s, all serving and told after \
         {:.1} s",
        shape.meeting_clusters,
        shape.media_nodes_each,
        secs(made),
        secs(begun.elapsed())
    );
    gauge.step(&text).await?;
    clusters.check_places().await
}

/// Nothing is asked for; rooms come and go, loads change, Kubernetes nodes beat.
async fn steady(clusters: &MeetingClusters, gauge: &mut Gauge, shape: Shape) -> Result<Cost> {
    sleep(STEADY).await;
    let cost = gauge.step("figure: at rest, rooms come and go").await?;
    let budget =
        WRITES_PER_SECOND + WRITES_PER_SECOND_AND_MEDIA_NODE * f64::from(clusters.media_nodes());
    let rate = cost.writes() / cost.seconds;
    ensure!(rate <= budget, "{rate:.2} writes/s are more than the promised {budget:.2}");
    let lists = cost.a_minute("list");
    let budget = LISTS_A_MINUTE * shape.meeting_clusters as f64;
    ensure!(lists <= budget, "{lists:.0} lists a minute at rest, {budget:.0} are allowed");
    let calls = cost.both_counts().0 * 60.0 / cost.seconds;
    let [replicas, meeting_cluster, media_node] = CALLS_A_MINUTE;
    let budget = replicas
        + meeting_cluster * shape.meeting_clusters as f64
        + media_node * f64::from(clusters.media_nodes());
    ensure!(calls <= budget, "{calls:.0} calls a minute at rest, {budget:.0} are allowed");
    ensure!(cost.errors == 0.0, "{} reconciles failed in peace", cost.errors);
    Ok(cost)
}

/// Kubelets report and somebody else's labels change: none of it concerns a meeting cluster.
async fn heartbeats(client: &Client, gauge: &mut Gauge, steady: &Cost) -> Result<()> {
    let label = json!({"metadata": {"labels": {"example.org/patched": "2026-11"}}});
    change_nodes(client, 0..BURST, &label, false).await?;
    let beat = json!({"status": {"conditions": [
        {"type": "Ready", "status": "True", "lastHeartbeatTime": Timestamp::now().to_string()},
    ]}});
    change_nodes(client, 0..BURST, &beat, true).await?;
    sleep(AFTERMATH).await;
    let text = format!("{BURST} heartbeats and {BURST} labels of others at once");
    let cost = gauge.step(&text).await?;
    // Half as many again as in peace: what chance does to so short a time.
    let usual = steady.reconciles / steady.seconds * cost.seconds;
    ensure!(
        cost.reconciles <= usual * 1.5,
        "{} reconciles, {usual:.0} are usual: Kubernetes nodes that do not matter cause some",
        cost.reconciles
    );
    Ok(())
}

/// Their owner lets more Kubernetes nodes into the scope.
async fn scope_grows(client: &Client, gauge: &mut Gauge) -> Result<()> {
    let begun = Instant::now();
    let mut labels = json!({});
    labels[SCOPE_LABEL] = json!("true");
    let label = json!({"metadata": {"labels": labels}});
    change_nodes(client, IN_SCOPE..IN_SCOPE + BURST, &label, false).await?;
    let scopes: Api<QualificationScope> = Api::all(client.clone());
    loop {
        let status = scopes.get(SCOPE).await?.status.unwrap_or_default();
        if usize::try_from(status.kubernetes_nodes).is_ok_and(|n| n == IN_SCOPE + BURST) {
            break;
        }
        ensure!(begun.elapsed() < STEADY, "the scope tells of {} nodes", status.kubernetes_nodes);
        sleep(Duration::from_millis(100)).await;
    }
    let took = secs(begun.elapsed());
    sleep(AFTERMATH).await;
    gauge
        .step(&format!("{BURST} Kubernetes nodes enter the scope, told after {took:.1} s"))
        .await?;
    Ok(())
}

async fn resize(clusters: &mut MeetingClusters, gauge: &mut Gauge, shape: Shape) -> Result<()> {
    clusters.wish(0, shape.media_nodes_each + GROWTH).await?;
    let took = clusters.until_told().await?;
    gauge.step(&format!("one meeting cluster {GROWTH} larger after {:.1} s", secs(took))).await?;
    clusters.wish(0, shape.media_nodes_each).await?;
    let took = clusters.until_told().await?;
    gauge.step(&format!("{GROWTH} smaller again after {:.1} s", secs(took))).await?;
    Ok(())
}

/// Writes `patch` to many Kubernetes nodes, some at once.
async fn change_nodes(
    client: &Client,
    numbers: std::ops::Range<usize>,
    patch: &Value,
    status: bool,
) -> Result<()> {
    let nodes: Api<Node> = Api::all(client.clone());
    let params = PatchParams::default();
    stream::iter(numbers.map(|number| {
        let (nodes, params) = (nodes.clone(), params.clone());
        async move {
            let name = node_name(number);
            let patch = Patch::Strategic(patch);
            let done = match status {
                true => nodes.patch_status(&name, &params, &patch).await,
                false => nodes.patch(&name, &params, &patch).await,
            };
            done.map(drop).with_context(|| format!("cannot change {name}"))
        }
    }))
    .buffer_unordered(8)
    .try_collect()
    .await
}

/// Reads before and after each step.
struct Gauge {
    client: Client,
    first: Reading,
    last: Reading,
}

impl Gauge {
    async fn new(client: Client) -> Result<Self> {
        let first = Reading::take(&client).await?;
        Ok(Self { client, last: first.clone(), first })
    }

    /// Ends a step, prints what it was and cost, and begins the next.
    async fn step(&mut self, text: &str) -> Result<Cost> {
        let now = Reading::take(&self.client).await?;
        let cost = now.since(&self.last);
        println!("{text}: {cost}; {:.0} MiB", now.resident_mib);
        self.last = now;
        Ok(cost)
    }

    /// Judges the whole.
    async fn end(self) -> Result<()> {
        let cost = self.last.since(&self.first);
        let (server, own) = cost.both_counts();
        let peak = self.last.peak_mib;
        let limit = memory_limit_mib(&self.client).await?;
        println!(
            "figure: in all {server:.0} calls by the API server's count, {own:.0} by the \
             operator's; peak memory of a replica {peak:.0} MiB, {limit:.0} MiB are allowed"
        );
        let apart = (server - own).abs() / server;
        let both = cost.by_verb();
        ensure!(apart <= COUNTS_APART_MAX, "{own} calls are not {server}, a miscount: {both}");
        let bound = limit * MEMORY_SHARE_MAX;
        ensure!(peak <= bound, "the operator takes {peak:.0} MiB, {bound:.0} are its bound here");
        Ok(())
    }
}

/// What the chart allows each replica, which none may have been killed for exceeding.
async fn memory_limit_mib(client: &Client) -> Result<f64> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), OPERATOR_NAMESPACE);
    let label = ListParams::default().labels("app.kubernetes.io/name=hemicycle-operator");
    let mut limit = None;
    for pod in pods.list(&label).await? {
        let statuses = pod.status.and_then(|status| status.container_statuses).unwrap_or_default();
        let restarts: i32 = statuses.iter().map(|status| status.restart_count).sum();
        ensure!(restarts == 0, "an operator was restarted {restarts} times");
        let container = pod.spec.and_then(|spec| spec.containers.into_iter().next());
        let limits = container.and_then(|container| container.resources?.limits);
        limit = limits.and_then(|limits| limits.get("memory").cloned());
    }
    let limit = limit.context("the operator has no limit of memory")?.0;
    limit.strip_suffix("Mi").and_then(|mib| mib.parse().ok()).context("a limit that is not in Mi")
}
