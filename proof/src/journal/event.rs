//! The table of event ids. An id keeps its meaning for ever; a new meaning gets a new id.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! events {
    ($($(#[$doc:meta])* $name:ident = $id:literal, $english:literal, $french:literal;)*) => {
        /// What happened.
        #[derive(
            Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
        )]
        pub enum EventId {
            $(#[doc = $english] #[serde(rename = $id)] $name,)*
        }

        impl EventId {
            /// Every event, in order of the ids.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// The stable id, such as `HC-SCOPE-001`.
            #[must_use]
            pub const fn id(self) -> &'static str {
                match self { $(Self::$name => $id,)* }
            }

            /// What it means, in English.
            #[must_use]
            pub const fn english(self) -> &'static str {
                match self { $(Self::$name => $english,)* }
            }

            /// What it means, in French.
            #[must_use]
            pub const fn french(self) -> &'static str {
                match self { $(Self::$name => $french,)* }
            }
        }
    };
}

events! {
    CredentialRotated = "HC-CREDENTIAL-001", "credential rotated", "secret renouvelé";
    CredentialRefused = "HC-CREDENTIAL-002", "credential refused", "secret refusé";
    DrainBegun = "HC-DRAIN-001", "drain begun", "vidage commencé";
    DrainEnded = "HC-DRAIN-002", "drain ended", "vidage terminé";
    DrainDeadline = "HC-DRAIN-003", "drain reached its deadline", "vidage arrivé à échéance";
    EvidenceGained = "HC-EVIDENCE-001", "evidence gained", "élément de preuve obtenu";
    EvidenceLost = "HC-EVIDENCE-002", "evidence lost", "élément de preuve perdu";
    EvidenceContradicted = "HC-EVIDENCE-003", "evidence contradicted",
        "élément de preuve contredit";
    LabelWritten = "HC-LABEL-001", "scope label written", "étiquette de périmètre posée";
    LabelRemoved = "HC-LABEL-002", "scope label removed", "étiquette de périmètre retirée";
    PolicyTampered = "HC-POLICY-001", "admission policy changed by another hand or deleted",
        "règle d’admission modifiée par un tiers ou supprimée";
    PolicyRepaired = "HC-POLICY-002", "admission policy repaired", "règle d’admission rétablie";
    ScopeQualified = "HC-SCOPE-001", "scope in force", "périmètre en vigueur";
    ScopeWithdrawn = "HC-SCOPE-002", "scope suspended or withdrawn",
        "périmètre suspendu ou retiré";
    ScopeExpired = "HC-SCOPE-003", "attestation of the scope ended",
        "attestation du périmètre échue";
    ScopeMissing = "HC-SCOPE-004", "scope missing", "périmètre absent";
    ScopeChanged = "HC-SCOPE-005", "declaration of the scope changed",
        "déclaration du périmètre modifiée";
    TicketIssued = "HC-TICKET-001", "ticket issued", "ticket délivré";
    TicketRefused = "HC-TICKET-002", "ticket refused", "ticket refusé";
    TicketWithheld = "HC-TICKET-003", "ticket withheld", "ticket retenu";
    ViolationOpened = "HC-VIOLATION-001", "violation opened", "violation ouverte";
    ViolationClosed = "HC-VIOLATION-002", "violation closed", "violation close";
    ViolationAcknowledged = "HC-VIOLATION-003", "violation acknowledged",
        "violation prise en compte";
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.id())
    }
}
