//! An API server in memory for tests of writes: objects with resourceVersion, UID, generation and
//! owners; create, replace, server-side apply, merge patch, delete with preconditions, list by
//! label and field. It knows no schema and no admission. Faults cut the k-th write, before or after
//! it took effect.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard},
    task::{Context, Poll},
};

use http::{Method, Request, Response, StatusCode};
use kube::{Client, client::Body};
use serde_json::{Map, Value, json};
use tower::Service;

/// Where a write is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cut {
    /// It never arrives.
    Before,
    /// It takes effect and its answer is lost.
    After,
}

/// By collection and name. Shared, because every version of all of them is kept.
type Objects = BTreeMap<(String, String), Arc<Value>>;

#[derive(Default)]
struct State {
    objects: Objects,
    version: u64,
    uids: u64,
    writes: Vec<String>,
    /// Collections that were listed, in order.
    lists: Vec<String>,
    cut: Option<(usize, Cut)>,
    dead: bool,
    /// A collection in which nothing may be created, as under a quota.
    full: Option<String>,
    /// The namespace is being deleted: nothing may be created.
    ending: bool,
    /// Pods stay after their deletion, because no kubelet ends them.
    lingering: bool,
    /// Creations that this cost so far.
    vain: usize,
    /// What there was at each version, for readers that lag.
    past: Vec<Objects>,
    lag: usize,
}

/// The API server.
#[derive(Clone, Default)]
pub(crate) struct ApiServer {
    state: Arc<Mutex<State>>,
}

struct Asked {
    method: Method,
    /// Such as `apis/apps/v1/namespaces/ns/deployments`.
    collection: String,
    name: Option<String>,
    status: bool,
    query: BTreeMap<String, String>,
    apply: bool,
    body: Value,
}

type Answer = Result<Value, (u16, &'static str, String)>;

/// In the message of a refusal whose cause is the namespace's end.
const BEING_TERMINATED: &str = "is being terminated";

fn details(message: &str) -> Value {
    let ends = message.ends_with(BEING_TERMINATED);
    let reason = if ends { "NamespaceTerminating" } else { "Unknown" };
    json!({"causes": [{"reason": reason}]})
}

fn refuse(code: u16, reason: &'static str, message: impl Into<String>) -> Answer {
    Err((code, reason, message.into()))
}

impl ApiServer {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("not poisoned")
    }

    /// A client of this server.
    pub(crate) fn client(&self) -> Client {
        Client::new(self.clone(), "default")
    }

    /// Cuts the `number`-th write from now on, counted from 1. Everything after it fails too, as
    /// for a process that is gone.
    pub(crate) fn cut(&self, number: usize, cut: Cut) {
        let mut state = self.lock();
        let at = state.writes.len() + number;
        state.cut = Some((at, cut));
    }

    /// A new process speaks: writes arrive again.
    pub(crate) fn revive(&self) {
        let mut state = self.lock();
        state.cut = None;
        state.dead = false;
    }

    /// From now on nothing may be created in a collection.
    pub(crate) fn fill(&self, collection: &str) {
        self.lock().full = Some(collection.to_owned());
    }

    /// From now on the namespace is being deleted, and nothing may be created in it.
    pub(crate) fn end_namespace(&self) {
        self.lock().ending = true;
    }

    /// From now on a pod that is deleted stays, as long as its process does not end.
    pub(crate) fn let_pods_linger(&self) {
        self.lock().lingering = true;
    }

    /// How often something was to be created in the namespace that is being deleted.
    pub(crate) fn vain(&self) -> usize {
        self.lock().vain
    }

    /// Reads show what there was this many versions ago; writes meet what there is.
    pub(crate) fn lag(&self, versions: usize) {
        self.lock().lag = versions;
    }

    /// The writes that took effect, as `VERB collection/name`.
    pub(crate) fn writes(&self) -> Vec<String> {
        self.lock().writes.clone()
    }

    /// How often a collection was listed.
    pub(crate) fn lists(&self, collection: &str) -> usize {
        self.lock().lists.iter().filter(|listed| *listed == collection).count()
    }

    /// Puts an object as a user or another component would.
    pub(crate) fn put(&self, collection: &str, mut object: Value) {
        let mut state = self.lock();
        let name = object["metadata"]["name"].as_str().expect("named").to_owned();
        let key = (collection.to_owned(), name);
        match state.objects.get(&key).cloned() {
            None => state.born(&mut object),
            Some(old) => {
                for field in ["uid", "creationTimestamp"] {
                    object["metadata"][field] = old["metadata"][field].clone();
                }
                let generation = old["metadata"]["generation"].as_i64().unwrap_or(1);
                let grown = generation + i64::from(old["spec"] != object["spec"]);
                object["metadata"]["generation"] = json!(grown);
                if object.get("status").is_none() && old.get("status").is_some() {
                    object["status"] = old["status"].clone();
                }
            }
        }
        state.store(key, object);
    }

    /// One object.
    pub(crate) fn get(&self, collection: &str, name: &str) -> Option<Value> {
        let key = (collection.to_owned(), name.to_owned());
        self.lock().shown().get(&key).map(Arc::as_ref).cloned()
    }

    /// Deletes as a user would, with everything that it owns.
    pub(crate) fn delete(&self, collection: &str, name: &str) {
        self.lock().remove(&(collection.to_owned(), name.to_owned()));
    }

    /// All objects of a collection.
    pub(crate) fn all(&self, collection: &str) -> Vec<Value> {
        let state = self.lock();
        let of = |((of, _), object): (&(String, String), &Arc<Value>)| {
            (of == collection).then(|| Value::clone(object))
        };
        state.objects.iter().filter_map(of).collect()
    }

    /// Everything there is, by collection and name, without what differs between two equal runs.
    pub(crate) fn picture(&self) -> BTreeMap<String, Value> {
        let state = self.lock();
        let objects = state.objects.iter().filter(|((of, _), _)| !of.contains("events"));
        objects.map(|((of, name), object)| (format!("{of}/{name}"), normalised(object))).collect()
    }

    fn serve(&self, asked: &Asked) -> Answer {
        let mut state = self.lock();
        let writes = asked.method != Method::GET;
        if state.dead {
            return refuse(503, "ServiceUnavailable", "the process is cut off");
        }
        if !writes {
            if asked.name.is_none() {
                state.lists.push(asked.collection.clone());
            }
            return state.read(asked);
        }
        // Events are told and forgotten: they are no part of what converges.
        let counts = !asked.collection.contains("events");
        let number = state.writes.len() + 1;
        let cut = state.cut.filter(|(at, _)| counts && *at == number).map(|(_, cut)| cut);
        if cut.is_some() {
            state.dead = true;
        }
        if cut == Some(Cut::Before) {
            state.writes.push("cut".into());
            return refuse(503, "ServiceUnavailable", "the write was cut");
        }
        let answer = state.write(asked);
        if counts && answer.is_ok() {
            let name = asked.name.clone().unwrap_or_default();
            let write = format!("{} {}/{name}", asked.method, asked.collection);
            state.writes.push(write);
        }
        if cut == Some(Cut::After) {
            return refuse(503, "ServiceUnavailable", "the answer was cut");
        }
        answer
    }
}

impl State {
    fn born(&mut self, object: &mut Value) {
        self.uids += 1;
        let metadata = &mut object["metadata"];
        metadata["uid"] = json!(format!("uid-{}", self.uids));
        metadata["creationTimestamp"] = json!("2026-11-23T09:00:00Z");
        metadata["generation"] = json!(1);
    }

    fn store(&mut self, key: (String, String), mut object: Value) -> Value {
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        self.objects.insert(key, Arc::new(object.clone()));
        self.past.push(self.objects.clone());
        object
    }

    /// What a reader is shown.
    fn shown(&self) -> &Objects {
        match self.past.len().checked_sub(self.lag + 1) {
            Some(at) if self.lag > 0 => &self.past[at],
            _ => &self.objects,
        }
    }

    /// The garbage collector is at once.
    fn remove(&mut self, key: &(String, String)) {
        let Some(object) = self.objects.remove(key) else { return };
        self.version += 1;
        self.past.push(self.objects.clone());
        let uid = object["metadata"]["uid"].clone();
        let owned = |object: &Value| {
            let owners = object["metadata"]["ownerReferences"].as_array();
            owners.is_some_and(|owners| owners.iter().any(|owner| owner["uid"] == uid))
        };
        let dependents: Vec<_> = self
            .objects
            .iter()
            .filter(|(_, object)| owned(object))
            .map(|(key, _)| key.clone())
            .collect();
        for dependent in dependents {
            self.end(dependent, None);
        }
    }

    /// Removes an object, or lets a pod linger.
    fn end(&mut self, key: (String, String), grace_seconds: Option<i64>) {
        if self.lingering && key.0.ends_with("/pods") {
            self.terminate(key, grace_seconds);
        } else {
            self.remove(&key);
        }
    }

    /// Marks a pod as deleted. A second deletion can shorten its grace, and not lengthen it.
    fn terminate(&mut self, key: (String, String), grace_seconds: Option<i64>) {
        let mut pod = Value::clone(&self.objects[&key]);
        let granted = pod["metadata"]["deletionGracePeriodSeconds"].as_i64();
        let own = pod["spec"]["terminationGracePeriodSeconds"].as_i64();
        let wanted = grace_seconds.or(own).unwrap_or(30);
        let grace = granted.map_or(wanted, |granted| granted.min(wanted));
        pod["metadata"]["deletionTimestamp"] = json!("2026-11-23T09:00:00Z");
        pod["metadata"]["deletionGracePeriodSeconds"] = json!(grace);
        self.store(key, pod);
    }

    /// Whether whoever owns it is there no more, so that the garbage collector deletes it.
    fn is_orphan(&self, object: &Value) -> bool {
        let owner = &object["metadata"]["ownerReferences"][0]["uid"];
        let is_owner = |other: &Arc<Value>| other["metadata"]["uid"] == *owner;
        owner.is_string() && !self.objects.values().any(is_owner)
    }

    fn read(&self, asked: &Asked) -> Answer {
        let Some(name) = &asked.name else {
            let items: Vec<&Value> = self
                .shown()
                .iter()
                .filter(|((of, _), object)| *of == asked.collection && selected(object, asked))
                .map(|(_, object)| &**object)
                .collect();
            let version = self.version.to_string();
            return Ok(json!({"apiVersion": "v1", "kind": "List",
                "metadata": {"resourceVersion": version}, "items": items}));
        };
        let found = self.shown().get(&(asked.collection.clone(), name.clone()));
        found
            .map(Arc::as_ref)
            .cloned()
            .ok_or_else(|| (404, "NotFound", format!("{name} not found")))
    }

    fn write(&mut self, asked: &Asked) -> Answer {
        let name = asked
            .name
            .clone()
            .or_else(|| asked.body["metadata"]["name"].as_str().map(str::to_owned));
        let Some(name) = name else { return refuse(422, "Invalid", "no name") };
        let key = (asked.collection.clone(), name.clone());
        let old = self.objects.get(&key).map(Arc::as_ref).cloned();
        let creates = asked.method == Method::POST || (asked.apply && !asked.status);
        if self.ending && old.is_none() && creates {
            self.vain += 1;
            return refuse(403, "Forbidden", format!("{name}: the namespace {BEING_TERMINATED}"));
        }
        if asked.method == Method::POST {
            if self.full.as_ref() == Some(&asked.collection) {
                return refuse(403, "Forbidden", "exceeded quota: media");
            }
            if old.is_some() {
                return refuse(409, "AlreadyExists", format!("{name} exists"));
            }
            let mut object = asked.body.clone();
            self.born(&mut object);
            return Ok(self.store(key, object));
        }
        let Some(old) = old else {
            if asked.apply && !asked.status {
                let mut object = asked.body.clone();
                self.born(&mut object);
                return Ok(self.store(key, object));
            }
            return refuse(404, "NotFound", format!("{name} not found"));
        };
        let wanted = match asked.method {
            Method::DELETE => &asked.body["preconditions"],
            _ => &asked.body["metadata"],
        };
        for field in ["uid", "resourceVersion"] {
            if let Some(seen) = wanted[field].as_str()
                && old["metadata"][field] != seen
            {
                return refuse(409, "Conflict", format!("{name}: {field} is another"));
            }
        }
        if asked.method == Method::DELETE {
            assert!(wanted["uid"].is_string(), "{name} is deleted without UID");
            let evidence = wanted["resourceVersion"].is_string() || self.is_orphan(&old);
            assert!(evidence, "{name}, which would stay, is deleted without resourceVersion");
            self.end(key, asked.body["gracePeriodSeconds"].as_i64());
            return Ok(json!({"kind": "Status", "apiVersion": "v1", "status": "Success"}));
        }
        let mut object = old.clone();
        if asked.method == Method::PUT {
            for field in ["uid", "creationTimestamp", "generation"] {
                let kept = old["metadata"][field].clone();
                object = asked.body.clone();
                object["metadata"][field] = kept;
            }
            object["metadata"]["uid"] = old["metadata"]["uid"].clone();
        } else if asked.status {
            object["status"] = asked.body["status"].clone();
        } else {
            merge(&mut object, &asked.body);
            object["metadata"]["uid"] = old["metadata"]["uid"].clone();
        }
        if object == old {
            return Ok(old);
        }
        if object["spec"] != old["spec"] {
            let generation = old["metadata"]["generation"].as_i64().unwrap_or(1);
            object["metadata"]["generation"] = json!(generation + 1);
        }
        Ok(self.store(key, object))
    }
}

fn selected(object: &Value, asked: &Asked) -> bool {
    let pairs = |key: &str| {
        let text = asked.query.get(key).cloned().unwrap_or_default();
        let pairs = text.split(',').filter_map(|pair| pair.split_once('='));
        pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect::<Vec<_>>()
    };
    let labels = &object["metadata"]["labels"];
    pairs("labelSelector").iter().all(|(key, value)| labels[key] == **value)
        && pairs("fieldSelector").iter().all(|(path, value)| {
            path.split('.').fold(object, |at, field| &at[field]) == &json!(value)
        })
}

fn merge(into: &mut Value, from: &Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                if value.is_null() {
                    into.remove(key);
                } else {
                    merge(into.entry(key.clone()).or_insert(Value::Null), value);
                }
            }
        }
        (into, from) => *into = from.clone(),
    }
}

/// Names of times, versions and drawn keys do not count.
fn normalised(object: &Value) -> Value {
    match object {
        Value::Object(fields) => Value::Object(
            fields
                .iter()
                .filter(|(key, _)| {
                    !matches!(
                        key.as_str(),
                        "resourceVersion"
                            | "uid"
                            | "creationTimestamp"
                            | "generation"
                            | "observedGeneration"
                            | "lastTransitionTime"
                            | "desiredStateSince"
                            | "podUid"
                            | "message"
                            | "held"
                            | "facts"
                            | "data"
                    )
                })
                .map(|(key, value)| (key.clone(), normalised(value)))
                .collect::<Map<_, _>>(),
        ),
        Value::Array(items) => {
            // Whether the placer is still hearing media nodes goes by the real clock.
            let kept = items.iter().filter(|item| item["type"] != "PlacementReady");
            Value::Array(kept.map(normalised).collect())
        }
        other => other.clone(),
    }
}

fn parse(method: &Method, path: &str, query: &str, apply: bool, body: Value) -> Asked {
    let mut parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let status = parts.last() == Some(&"status");
    if status {
        parts.pop();
    }
    // api/v1/namespaces/NS/KIND[/NAME], apis/GROUP/VERSION/…, or without a namespace.
    let root = if parts.first() == Some(&"api") { 2 } else { 3 };
    let depth = if parts.get(root) == Some(&"namespaces") && parts.len() > root + 2 {
        root + 3
    } else {
        root + 1
    };
    let name = parts.get(depth).map(|name| (*name).to_owned());
    let decode = |text: &str| {
        text.replace("%3D", "=").replace("%2C", ",").replace("%2F", "/").replace('+', " ")
    };
    let query = query.split('&').filter_map(|pair| pair.split_once('='));
    Asked {
        method: method.clone(),
        collection: parts[..depth].join("/"),
        name,
        status,
        query: query.map(|(key, value)| (key.to_owned(), decode(value))).collect(),
        apply,
        body,
    }
}

impl Service<Request<Body>> for ApiServer {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let server = self.clone();
        Box::pin(async move {
            let (head, body) = request.into_parts();
            let bytes = body.collect_bytes().await.expect("a body in memory");
            let body = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
            let kind = head.headers.get("content-type").map(|kind| kind.as_bytes().to_vec());
            let apply = kind.is_some_and(|kind| kind.starts_with(b"application/apply"));
            let query = head.uri.query().unwrap_or_default();
            let asked = parse(&head.method, head.uri.path(), query, apply, body);
            let (code, body) = match server.serve(&asked) {
                Ok(object) => (StatusCode::OK, object),
                Err((code, reason, message)) => (
                    StatusCode::from_u16(code).expect("a code"),
                    json!({"kind": "Status", "apiVersion": "v1", "status": "Failure",
                        "code": code, "reason": reason, "details": details(&message),
                        "message": message}),
                ),
            };
            let bytes = serde_json::to_vec(&body).expect("JSON");
            Ok(Response::builder().status(code).body(Body::from(bytes)).expect("a response"))
        })
    }
}
