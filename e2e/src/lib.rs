//! What proves the product from outside: the test bed (a real Kubernetes cluster on one machine),
//! the images, headless participants, load and measurements.
//!
//! Nothing of the product imports this crate.

pub mod bed;
pub mod cache;
pub mod images;
mod process;
pub mod verify;
