//! Finds the transport that a packet is for: by ICE user name, then by the pair of addresses.
//!
//! Invariant: an address is entered only after ICE has validated it, so that nothing spoofed
//! makes state, and every entry dies with its transport.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::SocketAddr;

use crate::ids::{ConnectionId, ParticipantSlot, RoomSlot, TransportRef};
use crate::io::Transport as Carrier;

/// Address pairs remembered per transport: a client with several interfaces, IPv4 and IPv6, UDP
/// and TCP, each against each of our addresses, uses a dozen; the oldest goes first.
const PATHS_PER_TRANSPORT_MAX: usize = 16;
/// ICE user names per transport: the current one and the one before a restart.
const UFRAGS_PER_TRANSPORT_MAX: usize = 2;

/// How a client reaches us.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Path {
    pub(crate) carrier: Carrier,
    pub(crate) source: SocketAddr,
    pub(crate) destination: SocketAddr,
}

#[derive(Default)]
struct Entries {
    paths: VecDeque<Path>,
    ufrags: VecDeque<String>,
}

/// The indexes of a shard.
#[derive(Default)]
pub(crate) struct Routes {
    ufrags: HashMap<String, TransportRef>,
    paths: HashMap<Path, TransportRef>,
    entries: BTreeMap<TransportRef, Entries>,
    pub(crate) connections: HashMap<ConnectionId, (RoomSlot, ParticipantSlot)>,
}

impl Routes {
    pub(crate) fn by_path(&self, path: &Path) -> Option<TransportRef> {
        self.paths.get(path).copied()
    }

    pub(crate) fn by_ufrag(&self, ufrag: &str) -> Option<TransportRef> {
        self.ufrags.get(ufrag).copied()
    }

    /// Enters the transport's current ICE user name.
    pub(crate) fn add_ufrag(&mut self, ufrag: &str, transport: TransportRef) {
        if self.ufrags.get(ufrag) == Some(&transport) {
            return;
        }
        self.ufrags.insert(ufrag.to_owned(), transport);
        let entries = self.entries.entry(transport).or_default();
        entries.ufrags.push_back(ufrag.to_owned());
        if entries.ufrags.len() > UFRAGS_PER_TRANSPORT_MAX
            && let Some(oldest) = entries.ufrags.pop_front()
        {
            self.ufrags.remove(&oldest);
        }
    }

    /// Enters a path that ICE has validated; an address now used by another client is taken over.
    pub(crate) fn add_path(&mut self, path: Path, transport: TransportRef) {
        if let Some(former) = self.paths.insert(path, transport)
            && let Some(entries) = self.entries.get_mut(&former)
        {
            entries.paths.retain(|known| *known != path);
        }
        let entries = self.entries.entry(transport).or_default();
        entries.paths.push_back(path);
        if entries.paths.len() > PATHS_PER_TRANSPORT_MAX
            && let Some(oldest) = entries.paths.pop_front()
        {
            self.paths.remove(&oldest);
        }
    }

    pub(crate) fn remove_path(&mut self, path: &Path) {
        if let Some(transport) = self.paths.remove(path)
            && let Some(entries) = self.entries.get_mut(&transport)
        {
            entries.paths.retain(|known| known != path);
        }
    }

    pub(crate) fn remove_transport(&mut self, transport: TransportRef) {
        let Some(entries) = self.entries.remove(&transport) else {
            return;
        };
        for path in entries.paths {
            self.paths.remove(&path);
        }
        for ufrag in entries.ufrags {
            self.ufrags.remove(&ufrag);
        }
    }

    /// Forgets everything of a room that can no longer say itself what it had.
    pub(crate) fn remove_room(&mut self, room: RoomSlot) -> Vec<ConnectionId> {
        let transports: Vec<_> =
            self.entries.keys().filter(|transport| transport.room == room).copied().collect();
        for transport in transports {
            self.remove_transport(transport);
        }
        let of_room = self.connections.extract_if(|_, (owner, _)| *owner == room);
        let mut gone: Vec<_> = of_room.map(|(connection, _)| connection).collect();
        gone.sort_unstable();
        gone
    }
}
