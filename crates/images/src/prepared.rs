use std::sync::Arc;

use image::RgbImage;

use crate::pixels::Pixels;
use crate::resize::resize;
use crate::{Piece, PixelBytes, PixelData, PixelForm, Preparation, View};

/// Images of one size, ready for a device.
#[derive(Clone, Debug, PartialEq)]
pub struct Prepared {
    /// The pixels.
    pub pixels: PixelData,
    /// Height of the padded images, in pixels.
    pub height: usize,
    /// Width of the padded images, in pixels.
    pub width: usize,
    /// Width and height of each image, in pixels, without the padding.
    pub sizes: Vec<(u32, u32)>,
}

/// What a [`View`] shows, at its size and in its colours, on its way into a batch.
#[derive(Clone, Debug)]
pub struct Rendered {
    size: (u32, u32),
    pieces: Vec<(Piece, Pixels)>,
}

impl Prepared {
    /// Puts images together; pixels are in the form that was asked for where they can be.
    pub fn new(images: &[Rendered], preparation: &Preparation, form: PixelForm) -> Self {
        let sizes: Vec<_> = images.iter().map(|image| image.size).collect();
        let (height, width) = preparation.padded_size(sizes.iter().copied());
        let bytes = (form == PixelForm::Bytes)
            .then(|| {
                let images = images.iter().map(|image| image.pieces.as_slice());
                PixelBytes::of(images, &preparation.normalizer, (height, width))
            })
            .flatten();
        let numbers = || {
            let mut numbers = Vec::with_capacity(images.len() * 3 * height * width);
            for image in images {
                image.append(preparation, &mut numbers, (height, width));
            }
            numbers
        };
        Self {
            pixels: bytes.map_or_else(|| PixelData::Numbers(numbers()), PixelData::Bytes),
            height,
            width,
            sizes,
        }
    }
}

impl View {
    /// Resizes what is shown of each image and changes its colours. `decoded` gives the images by
    /// their [`Piece::image`], upright.
    ///
    /// # Errors
    ///
    /// Returns the error of `decoded`.
    ///
    /// # Panics
    ///
    /// Panics if a piece shows what is not in its image.
    pub fn render<E>(
        &self,
        preparation: &Preparation,
        decoded: impl Fn(usize) -> Result<Arc<RgbImage>, E>,
    ) -> Result<Rendered, E> {
        let interpolation = preparation.config().interpolation;
        let render = |piece: &Piece| {
            let image = decoded(piece.image)?;
            let pixels = resize(image, piece.source, piece.size, interpolation);
            let pixels = match piece.colors {
                Some(colors) => colors.apply(pixels),
                None => pixels,
            };
            Ok((piece.clone(), pixels))
        };
        Ok(Rendered {
            size: self.size,
            pieces: self.pieces.iter().map(render).collect::<Result<_, _>>()?,
        })
    }
}

impl Rendered {
    /// Appends the pixels to those of a batch; see [`PixelData::Numbers`].
    fn append(
        &self,
        preparation: &Preparation,
        pixels: &mut Vec<f32>,
        (height, width): (usize, usize),
    ) {
        let normalizer = &preparation.normalizer;
        if let [(piece, image)] = self.pieces.as_slice()
            && piece.corner == (0, 0)
            && piece.weight == 1.0
        {
            normalizer.append(piece, image, pixels, (height, width));
            return;
        }
        let start = pixels.len();
        pixels.resize(start + 3 * height * width, 0.0);
        for (piece, image) in &self.pieces {
            normalizer.add(piece, image, &mut pixels[start..], (height, width));
        }
    }
}
