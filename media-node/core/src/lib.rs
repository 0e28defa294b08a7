//! Sans-IO SFU: rooms, participants, tracks, downlinks. No sockets, clock or threads.
//!
//! The shell calls [`Shard::handle`] any number of times, then drains [`Shard::poll`] to its
//! timeout. Invariant: the same inputs at the same times with the same seed give the same
//! decisions; nothing here panics on input.

#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![cfg_attr(
    test,
    allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        reason = "a test fails by panicking"
    )
)]

pub mod bandwidth;
mod client;
mod config;
mod context;
pub mod data_cache;
mod downlink;
mod dtls;
pub mod egress;
mod estimate;
pub mod forward;
pub mod ids;
pub mod io;
pub mod layers;
mod negotiation;
mod participant;
mod random;
mod room;
mod sdp;
mod shard;
pub mod speakers;
mod stats;
mod suite;
mod track;
mod transport;

pub use config::{Certificate, MediaAddress, RtxCache, SERVER_VERSION, ShardConfig, TokenMinter};
pub use shard::Shard;
pub use stats::{Drops, ShardStats};
