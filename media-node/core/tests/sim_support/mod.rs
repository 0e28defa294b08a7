//! A simulated network in virtual time, and participants on it that speak the real protocol.
//!
//! One seed determines one run of the network. Nothing here waits for the real clock.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "each test uses its part, and a test fails by panicking"
)]

pub mod client;
pub mod hostile;
pub mod media;
pub mod network;
pub mod world;
