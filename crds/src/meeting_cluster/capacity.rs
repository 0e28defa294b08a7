//! How many media nodes, how full, how large rooms may be, and how a media node is emptied.
//!
//! Numbers with their units and bounds; no decision.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

/// How many media nodes, and how full.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default = "Capacity::default")]
#[x_kube(
    cel,
    validation = Rule::new("self.minNodes <= self.maxNodes").message(
        "spec.capacity.minNodes must not exceed maxNodes"
    )
)]
pub struct Capacity {
    /// Media nodes that are kept when nobody meets.
    #[schemars(range(min = 1, max = 2000))]
    pub min_nodes: i32,
    /// Media nodes that are never exceeded, save for one more while they are being replaced.
    #[schemars(range(min = 1, max = 2000))]
    pub max_nodes: i32,
    /// People and programs that one media node carries. Measure it for your machines.
    #[schemars(range(min = 1, max = 100_000))]
    pub participants_per_node_max: i32,
    /// Spare capacity kept for growth, in percent of the demand.
    #[schemars(range(min = 0, max = 500))]
    pub headroom_percent: i32,
    /// How full a media node is packed before the next one is used, in percent.
    #[schemars(range(min = 10, max = 100))]
    pub target_fill_percent: i32,
}

impl Default for Capacity {
    fn default() -> Self {
        Self {
            min_nodes: 1,
            max_nodes: 3,
            participants_per_node_max: 200,
            headroom_percent: 25,
            target_fill_percent: 80,
        }
    }
}

/// When rooms end and how large they may be.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default = "Rooms::default")]
pub struct Rooms {
    /// A room that nobody has joined ends after this many seconds.
    #[schemars(range(min = 1, max = 86_400))]
    pub empty_timeout_seconds: i32,
    /// A room that everybody has left ends after this many seconds.
    #[schemars(range(min = 1, max = 86_400))]
    pub departure_timeout_seconds: i32,
    /// People and programs that one room may hold; 0 sets no limit.
    #[schemars(range(min = 0, max = 100_000))]
    pub participants_max: i32,
}

impl Default for Rooms {
    fn default() -> Self {
        Self { empty_timeout_seconds: 300, departure_timeout_seconds: 20, participants_max: 0 }
    }
}

/// How a media node is emptied.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default = "Drain::default")]
pub struct Drain {
    /// Rooms may end by themselves for this many seconds; those that are left are then sent home
    /// and meet again on another media node.
    #[schemars(range(min = 0, max = 86_400))]
    pub deadline_seconds: i32,
}

impl Default for Drain {
    fn default() -> Self {
        Self { deadline_seconds: 1_800 }
    }
}
