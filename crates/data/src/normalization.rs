use image::RgbImage;
use serde::{Deserialize, Serialize};

use crate::DataError;

/// How pixels become numbers: `(value - mean) / std`, with values in `[0, 255]`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Normalization {
    /// The order of the channels in the tensor, and in [`mean`](Self::mean) and
    /// [`std`](Self::std). Default: RGB.
    pub channels: ChannelOrder,
    /// What is taken off each channel. Default: the mean of what backbones were
    /// pretrained on, `[123.675, 116.28, 103.53]`.
    pub mean: [f32; 3],
    /// What each channel is divided by, above 0. Default: the standard deviation of
    /// the same images, `[58.395, 57.12, 57.375]`.
    pub std: [f32; 3],
}

impl Default for Normalization {
    fn default() -> Self {
        Self {
            channels: ChannelOrder::Rgb,
            mean: [123.675, 116.28, 103.53],
            std: [58.395, 57.12, 57.375],
        }
    }
}

/// The order of the colour channels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ChannelOrder {
    /// Red first, as torchvision's weights expect.
    #[default]
    Rgb,
    /// Blue first, as Caffe's and detectron2's weights expect.
    Bgr,
}

/// The [`Normalization`], checked, as a table: 8-bit pixels have only 256 values.
#[derive(Clone, Debug)]
pub(crate) struct Normalizer {
    /// For each channel of the tensor: its place in an RGB pixel and the number of every value.
    channels: [(usize, Vec<f32>); 3],
}

impl Normalizer {
    pub(crate) fn new(normalization: &Normalization) -> Result<Self, DataError> {
        let &Normalization {
            channels,
            mean,
            std,
        } = normalization;
        if !mean.iter().all(|mean| mean.is_finite()) {
            return Err(DataError::Setting {
                key: "data.normalization.mean",
                expected: "three finite numbers",
                found: format!("{mean:?}"),
            });
        }
        if !std.iter().all(|std| std.is_finite() && *std > 0.0) {
            return Err(DataError::Setting {
                key: "data.normalization.std",
                expected: "three finite numbers above 0",
                found: format!("{std:?}"),
            });
        }
        let places = match channels {
            ChannelOrder::Rgb => [0, 1, 2],
            ChannelOrder::Bgr => [2, 1, 0],
        };
        let table = |channel: usize| {
            let numbers = (0..=u8::MAX)
                .map(|value| (f32::from(value) - mean[channel]) / std[channel])
                .collect();
            (places[channel], numbers)
        };
        Ok(Self {
            channels: [table(0), table(1), table(2)],
        })
    }

    /// Writes an image into the top left corner of its place in a batch, mirrored left to right if
    /// so wished; the padding is left as it is.
    ///
    /// # Shapes
    ///
    /// - `planes`: `[3, height, width]`, row by row
    pub(crate) fn write(
        &self,
        image: &RgbImage,
        flipped: bool,
        planes: &mut [f32],
        (height, width): (usize, usize),
    ) {
        let row_bytes = 3 * image.width() as usize;
        for (plane, (place, numbers)) in planes.chunks_exact_mut(height * width).zip(&self.channels)
        {
            let rows = plane.chunks_exact_mut(width);
            for (row, pixels) in rows.zip(image.as_raw().chunks_exact(row_bytes)) {
                let row = &mut row[..image.width() as usize];
                let values = pixels.iter().skip(*place).step_by(3);
                for (number, &value) in row.iter_mut().zip(values) {
                    *number = numbers[usize::from(value)];
                }
                if flipped {
                    row.reverse();
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use image::Rgb;

    use super::*;

    #[test]
    fn numbers_are_the_formula_in_the_order_of_the_channels() -> Result<(), DataError> {
        let normalizer = Normalizer::new(&Normalization {
            channels: ChannelOrder::Bgr,
            mean: [1.0, 2.0, 3.0],
            std: [1.0, 2.0, 4.0],
        })?;
        let image = RgbImage::from_fn(2, 1, |x, _| Rgb([11 + x as u8, 22, 33]));

        let mut planes = vec![0.0; 3 * 2 * 3];
        normalizer.write(&image, false, &mut planes, (2, 3));
        let blue = [32.0, 32.0, 0.0, 0.0, 0.0, 0.0];
        let green = [10.0, 10.0, 0.0, 0.0, 0.0, 0.0];
        let red = [2.0, 2.25, 0.0, 0.0, 0.0, 0.0];
        assert_eq!(planes, [blue, green, red].concat());

        normalizer.write(&image, true, &mut planes, (2, 3));
        let red = [2.25, 2.0, 0.0, 0.0, 0.0, 0.0];
        assert_eq!(planes, [blue, green, red].concat());
        Ok(())
    }
}
