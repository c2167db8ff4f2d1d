//! How training images vary.

use retinanet_images::Side;
use retinanet_settings::{PositiveFactor, PositiveShare, SettingError, Share, Whole, real};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

real! {
    /// A share of the full circle of hues, either way.
    pub HueTurn: at_least 0, at_most 0.5
}

/// How training images vary. What a sample looks like is a function of the seed, the epoch and the
/// image.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AugmentConfig {
    /// Probability of mirroring left to right.
    pub horizontal_flip: Share,
    /// Probability of mirroring top to bottom.
    pub vertical_flip: Share,
    /// A box of which a crop leaves less than this share of its area is neither an object nor
    /// background: its rest is a region to ignore, as a crowd is, which takes a matcher that ignores
    /// crowds. With 0 all that is left of a box is an object.
    pub min_kept_area: Share,
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
    /// Pastes objects of other images.
    pub copy_paste: CopyPasteConfig,
}

impl Default for AugmentConfig {
    fn default() -> Self {
        Self {
            horizontal_flip: Share::literal(0.5),
            vertical_flip: Share::literal(0.0),
            min_kept_area: Share::literal(0.25),
            crop: CropConfig::default(),
            jitter: JitterConfig::default(),
            photometric: PhotometricConfig::default(),
            mosaic: MosaicConfig::default(),
            mixup: MixupConfig::default(),
            copy_paste: CopyPasteConfig::default(),
        }
    }
}

/// Shows a part of the image, before it is resized. Of an image with objects the part has at least
/// one that counts, unless ten tries find none; then all is shown.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct CropConfig {
    /// How often.
    pub probability: Share,
    /// The least width and height of the part, each as a share of the image's; they are
    /// sampled independently.
    pub min_side: PositiveShare,
}

impl Default for CropConfig {
    fn default() -> Self {
        Self {
            probability: Share::literal(0.0),
            min_side: PositiveShare::literal(0.3),
        }
    }
}

/// Large-scale jitter (Ghiasi et al. 2021), in place of the usual resizing: the image is resized to
/// fit into `size` times a factor, and then cropped, or padded at the right and below, to `size`.
/// As detectron2's `ResizeScale` and `FixedSizeCrop`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct JitterConfig {
    /// How often.
    pub probability: Share,
    /// Width and height in pixels.
    pub size: [Side; 2],
    /// The least factor.
    pub min_scale: PositiveFactor,
    /// The largest factor, at least `min_scale`.
    pub max_scale: PositiveFactor,
}

impl Default for JitterConfig {
    fn default() -> Self {
        Self {
            probability: Share::literal(0.0),
            size: [Side::literal(1024); 2],
            min_scale: PositiveFactor::literal(0.1),
            max_scale: PositiveFactor::literal(2.0),
        }
    }
}

/// Varies the colours: brightness, contrast and saturation as torchvision's functions, in this order
/// and cut once at the end; hues turn about the grey axis.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PhotometricConfig {
    /// How often.
    pub probability: Share,
    /// The factor on all values is within this of 1.
    pub brightness: Share,
    /// The factor on the distance from the image's mean grey is within this of 1.
    pub contrast: Share,
    /// The factor on the distance from the pixel's grey is within this of 1.
    pub saturation: Share,
    /// Colours turn by up to this share of the full circle either way.
    pub hue: HueTurn,
}

impl Default for PhotometricConfig {
    fn default() -> Self {
        Self {
            probability: Share::literal(0.0),
            brightness: Share::literal(0.2),
            contrast: Share::literal(0.2),
            saturation: Share::literal(0.2),
            hue: HueTurn::literal(0.02),
        }
    }
}

/// Shows four images around a random point (Bochkovskiy et al. 2020), on as many pixels as one has.
/// Each fills its corner with a part of itself, at a scale between the usual one and the least
/// that fills the corner. Where this is chosen, `crop` and `jitter` are not.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct MosaicConfig {
    /// How often.
    pub probability: Share,
}

impl Default for MosaicConfig {
    fn default() -> Self {
        Self {
            probability: Share::literal(0.0),
        }
    }
}

/// Lays a second image over the first (Zhang et al. 2019): a weighted sum of the pixels, with the
/// objects of both.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct MixupConfig {
    /// How often.
    pub probability: Share,
    /// The first image's weight is sampled from Beta(α, α).
    pub alpha: PositiveFactor,
}

impl Default for MixupConfig {
    fn default() -> Self {
        Self {
            probability: Share::literal(0.0),
            alpha: PositiveFactor::literal(1.5),
        }
    }
}

/// Pastes objects of another image (Ghiasi et al. 2021, "Simple Copy-Paste"), anywhere on the sample and over what is there:
/// what is inside of their polygons, or where there are none their boxes with a little of what is around them, which fades. An object of which pasted
/// ones leave less than `min_kept_area` is neither an object nor background.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct CopyPasteConfig {
    /// How often.
    pub probability: Share,
    /// The most objects that are pasted onto a sample.
    pub most: Whole<1, 100>,
    /// The least factor on an object's usual size.
    pub min_scale: PositiveFactor,
    /// The largest factor, at least `min_scale`.
    pub max_scale: PositiveFactor,
}

impl Default for CopyPasteConfig {
    fn default() -> Self {
        Self {
            probability: Share::literal(0.0),
            most: Whole::literal(3),
            min_scale: PositiveFactor::literal(0.5),
            max_scale: PositiveFactor::literal(1.5),
        }
    }
}

impl AugmentConfig {
    /// Checks that the settings fit each other.
    pub(crate) fn check(&self) -> Result<(), SettingError> {
        let JitterConfig {
            min_scale,
            max_scale,
            ..
        } = self.jitter;
        let of_pasted = (self.copy_paste.min_scale, self.copy_paste.max_scale);
        for (key, (min_scale, max_scale)) in [
            ("jitter.max_scale", (min_scale, max_scale)),
            ("copy_paste.max_scale", of_pasted),
        ] {
            if max_scale < min_scale {
                let allowed = format!("at least `min_scale`, {min_scale}");
                return Err(SettingError::new(key, allowed, max_scale));
            }
        }
        Ok(())
    }

    /// Whether boxes may be cut.
    pub fn cuts(&self) -> bool {
        let cutters = [
            self.crop.probability,
            self.jitter.probability,
            self.mosaic.probability,
            self.copy_paste.probability,
        ];
        cutters.iter().any(|probability| probability.get() > 0.0)
    }
}
