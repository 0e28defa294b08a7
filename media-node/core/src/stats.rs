//! What a shard counts. Plain numbers, copied out once a second by the shell.

/// Gauges and counters of one shard since its start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ShardStats {
    pub rooms: u64,
    pub participants: u64,
    /// Published tracks.
    pub tracks: u64,
    /// Tracks × receivers that are being forwarded.
    pub downlinks: u64,
    /// Participants that publish at least one track.
    pub publishers: u64,
    pub packets_in: u64,
    pub bytes_in: u64,
    pub packets_out: u64,
    pub bytes_out: u64,
    /// RTP packets taken from publishers, and written to receivers.
    pub media_in: u64,
    pub media_out: u64,
    /// Audio packets that were lost on their way here and found in a later one.
    pub red_recovered: u64,
    /// Data messages relayed.
    pub data_out: u64,
    pub drops: Drops,
    pub rooms_panicked: u64,
    /// Connections closed because a client broke the protocol.
    pub protocol_errors: u64,
}

/// What was dropped, by reason.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Drops {
    /// Not STUN and from an address that ICE has not validated.
    pub unvalidated: u64,
    /// STUN for a user name that nobody here has.
    pub unknown_ufrag: u64,
    /// Neither STUN, DTLS, RTP nor RTCP.
    pub malformed: u64,
    /// Data messages a slow reader had no room for.
    pub data_slow_reader: u64,
    /// Data messages that were too large, malformed or not allowed.
    pub data_refused: u64,
    /// Audio packets that claimed redundancy (RED) and were not.
    pub red_malformed: u64,
    /// Packets for a receiver of whom too many wait already.
    pub downlink_full: u64,
    /// Signals of connections that are not (any more) here.
    pub signals_unknown: u64,
}
