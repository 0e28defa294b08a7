//! Which SRTP suite a DTLS handshake ended on, which the library does not tell.
//!
//! Stands between the library and its DTLS, changes nothing and looks at one output. Invariant:
//! what it reports is of the transport that is being polled on this thread at that moment.

use std::cell::Cell;
use std::sync::Arc;
use std::time::Instant;

use str0m::config::{CryptoProvider, DtlsCert, DtlsVersion};
use str0m::crypto::CryptoError;
use str0m::crypto::dtls::{
    DtlsImplError, DtlsInstance, DtlsOutput, DtlsProvider, ProtocolVersion, SrtpProfile,
};

thread_local! {
    static AGREED: Cell<Option<SrtpProfile>> = const { Cell::new(None) };
}

/// Whether the handshake that has just ended on this thread agreed on AES-GCM.
pub(crate) fn take_is_gcm() -> bool {
    let agreed = AGREED.take();
    matches!(agreed, Some(SrtpProfile::AEAD_AES_128_GCM | SrtpProfile::AEAD_AES_256_GCM))
}

/// The crypto of the workspace with our look-out in front of its DTLS.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    let mut provider = str0m::crypto::from_feature_flags();
    provider.dtls_provider = &Lookout;
    Arc::new(provider)
}

#[derive(Debug)]
struct Lookout;

impl DtlsProvider for Lookout {
    fn generate_certificate(&self) -> Option<DtlsCert> {
        str0m::crypto::from_feature_flags().dtls_provider.generate_certificate()
    }

    fn new_dtls(
        &self,
        cert: &DtlsCert,
        now: Instant,
        version: DtlsVersion,
        mtu: Option<usize>,
    ) -> Result<Box<dyn DtlsInstance>, CryptoError> {
        let real = str0m::crypto::from_feature_flags().dtls_provider;
        Ok(Box::new(Watched(real.new_dtls(cert, now, version, mtu)?)))
    }
}

#[derive(Debug)]
struct Watched(Box<dyn DtlsInstance>);

impl DtlsInstance for Watched {
    fn set_active(&mut self, active: bool) {
        self.0.set_active(active);
    }

    fn handle_packet(&mut self, packet: &[u8]) -> Result<(), DtlsImplError> {
        self.0.handle_packet(packet)
    }

    fn poll_output<'a>(&mut self, buf: &'a mut [u8]) -> DtlsOutput<'a> {
        let output = self.0.poll_output(buf);
        if let DtlsOutput::KeyingMaterial(_, profile) = &output {
            AGREED.set(Some(*profile));
        }
        output
    }

    fn handle_timeout(&mut self, now: Instant) -> Result<(), DtlsImplError> {
        self.0.handle_timeout(now)
    }

    fn send_application_data(&mut self, data: &[u8]) -> Result<usize, DtlsImplError> {
        self.0.send_application_data(data)
    }

    fn is_active(&self) -> bool {
        self.0.is_active()
    }

    fn protocol_version(&self) -> Option<ProtocolVersion> {
        self.0.protocol_version()
    }

    fn is_closing(&self) -> bool {
        self.0.is_closing()
    }

    fn is_closed(&self) -> bool {
        self.0.is_closed()
    }

    fn close(&mut self) -> Result<(), DtlsImplError> {
        self.0.close()
    }
}
