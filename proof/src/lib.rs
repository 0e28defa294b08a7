//! Proof of where meetings ran, and the journal of what touched it. Pure: no I/O, clock or ambient
//! randomness; keys and times are arguments.
//!
//! [`ledger`] adds up what the leader sees, [`chain`] signs and links it, [`bundle`] verifies it
//! offline and [`plain`] says in words what it proves and what it does not. [`journal`] is the
//! audit log, [`declaration`] a signed word of a scope's owner. Rooms are [`RoomHash`] everywhere:
//! no type here holds the name of a room or of a participant.
#![forbid(unsafe_code)]
#![deny(missing_docs)]

pub mod account;
pub mod bundle;
pub mod chain;
pub mod checkpoint;
pub mod contradiction;
pub mod declaration;
pub mod dsse;
pub mod finding;
#[cfg(test)]
mod fixtures;
pub mod hash;
pub mod journal;
pub mod key;
pub mod ledger;
pub mod moment;
pub mod plain;
pub mod retention;
pub mod room_hash;
mod signed;
pub mod statement;
pub mod text;

pub use hash::Sha256;
pub use key::{PublicKey, SigningKey};
pub use moment::{Day, Moment, Span};
pub use room_hash::{RoomHash, RoomHashKey};
pub use signed::DocumentError;
pub use text::Text;
