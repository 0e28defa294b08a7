//! Ids of the core, parsed once at the border. Names redact themselves in `Debug`.

use std::fmt;

/// One meeting: tenant and room name. `Debug` shows neither.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RoomKey {
    pub tenant: String,
    pub name: String,
}

impl fmt::Debug for RoomKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RoomKey(redacted)")
    }
}

/// One WebSocket, numbered by the shell, never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId(pub u64);

/// One administrative request, numbered by the shell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(pub u64);

slotmap::new_key_type! {
    /// A room's place in its shard.
    pub(crate) struct RoomSlot;
    /// A participant's place in its room.
    pub(crate) struct ParticipantSlot;
    /// A published track's place in its room.
    pub(crate) struct TrackSlot;
}

/// Which of a participant's two transports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Side {
    /// Carries what the participant sends.
    Publisher,
    /// Carries what the participant receives.
    Subscriber,
}

/// One transport, wherever it is in the shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct TransportRef {
    pub(crate) room: RoomSlot,
    pub(crate) participant: ParticipantSlot,
    pub(crate) side: Side,
}
