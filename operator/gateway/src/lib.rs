//! The public door of a meeting cluster: it verifies tokens, finds the media node that has the
//! room, and pipes the WebSocket or the Twirp call there.
//!
//! Decides who may knock and where a room is looked for; never what happens in a room. It knows no
//! Kubernetes. Invariant: nothing reaches a media node without a token verified here, and the media
//! node verifies it again.

pub mod admin;
pub mod config;
pub mod cors;
pub mod directory;
pub mod door;
mod fanout;
pub mod files;
pub mod follow;
pub mod frames;
mod join;
pub mod limits;
pub mod metrics;
pub mod page;
pub mod pipe;
pub mod placer;
pub mod reply;
pub mod router;
mod rpc;
pub mod server;
pub mod sight;
pub mod tls;
pub mod upstream;
