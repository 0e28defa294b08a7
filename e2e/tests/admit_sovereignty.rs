//! That the API server itself refuses what would bring a media pod outside its scope, whoever asks,
//! and that a policy that is changed or deleted is put back within seconds. Each attempt is first
//! made without the policies: there it succeeds, so that what refuses it later is ours. Harm if it
//! fails: a cluster's administrator, or whoever stole a kubelet's key, moves a meeting abroad.

use std::{sync::Arc, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Parser as _;
use e2e::bed::Bed;
use e2e::install::{self, OPERATOR_NAMESPACE};
use e2e::story::{Story, tell};
use hemicycle_crds::MeetingCluster;
use http::Method;
use jiff::Timestamp;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::DeserializeGuard;
use kube::runtime::events::{Recorder, Reporter};
use kube::runtime::{reflector, watcher};
use kube::{Client, Config};
use operator::admission::{Admission, Entry, Keeper};
use operator::config::LogFormat;
use operator::metrics::Metrics;
use operator::telemetry;
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tokio::time::{sleep, timeout};

const OPERATOR: &str = "system:serviceaccount:hemicycle-system:hemicycle-operator";
const REPLICA_SETS: &str = "system:serviceaccount:kube-system:replicaset-controller";
const SCOPE_LABEL: &str = "scope.hemicycle.node-restriction.kubernetes.io/gold";
const GATEWAY_POD: &str = "visio-gateway-5d9f8c7b6d-x2x4z";
const PREFIX: &str = "localhost/hemicycle/";
/// What policies may take until they are in force, or put back.
const WITHIN: Duration = Duration::from_secs(5);
/// How often a condition is looked at.
const LOOK: Duration = Duration::from_millis(50);

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Who {
    /// A cluster's administrator: `system:masters`.
    Admin,
    /// The operator's ServiceAccount, with the rights of the chart.
    Operator,
    /// The kubelet of n1.
    Kubelet,
    /// Kubernetes' own controller of ReplicaSets, which makes the pods of Deployments.
    ReplicaSets,
}

/// The API server, as each of them sees it.
struct Cluster {
    admin: Client,
    operator: Client,
    kubelet: Client,
    replica_sets: Client,
}

async fn client(bed: &Bed, user: &str, impersonate: Option<&str>) -> Result<Client> {
    let file = Kubeconfig::read_from(bed.layout().kubeconfig(user))?;
    let mut config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await?;
    if let Some(name) = impersonate {
        config.auth_info.impersonate = Some(name.to_owned());
        let groups = ["system:serviceaccounts", "system:authenticated"];
        config.auth_info.impersonate_groups = Some(groups.map(str::to_owned).to_vec());
    }
    Ok(Client::try_from(config)?)
}

impl Cluster {
    async fn reach(bed: &Bed) -> Result<Self> {
        Ok(Self {
            admin: client(bed, "admin", None).await?,
            operator: client(bed, "admin", Some(OPERATOR)).await?,
            kubelet: client(bed, "n1", None).await?,
            replica_sets: client(bed, "admin", Some(REPLICA_SETS)).await?,
        })
    }

    /// What the API server says: the object, or its refusal.
    async fn ask(
        &self,
        who: Who,
        method: &Method,
        path: &str,
        body: &Value,
    ) -> Result<Value, String> {
        let client = match who {
            Who::Admin => &self.admin,
            Who::Operator => &self.operator,
            Who::Kubelet => &self.kubelet,
            Who::ReplicaSets => &self.replica_sets,
        };
        let format = match *method {
            Method::PATCH if body.is_array() => "application/json-patch+json",
            Method::PATCH => "application/merge-patch+json",
            _ => "application/json",
        };
        let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        let request = http::Request::builder()
            .method(method.clone())
            .uri(path)
            .header(http::header::CONTENT_TYPE, format)
            .body(body)
            .expect("a request");
        client.request::<Value>(request).await.map_err(|error| match error {
            kube::Error::Api(status) => status.message.clone(),
            other => format!("{other:?}"),
        })
    }

    async fn create(&self, who: Who, path: &str, body: &Value) -> Result<Value> {
        self.ask(who, &Method::POST, path, body).await.map_err(|said| {
            anyhow::anyhow!("{who:?} cannot create {}: {said}", body["metadata"]["name"])
        })
    }
}

/// Something that somebody tries.
struct Attempt {
    what: &'static str,
    who: Who,
    method: Method,
    path: String,
    body: Value,
    /// What the refusal must say; none: it is allowed.
    refused: Option<&'static str>,
    /// Kubernetes itself refuses it already.
    anyway: bool,
}

/// All attempts of one story, with the paths of its namespace.
struct Attempts {
    namespace: String,
    /// UID of n1.
    node_uid: Value,
    all: Vec<Attempt>,
}

const ONLY_OPERATOR: &str = "written by the Hemicycle operator alone";
const NOTHING_ELSE: &str = "the Hemicycle operator may change nothing";
const OWN: &str = "written by its operator alone";

impl Attempts {
    fn pods(&self) -> String {
        format!("/api/v1/namespaces/{}/pods", self.namespace)
    }

    fn ours(&self, plural: &str) -> String {
        format!("/apis/hemicycle.dev/v1alpha1/namespaces/{}/{plural}", self.namespace)
    }

    fn try_to(
        &mut self,
        what: &'static str,
        who: Who,
        (method, path, body): (Method, String, Value),
        refused: Option<&'static str>,
    ) {
        self.all.push(Attempt { what, who, method, path, body, refused, anyway: false });
    }

    fn change(
        &mut self,
        what: &'static str,
        who: Who,
        path: impl Into<String>,
        change: Value,
        refused: Option<&'static str>,
    ) {
        self.try_to(what, who, (Method::PATCH, path.into(), change), refused);
    }

    fn pod(&mut self, what: &'static str, who: Who, pod: Value, refused: Option<&'static str>) {
        self.try_to(what, who, (Method::POST, self.pods(), pod), refused);
    }

    fn bind(
        &mut self,
        what: &'static str,
        (pod, node): (&str, &str),
        refused: Option<&'static str>,
    ) {
        let path = format!("{}/{pod}/binding", self.pods());
        self.try_to(what, Who::Admin, (Method::POST, path, binding(pod, node)), refused);
    }

    /// Makes every attempt; with the policies those to be refused are, without them none is.
    async fn make(&self, cluster: &Cluster, story: &Story, policies: bool) -> Result<()> {
        let mut wrong = Vec::new();
        for attempt in &self.all {
            let Attempt { what, who, method, path, body, refused, anyway } = attempt;
            let path = format!("{path}?dryRun=All");
            let said = cluster.ask(*who, method, &path, body).await.map(|_| ());
            let refused = refused.filter(|_| policies || *anyway);
            match (&said, refused) {
                (Ok(()), None) => {}
                (Err(said), Some(wanted)) if said.contains(wanted) => {}
                (_, Some(wanted)) => wrong.push(format!("{who:?} {what}: {wanted:?}? {said:?}")),
                (_, None) => wrong.push(format!("{who:?} {what}: {said:?}")),
            }
        }
        ensure!(wrong.is_empty(), "with policies: {policies}\n{}", wrong.join("\n"));
        let word = if policies { "with" } else { "without" };
        story.say(&format!("{} attempts end as they must {word} policies", self.all.len()));
        Ok(())
    }
}

fn binding(pod: &str, node: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": pod},
        "target": {"apiVersion": "v1", "kind": "Node", "name": node}})
}

/// A pod that has nothing to do with media, and that no scheduler takes.
fn plain_pod(name: &str, change: Value) -> Value {
    let mut spec = json!({"schedulerName": "nobody",
        "containers": [{"name": "main", "image": "example.org/any:1"}]});
    merge(&mut spec, change);
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec})
}

fn image(repository: &str) -> String {
    format!("{repository}media-node@sha256:{}", "0123456789abcdef".repeat(4))
}

/// A pod as the operator makes it, with `change` merged into its spec.
fn media_pod(name: &str, change: Value) -> Value {
    let (cluster, _) = name.rsplit_once('-').expect("a number");
    let mut spec = json!({
        "automountServiceAccountToken": false,
        "schedulerName": "nobody",
        "affinity": scoped_affinity(),
        "tolerations": [{"key": "hemicycle.dev/scope", "operator": "Exists"}],
        "containers": [{"name": "media-node", "image": image(PREFIX),
            "securityContext": {"capabilities": {"drop": ["ALL"]}}}],
    });
    merge(&mut spec, change);
    json!({"apiVersion": "v1", "kind": "Pod", "spec": spec, "metadata": {"name": name, "labels": {
        "hemicycle.dev/component": "media-node", "hemicycle.dev/meeting-cluster": cluster}}})
}

/// A gateway's pod as the Deployment of the operator makes it, with `change` merged into its spec.
fn gateway_pod(name: &str, change: Value) -> Value {
    let mut spec = json!({
        "schedulerName": "nobody",
        "affinity": scoped_affinity(),
        "containers": [{"name": "gateway", "image": image(PREFIX)}],
    });
    merge(&mut spec, change);
    json!({"apiVersion": "v1", "kind": "Pod", "spec": spec, "metadata": {
        "name": name,
        "labels": {"hemicycle.dev/component": "gateway"}}})
}

fn scoped_affinity() -> Value {
    json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
        "nodeSelectorTerms": [{"matchExpressions": [
            {"key": SCOPE_LABEL, "operator": "In", "values": ["E1", "E2"]}]}]}}})
}

fn merge(into: &mut Value, change: Value) {
    match (into, change) {
        (Value::Object(into), Value::Object(change)) => {
            for (key, value) in change {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, change) => *into = change,
    }
}

fn container(change: Value) -> Value {
    let mut container = json!({"name": "media-node", "image": image(PREFIX)});
    merge(&mut container, change);
    json!({"containers": [container]})
}

fn affinity(terms: &Value) -> Value {
    json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
        "nodeSelectorTerms": terms}}}})
}

fn labels(key: &str, value: impl Into<Value>) -> Value {
    json!({"metadata": {"labels": {key: value.into()}}})
}

fn kubernetes_nodes(attempts: &mut Attempts) {
    let node = "/api/v1/nodes/n1";
    let taint = |key: &str| json!({"spec": {"taints": [{"key": key, "effect": "NoSchedule"}]}});
    let other = || labels("example.org/rack", "7");
    use Who::{Admin, Kubelet, Operator};
    attempts.change("labels n1", Admin, node, other(), None);
    attempts.change("labels its own Kubernetes node", Kubelet, node, other(), None);
    attempts.change(
        "writes our label",
        Admin,
        node,
        labels(SCOPE_LABEL, "E2"),
        Some(ONLY_OPERATOR),
    );
    attempts.change(
        "writes our taint",
        Admin,
        node,
        taint("hemicycle.dev/scope"),
        Some(ONLY_OPERATOR),
    );
    attempts.change(
        "writes our label by status",
        Admin,
        "/api/v1/nodes/n1/status",
        labels(SCOPE_LABEL, "E2"),
        Some(ONLY_OPERATOR),
    );
    let born = json!({"apiVersion": "v1", "kind": "Node",
        "metadata": {"name": "n99", "labels": {SCOPE_LABEL: "E2"}}});
    attempts.try_to(
        "makes a Kubernetes node with our label",
        Admin,
        (Method::POST, "/api/v1/nodes".into(), born),
        Some(ONLY_OPERATOR),
    );
    attempts.change("writes our label", Operator, node, labels(SCOPE_LABEL, "E2"), None);
    attempts.change("writes our taint", Operator, node, taint("hemicycle.dev/scope"), None);
    for (what, change) in [
        ("labels n1", other()),
        ("taints n1", taint("example.org/mine")),
        ("cordons n1", json!({"spec": {"unschedulable": true}})),
        ("annotates n1", json!({"metadata": {"annotations": {"example.org/a": "b"}}})),
    ] {
        attempts.change(what, Operator, node, change, Some(NOTHING_ELSE));
    }
    // NodeRestriction holds these two; the policies would not have to.
    for key in [SCOPE_LABEL, "gold.scope.node-restriction.kubernetes.io/qualified"] {
        attempts.change(
            "labels itself into a scope",
            Kubelet,
            node,
            labels(key, "true"),
            Some("is not allowed to modify labels"),
        );
        attempts.all.last_mut().expect("one").anyway = true;
    }
}

fn namespaces(attempts: &mut Attempts) {
    let mark = "hemicycle.dev/media-namespace";
    let own = format!("/api/v1/namespaces/{}", attempts.namespace);
    use Who::{Admin, Operator};
    attempts.change(
        "removes the mark",
        Admin,
        &own,
        labels(mark, Value::Null),
        Some(ONLY_OPERATOR),
    );
    attempts.change(
        "removes the mark by status",
        Admin,
        format!("{own}/status"),
        labels(mark, Value::Null),
        Some(ONLY_OPERATOR),
    );
    attempts.change("changes the mark", Admin, &own, labels(mark, "no"), Some(ONLY_OPERATOR));
    attempts.change("labels it", Admin, &own, labels("example.org/team", "x"), None);
    let born = json!({"apiVersion": "v1", "kind": "Namespace",
        "metadata": {"name": "another", "labels": {mark: "true"}}});
    attempts.try_to(
        "makes one with the mark",
        Admin,
        (Method::POST, "/api/v1/namespaces".into(), born),
        Some(ONLY_OPERATOR),
    );
    attempts.change(
        "marks another",
        Operator,
        "/api/v1/namespaces/default",
        labels(mark, "true"),
        None,
    );
    attempts.change(
        "labels it",
        Operator,
        &own,
        labels("pod-security.kubernetes.io/enforce", "privileged"),
        Some(NOTHING_ELSE),
    );
}

fn any_pod(attempts: &mut Attempts) {
    use Who::{Admin, Kubelet};
    attempts.pod("makes any pod", Admin, plain_pod("any", json!({})), None);
    for (what, change, said) in [
        ("chooses the Kubernetes node", json!({"nodeName": "n1"}), "spec.nodeName may not be set"),
        ("shares processes", json!({"hostPID": true}), "hostPID and spec.hostIPC are not allowed"),
        ("shares memory", json!({"hostIPC": true}), "hostPID and spec.hostIPC are not allowed"),
        (
            "is privileged",
            json!({"containers": [{"name": "main", "image": "a",
            "securityContext": {"privileged": true}}]}),
            "privileged containers are not allowed",
        ),
        (
            "is privileged at first",
            json!({"initContainers": [{"name": "first", "image": "a",
            "securityContext": {"privileged": true}}]}),
            "privileged containers are not allowed",
        ),
    ] {
        attempts.pod(what, Admin, plain_pod("any", change), Some(said));
    }
    let mirror = json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "static-n1",
            "ownerReferences": [{"apiVersion": "v1", "kind": "Node", "name": "n1",
                "uid": attempts.node_uid, "controller": true}],
            "annotations": {
            "kubernetes.io/config.mirror": "x", "kubernetes.io/config.hash": "x",
            "kubernetes.io/config.source": "file"}},
        "spec": {"nodeName": "n1", "containers": [{"name": "main", "image": "a"}]}});
    attempts.pod("shows a static pod", Kubelet, mirror, Some("static pods are not allowed"));
    let debug = |privileged: bool| {
        let container = json!({"name": "debug", "image": "a",
            "securityContext": {"privileged": privileged}});
        json!({"spec": {"ephemeralContainers": [container]}})
    };
    let path = format!("{}/free/ephemeralcontainers", attempts.pods());
    attempts.change("debugs any pod", Admin, &path, debug(false), None);
    attempts.change(
        "debugs any pod with privileges",
        Admin,
        &path,
        debug(true),
        Some("privileged containers are not allowed"),
    );
}

fn media_pods(attempts: &mut Attempts) {
    use Who::{Admin, Operator};
    let hand_made = Some("media pods are made by the Hemicycle operator alone");
    attempts.pod("makes a media pod", Operator, media_pod("visio-7", json!({})), None);
    attempts.pod("makes the same pod by hand", Admin, media_pod("visio-7", json!({})), hand_made);
    attempts.pod("takes a media pod's name", Admin, plain_pod("visio-7", json!({})), hand_made);
    attempts.pod("almost takes one", Admin, plain_pod("visio-7a", json!({})), None);
    attempts.pod(
        "invents a meeting cluster",
        Operator,
        media_pod("other-7", json!({})),
        Some("must be called after its MeetingCluster"),
    );
    let scoped = json!({"matchExpressions": [
        {"key": SCOPE_LABEL, "operator": "In", "values": ["E1", "E2"]}]});
    let elsewhere = json!({"matchExpressions": [
        {"key": "kubernetes.io/hostname", "operator": "In", "values": ["n1"]}]});
    let anything = json!({"matchExpressions": [{"key": SCOPE_LABEL, "operator": "Exists"}]});
    let unknown = json!({"matchExpressions": [
        {"key": SCOPE_LABEL, "operator": "In", "values": ["E1", "false"]}]});
    let two = affinity(&json!([scoped.clone(), scoped.clone()]));
    attempts.pod("asks for one of two scopes", Operator, media_pod("visio-7", two), None);
    let by_affinity = "every term of a media pod's required node affinity";
    let by_image = "must come from a registry";
    let by_digest = "must be named by its digest";
    let digestless = format!("{PREFIX}media-node:1");
    for (what, change, said) in [
        ("asks for no scope", json!({"affinity": null}), by_affinity),
        ("or asks for anything", affinity(&json!([scoped.clone(), elsewhere])), by_affinity),
        ("accepts any value", affinity(&json!([anything])), by_affinity),
        ("accepts a level that is none", affinity(&json!([unknown])), by_affinity),
        ("tolerates nothing", json!({"tolerations": []}), "must tolerate taint"),
        ("shares the network", json!({"hostNetwork": true}), "hostNetwork is not allowed"),
        ("chooses the Kubernetes node", json!({"nodeName": "n1"}), "spec.nodeName may not be set"),
        ("holds a token", json!({"automountServiceAccountToken": true}), "automountServiceAccount"),
        (
            "adds a capability",
            container(json!({"securityContext": {
            "capabilities": {"add": ["NET_ADMIN"]}}})),
            "may add capabilities",
        ),
        (
            "is privileged",
            container(json!({"securityContext": {"privileged": true}})),
            "privileged containers are not allowed",
        ),
        ("comes from elsewhere", container(json!({"image": image("example.org/")})), by_image),
        (
            "comes from a like-named registry",
            container(json!({"image": image("localhost.example.org/hemicycle/")})),
            by_image,
        ),
        ("is named by tag", container(json!({"image": digestless})), by_digest),
        (
            "brings another image",
            json!({"initContainers": [
            {"name": "first", "image": "example.org/a:1"}]}),
            by_image,
        ),
    ] {
        attempts.pod(what, Operator, media_pod("visio-7", change), Some(said));
    }
    let shared = media_pod("visio-1-7", json!({"hostNetwork": true}));
    attempts.pod("shares the network where that is wanted", Operator, shared, None);
}

fn gateway_pods(attempts: &mut Attempts) {
    use Who::{Admin, ReplicaSets};
    let another = |change| gateway_pod("visio-gateway-5d9f8c7b6d-7k7k7", change);
    attempts.pod("makes a gateway's pod", ReplicaSets, another(json!({})), None);
    let hand_made = Some("gateway pods are made by the Deployment");
    attempts.pod("makes a gateway's pod by hand", Admin, another(json!({})), hand_made);
    let elsewhere = json!([{"matchExpressions": [
        {"key": "kubernetes.io/hostname", "operator": "In", "values": ["n1"]}]}]);
    let by_affinity = "every term of a gateway's required node affinity";
    for (what, change, said) in [
        ("lets it run anywhere", json!({"affinity": null}), by_affinity),
        ("lets it run elsewhere", affinity(&elsewhere), by_affinity),
        ("shares the network", json!({"hostNetwork": true}), "may not share the network"),
        ("comes from elsewhere", container(json!({"image": image("example.org/")})), "registry"),
        (
            "is named by tag",
            container(json!({"image": format!("{PREFIX}gateway:1")})),
            "must be named by its digest",
        ),
    ] {
        attempts.pod(what, ReplicaSets, another(change), Some(said));
    }
}

fn media_pod_changes(attempts: &mut Attempts) {
    let pod = format!("{}/visio-0", attempts.pods());
    use Who::Admin;
    for key in ["hemicycle.dev/component", "hemicycle.dev/meeting-cluster"] {
        for path in [pod.clone(), format!("{pod}/status")] {
            attempts.change(
                "relabels a media pod",
                Admin,
                path,
                labels(key, "gateway"),
                Some("say what a pod is"),
            );
        }
    }
    attempts.change(
        "labels any pod a media pod",
        Admin,
        format!("{}/free", attempts.pods()),
        labels("hemicycle.dev/component", "media-node"),
        Some("say what a pod is"),
    );
    attempts.change("labels a media pod", Admin, &pod, labels("example.org/team", "x"), None);
    attempts.change(
        "tells how it fares",
        Admin,
        format!("{pod}/status"),
        json!({"status": {"message": "fine"}}),
        None,
    );
    let swap = json!([{"op": "replace", "path": "/spec/containers/0/image",
        "value": image(PREFIX).replace('0', "f")}]);
    attempts.change("swaps its image", Admin, &pod, swap, Some("stays as it was made"));
    let debug = json!({"spec": {"ephemeralContainers": [{"name": "debug", "image": "a"}]}});
    attempts.change(
        "debugs it",
        Admin,
        format!("{pod}/ephemeralcontainers"),
        debug,
        Some("no container may be added"),
    );
}

fn bindings(attempts: &mut Attempts) {
    let not = Some("is not attested for pod");
    attempts.bind("binds a media pod where it may run", ("visio-0", "n1"), None);
    attempts.bind("binds a media pod elsewhere", ("visio-0", "n2"), not);
    attempts.bind("binds a namesake's where it may run", ("visio-1-0", "n2"), None);
    attempts.bind("binds a namesake's elsewhere", ("visio-1-0", "n1"), not);
    attempts.bind("binds any pod", ("free", "n2"), None);
    attempts.bind("binds a gateway where it may run", (GATEWAY_POD, "n1"), None);
    attempts.bind("binds a gateway elsewhere", (GATEWAY_POD, "n2"), not);
    let older = format!("/api/v1/namespaces/{}/bindings", attempts.namespace);
    attempts.try_to(
        "binds by the older name",
        Who::Admin,
        (Method::POST, older, binding("visio-0", "n2")),
        not,
    );
    let mut relabels = binding("visio-0", "n1");
    merge(&mut relabels, labels("hemicycle.dev/component", "gateway"));
    let path = format!("{}/visio-0/binding", attempts.pods());
    attempts.try_to(
        "relabels by binding",
        Who::Admin,
        (Method::POST, path, relabels),
        Some("may not change labels"),
    );
}

fn media_node(name: &str) -> Value {
    json!({"apiVersion": "hemicycle.dev/v1alpha1", "kind": "MediaNode",
        "metadata": {"name": name}, "spec": {"meetingCluster": "visio", "desiredState": "Serving"}})
}

fn resources(attempts: &mut Attempts) {
    use Who::{Admin, Operator};
    let (media_nodes, own) = (attempts.ours("medianodes"), attempts.ours("medianodes/visio-0"));
    let attested = attempts.ours("attestednodes/attested-nodes");
    let post = |who: &str| (Method::POST, media_nodes.clone(), media_node(who));
    attempts.try_to("makes a media node", Admin, post("visio-9"), Some(OWN));
    attempts.try_to("makes a media node", Operator, post("visio-9"), None);
    let drain = json!({"metadata": {"annotations": {"hemicycle.dev/drain": "upgrade"}}});
    attempts.change("asks to drain a media node", Admin, &own, drain, None);
    attempts.change(
        "drains it past the operator",
        Admin,
        &own,
        json!({"spec": {"desiredState": "Draining"}}),
        Some(OWN),
    );
    attempts.change(
        "says where it runs",
        Admin,
        format!("{own}/status"),
        json!({"status": {"kubernetesNode": "n1"}}),
        Some(OWN),
    );
    attempts.try_to("deletes it", Admin, (Method::DELETE, own, Value::Null), Some(OWN));
    attempts.change(
        "attests a Kubernetes node",
        Admin,
        &attested,
        json!({"spec": {"meetingClusters": []}}),
        Some(OWN),
    );
    attempts.try_to(
        "takes the list away",
        Admin,
        (Method::DELETE, attested, Value::Null),
        Some(OWN),
    );
    let cluster = attempts.ours("meetingclusters/visio/status");
    attempts.change(
        "says that all is well",
        Admin,
        cluster,
        json!({"status": {"nodes": "1/1"}}),
        Some(OWN),
    );
}

/// The sample, under the name that the pods are called after.
fn meeting_cluster(story: &Story) -> Result<()> {
    let sample = std::fs::read_to_string(install::samples().join("meetingcluster.yaml"))?;
    let own = sample.replace("demo", "visio").replace("meetings", story.namespace());
    install::apply_text(story.bed(), "visio", &own)?;
    Ok(())
}

/// What is taken away again when the story ends: the bed goes on to be another's.
struct Installed<'a> {
    bed: &'a Bed,
    manifest: String,
}

impl Drop for Installed<'_> {
    fn drop(&mut self) {
        let gone = ["delete", "--ignore-not-found", "-f", &self.manifest];
        if let Err(error) = install::kubectl(self.bed, &gone) {
            eprintln!("{} stays: {error}", self.manifest);
        }
    }
}

/// Applies a template of the chart, as helm renders it with digests required.
fn installed<'a>(bed: &'a Bed, name: &str, template: &str) -> Result<Installed<'a>> {
    let prefixes = format!("admission.images.prefixes={{{PREFIX}}}");
    let values = ["admission.images.digests=required", &prefixes];
    let text = install::rendered(bed, template, &values)?;
    let manifest = bed.layout().state().join(format!("{name}.yaml"));
    let installed = Installed { bed, manifest: manifest.display().to_string() };
    install::apply_text(bed, name, &text)?;
    Ok(installed)
}

/// A story with definitions, the operator's rights, its list and mark, and some pods.
fn with_media_namespace(
    name: &str,
    scenes: impl AsyncFnOnce(&Story, &Cluster, &Admission) -> Result<()>,
) {
    // An earlier story of this process may have chosen both already; they are the same.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let _ = telemetry::install(LogFormat::Text, "warn");
    tell(name, |story| {
        install::definitions(story.bed(), &|text| story.say(text))?;
        let all = ["wait", "--for=condition=Established", "crd", "--all", "--timeout=30s"];
        install::kubectl(story.bed(), &all)?;
        install::namespace(story.bed(), OPERATOR_NAMESPACE)?;
        let _rights = installed(story.bed(), "rights", "templates/rbac.yaml")?;
        let told = Runtime::new()?.block_on(async {
            let cluster = Cluster::reach(story.bed()).await?;
            let admission = Admission::new(&settings()?)?;
            attest(story, &cluster, &admission).await?;
            scenes(story, &cluster, &admission).await
        });
        // No operator is there to end the pods that bear its labels.
        let gone = delete_namespace(story.bed(), story.namespace());
        told.and(gone)
    });
}

fn delete_namespace(bed: &Bed, name: &str) -> Result<()> {
    let line = ["delete", "namespace", name, "--ignore-not-found", "--timeout=60s"];
    install::kubectl(bed, &line).map(|_| ()).context("the namespace does not go")
}

fn settings() -> Result<operator::admission::policies::Settings> {
    let line = ["operator", "--image-prefixes", PREFIX, "--image-digests", "required"];
    Ok(operator::config::Config::try_parse_from(line)?.admission())
}

/// Two meeting clusters, of which one name is the beginning of the other.
async fn attest(story: &Story, cluster: &Cluster, admission: &Admission) -> Result<()> {
    for (meeting_cluster, node, host_network) in [("visio", "n1", false), ("visio-1", "n2", true)] {
        let (namespace, kubernetes_nodes) = (story.namespace(), &[node.to_owned()][..]);
        let entry = Entry { namespace, meeting_cluster, kubernetes_nodes, host_network };
        let now = Timestamp::now();
        ensure!(admission.attest(&cluster.operator, &entry, now).await?, "nothing was written");
        ensure!(!admission.attest(&cluster.operator, &entry, now).await?, "written twice");
    }
    Ok(())
}

/// Waits until `condition` holds; how long that took.
async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) -> Result<Duration> {
    let begin = std::time::Instant::now();
    let met = timeout(WITHIN, async {
        while !condition().await {
            sleep(LOOK).await;
        }
    });
    met.await.with_context(|| format!("{what}: not within {WITHIN:?}"))?;
    Ok(begin.elapsed())
}

/// Waits until every policy refuses what it is there to refuse.
async fn in_force(cluster: &Cluster, attempts: &Attempts) -> Result<()> {
    for attempt in attempts.all.iter().filter(|attempt| attempt.refused.is_some()) {
        let path = format!("{}?dryRun=All", attempt.path);
        until(attempt.what, async || {
            cluster.ask(attempt.who, &attempt.method, &path, &attempt.body).await.is_err()
        })
        .await?;
    }
    Ok(())
}

#[test]
fn the_api_server_refuses_what_would_leave_the_scope() {
    with_media_namespace("admission", async |story, cluster, _| {
        let namespace = story.namespace().to_owned();
        let node = cluster.ask(Who::Admin, &Method::GET, "/api/v1/nodes/n1", &Value::Null).await;
        let node_uid = node.map_err(anyhow::Error::msg)?["metadata"]["uid"].clone();
        let mut attempts = Attempts { namespace, node_uid, all: Vec::new() };
        let pods = attempts.pods();
        for pod in ["visio-0", "visio-1-0"] {
            cluster.create(Who::Operator, &pods, &media_pod(pod, json!({}))).await?;
        }
        cluster.create(Who::Admin, &pods, &plain_pod("free", json!({}))).await?;
        cluster.create(Who::ReplicaSets, &pods, &gateway_pod(GATEWAY_POD, json!({}))).await?;
        let own = attempts.ours("medianodes");
        cluster.create(Who::Operator, &own, &media_node("visio-0")).await?;
        meeting_cluster(story)?;
        for add in [
            kubernetes_nodes,
            namespaces,
            any_pod,
            media_pods,
            gateway_pods,
            media_pod_changes,
            bindings,
            resources,
        ] {
            add(&mut attempts);
        }
        attempts.make(cluster, story, false).await?;
        let _policies = installed(story.bed(), "policies", "templates/admission.yaml")?;
        in_force(cluster, &attempts).await?;
        attempts.make(cluster, story, true).await?;
        without_a_list(story, cluster).await?;
        // Policies must not hold up what Kubernetes clears.
        delete_namespace(story.bed(), story.namespace())
    });
}

/// A marked namespace without its list: no pod, no binding.
async fn without_a_list(story: &Story, cluster: &Cluster) -> Result<()> {
    let name = format!("{}-bare", story.namespace());
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
    cluster.create(Who::Admin, "/api/v1/namespaces", &namespace).await?;
    let pods = format!("/api/v1/namespaces/{name}/pods");
    until("the ServiceAccount", async || {
        cluster.create(Who::Admin, &pods, &plain_pod("free", json!({}))).await.is_ok()
    })
    .await?;
    let path = format!("/api/v1/namespaces/{name}");
    let mark = labels("hemicycle.dev/media-namespace", "true");
    let marked = cluster.ask(Who::Operator, &Method::PATCH, &path, &mark).await;
    ensure!(marked.is_ok(), "{marked:?}");
    let refused = async |path: &str, body: &Value| {
        let path = format!("{path}?dryRun=All");
        let said = cluster.ask(Who::Admin, &Method::POST, &path, body).await;
        said.is_err_and(|said| said.contains("no params found"))
    };
    let another = plain_pod("another", json!({}));
    until("a pod is refused", async || refused(&pods, &another).await).await?;
    let (path, body) = (format!("{pods}/free/binding"), binding("free", "n1"));
    until("a binding is refused", async || refused(&path, &body).await).await?;
    delete_namespace(story.bed(), &name)
}

const POLICIES: &str = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies";
const BINDINGS: &str = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings";

#[test]
fn a_policy_that_is_changed_or_deleted_is_put_back_and_told() {
    with_media_namespace("guard", async |story, cluster, admission| {
        let _policies = installed(story.bed(), "policies", "templates/admission.yaml")?;
        let client = cluster.operator.clone();
        let reporter = Reporter { controller: "hemicycle-operator".into(), instance: None };
        let recorder = Recorder::new(client.clone(), reporter);
        let metrics = Arc::new(Metrics::new());
        let keeper = Keeper { client, recorder, metrics: metrics.clone() };
        tokio::select! {
            () = admission.guard.run(&keeper, || true) => bail!("the guard ended"),
            told = tampering(story, cluster, admission, &metrics) => told,
        }
    });
}

async fn tampering(
    story: &Story,
    cluster: &Cluster,
    admission: &Admission,
    metrics: &Metrics,
) -> Result<()> {
    let mut state = admission.guard.watch();
    timeout(WITHIN, state.wait_for(|state| state.intact.is_some())).await??;
    let first = state.borrow().clone();
    ensure!(
        first.intact == Some(true) && first.last_tamper.is_none(),
        "what helm made is not what the operator wants: {first:?}"
    );
    story.say("the chart's policies are the operator's");
    let pods = format!("{POLICIES}/hemicycle-pods");
    let untouched = format!("{POLICIES}/hemicycle-bindings");
    let version = async |path: &str| {
        let object = cluster.ask(Who::Admin, &Method::GET, path, &Value::Null).await;
        object.map(|it| it["metadata"]["resourceVersion"].clone()).unwrap_or_default()
    };
    let before = version(&untouched).await;
    let never = json!({"spec": {"matchConditions": [{"name": "never", "expression": "false"}]}});
    let leave = json!({"spec": {"failurePolicy": "Ignore"}});
    let only_told = json!({"spec": {"validationActions": ["Audit"]}});
    let nowhere = json!({"spec": {"matchResources": {"namespaceSelector": {
        "matchLabels": {"nowhere": "at-all"}}}}});
    let bound = format!("{BINDINGS}/hemicycle-pods");
    for (what, method, path, change) in [
        ("policy_deleted", Method::DELETE, &pods, Value::Null),
        ("binding_deleted", Method::DELETE, &bound, Value::Null),
        ("policy_changed", Method::PATCH, &pods, never),
        ("policy_changed", Method::PATCH, &pods, leave),
        ("binding_changed", Method::PATCH, &bound, only_told),
        ("binding_changed", Method::PATCH, &bound, nowhere),
    ] {
        let series = metrics.admission.repaired.with_label_values(&["hemicycle-pods", what]);
        let count = series.get();
        let done = cluster.ask(Who::Admin, &method, path, &change).await;
        ensure!(done.is_ok(), "{what}: {done:?}");
        let took = until(what, async || series.get() > count).await?;
        let chosen = plain_pod("any", json!({"nodeName": "n1"}));
        let path = format!("/api/v1/namespaces/{}/pods?dryRun=All", story.namespace());
        let refused = until("it refuses again", async || {
            cluster.ask(Who::Admin, &Method::POST, &path, &chosen).await.is_err()
        });
        let refused = took + refused.await?;
        ensure!(refused < WITHIN, "{what}: refused again only after {refused:?}");
        let trouble = admission.guard.trouble(Timestamp::now()).context("nothing is told")?;
        story.say(&format!("{what} {change}: put back after {took:.1?}: {trouble}"));
    }
    let later = Timestamp::now() + jiff::SignedDuration::from_secs(61);
    ensure!(admission.guard.trouble(later).is_none(), "still told after a minute");
    ensure!(version(&untouched).await == before, "a policy that nobody touched was written");
    let events = "/apis/events.k8s.io/v1/namespaces/default/events";
    until("an Event tells of it", async || {
        let all = cluster.ask(Who::Admin, &Method::GET, events, &Value::Null).await;
        all.is_ok_and(|all| all.to_string().contains("PolicyPutBack"))
    })
    .await?;
    // helm's next version meets no field of the operator's.
    let object = cluster.ask(Who::Admin, &Method::GET, &pods, &Value::Null).await;
    let managers = object.map_err(anyhow::Error::msg)?["metadata"]["managedFields"].to_string();
    ensure!(!managers.contains("f:spec"), "the operator owns fields of the chart: {managers}");
    Ok(())
}

#[test]
fn a_namespace_is_left_with_its_last_meeting_cluster() {
    with_media_namespace("left", async |story, cluster, admission| {
        let _policies = installed(story.bed(), "policies", "templates/admission.yaml")?;
        let client = cluster.operator.clone();
        let reporter = Reporter { controller: "hemicycle-operator".into(), instance: None };
        let recorder = Recorder::new(client.clone(), reporter);
        let keeper = Keeper { client, recorder, metrics: Arc::new(Metrics::new()) };
        let (store, mut writer) = reflector::store::<DeserializeGuard<MeetingCluster>>();
        writer.apply_watcher_event(&watcher::Event::Init);
        writer.apply_watcher_event(&watcher::Event::InitDone);
        // The API server knows one meeting cluster that the copy does not know yet.
        meeting_cluster(story)?;
        let own = format!("/apis/hemicycle.dev/v1alpha1/namespaces/{}", story.namespace());
        let list = format!("{own}/attestednodes/attested-nodes");
        let entries = async || {
            let said = cluster.ask(Who::Admin, &Method::GET, &list, &Value::Null).await;
            said.map(|it| it["spec"]["meetingClusters"].as_array().map_or(0, Vec::len)).ok()
        };
        let namespace = format!("/api/v1/namespaces/{}", story.namespace());
        let marked = async || {
            let said = cluster.ask(Who::Admin, &Method::GET, &namespace, &Value::Null).await;
            said.is_ok_and(|it| it.to_string().contains("hemicycle.dev/media-namespace\":\"true"))
        };
        ensure!(entries().await == Some(2) && marked().await, "not entered");
        tokio::select! {
            () = admission.run(&keeper, &store, || true) => bail!("the admission ended"),
            left = until("one entry is left", async || entries().await == Some(1)) => left?,
        };
        ensure!(marked().await, "the mark went with the first of two");
        install::kubectl(story.bed(), &["delete", "mc", "--all", "-n", story.namespace()])?;
        tokio::select! {
            () = admission.run(&keeper, &store, || true) => bail!("the admission ended"),
            left = until("all is left", async || entries().await.is_none()) => left?,
        };
        ensure!(!marked().await, "the mark stays");
        Ok(())
    });
}
