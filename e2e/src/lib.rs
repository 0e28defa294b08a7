//! What proves the product from outside: the test bed (a real Kubernetes cluster on one machine),
//! the images, headless participants, load and measurements.
//!
//! Nothing of the product imports this crate.

pub mod bed;
pub mod cache;
pub mod cast;
pub mod demo;
pub mod headless;
pub mod images;
pub mod install;
pub mod load;
pub mod page;
#[cfg(feature = "placement")]
pub mod placement_load;
mod process;
#[cfg(feature = "placement")]
pub mod scale;
pub mod story;
pub mod verify;
