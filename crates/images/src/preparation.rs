use image::RgbImage;
use retinanet_boxes::BoundingBox;
use serde::{Deserialize, Serialize};

use crate::Decoding;
use crate::normalization::Normalizer;
use crate::resize::resized_size;
use crate::{ImagesError, Interpolation, Normalization, Region, SizeRounding, View};

/// Settings of the [`Preparation`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PreparationConfig {
    /// The values of 16-bit images that become black and white, the lower one first; see
    /// [`Decoding::range_16_bit`](crate::Decoding::range_16_bit). Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub range_16_bit: Option<[u16; 2]>,
    /// Length of the shorter side in pixels, in `[1, 65535]`, unless the longer one would outgrow
    /// its limit. The shape stays. Default: 800.
    pub short_side: u32,
    /// Limit of the longer side in pixels, in `[1, 65535]`. Default: 1333.
    pub long_side: u32,
    /// How pixels of the resized image are computed.
    pub interpolation: Interpolation,
    /// How the sides of the resized image become whole numbers.
    pub size_rounding: SizeRounding,
    /// How pixels become numbers.
    pub normalization: Normalization,
    /// Batches are padded to a multiple of this in width and height, in `[1, 65535]`. Default: 32.
    ///
    /// The anchors of a level with a larger stride reach over the border of such a batch by less
    /// than one cell, as in detectron2.
    pub size_divisor: u32,
    /// Where given, batches are padded to one of these widths and heights, in pixels: the one with
    /// the fewest pixels that has room. A GPU's kernels are then tuned once for each. Each side is a
    /// multiple of [`size_divisor`](Self::size_divisor). Default: none.
    pub batch_shapes: Vec<[u32; 2]>,
}

impl Default for PreparationConfig {
    fn default() -> Self {
        Self {
            range_16_bit: None,
            short_side: 800,
            long_side: 1333,
            interpolation: Interpolation::default(),
            size_rounding: SizeRounding::default(),
            normalization: Normalization::default(),
            size_divisor: 32,
            batch_shapes: Vec::new(),
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
    /// Returns [`ImagesError::Setting`] with the key of a setting that is out of its range.
    pub fn new(config: &PreparationConfig) -> Result<Self, ImagesError> {
        for (key, value) in [
            ("data.short_side", config.short_side),
            ("data.long_side", config.long_side),
            ("data.size_divisor", config.size_divisor),
        ] {
            // Far above any use, and far below what would overflow.
            if !(1..=65_535).contains(&value) {
                return Err(ImagesError::Setting {
                    key,
                    expected: "in [1, 65535]",
                    found: value.to_string(),
                });
            }
        }
        let divisor = config.size_divisor;
        let fits = |side: &u32| (1..=65_535).contains(side) && side.is_multiple_of(divisor);
        if !config.batch_shapes.as_flattened().iter().all(fits) {
            return Err(ImagesError::Setting {
                key: "data.batch_shapes",
                expected: "a list of widths and heights, each a multiple of `data.size_divisor`",
                found: format!("{:?}", config.batch_shapes),
            });
        }
        if let Some(range) = config.range_16_bit.filter(|[black, white]| black >= white) {
            return Err(ImagesError::Setting {
                key: "data.range_16_bit",
                expected: "[black, white], the lower value first",
                found: format!("{range:?}"),
            });
        }
        Ok(Self {
            normalizer: Normalizer::new(&config.normalization)?,
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
        self.resized_to(size, self.config.short_side)
    }

    /// Width and height of an image after its shorter side was resized to this length, in pixels;
    /// the limit on the longer side stays.
    pub fn resized_to(&self, size: (u32, u32), short_side: u32) -> (u32, u32) {
        let PreparationConfig {
            long_side,
            size_rounding,
            ..
        } = self.config;
        resized_size(size, short_side, long_side, size_rounding)
    }

    /// Width and height of an image after its shorter side was resized to this length; the limit on
    /// the longer side is as many times the configured one as the shorter side is.
    pub(crate) fn scaled_to(&self, size: (u32, u32), short_side: u32) -> (u32, u32) {
        let scaled = u64::from(self.config.long_side) * u64::from(short_side);
        let long_side = scaled.div_ceil(u64::from(self.config.short_side));
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
            [width, height].map(|side| side.next_multiple_of(self.config.size_divisor))
        });
        (height as usize, width as usize)
    }

    /// Checks that a batch of images of these widths and heights has room in one of
    /// [`batch_shapes`](PreparationConfig::batch_shapes), if there are any.
    ///
    /// # Errors
    ///
    /// Returns [`ImagesError::Setting`] with the size that has no room.
    pub fn check_shapes(
        &self,
        sizes: impl IntoIterator<Item = (u32, u32)>,
    ) -> Result<(), ImagesError> {
        if self.config.batch_shapes.is_empty() {
            return Ok(());
        }
        let (width, height) = largest(sizes);
        if self.batch_shape(width, height).is_some() {
            return Ok(());
        }
        Err(ImagesError::Setting {
            key: "data.batch_shapes",
            expected: "shapes of which one has room for each batch",
            found: format!(
                "{:?}; none has room for {width}×{height}, which a batch can need",
                self.config.batch_shapes
            ),
        })
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
    /// Panics where there are fewer numbers than that.
    pub fn picture(&self, planes: &[f32], size: (usize, usize)) -> RgbImage {
        self.normalizer.picture(planes, size)
    }

    /// The given shape with the fewest pixels that has room.
    fn batch_shape(&self, width: u32, height: u32) -> Option<[u32; 2]> {
        (self.config.batch_shapes.iter().copied())
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
            batch_shapes: vec![[128, 128], [128, 64], [64, 128]],
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
    fn every_bad_setting_is_named() {
        let default = PreparationConfig::default;
        let mut cases = Vec::new();
        for side in [0, 65_536] {
            let (short_side, long_side, size_divisor) = (side, side, side);
            cases.extend([
                (
                    "`data.short_side`",
                    PreparationConfig {
                        short_side,
                        ..default()
                    },
                ),
                (
                    "`data.long_side`",
                    PreparationConfig {
                        long_side,
                        ..default()
                    },
                ),
                (
                    "`data.size_divisor`",
                    PreparationConfig {
                        size_divisor,
                        ..default()
                    },
                ),
            ]);
        }
        for shape in [[0, 32], [32, 48]] {
            let mut config = default();
            config.batch_shapes = vec![[32, 64], shape];
            cases.push(("`data.batch_shapes`", config));
        }
        let mut config = default();
        config.normalization.mean[1] = f32::INFINITY;
        cases.push(("`data.normalization.mean`", config));
        let mut config = default();
        config.normalization.std[2] = 0.0;
        cases.push(("`data.normalization.std`", config));

        for (key, config) in cases {
            let error = Preparation::new(&config).expect_err(key);
            assert!(error.to_string().starts_with(key), "{error}");
        }
    }

    #[test]
    fn unknown_keys_are_errors_and_missing_keys_defaults() {
        let config: PreparationConfig =
            serde_json::from_str(r#"{"normalization": {"channels": "bgr"}}"#)
                .expect("the rest has defaults");
        assert_eq!(config.normalization.channels, ChannelOrder::Bgr);
        assert_eq!((config.short_side, config.long_side), (800, 1333));
        let unknown = serde_json::from_str::<PreparationConfig>(r#"{"short": 1}"#);
        assert!(unknown.is_err());
    }
}
