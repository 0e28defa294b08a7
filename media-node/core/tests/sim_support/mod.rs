//! A simulated network in virtual time, and participants on it that speak the real protocol.
//!
//! One seed determines one run of the network. Nothing here waits for the real clock.

#![allow(dead_code, reason = "each test uses its part")]

pub mod client;
pub mod media;
pub mod network;
pub mod world;
