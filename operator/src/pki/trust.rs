//! Holds in memory, per meeting cluster, what TLS needs: whom to trust and how we name ourselves.
//! Reads no Secret; [`super::store`] and the reconcile fill it. Media nodes and gateways stay
//! reachable from here while the API server is away.
//! Invariant: a connection is checked against the CA of exactly one meeting cluster.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use jiff::Timestamp;
use rustls::{
    ClientConfig, RootCertStore, ServerConfig, client::WebPkiServerVerifier,
    crypto::CryptoProvider, server::WebPkiClientVerifier,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};

use super::{Authority, Issued, PkiError, Role};

/// Why TLS material could not be used.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// A leaf could not be issued.
    #[error(transparent)]
    Pki(#[from] PkiError),
    /// The material is not PEM.
    #[error("the TLS material is not PEM")]
    Pem(#[from] rustls_pki_types::pem::Error),
    /// rustls refused.
    #[error("the TLS material cannot be used")]
    Tls(#[from] rustls::Error),
    /// The client verifier could not be built.
    #[error("the CA cannot verify clients")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
}

/// One meeting cluster's side of the internal PKI.
#[derive(Debug)]
pub struct Trusted {
    /// "namespace/name".
    pub tenant: String,
    namespace: String,
    name: String,
    authority: Authority,
    operator_leaf: Issued,
    /// For connections to media nodes and other replicas.
    pub client: Arc<ClientConfig>,
    /// For the placement listener.
    pub server: Arc<ServerConfig>,
}

impl Trusted {
    fn new(
        namespace: &str,
        name: &str,
        authority: Authority,
        now: Timestamp,
    ) -> Result<Self, TrustError> {
        let operator_leaf = authority.issue(&Role::Operator.dns_name(namespace, name), now)?;
        let placer_leaf = authority.issue(&Role::Placer.dns_name(namespace, name), now)?;
        Ok(Self {
            tenant: format!("{namespace}/{name}"),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            client: client(&authority, &operator_leaf)?,
            server: server(&authority, &placer_leaf)?,
            authority,
            operator_leaf,
        })
    }

    /// The name that `role` has here.
    #[must_use]
    pub fn dns_name(&self, role: &Role<'_>) -> String {
        role.dns_name(&self.namespace, &self.name)
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

fn roots(authority: &Authority) -> Result<RootCertStore, TrustError> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(authority.bundle().as_bytes()) {
        roots.add(certificate?)?;
    }
    Ok(roots)
}

/// The server's side of a part of a meeting cluster that shows `leaf` and lets in only who shows a
/// certificate of its CA.
///
/// # Errors
/// When the material cannot be used.
pub fn server(authority: &Authority, leaf: &Issued) -> Result<Arc<ServerConfig>, TrustError> {
    Ok(Arc::new(server_config(Arc::new(roots(authority)?), leaf)?))
}

/// The client's side of a part of a meeting cluster that shows `leaf` and trusts its CA alone.
///
/// # Errors
/// When the material cannot be used.
pub fn client(authority: &Authority, leaf: &Issued) -> Result<Arc<ClientConfig>, TrustError> {
    Ok(Arc::new(client_config(Arc::new(roots(authority)?), leaf)?))
}

type Pair = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn pair(issued: &Issued) -> Result<Pair, TrustError> {
    let certificate = CertificateDer::from_pem_slice(issued.certificate.as_bytes())?;
    let key = PrivateKeyDer::from_pem_slice(issued.key.as_bytes())?;
    Ok((vec![certificate], key))
}

fn client_config(roots: Arc<RootCertStore>, leaf: &Issued) -> Result<ClientConfig, TrustError> {
    let (chain, key) = pair(leaf)?;
    let verifier = WebPkiServerVerifier::builder_with_provider(roots, provider()).build()?;
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_webpki_verifier(verifier)
        .with_client_auth_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

fn server_config(roots: Arc<RootCertStore>, leaf: &Issued) -> Result<ServerConfig, TrustError> {
    let (chain, key) = pair(leaf)?;
    let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider()).build()?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

/// Every meeting cluster's trust, shared by fleet, placer and reconcile.
#[derive(Debug, Default)]
pub struct TrustStore {
    by_tenant: Mutex<BTreeMap<String, Arc<Trusted>>>,
}

impl TrustStore {
    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Arc<Trusted>>> {
        self.by_tenant.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes over an authority; issues our own leaves when it changed or they are due.
    ///
    /// # Errors
    /// When the authority's material cannot be used.
    pub fn put(
        &self,
        namespace: &str,
        name: &str,
        authority: &Authority,
        now: Timestamp,
    ) -> Result<(), TrustError> {
        let tenant = format!("{namespace}/{name}");
        let kept = self.lock().get(&tenant).is_some_and(|trusted| {
            trusted.authority == *authority
                && authority.still_good(
                    &trusted.operator_leaf.certificate,
                    &trusted.dns_name(&Role::Operator),
                    now,
                )
        });
        if !kept {
            let trusted = Trusted::new(namespace, name, authority.clone(), now)?;
            self.lock().insert(tenant, Arc::new(trusted));
        }
        Ok(())
    }

    /// Issues fresh leaves of our own where they are due, without the API server.
    pub fn refresh(&self, now: Timestamp) {
        let all: Vec<Arc<Trusted>> = self.lock().values().cloned().collect();
        for trusted in all {
            if let Err(error) = self.put(&trusted.namespace, &trusted.name, &trusted.authority, now)
            {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    meeting_cluster = trusted.tenant,
                    "the operator's own certificate could not be renewed"
                );
            }
        }
    }

    /// Forgets a meeting cluster that is gone.
    pub fn remove(&self, tenant: &str) {
        self.lock().remove(tenant);
    }

    /// Forgets all but those named.
    pub fn retain(&self, tenants: &std::collections::BTreeSet<String>) {
        self.lock().retain(|tenant, _| tenants.contains(tenant));
    }

    /// One meeting cluster's trust.
    #[must_use]
    pub fn get(&self, tenant: &str) -> Option<Arc<Trusted>> {
        self.lock().get(tenant).cloned()
    }

    /// Any one meeting cluster's trust: how replicas know each other.
    #[must_use]
    pub fn any(&self) -> Option<Arc<Trusted>> {
        self.lock().values().next().cloned()
    }

    /// The meeting cluster whose placer a client asked for by TLS server name.
    #[must_use]
    pub fn by_placer_name(&self, server_name: &str) -> Option<Arc<Trusted>> {
        let all = self.lock();
        all.values().find(|trusted| trusted.dns_name(&Role::Placer) == server_name).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trust_is_found_by_the_placers_name_and_only_there() {
        let store = TrustStore::default();
        let now = Timestamp::now();
        let authority = Authority::generate("ns/mc", now).expect("a CA");
        store.put("ns", "mc", &authority, now).expect("usable");
        let found = store.by_placer_name("placer.mc.ns.hemicycle.internal").expect("known");
        assert_eq!(found.tenant, "ns/mc");
        assert!(store.by_placer_name("gateway.mc.ns.hemicycle.internal").is_none());
    }

    #[test]
    fn leaves_are_kept_until_due() {
        let store = TrustStore::default();
        let now = Timestamp::now();
        let authority = Authority::generate("ns/mc", now).expect("a CA");
        store.put("ns", "mc", &authority, now).expect("usable");
        let before = store.get("ns/mc").expect("known");
        store.put("ns", "mc", &authority, now).expect("usable");
        assert!(Arc::ptr_eq(&before, &store.get("ns/mc").expect("known")));
        store.refresh(now + jiff::SignedDuration::from_hours(6 * 24));
        assert!(!Arc::ptr_eq(&before, &store.get("ns/mc").expect("known")), "due");
    }
}
