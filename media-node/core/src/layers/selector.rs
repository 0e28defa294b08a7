//! Takes one subscriber from layer to layer of one video track.
//!
//! Decides packet by packet: forward, skip, or ignore because it belongs to another layer.
//! Invariant: the spatial layer changes at the first packet of a keyframe, the temporal layer
//! rises at a sync point, and all packets of a frame share one fate.

use super::Layer;

/// What selection looks at in a packet.
#[derive(Debug, Clone, Copy)]
pub struct PacketFacts {
    pub spatial: u8,
    /// RTP timestamp of the source, which names the frame.
    pub timestamp: u32,
    pub keyframe_start: bool,
    /// Temporal layer, when the codec tells it.
    pub temporal: Option<u8>,
    /// The frame refers to the base layer only, so this temporal layer may start here.
    pub layer_sync: bool,
}

/// What becomes of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    /// It belongs to a layer that is not forwarded.
    Ignore,
    /// It belongs to the current layer and stays here; its numbers close up.
    Skip,
    /// It goes out, as the first of its layer.
    Switch,
    /// It goes out.
    Forward,
}

/// The state of one downlink track.
#[derive(Debug, Clone, Default)]
pub struct LayerSelector {
    target: Option<Layer>,
    current: Option<Layer>,
    /// Newest frame of the current layer and whether it goes out.
    frame: Option<(u32, bool)>,
}

impl LayerSelector {
    #[must_use]
    pub fn target(&self) -> Option<Layer> {
        self.target
    }

    #[must_use]
    pub fn current(&self) -> Option<Layer> {
        self.current
    }

    /// Where to go; `None` stops at once.
    pub fn set_target(&mut self, target: Option<Layer>) {
        self.target = target;
        if target.is_none() {
            self.restart();
        }
    }

    /// The layer died: if it was the current one, the next keyframe of any layer up to the
    /// target is taken.
    pub fn layer_down(&mut self, spatial: u8) {
        if self.current.is_some_and(|current| current.spatial == spatial) {
            self.restart();
        }
    }

    /// Forgets the current layer; a keyframe has to come.
    pub fn restart(&mut self) {
        self.current = None;
        self.frame = None;
    }

    /// The spatial layer whose keyframe would bring us further.
    #[must_use]
    pub fn keyframe_wanted(&self) -> Option<u8> {
        let target = self.target?;
        let reached = self.current.is_some_and(|current| current.spatial == target.spatial);
        (!reached).then_some(target.spatial)
    }

    /// Decides about one packet.
    pub fn choose(&mut self, packet: &PacketFacts) -> Choice {
        let Some(target) = self.target else { return Choice::Ignore };
        if packet.keyframe_start && self.switches(packet.spatial, target) {
            self.current = Some(Layer::new(packet.spatial, target.temporal));
            self.frame = Some((packet.timestamp, true));
            return Choice::Switch;
        }
        match self.current {
            Some(current) if current.spatial == packet.spatial => {
                self.filter(packet, current, target)
            }
            _ => Choice::Ignore,
        }
    }

    /// A keyframe of another layer is taken when it is the target, or nearer to it than what we
    /// have without going beyond it.
    fn switches(&self, spatial: u8, target: Layer) -> bool {
        match self.current {
            None => spatial <= target.spatial,
            Some(current) if current.spatial == spatial => false,
            Some(current) if current.spatial < target.spatial => {
                spatial > current.spatial && spatial <= target.spatial
            }
            Some(current) if current.spatial > target.spatial => spatial == target.spatial,
            Some(_) => false,
        }
    }

    fn filter(&mut self, packet: &PacketFacts, current: Layer, target: Layer) -> Choice {
        let (frame, goes) = self.frame.unwrap_or((packet.timestamp.wrapping_sub(1), true));
        if frame == packet.timestamp {
            return if goes { Choice::Forward } else { Choice::Skip };
        }
        let Some(temporal) = packet.temporal else { return Choice::Forward };
        let newer = packet.timestamp.wrapping_sub(frame) < 1 << 31;
        let mut allowed = current.temporal;
        if newer {
            let starts = packet.layer_sync || packet.keyframe_start;
            if target.temporal < allowed {
                allowed = target.temporal;
            } else if starts && temporal > allowed && temporal <= target.temporal {
                allowed = temporal;
            } else if packet.keyframe_start {
                allowed = target.temporal;
            }
            self.current = Some(Layer::new(current.spatial, allowed));
        }
        let goes = temporal <= allowed;
        if newer {
            self.frame = Some((packet.timestamp, goes));
        }
        if goes { Choice::Forward } else { Choice::Skip }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(spatial: u8, timestamp: u32) -> PacketFacts {
        PacketFacts {
            spatial,
            timestamp,
            keyframe_start: false,
            temporal: Some(0),
            layer_sync: false,
        }
    }

    fn key(spatial: u8, timestamp: u32) -> PacketFacts {
        PacketFacts { keyframe_start: true, ..packet(spatial, timestamp) }
    }

    #[test]
    fn spatial_layers_change_at_keyframes_only() {
        let mut selector = LayerSelector::default();
        assert_eq!(selector.choose(&key(0, 1)), Choice::Ignore, "nothing is wanted yet");
        selector.set_target(Some(Layer::new(2, 3)));
        assert_eq!(selector.choose(&packet(0, 2)), Choice::Ignore);
        assert_eq!(selector.choose(&key(0, 3)), Choice::Switch, "better than nothing");
        assert_eq!(selector.keyframe_wanted(), Some(2));
        assert_eq!(selector.choose(&packet(2, 4)), Choice::Ignore);
        assert_eq!(selector.choose(&key(2, 5)), Choice::Switch);
        assert_eq!(selector.choose(&packet(0, 6)), Choice::Ignore);
        selector.set_target(Some(Layer::new(0, 3)));
        assert_eq!(selector.choose(&packet(2, 6)), Choice::Forward, "until the lower one starts");
        assert_eq!(selector.choose(&key(1, 7)), Choice::Ignore);
        assert_eq!(selector.choose(&key(0, 7)), Choice::Switch);
        selector.set_target(None);
        assert_eq!(selector.choose(&packet(0, 8)), Choice::Ignore);
    }

    #[test]
    fn a_dead_layer_falls_to_any_lower_one() {
        let mut selector = LayerSelector::default();
        selector.set_target(Some(Layer::new(2, 3)));
        assert_eq!(selector.choose(&key(2, 1)), Choice::Switch);
        selector.layer_down(2);
        assert_eq!(selector.choose(&key(1, 2)), Choice::Switch);
    }

    #[test]
    fn temporal_layers_fall_at_once_and_rise_at_sync_points() {
        let mut selector = LayerSelector::default();
        selector.set_target(Some(Layer::new(0, 2)));
        selector.choose(&key(0, 0));
        let top = |timestamp| PacketFacts { temporal: Some(2), ..packet(0, timestamp) };
        assert_eq!(selector.choose(&top(1)), Choice::Forward);
        selector.set_target(Some(Layer::new(0, 0)));
        assert_eq!(selector.choose(&top(1)), Choice::Forward, "the frame is finished");
        assert_eq!(selector.choose(&top(2)), Choice::Skip);
        selector.set_target(Some(Layer::new(0, 2)));
        assert_eq!(selector.choose(&top(2)), Choice::Skip, "the frame stays out");
        assert_eq!(selector.choose(&top(3)), Choice::Skip, "refers to frames we left out");
        let sync = PacketFacts { layer_sync: true, ..top(4) };
        assert_eq!(selector.choose(&sync), Choice::Forward);
        assert_eq!(selector.choose(&top(5)), Choice::Forward);
    }
}
