//! Issues the certificates with which operator, gateways and media nodes of one meeting cluster
//! know each other: one CA per meeting cluster, leaves for a week. Pure but for key generation;
//! time is an argument. [`store`] keeps them in Secrets, [`trust`] in memory; [`signing`] has the
//! keys of what the operator signs itself. Invariant: a certificate's first DNS name is its
//! identity, and a CA signs only for its own meeting cluster. A CA is replaced in steps, so that
//! nobody meets a certificate whose CA he has not seen.

pub mod signing;
pub mod store;
pub mod trust;

use std::time::Duration;

use jiff::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
};

/// How long a leaf is valid. Short, so that a stolen key is of use for days.
pub const LEAF_VALID: Duration = Duration::from_hours(7 * 24);
/// How long a CA is valid.
pub const CA_VALID: Duration = Duration::from_hours(365 * 24);
/// How long a new CA is only trusted before it signs: kubelets need up to 90 s to bring a changed
/// Secret into a pod, and an hour forgives an outage on the way.
pub const CA_KNOWN_BEFORE_USE: Duration = Duration::from_hours(1);
/// Certificates begin this long before they are issued, for clocks that lag.
const BACKDATED: Duration = Duration::from_mins(5);
/// Suffix of every internal name; it never appears in a DNS zone.
const SUFFIX: &str = "hemicycle.internal";

/// Why a certificate could not be made or read.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// rcgen refused.
    #[error("the certificate could not be issued")]
    Issue(#[from] rcgen::Error),
    /// The PEM text is not a certificate.
    #[error("the stored certificate cannot be read: {0}")]
    Read(String),
}

/// Who a certificate is for, within one meeting cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Role<'a> {
    /// A media node, by the name of its resource.
    MediaNode(&'a str),
    /// Every gateway of the meeting cluster.
    Gateway,
    /// The operator as a client of media nodes and other replicas.
    Operator,
    /// The operator's placement listener.
    Placer,
}

impl Role<'_> {
    /// The identity: first DNS name of the certificate.
    #[must_use]
    pub fn dns_name(&self, namespace: &str, meeting_cluster: &str) -> String {
        let tail = format!("{meeting_cluster}.{namespace}.{SUFFIX}");
        match self {
            Self::MediaNode(name) => format!("{name}.media.{tail}"),
            Self::Gateway => format!("gateway.{tail}"),
            Self::Operator => format!("operator.{tail}"),
            Self::Placer => format!("placer.{tail}"),
        }
    }
}

/// A certificate with its private key, both PEM. Debug shows neither.
#[derive(Clone, PartialEq, Eq)]
pub struct Issued {
    /// Certificate, PEM.
    pub certificate: String,
    /// Private key, PKCS #8 PEM.
    pub key: String,
}

impl std::fmt::Debug for Issued {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Issued(‹redacted›)")
    }
}

/// The CA of one meeting cluster, with those it takes over from and hands over to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authority {
    /// Signs.
    pub current: Issued,
    /// Is trusted already and will sign from its not-before + [`CA_KNOWN_BEFORE_USE`].
    pub next: Option<Issued>,
    /// Certificate alone of the one before, trusted until it runs out.
    pub previous: Option<String>,
}

impl Authority {
    /// A new CA.
    ///
    /// # Errors
    /// When the key cannot be generated.
    pub fn generate(tenant: &str, now: Timestamp) -> Result<Self, PkiError> {
        Ok(Self { current: generate_ca(tenant, now)?, next: None, previous: None })
    }

    /// Every certificate to trust, PEM.
    #[must_use]
    pub fn bundle(&self) -> String {
        let next = self.next.as_ref().map(|next| next.certificate.as_str());
        let all = [Some(self.current.certificate.as_str()), next, self.previous.as_deref()];
        all.into_iter().flatten().map(|pem| format!("{}\n", pem.trim_end())).collect()
    }

    /// The state after this one, when it is time for a step: announce a successor at two thirds of
    /// the life, let it sign an hour later, forget the predecessor when it has run out.
    ///
    /// # Errors
    /// When a stored certificate cannot be read or a key cannot be generated.
    pub fn advanced(&self, tenant: &str, now: Timestamp) -> Result<Option<Self>, PkiError> {
        if let Some(next) = &self.next {
            let from = Validity::of(&next.certificate)?.begin + BACKDATED + CA_KNOWN_BEFORE_USE;
            if now < from {
                return Ok(None);
            }
            return Ok(Some(Self {
                current: next.clone(),
                next: None,
                previous: Some(self.current.certificate.clone()),
            }));
        }
        if Validity::of(&self.current.certificate)?.renewal_due(now) {
            let next = Some(generate_ca(tenant, now)?);
            return Ok(Some(Self { next, ..self.clone() }));
        }
        if let Some(previous) = &self.previous
            && Validity::of(previous)?.end < now
        {
            return Ok(Some(Self { previous: None, ..self.clone() }));
        }
        Ok(None)
    }

    /// A leaf for `dns_name`, signed by the current CA.
    ///
    /// # Errors
    /// When the CA cannot be read back or the key cannot be generated.
    pub fn issue(&self, dns_name: &str, now: Timestamp) -> Result<Issued, PkiError> {
        let ca_key = KeyPair::from_pem(&self.current.key)?;
        let issuer = Issuer::from_ca_cert_pem(&self.current.certificate, ca_key)?;
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = CertificateParams::new(vec![dns_name.to_owned()])?;
        // The name lives in the SAN. A common name is limited to 64 bytes, so it is left out.
        params.distinguished_name = rcgen::DistinguishedName::new();
        set_validity(&mut params, now, LEAF_VALID);
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(&key, &issuer)?;
        Ok(Issued { certificate: certificate.pem(), key: key.serialize_pem() })
    }

    /// Whether a stored leaf can stay: right name, signed by the current CA, not due.
    #[must_use]
    pub fn still_good(&self, leaf: &str, dns_name: &str, now: Timestamp) -> bool {
        let Ok(validity) = Validity::of(leaf) else {
            return false;
        };
        !validity.renewal_due(now)
            && first_dns_name(leaf).as_deref() == Some(dns_name)
            && signed_by(leaf, &self.current.certificate)
    }
}

/// When a certificate is valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// Not before.
    pub begin: Timestamp,
    /// Not after.
    pub end: Timestamp,
}

impl Validity {
    /// Reads it from a PEM certificate.
    ///
    /// # Errors
    /// When the text is not a certificate.
    pub fn of(pem: &str) -> Result<Self, PkiError> {
        with_certificate(pem, |certificate| {
            let validity = certificate.validity();
            let time = |at: i64| {
                Timestamp::from_second(at).map_err(|error| PkiError::Read(error.to_string()))
            };
            Ok(Self {
                begin: time(validity.not_before.timestamp())?,
                end: time(validity.not_after.timestamp())?,
            })
        })?
    }

    /// Two thirds of the life are over.
    #[must_use]
    pub fn renewal_due(&self, now: Timestamp) -> bool {
        let life = self.end.as_second() - self.begin.as_second();
        now.as_second() >= self.begin.as_second() + life / 3 * 2
    }
}

fn generate_ca(tenant: &str, now: Timestamp) -> Result<Issued, PkiError> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let mut params = CertificateParams::new(Vec::<String>::new())?;
    let mut name = rcgen::DistinguishedName::new();
    // The time makes the name of each successor its own, so that chains are built without
    // ambiguity.
    name.push(DnType::OrganizationName, "Hemicycle");
    name.push(DnType::OrganizationalUnitName, tenant.chars().take(64).collect::<String>());
    name.push(DnType::CommonName, format!("internal CA {}", now.as_second()));
    params.distinguished_name = name;
    set_validity(&mut params, now, CA_VALID);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let certificate = params.self_signed(&key)?;
    Ok(Issued { certificate: certificate.pem(), key: key.serialize_pem() })
}

fn set_validity(params: &mut CertificateParams, now: Timestamp, valid: Duration) {
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let now = Duration::from_secs(u64::try_from(now.as_second()).unwrap_or_default());
    params.not_before = epoch + now.saturating_sub(BACKDATED);
    params.not_after = epoch + now + valid;
}

fn with_certificate<T>(
    pem: &str,
    read: impl FnOnce(&x509_parser::certificate::X509Certificate<'_>) -> T,
) -> Result<T, PkiError> {
    let unreadable = |error: &dyn std::fmt::Display| PkiError::Read(error.to_string());
    let (_, block) =
        x509_parser::pem::parse_x509_pem(pem.as_bytes()).map_err(|error| unreadable(&error))?;
    let certificate = block.parse_x509().map_err(|error| unreadable(&error))?;
    Ok(read(&certificate))
}

fn signed_by(leaf: &str, ca: &str) -> bool {
    let issuer = with_certificate(leaf, |leaf| leaf.issuer().as_raw().to_vec());
    let subject = with_certificate(ca, |ca| ca.subject().as_raw().to_vec());
    matches!((issuer, subject), (Ok(issuer), Ok(subject)) if issuer == subject)
}

/// The identity in a PEM certificate.
#[must_use]
pub fn first_dns_name(pem: &str) -> Option<String> {
    with_certificate(pem, dns_name_of).ok().flatten()
}

/// The identity in a DER certificate.
#[must_use]
pub fn first_dns_name_der(der: &[u8]) -> Option<String> {
    let (_, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
    dns_name_of(&certificate)
}

fn dns_name_of(certificate: &x509_parser::certificate::X509Certificate<'_>) -> Option<String> {
    let names = certificate.subject_alternative_name().ok()??;
    names.value.general_names.iter().find_map(|name| match name {
        x509_parser::extensions::GeneralName::DNSName(name) => Some((*name).to_owned()),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;

    use super::*;

    fn start() -> Timestamp {
        "2026-11-23T09:00:00Z".parse().expect("a time")
    }

    fn days(count: i64) -> SignedDuration {
        SignedDuration::from_hours(count * 24)
    }

    fn authority() -> Authority {
        Authority::generate("ns/mc", start()).expect("a CA")
    }

    #[test]
    fn a_leaf_says_who_it_is_and_stays_good_for_two_thirds_of_a_week() {
        let ca = authority();
        let name = Role::MediaNode("mc-1").dns_name("ns", "mc");
        assert_eq!(name, "mc-1.media.mc.ns.hemicycle.internal");
        let leaf = ca.issue(&name, start()).expect("a leaf").certificate;
        assert_eq!(first_dns_name(&leaf).as_deref(), Some(name.as_str()));
        assert!(ca.still_good(&leaf, &name, start() + days(4)));
        assert!(!ca.still_good(&leaf, &name, start() + days(5)), "renewed at two thirds");
        assert!(!ca.still_good(&leaf, "other", start()), "a renamed media node gets its own");
        let other = authority_of_another();
        assert!(!other.still_good(&leaf, &name, start()), "another CA's leaf is replaced");
    }

    fn authority_of_another() -> Authority {
        Authority::generate("ns/other", start() + days(1)).expect("a CA")
    }

    #[test]
    fn a_ca_is_replaced_in_steps_and_each_bundle_holds_the_neighbours() {
        let first = authority();
        assert_eq!(first.advanced("ns/mc", start() + days(200)).expect("readable"), None);
        let due = start() + days(250);
        let announced = first.advanced("ns/mc", due).expect("readable").expect("a successor");
        assert_eq!(announced.current, first.current, "the old one goes on signing");
        let next = announced.next.clone().expect("announced");
        assert!(announced.bundle().contains(&next.certificate));
        let early = due + SignedDuration::from_mins(59);
        assert_eq!(announced.advanced("ns/mc", early).expect("readable"), None);
        let later = due + SignedDuration::from_mins(61);
        let promoted = announced.advanced("ns/mc", later).expect("readable").expect("promoted");
        assert_eq!(promoted.current, next);
        assert!(promoted.bundle().contains(&first.current.certificate), "old leaves stay trusted");
        let end = start() + days(366);
        let alone = promoted.advanced("ns/mc", end).expect("readable").expect("forgotten");
        assert_eq!(alone.previous, None);
    }

    #[test]
    fn private_keys_do_not_reach_a_log_line() {
        let shown = format!("{:?}", authority());
        assert!(!shown.contains("PRIVATE"), "{shown}");
    }
}
