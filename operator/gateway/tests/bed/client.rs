//! Clients: raw HTTP, so that nothing between test and gateway is polite, and WebSockets.

use std::net::SocketAddr;

use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use super::{LONG, join_token};

pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }
}

/// One request on a connection of its own; `line` is method and target.
pub(crate) async fn http(
    to: SocketAddr,
    line: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Answer {
    let mut request = format!("{line} HTTP/1.1\r\nhost: gateway.test\r\nconnection: close\r\n");
    for (name, value) in headers {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    if !body.is_empty() {
        request.push_str(&format!("content-length: {}\r\n", body.len()));
    }
    request.push_str("\r\n");
    let mut stream = TcpStream::connect(to).await.expect("connects");
    let mut bytes = Vec::new();
    let exchange = async {
        // A server may answer and close before it has read all.
        let _ = stream.write_all(request.as_bytes()).await;
        let _ = stream.write_all(body).await;
        let _ = stream.read_to_end(&mut bytes).await;
    };
    tokio::time::timeout(LONG, exchange).await.expect("an answer in time");
    parse(&bytes)
}

pub(crate) fn parse(bytes: &[u8]) -> Answer {
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").expect("a whole head");
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    let mut body = bytes[end + 4..].to_vec();
    if head.to_ascii_lowercase().contains("transfer-encoding: chunked") {
        body = unchunk(&body);
    }
    Answer { status: status.expect("a status"), head, body }
}

fn unchunk(mut bytes: &[u8]) -> Vec<u8> {
    let mut whole = Vec::new();
    while let Some(end) = bytes.windows(2).position(|two| two == b"\r\n") {
        let length = std::str::from_utf8(&bytes[..end]).expect("hex");
        let length = usize::from_str_radix(length, 16).expect("hex");
        if length == 0 {
            break;
        }
        whole.extend_from_slice(&bytes[end + 2..end + 2 + length]);
        bytes = &bytes[end + 4 + length..];
    }
    whole
}

pub(crate) type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// Joins a room over a WebSocket.
pub(crate) async fn join(to: SocketAddr, room: &str) -> Result<Socket, Error> {
    let url = format!("ws://{to}/rtc?access_token={}&protocol=16", join_token(room));
    let joined = tokio::time::timeout(LONG, tokio_tungstenite::connect_async(url)).await;
    joined.expect("an answer in time").map(|(socket, _)| socket)
}

/// The HTTP answer that refused a join.
pub(crate) async fn refused_join(to: SocketAddr, room: &str) -> (u16, String) {
    match join(to, room).await {
        Err(Error::Http(response)) => {
            let body = response.body().clone().unwrap_or_default();
            (response.status().as_u16(), String::from_utf8_lossy(&body).into_owned())
        }
        Err(error) => panic!("no HTTP answer: {error}"),
        Ok(_) => panic!("the join was not refused"),
    }
}

/// Sends a text and expects it back.
pub(crate) async fn echo(socket: &mut Socket, text: &str) {
    socket.send(Message::text(text)).await.expect("sends");
    let back = tokio::time::timeout(LONG, socket.next()).await.expect("in time");
    assert_eq!(back.expect("open").expect("a message"), Message::text(text));
}

/// Waits for the server to close; the code of its Close frame.
pub(crate) async fn closed(socket: &mut Socket) -> Option<u16> {
    let end = tokio::time::timeout(LONG, async {
        loop {
            match socket.next().await {
                Some(Ok(Message::Close(frame))) => break frame.map(|frame| frame.code.into()),
                Some(Ok(_)) => {}
                Some(Err(_)) | None => break None,
            }
        }
    });
    end.await.expect("closed in time")
}
