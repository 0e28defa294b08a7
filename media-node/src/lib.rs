//! The media node's shell: threads, sockets, signalling, control.
//!
//! Decides nothing about meetings: `media-core` does. Knows no Kubernetes. Invariant: a packet,
//! frame or request from outside may cost its own connection, never the process.

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

pub mod admin;
pub mod config;
pub mod control;
pub mod cpu;
pub mod dev;
pub mod epochs;
pub mod ice_tcp;
pub mod keys;
pub mod listen;
pub mod logging;
pub mod net;
pub mod node;
pub mod rooms;
pub mod serve;
pub mod shard;
pub mod signal;
pub mod ticket;
pub mod tls;
pub mod twirp;
