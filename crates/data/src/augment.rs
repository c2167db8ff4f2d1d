//! How training images vary.

use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Beta, Distribution};
use retinanet_boxes::GroundTruth;
use retinanet_images::{ColorShift, Piece, Region, View};
use serde::{Deserialize, Serialize};

use crate::{DataError, ImageRecord, Transform};

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

/// Draws what a training sample shows, from the sizes and boxes in the annotations.
pub(crate) struct Drawing<'a> {
    pub(crate) transform: &'a Transform,
    pub(crate) images: &'a [ImageRecord],
    pub(crate) rng: &'a mut ChaCha8Rng,
}

impl Drawing<'_> {
    /// A sample that shows this image of the data set, and perhaps others.
    pub(crate) fn sample(&mut self, image: usize) -> View {
        let MixupConfig { probability, alpha } = self.transform.augment().mixup;
        let view = self.unmixed(image);
        if !self.happens(probability) {
            return view;
        }
        let other = self.any_image();
        let other = self.unmixed(other);
        let share = Beta::new(alpha, alpha).map_or(0.5, |beta| beta.sample(self.rng));
        view.mix(other, share)
    }

    fn unmixed(&mut self, image: usize) -> View {
        let augment = self.transform.augment();
        let short_side = self.short_side();
        let mirrored = self.happens(augment.horizontal_flip);
        let upside_down = self.happens(augment.vertical_flip);
        let mut view = if self.happens(augment.mosaic.probability) {
            self.mosaic(image, short_side)
        } else {
            self.single(image, short_side)
        };
        if mirrored {
            view.mirror();
        }
        if upside_down {
            view.turn_upside_down();
        }
        for piece in &mut view.pieces {
            piece.colors = self.colors();
        }
        view
    }

    fn single(&mut self, image: usize, short_side: u32) -> View {
        let augment = self.transform.augment();
        let source = if self.happens(augment.crop.probability) {
            self.crop(&self.images[image], augment.crop.min_side)
        } else {
            Region::whole(self.images[image].size())
        };
        if self.happens(augment.jitter.probability) {
            return self.jitter(image, source);
        }
        let shown = (source.width as u32, source.height as u32);
        View::of(image, source, self.resized_to(shown, short_side))
    }

    /// A part of the image, in whole pixels, with an object that counts if there is one.
    fn crop(&mut self, record: &ImageRecord, min_side: f32) -> Region {
        const TRIES: usize = 10;
        let (width, height) = record.size();
        let min_kept = self.transform.augment().min_kept_area;
        let objects = || record.objects.iter().filter(|object| !object.crowd);
        for _ in 0..TRIES {
            let (x, shown_width) = self.part(width, min_side);
            let (y, shown_height) = self.part(height, min_side);
            let region = Region {
                x: f64::from(x),
                y: f64::from(y),
                width: f64::from(shown_width),
                height: f64::from(shown_height),
            };
            let counts = |object: &GroundTruth| {
                let kept = region.kept(&object.bbox, (width, height));
                kept > 0.0 && kept >= min_kept
            };
            if objects().next().is_none() || objects().any(counts) {
                return region;
            }
        }
        Region::whole((width, height))
    }

    /// Start and length of a part of a side.
    fn part(&mut self, side: u32, min_share: f32) -> (u32, u32) {
        let share = self.rng.random_range(min_share..=1.0);
        let length = ((side as f32 * share).round() as u32).clamp(1, side);
        (self.rng.random_range(0..=side - length), length)
    }

    fn jitter(&mut self, image: usize, source: Region) -> View {
        let JitterConfig {
            size,
            min_scale,
            max_scale,
            ..
        } = self.transform.augment().jitter;
        let factor = f64::from(self.rng.random_range(min_scale..=max_scale));
        let [width, height] = size.map(f64::from);
        let scale = (factor * width / source.width).min(factor * height / source.height);
        let mut along = |side: f64, limit: u32| {
            let resized = ((side * scale).round() as u32).max(1);
            let shown = resized.min(limit);
            let start = self.rng.random_range(0..=resized - shown);
            if shown == resized {
                return (0.0, side, shown);
            }
            let unit = side / f64::from(resized);
            (f64::from(start) * unit, f64::from(shown) * unit, shown)
        };
        let (x, width, shown_width) = along(source.width, size[0]);
        let (y, height, shown_height) = along(source.height, size[1]);
        let region = Region {
            x: source.x + x,
            y: source.y + y,
            width,
            height,
        };
        View {
            size: size.into(),
            ..View::of(image, region, (shown_width, shown_height))
        }
    }

    fn mosaic(&mut self, image: usize, short_side: u32) -> View {
        let mut images = [image, self.any_image(), self.any_image(), self.any_image()];
        images.rotate_right(self.rng.random_range(0..4));
        let (width, height) = self.resized_to(self.images[image].size(), short_side);
        let (x, y) = (self.middle(width), self.middle(height));
        let corners = [
            ((0, 0), (x, y)),
            ((x, 0), (width - x, y)),
            ((0, y), (x, height - y)),
            ((x, y), (width - x, height - y)),
        ];
        let mut pieces = Vec::new();
        for (image, (corner, size)) in images.into_iter().zip(corners) {
            if size.0 > 0 && size.1 > 0 {
                pieces.push(self.tile(image, corner, size, short_side));
            }
        }
        View {
            size: (width, height),
            pieces,
        }
    }

    /// A place between a quarter and three quarters of a side.
    fn middle(&mut self, side: u32) -> u32 {
        (side as f32 * self.rng.random_range(0.25..=0.75)).round() as u32
    }

    /// A part of an image that fills a corner of a mosaic.
    fn tile(
        &mut self,
        image: usize,
        corner: (u32, u32),
        tile: (u32, u32),
        short_side: u32,
    ) -> Piece {
        let image_size = self.images[image].size();
        let Region { width, height, .. } = Region::whole(image_size);
        let (tile_width, tile_height) = (f64::from(tile.0), f64::from(tile.1));
        let filling = (tile_width / width).max(tile_height / height);
        let usual = self.resized_to(image_size, short_side);
        let usual = (f64::from(usual.0) / width).max(filling);
        // Doubling is as likely at any scale.
        let scale = (self.rng.random_range(filling.ln()..=usual.ln())).exp();
        let shown_width = (tile_width / scale).min(width);
        let shown_height = (tile_height / scale).min(height);
        let source = Region {
            x: self.rng.random_range(0.0..=width - shown_width),
            y: self.rng.random_range(0.0..=height - shown_height),
            width: shown_width,
            height: shown_height,
        };
        Piece {
            corner,
            ..View::of(image, source, tile).pieces.remove(0)
        }
    }

    fn colors(&mut self) -> Option<ColorShift> {
        let PhotometricConfig {
            probability,
            brightness,
            contrast,
            saturation,
            hue,
        } = self.transform.augment().photometric;
        self.happens(probability).then(|| ColorShift {
            brightness: 1.0 + self.within(brightness),
            contrast: 1.0 + self.within(contrast),
            saturation: 1.0 + self.within(saturation),
            hue: self.within(hue),
        })
    }

    fn within(&mut self, limit: f32) -> f32 {
        self.rng.random_range(-limit..=limit)
    }

    fn resized_to(&self, size: (u32, u32), short_side: u32) -> (u32, u32) {
        (self.transform.preparation()).resized_to(size, short_side)
    }

    fn short_side(&mut self) -> u32 {
        let short_sides = self.transform.short_sides();
        short_sides[self.rng.random_range(0..short_sides.len() as u32) as usize]
    }

    fn any_image(&mut self) -> usize {
        self.rng.random_range(0..self.images.len() as u64) as usize
    }

    /// Draws nothing where it never happens, so that switching one variation on leaves those before
    /// it as they were.
    fn happens(&mut self, probability: f32) -> bool {
        probability > 0.0 && self.rng.random::<f32>() < probability
    }
}

#[cfg(test)]
mod tests;
