use retinanet_images::{
    Normalization, PaddingConfig, Preparation, PreparationConfig, Range16Bit, Side,
};
use retinanet_settings::SettingError;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::augment::AugmentConfig;
use crate::{DataError, ImageRecord, ResizeConfig};

/// Settings of the [`Transform`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct TransformConfig {
    /// How large images become.
    #[serde(flatten)]
    pub resize: ResizeConfig,
    /// How training images vary.
    pub augment: AugmentConfig,
    /// How pixels become numbers.
    pub normalization: Normalization,
    /// How batches are padded.
    #[serde(flatten)]
    pub padding: PaddingConfig,
}

/// The way from a decoded image to numbers, checked: that of evaluation, and how training varies it.
#[derive(Clone, Debug)]
pub struct Transform {
    preparation: Preparation,
    short_sides: Vec<u32>,
    augment: AugmentConfig,
}

impl Transform {
    /// Checks the settings; images of 16 bits become 8 bits by their range.
    ///
    /// # Errors
    ///
    /// Returns an error if settings do not fit each other.
    pub fn new(
        config: &TransformConfig,
        range_16_bit: Option<Range16Bit>,
    ) -> Result<Self, SettingError> {
        let TransformConfig {
            resize,
            augment,
            normalization,
            padding,
        } = config;
        let preparation = Preparation::new(&PreparationConfig {
            range_16_bit,
            short_side: (resize.eval_short_side).unwrap_or_else(|| resize.short_side.largest()),
            long_side: resize.long_side,
            interpolation: resize.interpolation,
            size_rounding: resize.size_rounding,
            normalization: *normalization,
            padding: padding.clone(),
        })?;
        augment.check().map_err(|error| error.within("augment"))?;
        Ok(Self {
            preparation,
            short_sides: resize.short_side.to_pixels(),
            augment: *augment,
        })
    }

    /// How images are prepared outside training.
    pub const fn preparation(&self) -> &Preparation {
        &self.preparation
    }

    /// The short sides of training, in pixels; one of them is sampled for each image.
    pub fn short_sides(&self) -> &[u32] {
        &self.short_sides
    }

    pub(crate) fn augment(&self) -> &AugmentConfig {
        &self.augment
    }

    /// Checks that the batches of these images have room in one of
    /// [`batch_shapes`](PaddingConfig::batch_shapes), if there are any, as evaluation sees the
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

    /// Checks that a batch of any of these images, however they vary, fits one of the shapes.
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
        let jitter_size = jitter.size.map(Side::as_u32).into();
        let jittered = (jitter.probability.get() > 0.0).then_some(jitter_size);
        let only_jittered = jitter.probability.get() >= 1.0 && mosaic.probability.get() == 0.0;
        let least = if crop.probability.get() > 0.0 {
            crop.min_side.as_f32()
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
    use retinanet_settings::{PositiveFactor, Share};

    use super::*;
    use crate::ShortSides;

    fn padding(shapes: &[[u64; 2]]) -> PaddingConfig {
        let shapes = shapes.iter().map(|shape| shape.map(Side::literal));
        PaddingConfig {
            batch_shapes: shapes.collect(),
            ..PaddingConfig::default()
        }
    }

    fn image(width: u32, height: u32) -> ImageRecord {
        ImageRecord {
            id: ImageId(0),
            file_name: String::new(),
            path: "".into(),
            width,
            height,
            objects: Vec::new(),
            outlines: Vec::new(),
        }
    }

    #[test]
    fn an_image_that_has_room_in_no_shape_is_found_before_training() {
        let mut config = TransformConfig {
            padding: padding(&[[128, 64]]),
            ..TransformConfig::default()
        };
        config.resize.short_side = ShortSides::literal(&[64]);
        config.resize.long_side = Side::literal(128);
        let check = |config: &TransformConfig, image: ImageRecord| {
            let transform = Transform::new(config, None).expect("the settings are in range");
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
        config.augment.crop.probability = Share::literal(0.1);
        let error = check(&config, image(120, 100)).expect_err("a part is upright");
        assert!(error.to_string().starts_with("`batch_shapes`"), "{error}");
        config.augment.crop.probability = Share::literal(0.0);
        config.augment.jitter.probability = Share::literal(0.1);
        assert!(check(&config, image(120, 100)).is_err());
        // Where all become 1024×1024, what they were before has no say.
        config.augment.jitter.probability = Share::literal(1.0);
        config.padding = padding(&[[1024, 1024], [128, 64]]);
        assert!(check(&config, image(120, 100)).is_ok());
    }

    #[test]
    fn evaluation_needs_room_for_each_image_and_no_more_where_it_takes_one_at_a_time() {
        let mut config = TransformConfig {
            padding: padding(&[[128, 64], [64, 128]]),
            ..TransformConfig::default()
        };
        config.resize.short_side = ShortSides::literal(&[64]);
        config.resize.long_side = Side::literal(128);
        let transform = Transform::new(&config, None).expect("the settings are in range");
        let images = [image(200, 100), image(100, 200)];
        assert!(transform.check_evaluation_shapes(&images, 1).is_ok());
        assert!(transform.check_evaluation_shapes(&images, 2).is_err());
    }

    #[test]
    fn the_largest_scale_is_at_least_the_least() {
        let mut config = TransformConfig::default();
        config.augment.jitter.min_scale = PositiveFactor::literal(3.0);
        let error = Transform::new(&config, None).expect_err("2 is less than 3");
        assert_eq!(
            error.to_string(),
            "`augment.jitter.max_scale` must be at least `min_scale`, 3, got 2"
        );
    }

    #[test]
    fn outside_training_the_largest_side_counts_unless_one_is_set() {
        let mut config = TransformConfig::default();
        config.resize.short_side = ShortSides::literal(&[640, 800, 672]);
        let largest = Transform::new(&config, None).expect("the settings are in range");
        assert_eq!(largest.preparation().config().short_side, 800);
        config.resize.eval_short_side = Some(Side::literal(600));
        let set = Transform::new(&config, None).expect("the settings are in range");
        assert_eq!(set.preparation().config().short_side, 600);
    }
}
