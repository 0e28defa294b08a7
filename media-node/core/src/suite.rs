//! Which SRTP suite a DTLS handshake ended on, which the library does not tell.
//!
//! Stands between the library and its DTLS, looks at one output, and answers for a DTLS that has
//! nothing new to say, which the library asks twice per packet. Invariant: what it reports is of
//! the transport that is being polled on this thread at that moment, and nothing that DTLS has to
//! say is held back.

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
        let dtls = real.new_dtls(cert, now, version, mtu)?;
        Ok(Box::new(Watched { dtls, connected: false, quiet: None }))
    }
}

#[derive(Debug)]
struct Watched {
    dtls: Box<dyn DtlsInstance>,
    connected: bool,
    /// Connected, it has said all that it had to say, and this is its next time.
    quiet: Option<Instant>,
}

impl Watched {
    /// For whatever may give it something to say.
    fn disturbed(&mut self) -> &mut dyn DtlsInstance {
        self.quiet = None;
        self.dtls.as_mut()
    }
}

impl DtlsInstance for Watched {
    fn set_active(&mut self, active: bool) {
        self.disturbed().set_active(active);
    }

    fn handle_packet(&mut self, packet: &[u8]) -> Result<(), DtlsImplError> {
        self.disturbed().handle_packet(packet)
    }

    fn poll_output<'a>(&mut self, buf: &'a mut [u8]) -> DtlsOutput<'a> {
        if let Some(next) = self.quiet {
            return DtlsOutput::Timeout(next);
        }
        let output = self.dtls.poll_output(buf);
        match &output {
            DtlsOutput::KeyingMaterial(_, profile) => AGREED.set(Some(*profile)),
            DtlsOutput::Connected => self.connected = true,
            DtlsOutput::Timeout(next) => self.quiet = self.connected.then_some(*next),
            _ => {}
        }
        output
    }

    fn handle_timeout(&mut self, now: Instant) -> Result<(), DtlsImplError> {
        self.disturbed().handle_timeout(now)
    }

    fn send_application_data(&mut self, data: &[u8]) -> Result<usize, DtlsImplError> {
        self.disturbed().send_application_data(data)
    }

    fn is_active(&self) -> bool {
        self.dtls.is_active()
    }

    fn protocol_version(&self) -> Option<ProtocolVersion> {
        self.dtls.protocol_version()
    }

    fn is_closing(&self) -> bool {
        self.dtls.is_closing()
    }

    fn is_closed(&self) -> bool {
        self.dtls.is_closed()
    }

    fn close(&mut self) -> Result<(), DtlsImplError> {
        self.disturbed().close()
    }
}
