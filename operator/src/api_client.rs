//! Builds the client for the API server with our own tower layer around it: every call is counted
//! by verb and outcome. Decides nothing about calls and never retries one.

use std::{
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll},
};

use http::{Method, Request, Response};
use kube::{
    Client, Config,
    client::{Body, ClientBuilder},
};
use tower::{Layer, Service};

use crate::{admin::Readiness, metrics::Metrics};

/// Counts each call to the API server.
#[derive(Clone)]
pub struct CountingLayer {
    metrics: Arc<Metrics>,
    readiness: Arc<Readiness>,
}

impl<S> Layer<S> for CountingLayer {
    type Service = Counting<S>;

    fn layer(&self, inner: S) -> Counting<S> {
        Counting { inner, shared: self.clone() }
    }
}

/// The service made by [`CountingLayer`].
#[derive(Clone)]
pub struct Counting<S> {
    inner: S,
    shared: CountingLayer,
}

impl<S, B> Service<Request<Body>> for Counting<S>
where
    S: Service<Request<Body>, Response = Response<B>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
    B: 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let verb = verb_of(request.method(), request.uri().path(), request.uri().query());
        let shared = self.shared.clone();
        let answer = self.inner.call(request);
        Box::pin(async move {
            let answer = answer.await;
            let outcome = match &answer {
                Ok(response) if response.status().is_success() => "ok",
                Ok(response) if response.status().is_client_error() => "client_error",
                Ok(_) => "server_error",
                Err(_) => "unreachable",
            };
            if outcome == "ok" {
                shared.readiness.api_server_seen.store(true, Ordering::Relaxed);
            }
            shared.metrics.api_calls.with_label_values(&[verb, outcome]).inc();
            answer
        })
    }
}

/// Kubernetes' word for the request.
fn verb_of(method: &Method, path: &str, query: Option<&str>) -> &'static str {
    let watch = query.is_some_and(|query| query.split('&').any(|part| part == "watch=true"));
    match *method {
        Method::GET if watch => "watch",
        Method::GET if names_collection(path) => "list",
        Method::GET => "get",
        Method::POST if path.ends_with("/eviction") => "evict",
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => "other",
    }
}

/// Whether a path ends with a kind: `/api/VERSION/…` or `/apis/GROUP/VERSION/…`, then, in a
/// namespace, `namespaces/NAMESPACE`, then the kind, and for one object its name.
fn names_collection(path: &str) -> bool {
    let mut parts = path.trim_matches('/').split('/');
    let group = match parts.next() {
        Some("api") => parts.next(),
        Some("apis") => parts.next().and(parts.next()),
        _ => None,
    };
    let rest: Vec<&str> = parts.collect();
    group.is_some() && matches!(rest[..], [_] | ["namespaces", _, _])
}

/// A client for `config`, counted.
///
/// # Errors
/// When the configuration's TLS material cannot be used.
pub fn client(
    config: Config,
    metrics: Arc<Metrics>,
    readiness: Arc<Readiness>,
) -> kube::Result<Client> {
    let layer = CountingLayer { metrics, readiness };
    Ok(ClientBuilder::try_from(config)?.with_layer(&layer).build())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verbs_are_kubernetes_words() {
        let path = "/api/v1/pods";
        assert_eq!(verb_of(&Method::GET, path, Some("watch=true&resourceVersion=0")), "watch");
        assert_eq!(verb_of(&Method::GET, path, Some("limit=500")), "list");
        for (path, verb) in [
            ("/api/v1/namespaces/ministry/secrets/keys", "get"),
            ("/api/v1/namespaces/ministry", "get"),
            ("/api/v1/nodes/n1", "get"),
            ("/apis/apps/v1/namespaces/ministry/deployments", "list"),
            ("/apis/hemicycle.dev/v1alpha1/meetingclusters", "list"),
            ("/version", "get"),
        ] {
            assert_eq!(verb_of(&Method::GET, path, None), verb, "{path}");
        }
        assert_eq!(verb_of(&Method::PATCH, path, None), "patch");
        assert_eq!(verb_of(&Method::POST, "/api/v1/namespaces/a/pods/b/eviction", None), "evict");
    }
}
