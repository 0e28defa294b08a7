//! What a DTLS handshake agreed on for SRTP, which the library does not tell.
//!
//! Stands between the library and its DTLS, looks at one output, and answers for a DTLS that has
//! nothing new to say, which the library asks twice per packet. Where we seal ourselves the keys go
//! to us and the library gets random ones in their place. Invariant: what it reports is of the
//! transport that is being polled on this thread at that moment; the real keys go one way only;
//! nothing else that DTLS has to say is held back.

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::time::Instant;

use dimpl::Dtls;
use str0m::config::{CryptoProvider, DtlsCert, DtlsVersion};
use str0m::crypto::CryptoError;
use str0m::crypto::dtls::{
    DtlsImplError, DtlsInstance, DtlsOutput, DtlsProvider, KeyingMaterial, ProtocolVersion,
    SrtpProfile,
};

use crate::egress::srtp::Keys;

thread_local! {
    static AGREED: Cell<Option<SrtpProfile>> = const { Cell::new(None) };
    /// Of the handshake that has just ended; one at most, and taken by whoever polled.
    static KEYS: RefCell<Option<Keys>> = const { RefCell::new(None) };
}

/// Who has the keys of SRTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Holder {
    /// The library: it opens and seals.
    Library,
    /// Our egress.
    Egress,
}

/// Whether the handshake that has just ended on this thread agreed on AES-GCM.
pub(crate) fn take_is_gcm() -> bool {
    let agreed = AGREED.take();
    matches!(agreed, Some(SrtpProfile::AEAD_AES_128_GCM | SrtpProfile::AEAD_AES_256_GCM))
}

/// The keys of the handshake that has just ended on this thread, where they are ours.
pub(crate) fn take_keys() -> Option<Keys> {
    KEYS.take()
}

/// The crypto of the workspace with our look-out in front of its DTLS.
pub(crate) fn provider(holder: Holder) -> Arc<CryptoProvider> {
    let mut provider = str0m::crypto::from_feature_flags();
    provider.dtls_provider = match holder {
        Holder::Library => &Lookout(Holder::Library),
        Holder::Egress => &Lookout(Holder::Egress),
    };
    Arc::new(provider)
}

#[derive(Debug)]
struct Lookout(Holder);

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
        let dtls = crate::dtls::open(cert, now, version, mtu)?;
        Ok(Box::new(Watched { dtls, holder: self.0, connected: false, quiet: None }))
    }
}

#[derive(Debug)]
struct Watched {
    dtls: Dtls,
    holder: Holder,
    connected: bool,
    /// Connected, it has said all that it had to say, and this is its next time.
    quiet: Option<Instant>,
}

impl Watched {
    /// For whatever may give it something to say.
    fn disturbed(&mut self) -> &mut Dtls {
        self.quiet = None;
        &mut self.dtls
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
        // The answering client is free to choose its role, so ours is not settled before.
        let client = self.dtls.is_active();
        let mut output = self.dtls.poll_output(buf);
        match &mut output {
            DtlsOutput::KeyingMaterial(keys, profile) => {
                AGREED.set(Some(*profile));
                if self.holder == Holder::Egress {
                    KEYS.set(Some(Keys::new(*profile, keys, client)));
                    *keys = useless(keys.len());
                }
            }
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

/// Keys that open and seal nothing that anybody else has.
fn useless(bytes: usize) -> KeyingMaterial {
    let mut random = vec![0; bytes];
    // Without randomness the library gets zeros: what it seals is dropped all the same.
    let _ = aws_lc_rs::rand::fill(&mut random);
    KeyingMaterial::new(&random)
}
