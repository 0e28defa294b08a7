//! Connections to media nodes: mutual TLS, HTTP/1.1, one request each.
//!
//! Decides how a request is put on the wire. Invariant: nothing is sent before the media node's
//! certificate has been verified against its own name.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderValue, Request, Response};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::directory::MediaNode;
use crate::files::Files;
use crate::reply::Body;

/// Longest time for TCP and TLS to a media node, which is on the same network.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(1500);
/// Header by which a media node says that it does not have the room.
pub const ROOM_HEADER: &str = "x-hemicycle-room";
/// Its value.
pub const NOT_HERE: &str = "not-here";
/// Header with the client's address.
const FORWARDED_FOR: &str = "x-forwarded-for";

/// Why a media node gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    /// No connection; the request was not sent.
    #[error("media node cannot be reached")]
    Connect,
    /// The request may have been acted upon, but no answer came.
    #[error("media node did not answer")]
    Answer,
}

/// Opens connections with the certificate in use.
pub struct Upstream {
    files: Arc<Files>,
}

impl Upstream {
    /// Uses the client certificate of `files`.
    #[must_use]
    pub fn new(files: Arc<Files>) -> Self {
        Self { files }
    }

    /// Sends one request and waits for the head of its answer.
    ///
    /// # Errors
    /// When no connection can be made or no answer comes in time.
    pub async fn send(
        &self,
        media_node: &MediaNode,
        request: Request<Body>,
        answer_within: Duration,
    ) -> Result<Response<Incoming>, UpstreamError> {
        let stream = timeout(CONNECT_TIMEOUT, self.connect(media_node))
            .await
            .map_err(|_| UpstreamError::Connect)??;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|_| UpstreamError::Connect)?;
        // Ends with the answer's body, or hands the stream over when it is upgraded.
        tokio::spawn(async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "connection to a media node ended");
            }
        });
        match timeout(answer_within, sender.send_request(request)).await {
            Ok(Ok(response)) => Ok(response),
            _ => Err(UpstreamError::Answer),
        }
    }

    async fn connect(
        &self,
        media_node: &MediaNode,
    ) -> Result<tokio_rustls::client::TlsStream<TcpStream>, UpstreamError> {
        let tls = self.files.client.load_full();
        let connector = tokio_rustls::TlsConnector::from(Arc::clone(&tls.media_node));
        let server_name = ServerName::try_from(media_node.tls_server_name.clone())
            .map_err(|_| UpstreamError::Connect)?;
        let failed = |error: std::io::Error| {
            tracing::debug!(media_node = media_node.name, %error, "no connection to a media node");
            UpstreamError::Connect
        };
        let stream = TcpStream::connect(media_node.signal_address).await.map_err(failed)?;
        stream.set_nodelay(true).map_err(failed)?;
        connector.connect(server_name, stream).await.map_err(failed)
    }
}

/// The headers that a media node receives: the client's, with its address put right.
#[must_use]
pub fn forwarded(headers: &HeaderMap, client: IpAddr) -> HeaderMap {
    let mut headers = headers.clone();
    // Ours to say: a media node believes this header because it comes from a gateway.
    if let Ok(address) = HeaderValue::from_str(&client.to_string()) {
        headers.insert(FORWARDED_FOR, address);
    }
    headers.remove(ROOM_HEADER);
    headers
}

/// Whether a media node says that it does not have the room.
#[must_use]
pub fn is_not_here<B>(response: &Response<B>) -> bool {
    response.headers().get(ROOM_HEADER).is_some_and(|value| value == NOT_HERE)
}
