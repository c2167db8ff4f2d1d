//! The pixels of a batch, as numbers that the host has computed or as bytes that a device makes numbers of.

use std::borrow::Cow;

use image::RgbImage;

use crate::Piece;
use crate::normalization::Normalizer;
use crate::pixels::Pixels;

/// How the pixels of a batch travel to a device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PixelForm {
    /// Normalised, mirrored and padded by the host: for a device that shares its memory.
    #[default]
    Numbers,
    /// As bytes where they are bytes, a quarter of that or less: for a device with kernels that do the rest.
    Bytes,
}

/// The pixels of images of one size.
#[derive(Clone, Debug, PartialEq)]
pub enum PixelData {
    /// Normalised: `[items, 3, height, width]`, row by row. Each image is in the top left corner; the rest is 0, which is
    /// the colour of the normalisation's mean.
    Numbers(Vec<f32>),
    /// What the numbers are computed from.
    Bytes(PixelBytes),
}

/// The pixels of images of one size before they are normalised, mirrored and padded.
#[derive(Clone, Debug, PartialEq)]
pub struct PixelBytes {
    /// The pixels of all pieces, row by row in RGB; each piece begins at a multiple of four.
    pub bytes: Vec<u8>,
    /// The pieces of which the images consist, image after image.
    pub pieces: Vec<PieceBytes>,
    /// How pixels become numbers.
    pub normalizer: Normalizer,
    /// How many images there are.
    pub items: usize,
    /// Height of the padded images, in pixels.
    pub height: usize,
    /// Width of the padded images, in pixels.
    pub width: usize,
}

/// The pixels of a [`Piece`].
#[derive(Clone, Debug, PartialEq)]
pub struct PieceBytes {
    /// The image that it is in.
    pub item: usize,
    /// The place of its first byte.
    pub start: usize,
    /// Where in the image it is, and how.
    pub piece: Piece,
}

impl Default for PixelData {
    fn default() -> Self {
        Self::Numbers(Vec::new())
    }
}

impl PixelData {
    /// The normalised pixels: `[items, 3, height, width]`.
    pub fn numbers(&self) -> Cow<'_, [f32]> {
        match self {
            Self::Numbers(numbers) => Cow::Borrowed(numbers),
            Self::Bytes(bytes) => Cow::Owned(bytes.numbers()),
        }
    }

    /// The normalised pixels, not copied where they are there: `[items, 3, height, width]`.
    pub fn into_numbers(self) -> Vec<f32> {
        match self {
            Self::Numbers(numbers) => numbers,
            Self::Bytes(bytes) => bytes.numbers(),
        }
    }
}

impl PixelBytes {
    /// The pieces of images, image after image; nothing if some of them are not bytes, or are pasted, which devices have no
    /// kernel for.
    pub(crate) fn of<'a>(
        images: impl ExactSizeIterator<Item = &'a [(Piece, Pixels)]>,
        normalizer: &Normalizer,
        (height, width): (usize, usize),
    ) -> Option<Self> {
        let items = images.len();
        let (mut bytes, mut pieces) = (Vec::new(), Vec::new());
        for (item, image) in images.enumerate() {
            for (piece, pixels) in image {
                let Pixels::Bytes(pixels) = pixels else {
                    return None;
                };
                if piece.pasted.is_some() {
                    return None;
                }
                pieces.push(PieceBytes {
                    item,
                    start: bytes.len(),
                    piece: piece.clone(),
                });
                bytes.extend_from_slice(pixels.as_raw());
                bytes.resize(bytes.len().next_multiple_of(4), 0);
            }
        }
        Some(Self {
            bytes,
            pieces,
            normalizer: normalizer.clone(),
            items,
            height,
            width,
        })
    }

    fn numbers(&self) -> Vec<f32> {
        let values = 3 * self.height * self.width;
        let mut numbers = vec![0.0; self.items * values];
        for PieceBytes { item, start, piece } in &self.pieces {
            let (width, height) = piece.size;
            let length = 3 * width as usize * height as usize;
            let pixels = self.bytes[*start..][..length].to_vec();
            if let Some(image) = RgbImage::from_raw(width, height, pixels) {
                self.normalizer.add(
                    piece,
                    &Pixels::Bytes(image),
                    &mut numbers[item * values..][..values],
                    (self.height, self.width),
                );
            }
        }
        numbers
    }
}
