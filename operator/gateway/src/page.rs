//! The static meeting page below `/meet/`, when a directory is configured.
//!
//! Decides nothing about meetings. Invariant: only files below that directory are served.

use std::path::PathBuf;

use http::{Request, Response, StatusCode, Uri};
use http_body_util::BodyExt;
use tower::ServiceExt;
use tower_http::services::ServeDir;

use crate::reply::{self, Body};

/// Where the page lies in URLs.
pub const PREFIX: &str = "/meet/";

/// Serves the files of a directory.
#[derive(Clone)]
pub struct Page {
    files: ServeDir,
}

impl Page {
    /// The files below `directory`.
    #[must_use]
    pub fn new(directory: PathBuf) -> Self {
        Self { files: ServeDir::new(directory) }
    }

    /// Answers a GET or HEAD below [`PREFIX`].
    pub async fn serve(&self, method: http::Method, path: &str) -> Response<Body> {
        let below = path.strip_prefix(PREFIX).unwrap_or_default();
        let Ok(uri) = format!("/{below}").parse::<Uri>() else {
            return reply::text(StatusCode::BAD_REQUEST, "bad path");
        };
        let mut request = Request::new(http_body_util::Empty::<bytes::Bytes>::new());
        *request.method_mut() = method;
        *request.uri_mut() = uri;
        match self.files.clone().oneshot(request).await {
            Ok(response) => response.map(|body| body.map_err(Into::into).boxed_unsync()),
            Err(never) => match never {},
        }
    }
}
