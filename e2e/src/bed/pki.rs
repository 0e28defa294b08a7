//! Certificate authorities, leaf certificates and kubeconfigs of one cluster, all fresh at every
//! start.
//!
//! Invariant: each Kubernetes node has an identity of its own (`system:node:nN`), so that
//! NodeRestriction and the Node authorizer hold in the bed as they do in production.

use std::net::IpAddr;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose as Usage,
    IsCa, KeyPair, KeyUsagePurpose, SanType,
};

use super::layout::{API_SERVER, node_address};
use super::{Error, Layout, Result};

type Issuer = CertifiedIssuer<'static, KeyPair>;

/// Who a certificate is for.
struct Subject<'a> {
    file: &'a str,
    name: &'a str,
    group: Option<&'a str>,
    usages: &'a [Usage],
    names: &'a [&'a str],
}

/// One that only ever calls.
fn client<'a>(file: &'a str, name: &'a str, group: Option<&'a str>) -> Subject<'a> {
    Subject { file, name, group, usages: &[Usage::ClientAuth], names: &[] }
}

/// Writes every certificate, key and kubeconfig that a cluster of `nodes` nodes wants.
///
/// # Errors
/// If one cannot be made or written.
pub(super) fn write_all(layout: &Layout, nodes: u8) -> Result<()> {
    let ca = authority(layout, "ca")?;
    let front = authority(layout, "front-proxy-ca")?;
    let token_key = key("sa")?;
    layout.write(&layout.pki("sa.key"), &token_key.serialize_pem())?;
    layout.write(&layout.pki("sa.pub"), &token_key.public_key_pem())?;
    leaf(
        layout,
        &ca,
        &Subject {
            file: "apiserver",
            name: "kube-apiserver",
            group: None,
            usages: &[Usage::ServerAuth],
            names: &[
                "kubernetes",
                "kubernetes.default",
                "kubernetes.default.svc",
                "kubernetes.default.svc.cluster.local",
                "localhost",
                "127.0.0.1",
                "198.18.0.1",
                "198.18.240.1",
            ],
        },
    )?;
    let masters = Some("system:masters");
    leaf(layout, &front, &client("front-proxy", "front-proxy-client", None))?;
    leaf(layout, &ca, &client("apiserver-kubelet", "kube-apiserver-kubelet-client", masters))?;
    user(layout, &ca, &client("admin", "admin", masters))?;
    for part in ["kube-controller-manager", "kube-scheduler", "kube-proxy"] {
        user(layout, &ca, &client(part, &format!("system:{part}"), None))?;
    }
    for n in 1..=nodes {
        let file = format!("n{n}");
        user(
            layout,
            &ca,
            &Subject {
                file: &file,
                name: &format!("system:node:{file}"),
                group: Some("system:nodes"),
                usages: &[Usage::ClientAuth, Usage::ServerAuth],
                names: &[&file, &node_address(n)],
            },
        )?;
    }
    Ok(())
}

fn key(name: &str) -> Result<KeyPair> {
    KeyPair::generate().map_err(|source| refused(name, source))
}

fn refused(name: &str, source: rcgen::Error) -> Error {
    Error::Certificate { name: name.to_owned(), source }
}

fn authority(layout: &Layout, name: &str) -> Result<Issuer> {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyCertSign];
    params.distinguished_name.push(DnType::CommonName, name);
    let issuer =
        CertifiedIssuer::self_signed(params, key(name)?).map_err(|source| refused(name, source))?;
    layout.write(&layout.pki(&format!("{name}.crt")), &issuer.pem())?;
    layout.write(&layout.pki(&format!("{name}.key")), &issuer.key().serialize_pem())?;
    Ok(issuer)
}

/// Writes certificate and key; returns both as PEM.
fn leaf(layout: &Layout, issuer: &Issuer, subject: &Subject<'_>) -> Result<(String, String)> {
    let fail = |source| refused(subject.file, source);
    let mut params = CertificateParams::default();
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = subject.usages.to_vec();
    params.use_authority_key_identifier_extension = true;
    if let Some(group) = subject.group {
        params.distinguished_name.push(DnType::OrganizationName, group);
    }
    params.distinguished_name.push(DnType::CommonName, subject.name);
    for name in subject.names {
        let san = match name.parse::<IpAddr>() {
            Ok(address) => SanType::IpAddress(address),
            Err(_) => SanType::DnsName((*name).try_into().map_err(fail)?),
        };
        params.subject_alt_names.push(san);
    }
    let key = key(subject.file)?;
    let pem = params.signed_by(&key, issuer).map_err(fail)?.pem();
    let secret = key.serialize_pem();
    layout.write(&layout.pki(&format!("{}.crt", subject.file)), &pem)?;
    layout.write(&layout.pki(&format!("{}.key", subject.file)), &secret)?;
    Ok((pem, secret))
}

/// A leaf and the kubeconfig that uses it. All is embedded, so that the one file can be handed
/// around.
fn user(layout: &Layout, issuer: &Issuer, subject: &Subject<'_>) -> Result<()> {
    let (pem, secret) = leaf(layout, issuer, subject)?;
    let [ca, pem, secret] = [issuer.pem(), pem, secret].map(|text| BASE64_STANDARD.encode(text));
    let user = subject.file;
    let text = format!(
        "apiVersion: v1\n\
         kind: Config\n\
         current-context: testbed\n\
         contexts: [{{name: testbed, context: {{cluster: testbed, user: {user}}}}}]\n\
         clusters:\n\
         - name: testbed\n  \
           cluster: {{server: '{API_SERVER}', certificate-authority-data: {ca}}}\n\
         users:\n\
         - name: {user}\n  \
           user: {{client-certificate-data: {pem}, client-key-data: {secret}}}\n"
    );
    layout.write(&layout.kubeconfig(user), &text)
}
