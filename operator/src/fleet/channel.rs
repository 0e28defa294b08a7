//! Opens the gRPC channel to one media node's control listener: TCP to its pod, mutual TLS with the
//! meeting cluster's CA, and the media node's identity checked. Keeps no state.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use hyper_util::rt::TokioIo;
use media_api::v1::media_control_client::MediaControlClient;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint};
use tower::service_fn;

use crate::pki::trust::Trusted;

/// Time to connect and shake hands; a media node is in the same cluster.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// HTTP/2 pings find a dead path within two of these. Reports come twice a second, so only a silent
/// one is pinged.
const KEEP_ALIVE: Duration = Duration::from_millis(1_500);
/// Commands at once to one media node; more wait here. Keeps a burst of claims below the number of
/// small unread frames (about 100) at which h2 takes a connection for an attack.
const COMMANDS_MAX: usize = 64;

/// Why no channel could be opened.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// The identity to expect is no DNS name.
    #[error("{0} is not a name that a certificate can carry")]
    Name(String),
    /// Nobody answered, or not with the right certificate.
    #[error("no connection to {address}")]
    Connect {
        /// Where.
        address: SocketAddr,
        /// Why.
        #[source]
        source: tonic::transport::Error,
    },
}

/// A channel to `address`, whose certificate must say `server_name`.
///
/// # Errors
/// When nobody answers there in time, or not with the expected certificate.
pub async fn connect(
    trusted: &Trusted,
    address: SocketAddr,
    server_name: &str,
) -> Result<Channel, ChannelError> {
    let name = ServerName::try_from(server_name.to_owned())
        .map_err(|_| ChannelError::Name(server_name.to_owned()))?;
    let connector = TlsConnector::from(Arc::clone(&trusted.client));
    let dial = service_fn(move |_| {
        let (connector, name) = (connector.clone(), name.clone());
        async move {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            connector.connect(name, stream).await.map(TokioIo::new)
        }
    });
    // The address in the URI is not dialled; it only fills HTTP/2's authority.
    Endpoint::from_static("http://media-node.hemicycle.internal")
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .keep_alive_while_idle(true)
        .concurrency_limit(COMMANDS_MAX)
        .connect_with_connector(dial)
        .await
        .map_err(|source| ChannelError::Connect { address, source })
}

/// The control client over `channel`.
#[must_use]
pub fn control(channel: Channel) -> MediaControlClient<Channel> {
    /// A whole report of a full media node: [`operator_core::report::REPORT_ROOMS_MAX`] rooms of at
    /// most about 400 bytes.
    const REPORT_BYTES_MAX: usize = 8 << 20;
    MediaControlClient::new(channel).max_decoding_message_size(REPORT_BYTES_MAX)
}
