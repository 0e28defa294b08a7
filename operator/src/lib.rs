//! Acts for the operator: elects a leader, reconciles MeetingClusters, keeps watch over the media
//! nodes and answers gateways. Every decision is made in `operator-core`; this crate reads, writes,
//! listens and measures. Invariant: only the leading replica writes or places.

pub mod admin;
pub mod admission;
pub mod api_client;
pub mod config;
pub mod events;
pub mod evidence;
pub mod fleet;
pub mod lease;
pub mod metrics;
pub mod pki;
pub mod placer;
pub mod queue;
pub mod reconcile;
pub mod replicas;
pub mod run;
pub mod telemetry;
pub mod watches;
pub mod witness;
