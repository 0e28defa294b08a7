//! TLS settings out of PEM files: ours towards media nodes and placers, and the public one.
//!
//! Decides versions, cipher library and what is verified. Reads no file.
//! Invariant: as a client we always verify the other side's CA and name, and show our certificate.

use std::sync::Arc;

use rustls::crypto::aws_lc_rs;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

/// Why PEM files make no TLS settings. No text repeats a key.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// Not PEM, or nothing of the wanted kind in it.
    #[error("{0} holds no PEM {1}")]
    Pem(&'static str, &'static str),
    /// Certificate and key do not fit, or are of a kind that is not supported.
    #[error("certificate and key are refused: {0}")]
    Refused(#[from] rustls::Error),
}

/// Client settings for both kinds of connection that a gateway opens.
#[derive(Clone, Debug)]
pub struct ClientTls {
    /// Towards media nodes: HTTP/1.1.
    pub media_node: Arc<ClientConfig>,
    /// Towards placers: HTTP/2.
    pub placer: Arc<ClientConfig>,
}

/// Settings with our certificate and the internal CA.
///
/// # Errors
/// When a file holds no PEM of its kind, or certificate and key do not fit.
pub fn client(certificate: &[u8], key: &[u8], ca: &[u8]) -> Result<ClientTls, TlsError> {
    let mut roots = RootCertStore::empty();
    for root in certificates("ca.crt", ca)? {
        roots.add(root)?;
    }
    let chain = certificates("tls.crt", certificate)?;
    let key = private_key(key)?;
    let mut media_node =
        ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)?;
    let mut placer = media_node.clone();
    media_node.alpn_protocols = vec![b"http/1.1".to_vec()];
    placer.alpn_protocols = vec![b"h2".to_vec()];
    Ok(ClientTls { media_node: Arc::new(media_node), placer: Arc::new(placer) })
}

/// Settings of the public listener. Only HTTP/1.1 is offered: a WebSocket needs its own connection.
///
/// # Errors
/// As [`client`].
pub fn server(certificate: &[u8], key: &[u8]) -> Result<Arc<ServerConfig>, TlsError> {
    let chain = certificates("tls.crt", certificate)?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, private_key(key)?)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn certificates(file: &'static str, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match found {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        _ => Err(TlsError::Pem(file, "certificate")),
    }
}

fn private_key(pem: &[u8]) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_slice(pem).map_err(|_| TlsError::Pem("tls.key", "private key"))
}
