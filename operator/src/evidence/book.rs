//! Keeps what others than the cluster said of Kubernetes nodes, each answer with the machine that
//! it was given for.
//!
//! Weighs nothing and asks nobody. Invariant: an answer about one machine, or of one API, never
//! counts for another; what is older than it may be stays and shows its age.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, MutexGuard, PoisonError},
};

use hemicycle_crds::qualification_scope::{ProviderApi as Spec, ProviderApiKind};
use hemicycle_proof::Sha256;
use operator_core::{
    evidence::{ANSWER_FRESH_MS, DeclarationSeen, Level, MachineSeen},
    ids::{KubernetesNodeName, ScopeName, Timestamp},
};
use tokio::sync::watch;

use super::declaration;

/// Answers kept, and declarations read: ten scopes in a cluster of 5,000 Kubernetes nodes, which is
/// as large as Kubernetes goes. Beyond it nobody is asked, and declarations are read each time.
const ENTRIES_MAX: usize = 50_000;

type Key = (KubernetesNodeName, ScopeName);

/// What is known, by Kubernetes node and scope.
#[derive(Debug)]
pub struct Book {
    pages: Mutex<Pages>,
    changes: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Pages {
    machines: BTreeMap<Key, Answered>,
    declarations: BTreeMap<Key, Read>,
    apis: BTreeMap<ScopeName, Api>,
    /// When this term began; `None` while nobody asks.
    term: Option<Timestamp>,
    /// Whether the APIs of this term are known.
    looked: bool,
}

#[derive(Debug)]
struct Answered {
    /// `spec.providerID` that was asked about.
    provider_id: String,
    seen: MachineSeen,
}

#[derive(Debug)]
struct Read {
    /// Of the annotation and the keys that it was read with.
    digest: Sha256,
    seen: DeclarationSeen,
}

/// The API of one scope.
#[derive(Debug)]
struct Api {
    place: Place,
    since: Timestamp,
    sight: Sight,
}

/// Which API it is: answers of another one do not count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    kind: ProviderApiKind,
    url: String,
    region: String,
}

impl From<&Spec> for Place {
    fn from(spec: &Spec) -> Self {
        Self { kind: spec.kind, url: spec.url.clone(), region: spec.region.clone() }
    }
}

/// What is known of the machines of one scope.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sight {
    /// The first answers are still to come.
    Awaited,
    /// The API was asked and did not answer.
    Tried,
    /// All were asked about, or there are none.
    Heard,
}

impl Default for Book {
    fn default() -> Self {
        Self { pages: Mutex::default(), changes: watch::Sender::new(0) }
    }
}

impl Book {
    fn lock(&self) -> MutexGuard<'_, Pages> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn changed(&self) {
        self.changes.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// Counts changes that a plan could depend on.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// A term begins: until the APIs were asked, nothing can be said of their scopes.
    pub fn begin_term(&self, now: Timestamp) {
        let mut pages = self.lock();
        pages.term = Some(now);
        pages.looked = false;
    }

    /// Whether more may soon be known of Kubernetes nodes in one of these scopes, so that nothing
    /// should follow from what is not known. Waits for the first round of questions; and, where
    /// only such an answer would do, as long as the predecessor's answers would have counted.
    #[must_use]
    pub fn awaits<'a>(
        &self,
        scopes: impl IntoIterator<Item = &'a ScopeName>,
        minimum: Level,
        now: Timestamp,
    ) -> bool {
        let pages = self.lock();
        let Some(term) = pages.term else { return false };
        let within = |since: Timestamp| now.since_ms(since) < ANSWER_FRESH_MS;
        if !pages.looked {
            return within(term);
        }
        scopes.into_iter().filter_map(|scope| pages.apis.get(scope)).any(|api| {
            within(api.since)
                && match api.sight {
                    Sight::Awaited => true,
                    Sight::Tried => minimum == Level::E2,
                    Sight::Heard => false,
                }
        })
    }

    /// Learns which Kubernetes nodes, scopes and APIs there are, and forgets the others.
    pub fn keep(
        &self,
        nodes: &BTreeSet<KubernetesNodeName>,
        scopes: &BTreeMap<ScopeName, Option<Place>>,
        now: Timestamp,
    ) {
        let mut pages = self.lock();
        let place = |scope: &ScopeName| scopes.get(scope).and_then(Option::as_ref);
        pages.apis.retain(|scope, api| place(scope) == Some(&api.place));
        for (scope, place) in scopes {
            let Some(place) = place else { continue };
            if !pages.apis.contains_key(scope) {
                pages.machines.retain(|(_, of), _| of != scope);
                let api = Api { place: place.clone(), since: now, sight: Sight::Awaited };
                pages.apis.insert(scope.clone(), api);
            }
        }
        let known = |key: &Key| nodes.contains(&key.0) && scopes.contains_key(&key.1);
        let Pages { machines, declarations, apis, .. } = &mut *pages;
        machines.retain(|key, _| known(key) && apis.contains_key(&key.1));
        declarations.retain(|key, _| known(key));
        pages.looked = true;
    }

    /// When the API was asked about this machine last; `None` when never.
    #[must_use]
    pub fn asked(&self, key: &Key, provider_id: &str) -> Option<Timestamp> {
        let pages = self.lock();
        let of_machine = |answered: &&Answered| answered.provider_id == provider_id;
        let answered = pages.machines.get(key).filter(of_machine)?;
        let (MachineSeen::Found { asked, .. } | MachineSeen::NotThere { asked }) = answered.seen;
        Some(asked)
    }

    /// What the API said of this machine last.
    #[must_use]
    pub fn machine(&self, key: &Key, provider_id: &str) -> Option<MachineSeen> {
        let pages = self.lock();
        let of_machine = |answered: &&Answered| answered.provider_id == provider_id;
        pages.machines.get(key).filter(of_machine).map(|answered| answered.seen.clone())
    }

    /// Whether answers about further machines can be kept.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.lock().machines.len() < ENTRIES_MAX
    }

    /// Writes an answer down, unless it is that of an API that the scope has left.
    pub fn write(&self, key: Key, provider_id: String, seen: MachineSeen, place: &Place) {
        let mut pages = self.lock();
        if pages.apis.get(&key.1).is_none_or(|api| api.place != *place) {
            return;
        }
        let before = pages.machines.insert(key, Answered { provider_id, seen: seen.clone() });
        drop(pages);
        if before.is_none_or(|before| !same(&before.seen, &seen)) {
            self.changed();
        }
    }

    /// Writes down what is known of a scope's machines as a whole.
    pub fn sight(&self, scope: &ScopeName, sight: Sight) {
        let mut pages = self.lock();
        let Some(api) = pages.apis.get_mut(scope) else { return };
        // What was heard once goes by its age from then on.
        let news = api.sight != sight && api.sight != Sight::Heard;
        if news {
            api.sight = sight;
        }
        drop(pages);
        if news {
            self.changed();
        }
    }

    /// What a declaration is worth to a scope with these keys; read once for each.
    #[must_use]
    pub fn declaration(&self, key: &Key, line: &str, keys: &[String]) -> DeclarationSeen {
        // A key has no line feed.
        let digest = Sha256::of(format!("{}\n\n{line}", keys.join("\n")).as_bytes());
        if let Some(read) = self.lock().declarations.get(key).filter(|read| read.digest == digest) {
            return read.seen.clone();
        }
        let seen = declaration::read(line, keys);
        let mut pages = self.lock();
        if pages.declarations.len() < ENTRIES_MAX || pages.declarations.contains_key(key) {
            pages.declarations.insert(key.clone(), Read { digest, seen: seen.clone() });
        }
        seen
    }
}

/// Whether two answers say the same, whenever they were given.
fn same(one: &MachineSeen, other: &MachineSeen) -> bool {
    match (one, other) {
        (
            MachineSeen::Found { account, region, subregion, .. },
            MachineSeen::Found { account: a, region: r, subregion: s, .. },
        ) => (account, region, subregion) == (a, r, s),
        (MachineSeen::NotThere { .. }, MachineSeen::NotThere { .. }) => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "aws:///eu-west-2a/i-0a1b2c3d";

    fn place(url: &str) -> Place {
        Place { kind: ProviderApiKind::Outscale, url: url.into(), region: "eu-west-2".into() }
    }

    fn key() -> Key {
        ("n1".into(), "gold".into())
    }

    fn keep(book: &Book, nodes: &[&str], place: Option<Place>, now: u64) {
        let nodes = nodes.iter().map(|name| KubernetesNodeName::from(*name)).collect();
        book.keep(&nodes, &BTreeMap::from([("gold".into(), place)]), Timestamp(now));
    }

    fn heard(now: u64) -> Book {
        let book = Book::default();
        book.begin_term(Timestamp(now));
        keep(&book, &["n1"], Some(place("a")), now);
        let seen = MachineSeen::NotThere { asked: Timestamp(now) };
        book.write(key(), ID.into(), seen, &place("a"));
        book
    }

    #[test]
    fn an_answer_counts_for_its_machine_and_its_api_alone() {
        let book = heard(5);
        assert_eq!(book.asked(&key(), ID), Some(Timestamp(5)));
        assert_eq!(book.machine(&key(), "aws:///eu-west-2a/i-ffffffff"), None);
        keep(&book, &["n1"], Some(place("b")), 6);
        assert_eq!(book.machine(&key(), ID), None);
        book.write(key(), ID.into(), MachineSeen::NotThere { asked: Timestamp(7) }, &place("a"));
        assert_eq!(book.machine(&key(), ID), None, "a late answer of the API that was left");
    }

    #[test]
    fn what_is_gone_is_forgotten() {
        for (nodes, api) in [(&[][..], Some(place("a"))), (&["n1"][..], None)] {
            let book = heard(5);
            keep(&book, nodes, api, 6);
            assert_eq!(book.machine(&key(), ID), None);
        }
    }

    #[test]
    fn only_another_answer_wakes_the_leader() {
        let book = heard(5);
        let mut changes = book.changes();
        changes.mark_unchanged();
        book.write(key(), ID.into(), MachineSeen::NotThere { asked: Timestamp(9) }, &place("a"));
        assert!(!changes.has_changed().unwrap());
        assert_eq!(book.asked(&key(), ID), Some(Timestamp(9)));
        let found = MachineSeen::Found {
            account: "1".into(),
            region: "eu-west-2".into(),
            subregion: "eu-west-2a".into(),
            asked: Timestamp(10),
        };
        book.write(key(), ID.into(), found, &place("a"));
        assert!(changes.has_changed().unwrap());
    }

    #[test]
    fn nothing_follows_from_silence_before_the_first_round_is_over() {
        let book = Book::default();
        let awaits = |book: &Book, minimum, now| book.awaits([&key().1], minimum, Timestamp(now));
        assert!(!awaits(&book, Level::E2, 5), "nobody asks");
        book.begin_term(Timestamp(5));
        assert!(awaits(&book, Level::E0, 5));
        keep(&book, &["n1"], Some(place("a")), 5);
        assert!(awaits(&book, Level::E0, 6));
        book.sight(&key().1, Sight::Tried);
        assert!(!awaits(&book, Level::E1, 7));
        assert!(awaits(&book, Level::E2, 7));
        assert!(!awaits(&book, Level::E2, 5 + ANSWER_FRESH_MS), "it fails closed in the end");
        book.sight(&key().1, Sight::Heard);
        assert!(!awaits(&book, Level::E2, 8));
        book.sight(&key().1, Sight::Tried);
        assert!(!awaits(&book, Level::E2, 9), "it was heard: its age tells");
        keep(&book, &["n1"], None, 9);
        assert!(!awaits(&book, Level::E2, 9), "without an API there is nothing to wait for");
    }
}
