//! An HTTPS server that answers as Outscale's API documents it (the JSON files beside this one are
//! its published examples, with ids of nobody), checks every signature with code of its own, and
//! fails or hangs when it is told to.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard},
};

use aws_lc_rs::{digest, hmac};
use axum::{
    Router,
    body::{Body, to_bytes},
    extract::{Request, State},
    response::{IntoResponse, Response},
};
use http::StatusCode;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto::Builder,
    service::TowerToHyperService,
};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::{Value, json};
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_rustls::{TlsAcceptor, rustls::ServerConfig};

pub(crate) const ACCESS_KEY: &str = "AKEXAMPLE0000000000A";
pub(crate) const SECRET_KEY: &str = "sk-example-0123456789-of-nobody";
pub(crate) const ACCOUNT: &str = "123456789012";
const REGION: &str = "eu-west-2";

/// What the server does with a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mood {
    /// Answers as recorded.
    Answer,
    /// Says that it cannot.
    Fail,
    /// Says nothing, for ever.
    Hang,
    /// Says something else.
    Babble,
    /// Says that there is more to come.
    Continue,
}

struct Said {
    mood: Mood,
    /// Machines by id: account (empty: it has no network of its own) and subregion.
    machines: BTreeMap<String, (String, String)>,
    /// Ids of each `ReadVms` that was answered.
    asked: Vec<Vec<String>>,
    accounts_asked: usize,
}

#[derive(Clone)]
struct Shared(Arc<Mutex<Said>>);

/// A running server.
pub(crate) struct Recorded {
    shared: Shared,
    pub(crate) url: String,
    /// PEM of the authority that issued its certificate.
    pub(crate) authority: String,
    serving: JoinHandle<()>,
}

impl Recorded {
    /// Starts one on `address`, whose port may be 0: any.
    pub(crate) async fn start(address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let (tls, authority) = certificate(address.ip());
        let shared = Shared(Arc::new(Mutex::new(Said {
            mood: Mood::Answer,
            machines: BTreeMap::new(),
            asked: vec![],
            accounts_asked: 0,
        })));
        let service = Router::new().fallback(answer).with_state(shared.clone());
        let serving = tokio::spawn(async move {
            loop {
                let Ok((stream, _)) = listener.accept().await else { continue };
                let (tls, service) = (tls.clone(), service.clone());
                tokio::spawn(async move {
                    let Ok(stream) = tls.accept(stream).await else { return };
                    let service = TowerToHyperService::new(service);
                    let connection = Builder::new(TokioExecutor::new());
                    let _ = connection.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Self { shared, url: format!("https://{address}/api/v1"), authority, serving }
    }

    fn lock(&self) -> MutexGuard<'_, Said> {
        self.shared.0.lock().expect("not poisoned")
    }

    /// Puts a machine into an account and a subregion, or moves it there.
    pub(crate) fn put(&self, id: &str, account: &str, subregion: &str) {
        self.lock().machines.insert(id.into(), (account.into(), subregion.into()));
    }

    /// What it does from now on.
    pub(crate) fn feel(&self, mood: Mood) {
        self.lock().mood = mood;
    }

    /// Ids of each `ReadVms` that was answered so far.
    pub(crate) fn asked(&self) -> Vec<Vec<String>> {
        self.lock().asked.clone()
    }

    /// How often `ReadAccounts` was answered.
    pub(crate) fn accounts_asked(&self) -> usize {
        self.lock().accounts_asked
    }
}

impl Drop for Recorded {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

fn certificate(address: IpAddr) -> (TlsAcceptor, String) {
    let mut ca = CertificateParams::new(vec![]).expect("parameters");
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(ca, KeyPair::generate().expect("a key")).expect("signed");
    let key = KeyPair::generate().expect("a key");
    let leaf = CertificateParams::new(vec![address.to_string()]).expect("parameters");
    let leaf = leaf.signed_by(&key, &ca).expect("signed");
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone()], key)
        .expect("a pair");
    (TlsAcceptor::from(Arc::new(config)), ca.pem())
}

async fn answer(State(shared): State<Shared>, request: Request<Body>) -> Response {
    let (head, body) = request.into_parts();
    let body = to_bytes(body, 1 << 20).await.expect("a small body");
    let mood = shared.0.lock().expect("not poisoned").mood;
    match mood {
        Mood::Hang => return std::future::pending().await,
        Mood::Fail => return StatusCode::SERVICE_UNAVAILABLE.into_response(),
        Mood::Babble => return "<html>maintenance</html>".into_response(),
        Mood::Answer | Mood::Continue => {}
    }
    if !signed(&head, &body) {
        let refusal = include_str!("refusal.json");
        return (StatusCode::UNAUTHORIZED, refusal).into_response();
    }
    let mut said = shared.0.lock().expect("not poisoned");
    match head.uri.path() {
        "/api/v1/ReadVms" => read_vms(&mut said, &body, mood).into_response(),
        "/api/v1/ReadAccounts" => {
            said.accounts_asked += 1;
            include_str!("read_accounts.json").into_response()
        }
        _ => StatusCode::NOT_FOUND.into_response(),
    }
}

fn read_vms(said: &mut Said, body: &[u8], mood: Mood) -> (StatusCode, String) {
    let asked: Value = serde_json::from_slice(body).expect("JSON");
    let ids = asked["Filters"]["VmIds"].as_array().expect("ids").iter();
    let ids: Vec<String> = ids.map(|id| id.as_str().expect("text").to_owned()).collect();
    // No id would mean every machine, and one that is none makes the API refuse them all.
    let is_id = |id: &String| id.len() == 10 && id[2..].chars().all(|c| c.is_ascii_hexdigit());
    if ids.is_empty() || !ids.iter().all(is_id) {
        return (StatusCode::BAD_REQUEST, include_str!("refusal.json").into());
    }
    let mut whole: Value = serde_json::from_str(include_str!("read_vms.json")).expect("JSON");
    let recorded = whole["Vms"][0].clone();
    let of_id = |id: &String| {
        let (account, subregion) = said.machines.get(id)?;
        let mut vm = recorded.clone();
        vm["VmId"] = json!(id);
        vm["Placement"]["SubregionName"] = json!(subregion);
        match account.as_str() {
            "" => vm["Nics"] = json!([]),
            "terminated" => vm["State"] = json!("terminated"),
            account => vm["Nics"][0]["AccountId"] = json!(account),
        }
        Some(vm)
    };
    whole["Vms"] = ids.iter().filter_map(of_id).collect();
    if mood == Mood::Continue {
        whole["NextPageToken"] = json!("bW9yZQ==");
    }
    said.asked.push(ids);
    (StatusCode::OK, whole.to_string())
}

/// Whether the request is signed with the key of the one user there is: from the header backwards,
/// with the headers that it names, as they came.
fn signed(head: &http::request::Parts, body: &[u8]) -> bool {
    let header = |name: &str| Some(head.headers.get(name)?.to_str().ok()?.trim().to_owned());
    let Some(authorization) = header("authorization") else { return false };
    let Some((algorithm, fields)) = authorization.split_once(' ') else { return false };
    let fields: BTreeMap<&str, &str> =
        fields.split(", ").filter_map(|field| field.split_once('=')).collect();
    let credential: Vec<&str> = fields["Credential"].split('/').collect();
    let [access_key, day, region, "api", "osc4_request"] = credential[..] else { return false };
    let date = header("x-osc-date").unwrap_or_default();
    if (algorithm, access_key, region) != ("OSC4-HMAC-SHA256", ACCESS_KEY, REGION)
        || !date.starts_with(day)
    {
        return false;
    }
    let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
    let sha256 = |bytes: &[u8]| hex(digest::digest(&digest::SHA256, bytes).as_ref());
    let mut lines = vec![head.method.to_string(), head.uri.path().to_owned(), String::new()];
    for name in fields["SignedHeaders"].split(';') {
        lines.push(format!("{name}:{}", header(name).unwrap_or_default()));
    }
    lines.extend([String::new(), fields["SignedHeaders"].to_owned(), sha256(body)]);
    let text = [
        algorithm,
        &date,
        &format!("{day}/{region}/api/osc4_request"),
        &sha256(lines.join("\n").as_bytes()),
    ];
    let mut key = format!("OSC4{SECRET_KEY}").into_bytes();
    for word in [day, region, "api", "osc4_request", &text.join("\n")] {
        let mac = hmac::Key::new(hmac::HMAC_SHA256, &key);
        key = hmac::sign(&mac, word.as_bytes()).as_ref().to_vec();
    }
    fields["Signature"] == hex(&key)
}
