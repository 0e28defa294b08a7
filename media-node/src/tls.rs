//! Mutual TLS on the listeners: who may connect, and certificates that change while we run.
//!
//! Decides identity by the first DNS name of the client's certificate, which our own CA signed.
//! Invariant: with TLS on, nobody without a certificate of the expected identity gets a byte of
//! application data; files that turned bad leave the last good ones in force.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::keys::WATCH_EVERY;

/// Files of the directory, in the order certificate chain, key, client CA.
const FILES: [&str; 3] = ["tls.crt", "tls.key", "ca.crt"];

/// Why a connection or a directory is refused.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("tls_directory: cannot read `{path}`: {reason}")]
    Read { path: String, reason: String },
    #[error("tls_directory: `{path}`: {reason}")]
    Content { path: String, reason: String },
    #[error("client certificate is for another identity, expected `{expected}`")]
    Identity { expected: String },
    #[error("TLS handshake failed: {0}")]
    Handshake(#[from] std::io::Error),
}

/// Which identity may connect to a listener, by the names of the internal PKI.
#[derive(Debug, Clone)]
pub struct Role {
    identity: String,
}

impl Role {
    /// The `gateway` or `operator` of a tenant (`namespace/name`).
    pub fn of(role: &str, tenant: &str) -> Self {
        let (namespace, name) = tenant.split_once('/').unwrap_or(("", tenant));
        Self { identity: format!("{role}.{name}.{namespace}.hemicycle.internal") }
    }
}

/// The server side of TLS with certificates that are read again when they change.
#[derive(Clone)]
pub struct Tls {
    current: Arc<ArcSwap<ServerConfig>>,
    directory: PathBuf,
    protocol: &'static [u8],
}

impl Tls {
    /// Reads the directory. `protocol` is what ALPN agrees on: `h2` or `http/1.1`.
    pub fn load(directory: &Path, protocol: &'static [u8]) -> Result<Self, TlsError> {
        let files = read(directory)?;
        let config = server_config(directory, &files, protocol)?;
        Ok(Self {
            current: Arc::new(ArcSwap::from_pointee(config)),
            directory: directory.to_owned(),
            protocol,
        })
    }

    /// Looks at the files for ever.
    pub async fn watch(self) {
        let mut seen = read(&self.directory).ok();
        let mut complained = false;
        loop {
            tokio::time::sleep(WATCH_EVERY).await;
            let fresh = read(&self.directory);
            let changed = fresh.as_ref().ok() != seen.as_ref();
            let loaded = fresh.and_then(|files| {
                let config = server_config(&self.directory, &files, self.protocol)?;
                Ok((files, config))
            });
            match loaded {
                Ok((files, config)) if changed => {
                    complained = false;
                    seen = Some(files);
                    self.current.store(Arc::new(config));
                    tracing::info!("TLS certificates changed");
                }
                Ok(_) => complained = false,
                Err(error) if !complained => {
                    complained = true;
                    tracing::warn!(%error, "the certificates read before stay in force");
                }
                Err(_) => {}
            }
        }
    }

    /// Shakes hands and checks who is there.
    pub async fn accept<S>(&self, stream: S, role: &Role) -> Result<TlsStream<S>, TlsError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let acceptor = TlsAcceptor::from(self.current.load_full());
        let stream = acceptor.accept(stream).await?;
        let certificates = stream.get_ref().1.peer_certificates();
        let identity = certificates.and_then(<[_]>::first).and_then(|first| identity_of(first));
        if identity.as_deref() == Some(role.identity.as_str()) {
            Ok(stream)
        } else {
            Err(TlsError::Identity { expected: role.identity.clone() })
        }
    }
}

/// The first DNS name of a certificate.
fn identity_of(certificate: &[u8]) -> Option<String> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let names = parsed.subject_alternative_name().ok()??;
    names.value.general_names.iter().find_map(|name| match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        _ => None,
    })
}

fn read(directory: &Path) -> Result<[Vec<u8>; 3], TlsError> {
    let file = |name: &str| {
        let path = directory.join(name);
        std::fs::read(&path).map_err(|error| TlsError::Read {
            path: path.display().to_string(),
            reason: error.to_string(),
        })
    };
    Ok([file(FILES[0])?, file(FILES[1])?, file(FILES[2])?])
}

fn server_config(
    directory: &Path,
    files: &[Vec<u8>; 3],
    protocol: &'static [u8],
) -> Result<ServerConfig, TlsError> {
    let bad = |file: &str, reason: String| TlsError::Content {
        path: directory.join(file).display().to_string(),
        reason,
    };
    let [chain, key, ca] = files;
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(chain)
        .collect::<Result<_, _>>()
        .map_err(|error| bad(FILES[0], error.to_string()))?;
    let key =
        PrivateKeyDer::from_pem_slice(key).map_err(|error| bad(FILES[1], error.to_string()))?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(ca) {
        let certificate = certificate.map_err(|error| bad(FILES[2], error.to_string()))?;
        roots.add(certificate).map_err(|error| bad(FILES[2], error.to_string()))?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let clients =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
            .build()
            .map_err(|error| bad(FILES[2], error.to_string()))?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| bad(FILES[0], error.to_string()))?
        .with_client_cert_verifier(clients)
        .with_single_cert(chain, key)
        .map_err(|error| bad(FILES[0], error.to_string()))?;
    config.alpn_protocols = vec![protocol.to_vec()];
    Ok(config)
}
