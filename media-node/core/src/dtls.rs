//! DTLS for a transport, from one configuration for all of them.
//!
//! The library makes a configuration for each transport, and each of those tests every cipher,
//! curve and signature that it has: more than a millisecond of the thread that forwards packets,
//! twice for everybody who joins. Decides nothing about a handshake. Invariant: what is shared
//! holds no secret and no state of a connection.

use std::sync::{Arc, OnceLock};
use std::time::Instant;

use dimpl::{Config, Dtls, DtlsCertificate};
use str0m::config::{DtlsCert, DtlsVersion};
use str0m::crypto::CryptoError;

/// The first configuration that was made, and its MTU in bytes, which is that of all transports.
type Shared = OnceLock<(Option<usize>, Arc<Config>)>;

static SHARED: Shared = OnceLock::new();

/// A DTLS that has not begun yet and does not know its role.
///
/// # Errors
/// If the library refuses the configuration, or does not know the version.
pub(crate) fn open(
    cert: &DtlsCert,
    now: Instant,
    version: DtlsVersion,
    mtu_bytes: Option<usize>,
) -> Result<Dtls, CryptoError> {
    let config = config(&SHARED, mtu_bytes)?;
    let certificate = DtlsCertificate {
        certificate: cert.certificate.clone(),
        private_key: cert.private_key.clone(),
    };
    match version {
        DtlsVersion::Dtls12 => Ok(Dtls::new_12(config, certificate, now)),
        DtlsVersion::Dtls13 => Ok(Dtls::new_13(config, certificate, now)),
        DtlsVersion::Auto => Ok(Dtls::new_auto(config, certificate, now)),
        other => Err(CryptoError::Other(format!("no DTLS of version {other}"))),
    }
}

fn config(shared: &Shared, mtu_bytes: Option<usize>) -> Result<Arc<Config>, CryptoError> {
    if let Some((_, config)) = shared.get().filter(|(of, _)| *of == mtu_bytes) {
        return Ok(config.clone());
    }
    // ICE has shown that the client is where it says (RFC 8827 §6.5 runs DTLS on its pairs only):
    // a cookie would show it again, for a round trip.
    let builder = Config::builder().use_server_cookie(false);
    let builder = match mtu_bytes {
        Some(bytes) => builder.mtu(bytes),
        None => builder,
    };
    let built = builder.build().map_err(|error| CryptoError::Other(error.to_string()))?;
    let config = Arc::new(built);
    // Two threads at once make two, of which one is kept.
    let _ = shared.set((mtu_bytes, config.clone()));
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transports_of_one_mtu_share_a_configuration() {
        let shared = Shared::new();
        assert!(config(&shared, Some(10)).is_err(), "no handshake fits");
        let first = config(&shared, Some(1_200)).unwrap();
        assert!(Arc::ptr_eq(&first, &config(&shared, Some(1_200)).unwrap()));
        assert!(!Arc::ptr_eq(&first, &config(&shared, Some(1_100)).unwrap()), "another MTU");
    }
}
