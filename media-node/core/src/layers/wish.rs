//! What a subscriber wants of a track (`UpdateTrackSettings`), as a highest layer.
//!
//! Decides by the published dimensions. Invariant: an enabled wish allows at least the lowest
//! layer; the smallest layer that fills the asked size is enough.

use super::{Layer, SPATIAL_LAYERS, TEMPORAL_TOP};

/// Width and height in pixels.
pub type Dimensions = (u32, u32);

/// The fields of `UpdateTrackSettings` that choose a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Wish {
    /// The subscriber shows nothing of it.
    pub disabled: bool,
    /// Highest spatial layer asked for; LiveKit's LOW, MEDIUM, HIGH are 0, 1, 2.
    pub quality: Option<u8>,
    /// Size at which the track is shown, in pixels; beats `quality`.
    pub dimensions: Option<Dimensions>,
    /// Frames per second that are enough; 0 means all.
    pub fps: u32,
    /// Higher goes first when the downlink is short.
    pub priority: u32,
}

/// Published frame rate that temporal layers halve.
const FPS_PUBLISHED: u32 = 30;

impl Wish {
    /// The highest layer worth sending. `published` holds the size of each spatial layer, lowest
    /// first, where it is known.
    #[must_use]
    pub fn layer_max(&self, published: &[Option<Dimensions>; SPATIAL_LAYERS]) -> Option<Layer> {
        if self.disabled {
            return None;
        }
        let top = (SPATIAL_LAYERS - 1) as u8;
        let spatial = match self.dimensions {
            Some(shown) if shown.0 > 0 && shown.1 > 0 => Self::filling(shown, published),
            _ => self.quality.unwrap_or(top).min(top),
        };
        Some(Layer::new(spatial, self.temporal_max()))
    }

    fn filling(shown: Dimensions, published: &[Option<Dimensions>; SPATIAL_LAYERS]) -> u8 {
        let fills = |(width, height): Dimensions| width >= shown.0 && height >= shown.1;
        let sizes = (0_u8..).zip(published);
        let enough = sizes.clone().find(|(_, size)| size.is_some_and(fills));
        let known = sizes.filter(|(_, size)| size.is_some()).last();
        enough.or(known).map_or((SPATIAL_LAYERS - 1) as u8, |(at, _)| at)
    }

    fn temporal_max(&self) -> u8 {
        match self.fps {
            0 => TEMPORAL_TOP,
            fps if fps <= FPS_PUBLISHED / 4 => 0,
            fps if fps <= FPS_PUBLISHED / 2 => 1,
            _ => TEMPORAL_TOP,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PUBLISHED: [Option<Dimensions>; 3] =
        [Some((320, 180)), Some((640, 360)), Some((1280, 720))];

    #[test]
    fn the_smallest_layer_that_fills_the_tile_is_enough() {
        let wish = |dimensions, quality| Wish { dimensions, quality, ..Wish::default() };
        let layer = |wish: Wish| wish.layer_max(&PUBLISHED).map(|layer| layer.spatial);
        assert_eq!(layer(wish(Some((200, 100)), Some(2))), Some(0));
        assert_eq!(layer(wish(Some((321, 180)), None)), Some(1));
        assert_eq!(layer(wish(Some((4000, 2000)), None)), Some(2));
        assert_eq!(layer(wish(None, Some(1))), Some(1));
        assert_eq!(layer(Wish::default()), Some(2));
        assert_eq!(layer(Wish { disabled: true, ..Wish::default() }), None);
        let slow = Wish { fps: 15, ..Wish::default() };
        assert_eq!(slow.layer_max(&PUBLISHED), Some(Layer::new(2, 1)));
    }
}
