use retinanet_images::{Normalization, Preparation, PreparationConfig};
use serde::{Deserialize, Serialize};

use crate::augment::AugmentConfig;
use crate::{DataError, ImageRecord, ResizeConfig};

/// Settings of the [`Transform`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TransformConfig {
    /// The values of 16-bit images that become black and white. Default: none, which is `[0, 65535]`.
    pub range_16_bit: Option<[u16; 2]>,
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
    /// Where given, batches are padded to one of these widths and heights, in pixels: the one with
    /// the fewest pixels that has room. A GPU's kernels are then tuned once for each. Each side is a
    /// multiple of [`size_divisor`](Self::size_divisor). Default: none.
    pub batch_shapes: Vec<[u32; 2]>,
}

impl Default for TransformConfig {
    fn default() -> Self {
        Self {
            range_16_bit: None,
            resize: ResizeConfig::default(),
            augment: AugmentConfig::default(),
            normalization: Normalization::default(),
            size_divisor: 32,
            batch_shapes: Vec::new(),
        }
    }
}

/// The way from a decoded image to numbers, checked: that of evaluation, and how training varies it.
#[derive(Clone, Debug)]
pub struct Transform {
    preparation: Preparation,
    short_sides: Vec<u32>,
    augment: AugmentConfig,
}

impl Transform {
    /// Checks the settings.
    ///
    /// # Errors
    ///
    /// Returns an error with the key of a setting that is out of its range.
    pub fn new(config: &TransformConfig) -> Result<Self, DataError> {
        let TransformConfig {
            range_16_bit,
            resize,
            augment,
            normalization,
            size_divisor,
            batch_shapes,
        } = config;
        let bad_short_side = || DataError::Setting {
            key: "data.short_side",
            expected: "a list of lengths of at least 1",
            found: format!("{:?}", resize.short_side),
        };
        let largest = *resize.short_side.iter().max().ok_or_else(bad_short_side)?;
        if resize.short_side.contains(&0) {
            return Err(bad_short_side());
        }
        let short_side = resize.eval_short_side.unwrap_or(largest);
        if !(1..=65_535).contains(&short_side) {
            return Err(DataError::Setting {
                key: "data.eval_short_side",
                expected: "in [1, 65535]",
                found: short_side.to_string(),
            });
        }
        let preparation = PreparationConfig {
            range_16_bit: *range_16_bit,
            short_side,
            long_side: resize.long_side,
            interpolation: resize.interpolation,
            size_rounding: resize.size_rounding,
            normalization: *normalization,
            size_divisor: *size_divisor,
            batch_shapes: batch_shapes.clone(),
        };
        let preparation = Preparation::new(&preparation)?;
        augment.check()?;
        Ok(Self {
            preparation,
            short_sides: resize.short_side.clone(),
            augment: *augment,
        })
    }

    /// How images are prepared outside training.
    pub const fn preparation(&self) -> &Preparation {
        &self.preparation
    }

    pub(crate) fn short_sides(&self) -> &[u32] {
        &self.short_sides
    }

    pub(crate) fn augment(&self) -> &AugmentConfig {
        &self.augment
    }

    /// Checks that the batches of these images have room in one of
    /// [`batch_shapes`](TransformConfig::batch_shapes), if there are any, as evaluation sees the
    /// images: so many at once, of any sizes together.
    ///
    /// # Errors
    ///
    /// Returns an error with the size that has no room.
    pub fn check_evaluation_shapes(
        &self,
        images: &[ImageRecord],
        batch_size: usize,
    ) -> Result<(), DataError> {
        let preparation = &self.preparation;
        let mut sizes = images
            .iter()
            .map(|image| preparation.resized_size(image.size()));
        if batch_size == 1 {
            sizes.try_for_each(|size| preparation.check_shapes([size]))?;
        } else {
            preparation.check_shapes(sizes)?;
        }
        Ok(())
    }

    /// Checks that a batch of any of these images, however they vary, has a shape to stand in.
    pub(crate) fn check_training_shapes<'a>(
        &self,
        images: impl Iterator<Item = &'a ImageRecord>,
    ) -> Result<(), DataError> {
        Ok((self.preparation).check_shapes(self.training_sizes(images))?)
    }

    /// The widest and the highest that these images can become in training.
    pub(crate) fn training_sizes<'a>(
        &self,
        images: impl Iterator<Item = &'a ImageRecord>,
    ) -> impl Iterator<Item = (u32, u32)> {
        let AugmentConfig {
            crop,
            jitter,
            mosaic,
            ..
        } = self.augment;
        let jittered = (jitter.probability > 0.0).then_some(jitter.size.into());
        let only_jittered = jitter.probability >= 1.0 && mosaic.probability == 0.0;
        let least = if crop.probability > 0.0 {
            crop.min_side
        } else {
            1.0
        };
        let part = move |side: u32| ((side as f32 * least).round() as u32).max(1);
        let parts = images.flat_map(move |&ImageRecord { width, height, .. }| {
            [(width, part(height)), (part(width), height)]
        });
        let resized = parts.flat_map(move |size| {
            (self.short_sides.iter())
                .map(move |&short_side| self.preparation.resized_to(size, short_side))
        });
        (resized.filter(move |_| !only_jittered)).chain(jittered)
    }
}

#[cfg(test)]
mod tests {
    use retinanet_boxes::ImageId;
    use retinanet_images::ChannelOrder;

    use super::*;

    fn image(width: u32, height: u32) -> ImageRecord {
        ImageRecord {
            id: ImageId(0),
            file_name: String::new(),
            path: "".into(),
            width,
            height,
            objects: Vec::new(),
        }
    }

    #[test]
    fn an_image_that_has_room_in_no_shape_is_found_before_training() {
        let mut config = TransformConfig {
            batch_shapes: vec![[128, 64]],
            ..TransformConfig::default()
        };
        config.resize.short_side = vec![64];
        config.resize.long_side = 128;
        let check = |config: &TransformConfig, image: ImageRecord| {
            let transform = Transform::new(config).expect("the settings are in range");
            transform.check_training_shapes([&image].into_iter())?;
            transform.check_evaluation_shapes(&[image], 1)
        };
        assert!(check(&config, image(200, 100)).is_ok());
        let error = check(&config, image(100, 200)).expect_err("it is upright");
        assert!(
            error.to_string().contains("none has room for 64×128"),
            "{error}"
        );

        // Half of its width is upright.
        config.augment.crop.probability = 0.1;
        let error = check(&config, image(120, 100)).expect_err("a part is upright");
        assert!(
            error.to_string().starts_with("`data.batch_shapes`"),
            "{error}"
        );
        config.augment.crop.probability = 0.0;
        config.augment.jitter.probability = 0.1;
        assert!(check(&config, image(120, 100)).is_err());
        // Where all become 1024×1024, what they were before has no say.
        config.augment.jitter.probability = 1.0;
        config.batch_shapes = vec![[1024, 1024], [128, 64]];
        assert!(check(&config, image(120, 100)).is_ok());
    }

    #[test]
    fn evaluation_needs_room_for_each_image_and_no_more_where_it_takes_one_at_a_time() {
        let mut config = TransformConfig {
            batch_shapes: vec![[128, 64], [64, 128]],
            ..TransformConfig::default()
        };
        config.resize.short_side = vec![64];
        config.resize.long_side = 128;
        let transform = Transform::new(&config).expect("the settings are in range");
        let images = [image(200, 100), image(100, 200)];
        assert!(transform.check_evaluation_shapes(&images, 1).is_ok());
        assert!(transform.check_evaluation_shapes(&images, 2).is_err());
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
        assert_eq!(largest.preparation().config().short_side, 800);
        config.resize.eval_short_side = Some(600);
        let set = Transform::new(&config).expect("the settings are in range");
        assert_eq!(set.preparation().config().short_side, 600);
    }
}
