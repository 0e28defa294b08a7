//! The one object of an API server that the election needs: a Lease with a resource version, in
//! memory, behind the same client that the operator uses.
//!
//! Decides conflicts as an API server does. Knows nothing but Leases of one name. Invariant: who is
//! cut off from it gets no answer at all, as from a server that cannot be reached.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use http::{Method, Request, Response, StatusCode};
use k8s_openapi::api::coordination::v1::Lease;
use kube::client::Body;

/// The stored Lease, shared by all who hold a client of it.
#[derive(Clone, Default)]
pub(super) struct LeaseStore {
    lease: Arc<Mutex<Option<Lease>>>,
}

/// One replica's way to the store; open until it is cut.
#[derive(Clone, Default)]
pub(super) struct Way {
    cut: Arc<AtomicBool>,
}

impl Way {
    /// Cuts it, or opens it again.
    #[cfg(test)]
    pub(super) fn cut(&self, cut: bool) {
        self.cut.store(cut, Ordering::Relaxed);
    }
}

impl LeaseStore {
    /// A client whose API server this store is, reached by `way`.
    pub(super) fn client(&self, way: &Way) -> kube::Client {
        let (store, way) = (self.clone(), way.clone());
        let service = tower::service_fn(move |request: Request<Body>| {
            let (store, way) = (store.clone(), way.clone());
            async move {
                if way.cut.load(Ordering::Relaxed) {
                    return Err(io::Error::from(io::ErrorKind::ConnectionRefused));
                }
                Ok(store.answer(request).await)
            }
        });
        kube::Client::new(service, "hemicycle-system")
    }

    async fn answer(&self, request: Request<Body>) -> Response<Body> {
        let (parts, body) = request.into_parts();
        let bytes = body.collect_bytes().await.unwrap_or_default();
        let mut stored = self.lease.lock().unwrap_or_else(PoisonError::into_inner);
        if parts.method == Method::GET {
            return match &*stored {
                Some(lease) => json(StatusCode::OK, lease),
                None => failed(StatusCode::NOT_FOUND, "NotFound"),
            };
        }
        let Ok(mut given) = serde_json::from_slice::<Lease>(&bytes) else {
            return failed(StatusCode::BAD_REQUEST, "BadRequest");
        };
        let version = stored.as_ref().and_then(|lease| lease.metadata.resource_version.clone());
        if given.metadata.resource_version != version {
            return failed(StatusCode::CONFLICT, "Conflict");
        }
        let number = version.and_then(|version| version.parse::<u64>().ok()).unwrap_or_default();
        given.metadata.resource_version = Some((number + 1).to_string());
        *stored = Some(given.clone());
        json(StatusCode::OK, &given)
    }
}

fn json(status: StatusCode, value: &impl serde::Serialize) -> Response<Body> {
    let bytes = serde_json::to_vec(value).unwrap_or_default();
    let mut response = Response::new(Body::from(bytes));
    *response.status_mut() = status;
    response
}

fn failed(code: StatusCode, reason: &str) -> Response<Body> {
    let status = serde_json::json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": reason, "reason": reason, "code": code.as_u16(),
    });
    json(code, &status)
}
