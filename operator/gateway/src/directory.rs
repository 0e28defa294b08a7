//! The directory: which media nodes there are and which rooms they have, as the leader streams it.
//!
//! Decides what is believed of an update. Does no I/O.
//! Invariants: an update of a lower epoch changes nothing; a media node's `gone` fires when the
//! leader says that it is gone or that it runs anew, or when the leader does not see it and it
//! cannot be reached from here either, and never because an update does not name it.
//! A new leader's first picture holds the media nodes that it has heard so far: what it has not
//! heard yet stays reachable until its second picture.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, Weak};

use placement_api::v1::{DirectoryUpdate, MediaNodeEndpoint};
use tokio_util::sync::CancellationToken;

/// Most rooms remembered: ten times what a large meeting cluster holds. What is beyond is asked of
/// the placer each time.
pub const ROOMS_MAX: usize = 200_000;
/// Most media nodes remembered.
pub const MEDIA_NODES_MAX: usize = 10_000;

/// One media node, as far as a gateway needs it.
#[derive(Debug)]
pub struct MediaNode {
    /// Name of its resource.
    pub name: String,
    /// Its signalling listener.
    pub signal_address: SocketAddr,
    /// Name to verify in its certificate.
    pub tls_server_name: String,
    /// Which start of its process.
    pub incarnation: String,
    /// Fires when it is gone: its WebSockets are to be closed.
    pub gone: CancellationToken,
}

impl MediaNode {
    /// The same, for connections that are made from now on.
    fn anew(&self) -> Self {
        Self {
            name: self.name.clone(),
            signal_address: self.signal_address,
            tls_server_name: self.tls_server_name.clone(),
            incarnation: self.incarnation.clone(),
            gone: CancellationToken::new(),
        }
    }
}

/// Why an endpoint is not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EndpointError {
    /// No ip:port.
    #[error("signal address is not ip:port")]
    Address,
    /// A certificate of another role or meeting cluster would pass for a media node's.
    #[error("server name is not that of a media node of this meeting cluster")]
    ServerName,
    /// More than [`MEDIA_NODES_MAX`].
    #[error("the directory holds {MEDIA_NODES_MAX} media nodes already")]
    TooMany,
}

/// Rooms and media nodes; shared by all requests.
pub struct Directory {
    /// `.media.<mc>.<namespace>.hemicycle.internal`.
    name_suffix: String,
    state: RwLock<State>,
}

#[derive(Default)]
struct State {
    epoch: u64,
    seen: bool,
    media_nodes: HashMap<String, Known>,
    /// Media nodes that pipes still use and that two whole updates did not name.
    unlisted: HashMap<String, Weak<MediaNode>>,
    rooms: HashMap<String, Home>,
    /// Media nodes that the placer does not see, and whether they are reached from here.
    unseen: HashMap<String, Reach>,
}

/// Whether a media node that the placer does not see is reached from here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Nobody has looked yet.
    Unknown,
    /// A connection was made.
    Reached,
    /// None could be made.
    Unreachable,
}

struct Known {
    media_node: Arc<MediaNode>,
    /// The latest whole update, or one after it, named it.
    listed: bool,
}

#[derive(Clone)]
struct Home {
    media_node: String,
    participants: u32,
}

/// What became of an update.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// It came from a leader that has been succeeded.
    pub stale: bool,
    /// Endpoints that were not believed.
    pub endpoints_refused: u32,
    /// Rooms over [`ROOMS_MAX`] or of another tenant.
    pub rooms_refused: u32,
}

impl Directory {
    /// An empty directory of the meeting cluster whose certificates' names end in `domain`.
    #[must_use]
    pub fn new(domain: &str) -> Self {
        Self { name_suffix: format!(".media.{domain}"), state: RwLock::default() }
    }

    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a whole directory was ever received.
    #[must_use]
    pub fn is_known(&self) -> bool {
        self.read().seen
    }

    /// Numbers of rooms and of media nodes.
    #[must_use]
    pub fn size(&self) -> (usize, usize) {
        let state = self.read();
        (state.rooms.len(), state.media_nodes.len())
    }

    /// The media node that has the room.
    #[must_use]
    pub fn home_of(&self, room: &str) -> Option<Arc<MediaNode>> {
        let state = self.read();
        let home = state.rooms.get(room)?;
        state.media_nodes.get(&home.media_node).map(|known| Arc::clone(&known.media_node))
    }

    /// Whether neither the placer sees a media node nor it is reached from here.
    #[must_use]
    pub fn is_unreachable(&self, media_node: &str) -> bool {
        self.read().unseen.get(media_node) == Some(&Reach::Unreachable)
    }

    /// Media nodes that the placer does not see.
    #[must_use]
    pub fn unseen(&self) -> Vec<String> {
        self.read().unseen.keys().cloned().collect()
    }

    /// Where a media node that the placer does not see would be reached, and what was found last;
    /// `None` once the placer sees it or says that it is gone.
    #[must_use]
    pub fn unseen_address(&self, media_node: &str) -> Option<(SocketAddr, Reach)> {
        let state = self.read();
        let reach = *state.unseen.get(media_node)?;
        let known = state.media_nodes.get(media_node)?;
        Some((known.media_node.signal_address, reach))
    }

    /// Notes whether a media node that the placer does not see is reached from here; when it is
    /// not, its WebSockets are closed. False: the placer sees it by now.
    pub fn note_reach(&self, media_node: &str, found: Reach) -> bool {
        let mut state = self.write();
        let Some(reach) = state.unseen.get_mut(media_node) else { return false };
        *reach = found;
        if found == Reach::Unreachable
            && let Some(known) = state.media_nodes.get_mut(media_node)
        {
            known.media_node.gone.cancel();
            // It may come back: who joins it then has connections of their own.
            known.media_node = Arc::new(known.media_node.anew());
        }
        true
    }

    /// Every media node, by name.
    #[must_use]
    pub fn media_nodes(&self) -> Vec<Arc<MediaNode>> {
        let state = self.read();
        let mut all: Vec<_> =
            state.media_nodes.values().map(|known| Arc::clone(&known.media_node)).collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    /// The rooms of a media node with their numbers of participants, by name.
    #[must_use]
    pub fn rooms_of(&self, media_node: &str) -> Vec<(String, u32)> {
        let state = self.read();
        let homes = state.rooms.iter().filter(|(_, home)| home.media_node == media_node);
        let mut rooms: Vec<_> =
            homes.map(|(room, home)| (room.clone(), home.participants)).collect();
        rooms.sort();
        rooms
    }

    /// Forgets that `media_node` has the room, unless someone else has it by now.
    pub fn forget(&self, room: &str, media_node: &str) {
        let mut state = self.write();
        if state.rooms.get(room).is_some_and(|home| home.media_node == media_node) {
            state.rooms.remove(room);
        }
    }

    /// Takes over the answer to `Route`: the next who come need not ask.
    ///
    /// # Errors
    /// When the endpoint is not believed.
    pub fn learn(
        &self,
        room: &str,
        endpoint: &MediaNodeEndpoint,
        epoch: u64,
    ) -> Result<Arc<MediaNode>, EndpointError> {
        let mut state = self.write();
        let media_node = state.take_endpoint(endpoint, &self.name_suffix)?;
        if epoch >= state.epoch && (state.rooms.len() < ROOMS_MAX || state.rooms.contains_key(room))
        {
            let fresh = || Home { media_node: String::new(), participants: 0 };
            let home = state.rooms.entry(room.to_owned()).or_insert_with(fresh);
            home.media_node.clone_from(&media_node.name);
        }
        Ok(media_node)
    }

    /// Takes over an update of the stream.
    pub fn apply(&self, update: &DirectoryUpdate, tenant: &str) -> Applied {
        let mut applied = Applied::default();
        let mut state = self.write();
        if update.epoch < state.epoch {
            applied.stale = true;
            return applied;
        }
        state.epoch = update.epoch;
        if update.whole {
            state.seen = true;
            state.expect_whole(update);
        }
        for endpoint in &update.media_nodes {
            if state.take_endpoint(endpoint, &self.name_suffix).is_err() {
                applied.endpoints_refused += 1;
            }
        }
        state.note_sight(update);
        for home in &update.rooms {
            let Some(key) = home.room.as_ref().filter(|key| key.tenant == tenant) else {
                applied.rooms_refused += 1;
                continue;
            };
            if state.rooms.len() >= ROOMS_MAX && !state.rooms.contains_key(&key.name) {
                applied.rooms_refused += 1;
                continue;
            }
            let known =
                Home { media_node: home.media_node.clone(), participants: home.participants };
            state.rooms.insert(key.name.clone(), known);
        }
        for key in update.rooms_gone.iter().filter(|key| key.tenant == tenant) {
            state.rooms.remove(&key.name);
        }
        for name in &update.media_nodes_gone {
            state.remove(name);
        }
        applied
    }
}

impl State {
    /// Makes place for a whole update: forgets the rooms of the media nodes that it names, and
    /// the media nodes that it and the one before do not name.
    fn expect_whole(&mut self, update: &DirectoryUpdate) {
        let named: HashSet<&str> =
            update.media_nodes.iter().map(|endpoint| endpoint.media_node.as_str()).collect();
        let dropped = self
            .media_nodes
            .extract_if(|name, known| {
                let kept = known.listed || named.contains(name.as_str());
                known.listed = false;
                !kept
            })
            // Pipes keep those alive that are in use; the rest ends here.
            .map(|(name, known)| (name, Arc::downgrade(&known.media_node)));
        self.unlisted.retain(|_, media_node| media_node.strong_count() > 0);
        self.unlisted.extend(dropped);
        let media_nodes = &self.media_nodes;
        self.rooms.retain(|_, home| {
            !named.contains(home.media_node.as_str()) && media_nodes.contains_key(&home.media_node)
        });
    }

    /// Who is named is seen again, unless it is named as unseen. Nobody asks for a media node that
    /// is not known here.
    fn note_sight(&mut self, update: &DirectoryUpdate) {
        for endpoint in &update.media_nodes {
            if !update.media_nodes_unseen.contains(&endpoint.media_node) {
                self.unseen.remove(&endpoint.media_node);
            }
        }
        for name in &update.media_nodes_unseen {
            if self.media_nodes.contains_key(name) {
                self.unseen.entry(name.clone()).or_insert(Reach::Unknown);
            }
        }
        let media_nodes = &self.media_nodes;
        self.unseen.retain(|name, _| media_nodes.contains_key(name));
    }

    fn take_endpoint(
        &mut self,
        endpoint: &MediaNodeEndpoint,
        name_suffix: &str,
    ) -> Result<Arc<MediaNode>, EndpointError> {
        let signal_address = endpoint.signal_address.parse().map_err(|_| EndpointError::Address)?;
        if !endpoint.tls_server_name.ends_with(name_suffix) {
            return Err(EndpointError::ServerName);
        }
        if self.media_nodes.len() >= MEDIA_NODES_MAX
            && !self.media_nodes.contains_key(&endpoint.media_node)
        {
            return Err(EndpointError::TooMany);
        }
        let unlisted = self.unlisted.remove(&endpoint.media_node);
        let known = self
            .media_nodes
            .get(&endpoint.media_node)
            .map(|known| Arc::clone(&known.media_node))
            .or_else(|| unlisted.and_then(|media_node| media_node.upgrade()));
        let mut gone = CancellationToken::new();
        if let Some(known) = known {
            if known.incarnation == endpoint.incarnation {
                if known.signal_address == signal_address
                    && known.tls_server_name == endpoint.tls_server_name
                {
                    self.list(&known);
                    return Ok(known);
                }
                gone = known.gone.clone();
            } else {
                known.gone.cancel();
            }
        }
        let media_node = Arc::new(MediaNode {
            name: endpoint.media_node.clone(),
            signal_address,
            tls_server_name: endpoint.tls_server_name.clone(),
            incarnation: endpoint.incarnation.clone(),
            gone,
        });
        self.list(&media_node);
        Ok(media_node)
    }

    fn list(&mut self, media_node: &Arc<MediaNode>) {
        let known = Known { media_node: Arc::clone(media_node), listed: true };
        self.media_nodes.insert(media_node.name.clone(), known);
    }

    fn remove(&mut self, name: &str) {
        if let Some(known) = self.media_nodes.remove(name) {
            known.media_node.gone.cancel();
        }
        if let Some(media_node) = self.unlisted.remove(name).and_then(|weak| weak.upgrade()) {
            media_node.gone.cancel();
        }
        self.unseen.remove(name);
        self.rooms.retain(|_, home| home.media_node != name);
    }
}

#[cfg(test)]
mod tests {
    use placement_api::v1::{RoomHome, RoomKey};

    use super::*;

    const TENANT: &str = "ns/mc";

    fn directory() -> Directory {
        Directory::new("mc.ns.hemicycle.internal")
    }

    fn endpoint(name: &str, incarnation: &str) -> MediaNodeEndpoint {
        MediaNodeEndpoint {
            media_node: name.to_owned(),
            signal_address: "198.18.0.1:7880".to_owned(),
            tls_server_name: format!("{name}.media.mc.ns.hemicycle.internal"),
            incarnation: incarnation.to_owned(),
        }
    }

    fn home(room: &str, media_node: &str) -> RoomHome {
        let key = RoomKey { tenant: TENANT.to_owned(), name: room.to_owned() };
        RoomHome { room: Some(key), media_node: media_node.to_owned(), participants: 2 }
    }

    fn whole(epoch: u64) -> DirectoryUpdate {
        DirectoryUpdate {
            epoch,
            whole: true,
            media_nodes: vec![endpoint("a", "1"), endpoint("b", "1")],
            rooms: vec![home("r", "a"), home("s", "b")],
            ..DirectoryUpdate::default()
        }
    }

    fn home_name(directory: &Directory, room: &str) -> Option<String> {
        directory.home_of(room).map(|media_node| media_node.name.clone())
    }

    #[test]
    fn a_media_node_that_is_gone_fires_and_takes_its_rooms_along() {
        let directory = directory();
        assert!(!directory.is_known());
        directory.apply(&whole(1), TENANT);
        let (a, b) = (directory.home_of("r").expect("a"), directory.home_of("s").expect("b"));
        let gone = DirectoryUpdate {
            epoch: 1,
            media_nodes_gone: vec!["a".to_owned()],
            ..DirectoryUpdate::default()
        };
        directory.apply(&gone, TENANT);
        assert!(a.gone.is_cancelled() && !b.gone.is_cancelled());
        assert_eq!((home_name(&directory, "r"), directory.size()), (None, (1, 1)));
    }

    #[test]
    fn losing_sight_is_not_death() {
        let directory = directory();
        directory.apply(&whole(1), TENANT);
        let a = directory.home_of("r").expect("a");
        // A new leader that has heard only b so far.
        let mut first = whole(2);
        first.media_nodes.remove(0);
        first.rooms.remove(0);
        directory.apply(&first, TENANT);
        assert_eq!(home_name(&directory, "r").as_deref(), Some("a"), "not heard is not gone");
        directory.apply(&first, TENANT);
        assert_eq!(home_name(&directory, "r"), None, "its second picture counts");
        assert!(!a.gone.is_cancelled(), "a whole update without a media node ended it");
        let gone = DirectoryUpdate {
            epoch: 2,
            media_nodes_gone: vec!["a".to_owned()],
            ..DirectoryUpdate::default()
        };
        directory.apply(&gone, TENANT);
        assert!(a.gone.is_cancelled(), "word that it is gone was not heard while it was unlisted");
    }

    #[test]
    fn a_media_node_that_nobody_reaches_fires_once_and_may_come_back() {
        let directory = directory();
        directory.apply(&whole(1), TENANT);
        let a = directory.home_of("r").expect("a");
        assert!(!directory.note_reach("a", Reach::Unreachable), "the placer sees it");
        let unseen = DirectoryUpdate {
            epoch: 1,
            media_nodes_unseen: vec!["a".to_owned(), "stranger".to_owned()],
            ..DirectoryUpdate::default()
        };
        directory.apply(&unseen, TENANT);
        assert_eq!(directory.unseen(), ["a"]);
        assert_eq!(
            directory.unseen_address("a"),
            Some((a.signal_address, Reach::Unknown)),
            "to be looked at"
        );
        assert!(directory.note_reach("a", Reach::Reached));
        assert!(
            !a.gone.is_cancelled() && !directory.is_unreachable("a"),
            "only the placer is blind"
        );
        assert!(directory.note_reach("a", Reach::Unreachable));
        assert!(a.gone.is_cancelled() && directory.is_unreachable("a"));
        let back = directory.home_of("r").expect("its rooms are still looked for there");
        assert!(!back.gone.is_cancelled());
        let seen = DirectoryUpdate {
            epoch: 1,
            media_nodes: vec![endpoint("a", "1")],
            ..DirectoryUpdate::default()
        };
        directory.apply(&seen, TENANT);
        assert!(!directory.is_unreachable("a") && directory.unseen_address("a").is_none());
        assert!(!directory.home_of("r").expect("a").gone.is_cancelled());
    }

    #[test]
    fn a_whole_update_replaces_the_rooms_of_those_it_names() {
        let directory = directory();
        directory.apply(&whole(1), TENANT);
        let mut next = whole(1);
        next.rooms = vec![home("t", "a")];
        directory.apply(&next, TENANT);
        assert_eq!((home_name(&directory, "r"), home_name(&directory, "s")), (None, None));
        assert_eq!(home_name(&directory, "t").as_deref(), Some("a"));
    }

    #[test]
    fn a_new_incarnation_ends_the_old_one_and_a_repeat_does_not() {
        let directory = directory();
        directory.apply(&whole(1), TENANT);
        let a = directory.home_of("r").expect("a");
        directory.apply(&whole(2), TENANT);
        assert!(!a.gone.is_cancelled());
        let mut anew = whole(2);
        anew.media_nodes = vec![endpoint("a", "2"), endpoint("b", "1")];
        directory.apply(&anew, TENANT);
        assert!(a.gone.is_cancelled());
        assert!(!directory.home_of("r").expect("a again").gone.is_cancelled());
    }

    #[test]
    fn lower_epochs_other_tenants_and_wrong_names_are_refused() {
        let directory = directory();
        directory.apply(&whole(5), TENANT);
        let stale = DirectoryUpdate { epoch: 4, whole: true, ..DirectoryUpdate::default() };
        assert!(directory.apply(&stale, TENANT).stale);
        assert_eq!(directory.size(), (2, 2));
        let mut foreign = home("t", "a");
        foreign.room = Some(RoomKey { tenant: "ns/other".to_owned(), name: "t".to_owned() });
        let mut gateway = endpoint("g", "1");
        gateway.tls_server_name = "gateway.mc.ns.hemicycle.internal".to_owned();
        let update = DirectoryUpdate {
            epoch: 5,
            media_nodes: vec![gateway],
            rooms: vec![foreign],
            ..DirectoryUpdate::default()
        };
        let applied = directory.apply(&update, TENANT);
        assert_eq!((applied.endpoints_refused, applied.rooms_refused), (1, 1));
    }

    #[test]
    fn an_answer_is_remembered_and_a_denial_forgotten() {
        let directory = directory();
        directory.apply(&whole(1), TENANT);
        directory.learn("new", &endpoint("b", "1"), 1).expect("believed");
        assert_eq!(home_name(&directory, "new").as_deref(), Some("b"));
        directory.forget("new", "a");
        assert!(home_name(&directory, "new").is_some(), "the denial was not about its home");
        directory.forget("new", "b");
        assert_eq!(home_name(&directory, "new"), None);
        assert_eq!(directory.rooms_of("a"), [("r".to_owned(), 2)]);
    }
}
