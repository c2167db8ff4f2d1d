//! How training images vary.

use serde::{Deserialize, Serialize};

use crate::DataError;

/// How training images vary. What a sample looks like is a function of the seed, the epoch and the
/// image.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AugmentConfig {
    /// Probability of mirroring left to right, in `[0, 1]`. Default: 0.5.
    pub horizontal_flip: f32,
    /// Probability of mirroring top to bottom, in `[0, 1]`. Default: 0.
    pub vertical_flip: f32,
    /// A box of which a crop leaves less than this share of its area is neither an object nor
    /// background: its rest is a region to ignore, as a crowd is, which takes a matcher that ignores
    /// crowds. In `[0, 1]`; with 0 all that is left of a box is an object. Default: 0.25.
    pub min_kept_area: f32,
    /// Shows a part of the image.
    pub crop: CropConfig,
    /// Resizes within wide limits, and crops to a fixed size.
    pub jitter: JitterConfig,
    /// Varies the colours.
    pub photometric: PhotometricConfig,
    /// Shows four images beside one another.
    pub mosaic: MosaicConfig,
    /// Lays two images over one another.
    pub mixup: MixupConfig,
}

impl Default for AugmentConfig {
    fn default() -> Self {
        Self {
            horizontal_flip: 0.5,
            vertical_flip: 0.0,
            min_kept_area: 0.25,
            crop: CropConfig::default(),
            jitter: JitterConfig::default(),
            photometric: PhotometricConfig::default(),
            mosaic: MosaicConfig::default(),
            mixup: MixupConfig::default(),
        }
    }
}

/// Shows a part of the image, before it is resized. Of an image with objects the part has at least
/// one that counts, unless ten tries find none; then all is shown.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CropConfig {
    /// How often, in `[0, 1]`. Default: 0.
    pub probability: f32,
    /// The least width and height of the part, each as a share of the image's, in `(0, 1]`; they are
    /// drawn independently. Default: 0.3.
    pub min_side: f32,
}

impl Default for CropConfig {
    fn default() -> Self {
        Self {
            probability: 0.0,
            min_side: 0.3,
        }
    }
}

/// Large-scale jitter (Ghiasi et al. 2021), in place of the usual resizing: the image is resized to
/// fit into `size` times a factor, and then cropped, or padded at the right and below, to `size`.
/// As detectron2's `ResizeScale` and `FixedSizeCrop`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct JitterConfig {
    /// How often, in `[0, 1]`. Default: 0.
    pub probability: f32,
    /// Width and height in pixels, each in `[1, 65535]`. Default: `[1024, 1024]`.
    pub size: [u32; 2],
    /// The least factor, above 0. Default: 0.1.
    pub min_scale: f32,
    /// The largest factor, at least `min_scale` and at most 100. Default: 2.
    pub max_scale: f32,
}

impl Default for JitterConfig {
    fn default() -> Self {
        Self {
            probability: 0.0,
            size: [1024, 1024],
            min_scale: 0.1,
            max_scale: 2.0,
        }
    }
}

/// Varies the colours: brightness, contrast and saturation as torchvision's functions, in this order
/// and cut once at the end; hues turn about the grey axis.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PhotometricConfig {
    /// How often, in `[0, 1]`. Default: 0.
    pub probability: f32,
    /// The factor on all values is within this of 1, in `[0, 1]`. Default: 0.2.
    pub brightness: f32,
    /// The factor on the distance from the image's mean grey is within this of 1, in `[0, 1]`.
    /// Default: 0.2.
    pub contrast: f32,
    /// The factor on the distance from the pixel's grey is within this of 1, in `[0, 1]`.
    /// Default: 0.2.
    pub saturation: f32,
    /// Colours turn by up to this share of the full circle either way, in `[0, 0.5]`. Default: 0.02.
    pub hue: f32,
}

impl Default for PhotometricConfig {
    fn default() -> Self {
        Self {
            probability: 0.0,
            brightness: 0.2,
            contrast: 0.2,
            saturation: 0.2,
            hue: 0.02,
        }
    }
}

/// Shows four images around a drawn point (Bochkovskiy et al. 2020), on as many pixels as one has.
/// Each fills its corner with a part of itself, at a scale between the usual one and the least
/// that fills the corner. Where this is drawn, `crop` and `jitter` are not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MosaicConfig {
    /// How often, in `[0, 1]`. Default: 0.
    pub probability: f32,
}

/// Lays a second image over the first (Zhang et al. 2019): a weighted sum of the pixels, with the
/// objects of both.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MixupConfig {
    /// How often, in `[0, 1]`. Default: 0.
    pub probability: f32,
    /// The first image's weight is drawn from Beta(α, α); above 0 and at most 100. Default: 1.5.
    pub alpha: f32,
}

impl Default for MixupConfig {
    fn default() -> Self {
        Self {
            probability: 0.0,
            alpha: 1.5,
        }
    }
}

impl AugmentConfig {
    /// Checks that each number is in its range.
    pub(crate) fn check(&self) -> Result<(), DataError> {
        let flips = [
            share("data.augment.horizontal_flip", self.horizontal_flip),
            share("data.augment.vertical_flip", self.vertical_flip),
            share("data.augment.min_kept_area", self.min_kept_area),
            share("data.augment.mosaic.probability", self.mosaic.probability),
        ];
        let numbers = (flips.into_iter())
            .chain(self.crop.numbers())
            .chain(self.jitter.numbers())
            .chain(self.photometric.numbers())
            .chain(self.mixup.numbers());
        for Number {
            key,
            value,
            holds,
            expected,
        } in numbers
        {
            if !holds {
                return Err(DataError::Setting {
                    key,
                    expected,
                    found: value.to_string(),
                });
            }
        }
        let size = self.jitter.size;
        if size.iter().any(|side| !(1..=65_535).contains(side)) {
            return Err(DataError::Setting {
                key: "data.augment.jitter.size",
                expected: "a width and a height, each in [1, 65535]",
                found: format!("{size:?}"),
            });
        }
        Ok(())
    }

    /// Whether boxes may be cut.
    pub fn cuts(&self) -> bool {
        self.crop.probability > 0.0
            || self.jitter.probability > 0.0
            || self.mosaic.probability > 0.0
    }
}

/// A setting and whether it is in its range.
struct Number {
    key: &'static str,
    value: f32,
    holds: bool,
    expected: &'static str,
}

fn share(key: &'static str, value: f32) -> Number {
    Number {
        key,
        value,
        holds: (0.0..=1.0).contains(&value),
        expected: "a number in [0, 1]",
    }
}

impl CropConfig {
    fn numbers(self) -> [Number; 2] {
        let min_side = self.min_side;
        [
            share("data.augment.crop.probability", self.probability),
            Number {
                key: "data.augment.crop.min_side",
                value: min_side,
                holds: min_side > 0.0 && min_side <= 1.0,
                expected: "a number in (0, 1]",
            },
        ]
    }
}

impl JitterConfig {
    fn numbers(self) -> [Number; 3] {
        let (min_scale, max_scale) = (self.min_scale, self.max_scale);
        [
            share("data.augment.jitter.probability", self.probability),
            Number {
                key: "data.augment.jitter.min_scale",
                value: min_scale,
                holds: min_scale > 0.0,
                expected: "a number above 0",
            },
            Number {
                key: "data.augment.jitter.max_scale",
                value: max_scale,
                holds: (min_scale..=100.0).contains(&max_scale),
                expected: "a number of at least `min_scale` and at most 100",
            },
        ]
    }
}

impl PhotometricConfig {
    fn numbers(self) -> [Number; 5] {
        [
            share("data.augment.photometric.probability", self.probability),
            share("data.augment.photometric.brightness", self.brightness),
            share("data.augment.photometric.contrast", self.contrast),
            share("data.augment.photometric.saturation", self.saturation),
            Number {
                key: "data.augment.photometric.hue",
                value: self.hue,
                holds: (0.0..=0.5).contains(&self.hue),
                expected: "a number in [0, 0.5]",
            },
        ]
    }
}

impl MixupConfig {
    fn numbers(self) -> [Number; 2] {
        let alpha = self.alpha;
        [
            share("data.augment.mixup.probability", self.probability),
            Number {
                key: "data.augment.mixup.alpha",
                value: alpha,
                holds: alpha > 0.0 && alpha <= 100.0,
                expected: "a number above 0 and at most 100",
            },
        ]
    }
}
