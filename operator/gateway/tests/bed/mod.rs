//! A meeting cluster in one process: fake placers and media nodes that speak the real protocols
//! over real mutual TLS, and a gateway between them and the tests.
//!
//! Decides nothing that is under test. Invariant: everything listens on loopback and ends with the
//! test, each fake on a runtime of its own so that it can be killed like a process.
#![allow(dead_code, unused_imports, reason = "each test file uses a part of the bed")]

pub(crate) mod client;
pub(crate) mod media_node;
pub(crate) mod pki;
pub(crate) mod placer;

use std::path::Path;
use std::time::Duration;

use gateway::config::Config;
use gateway::server::{Gateway, start};
use livekit_contract::grants::{Claims, VideoGrant};
use livekit_contract::token::{ApiKey, mint};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub(crate) use client::{Answer, http};
pub(crate) use media_node::FakeMediaNode;
pub(crate) use pki::Pki;
pub(crate) use placer::FakePlacer;

pub(crate) const TENANT: &str = "ns/mc";
pub(crate) const KEY: &str = "API1";
pub(crate) const SECRET: &str = "an-unguessable-secret-of-48-bytes-for-these-tests";
/// Long enough for a slow machine; conditions end the wait.
pub(crate) const LONG: Duration = Duration::from_secs(20);

/// A gateway with its files, its placers' addresses and its order to stop.
pub(crate) struct Bed {
    pub(crate) pki: Pki,
    pub(crate) files: TempDir,
    pub(crate) public: std::net::SocketAddr,
    pub(crate) admin: std::net::SocketAddr,
    pub(crate) stop: CancellationToken,
    pub(crate) running: JoinHandle<()>,
}

/// Starts a gateway towards these placers.
pub(crate) async fn gateway(pki: Pki, placers: &[&FakePlacer], flags: &[&str]) -> Bed {
    let files = tempfile::tempdir().expect("a directory");
    pki.write_leaf(files.path(), "gateway.mc.ns.hemicycle.internal");
    std::fs::write(files.path().join("keys.yaml"), format!("{KEY}: {SECRET}\n")).expect("writes");
    let addresses: Vec<String> = placers.iter().map(|placer| placer.address.to_string()).collect();
    let own = [
        "gateway".to_owned(),
        "--listen=127.0.0.1:0".to_owned(),
        "--admin-listen=127.0.0.1:0".to_owned(),
        format!("--tenant={TENANT}"),
        format!("--placer-address={}", addresses.join(",")),
        format!("--keys-file={}", files.path().join("keys.yaml").display()),
        format!("--tls-dir={}", files.path().display()),
        "--stop-grace-s=1".to_owned(),
        "--stop-spread-s=1".to_owned(),
    ];
    let flags =
        flags.iter().map(|flag| flag.replace("{files}", &files.path().display().to_string()));
    let mut config = Config::from_arguments(own.into_iter().chain(flags)).expect("valid flags");
    config.reload_every = Duration::from_millis(50);
    let gateway: Gateway = start(config).await.expect("the gateway starts");
    let (public, admin) = (gateway.public_address(), gateway.admin_address());
    let stop = CancellationToken::new();
    let running = tokio::spawn(gateway.run_until(stop.clone()));
    Bed { pki, files, public, admin, stop, running }
}

/// A gateway with these flags, towards a placer that knows one media node, which takes every room.
pub(crate) async fn alone(flags: &[&str]) -> (FakePlacer, FakeMediaNode, Bed) {
    let pki = Pki::new();
    let (placer, node) = (FakePlacer::start(&pki), FakeMediaNode::start(&pki, "a"));
    node.takes_all();
    placer.add(node.endpoint());
    let bed = gateway(pki, &[&placer], flags).await;
    (placer, node, bed)
}

/// A placer that knows nobody yet, and the media nodes "old" and "new", which take every room.
pub(crate) fn pair() -> (Pki, FakePlacer, FakeMediaNode, FakeMediaNode) {
    let pki = Pki::new();
    let placer = FakePlacer::start(&pki);
    let (old, new) = (FakeMediaNode::start(&pki, "old"), FakeMediaNode::start(&pki, "new"));
    new.takes_all();
    old.takes_all();
    (pki, placer, old, new)
}

impl Bed {
    /// Waits until the gateway knows the directory.
    pub(crate) async fn ready(&self) {
        until("the gateway is ready", async || {
            http(self.admin, "GET /readyz", &[], b"").await.status == 200
        })
        .await;
    }

    pub(crate) fn path(&self) -> &Path {
        self.files.path()
    }

    /// The value of a metric line, 0 when it is not there.
    pub(crate) async fn metric(&self, line: &str) -> f64 {
        let page = http(self.admin, "GET /metrics", &[], b"").await.text();
        let found = page.lines().find_map(|known| known.strip_prefix(line));
        found.and_then(|value| value.trim().parse().ok()).unwrap_or(0.0)
    }
}

/// Waits for a condition.
pub(crate) async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let waited = tokio::time::timeout(LONG, async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    assert!(waited.await.is_ok(), "in vain: {what}");
}

pub(crate) fn now() -> u64 {
    std::time::UNIX_EPOCH.elapsed().expect("after 1970").as_secs()
}

/// A token with these rights.
pub(crate) fn token_with(key: &ApiKey, video: VideoGrant) -> String {
    let claims = Claims {
        identity: "anna".to_owned(),
        expires_at_unix_s: now() + 600,
        video: Some(video),
        ..Claims::default()
    };
    mint(key, &claims).expect("signs")
}

/// A token to join a room.
pub(crate) fn join_token(room: &str) -> String {
    token_with(&ApiKey::new(KEY, SECRET), VideoGrant::join(room))
}

/// A token for a room's administrator who may also list and create.
pub(crate) fn admin_token(room: &str) -> String {
    let grant = VideoGrant {
        room_admin: true,
        room_list: true,
        room_create: true,
        room: room.to_owned(),
        ..VideoGrant::default()
    };
    token_with(&ApiKey::new(KEY, SECRET), grant)
}
