//! The operator's side over mutual TLS: who may come in, grants, tickets, claims, fencing, reports.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod harness;

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::Ed25519KeyPair;

use harness::{claims, config, get, sign};
use media_api::ticket::Signer;
use media_api::v1;
use media_api::v1::media_control_client::MediaControlClient;
use media_node::serve::{self, Started};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::{PrivatePkcs8KeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

const PATIENCE: Duration = Duration::from_secs(10);
const NAME: &str = "mc-1.media.mc.ns.hemicycle.internal";

/// The operator's key for tickets.
static SIGNER: LazyLock<Signer> = LazyLock::new(new_signer);

fn new_signer() -> Signer {
    let key = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
    Signer::from_pkcs8(key.as_ref()).unwrap()
}

fn unix_ms() -> u64 {
    media_node::keys::unix_millis()
}

/// A ticket that fits the media node of this file, newer than any before.
fn ticket() -> v1::Ticket {
    static SERIAL: AtomicU64 = AtomicU64::new(1);
    v1::Ticket {
        tenant: "ns/mc".into(),
        media_node: "mc-1".into(),
        pod_uid: "uid-1".into(),
        kubernetes_node: "paris-1".into(),
        scope: "gold".into(),
        evidence_level: "E0".into(),
        not_before_unix_ms: unix_ms(),
        expires_unix_ms: unix_ms() + 600_000,
        issued_epoch: 1,
        serial: SERIAL.fetch_add(1, Ordering::Relaxed),
    }
}

struct Pki {
    ca: Issuer<'static, KeyPair>,
    ca_pem: String,
    roots: RootCertStore,
}

impl Pki {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(certificate.der().clone()).unwrap();
        Self { ca_pem: certificate.pem(), ca: Issuer::new(params, key), roots }
    }

    fn write(&self, directory: &Path, name: &str) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.ca).unwrap();
        std::fs::write(directory.join("tls.crt"), certificate.pem()).unwrap();
        std::fs::write(directory.join("tls.key"), key.serialize_pem()).unwrap();
        std::fs::write(directory.join("ca.crt"), &self.ca_pem).unwrap();
    }

    fn client(&self, name: Option<&str>, protocol: &[u8]) -> ClientConfig {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(self.roots.clone());
        let mut config = match name {
            None => builder.with_no_client_auth(),
            Some(name) => {
                let key = KeyPair::generate().unwrap();
                let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
                let certificate = params.signed_by(&key, &self.ca).unwrap();
                let key = PrivatePkcs8KeyDer::from(key.serialize_der());
                builder.with_client_auth_cert(vec![certificate.der().clone()], key.into()).unwrap()
            }
        };
        config.alpn_protocols = vec![protocol.to_vec()];
        config
    }
}

struct Cluster {
    pki: Pki,
    started: Started,
    files: tempfile::TempDir,
}

impl Cluster {
    async fn start(arguments: &[&str]) -> Self {
        let files = tempfile::tempdir().unwrap();
        let pki = Pki::new();
        pki.write(files.path(), NAME);
        let keys = files.path().join("keys.yaml");
        std::fs::write(&keys, format!("{}: {}\n", harness::KEY, harness::SECRET)).unwrap();
        let keys = format!("--keys-file={}", keys.display());
        let tls = format!("--tls-directory={}", files.path().display());
        let mut all = vec![keys.as_str(), tls.as_str(), "--tenant=ns/mc"];
        all.extend(["--media-node-name=mc-1", "--control-address=127.0.0.1:0"]);
        let ticket_keys = format!("--ticket-keys={}", SIGNER.public_key());
        all.extend([ticket_keys.as_str(), "--pod-uid=uid-1", "--kubernetes-node=paris-1"]);
        all.push("--scopes=gold");
        all.extend(arguments);
        let started = serve::start(config(&all)).await.unwrap();
        Self { pki, started, files }
    }

    async fn tls(&self, at: std::net::SocketAddr, config: ClientConfig) -> TlsStream<TcpStream> {
        let stream = TcpStream::connect(at).await.unwrap();
        let name = ServerName::try_from(NAME).unwrap();
        TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap()
    }

    async fn control(&self, identity: Option<&str>) -> Option<MediaControlClient<Channel>> {
        let config = Arc::new(self.pki.client(identity, b"h2"));
        let at = self.started.control.unwrap();
        let connector = tower::service_fn(move |_| {
            let config = Arc::clone(&config);
            async move {
                let stream = TcpStream::connect(at).await?;
                let name = ServerName::try_from(NAME).unwrap();
                let stream = TlsConnector::from(config).connect(name, stream).await?;
                Ok::<_, std::io::Error>(hyper_util::rt::TokioIo::new(stream))
            }
        });
        let endpoint = Endpoint::from_static("http://media-node");
        let channel = endpoint.connect_with_connector(connector).await.ok()?;
        Some(MediaControlClient::new(channel))
    }

    async fn operator(&self) -> MediaControlClient<Channel> {
        self.control(Some("operator.mc.ns.hemicycle.internal")).await.unwrap()
    }

    /// Status of `/rtc/validate` for a room, asked as the gateway does.
    async fn validate(&self, room: &str) -> (String, String) {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let identity = Some("gateway.mc.ns.hemicycle.internal");
        let config = self.pki.client(identity, b"http/1.1");
        let mut stream = self.tls(self.started.signal, config).await;
        let token = sign(&claims("ada", room));
        let text = format!(
            "GET /rtc/validate?access_token={token} HTTP/1.1\r\nhost: x\r\n\
             connection: close\r\n\r\n"
        );
        stream.write_all(text.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.to_lowercase(), body.to_owned())
    }
}

fn room(name: &str) -> Option<v1::RoomKey> {
    Some(v1::RoomKey { tenant: "ns/mc".into(), name: name.into() })
}

fn claim(epoch: u64, name: &str) -> v1::ClaimRequest {
    v1::ClaimRequest { epoch, room: room(name) }
}

/// A grant that quotes a report just written, with a good ticket.
async fn grant(
    operator: &mut MediaControlClient<Channel>,
    epoch: u64,
    ttl_ms: u64,
) -> Result<v1::GrantReply, Status> {
    grant_with(operator, epoch, ttl_ms, SIGNER.sign(&ticket())).await
}

/// A grant that quotes a report just written, with this ticket.
async fn grant_with(
    operator: &mut MediaControlClient<Channel>,
    epoch: u64,
    ttl_ms: u64,
    ticket: Vec<u8>,
) -> Result<v1::GrantReply, Status> {
    let mut reports = operator.observe(v1::ObserveRequest { epoch }).await?.into_inner();
    let report = timeout(PATIENCE, reports.message()).await.unwrap()?.unwrap();
    let (incarnation, uptime_ms) = (report.incarnation, report.uptime_ms);
    let request = v1::GrantRequest { epoch, ttl_ms, ticket, incarnation, uptime_ms };
    operator.grant(request).await.map(tonic::Response::into_inner)
}

#[tokio::test(flavor = "multi_thread")]
async fn claims_need_a_grant_and_are_idempotent_and_fenced() {
    let cluster = Cluster::start(&[]).await;
    let mut operator = cluster.operator().await;
    let refused = operator.claim(claim(3, "a")).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable, "{refused}");

    let granted = grant(&mut operator, 3, 5_000).await.unwrap();
    assert_eq!(granted.epoch, 3);
    assert!(!operator.claim(claim(3, "a")).await.unwrap().into_inner().existed);
    assert!(operator.claim(claim(3, "a")).await.unwrap().into_inner().existed);

    for epoch in [0, 2] {
        let stale = operator.claim(claim(epoch, "b")).await.unwrap_err();
        assert_eq!((stale.code(), stale.message()), (Code::FailedPrecondition, "stale epoch"));
        let request = v1::GrantRequest { epoch, ttl_ms: 5_000, ..Default::default() };
        let stale = operator.grant(request).await.unwrap_err();
        assert_eq!(stale.code(), Code::FailedPrecondition);
        assert_eq!(stale.metadata().get(media_api::EPOCH_METADATA).unwrap(), "3");
        let stale = operator.drain(v1::DrainRequest { epoch }).await.unwrap_err();
        assert_eq!(stale.code(), Code::FailedPrecondition);
        let stale = operator.observe(v1::ObserveRequest { epoch }).await.unwrap_err();
        assert_eq!(stale.code(), Code::FailedPrecondition);
    }
    let foreign = v1::RoomKey { tenant: "other/mc".into(), name: "a".into() };
    let foreign = v1::ClaimRequest { epoch: 3, room: Some(foreign) };
    assert_eq!(operator.claim(foreign).await.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lapsed_grant_refuses_new_rooms_and_keeps_those_that_are_here() {
    let cluster = Cluster::start(&[]).await;
    let mut operator = cluster.operator().await;
    let (head, body) = cluster.validate("a").await;
    assert!(head.starts_with("http/1.1 404") && head.contains("x-hemicycle-room: not-here"));
    assert_eq!(body, "requested room does not exist");

    grant(&mut operator, 1, 2_000).await.unwrap();
    operator.claim(claim(1, "a")).await.unwrap();
    let began = std::time::Instant::now();
    let mut others = 0;
    let lapsed = loop {
        others += 1;
        match operator.claim(claim(1, &format!("b-{others}"))).await {
            Err(refused) => break refused,
            Ok(_) => assert!(began.elapsed() < PATIENCE, "the grant does not end"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert_eq!(lapsed.code(), Code::Unavailable);
    assert!(lapsed.message().contains("no grant"), "{lapsed}");
    assert!(operator.claim(claim(1, "a")).await.unwrap().into_inner().existed);
    assert_eq!(cluster.validate("a").await.1, "success");

    let release = v1::ReleaseRequest { epoch: 1, room: room("a") };
    assert!(operator.release(release.clone()).await.unwrap().into_inner().existed);
    assert!(!operator.release(release).await.unwrap().into_inner().existed);
    assert_eq!(cluster.validate("a").await.1, "requested room does not exist");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grant_that_comes_late_or_to_another_process_allows_nothing() {
    let cluster = Cluster::start(&[]).await;
    let mut operator = cluster.operator().await;
    let observe = v1::ObserveRequest { epoch: 1 };
    let mut reports = operator.observe(observe).await.unwrap().into_inner();
    let first = reports.message().await.unwrap().unwrap();
    let quote = |incarnation: &str| v1::GrantRequest {
        epoch: 1,
        ttl_ms: 300,
        ticket: SIGNER.sign(&ticket()),
        incarnation: incarnation.to_owned(),
        uptime_ms: first.uptime_ms,
    };
    let other = operator.grant(quote("another")).await.unwrap_err();
    assert_eq!(other.code(), Code::Aborted, "{other}");
    // As when the process was frozen while the grant lay in its socket.
    loop {
        let report = timeout(PATIENCE, reports.message()).await.unwrap().unwrap().unwrap();
        if report.uptime_ms > first.uptime_ms + 300 {
            break;
        }
    }
    operator.grant(quote(&first.incarnation)).await.unwrap();
    let refused = operator.claim(claim(1, "a")).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable, "{refused}");
    assert!(refused.message().contains("no grant"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grant_without_a_ticket_admits_no_room_and_withdraws_the_one_that_is_held() {
    let cluster = Cluster::start(&[]).await;
    let mut operator = cluster.operator().await;
    grant_with(&mut operator, 1, 5_000, Vec::new()).await.unwrap();
    let refused = operator.claim(claim(1, "a")).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable, "{refused}");
    assert!(refused.message().contains("no ticket"), "{refused}");

    let bytes = SIGNER.sign(&ticket());
    grant_with(&mut operator, 1, 5_000, bytes.clone()).await.unwrap();
    operator.claim(claim(1, "a")).await.unwrap();
    grant_with(&mut operator, 1, 5_000, Vec::new()).await.unwrap();
    let refused = operator.claim(claim(1, "b")).await.unwrap_err();
    assert!(refused.message().contains("no ticket"), "{refused}");
    assert_eq!(cluster.validate("a").await.1, "success", "who is there stays");
    let replayed = grant_with(&mut operator, 1, 5_000, bytes).await.unwrap_err();
    assert_eq!(replayed.code(), Code::PermissionDenied, "{replayed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_that_is_not_for_this_pod_now_is_refused_with_its_grant() {
    let cluster = Cluster::start(&[]).await;
    let mut operator = cluster.operator().await;
    let two_hours = 7_200_000;
    for (what, change) in [
        ("tenant", (|t, _| t.tenant = "ns/other".into()) as fn(&mut v1::Ticket, u64)),
        ("media_node", |t, _| t.media_node = "mc-2".into()),
        ("pod_uid", |t, _| t.pod_uid = "uid-2".into()),
        ("kubernetes_node", |t, _| t.kubernetes_node = "abroad-1".into()),
        ("scope", |t, _| t.scope = "silver".into()),
        ("expired", |t, by| {
            t.not_before_unix_ms -= by;
            t.expires_unix_ms -= by;
        }),
        ("clocks", |t, by| {
            t.not_before_unix_ms += by;
            t.expires_unix_ms += by;
        }),
        ("ten minutes", |t, by| t.expires_unix_ms += by),
    ] {
        let mut other = ticket();
        change(&mut other, two_hours);
        let refused = grant_with(&mut operator, 1, 5_000, SIGNER.sign(&other)).await.unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied, "{what}: {refused}");
        assert!(refused.message().contains(what), "{what}: {refused}");
        let refused = operator.claim(claim(1, "a")).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unavailable, "{what}: {refused}");
    }
    let forged = new_signer().sign(&ticket());
    let refused = grant_with(&mut operator, 1, 5_000, forged).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    let metrics = get(cluster.started.admin, "/metrics").await.body;
    for line in ["refused_total{reason=\"pod_uid\"} 1", "refused_total{reason=\"unknown_key\"} 1"] {
        assert!(metrics.contains(&format!("hemicycle_media_node_tickets_{line}")), "{metrics}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_that_ends_refuses_new_rooms_and_keeps_those_that_are_here() {
    let cluster = Cluster::start(&[]).await;
    let mut operator = cluster.operator().await;
    let mut short = ticket();
    short.expires_unix_ms = unix_ms() + 1_500;
    grant_with(&mut operator, 1, 20_000, SIGNER.sign(&short)).await.unwrap();
    operator.claim(claim(1, "a")).await.unwrap();
    let observe = v1::ObserveRequest { epoch: 1 };
    let mut reports = operator.observe(observe).await.unwrap().into_inner();
    let mut told = short.expires_unix_ms;
    while told != 0 {
        assert_eq!(told, short.expires_unix_ms);
        let report = timeout(PATIENCE, reports.message()).await.unwrap().unwrap().unwrap();
        assert!(report.grant_remaining_ms > 0, "the grant outlives the ticket here");
        told = report.ticket_expiry_unix_ms;
    }
    let refused = operator.claim(claim(1, "b")).await.unwrap_err();
    assert!(refused.message().contains("no ticket"), "{refused}");
    assert!(operator.claim(claim(1, "a")).await.unwrap().into_inner().existed);
    assert_eq!(cluster.validate("a").await.1, "success", "newcomers are let in");
    grant(&mut operator, 1, 5_000).await.unwrap();
    operator.claim(claim(1, "b")).await.unwrap();
    let metrics = get(cluster.started.admin, "/metrics").await.body;
    let gauge = "hemicycle_media_node_ticket_remaining_seconds 59";
    assert!(metrics.contains(gauge), "{metrics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_process_does_not_obey_a_leader_that_was_succeeded() {
    let state = tempfile::tempdir().unwrap();
    let directory = format!("--state-directory={}", state.path().display());
    let arguments = [directory.as_str(), "--epoch-floor=4"];
    let refuses = async |epoch: u64| {
        let cluster = Cluster::start(&arguments).await;
        let request = v1::ObserveRequest { epoch };
        let refused = cluster.operator().await.observe(request).await.unwrap_err();
        assert_eq!(refused.code(), Code::FailedPrecondition);
        refused.metadata().get(media_api::EPOCH_METADATA).unwrap().to_str().unwrap().to_owned()
    };
    assert_eq!(refuses(3).await, "4", "it was made under epoch 4");
    let cluster = Cluster::start(&arguments).await;
    grant(&mut cluster.operator().await, 7, 5_000).await.unwrap();
    drop(cluster);
    assert_eq!(refuses(6).await, "7", "the process before saw epoch 7");
}

#[tokio::test(flavor = "multi_thread")]
async fn draining_and_a_full_node_say_why() {
    let cluster = Cluster::start(&["--rooms-max=1"]).await;
    let mut operator = cluster.operator().await;
    grant(&mut operator, 1, 5_000).await.unwrap();
    operator.drain(v1::DrainRequest { epoch: 1 }).await.unwrap();
    assert_eq!(operator.claim(claim(1, "a")).await.unwrap_err().code(), Code::Unavailable);
    operator.undrain(v1::UndrainRequest { epoch: 1 }).await.unwrap();
    operator.claim(claim(1, "a")).await.unwrap();
    let full = operator.claim(claim(1, "b")).await.unwrap_err();
    assert_eq!(full.code(), Code::ResourceExhausted, "{full}");
}

#[tokio::test(flavor = "multi_thread")]
async fn reports_begin_whole_and_tell_changes_at_once() {
    let cluster = Cluster::start(&[]).await;
    let mut operator = cluster.operator().await;
    grant(&mut operator, 1, 5_000).await.unwrap();
    operator.claim(claim(1, "a")).await.unwrap();
    let observe = v1::ObserveRequest { epoch: 1 };
    let mut reports = operator.observe(observe).await.unwrap().into_inner();
    let mut next = async || timeout(PATIENCE, reports.message()).await.unwrap();
    let first = next().await.unwrap().unwrap();
    assert!(first.whole && first.sequence == 1 && first.media_node == "mc-1");
    assert_eq!((first.rooms.len(), first.state()), (1, v1::State::Serving));
    assert_eq!((first.rooms[0].claim_epoch, first.shards.len()), (1, 1));

    operator.claim(claim(1, "b")).await.unwrap();
    let release = v1::ReleaseRequest { epoch: 1, room: room("a") };
    operator.release(release).await.unwrap();
    operator.drain(v1::DrainRequest { epoch: 1 }).await.unwrap();
    let (mut came, mut went, mut drains, mut sequence) = (false, false, false, 1);
    while !(came && went && drains) {
        let report = next().await.unwrap().unwrap();
        sequence += 1;
        assert_eq!((report.sequence, report.whole), (sequence, false));
        came |= report.rooms.iter().any(|report| report.room == room("b"));
        went |= report.ended.iter().any(|ended| Some(ended.clone()) == room("a"));
        drains |= report.state() == v1::State::Draining;
    }

    grant(&mut operator, 2, 5_000).await.unwrap();
    let ended = loop {
        match next().await {
            Ok(Some(_)) => {}
            other => break other,
        }
    };
    assert_eq!(ended.unwrap_err().code(), Code::FailedPrecondition, "a higher epoch was seen");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_operator_controls_and_only_the_gateway_signals() {
    let cluster = Cluster::start(&[]).await;
    for stranger in [
        None,
        Some("gateway.mc.ns.hemicycle.internal"),
        Some("operator.other.ns.hemicycle.internal"),
        Some("mc-2.media.mc.ns.hemicycle.internal"),
    ] {
        let answered = match cluster.control(stranger).await {
            None => false,
            Some(mut control) => grant(&mut control, 9, 1).await.is_ok(),
        };
        assert!(!answered, "{stranger:?} may not command");
    }
    let mut operator = cluster.operator().await;
    assert!(grant(&mut operator, 1, 1).await.is_ok(), "epoch 9 was not seen");

    let ready = get(cluster.started.admin, "/readyz").await;
    assert_eq!(ready.status, 200);
    let plain = async {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut stream = TcpStream::connect(cluster.started.signal).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8_lossy(&answer).into_owned()
    };
    let answer = timeout(PATIENCE, plain).await.unwrap();
    assert!(!answer.contains("200 OK"), "plain HTTP was served: {answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_replaced_without_a_restart() {
    let mut cluster = Cluster::start(&[]).await;
    assert!(grant(&mut cluster.operator().await, 1, 1).await.is_ok());
    let operator = Some("operator.mc.ns.hemicycle.internal");
    cluster.pki = Pki::new();
    assert!(cluster.control(operator).await.is_none(), "the new CA is not known yet");
    cluster.pki.write(cluster.files.path(), NAME);
    let began = std::time::Instant::now();
    loop {
        if let Some(mut control) = cluster.control(operator).await
            && grant(&mut control, 2, 1).await.is_ok()
        {
            return;
        }
        assert!(began.elapsed() < PATIENCE * 2, "the new certificate is not taken");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
