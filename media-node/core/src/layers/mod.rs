//! Layers of a simulcast track: which exist, which are wanted, which one goes to a subscriber.
//!
//! Decides by packets seen and by the subscriber's settings. It knows no budget
//! ([`crate::bandwidth`]) and rewrites nothing. Invariant: a subscriber changes its spatial layer
//! at a keyframe only, and raises its temporal layer at a sync point only.

pub mod selector;
pub mod tracker;
pub mod wish;

/// Spatial layers of LiveKit's simulcast: q, h and f.
pub const SPATIAL_LAYERS: usize = 3;
/// Temporal layers that VP8's two bits can name.
pub const TEMPORAL_LAYERS: usize = 4;
/// The highest temporal layer: nothing is filtered.
pub const TEMPORAL_TOP: u8 = 3;

/// A quality of a track. Ordered by spatial layer first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Layer {
    /// 0 is the lowest.
    pub spatial: u8,
    /// Highest temporal layer that goes along; 0 is the lowest rate.
    pub temporal: u8,
}

impl Layer {
    #[must_use]
    pub const fn new(spatial: u8, temporal: u8) -> Self {
        Self { spatial, temporal }
    }
}

/// The spatial layer of a simulcast rid (`q`, `h`, `f`, or `0`…`2`).
#[must_use]
pub fn spatial_of_rid(rid: &str) -> Option<u8> {
    match rid {
        "q" | "0" => Some(0),
        "h" | "1" => Some(1),
        "f" | "2" => Some(2),
        _ => None,
    }
}
