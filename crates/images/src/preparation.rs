use image::RgbImage;
use retinanet_boxes::BoundingBox;
use retinanet_settings::{SettingError, Whole};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::decoding::{Decoding, Range16Bit};
use crate::normalization::Normalizer;
use crate::resize::resized_size;
use crate::{Interpolation, Normalization, Region, SizeRounding, View};

/// The length of a side of an image, in pixels: far above any use, and far below what would overflow.
pub type Side = Whole<1, 65_535>;

/// How batches are padded.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct PaddingConfig {
    /// Batches are padded to a multiple of this in width and height, in pixels.
    ///
    /// The anchors of a level with a larger stride reach over the border of such a batch by less
    /// than one cell, as in detectron2.
    pub size_divisor: Side,
    /// Where given, batches are padded to one of these widths and heights, in pixels: the one with
    /// the fewest pixels that has room. A GPU's kernels are then tuned once for each. Each side is a
    /// multiple of `size_divisor`.
    pub batch_shapes: Vec<[Side; 2]>,
}

impl Default for PaddingConfig {
    fn default() -> Self {
        Self {
            size_divisor: Side::literal(32),
            batch_shapes: Vec::new(),
        }
    }
}

/// Settings of the [`Preparation`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PreparationConfig {
    /// The values of 16-bit images that become black and white; see [`Decoding::range_16_bit`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub range_16_bit: Option<Range16Bit>,
    /// Length of the shorter side in pixels, unless the longer one would outgrow its limit. The
    /// shape stays.
    pub short_side: Side,
    /// Limit of the longer side in pixels.
    pub long_side: Side,
    /// How pixels of the resized image are computed.
    pub interpolation: Interpolation,
    /// How the sides of the resized image become whole numbers.
    pub size_rounding: SizeRounding,
    /// How pixels become numbers.
    pub normalization: Normalization,
    /// How batches are padded.
    #[serde(flatten)]
    pub padding: PaddingConfig,
}

impl Default for PreparationConfig {
    fn default() -> Self {
        Self {
            range_16_bit: None,
            short_side: Side::literal(800),
            long_side: Side::literal(1333),
            interpolation: Interpolation::default(),
            size_rounding: SizeRounding::default(),
            normalization: Normalization::default(),
            padding: PaddingConfig::default(),
        }
    }
}

/// The way from a decoded image to numbers, checked.
#[derive(Clone, Debug)]
pub struct Preparation {
    config: PreparationConfig,
    pub(crate) normalizer: Normalizer,
}

impl Preparation {
    /// Checks the settings.
    ///
    /// # Errors
    ///
    /// Returns an error if a side of a batch shape is not a multiple of the size divisor.
    pub fn new(config: &PreparationConfig) -> Result<Self, SettingError> {
        let PaddingConfig {
            size_divisor,
            batch_shapes,
        } = &config.padding;
        let mut sides = batch_shapes.as_flattened().iter();
        if let Some(side) = sides.find(|side| !side.get().is_multiple_of(size_divisor.get())) {
            let allowed = format!("of multiples of `size_divisor`, {size_divisor}");
            return Err(SettingError::new("batch_shapes", allowed, side));
        }
        Ok(Self {
            normalizer: Normalizer::new(&config.normalization),
            config: config.clone(),
        })
    }

    /// How files become images of at most so many pixels.
    pub const fn decoding(&self, max_pixels: u64) -> Decoding {
        Decoding {
            max_pixels,
            range_16_bit: self.config.range_16_bit,
        }
    }

    /// The settings.
    pub const fn config(&self) -> &PreparationConfig {
        &self.config
    }

    /// Width and height that an image of this width and height is resized to, in pixels.
    pub fn resized_size(&self, size: (u32, u32)) -> (u32, u32) {
        self.resized_to(size, self.config.short_side.as_u32())
    }

    /// Width and height of an image after its shorter side was resized to this length, in pixels;
    /// the limit on the longer side stays.
    pub fn resized_to(&self, size: (u32, u32), short_side: u32) -> (u32, u32) {
        let PreparationConfig {
            long_side,
            size_rounding,
            ..
        } = self.config;
        resized_size(size, short_side, long_side.as_u32(), size_rounding)
    }

    /// Width and height of an image after its shorter side was resized to this length; the limit on
    /// the longer side is as many times the configured one as the shorter side is.
    pub(crate) fn scaled_to(&self, size: (u32, u32), short_side: u32) -> (u32, u32) {
        let scaled = self.config.long_side.get() * u64::from(short_side);
        let long_side = scaled.div_ceil(self.config.short_side.get());
        let long_side = u32::try_from(long_side).unwrap_or(u32::MAX);
        resized_size(size, short_side, long_side, self.config.size_rounding)
    }

    /// How an image of this width and height is seen: whole and as it is, resized.
    pub fn view(&self, image: usize, size: (u32, u32)) -> View {
        View::of(image, Region::whole(size), self.resized_size(size))
    }

    /// A box of an image of this width and height, where the network sees it.
    #[must_use]
    pub fn place(&self, bbox: BoundingBox, size: (u32, u32)) -> BoundingBox {
        self.view(0, size).pieces[0].place_box(bbox)
    }

    /// Height and width of a batch that has room for images of these widths and heights.
    pub fn padded_size(&self, sizes: impl IntoIterator<Item = (u32, u32)>) -> (usize, usize) {
        let (width, height) = largest(sizes);
        let [width, height] = self.batch_shape(width, height).unwrap_or_else(|| {
            [width, height]
                .map(|side| side.next_multiple_of(self.config.padding.size_divisor.as_u32()))
        });
        (height as usize, width as usize)
    }

    /// Checks that a batch of images of these widths and heights has room in one of
    /// [`batch_shapes`](PaddingConfig::batch_shapes), if there are any.
    ///
    /// # Errors
    ///
    /// Returns an error with the size that has no room.
    pub fn check_shapes(
        &self,
        sizes: impl IntoIterator<Item = (u32, u32)>,
    ) -> Result<(), SettingError> {
        if self.config.padding.batch_shapes.is_empty() {
            return Ok(());
        }
        let (width, height) = largest(sizes);
        if self.batch_shape(width, height).is_some() {
            return Ok(());
        }
        let shapes: Vec<String> = (self.config.padding.batch_shapes.iter())
            .map(|[width, height]| format!("[{width}, {height}]"))
            .collect();
        Err(SettingError::new(
            "batch_shapes",
            "shapes of which one has room for each batch",
            format!(
                "[{}]; none has room for {width}×{height}, which a batch can need",
                shapes.join(", ")
            ),
        ))
    }

    /// The pixels of a prepared image, padding included, as a viewer shows them: what the network
    /// sees, with the normalisation undone.
    ///
    /// # Shapes
    ///
    /// - `planes`: `[3, height, width]`, row by row
    ///
    /// # Panics
    ///
    /// Panics if there are fewer numbers than that.
    pub fn picture(&self, planes: &[f32], size: (usize, usize)) -> RgbImage {
        self.normalizer.picture(planes, size)
    }

    /// The given shape with the fewest pixels that has room.
    fn batch_shape(&self, width: u32, height: u32) -> Option<[u32; 2]> {
        (self.config.padding.batch_shapes.iter())
            .map(|shape| shape.map(Side::as_u32))
            .filter(|shape| shape[0] >= width && shape[1] >= height)
            .min_by_key(|shape| u64::from(shape[0]) * u64::from(shape[1]))
    }
}

/// Width and height that have room for each of these.
fn largest(sizes: impl IntoIterator<Item = (u32, u32)>) -> (u32, u32) {
    (sizes.into_iter()).fold((1, 1), |(width, height), (w, h)| {
        (width.max(w), height.max(h))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ChannelOrder;

    fn padding<const N: usize>(shapes: [[u64; 2]; N]) -> PaddingConfig {
        PaddingConfig {
            batch_shapes: shapes.map(|shape| shape.map(Side::literal)).into(),
            ..PaddingConfig::default()
        }
    }

    #[test]
    fn batches_are_padded_to_the_divisor() {
        let preparation =
            Preparation::new(&PreparationConfig::default()).expect("the defaults are in range");
        assert_eq!(preparation.padded_size([(33, 64), (20, 10)]), (64, 64));
        assert_eq!(preparation.padded_size([(1, 65)]), (96, 32));
    }

    #[test]
    fn batches_take_the_smallest_shape_with_room() {
        let config = PreparationConfig {
            padding: padding([[128, 128], [128, 64], [64, 128]]),
            ..PreparationConfig::default()
        };
        let preparation = Preparation::new(&config).expect("the settings are in range");
        for (size, expected) in [
            ((65, 30), (64, 128)),
            ((64, 64), (64, 128)),
            ((30, 65), (128, 64)),
            ((65, 65), (128, 128)),
            // A file from elsewhere may have no room in any.
            ((129, 10), (32, 160)),
        ] {
            assert_eq!(preparation.padded_size([size]), expected, "{size:?}");
        }
        assert!(preparation.check_shapes([(30, 65), (65, 30)]).is_ok());
        let error = preparation.check_shapes([(30, 65), (129, 30)]);
        let error = error.expect_err("no shape is wider than 128").to_string();
        assert!(error.contains("none has room for 129×65"), "{error}");
    }

    #[test]
    fn a_shape_must_be_of_multiples_of_the_divisor() {
        let config = PreparationConfig {
            padding: padding([[32, 64], [32, 48]]),
            ..PreparationConfig::default()
        };
        let error = Preparation::new(&config).expect_err("48 is not a multiple of 32");
        let expected = "`batch_shapes` must be of multiples of `size_divisor`, 32, got 48";
        assert_eq!(error.to_string(), expected);
    }

    #[test]
    fn missing_keys_are_defaults() {
        let config: PreparationConfig =
            serde_json::from_str(r#"{"normalization": {"channels": "bgr"}, "size_divisor": 8}"#)
                .expect("the rest has defaults");
        assert_eq!(config.normalization.channels, ChannelOrder::Bgr);
        assert_eq!(config.padding.size_divisor, 8);
        assert_eq!(config.short_side, 800);
    }
}
