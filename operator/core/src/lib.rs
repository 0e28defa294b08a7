//! Decides for the operator. Pure: no kube, tokio, clock, randomness or environment.
//!
//! `world` is what is seen, `policy` what is wanted, [`plan()`] what is decided, with a report that
//! explains it; [`conditions()`] turns that into words for the owner. `placement` is the placer's
//! state machine: it decides which media node has which room. `audit` checks, independently of
//! both, that what came out is sound.
#![forbid(unsafe_code)]
#![deny(missing_docs)]

pub mod audit;
pub mod autoscale;
pub mod capacity;
pub mod conditions;
mod door;
mod draft;
pub mod drain;
pub mod evidence;
#[cfg(test)]
mod fixtures;
pub mod fleet;
pub mod ids;
pub mod placement;
pub mod plan;
pub mod policy;
pub mod provider_id;
pub mod repair;
pub mod report;
pub mod rollout;
pub mod sovereignty;
pub mod step;
pub mod violation;
pub mod world;

pub use conditions::{Condition, ConditionKind, Reason, Status, conditions};
pub use ids::{
    Epoch, Incarnation, KubernetesNodeName, MediaNodeName, ResourceVersion, RoomKey, ScopeName,
    Timestamp, Uid, Zone,
};
pub use placement::Directory;
pub use plan::{Held, PlanReport, Stage, StageReport, WaitingOn, plan};
pub use policy::Policy;
pub use step::{Evidence, Plan, Step};
pub use world::World;
