use image::{Rgb, RgbImage};
use pulp::{Arch, Simd, WithSimd};
use retinanet_settings::real;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Piece;
use crate::pixels::Pixels;

real! {
    /// What is taken off a channel.
    pub ChannelMean: at_least -1e6, at_most 1e6
}
real! {
    /// What a channel is divided by.
    pub ChannelStd: at_least 1.2e-38, at_most 1e6
}

/// How pixels become numbers: `(value - mean) / std`, with values in `[0, 255]`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Normalization {
    /// The order of the channels in the tensor, and in `mean` and
    /// `std`.
    pub channels: ChannelOrder,
    /// What is taken off each channel. The default is the mean of what backbones were pretrained on.
    pub mean: [ChannelMean; 3],
    /// What each channel is divided by. The default is the standard deviation of the same images.
    pub std: [ChannelStd; 3],
}

impl Default for Normalization {
    fn default() -> Self {
        Self {
            channels: ChannelOrder::Rgb,
            mean: [123.675, 116.28, 103.53].map(ChannelMean::literal),
            std: [58.395, 57.12, 57.375].map(ChannelStd::literal),
        }
    }
}

/// The order of the colour channels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ChannelOrder {
    /// Red first, as torchvision's weights expect.
    #[default]
    Rgb,
    /// Blue first, as Caffe's and detectron2's weights expect.
    Bgr,
}

/// The [`Normalization`], ready to compute.
#[derive(Clone, Debug, PartialEq)]
pub struct Normalizer {
    /// The channels of the tensor, in its order.
    pub channels: [Channel; 3],
}

/// How one channel of the tensor is computed: `(value - mean) / std`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Channel {
    /// Its place in an RGB pixel.
    pub place: usize,
    /// What is taken off.
    pub mean: f32,
    /// What the rest is divided by.
    pub std: f32,
}

impl Normalizer {
    pub(crate) fn new(normalization: &Normalization) -> Self {
        let &Normalization {
            channels,
            mean,
            std,
        } = normalization;
        let places = match channels {
            ChannelOrder::Rgb => [0, 1, 2],
            ChannelOrder::Bgr => [2, 1, 0],
        };
        let channel = |index: usize| Channel {
            place: places[index],
            mean: mean[index].as_f32(),
            std: std[index].as_f32(),
        };
        Self {
            channels: [channel(0), channel(1), channel(2)],
        }
    }

    /// Appends an image to a batch, in the top left corner of its place, mirrored as the piece says;
    /// the padding is 0.
    ///
    /// # Shapes
    ///
    /// - `planes`: what is appended is `[3, height, width]`, row by row
    pub(crate) fn append(
        &self,
        piece: &Piece,
        image: &Pixels,
        planes: &mut Vec<f32>,
        size: (usize, usize),
    ) {
        match image {
            Pixels::Bytes(image) => {
                let (pixels, _) = image.as_raw().as_chunks();
                self.append_rows(pixels, piece, planes, size);
            }
            Pixels::Floats(pixels) => self.append_rows(pixels, piece, planes, size),
        }
    }

    fn append_rows<T: Copy + Into<f32>>(
        &self,
        pixels: &[[T; 3]],
        piece: &Piece,
        planes: &mut Vec<f32>,
        (height, width): (usize, usize),
    ) {
        // Rows are made in the cache and written where they belong once, in order: a batch is much
        // larger than the cache, so that filling it with zeros first would take half as long again.
        let mut row = vec![0.0; width];
        let image_width = piece.size.0 as usize;
        for channel in self.channels {
            let end = planes.len() + height * width;
            for pixels in rows(pixels, piece) {
                channel.normalize_row(pixels, piece.mirrored, &mut row[..image_width]);
                planes.extend_from_slice(&row);
            }
            planes.resize(end, 0.0);
        }
    }

    /// Adds a piece to an image, where the piece says and with its weight.
    ///
    /// # Shapes
    ///
    /// - `planes`: `[3, height, width]`, row by row
    pub(crate) fn add(
        &self,
        piece: &Piece,
        image: &Pixels,
        planes: &mut [f32],
        size: (usize, usize),
    ) {
        match image {
            Pixels::Bytes(image) => {
                let (pixels, _) = image.as_raw().as_chunks();
                self.add_rows(pixels, piece, planes, size);
            }
            Pixels::Floats(pixels) => self.add_rows(pixels, piece, planes, size),
        }
    }

    fn add_rows<T: Copy + Into<f32>>(
        &self,
        pixels: &[[T; 3]],
        piece: &Piece,
        planes: &mut [f32],
        (height, width): (usize, usize),
    ) {
        let (left, top) = (piece.corner.0 as usize, piece.corner.1 as usize);
        let mut row = vec![0.0; piece.size.0 as usize];
        let opacity = piece.opacities();
        for (channel, plane) in self
            .channels
            .iter()
            .zip(planes.chunks_exact_mut(height * width))
        {
            let lines = plane.chunks_exact_mut(width).skip(top);
            for ((place, pixels), line) in rows(pixels, piece).enumerate().zip(lines) {
                channel.normalize_row(pixels, piece.mirrored, &mut row);
                let line = &mut line[left..];
                match &opacity {
                    Some(opacity) => paste_row(line, &row, &opacity[place * row.len()..]),
                    None => {
                        for (sum, number) in line.iter_mut().zip(&row) {
                            *sum += piece.weight * number;
                        }
                    }
                }
            }
        }
    }

    /// The pixels of an image of a batch, as a viewer shows them.
    ///
    /// # Shapes
    ///
    /// - `planes`: `[3, height, width]`, row by row
    pub(crate) fn picture(&self, planes: &[f32], (height, width): (usize, usize)) -> RgbImage {
        RgbImage::from_fn(width as u32, height as u32, |x, y| {
            let place = y as usize * width + x as usize;
            let mut pixel = Rgb([0; 3]);
            for (channel, plane) in self
                .channels
                .iter()
                .zip(planes.chunks_exact(height * width))
            {
                let value = plane[place] * channel.std + channel.mean;
                // Out of range, the conversion saturates.
                pixel[channel.place] = value.round() as u8;
            }
            pixel
        })
    }
}

/// Lays a row over what is there, as opaque as each place is.
fn paste_row(line: &mut [f32], row: &[f32], opacity: &[f32]) {
    for ((under, over), opacity) in line.iter_mut().zip(row).zip(opacity) {
        *under += opacity * (over - *under);
    }
}

/// The rows of an image from the top of the sample down.
fn rows<'a, T>(pixels: &'a [[T; 3]], piece: &Piece) -> impl Iterator<Item = &'a [[T; 3]]> {
    let width = piece.size.0 as usize;
    let height = pixels.len() / width;
    let upside_down = piece.upside_down;
    (0..height).map(move |row| {
        let row = if upside_down { height - 1 - row } else { row };
        &pixels[row * width..][..width]
    })
}

impl Channel {
    fn normalize_row<T: Copy + Into<f32>>(
        self,
        pixels: &[[T; 3]],
        mirrored: bool,
        numbers: &mut [f32],
    ) {
        Arch::new().dispatch(Row {
            channel: self,
            pixels,
            numbers: &mut *numbers,
        });
        if mirrored {
            numbers.reverse();
        }
    }
}

/// A row of pixels, of which one channel is computed.
struct Row<'a, T> {
    channel: Channel,
    pixels: &'a [[T; 3]],
    numbers: &'a mut [f32],
}

impl<T: Copy + Into<f32>> WithSimd for Row<'_, T> {
    type Output = ();

    // Inlined into code for the CPU at hand. As a closure, the loop becomes vector code that takes
    // twice as long.
    #[expect(clippy::inline_always, reason = "vector code")]
    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let channel = self.channel;
        for (number, pixel) in self.numbers.iter_mut().zip(self.pixels) {
            *number = (pixel[channel.place].into() - channel.mean) / channel.std;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Region, View};

    /// An image as it is.
    fn whole(size: (u32, u32)) -> Piece {
        View::of(0, Region::whole(size), size).pieces.remove(0)
    }

    #[test]
    fn numbers_are_the_formula_in_the_order_of_the_channels() {
        let normalizer = Normalizer::new(&Normalization {
            channels: ChannelOrder::Bgr,
            mean: [1.0, 2.0, 3.0].map(ChannelMean::literal),
            std: [1.0, 2.0, 4.0].map(ChannelStd::literal),
        });
        let image = RgbImage::from_fn(2, 1, |x, _| Rgb([11 + x as u8, 22, 33]));
        let image = Pixels::Bytes(image);

        let mut planes = Vec::new();
        let mut piece = whole((2, 1));
        normalizer.append(&piece, &image, &mut planes, (2, 3));
        let blue = [32.0, 32.0, 0.0, 0.0, 0.0, 0.0];
        let green = [10.0, 10.0, 0.0, 0.0, 0.0, 0.0];
        let red = [2.0, 2.25, 0.0, 0.0, 0.0, 0.0];
        assert_eq!(planes, [blue, green, red].concat());

        // The next image of a batch comes after the first.
        piece.mirrored = true;
        normalizer.append(&piece, &image, &mut planes, (2, 3));
        let red = [2.25, 2.0, 0.0, 0.0, 0.0, 0.0];
        assert_eq!(planes[18..], [blue, green, red].concat());
    }

    /// Six columns and four rows of 100 over 0: two columns at the left and one row below are mixed, by halves and quarters.
    #[test]
    fn what_is_pasted_covers_what_is_there_and_fades_at_its_border() {
        let normalizer = Normalizer::new(&Normalization {
            mean: [0.0; 3].map(ChannelMean::literal),
            std: [1.0; 3].map(ChannelStd::literal),
            ..Normalization::default()
        });
        let piece = Piece {
            corner: (1, 1),
            pasted: Some([2, 0, 0, 1]),
            ..whole((6, 4))
        };
        let image = Pixels::Bytes(RgbImage::from_pixel(6, 4, Rgb([100; 3])));
        let (height, width) = (6, 8);
        let mut planes = vec![20.0; 3 * height * width];
        normalizer.add(&piece, &image, &mut planes, (height, width));
        let mixed = |share: f32| 20.0 + share * 80.0;
        let inner = [
            20.0,
            mixed(0.25),
            mixed(0.75),
            100.0,
            100.0,
            100.0,
            100.0,
            20.0,
        ];
        let last = [
            20.0,
            mixed(0.25),
            mixed(0.5),
            mixed(0.5),
            mixed(0.5),
            mixed(0.5),
            mixed(0.5),
            20.0,
        ];
        let plane = [[20.0; 8], inner, inner, inner, last, [20.0; 8]].concat();
        for (found, expected) in planes.iter().zip(plane.repeat(3)) {
            assert!((found - expected).abs() < 1e-4, "{planes:?}");
        }
    }

    /// Rows of every length up to a few vector registers, so that what is left over after the last
    /// whole one is seen too.
    #[test]
    fn every_number_is_the_formula_in_its_place() {
        let settings = Normalization::default();
        let normalizer = Normalizer::new(&settings);
        for width in 1..70_usize {
            let (height, padded_height, padded_width) = (3, 4, width + 5);
            let image = RgbImage::from_fn(width as u32, height as u32, |x, y| {
                Rgb([0, 1, 2].map(|channel| (7 * x + 50 * y + 90 * channel) as u8))
            });
            for (mirrored, upside_down) in
                [(false, false), (true, false), (false, true), (true, true)]
            {
                let piece = Piece {
                    mirrored,
                    upside_down,
                    ..whole(image.dimensions())
                };
                let mut planes = Vec::new();
                let pixels = Pixels::Bytes(image.clone());
                let shape = (padded_height, padded_width);
                normalizer.append(&piece, &pixels, &mut planes, shape);

                assert_eq!(planes.len(), 3 * padded_height * padded_width);
                // Adding to nothing is the same.
                let mut added = vec![0.0; planes.len()];
                normalizer.add(&piece, &pixels, &mut added, shape);
                assert_eq!(added, planes);
                for (place, number) in planes.into_iter().enumerate() {
                    let (row, column) = (place / padded_width, place % padded_width);
                    let (channel, row) = (row / padded_height, row % padded_height);
                    let expected = if column < width && row < height {
                        let column = if mirrored { width - 1 - column } else { column };
                        let row = if upside_down { height - 1 - row } else { row };
                        let value = image.get_pixel(column as u32, row as u32)[channel];
                        (f32::from(value) - settings.mean[channel].as_f32())
                            / settings.std[channel].as_f32()
                    } else {
                        0.0
                    };
                    assert_eq!(number.to_bits(), expected.to_bits(), "{width}, {place}");
                }
            }
        }
    }
}
