//! One signalling WebSocket as a task with two queues.
//!
//! Turns bytes into signalling messages and back. Knows no meaning of them and does not
//! reconnect. Invariant: after `Closed` or `Refused` nothing more comes; dropping the link cuts
//! the connection without a goodbye, as a lost network would.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use livekit_contract::frame::{self, Encoding};
use livekit_contract::proto::{self, signal_request, signal_response};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::{self, Message};

use super::HeadlessError;

/// How long an answer of the server is waited for (`client-sdk-js`, `websocketTimeout`).
pub(super) const ANSWER_MAX: Duration = Duration::from_secs(15);
/// Messages that wait in either direction; a join of a room of hundreds is one message.
const QUEUE_MESSAGES: usize = 1024;

/// How to trust and find the server.
#[derive(Debug, Clone, Default)]
pub struct Trust {
    /// For `wss`: which certificates to accept.
    pub tls: Option<Arc<rustls::ClientConfig>>,
    /// Connect here whatever the host name in the URL resolves to.
    pub address: Option<SocketAddr>,
}

/// What a link tells.
pub(super) enum LinkEvent {
    Open,
    Message(Box<signal_response::Message>),
    Closed(String),
    Refused { status: u16, text: String },
}

/// One WebSocket.
pub(super) struct Link {
    outgoing: mpsc::Sender<Message>,
    incoming: mpsc::Receiver<LinkEvent>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Link {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Link {
    /// Starts to connect to `server` with `token`; `wishes` are further parameters of the query,
    /// each begun by `&`.
    pub(super) fn open(server: &str, token: &str, wishes: &str, trust: Trust) -> Self {
        let client = "protocol=15&sdk=rust&version=1.0.0";
        let url = format!("{server}/rtc?access_token={token}&{client}{wishes}");
        let (outgoing, requests) = mpsc::channel(QUEUE_MESSAGES);
        let (events, incoming) = mpsc::channel(QUEUE_MESSAGES);
        let task = tokio::spawn(async move {
            let last = match run(&url, &trust, requests, &events).await {
                Ok(()) => LinkEvent::Closed("closed by the server".to_owned()),
                Err(HeadlessError::Refused { status, text }) => LinkEvent::Refused { status, text },
                Err(error) => LinkEvent::Closed(error.to_string()),
            };
            let _receiver_gone = events.send(last).await;
        });
        Self { outgoing, incoming, task }
    }

    /// Sends a message; what does not fit in the queue is lost, as the link is dead then.
    pub(super) fn send(&self, message: signal_request::Message) {
        let request = proto::SignalRequest { message: Some(message) };
        if let Ok(bytes) = frame::encode_request(Encoding::Binary, &request) {
            let _full = self.outgoing.try_send(Message::Binary(bytes.into()));
        }
    }

    /// The next event; cancel-safe.
    pub(super) async fn next(&mut self) -> LinkEvent {
        let ended = || LinkEvent::Closed("link task ended".to_owned());
        self.incoming.recv().await.unwrap_or_else(ended)
    }
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

async fn connect(uri: &http::Uri, trust: &Trust) -> Result<Box<dyn Stream>, HeadlessError> {
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
    let secure = uri.scheme_str() == Some("wss");
    let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
    let tcp = match trust.address {
        Some(address) => TcpStream::connect(address).await?,
        None => TcpStream::connect((host, port)).await?,
    };
    tcp.set_nodelay(true)?;
    if !secure {
        return Ok(Box::new(tcp));
    }
    let Some(tls) = trust.tls.clone() else {
        return Err(HeadlessError::Signal("wss needs certificates to trust".to_owned()));
    };
    let name = rustls::pki_types::ServerName::try_from(host.to_owned())
        .map_err(|_| HeadlessError::Url(uri.to_string()))?;
    Ok(Box::new(tokio_rustls::TlsConnector::from(tls).connect(name, tcp).await?))
}

async fn run(
    url: &str,
    trust: &Trust,
    mut requests: mpsc::Receiver<Message>,
    events: &mpsc::Sender<LinkEvent>,
) -> Result<(), HeadlessError> {
    let uri: http::Uri = url.parse().map_err(|_| HeadlessError::Url(url.to_owned()))?;
    let stream = connect(&uri, trust).await?;
    let (mut socket, _response) =
        tokio_tungstenite::client_async(url, stream).await.map_err(refusal)?;
    if events.send(LinkEvent::Open).await.is_err() {
        return Ok(());
    }
    loop {
        tokio::select! {
            request = requests.recv() => {
                let Some(request) = request else { return Ok(()) };
                let sent = socket.send(request).await;
                sent.map_err(|error| HeadlessError::Signal(error.to_string()))?;
            }
            message = socket.next() => {
                let Some(message) = message else { return Ok(()) };
                let message = message.map_err(|error| HeadlessError::Signal(error.to_string()))?;
                let Message::Binary(bytes) = message else { continue };
                let response = frame::decode_response(Encoding::Binary, &bytes)
                    .map_err(|error| HeadlessError::Signal(error.to_string()))?;
                let Some(message) = response.message else { continue };
                if events.send(LinkEvent::Message(Box::new(message))).await.is_err() {
                    return Ok(());
                }
            }
        }
    }
}

fn refusal(error: tungstenite::Error) -> HeadlessError {
    match error {
        tungstenite::Error::Http(response) => HeadlessError::Refused {
            status: response.status().as_u16(),
            text: response
                .body()
                .as_deref()
                .map(|body| String::from_utf8_lossy(body).trim().to_owned())
                .unwrap_or_default(),
        },
        other => HeadlessError::Signal(other.to_string()),
    }
}
