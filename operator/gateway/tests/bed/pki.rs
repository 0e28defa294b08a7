//! An internal CA and leaves as the operator issues them.

use std::path::Path;
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls::crypto::aws_lc_rs;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

#[derive(Clone)]
pub(crate) struct Pki {
    ca_pem: String,
    issuer: Arc<Issuer<'static, KeyPair>>,
}

impl Pki {
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(Vec::<String>::new()).expect("valid");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let ca_pem = params.self_signed(&key).expect("signs").pem();
        Self { ca_pem, issuer: Arc::new(Issuer::new(params, key)) }
    }

    /// Certificate and key in PEM.
    pub(crate) fn leaf(&self, name: &str) -> (String, String) {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(vec![name.to_owned()]).expect("valid");
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = params.signed_by(&key, &self.issuer).expect("signs");
        (certificate.pem(), key.serialize_pem())
    }

    /// Writes tls.crt, tls.key and ca.crt.
    pub(crate) fn write_leaf(&self, directory: &Path, name: &str) {
        let (certificate, key) = self.leaf(name);
        std::fs::write(directory.join("tls.crt"), certificate).expect("writes");
        std::fs::write(directory.join("tls.key"), key).expect("writes");
        std::fs::write(directory.join("ca.crt"), &self.ca_pem).expect("writes");
    }

    pub(crate) fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_slice(self.ca_pem.as_bytes()).expect("PEM"))
            .expect("CA");
        roots
    }

    /// A server that demands a certificate of this CA.
    pub(crate) fn server(&self, name: &str, alpn: &str) -> Arc<ServerConfig> {
        let (certificate, key) = self.leaf(name);
        let provider = Arc::new(aws_lc_rs::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(
            Arc::new(self.roots()),
            Arc::clone(&provider),
        );
        let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).expect("PEM")];
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("PEM");
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_client_cert_verifier(verifier.build().expect("verifier"))
            .with_single_cert(chain, key)
            .expect("fits");
        config.alpn_protocols = vec![alpn.as_bytes().to_vec()];
        Arc::new(config)
    }
}
