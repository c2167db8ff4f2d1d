use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use retinanet_boxes::BoundingBox;
use serde::{Deserialize, Serialize};

use crate::DataError;
use crate::batch::place;
use crate::normalization::{Normalization, Normalizer};
use crate::resize::{Interpolation, ResizeConfig, SizeRounding, resized_size};

/// Settings of the [`Transform`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TransformConfig {
    /// How large images become.
    pub resize: ResizeConfig,
    /// How training images vary.
    pub augment: AugmentConfig,
    /// How pixels become numbers.
    pub normalization: Normalization,
    /// Batches are padded to a multiple of this in width and height, in `[1, 65535]`. Default: 32.
    ///
    /// The anchors of a level with a larger stride reach over the border of such a batch by less
    /// than one cell, as in detectron2.
    pub size_divisor: u32,
}

impl Default for TransformConfig {
    fn default() -> Self {
        Self {
            resize: ResizeConfig::default(),
            augment: AugmentConfig::default(),
            normalization: Normalization::default(),
            size_divisor: 32,
        }
    }
}

/// How training images vary.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AugmentConfig {
    /// Probability of mirroring left to right, in `[0, 1]`. Default: 0.5.
    pub horizontal_flip: f32,
}

impl Default for AugmentConfig {
    fn default() -> Self {
        Self {
            horizontal_flip: 0.5,
        }
    }
}

/// The way from a decoded image to numbers, checked.
#[derive(Clone, Debug)]
pub struct Transform {
    short_sides: Vec<u32>,
    eval_short_side: u32,
    long_side: u32,
    horizontal_flip: f32,
    size_divisor: u32,
    interpolation: Interpolation,
    size_rounding: SizeRounding,
    normalizer: Normalizer,
}

impl Transform {
    /// Checks the settings.
    ///
    /// # Errors
    ///
    /// Returns [`DataError::Setting`] with the key of a setting that is out of its range.
    pub fn new(config: &TransformConfig) -> Result<Self, DataError> {
        // Far above any use, and far below what would overflow.
        const SIDE: &str = "in [1, 65535]";
        let TransformConfig {
            resize,
            augment: AugmentConfig { horizontal_flip },
            normalization,
            size_divisor,
        } = config;
        let ResizeConfig {
            short_side,
            long_side,
            eval_short_side,
            interpolation,
            size_rounding,
        } = resize;

        let bad_short_side = || DataError::Setting {
            key: "data.short_side",
            expected: "a list of lengths of at least 1",
            found: format!("{short_side:?}"),
        };
        let largest = *short_side.iter().max().ok_or_else(bad_short_side)?;
        if short_side.contains(&0) {
            return Err(bad_short_side());
        }
        let eval_short_side = eval_short_side.unwrap_or(largest);
        for (key, value) in [
            ("data.eval_short_side", eval_short_side),
            ("data.long_side", *long_side),
            ("data.size_divisor", *size_divisor),
        ] {
            if !(1..=65_535).contains(&value) {
                return Err(DataError::Setting {
                    key,
                    expected: SIDE,
                    found: value.to_string(),
                });
            }
        }
        if !(0.0..=1.0).contains(horizontal_flip) {
            return Err(DataError::Setting {
                key: "data.augment.horizontal_flip",
                expected: "a probability in [0, 1]",
                found: horizontal_flip.to_string(),
            });
        }
        Ok(Self {
            short_sides: short_side.clone(),
            eval_short_side,
            long_side: *long_side,
            horizontal_flip: *horizontal_flip,
            size_divisor: *size_divisor,
            interpolation: *interpolation,
            size_rounding: *size_rounding,
            normalizer: Normalizer::new(normalization)?,
        })
    }

    /// Draws how a training image varies.
    pub(crate) fn draw(&self, rng: &mut ChaCha8Rng) -> View {
        let choice = rng.random_range(0..self.short_sides.len() as u32);
        View {
            short_side: self.short_sides[choice as usize],
            flipped: rng.random::<f32>() < self.horizontal_flip,
        }
    }

    /// How an image is seen outside training.
    pub(crate) fn plain(&self) -> View {
        View {
            short_side: self.eval_short_side,
            flipped: false,
        }
    }

    /// Width and height of an image after resizing.
    pub(crate) fn resized_size(&self, size: (u32, u32), view: View) -> (u32, u32) {
        resized_size(size, view.short_side, self.long_side, self.size_rounding)
    }

    pub(crate) fn interpolation(&self) -> Interpolation {
        self.interpolation
    }

    /// Width and height that an image of this width and height has outside training.
    pub fn plain_size(&self, size: (u32, u32)) -> (u32, u32) {
        self.resized_size(size, self.plain())
    }

    /// A box of an image of this width and height, where the network sees it outside training.
    pub(crate) fn place_plain(&self, bbox: BoundingBox, size: (u32, u32)) -> BoundingBox {
        place(bbox, size, self.plain_size(size), false)
    }

    pub(crate) fn normalizer(&self) -> &Normalizer {
        &self.normalizer
    }

    /// Height and width of a batch that has room for images of these widths and heights.
    pub(crate) fn padded_size(&self, sizes: impl Iterator<Item = (u32, u32)>) -> (usize, usize) {
        let (width, height) = sizes.fold((1, 1), |(width, height), (w, h)| {
            (width.max(w), height.max(h))
        });
        let pad = |side: u32| side.next_multiple_of(self.size_divisor) as usize;
        (pad(height), pad(width))
    }
}

/// How one sample is seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct View {
    pub(crate) short_side: u32,
    pub(crate) flipped: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ChannelOrder;

    #[test]
    fn batches_are_padded_to_the_divisor() {
        let transform =
            Transform::new(&TransformConfig::default()).expect("the defaults are in range");
        let sizes = [(33, 64), (20, 10)];
        assert_eq!(transform.padded_size(sizes.into_iter()), (64, 64));
        assert_eq!(transform.padded_size([(1, 65)].into_iter()), (96, 32));
    }

    #[test]
    fn every_bad_setting_is_named() {
        let default = TransformConfig::default;
        let mut cases = Vec::new();
        for short_side in [vec![], vec![640, 0]] {
            let mut config = default();
            config.resize.short_side = short_side;
            cases.push(("`data.short_side`", config));
        }
        let mut config = default();
        config.resize.long_side = 0;
        cases.push(("`data.long_side`", config));
        let mut config = default();
        config.resize.eval_short_side = Some(0);
        cases.push(("`data.eval_short_side`", config));
        let mut config = default();
        config.size_divisor = 0;
        cases.push(("`data.size_divisor`", config));
        for probability in [-0.1, 1.1, f32::NAN] {
            let mut config = default();
            config.augment.horizontal_flip = probability;
            cases.push(("`data.augment.horizontal_flip`", config));
        }
        let mut config = default();
        config.normalization.mean[1] = f32::INFINITY;
        cases.push(("`data.normalization.mean`", config));
        let mut config = default();
        config.normalization.std[2] = 0.0;
        cases.push(("`data.normalization.std`", config));

        for (key, config) in cases {
            let error = Transform::new(&config).expect_err(key);
            assert!(error.to_string().starts_with(key), "{error}");
        }
    }

    #[test]
    fn unknown_keys_are_errors_and_missing_keys_defaults() {
        let config: TransformConfig =
            serde_json::from_str(r#"{"normalization": {"channels": "bgr"}}"#)
                .expect("the rest has defaults");
        assert_eq!(config.normalization.channels, ChannelOrder::Bgr);
        assert_eq!(config.resize, ResizeConfig::default());
        let unknown = serde_json::from_str::<TransformConfig>(r#"{"resize": {"short": [1]}}"#);
        assert!(unknown.is_err());
    }

    #[test]
    fn outside_training_the_largest_side_counts_unless_one_is_set() {
        let mut config = TransformConfig::default();
        config.resize.short_side = vec![640, 800, 672];
        let largest = Transform::new(&config).expect("the settings are in range");
        assert_eq!(largest.plain().short_side, 800);
        config.resize.eval_short_side = Some(600);
        let set = Transform::new(&config).expect("the settings are in range");
        assert_eq!(set.plain().short_side, 600);
    }
}
