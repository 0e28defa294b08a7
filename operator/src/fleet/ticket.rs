//! The ticket of one media node: signed on the terms that the reconcile gives, renewed before it is
//! half over, none without terms. Time is an argument. Decides nothing about terms. Invariants: no
//! ticket outlives ten minutes or its terms, and a later one has a higher serial.

use std::sync::atomic::{AtomicU64, Ordering};

use media_api::{ticket::Signer, v1::Ticket};
use operator_core::ids::Timestamp;

/// Life of a ticket, in milliseconds: the longest that media nodes accept.
const LIFE_MS: u64 = 600_000;
/// With less than this left a ticket is renewed: then an operator that is away for five minutes
/// closes no door.
const RENEW_BELOW_MS: u64 = LIFE_MS / 2;

/// On which terms a media node may carry rooms.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TicketTerms {
    /// Name of the scope.
    pub scope: String,
    /// Why the Kubernetes node is believed to lie in it.
    pub evidence_level: String,
    /// Where the pod is bound.
    pub kubernetes_node: String,
    /// Nothing holds after this, on the wall clock.
    pub valid_until: Timestamp,
}

/// Who is to hold a ticket.
#[derive(Clone, Debug)]
pub(super) struct Holder {
    pub(super) tenant: String,
    pub(super) media_node: String,
    pub(super) pod_uid: String,
    /// Of the leader that issues.
    pub(super) epoch: u64,
}

/// The ticket of one media node, as it was sent last.
pub(super) struct Tickets {
    holder: Holder,
    current: Option<Current>,
}

struct Current {
    terms: TicketTerms,
    expires_unix_ms: u64,
    bytes: Vec<u8>,
}

impl Tickets {
    pub(super) fn new(holder: Holder) -> Self {
        Self { holder, current: None }
    }

    /// The ticket to send now: the current one, or a new one when that is due. Without terms, or
    /// when they are over, none: no bytes, which withdraws the one that is held.
    pub(super) fn current(
        &mut self,
        signer: &Signer,
        terms: Option<&TicketTerms>,
        unix_ms: u64,
    ) -> Vec<u8> {
        let Some(terms) = terms.filter(|terms| terms.valid_until.0 > unix_ms) else {
            self.current = None;
            return Vec::new();
        };
        if let Some(current) = self.current.as_ref().filter(|c| c.is_good(terms, unix_ms)) {
            return current.bytes.clone();
        }
        let expires_unix_ms = expiry(terms, unix_ms);
        let holder = self.holder.clone();
        let bytes = signer.sign(&Ticket {
            tenant: holder.tenant,
            media_node: holder.media_node,
            pod_uid: holder.pod_uid,
            kubernetes_node: terms.kubernetes_node.clone(),
            scope: terms.scope.clone(),
            evidence_level: terms.evidence_level.clone(),
            not_before_unix_ms: unix_ms,
            expires_unix_ms,
            issued_epoch: holder.epoch,
            serial: next_serial(unix_ms),
        });
        let terms = terms.clone();
        self.current = Some(Current { terms, expires_unix_ms, bytes: bytes.clone() });
        bytes
    }

    /// The media node did not take the current one, or it was taken away: the next is a new one.
    pub(super) fn forget(&mut self) {
        self.current = None;
    }
}

impl Current {
    fn is_good(&self, terms: &TicketTerms, unix_ms: u64) -> bool {
        let left_ms = self.expires_unix_ms.saturating_sub(unix_ms);
        // More than a whole life is left when the clock was set back since.
        let fresh = (RENEW_BELOW_MS..=LIFE_MS).contains(&left_ms);
        let longest = left_ms > 0 && self.expires_unix_ms == expiry(terms, unix_ms);
        self.terms == *terms && (fresh || longest)
    }
}

fn expiry(terms: &TicketTerms, unix_ms: u64) -> u64 {
    terms.valid_until.0.min(unix_ms.saturating_add(LIFE_MS))
}

/// Higher than any before in this process, and than those of a process that ended, whose epoch this
/// one's may be.
fn next_serial(unix_ms: u64) -> u64 {
    static LAST: AtomicU64 = AtomicU64::new(0);
    let next = |last: u64| last.saturating_add(1).max(unix_ms);
    match LAST.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| Some(next(last))) {
        Ok(last) | Err(last) => next(last),
    }
}

#[cfg(test)]
mod tests {
    use media_api::ticket::open;

    use super::*;
    use crate::pki::signing::SigningKeys;

    const NOON: u64 = 1_795_424_400_000;
    const MINUTE: u64 = 60_000;

    struct Scene {
        keys: SigningKeys,
        tickets: Tickets,
    }

    impl Scene {
        fn new() -> Self {
            let holder = Holder {
                tenant: "ministry/visio".into(),
                media_node: "visio-1".into(),
                pod_uid: "uid-1".into(),
                epoch: 7,
            };
            let keys = SigningKeys::generate().expect("generated");
            Self { keys, tickets: Tickets::new(holder) }
        }

        fn at(&mut self, unix_ms: u64, terms: &TicketTerms) -> Ticket {
            let signer = self.keys.ticket();
            let bytes = self.tickets.current(signer, Some(terms), unix_ms);
            open(&bytes, &[signer.public_key()]).expect("a ticket")
        }
    }

    fn terms() -> TicketTerms {
        TicketTerms {
            scope: "gold".into(),
            evidence_level: "E0".into(),
            kubernetes_node: "paris-1".into(),
            valid_until: Timestamp(NOON + 1_000 * MINUTE),
        }
    }

    #[test]
    fn a_ticket_says_who_where_and_for_how_long() {
        let ticket = Scene::new().at(NOON, &terms());
        assert_eq!(
            (ticket.tenant.as_str(), ticket.media_node.as_str(), ticket.pod_uid.as_str()),
            ("ministry/visio", "visio-1", "uid-1")
        );
        assert_eq!((ticket.scope.as_str(), ticket.kubernetes_node.as_str()), ("gold", "paris-1"));
        assert_eq!((ticket.not_before_unix_ms, ticket.issued_epoch), (NOON, 7));
        assert_eq!(ticket.expires_unix_ms, NOON + 10 * MINUTE);
    }

    #[test]
    fn it_is_renewed_when_less_than_half_is_left_or_the_terms_change() {
        let mut scene = Scene::new();
        let first = scene.at(NOON, &terms());
        assert_eq!(scene.at(NOON + 5 * MINUTE, &terms()), first);
        let second = scene.at(NOON + 5 * MINUTE + 1, &terms());
        assert!(second.serial > first.serial);
        assert_eq!(second.expires_unix_ms, NOON + 15 * MINUTE + 1);
        let silver = TicketTerms { scope: "silver".into(), ..terms() };
        let third = scene.at(NOON + 5 * MINUTE + 2, &silver);
        assert!(third.scope == "silver" && third.serial > second.serial);
    }

    #[test]
    fn none_outlives_its_terms_and_the_last_one_is_signed_once() {
        let mut scene = Scene::new();
        let terms = TicketTerms { valid_until: Timestamp(NOON + 2 * MINUTE), ..terms() };
        let last = scene.at(NOON, &terms);
        assert_eq!(last.expires_unix_ms, NOON + 2 * MINUTE);
        assert_eq!(scene.at(NOON + MINUTE, &terms), last);
        let over = NOON + 2 * MINUTE;
        assert!(scene.tickets.current(scene.keys.ticket(), Some(&terms), over).is_empty());
    }

    #[test]
    fn without_terms_there_is_none_and_the_next_one_is_new() {
        let mut scene = Scene::new();
        let first = scene.at(NOON, &terms());
        assert!(scene.tickets.current(scene.keys.ticket(), None, NOON).is_empty());
        assert!(scene.at(NOON, &terms()).serial > first.serial, "the first may not come back");
        let second = scene.at(NOON, &terms());
        scene.tickets.forget();
        assert!(scene.at(NOON, &terms()).serial > second.serial);
    }

    #[test]
    fn a_clock_that_was_set_back_makes_a_new_one() {
        let mut scene = Scene::new();
        let first = scene.at(NOON, &terms());
        let second = scene.at(NOON - MINUTE, &terms());
        assert!(second.serial > first.serial);
        assert_eq!(second.not_before_unix_ms, NOON - MINUTE);
    }
}
