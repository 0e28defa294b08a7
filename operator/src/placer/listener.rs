//! Accepts connections of gateways and other replicas: mutual TLS whose CA is chosen by the server
//! name in the client's hello, so that one port serves every meeting cluster.
//! Places nothing; hands on connections together with who called.
//! Invariant: a connection is handed on only when the caller's certificate is signed by the CA of
//! the meeting cluster asked for, and the caller's identity is a role of that meeting cluster.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{Semaphore, mpsc},
    time::timeout,
};
use tokio_rustls::{LazyConfigAcceptor, rustls::server::Acceptor, server::TlsStream};
use tokio_util::sync::CancellationToken;
use tonic::transport::server::Connected;

use crate::{
    metrics::Metrics,
    pki::{Role, first_dns_name_der, trust::TrustStore},
};

/// Time for a handshake; a caller that is slower gives its place to another.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Handshakes at once: bounds the memory and CPU that callers without a certificate can take.
const HANDSHAKES_MAX: usize = 64;
/// Connections shaken hands with and not yet picked up by the server.
const READY_MAX: usize = 64;

/// Who opened a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallerRole {
    /// A gateway of the meeting cluster.
    Gateway,
    /// Another operator replica.
    Operator,
}

/// Who opened a connection, as its certificate says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// "namespace/name" of the meeting cluster whose CA signed.
    pub tenant: Arc<str>,
    /// Which part of it.
    pub role: CallerRole,
}

/// An accepted connection.
#[derive(Debug)]
pub struct Connection {
    stream: TlsStream<TcpStream>,
    caller: Caller,
}

impl Connected for Connection {
    type ConnectInfo = Caller;

    fn connect_info(&self) -> Caller {
        self.caller.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, buffer)
    }

    fn poll_flush(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// Why a caller was turned away; the text is the metric's label.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("handshake")]
    Handshake(#[from] std::io::Error),
    #[error("timeout")]
    Timeout,
    #[error("unknown_meeting_cluster")]
    UnknownMeetingCluster,
    #[error("wrong_identity")]
    WrongIdentity,
}

/// Accepts until `stop`, handing connections to the returned channel.
pub fn accept(
    listener: TcpListener,
    trust: Arc<TrustStore>,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
) -> mpsc::Receiver<std::io::Result<Connection>> {
    let (ready, receiver) = mpsc::channel(READY_MAX);
    let places = Arc::new(Semaphore::new(HANDSHAKES_MAX));
    tokio::spawn(async move {
        loop {
            let Ok(place) = places.clone().acquire_owned().await else {
                return;
            };
            let stream = tokio::select! {
                () = stop.cancelled() => return,
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => stream,
                    Err(error) => {
                        tracing::warn!(%error, "a connection could not be accepted");
                        // Out of file descriptors, most likely: give others time to close theirs.
                        tokio::time::sleep(Duration::from_millis(100)).await;
                        continue;
                    }
                },
            };
            let (trust, metrics, ready) = (trust.clone(), metrics.clone(), ready.clone());
            tokio::spawn(async move {
                let done = timeout(HANDSHAKE_TIMEOUT, handshake(stream, &trust)).await;
                drop(place);
                match done.unwrap_or(Err(Refusal::Timeout)) {
                    // The server is gone when nobody receives; then nobody misses the connection.
                    Ok(connection) => drop(ready.send(Ok(connection)).await),
                    Err(refusal) => {
                        tracing::debug!(?refusal, "a connection was refused");
                        metrics
                            .connections_refused
                            .with_label_values(&[&refusal.to_string()])
                            .inc();
                    }
                }
            });
        }
    });
    receiver
}

async fn handshake(stream: TcpStream, trust: &TrustStore) -> Result<Connection, Refusal> {
    // Answers are small and waited for.
    stream.set_nodelay(true)?;
    let hello = LazyConfigAcceptor::new(Acceptor::default(), stream).await?;
    let trusted = hello
        .client_hello()
        .server_name()
        .and_then(|name| trust.by_placer_name(name))
        .ok_or(Refusal::UnknownMeetingCluster)?;
    let stream = hello.into_stream(trusted.server.clone()).await?;
    let identity = stream
        .get_ref()
        .1
        .peer_certificates()
        .and_then(|chain| chain.first())
        .and_then(|certificate| first_dns_name_der(certificate))
        .ok_or(Refusal::WrongIdentity)?;
    let role = if identity == trusted.dns_name(&Role::Gateway) {
        CallerRole::Gateway
    } else if identity == trusted.dns_name(&Role::Operator) {
        CallerRole::Operator
    } else {
        return Err(Refusal::WrongIdentity);
    };
    let caller = Caller { tenant: trusted.tenant.as_str().into(), role };
    Ok(Connection { stream, caller })
}
