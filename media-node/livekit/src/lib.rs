//! LiveKit's protocol as far as a server needs it: tokens and grants, signalling frames, Twirp,
//! the query of `/rtc`, the keys file. Shared by media node and gateway.
//!
//! Pure: bytes and the time come in as arguments, values go out. No I/O, clock or randomness.
//! Invariant: whatever arrives, these parsers answer with a value or an error, bounded in size.

pub mod connect;
pub mod frame;
pub mod grants;
pub mod keys_file;
pub mod privacy;
pub mod token;
pub mod twirp;

/// LiveKit's message types, generated; the one source of wire types in this workspace.
pub use livekit_protocol as proto;
