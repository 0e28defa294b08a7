//! What gateways are told: the whole directory, and what changed since.
//!
//! Only rooms whose home is sure are told. Collects; decides nothing.

use std::collections::BTreeSet;

use super::directory::{Directory, RoomEntry, RoomPhase};
use crate::ids::{MediaNodeName, RoomKey};

/// A room and its home.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoomHome {
    /// Which room.
    pub room: RoomKey,
    /// Where it lives.
    pub media_node: MediaNodeName,
    /// Who is in it, as last reported.
    pub participants: u32,
}

/// What changed, or all there is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DirectoryDelta {
    /// Whether it replaces everything that was told before.
    pub whole: bool,
    /// Rooms that are new or moved.
    pub rooms: Vec<RoomHome>,
    /// Rooms that are gone.
    pub rooms_gone: Vec<RoomKey>,
    /// Media nodes that are new or changed their incarnation.
    pub media_nodes: Vec<MediaNodeName>,
    /// Media nodes that are over: their connections are to be closed at once.
    pub media_nodes_gone: Vec<MediaNodeName>,
    /// Media nodes that went out of sight. They may be well: who has connections to them is to look
    /// for itself. Named in `media_nodes` when they are back.
    pub media_nodes_unseen: Vec<MediaNodeName>,
}

impl DirectoryDelta {
    /// Whether there is nothing to tell.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        !self.whole
            && self.rooms.is_empty()
            && self.rooms_gone.is_empty()
            && self.media_nodes.is_empty()
            && self.media_nodes_gone.is_empty()
            && self.media_nodes_unseen.is_empty()
    }
}

/// Names of what changed since it was last told.
#[derive(Clone, Debug, Default)]
pub(super) struct Changes {
    pub(super) whole: bool,
    rooms: BTreeSet<RoomKey>,
    nodes: BTreeSet<MediaNodeName>,
    nodes_gone: BTreeSet<MediaNodeName>,
    nodes_unseen: BTreeSet<MediaNodeName>,
}

impl Changes {
    pub(super) fn room_changed(&mut self, room: &RoomKey) {
        self.rooms.insert(room.clone());
    }

    pub(super) fn room_gone(&mut self, room: &RoomKey) {
        self.rooms.insert(room.clone());
    }

    pub(super) fn node_changed(&mut self, name: &MediaNodeName) {
        self.nodes.insert(name.clone());
        self.nodes_gone.remove(name);
        self.nodes_unseen.remove(name);
    }

    pub(super) fn node_unseen(&mut self, name: &MediaNodeName) {
        self.nodes_unseen.insert(name.clone());
    }

    pub(super) fn node_gone(&mut self, name: &MediaNodeName) {
        self.nodes.remove(name);
        self.nodes_unseen.remove(name);
        self.nodes_gone.insert(name.clone());
    }
}

impl Directory {
    /// What changed since the last call. After a change of epoch it is the whole.
    pub fn take_changes(&mut self) -> DirectoryDelta {
        let changes = std::mem::take(&mut self.changes);
        if changes.whole {
            return self.snapshot();
        }
        let mut delta = DirectoryDelta::default();
        for room in changes.rooms {
            match self.home(&room) {
                Some(home) => delta.rooms.push(home),
                None => delta.rooms_gone.push(room),
            }
        }
        delta.media_nodes =
            changes.nodes.into_iter().filter(|name| self.nodes.contains_key(name)).collect();
        delta.media_nodes_gone = changes.nodes_gone.into_iter().collect();
        delta.media_nodes_unseen = changes.nodes_unseen.into_iter().collect();
        delta
    }

    /// Everything that a gateway needs to begin with.
    #[must_use]
    pub fn snapshot(&self) -> DirectoryDelta {
        DirectoryDelta {
            whole: true,
            rooms: self.rooms.keys().filter_map(|room| self.home(room)).collect(),
            media_nodes: self.nodes.keys().cloned().collect(),
            media_nodes_unseen: self.told_unseen(),
            ..DirectoryDelta::default()
        }
    }

    /// The home of a room, if it is sure.
    #[must_use]
    pub fn home(&self, room: &RoomKey) -> Option<RoomHome> {
        // While the placer asks once more where a room is, its last sure home still stands.
        let sure =
            |entry: &&RoomEntry| entry.phase == RoomPhase::Home || entry.incarnation.is_some();
        let entry = self.rooms.get(room).filter(sure)?;
        let (media_node, participants) = (entry.home.clone(), entry.participants);
        Some(RoomHome { room: room.clone(), media_node, participants })
    }
}
