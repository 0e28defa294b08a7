//! Asks Outscale's API where machines are: `ReadVms`, and `ReadAccounts` where a machine does not
//! tell its account.
//!
//! Trusts only the authorities in the scope's Secret. Invariant: an answer that may be incomplete
//! is an error, so that no machine is missing for another reason than that it is not there.
//! Source: `outscale.yaml` of <https://github.com/outscale/osc-api>.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use bytes::Bytes;
use hemicycle_crds::qualification_scope::ProviderApi as Spec;
use http::{HeaderValue, Method, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs};
use rustls_pki_types::{CertificateDer, pem::PemObject};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::json;
use tokio::{sync::OnceCell, time::timeout};

use super::{
    provider_api::{
        Answer, Credentials, Machine, Machines, Private, ProviderApi, ProviderApiError,
    },
    signature::{self, CONTENT_TYPE, DATE_HEADER, Signed},
};
use crate::reconcile::context::Clock;

/// How long one request may take, its answer included.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// How long a connection may take; three SYNs.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// Machines asked about at once: with as much user data as each may carry (500 KiB), their answer
/// stays below [`ANSWER_BYTES_MAX`].
pub(super) const BATCH_MAX: usize = 20;
/// Longest answer that is read.
const ANSWER_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Longest text of theirs that is shown in an error.
const WORDS_MAX: usize = 64;
/// Hexadecimal digits in a machine's id.
const ID_DIGITS: usize = 8;
/// State of a machine that is gone and still listed, for up to an hour.
const TERMINATED: &str = "terminated";

const READ_VMS: &str = "ReadVms";
const READ_ACCOUNTS: &str = "ReadAccounts";

/// One user's way to Outscale's API in one region.
pub(super) struct Outscale {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    /// Scheme and authority.
    origin: String,
    /// The authority, as it is signed and sent.
    host: String,
    /// Before the name of a call; without a slash at its end.
    path: String,
    region: String,
    access_key: String,
    secret_key: Private,
    clock: Clock,
    /// The user's own account, once it had to be asked for.
    account: OnceCell<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Vms {
    vms: Vec<Vm>,
    next_page_token: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Vm {
    vm_id: String,
    #[serde(default)]
    state: String,
    placement: Option<Placement>,
    #[serde(default)]
    nics: Vec<Nic>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Placement {
    subregion_name: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Nic {
    account_id: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Accounts {
    accounts: Vec<Account>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Account {
    account_id: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Refusal {
    errors: Vec<Cause>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Cause {
    #[serde(default, rename = "Type")]
    kind: String,
    #[serde(default)]
    code: String,
}

impl Outscale {
    /// A client for `spec`, which asks nothing yet.
    ///
    /// # Errors
    /// [`ProviderApiError::Misconfigured`] when the address or a part of the Secret is of no use.
    pub(super) fn new(
        spec: &Spec,
        credentials: Credentials,
        clock: Clock,
    ) -> Result<Self, ProviderApiError> {
        let wrong = |what: String| ProviderApiError::Misconfigured { what };
        let no_address = || wrong(format!("spec.providerApi.url {} is no https address", spec.url));
        let url: Uri = spec.url.parse().map_err(|_| no_address())?;
        let host = url.authority().map(ToString::to_string).unwrap_or_default();
        let plain = url.scheme_str() == Some("https") && url.query().is_none();
        if !plain || host.is_empty() || host.contains('@') {
            return Err(no_address());
        }
        if !credentials.access_key.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            let what = format!("the access key in Secret {} is not of that form", spec.secret_name);
            return Err(wrong(what));
        }
        let tls = trusting(&credentials.authorities).map_err(|why| {
            wrong(format!("the authorities in Secret {} are of no use ({why})", spec.secret_name))
        })?;
        Ok(Self {
            client: client(tls),
            origin: format!("https://{host}"),
            host,
            path: url.path().trim_end_matches('/').to_owned(),
            region: spec.region.clone(),
            access_key: credentials.access_key,
            secret_key: credentials.secret_key,
            clock,
            account: OnceCell::new(),
        })
    }

    async fn ask(&self, ids: &[String]) -> Result<Machines, ProviderApiError> {
        let mut machines: Machines = ids.iter().map(|id| (id.clone(), None)).collect();
        // One id that is none of theirs makes them refuse all; no id at all means every machine.
        let ids: Vec<&String> = machines.keys().filter(|id| is_id(id)).collect();
        if ids.is_empty() {
            return Ok(machines);
        }
        let body = json!({"Filters": {"VmIds": ids}, "ResultsPerPage": BATCH_MAX});
        let answer: Vms = self.call(READ_VMS, &body).await?;
        if answer.next_page_token.is_some_and(|token| !token.is_empty()) {
            return Err(unreadable(READ_VMS, "it goes on, although all of it fits on one page"));
        }
        for vm in answer.vms.into_iter().filter(|vm| vm.state != TERMINATED) {
            let Some(known) = machines.get_mut(&vm.vm_id) else { continue };
            *known = Some(self.machine(vm).await?);
        }
        Ok(machines)
    }

    async fn machine(&self, vm: Vm) -> Result<Machine, ProviderApiError> {
        let Some(Placement { subregion_name: subregion }) = vm.placement else {
            return Err(unreadable(READ_VMS, "a machine has no Placement"));
        };
        let region = subregion.strip_suffix(|last: char| last.is_ascii_lowercase());
        let region = region.unwrap_or(&subregion).to_owned();
        let told: BTreeSet<String> = vm.nics.into_iter().filter_map(|nic| nic.account_id).collect();
        let mut told = told.into_iter();
        let account = match (told.next(), told.next()) {
            (Some(account), None) => account,
            // ReadVms lists the machines of the user's own account and no others.
            _ => self.account.get_or_try_init(|| self.own_account()).await?.clone(),
        };
        Ok(Machine { account, region, subregion })
    }

    async fn own_account(&self) -> Result<String, ProviderApiError> {
        let answer: Accounts = self.call(READ_ACCOUNTS, &json!({})).await?;
        let mut accounts = answer.accounts.into_iter();
        match (accounts.next(), accounts.next()) {
            (Some(account), None) => Ok(account.account_id),
            _ => Err(unreadable(READ_ACCOUNTS, "it does not name one account")),
        }
    }

    async fn call<T: DeserializeOwned>(
        &self,
        act: &'static str,
        body: &serde_json::Value,
    ) -> Result<T, ProviderApiError> {
        let request = self.request(act, body.to_string())?;
        let (status, bytes) = timeout(ANSWER_WITHIN, self.exchange(act, request))
            .await
            .map_err(|_| unreachable(act, "no answer within 10 s"))??;
        if status == StatusCode::OK {
            return serde_json::from_slice(&bytes).map_err(|error| {
                // Its position; its text would quote the answer.
                let why = format!("no such shape at line {}, {}", error.line(), error.column());
                unreadable(act, why)
            });
        }
        if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS {
            return Err(unreachable(act, format!("it answered with status {status}")));
        }
        let words = words(&bytes);
        Err(ProviderApiError::Refused { act, status: status.as_u16(), words })
    }

    fn request(
        &self,
        act: &'static str,
        body: String,
    ) -> Result<Request<Full<Bytes>>, ProviderApiError> {
        let path = format!("{}/{act}", self.path);
        let date = signature::date((self.clock)());
        let signed = Signed { host: &self.host, path: &path, date: &date, body: body.as_bytes() };
        let authorization =
            signature::authorization(&signed, &self.access_key, &self.secret_key, &self.region);
        let unusable = |_| ProviderApiError::Misconfigured {
            what: "spec.providerApi or its Secret cannot be written into a request".into(),
        };
        let mut authorization =
            HeaderValue::try_from(authorization).map_err(http::Error::from).map_err(unusable)?;
        authorization.set_sensitive(true);
        Request::builder()
            .method(Method::POST)
            .uri(format!("{}{path}", self.origin))
            .header(header::HOST, &self.host)
            .header(header::CONTENT_TYPE, CONTENT_TYPE)
            .header(DATE_HEADER, date)
            .header(header::AUTHORIZATION, authorization)
            .body(Full::new(Bytes::from(body)))
            .map_err(unusable)
    }

    async fn exchange(
        &self,
        act: &'static str,
        request: Request<Full<Bytes>>,
    ) -> Result<(StatusCode, Bytes), ProviderApiError> {
        let response = self.client.request(request).await.map_err(|error| {
            let source = std::error::Error::source(&error);
            unreachable(act, source.map_or_else(|| error.to_string(), deepest))
        })?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
        let body = body.map_err(|error| {
            if error.is::<http_body_util::LengthLimitError>() {
                unreadable(act, "it is longer than 16 MiB")
            } else {
                unreachable(act, "the connection ended within the answer")
            }
        })?;
        Ok((status, body.to_bytes()))
    }
}

impl ProviderApi for Outscale {
    fn machines<'a>(&'a self, ids: &'a [String]) -> Answer<'a> {
        Box::pin(self.ask(ids))
    }
}

fn client(tls: ClientConfig) -> Client<HttpsConnector<HttpConnector>, Full<Bytes>> {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_connect_timeout(Some(CONNECT_WITHIN));
    let https = HttpsConnectorBuilder::new()
        .with_tls_config(tls)
        .https_only()
        .enable_http1()
        .wrap_connector(tcp);
    Client::builder(TokioExecutor::new()).pool_timer(TokioTimer::new()).build(https)
}

/// TLS that trusts the authorities in `pem` and nobody else.
fn trusting(pem: &str) -> Result<ClientConfig, String> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        let certificate = certificate.map_err(|error| error.to_string())?;
        roots.add(certificate).map_err(|error| error.to_string())?;
    }
    if roots.is_empty() {
        return Err("no certificate".into());
    }
    let provider = Arc::new(aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

/// Whether a text is a machine's id: `i-` and eight hexadecimal digits.
fn is_id(text: &str) -> bool {
    let digits = text.strip_prefix("i-").unwrap_or_default().as_bytes();
    let digit = |byte: &u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(byte);
    digits.len() == ID_DIGITS && digits.iter().all(digit)
}

/// The API's word and number for its refusal, and no more of what it said.
fn words(bytes: &[u8]) -> String {
    let cause = serde_json::from_slice::<Refusal>(bytes).ok();
    let cause = cause.and_then(|refusal| refusal.errors.into_iter().next());
    let Some(Cause { kind, code }) = cause else { return "without a reason".into() };
    let plain = |text: String| -> String {
        text.chars().filter(char::is_ascii_alphanumeric).take(WORDS_MAX).collect()
    };
    format!("{} {}", plain(kind), plain(code)).trim().to_owned()
}

fn deepest(error: &(dyn std::error::Error + 'static)) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

fn unreachable(act: &'static str, why: impl Into<String>) -> ProviderApiError {
    ProviderApiError::Unreachable { act, why: why.into() }
}

fn unreadable(act: &'static str, why: impl Into<String>) -> ProviderApiError {
    ProviderApiError::Unreadable { act, why: why.into() }
}
