//! A media node in this process, tokens for it, and the smallest of HTTP clients.
#![allow(dead_code, unreachable_pub, reason = "each test file includes it and uses a part")]

use std::net::SocketAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use livekit_contract::grants::{Claims, VideoGrant};
use livekit_contract::token::{self, ApiKey};
use media_node::config::{Config, Given, command};
use media_node::serve::{self, Started};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Key and secret in the keys file of a node that is not `--dev`.
pub const KEY: &str = "APItest";
/// 32 bytes.
pub const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// A configuration out of flags; ports are chosen by the kernel, media stays on loopback.
pub fn config(arguments: &[&str]) -> Config {
    let fixed = [
        "media-node",
        "--signal-address=127.0.0.1:0",
        "--admin-address=127.0.0.1:0",
        "--media-addresses=127.0.0.1",
        "--udp-port-first=0",
        "--tcp-port=0",
        "--shards=1",
        "--stop-timeout-seconds=0",
    ];
    let line = fixed.iter().chain(arguments);
    let matches = command().try_get_matches_from(line).unwrap();
    Config::resolve(&Given::from_matches(&matches).unwrap(), 2).unwrap()
}

/// A node without TLS and without operator.
pub async fn start(arguments: &[&str]) -> Node {
    let files = tempfile::tempdir().unwrap();
    let keys = files.path().join("keys.yaml");
    std::fs::write(&keys, format!("{KEY}: {SECRET}\n")).unwrap();
    let keys = format!("--keys-file={}", keys.display());
    let mut all = vec![keys.as_str(), "--tenant=ns/mc", "--control-address=off"];
    all.extend(["--tls-directory=off"]);
    all.extend(arguments);
    let started = serve::start(config(&all)).await.unwrap();
    Node { started, files }
}

pub struct Node {
    pub started: Started,
    files: tempfile::TempDir,
}

impl Node {
    /// Replaces its keys file.
    pub fn write_keys(&self, text: &str) {
        std::fs::write(self.files.path().join("keys.yaml"), text).unwrap();
    }
}

/// Claims that let `identity` join `room`.
pub fn claims(identity: &str, room: &str) -> Claims {
    Claims {
        identity: identity.into(),
        expires_at_unix_s: now() + 60,
        video: Some(VideoGrant::join(room)),
        ..Claims::default()
    }
}

pub fn sign(claims: &Claims) -> String {
    token::mint(&ApiKey::new(KEY, SECRET), claims).unwrap()
}

pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// An answer, headers in lower case.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

/// One request on a connection of its own.
pub async fn request(at: SocketAddr, first_line: &str, headers: &str, body: &str) -> Answer {
    let mut stream = TcpStream::connect(at).await.unwrap();
    let length = body.len();
    let text = format!(
        "{first_line} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n\
         {headers}\r\n{body}"
    );
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Answer { status, head: head.to_lowercase(), body: body.to_owned() }
}

pub async fn get(at: SocketAddr, target: &str) -> Answer {
    request(at, &format!("GET {target}"), "", "").await
}
