//! Whether this media node holds a ticket: the operator's signed permission, for this pod on this
//! Kubernetes node, to carry rooms of a scope.
//!
//! Decides which ticket is good here and until when; closes no room. Time is an argument, on two
//! clocks. Invariants: a ticket that does not fit changes nothing; an older one never replaces a
//! newer and never comes back; no clock that is set back prolongs one, since it ends on whichever
//! clock says so first, and never later than [`LIFE_MAX`] after it came.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use media_api::ticket::{self, PublicKey, TicketError};
use media_api::v1::Ticket;

/// Longest life of a ticket: so long after the operator's last word new rooms are let in.
pub const LIFE_MAX: Duration = Duration::from_secs(600);
/// How far the operator's clock may be ahead of ours, in milliseconds.
const AHEAD_MAX_MS: u64 = 30_000;

/// Who holds tickets here, and whose signature counts.
#[derive(Debug, Clone, Default)]
pub struct Bearer {
    pub tenant: String,
    pub media_node: String,
    pub pod_uid: String,
    pub kubernetes_node: String,
    /// Scopes that the pod was made for.
    pub scopes: Vec<String>,
    /// Keys of the operator; none: no ticket is good.
    pub keys: Vec<PublicKey>,
}

/// Why a ticket is not good here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TicketRefusal {
    #[error(transparent)]
    NotGenuine(#[from] TicketError),
    #[error("the ticket is for {field} `{theirs}`, and this media node has `{ours}`")]
    Another { field: &'static str, theirs: String, ours: String },
    #[error("the ticket begins in {ahead_ms} ms by this media node's clock: compare the clocks")]
    NotYet { ahead_ms: u64 },
    #[error("the ticket expired {ago_ms} ms ago by this media node's clock: renew it")]
    Expired { ago_ms: u64 },
    #[error("the ticket is good for {life_ms} ms; at most ten minutes are accepted")]
    Lifetime { life_ms: u64 },
    #[error("a newer ticket was here")]
    Older,
}

/// What [`TicketRefusal::reason`] may say.
const REASONS: [&str; 12] = [
    "malformed",
    "unknown_key",
    "signature",
    "tenant",
    "media_node",
    "pod_uid",
    "kubernetes_node",
    "scope",
    "not_yet",
    "expired",
    "lifetime",
    "older",
];

impl TicketRefusal {
    /// The reason in one word, for a metric.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NotGenuine(TicketError::TooLong(_) | TicketError::Malformed) => "malformed",
            Self::NotGenuine(TicketError::UnknownKey) => "unknown_key",
            Self::NotGenuine(TicketError::Signature) => "signature",
            Self::Another { field, .. } => field,
            Self::NotYet { .. } => "not_yet",
            Self::Expired { .. } => "expired",
            Self::Lifetime { .. } => "lifetime",
            Self::Older => "older",
        }
    }
}

/// The ticket that is held, as it came.
struct Held {
    bytes: Vec<u8>,
    expires_unix_ms: u64,
    /// Its end on the clock that nobody sets.
    until: Instant,
}

/// Takes tickets and knows whether one holds.
pub struct Tickets {
    bearer: Bearer,
    held: Option<Held>,
    /// Epoch and serial of the newest ticket that was ever held.
    newest: (u64, u64),
    /// The latest moment that a grant has quoted.
    quoted: Option<Instant>,
    refused: BTreeMap<&'static str, u64>,
    told: BTreeSet<&'static str>,
}

impl Tickets {
    /// Holds none.
    pub fn new(bearer: Bearer) -> Self {
        Self {
            bearer,
            held: None,
            newest: (0, 0),
            quoted: None,
            refused: REASONS.map(|reason| (reason, 0)).into(),
            told: BTreeSet::new(),
        }
    }

    /// Takes what a grant says that is to be held from now on; no bytes are no ticket. `quoted` is
    /// when the report was written that the grant quotes: one that was overtaken says nothing.
    ///
    /// # Errors
    /// When the ticket is not good here; then the one that is held stays.
    pub fn take(
        &mut self,
        now: Instant,
        unix_ms: u64,
        quoted: Instant,
        bytes: &[u8],
    ) -> Result<(), TicketRefusal> {
        if self.quoted.is_some_and(|latest| quoted < latest) {
            return Ok(());
        }
        self.quoted = Some(quoted);
        if bytes.is_empty() {
            self.held = None;
            return Ok(());
        }
        let taken = self.hold(now, unix_ms, bytes);
        match &taken {
            Ok(()) => self.told.clear(),
            Err(refusal) => *self.refused.entry(refusal.reason()).or_default() += 1,
        }
        taken
    }

    fn hold(&mut self, now: Instant, unix_ms: u64, bytes: &[u8]) -> Result<(), TicketRefusal> {
        if let Some(held) = self.held.as_ref().filter(|held| held.bytes == bytes) {
            let ago_ms = unix_ms.saturating_sub(held.expires_unix_ms);
            let over = held.remaining(now, unix_ms).is_zero();
            return if over { Err(TicketRefusal::Expired { ago_ms }) } else { Ok(()) };
        }
        let ticket = ticket::open(bytes, &self.bearer.keys)?;
        self.bearer.fits(&ticket)?;
        let left = left(&ticket, unix_ms)?;
        let age = (ticket.issued_epoch, ticket.serial);
        if age <= self.newest {
            return Err(TicketRefusal::Older);
        }
        self.newest = age;
        self.held = Some(Held {
            bytes: bytes.to_vec(),
            expires_unix_ms: ticket.expires_unix_ms,
            until: now + left.min(LIFE_MAX),
        });
        Ok(())
    }

    /// How long a ticket still holds; zero without one.
    pub fn remaining(&self, now: Instant, unix_ms: u64) -> Duration {
        self.held.as_ref().map_or(Duration::ZERO, |held| held.remaining(now, unix_ms))
    }

    /// When the ticket that holds expires, in milliseconds since 1970; zero when none holds.
    pub fn expiry_unix_ms(&self, now: Instant, unix_ms: u64) -> u64 {
        let held = self.held.as_ref().filter(|held| !held.remaining(now, unix_ms).is_zero());
        held.map_or(0, |held| held.expires_unix_ms)
    }

    /// Tickets that were refused, by reason.
    pub fn refused(&self) -> &BTreeMap<&'static str, u64> {
        &self.refused
    }

    /// Whether nobody was told of this yet, since a ticket was taken last.
    pub fn is_news(&mut self, refusal: &TicketRefusal) -> bool {
        self.told.insert(refusal.reason())
    }
}

impl Held {
    fn remaining(&self, now: Instant, unix_ms: u64) -> Duration {
        let by_wall = Duration::from_millis(self.expires_unix_ms.saturating_sub(unix_ms));
        by_wall.min(self.until.saturating_duration_since(now))
    }
}

impl Bearer {
    fn fits(&self, ticket: &Ticket) -> Result<(), TicketRefusal> {
        for (field, theirs, ours) in [
            ("tenant", &ticket.tenant, &self.tenant),
            ("media_node", &ticket.media_node, &self.media_node),
            ("pod_uid", &ticket.pod_uid, &self.pod_uid),
            ("kubernetes_node", &ticket.kubernetes_node, &self.kubernetes_node),
        ] {
            if theirs != ours {
                let (theirs, ours) = (theirs.clone(), ours.clone());
                return Err(TicketRefusal::Another { field, theirs, ours });
            }
        }
        if !self.scopes.contains(&ticket.scope) {
            let (theirs, ours) = (ticket.scope.clone(), self.scopes.join(","));
            return Err(TicketRefusal::Another { field: "scope", theirs, ours });
        }
        Ok(())
    }
}

/// How long a ticket has to live by the wall clock, if it lives now.
fn left(ticket: &Ticket, unix_ms: u64) -> Result<Duration, TicketRefusal> {
    let life_ms = ticket.expires_unix_ms.saturating_sub(ticket.not_before_unix_ms);
    if Duration::from_millis(life_ms) > LIFE_MAX {
        return Err(TicketRefusal::Lifetime { life_ms });
    }
    let ahead_ms = ticket.not_before_unix_ms.saturating_sub(unix_ms);
    if ahead_ms > AHEAD_MAX_MS {
        return Err(TicketRefusal::NotYet { ahead_ms });
    }
    match ticket.expires_unix_ms.checked_sub(unix_ms) {
        None | Some(0) => Err(TicketRefusal::Expired { ago_ms: unix_ms - ticket.expires_unix_ms }),
        Some(left_ms) => Ok(Duration::from_millis(left_ms)),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use aws_lc_rs::rand::SystemRandom;
    use aws_lc_rs::signature::Ed25519KeyPair;
    use media_api::ticket::Signer;
    use proptest::prelude::*;

    use super::*;

    /// Noon, on the operator's clock.
    pub(crate) const NOON: u64 = 1_795_424_400_000;
    const MINUTE: u64 = 60_000;
    const TWO_HOURS: u64 = 120 * MINUTE;

    fn signer() -> Signer {
        let key = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        Signer::from_pkcs8(key.as_ref()).unwrap()
    }

    fn bearer(signer: &Signer) -> Bearer {
        Bearer {
            tenant: "ns/mc".into(),
            media_node: "mc-1".into(),
            pod_uid: "uid-1".into(),
            kubernetes_node: "paris-1".into(),
            scopes: vec!["gold".into(), "silver".into()],
            keys: vec![signer.public_key()],
        }
    }

    /// Good for ten minutes from `begins` on.
    fn ticket(begins: u64, serial: u64) -> Ticket {
        Ticket {
            tenant: "ns/mc".into(),
            media_node: "mc-1".into(),
            pod_uid: "uid-1".into(),
            kubernetes_node: "paris-1".into(),
            scope: "gold".into(),
            evidence_level: "E0".into(),
            not_before_unix_ms: begins,
            expires_unix_ms: begins + 10 * MINUTE,
            issued_epoch: 7,
            serial,
        }
    }

    /// Tickets whose first one came at noon, for rooms that are to be admitted.
    pub(crate) fn held(now: Instant) -> Tickets {
        let signer = signer();
        let mut tickets = Tickets::new(bearer(&signer));
        tickets.take(now, NOON, now, &signer.sign(&ticket(NOON, 1))).unwrap();
        tickets
    }

    struct Scene {
        signer: Signer,
        tickets: Tickets,
        start: Instant,
    }

    impl Scene {
        fn new() -> Self {
            let signer = signer();
            let tickets = Tickets::new(bearer(&signer));
            Self { signer, tickets, start: Instant::now() }
        }

        /// Takes a ticket `after_ms` from the start, while the wall clock shows `unix_ms`.
        fn take(
            &mut self,
            after_ms: u64,
            unix_ms: u64,
            ticket: &Ticket,
        ) -> Result<(), &'static str> {
            let now = self.start + Duration::from_millis(after_ms);
            let taken = self.tickets.take(now, unix_ms, now, &self.signer.sign(ticket));
            taken.map_err(|refusal| refusal.reason())
        }

        fn minutes_left(&self, after_ms: u64, unix_ms: u64) -> u64 {
            let now = self.start + Duration::from_millis(after_ms);
            self.tickets.remaining(now, unix_ms).as_secs() / 60
        }
    }

    #[test]
    fn a_ticket_holds_for_ten_minutes_and_no_longer() {
        let mut scene = Scene::new();
        assert_eq!(scene.minutes_left(0, NOON), 0, "none at first");
        scene.take(0, NOON, &ticket(NOON, 1)).unwrap();
        assert_eq!(scene.minutes_left(0, NOON), 10);
        assert_eq!(scene.tickets.expiry_unix_ms(scene.start, NOON), NOON + 10 * MINUTE);
        assert_eq!(scene.minutes_left(9 * MINUTE, NOON + 9 * MINUTE), 1);
        let (over, unix_ms) = (10 * MINUTE, NOON + 10 * MINUTE);
        assert_eq!(scene.minutes_left(over, unix_ms), 0);
        let at = scene.start + Duration::from_millis(over);
        assert_eq!(scene.tickets.expiry_unix_ms(at, unix_ms), 0);
        assert_eq!(scene.take(over, unix_ms, &ticket(NOON, 1)), Err("expired"), "sent again");
    }

    #[test]
    fn a_ticket_for_anybody_else_is_refused_and_says_what_does_not_fit() {
        let mut scene = Scene::new();
        scene.take(0, NOON, &ticket(NOON, 1)).unwrap();
        for (field, change) in [
            ("tenant", (|t| t.tenant = "ns/other".into()) as fn(&mut Ticket)),
            ("media_node", |t| t.media_node = "mc-2".into()),
            ("pod_uid", |t| t.pod_uid = "uid-2".into()),
            ("kubernetes_node", |t| t.kubernetes_node = "abroad-1".into()),
            ("scope", |t| t.scope = "bronze".into()),
            ("lifetime", |t| t.expires_unix_ms += 1),
            ("not_yet", |t| {
                t.not_before_unix_ms += AHEAD_MAX_MS + 1;
                t.expires_unix_ms += AHEAD_MAX_MS + 1;
            }),
            ("expired", |t| t.expires_unix_ms = t.not_before_unix_ms),
            ("older", |t| t.serial = 0),
            ("older", |t| {
                t.serial = 1;
                t.scope = "silver".into();
            }),
            ("older", |t| t.issued_epoch = 6),
        ] {
            let mut other = ticket(NOON, 2);
            change(&mut other);
            assert_eq!(scene.take(0, NOON, &other), Err(field));
            assert_eq!(scene.minutes_left(0, NOON), 10, "the one that is held stays: {field}");
        }
        assert_eq!(scene.tickets.refused().get("older"), Some(&3));
        let stranger = signer().sign(&ticket(NOON, 2));
        let refused = scene.tickets.take(scene.start, NOON, scene.start, &stranger);
        assert_eq!(refused.unwrap_err().reason(), "unknown_key");
        let refused = scene.tickets.take(scene.start, NOON, scene.start, b"no ticket");
        assert_eq!(refused.unwrap_err().reason(), "malformed");
        assert_eq!(scene.tickets.refused().len(), REASONS.len(), "no reason but those is told");
        let mut silver = ticket(NOON, 2);
        silver.scope = "silver".into();
        scene.take(0, NOON, &silver).unwrap();
    }

    #[test]
    fn without_keys_no_ticket_is_good() {
        let mut scene = Scene::new();
        scene.tickets = Tickets::new(Bearer::default());
        assert_eq!(scene.take(0, NOON, &ticket(NOON, 1)), Err("unknown_key"));
    }

    #[test]
    fn a_clock_two_hours_off_takes_no_ticket_in_either_direction() {
        let mut scene = Scene::new();
        assert_eq!(scene.take(0, NOON + TWO_HOURS, &ticket(NOON, 1)), Err("expired"));
        assert_eq!(scene.take(0, NOON - TWO_HOURS, &ticket(NOON, 1)), Err("not_yet"));
        scene.take(0, NOON - AHEAD_MAX_MS, &ticket(NOON, 1)).unwrap();
    }

    #[test]
    fn a_clock_set_back_or_forward_prolongs_nothing() {
        let mut scene = Scene::new();
        let first = ticket(NOON, 1);
        scene.take(0, NOON, &first).unwrap();
        scene.take(MINUTE, NOON - TWO_HOURS, &first).unwrap();
        assert_eq!(scene.minutes_left(4 * MINUTE, NOON - TWO_HOURS), 6);
        assert_eq!(scene.minutes_left(10 * MINUTE, NOON - TWO_HOURS), 0);
        assert_eq!(scene.take(10 * MINUTE, NOON - TWO_HOURS, &first), Err("expired"));
        assert_eq!(scene.minutes_left(0, NOON + TWO_HOURS), 0, "fails closed");
    }

    #[test]
    fn a_withdrawal_holds_at_once_and_only_a_newer_ticket_ends_it() {
        let mut scene = Scene::new();
        scene.take(0, NOON, &ticket(NOON, 1)).unwrap();
        let later = scene.start + Duration::from_secs(1);
        scene.tickets.take(later, NOON, later, &[]).unwrap();
        assert_eq!(scene.minutes_left(1_000, NOON), 0);
        assert_eq!(scene.take(2_000, NOON, &ticket(NOON, 1)), Err("older"), "not by a replay");
        scene.take(2_000, NOON, &ticket(NOON, 2)).unwrap();
        assert_eq!(scene.minutes_left(2_000, NOON), 10);
    }

    #[test]
    fn a_grant_that_was_overtaken_says_nothing_of_tickets() {
        let mut scene = Scene::new();
        scene.take(2_000, NOON, &ticket(NOON, 2)).unwrap();
        let now = scene.start + Duration::from_secs(3);
        scene.tickets.take(now, NOON, scene.start, &[]).unwrap();
        let older = scene.signer.sign(&ticket(NOON, 1));
        scene.tickets.take(now, NOON, scene.start, &older).unwrap();
        assert_eq!(scene.minutes_left(3_000, NOON), 9);
    }

    #[test]
    fn each_reason_is_told_once_until_a_ticket_is_taken() {
        let mut scene = Scene::new();
        let refusal = TicketRefusal::Older;
        assert!(scene.tickets.is_news(&refusal));
        assert!(!scene.tickets.is_news(&refusal));
        assert!(scene.tickets.is_news(&TicketRefusal::Expired { ago_ms: 1 }));
        scene.take(0, NOON, &ticket(NOON, 1)).unwrap();
        assert!(scene.tickets.is_news(&refusal));
    }

    proptest! {
        #[test]
        fn whatever_the_wall_clock_shows_no_ticket_outlives_ten_minutes_after_it_came(
            steps in prop::collection::vec((0_u64..400_000, -9_000_000_i64..9_000_000), 1..20),
        ) {
            let mut scene = Scene::new();
            let (first, mut after_ms) = (ticket(NOON, 1), 0);
            scene.take(0, NOON, &first).unwrap();
            for (pause_ms, set_ms) in steps {
                after_ms += pause_ms;
                let shown = NOON.saturating_add_signed(set_ms);
                let _ = scene.take(after_ms, shown, &first);
                let now = scene.start + Duration::from_millis(after_ms);
                let left = scene.tickets.remaining(now, shown);
                prop_assert!(left <= LIFE_MAX.saturating_sub(now - scene.start));
            }
        }
    }
}
